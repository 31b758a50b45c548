//! The UDP socket below a client's channel.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{AsyncUdpSocket, UdpPoller, udp};
use tokio::{io::Interest, net::UdpSocket, sync::Notify};

/// A client's socket, connected to the one server, so that no stranger's datagram reaches QUIC.
///
/// The kernel then also reports that nobody listens at the server; that must not end the receive
/// loop, so it becomes a notice.
#[derive(Debug)]
pub(super) struct ConnectedSocket {
    io: UdpSocket,
    state: udp::UdpSocketState,
    refused: Arc<Notify>,
}

impl ConnectedSocket {
    pub(super) fn open(server: SocketAddr) -> io::Result<(Arc<Self>, Arc<Notify>)> {
        let any: SocketAddr = if server.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = crate::udp::socket(any)?;
        socket.connect(&server.into())?;
        let io = UdpSocket::from_std(socket.into())?;
        let refused = Arc::new(Notify::new());
        let socket = Self {
            state: udp::UdpSocketState::new((&io).into())?,
            io,
            refused: Arc::clone(&refused),
        };
        Ok((Arc::new(socket), refused))
    }
}

impl AsyncUdpSocket for ConnectedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable { socket: self })
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
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.refused.notify_one();
                }
                Err(error) => tracing::trace!(%error, "nothing was received"),
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

/// Waits for room to send, for the one connection on the socket.
#[derive(Debug)]
struct Writable {
    socket: Arc<ConnectedSocket>,
}

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.io.poll_send_ready(context)
    }
}
