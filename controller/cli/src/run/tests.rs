//! Whole command lines against a controller that says what a test wants.

use std::os::unix::{fs::PermissionsExt, net::UnixListener};

use cardea_credential::key::digest;
use cardea_host::frame;
use cardea_proto::{
    admin::AdminRequest,
    invite::InviteCode,
    ledger::{Admits, Revision},
    policy::{PolicyEffect, PolicyProblem},
    refusal::{Refusal, RefusalCode},
};

use super::*;

use world::{World, device, device_id, done, entry, grant, outcome, policies};

mod world;

#[test]
fn a_list_is_a_table_or_an_array() {
    let world = World::new(|_| AdminAnswer::Devices(vec![device("laptop", 1)]));
    let shown = world.run("device ls", "");
    assert_eq!(shown.code, 0, "{}", shown.talk);
    assert!(shown.data.starts_with("NAME    ID  "), "{}", shown.data);
    assert!(shown.data.contains("fails: disk.encrypted"));

    let json: serde_json::Value =
        serde_json::from_str(&world.run("device ls -o json", "").data).unwrap();
    assert_eq!(json[0]["name"], "laptop");
    assert!(json[0]["id"].as_str().unwrap().starts_with("dev_"));
    assert_eq!(json[0]["facts"]["disk.encrypted"]["grade"], "os");
    let yaml = world.run("device ls -o yaml", "").data;
    assert!(yaml.contains("name: laptop"), "{yaml}");
}

#[test]
fn an_empty_list_is_said_and_not_printed() {
    let world = World::new(|_| AdminAnswer::Devices(Vec::new()));
    let shown = world.run("device ls", "");
    assert_eq!(
        (shown.data.as_str(), shown.talk.as_str()),
        ("", "no devices\n")
    );
    assert_eq!(world.run("device ls -o json", "").data, "[]\n");
}

#[test]
fn names_work_where_ids_do_and_an_unknown_one_is_almost_known() {
    let world = World::new(|_| AdminAnswer::Devices(vec![device("laptop", 1), device("pc", 2)]));
    for wanted in ["laptop", &device_id(1).to_string()] {
        let shown = world.run(&format!("device show {wanted}"), "");
        assert!(
            shown.data.contains("Name:               laptop"),
            "{}",
            shown.data
        );
        assert!(
            shown.data.contains("disk.encrypted = false (os, 2 s old"),
            "{}",
            shown.data
        );
    }
    let unknown = world.run("device show labtop", "");
    assert_eq!(unknown.code, 1);
    assert_eq!(
        unknown.talk,
        "no device \"labtop\"; did you mean laptop? List them with: cardeactl device ls\n"
    );
}

#[test]
fn every_change_is_signed_for_this_connection() {
    let world = World::new(|_| done("site office added", 0));
    let shown = world.run("site add office", "");
    assert_eq!(shown.talk, "site office added (revision 9)\n");
    assert_eq!(shown.data, "");
    assert_eq!(
        world.changes(),
        [AdminChange::SiteAdd("office".parse().unwrap())]
    );
    let json: serde_json::Value =
        serde_json::from_str(&world.run("site add b -o json", "").data).unwrap();
    assert_eq!(json["revision"], 9);
}

#[test]
fn an_invite_prints_its_code_alone_and_sends_only_its_hash() {
    let world = World::new(|_| done("invite made", 0));
    let shown = world.run("invite device --user alice --group staff --expires 15m", "");
    let code: InviteCode = shown.data.trim().parse().unwrap();
    assert_eq!(shown.data.lines().count(), 1);
    assert_eq!(code.addresses, ["ztna.corp.example:7443"]);
    let [
        AdminChange::InviteCreate {
            secret_hash,
            admits,
            life_s,
            ..
        },
    ] = &world.changes()[..]
    else {
        panic!("another change");
    };
    assert_eq!(*secret_hash, digest(&code.secret.0));
    assert_eq!(*life_s, 900);
    let Admits::Device { user, groups } = admits else {
        panic!("another invite");
    };
    assert_eq!((user.as_str(), groups.len()), ("alice", 1));
}

#[test]
fn what_closes_tunnels_says_how_many_and_asks() {
    let answer = |request: &AdminRequest| match request {
        AdminRequest::Query(_) => AdminAnswer::Impact { closes: 14 },
        AdminRequest::Change(_) => done("device laptop blocked", 14),
    };
    let world = World::new(answer);
    let refused = world.run("device block laptop", "");
    assert_eq!(refused.code, 1);
    assert!(
        refused.talk.contains("this closes 14 tunnels"),
        "{}",
        refused.talk
    );
    assert!(refused.talk.contains("--yes"));
    let no = world.run_at_terminal("device block laptop", "n\n");
    assert_eq!(no.code, 1);
    assert!(world.changes().is_empty());

    let yes = world.run_at_terminal("device block laptop", "y\n");
    assert_eq!(yes.code, 0);
    assert!(yes.talk.ends_with("closed 14 tunnels)\n"), "{}", yes.talk);
    assert_eq!(world.run("device block laptop --yes", "").code, 0);
    assert_eq!(world.changes().len(), 2);
}

