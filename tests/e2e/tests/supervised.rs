//! The programs under systemd: what they say to whoever started them, with how few powers they do, and
//! the units that are shipped.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, binaries, now, run, run_ok},
};
use rustix::process::Signal;

/// What the supervisor gives as its patience: it must hear at half of it.
const WATCHDOG: Duration = Duration::from_millis(1_200);

#[test]
fn every_program_says_that_it_serves_that_it_lives_and_that_it_stops() {
    supervise().unwrap();
}

#[test]
fn an_agent_is_ready_with_one_power_of_root_and_without_a_controller() {
    if needs::root_and(&["ip", "setpriv"]) {
        do_with_little().unwrap();
    }
}

#[test]
fn what_root_begins_without_a_word_is_what_the_unit_goes_on_with() {
    if needs::root_and(&["ip", "unshare"]) {
        go_on_as_the_unit_says().unwrap();
    }
}

#[test]
fn the_units_are_what_systemd_takes_and_name_what_is_there() {
    if needs::installed(&["systemd-analyze"]) {
        verify_units().unwrap();
    }
}

fn supervise() -> Result<()> {
    let mut world = Deployment::new()?;
    let supervisor = Supervisor::new(&world.path("notify"))?;
    let state = world.path("controller").display().to_string();
    let words = format!(
        "up --domain corp.example --advertise 127.0.0.1 --listen 127.0.0.1:0 \
         --relay-listen 127.0.0.1:0 --allow-simulated-posture --state {state}"
    );
    let mut controller = supervisor.start(&world, "cardea-controller", &words)?;
    world.ctl("status").context("ready, and does not serve")?;
    supervisor.hear_life()?;

    let key = Path::new(&state).join("keys/ticket.pub");
    let words = format!("run --listen 127.0.0.1:0 --ticket-key {}", key.display());
    supervisor.stop(&mut controller)?;
    let mut relay = supervisor.start(&world, "cardea-relay", &words)?;
    // What it wrote and what it told the supervisor come by two ways.
    relay
        .wait_for("listening")
        .context("ready, and does not serve")?;
    supervisor.hear_life()?;
    supervisor.stop(&mut relay)?;

    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    for (program, name, invite) in [
        ("cardea-connector", "connector", "invite connector"),
        (
            "cardea",
            "laptop",
            "invite device --user alice@corp.example --group staff",
        ),
    ] {
        let code = world.ctl(invite)?;
        let mut words = world.node_arguments("enroll", name, &code)?;
        let mut more = String::new();
        if program == "cardea" {
            let facts = facts.display().to_string();
            more = format!(" --facts-from {facts}");
            words.extend(["--facts-from".into(), facts.into()]);
        }
        run_ok(world.program(None, program, words))?;
        let state = world.path(name).display().to_string();
        let words = format!("run --state {state}{more}");
        let mut node = supervisor.start(&world, program, &words)?;
        let status = ["status", "--state", &state, "-o", "json"];
        run_ok(world.program(None, program, status)).context("ready, and does not serve")?;
        supervisor.hear_life()?;
        supervisor.stop(&mut node)?;
    }
    Ok(())
}

fn do_with_little() -> Result<()> {
    let laptop = Namespace::new("little", "laptop")?;
    let site = Namespace::new("little", "site")?;
    laptop.link("lan", "192.168.1.2/24", &site, "lan", "192.168.1.1/24")?;
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions::on(&site, "192.168.1.1"))?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let code = world.ctl("invite device --user alice@corp.example --group staff")?;
    let mut words = world.node_arguments("enroll", "laptop", &code)?;
    words.extend(["--facts-from".into(), facts.clone().into_os_string()]);
    run_ok(world.program(Some(&laptop), "cardea", words))?;
    world.stop_controller()?;

    let supervisor = Supervisor::new(&world.path("notify"))?;
    let program = binaries()?.join("cardea");
    let state = world.path("laptop").display().to_string();
    let words = format!(
        "--bounding-set -all,+net_admin,+net_bind_service --inh-caps -all --no-new-privs {} run \
         --mode tun --dns off --state {state} --facts-from {}",
        program.display(),
        facts.display()
    );
    let mut command = laptop.command("setpriv", words.split_whitespace());
    supervisor.watch(&mut command);
    let mut agent = Program::start("cardea", command)?;
    supervisor.hear("READY=1")?;
    let links = run_ok(laptop.command("ip", ["-o", "link"]))?;
    ensure!(
        links.contains("cardea0"),
        "ready, and no interface: {links}"
    );
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id()))?;
    let powers = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    ensure!(
        powers.map(str::trim) == Some("0000000000001400"),
        "{powers:?}"
    );
    supervisor.hear_life()?;
    supervisor.stop(&mut agent)?;
    let links = run_ok(laptop.command("ip", ["-o", "link"]))?;
    ensure!(!links.contains("cardea0"), "it leaves its interface");
    let rules = run_ok(laptop.command("ip", ["rule"]))?;
    ensure!(!rules.contains("7443"), "it leaves its rules: {rules}");
    Ok(())
}

