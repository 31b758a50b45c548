//! When a node asks for its next certificate.

use std::time::{Duration, Instant};

use cardea_proto::{enroll::Certificate, refusal::Refusal, time::Now};
use rand_chacha::ChaCha20Rng;

use crate::entropy::full_jitter;

/// How long the controller may take to answer `Renew`; a slow commit takes 4 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest pause before asking again; short lives ask sooner.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Shortest ceiling of that pause.
const RETRY_MIN: Duration = Duration::from_secs(2);

/// The certificate in use and what is being done for the next one.
///
/// ```text
///            due (half of its life, with jitter)
///  Waiting ───────────────────────────────────▶ Asked ── refused, no answer ──▶ Paused
///     ▲                                          │ ▲                              │
///     └──────────────── certificate ─────────────┘ └──────────────────────────────┘
/// ```
#[derive(Debug)]
pub(super) struct Renewal {
    certificate: Certificate,
    stage: Stage,
    refused: Option<Refusal>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is known about the clocks yet.
    Unscheduled,
    /// Asks at `due`, or sooner when the wall clock says that there is hardly any life left.
    Waiting { due: Instant },
    /// Was refused, and asks again at `due`.
    Paused { due: Instant },
    /// Has asked, and waits until `until`.
    Asked { until: Instant },
}

impl Renewal {
    pub(super) const fn new(certificate: Certificate) -> Self {
        Self {
            certificate,
            stage: Stage::Unscheduled,
            refused: None,
        }
    }

    pub(super) const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(super) const fn refused(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }

    /// Takes the next certificate and plans the one after it.
    pub(super) fn renewed(&mut self, now: Now, certificate: Certificate, rng: &mut ChaCha20Rng) {
        self.certificate = certificate;
        self.refused = None;
        let left = self.certificate.not_after.since(now.unix);
        let due = now.instant + left / 2 + full_jitter(rng, left / 10);
        self.stage = Stage::Waiting { due };
    }

    /// Plans the request for a certificate that was not received just now: from half of its life, up
    /// to a tenth of it later. Its beginning is backdated a little, so that this is rather early.
    fn schedule(&mut self, now: Now, rng: &mut ChaCha20Rng) {
        let life = self.life();
        let half = self.certificate.not_before.plus(life / 2);
        let due = now.instant + half.since(now.unix) + full_jitter(rng, life / 10);
        let due = if half <= now.unix { now.instant } else { due };
        self.stage = Stage::Waiting { due };
    }

    /// A channel is ready: whatever was asked on the one before will not be answered.
    pub(super) fn resume(&mut self, now: Now, rng: &mut ChaCha20Rng) {
        match self.stage {
            Stage::Unscheduled | Stage::Asked { .. } => self.schedule(now, rng),
            Stage::Waiting { .. } | Stage::Paused { .. } => {}
        }
    }

    /// A channel for renewal alone is up: nothing is asked before [`Self::ask_now`].
    pub(super) fn hold(&mut self) {
        self.stage = Stage::Unscheduled;
    }

