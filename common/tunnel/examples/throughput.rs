//! Pumps bytes through two `Tunnels` in memory, for each carrier, and prints what one core does.
//!
//! `cargo run --release -p cardea-tunnel --example throughput [-- SECONDS [MTU]]`: no sockets, no relay; the
//! figures are bounds that a shell can only come closer to: payload of one flow, and how many flows
//! open, carry a byte each way, and close. Both count seconds of the processor, not of the wall, so
//! that a busy machine does not change them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    clippy::as_conversions,
    reason = "a measuring tool reads the clock and prints"
)]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests share it, and use more of it"
)]
#[path = "../tests/pair/keys.rs"]
mod keys;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cardea_proto::{
    access::InnerAddresses,
    app::{Carrier, Target},
    codec::{Blob, Bytes as Array, Secret32},
    id::GrantId,
    relay::{FrameKind, Handle, Side, TICKET_BYTES, Ticket},
    time::{Now, UnixMillis},
};
use cardea_tunnel::{
    CarrierKeys, Command, Egress, End, Event, FlowEvent, FlowId, Input, Install, Meeting, Outbox,
    Read, Tunnels, Via,
};

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok());
    let seconds = arguments.next().unwrap_or(2);
    let mtu = usize::try_from(arguments.next().unwrap_or(1_472)).unwrap();
    for carrier in [Carrier::WireGuard, Carrier::Quic] {
        let mut pair = Pair::open(carrier, mtu);
        let (bytes, took) = pair.bulk(Duration::from_secs(seconds));
        let bulk = bytes as f64 * 8.0 / took.as_secs_f64() / 1e9;
        let mut pair = Pair::open(carrier, mtu);
        let (flows, took) = pair.short_flows(Duration::from_secs(seconds));
        let rate = flows as f64 / took.as_secs_f64();
        println!(
            "{:<10} {bulk:6.2} Gbit/s {rate:9.0} flows/s",
            carrier.as_str()
        );
    }
}

struct Node {
    tunnels: Tunnels,
    out: Outbox,
    flows: Vec<FlowEvent>,
}

struct Pair {
    agent: Node,
    connector: Node,
    mtu: usize,
    wire: Vec<u8>,
    next_flow: u64,
}

impl Pair {
    fn open(carrier: Carrier, mtu: usize) -> Self {
        let (agent_keys, connector_keys) = match carrier {
            Carrier::WireGuard => keys::wireguard(1),
            Carrier::Quic => keys::quic(),
        };
        let node = |end, seed| Node {
            tunnels: Tunnels::new(end, [seed; 32]),
            out: Outbox::default(),
            flows: Vec::new(),
        };
        let mut pair = Self {
            agent: node(End::Agent, 1),
            connector: node(End::Connector, 2),
            mtu,
            wire: vec![0; 65_535],
            next_flow: 0,
        };
        pair.connector.install(End::Connector, connector_keys, mtu);
        pair.agent.install(End::Agent, agent_keys, mtu);
        while !pair
            .agent
            .out
            .events
            .contains(&Event::Opened { grant: GRANT })
        {
            pair.turn();
        }
        // Time for MTU discovery.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            pair.turn();
        }
        pair
    }

    /// A turn of both shells; says whether anything moved.
    fn turn(&mut self) -> bool {
        let Self {
            agent,
            connector,
            mtu,
            wire,
            ..
        } = self;
        let there = carry(agent, connector, End::Connector, (wire, *mtu));
        let back = carry(connector, agent, End::Agent, (wire, *mtu));
        there || back
    }

    fn connect(&mut self) -> FlowId {
        self.next_flow += 1;
        let flow = FlowId(1_000_000_000 + self.next_flow);
        let service = "h:80".parse::<Target>().unwrap().service;
        let input = Input::OpenFlow {
            flow,
            grant: GRANT,
            service,
        };
        self.agent.tunnels.handle(now(), input, &mut self.agent.out);
        flow
    }

    fn bulk(&mut self, duration: Duration) -> (usize, Duration) {
        let mine = self.connect();
        let mut theirs = None;
        let chunk = Bytes::from(vec![7; 64 * 1_024]);
        let (mut bytes, began, used) = (0, Instant::now(), processor());
        while began.elapsed() < duration {
            let at = now();
            for _ in 0..4 {
                if theirs.is_none() {
                    break;
                }
                self.agent
                    .tunnels
                    .write(at, mine, chunk.clone(), &mut self.agent.out);
            }
            self.turn();
            for event in self.connector.flows.drain(..) {
                if let FlowEvent::Dial { flow, .. } = event {
                    theirs = Some(flow);
                }
            }
            let Some(theirs) = theirs else { continue };
            let connector = &mut self.connector;
            while let Read::Data(data) =
                connector
                    .tunnels
                    .read(at, theirs, 256 * 1_024, &mut connector.out)
            {
                bytes += data.len();
            }
        }
        (bytes, processor().saturating_sub(used))
    }

    fn short_flows(&mut self, duration: Duration) -> (usize, Duration) {
        let (mut done, began, used) = (0, Instant::now(), processor());
        for _ in 0..AT_ONCE {
            self.connect();
        }
        while began.elapsed() < duration {
            self.turn();
            let closed = serve(&mut self.agent) + serve(&mut self.connector);
            done += closed;
            for _ in 0..closed {
                self.connect();
            }
        }
        (done, processor().saturating_sub(used))
    }
}

