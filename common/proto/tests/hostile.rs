//! What peers may send that is no message, and what must come of it: an error, soon and small.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a helper of a test fails by panicking"
)]

use cardea_proto::{
    codec::{
        self, Blob, Bytes, DecodeError, MESSAGE_BYTES_MAX_ADMIN, MESSAGE_BYTES_MAX_STRANGER,
        NESTING_MAX,
    },
    message::{FromNode, ToNode},
};
use ciborium::Value;
use samples::all;

mod samples;

/// Headers that announce 2^60 bytes, characters, elements or pairs.
const LIES: [[u8; 9]; 4] = [
    [0x5b, 0x10, 0, 0, 0, 0, 0, 0, 0],
    [0x7b, 0x10, 0, 0, 0, 0, 0, 0, 0],
    [0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0],
    [0xbb, 0x10, 0, 0, 0, 0, 0, 0, 0],
];

/// Headers that open something within themselves.
const OPENERS: [&[u8]; 6] = [
    &[0x81],
    &[0xa1, 0x60],
    &[0x9f],
    &[0xbf, 0x60],
    &[0xc1],
    &[0x5f],
];

/// Messages whose content is another enum, in which a second key is a second variant.
const ENUM_IN_ENUM: [&str; 5] = [
    "actor.node",
    "admin_query.impact",
    "change.node_removed",
    "record_key.certificate",
    "record_key.node",
];

#[test]
fn unknown_fields_are_ignored() {
    let mut tried = 0;
    for sample in all() {
        let mut value: Value = ciborium::from_reader(sample.bytes.as_slice()).unwrap();
        let fields = if sample.name.contains('.') {
            value.as_map_mut().and_then(|pairs| pairs[0].1.as_map_mut())
        } else {
            value.as_map_mut()
        };
        let Some(fields) = fields.filter(|_| !ENUM_IN_ENUM.contains(&sample.name.as_str())) else {
            continue;
        };
        let later = Value::Array(vec![Value::Text("of a later version".to_owned())]);
        fields.insert(0, (Value::Text("x_unknown".to_owned()), later.clone()));
        fields.push((Value::Text("z_unknown".to_owned()), later));
        assert_eq!(
            (sample.again)(&encoded(&value)).unwrap(),
            sample.bytes,
            "{}",
            sample.name
        );
        tried += 1;
    }
    assert!(tried > 60, "{tried}");
}

#[test]
fn an_unknown_variant_is_an_error_that_names_it() {
    let unknown = Value::Map(vec![(
        Value::Text("teleport".to_owned()),
        Value::Map(Vec::new()),
    )]);
    for sample in all().iter().filter(|sample| sample.name.contains('.')) {
        for bytes in [
            encoded(&unknown),
            encoded(&Value::Text("teleport".to_owned())),
        ] {
            let Err(DecodeError::Malformed(why)) = (sample.again)(&bytes) else {
                panic!("{} took it", sample.name);
            };
            assert!(
                why.contains("unknown variant") && why.contains("teleport"),
                "{why}"
            );
        }
    }
}

#[test]
fn every_part_of_a_message_is_no_message() {
    for sample in all() {
        for length in 0..sample.bytes.len() {
            let part = &sample.bytes[..length];
            assert!(
                (sample.again)(part).is_err(),
                "{} cut at {length}",
                sample.name
            );
        }
        let more = [&sample.bytes[..], &[0xf6]].concat();
        assert_eq!(
            (sample.again)(&more),
            Err(DecodeError::Trailing(1)),
            "{}",
            sample.name
        );
    }
}

#[test]
fn lies_about_lengths_are_errors_wherever_they_stand() {
    for sample in all() {
        for at in 0..sample.bytes.len() {
            for lie in LIES {
                let bytes = [&sample.bytes[..at], &lie, &sample.bytes[at..]].concat();
                // Within a text or a blob the lie is content, of which only the length was wrong.
                if let Ok(again) = (sample.again)(&bytes) {
                    assert!(
                        again.len() <= bytes.len() + sample.bytes.len(),
                        "{}",
                        sample.name
                    );
                }
            }
        }
        for lie in LIES {
            assert!((sample.again)(&lie).is_err());
        }
    }
}

#[test]
fn deep_nesting_is_an_error_also_where_it_would_be_ignored() {
    for opener in OPENERS {
        let deep = opener.repeat(100_000);
        for sample in all() {
            assert!((sample.again)(&deep).is_err(), "{}", sample.name);
        }
        let hello = all()
            .into_iter()
            .find(|sample| sample.name == "from_node.hello")
            .unwrap();
        let mut value: Value = ciborium::from_reader(hello.bytes.as_slice()).unwrap();
        let fields = value.as_map_mut().unwrap()[0].1.as_map_mut().unwrap();
        fields.push((Value::Text("deep".to_owned()), Value::Null));
        let mut bytes = encoded(&value);
        bytes.pop();
        bytes.extend_from_slice(&deep);
        assert!((hello.again)(&bytes).is_err());
    }
}

#[test]
fn our_deepest_message_needs_half_of_what_is_allowed() {
    fn depth(value: &Value) -> usize {
        let below = match value {
            Value::Array(items) => items.iter().map(depth).max(),
            Value::Map(pairs) => pairs.iter().map(|(_, value)| depth(value)).max(),
            _ => return 0,
        };
        1 + below.unwrap_or(0)
    }
    for sample in all() {
        let value: Value = ciborium::from_reader(sample.bytes.as_slice()).unwrap();
        assert!(
            depth(&value) * 2 <= NESTING_MAX,
            "{}: {}",
            sample.name,
            depth(&value)
        );
    }
}

#[test]
fn what_is_too_large_is_not_even_looked_at() {
    let bytes = vec![0xff; MESSAGE_BYTES_MAX_STRANGER + 1];
    let error = codec::decode::<FromNode>(&bytes, MESSAGE_BYTES_MAX_STRANGER).unwrap_err();
    let max = MESSAGE_BYTES_MAX_STRANGER;
    assert_eq!(
        error,
        DecodeError::TooLarge {
            bytes: max + 1,
            max
        }
    );
    assert_eq!(codec::decode_length([0, 0, 0x40, 0], max), Ok(max));
    assert!(codec::decode_length([0, 0, 0x40, 1], max).is_err());
    assert!(codec::decode_length([0xff; 4], MESSAGE_BYTES_MAX_ADMIN).is_err());
}

#[test]
fn bytes_of_another_length_are_not_cut_or_filled() {
    for length in [0_usize, 31, 33, 64] {
        let bytes = codec::encode(&Blob(vec![7; length]));
        assert!(
            codec::decode::<Bytes<32>>(&bytes, 1_024).is_err(),
            "{length}"
        );
    }
}

#[test]
fn a_message_of_one_direction_is_none_of_the_other() {
    let (from_node, to_node) = samples::channel();
    for message in &from_node {
        assert!(codec::decode::<ToNode>(&codec::encode(message), usize::MAX).is_err());
    }
    for message in &to_node {
        assert!(codec::decode::<FromNode>(&codec::encode(message), usize::MAX).is_err());
    }
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}
