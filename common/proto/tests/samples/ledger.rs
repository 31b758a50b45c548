//! What the ledger keeps for ever.

use cardea_proto::{
    app::Carrier,
    codec::Bytes,
    id::NodeId,
    ledger::{
        Actor, Admits, CertificateRecord, Change, Draft, EndReason, Entry, Founded, Grant, Invite,
        Node, RecordKey, RefusedRecord, User,
    },
    refusal::RefusalCode,
};

use super::{admin, names, parts};

names!(Change {
    Change::Founded(_) => "founded",
    Change::InviteCreated(_) => "invite_created",
    Change::InviteRemoved(_) => "invite_removed",
    Change::InviteUsed { .. } => "invite_used",
    Change::NodeEnrolled(_) => "node_enrolled",
    Change::DeviceBlocked(_) => "device_blocked",
    Change::DeviceUnblocked(_) => "device_unblocked",
    Change::NodeRemoved(_) => "node_removed",
    Change::CertificateIssued(_) => "certificate_issued",
    Change::Appraised { .. } => "appraised",
    Change::SiteAdded(_) => "site_added",
    Change::SiteRemoved(_) => "site_removed",
    Change::UserSet(_) => "user_set",
    Change::AppSet(_) => "app_set",
    Change::AppRemoved(_) => "app_removed",
    Change::PolicySet(_) => "policy_set",
    Change::Allowed(_) => "allowed",
    Change::Disallowed(_) => "disallowed",
    Change::GrantOffered(_) => "grant_offered",
    Change::GrantAdmitted(_) => "grant_admitted",
    Change::GrantEnded { .. } => "grant_ended",
    Change::Refused(_) => "refused",
    Change::RollbackNoticed(_) => "rollback_noticed",
    Change::RollbackAcknowledged => "rollback_acknowledged",
});

names!(Actor {
    Actor::Admin(_) => "admin",
    Actor::Node(_) => "node",
    Actor::Controller(_) => "controller",
    Actor::Stranger(_) => "stranger",
});

names!(RecordKey {
    RecordKey::Domain => "domain",
    RecordKey::Invite(_) => "invite",
    RecordKey::Node(_) => "node",
    RecordKey::Appraisal(_) => "appraisal",
    RecordKey::Certificate(_) => "certificate",
    RecordKey::Site(_) => "site",
    RecordKey::User(_) => "user",
    RecordKey::App(_) => "app",
    RecordKey::Policy => "policy",
    RecordKey::Links(_) => "links",
    RecordKey::Grant(_) => "grant",
    RecordKey::Rollback => "rollback",
});

pub(super) fn changes() -> Vec<Change> {
    let mut changes = changes_of_nodes();
    changes.extend(changes_of_access());
    changes
}

fn changes_of_nodes() -> Vec<Change> {
    vec![
        Change::Founded(Founded {
            domain: parts::name("corp.example"),
            controller: parts::controller(),
            root: Bytes([16; 32]),
            admin: (parts::admin(), parts::blob(&[17; 32])),
            ticket_key: parts::blob(&[18; 32]),
            ledger_key: parts::blob(&[19; 32]),
        }),
        Change::InviteCreated(Invite {
            id: parts::invite(),
            secret_hash: Bytes([19; 32]),
            admits: Admits::Device {
                user: parts::name("alice@corp.example"),
                groups: [parts::name("staff")].into(),
            },
            expires_at: parts::at(),
        }),
        Change::InviteRemoved(parts::invite()),
        Change::InviteUsed {
            invite: parts::invite(),
            by: parts::node(),
        },
        Change::NodeEnrolled(Node {
            id: NodeId::Connector(parts::connector()),
            name: parts::name("rack-7"),
            key: Bytes([20; 32]),
            user: None,
            site: Some(parts::name("default")),
            os: "linux".to_owned(),
        }),
        Change::DeviceBlocked(parts::device()),
        Change::DeviceUnblocked(parts::device()),
        Change::NodeRemoved(parts::node()),
        Change::CertificateIssued(CertificateRecord {
            node: parts::node(),
            serial: Bytes([21; 16]),
            public_key: parts::blob(b"public key"),
            not_before: parts::at(),
            not_after: parts::at(),
        }),
        Change::Appraised {
            device: parts::device(),
            compliant: true,
        },
    ]
}

fn changes_of_access() -> Vec<Change> {
    vec![
        Change::SiteAdded(parts::name("office")),
        Change::SiteRemoved(parts::name("office")),
        Change::UserSet(User {
            name: parts::name("alice@corp.example"),
            groups: [parts::name("ops"), parts::name("staff")].into(),
        }),
        Change::AppSet(parts::app()),
        Change::AppRemoved(parts::name("wiki")),
        Change::PolicySet(parts::files()),
        Change::Allowed(parts::link()),
        Change::Disallowed(parts::link()),
        Change::GrantOffered(grant()),
        Change::GrantAdmitted(parts::grant()),
        Change::RollbackNoticed(parts::rollback()),
        Change::RollbackAcknowledged,
        Change::GrantEnded {
            grant: parts::grant(),
            reason: EndReason::PostureFailed,
        },
        Change::Refused(RefusedRecord {
            attempt: "enroll".to_owned(),
            code: RefusalCode::InviteUsed,
            subject: "inv_x".to_owned(),
        }),
    ]
}

fn grant() -> Grant {
    Grant {
        id: parts::grant(),
        device: parts::device(),
        user: parts::name("alice@corp.example"),
        app: parts::name("wiki"),
        host: None,
        connector: parts::connector(),
        carrier: Carrier::WireGuard,
        ttl_ms: 300_000,
    }
}

pub(super) fn grant_of_host() -> Grant {
    Grant {
        host: Some(parts::name("api.dev.corp.example")),
        ..grant()
    }
}

pub(super) fn entry() -> Entry {
    Entry {
        revision: parts::revision(),
        previous: Bytes([22; 32]),
        draft: Draft {
            at: parts::at(),
            actor: Actor::Admin(parts::admin()),
            changes: vec![Change::SiteAdded(parts::name("office"))],
            decision: Some(parts::decision()),
            signed: Some(admin::signed()),
        },
    }
}

pub(super) fn actors() -> Vec<Actor> {
    vec![
        Actor::Admin(parts::admin()),
        Actor::Node(parts::node()),
        Actor::Controller(cardea_proto::id::ControllerId::from_bytes([23; 10])),
        Actor::Stranger("198.51.100.7:4000".to_owned()),
    ]
}

pub(super) fn keys() -> Vec<RecordKey> {
    vec![
        RecordKey::Domain,
        RecordKey::Invite(parts::invite()),
        RecordKey::Node(parts::node()),
        RecordKey::Appraisal(parts::device()),
        RecordKey::Certificate(parts::node()),
        RecordKey::Site(parts::name("office")),
        RecordKey::User(parts::name("alice")),
        RecordKey::App(parts::name("wiki")),
        RecordKey::Policy,
        RecordKey::Links(parts::name("wiki")),
        RecordKey::Grant(parts::grant()),
        RecordKey::Rollback,
    ]
}
