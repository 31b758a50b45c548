//! The folders that come with the program.

use cardea_proto::policy::PolicyFile;

/// What `init` writes: a device with a sane agent, a supported system and a sane clock is certified,
/// and nobody may connect until a rule says so.
#[must_use]
pub fn default_folder() -> Vec<PolicyFile> {
    folder(&[
        (
            "base.cedar",
            include_str!("../../policies/default/base.cedar"),
        ),
        (
            "base.test.toml",
            include_str!("../../policies/default/base.test.toml"),
        ),
    ])
}

/// The stricter rules beside it: disk encryption, firewall, patch age and screen lock as well.
#[must_use]
pub fn recommended_folder() -> Vec<PolicyFile> {
    folder(&[
        (
            "base.cedar",
            include_str!("../../policies/recommended/base.cedar"),
        ),
        (
            "base.test.toml",
            include_str!("../../policies/recommended/base.test.toml"),
        ),
    ])
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Engine;
    use super::*;

    #[test]
    fn the_folders_that_come_with_the_program_pass_their_own_tests() {
        for folder in [default_folder(), recommended_folder()] {
            let engine = Engine::new(&folder, &BTreeSet::new()).unwrap();
            let results = engine.run_tests();
            assert!(results.len() >= 8);
            for result in results {
                assert!(result.passed, "{result:#?}");
            }
        }
    }
}
