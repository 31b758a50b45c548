//! Policy: one language, Cedar, for every decision, and the engine that decides.
//!
//! Pure: an [`Engine`] is made of the files of a policy folder and the everyday rules, and answers
//! [`CertifyAsk`] and [`ConnectAsk`] with a `Decision` that explains itself. What a rule may look
//! at is the published [`SCHEMA`]; the fact names in it are [`CATALOGUE`], with `_` for dots.
//!
//! - No policy means no access. `forbid` wins over `permit`.
//! - Any evaluation error denies, whether of a `permit` or of a `forbid` (Cedar alone would skip the
//!   rule, and a `forbid` that fails would fail open).
//! - A fact that a device could not read is not there: a rule asks `has` first, and Cedar's strict
//!   validation refuses one that does not. So a missing fact fails the check, and denies; a `forbid`
//!   that only holds where a fact is there is refused.
//! - A fact whose value is of another kind than the catalogue says, or longer than a report may
//!   hold, has no value.
//!
//! Annotations: `@id("base/certify")` names a rule, `@remedy("…")` says what a person can do where it
//! stands in the way, and `@remedy_disk_encrypted("…")` says it for one fact.

mod absence;
mod ask;
mod compare;
mod compiled;
mod condition;
mod diff;
mod engine;
mod explain;
mod facts;
mod folders;
mod given;
mod goal;
mod limits;
mod links;
mod load;
mod needs;
mod prepared;
mod request;
mod rule;
mod scenario;
mod slice;
#[cfg(test)]
mod tests;

pub use ask::{Auth, CertifyAsk, Circumstances, ConnectAsk, DeviceFacts};
pub use diff::{Subject, diff};
pub use engine::{Engine, not_compliant};
pub use facts::{CATALOGUE, CLOCK_SKEW, Kind, KnownFact, known};
pub use folders::{default_folder, recommended_folder};
pub use links::{LINKS_FILE, link_id, render_links};
pub use load::SCHEMA;
pub use prepared::Prepared;