#[test]
fn what_closes_nothing_does_not_ask() {
    let world = World::new(|request| match request {
        AdminRequest::Query(_) => AdminAnswer::Impact { closes: 0 },
        AdminRequest::Change(_) => done("done", 0),
    });
    for line in [
        "device block laptop",
        "device rm laptop",
        "connector rm rack",
        "app rm wiki",
        "app set wiki --transport quic",
        "user set alice --no-groups",
        "disallow group:staff wiki",
        "grant revoke grt_aebagbafaydqqcik",
    ] {
        assert_eq!(world.run(line, "").code, 0, "{line}");
    }
    assert_eq!(world.changes().len(), 8);
}

#[test]
fn a_patch_holds_what_was_given_and_nothing_else() {
    let world = World::new(|request| match request {
        AdminRequest::Query(_) => AdminAnswer::Impact { closes: 0 },
        AdminRequest::Change(_) => done("done", 0),
    });
    world.run(
        "app set wiki --label env=prod --no-host-scoped --no-names",
        "",
    );
    let [AdminChange::AppSet { patch, .. }] = &world.changes()[..] else {
        panic!("another change");
    };
    assert_eq!(patch.targets, None);
    assert_eq!(patch.transport, None);
    assert_eq!(patch.names, Some(Vec::new()));
    assert_eq!(patch.labels.as_ref().unwrap()["env"], "prod");
    assert_eq!(patch.host_scoped, Some(false));
}

#[test]
fn a_grant_is_revoked_by_its_name_too() {
    let world = World::new(|request| match request {
        AdminRequest::Query(AdminQuery::Grants) => AdminAnswer::Grants(vec![grant()]),
        AdminRequest::Query(_) => AdminAnswer::Impact { closes: 1 },
        AdminRequest::Change(_) => done("revoked", 1),
    });
    let words = ["grant", "revoke", "wiki for alice", "--yes"];
    assert_eq!(world.run_words(&words, "", false).code, 0);
    assert_eq!(world.changes(), [AdminChange::GrantRevoke(grant().id)]);
    let json: serde_json::Value =
        serde_json::from_str(&world.run("grant ls -o json", "").data).unwrap();
    assert_eq!(json[0]["carrier"], "wireguard");
}

#[test]
fn a_refusal_keeps_its_text_and_exit_code() {
    for (code, exit) in [
        (RefusalCode::Unauthorized, 1),
        (RefusalCode::NotPermitted, 3),
        (RefusalCode::StorageFull, 7),
    ] {
        let refusal = Refusal::new(code, "no").with_next("Do this");
        let world = World::new(move |_| AdminAnswer::Refused(refusal.clone()));
        let shown = world.run("site add office", "");
        assert_eq!((shown.code, shown.talk.as_str()), (exit, "no. Do this\n"));
    }
}

#[test]
fn a_controller_that_is_not_there_is_not_reachable() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("admin.sock");
    let line = format!("status --admin unix:{}", socket.display());
    let shown = outcome(&line.split(' ').collect::<Vec<_>>(), "", false);
    assert_eq!(shown.code, 5);
    assert!(shown.talk.contains("no such socket"), "{}", shown.talk);
    drop(UnixListener::bind(&socket).unwrap());
    let shown = outcome(&line.split(' ').collect::<Vec<_>>(), "", false);
    assert_eq!(shown.code, 5);
    assert!(shown.talk.contains("nobody answers"), "{}", shown.talk);
}

#[test]
fn who_may_not_administer_is_told_so_instead_of_greeted() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let refusal = Refusal::new(RefusalCode::Unauthorized, "only root may administer");
        frame::write_sync(&mut stream, &AdminAnswer::Refused(refusal)).unwrap();
    });
    let admin = format!("unix:{}", socket.display());
    let shown = outcome(&["status", "--admin", &admin], "", false);
    assert_eq!(
        (shown.code, shown.talk.as_str()),
        (
            1,
            "only root may administer. Run it as root, or as the user whose program this is\n"
        )
    );
    thread.join().unwrap();
}

