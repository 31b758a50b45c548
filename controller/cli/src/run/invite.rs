//! Codes: the secret is made here, and the controller gets only its hash.

use std::time::Duration;

use cardea_credential::key;
use cardea_host::{entropy, exit::Failure};
use cardea_proto::{
    admin::{AdminChange, InviteRow},
    codec::Secret32,
    id::{ID_BYTES, InviteId},
    invite::{ADDRESSES_MAX, InviteCode},
    ledger::Admits,
};
use serde_json::json;

use crate::{
    args::{Format, InviteCommand},
    view,
};

use super::Session;

pub(super) fn run(command: InviteCommand, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        InviteCommand::Device {
            user,
            groups,
            expires,
        } => {
            let groups = groups.into_iter().collect();
            create(Admits::Device { user, groups }, expires.0, session)
        }
        InviteCommand::Connector { site, expires } => {
            create(Admits::Connector { site }, expires.0, session)
        }
        InviteCommand::Ls => session.list::<InviteRow>(),
        InviteCommand::Rm { id } => session.change(AdminChange::InviteRemove(id)),
    }
}

/// Prints the code alone: it is what the caller hands on.
fn create(admits: Admits, life: Duration, session: &mut Session<'_>) -> Result<(), Failure> {
    let hello = session.connection.hello();
    let code = InviteCode {
        role: admits.role(),
        secret: Secret32(entropy::seed()),
        root: hello.root,
        pass: hello.pass.clone(),
        addresses: hello
            .addresses
            .iter()
            .take(ADDRESSES_MAX)
            .cloned()
            .collect(),
    };
    let id = InviteId::from_bytes(entropy::bytes::<ID_BYTES>());
    let change = AdminChange::InviteCreate {
        id,
        secret_hash: key::digest(&code.secret.0),
        admits,
        life_s: life.as_secs(),
    };
    let done = session.connection.change(change, &session.settings.key)?;
    if session.format() == Format::Table {
        // Only now: a code that was not committed admits nobody.
        session.console.data(&code.reveal())?;
        session.console.say(&format!(
            "{} (revision {}); shown only now, good once, for {}",
            done.message,
            done.revision,
            life_text(life)
        ));
        return Ok(());
    }
    let value = json!({
        "id": id,
        "code": code.reveal(),
        "expires_s": life.as_secs(),
        "revision": done.revision,
    });
    view::data(&value, session.settings.format, session.console)
}

fn life_text(life: Duration) -> String {
    let seconds = life.as_secs();
    for (unit, length) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds >= length && seconds.is_multiple_of(length) {
            return format!("{}{unit}", seconds / length);
        }
    }
    format!("{seconds}s")
}
