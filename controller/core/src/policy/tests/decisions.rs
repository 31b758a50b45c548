//! What is allowed, what is not, and for which reason.

use super::*;

const WIKI: &str =
    r#"@id("w") permit (principal, action == Action::"connect", resource == App::"wiki");"#;

/// A forbid that overflows for every device that has been up for a second.
const FORBID_ERRS: &str = r#"@id("broken") forbid (principal, action == Action::"connect", resource)
when { !(context.device.posture has uptime_s &&
         context.device.posture.uptime_s.value + 9223372036854775807 >= 0) };"#;

fn check(text: &str, reason: Reason, rules: &[&str]) {
    let decision = connect(text, &Company::new());
    assert_eq!(decision.reason, reason, "{text}\n{decision}");
    assert_eq!(decision.allowed, reason == Reason::Permitted);
    assert_eq!(decision.rules, rules, "{text}");
}

#[test]
fn no_policy_means_no_access() {
    check("", Reason::NoRule, &[]);
    let engine = engine("");
    let decision = engine.decide_certify(&Company::new().certify());
    assert_eq!(decision.reason, Reason::NoRule);
}

#[test]
fn a_permit_allows_and_is_named() {
    check(WIKI, Reason::Permitted, &["w"]);
}

#[test]
fn a_rule_without_an_id_is_named_by_its_file_and_number() {
    let text = WIKI.replace("@id(\"w\")", "");
    check(&text, Reason::Permitted, &["test.cedar:policy0"]);
}

#[test]
fn a_permit_for_another_app_user_group_or_site_is_no_rule() {
    for scope in [
        r#"principal, action == Action::"connect", resource == App::"db""#,
        r#"principal, action == Action::"connect", resource in Site::"lab""#,
        r#"principal == User::"bob", action == Action::"connect", resource"#,
        r#"principal in Group::"ops", action == Action::"connect", resource"#,
        r#"principal is Workload, action == Action::"connect", resource"#,
        r#"principal == Workload::"alice@corp.example", action == Action::"connect", resource"#,
        r#"principal, action == Action::"certify", resource"#,
        r#"principal, action == Action::"request", resource"#,
    ] {
        check(&format!("permit ({scope});"), Reason::NoRule, &[]);
    }
}

#[test]
fn every_way_to_name_alice_and_the_wiki_applies() {
    for scope in [
        r#"principal, action, resource"#,
        r#"principal is User, action == Action::"connect", resource is App"#,
        r#"principal == User::"alice@corp.example", action in [Action::"connect"], resource"#,
        r#"principal in User::"alice@corp.example", action, resource in App::"wiki""#,
        r#"principal in Group::"staff", action in [Action::"connect", Action::"request"], resource in Site::"office""#,
        r#"principal is User in Group::"staff", action, resource is App in Site::"office""#,
    ] {
        check(
            &format!("@id(\"r\") permit ({scope});"),
            Reason::Permitted,
            &["r"],
        );
    }
}

#[test]
fn a_forbid_beats_every_permit() {
    let forbid = r#"@id("no") forbid (principal in Group::"staff", action, resource);"#;
    check(&format!("{WIKI}{forbid}"), Reason::Forbidden, &["no"]);
    let engine = engine(forbid)
        .with_links(&links(&["everyone wiki", "user:alice@corp.example wiki"]))
        .unwrap();
    let decision = engine.decide_connect(&Company::new().connect());
    assert_eq!(decision.reason, Reason::Forbidden);
}

#[test]
fn a_forbid_that_cannot_be_evaluated_denies() {
    check(
        &format!("{WIKI}{FORBID_ERRS}"),
        Reason::EvaluationError,
        &["broken"],
    );
}

#[test]
fn a_permit_that_cannot_be_evaluated_denies_even_beside_one_that_holds() {
    let permit = FORBID_ERRS.replace("forbid", "permit");
    check(&permit, Reason::EvaluationError, &["broken"]);
    check(
        &format!("{WIKI}{permit}"),
        Reason::EvaluationError,
        &["broken"],
    );
    let decision = connect(&permit, &Company::new());
    assert!(
        decision
            .errors
            .iter()
            .any(|error| error.starts_with("rule broken: "))
    );
}

