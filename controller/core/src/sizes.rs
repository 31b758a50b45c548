//! What a controller holds besides its state: how much of it there is.

use crate::controller::Controller;

/// Sizes of a controller's tables and queues.
///
/// Each is bounded by what is live: by grants in the state, by nodes, or by proposals that the shell
/// still has. One that is larger than that leaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Proposals whose outcome has not come.
    pub proposals: usize,
    /// Channels, of either purpose.
    pub channels: usize,
    /// Nodes of which something is remembered: a report, a last sight, a budget.
    pub nodes: usize,
    /// Grants that are on their way or open.
    pub tunnels: usize,
    /// Ends of grants that are wanted and not on record.
    pub endings: usize,
    /// Requests whose grant is being recorded.
    pub deciding: usize,
    /// Grants that connectors are about to get.
    pub promised: usize,
    /// Names of nodes that are being enrolled.
    pub reserved: usize,
    /// Devices that wait to be looked at again, or were sent what they may open, whichever are more.
    pub reviews: usize,
    /// Things that are due at some moment.
    pub timers: usize,
}

impl Controller {
    /// How much it holds besides its state.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        let nodes = self.channels.remembered().max(self.postures.count());
        Sizes {
            proposals: self.proposals.count(),
            channels: self.channels.count(),
            nodes,
            reserved: self.reserved.len(),
            reviews: self.reviews.count(),
            timers: self.timers.count(),
            ..self.live.sizes()
        }
    }
}
