//! Channels of nodes: who may have one, how it begins and ends, and what may be said on it.

use std::{net::SocketAddr, time::Duration};

use cardea_credential::knock::Knocker;
use cardea_proto::{
    PROGRAM_VERSION, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    id::{GrantId, NodeId},
    ledger::{Actor, EndReason},
    message::{FromNode, Hello, Purpose, ToNode, Welcome},
    refusal::{Refusal, RefusalCode},
};

use crate::{
    api::{ChannelId, Peer},
    channels::Named,
    controller::{Controller, Turn},
    grants::withdraw,
    heard::Heard,
    posture::skew_ms,
    refusals::Refused,
    settings::CLOCK_SKEW_MAX,
};

impl Controller {
    /// A node has connected; the certificate verified, and now the records must agree.
    pub(crate) fn on_connected(&mut self, turn: &mut Turn<'_>, channel: ChannelId, peer: &Peer) {
        let identity = &peer.leaf.identity;
        let Some(node) = identity.holder.node() else {
            let refusal = Refusal::new(
                RefusalCode::Unauthorized,
                format!("a {} has no channel here", identity.holder.role()),
            );
            self.turn_away(turn, channel, peer, refusal);
            return;
        };
        let known = self.world.state.node(node).map(|record| record.node.key);
        let refusal = match known {
            Some(_) if is_foreign(&peer.knockers, node) => Some(Refusal::new(
                RefusalCode::NotProven,
                format!("{node} did not knock for itself"),
            )),
            Some(key) if key == peer.leaf.key && identity.domain == *self.world.domain() => {
                self.blocked_from(node, peer.purpose)
            }
            Some(_) => Some(
                Refusal::new(
                    RefusalCode::NotProven,
                    format!("{node} enrolled with another key"),
                )
                .with_next(new_code(node)),
            ),
            None => Some(not_enrolled(node)),
        };
        if let Some(refusal) = refusal {
            self.turn_away(turn, channel, peer, refusal);
            return;
        }
        self.forget_posture(node);
        if let Some(before) = self.channels.insert(channel, node, peer) {
            self.channels.remove(before);
            turn.out.close.push_back(before);
            if peer.purpose == Purpose::Channel {
                self.node_left(turn, node);
            }
        }
        tracing::debug!(channel.id = channel.0, node.id = %node, "connected");
    }

    /// Somebody knocked as one of these, and its certificate does not hold.
    pub(crate) fn on_unproven(
        &mut self,
        turn: &mut Turn<'_>,
        address: SocketAddr,
        knockers: &[Knocker],
        why: &str,
    ) {
        let knockers: Vec<_> = knockers.iter().map(Knocker::to_string).collect();
        let subject = format!("{}: {why}", knockers.join(", "));
        self.note_unproven(turn, address, RefusalCode::NotProven, subject);
    }

    /// A connection is gone.
    pub(crate) fn on_disconnected(&mut self, turn: &mut Turn<'_>, channel: ChannelId) {
        if let Some((open, last)) = self.channels.remove(channel)
            && last
        {
            tracing::debug!(channel.id = channel.0, node.id = %open.node, "disconnected");
            self.node_left(turn, open.node);
        }
    }

    /// A message of a connected node.
    pub(crate) fn on_message(&mut self, turn: &mut Turn<'_>, channel: ChannelId, message: Heard) {
        let (message, statement) = message.into_parts();
        self.channels.heard(channel, turn.now);
        let Some(open) = self.channels.get(channel) else {
            return;
        };
        let (node, greeted) = (open.node, open.nonce.is_some());
        if open.purpose == Purpose::Renewal && !serves_renewal(&message) {
            self.protocol_error(turn, channel, "this channel is for a certificate alone");
            return;
        }
        match (node, message) {
            (_, FromNode::Hello(hello)) if !greeted => self.on_hello(turn, channel, node, hello),
            (_, _) if !greeted => self.protocol_error(turn, channel, "hello comes first"),
            (_, FromNode::Hello(_)) => self.protocol_error(turn, channel, "hello comes once"),
            (_, FromNode::Renew { public_key, proof }) => {
                self.on_renew(turn, channel, &public_key, &proof);
            }
            (_, FromNode::Closed { grant }) => self.on_closed(turn, node, grant),
            (_, FromNode::Usage(usages)) => self.on_usage(turn.now, node, usages),
            (NodeId::Device(device), FromNode::Report(report)) => {
                self.on_report(turn, channel, device, report);
            }
            (
                NodeId::Device(device),
                FromNode::Request {
                    request,
                    app,
                    offer,
                },
            ) => {
                if self.spend(turn, channel) {
                    self.on_request(turn, channel, device, (request, app, offer), statement);
                } else {
                    let refusal = too_fast();
                    let decision = None;
                    turn.send(
                        channel,
                        ToNode::Denied {
                            request,
                            refusal,
                            decision,
                        },
                    );
                }
            }
            (NodeId::Device(device), FromNode::Explain { request, app }) => {
                let decision = if self.spend(turn, channel) {
                    Ok(Box::new(self.explain_to(turn.now, device, &app)))
                } else {
                    Err(too_fast())
                };
                turn.send(channel, ToNode::Explained { request, decision });
            }
            (NodeId::Connector(connector), FromNode::Admitted { grant, answer }) => {
                self.on_admitted(turn, channel, connector, (grant, answer), statement);
            }
            (NodeId::Connector(connector), FromNode::NotAdmitted { grant, refusal }) => {
                self.on_not_admitted(turn, connector, grant, &refusal);
            }
            (
                NodeId::Connector(_),
                FromNode::Report(_) | FromNode::Request { .. } | FromNode::Explain { .. },
            ) => self.protocol_error(turn, channel, "only agents ask this"),
            (NodeId::Device(_), FromNode::Admitted { .. } | FromNode::NotAdmitted { .. }) => {
                self.protocol_error(turn, channel, "only connectors say this");
            }
        }
    }

