//! Command lines of `cardea` and `cardea-connector`.

pub mod agent;
pub mod connector;

mod client;
mod doctor;
mod forward;
mod netcheck;
mod show;
mod start;

use std::{
    ffi::OsString,
    fmt,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use cardea_host::{
    detour::Proxy,
    exit::{Code, Failure, io_advice},
    files::{self, ReadError},
    guard::Guard,
    telemetry::{self, Level},
};
use cardea_proto::{
    invite::{CODE_BYTES_MAX, InviteCode},
    name::Name,
};
use clap::{Args, CommandFactory, ValueEnum};
use serde::Deserialize;

use crate::{data::DirectSettings, local::SOCKET, operator};

/// Where things are and how loud to be: the same for every command.
#[derive(Args, Clone, Debug)]
struct Place {
    /// Directory where this program keeps its state
    #[arg(long, global = true, env = "CARDEA_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
    /// Configuration file (TOML); flags and environment go before it
    #[arg(long, global = true, env = "CARDEA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    direct: DirectArguments,
    #[command(flatten)]
    proxy: ProxyArguments,
    /// What keeps this machine from telling strangers which UDP ports are closed: none or nft (as root)
    #[arg(long, global = true, env = "CARDEA_GUARD", value_name = "GUARD")]
    guard: Option<Guard>,
    /// Socket of an agent that runs as root, for its operator
    #[arg(long, global = true, env = "CARDEA_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Ends when the controllers say that an admin removed this node: what `up` goes on as says so to
    /// whoever started it
    #[arg(long, global = true, hide = true)]
    until_removed: bool,
    /// Says more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Whether and where this machine is reached without a relay.
#[derive(Args, Clone, Debug)]
struct DirectArguments {
    /// Seeks no direct paths: everything goes through relays
    #[arg(long, global = true, env = "CARDEA_RELAY_ONLY")]
    relay_only: bool,
    /// UDP port for direct paths; any when not given
    #[arg(long, global = true, env = "CARDEA_DIRECT_PORT", value_name = "PORT")]
    direct_port: Option<u16>,
    /// Where this machine is reached directly, as when a router forwards the port; may be repeated
    #[arg(long, global = true, value_name = "ADDRESS:PORT")]
    candidate: Vec<SocketAddr>,
}

/// The proxy of a network that lets nothing else out.
#[derive(Args, Clone)]
struct ProxyArguments {
    /// HTTP proxy to a controller's TLS port, for when UDP does not pass: http://HOST:PORT, or with
    /// USER:PASSWORD@ before the host.
    /// A password belongs in the environment or in the file
    #[arg(
        long,
        global = true,
        env = "HTTPS_PROXY",
        hide_env_values = true,
        value_name = "URL"
    )]
    https_proxy: Option<String>,
    /// The same, as many write it
    #[arg(long, global = true, env = "https_proxy", hide = true)]
    https_proxy_too: Option<String>,
    /// Hosts to which the proxy is not used: names, which stand for all below them too, addresses and
    /// ranges of them, with commas between; * for all
    #[arg(long, global = true, env = "no_proxy", value_name = "HOST,…")]
    no_proxy: Option<String>,
    /// The same, as many write it
    #[arg(long, global = true, env = "NO_PROXY", hide = true)]
    no_proxy_too: Option<String>,
}

impl fmt::Debug for ProxyArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyArguments(…)")
    }
}

impl ProxyArguments {
    /// The proxy to use. What the environment says for all programs may be of no use to this one,
    /// which then goes without; what its own file says must be right.
    fn settle(&self, file: &File) -> Result<Option<Proxy>, Failure> {
        let given = [&self.no_proxy, &self.no_proxy_too, &file.no_proxy];
        let given = given.into_iter().flatten().find(|text| !text.is_empty());
        let Ok(exceptions) = given.map_or("", String::as_str).parse();
        Ok(self
            .proxy(file)?
            .map(|proxy: Proxy| proxy.except(exceptions)))
    }

    fn proxy(&self, file: &File) -> Result<Option<Proxy>, Failure> {
        let given = [&self.https_proxy, &self.https_proxy_too];
        let given = given.into_iter().flatten().find(|text| !text.is_empty());
        if let Some(text) = given {
            return Ok(text
                .parse()
                .inspect_err(|error| tracing::warn!(reason = %error, "HTTPS_PROXY is not used"))
                .ok());
        }
        let parsed = file.https_proxy.as_ref().map(|text| text.0.parse());
        parsed.transpose().map_err(|error| {
            let next = "For example: http://proxy.corp.example:3128";
            Failure::of(Code::Usage, "https_proxy", error, next)
        })
    }
}

