//! Where a node stands on its way to a controller.

use std::time::{Duration, Instant};

use cardea_proto::message::Purpose;

/// How long one address may take to answer and one controller to say `Welcome`.
///
/// A handshake succeeds within 5 s at 20 % loss; past that another address is better.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How old an attempt must be to be given up for a network that changed. A change is often told in
/// several pieces, and an attempt that began between two of them is as good as a new one.
const UNTOUCHED: Duration = Duration::from_millis(500);

/// The way to a controller.
///
/// ```text
///       Start             Due                Up               Welcome
///  Off ───────▶ Waiting ───────▶ Connecting ────▶ Greeting ─────┬─────▶ Ready
///   ▲            ▲ ▲                 │                │         │         │
///   │            │ └─ Lost, Due, ────┴── Lost, Due, ──┴── Lost, Refuse, ──┤
///   │            │    Refuse             Refuse, Up       Up    │         │
///   │            └──── Renewed, at once ──────────────────── Renewing ────┘
///   └──────────────────────────── Stop, from anywhere
/// ```
///
/// `Moved` begins anew at once, from `Waiting` and from an attempt that is not a fresh one.
///
/// A certificate that has ended leads to `Renewing`, where nothing but the next one can be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// Nobody wants a channel.
    Off,
    /// The next attempt begins at `until`.
    Waiting {
        /// When.
        until: Instant,
    },
    /// The shell is setting up a channel.
    Connecting {
        /// To where.
        address: String,
        /// What for.
        purpose: Purpose,
        /// Given up at.
        until: Instant,
    },
    /// The channel is up and `Hello` is sent.
    Greeting {
        /// To where.
        address: String,
        /// What for.
        purpose: Purpose,
        /// What binds proofs to this channel.
        exporter: [u8; 32],
        /// Given up at.
        until: Instant,
    },
    /// The controller has said `Welcome`.
    Ready {
        /// To where.
        address: String,
        /// What binds proofs to this channel.
        exporter: [u8; 32],
    },
    /// The controller has said `Welcome`, on a channel that is for the next certificate alone.
    Renewing {
        /// To where.
        address: String,
        /// What binds proofs to this channel.
        exporter: [u8; 32],
    },
}

/// What can happen to a [`Connection`].
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A channel is wanted.
    Start,
    /// No channel is wanted.
    Stop,
    /// The state's own deadline has passed; `address` is the next to try.
    Due {
        /// The next address.
        address: String,
        /// What for.
        purpose: Purpose,
    },
    /// The shell has a channel.
    Up {
        /// To where.
        address: String,
        /// Its exporter.
        exporter: [u8; 32],
    },
    /// The controller said `Welcome`.
    Welcome,
    /// The channel, or the attempt at one, is gone.
    Lost,
    /// The other side is not one that this node can talk to.
    Refuse,
    /// The next certificate is here.
    Renewed,
    /// The machine's network is another one: what was tried from the one before says nothing.
    Moved,
}

/// What must follow from a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    Nothing,
    /// The shell must connect.
    Connect,
    /// The shell must drop what it has.
    Disconnect,
    /// `Hello` must be sent.
    Hello,
}

impl Connection {
    /// Takes one step; `pause` is how long to wait where that means trying again.
    pub(super) fn step(self, now: Instant, step: Step, pause: Duration) -> (Self, Effect) {
        let again = Self::Waiting { until: now + pause };
        match (self, step) {
            (Self::Off, Step::Start) => (Self::Waiting { until: now }, Effect::Nothing),
            (Self::Waiting { .. }, Step::Due { address, purpose }) => {
                let until = now + ATTEMPT_TIMEOUT;
                let connecting = Self::Connecting {
                    address,
                    purpose,
                    until,
                };
                (connecting, Effect::Connect)
            }
            (Self::Connecting { purpose, .. }, Step::Up { address, exporter }) => {
                let until = now + ATTEMPT_TIMEOUT;
                let greeting = Self::Greeting {
                    address,
                    purpose,
                    exporter,
                    until,
                };
                (greeting, Effect::Hello)
            }
            (
                Self::Greeting {
                    address,
                    purpose,
                    exporter,
                    ..
                },
                Step::Welcome,
            ) => match purpose {
                Purpose::Channel => (Self::Ready { address, exporter }, Effect::Nothing),
                Purpose::Renewal => (Self::Renewing { address, exporter }, Effect::Nothing),
            },
            (Self::Renewing { .. }, Step::Renewed) => {
                (Self::Waiting { until: now }, Effect::Disconnect)
            }
            (state, Step::Stop) => {
                let effect = state.has_channel().then_some(Effect::Disconnect);
                (Self::Off, effect.unwrap_or(Effect::Nothing))
            }
            (Self::Waiting { .. }, Step::Moved) => (Self::Waiting { until: now }, Effect::Nothing),
            (Self::Connecting { until, .. } | Self::Greeting { until, .. }, Step::Moved)
                if until < now + ATTEMPT_TIMEOUT.saturating_sub(UNTOUCHED) =>
            {
                (Self::Waiting { until: now }, Effect::Disconnect)
            }
            (state, Step::Lost) if state.has_channel() => (again, Effect::Nothing),
            (state, Step::Refuse) if state.has_channel() => (again, Effect::Disconnect),
            (Self::Connecting { .. } | Self::Greeting { .. }, Step::Due { .. })
            | (
                Self::Greeting { .. } | Self::Ready { .. } | Self::Renewing { .. },
                Step::Up { .. },
            ) => (again, Effect::Disconnect),
            (state @ (Self::Off | Self::Waiting { .. }), Step::Up { .. }) => {
                (state, Effect::Disconnect)
            }
            (
                state,
                Step::Start
                | Step::Due { .. }
                | Step::Welcome
                | Step::Lost
                | Step::Refuse
                | Step::Renewed
                | Step::Moved,
            ) => (state, Effect::Nothing),
        }
    }