    /// What the next certificate rests on has been said: asks at once, unless it was asked before.
    pub(super) fn ask_now(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Unscheduled) {
            self.stage = Stage::Waiting { due: now };
        }
    }

    /// Whether the next certificate should be asked for.
    ///
    /// When it is due was counted by a wall clock that may have been wrong at that moment and may be
    /// right by now.
    pub(super) fn is_due(&self, now: Now) -> bool {
        match self.stage {
            Stage::Unscheduled => false,
            Stage::Waiting { due } => due <= now.instant || self.is_unfit(now),
            Stage::Paused { due } | Stage::Asked { until: due } => due <= now.instant,
        }
    }

    /// Whether an eighth of the certificate's life is left, or less, or none of it has begun: it was
    /// made while both ends' clocks were ahead, and nobody else believes it any more.
    fn is_unfit(&self, now: Now) -> bool {
        let is_early = self.certificate.not_before > now.unix;
        is_early || self.certificate.not_after.since(now.unix) < self.life() / 8
    }

    pub(super) fn asked(&mut self, now: Instant) {
        self.stage = Stage::Asked {
            until: now + ANSWER_TIMEOUT,
        };
    }

    /// No certificate this time: asks again after a pause.
    pub(super) fn refuse(&mut self, now: Instant, refusal: Refusal, rng: &mut ChaCha20Rng) {
        self.refused = Some(refusal);
        let ceiling = (self.life() / 10).clamp(RETRY_MIN, RETRY_MAX);
        self.stage = Stage::Paused {
            due: now + ceiling / 2 + full_jitter(rng, ceiling / 2),
        };
    }

    /// What stood in the way is gone: asks at once, if it was refused.
    pub(super) fn retry(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Paused { .. }) {
            self.stage = Stage::Waiting { due: now };
        }
    }

    /// When [`Self::is_due`] changes.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Unscheduled => None,
            Stage::Waiting { due } | Stage::Paused { due } => Some(due),
            Stage::Asked { until } => Some(until),
        }
    }

    /// How long the certificate lives in all.
    pub(super) fn life(&self) -> Duration {
        self.certificate
            .not_after
            .since(self.certificate.not_before)
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::{refusal::RefusalCode, time::testing};
    use rand_core::SeedableRng;

    use super::*;

    const LIFE: Duration = Duration::from_secs(3_600);

    fn renewal(now: Now) -> (Renewal, ChaCha20Rng) {
        let certificate = Certificate {
            chain: Vec::new(),
            serial: "01".to_owned(),
            not_before: now.unix,
            not_after: now.unix.plus(LIFE),
            knock: cardea_proto::codec::Secret32([1; 32]),
            pass: None,
            relays: Vec::new(),
        };
        (Renewal::new(certificate), ChaCha20Rng::from_seed([4; 32]))
    }

    #[test]
    fn a_certificate_is_renewed_from_half_of_its_life_and_not_all_at_once() {
        let now = testing::start();
        let mut dues = Vec::new();
        let (mut renewal, mut rng) = renewal(now);
        for _ in 0..100 {
            renewal.schedule(now, &mut rng);
            dues.push(renewal.deadline().unwrap() - now.instant);
        }
        assert!(dues.iter().all(|due| *due >= LIFE / 2));
        assert!(dues.iter().all(|due| *due <= LIFE * 6 / 10));
        assert!(
            dues.iter()
                .max()
                .unwrap()
                .abs_diff(*dues.iter().min().unwrap())
                > LIFE / 20
        );
    }

    #[test]
    fn a_backdated_certificate_just_received_is_not_due() {
        let now = testing::start();
        let (mut renewal, mut rng) = renewal(now);
        let received = now.plus(LIFE * 3 / 4);
        let certificate = renewal.certificate().clone();
        renewal.renewed(received, certificate, &mut rng);
        assert!(!renewal.is_due(received.plus(LIFE / 8 - Duration::from_secs(1))));
        assert!(renewal.is_due(received.plus(LIFE / 4)));
    }

    #[test]
    fn a_certificate_planned_by_a_clock_that_was_behind_is_due_when_the_clock_is_right() {
        let now = testing::start();
        let (mut renewal, mut rng) = renewal(now);
        let behind = Now {
            unix: cardea_proto::time::UnixMillis(now.unix.0 - 3_600_000),
            ..now
        };
        let mut certificate = renewal.certificate().clone();
        certificate.not_before = behind.unix;
        renewal.renewed(behind, certificate, &mut rng);
        let later = Duration::from_secs(3_500);
        assert!(!renewal.is_due(behind.plus(later)));
        assert!(renewal.is_due(now.plus(later)));
        let refusal = Refusal::new(RefusalCode::PostureFailed, "no");
        renewal.refuse(now.plus(later).instant, refusal, &mut rng);
        assert!(!renewal.is_due(now.plus(later)));
    }

    #[test]
    fn a_certificate_that_has_not_begun_any_more_is_due_when_the_clock_is_right() {
        let ahead = testing::start().plus(Duration::from_secs(600));
        let (mut renewal, mut rng) = renewal(ahead);
        let certificate = renewal.certificate().clone();
        renewal.renewed(ahead, certificate, &mut rng);
        assert!(!renewal.is_due(ahead));
        let right = Now {
            unix: testing::start().unix,
            ..ahead
        };
        assert!(renewal.is_due(right));
        // A clock that only we think right gets the next one refused, and asks again after a pause.
        let refusal = Refusal::new(RefusalCode::NotProven, "no");
        renewal.refuse(right.instant, refusal, &mut rng);
        assert!(!renewal.is_due(right));
    }

    #[test]
    fn a_certificate_past_its_half_is_due_at_once() {
        let now = testing::start();
        let (mut renewal, mut rng) = renewal(now);
        let later = now.plus(LIFE * 2);
        renewal.schedule(later, &mut rng);
        assert!(renewal.is_due(later));
    }

    #[test]
    fn a_refusal_is_asked_again_after_a_pause_or_as_soon_as_its_cause_is_gone() {
        let now = testing::start();
        let (mut renewal, mut rng) = renewal(now);
        renewal.asked(now.instant);
        assert!(!renewal.is_due(now));
        assert!(renewal.is_due(now.plus(ANSWER_TIMEOUT)));
        let refusal = Refusal::new(RefusalCode::PostureFailed, "no");
        renewal.refuse(now.instant, refusal, &mut rng);
        assert!(!renewal.is_due(now.plus(RETRY_MIN / 2)));
        assert!(renewal.is_due(now.plus(RETRY_MAX)));
        renewal.retry(now.instant);
        assert!(renewal.is_due(now));
    }
}
