//! The paths of a tunnel besides the relay: found, proven, chosen and given up.
//!
//! Each end decides for what it sends. A path is used once a sealed probe that went there was
//! answered from there, with as many bytes as the tunnel's datagrams have; both ends probe, so that
//! each opens its own NAT for the other. What an end hears on any path is taken, because the carrier
//! proves where it comes from.
//!
//! Source: RFC 8445, whose checks and peer-reflexive candidates these are, without roles and without
//! a nomination, because both ends need not agree.

pub(crate) mod candidate;
pub(crate) mod exchange;
pub(crate) mod failover;
pub(crate) mod key;
pub(crate) mod permit;
pub(crate) mod probes;
pub(crate) mod relay;
pub(crate) mod relays;

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

pub use cardea_proto::path::Path;

use self::{
    candidate::{Candidate, Due},
    permit::Permit,
    probes::{ALIKE, Probe, Quality},
};

/// Why a tunnel's datagrams go the way they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathReason {
    /// No other way has answered yet.
    NoneAnswered,
    /// The other end answers there.
    Answered,
    /// It is the shorter way.
    Shorter,
    /// It loses less.
    Cleaner,
    /// The way before did not carry datagrams of this many bytes any more.
    Lost(usize),
    /// The local network changed.
    Roamed,
    /// That of the other end did.
    PeerRoamed,
    /// The relay does not answer by UDP.
    UdpBlocked,
    /// Nothing came through this relay any more.
    RelaySilent(SocketAddr),
    /// The other end left this relay.
    PeerTurned(SocketAddr),
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneAnswered => f.write_str("no direct way has answered"),
            Self::Answered => f.write_str("the other end answers there"),
            Self::Shorter => f.write_str("it is the shorter way"),
            Self::Cleaner => f.write_str("it loses less"),
            Self::Lost(size) => {
                write!(
                    f,
                    "the direct way stopped carrying datagrams of {size} bytes"
                )
            }
            Self::Roamed => f.write_str("the local network changed"),
            Self::PeerRoamed => f.write_str("the other end's network changed"),
            Self::UdpBlocked => f.write_str("UDP does not reach the relay"),
            Self::RelaySilent(relay) => write!(f, "nothing came through relay {relay} any more"),
            Self::PeerTurned(relay) => write!(f, "the other end left relay {relay}"),
        }
    }
}

/// The direct path that is in use, as each datagram needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direct {
    pub(crate) to: SocketAddr,
    /// Larger datagrams go through the relay.
    pub(crate) carries: usize,
}

/// All addresses at which the other end may be.
#[derive(Debug)]
pub(crate) struct Paths {
    permit: Permit,
    candidates: Vec<Candidate>,
    current: Option<usize>,
    /// The same, for the way of each datagram.
    direct: Option<Direct>,
    /// How often in a row one path was better than the current one.
    rival: Option<(Rival, u8)>,
    /// New addresses that may still be probed; one more each [`FRESH_EVERY`].
    fresh: u32,
    fresh_since: Instant,
    /// Whether the other end has been heard, so that probes open a NAT for somebody.
    is_peer_there: bool,
    why: PathReason,
    /// Counts changes of the path.
    changes: u32,
    next_id: u32,
}

/// A path that may be better than the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rival {
    Relay,
    Candidate(usize),
}

impl Paths {
    pub(crate) fn new(now: Instant, permit: Permit) -> Self {
        Self {
            permit,
            candidates: Vec::new(),
            current: None,
            direct: None,
            rival: None,
            fresh: FRESH_MAX,
            fresh_since: now,
            is_peer_there: false,
            why: PathReason::NoneAnswered,
            changes: 0,
            next_id: 0,
        }
    }

    pub(crate) const fn direct(&self) -> Option<Direct> {
        self.direct
    }

    pub(crate) const fn why(&self) -> PathReason {
        self.why
    }

    pub(crate) const fn changes(&self) -> u32 {
        self.changes
    }

