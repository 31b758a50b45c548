//! What an admin and a controller say to each other.

use cardea_proto::{
    admin::{
        AdminAnswer, AdminChange, AdminHello, AdminQuery, AdminRequest, AppPatch, AppRow,
        AuditFilter, ChangeOrder, ConnectorRow, DeviceRow, GrantRow, InviteRow, Knocks,
        SignedChange, SiteRow, StatusView, TunnelRow, UserRow, WhoRow,
    },
    app::{Carrier, Principal, Transport},
    codec::{Bytes, Secret32},
    enroll::Pass,
    identity::Role,
    ledger::{Admits, Revision},
    policy::{PolicyEffect, PolicyProblem, PolicyTestResult},
    posture::{Reading, Value},
};

use super::{ledger, names, parts};

names!(AdminRequest {
    AdminRequest::Query(_) => "query",
    AdminRequest::Change(_) => "change",
});

names!(AdminQuery {
    AdminQuery::Invites => "invites",
    AdminQuery::Sites => "sites",
    AdminQuery::Connectors => "connectors",
    AdminQuery::Devices => "devices",
    AdminQuery::Users => "users",
    AdminQuery::Apps => "apps",
    AdminQuery::Policy => "policy",
    AdminQuery::PolicyCheck(_) => "policy_check",
    AdminQuery::PolicyTest(_) => "policy_test",
    AdminQuery::PolicyDiff(_) => "policy_diff",
    AdminQuery::PolicyRecommended => "policy_recommended",
    AdminQuery::Impact(_) => "impact",
    AdminQuery::Explain { .. } => "explain",
    AdminQuery::Grants => "grants",
    AdminQuery::Tunnels => "tunnels",
    AdminQuery::Audit { .. } => "audit",
    AdminQuery::AuditSearch { .. } => "audit_search",
    AdminQuery::AuditWho { .. } => "audit_who",
    AdminQuery::Checkpoint => "checkpoint",
    AdminQuery::AuditFollow { .. } => "audit_follow",
    AdminQuery::Status => "status",
});

names!(AdminChange {
    AdminChange::InviteCreate { .. } => "invite_create",
    AdminChange::InviteRemove(_) => "invite_remove",
    AdminChange::SiteAdd(_) => "site_add",
    AdminChange::SiteRemove(_) => "site_remove",
    AdminChange::ConnectorRemove(_) => "connector_remove",
    AdminChange::DeviceBlock(_) => "device_block",
    AdminChange::DeviceUnblock(_) => "device_unblock",
    AdminChange::DeviceRemove(_) => "device_remove",
    AdminChange::UserSet { .. } => "user_set",
    AdminChange::AppAdd { .. } => "app_add",
    AdminChange::AppSet { .. } => "app_set",
    AdminChange::AppRemove(_) => "app_remove",
    AdminChange::Allow(_) => "allow",
    AdminChange::Disallow(_) => "disallow",
    AdminChange::PolicyApply(_) => "policy_apply",
    AdminChange::GrantRevoke(_) => "grant_revoke",
    AdminChange::RollbackAcknowledge => "rollback_acknowledge",
});

names!(AdminAnswer {
    AdminAnswer::Done { .. } => "done",
    AdminAnswer::Refused(_) => "refused",
    AdminAnswer::Invites(_) => "invites",
    AdminAnswer::Sites(_) => "sites",
    AdminAnswer::Connectors(_) => "connectors",
    AdminAnswer::Devices(_) => "devices",
    AdminAnswer::Users(_) => "users",
    AdminAnswer::Apps(_) => "apps",
    AdminAnswer::Policy { .. } => "policy",
    AdminAnswer::PolicyProblems(_) => "policy_problems",
    AdminAnswer::PolicyTests(_) => "policy_tests",
    AdminAnswer::PolicyEffects { .. } => "policy_effects",
    AdminAnswer::PolicyFiles(_) => "policy_files",
    AdminAnswer::Impact { .. } => "impact",
    AdminAnswer::Decision(_) => "decision",
    AdminAnswer::Grants(_) => "grants",
    AdminAnswer::Tunnels(_) => "tunnels",
    AdminAnswer::Entries(_) => "entries",
    AdminAnswer::Checkpoint(_) => "checkpoint",
    AdminAnswer::Who { .. } => "who",
    AdminAnswer::Status(_) => "status",
});

const MOMENT: &str = "2026-01-01T00:00:00Z";

pub(super) fn hello() -> AdminHello {
    AdminHello {
        version: 1,
        domain: parts::name("corp.example"),
        controller: parts::controller(),
        root: Bytes([16; 32]),
        addresses: vec!["ztna.corp.example:7443".to_owned()],
        nonce: Bytes([9; 16]),
        pass: None,
    }
}

pub(super) fn hello_with_pass() -> AdminHello {
    AdminHello {
        pass: Some(Pass {
            number: Bytes([7; 8]),
            seed: Secret32([8; 32]),
        }),
        ..hello()
    }
}

pub(super) fn signed() -> SignedChange {
    SignedChange {
        body: parts::blob(b"order"),
        key: parts::admin(),
        signature: parts::blob(&[23; 64]),
    }
}

