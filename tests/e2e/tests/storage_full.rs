//! A disk without room: what is open goes on, what is new is refused, and all is well once there is
//! room again.

use std::time::Duration;

use anyhow::{Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    disk::Disk,
    needs,
    program::{Program, now},
    traffic::{Bulk, WebServer, fetch},
};

const PAGE: &str = "served beside a full disk\n";

/// Sizes of entries, for each of which there is at last no room in what the journal had reserved.
/// Small ones then fill the last page of the disk.
const ENTRIES_BYTES: [usize; 2] = [128 * 1024, 8 * 1024];

/// The number of the change that is made when there is room again.
const LAST: u32 = 777;

/// How soon after there is room again the controller takes changes.
const RECOVERY: Duration = Duration::from_secs(5);

#[test]
fn a_full_disk_refuses_what_is_new_ends_nothing_and_is_survived() {
    // Only root may mount a disk that is small.
    if needs::root_and(&["mount"]) {
        full().unwrap();
    }
}

fn full() -> Result<()> {
    let mut world = Deployment::new()?;
    let disk = Disk::mount(&world.path("controller"))?;
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    for app in ["web", "other"] {
        world.ctl(&format!(
            "app add {app} --target {web} --allow-host-scoped --allow group:staff"
        ))?;
    }
    let _connector = world.start_connector(None, "con-a", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let _laptop =
        world.start_device(None, "laptop", "alice@corp.example", "staff", Some(&facts))?;
    let (_forward, local) = world.forward(None, "laptop", "web")?;
    ensure!(fetch(&local)? == PAGE, "another page");
    let bulk = Bulk::open(&local)?;

    for bytes in ENTRIES_BYTES {
        disk.fill_by(|number| world.remark(&remark(number, bytes)))?;
    }
    disk.fill_by(|number| world.ctl_output(["site", "add", &format!("site-{number}")]))?;
    // A new grant is refused for the same reason, and what is open goes on.
    let mut other = Program::start(
        "cardea forward",
        world.cardea(None, "laptop", "forward other"),
    )?;
    other.wait_for("disk is full")?;
    drop(other);
    ensure!(fetch(&local)? == PAGE, "another page");
    ensure!(world.controller()?.is_alive()?, "the controller ended");

    disk.empty()?;
    let freed = now();
    while !world.remark(&remark(LAST, 1))?.status.success() {
        ensure!(now() - freed < RECOVERY, "it does not recover");
    }
    let (_second, local) = loop {
        match world.forward(None, "laptop", "other") {
            Ok(forward) => break forward,
            Err(error) => ensure!(now() - freed < RECOVERY, "{error:#}"),
        }
    };
    ensure!(fetch(&local)? == PAGE, "another page");
    drop(bulk);
    world.stop_controller()?;
    world.verify_ledger()?;
    // And it starts on what it wrote.
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    ensure!(
        world.ctl("policy show")?.contains(&remark(LAST, 0)),
        "the last change is missing"
    );
    world.stop_controller()
}

fn remark(number: u32, bytes: usize) -> String {
    format!("// remark {number} {}", "x".repeat(bytes))
}
