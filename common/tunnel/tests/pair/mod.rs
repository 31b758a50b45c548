//! Two `Tunnels` back to back, with a relay and a bad network between them, on a virtual clock.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::wildcard_enum_match_arm,
    reason = "each test file uses its part of this, and looks for one event among many"
)]

pub mod grants;
pub mod insider;
pub mod kernel;
pub mod keys;
pub mod nat;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cardea_proto::{
    app::{Carrier, Target},
    id::GrantId,
    relay::{COOKIE_BYTES, Cookie, FrameKind, Handle},
    time::{Now, testing},
};
use cardea_tunnel::{
    CarrierKeys, Command, DialError, End, Event, FlowEvent, FlowId, Input, Outbox, Path,
    PathReason, Read, ResetReason, Tunnels, Via,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

pub use grants::*;
use nat::{Kind, Nat};

pub const GRANT: GrantId = GrantId::from_bytes([7; 10]);
pub const OTHER_GRANT: GrantId = GrantId::from_bytes([8; 10]);
/// The rank of its handles, behind the first tunnel's relay and those that stand by for it.
pub const OTHER: u8 = 3;
pub const TTL: Duration = Duration::from_secs(300);
pub const CARRIERS: [Carrier; 2] = [Carrier::WireGuard, Carrier::Quic];

/// One end and what its shell would have seen.
pub struct Node {
    pub tunnels: Tunnels,
    pub out: Outbox,
    pub events: Vec<Event>,
    pub flows: Vec<FlowEvent>,
    /// Everything that it sent directly, but to the relay: when, where to, and how long.
    pub direct: Vec<(Instant, SocketAddr, usize)>,
}

/// Both ends, and everything between them.
pub struct Pair {
    pub now: Now,
    pub agent: Node,
    pub connector: Node,
    /// What the connector's shell says to a dial.
    pub dial: Result<(), DialError>,
    /// Lost datagrams of a thousand.
    pub loss: u32,
    pub delay: Duration,
    /// The same of the relay's own answers, as far as they take another time.
    pub bind_delay: Option<Duration>,
    /// Added at random, so that datagrams overtake each other.
    pub jitter: Duration,
    /// Largest datagram that arrives.
    pub mtu: usize,
    /// Whether nothing passes through the relay.
    pub is_cut: bool,
    pub carried: u64,
    /// Tickets that were shown to relays.
    pub binds: u64,
    /// The way that leads past the relay, when the ends have sockets for it.
    pub beside: Option<Beside>,
    /// Whether a damaged copy, and the same again, follow each datagram.
    pub damage: bool,
    /// Addresses of the relay that an end does not reach, the agent where `true`.
    pub unreached: BTreeSet<(bool, SocketAddr)>,
    /// An end whose machine sleeps: it hears nothing, and no timer of it runs.
    pub asleep: Option<End>,
    /// Timers that were due at each end, the agent's first.
    pub timeouts: [u32; 2],
    /// What somebody on every path has seen, when there is one.
    pub captured: Option<Vec<Captured>>,
    /// Relays that answer tickets and forward nothing.
    pub lying: BTreeSet<SocketAddr>,
    /// Whether the relay also hands each tunnel what belongs to the other one, and that first.
    pub swaps: bool,
    /// Who is bound, and by which address of the relay.
    bound: BTreeMap<Handle, SocketAddr>,
    /// What an end must give back to the relay; another one after each loss of the bindings.
    cookie: Cookie,
    random: ChaCha20Rng,
    queue: BTreeMap<(Instant, u64), Flying>,
    sequence: u64,
    next_flow: u64,
}

impl Pair {
    /// A clean path, with a tunnel of `carrier` to an app that has 80/tcp, 5432/tcp and 53/udp.
    pub fn new(carrier: Carrier) -> Self {
        let mut pair = Self::bare();
        let keys = match carrier {
            Carrier::WireGuard => keys::wireguard(1),
            Carrier::Quic => keys::quic(),
        };
        pair.install(keys);
        pair
    }

    /// The same with two relays that stand by.
    pub fn with_standby(carrier: Carrier) -> Self {
        let mut pair = Self::bare();
        let keys = match carrier {
            Carrier::WireGuard => keys::wireguard(1),
            Carrier::Quic => keys::quic(),
        };
        for (end, keys) in [(End::Connector, keys.1), (End::Agent, keys.0)] {
            let mut install = install(end, keys);
            install.standby = standby(end);
            pair.command(end, Command::Install(Box::new(install)));
        }
        pair
    }

    /// Both ends without a tunnel.
    pub fn bare() -> Self {
        let node = |end, port| Node {
            tunnels: Tunnels::new(end, [port; 32]),
            out: Outbox::default(),
            events: Vec::new(),
            flows: Vec::new(),
            direct: Vec::new(),
        };
        Self {
            now: testing::start(),
            agent: node(End::Agent, 1),
            connector: node(End::Connector, 2),
            dial: Ok(()),
            loss: 0,
            delay: Duration::from_millis(10),
            bind_delay: None,
            jitter: Duration::ZERO,
            mtu: 1_472,
            is_cut: false,
            carried: 0,
            binds: 0,
            beside: None,
            damage: false,
            unreached: BTreeSet::new(),
            asleep: None,
            timeouts: [0; 2],
            captured: None,
            lying: BTreeSet::new(),
            swaps: false,
            bound: BTreeMap::new(),
            cookie: Cookie([0; COOKIE_BYTES]),
            random: ChaCha20Rng::from_seed([5; 32]),
            queue: BTreeMap::new(),
            sequence: 0,
            next_flow: 0,
        }
    }

    /// The tunnel at both ends.
    pub fn install(&mut self, keys: (CarrierKeys, CarrierKeys)) {
        self.command(
            End::Connector,
            Command::Install(Box::new(install(End::Connector, keys.1))),
        );
        self.command(
            End::Agent,
            Command::Install(Box::new(install(End::Agent, keys.0))),
        );
    }

    pub fn command(&mut self, end: End, command: Command) {
        self.input(end, Input::Command(command));
    }

    pub fn input(&mut self, end: End, input: Input<'_>) {
        let now = self.now;
        let node = self.node(end);
        node.tunnels.handle(now, input, &mut node.out);
        self.flush(end);
    }

    pub fn node(&mut self, end: End) -> &mut Node {
        match end {
            End::Agent => &mut self.agent,
            End::Connector => &mut self.connector,
        }
    }

    /// Opens a flow at the agent.
    pub fn open(&mut self, service: &str) -> FlowId {
        self.open_in(GRANT, service)
    }

    pub fn open_in(&mut self, grant: GrantId, service: &str) -> FlowId {
        self.next_flow += 1;
        let flow = FlowId(1_000_000 + self.next_flow);
        let service = format!("host:{service}").parse::<Target>().unwrap().service;
        self.input(
            End::Agent,
            Input::OpenFlow {
                flow,
                grant,
                service,
            },
        );
        flow
    }

    /// Opens a TCP flow and waits until both shells have it.
    pub fn connect(&mut self, service: &str) -> (FlowId, FlowId) {
        self.connect_in(GRANT, service)
    }

    pub fn connect_in(&mut self, grant: GrantId, service: &str) -> (FlowId, FlowId) {
        let mine = self.open_in(grant, service);
        let before = self.dials().len();
        assert!(self.run(Duration::from_secs(30), |pair| pair.agent.established(mine)));
        (mine, self.dials()[before])
    }

    /// Flows that the connector was asked to dial.
    pub fn dials(&self) -> Vec<FlowId> {
        let dials = self.connector.flows.iter();
        dials
            .filter_map(|event| match event {
                FlowEvent::Dial { flow, .. } => Some(*flow),
                _ => None,
            })
            .collect()
    }

    /// Takes bytes from `end` and brings them to the other, which reads them; says what came.
    pub fn transfer(&mut self, end: End, from: FlowId, to: FlowId, data: &[u8]) -> Vec<u8> {
        let mut rest = Bytes::copy_from_slice(data);
        let mut came = Vec::new();
        let limit = self.now.instant + Duration::from_secs(600);
        while came.len() < data.len() && self.now.instant < limit {
            let now = self.now;
            if !rest.is_empty() {
                let node = self.node(end);
                let taken = node.tunnels.write(now, from, rest.clone(), &mut node.out);
                let _written = rest.split_to(taken);
            }
            self.flush(end);
            let reader = other(end);
            came.extend(self.read_all(reader, to).0);
            self.step();
        }
        came
    }

    /// Everything that can be read at the moment, and how it ended.
    pub fn read_all(&mut self, end: End, flow: FlowId) -> (Vec<u8>, Read) {
        let now = self.now;
        let node = self.node(end);
        let mut came = Vec::new();
        let last = loop {
            match node.tunnels.read(now, flow, 64 * 1024, &mut node.out) {
                Read::Data(bytes) => came.extend_from_slice(&bytes),
                last => break last,
            }
        };
        self.flush(end);
        (came, last)
    }

    /// Runs until `done`, or for `patience`; says whether it was done.
    pub fn run(&mut self, patience: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let limit = self.now.instant + patience;
        while !done(self) {
            if !self.step_until(limit) {
                return done(self);
            }
        }
        true
    }

    /// Lets `duration` pass.
    pub fn pass(&mut self, duration: Duration) {
        let limit = self.now.instant + duration;
        while self.step_until(limit) {}
    }

    fn step(&mut self) {
        let limit = self.now.instant + Duration::from_secs(3_600);
        self.step_until(limit);
    }

    /// Goes to the next thing that happens, unless it is after `limit`.
    pub fn step_until(&mut self, limit: Instant) -> bool {
        let awake = [End::Agent, End::Connector].map(|end| Some(end) != self.asleep);
        let deadlines = [
            self.agent.tunnels.deadline().filter(|_| awake[0]),
            self.connector.tunnels.deadline().filter(|_| awake[1]),
        ];
        let arrival = self.queue.first_key_value().map(|((at, _), _)| *at);
        let next = deadlines.into_iter().flatten().chain(arrival).min();
        let at = next.unwrap_or(limit).max(self.now.instant);
        if at > limit {
            let rest = limit - self.now.instant;
            self.now = self.now.plus(rest);
            return false;
        }
        let passed = at - self.now.instant;
        self.now = self.now.plus(passed);
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > at {
                break;
            }
            let flying = entry.remove();
            let together = self.take_like(&flying, at);
            if self.asleep != Some(flying.to) {
                self.deliver_together(&flying, &together);
            }
        }
        for end in [End::Agent, End::Connector] {
            if self.asleep == Some(end) {
                continue;
            }
            self.flush(end);
            if self
                .node(end)
                .tunnels
                .deadline()
                .is_some_and(|due| due <= at)
            {
                self.timeouts[usize::from(end == End::Connector)] += 1;
                self.input(end, Input::Timeout);
            }
        }
        next.is_some()
    }

    /// Takes what a kernel would hand over with `first` (UDP GRO): from the same sender what is as long,
    /// and one that is shorter.
    fn take_like(&mut self, first: &Flying, at: Instant) -> Vec<u8> {
        let mut bytes = first.datagram.clone();
        let stride = bytes.len();
        while let Some(entry) = self.queue.first_entry() {
            let next = entry.get();
            let is_like = (next.to, next.from, next.via) == (first.to, first.from, first.via);
            let fits = (1..=stride).contains(&next.datagram.len())
                && bytes.len() + next.datagram.len() <= 65_507;
            if entry.key().0 > at || !is_like || !fits {
                break;
            }
            bytes.extend_from_slice(&entry.remove().datagram);
            if !bytes.len().is_multiple_of(stride) {
                break;
            }
        }
        bytes
    }

    fn deliver_together(&mut self, first: &Flying, bytes: &[u8]) {
        let now = self.now;
        let node = self.node(first.to);
        let input = Input::Datagrams {
            from: first.from,
            via: first.via,
            stride: first.datagram.len(),
            bytes,
        };
        node.tunnels.handle(now, input, &mut node.out);
    }

    /// Hands a datagram from the relay to `end`, without a flush.
    pub fn deliver(&mut self, end: End, datagram: &[u8]) {
        self.deliver_from(end, RELAY.parse().unwrap(), Via::Relay, datagram);
    }

    /// Hands a datagram to `end`, without a flush.
    pub fn deliver_from(&mut self, end: End, from: SocketAddr, via: Via, datagram: &[u8]) {
        let now = self.now;
        let node = self.node(end);
        node.tunnels.handle(
            now,
            Input::Datagram {
                from,
                via,
                bytes: datagram,
            },
            &mut node.out,
        );
    }

    /// Flushes one end, answers its dials, and brings its datagrams on their way.
    pub fn flush(&mut self, end: End) {
        let now = self.now;
        let node = self.node(end);
        node.tunnels.flush(now, &mut node.out);
        node.events.extend(node.out.events.drain(..));
        let flows: Vec<FlowEvent> = node.out.flows.drain(..).collect();
        node.flows.extend(flows.iter().cloned());
        let sent: Vec<_> = node.out.transmits.drain(..).collect();
        for transmit in sent {
            for datagram in transmit.datagrams() {
                match transmit.via {
                    Via::Relay => {
                        self.relay(end, transmit.to, datagram);
                    }
                    Via::Direct => self.pass_beside(end, transmit.to, datagram),
                }
            }
            self.node(end).out.recycle(transmit);
        }
        for event in flows {
            if let FlowEvent::Dial { flow, .. } = event {
                let result = self.dial;
                self.input(end, Input::Dialed { flow, result });
            }
        }
    }

    /// Somebody else has shown the relay a ticket with this handle.
    pub fn bind(&mut self, handle: Handle) {
        self.bound.insert(handle, RELAY.parse().unwrap());
    }

    /// What a relay that started again knows: nothing.
    pub fn forget_bindings(&mut self) {
        self.bound.clear();
        self.cookie.0[0] += 1;
    }

    /// What a relay knows of an end that is somewhere else.
    pub fn forget_binding(&mut self, end: End) {
        self.bound.remove(&handle(end));
        self.cookie.0[0] += 1;
    }

    /// What a relay does: asks for a proof, binds, and passes on with the receiver's handle.
    fn relay(&mut self, from: End, at: SocketAddr, datagram: &[u8]) {
        self.carried += 1;
        if self.unreached.contains(&(from == End::Agent, at)) {
            return;
        }
        match datagram.first().copied().and_then(FrameKind::of) {
            Some(FrameKind::Bind) => {
                self.binds += 1;
                let ticket = ticket_of(&datagram[1..]);
                let answer = if self.bound.get(&ticket.handle) == Some(&at) {
                    ticket.handle.bound().to_vec()
                } else {
                    ticket.handle.challenge(&self.cookie).to_vec()
                };
                self.answer(from, at, answer);
            }
            Some(FrameKind::Proof) => {
                let (ticket, cookie) = Cookie::of_proof(datagram).unwrap();
                let ticket = ticket_of(ticket);
                if cookie == self.cookie {
                    self.bound.insert(ticket.handle, at);
                    self.answer(from, at, ticket.handle.bound().to_vec());
                }
            }
            Some(FrameKind::Data) => {
                let (own, sealed) = Handle::split_data(datagram).unwrap();
                let rank = (0..=OTHER).find(|rank| handle_at(*rank, from) == own);
                let rank = rank.expect("a handle of this end");
                assert_eq!(
                    at == RELAY.parse().unwrap() || at == RELAY_V6.parse().unwrap(),
                    rank == 0 || rank == OTHER
                );
                if self.lying.contains(&at) {
                    return;
                }
                let peer = handle_at(rank, other(from));
                if self.swaps {
                    let wrong = handle_at(OTHER - rank, other(from));
                    self.send(other(from), at, [&wrong.data_header()[..], sealed].concat());
                }
                let is_bound = self.bound.get(&own) == Some(&at);
                if let (true, Some(there)) = (is_bound, self.bound.get(&peer).copied()) {
                    let mut forwarded = peer.data_header().to_vec();
                    forwarded.extend_from_slice(sealed);
                    self.send(other(from), there, forwarded);
                }
            }
            kind => panic!("a node sent {kind:?}"),
        }
    }

    /// Whether both ends say what they say directly.
    pub fn is_direct(&self) -> bool {
        self.agent.is_direct() && self.connector.is_direct()
    }

    /// Gives both ends a socket for direct paths, each behind its NAT.
    pub fn meet(&mut self, beside: Beside) {
        let hosts = (beside.agent.host, beside.connector.host);
        self.beside = Some(beside);
        self.input(End::Connector, Input::Addresses(vec![hosts.1]));
        self.input(End::Agent, Input::Addresses(vec![hosts.0]));
    }

    /// What a network does with a datagram that is not for the relay's socket.
    fn pass_beside(&mut self, from: End, to: SocketAddr, datagram: &[u8]) {
        let now = self.now.instant;
        let beside = self.beside.as_mut().unwrap();
        let source = beside.nat_mut(from).outbound(to);
        if to == RELAY.parse().unwrap() {
            assert_eq!(datagram[0], FrameKind::Ask.byte());
            let seen = ticket_of(&datagram[1..]).handle.seen(source);
            if beside.nat(from).inbound(to, source) {
                self.arrive(from, to, Via::Direct, seen.to_vec(), self.delay);
            }
            return;
        }
        let is_lost = beside.loss > 0 && self.random.next_u32() % 1_000 < beside.loss;
        let is_cut = is_lost || beside.is_cut || datagram.len() > beside.mtu;
        let (delay, peer) = (beside.delay, other(from));
        let is_let_in = beside.nat(peer).inbound(source, to);
        self.node(from).direct.push((now, to, datagram.len()));
        if is_let_in && !is_cut {
            self.arrive(peer, source, Via::Direct, datagram.to_vec(), delay);
        }
    }

    /// What the relay itself has to say.
    fn answer(&mut self, to: End, at: SocketAddr, datagram: Vec<u8>) {
        let delay = self.bind_delay.unwrap_or(self.delay);
        self.send_after(delay, to, at, datagram);
    }

    /// From the relay, at that address of it.
    fn send(&mut self, to: End, at: SocketAddr, datagram: Vec<u8>) {
        self.send_after(self.delay, to, at, datagram);
    }

    fn send_after(&mut self, delay: Duration, to: End, at: SocketAddr, datagram: Vec<u8>) {
        let is_reached = !self.unreached.contains(&(to == End::Agent, at));
        if self.is_cut || !is_reached || datagram.len() > self.mtu {
            return;
        }
        self.arrive(to, at, Via::Relay, datagram, delay);
    }

    fn arrive(&mut self, to: End, from: SocketAddr, via: Via, datagram: Vec<u8>, delay: Duration) {
        if let Some(captured) = &mut self.captured {
            captured.push(Captured {
                to,
                via,
                datagram: datagram.clone(),
            });
        }
        let lost = self.random.next_u32() % 1_000 < self.loss;
        if lost {
            return;
        }
        let jitter = u32::try_from(self.jitter.as_micros()).unwrap();
        let extra = self.random.next_u32().checked_rem(jitter).unwrap_or(0);
        let at = self.now.instant + delay + Duration::from_micros(extra.into());
        let mut copies = vec![datagram];
        if let (true, Some(original)) = (self.damage, copies.first().cloned()) {
            let at = usize::try_from(self.random.next_u32()).unwrap() % original.len();
            let mut damaged = original.clone();
            damaged[at] ^= 0x10;
            copies.extend([damaged, original]);
        }
        for datagram in copies {
            self.sequence += 1;
            let flying = Flying {
                to,
                from,
                via,
                datagram,
            };
            self.queue.insert((at, self.sequence), flying);
        }
    }
}

