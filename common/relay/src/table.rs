//! Which ends are bound, where, and for how long.
//!
//! Ends lie in slots; the maps hold slot numbers, so that one lookup and one index make a route.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    codec::Bytes,
    relay::{Handle, Side, TICKET_BYTES, Ticket},
};

use crate::{DropReason, cookie::Proven, pace::Pace};

/// All bound ends.
#[derive(Debug)]
pub(crate) struct Table {
    ends_max: usize,
    idle: Duration,
    pace: Option<Pace>,
    slots: Vec<Option<End>>,
    free: Vec<usize>,
    by_handle: HashMap<Handle, usize>,
    by_side: BTreeMap<(Bytes<16>, Side), usize>,
    /// When each slot is to be looked at; an end that was heard since is put back for later.
    due: BTreeSet<(Instant, usize)>,
}

/// A ticket whose signature and time hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission<'a> {
    /// What it says.
    pub(crate) ticket: Ticket,
    /// How it travels.
    pub(crate) bytes: &'a [u8; TICKET_BYTES],
    /// For how long it holds.
    pub(crate) life: Duration,
}

/// One end of one tunnel.
#[derive(Debug)]
struct End {
    handle: Handle,
    tunnel: Bytes<16>,
    side: Side,
    ticket: [u8; TICKET_BYTES],
    ends_at: Instant,
    heard: Instant,
    /// Up to when it has used what it may send.
    used_until: Instant,
    address: SocketAddr,
    /// How often it was bound or moved.
    moves: u64,
    peer: Option<usize>,
    due: Instant,
}

/// Whether an end is where its sender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is bound there.
    Bound,
    /// Nobody has answered from there; nothing was changed.
    Unproven,
}

impl End {
    fn is_alive(&self, now: Instant, idle: Duration) -> bool {
        now < self.deadline(idle)
    }

    fn deadline(&self, idle: Duration) -> Instant {
        self.ends_at.min(self.heard + idle)
    }

    /// Hears of the end at `from`, where it is or where its sender has proven to be.
    fn place(
        &mut self,
        now: Instant,
        idle: Duration,
        from: SocketAddr,
        proven: Option<Proven>,
    ) -> Placed {
        // Who fell silent may have left the address to somebody else.
        let is_there = self.address == from && self.is_alive(now, idle);
        if !is_there {
            if proven.is_none() {
                return Placed::Unproven;
            }
            self.address = from;
            self.moves += 1;
        }
        self.heard = now;
        Placed::Bound
    }
}

