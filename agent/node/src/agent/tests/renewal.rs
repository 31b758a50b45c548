//! Certificates that end, are refused, or are about another time than ours.

use super::*;

/// What an agent says, in one word each.
fn words(out: &AgentOutbox) -> Vec<&'static str> {
    let word = |message: &FromNode| match message {
        FromNode::Hello(_) => "hello",
        FromNode::Report(_) => "report",
        FromNode::Renew { .. } => "renew",
        FromNode::Closed { .. } => "closed",
        FromNode::Request { .. }
        | FromNode::Explain { .. }
        | FromNode::Admitted { .. }
        | FromNode::NotAdmitted { .. }
        | FromNode::Usage(_) => "other",
    };
    out.node.messages.iter().map(word).collect()
}

/// Brings an agent whose certificate has ended to a channel for renewal, its report sent.
fn renewing_agent(world: &mut World) -> Agent {
    let mut agent = world.agent(&["c:7443"]);
    world.pass(LIFE * 2);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(out.node.connect.unwrap().purpose, Purpose::Renewal);
    assert_eq!(words(&world.turn(&mut agent, up())), ["hello"]);
    let out = world.turn(&mut agent, AgentInput::Message(world.welcome()));
    assert!(
        out.collect.is_some() && out.node.messages.is_empty(),
        "not yet"
    );
    let facts = facts(world, true, 0);
    assert_eq!(
        words(&world.turn(&mut agent, facts)),
        ["report", "renew"],
        "the certificate rests on the report"
    );
    agent
}

fn codes(world: &World, agent: &Agent) -> Vec<String> {
    let warnings = agent.status(world.now).warnings;
    warnings.into_iter().map(|warning| warning.code).collect()
}

#[test]
fn a_device_that_slept_past_its_certificate_renews_it_and_then_connects() {
    let mut world = World::new();
    let mut agent = renewing_agent(&mut world);
    let status = agent.status(world.now);
    assert_eq!(status.controller.state, ControllerState::Connecting);
    assert_eq!(codes(&world, &agent), ["certificate_expired"]);
    let apps = ToNode::Apps(vec![view("wiki", true)]);
    world.turn(&mut agent, AgentInput::Message(apps));
    assert!(agent.apps().is_empty(), "it has no place there");

    let next = world.next_certificate(&world.device);
    let message = ToNode::Certificate(next.clone());
    let out = world.turn(&mut agent, AgentInput::Message(message));
    assert!(out.node.disconnect);
    let connect = out.node.connect.unwrap();
    assert_eq!(connect.purpose, Purpose::Channel);
    assert_eq!(connect.chain, next.chain);
    assert_eq!(out.node.save, Some(next));
    world.greet(&mut agent);
    let status = agent.status(world.now);
    assert_eq!(status.controller.state, ControllerState::Connected);
    assert!(status.warnings.is_empty());
}

#[test]
fn nothing_but_the_renewal_is_said_on_a_channel_that_is_for_it() {
    let mut world = World::new();
    let mut agent = renewing_agent(&mut world);
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    assert!(out.node.messages.is_empty() && out.opened.is_empty());
    let refusal = Refusal::new(RefusalCode::PostureFailed, "no");
    let refused = ToNode::CertificateRefused(refusal.clone());
    let out = world.turn(&mut agent, AgentInput::Message(refused));
    assert_eq!(out.opened, [(name("wiki"), Err(refusal))]);
    assert!(!out.node.disconnect, "posture may pass again");
    let codes = codes(&world, &agent);
    assert_eq!(codes, ["certificate_expired", "certificate_refused"]);
    let mended = ToNode::Posture(verdict(true));
    let out = world.turn(&mut agent, AgentInput::Message(mended));
    assert_eq!(words(&out), ["renew"]);
}

#[test]
fn a_device_that_is_refused_for_good_says_what_to_do_and_asks_rarely() {
    let mut world = World::new();
    let mut agent = renewing_agent(&mut world);
    let refusal = Refusal::new(RefusalCode::Blocked, "blocked").with_next("Ask an admin");
    let goodbye = ToNode::Goodbye(refusal.clone());
    assert!(
        world
            .turn(&mut agent, AgentInput::Message(goodbye))
            .node
            .disconnect
    );
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    assert_eq!(out.opened, [(name("wiki"), Err(refusal))]);
    let pause = agent.deadline().unwrap() - world.now.instant;
    assert!(
        (Duration::from_secs(60)..=Duration::from_secs(120)).contains(&pause),
        "{pause:?}"
    );
}

