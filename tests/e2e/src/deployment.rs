//! A controller, connectors and devices, put together with the commands of the README.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};

use crate::{
    namespace::Namespace,
    program::{Program, binaries, run},
};

/// Facts of a device with which nothing is wrong under the recommended policy.
pub const GOOD_FACTS: &str = r#"{
  "os.name": "debian", "os.version": "12", "agent.version": "0.1.0",
  "disk.encrypted": true, "firewall.enabled": true, "patch.age_days": 3, "reboot.pending": false,
  "screen.lock": true, "autologin": false, "secure.boot": true, "tpm.present": true,
  "virtual.machine": false, "uptime_s": 4000
}"#;

/// One trust domain in a temporary folder: every process and file of it goes when this is dropped.
#[derive(Debug)]
pub struct Deployment {
    folder: tempfile::TempDir,
    binaries: PathBuf,
    controller: Option<Program>,
    node_environment: Vec<(&'static str, String)>,
}

/// How a controller is started.
#[derive(Debug)]
pub struct ControllerOptions<'a> {
    /// Where it runs; the test's own network when `None`.
    pub namespace: Option<&'a Namespace>,
    /// Its address as nodes see it.
    pub address: &'a str,
    /// The address on which it listens, when that is another one.
    pub listen: Option<&'a str>,
    /// Port of the channels; 0 takes any.
    pub port: u16,
    /// Port of the relay; 0 takes any.
    pub relay_port: u16,
    /// More arguments.
    pub more: &'a [&'a str],
    /// More variables of its environment.
    pub environment: &'a [(&'a str, &'a str)],
}

impl<'a> ControllerOptions<'a> {
    /// On a host of its own at this address, with the usual ports, and with facts from files.
    #[must_use]
    pub fn on(namespace: &'a Namespace, address: &'a str) -> Self {
        Self {
            namespace: Some(namespace),
            address,
            port: 7443,
            relay_port: 7444,
            more: &["--allow-simulated-posture"],
            ..Self::default()
        }
    }
}

impl Default for ControllerOptions<'_> {
    fn default() -> Self {
        Self {
            namespace: None,
            address: "127.0.0.1",
            listen: None,
            port: 0,
            relay_port: 0,
            more: &[],
            environment: &[],
        }
    }
}