#[test]
fn a_key_that_cannot_be_trusted_signs_nothing() {
    let world = World::new(|_| done("done", 0));
    let key = world.place.path().join("keys/admin.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let shown = world.run("site add office", "");
    assert_eq!(shown.code, 1);
    assert!(shown.talk.contains("chmod 600"), "{}", shown.talk);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(
        &key,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    assert!(
        world
            .run("site add office", "")
            .talk
            .contains("is no private key")
    );
    assert!(world.changes().is_empty());
}

#[test]
fn a_policy_with_problems_or_failing_tests_is_not_applied() {
    let problem = PolicyProblem {
        path: "rules.cedar".to_owned(),
        line: Some(1),
        message: "unexpected end".to_owned(),
    };
    let world = World::new(move |request| match request {
        AdminRequest::Query(AdminQuery::PolicyCheck(_)) => {
            AdminAnswer::PolicyProblems(vec![problem.clone()])
        }
        AdminRequest::Query(_) | AdminRequest::Change(_) => panic!("{request:?}"),
    });
    let dir = world.policy_folder();
    for verb in ["check", "apply", "test"] {
        let shown = world.run(&format!("policy {verb} {dir}"), "");
        assert_eq!(shown.code, 1, "{verb}");
        assert_eq!(shown.data, "rules.cedar:1: unexpected end\n");
    }
    let world = World::new(|request| policies(request, false, Vec::new()));
    let shown = world.run(&format!("policy apply {} --yes", world.policy_folder()), "");
    assert_eq!(shown.code, 1);
    assert!(
        shown.data.contains("FAIL rules.test.toml: staff"),
        "{}",
        shown.data
    );
    assert!(world.changes().is_empty());
}

#[test]
fn a_policy_shows_who_loses_access_before_it_is_applied() {
    let effect = PolicyEffect {
        action: "certify".to_owned(),
        device: "laptop".to_owned(),
        user: "alice".to_owned(),
        app: None,
        before: true,
        after: false,
        why: "disk.encrypted is false".to_owned(),
    };
    let world = World::new(move |request| policies(request, true, vec![effect.clone()]));
    let dry = world.run("policy apply --recommended --dry-run", "");
    assert_eq!(dry.code, 0, "{}", dry.talk);
    assert!(dry.data.contains("laptop  alice  certify"), "{}", dry.data);
    let asked = world.run("policy apply --recommended", "");
    assert_eq!(asked.code, 1);
    assert!(
        asked
            .talk
            .contains("takes 1 permission away and closes 2 tunnels"),
        "{}",
        asked.talk
    );
    assert!(world.changes().is_empty());
    assert_eq!(world.run("policy apply --recommended --yes", "").code, 0);
    assert!(matches!(world.changes()[..], [AdminChange::PolicyApply(_)]));
}

#[test]
fn the_ledger_is_shown_by_line_and_followed() {
    let world = World::new(|request| match request {
        AdminRequest::Query(AdminQuery::Audit { .. }) => {
            AdminAnswer::Entries(vec![entry(41), entry(42)])
        }
        AdminRequest::Query(AdminQuery::AuditFollow { from }) => {
            assert_eq!(*from, Revision(43));
            AdminAnswer::Entries(vec![entry(43)])
        }
        AdminRequest::Query(_) | AdminRequest::Change(_) => panic!("{request:?}"),
    });
    let tail = world.run("audit tail -n 2", "").data;
    let lines: Vec<&str> = tail.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("REVISION  TIME"));
    assert!(
        lines[2].starts_with("42        2026-01-01T00:00:00.000Z  stranger 10.0.0.9:1"),
        "{tail}"
    );
    assert!(lines[2].contains("site office added"));

    let json: serde_json::Value =
        serde_json::from_str(&world.run("audit tail -o json", "").data).unwrap();
    assert_eq!(json[1]["draft"]["at"], "2026-01-01T00:00:00Z");
    assert_eq!(json[1]["draft"]["changes"][0]["site_added"], "office");

    let followed = world.run("audit tail -n 2 --follow -o json", "");
    assert_eq!(followed.data.lines().count(), 3, "{}", followed.data);
    assert_eq!(followed.code, 5, "the test's controller ends");

    let shown = world.run("audit show 42", "").data;
    assert!(shown.contains("Changes:   site office added"), "{shown}");
    assert_eq!(world.run("audit show 7", "").code, 1);
}

#[test]
fn pages_need_no_controller() {
    let completion = outcome(&["completion", "bash"], "", false);
    assert!(completion.data.contains("_cardeactl"));
    let page = outcome(&["man"], "", false);
    assert!(page.data.contains(".TH cardeactl 1"));
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("man");
    assert_eq!(
        outcome(&["man", "--dir", dir.to_str().unwrap()], "", false).code,
        0
    );
    assert!(dir.join("cardeactl-app-add.1").exists());
}

#[test]
fn the_socket_of_the_state_directory_is_the_default() {
    let world = World::new(|_| AdminAnswer::Devices(Vec::new()));
    let state = world.place.path().display().to_string();
    let words = ["device", "ls", "--state", &state];
    assert_eq!(outcome(&words, "", false).code, 0);
}
