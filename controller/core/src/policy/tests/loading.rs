//! What is wrong with a folder is said with its place.

use super::*;

fn check(files: &[PolicyFile], path: &str, line: Option<u32>, says: &[&str]) {
    let problems = Engine::new(files, &BTreeSet::new()).unwrap_err();
    let found = problems.iter().find(|problem| {
        problem.path == path && says.iter().all(|said| problem.message.contains(said))
    });
    let found = found.unwrap_or_else(|| panic!("{says:?} is not among {problems:#?}"));
    assert_eq!(found.line, line, "{found:?}");
    assert!(!found.message.contains('\n'), "{found:?}");
}

#[test]
fn bad_policies_are_refused_with_their_line_and_what_is_wrong() {
    for (text, line, says) in [
        (
            "permit (principal, action, resource)",
            Some(1),
            "unexpected end of input",
        ),
        (
            "\n\npermit (principal, action, resource) whenever { true };",
            Some(3),
            "whenever",
        ),
        (
            "// fine\npermit (principal, action == Action::\"open\", resource);",
            Some(2),
            "open",
        ),
        (
            "permit (principal == Person::\"a\", action, resource);",
            Some(1),
            "Person",
        ),
        (
            "permit (principal, action == Action::\"connect\", resource)\nwhen {\n  \
             context.device.posture.disk_encrypted.value };",
            Some(3),
            "disk_encrypted",
        ),
        (
            "permit (principal, action == Action::\"connect\", resource)\nwhen { \
             context.device.posture has disk_encrypted &&\n \
             context.device.posture.disk_encrypted.value == \"yes\" };",
            Some(3),
            "",
        ),
        (
            "permit (principal, action == Action::\"certify\", resource) when { \
             context.posture has disk_encryptd && context.posture.disk_encryptd.value };",
            Some(1),
            "no fact disk_encryptd, did you mean disk_encrypted?",
        ),
        (
            "permit (principal, action, resource);\nforbid (principal, action, resource)\n\
             when { action == Action::\"connect\" && action == Action::\"certify\" };",
            Some(2),
            "impossible",
        ),
        (
            "forbid (principal, action == Action::\"certify\", resource)\nunless { \
             context.posture has disk_encryptd && context.posture.disk_encryptd.value };",
            Some(2),
            "no fact disk_encryptd, did you mean disk_encrypted?",
        ),
        (
            "permit (principal == ?principal, action, resource);",
            None,
            "template",
        ),
        (
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);",
            Some(2),
            "taken",
        ),
        (
            "@id(\"allow/mine\") permit (principal, action, resource);",
            Some(1),
            "allow/",
        ),
    ] {
        check(&[file("x.cedar", text)], "x.cedar", line, &[says]);
    }
}

#[test]
fn an_id_that_another_file_has_is_refused_with_that_file() {
    let text = "@id(\"a\") permit (principal, action, resource);";
    let files = [file("one.cedar", text), file("two.cedar", text)];
    check(&files, "two.cedar", Some(1), &["taken", "one.cedar"]);
}

#[test]
fn files_that_are_no_part_of_a_folder_are_refused() {
    for (path, says) in [
        ("../x.cedar", "path"),
        ("/x.cedar", "path"),
        ("a//x.cedar", "path"),
        ("x.txt", "*.cedar"),
        ("links.cedar", "cardeactl allow"),
    ] {
        check(&[file(path, "")], path, None, &[says]);
    }
    check(
        &[file("x.cedar", ""), file("x.cedar", "")],
        "x.cedar",
        None,
        &["twice"],
    );
    let large = " ".repeat(cardea_proto::policy::POLICY_FILE_BYTES_MAX + 1);
    check(&[file("x.cedar", &large)], "x.cedar", None, &["larger"]);
}

