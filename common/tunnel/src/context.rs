//! What a carrier may touch besides itself during one call.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

use cardea_proto::{id::GrantId, time::Now};

use crate::{
    command::{Edge, End},
    drops::{DropReason, Drops},
    filter::Filter,
    input::FlowId,
    link::Link,
    outbox::{Event, FlowEvent, Outbox, ResetReason},
};

/// The surroundings of one tunnel.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) grant: GrantId,
    pub(crate) filter: &'a mut Filter,
    pub(crate) link: &'a mut Link,
    pub(crate) traffic: &'a mut Traffic,
    pub(crate) shared: &'a mut Shared,
    pub(crate) out: &'a mut Outbox,
}

/// What all tunnels of one end have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) flows: FlowTable,
    pub(crate) drops: Drops,
    /// Of the socket for direct paths, if there is one.
    pub(crate) addresses: Option<Vec<SocketAddr>>,
    /// Where controllers are.
    pub(crate) controllers: VecDeque<IpAddr>,
    pub(crate) edge: Edge,
    /// Where one packet is built before it is sealed.
    pub(crate) built: Vec<u8>,
}

/// Payload that passed a tunnel, in bytes, as this end saw it, and its flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) written: u64,
    pub(crate) read: u64,
    pub(crate) flows: u32,
}

/// Which tunnel each flow is in, and the next id.
#[derive(Debug, Default)]
pub(crate) struct FlowTable {
    next: u64,
    owners: BTreeMap<FlowId, GrantId>,
}

impl FlowTable {
    pub(crate) fn count(&self) -> usize {
        self.owners.len()
    }

    pub(crate) fn owner(&self, flow: FlowId) -> Option<GrantId> {
        self.owners.get(&flow).copied()
    }
}

impl Context<'_> {
    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.shared.drops.note(reason);
    }

    /// A name for a flow that the peer began.
    pub(crate) fn new_flow(&mut self) -> FlowId {
        self.shared.flows.next += 1;
        let flow = FlowId(self.shared.flows.next);
        self.adopt(flow);
        flow
    }

    /// Makes `flow` one of this tunnel's.
    pub(crate) fn adopt(&mut self, flow: FlowId) {
        self.shared.flows.owners.insert(flow, self.grant);
        self.traffic.flows = self.traffic.flows.saturating_add(1);
    }

    /// Tells the shell something about a flow.
    pub(crate) fn tell(&mut self, event: FlowEvent) {
        self.out.flows.push_back(event);
    }

    /// Forgets a flow that both sides have finished.
    pub(crate) fn close_flow(&mut self, flow: FlowId) {
        self.forget(flow);
        self.tell(FlowEvent::Closed { flow });
    }

    /// Forgets a flow and tells the shell why.
    pub(crate) fn reset_flow(&mut self, flow: FlowId, why: ResetReason) {
        self.forget(flow);
        if let (End::Agent, ResetReason::Refused(why)) = (self.filter.end(), why) {
            let grant = self.grant;
            self.out.events.push_back(Event::Unreached { grant, why });
        }
        self.tell(FlowEvent::Reset { flow, why });
    }

    /// Forgets a flow that the shell already knows to be over.
    pub(crate) fn forget(&mut self, flow: FlowId) {
        if self.shared.flows.owners.remove(&flow).is_some() {
            self.traffic.flows = self.traffic.flows.saturating_sub(1);
        }
    }

    /// Whether this turn has produced as much as the network should take at once.
    pub(crate) fn is_full(&self) -> bool {
        self.out.transmits.len() >= TRANSMITS_MAX
    }
}

/// Transmits that may wait in the outbox before a turn stops producing more: about 1 MiB.
///
/// More than a socket buffer takes is lost or waits in the shell, and a revocation waits behind it.
pub(crate) const TRANSMITS_MAX: usize = 16;
