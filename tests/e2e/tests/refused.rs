//! A program that asks for what it may not have hears of it at once, from its own system.
//!
//! ```text
//!  laptop (interface) ── controller + relay + connector + app
//! ```
#![expect(
    clippy::disallowed_types,
    reason = "a test is a program like any other"
)]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use cardea_e2e::{
    apps,
    deployment::{ControllerOptions, Deployment, GOOD_FACTS},
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now, run, run_ok},
};

/// How long a program may wait that is told at once.
const AT_ONCE: Duration = Duration::from_secs(2);

/// How long one may wait that is told as soon as no controller is found.
const SOON: Duration = Duration::from_secs(8);

#[test]
fn a_denied_program_is_told_at_once_and_the_status_says_why() {
    if needs::root_and(&["ip", "nginx", "ping"]) {
        be_refused().unwrap();
    }
}

/// What runs.
struct World {
    laptop: Namespace,
    deployment: Deployment,
    _programs: Vec<Program>,
    // After what runs inside it.
    _site: Namespace,
}

fn be_refused() -> Result<()> {
    let mut world = World::new()?;
    let wiki = world.addresses("wiki")?;
    let held = world.have(&wiki)?;
    world.deployment.ctl("disallow group:staff wiki --yes")?;
    be_cut(held)?;
    world.be_denied(&wiki)?;
    world.be_unreachable()
}

impl World {
    fn new() -> Result<Self> {
        let laptop = Namespace::new("refused", "laptop")?;
        let site = Namespace::new("refused", "site")?;
        laptop.link("lan", "192.168.1.2/24", &site, "lan", "192.168.1.1/24")?;
        // Whatever the interface does not take leaves here, and nobody answers it.
        laptop.route("192.168.1.1")?;
        let mut deployment = Deployment::new()?;
        let page = [("index.html", "page\n")];
        let nginx = apps::nginx(&site, &deployment.path("nginx"), &["192.168.1.1:80"], &page)?;
        deployment.start_controller(&ControllerOptions::on(&site, "192.168.1.1"))?;
        let target = "--target 192.168.1.1:80 --target 192.168.1.1:53/udp --allow-host-scoped";
        for app in ["wiki", "spare"] {
            deployment.ctl(&format!("app add {app} {target} --allow group:staff"))?;
        }
        let connector = deployment.start_connector(Some(&site), "connector", "default")?;
        let facts = deployment.write_facts("laptop", GOOD_FACTS)?;
        let user = ("alice@corp.example", "staff");
        let agent = deployment.start_interface(Some(&laptop), "laptop", user, &facts, &[])?;
        Ok(Self {
            laptop,
            deployment,
            _programs: vec![nginx, connector, agent],
            _site: site,
        })
    }

    fn status(&self, app: &str) -> Result<serde_json::Value> {
        let line = "status -o json";
        let said = run_ok(self.deployment.cardea(Some(&self.laptop), "laptop", line))?;
        let status: serde_json::Value = serde_json::from_str(&said)?;
        let apps = status.get("apps").and_then(|apps| apps.as_array());
        let mut apps = apps.context("no apps")?.iter();
        let found = apps.find(|one| one.get("name").is_some_and(|name| name == app));
        Ok(found.context("no such app")?.clone())
    }

    /// Of both families.
    fn addresses(&self, app: &str) -> Result<Vec<String>> {
        let deadline = now() + PATIENCE;
        loop {
            let status = self.status(app).ok();
            let at = status.and_then(|app| app.get("addresses").cloned());
            let at = at.and_then(|at| serde_json::from_value::<Vec<String>>(at).ok());
            if let Some(at) = at.filter(|at| at.len() == 2) {
                return Ok(at);
            }
            ensure!(now() < deadline, "no addresses");
        }
    }

    fn connect(&self, address: &str, port: u16) -> Result<std::io::Result<TcpStream>> {
        self.laptop.within(|| connect(address, port))
    }

    fn ask(&self, address: &str, port: u16) -> Result<ErrorKind> {
        self.laptop.within(|| ask(address, port))
    }

