//! UDP conversations in a tunnel, whichever carrier moves their packets.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    command::End,
    context::Context,
    drops::DropReason,
    filter::Permitted,
    input::{DialError, FlowId},
    outbox::{CloseReason, FlowEvent, ResetReason},
    schedule::Schedule,
};

/// The UDP flows of one tunnel; `K` is how the carrier's packets name them.
#[derive(Debug)]
pub(crate) struct UdpFlows<K> {
    flows: BTreeMap<FlowId, UdpFlow<K>>,
    names: BTreeMap<K, FlowId>,
    schedule: Schedule<FlowId>,
    /// Payloads written before the tunnel opened.
    early: VecDeque<(FlowId, Bytes)>,
}

#[derive(Debug)]
struct UdpFlow<K> {
    name: K,
    used: Instant,
    /// What arrived before the target was dialed.
    parked: Option<VecDeque<Bytes>>,
}

impl<K> Default for UdpFlows<K> {
    fn default() -> Self {
        Self {
            flows: BTreeMap::new(),
            names: BTreeMap::new(),
            schedule: Schedule::default(),
            early: VecDeque::new(),
        }
    }
}

impl<K: Copy + Ord + fmt::Debug> UdpFlows<K> {
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn has_name(&self, name: K) -> bool {
        self.names.contains_key(&name)
    }

    pub(crate) fn contains(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    /// Agent: begins a flow.
    pub(crate) fn open(&mut self, context: &mut Context<'_>, flow: FlowId, name: K) {
        if self.flows.len() >= UDP_FLOWS_MAX {
            context.drop(DropReason::FlowLimit);
            return context.tell(FlowEvent::Reset {
                flow,
                why: ResetReason::Limit,
            });
        }
        context.adopt(flow);
        self.insert(context.now.instant, flow, name, None);
        context.tell(FlowEvent::Established { flow });
    }

    /// Takes a payload from the peer; at a connector the first one of a flow begins it.
    pub(crate) fn receive(
        &mut self,
        context: &mut Context<'_>,
        name: K,
        to: Permitted,
        payload: Bytes,
    ) {
        let flow = match self.names.get(&name).copied() {
            Some(flow) => flow,
            None => match self.admit(context, name, to) {
                Ok(flow) => flow,
                Err(reason) => return context.drop(reason),
            },
        };
        let Some(state) = self.flows.get_mut(&flow) else {
            return;
        };
        state.used = context.now.instant;
        match &mut state.parked {
            Some(parked) if parked.len() < PARKED_PACKETS_MAX => parked.push_back(payload),
            Some(_) => context.drop(DropReason::QueueFull),
            None => deliver(context, flow, payload),
        }
    }

    /// Connector: lets what waited go on, or ends the flow.
    pub(crate) fn dialed(
        &mut self,
        context: &mut Context<'_>,
        flow: FlowId,
        result: Result<(), DialError>,
    ) {
        if result.is_err() {
            self.remove(context, flow);
            return;
        }
        let parked = self
            .flows
            .get_mut(&flow)
            .and_then(|state| state.parked.take());
        for payload in parked.into_iter().flatten() {
            deliver(context, flow, payload);
        }
    }

    /// Notes that a flow sends; its name is what the packet must carry.
    pub(crate) fn send(&mut self, now: Instant, flow: FlowId) -> Option<K> {
        let state = self.flows.get_mut(&flow)?;
        state.used = now;
        Some(state.name)
    }

    /// Keeps a payload until the tunnel opens.
    pub(crate) fn keep_early(&mut self, context: &mut Context<'_>, flow: FlowId, payload: Bytes) {
        if self.early.len() < EARLY_PACKETS_MAX {
            self.early.push_back((flow, payload));
        } else {
            context.drop(DropReason::QueueFull);
        }
    }

    /// What was kept, once the tunnel is open.
    pub(crate) fn take_early(&mut self) -> VecDeque<(FlowId, Bytes)> {
        std::mem::take(&mut self.early)
    }

    /// Ends a flow that the shell knows to be over.
    pub(crate) fn remove(&mut self, context: &mut Context<'_>, flow: FlowId) {
        if let Some(state) = self.flows.remove(&flow) {
            self.names.remove(&state.name);
            self.schedule.set(flow, None);
            context.forget(flow);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Ends flows that have been idle for long.
    pub(crate) fn expire(&mut self, context: &mut Context<'_>) {
        let now = context.now.instant;
        while let Some(flow) = self.schedule.pop_due(now) {
            let Some(used) = self.flows.get(&flow).map(|state| state.used) else {
                continue;
            };
            if now >= used + UDP_IDLE {
                self.remove(context, flow);
                context.tell(FlowEvent::Closed { flow });
            } else {
                self.schedule.set(flow, Some(used + UDP_IDLE));
            }
        }
    }

    /// Ends all of them with their tunnel.
    pub(crate) fn close(&mut self, context: &mut Context<'_>, reason: CloseReason) {
        for flow in std::mem::take(&mut self.flows).into_keys() {
            context.reset_flow(flow, ResetReason::TunnelClosed(reason));
        }
        *self = Self::default();
    }

    fn admit(
        &mut self,
        context: &mut Context<'_>,
        name: K,
        to: Permitted,
    ) -> Result<FlowId, DropReason> {
        if context.filter.end() == End::Agent {
            return Err(DropReason::UnknownFlow);
        }
        if self.flows.len() >= UDP_FLOWS_MAX {
            return Err(DropReason::FlowLimit);
        }
        let target = context.filter.target(to).ok_or(DropReason::WrongService)?;
        let flow = context.new_flow();
        self.insert(context.now.instant, flow, name, Some(VecDeque::new()));
        context.tell(FlowEvent::Dial {
            flow,
            grant: context.grant,
            target,
        });
        Ok(flow)
    }

    fn insert(&mut self, now: Instant, flow: FlowId, name: K, parked: Option<VecDeque<Bytes>>) {
        self.names.insert(name, flow);
        self.schedule.set(flow, Some(now + UDP_IDLE));
        self.flows.insert(
            flow,
            UdpFlow {
                name,
                used: now,
                parked,
            },
        );
    }
}

fn deliver(context: &mut Context<'_>, flow: FlowId, bytes: Bytes) {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    context.traffic.read = context.traffic.read.saturating_add(len);
    context.tell(FlowEvent::Packet { flow, bytes });
}

/// Most UDP flows of one tunnel: a resolver's worth of questions, and a bound on sockets.
pub(crate) const UDP_FLOWS_MAX: usize = 1_024;

/// How long a UDP flow lives without a packet.
///
/// Source: RFC 4787 §4.3 asks for two minutes at least.
pub(crate) const UDP_IDLE: Duration = Duration::from_secs(120);

/// Packets of one flow that wait for the target's name to resolve: more than a polite peer sends.
const PARKED_PACKETS_MAX: usize = 16;

/// Packets of one tunnel that wait for it to open.
const EARLY_PACKETS_MAX: usize = 64;
