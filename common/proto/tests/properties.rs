//! Whatever values there are, they come back; whatever bytes there are, they do no harm.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a helper of a test fails by panicking"
)]

use std::collections::BTreeMap;

use cardea_proto::{
    app::{AppSpec, Principal, Protocol, Service, Target, Transport},
    codec::{self, Blob, Bytes, MESSAGE_BYTES_MAX},
    id::{DeviceId, GrantId},
    identity::{Holder, Identity},
    invite::InviteCode,
    message::FromNode,
    name::Name,
    posture::{Fact, Grade, Reading, Report, Value},
    relay::{Handle, Side, TICKET_BODY_BYTES, Ticket},
    time::UnixMillis,
};
use proptest::{collection, prelude::*, sample};

mod samples;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_report_comes_back_as_it_was(report in report()) {
        let message = FromNode::Report(report);
        let bytes = codec::encode(&message);
        prop_assert_eq!(codec::decode::<FromNode>(&bytes, usize::MAX), Ok(message));
    }

    #[test]
    fn an_app_comes_back_as_it_was_from_cbor_and_from_json(app in app()) {
        let bytes = codec::encode(&app);
        prop_assert_eq!(codec::decode::<AppSpec>(&bytes, MESSAGE_BYTES_MAX), Ok(app.clone()));
        let json = serde_json::to_string(&app).unwrap();
        prop_assert_eq!(serde_json::from_str::<AppSpec>(&json).unwrap(), app);
    }

    #[test]
    fn texts_come_back_as_they_were(name in name(), target in target(), id in any::<[u8; 10]>()) {
        prop_assert_eq!(name.to_string().parse::<Name>(), Ok(name.clone()));
        prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
        let grant = GrantId::from_bytes(id);
        prop_assert_eq!(grant.to_string().parse::<GrantId>(), Ok(grant));
        let identity = Identity { domain: name, holder: Holder::Device(DeviceId::from_bytes(id)) };
        prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
    }

    #[test]
    fn moments_and_bytes_come_back_from_json(
        millis in 0..253_402_300_800_000_u64,
        blob in collection::vec(any::<u8>(), 0..100),
        bytes in any::<[u8; 16]>(),
    ) {
        let value = (UnixMillis(millis), Blob(blob), Bytes(bytes));
        let json = serde_json::to_string(&value).unwrap();
        prop_assert_eq!(serde_json::from_str::<(UnixMillis, Blob, Bytes<16>)>(&json).unwrap(), value);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,300}") {
        // What they say does not matter here, only that they say something.
        let outcomes = [
            text.parse::<Name>().is_ok(),
            text.parse::<Target>().is_ok(),
            text.parse::<Principal>().is_ok(),
            text.parse::<GrantId>().is_ok(),
            text.parse::<Identity>().is_ok(),
            text.parse::<InviteCode>().is_ok(),
            UnixMillis::from_rfc3339(&text).is_some(),
        ];
        prop_assert_eq!(outcomes.len(), 7);
    }

    #[test]
    fn a_ticket_comes_back_as_it_was_and_no_body_panics(
        body in any::<[u8; 32]>(), tunnel in any::<[u8; 16]>(), handle in any::<[u8; 7]>(),
        end in any::<u64>(), agent in any::<bool>(),
    ) {
        let ticket = Ticket {
            tunnel: Bytes(tunnel),
            side: if agent { Side::Agent } else { Side::Connector },
            handle: Handle::from_bytes(handle),
            not_after: UnixMillis(end),
        };
        prop_assert_eq!(Ticket::from_body(&ticket.body()), Some(ticket));
        let mut other = [0; TICKET_BODY_BYTES];
        other[..32].copy_from_slice(&body);
        if let Some(ticket) = Ticket::from_body(&other) {
            prop_assert_eq!(ticket.body(), other);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_a_message_or_an_error(bytes in collection::vec(any::<u8>(), 0..400)) {
        for sample in samples::all() {
            stable(&sample, &bytes)?;
        }
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        which in any::<sample::Index>(),
        damage in collection::vec((any::<sample::Index>(), any::<u8>(), 0..3_u8), 1..6),
    ) {
        let samples = samples::all();
        let sample = &samples[which.index(samples.len())];
        let mut bytes = sample.bytes.clone();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ if bytes.len() > 1 => { bytes.remove(at); }
                _ => {}
            }
        }
        stable(sample, &bytes)?;
    }
}

/// What decodes, encodes to something that decodes to the same.
fn stable(sample: &samples::Sample, bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(again) = (sample.again)(bytes) {
        prop_assert_eq!((sample.again)(&again), Ok(again), "{}", sample.name);
    }
    Ok(())
}

fn name() -> impl Strategy<Value = Name> {
    "[a-zA-Z0-9_][a-zA-Z0-9._@-]{0,252}".prop_map(|text| text.parse().unwrap())
}

fn target() -> impl Strategy<Value = Target> {
    let host = prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
        "[a-z][a-z0-9.-]{0,40}",
    ];
    (host, 1..=u16::MAX, any::<bool>()).prop_map(|(host, port, tcp)| Target {
        host,
        service: Service {
            protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
            port,
        },
    })
}

fn app() -> impl Strategy<Value = AppSpec> {
    let transport = sample::select(vec![Transport::Auto, Transport::WireGuard, Transport::Quic]);
    let labels = collection::btree_map("[a-z]{1,8}", ".{0,20}", 0..4);
    (
        (name(), name(), transport, labels, any::<bool>()),
        collection::vec(target(), 1..4),
        collection::vec(name(), 0..4),
    )
        .prop_map(
            |((name, site, transport, labels, host_scoped), targets, names)| AppSpec {
                name,
                site,
                targets,
                names: names.into_iter().map(Into::into).collect(),
                transport,
                labels,
                host_scoped,
            },
        )
}

fn reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        any::<bool>().prop_map(|value| Reading::Value(Value::Bool(value))),
        any::<i64>().prop_map(|value| Reading::Value(Value::Integer(value))),
        ".{0,40}".prop_map(|text| Reading::Value(Value::Text(text))),
        collection::vec(".{0,10}", 0..5).prop_map(|list| Reading::Value(Value::List(list))),
        Just(Reading::Absent),
        Just(Reading::Unsupported),
        Just(Reading::Denied),
        ".{0,40}".prop_map(Reading::Error),
    ]
}

fn report() -> impl Strategy<Value = Report> {
    let grade = sample::select(vec![
        Grade::Simulated,
        Grade::Own,
        Grade::Os,
        Grade::Mdm,
        Grade::Hardware,
    ]);
    let fact = (reading(), grade, any::<u64>()).prop_map(|(reading, grade, age_ms)| Fact {
        reading,
        grade,
        age_ms,
    });
    let facts = collection::btree_map("[a-z._]{1,20}", fact, 0..20);
    (any::<u64>(), any::<[u8; 16]>(), any::<u64>(), facts).prop_map(
        |(counter, nonce, clock, facts): (_, _, _, BTreeMap<String, Fact>)| Report {
            counter,
            nonce: Bytes(nonce),
            clock: UnixMillis(clock),
            facts,
        },
    )
}
