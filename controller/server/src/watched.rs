//! The relays elsewhere, asked again and again, so that new grants avoid those that are dead.
//!
//! Each is asked by a socket that is connected to it: no stranger's datagram comes in there.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use cardea_core::Watch;
use cardea_credential::ticket::TicketKey;
use cardea_host::{clock::Clock, entropy};
use cardea_proto::{
    codec::Bytes,
    relay::{ASK_BYTES, FrameKind, Handle, SEEN_BYTES, Side, Ticket},
    time::Now,
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use crate::turn::Event;

/// How long a ticket holds that asks one question, with room for a clock that differs.
const TICKET_LIFE: Duration = Duration::from_secs(10 * 60);

/// How long the same one is used.
const TICKET_USE: Duration = Duration::from_secs(60);

/// Begins to watch every relay but the first where that is part of this process, at `own`.
pub(crate) fn watch(
    relays: &[Vec<SocketAddr>],
    own: Option<SocketAddr>,
    key: TicketKey,
    events: &mpsc::Sender<Event>,
) -> JoinSet<()> {
    let key = Arc::new(key);
    let mut tasks = JoinSet::new();
    for (place, addresses) in relays.iter().enumerate().skip(own.iter().count()) {
        let relay = Watched {
            place,
            addresses: addresses.clone(),
            key: Arc::clone(&key),
            events: events.downgrade(),
        };
        tasks.spawn(relay.run());
    }
    tasks
}

/// One relay.
struct Watched {
    place: usize,
    addresses: Vec<SocketAddr>,
    key: Arc<TicketKey>,
    /// Keeps nobody's loop alive.
    events: mpsc::WeakSender<Event>,
}

impl Watched {
    async fn run(self) {
        let clock = Clock::system();
        let mut watch = Watch::new(clock.now().instant);
        let mut question = Question::default();
        let mut told = false;
        let mut round = 0_usize;
        loop {
            let sleep = clock.until(watch.deadline());
            tokio::select! {
                () = tokio::time::sleep(sleep) => {
                    if watch.poll(clock.now().instant) {
                        // Another address only when the one before gave no answer.
                        round = round.wrapping_add(usize::from(!question.is_answered));
                        question = self.ask(clock.now(), round, question).await;
                    }
                }
                () = question.answered() => {
                    question.is_answered = true;
                    watch.answered();
                }
            }
            if watch.is_silent() != told {
                told = watch.is_silent();
                tracing::info!(relay = ?self.addresses, is_silent = told, "a relay elsewhere");
                let event = Event::Relay {
                    place: self.place,
                    is_silent: told,
                };
                let Some(events) = self.events.upgrade() else {
                    return;
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Asks the next address.
    async fn ask(&self, now: Now, round: usize, before: Question) -> Question {
        let place = round.checked_rem(self.addresses.len()).unwrap_or_default();
        let Some(to) = self.addresses.get(place) else {
            return Question::default();
        };
        let Question { socket, ticket, .. } = before;
        // A late answer to the same words is an answer: round trips may be long.
        let ticket = ticket.filter(|ticket| now.instant < ticket.since + TICKET_USE);
        let socket = socket.filter(|(_, at)| at == to);
        let sent = async {
            let ticket = match ticket {
                Some(ticket) => ticket,
                None => self.sign(now)?,
            };
            let socket = match socket {
                Some((socket, _)) => socket,
                None => connected(*to).await?,
            };
            // What the host said to the datagram before is of no interest.
            if socket.send(&ticket.ask).await.is_err() {
                socket.send(&ticket.ask).await?;
            }
            io::Result::Ok((socket, ticket))
        };
        match sent.await {
            Ok((socket, ticket)) => Question {
                socket: Some((socket, *to)),
                ticket: Some(ticket),
                is_answered: false,
            },
            Err(error) => {
                tracing::debug!(%error, "a relay was not asked");
                Question::default()
            }
        }
    }

    /// A question with a handle that nobody could know.
    fn sign(&self, now: Now) -> io::Result<Asking> {
        let handle = Handle::from_bytes(entropy::bytes());
        let ticket = Ticket {
            tunnel: Bytes(entropy::bytes()),
            side: Side::Agent,
            handle,
            not_after: now.unix.plus(TICKET_LIFE),
        };
        let signed = self.key.sign(&ticket).map_err(io::Error::other)?;
        let ask = [&[FrameKind::Ask.byte()], &signed[..]].concat();
        let ask = ask.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Asking {
            ask,
            handle,
            since: now.instant,
        })
    }
}

/// What was asked last.
#[derive(Default)]
struct Question {
    socket: Option<(UdpSocket, SocketAddr)>,
    ticket: Option<Asking>,
    is_answered: bool,
}

/// The words of a question.
struct Asking {
    ask: [u8; ASK_BYTES],
    handle: Handle,
    since: Instant,
}

impl Question {
    /// Returns when the relay has answered this question, once.
    async fn answered(&self) {
        let Some((socket, _)) = self.socket.as_ref().filter(|_| !self.is_answered) else {
            return std::future::pending().await;
        };
        let mut buffer = [0; SEEN_BYTES + 1];
        loop {
            // An error is what the host says of a relay that is not there: no answer.
            let Ok(length) = socket.recv(&mut buffer).await else {
                continue;
            };
            let seen = buffer.get(..length).and_then(Handle::of_seen);
            let asked = self.ticket.as_ref().map(|ticket| ticket.handle);
            if seen.is_some_and(|(handle, _)| Some(handle) == asked) {
                return;
            }
        }
    }
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}
