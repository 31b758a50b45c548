//! The contestants of a TCP port forward: nothing between, haproxy with mutual TLS, `ssh -L`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use cardea_e2e::program::{PATIENCE, Program, command, now, run_ok};

/// A running peer, and where its near end listens.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As it is called in the report.
    pub(crate) name: &'static str,
    /// Where clients connect.
    pub(crate) address: String,
    _programs: Vec<Program>,
    _folder: Option<tempfile::TempDir>,
}

impl Peer {
    /// No forward at all: the limit.
    pub(crate) fn direct(source: SocketAddr) -> Self {
        Self {
            name: "direct",
            address: source.to_string(),
            _programs: Vec::new(),
            _folder: None,
        }
    }

    /// Two haproxy processes with TLS 1.3 and certificates on both sides between them.
    ///
    /// # Errors
    /// When haproxy or openssl is not installed or does not start.
    pub(crate) fn haproxy(source: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificate = certificate(folder.path())?;
        let shown = certificate.display();
        let (near, far) = (free_port()?, free_port()?);
        let tls = "ssl-min-ver TLSv1.3";
        let far_side = format!(
            "bind 127.0.0.1:{far} ssl crt {shown} ca-file {shown} verify required {tls}\n  server app {source}"
        );
        let near_side = format!(
            "bind 127.0.0.1:{near}\n  server far 127.0.0.1:{far} ssl crt {shown} ca-file {shown} verify required {tls}"
        );
        let programs = [("far", far_side), ("near", near_side)].into_iter().map(|(name, side)| {
            let text = format!(
                "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                 timeout client 60s\n  timeout server 60s\nlisten {name}\n  {side}\n"
            );
            let file = folder.path().join(format!("{name}.cfg"));
            fs::write(&file, text)?;
            Program::start("haproxy", command("haproxy", ["-db".into(), "-f".into(), file]))
        });
        let programs = programs.collect::<Result<Vec<_>>>()?;
        let address = format!("127.0.0.1:{near}");
        wait_until_it_answers(&address)?;
        Ok(Self {
            name: "haproxy mTLS",
            address,
            _programs: programs,
            _folder: Some(folder),
        })
    }

    /// A daemon and a client of OpenSSH with a local forward.
    ///
    /// # Errors
    /// When OpenSSH is not installed or does not start.
    pub(crate) fn ssh(source: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        let shown = key.display().to_string();
        run_ok(command(
            "ssh-keygen",
            ["-q", "-t", "ed25519", "-N", "", "-f", &shown],
        ))?;
        fs::create_dir_all("/run/sshd").context("sshd needs /run/sshd")?;
        let (near, daemon_port) = (free_port()?, free_port()?);
        let configuration = format!(
            "Port {daemon_port}\nListenAddress 127.0.0.1\nHostKey {shown}\nAuthorizedKeysFile {shown}.pub\n\
             StrictModes no\nUsePAM no\nPidFile none\nMaxSessions 1000\nMaxStartups 1000\n"
        );
        let file = folder.path().join("sshd_config");
        fs::write(&file, configuration)?;
        let file = file.display().to_string();
        let mut daemon =
            Program::start("sshd", command("/usr/sbin/sshd", ["-D", "-e", "-f", &file]))?;
        daemon.wait_for("Server listening")?;
        let forward = format!("127.0.0.1:{near}:{source}");
        let port = daemon_port.to_string();
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ];
        let options = options.into_iter().flat_map(|option| ["-o", option]);
        let fixed = ["-N", "-i", &shown, "-p", &port, "-L", &forward, "127.0.0.1"];
        let client = Program::start("ssh", command("ssh", options.chain(fixed)))?;
        let address = format!("127.0.0.1:{near}");
        wait_until_it_answers(&address)?;
        Ok(Self {
            name: "ssh -L",
            address,
            _programs: vec![daemon, client],
            _folder: Some(folder),
        })
    }
}

/// A self-signed P-256 certificate with its key in one file, which both sides present and trust.
fn certificate(folder: &Path) -> Result<PathBuf> {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=bench",
        "-keyout",
    ];
    let mut openssl = command("openssl", words);
    openssl.arg(&key).arg("-out").arg(&certificate);
    run_ok(openssl)?;
    let both = folder.join("both.pem");
    fs::write(&both, [fs::read(&certificate)?, fs::read(&key)?].concat())?;
    Ok(both)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}

/// Fetches one byte until that works; a peer says nothing when it is ready.
fn wait_until_it_answers(address: &str) -> Result<()> {
    let deadline = now() + PATIENCE;
    let mut answered = false;
    while !answered && now() < deadline {
        answered = crate::load::bulk(address, 1).is_ok();
        std::thread::yield_now();
    }
    ensure!(answered, "{address} does not answer");
    Ok(())
}