/// `cardea up CODE` by root, and then the unit's own command line: the same state, an interface both times.
fn go_on_as_the_unit_says() -> Result<()> {
    let laptop = Namespace::new("unit", "laptop")?;
    let site = Namespace::new("unit", "site")?;
    laptop.link("lan", "192.168.1.2/24", &site, "lan", "192.168.1.1/24")?;
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions::on(&site, "192.168.1.1"))?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?.into_os_string();
    let code = world.ctl("invite device --user alice@corp.example --group staff")?;
    let code_file = world.path("code");
    fs::write(&code_file, code)?;
    let var_lib = world.path("var-lib");
    fs::create_dir(&var_lib)?;
    // Where a machine's own agent has its state, this one sees a folder of the test.
    let start = |words: &str| {
        let hide = "mount --bind \"$0\" /var/lib && exec \"$@\"";
        let mut command = laptop.command("unshare", ["--mount", "sh", "-c", hide]);
        command.arg(&var_lib).arg(binaries()?.join("cardea"));
        command.args(words.split_whitespace());
        command.args(["--dns", "off", "--facts-from"]).arg(&facts);
        let mut agent = Program::start("cardea", command)?;
        agent.wait_for("connected to")?;
        anyhow::Ok(agent)
    };
    let has_interface = || {
        let links = run_ok(laptop.command("ip", ["-o", "link"]))?;
        anyhow::Ok(links.contains("cardea0"))
    };
    let words = format!("up --name laptop --code-file {}", code_file.display());
    let mut agent = start(&words)?;
    ensure!(has_interface()?, "`up` by root makes no interface");
    ensure!(agent.stop()? == Some(0), "{}", agent.said());
    ensure!(!has_interface()?, "it leaves its interface");

    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd/cardea.service");
    let unit = fs::read_to_string(unit)?;
    let mut lines = unit.lines();
    let words = lines.find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cardea "));
    let mut agent = start(words.context("the unit starts something else")?)?;
    ensure!(has_interface()?, "the unit has another mode than `up`");
    ensure!(agent.stop()? == Some(0), "{}", agent.said());
    Ok(())
}

fn verify_units() -> Result<()> {
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    let folder = tempfile::tempdir()?;
    let programs = binaries()?.display().to_string();
    let mut seen = 0;
    for file in fs::read_dir(&units)? {
        let file: PathBuf = file?.path();
        let text = fs::read_to_string(&file)?;
        let name = file.file_name().context("no name")?.to_owned();
        for needed in [
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "SystemCallFilter=",
            "Type=notify",
        ] {
            let is_unit = file.extension().is_some_and(|kind| kind == "service");
            ensure!(!is_unit || text.contains(needed), "{name:?}: no {needed}");
        }
        // The manual is where a package puts it.
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("Documentation="));
        let text: Vec<String> = lines
            .map(|line| line.replace("/usr/bin", &programs))
            .collect();
        let at = folder.path().join(&name);
        fs::write(&at, text.join("\n"))?;
        if at.extension().is_none_or(|kind| kind != "service") {
            continue;
        }
        seen += 1;
        let words = ["verify", "--recursive-errors=no"].map(Into::into);
        let words = words.into_iter().chain([at.into_os_string()]);
        let verified = run(cardea_e2e::program::command("systemd-analyze", words))?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        ensure!(
            verified.status.success() && said.is_empty(),
            "{name:?}: {said}"
        );
    }
    ensure!(seen == 4, "{seen} units");
    Ok(())
}

/// What systemd is to a program.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn new(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    fn watch(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    }

    /// Starts a program and waits until it is ready; nothing else may come first.
    fn start(&self, world: &Deployment, program: &str, words: &str) -> Result<Program> {
        let mut command = world.program(None, program, words.split_whitespace());
        self.watch(&mut command);
        let started = Program::start(program, command)?;
        let said = self.next()?.0;
        ensure!(said == "READY=1\n", "first it said {said:?}");
        Ok(started)
    }

    fn next(&self) -> Result<(String, Instant)> {
        let mut buffer = [0; 256];
        let len = self.socket.recv(&mut buffer).context("nothing was said")?;
        let said = buffer.get(..len).unwrap_or_default();
        Ok((String::from_utf8_lossy(said).into_owned(), now()))
    }

    fn hear(&self, word: &str) -> Result<Instant> {
        let deadline = now() + PATIENCE;
        loop {
            let (said, at) = self.next()?;
            if said.lines().any(|line| line == word) {
                return Ok(at);
            }
            ensure!(now() < deadline, "no {word}");
        }
    }

    /// It says that it lives at half of the time that it was given, again and again, and never too late.
    fn hear_life(&self) -> Result<()> {
        let first = self.hear("WATCHDOG=1")?;
        let mut last = first;
        for _ in 0..4 {
            let at = self.hear("WATCHDOG=1")?;
            ensure!(at - last < WATCHDOG, "{:?} between two", at - last);
            last = at;
        }
        let mean = (last - first) / 4;
        let half = WATCHDOG / 2;
        ensure!(
            mean > half * 8 / 10 && mean < half * 15 / 10,
            "every {mean:?}"
        );
        Ok(())
    }

    fn stop(&self, program: &mut Program) -> Result<()> {
        program.signal(Signal::TERM)?;
        self.hear("STOPPING=1")?;
        let code = program.wait()?;
        ensure!(code == Some(0), "it ended with {code:?}");
        // What it said while it ended is not the next one's.
        self.socket.set_nonblocking(true)?;
        while self.socket.recv(&mut [0; 256]).is_ok() {}
        self.socket.set_nonblocking(false)?;
        Ok(())
    }
}