/// A datagram that somebody has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub to: End,
    pub via: Via,
    pub datagram: Vec<u8>,
}

/// A datagram on its way.
struct Flying {
    to: End,
    from: SocketAddr,
    via: Via,
    datagram: Vec<u8>,
}

/// The way that leads past the relay.
pub struct Beside {
    pub agent: Nat,
    pub connector: Nat,
    pub delay: Duration,
    pub mtu: usize,
    pub is_cut: bool,
    /// Lost datagrams of a thousand.
    pub loss: u32,
}

impl Beside {
    /// Shorter than the relay's way, behind these NATs.
    pub fn new(agent: Kind, connector: Kind) -> Self {
        let nat = |kind, number: u8| {
            let host = SocketAddr::from(([10, number, 0, 2], 4_000));
            Nat::new(kind, host, [198, 51, 100, number].into())
        };
        Self {
            agent: nat(agent, 1),
            connector: nat(connector, 2),
            delay: Duration::from_millis(5),
            mtu: 1_472,
            is_cut: false,
            loss: 0,
        }
    }

    pub fn nat(&self, end: End) -> &Nat {
        match end {
            End::Agent => &self.agent,
            End::Connector => &self.connector,
        }
    }

    pub fn nat_mut(&mut self, end: End) -> &mut Nat {
        match end {
            End::Agent => &mut self.agent,
            End::Connector => &mut self.connector,
        }
    }
}