/// How a one-time code is given. It is a secret: a file or stdin keep it out of shell histories.
#[derive(Args, Clone)]
struct CodeArgument {
    /// The one-time code, or - to read it from stdin
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// File that holds the code
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    code_file: Option<PathBuf>,
    /// Name that this machine would like; its host name when not given
    #[arg(long, env = "CARDEA_NAME", value_name = "NAME")]
    name: Option<Name>,
}

impl fmt::Debug for CodeArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeArgument(…)")
    }
}

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// What a configuration file may say.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    state: Option<PathBuf>,
    name: Option<Name>,
    facts_from: Option<PathBuf>,
    relay_only: bool,
    direct_port: Option<u16>,
    candidates: Vec<SocketAddr>,
    guard: Option<Guard>,
    socket: Option<PathBuf>,
    https_proxy: Option<Hidden>,
    no_proxy: Option<String>,
}

/// Text that may hold a password.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// What flags, environment and file came to.
#[derive(Clone, Debug)]
struct Settings {
    state: PathBuf,
    config: Option<PathBuf>,
    socket: Option<PathBuf>,
    verbose: u8,
    until_removed: bool,
    direct: DirectSettings,
    guard: Guard,
    proxy: Option<Proxy>,
    file: File,
}

impl Settings {
    /// The flags that give another process the same way to be reached, and not to be.
    fn way_flags(&self) -> Vec<OsString> {
        let direct = &self.direct;
        let mut flags: Vec<OsString> = Vec::new();
        if direct.relay_only {
            flags.push("--relay-only".into());
        }
        flags.extend(["--direct-port".into(), direct.port.to_string().into()]);
        for candidate in &direct.candidates {
            flags.extend(["--candidate".into(), candidate.to_string().into()]);
        }
        flags.extend(["--guard".into(), self.guard.to_string().into()]);
        flags
    }
}

impl Place {
    /// Reads the configuration file and starts telemetry.
    fn settle(&self, program: &str) -> Result<Settings, Failure> {
        telemetry::init(Level::of_verbosity(self.verbose));
        let file = match &self.config {
            None => File::default(),
            Some(path) => {
                let text = files::read_named_text(path, files::CONFIG_BYTES_MAX)
                    .map_err(|error| error.failure(path))?;
                toml::from_str(&text).map_err(|error| {
                    Failure::new(
                        Code::Usage,
                        format!("{}: {error}. Mend that line", path.display()),
                    )
                })?
            }
        };
        let state = self
            .state
            .clone()
            .or_else(|| file.state.clone())
            .or_else(|| files::default_state(program))
            .ok_or_else(|| {
                Failure::new(
                    Code::Usage,
                    "no state directory is known. Name one: --state DIR",
                )
            })?;
        // Where a probe looks at a machine by its root, a relative path would mean another place.
        let state = std::path::absolute(&state).map_err(|error| unreadable(&state, &error))?;
        Ok(Settings {
            state,
            config: self.config.clone(),
            socket: self.socket.clone().or_else(|| file.socket.clone()),
            verbose: self.verbose,
            until_removed: self.until_removed,
            direct: self.direct.settle(&file),
            guard: self.guard.or(file.guard).unwrap_or_default(),
            proxy: self.proxy.settle(&file)?,
            file,
        })
    }
}

impl DirectArguments {
    fn settle(&self, file: &File) -> DirectSettings {
        DirectSettings {
            relay_only: self.relay_only || file.relay_only,
            port: self.direct_port.or(file.direct_port).unwrap_or_default(),
            candidates: if self.candidate.is_empty() {
                file.candidates.clone()
            } else {
                self.candidate.clone()
            },
        }
    }
}

impl Settings {
    /// The socket on which a program asks: the one that was named, the one of this state directory,
    /// or, for somebody who has no agent of his own, that of the machine's agent.
    fn door(&self) -> PathBuf {
        let machine = Path::new(operator::SOCKET);
        match &self.socket {
            Some(socket) => socket.clone(),
            None if !client::is_enrolled(&self.state) && machine.exists() => machine.to_owned(),
            None => self.state.join(SOCKET),
        }
    }
}