#[test]
fn a_rule_about_an_entity_that_is_not_asked_about_cannot_be_evaluated_and_denies() {
    let text = format!(
        "{WIKI}@id(\"far\") forbid (principal, action == Action::\"connect\", resource) \
         when {{ App::\"db\".sensitivity == \"high\" }};"
    );
    check(&text, Reason::EvaluationError, &["far"]);
}

#[test]
fn a_missing_fact_denies_whatever_the_reason_it_is_missing() {
    let text = permit_when(
        "context.device.posture has firewall_enabled && context.device.posture.firewall_enabled.value",
    );
    let allowed = Company::new().with("firewall.enabled", Value::Bool(true));
    assert!(connect(&text, &allowed).allowed);
    for (reading, observed) in [
        (None, "absent"),
        (Some(Reading::Absent), "absent"),
        (Some(Reading::Unsupported), "unsupported"),
        (Some(Reading::Denied), "denied"),
        (Some(Reading::Error("timeout".to_owned())), "error"),
        (
            Some(Reading::Value(Value::Text("yes".to_owned()))),
            "not true or false",
        ),
        (Some(Reading::Value(Value::Integer(1))), "not true or false"),
    ] {
        let company = match reading {
            None => Company::new(),
            Some(reading) => Company::new().reading("firewall.enabled", reading),
        };
        let decision = connect(&text, &company);
        assert_eq!(decision.reason, Reason::CheckFailed);
        let checks: Vec<_> = decision
            .checks
            .iter()
            .map(|check| {
                (
                    check.subject.as_str(),
                    check.observed.as_str(),
                    check.needed.as_str(),
                )
            })
            .collect();
        assert_eq!(checks, [("firewall.enabled", observed, "true")]);
    }
}

#[test]
fn a_grade_and_an_age_can_be_needed() {
    let text = permit_when(
        "context.device.posture has disk_encrypted && context.device.posture.disk_encrypted.value && \
         context.device.posture.disk_encrypted.grade_rank >= 2 && \
         context.device.posture.disk_encrypted.age_s <= 120",
    );
    let mut company = Company::new();
    assert!(connect(&text, &company).allowed);
    company.report_age = Duration::from_secs(100);
    company.posture.get_mut("disk.encrypted").unwrap().age_ms = 21_000;
    assert_eq!(connect(&text, &company).reason, Reason::CheckFailed);
    company.report_age = Duration::ZERO;
    assert!(connect(&text, &company).allowed);
    for grade in [Grade::Simulated, Grade::Own] {
        company.posture.get_mut("disk.encrypted").unwrap().grade = grade;
        assert_eq!(connect(&text, &company).reason, Reason::CheckFailed);
    }
}

#[test]
fn what_a_device_says_about_its_own_clock_skew_is_ignored() {
    let text = permit_when(
        "context.device.posture has clock_skew_s && context.device.posture.clock_skew_s.value < 300",
    );
    let mut company = Company::new().with(CLOCK_SKEW, Value::Integer(0));
    company.clock_skew_s = None;
    assert_eq!(connect(&text, &company).reason, Reason::CheckFailed);
    company.clock_skew_s = Some(400);
    assert_eq!(connect(&text, &company).reason, Reason::CheckFailed);
    company.clock_skew_s = Some(-4);
    assert!(connect(&text, &company).allowed);
}

#[test]
fn everyday_rules_allow_whom_they_name() {
    for (link, allowed) in [
        ("user:alice@corp.example wiki", true),
        ("group:staff wiki", true),
        ("everyone wiki", true),
        ("user:bob@corp.example wiki", false),
        ("group:ops wiki", false),
        ("everyone db", false),
    ] {
        let engine = Engine::new(&[], &links(&[link])).unwrap();
        let decision = engine.decide_connect(&Company::new().connect());
        assert_eq!(decision.allowed, allowed, "{link}");
        if allowed {
            let id = format!("allow/{}", link.replace(' ', "/"));
            assert_eq!(decision.rules, [id]);
        }
    }
}

