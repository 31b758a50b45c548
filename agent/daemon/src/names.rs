//! Names of apps for every program of this machine: a stub resolver, and a system that asks it.
//!
//! ```text
//! a program ─▶ the system's resolver ─▶ stub ─▶ an app's name: its virtual address
//!                                        └────▶ anything else: the servers of before
//! ```
//!
//! One task keeps both as they should be: it looks every two seconds, so that whatever another program
//! takes away or puts in the way heals, or is said. The system asks the stub only while it answers.

mod resolv_conf;
mod stub;
mod system;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use cardea_host::{addresses, clock::Clock, files::Dir, resolv_conf as file};
use cardea_node::names::{AppAddresses, Names};
use cardea_proto::{
    admin::Warning,
    local::{AgentStatus, DnsView},
    message::AppView,
    name::Name,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub(crate) use self::{
    resolv_conf::{is_changed, recover, restore},
    system::Mode,
    upstream::{Carried, Servers},
};
use self::{stub::Stub, system::System};
use crate::{
    hosts::Hosts,
    state,
    virtual_addresses::{Both, VirtualAddresses},
};

/// How often the stub and the system are looked after. A person is told within five seconds.
const LOOK_TIME: Duration = Duration::from_secs(2);

/// What a person says about names.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// How the system is told.
    pub(crate) mode: Mode,
    /// Names below the trust domain that are other people's.
    pub(crate) outside: Vec<String>,
}

/// What the stub answers with.
#[derive(Clone, Debug)]
struct Known {
    names: Names,
    servers: Arc<Servers>,
}

/// How things are.
#[derive(Clone, Debug, Default)]
struct Told {
    mode: &'static str,
    stub: Vec<IpAddr>,
    servers: Vec<SocketAddr>,
    is_asked: bool,
    warnings: Vec<Warning>,
}

/// The stub resolver, and what keeps it.
#[derive(Debug)]
pub(crate) struct Resolver {
    domain: Name,
    has_v6: bool,
    known: watch::Sender<Known>,
    told: watch::Receiver<Told>,
    orders: mpsc::Sender<oneshot::Sender<String>>,
    task: JoinHandle<()>,
}

/// Somebody asked for a host of an app, and waits until it has addresses, or gets none.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The host.
    pub(crate) host: Name,
    /// Is dropped when it has, and can have, no addresses.
    pub(crate) given: oneshot::Sender<()>,
}

/// Hosts that are asked for at a time; more are told that it failed.
const ASKED_MAX: usize = 256;

/// Where it stands.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The state directory.
    pub(crate) dir: &'a Dir,
    /// The trust domain.
    pub(crate) domain: &'a Name,
    /// Where controllers are, `HOST:PORT`.
    pub(crate) controllers: &'a [String],
    /// Where apps are.
    pub(crate) addresses: &'a VirtualAddresses,
    /// Number and name of the interface.
    pub(crate) interface: (u32, &'a str),
}

impl Resolver {
    /// Starts to answer and tells the system so. Must be called within a tokio runtime.
    pub(crate) fn start(
        settings: Settings,
        place: &Place<'_>,
        clock: Clock,
    ) -> (Self, mpsc::Receiver<Asked>) {
        let own = place.addresses.own();
        let has_v6 = addresses::own().contains(&own.of(true));
        let names = first_names(&settings, place);
        let (known, watched) = watch::channel(Known {
            names,
            servers: Arc::default(),
        });
        let (tell, told) = watch::channel(Told::default());
        let (orders, waiting) = mpsc::channel(1);
        let (ask, asked) = mpsc::channel(ASKED_MAX);
        let dir = Dir::open(place.dir.path());
        let system = System::new(settings.mode, place.interface.0, stubs(own, has_v6), dir);
        let keeper = Keeper {
            known: known.clone(),
            watched,
            tell,
            ask,
            system,
            stub: None,
            at: stubs(own, has_v6),
            interface: place.interface.1.to_owned(),
            clock,
        };
        let resolver = Self {
            domain: place.domain.clone(),
            has_v6,
            known,
            told,
            orders,
            task: tokio::spawn(keeper.run(waiting)),
        };
        (resolver, asked)
    }

    /// Takes the apps that there are, and the hosts that were asked for; says which names are apps' then.
    pub(crate) fn set_apps(
        &self,
        apps: &[AppView],
        hosts: &Hosts,
        addresses: &VirtualAddresses,
    ) -> Vec<String> {
        let as_told = |both: Both| AppAddresses {
            v4: both.v4,
            v6: self.has_v6.then_some(both.v6),
        };
        let found = apps.iter().filter_map(|view| {
            let both = addresses.of(&view.name)?;
            Some((&view.name, &view.names[..], as_told(both)))
        });
        let hosts = hosts.all(addresses);
        let hosts = hosts.map(|(host, both)| (host, as_told(both)));
        self.known
            .send_modify(|known| known.names.set_apps(found, hosts));
        self.known.borrow().names.apps().collect()
    }

