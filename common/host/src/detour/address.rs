//! Detours as those see them who send and receive datagrams: addresses like any other.
//!
//! A relay and a controller answer to the address that a datagram came from. A detour's is its peer's,
//! so that limits and policies see who it is, with a mark that no address of UDP has: the port of a
//! TCP connection and that of a UDP socket behind one NAT may be the same number.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use cardea_proto::detour::Aim;
use tokio::sync::mpsc;

use super::{Frame, WAITING_MAX};

/// Set in the scope of a detour's address. An interface never has a number so high.
const MARK: u32 = 1 << 31;

/// All detours of a front. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Detours {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU32,
    open: Mutex<BTreeMap<SocketAddr, mpsc::Sender<Frame>>>,
}

/// A detour that is open; it is forgotten when this is dropped.
#[derive(Debug)]
pub struct Joined {
    detours: Detours,
    address: SocketAddr,
}

impl Detours {
    /// A detour to `peer`, and what is to go out on it.
    #[must_use]
    pub fn join(&self, peer: SocketAddr) -> (Joined, mpsc::Receiver<Frame>) {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let ip = match peer.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let address = SocketAddrV6::new(ip, peer.port(), 0, number | MARK).into();
        let (sender, outgoing) = mpsc::channel(WAITING_MAX);
        self.open().insert(address, sender);
        let joined = Joined {
            detours: self.clone(),
            address,
        };
        (joined, outgoing)
    }

    /// Whether an address is that of a detour, open or not.
    #[must_use]
    pub const fn is_detour(address: SocketAddr) -> bool {
        matches!(address, SocketAddr::V6(address) if address.scope_id() & MARK != 0)
    }

    /// Sends a datagram to a detour. One that is gone, or full, loses it.
    pub fn send(&self, to: SocketAddr, aim: Aim, datagram: &[u8]) {
        let Some(sender) = self.open().get(&to).cloned() else {
            return;
        };
        if sender.try_send(Frame::new(aim, datagram)).is_err() {
            tracing::trace!("a detour lost a datagram");
        }
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open().len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open().is_empty()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, mpsc::Sender<Frame>>> {
        self.inner
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Joined {
    /// Where datagrams of this detour come from.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.detours.open().remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detour_has_an_address_of_its_own_and_is_gone_with_it() {
        let detours = Detours::default();
        let peer: SocketAddr = "192.0.2.7:4711".parse().unwrap();
        let (first, mut outgoing) = detours.join(peer);
        let (second, _) = detours.join(peer);
        assert_ne!(first.address(), second.address());
        for joined in [&first, &second] {
            assert!(Detours::is_detour(joined.address()));
            assert_eq!(joined.address().ip().to_canonical(), peer.ip());
        }
        for address in ["192.0.2.7:1", "[2001:db8::1]:1", "[fe80::1%3]:1"] {
            assert!(!Detours::is_detour(address.parse().unwrap()), "{address}");
        }
        detours.send(first.address(), Aim::Relay, &[1]);
        assert_eq!(outgoing.try_recv().unwrap(), Frame::new(Aim::Relay, &[1]));
        drop(first);
        assert_eq!(detours.len(), 1);
    }

    #[test]
    fn a_detour_that_is_full_loses_the_next_datagram_and_keeps_nobody_waiting() {
        let detours = Detours::default();
        let (joined, mut outgoing) = detours.join("192.0.2.7:4711".parse().unwrap());
        for _ in 0..2 * WAITING_MAX {
            detours.send(joined.address(), Aim::Controller, &[1]);
        }
        let mut count = 0;
        while outgoing.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, WAITING_MAX);
    }
}
