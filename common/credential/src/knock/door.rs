//! The door: who may knock, and what each knock comes to.
//!
//! ```text
//!  knock ─▶ of a handshake that is open here? ─▶ Open
//!        ─▶ id of nobody                      ─▶ Unknown
//!        ─▶ tag of nobody                     ─▶ Forged
//!        ─▶ clock more than a window off      ─▶ Early, Late
//!        ─▶ heard before                      ─▶ Replayed
//!        ─▶ bucket of its knocker is empty    ─▶ TooMany
//!        ─▶                                      Open, from this address, for some seconds
//! ```
//!
//! Nothing but `Open` is ever answered. The door reads no clock and keeps nothing on disk: what was
//! made before it was opened is late, so that a restart lets in no knock of the process before. Two
//! kinds are not remembered, and could be used once by who saw them pass: one that came early, when
//! its time has come, and after a restart one that a clock ahead of ours had made.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use cardea_proto::{
    admin::Knocks,
    codec::{Digest, Secret32},
    id::{InviteId, NodeId},
    time::{Now, UnixMillis},
};

use super::{
    Id, Knock, KnockKeys,
    attempts::Attempts,
    epoch_of,
    record::{BURST, BURST_OF_CODE, Record, window_secs},
    secs_of, since_opened,
};

/// How far a knocker's clock may be from ours.
///
/// An hour, which is what a wrong time zone or a missed change of it makes, and some minutes: such a
/// node must still be told by the controller itself that its clock is wrong.
pub const WINDOW: Duration = Duration::from_secs(70 * 60);

/// Somebody who may knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knocker {
    /// A node, with the seed of its certificate.
    Node(NodeId),
    /// Whoever holds a code.
    Invite(InviteId),
}

impl fmt::Display for Knocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Invite(invite) => invite.fmt(f),
        }
    }
}

/// How long somebody may knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    /// Until this moment.
    Until(UnixMillis),
    /// For as long as nobody dismisses it, and after that until `then`, so that it can be told.
    UntilDismissed {
        /// The end of a dismissed knocker.
        then: UnixMillis,
    },
}

/// A change to who may knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DoorChange {
    /// Somebody may knock, with any of these seeds and no others.
    Admit {
        /// Who.
        who: Knocker,
        /// The seeds.
        seeds: Vec<Secret32>,
        /// For how long.
        stay: Stay,
    },
    /// Somebody is gone, and may knock for as long as [`Stay`] says.
    Dismiss(Knocker),
    /// Somebody may not knock from this moment.
    Forget(Knocker),
}

/// What a knock comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The datagram may pass.
    Open,
    /// The id is nobody's.
    Unknown,
    /// The id is somebody's, the tag is not.
    Forged,
    /// It was made too far ahead of our clock.
    Early,
    /// It was made too long ago, or before this door was opened.
    Late,
    /// It was heard before.
    Replayed,
    /// Its knocker knocks too often.
    TooMany,
}

impl Answer {
    /// Counts it among those that were given.
    pub(super) const fn count(self, knocks: &mut Knocks) {
        let counter = match self {
            Self::Open => &mut knocks.opened,
            Self::Unknown => &mut knocks.unknown,
            Self::Forged => &mut knocks.forged,
            Self::Early => &mut knocks.early,
            Self::Late => &mut knocks.late,
            Self::Replayed => &mut knocks.replayed,
            Self::TooMany => &mut knocks.too_many,
        };
        *counter = counter.saturating_add(1);
    }
}

/// Who may knock at one server, and what was heard.
#[derive(Debug)]
pub struct Door {
    root: Digest,
    /// When it was opened, by the clock that nobody sets.
    opened_at: Instant,
    knockers: BTreeMap<Knocker, Record>,
    /// The ids of the epochs around this moment.
    ids: BTreeMap<u32, BTreeSet<(Id, Knocker)>>,
    attempts: Attempts,
    knocks: Knocks,
}

impl Door {
    /// The door of the trust domain whose root certificate has this digest, which nobody opens yet.
    #[must_use]
    pub fn new(root: Digest, now: Now) -> Self {
        let mut this = Self {
            root,
            opened_at: now.instant,
            knockers: BTreeMap::new(),
            ids: BTreeMap::new(),
            attempts: Attempts::default(),
            knocks: Knocks::default(),
        };
        this.turn_to(now.unix);
        this
    }

    /// Changes who may knock.
    pub fn change(&mut self, change: DoorChange) {
        match change {
            DoorChange::Admit { who, seeds, stay } => self.admit(who, seeds, stay),
            DoorChange::Dismiss(who) => {
                if let Some(record) = self.knockers.get_mut(&who) {
                    record.dismiss();
                }
            }
            DoorChange::Forget(who) => self.forget(who),
        }
    }

    /// What a knock from `source` comes to.
    pub fn knock(&mut self, knock: &Knock, source: SocketAddr, now: Now) -> Answer {
        if self.attempts.has(*knock, source, now.instant) {
            return Answer::Open;
        }
        match self.hear(knock, now) {
            Ok((who, _)) => {
                self.attempts.open(*knock, who, source, now.instant);
                Answer::Open
            }
            Err(answer) => answer,
        }
    }

    /// The keys of whoever made a knock that opens, for what carries one only once: a stream.
    ///
    /// # Errors
    /// What else it comes to.
    pub fn knock_once(&mut self, knock: &Knock, now: Now) -> Result<KnockKeys, Answer> {
        self.hear(knock, now).map(|(_, keys)| keys)
    }

