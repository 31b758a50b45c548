//! One tunnel: made from one grant, and gone with it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    app, app::Service, codec::Blob, id::GrantId, name::Name, path::PATH_FRAME, relay::Handle,
    time::Now,
};

use crate::{
    carrier::{Carrier, Phase},
    command::{CarrierKeys, Edge, End, Family, Install},
    context::{Context, Shared, Traffic},
    drops::DropReason,
    filter::{Filter, Permitted},
    input::Datagrams,
    link::Link,
    outbox::{CloseReason, Event, Outbox, Silence, USED_INTERVAL, Via},
};

/// What [`crate::Tunnels::stats`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelStats {
    /// The app at its other side.
    pub app: Name,
    /// What protects it.
    pub carrier: app::Carrier,
    /// Whether bytes pass.
    pub open: bool,
    /// Payload from the app to the device, in bytes.
    pub bytes_in: u64,
    /// Payload from the device to the app, in bytes.
    pub bytes_out: u64,
    /// Flows open at the moment.
    pub flows: u32,
    /// Latest round trip between the two ends.
    pub rtt: Option<Duration>,
    /// When it ends unless it is extended.
    pub expires: Instant,
}

#[derive(Debug)]
pub(crate) struct Tunnel {
    grant: GrantId,
    app: Name,
    kind: app::Carrier,
    expires: Instant,
    filter: Filter,
    link: Link,
    traffic: Traffic,
    told: Traffic,
    tell_at: Option<Instant>,
    opened: bool,
    /// How many changes of the path were told, once it is open.
    told_path: Option<u32>,
    told_silence: Option<Silence>,
    /// The relays of which it was told that they stand by.
    told_standby: u32,
    carrier: Carrier,
    /// Whether the tunnel waits in the queue of those to flush.
    pub(crate) queued: bool,
}

impl Tunnel {
    /// The tunnel that `install` asks for; `None` when it cannot work.
    pub(crate) fn new(
        now: Now,
        (end, family): (End, Family),
        install: Install,
        seed: [u8; 32],
        shared: &mut Shared,
        out: &mut Outbox,
    ) -> Option<Self> {
        let first = (install.relay.as_slice(), install.ticket.0.as_slice());
        let ways = (first, install.standby.as_slice());
        let mut meeting = install.meeting;
        meeting.never.extend(&shared.controllers);
        let mut link = Link::new(now.instant, end, ways, meeting, install.inner)?;
        if let Some(own) = &shared.addresses {
            link.set_own(now.instant, own);
        }
        let mut filter = Filter::new(end, install.services, install.inner, install.egress, family);
        if shared.edge == Edge::Packets && end == End::Agent {
            filter.set_stacked(true, true);
        }
        let mut traffic = Traffic::default();
        let keys: CarrierKeys = install.keys;
        let kind = keys.carrier();
        link.timeout(now.instant, out);
        let mut context = Context {
            now,
            grant: install.grant,
            filter: &mut filter,
            link: &mut link,
            traffic: &mut traffic,
            shared,
            out,
        };
        let carrier = Carrier::new(&mut context, keys, seed)?;
        Some(Self {
            grant: install.grant,
            app: install.app,
            kind,
            expires: now.instant + install.ttl.min(TTL_MAX),
            filter,
            link,
            traffic,
            told: Traffic::default(),
            tell_at: None,
            opened: false,
            told_path: None,
            told_silence: None,
            told_standby: 0,
            carrier,
            queued: false,
        })
    }

    pub(crate) const fn link(&self) -> &Link {
        &self.link
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.link.handles()
    }

