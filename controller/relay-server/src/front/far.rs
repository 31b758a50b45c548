//! A controller that is not in this process: one socket for each detour, connected to it.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::net::UdpSocket;

/// Largest datagram that is passed on: what a path of the internet carries, and a little more.
const DATAGRAM_BYTES_MAX: usize = 2 * 1024;

/// Answers that may fail before the socket is given up: a controller that is down makes its host
/// say so to each datagram.
const FAILURES_MAX: u32 = 1_000;

/// The way of one detour to the controller.
#[derive(Debug)]
pub(super) struct Far(UdpSocket);

impl Far {
    /// Resolves `HOST:PORT` and connects to its first address.
    pub(super) async fn open(address: &str) -> io::Result<Self> {
        let mut found = tokio::net::lookup_host(address).await?;
        let to = found.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let any: SocketAddr = if to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        Ok(Self(socket))
    }

    /// Sends a datagram, or loses it.
    pub(super) fn send(&self, datagram: &[u8]) {
        if let Err(error) = self.0.try_send(datagram) {
            tracing::trace!(%error, "a datagram of a detour was lost");
        }
    }

    /// Hands over what the controller answers, until that cannot be.
    pub(super) async fn receive(&self, mut take: impl FnMut(&[u8])) -> io::Error {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        let mut failures = 0;
        loop {
            match self.0.recv(&mut buffer).await {
                Ok(length) => take(buffer.get(..length).unwrap_or_default()),
                Err(error) if failures >= FAILURES_MAX => return error,
                Err(_) => failures += 1,
            }
        }
    }
}
