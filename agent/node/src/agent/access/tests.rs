//! The whole table: every state takes every step.

use std::time::Duration;

use cardea_proto::{app::Carrier, id::ConnectorId, time::testing};

use super::*;

const GRANT: GrantId = GrantId::from_bytes([1; 10]);
const OTHER: GrantId = GrantId::from_bytes([2; 10]);

/// The states, as rows of the table.
const STATES: [&str; 10] = [
    "idle",
    "held",
    "asking",
    "opening",
    "open",
    "denied fresh",
    "denied",
    "denied posture",
    "unreachable fresh",
    "unreachable",
];

fn held(now: Instant) -> Held {
    Held {
        grant: GRANT,
        connector: ConnectorId::from_bytes([3; 10]),
        carrier: Carrier::Quic,
        until: now + Duration::from_secs(60),
    }
}

fn refusal(code: RefusalCode) -> Refusal {
    Refusal::new(code, "no")
}

fn state(name: &str, now: Instant) -> Access {
    let until = now + Duration::from_secs(5);
    let long_ago = now.checked_sub(REFUSAL_HOLD).unwrap();
    let denied = |code, at| Access::Denied {
        refusal: refusal(code),
        at,
    };
    let unreachable = |at| Access::Unreachable {
        refusal: refusal(RefusalCode::Unreachable),
        at,
    };
    match name {
        "idle" => Access::Idle { ended: None },
        "held" => Access::Asking {
            request: None,
            until,
        },
        "asking" => Access::Asking {
            request: Some(7),
            until,
        },
        "opening" => Access::Opening {
            held: held(now),
            until,
        },
        "open" => Access::Open { held: held(now) },
        "denied fresh" => denied(RefusalCode::NotPermitted, now),
        "denied" => denied(RefusalCode::NotPermitted, long_ago),
        "denied posture" => denied(RefusalCode::PostureFailed, long_ago),
        "unreachable fresh" => unreachable(now),
        "unreachable" => unreachable(long_ago),
        other => panic!("{other} is no state"),
    }
}

fn shown(state: &Access) -> &'static str {
    match state {
        Access::Idle { ended: None } => "idle",
        Access::Idle { ended: Some(_) } => "idle why",
        Access::Asking { request: None, .. } => "held",
        Access::Asking { .. } => "asking",
        Access::Opening { .. } => "opening",
        Access::Open { .. } => "open",
        Access::Denied { .. } => "denied",
        Access::Unreachable { .. } => "unreachable",
    }
}

fn did(effects: &[Effect]) -> String {
    let names: Vec<&str> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Ask(_) => "ask",
            Effect::Install => "install",
            Effect::Extend(_) => "extend",
            Effect::Remove(_) => "remove",
            Effect::Tell(_) => "tell",
            Effect::Answer(Ok(_)) => "yes",
            Effect::Answer(Err(_)) => "no",
        })
        .collect();
    names.join("+")
}

/// Steps with what each state of [`STATES`] makes of them: the next state and the effects.
fn check(step: &Step, row: [(&str, &str); 10]) {
    let now = testing::start().instant + Duration::from_secs(3_600);
    for (from, (to, effects)) in STATES.into_iter().zip(row) {
        let (next, followed) = state(from, now).step(now, step.clone());
        let to = if to == "same" {
            shown(&state(from, now))
        } else {
            to
        };
        assert_eq!(
            (shown(&next), did(&followed).as_str()),
            (to, effects),
            "{from} on {step:?}"
        );
    }
}

const SAME: (&str, &str) = ("same", "");

#[test]
fn somebody_wants_the_app() {
    let no = ("same", "no");
    let asked = ("asking", "ask");
    check(
        &Step::Wanted(Way::Ready(9)),
        [
            asked,
            SAME,
            SAME,
            SAME,
            ("same", "yes"),
            no,
            asked,
            asked,
            no,
            asked,
        ],
    );
    let held = ("held", "");
    check(
        &Step::Wanted(Way::Soon),
        [
            held,
            SAME,
            SAME,
            SAME,
            ("same", "yes"),
            no,
            held,
            held,
            no,
            held,
        ],
    );
    let none = ("unreachable", "no");
    check(
        &Step::Wanted(Way::Closed(refusal(RefusalCode::Unreachable))),
        [
            none,
            SAME,
            SAME,
            SAME,
            ("same", "yes"),
            no,
            none,
            none,
            no,
            none,
        ],
    );
}

#[test]
fn the_channel_comes_and_goes() {
    let idle = ("idle", "");
    check(
        &Step::Ready(9),
        [
            SAME,
            ("asking", "ask"),
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
            idle,
            idle,
        ],
    );
    check(
        &Step::Lost,
        [
            SAME,
            SAME,
            ("held", ""),
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
        ],
    );
    let none = ("unreachable", "no");
    check(
        &Step::NoWay(refusal(RefusalCode::Unreachable)),
        [SAME, none, none, SAME, SAME, SAME, SAME, SAME, SAME, SAME],
    );
}

