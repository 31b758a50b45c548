//! The ways to other ends: for each relay a socket, connected, so that no stranger's datagram comes in
//! there, and a detour where UDP does not pass; and the sockets for direct paths.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use cardea_host::{
    addresses,
    udp::{Received, UdpSocket},
};
use cardea_proto::relay::{BIND_BYTES, FrameKind};
use cardea_tunnel::{Outbox, Transmit, Via};
use mio::Waker;
use tokio::runtime::Handle;

use super::{
    detour::{Detour, Fronts, News},
    direct::Direct,
    port::Port,
    shapes,
    way::{Must, Way},
    wiring::{Owner, Wiring},
};

/// All sockets of one end through which sealed datagrams pass.
#[derive(Debug)]
pub(super) struct Relays {
    sockets: BTreeMap<SocketAddr, Relay>,
    /// Relays to which there was no way when something was to be sent.
    unreached: BTreeSet<SocketAddr>,
    pub(super) direct: Direct,
    received: Received,
    /// What opens detours; `None` outside of a runtime.
    runtime: Option<Handle>,
    waker: Arc<Waker>,
    fronts: Option<Fronts>,
    /// Relays to which another way leads, and whether that is a detour.
    changes: VecDeque<(SocketAddr, bool)>,
}

#[derive(Debug)]
struct Relay {
    port: Port,
    /// The address from which it sends; `None` while there is no way.
    source: Option<IpAddr>,
    way: Way,
    detour: Option<Detour>,
    /// The way that tunnels know of.
    is_told: bool,
    /// A ticket that the relay answers.
    question: Option<[u8; BIND_BYTES]>,
}

impl Relays {
    pub(super) fn new(direct: Direct, waker: Arc<Waker>) -> Self {
        Self {
            sockets: BTreeMap::new(),
            unreached: BTreeSet::new(),
            direct,
            received: Received::default(),
            runtime: Handle::try_current().ok(),
            waker,
            fronts: None,
            changes: VecDeque::new(),
        }
    }

    /// What detours need, from now on.
    pub(super) fn set_fronts(&mut self, fronts: Fronts) {
        self.fronts = Some(fronts);
    }

    /// A relay's socket became ready.
    pub(super) fn ready(&mut self, relay: SocketAddr, readable: bool, writable: bool) {
        if let Some(relay) = self.sockets.get_mut(&relay) {
            relay.port.ready(readable, writable);
        }
    }

    /// Hands over what has arrived, a bounded amount of it: who sent it and how, the size of each
    /// datagram but the last, and all their bytes.
    pub(super) fn receive(
        &mut self,
        now: Instant,
        mut take: impl FnMut(SocketAddr, Via, usize, &[u8]),
    ) {
        let received = &mut self.received;
        for (address, relay) in &mut self.sockets {
            let way = &mut relay.way;
            relay.port.receive(received, |_, stride, bytes| {
                way.heard_udp(now);
                take(*address, Via::Relay, stride, bytes);
            });
            let news = relay.detour.as_mut().and_then(|detour| {
                detour.receive(|datagram| {
                    way.heard_detour();
                    take(*address, Via::Relay, datagram.len(), datagram);
                })
            });
            match news {
                Some(News::Up) => way.opened(now),
                Some(News::Over) => {
                    relay.detour = None;
                    way.ended(now);
                }
                None => {}
            }
        }
        let take = |from, stride, bytes: &[u8]| take(from, Via::Direct, stride, bytes);
        self.direct.receive(received, take);
    }

    /// Does what is due about the ways to relays.
    pub(super) fn look(&mut self, now: Instant) {
        let all: Vec<SocketAddr> = self.sockets.keys().copied().collect();
        for (address, relay) in &mut self.sockets {
            let Must {
                ask,
                ask_by_detour,
                open,
                close,
            } = relay.way.look(now);
            if let Some(question) = &relay.question {
                if ask {
                    relay.port.say(*address, question);
                }
                if let Some(detour) = relay.detour.as_ref().filter(|_| ask_by_detour) {
                    detour.say(question);
                }
            }
            if close || !relay.way.wants_detour() {
                relay.detour = None;
            }
            if open {
                let fronts = self.fronts.clone().map(|fronts| fronts.of(*address, &all));
                let fronts = fronts.filter(|all| !all.addresses.is_empty());
                relay.detour = match (&self.runtime, fronts) {
                    (Some(runtime), Some(fronts)) => {
                        let waker = Arc::clone(&self.waker);
                        Some(Detour::begin(runtime, waker, fronts))
                    }
                    (Some(_) | None, _) => None,
                };
                if relay.detour.is_none() {
                    relay.way.ended(now);
                }
            }
            let is_detour = relay.way.is_detour();
            if relay.is_told != is_detour {
                relay.is_told = is_detour;
                self.changes.push_back((*address, is_detour));
            }
        }
    }

