//! The loop of the data half.

use std::{
    io,
    sync::{Arc, mpsc},
    time::Duration,
};

use cardea_host::{addresses::Changes, clock::Clock};
use cardea_tunnel::{Command, Edge, End, Event as TunnelEvent, FlowEvent, FlowId, Input, Tunnels};
use mio::{Events, Poll, Token, Waker, event::Event as Readiness};
use tokio::sync::mpsc as queue;

use super::{
    FromData, ListenerId, ToData,
    connector::Dialer,
    direct::{Direct, DirectSettings},
    flow::{Carry, Flow},
    flows::Flows,
    listen::{Locals, Waiting},
    oversized::Oversized,
    relays::Relays,
    routes::Routes,
    stack::{self, Interface},
    tcp::Turn,
    timers::Timers,
    told::Told,
    wiring::{Owner, Wiring},
};

/// The token of the waker; sockets have those after it.
const WAKER: Token = Token(0);

/// Events of the operating system in one turn.
const EVENTS_MAX: usize = 1_024;

/// Rounds between flows and tunnels in one turn: what a read makes possible is done at once, but
/// two ends on one machine must not keep each other in one turn for ever.
const ROUNDS_MAX: usize = 4;

/// Bytes that flows move in one turn, a few milliseconds' worth: what is withdrawn does not wait
/// longer than that, however many flows are busy.
const TURN_BYTES: usize = 4 * 1024 * 1024;

/// How often the loop looks whether time has jumped, which timers of the system do not notice.
const NAP_MAX: Duration = Duration::from_secs(2);

/// How long the loop waits for a queue that was full.
const FULL_NAP: Duration = Duration::from_millis(5);

/// How long after the kernel told of a change the rest of it is waited for: an address goes and
/// comes with its routes, in messages of their own.
const SETTLE: Duration = Duration::from_millis(10);

/// How often routes to relays are looked at in any case, as where the kernel may not be asked to tell.
const ROUTES_INTERVAL: Duration = Duration::from_secs(1);

/// In how many of those turns this machine's addresses are looked at as well.
const ADDRESSES_EVERY: u32 = 5;

/// In how many of those it is said that packets were too long.
const OVERSIZED_EVERY: u32 = 10;

/// What a timer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// A dial has taken too long.
    Dial(FlowId),
    /// A client of SOCKS has taken too long.
    Guest(u64),
    /// A listener could not accept and should try again.
    Accept(ListenerId),
    /// Somebody has waited too long for a tunnel.
    Waiting,
    /// Routes may have changed.
    Routes,
    /// They have.
    Moved,
}

/// Every socket and tunnel of one end, and the loop that serves them.
pub(super) struct Plane {
    poll: Poll,
    clock: Clock,
    pub(super) carry: Carry,
    pub(super) wiring: Wiring,
    pub(super) relays: Relays,
    pub(super) interface: Option<Interface>,
    pub(super) routes: Routes<Waiting>,
    pub(super) flows: Flows,
    pub(super) locals: Locals,
    pub(super) dialer: Dialer,
    pub(super) timers: Timers<Due>,
    /// What the kernel says of its network, and whether it is looked at soon.
    changes: Option<Changes>,
    is_moving: bool,
    commands: mpsc::Receiver<ToData>,
    pub(super) told: Told,
    /// Questions for figures that wait until it is known which tunnels carry anything, and those
    /// that came while that was being found out.
    asked: Vec<u64>,
    wants_figures: Vec<u64>,
    /// How often routes have been looked at.
    looks: u32,
    oversized: Oversized,
}

