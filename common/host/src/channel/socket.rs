//! The UDP socket below a channel: what is not for it does not reach QUIC.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use cardea_proto::detour::Aim;
use quinn::{AsyncUdpSocket, UdpPoller, udp};
use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::{Notify, mpsc},
};

use super::{
    filter::{Filter, shapes},
    ways::received,
};
use crate::{detour::Detours, sieve};

/// Datagrams of all detours that wait for a server before the next one is lost.
const BEHIND_MAX: usize = 1_024;

/// A socket behind a [`Filter`]. A client's is connected to its one server besides, so that no
/// stranger's datagram reaches even the filter.
///
/// The kernel then also reports that nobody listens at the server; that must not end the receive
/// loop, so it becomes a notice.
#[derive(Debug)]
pub(super) struct FilteredSocket {
    io: UdpSocket,
    state: udp::UdpSocketState,
    filter: Arc<Filter>,
    refused: Arc<Notify>,
    /// Datagrams for which one receive must have room.
    receive_segments: usize,
    /// What comes and goes by a front, at a server that has one.
    behind: Option<Behind>,
}

/// A server's side of a front.
#[derive(Debug)]
struct Behind {
    detours: Detours,
    incoming: Mutex<mpsc::Receiver<(SocketAddr, Box<[u8]>)>>,
}

/// Where a front gives the datagrams that are aimed at a server.
#[derive(Clone, Debug)]
pub struct Inlet(mpsc::Sender<(SocketAddr, Box<[u8]>)>);

impl Inlet {
    /// Gives a datagram of the detour with this address; a server that is behind loses it.
    pub fn give(&self, from: SocketAddr, datagram: &[u8]) {
        if self.0.try_send((from, datagram.into())).is_err() {
            tracing::trace!("a server lost a datagram of a detour");
        }
    }
}

impl FilteredSocket {
    /// A server's socket, to which detours lead as well.
    pub(super) fn bind(
        listen: SocketAddr,
        filter: &Arc<Filter>,
        detours: Option<Detours>,
    ) -> io::Result<(Arc<Self>, Option<Inlet>)> {
        let (behind, inlet) = detours.map(Behind::new).unzip();
        let socket = crate::udp::socket(listen)?;
        Ok((Arc::new(Self::open(socket, filter, behind)?), inlet))
    }

    /// A client's socket, and what tells that nobody listens at its server.
    pub(super) fn connect(
        server: SocketAddr,
        filter: &Arc<Filter>,
    ) -> io::Result<(Arc<Self>, Arc<Notify>)> {
        let any: SocketAddr = if server.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = crate::udp::socket(any)?;
        socket.connect(&server.into())?;
        let mut socket = Self::open(socket, filter, None)?;
        // One server's few messages come one by one: QUIC would set three megabytes aside for bursts.
        if sieve::take_apart(&socket.io).is_ok() {
            socket.receive_segments = 1;
        }
        let refused = Arc::clone(&socket.refused);
        Ok((Arc::new(socket), refused))
    }

    /// How many datagrams the kernel dropped, by their shape or for want of room.
    pub(super) fn dropped(&self) -> u64 {
        sieve::dropped(&self.io).map_or(0, u64::from)
    }

    /// Leaves everything to the filter, as where the kernel has no sieve.
    #[cfg(test)]
    pub(super) fn without_sieve(&self) -> io::Result<()> {
        sieve::detach(&self.io)
    }

    fn open(
        socket: socket2::Socket,
        filter: &Arc<Filter>,
        behind: Option<Behind>,
    ) -> io::Result<Self> {
        sieve::attach(&socket, &shapes());
        let io = UdpSocket::from_std(socket.into())?;
        let state = udp::UdpSocketState::new((&io).into())?;
        Ok(Self {
            receive_segments: state.gro_segments(),
            state,
            io,
            filter: Arc::clone(filter),
            refused: Arc::default(),
            behind,
        })
    }

