//! The servers that are asked for everything that is not ours.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use cardea_host::entropy;
use cardea_node::names::{id, is_answer, with_id};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};

/// How long one server may take; the C library gives up after ten seconds altogether.
const ANSWER_TIME: Duration = Duration::from_millis(1_500);

/// The same over TCP, with its handshake.
const STREAM_TIME: Duration = Duration::from_secs(3);

/// How often all of them are asked.
const ROUNDS: usize = 2;

/// Largest message.
pub(super) const MESSAGE_BYTES_MAX: usize = 65_535;

/// How a query came, and is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carried {
    /// In a datagram.
    Datagram,
    /// In a stream.
    Stream,
}

/// Servers, of which the one that answered last is asked first.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    all: Vec<SocketAddr>,
    first: AtomicUsize,
}

impl Servers {
    pub(crate) const fn new(all: Vec<SocketAddr>) -> Self {
        Self {
            all,
            first: AtomicUsize::new(0),
        }
    }

    pub(super) fn all(&self) -> &[SocketAddr] {
        &self.all
    }

    /// The answer to a query, from whoever has one; `None` when nobody does.
    ///
    /// Each attempt has a port and a number of its own, which whoever forges an answer must guess.
    pub(crate) async fn ask(&self, query: &[u8], carried: Carried) -> Option<Vec<u8>> {
        let asked = id(query)?;
        let first = self.first.load(Ordering::Relaxed);
        let mut poor = None;
        for turn in 0..self.all.len() * ROUNDS {
            let place = (first + turn).checked_rem(self.all.len())?;
            let server = *self.all.get(place)?;
            let sent = with_id(query, u16::from_be_bytes(entropy::bytes()));
            let answer = match carried {
                Carried::Datagram => {
                    tokio::time::timeout(ANSWER_TIME, datagram(server, &sent)).await
                }
                Carried::Stream => tokio::time::timeout(STREAM_TIME, stream(server, &sent)).await,
            };
            match answer {
                Ok(Ok(answer)) if is_poor(&answer) => poor = Some(with_id(&answer, asked)),
                Ok(Ok(answer)) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Some(with_id(&answer, asked));
                }
                Ok(Err(error)) => tracing::debug!(%error, "a name server failed"),
                Err(_) => tracing::debug!("a name server did not answer"),
            }
            // All of them have said that they cannot.
            if poor.is_some() && turn + 1 >= self.all.len() {
                break;
            }
        }
        poor
    }
}

/// Whether another server may know better: it failed, does not know how, or refused.
fn is_poor(answer: &[u8]) -> bool {
    answer
        .get(3)
        .is_some_and(|flags| matches!(flags & 0x0f, 2 | 4 | 5))
}

async fn datagram(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..len).unwrap_or_default();
        if is_answer(query, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn stream(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write(&mut stream, query).await?;
    let answer = read(&mut stream).await?;
    if is_answer(query, &answer) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Writes a message as streams have it. Source: RFC 7766 §8.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let framed = [&len.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

/// Reads one.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests;
