//! Handshakes that a knock has opened: their next datagrams carry the same knock.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{KNOCK_BYTES, Knock, door::Knocker};

/// How long the datagrams of one handshake may take, from its first.
///
/// A hybrid ClientHello spans two datagrams, and both are sent again until the server's first answer
/// has arrived: twice as long as a handshake may take at all.
pub const ATTEMPT_TIME: Duration = Duration::from_secs(10);

/// Handshakes that are remembered: ten thousand nodes come back within seconds after a restart. Past it the
/// oldest has to knock anew. Each took a knock to get in.
const ATTEMPTS_MAX: usize = 32_768;

/// Where a datagram comes from. Flow label and scope are not part of it.
type Source = (IpAddr, u16);

/// The handshakes of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Until when, and who knocked.
    until: BTreeMap<(Source, Knock), (Instant, Knocker)>,
    in_order: VecDeque<(Source, Knock)>,
}

impl Attempts {
    /// Somebody's knock has opened.
    pub(super) fn open(&mut self, knock: Knock, who: Knocker, source: SocketAddr, now: Instant) {
        self.forget(now);
        let key = (of(source), knock);
        let value = (now + ATTEMPT_TIME, who);
        if self.until.insert(key, value).is_none() {
            self.in_order.push_back(key);
        }
    }

    /// Whether this knock has opened for this source.
    pub(super) fn has(&self, knock: Knock, source: SocketAddr, now: Instant) -> bool {
        let until = self.until.get(&(of(source), knock));
        until.is_some_and(|(until, _)| *until > now)
    }

    /// Whose knocks have opened for this source.
    pub(super) fn knockers(
        &self,
        source: SocketAddr,
        now: Instant,
    ) -> impl Iterator<Item = Knocker> {
        let source = of(source);
        let (first, last) = (Knock([0; KNOCK_BYTES]), Knock([u8::MAX; KNOCK_BYTES]));
        self.until
            .range((source, first)..=(source, last))
            .filter(move |(_, (until, _))| *until > now)
            .map(|(_, (_, who))| *who)
    }

    /// Forgets what is over, and the oldest when there are too many.
    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.in_order.front() {
            let is_live = self.until.get(oldest);
            let is_live = is_live.is_some_and(|(until, _)| *until > now);
            if is_live && self.in_order.len() < ATTEMPTS_MAX {
                return;
            }
            self.until.remove(oldest);
            self.in_order.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.until.len(), self.in_order.len());
        self.until.len()
    }
}

fn of(source: SocketAddr) -> Source {
    (source.ip().to_canonical(), source.port())
}