#[test]
fn who_is_refused_for_good_asks_every_controller_before_it_pauses() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443", "d:7443"]);
    for (address, is_patient) in [("c:7443", false), ("d:7443", true), ("c:7443", false)] {
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert_eq!(out.node.connect.unwrap().address, address);
        world.greet(&mut agent);
        let goodbye = ToNode::Goodbye(Refusal::new(RefusalCode::Blocked, "blocked"));
        world.turn(&mut agent, AgentInput::Message(goodbye));
        let pause = agent.deadline().unwrap() - world.now.instant;
        assert_eq!(pause >= Duration::from_secs(60), is_patient, "{pause:?}");
        world.pass(pause);
    }
}

#[test]
fn who_is_refused_for_good_and_then_hears_nothing_tries_by_the_other_clock_soon() {
    let mut world = World::new();
    let mut agent = renewing_agent(&mut world);
    let goodbye = ToNode::Goodbye(Refusal::new(RefusalCode::Blocked, "blocked"));
    world.turn(&mut agent, AgentInput::Message(goodbye));
    let patience = [(true, "refused"), (false, "silent"), (false, "silent")];
    for (is_patient, why) in patience {
        let pause = agent.deadline().unwrap() - world.now.instant;
        assert_eq!(
            pause >= Duration::from_secs(60),
            is_patient,
            "{why}: {pause:?}"
        );
        world.pass(pause);
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert!(out.node.connect.is_some(), "{why}");
        world.turn(&mut agent, down());
    }
}

#[test]
fn a_certificate_lifts_what_a_device_was_turned_away_for_before() {
    let mut world = World::new();
    let mut agent = renewing_agent(&mut world);
    let goodbye = ToNode::Goodbye(Refusal::new(RefusalCode::Blocked, "blocked"));
    world.turn(&mut agent, AgentInput::Message(goodbye));
    let pause = agent.deadline().unwrap() - world.now.instant;
    world.pass(pause);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(out.node.connect.unwrap().purpose, Purpose::Renewal);
    world.greet(&mut agent);
    let next = world.next_certificate(&world.device);
    let out = world.turn(&mut agent, AgentInput::Message(ToNode::Certificate(next)));
    assert_eq!(out.node.connect.unwrap().purpose, Purpose::Channel);
    world.turn(&mut agent, down());
    let pause = agent.deadline().unwrap() - world.now.instant;
    assert!(pause < Duration::from_secs(5), "{pause:?}");
}

#[test]
fn a_certificate_that_has_not_begun_is_renewed_once_every_controller_has_refused_it() {
    let mut world = World::new();
    let ahead = world.now;
    world.now = Now {
        unix: UnixMillis(ahead.unix.0 - 3_600_000),
        ..ahead
    };
    let mut agent = Agent::new(world.settings_at(ahead, &["c:7443", "d:7443"]), [5; 32]);
    for purpose in [Purpose::Channel, Purpose::Channel, Purpose::Renewal] {
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert_eq!(out.node.connect.unwrap().purpose, purpose);
        world.turn(&mut agent, down());
        let pause = agent.deadline().unwrap() - world.now.instant;
        world.pass(pause);
    }
}

#[test]
fn a_certificate_whose_authority_has_ended_needs_a_new_code() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443"]);
    world.pass(cardea_credential::authority::INTERMEDIATE_LIFE + LIFE);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(out.node.connect.unwrap().purpose, Purpose::Renewal);
    world.turn(&mut agent, down());
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    let refusal = out.opened[0].1.clone().unwrap_err();
    assert_eq!(refusal.code.exit_code(), 4);
    let said = refusal.to_string();
    assert!(said.ends_with("move /state away, then: cardea up CODE"));
}

#[test]
fn a_certificate_that_may_have_ended_by_the_other_clock_is_renewed_after_a_failed_round() {
    let mut world = World::new();
    let mut agent = world.agent(&["c:7443"]);
    world.pass(LIFE - Duration::from_secs(120));
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(out.node.connect.unwrap().purpose, Purpose::Channel);
    world.turn(&mut agent, down());
    let due = agent.deadline().unwrap();
    world.pass(due - world.now.instant);
    let out = world.turn(&mut agent, AgentInput::Timeout);
    assert_eq!(out.node.connect.unwrap().purpose, Purpose::Renewal);
}

