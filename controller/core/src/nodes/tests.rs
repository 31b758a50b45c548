use std::time::Duration;

use cardea_credential::knock::Knocker;
use cardea_proto::{
    admin::AdminChange,
    identity::Role,
    ledger::Admits,
    message::{FromNode, Hello, ToNode},
};

use crate::{
    Input,
    testing::{Bench, TestNode, name},
};

#[test]
fn hello_comes_first_and_once() {
    let (mut bench, mut device, _) = Bench::office();
    bench.say(&device, hello(&bench, 1));
    assert_eq!(bench.heard(&device), ["goodbye: protocol"]);
    assert!(bench.out.close.contains(&device.channel));
    bench.connect(&mut device, &[]);
    let channel = bench.next_channel();
    device.channel = channel;
    assert_eq!(bench.heard(&device), Vec::<String>::new());
}

#[test]
fn a_node_says_only_what_its_role_may() {
    let (mut bench, device, connector) = Bench::office();
    let explain = FromNode::Explain {
        request: 1,
        app: name("wiki"),
    };
    bench.say(&connector, explain);
    assert_eq!(bench.heard(&connector), ["goodbye: protocol"]);
    bench.request(&device, 1, "wiki");
    bench.settle();
    let refusal = cardea_proto::refusal::Refusal::new(
        cardea_proto::refusal::RefusalCode::Internal,
        "not mine to say",
    );
    let grant = cardea_proto::id::GrantId::from_bytes([1; 10]);
    bench.take(&device);
    bench.say(&device, FromNode::NotAdmitted { grant, refusal });
    assert_eq!(bench.heard(&device), ["goodbye: protocol"]);
}

#[test]
fn a_node_that_was_removed_is_told_how_it_enrolls_again() {
    let (mut bench, device, connector) = Bench::office();
    bench.must(AdminChange::DeviceRemove("laptop".to_owned()));
    bench.must(AdminChange::ConnectorRemove(connector.id.to_string()));
    for (node, invite, program) in [
        (&device, "cardeactl invite device", "cardea up CODE"),
        (
            &connector,
            "cardeactl invite connector",
            "cardea-connector up CODE",
        ),
    ] {
        let messages = bench.take(node);
        let told = messages.iter().find_map(|message| {
            if let ToNode::Goodbye(refusal) = message {
                Some(refusal.to_string())
            } else {
                None
            }
        });
        let told = told.unwrap();
        assert!(told.contains("was removed by an admin"), "{told}");
        assert!(told.contains(invite) && told.ends_with(program), "{told}");
    }
}

#[test]
fn a_version_from_before_ours_is_told_so() {
    let (mut bench, mut device, _) = Bench::office();
    bench.disconnect(&device);
    raw_connect(&mut bench, &mut device);
    bench.say(&device, hello(&bench, 0));
    assert_eq!(bench.heard(&device), ["goodbye: version"]);
}

#[test]
fn a_connector_whose_clock_is_an_hour_off_is_told_so() {
    let (mut bench, _, mut connector) = Bench::office();
    bench.disconnect(&connector);
    raw_connect(&mut bench, &mut connector);
    let mut message = hello(&bench, 1);
    if let FromNode::Hello(hello) = &mut message {
        hello.clock = hello.clock.plus(Duration::from_secs(3_600));
    }
    bench.say(&connector, message);
    assert_eq!(bench.heard(&connector), ["goodbye: clock_skew"]);
}

#[test]
fn a_second_channel_of_a_node_takes_the_place_of_the_first() {
    let (mut bench, mut device, _) = Bench::office();
    let first = device.channel;
    bench.connect(&mut device, &[]);
    assert!(bench.out.close.contains(&first));
    assert_eq!(
        bench.heard(&device),
        ["welcome", "posture passes", "apps 1/1"]
    );
    bench.handle(Input::Disconnected { channel: first });
    bench.settle();
    bench.publish("mail");
    assert_eq!(bench.heard(&device), ["apps 2/2"], "the second one lives");
}

#[test]
fn a_removed_node_is_told_goodbye_and_does_not_come_back() {
    let (mut bench, mut device, _) = Bench::office();
    bench.must(AdminChange::DeviceRemove("laptop".to_owned()));
    assert_eq!(bench.heard(&device), ["goodbye: not_proven"]);
    raw_connect(&mut bench, &mut device);
    assert_eq!(bench.heard(&device), ["goodbye: not_proven"]);
    assert!(
        bench
            .refused()
            .contains(&"authenticate not_proven".to_owned())
    );
}

