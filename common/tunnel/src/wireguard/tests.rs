//! A villain who has the keys: inner packets that no honest stack would send.

use std::{collections::VecDeque, time::Duration};

use cardea_proto::{
    access::InnerAddresses,
    app::{Service, Target},
    codec::Bytes as Array,
    id::GrantId,
    relay::{Handle, Side, TICKET_BYTES, Ticket},
    time::{Now, UnixMillis, testing},
};
use proptest::prelude::*;

use super::*;
use crate::{
    command::Family,
    context::{FlowTable, Shared, Traffic},
    drops::Drops,
    egress::Egress,
    filter::Filter,
    inner::packet::{self, Body},
    keys,
    link::{Link, Meeting},
    outbox::{FlowEvent, Outbox},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_segments_of_a_peer_make_the_stack_panic(segments in prop::collection::vec(segment(), 1..40)) {
        let mut villain = Ends::open();
        villain.send(&tcp(&Segment { flags: 2, ..Segment::default() }));
        for (count, segment) in segments.iter().enumerate() {
            villain.send(&tcp(segment));
            if count % 3 == 0 {
                villain.use_flows();
            }
            villain.pass(Duration::from_millis(segment.pause));
        }
        prop_assert!(villain.connector.traffic.flows <= 2);
    }
}

#[test]
fn what_is_no_part_of_a_flow_is_dropped_and_counted() {
    let honest = honest();
    check(with(&honest, 6, 0x20), DropReason::Fragmented);
    // The tail of a datagram that would lie over its head.
    check(with(&honest, 7, 0x01), DropReason::Fragmented);
    check(with(&honest, 7, 0x10), DropReason::Fragmented);
    // An ICMP error could quote a flow that is not this tunnel's.
    check(with(&honest, 9, 1), DropReason::WrongProtocol);
    check(with(&honest, 9, 47), DropReason::WrongProtocol);
    check(with(&honest, 15, 99), DropReason::SpoofedSource);
    check(with(&honest, 19, 99), DropReason::WrongDestination);
    check(with(&honest, 23, 81), DropReason::WrongService);
    check(with(&honest, 32, 0xf0), DropReason::Malformed);
    // A header of 24 bytes: options, a source route among them perhaps.
    check(with(&honest, 0, 0x46), DropReason::Options);
    check(with(&honest, 3, 41), DropReason::Malformed);
    for kind in [3, 5, 11, 12] {
        check(icmp(kind, &honest), DropReason::WrongProtocol);
    }
    check(icmp(0, &[]), DropReason::WrongProtocol);
}

#[test]
fn a_segment_of_no_flow_is_dropped_where_flows_end_and_the_kernels_business_elsewhere() {
    let late = with(&honest(), 33, 0x10);
    let mut flows = Ends::open();
    flows.send(&late);
    assert_eq!(
        flows.connector.shared.drops.count(DropReason::UnknownFlow),
        1
    );
    let mut kernel = Ends::open();
    kernel.connector.filter.set_stacked(true, true);
    kernel.send(&late);
    assert_eq!(kernel.connector.out.packets.iter().count(), 1);
    kernel.connector.filter.set_stacked(false, true);
    kernel.send(&late);
    assert_eq!(
        kernel.connector.out.packets.iter().count(),
        1,
        "IPv4 has flows"
    );
}

#[test]
fn an_echo_is_answered_for_the_app_or_goes_to_the_network_stack() {
    let asks = icmp(8, b"12345678");
    let mut flows = Ends::open();
    flows.send(&asks);
    assert_eq!(flows.connector.shared.drops.total(), 0);
    let answer = Packet::parse(&flows.heard).unwrap();
    assert_eq!(answer.body, Body::Echo { asks: false });
    assert_eq!(flows.heard[12..16], asks[16..20]);
    assert_eq!(flows.heard[24..], asks[24..]);
    let mut kernel = Ends::open();
    kernel.connector.filter.set_stacked(true, true);
    kernel.send(&asks);
    assert_eq!(kernel.connector.out.packets.iter().count(), 1);
}

/// Neither flows nor a network stack hear of it.
fn check(packet: Vec<u8>, reason: DropReason) {
    for stacked in [false, true] {
        let mut villain = Ends::open();
        villain.connector.filter.set_stacked(stacked, stacked);
        villain.send(&packet);
        villain.pass(Duration::from_secs(1));
        assert_eq!(
            villain.connector.shared.drops.count(reason),
            1,
            "{reason:?}, {stacked}"
        );
        assert_eq!(villain.connector.traffic, Traffic::default());
        assert!(villain.connector.out.packets.is_empty());
    }
}

/// A segment that begins a conversation.
fn honest() -> Vec<u8> {
    tcp(&Segment {
        flags: 2,
        ..Segment::default()
    })
}

