//! A detour to a relay: TLS in a task beside, queues in between.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cardea_host::{
    channel::Caller,
    detour::{self, Frame, Proxy, TlsStream, WAITING_MAX},
};
use cardea_proto::detour::Aim;
use cardea_tunnel::Transmit;
use mio::Waker;
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, error::TryRecvError},
    task::AbortHandle,
};

/// How long one front may take.
const OPEN_TIME: Duration = Duration::from_secs(5);

/// How long a detour may be silent: the relay answers something every 20 s.
const IDLE: Duration = Duration::from_secs(90);

/// Datagrams in one turn.
const TURN_MAX: usize = 512;

/// Room below which nothing more should be produced: what one flush comes to.
const ROOM_MIN: usize = WAITING_MAX / 2;

/// Where fronts are, and as whom one knocks there.
#[derive(Clone, Debug)]
pub struct Fronts {
    /// `HOST:PORT` each.
    pub addresses: Vec<String>,
    /// Whose knocks open.
    pub caller: Caller,
    /// The proxy that leads there.
    pub proxy: Option<Proxy>,
}

impl Fronts {
    /// The fronts that may lead to `relay`: each relay has its own, mostly at its own address; those
    /// at addresses of others of `all` relays lead to them.
    pub(super) fn of(mut self, relay: SocketAddr, all: &[SocketAddr]) -> Self {
        let is_at = |front: &str, relay: &SocketAddr| {
            let own = SocketAddr::new(relay.ip(), 0).to_string();
            let own = own.strip_suffix('0').unwrap_or(&own);
            front.starts_with(own)
        };
        // One of the other family may be another address of the same relay.
        let others = all
            .iter()
            .filter(|other| other.ip() != relay.ip() && other.is_ipv4() == relay.is_ipv4());
        let others: Vec<&SocketAddr> = others.collect();
        self.addresses
            .retain(|front| !others.iter().any(|other| is_at(front, other)));
        self.addresses.sort_by_key(|front| !is_at(front, &relay));
        self
    }
}

/// One detour, which is opened, up or over.
#[derive(Debug)]
pub(super) struct Detour {
    outgoing: mpsc::Sender<Frame>,
    told: mpsc::Receiver<Told>,
    task: AbortHandle,
    wants_turn: bool,
}

/// What a detour's task tells.
#[derive(Debug)]
enum Told {
    Up,
    Datagram(Box<[u8]>),
}

/// What has become of a detour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is up.
    Up,
    /// It is over.
    Over,
}

impl Detour {
    /// Begins to open one by the first of `fronts` that lets us in.
    pub(super) fn begin(runtime: &Handle, waker: Arc<Waker>, fronts: Fronts) -> Self {
        let (outgoing, frames) = mpsc::channel(WAITING_MAX);
        let (tell, told) = mpsc::channel(WAITING_MAX);
        let wake = move || {
            if let Err(error) = waker.wake() {
                tracing::warn!(%error, "the data half could not be woken");
            }
        };
        let task = runtime.spawn(async move {
            if let Some(stream) = open(&fronts).await {
                carry(stream, frames, &tell, &wake).await;
            }
            drop(tell);
            wake();
        });
        Self {
            outgoing,
            told,
            task: task.abort_handle(),
            wants_turn: false,
        }
    }

    /// Hands over what has come, a bounded amount of it, and says what became of it meanwhile.
    pub(super) fn receive(&mut self, mut take: impl FnMut(&[u8])) -> Option<News> {
        let mut news = None;
        self.wants_turn = false;
        for _ in 0..TURN_MAX {
            match self.told.try_recv() {
                Ok(Told::Up) => news = Some(News::Up),
                Ok(Told::Datagram(datagram)) => take(&datagram),
                Err(TryRecvError::Empty) => return news,
                Err(TryRecvError::Disconnected) => return Some(News::Over),
            }
        }
        self.wants_turn = true;
        news
    }

    pub(super) const fn wants_turn(&self) -> bool {
        self.wants_turn
    }

    /// Whether nothing more should be produced for it.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.capacity() < ROOM_MIN && !self.outgoing.is_closed()
    }

    /// Sends datagrams; those for which there is no room are lost.
    pub(super) fn send(&self, transmit: &Transmit) {
        for datagram in transmit.datagrams() {
            self.say(datagram);
        }
    }

    /// Sends one datagram, or loses it.
    pub(super) fn say(&self, datagram: &[u8]) {
        let frame = Frame::new(Aim::Relay, datagram);
        if self.outgoing.try_send(frame).is_err() {
            tracing::trace!("a detour lost a datagram");
        }
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The first front that lets us in.
async fn open(fronts: &Fronts) -> Option<TlsStream> {
    for front in &fronts.addresses {
        let opening = detour::open(front, &fronts.caller, fronts.proxy.as_ref());
        match tokio::time::timeout(OPEN_TIME, opening).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%front, reason = %error, "no detour"),
            Err(_) => tracing::debug!(%front, "no detour: no answer in time"),
        }
    }
    None
}

async fn carry(
    stream: TlsStream,
    frames: mpsc::Receiver<Frame>,
    tell: &mpsc::Sender<Told>,
    wake: &impl Fn(),
) {
    let give = |told| {
        if tell.try_send(told).is_err() {
            tracing::trace!("a datagram of a detour was lost");
        }
        wake();
    };
    give(Told::Up);
    let carried = stream.carry(frames, IDLE, |aim, datagram| {
        if aim == Aim::Relay {
            give(Told::Datagram(datagram.into()));
        }
    });
    if let Err(error) = carried.await {
        tracing::debug!(reason = %error, "a detour ended");
    }
}