/// A shell that writes a byte, reads a byte, and ends; counts the flows that ended at the agent.
fn serve(node: &mut Node) -> usize {
    let (tunnels, out) = (&mut node.tunnels, &mut node.out);
    let mut closed = 0;
    for event in node.flows.drain(..) {
        match event {
            FlowEvent::Established { flow } | FlowEvent::Writable { flow } => {
                let taken = tunnels.write(now(), flow, Bytes::from_static(b"?"), out);
                if taken > 0 {
                    tunnels.handle(now(), Input::Finish { flow }, out);
                }
            }
            FlowEvent::Readable { flow } => {
                let is_server = flow.0 < 1_000_000_000;
                while let Read::Data(_) = tunnels.read(now(), flow, 1_024, out) {
                    if is_server {
                        tunnels.write(now(), flow, Bytes::from_static(b"!"), out);
                        tunnels.handle(now(), Input::Finish { flow }, out);
                    }
                }
            }
            FlowEvent::Closed { flow } => closed += usize::from(flow.0 >= 1_000_000_000),
            _ => {}
        }
    }
    closed
}

impl Node {
    fn install(&mut self, end: End, keys: CarrierKeys, mtu: usize) {
        let targets: Vec<Target> = vec!["10.9.0.10:80".parse().unwrap()];
        let install = Install {
            grant: GRANT,
            app: "wiki".parse().unwrap(),
            keys,
            ttl: Duration::from_secs(3_600),
            relay: vec![relay(mtu)],
            standby: Vec::new(),
            ticket: ticket(end),
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
        };
        let command = Command::Install(Box::new(install));
        self.tunnels
            .handle(now(), Input::Command(command), &mut self.out);
        let input = Input::Datagram {
            from: relay(mtu),
            via: Via::Relay,
            bytes: &handle(end).bound(),
        };
        self.tunnels.handle(now(), input, &mut self.out);
    }
}

/// Brings everything that `from` sends to `to`, as a relay would.
fn carry(from: &mut Node, to: &mut Node, end: End, (wire, mtu): (&mut [u8], usize)) -> bool {
    let at = now();
    if from.tunnels.deadline().is_some_and(|due| due <= at.instant) {
        from.tunnels.handle(at, Input::Timeout, &mut from.out);
    }
    from.tunnels.flush(at, &mut from.out);
    let moved = !from.out.transmits.is_empty();
    let header = handle(end).data_header();
    while let Some(transmit) = from.out.transmits.pop_front() {
        let (mut len, stride) = (0, transmit.segment.unwrap_or(transmit.bytes.len()));
        for datagram in transmit
            .datagrams()
            .filter(|datagram| datagram.len() <= mtu)
        {
            if datagram.first() != Some(&FrameKind::Data.byte()) {
                continue;
            }
            let room = wire.get_mut(len..len + datagram.len()).unwrap();
            room.copy_from_slice(datagram);
            room.get_mut(..8).unwrap().copy_from_slice(&header);
            len += datagram.len();
        }
        if len > 0 {
            let input = Input::Datagrams {
                from: relay(mtu),
                via: Via::Relay,
                stride,
                bytes: wire.get(..len).unwrap(),
            };
            to.tunnels.handle(at, input, &mut to.out);
        }
        from.out.recycle(transmit);
    }
    let events: Vec<FlowEvent> = to.out.flows.drain(..).collect();
    for event in events {
        if let FlowEvent::Dial { flow, .. } = event {
            let dialed = Input::Dialed {
                flow,
                result: Ok(()),
            };
            to.tunnels.handle(at, dialed, &mut to.out);
        }
        to.flows.push(event);
    }
    from.flows.extend(from.out.flows.drain(..));
    moved
}

fn ticket(end: End) -> Blob {
    let ticket = Ticket {
        tunnel: Array([3; 16]),
        side: match end {
            End::Agent => Side::Agent,
            End::Connector => Side::Connector,
        },
        handle: handle(end),
        not_after: UnixMillis(u64::MAX),
    };
    let mut signed = ticket.body().to_vec();
    signed.resize(TICKET_BYTES, 0);
    Blob(signed)
}

fn handle(end: End) -> Handle {
    Handle::from_bytes(match end {
        End::Agent => [0xa; 7],
        End::Connector => [0xc; 7],
    })
}

/// Time that this program has been on a processor.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.unwrap())
}

fn now() -> Now {
    Now {
        instant: Instant::now(),
        unix: UnixMillis(0),
    }
}

const GRANT: GrantId = GrantId::from_bytes([7; 10]);
/// Where the relay seems to be: on this machine, where any size passes, or on a network.
fn relay(mtu: usize) -> SocketAddr {
    let place: IpAddr = if mtu > 9_000 {
        [127, 0, 0, 1]
    } else {
        [203, 0, 113, 9]
    }
    .into();
    SocketAddr::new(place, 7_444)
}

/// Flows that are open at the same time.
const AT_ONCE: usize = 32;
