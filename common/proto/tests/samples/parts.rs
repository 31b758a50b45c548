//! What messages are made of.

use std::net::SocketAddr;

use cardea_proto::{
    access::{Admit, Answer, Extend, Granted, InnerAddresses, Offer, Rendezvous, Signed, Standby},
    app::{AppSpec, Principal, Protocol, Service, Transport},
    codec::{Blob, Bytes, Secret32},
    decision::{Check, Decision, Reason},
    enroll::Certificate,
    id::{AdminKeyId, ConnectorId, ControllerId, DeviceId, GrantId, InviteId, NodeId},
    ledger::{Link, Revision, Rollback},
    name::Name,
    policy::PolicyFile,
    posture::{Fact, Grade, PostureVerdict, Reading, Report, Value},
    refusal::{Refusal, RefusalCode},
    time::UnixMillis,
};

pub(crate) fn note() -> String {
    "corp.example/ledger\n7\nAA==\n\n\u{2014} corp.example/ledger AA==\n".to_owned()
}

pub(crate) fn rollback() -> Rollback {
    Rollback {
        node: node(),
        size: 7,
        root: Bytes([5; 32]),
    }
}

pub(crate) fn device() -> DeviceId {
    DeviceId::from_bytes([1; 10])
}

pub(crate) fn connector() -> ConnectorId {
    ConnectorId::from_bytes([2; 10])
}

pub(crate) fn controller() -> ControllerId {
    ControllerId::from_bytes([3; 10])
}

pub(crate) fn grant() -> GrantId {
    GrantId::from_bytes([4; 10])
}

pub(crate) fn invite() -> InviteId {
    InviteId::from_bytes([5; 10])
}

pub(crate) fn admin() -> AdminKeyId {
    AdminKeyId::from_bytes([6; 10])
}

