//! Who is connected: one channel for each node, and what it proved.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use cardea_ledger::checkpoint::Checkpoint;
use cardea_proto::{
    codec::Bytes,
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    ledger::Revision,
    message::{Purpose, ToNode},
    time::{Now, UnixMillis},
};

use crate::{
    allowance::Allowance,
    api::{ChannelId, Outbox, Peer},
};

/// One node's connection.
#[derive(Debug)]
pub(crate) struct Channel {
    /// Whose.
    pub(crate) node: NodeId,
    /// What it may be used for.
    pub(crate) purpose: Purpose,
    /// The TLS exporter, to which proofs on this channel are bound.
    pub(crate) exporter: [u8; 32],
    /// Where it comes from.
    pub(crate) address: SocketAddr,
    /// The nonce of its reports; `None` until it has said hello.
    pub(crate) nonce: Option<Bytes<16>>,
    /// Whether a certificate for it is on its way to the store.
    pub(crate) renewing: bool,
    /// The last checkpoint that the node has accepted, as far as is known here.
    pub(crate) known: Option<Checkpoint>,
    /// What the node said it holds, until everything is known here that was recorded before.
    pub(crate) named: Option<Named>,
    /// Grants that a connector answered for and that are unknown here, until the same.
    answered: Vec<(GrantId, Instant)>,
}

/// Answers for unknown grants that are remembered: as many as a connector may give at once.
const ANSWERED_MAX: usize = 2_048;

/// The grants that a node named in its hello.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) grants: Vec<GrantId>,
    /// When.
    pub(crate) at: Instant,
    /// The last entry that was known here at that moment.
    pub(crate) seen: Revision,
}

/// When a node was last heard of, and as what.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: UnixMillis,
    pub(crate) program: Option<String>,
}

/// All channels.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    by_id: BTreeMap<ChannelId, Channel>,
    by_node: BTreeMap<NodeId, ChannelId>,
    /// Renewals: no node counts as connected for one, and nothing is routed to it.
    renewals: BTreeMap<NodeId, ChannelId>,
    seen: BTreeMap<NodeId, Seen>,
    /// What each node may still ask at the moment. It outlives the channel, so that nobody earns a
    /// full bucket by connecting again.
    budgets: BTreeMap<NodeId, Budget>,
    /// What each device may still have recorded of its posture; outlives the channel as well.
    allowances: BTreeMap<DeviceId, Allowance>,
}

/// A bucket of tokens, one for each message that costs work.
#[derive(Debug)]
struct Budget {
    tokens: u32,
    at: Instant,
}

impl Channels {
    /// Takes a channel in; answers the one of the same node and purpose that it replaces.
    pub(crate) fn insert(&mut self, id: ChannelId, node: NodeId, peer: &Peer) -> Option<ChannelId> {
        let channel = Channel {
            node,
            purpose: peer.purpose,
            exporter: peer.exporter,
            address: peer.address,
            nonce: None,
            renewing: false,
            known: None,
            named: None,
            answered: Vec::new(),
        };
        self.by_id.insert(id, channel);
        match peer.purpose {
            Purpose::Channel => self.by_node.insert(node, id),
            Purpose::Renewal => self.renewals.insert(node, id),
        }
    }