/// An ICMP message from the granted address to the app's.
fn icmp(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = honest();
    packet.truncate(20);
    let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 2];
    message.extend_from_slice(rest);
    let made = !packet::fold(packet::sum(0, &message));
    message[2..4].copy_from_slice(&made.to_be_bytes());
    packet.extend(message);
    let total = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    with(&packet, 9, 1)
}

/// A TCP segment of the villain, relative to what a first one would have.
#[derive(Clone, Debug, Default)]
struct Segment {
    flags: u8,
    sequence: u32,
    acknowledgment: u32,
    window: u16,
    payload: usize,
    options: Vec<u8>,
    pause: u64,
}

fn segment() -> impl Strategy<Value = Segment> {
    let near = || prop_oneof![-3_i32..4, -70_000_i32..70_000, any::<i32>()];
    (
        any::<u8>(),
        near(),
        near(),
        prop_oneof![0_u16..3, any::<u16>()],
        prop_oneof![Just(0_usize), 0_usize..1_300],
        prop::collection::vec(prop_oneof![0_u8..9, any::<u8>()], 0..10),
        prop_oneof![Just(0_u64), 0_u64..3_000],
    )
        .prop_map(
            |(flags, sequence, acknowledgment, window, payload, words, pause)| Segment {
                flags: flags & 0x3f,
                sequence: sequence.cast_unsigned(),
                acknowledgment: acknowledgment.cast_unsigned(),
                window,
                payload,
                options: words.iter().flat_map(|word| [*word, 3, *word, 1]).collect(),
                pause,
            },
        )
}

fn tcp(segment: &Segment) -> Vec<u8> {
    let header = 20 + segment.options.len();
    let total = u16::try_from(20 + header + segment.payload).unwrap();
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 100, 64, 0, 1, 100, 65, 0, 1,
    ];
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&[0x80, 0, 0, 80]);
    packet.extend_from_slice(&1_000_u32.wrapping_add(segment.sequence).to_be_bytes());
    packet.extend_from_slice(&segment.acknowledgment.to_be_bytes());
    packet.push(u8::try_from(header / 4).unwrap() << 4);
    packet.push(segment.flags);
    packet.extend_from_slice(&segment.window.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&segment.options);
    packet.resize(usize::from(total), 7);
    with(&packet, 0, 0x45)
}

/// The packet with one byte changed, and the header's checksum right.
fn with(packet: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at] = value;
    packet[10..12].fill(0);
    let words = packet[..20].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// Both ends with an open session, the villain's without a stack.
struct Ends {
    now: Now,
    villain: OneEnd,
    connector: OneEnd,
    flows: Vec<FlowId>,
    /// The acknowledgment number that would be right.
    expected: u32,
    /// The last packet that came back.
    heard: Vec<u8>,
}

struct OneEnd {
    filter: Filter,
    link: Link,
    traffic: Traffic,
    shared: Shared,
    out: Outbox,
    carrier: Option<WireGuard>,
}

impl Ends {
    fn open() -> Self {
        let now = testing::start();
        let (a, b) = (
            keys::WireGuardKey::generate([1; 32]),
            keys::WireGuardKey::generate([2; 32]),
        );
        let psk = Secret32([3; 32]);
        let mut ends = Self {
            now,
            villain: OneEnd::new(now, End::Agent),
            connector: OneEnd::new(now, End::Connector),
            flows: Vec::new(),
            expected: 0,
            heard: Vec::new(),
        };
        ends.connector.start(now, &b.private, a.public, &psk);
        ends.villain.start(now, &a.private, b.public, &psk);
        for _ in 0..4 {
            ends.exchange();
        }
        assert_eq!(
            ends.connector.carrier.as_ref().unwrap().phase(),
            Phase::Open
        );
        ends
    }

    /// Seals what the villain's own stack never would; its acknowledgment counts from the right one.
    fn send(&mut self, packet: &[u8]) {
        let mut packet = packet.to_vec();
        if packet[9] == 6 {
            let relative = u32::from_be_bytes(packet[28..32].try_into().unwrap());
            let absolute = self.expected.wrapping_add(relative);
            packet[28..32].copy_from_slice(&absolute.to_be_bytes());
        }
        let now = self.now;
        self.villain.with(now, |carrier, context| {
            carrier.sealer(context).send(&packet)
        });
        self.exchange();
    }

    fn pass(&mut self, duration: Duration) {
        self.now = self.now.plus(duration);
        let now = self.now;
        self.connector.with(now, WireGuard::timeout);
        self.exchange();
    }

    /// What a shell does with flows that are open.
    fn use_flows(&mut self) {
        let now = self.now;
        for flow in self.flows.clone() {
            self.connector.with(now, |carrier, context| {
                carrier.write(context, flow, Bytes::from(vec![1; 5_000]));
                carrier.read(context, flow, 1_000);
            });
        }
    }

