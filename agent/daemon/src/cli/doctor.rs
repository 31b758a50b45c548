//! `cardea doctor` and `cardea dns restore`.
//!
//! Each check does what a program would: it asks the stub, asks the system, looks where a packet would
//! go. What the agent itself knows is wrong comes from its status.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    path::Path,
};

use cardea_host::{
    addresses, entropy,
    exit::{Code, Failure},
    files::{Dir, StateDir},
};
use cardea_node::names::{found, is_failure, query};
use cardea_proto::local::{
    AgentStatus, AppStatus, ControllerState, DnsView, LocalAnswer, LocalRequest,
};
use serde::Serialize;

use super::{Output, Settings, client, show, start};
use crate::{
    names::{self, Carried, Servers},
    talk,
};

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Ok,
    Failed,
    Skipped,
}

/// One check.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    state: State,
    detail: String,
    fix: Option<String>,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Ok, detail, None)
    }

    fn skipped(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Skipped, detail, None)
    }

    fn failed(name: &str, detail: impl Into<String>, fix: &str) -> Self {
        Self::new(name, State::Failed, detail, Some(fix.to_owned()))
    }

    fn new(name: &str, state: State, detail: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            state,
            detail: detail.into(),
            fix,
        }
    }
}

/// Runs every check and prints them; fails when one failed.
pub(super) fn examine(settings: &Settings, program: &str, output: Output) -> Result<(), Failure> {
    let mut checks = Vec::new();
    match client::ask(settings, program, &LocalRequest::Status) {
        Ok(LocalAnswer::Status(status)) => {
            checks.push(Check::ok(
                "agent",
                format!("runs as {}", status.device.name),
            ));
            checks.extend(of_status(&status));
            checks.extend(of_names(&status)?);
        }
        Ok(_) => return Err(client::unexpected()),
        Err(failure) => {
            checks.push(Check::failed(
                "agent",
                failure.message,
                "Start it: cardea up",
            ));
            checks.push(left_over(&settings.state));
        }
    }
    show::show(output, &checks, |checks| table(checks))?;
    let failed = checks.iter().filter(|check| check.state == State::Failed);
    match failed.count() {
        0 => Ok(()),
        1 => Err(Failure::new(
            Code::Failed,
            "one check failed. What to do stands beside it",
        )),
        count => Err(Failure::new(
            Code::Failed,
            format!("{count} checks failed. What to do stands beside each"),
        )),
    }
}

/// What the agent says of itself.
fn of_status(status: &AgentStatus) -> Vec<Check> {
    let controller = &status.controller;
    let state = match controller.state {
        ControllerState::Connected => {
            Check::ok("controller", format!("connected to {}", controller.address))
        }
        ControllerState::Connecting | ControllerState::Unreachable => Check::failed(
            "controller",
            format!("{} does not answer", controller.address),
            "Open tunnels go on; look at the network, then: cardea status",
        ),
    };
    let warnings = status.warnings.iter();
    let warnings =
        warnings.map(|warning| Check::failed(&warning.code, &warning.title, &warning.fix));
    std::iter::once(state).chain(warnings).collect()
}

/// How names of apps are found, and where their addresses lead.
fn of_names(status: &AgentStatus) -> Result<Vec<Check>, Failure> {
    let Some(dns) = &status.dns else {
        let why = "the agent has no network interface: cardea run --mode tun";
        return Ok(vec![Check::skipped("names", why)]);
    };
    let mut checks = vec![asked(dns)];
    let Some(app) = status.apps.iter().find(|app| !app.addresses.is_empty()) else {
        checks.push(Check::skipped("names", "there is no app to look for"));
        return Ok(checks);
    };
    checks.push(route(dns, app));
    checks.extend(start::block_on(of_stub(dns, app))?);
    checks.push(system(dns, app));
    Ok(checks)
}

/// Whether the system asks the stub.
fn asked(dns: &DnsView) -> Check {
    match (dns.mode.as_str(), dns.is_asked) {
        ("off", _) => Check::skipped("resolver", "the system was not told of the stub resolver"),
        (mode, true) => Check::ok("resolver", format!("the system is told by {mode}")),
        (mode, false) => Check::failed(
            "resolver",
            format!("the system could not be told by {mode}"),
            "The agent tries again; cardea status says what is in the way",
        ),
    }
}

/// Whether a packet to the app would go into our interface: it has our address then.
fn route(dns: &DnsView, app: &AppStatus) -> Check {
    let Some(address) = app.addresses.first() else {
        return Check::skipped("route", "the app has no address");
    };
    let fix = "Another program has taken our rules away, or put its own before them: ip rule; ip route show table 7443. Start the agent anew";
    match addresses::source_for(SocketAddr::new(*address, 9)) {
        Ok(source) if dns.stub.contains(&source) => {
            Check::ok("route", format!("{address} leads into our interface"))
        }
        Ok(_) if dns.stub.is_empty() => Check::skipped("route", "our own address is not known"),
        Ok(source) => Check::failed(
            "route",
            format!("{address} leads elsewhere, from {source}"),
            fix,
        ),
        Err(error) => Check::failed("route", format!("{address} leads nowhere: {error}"), fix),
    }
}

