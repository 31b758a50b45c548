//! Our end: the data half of a node with one tunnel, over a socket, and the shim before it.
//!
//! The shim does what a relay does, and is all that is between our end and the other: it takes the
//! relay's header off what goes out, puts it before what comes in, and accepts our ticket. What our ends
//! say to each other about sizes and ways goes out with the rest; the other end drops it unread, as every
//! datagram of a kind that it does not know.

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::LazyLock, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use cardea_host::{
    clock::Clock,
    udp::{Received, UdpSocket},
};
use cardea_proto::{
    access::InnerAddresses,
    app::Target,
    codec::{Blob, Bytes as Array, Secret32},
    id::GrantId,
    relay::{DATA_HEADER_BYTES, FrameKind, Handle, Side, TICKET_BYTES, Ticket},
    time::{Now, UnixMillis},
};
use cardea_tunnel::{
    CarrierKeys, Command, Egress, End, Event, FlowEvent, FlowId, Input, Install, Meeting, Outbox,
    Read, Transmit, Tunnels, Via,
};
use mio::{Events, Interest, Poll, Token};

/// The device's address inside.
pub(crate) const DEVICE: [u8; 4] = [100, 64, 0, 1];
/// The app's.
pub(crate) const APP: [u8; 4] = [100, 65, 0, 1];
/// The app's port.
pub(crate) const PORT: u16 = 80;
/// Where our end is on its host.
pub(crate) const ADDRESS: &str = "192.0.2.1:4711";

/// What is to be moved.
#[derive(Debug)]
pub(crate) struct Work {
    /// Bytes from our end.
    pub(crate) there: u64,
    /// Bytes to our end.
    pub(crate) back: u64,
    /// How much our clock gains while they pass.
    pub(crate) whole_time: Duration,
}

/// Our end.
pub(crate) struct Ours {
    tunnels: Tunnels,
    out: Outbox,
    shim: Shim,
    clock: Clock,
    gained: Duration,
    flow: Flow,
}

/// The conversation at our end.
#[derive(Debug, Default)]
struct Flow {
    id: Option<FlowId>,
    is_readable: bool,
    is_writable: bool,
    is_finished: bool,
    is_closed: bool,
    written: Pattern,
    read: Pattern,
}

impl Ours {
    pub(crate) fn new(end: End, keys: CarrierKeys, peer: SocketAddr) -> Result<Self> {
        let mut ours = Self {
            tunnels: Tunnels::new(end, [7; 32]),
            out: Outbox::default(),
            shim: Shim::new(end, peer)?,
            clock: Clock::system(),
            gained: Duration::ZERO,
            flow: Flow::default(),
        };
        let install = install(end, keys, peer)?;
        ours.handle(Input::Command(Command::Install(Box::new(install))));
        if end == End::Agent {
            let flow = FlowId(1);
            ours.flow.id = Some(flow);
            ours.handle(Input::OpenFlow {
                flow,
                grant: GRANT,
                service: target()?.service,
            });
        }
        Ok(ours)
    }

    /// Does what there is to do, or waits a little; says whether all of it is done.
    pub(crate) fn turn(&mut self, work: &Work) -> Result<bool> {
        let moved = self.flow.written.at + self.flow.read.at;
        let share = u128::from(moved) * work.whole_time.as_nanos();
        self.gained =
            Duration::from_nanos(u64::try_from(share / u128::from(work.there + work.back))?);
        let at = self.now();
        if self.tunnels.deadline().is_some_and(|due| due <= at.instant) {
            self.handle(Input::Timeout);
        }
        self.hear()?;
        self.write(work)?;
        self.read()?;
        self.tunnels.flush(at, &mut self.out);
        while let Some(transmit) = self.out.transmits.pop_front() {
            self.shim.send(&transmit)?;
            self.out.recycle(transmit);
        }
        let (tunnels, out) = (&mut self.tunnels, &mut self.out);
        let is_idle = !self.shim.receive(|from, bytes| {
            let via = Via::Relay;
            tunnels.handle(at, Input::Datagram { from, via, bytes }, out);
        })?;
        if is_idle && !self.tunnels.wants_flush() {
            self.shim.wait()?;
        }
        if self.flow.is_closed {
            ensure!(self.flow.is_finished, "closed early: {self:?}");
            ensure!(
                self.flow.read.at == work.back,
                "bytes are missing: {self:?}"
            );
        }
        Ok(self.flow.is_closed)
    }

    /// What the shim saw.
    pub(crate) const fn heard(&self) -> &Heard {
        &self.shim.heard
    }

