//! A state that is sealed at rest: nothing in it can be read without its key, and everything works
//! with it.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    program::{self, Program},
};

/// A word that the state must not show.
const WORD: &str = "crown-jewels";

struct World {
    deployment: Deployment,
    port: u16,
    relay_port: u16,
}

impl World {
    fn start(&mut self, unlock: &str) -> Result<()> {
        self.deployment.start_controller(&ControllerOptions {
            port: self.port,
            relay_port: self.relay_port,
            more: &["--unlock", unlock],
            ..Default::default()
        })
    }

    /// Runs a program to its end; its exit code and everything it said.
    fn run(&self, name: &str, line: &str) -> Result<(i32, String)> {
        let mut command = Command::new(program::binaries()?.join(name));
        let output = program::run({
            command.args(line.split_whitespace());
            command
        })?;
        let text = [output.stdout, output.stderr].concat();
        let code = output.status.code().context("it was killed")?;
        Ok((code, String::from_utf8(text)?))
    }

    fn verify(&self, what: &Path, unlock: &str) -> Result<(i32, String)> {
        let key = self.deployment.path("controller/keys/ledger.pub");
        let line = format!(
            "audit verify --ledger {} --key {} {unlock}",
            what.display(),
            key.display()
        );
        self.run("cardeactl", &line)
    }
}

#[test]
fn a_sealed_state_shows_nothing_opens_with_its_key_alone_and_takes_another() {
    sealed().unwrap();
}

fn sealed() -> Result<()> {
    let deployment = Deployment::new()?;
    let first = format!("file:{}", deployment.path("first.key").display());
    let second = format!("file:{}", deployment.path("second.key").display());
    let mut world = World {
        deployment,
        port: program::free_port()?,
        relay_port: program::free_port()?,
    };
    world.start(&first)?;
    world.deployment.ctl(&format!(
        "app add {WORD} --target 192.0.2.7:80 --allow group:staff"
    ))?;
    let state = world.deployment.path("controller");
    let copy = world.deployment.path("copy.tar");
    let backed_up = format!("backup {} --state {}", copy.display(), state.display());
    let (code, said) = world.run("cardeactl", &backed_up)?;
    ensure!(code == 0, "backup: {said}");
    world.deployment.stop_controller()?;

    shows_nothing(&state)?;
    ensure!(!contains(&copy, WORD)?, "the backup shows it");
    opens_with_its_key_alone(&world, &state, &copy, &first)?;
    takes_another(&mut world, &state, &first, &second)?;

    // The backup from before opens with the key from before, elsewhere.
    let elsewhere = world.deployment.path("elsewhere");
    let restore = format!(
        "restore {} --state {} --unlock {first}",
        copy.display(),
        elsewhere.display()
    );
    let (code, said) = world.run("cardeactl", &restore)?;
    ensure!(code == 0, "{said}");
    let repair = format!("repair --state {} --unlock {first}", elsewhere.display());
    let (code, said) = world.run("cardea-controller", &repair)?;
    ensure!(code == 0 && said.contains("whole"), "{said}");
    Ok(())
}

fn opens_with_its_key_alone(world: &World, state: &Path, copy: &Path, first: &str) -> Result<()> {
    let place = state.display();
    // Without the key, and with another: refused, with what to do about it.
    let key = world.deployment.path("first.key");
    let away = world.deployment.path("away.key");
    fs::rename(&key, &away)?;
    let (code, said) = world.run("cardea-controller", &format!("run --state {place}"))?;
    let expected = "first.key: No such file";
    ensure!(code == 7 && said.contains(expected), "{code}: {said}");
    fs::rename(&away, &key)?;
    fs::write(world.deployment.path("other.key"), "f".repeat(64))?;
    let other = world.deployment.path("other.key");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&other, private)?;
    let (code, said) = world.run(
        "cardea-controller",
        &format!("run --state {place} --unlock file:{}", other.display()),
    )?;
    let expected = "this is not the key that the state was sealed with";
    ensure!(code == 7 && said.contains(expected), "{code}: {said}");

    // Audited as it lies there, and as a backup.
    for what in [state, copy] {
        let (code, said) = world.verify(what, "")?;
        ensure!(code == 1 && said.contains("sealed"), "{code}: {said}");
        let (code, said) = world.verify(what, &format!("--unlock {first}"))?;
        ensure!(code == 0, "{code}: {said}");
    }
    Ok(())
}

