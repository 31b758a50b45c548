//! Pages, echoes and endless streams, and the clients that fetch them: plain sockets, no tools.
#![expect(
    clippy::disallowed_types,
    reason = "end-to-end tests use sockets as any application does"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{namespace::Namespace, program::now};

/// How long a client waits for its next byte.
const PATIENCE: Duration = Duration::from_secs(20);

/// An application to be reached: `GET /` answers a page, `GET /stream` never ends, and `GET /trickle`
/// neither, a little at a time.
#[derive(Debug)]
pub struct WebServer {
    /// Where it listens.
    pub address: SocketAddr,
}

impl WebServer {
    /// Serves `page` until the process ends.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(listen: &str, page: &'static str) -> Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream, page));
            }
        });
        Ok(Self { address })
    }
}

/// One request and its answer; the client sees an early end when something fails.
fn serve(stream: TcpStream, page: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let mut stream = stream;
    let is_slow = request.starts_with("GET /trickle");
    if is_slow || request.starts_with("GET /stream") {
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        let block = [b'.'; 16 * 1024];
        loop {
            stream.write_all(&block)?;
            if is_slow {
                thread::park_timeout(TRICKLE);
            }
        }
    }
    let length = page.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
    )?;
    Ok(())
}

/// Time between two blocks of a slow stream: often enough to time its end by.
const TRICKLE: Duration = Duration::from_millis(50);

/// Answers every datagram with itself.
///
/// # Errors
/// When it cannot listen.
pub fn udp_echo(listen: &str) -> Result<SocketAddr> {
    let socket = UdpSocket::bind(listen)?;
    let address = socket.local_addr()?;
    thread::spawn(move || {
        let mut datagram = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            if let Some(bytes) = datagram.get(..length) {
                drop(socket.send_to(bytes, from));
            }
        }
    });
    Ok(address)
}

/// Fetches `/` and returns the body.
///
/// # Errors
/// When the connection fails or ends early.
pub fn fetch(address: &str) -> Result<String> {
    let mut stream = connect(address)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: wiki\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("the connection was cut")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer has no header")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.to_owned())
}

/// Sends `text` and waits for it to come back; UDP may lose it, so it is sent up to ten times.
///
/// # Errors
/// When nothing comes back.
pub fn udp_round_trip(address: &str, text: &str) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = vec![0; 65_536];
    for _ in 0..10 {
        drop(socket.send(text.as_bytes()));
        if let Ok(length) = socket.recv(&mut answer)
            && answer.get(..length) == Some(text.as_bytes())
        {
            return Ok(());
        }
    }
    bail!("no answer from {address}")
}

