//! The command line of `cardea`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use cardea_host::{
    arguments,
    clock::Clock,
    exit::{Code, Failure, finish, io_advice},
    files,
    guard::GuardCommand,
    process,
};
use cardea_proto::{
    admin::Warning,
    app::{Service, Target},
    decision::Check,
    identity::Role,
    local::{ControllerState, LocalAnswer, LocalRequest},
    name::Name,
    posture::PostureVerdict,
    refusal::{Refusal, RefusalCode},
};
use clap::{Parser, Subcommand, ValueEnum};

use super::{
    CodeArgument, Output, Place, Settings, client, doctor, forward, netcheck,
    show::{self, PostureOutput},
    start::{self, Device, Local, Program},
};
use crate::{names, talk};

const PROGRAM: Program = Program {
    name: "cardea",
    role: Role::Device,
};

/// How long `up` waits for a running daemon to be connected.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// How often it looks.
const LOOK_TIME: Duration = Duration::from_millis(100);

/// Reaches applications, never networks.
#[derive(Debug, Parser)]
#[command(
    name = "cardea",
    version,
    about,
    after_help = "Start here: cardea up CODE"
)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Makes the device key, proves it and gets the first certificate
    #[command(after_help = "Example: cardea enroll --code-file code.txt")]
    Enroll {
        #[command(flatten)]
        code: CodeArgument,
        #[command(flatten)]
        facts: Facts,
        #[command(flatten)]
        operator: OperatorArgument,
    },
    /// Enrolls when new and connects: asks the running daemon, or becomes it
    #[command(
        after_help = "Examples:\n  cardea up CODE     on a new device\n  cardea up          afterwards"
    )]
    Up {
        #[command(flatten)]
        code: CodeArgument,
        #[command(flatten)]
        way: Way,
        #[command(flatten)]
        facts: Facts,
        #[command(flatten)]
        operator: OperatorArgument,
    },
    /// Disconnects, and stays so until `up`
    #[command(after_help = "Example: cardea down")]
    Down,
    /// Serves as the daemon, in the foreground
    #[command(after_help = "Example: cardea run --state /var/lib/cardea/cardea")]
    Run {
        #[command(flatten)]
        way: Way,
        #[command(flatten)]
        facts: Facts,
        #[command(flatten)]
        operator: OperatorArgument,
    },
    /// Am I connected, as whom, with which posture and apps
    #[command(after_help = "Example: cardea status -o json")]
    Status {
        #[command(flatten)]
        output: OutputArgument,
    },
    /// What I may reach
    #[command(after_help = "Example: cardea apps -o yaml")]
    Apps {
        #[command(flatten)]
        output: OutputArgument,
    },
    /// Why I may or may not open an app
    #[command(after_help = "Example: cardea explain wiki")]
    Explain {
        /// The app
        app: Name,
        #[command(flatten)]
        output: OutputArgument,
    },
    /// Every fact that this device reports, with its evidence grade
    #[command(after_help = "Example: cardea posture")]
    Posture {
        #[command(flatten)]
        output: OutputArgument,
    },
    /// Reaches an app at a local address, until Ctrl-C
    #[command(
        after_help = "Examples:\n  cardea forward wiki\n  cardea forward db --listen 127.0.0.1:5432\n  cardea forward dns --service 53/udp"
    )]
    Forward {
        /// The app
        app: Name,
        /// Where to listen; port 0 takes any
        #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT", value_parser = parse_place)]
        listen: SocketAddr,
        /// Which port of the app: PORT, PORT/tcp or PORT/udp; the only one when not given
        #[arg(long, value_name = "PORT[/tcp|udp]", value_parser = parse_service)]
        service: Option<Service>,
    },
    /// Serves SOCKS5, whose destinations are names of apps, until Ctrl-C
    #[command(
        after_help = "Example: cardea proxy, then: curl --proxy socks5h://127.0.0.1:1080 http://wiki/"
    )]
    Proxy {
        /// Where to listen; port 0 takes any
        #[arg(long, default_value = "127.0.0.1:1080", value_name = "ADDRESS:PORT", value_parser = parse_place)]
        socks5: SocketAddr,
    },
    /// What the agent changed so that the system finds names of apps
    #[command(after_help = "Example: cardea dns restore")]
    Dns {
        #[command(subcommand)]
        verb: DnsVerb,
    },
    /// Tests how this device reaches apps, names first, and says what to do
    #[command(after_help = "Example: cardea doctor -o json")]
    Doctor {
        #[command(flatten)]
        output: OutputArgument,
    },
    /// Looks at the network: controllers by UDP and TLS, relays, NAT, MTU, clock; and what to do
    #[command(after_help = "Example: cardea netcheck -o json")]
    Netcheck {
        #[command(flatten)]
        output: OutputArgument,
    },
    /// The host guard, which `--guard` puts before this machine's ports
    #[command(after_help = "Example: cardea guard remove")]
    Guard {
        /// What to do with it
        #[command(subcommand)]
        verb: GuardCommand,
    },
    /// Prints completions for a shell
    #[command(after_help = "Example: cardea completion bash > /etc/bash_completion.d/cardea")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages into a directory
    #[command(after_help = "Example: cardea man /usr/local/share/man/man1")]
    Man {
        /// The directory
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum DnsVerb {
    /// Puts back what the system asked before, also after a crash
    #[command(after_help = "Example: cardea dns restore")]
    Restore,
}

/// Where facts come from.
#[derive(clap::Args, Clone, Debug)]
struct Facts {
    /// JSON file whose facts replace real ones (tests and demos; controllers refuse them)
    #[arg(long, env = "CARDEA_FACTS_FROM", value_name = "FILE")]
    facts_from: Option<PathBuf>,
}

/// How apps are reached.
#[derive(clap::Args, Clone, Debug)]
struct Way {
    /// How apps are reached; by default in userspace, but for `up` as the machine's own agent
    #[arg(long, value_enum, env = "CARDEA_MODE")]
    mode: Option<Mode>,
    /// Where apps have their addresses with --mode tun: one range for IPv4, one for IPv6
    #[arg(
        long,
        env = "CARDEA_RANGES",
        value_delimiter = ',',
        value_name = "ADDRESS/BITS"
    )]
    range: Vec<String>,
    /// How the system finds names of apps with --mode tun
    #[arg(long, value_enum, default_value_t, env = "CARDEA_DNS")]
    dns: names::Mode,
    /// A name below the trust domain that is no app's, with all below it: the system's other servers
    /// answer it; may be repeated
    #[arg(
        long,
        env = "CARDEA_DNS_OUTSIDE",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    dns_outside: Vec<String>,
}

