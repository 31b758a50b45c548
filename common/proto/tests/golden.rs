//! The wire and the ledger as they are: whoever changes an encoding sees it here first.
//!
//! `CARDEA_GOLDEN=write cargo test -p cardea-proto --test golden` writes the files anew. A changed
//! file is a changed protocol: peers of the version before must still understand it.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a helper of a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use cardea_proto::{
    app::{Carrier, Protocol, Transport},
    codec::Bytes,
    decision::Reason,
    identity::Role,
    ledger::EndReason,
    local::{AppState, ControllerState},
    path::PathFrame,
    posture::Grade,
    refusal::RefusalCode,
    relay::{COOKIE_BYTES, Cookie, FrameKind, Handle, Side, TICKET_BYTES, Ticket},
    time::UnixMillis,
};
use ciborium::Value;
use serde::{Serialize, de::DeserializeOwned};

use samples::Named;

mod samples;

/// Bytes in a line of hexadecimal.
const LINE_BYTES: usize = 32;

#[test]
fn every_variant_is_encoded_as_its_golden_file_says() {
    let folder = folder();
    let mut expected = BTreeSet::from(["words.txt".to_owned()]);
    for sample in samples::all() {
        let name = format!("{}.cbor.hex", sample.name);
        check(&folder.join(&name), &golden(&sample.name, &sample.bytes));
        expected.insert(name);
    }
    for (name, bytes) in relay_frames().into_iter().chain(path_frames()) {
        let name = format!("{name}.hex");
        check(&folder.join(&name), &lines(&bytes));
        expected.insert(name);
    }
    let found: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected, "files without a message");
}

#[test]
fn every_golden_file_decodes_to_what_it_was_made_from() {
    for sample in samples::all() {
        let text = fs::read_to_string(folder().join(format!("{}.cbor.hex", sample.name))).unwrap();
        let hex: String = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| line.chars().filter(|c| !c.is_whitespace()))
            .collect();
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(
            (sample.again)(&bytes).unwrap(),
            sample.bytes,
            "{}",
            sample.name
        );
    }
}

/// Every datagram between a node and a relay, each named for its kind.
fn relay_frames() -> Vec<(String, Vec<u8>)> {
    let ticket = Ticket {
        tunnel: Bytes([1; 16]),
        side: Side::Connector,
        handle: Handle::from_bytes([2; 7]),
        not_after: UnixMillis(1_700_000_000_000),
    };
    let signed: [u8; TICKET_BYTES] = [&ticket.body()[..], &[3; 64]].concat().try_into().unwrap();
    let cookie = Cookie([4; COOKIE_BYTES]);
    let frames = (0..=u8::MAX).filter_map(FrameKind::of).map(|kind| {
        let frame = match kind {
            FrameKind::Bind => [&[kind.byte()], &signed[..]].concat(),
            FrameKind::Bound => ticket.handle.bound().to_vec(),
            FrameKind::Data => [&ticket.handle.data_header()[..], b"sealed"].concat(),
            FrameKind::Challenge => ticket.handle.challenge(&cookie).to_vec(),
            FrameKind::Proof => cookie.proof(&signed).to_vec(),
            FrameKind::Ask => [&[kind.byte()], &signed[..]].concat(),
            FrameKind::Seen => ticket
                .handle
                .seen("192.0.2.7:4711".parse().unwrap())
                .to_vec(),
        };
        assert_eq!(frame[0], kind.byte());
        (format!("relay.{kind:?}").to_lowercase(), frame)
    });
    frames.collect()
}

/// Every statement about paths, before it is sealed.
fn path_frames() -> Vec<(String, Vec<u8>)> {
    let frames = [
        PathFrame::Probe { id: 1 },
        PathFrame::Answer { of: 1, id: Some(2) },
        PathFrame::Lost { size: 1_440 },
        PathFrame::Turned,
        PathFrame::Candidates {
            version: 3,
            heard: 4,
            asks: true,
            addresses: vec![
                "192.0.2.7:4711".parse().unwrap(),
                "[2001:db8::7]:4711".parse().unwrap(),
            ],
        },
    ];
    let named = frames.map(|frame| {
        let name = match frame {
            PathFrame::Probe { .. } => "probe",
            PathFrame::Answer { .. } => "answer",
            PathFrame::Candidates { .. } => "candidates",
            PathFrame::Lost { .. } => "lost",
            PathFrame::Turned => "turned",
        };
        (format!("path.{name}"), frame.encode())
    });
    named.into()
}

