//! Datagrams at a node's sockets, from whoever sends there.
#![expect(clippy::expect_used, reason = "what is made here is made of constants")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
    time::Duration,
};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use cardea_credential::{
    testing::{TestDomain, TestNode},
    ticket::TicketKey,
    tls::{tunnel_client, tunnel_server},
};
use cardea_host::clock::Clock;
use cardea_proto::{
    access::{InnerAddresses, Standby},
    app::Target,
    codec::{Blob, Bytes, Secret32},
    id::{ConnectorId, DeviceId, GrantId},
    identity::Holder,
    relay::{DATA_HEADER_BYTES, Handle, Side, Ticket},
    time::{Now, UnixMillis, testing},
};
use cardea_tunnel::{
    CarrierKeys, Command, Egress, End, Input, Install, Meeting, Outbox, Tunnels, Via, keys,
};

/// The relay of all tunnels, and the one that stands by.
const RELAY: ([u8; 4], u16) = ([192, 0, 2, 1], 3478);
const STANDBY: ([u8; 4], u16) = ([192, 0, 2, 2], 3478);

/// Somebody else, and the relay's host at another port.
const STRANGER: ([u8; 4], u16) = ([198, 51, 100, 7], 4_000);
const BESIDE: ([u8; 4], u16) = ([192, 0, 2, 1], 3_479);

/// The tunnels over WireGuard and over QUIC.
const GRANTS: [GrantId; 2] = [GrantId::from_bytes([7; 10]), GrantId::from_bytes([8; 10])];

/// Time that passes at once, and how often it may: less than what ends a tunnel that does not open.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSES_MAX: usize = 20;

/// Bits of the byte before each datagram: where it comes from (two), that it comes to the socket for
/// direct paths, which handle replaces bytes 1 to 7 (three), and that time passes before.
const DIRECT: u8 = 1 << 2;
const LATER: u8 = 1 << 6;

/// Everything that a node receives on its sockets; the first byte says which end it is. Each datagram stands
/// behind such a byte and its length in two: none opens a tunnel, ends one, or has anything sent to
/// anybody but the relays.
pub(crate) fn datagrams(bytes: &[u8]) {
    let Some((first, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut node = Node::new(match first & 1 {
        0 => End::Agent,
        _ => End::Connector,
    });
    while let Some(([how, a, b], behind)) = rest.split_first_chunk::<3>() {
        let len = usize::from(u16::from_be_bytes([*a, *b])).min(behind.len());
        let (datagram, behind) = behind.split_at(len);
        rest = behind;
        if how & LATER != 0 {
            node.pause();
        }
        node.receive(*how, datagram);
    }
}

/// One end with a tunnel of each carrier, neither of which has opened.
struct Node {
    now: Now,
    tunnels: Tunnels,
    out: Outbox,
    /// As relays name it, and as the other end does on a direct path.
    bound: [Handle; 4],
    direct: [Handle; 2],
    pauses: usize,
}

impl Node {
    fn new(end: End) -> Self {
        let now = testing::start();
        let (side, to) = match end {
            End::Agent => (Side::Agent, b"connector to agent"),
            End::Connector => (Side::Connector, b"agent to connector"),
        };
        let mut node = Self {
            now,
            tunnels: Tunnels::new(end, [1; 32]),
            out: Outbox::default(),
            bound: [1, 2, 3, 4].map(|number| handle(side, number)),
            direct: [1, 2].map(|secret| direct_handle([secret; 32], to)),
            pauses: 0,
        };
        let own = vec![([10, 0, 0, 5], 5_000).into()];
        node.input(Input::Addresses(own));
        for (number, keys) in (1..).zip(carriers(end)) {
            let install = install(end, side, number, keys);
            node.input(Input::Command(Command::Install(Box::new(install))));
        }
        node.sent();
        assert!(node.out.is_empty(), "a tunnel that is not there");
        node
    }

    fn input(&mut self, input: Input<'_>) {
        self.tunnels.handle(self.now, input, &mut self.out);
    }

    /// What was sent since: whom to.
    fn sent(&mut self) -> BTreeSet<SocketAddr> {
        let sent = self.out.transmits.drain(..);
        sent.map(|transmit| transmit.to).collect()
    }

    fn pause(&mut self) {
        if self.pauses < PAUSES_MAX {
            self.pauses += 1;
            self.now = self.now.plus(PAUSE);
            self.input(Input::Timeout);
            self.is_as_it_was();
        }
    }

    fn receive(&mut self, how: u8, bytes: &[u8]) {
        let from = match how & 3 {
            0 => RELAY,
            1 => STANDBY,
            2 => STRANGER,
            _ => BESIDE,
        };
        let via = match how & DIRECT {
            0 => Via::Relay,
            _ => Via::Direct,
        };
        let mut bytes = bytes.to_vec();
        let known = self.bound.iter().chain(&self.direct);
        let named = known.copied().nth(usize::from(how >> 3 & 7));
        if let Some((handle, place)) = named.zip(bytes.get_mut(1..DATA_HEADER_BYTES)) {
            place.copy_from_slice(&handle.bytes());
        }
        self.input(Input::Datagram {
            from: from.into(),
            via,
            bytes: &bytes,
        });
        self.tunnels.flush(self.now, &mut self.out);
        let is_relay = [RELAY, STANDBY].contains(&from);
        let named = Handle::split_data(&bytes).map(|(handle, _)| handle);
        let is_direct = via == Via::Direct && named.is_some_and(|it| self.direct.contains(&it));
        if !is_relay && !is_direct {
            assert!(self.out.transmits.is_empty(), "a stranger is answered");
        }
        self.is_as_it_was();
    }

    /// Nothing was sent but to relays, nothing has happened, and the same tunnels wait.
    fn is_as_it_was(&mut self) {
        let relays = BTreeSet::from([RELAY, STANDBY].map(SocketAddr::from));
        let sent = self.sent();
        assert!(sent.is_subset(&relays), "sent to {sent:?}");
        assert!(self.out.is_empty(), "{:?}", self.out);
        let grants: Vec<GrantId> = self.tunnels.grants().collect();
        assert_eq!(grants, GRANTS);
        for grant in grants {
            let stats = self.tunnels.stats(grant);
            assert!(stats.is_some_and(|stats| !stats.open && stats.flows == 0));
        }
    }
}

fn handle(side: Side, number: u8) -> Handle {
    let side = match side {
        Side::Agent => 1,
        Side::Connector => 2,
    };
    Handle::from_bytes([side, number, 0, 0, 0, 0, 0])
}

/// What the other end names this one by on a direct path: the tunnel's own derivation, from the outside.
fn direct_handle(secret: [u8; 32], to: &[u8]) -> Handle {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            39
        }
    }
    let secret = Salt::new(HKDF_SHA256, b"cardea path v1\0").extract(&secret);
    let mut bytes = [0; 39];
    secret
        .expand(&[to], Length)
        .and_then(|okm| okm.fill(&mut bytes))
        .expect("that many bytes");
    Handle::from_bytes(*bytes.last_chunk().expect("more than seven bytes"))
}