    /// Takes the controllers that there are, and whatever stands on the way there, `HOST:PORT`.
    pub(crate) fn set_controllers<'a>(&self, addresses: impl Iterator<Item = &'a str>) {
        self.known
            .send_modify(|known| known.names.set_controllers(hosts(addresses)));
    }

    /// Adds to a status what it says about names.
    pub(crate) fn complete(&self, status: &mut AgentStatus) {
        let told = self.told.borrow();
        status.warnings.extend(told.warnings.iter().cloned());
        status.dns = Some(DnsView {
            mode: told.mode.to_owned(),
            stub: told.stub.clone(),
            domain: self.domain.clone(),
            servers: told.servers.iter().map(ToString::to_string).collect(),
            is_asked: told.is_asked,
        });
    }

    /// Undoes what was done to the system, until the program is started anew; `reply` is told.
    pub(crate) fn restore(&self, reply: oneshot::Sender<String>) {
        if let Err(error) = self.orders.try_send(reply) {
            tracing::debug!(%error, "the system is being told already");
        }
    }

    /// Undoes what was done to the system, and stops answering.
    pub(crate) async fn end(self) {
        drop(self.orders);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the keeper of names ended early");
        }
    }
}

/// What the task owns.
struct Keeper {
    known: watch::Sender<Known>,
    watched: watch::Receiver<Known>,
    tell: watch::Sender<Told>,
    ask: mpsc::Sender<Asked>,
    system: System,
    stub: Option<Stub>,
    at: Vec<IpAddr>,
    interface: String,
    clock: Clock,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::Receiver<oneshot::Sender<String>>) {
        loop {
            self.tend().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_TIME) => {}
                changed = self.watched.changed() => if changed.is_err() {
                    break;
                },
                order = orders.recv() => match order {
                    Some(reply) => self.restore(reply),
                    None => break,
                },
            }
        }
        // Nobody is sent to a stub that is about to end.
        self.system.undo();
    }

    async fn tend(&mut self) {
        let mut warnings: Vec<Warning> = self.answer().err().into_iter().collect();
        let port = self.stub.as_ref().map(Stub::addresses);
        let routed: Vec<String> = self.watched.borrow_and_update().names.routed().collect();
        let now = self.clock.now().instant;
        let told = self
            .system
            .tend(now, port.unwrap_or_default(), &routed)
            .await;
        warnings.extend(told.err());
        let servers = self.system.servers();
        self.known.send_if_modified(|known| {
            known.names.pass_on(!servers.is_empty());
            let is_changed = known.servers.all() != servers;
            if is_changed {
                known.servers = Arc::new(Servers::new(servers.clone()));
            }
            is_changed
        });
        let before = self.tell.borrow().warnings.len();
        for warning in warnings.iter().skip(before) {
            tracing::warn!(reason = %warning.title, "names of apps are not found by all");
        }
        self.tell.send_replace(Told {
            mode: self.system.mode(),
            stub: port
                .unwrap_or_default()
                .iter()
                .map(SocketAddr::ip)
                .collect(),
            servers,
            is_asked: self.system.is_asked(),
            warnings,
        });
    }

    /// Sees to it that the stub answers.
    fn answer(&mut self) -> Result<(), Warning> {
        if self.stub.as_mut().is_some_and(|stub| !stub.is_alive()) {
            self.stub = None;
        }
        if self.stub.is_some() {
            return Ok(());
        }
        let stub = Stub::start(
            (&self.at, &self.interface),
            self.system.takes_any_port(),
            (&self.watched, &self.ask),
        );
        self.stub = Some(stub.map_err(|error| cannot_listen(&self.at, &error))?);
        Ok(())
    }

    fn restore(&mut self, reply: oneshot::Sender<String>) {
        let said = self.system.give_up();
        if reply.send(said).is_err() {
            tracing::debug!("nobody waited for what was restored");
        }
    }
}

fn cannot_listen(at: &[IpAddr], error: &std::io::Error) -> Warning {
    let at = at.first().map(ToString::to_string).unwrap_or_default();
    let (title, fix) = if error.kind() == std::io::ErrorKind::AddrInUse {
        (
            format!("another program has port {} of {at}", file::PORT),
            "See which: ss -lunp 'sport = 53'. Have it listen at its own addresses alone (dnsmasq: bind-dynamic); it is tried again".to_owned(),
        )
    } else {
        (
            format!("the stub resolver cannot listen at {at}: {error}"),
            "It is tried again; see: cardea doctor".to_owned(),
        )
    };
    warning("dns_port", title, fix)
}

fn warning(code: &str, title: String, fix: String) -> Warning {
    Warning {
        code: code.to_owned(),
        title,
        fix,
    }
}

/// What is known before the controller has said anything.
fn first_names(settings: &Settings, place: &Place<'_>) -> Names {
    let prefixes = place.addresses.ranges().prefixes();
    let ranges = prefixes.map(|prefix| (prefix.address, prefix.bits));
    let mut names = Names::new(place.domain, ranges);
    names.set_controllers(hosts(place.controllers.iter().map(String::as_str)));
    names.set_outside(settings.outside.iter().map(String::as_str));
    match state::load_names(place.dir) {
        Ok(kept) => names.expect(kept.iter().map(String::as_str)),
        Err(error) => tracing::warn!(%error, "which names were apps' is not known"),
    }
    names
}

/// Where the stub answers.
fn stubs(own: Both, has_v6: bool) -> Vec<IpAddr> {
    let v6 = has_v6.then_some(own.of(true));
    std::iter::once(own.of(false)).chain(v6).collect()
}

fn hosts<'a>(addresses: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    addresses
        .filter_map(|address| address.rsplit_once(':'))
        .map(|(host, _)| host)
}
