//! Networks whose packets are smaller than usual, told and untold.
#![expect(clippy::print_stderr, reason = "it tells figures")]

use std::time::Duration;

use anyhow::{Result, ensure};
use cardea_e2e::{
    internet::{Internet, is_open},
    needs,
    traffic::Volley,
};

/// What these tests run beside our programs.
const TOOLS: [&str; 3] = ["ip", "nft", "sysctl"];

/// Longest that a round may take while it is found out what fits.
const ROUND_MAX: Duration = Duration::from_secs(3);

#[test]
fn a_conversation_goes_through_networks_of_every_size_down_to_1280() {
    if needs::root_and(&TOOLS) {
        small_networks().unwrap();
    }
}

fn small_networks() -> Result<()> {
    for carrier in ["wireguard", "quic"] {
        // Of the device's own network, of one on the way, and of one that tells nobody.
        for (at, mtu, is_told) in [
            ("device", 1_400, true),
            ("device", 1_280, true),
            ("connector", 1_400, true),
            ("connector", 1_280, true),
            ("connector", 1_400, false),
            ("connector", 1_280, false),
        ] {
            let mut world = Internet::new("mtu")?;
            world.add_connector(None)?;
            world.add_device(None)?;
            let node = match at {
                "device" => world.device(0)?,
                _ => world.connector(0)?,
            };
            let middle = format!("link set e{} mtu {mtu}", node.edge);
            world.middle.ip(&middle)?;
            node.host.ip(&format!("link set wan mtu {mtu}"))?;
            if !is_told {
                world.middle.nft(
                    "table inet quiet {\n chain out {\n type filter hook output priority 0\n \
                     icmp type destination-unreachable drop\n }\n}\n",
                )?;
            }
            world.publish("echo", 0, carrier)?;
            let (_forward, address) = world.forward(0, "echo")?;
            let host = &world.device(0)?.host;
            let (row, rounds) =
                Volley::during(host, &address, || world.wait_for(0, "echo", is_open))?;
            let longest = rounds.longest();
            eprintln!(
                "{carrier}, {mtu} at the {at}, told {is_told}: longest round {longest:?}, {}",
                row.get("path")
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or("no path")
            );
            ensure!(longest < ROUND_MAX, "{longest:?}: {row}");
        }
    }
    Ok(())
}
