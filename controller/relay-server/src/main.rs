//! `cardea-relay`: forwards sealed datagrams that it cannot read.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use cardea_host::{
    arguments,
    detour::Detours,
    exit::{self, Code, Failure, io_advice},
    guard::{Guard, GuardCommand},
    process,
    supervisor::Supervisor,
    telemetry::{self, Level},
};
use cardea_relay_server::{
    Control, Server,
    config::{Config, DecoyFiles, Rate, default_listen},
    front::{Controller, Front, Keeper, RunningFront, Targets},
};

/// Forwards sealed datagrams between the two ends of a tunnel. It cannot read them, keeps nothing on
/// disk, and answers nobody without a ticket that its controller signed.
#[derive(Debug, Parser)]
#[command(name = "cardea-relay", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until it is stopped.
    #[command(after_help = EXAMPLES)]
    Run(Box<Run>),
    /// The host guard, which `--guard` puts before this machine's ports.
    #[command(after_help = "Example:\n  cardea-relay guard remove")]
    Guard {
        #[command(subcommand)]
        command: GuardCommand,
    },
    /// Prints completions for a shell.
    #[command(
        after_help = "Example:\n  cardea-relay completion bash > /etc/bash_completion.d/cardea-relay"
    )]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes all of them into a directory.
    #[command(after_help = "Example:\n  cardea-relay man --out /usr/local/share/man/man1")]
    Man {
        /// The directory.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Where to listen; by default on port 7444 of every address of both families
    #[arg(long, value_name = "ADDRESS:PORT", env = "CARDEA_LISTEN")]
    listen: Option<SocketAddr>,
    /// The controller's public ticket key: 64 hexadecimal digits, or a file that holds them
    #[arg(long, value_name = "HEX|FILE", env = "CARDEA_TICKET_KEY")]
    ticket_key: Option<String>,
    /// Where to take TLS (TCP) as well, for nodes whose network drops UDP; 443 passes most firewalls
    #[arg(long, value_name = "ADDRESS:PORT", env = "CARDEA_LISTEN_TLS")]
    listen_tls: Option<SocketAddr>,
    /// What this relay shares with the controller to know its nodes: the file keys/front.key
    #[arg(long, value_name = "FILE", env = "CARDEA_FRONT_KEY")]
    front_key: Option<String>,
    /// Where the controller is, to which TLS leads as well
    #[arg(long, value_name = "HOST:PORT", env = "CARDEA_CONTROLLER")]
    controller: Option<String>,
    /// What strangers see at the TLS port instead of nothing: a certificate and its key (PEM), and
    /// perhaps a page
    #[arg(long, value_name = "CERT,KEY[,PAGE]", env = "CARDEA_TLS_DECOY")]
    tls_decoy: Option<DecoyFiles>,
    /// How much one end of a tunnel may send, such as 50mbit; by default as much as it likes
    #[arg(long, value_name = "RATE", env = "CARDEA_RELAY_RATE")]
    relay_rate: Option<Rate>,
    /// What keeps this machine from telling strangers which UDP ports are closed: none or nft (as root)
    #[arg(long, value_name = "GUARD", env = "CARDEA_GUARD")]
    guard: Option<Guard>,
    /// Configuration file, TOML: listen, ticket_key, listen_tls, front_key, controller, tls_decoy, guard, ends_max, idle, checks_per_second, relay_rate
    #[arg(long, value_name = "FILE", env = "CARDEA_CONFIG")]
    config: Option<PathBuf>,
    /// Says more; twice for every packet
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

const EXAMPLES: &str = "Examples:
  cardea-relay run --ticket-key ticket.pub
  cardea-relay run --listen 192.0.2.7:7444 --ticket-key ticket.pub
  cardea-relay run --config /etc/cardea/relay.toml";

fn main() -> ExitCode {
    exit::finish(match arguments::parse::<Cli>().command {
        Command::Run(run) => serve(*run),
        Command::Guard { command } => command.carry_out().and_then(|said| print(said.as_bytes())),
        Command::Completion { shell } => completion(shell),
        Command::Man { out } => manual(out),
    })
}

fn serve(run: Run) -> Result<(), Failure> {
    telemetry::init(Level::of_verbosity(run.verbose));
    let usage = |error: cardea_relay_server::config::ConfigError| {
        Failure::new(Code::Usage, format!("cardea-relay: {error}"))
    };
    let file = run
        .config
        .as_deref()
        .map(Config::load)
        .transpose()
        .map_err(usage)?
        .unwrap_or_default();
    let config = file.overridden(Config {
        listen: run.listen,
        ticket_key: run.ticket_key,
        listen_tls: run.listen_tls,
        front_key: run.front_key,
        controller: run.controller,
        tls_decoy: run.tls_decoy,
        guard: run.guard,
        relay_rate: run.relay_rate,
        ..Config::default()
    });
    let key = config.key().map_err(usage)?;
    // Before the port is open: what strangers see is the same from then on.
    config.guard.unwrap_or_default().install("cardea-relay")?;
    let mut server = bind(&config, key)?;
    let _front = front(&config, &mut server)?;
    let failed =
        |error: io::Error| Failure::of(Code::Failed, "cardea-relay", &error, io_advice(&error));
    let is_asked = stop_when_asked(server.control()).map_err(failed)?;
    server
        .serve_for(Supervisor::of_environment())
        .map_err(failed)?;
    if is_asked.load(Ordering::Relaxed) {
        return Ok(());
    }
    // Nothing else stops it. A relay without its front looks healthy and is not.
    let next = "Look at its log, then start it again";
    let why = "the front ended by itself";
    Err(Failure::of(Code::Failed, "cardea-relay", why, next))
}

/// Has the relay stop when somebody asks this process to end; says later whether that was why.
fn stop_when_asked(control: Control) -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asked = {
        let _within = runtime.enter();
        process::listen_for_end()?
    };
    let is_asked = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_asked);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(asked);
            told.store(true, Ordering::Relaxed);
            control.stop();
        })?;
    Ok(is_asked)
}

