//! A simulated user: wants apps, permitted or not, and talks to them for as long as they answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use cardea_node::AgentInput;
use cardea_proto::{
    app::{Protocol, Service},
    id::GrantId,
    name::Name,
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::{FlowEvent, FlowId, Input, Read};

use crate::{
    device::Flows,
    founding::app_name,
    schedule::Event,
    tag::{RECORD_BYTES, Tag},
    world::World,
};

/// Flows that one user keeps open; older ones are finished first.
pub(crate) const FLOWS_MAX: usize = 8;

/// What a user has and waits for.
#[derive(Debug, Default)]
pub(crate) struct User {
    /// Whether they want apps by themselves, or only go on talking.
    pub(crate) is_active: bool,
    /// The answer to the latest wish for each app.
    pub(crate) answers: BTreeMap<usize, Result<GrantId, RefusalCode>>,
    pub(crate) flows: Flows,
    /// Records that came back, by app and port.
    pub(crate) echoes: BTreeMap<(usize, Service), u64>,
    pub(crate) opened: u64,
    sent: u64,
}

impl User {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

/// A conversation with an app.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) app: usize,
    pub(crate) service: Service,
    pub(crate) is_open: bool,
    /// Whether its tunnel was given addresses that are not the granted ones.
    pub(crate) is_forged: bool,
    received: Vec<u8>,
}

/// The two ports of every app.
pub(crate) const SERVICES: [Service; 2] = [
    Service {
        protocol: Protocol::Tcp,
        port: 80,
    },
    Service {
        protocol: Protocol::Udp,
        port: 53,
    },
];

impl World {
    /// A user does something, and will again.
    pub(crate) fn user(&mut self, index: usize) {
        let pause = self.dice.millis(200, 900);
        let again = Event::User { device: index };
        self.schedule.at(self.now.instant + pause, again);
        let Some(device) = self.devices.get(index) else {
            return;
        };
        let is_active = device.user.is_active;
        if device.is_asleep || device.running.is_none() {
            return;
        }
        if is_active && self.dice.chance(300) {
            let app = self.dice.below(self.plan.apps);
            self.want(index, app);
        }
        self.talk(index);
    }

    /// Somebody on the device wants an app.
    pub(crate) fn want(&mut self, index: usize, app: usize) {
        if let Some(device) = self.devices.get_mut(index) {
            device.user.answers.remove(&app);
        }
        let app = app_name(app);
        self.agent(index, AgentInput::Wanted { app });
    }

    /// The agent answers a wish: the user begins to talk over both ports.
    pub(crate) fn opened(&mut self, index: usize, app: &Name, answer: Result<GrantId, Refusal>) {
        let Some(number) = (0..self.plan.apps).find(|number| app_name(*number) == *app) else {
            return;
        };
        if let Err(refusal) = &answer {
            self.note(|| format!("device {index}: {app} refused: {refusal}"));
            if refusal.code == RefusalCode::Internal || refusal.message.is_empty() {
                self.fail(0, format!("a denial without a reason: {refusal:?}"));
            }
        }
        if let Ok(grant) = &answer {
            self.note(|| format!("device {index}: {app} open under {grant}"));
        }
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        let code = answer.map_err(|refusal| refusal.code);
        device.user.answers.insert(number, code);
        if let Ok(grant) = code {
            for service in SERVICES {
                self.open_flow(index, grant, number, service);
            }
        }
    }

    /// Begins a conversation.
    pub(crate) fn open_flow(&mut self, index: usize, grant: GrantId, app: usize, service: Service) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        let is_forged = device
            .villain
            .as_ref()
            .is_some_and(|villain| villain.forges(grant));
        let user = &mut device.user;
        user.opened += 1;
        let flow = FlowId(user.opened);
        let begun = Flow {
            app,
            service,
            is_open: service.protocol == Protocol::Udp,
            is_forged,
            received: Vec::new(),
        };
        user.flows.insert(flow, begun);
        let is_over = user.flows.len() > FLOWS_MAX;
        if let Some(oldest) = user.flows.keys().next().copied().filter(|_| is_over) {
            self.finish(index, oldest);
        }
        self.tunnels(index, |tunnels, now, out| {
            let open = Input::OpenFlow {
                flow,
                grant,
                service,
            };
            tunnels.handle(now, open, out);
        });
        if service.protocol == Protocol::Udp {
            self.send_record(index, flow);
        }
    }

    /// Ends every conversation of a user.
    pub(crate) fn finish_all(&mut self, index: usize) {
        let flows: Vec<FlowId> = self
            .devices
            .get(index)
            .map(|device| device.user.flows.keys().copied().collect())
            .unwrap_or_default();
        for flow in flows {
            self.finish(index, flow);
        }
    }

    fn finish(&mut self, index: usize, flow: FlowId) {
        if let Some(device) = self.devices.get_mut(index) {
            device.user.flows.remove(&flow);
        }
        self.tunnels(index, |tunnels, now, out| {
            tunnels.handle(now, Input::Finish { flow }, out);
        });
    }

    /// Sends one record on every open flow.
    pub(crate) fn talk(&mut self, index: usize) {
        let flows: Vec<FlowId> = self
            .devices
            .get(index)
            .map(|device| device.user.flows.iter())
            .into_iter()
            .flatten()
            .filter(|(_, flow)| flow.is_open)
            .map(|(flow, _)| *flow)
            .collect();
        for flow in flows {
            self.send_record(index, flow);
        }
    }

    /// Something happened to one of a user's flows.
    pub(crate) fn flow_event(&mut self, index: usize, event: FlowEvent) {
        match event {
            FlowEvent::Established { flow } => {
                if let Some(known) = self.flow(index, flow) {
                    known.is_open = true;
                    self.send_record(index, flow);
                }
            }
            FlowEvent::Readable { flow } => self.receive(index, flow),
            FlowEvent::Packet { flow, bytes } => self.echoed(index, flow, &bytes),
            FlowEvent::Reset { flow, why } => {
                self.note(|| format!("device {index}: flow {} reset: {why:?}", flow.0));
                if let Some(device) = self.devices.get_mut(index) {
                    device.user.flows.remove(&flow);
                }
            }
            FlowEvent::Closed { flow } => {
                if let Some(device) = self.devices.get_mut(index) {
                    device.user.flows.remove(&flow);
                }
            }
            FlowEvent::Writable { .. } => {}
            FlowEvent::Dial { .. } => self.fail(0, "an agent was asked to dial".to_owned()),
        }
    }

    fn flow(&mut self, index: usize, flow: FlowId) -> Option<&mut Flow> {
        self.devices.get_mut(index)?.user.flows.get_mut(&flow)
    }

    fn send_record(&mut self, index: usize, flow: FlowId) {
        let Some(user) = self.devices.get_mut(index).map(|device| &mut device.user) else {
            return;
        };
        user.sent += 1;
        let sequence = user.sent;
        let Some(known) = user.flows.get(&flow) else {
            return;
        };
        let (app, service, is_forged) = (known.app, known.service, known.is_forged);
        let tag = Tag {
            device: index,
            app,
            service,
            sequence,
            is_forged,
        };
        let record = Bytes::from(tag.record());
        self.tunnels(index, |tunnels, now, out| {
            match service.protocol {
                Protocol::Udp => {
                    let packet = Input::Packet {
                        flow,
                        bytes: record,
                    };
                    tunnels.handle(now, packet, out);
                }
                Protocol::Tcp if tunnels.writable(flow) >= RECORD_BYTES => {
                    tunnels.write(now, flow, record, out);
                }
                Protocol::Tcp => {}
            }
            tunnels.flush(now, out);
        });
    }

    fn receive(&mut self, index: usize, flow: FlowId) {
        let mut received = Vec::new();
        self.tunnels(index, |tunnels, now, out| {
            while let Read::Data(bytes) = tunnels.read(now, flow, 64 * 1_024, out) {
                received.extend_from_slice(&bytes);
            }
            tunnels.flush(now, out);
        });
        let Some(known) = self.flow(index, flow) else {
            return;
        };
        known.received.extend_from_slice(&received);
        let whole = known.received.len() / RECORD_BYTES * RECORD_BYTES;
        let records: Vec<u8> = known.received.drain(..whole).collect();
        for record in records.chunks(RECORD_BYTES) {
            self.echoed(index, flow, record);
        }
    }

    /// A record came back: it must be one that this user sent to that app.
    fn echoed(&mut self, index: usize, flow: FlowId, record: &[u8]) {
        let known = self
            .flow(index, flow)
            .map(|known| (known.app, known.service));
        let Some((app, service)) = known else {
            return;
        };
        let tag = Tag::read(record);
        if tag.is_none_or(|tag| tag.device != index || tag.app != app) {
            self.fail(
                1,
                format!("device {index} was sent a foreign record: {tag:?}"),
            );
        }
        if let Some(device) = self.devices.get_mut(index) {
            *device.user.echoes.entry((app, service)).or_default() += 1;
        }
    }
}
