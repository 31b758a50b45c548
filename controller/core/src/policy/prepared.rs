//! A folder that was compiled and tested before the controller is asked about it.
//!
//! Compiling a large folder takes seconds, in which a controller would revoke nothing. It needs nothing
//! that the controller knows, so whoever reads the request does it; the controller only adds the
//! everyday rules.

use std::collections::BTreeSet;

use cardea_proto::{
    admin::{AdminChange, AdminQuery, AdminRequest, ChangeOrder},
    codec::{self, MESSAGE_BYTES_MAX_ADMIN},
    policy::{PolicyFile, PolicyProblem, PolicyTestResult},
};

use super::Engine;

/// What a folder comes to. Only [`Prepared::of`] makes one.
#[derive(Clone, Debug)]
pub struct Prepared {
    files: Vec<PolicyFile>,
    engine: Result<Engine, Vec<PolicyProblem>>,
    tests: Vec<PolicyTestResult>,
}

impl Prepared {
    /// Compiles and tests the folder that a request brings, if it brings one. That an admin has signed
    /// it is not looked at: whoever may ask may have a folder checked.
    #[must_use]
    pub fn of(request: &AdminRequest) -> Option<Self> {
        match request {
            AdminRequest::Query(
                AdminQuery::PolicyCheck(files)
                | AdminQuery::PolicyTest(files)
                | AdminQuery::PolicyDiff(files)
                | AdminQuery::Impact(AdminChange::PolicyApply(files)),
            ) => Some(Self::new(files.clone())),
            AdminRequest::Query(_) => None,
            AdminRequest::Change(signed) => {
                let order =
                    codec::decode::<ChangeOrder>(signed.body.as_ref(), MESSAGE_BYTES_MAX_ADMIN);
                let AdminChange::PolicyApply(files) = order.ok()?.change else {
                    return None;
                };
                Some(Self::new(files))
            }
        }
    }

    fn new(files: Vec<PolicyFile>) -> Self {
        let engine = Engine::new(&files, &BTreeSet::new());
        let tests = engine.as_ref().map(Engine::run_tests).unwrap_or_default();
        Self {
            files,
            engine,
            tests,
        }
    }

    /// Whether this is of these files.
    pub(crate) fn is_of(&self, files: &[PolicyFile]) -> bool {
        self.files == files
    }

    /// The engine, without everyday rules.
    ///
    /// # Errors
    /// Everything that is wrong with the folder.
    pub(crate) const fn engine(&self) -> Result<&Engine, &Vec<PolicyProblem>> {
        self.engine.as_ref()
    }

    /// How its tests went.
    pub(crate) fn tests(&self) -> &[PolicyTestResult] {
        &self.tests
    }
}
