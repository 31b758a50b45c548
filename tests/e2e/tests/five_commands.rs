//! The README's five commands, word for word, as root and in the folders that are the default.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    apps::nginx,
    namespace::Namespace,
    needs,
    program::{Program, binaries, run_ok},
};

const PAGE: &str = "the page that the README promises\n";

#[test]
fn the_readme_leads_to_an_application() {
    if needs::root_and(&["ip", "nginx", "curl"]) {
        follow().unwrap();
    }
}

fn follow() -> Result<()> {
    let world = World::new()?;
    let _web = world.web()?;
    let mut codes: Vec<String> = Vec::new();
    let mut running = Vec::new();
    let mut page = None;
    for line in commands()? {
        let line = if line.contains("<code>") {
            line.replace("<code>", &codes.remove(0))
        } else {
            line
        };
        let machine = match line.split_whitespace().next() {
            Some("cardea-connector") => "beside-the-app",
            Some("cardea") => "laptop",
            _ => "controller",
        };
        let command = world.on(machine, &line);
        if line.contains(" up ") {
            let mut program = Program::start(&line, command)?;
            let ready = if machine == "controller" {
                "listening on"
            } else {
                "connected to"
            };
            program.wait_for(ready)?;
            running.push(program);
        } else if line.starts_with("cardea forward") {
            let mut forward = Program::start(&line, command)?;
            let address = forward.wait_for_address()?;
            let fetch = format!("curl -sS --max-time 20 http://{address}/");
            page = Some(run_ok(world.on("laptop", &fetch))?);
            running.push(forward);
        } else {
            let printed = run_ok(command)?;
            codes.extend(
                printed
                    .lines()
                    .filter(|line| is_code(line))
                    .map(str::to_owned),
            );
        }
    }
    ensure!(page.as_deref() == Some(PAGE), "{page:?}");
    for (machine, own) in &world.machines {
        let kept = own.join("cardea");
        ensure!(kept.exists(), "{machine} keeps nothing in /var/lib/cardea");
    }
    Ok(())
}

/// The commands of the README's block, in order, without what stands behind `#`.
fn commands() -> Result<Vec<String>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(readme)?;
    let (_, section) = readme
        .split_once("## Five commands")
        .context("the README has no five commands")?;
    let block = section
        .split("```")
        .nth(1)
        .context("no block of commands")?;
    let lines = block
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    Ok(lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

/// Whether a line is an invite's code.
fn is_code(line: &str) -> bool {
    line.starts_with("cardea1-")
}

/// One network with the README's machines, and the application behind it.
struct World {
    folder: tempfile::TempDir,
    network: Namespace,
    application: Namespace,
    machines: BTreeMap<&'static str, PathBuf>,
}

impl World {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("cardea-").tempdir()?;
        let network = Namespace::new("five", "net")?;
        let application = Namespace::new("five", "app")?;
        network.link("app0", "10.9.0.1/24", &application, "net0", "10.9.0.10/24")?;
        let hosts = "127.0.0.1 localhost\n10.9.0.1 ztna.corp.example\n";
        fs::write(folder.path().join("hosts"), hosts)?;
        let mut machines = BTreeMap::new();
        for machine in ["controller", "beside-the-app", "laptop"] {
            let own = folder.path().join(machine);
            fs::create_dir(&own)?;
            machines.insert(machine, own);
        }
        Ok(Self {
            folder,
            network,
            application,
            machines,
        })
    }

    /// A shell's line on a machine: with its own `/var/lib`, and names that resolve.
    fn on(&self, machine: &str, line: &str) -> Command {
        let own = self.machines.get(machine).cloned().unwrap_or_default();
        let setup = "PATH=\"$BINARIES:$PATH\" && mount --bind \"$OWN\" /var/lib && mount --bind \"$HOSTS\" /etc/hosts && ";
        let mut command = self
            .network
            .command("sh", ["-c", &format!("{setup}{}", exec(line))]);
        let binaries = binaries().unwrap_or_default();
        command
            .env("OWN", own)
            .env("HOSTS", self.folder.path().join("hosts"))
            .env("BINARIES", binaries)
            .env_remove("XDG_STATE_HOME");
        command
    }

    fn web(&self) -> Result<Program> {
        let root = self.folder.path().join("www");
        let pages = [("index.html", PAGE)];
        nginx(&self.application, &root, &["10.9.0.10:80"], &pages)
    }
}

/// A single command takes the place of its shell, so that it gets our signals.
fn exec(line: &str) -> String {
    if line.contains(';') {
        line.to_owned()
    } else {
        format!("exec {line}")
    }
}
