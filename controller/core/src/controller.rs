//! The controller: takes inputs, plans, and acts on what was committed.

use std::{collections::BTreeSet, time::Instant};

use cardea_credential::{
    key::SignError,
    trust::{RootError, Trust},
};
use cardea_proto::{
    identity::Role,
    ledger::{Change, Draft, Entry},
    message::ToNode,
    name::Name,
    time::Now,
};

use crate::{
    Keys, Settings, State,
    admin::Sessions,
    api::{ChannelId, CommitError, Input, Outbox, ProposalId},
    channels::Channels,
    dice::Dice,
    grants::Live,
    judge::Judge,
    knocks::{admit_invite, dismiss, forget_invite},
    policy::Prepared,
    posture::Postures,
    proposals::{Intent, Pending, Proposals, TRIES_MAX},
    refusals::{Refusals, Refused},
    relays::Relays,
    reviews::Reviews,
    state::Happened,
    tickets::Places,
    timers::{Timer, Timers},
    world::{Expects, World, nothing_permitted},
};

/// A controller, without its sockets and its store.
///
/// Every effect on a node or an admin that something changed for starts in `committed`, from the
/// proofs that the fold makes; everything before it only plans.
#[derive(Debug)]
pub struct Controller {
    pub(crate) world: World,
    pub(crate) channels: Channels,
    pub(crate) postures: Postures,
    pub(crate) live: Live,
    pub(crate) proposals: Proposals,
    pub(crate) sessions: Sessions,
    /// Names of nodes that are being enrolled.
    pub(crate) reserved: BTreeSet<(Role, Name)>,
    pub(crate) refusals: Refusals,
    pub(crate) reviews: Reviews,
    pub(crate) timers: Timers,
    pub(crate) health: Health,
}

/// How the controller itself is.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// When its first input came.
    pub(crate) started: Option<Now>,
    /// Why the store took nothing the last time, until it takes something.
    pub(crate) store_problem: Option<String>,
    /// The latest moment of which everything on record is known here, where others write too.
    pub(crate) caught_up: Option<Instant>,
}

/// The moment of one input, and where its consequences go.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) now: Now,
    pub(crate) out: &'a mut Outbox,
}