    /// Whether the shell has a channel or sets one up.
    const fn has_channel(&self) -> bool {
        match self {
            Self::Connecting { .. }
            | Self::Greeting { .. }
            | Self::Ready { .. }
            | Self::Renewing { .. } => true,
            Self::Off | Self::Waiting { .. } => false,
        }
    }

    /// When this state does not wait any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Waiting { until }
            | Self::Connecting { until, .. }
            | Self::Greeting { until, .. } => Some(*until),
            Self::Off | Self::Ready { .. } | Self::Renewing { .. } => None,
        }
    }

    /// Whether everything may be said.
    pub(super) const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }

    /// Whether the next certificate may be asked for, and nothing else.
    pub(super) const fn is_renewing(&self) -> bool {
        matches!(self, Self::Renewing { .. })
    }

    /// The exporter of a channel on which the controller has said `Welcome`.
    pub(super) const fn exporter(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Ready { exporter, .. } | Self::Renewing { exporter, .. } => Some(exporter),
            Self::Off | Self::Waiting { .. } | Self::Connecting { .. } | Self::Greeting { .. } => {
                None
            }
        }
    }

    /// What the channel, or the attempt at one, is for.
    pub(super) const fn purpose(&self) -> Purpose {
        match self {
            Self::Connecting { purpose, .. } | Self::Greeting { purpose, .. } => *purpose,
            Self::Renewing { .. } => Purpose::Renewal,
            Self::Off | Self::Waiting { .. } | Self::Ready { .. } => Purpose::Channel,
        }
    }

    /// Another way leads to the same controller.
    pub(super) fn reroute(&mut self, by: String) {
        match self {
            Self::Greeting { address, .. }
            | Self::Ready { address, .. }
            | Self::Renewing { address, .. } => *address = by,
            Self::Off | Self::Waiting { .. } | Self::Connecting { .. } => {}
        }
    }

    /// The address in use.
    pub(super) fn address(&self) -> Option<&str> {
        match self {
            Self::Connecting { address, .. }
            | Self::Greeting { address, .. }
            | Self::Ready { address, .. }
            | Self::Renewing { address, .. } => Some(address),
            Self::Off | Self::Waiting { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(3);

    fn name(state: &Connection) -> &'static str {
        match state {
            Connection::Off => "off",
            Connection::Waiting { .. } => "waiting",
            Connection::Connecting { .. } => "connecting",
            Connection::Greeting { .. } => "greeting",
            Connection::Ready { .. } => "ready",
            Connection::Renewing { .. } => "renewing",
        }
    }

    fn state(name: &str, at: Instant) -> Connection {
        let (address, exporter, until) = ("c:7443".to_owned(), [7; 32], at);
        let purpose = Purpose::Channel;
        match name {
            "off" => Connection::Off,
            "waiting" => Connection::Waiting { until },
            "connecting" => Connection::Connecting {
                address,
                purpose,
                until,
            },
            "greeting" => Connection::Greeting {
                address,
                purpose,
                exporter,
                until,
            },
            "ready" => Connection::Ready { address, exporter },
            "renewing" => Connection::Renewing { address, exporter },
            other => panic!("{other} is no state"),
        }
    }

    fn steps() -> [Step; 9] {
        let address = "c:7443".to_owned();
        [
            Step::Start,
            Step::Stop,
            Step::Due {
                address: address.clone(),
                purpose: Purpose::Channel,
            },
            Step::Up {
                address,
                exporter: [7; 32],
            },
            Step::Welcome,
            Step::Lost,
            Step::Refuse,
            Step::Renewed,
            Step::Moved,
        ]
    }

    /// Each state, and where each of [`steps`] leads from it.
    #[rustfmt::skip]
    fn table() -> [(&'static str, [(&'static str, Effect); 9]); 6] {
        use Effect::{Connect, Disconnect, Hello, Nothing};
        [
            ("off", [("waiting", Nothing), ("off", Nothing), ("off", Nothing), ("off", Disconnect), ("off", Nothing), ("off", Nothing), ("off", Nothing), ("off", Nothing), ("off", Nothing)]),
            ("waiting", [("waiting", Nothing), ("off", Nothing), ("connecting", Connect), ("waiting", Disconnect), ("waiting", Nothing), ("waiting", Nothing), ("waiting", Nothing), ("waiting", Nothing), ("waiting", Nothing)]),
            ("connecting", [("connecting", Nothing), ("off", Disconnect), ("waiting", Disconnect), ("greeting", Hello), ("connecting", Nothing), ("waiting", Nothing), ("waiting", Disconnect), ("connecting", Nothing), ("waiting", Disconnect)]),
            ("greeting", [("greeting", Nothing), ("off", Disconnect), ("waiting", Disconnect), ("waiting", Disconnect), ("ready", Nothing), ("waiting", Nothing), ("waiting", Disconnect), ("greeting", Nothing), ("waiting", Disconnect)]),
            ("ready", [("ready", Nothing), ("off", Disconnect), ("ready", Nothing), ("waiting", Disconnect), ("ready", Nothing), ("waiting", Nothing), ("waiting", Disconnect), ("ready", Nothing), ("ready", Nothing)]),
            ("renewing", [("renewing", Nothing), ("off", Disconnect), ("renewing", Nothing), ("waiting", Disconnect), ("renewing", Nothing), ("waiting", Nothing), ("waiting", Disconnect), ("waiting", Disconnect), ("renewing", Nothing)]),
        ]
    }

    #[test]
    fn every_state_takes_every_step() {
        let at = testing::start().instant;
        for (from, row) in table() {
            for (step, (to, effect)) in steps().into_iter().zip(row) {
                let label = format!("{from} on {step:?}");
                let (next, did) = state(from, at).step(at, step, PAUSE);
                assert_eq!((name(&next), did), (to, effect), "{label}");
            }
        }
    }

    #[test]
    fn another_way_is_another_address_of_a_channel_that_is_up_and_nothing_else() {
        let at = testing::start().instant;
        for (name, expected) in [
            ("off", None),
            ("waiting", None),
            ("connecting", Some("c:7443")),
            ("greeting", Some("tls://c:443")),
            ("ready", Some("tls://c:443")),
            ("renewing", Some("tls://c:443")),
        ] {
            let mut state = state(name, at);
            let before = (state.deadline(), state.exporter().copied());
            state.reroute("tls://c:443".to_owned());
            assert_eq!(state.address(), expected, "{name}");
            assert_eq!((state.deadline(), state.exporter().copied()), before);
        }
    }

    #[test]
    fn a_network_that_changed_ends_a_pause_and_no_fresh_attempt() {
        let at = testing::start().instant;
        let (waits, _) = state("waiting", at + PAUSE).step(at, Step::Moved, PAUSE);
        assert_eq!(waits.deadline(), Some(at));
        for name in ["connecting", "greeting"] {
            let fresh = state(name, at + ATTEMPT_TIMEOUT).step(at, Step::Moved, PAUSE);
            assert_eq!(fresh.1, Effect::Nothing, "{name}");
            let old =
                state(name, at + ATTEMPT_TIMEOUT).step(at + UNTOUCHED * 2, Step::Moved, PAUSE);
            assert_eq!(old.1, Effect::Disconnect, "{name}");
        }
    }

    #[test]
    fn a_channel_for_renewal_is_never_ready_and_leads_back_at_once() {
        let at = testing::start().instant;
        let due = Step::Due {
            address: "c:7443".to_owned(),
            purpose: Purpose::Renewal,
        };
        let up = Step::Up {
            address: "c:7443".to_owned(),
            exporter: [7; 32],
        };
        let mut state = Connection::Waiting { until: at };
        for step in [due, up, Step::Welcome] {
            state = state.step(at, step, PAUSE).0;
            assert!(!state.is_ready());
        }
        assert!(state.is_renewing());
        let (state, _) = state.step(at, Step::Renewed, PAUSE);
        assert_eq!(state, Connection::Waiting { until: at });
    }
}
