//! Notices a dead server sooner than QUIC's idle timeout does, because a person may be waiting.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{ChannelError, close};

/// How long a message may go without any sign of life from the server.
///
/// New access is denied within 3 s when no controller is left. QUIC repeats itself five
/// times in this, so that a path that loses one datagram in five is not taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long a message may go unanswered before another way to the server is looked for: most round
/// trips, twice.
const DOUBT: Duration = Duration::from_millis(600);

/// How long silence may last after the server's host said that nobody listens there.
///
/// Not at once: a restart of the server, or a forged notice, must not cut what still answers.
const SILENCE_AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// Datagrams of a connection in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the other end.
    pub heard: u64,
    /// To it, repetitions included.
    pub sent: u64,
}

impl Traffic {
    pub(super) fn of(connection: &quinn::Connection) -> Self {
        let stats = connection.stats();
        Self {
            heard: stats.udp_rx.datagrams,
            sent: stats.udp_tx.datagrams,
        }
    }

    /// Whether something has been sent since `before`, again and again perhaps, and nothing heard.
    ///
    /// A message that waits for a busy server to read the ones before it was not sent, and its
    /// silence means nothing.
    const fn is_unanswered_since(self, before: Self) -> bool {
        self.heard == before.heard && self.sent > before.sent
    }
}

/// That an answer is due, and what had passed when the message was said.
///
/// What had passed must be looked at by whoever speaks: by the time the vigil looks, the answer
/// may have come, and nothing else would come after it.
#[derive(Debug, Default)]
pub(super) struct Said {
    more: Notify,
    before: Mutex<Traffic>,
}

impl Said {
    /// Something is about to be said on `connection`.
    pub(super) fn note(&self, connection: &quinn::Connection) {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner) = Traffic::of(connection);
        self.more.notify_one();
    }

    /// What had passed before something was said.
    async fn noted(&self) -> Traffic {
        self.more.notified().await;
        *self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes `connection` when nothing is heard after something was `said`, or after the server's host
/// `refused`; says before whether there is any `doubt`.
pub(super) async fn watch(
    connection: quinn::Connection,
    said: Arc<Said>,
    (refused, doubted): (Arc<Notify>, Arc<Notify>),
) {
    loop {
        let before = tokio::select! {
            before = said.noted() => Some(before),
            () = refused.notified() => None,
            _ = connection.closed() => return,
        };
        let heard = before.unwrap_or_else(|| Traffic::of(&connection)).heard;
        let mut is_refused = before.is_none();
        for time in [DOUBT, SILENCE_MAX - DOUBT] {
            if is_refused {
                break;
            }
            is_refused = tokio::select! {
                () = tokio::time::sleep(time) => false,
                () = refused.notified() => true,
            };
            let now = Traffic::of(&connection);
            if before.is_some_and(|before| now.is_unanswered_since(before)) {
                doubted.notify_one();
            }
        }
        if is_refused {
            tokio::time::sleep(SILENCE_AFTER_REFUSAL).await;
        }
        let now = Traffic::of(&connection);
        if is_refused && now.heard == heard {
            return close(&connection, &ChannelError::Refused);
        }
        if !is_refused && before.is_some_and(|before| now.is_unanswered_since(before)) {
            return close(&connection, &ChannelError::NoAnswer(SILENCE_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_and_not_answered_is_silence() {
        let before = Traffic { heard: 5, sent: 9 };
        for (heard, sent, expected) in [(5, 9, false), (5, 10, true), (6, 10, false), (6, 9, false)]
        {
            let now = Traffic { heard, sent };
            assert_eq!(now.is_unanswered_since(before), expected, "{now:?}");
        }
    }
}