    pub(crate) fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }

    pub(crate) const fn set_stacked(&mut self, v4: bool, v6: bool) {
        self.filter.set_stacked(v4, v6);
    }

    pub(crate) fn extend(&mut self, now: Now, ttl: Duration, ticket: &[u8], standby: &[Blob]) {
        self.expires = now.instant + ttl.min(TTL_MAX);
        self.link.renew(now.instant, ticket, standby);
    }

    pub(crate) fn check(&self, service: Service) -> Option<Permitted> {
        self.filter.check(service.protocol, service.port).ok()
    }

    /// Why the tunnel is over, if it is.
    pub(crate) fn over(&self, now: Now) -> Option<CloseReason> {
        if now.instant >= self.expires {
            return Some(CloseReason::Expired);
        }
        match self.carrier.phase() {
            Phase::Dead(reason) => Some(reason),
            Phase::Opening | Phase::Open => None,
        }
    }

    /// Calls the carrier with its surroundings.
    pub(crate) fn with<R>(
        &mut self,
        now: Now,
        shared: &mut Shared,
        out: &mut Outbox,
        call: impl FnOnce(&mut Carrier, &mut Context<'_>) -> R,
    ) -> R {
        let mut context = Context {
            now,
            grant: self.grant,
            filter: &mut self.filter,
            link: &mut self.link,
            traffic: &mut self.traffic,
            shared,
            out,
        };
        call(&mut self.carrier, &mut context)
    }

    /// Opens one sealed datagram, of the carrier or about paths.
    pub(crate) fn datagram(
        &mut self,
        now: Now,
        from: (SocketAddr, Via),
        sealed: &[u8],
        shared: &mut Shared,
        out: &mut Outbox,
    ) {
        if sealed.first() == Some(&PATH_FRAME) {
            if !self.link.frame(now.instant, from, sealed, out) {
                shared.drops.note(DropReason::NotAuthentic);
            }
            return self.follow_path(now, shared, out);
        }
        if self.with(now, shared, out, |carrier, context| {
            carrier.datagram(context, sealed)
        }) {
            self.link.came(now.instant, from);
        }
    }

    /// Opens sealed datagrams of the carrier that came in one piece.
    pub(crate) fn datagrams(
        &mut self,
        now: Now,
        from: (SocketAddr, Via),
        datagrams: Datagrams<'_>,
        shared: &mut Shared,
        out: &mut Outbox,
    ) {
        self.with(now, shared, out, |carrier, context| {
            carrier.datagrams(context, from, datagrams);
        });
    }

    /// The relay has something to say that is not sealed.
    pub(crate) fn hear_relay(
        &mut self,
        now: Now,
        shared: &mut Shared,
        out: &mut Outbox,
        hear: impl FnOnce(&mut Link, &mut Outbox),
    ) {
        hear(&mut self.link, out);
        self.follow_path(now, shared, out);
    }

    /// Lets the carrier send again what a path lost that is given up.
    fn follow_path(&mut self, now: Now, shared: &mut Shared, out: &mut Outbox) {
        if let Some(how) = self.link.rerouted() {
            self.with(now, shared, out, |carrier, context| {
                carrier.rerouted(context, how);
            });
        }
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Now, shared: &mut Shared, out: &mut Outbox) {
        self.link.timeout(now.instant, out);
        self.follow_path(now, shared, out);
        if self.carrier.deadline().is_some_and(|at| at <= now.instant) {
            self.with(now, shared, out, Carrier::timeout);
        }
        if self.tell_at.is_some_and(|at| at <= now.instant) {
            self.tell_used(out);
        }
    }

    /// Tells what changed, after any call.
    pub(crate) fn settle(&mut self, now: Now, out: &mut Outbox) {
        if !self.opened && self.carrier.phase() == Phase::Open {
            self.opened = true;
            out.events.push_back(Event::Opened { grant: self.grant });
        }
        if self.opened {
            self.tell_link(out);
        }
        if self.tell_at.is_none() && self.traffic != self.told {
            self.tell_at = Some(now.instant + USED_INTERVAL);
        }
    }

    fn tell_link(&mut self, out: &mut Outbox) {
        let grant = self.grant;
        let changes = self.link.changes();
        if self.told_path != Some(changes) {
            self.told_path = Some(changes);
            let (path, why) = self.link.path();
            out.events.push_back(Event::Path { grant, path, why });
        }
        let standby = self.link.standby();
        if self.told_standby != standby {
            self.told_standby = standby;
            let relays = self.link.standby_relays();
            out.events.push_back(Event::Standby { grant, relays });
        }
        let silence = self.link.silence();
        if self.told_silence != silence {
            self.told_silence = silence;
            out.events.push_back(match silence {
                Some(silence) => Event::Silent { grant, silence },
                None => Event::Answers { grant },
            });
        }
    }

    /// Finds out whether bytes pass, if they ever did.
    pub(crate) fn find_out(&mut self, now: Now) {
        if self.opened {
            self.link.check(now.instant);
        }
    }

    /// Ends everything; keys, flows and queues go with `self`.
    pub(crate) fn close(
        mut self,
        now: Now,
        reason: CloseReason,
        shared: &mut Shared,
        out: &mut Outbox,
    ) {
        if self.traffic != self.told {
            self.tell_used(out);
        }
        self.with(now, shared, out, |carrier, context| {
            carrier.close(context, reason)
        });
        out.events.push_back(Event::Closed {
            grant: self.grant,
            reason,
        });
    }

    pub(crate) fn deadline(&mut self) -> Instant {
        [self.carrier.deadline(), self.tell_at]
            .into_iter()
            .flatten()
            .fold(self.expires.min(self.link.deadline()), Instant::min)
    }

    pub(crate) fn writable(&self, flow: crate::FlowId) -> usize {
        self.carrier.writable(flow)
    }

    pub(crate) fn stats(&self) -> TunnelStats {
        let (bytes_in, bytes_out) = self.bytes();
        TunnelStats {
            app: self.app.clone(),
            carrier: self.kind,
            open: self.opened,
            bytes_in,
            bytes_out,
            flows: self.traffic.flows,
            rtt: self.rtt(),
            expires: self.expires,
        }
    }

    /// Of the path in use where a probe has shown it, else as the carrier sees it.
    fn rtt(&self) -> Option<Duration> {
        self.link.rtt().or_else(|| self.carrier.rtt())
    }

    fn tell_used(&mut self, out: &mut Outbox) {
        self.told = self.traffic;
        self.tell_at = None;
        let (bytes_in, bytes_out) = self.bytes();
        out.events.push_back(Event::Used {
            grant: self.grant,
            bytes_in,
            bytes_out,
            flows: self.traffic.flows,
            rtt: self.rtt(),
        });
    }

    /// From the app, and to it.
    const fn bytes(&self) -> (u64, u64) {
        match self.filter.end() {
            End::Agent => (self.traffic.read, self.traffic.written),
            End::Connector => (self.traffic.written, self.traffic.read),
        }
    }
}

/// Longest life from one command, so that no number from outside moves a deadline out of range.
///
/// Grants live for an hour at most; a day leaves room for whoever changes that.
const TTL_MAX: Duration = Duration::from_secs(24 * 3_600);