fn ticket(side: Side, number: u8) -> Blob {
    static KEY: LazyLock<TicketKey> =
        LazyLock::new(|| TicketKey::from_seed(&[7; 32]).expect("a key"));
    let ticket = Ticket {
        tunnel: Bytes([number; 16]),
        side,
        handle: handle(side, number),
        not_after: UnixMillis(u64::MAX),
    };
    KEY.sign(&ticket).expect("a signature").to_vec().into()
}

fn install(end: End, side: Side, number: u8, (grant, keys): (GrantId, CarrierKeys)) -> Install {
    let target: Target = "10.9.0.10:80/tcp".parse().expect("a target");
    Install {
        grant,
        app: "wiki".parse().expect("a name"),
        keys,
        ttl: Duration::from_secs(300),
        relay: vec![RELAY.into()],
        ticket: ticket(side, number),
        standby: vec![Standby {
            relay: vec![STANDBY.into()],
            ticket: ticket(side, number + 2),
        }],
        services: vec![target.service],
        inner: InnerAddresses {
            device_v4: [100, 64, 0, 1].into(),
            device_v6: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
            app_v4: [100, 65, 0, number].into(),
            app_v6: [0xfd00, 0, 0, 0, 0, 1, 0, number.into()].into(),
        },
        meeting: Meeting {
            secret: Secret32([number; 32]),
            peer: Vec::new(),
            never: vec![IpAddr::from([192, 0, 2, 9])],
        },
        egress: (end == End::Connector).then_some(Egress {
            targets: vec![target],
            host_scoped: false,
            never: Vec::new(),
        }),
    }
}

/// The keys of both tunnels at one end.
fn carriers(end: End) -> [(GrantId, CarrierKeys); 2] {
    static NODES: LazyLock<(TestDomain, TestNode, TestNode)> = LazyLock::new(|| {
        let now = Clock::system().now().unix;
        let domain = TestDomain::new("corp.example", now);
        let device = domain.node(Holder::Device(DeviceId::from_bytes([1; 10])), now);
        let connector = domain.node(Holder::Connector(ConnectorId::from_bytes([2; 10])), now);
        (domain, device, connector)
    });
    let (domain, device, connector) = &*NODES;
    let (own, other) = match end {
        End::Agent => (device, connector),
        End::Connector => (connector, device),
    };
    let (trust, signer) = (domain.trust.clone(), own.signer.clone());
    let (peer, time) = (other.peer(), std::sync::Arc::new(Clock::system()));
    let quic = match end {
        End::Agent => CarrierKeys::QuicClient(tunnel_client(trust, &own.chain, signer, peer, time)),
        End::Connector => {
            CarrierKeys::QuicServer(tunnel_server(trust, &own.chain, signer, peer, time))
        }
    };
    let ends = [1, 2].map(|seed| keys::WireGuardKey::generate([seed; 32]));
    let [agent, connector] = ends;
    let (own, other) = match end {
        End::Agent => (agent, connector),
        End::Connector => (connector, agent),
    };
    let wireguard = CarrierKeys::WireGuard {
        private: own.private,
        peer: other.public,
        psk: Secret32([3; 32]),
    };
    let [first, second] = GRANTS;
    [(first, wireguard), (second, quic)]
}

#[cfg(test)]
mod tests {
    use cardea_tunnel::DropReason;

    use super::*;

    #[test]
    fn every_handle_is_one_that_the_end_answers_to() {
        for end in [End::Agent, End::Connector] {
            for (how, via) in [(0, 0), (1, 0), (2, 0), (3, 0), (4, DIRECT), (5, DIRECT)] {
                let mut node = Node::new(end);
                let from = u8::from(how == 2 || how == 3);
                node.receive(
                    from | how << 3 | via,
                    &[0x32, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0],
                );
                let drops = node.tunnels.drops();
                assert_eq!(drops.count(DropReason::NotAuthentic), 1, "{how}: {drops:?}");
            }
        }
    }
}