/// Stops the relay when this is dropped.
struct Stops(Control);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Starts the front, where there is to be one.
fn front(config: &Config, server: &mut Server) -> Result<Option<RunningFront>, Failure> {
    let usage = |error: cardea_relay_server::config::ConfigError| {
        Failure::new(Code::Usage, format!("cardea-relay: {error}"))
    };
    let Some(listen) = config.listen_tls else {
        return Ok(None);
    };
    if config.controller.is_none() {
        let why = "nodes that come by TLS reach their controller by it. Name it with --controller";
        return Err(Failure::new(Code::Usage, format!("--listen-tls: {why}")));
    }
    let keeper = Keeper::new(config.front_key().map_err(usage)?, None);
    let decoy = config.tls_decoy.as_ref().map(DecoyFiles::load);
    let decoy = decoy.transpose().map_err(usage)?;
    process::prepare();
    let detours = Detours::default();
    let targets = Targets {
        relay: server.serve_behind(detours.clone()),
        controller: config.controller.clone().map(Controller::At),
    };
    Front::bind(listen, keeper, decoy, (detours, targets))
        .and_then(|front| front.spawn(Stops(server.control())))
        .map(Some)
        .map_err(|error| {
            let next = "Choose another with --listen-tls ADDRESS:PORT";
            Failure::of(
                Code::Failed,
                &format!("cannot listen on {listen}"),
                error,
                next,
            )
        })
}

/// Binds where the configuration says; by default to both families, or IPv4 where there is no IPv6.
fn bind(config: &Config, key: [u8; 32]) -> Result<Server, Failure> {
    let listen = config.listen.unwrap_or_else(default_listen);
    let bound = match Server::bind(listen, key, config.settings()) {
        Err(error) if config.listen.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            let listen = (Ipv4Addr::UNSPECIFIED, listen.port()).into();
            Server::bind(listen, key, config.settings())
        }
        bound => bound,
    };
    bound.map_err(|error| {
        let (why, next) = if error.kind() == io::ErrorKind::AddrInUse {
            (
                "the port is in use by another program".to_owned(),
                "Choose another: cardea-relay run --listen ADDRESS:PORT",
            )
        } else {
            (error.to_string(), io_advice(&error))
        };
        Failure::of(
            Code::Failed,
            &format!("cannot listen on {listen}"),
            why,
            next,
        )
    })
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cardea-relay", &mut text);
    print(&text)
}

fn manual(out: Option<PathBuf>) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::of(Code::Failed, "cardea-relay man", &error, io_advice(&error));
    if let Some(out) = out {
        return clap_mangen::generate_to(Cli::command(), out).map_err(failed);
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut text)
        .map_err(failed)?;
    print(&text)
}

/// Writes to stdout; a reader that went away is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::of(
            Code::Failed,
            "cardea-relay",
            &error,
            io_advice(&error),
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn manual_pages_and_completions_are_made_from_the_same_definitions() {
        let folder = tempfile::tempdir().unwrap();
        manual(Some(folder.path().to_owned())).unwrap();
        let page = std::fs::read_to_string(folder.path().join("cardea-relay-run.1")).unwrap();
        assert!(page.contains("ticket"));
    }
}
