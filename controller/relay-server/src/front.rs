//! The front: where nodes reach relay and controller by TCP when UDP does not pass.
//!
//! ```text
//!  accept ─▶ ClientHello, read with limits ─▶ knock in its server name ─┬─ opens ─▶ TLS, proof, frames
//!                                                                       └─ else ──▶ closed, or decoy
//! ```
//!
//! A port of TCP is seen by whoever scans for it: the kernel answers a SYN. Past that, a stranger hears
//! nothing, in whatever state he leaves the connection, unless the operator wants him to see a page.
//! Everything runs on a thread of its own, so that handshakes keep nobody else waiting.

mod decoy;
mod far;
mod hello;
mod keeper;

use std::{fmt, io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use cardea_credential::tls;
use cardea_host::{
    channel::Inlet,
    clock::Clock,
    detour::{Detours, TlsStream},
    places::{Place, Places},
    process,
};
use cardea_proto::detour::Aim;
use rustls::{ServerConfig, server::Accepted};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use self::far::Far;
pub use self::{decoy::Decoy, keeper::Keeper};
use crate::Arrivals;

/// How long a stranger has from his connection to the end of its handshake.
const TIME_BEFORE_TRUST: Duration = Duration::from_secs(5);

/// Connections at one time whose knock has not been heard, or whose handshake goes on.
const STRANGERS_MAX: usize = 512;

/// The same of one address or IPv6 /64. Each lasts [`TIME_BEFORE_TRUST`] at most.
const STRANGERS_PER_SOURCE_MAX: usize = 64;

/// Detours at one time; fewer where the system gives fewer descriptors, of which the rest of the
/// process needs its half.
const DETOURS_MAX: usize = 8_192;

/// Which part of all detours one address or IPv6 /64 may have: thousands may be behind one.
const SOURCE_PART: usize = 4;

/// How long a detour may be silent: four keepalives of a relay's way, nine of a channel.
const IDLE: Duration = Duration::from_secs(90);

/// How long the front pauses when the system has no descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1_024;

/// A front that is bound to its port and does not serve yet.
#[derive(Debug)]
pub struct Front {
    listener: std::net::TcpListener,
    address: SocketAddr,
    shared: Shared,
}

/// Where a front's datagrams go: to these two, whatever a node says.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The relay's loop.
    pub relay: Arrivals,
    /// The controller's port, if there is one.
    pub controller: Option<Controller>,
}

/// How a controller is reached from a front.
#[derive(Clone, Debug)]
pub enum Controller {
    /// It is in this process.
    Beside(Inlet),
    /// It is elsewhere, at this `HOST:PORT`, by UDP.
    At(String),
}

