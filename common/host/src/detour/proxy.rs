//! Out of a network through its HTTP proxy (RFC 9110 §9.3.6).

use std::{fmt, io, str::FromStr};

use data_encoding::BASE64;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use zeroize::Zeroizing;

use super::Exceptions;

/// Longest answer of a proxy to CONNECT, in bytes; it is a status and some headers.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// Port of a proxy whose URL names none: that of its scheme (RFC 9110 §4.2.1).
const PORT: u16 = 80;

/// A proxy, as `HTTPS_PROXY` names it: `http://[USER:PASSWORD@]HOST[:PORT]`, and where it is not used.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// `HOST:PORT`.
    address: String,
    /// What it wants to hear (RFC 7617).
    credentials: Option<Zeroizing<String>>,
    /// As it was given.
    text: Zeroizing<String>,
    exceptions: Exceptions,
}

/// Text that names no proxy that we can use. Who wrote it is at fault. It does not repeat the text,
/// in which a password may stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseProxyError {
    /// Another scheme than `http`.
    #[error("only http:// proxies are known")]
    Scheme,
    /// No host, or a port that is none.
    #[error("the proxy must be http://[USER:PASSWORD@]HOST[:PORT]")]
    Address,
}

impl Proxy {
    /// Where it is, `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same, but not for these hosts.
    #[must_use]
    pub fn except(self, exceptions: Exceptions) -> Self {
        Self { exceptions, ..self }
    }

    /// The hosts that it is not used for.
    #[must_use]
    pub const fn exceptions(&self) -> &Exceptions {
        &self.exceptions
    }

    /// Whether `host` is reached by it.
    #[must_use]
    pub fn leads_to(&self, host: &str) -> bool {
        !self.exceptions.contain(host)
    }

    /// The URL, password and all, for another process's environment.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// A connection to `target`, `HOST:PORT`, whose name the proxy resolves.
    ///
    /// # Errors
    /// As the system says, `PermissionDenied` with the proxy's own words when it refuses.
    pub(super) async fn connect(&self, target: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).await?;
        let mut request =
            Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(credentials) = &self.credentials {
            let basic = Zeroizing::new(BASE64.encode(credentials.as_bytes()));
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&basic);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;
        let status = answer(&mut stream).await?;
        let code = status.split_ascii_whitespace().nth(1);
        // Any 2xx opens the tunnel.
        if code.is_some_and(|code| code.len() == 3 && code.starts_with('2')) {
            return Ok(stream);
        }
        let kept: String = status.chars().filter(|c| !c.is_control()).collect();
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the proxy {self} answers: {kept}"),
        ))
    }
}

/// Reads up to the end of an answer's headers, and not a byte further: what follows is not the
/// proxy's. Returns the first line.
async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if bytes.len() >= ANSWER_BYTES_MAX {
            let why = "the proxy's answer to CONNECT does not end";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        bytes.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl FromStr for Proxy {
    type Err = ParseProxyError;

    fn from_str(text: &str) -> Result<Self, ParseProxyError> {
        let rest = match text.split_once("://") {
            None => text,
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ParseProxyError::Scheme),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(unescaped(credentials)), place),
            None => (None, authority),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.ends_with(']') => {
                (host, port.parse().map_err(|_| ParseProxyError::Address)?)
            }
            _ => (place, PORT),
        };
        if host.is_empty() || port == 0 || host.contains(char::is_whitespace) {
            return Err(ParseProxyError::Address);
        }
        Ok(Self {
            address: format!("{host}:{port}"),
            credentials,
            text: Zeroizing::new(text.to_owned()),
            exceptions: Exceptions::default(),
        })
    }
}

/// Where it is, without what is secret.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// Percent-encoded text as it is meant (RFC 3986 §2.1).
fn unescaped(text: &str) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.split_first_chunk::<2>().filter(|_| *first == b'%');
        let decoded = escaped.and_then(|(digits, after)| {
            let byte = data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()?;
            Some((*byte.first()?, after))
        });
        let (byte, after) = decoded.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_the_proxy_is_and_what_it_wants_to_hear() {
        for (text, address, credentials) in [
            ("http://proxy.example:3128", "proxy.example:3128", None),
            ("http://proxy.example:3128/", "proxy.example:3128", None),
            ("proxy.example", "proxy.example:80", None),
            ("HTTP://[2001:db8::1]:8080", "[2001:db8::1]:8080", None),
            ("http://[2001:db8::1]", "[2001:db8::1]:80", None),
            ("http://a:b@p:1", "p:1", Some("a:b")),
            ("http://a%40corp:p%3a%2F%25@p:1", "p:1", Some("a@corp:p:/%")),
            ("http://a:b%zz@p:1", "p:1", Some("a:b%zz")),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.address, address, "{text}");
            let found = proxy.credentials.as_ref().map(|found| found.as_str());
            assert_eq!(found, credentials, "{text}");
            assert!(!format!("{proxy:?} {proxy}").contains('@'), "{proxy:?}");
        }
        for (text, expected) in [
            ("https://p:1", ParseProxyError::Scheme),
            ("socks5://p:1", ParseProxyError::Scheme),
            ("", ParseProxyError::Address),
            ("http://", ParseProxyError::Address),
            ("http://a:b@", ParseProxyError::Address),
            ("http://p:x", ParseProxyError::Address),
            ("http://p:0", ParseProxyError::Address),
            ("http://p:70000", ParseProxyError::Address),
        ] {
            assert_eq!(text.parse::<Proxy>(), Err(expected), "{text}");
        }
    }
}