impl Deployment {
    /// An empty folder, and the programs found.
    ///
    /// # Errors
    /// When the programs are not built.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cardea-").tempdir()?;
        Ok(Self {
            folder,
            binaries: binaries()?,
            controller: None,
            node_environment: Vec::new(),
        })
    }

    /// Sets a variable for nodes that are started from here on.
    pub fn set_for_nodes(&mut self, name: &'static str, value: &str) {
        self.node_environment.push((name, value.to_owned()));
    }

    /// A path within the deployment's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Keeps the folder when this is dropped, and tells where it is.
    #[must_use]
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Has an auditor check the controller's ledger as it lies there, also when its last write is torn.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn verify_ledger(&self) -> Result<()> {
        self.verify(None)
    }

    /// The same, and that it goes on from the checkpoint in a file.
    ///
    /// # Errors
    /// When it does not verify, or does not go on from there.
    pub fn verify_ledger_since(&self, checkpoint: &Path) -> Result<()> {
        self.verify(Some(checkpoint))
    }

    fn verify(&self, since: Option<&Path>) -> Result<()> {
        let state = self.path("controller");
        let mut arguments = vec![
            "audit".into(),
            "verify".into(),
            "--ledger".into(),
            state.clone().into_os_string(),
            "--key".into(),
            state.join("keys/ledger.pub").into_os_string(),
        ];
        if let Some(checkpoint) = since {
            arguments.extend(["--since".into(), checkpoint.as_os_str().to_owned()]);
        }
        crate::program::run_ok(self.program(None, "cardeactl", arguments)).map(drop)
    }

    /// One of our programs with its arguments, in a namespace or not.
    pub fn program<S: Into<OsString>>(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let path = self.binaries.join(name);
        match namespace {
            Some(namespace) => namespace.command(path, arguments),
            None => crate::program::command(path, arguments),
        }
    }

    /// Starts the controller with its relay and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_controller(&mut self, options: &ControllerOptions<'_>) -> Result<()> {
        let ControllerOptions {
            namespace,
            address,
            listen,
            port,
            relay_port,
            more,
            environment,
        } = options;
        let listen = listen.unwrap_or(address);
        let state = self.path("controller");
        let fixed = [
            "up".to_owned(),
            "--domain".to_owned(),
            "corp.example".to_owned(),
            "--advertise".to_owned(),
            if *port == 0 {
                (*address).to_owned()
            } else {
                format!("{address}:{port}")
            },
            "--listen".to_owned(),
            format!("{listen}:{port}"),
            "--relay-listen".to_owned(),
            format!("{listen}:{relay_port}"),
            "--state".to_owned(),
            state.display().to_string(),
        ];
        let arguments = fixed
            .into_iter()
            .chain(more.iter().map(|more| (*more).to_owned()));
        let mut command = self.program(*namespace, "cardea-controller", arguments);
        command.envs(environment.iter().copied());
        let mut controller = Program::start("cardea-controller", command)?;
        controller.wait_for("listening on")?;
        self.controller = Some(controller);
        Ok(())
    }

    /// Starts a relay of its own for the controller, with these arguments, and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_relay(
        &self,
        namespace: Option<&Namespace>,
        listen: &str,
        more: &[&str],
    ) -> Result<Program> {
        let words = ["run", "--listen", listen, "--ticket-key"];
        let mut command = self.program(namespace, "cardea-relay", words);
        command.arg(self.path("controller").join("keys/ticket.pub"));
        command.args(more);
        let mut relay = Program::start("cardea-relay", command)?;
        relay.wait_for("listening")?;
        Ok(relay)
    }

    /// The running controller.
    ///
    /// # Errors
    /// When none was started.
    pub fn controller(&mut self) -> Result<&mut Program> {
        self.controller
            .as_mut()
            .context("no controller was started")
    }

    /// Stops the controller and waits until it has gone.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_controller(&mut self) -> Result<()> {
        self.controller
            .take()
            .map_or(Ok(()), |mut controller| controller.stop().map(drop))
    }

    /// Runs `cardeactl` with the words of `line` and returns what it printed.
    ///
    /// # Errors
    /// When it fails; the error holds all that it said.
    pub fn ctl(&self, line: &str) -> Result<String> {
        let output = self.ctl_output(line.split_whitespace())?;
        ensure!(
            output.status.success(),
            "cardeactl {line}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Runs `cardeactl`, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn ctl_output<S: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output> {
        run(self.ctl_command(arguments))
    }

    /// A `cardeactl` command about the controller.
    pub fn ctl_command<S: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let state = self.path("controller");
        let mut command = self.program(None, "cardeactl", arguments);
        command.env(
            "CARDEA_ADMIN",
            format!("unix:{}", state.join("admin.sock").display()),
        );
        command.env("CARDEA_ADMIN_KEY", state.join("keys/admin.key"));
        command
    }

    /// Enrolls a connector of `site`, starts it and waits until it is connected.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_connector(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        site: &str,
    ) -> Result<Program> {
        let code = self.ctl(&format!("invite connector --site {site}"))?;
        let arguments = self.node_arguments("up", name, &code)?;
        self.start_node(name, self.program(namespace, "cardea-connector", arguments))
    }

    /// Enrolls a connector of `site` and starts it with a network interface.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_kernel(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        site: &str,
    ) -> Result<Program> {
        let code = self.ctl(&format!("invite connector --site {site}"))?;
        let arguments = self.node_arguments("enroll", name, &code)?;
        crate::program::run_ok(self.program(namespace, "cardea-connector", arguments))?;
        self.run_kernel(namespace, name)
    }

    /// Starts an enrolled connector with a network interface.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn run_kernel(&self, namespace: Option<&Namespace>, name: &str) -> Result<Program> {
        let more = ["--mode", "kernel"].map(OsString::from);
        self.run_node(namespace, "cardea-connector", name, &more)
    }

    /// Starts an enrolled node's program with these arguments, and waits until it is connected.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn run_node(
        &self,
        namespace: Option<&Namespace>,
        program: &str,
        name: &str,
        more: &[OsString],
    ) -> Result<Program> {
        let mut command = self.program(namespace, program, ["run", "--state"]);
        command.arg(self.path(name)).args(more);
        self.start_node(name, command)
    }

    /// Enrolls a device of `user` in `group`, starts its agent and waits until it is connected.
    /// With `facts` its posture is read from that file.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_device(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        user: &str,
        group: &str,
        facts: Option<&Path>,
    ) -> Result<Program> {
        let code = self.ctl(&format!("invite device --user {user} --group {group}"))?;
        let mut arguments = self.node_arguments("up", name, &code)?;
        if let Some(facts) = facts {
            arguments.extend(["--facts-from".into(), facts.as_os_str().to_owned()]);
        }
        self.start_node(name, self.program(namespace, "cardea", arguments))
    }

    /// Enrolls a device of `user` in `group` and starts its agent with a network interface.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn start_interface(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        (user, group): (&str, &str),
        facts: &Path,
        more: &[&str],
    ) -> Result<Program> {
        let code = self.ctl(&format!("invite device --user {user} --group {group}"))?;
        let mut arguments = self.node_arguments("enroll", name, &code)?;
        arguments.extend(["--facts-from".into(), facts.as_os_str().to_owned()]);
        crate::program::run_ok(self.program(namespace, "cardea", arguments))?;
        self.run_interface(namespace, name, facts, more)
    }

    /// Starts the agent of an enrolled device with a network interface.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn run_interface(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        facts: &Path,
        more: &[&str],
    ) -> Result<Program> {
        let mut command = self.cardea(namespace, name, "run --mode tun");
        // A namespace has the machine's own files, unless it was given others.
        if !more.contains(&"--dns") {
            command.args(["--dns", "off"]);
        }
        command.args(more).arg("--facts-from").arg(facts);
        self.start_node(name, command)
    }

    /// Starts a node's program and waits until it is connected.
    fn start_node(&self, name: &str, mut command: Command) -> Result<Program> {
        command.envs(self.node_environment.iter().cloned());
        let mut node = Program::start(name, command)?;
        node.wait_for("connected to")?;
        Ok(node)
    }

    /// Arguments of a node's program: `verb --state … --code-file …`.
    ///
    /// # Errors
    /// When the code cannot be written to its file.
    pub fn node_arguments(&self, verb: &str, name: &str, code: &str) -> Result<Vec<OsString>> {
        let file = self.path(&format!("{name}.code"));
        fs::write(&file, code)?;
        Ok(vec![
            verb.into(),
            "--state".into(),
            self.path(name).into_os_string(),
            "--name".into(),
            name.into(),
            "--code-file".into(),
            file.into_os_string(),
        ])
    }

    /// A `cardea` command about the device `name`.
    pub fn cardea(&self, namespace: Option<&Namespace>, name: &str, line: &str) -> Command {
        let state = self.path(name);
        let words = line.split_whitespace().map(OsString::from);
        let mut command = self.program(namespace, "cardea", words);
        command.arg("--state").arg(state);
        command
    }

    /// Forwards `app` from the device `name`; returns the running command and its local address.
    ///
    /// # Errors
    /// When access is denied or the command fails.
    pub fn forward(
        &self,
        namespace: Option<&Namespace>,
        name: &str,
        line: &str,
    ) -> Result<(Program, String)> {
        let command = self.cardea(namespace, name, &format!("forward {line}"));
        let mut forward = Program::start("cardea forward", command)?;
        let address = forward.wait_for_address()?;
        Ok((forward, address))
    }

    /// Applies the policy in force with a remark: a change as large as it.
    ///
    /// # Errors
    /// When it cannot be written or asked for.
    pub fn remark(&self, remark: &str) -> Result<Output> {
        let policies = self.path("policies");
        if !policies.exists() {
            fs::create_dir(&policies)?;
            for file in fs::read_dir(self.path("controller/policy"))? {
                let file = file?;
                fs::copy(file.path(), policies.join(file.file_name()))?;
            }
        }
        fs::write(policies.join("remark.cedar"), format!("{remark}\n"))?;
        let shown = policies.display().to_string();
        self.ctl_output(["policy", "apply", &shown, "--yes"])
    }

    /// Writes the facts of a device and returns the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_facts(&self, name: &str, facts: &str) -> Result<PathBuf> {
        let file = self.path(&format!("{name}.facts.json"));
        let fresh = self.path(&format!("{name}.facts.new"));
        fs::write(&fresh, facts)?;
        fs::rename(&fresh, &file)?;
        Ok(file)
    }
}
