//! An agent that runs as root, and who else may drive it.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::{Program, binaries, run, run_ok},
    traffic::{WebServer, fetch},
};

const PAGE: &str = "for the operator\n";

/// A user that every system has, and another number.
const OPERATOR: (&str, u32) = ("nobody", 65_534);
const STRANGER: u32 = 54_321;

#[test]
fn the_operator_drives_an_agent_of_root_and_nobody_else_does() {
    // Only root can be two other people.
    if needs::root_and(&["setpriv"]) {
        drive().unwrap();
    }
}

fn drive() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    world.ctl(&format!(
        "app add web --target {web} --allow-host-scoped --allow group:staff"
    ))?;
    let _connector = world.start_connector(None, "con-a", "default")?;

    // What everybody may pass: the socket, and a copy of the program.
    let open = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()?;
    let socket = open.path().join("run").join("agent.sock");
    std::fs::copy(binaries()?.join("cardea"), open.path().join("cardea"))?;

    let code = world.ctl("invite device --user alice@corp.example --group staff")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let mut arguments = world.node_arguments("up", "laptop", &code)?;
    arguments.extend(["--facts-from".into(), facts.into_os_string()]);
    arguments.extend(["--socket".into(), socket.clone().into_os_string()]);
    let mut enrolled = world.program(None, "cardea", arguments);
    enrolled.env("SUDO_UID", STRANGER.to_string());
    let mut laptop = Program::start("laptop", enrolled)?;
    laptop.wait_for("connected to")?;
    let ask = |user: u32, line: &str| as_user(open.path(), &socket, user, line);
    run_ok(ask(STRANGER, "status")).context("who enrolled by sudo")?;
    laptop.stop()?;

    // Another one takes his place.
    let mut laptop = restart(&world, &socket, &["--operator", OPERATOR.0])?;
    let status = run_ok(ask(OPERATOR.1, "status -o json"))?;
    ensure!(status.contains("\"connected\""), "{status}");
    let mut forward = Program::start("cardea forward", ask(OPERATOR.1, "forward web"))?;
    ensure!(fetch(&forward.wait_for_address()?)? == PAGE, "another page");

    // A port that only root may have is not to be had through root's agent.
    let refused = run(ask(OPERATOR.1, "forward web --listen 127.0.0.1:80"))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(why.contains("only root may have port 80"), "{why}");

    // Whoever else gets in at the file is refused at its other end.
    let refused = run(ask(STRANGER, "status"))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "{why}");
    ensure!(why.contains("its operator may ask it"), "{why}");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
    let refused = run(ask(STRANGER, "status"))?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "{why}");
    ensure!(why.contains("its operator may ask it"), "{why}");

    administering(&world, open.path())?;

    // Whom the state directory keeps needs not be named again.
    laptop.stop()?;
    let _laptop = restart(&world, &socket, &[])?;
    run_ok(ask(OPERATOR.1, "down"))?;
    Ok(())
}

/// The same holds for who administers the controller, where the files let him in.
fn administering(world: &Deployment, open: &Path) -> Result<()> {
    let admin = world.path("controller").join("admin.sock");
    std::fs::copy(binaries()?.join("cardeactl"), open.join("cardeactl"))?;
    for (path, mode) in [
        (world.path(""), 0o755),
        (world.path("controller"), 0o755),
        (admin.clone(), 0o666),
    ] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    let mut status = other_user(OPERATOR.1, &open.join("cardeactl"));
    status
        .arg("--admin")
        .arg(format!("unix:{}", admin.display()))
        .arg("status");
    let refused = run(status)?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "{why}");
    ensure!(
        why.contains("only root and the owner of the state folder"),
        "{why}"
    );
    std::fs::set_permissions(
        world.path("controller"),
        std::fs::Permissions::from_mode(0o700),
    )?;
    Ok(())
}

fn restart(world: &Deployment, socket: &Path, more: &[&str]) -> Result<Program> {
    let mut run = world.cardea(None, "laptop", "run");
    run.arg("--socket").arg(socket).args(more);
    let mut laptop = Program::start("laptop", run)?;
    laptop.wait_for("connected to")?;
    Ok(laptop)
}

/// `cardea` as another user, who has no agent of his own.
fn as_user(open: &Path, socket: &Path, user: u32, line: &str) -> Command {
    let mut command = other_user(user, &open.join("cardea"));
    command
        .args(line.split_whitespace())
        .arg("--socket")
        .arg(socket)
        .arg("--state")
        .arg(open.join("nothing"));
    command
}

/// A program as another user.
fn other_user(user: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={user}"))
        .args(["--clear-groups", "--inh-caps=-all", "--no-new-privs"])
        .arg(program);
    command
}
