//! A client's socket: UDP, and a detour for as long as that brings nothing.
//!
//! ```text
//!  sends:     by UDP ── silent: a detour is taken ──▶ by the detour ── one came by UDP ──▶ by UDP
//!                                                     (now and then a datagram by UDP)
//!  receives:  from both
//! ```
//!
//! A trial is one datagram of the connection, which QUIC says again when it was lost. When it arrives,
//! the server answers to where it came from (RFC 9000 §9.3); when that answer does not arrive, the next
//! datagram by the detour brings the server back.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use cardea_proto::detour::Aim;
use quinn::{AsyncUdpSocket, UdpPoller, udp};
use tokio::sync::{Notify, mpsc, watch};

use super::{IDLE_TIMEOUT, filter::Filter, socket::FilteredSocket};
use crate::{
    clock::Clock,
    detour::{Frame, TlsStream, WAITING_MAX},
};

/// Where a server is that only its front reaches: nowhere (RFC 5737 §3). QUIC wants an address.
pub(super) const BEHIND: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

/// How long after a trial of UDP the next one may be.
const TRIAL_EVERY: Duration = Duration::from_secs(5);

/// Both ways to one server.
pub(super) struct Ways {
    server: SocketAddr,
    udp: Option<Arc<FilteredSocket>>,
    is_direct: AtomicBool,
    /// The same, for who waits for a change.
    told: watch::Sender<bool>,
    detour: Mutex<Detour>,
    deliver: mpsc::Sender<Box<[u8]>>,
    incoming: Mutex<mpsc::Receiver<Box<[u8]>>>,
    refused: Arc<Notify>,
    clock: Clock,
    filter: Arc<Filter>,
}

/// The detour that was taken last.
struct Detour {
    /// Gone once UDP works.
    outgoing: Option<mpsc::Sender<Frame>>,
    /// How many were taken.
    number: u64,
    next_trial: Instant,
}

impl Ways {
    /// A socket to `server` by UDP, or to wherever a detour leads.
    pub(super) fn new(server: Option<SocketAddr>, filter: &Arc<Filter>) -> io::Result<Arc<Self>> {
        let (udp, refused) = match server {
            None => (None, Arc::default()),
            Some(server) => {
                let (socket, refused) = FilteredSocket::connect(server, filter)?;
                (Some(socket), refused)
            }
        };
        let (deliver, incoming) = mpsc::channel(WAITING_MAX);
        let clock = Clock::system();
        Ok(Arc::new(Self {
            server: server.unwrap_or(BEHIND),
            udp,
            is_direct: AtomicBool::new(true),
            told: watch::Sender::new(true),
            detour: Mutex::new(Detour {
                outgoing: None,
                number: 0,
                next_trial: clock.now().instant,
            }),
            deliver,
            incoming: Mutex::new(incoming),
            refused,
            clock,
            filter: Arc::clone(filter),
        }))
    }

    /// Where QUIC thinks that it sends.
    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    /// Tells that nobody listens, or that a detour has ended.
    pub(super) fn refused(&self) -> Arc<Notify> {
        Arc::clone(&self.refused)
    }