    /// Forgets a channel; answers it, and whether the node is gone with it.
    pub(crate) fn remove(&mut self, id: ChannelId) -> Option<(Channel, bool)> {
        let channel = self.by_id.remove(&id)?;
        if self.renewals.get(&channel.node) == Some(&id) {
            self.renewals.remove(&channel.node);
        }
        let last = self.by_node.get(&channel.node) == Some(&id);
        if last {
            self.by_node.remove(&channel.node);
        }
        Some((channel, last))
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Nodes of which something outlives the channel.
    pub(crate) fn remembered(&self) -> usize {
        let kept = self.seen.len().max(self.budgets.len());
        kept.max(self.allowances.len())
    }

    pub(crate) fn get(&self, id: ChannelId) -> Option<&Channel> {
        self.by_id.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.by_id.get_mut(&id)
    }

    /// Notes that a node said hello and what it is.
    pub(crate) fn greeted(&mut self, id: ChannelId, nonce: Bytes<16>, program: String, now: Now) {
        if let Some(channel) = self.by_id.get_mut(&id) {
            channel.nonce = Some(nonce);
            let program: String = program.chars().take(64).collect();
            let seen = Seen {
                at: now.unix,
                program: Some(program),
            };
            self.seen.insert(channel.node, seen);
        }
    }

    /// Every channel, but renewals, whose node has said hello.
    pub(crate) fn greeted_channels(&self) -> impl Iterator<Item = (ChannelId, &Channel)> {
        self.by_node.values().filter_map(|id| {
            let channel = self.by_id.get(id)?;
            channel.nonce.is_some().then_some((*id, channel))
        })
    }

    /// Takes what nodes named up to a moment, with the channel of each.
    pub(crate) fn take_named(&mut self, until: Instant) -> Vec<(ChannelId, Named)> {
        let mut taken = Vec::new();
        for (id, channel) in &mut self.by_id {
            taken.extend(
                channel
                    .named
                    .take_if(|named| named.at <= until)
                    .map(|named| (*id, named)),
            );
        }
        taken
    }

    /// Remembers that a connector answered for a grant which is not known here yet.
    pub(crate) fn answered(&mut self, id: ChannelId, grant: GrantId, now: Instant) {
        let channel = self.by_id.get_mut(&id);
        if let Some(channel) = channel.filter(|channel| channel.answered.len() < ANSWERED_MAX) {
            channel.answered.push((grant, now));
        }
    }

    /// Takes the unknown grants that connectors answered for up to a moment.
    pub(crate) fn take_answered(&mut self, until: Instant) -> Vec<(ChannelId, NodeId, GrantId)> {
        let mut taken = Vec::new();
        for (id, channel) in &mut self.by_id {
            let node = channel.node;
            let due = channel.answered.extract_if(.., |(_, at)| *at <= until);
            taken.extend(due.map(|(grant, _)| (*id, node, grant)));
        }
        taken
    }

    /// The channel of a node that has said hello.
    pub(crate) fn of(&self, node: NodeId) -> Option<ChannelId> {
        let id = self.by_node.get(&node)?;
        let greeted = self.by_id.get(id)?.nonce.is_some();
        greeted.then_some(*id)
    }

    pub(crate) fn of_device(&self, device: DeviceId) -> Option<ChannelId> {
        self.of(NodeId::Device(device))
    }

    pub(crate) fn of_connector(&self, connector: ConnectorId) -> Option<ChannelId> {
        self.of(NodeId::Connector(connector))
    }

    /// The channel of a node and its renewal, whether they have said hello or not.
    pub(crate) fn all_of(&self, node: NodeId) -> Vec<ChannelId> {
        let both = [self.by_node.get(&node), self.renewals.get(&node)];
        both.into_iter().flatten().copied().collect()
    }

    /// The renewal of a node that has said hello.
    pub(crate) fn renewal_of(&self, node: NodeId) -> Option<ChannelId> {
        let id = self.renewals.get(&node)?;
        let greeted = self.by_id.get(id)?.nonce.is_some();
        greeted.then_some(*id)
    }

    /// Where a device comes from, while it is connected or renews.
    pub(crate) fn address(&self, device: DeviceId) -> Option<IpAddr> {
        let node = NodeId::Device(device);
        let id = self.by_node.get(&node).or(self.renewals.get(&node))?;
        Some(self.by_id.get(id)?.address.ip())
    }

    /// Notes that a node's channel lives.
    pub(crate) fn heard(&mut self, id: ChannelId, now: Now) {
        let node = self.by_id.get(&id).map(|channel| channel.node);
        if let Some(seen) = node.and_then(|node| self.seen.get_mut(&node)) {
            seen.at = now.unix;
        }
    }

    /// When a node was last heard of.
    pub(crate) fn seen(&self, node: NodeId) -> Option<&Seen> {
        self.seen.get(&node)
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.seen.remove(&node);
        self.budgets.remove(&node);
        if let NodeId::Device(device) = node {
            self.allowances.remove(&device);
        }
    }

    /// Takes what one message costs out of the budget of the channel's node; false when it has none.
    pub(crate) fn spend(&mut self, id: ChannelId, now: Instant) -> bool {
        self.spend_for(id, 0, now)
    }

    /// The same for a message of some length.
    pub(crate) fn spend_for(&mut self, id: ChannelId, bytes: usize, now: Instant) -> bool {
        let Some(channel) = self.by_id.get(&id) else {
            return false;
        };
        let budget = self.budgets.entry(channel.node);
        let tokens = u32::try_from(bytes / Budget::TOKEN_BYTES).unwrap_or(u32::MAX);
        budget
            .or_insert_with(|| Budget::full(now))
            .take(tokens.saturating_add(1), now)
    }

    /// How long a device's next pass has to wait until it may be recorded.
    pub(crate) fn pass_waits(&self, device: DeviceId, now: Instant) -> Duration {
        let allowance = self.allowances.get(&device);
        allowance.map_or(Duration::ZERO, |allowance| allowance.wait(now))
    }

    /// What a device may have recorded.
    pub(crate) fn allowance(&mut self, device: DeviceId, now: Instant) -> &mut Allowance {
        let entry = self.allowances.entry(device);
        entry.or_insert_with(|| Allowance::full(now))
    }

    /// The devices that are connected.
    pub(crate) fn devices(&self) -> impl Iterator<Item = DeviceId> {
        self.by_node.keys().filter_map(|node| match node {
            NodeId::Device(id) => Some(*id),
            NodeId::Connector(_) => None,
        })
    }

    /// Sends to a node, if it is connected and has said hello.
    pub(crate) fn send(&self, node: NodeId, message: ToNode, out: &mut Outbox) {
        if let Some(channel) = self.of(node) {
            out.messages.push_back((channel, message));
        }
    }
}

impl Budget {
    /// As many requests as an agent with many apps makes when it starts.
    const TOKENS: u32 = 256;

    /// One token comes back in this time.
    const REFILL: Duration = Duration::from_millis(20);

    /// A message that may be long costs one more for each of these bytes.
    const TOKEN_BYTES: usize = 4 * 1024;

    const fn full(now: Instant) -> Self {
        Self {
            tokens: Self::TOKENS,
            at: now,
        }
    }

    /// Takes some tokens, all or none; `false` when there are not so many.
    fn take(&mut self, tokens: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        let earned = passed.as_millis() / Self::REFILL.as_millis();
        if let Ok(earned) = u32::try_from(earned)
            && earned < Self::TOKENS
        {
            self.tokens = (self.tokens + earned).min(Self::TOKENS);
            self.at += Self::REFILL * earned;
        } else {
            *self = Self::full(now);
        }
        let left = self.tokens.checked_sub(tokens);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing::start;

    use super::*;

    #[test]
    fn a_budget_is_spent_at_once_and_earned_over_time() {
        let now = start().instant;
        let mut budget = Budget::full(now);
        assert_eq!((0..1_000).filter(|_| budget.take(1, now)).count(), 256);
        let later = now + Budget::REFILL * 3;
        assert_eq!((0..1_000).filter(|_| budget.take(1, later)).count(), 3);
        let much_later = now + Duration::from_secs(86_400 * 400);
        assert_eq!(
            (0..1_000).filter(|_| budget.take(1, much_later)).count(),
            256
        );
    }
}
