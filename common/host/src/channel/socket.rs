//! The UDP socket below a channel: what is not for it does not reach QUIC.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{AsyncUdpSocket, UdpPoller, udp};
use tokio::{io::Interest, net::UdpSocket, sync::Notify};

use super::filter::Filter;

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
}

impl FilteredSocket {
    /// A server's socket.
    pub(super) fn bind(listen: SocketAddr, filter: &Arc<Filter>) -> io::Result<Arc<Self>> {
        Self::open(crate::udp::socket(listen)?, filter)
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
        let socket = Self::open(socket, filter)?;
        let refused = Arc::clone(&socket.refused);
        Ok((socket, refused))
    }

    fn open(socket: socket2::Socket, filter: &Arc<Filter>) -> io::Result<Arc<Self>> {
        let io = UdpSocket::from_std(socket.into())?;
        Ok(Arc::new(Self {
            state: udp::UdpSocketState::new((&io).into())?,
            io,
            filter: Arc::clone(filter),
            refused: Arc::default(),
        }))
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
                // No error of one datagram ends the loop, and none that stays keeps others waiting.
                Err(error) => {
                    tracing::trace!(%error, "nothing was received");
                    return Poll::Ready(Ok(0));
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
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