/// Who may drive an agent that runs as root.
#[derive(clap::Args, Clone, Debug)]
struct OperatorArgument {
    /// User who may ask this agent beside root; kept until another is named. Who enrolls by sudo is it
    #[arg(long, env = "CARDEA_OPERATOR", value_name = "USER")]
    operator: Option<String>,
    /// Who became root to run this, as `sudo` says
    #[arg(long, env = "SUDO_UID", hide = true)]
    behind_sudo: Option<u32>,
}

/// How output is written.
#[derive(clap::Args, Clone, Copy, Debug)]
struct OutputArgument {
    /// How output is written
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// How apps are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Through local listeners, without root.
    Userspace,
    /// Through a network interface, as root.
    Tun,
}

/// Runs `cardea`.
#[must_use]
pub fn main() -> ExitCode {
    finish(run(arguments::parse::<Arguments>()))
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = arguments.place.settle(PROGRAM.name)?;
    match arguments.verb {
        Verb::Enroll {
            code,
            facts,
            operator,
        } => {
            let device = device(&settings, facts, operator)?;
            start::enroll(PROGRAM, &settings, &code, Some(device))
        }
        Verb::Up {
            code,
            facts,
            operator,
            ..
        } if client::is_running(&settings) => connect(&settings, &code, &facts, &operator),
        Verb::Up {
            code,
            way,
            facts,
            operator,
        } => become_daemon(&settings, &code, way, (facts, operator)),
        Verb::Down => done(&ask(&settings, &LocalRequest::Down)?),
        Verb::Run {
            way,
            facts,
            operator,
        } => serve(&settings, way, (facts, operator)),
        Verb::Status { output } => show_status(&settings, output.output),
        Verb::Apps { output } => show_apps(&settings, output.output),
        Verb::Explain { app, output } => explain(&settings, app, output.output),
        Verb::Posture { output } => show_posture(&settings, output.output),
        Verb::Forward {
            app,
            listen,
            service,
        } => {
            let what = app.to_string();
            let request = LocalRequest::Forward {
                app,
                service,
                listen: listen.to_string(),
            };
            forward::hold(&settings, PROGRAM.name, &request, &what)
        }
        Verb::Proxy { socks5 } => {
            let request = LocalRequest::Proxy {
                listen: socks5.to_string(),
            };
            forward::hold(&settings, PROGRAM.name, &request, "SOCKS5")
        }
        Verb::Dns {
            verb: DnsVerb::Restore,
        } => doctor::restore_dns(&settings, PROGRAM.name),
        Verb::Doctor { output } => doctor::examine(&settings, PROGRAM.name, output.output),
        Verb::Netcheck { output } => netcheck::examine(PROGRAM, &settings, output.output),
        Verb::Guard { verb } => {
            talk::say(verb.carry_out()?.trim_end());
            Ok(())
        }
        Verb::Completion { shell } => {
            super::complete::<Arguments>(PROGRAM.name, shell);
            Ok(())
        }
        Verb::Man { directory } => super::manual::<Arguments>(&directory),
    }
}

