//! What a scanner makes of each kind of process of ours, on a host of its own behind its own guard: what
//! it makes of the same host with the process stopped.
//!
//! ```text
//!  stranger ──┬── controller, with a relay and a front
//!             ├── a relay of its own, with a front
//!             ├── connector, with an app
//!             └── agent
//! ```
//!
//! Each is scanned over IPv4 and IPv6 while it serves, after it was killed, and while it leaves in order
//! after it has come again; connector and agent with sockets at first, and then with network interfaces. UDP: not one packet leaves for the stranger, as what passes through the host
//! shows. TCP and other protocols: what the kernel says, which is what it says without us, but that a
//! front's port is open; and nothing is ever said on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use cardea_e2e::{
    capture::{Capture, Packet},
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
    scan::{SILENT, Scanner, Seen, finish, is_state, write_quick_probes},
    sockets::UdpOf,
    traffic::{WebServer, fetch},
};
use rustix::process::Signal;

#[test]
fn a_scanner_cannot_tell_whether_anything_of_ours_serves_was_killed_or_leaves() {
    if needs::root_and(&["ip", "nft", "sysctl", "nmap"]) {
        scanned().unwrap();
    }
}

fn scanned() -> Result<()> {
    let mut site = Site::new()?;
    let before = site.each(Host::by_other_protocols)?;
    site.start("nft")?;
    site.use_it()?;
    // Those to relays, too, which nodes open for their tunnels.
    let before_use: usize = site.hosts.iter().map(|host| host.open.len()).sum();
    site.note_ports()?;
    let in_use: usize = site.hosts.iter().map(|host| host.open.len()).sum();
    ensure!(in_use > before_use, "no tunnel has a socket of its own");
    site.each(Host::is_silent)?;
    let serving = site.each(Host::by_other_protocols)?;
    for (host, (before, seen)) in site.hosts.iter().zip(before.iter().zip(&serving)) {
        let expected = host.expected(before, host.has_front())?;
        host.is_as(&expected, seen)?;
    }
    site.each(Host::keeps_its_front_silent)?;
    site.use_it()?;

    site.end(Signal::KILL)?;
    site.each(Host::is_silent)?;
    let killed = site.each(Host::by_other_protocols)?;
    for (host, (before, seen)) in site.hosts.iter().zip(before.iter().zip(&killed)) {
        host.is_as(&host.expected(before, false)?, seen)?;
    }

    site.start("nft")?;
    site.leave_while_scanned()?;
    site.each(Host::is_silent)?;

    // What the scans looked for can be seen: without a guard silence stands out.
    site.remove_guards()?;
    site.start("none")?;
    site.each(Host::stands_out).map(drop)
}

/// The programs, in the order of their hosts.
const PROGRAMS: [&str; 4] = [
    "cardea-controller",
    "cardea-relay",
    "cardea-connector",
    "cardea",
];

/// The last number of the stranger's addresses.
const STRANGER: usize = 9;

const CHANNELS: u16 = 7_443;
const RELAYED: u16 = 7_444;

/// A UDP port that nobody has.
const NOBODYS: u16 = 4_009;

const PAGE: &str = "not for scanners\n";

/// The beginning of a TCP handshake, its middle, and other protocols.
const OTHERS: [&str; 3] = [
    "-sS -p 22,443,7443,7444",
    "-sA -p 443,7443,7444",
    "-sO -p 1,6,17,47",
];

/// Datagrams that nmap sends to a port to find it: two, and perhaps two of a protocol that it expects.
const FINDING: usize = 6;

/// Datagrams that every port gets at least, over both families: nmap knows 48 questions by UDP.
const PROBES: usize = 2 * 45;

/// The port of fronts, as a scanner names it.
const FRONT: &str = "443";

fn addresses(number: usize) -> [String; 2] {
    [format!("10.79.0.{number}"), format!("fd79::{number}")]
}

/// A host with a process of ours, and the stranger who scans it.
struct Host {
    program: &'static str,
    addresses: [String; 2],
    namespace: Namespace,
    stranger: Arc<Namespace>,
    /// The UDP ports that its process had open, now and before.
    ports: BTreeSet<u16>,
    /// Those that it has open.
    open: BTreeSet<u16>,
    capture: Capture,
    quick_probes: PathBuf,
}

/// What was seen of a host: by each scan, over IPv4 and over IPv6.
type Views = Vec<Vec<Seen>>;

impl Host {
    fn scanners(&self) -> [Scanner<'_>; 2] {
        self.addresses.each_ref().map(|target| Scanner {
            from: &self.stranger,
            target,
        })
    }

    /// All that a scanner asks of a UDP port, of every port that our process has or had, and another.
    fn udp_kind(&self) -> String {
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        format!(
            "-sU -sV --version-all --versiondb {} -p {NOBODYS},{}",
            self.quick_probes.display(),
            ports.join(",")
        )
    }

