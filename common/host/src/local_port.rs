//! Sockets that programs of this machine alone reach, at an address of an interface of ours.
//!
//! What this machine sends to an address of its own never leaves it, and comes in as if through the
//! interface that has the address: a socket that is bound to that interface does not hear a neighbour
//! who sends there through another.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// A UDP socket at `local` of `interface`. Must be called within a tokio runtime.
///
/// # Errors
/// As the system says, `AddrInUse` among others.
pub fn udp(local: SocketAddr, interface: &str) -> io::Result<UdpSocket> {
    let socket = bound(local, interface, (Type::DGRAM, Protocol::UDP))?;
    UdpSocket::from_std(socket.into())
}

/// A TCP socket that listens at `local` of `interface`. Must be called within a tokio runtime.
///
/// # Errors
/// As the system says, `AddrInUse` among others.
pub fn tcp(local: SocketAddr, interface: &str) -> io::Result<TcpListener> {
    let socket = bound(local, interface, (Type::STREAM, Protocol::TCP))?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bound(
    local: SocketAddr,
    interface: &str,
    (kind, protocol): (Type, Protocol),
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&local.into())?;
    Ok(socket)
}
