//! One number for everything that happened in a run, so that a replay can be told from another story.
//!
//! It is over times, kinds, ends and entries, not over the bytes of what was sent: keys that libraries
//! draw by themselves differ from run to run, and nothing of the story depends on them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem::discriminant,
    time::Duration,
};

use cardea_core::ChannelId;
use cardea_proto::{
    ledger::{Change, Entry},
    message::{FromNode, ToNode},
};

use crate::schedule::Event;

/// What happened so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(DefaultHasher);

impl Trace {
    /// An event happens, or somebody's deadline has come.
    pub(crate) fn happens(&mut self, at: Duration, event: Option<&Event>) {
        at.hash(&mut self.0);
        let Some(event) = event else {
            return;
        };
        discriminant(event).hash(&mut self.0);
        match event {
            Event::AtRelay { relay, from, .. } => (relay, from).hash(&mut self.0),
            Event::AtNode { to, .. } | Event::Between { to, .. } => to.hash(&mut self.0),
            Event::Changes { between } => format!("{between:?}").hash(&mut self.0),
            Event::Said { channel, message } => self.says(*channel, message),
            Event::Told { channel, message } => self.hears(*channel, message),
            Event::Act(act) => format!("{act:?}").hash(&mut self.0),
            Event::Dialed(_)
            | Event::ChannelUp { .. }
            | Event::ChannelDown { .. }
            | Event::Noticed { .. }
            | Event::Disconnected { .. }
            | Event::Written { .. }
            | Event::Look { .. }
            | Event::Poll
            | Event::Start { .. }
            | Event::ClockSet { .. }
            | Event::Joined { .. }
            | Event::Dial { .. }
            | Event::User { .. }
            | Event::Villain
            | Event::Stranger
            | Event::Back { .. }
            | Event::Mended { .. }
            | Event::Heard { .. }
            | Event::Room
            | Event::FromRelay { .. }
            | Event::RelayServes { .. } => {}
            Event::RelayFails { which, fault } => format!("{which} {fault:?}").hash(&mut self.0),
        }
    }

    /// A node says something.
    pub(crate) fn says(&mut self, channel: ChannelId, message: &FromNode) {
        channel.0.hash(&mut self.0);
        discriminant(message).hash(&mut self.0);
    }

    /// A controller says something.
    pub(crate) fn hears(&mut self, channel: ChannelId, message: &ToNode) {
        channel.0.hash(&mut self.0);
        discriminant(message).hash(&mut self.0);
    }

    /// An entry is recorded.
    pub(crate) fn records(&mut self, entry: &Entry) {
        entry.revision.0.hash(&mut self.0);
        entry.draft.at.0.hash(&mut self.0);
        for change in &entry.draft.changes {
            // The founding names the root, whose key is another one in each run.
            if !matches!(change, Change::Founded(_)) {
                format!("{change:?}").hash(&mut self.0);
            }
        }
    }

    /// The number.
    pub(crate) fn digest(&self) -> u64 {
        self.0.finish()
    }
}
