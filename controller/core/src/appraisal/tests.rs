use std::{collections::BTreeMap, time::Duration};

use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminQuery},
    codec::{self, Bytes},
    ledger::Change,
    message::{FromNode, ToNode},
    posture::{Grade, PostureVerdict, Reading, Value},
};

use crate::{
    Settings,
    policy::recommended_folder,
    testing::{Bench, TestNode, fact, name, sane_facts, settings},
};

#[test]
fn only_an_appraisal_that_changes_is_a_record() {
    let (mut bench, mut device, _) = Bench::office();
    let before = bench.entries.len();
    for _ in 0..5 {
        bench.report(&mut device, sane_facts());
    }
    assert_eq!(bench.entries.len(), before);
    bench.report(&mut device, BTreeMap::new());
    bench.report(&mut device, BTreeMap::new());
    assert_eq!(appraisals(&bench), [true, false]);
    bench.report(&mut device, sane_facts());
    assert_eq!(appraisals(&bench), [true, false, true]);
}

#[test]
fn a_device_hears_what_failed_and_what_to_do() {
    let (mut bench, mut device, _) = Bench::office();
    let mut facts = sane_facts();
    facts.remove("agent.version");
    bench.report(&mut device, facts);
    let verdict = verdict(&mut bench, &device);
    assert!(!verdict.compliant);
    assert_eq!(verdict.checked_at, bench.now.unix);
    assert!(
        !verdict.failed.is_empty() || verdict.remedy.is_some(),
        "{verdict:?}"
    );
    bench.report(&mut device, sane_facts());
    assert!(verdict_passes(&mut bench, &device));
}

#[test]
fn a_device_without_any_rule_hears_that_there_is_none_and_whom_to_ask() {
    let (mut bench, mut device, _) = Bench::office();
    bench.must(AdminChange::PolicyApply(Vec::new()));
    bench.report(&mut device, sane_facts());
    let verdict = verdict(&mut bench, &device);
    let why = "no rule permits a certificate for laptop".to_owned();
    assert_eq!(verdict.reasons(), std::slice::from_ref(&why));
    assert_eq!(
        verdict.remedy.as_deref(),
        Some("Ask an admin for a rule that permits it: cardeactl policy show")
    );
    let AdminAnswer::Devices(rows) = bench.query(AdminQuery::Devices) else {
        panic!("no devices");
    };
    assert_eq!(rows[0].why, Some(why));
}

/// A device that flips a long fact: its access always ends at once, and the ledger does not fill.
#[test]
fn a_device_that_flips_its_posture_fills_no_ledger_and_is_closed_at_once() {
    let (mut bench, mut device, connector) = Bench::office();
    let long = || (0..4_000).map(|number| format!("program-{number}"));
    let mut failing = sane_facts();
    failing.remove("agent.version");
    failing.extend([fact("process.running", Value::List(long().collect()))]);
    let (before, started) = (posture_bytes(&bench), bench.now);
    let (mut closed, mut refused) = (0, 0);
    for _ in 0..2_000 {
        bench.report(&mut device, sane_facts());
        if verdict_passes(&mut bench, &device) {
            bench.open(&device, &connector, "wiki");
            bench.report(&mut device, failing.clone());
            let heard = bench.heard(&connector);
            assert_eq!(heard, ["withdraw: posture_failed"]);
            closed += 1;
        } else {
            bench.report(&mut device, failing.clone());
            refused += 1;
        }
        assert!(!verdict_passes(&mut bench, &device));
        bench.pass(Duration::from_secs(1));
    }
    let hours = (bench.now.instant - started.instant).as_secs_f64() / 3_600.0;
    let bytes = posture_bytes(&bench) - before;
    assert!(closed > 20 && refused > 1_000, "{closed} {refused}");
    assert!(
        f64::from(u32::try_from(bytes).unwrap()) < 65_536.0 * (hours + 1.1),
        "{bytes} bytes in {hours} h"
    );
    bench.report(&mut device, sane_facts());
    let said = verdict(&mut bench, &device);
    assert_eq!(said.failed[0].rule, "controller/changes");
    let notes = bench.refused();
    let notes = notes.iter().filter(|note| *note == "certify busy").count();
    assert!((1..=closed).contains(&notes), "{notes} notes of {closed}");
    for _ in 0..20 {
        bench.pass(Duration::from_secs(30));
        bench.report(&mut device, sane_facts());
    }
    assert!(verdict_passes(&mut bench, &device), "it comes back alone");
}

