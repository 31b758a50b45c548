//! `run`: everything that a controller is made of, wired together.
//!
//! ```text
//! quinn ── nodes ──▶ ┐                     ┌──▶ channels
//! admin.sock ──────▶ ├ events ─▶ turn ─────┤──▶ admins
//! store thread ────▶ ┘ outcomes            └──▶ proposals ─▶ store thread
//! relay thread (its own socket, knows nothing of the rest)
//! front thread (TLS; its detours lead to the two above)
//! ```

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, thread::JoinHandle};

use cardea_core::{Controller, Keys, State};
use cardea_credential::{knock::FrontKey, ticket::TicketKey, trust::Trust};
use cardea_host::{
    channel::{Gate, Server},
    entropy,
    exit::{Code, Failure, io_advice},
    files::StateDir,
    process,
    supervisor::Supervisor,
    unix::UnixListener,
};
use cardea_proto::ledger::Founded;
use cardea_relay_server::Running as RunningRelay;
use cardea_store::{EmbeddedStore, Loaded, Notary, Store};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    admin::{self, About, Admin},
    config::Settings,
    folder::{self, ADMIN_SOCKET},
    founding,
    identity::OwnIdentity,
    ledger::{Ledger, Outcome},
    nodes::Nodes,
    reach::Reach,
    seal::Seal,
    sockets::{Relaying, Sockets},
    turn::{EVENTS_MAX, Event, Turn},
    watched,
};

/// A controller that is up: everything listens. Must be made and run within a tokio runtime.
#[derive(Debug)]
pub struct Service {
    server: Server,
    nodes: Nodes,
    identity: OwnIdentity,
    turn: Turn,
    events: mpsc::Receiver<Event>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    admin: Admin,
    admin_listener: UnixListener,
    admin_path: PathBuf,
    relaying: Relaying,
    relay_address: Option<SocketAddr>,
    _watched: JoinSet<()>,
    front_address: Option<SocketAddr>,
    store: JoinHandle<()>,
    /// Held until everything else has ended.
    _state: StateDir,
}

impl Service {
    /// Loads the state and opens every socket.
    ///
    /// # Errors
    /// What the person who started it must do.
    pub fn start(state: StateDir, seal: &Seal, settings: &Settings) -> Result<Self, Failure> {
        let (mut store, loaded) = load(&state, seal)?;
        let founded = meant(settings, founded(&state, &loaded.state)?, &state)?;
        let notary = notary(&state, seal, &founded, store.as_mut(), &loaded)?;
        let loaded = loaded.state;
        let keys = folder::read_keys(&state, seal)?;
        let head = loaded.head();
        let trust = Trust::new(founded.domain.clone(), keys.root_der.clone())
            .map_err(|error| unusable("root certificate", error, "Restore it from a backup"))?;
        let (identity, tls) = own_identity(&keys, &trust, &founded, settings)?;
        let gate = Gate::new(founded.root);
        let sockets = Sockets::bind(settings, &tls, &gate, &keys.ticket)?;
        let fronts = fronts_elsewhere(&state, settings, &keys.ticket)?;
        let (relay_address, front_address) = sockets.listening();
        let reach = reach(settings, &sockets)?;
        let about = About {
            domain: founded.domain,
            controller: founded.controller,
            root: founded.root,
            addresses: reach.addresses.clone(),
            fronts,
        };
        let relays = reach.relays.clone();
        // The controller has the one that signs tickets; this one asks.
        let watching = folder::read_keys(&state, seal)?.ticket;
        let controller = Controller::new(
            core_settings(settings, reach),
            loaded,
            keys,
            entropy::seed(),
        )
        .map_err(|error| {
            let next = "See what is whole of it: cardea-controller repair";
            unusable("ledger", error, next)
        })?;
        let admin_path = state.join(ADMIN_SOCKET);
        let admin_listener = admin::listen(&admin_path).map_err(|error| {
            let place = admin_path.display().to_string();
            unusable(&place, &error, io_advice(&error))
        })?;
        let relaying =
            Relaying::start(sockets.relay, sockets.front).map_err(|error| no_thread(&error))?;
        let (ledger, outcomes, store) =
            Ledger::start(store, notary).map_err(|error| no_thread(&error))?;
        let (head, followed) = watch::channel(head);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let watched = watched::watch(&relays, relay_address, watching, &sender);
        let admin = Admin {
            about: Arc::new(about),
            events: sender.clone(),
            ledger: ledger.clone(),
            head: followed,
            calls: Arc::default(),
        };
        Ok(Self {
            server: sockets.server,
            nodes: Nodes::new(trust, sender),
            identity,
            turn: Turn::new(controller, ledger, head, gate),
            events,
            outcomes,
            admin,
            admin_listener,
            admin_path,
            relaying,
            relay_address,
            _watched: watched,
            front_address,
            store,
            _state: state,
        })
    }

