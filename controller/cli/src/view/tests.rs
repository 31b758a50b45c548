//! What is the same for every kind of row.

use cardea_proto::{
    admin::{AdminQuery, Knocks, RelayRow, SiteRow, StatusView, Warning},
    id::ControllerId,
    ledger::Revision,
};

use super::*;

#[test]
fn an_answer_of_another_kind_is_no_list() {
    assert!(SiteRow::of(AdminAnswer::Devices(Vec::new())).is_none());
    assert_eq!(SiteRow::QUERY, AdminQuery::Sites);
}

#[test]
fn a_name_that_two_have_names_neither() {
    let rows = [site("a"), site("a")];
    // The id of a site is its name, so that the first is found by id.
    assert!(find(&rows, "a").is_ok());
    assert!(find(&rows, "b").is_err());
}

#[test]
fn cells_are_as_many_as_the_heading_has() {
    assert_eq!(site("a").cells().len(), SiteRow::HEADING.len());
}

#[test]
fn a_status_names_its_counts_and_ends_with_its_warnings() {
    let view = StatusView {
        domain: "corp.example".parse().unwrap(),
        controller: ControllerId::from_bytes([1; 10]),
        program: "0.1.0".to_owned(),
        addresses: vec!["a:1".to_owned(), "b:2".to_owned()],
        revision: Revision(5),
        policy_revision: Revision(2),
        started_at: "2026-01-01T00:00:00Z".to_owned(),
        store: "ok".to_owned(),
        devices: (3, 1),
        connectors: (2, 2),
        grants: 1,
        intermediate_not_after: "2026-02-01T00:00:00Z".to_owned(),
        simulated_posture: false,
        rollback: None,
        knocks: Knocks {
            opened: 7,
            unknown: 900,
            replayed: 1,
            ..Knocks::default()
        },
        relays: vec![
            RelayRow {
                addresses: vec!["192.0.2.1:7444".to_owned(), "[2001:db8::1]:7444".to_owned()],
                answers: true,
            },
            RelayRow {
                addresses: vec!["198.51.100.1:7444".to_owned()],
                answers: false,
            },
        ],
        warnings: vec![Warning {
            code: "root_online".to_owned(),
            title: "the root key is on this machine".to_owned(),
            fix: "Move it away".to_owned(),
        }],
    };
    let shown = printed(|console| status(&view, Format::Table, console));
    assert!(shown.contains("3 enrolled, 1 connected"), "{shown}");
    assert!(shown.trim_end().ends_with("Move it away"), "{shown}");
    let json = printed(|console| status(&view, Format::Json, console));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["devices"]["connected"], 1);
    assert_eq!(json["connectors"]["enrolled"], 2);
    assert_eq!(json["revision"], 5);
    assert!(
        shown.contains("7 opened, 901 unanswered (900 unknown, 1 replayed)"),
        "{shown}"
    );
    assert_eq!(json["knocks"]["replayed"], 1);
    assert!(shown.contains("198.51.100.1:7444 silent"), "{shown}");
    assert_eq!(json["relays"][0]["answers"], true);
}

fn site(name: &str) -> SiteRow {
    SiteRow {
        id: name.parse().unwrap(),
        name: name.parse().unwrap(),
        apps: 1,
        connectors: 1,
        connectors_online: 0,
    }
}

fn printed(print: impl FnOnce(&mut Console) -> Result<(), Failure>) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = file.reopen().unwrap();
    let mut console = Console::new(
        Box::new(out),
        Box::new(std::io::sink()),
        Box::new(std::io::empty()),
        false,
    );
    print(&mut console).unwrap();
    std::fs::read_to_string(file.path()).unwrap()
}