    fn hear(&mut self, knock: &Knock, now: Now) -> Result<(Knocker, KnockKeys), Answer> {
        self.turn_to(now.unix);
        let answer = self.answer(knock, now);
        self.count(answer.as_ref().err().copied().unwrap_or(Answer::Open));
        answer
    }

    /// Whether somebody at `source` has knocked within the last seconds.
    #[must_use]
    pub fn has_opened(&self, source: SocketAddr, now: Now) -> bool {
        self.knockers(source, now).next().is_some()
    }

    /// Who at `source` has knocked within the last seconds; one host may be several.
    pub fn knockers(&self, source: SocketAddr, now: Now) -> impl Iterator<Item = Knocker> {
        self.attempts.knockers(source, now.instant)
    }

    /// How often each answer was given.
    #[must_use]
    pub const fn knocks(&self) -> Knocks {
        self.knocks
    }

    /// Counts an answer; also one that a front beside this door gave to a pass.
    pub const fn count(&mut self, answer: Answer) {
        answer.count(&mut self.knocks);
    }

    /// Whose knock it is, when it opens.
    fn answer(&mut self, knock: &Knock, now: Now) -> Result<(Knocker, KnockKeys), Answer> {
        let mut found = Answer::Unknown;
        let opened = since_opened(self.opened_at, now);
        for who in self.candidates(knock) {
            let Some(record) = self.knockers.get_mut(&who) else {
                continue;
            };
            if record.is_over(now.unix) {
                continue;
            }
            let opened_by = |seed: &Secret32| {
                let keys = KnockKeys::new(seed, &self.root);
                Some((keys.open(knock)?, keys))
            };
            let Some((moment, keys)) = record.seeds().iter().find_map(opened_by) else {
                found = Answer::Forged;
                continue;
            };
            let (at, window) = (secs_of(now.unix), window_secs());
            if moment.secs > at.saturating_add(window) {
                return Err(Answer::Early);
            }
            if moment < opened || moment.secs < at.saturating_sub(window) {
                return Err(Answer::Late);
            }
            if !record.hear(moment, now.unix) {
                return Err(Answer::Replayed);
            }
            // It is heard by now: refused or not, nobody can use it again.
            if !record.spend(now.instant) {
                return Err(Answer::TooMany);
            }
            return Ok((who, keys));
        }
        Err(found)
    }

    /// Whose id a knock has. Two may have the same one, once in 2^48.
    fn candidates(&self, knock: &Knock) -> Vec<Knocker> {
        let (id, _, _) = knock.parts();
        let first = Knocker::Node(NodeId::Device(cardea_proto::id::DeviceId::from_bytes(
            [0; 10],
        )));
        self.ids
            .values()
            .flat_map(|ids| ids.range((id, first)..).take_while(|(of, _)| *of == id))
            .map(|(_, who)| *who)
            .collect()
    }

    fn admit(&mut self, who: Knocker, seeds: Vec<Secret32>, stay: Stay) {
        self.forget_ids(who);
        let record = match self.knockers.entry(who) {
            Entry::Occupied(known) => {
                let record = known.into_mut();
                record.renew(seeds, stay);
                record
            }
            Entry::Vacant(new) => {
                let burst = match who {
                    Knocker::Node(_) => BURST,
                    Knocker::Invite(_) => BURST_OF_CODE,
                };
                new.insert(Record::new(seeds, stay, burst))
            }
        };
        let epochs: Vec<u32> = self.ids.keys().copied().collect();
        for (epoch, id) in ids_of(record, &self.root, &epochs) {
            self.ids.entry(epoch).or_default().insert((id, who));
        }
    }

    fn forget(&mut self, who: Knocker) {
        self.forget_ids(who);
        self.knockers.remove(&who);
    }

    fn forget_ids(&mut self, who: Knocker) {
        let Some(record) = self.knockers.get(&who) else {
            return;
        };
        let epochs: Vec<u32> = self.ids.keys().copied().collect();
        for (epoch, id) in ids_of(record, &self.root, &epochs) {
            self.ids.entry(epoch).or_default().remove(&(id, who));
        }
    }

    /// Knows the ids of the epochs around this one, so that a clock that is hours off is told from a
    /// stranger. Who may no longer knock is forgotten with the turn: a few microseconds for each
    /// knocker, every two hours.
    fn turn_to(&mut self, now: UnixMillis) {
        let epoch = epoch_of(secs_of(now));
        let around = epoch.saturating_sub(1)..=epoch.saturating_add(1);
        if self.ids.keys().copied().eq(around.clone()) {
            return;
        }
        let over: Vec<Knocker> = self
            .knockers
            .iter()
            .filter(|(_, record)| record.is_over(now))
            .map(|(who, _)| *who)
            .collect();
        for who in over {
            self.forget(who);
        }
        self.ids.retain(|known, _| around.contains(known));
        let missing: Vec<u32> = around
            .filter(|epoch| !self.ids.contains_key(epoch))
            .collect();
        for epoch in &missing {
            self.ids.insert(*epoch, BTreeSet::new());
        }
        for (who, record) in &self.knockers {
            for (epoch, id) in ids_of(record, &self.root, &missing) {
                self.ids.entry(epoch).or_default().insert((id, *who));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        let remembered = self.knockers.values().map(Record::remembered).sum();
        let ids = self.ids.values().map(BTreeSet::len).sum();
        (ids, remembered, self.attempts.len())
    }
}

/// All ids of a knocker in these epochs.
fn ids_of(record: &Record, root: &Digest, epochs: &[u32]) -> impl Iterator<Item = (u32, Id)> {
    record.seeds().iter().flat_map(move |seed| {
        let ids = KnockKeys::ids(seed, root, epochs.iter().copied());
        epochs.iter().copied().zip(ids)
    })
}
