//! The stranger: somebody without any right, who sends to everybody whatever they can get hold of.
//!
//! They hear every wire. To the relay they send garbage, forged tickets, tickets whose time is over
//! (those that a controller with a late clock made) and sealed datagrams of others; to nodes the same, also in the relay's name; to controllers codes
//! that nobody made, changes that no admin signed or that one signed before, messages on channels
//! that are none, and certificates of another root. Not a byte may come back (4).
//!
//! What they never send is a ticket that is still in time: a relay cannot tell a copy of one from
//! the original, and the villain shows what a copy does.

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use cardea_core::{AdminSession, CallId, ChannelId, Input};
use cardea_credential::{
    admin::sign_change,
    authority::{Intermediate, Leaf, Root, serial_number},
    key::{KeyAlgorithm, Signer, SoftwareKey},
};
use cardea_proto::{
    admin::{AdminChange, AdminRequest, ChangeOrder, SignedChange},
    codec::{Blob, Bytes},
    id::{ControllerId, NodeId},
    identity::{Identity, Role},
    message::FromNode,
    relay::{BIND_BYTES, FrameKind, TICKET_BODY_BYTES, Ticket},
    time::UnixMillis,
};

use cardea_tunnel::Via;

use crate::{
    dice::Dice,
    founding::{RELAYS, name},
    schedule::{Event, Who},
    world::World,
};

/// Where they are.
pub(crate) const ADDRESS: &str = "203.0.113.66:6666";

/// Things that they keep of each kind.
const KEPT_MAX: usize = 32;

/// Names of channels and calls that no shell has given.
const OWN: u64 = 1 << 40;

/// What the stranger has and did.
pub(crate) struct Stranger {
    heard: VecDeque<Vec<u8>>,
    tickets: VecDeque<(UnixMillis, Vec<u8>)>,
    orders: VecDeque<SignedChange>,
    calls: BTreeSet<CallId>,
    key: SoftwareKey,
    root: Root,
    authority: Intermediate,
    counted: u64,
}

impl Stranger {
    /// Somebody with a root of their own, which bears the name of the trust domain.
    pub(crate) fn new(dice: &mut Dice, at: UnixMillis) -> Result<Self, String> {
        let domain = name("corp.example");
        let generate = |algorithm| SoftwareKey::generate(algorithm).map(Arc::new);
        let text = |error: &dyn std::error::Error| error.to_string();
        let root_key = generate(KeyAlgorithm::P384).map_err(|error| text(&error))?;
        let root = Root::create(&domain, root_key, serial_number(dice.bytes()), at)
            .map_err(|error| text(&error))?;
        let key = generate(KeyAlgorithm::P256).map_err(|error| text(&error))?;
        let serial = serial_number(dice.bytes());
        let controller = ControllerId::from_bytes(dice.bytes());
        let certificate = root
            .issue_intermediate(controller, key.public_key(), serial, at)
            .map_err(|error| text(&error))?;
        Ok(Self {
            heard: VecDeque::new(),
            tickets: VecDeque::new(),
            orders: VecDeque::new(),
            calls: BTreeSet::new(),
            key: SoftwareKey::from_seed(&dice.bytes()).map_err(|error| text(&error))?,
            root,
            authority: Intermediate::load(certificate, key).map_err(|error| text(&error))?,
            counted: OWN,
        })
    }

    /// Keeps what was on a wire.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        let kind = bytes.first().copied().and_then(FrameKind::of);
        if matches!(
            kind,
            Some(FrameKind::Bind | FrameKind::Proof | FrameKind::Ask)
        ) {
            if let Some(ticket) = bytes
                .get(1..)
                .and_then(|ticket| ticket.first_chunk::<TICKET_BODY_BYTES>())
                .and_then(Ticket::from_body)
            {
                keep(&mut self.tickets, (ticket.not_after, bytes.to_vec()));
            }
        } else {
            keep(&mut self.heard, bytes.to_vec());
        }
    }

    /// Keeps what an admin signed.
    pub(crate) fn overhear(&mut self, order: &SignedChange) {
        keep(&mut self.orders, order.clone());
    }

    /// Whether this is a call of theirs.
    pub(crate) fn asked(&self, call: CallId) -> bool {
        self.calls.contains(&call)
    }

    fn count(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }
}

