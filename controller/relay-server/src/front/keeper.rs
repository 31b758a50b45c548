//! Who may come in at a front.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use cardea_credential::knock::{FrontKey, Knock, KnockKeys, PassDoor};
use cardea_host::{channel::Gate, clock::Clock};

/// Knows whom the controller's door knows, where that is in this process, and whoever has a pass.
#[derive(Clone)]
pub struct Keeper {
    gate: Option<Gate>,
    passes: Arc<Mutex<PassDoor>>,
    clock: Clock,
}

impl Keeper {
    /// Knows passes under `key`, and everybody at `gate`.
    #[must_use]
    pub fn new(key: FrontKey, gate: Option<Gate>) -> Self {
        let clock = Clock::system();
        Self {
            gate,
            passes: Arc::new(Mutex::new(PassDoor::new(key, clock.now()))),
            clock,
        }
    }

    /// The keys of whoever made a label that opens, which it does once.
    pub(super) fn opens(&self, label: &str) -> Option<KnockKeys> {
        if let Some(knock) = Knock::from_label(label) {
            return self.gate.as_ref()?.opens_once(&knock);
        }
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = passes.knock_once(label, self.clock.now());
        answer
            .inspect_err(|answer| tracing::trace!(?answer, "a pass did not open"))
            .ok()
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("has_gate", &self.gate.is_some())
            .finish_non_exhaustive()
    }
}
