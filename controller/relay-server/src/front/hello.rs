//! The first message of a TLS client, read before anything is sent.

use std::io::{self, Read};

use rustls::server::{Accepted, Acceptor};
use tokio::net::TcpStream;

/// Most bytes that are read until the first message is whole.
///
/// One with two hybrid key shares and a long name has three thousand.
const HELLO_BYTES_MAX: usize = 8 * 1024;

/// Reads a ClientHello; `None` when it is none, or does not end. What TLS would say to that (RFC 8446
/// §6.2) is not said.
pub(super) async fn read(tcp: &TcpStream) -> io::Result<Option<Accepted>> {
    let mut acceptor = Acceptor::default();
    let mut left = HELLO_BYTES_MAX;
    while left > 0 {
        tcp.readable().await?;
        match acceptor.read_tls(&mut Limited(tcp, left)) {
            Ok(0) => return Ok(None),
            Ok(count) => left = left.saturating_sub(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        match acceptor.accept() {
            Ok(Some(hello)) => return Ok(Some(hello)),
            Ok(None) => {}
            Err((error, _)) => {
                tracing::trace!(%error, "no ClientHello");
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// The label that its server name begins with.
pub(super) fn label(hello: &Accepted) -> Option<String> {
    let hello = hello.client_hello();
    let (label, _) = hello.server_name()?.split_once('.')?;
    Some(label.to_owned())
}

/// So many bytes of a connection at most.
struct Limited<'a>(&'a TcpStream, usize);

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.1);
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        self.0.try_read(buffer)
    }
}
