//! UDP sockets for event loops: many datagrams for one system call, in and out.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
};

use mio::{Interest, Registry, Token, event::Source};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sieve::{self, Step};

/// Room for bursts in the kernel, in bytes: 4 ms of a 10 Gbit/s line each way.
///
/// The kernel gives what its limits permit; less only means earlier loss.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Room for what a privileged process may receive in one burst, in bytes: a thousand handshakes over
/// QUIC that meet one connector. Memory is taken only while datagrams wait.
const BURST_BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// Buffers that one receive call fills.
const BATCH: usize = 8;

/// Bytes of one receive buffer: the largest coalesced receive that the kernel hands over.
const BUFFER_BYTES: usize = 65_536;

/// Most bytes that one segmented send may carry.
///
/// Source: UDP over IPv4 carries at most 65,535 - 20 - 8 bytes (RFC 768, RFC 791).
const SEND_BYTES_MAX: usize = 65_507;

/// A nonblocking UDP socket with segmentation offload where the kernel has it.
#[derive(Debug)]
pub struct UdpSocket {
    io: mio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

impl UdpSocket {
    /// Binds to `local`; port 0 takes any.
    ///
    /// # Errors
    /// As the system says, `AddrInUse` among others.
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        Self::open(local, None)
    }

    /// The same for addresses of `local`'s family alone, so that a port has a socket of each.
    ///
    /// # Errors
    /// As the system says, `AddrInUse` among others.
    pub fn bind_one_family(local: SocketAddr) -> io::Result<Self> {
        let socket = unbound(local)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&local.into())?;
        Self::wrap(socket)
    }

    /// Binds to any address and takes datagrams from `peer` alone.
    ///
    /// # Errors
    /// As the system says.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = if peer.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        Self::open(any, Some(peer))
    }

    fn open(local: SocketAddr, peer: Option<SocketAddr>) -> io::Result<Self> {
        let socket = socket(local)?;
        if let Some(peer) = peer {
            socket.connect(&peer.into())?;
        }
        Self::wrap(socket)
    }

    fn wrap(socket: Socket) -> io::Result<Self> {
        let io = mio::net::UdpSocket::from_std(socket.into());
        let state = UdpSocketState::new(UdpSockRef::from(&io))?;
        let local = io.local_addr()?;
        Ok(Self { io, state, local })
    }

    /// Has the kernel drop what does not pass these steps, which is all that changes where it takes none.
    #[must_use]
    pub fn behind(self, steps: &[Step]) -> Self {
        sieve::attach(&self.io, steps);
        self
    }

    /// Has the kernel hand over everything again.
    ///
    /// # Errors
    /// When it dropped nothing for its shape before.
    pub fn without_sieve(&self) -> io::Result<()> {
        sieve::detach(&self.io)
    }

    /// How many datagrams the kernel has dropped, by their shape or for want of room: it counts both in one,
    /// those that it had coalesced once, and begins anew after 2³².
    ///
    /// # Errors
    /// As the kernel says.
    pub fn dropped(&self) -> io::Result<u32> {
        sieve::dropped(&self.io)
    }

    /// Where it is bound.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Fills `batch` with what has arrived and returns how many buffers it took.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there. `ConnectionRefused` on a connected socket says that
    /// nobody listens at its peer, and is no reason to stop receiving.
    pub fn receive(&self, batch: &mut Received) -> io::Result<usize> {
        batch.filled = 0;
        let mut slices: Vec<IoSliceMut<'_>> = Vec::with_capacity(BATCH);
        slices.extend(
            batch
                .bytes
                .chunks_exact_mut(BUFFER_BYTES)
                .map(IoSliceMut::new),
        );
        let socket = UdpSockRef::from(&self.io);
        let filled = self.state.recv(socket, &mut slices, &mut batch.metas)?;
        batch.filled = filled;
        Ok(filled)
    }

    /// Sends `bytes` to `to`: one datagram, or as many as `segment` divides them into.
    ///
    /// Returns how many bytes are done with; fewer than all mean that the socket is full and the
    /// rest is to be sent when it is writable again. A datagram that the network refuses is done
    /// with: it is lost, as datagrams are.
    ///
    /// # Errors
    /// `WouldBlock` when not even the first went out.
    pub fn send(&self, to: SocketAddr, segment: Option<usize>, bytes: &[u8]) -> io::Result<usize> {
        let segment = segment.filter(|size| *size > 0 && *size < bytes.len());
        let mut rest = bytes;
        loop {
            let most = segment.map_or(rest.len(), |size| {
                let count = self
                    .state
                    .max_gso_segments()
                    .min(SEND_BYTES_MAX / size)
                    .max(1);
                size * count
            });
            let (chunk, later) = rest.split_at(most.min(rest.len()));
            let sent = self.send_once(to, segment.filter(|size| *size < chunk.len()), chunk);
            match sent {
                Ok(()) => rest = later,
                // The kernel cannot segment: quinn-udp remembers that, so the next turn of this
                // loop sends the same bytes one datagram at a time.
                Err(error)
                    if is_segmentation(&error)
                        && segment.is_some_and(|size| size < chunk.len()) =>
                {
                    if self.state.max_gso_segments() > 1 {
                        rest = later;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let done = bytes.len() - rest.len();
                    return if done == 0 { Err(error) } else { Ok(done) };
                }
                Err(error) => {
                    tracing::trace!(%error, bytes = chunk.len(), "a datagram was not sent");
                    rest = later;
                }
            }
            if rest.is_empty() {
                return Ok(bytes.len());
            }
        }
    }

    fn send_once(&self, to: SocketAddr, segment: Option<usize>, bytes: &[u8]) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: bytes,
            segment_size: segment,
            src_ip: None,
        };
        self.state.try_send(UdpSockRef::from(&self.io), &transmit)
    }
}