    /// Where channels are taken.
    #[must_use]
    pub const fn listening(&self) -> SocketAddr {
        self.server.local_address()
    }

    /// Where the embedded relay is.
    #[must_use]
    pub const fn relay(&self) -> Option<SocketAddr> {
        self.relay_address
    }

    /// Where the relay's front is.
    #[must_use]
    pub const fn front(&self) -> Option<SocketAddr> {
        self.front_address
    }

    /// Serves until `stop` comes, then says goodbye to the nodes and ends in order.
    ///
    /// # Errors
    /// When the store's thread, the relay or another part ends by itself, which must not happen.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let Self {
            mut server,
            nodes,
            identity,
            turn,
            events,
            outcomes,
            admin,
            admin_listener,
            admin_path,
            relaying:
                Relaying {
                    relay,
                    relay_ended,
                    front,
                    front_ended,
                },
            store,
            _state,
            ..
        } = self;
        let mut turn = tokio::spawn(turn.run(events, outcomes));
        let mut admins = tokio::spawn(admin.accept(admin_listener));
        let mut renewal = tokio::spawn(identity.keep());
        let mut lost = None;
        let ended = tokio::select! {
            result = &mut turn => Some(result),
            () = nodes.accept(&mut server) => None,
            part = part_lost(&mut admins, &mut renewal, (relay_ended, front_ended)) => {
                lost = Some(part);
                None
            }
            () = stop => None,
        };
        tracing::info!("stopping");
        admins.abort();
        renewal.abort();
        server.close("the controller is stopping").await;
        // Farewells have gone out by it.
        drop(front);
        drop(nodes);
        // Channels and admins drop their ends of the loop; what still holds one is given up.
        let ended = match ended {
            Some(result) => result,
            None => match tokio::time::timeout(STOP_TIME, &mut turn).await {
                Ok(result) => result,
                Err(_) => {
                    turn.abort();
                    Ok(Ok(()))
                }
            },
        };
        if let Err(error) = std::fs::remove_file(&admin_path) {
            tracing::debug!(reason = %error, "admin.sock was not removed");
        }
        if let Some(Err(error)) = relay.map(RunningRelay::stop) {
            tracing::warn!(reason = %error, "the relay ended with an error");
        }
        // Commits that were on their way finish here, and only then the folder is given back.
        let joined = tokio::task::spawn_blocking(move || store.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(broken("the store's thread panicked".to_owned()));
        }
        if let Some(lost) = lost {
            return Err(broken(format!("{lost} ended by itself")));
        }
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(error.to_string())),
            Err(error) => Err(broken(format!("its loop ended: {error}"))),
        }
    }
}

fn unusable(what: &str, why: impl std::fmt::Display, next: &str) -> Failure {
    Failure::of(Code::Storage, what, why, next)
}

fn no_thread(error: &io::Error) -> Failure {
    Failure::of(Code::Failed, "thread", error, io_advice(error))
}

/// The end of a controller of which a part is gone.
fn broken(why: String) -> Failure {
    let next = "Look at its log, then start it again: cardea-controller run";
    Failure::of(Code::Failed, "controller", why, next)
}

/// Returns when a part has ended, and which: what runs without one of its parts looks healthy and is
/// not, so it ends instead.
async fn part_lost(
    admins: &mut tokio::task::JoinHandle<()>,
    renewal: &mut tokio::task::JoinHandle<()>,
    (relay, front): (Option<oneshot::Receiver<()>>, Option<oneshot::Receiver<()>>),
) -> &'static str {
    let (relay_runs, front_runs) = (relay.is_some(), front.is_some());
    tokio::select! {
        _ = admins => "the admins' socket",
        _ = renewal => "the renewal of its certificate",
        _ = async { relay?.await.ok() }, if relay_runs => "the relay",
        _ = async { front?.await.ok() }, if front_runs => "the relay's front",
    }
}

