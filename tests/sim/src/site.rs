//! A simulated connector: the real one and its data half, and apps that answer what they are sent.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use cardea_credential::{key::SoftwareKey, trust::Trust};
use cardea_ledger::checkpoint::Verifier;
use cardea_node::{Connector, ConnectorInput, ConnectorOutbox, ConnectorSettings};
use cardea_proto::{
    access::Signed,
    app::Target,
    enroll::Enrolled,
    id::{ConnectorId, DeviceId, GrantId},
    name::Name,
    time::Now,
};
use cardea_tunnel::{
    Command, DialError, Egress, End, FlowEvent, FlowId, Input, Outbox, Read, Tunnels,
};

use crate::{
    clock::Skew,
    founding::{app_name, name},
    model::Arrival,
    schedule::{Event, Who},
    tag::{RECORD_BYTES, Tag},
    world::World,
};

/// Longest answer that waits for a tunnel to take it, in bytes.
const BACKLOG_BYTES_MAX: usize = 64 * 1_024;

/// One connector.
pub(crate) struct Site {
    pub(crate) id: ConnectorId,
    pub(crate) key: Arc<SoftwareKey>,
    pub(crate) disk: Enrolled,
    /// The checkpoint of the ledger on that disk.
    pub(crate) checkpoint: Option<String>,
    pub(crate) skew: Skew,
    pub(crate) serving: Option<Box<Serving>>,
    pub(crate) life: u64,
    /// What a liar answered before.
    pub(crate) answer: Option<Signed>,
}

/// The daemon's two halves, and the apps beside it.
pub(crate) struct Serving {
    pub(crate) connector: Connector,
    pub(crate) tunnels: Tunnels,
    pub(crate) attempt: u64,
    pub(crate) channel: Option<cardea_core::ChannelId>,
    pub(crate) flows: BTreeMap<FlowId, Served>,
    egress: BTreeMap<GrantId, Egress>,
}

/// A conversation with an app.
#[derive(Debug)]
pub(crate) struct Served {
    grant: GrantId,
    target: Target,
    received: Vec<u8>,
    backlog: Vec<u8>,
}

impl Site {
    /// Starts the programs on what the disk has.
    pub(crate) fn start(&mut self, trust: Trust, ledger: Verifier, entropy: [[u8; 32]; 2]) {
        let settings = ConnectorSettings {
            connector: self.id,
            name: self.disk.name.clone(),
            domain: name("corp.example"),
            trust,
            certificate: self.disk.certificate.clone(),
            signer: Arc::<SoftwareKey>::clone(&self.key),
            addresses: self.disk.addresses.clone(),
            program: "sim".to_owned(),
            ledger,
            checkpoint: self.checkpoint.clone(),
            home: "state".to_owned(),
        };
        let [connector, tunnels] = entropy;
        let attempt = self.serving.take().map_or(0, |serving| serving.attempt);
        self.life += 1;
        self.serving = Some(Box::new(Serving {
            connector: Connector::new(settings, connector),
            tunnels: Tunnels::new(End::Connector, tunnels),
            attempt: attempt + 1_000 * self.life,
            channel: None,
            flows: BTreeMap::new(),
            egress: BTreeMap::new(),
        }));
    }

    /// Its tunnels, while its programs run.
    pub(crate) fn tunnels(&self) -> Option<&Tunnels> {
        self.serving.as_ref().map(|serving| &serving.tunnels)
    }

