//! Policy folders as they travel: Cedar files and their tests.

use serde::{Deserialize, Serialize};

/// Largest file of a policy folder, in bytes.
pub const POLICY_FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most files of a policy folder.
pub const POLICY_FILES_MAX: usize = 4_096;

/// One file of a policy folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyFile {
    /// Path within the folder, with `/`; ends in `.cedar` or `.test.toml`.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// Something wrong with a policy folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyProblem {
    /// The file.
    pub path: String,
    /// The line, from 1, where known.
    pub line: Option<u32>,
    /// What is wrong and what is needed.
    pub message: String,
}

/// How one test of a policy folder went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTestResult {
    /// The file.
    pub path: String,
    /// The test's name.
    pub name: String,
    /// Whether the decision was as expected.
    pub passed: bool,
    /// What was decided and what was expected, when they differ.
    pub detail: Option<String>,
}

/// What a policy folder would change for one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyEffect {
    /// `certify` or `connect`.
    pub action: String,
    /// The device's name.
    pub device: String,
    /// The device's user.
    pub user: String,
    /// The app, for `connect`.
    pub app: Option<String>,
    /// Allowed under the policy in force.
    pub before: bool,
    /// Allowed under the new one.
    pub after: bool,
    /// Why, under the new one.
    pub why: String,
}