/// Sends datagrams of every kind to `address`, and makes sure that nothing at all comes back.
///
/// # Errors
/// When something does, or when the host says that nobody listens there.
pub fn stay_unanswered(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    for first in 0..=u8::MAX {
        for length in [1, 8, 42, 98, 1_200] {
            let mut datagram = vec![first; length];
            if let Some(last) = datagram.last_mut() {
                *last = 0;
            }
            socket.send(&datagram)?;
        }
    }
    socket.set_read_timeout(Some(SILENCE))?;
    match socket.recv(&mut [0; 2_048]) {
        Ok(length) => bail!("{address} answered a stranger with {length} bytes"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How long a stranger waits for an answer that must not come: many times what an answer would take.
const SILENCE: Duration = Duration::from_millis(500);

/// Answers every byte with itself, on every connection.
///
/// # Errors
/// When it cannot listen.
pub fn tcp_echo(listen: &str) -> Result<SocketAddr> {
    let listener = TcpListener::bind(listen)?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    Ok(address)
}

fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut block = vec![0; 64 * 1024];
    loop {
        let length = stream.read(&mut block)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(block.get(..length).unwrap_or_default())?;
    }
}

/// A conversation with an echo: one block there, one block back, and again.
#[derive(Debug)]
pub struct Volley {
    stream: TcpStream,
    round: u8,
}

impl Volley {
    /// Connects and plays one round.
    ///
    /// # Errors
    /// When it fails.
    pub fn open(address: &str) -> Result<Self> {
        let mut volley = Self {
            stream: connect(address)?,
            round: 0,
        };
        volley.play(|| false)?;
        Ok(volley)
    }

    /// Plays at least one round and on while `goes_on`; says when each of them ended.
    ///
    /// # Errors
    /// When the connection is cut, or what comes back is not what was sent.
    pub fn play(&mut self, goes_on: impl Fn() -> bool) -> Result<Rounds> {
        let began = now();
        let mut ended = Vec::new();
        loop {
            self.round = self.round.wrapping_add(1);
            let block = vec![self.round; VOLLEY_BYTES];
            self.stream.write_all(&block)?;
            let mut back = vec![0; VOLLEY_BYTES];
            self.stream.read_exact(&mut back)?;
            ensure!(back == block, "the echo is another");
            ended.push(now());
            if !goes_on() {
                return Ok(Rounds { began, ended });
            }
        }
    }

    /// Plays from `host` with the echo at `address` there, all the while that `work` is done, and at
    /// least one round after it.
    ///
    /// # Errors
    /// As `work` says, or when the conversation was cut.
    pub fn during<T>(
        host: &Namespace,
        address: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Rounds)> {
        Self::during_for(host, (address, PATIENCE), work)
    }

    /// The same with another patience than usual.
    ///
    /// # Errors
    /// As `work` says, or when the conversation was cut.
    pub fn during_for<T>(
        host: &Namespace,
        (address, patience): (&str, Duration),
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Rounds)> {
        let is_on = AtomicBool::new(true);
        thread::scope(|scope| {
            let (began, begins) = mpsc::channel();
            let is_on = &is_on;
            let playing = scope.spawn(move || {
                host.within(|| {
                    let mut volley = Self::open(address)?;
                    volley.stream.set_read_timeout(Some(patience))?;
                    began.send(())?;
                    let rounds = volley.play(|| is_on.load(Ordering::Relaxed));
                    rounds.context("the conversation was cut")
                })
            });
            let worked = begins
                .recv()
                .context("there is no conversation")
                .and_then(|()| work());
            is_on.store(false, Ordering::Relaxed);
            let rounds = playing.join().map_err(|_| anyhow!("it panicked"))?;
            Ok((worked?, rounds?))
        })
    }
}

/// How a conversation went.
#[derive(Debug)]
pub struct Rounds {
    began: Instant,
    ended: Vec<Instant>,
}

impl Rounds {
    /// How long the longest round took.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let began = [self.began];
        let began = began.iter().chain(&self.ended);
        let each = began.zip(&self.ended);
        each.map(|(began, ended)| ended.duration_since(*began))
            .max()
            .unwrap_or_default()
    }

    /// How long after `at` the next round ended.
    ///
    /// # Errors
    /// When none did.
    pub fn next_after(&self, at: Instant) -> Result<Duration> {
        let next = self.ended.iter().find(|ended| **ended > at);
        Ok(next.context("no round ended")?.duration_since(at))
    }
}

/// Several full packets.
const VOLLEY_BYTES: usize = 8 * 1024;

/// A bulk transfer through an echo, of which every byte is checked as it comes back.
#[derive(Clone, Copy, Debug)]
pub struct Poured {
    /// How many bytes came back.
    pub bytes: u64,
    /// How long none did, at the longest.
    pub longest_gap: Duration,
}

/// Pours bytes into the echo at `address` of `host` all the while that `work` is done, and checks what
/// comes back.
///
/// # Errors
/// As `work` says, or when the connection is cut or brings other bytes.
pub fn pour_during<T>(
    host: &Namespace,
    address: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Poured)> {
    let is_on = AtomicBool::new(true);
    thread::scope(|scope| {
        let (began, begins) = mpsc::channel();
        let is_on = &is_on;
        let pouring = scope.spawn(move || {
            let stream = host.within(|| connect(address))?;
            let mut writer = stream.try_clone()?;
            thread::scope(|scope| {
                let writing = scope.spawn(move || {
                    let mut at = 0_u64;
                    while is_on.load(Ordering::Relaxed) {
                        let block: Vec<u8> = (at..at + POUR_BYTES).map(poured).collect();
                        writer.write_all(&block)?;
                        at += POUR_BYTES;
                    }
                    writer.shutdown(std::net::Shutdown::Write)?;
                    anyhow::Ok(at)
                });
                let read = read_poured(stream, &began);
                // A reader that gave up leaves nobody to write to.
                is_on.fetch_and(read.is_ok(), Ordering::Relaxed);
                let written = writing.join().map_err(|_| anyhow!("it panicked"))?;
                let (read, written) = (read?, written?);
                ensure!(read.bytes == written, "{} of {written} bytes", read.bytes);
                Ok(read)
            })
        });
        let worked = begins
            .recv()
            .context("nothing came back")
            .and_then(|()| work());
        is_on.store(false, Ordering::Relaxed);
        let poured = pouring.join().map_err(|_| anyhow!("it panicked"))?;
        Ok((worked?, poured.context("the transfer was cut")?))
    })
}

fn read_poured(mut stream: TcpStream, began: &mpsc::Sender<()>) -> Result<Poured> {
    let mut poured_so_far = Poured {
        bytes: 0,
        longest_gap: Duration::ZERO,
    };
    let mut block = vec![0; 64 * 1024];
    let mut last = None;
    loop {
        let length = stream.read(&mut block)?;
        if length == 0 {
            return Ok(poured_so_far);
        }
        let at = now();
        let gap = last.map_or(Duration::ZERO, |last| at.duration_since(last));
        poured_so_far.longest_gap = poured_so_far.longest_gap.max(gap);
        last = Some(at);
        for byte in block.get(..length).unwrap_or_default() {
            ensure!(*byte == poured(poured_so_far.bytes), "a byte is another");
            poured_so_far.bytes += 1;
        }
        if poured_so_far.bytes >= POUR_BYTES {
            began.send(()).unwrap_or_default();
        }
    }
}

/// The byte at a place of the transfer; no two parts of it are alike.
fn poured(at: u64) -> u8 {
    let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes().first().copied().unwrap_or_default()
}

/// Bytes that are written at once.
const POUR_BYTES: u64 = 16 * 1024;

/// A stream that never ends by itself.
#[derive(Debug)]
pub struct Bulk {
    stream: TcpStream,
}

impl Bulk {
    /// Opens `/stream` and reads its first bytes.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn open(address: &str) -> Result<Self> {
        Self::get(address, "/stream")
    }

    /// Opens `/trickle`, which leaves the machine to others, and reads its first bytes.
    ///
    /// # Errors
    /// When nothing comes.
    pub fn trickle(address: &str) -> Result<Self> {
        Self::get(address, "/trickle")
    }

    fn get(address: &str, path: &str) -> Result<Self> {
        let mut stream = connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: wiki\r\n\r\n")?;
        let mut first = [0; 4_096];
        ensure!(stream.read(&mut first)? > 0, "the stream ended at once");
        Ok(Self { stream })
    }

    /// Reads on until the stream is cut, and tells when its last byte came.
    ///
    /// # Errors
    /// When it is not cut within `limit`.
    pub fn last_byte(mut self, limit: Duration) -> Result<Instant> {
        let deadline = now() + limit;
        let mut last = now();
        let mut block = vec![0; 64 * 1024];
        loop {
            let left = deadline.saturating_duration_since(now());
            ensure!(!left.is_zero(), "still open after {limit:?}");
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut block) {
                Ok(0) => return Ok(last),
                Ok(_) => last = now(),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(last);
                }
                // Whoever stopped the test for a while has let it go on.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    bail!("neither bytes nor an end within {limit:?}")
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}
