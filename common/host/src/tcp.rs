//! TCP sockets for event loops.

use std::{io, net::SocketAddr, time::Duration};

pub use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1_024;

/// Listens at `local`; port 0 takes any. Small writes go out at once on the streams that it accepts.
///
/// # Errors
/// As the system says, `AddrInUse` among others.
pub fn listen(local: SocketAddr) -> io::Result<TcpListener> {
    listen_with(local, BACKLOG).map(TcpListener::from_std)
}

/// The same, for whatever loop; the kernel holds `backlog` connections until they are accepted.
///
/// # Errors
/// As [`listen`].
pub fn listen_with(local: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(local),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&local.into())?;
    // What is accepted has it too, without a call for each.
    socket.set_tcp_nodelay(true)?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Begins to connect to `peer`; the stream is writable, or has an error, when that is decided. Small
/// writes go out at once on it.
///
/// # Errors
/// As the system says.
pub fn connect(peer: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(peer)?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a stream keeps its delay");
    }
    Ok(stream)
}

/// Reads into the room that `buffer` has left; returns how many bytes came, 0 at the end.
///
/// The room is not wiped first, and what is read can be handed on without a copy.
///
/// # Errors
/// As the system says, `WouldBlock` among others.
pub fn read(stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let room = rustix::buffer::spare_capacity(buffer);
    Ok(rustix::io::read(stream, room)?)
}

/// Ends a connection with a reset, so that its peer cannot take what it got for all there is.
pub fn abort(stream: TcpStream) {
    if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a stream is closed, not reset");
    }
    drop(stream);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_types,
        reason = "the peer of the test is a plain socket"
    )]
    fn an_aborted_stream_resets_its_peer() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = accept(&listener);
        assert!(stream.nodelay().unwrap());
        abort(stream);
        let error = peer.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept() {
                Ok(accepted) => return accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }
}
