//! Connections of nodes and of strangers who enroll: each has a task that reads it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cardea_core::{ChannelId, Heard, Peer};
use cardea_credential::{
    tls::{ChannelPeer, channel_peer},
    trust::{Trust, VerifiedLeaf},
};
use cardea_host::{
    channel::{
        Accepted, Arrival, ChannelError, CloseCode, Kind, Link, Receiver, Sender, Server, Unproven,
    },
    clock::Clock,
    places::Places,
};
use cardea_proto::{
    ALPN_CHANNEL, ALPN_ENROLL, ALPN_RENEW,
    enroll::EnrollRequest,
    identity::Role,
    message::{FromNode, Purpose},
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    attendance::{self, Attendance, Sign},
    turn::Event,
};

/// Strangers with an open connection at one time; each holds it for seconds.
const STRANGERS_MAX: usize = 1_024;

/// Those of one address or IPv6 /64; a quarter, because an office that unpacks its laptops is behind
/// one address, and whoever finds no place has to be started again.
const STRANGERS_PER_SOURCE_MAX: usize = STRANGERS_MAX / 4;

/// How long a stranger waits for its answer, which takes a commit and some policy.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Messages that a node may send at once: what a connector says when a thousand tunnels open.
const BURST_MESSAGES: u32 = 2_048;

/// Time after which one more message may come; a node that sends faster is read slower.
const MESSAGE_TIME: Duration = Duration::from_millis(2);

/// What every connection's task needs.
#[derive(Clone, Debug)]
pub(crate) struct Nodes {
    trust: Trust,
    clock: Clock,
    events: mpsc::Sender<Event>,
    strangers: Places,
    channels: Arc<AtomicU64>,
}

impl Nodes {
    /// Connections verified over `trust` bring their events to `events`.
    pub(crate) fn new(trust: Trust, events: mpsc::Sender<Event>) -> Self {
        Self {
            trust,
            clock: Clock::system(),
            events,
            strangers: Places::new(STRANGERS_MAX, STRANGERS_PER_SOURCE_MAX),
            channels: Arc::default(),
        }
    }

    /// Takes connections until the server is closed.
    pub(crate) async fn accept(&self, server: &mut Server) {
        while let Some(arrival) = server.accept().await {
            match arrival {
                Arrival::Accepted(accepted) => {
                    tokio::spawn(self.clone().connection(*accepted));
                }
                Arrival::Unproven(unproven) => self.bring(Event::Unproven(unproven)).await,
            }
        }
    }

    async fn connection(self, mut accepted: Accepted) {
        let alpn = match accepted.kind {
            Kind::Channel => ALPN_CHANNEL,
            Kind::Renewal => ALPN_RENEW,
            Kind::Enroll => ALPN_ENROLL,
        };
        let at = self.clock.now().unix;
        // They are not kept for as long as the channel lasts.
        let certificates = std::mem::take(&mut accepted.certificates);
        let peer = channel_peer(Some(alpn), &certificates, &self.trust, at);
        drop(certificates);
        match peer {
            Ok(ChannelPeer::Node(leaf)) => self.node(accepted, leaf, Purpose::Channel).await,
            Ok(ChannelPeer::Lapsed(leaf)) => self.node(accepted, leaf, Purpose::Renewal).await,
            Ok(ChannelPeer::Stranger) => self.stranger(accepted).await,
            Err(error) => {
                let why = crate::chain(&error);
                tracing::debug!(reason = why, "a connection was refused");
                accepted.link.sender.close(CloseCode::Protocol, &why);
                let unproven = Unproven {
                    address: accepted.address,
                    knockers: accepted.knockers,
                    why,
                };
                self.bring(Event::Unproven(unproven)).await;
            }
        }
    }

