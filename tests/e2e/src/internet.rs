//! An internet of network namespaces: a controller with its relay in the middle, and hosts, NATs,
//! devices and connectors at its edges.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    nat::NatKind,
    program::{PATIENCE, Program, now, run, run_ok},
    traffic::tcp_echo,
};

/// Whether a row of a device's status shows a direct path.
#[must_use]
pub fn is_direct(row: &Value) -> bool {
    goes(row, "direct ")
}

/// Whether it shows an open tunnel that goes through the relay.
#[must_use]
pub fn is_relayed(row: &Value) -> bool {
    is_open(row) && goes(row, "relay ")
}

/// Whether it shows an open tunnel.
#[must_use]
pub fn is_open(row: &Value) -> bool {
    row.get("state").and_then(Value::as_str) == Some("open")
}

fn goes(row: &Value, how: &str) -> bool {
    row.get("path")
        .and_then(Value::as_str)
        .is_some_and(|path| path.starts_with(how))
}

/// An internet with a controller, and nodes at its edges.
#[derive(Debug)]
pub struct Internet {
    test: &'static str,
    arguments: &'static [&'static str],
    /// The middle, where the controller and its relay are and all packets pass.
    pub middle: Namespace,
    /// The controller, and all states.
    pub deployment: Deployment,
    connectors: Vec<Node>,
    devices: Vec<Node>,
    edges: u8,
}

/// A connector or a device.
#[derive(Debug)]
pub struct Node {
    /// Its name, and that of its folder.
    pub name: String,
    /// Where it runs.
    pub host: Namespace,
    /// Its program.
    pub program: Program,
    /// The edge of the internet where it, or the NAT before it, is.
    pub edge: u8,
    /// NATs before it, the innermost first, and hosts behind it.
    pub around: Vec<Namespace>,
}

/// The UDP port for direct paths, which NATs must know to let strangers in.
pub const PORT: u16 = 4_711;

/// Where the controller listens.
pub const CHANNEL_PORT: u16 = 7_443;

/// Where its relay does.
pub const RELAY_PORT: u16 = 7_444;

/// The address of both.
pub const CONTROLLER: &str = "203.0.113.1";
/// The same for IPv6.
pub const CONTROLLER_V6: &str = "2001:db8:ffff::1";

impl Internet {
    /// The middle, with a controller that runs.
    ///
    /// # Errors
    /// Without root, or when the controller does not start.
    pub fn new(test: &'static str) -> Result<Self> {
        Self::with(test, &[])
    }