    /// Round trip of the direct path in use.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.current().and_then(|current| current.probes.rtt())
    }

    /// Probes begin, because the other end is there to be probed.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.is_peer_there = true;
        for candidate in &mut self.candidates {
            candidate.begin(now);
        }
    }

    /// Addresses that the other end names, in any number and of any kind.
    pub(crate) fn named(&mut self, now: Instant, addresses: &[SocketAddr]) {
        for address in addresses {
            if let Some(candidate) = self.add(now, *address)
                && self.is_peer_there
                && let Some(candidate) = self.candidates.get_mut(candidate)
            {
                candidate.begin(now);
            }
        }
    }

    /// An authentic probe came directly; whether it may be answered, and under which name the way
    /// back is probed with the answer.
    pub(crate) fn probed(&mut self, now: Instant, from: SocketAddr) -> Option<Option<u32>> {
        let index = self.meet(now, from)?;
        self.next_id += 1;
        let id = self.next_id;
        let candidate = self.candidates.get_mut(index)?;
        if !candidate.admits_answer() {
            return None;
        }
        if candidate.carries > 0 {
            return Some(None);
        }
        let size = PROBE_DATAGRAM_BYTES;
        candidate.probes.sent(Probe { id, at: now, size });
        Some(Some(id))
    }

    /// An answer came directly; `size` is the largest datagram in use.
    pub(crate) fn answered(
        &mut self,
        now: Instant,
        from: SocketAddr,
        id: u32,
        traffic: Traffic,
    ) -> bool {
        let Some(index) = self.find(from) else {
            return false;
        };
        let is_current = self.current == Some(index);
        let overdue = self.current().and_then(Candidate::overdue_at);
        let pause = match (is_current, overdue) {
            (true, _) if traffic.is_flowing => BUSY_INTERVAL,
            (false, Some(at)) => at.saturating_duration_since(now).max(DOUBT_INTERVAL),
            (true | false, _) => IDLE_INTERVAL,
        };
        let answered = self
            .candidates
            .get_mut(index)
            .and_then(|candidate| candidate.answered(now, id, traffic.size, pause));
        if answered.is_some() {
            self.choose(now, traffic);
        }
        answered.is_some()
    }

    /// The carrier's datagrams come directly, and not from where ours go; says whether the deadline is
    /// another one.
    pub(crate) fn appeared(&mut self, now: Instant, from: SocketAddr) -> bool {
        if self.find(from).is_some() {
            return false;
        }
        let index = self.meet(now, from);
        if let Some(candidate) = index.and_then(|index| self.candidates.get_mut(index)) {
            candidate.begin(now);
        }
        index.is_some()
    }

    /// The current path is asked at once: datagrams are larger than what it was shown to carry, or
    /// nothing comes back.
    pub(crate) fn ask(&mut self, now: Instant) {
        if let Some(current) = self.current_mut() {
            current.hasten(now, Duration::ZERO);
        }
    }

    /// Datagrams flow on the current path: it is looked at soon.
    pub(crate) fn flows(&mut self, now: Instant) {
        if let Some(current) = self.current_mut() {
            current.hasten(now + BUSY_DELAY, BUSY_INTERVAL);
        }
    }

    /// What must be sent now: to whom, under which name and of which size.
    pub(crate) fn poll(&mut self, now: Instant, traffic: Traffic) -> Option<(SocketAddr, Probe)> {
        for index in 0..self.candidates.len() {
            let candidate = self.candidates.get_mut(index)?;
            match candidate.poll(now, traffic.size) {
                Some(Due::Probe(size)) => {
                    self.next_id += 1;
                    let probe = Probe {
                        id: self.next_id,
                        at: now,
                        size: size.max(PROBE_DATAGRAM_BYTES),
                    };
                    candidate.probes.sent(probe);
                    return Some((candidate.address, probe));
                }
                Some(Due::Lost(size)) if self.current == Some(index) => {
                    self.leave(PathReason::Lost(size));
                    self.choose(now, traffic);
                }
                Some(Due::Lost(_)) | None => {}
            }
        }
        None
    }

    /// The other end's way to us was lost, of this size or all of its ways, and ours to it is likely to be the same: whoever waited to
    /// find that out by himself would do so one after the other.
    pub(crate) fn told_lost(&mut self, now: Instant, size: usize) {
        if let Some(current) = self.current_mut() {
            current.give_up(now);
            self.leave(match size {
                0 => PathReason::PeerRoamed,
                size => PathReason::Lost(size),
            });
        }
        for candidate in &mut self.candidates {
            candidate.doubt();
        }
    }

    /// A name for a probe through the relay, whose names are none of a candidate's.
    pub(crate) const fn new_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether the direct path in use loses so much that the relay should be looked at.
    pub(crate) fn is_lossy(&self) -> bool {
        self.quality().is_some_and(Quality::is_lossy)
    }

    fn quality(&self) -> Option<Quality> {
        self.current().and_then(|current| current.probes.quality())
    }

    /// The relay's way turned out to be like this.
    pub(crate) fn compare(&mut self, relay: Quality) {
        let Some(own) = self.quality() else {
            return;
        };
        if !relay.is_better_than(own) {
            self.rival.take_if(|(rival, _)| *rival == Rival::Relay);
        } else if self.is_settled(Rival::Relay) {
            self.leave(why_better(relay, own));
        }
    }

    /// The local network changed: everything is asked anew.
    pub(crate) fn roamed(&mut self, now: Instant) {
        if self.current.is_some() {
            self.leave(PathReason::Roamed);
        }
        for candidate in &mut self.candidates {
            candidate.start_over(now);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.candidates.iter().filter_map(Candidate::deadline).min()
    }

    /// Takes the best path that carries what is in use, if it is better than the current one.
    ///
    /// What answered a while ago may be dead by now, as when the other end moved: it is asked first.
    fn choose(&mut self, now: Instant, traffic: Traffic) {
        let is_doubtful = self
            .current()
            .is_some_and(|current| current.is_overdue(now));
        let is_idle = self.current.is_none() || is_doubtful;
        let in_use = self.current.filter(|_| !is_doubtful);
        let best = self
            .candidates
            .iter()
            .enumerate()
            .filter(|(_, candidate)| candidate.carries >= traffic.size)
            .filter(|(index, candidate)| {
                !is_idle || (candidate.is_fresh(now) && self.current != Some(*index))
            })
            .filter_map(|(index, candidate)| Some((index, candidate.probes.quality()?)))
            .min_by_key(|(_, quality)| (quality.is_lossy(), quality.rtt));
        if is_idle {
            self.ask_again(now);
        }
        let Some((best, quality)) = best else {
            return self.refresh();
        };
        let is_worth_taking = traffic
            .relay
            .is_none_or(|relay| quality.is_worth_taking(relay));
        let current = in_use.and_then(|index| self.candidates.get(index));
        match current.map(|current| current.probes.quality()) {
            None if is_worth_taking => {
                self.take(
                    best,
                    if is_doubtful {
                        PathReason::PeerRoamed
                    } else {
                        PathReason::Answered
                    },
                );
            }
            Some(Some(current)) if in_use != Some(best) && quality.is_better_than(current) => {
                let is_settled = self.is_settled(Rival::Candidate(best));
                match self.candidates.get_mut(best) {
                    Some(best) if !best.is_fresh(now) => best.hasten(now, Duration::ZERO),
                    Some(_) if is_settled => self.take(best, why_better(quality, current)),
                    Some(_) | None => {}
                }
            }
            Some(_) | None => {
                self.rival.take_if(|(rival, _)| *rival != Rival::Relay);
                self.refresh();
            }
        }
    }

    /// Asks what answered once, and has not lately.
    fn ask_again(&mut self, now: Instant) {
        for candidate in &mut self.candidates {
            if candidate.carries > 0 && !candidate.is_fresh(now) {
                candidate.hasten(now, Duration::ZERO);
            }
        }
    }

    /// Whether a path was better often enough in a row.
    fn is_settled(&mut self, rival: Rival) -> bool {
        let count = match self.rival {
            Some((before, count)) if before == rival => count + 1,
            Some(_) | None => 1,
        };
        self.rival = Some((rival, count));
        count >= BETTER_TIMES
    }

    fn take(&mut self, index: usize, why: PathReason) {
        self.current = Some(index);
        self.changed(why);
    }

    fn leave(&mut self, why: PathReason) {
        self.current = None;
        self.changed(why);
    }

    fn changed(&mut self, why: PathReason) {
        self.rival = None;
        self.why = why;
        self.changes = self.changes.wrapping_add(1);
        self.refresh();
    }

    fn refresh(&mut self) {
        self.direct = self.current().map(|current| Direct {
            to: current.address,
            carries: current.carries,
        });
    }

    fn current(&self) -> Option<&Candidate> {
        self.current.and_then(|index| self.candidates.get(index))
    }

    fn current_mut(&mut self) -> Option<&mut Candidate> {
        self.current
            .and_then(|index| self.candidates.get_mut(index))
    }

    fn find(&self, address: SocketAddr) -> Option<usize> {
        let mut candidates = self.candidates.iter();
        candidates.position(|candidate| candidate.address == address)
    }

    /// The same for an address that something authentic came from. Where that is a new one, the other
    /// end may have moved, or its NAT maps anew: the way in use is asked whether it still holds.
    fn meet(&mut self, now: Instant, from: SocketAddr) -> Option<usize> {
        let is_known = self.find(from).is_some();
        let index = self.add(now, from)?;
        if let Some(current) = self.current_mut()
            && !is_known
        {
            current.hasten(now, Duration::ZERO);
        }
        Some(index)
    }

    /// The candidate with this address, which is one from now on when it may be.
    fn add(&mut self, now: Instant, address: SocketAddr) -> Option<usize> {
        let address = self.permit.check(address)?;
        if let Some(index) = self.find(address) {
            return Some(index);
        }
        if !self.spend(now) {
            return None;
        }
        let candidate = Candidate::new(address);
        if self.candidates.len() < CANDIDATES_HELD_MAX {
            self.candidates.push(candidate);
            return Some(self.candidates.len() - 1);
        }
        let index = self.candidates.iter().position(Candidate::is_over)?;
        *self.candidates.get_mut(index)? = candidate;
        Some(index)
    }

    /// Whether one more address may be probed: a peer that names others all the time would make
    /// this end send to all of them.
    fn spend(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.fresh_since);
        let more = u32::try_from(passed.as_secs() / FRESH_EVERY.as_secs()).unwrap_or(FRESH_MAX);
        if more > 0 {
            self.fresh = self.fresh.saturating_add(more).min(FRESH_MAX);
            self.fresh_since = now;
        }
        let has_one = self.fresh > 0;
        self.fresh = self.fresh.saturating_sub(1);
        has_one
    }
}

