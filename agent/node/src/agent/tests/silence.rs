//! Tunnels whose other end does not answer.

use super::*;

/// A tunnel falls silent while the controller is there.
fn silent(world: &World, agent: &mut Agent, alone: bool) {
    let path = Event::Path {
        grant: GRANT,
        path: Path::Relay("192.0.2.7:7444".parse().unwrap()),
        why: PathReason::NoneAnswered,
    };
    world.turn(agent, AgentInput::Tunnel(path));
    let silent = Event::Silent {
        grant: GRANT,
        silence: Silence { alone },
    };
    world.turn(agent, AgentInput::Tunnel(silent));
    assert_eq!(state(world, agent), AppState::Unreachable);
}

fn is_let_go(out: &AgentOutbox) -> bool {
    let is_removed =
        |command: &Command| matches!(command, Command::Remove { grant } if *grant == GRANT);
    out.node.commands.iter().any(is_removed)
        && out
            .node
            .messages
            .contains(&FromNode::Closed { grant: GRANT })
}

#[test]
fn who_wants_an_app_whose_tunnel_alone_is_silent_gets_another_one() {
    let world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    silent(&world, &mut agent, false);
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    assert!(!is_let_go(&out), "this device's network may be down");
    silent(&world, &mut agent, true);
    let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
    assert!(is_let_go(&out));
    let is_request = |message: &FromNode| matches!(message, FromNode::Request { .. });
    assert!(out.node.messages.iter().any(is_request));
    assert_eq!(state(&world, &agent), AppState::Opening);
}

#[test]
fn a_silent_tunnel_is_given_up_after_a_while_if_the_controller_answers_and_not_before() {
    for answers_again in [false, true] {
        let mut world = World::new();
        let mut agent = world.ready_agent();
        open(&world, &mut agent);
        silent(&world, &mut agent, true);
        world.pass(Duration::from_secs(5));
        let out = world.turn(&mut agent, AgentInput::Timeout);
        let is_usage = |message: &FromNode| matches!(message, FromNode::Usage(_));
        assert!(
            out.node.messages.iter().any(is_usage),
            "something is said that the controller answers or not"
        );
        world.pass(Duration::from_millis(2_999));
        assert!(!is_let_go(&world.turn(&mut agent, AgentInput::Timeout)));
        if answers_again {
            let answers = Event::Answers { grant: GRANT };
            world.turn(&mut agent, AgentInput::Tunnel(answers));
        }
        world.pass(Duration::from_millis(1));
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert_eq!(is_let_go(&out), !answers_again);
    }
}

#[test]
fn a_silent_tunnel_is_kept_while_there_is_no_controller_either() {
    let mut world = World::new();
    let mut agent = world.ready_agent();
    open(&world, &mut agent);
    silent(&world, &mut agent, true);
    world.turn(&mut agent, down());
    for _ in 0..5 {
        world.pass(Duration::from_secs(8));
        let out = world.turn(&mut agent, AgentInput::Timeout);
        assert!(!is_let_go(&out));
        assert!(agent.deadline().is_some_and(|due| due > world.now.instant));
        let out = world.turn(&mut agent, AgentInput::Wanted { app: name("wiki") });
        assert!(!is_let_go(&out));
    }
}