pub(crate) fn node() -> NodeId {
    NodeId::Device(device())
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn blob(bytes: &[u8]) -> Blob {
    Blob(bytes.to_vec())
}

pub(crate) fn at() -> UnixMillis {
    UnixMillis(1_767_225_600_000)
}

pub(crate) fn revision() -> Revision {
    Revision(42)
}

pub(crate) fn refusal() -> Refusal {
    Refusal::new(RefusalCode::NotPermitted, "wiki: denied").with_next("Ask for it")
}

pub(crate) fn check() -> Check {
    Check {
        subject: "disk.encrypted".to_owned(),
        observed: "false".to_owned(),
        needed: "true".to_owned(),
        rule: "base/certify".to_owned(),
        remedy: Some("Turn on disk encryption".to_owned()),
    }
}

pub(crate) fn decision() -> Decision {
    Decision {
        action: "connect".to_owned(),
        principal: "alice@corp.example".to_owned(),
        resource: "wiki".to_owned(),
        allowed: false,
        reason: Reason::CheckFailed,
        rules: vec!["base/certify".to_owned()],
        checks: vec![check()],
        remedy: Some("Turn on disk encryption".to_owned()),
        errors: Vec::new(),
        policy_revision: revision(),
        appraisal: None,
    }
}

pub(crate) fn fact(reading: Reading) -> Fact {
    Fact {
        reading,
        grade: Grade::Own,
        age_ms: 1_500,
    }
}

pub(crate) fn report() -> Report {
    let readings = [
        (
            "agent.version",
            Reading::Value(Value::Text("0.1.0".to_owned())),
        ),
        ("disk.encrypted", Reading::Value(Value::Bool(true))),
        ("firewall.enabled", Reading::Denied),
        ("patch.age_days", Reading::Value(Value::Integer(-3))),
        (
            "process.running",
            Reading::Value(Value::List(vec!["clamd".to_owned()])),
        ),
        ("screen.lock", Reading::Absent),
        ("secure.boot", Reading::Unsupported),
        ("tpm.present", Reading::Error("timed out".to_owned())),
    ];
    Report {
        counter: 7,
        nonce: Bytes([9; 16]),
        clock: at(),
        facts: readings
            .into_iter()
            .map(|(name, reading)| (name.to_owned(), fact(reading)))
            .collect(),
    }
}

pub(crate) fn verdict() -> PostureVerdict {
    PostureVerdict {
        compliant: false,
        checked_at: at(),
        failed: vec![check()],
        remedy: None,
        report: Some(7),
        why: None,
        clock_skew_s: None,
        blocked: false,
    }
}

pub(crate) fn verdict_without_checks() -> PostureVerdict {
    PostureVerdict {
        failed: Vec::new(),
        why: Some("no rule permits a certificate for laptop".to_owned()),
        clock_skew_s: Some(-3),
        ..verdict()
    }
}

pub(crate) fn verdict_of_a_blocked_device() -> PostureVerdict {
    PostureVerdict {
        compliant: true,
        failed: Vec::new(),
        blocked: true,
        ..verdict()
    }
}

pub(crate) fn decision_of_a_failed_appraisal() -> Decision {
    Decision {
        reason: Reason::NotCompliant,
        rules: Vec::new(),
        checks: Vec::new(),
        appraisal: Some(Reason::NoRule),
        ..decision()
    }
}

pub(crate) fn certificate() -> Certificate {
    Certificate {
        chain: vec![blob(&[0x30, 0x01]), blob(&[0x30, 0x02])],
        serial: "0102".to_owned(),
        not_before: at(),
        not_after: UnixMillis(1_767_229_200_000),
        knock: Secret32([9; 32]),
        pass: None,
        relays: Vec::new(),
    }
}

pub(crate) fn certificate_with_relays() -> Certificate {
    Certificate {
        relays: vec![standby()],
        ..certificate()
    }
}

pub(crate) fn standby() -> Standby {
    Standby {
        relay: vec!["198.51.100.1:7444".parse().unwrap()],
        ticket: blob(b"another ticket"),
    }
}

pub(crate) fn rendezvous_with_standby() -> Rendezvous {
    Rendezvous {
        standby: vec![standby()],
        ..rendezvous()
    }
}

pub(crate) fn extend() -> Extend {
    Extend {
        grant: grant(),
        ttl_ms: 300_000,
        ticket: blob(b"ticket"),
        standby: Vec::new(),
    }
}

pub(crate) fn extend_with_standby() -> Extend {
    Extend {
        standby: vec![blob(b"another ticket")],
        ..extend()
    }
}

pub(crate) fn service() -> Service {
    Service {
        protocol: Protocol::Tcp,
        port: 80,
    }
}

pub(crate) fn signed() -> Signed {
    Signed {
        body: blob(b"body"),
        chain: vec![blob(b"leaf"), blob(b"intermediate")],
        signature: blob(b"signature"),
    }
}

pub(crate) fn offer() -> Offer {
    Offer {
        device: device(),
        app: name("wiki"),
        nonce: Bytes([10; 16]),
        wireguard: Bytes([11; 32]),
        kem: blob(b"encapsulation key"),
        candidates: Vec::new(),
        packets: false,
        host: None,
    }
}

pub(crate) fn offer_of_host() -> Offer {
    Offer {
        host: Some(name("api.dev.corp.example")),
        ..offer()
    }
}

pub(crate) fn offer_with_candidates() -> Offer {
    Offer {
        candidates: candidates(),
        ..offer()
    }
}

pub(crate) fn answer_with_candidates() -> Answer {
    Answer {
        candidates: candidates(),
        ..answer()
    }
}

fn candidates() -> Vec<SocketAddr> {
    ["192.0.2.7:4711", "[2001:db8::7]:4711"]
        .map(|address| address.parse().unwrap())
        .to_vec()
}

pub(crate) fn answer() -> Answer {
    Answer {
        connector: connector(),
        grant: grant(),
        offer: Bytes([12; 32]),
        wireguard: Bytes([13; 32]),
        kem: blob(b"ciphertext"),
        candidates: Vec::new(),
    }
}

pub(crate) fn inner() -> InnerAddresses {
    InnerAddresses {
        device_v4: [100, 64, 0, 1].into(),
        device_v6: [0xfd00, 0, 0, 0, 0, 0, 0, 1].into(),
        app_v4: [100, 64, 0, 2].into(),
        app_v6: [0xfd00, 0, 0, 0, 0, 0, 0, 2].into(),
    }
}

pub(crate) fn rendezvous() -> Rendezvous {
    Rendezvous {
        relay: vec![
            "192.0.2.1:7444".parse().unwrap(),
            "[2001:db8::1]:7444".parse().unwrap(),
        ],
        ticket: blob(b"ticket"),
        standby: Vec::new(),
    }
}

pub(crate) fn granted() -> Granted {
    Granted {
        request: 5,
        grant: grant(),
        app: name("wiki"),
        carrier: cardea_proto::app::Carrier::WireGuard,
        ttl_ms: 300_000,
        connector: connector(),
        connector_key: Bytes([14; 32]),
        answer: signed(),
        services: vec![service()],
        inner: inner(),
        rendezvous: rendezvous(),
    }
}

pub(crate) fn admit() -> Admit {
    Admit {
        grant: grant(),
        app: name("wiki"),
        carrier: cardea_proto::app::Carrier::Quic,
        ttl_ms: 300_000,
        device: device(),
        device_key: Bytes([15; 32]),
        offer: signed(),
        targets: vec!["10.9.0.10:80/tcp".parse().unwrap()],
        patterns: Vec::new(),
        host_scoped: false,
        never: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        inner: inner(),
        rendezvous: rendezvous(),
    }
}

pub(crate) fn admit_of_host() -> Admit {
    Admit {
        targets: vec!["*.dev.corp.example:80/tcp".parse().unwrap()],
        patterns: vec!["*.dev.corp.example".parse().unwrap()],
        ..admit()
    }
}

pub(crate) fn app_of_hosts() -> AppSpec {
    AppSpec {
        targets: admit_of_host().targets,
        names: admit_of_host().patterns,
        ..app()
    }
}

pub(crate) fn app() -> AppSpec {
    AppSpec {
        name: name("wiki"),
        site: name("default"),
        targets: vec![
            "10.9.0.10:80/tcp".parse().unwrap(),
            "dns.corp.example:53/udp".parse().unwrap(),
        ],
        names: vec![name("wiki.corp.example").into()],
        transport: Transport::WireGuard,
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        host_scoped: false,
    }
}

pub(crate) fn link() -> Link {
    Link {
        principal: Principal::Group(name("staff")),
        app: name("wiki"),
    }
}

pub(crate) fn files() -> Vec<PolicyFile> {
    vec![PolicyFile {
        path: "base.cedar".to_owned(),
        text: "permit(principal, action, resource);".to_owned(),
    }]
}
