//! The agent: what a device asks for, holds, reports and tells its user.

mod access;
mod api;
mod apps;
mod calls;
mod local;
mod offer;
mod posture;
mod status;

use std::{net::SocketAddr, time::Instant};

use cardea_proto::{
    access::{Extend, Granted},
    id::{DeviceId, GrantId, NodeId},
    ledger::EndReason,
    local::LocalAnswer,
    message::{AppView, FromNode, ToNode, Welcome},
    name::Name,
    pattern::{self, Meant},
    posture::PostureVerdict,
    refusal::{Refusal, RefusalCode},
    time::Now,
};
use cardea_tunnel::{CloseReason, Command, Event};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tracing::{debug, info, warn};

use self::{
    access::{Effect, Held, Step, Way},
    apps::{Apps, Entry, Traffic},
    calls::Calls,
    offer::PendingOffer,
    posture::Posture,
};
pub use self::{
    api::{AgentInput, AgentOutbox, AgentSettings},
    posture::Collected,
};
use crate::{
    channel::{Channel, ChannelSettings, earliest},
    entropy::seed,
    limits, reasons,
    usage::UsageReports,
};

/// A device's control half.
///
/// It keeps the channel up, asks for apps that somebody wants, takes grants whose answer holds,
/// reports posture when it changes and at each poll, and answers its user from what it knows. All
/// tunnels live in the data half, which hears [`Command`]s and tells [`Event`]s.
#[derive(Debug)]
pub struct Agent {
    device: DeviceId,
    packets: bool,
    name: Name,
    user: Option<Name>,
    /// Where this device may be reached directly.
    addresses: Vec<SocketAddr>,
    channel: Channel,
    is_started: bool,
    posture: Posture,
    /// How often facts were asked for.
    collections: u64,
    apps: Apps,
    calls: Calls,
    usage: UsageReports,
    requests: u64,
    rng: ChaCha20Rng,
}

impl Agent {
    /// An agent that will connect at its first [`AgentInput::Timeout`].
    #[must_use]
    pub fn new(settings: AgentSettings, entropy: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(entropy);
        let channel = ChannelSettings {
            node: NodeId::Device(settings.device),
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
            device: settings.device,
            packets: settings.packets,
            name: settings.name,
            user: settings.user,
            addresses: Vec::new(),
            channel: Channel::new(channel, seed(&mut rng)),
            is_started: false,
            posture: Posture::new(),
            collections: 0,
            apps: Apps::default(),
            calls: Calls::default(),
            usage: UsageReports::default(),
            requests: 0,
            rng,
        }
    }

    /// Takes one input and puts everything that must follow from it into `out`.
    pub fn handle(&mut self, now: Now, input: AgentInput, out: &mut AgentOutbox) {
        let was = (self.channel.is_open(), self.channel.is_ready());
        if !self.is_started {
            self.is_started = true;
            self.collect(out);
            self.channel.start(now, &mut out.node);
        }
        self.expire(now, out);
        match input {
            AgentInput::ChannelUp { exporter, address } => {
                let grants = self.apps.held().map(|held| held.grant).collect();
                self.channel
                    .connected(now, address, exporter, grants, &mut out.node);
            }
            AgentInput::ChannelRerouted { address } => self.channel.rerouted(address),
            AgentInput::ChannelDown { why } => {
                self.channel.disconnected(now, why, &mut out.node);
            }
            AgentInput::Message(message) => self.message(now, message, out),
            AgentInput::Wanted { app } => self.wanted(now, &app, out),
            AgentInput::Tunnel(event) => self.tunnel(now, event, out),
            AgentInput::Addresses(addresses) => self.addresses = addresses,
            AgentInput::Moved => self.channel.moved(now, &mut out.node),
            AgentInput::Facts { facts, number } => self.facts(now, facts, number, out),
            AgentInput::Local { call, request } => self.local(now, call, request, out),
            AgentInput::Timeout => {}
        }
        self.follow_channel(now, was, out);
        self.timeout(now, out);
        self.channel.keep_to_purpose(&mut out.node);
    }