/// Why a way takes the place of another one that it is better than.
fn why_better(way: Quality, than: Quality) -> PathReason {
    if way.loses_less(than, ALIKE) {
        PathReason::Cleaner
    } else {
        PathReason::Shorter
    }
}

/// What a tunnel sends at the moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Its largest datagram.
    pub(crate) size: usize,
    /// Whether it sends.
    pub(crate) is_flowing: bool,
    /// The way through the relay, when known.
    pub(crate) relay: Option<Quality>,
}

/// Bytes of a datagram with an answer or a probe that is not padded.
pub(crate) const PROBE_DATAGRAM_BYTES: usize = cardea_proto::relay::DATA_HEADER_BYTES
    + cardea_proto::path::PATH_SEAL_BYTES
    + cardea_proto::path::PROBE_BYTES;

/// How often a path that is in use is probed. With a candidate's patience this bounds how long
/// datagrams can be lost before they go through the relay.
const BUSY_INTERVAL: Duration = Duration::from_millis(400);

/// How long after the first datagram on a quiet path it is probed.
const BUSY_DELAY: Duration = Duration::from_millis(50);

/// How soon at least a path is probed again that could take the place of one whose answer is awaited;
/// later where that answer is not overdue by then. On a machine that is busy all answers are late, and
/// each end that asked more for it would make them later.
const DOUBT_INTERVAL: Duration = Duration::from_millis(50);

