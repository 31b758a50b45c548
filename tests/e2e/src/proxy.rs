//! An HTTP proxy as offices have them: CONNECT, with a password, and nothing else.
#![expect(
    clippy::disallowed_types,
    reason = "end-to-end tests use sockets as any application does"
)]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

/// A proxy that serves until the process ends.
#[derive(Clone, Debug)]
pub struct ConnectProxy {
    /// Where it listens.
    pub address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicUsize,
    refused: AtomicUsize,
}

impl ConnectProxy {
    /// Serves whoever shows these credentials: the Base64 of `USER:PASSWORD` (RFC 7617).
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(listen: &str, credentials: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let counts = Arc::<Counts>::default();
        let proxy = Self {
            address,
            counts: Arc::clone(&counts),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counts = Arc::clone(&counts);
                thread::spawn(move || serve(stream, credentials, &counts));
            }
        });
        Ok(proxy)
    }

    /// How many connections it opened.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.counts.opened.load(Ordering::Relaxed)
    }

    /// How many it refused.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

fn serve(mut near: TcpStream, credentials: &str, counts: &Counts) -> Result<()> {
    near.set_nodelay(true)?;
    let mut reader = BufReader::new(near.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let target = lines
        .first()
        .and_then(|line| line.strip_prefix("CONNECT ")?.split(' ').next())
        .context("no CONNECT")?;
    let expected = format!("Proxy-Authorization: Basic {credentials}");
    if !lines.contains(&expected) {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        near.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(());
    }
    let mut far = TcpStream::connect(target)?;
    far.set_nodelay(true)?;
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    counts.opened.fetch_add(1, Ordering::Relaxed);
    let (mut back, mut from) = (near.try_clone()?, far.try_clone()?);
    let answering = thread::spawn(move || {
        let copied = std::io::copy(&mut from, &mut back);
        drop(back.shutdown(Shutdown::Both));
        copied
    });
    let copied = std::io::copy(&mut reader, &mut far);
    drop(far.shutdown(Shutdown::Both));
    drop(answering.join());
    copied?;
    Ok(())
}