    /// Whether UDP is the way, now and whenever that changes.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.told.subscribe()
    }

    /// Goes on by `detour`.
    pub(super) fn take(self: &Arc<Self>, detour: TlsStream) {
        let (sender, outgoing) = mpsc::channel(WAITING_MAX);
        let number = {
            let mut current = self.detour();
            current.outgoing = Some(sender);
            current.number += 1;
            current.next_trial = self.clock.now().instant + TRIAL_EVERY;
            current.number
        };
        self.is_direct.store(false, Ordering::Relaxed);
        self.told.send_replace(false);
        let (deliver, ways) = (self.deliver.clone(), Arc::downgrade(self));
        tokio::spawn(async move {
            let carried = detour.carry(outgoing, IDLE_TIMEOUT, |aim, datagram| {
                if aim == Aim::Controller && deliver.try_send(datagram.into()).is_err() {
                    tracing::trace!("a datagram of a detour was lost");
                }
            });
            if let Err(error) = carried.await {
                tracing::debug!(reason = %error, "the detour of a channel ended");
            }
            if let Some(ways) = ways.upgrade() {
                ways.ended(number);
            }
        });
    }

    /// A detour is over. When it was in use, nobody listens any longer as far as is known.
    fn ended(&self, number: u64) {
        if self.detour().number == number && !self.is_direct.load(Ordering::Relaxed) {
            self.refused.notify_one();
        }
    }

    fn detour(&self) -> MutexGuard<'_, Detour> {
        self.detour.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket that this datagram goes through, when it is not the detour.
    fn udp_for_this(&self) -> Option<&Arc<FilteredSocket>> {
        let udp = self.udp.as_ref()?;
        if self.is_direct.load(Ordering::Relaxed) {
            return Some(udp);
        }
        let now = self.clock.now().instant;
        let mut detour = self.detour();
        if now < detour.next_trial {
            return None;
        }
        detour.next_trial = now + TRIAL_EVERY;
        Some(udp)
    }

    /// UDP has brought something: everything goes that way from now on.
    fn leave_detour(&self) {
        if !self.is_direct.swap(true, Ordering::Relaxed) {
            tracing::info!("UDP reaches the controller again: the channel leaves its detour");
            self.detour().outgoing = None;
            self.told.send_replace(true);
        }
    }

    fn poll_udp(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Some(udp) = &self.udp else {
            return Poll::Pending;
        };
        let polled = udp.poll_recv(context, buffers, metas);
        if let Poll::Ready(Ok(count)) = &polled
            && metas.iter().take(*count).any(|meta| meta.len > 0)
        {
            self.leave_detour();
        }
        polled
    }

    fn poll_detour(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> usize {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas) {
            let Poll::Ready(Some(datagram)) = incoming.poll_recv(context) else {
                break;
            };
            *meta = received(self.server, &datagram, buffer);
            self.filter.keep(buffer, meta);
            filled += 1;
        }
        filled
    }
}

/// Puts a datagram where QUIC looks for it; one that is too long for that is none.
pub(super) fn received(
    from: SocketAddr,
    datagram: &[u8],
    buffer: &mut IoSliceMut<'_>,
) -> udp::RecvMeta {
    let len = match buffer.get_mut(..datagram.len()) {
        Some(place) => {
            place.copy_from_slice(datagram);
            datagram.len()
        }
        None => 0,
    };
    udp::RecvMeta {
        addr: from,
        len,
        stride: len,
        ecn: None,
        dst_ip: None,
    }
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways")
            .field("is_direct", &self.is_direct)
            .finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for Ways {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let udp = self.udp.clone();
        Box::pin(Writable {
            udp: udp.map(|udp| udp.create_io_poller()),
        })
    }

    fn try_send(&self, transmit: &udp::Transmit<'_>) -> io::Result<()> {
        if let Some(udp) = self.udp_for_this() {
            return match udp.try_send(transmit) {
                // A trial that finds its socket full is lost: the detour is what is waited for.
                Err(_) if !self.is_direct.load(Ordering::Relaxed) => Ok(()),
                result => result,
            };
        }
        let detour = self.detour();
        let Some(outgoing) = &detour.outgoing else {
            return Ok(());
        };
        let frame = Frame::new(Aim::Controller, transmit.contents);
        if outgoing.try_send(frame).is_err() {
            tracing::trace!("a detour lost a datagram");
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let filled = self.poll_detour(context, buffers, metas);
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        self.poll_udp(context, buffers, metas)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.udp {
            Some(udp) => udp.local_addr(),
            // Of the server's family, which is all that QUIC asks for.
            None if self.server.is_ipv4() => Ok((Ipv4Addr::LOCALHOST, 0).into()),
            None => Ok((Ipv6Addr::LOCALHOST, 0).into()),
        }
    }

    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn max_receive_segments(&self) -> usize {
        let udp = self.udp.as_ref();
        udp.map_or(1, |udp| udp.max_receive_segments())
    }

    fn may_fragment(&self) -> bool {
        self.udp.as_ref().is_some_and(|udp| udp.may_fragment())
    }
}

/// Waits for room to send: at the socket, because a detour always has some, or loses what does not fit.
struct Writable {
    udp: Option<Pin<Box<dyn UdpPoller>>>,
}

impl fmt::Debug for Writable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.udp {
            Some(udp) => udp.as_mut().poll_writable(context),
            None => Poll::Ready(Ok(())),
        }
    }
}
