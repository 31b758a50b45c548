//! All flows, by name, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};

use cardea_tunnel::FlowId;

use super::{ListenerId, flow::Flow};

/// All flows, and those that have something to do.
#[derive(Debug, Default)]
pub(super) struct Flows {
    all: BTreeMap<FlowId, Flow>,
    ready: VecDeque<FlowId>,
    next: u64,
}

impl Flows {
    /// Whether some flow waits for its turn.
    pub(super) fn wants_turn(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many flows wait for their turn.
    pub(super) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The next flow whose turn it is.
    pub(super) fn next_ready(&mut self) -> Option<FlowId> {
        self.ready.pop_front()
    }

    /// A name for a new flow of an agent.
    pub(super) const fn name(&mut self) -> FlowId {
        self.next += 1;
        FlowId(self.next)
    }

    pub(super) fn insert(&mut self, id: FlowId, flow: Flow) {
        self.all.insert(id, flow);
        self.queue(id);
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.all.get_mut(&id)
    }

    pub(super) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        self.all.remove(&id)
    }

    /// Gives a flow a turn, if it has none already.
    pub(super) fn queue(&mut self, id: FlowId) {
        let queued = match self.all.get_mut(&id) {
            Some(Flow::Tcp { flow, .. }) => &mut flow.queued,
            Some(Flow::UdpTarget(target)) => &mut target.queued,
            Some(Flow::Dialing(_) | Flow::UdpClient { .. } | Flow::Associated { .. }) | None => {
                return;
            }
        };
        if !std::mem::replace(queued, true) {
            self.ready.push_back(id);
        }
    }

    /// The listener that a flow came in through.
    pub(super) fn listener(&self, id: FlowId) -> Option<ListenerId> {
        match self.all.get(&id)? {
            Flow::Tcp { from, .. } => *from,
            Flow::UdpClient { listener, .. } | Flow::Associated { listener, .. } => Some(*listener),
            Flow::Dialing(_) | Flow::UdpTarget(_) => None,
        }
    }

    /// Every flow that came in through a listener.
    pub(super) fn through(&self, listener: ListenerId) -> Vec<FlowId> {
        let ids = self.all.keys().copied();
        ids.filter(|id| self.listener(*id) == Some(listener))
            .collect()
    }
}
