//! The relay of a run: the real one, which crashes in some worlds and comes back knowing nobody.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_relay::{Relay, Settings, Verdict};
use cardea_tunnel::Via;

use crate::{
    dice::Dice, founding::RELAY, network::Way, schedule::Event, stranger::is_stranger, world::World,
};

/// A relay: what survives its crashes, and the running program.
#[derive(Debug)]
pub(crate) struct Host {
    ticket_key: [u8; 32],
    dice: Dice,
    /// `None` while it is down.
    running: Option<Relay>,
    /// Counts the ends that were bound when it crashed.
    pub(crate) forgotten: u64,
}

impl Host {
    /// A relay that runs.
    pub(crate) fn new(seed: u64, ticket_key: [u8; 32]) -> Self {
        let mut host = Self {
            ticket_key,
            dice: Dice::new(seed, "relay"),
            running: None,
            forgotten: 0,
        };
        host.start();
        host
    }

    /// Starts it, unless it runs: nothing of an earlier life is left, its cookies among it.
    pub(crate) fn start(&mut self) {
        let seed = self.dice.bytes();
        self.running
            .get_or_insert_with(|| Relay::new(self.ticket_key, seed, Settings::default()));
    }

    /// It is gone from one moment to the next.
    fn crash(&mut self) {
        let ends = self.running.take().map_or(0, |relay| relay.ends());
        self.forgotten += u64::try_from(ends).unwrap_or(u64::MAX);
    }

    /// When it next has something to forget.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref()?.deadline()
    }

    /// Ends that are bound.
    pub(crate) fn ends(&self) -> usize {
        self.running.as_ref().map_or(0, Relay::ends)
    }
}

impl World {
    /// Plans when the relay of this run crashes, beside the other faults: never in some worlds.
    pub(crate) fn plan_relay(&mut self, seed: u64) {
        let mut dice = Dice::new(seed, "relay crashes");
        if !dice.chance(600) {
            return;
        }
        let mut at = self.now.instant;
        let end = at + self.plan.chaos;
        loop {
            at += dice.millis(2_000, PAUSE_MAX_MS);
            if at >= end {
                return;
            }
            self.schedule.at(at, Event::RelayCrashes);
            at += dice.between(Duration::ZERO, AWAY_MAX);
            self.schedule.at(at, Event::RelayStarts);
        }
    }

    /// The relay crashes.
    pub(crate) fn relay_crashes(&mut self) {
        if self.calm_since.is_none() {
            self.note(|| "the relay crashes".to_owned());
            self.relay.crash();
        }
    }

    /// The relay starts anew.
    pub(crate) fn relay_starts(&mut self) {
        self.note(|| "the relay starts".to_owned());
        self.relay.start();
    }

    /// The relay forgets what is over.
    pub(crate) fn relay_expires(&mut self) {
        let now = self.now;
        if let Some(relay) = &mut self.relay.running {
            relay.expire(now);
        }
    }

    /// A datagram reaches the relay; one that is down takes nothing.
    pub(crate) fn at_relay(&mut self, from: SocketAddr, mut bytes: Vec<u8>) {
        let now = self.now;
        let Some(relay) = &mut self.relay.running else {
            return;
        };
        let to = match relay.handle(now, from, &mut bytes) {
            Verdict::Forward { to } => to,
            Verdict::Answer { len } => {
                bytes.truncate(len);
                self.misplace(&mut bytes);
                from
            }
            Verdict::Drop(_) => return,
        };
        if is_stranger(to) {
            self.fail(4, "the relay sends to a stranger".to_owned());
        }
        let Ok(from) = RELAY.parse() else {
            return;
        };
        if let Some(who) = self.network.behind(to) {
            return self.come_in(who, (from, to), &bytes);
        }
        let Some(who) = self.network.holder(to) else {
            return;
        };
        let sent = (who, Way::In);
        for at in self.network.datagram(self.now.instant, sent, bytes.len()) {
            let bytes = bytes.clone();
            let event = Event::AtNode {
                who,
                to,
                from,
                via: Via::Relay,
                bytes,
            };
            self.schedule.at(at, event);
        }
    }
}

/// Longest time between two crashes, in milliseconds.
const PAUSE_MAX_MS: u64 = 40_000;

/// Longest time that it is down: longer than an end waits before it says again that it is there.
const AWAY_MAX: Duration = Duration::from_secs(25);
