//! A controller and agents of a benchmark, as people run them.

use anyhow::Result;
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::Program,
};

/// A controller on this machine that takes the facts of agents from files.
///
/// # Errors
/// When it does not start.
pub(crate) fn deployment() -> Result<Deployment> {
    let mut deployment = Deployment::new()?;
    deployment.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    Ok(deployment)
}

/// An enrolled agent with a SOCKS5 proxy.
pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) daemon: Program,
    /// Where the proxy listens.
    pub(crate) proxy: String,
    _proxying: Program,
}

impl Agent {
    /// Enrolls and starts a compliant device of somebody in the group `staff`.
    ///
    /// # Errors
    /// When it does not get there.
    pub(crate) fn start(deployment: &Deployment, name: &str) -> Result<Self> {
        let facts = deployment.write_facts(name, GOOD_FACTS)?;
        let user = format!("{name}@corp.example");
        let daemon = deployment.start_device(None, name, &user, "staff", Some(&facts))?;
        let command = deployment.cardea(None, name, "proxy --socks5 127.0.0.1:0");
        let mut proxying = Program::start("cardea proxy", command)?;
        Ok(Self {
            name: name.to_owned(),
            daemon,
            proxy: proxying.wait_for_address()?,
            _proxying: proxying,
        })
    }
}
