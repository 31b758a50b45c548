//! `cardea-controller`.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use cardea_host::{
    exit::{self, Code, Failure, io_advice},
    files::{Dir, StateDir, StateError},
    process,
    telemetry::{self, Level},
};
use cardea_server::{
    arguments::{Arguments, Command, Flags, RenewFlags, RepairFlags, RewrapFlags, UnlockFlag},
    config::{self, Config, Settings},
    folder, founding, no_state,
    seal::Seal,
    serve::{self, Service},
};
use cardea_store::{
    EmbeddedStore, Store,
    repair::{self, Examination},
};
use clap::CommandFactory;

fn main() -> ExitCode {
    let arguments = cardea_host::arguments::parse::<Arguments>();
    let level = match arguments.quiet {
        true => Level::Quiet,
        false => Level::of_verbosity(arguments.verbose),
    };
    telemetry::init(level);
    let keeps_state = match arguments.command {
        Command::Up(_)
        | Command::Init(_)
        | Command::Run(_)
        | Command::Renew(_)
        | Command::Repair(_)
        | Command::Rewrap(_) => true,
        Command::Guard { .. } | Command::Completion { .. } | Command::Man { .. } => false,
    };
    if keeps_state {
        process::prepare();
    }
    exit::finish(match arguments.command {
        Command::Up(flags) => up(flags),
        Command::Init(flags) => init(&flags),
        Command::Run(flags) => run(&flags),
        Command::Renew(flags) => renew(flags),
        Command::Repair(flags) => repair(&flags),
        Command::Rewrap(flags) => rewrap(flags),
        Command::Guard { command } => command.carry_out().map(say),
        Command::Completion { shell } => completion(shell),
        Command::Man { folder } => manual(folder),
    })
}

/// `init` when new, then `run`, with the relay.
fn up(mut flags: Flags) -> Result<(), Failure> {
    let path = folder::state_path(flags.state.clone())?;
    is_there(&path)?;
    let mut config = configuration(&flags, &path)?;
    if config.relay.embedded.is_none() {
        config.relay.embedded = Some(true);
        flags.relay = Some(true);
    }
    // A value out of its range is told before anything is made.
    Settings::of(config.clone())?;
    let state = StateDir::open(&path).map_err(refused)?;
    let seal = Seal::establish(&state, config.unlock.as_ref())?;
    if is_new(&state, &seal)? {
        let report = founding::found(&state, &seal, &config)?;
        say(&founding::farewell(&path, &report));
    }
    serve(state, seal, config)
}

fn init(flags: &Flags) -> Result<(), Failure> {
    let path = folder::state_path(flags.state.clone())?;
    is_there(&path)?;
    let config = configuration(flags, &path)?;
    Settings::of(config.clone())?;
    let state = StateDir::open(&path).map_err(refused)?;
    let seal = Seal::establish(&state, config.unlock.as_ref())?;
    let report = founding::found(&state, &seal, &config)?;
    say(&founding::farewell(&path, &report));
    let place = path.display();
    say(&format!("Then: cardea-controller run --state {place}\n"));
    Ok(())
}

fn run(flags: &Flags) -> Result<(), Failure> {
    let path = folder::state_path(flags.state.clone())?;
    check(&path)?;
    let config = configuration(flags, &path)?;
    let state = StateDir::open(&path).map_err(refused)?;
    if !EmbeddedStore::exists(&path) {
        return Err(no_state(&path));
    }
    let seal = Seal::open(&state, config.unlock.as_ref())?;
    serve(state, seal, config)
}

fn serve(state: StateDir, seal: Seal, config: Config) -> Result<(), Failure> {
    let settings = Settings::of(config)?;
    serve::run(state, &seal, &settings, |service: &Service| {
        if let Some(relay) = service.relay() {
            say(&format!("relay on {relay}\n"));
        }
        if let Some(front) = service.front() {
            say(&format!("TLS on {front}\n"));
        }
        say(&format!("listening on {}\n", service.listening()));
    })
}

fn renew(flags: RenewFlags) -> Result<(), Failure> {
    let (state, seal) = existing(flags.state, flags.unlock)?;
    let path = state.path().to_owned();
    let mut store = EmbeddedStore::new(&path).sealed_with(seal.key());
    let loaded = store.load().map_err(founding::damaged)?;
    let founded = loaded.state.founded().ok_or_else(|| no_state(&path))?;
    let root = flags.root.unwrap_or_else(|| path.join("root"));
    let ends = founding::renew(&state, &seal, &root, founded)?;
    say(&format!(
        "The intermediate certificate lives until {}.\n",
        ends.to_rfc3339()
    ));
    Ok(())
}