/// How often a path is probed that could be used, so that no NAT forgets it.
///
/// Source: RFC 4787 §4.3 lets a mapping die after 2 minutes; many die after 30 s.
const IDLE_INTERVAL: Duration = Duration::from_secs(20);

/// Times in a row that a path must be better before the tunnel changes over.
const BETTER_TIMES: u8 = 3;

/// Most addresses of one tunnel's other end: what it names, and as many that are only seen.
const CANDIDATES_HELD_MAX: usize = 16;

/// Addresses that may be probed at once, and how often there is one more.
const FRESH_MAX: u32 = 24;
const FRESH_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use cardea_proto::access::InnerAddresses;

    use super::*;

    #[test]
    fn a_way_that_answered_a_while_ago_is_asked_before_it_is_taken() {
        let mut bench = Bench::new(&[OLD, NEW]);
        bench.relay = Some(ms(1));
        bench.answer_all(ms(20), |_| true);
        assert!(bench.paths.direct().is_none(), "the relay is shorter");
        bench.now += ms(3_000);
        bench.relay = None;
        bench.paths.told_lost(bench.now, 0);
        bench.paths.named(bench.now, &[HERE.parse().unwrap()]);
        bench.answer_all(ms(90), |to| to.to_string() == HERE);
        assert_eq!(bench.paths.direct().unwrap().to.to_string(), HERE);
    }

    #[test]
    fn when_the_way_in_use_dies_the_next_one_is_asked_first() {
        let mut bench = Bench::new(&[OLD, NEW]);
        bench.answer_all(ms(20), |_| true);
        let first = bench.paths.direct().unwrap().to;
        bench.now += ms(15_000);
        bench.paths.flows(bench.now);
        bench.now += ms(60);
        let asked = loop {
            let asked = bench.ask();
            if bench.paths.direct().is_none() {
                break asked;
            }
            bench.now += ms(50);
        };
        let (other, probe) = *asked.iter().find(|(to, _)| *to != first).unwrap();
        let traffic = bench.traffic();
        bench.paths.answered(bench.now, other, probe.id, traffic);
        assert_eq!(bench.paths.direct().unwrap().to, other);
    }

    /// One end's paths, and a network that answers as the test says.
    struct Bench {
        paths: Paths,
        now: Instant,
        relay: Option<Duration>,
    }

    impl Bench {
        fn new(named: &[&str]) -> Self {
            let now = cardea_proto::time::testing::start().instant;
            let inner = InnerAddresses {
                device_v4: Ipv4Addr::new(100, 64, 0, 1),
                device_v6: Ipv6Addr::LOCALHOST,
                app_v4: Ipv4Addr::new(100, 64, 0, 2),
                app_v6: Ipv6Addr::LOCALHOST,
            };
            let mut paths = Paths::new(now, Permit::new(inner, Vec::new()));
            let named: Vec<SocketAddr> = named.iter().map(|at| at.parse().unwrap()).collect();
            paths.named(now, &named);
            paths.begin(now);
            Self {
                paths,
                now,
                relay: None,
            }
        }

        fn traffic(&self) -> Traffic {
            Traffic {
                size: 1_208,
                is_flowing: false,
                relay: self.relay.map(|rtt| Quality { rtt, loss: None }),
            }
        }

        fn ask(&mut self) -> Vec<(SocketAddr, Probe)> {
            let traffic = self.traffic();
            std::iter::from_fn(|| self.paths.poll(self.now, traffic)).collect()
        }

        /// Answers what is asked for a while, after `rtt`, where `answers` says so.
        fn answer_all(&mut self, rtt: Duration, answers: impl Fn(SocketAddr) -> bool) {
            for _ in 0..4 {
                let asked = self.ask();
                self.now += rtt;
                let traffic = self.traffic();
                for (to, probe) in asked.into_iter().filter(|(to, _)| answers(*to)) {
                    self.paths.answered(self.now, to, probe.id, traffic);
                }
            }
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const OLD: &str = "192.0.2.1:1";
    const NEW: &str = "192.0.2.2:1";
    const HERE: &str = "192.0.2.3:1";
}
