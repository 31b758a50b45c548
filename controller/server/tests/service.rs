//! The controller in this process, over real sockets and a real ledger.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what a test does outside of its test function may panic as well"
)]

mod support;

use std::{sync::Arc, time::Duration};

use cardea_credential::{
    authority::{Leaf, serial_number},
    key::{KeyAlgorithm, Signer as _, SoftwareKey},
    testing::TestDomain,
    tls::enroll_client,
};
use cardea_host::{
    channel::{ChannelError, Client, CloseCode, Sender},
    clock::Clock,
};
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery, AdminRequest},
    codec::{MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX_STRANGER},
    enroll::EnrollAnswer,
    id::ControllerId,
    identity::{Holder, Identity},
    ledger::{Actor, Admits, Change, Revision},
    message::ToNode,
    refusal::RefusalCode,
    time::UnixMillis,
};

use support::{Node, TIME, World, enroll, enroll_over, hello, holder, knock, renew, request, show};

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_enrolls_and_its_channel_is_welcomed() {
    let world = World::start();
    let code = world.admin().await.invite_connector().await;
    let node = enroll(world.address, &code, "front")
        .await
        .unwrap_or_else(|_| panic!());
    assert_eq!(node.enrolled.domain.as_str(), "corp.example");
    assert_eq!(node.enrolled.addresses, [world.address.to_string()]);
    let (_open, answer) = hello(world.address, &node).await.unwrap();
    let ToNode::Welcome(welcome) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(welcome.name.as_str(), "front");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_passing_report_enrolls_for_its_user() {
    let world = World::start();
    let admits = Admits::Device {
        user: "alice@corp.example".parse().unwrap(),
        groups: ["staff".parse().unwrap()].into(),
    };
    let code = world.admin().await.invite(admits).await;
    let node = enroll(world.address, &code, "laptop").await;
    let node = node.unwrap_or_else(|refused| panic!("{refused:?}"));
    assert_eq!(
        node.enrolled.user.as_ref().unwrap().as_str(),
        "alice@corp.example"
    );
    let (_open, answer) = hello(world.address, &node).await.unwrap();
    assert!(matches!(answer, ToNode::Welcome(_)), "{answer:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_who_use_one_code_at_once_exactly_one_is_admitted() {
    let world = World::start();
    let mut admin = world.admin().await;
    let code = admin.invite_connector().await;
    let address = world.address;
    let tries: Vec<_> = (0..200)
        .map(|n| {
            let code = code.clone();
            tokio::spawn(async move {
                // A knock has a second and 16 bits of its own: of two hundred in one second, two make the
                // same one in three runs of ten, and the later is taken for a replay. Whoever hears
                // nothing knocks once more, as agents do.
                let connected = match knock(address, &code, TIME / 2).await {
                    Err(ChannelError::NoAnswer(_)) => knock(address, &code, TIME).await,
                    heard => heard,
                };
                enroll_over(connected.unwrap(), &code, &format!("c{n}")).await
            })
        })
        .collect();
    let (mut admitted, mut told) = (0, 0);
    for attempt in tries {
        match attempt.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(EnrollAnswer::Refused(refusal)) => {
                assert_eq!(refusal.code, RefusalCode::InviteUsed, "{refusal}");
                told += 1;
            }
            Err(EnrollAnswer::Enrolled(_)) => panic!("a refusal that admits"),
        }
    }
    assert_eq!((admitted, told), (1, 199));
    let entries = admin.entries().await;
    let used = entries
        .iter()
        .flat_map(|entry| &entry.draft.changes)
        .filter(|change| matches!(change, Change::InviteUsed { .. }));
    assert_eq!(used.count(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let world = World::start();
    let mut admin = world.admin().await;
    let code = admin.invite_connector().await;
    let node: Node = enroll(world.address, &code, "front")
        .await
        .unwrap_or_else(|_| panic!());
    let before = admin.entries().await;
    let world = World::serve(world.stop().await);
    let mut admin = world.admin().await;
    let after = admin.entries().await;
    assert_eq!(after.get(..before.len()), Some(before.as_slice()));
    let (_open, answer) = hello(world.address, &node).await.unwrap();
    assert!(matches!(answer, ToNode::Welcome(_)), "{answer:?}");
    let again = enroll(world.address, &code, "second").await;
    let Err(EnrollAnswer::Refused(refusal)) = again else {
        panic!("a code was used twice");
    };
    assert_eq!(refusal.code, RefusalCode::InviteUsed);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knock_of_another_trust_domain_is_not_heard() {
    let world = World::start();
    let other = World::start();
    let code = other.admin().await.invite_connector().await;
    let other_root = enroll_client(code.root, Arc::new(Clock::system())).0;
    let (holder, brief) = (holder(&code), Duration::from_millis(300));
    let result = Client::connect(world.address, other_root, &holder, brief).await;
    assert!(
        matches!(result, Err(ChannelError::NoAnswer(_))),
        "{result:?}"
    );
    world.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knocks_rightly_and_shows_a_certificate_that_does_not_hold_is_refused_and_recorded() {
    let world = World::start();
    let mut admin = world.admin().await;
    let code = admin.invite_connector().await;
    let node = enroll(world.address, &code, "front").await;
    let node = node.unwrap_or_else(|_| panic!());
    let (now, holder) = (Clock::system().now().unix, Holder::from(node.enrolled.node));
    let leaf = |holder, ends_in_s: i64| Leaf {
        identity: Identity {
            domain: node.enrolled.domain.clone(),
            holder,
        },
        public_key: node.key.public_key().to_vec().into(),
        serial: serial_number([3; 16]),
        not_before: UnixMillis(now.0 - 120_000),
        not_after: UnixMillis(now.0.saturating_add_signed(ends_in_s * 1_000)),
    };
    let issue = |leaf: Leaf| world.intermediate().issue(&leaf).unwrap();
    let controller = Holder::Controller(ControllerId::from_bytes([9; 10]));
    let other = TestDomain::new("corp.example", now);
    let ended = issue(leaf(holder, -60));
    let mut filled = node.enrolled.certificate.chain.clone();
    filled.push(node.enrolled.root.clone());
    for (chain, why) in [
        (issue(leaf(controller, 600)), "not who belongs here"),
        (
            other.intermediate.issue(&leaf(holder, 600)).unwrap(),
            "UnknownIssuer",
        ),
        (ended.clone(), "the certificate ended at"),
        (filled, "exactly a leaf and the intermediate"),
    ] {
        let result = show(world.address, &node, &chain).await;
        assert!(
            matches!(result, Err(ChannelError::Closed(_))),
            "{why}: {result:?}"
        );
        let entry = admin
            .refusal(|record| {
                record.attempt == "authenticate"
                    && record.code == RefusalCode::NotProven
                    && record
                        .subject
                        .starts_with(&format!("{}: ", node.enrolled.node))
                    && record.subject.contains(why)
            })
            .await;
        let from = Actor::Stranger("127.0.0.1".to_owned()).to_string();
        assert!(
            entry.draft.actor.to_string().starts_with(&from),
            "{entry:?}"
        );
    }
    // What has ended is good for the next one alone, and the right one for everything.
    let (_open, answer) = renew(world.address, &node, &ended).await.unwrap();
    assert!(matches!(answer, ToNode::Welcome(_)), "{answer:?}");
    let (_open, answer) = show(world.address, &node, &issue(leaf(holder, 600)))
        .await
        .unwrap();
    assert!(matches!(answer, ToNode::Welcome(_)), "{answer:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knocks_as_another_than_its_certificate_says_is_closed_and_recorded() {
    let world = World::start();
    let mut admin = world.admin().await;
    let mut nodes = Vec::new();
    for name in ["mine", "stolen"] {
        let code = admin.invite_connector().await;
        let node = enroll(world.address, &code, name).await;
        nodes.push(node.unwrap_or_else(|_| panic!()));
    }
    let (mut stolen, mine) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let own = stolen.enrolled.certificate.knock.clone();
    stolen.enrolled.certificate.knock = mine.enrolled.certificate.knock.clone();
    let (mut open, answer) = hello(world.address, &stolen).await.unwrap();
    let ToNode::Goodbye(refusal) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(refusal.code, RefusalCode::NotProven, "{refusal}");
    let next = open.link.receiver.receive::<ToNode>().await;
    assert!(matches!(next, Ok(None) | Err(_)), "{next:?}");
    admin
        .refusal(|record| record.attempt == "authenticate")
        .await;
    // Its owner is not kept out by that.
    stolen.enrolled.certificate.knock = own;
    let (_open, answer) = hello(world.address, &stolen).await.unwrap();
    assert!(matches!(answer, ToNode::Welcome(_)), "{answer:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_says_too_much_or_nonsense_is_cut_off_and_others_are_served() {
    let world = World::start();
    let code = world.admin().await.invite_connector().await;
    for message in [
        vec![0_u8; MESSAGE_BYTES_MAX_STRANGER + 1],
        b"no request at all".to_vec(),
        vec![0x81; 4_096],
    ] {
        let mut connected = knock(world.address, &code, TIME).await.unwrap();
        connected.link.sender.send(&message).unwrap();
        let answer = connected.link.receiver.receive::<EnrollAnswer>().await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(enroll(world.address, &code, "front").await.is_ok());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_has_left_takes_nobodys_place() {
    let world = World::start();
    let code = world.admin().await.invite_connector().await;
    // More than one address has places, and each says that nothing more comes before it leaves.
    for _ in 0..300 {
        let mut connected = knock(world.address, &code, TIME).await.unwrap();
        let (request, _) = request(&connected, &code, "gone");
        connected.link.sender.send(&request).unwrap();
        connected.link.sender.finish(CloseCode::Done, "");
        while connected
            .link
            .receiver
            .receive::<EnrollAnswer>()
            .await
            .is_ok_and(|said| said.is_some())
        {}
    }
    let answer = enroll(world.address, &code, "front").await;
    assert!(
        matches!(answer, Err(EnrollAnswer::Refused(_))),
        "the code was used by the first"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_too_much_or_nonsense_loses_its_channel_and_nobody_else_does() {
    type Say = fn(&Sender) -> Result<(), ChannelError>;

    let world = World::start();
    let mut admin = world.admin().await;
    let mut nodes = Vec::new();
    for name in ["bad", "good"] {
        let code = admin.invite_connector().await;
        let node = enroll(world.address, &code, name).await;
        nodes.push(node.unwrap_or_else(|_| panic!()));
    }
    let (good, bad) = (nodes.pop().unwrap(), nodes.pop().unwrap());
    let (mut good, _) = hello(world.address, &good).await.unwrap();
    let cases: [(Say, CloseCode); 4] = [
        (
            |sender| sender.send(&vec![0_u8; MESSAGE_BYTES_MAX]),
            CloseCode::TooLarge,
        ),
        (
            |sender| sender.send(&"no_such_message"),
            CloseCode::Malformed,
        ),
        (|sender| sender.send(&nested(100)), CloseCode::Malformed),
        (|sender| sender.send(&[0_u8; 0]), CloseCode::Malformed),
    ];
    for (say, code) in cases {
        let (mut open, answer) = hello(world.address, &bad).await.unwrap();
        assert!(matches!(answer, ToNode::Welcome(_)), "{answer:?}");
        say(&open.link.sender).unwrap();
        let why = loop {
            match open.link.receiver.receive::<ToNode>().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it was closed without a word"),
                Err(error) => break error.to_string(),
            }
        };
        let number = format!("(code {})", code.number());
        assert!(why.ends_with(&number), "{why}");
    }
    // The other has not been touched: what is said to it arrives, on the channel that it had.
    let removed = admin.change(AdminChange::ConnectorRemove("good".to_owned()));
    assert!(matches!(removed.await, AdminAnswer::Done { .. }));
    loop {
        let message = good.link.receiver.receive::<ToNode>().await.unwrap();
        if matches!(message.unwrap(), ToNode::Goodbye(_)) {
            break;
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_follows_the_ledger_as_it_grows() {
    let world = World::start();
    let mut admin = world.admin().await;
    let mut follower = world.admin().await;
    let follow = |from| AdminRequest::Query(AdminQuery::AuditFollow { from });
    follower.say(&follow(Revision(1))).await;
    let AdminAnswer::Entries(first) = follower.hear().await else {
        panic!("no entries");
    };
    assert_eq!(first.len(), 1);
    let mut newest = world.admin().await;
    newest.say(&follow(Revision(0))).await;
    // Its answer to a question behind the other shows that the follower is in place.
    let added = admin
        .change(AdminChange::SiteAdd("office".parse().unwrap()))
        .await;
    let AdminAnswer::Done { revision, .. } = added else {
        panic!("{added:?}");
    };
    let AdminAnswer::Entries(next) = follower.hear().await else {
        panic!("no entries");
    };
    assert_eq!(next.first().unwrap().revision, revision);
    assert!(next.first().unwrap().draft.signed.is_some());
    let limit = 1;
    let last = admin
        .query(AdminQuery::Audit {
            from: Revision(0),
            limit,
        })
        .await;
    assert_eq!(last, AdminAnswer::Entries(next));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_another_key_signed_is_refused_and_recorded() {
    let world = World::start();
    let mut admin = world.admin().await;
    let mut villain = world.admin().await;
    villain.sign_with(SoftwareKey::generate(KeyAlgorithm::Ed25519).unwrap());
    let refused = villain
        .change(AdminChange::SiteAdd("office".parse().unwrap()))
        .await;
    let AdminAnswer::Refused(refusal) = refused else {
        panic!("{refused:?}");
    };
    let expected = [RefusalCode::NotProven, RefusalCode::Unauthorized];
    assert!(expected.contains(&refusal.code), "{refusal}");
    let entries = admin.entries().await;
    let recorded = entries
        .iter()
        .flat_map(|entry| &entry.draft.changes)
        .any(|change| matches!(change, Change::Refused(record) if record.attempt == "administer"));
    assert!(recorded, "{entries:#?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_none_gets_an_answer_before_the_admin_is_cut_off() {
    let world = World::start();
    let mut admin = world.admin().await;
    let nonsense = cardea_proto::codec::encode_framed(&"nonsense");
    tokio::io::AsyncWriteExt::write_all(&mut admin.stream, &nonsense)
        .await
        .unwrap();
    let AdminAnswer::Refused(refusal) = admin.hear().await else {
        panic!("no refusal");
    };
    assert_eq!(refusal.code, RefusalCode::Protocol);
    let mut admin = world.admin().await;
    assert!(matches!(
        admin.query(AdminQuery::Status).await,
        AdminAnswer::Status(_)
    ));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_stops_while_others_are_connected_and_they_learn_of_it() {
    let world = World::start();
    let mut admin = world.admin().await;
    let code = admin.invite_connector().await;
    let node = enroll(world.address, &code, "front")
        .await
        .unwrap_or_else(|_| panic!());
    let (mut open, _) = hello(world.address, &node).await.unwrap();
    world.stop().await;
    // What it had said before still arrives.
    while let Ok(message) = open.link.receiver.receive::<ToNode>().await {
        assert!(message.is_some(), "it went without a word");
    }
}

/// Arrays in arrays.
#[derive(serde::Serialize)]
struct Nested(Vec<Nested>);

fn nested(depth: usize) -> Nested {
    (0..depth).fold(Nested(Vec::new()), |inner, _| Nested(vec![inner]))
}