    /// The same, where the controller has more arguments.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(test: &'static str, arguments: &'static [&'static str]) -> Result<Self> {
        let middle = Namespace::new(test, "net")?;
        run_forwarding(&middle)?;
        middle.ip(&format!("addr add {CONTROLLER}/32 dev lo"))?;
        middle.ip(&format!("addr add {CONTROLLER_V6}/128 dev lo nodad"))?;
        let mut deployment = Deployment::new()?;
        deployment.set_for_nodes("CARDEA_DIRECT_PORT", &PORT.to_string());
        let mut internet = Self {
            test,
            arguments,
            middle,
            deployment,
            connectors: Vec::new(),
            devices: Vec::new(),
            edges: 0,
        };
        internet.start_controller()?;
        Ok(internet)
    }

    /// Starts the controller, for the first time or again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_controller(&mut self) -> Result<()> {
        let more = [
            "--allow-simulated-posture",
            "--advertise",
            &format!("[{CONTROLLER_V6}]:{CHANNEL_PORT}"),
            "--relay-address",
            &format!("{CONTROLLER}:{RELAY_PORT}"),
            "--relay-address",
            &format!("[{CONTROLLER_V6}]:{RELAY_PORT}"),
        ];
        self.deployment.start_controller(&ControllerOptions {
            namespace: Some(&self.middle),
            address: CONTROLLER,
            listen: Some("[::]"),
            port: CHANNEL_PORT,
            relay_port: RELAY_PORT,
            more: &[&more, self.arguments].concat(),
            environment: &[],
        })
    }

    /// A namespace at the edge of the internet, with a public address on `wan`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn edge(&mut self, role: &str) -> Result<Namespace> {
        self.edges += 1;
        let edge = self.edges;
        let namespace = Namespace::new(self.test, &format!("{role}{edge}"))?;
        let net = edge * 4;
        self.middle.link(
            &format!("e{edge}"),
            &format!("198.51.100.{}/30", net + 1),
            &namespace,
            "wan",
            &format!("198.51.100.{}/30", net + 2),
        )?;
        // The relay's socket is for both families; what it sends carries the address it is known by.
        self.middle.ip(&format!(
            "route change 198.51.100.{net}/30 dev e{edge} src {CONTROLLER}"
        ))?;
        namespace.route(&format!("198.51.100.{}", net + 1))?;
        Ok(namespace)
    }

    /// The same, where datagrams are cut into packets when they are sent, as on a real wire: a
    /// [`crate::capture::Capture`] then sees each as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn edge_that_cuts(&mut self, role: &str) -> Result<Namespace> {
        let host = self.edge(role)?;
        host.ip("link set wan gso_max_segs 1")?;
        let there = self.edges;
        self.middle
            .ip(&format!("link set e{there} gso_max_segs 1"))?;
        Ok(host)
    }

    /// Takes every address from a device's interface, and the routes with them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unplug(&self, device: usize) -> Result<()> {
        let host = &self.device(device)?.host;
        host.ip("addr flush dev wan scope global")
    }

    /// Takes every IPv4 address from a device's interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unplug_v4(&self, device: usize) -> Result<()> {
        let host = &self.device(device)?.host;
        host.ip("-4 addr flush dev wan scope global")
    }

    /// Gives a device another address of the internet, and no other one; says since when it works.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn renumber(&self, device: usize, place: u8) -> Result<Instant> {
        let Node { host, edge, .. } = self.device(device)?;
        let net = place * 4;
        self.middle
            .ip(&format!("addr replace 192.0.2.{}/30 dev e{edge}", net + 1))?;
        self.middle.ip(&format!(
            "route change 192.0.2.{net}/30 dev e{edge} src {CONTROLLER}"
        ))?;
        host.ip("-4 addr flush dev wan scope global")?;
        host.ip(&format!("addr add 192.0.2.{}/30 dev wan", net + 2))?;
        host.route(&Self::gateway(place))?;
        Ok(now())
    }

    /// Where a device that was renumbered sends everything.
    #[must_use]
    pub fn gateway(place: u8) -> String {
        format!("192.0.2.{}", place * 4 + 1)
    }

    /// A host behind `nat` in a network of its own.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn behind(&self, nat: &Namespace, name: &str, lan: &str, net: &str) -> Result<Namespace> {
        let host = Namespace::new(self.test, name)?;
        host.link(
            "lan",
            &format!("{net}.2/24"),
            nat,
            lan,
            &format!("{net}.1/24"),
        )?;
        host.route(&format!("{net}.1"))?;
        Ok(host)
    }

    /// Gives the host of the latest edge an IPv6 address of the internet, beside what it has.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_ipv6(&self, host: &Namespace, device: &str) -> Result<()> {
        let edge = self.edges;
        let (here, there) = (format!("2001:db8:{edge}::1"), format!("2001:db8:{edge}::2"));
        self.middle
            .ip(&format!("addr add {here}/64 dev e{edge} nodad"))?;
        self.middle.ip(&format!(
            "-6 route replace 2001:db8:{edge}::/64 dev e{edge} src {CONTROLLER_V6} metric 100"
        ))?;
        host.ip(&format!("addr add {there}/64 dev {device} nodad"))?;
        host.ip(&format!("-6 route add default via {here}"))
    }

    fn host(&mut self, kind: Option<NatKind>) -> Result<(Namespace, Vec<Namespace>)> {
        let Some(kind) = kind else {
            return Ok((self.edge("host")?, Vec::new()));
        };
        let nat = self.edge("nat")?;
        let net = format!("10.{}.0", self.edges);
        let host = self.behind(&nat, &format!("host{}", self.edges), "lan", &net)?;
        nat.nat(kind, &format!("{net}.2"), PORT)?;
        Ok((host, vec![nat]))
    }

    /// A connector of a site of its own, behind a NAT or not.
    ///
    /// # Errors
    /// When its program does not get there.
    pub fn add_connector(&mut self, kind: Option<NatKind>) -> Result<()> {
        let (host, nats) = self.host(kind)?;
        self.start_connector(host, nats)
    }

    /// A connector of a site of its own, beside an echo.
    ///
    /// # Errors
    /// When its program does not get there.
    pub fn start_connector(&mut self, host: Namespace, nats: Vec<Namespace>) -> Result<()> {
        let number = self.connectors.len();
        let name = format!("connector{number}");
        let apps = Namespace::new(self.test, &format!("apps{number}"))?;
        host.link("apps", "10.99.1.1/24", &apps, "eth", "10.99.1.10/24")?;
        apps.within(|| tcp_echo("10.99.1.10:80"))?;
        self.deployment.ctl(&format!("site add site{number}"))?;
        let program =
            self.deployment
                .start_connector(Some(&host), &name, &format!("site{number}"))?;
        self.connectors.push(Node {
            name,
            host,
            program,
            edge: self.edges,
            around: nats.into_iter().chain([apps]).collect(),
        });
        Ok(())
    }

    /// Stops a connector's program and starts it with these arguments.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn restart_connector(&mut self, connector: usize, more: &[&str]) -> Result<()> {
        let node = self.connectors.get_mut(connector);
        let Node {
            name,
            host,
            program,
            ..
        } = node.context("no such connector")?;
        program.stop()?;
        let more: Vec<_> = more.iter().map(Into::into).collect();
        *program = self
            .deployment
            .run_node(Some(host), "cardea-connector", name, &more)?;
        Ok(())
    }

    /// A device, behind a NAT or not.
    ///
    /// # Errors
    /// When its program does not get there.
    pub fn add_device(&mut self, kind: Option<NatKind>) -> Result<()> {
        let (host, nats) = self.host(kind)?;
        self.start_device(host, nats)
    }

    /// A device on a host that is there.
    ///
    /// # Errors
    /// When its program does not get there.
    pub fn start_device(&mut self, host: Namespace, nats: Vec<Namespace>) -> Result<()> {
        let name = format!("device{}", self.devices.len());
        let facts = self.deployment.write_facts(&name, GOOD_FACTS)?;
        let program = self.deployment.start_device(
            Some(&host),
            &name,
            "alice@corp.example",
            "staff",
            Some(&facts),
        )?;
        self.devices.push(Node {
            name,
            host,
            program,
            edge: self.edges,
            around: nats,
        });
        Ok(())
    }

    /// A device behind two NATs in a row.
    ///
    /// # Errors
    /// When its program does not get there.
    pub fn add_device_behind_two(&mut self, kind: NatKind) -> Result<()> {
        let outer = self.edge("nat")?;
        let edge = self.edges;
        let inner = Namespace::new(self.test, &format!("inner{edge}"))?;
        let net = format!("10.{edge}.1");
        inner.link(
            "wan",
            &format!("{net}.2/24"),
            &outer,
            "lan",
            &format!("{net}.1/24"),
        )?;
        inner.route(&format!("{net}.1"))?;
        let host = self.behind(
            &inner,
            &format!("host{edge}"),
            "lan",
            &format!("10.{edge}.2"),
        )?;
        outer.nat(kind, &format!("{net}.2"), PORT)?;
        inner.nat(kind, &format!("10.{edge}.2.2"), PORT)?;
        self.start_device(host, vec![inner, outer])
    }

    /// A device and a connector behind one NAT; says which they are.
    ///
    /// # Errors
    /// When a program does not get there.
    pub fn add_hairpin(&mut self) -> Result<(usize, usize)> {
        let nat = self.edge("nat")?;
        let edge = self.edges;
        let device = self.behind(&nat, &format!("hpd{edge}"), "lan", &format!("10.{edge}.0"))?;
        let site = self.behind(&nat, &format!("hpc{edge}"), "lan2", &format!("10.{edge}.3"))?;
        let public = format!("198.51.100.{}", edge * 4 + 2);
        run_forwarding(&nat)?;
        // Each host has a port of the outer address, from wherever a packet for it comes.
        nat.nft(&format!(
            "table ip nat {{\n\
             chain pre {{ type nat hook prerouting priority -100;\n\
             ip daddr {public} udp dport 4811 dnat to 10.{edge}.0.2:{PORT}\n\
             ip daddr {public} udp dport 4812 dnat to 10.{edge}.3.2:{PORT}\n }}\n\
             chain post {{ type nat hook postrouting priority 100;\n\
             ip saddr 10.{edge}.0.2 udp sport {PORT} snat to {public}:4811\n\
             ip saddr 10.{edge}.3.2 udp sport {PORT} snat to {public}:4812\n\
             oifname \"wan\" masquerade\n }}\n\
             chain guard {{ type filter hook forward priority 0; policy drop;\n\
             ct state established,related accept\n oifname \"wan\" accept\n ct status dnat accept\n }}\n}}\n"
        ))?;
        self.start_connector(site, Vec::new())?;
        self.start_device(device, vec![nat])?;
        Ok((self.devices.len() - 1, self.connectors.len() - 1))
    }

    /// Publishes the echo of a site under a name.
    ///
    /// # Errors
    /// When the controller refuses.
    pub fn publish(&self, app: &str, site: usize, carrier: &str) -> Result<()> {
        let line = format!(
            "app add {app} --site site{site} --target 10.99.1.10:80 --allow group:staff --transport {carrier}"
        );
        self.deployment.ctl(&line).map(drop)
    }

    /// One of the devices.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn device(&self, device: usize) -> Result<&Node> {
        self.devices.get(device).context("no such device")
    }

    /// One of the connectors.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn connector(&self, connector: usize) -> Result<&Node> {
        self.connectors.get(connector).context("no such connector")
    }

    /// How many connectors, and sites, there are.
    #[must_use]
    pub const fn connectors(&self) -> usize {
        self.connectors.len()
    }

    /// How many devices there are.
    #[must_use]
    pub const fn devices(&self) -> usize {
        self.devices.len()
    }

    /// How many edges there are; the latest has this number.
    #[must_use]
    pub const fn edges(&self) -> u8 {
        self.edges
    }

    /// Forwards an app from a device; the forward and its address there.
    ///
    /// # Errors
    /// When access is denied.
    pub fn forward(&self, device: usize, app: &str) -> Result<(Program, String)> {
        let Node { host, name, .. } = self.device(device)?;
        self.deployment.forward(Some(host), name, app)
    }

    /// What a device's status says of an app.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn row(&self, device: usize, app: &str) -> Result<Value> {
        let Node { host, name, .. } = self.device(device)?;
        let command = self.deployment.cardea(Some(host), name, "status -o json");
        let status: Value = serde_json::from_slice(&run(command)?.stdout)?;
        let apps = status.get("apps").and_then(Value::as_array);
        let mut apps = apps.context("no apps")?.iter();
        let row = apps.find(|row| row.get("name").and_then(Value::as_str) == Some(app));
        row.cloned().context("no such app")
    }

    /// Asks for the status until the row of `app` is as it should be.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn wait_for(
        &self,
        device: usize,
        app: &str,
        is_right: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let row = self.row(device, app)?;
            if is_right(&row) {
                return Ok(row);
            }
            ensure!(
                now() < deadline,
                "{row}\n{}",
                self.device(device)?.program.said()
            );
        }
    }

    /// Asks the controller for its tunnels until that of `app` has the path that its device shows, and
    /// that path is as it should be.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn wait_for_tunnel(
        &self,
        device: usize,
        app: &str,
        is_right: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline: Instant = now() + PATIENCE;
        loop {
            let shown = self.wait_for(device, app, &is_right)?;
            let tunnels: Value = serde_json::from_str(&self.deployment.ctl("tunnel ls -o json")?)?;
            let mut rows = tunnels.as_array().context("no tunnels")?.iter();
            let row = rows.find(|row| row.get("app").and_then(Value::as_str) == Some(app));
            let row = row.context("no such tunnel")?;
            if row.get("path") == shown.get("path") {
                return Ok(row.clone());
            }
            ensure!(
                now() < deadline,
                "{row} at the controller, {shown} at the device"
            );
        }
    }

    /// Drops what passes between nodes, and not what goes to the relay: all, or what `hole` matches.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn cut(&self, hole: &str) -> Result<()> {
        let drops = if hole.is_empty() {
            "meta l4proto udp drop"
        } else {
            &format!("{hole} drop")
        };
        self.middle.nft(&format!(
            "table inet hole {{\n chain forward {{\n type filter hook forward priority 0\n {drops}\n }}\n}}\n"
        ))
    }
}

fn run_forwarding(namespace: &Namespace) -> Result<()> {
    let on = [
        "-qw",
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
    ];
    run_ok(namespace.command("sysctl", on)).map(drop)
}

/// A host in the middle that forwards and has `address`, for tests that lay their own network.
///
/// # Errors
/// When the kernel refuses.
pub fn middle(test: &str, address: &str) -> Result<Namespace> {
    let middle = Namespace::new(test, "net")?;
    run_forwarding(&middle)?;
    middle.ip(&format!("addr add {address}/32 dev lo"))?;
    Ok(middle)
}

/// A host at an edge of `middle`, which has the first address of the /30 at 198.51.100.`net`; the host
/// has the second.
///
/// # Errors
/// When the kernel refuses.
pub fn edge_of(middle: &Namespace, test: &str, name: &str, net: u8) -> Result<Namespace> {
    let host = Namespace::new(test, name)?;
    let (here, there) = (net + 1, net + 2);
    middle.link(
        name,
        &format!("198.51.100.{here}/30"),
        &host,
        "wan",
        &format!("198.51.100.{there}/30"),
    )?;
    host.route(&format!("198.51.100.{here}"))?;
    Ok(host)
}
