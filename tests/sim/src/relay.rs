//! The relays of a run: real ones, which crash in some worlds and come back knowing nobody, and which
//! lie in some: they answer tickets, and forward nothing or what they should not.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_core::Input;
use cardea_proto::relay::DATA_HEADER_BYTES;
use cardea_relay::{Relay, Settings, Verdict};
use cardea_tunnel::{self as tunnel, PathReason, Via};

use crate::{
    dice::Dice, founding::RELAYS, network::Way, schedule::Event, stranger::is_stranger,
    world::World,
};

/// A relay: what survives its crashes, and the running program.
#[derive(Debug)]
pub(crate) struct Host {
    ticket_key: [u8; 32],
    dice: Dice,
    /// `None` while it is down.
    running: Option<Relay>,
    /// What it does with what it should forward.
    lie: Option<Lie>,
    /// What it was to forward last, behind the header.
    last: Vec<u8>,
    /// Counts the ends that were bound when it crashed.
    pub(crate) forgotten: u64,
    /// Counts the datagrams that it made a lie of.
    pub(crate) lies: u64,
}

impl Host {
    /// A relay that runs.
    pub(crate) fn new(seed: u64, which: usize, ticket_key: [u8; 32]) -> Self {
        let mut host = Self {
            ticket_key,
            dice: Dice::new(seed, &format!("relay {which}")),
            running: None,
            lie: None,
            last: Vec::new(),
            forgotten: 0,
            lies: 0,
        };
        host.start();
        host
    }

    /// Starts it, unless it runs: nothing of an earlier life is left, its cookies among it. It is
    /// honest from then on.
    pub(crate) fn start(&mut self) {
        self.lie = None;
        let seed = self.dice.bytes();
        self.running
            .get_or_insert_with(|| Relay::new(self.ticket_key, seed, Settings::default()));
    }

    /// It is gone from one moment to the next.
    fn crash(&mut self) {
        let ends = self.running.take().map_or(0, |relay| relay.ends());
        self.forgotten += u64::try_from(ends).unwrap_or(u64::MAX);
    }

    /// What it sends in place of what it should forward, and how much later.
    fn forwarded(&mut self, bytes: Vec<u8>) -> Vec<(Duration, Vec<u8>)> {
        let honest = Duration::ZERO;
        let Some(lie) = self.lie else {
            return vec![(honest, bytes)];
        };
        // Most of them every other time, so that ends have something to compare them with.
        if lie != Lie::Withholds && self.dice.chance(500) {
            return vec![(honest, bytes)];
        }
        self.lies += 1;
        match lie {
            Lie::Withholds => Vec::new(),
            Lie::Damages => vec![(honest, self.damaged(bytes))],
            Lie::Swaps => vec![(honest, self.swapped(bytes))],
            Lie::Repeats => {
                let copies = 1 + self.dice.below(3);
                let mut all = vec![(honest, bytes.clone())];
                for _ in 0..copies {
                    let later = self.dice.between(Duration::ZERO, LATE_MAX);
                    all.push((later, bytes.clone()));
                }
                all
            }
            Lie::Delays => vec![(self.dice.between(Duration::ZERO, LATE_MAX), bytes)],
        }
    }

    /// One bit behind the header is another.
    fn damaged(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        let at = self
            .dice
            .below(bytes.len().saturating_sub(DATA_HEADER_BYTES));
        let bit = 1 << self.dice.below(8);
        if let Some(byte) = bytes.get_mut(DATA_HEADER_BYTES + at) {
            *byte ^= bit;
        }
        bytes
    }

