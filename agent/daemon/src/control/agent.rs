//! An agent's loop.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_device::{
    collector::{Collector, Delivery, POLL},
    posture::{Collected, Settings},
};
use cardea_host::{
    addresses::networks, clock::Clock, detour::Proxy, entropy, files::StateDir, process,
    unix::PeerCredentials,
};
use cardea_node::{Agent, AgentInput, AgentOutbox, AgentSettings};
use cardea_proto::{
    PROGRAM_VERSION,
    app::Service,
    id::DeviceId,
    local::{ControllerState, LocalAnswer, LocalRequest},
    message::ToNode,
    name::Name,
    pattern,
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::End;
use tokio::sync::{mpsc, oneshot};

use super::{
    Common, FAREWELL_TIME, Net, Until,
    forwards::{self, Forwards, Waiting},
    nap, suggest,
};
use crate::{
    data::{Data, FromData, Serves, ToData, front::Front, stack::Interface},
    hosts::Hosts,
    line::LineEvent,
    local::{self, Call, Reply},
    names::{self, Asked, Resolver},
    operator::Operator,
    state::{self, Node},
    virtual_addresses::{Ranges, VirtualAddresses},
};

/// Below this, ports are root's.
const PRIVILEGED_PORTS: u16 = 1_024;

/// Collections of facts that wait for the loop; each replaces the one before.
const FACTS_MAX: usize = 4;

/// What an agent is told beside what its state directory keeps.
#[derive(Debug)]
pub(crate) struct Device {
    /// Where facts come from.
    pub(crate) posture: Settings,
    /// Who may ask it beside root.
    pub(crate) operator: Option<Operator>,
    /// Where the addresses of its network interface come from, when it has one, and how the system finds
    /// names of apps there.
    pub(crate) interface: Option<(Ranges, names::Settings)>,
}

/// An agent and its shell.
struct Shell {
    common: Common,
    agent: Agent,
    out: AgentOutbox,
    collector: Collector,
    poll: Duration,
    calls: BTreeMap<u64, oneshot::Sender<Reply>>,
    /// Calls whose answer waits for the data half's figures.
    asked: BTreeMap<u64, LocalRequest>,
    next_call: u64,
    forwards: Forwards,
    /// Where programs reach apps, with a network interface.
    addresses: Option<VirtualAddresses>,
    /// By which names.
    resolver: Option<Resolver>,
    hosts: Hosts,
    placing: Placing,
}

/// Addresses that the data half is being told of.
#[derive(Default)]
struct Placing {
    /// The last that it was told.
    number: u64,
    /// Who waits for those of a number.
    waiting: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
    /// When tunnels of hosts are looked for next.
    look_at: Option<Instant>,
}

/// How often tunnels of hosts are looked for.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// Serves as the device `id` until the program is asked to end, or until what ends it earlier: why is
/// returned.
///
/// # Errors
/// As the system says, when there is no socket or thread to begin with.
pub(crate) async fn run(
    dir: StateDir,
    node: Node,
    id: DeviceId,
    Device {
        posture,
        operator,
        interface,
    }: Device,
    Net { direct, proxy }: Net,
    until: Until,
) -> io::Result<Option<Refusal>> {
    let clock = Clock::system();
    // Whom the system asks must not be a process that was killed, whatever this one does.
    names::recover(&dir);
    let opened = interface.map(|interface| open_interface(&dir, &node, interface, clock));
    let (local, front) = opened.transpose()?.unzip();
    let (addresses, names) = local.unzip();
    let (resolver, asked) = names.unzip();
    // Without an interface nobody asks.
    let mut asked = asked.unwrap_or_else(|| mpsc::channel(1).1);
    let (data, mut told) = Data::start_with((End::Agent, front), clock, entropy::seed(), direct)?;
    let mut calls = local::serve(dir.path(), operator.as_ref())?;
    let (deliver, mut collected) = mpsc::channel::<Delivery>(FACTS_MAX);
    let collector = Collector::start(posture, POLL, move |delivery| {
        if deliver.blocking_send(delivery).is_err() {
            tracing::debug!("facts came while the agent was ending");
        }
    })?;
    let settings = settings(&node, id, addresses.is_some(), &dir);
    let (forwards, mut ends) = Forwards::new();
    let mut shell = Shell {
        common: Common::new(clock, dir, node, data, proxy),
        agent: Agent::new(settings, entropy::seed()),
        out: AgentOutbox::default(),
        collector,
        poll: POLL,
        calls: BTreeMap::new(),
        asked: BTreeMap::new(),
        next_call: 0,
        forwards,
        addresses,
        resolver,
        hosts: Hosts::default(),
        placing: Placing::default(),
    };
    shell.tell_addresses();
    shell.handle(AgentInput::Timeout);
    let mut ending = std::pin::pin!(process::listen_for_end()?);
    shell.common.supervisor.ready();
    let ended = loop {
        if let Some(ended) = until.has_come(shell.agent.ended()) {
            break Some(ended);
        }
        shell.common.show_life();
        let deadline = shell.common.next(shell.agent.deadline());
        tokio::select! {
            biased;
            event = shell.common.line.event() => shell.line(event),
            event = told.recv() => match event {
                Some(event) => shell.told(event),
                None => return Err(io::Error::other("the data half ended")),
            },
            Some(Delivery { facts, number }) = collected.recv() => {
                let facts = facts.into_iter().map(fact).collect();
                shell.handle(AgentInput::Facts { facts, number });
            }
            Some(call) = calls.recv() => shell.call(call),
            Some(asked) = asked.recv() => shell.asked(asked),
            Some(listener) = ends.recv() => shell.forwards.ended(listener, &shell.common.data),
            () = nap(clock, deadline) => {
                shell.handle(AgentInput::Timeout);
                shell.look_at_hosts();
                // An attempt that nobody answers ends by the clock alone.
                shell.show();
            }
            () = &mut ending => break None,
        }
    };
    shell.common.supervisor.stopping();
    shell.leave().await;
    Ok(ended)
}

/// What the core is told of the node; with `packets` programs send them, and not flows.
fn settings(node: &Node, id: DeviceId, packets: bool, dir: &StateDir) -> AgentSettings {
    AgentSettings {
        device: id,
        name: node.name.clone(),
        user: node.user.clone(),
        domain: node.domain.clone(),
        trust: node.trust.clone(),
        certificate: node.certificate.clone(),
        signer: std::sync::Arc::clone(&node.signer),
        addresses: node.addresses.clone(),
        packets,
        program: PROGRAM_VERSION.to_owned(),
        ledger: node.ledger.clone(),
        checkpoint: node.checkpoint.clone(),
        home: dir.path().display().to_string(),
    }
}

/// What an agent with a network interface has: addresses, and names with whoever asks for one.
type Local = (VirtualAddresses, (Resolver, mpsc::Receiver<Asked>));

/// A network interface, the addresses that apps have there, and their names.
fn open_interface(
    dir: &StateDir,
    node: &Node,
    (ranges, settings): (Ranges, names::Settings),
    clock: Clock,
) -> io::Result<(Local, Interface)> {
    let kept = state::load_numbers(dir).map_err(io::Error::other)?;
    let (seat, stack) = Front::take_seat().map_err(io::Error::other)?;
    let ranges = ranges.on_seat(&node.domain, seat.number);
    let addresses = VirtualAddresses::new(ranges, networks(), kept);
    let front = Front::open((seat, stack), *addresses.ranges(), addresses.own())
        .map_err(io::Error::other)?;
    let place = names::Place {
        dir: dir.dir(),
        domain: &node.domain,
        controllers: &node.addresses,
        addresses: &addresses,
        interface: front.interface(),
    };
    let resolver = Resolver::start(settings, &place, clock);
    Ok(((addresses, resolver), Interface::Front(front)))
}

impl Shell {
    fn handle(&mut self, input: AgentInput) {
        let now = self.common.clock.now();
        self.agent.handle(now, input, &mut self.out);
        self.pass_on_what_we_dial();
        self.common.flush(&mut self.out.node);
        if let Some(programs) = self.out.watch.take() {
            self.collector.configure(self.poll, programs);
        }
        if let Some(number) = self.out.collect.take() {
            self.collector.collect(number);
        }
        while let Some((call, mut answer)) = self.out.answers.pop_front() {
            self.complete(&mut answer);
            if let Some(reply) = self.calls.remove(&call)
                && reply.send(answer.into()).is_err()
            {
                tracing::debug!("a local program did not wait for its answer");
            }
        }
        while let Some((app, result)) = self.out.opened.pop_front() {
            self.opened(app, result);
        }
    }

    /// The hosts that this agent is about to look for are not kept from it by its own stub.
    fn pass_on_what_we_dial(&self) {
        let Some((connect, resolver)) = self.out.node.connect.as_ref().zip(self.resolver.as_ref())
        else {
            return;
        };
        let kept = &self.common.node.addresses;
        let controllers = self.out.node.addresses.as_ref().unwrap_or(kept);
        let all = controllers.iter().chain(&connect.fronts);
        let proxy = self.common.proxy.as_ref().map(Proxy::address);
        resolver.set_controllers(all.map(String::as_str).chain(proxy));
    }

    fn opened(&mut self, app: Name, result: Result<cardea_proto::id::GrantId, Refusal>) {
        match result {
            Ok(grant) => {
                let services: Vec<Service> = self
                    .agent
                    .find_app(app.as_str())
                    .map(|meant| meant.view.services.clone())
                    .unwrap_or_default();
                self.forwards.opened(&app, &services, &self.common.data);
                self.common.data.send(ToData::Opened { app, grant });
            }
            Err(refusal) => {
                self.forwards
                    .denied(&app, &self.with_suggestion(&app, &refusal));
                self.common.data.send(ToData::Denied { app, refusal });
            }
        }
    }

    /// Who asks for an app that this device has never heard of may have mistyped it.
    fn with_suggestion(&self, app: &Name, refusal: &Refusal) -> Refusal {
        let known = self.agent.apps().iter().map(|view| view.name.as_str());
        let meant = match self.agent.find_app(app.as_str()) {
            Some(_) => None,
            None => suggest::nearest(app.as_str(), known),
        };
        let refusal = refusal.clone();
        match meant {
            Some(name) => refusal.with_next(format!("Did you mean {name}?")),
            None => refusal,
        }
    }

    fn line(&mut self, event: LineEvent) {
        match event {
            LineEvent::Up {
                exporter,
                address,
                peer,
            } => {
                self.common.data.send(ToData::Controller(peer));
                self.handle(AgentInput::ChannelUp { exporter, address });
            }
            LineEvent::Rerouted { address } => {
                self.handle(AgentInput::ChannelRerouted { address });
            }
            LineEvent::Down { why } => {
                tracing::info!(reason = %why, "no channel");
                self.handle(AgentInput::ChannelDown { why });
            }
            LineEvent::Message(message) => {
                if let ToNode::Welcome(welcome) = &message {
                    self.poll = Duration::from_millis(welcome.posture_poll_ms);
                }
                let is_apps = matches!(message, ToNode::Apps(_));
                self.handle(AgentInput::Message(message));
                if is_apps {
                    self.tell_apps();
                }
            }
        }
        self.show();
    }

    /// Tells the data half of the apps, and where they are reached.
    fn tell_apps(&mut self) {
        let apps = self.agent.apps().to_vec();
        if let Some(addresses) = &mut self.addresses {
            let is_host = |host: &Name| {
                let meant = pattern::meant(&apps, host.as_str());
                meant.is_some_and(|meant| meant.host.is_some())
            };
            self.hosts.retain(addresses, is_host);
            if addresses.assign(apps.iter().map(|view| &view.name))
                && let Err(error) = state::save_numbers(&self.common.dir, addresses.numbers())
            {
                tracing::error!(%error, "the apps' addresses are not on disk: they may be others next time");
            }
        }
        self.tell_addresses();
        let names = self.tell_names();
        if let Some(names) = names
            && let Err(error) = state::save_names(&self.common.dir, &names)
        {
            tracing::error!(%error, "the apps' names are not on disk");
        }
        self.common.data.send(ToData::Apps(apps));
    }

    /// Tells the data half where apps and hosts are reached; it answers with the number.
    ///
    /// Apps that the controller does not tell of any more are among them: what is sent there is refused
    /// with its reason, and leaves the machine by no other way.
    fn tell_addresses(&mut self) {
        let Some(addresses) = &self.addresses else {
            return;
        };
        let all = addresses.all();
        let all = all.map(|(name, both)| (name.clone(), both)).collect();
        self.placing.number += 1;
        let number = self.placing.number;
        self.common.data.send(ToData::Addresses(all, number));
    }

    /// Tells the stub resolver where apps and hosts are reached; says which names are apps' then.
    fn tell_names(&self) -> Option<Vec<String>> {
        let (addresses, resolver) = self.addresses.as_ref().zip(self.resolver.as_ref())?;
        Some(resolver.set_apps(self.agent.apps(), &self.hosts, addresses))
    }

    /// A program asked for a host of an app. It is answered once packets to it go there.
    fn asked(&mut self, Asked { host, given }: Asked) {
        let now = self.common.clock.now().instant;
        let meant = self.agent.find_app(host.as_str());
        let is_host = meant.is_some_and(|meant| meant.host.as_ref() == Some(&host));
        let Some(addresses) = self.addresses.as_mut().filter(|_| is_host) else {
            return;
        };
        self.hosts.note_live(now, |host| self.agent.is_live(host));
        if self.hosts.ask(now, &host, addresses).is_none() {
            return tracing::warn!("no room for another host of an app");
        }
        self.tell_addresses();
        let Placing {
            number, waiting, ..
        } = &mut self.placing;
        waiting.entry(*number).or_default().push(given);
    }

    /// Packets to the addresses of this number go to their apps.
    fn addressed(&mut self, number: u64) {
        let later = self.placing.waiting.split_off(&(number + 1));
        let waiting = std::mem::replace(&mut self.placing.waiting, later);
        if waiting.is_empty() {
            return;
        }
        self.tell_names();
        for given in waiting.into_values().flatten() {
            if given.send(()).is_err() {
                tracing::debug!("nobody waited for the addresses of a host");
            }
        }
    }

    /// Notes which hosts have tunnels, once in a while.
    fn look_at_hosts(&mut self) {
        let now = self.common.clock.now().instant;
        if self.hosts.is_empty() || self.placing.look_at.is_some_and(|at| now < at) {
            return;
        }
        self.placing.look_at = Some(now + LOOK_TIME);
        self.hosts.note_live(now, |host| self.agent.is_live(host));
    }

    /// Adds what only this shell knows: the addresses of apps, and how their names are found.
    fn complete(&self, answer: &mut LocalAnswer) {
        if let (LocalAnswer::Status(status), Some(resolver)) = (&mut *answer, &self.resolver) {
            resolver.complete(status);
        }
        let apps = match answer {
            LocalAnswer::Apps(apps) => apps,
            LocalAnswer::Status(status) => &mut status.apps,
            LocalAnswer::Refused(_)
            | LocalAnswer::Done(_)
            | LocalAnswer::ConnectorStatus(_)
            | LocalAnswer::Explained(_)
            | LocalAnswer::Posture { .. }
            | LocalAnswer::Listening { .. }
            | LocalAnswer::Netcheck(_) => return,
        };
        let Some(addresses) = &self.addresses else {
            return;
        };
        for app in apps {
            if let Some(both) = addresses.of(&app.name) {
                app.addresses = vec![both.of(false), both.of(true)];
            }
        }
    }

    fn told(&mut self, event: FromData) {
        match event {
            FromData::Tunnel(event) => self.handle(AgentInput::Tunnel(event)),
            FromData::Addresses(addresses) => self.handle(AgentInput::Addresses(addresses)),
            FromData::Moved => self.handle(AgentInput::Moved),
            FromData::Wanted(app) => self.handle(AgentInput::Wanted { app }),
            FromData::Refused { listener, refusal } => self.forwards.refused(listener, refusal),
            FromData::Pulse => self.common.supervisor.alive(),
            FromData::Addressed(number) => self.addressed(number),
            FromData::Figures(call) => {
                if let Some(request) = self.asked.remove(&call) {
                    self.handle(AgentInput::Local { call, request });
                }
            }
        }
    }

    /// A local program asks for something.
    fn call(&mut self, call: Call) {
        let Call {
            request,
            caller,
            reply,
        } = call;
        match request {
            LocalRequest::Forward {
                app,
                service,
                listen,
            } => match parse(&listen, "--listen", caller) {
                Ok(at) => self.forward(&app, service, at, reply),
                Err(refusal) => forwards::refuse(reply, refusal),
            },
            LocalRequest::Proxy { listen } => match parse(&listen, "--socks5", caller) {
                Ok(at) => self
                    .forwards
                    .listen(Serves::Socks, at, reply, &self.common.data),
                Err(refusal) => forwards::refuse(reply, refusal),
            },
            LocalRequest::RestoreDns => self.restore_dns(reply),
            LocalRequest::Netcheck => self.common.netcheck(reply),
            request @ (LocalRequest::Status | LocalRequest::Apps) => {
                let call = self.name(reply);
                self.asked.insert(call, request);
                self.common.data.send(ToData::Figures(call));
            }
            request @ (LocalRequest::Up
            | LocalRequest::Down
            | LocalRequest::Explain(_)
            | LocalRequest::Posture) => {
                let call = self.name(reply);
                self.handle(AgentInput::Local { call, request });
                self.show();
            }
        }
    }

    /// The system asks for names as it did before, until this program is started anew.
    fn restore_dns(&self, reply: oneshot::Sender<Reply>) {
        let Some(resolver) = &self.resolver else {
            let why = "this agent has no network interface, and has changed nothing";
            return forwards::refuse(reply, Refusal::new(RefusalCode::Invalid, why));
        };
        let (tell, told) = oneshot::channel();
        resolver.restore(tell);
        tokio::spawn(async move {
            let said = told
                .await
                .unwrap_or_else(|_| "the agent is busy; try again".to_owned());
            if reply.send(LocalAnswer::Done(said).into()).is_err() {
                tracing::debug!("a local program did not wait for its answer");
            }
        });
    }

    /// Names a call.
    fn name(&mut self, reply: oneshot::Sender<Reply>) -> u64 {
        self.next_call += 1;
        self.calls.insert(self.next_call, reply);
        self.next_call
    }

    /// Opens the app before there is a listener, so that who may not have it learns that at once.
    fn forward(
        &mut self,
        app: &Name,
        service: Option<Service>,
        at: SocketAddr,
        reply: oneshot::Sender<Reply>,
    ) {
        // A DNS name of an app is as good as its name.
        let known = self.agent.find_app(app.as_str());
        let app = known.map_or_else(|| app.clone(), |meant| meant.name());
        let waiting = Waiting { service, at, reply };
        self.forwards.wait(app.clone(), waiting);
        self.handle(AgentInput::Wanted { app });
    }

    fn show(&mut self) {
        let status = self.agent.status(self.common.clock.now());
        let why = match status.controller.state {
            ControllerState::Unreachable => status.warnings.first().map_or_else(
                || "disconnected by cardea down".to_owned(),
                |warning| format!("{}. {}", warning.title, warning.fix),
            ),
            ControllerState::Connected | ControllerState::Connecting => String::new(),
        };
        self.common.show(&status.controller, &why);
    }

    /// Closes every tunnel and says so, so that the other ends know at once.
    async fn leave(mut self) {
        if let Some(resolver) = self.resolver.take() {
            resolver.end().await;
        }
        self.next_call += 1;
        let down = AgentInput::Local {
            call: self.next_call,
            request: LocalRequest::Down,
        };
        self.handle(down);
        tokio::time::sleep(FAREWELL_TIME).await;
    }
}

/// A fact as the core takes it.
fn fact(collected: Collected) -> cardea_node::Collected {
    let Collected {
        name,
        reading,
        grade,
        at,
    } = collected;
    cardea_node::Collected {
        name,
        reading,
        grade,
        at,
    }
}

/// Where `caller` wants us to listen, as it said behind `flag`. Who is not root gets no port of us that he could not have taken.
fn parse(listen: &str, flag: &str, caller: PeerCredentials) -> Result<SocketAddr, Refusal> {
    let refuse = |why| {
        let next = format!("For example: {flag} 127.0.0.1:8080");
        Refusal::new(RefusalCode::Invalid, why).with_next(next)
    };
    let at: SocketAddr = listen
        .parse()
        .map_err(|_| refuse(format!("{listen:?} is not ADDRESS:PORT")))?;
    if (1..PRIVILEGED_PORTS).contains(&at.port()) && !caller.may_administer() {
        let port = at.port();
        return Err(refuse(format!("only root may have port {port}")));
    }
    Ok(at)
}

/// Answers are one kind of reply.
impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        LocalAnswer::Refused(refusal).into()
    }
}
