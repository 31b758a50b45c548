//! Events for the control half, which may be slow and is not waited for.

use std::collections::VecDeque;

use cardea_tunnel::Event;
use tokio::sync::mpsc as queue;

use super::FromData;

/// The queue to the control half, and what found no room in it.
pub(super) struct Told {
    queue: queue::Sender<FromData>,
    backlog: VecDeque<FromData>,
}

impl Told {
    pub(super) const fn new(queue: queue::Sender<FromData>) -> Self {
        Self {
            queue,
            backlog: VecDeque::new(),
        }
    }

    /// Whether something waits for room.
    pub(super) fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Tells the control half, or keeps it until there is room.
    pub(super) fn push(&mut self, event: FromData) {
        self.backlog.push_back(event);
        self.retry();
    }

    /// Hands over what had found no room.
    pub(super) fn retry(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            match self.queue.try_send(event) {
                Ok(()) => {}
                Err(queue::error::TrySendError::Full(event)) => {
                    self.backlog.push_front(event);
                    break;
                }
                Err(queue::error::TrySendError::Closed(_)) => {
                    self.backlog.clear();
                    return;
                }
            }
        }
        if self.backlog.len() > BACKLOG_MAX {
            // Figures and failures come again; openings, ends and wishes do not, and there are few of
            // them.
            self.backlog.retain(|event| {
                !matches!(
                    event,
                    FromData::Tunnel(Event::Used { .. } | Event::Unreached { .. })
                        | FromData::Refused { .. }
                )
            });
        }
    }
}

/// Events that wait in the backlog before figures are dropped from it.
const BACKLOG_MAX: usize = 4_096;