pub(super) fn order() -> ChangeOrder {
    ChangeOrder {
        domain: parts::name("corp.example"),
        nonce: Bytes([9; 16]),
        sequence: 1,
        at: parts::at(),
        change: AdminChange::SiteAdd(parts::name("office")),
    }
}

pub(super) fn requests() -> Vec<AdminRequest> {
    vec![
        AdminRequest::Query(AdminQuery::Status),
        AdminRequest::Change(signed()),
    ]
}

pub(super) fn queries() -> Vec<AdminQuery> {
    vec![
        AdminQuery::Invites,
        AdminQuery::Sites,
        AdminQuery::Connectors,
        AdminQuery::Devices,
        AdminQuery::Users,
        AdminQuery::Apps,
        AdminQuery::Policy,
        AdminQuery::PolicyCheck(parts::files()),
        AdminQuery::PolicyTest(parts::files()),
        AdminQuery::PolicyDiff(parts::files()),
        AdminQuery::PolicyRecommended,
        AdminQuery::Impact(AdminChange::DeviceBlock("laptop".to_owned())),
        AdminQuery::Explain {
            user: parts::name("alice@corp.example"),
            device: "laptop".to_owned(),
            app: parts::name("wiki"),
        },
        AdminQuery::Grants,
        AdminQuery::Tunnels,
        AdminQuery::Audit {
            from: Revision(0),
            limit: 20,
        },
        AdminQuery::AuditSearch {
            filter: AuditFilter {
                device: Some("laptop".to_owned()),
                user: Some(parts::name("alice@corp.example")),
                app: Some(parts::name("wiki")),
                actor: Some("adm_x".to_owned()),
                from: Some(parts::at()),
                to: Some(parts::at()),
                allowed: Some(false),
            },
            limit: 20,
        },
        AdminQuery::AuditWho {
            app: parts::name("wiki"),
            at: parts::at(),
        },
        AdminQuery::Checkpoint,
        AdminQuery::AuditFollow {
            from: parts::revision(),
        },
        AdminQuery::Status,
    ]
}

pub(super) fn changes() -> Vec<AdminChange> {
    vec![
        AdminChange::InviteCreate {
            id: parts::invite(),
            secret_hash: Bytes([19; 32]),
            admits: Admits::Connector {
                site: parts::name("default"),
            },
            life_s: 3_600,
        },
        AdminChange::InviteRemove(parts::invite()),
        AdminChange::SiteAdd(parts::name("office")),
        AdminChange::SiteRemove(parts::name("office")),
        AdminChange::ConnectorRemove("rack-7".to_owned()),
        AdminChange::DeviceBlock("laptop".to_owned()),
        AdminChange::DeviceUnblock("laptop".to_owned()),
        AdminChange::DeviceRemove("laptop".to_owned()),
        AdminChange::UserSet {
            name: parts::name("alice@corp.example"),
            groups: [parts::name("staff")].into(),
        },
        AdminChange::AppAdd {
            spec: parts::app(),
            allow: vec![Principal::Everyone, Principal::User(parts::name("bob"))],
        },
        AdminChange::AppSet {
            name: parts::name("wiki"),
            patch: AppPatch {
                targets: None,
                names: Some(Vec::new()),
                transport: Some(Transport::Quic),
                labels: None,
                host_scoped: Some(true),
            },
        },
        AdminChange::AppRemove(parts::name("wiki")),
        AdminChange::Allow(parts::link()),
        AdminChange::Disallow(parts::link()),
        AdminChange::PolicyApply(parts::files()),
        AdminChange::GrantRevoke(parts::grant()),
        AdminChange::RollbackAcknowledge,
    ]
}

pub(super) fn answers() -> Vec<AdminAnswer> {
    let mut answers = rows();
    answers.extend([
        AdminAnswer::Done {
            revision: parts::revision(),
            message: "device laptop blocked".to_owned(),
            closed: 14,
        },
        AdminAnswer::Refused(parts::refusal()),
        AdminAnswer::Policy {
            revision: parts::revision(),
            files: parts::files(),
        },
        AdminAnswer::PolicyProblems(vec![PolicyProblem {
            path: "base.cedar".to_owned(),
            line: Some(3),
            message: "unexpected end".to_owned(),
        }]),
        AdminAnswer::PolicyTests(vec![PolicyTestResult {
            path: "base.test.toml".to_owned(),
            name: "staff".to_owned(),
            passed: false,
            detail: Some("denied".to_owned()),
        }]),
        AdminAnswer::PolicyEffects {
            effects: vec![PolicyEffect {
                action: "connect".to_owned(),
                device: "laptop".to_owned(),
                user: "alice@corp.example".to_owned(),
                app: Some("wiki".to_owned()),
                before: true,
                after: false,
                why: "no rule".to_owned(),
            }],
            unjudged: vec!["phone".parse().unwrap()],
        },
        AdminAnswer::PolicyFiles(parts::files()),
        AdminAnswer::Impact { closes: 14 },
        AdminAnswer::Decision(Box::new(parts::decision())),
        AdminAnswer::Entries(vec![ledger::entry()]),
        AdminAnswer::Who {
            revision: parts::revision(),
            rows: vec![WhoRow {
                user: parts::name("alice@corp.example"),
                device: parts::name("laptop"),
                rules: vec!["base/connect".to_owned()],
                grant: Some(parts::grant()),
            }],
        },
        AdminAnswer::Checkpoint("corp.example/ledger\n1\n".to_owned()),
        AdminAnswer::Status(Box::new(status())),
    ]);
    answers
}