#[test]
fn everyday_rules_are_shown_as_cedar_that_decides_the_same() {
    let links = links(&[
        "user:alice@corp.example wiki",
        "group:staff db",
        "everyone mail",
    ]);
    let shown = Engine::new(&[], &links).unwrap().files();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].path, LINKS_FILE);
    let text = shown[0].text.replace("@id(\"allow/", "@id(\"shown/");
    let decision = connect(&text, &Company::new());
    assert_eq!(decision.rules, ["shown/user:alice@corp.example/wiki"]);
    for id in ["shown/group:staff/db", "shown/everyone/mail"] {
        assert!(text.contains(id), "{text}");
    }
}

#[test]
fn a_context_has_place_time_auth_labels_and_owner() {
    for condition in [
        r#"context.place has address && context.place.address.isInRange(ip("192.0.2.0/24"))"#,
        "context.time.weekday == 4 && context.time.hour == 9 && context.time.minute == 30",
        r#"context.auth.method == "device""#,
        r#"resource.labels.contains("env=prod") && resource.sensitivity == "normal""#,
        r#"context.device.name == "laptop" && context.device.os == "linux""#,
        r#"principal.name == "alice@corp.example" && resource.name == "wiki""#,
        "!(context has risk)",
        r#"context.device.posture has agent_version.number && context.device.posture.agent_version.number.minor == 1"#,
    ] {
        assert!(
            connect(&permit_when(condition), &Company::new()).allowed,
            "{condition}"
        );
    }
    let owner = r#"permit (principal, action == Action::"certify", resource == TrustDomain::"corp.example")
        when { principal.owner in Group::"staff" && principal.owner.name == "alice@corp.example" };"#;
    assert!(
        engine(owner)
            .decide_certify(&Company::new().certify())
            .allowed
    );
}

#[test]
fn a_device_can_be_named_by_its_id() {
    let company = Company::new();
    let id = company.facts().id;
    let text =
        format!("permit (principal == Device::\"{id}\", action == Action::\"certify\", resource);");
    assert!(engine(&text).decide_certify(&company.certify()).allowed);
}

#[test]
fn programs_that_rules_look_for_are_watched() {
    let text = permit_when(
        r#"context.device.posture has process_running &&
           (context.device.posture.process_running.value.contains("falcon-sensor") ||
            context.device.posture.process_running.value.containsAny(["auditd", "osqueryd"]))"#,
    );
    let watched: Vec<_> = engine(&text).watched_processes().iter().cloned().collect();
    assert_eq!(watched, ["auditd", "falcon-sensor", "osqueryd"]);
    let running = Value::List(vec!["auditd".to_owned()]);
    assert!(connect(&text, &Company::new().with("process.running", running)).allowed);
}

#[test]
fn a_decision_names_the_commit_of_its_policy() {
    let engine = engine(WIKI).at(cardea_proto::ledger::Revision(41));
    let decision = engine.decide_connect(&Company::new().connect());
    assert_eq!(decision.policy_revision, engine.revision());
}

#[test]
fn a_diff_shows_only_what_changes_and_counts_a_lost_certificate_as_lost_access() {
    let certify = r#"permit (principal, action == Action::"certify", resource);"#;
    let strict = r#"@id("strict") permit (principal, action == Action::"certify", resource)
        when { context.posture has secure_boot && context.posture.secure_boot.value };"#;
    let before = engine(&format!("{certify}{WIKI}"));
    let after = engine(&format!("{strict}{WIKI}"));
    let company = Company::new();
    let good = Company::new().with("secure.boot", Value::Bool(true));
    let subject = |company: &'static Company| Subject {
        certify: company.certify(),
        connects: vec![company.connect()],
    };
    let subjects = [Box::leak(Box::new(company)), Box::leak(Box::new(good))];
    let effects = diff(&before, &after, subjects.into_iter().map(|c| subject(c)));
    let shown: Vec<_> = effects
        .iter()
        .map(|effect| {
            (
                effect.action.as_str(),
                effect.app.as_deref(),
                effect.before,
                effect.after,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("certify", None, true, false),
            ("connect", Some("wiki"), true, false)
        ]
    );
    assert!(
        effects[1].why.contains("secure.boot is absent"),
        "{}",
        effects[1].why
    );
    assert!(diff(&before, &before, []).is_empty());
}
