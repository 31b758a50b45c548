//! What is pushed through every contestant: one bulk stream, and many short connections.
#![expect(
    clippy::disallowed_types,
    reason = "a load generator uses sockets as any client does"
)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::program::now;

/// What a client sends first: how many bytes it wants, in big endian.
const REQUEST_BYTES: usize = 8;

/// What is served. One for all: a block for each connection would cost more than some of the ways that
/// are measured.
static BLOCK: [u8; 256 * 1024] = [0x5a; 256 * 1024];

/// Serves as many bytes as each connection asks for, until the process ends.
///
/// # Errors
/// When it cannot listen.
pub(crate) fn source() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut wanted = [0; REQUEST_BYTES];
    stream.read_exact(&mut wanted)?;
    let mut left = u64::from_be_bytes(wanted);
    while left > 0 {
        let take = usize::try_from(left).map_or(BLOCK.len(), |left| left.min(BLOCK.len()));
        stream.write_all(BLOCK.get(..take).unwrap_or_default())?;
        left = left.saturating_sub(u64::try_from(take)?);
    }
    Ok(())
}

/// Speed and cost of one bulk transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BulkFigure {
    /// Gbit/s of payload.
    pub(crate) gbit_s: f64,
    /// CPU seconds of the whole machine for each 10^9 payload bytes.
    pub(crate) cpu_s_per_gb: f64,
}

/// Fetches `bytes` through `address`.
///
/// # Errors
/// When fewer come.
pub(crate) fn bulk(address: &str, bytes: u64) -> Result<BulkFigure> {
    let cpu_before = cpu_seconds()?;
    let start = now();
    let mut stream = ask(address, bytes)?;
    let mut block = vec![0; 256 * 1024];
    let mut seen: u64 = 0;
    while seen < bytes {
        let read = stream.read(&mut block)?;
        ensure!(read > 0, "{address}: ended after {seen} of {bytes} bytes");
        seen += u64::try_from(read)?;
    }
    let took = now().duration_since(start).as_secs_f64();
    let cpu = cpu_seconds()? - cpu_before;
    #[expect(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "a figure to print"
    )]
    let gigabytes = bytes as f64 / 1e9;
    Ok(BulkFigure {
        gbit_s: gigabytes * 8.0 / took,
        cpu_s_per_gb: cpu / gigabytes,
    })
}

/// Rate and spread of short connections.
#[derive(Clone, Debug)]
pub(crate) struct ConnectFigure {
    /// Connections in a second.
    pub(crate) per_second: f64,
    /// Time of each, in milliseconds.
    pub(crate) times_ms: Vec<f64>,
}

/// Makes `total` connections, `at_once` at a time; each asks for one byte and waits for the end.
///
/// # Errors
/// When one of them fails.
pub(crate) fn connections(address: &str, total: u64, at_once: u64) -> Result<ConnectFigure> {
    let next = Arc::new(AtomicU64::new(0));
    let start = now();
    let workers: Vec<_> = (0..at_once)
        .map(|_| {
            let (next, address) = (Arc::clone(&next), address.to_owned());
            thread::spawn(move || -> Result<Vec<f64>> {
                let mut times = Vec::new();
                while next.fetch_add(1, Ordering::Relaxed) < total {
                    let start = now();
                    let mut answer = Vec::new();
                    ask(&address, 1)?.read_to_end(&mut answer)?;
                    ensure!(
                        answer.len() == 1,
                        "{address}: {} bytes for one",
                        answer.len()
                    );
                    times.push(now().duration_since(start).as_secs_f64() * 1_000.0);
                }
                Ok(times)
            })
        })
        .collect();
    let mut times_ms = Vec::new();
    for worker in workers {
        times_ms.extend(
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a worker panicked"))??,
        );
    }
    let took = now().duration_since(start).as_secs_f64();
    #[expect(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "a figure to print"
    )]
    let per_second = total as f64 / took;
    Ok(ConnectFigure {
        per_second,
        times_ms,
    })
}

/// Connects, asks for `bytes` and returns the stream they come on.
///
/// # Errors
/// When it cannot be reached.
pub(crate) fn ask(address: &str, bytes: u64) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&bytes.to_be_bytes())?;
    Ok(stream)
}

/// Opens a stream to an app by name through a SOCKS5 proxy (RFC 1928) and reads its first byte.
///
/// # Errors
/// When the proxy refuses or nothing comes.
pub(crate) fn first_byte_through_proxy(proxy: &str, app: &str, port: u16) -> Result<Duration> {
    let start = now();
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut request = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(app.len())?];
    request.extend_from_slice(app.as_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request)?;
    let mut method = [0; 2];
    stream.read_exact(&mut method)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    ensure!(answer[1] == 0, "{app}: the proxy answered {}", answer[1]);
    let address = match answer[3] {
        1 => 4,
        4 => 16,
        other => anyhow::bail!("{app}: address type {other}"),
    };
    let mut rest = vec![0; address + 2];
    stream.read_exact(&mut rest)?;
    stream.write_all(&1_u64.to_be_bytes())?;
    let mut first = [0; 1];
    stream.read_exact(&mut first)?;
    Ok(now().duration_since(start))
}

/// CPU time that the whole machine has spent working, in seconds.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .flat_map(str::parse)
        .collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or_default();
    // user, nice, system, irq, softirq; a tick is a hundredth of a second on every Linux.
    Ok((at(0) + at(1) + at(2) + at(5) + at(6)) / 100.0)
}