/// The answers that hold rows of tables.
fn rows() -> Vec<AdminAnswer> {
    vec![
        AdminAnswer::Invites(vec![InviteRow {
            id: parts::invite(),
            name: parts::name("alice@corp.example"),
            role: Role::Device,
            state: "used".to_owned(),
            expires_at: MOMENT.to_owned(),
            used_by: Some(parts::device().to_string()),
        }]),
        AdminAnswer::Sites(vec![SiteRow {
            id: parts::name("default"),
            name: parts::name("default"),
            apps: 1,
            connectors: 2,
            connectors_online: 1,
        }]),
        AdminAnswer::Connectors(vec![ConnectorRow {
            id: parts::connector(),
            name: parts::name("rack-7"),
            site: parts::name("default"),
            state: "connected".to_owned(),
            last_seen: Some(MOMENT.to_owned()),
            certificate_not_after: Some(MOMENT.to_owned()),
            program: Some("0.1.0".to_owned()),
            tunnels: 1,
        }]),
        AdminAnswer::Devices(vec![device()]),
        AdminAnswer::Users(vec![UserRow {
            id: parts::name("alice@corp.example"),
            name: parts::name("alice@corp.example"),
            groups: [parts::name("staff")].into(),
            devices: vec![parts::name("laptop")],
        }]),
        AdminAnswer::Apps(vec![AppRow {
            id: parts::name("wiki"),
            spec: parts::app(),
            allow: vec![Principal::Group(parts::name("staff"))],
            grants: 1,
            connectors_online: 1,
        }]),
        AdminAnswer::Grants(vec![GrantRow {
            id: parts::grant(),
            name: "wiki for alice@corp.example".to_owned(),
            user: parts::name("alice@corp.example"),
            device: parts::name("laptop"),
            app: parts::name("wiki"),
            connector: parts::name("rack-7"),
            carrier: Carrier::WireGuard,
            state: "open".to_owned(),
            since: MOMENT.to_owned(),
            ttl_s: 300,
            revision: parts::revision(),
            rules: vec!["links/wiki".to_owned()],
        }]),
        AdminAnswer::Tunnels(vec![TunnelRow {
            id: parts::grant(),
            name: "wiki for alice@corp.example".to_owned(),
            user: parts::name("alice@corp.example"),
            device: parts::name("laptop"),
            app: parts::name("wiki"),
            carrier: Carrier::Quic,
            path: "relay".to_owned(),
            bytes_in: 1,
            bytes_out: 2,
            flows: 3,
            told_at: None,
        }]),
    ]
}

pub(super) fn tunnels_told() -> AdminAnswer {
    AdminAnswer::Tunnels(vec![TunnelRow {
        id: parts::grant(),
        name: "wiki for alice@corp.example".to_owned(),
        user: parts::name("alice@corp.example"),
        device: parts::name("laptop"),
        app: parts::name("wiki"),
        carrier: Carrier::Quic,
        path: "direct 192.0.2.7:4711".to_owned(),
        bytes_in: 1,
        bytes_out: 2,
        flows: 3,
        told_at: Some(MOMENT.to_owned()),
    }])
}

fn device() -> DeviceRow {
    let fact = parts::fact(Reading::Value(Value::Bool(false)));
    DeviceRow {
        id: parts::device(),
        name: parts::name("laptop"),
        user: parts::name("alice@corp.example"),
        state: "connected".to_owned(),
        compliant: Some(false),
        failed: vec![parts::check()],
        why: None,
        checked_at: Some(MOMENT.to_owned()),
        last_seen: Some(MOMENT.to_owned()),
        certificate_not_after: None,
        program: Some("0.1.0".to_owned()),
        os: "linux".to_owned(),
        facts: [("disk.encrypted".to_owned(), fact)].into(),
    }
}

fn status() -> StatusView {
    StatusView {
        domain: parts::name("corp.example"),
        controller: parts::controller(),
        program: "0.1.0".to_owned(),
        addresses: vec!["ztna.corp.example:7443".to_owned()],
        revision: parts::revision(),
        policy_revision: Revision(2),
        started_at: MOMENT.to_owned(),
        store: "ok".to_owned(),
        devices: (3, 1),
        connectors: (2, 2),
        grants: 1,
        intermediate_not_after: MOMENT.to_owned(),
        simulated_posture: true,
        rollback: Some(parts::rollback()),
        knocks: Knocks {
            opened: 5,
            unknown: 900,
            replayed: 1,
            ..Knocks::default()
        },
        relays: Vec::new(),
        warnings: Vec::new(),
    }
}
