//! Whatever a device reports, a decision comes out, and not in its favor.

use proptest::prelude::*;

use super::*;

fn strict() -> Engine {
    Engine::new(&recommended_folder(), &links(&["everyone wiki"])).unwrap()
}

#[test]
fn absurd_facts_neither_crash_nor_pass() {
    let long = "x".repeat(1_000_000);
    let list = vec!["y".repeat(1_024); 4_097];
    for value in [
        Value::Integer(i64::MAX),
        Value::Integer(i64::MIN),
        Value::Text(long),
        Value::Text("\u{0}\u{202e}\"; permit (principal, action, resource);".to_owned()),
        Value::Text(String::new()),
        Value::List(list),
        Value::List(Vec::new()),
    ] {
        for name in ["disk.encrypted", "agent.version", "screen.lock"] {
            let company = Company::new()
                .with("firewall.enabled", Value::Bool(true))
                .with("patch.age_days", Value::Integer(0))
                .with("screen.lock", Value::Bool(true))
                .with(name, value.clone());
            let decision = strict().decide_certify(&company.certify());
            assert!(!decision.allowed, "{name}");
            assert!(decision.to_string().len() < 20_000);
        }
    }
}

#[test]
fn the_oldest_fact_and_report_saturate() {
    let mut company = Company::new();
    company.report_age = Duration::MAX;
    company.posture.get_mut("disk.encrypted").unwrap().age_ms = u64::MAX;
    let condition = "context.device.posture has disk_encrypted && \
                     context.device.posture.disk_encrypted.age_s < 9223372036854775807";
    assert!(!connect(&permit_when(condition), &company).allowed);
}

#[test]
fn a_condition_that_nests_too_deeply_is_refused_and_does_not_overflow() {
    for deep in [
        format!("{}true{}", "(".repeat(3_000), ")".repeat(3_000)),
        format!("{}true", "if true then true else ".repeat(300)),
        vec!["context.time.hour == 1"; 3_000].join(" || "),
        format!("1{} == 3", " + 1".repeat(3_000)),
        format!("context{} == 3", "[\"a\"]".repeat(3_000)),
        format!("[1]{}", ".contains(1)".repeat(3_000)),
        format!("context{}", ".a(1, 2)".repeat(3_000)),
        format!("{}1{}", "context.a.b.c[".repeat(3_000), "]".repeat(3_000)),
    ] {
        let problems = try_engine(&permit_when(&deep)).unwrap_err();
        assert!(
            problems[0].message.contains("split the policy"),
            "{problems:?}"
        );
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        ".{0,40}".prop_map(Value::Text),
        prop::collection::vec(".{0,8}", 0..4).prop_map(Value::List),
    ]
}

fn reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        4 => value().prop_map(Reading::Value),
        1 => Just(Reading::Absent),
        1 => Just(Reading::Unsupported),
        1 => Just(Reading::Denied),
        1 => ".{0,20}".prop_map(Reading::Error),
    ]
}

fn odd_name() -> impl Strategy<Value = String> {
    let known: Vec<&'static str> = CATALOGUE.iter().map(|(name, _)| *name).collect();
    prop_oneof![
        3 => prop::sample::select(known).prop_map(str::to_owned),
        1 => ".{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_report_comes_to_a_decision_that_explains_itself(
        facts in prop::collection::btree_map(odd_name(), reading(), 0..12),
        age_ms in any::<u64>(),
        skew in any::<Option<i64>>(),
    ) {
        let mut company = Company::new();
        company.clock_skew_s = skew;
        company.posture = facts
            .into_iter()
            .map(|(name, reading)| (name, Fact { reading, grade: Grade::Own, age_ms }))
            .collect();
        let decision = strict().decide_certify(&company.certify());
        prop_assert_eq!(decision.errors.len(), 0);
        prop_assert!(decision.allowed == decision.checks.is_empty());
        let escape = char::from(27);
        prop_assert!(!decision.to_string().contains(escape));
    }
}
