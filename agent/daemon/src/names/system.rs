//! Who the system asks, by whichever way it has.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use cardea_host::{
    files::{Dir, StateError},
    resolv_conf::{PATH, ResolvConf},
    resolved,
};
use cardea_proto::admin::Warning;

use super::{resolv_conf::Held, warning};

/// How the system is told whom to ask for names of apps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// By systemd-resolved where the system asks that, else by /etc/resolv.conf.
    #[default]
    Auto,
    /// By systemd-resolved, which asks for names of apps alone.
    Resolved,
    /// By /etc/resolv.conf, whose servers are then asked for everything else.
    ResolvConf,
    /// Not at all; the stub answers whoever is told of it in another way.
    Off,
}

impl Mode {
    /// As somebody says it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Resolved => "resolved",
            Self::ResolvConf => "resolv-conf",
            Self::Off => "off",
        }
    }
}

/// The way that is used.
#[derive(Debug)]
enum Way {
    Resolved {
        /// What it was told.
        told: Option<(Vec<SocketAddr>, Vec<String>)>,
        /// What is tried instead when it does not do what it is told.
        falls_back: bool,
    },
    ResolvConf(Box<Held>),
    Off,
}

/// The system, as far as it asks for names.
#[derive(Debug)]
pub(super) struct System {
    file: ResolvConf,
    own: Vec<IpAddr>,
    index: u32,
    way: Way,
    dir: Option<Dir>,
}

impl System {
    /// Nothing is changed yet.
    pub(super) fn new(
        mode: Mode,
        index: u32,
        own: Vec<IpAddr>,
        dir: Result<Dir, StateError>,
    ) -> Self {
        let file = ResolvConf::at(PATH);
        let is_auto = mode == Mode::Auto;
        let mut system = Self {
            file,
            own,
            index,
            way: Way::Off,
            dir: dir.ok(),
        };
        let uses_resolved = match mode {
            Mode::Auto => resolved::is_asked(&system.file),
            Mode::Resolved => true,
            Mode::ResolvConf | Mode::Off => false,
        };
        if uses_resolved {
            system.way = Way::Resolved {
                told: None,
                falls_back: is_auto,
            };
        } else if mode != Mode::Off {
            system.use_file();
        }
        system
    }

    fn use_file(&mut self) {
        match self.dir.take() {
            Some(dir) => {
                let held = Held::new(self.file.clone(), self.own.clone(), dir);
                self.way = Way::ResolvConf(Box::new(held));
            }
            // What cannot be journaled is not done.
            None => self.way = Way::Off,
        }
    }

    /// In the words of the command line.
    pub(super) const fn mode(&self) -> &'static str {
        match self.way {
            Way::Resolved { .. } => "resolved",
            Way::ResolvConf(_) => "resolv-conf",
            Way::Off => "off",
        }
    }

    /// Whether the system can be told of any port.
    pub(super) const fn takes_any_port(&self) -> bool {
        matches!(self.way, Way::Resolved { .. })
    }

    /// Whether the system asks the stub, as far as we can see.
    pub(super) fn is_asked(&self) -> bool {
        match &self.way {
            Way::Resolved { told, .. } => told.is_some(),
            Way::ResolvConf(held) => held.is_in_place(),
            Way::Off => false,
        }
    }

    /// Whom to ask for what is not ours.
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        match &self.way {
            Way::Resolved { .. } => {
                let file = ResolvConf::at(resolved::UPSTREAM);
                let said = file.look().and_then(|found| file.said(&found));
                said.map(|said| said.servers_without(&self.own))
                    .unwrap_or_default()
            }
            Way::ResolvConf(held) => held.servers().to_vec(),
            Way::Off => Vec::new(),
        }
    }

    /// Sees to it that the system asks the stub at `stubs`, or does not when there is none.
    pub(super) async fn tend(
        &mut self,
        now: Instant,
        stubs: &[SocketAddr],
        routed: &[String],
    ) -> Result<(), Warning> {
        match &mut self.way {
            Way::Off => Ok(()),
            Way::ResolvConf(held) => held.tend(now, !stubs.is_empty()),
            Way::Resolved { told, falls_back } => {
                let falls_back = *falls_back;
                let wanted = (stubs.to_vec(), routed.to_vec());
                if stubs.is_empty() || told.as_ref() == Some(&wanted) {
                    return Ok(());
                }
                let routing = resolved::route(self.index, stubs, routed).await;
                let Err(error) = routing else {
                    *told = Some(wanted);
                    return Ok(());
                };
                *told = None;
                if falls_back {
                    tracing::warn!(%error, "systemd-resolved does not help; /etc/resolv.conf is changed");
                    self.use_file();
                }
                Err(warning(
                    "dns_resolved",
                    format!("systemd-resolved does not ask for names of apps: {error}"),
                    "Look at it: resolvectl status. Or go by the file: --dns resolv-conf"
                        .to_owned(),
                ))
            }
        }
    }

    /// Undoes what was done.
    pub(super) fn undo(&mut self) {
        if let Way::ResolvConf(held) = &mut self.way
            && let Err(warning) = held.undo()
        {
            tracing::error!(reason = %warning.title, "the system still asks for names here");
        }
    }

    /// Undoes what was done, and leaves the system alone from now on; says what came of it.
    pub(super) fn give_up(&mut self) -> String {
        let undone = match &mut self.way {
            Way::Off => return "nothing was changed".to_owned(),
            Way::Resolved { .. } => {
                return "systemd-resolved asks for names of apps on our interface alone, which goes with the agent. Without it: cardea run --dns off".to_owned();
            }
            Way::ResolvConf(held) => held.undo(),
        };
        match undone {
            Ok(true) => {
                self.way = Way::Off;
                format!("{PATH} is as it was, until the agent is started anew")
            }
            Ok(false) => {
                self.way = Way::Off;
                format!("{PATH} is not ours; it stays as it is")
            }
            Err(warning) => format!("{}. {}", warning.title, warning.fix),
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.undo();
    }
}
