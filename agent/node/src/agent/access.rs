//! Access to one app, as a machine of six states.

mod step;

use std::time::{Duration, Instant};

use cardea_proto::{
    id::GrantId,
    ledger::EndReason,
    refusal::{Refusal, RefusalCode},
};

pub(super) use self::step::{Effect, Held, Step, Way};
use crate::reasons::{is_about_posture, is_denial, is_no_way};

/// How long an agent waits for an answer before it may ask again.
///
/// Twice the slowest commit we accept (4 s) and room for two losses. Longer only delays the message
/// a person is waiting for.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request waits for a channel that is being set up.
///
/// With all controllers down, a person waits at most three seconds for the denial.
pub(super) const CHANNEL_TIMEOUT: Duration = Duration::from_millis(2_500);

/// How long a tunnel may take to pass its first bytes; a handshake succeeds within 5 s at 20 % loss.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refusal answers for itself, so that a program that retries does not flood the controller.
pub(super) const REFUSAL_HOLD: Duration = Duration::from_millis(500);

/// Access to one app.
///
/// ```text
///         Wanted, no way                         Denied (no way) ── Unreachable ◀─┐
///  Idle ─────────────────▶ Unreachable             │                              │
///   │ ▲                        │ Wanted            │        Due, TunnelClosed     │
///   │ │ Ready, Cleared         ▼                   │      ┌───────────────────────┤
///   │ └─────────────────── Asking ── Granted ──▶ Opening ─┴─ Opened ──▶ Open      │
///   └──── Wanted ────────────▲ │                   │                     │        │
///                            │ └─ Denied, Due ─────┼──────▶ Denied ◀─────┤ Withdrawn
///                     Wanted └─────────────────────┼─────────┘           │
///                                                  └─▶ Idle ◀────────────┘ Due (ttl), TunnelClosed, Cut
/// ```
///
/// `GivenUp` leads where `TunnelClosed` does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing is open and nothing stands in the way, as far as this agent knows.
    Idle {
        /// Why the last tunnel ended, where a person might wonder.
        ended: Option<Refusal>,
    },
    /// Somebody waits for a grant.
    Asking {
        /// The request that was sent; `None` while there is no channel to send it on.
        request: Option<u64>,
        /// Given up at.
        until: Instant,
    },
    /// The tunnel is installed and its handshake is on the way.
    Opening {
        /// The grant.
        held: Held,
        /// Given up at.
        until: Instant,
    },
    /// Bytes pass.
    Open {
        /// The grant.
        held: Held,
    },
    /// The last answer was no.
    Denied {
        /// Why.
        refusal: Refusal,
        /// Since when.
        at: Instant,
    },
    /// The last attempt found no way.
    Unreachable {
        /// Why.
        refusal: Refusal,
        /// Since when.
        at: Instant,
    },
}

impl Access {
    /// Takes one step.
    pub(super) fn step(self, now: Instant, step: Step) -> (Self, Vec<Effect>) {
        match step {
            Step::Wanted(way) => self.wanted(now, way),
            Step::Ready(request) => self.ready(now, request),
            Step::Lost => self.lost(now),
            Step::NoWay(refusal) => self.no_way(now, refusal),
            Step::Granted(held) => self.granted(now, held),
            Step::Denied(refusal) => self.denied(now, refusal),
            Step::Opened(grant) => self.opened(grant),
            Step::TunnelClosed(grant, why) => self.tunnel_closed(now, grant, why),
            Step::GivenUp(grant, why) => self.given_up(now, grant, why),
            Step::Withdrawn(grant, reason, why) => self.withdrawn(now, grant, reason, why),
            Step::Extended(grant, until) => self.extended(grant, until),
            Step::Cleared => (self.cleared(), Vec::new()),
            Step::Mended => (self.mended(), Vec::new()),
            Step::Failing(refusal) => (self.failing(refusal), Vec::new()),
            Step::Cut(refusal) => self.cut(refusal),
            Step::Due => self.due(now),
        }
    }

    /// The grant that this agent holds for the app.
    pub(super) const fn held(&self) -> Option<&Held> {
        match self {
            Self::Opening { held, .. } | Self::Open { held } => Some(held),
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => None,
        }
    }

