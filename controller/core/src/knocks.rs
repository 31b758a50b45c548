//! Who may knock, as the ledger says: every node, and whoever holds a code.

use std::time::Duration;

use cardea_credential::knock::{DoorChange, Knocker, Stay, invite_seed};
use cardea_proto::{
    codec::Secret32,
    enroll::Pass,
    id::{InviteId, NodeId},
    ledger::{CertificateRecord, Invite},
    time::Now,
};

use crate::{
    controller::{Controller, Turn},
    state::{InviteRecord, NodeRecord},
    world::World,
};

/// How long after its end a code is still answered, used or not.
///
/// Whoever is a day late learns that the code has expired, or that somebody else has used it. After
/// that it opens nothing, so that an old code in somebody's notes does not show where the controller
/// is.
const LATE_CODE: Duration = Duration::from_secs(24 * 3_600);

impl World {
    /// The seed that a node is given with a certificate.
    pub(crate) fn knock_seed(&self, node: NodeId, now: Now) -> Secret32 {
        self.keys.ticket.seeds().node_seed(node, now.unix)
    }

    /// What opens fronts elsewhere to whoever is given this certificate, where there are any.
    pub(crate) fn front_pass(&self, record: &CertificateRecord, now: Now) -> Option<Pass> {
        let has_fronts = self.settings.has_fronts_elsewhere;
        let fronts = self.keys.ticket.fronts();
        has_fronts.then(|| fronts.pass(record.node, &record.serial.0, now.unix))
    }

    /// A node may knock for as long as it is enrolled: with a certificate that has ended it still
    /// renews. Once removed it may until then.
    fn node_admitted(&self, record: &NodeRecord, now: Now) -> DoorChange {
        let node = record.node.id;
        let certificate = record.certificate.as_ref();
        let (issued, ends) = certificate.map_or((now.unix, now.unix), |certificate| {
            (certificate.not_before, certificate.not_after)
        });
        let seeds = self.keys.ticket.seeds();
        DoorChange::Admit {
            who: Knocker::Node(node),
            seeds: seeds.node_seeds(node, now.unix, issued),
            stay: Stay::UntilDismissed { then: ends },
        }
    }
}

impl Controller {
    /// A controller that starts opens to everybody whom its ledger knows. A node that was removed
    /// before is not among them, and hears nothing any longer.
    pub(crate) fn admit_all(&self, turn: &mut Turn<'_>) {
        let state = &self.world.state;
        let nodes = state
            .nodes()
            .map(|record| self.world.node_admitted(record, turn.now));
        let invites = state
            .invites()
            .map(|InviteRecord { invite, .. }| invite_admitted(invite));
        turn.out.door.extend(nodes.chain(invites));
    }

    /// A node has its next certificate on record, which may bring it the seed of the next period.
    pub(crate) fn admit_node(&self, turn: &mut Turn<'_>, node: NodeId) {
        let record = self.world.state.node(node);
        let admitted = record.map(|record| self.world.node_admitted(record, turn.now));
        turn.out.door.extend(admitted);
    }
}

/// A code was made.
pub(crate) fn admit_invite(turn: &mut Turn<'_>, invite: &Invite) {
    turn.out.door.push_back(invite_admitted(invite));
}

/// A node was removed.
pub(crate) fn dismiss(turn: &mut Turn<'_>, node: NodeId) {
    let who = Knocker::Node(node);
    turn.out.door.push_back(DoorChange::Dismiss(who));
}

/// A code was taken back.
pub(crate) fn forget_invite(turn: &mut Turn<'_>, invite: InviteId) {
    let who = Knocker::Invite(invite);
    turn.out.door.push_back(DoorChange::Forget(who));
}

fn invite_admitted(invite: &Invite) -> DoorChange {
    DoorChange::Admit {
        who: Knocker::Invite(invite.id),
        seeds: vec![invite_seed(&invite.secret_hash)],
        stay: Stay::Until(invite.expires_at.plus(LATE_CODE)),
    }
}

#[cfg(test)]
mod tests;
