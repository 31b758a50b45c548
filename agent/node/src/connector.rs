//! The connector: whom it admits, for how long, and how it lets go.

mod admission;
mod grants;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use cardea_credential::{key::Signer, trust::Trust};
use cardea_ledger::checkpoint::Verifier;
use cardea_proto::{
    access::{Admit, Extend},
    enroll::Certificate,
    id::{ConnectorId, GrantId, NodeId},
    ledger::EndReason,
    local::{CertificateView, ControllerView},
    message::{FromNode, ToNode, Usage},
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::Now,
};
use cardea_tunnel::{Command, Event};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tracing::{debug, info, warn};

pub use self::grants::GRANTS_MAX;
use self::grants::Grants;
use crate::{
    channel::{Channel, ChannelSettings, earliest},
    entropy::seed,
    limits,
    outbox::NodeOutbox,
    usage::UsageReports,
};

/// What a connector is told once, at its start.
#[derive(Clone, Debug)]
pub struct ConnectorSettings {
    /// The connector.
    pub connector: ConnectorId,
    /// Its name.
    pub name: Name,
    /// The trust domain.
    pub domain: Name,
    /// The domain's root.
    pub trust: Trust,
    /// The certificate to begin with.
    pub certificate: Certificate,
    /// The connector's key.
    pub signer: Arc<dyn Signer>,
    /// Where controllers are, `HOST:PORT`, in the order in which they are tried.
    pub addresses: Vec<String>,
    /// Version of the program.
    pub program: String,
    /// What checks the ledger's checkpoints.
    pub ledger: Verifier,
    /// The last checkpoint that was accepted, a signed note.
    pub checkpoint: Option<String>,
    /// Where its state lies, for a person who is to move it away.
    pub home: String,
}

/// One thing that happened.
#[derive(Debug)]
pub enum ConnectorInput {
    /// The channel that [`NodeOutbox::connect`] asked for is up.
    ChannelUp {
        /// What binds proofs to this channel.
        exporter: [u8; 32],
        /// Where it leads.
        address: String,
    },
    /// That channel goes on by another way, as a detour that was taken or left.
    ChannelRerouted {
        /// What its address is from here on.
        address: String,
    },
    /// The channel, or the attempt at one, is gone without our asking.
    ChannelDown {
        /// Why, in a few words.
        why: String,
    },
    /// A message from the controller.
    Message(ToNode),
    /// What the data half has to say.
    Tunnel(Event),
    /// Where the data half may be reached directly, from now on.
    Addresses(Vec<SocketAddr>),
    /// The machine's network changed.
    Moved,
    /// [`Connector::deadline`] has come; also the very first input, which begins to connect.
    Timeout,
}

/// What must follow from a turn.
#[derive(Debug, Default)]
pub struct ConnectorOutbox {
    /// What both roles have.
    pub node: NodeOutbox,
}

/// The enforcing end's control half.
///
/// It admits exactly those subjects that the controller names and whose own signature it has
/// checked, and lets each go at the end of its ttl by its own monotonic clock, with or without a
/// controller. It dials out to one controller and answers nobody.
#[derive(Debug)]
pub struct Connector {
    connector: ConnectorId,
    name: Name,
    /// Where this connector may be reached directly.
    addresses: Vec<SocketAddr>,
    channel: Channel,
    is_started: bool,
    grants: Grants,
    usage: UsageReports,
    rng: ChaCha20Rng,
}

impl Connector {
    /// A connector that will connect at its first [`ConnectorInput::Timeout`].
    #[must_use]
    pub fn new(settings: ConnectorSettings, entropy: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(entropy);
        let channel = ChannelSettings {
            node: NodeId::Connector(settings.connector),
            domain: settings.domain,
            trust: settings.trust,
            certificate: settings.certificate,
            signer: settings.signer,
            addresses: settings.addresses,
            program: settings.program,
            ledger: settings.ledger,
            checkpoint: settings.checkpoint,
            home: settings.home,
        };
        Self {
            connector: settings.connector,
            name: settings.name,
            addresses: Vec::new(),
            channel: Channel::new(channel, seed(&mut rng)),
            is_started: false,
            grants: Grants::default(),
            usage: UsageReports::default(),
            rng,
        }
    }