#[test]
fn a_certificate_of_five_minutes_is_used_and_not_renewed_for_ever() {
    let mut world = World::new();
    let key = world.device.signer.public_key().to_vec();
    let mut leaf = world.domain.leaf(world.device.holder, &key, world.now.unix);
    leaf.not_after = world.now.unix.plus(Duration::from_secs(300));
    world.device.chain = world.domain.intermediate.issue(&leaf).unwrap();
    let mut agent = world.agent(&["c:7443"]);
    world.turn(&mut agent, AgentInput::Timeout);
    for _ in 0..3 {
        world.turn(&mut agent, down());
        let due = agent.deadline().unwrap();
        world.pass(due - world.now.instant);
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert_eq!(out.node.connect.unwrap().purpose, Purpose::Channel);
    }
}

#[test]
fn a_certificate_that_is_not_what_is_said_of_it_is_not_taken() {
    type Break = fn(&mut cardea_proto::enroll::Certificate);
    let breaks: [Break; 3] = [
        |next| next.not_after = next.not_after.plus(LIFE),
        |next| next.not_before = next.not_before.plus(LIFE),
        |next| next.serial.push('0'),
    ];
    for break_it in breaks {
        let world = World::new();
        let mut agent = world.ready_agent();
        let mut next = world.next_certificate(&world.device);
        break_it(&mut next);
        let out = world.turn(&mut agent, AgentInput::Message(ToNode::Certificate(next)));
        assert_eq!(out.node.save, None);
        assert_eq!(codes(&world, &agent), ["certificate_refused"]);
    }
}

#[test]
fn a_channel_that_dies_behind_its_welcome_is_not_tried_in_haste_forever() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    let mut tries = 0;
    let end = world.now.instant + Duration::from_secs(600);
    while world.now.instant < end {
        world.turn(&mut agent, down());
        while world
            .turn(&mut agent, AgentInput::Timeout)
            .node
            .connect
            .is_none()
        {
            let due = agent.deadline().unwrap();
            world.pass(due.saturating_duration_since(world.now.instant));
        }
        tries += 1;
        world.greet(&mut agent);
    }
    assert!((30..200).contains(&tries), "{tries} in ten minutes");
    world.pass(Duration::from_secs(10));
    world.turn(&mut agent, down());
    let pause = agent.deadline().unwrap() - world.now.instant;
    assert!(pause <= Duration::from_millis(500), "{pause:?}");
}

#[test]
fn a_removed_device_says_so_once_with_its_directory_and_is_over_after_a_round() {
    let mut world = World::new();
    let mut agent = world.agent(&["a:7443", "b:7443"]);
    world.turn(&mut agent, AgentInput::Timeout);
    let goodbye = || {
        let refusal = Refusal::new(RefusalCode::NotProven, "dev_1 was removed by an admin");
        AgentInput::Message(ToNode::Goodbye(refusal.with_next("Move its state away")))
    };
    world.turn(&mut agent, goodbye());
    assert_eq!(agent.ended(), None, "another controller may know more");
    let due = agent.deadline().unwrap();
    world.pass(due - world.now.instant);
    world.turn(&mut agent, AgentInput::Timeout);
    world.turn(&mut agent, goodbye());
    let ended = agent.ended().unwrap();
    assert_eq!(ended.code.exit_code(), 4);
    assert!(ended.to_string().contains("move /state away"), "{ended}");
    assert_eq!(codes(&world, &agent), ["not_proven"]);
    assert_eq!(
        agent.status(world.now).controller.state,
        ControllerState::Unreachable
    );
}

#[test]
fn a_device_that_was_blocked_or_removed_does_not_read_as_if_all_were_well() {
    let world = World::new();
    let mut agent = world.ready_agent();
    let judged = |blocked| {
        AgentInput::Message(ToNode::Posture(PostureVerdict {
            blocked,
            ..verdict(true)
        }))
    };
    world.turn(&mut agent, judged(false));
    assert_eq!(codes(&world, &agent), [""; 0]);
    world.turn(&mut agent, judged(true));
    let status = agent.status(world.now);
    assert_eq!(codes(&world, &agent), ["blocked"]);
    assert_eq!(status.warnings[0].title, "this device is blocked");
    assert_eq!(
        status.warnings[0].fix,
        "Ask an admin to run: cardeactl device unblock laptop"
    );
    world.turn(&mut agent, judged(false));
    assert_eq!(codes(&world, &agent), [""; 0]);
    assert_eq!(agent.status(world.now).posture.compliant, Some(true));
    let goodbye = Refusal::new(RefusalCode::NotProven, "removed").with_next("Enroll");
    world.turn(&mut agent, AgentInput::Message(ToNode::Goodbye(goodbye)));
    assert_eq!(agent.status(world.now).posture.compliant, None);
}