#[test]
fn a_certificate_of_a_key_that_another_node_of_that_id_enrolled_is_turned_away() {
    let (mut bench, device, _) = Bench::office();
    let site = name("default");
    let secret = bench.invite(Admits::Connector { site });
    let mut other = bench.enroll_node(Role::Connector, &secret, "gate2");
    // The controller still knows the id, but under another key than the certificate names.
    let mut record = bench.store.node(device.id).unwrap().node.clone();
    record.key = cardea_proto::codec::Bytes([1; 32]);
    bench.must(AdminChange::DeviceRemove("laptop".to_owned()));
    let mut draft = bench.entries.last().unwrap().draft.clone();
    draft.changes = vec![cardea_proto::ledger::Change::NodeEnrolled(record)];
    draft.signed = None;
    let entry = bench.append(draft);
    bench.handle(Input::Committed {
        proposal: None,
        entry,
    });
    let mut device = device;
    raw_connect(&mut bench, &mut device);
    assert!(
        bench
            .heard(&device)
            .contains(&"goodbye: not_proven".to_owned())
    );
    raw_connect(&mut bench, &mut other);
    assert_eq!(bench.heard(&other), Vec::<String>::new());
}

#[test]
fn who_knocks_and_proves_nothing_is_recorded_once_in_a_while_for_each_knocker() {
    let (mut bench, device, connector) = Bench::office();
    let mut come = |from: &str, knocker, why: &str| {
        bench.handle(Input::Unproven {
            address: from.parse().unwrap(),
            knockers: vec![Knocker::Node(knocker)],
            why: why.to_owned(),
        });
        bench.settle();
        let refused = bench.refused();
        let of_these = |refused: &&String| *refused == "authenticate not_proven";
        refused.iter().filter(of_these).count()
    };
    for port in 1..100 {
        let from = format!("192.0.2.{port}:4000");
        assert_eq!(
            come(&from, device.id, "it ended"),
            1,
            "once, wherever it is"
        );
    }
    assert_eq!(come("192.0.2.1:4000", connector.id, "it ended"), 2);
    let mut all = 0;
    for number in 0..2_000 {
        let from = format!("198.51.100.{}:4000", number % 200);
        all = come(&from, device.id, &format!("{number}"));
    }
    assert!((20..=30).contains(&all), "{all}");
}

#[test]
fn a_device_that_asks_too_fast_is_busy_on_its_next_channel_too_and_others_are_not() {
    let (mut bench, mut device, _) = Bench::office();
    let other = bench.device("other");
    let explain = || FromNode::Explain {
        request: 1,
        app: name("wiki"),
    };
    for _ in 0..1_000 {
        bench.say(&device, explain());
    }
    let answered = |messages: Vec<ToNode>| {
        let allowed = messages.iter().filter(
            |message| matches!(message, ToNode::Explained { decision, .. } if decision.is_ok()),
        );
        allowed.count()
    };
    let fast = answered(bench.take(&device));
    assert!((200..=256).contains(&fast), "{fast}");
    raw_connect(&mut bench, &mut device);
    bench.say(&device, hello(&bench, 1));
    bench.say(&device, explain());
    assert_eq!(answered(bench.take(&device)), 0);
    bench.say(&other, explain());
    assert_eq!(answered(bench.take(&other)), 1);
}

#[test]
fn messages_on_channels_that_are_not_there_are_nothing() {
    let (mut bench, mut device, _) = Bench::office();
    device.channel = crate::ChannelId(9_999);
    bench.say(&device, hello(&bench, 1));
    bench.handle(Input::Disconnected {
        channel: device.channel,
    });
    assert!(bench.out.messages.is_empty());
}

fn raw_connect(bench: &mut Bench, node: &mut TestNode) {
    node.channel = bench.next_channel();
    let peer = bench.peer(node);
    let channel = node.channel;
    bench.handle(Input::Connected { channel, peer });
    bench.settle();
}

fn hello(bench: &Bench, version: u16) -> FromNode {
    FromNode::Hello(Hello {
        version,
        program: "test".to_owned(),
        clock: bench.now.unix,
        grants: Vec::new(),
        checkpoint: None,
    })
}