    /// A node is gone for good: so are its grants and its channel.
    pub(crate) fn removed(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        let (reason, held): (_, Vec<GrantId>) = match node {
            NodeId::Device(device) => {
                self.postures.forget(device);
                self.reviews.forget(device);
                let grants = self.world.state.grants_of_device(device);
                (EndReason::DeviceBlocked, grants.collect())
            }
            NodeId::Connector(connector) => {
                let grants = self.world.state.grants_of_connector(connector);
                (EndReason::ConnectorGone, grants.collect())
            }
        };
        for channel in self.channels.all_of(node) {
            // All of them now: the entries that end the grants may come after the channel is gone.
            for grant in &held {
                turn.send(channel, withdraw(*grant, reason));
            }
            self.goodbye(turn, channel, not_enrolled(node));
        }
        let actor = self.world.itself();
        self.end_grants(turn, &actor, held.into_iter().map(|grant| (grant, reason)));
        self.channels.forget(node);
    }

    /// Says goodbye on a channel and closes it.
    pub(crate) fn goodbye(&mut self, turn: &mut Turn<'_>, channel: ChannelId, refusal: Refusal) {
        turn.send(channel, ToNode::Goodbye(refusal));
        turn.out.close.push_back(channel);
        if let Some((open, true)) = self.channels.remove(channel) {
            self.node_left(turn, open.node);
        }
    }

    fn on_hello(&mut self, turn: &mut Turn<'_>, channel: ChannelId, node: NodeId, hello: Hello) {
        if hello.version < PROTOCOL_VERSION_MIN {
            self.goodbye(turn, channel, too_old(hello.version));
            return;
        }
        let skew = Duration::from_millis(skew_ms(hello.clock, turn.now.unix).unsigned_abs());
        if matches!(node, NodeId::Connector(_)) && skew > CLOCK_SKEW_MAX {
            let refusal = Refusal::new(
                RefusalCode::ClockSkew,
                format!(
                    "this host's clock differs from the controller's by {} s",
                    skew.as_secs()
                ),
            );
            self.goodbye(turn, channel, refusal.with_next("Set the clock"));
            return;
        }
        let Some(record) = self.world.state.node(node) else {
            self.goodbye(turn, channel, not_enrolled(node));
            return;
        };
        let (name, user) = (record.node.name.clone(), record.node.user.clone());
        let nonce = self.world.dice.nonce();
        self.channels
            .greeted(channel, nonce, hello.program, turn.now);
        let settings = &self.world.settings;
        let welcome = Welcome {
            version: PROTOCOL_VERSION,
            program: PROGRAM_VERSION.to_owned(),
            clock: turn.now.unix,
            name,
            user,
            nonce,
            posture_poll_ms: u64::try_from(settings.posture_poll.as_millis()).unwrap_or(u64::MAX),
            watched_processes: self
                .world
                .engine
                .watched_processes()
                .iter()
                .cloned()
                .collect(),
            addresses: settings.addresses.clone(),
        };
        turn.send(channel, ToNode::Welcome(welcome));
        if self.is_renewal(channel) {
            return;
        }
        self.witness(turn, channel, hello.checkpoint.as_deref());
        if let NodeId::Device(device) = node {
            self.welcome_device(turn, channel, device);
        }
        let named = Named {
            grants: hello.grants,
            at: turn.now.instant,
            seen: self.world.state.head(),
        };
        if !self.world.settings.shared {
            self.held(turn, channel, &named);
        } else if let Some(open) = self.channels.get_mut(channel) {
            open.named = Some(named);
        }
    }

