//! The part that both roles share: one channel to one of the controllers, and the certificate.

mod backoff;
mod connection;
mod renewal;
mod view;
mod witness;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use cardea_credential::{
    key::{self, Signer},
    proof::proof_message,
    trust::{ChainError, Trust},
};
use cardea_ledger::checkpoint::Verifier;
use cardea_proto::{
    PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    codec::Blob,
    detour,
    enroll::Certificate,
    id::{GrantId, NodeId},
    identity::{Holder, Identity},
    local::ControllerState,
    message::{Checkpointed, FromNode, Hello, Purpose, Welcome},
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::{ClockOffset, Now, UnixMillis},
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tracing::{debug, info, warn};

pub(crate) use self::witness::Doubt;
use self::{
    connection::{Connection, Effect, Step},
    renewal::Renewal,
    view::{CLOCK_SKEW_MAX, NO_ANSWER, Skew},
    witness::Witness,
};
use crate::{
    entropy::full_jitter,
    outbox::{Connect, NodeOutbox},
};

/// How long a channel must be ready before the next one is tried as soon as after a first loss.
///
/// A channel that dies right behind its `Welcome`, and always does, is not worth more haste than
/// one that never comes about.
const STEADY: Duration = Duration::from_secs(10);

/// Shortest pause after a refusal that only a person can lift; the longest is twice as long.
///
/// Rare enough to be no burden, often enough that an unblocked device is back within two minutes.
const HOPELESS_PAUSE: Duration = Duration::from_secs(60);

/// Most addresses of controllers that a node keeps.
const ADDRESSES_MAX: usize = 16;

/// What a node must know to hold a channel: who it is and whom it trusts.
#[derive(Clone, Debug)]
pub(crate) struct ChannelSettings {
    /// The node.
    pub(crate) node: NodeId,
    /// The trust domain.
    pub(crate) domain: Name,
    /// The domain's root.
    pub(crate) trust: Trust,
    /// The certificate to begin with.
    pub(crate) certificate: Certificate,
    /// The node's key.
    pub(crate) signer: Arc<dyn Signer>,
    /// Where controllers are, `HOST:PORT`, in the order in which they are tried, and their fronts.
    pub(crate) addresses: Vec<String>,
    /// Version of the node's program.
    pub(crate) program: String,
    /// What checks the ledger's checkpoints.
    pub(crate) ledger: Verifier,
    /// The last checkpoint that the node accepted.
    pub(crate) checkpoint: Option<String>,
    /// Where the node's state lies, for a person who is to move it away.
    pub(crate) home: String,
}

/// A node's channel and certificate.
///
/// It connects whenever a channel is wanted, tries all addresses of a round one after the other and
/// pauses between rounds with full jitter, says `Hello`, checks `Welcome`, and renews the certificate
/// from half of its life. With a certificate that has ended it first connects for the next one
/// alone. What travels on a ready channel otherwise is its parent's concern.
#[derive(Debug)]
pub(crate) struct Channel {
    settings: ChannelSettings,
    position: usize,
    connection: Connection,
    outage: Outage,
    /// Attempts since the channel was last ready for [`STEADY`].
    tries: u32,
    ready_since: Option<Instant>,
    shown: (ControllerState, UnixMillis),
    renewal: Renewal,
    witness: Witness,
    skew: Option<Skew>,
    /// What the controller's clock showed at a moment that no step of ours moves.
    clock: Option<(Instant, UnixMillis)>,
    rng: ChaCha20Rng,
}

/// What has been tried since the channel was last ready.
#[derive(Debug, Default)]
struct Outage {
    since: Option<UnixMillis>,
    attempts: u32,
    why: Option<String>,
    told: Option<Refusal>,
    /// Attempts since a controller last said something.
    unanswered: u32,
}

impl Channel {
    pub(crate) fn new(settings: ChannelSettings, entropy: [u8; 32]) -> Self {
        let renewal = Renewal::new(settings.certificate.clone());
        let witness = Witness::new(settings.ledger.clone(), settings.checkpoint.as_deref());
        Self {
            witness,
            settings,
            position: 0,
            connection: Connection::Off,
            outage: Outage::default(),
            tries: 0,
            ready_since: None,
            shown: (ControllerState::Connecting, UnixMillis(0)),
            renewal,
            skew: None,
            clock: None,
            rng: ChaCha20Rng::from_seed(entropy),
        }
    }

    /// A channel is wanted from now on.
    pub(crate) fn start(&mut self, now: Now, out: &mut NodeOutbox) {
        if self.connection == Connection::Off {
            self.outage = Outage::default();
            self.tries = 0;
        }
        self.step(now, Step::Start, out);
        self.timeout(now, out);
    }

    /// No channel is wanted from now on.
    pub(crate) fn stop(&mut self, now: Now, out: &mut NodeOutbox) {
        self.step(now, Step::Stop, out);
    }

    /// The shell has a channel: says `Hello`, naming the grants that the node still holds.
    pub(crate) fn connected(
        &mut self,
        now: Now,
        address: String,
        exporter: [u8; 32],
        grants: Vec<GrantId>,
        out: &mut NodeOutbox,
    ) {
        if self.step(now, Step::Up { address, exporter }, out) == Effect::Hello {
            out.messages.push_back(FromNode::Hello(Hello {
                version: PROTOCOL_VERSION,
                program: self.settings.program.clone(),
                clock: now.unix,
                grants,
                checkpoint: self.witness.note().map(ToOwned::to_owned),
            }));
        }
    }

    /// The channel goes on by another way.
    pub(crate) fn rerouted(&mut self, address: String) {
        debug!(%address, "another way leads to the controller");
        self.connection.reroute(address);
    }

    /// The channel, or the attempt at one, is gone.
    pub(crate) fn disconnected(&mut self, now: Now, why: String, out: &mut NodeOutbox) {
        debug!(reason = %why, "channel lost");
        self.outage.why = Some(why);
        self.step(now, Step::Lost, out);
    }

    /// The machine's network changed: addresses that failed from the one before are tried at once, and
    /// whoever needs the controller waits for that.
    pub(crate) fn moved(&mut self, now: Now, out: &mut NodeOutbox) {
        if self.is_hopeless() || self.is_open() {
            return;
        }
        self.outage.attempts = 0;
        self.tries = 0;
        self.step(now, Step::Moved, out);
        self.timeout(now, out);
    }

    /// Checks the controller's `Welcome`; the channel is ready afterwards, or gone.
    pub(crate) fn welcome(&mut self, now: Now, welcome: &Welcome, out: &mut NodeOutbox) {
        if welcome.version < PROTOCOL_VERSION_MIN {
            let refusal = Refusal::new(
                RefusalCode::Version,
                format!(
                    "the controller speaks version {} of the channel protocol, this node {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}",
                    welcome.version
                ),
            );
            return self.refuse(now, refusal, out);
        }
        self.skew = Skew::between(now.unix, welcome.clock);
        self.clock = Some((now.instant, welcome.clock));
        if !welcome.addresses.is_empty() && welcome.addresses != self.settings.addresses {
            self.settings.addresses = welcome
                .addresses
                .iter()
                .take(ADDRESSES_MAX)
                .cloned()
                .collect();
            self.position = 0;
            out.addresses = Some(self.settings.addresses.clone());
        }
        self.step(now, Step::Welcome, out);
        if self.is_ready() {
            info!(node.id = %self.settings.node, "channel ready");
            self.renewal.resume(now, &mut self.rng);
            self.witness.demand(now.instant);
        }
        if self.is_renewing() {
            info!(node.id = %self.settings.node, "channel ready for renewal");
            self.renewal.hold();
            // A connector reports nothing that there is to wait for.
            if matches!(self.settings.node, NodeId::Connector(_)) {
                self.renewal.ask_now(now.instant);
            }
        }
    }

    /// A report is on its way, on which the next certificate rests.
    pub(crate) fn reported(&mut self, now: Now, out: &mut NodeOutbox) {
        if self.is_renewing() {
            self.renewal.ask_now(now.instant);
            self.renew(now, out);
        }
    }

    /// Leaves out what has no place on a channel that is for renewal alone: the controller would
    /// close it, and what is left out is settled by the `Hello` of the next channel.
    pub(crate) fn keep_to_purpose(&self, out: &mut NodeOutbox) {
        if self.connection.is_renewing() {
            out.messages.retain(|message| {
                matches!(
                    message,
                    FromNode::Hello(_) | FromNode::Report(_) | FromNode::Renew { .. }
                )
            });
        }
    }

    /// The controller ends the channel, or says what this node does not accept.
    pub(crate) fn refuse(&mut self, now: Now, refusal: Refusal, out: &mut NodeOutbox) {
        let refusal = match (refusal.code, &refusal.next) {
            // Only this end knows where its state lies.
            (RefusalCode::NotProven, Some(_)) => refusal.with_next(self.enroll_anew()),
            (_, _) => refusal,
        };
        warn!(reason = %refusal, "channel refused");
        self.outage.told = Some(refusal);
        self.outage.unanswered = 0;
        self.step(now, Step::Refuse, out);
    }

    /// Takes the next certificate, if it is this node's.
    pub(crate) fn certificate(&mut self, now: Now, certificate: Certificate, out: &mut NodeOutbox) {
        match self.check(now, &certificate) {
            Ok(()) => {
                // Whatever it was turned away for before is lifted.
                self.outage.told = None;
                self.renewal
                    .renewed(now, certificate.clone(), &mut self.rng);
                out.save = Some(certificate);
                self.step(now, Step::Renewed, out);
            }
            Err(refusal) => self.certificate_refused(now, refusal),
        }
    }

    /// The controller shows its ledger.
    pub(crate) fn checkpoint(&mut self, now: Now, shown: &Checkpointed, out: &mut NodeOutbox) {
        if let Some(note) = self.witness.shown(now, shown) {
            out.checkpoint = Some(note);
        }
    }

    /// There is no next certificate at the moment.
    pub(crate) fn certificate_refused(&mut self, now: Now, refusal: Refusal) {
        debug!(reason = %refusal, "certificate refused");
        self.renewal.refuse(now.instant, refusal, &mut self.rng);
    }

    /// What a refused certificate waited for may have happened.
    pub(crate) fn retry_certificate(&mut self, now: Now) {
        self.renewal.retry(now.instant);
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Now, out: &mut NodeOutbox) {
        if self
            .connection
            .deadline()
            .is_some_and(|due| due <= now.instant)
        {
            if matches!(
                self.connection,
                Connection::Connecting { .. } | Connection::Greeting { .. }
            ) {
                self.outage.why = Some(NO_ANSWER.to_owned());
            }
            let address = self.next_address();
            let purpose = self.purpose(now);
            if matches!(self.connection, Connection::Waiting { .. }) {
                self.foresee(now, purpose);
            }
            self.step(now, Step::Due { address, purpose }, out);
        }
        self.witness.timeout(now.instant);
        self.renew(now, out);
    }

    /// When [`Self::timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let renewal = self.is_open().then(|| self.renewal.deadline()).flatten();
        earliest([self.connection.deadline(), renewal, self.witness.deadline()])
    }

    /// Whether everything may be said.
    pub(crate) const fn is_ready(&self) -> bool {
        self.connection.is_ready()
    }

    /// Whether the certificate has ended and the next one is asked for, and nothing else.
    pub(crate) const fn is_renewing(&self) -> bool {
        self.connection.is_renewing()
    }

    /// Whether a controller listens, for whatever purpose.
    pub(crate) const fn is_open(&self) -> bool {
        self.connection.exporter().is_some()
    }

    /// Whether a channel is wanted.
    pub(crate) fn is_wanted(&self) -> bool {
        self.connection != Connection::Off
    }

    /// Whether nothing can be asked of the controller until something changes: every address has
    /// failed since the channel was last ready, or there is no next certificate.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.state() == ControllerState::Unreachable
            || (self.is_renewing() && self.renewal.refused().is_some())
    }

    pub(crate) const fn settings(&self) -> &ChannelSettings {
        &self.settings
    }

    /// Leaf, then intermediate, of this moment.
    pub(crate) fn chain(&self) -> &[Blob] {
        &self.renewal.certificate().chain
    }

    pub(crate) const fn not_after(&self) -> UnixMillis {
        self.renewal.certificate().not_after
    }

    pub(crate) const fn renewal_refused(&self) -> Option<&Refusal> {
        self.renewal.refused()
    }

    /// Why the controller sent this node away, when it did since the channel was last ready.
    pub(crate) const fn told(&self) -> Option<&Refusal> {
        self.outage.told.as_ref()
    }

    /// Why the ledger is not believed to be whole.
    pub(crate) const fn doubt(&self) -> Option<Doubt> {
        self.witness.doubt()
    }

    pub(crate) const fn skew(&self) -> Option<Skew> {
        self.skew
    }

    fn step(&mut self, now: Now, step: Step, out: &mut NodeOutbox) -> Effect {
        let was_ready = self.is_ready();
        if self.is_steady(now) {
            self.tries = 0;
            // Both ends of a grant must be at one controller: nodes that prefer the same one meet.
            self.position = 0;
        }
        let count = self.count();
        // What one controller refuses, another one that knows more may not: a round ends first.
        let pause = if self.is_hopeless() && self.tries.is_multiple_of(count) {
            HOPELESS_PAUSE + full_jitter(&mut self.rng, HOPELESS_PAUSE)
        } else {
            backoff::delay(&mut self.rng, self.tries, count)
        };
        let (connection, effect) =
            std::mem::replace(&mut self.connection, Connection::Off).step(now.instant, step, pause);
        self.connection = connection;
        match effect {
            Effect::Nothing | Effect::Hello => {}
            Effect::Connect => {
                self.outage.attempts = self.outage.attempts.saturating_add(1);
                self.outage.unanswered = self.outage.unanswered.saturating_add(1);
                self.tries = self.tries.saturating_add(1);
                out.connect = Some(Connect {
                    address: self.address().to_owned(),
                    fronts: detour::fronts(&self.settings.addresses)
                        .map(ToOwned::to_owned)
                        .collect(),
                    purpose: self.connection.purpose(),
                    chain: self.chain().to_vec(),
                    knock: self.renewal.certificate().knock.clone(),
                    pass: self.renewal.certificate().pass.clone(),
                    clock: self.offset(now),
                });
            }
            Effect::Disconnect => {
                out.disconnect = true;
                out.connect = None;
            }
        }
        if self.is_ready() {
            self.outage = Outage::default();
            self.ready_since.get_or_insert(now.instant);
        } else {
            self.witness.rest();
            self.ready_since = None;
            if was_ready || self.outage.since.is_none() {
                self.outage.since = Some(now.unix);
            }
        }
        if self.is_renewing() {
            // It listens; how long there has been no channel is still true.
            let since = self.outage.since;
            self.outage = Outage {
                since,
                ..Outage::default()
            };
        }
        let state = self.state();
        if self.shown.0 != state || self.shown.1 == UnixMillis(0) {
            self.shown = (state, now.unix);
        }
        effect
    }

    /// How far the controller's clock is believed to be from ours: by what it showed last in one round
    /// of addresses, and not at all in the next, because it may have been set since.
    fn offset(&self, now: Now) -> ClockOffset {
        let round = self.tries.saturating_sub(1) / self.count();
        match self.clock {
            Some((at, shown)) if round.is_multiple_of(2) => {
                let shows = shown.plus(now.instant.saturating_duration_since(at));
                ClockOffset::between(now.unix, shows)
            }
            Some(_) | None => ClockOffset::default(),
        }
    }

    fn renew(&mut self, now: Now, out: &mut NodeOutbox) {
        let Some(exporter) = self.connection.exporter() else {
            return;
        };
        if !self.renewal.is_due(now) {
            return;
        }
        let public_key = self.settings.signer.public_key();
        match self
            .settings
            .signer
            .sign(&proof_message(exporter, public_key))
        {
            Ok(proof) => {
                out.messages.push_back(FromNode::Renew {
                    public_key: Blob(public_key.to_vec()),
                    proof: Blob(proof),
                });
                self.renewal.asked(now.instant);
            }
            Err(error) => {
                warn!(reason = %error, "the key did not sign");
                let refusal = Refusal::new(RefusalCode::Internal, "this node's key did not sign");
                self.renewal.refuse(now.instant, refusal, &mut self.rng);
            }
        }
    }

    /// What to connect for.
    ///
    /// A certificate that may have ended by the controller's clock, or that has not begun because a
    /// clock was set back, is renewed first as well, once every address has refused it or kept silent;
    /// one that lives, never in the first three quarters of its life,
    /// or one of five minutes would be renewed for ever and never used.
    fn purpose(&self, now: Now) -> Purpose {
        let ends = self.not_after();
        let is_tried = self.tries >= self.count();
        let margin = CLOCK_SKEW_MAX.min(self.renewal.life() / 4);
        let is_early = self.renewal.certificate().not_before > now.unix;
        let is_lapsed = is_early || ends <= now.unix.plus(margin);
        if ends <= now.unix || (is_tried && is_lapsed) {
            Purpose::Renewal
        } else {
            Purpose::Channel
        }
    }

    /// Tells ahead of an attempt that it is hopeless, because the authority above the certificate
    /// has ended as well. It is made all the same: the clock that says so may be wrong.
    fn foresee(&mut self, now: Now, purpose: Purpose) {
        let is_own = |told: &Refusal| told.code == RefusalCode::CertificateExpired;
        if self.outage.told.as_ref().is_some_and(is_own) {
            self.outage.told = None;
        }
        let verified = self.settings.trust.verify_lapsed(self.chain(), now.unix);
        if let (Purpose::Renewal, Err(ChainError::Expired { .. })) = (purpose, verified) {
            let refusal = Refusal::new(
                RefusalCode::CertificateExpired,
                format!(
                    "the certificate ended at {}, too long ago to be renewed",
                    self.not_after().to_rfc3339()
                ),
            );
            self.outage.told = Some(refusal.with_next(self.enroll_anew()));
        }
    }

    /// What there is to do for a node whose enrollment is void.
    fn enroll_anew(&self) -> String {
        let (invite, program) = match self.settings.node {
            NodeId::Device(_) => ("cardeactl invite device", "cardea"),
            NodeId::Connector(_) => ("cardeactl invite connector", "cardea-connector"),
        };
        format!(
            "Ask an admin for a code ({invite}), stop {program}, move {} away, then: {program} up CODE",
            self.settings.home
        )
    }

    /// Whether a controller said that it knows no such node, or knows it with another key.
    pub(crate) fn is_removed(&self) -> bool {
        let told = self.outage.told.as_ref();
        told.is_some_and(|told| told.code == RefusalCode::NotProven)
    }

    /// Why this node will have no channel again unless it enrolls anew, once every controller said so.
    pub(crate) fn ended(&self) -> Option<&Refusal> {
        let is_over =
            self.is_removed() && self.is_hopeless() && self.tries.is_multiple_of(self.count());
        self.told().filter(|_| is_over)
    }

    /// Whether only a person can lift what stands in the way.
    ///
    /// A round of addresses that kept silent says nothing of that: the knock may have been timed by a
    /// clock that was set since, and the next round is timed by the other one.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other refusal may be over at the next attempt"
    )]
    fn is_hopeless(&self) -> bool {
        self.outage
            .told
            .as_ref()
            .is_some_and(|told| match told.code {
                RefusalCode::CertificateExpired => true,
                RefusalCode::Blocked | RefusalCode::NotProven => {
                    self.outage.unanswered < self.count()
                }
                _ => false,
            })
    }

    /// Whether the channel has been ready for [`STEADY`].
    fn is_steady(&self, now: Now) -> bool {
        self.ready_since
            .is_some_and(|since| now.instant.saturating_duration_since(since) >= STEADY)
    }

    /// A certificate must be what it says of itself, of this node, for its key, and good at this
    /// moment.
    fn check(&self, now: Now, certificate: &Certificate) -> Result<(), Refusal> {
        let refuse = |why: String| Refusal::new(RefusalCode::NotProven, why);
        let leaf = self
            .settings
            .trust
            .verify(&certificate.chain, now.unix)
            .map_err(|error| refuse(format!("the new certificate does not hold: {error}")))?;
        let ours = Identity {
            domain: self.settings.domain.clone(),
            holder: Holder::from(self.settings.node),
        };
        if leaf.identity != ours || leaf.key != key::digest(self.settings.signer.public_key()) {
            return Err(refuse(
                "the new certificate is for somebody else".to_owned(),
            ));
        }
        let said = (certificate.not_before, certificate.not_after);
        if said != (leaf.not_before, leaf.not_after) || certificate.serial != leaf.serial {
            return Err(refuse(
                "the new certificate is not what the controller says of it".to_owned(),
            ));
        }
        Ok(())
    }

    fn next_address(&mut self) -> String {
        let addresses = self.udp_addresses();
        let count = addresses.len().max(1);
        let address = addresses.get(self.position % count).copied();
        let address = address.unwrap_or_default().to_owned();
        self.position = (self.position + 1) % count;
        address
    }

    /// Where controllers are, for UDP. Fronts are tried beside each of them.
    fn udp_addresses(&self) -> Vec<&str> {
        detour::plain(&self.settings.addresses).collect()
    }

    /// The controllers' addresses, as far as they are not names.
    pub(crate) fn controllers(&self) -> Vec<IpAddr> {
        let addresses = self.settings.addresses.iter();
        addresses
            .filter_map(|address| address.parse::<SocketAddr>().ok())
            .map(|address| address.ip())
            .collect()
    }

    /// The address in use, else the one tried last.
    fn address(&self) -> &str {
        let addresses = self.udp_addresses();
        let count = addresses.len().max(1);
        let last = (self.position + count - 1) % count;
        let last = if self.outage.attempts == 0 { 0 } else { last };
        self.connection
            .address()
            .or_else(|| addresses.get(last).copied())
            .unwrap_or_default()
    }

    fn count(&self) -> u32 {
        u32::try_from(self.udp_addresses().len())
            .unwrap_or(u32::MAX)
            .max(1)
    }
}

/// The earliest of some deadlines.
pub(crate) fn earliest(deadlines: impl IntoIterator<Item = Option<Instant>>) -> Option<Instant> {
    deadlines.into_iter().flatten().min()
}
