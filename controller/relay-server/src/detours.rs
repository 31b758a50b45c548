//! A relay's side of a front.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender},
    },
};

use cardea_host::detour::Detours;
use cardea_proto::detour::Aim;
use mio::Waker;

/// Datagrams of all detours that wait for the relay's loop before the next one is lost.
const ARRIVALS_MAX: usize = 4_096;

/// Datagrams of detours in one turn, before the socket has its own.
const TURN_ARRIVALS: usize = 512;

/// Where a front gives the datagrams that are aimed at a relay.
#[derive(Clone, Debug)]
pub struct Arrivals {
    sender: SyncSender<(SocketAddr, Box<[u8]>)>,
    waker: Arc<Waker>,
}

impl Arrivals {
    /// Gives a datagram of the detour with this address; a relay that is behind loses it.
    pub fn give(&self, from: SocketAddr, datagram: &[u8]) {
        if self.sender.try_send((from, datagram.into())).is_err() {
            tracing::trace!("the relay lost a datagram of a detour");
            return;
        }
        if let Err(error) = self.waker.wake() {
            tracing::warn!(%error, "the relay could not be woken up");
        }
    }
}

/// What comes and goes by a front.
#[derive(Debug)]
pub(crate) struct Behind {
    detours: Detours,
    arrivals: Receiver<(SocketAddr, Box<[u8]>)>,
}

impl Behind {
    pub(crate) fn new(detours: Detours, waker: Arc<Waker>) -> (Self, Arrivals) {
        let (sender, arrivals) = mpsc::sync_channel(ARRIVALS_MAX);
        (Self { detours, arrivals }, Arrivals { sender, waker })
    }

    /// Hands over what has come, a bounded amount; `true` when there is no more.
    pub(crate) fn take(&self, mut take: impl FnMut(SocketAddr, &mut [u8])) -> bool {
        for _ in 0..TURN_ARRIVALS {
            match self.arrivals.try_recv() {
                Ok((from, mut datagram)) => take(from, &mut datagram),
                Err(_) => return true,
            }
        }
        false
    }

    /// Sends `bytes`, divided into datagrams of `segment` bytes.
    pub(crate) fn send(&self, to: SocketAddr, segment: Option<usize>, bytes: &[u8]) {
        let segment = segment.unwrap_or(bytes.len()).max(1);
        for datagram in bytes.chunks(segment) {
            self.detours.send(to, Aim::Relay, datagram);
        }
    }
}
