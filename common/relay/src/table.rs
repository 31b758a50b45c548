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

use crate::DropReason;

/// All bound ends.
#[derive(Debug)]
pub(crate) struct Table {
    ends_max: usize,
    idle: Duration,
    slots: Vec<Option<End>>,
    free: Vec<usize>,
    by_handle: HashMap<Handle, usize>,
    by_side: BTreeMap<(Bytes<16>, Side), usize>,
    /// When each slot is to be looked at; an end that was heard since is put back for later.
    due: BTreeSet<(Instant, usize)>,
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
    address: SocketAddr,
    peer: Option<usize>,
    due: Instant,
}

impl End {
    fn is_alive(&self, now: Instant, idle: Duration) -> bool {
        now < self.deadline(idle)
    }

    fn deadline(&self, idle: Duration) -> Instant {
        self.ends_at.min(self.heard + idle)
    }
}

impl Table {
    pub(crate) fn new(ends_max: usize, idle: Duration) -> Self {
        Self {
            ends_max,
            idle,
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
    /// sender is.
    pub(crate) fn route(
        &mut self,
        now: Instant,
        handle: Handle,
        from: SocketAddr,
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
        sender
            .peer
            .and_then(|slot| self.slots.get(slot)?.as_ref())
            .filter(|peer| peer.is_alive(now, idle))
            .map(|peer| (peer.handle, peer.address))
            .ok_or(DropReason::PeerUnbound)
    }

    /// Notes that the end that is bound by exactly this ticket is at `from`; `false` when none is.
    pub(crate) fn refresh(
        &mut self,
        now: Instant,
        handle: Handle,
        ticket: &[u8; TICKET_BYTES],
        from: SocketAddr,
    ) -> bool {
        let idle = self.idle;
        let end = self
            .by_handle
            .get(&handle)
            .and_then(|slot| self.slots.get_mut(*slot)?.as_mut())
            .filter(|end| end.ticket == *ticket && end.is_alive(now, idle));
        if let Some(end) = end {
            end.heard = now;
            end.address = from;
            true
        } else {
            false
        }
    }

    /// Binds the end of a ticket whose signature and time hold, or moves it, or lets it live longer.
    pub(crate) fn bind(
        &mut self,
        now: Instant,
        ticket: &Ticket,
        bytes: &[u8; TICKET_BYTES],
        life: Duration,
        from: SocketAddr,
    ) -> Result<(), DropReason> {
        let by_handle = self.by_handle.get(&ticket.handle).copied();
        let by_side = self.by_side.get(&(ticket.tunnel, ticket.side)).copied();
        let slot = match (by_handle, by_side) {
            (Some(slot), Some(other)) if slot == other => slot,
            (None, None) => return self.insert(now, ticket, bytes, life, from),
            (Some(_), _) | (_, Some(_)) => return Err(DropReason::Conflict),
        };
        if let Some(end) = self.slots.get_mut(slot).and_then(Option::as_mut) {
            // An older ticket, still in time, moves the end and leaves it its longer life.
            if now + life > end.ends_at {
                end.ends_at = now + life;
                end.ticket = *bytes;
            }
            end.heard = now;
            end.address = from;
        }
        self.reschedule(slot);
        Ok(())
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

    fn insert(
        &mut self,
        now: Instant,
        ticket: &Ticket,
        bytes: &[u8; TICKET_BYTES],
        life: Duration,
        from: SocketAddr,
    ) -> Result<(), DropReason> {
        if self.len() >= self.ends_max {
            return Err(DropReason::Full);
        }
        let peer = self.by_side.get(&(ticket.tunnel, other(ticket.side)));
        let mut end = End {
            handle: ticket.handle,
            tunnel: ticket.tunnel,
            side: ticket.side,
            ticket: *bytes,
            ends_at: now + life,
            heard: now,
            address: from,
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
        Ok(())
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