    /// When [`Step::Due`] is due.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Asking { until, .. } | Self::Opening { until, .. } => Some(*until),
            Self::Open { held } => Some(held.until),
            Self::Idle { .. } | Self::Denied { .. } | Self::Unreachable { .. } => None,
        }
    }

    fn wanted(self, now: Instant, way: Way) -> (Self, Vec<Effect>) {
        match self {
            Self::Idle { .. } => Self::ask(now, way),
            Self::Denied { at, .. } | Self::Unreachable { at, .. } if now >= at + REFUSAL_HOLD => {
                Self::ask(now, way)
            }
            Self::Denied { ref refusal, .. } | Self::Unreachable { ref refusal, .. } => {
                let answer = Effect::Answer(Err(refusal.clone()));
                (self, vec![answer])
            }
            Self::Open { ref held } => {
                let answer = Effect::Answer(Ok(held.grant));
                (self, vec![answer])
            }
            Self::Asking { .. } | Self::Opening { .. } => (self, Vec::new()),
        }
    }

    fn ask(now: Instant, way: Way) -> (Self, Vec<Effect>) {
        match way {
            Way::Ready(request) => (
                Self::Asking {
                    request: Some(request),
                    until: now + ANSWER_TIMEOUT,
                },
                vec![Effect::Ask(request)],
            ),
            Way::Soon => (
                Self::Asking {
                    request: None,
                    until: now + CHANNEL_TIMEOUT,
                },
                Vec::new(),
            ),
            Way::Closed(refusal) => Self::refuse(now, refusal, Vec::new()),
        }
    }

    fn ready(self, now: Instant, request: u64) -> (Self, Vec<Effect>) {
        match self {
            Self::Asking { request: None, .. } => Self::ask(now, Way::Ready(request)),
            Self::Unreachable { ref refusal, .. } if refusal.code == RefusalCode::Unreachable => {
                (Self::Idle { ended: None }, Vec::new())
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn lost(self, now: Instant) -> (Self, Vec<Effect>) {
        match self {
            Self::Asking {
                request: Some(_),
                until,
            } => {
                let until = until.min(now + CHANNEL_TIMEOUT);
                let request = None;
                (Self::Asking { request, until }, Vec::new())
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn no_way(self, now: Instant, refusal: Refusal) -> (Self, Vec<Effect>) {
        match self {
            Self::Asking { .. } => Self::refuse(now, refusal, Vec::new()),
            Self::Idle { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn granted(self, now: Instant, held: Held) -> (Self, Vec<Effect>) {
        match self {
            Self::Asking {
                request: Some(_), ..
            } => {
                let until = held.until.min(now + OPEN_TIMEOUT);
                (Self::Opening { held, until }, vec![Effect::Install])
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, vec![Effect::Tell(held.grant)]),
        }
    }

    fn denied(self, now: Instant, refusal: Refusal) -> (Self, Vec<Effect>) {
        match self {
            Self::Asking { .. } => Self::refuse(now, refusal, Vec::new()),
            Self::Idle { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn opened(self, grant: GrantId) -> (Self, Vec<Effect>) {
        match self {
            Self::Opening { held, .. } if held.grant == grant => {
                (Self::Open { held }, vec![Effect::Answer(Ok(grant))])
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn tunnel_closed(self, now: Instant, grant: GrantId, why: Refusal) -> (Self, Vec<Effect>) {
        match self {
            Self::Opening { held, .. } if held.grant == grant => {
                Self::refuse(now, why, vec![Effect::Tell(grant)])
            }
            Self::Open { held } if held.grant == grant => {
                (Self::Idle { ended: Some(why) }, vec![Effect::Tell(grant)])
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    /// As if it had closed by itself, which the tunnel has still to be told.
    fn given_up(self, now: Instant, grant: GrantId, why: Refusal) -> (Self, Vec<Effect>) {
        let is_held = self.held().is_some_and(|held| held.grant == grant);
        let (state, mut effects) = self.tunnel_closed(now, grant, why);
        if is_held {
            effects.insert(0, Effect::Remove(grant));
        }
        (state, effects)
    }

    fn withdrawn(
        self,
        now: Instant,
        grant: GrantId,
        reason: EndReason,
        why: Refusal,
    ) -> (Self, Vec<Effect>) {
        let remove = vec![Effect::Remove(grant)];
        match self {
            Self::Opening { held, .. } if held.grant == grant => Self::refuse(now, why, remove),
            Self::Open { held } if held.grant == grant && is_denial(reason) => {
                let (refusal, at) = (why, now);
                (Self::Denied { refusal, at }, remove)
            }
            Self::Open { held } if held.grant == grant => (Self::Idle { ended: Some(why) }, remove),
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn extended(self, grant: GrantId, until: Instant) -> (Self, Vec<Effect>) {
        match self {
            Self::Opening {
                mut held,
                until: given_up,
            } if held.grant == grant => {
                held.until = until;
                let until = given_up;
                (Self::Opening { held, until }, vec![Effect::Extend(grant)])
            }
            Self::Open { mut held } if held.grant == grant => {
                held.until = until;
                (Self::Open { held }, vec![Effect::Extend(grant)])
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => (self, Vec::new()),
        }
    }

    fn cleared(self) -> Self {
        match self {
            Self::Denied { .. } => Self::Idle { ended: None },
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Unreachable { .. } => self,
        }
    }

    fn mended(self) -> Self {
        match self {
            Self::Denied { refusal, .. } if is_about_posture(refusal.code) => {
                Self::Idle { ended: None }
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => self,
        }
    }

    /// A verdict may come after the withdrawal that it caused, and says more.
    fn failing(self, refusal: Refusal) -> Self {
        match self {
            Self::Denied { refusal: old, at } if is_about_posture(old.code) => {
                Self::Denied { refusal, at }
            }
            Self::Idle { .. }
            | Self::Asking { .. }
            | Self::Opening { .. }
            | Self::Open { .. }
            | Self::Denied { .. }
            | Self::Unreachable { .. } => self,
        }
    }

    fn cut(self, refusal: Refusal) -> (Self, Vec<Effect>) {
        let idle = Self::Idle { ended: None };
        match self {
            Self::Opening { held, .. } => (
                idle,
                vec![
                    Effect::Remove(held.grant),
                    Effect::Tell(held.grant),
                    Effect::Answer(Err(refusal)),
                ],
            ),
            Self::Open { held } => (
                idle,
                vec![Effect::Remove(held.grant), Effect::Tell(held.grant)],
            ),
            Self::Asking { .. } => (idle, vec![Effect::Answer(Err(refusal))]),
            Self::Idle { .. } | Self::Denied { .. } | Self::Unreachable { .. } => {
                (idle, Vec::new())
            }
        }
    }

    fn due(self, now: Instant) -> (Self, Vec<Effect>) {
        if self.deadline().is_none_or(|due| due > now) {
            return (self, Vec::new());
        }
        match self {
            Self::Asking { .. } => {
                let refusal = Refusal::new(
                    RefusalCode::Unreachable,
                    "the controller did not answer in time",
                );
                Self::refuse(now, refusal, Vec::new())
            }
            Self::Opening { held, .. } => {
                let refusal = Refusal::new(
                    RefusalCode::Unreachable,
                    "the tunnel did not open in time: no answer through the relay",
                );
                let close = vec![Effect::Remove(held.grant), Effect::Tell(held.grant)];
                Self::refuse(now, refusal, close)
            }
            Self::Open { held } => (
                Self::Idle {
                    ended: Some(Refusal::new(
                        RefusalCode::Unreachable,
                        "its time ended and the controller did not extend it",
                    )),
                },
                vec![Effect::Remove(held.grant)],
            ),
            Self::Idle { .. } | Self::Denied { .. } | Self::Unreachable { .. } => {
                (self, Vec::new())
            }
        }
    }

    /// Ends an attempt: those who wait are told why.
    fn refuse(now: Instant, refusal: Refusal, mut effects: Vec<Effect>) -> (Self, Vec<Effect>) {
        effects.push(Effect::Answer(Err(refusal.clone())));
        let at = now;
        let state = if is_no_way(refusal.code) {
            Self::Unreachable { refusal, at }
        } else {
            Self::Denied { refusal, at }
        };
        (state, effects)
    }
}

#[cfg(test)]
mod tests;