    /// When [`AgentInput::Timeout`] is next due; `None` when only an outside event can move this agent.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        earliest([
            self.channel.deadline(),
            self.posture.deadline(),
            self.apps.deadline(),
            self.calls.deadline(),
            self.usage.deadline(),
        ])
    }

    /// The apps that the controller told this device of.
    #[must_use]
    pub fn apps(&self) -> &[AppView] {
        self.apps.views()
    }

    /// The app of this name or DNS name, and which of its hosts is meant.
    #[must_use]
    pub fn find_app(&self, name: &str) -> Option<Meant<'_>> {
        pattern::meant(self.apps.views(), name)
    }

    /// Whether a tunnel to this app or host is there or on its way.
    #[must_use]
    pub fn is_live(&self, name: &Name) -> bool {
        self.apps.entry(name).is_some_and(Entry::is_live)
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> DeviceId {
        self.device
    }

    fn message(&mut self, now: Now, message: ToNode, out: &mut AgentOutbox) {
        match message {
            ToNode::Welcome(welcome) => self.welcome(now, welcome, out),
            ToNode::Goodbye(refusal) => self.channel.refuse(now, refusal, &mut out.node),
            _ if !self.channel.is_open() => debug!("a message before the welcome is ignored"),
            ToNode::Certificate(certificate) => {
                self.channel.certificate(now, certificate, &mut out.node);
            }
            ToNode::CertificateRefused(refusal) => self.channel.certificate_refused(now, refusal),
            ToNode::Posture(verdict) => self.judged(now, verdict, out),
            ToNode::Withdraw { grant, reason } => self.withdraw(now, grant, reason, out),
            _ if self.channel.is_renewing() => debug!("a message beside the renewal is ignored"),
            ToNode::Checkpoint(shown) => self.channel.checkpoint(now, &shown, &mut out.node),
            ToNode::Apps(views) => {
                self.apps.replace_views(views);
                for app in self.apps.allowed() {
                    self.step(now, &app, Step::Cleared, None, out);
                }
            }
            ToNode::Granted(granted) => self.granted(now, &granted, out),
            ToNode::Denied {
                request, refusal, ..
            } => {
                if let Some(app) = self.apps.asked(request) {
                    debug!(app.id = %app, reason = %refusal.code, "denied");
                    self.step(now, &app, Step::Denied(refusal), None, out);
                }
            }
            ToNode::Explained { request, decision } => {
                if let Some(call) = self.calls.explained(request) {
                    let answer = decision.map_or_else(LocalAnswer::Refused, LocalAnswer::Explained);
                    out.answers.push_back((call, answer));
                }
            }
            ToNode::Extend(extend) => self.extend(now, extend, out),
            ToNode::Admit(_) => {
                let refusal = Refusal::new(RefusalCode::Protocol, "an agent admits nobody");
                self.channel.refuse(now, refusal, &mut out.node);
            }
        }
    }

    fn welcome(&mut self, now: Now, welcome: Welcome, out: &mut AgentOutbox) {
        let was_open = self.channel.is_open();
        self.channel.welcome(now, &welcome, &mut out.node);
        if was_open || !self.channel.is_open() {
            return;
        }
        self.posture.welcome(now, &welcome, &mut self.rng);
        self.name = welcome.name;
        self.user = welcome.user.or_else(|| self.user.take());
        out.watch = Some(welcome.watched_processes);
        self.collect(out);
        // A renewal rests on one report, so that one is of facts which are collected for it.
        if self.posture.is_known() && self.channel.is_ready() {
            self.report(now, out);
        }
    }

    fn judged(&mut self, now: Now, verdict: PostureVerdict, out: &mut AgentOutbox) {
        let is_compliant = verdict.compliant;
        let judged = self.calls.judged(verdict.report.unwrap_or(0));
        self.posture.judged(verdict);
        self.answer_postures(now, judged, out);
        for app in self.apps.names() {
            let step = if is_compliant {
                Step::Mended
            } else {
                Step::Failing(reasons::posture_failed(&app, self.posture.verdict()))
            };
            self.step(now, &app, step, None, out);
        }
        if is_compliant {
            self.channel.retry_certificate(now);
        }
    }

    fn granted(&mut self, now: Now, granted: &Granted, out: &mut AgentOutbox) {
        let asked = self.apps.asked(granted.request);
        let taken = asked.and_then(|app| Some((self.apps.take_offer(&app, granted)?, app)));
        let Some((offer, app)) = taken else {
            let grant = granted.grant;
            if self.apps.holder(grant).is_none() {
                out.node.messages.push_back(FromNode::Closed { grant });
            }
            return;
        };
        match offer.accept(now, (granted, &app), &self.addresses, &self.channel) {
            Ok(install) => {
                let held = Held {
                    grant: granted.grant,
                    connector: granted.connector,
                    carrier: granted.carrier,
                    until: now.instant + install.ttl,
                };
                let install = Command::Install(Box::new(install));
                self.step(now, &app, Step::Granted(held), Some(install), out);
            }
            Err(error) => {
                warn!(grant.id = %granted.grant, connector.id = %granted.connector, reason = %error, "answer refused");
                let grant = granted.grant;
                out.node.messages.push_back(FromNode::Closed { grant });
                let refusal = self.answer_refusal(&app, &error);
                self.step(now, &app, Step::Denied(refusal), None, out);
            }
        }
    }

    /// A wrong clock breaks every check of a certificate, and is the likelier fault where it is known.
    fn answer_refusal(&self, app: &Name, error: &offer::AnswerError) -> Refusal {
        let code = if self.channel.skew().is_some() {
            RefusalCode::ClockSkew
        } else {
            RefusalCode::NotProven
        };
        Refusal::new(code, format!("{app}: {error}")).with_next("See: cardea status")
    }

    fn extend(&mut self, now: Now, extend: Extend, out: &mut AgentOutbox) {
        let Some(app) = self.apps.holder(extend.grant) else {
            return;
        };
        let ttl = limits::ttl(extend.ttl_ms);
        let step = Step::Extended(extend.grant, now.instant + ttl);
        let command = Command::Extend {
            grant: extend.grant,
            ttl,
            ticket: extend.ticket,
            standby: extend.standby,
        };
        self.step(now, &app, step, Some(command), out);
    }

    fn withdraw(&mut self, now: Now, grant: GrantId, reason: EndReason, out: &mut AgentOutbox) {
        if let Some(app) = self.apps.holder(grant) {
            info!(grant.id = %grant, app.id = %app, %reason, "grant withdrawn");
            let why = reasons::ended(&app, reason, self.posture.verdict());
            self.step(now, &app, Step::Withdrawn(grant, reason, why), None, out);
        }
    }

    fn wanted(&mut self, now: Now, app: &Name, out: &mut AgentOutbox) {
        if !self.apps.admit(now.instant, app) {
            let answer = Err(calls::busy());
            return out.opened.push_back((app.clone(), answer));
        }
        let deserted = self.apps.entry(app).and_then(Entry::deserted);
        if let Some(grant) = deserted.filter(|_| self.channel.is_ready()) {
            self.give_up(now, app, grant, out);
        }
        let way = self.way();
        self.step(now, app, Step::Wanted(way), None, out);
    }

    fn tunnel(&mut self, now: Now, event: Event, out: &mut AgentOutbox) {
        match event {
            Event::Opened { grant } => {
                if let Some(app) = self.apps.holder(grant) {
                    self.step(now, &app, Step::Opened(grant), None, out);
                }
            }
            Event::Closed { grant, reason } => {
                if let Some(app) = self.apps.holder(grant) {
                    let why = reasons::tunnel_closed(&app, reason);
                    self.step(now, &app, Step::TunnelClosed(grant, why), None, out);
                }
            }
            Event::Path { grant, path, why } => {
                debug!(grant.id = %grant, %path, reason = %why, "path");
                self.told(now, grant, |traffic| traffic.path = Some((path, why)));
            }
            Event::Standby { grant, relays } => {
                debug!(grant.id = %grant, ?relays, "relays that stand by");
                self.told(now, grant, |traffic| traffic.standby = relays);
            }
            Event::Silent { grant, silence } => {
                info!(grant.id = %grant, relay_answers = silence.alone, "the other end is silent");
                self.told(now, grant, |traffic| {
                    traffic.silent_since.get_or_insert(now.instant);
                    traffic.is_alone_silent = silence.alone;
                });
            }
            Event::Answers { grant } => {
                info!(grant.id = %grant, "the other end answers");
                self.told(now, grant, |traffic| traffic.silent_since = None);
            }
            Event::Unreached { grant, why } => {
                debug!(grant.id = %grant, reason = %why, "the app was not reached");
                self.told(now, grant, |traffic| traffic.note_failure(now, why));
            }
            Event::Used {
                grant,
                bytes_in,
                bytes_out,
                flows,
                rtt,
            } => self.told(now, grant, |traffic| {
                *traffic = Traffic {
                    bytes_in,
                    bytes_out,
                    flows,
                    rtt: rtt.or(traffic.rtt),
                    ..*traffic
                };
            }),
        }
    }

    /// A tunnel told of itself: kept for the status, and for the next report to the controller.
    fn told(&mut self, now: Now, grant: GrantId, told: impl FnOnce(&mut Traffic)) {
        let Some(app) = self.apps.holder(grant) else {
            return;
        };
        self.apps.note_traffic(&app, told);
        if let Some(usage) = self.apps.entry(&app).and_then(Entry::usage) {
            self.usage.note(now.instant, usage);
        }
    }

    /// Has all facts collected, under a number of its own.
    fn collect(&mut self, out: &mut AgentOutbox) -> u64 {
        self.collections += 1;
        out.collect = Some(self.collections);
        self.collections
    }

    fn facts(&mut self, now: Now, facts: Vec<Collected>, number: u64, out: &mut AgentOutbox) {
        let is_news = self.posture.collected(facts);
        if !self.channel.is_open() {
            let waiting = self.calls.collected(number);
            self.answer_postures(now, waiting, out);
        } else if is_news || self.calls.waits_for(number) {
            let counter = self.report(now, out);
            self.calls.reported(now.instant, number, counter);
        }
    }

    fn answer_postures(&self, now: Now, calls: Vec<u64>, out: &mut AgentOutbox) {
        for call in calls {
            out.answers.push_back((call, self.posture_answer(now)));
        }
    }

    /// Reports the facts as they stand; returns the report's counter.
    fn report(&mut self, now: Now, out: &mut AgentOutbox) -> u64 {
        let report = self.posture.report(now);
        let counter = report.counter;
        out.node.messages.push_back(FromNode::Report(report));
        self.channel.reported(now, &mut out.node);
        counter
    }

    /// What follows from a channel that became ready or was lost in this turn; `was` tells whether it
    /// was open and ready before.
    fn follow_channel(&mut self, now: Now, was: (bool, bool), out: &mut AgentOutbox) {
        let (was_open, was_ready) = was;
        if was_open && !self.channel.is_open() {
            self.posture.lost();
        }
        let is_ready = self.channel.is_ready();
        if !was_ready && is_ready {
            self.channel.timeout(now, &mut out.node);
            for usage in self.apps.usages() {
                self.usage.note(now.instant, usage);
            }
            for app in self.apps.names() {
                let request = self.requests + 1;
                self.step(now, &app, Step::Ready(request), None, out);
            }
        }
        if was_ready && !is_ready {
            for app in self.apps.names() {
                self.step(now, &app, Step::Lost, None, out);
            }
            for call in self.calls.lost() {
                let refusal = self.channel.unreachable();
                out.answers.push_back((call, LocalAnswer::Refused(refusal)));
            }
        }
    }

    /// Does what is due.
    fn timeout(&mut self, now: Now, out: &mut AgentOutbox) {
        self.channel.timeout(now, &mut out.node);
        if self.channel.is_unreachable() {
            let refusal = self.channel.unreachable();
            for app in self.apps.names() {
                self.step(now, &app, Step::NoWay(refusal.clone()), None, out);
            }
        }
        if self.posture.poll(now.instant, &mut self.rng) {
            self.collect(out);
        }
        self.expire(now, out);
        let due = self.calls.due_postures(now.instant);
        self.answer_postures(now, due, out);
        for call in self.calls.due_explains(now.instant) {
            let refusal = Refusal::new(
                RefusalCode::Unreachable,
                "the controller did not answer in time",
            );
            out.answers.push_back((call, LocalAnswer::Refused(refusal)));
        }
        self.give_up_silent(now, out);
        let usages = self.usage.flush(now.instant, self.channel.is_ready());
        out.node.messages.extend(usages);
    }

    /// Lets go of tunnels that nothing comes through although this device's network is well, as a
    /// report that was sent meanwhile has shown: the next connection gets another tunnel, through
    /// another connector where there is one. Without a controller there is none to be had, and the
    /// old ones may come back.
    fn give_up_silent(&mut self, now: Now, out: &mut AgentOutbox) {
        for (app, grant) in self.apps.silent_too_long(now.instant) {
            if self.channel.is_ready() {
                self.give_up(now, &app, grant, out);
            } else {
                self.apps
                    .note_traffic(&app, |traffic| traffic.silent_since = Some(now.instant));
            }
        }
    }

    fn give_up(&mut self, now: Now, app: &Name, grant: GrantId, out: &mut AgentOutbox) {
        info!(grant.id = %grant, app.id = %app, "a silent tunnel is given up");
        let why = reasons::tunnel_closed(app, CloseReason::Lost);
        self.step(now, app, Step::GivenUp(grant, why), None, out);
    }

    /// Lets go of what is past its time. Comes before every input: whoever slept past a ttl has no
    /// tunnel, whatever wakes them.
    fn expire(&mut self, now: Now, out: &mut AgentOutbox) {
        for app in self.apps.due(now.instant) {
            self.step(now, &app, Step::Due, None, out);
        }
    }

    /// The channel, as somebody sees it who wants an app.
    fn way(&self) -> Way {
        if self.channel.is_ready() {
            Way::Ready(self.requests + 1)
        } else if self.channel.is_unreachable() {
            Way::Closed(self.channel.unreachable())
        } else {
            Way::Soon
        }
    }

    /// Takes one step of one app and does what follows; `command` is what an effect may carry.
    fn step(
        &mut self,
        now: Now,
        app: &Name,
        step: Step,
        mut command: Option<Command>,
        out: &mut AgentOutbox,
    ) {
        for effect in self.apps.step(now.instant, app, step) {
            match effect {
                Effect::Ask(request) => self.ask(now, app, request, out),
                Effect::Install | Effect::Extend(_) => out.node.commands.extend(command.take()),
                Effect::Remove(grant) => out.node.commands.push_back(Command::Remove { grant }),
                Effect::Tell(grant) => out.node.messages.push_back(FromNode::Closed { grant }),
                Effect::Answer(answer) => out.opened.push_back((app.clone(), answer)),
            }
        }
    }

    fn ask(&mut self, now: Now, app: &Name, request: u64, out: &mut AgentOutbox) {
        self.requests = request;
        let meant = self.find_app(app.as_str());
        let host = meant.as_ref().and_then(|meant| meant.host.clone());
        let of_host = host.as_ref().and(meant.as_ref());
        let what = offer::Wish {
            device: self.device,
            app: &of_host.map_or_else(|| app.clone(), |meant| meant.view.name.clone()),
            host: host.as_ref(),
            candidates: &self.addresses,
            packets: self.packets,
        };
        match PendingOffer::make(what, request, &self.channel, &mut self.rng) {
            Ok((offer, message)) => {
                self.apps.offered(app, offer);
                out.node.messages.push_back(message);
            }
            Err(error) => {
                warn!(reason = %error, "the key did not sign");
                let refusal = Refusal::new(RefusalCode::Internal, "this device's key did not sign");
                self.step(now, app, Step::Denied(refusal), None, out);
            }
        }
    }
}

#[cfg(test)]
mod tests;
