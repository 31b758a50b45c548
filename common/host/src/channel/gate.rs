//! The door of a server's port, as its shell and its socket share it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cardea_credential::knock::{Answer, Door, DoorChange, Knock, KnockKeys, Knocker};
use cardea_proto::{admin::Knocks, codec::Digest};

use crate::clock::Clock;

/// Who may knock at a server. Copies of it lead to the same door.
#[derive(Clone, Debug)]
pub struct Gate {
    door: Arc<Mutex<Door>>,
    clock: Clock,
}

impl Gate {
    /// The gate of the trust domain whose root certificate has this digest; it opens to nobody yet.
    #[must_use]
    pub fn new(root: Digest) -> Self {
        let clock = Clock::system();
        Self {
            door: Arc::new(Mutex::new(Door::new(root, clock.now()))),
            clock,
        }
    }

    /// Changes who may knock, from this moment.
    pub fn change(&self, changes: impl IntoIterator<Item = DoorChange>) {
        let mut door = self.door();
        for change in changes {
            door.change(change);
        }
    }

    /// Counts what a front beside this gate answered to a pass.
    pub fn count(&self, answer: Answer) {
        self.door().count(answer);
    }

    /// What has been knocked so far, also at the front beside it.
    #[must_use]
    pub fn knocks(&self) -> Knocks {
        self.door().knocks()
    }

    /// Whether a datagram with this knock may pass.
    pub(super) fn opens(&self, knock: &Knock, source: SocketAddr) -> bool {
        let now = self.clock.now();
        let answer = self.door().knock(knock, source, now);
        answer == Answer::Open
    }

    /// The keys of whoever made a knock that opens, for a stream that begins with it.
    #[must_use]
    pub fn opens_once(&self, knock: &Knock) -> Option<KnockKeys> {
        let now = self.clock.now();
        self.door().knock_once(knock, now).ok()
    }

    /// Whether somebody at `source` has knocked within the last seconds.
    pub(super) fn has_opened(&self, source: SocketAddr) -> bool {
        let now = self.clock.now();
        self.door().has_opened(source, now)
    }

    /// Who at `source` has knocked within the last seconds.
    pub(super) fn knockers(&self, source: SocketAddr) -> Vec<Knocker> {
        let now = self.clock.now();
        self.door().knockers(source, now).collect()
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
