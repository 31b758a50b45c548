//! Who may come in at a front.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cardea_credential::knock::{Answer, FrontKey, Knock, KnockKeys, PassDoor};
use cardea_host::{channel::Gate, clock::Clock, knock_log::KnockLog};
use cardea_proto::admin::Knocks;

/// Knows whom the controller's door knows, where that is in this process, and whoever has a pass.
#[derive(Clone)]
pub struct Keeper {
    gate: Option<Gate>,
    passes: Arc<Mutex<Passes>>,
    clock: Clock,
}

/// The door of passes, and what is told of it where no controller's status tells it.
struct Passes {
    door: PassDoor,
    log: KnockLog,
}

impl Keeper {
    /// Knows passes under `key`, and everybody at `gate`.
    #[must_use]
    pub fn new(key: FrontKey, gate: Option<Gate>) -> Self {
        let clock = Clock::system();
        Self {
            gate,
            passes: Arc::new(Mutex::new(Passes {
                door: PassDoor::new(key, clock.now()),
                log: KnockLog::default(),
            })),
            clock,
        }
    }

    /// What was knocked so far: all that the controller's status counts, or what came here alone.
    #[must_use]
    pub fn knocks(&self) -> Knocks {
        match &self.gate {
            Some(gate) => gate.knocks(),
            None => self.passes().door.knocks(),
        }
    }

    fn passes(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of whoever made a label that opens, which it does once.
    pub(super) fn opens(&self, label: &str) -> Option<KnockKeys> {
        if let Some(knock) = Knock::from_label(label) {
            return self.gate.as_ref()?.opens_once(&knock);
        }
        let now = self.clock.now();
        let mut passes = self.passes();
        let answer = passes.door.knock_once(label, now);
        match &self.gate {
            Some(gate) => gate.count(answer.as_ref().err().copied().unwrap_or(Answer::Open)),
            None => {
                let Passes { door, log } = &mut *passes;
                log.tell(now.instant, || door.knocks());
            }
        }
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