/// What the stub answers, about an app and about others.
async fn of_stub(dns: &DnsView, app: &AppStatus) -> Vec<Check> {
    let Some(stub) = dns.stub.first() else {
        let fix = "cardea status says what is in the way";
        return vec![Check::failed(
            "stub",
            "the stub resolver does not answer",
            fix,
        )];
    };
    let stub = Servers::new(vec![SocketAddr::new(*stub, cardea_host::resolv_conf::PORT)]);
    let name = full_name(dns, app);
    let fix = "Another program filters port 53 on this machine: nft list ruleset";
    let mut checks = Vec::new();
    for (check, carried) in [
        ("stub udp", Carried::Datagram),
        ("stub tcp", Carried::Stream),
    ] {
        let found = ask(&stub, &name, carried).await;
        checks.push(match found {
            Some(found) if app.addresses.iter().any(|at| found.contains(at)) => {
                Check::ok(check, format!("{name} is at {}", list(&found)))
            }
            Some(found) => Check::failed(
                check,
                format!("{name} is said to be at {:?}", list(&found)),
                fix,
            ),
            None => Check::failed(check, format!("it does not say where {name} is"), fix),
        });
    }
    checks.push(if dns.servers.is_empty() {
        Check::skipped("other names", "they do not pass through the stub resolver")
    } else if answers(&stub).await {
        Check::ok(
            "other names",
            format!("are answered by {}", dns.servers.join(", ")),
        )
    } else {
        let fix = "The servers that this machine had before do not answer; look at the network";
        Check::failed(
            "other names",
            format!("none of {} answers", dns.servers.join(", ")),
            fix,
        )
    });
    checks
}

/// Whether anybody answers what is not ours: to refuse is an answer, to fail is what the stub says when
/// nobody does.
async fn answers(stub: &Servers) -> bool {
    let Some(query) = query(".", false, u16::from_be_bytes(entropy::bytes())) else {
        return false;
    };
    let answer = stub.ask(&query, Carried::Datagram).await;
    answer.is_some_and(|answer| !is_failure(&answer))
}

async fn ask(server: &Servers, name: &str, carried: Carried) -> Option<Vec<IpAddr>> {
    let query = query(name, false, u16::from_be_bytes(entropy::bytes()))?;
    found(&server.ask(&query, carried).await?)
}

/// Whether any program finds the app by name.
fn system(dns: &DnsView, app: &AppStatus) -> Check {
    let name = full_name(dns, app);
    if dns.mode == "off" {
        return Check::skipped("system", "the system was not told of the stub resolver");
    }
    let fix = "Look at the hosts line of /etc/nsswitch.conf, and for a cache: resolvectl flush-caches, nscd -i hosts";
    match (name.as_str(), 0).to_socket_addrs() {
        Ok(all) => {
            let all: Vec<IpAddr> = all.map(|at| at.ip()).collect();
            if all.iter().all(|at| app.addresses.contains(at)) {
                Check::ok("system", format!("programs find {name}"))
            } else {
                let detail = format!("programs find {name} elsewhere: {}", list(&all));
                Check::failed("system", detail, fix)
            }
        }
        Err(error) => Check::failed(
            "system",
            format!("programs do not find {name}: {error}"),
            fix,
        ),
    }
}

fn full_name(dns: &DnsView, app: &AppStatus) -> String {
    format!("{}.{}", app.name, dns.domain)
}

fn list(all: &[IpAddr]) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(", ")
}

/// Whether an agent that is gone has left the system's file changed.
fn left_over(state: &Path) -> Check {
    match Dir::open(state) {
        Ok(dir) if names::is_changed(&dir) => Check::failed(
            "resolver",
            "the system still asks an agent that is gone",
            "Put back what it asked before: cardea dns restore",
        ),
        Ok(_) | Err(_) => Check::ok("resolver", "nothing of ours is left"),
    }
}

fn table(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let state = match check.state {
            State::Ok => "ok",
            State::Failed => "FAILED",
            State::Skipped => "-",
        };
        vec![check.name.clone(), state.to_owned(), check.detail.clone()]
    });
    let mut text = show::table(&["CHECK", "STATE", "DETAIL"], rows.collect());
    for check in checks {
        if let Some(fix) = &check.fix {
            text.push_str(&format!("\n\n{}: {fix}", check.name));
        }
    }
    text
}

/// Has the running agent undo what it did to the system's names, or does it in the place of one that is
/// gone.
pub(super) fn restore_dns(settings: &Settings, program: &str) -> Result<(), Failure> {
    if client::is_running(settings) {
        let answer = client::ask(settings, program, &LocalRequest::RestoreDns)?;
        let LocalAnswer::Done(line) = answer else {
            return Err(client::unexpected());
        };
        talk::say(&line);
        return Ok(());
    }
    let failed = |error: &dyn std::fmt::Display| Failure::new(Code::Failed, error.to_string());
    let restored = if client::enrolled(&settings.state) == Some(false) {
        false
    } else {
        let dir = StateDir::open(&settings.state).map_err(|error| error.failure())?;
        names::restore(&dir).map_err(|error| failed(&error))?
    };
    talk::say(if restored {
        "the system asks for names as it did before the agent"
    } else {
        "nothing of ours was left"
    });
    Ok(())
}