    /// Why a node may not even ask for its next certificate, though it is enrolled with this key.
    fn blocked_from(&self, node: NodeId, purpose: Purpose) -> Option<Refusal> {
        let (Purpose::Renewal, NodeId::Device(device)) = (purpose, node) else {
            return None;
        };
        let record = self.world.state.device(device)?;
        record.blocked.then(|| {
            let name = &record.node.name;
            Refusal::new(RefusalCode::Blocked, "this device is blocked").with_next(format!(
                "Ask an admin to run: cardeactl device unblock {name}"
            ))
        })
    }

    fn is_renewal(&self, channel: ChannelId) -> bool {
        let open = self.channels.get(channel);
        open.is_some_and(|open| open.purpose == Purpose::Renewal)
    }

    /// Closes a renewal that has served its purpose; other channels stay.
    pub(crate) fn close_renewal(&mut self, turn: &mut Turn<'_>, channel: ChannelId) {
        if self.is_renewal(channel) {
            self.channels.remove(channel);
            turn.out.close.push_back(channel);
        }
    }

    /// Where a device may have reported elsewhere since, what it said on an earlier channel is void.
    fn forget_posture(&mut self, node: NodeId) {
        if let (NodeId::Device(device), true) = (node, self.world.settings.shared) {
            self.postures.forget(device);
        }
    }

    fn node_left(&mut self, turn: &mut Turn<'_>, node: NodeId) {
        self.forget_posture(node);
        match node {
            NodeId::Device(device) => self.device_left(turn, device),
            NodeId::Connector(connector) => self.connector_left(turn, connector),
        }
    }

    fn turn_away(
        &mut self,
        turn: &mut Turn<'_>,
        channel: ChannelId,
        peer: &Peer,
        refusal: Refusal,
    ) {
        let subject = peer.leaf.identity.to_string();
        self.note_unproven(turn, peer.address, refusal.code, subject);
        turn.send(channel, ToNode::Goodbye(refusal));
        turn.out.close.push_back(channel);
    }

    /// Who is not who it knocked as is a stranger, whose refusals have a bound.
    fn note_unproven(
        &mut self,
        turn: &mut Turn<'_>,
        address: SocketAddr,
        code: RefusalCode,
        subject: String,
    ) {
        let refused = Refused {
            actor: Actor::Stranger(address.to_string()),
            attempt: "authenticate",
            code,
            subject,
            decision: None,
        };
        self.note_refusal(turn, &refused);
    }

    fn protocol_error(&mut self, turn: &mut Turn<'_>, channel: ChannelId, why: &str) {
        let refusal = Refusal::new(RefusalCode::Protocol, why);
        self.goodbye(turn, channel, refusal);
    }

    fn spend(&mut self, turn: &Turn<'_>, channel: ChannelId) -> bool {
        self.channels.spend(channel, turn.now.instant)
    }
}

/// Whether somebody else knocked for this node. A knock proves nothing by itself; but whoever knocks
/// as one node and then is another has what belongs to both.
fn is_foreign(knockers: &[Knocker], node: NodeId) -> bool {
    !knockers.is_empty() && !knockers.contains(&Knocker::Node(node))
}

/// The refusal of a node that speaks a version from before ours.
pub(crate) fn too_old(version: u16) -> Refusal {
    Refusal::new(
        RefusalCode::Version,
        format!(
            "it speaks version {version} of the protocol, and this controller {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}"
        ),
    )
    .with_next("Install the current version")
}

/// Whether a message has a place on a channel that is for the next certificate alone.
const fn serves_renewal(message: &FromNode) -> bool {
    match message {
        FromNode::Hello(_) | FromNode::Report(_) | FromNode::Renew { .. } => true,
        FromNode::Request { .. }
        | FromNode::Explain { .. }
        | FromNode::Admitted { .. }
        | FromNode::NotAdmitted { .. }
        | FromNode::Closed { .. }
        | FromNode::Usage(_) => false,
    }
}

/// How a node that is known no longer enrolls again: its state still says that it is enrolled.
pub(crate) fn new_code(node: NodeId) -> String {
    let (invite, program) = match node {
        NodeId::Device(_) => ("cardeactl invite device", "cardea"),
        NodeId::Connector(_) => ("cardeactl invite connector", "cardea-connector"),
    };
    format!(
        "Ask an admin for a code ({invite}), stop {program}, move its state directory away, then: {program} up CODE"
    )
}

fn not_enrolled(node: NodeId) -> Refusal {
    Refusal::new(
        RefusalCode::NotProven,
        format!("{node} was removed by an admin, or never enrolled here"),
    )
    .with_next(new_code(node))
}

fn too_fast() -> Refusal {
    Refusal::new(RefusalCode::Busy, "this device asks for too much at once")
        .with_next("Wait a moment")
}

#[cfg(test)]
mod renewal_tests;
#[cfg(test)]
mod tests;
