//! What a denial says: the texts of the product contract, and each shape of condition.

use super::*;

/// The first failed check of a permit with this condition, in words.
fn check(condition: &str, company: &Company, expected: &str) {
    let decision = connect(&permit_when(condition), company);
    assert_eq!(
        decision.reason,
        Reason::CheckFailed,
        "{condition}\n{decision}"
    );
    assert_eq!(decision.rules, ["one"]);
    let said: Vec<String> = decision
        .checks
        .iter()
        .map(|check| {
            format!(
                "{} is {}, not {}",
                check.subject, check.observed, check.needed
            )
        })
        .collect();
    assert_eq!(said.join("; "), expected, "{condition}");
}

#[test]
fn a_failing_posture_reads_as_the_product_contract_says() {
    let engine = Engine::new(&recommended_folder(), &links(&["group:staff wiki"])).unwrap();
    let company = Company::new()
        .with("disk.encrypted", Value::Bool(false))
        .with("firewall.enabled", Value::Bool(true))
        .with("patch.age_days", Value::Integer(2))
        .with("screen.lock", Value::Bool(true));
    let certify = engine.decide_certify(&company.certify());
    assert!(!certify.allowed);
    assert_eq!(
        not_compliant(&company.connect(), &certify).summary(),
        "wiki: denied: disk.encrypted is false on this device (needed: true, rule base/certify). \
         Turn on disk encryption, then: cardea posture"
    );
    let mended = company.with("disk.encrypted", Value::Bool(true));
    assert!(engine.decide_certify(&mended.certify()).allowed);
    assert!(engine.decide_connect(&mended.connect()).allowed);
}

#[test]
fn a_denial_without_a_rule_says_who_could_change_that() {
    assert_eq!(
        connect("", &Company::new()).summary(),
        "wiki: denied: no rule permits alice@corp.example on app wiki. Ask an admin to run: \
         cardeactl allow user:alice@corp.example wiki"
    );
}

/// The words for a person when `certify` denies for a reason that no check can say.
#[test]
fn a_failed_appraisal_without_a_check_says_why_there_is_no_certificate() {
    let connect = r#"permit (principal, action == Action::"connect", resource);"#;
    let certify = r#"permit (principal, action == Action::"certify", resource);"#;
    let overflow = r#"@id("broken") permit (principal, action == Action::"certify", resource)
        when { 9223372036854775807 + context.time.hour > 0 };"#;
    let closed = r#"@id("closed") forbid (principal, action == Action::"certify", resource);"#;
    for (folder, why) in [
        (
            connect.to_owned(),
            "no rule permits one. Ask an admin for a rule that permits it: cardeactl policy show",
        ),
        (
            format!("{connect}{certify}{closed}"),
            "forbidden by rule closed. Ask an admin what the rule is for: cardeactl policy show",
        ),
        (
            format!("{connect}{overflow}"),
            "a rule could not be evaluated (rule broken: ",
        ),
    ] {
        let engine = engine(&folder);
        let company = Company::new();
        let certify = engine.decide_certify(&company.certify());
        let said = not_compliant(&company.connect(), &certify).summary();
        let expected = format!("wiki: denied: this device may not hold a certificate: {why}");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.contains("cardeactl policy show"), "{said}");
    }
}

/// A condition, with P for the posture, and what its failing check says.
const COMPARISONS: &[(&str, &str)] = &[
    (
        "P has patch_age_days && P.patch_age_days.value <= 30",
        "patch.age_days is 40, not <= 30",
    ),
    (
        "P has patch_age_days && 30 >= P.patch_age_days.value",
        "patch.age_days is 40, not <= 30",
    ),
    (
        "P has patch_age_days && !(P.patch_age_days.value > 30)",
        "patch.age_days is 40, not <= 30",
    ),
    (
        "P has patch_age_days && P.patch_age_days.value == -1",
        "patch.age_days is 40, not -1",
    ),
    (
        "P has os_name && P.os_name.value == \"arch\"",
        "os.name is debian, not arch",
    ),
    (
        "P has os_name && P.os_name.value != \"debian\"",
        "os.name is debian, not not debian",
    ),
    (
        "P has os_name && [\"arch\", \"nixos\"].contains(P.os_name.value)",
        "os.name is debian, not one of arch, nixos",
    ),
    (
        "P has os_name && (P.os_name.value == \"arch\" || P.os_name.value == \"nixos\")",
        "os.name is debian, not arch or nixos",
    ),
    (
        "P has os_name && P.os_name.value like \"a*\"",
        "os.name is debian, not like a*",
    ),
    (
        "P has process_running && P.process_running.value.contains(\"auditd\")",
        "process.running is [sshd], not containing auditd",
    ),
    (
        "P has process_running && !P.process_running.value.contains(\"sshd\")",
        "process.running is [sshd], not not containing sshd",
    ),
    (
        "P has process_running && P.process_running.value.containsAll([\"a\", \"b\"])",
        "process.running is [sshd], not containing all of a, b",
    ),
    (
        "P has disk_encrypted && P.disk_encrypted.value == false",
        "disk.encrypted is true, not false",
    ),
    (
        "P has disk_encrypted && P.disk_encrypted.grade_rank >= 4",
        "disk.encrypted is grade os, not grade hardware",
    ),
    (
        "P has disk_encrypted && P.disk_encrypted.grade_rank > 2",
        "disk.encrypted is grade os, not grade mdm or better",
    ),
    (
        "P has disk_encrypted && P.disk_encrypted.grade == \"mdm\"",
        "disk.encrypted is grade os, not grade mdm",
    ),
    (
        "P has disk_encrypted && P.disk_encrypted.age_s < 0",
        "disk.encrypted is read 0 s ago, not read < 0 s ago",
    ),
    (
        "P has agent_version.number && P.agent_version.number.major >= 1",
        "agent.version is 0.1.0, not major >= 1",
    ),
    ("P has secure_boot", "secure.boot is absent, not present"),
    (
        "!(P has disk_encrypted)",
        "disk.encrypted is true, not absent",
    ),
    (
        "P has secure_boot && P.secure_boot.value && P.secure_boot.grade_rank >= 2",
        "secure.boot is absent, not true",
    ),
];