impl Plane {
    pub(super) fn new(
        (end, direct, interface): (End, DirectSettings, Option<Interface>),
        clock: Clock,
        entropy: [u8; 32],
        commands: mpsc::Receiver<ToData>,
        queue: queue::Sender<FromData>,
    ) -> io::Result<(Self, Arc<Waker>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let now = clock.now();
        let mut timers = Timers::new();
        timers.set(now.instant + ROUTES_INTERVAL, Due::Routes);
        let mut wiring = Wiring::new(poll.registry().try_clone()?, WAKER.0 + 1);
        let direct = Direct::open(direct, &mut wiring);
        let changes = Changes::listen().and_then(|mut changes| {
            wiring.add(&mut changes, Owner::Network)?;
            Ok(changes)
        });
        let changes = changes.inspect_err(|error| {
            tracing::info!(%error, "the kernel tells no changes of the network");
        });
        let mut carry = Carry::new(now, Tunnels::new(end, entropy));
        let mut interface = interface;
        if let Some(interface) = &mut interface {
            interface.stack().register(&mut wiring)?;
            carry.tunnels.set_edge(Edge::Packets);
            carry.stacked = vec![0; stack::BUFFER_BYTES];
        }
        let mut plane = Self {
            wiring,
            poll,
            clock,
            carry,
            relays: Relays::new(direct, Arc::clone(&waker)),
            interface,
            routes: Routes::new(),
            flows: Flows::default(),
            locals: Locals::default(),
            dialer: Dialer::new(Arc::clone(&waker)),
            timers,
            changes: changes.ok(),
            is_moving: false,
            commands,
            told: Told::new(queue),
            asked: Vec::new(),
            wants_figures: Vec::new(),
            looks: 0,
            oversized: Oversized::default(),
        };
        plane.follow_addresses();
        Ok((plane, waker))
    }