impl CodeArgument {
    /// The code, if one was given in any of the three ways.
    fn read(&self) -> Result<Option<InviteCode>, Failure> {
        let text = match (self.code.as_deref(), &self.code_file) {
            (Some("-"), _) => Some(read_stdin()?),
            (Some(code), _) => Some(code.to_owned()),
            (None, Some(path)) => {
                let text = files::read_named_text(path, code_bytes_max())
                    .map_err(|error| code_failure(path, &error))?;
                Some(text)
            }
            (None, None) => None,
        };
        let parsed = text.map(|text| text.trim().parse::<InviteCode>());
        parsed.transpose().map_err(|error| {
            Failure::new(
                Code::NotEnrolled,
                format!("{error}. Ask an admin for a new one: cardeactl invite"),
            )
        })
    }

    /// Whether the code stands where every user of this machine can read it.
    fn is_on_the_command_line(&self) -> bool {
        self.code.as_deref().is_some_and(|code| code != "-")
    }

    /// The name that the node would like: as asked for, else its host's, made fit to be a name.
    fn wanted_name(&self, file: &File) -> Name {
        let asked = self.name.clone().or_else(|| file.name.clone());
        asked.unwrap_or_else(|| fit(&cardea_host::process::host_name()))
    }
}

/// A name made of what may stand in one; `node` when nothing is left.
fn fit(text: &str) -> Name {
    let kept: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c))
        .skip_while(|c| "-.".contains(*c))
        .take(cardea_proto::name::NAME_BYTES_MAX)
        .collect();
    #[expect(clippy::expect_used, reason = "the constant is a name")]
    kept.parse()
        .unwrap_or_else(|_| "node".parse().expect("a name"))
}

/// A code and a line break.
fn code_bytes_max() -> u64 {
    u64::try_from(CODE_BYTES_MAX).unwrap_or(u64::MAX) + 2
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(code_bytes_max())
        .read_to_string(&mut text)
        .map_err(|error| unreadable(Path::new("stdin"), &error))?;
    Ok(text)
}

/// A pipe has a way of its own.
fn code_failure(path: &Path, error: &ReadError) -> Failure {
    let next = match error {
        ReadError::NotAFile(_) => "Give the code on stdin instead: -",
        ReadError::Io(_) | ReadError::TooLarge(_) | ReadError::NotText => error.next(),
    };
    Failure::of(Code::Failed, &path.display().to_string(), error, next)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let what = path.display().to_string();
    Failure::of(Code::Failed, &what, error, io_advice(error))
}

/// Writes completions for a shell to stdout.
fn complete<C: CommandFactory>(program: &str, shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut C::command(), program, &mut std::io::stdout());
}

