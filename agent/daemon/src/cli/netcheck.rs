//! `netcheck`: how the network is, and what to do about it.
//!
//! The daemon looks, which knows the newest certificate and the controller's clock; where none runs,
//! this process does, with what the state directory keeps.

use cardea_host::exit::{Code, Failure};
use cardea_proto::{
    local::{LocalAnswer, LocalRequest},
    netcheck::{CheckState, ControllerCheck, Mapping, NetReport, Portal, RelayCheck, Way},
    time::ClockOffset,
};

use super::{
    Output, Settings, client, show,
    start::{self, Program},
};
use crate::netcheck::Look;

/// Looks, prints what was found, and fails when nothing works.
pub(super) fn examine(
    program: Program,
    settings: &Settings,
    output: Output,
) -> Result<(), Failure> {
    let report = report(program, settings)?;
    show::show(output, &report, table)?;
    if report.usable {
        return Ok(());
    }
    let why = report.advice.first();
    let why = why.map_or("nothing answers", |advice| advice.title.as_str());
    Err(Failure::new(Code::NotReachable, why.to_owned()))
}

/// What the daemon finds, or this process where there is none.
pub(super) fn report(program: Program, settings: &Settings) -> Result<NetReport, Failure> {
    if client::is_running(settings) || !client::is_enrolled(&settings.state) {
        let answer = client::ask(settings, program.name, &LocalRequest::Netcheck)?;
        let LocalAnswer::Netcheck(report) = answer else {
            return Err(client::unexpected());
        };
        return Ok(*report);
    }
    let node = start::enrolled(program, settings)?;
    let look = Look::of(&node, settings.proxy.clone(), ClockOffset::default());
    start::block_on(look.run())
}

/// For people.
pub(super) fn table(report: &NetReport) -> String {
    let mut rows: Vec<Vec<String>> = report.controllers.iter().map(controller).collect();
    rows.extend(report.relays.iter().map(relay));
    rows.push(row("NAT", "-", nat(report)));
    let mtu = report.path_mtu.map_or_else(
        || "not known".to_owned(),
        |mtu| format!("packets of {mtu} bytes pass"),
    );
    rows.push(row("path MTU", "-", mtu));
    let clock = report.clock_ahead_ms.map_or_else(
        || "not known".to_owned(),
        |ahead| format!("{ahead} ms ahead of the controller's"),
    );
    rows.push(row("clock", "-", clock));
    let portal = match report.captive_portal {
        Portal::None => "none: the controller itself answers",
        Portal::Suspected => "suspected: something else answers in the controller's place",
        Portal::Unknown => "not known: nothing answers",
    };
    rows.push(row("captive portal", "-", portal.to_owned()));
    let mut text = show::table(&["CHECK", "STATE", "DETAIL"], rows);
    for advice in &report.advice {
        text.push_str(&format!(
            "\n\n{}: {}\n  {}",
            advice.code, advice.title, advice.fix
        ));
    }
    if report.advice.is_empty() {
        text.push_str("\n\nNothing is in the way.");
    }
    text
}

fn controller(check: &ControllerCheck) -> Vec<String> {
    let way = match check.way {
        Way::Udp => "UDP",
        Way::Tls => "TLS",
    };
    let detail = match (check.rtt_ms, &check.why) {
        (Some(rtt), _) => format!("{}, {rtt} ms", check.address),
        (None, Some(why)) => format!("{}: {why}", check.address),
        (None, None) => check.address.clone(),
    };
    row(&format!("controller by {way}"), state(check.state), detail)
}

fn relay(check: &RelayCheck) -> Vec<String> {
    let addresses = check.addresses.join(", ");
    let detail = match (check.rtt_ms, &check.seen_as) {
        (Some(rtt), Some(seen)) => format!("{addresses}, {rtt} ms, sees {seen}"),
        _ => addresses,
    };
    row("relay by UDP", state(check.state), detail)
}

fn nat(report: &NetReport) -> String {
    let mapping = report.nat.mapping.text();
    match report.nat.mapping {
        Mapping::NotChecked => mapping.to_owned(),
        Mapping::None
        | Mapping::EndpointIndependent
        | Mapping::AddressDependent
        | Mapping::AddressAndPortDependent
        | Mapping::EndpointDependent
        | Mapping::Unknown => {
            let seen = report.nat.seen_as.join(", ");
            format!("{mapping}, seen as {seen}; filtering not tested")
        }
    }
}

const fn state(state: CheckState) -> &'static str {
    match state {
        CheckState::Ok => "ok",
        CheckState::Silent => "silent",
        CheckState::Impostor => "somebody else",
        CheckState::NotChecked => "not checked",
    }
}

fn row(check: &str, state: &str, detail: String) -> Vec<String> {
    vec![check.to_owned(), state.to_owned(), detail]
}
