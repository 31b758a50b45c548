//! The whole of it, on this machine and on none.

use std::collections::BTreeSet;

use super::*;

#[test]
fn every_fact_is_reported_once_whatever_the_machine() {
    let expected: BTreeSet<&str> = PROBES
        .iter()
        .flat_map(|probe| probe.facts)
        .copied()
        .collect();
    let empty = tempfile::tempdir().unwrap();
    for root in [PathBuf::from("/"), empty.path().to_owned()] {
        let mut settings = Settings::new("/var/lib/cardea/cardea");
        settings.root = root;
        let facts = Posture::new(settings).collect();
        let names: Vec<&str> = facts.iter().map(|fact| fact.name.as_str()).collect();
        assert!(names.is_sorted());
        assert!(
            names.iter().copied().eq(expected.iter().copied()),
            "{names:?}"
        );
    }
}

#[test]
fn this_machine_tells_its_own_name_with_our_grade() {
    let facts = Posture::new(Settings::new("/tmp")).collect();
    let name = facts.iter().find(|fact| fact.name == "os.name").unwrap();
    assert!(
        matches!(name.reading, Reading::Value(Value::Text(_))),
        "{name:?}"
    );
    assert!([Grade::Os, Grade::Own].contains(&name.grade));
}

#[test]
fn no_value_is_larger_than_a_report_may_carry() {
    for fact in Posture::new(Settings::new("/tmp")).collect() {
        match fact.reading {
            Reading::Value(Value::Text(text)) | Reading::Error(text) => {
                assert!(text.len() <= FACT_TEXT_BYTES_MAX);
            }
            Reading::Value(Value::List(list)) => assert!(list.len() <= FACT_LIST_MAX),
            Reading::Value(Value::Bool(_) | Value::Integer(_))
            | Reading::Absent
            | Reading::Unsupported
            | Reading::Denied => {}
        }
    }
}

#[test]
fn a_fact_that_is_too_large_is_an_error_and_takes_no_other_with_it() {
    let long = "x".repeat(FACT_TEXT_BYTES_MAX + 1);
    for value in [
        Value::Text(long.clone()),
        Value::List(vec![long.clone()]),
        Value::List(vec![String::new(); FACT_LIST_MAX + 1]),
    ] {
        assert!(matches!(bounded(Reading::Value(value)), Reading::Error(_)));
    }
    let Reading::Error(why) = bounded(Reading::Error(long)) else {
        panic!("no error");
    };
    assert_eq!(why.len(), ERROR_CHARACTERS_MAX);
    let value = Reading::Value(Value::Text("y".repeat(FACT_TEXT_BYTES_MAX)));
    assert_eq!(bounded(value.clone()), value);
}

#[test]
fn a_probe_lowers_the_grade_of_its_fact_and_never_raises_it() {
    let mut posture = Posture::new(Settings::new("/tmp"));
    for (ours, at_most, expected) in [
        (Grade::Os, Grade::Os, Grade::Os),
        (Grade::Os, Grade::Own, Grade::Own),
        (Grade::Own, Grade::Os, Grade::Own),
        (Grade::Simulated, Grade::Own, Grade::Simulated),
    ] {
        posture.grade = ours;
        let observed = Observed {
            name: "screen.lock",
            reading: Reading::Absent,
            at_most,
        };
        let now = Clock::system().now().instant;
        assert_eq!(posture.collected(&observed, now).grade, expected);
    }
}

#[test]
fn a_tree_made_for_a_test_is_no_evidence() {
    let empty = tempfile::tempdir().unwrap();
    let mut settings = Settings::new("/tmp");
    settings.root = empty.path().to_owned();
    let facts = Posture::new(settings).collect();
    assert!(facts.iter().all(|fact| fact.grade == Grade::Simulated));
}

#[test]
fn a_facts_file_stands_before_what_is_read() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("facts.json");
    std::fs::write(&file, "{\"os.name\": \"plan9\", \"mine\": 7}").unwrap();
    let mut settings = Settings::new("/tmp");
    settings.facts_from = Some(file.clone());
    let mut posture = Posture::new(settings);
    let facts = posture.collect();
    let find =
        |facts: &[Collected], name: &str| facts.iter().find(|fact| fact.name == name).cloned();
    let name = find(&facts, "os.name").unwrap();
    assert_eq!(
        name.reading,
        Reading::Value(Value::Text("plan9".to_owned()))
    );
    assert_eq!(name.grade, Grade::Simulated);
    assert_eq!(
        find(&facts, "mine").unwrap().reading,
        Reading::Value(Value::Integer(7))
    );
    let build = find(&facts, "os.build").unwrap();
    assert_ne!(build.grade, Grade::Simulated);

    std::fs::remove_file(&file).unwrap();
    let facts = posture.collect();
    assert!(
        facts
            .iter()
            .all(|fact| matches!(fact.reading, Reading::Error(_)))
    );
}

#[test]
fn a_probe_that_hangs_is_an_error_and_is_not_started_again() {
    let place = tempfile::tempdir().unwrap();
    let tool = place.path().join("usr/sbin/nft");
    std::fs::create_dir_all(tool.parent().unwrap()).unwrap();
    std::fs::write(&tool, "#!/bin/sh\nexec sleep 3\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&tool, mode).unwrap();
    let mut settings = Settings::new("/tmp");
    settings.root = place.path().to_owned();
    settings.probe_timeout = Duration::from_secs(1);
    let mut posture = Posture::new(settings);
    for _ in 0..2 {
        let facts = posture.collect();
        let firewall = facts
            .iter()
            .find(|fact| fact.name == "firewall.enabled")
            .unwrap();
        assert_eq!(
            firewall.reading,
            Reading::Error(readings::TOO_LONG.to_owned())
        );
        let uptime = facts.iter().find(|fact| fact.name == "uptime_s").unwrap();
        assert_eq!(uptime.reading, Reading::Absent);
    }
}

#[test]
fn root_of_a_test_tree_is_not_root_of_a_machine() {
    let place = tempfile::tempdir().unwrap();
    let system = System::new(place.path().to_owned(), Clock::system());
    assert_eq!(grade(&system), Grade::Simulated);
}