    fn exchange(&mut self) {
        let now = self.now;
        for datagram in self.villain.take(now) {
            self.connector
                .with(now, |carrier, context| carrier.datagram(context, &datagram));
        }
        for datagram in self.connector.take(now) {
            // Sealed for the villain; what matters is where the connector's numbers begin.
            let mut room = vec![0; 70_000];
            let carrier = self.villain.carrier.as_mut().unwrap();
            match carrier.noise.open(now, &datagram, &mut room) {
                Opened::Packet(packet) if packet[9] != 6 => self.heard = packet.to_vec(),
                Opened::Packet(packet) if packet[33] & 2 != 0 => {
                    let sequence = u32::from_be_bytes(packet[24..28].try_into().unwrap());
                    self.expected = sequence.wrapping_add(1);
                }
                Opened::Answered { confirm } => {
                    let confirm = confirm.to_vec();
                    self.villain.with(now, |carrier, context| {
                        carrier.session.established(now.instant);
                        carrier.sealer(context).send_bare(&confirm);
                    });
                }
                Opened::Packet(_)
                | Opened::KeepAlive
                | Opened::Handshake { .. }
                | Opened::Nothing => {}
            }
        }
        for event in std::mem::take(&mut self.connector.out.flows) {
            if let FlowEvent::Dial { flow, .. } = event {
                self.flows.push(flow);
                self.connector.with(now, |carrier, context| {
                    carrier.dialed(context, flow, Ok(()))
                });
            }
        }
    }
}

impl OneEnd {
    fn new(now: Now, end: End) -> Self {
        let targets: Vec<Target> = vec!["10.9.0.10:80".parse().unwrap()];
        let services: Vec<Service> = targets.iter().map(|target| target.service).collect();
        let inner = InnerAddresses {
            device_v4: [100, 64, 0, 1].into(),
            device_v6: "fd00::1".parse().unwrap(),
            app_v4: [100, 65, 0, 1].into(),
            app_v6: "fd00::a".parse().unwrap(),
        };
        let egress = Some(Egress {
            targets,
            host_scoped: false,
            never: Vec::new(),
        });
        let ticket = Ticket {
            tunnel: Array([3; 16]),
            side: Side::Agent,
            handle: Handle::from_bytes([9; 7]),
            not_after: UnixMillis(0),
        };
        let mut signed = ticket.body().to_vec();
        signed.resize(TICKET_BYTES, 0);
        let meeting = Meeting {
            secret: Secret32([9; 32]),
            peer: Vec::new(),
            never: Vec::new(),
        };
        let way = (&["192.0.2.1:1".parse().unwrap()][..], signed.as_slice());
        let mut link = Link::new(now.instant, end, (way, &[]), meeting, inner).unwrap();
        link.bound(now.instant, ticket.handle, &mut Outbox::default());
        Self {
            filter: Filter::new(end, services, inner, egress, Family::V4),
            link,
            traffic: Traffic::default(),
            shared: Shared {
                flows: FlowTable::default(),
                drops: Drops::default(),
                addresses: None,
                controllers: VecDeque::new(),
                edge: crate::command::Edge::default(),
                built: vec![0; 65_535],
            },
            out: Outbox::default(),
            carrier: None,
        }
    }

    fn start(&mut self, now: Now, private: &Secret32, peer: Array<32>, psk: &Secret32) {
        let mut context = self.context(now);
        let carrier = WireGuard::new(&mut context, private, peer, psk, [1; 32]);
        self.carrier = Some(carrier);
    }

    fn context(&mut self, now: Now) -> Context<'_> {
        Context {
            now,
            grant: GrantId::from_bytes([1; 10]),
            filter: &mut self.filter,
            link: &mut self.link,
            traffic: &mut self.traffic,
            shared: &mut self.shared,
            out: &mut self.out,
        }
    }

    fn with<R>(&mut self, now: Now, call: impl FnOnce(&mut WireGuard, &mut Context<'_>) -> R) -> R {
        let mut carrier = self.carrier.take().unwrap();
        let result = call(&mut carrier, &mut self.context(now));
        self.carrier = Some(carrier);
        result
    }

    /// What it sends, without the relay's header.
    fn take(&mut self, now: Now) -> Vec<Vec<u8>> {
        self.with(now, WireGuard::flush);
        let transmits: VecDeque<_> = std::mem::take(&mut self.out.transmits);
        transmits
            .iter()
            .flat_map(|transmit| transmit.datagrams())
            .filter_map(|datagram| Some(Handle::split_data(datagram)?.1.to_vec()))
            .collect()
    }
}
