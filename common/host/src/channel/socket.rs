//! The UDP sockets below channels.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller, udp};
use tokio::sync::Notify;

/// A client's socket, connected to the one server, so that no stranger's datagram reaches QUIC.
///
/// The kernel then also reports that nobody listens at the server; that must not end the receive
/// loop, so it becomes a notice.
pub(super) struct ConnectedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
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
        let refused = Arc::new(Notify::new());
        let socket = Self {
            inner: TokioRuntime.wrap_udp_socket(socket.into())?,
            refused: Arc::clone(&refused),
        };
        Ok((Arc::new(socket), refused))
    }
}

impl fmt::Debug for ConnectedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for ConnectedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &udp::Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [udp::RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.inner.poll_recv(context, buffers, metas) {
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    self.refused.notify_one();
                }
                other => return other,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
