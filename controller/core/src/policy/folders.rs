//! The folders that come with the program.

use cardea_proto::policy::PolicyFile;

/// What `init` writes: a device with a sane agent, a supported system and a sane clock is certified,
/// and nobody may connect until a rule says so.
#[must_use]
pub fn default_folder() -> Vec<PolicyFile> {
    folder(&[(
        "base.cedar",
        include_str!("../../policies/default/base.cedar"),
    )])
}

/// The stricter rules beside it: disk encryption, firewall, patch age and screen lock as well.
#[must_use]
pub fn recommended_folder() -> Vec<PolicyFile> {
    folder(&[(
        "base.cedar",
        include_str!("../../policies/recommended/base.cedar"),
    )])
}

fn folder(files: &[(&str, &str)]) -> Vec<PolicyFile> {
    files
        .iter()
        .map(|(path, text)| PolicyFile {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        })
        .collect()
}
