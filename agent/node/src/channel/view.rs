//! How a channel looks to a person, and how far two clocks are apart.

use std::time::Duration;

use cardea_credential::tls::ClockOff;
use cardea_proto::{
    detour,
    local::{CertificateView, ControllerState, ControllerView},
    refusal::{Refusal, RefusalCode},
    time::UnixMillis,
};

use super::{Channel, connection::Connection};

/// Largest difference between the two wall clocks that is nobody's concern.
///
/// Clocks that differ by five minutes still work together.
pub(crate) const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// How the reason begins when an attempt ended without a word from the other side.
pub(super) const NO_ANSWER: &str = "no answer";

/// What may be wrong then: a controller that does not know a node is as silent as one that is off.
const NO_ANSWER_NEXT: &str = "Check that UDP reaches that address and that the clock is right; \
    if both are so, ask an admin whether this node is still enrolled";

/// How far the controller's wall clock is from ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skew {
    /// The difference.
    pub(crate) offset: Duration,
    /// Whether ours is ahead.
    pub(crate) ahead: bool,
}

impl Channel {
    /// What a person is told who needs the controller at this moment.
    pub(crate) fn unreachable(&self) -> Refusal {
        if !self.is_wanted() {
            return Refusal::new(RefusalCode::Unreachable, "this device is disconnected")
                .with_next("Connect: cardea up");
        }
        if let Some(told) = &self.outage.told {
            return told.clone();
        }
        if let Some(refused) = self.renewal.refused().filter(|_| self.is_renewing()) {
            return refused.clone();
        }
        let since = self.outage.since.unwrap_or(self.shown.1).to_rfc3339();
        let tried = self.tried();
        let refusal = Refusal::new(
            RefusalCode::Unreachable,
            format!(
                "controller {} not reachable since {} ({tried} {} tried, UDP{}{})",
                self.address(),
                since.get(11..16).unwrap_or(&since),
                if tried == 1 { "address" } else { "addresses" },
                if self.has_front() { " and TLS" } else { "" },
                self.outage
                    .why
                    .as_ref()
                    .map(|why| format!(": {why}"))
                    .unwrap_or_default(),
            ),
        );
        let why = self.outage.why.as_deref().unwrap_or_default();
        if why.starts_with(NO_ANSWER) {
            refusal.with_next(NO_ANSWER_NEXT)
        } else if let Some(off) = ClockOff::of(why) {
            // A controller renews its own certificate long before the end.
            refusal.with_next(format!(
                "Its certificate does not hold at the time of this machine, \
                 whose clock is {off} the controller's: set the clock"
            ))
        } else {
            refusal
        }
    }

    pub(crate) fn controller_view(&self) -> ControllerView {
        ControllerView {
            state: self.shown.0,
            address: self.address().to_owned(),
            since: self.shown.1.to_rfc3339(),
        }
    }

    pub(crate) fn certificate_view(&self) -> CertificateView {
        let certificate = self.renewal.certificate();
        CertificateView {
            not_after: certificate.not_after.to_rfc3339(),
            serial: certificate.serial.clone(),
        }
    }

    pub(super) fn state(&self) -> ControllerState {
        match self.connection {
            Connection::Ready { .. } => ControllerState::Connected,
            Connection::Waiting { .. }
            | Connection::Connecting { .. }
            | Connection::Greeting { .. }
                if self.is_hopeless() =>
            {
                ControllerState::Unreachable
            }
            Connection::Renewing { .. } => ControllerState::Connecting,
            Connection::Off => ControllerState::Unreachable,
            Connection::Connecting { .. } | Connection::Greeting { .. }
                if self.outage.attempts <= self.count() =>
            {
                ControllerState::Connecting
            }
            Connection::Waiting { .. } if self.outage.attempts < self.count() => {
                ControllerState::Connecting
            }
            Connection::Waiting { .. }
            | Connection::Connecting { .. }
            | Connection::Greeting { .. } => ControllerState::Unreachable,
        }
    }

    fn has_front(&self) -> bool {
        detour::fronts(&self.settings.addresses).next().is_some()
    }

    fn tried(&self) -> u32 {
        self.outage.attempts.clamp(1, self.count())
    }
}

impl Skew {
    /// The difference between two clocks, when it is more than [`CLOCK_SKEW_MAX`].
    pub(crate) fn between(ours: UnixMillis, theirs: UnixMillis) -> Option<Self> {
        let ahead = ours > theirs;
        let offset = if ahead {
            ours.since(theirs)
        } else {
            theirs.since(ours)
        };
        (offset > CLOCK_SKEW_MAX).then_some(Self { offset, ahead })
    }
}
