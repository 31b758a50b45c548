//! Wall clocks: each is off by something, and steps when somebody or something sets it.
//!
//! The monotonic clock of everybody is the simulation's own: it never steps.

use std::time::Duration;

use cardea_proto::time::{Now, UnixMillis};

use crate::{
    dice::Dice,
    schedule::{Event, Who},
    world::World,
};

/// How far the wall clocks of nodes may be off here; more is a warning, not an access.
const SKEW_MAX: Duration = Duration::from_secs(60);

/// The furthest that a clock steps.
const STEP_MAX_MS: u64 = 3_600_000;

/// A difference between a wall clock and the true time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Skew {
    pub(crate) offset: Duration,
    pub(crate) is_ahead: bool,
}

/// Whose clock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// A controller's.
    Controller(usize),
    /// A node's.
    Node(Who),
}

impl Skew {
    /// What this clock shows at `now`.
    pub(crate) fn show(self, now: Now) -> Now {
        let unix = if self.is_ahead {
            now.unix.plus(self.offset)
        } else {
            let behind = u64::try_from(self.offset.as_millis()).unwrap_or(0);
            UnixMillis(now.unix.0.saturating_sub(behind))
        };
        Now { unix, ..now }
    }
}

/// A clock as it is when nobody touches it: a little off.
pub(crate) fn skew(dice: &mut Dice) -> Skew {
    Skew {
        offset: dice.between(Duration::ZERO, SKEW_MAX),
        is_ahead: dice.chance(500),
    }
}

impl World {
    /// A step of a second to an hour, small ones as often as large ones.
    pub(crate) fn step(&mut self) -> Skew {
        let furthest = STEP_MAX_MS >> self.dice.below(10);
        Skew {
            offset: self.dice.millis(1_000, furthest),
            is_ahead: self.dice.chance(500),
        }
    }

    /// A clock shows something else from now on, for a while or until the faults stop.
    pub(crate) fn step_clock(&mut self, clock: Clock, skew: Skew, time: Duration) {
        let Some(before) = self.set_clock(clock, skew) else {
            return;
        };
        if self.dice.chance(500) {
            let event = Event::ClockSet {
                clock,
                skew: before,
            };
            self.schedule.at(self.now.instant + time, event);
        }
    }

    /// Sets a clock; answers how it was off before.
    pub(crate) fn set_clock(&mut self, clock: Clock, skew: Skew) -> Option<Skew> {
        let known = match clock {
            Clock::Controller(member) => {
                self.model.clock_moved(self.now.instant);
                &mut self.control.members.get_mut(member)?.skew
            }
            Clock::Node(Who::Device(index)) => &mut self.devices.get_mut(index)?.skew,
            Clock::Node(Who::Site(index)) => &mut self.sites.get_mut(index)?.skew,
        };
        Some(std::mem::replace(known, skew))
    }

    /// Every clock is right from now on.
    pub(crate) fn set_clocks(&mut self) {
        let devices = (0..self.devices.len()).map(|index| Clock::Node(Who::Device(index)));
        let sites = (0..self.sites.len()).map(|index| Clock::Node(Who::Site(index)));
        let controllers = (0..self.control.members.len()).map(Clock::Controller);
        let clocks: Vec<Clock> = devices.chain(sites).chain(controllers).collect();
        for clock in clocks {
            let skew = skew(&mut self.dice);
            self.set_clock(clock, skew);
        }
    }

    /// The wall clock of the controller that is the furthest behind.
    pub(crate) fn slowest(&self) -> Now {
        let members = self.control.members.iter();
        let shown = members.map(|member| member.skew.show(self.now));
        shown.min_by_key(|shown| shown.unix).unwrap_or(self.now)
    }
}