    /// Takes one input and puts everything that must follow from it into `out`.
    pub fn handle(&mut self, now: Now, input: ConnectorInput, out: &mut ConnectorOutbox) {
        let out = &mut out.node;
        if !self.is_started {
            self.is_started = true;
            self.channel.start(now, out);
        }
        self.expire(now, out);
        match input {
            ConnectorInput::ChannelUp { exporter, address } => {
                let grants = self.grants.ids();
                self.channel.connected(now, address, exporter, grants, out);
            }
            ConnectorInput::ChannelRerouted { address } => self.channel.rerouted(address),
            ConnectorInput::ChannelDown { why } => self.channel.disconnected(now, why, out),
            ConnectorInput::Message(message) => self.message(now, message, out),
            ConnectorInput::Addresses(addresses) => self.addresses = addresses,
            ConnectorInput::Moved => self.channel.moved(now, out),
            ConnectorInput::Tunnel(event) => self.tunnel(now, event, out),
            ConnectorInput::Timeout => {}
        }
        self.timeout(now, out);
        self.channel.keep_to_purpose(out);
    }

    /// When [`ConnectorInput::Timeout`] is next due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        earliest([
            self.channel.deadline(),
            self.grants.deadline(),
            self.usage.deadline(),
        ])
    }

    /// The connector.
    #[must_use]
    pub const fn connector(&self) -> ConnectorId {
        self.connector
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// State of the channel.
    #[must_use]
    pub fn controller_view(&self) -> ControllerView {
        self.channel.controller_view()
    }

    /// Why there is no channel at the moment, and what to do.
    #[must_use]
    pub fn unreachable(&self) -> Refusal {
        self.channel.unreachable()
    }

    /// Why this connector serves nothing until it enrolls anew, where every controller said so.
    #[must_use]
    pub fn ended(&self) -> Option<&Refusal> {
        self.channel.ended()
    }

    /// The certificate in use.
    #[must_use]
    pub fn certificate_view(&self) -> CertificateView {
        self.channel.certificate_view()
    }

    /// The grants that it holds at the moment.
    #[must_use]
    pub fn grants(&self) -> Vec<GrantId> {
        self.grants.ids()
    }

    fn message(&mut self, now: Now, message: ToNode, out: &mut NodeOutbox) {
        match message {
            ToNode::Welcome(welcome) => {
                self.channel.welcome(now, &welcome, out);
                if self.channel.is_open() {
                    self.name = welcome.name;
                }
            }
            ToNode::Goodbye(refusal) => self.channel.refuse(now, refusal, out),
            _ if !self.channel.is_open() => debug!("a message before the welcome is ignored"),
            ToNode::Certificate(certificate) => self.channel.certificate(now, certificate, out),
            ToNode::CertificateRefused(refusal) => self.channel.certificate_refused(now, refusal),
            ToNode::Withdraw { grant, reason } => self.withdraw(grant, reason, out),
            _ if self.channel.is_renewing() => debug!("a message beside the renewal is ignored"),
            ToNode::Checkpoint(shown) => self.channel.checkpoint(now, &shown, out),
            ToNode::Admit(admit) => self.admit(now, &admit, out),
            ToNode::Extend(extend) => self.extend(now, extend, out),
            ToNode::Posture(_)
            | ToNode::Apps(_)
            | ToNode::Granted(_)
            | ToNode::Denied { .. }
            | ToNode::Explained { .. } => {
                let refusal = Refusal::new(RefusalCode::Protocol, "a connector asks for nothing");
                self.channel.refuse(now, refusal, out);
            }
        }
    }

    /// Admits a subject whose offer holds: the tunnel is installed before the answer is sent.
    fn admit(&mut self, now: Now, admit: &Admit, out: &mut NodeOutbox) {
        let grant = admit.grant;
        let admitted = self.grants.has_room(grant).and_then(|()| {
            let end = admission::Own {
                connector: self.connector,
                candidates: &self.addresses,
            };
            admission::admit(now, end, admit, &self.channel, &mut self.rng)
        });
        match admitted {
            Ok((install, answer)) => {
                self.grants.hold(grant, now.instant + install.ttl);
                out.commands.push_back(Command::Install(Box::new(install)));
                out.messages.push_back(FromNode::Admitted { grant, answer });
            }
            Err(refusal) => {
                warn!(grant.id = %grant, device.id = %admit.device, reason = %refusal, "not admitted");
                out.messages
                    .push_back(FromNode::NotAdmitted { grant, refusal });
            }
        }
    }

    fn extend(&mut self, now: Now, extend: Extend, out: &mut NodeOutbox) {
        let ttl = limits::ttl(extend.ttl_ms);
        if self.grants.extend(extend.grant, now.instant + ttl) {
            out.commands.push_back(Command::Extend {
                grant: extend.grant,
                ttl,
                ticket: extend.ticket,
                standby: extend.standby,
            });
        } else if self.channel.is_ready() {
            // An extension that was lost with its channel lets the controller's count of the ttl run
            // ahead of ours: without this it would extend for ever what nobody serves.
            out.messages.push_back(FromNode::Closed {
                grant: extend.grant,
            });
        }
    }

    /// The tunnel is removed whether or not it is known here: what is gone twice is gone.
    fn withdraw(&mut self, grant: GrantId, reason: EndReason, out: &mut NodeOutbox) {
        info!(grant.id = %grant, %reason, "grant withdrawn");
        self.grants.drop(grant);
        out.commands.push_back(Command::Remove { grant });
    }

    fn tunnel(&mut self, now: Now, event: Event, out: &mut NodeOutbox) {
        match event {
            Event::Opened { grant } => debug!(grant.id = %grant, "tunnel open"),
            Event::Path { grant, path, why } => {
                debug!(grant.id = %grant, %path, reason = %why, "path");
            }
            Event::Standby { grant, relays } => {
                debug!(grant.id = %grant, ?relays, "relays that stand by");
            }
            Event::Silent { grant, .. } => debug!(grant.id = %grant, "the device does not answer"),
            Event::Answers { grant } => debug!(grant.id = %grant, "the device answers again"),
            Event::Unreached { grant, why } => {
                debug!(grant.id = %grant, reason = %why, "not reached")
            }
            Event::Closed { grant, reason } => {
                if self.grants.drop(grant) {
                    debug!(grant.id = %grant, %reason, "tunnel closed");
                    if self.channel.is_ready() {
                        out.messages.push_back(FromNode::Closed { grant });
                    }
                }
            }
            Event::Used {
                grant,
                bytes_in,
                bytes_out,
                flows,
                ..
            } => self.usage.note(
                now.instant,
                Usage {
                    grant,
                    bytes_in,
                    bytes_out,
                    flows,
                    path: None,
                },
            ),
        }
    }

    fn timeout(&mut self, now: Now, out: &mut NodeOutbox) {
        self.channel.timeout(now, out);
        self.expire(now, out);
        let usages = self.usage.flush(now.instant, self.channel.is_ready());
        out.messages.extend(usages);
    }

    /// Lets go of what is past its ttl, before every input: an extension that comes too late finds
    /// nothing to extend.
    fn expire(&mut self, now: Now, out: &mut NodeOutbox) {
        for grant in self.grants.take_due(now.instant) {
            info!(grant.id = %grant, "ttl ended");
            out.commands.push_back(Command::Remove { grant });
        }
    }
}

#[cfg(test)]
mod tests;