/// Enrolls when new, and serves.
fn become_daemon(
    settings: &Settings,
    code: &CodeArgument,
    way: Way,
    (facts, operator): (Facts, OperatorArgument),
) -> Result<(), Failure> {
    let device = device(settings, facts, operator)?;
    let local = way.local(usual_mode(settings));
    start::up(PROGRAM, settings, code, (Some(device), &local))
}

fn serve(
    settings: &Settings,
    way: Way,
    (facts, operator): (Facts, OperatorArgument),
) -> Result<(), Failure> {
    let device = device(settings, facts, operator)?;
    let local = way.local(Mode::Userspace);
    start::run(PROGRAM, settings, Some(device), &local)
}

/// What `up` does where nothing is said: who is root and means this machine's own agent wants apps for
/// every program of it.
fn usual_mode(settings: &Settings) -> Mode {
    let is_root = process::effective_user() == 0;
    let machine = files::default_state(PROGRAM.name);
    if is_root && machine.is_some_and(|state| state == settings.state) {
        Mode::Tun
    } else {
        Mode::Userspace
    }
}

impl Way {
    fn local(self, usual: Mode) -> Local {
        match self.mode.unwrap_or(usual) {
            Mode::Userspace => Local::Sockets,
            Mode::Tun => Local::Interface {
                ranges: self.range,
                names: Some(names::Settings {
                    mode: self.dns,
                    outside: self.dns_outside,
                }),
            },
        }
    }
}

fn device(
    settings: &Settings,
    facts: Facts,
    argument: OperatorArgument,
) -> Result<Device, Failure> {
    let mut posture = cardea_device::posture::Settings::new(&settings.state);
    posture.facts_from = facts
        .facts_from
        .or_else(|| settings.file.facts_from.clone());
    let operator = match argument.operator {
        None => None,
        Some(name) => {
            let found = process::find_user(&name).map_err(|error| {
                Failure::new(
                    Code::Failed,
                    format!("user {name}: {error}. {}", io_advice(&error)),
                )
            })?;
            let unknown = || {
                Failure::new(
                    Code::Usage,
                    format!(
                        "--operator {name}: this machine has no such user. Name one that it has"
                    ),
                )
            };
            Some(found.ok_or_else(unknown)?)
        }
    };
    let behind_sudo = argument
        .behind_sudo
        .filter(|user| process::effective_user() == 0 && *user != 0);
    Ok(Device {
        posture,
        operator,
        behind_sudo,
    })
}

