//! The controller: takes inputs, plans, and acts on what was committed.

use std::time::Instant;

use cardea_proto::time::Now;

use crate::{Input, Keys, Outbox, Settings, State};

/// A controller, without its sockets and its store.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    keys: Keys,
    state: State,
}

/// Why a controller cannot start on this state.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger is empty.
    #[error("the ledger does not begin with a founding; run: cardea-controller init")]
    NotFounded,
}

impl Controller {
    /// Makes the controller of a state. The shell's first input is [`Input::Timeout`].
    ///
    /// # Errors
    /// [`StartError`] when the state does not make a controller.
    pub fn new(
        settings: Settings,
        state: State,
        keys: Keys,
        entropy: [u8; 32],
    ) -> Result<Self, StartError> {
        let _ = entropy;
        state.founded().ok_or(StartError::NotFounded)?;
        Ok(Self {
            settings: settings.bounded(),
            keys,
            state,
        })
    }

    /// Takes one input and puts everything that must follow from it into `out`, in order.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Outbox) {
        let _ = (now, out, &self.settings, &self.keys);
        if let Input::Committed { entry, .. } = input {
            self.state.apply(&entry);
        }
    }

    /// When [`Input::Timeout`] is next due; `None` when only an outside event can move it.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// What this controller knows for sure.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }
}
