//! `up`, `enroll` and `run`: from a state directory and perhaps a code to a serving daemon.

use std::{ffi::OsString, future::Future, os::unix::process::CommandExt as _, path::PathBuf};

use cardea_host::{
    exit::{Code, Failure},
    files::StateDir,
    process,
};
use cardea_proto::{id::NodeId, identity::Role, invite::InviteCode};

use super::{CodeArgument, Settings, client};
use crate::{control, enroll::Applicant, state::Node, talk, virtual_addresses::Ranges};

/// One of the two programs of this crate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) role: Role,
}

/// What stands at this machine's side of tunnels.
#[derive(Clone, Debug)]
pub(super) enum Local {
    /// Sockets, without root.
    Sockets,
    /// A network interface.
    Interface {
        /// Where its addresses come from, instead of the usual ranges.
        ranges: Vec<String>,
    },
}

/// Enrolls when new; an enrolled node stays what it is.
pub(super) fn enroll(
    program: Program,
    settings: &Settings,
    code: &CodeArgument,
    posture: Option<cardea_device::posture::Settings>,
) -> Result<(), Failure> {
    let invite = code
        .read()?
        .ok_or_else(|| client::not_enrolled(program.name))?;
    process::prepare();
    let dir = open(settings)?;
    if let Some(node) = load(&dir)? {
        return Err(Failure::new(
            Code::Failed,
            format!(
                "this machine is enrolled already, as {} ({}) of {}. Connect: {} up",
                node.name, node.id, node.domain, program.name
            ),
        ));
    }
    block_on(apply(program, settings, code, &invite, &dir, posture))?.map(drop)
}

/// Enrolls when new, and serves.
pub(super) fn up(
    program: Program,
    settings: &Settings,
    code: &CodeArgument,
    posture: Option<cardea_device::posture::Settings>,
) -> Result<(), Failure> {
    let invite = code.read()?;
    process::prepare();
    let dir = open(settings)?;
    let node = match (load(&dir)?, invite) {
        (None, None) => return Err(client::not_enrolled(program.name)),
        (None, Some(invite)) => block_on(apply(
            program,
            settings,
            code,
            &invite,
            &dir,
            posture.clone(),
        ))??,
        (Some(node), None) => node,
        (Some(node), Some(invite)) => {
            same_controller(&node, &invite)?;
            talk::say(&format!("enrolled already, as {} ({})", node.name, node.id));
            node
        }
    };
    if code.is_on_the_command_line() {
        // A long-running program does not show a code to whoever lists processes.
        drop(dir);
        return Err(become_run(settings, posture.as_ref()));
    }
    serve(dir, node, posture, &Local::Sockets)
}

/// Serves as the node that is enrolled here.
pub(super) fn run(
    program: Program,
    settings: &Settings,
    posture: Option<cardea_device::posture::Settings>,
    local: &Local,
) -> Result<(), Failure> {
    process::prepare();
    let dir = open(settings)?;
    let node = load(&dir)?.ok_or_else(|| client::not_enrolled(program.name))?;
    serve(dir, node, posture, local)
}

async fn apply(
    program: Program,
    settings: &Settings,
    code: &CodeArgument,
    invite: &InviteCode,
    dir: &StateDir,
    posture: Option<cardea_device::posture::Settings>,
) -> Result<Node, Failure> {
    let applicant = Applicant {
        dir,
        role: program.role,
        name: code.wanted_name(&settings.file),
        posture,
    };
    let node = applicant.enroll(invite).await?;
    let user = node
        .user
        .as_ref()
        .map(|user| format!(" for {user}"))
        .unwrap_or_default();
    talk::say(&format!(
        "enrolled as {} ({}){user} in {}",
        node.name, node.id, node.domain
    ));
    Ok(node)
}

/// A code of another trust domain is not silently ignored.
fn same_controller(node: &Node, invite: &InviteCode) -> Result<(), Failure> {
    if node.trust.root_digest() == invite.root {
        return Ok(());
    }
    Err(Failure::of(
        Code::NotEnrolled,
        "this code",
        format!(
            "it is for another controller than that of {}, where this machine is enrolled",
            node.domain
        ),
        "Use another directory: --state DIR",
    ))
}

fn serve(
    dir: StateDir,
    node: Node,
    posture: Option<cardea_device::posture::Settings>,
    local: &Local,
) -> Result<(), Failure> {
    let usual = match node.id {
        NodeId::Connector(_) => Ranges::connector(&node.domain),
        NodeId::Device(_) => Ranges::usual(&node.domain),
    };
    let ranges = ranges(local, usual)?;
    let result = match (node.id, posture) {
        (NodeId::Device(id), Some(posture)) => {
            block_on(control::agent::run(dir, node, id, posture, ranges))?
        }
        (NodeId::Connector(id), None) => block_on(control::connector::run(dir, node, id, ranges))?,
        (NodeId::Device(_), None) => return Err(wrong_program("cardea")),
        (NodeId::Connector(_), Some(_)) => return Err(wrong_program("cardea-connector")),
    };
    result.map_err(|error| Failure::new(Code::Failed, error.to_string()))
}

/// The ranges of an interface's addresses; `None` without an interface.
fn ranges(local: &Local, usual: Ranges) -> Result<Option<Ranges>, Failure> {
    let Local::Interface { ranges } = local else {
        return Ok(None);
    };
    let mut all = usual;
    for text in ranges {
        all = all.with(text).map_err(|error| {
            Failure::of(
                Code::Usage,
                &format!("--range {text}"),
                error,
                "For example: --range 100.64.0.0/10",
            )
        })?;
    }
    Ok(Some(all))
}

fn wrong_program(program: &str) -> Failure {
    Failure::new(
        Code::Usage,
        format!("this state directory is that of {program}. Run: {program} up"),
    )
}

/// Replaces this process by `run` with the same settings; only a failure comes back.
fn become_run(settings: &Settings, posture: Option<&cardea_device::posture::Settings>) -> Failure {
    let mut arguments: Vec<OsString> = vec!["run".into()];
    let mut flag = |name: &str, value: Option<&PathBuf>| {
        if let Some(value) = value {
            arguments.push(name.into());
            arguments.push(value.into());
        }
    };
    flag("--state", Some(&settings.state));
    flag("--config", settings.config.as_ref());
    flag(
        "--facts-from",
        posture.and_then(|posture| posture.facts_from.as_ref()),
    );
    arguments.extend((0..settings.verbose).map(|_| OsString::from("-v")));
    let error = match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    Failure::new(
        Code::Failed,
        format!("enrolled, but the daemon did not start: {error}"),
    )
}

fn open(settings: &Settings) -> Result<StateDir, Failure> {
    StateDir::open(&settings.state).map_err(|error| Failure::new(Code::Storage, error.to_string()))
}

fn load(dir: &StateDir) -> Result<Option<Node>, Failure> {
    Node::load(dir).map_err(|error| Failure::new(Code::Storage, error.to_string()))
}

/// Runs a future on a runtime of one thread: this one.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(future))
        .map_err(|error| Failure::new(Code::Failed, format!("no runtime: {error}")))
}