    /// When it next has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let serving = self.serving.as_ref()?;
        [serving.connector.deadline(), serving.tunnels.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}

impl World {
    /// One turn of a connector and its tunnels, and everything that follows from it there.
    pub(crate) fn connector(&mut self, index: usize, input: ConnectorInput) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let Some(site) = self.sites.get_mut(index) else {
                return;
            };
            let now = site.skew.show(self.now);
            let Some(serving) = site.serving.as_mut() else {
                return;
            };
            let mut out = ConnectorOutbox::default();
            serving.connector.handle(now, input, &mut out);
            self.follow_connector(index, out);
        }
    }

    /// A turn of the data half alone, and everything that follows from it.
    pub(crate) fn serve(
        &mut self,
        index: usize,
        turn: impl FnOnce(&mut Tunnels, Now, &mut Outbox),
    ) {
        let Some(site) = self.sites.get_mut(index) else {
            return;
        };
        let now = site.skew.show(self.now);
        let Some(serving) = site.serving.as_mut() else {
            return;
        };
        let mut out = Outbox::default();
        turn(&mut serving.tunnels, now, &mut out);
        for transmit in &out.transmits {
            self.transmit(Who::Site(index), transmit);
        }
        for event in out.flows {
            self.served(index, event);
        }
        for event in out.events {
            self.note_turn(&event);
            self.connector(index, ConnectorInput::Tunnel(event));
        }
    }

    /// The running programs of a connector.
    pub(crate) fn serving(&mut self, index: usize) -> Option<&mut Serving> {
        self.sites.get_mut(index)?.serving.as_deref_mut()
    }

    /// An app answers a connector's dial: it is always there.
    pub(crate) fn dialed_app(&mut self, index: usize, flow: FlowId) {
        let known = self
            .serving(index)
            .and_then(|serving| serving.flows.get(&flow));
        if known.is_some() {
            let result = Ok(());
            self.serve(index, |tunnels, now, out| {
                tunnels.handle(now, Input::Dialed { flow, result }, out);
            });
        }
    }

    fn follow_connector(&mut self, index: usize, out: ConnectorOutbox) {
        let node = out.node;
        if let Some(site) = self.sites.get_mut(index) {
            if let Some(certificate) = node.save {
                site.disk.certificate = certificate;
            }
            if let Some(note) = node.checkpoint {
                site.checkpoint = Some(note);
            }
            if let Some(addresses) = node.addresses {
                site.disk.addresses = addresses;
            }
        }
        for command in node.commands {
            if let (Command::Install(install), Some(serving)) = (&command, self.serving(index)) {
                let egress = install.egress.clone();
                serving
                    .egress
                    .extend(egress.map(|egress| (install.grant, egress)));
            }
            if let Some(command) = self.cling(index, command) {
                self.serve(index, |tunnels, now, out| {
                    tunnels.handle(now, Input::Command(command), out);
                });
            }
        }
        let channel = self.serving(index).and_then(|serving| serving.channel);
        for message in node.messages {
            for message in self.lie(index, message) {
                if let Some(channel) = channel {
                    self.say(channel, message);
                }
            }
        }
        if node.disconnect {
            if let Some(channel) = channel {
                self.sever(channel, true);
            }
            if let Some(serving) = self.serving(index) {
                serving.channel = None;
                serving.attempt += 1;
            }
        }
        if let Some(connect) = node.connect {
            self.dial_site(index, &connect);
        }
    }

    /// Something happened to a flow at a connector.
    fn served(&mut self, index: usize, event: FlowEvent) {
        match event {
            FlowEvent::Dial {
                flow,
                grant,
                target,
            } => self.dial_app(index, flow, grant, target),
            FlowEvent::Readable { flow } => self.take(index, flow),
            FlowEvent::Writable { flow } => self.answer(index, flow),
            FlowEvent::Packet { flow, bytes } => {
                self.arrived(index, flow, &bytes);
                self.serve(index, |tunnels, now, out| {
                    tunnels.handle(now, Input::Packet { flow, bytes }, out);
                    tunnels.flush(now, out);
                });
            }
            FlowEvent::Reset { flow, .. } | FlowEvent::Closed { flow } => {
                if let Some(serving) = self.serving(index) {
                    serving.flows.remove(&flow);
                }
            }
            FlowEvent::Established { .. } => {
                self.fail(0, "a connector's flow was established by itself".to_owned());
            }
        }
    }

    /// The last check before a socket is opened: the address that is really dialed.
    fn dial_app(&mut self, index: usize, flow: FlowId, grant: GrantId, target: Target) {
        let permitted = self.serving(index).and_then(|serving| {
            let egress = serving.egress.get(&grant)?;
            egress.permit(&target, target.address()?, &[]).ok()
        });
        if permitted.is_none() {
            let result = Err(DialError::NotPermitted);
            return self.serve(index, |tunnels, now, out| {
                tunnels.handle(now, Input::Dialed { flow, result }, out);
            });
        }
        self.judge(index, grant, &target, None);
        let served = Served {
            grant,
            target,
            received: Vec::new(),
            backlog: Vec::new(),
        };
        if let Some(serving) = self.serving(index) {
            serving.flows.insert(flow, served);
        }
        let time = self.dice.millis(0, 5);
        let event = Event::Dial { site: index, flow };
        self.schedule.at(self.now.instant + time, event);
    }

    /// Reads what a flow has, hands it to the app, and sends back what the app answers: the same.
    fn take(&mut self, index: usize, flow: FlowId) {
        let mut received = Vec::new();
        let mut is_finished = false;
        self.serve(index, |tunnels, now, out| {
            loop {
                match tunnels.read(now, flow, 64 * 1_024, out) {
                    Read::Data(bytes) => received.extend_from_slice(&bytes),
                    Read::Finished => {
                        is_finished = true;
                        break;
                    }
                    Read::Blocked | Read::Reset => break,
                }
            }
            tunnels.flush(now, out);
        });
        let Some(known) = self
            .serving(index)
            .and_then(|serving| serving.flows.get_mut(&flow))
        else {
            return;
        };
        known.received.extend_from_slice(&received);
        let whole = known.received.len() / RECORD_BYTES * RECORD_BYTES;
        let records: Vec<u8> = known.received.drain(..whole).collect();
        if known.backlog.len() + records.len() <= BACKLOG_BYTES_MAX {
            known.backlog.extend_from_slice(&records);
        }
        for record in records.chunks(RECORD_BYTES) {
            self.arrived(index, flow, record);
        }
        self.answer(index, flow);
        if is_finished {
            self.serve(index, |tunnels, now, out| {
                tunnels.handle(now, Input::Finish { flow }, out);
            });
        }
    }

    /// Sends back as much as the tunnel takes.
    fn answer(&mut self, index: usize, flow: FlowId) {
        let backlog = self
            .serving(index)
            .and_then(|serving| serving.flows.get_mut(&flow))
            .map(|known| std::mem::take(&mut known.backlog));
        let Some(backlog) = backlog.filter(|backlog| !backlog.is_empty()) else {
            return;
        };
        let mut rest = Bytes::from(backlog);
        self.serve(index, |tunnels, now, out| {
            let taken = tunnels.write(now, flow, rest.clone(), out);
            rest = rest.slice(taken.min(rest.len())..);
            tunnels.flush(now, out);
        });
        let known = self
            .serving(index)
            .and_then(|serving| serving.flows.get_mut(&flow));
        if let Some(known) = known {
            known.backlog.splice(..0, rest);
        }
    }

    /// A record is at an app: it must be one that was meant for it, by whom the grant is for.
    fn arrived(&mut self, index: usize, flow: FlowId, record: &[u8]) {
        let known = self
            .serving(index)
            .and_then(|serving| serving.flows.get(&flow))
            .map(|known| (known.grant, known.target.clone()));
        let Some((grant, target)) = known else {
            self.fail(
                1,
                "bytes arrived on a flow that was never dialed".to_owned(),
            );
            return;
        };
        let Some(tag) = Tag::read(record) else {
            self.fail(1, format!("bytes that nobody sent arrived at {target}"));
            return;
        };
        self.log.delivered += 1;
        if tag.is_forged {
            self.fail(
                1,
                format!("a packet with forged addresses arrived at {target}"),
            );
        }
        if tag.service != target.service {
            self.fail(
                1,
                format!("a record for {} arrived at {target}", tag.service),
            );
        }
        let sender = self.devices.get(tag.device).map(|device| device.id);
        let sender = sender.map(|device| (device, app_name(tag.app)));
        self.judge(index, grant, &target, sender);
    }

    fn judge(
        &mut self,
        index: usize,
        grant: GrantId,
        target: &Target,
        sender: Option<(DeviceId, Name)>,
    ) {
        let Some(connector) = self.sites.get(index).map(|site| site.id) else {
            return;
        };
        let arrival = Arrival {
            connector,
            grant,
            target,
            sender,
        };
        self.model.reached(self.slowest(), &arrival);
    }
}
