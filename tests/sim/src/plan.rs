//! What kind of world a seed makes: how many of whom, how slow, how lossy, how hostile.

use std::time::Duration;

use crate::dice::Dice;

/// The figures of one run, drawn from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Controllers on the one store.
    pub(crate) controllers: usize,
    /// Longest time until a controller sees what another one has written.
    pub(crate) lag: Duration,
    /// How often a controller asks what others have written, when nothing tells it.
    pub(crate) poll: Duration,
    /// Honest agents and one villain, who is the last.
    pub(crate) devices: usize,
    /// Connectors of the one site.
    pub(crate) connectors: usize,
    /// The connector that lies, if one of several does.
    pub(crate) liar: Option<usize>,
    /// Apps; half of them over either carrier.
    pub(crate) apps: usize,
    /// Datagrams lost, of a thousand.
    pub(crate) loss: usize,
    /// Datagrams that arrive twice, of a thousand.
    pub(crate) duplicates: usize,
    /// Shortest and longest time of a datagram between a node and anyone else.
    pub(crate) delay: (Duration, Duration),
    /// Shortest and longest time of a commit.
    pub(crate) commit: (Duration, Duration),
    /// Commits refused as if another controller had been faster, of a thousand.
    pub(crate) conflicts: usize,
    /// Commits that are taken and reported as failed, the entry following later, of a thousand.
    pub(crate) unanswered: usize,
    /// Faults and changes per minute.
    pub(crate) acts_per_minute: u32,
    /// How long the faults last.
    pub(crate) chaos: Duration,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "plan");
        let lossy = dice.chance(500);
        let fast = dice.millis(1, 10);
        let slow = fast + dice.millis(1, 60);
        let commit = dice.millis(0, 5);
        let mut plan = Self {
            controllers: 1,
            lag: Duration::ZERO,
            poll: Duration::ZERO,
            devices: 3 + dice.below(2),
            connectors: 1 + dice.below(2),
            liar: None,
            apps: 4,
            loss: if lossy { dice.below(120) } else { 0 },
            duplicates: dice.below(20),
            delay: (fast, slow),
            commit: (commit, commit + dice.millis(0, 30)),
            conflicts: dice.below(100),
            unanswered: 0,
            acts_per_minute: 20,
            chaos: Duration::from_secs(60),
        };
        plan.unanswered = dice.below(30);
        plan.controllers += dice.below(3);
        if plan.connectors > 1 && dice.chance(500) {
            plan.liar = Some(1);
        }
        if plan.controllers > 1 {
            plan.lag = dice.millis(1, 300);
            plan.poll = STORE_POLL;
        }
        if dice.chance(150) {
            let slow = dice.millis(50, 400);
            plan.commit = (slow, slow + dice.millis(0, 400));
        }
        plan
    }

    /// The villain's index.
    pub(crate) const fn villain(&self) -> usize {
        self.devices - 1
    }

    /// The longest time that a message may take on a channel that is up.
    pub(crate) fn push(&self) -> Duration {
        self.delay.1 + RETRANSMIT
    }
}

/// What a lost packet adds to the time of a message on a channel.
pub(crate) const RETRANSMIT: Duration = Duration::from_millis(250);

/// How long a grant lives here: the shortest that a controller may be set to.
pub(crate) const TTL: Duration = Duration::from_secs(30);

/// How often a controller that is not alone asks the store what there is.
const STORE_POLL: Duration = Duration::from_millis(500);

/// How often posture is polled here.
pub(crate) const POSTURE_POLL: Duration = Duration::from_secs(5);

/// How long the other controllers are away while everybody finds the first one: longer than an
/// unblocked device stays away.
pub(crate) const GATHERING: Duration = Duration::from_secs(135);

/// How long everybody goes on when the faults stop.
pub(crate) const LULL: Duration = Duration::from_secs(20);

/// How long the system then has to recover: an unblocked device comes back within two minutes.
pub(crate) const CALM: Duration = Duration::from_secs(125);

/// How long every permitted flow then has to complete.
pub(crate) const CHECK: Duration = Duration::from_secs(12);
