//! A rule that cannot be evaluated denies: a request, a certificate, and what was open before.

use cardea_proto::{
    admin::AdminChange,
    decision::{Decision, Reason},
    ledger::{Change, EndReason},
    message::ToNode,
    policy::PolicyFile,
    posture::Value,
    refusal::{Refusal, RefusalCode},
};

use crate::{
    policy::default_folder,
    testing::{Bench, TestNode, fact, sane_facts},
};

#[test]
fn a_forbid_that_errs_denies_a_request_and_the_entry_says_so() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    report_uptime(&mut bench, &mut device);
    apply(&mut bench, "connect", "context.device.posture");
    assert_eq!(bench.heard(&connector), ["withdraw: not_permitted"]);
    assert_eq!(ended(&bench), [EndReason::NotPermitted]);

    let refusal = denied(&mut bench, &device);
    assert_eq!(refusal.code, RefusalCode::NotPermitted);
    assert_eq!(refusal.code.exit_code(), 3);
    let text = refusal.to_string();
    assert!(
        text.contains("a rule could not be evaluated (rule broken: "),
        "{text}"
    );
    assert!(
        text.ends_with("Ask an admin to mend the policy: cardeactl policy show"),
        "{text}"
    );
    let decision = recorded(&bench, "connect", RefusalCode::NotPermitted);
    assert_eq!(
        (decision.allowed, decision.reason),
        (false, Reason::EvaluationError)
    );
    assert_eq!(decision.rules, ["broken"]);
    assert!(
        decision.errors[0].starts_with("rule broken: "),
        "{decision:?}"
    );

    bench.must(AdminChange::PolicyApply(default_folder()));
    bench.open(&device, &connector, "wiki");
}

#[test]
fn a_forbid_that_errs_denies_a_certificate_and_all_that_rests_on_one() {
    let (mut bench, mut device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    report_uptime(&mut bench, &mut device);
    apply(&mut bench, "certify", "context.posture");
    assert_eq!(bench.heard(&connector), ["withdraw: posture_failed"]);
    let entry = bench.entries.iter().rev().find(|entry| {
        let fails = |change: &Change| {
            matches!(
                change,
                Change::Appraised {
                    compliant: false,
                    ..
                }
            )
        };
        entry.draft.changes.iter().any(fails)
    });
    let decision = entry.unwrap().draft.decision.clone().unwrap();
    assert_eq!(
        (decision.allowed, decision.reason),
        (false, Reason::EvaluationError)
    );
    assert_eq!(decision.rules, ["broken"]);

    let refusal = denied(&mut bench, &device);
    assert_eq!(refusal.code, RefusalCode::PostureFailed);
    let text = refusal.to_string();
    assert!(
        text.contains("a rule could not be evaluated (rule broken: "),
        "{text}"
    );
    let decision = recorded(&bench, "connect", RefusalCode::PostureFailed);
    assert_eq!(decision.appraisal, Some(Reason::EvaluationError));
}

fn report_uptime(bench: &mut Bench, device: &mut TestNode) {
    let mut facts = sane_facts();
    facts.extend([fact("uptime_s", Value::Integer(60))]);
    bench.report(device, facts);
    bench.out.messages.clear();
}

/// Adds a forbid of `action` that overflows for every device that has been up for a second.
fn apply(bench: &mut Bench, action: &str, posture: &str) {
    let mut files = default_folder();
    files.retain(|file| !file.path.ends_with(".test.toml"));
    files.push(PolicyFile {
        path: "broken.cedar".to_owned(),
        text: format!(
            "@id(\"broken\") forbid (principal, action == Action::\"{action}\", resource) \
             when {{ !({posture} has uptime_s && \
             {posture}.uptime_s.value + 9223372036854775807 >= 0) }};"
        ),
    });
    bench.must(AdminChange::PolicyApply(files));
}

fn denied(bench: &mut Bench, device: &TestNode) -> Refusal {
    bench.take(device);
    bench.request(device, 2, "wiki");
    bench.settle();
    let messages = bench.take(device);
    let refusal = messages.iter().find_map(|message| {
        if let ToNode::Denied { refusal, .. } = message {
            Some(refusal.clone())
        } else {
            None
        }
    });
    refusal.unwrap_or_else(|| panic!("not denied: {messages:?}"))
}

/// The decision in the last entry of a refusal of this kind.
fn recorded(bench: &Bench, attempt: &str, code: RefusalCode) -> Decision {
    let entry = bench.entries.iter().rev().find(|entry| {
        entry.draft.changes.iter().any(|change| {
            matches!(change, Change::Refused(record)
                if record.attempt == attempt && record.code == code && record.subject == "wiki")
        })
    });
    entry.unwrap().draft.decision.clone().unwrap()
}

fn ended(bench: &Bench) -> Vec<EndReason> {
    let changes = bench.entries.iter().flat_map(|entry| &entry.draft.changes);
    changes
        .filter_map(|change| {
            if let Change::GrantEnded { reason, .. } = change {
                Some(*reason)
            } else {
                None
            }
        })
        .collect()
}
