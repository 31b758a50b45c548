//! Where a node stands on its way to a controller.

use std::time::{Duration, Instant};

/// How long one address may take to answer and one controller to say `Welcome`.
///
/// A handshake succeeds within 5 s at 20 % loss (PROMISES §3); past that another address is better.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The way to a controller.
///
/// ```text
///       Start             Due                Up               Welcome
///  Off ───────▶ Waiting ───────▶ Connecting ────▶ Greeting ───────────▶ Ready
///   ▲              ▲                 │                │                   │
///   │              └─ Lost, Due, ────┴── Lost, Due, ──┴──── Lost, Refuse ─┘
///   │                 Refuse             Refuse, Up              Up
///   └──────────────────────────── Stop, from anywhere
/// ```
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
        /// Given up at.
        until: Instant,
    },
    /// The channel is up and `Hello` is sent.
    Greeting {
        /// To where.
        address: String,
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
            (Self::Waiting { .. }, Step::Due { address }) => (
                Self::Connecting {
                    address,
                    until: now + ATTEMPT_TIMEOUT,
                },
                Effect::Connect,
            ),
            (Self::Connecting { .. }, Step::Up { address, exporter }) => (
                Self::Greeting {
                    address,
                    exporter,
                    until: now + ATTEMPT_TIMEOUT,
                },
                Effect::Hello,
            ),
            (
                Self::Greeting {
                    address, exporter, ..
                },
                Step::Welcome,
            ) => (Self::Ready { address, exporter }, Effect::Nothing),
            (Self::Off | Self::Waiting { .. }, Step::Stop) => (Self::Off, Effect::Nothing),
            (Self::Connecting { .. } | Self::Greeting { .. } | Self::Ready { .. }, Step::Stop) => {
                (Self::Off, Effect::Disconnect)
            }
            (Self::Connecting { .. } | Self::Greeting { .. } | Self::Ready { .. }, Step::Lost) => {
                (again, Effect::Nothing)
            }
            (Self::Connecting { .. } | Self::Greeting { .. }, Step::Due { .. } | Step::Refuse)
            | (Self::Ready { .. }, Step::Refuse)
            | (Self::Greeting { .. } | Self::Ready { .. }, Step::Up { .. }) => {
                (again, Effect::Disconnect)
            }
            (state @ (Self::Off | Self::Waiting { .. }), Step::Up { .. }) => {
                (state, Effect::Disconnect)
            }
            (
                state @ (Self::Waiting { .. }
                | Self::Connecting { .. }
                | Self::Greeting { .. }
                | Self::Ready { .. }),
                Step::Start,
            )
            | (
                state @ (Self::Off | Self::Waiting { .. }),
                Step::Lost | Step::Refuse | Step::Welcome,
            )
            | (state @ (Self::Off | Self::Ready { .. }), Step::Due { .. })
            | (state @ (Self::Connecting { .. } | Self::Ready { .. }), Step::Welcome) => {
                (state, Effect::Nothing)
            }
        }
    }

    /// When this state does not wait any longer.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Waiting { until }
            | Self::Connecting { until, .. }
            | Self::Greeting { until, .. } => Some(*until),
            Self::Off | Self::Ready { .. } => None,
        }
    }

    /// The exporter of a ready channel.
    pub(super) fn ready(&self) -> Option<&[u8; 32]> {
        match self {
            Self::Ready { exporter, .. } => Some(exporter),
            Self::Off | Self::Waiting { .. } | Self::Connecting { .. } | Self::Greeting { .. } => {
                None
            }
        }
    }

    /// The address in use.
    pub(super) fn address(&self) -> Option<&str> {
        match self {
            Self::Connecting { address, .. }
            | Self::Greeting { address, .. }
            | Self::Ready { address, .. } => Some(address),
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
        }
    }

    fn state(name: &str, at: Instant) -> Connection {
        let (address, exporter, until) = ("c:7443".to_owned(), [7; 32], at);
        match name {
            "off" => Connection::Off,
            "waiting" => Connection::Waiting { until },
            "connecting" => Connection::Connecting { address, until },
            "greeting" => Connection::Greeting {
                address,
                exporter,
                until,
            },
            "ready" => Connection::Ready { address, exporter },
            other => panic!("{other} is no state"),
        }
    }

    fn steps() -> [Step; 7] {
        let address = "c:7443".to_owned();
        [
            Step::Start,
            Step::Stop,
            Step::Due {
                address: address.clone(),
            },
            Step::Up {
                address,
                exporter: [7; 32],
            },
            Step::Welcome,
            Step::Lost,
            Step::Refuse,
        ]
    }

    #[test]
    fn every_state_takes_every_step() {
        use Effect::{Connect, Disconnect, Hello, Nothing};
        let table = [
            (
                "off",
                [
                    ("waiting", Nothing),
                    ("off", Nothing),
                    ("off", Nothing),
                    ("off", Disconnect),
                    ("off", Nothing),
                    ("off", Nothing),
                    ("off", Nothing),
                ],
            ),
            (
                "waiting",
                [
                    ("waiting", Nothing),
                    ("off", Nothing),
                    ("connecting", Connect),
                    ("waiting", Disconnect),
                    ("waiting", Nothing),
                    ("waiting", Nothing),
                    ("waiting", Nothing),
                ],
            ),
            (
                "connecting",
                [
                    ("connecting", Nothing),
                    ("off", Disconnect),
                    ("waiting", Disconnect),
                    ("greeting", Hello),
                    ("connecting", Nothing),
                    ("waiting", Nothing),
                    ("waiting", Disconnect),
                ],
            ),
            (
                "greeting",
                [
                    ("greeting", Nothing),
                    ("off", Disconnect),
                    ("waiting", Disconnect),
                    ("waiting", Disconnect),
                    ("ready", Nothing),
                    ("waiting", Nothing),
                    ("waiting", Disconnect),
                ],
            ),
            (
                "ready",
                [
                    ("ready", Nothing),
                    ("off", Disconnect),
                    ("ready", Nothing),
                    ("waiting", Disconnect),
                    ("ready", Nothing),
                    ("waiting", Nothing),
                    ("waiting", Disconnect),
                ],
            ),
        ];
        let at = testing::start().instant;
        for (from, row) in table {
            for (step, (to, effect)) in steps().into_iter().zip(row) {
                let label = format!("{from} on {step:?}");
                let (next, did) = state(from, at).step(at, step, PAUSE);
                assert_eq!((name(&next), did), (to, effect), "{label}");
            }
        }
    }
}