/// Says what is whole, what is not, and what can be done; cuts only when told to.
fn repair(flags: &RepairFlags) -> Result<(), Failure> {
    let (state, seal) = existing(flags.state.clone(), flags.unlock.clone())?;
    let path = state.path();
    let damage = match repair::examine(path, seal.key()).map_err(founding::damaged)? {
        Examination::Whole { last, torn } => {
            let torn = torn.map_or_else(String::new, |torn| {
                format!(
                    " The next start cuts off {} bytes that were never acknowledged.",
                    torn.bytes
                )
            });
            say(&format!("The ledger is whole: {last} entries.{torn}\n"));
            return Ok(());
        }
        Examination::Damaged(damage) => damage,
    };
    if !flags.cut || damage.whole.0 == 0 {
        say(&founding::choices(path, &damage));
        return Err(Failure::of(
            Code::Storage,
            "ledger",
            "it is damaged",
            "What can be done stands above",
        ));
    }
    let kept = repair::cut(path, &damage).map_err(founding::damaged)?;
    say(&format!(
        "The ledger ends with entry {}. The files as they were are in {}.\n{}",
        damage.whole,
        kept.display(),
        founding::ROLLED_BACK
    ));
    Ok(())
}

/// Wraps the key of a sealed state with another secret, and writes where it comes from into the
/// configuration, where the old one stands there.
fn rewrap(flags: RewrapFlags) -> Result<(), Failure> {
    let (state, seal) = existing(flags.state, flags.unlock)?;
    let path = state.path().to_owned();
    seal.rewrap(&state, &flags.to)?;
    let file = path.join(config::FILE);
    if let Some(mut config) = Config::read(&file)?.filter(|config| config.unlock.is_some()) {
        config.unlock = Some(flags.to.clone());
        let text = config.to_toml();
        let written = state.write_atomic(config::FILE, text.as_bytes());
        written.map_err(refused)?;
    }
    say(&format!(
        "The state opens with {} from now on, and no longer with what opened it before. \
         Backups made until now still need that.\n",
        flags.to
    ));
    Ok(())
}

/// The state that is there, opened with the key that the flag names, or the configuration file.
fn existing(path: Option<PathBuf>, flag: UnlockFlag) -> Result<(StateDir, Seal), Failure> {
    let path = folder::state_path(path)?;
    check(&path)?;
    let state = StateDir::open(&path).map_err(refused)?;
    if !EmbeddedStore::exists(&path) {
        return Err(no_state(&path));
    }
    let unlock = match flag.unlock {
        Some(unlock) => Some(unlock),
        None => Config::read(&path.join(config::FILE))?.and_then(|config| config.unlock),
    };
    let seal = Seal::open(&state, unlock.as_ref())?;
    Ok((state, seal))
}

/// The file, under the flags.
fn configuration(flags: &Flags, state: &Path) -> Result<Config, Failure> {
    let file = match &flags.config {
        Some(path) => Config::read(path)?.ok_or_else(|| {
            let place = path.display().to_string();
            Failure::of(
                Code::Usage,
                &place,
                "there is no such file",
                "Name another with --config",
            )
        })?,
        None => Config::read(&state.join(config::FILE))?.unwrap_or_default(),
    };
    Ok(file.under(flags))
}

/// A folder that is not there is not made by a command that needs what is in it.
fn check(path: &Path) -> Result<(), Failure> {
    if is_there(path)? {
        Ok(())
    } else {
        Err(no_state(path))
    }
}

/// Whether there is a folder at `path`; one that is not ours is refused before anything in it is read.
fn is_there(path: &Path) -> Result<bool, Failure> {
    match Dir::open(path) {
        Ok(_) => Ok(true),
        Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

/// Whether a trust domain is still to be made; a founding that was interrupted made none.
fn is_new(state: &StateDir, seal: &Seal) -> Result<bool, Failure> {
    if !EmbeddedStore::exists(state.path()) {
        return Ok(true);
    }
    let mut store = EmbeddedStore::new(state.path()).sealed_with(seal.key());
    let loaded = store.load().map_err(founding::damaged)?;
    Ok(loaded.state.founded().is_none())
}

fn refused(error: StateError) -> Failure {
    folder::refused(error)
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(
        shell,
        &mut Arguments::command(),
        "cardea-controller",
        &mut text,
    );
    print(&text)
}

fn manual(folder: Option<PathBuf>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(Code::Failed, "man", &error, io_advice(&error));
    if let Some(folder) = folder {
        return clap_mangen::generate_to(Arguments::command(), folder).map_err(failed);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Arguments::command())
        .render(&mut text)
        .map_err(failed)?;
    print(&text)
}

/// Data, on stdout; a reader that has gone is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::of(
            Code::Failed,
            "stdout",
            &error,
            io_advice(&error),
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Talk, on stderr; where nobody listens, it is lost.
fn say(text: &str) {
    drop(io::stderr().write_all(text.as_bytes()));
}