fn ask(settings: &Settings, request: &LocalRequest) -> Result<LocalAnswer, Failure> {
    client::ask(settings, PROGRAM.name, request)
}

fn done(answer: &LocalAnswer) -> Result<(), Failure> {
    let LocalAnswer::Done(line) = answer else {
        return Err(client::unexpected());
    };
    talk::say(line);
    Ok(())
}

fn show_status(settings: &Settings, output: Output) -> Result<(), Failure> {
    let LocalAnswer::Status(status) = ask(settings, &LocalRequest::Status)? else {
        return Err(client::unexpected());
    };
    show::show(output, &*status, show::status)
}

fn show_apps(settings: &Settings, output: Output) -> Result<(), Failure> {
    let LocalAnswer::Apps(apps) = ask(settings, &LocalRequest::Apps)? else {
        return Err(client::unexpected());
    };
    show::show(output, &apps, |apps| show::apps(apps))
}

fn explain(settings: &Settings, app: Name, output: Output) -> Result<(), Failure> {
    let LocalAnswer::Explained(decision) = ask(settings, &LocalRequest::Explain(app))? else {
        return Err(client::unexpected());
    };
    show::show(output, &*decision, ToString::to_string)
}

/// Asks the running daemon to connect, and waits until it is.
fn connect(
    settings: &Settings,
    code: &CodeArgument,
    facts: &Facts,
    operator: &OperatorArgument,
) -> Result<(), Failure> {
    if code.read()?.is_some() {
        talk::say("this device is enrolled and its daemon runs; the code was not used");
    }
    if facts.facts_from.is_some() {
        talk::say("the daemon that runs already keeps its own facts");
    }
    if operator.operator.is_some() {
        talk::say("the daemon that runs already keeps its operator until it is started anew");
    }
    let answer = ask(settings, &LocalRequest::Up)?;
    let clock = Clock::system();
    let deadline = clock.now().instant + CONNECT_TIME;
    loop {
        let LocalAnswer::Status(status) = ask(settings, &LocalRequest::Status)? else {
            return Err(client::unexpected());
        };
        if status.controller.state == ControllerState::Connected {
            talk::say(&format!("connected to {}", status.controller.address));
            return bars(&status.warnings).map_or(Ok(()), Err);
        }
        let is_lost = status.controller.state == ControllerState::Unreachable;
        if let Some(bars) = bars(&status.warnings).filter(|_| is_lost) {
            return Err(bars);
        }
        if clock.until(deadline).is_zero() {
            let why = status.warnings.first().map_or_else(
                || format!("controller {} does not answer", status.controller.address),
                |warning| format!("{}. {}", warning.title, warning.fix),
            );
            return Err(Failure::new(Code::NotReachable, why));
        }
        if matches!(answer, LocalAnswer::Done(_)) {
            std::thread::park_timeout(LOOK_TIME);
        }
    }
}

/// Why this device opens nothing until an admin does something, with the code of any other command
/// that meets the same.
fn bars(warnings: &[Warning]) -> Option<Failure> {
    [RefusalCode::Blocked, RefusalCode::NotProven]
        .into_iter()
        .find_map(|code| {
            let warning = warnings
                .iter()
                .find(|warning| warning.code == code.to_string())?;
            Some(Failure::from(
                Refusal::new(code, &warning.title).with_next(&warning.fix),
            ))
        })
}

