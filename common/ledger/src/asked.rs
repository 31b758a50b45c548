//! Whether what an entry changes is what the admin asked for in the request that it carries.

use cardea_proto::{
    admin::{AdminChange, AppPatch},
    app::AppSpec,
    id::NodeId,
    ledger::{Change, EndReason, Link},
    time::UnixMillis,
};

/// The tags of changes that only an admin's signed request may bring about.
///
/// A user is also set when one of their devices enrolls, by the groups in the code that an admin
/// signed; the founding of a domain, its first entry, has no admin yet, and no later one founds it anew.
pub(crate) const ADMINS_ALONE: [&[u8]; 14] = [
    b"founded",
    b"invite_created",
    b"invite_removed",
    b"device_blocked",
    b"device_unblocked",
    b"node_removed",
    b"site_added",
    b"site_removed",
    b"app_set",
    b"app_removed",
    b"policy_set",
    b"allowed",
    b"disallowed",
    b"rollback_acknowledged",
];

/// Whether all `changes`, planned at `at`, follow from the request, and the one that was asked for is
/// among them.
///
/// Nodes that a request names by their name are not looked up: an audit knows no names.
pub(crate) fn is_asked(request: &AdminChange, at: UnixMillis, changes: &[Change]) -> bool {
    let mut is_done = false;
    for change in changes {
        match follows(request, at, change) {
            Follows::Asked => is_done = true,
            Follows::Besides => {}
            Follows::Not => return false,
        }
    }
    is_done
}

/// How a change follows from a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follows {
    /// It is what was asked for.
    Asked,
    /// It comes with it.
    Besides,
    /// It does not.
    Not,
}

impl Follows {
    const fn asked(is: bool) -> Self {
        if is { Self::Asked } else { Self::Not }
    }

    const fn besides(is: bool) -> Self {
        if is { Self::Besides } else { Self::Not }
    }
}

fn follows(request: &AdminChange, at: UnixMillis, change: &Change) -> Follows {
    match (request, change) {
        (
            AdminChange::InviteCreate {
                id,
                secret_hash,
                admits,
                life_s,
            },
            Change::InviteCreated(invite),
        ) => Follows::asked(
            invite.id == *id
                && invite.secret_hash == *secret_hash
                && invite.admits == *admits
                && invite.expires_at.0 <= at.0.saturating_add(life_s.saturating_mul(1_000)),
        ),
        (AdminChange::InviteRemove(asked), Change::InviteRemoved(done)) => {
            Follows::asked(asked == done)
        }
        (AdminChange::SiteAdd(asked), Change::SiteAdded(done))
        | (AdminChange::SiteRemove(asked), Change::SiteRemoved(done))
        | (AdminChange::AppRemove(asked), Change::AppRemoved(done)) => {
            Follows::asked(asked == done)
        }
        (AdminChange::ConnectorRemove(asked), Change::NodeRemoved(NodeId::Connector(done))) => {
            Follows::asked(is_meant(asked, done))
        }
        (AdminChange::DeviceRemove(asked), Change::NodeRemoved(NodeId::Device(done)))
        | (AdminChange::DeviceBlock(asked), Change::DeviceBlocked(done))
        | (AdminChange::DeviceUnblock(asked), Change::DeviceUnblocked(done)) => {
            Follows::asked(is_meant(asked, done))
        }
        (AdminChange::UserSet { name, groups }, Change::UserSet(user)) => {
            Follows::asked(user.name == *name && user.groups == *groups)
        }
        (AdminChange::AppAdd { spec, .. }, Change::AppSet(done)) => Follows::asked(spec == done),
        (AdminChange::AppAdd { spec, allow }, Change::Allowed(Link { principal, app })) => {
            Follows::besides(*app == spec.name && allow.contains(principal))
        }
        (AdminChange::AppSet { name, patch }, Change::AppSet(done)) => {
            Follows::asked(done.name == *name && has(done, patch))
        }
        (AdminChange::AppRemove(app), Change::Disallowed(link)) => {
            Follows::besides(link.app == *app)
        }
        (AdminChange::Allow(asked), Change::Allowed(done))
        | (AdminChange::Disallow(asked), Change::Disallowed(done)) => Follows::asked(asked == done),
        (AdminChange::PolicyApply(asked), Change::PolicySet(done)) => Follows::asked(asked == done),
        (AdminChange::GrantRevoke(asked), Change::GrantEnded { grant, reason }) => {
            Follows::asked(asked == grant && *reason == EndReason::Revoked)
        }
        (AdminChange::RollbackAcknowledge, Change::RollbackAcknowledged) => Follows::Asked,
        // What an admin changes may end grants.
        (_, Change::GrantEnded { reason, .. }) => Follows::besides(*reason != EndReason::Revoked),
        _ => Follows::Not,
    }
}

/// Whether a request for `text`, an id or a name, can mean this node.
fn is_meant<T: std::str::FromStr + PartialEq>(text: &str, id: &T) -> bool {
    text.parse::<T>().map_or(true, |asked| asked == *id)
}

/// Whether an app has all that a patch says.
fn has(app: &AppSpec, patch: &AppPatch) -> bool {
    let AppPatch {
        targets,
        names,
        transport,
        labels,
        host_scoped,
    } = patch;
    targets
        .as_ref()
        .is_none_or(|targets| app.targets == *targets)
        && names.as_ref().is_none_or(|names| app.names == *names)
        && transport.is_none_or(|transport| app.transport == transport)
        && labels.as_ref().is_none_or(|labels| app.labels == *labels)
        && host_scoped.is_none_or(|host_scoped| app.host_scoped == host_scoped)
}