    /// No port of UDP is told from another, and nothing is sent to the stranger.
    fn is_silent(&self) -> Result<()> {
        self.capture.take()?;
        let scans = self.begin(&self.udp_kind())?;
        self.ends_silent(scans, Vec::new())
    }

    fn begin(&self, kind: &str) -> Result<Vec<Program>> {
        let scanners = self.scanners();
        scanners.iter().map(|scanner| scanner.begin(kind)).collect()
    }

    /// Waits until a scan is past finding ports, and asks each that is open, over both families, what is
    /// behind it; returns what has passed until then.
    fn hear_versions_asked(&self) -> Result<Vec<Packet>> {
        let deadline = now() + PATIENCE;
        let mut packets = Vec::new();
        loop {
            ensure!(now() < deadline, "{}: no scan", self.program);
            packets.extend(self.capture.wait(deadline)?);
            let asked = |address: &String, port: u16| {
                let to = |packet: &&Packet| {
                    packet.is_udp_to(port) && packet.to.ip().to_string() == *address
                };
                packets.iter().filter(to).count() > FINDING
            };
            let mut open = self.open.iter();
            if open.all(|port| self.addresses.iter().all(|address| asked(address, *port))) {
                return Ok(packets);
            }
        }
    }

    fn ends_silent(&self, scans: Vec<Program>, mut packets: Vec<Packet>) -> Result<()> {
        for scan in scans {
            let seen = finish(scan)?;
            let is_silent = seen.iter().all(|(_, said)| is_state(said, SILENT));
            ensure!(
                is_silent && seen.len() > self.ports.len(),
                "{}: {seen:?}",
                self.program
            );
        }
        packets.extend(self.capture.take()?);
        let mut asked: BTreeMap<u16, usize> = BTreeMap::new();
        for packet in packets.iter().filter(|packet| self.is_asked(packet)) {
            *asked.entry(packet.to.port()).or_default() += 1;
        }
        let is_asked = |port: &u16| asked.get(port).is_some_and(|count| *count >= PROBES);
        ensure!(self.ports.iter().all(is_asked), "only {asked:?} were asked");
        let mut answers = packets.iter().filter(|packet| is_for_stranger(packet));
        let answer = answers.next();
        ensure!(answer.is_none(), "{}: {answer:?}", self.program);
        Ok(())
    }

    fn is_asked(&self, packet: &Packet) -> bool {
        let to = packet.to.ip().to_string();
        packet.protocol == UDP && self.addresses.contains(&to) && is_of_stranger(packet.from.ip())
    }

    /// What is seen of it by other means than UDP.
    fn by_other_protocols(&self) -> Result<Views> {
        let of = |scanner: Scanner<'_>| OTHERS.iter().map(|kind| scanner.scan(kind)).collect();
        self.scanners().into_iter().map(of).collect()
    }

    /// What is to be seen of what was seen before there was anything of ours: the same, but that the
    /// guard hides whether there is UDP at all, and that a front's port is open while it serves.
    fn expected(&self, before: &Views, has_front: bool) -> Result<Views> {
        let mut expected = before.clone();
        let mut change = |scan: usize, port: &str, from: &str, to: &str| {
            for by_family in &mut expected {
                let seen = by_family.get_mut(scan).context("no scan")?;
                let row = seen.iter_mut().find(|(of, _)| of == port);
                let (_, said) = row.context("no such port")?;
                *said = said.replacen(from, to, 1);
            }
            anyhow::Ok(())
        };
        change(2, "17", "open/", "open|filtered/")?;
        if has_front {
            change(0, FRONT, "closed/", "open/")?;
        }
        Ok(expected)
    }

    fn is_as(&self, expected: &Views, seen: &Views) -> Result<()> {
        let is_same = seen == expected;
        ensure!(is_same, "{}: {expected:?}\nseen: {seen:?}", self.program);
        Ok(())
    }

    fn has_front(&self) -> bool {
        ["cardea-controller", "cardea-relay"].contains(&self.program)
    }

    /// Whatever a scanner says to a front, nothing is said to it.
    fn keeps_its_front_silent(&self) -> Result<()> {
        if !self.has_front() {
            return Ok(());
        }
        self.capture.take()?;
        let probes = self.quick_probes.display();
        let kind = format!("-sS -sV --version-all --versiondb {probes} -p {FRONT}");
        for scan in self.begin(&kind)? {
            let seen = finish(scan)?;
            let is_open = seen.iter().all(|(_, said)| is_state(said, "open"));
            ensure!(is_open && !seen.is_empty(), "{}: {seen:?}", self.program);
        }
        let packets = self.capture.take()?;
        let heard = |packet: &&Packet| is_of_stranger(packet.from.ip()) && says_something(packet);
        ensure!(packets.iter().any(|packet| heard(&packet)), "none asked");
        let mut answers = packets.iter().filter(|packet| is_for_stranger(packet));
        let said = answers.find(|packet| says_something(packet));
        ensure!(said.is_none(), "{}: {said:?}", self.program);
        Ok(())
    }

