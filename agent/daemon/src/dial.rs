//! From `HOST:PORT` to a connection: names resolved, addresses raced.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cardea_host::channel::{Caller, ChannelError, Client, Connected};
use tokio::task::JoinSet;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// How long one address has a head start over the next.
///
/// Source: RFC 8305 §5 recommends 250 ms.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long a handshake may take; with 20 % loss it is done by then.
pub const CONNECT_TIME: Duration = Duration::from_secs(5);

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
}

/// Connects as `caller` to one of the addresses of `address`, the first that answers.
///
/// # Errors
/// [`DialError`].
pub async fn dial(
    address: &str,
    tls: &Arc<rustls::ClientConfig>,
    caller: &Caller,
) -> Result<Connected, DialError> {
    let not_resolved = |why: String| DialError::NotResolved {
        address: address.to_owned(),
        why,
    };
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| not_resolved(error.to_string()))?;
    let addresses: Vec<SocketAddr> = found.take(ADDRESSES_MAX).collect();
    let mut attempts = JoinSet::new();
    for (place, address) in (0_u32..).zip(addresses) {
        let (tls, caller) = (Arc::clone(tls), caller.clone());
        attempts.spawn(async move {
            tokio::time::sleep(HEAD_START * place).await;
            Client::connect(address, tls, &caller, CONNECT_TIME).await
        });
    }
    let mut last = None;
    while let Some(result) = attempts.join_next().await {
        match result {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = Some(error),
            Err(error) => tracing::error!(%error, "an attempt to connect panicked"),
        }
    }
    Err(last.map_or_else(|| not_resolved("it has no address".to_owned()), Into::into))
}
