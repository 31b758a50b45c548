//! A disk without room: what is open goes on, what is new is refused, and all is well once there is
//! room again.

use std::{fs, io::Write, path::Path, process::Output, time::Duration};

use anyhow::{Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    needs,
    program::{Program, command, now, run_ok},
    traffic::{Bulk, WebServer, fetch},
};

const PAGE: &str = "served beside a full disk\n";

/// Room for a new state, its index and some reserve.
const DISK: &str = "size=24m";

/// Sizes of entries, for each of which there is at last no room in what the journal had reserved.
/// Small ones then fill the last page of the disk.
const ENTRIES_BYTES: [usize; 2] = [128 * 1024, 8 * 1024];

/// Changes of one size until there is no room.
const CHANGES_MAX: u32 = 40;

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
        fill(&disk, |number| change(&world, number, bytes))?;
    }
    fill(&disk, |number| {
        world.ctl_output(["site", "add", &format!("site-{number}")])
    })?;
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
    while !change(&world, LAST, 1)?.status.success() {
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

/// Makes changes until they are refused, and leaves nothing of what the journal then gives back.
fn fill(disk: &Disk, change: impl Fn(u32) -> Result<Output>) -> Result<()> {
    for number in 0..CHANGES_MAX {
        disk.fill()?;
        let output = change(number)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.code() == Some(7) && said.contains("disk is full"),
                "{output:?}"
            );
            return disk.fill();
        }
    }
    anyhow::bail!("the disk was never full")
}

/// Applies the policy in force with a remark of so many bytes in it.
fn change(world: &Deployment, number: u32, bytes: usize) -> Result<Output> {
    let policies = world.path("policies");
    if !policies.exists() {
        fs::create_dir(&policies)?;
        for file in fs::read_dir(world.path("controller/policy"))? {
            let file = file?;
            fs::copy(file.path(), policies.join(file.file_name()))?;
        }
    }
    fs::write(
        policies.join("remark.cedar"),
        format!("{}\n", remark(number, bytes)),
    )?;
    let shown = policies.display().to_string();
    world.ctl_output(["policy", "apply", &shown, "--yes"])
}

fn remark(number: u32, bytes: usize) -> String {
    format!("// remark {number} {}", "x".repeat(bytes))
}

/// A small file system of its own, in memory.
struct Disk {
    place: std::path::PathBuf,
}

impl Disk {
    fn mount(place: &Path) -> Result<Self> {
        fs::create_dir(place)?;
        let options = ["-t", "tmpfs", "-o"].map(Into::into);
        let what = [format!("{DISK},mode=0700").into(), "tmpfs".into()];
        let place_argument = [place.as_os_str().to_owned()];
        run_ok(command(
            "mount",
            options.into_iter().chain(what).chain(place_argument),
        ))?;
        Ok(Self {
            place: place.to_owned(),
        })
    }

    fn fill(&self) -> Result<()> {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.place.join("filler"))?;
        for block in [vec![0; 64 * 1024], vec![0; 512]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(fs::remove_file(self.place.join("filler"))?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The processes that use it end with the test; it goes when they are gone.
        drop(run_ok(command(
            "umount",
            ["-l".into(), self.place.as_os_str().to_owned()],
        )));
    }
}