/// A front on a thread of its own; dropping it ends the front and its detours.
#[derive(Debug)]
pub struct RunningFront {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What every connection needs.
#[derive(Clone)]
struct Shared {
    keeper: Keeper,
    tls: Arc<ServerConfig>,
    decoy: Option<Decoy>,
    detours: Detours,
    targets: Targets,
    places: Places,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Front {
    /// Listens at `listen` (port 0 takes any) for whoever `keeper` knows.
    ///
    /// # Errors
    /// As the system says, `AddrInUse` among others.
    pub fn bind(
        listen: SocketAddr,
        keeper: Keeper,
        decoy: Option<Decoy>,
        (detours, targets): (Detours, Targets),
    ) -> io::Result<Self> {
        let listener = cardea_host::tcp::listen_with(listen, BACKLOG)?;
        let tls = tls::front_server(Arc::new(Clock::system())).map_err(io::Error::other)?;
        let most = DETOURS_MAX.min(process::descriptors_max() / 2);
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            shared: Shared {
                keeper,
                tls,
                decoy,
                detours,
                targets,
                places: Places::new(most, (most / SOURCE_PART).max(1)),
            },
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves on a thread of its own, which drops `held` when it ends, however it ends: the other half
    /// of a channel tells of it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(self, held: impl Send + 'static) -> io::Result<RunningFront> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("front".to_owned())
            .spawn(move || {
                let _held = held;
                runtime.block_on(async {
                    tokio::select! {
                        result = self.serve() => {
                            if let Err(error) = result {
                                tracing::error!(%error, "the front ended");
                            }
                        }
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(RunningFront {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    async fn serve(self) -> io::Result<()> {
        tracing::info!(listen = %self.address, "front is listening");
        let listener = TcpListener::from_std(self.listener)?;
        let strangers = Places::new(STRANGERS_MAX, STRANGERS_PER_SOURCE_MAX);
        loop {
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Whoever finds no place is closed without a byte, like whoever has no knock.
            let Ok(place) = strangers.take(peer) else {
                continue;
            };
            let shared = self.shared.clone();
            tokio::spawn(async move {
                if let Err(error) = shared.serve(tcp, peer, place).await {
                    tracing::debug!(reason = %error, "a detour ended");
                }
            });
        }
    }
}

impl Shared {
    /// From a stranger's connection to the end of his detour.
    async fn serve(self, tcp: TcpStream, peer: SocketAddr, place: Place) -> io::Result<()> {
        let welcomed = tokio::time::timeout(TIME_BEFORE_TRUST, self.welcome(tcp, peer));
        let Some((stream, _seat)) = welcomed.await?? else {
            return Ok(());
        };
        drop(place);
        let (joined, outgoing) = self.detours.join(peer);
        let from = joined.address();
        tracing::debug!("a detour is open");
        let Targets { relay, controller } = self.targets;
        let far = match &controller {
            Some(Controller::At(address)) => Some(Far::open(address).await?),
            Some(Controller::Beside(_)) | None => None,
        };
        let carried = stream.carry(outgoing, IDLE, |aim, datagram| match (aim, &controller) {
            (Aim::Relay, _) => relay.give(from, datagram),
            (Aim::Controller, Some(Controller::Beside(inlet))) => inlet.give(from, datagram),
            (Aim::Controller, Some(Controller::At(_)) | None) => {
                if let Some(far) = &far {
                    far.send(datagram);
                }
            }
        });
        let answers = async {
            match &far {
                Some(far) => far.receive(|datagram| {
                    self.detours.send(from, Aim::Controller, datagram);
                }),
                None => return std::future::pending().await,
            }
            .await
        };
        tokio::select! {
            result = carried => result,
            error = answers => Err(error),
        }
    }

    /// Hears the knock, and proves that it was heard; `None` for who did not.
    async fn welcome(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
    ) -> io::Result<Option<(TlsStream, Place)>> {
        let Some(hello) = hello::read(&tcp).await? else {
            return Ok(None);
        };
        let keys = hello::label(&hello).and_then(|label| self.keeper.opens(&label));
        let Some(keys) = keys else {
            return self.turn_away(hello, tcp).await.map(|()| None);
        };
        let Ok(seat) = self.places.take(peer) else {
            return Ok(None);
        };
        tcp.set_nodelay(true)?;
        let mut stream = begin(hello, tcp, &self.tls)?;
        stream.shake_hands().await?;
        let proof = keys.front_proof(&stream.exporter()?);
        stream.write(&proof).await?;
        Ok(Some((stream, seat)))
    }

    /// A stranger hears nothing, or what everybody hears.
    async fn turn_away(&self, hello: Accepted, tcp: TcpStream) -> io::Result<()> {
        match &self.decoy {
            None => Ok(()),
            Some(decoy) => decoy.serve(begin(hello, tcp, decoy.tls())?).await,
        }
    }
}

/// TLS on from a ClientHello that was read.
fn begin(hello: Accepted, tcp: TcpStream, tls: &Arc<ServerConfig>) -> io::Result<TlsStream> {
    let connection = hello
        .into_connection(Arc::clone(tls))
        .map_err(|(error, _)| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(TlsStream::new(tcp, connection))
}

impl Drop for RunningFront {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the front's thread panicked");
        }
    }
}

#[cfg(test)]
mod tests;