/// Writes a manual page for the program and each of its verbs into a directory.
fn manual<C: CommandFactory>(directory: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(C::command(), directory))
        .map_err(|error| unreadable(directory, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_made_fit_to_be_a_name() {
        assert_eq!(fit("laptop-7.local").as_str(), "laptop-7.local");
        assert_eq!(fit("Anna's Mac\u{1b}").as_str(), "AnnasMac");
        assert_eq!(fit("").as_str(), "node");
    }

    #[test]
    fn a_configuration_with_an_unknown_field_is_refused_with_its_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("agent.toml");
        std::fs::write(&path, "state = \"/x\"\ncolour = \"red\"\n").unwrap();
        let arguments = Place {
            until_removed: false,
            state: None,
            config: Some(path.clone()),
            direct: nothing(),
            guard: None,
            proxy: no_proxy(),
            socket: None,
            verbose: 0,
        };
        let failure = arguments.settle("cardea").unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.message.contains("line 2"), "{failure}");
        std::fs::write(&path, "state = \"/x\"\n").unwrap();
        let settings = arguments.settle("cardea").unwrap();
        assert_eq!(settings.state, Path::new("/x"));
    }

    #[test]
    fn a_flag_goes_before_the_file_and_reaches_the_process_that_serves() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("agent.toml");
        let text = "state = \"/x\"\ndirect_port = 7\ncandidates = [\"192.0.2.1:7\"]\n\
                    guard = \"nft\"\n";
        std::fs::write(&path, text).unwrap();
        let mut arguments = Place {
            until_removed: false,
            state: None,
            config: Some(path),
            socket: None,
            direct: nothing(),
            guard: None,
            proxy: no_proxy(),
            verbose: 0,
        };
        let flags = |arguments: &Place| {
            let flags = arguments.settle("cardea").unwrap().way_flags();
            let flags: Vec<String> = flags
                .into_iter()
                .map(|f| f.into_string().unwrap())
                .collect();
            flags.join(" ")
        };
        let expected = "--direct-port 7 --candidate 192.0.2.1:7 --guard nft";
        assert_eq!(flags(&arguments), expected);
        arguments.direct = DirectArguments {
            relay_only: true,
            direct_port: Some(8),
            candidate: vec!["192.0.2.2:8".parse().unwrap()],
        };
        arguments.guard = Some(Guard::None);
        let expected = "--relay-only --direct-port 8 --candidate 192.0.2.2:8 --guard none";
        assert_eq!(flags(&arguments), expected);
    }

    fn nothing() -> DirectArguments {
        DirectArguments {
            relay_only: false,
            direct_port: None,
            candidate: Vec::new(),
        }
    }

    fn no_proxy() -> ProxyArguments {
        ProxyArguments {
            https_proxy: None,
            https_proxy_too: None,
            no_proxy: None,
            no_proxy_too: None,
        }
    }

    #[test]
    fn a_proxy_comes_from_the_environment_before_the_file_and_a_useless_one_is_left_out() {
        let file = |text: &str| toml::from_str::<File>(text).unwrap();
        let with = |one: Option<&str>, two: Option<&str>| ProxyArguments {
            https_proxy: one.map(ToOwned::to_owned),
            https_proxy_too: two.map(ToOwned::to_owned),
            ..no_proxy()
        };
        let kept = file("https_proxy = \"http://c:d@file:1\"\n");
        for (given, expected) in [
            (
                with(Some("http://a:b@p:1"), Some("http://q:1")),
                Some("p:1"),
            ),
            (with(None, Some("q:1")), Some("q:1")),
            (with(Some(""), None), Some("file:1")),
            (with(Some("socks5://p:1"), None), None),
        ] {
            let proxy = given.settle(&kept).unwrap().map(|proxy| proxy.to_string());
            assert_eq!(proxy.as_deref(), expected);
        }
        let wrong = file("https_proxy = \"https://secret@p\"\n");
        let failure = no_proxy().settle(&wrong).unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(!format!("{failure} {wrong:?}").contains("secret"));
    }

    #[test]
    fn hosts_without_a_proxy_come_from_the_environment_before_the_file() {
        let text = "https_proxy = \"http://p:1\"\nno_proxy = \"from.file\"\n";
        let file: File = toml::from_str(text).unwrap();
        let with = |one: Option<&str>, two: Option<&str>| ProxyArguments {
            no_proxy: one.map(ToOwned::to_owned),
            no_proxy_too: two.map(ToOwned::to_owned),
            ..no_proxy()
        };
        for (given, expected) in [
            (with(Some("one"), Some("two")), "one"),
            (with(None, Some("two")), "two"),
            (with(Some(""), Some("two")), "two"),
            (no_proxy(), "from.file"),
        ] {
            let proxy = given.settle(&file).unwrap().unwrap();
            assert!(!proxy.leads_to(&format!("ctl.{expected}")), "{proxy:?}");
            assert!(proxy.leads_to("elsewhere"), "{proxy:?}");
        }
        assert_eq!(
            with(Some("one"), None).settle(&File::default()).unwrap(),
            None
        );
    }

    #[test]
    fn a_relative_state_directory_is_settled_where_the_program_was_started() {
        let here = std::env::current_dir().unwrap();
        for (given, meant) in [
            ("x/y", here.join("x/y")),
            ("./x", here.join("x")),
            ("/x", "/x".into()),
        ] {
            let arguments = Place {
                until_removed: false,
                state: Some(given.into()),
                config: None,
                direct: nothing(),
                guard: None,
                proxy: no_proxy(),
                socket: None,
                verbose: 0,
            };
            assert_eq!(arguments.settle("cardea").unwrap().state, meant, "{given}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_with_what_to_type_next() {
        let arguments = Place {
            until_removed: false,
            state: Some("/x".into()),
            config: Some("/dev/zero".into()),
            direct: nothing(),
            guard: None,
            proxy: no_proxy(),
            socket: None,
            verbose: 0,
        };
        let failure = arguments.settle("cardea").unwrap_err();
        assert!(
            failure.message.starts_with("/dev/zero: is a device"),
            "{failure}"
        );
        let argument = CodeArgument {
            code: None,
            code_file: Some("/dev/zero".into()),
            name: None,
        };
        let failure = argument.read().unwrap_err();
        assert!(
            failure.message.ends_with("on stdin instead: -"),
            "{failure}"
        );
    }

    #[test]
    fn a_forged_code_is_no_code() {
        let argument = CodeArgument {
            code: Some("cardea1-aaaa".to_owned()),
            code_file: None,
            name: None,
        };
        let failure = argument.read().unwrap_err();
        assert_eq!(failure.code, 4);
        assert!(failure.message.contains("not a Cardea code"));
    }
}