    /// What the kernel has, filtered.
    fn poll_kernel(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.io.poll_recv_ready(context))?;
            let receive = || self.state.recv((&self.io).into(), buffers, metas);
            match self.io.try_io(Interest::READABLE, receive) {
                Ok(count) => {
                    for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                        self.filter.keep(buffer, meta);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.refused.notify_one();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // No error of one datagram ends the loop, and none that stays keeps others waiting: quinn
                // counts one datagram, which has no bytes, and lets others run after so many.
                Err(error) => {
                    tracing::trace!(%error, "nothing was received");
                    if let Some(meta) = metas.first_mut() {
                        *meta = udp::RecvMeta::default();
                    }
                    return Poll::Ready(Ok(metas.len().min(1)));
                }
            }
        }
    }
}

impl Behind {
    fn new(detours: Detours) -> (Self, Inlet) {
        let (inlet, incoming) = mpsc::channel(BEHIND_MAX);
        let behind = Self {
            detours,
            incoming: Mutex::new(incoming),
        };
        (behind, Inlet(inlet))
    }

    fn send(&self, transmit: &udp::Transmit<'_>) {
        self.detours
            .send(transmit.destination, Aim::Controller, transmit.contents);
    }

    /// Fills buffers with what has come, filtered like what the kernel has; half of them, so that
    /// neither way keeps the other one waiting.
    fn poll(
        &self,
        context: &mut Context<'_>,
        filter: &Filter,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> usize {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let most = buffers.len().div_ceil(2);
        let mut filled = 0;
        for (buffer, meta) in buffers.iter_mut().zip(metas).take(most) {
            let Poll::Ready(Some((from, datagram))) = incoming.poll_recv(context) else {
                break;
            };
            *meta = received(from, &datagram, buffer);
            filter.keep(buffer, meta);
            filled += 1;
        }
        filled
    }
}

impl AsyncUdpSocket for FilteredSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &udp::Transmit<'_>) -> io::Result<()> {
        if Detours::is_detour(transmit.destination) {
            if let Some(behind) = &self.behind {
                behind.send(transmit);
            }
            return Ok(());
        }
        let send = || self.state.try_send((&self.io).into(), transmit);
        match self.io.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused.notify_one();
                Ok(())
            }
            // QUIC sends again what the network loses, for whatever reason it does.
            Err(error) => {
                tracing::trace!(%error, "a datagram was not sent");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What is filtered out leaves an empty buffer behind, which QUIC passes over: under a flood it
    /// goes on counting how long it has been at it, and lets others run.
    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let filled = self.behind.as_ref().map_or(0, |behind| {
            behind.poll(context, &self.filter, buffers, metas)
        });
        let (Some(buffers), Some(metas)) = (buffers.get_mut(filled..), metas.get_mut(filled..))
        else {
            return Poll::Ready(Ok(filled));
        };
        if buffers.is_empty() {
            return Poll::Ready(Ok(filled));
        }
        match self.poll_kernel(context, buffers, metas) {
            Poll::Ready(Ok(count)) => Poll::Ready(Ok(filled + count)),
            Poll::Ready(Err(_)) | Poll::Pending if filled > 0 => Poll::Ready(Ok(filled)),
            polled @ (Poll::Ready(Err(_)) | Poll::Pending) => polled,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// One at a time: QUIC keeps room for as many in each of its connections for good, and messages
    /// are short.
    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn max_receive_segments(&self) -> usize {
        self.receive_segments
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room to send, for one of the connections on the socket.
struct Writable {
    socket: Arc<FilteredSocket>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl std::fmt::Debug for Writable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writable").finish_non_exhaustive()
    }
}

impl UdpPoller for Writable {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = Arc::clone(&self.socket);
        // The socket itself would wake only the last of them that asked.
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(async move { socket.io.writable().await }));
        let result = ready!(waiting.as_mut().poll(context));
        self.waiting = None;
        Poll::Ready(result)
    }
}
