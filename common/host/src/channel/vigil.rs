//! Notices a dead server sooner than QUIC's idle timeout does, because a person may be waiting.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{ChannelError, close};

/// How long a message may go without any sign of life from the server.
///
/// New access is denied within 3 s when no controller is left. QUIC repeats itself five
/// times in this, so that a path that loses one datagram in five is not taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// How long silence may last after the server's host said that nobody listens there.
///
/// Not at once: a restart of the server, or a forged notice, must not cut what still answers.
const SILENCE_AFTER_REFUSAL: Duration = Duration::from_millis(500);

/// Closes `connection` when nothing is heard after something was `said` or `refused`.
pub(super) async fn watch(connection: quinn::Connection, said: Arc<Notify>, refused: Arc<Notify>) {
    loop {
        let mut is_refused = tokio::select! {
            () = said.notified() => false,
            () = refused.notified() => true,
            _ = connection.closed() => return,
        };
        let heard = connection.stats().udp_rx.datagrams;
        if !is_refused {
            is_refused = tokio::select! {
                () = tokio::time::sleep(SILENCE_MAX) => false,
                () = refused.notified() => true,
            };
        }
        if is_refused {
            tokio::time::sleep(SILENCE_AFTER_REFUSAL).await;
        }
        if connection.stats().udp_rx.datagrams != heard {
            continue;
        }
        let error = if is_refused {
            ChannelError::Refused
        } else {
            ChannelError::NoAnswer(SILENCE_MAX)
        };
        return close(&connection, &error);
    }
}