#[test]
fn a_report_costs_what_it_measures() {
    let (mut bench, mut device, _) = Bench::office();
    let long = || (0..4_000).map(|number| format!("program-{number}"));
    let mut large = sane_facts();
    large.extend([fact("process.running", Value::List(long().collect()))]);
    let mut taken = 0;
    for _ in 0..100 {
        bench.report(&mut device, large.clone());
        taken += bench.heard(&device).len();
    }
    assert!((1..20).contains(&taken), "{taken}");
    assert!(bench.refused().contains(&"certify busy".to_owned()));
}

/// What entries about appraisals measure, those of refused reports included.
fn posture_bytes(bench: &Bench) -> usize {
    let about = |change: &Change| matches!(change, Change::Appraised { .. } | Change::Refused(_));
    let entries = bench.entries.iter();
    entries
        .filter(|entry| entry.draft.changes.iter().any(about))
        .map(|entry| codec::encode(&entry.draft).len())
        .sum()
}

#[test]
fn how_far_a_clock_is_ahead_is_told_to_the_device_and_to_admins() {
    let (mut bench, mut device, _) = Bench::office();
    device.counter += 1;
    let mut report = bench.report_of(device.counter, device.nonce.0, sane_facts());
    report.clock = report.clock.plus(Duration::from_secs(42));
    bench.say(&device, FromNode::Report(report));
    bench.settle();
    assert_eq!(verdict(&mut bench, &device).clock_skew_s, Some(42));
    let AdminAnswer::Devices(rows) = bench.query(AdminQuery::Devices) else {
        panic!("no devices");
    };
    let skew = &rows[0].facts["clock.skew_s"];
    assert_eq!(skew.reading, Reading::Value(Value::Integer(42)));
}

/// A device tells its user of the verdict on the report that it made for him.
#[test]
fn a_verdict_names_the_report_of_its_channel_that_it_answers() {
    let (mut bench, mut device, _) = Bench::office();
    // Passed before and after, failed now, failed again.
    for facts in [sane_facts(), sane_facts(), BTreeMap::new(), BTreeMap::new()] {
        bench.report(&mut device, facts);
        let verdict = verdict(&mut bench, &device);
        assert_eq!(verdict.report, Some(device.counter));
    }
    bench.connect(&mut device, &[]);
    let welcome = verdict(&mut bench, &device);
    assert_eq!(welcome.report, None, "no report of this channel");
    bench.report(&mut device, sane_facts());
    assert_eq!(verdict(&mut bench, &device).report, Some(device.counter));
}

#[test]
fn a_report_that_is_replayed_or_from_another_channel_changes_nothing() {
    let (mut bench, mut device, _) = Bench::office();
    let failing = BTreeMap::new;
    let replayed = bench.report_of(device.counter, device.nonce.0, failing());
    let foreign = bench.report_of(99, [1; 16], failing());
    let mut many = failing();
    many.extend((0..300).map(|number| fact(&format!("fact.{number}"), Value::Bool(true))));
    let too_many = bench.report_of(100, device.nonce.0, many);
    for report in [replayed, foreign, too_many] {
        bench.say(&device, FromNode::Report(report));
        bench.settle();
        assert_eq!(bench.heard(&device), Vec::<String>::new());
    }
    assert_eq!(appraisals(&bench), [true]);
    assert!(bench.refused().contains(&"certify invalid".to_owned()));
    bench.report(&mut device, sane_facts());
    assert_eq!(bench.heard(&device), ["posture passes"]);
}

#[test]
fn simulated_facts_fail_an_appraisal_unless_they_are_allowed() {
    for allowed in [false, true] {
        let mut bench = Bench::with(Settings {
            allow_simulated_posture: allowed,
            ..settings()
        });
        let mut device = bench.device("laptop");
        bench.out.messages.clear();
        let mut facts = sane_facts();
        let (name, mut simulated) = fact("firewall.enabled", Value::Bool(true));
        simulated.grade = Grade::Simulated;
        facts.insert(name, simulated);
        bench.report(&mut device, facts);
        assert_eq!(verdict(&mut bench, &device).compliant, allowed);
    }
}

#[test]
fn a_clock_that_runs_away_fails_and_comes_back() {
    let (mut bench, mut device, _) = Bench::office();
    for (seconds, passes) in [(299, true), (301, false), (0, true)] {
        device.counter += 1;
        let mut report = bench.report_of(device.counter, device.nonce.0, sane_facts());
        report.clock = report.clock.plus(Duration::from_secs(seconds));
        bench.say(&device, FromNode::Report(report));
        bench.settle();
        assert_eq!(
            verdict(&mut bench, &device).compliant,
            passes,
            "{seconds} s"
        );
    }
}

