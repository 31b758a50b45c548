//! The program as a person meets it: what it says and how it ends.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::process::{Command, Output};

use cardea_relay_server::Server;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[test]
fn a_port_in_use_says_so_and_what_to_type() {
    let taken = Server::bind(
        ([127, 0, 0, 1], 0).into(),
        [0; 32],
        cardea_relay::Settings::default(),
    )
    .unwrap();
    let address = taken.local_address().to_string();
    let output = relay(&["run", "--ticket-key", KEY, "--listen", &address]);
    check(&output, 1, "in use");
    check(&output, 1, "--listen ADDRESS:PORT");
}

#[test]
fn a_wrong_command_line_or_file_is_a_usage_error() {
    check(&relay(&[]), 2, "Usage");
    check(&relay(&["run"]), 2, "--ticket-key");
    check(&relay(&["run", "--ticket-key", "zz"]), 2, "hexadecimal");
    check(&relay(&["run", "--listen", "relay"]), 2, "invalid");
    check(
        &relay(&["run", "--config", "/nonexistent"]),
        2,
        "/nonexistent",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:0\"\nport = 1\n").unwrap();
    let file = file.to_str().unwrap();
    check(&relay(&["run", "--config", file]), 2, "line 2");
}

#[test]
fn completions_and_the_manual_go_to_stdout() {
    for (arguments, expected) in [
        (&["completion", "bash"][..], "cardea-relay"),
        (&["man"], ".TH cardea-relay"),
        (&["run", "--help"], "Examples:"),
    ] {
        let output = relay(arguments);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected));
    }
}

fn relay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cardea-relay"))
        .args(arguments)
        .env_remove("CARDEA_TICKET_KEY")
        .env_remove("CARDEA_LISTEN")
        .env_remove("CARDEA_CONFIG")
        .output()
        .unwrap()
}

fn check(output: &Output, code: i32, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(expected), "{said}");
}
