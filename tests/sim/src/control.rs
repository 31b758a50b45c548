//! The controllers as one group: their store, and the channels that nodes have with them.

use std::collections::BTreeMap;

use cardea_core::{AdminSession, CallId, ChannelId, Input};
use cardea_credential::admin::sign_change;
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminRequest, ChangeOrder},
    enroll::{EnrollAnswer, EnrollRequest},
    ledger::{Entry, Revision},
    time::{Now, UnixMillis},
};
use cardea_store::{MemoryStore, Store};

use crate::{
    channel::Channel,
    clock::Skew,
    dice::Dice,
    founding::{Domain, name},
    member::Member,
    schedule::Who,
    world::World,
};

/// The controllers and everything that they stand on.
pub(crate) struct Control {
    pub(crate) domain: Domain,
    pub(crate) members: Vec<Member>,
    pub(crate) store: MemoryStore,
    pub(crate) channels: BTreeMap<ChannelId, Channel>,
    pub(crate) answers: BTreeMap<CallId, AdminAnswer>,
    pub(crate) enrollments: Vec<EnrollAnswer>,
    pub(crate) is_full: bool,
    pub(crate) dice: Dice,
    /// Counts channels and calls.
    pub(crate) counted: u64,
}

impl Control {
    /// The wall clock of a controller that runs.
    pub(crate) fn unix(&self, member: usize, now: Now) -> Option<UnixMillis> {
        let member = self.members.get(member)?;
        Some(member.skew.show(now).unix)
    }

    /// The controllers of a seed, none of them running, and the entries that there are already.
    pub(crate) fn new(
        seed: u64,
        domain: Domain,
        mut store: MemoryStore,
        skews: Vec<Skew>,
    ) -> Result<(Self, Vec<Entry>), String> {
        let entries = store
            .tail(Revision(0), usize::MAX)
            .map_err(|error| error.to_string())?;
        let control = Self {
            domain,
            members: skews.into_iter().map(Member::stopped).collect(),
            store,
            channels: BTreeMap::new(),
            answers: BTreeMap::new(),
            enrollments: Vec::new(),
            is_full: false,
            counted: 0,
            dice: Dice::new(seed, "controller"),
        };
        Ok((control, entries))
    }

    /// The channels that lead to a controller.
    pub(crate) fn channels_at(&self, member: usize) -> Vec<ChannelId> {
        let channels = self.channels.iter();
        channels
            .filter(|(_, channel)| channel.member == member)
            .map(|(id, _)| *id)
            .collect()
    }

    /// The controller that most nodes are connected to.
    pub(crate) fn busiest(&self) -> usize {
        let members = 0..self.members.len();
        let busiest = members.max_by_key(|member| self.channels_at(*member).len());
        busiest.unwrap_or(0)
    }

    /// A controller that runs and reaches the store, the lucky one of several.
    fn someone(&mut self) -> Option<usize> {
        let able: Vec<usize> = self
            .members
            .iter()
            .enumerate()
            .filter(|(_, member)| member.running.is_some() && !member.is_isolated)
            .map(|(index, _)| index)
            .collect();
        self.dice.pick(&able).copied()
    }
}

impl World {
    /// An admin's signed change, to any controller; its answer comes when it is written.
    pub(crate) fn order(&mut self, change: AdminChange) -> Option<CallId> {
        let member = self.control.someone()?;
        let session = &mut self.acting(member)?.session;
        session.sequence += 1;
        let (nonce, sequence) = (session.nonce, session.sequence);
        let order = ChangeOrder {
            domain: name("corp.example"),
            nonce,
            sequence,
            at: self.now.unix,
            change,
        };
        let signed = sign_change(&order, &self.control.domain.admin).ok()?;
        self.control.counted += 1;
        let call = CallId(self.control.counted);
        self.model.ordered(call, signed.clone());
        self.stranger.overhear(&signed);
        let input = Input::Admin {
            call,
            session: AdminSession { nonce },
            request: AdminRequest::Change(signed),
            prepared: None,
        };
        self.control(member, input);
        Some(call)
    }

    /// A stranger asks to enroll, on a connection of its own.
    pub(crate) fn enroll(&mut self, who: Who, request: EnrollRequest, exporter: [u8; 32]) {
        let (Some(address), Some(member)) = (self.network.address(who), self.control.someone())
        else {
            return;
        };
        self.control.counted += 1;
        let input = Input::Enroll {
            channel: ChannelId(self.control.counted),
            request: Box::new(request),
            exporter,
            address,
        };
        self.control(member, input);
    }
}