/// Whether a channel is one on which nobody but the stranger speaks.
pub(crate) const fn is_strange(channel: ChannelId) -> bool {
    channel.0 >= OWN
}

/// Whether a datagram goes to the stranger.
pub(crate) fn is_stranger(to: SocketAddr) -> bool {
    ADDRESS.parse() == Ok(to)
}

impl World {
    /// The stranger does something, and will again.
    pub(crate) fn stranger_acts(&mut self) {
        let pause = self.dice.millis(100, 900);
        self.schedule.at(self.now.instant + pause, Event::Stranger);
        match self.dice.below(8) {
            0..=2 => self.probe_relay(),
            3 | 4 => self.probe_node(),
            5 => self.probe_enrollment(),
            6 => self.order_as_stranger(),
            _ => {
                self.speak_on_no_channel();
                self.dial_as_stranger();
            }
        }
    }

    /// Something that is worth nothing.
    fn rubbish(&mut self) -> Vec<u8> {
        let at = self.dice.below(KEPT_MAX);
        let now = self.now.unix;
        let mut forged = None;
        let mut over = None;
        if let Some((not_after, ticket)) = self.stranger.tickets.get(at) {
            let mut ticket = ticket.clone();
            over = (*not_after <= now).then(|| ticket.clone());
            // Any bit of body or signature.
            let bit = self.dice.below((BIND_BYTES - 1) * 8);
            if let Some(byte) = ticket.get_mut(1 + bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            forged = Some(ticket);
        }
        let heard = self.stranger.heard.get(at).cloned();
        let chosen = match self.dice.below(4) {
            0 => over,
            1 => forged,
            2 => heard,
            _ => None,
        };
        chosen.unwrap_or_else(|| {
            let kinds = [
                FrameKind::Bind,
                FrameKind::Bound,
                FrameKind::Data,
                FrameKind::Challenge,
                FrameKind::Proof,
                FrameKind::Ask,
                FrameKind::Seen,
            ];
            let mut garbage = self.dice.bytes::<BIND_BYTES>().to_vec();
            if let (Some(kind), Some(first)) = (self.dice.pick(&kinds), garbage.first_mut()) {
                *first = kind.byte();
            }
            let length = self.dice.below(2 * garbage.len());
            garbage.truncate(length);
            garbage
        })
    }

    fn probe_relay(&mut self) {
        let bytes = self.rubbish();
        if let Ok(from) = ADDRESS.parse() {
            let at = self.now.instant + Duration::from_millis(1);
            let relay = self.dice.below(RELAYS.len());
            self.schedule.at(at, Event::AtRelay { relay, from, bytes });
        }
    }

    /// Sends to a node, sometimes in the relay's name.
    fn probe_node(&mut self) {
        let bytes = self.rubbish();
        let device = Who::Device(self.dice.below(self.plan.devices));
        let site = Who::Site(self.dice.below(self.plan.connectors));
        let who = if self.dice.chance(500) { device } else { site };
        let from = if self.dice.chance(500) {
            self.dice.pick(&RELAYS).copied().unwrap_or(ADDRESS)
        } else {
            ADDRESS
        };
        let outside = self.network.outside(who).filter(|_| from == ADDRESS);
        let (to, via) = match outside {
            Some(to) => (Some(to), Via::Direct),
            None => (self.network.address(who), Via::Relay),
        };
        if let (Some(to), Ok(from)) = (to, from.parse()) {
            let at = self.now.instant + Duration::from_millis(1);
            let event = Event::AtNode {
                via,
                who,
                to,
                from,
                bytes,
            };
            self.schedule.at(at, event);
        }
    }

    /// Asks to be enrolled with a code that nobody made.
    fn probe_enrollment(&mut self) {
        let role = if self.dice.chance(500) {
            Role::Device
        } else {
            Role::Connector
        };
        let (secret, exporter) = (self.dice.bytes(), self.dice.bytes());
        let Ok(key) = SoftwareKey::from_seed(&self.dice.bytes()) else {
            return;
        };
        if let Ok(request) = self.request(role, secret, &key, &exporter) {
            self.enroll(Who::Device(self.plan.villain()), request, exporter);
        }
    }

    /// Orders what an admin ordered before, or something under a key of their own.
    fn order_as_stranger(&mut self) {
        let member = self.dice.below(self.plan.controllers);
        let Some(nonce) = self.acting(member).map(|acting| acting.session.nonce) else {
            return;
        };
        let sequence = self.stranger.count();
        let own = ChangeOrder {
            domain: name("corp.example"),
            nonce,
            sequence,
            at: self.now.unix,
            change: AdminChange::DeviceUnblock("node".to_owned()),
        };
        let own = sign_change(&own, &self.stranger.key).ok();
        let at = self.dice.below(KEPT_MAX);
        let order = match self.stranger.orders.get(at).cloned() {
            Some(again) if self.dice.chance(700) => again,
            Some(mut bent) => {
                bent.signature = own.map_or(bent.signature, |own| own.signature);
                bent
            }
            None => match own {
                Some(own) => own,
                None => return,
            },
        };
        let nonce = if self.dice.chance(700) {
            nonce
        } else {
            Bytes(self.dice.bytes())
        };
        let call = CallId(sequence);
        self.stranger.calls.insert(call);
        let input = Input::Admin {
            call,
            session: AdminSession { nonce },
            request: AdminRequest::Change(order),
            prepared: None,
        };
        self.control(member, input);
    }

    /// Says that grants are over, on a channel that is none.
    fn speak_on_no_channel(&mut self) {
        let live = self.model.live_grants();
        let member = self.dice.below(self.plan.controllers);
        if let Some(grant) = self.dice.pick(&live).copied() {
            let channel = ChannelId(self.stranger.count());
            let message = FromNode::Closed { grant };
            self.hear(member, channel, message);
        }
    }

    /// Comes with certificates of another root, alone and mixed with real ones.
    fn dial_as_stranger(&mut self) {
        let Some(device) = self.devices.first() else {
            return;
        };
        let leaf = Leaf {
            identity: Identity {
                domain: name("corp.example"),
                holder: NodeId::Device(device.id).into(),
            },
            public_key: self.stranger.key.public_key().to_vec().into(),
            serial: serial_number(self.dice.bytes()),
            not_before: self.now.unix,
            not_after: self.now.unix.plus(Duration::from_secs(300)),
        };
        let Ok(own) = self.stranger.authority.issue(&leaf) else {
            return;
        };
        let real = device.disk.certificate.chain.clone();
        let root = Blob(self.stranger.root.certificate().to_vec());
        let ([leaf, own_authority], [real_leaf, authority]) = (&own[..], &real[..]) else {
            return;
        };
        let chains = [
            vec![leaf.clone(), own_authority.clone()],
            vec![leaf.clone(), authority.clone()],
            vec![real_leaf.clone(), own_authority.clone()],
            vec![leaf.clone(), own_authority.clone(), root],
        ];
        let trust = &self.control.domain.trust;
        let at = self.now.unix;
        let is_let_in = chains
            .iter()
            .any(|chain| trust.verify(chain, at).is_ok() || trust.verify_lapsed(chain, at).is_ok());
        if is_let_in {
            self.fail(4, "a certificate of another root was let in".to_owned());
        }
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() >= KEPT_MAX {
        kept.pop_front();
    }
    kept.push_back(new);
}