/// Prints the facts; a posture that fails is the command's failure, with what to do.
fn show_posture(settings: &Settings, output: Output) -> Result<(), Failure> {
    let LocalAnswer::Posture { report, verdict } = ask(settings, &LocalRequest::Posture)? else {
        return Err(client::unexpected());
    };
    let shown = PostureOutput::new(&report, verdict.as_ref());
    show::show(output, &shown, PostureOutput::table)?;
    match verdict {
        Some(verdict) if !verdict.compliant => Err(posture_failure(verdict)),
        Some(_) | None => Ok(()),
    }
}

/// What fails, then what to do: the remedy of each check stands in the table above.
fn posture_failure(verdict: PostureVerdict) -> Failure {
    let failed = if verdict.failed.is_empty() {
        verdict.reasons()
    } else {
        verdict.failed.iter().map(Check::place).collect()
    };
    let remedy = verdict.remedy.unwrap_or_default();
    Failure::of(Code::Posture, "posture fails", failed.join("; "), &remedy)
}

/// An address of this machine with a port.
fn parse_place(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "not ADDRESS:PORT, such as 127.0.0.1:8080".to_owned())
}

/// `PORT`, `PORT/tcp` or `PORT/udp`, read by the rule for targets.
fn parse_service(text: &str) -> Result<Service, String> {
    format!("app:{text}")
        .parse::<Target>()
        .map(|target| target.service)
        .map_err(|_| "not PORT, PORT/tcp or PORT/udp".to_owned())
}

#[cfg(test)]
mod tests {
    use cardea_proto::app::Protocol;
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_has_an_example() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands_mut() {
            let name = verb.get_name().to_owned();
            assert!(verb.get_after_help().is_some(), "{name}");
        }
    }

    #[test]
    fn what_fails_is_said_with_its_remedy_once() {
        let remedy = "Turn on disk encryption";
        let check = Check {
            subject: "disk.encrypted".to_owned(),
            observed: "false".to_owned(),
            needed: "true".to_owned(),
            rule: "base/certify".to_owned(),
            remedy: Some(remedy.to_owned()),
        };
        let verdict = PostureVerdict {
            compliant: false,
            checked_at: cardea_proto::time::UnixMillis(0),
            failed: vec![check],
            remedy: Some(format!("{remedy}, then: cardea posture")),
            report: None,
            why: None,
            clock_skew_s: None,
            blocked: false,
        };
        let failure = posture_failure(verdict);
        assert_eq!(failure.code, 6);
        assert_eq!(
            failure.message,
            "posture fails: disk.encrypted is false on this device (needed: true, rule base/certify). \
             Turn on disk encryption, then: cardea posture"
        );
    }

    #[test]
    fn up_fails_as_any_other_command_does_where_only_a_person_can_help() {
        let warning = |code: &str| Warning {
            code: code.to_owned(),
            title: "this device is out".to_owned(),
            fix: "Ask an admin".to_owned(),
        };
        for (code, exit) in [
            ("blocked", Some(3)),
            ("not_proven", Some(4)),
            ("posture_failed", None),
            ("controller_unreachable", None),
        ] {
            let failure = bars(&[warning("other"), warning(code)]);
            assert_eq!(failure.as_ref().map(|failure| failure.code), exit, "{code}");
            if let Some(failure) = failure {
                assert_eq!(failure.message, "this device is out. Ask an admin");
            }
        }
    }

    #[test]
    fn a_service_is_a_port_with_its_protocol() {
        let service = |port, protocol| Ok(Service { protocol, port });
        assert_eq!(parse_service("80"), service(80, Protocol::Tcp));
        assert_eq!(parse_service("53/udp"), service(53, Protocol::Udp));
        for wrong in ["", "0", "x", "53/sctp", "1:2"] {
            assert!(parse_service(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn manual_pages_are_written_for_every_verb() {
        let place = tempfile::tempdir().unwrap();
        super::super::manual::<Arguments>(place.path()).unwrap();
        for page in ["cardea.1", "cardea-up.1", "cardea-forward.1"] {
            assert!(place.path().join(page).exists(), "{page}");
        }
    }
}
