//! A program that asks for what it may not have hears of it at once, from its own system.
//!
//! ```text
//!  laptop (interface) ── controller + relay + connector + app
//! ```

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
    program::{PATIENCE, now, run, run_ok},
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

fn be_refused() -> Result<()> {
    let laptop = Namespace::new("refused", "laptop")?;
    let site = Namespace::new("refused", "site")?;
    laptop.link("lan", "192.168.1.2/24", &site, "lan", "192.168.1.1/24")?;
    laptop.route("192.168.1.1")?;
    site.ip("addr add 10.9.1.10/32 dev lan")?;
    let mut world = Deployment::new()?;
    let page = [("index.html", "page\n")];
    let _nginx = apps::nginx(&site, &world.path("nginx"), &["192.168.1.1:80"], &page)?;
    world.start_controller(&ControllerOptions {
        namespace: Some(&site),
        address: "192.168.1.1",
        port: 7443,
        relay_port: 7444,
        more: &["--allow-simulated-posture"],
        ..Default::default()
    })?;
    let target = "--target 192.168.1.1:80 --target 192.168.1.1:53/udp --allow-host-scoped";
    for app in ["wiki", "spare"] {
        world.ctl(&format!("app add {app} {target} --allow group:staff"))?;
    }
    let _connector = world.start_connector(Some(&site), "connector", "default")?;
    let facts = world.write_facts("laptop", GOOD_FACTS)?;
    let user = ("alice@corp.example", "staff");
    let _laptop = world.start_interface(Some(&laptop), "laptop", user, &facts, &[])?;
    let status = |app: &str| -> Result<serde_json::Value> {
        let said = run_ok(world.cardea(Some(&laptop), "laptop", "status -o json"))?;
        let status: serde_json::Value = serde_json::from_str(&said)?;
        let apps = status.get("apps").and_then(|apps| apps.as_array());
        let mut apps = apps.context("no apps")?.iter();
        let found = apps.find(|one| one.get("name").is_some_and(|name| name == app));
        Ok(found.context("no such app")?.clone())
    };
    let addresses = |app: &str| -> Result<Vec<String>> {
        let deadline = now() + PATIENCE;
        loop {
            let at = status(app)
                .ok()
                .and_then(|app| app.get("addresses").cloned());
            let at = at.and_then(|at| serde_json::from_value::<Vec<String>>(at).ok());
            if let Some(at) = at.filter(|at| at.len() == 2) {
                return Ok(at);
            }
            ensure!(now() < deadline, "no addresses");
        }
    };
    let wiki = addresses("wiki")?;
    let [v4, v6] = &wiki[..] else {
        anyhow::bail!("{wiki:?}")
    };
    let connect = |address: &str, port: u16| laptop.within(|| connect(address, port));
    let ask = |address: &str, port: u16| laptop.within(|| ask(address, port));

    // What it may have, and a port that the app does not have.
    let mut held = connect(v4, 80)?.context("the app is not reached")?;
    for address in [v4, v6] {
        refused(
            AT_ONCE,
            "no such port",
            || connect(address, 81),
            &[ErrorKind::ConnectionRefused],
        )?;
        let error = within(AT_ONCE, || ask(address, 54))?;
        ensure!(
            error == ErrorKind::ConnectionRefused,
            "UDP, no such port: {error:?}"
        );
    }

    // Somebody takes it away: what is under way is cut, what begins is refused.
    world.ctl("disallow group:staff wiki --yes")?;
    held.set_read_timeout(Some(PATIENCE))?;
    let deadline = now() + PATIENCE;
    let cut = loop {
        let wrote = held.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let read = wrote.and_then(|_| held.read(&mut [0; 4_096]));
        match read {
            Err(error) => break error.kind(),
            Ok(0) => break ErrorKind::ConnectionReset,
            Ok(_) => ensure!(now() < deadline, "it is served on"),
        }
    };
    ensure!(
        matches!(cut, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "cut with {cut:?}"
    );
    for address in [v4, v6] {
        refused(
            AT_ONCE,
            "denied",
            || connect(address, 80),
            &[ErrorKind::ConnectionRefused],
        )?;
        let error = within(AT_ONCE, || ask(address, 53))?;
        let kinds = [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied];
        ensure!(kinds.contains(&error), "UDP, denied: {error:?}");
        let ping = laptop.command("ping", ["-c", "1", "-W", "5", address]);
        let ping = within(AT_ONCE, || run(ping))?;
        let said = String::from_utf8_lossy(&ping.stdout).into_owned();
        let is_told = said.contains("filtered") || said.contains("prohibited");
        ensure!(!ping.status.success() && is_told, "{said}");
    }
    let denied = status("wiki")?;
    let why = denied
        .get("why")
        .and_then(|why| why.as_str())
        .unwrap_or_default();
    ensure!(
        denied.get("state").is_some_and(|state| state == "denied"),
        "{denied}"
    );
    ensure!(why.contains("no rule permits"), "{why}");

    // Nobody is there to ask: unreachable, which is not a no.
    world.ctl("allow group:staff wiki")?;
    let spare = addresses("spare")?;
    world.stop_controller()?;
    for address in &spare {
        let kinds = [ErrorKind::HostUnreachable];
        refused(SOON, "no controller", || connect(address, 80), &kinds)?;
        let error = within(SOON, || ask(address, 53))?;
        ensure!(
            error == ErrorKind::HostUnreachable,
            "UDP, no controller: {error:?}"
        );
    }
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
