//! A node's end of a detour.

use std::{io, net::IpAddr, sync::Arc};

use cardea_credential::tls;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use super::{Proxy, TlsStream};
use crate::{channel::Caller, clock::Clock};

/// What follows the knock in the server's name where the front has an address and no name.
///
/// Source: RFC 2606 §2 keeps it for names that are none.
const NO_NAME: &str = "invalid";

/// Why there is no detour.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection, or none any longer.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What answers does not hold our seed, or somebody stands between who reads along.
    #[error("what answers there is not the front of our controller")]
    Impostor,
    /// No server can have this name.
    #[error("{0} is no HOST:PORT")]
    Name(String),
}

impl OpenError {
    /// Whether whoever stands between has said or shown this: a proxy that refuses, or one that reads along.
    #[must_use]
    pub fn is_told(&self) -> bool {
        match self {
            // A firewall of this machine refuses with a number of the system's.
            Self::Io(error) => {
                error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
            }
            Self::Impostor => true,
            Self::Name(_) => false,
        }
    }
}

/// Opens a detour to `front`, `HOST:PORT`, as `caller`. Its owner says how long that may take.
///
/// # Errors
/// [`OpenError`].
pub async fn open(
    front: &str,
    caller: &Caller,
    proxy: Option<&Proxy>,
) -> Result<TlsStream, OpenError> {
    let name = server_name(front, caller)?;
    let tcp = match proxy.filter(|proxy| proxy.leads_to(host_of(front))) {
        None => TcpStream::connect(front).await?,
        Some(proxy) => proxy.connect(front).await?,
    };
    tcp.set_nodelay(true)?;
    let config = Arc::new(tls::front_client(Arc::new(Clock::system())));
    let connection = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut stream = TlsStream::new(tcp, connection);
    stream.shake_hands().await?;
    let proof = stream.read_exact().await?;
    if !caller.is_front_proof(&stream.exporter()?, &proof) {
        return Err(OpenError::Impostor);
    }
    Ok(stream)
}

/// The host of `HOST:PORT`, an address without its brackets.
fn host_of(front: &str) -> &str {
    let (host, _) = front.rsplit_once(':').unwrap_or((front, ""));
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The knock, and the front's own name behind it, or nobody's.
fn server_name(front: &str, caller: &Caller) -> Result<ServerName<'static>, OpenError> {
    let wrong = || OpenError::Name(front.to_owned());
    if !front.contains(':') {
        return Err(wrong());
    }
    let host = host_of(front);
    let host = if host.parse::<IpAddr>().is_ok() {
        NO_NAME
    } else {
        host
    };
    ServerName::try_from(format!("{}.{host}", caller.label())).map_err(|_| wrong())
}