    /// What it may have is there, and no port that the app does not have.
    fn have(&self, addresses: &[String]) -> Result<TcpStream> {
        let first = addresses.first().context("no address")?;
        let held = self.connect(first, 80)?.context("the app is not reached")?;
        for address in addresses {
            let kinds = [ErrorKind::ConnectionRefused];
            refused(
                AT_ONCE,
                "no such port",
                || self.connect(address, 81),
                &kinds,
            )?;
            let error = within(AT_ONCE, || self.ask(address, 54))?;
            ensure!(kinds.contains(&error), "UDP, no such port: {error:?}");
        }
        Ok(held)
    }

    /// What begins is refused, and the status says why.
    fn be_denied(&self, addresses: &[String]) -> Result<()> {
        for address in addresses {
            let kinds = [ErrorKind::ConnectionRefused];
            refused(AT_ONCE, "denied", || self.connect(address, 80), &kinds)?;
            let error = within(AT_ONCE, || self.ask(address, 53))?;
            let kinds = [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied];
            ensure!(kinds.contains(&error), "UDP, denied: {error:?}");
            let words = ["-c", "1", "-W", "5", address];
            let ping = within(AT_ONCE, || run(self.laptop.command("ping", words)))?;
            let said = String::from_utf8_lossy(&ping.stdout).into_owned();
            let is_told = said.contains("filtered") || said.contains("prohibited");
            ensure!(!ping.status.success() && is_told, "{said}");
        }
        let denied = self.status("wiki")?;
        let why = denied.get("why").and_then(|why| why.as_str());
        let is_denied = denied.get("state").is_some_and(|state| state == "denied");
        ensure!(
            is_denied && why.is_some_and(|why| why.contains("no rule permits")),
            "{denied}"
        );
        Ok(())
    }

    /// Nobody is there to ask: unreachable, which is not a no. Over UDP a system keeps that to itself
    /// (RFC 1122 §4.1.3.3), as who sends on may get there.
    fn be_unreachable(&mut self) -> Result<()> {
        let spare = self.addresses("spare")?;
        self.deployment.stop_controller()?;
        for address in &spare {
            let kinds = [ErrorKind::HostUnreachable];
            refused(SOON, "no controller", || self.connect(address, 80), &kinds)?;
        }
        Ok(())
    }
}

/// What is under way is cut.
fn be_cut(mut held: TcpStream) -> Result<()> {
    held.set_read_timeout(Some(PATIENCE))?;
    let deadline = now() + PATIENCE;
    let cut = loop {
        let wrote = held.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        match wrote.and_then(|_| held.read(&mut [0; 4_096])) {
            Err(error) => break error.kind(),
            Ok(0) => break ErrorKind::ConnectionReset,
            Ok(_) => ensure!(now() < deadline, "it is served on"),
        }
    };
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    ensure!(kinds.contains(&cut), "cut with {cut:?}");
    Ok(())
}

fn connect(address: &str, port: u16) -> Result<std::io::Result<TcpStream>> {
    let to = SocketAddr::new(address.parse()?, port);
    Ok(TcpStream::connect_timeout(&to, PATIENCE))
}

/// Sends a datagram, and says with what error it was answered.
fn ask(address: &str, port: u16) -> Result<ErrorKind> {
    let to = SocketAddr::new(address.parse()?, port);
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"?")?;
    let heard = socket.recv(&mut [0; 64]);
    Ok(heard.err().context("it was answered")?.kind())
}

fn refused(
    time: Duration,
    what: &str,
    connect: impl FnOnce() -> Result<std::io::Result<TcpStream>>,
    kinds: &[ErrorKind],
) -> Result<()> {
    let error = within(time, connect)?.err().context("it was accepted")?;
    ensure!(kinds.contains(&error.kind()), "{what}: {error}");
    Ok(())
}

fn within<T>(time: Duration, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = now();
    let done = work()?;
    let took = now().saturating_duration_since(begin);
    ensure!(took < time, "it took {took:?}");
    Ok(done)
}