    async fn node(self, accepted: Accepted, leaf: VerifiedLeaf, purpose: Purpose) {
        let channel = self.next_channel();
        let Accepted {
            exporter,
            address,
            knockers,
            link,
            ..
        } = accepted;
        let Link {
            sender,
            mut receiver,
        } = link;
        let node = leaf.identity.holder.to_string();
        let is_connector = leaf.identity.holder.role() == Role::Connector;
        let attended = (is_connector && purpose == Purpose::Channel)
            .then(|| tokio::spawn(self.clone().attend(channel, sender.clone())).abort_handle());
        tracing::debug!(node.id = node, channel.id = channel.0, "channel up");
        let connected = Event::Connected {
            channel,
            sender,
            peer: Peer {
                leaf,
                purpose,
                exporter,
                address,
                knockers,
            },
        };
        self.bring(connected).await;
        let mut pace = Pace::new();
        let why = loop {
            match receiver.receive::<FromNode>().await {
                Ok(Some(message)) => {
                    let at = self.clock.now().unix;
                    let message = Heard::new(message, &self.trust, at);
                    self.bring(Event::Message { channel, message }).await;
                    pace.wait().await;
                }
                Ok(None) => break "it was finished".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        tracing::debug!(
            node.id = node,
            channel.id = channel.0,
            reason = why,
            "channel down"
        );
        if let Some(attended) = attended {
            attended.abort();
        }
        self.bring(Event::Disconnected { channel }).await;
    }

    /// Notes when a connector was last heard, and closes its channel when it is gone.
    async fn attend(self, channel: ChannelId, sender: Sender) {
        let mut attendance = Attendance::new(self.clock.now().instant, sender.traffic());
        loop {
            tokio::time::sleep(attendance::LOOK).await;
            match attendance.look(self.clock.now().instant, sender.traffic()) {
                Sign::Heard => self.bring(Event::Heard { channel }).await,
                Sign::Quiet => {}
                Sign::Gone => {
                    tracing::info!(channel.id = channel.0, "a connector does not answer");
                    return sender.close(CloseCode::TooLate, "no sign of life");
                }
            }
        }
    }

    /// One request, one answer; the connection is closed by whoever answers.
    async fn stranger(self, accepted: Accepted) {
        let Accepted {
            exporter,
            address,
            link,
            ..
        } = accepted;
        let Link {
            sender,
            mut receiver,
        } = link;
        let _place = match self.strangers.take(address) {
            Ok(place) => place,
            Err(crowded) => {
                tracing::debug!(reason = %crowded, "a stranger found no place");
                sender.close(CloseCode::TooLate, &crowded.to_string());
                return;
            }
        };
        let request = match receiver.receive::<EnrollRequest>().await {
            Ok(Some(request)) => Box::new(request),
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(reason = %error, "an enrollment was not understood");
                return;
            }
        };
        let channel = self.next_channel();
        let asked = Event::Enroll {
            channel,
            sender: sender.clone(),
            request,
            exporter,
            address,
        };
        self.bring(asked).await;
        let listening = second_message(&mut receiver, &sender);
        match tokio::time::timeout(ANSWER_TIME, listening).await {
            Ok(true) => sender.close(CloseCode::Protocol, "one message was expected"),
            Ok(false) => {}
            Err(_) => sender.close(CloseCode::TooLate, "there is no answer"),
        }
        self.bring(Event::Disconnected { channel }).await;
    }

    async fn bring(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::trace!("something came while the controller was leaving");
        }
    }

    fn next_channel(&self) -> ChannelId {
        ChannelId(self.channels.fetch_add(1, Ordering::Relaxed))
    }
}

/// Waits until the connection ends, or until the stranger says more than it may.
async fn second_message(receiver: &mut Receiver, sender: &Sender) -> bool {
    match receiver.receive::<EnrollRequest>().await {
        Ok(Some(_)) => true,
        // Its half is finished, as it may be; the other half ends with the connection.
        Ok(None) => {
            sender.closed().await;
            false
        }
        Err(ChannelError::Closed(_)) => false,
        Err(_) => true,
    }
}

/// Keeps a node to a pace: a bucket of messages that fills up again with time.
#[derive(Debug)]
struct Pace {
    /// When the bucket would be full.
    full_at: Instant,
}

impl Pace {
    fn new() -> Self {
        Self {
            full_at: Instant::now(),
        }
    }

    /// Takes one message out of the bucket and waits when it was empty.
    async fn wait(&mut self) {
        let now = Instant::now();
        self.full_at = self.full_at.max(now) + MESSAGE_TIME;
        let allowed = now + MESSAGE_TIME * BURST_MESSAGES;
        if self.full_at > allowed {
            tokio::time::sleep(self.full_at - allowed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_what_follows_comes_at_the_pace() {
        let mut pace = Pace::new();
        let start = Instant::now();
        for _ in 0..BURST_MESSAGES {
            pace.wait().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..100 {
            pace.wait().await;
        }
        assert!(start.elapsed() >= MESSAGE_TIME * 100);
    }
}