impl Table {
    pub(crate) fn new(ends_max: usize, idle: Duration, pace: Option<Pace>) -> Self {
        Self {
            ends_max,
            idle,
            pace,
            slots: Vec::new(),
            free: Vec::new(),
            by_handle: HashMap::new(),
            by_side: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_handle.len()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The other end of the tunnel of `handle`, when both ends are bound and `from` is where the
    /// sender is, for a datagram of so many bytes.
    pub(crate) fn route(
        &mut self,
        now: Instant,
        handle: Handle,
        from: SocketAddr,
        bytes: usize,
    ) -> Result<(Handle, SocketAddr), DropReason> {
        let idle = self.idle;
        let sender = self
            .by_handle
            .get(&handle)
            .and_then(|slot| self.slots.get_mut(*slot)?.as_mut())
            .ok_or(DropReason::Unbound)?;
        if !sender.is_alive(now, idle) {
            return Err(DropReason::Expired);
        }
        if sender.address != from {
            return Err(DropReason::WrongSource);
        }
        sender.heard = now;
        if let Some(pace) = self.pace {
            sender.used_until = pace
                .after(now, sender.used_until, bytes)
                .ok_or(DropReason::TooFast)?;
        }
        sender
            .peer
            .and_then(|slot| self.slots.get(slot)?.as_ref())
            .filter(|peer| peer.is_alive(now, idle))
            .map(|peer| (peer.handle, peer.address))
            .ok_or(DropReason::PeerUnbound)
    }

    /// How often the end with this handle was bound or moved.
    pub(crate) fn moves(&self, handle: Handle) -> u64 {
        self.by_handle
            .get(&handle)
            .and_then(|slot| self.slots.get(*slot)?.as_ref())
            .map_or(0, |end| end.moves)
    }

    /// Whether an end is bound by exactly this ticket, whose signature is known to hold.
    pub(crate) fn holds(&self, now: Instant, handle: Handle, ticket: &[u8; TICKET_BYTES]) -> bool {
        self.by_handle
            .get(&handle)
            .and_then(|slot| self.slots.get(*slot)?.as_ref())
            .is_some_and(|end| end.ticket == *ticket && end.is_alive(now, self.idle))
    }

    /// Hears of the end that is bound by exactly this ticket; `None` when none is.
    pub(crate) fn refresh(
        &mut self,
        now: Instant,
        handle: Handle,
        ticket: &[u8; TICKET_BYTES],
        from: SocketAddr,
        proven: Option<Proven>,
    ) -> Option<Placed> {
        let idle = self.idle;
        self.by_handle
            .get(&handle)
            .and_then(|slot| self.slots.get_mut(*slot)?.as_mut())
            .filter(|end| end.ticket == *ticket && end.is_alive(now, idle))
            .map(|end| end.place(now, idle, from, proven))
    }

    /// Binds the end of a ticket whose signature and time hold, or moves it, or lets it live longer.
    pub(crate) fn bind(
        &mut self,
        now: Instant,
        admission: &Admission<'_>,
        from: SocketAddr,
        proven: Option<Proven>,
    ) -> Result<Placed, DropReason> {
        let Ticket {
            tunnel,
            side,
            handle,
            ..
        } = admission.ticket;
        let by_handle = self.by_handle.get(&handle).copied();
        let by_side = self.by_side.get(&(tunnel, side)).copied();
        let slot = match (by_handle, by_side) {
            (Some(slot), Some(other)) if slot == other => slot,
            (None, None) if self.len() >= self.ends_max => return Err(DropReason::Full),
            (None, None) if proven.is_none() => return Ok(Placed::Unproven),
            (None, None) => {
                self.insert(now, admission, from);
                return Ok(Placed::Bound);
            }
            (Some(_), _) | (_, Some(_)) => return Err(DropReason::Conflict),
        };
        let idle = self.idle;
        let Some(end) = self.slots.get_mut(slot).and_then(Option::as_mut) else {
            return Err(DropReason::Unbound);
        };
        let placed = end.place(now, idle, from, proven);
        // An older ticket, still in time, moves the end and leaves it its longer life.
        let ends_at = now + admission.life;
        if placed == Placed::Bound && ends_at > end.ends_at {
            end.ends_at = ends_at;
            end.ticket = *admission.bytes;
        }
        self.reschedule(slot);
        Ok(placed)
    }

    /// Forgets every end whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((at, slot)) = self.due.first().copied() {
            if at > now {
                return;
            }
            let alive = self
                .slots
                .get(slot)
                .and_then(Option::as_ref)
                .is_some_and(|end| end.is_alive(now, self.idle));
            if alive {
                self.reschedule(slot);
            } else {
                self.remove(slot);
            }
        }
    }

    fn insert(&mut self, now: Instant, admission: &Admission<'_>, from: SocketAddr) {
        let ticket = &admission.ticket;
        let peer = self.by_side.get(&(ticket.tunnel, other(ticket.side)));
        let mut end = End {
            handle: ticket.handle,
            tunnel: ticket.tunnel,
            side: ticket.side,
            ticket: *admission.bytes,
            ends_at: now + admission.life,
            heard: now,
            used_until: now,
            address: from,
            moves: 1,
            peer: peer.copied(),
            due: now,
        };
        end.due = end.deadline(self.idle);
        let (peer, due) = (end.peer, end.due);
        let slot = self.occupy(end);
        self.by_handle.insert(ticket.handle, slot);
        self.by_side.insert((ticket.tunnel, ticket.side), slot);
        self.due.insert((due, slot));
        self.join(peer, Some(slot));
    }

    fn occupy(&mut self, end: End) -> usize {
        if let Some(slot) = self.free.pop()
            && let Some(place) = self.slots.get_mut(slot)
        {
            *place = Some(end);
            return slot;
        }
        self.slots.push(Some(end));
        self.slots.len() - 1
    }

    fn remove(&mut self, slot: usize) {
        let end = self.slots.get_mut(slot).and_then(Option::take);
        if let Some(end) = end {
            self.due.remove(&(end.due, slot));
            self.by_handle.remove(&end.handle);
            self.by_side.remove(&(end.tunnel, end.side));
            self.join(end.peer, None);
            self.free.push(slot);
        }
    }

    /// Tells the end in `slot`, if there is one, which slot its other end is in.
    fn join(&mut self, slot: Option<usize>, other: Option<usize>) {
        if let Some(end) = slot.and_then(|slot| self.slots.get_mut(slot)?.as_mut()) {
            end.peer = other;
        }
    }

    fn reschedule(&mut self, slot: usize) {
        if let Some(end) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            self.due.remove(&(end.due, slot));
            end.due = end.deadline(self.idle);
            self.due.insert((end.due, slot));
        }
    }
}

const fn other(side: Side) -> Side {
    match side {
        Side::Agent => Side::Connector,
        Side::Connector => Side::Agent,
    }
}