fn takes_another(world: &mut World, state: &Path, first: &str, second: &str) -> Result<()> {
    let place = state.display();
    // Another key for the same state: no segment changes, and the old key is of no use.
    let segment = fs::read(state.join("ledger/0001.seg"))?;
    let rewrap = format!("rewrap --state {place} --unlock {first} --to {second}");
    let (code, said) = world.run("cardea-controller", &rewrap)?;
    ensure!(code == 0, "{said}");
    ensure!(
        fs::read(state.join("ledger/0001.seg"))? == segment,
        "a segment was rewritten"
    );
    let (code, said) = world.run(
        "cardea-controller",
        &format!("run --state {place} --unlock {first}"),
    )?;
    ensure!(code == 7, "the old key still opens it: {said}");
    world.start(second)?;
    let apps = world.deployment.ctl("app ls")?;
    ensure!(apps.contains(WORD), "{apps}");
    world.deployment.stop_controller()?;
    Ok(())
}

const PASSPHRASE: &str = "correct horse battery";

#[test]
fn a_passphrase_and_a_credential_open_a_state_like_a_file_and_wrong_ones_do_not() {
    sources().unwrap();
}

fn sources() -> Result<()> {
    let deployment = Deployment::new()?;
    let keys = Keys {
        state: deployment.path("controller").display().to_string(),
        credentials: deployment.path("credentials"),
        deployment,
    };
    fs::create_dir(&keys.credentials)?;
    keys.founds_with_a_passphrase_at_a_terminal()?;
    keys.opens_with_the_passphrase_alone()?;

    let (right, wrong) = ("k".repeat(48), "w".repeat(48));
    keys.credential("cardea", &right)?;
    keys.rewrap(
        "passphrase",
        "credential:cardea",
        &format!("{PASSPHRASE}\n"),
    )?;
    keys.opens("credential:cardea", "")?;
    keys.refuses("passphrase", &format!("{PASSPHRASE}\n"), WRONG_KEY)?;
    keys.credential("cardea", &wrong)?;
    keys.refuses("credential:cardea", "", WRONG_KEY)?;
    keys.refuses("credential:other", "", "No such file")?;
    let command = keys.controller(&keys.repair("credential:cardea"))?;
    let (code, said) = keys.run(command, "")?;
    let expected = "systemd handed no credentials to this process";
    ensure!(code == 7 && said.contains(expected), "{code}: {said}");
    keys.credential("cardea", &right)?;
    keys.serves("credential:cardea", "")?;

    let file = format!("file:{}", keys.deployment.path("state.key").display());
    keys.rewrap("credential:cardea", &file, "")?;
    keys.serves(&file, "")?;
    keys.refuses("credential:cardea", "", WRONG_KEY)?;
    let another = "another horse battery";
    keys.rewrap(&file, "passphrase", &format!("{another}\n"))?;
    keys.refuses(&file, "", WRONG_KEY)?;
    keys.rewrap(
        "passphrase",
        "passphrase",
        &format!("{another}\n{PASSPHRASE}\n"),
    )?;
    keys.refuses("passphrase", &format!("{another}\n"), WRONG_KEY)?;
    keys.serves("passphrase", &format!("{PASSPHRASE}\n"))
}

const WRONG_KEY: &str = "this is not the key that the state was sealed with";

/// A state whose key comes from here and there.
struct Keys {
    deployment: Deployment,
    state: String,
    credentials: std::path::PathBuf,
}

impl Keys {
    /// Typed twice: a slip of the finger seals nothing.
    fn founds_with_a_passphrase_at_a_terminal(&self) -> Result<()> {
        let line = format!(
            "init --domain corp.example --advertise 127.0.0.1 --unlock passphrase --state {}",
            self.state
        );
        let (code, said) = self.at_terminal(&line, &[PASSPHRASE, "correct house battery"])?;
        let expected = "the two are not the same";
        ensure!(code == 7 && said.contains(expected), "{code}: {said}");
        let (code, said) = self.at_terminal(&line, &["too short"])?;
        let expected = "at least 12 characters";
        ensure!(code == 7 && said.contains(expected), "{code}: {said}");
        let (code, said) = self.at_terminal(&line, &[PASSPHRASE, PASSPHRASE])?;
        ensure!(code == 0, "{code}: {said}");
        ensure!(!said.contains(PASSPHRASE), "the terminal shows it: {said}");
        Ok(())
    }

    fn opens_with_the_passphrase_alone(&self) -> Result<()> {
        let line = format!("repair --unlock passphrase --state {}", self.state);
        let (code, said) = self.at_terminal(&line, &[PASSPHRASE])?;
        ensure!(code == 0 && said.contains("whole"), "{code}: {said}");
        let (code, said) = self.at_terminal(&line, &["correct house battery"])?;
        ensure!(code == 7 && said.contains(WRONG_KEY), "{code}: {said}");
        self.refuses("passphrase", "correct house battery\n", WRONG_KEY)?;
        self.refuses("passphrase", "", "nothing was typed")?;
        self.serves("passphrase", &format!("{PASSPHRASE}\n"))
    }