    /// A relay to which another way leads than tunnels know, and whether that is a detour.
    pub(super) fn next_change(&mut self) -> Option<(SocketAddr, bool)> {
        self.changes.pop_front()
    }

    /// When [`Self::look`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ways = self.sockets.values();
        ways.filter_map(|relay| relay.way.deadline()).min()
    }

    /// Whether there is more to receive without waiting.
    pub(super) fn wants_turn(&self) -> bool {
        self.direct.wants_turn() || self.sockets.values().any(Relay::wants_turn)
    }

    /// Whether a socket is full, so that nothing more should be produced for it.
    pub(super) fn is_full(&self) -> bool {
        self.direct.is_full() || self.sockets.values().any(Relay::is_full)
    }

    /// Sends all that stands in the outbox, or keeps it until its socket takes it.
    pub(super) fn send(&mut self, now: Instant, wiring: &mut Wiring, out: &mut Outbox) {
        while let Some(transmit) = out.transmits.pop_front() {
            let sent = match transmit.via {
                Via::Direct => self.direct.send(transmit),
                Via::Relay => match self.get(wiring, transmit.to) {
                    Ok(relay) => relay.send(now, transmit),
                    Err(error) => {
                        tracing::debug!(%error, "no socket for a relay");
                        None
                    }
                },
            };
            if let Some(sent) = sent {
                out.recycle(sent);
            }
        }
    }

    /// Opens anew every socket whose source address is no longer the one that routes give, or that
    /// had no way for a while.
    ///
    /// Says whether there was one, or one that has no way any more: the relays must then learn where
    /// we are, or another of their addresses is tried.
    pub(super) fn follow_routes(&mut self, wiring: &mut Wiring) -> bool {
        let (mut moved, mut is_lost) = (Vec::new(), false);
        for (address, relay) in &mut self.sockets {
            let source = addresses::source_for(*address).ok();
            if source.is_some() && source != relay.source {
                moved.push(*address);
            }
            is_lost |= source.is_none() && relay.source.is_some();
            relay.source = source;
        }
        for address in &moved {
            if let Some(relay) = self.sockets.remove(address) {
                relay.port.close(wiring);
                // Another network may let UDP pass.
                if relay.is_told {
                    self.changes.push_back((*address, false));
                }
            }
        }
        let before = self.unreached.len();
        self.unreached
            .retain(|address| addresses::source_for(*address).is_err());
        is_lost || !moved.is_empty() || self.unreached.len() < before
    }

    fn get(&mut self, wiring: &mut Wiring, address: SocketAddr) -> io::Result<&mut Relay> {
        use std::collections::btree_map::Entry;
        match self.sockets.entry(address) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let socket = UdpSocket::connect(address).inspect_err(|_| {
                    self.unreached.insert(address);
                })?;
                let socket = socket.behind(&shapes::from_relay());
                Ok(entry.insert(Relay {
                    port: Port::new(socket, Owner::Relay(address), wiring)?,
                    source: addresses::source_for(address).ok(),
                    way: Way::new(),
                    detour: None,
                    is_told: false,
                    question: None,
                }))
            }
        }
    }
}

impl Relay {
    fn wants_turn(&self) -> bool {
        self.port.wants_turn() || self.detour.as_ref().is_some_and(Detour::wants_turn)
    }

    fn is_full(&self) -> bool {
        match &self.detour {
            Some(detour) if self.way.is_detour() => detour.is_full(),
            Some(_) | None => self.port.is_full(),
        }
    }

    /// Gives the transmit back when it is sent whole, or lost.
    fn send(&mut self, now: Instant, transmit: Transmit) -> Option<Transmit> {
        self.way.sent(now);
        let bind = transmit.datagrams().find_map(|datagram| {
            let bind = <[u8; BIND_BYTES]>::try_from(datagram).ok()?;
            (bind.first() == Some(&FrameKind::Bind.byte())).then_some(bind)
        });
        self.question = bind.or(self.question);
        match &self.detour {
            Some(detour) if self.way.is_detour() => {
                detour.send(&transmit);
                Some(transmit)
            }
            Some(_) | None => self.port.send(transmit),
        }
    }
}