/// Serves until a signal asks to stop.
///
/// # Errors
/// As [`Service::start`] and [`Service::run`].
pub fn run(
    state: StateDir,
    seal: &Seal,
    settings: &Settings,
    ready: impl FnOnce(&Service),
) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::of(Code::Failed, "controller", &error, io_advice(&error));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        // Whoever was told that we are ready may stop us at once.
        let asked = process::listen_for_end().map_err(failed)?;
        let service = Service::start(state, seal, settings)?;
        ready(&service);
        let stop = async {
            asked.await;
            Supervisor::of_environment().stopping();
        };
        service.run(stop).await
    })
}

/// How long the loop may take to end once everything else has.
const STOP_TIME: std::time::Duration = std::time::Duration::from_secs(2);

fn load(state: &StateDir, seal: &Seal) -> Result<(Box<dyn Store>, Loaded), Failure> {
    if !EmbeddedStore::exists(state.path()) {
        return Err(not_founded(state));
    }
    let mut store = EmbeddedStore::new(state.path()).sealed_with(seal.key());
    let loaded = store.load().map_err(founding::damaged)?;
    tracing::info!(revision = loaded.head.revision.0, "ledger loaded");
    Ok((Box::new(store), loaded))
}

/// What makes passes for fronts that are not beside this controller, where there are any: they are given it as a file.
fn fronts_elsewhere(
    state: &StateDir,
    settings: &Settings,
    tickets: &TicketKey,
) -> Result<Option<FrontKey>, Failure> {
    if settings.front_addresses.is_empty() {
        return Ok(None);
    }
    folder::write_front_key(state, tickets)?;
    Ok(Some(tickets.fronts().clone()))
}

fn notary(
    state: &StateDir,
    seal: &Seal,
    founded: &Founded,
    store: &mut dyn Store,
    loaded: &Loaded,
) -> Result<Notary, Failure> {
    let key = folder::read_ledger_key(state, seal, &founded.domain)?;
    if founded.ledger_key.as_ref() != key.verifier().public() {
        let why = "this is not the key with which the ledger was begun";
        let next = "Restore it from the backup of the state folder";
        return Err(Failure::of(Code::Storage, "keys/ledger.key", why, next));
    }
    Notary::new(key, store, loaded).map_err(|error| {
        let next = "See where with: cardeactl audit verify. Then restore a backup";
        Failure::of(Code::Storage, "ledger", error, next)
    })
}

fn founded(state: &StateDir, loaded: &State) -> Result<Founded, Failure> {
    loaded.founded().cloned().ok_or_else(|| not_founded(state))
}

fn not_founded(state: &StateDir) -> Failure {
    crate::no_state(state.path())
}

fn own_identity(
    keys: &Keys,
    trust: &Trust,
    founded: &Founded,
    settings: &Settings,
) -> Result<(OwnIdentity, Arc<rustls::ServerConfig>), Failure> {
    let made = OwnIdentity::new(
        keys.intermediate.clone(),
        trust.clone(),
        founded.controller,
        settings.certificate_life,
    );
    made.map_err(|error| {
        let next = "Make the next intermediate with: cardea-controller renew --root DIR";
        Failure::of(Code::Failed, "certificate", crate::chain(&error), next)
    })
}

/// Where nodes reach all of this.
fn reach(settings: &Settings, sockets: &Sockets) -> Result<Reach, Failure> {
    let (relay, front) = sockets.listening();
    let reach = Reach::of(settings, sockets.server.local_address(), relay, front)?;
    if reach.relays.is_empty() {
        tracing::warn!("there is no relay, so no tunnel can open; run with --relay");
    }
    Ok(reach)
}

/// Who names a trust domain gets that one, or nothing.
fn meant(settings: &Settings, founded: Founded, state: &StateDir) -> Result<Founded, Failure> {
    let Some(meant) = settings
        .domain
        .as_ref()
        .filter(|meant| **meant != founded.domain)
    else {
        return Ok(founded);
    };
    let domain = &founded.domain;
    Err(Failure::of(
        Code::Usage,
        &format!("--domain {meant}"),
        format!("{} is the state of {domain}", state.path().display()),
        &format!(
            "Name {domain} or nothing, here and in controller.toml, or another state: --state DIR"
        ),
    ))
}

fn core_settings(settings: &Settings, reach: Reach) -> cardea_core::Settings {
    cardea_core::Settings {
        addresses: reach.addresses,
        has_fronts_elsewhere: !settings.front_addresses.is_empty(),
        relays: reach.relays,
        never: reach.never,
        certificate_life: settings.certificate_life,
        posture_poll: settings.posture_poll,
        ttl: settings.grant_ttl,
        allow_simulated_posture: settings.allow_simulated_posture,
        ..cardea_core::Settings::default()
    }
}