#[test]
fn comparisons_are_said_as_they_are_needed() {
    let company = Company::new()
        .with("patch.age_days", Value::Integer(40))
        .with("os.name", Value::Text("debian".to_owned()))
        .with("process.running", Value::List(vec!["sshd".to_owned()]));
    let posture = "context.device.posture";
    for (condition, expected) in COMPARISONS {
        check(&condition.replace("P", posture), &company, expected);
    }
}

#[test]
fn the_request_around_the_device_is_said_too() {
    let company = Company::new();
    for (condition, expected) in [
        (
            "context.time.hour >= 18",
            "context.time.hour is 9, not >= 18",
        ),
        (
            r#"context.place has address && context.place.address.isInRange(ip("10.0.0.0/8"))"#,
            "context.place.address is 192.0.2.7, not in 10.0.0.0/8",
        ),
        (
            r#"resource.labels.contains("env=dev")"#,
            "resource.labels is [env=prod], not containing env=dev",
        ),
        (
            r#"principal in Group::"ops""#,
            "principal is alice@corp.example in [staff], not in Group::\"ops\"",
        ),
        (
            "context has risk && context.risk < 50",
            "context.risk is absent, not < 50",
        ),
        (
            r#"context.device.os == "macos""#,
            "context.device.os is linux, not macos",
        ),
    ] {
        check(condition, &company, expected);
    }
}

#[test]
fn a_condition_of_another_shape_is_shown_as_it_stands() {
    let decision = connect(
        &permit_when("if context.time.hour > 20 then true else context.time.hour < 5"),
        &Company::new(),
    );
    let check = &decision.checks[0];
    assert!(check.subject.contains("context.time.hour"), "{check}");
    assert_eq!(
        (check.observed.as_str(), check.needed.as_str()),
        ("false", "true")
    );
}

/// A decision is recorded, sent and read again and again, and a device may report what it likes.
#[test]
fn a_long_value_is_quoted_by_its_beginning() {
    let text = permit_when(
        "context.device.posture has process_running && \
         context.device.posture.process_running.value.contains(\"edr\")",
    );
    let programs = (0..4_000).map(|number| format!("program-{number}"));
    let company = Company::new().with("process.running", Value::List(programs.collect()));
    let check = &connect(&text, &company).checks[0];
    assert!(check.observed.contains("program-1"), "{check}");
    assert!(check.observed.chars().count() <= 201, "{check}");
}

#[test]
fn a_forbid_unless_says_what_it_needs() {
    let text = r#"permit (principal, action, resource);
        @id("posture/boot") @remedy("Turn on secure boot")
        forbid (principal, action == Action::"connect", resource)
        unless { context.device.posture has secure_boot && context.device.posture.secure_boot.value };"#;
    let company = Company::new().with("secure.boot", Value::Bool(false));
    assert_eq!(
        connect(text, &company).summary(),
        "wiki: denied: forbidden: secure.boot is false on this device (needed: true, rule \
         posture/boot). Turn on secure boot, then: cardea posture"
    );
    assert_eq!(connect(text, &Company::new()).checks[0].observed, "absent");
}

#[test]
fn a_forbid_when_says_what_should_not_be() {
    let text = r#"permit (principal, action, resource);
        @id("no/night") @remedy("Come back tomorrow.")
        forbid (principal, action == Action::"connect", resource)
        when { !(context.device.posture has virtual_machine && !context.device.posture.virtual_machine.value) }
        when { context.time.hour < 12 };"#;
    let company = Company::new().with("virtual.machine", Value::Bool(true));
    let decision = connect(text, &company);
    let said: Vec<_> = decision.checks.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "virtual.machine is true (needed: present and false, rule no/night): Come back tomorrow.",
            "context.time.hour is 9 (needed: >= 12, rule no/night): Come back tomorrow.",
        ]
    );
    assert_eq!(
        decision.remedy.as_deref(),
        Some("Come back tomorrow, then: cardea posture")
    );
}

#[test]
fn a_forbid_without_conditions_names_itself_and_its_remedy() {
    let text = r#"@id("closed") @remedy("The wiki moved to docs.corp.example")
        forbid (principal, action, resource == App::"wiki");"#;
    assert_eq!(
        connect(text, &Company::new()).summary(),
        "wiki: denied: forbidden by rule closed. The wiki moved to docs.corp.example."
    );
}

#[test]
fn of_several_permits_the_one_that_came_nearest_is_explained() {
    let far = r#"@id("a/far") permit (principal, action == Action::"connect", resource)
        when { context.time.hour > 20 && context.device.posture has tpm_present };"#;
    let near = r#"@id("b/near") permit (principal, action == Action::"connect", resource)
        when { context.device.posture has disk_encrypted && context.device.posture has tpm_present };"#;
    let decision = connect(&format!("{far}{near}"), &Company::new());
    assert_eq!(decision.rules, ["b/near"]);
    assert_eq!(decision.checks.len(), 1);
}

#[test]
fn texts_of_a_device_are_escaped_in_explanations() {
    let company = Company::new().with("os.name", Value::Text("\u{1b}[31m\n".to_owned()));
    let condition =
        "context.device.posture has os_name && context.device.posture.os_name.value == \"a\"";
    let shown = connect(&permit_when(condition), &company).to_string();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}
