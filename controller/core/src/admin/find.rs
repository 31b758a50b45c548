//! Names work wherever ids do, and an unknown one gets "did you mean".

use cardea_proto::{
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::User,
    name::Name,
    refusal::{Refusal, RefusalCode},
};

use crate::{
    State,
    state::{AppRecord, GrantRecord, NodeRecord},
    suggest,
};

/// A device by id or name.
pub(super) fn device<'a>(
    state: &'a State,
    text: &str,
) -> Result<(DeviceId, &'a NodeRecord), Refusal> {
    let named = || state.device_named(&text.parse().ok()?);
    text.parse::<DeviceId>()
        .ok()
        .or_else(named)
        .and_then(|id| Some((id, state.device(id)?)))
        .ok_or_else(|| {
            let names = state.nodes().filter(|record| is_device(record));
            unknown(
                "device",
                text,
                names.map(|record| record.node.name.as_str()),
            )
        })
}

/// A connector by id or name.
pub(super) fn connector<'a>(
    state: &'a State,
    text: &str,
) -> Result<(ConnectorId, &'a NodeRecord), Refusal> {
    let named = || state.connector_named(&text.parse().ok()?);
    text.parse::<ConnectorId>()
        .ok()
        .or_else(named)
        .and_then(|id| Some((id, state.node(NodeId::Connector(id))?)))
        .ok_or_else(|| {
            let names = state.nodes().filter(|record| !is_device(record));
            unknown(
                "connector",
                text,
                names.map(|record| record.node.name.as_str()),
            )
        })
}

pub(super) fn app<'a>(state: &'a State, name: &Name) -> Result<&'a AppRecord, Refusal> {
    state.app(name).ok_or_else(|| {
        let names = state.apps().map(|app| app.spec.name.as_str());
        unknown("app", name.as_str(), names)
    })
}

pub(super) fn site(state: &State, name: &Name) -> Result<(), Refusal> {
    if state.has_site(name) {
        Ok(())
    } else {
        let names = state.sites().map(Name::as_str);
        Err(unknown("site", name.as_str(), names))
    }
}

/// A site that something is to be put into, and that can be added before.
pub(super) fn site_for(state: &State, name: &Name) -> Result<(), Refusal> {
    site(state, name).map_err(|refusal| {
        let next = refusal.next.unwrap_or_default();
        let message = refusal.message;
        Refusal::new(refusal.code, message)
            .with_next(format!("{next}, or add it: cardeactl site add {name}"))
    })
}

pub(super) fn user<'a>(state: &'a State, name: &Name) -> Result<&'a User, Refusal> {
    state.user(name).ok_or_else(|| {
        let names = state.users().map(|user| user.name.as_str());
        unknown("user", name.as_str(), names)
    })
}

/// A user who is asked about, and who can be there before any device of his.
pub(super) fn user_to_come(state: &State, name: &Name) -> Result<(), Refusal> {
    user(state, name).map(drop).map_err(|refusal| {
        let next = refusal.next.clone().unwrap_or_default();
        refusal.with_next(format!(
            "{next}. One that is new comes with a device: cardeactl invite device --user {name}"
        ))
    })
}

pub(super) fn grant<'a>(state: &'a State, id: &GrantId) -> Result<&'a GrantRecord, Refusal> {
    state.grant(id).ok_or_else(|| {
        Refusal::new(
            RefusalCode::NotFound,
            format!("no grant {id} is open; it ended or never was"),
        )
        .with_next("Look at: cardeactl grant ls")
    })
}

/// The refusal of a second thing of the same name.
pub(super) fn exists(kind: &str, name: &str) -> Refusal {
    Refusal::new(RefusalCode::Exists, format!("{kind} {name} exists already"))
        .with_next(format!("Look at: cardeactl {kind} ls"))
}

/// An app's grants and rules are counted by people in words.
pub(super) fn counted(count: usize, thing: &str) -> String {
    if count == 1 {
        format!("1 {thing}")
    } else {
        format!("{count} {thing}s")
    }
}

pub(super) fn is_device(record: &NodeRecord) -> bool {
    matches!(record.node.id, NodeId::Device(_))
}

fn unknown<'a>(kind: &str, wrong: &str, names: impl Iterator<Item = &'a str>) -> Refusal {
    let shown: String = wrong.escape_default().take(253).collect();
    let refusal = Refusal::new(
        RefusalCode::NotFound,
        format!("no {kind} is called {shown}"),
    );
    let list = format!("List them: cardeactl {kind} ls");
    refusal.with_next(match suggest::nearest(wrong, names) {
        Some(name) => format!("Did you mean {name}? {list}"),
        None => list,
    })
}
