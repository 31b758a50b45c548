//! The model objects to exactly what must not happen.

use cardea_core::CallId;
use cardea_proto::{
    access::Extend,
    admin::{AdminAnswer, SignedChange},
    app::{Carrier, Target},
    codec::Bytes,
    id::{AdminKeyId, ControllerId},
    ledger::{Actor, CertificateRecord, Draft, EndReason, Node},
    message::ToNode,
    time::testing,
};

use super::*;
use crate::founding::{app, app_name, link, target, user};

const DEVICE: DeviceId = DeviceId::from_bytes([1; 10]);
const OTHER: DeviceId = DeviceId::from_bytes([2; 10]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([3; 10]);
const GRANT: GrantId = GrantId::from_bytes([4; 10]);
const PUSH: Duration = Duration::from_millis(100);

/// A ledger in the making, and the model that follows it.
struct Story {
    now: Now,
    model: Model,
}

impl Story {
    /// A device that may open app 1, with a grant on it that its connector was told of.
    fn new() -> Self {
        let bounds = Bounds {
            push: PUSH,
            commit: Duration::from_millis(10),
            lag: Duration::ZERO,
            poll: Duration::ZERO,
            ttl: Duration::from_secs(30),
        };
        let mut story = Self {
            now: testing::start(),
            model: Model::new(bounds),
        };
        let enrolled = Node {
            id: NodeId::Device(DEVICE),
            name: crate::founding::name("laptop"),
            key: Bytes([0; 32]),
            user: Some(user(1)),
            site: None,
            os: "linux".to_owned(),
        };
        let compliant = true;
        let device = DEVICE;
        story.commit(vec![
            Change::AppSet(app(1)),
            Change::Allowed(link(1)),
            Change::NodeEnrolled(enrolled),
            Change::Appraised { device, compliant },
            Change::CertificateIssued(story.certificate()),
            Change::GrantOffered(grant()),
            Change::GrantAdmitted(GRANT),
        ]);
        story.tell_welcome();
        story.tell_ttl(Duration::from_secs(30));
        story
    }

    fn certificate(&self) -> CertificateRecord {
        CertificateRecord {
            node: NodeId::Device(DEVICE),
            serial: Bytes([7; 16]),
            public_key: Vec::new().into(),
            not_before: self.now.unix,
            not_after: self.now.unix.plus(Duration::from_secs(3_600)),
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        let controller = Actor::Controller(ControllerId::from_bytes([9; 10]));
        let entry = self.entry(controller, changes);
        self.model.committed(self.now, &entry);
    }

    /// What would be the next entry.
    fn entry(&self, actor: Actor, changes: Vec<Change>) -> Entry {
        Entry {
            revision: self.model.head.next(),
            previous: Bytes([0; 32]),
            draft: Draft {
                at: self.now.unix,
                actor,
                changes,
                decision: None,
                signed: None,
            },
        }
    }

    fn tell_welcome(&mut self) {
        self.model.sites.entry(CONNECTOR).or_default().up_since = Some(self.now.instant);
    }

    fn tell_ttl(&mut self, ttl: Duration) {
        let extend = ToNode::Extend(Extend {
            grant: GRANT,
            ttl_ms: u64::try_from(ttl.as_millis()).unwrap(),
            ticket: Vec::new().into(),
            standby: Vec::new(),
        });
        self.model
            .reaches_connector(self.now.instant, CONNECTOR, &extend);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// The property that an arrival breaks.
    fn arrive(&mut self, at: &Target, by: DeviceId, for_app: usize) -> Option<u8> {
        let arrival = Arrival {
            connector: CONNECTOR,
            grant: GRANT,
            target: at,
            sender: Some((by, app_name(for_app))),
        };
        self.model.reached(self.now, &arrival);
        self.objection()
    }

    fn arrives(&mut self) -> Option<u8> {
        self.arrive(&target(1, 0, "80/tcp"), DEVICE, 1)
    }

    fn objection(&mut self) -> Option<u8> {
        let violations = self.model.take_violations();
        violations.first().map(|violation| violation.property)
    }
}

fn grant() -> Grant {
    Grant {
        id: GRANT,
        device: DEVICE,
        user: user(1),
        app: app_name(1),
        host: None,
        connector: CONNECTOR,
        carrier: Carrier::Quic,
        ttl_ms: 30_000,
    }
}

#[test]
fn only_the_granted_device_app_and_port_may_arrive() {
    let mut story = Story::new();
    assert_eq!(story.objection(), None);
    assert_eq!(story.arrives(), None);
    assert_eq!(story.arrive(&target(1, 0, "22/tcp"), DEVICE, 1), Some(1));
    assert_eq!(story.arrive(&target(2, 0, "80/tcp"), DEVICE, 1), Some(1));
    assert_eq!(story.arrive(&target(1, 0, "80/tcp"), OTHER, 1), Some(1));
    assert_eq!(story.arrive(&target(1, 0, "80/tcp"), DEVICE, 2), Some(1));
}

#[test]
fn a_revoked_grant_has_one_push_and_a_cut_off_one_its_ttl() {
    let ended = || Change::GrantEnded {
        grant: GRANT,
        reason: EndReason::Revoked,
    };
    let mut story = Story::new();
    story.commit(vec![ended()]);
    story.pass(PUSH);
    assert_eq!(story.arrives(), None);
    story.pass(Duration::from_millis(1));
    assert_eq!(story.arrives(), Some(2));

    let mut story = Story::new();
    story.model.cut_off(CONNECTOR);
    story.commit(vec![ended()]);
    story.pass(Duration::from_secs(29));
    assert_eq!(story.arrives(), None);
    story.tell_welcome();
    story.pass(PUSH + Duration::from_millis(1));
    assert_eq!(story.arrives(), Some(2));
}

#[test]
fn nothing_outlives_its_ttl_and_an_extension_that_comes_too_late_revives_nothing() {
    let mut story = Story::new();
    story.pass(Duration::from_secs(20));
    story.tell_ttl(Duration::from_secs(30));
    story.pass(Duration::from_secs(29));
    assert_eq!(story.arrives(), None);
    story.pass(Duration::from_secs(1));
    assert_eq!(story.arrives(), Some(2));
    story.tell_ttl(Duration::from_secs(30));
    assert_eq!(story.arrives(), Some(2));
}

#[test]
fn what_no_rule_allows_any_longer_must_end_soon() {
    for change in [
        Change::Disallowed(link(1)),
        Change::DeviceBlocked(DEVICE),
        Change::AppRemoved(app_name(1)),
        Change::Appraised {
            device: DEVICE,
            compliant: false,
        },
    ] {
        let mut story = Story::new();
        let label = format!("{change:?}");
        story.commit(vec![change]);
        story.pass(PUSH);
        assert_eq!(story.arrives(), None, "{label}");
        story.pass(Duration::from_secs(1));
        assert_eq!(story.arrives(), Some(2), "{label}");
    }
}

#[test]
fn an_ended_certificate_ends_its_grants() {
    let mut story = Story::new();
    story.pass(Duration::from_secs(25));
    story.tell_ttl(Duration::from_secs(7_200));
    story.pass(Duration::from_secs(3_600));
    assert_eq!(story.arrives(), Some(2));
}

#[test]
fn effects_without_an_entry_are_named() {
    let mut story = Story::new();
    let withdraw = ToNode::Withdraw {
        grant: GRANT,
        reason: EndReason::Revoked,
    };
    let seen = story.model.head;
    story
        .model
        .says(story.now, (NodeId::Connector(CONNECTOR), seen), &withdraw);
    assert_eq!(story.objection(), Some(5));
    story.commit(vec![Change::GrantAdmitted(GrantId::from_bytes([8; 10]))]);
    assert_eq!(story.objection(), Some(5));
}

#[test]
fn no_certificate_for_a_device_that_fails() {
    let mut story = Story::new();
    story.commit(vec![Change::Appraised {
        device: DEVICE,
        compliant: false,
    }]);
    story.commit(vec![Change::CertificateIssued(story.certificate())]);
    assert_eq!(story.objection(), Some(3));
}

#[test]
fn a_grant_that_no_rule_allows_is_objected_to_when_it_is_offered() {
    let mut story = Story::new();
    story.commit(vec![Change::Disallowed(link(1))]);
    let again = Grant {
        id: GrantId::from_bytes([5; 10]),
        ..grant()
    };
    story.commit(vec![Change::GrantOffered(again)]);
    assert_eq!(story.objection(), Some(1));
}

#[test]
fn whatever_is_extended_delivery_stops_a_ttl_after_the_end() {
    let mut story = Story::new();
    story.model.cut_off(CONNECTOR);
    story.commit(vec![Change::GrantEnded {
        grant: GRANT,
        reason: EndReason::Revoked,
    }]);
    // Its controller does not see what is recorded, and goes on extending.
    story.pass(Duration::from_secs(20));
    story.tell_ttl(Duration::from_secs(30));
    story.pass(Duration::from_secs(10));
    assert_eq!(story.arrives(), None);
    story.pass(PUSH + Duration::from_millis(1));
    assert_eq!(story.arrives(), Some(2));
}

#[test]
fn a_controller_is_held_to_what_it_has_seen() {
    let mut story = Story::new();
    let extend = ToNode::Extend(Extend {
        grant: GRANT,
        ttl_ms: 30_000,
        ticket: Vec::new().into(),
        standby: Vec::new(),
    });
    let before = story.model.head;
    story.commit(vec![Change::GrantEnded {
        grant: GRANT,
        reason: EndReason::Revoked,
    }]);
    let connector = NodeId::Connector(CONNECTOR);
    story.model.says(story.now, (connector, before), &extend);
    assert_eq!(story.objection(), None);
    let after = story.model.head;
    story.model.says(story.now, (connector, after), &extend);
    assert_eq!(story.objection(), Some(5));
}

#[test]
fn a_node_ends_no_grant_of_others() {
    let ended = |story: &mut Story, by| {
        let entry = story.entry(
            Actor::Node(by),
            vec![Change::GrantEnded {
                grant: GRANT,
                reason: EndReason::Closed,
            }],
        );
        story.model.committed(story.now, &entry);
        story.objection()
    };
    let other = NodeId::Device(OTHER);
    assert_eq!(ended(&mut Story::new(), other), Some(5));
    let its_own = NodeId::Connector(CONNECTOR);
    assert_eq!(ended(&mut Story::new(), its_own), None);
}

#[test]
fn an_honest_device_sends_to_a_liar_no_longer_than_its_own_ttl() {
    let mut story = Story::new();
    story.model.beware_connector(CONNECTOR);
    story.commit(vec![Change::GrantEnded {
        grant: GRANT,
        reason: EndReason::Revoked,
    }]);
    story.pass(Duration::from_secs(30) + PUSH * 2);
    assert_eq!(story.arrives(), None);
    story.pass(Duration::from_millis(1));
    assert_eq!(story.arrives(), Some(2));
    story.model.beware_device(DEVICE);
    assert_eq!(story.arrives(), None);
    assert_eq!(story.arrive(&target(1, 0, "80/tcp"), OTHER, 1), Some(1));
}

#[test]
fn what_was_acknowledged_is_there_then_and_after_every_start() {
    let mut story = Story::new();
    let controller = Actor::Controller(ControllerId::from_bytes([9; 10]));
    let entry = story.entry(controller, vec![Change::AppRemoved(app_name(1))]);
    story.model.acknowledged(&entry, Some(&entry));
    story.model.survived(std::slice::from_ref(&entry));
    assert_eq!(story.objection(), None);
    story.model.survived(&[]);
    assert_eq!(story.objection(), Some(7));
    story.model.acknowledged(&entry, None);
    assert_eq!(story.objection(), Some(7));
}

#[test]
fn an_admin_is_told_done_only_of_what_is_on_record_as_they_signed_it() {
    let mut story = Story::new();
    let order = |byte: u8| SignedChange {
        body: vec![byte].into(),
        key: AdminKeyId::from_bytes([1; 10]),
        signature: vec![byte; 64].into(),
    };
    let controller = Actor::Controller(ControllerId::from_bytes([9; 10]));
    let mut entry = story.entry(controller, vec![Change::AppRemoved(app_name(1))]);
    entry.draft.signed = Some(order(1));
    story.model.acknowledged(&entry, Some(&entry));
    let done = AdminAnswer::Done {
        revision: entry.revision,
        message: String::new(),
        closed: 0,
    };
    for (signed, objection) in [(order(1), None), (order(2), Some(7))] {
        story.model.ordered(CallId(1), signed);
        story.model.answered(CallId(1), &done);
        assert_eq!(story.objection(), objection);
    }
}