    /// Serves until [`ToData::Stop`] or until the control half is gone.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            match self.poll.poll(&mut events, Some(self.nap())) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the data half ends: it cannot wait for its sockets");
                    return;
                }
            }
            self.carry.now = self.clock.now();
            if !self.take_commands() {
                return self.leave();
            }
            for event in &events {
                self.notice(event);
            }
            self.turn();
        }
    }

    /// Ends every tunnel, so that the other ends know at once.
    fn leave(&mut self) {
        let grants: Vec<_> = self.carry.tunnels.grants().collect();
        for grant in grants {
            self.carry.input(Input::Command(Command::Remove { grant }));
        }
        self.flow_events();
        self.flush();
    }

    /// How long nothing is to be done, as far as is known.
    fn nap(&self) -> Duration {
        let is_full = self.relays.is_full();
        let busy = self.flows.wants_turn()
            || !self.carry.out.is_empty()
            || self.relays.wants_turn()
            || self.locals.wants_turn()
            || (self.asked.is_empty() && !self.wants_figures.is_empty())
            || (!is_full && self.interface.as_ref().is_some_and(Interface::is_readable))
            || (self.carry.tunnels.wants_flush() && !is_full);
        if busy {
            return Duration::ZERO;
        }
        let tunnels = self.carry.tunnels.deadline().filter(|_| !is_full);
        let due = [tunnels, self.timers.next(), self.relays.deadline()];
        let due = due.into_iter().flatten().min();
        let most = if !self.told.is_behind() && !is_full {
            NAP_MAX
        } else {
            FULL_NAP
        };
        due.map_or(most, |due| self.clock.until(due).min(most))
    }

    /// Carries out everything that the control half said; false when it is over.
    fn take_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(ToData::Tunnel(command)) => {
                    self.routes.note_command(&command);
                    let stacked = match &mut self.interface {
                        Some(Interface::Back(back)) => back.note_command(&command),
                        Some(Interface::Front(_)) | None => None,
                    };
                    self.carry.input(Input::Command(command));
                    if let Some((grant, v4, v6)) = stacked {
                        self.carry.tunnels.set_stacked(grant, v4, v6);
                    }
                    // Sockets of flows that ended with a tunnel are reset before anything else.
                    self.flow_events();
                }
                Ok(ToData::Controller(at)) => self.carry.input(Input::Controller(at)),
                Ok(ToData::Fronts(fronts)) => self.relays.set_fronts(*fronts),
                Ok(ToData::Listen {
                    listener,
                    serves,
                    at,
                    reply,
                }) => {
                    let result = self.listen(listener, serves, at);
                    if reply.send(result).is_err() {
                        self.unlisten(listener);
                    }
                }
                Ok(ToData::Unlisten(listener)) => self.unlisten(listener),
                Ok(ToData::Apps(apps)) => self.routes.set_apps(apps),
                Ok(ToData::Addresses(apps, number)) => {
                    if let Some(Interface::Front(front)) = &mut self.interface {
                        front.set_apps(apps);
                    }
                    self.told.push(FromData::Addressed(number));
                }
                Ok(ToData::Pulse) => self.told.push(FromData::Pulse),
                Ok(ToData::Opened { app, grant }) => self.opened(&app, grant),
                Ok(ToData::Denied { app, refusal }) => self.denied(&app, &refusal),
                Ok(ToData::Figures(number)) => {
                    self.wants_figures.push(number);
                }
                Ok(ToData::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    /// Begins to find out which tunnels carry anything, for everybody who waits for figures. Who asks
    /// meanwhile waits for the next time, so that nobody's answer is put off by those behind him.
    fn find_out(&mut self) {
        if self.asked.is_empty() && !self.wants_figures.is_empty() {
            self.asked = std::mem::take(&mut self.wants_figures);
            self.carry.input(Input::Check);
        }
    }

    /// What has passed up to this moment, once it is known what passes at all.
    fn tell_figures(&mut self) {
        if self.asked.is_empty() || self.carry.tunnels.is_checking() {
            return;
        }
        let grants: Vec<_> = self.carry.tunnels.grants().collect();
        for grant in grants {
            if let Some(stats) = self.carry.tunnels.stats(grant) {
                self.told.push(FromData::Tunnel(TunnelEvent::Used {
                    grant,
                    bytes_in: stats.bytes_in,
                    bytes_out: stats.bytes_out,
                    flows: stats.flows,
                    rtt: stats.rtt,
                }));
            }
        }
        for number in std::mem::take(&mut self.asked) {
            self.told.push(FromData::Figures(number));
        }
    }

    /// Remembers what a socket is ready for.
    fn notice(&mut self, event: &Readiness) {
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        match self.wiring.owner(event.token()) {
            None => {}
            Some(Owner::Relay(relay)) => self.relays.ready(relay, readable, event.is_writable()),
            Some(Owner::Direct(net)) => {
                let direct = &mut self.relays.direct;
                direct.ready(net, readable, event.is_writable());
            }
            Some(Owner::Stack) => {
                if let Some(interface) = &mut self.interface {
                    interface.stack().readable |= readable;
                }
            }
            Some(Owner::Network) => self.network_changed(),
            Some(Owner::Listener(listener)) => self.locals.ready(listener, readable),
            Some(Owner::Guest(guest)) => self.hear_guest(guest),
            Some(Owner::Association(number)) => self.locals.associations.ready(number),
            Some(Owner::Tether(number)) => self.tether_moved(number),
            Some(Owner::Flow(id)) => self.notice_flow(id, event, readable),
        }
    }

    fn notice_flow(&mut self, id: FlowId, event: &Readiness, readable: bool) {
        match self.flows.get_mut(id) {
            Some(Flow::Tcp { flow, .. }) => {
                if flow.notice(event) {
                    self.flows.queue(id);
                } else {
                    self.break_flow(id);
                }
            }
            Some(Flow::UdpTarget(target)) => {
                target.readable |= readable;
                self.flows.queue(id);
            }
            Some(Flow::Dialing(_)) => self.dial_progress(id, event),
            Some(Flow::UdpClient { .. } | Flow::Associated { .. }) | None => {}
        }
    }

    /// Everything that can be done without waiting, a bounded amount of each.
    fn turn(&mut self) {
        self.told.retry();
        self.find_out();
        self.carry.moved = 0;
        self.receive();
        self.serve_interface();
        while let Some(due) = self.timers.pop_due(self.carry.now.instant) {
            self.due(due);
        }
        while let Some((flow, addresses)) = self.dialer.resolver.answer() {
            self.resolved(flow, addresses);
        }
        // Before anybody is let in: after a long sleep, tunnels whose time has passed are still here.
        let deadline = self.carry.tunnels.deadline();
        if deadline.is_some_and(|due| due <= self.carry.now.instant) {
            self.carry.input(Input::Timeout);
        }
        self.tunnel_events();
        self.serve_listeners();
        self.serve_associations();
        for _ in 0..ROUNDS_MAX {
            self.tunnel_events();
            self.flow_events();
            self.pump();
            if self.carry.out.flows.is_empty() && self.carry.out.events.is_empty() {
                break;
            }
        }
        self.tell_figures();
        self.flush();
    }

    /// Opens what has arrived; packets go to the local network stack while they are at hand.
    fn receive(&mut self) {
        let Self {
            relays,
            carry,
            interface,
            routes,
            ..
        } = self;
        let mut deliver = |carry: &mut Carry| match interface {
            Some(interface) => interface.deliver(carry, routes),
            None => carry.out.packets.clear(),
        };
        let now = carry.now.instant;
        relays.receive(now, |from, via, stride, bytes| {
            carry.input(Input::Datagrams {
                from,
                via,
                stride,
                bytes,
            });
            if carry.out.packets.is_nearly_full() {
                deliver(carry);
            }
        });
        if !carry.out.packets.is_empty() {
            deliver(carry);
        }
        self.follow_ways();
    }

    /// Looks which way leads to each relay, and tells tunnels where that has changed.
    fn follow_ways(&mut self) {
        self.relays.look(self.carry.now.instant);
        while let Some((relay, is_used)) = self.relays.next_change() {
            tracing::info!(%relay, by_tls = is_used, "another way leads to the relay");
            self.carry.input(Input::Detoured { relay, is_used });
        }
    }

    /// Sends what this turn came to, until the network is full or there is no more.
    fn flush(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.relays.is_full() {
                let carry = &mut self.carry;
                carry.tunnels.flush(carry.now, &mut carry.out);
            }
            let now = self.carry.now.instant;
            self.relays.send(now, &mut self.wiring, &mut self.carry.out);
            if self.relays.is_full() || !self.carry.tunnels.wants_flush() {
                return;
            }
        }
    }

    fn due(&mut self, due: Due) {
        match due {
            Due::Dial(flow) => self.dial_timed_out(flow),
            Due::Guest(guest) => self.guest_timed_out(guest),
            Due::Accept(listener) => self.locals.ready(listener, true),
            Due::Waiting => self.waited_too_long(),
            Due::Routes => {
                let next = self.carry.now.instant + ROUTES_INTERVAL;
                self.timers.set(next, Due::Routes);
                self.looks = self.looks.wrapping_add(1);
                if self.looks.is_multiple_of(OVERSIZED_EVERY) {
                    self.oversized.tell(self.carry.tunnels.drops());
                }
                self.follow_routes(self.looks.is_multiple_of(ADDRESSES_EVERY));
            }
            Due::Moved => {
                self.is_moving = false;
                self.follow_routes(true);
                self.told.push(FromData::Moved);
            }
        }
    }

    /// The kernel has something to say of its network.
    fn network_changed(&mut self) {
        let is_changed = self.changes.as_mut().is_some_and(Changes::take);
        if is_changed && !self.is_moving {
            self.is_moving = true;
            self.timers.set(self.carry.now.instant + SETTLE, Due::Moved);
        }
    }

    /// Looks whether relays are reached another way, and where this machine is.
    fn follow_routes(&mut self, and_addresses: bool) {
        let is_moved = self.relays.follow_routes(&mut self.wiring);
        if is_moved || and_addresses {
            self.follow_addresses();
        }
        if is_moved {
            tracing::info!("the way to the relay changed");
            self.carry.input(Input::Roamed);
        }
    }

    /// Tells both halves where this machine may be reached, when that has changed.
    fn follow_addresses(&mut self) {
        if let Some(addresses) = self.relays.direct.moved() {
            self.carry.input(Input::Addresses(addresses.clone()));
            self.told.push(FromData::Addresses(addresses));
        }
    }

    fn tunnel_events(&mut self) {
        while let Some(event) = self.carry.out.events.pop_front() {
            let is_gone = match &event {
                TunnelEvent::Closed { grant, .. } => self.carry.tunnels.stats(*grant).is_none(),
                TunnelEvent::Opened { .. }
                | TunnelEvent::Used { .. }
                | TunnelEvent::Path { .. }
                | TunnelEvent::Standby { .. }
                | TunnelEvent::Silent { .. }
                | TunnelEvent::Answers { .. }
                | TunnelEvent::Unreached { .. } => false,
            };
            if let (TunnelEvent::Closed { grant, .. }, true) = (&event, is_gone)
                && let Some(Interface::Back(back)) = &mut self.interface
            {
                back.forget(*grant);
            }
            let opened = self.routes.note_event(&event, is_gone);
            let is_missed = match &event {
                TunnelEvent::Silent { grant, .. } => {
                    let now = self.carry.now.instant;
                    self.routes.is_waited_in(now, *grant).cloned()
                }
                TunnelEvent::Closed { .. }
                | TunnelEvent::Opened { .. }
                | TunnelEvent::Used { .. }
                | TunnelEvent::Path { .. }
                | TunnelEvent::Standby { .. }
                | TunnelEvent::Answers { .. }
                | TunnelEvent::Unreached { .. } => None,
            };
            self.told.push(FromData::Tunnel(event));
            if let Some(app) = is_missed {
                self.told.push(FromData::Wanted(app));
            }
            if let Some(app) = opened {
                self.start_waiting(&app);
            }
        }
    }

    fn flow_events(&mut self) {
        while let Some(event) = self.carry.out.flows.pop_front() {
            match event {
                FlowEvent::Dial {
                    flow,
                    grant,
                    target,
                } => self.dial(flow, grant, target),
                FlowEvent::Established { flow } => self.established(flow),
                FlowEvent::Readable { flow } => {
                    if let Some(Flow::Tcp { flow, .. }) = self.flows.get_mut(flow) {
                        flow.tunnel_readable();
                    }
                    self.flows.queue(flow);
                }
                FlowEvent::Writable { flow } => self.flows.queue(flow),
                FlowEvent::Reset { flow, why } => self.reset(flow, why),
                FlowEvent::Closed { flow } => self.closed(flow),
                FlowEvent::Packet { flow, bytes } => match self.flows.get(flow) {
                    Some(Flow::UdpTarget(target)) => target.send(&bytes),
                    Some(Flow::UdpClient { listener, client }) => {
                        self.locals.send(*listener, *client, &bytes);
                    }
                    Some(Flow::Associated {
                        association, peer, ..
                    }) => self.locals.associations.send(*association, peer, &bytes),
                    Some(Flow::Tcp { .. } | Flow::Dialing(_)) | None => {}
                },
            }
        }
    }

    /// Gives every flow that has something to do its turn.
    fn pump(&mut self) {
        for _ in 0..self.flows.ready_count() {
            if self.carry.moved >= TURN_BYTES {
                return;
            }
            let Some(id) = self.flows.next_ready() else {
                return;
            };
            match self.flows.get_mut(id) {
                Some(Flow::Tcp { flow, .. }) => {
                    flow.queued = false;
                    match flow.pump(&mut self.carry) {
                        Turn::Again => self.flows.queue(id),
                        Turn::Wait => {}
                        Turn::Done => drop(self.take_stream(id)),
                        Turn::Broken => self.break_flow(id),
                    }
                }
                Some(Flow::UdpTarget(target)) => {
                    target.queued = false;
                    if target.pump(id, &mut self.carry) {
                        self.flows.queue(id);
                    }
                }
                Some(Flow::Dialing(_) | Flow::UdpClient { .. } | Flow::Associated { .. })
                | None => {}
            }
        }
    }
}