#[test]
fn tests_that_cannot_be_understood_are_refused_with_their_line() {
    let head =
        "[given.devices.laptop]\nuser = \"alice\"\n[given.apps.wiki]\n[[test]]\nname = \"t\"\n";
    for (tail, line, says) in [
        (
            "ask = { certify = \"laptop\" }\nexpect = { allow = true }",
            Some(7),
            "allow",
        ),
        (
            "ask = { certify = \"desktop\" }\nexpect = { allowed = true }",
            Some(5),
            "desktop",
        ),
        (
            "ask = { connect = \"db\", device = \"laptop\" }\nexpect = { allowed = true }",
            Some(5),
            "apps.db",
        ),
        (
            "ask = { connect = \"wiki\" }\nexpect = { allowed = true }",
            Some(5),
            "ask is",
        ),
        (
            "ask = { certify = \"laptop\" }\nexpect = { allowed = true }\n\
             given.devices.laptop.posture = { \"disk.encryptd\" = true }",
            Some(5),
            "disk.encryptd",
        ),
        (
            "ask = { certify = \"laptop\" }\nexpect = { allowed = true }\n\
             given.devices.laptop.posture = { \"clock.skew_s\" = 3 }",
            Some(5),
            "clock_skew_s",
        ),
        (
            "ask = { certify = \"laptop\" }\nexpect = { allowed = true }\ngiven.allow = [\"staff wiki\"]",
            Some(5),
            "group:staff wiki",
        ),
        ("ask = ", Some(6), ""),
    ] {
        check(
            &[file("x.test.toml", &format!("{head}{tail}\n"))],
            "x.test.toml",
            line,
            &[says],
        );
    }
}

#[test]
fn a_test_that_fails_says_what_was_decided() {
    let mut files = default_folder();
    let test = files
        .iter_mut()
        .find(|file| file.path.ends_with(".toml"))
        .unwrap();
    test.text = test.text.replacen(
        "allowed = true",
        "allowed = false, reason = \"forbidden\"",
        1,
    );
    let results = Engine::new(&files, &BTreeSet::new()).unwrap().run_tests();
    let failed: Vec<_> = results.iter().filter(|result| !result.passed).collect();
    assert_eq!(failed.len(), 1);
    let detail = failed[0].detail.as_deref().unwrap();
    assert!(
        detail.contains("expected allowed false, reason forbidden; decided: "),
        "{detail}"
    );
    assert!(
        detail.contains("allowed for laptop by rule base/certify"),
        "{detail}"
    );
    assert!(
        detail.ends_with("(reason permitted, rules base/certify, checks none)"),
        "{detail}"
    );
}

#[test]
fn the_example_in_the_documentation_of_tests_is_a_test() {
    let source = include_str!("../scenario.rs");
    let inside = source.split("```").nth(1).unwrap();
    let text: String = inside
        .lines()
        .skip(1)
        .map(|line| line.trim_start_matches("//!").trim_start().to_owned() + "\n")
        .collect();
    let mut files = default_folder();
    let strict = "@id(\"disk\") permit (principal, action == Action::\"certify\", resource) when { \
                  context.posture has disk_encrypted && context.posture.disk_encrypted.value };";
    files = vec![
        files.swap_remove(1),
        file("disk.cedar", strict),
        file("doc.test.toml", &text),
    ];
    files.remove(0);
    let results = Engine::new(&files, &BTreeSet::new()).unwrap().run_tests();
    assert_eq!(results.len(), 2);
    for result in results {
        assert!(result.passed, "{result:?}");
    }
}

#[test]
fn the_catalogue_and_the_schema_name_the_same_facts_of_the_same_kinds() {
    let inside = SCHEMA.split("type Posture = {").nth(1).unwrap();
    let inside = inside.split("};").next().unwrap();
    let in_schema: BTreeMap<String, String> = inside
        .lines()
        .filter_map(|line| line.trim().trim_end_matches(',').split_once("?: "))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let ours: BTreeMap<String, String> = known()
        .iter()
        .map(|fact| (fact.attribute.clone(), format!("{:?}Fact", fact.kind)))
        .collect();
    assert_eq!(in_schema, ours);
    assert_eq!(known().len(), CATALOGUE.len());
}
