//! From `HOST:PORT` to a connection: names resolved, addresses raced, and fronts beside them.
//!
//! ```text
//!   0 ms  UDP to the first address, 250 ms later to the next, …
//! 300 ms  TLS to the first front,   250 ms later to the next, …
//! ```

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use cardea_host::{
    channel::{Caller, ChannelError, Client, Connected},
    detour::{self, OpenError, Proxy, TlsStream},
};
use tokio::task::JoinSet;

/// Addresses of one name that are tried, and fronts.
const ADDRESSES_MAX: usize = 4;

/// How long one address has a head start over the next.
///
/// Source: RFC 8305 §5 recommends 250 ms.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long UDP has a head start over fronts: a round trip around the world, in which it answers.
const UDP_HEAD_START: Duration = Duration::from_millis(300);

/// How long a handshake may take; with 20 % loss it is done by then.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long one front may take while a channel waits, which is given up 1.4 s after that is known.
const DETOUR_TIME: Duration = Duration::from_secs(1);

/// Where a controller is, and how one gets there.
#[derive(Clone, Debug)]
pub struct Destination {
    /// `HOST:PORT`, for UDP.
    pub address: String,
    /// `HOST:PORT` of its fronts.
    pub fronts: Vec<String>,
    /// The proxy that leads to fronts.
    pub proxy: Option<Proxy>,
}

/// A connection.
#[derive(Debug)]
pub struct Dialed {
    /// The connection.
    pub connected: Connected,
    /// The front by which it goes, when UDP did not answer first.
    pub front: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or there is nobody to ask.
    #[error("{address}: {why}")]
    NotResolved {
        /// `HOST:PORT` as given.
        address: String,
        /// What the resolver said.
        why: String,
    },
    /// No address answered; this is what the last one said.
    #[error("{0}")]
    Channel(#[from] ChannelError),
    /// A front did not let us in.
    #[error("{0}")]
    Front(#[from] OpenError),
}

impl DialError {
    /// How much it says: a controller's word, a proxy's or an impostor's, that UDP does not work, or
    /// that a front does not.
    fn weight(&self) -> u8 {
        match self {
            Self::Channel(ChannelError::Closed(_)) => 3,
            Self::Front(error) if error.is_told() => 2,
            Self::Channel(_) | Self::NotResolved { .. } => 1,
            Self::Front(_) => 0,
        }
    }
}

/// Connects as `caller` to `to`, by the first way that answers.
///
/// # Errors
/// [`DialError`]: what a controller said, else what stands in the way said, else why UDP does not reach
/// it.
pub async fn dial(
    to: &Destination,
    tls: &Arc<rustls::ClientConfig>,
    caller: &Caller,
) -> Result<Dialed, DialError> {
    let mut attempts = JoinSet::new();
    let resolved = Arc::new(OnceLock::new());
    attempts.spawn(by_udp(
        to.address.clone(),
        (Arc::clone(tls), caller.clone()),
        Arc::clone(&resolved),
    ));
    for (place, front) in (0_u32..).zip(to.fronts.iter().take(ADDRESSES_MAX)) {
        let (tls, caller) = (Arc::clone(tls), caller.clone());
        let (front, proxy, resolved) = (front.clone(), to.proxy.clone(), Arc::clone(&resolved));
        attempts.spawn(async move {
            tokio::time::sleep(UDP_HEAD_START + HEAD_START * place).await;
            let opening = detour::open(&front, &caller, proxy.as_ref());
            let detour = tokio::time::timeout(CONNECT_TIME, opening)
                .await
                .map_err(|_| ChannelError::NoAnswer(CONNECT_TIME))??;
            let udp = resolved.get().copied();
            let connected = Client::connect_by(detour, udp, tls, &caller, CONNECT_TIME).await?;
            Ok(Dialed {
                connected,
                front: Some(front),
            })
        });
    }
    let mut why: Option<DialError> = None;
    while let Some(result) = attempts.join_next().await {
        match result {
            Ok(Ok(dialed)) => return Ok(dialed),
            Ok(Err(error)) => {
                tracing::debug!(reason = %error, "a way to the controller does not work");
                if why
                    .as_ref()
                    .is_none_or(|why| why.weight() <= error.weight())
                {
                    why = Some(error);
                }
            }
            Err(error) => tracing::error!(%error, "an attempt to connect panicked"),
        }
    }
    Err(why.unwrap_or_else(|| ChannelError::NoAnswer(CONNECT_TIME).into()))
}

/// A detour to the first front that lets us in, and which that is, for a channel that is up.
pub(crate) async fn detour(to: &Destination, caller: &Caller) -> Option<(TlsStream, String)> {
    for front in to.fronts.iter().take(ADDRESSES_MAX) {
        let opening = detour::open(front, caller, to.proxy.as_ref());
        match tokio::time::timeout(DETOUR_TIME, opening).await {
            Ok(Ok(stream)) => return Some((stream, front.clone())),
            Ok(Err(error)) => tracing::debug!(%front, reason = %error, "no detour"),
            Err(_) => tracing::debug!(%front, "no detour: no answer in time"),
        }
    }
    None
}

/// Resolves a name and races its addresses; tells the first of them.
async fn by_udp(
    address: String,
    (tls, caller): (Arc<rustls::ClientConfig>, Caller),
    resolved: Arc<OnceLock<SocketAddr>>,
) -> Result<Dialed, DialError> {
    let not_resolved = |why: String| DialError::NotResolved {
        address: address.clone(),
        why,
    };
    let found = tokio::net::lookup_host(&address)
        .await
        .map_err(|error| not_resolved(error.to_string()))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    if let Some(first) = addresses.first() {
        resolved.get_or_init(|| *first);
    }
    let mut attempts = JoinSet::new();
    for (place, address) in (0_u32..).zip(addresses) {
        let (tls, caller) = (Arc::clone(&tls), caller.clone());
        attempts.spawn(async move {
            tokio::time::sleep(HEAD_START * place).await;
            Client::connect(address, tls, &caller, CONNECT_TIME).await
        });
    }
    let mut last = None;
    while let Some(result) = attempts.join_next().await {
        match result {
            Ok(Ok(connected)) => {
                return Ok(Dialed {
                    connected,
                    front: None,
                });
            }
            Ok(Err(error)) => last = Some(error),
            Err(error) => tracing::error!(%error, "an attempt to connect panicked"),
        }
    }
    Err(last.map_or_else(|| not_resolved("it has no address".to_owned()), Into::into))
}
