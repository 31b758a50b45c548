//! What comes from the other end, and what it says about paths.

use std::{net::SocketAddr, time::Instant};

use cardea_proto::path::PathFrame;

use super::{Link, Rerouted};
use crate::{
    command::End,
    outbox::{Outbox, Via},
    path::{PathReason, relays::Which},
};

impl Link {
    /// An authentic datagram of the carrier came.
    pub(crate) fn came(&mut self, now: Instant, (from, via): (SocketAddr, Via)) {
        self.heard(now, self.which((from, via)));
        if via == Via::Direct
            && self.own.is_some()
            && self.paths.direct().is_some_and(|direct| direct.to != from)
            && self.paths.appeared(now, from)
        {
            self.hasten(self.paths.deadline());
        }
        // Connectors seldom move, and have many tunnels.
        if self.end == End::Agent {
            self.life.came(now);
            self.hasten(self.life.deadline());
        }
    }

    /// The relay through which something came; `None` when it came directly.
    fn which(&self, (from, via): (SocketAddr, Via)) -> Option<Which> {
        match via {
            Via::Relay => self.relays.at(from),
            Via::Direct => None,
        }
    }

    /// Something authentic came.
    fn heard(&mut self, now: Instant, which: Option<Which>) {
        match which {
            Some(Which::Used) => {
                self.relays.failover.heard(now);
                let used = &mut self.relays.used;
                used.path.heard(used.probes.rtt());
            }
            Some(which @ Which::Standby(_)) => {
                if let Some(leg) = self.relays.get_mut(which) {
                    leg.path.heard(leg.probes.rtt());
                }
            }
            None => {
                let used = &mut self.relays.used;
                used.path.heard(used.probes.rtt());
            }
        }
        self.life.heard();
        if self.life.has_returned() {
            self.hasten(Some(now));
        }
        if !self.is_peer_there {
            self.is_peer_there = true;
            self.relay_size.begin(now);
            self.exchange.repeat(now);
            if self.own.is_some() {
                self.paths.begin(now);
            }
            self.schedule();
        }
    }

    /// Takes a sealed statement about paths; says whether it was authentic.
    pub(crate) fn frame(
        &mut self,
        now: Instant,
        (from, via): (SocketAddr, Via),
        sealed: &[u8],
        out: &mut Outbox,
    ) -> bool {
        let Some(frame) = self.key.read(now, via, sealed) else {
            return false;
        };
        let which = self.which((from, via));
        match (frame, via) {
            (PathFrame::Probe { id }, Via::Relay) => {
                let answer = PathFrame::Answer { of: id, id: None };
                if let Some(which) = which {
                    self.say_by(which, &answer, 0, out);
                }
            }
            (PathFrame::Probe { id }, Via::Direct) => {
                if let Some(back) = self.paths.probed(now, from) {
                    let answer = PathFrame::Answer { of: id, id: back };
                    self.say_to(from, &answer, 0, out);
                }
            }
            (PathFrame::Answer { of, .. }, Via::Relay) => {
                if let Some(which) = which {
                    self.answered_by(now, which, of);
                }
            }
            (PathFrame::Answer { of, id }, Via::Direct) => {
                let before = self.paths.changes();
                if self.paths.answered(now, from, of, self.traffic()) {
                    self.life.answered();
                    if let Some(id) = id {
                        let answer = PathFrame::Answer { of: id, id: None };
                        self.say_to(from, &answer, 0, out);
                    }
                    let is_moved = self.paths.changes() != before
                        && self.paths.why() == PathReason::PeerRoamed;
                    if (is_moved || self.is_stranded) && self.paths.direct().is_some() {
                        self.returned(out);
                    }
                }
            }
            (PathFrame::Lost { size }, Via::Relay | Via::Direct) => {
                if self.pace.admits(now, self.rtt()) {
                    self.told_lost(now, (from, via), size);
                }
            }
            (PathFrame::Turned, Via::Relay | Via::Direct) => {
                if self.pace.admits(now, self.rtt()) {
                    self.told_turned(now, which, out);
                }
            }
            (
                PathFrame::Candidates {
                    version,
                    heard,
                    asks,
                    addresses,
                },
                Via::Relay | Via::Direct,
            ) => {
                if self.exchange.heard(now, version, heard, asks) {
                    self.paths.named(now, &addresses);
                }
            }
        }
        self.heard(now, self.which((from, via)));
        self.schedule();
        true
    }

    /// The other end answered a probe through a relay.
    fn answered_by(&mut self, now: Instant, which: Which, of: u32) {
        let Some(leg) = self.relays.get_mut(which) else {
            return;
        };
        let Some(probe) = leg.probes.answered(now, of) else {
            return;
        };
        leg.answered();
        let quality = leg.probes.quality();
        self.life.answered();
        match which {
            Which::Used => {
                self.relay_size.answered(probe.size);
                if let Some(quality) = quality {
                    self.paths.compare(quality);
                }
            }
            Which::Standby(standby) => self.relays.failover.answered(standby),
        }
    }

    /// What the other end sent lately is lost, and what this one sent likely, too.
    fn told_lost(&mut self, now: Instant, (from, via): (SocketAddr, Via), size: u32) {
        // It shows of the way by which it comes that it is none of those that are lost.
        if via == Via::Relay || self.paths.direct().is_none_or(|direct| direct.to != from) {
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            self.paths.told_lost(now, size);
        }
        self.lost = Some(Rerouted::ByAnotherWay);
    }

    /// The other end goes on with a relay: so does this one, unless it has just found out by itself
    /// that another one works, which it then says. Of two that did so at once the agent is followed.
    fn told_turned(&mut self, now: Instant, which: Option<Which>, out: &mut Outbox) {
        if self.paths.direct().is_none() {
            self.lost = Some(Rerouted::ByAnotherRelay);
        }
        let Some(Which::Standby(standby)) = which else {
            return;
        };
        if self.end == End::Agent && self.relays.has_just_turned(now) {
            return self.say(&PathFrame::Turned, out);
        }
        self.turn(now, standby, true, out);
    }

    /// Goes on with another relay.
    pub(super) fn turn(&mut self, now: Instant, standby: usize, is_told: bool, out: &mut Outbox) {
        if self.relays.turn(now, standby, is_told, out).is_none() {
            return;
        }
        self.turned_after = self.paths.changes();
        self.relay_size.begin(now);
        if self.paths.direct().is_none() {
            self.lost = Some(Rerouted::ByAnotherRelay);
        }
        if self.own.is_some() && self.seen.is_none() {
            self.asks.begin(now);
        }
        if !is_told {
            self.say(&PathFrame::Turned, out);
        }
    }
}
