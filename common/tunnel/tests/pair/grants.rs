//! What the control halves would send the two ends about a tunnel, and the tickets that a relay is shown.

use cardea_proto::{
    access::{InnerAddresses, Standby},
    app::Target,
    codec::{Blob, Bytes as Array, Secret32},
    relay::{Handle, Side, TICKET_BYTES, Ticket},
    time::UnixMillis,
};
use cardea_tunnel::{CarrierKeys, Egress, End, Install, Meeting};

use super::{GRANT, OTHER, OTHER_GRANT, TTL};

pub const RELAY: &str = "203.0.113.9:7444";
pub const STANDBY: [&str; 2] = ["198.51.100.9:7444", "192.0.2.9:7444"];
pub const RELAY_V6: &str = "[2001:db8::9]:7444";

/// What the control half would send.
pub fn install(end: End, keys: CarrierKeys) -> Install {
    let targets: Vec<Target> = ["10.9.0.10:80/tcp", "10.9.0.10:5432/tcp", "10.9.0.10:53/udp"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    Install {
        grant: GRANT,
        app: "wiki".parse().unwrap(),
        keys,
        ttl: TTL,
        relay: [RELAY, RELAY_V6].map(|at| at.parse().unwrap()).to_vec(),
        ticket: ticket(end),
        standby: Vec::new(),
        services: targets.iter().map(|target| target.service).collect(),
        inner: InnerAddresses {
            device_v4: [100, 64, 0, 1].into(),
            device_v6: "fd00::1".parse().unwrap(),
            app_v4: [100, 65, 0, 1].into(),
            app_v6: "fd00::a".parse().unwrap(),
        },
        meeting: Meeting {
            secret: Secret32([9; 32]),
            peer: Vec::new(),
            never: Vec::new(),
        },
        egress: (end == End::Connector).then_some(Egress {
            targets,
            host_scoped: false,
            never: Vec::new(),
        }),
    }
}

/// The same for another tunnel of this connector.
pub fn install_other(end: End, keys: CarrierKeys) -> Install {
    let mut install = install(end, keys);
    install.grant = OTHER_GRANT;
    install.ticket = ticket_at(OTHER, end);
    install.meeting.secret = Secret32([8; 32]);
    install.inner.device_v4 = [100, 64, 0, 2].into();
    install.inner.device_v6 = "fd00::2".parse().unwrap();
    install
}

/// Where the relays are that stand by, and this end's tickets for them.
pub fn standby(end: End) -> Vec<Standby> {
    let standby = STANDBY.iter().zip(1..);
    standby
        .map(|(relay, rank)| Standby {
            relay: vec![relay.parse().unwrap()],
            ticket: ticket_at(rank, end),
        })
        .collect()
}

pub fn ticket(end: End) -> Blob {
    ticket_at(0, end)
}

pub fn ticket_at(rank: u8, end: End) -> Blob {
    let ticket = Ticket {
        tunnel: Array([3 + rank; 16]),
        side: match end {
            End::Agent => Side::Agent,
            End::Connector => Side::Connector,
        },
        handle: handle_at(rank, end),
        not_after: UnixMillis(u64::MAX),
    };
    let mut signed = ticket.body().to_vec();
    signed.extend_from_slice(&[0; 64]);
    Blob(signed)
}

pub fn ticket_of(bytes: &[u8]) -> Ticket {
    assert_eq!(bytes.len(), TICKET_BYTES);
    Ticket::from_body(bytes.first_chunk().unwrap()).unwrap()
}

pub fn handle(end: End) -> Handle {
    handle_at(0, end)
}

pub fn handle_at(rank: u8, end: End) -> Handle {
    Handle::from_bytes(match end {
        End::Agent => [0xa + 0x10 * rank; 7],
        End::Connector => [0xc + 0x10 * rank; 7],
    })
}
