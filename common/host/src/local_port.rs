//! Sockets that programs of this machine alone reach, at an address that is not loopback.
//!
//! What this machine sends to an address of its own comes in through the loopback interface, and
//! nothing else does: a socket that is bound to it does not hear a neighbour who sends there.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

/// A UDP socket at `local`. Must be called within a tokio runtime.
///
/// # Errors
/// As the system says, `AddrInUse` among others.
pub fn udp(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bound(local, Type::DGRAM, Protocol::UDP)?;
    UdpSocket::from_std(socket.into())
}

/// A TCP socket that listens at `local`. Must be called within a tokio runtime.
///
/// # Errors
/// As the system says, `AddrInUse` among others.
pub fn tcp(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(local, Type::STREAM, Protocol::TCP)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bound(local: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind_device(Some(b"lo"))?;
    socket.bind(&local.into())?;
    Ok(socket)
}