#[test]
fn a_changed_fact_changes_the_apps_that_a_device_may_open() {
    let (mut bench, mut device, _) = Bench::office();
    bench.report(&mut device, BTreeMap::new());
    assert_eq!(bench.heard(&device), ["posture fails", "apps 0/1"]);
    bench.report(&mut device, sane_facts());
    assert_eq!(bench.heard(&device), ["posture passes", "apps 1/1"]);
    bench.publish("mail");
    assert_eq!(bench.heard(&device), ["apps 2/2"]);
    bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
    assert_eq!(bench.heard(&device), ["posture: blocked", "apps 0/2"]);
}

#[test]
fn a_stricter_policy_fails_devices_that_do_not_meet_it_and_ends_their_grants() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    let AdminAnswer::PolicyFiles(files) = bench.query(AdminQuery::PolicyRecommended) else {
        panic!("no files");
    };
    let AdminAnswer::PolicyEffects { effects, unjudged } =
        bench.query(AdminQuery::PolicyDiff(files.clone()))
    else {
        panic!("no effects");
    };
    let shown: Vec<_> = effects
        .iter()
        .map(|effect| (effect.action.as_str(), effect.before, effect.after))
        .collect();
    assert_eq!(shown, [("certify", true, false), ("connect", true, false)]);
    assert_eq!(unjudged, []);
    let change = AdminChange::PolicyApply(files);
    let impact = bench.query(AdminQuery::Impact(change.clone()));
    assert_eq!(impact, AdminAnswer::Impact { closes: 1 });
    assert_eq!(bench.must(change), 1);
    assert_eq!(bench.heard(&connector), ["withdraw: posture_failed"]);
    let mut heard = bench.heard(&device);
    assert_eq!(heard.remove(0), "withdraw: posture_failed");
    heard.sort();
    assert_eq!(heard, ["apps 0/1", "posture fails"]);
    assert_eq!(appraisals(&bench), [true, false]);
}

#[test]
fn a_device_that_has_not_reported_is_named_when_policies_are_compared() {
    let (mut bench, _, _) = Bench::office();
    bench.restart(settings());
    let files = recommended_folder();
    let AdminAnswer::PolicyEffects { effects, unjudged } =
        bench.query(AdminQuery::PolicyDiff(files))
    else {
        panic!("no effects");
    };
    assert_eq!((effects.len(), unjudged), (0, vec![name("laptop")]));
}

#[test]
fn a_report_that_is_stale_is_no_record_but_ends_grants() {
    let (mut bench, device, connector) = Bench::office();
    bench.open(&device, &connector, "wiki");
    bench.pass(Duration::from_secs(181));
    assert_eq!(
        bench.heard(&connector),
        ["extend", "withdraw: posture_stale"]
    );
    assert_eq!(appraisals(&bench), [true]);
}

#[test]
fn a_welcome_is_followed_by_the_verdict_and_the_apps() {
    let (mut bench, mut device, _) = Bench::office();
    bench.disconnect(&device);
    bench.connect(&mut device, &[]);
    assert_eq!(
        bench.heard(&device),
        ["welcome", "posture passes", "apps 1/1"]
    );
    let nonce = device.nonce;
    assert_ne!(nonce, Bytes([0; 16]));
}

fn appraisals(bench: &Bench) -> Vec<bool> {
    let changes = bench.entries.iter().flat_map(|entry| &entry.draft.changes);
    changes
        .filter_map(|change| {
            if let Change::Appraised { compliant, .. } = change {
                Some(*compliant)
            } else {
                None
            }
        })
        .collect()
}

#[test]
fn a_device_hears_that_it_is_blocked_and_that_it_is_no_longer() {
    let (mut bench, device, _) = Bench::office();
    bench.heard(&device);
    bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
    let heard = bench.heard(&device);
    assert!(
        heard.iter().any(|word| word == "posture: blocked"),
        "{heard:?}"
    );
    bench.must(AdminChange::DeviceUnblock("laptop".to_owned()));
    let heard = bench.heard(&device);
    assert!(
        heard.iter().any(|word| word == "posture passes"),
        "{heard:?}"
    );
}

fn verdict(bench: &mut Bench, device: &TestNode) -> PostureVerdict {
    let messages = bench.take(device);
    let found = messages.iter().rev().find_map(|message| {
        if let ToNode::Posture(verdict) = message {
            Some(verdict.clone())
        } else {
            None
        }
    });
    found.unwrap_or_else(|| panic!("no verdict: {messages:?}"))
}

fn verdict_passes(bench: &mut Bench, device: &TestNode) -> bool {
    verdict(bench, device).compliant
}