    /// Runs the controller at a terminal and types each answer when it asks for one.
    fn at_terminal(&self, line: &str, answers: &[&str]) -> Result<(i32, String)> {
        let program = program::binaries()?.join("cardea-controller");
        let line = format!("{} {line}", program.display());
        let mut script = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut keyboard = script.stdin.take().context("no keyboard")?;
        let mut screen = script.stdout.take().context("no screen")?;
        let mut said = Vec::new();
        let mut block = [0; 1_024];
        let mut answers = answers.iter();
        loop {
            let read = screen.read(&mut block)?;
            let more = block.get(..read).unwrap_or_default();
            said.extend_from_slice(more);
            if more.is_empty() {
                break;
            }
            let asks = said.ends_with(b": ");
            if let Some(answer) = asks.then(|| answers.next()).flatten() {
                keyboard.write_all(format!("{answer}\n").as_bytes())?;
            }
        }
        let code = script.wait()?.code().context("it was killed")?;
        Ok((code, String::from_utf8_lossy(&said).into_owned()))
    }

    fn credential(&self, name: &str, secret: &str) -> Result<()> {
        let path = self.credentials.join(name);
        fs::write(&path, secret)?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o400);
        Ok(fs::set_permissions(path, private)?)
    }

    fn rewrap(&self, from: &str, to: &str, input: &str) -> Result<()> {
        let line = format!("rewrap --unlock {from} --to {to} --state {}", self.state);
        let (code, said) = self.run(self.with_credentials(&line)?, input)?;
        ensure!(code == 0, "{from} to {to}: {code}: {said}");
        Ok(())
    }

    fn opens(&self, unlock: &str, input: &str) -> Result<()> {
        let (code, said) = self.run(self.with_credentials(&self.repair(unlock))?, input)?;
        ensure!(
            code == 0 && said.contains("whole"),
            "{unlock}: {code}: {said}"
        );
        Ok(())
    }

    fn refuses(&self, unlock: &str, input: &str, why: &str) -> Result<()> {
        for verb in ["run", "repair"] {
            let line = format!("{verb} --unlock {unlock} --state {}", self.state);
            let (code, said) = self.run(self.with_credentials(&line)?, input)?;
            ensure!(code == 7 && said.contains(why), "{unlock}: {code}: {said}");
        }
        Ok(())
    }

    /// A controller starts with it, and its certificate authority signs.
    fn serves(&self, unlock: &str, input: &str) -> Result<()> {
        let line = format!(
            "run --listen 127.0.0.1:0 --unlock {unlock} --state {}",
            self.state
        );
        let command = self.with_credentials(&line)?;
        let mut controller = Program::start_with("controller", command, program::typed(input)?)?;
        controller.wait_for("listening on")?;
        self.deployment.ctl("status")?;
        let ended = controller.stop()?;
        ensure!(ended == Some(0), "{ended:?}: {}", controller.said());
        Ok(())
    }

    fn with_credentials(&self, line: &str) -> Result<Command> {
        let mut command = self.controller(line)?;
        command.env("CREDENTIALS_DIRECTORY", &self.credentials);
        Ok(command)
    }

    fn controller(&self, line: &str) -> Result<Command> {
        let mut command = Command::new(program::binaries()?.join("cardea-controller"));
        command.args(line.split_whitespace());
        Ok(command)
    }

    fn repair(&self, unlock: &str) -> String {
        format!("repair --unlock {unlock} --state {}", self.state)
    }

    fn run(&self, command: Command, input: &str) -> Result<(i32, String)> {
        let output = program::run_with(command, program::typed(input)?)?;
        let text = [output.stdout, output.stderr].concat();
        let code = output.status.code().context("it was killed")?;
        Ok((code, String::from_utf8(text)?))
    }
}

/// No file but the admin's key holds a private key, and none but the policies and the
/// configuration shows what was configured.
fn shows_nothing(state: &Path) -> Result<()> {
    for entry in fs::read_dir(state)? {
        let path = entry?.path();
        if path.is_dir() {
            shows_nothing(&path)?;
        } else if path.is_file() {
            let shown = path.display();
            ensure!(!contains(&path, WORD)?, "{shown} shows it");
            let is_admins = path.ends_with("admin.key");
            ensure!(
                is_admins || !contains(&path, "BEGIN PRIVATE KEY")?,
                "{shown} is a key"
            );
            let is_key = path.extension().is_some_and(|name| name == "key");
            let is_sealed = contains(&path, "BEGIN CARDEA SEALED SECRET")?;
            ensure!(!is_key || is_admins || is_sealed, "{shown} is not sealed");
        }
    }
    Ok(())
}

fn contains(path: &Path, word: &str) -> Result<bool> {
    let bytes = fs::read(path)?;
    Ok(bytes
        .windows(word.len())
        .any(|window| window == word.as_bytes()))
}