    fn now(&self) -> Now {
        let Now { instant, unix } = self.clock.now();
        Now {
            instant: instant + self.gained,
            unix: unix.plus(self.gained),
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.tunnels.handle(self.now(), input, &mut self.out);
    }

    fn hear(&mut self) -> Result<()> {
        while let Some(event) = self.out.events.pop_front() {
            if let Event::Closed { reason, .. } = event {
                bail!("the tunnel is closed: {reason}");
            }
        }
        while let Some(event) = self.out.flows.pop_front() {
            match event {
                FlowEvent::Dial { flow, target, .. } => {
                    ensure!(self.flow.id.replace(flow).is_none(), "two flows");
                    ensure!(target == self::target()?, "to {target}");
                    let result = Ok(());
                    self.handle(Input::Dialed { flow, result });
                    self.flow.is_writable = true;
                }
                FlowEvent::Established { .. } | FlowEvent::Writable { .. } => {
                    self.flow.is_writable = true;
                }
                FlowEvent::Readable { .. } => self.flow.is_readable = true,
                FlowEvent::Closed { .. } => self.flow.is_closed = true,
                FlowEvent::Reset { why, .. } => bail!("reset: {why:?}"),
                FlowEvent::Packet { .. } => bail!("a payload of UDP"),
            }
        }
        Ok(())
    }

    fn write(&mut self, work: &Work) -> Result<()> {
        let at = self.now();
        let Some(flow) = self.flow.id.filter(|_| self.flow.is_writable) else {
            return Ok(());
        };
        let mut pattern = self.flow.written;
        let part = pattern.next(work.there);
        let len = part.len();
        let taken = self.tunnels.write(at, flow, part, &mut self.out);
        self.flow.written.at += u64::try_from(taken)?;
        self.flow.is_writable = taken == len;
        if self.flow.written.at == work.there {
            self.flow.is_writable = false;
            self.handle(Input::Finish { flow });
        }
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let at = self.now();
        while let Some(flow) = self.flow.id.filter(|_| self.flow.is_readable) {
            match self.tunnels.read(at, flow, READ_BYTES, &mut self.out) {
                Read::Data(data) => self.flow.read.check(&data)?,
                Read::Blocked => self.flow.is_readable = false,
                Read::Finished => {
                    self.flow.is_finished = true;
                    self.flow.is_readable = false;
                }
                Read::Reset => bail!("reset while it was read"),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ours")
            .field("flow", &self.flow)
            .field("heard", &self.shim.heard)
            .field("drops", self.tunnels.drops())
            .finish_non_exhaustive()
    }
}

/// What the shim saw of WireGuard (the paper, §5.4).
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// First messages of ours.
    pub(crate) begun: usize,
    /// First messages of the other end.
    pub(crate) begun_there: usize,
    /// Second messages of the other end.
    pub(crate) answered_there: usize,
    /// What the other end calls the sessions under which we sent packets.
    pub(crate) sessions: BTreeSet<[u8; 4]>,
    /// The latest of them.
    session: [u8; 4],
}

impl Heard {
    fn went(&mut self, sealed: &[u8]) {
        match sealed {
            [INITIATION, 0, 0, 0, ..] => self.begun += 1,
            [DATA, 0, 0, 0, a, b, c, d, ..] => {
                let session = [*a, *b, *c, *d];
                if self.session != session {
                    self.session = session;
                    self.sessions.insert(session);
                }
            }
            _ => {}
        }
    }

    const fn came(&mut self, sealed: &[u8]) {
        match sealed {
            [INITIATION, 0, 0, 0, ..] => self.begun_there += 1,
            [RESPONSE, 0, 0, 0, ..] => self.answered_there += 1,
            _ => {}
        }
    }
}

/// A relay to our end, and a peer to the other.
struct Shim {
    handle: Handle,
    peer: SocketAddr,
    socket: UdpSocket,
    poll: Poll,
    events: Events,
    received: Received,
    /// What it says itself.
    said: Vec<[u8; DATA_HEADER_BYTES]>,
    room: Vec<u8>,
    heard: Heard,
}

impl Shim {
    fn new(end: End, peer: SocketAddr) -> Result<Self> {
        let mut socket = UdpSocket::bind(ADDRESS.parse()?)?;
        let poll = Poll::new()?;
        let interest = Interest::READABLE;
        poll.registry().register(&mut socket, Token(0), interest)?;
        Ok(Self {
            handle: handle(end),
            peer,
            socket,
            poll,
            events: Events::with_capacity(8),
            received: Received::default(),
            said: Vec::new(),
            room: Vec::new(),
            heard: Heard::default(),
        })
    }

    /// Takes the header off each datagram of a transmit, and sends them on.
    fn send(&mut self, transmit: &Transmit) -> Result<()> {
        self.room.clear();
        for datagram in transmit.datagrams() {
            if let Some((handle, sealed)) = Handle::split_data(datagram) {
                ensure!(handle == self.handle, "not ours: {handle:?}");
                self.heard.went(sealed);
                self.room.extend_from_slice(sealed);
            } else if datagram.first() == Some(&FrameKind::Bind.byte()) {
                self.said.push(self.handle.bound());
            } else {
                bail!("a relay would not know {datagram:?}");
            }
        }
        if !self.room.is_empty() {
            let segment = transmit.segment.map(|size| size - DATA_HEADER_BYTES);
            // What the kernel does not take is lost, as datagrams are.
            drop(self.socket.send(self.peer, segment, &self.room));
        }
        Ok(())
    }

    /// Gives `take` what came, with the header before it; says whether anything did.
    fn receive(&mut self, mut take: impl FnMut(SocketAddr, &[u8])) -> Result<bool> {
        let mut is_any = false;
        for said in self.said.drain(..) {
            take(self.peer, &said);
            is_any = true;
        }
        match self.socket.receive(&mut self.received) {
            Ok(_) => is_any = true,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(is_any),
            Err(error) => return Err(error.into()),
        }
        for (from, sealed) in self.received.datagrams() {
            ensure!(from == self.peer, "from {from}");
            self.heard.came(sealed);
            self.room.clear();
            self.room.extend_from_slice(&self.handle.data_header());
            self.room.extend_from_slice(sealed);
            take(from, &self.room);
        }
        Ok(is_any)
    }

    /// Waits until something comes, or for so long that no timer is late.
    fn wait(&mut self) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(WAIT)) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            polled => Ok(polled?),
        }
    }
}

