//! The stub resolver's sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use cardea_host::{local_port, resolv_conf::PORT};
use cardea_node::names::Verdict;
use cardea_proto::name::Name;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    Asked, Known,
    upstream::{self, Carried, MESSAGE_BYTES_MAX},
};

/// Queries that are passed on at a time; more are told that it failed.
const PASSED_MAX: usize = 512;

/// How long a host may take to get addresses; who asks asks again after a few seconds.
const GIVE_TIME: Duration = Duration::from_secs(2);

/// Connections at a time.
const STREAMS_MAX: usize = 64;

/// How long a connection may say nothing.
const STREAM_TIME: Duration = Duration::from_secs(10);

/// A stub resolver that answers; it stops when dropped.
#[derive(Debug)]
pub(super) struct Stub {
    at: Vec<SocketAddr>,
    tasks: JoinSet<()>,
}

impl Stub {
    /// Answers at the addresses, the first of which it must have. Where others take `any_port` for an
    /// answer, a port that another program has is no obstacle.
    pub(super) fn start(
        (addresses, interface): (&[IpAddr], &str),
        any_port: bool,
        (known, ask): (&watch::Receiver<Known>, &mpsc::Sender<Asked>),
    ) -> io::Result<Self> {
        let mut stub = Self {
            at: Vec::new(),
            tasks: JoinSet::new(),
        };
        let room = Arc::new(Semaphore::new(PASSED_MAX));
        for address in addresses {
            let bound = match bind((*address, PORT), interface) {
                Err(error) if any_port && error.kind() == io::ErrorKind::AddrInUse => {
                    bind((*address, 0), interface)
                }
                bound => bound,
            };
            let (udp, tcp) = match bound {
                Err(error) if stub.at.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "the stub resolver answers over IPv4 alone");
                    continue;
                }
                Ok(bound) => bound,
            };
            stub.at.push(udp.local_addr()?);
            let answerer = Answerer {
                own: *address,
                known: known.clone(),
                ask: ask.clone(),
                room: Arc::clone(&room),
            };
            stub.tasks.spawn(datagrams(udp, answerer.clone()));
            stub.tasks.spawn(streams(tcp, answerer));
        }
        Ok(stub)
    }

    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.at
    }

    /// Whether every socket is still served.
    pub(super) fn is_alive(&mut self) -> bool {
        self.tasks.try_join_next().is_none()
    }
}

/// UDP and TCP at the same port.
fn bind((address, port): (IpAddr, u16), interface: &str) -> io::Result<(UdpSocket, TcpListener)> {
    let udp = local_port::udp(SocketAddr::new(address, port), interface)?;
    let tcp = local_port::tcp(udp.local_addr()?, interface)?;
    Ok((udp, tcp))
}

/// What every socket has.
#[derive(Clone)]
struct Answerer {
    /// Where it answers.
    own: IpAddr,
    known: watch::Receiver<Known>,
    ask: mpsc::Sender<Asked>,
    room: Arc<Semaphore>,
}

/// What follows a query.
enum Next {
    Answer(Vec<u8>),
    Later(tokio::task::JoinHandle<Vec<u8>>),
    Nothing,
}

impl Answerer {
    /// Whether a program of this machine asks: an app that sends here has another address.
    fn is_local(&self, from: SocketAddr) -> bool {
        from.ip() == self.own || from.ip().is_loopback()
    }

    fn take(&self, query: &[u8], carried: Carried) -> Next {
        let known = self.known.borrow();
        let (failed, host) = match known.names.judge(query) {
            Verdict::Answer(answer) => return Next::Answer(answer),
            Verdict::Ignore => return Next::Nothing,
            Verdict::PassOn { failed } => (failed, None),
            Verdict::Give { host, failed } => (failed, Some(host)),
        };
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            return Next::Answer(failed);
        };
        if let Some(host) = host {
            let (query, answerer) = (query.to_vec(), self.clone());
            return Next::Later(tokio::spawn(async move {
                let answer = answerer.give(host, &query).await;
                drop(permit);
                answer.unwrap_or(failed)
            }));
        }
        let servers = Arc::clone(&known.servers);
        let query = query.to_vec();
        Next::Later(tokio::spawn(async move {
            let answer = servers.ask(&query, carried).await;
            drop(permit);
            answer.unwrap_or(failed)
        }))
    }
}

impl Answerer {
    /// Waits until a host has addresses, and answers with them.
    async fn give(&self, host: Name, query: &[u8]) -> Option<Vec<u8>> {
        let (given, told) = oneshot::channel();
        self.ask.try_send(Asked { host, given }).ok()?;
        tokio::time::timeout(GIVE_TIME, told).await.ok()?.ok()?;
        match self.known.borrow().names.judge(query) {
            Verdict::Answer(answer) => Some(answer),
            Verdict::Ignore | Verdict::PassOn { .. } | Verdict::Give { .. } => None,
        }
    }
}

async fn datagrams(socket: UdpSocket, answerer: Answerer) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => return tracing::warn!(%error, "the stub resolver's socket ended"),
        };
        if !answerer.is_local(from) {
            continue;
        }
        let query = buffer.get(..len).unwrap_or_default();
        match answerer.take(query, Carried::Datagram) {
            Next::Answer(answer) => send(&socket, &answer, from).await,
            Next::Later(answer) => {
                let socket = Arc::clone(&socket);
                tokio::spawn(async move {
                    if let Ok(answer) = answer.await {
                        send(&socket, &answer, from).await;
                    }
                });
            }
            Next::Nothing => {}
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%error, "a program did not get its answer");
    }
}

async fn streams(listener: TcpListener, answerer: Answerer) {
    let room = Arc::new(Semaphore::new(STREAMS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, from)) if answerer.is_local(from) => stream,
            Ok(_) => continue,
            Err(error) => return tracing::warn!(%error, "the stub resolver's listener ended"),
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let answerer = answerer.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &answerer).await {
                tracing::debug!(%error, "a program's connection ended");
            }
            drop(permit);
        });
    }
}

/// Queries one after the other, until the program has no more.
async fn converse(mut stream: TcpStream, answerer: &Answerer) -> io::Result<()> {
    loop {
        let read = tokio::time::timeout(STREAM_TIME, upstream::read(&mut stream));
        let query = match read.await {
            Err(_) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(query) => query?,
        };
        let answer = match answerer.take(&query, Carried::Stream) {
            Next::Answer(answer) => answer,
            Next::Later(answer) => answer.await.map_err(io::Error::other)?,
            Next::Nothing => return Ok(()),
        };
        let write = tokio::time::timeout(STREAM_TIME, upstream::write(&mut stream, &answer));
        write.await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}
