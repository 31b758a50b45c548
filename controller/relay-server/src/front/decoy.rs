//! What a stranger sees at a front that is to look like any other web server.

use std::{fmt, io, sync::Arc};

use cardea_credential::tls::{self, DecoyError};
use cardea_host::{clock::Clock, detour::TlsStream};
use rustls::ServerConfig;

/// Longest request that is read, in bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// What is shown where the operator names no page.
const PAGE: &str = "<!doctype html><title>It works</title><h1>It works</h1>\n";

/// A page behind an operator's certificate.
#[derive(Clone)]
pub struct Decoy {
    tls: Arc<ServerConfig>,
    page: String,
}

impl fmt::Debug for Decoy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoy")
            .field("page", &self.page.len())
            .finish_non_exhaustive()
    }
}

impl Decoy {
    /// A page behind a certificate (PEM, the leaf first) and its key (PEM, PKCS#8).
    ///
    /// # Errors
    /// [`DecoyError`].
    pub fn new(certificate: &str, key: &str, page: Option<String>) -> Result<Self, DecoyError> {
        Ok(Self {
            tls: tls::front_decoy(certificate, key, Arc::new(Clock::system()))?,
            page: page.unwrap_or_else(|| PAGE.to_owned()),
        })
    }

    pub(super) const fn tls(&self) -> &Arc<ServerConfig> {
        &self.tls
    }

    /// One request and its answer (RFC 9112). Its caller says how long that may take.
    pub(super) async fn serve(&self, mut stream: TlsStream) -> io::Result<()> {
        stream.shake_hands().await?;
        let mut request = Vec::new();
        let mut buffer = [0; 1_024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            let count = stream.read(&mut buffer).await?;
            request.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if count == 0 || request.len() > REQUEST_BYTES_MAX {
                return Ok(());
            }
        }
        stream.write(self.answer(&request).as_bytes()).await?;
        stream.finish();
        Ok(())
    }

    fn answer(&self, request: &[u8]) -> String {
        let is_root = [&b"GET / "[..], b"GET /index.html ", b"HEAD / "]
            .iter()
            .any(|start| request.starts_with(start));
        let (status, page) = if is_root {
            ("200 OK", self.page.as_str())
        } else {
            (
                "404 Not Found",
                "<!doctype html><title>404</title>Not found\n",
            )
        };
        let body = if request.starts_with(b"HEAD ") {
            ""
        } else {
            page
        };
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            page.len()
        )
    }
}
