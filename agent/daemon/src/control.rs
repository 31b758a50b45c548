//! The control half: a node's pure core, fed by its line, its data half, its user and the clock.

pub(crate) mod agent;
pub(crate) mod connector;
mod forwards;
mod suggest;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cardea_host::{
    channel::Caller, clock::Clock, detour::Proxy, files::StateDir, supervisor::Supervisor,
};
use cardea_node::NodeOutbox;
use cardea_proto::{
    local::{ControllerState, ControllerView, LocalAnswer},
    refusal::Refusal,
    time::ClockOffset,
};
use tokio::sync::{Semaphore, oneshot};

use crate::{
    data::{Data, DirectSettings, Fronts, ToData},
    line::Line,
    local::Reply,
    netcheck::Look,
    state::{self, Node},
    talk,
};

/// How often a loop looks whether time has jumped: timers of the system do not count the time that
/// a machine is suspended.
const NAP_MAX: Duration = Duration::from_secs(2);

/// How long an ending program waits for its farewells to be heard.
const FAREWELL_TIME: Duration = Duration::from_millis(300);

/// How a node gets out of its network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net {
    /// Its own ways to other ends.
    pub(crate) direct: DirectSettings,
    /// The proxy that leads to fronts.
    pub(crate) proxy: Option<Proxy>,
}

/// When a daemon ends that nobody asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// Never: a person will look at its status, or stop it.
    Asked,
    /// When the controllers say that there is no such node: somebody waits for it at a terminal.
    Removed,
}

impl Until {
    fn has_come(self, ended: Option<&Refusal>) -> Option<Refusal> {
        match self {
            Self::Asked => None,
            Self::Removed => ended.cloned(),
        }
    }
}

/// What both roles' loops have.
#[derive(Debug)]
struct Common {
    clock: Clock,
    dir: StateDir,
    node: Node,
    line: Line,
    data: Data,
    proxy: Option<Proxy>,
    /// What was known of the controller's clock when it was last looked for.
    offset: ClockOffset,
    /// One look at the network at a time: each takes of what this node may knock.
    looks: Arc<Semaphore>,
    shown: Option<ControllerState>,
    supervisor: Supervisor,
}

impl Common {
    fn new(clock: Clock, dir: StateDir, node: Node, data: Data, proxy: Option<Proxy>) -> Self {
        Self {
            clock,
            line: Line::new(
                node.trust.clone(),
                Arc::clone(&node.signer),
                clock,
                proxy.clone(),
            ),
            dir,
            node,
            data,
            proxy,
            offset: ClockOffset::default(),
            looks: Arc::new(Semaphore::new(1)),
            shown: None,
            supervisor: Supervisor::of_environment(),
        }
    }

    /// Does what the core asks of its shell, in the order in which it must be done.
    fn flush(&mut self, out: &mut NodeOutbox) {
        if let Some(certificate) = out.save.take() {
            if let Err(error) = state::save_certificate(&self.dir, &certificate) {
                tracing::error!(%error, "the new certificate is not on disk: it is lost with this process");
            }
            // The whole node is written again when its controllers move.
            self.node.certificate = certificate;
        }
        if let Some(note) = out.checkpoint.take()
            && let Err(error) = state::save_checkpoint(&self.dir, &note)
        {
            tracing::error!(%error, "the ledger's checkpoint is not on disk");
        }
        if let Some(addresses) = out.addresses.take() {
            self.node.addresses = addresses;
            if let Err(error) = self.node.save(&self.dir) {
                tracing::error!(%error, "the controllers' new addresses are not on disk");
            }
        }
        for command in out.commands.drain(..) {
            self.data.send(ToData::Tunnel(command));
        }
        self.line.send(out.messages.make_contiguous());
        out.messages.clear();
        if std::mem::take(&mut out.disconnect) {
            self.line.disconnect();
        }
        if let Some(connect) = out.connect.take() {
            self.offset = connect.clock;
            let root = self.node.trust.root_digest();
            self.data.send(ToData::Fronts(Box::new(Fronts {
                addresses: connect.fronts.clone(),
                caller: Caller::new(&connect.knock, &root, connect.clock)
                    .with_pass(connect.pass.clone()),
                proxy: self.proxy.clone(),
            })));
            self.line.connect(connect);
        }
    }

    /// Has the data half show that it works, when whoever watches this program is to be told that it does.
    fn show_life(&mut self) {
        if self.supervisor.is_due(self.clock.now().instant) {
            self.data.send(ToData::Pulse);
        }
    }

    /// The first of a deadline and the moment when [`Common::show_life`] is due.
    fn next(&self, deadline: Option<Instant>) -> Option<Instant> {
        let deadlines = [deadline, self.supervisor.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Looks at the network, beside everything else.
    fn netcheck(&self, reply: oneshot::Sender<Reply>) {
        let look = Look::of(&self.node, self.proxy.clone(), self.offset);
        let looks = Arc::clone(&self.looks);
        tokio::spawn(async move {
            let _turn = looks.acquire().await;
            let report = LocalAnswer::Netcheck(Box::new(look.run().await));
            if reply.send(report.into()).is_err() {
                tracing::debug!("a local program did not wait for its answer");
            }
        });
    }

    /// Tells whoever watches when the channel's state changed.
    fn show(&mut self, view: &ControllerView, why: &str) {
        if self.shown == Some(view.state) {
            return;
        }
        let before = self.shown.replace(view.state);
        let address = &view.address;
        match view.state {
            ControllerState::Connected => {
                let Node { id, name, .. } = &self.node;
                talk::say(&format!("connected to {address} as {name} ({id})"));
            }
            ControllerState::Connecting if before.is_some() => {
                talk::say(&format!("connecting to {address}"));
            }
            ControllerState::Connecting => {}
            ControllerState::Unreachable => talk::say(&format!("not connected: {why}")),
        }
    }
}

/// Waits until `deadline`, or a little while when it is far away.
async fn nap(clock: Clock, deadline: Option<Instant>) {
    let time = deadline.map_or(NAP_MAX, |deadline| clock.until(deadline).min(NAP_MAX));
    tokio::time::sleep(time).await;
}
