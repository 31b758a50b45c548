//! State folders that a program cannot use, or must not: missing, in the way, unwritable, of somebody
//! else, in use. Nothing is read from them, and nothing is lost.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment},
    needs,
    program::{command, expect, run, text_of},
};

/// A program, and what it is asked to do with a state folder.
const STARTS: [(&str, &str); 7] = [
    ("cardea-controller", "run"),
    ("cardea-controller", "init --domain corp.example"),
    ("cardea-controller", "up --domain corp.example"),
    ("cardea-connector", "run"),
    ("cardea-connector", "up"),
    ("cardea", "run"),
    ("cardea", "up"),
];

#[test]
fn a_folder_that_is_not_there_is_asked_for_and_not_made_by_who_only_serves() {
    missing().unwrap();
}

fn missing() -> Result<()> {
    let world = Deployment::new()?;
    let state = world.path("missing");
    let output = start(&world, ("cardea-controller", "run"), &state)?;
    expect(&output, 7, "cardea-controller init")?;
    ensure!(!state.exists(), "the controller made a folder");
    let empty = world.path("empty");
    fs::create_dir(&empty)?;
    for program in ["cardea-connector", "cardea"] {
        for (verb, place) in [("run", &state), ("up", &state), ("run", &empty)] {
            let output = start(&world, (program, verb), place)?;
            expect(&output, 4, &format!("{program} up CODE"))?;
        }
        ensure!(!state.exists(), "{program} made a folder");
        ensure!(
            fs::read_dir(&empty)?.next().is_none(),
            "{program} made a file"
        );
    }
    let output = start(&world, ("cardea", "dns restore"), &state)?;
    expect(&output, 0, "nothing of ours was left")?;
    ensure!(!state.exists(), "dns restore made a folder");
    Ok(())
}

#[test]
fn a_folder_that_is_none_or_a_link_or_open_to_all_is_refused() {
    untrusted().unwrap();
}

fn untrusted() -> Result<()> {
    let world = Deployment::new()?;
    let (file, link, open) = (world.path("file"), world.path("link"), world.path("open"));
    fs::write(&file, "not a folder")?;
    fs::create_dir(world.path("elsewhere"))?;
    symlink(world.path("elsewhere"), &link)?;
    fs::create_dir(&open)?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777))?;
    for program in STARTS {
        for (state, text) in [
            (&file, "is not a directory of its own"),
            (&link, "symbolic links are not followed"),
            (&open, "chmod go-w"),
        ] {
            expect(&start(&world, program, state)?, 7, text)
                .with_context(|| format!("{program:?} on {}", state.display()))?;
        }
    }
    ensure!(fs::read_dir(&open)?.next().is_none(), "something was made");
    Ok(())
}

#[test]
fn a_folder_of_somebody_else_is_refused_and_nothing_in_it_is_read() {
    if needs::root_and(&[]) {
        foreign().unwrap();
    }
}

fn foreign() -> Result<()> {
    let world = Deployment::new()?;
    let state = world.path("foreign");
    fs::create_dir(&state)?;
    // Who read this would say that there is no such flag.
    fs::write(state.join("controller.toml"), "nonsense = true\n")?;
    chown(&state, Some(65_534), None)?;
    for program in STARTS {
        expect(&start(&world, program, &state)?, 7, "belongs to")
            .with_context(|| format!("{program:?}"))?;
    }
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    if needs::root_and(&["unshare", "mount"]) {
        unwritable().unwrap();
    }
}

/// The folders of a domain on a file system that is mounted read-only, which stops root as well.
fn unwritable() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions::default())?;
    let code = world.ctl("invite connector")?;
    let words = world.node_arguments("enroll", "connector", &code)?;
    let output = run(world.program(None, "cardea-connector", words))?;
    ensure!(output.status.success(), "{}", text_of(&output));
    world
        .start_device(None, "laptop", "alice", "staff", None)?
        .stop()?;
    world.stop_controller()?;
    let up = format!("up {code}");
    for ((program, verb), name) in [
        (("cardea-controller", "run"), "controller"),
        (("cardea-controller", "init --domain corp.example"), "new"),
        (("cardea-connector", "run"), "connector"),
        (("cardea-connector", up.as_str()), "new"),
        (("cardea", up.as_str()), "new"),
        (("cardea", "run"), "laptop"),
        (("cardea", "up"), "laptop"),
    ] {
        let state = world.path(name);
        let started = words_of(&world, (program, verb), &state);
        let place = world.path("");
        let read_only =
            "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
        let wrapper = ["--mount", "sh", "-c", read_only].map(OsString::from);
        let words = wrapper.into_iter().chain([place.into()]).chain(started);
        let output = run(command("unshare", words))?;
        expect(&output, 7, "Read-only file system")
            .with_context(|| format!("{program} {verb} on {}", state.display()))?;
        ensure!(
            text_of(&output).contains(&state.display().to_string()),
            "the folder is not named: {}",
            text_of(&output)
        );
    }
    // It serves on where it can write.
    world.start_controller(&ControllerOptions::default())
}

#[test]
fn a_folder_is_opened_once() {
    twice().unwrap();
}

fn twice() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions::default())?;
    let _connector = world.start_connector(None, "connector", "default")?;
    let _laptop = world.start_device(None, "laptop", "alice", "staff", None)?;
    for (program, name) in [
        (("cardea-controller", "run"), "controller"),
        (
            ("cardea-controller", "up --domain corp.example"),
            "controller",
        ),
        (("cardea-controller", "repair"), "controller"),
        (("cardea-connector", "run"), "connector"),
        (("cardea-connector", "up"), "connector"),
        (("cardea", "run"), "laptop"),
    ] {
        expect(
            &start(&world, program, &world.path(name))?,
            7,
            "opened twice",
        )
        .with_context(|| format!("{program:?}"))?;
    }
    // Those that were there first go on.
    world.ctl("site ls")?;
    for (program, name) in [("cardea-connector", "connector"), ("cardea", "laptop")] {
        let output = start(&world, (program, "status"), &world.path(name))?;
        expect(&output, 0, "connected to")?;
    }
    Ok(())
}

fn start(world: &Deployment, program: (&str, &str), state: &Path) -> Result<Output> {
    let mut words = words_of(world, program, state);
    let mut command = Command::new(words.remove(0));
    command.args(words);
    run(command)
}

fn words_of(world: &Deployment, (program, line): (&str, &str), state: &Path) -> Vec<OsString> {
    let command = world.program(None, program, line.split_whitespace());
    let program: PathBuf = command.get_program().into();
    let words = command.get_args().map(ToOwned::to_owned);
    let state = ["--state".into(), state.as_os_str().to_owned()];
    [program.into_os_string()]
        .into_iter()
        .chain(words)
        .chain(state)
        .collect()
}