    /// Without a guard, what is silent is ours; a port that nobody has is closed.
    fn stands_out(&self) -> Result<()> {
        let ports: Vec<String> = self.open.iter().map(u16::to_string).collect();
        let kind = format!("-sU -p {NOBODYS},{}", ports.join(","));
        for scanner in self.scanners() {
            let seen = scanner.scan(&kind)?;
            let silent = seen.iter().filter(|(_, said)| is_state(said, SILENT));
            let silent: Vec<&String> = silent.map(|(port, _)| port).collect();
            let is_ours = silent.iter().all(|port| ports.contains(port));
            let stands_out = is_ours && !silent.is_empty();
            ensure!(stands_out, "{}: {seen:?}", self.program);
        }
        Ok(())
    }
}

/// Whether a TCP segment has bytes in it. Source: RFC 9293 §3.1.
fn says_something(packet: &Packet) -> bool {
    let words = packet.payload.get(12).map(|byte| usize::from(byte >> 4));
    packet.protocol == TCP && words.is_some_and(|words| packet.payload.len() > words * 4)
}

/// Whether it goes to the stranger, and says more than who has an address. Source: RFC 4861 §4.
fn is_for_stranger(packet: &Packet) -> bool {
    let kind = packet.payload.first();
    let finds_neighbors = packet.protocol == ICMPV6 && matches!(kind, Some(135 | 136));
    is_of_stranger(packet.to.ip()) && !finds_neighbors
}