/// Why a controller cannot start on this state.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger is empty.
    #[error("the ledger does not begin with a founding; run: cardea-controller init")]
    NotFounded,
    /// The root certificate is not the trust domain's.
    #[error("the root certificate is not the one that founded this trust domain")]
    Root(#[source] Option<RootError>),
    /// The ticket key does not sign.
    #[error("the ticket key does not sign")]
    Ticket(#[source] SignError),
    /// The intermediate certificate is another trust domain's.
    #[error("the intermediate certificate is of {found}, not of {expected}")]
    Intermediate {
        /// What it says.
        found: Name,
        /// What the ledger says.
        expected: Name,
    },
}

/// Timers that one input may run; the rest is due again at once.
///
/// An extension takes two decisions and two signatures, some 0.3 ms: a revocation waits no longer
/// than 20 ms, however many are due.
const TIMERS_PER_TURN: usize = 64;

impl Controller {
    /// Makes the controller of a state. The shell's first input is [`Input::Timeout`].
    ///
    /// # Errors
    /// [`StartError`] when the state and the keys do not make a controller.
    pub fn new(
        settings: Settings,
        state: State,
        keys: Keys,
        entropy: [u8; 32],
    ) -> Result<Self, StartError> {
        let founded = state.founded().ok_or(StartError::NotFounded)?.clone();
        let trust = Trust::new(founded.domain.clone(), keys.root_der.clone())
            .map_err(|error| StartError::Root(Some(error)))?;
        if trust.root_digest() != founded.root {
            return Err(StartError::Root(None));
        }
        if *keys.intermediate.domain() != founded.domain {
            return Err(StartError::Intermediate {
                found: keys.intermediate.domain().clone(),
                expected: founded.domain,
            });
        }
        let places = Places::of(&keys.ticket).map_err(StartError::Ticket)?;
        let mut world = World {
            settings: settings.bounded(),
            keys,
            engine: nothing_permitted(cardea_proto::ledger::Revision(0)),
            dice: Dice::new(entropy),
            places,
            founded,
            policy_problem: None,
            state,
            relays: Relays::default(),
        };
        world.reload(true, None);
        Ok(Self {
            world,
            channels: Channels::default(),
            postures: Postures::default(),
            live: Live::default(),
            proposals: Proposals::default(),
            sessions: Sessions::default(),
            reserved: BTreeSet::new(),
            refusals: Refusals::default(),
            reviews: Reviews::default(),
            timers: Timers::default(),
            health: Health::default(),
        })
    }

    /// Takes one input and puts everything that must follow from it into `out`, in order.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outbox) {
        let turn = &mut Turn { now, out };
        if self.health.started.is_none() {
            self.health.started = Some(now);
            self.admit_all(turn);
            self.adopt_grants(turn);
        }
        match input {
            Input::Connected { channel, peer } => self.on_connected(turn, channel, &peer),
            Input::Heard { channel } => self.channels.heard(channel, turn.now),
            Input::Enroll {
                channel,
                request,
                exporter,
                address,
            } => self.on_enroll(turn, channel, *request, &exporter, address),
            Input::Unproven {
                address,
                knockers,
                why,
            } => self.on_unproven(turn, address, &knockers, &why),
            Input::Message { channel, message } => self.on_message(turn, channel, message),
            Input::Disconnected { channel } => self.on_disconnected(turn, channel),
            Input::Admin {
                call,
                session,
                request,
                prepared,
            } => self.on_admin(turn, call, session, (request, prepared)),
            // What was ordered goes on; the shell drops an answer that nobody waits for.
            Input::AdminGone { call: _ } => {}
            Input::Committed { proposal, entry } => self.committed(turn, proposal, &entry),
            Input::NotCommitted { proposal, why } => self.not_committed(turn, proposal, &why),
            Input::Proof {
                channel,
                known,
                result,
            } => self.on_proof(turn, channel, known, result),
            Input::CaughtUp { asked } => self.caught_up(turn, asked),
            Input::Relay { place, is_silent } => self.world.relays.heard(place, is_silent),
            Input::Timeout => self.due(turn),
        }
    }

    /// When [`Input::Timeout`] is next due; `None` when only an outside event can move it.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What this controller knows for sure.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.world.state
    }

    /// Asks for decisions at this moment.
    pub(crate) const fn judge(&self, now: Now) -> Judge<'_> {
        Judge::new(&self.world, &self.postures, &self.channels, now)
    }

    /// Proposes a draft that rests on what the state says of the expected records.
    pub(crate) fn propose(
        &mut self,
        turn: &mut Turn<'_>,
        expects: Expects,
        draft: Draft,
        pending: Pending,
    ) {
        let expects = expects.at(&self.world.state);
        self.proposals.propose(expects, draft, pending, turn.out);
    }

    /// Records a refusal for the auditor, unless there were many like it.
    pub(crate) fn note_refusal(&mut self, turn: &mut Turn<'_>, refused: &Refused) {
        tracing::debug!(attempt = refused.attempt, reason = %refused.code, "refused");
        if self.refusals.admit(refused, turn.now.instant) {
            let mut draft = crate::world::draft(turn.now.unix, refused.actor.clone());
            draft.decision.clone_from(&refused.decision);
            draft.changes.push(Change::Refused(refused.record()));
            self.note(turn, draft);
        }
        if let Some(at) = self.refusals.deadline() {
            self.timers.set(Timer::Refusals, at);
        }
    }

    fn note(&mut self, turn: &mut Turn<'_>, draft: Draft) {
        let pending = Pending {
            intent: Intent::Note,
            tries: 0,
        };
        self.propose(turn, Expects::default(), draft, pending);
    }

    fn due(&mut self, turn: &mut Turn<'_>) {
        for _ in 0..TIMERS_PER_TURN {
            let Some(timer) = self.timers.pop(turn.now.instant) else {
                return;
            };
            match timer {
                Timer::Grant(grant) => self.grant_due(turn, grant),
                Timer::Posture(device) => self.posture_due(turn, device),
                Timer::Certificate(device) => self.certificate_due(turn, device),
                Timer::Refusals => {
                    let mut draft = self.world.draft(turn.now);
                    draft.changes.extend(self.refusals.take_suppressed());
                    if !draft.changes.is_empty() {
                        self.note(turn, draft);
                    }
                }
                Timer::Witnesses => self.show_witnesses(turn),
                Timer::Reviews => {
                    self.review_some(turn);
                    return;
                }
            }
        }
    }

    /// Folds an entry into the state; only here do facts become effects.
    fn committed(&mut self, turn: &mut Turn<'_>, proposal: Option<ProposalId>, entry: &Entry) {
        let head = self.world.state.head();
        if entry.revision != head.next() {
            tracing::error!(revision = %entry.revision, %head, "entry out of order: not applied");
            return;
        }
        self.health.store_problem = None;
        let pending = proposal.and_then(|id| self.proposals.take(id));
        let happened = self.world.state.fold(entry);
        if pending.is_none() && self.world.settings.shared {
            self.heed_appraisals(&happened);
        }
        let prepared = pending.as_ref().and_then(Pending::prepared);
        self.reload_engine(&happened, prepared);
        for happened in &happened {
            self.react(turn, happened);
        }
        let Some(Pending { intent, .. }) = pending else {
            return;
        };
        match intent {
            Intent::Enroll(enrolling) => self.enrolled(turn, *enrolling, &happened),
            Intent::Renew(renewing) => self.renewed(turn, &renewing, &happened),
            Intent::Appraise(device) => self.appraised(turn, device),
            Intent::Offer(offering) => self.offered(turn, *offering, &happened),
            Intent::Admit(admitting) => self.admitted(turn, &admitting, &happened),
            Intent::End(_) | Intent::Note => {}
            Intent::Order(ordered) => ordered.done(entry.revision, &happened, turn.out),
        }
    }

    fn not_committed(&mut self, turn: &mut Turn<'_>, proposal: ProposalId, why: &CommitError) {
        let Some(Pending { intent, tries }) = self.proposals.take(proposal) else {
            return;
        };
        match why {
            CommitError::Conflict if tries < TRIES_MAX => {
                self.plan_again(turn, intent, tries + 1);
                return;
            }
            CommitError::Conflict => {}
            CommitError::Full | CommitError::Failed(_) => {
                tracing::warn!(reason = %why, "not committed");
                self.health.store_problem = Some(why.to_string());
            }
        }
        match intent {
            Intent::Enroll(enrolling) => self.enrollment_failed(turn, &enrolling, why),
            Intent::Renew(renewing) => self.renewal_failed(turn, &renewing, why),
            Intent::Appraise(device) => self.appraisal_failed(turn, device),
            Intent::Offer(offering) => self.offer_failed(turn, *offering, why),
            Intent::Admit(admitting) => self.admission_failed(turn, *admitting, why),
            Intent::End(grants) => self.end_failed(turn, &grants),
            Intent::Order(ordered) => ordered.failed(why, turn.out),
            Intent::Note => {}
        }
    }

    /// A record on which the plan rested has moved: decides again, on what is known by now.
    fn plan_again(&mut self, turn: &mut Turn<'_>, intent: Intent, tries: u8) {
        match intent {
            Intent::Enroll(enrolling) => self.plan_enrollment(turn, enrolling, tries),
            Intent::Renew(renewing) => self.plan_renewal(turn, renewing, tries),
            Intent::Appraise(device) => self.plan_appraisal(turn, device, tries),
            Intent::Offer(offering) => self.plan_offer(turn, offering, tries),
            Intent::Admit(admitting) => self.plan_admission(turn, admitting, tries),
            Intent::End(grants) => self.end_failed(turn, &grants),
            Intent::Order(ordered) => self.plan_order(turn, ordered, tries),
            Intent::Note => {}
        }
    }

    /// What every controller does about a fact, whoever planned it.
    fn react(&mut self, turn: &mut Turn<'_>, happened: &Happened) {
        match happened {
            Happened::Admitted(_) => {}
            Happened::Offered(grant) => self.watch_certificate(grant.fact().device, turn.now),
            Happened::Invited(invite) => admit_invite(turn, invite.fact()),
            Happened::Uninvited(invite) => forget_invite(turn, *invite),
            Happened::Unblocked(device) => self.unblocked(turn, *device.fact()),
            Happened::Blocked(device) => self.blocked(turn, *device.fact()),
            Happened::Removed(node) => {
                dismiss(turn, *node.fact());
                self.removed(turn, *node.fact());
            }
            Happened::Issued(record) => {
                self.admit_node(turn, record.fact().node);
                if let cardea_proto::id::NodeId::Device(device) = record.fact().node {
                    self.watch_certificate(device, turn.now);
                }
            }
            Happened::Appraised(appraised) => self.appraisal_recorded(turn, appraised),
            Happened::UserSet(user) => self.user_moved(turn, user.fact()),
            Happened::AppSet(app) => self.app_moved(turn, app.fact()),
            Happened::AppRemoved(app) => self.app_gone(turn, app.fact()),
            Happened::RollbackAcknowledged => self.show_witnesses(turn),
            Happened::PolicySet => self.policy_moved(turn),
            Happened::Linked(app) => self.links_moved(turn, app.fact()),
            Happened::Ended(ended) => self.ended(turn, ended),
        }
    }

    fn reload_engine(&mut self, happened: &[Happened], prepared: Option<&Prepared>) {
        let mut policy = false;
        let mut links = false;
        for happened in happened {
            policy |= matches!(happened, Happened::PolicySet);
            links |= matches!(happened, Happened::Linked(_));
        }
        if policy || links {
            self.world.reload(policy, prepared);
        }
    }
}

impl Turn<'_> {
    /// Sends on one channel.
    pub(crate) fn send(&mut self, channel: ChannelId, message: ToNode) {
        self.out.messages.push_back((channel, message));
    }
}