/// Bytes of which none stands where another could: a block of random ones, again and again, whose length
/// is no multiple of anything's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pattern {
    /// How many have been.
    pub(crate) at: u64,
}

impl Pattern {
    /// The next ones before `end`, not all of them.
    pub(crate) fn next(&mut self, end: u64) -> Bytes {
        let left = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let start = self.place();
        let part = BLOCK.slice(start..BLOCK.len().min(start.saturating_add(left.min(PART_BYTES))));
        self.at += u64::try_from(part.len()).unwrap_or(u64::MAX);
        part
    }

    /// Makes sure that `came` is what comes next.
    pub(crate) fn check(&mut self, mut came: &[u8]) -> Result<()> {
        while !came.is_empty() {
            let start = self.place();
            let len = came.len().min(BLOCK.len() - start);
            let (part, rest) = came.split_at(len);
            let expected = BLOCK.get(start..start + len).context("beyond the block")?;
            ensure!(part == expected, "other bytes after {}", self.at);
            self.at += u64::try_from(len)?;
            came = rest;
        }
        Ok(())
    }

    fn place(self) -> usize {
        let len = u64::try_from(BLOCK.len()).unwrap_or(u64::MAX);
        usize::try_from(self.at % len).unwrap_or(0)
    }
}

/// Source: Marsaglia, Xorshift RNGs (2003), the triple 13, 7, 17.
static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    });
    bytes.flatten().take(BLOCK_BYTES).collect()
});

fn install(end: End, keys: CarrierKeys, relay: SocketAddr) -> Result<Install> {
    let targets = vec![target()?];
    Ok(Install {
        grant: GRANT,
        app: "wiki".parse()?,
        keys,
        ttl: Duration::from_secs(3_600),
        relay: vec![relay],
        standby: Vec::new(),
        ticket: ticket(end),
        services: vec![target()?.service],
        inner: InnerAddresses {
            device_v4: DEVICE.into(),
            device_v6: "fd00::1".parse()?,
            app_v4: APP.into(),
            app_v6: "fd00::a".parse()?,
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
    })
}

fn target() -> Result<Target> {
    Ok(format!("10.9.0.10:{PORT}").parse()?)
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

const GRANT: GrantId = GrantId::from_bytes([7; 10]);

/// First bytes of messages. Source: the WireGuard paper, §5.4.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;

/// A prime near a mebibyte.
const BLOCK_BYTES: usize = 1_048_573;
/// Most bytes of one write.
const PART_BYTES: usize = 64 * 1024;
/// Most bytes of one read.
const READ_BYTES: usize = 256 * 1024;
/// Shorter than every timer of a tunnel.
const WAIT: Duration = Duration::from_millis(2);
