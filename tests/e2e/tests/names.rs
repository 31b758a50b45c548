//! An app whose target is a DNS name: it is resolved beside the connector, for each flow anew, and
//! where it leads is checked each time.
//!
//! ```text
//!  site (controller, connector, laptop; an admin's page on loopback) ── apps (nginx, name server)
//! ```

use std::fs;

use anyhow::{Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::run_ok,
    traffic::WebServer,
};
use rustix::process::Signal;

const PAGE: &str = "the page that the name leads to\n";
const HOME: &str = "for nobody but the connector's own host\n";

/// Where cloud providers hand out credentials to whoever asks from a machine of theirs.
const METADATA: &str = "169.254.169.254";

#[test]
fn a_name_is_resolved_for_each_flow_and_may_not_lead_home() {
    if needs::root_and(&["ip", "nginx", "dnsmasq", "curl"]) {
        follow_the_name().unwrap();
    }
}

fn follow_the_name() -> Result<()> {
    let site = Namespace::new("names", "site")?;
    let beside = Namespace::new("names", "apps")?;
    site.link("lan", "10.9.1.1/24", &beside, "eth", "10.9.1.10/24")?;
    beside.ip("addr add 10.9.1.11/24 dev eth")?;
    beside.ip(&format!("addr add {METADATA}/32 dev eth"))?;
    site.ip(&format!("route add {METADATA}/32 dev lan"))?;
    site.ask_names_of("10.9.1.10")?;

    let mut world = Deployment::new()?;
    let page = [("index.html", PAGE)];
    let everywhere = ["10.9.1.10:80", "10.9.1.11:80", "169.254.169.254:80"];
    let _nginx = apps::nginx(&beside, &world.path("nginx"), &everywhere, &page)?;
    site.within(|| WebServer::start("127.0.0.1:80", HOME).map(drop))?;
    site.within(|| WebServer::start("10.9.1.1:80", HOME).map(drop))?;
    let answers = world.path("answers");
    let answer = |address: &str| fs::write(&answers, format!("{address} wiki.site.example\n"));
    answer("10.9.1.10")?;
    let hosts = format!("--addn-hosts={}", answers.display());
    let mut names = apps::dnsmasq(&beside, "10.9.1.10", &hosts)?;

    world.start_controller(&ControllerOptions {
        namespace: Some(&site),
        address: "10.9.1.1",
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    world.ctl("app add wiki --target wiki.site.example:80 --allow group:staff")?;
    for (app, target) in [("home", "127.0.0.1:80"), ("cloud", "169.254.169.254:80")] {
        world.ctl(&format!(
            "app add {app} --target {target} --allow-host-scoped --allow group:staff"
        ))?;
    }
    let mut connector = world.start_connector(Some(&site), "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = "alice@corp.example";
    let _laptop = world.start_device(Some(&site), "laptop", user, "staff", Some(&facts))?;
    let fetch = |address: &str| {
        let url = format!("http://{address}/");
        run_ok(site.command("curl", ["-sS", "--fail", "--max-time", "20", &url]))
    };
    // What the name must not lead to is there, and an admin who names the address gets it.
    for (app, page) in [("home", HOME), ("cloud", PAGE)] {
        let (_forward, address) = world.forward(Some(&site), "laptop", app)?;
        ensure!(fetch(&address)? == page, "{app}");
    }

    let (_forward, address) = world.forward(Some(&site), "laptop", "wiki")?;
    ensure!(fetch(&address)? == PAGE, "the first answer");
    for (to, is_reached) in [
        ("10.9.1.11", true),
        ("127.0.0.1", false),
        (METADATA, false),
        ("10.9.1.1", false),
        ("::ffff:127.0.0.1", false),
        ("::1", false),
        ("10.9.1.10", true),
    ] {
        let (read, refused) = (names.line_count(), connector.line_count());
        answer(to)?;
        names.signal(Signal::HUP)?;
        names.wait_for_after(read, "read ")?;
        let fetched = fetch(&address);
        let reached = fetched.as_ref().is_ok_and(|page| page == PAGE);
        ensure!(reached == is_reached, "{to}: {fetched:?}");
        if !is_reached {
            connector.wait_for_after(refused, "not one that this connector dials")?;
        }
    }
    Ok(())
}