    /// What another end, or the same one, sent before, in the name of this one.
    fn swapped(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let (header, sealed) = bytes.split_at(bytes.len().min(DATA_HEADER_BYTES));
        let before = std::mem::replace(&mut self.last, sealed.to_vec());
        [header, &before].concat()
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
    /// Plans when the relays of this run crash or lie, beside the other faults: never in some worlds.
    pub(crate) fn plan_relays(&mut self, seed: u64) {
        for which in 0..self.relays.len() {
            let mut dice = Dice::new(seed, &format!("relay {which} fails"));
            if !dice.chance(600) {
                continue;
            }
            let mut at = self.now.instant;
            let end = at + self.plan.chaos;
            loop {
                at += dice.millis(2_000, PAUSE_MAX_MS);
                if at >= end {
                    break;
                }
                let fault = match dice.below(3) {
                    0 => RelayFault::Lies(*dice.pick(&Lie::ALL).unwrap_or(&Lie::Withholds)),
                    _ => RelayFault::Crashes,
                };
                self.schedule.at(at, Event::RelayFails { which, fault });
                at += dice.between(Duration::ZERO, AWAY_MAX);
                self.schedule.at(at, Event::RelayServes { which });
            }
        }
    }

    /// A relay fails.
    pub(crate) fn relay_fails(&mut self, which: usize, fault: RelayFault) {
        if self.calm_since.is_some() {
            return;
        }
        self.note(|| format!("relay {which}: {fault:?}"));
        if fault == RelayFault::Crashes {
            self.tell_controllers(which, true);
        }
        if let Some(relay) = self.relays.get_mut(which) {
            match fault {
                RelayFault::Crashes => relay.crash(),
                RelayFault::Lies(lie) => relay.lie = Some(lie),
            }
        }
    }

    /// Counts ends that go on with another relay.
    pub(crate) fn note_turn(&mut self, event: &tunnel::Event) {
        if let tunnel::Event::Path { why, .. } = event
            && matches!(why, PathReason::RelaySilent(_) | PathReason::PeerTurned(_))
        {
            self.log.turned += 1;
        }
    }

    /// Controllers hear of a relay that crashed, or is back; of one that lies they do not.
    fn tell_controllers(&mut self, place: usize, is_silent: bool) {
        for member in 0..self.plan.controllers {
            self.control(member, Input::Relay { place, is_silent });
        }
    }

    /// A relay serves as it should.
    pub(crate) fn relay_serves(&mut self, which: usize) {
        self.note(|| format!("relay {which} serves"));
        self.tell_controllers(which, false);
        if let Some(relay) = self.relays.get_mut(which) {
            relay.start();
        }
    }

    /// Relays forget what is over.
    pub(crate) fn relays_expire(&mut self) {
        let now = self.now;
        for relay in &mut self.relays {
            if let Some(relay) = &mut relay.running {
                relay.expire(now);
            }
        }
    }

    /// When a relay next has something to forget.
    pub(crate) fn relays_deadline(&self) -> Option<Instant> {
        self.relays.iter().filter_map(Host::deadline).min()
    }

    /// A datagram reaches a relay; one that is down takes nothing.
    pub(crate) fn at_relay(&mut self, which: usize, from: SocketAddr, mut bytes: Vec<u8>) {
        let now = self.now;
        let Some(host) = self.relays.get_mut(which) else {
            return;
        };
        let Some(relay) = &mut host.running else {
            return;
        };
        match relay.handle(now, from, &mut bytes) {
            Verdict::Forward { to } => {
                for (later, bytes) in host.forwarded(bytes) {
                    let event = Event::FromRelay { which, to, bytes };
                    self.schedule.at(now.instant + later, event);
                }
            }
            Verdict::Answer { len } => {
                bytes.truncate(len);
                self.misplace(&mut bytes);
                self.relay_sends(which, from, &bytes);
            }
            Verdict::Drop(_) => {}
        }
    }

    /// A relay sends.
    pub(crate) fn relay_sends(&mut self, which: usize, to: SocketAddr, bytes: &[u8]) {
        if is_stranger(to) {
            self.fail(4, "the relay sends to a stranger".to_owned());
        }
        let Some(from) = RELAYS.get(which).and_then(|relay| relay.parse().ok()) else {
            return;
        };
        if let Some(who) = self.network.behind(to) {
            return self.come_in(who, (from, to), bytes);
        }
        let Some(who) = self.network.holder(to) else {
            return;
        };
        let sent = (who, Way::In);
        for at in self.network.datagram(self.now.instant, sent, bytes.len()) {
            let bytes = bytes.to_vec();
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

/// What goes wrong at a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayFault {
    /// It is gone, with all that was bound.
    Crashes,
    /// It answers tickets, and does not forward what comes as it comes.
    Lies(Lie),
}

/// What a lying relay does, most of it to every other datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Forwards nothing.
    Withholds,
    /// Changes a bit of every other datagram.
    Damages,
    /// Puts in its place what came before, from whomever.
    Swaps,
    /// Sends it again, later.
    Repeats,
    /// Sends it later, behind others.
    Delays,
}

impl Lie {
    /// All of them.
    const ALL: [Self; 5] = [
        Self::Withholds,
        Self::Damages,
        Self::Swaps,
        Self::Repeats,
        Self::Delays,
    ];
}

/// How much later a lying relay sends at most: many round trips.
const LATE_MAX: Duration = Duration::from_secs(3);

/// Longest time between two crashes, in milliseconds.
const PAUSE_MAX_MS: u64 = 40_000;

/// Longest time that it is down: longer than an end waits before it says again that it is there.
const AWAY_MAX: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a hundred datagrams that differ: the numbers of those that arrive as they were,
    /// with the delay of each, and how many arrive otherwise.
    fn told(lie: Lie) -> (Vec<(u8, Duration)>, usize) {
        let mut host = Host::new(7, 0, [9; 32]);
        host.lie = Some(lie);
        let datagram = |number: u8| [[number; DATA_HEADER_BYTES], [number; 8]].concat();
        let (mut whole, mut others) = (Vec::new(), 0);
        for number in 0..100 {
            for (later, bytes) in host.forwarded(datagram(number)) {
                assert_eq!(bytes[0], number, "headers stay");
                if bytes == datagram(number) {
                    whole.push((number, later));
                } else {
                    others += 1;
                }
            }
        }
        (whole, others)
    }

    #[test]
    fn each_lie_is_told_of_half_of_the_datagrams_or_of_all() {
        assert_eq!(told(Lie::Withholds), (vec![], 0));
        for lie in [Lie::Damages, Lie::Swaps] {
            let (whole, others) = told(lie);
            assert!((30..70).contains(&others), "{others} of {lie:?}");
            assert_eq!(whole.len() + others, 100);
            assert!(whole.iter().all(|(_, later)| later.is_zero()));
        }
        let (whole, others) = told(Lie::Repeats);
        assert!(whole.len() > 150 && others == 0, "{}", whole.len());
        let (whole, others) = told(Lie::Delays);
        let late = whole.iter().filter(|(_, later)| !later.is_zero()).count();
        assert!((30..70).contains(&late) && others == 0, "{late}");
        assert_eq!(whole.len(), 100);
    }
}
