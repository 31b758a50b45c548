//! Log lines on stderr.

use tracing_subscriber::EnvFilter;

/// How loud a program is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Errors and warnings.
    Quiet,
    /// States that a person would notice.
    #[default]
    Normal,
    /// Branches.
    Debug,
    /// Packets.
    Trace,
}

impl Level {
    /// The level for that many `-v`.
    #[must_use]
    pub const fn of_verbosity(count: u8) -> Self {
        match count {
            0 => Self::Normal,
            1 => Self::Debug,
            _ => Self::Trace,
        }
    }

    /// The filter for other people's crates, and for ours.
    const fn filters(self) -> (&'static str, &'static str) {
        match self {
            Self::Quiet => ("error", "warn"),
            Self::Normal => ("warn", "info"),
            Self::Debug => ("info", "debug"),
            Self::Trace => ("debug", "trace"),
        }
    }
}

/// Sends the program's events to stderr, without color.
///
/// A second call changes nothing: tests and embedded programs may each call it.
pub fn init(level: Level) {
    let (others, ours) = level.filters();
    let crates = OURS.iter().fold(others.to_owned(), |text, name| {
        format!("{text},{name}={ours}")
    });
    let done = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(level == Level::Trace)
        .with_env_filter(EnvFilter::new(crates))
        .try_init();
    if done.is_err() {
        tracing::trace!("telemetry is running already");
    }
}

/// Every crate whose events are ours.
const OURS: [&str; 12] = [
    "cardea_proto",
    "cardea_credential",
    "cardea_tunnel",
    "cardea_relay",
    "cardea_host",
    "cardea_core",
    "cardea_store",
    "cardea_server",
    "cardea_relay_server",
    "cardea_node",
    "cardea_device",
    "cardea_daemon",
];
