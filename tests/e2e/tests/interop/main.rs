//! Our WireGuard carrier with `wireguard-go` at the other end, which knows nothing of us.
//!
//! ```text
//!  bytes ── flow ── Tunnels ── shim ── UDP socket ══ veth ══ wireguard-go ── its interface ── TCP of the kernel
//! ```
//!
//! Our end has what an `Install` gives it, with keys as both ends of a grant make them. The shim is what a
//! relay is to it: see [`ours`]. Nothing of WireGuard is translated.

#![expect(
    clippy::disallowed_types,
    reason = "end-to-end tests use sockets as any application does"
)]

mod ours;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use cardea_e2e::{
    namespace::Namespace,
    needs,
    program::{PATIENCE, Program, now},
    wireguard_go,
};
use cardea_proto::codec::Secret32;
use cardea_tunnel::{CarrierKeys, End, keys};
use data_encoding::HEXLOWER;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use self::ours::{APP, DEVICE, Heard, Ours, Work};

/// From our end to the other.
const GIGABYTE: u64 = 1_000_000_000;

/// What is enough where one session is.
const SOME: u64 = 50_000_000;

/// How much later it is at our end when all bytes have passed: keys are renewed every two minutes
/// (the WireGuard paper, §6.1), which happens twice meanwhile, however fast the machine is.
const WHOLE_TIME: Duration = Duration::from_secs(270);

/// How long a test may take, on a machine that does much else.
const TIME_MAX: Duration = Duration::from_secs(300);

const THEIR_PORT: u16 = 51_820;

#[test]
fn our_end_begins_and_moves_a_gigabyte_through_three_sessions() {
    if needs::root_and(&["ip", "wireguard-go"]) {
        begin_and_renew().unwrap();
    }
}

#[test]
fn our_end_answers_one_that_begins() {
    if needs::root_and(&["ip", "wireguard-go"]) {
        answer().unwrap();
    }
}

/// An agent's end begins every handshake, so that this one alone renews keys.
fn begin_and_renew() -> Result<()> {
    let world = World::new("begin", End::Agent)?;
    let heard = world.move_bytes(&Work {
        there: GIGABYTE,
        back: SOME,
        whole_time: WHOLE_TIME,
    })?;
    ensure!(heard.begun >= 3, "keys are not renewed: {heard:?}");
    ensure!(
        heard.answered_there >= 3,
        "handshakes are not answered: {heard:?}"
    );
    ensure!(heard.begun_there == 0, "the other end began one: {heard:?}");
    // What the other end calls a session stands in each datagram.
    ensure!(heard.sessions.len() >= 3, "not all are used: {heard:?}");
    Ok(())
}

/// A connector's end waits. It finds its tunnel by the relay's header and takes the first handshake of
/// whoever has the keys, but later ones only under a greater index than the last, as our agents choose
/// them (`ARCHITECTURE.md`): one that chooses as the paper does may have to try again.
fn answer() -> Result<()> {
    let world = World::new("answer", End::Connector)?;
    let heard = world.move_bytes(&Work {
        there: SOME,
        back: SOME,
        whole_time: Duration::ZERO,
    })?;
    ensure!(heard.begun_there >= 1, "nobody began: {heard:?}");
    ensure!(heard.begun == 0, "we began: {heard:?}");
    ensure!(heard.sessions.len() == 1, "{heard:?}");
    Ok(())
}

/// Two hosts, and a stock end of WireGuard on one of them.
struct World {
    end: End,
    keys: CarrierKeys,
    wireguard_go: Program,
    // After what runs on them.
    ours: Namespace,
    theirs: Namespace,
}

impl World {
    /// Our end is `end`, theirs the other one.
    fn new(test: &str, end: End) -> Result<Self> {
        let ours = Namespace::new(test, "ours")?;
        let theirs = Namespace::new(test, "theirs")?;
        ours.link("eth", "192.0.2.1/24", &theirs, "eth", "192.0.2.2/24")?;
        let grant = Grant::new()?;
        let (keys, private, peer, (here, there)) = match end {
            End::Agent => (
                grant.agent(),
                &grant.connector.private,
                &grant.agent.public,
                (APP, DEVICE),
            ),
            End::Connector => (
                grant.connector(),
                &grant.agent.private,
                &grant.connector.public,
                (DEVICE, APP),
            ),
        };
        let address = |octets: [u8; 4]| Ipv4Addr::from(octets);
        let (here, there) = (address(here), address(there));
        let settings = format!(
            "set=1\nprivate_key={}\nlisten_port={THEIR_PORT}\npublic_key={}\npreshared_key={}\n\
             endpoint={}\nreplace_allowed_ips=true\nallowed_ip={there}/32\n\n",
            HEXLOWER.encode(&private.0),
            HEXLOWER.encode(&peer.0),
            HEXLOWER.encode(&grant.psk.0),
            ours::ADDRESS,
        );
        let interface = format!("w{}{}", &test[..1], std::process::id());
        let command = theirs.command("wireguard-go", ["-f"]);
        let running = wireguard_go::start("wireguard-go", command, &interface, &settings)?;
        theirs.ip(&format!("addr add {here}/32 dev {interface}"))?;
        theirs.ip(&format!("link set {interface} mtu 1420 up"))?;
        theirs.ip(&format!("route add {there}/32 dev {interface}"))?;
        Ok(Self {
            end,
            keys,
            wireguard_go: running,
            ours,
            theirs,
        })
    }