/// The words that stand in JSON, in the ledger and in scripts.
#[test]
fn words_stay_what_they_are() {
    let lists = [
        words::<Role>("role"),
        words::<Protocol>("protocol"),
        words::<Transport>("transport"),
        words::<Carrier>("carrier"),
        words::<Grade>("grade"),
        words::<ControllerState>("controller state"),
        words::<AppState>("app state"),
        words::<Reason>("reason"),
        words::<EndReason>("end reason"),
        words::<RefusalCode>("refusal"),
        exit_codes(),
    ];
    check(&folder().join("words.txt"), &lists.concat());
}

/// All words of an enum without fields; each must read as the variant that it names.
fn words<T: Named + Serialize + DeserializeOwned>(kind: &str) -> String {
    for word in T::NAMES {
        let value: T = serde_json::from_value(serde_json::json!(word)).unwrap();
        assert_eq!(value.variant(), *word);
        assert_eq!(serde_json::to_value(&value).unwrap(), *word);
    }
    format!("{kind}: {}\n", T::NAMES.join(" "))
}

fn exit_codes() -> String {
    let codes: Vec<String> = RefusalCode::NAMES
        .iter()
        .map(|word| {
            let code: RefusalCode = serde_json::from_value(serde_json::json!(word)).unwrap();
            assert_eq!(code.to_string(), *word, "shown as it is written");
            code.exit_code().to_string()
        })
        .collect();
    format!("exit code: {}\n", codes.join(" "))
}

#[expect(clippy::disallowed_methods, reason = "how a person asks for new files")]
fn check(path: &Path, expected: &str) {
    if std::env::var("CARDEA_GOLDEN").is_ok_and(|word| word == "write") {
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}; see the head of this test", path.display()));
    assert_eq!(
        found,
        expected,
        "{} is no longer what is encoded",
        path.display()
    );
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Diagnostic notation as comments, then the bytes.
fn golden(name: &str, bytes: &[u8]) -> String {
    let value: Value = ciborium::from_reader(bytes).unwrap();
    let mut shown = String::new();
    diagnostic(&value, 0, &mut shown);
    let mut text = format!("# {name}, {} bytes\n#\n", bytes.len());
    for line in shown.lines() {
        writeln!(text, "# {line}").unwrap();
    }
    text + &lines(bytes)
}

fn lines(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(LINE_BYTES) {
        writeln!(text, "{}", data_encoding::HEXLOWER.encode(line)).unwrap();
    }
    text
}

/// Source: RFC 8949 §8, with a line for each element of an array and pair of a map.
fn diagnostic(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth + 1);
    let end = "  ".repeat(depth);
    match value {
        Value::Map(pairs) => {
            out.push_str("{\n");
            for (key, value) in pairs {
                out.push_str(&indent);
                diagnostic(key, depth + 1, out);
                out.push_str(": ");
                diagnostic(value, depth + 1, out);
                out.push_str(",\n");
            }
            write!(out, "{end}}}").unwrap();
        }
        Value::Array(items) => {
            out.push_str("[\n");
            for item in items {
                out.push_str(&indent);
                diagnostic(item, depth + 1, out);
                out.push_str(",\n");
            }
            write!(out, "{end}]").unwrap();
        }
        Value::Bytes(bytes) => write!(out, "h'{}'", data_encoding::HEXLOWER.encode(bytes)).unwrap(),
        Value::Text(text) => write!(out, "{text:?}").unwrap(),
        Value::Integer(number) => write!(out, "{}", i128::from(*number)).unwrap(),
        Value::Bool(value) => write!(out, "{value}").unwrap(),
        Value::Null => out.push_str("null"),
        other => panic!("our messages have no {other:?}"),
    }
}
