//! One value of every variant of every message and record.
//!
//! Each list goes with a match over its enum: a new variant does not compile until it has a name
//! here, and does not pass until it has a sample and a golden file.

// Each test binary uses a part of this.
#![allow(dead_code, reason = "shared by several test binaries")]

use cardea_proto::{
    access::{Admit, Answer, Extend, Offer, Rendezvous},
    admin::{AdminAnswer, AdminChange, AdminHello, AdminQuery, AdminRequest, ChangeOrder},
    app::AppSpec,
    codec,
    decision::Decision,
    enroll::{Certificate, EnrollAnswer, EnrollRequest},
    ledger::{Actor, Change, Entry, Grant, RecordKey},
    local::{LocalAnswer, LocalRequest},
    message::{FromNode, ToNode},
    posture::PostureVerdict,
};
use serde::{Serialize, de::DeserializeOwned};

mod admin;
mod channel;
mod ledger;
mod local;
pub(crate) mod parts;
mod words;

/// A message as bytes, with what a test may do with it.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Name of its golden file.
    pub(crate) name: String,
    /// Its encoding.
    pub(crate) bytes: Vec<u8>,
    /// Decodes bytes as its type and encodes the result again.
    pub(crate) again: fn(&[u8]) -> Result<Vec<u8>, codec::DecodeError>,
}

/// Gives every variant of an enum its name, at compile time.
macro_rules! names {
    ($type:ty { $($pattern:pat => $name:literal,)* }) => {
        impl crate::samples::Named for $type {
            const NAMES: &'static [&'static str] = &[$($name),*];

            fn variant(&self) -> &'static str {
                match self {
                    $($pattern => $name,)*
                }
            }
        }
    };
}
pub(crate) use names;

/// An enum whose variants are known by name.
pub(crate) trait Named {
    /// All of them.
    const NAMES: &'static [&'static str];

    /// This one's.
    fn variant(&self) -> &'static str;
}

/// All samples.
pub(crate) fn all() -> Vec<Sample> {
    [
        variants("from_node", &channel::from_node()),
        one::<FromNode>("from_node.usage_with_path", &channel::usage_with_path()),
        variants("to_node", &channel::to_node()),
        one::<EnrollRequest>("enroll_request", &channel::enroll_request()),
        variants::<EnrollAnswer>("enroll_answer", &channel::enroll_answers()),
        one::<Offer>("offer", &parts::offer()),
        one::<Answer>("answer", &parts::answer()),
        one::<Offer>("offer_with_candidates", &parts::offer_with_candidates()),
        one::<Offer>("offer_of_host", &parts::offer_of_host()),
        one::<Admit>("admit_of_host", &parts::admit_of_host()),
        one::<AppSpec>("app_of_hosts", &parts::app_of_hosts()),
        one::<Grant>("grant_of_host", &ledger::grant_of_host()),
        one::<Answer>("answer_with_candidates", &parts::answer_with_candidates()),
        one::<Rendezvous>("rendezvous_with_standby", &parts::rendezvous_with_standby()),
        one::<Extend>("extend_with_standby", &parts::extend_with_standby()),
        one::<Certificate>("certificate_with_relays", &parts::certificate_with_relays()),
        one::<PostureVerdict>(
            "posture_verdict_without_checks",
            &parts::verdict_without_checks(),
        ),
        one::<PostureVerdict>(
            "posture_verdict_of_a_blocked_device",
            &parts::verdict_of_a_blocked_device(),
        ),
        one::<Decision>(
            "decision_of_a_failed_appraisal",
            &parts::decision_of_a_failed_appraisal(),
        ),
        one::<AdminHello>("admin_hello", &admin::hello()),
        one::<AdminHello>("admin_hello_with_pass", &admin::hello_with_pass()),
        variants::<AdminRequest>("admin_request", &admin::requests()),
        one::<ChangeOrder>("change_order", &admin::order()),
        variants::<AdminQuery>("admin_query", &admin::queries()),
        variants::<AdminChange>("admin_change", &admin::changes()),
        variants::<AdminAnswer>("admin_answer", &admin::answers()),
        one::<AdminAnswer>("admin_answer.tunnels_told", &admin::tunnels_told()),
        variants::<LocalRequest>("local_request", &local::requests()),
        variants::<LocalAnswer>("local_answer", &local::answers()),
        one::<LocalAnswer>("local_answer.apps_with_error", &local::apps_with_error()),
        variants::<Change>("change", &ledger::changes()),
        one::<Entry>("entry", &ledger::entry()),
        variants::<Actor>("actor", &ledger::actors()),
        variants::<RecordKey>("record_key", &ledger::keys()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Samples of the two messages of a channel, for tests of whole values.
pub(crate) fn channel() -> (Vec<FromNode>, Vec<ToNode>) {
    (channel::from_node(), channel::to_node())
}

fn variants<T: Named + Serialize + DeserializeOwned>(kind: &str, values: &[T]) -> Vec<Sample> {
    let mut named: Vec<&str> = values.iter().map(Named::variant).collect();
    let mut expected = T::NAMES.to_vec();
    named.sort_unstable();
    expected.sort_unstable();
    assert_eq!(named, expected, "{kind} has one sample of each variant");
    values
        .iter()
        .map(|value| sample(format!("{kind}.{}", value.variant()), value))
        .collect()
}

fn one<T: Serialize + DeserializeOwned>(kind: &str, value: &T) -> Vec<Sample> {
    vec![sample(kind.to_owned(), value)]
}

fn sample<T: Serialize + DeserializeOwned>(name: String, value: &T) -> Sample {
    Sample {
        name,
        bytes: codec::encode(value),
        again: |bytes| {
            let value: T = codec::decode(bytes, codec::MESSAGE_BYTES_MAX_ADMIN)?;
            Ok(codec::encode(&value))
        },
    }
}
