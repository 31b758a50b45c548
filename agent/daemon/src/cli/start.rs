//! `up`, `enroll` and `run`: from a state directory and perhaps a code to a serving daemon.

use std::{
    ffi::OsString,
    fmt,
    future::Future,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use cardea_host::{
    exit::{Code, Failure, io_advice},
    files::{self, Dir, StateDir},
    process,
};
use cardea_proto::{id::NodeId, identity::Role, invite::InviteCode};

use super::{CodeArgument, Settings, client};
use crate::{
    control::{self, Net, Until},
    enroll::Applicant,
    names,
    operator::{self, Operator},
    state::Node,
    talk,
    virtual_addresses::Ranges,
};

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
        /// How names of apps are found; a connector has none.
        names: Option<names::Settings>,
    },
}

impl Local {
    /// As somebody would have said it to a device's `run`.
    fn flags(&self) -> Vec<String> {
        let Self::Interface {
            ranges,
            names: Some(names),
        } = self
        else {
            return Vec::new();
        };
        let mut flags = vec!["--mode".to_owned(), "tun".to_owned()];
        let mut flag = |name: &str, value: &str| flags.extend([name.to_owned(), value.to_owned()]);
        flag("--dns", names.mode.as_str());
        ranges.iter().for_each(|range| flag("--range", range));
        let outside = names.outside.iter();
        outside.for_each(|name| flag("--dns-outside", name));
        flags
    }

    fn names(&self) -> Option<names::Settings> {
        match self {
            Self::Sockets => None,
            Self::Interface { names, .. } => names.clone(),
        }
    }
}

/// What only a device's agent is told.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// Where facts come from.
    pub(super) posture: cardea_device::posture::Settings,
    /// The number of who may drive it beside root, when somebody was named.
    pub(super) operator: Option<u32>,
    /// The number of who became root to run this program, where that is known.
    pub(super) behind_sudo: Option<u32>,
}

/// Enrolls when new; an enrolled node stays what it is.
pub(super) fn enroll(
    program: Program,
    settings: &Settings,
    code: &CodeArgument,
    device: Option<Device>,
) -> Result<(), Failure> {
    let invite = code
        .read()?
        .ok_or_else(|| client::not_enrolled(program.name))?;
    prepare(program, settings)?;
    let dir = open(settings)?;
    if let Some(node) = load(&dir)? {
        return Err(Failure::new(
            Code::Failed,
            format!(
                "this machine is enrolled already, as {} ({}) of {}. To enroll it anew, stop {program} and move {} away. \
                 To connect: {program} up",
                node.name,
                node.id,
                node.domain,
                settings.state.display(),
                program = program.name
            ),
        ));
    }
    block_on(apply(
        program,
        settings,
        code,
        &invite,
        &dir,
        device.as_ref(),
    ))??;
    keep_operator(&dir, device.as_ref())
}

/// Enrolls when new, and serves.
pub(super) fn up(
    program: Program,
    settings: &Settings,
    code: &CodeArgument,
    (device, local): (Option<Device>, &Local),
) -> Result<(), Failure> {
    let invite = code.read()?;
    prepare(program, settings)?;
    let dir = match invite {
        Some(_) => open(settings)?,
        None => open_enrolled(program, settings)?,
    };
    let node = match (load(&dir)?, invite) {
        (None, None) => return Err(client::not_enrolled(program.name)),
        (None, Some(invite)) => block_on(apply(
            program,
            settings,
            code,
            &invite,
            &dir,
            device.as_ref(),
        ))??,
        (Some(node), None) => node,
        (Some(node), Some(invite)) => {
            same_controller(&node, &invite)?;
            talk::say(&format!("enrolled already, as {} ({})", node.name, node.id));
            node
        }
    };
    keep_operator(&dir, device.as_ref())?;
    if code.is_on_the_command_line() {
        // A long-running program does not show a code to whoever lists processes.
        drop(dir);
        return Err(become_run(program.name, settings, (device.as_ref(), local)));
    }
    serve(settings, dir, node, (device, local), Until::Removed)
}

/// Serves as the node that is enrolled here.
pub(super) fn run(
    program: Program,
    settings: &Settings,
    device: Option<Device>,
    local: &Local,
) -> Result<(), Failure> {
    prepare(program, settings)?;
    let dir = open_enrolled(program, settings)?;
    let node = load(&dir)?.ok_or_else(|| client::not_enrolled(program.name))?;
    keep_operator(&dir, device.as_ref())?;
    let until = if settings.until_removed {
        Until::Removed
    } else {
        Until::Asked
    };
    serve(settings, dir, node, (device, local), until)
}

/// What comes before the first socket of all: what strangers see is the same from then on.
fn prepare(program: Program, settings: &Settings) -> Result<(), Failure> {
    process::prepare();
    settings.guard.install(program.name)
}