    /// Moves all bytes of `work` in one conversation over TCP, and looks at each.
    fn move_bytes(&self, work: &Work) -> Result<Heard> {
        let (ready, is_ready) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let moved = self.theirs.within(|| {
                    let stream = Kernel::of(self.end, &ready)?;
                    stream.move_bytes(work)
                });
                drop(done.send(moved));
            });
            let peer = SocketAddr::new([192, 0, 2, 2].into(), THEIR_PORT);
            self.ours.within(move || {
                // An app listens before somebody opens a flow to it.
                is_ready.recv().context("the other end does not start")?;
                let deadline = now() + TIME_MAX;
                let mut ours = Ours::new(self.end, self.keys.clone(), peer)?;
                while !ours.turn(work)? {
                    ensure!(now() < deadline, "it takes too long: {ours:?}");
                    if let Ok(moved) = is_done.try_recv() {
                        moved.with_context(|| format!("the other end; {ours:?}"))?;
                    }
                }
                Ok(ours.heard().clone())
            })
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // When it is asked to end, it takes the file of its socket away.
        drop(self.wireguard_go.stop());
    }
}

/// What two ends make for a grant, each its part.
struct Grant {
    agent: keys::WireGuardKey,
    connector: keys::WireGuardKey,
    psk: Secret32,
}

impl Grant {
    fn new() -> Result<Self> {
        let kem = keys::KemKey::generate([1; 32]);
        let (ciphertext, psk) = keys::encapsulate(&kem.public(), [2; 32])?;
        ensure!(kem.open(&ciphertext)? == psk, "two secrets");
        Ok(Self {
            agent: keys::WireGuardKey::generate([3; 32]),
            connector: keys::WireGuardKey::generate([4; 32]),
            psk,
        })
    }

    fn agent(&self) -> CarrierKeys {
        CarrierKeys::WireGuard {
            private: self.agent.private.clone(),
            peer: self.connector.public,
            psk: self.psk.clone(),
        }
    }

    fn connector(&self) -> CarrierKeys {
        CarrierKeys::WireGuard {
            private: self.connector.private.clone(),
            peer: self.agent.public,
            psk: self.psk.clone(),
        }
    }
}

/// The conversation behind the other end, by its kernel's TCP.
struct Kernel(TcpStream);

impl Kernel {
    /// The app that our agent reaches, or a program on the device that reaches ours.
    fn of(ours: End, ready: &mpsc::Sender<()>) -> Result<Self> {
        let at = SocketAddr::new(APP.into(), ours::PORT);
        let stream = match ours {
            End::Agent => {
                let listener = TcpListener::bind(at)?;
                // It holds for who comes to it as well (socket(7)).
                set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE))?;
                ready.send(())?;
                listener.accept()?.0
            }
            End::Connector => {
                ready.send(())?;
                TcpStream::connect_timeout(&at, PATIENCE)?
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn move_bytes(&self, work: &Work) -> Result<()> {
        thread::scope(|scope| {
            let writes = scope.spawn(|| self.write(work.back));
            self.read(work.there)?;
            writes.join().map_err(|_| anyhow!("it panicked"))?
        })
    }

    fn write(&self, count: u64) -> Result<()> {
        let mut pattern = ours::Pattern::default();
        while pattern.at < count {
            let part = pattern.next(count);
            (&self.0).write_all(&part)?;
        }
        Ok(self.0.shutdown(Shutdown::Write)?)
    }

    fn read(&self, count: u64) -> Result<()> {
        let mut pattern = ours::Pattern::default();
        let mut room = vec![0; 256 * 1024];
        loop {
            let len = (&self.0).read(&mut room)?;
            if len == 0 {
                break;
            }
            pattern.check(room.get(..len).unwrap_or_default())?;
        }
        ensure!(pattern.at == count, "{} bytes of {count}", pattern.at);
        Ok(())
    }
}
