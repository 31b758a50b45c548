//! A change of posture is at the controller within a second, because the kernel tells the agent.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use cardea_e2e::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    program::{PATIENCE, now},
    traffic::{Bulk, WebServer, fetch},
};

const PAGE: &str = "for devices whose disk is encrypted\n";

/// How long a change may take to close what rested on it.
///
/// Agents read everything anew once a minute whatever the kernel tells, so that nothing but a watched
/// file keeps this.
const LIMIT: Duration = Duration::from_secs(1);

/// Times that posture breaks.
const EDITS: usize = 5;

#[test]
fn an_edited_fact_closes_access_within_a_second() {
    edit().unwrap();
}

fn edit() -> Result<()> {
    let mut world = Deployment::new()?;
    world.start_controller(&ControllerOptions {
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let web = WebServer::start("127.0.0.1:0", PAGE)?.address;
    world.ctl("policy apply --recommended --yes")?;
    world.ctl(&format!(
        "app add web --target {web} --allow-host-scoped --allow group:staff"
    ))?;
    let _connector = world.start_connector(None, "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let _laptop = world.start_device(None, "laptop", user, "staff", Some(&facts))?;
    let (_forward, local) = world.forward(None, "laptop", "web")?;

    let broken = GOOD_FACTS.replace("\"disk.encrypted\": true", "\"disk.encrypted\": false");
    let mut times = Vec::new();
    for round in 0..EDITS {
        let deadline = now() + PATIENCE;
        while fetch(&local).is_err() {
            ensure!(now() < deadline, "access does not come back");
        }
        let stream = Bulk::open(&local)?;
        let edited = now();
        // Editors write in place, or put another file there.
        if round % 2 == 0 {
            fs::write(&facts, &broken)?;
        } else {
            world.write_facts("laptop", &broken)?;
        }
        times.push(stream.last_byte(LIMIT * 10)?.duration_since(edited));
        let tail = world.ctl("audit tail -n 20")?;
        ensure!(tail.contains("disk.encrypted is false"), "{tail}");
        world.write_facts("laptop", GOOD_FACTS)?;
    }
    // A busy machine may be late now and then. Polls alone would not be in time twice.
    times.sort();
    ensure!(
        times.get(1).is_some_and(|time| *time <= LIMIT),
        "later than {LIMIT:?}: {times:?}"
    );
    Ok(())
}