impl Source for UdpSocket {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.io.register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        self.io.reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.io.deregister(registry)
    }
}

/// What one receive call brought, in buffers that are used again by the next.
pub struct Received {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH],
    filled: usize,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received")
            .field("filled", &self.filled)
            .finish_non_exhaustive()
    }
}

impl Default for Received {
    fn default() -> Self {
        Self {
            bytes: vec![0; BATCH * BUFFER_BYTES],
            metas: [RecvMeta::default(); BATCH],
            filled: 0,
        }
    }
}

impl Received {
    /// Every buffer that came from one sender: the address, the size of each datagram but the last,
    /// and all their bytes, back to back.
    pub fn runs(&mut self) -> impl Iterator<Item = (SocketAddr, usize, &mut [u8])> {
        self.bytes
            .chunks_exact_mut(BUFFER_BYTES)
            .zip(&self.metas)
            .take(self.filled)
            .filter_map(|(buffer, meta)| {
                let stride = if meta.stride == 0 {
                    meta.len.max(1)
                } else {
                    meta.stride
                };
                Some((unmapped(meta.addr), stride, buffer.get_mut(..meta.len)?))
            })
    }

    /// Every datagram, with its sender.
    pub fn datagrams(&mut self) -> impl Iterator<Item = (SocketAddr, &mut [u8])> {
        self.runs().flat_map(|(from, stride, bytes)| {
            let empty = bytes.is_empty();
            let whole = bytes
                .chunks_mut(stride)
                .map(move |datagram| (from, datagram));
            // An empty datagram has no chunk, and is a datagram all the same.
            let none: Option<(SocketAddr, &mut [u8])> = empty.then_some((from, &mut []));
            whole.chain(none)
        })
    }
}

/// Makes and binds a socket with large buffers.
pub(crate) fn socket(local: SocketAddr) -> io::Result<Socket> {
    let socket = unbound(local)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

/// Makes a socket with large buffers for `local`'s family.
fn unbound(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Only a privileged process may ask for more than the system's limit.
    let forced = set_socket_recv_buffer_size_force(&socket, BURST_BUFFER_BYTES);
    for result in [
        forced.or_else(|_| socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)),
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES),
    ] {
        if let Err(error) = result {
            tracing::debug!(%error, "socket buffers keep the system's size");
        }
    }
    Ok(socket)
}

/// An IPv4 address that a dual-stack socket shows as IPv6 is shown as what it is.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether the kernel says that it, or the network card, cannot segment.
fn is_segmentation(error: &io::Error) -> bool {
    matches!(
        error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error),
        Some(rustix::io::Errno::IO | rustix::io::Errno::INVAL)
    )
}

#[cfg(test)]
mod tests;
