//! A state that is sealed at rest: nothing in it can be read without its key, and everything works
//! with it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    program,
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