#[test]
fn the_controller_answers() {
    let now = testing::start().instant;
    let tell = ("same", "tell");
    check(
        &Step::Granted(held(now + Duration::from_secs(3_600))),
        [
            tell,
            tell,
            ("opening", "install"),
            tell,
            tell,
            tell,
            tell,
            tell,
            tell,
            tell,
        ],
    );
    let denied = ("denied", "no");
    check(
        &Step::Denied(refusal(RefusalCode::NotPermitted)),
        [
            SAME, denied, denied, SAME, SAME, SAME, SAME, SAME, SAME, SAME,
        ],
    );
    let none = ("unreachable", "no");
    check(
        &Step::Denied(refusal(RefusalCode::StorageFull)),
        [SAME, none, none, SAME, SAME, SAME, SAME, SAME, SAME, SAME],
    );
}

#[test]
fn the_tunnel_opens_and_ends() {
    check(
        &Step::Opened(GRANT),
        [
            SAME,
            SAME,
            SAME,
            ("open", "yes"),
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
            SAME,
        ],
    );
    check(&Step::Opened(OTHER), [SAME; 10]);
    let (opening, open) = (("unreachable", "tell+no"), ("idle why", "tell"));
    check(
        &Step::TunnelClosed(GRANT, refusal(RefusalCode::Unreachable)),
        [
            SAME, SAME, SAME, opening, open, SAME, SAME, SAME, SAME, SAME,
        ],
    );
    check(
        &Step::TunnelClosed(OTHER, refusal(RefusalCode::Unreachable)),
        [SAME; 10],
    );
    let (opening, open) = (
        ("unreachable", "remove+tell+no"),
        ("idle why", "remove+tell"),
    );
    check(
        &Step::GivenUp(GRANT, refusal(RefusalCode::Unreachable)),
        [
            SAME, SAME, SAME, opening, open, SAME, SAME, SAME, SAME, SAME,
        ],
    );
    check(
        &Step::GivenUp(OTHER, refusal(RefusalCode::Unreachable)),
        [SAME; 10],
    );
}

#[test]
fn the_controller_withdraws_and_extends() {
    let (opening, open) = (("denied", "remove+no"), ("denied", "remove"));
    let why = refusal(RefusalCode::NotPermitted);
    check(
        &Step::Withdrawn(GRANT, EndReason::Revoked, why.clone()),
        [
            SAME, SAME, SAME, opening, open, SAME, SAME, SAME, SAME, SAME,
        ],
    );
    let (opening, open) = (("unreachable", "remove+no"), ("idle why", "remove"));
    let gone = refusal(RefusalCode::NoConnector);
    check(
        &Step::Withdrawn(GRANT, EndReason::ConnectorGone, gone),
        [
            SAME, SAME, SAME, opening, open, SAME, SAME, SAME, SAME, SAME,
        ],
    );
    check(&Step::Withdrawn(OTHER, EndReason::Revoked, why), [SAME; 10]);
    let later = testing::start().instant + Duration::from_secs(7_200);
    let more = ("same", "extend");
    check(
        &Step::Extended(GRANT, later),
        [SAME, SAME, SAME, more, more, SAME, SAME, SAME, SAME, SAME],
    );
    check(&Step::Extended(OTHER, later), [SAME; 10]);
}

#[test]
fn what_stood_in_the_way_changes() {
    let idle = ("idle", "");
    check(
        &Step::Cleared,
        [SAME, SAME, SAME, SAME, SAME, idle, idle, idle, SAME, SAME],
    );
    check(
        &Step::Mended,
        [SAME, SAME, SAME, SAME, SAME, SAME, SAME, idle, SAME, SAME],
    );
    check(
        &Step::Failing(refusal(RefusalCode::PostureFailed)),
        [SAME; 10],
    );
}

#[test]
fn the_person_disconnects() {
    let (asking, opening, open) = (
        ("idle", "no"),
        ("idle", "remove+tell+no"),
        ("idle", "remove+tell"),
    );
    let idle = ("idle", "");
    check(
        &Step::Cut(refusal(RefusalCode::Unreachable)),
        [
            idle, asking, asking, opening, open, idle, idle, idle, idle, idle,
        ],
    );
}

#[test]
fn a_deadline_passes() {
    check(&Step::Due, [SAME; 10]);
    let start = testing::start().instant + Duration::from_secs(3_600);
    for (from, to, effects) in [
        ("held", "unreachable", "no"),
        ("asking", "unreachable", "no"),
        ("opening", "unreachable", "remove+tell+no"),
        ("open", "idle why", "remove"),
    ] {
        let access = state(from, start);
        let due = access.deadline().unwrap();
        let (next, followed) = access.step(due, Step::Due);
        assert_eq!(
            (shown(&next), did(&followed).as_str()),
            (to, effects),
            "{from}"
        );
    }
    for quiet in ["idle", "denied", "unreachable"] {
        assert_eq!(state(quiet, start).deadline(), None, "{quiet}");
    }
}

#[test]
fn a_verdict_after_the_withdrawal_gives_the_better_reason() {
    let now = testing::start().instant + Duration::from_secs(3_600);
    let better = Refusal::new(RefusalCode::PostureFailed, "disk.encrypted is false");
    let (next, _) = state("denied posture", now).step(now, Step::Failing(better.clone()));
    assert!(matches!(next, Access::Denied { refusal, .. } if refusal == better));
}

#[test]
fn a_request_whose_channel_was_lost_does_not_wait_longer_than_one_that_had_none() {
    let now = testing::start().instant + Duration::from_secs(3_600);
    let (held, _) = state("asking", now).step(now, Step::Lost);
    assert_eq!(held.deadline(), Some(now + CHANNEL_TIMEOUT));
}