impl Node {
    /// The way of what it sends, as its shell was told last.
    pub fn path(&self) -> Option<(Path, PathReason)> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Path { path, why, .. } => Some((*path, *why)),
            _ => None,
        })
    }

    pub fn is_direct(&self) -> bool {
        matches!(self.path(), Some((Path::Direct(_), _)))
    }

    /// Whether it was told that the other end does not answer, and nothing else since.
    pub fn is_silent(&self) -> bool {
        self.events
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::Silent { .. } => Some(true),
                Event::Answers { .. } => Some(false),
                _ => None,
            })
            .unwrap_or(false)
    }

    pub fn established(&self, flow: FlowId) -> bool {
        self.flows.contains(&FlowEvent::Established { flow })
    }

    pub fn is_open(&self) -> bool {
        self.events.contains(&Event::Opened { grant: GRANT })
    }

    pub fn reset(&self, wanted: FlowId) -> Option<ResetReason> {
        self.flows.iter().find_map(|event| match event {
            FlowEvent::Reset { flow, why } if *flow == wanted => Some(*why),
            _ => None,
        })
    }

    pub fn closed(&self, flow: FlowId) -> bool {
        self.flows.contains(&FlowEvent::Closed { flow })
    }

    /// UDP payloads of a flow.
    pub fn packets(&self, wanted: FlowId) -> Vec<Bytes> {
        let packets = self.flows.iter();
        packets
            .filter_map(|event| match event {
                FlowEvent::Packet { flow, bytes } if *flow == wanted => Some(bytes.clone()),
                _ => None,
            })
            .collect()
    }

    pub fn close_reason(&self) -> Option<cardea_tunnel::CloseReason> {
        self.events.iter().find_map(|event| match event {
            Event::Closed { reason, .. } => Some(*reason),
            _ => None,
        })
    }
}

pub fn other(end: End) -> End {
    match end {
        End::Agent => End::Connector,
        End::Connector => End::Agent,
    }
}

/// Bytes that are not the same everywhere.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from(i % 251).unwrap() ^ u8::try_from((i >> 12) & 0xff).unwrap())
        .collect()
}