async fn apply(
    program: Program,
    settings: &Settings,
    code: &CodeArgument,
    invite: &InviteCode,
    dir: &StateDir,
    device: Option<&Device>,
) -> Result<Node, Failure> {
    let applicant = Applicant {
        dir,
        role: program.role,
        name: code.wanted_name(&settings.file),
        posture: device.map(|device| device.posture.clone()),
        proxy: settings.proxy.clone(),
    };
    let node = applicant.enroll(invite).await?;
    if let Some(user) = device.and_then(|device| device.behind_sudo) {
        operator::save(dir, user).map_err(|error| error.failure())?;
    }
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

/// Remembers who was named.
fn keep_operator(dir: &StateDir, device: Option<&Device>) -> Result<(), Failure> {
    match device.and_then(|device| device.operator) {
        Some(user) => operator::save(dir, user).map_err(|error| error.failure()),
        None => Ok(()),
    }
}

/// Who may ask the agent beside root, and where: at the machine's socket, unless another is named.
fn operator(settings: &Settings, dir: &StateDir) -> Result<Option<Operator>, Failure> {
    let machine = files::default_state("cardea").is_some_and(|state| state == settings.state);
    let socket = match &settings.socket {
        Some(socket) => Some(socket.as_path()),
        None if machine => Some(Path::new(operator::SOCKET)),
        None => None,
    };
    match socket {
        Some(socket) => Operator::load(dir, socket).map_err(storage),
        None => Ok(None),
    }
}

fn serve(
    settings: &Settings,
    dir: StateDir,
    node: Node,
    (device, local): (Option<Device>, &Local),
    until: Until,
) -> Result<(), Failure> {
    let net = Net {
        direct: settings.direct.clone(),
        proxy: settings.proxy.clone(),
    };
    let usual = match node.id {
        NodeId::Connector(_) => Ranges::connector(&node.domain),
        NodeId::Device(_) => Ranges::usual(&node.domain),
    };
    let ranges = ranges(local, usual)?;
    let result = match (node.id, device) {
        (NodeId::Device(id), Some(device)) => {
            let told = control::agent::Device {
                posture: device.posture,
                operator: operator(settings, &dir)?,
                interface: ranges.zip(local.names()),
            };
            block_on(control::agent::run(dir, node, id, told, net, until))?
        }
        (NodeId::Connector(id), None) => {
            block_on(control::connector::run(dir, node, id, (net, ranges), until))?
        }
        (NodeId::Device(_), None) => return Err(wrong_program("cardea")),
        (NodeId::Connector(_), Some(_)) => return Err(wrong_program("cardea-connector")),
    };
    match result {
        Ok(None) => Ok(()),
        Ok(Some(ended)) => Err(ended.into()),
        Err(error) => Err(Failure::new(Code::Failed, error.to_string())),
    }
}

/// The ranges of an interface's addresses; `None` without an interface.
fn ranges(local: &Local, usual: Ranges) -> Result<Option<Ranges>, Failure> {
    let Local::Interface { ranges, .. } = local else {
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
fn become_run(
    program: &str,
    settings: &Settings,
    (device, local): (Option<&Device>, &Local),
) -> Failure {
    let mut arguments: Vec<OsString> = vec!["run".into()];
    let mut flag = |name: &str, value: Option<&PathBuf>| {
        if let Some(value) = value {
            arguments.push(name.into());
            arguments.push(value.into());
        }
    };
    flag("--state", Some(&settings.state));
    flag("--config", settings.config.as_ref());
    flag("--socket", settings.socket.as_ref());
    flag(
        "--facts-from",
        device.and_then(|device| device.posture.facts_from.as_ref()),
    );
    arguments.push("--until-removed".into());
    arguments.extend(local.flags().into_iter().map(OsString::from));
    arguments.extend(settings.way_flags());
    arguments.extend((0..settings.verbose).map(|_| OsString::from("-v")));
    let error = match std::env::current_exe() {
        Ok(this) => {
            let mut command = std::process::Command::new(this);
            // Where nobody who lists processes reads its password.
            let proxy = settings.proxy.as_ref();
            command.envs(proxy.map(|proxy| ("HTTPS_PROXY", proxy.reveal())));
            // The spelling that comes first.
            command.envs(proxy.map(|proxy| ("no_proxy", proxy.exceptions().text())));
            command.args(arguments).exec()
        }
        Err(error) => error,
    };
    Failure::new(
        Code::Failed,
        format!("enrolled, but the daemon did not start: {error}. Start it: {program} run"),
    )
}

/// The node of the state directory, to be looked at beside whoever has it open.
pub(super) fn enrolled(program: Program, settings: &Settings) -> Result<Node, Failure> {
    let dir = Dir::open(&settings.state).map_err(storage)?;
    let node = Node::load(&dir).map_err(storage)?;
    node.ok_or_else(|| client::not_enrolled(program.name))
}

fn open(settings: &Settings) -> Result<StateDir, Failure> {
    StateDir::open(&settings.state).map_err(|error| error.failure())
}

/// The state of who enrolled here; where nobody did, nothing is made.
fn open_enrolled(program: Program, settings: &Settings) -> Result<StateDir, Failure> {
    match client::enrolled(&settings.state) {
        Some(false) => Err(client::not_enrolled(program.name)),
        Some(true) | None => open(settings),
    }
}

fn load(dir: &StateDir) -> Result<Option<Node>, Failure> {
    Node::load(dir).map_err(|error| error.failure())
}

fn storage(error: impl fmt::Display) -> Failure {
    Failure::new(Code::Storage, error.to_string())
}

/// Runs a future on a runtime of one thread: this one.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map(|runtime| runtime.block_on(future))
        .map_err(|error| {
            Failure::new(
                Code::Failed,
                format!("no runtime: {error}. {}", io_advice(&error)),
            )
        })
}