fn is_of_stranger(address: IpAddr) -> bool {
    addresses(STRANGER).contains(&address.to_string())
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The hosts, and what runs on them.
struct Site {
    world: Deployment,
    hosts: Vec<Host>,
    /// The relay, the connector and the agent, when they run.
    running: Vec<Program>,
    _lan: Namespace,
}

impl Site {
    fn new() -> Result<Self> {
        let lan = Namespace::new("scanned", "lan")?;
        lan.ip("link add lan type bridge")?;
        lan.ip("link set lan up")?;
        let join = |name: &str, number: usize| {
            let host = Namespace::new("scanned", name)?;
            let [v4, v6] = addresses(number);
            let port = format!("port{number}");
            lan.link(
                &port,
                &format!("192.0.2.{number}/32"),
                &host,
                "wire",
                &format!("{v4}/24"),
            )?;
            lan.ip(&format!("link set {port} master lan"))?;
            host.ip(&format!("addr add {v6}/64 dev wire nodad"))?;
            // The host says all that it has to say, as often as it is asked.
            let talkative = ["net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"];
            run_ok(host.command("sysctl", ["-qw"].into_iter().chain(talkative)))?;
            anyhow::Ok(host)
        };
        let world = Deployment::new()?;
        let quick_probes = world.path("probes");
        write_quick_probes(&quick_probes)?;
        let stranger = Arc::new(join("stranger", STRANGER)?);
        let host = |(place, program): (usize, &'static str)| {
            let namespace = join(program, place + 1)?;
            anyhow::Ok(Host {
                program,
                addresses: addresses(place + 1),
                capture: Capture::of(&namespace)?,
                namespace,
                stranger: Arc::clone(&stranger),
                ports: BTreeSet::new(),
                open: BTreeSet::new(),
                quick_probes: quick_probes.clone(),
            })
        };
        let hosts = PROGRAMS.into_iter().enumerate().map(host);
        Ok(Self {
            hosts: hosts.collect::<Result<_>>()?,
            world,
            running: Vec::new(),
            _lan: lan,
        })
    }

    /// Does something with all hosts at once.
    fn each<T: Send>(&self, work: impl Fn(&Host) -> Result<T> + Sync) -> Result<Vec<T>> {
        thread::scope(|scope| {
            let work = &work;
            let begin = |host| scope.spawn(move || work(host));
            let begun: Vec<_> = self.hosts.iter().map(begin).collect();
            let ended = begun.into_iter().map(|work| work.join());
            ended
                .map(|result| result.ok().context("a scan panicked")?)
                .collect()
        })
    }

    /// Starts everything, for the first time or again, each with this guard: the nodes first with sockets, and
    /// later with network interfaces.
    fn start(&mut self, guard: &str) -> Result<()> {
        let [controller, relay, connector, agent] = &self.hosts[..] else {
            bail!("another number of hosts");
        };
        let relay = Self::start_relaying(&mut self.world, (controller, relay), guard)?;
        self.world.set_for_nodes("CARDEA_GUARD", guard);
        let facts = self.world.write_facts("laptop", GOOD_FACTS)?;
        let (connector_host, host) = (Some(&connector.namespace), Some(&agent.namespace));
        let nodes = if self.world.path("laptop").exists() {
            [
                self.world.run_kernel(connector_host, "con")?,
                self.world.run_interface(host, "laptop", &facts, &[])?,
            ]
        } else {
            let connector = self
                .world
                .start_connector(connector_host, "con", "default")?;
            let (user, facts) = ("alice@corp.example", Some(facts.as_path()));
            let agent = self
                .world
                .start_device(host, "laptop", user, "staff", facts)?;
            [connector, agent]
        };
        self.running = [relay].into_iter().chain(nodes).collect();
        self.note_ports()
    }

    /// Looks which UDP ports each process has open.
    fn note_ports(&mut self) -> Result<()> {
        let processes: Vec<u32> = [self.world.controller()?.id()]
            .into_iter()
            .chain(self.running.iter().map(Program::id))
            .collect();
        for (host, process) in self.hosts.iter_mut().zip(processes) {
            let sockets = host.namespace.within(|| UdpOf::process(process))?;
            host.open = sockets.iter().map(|socket| socket.local.port()).collect();
            ensure!(!host.open.is_empty(), "{} has no socket", host.program);
            host.ports.extend(&host.open);
        }
        Ok(())
    }

    /// Starts the controller, and the relay that stands by for its own.
    fn start_relaying(
        world: &mut Deployment,
        (controller, relay): (&Host, &Host),
        guard: &str,
    ) -> Result<Program> {
        let ([controller_address, _], [relay_address, _]) =
            (&controller.addresses, &relay.addresses);
        let guarded = ["--guard", guard, "--listen-tls", "[::]:443"];
        let standby = format!("{relay_address}:{RELAYED}");
        let more = [
            "--allow-simulated-posture",
            "--tls-address",
            relay_address,
            "--standby-relay",
            &standby,
        ];
        world.start_controller(&ControllerOptions {
            namespace: Some(&controller.namespace),
            address: controller_address,
            listen: Some("[::]"),
            port: CHANNELS,
            relay_port: RELAYED,
            more: &[&guarded[..], &more].concat(),
            ..Default::default()
        })?;
        let key = world.path("controller/keys/front.key");
        let key = key.display().to_string();
        let leads_to = format!("{controller_address}:{CHANNELS}");
        let more = ["--front-key", &key, "--controller", &leads_to];
        world.start_relay(
            Some(&relay.namespace),
            &format!("[::]:{RELAYED}"),
            &[&guarded[..], &more].concat(),
        )
    }

    /// The agent reaches the app beside the connector.
    fn use_it(&self) -> Result<()> {
        let [_, _, connector, agent] = &self.hosts[..] else {
            bail!("another number of hosts");
        };
        if !self.world.ctl("app ls")?.contains("web") {
            let serve = || WebServer::start("127.0.0.1:0", PAGE);
            let web = connector.namespace.within(serve)?.address;
            self.world.ctl(&format!(
                "app add web --target {web} --allow group:staff --allow-host-scoped"
            ))?;
        }
        let host = &agent.namespace;
        let (_forward, address) = self.world.forward(Some(host), "laptop", "web")?;
        let page = host.within(|| fetch(&address))?;
        ensure!(page == PAGE, "another page: {page}");
        Ok(())
    }

    /// Ends everything with this signal, all at once.
    fn end(&mut self, signal: Signal) -> Result<()> {
        self.world.controller()?.signal(signal)?;
        for program in &self.running {
            program.signal(signal)?;
        }
        self.world.controller()?.wait()?;
        for program in &mut self.running {
            program.wait()?;
        }
        self.running.clear();
        Ok(())
    }

    /// Has everything leave in order in the middle of a scan.
    fn leave_while_scanned(&mut self) -> Result<()> {
        let begin = |host: &Host| {
            host.capture.take()?;
            let scans = host.begin(&host.udp_kind())?;
            Ok((scans, host.hear_versions_asked()?))
        };
        let begun = self.each(begin)?;
        self.end(Signal::TERM)?;
        for (host, (scans, packets)) in self.hosts.iter().zip(begun) {
            host.ends_silent(scans, packets)?;
        }
        Ok(())
    }

    /// Each program takes the guard of its host away; a second time there is none.
    fn remove_guards(&self) -> Result<()> {
        for host in &self.hosts {
            for expected in ["is removed", "was no"] {
                let words = ["guard", "remove"];
                let remove = self
                    .world
                    .program(Some(&host.namespace), host.program, words);
                let output = run(remove)?;
                let said = [output.stdout, output.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                ensure!(said.contains(expected), "{}: {said}", host.program);
            }
        }
        Ok(())
    }
}
