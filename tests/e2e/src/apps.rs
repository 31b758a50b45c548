//! Applications as the distribution ships them, which know nothing of us.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    namespace::Namespace,
    program::{Program, command, run_ok},
};

/// Starts nginx on `host` at the addresses of `listen`; it serves the files of `pages` from `folder`.
///
/// # Errors
/// When it is not installed or does not start.
pub fn nginx(
    host: &Namespace,
    folder: &Path,
    listen: &[&str],
    pages: &[(&str, &str)],
) -> Result<Program> {
    fs::create_dir_all(folder)?;
    for (name, text) in pages {
        fs::write(folder.join(name), text)?;
    }
    let shown = folder.display();
    let listen: String = listen
        .iter()
        .map(|address| format!("listen {address}; "))
        .collect();
    let configuration = format!(
        "pid {shown}/pid; error_log stderr notice; daemon off; user root;\nevents {{}}\n\
         http {{ access_log off; server {{ {listen}root {shown}; }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = host.command("nginx", ["-c".into(), file]);
    command.arg("-e").arg("stderr");
    let mut nginx = Program::start("nginx", command)?;
    nginx.wait_for("start worker process")?;
    Ok(nginx)
}

/// Starts dnsmasq on `host` as the name server at `listen`, with commas between them, with nothing to say but what `answers`
/// gives it: `--address` or `--addn-hosts`.
///
/// # Errors
/// When it is not installed or does not start.
pub fn dnsmasq(host: &Namespace, listen: &str, answers: &str) -> Result<Program> {
    let listen = format!("--listen-address={listen}");
    let arguments = [
        "--no-daemon",
        "--no-resolv",
        "--no-hosts",
        "--conf-file=/dev/null",
        "--user=root",
        "--bind-interfaces",
        "--log-facility=-",
        &listen,
        answers,
    ];
    let mut dnsmasq = Program::start("dnsmasq", host.command("dnsmasq", arguments))?;
    dnsmasq.wait_for("started")?;
    Ok(dnsmasq)
}

/// Starts PostgreSQL on `host` at the addresses `listen`, with commas between them, with a new database in `folder` that everybody may
/// use.
///
/// # Errors
/// When it is not installed or does not start.
pub fn postgresql(host: &Namespace, folder: &Path, listen: &str) -> Result<Program> {
    let binaries = newest_postgresql()?;
    give_to_postgres(folder)?;
    let data = folder.join("data").display().to_string();
    let as_user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"].map(String::from);
    let initdb = binaries.join("initdb").display().to_string();
    let words =
        as_user
            .clone()
            .into_iter()
            .chain([initdb, "-A".into(), "trust".into(), "-D".into()]);
    run_ok(command("setpriv", words.chain([data.clone()])))?;
    fs::write(
        format!("{data}/pg_hba.conf"),
        "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n",
    )?;
    let server = binaries.join("postgres").display().to_string();
    let quiet = "logging_collector=off";
    let more = ["-D", &data, "-h", listen, "-k", "", "-c", quiet];
    let words = as_user
        .into_iter()
        .chain([server])
        .chain(more.map(String::from));
    let mut postgresql = Program::start("postgres", host.command("setpriv", words))?;
    postgresql.wait_for("ready to accept connections")?;
    Ok(postgresql)
}

/// The newest installed server's folder of programs.
fn newest_postgresql() -> Result<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")?
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    versions.sort();
    versions.pop().context("PostgreSQL is not installed")
}

/// Makes a folder that the database's own user may enter, which the deployment's is not.
fn give_to_postgres(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    run_ok(command(
        "chown",
        ["postgres:".into(), folder.as_os_str().to_owned()],
    ))?;
    let parent = folder.parent().context("a folder has a parent")?;
    run_ok(command(
        "chmod",
        ["711".into(), parent.as_os_str().to_owned()],
    ))
    .map(drop)
}

/// Starts OpenSSH on `host` at the addresses `listen`, with commas between them; root enters with the key `folder/key`.
///
/// # Errors
/// When it is not installed or does not start.
pub fn sshd(host: &Namespace, folder: &Path, listen: &str) -> Result<Program> {
    fs::create_dir_all(folder)?;
    // Where the server leaves what is not root's any more.
    fs::create_dir_all("/run/sshd")?;
    let shown = folder.display();
    for key in ["key", "host"] {
        let file = folder.join(key).into_os_string();
        let words = ["-q", "-t", "ed25519", "-N", "", "-f"].map(Into::into);
        run_ok(command("ssh-keygen", words.into_iter().chain([file])))?;
    }
    let listen: String = listen
        .split(',')
        .map(|address| format!("ListenAddress {address}\n"))
        .collect();
    let configuration = format!(
        "{listen}HostKey {shown}/host\nAuthorizedKeysFile {shown}/key.pub\n\
         PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nUseDNS no\n\
         Subsystem sftp internal-sftp\n"
    );
    let file = folder.join("sshd_config");
    fs::write(&file, configuration)?;
    let mut command = host.command("/usr/sbin/sshd", ["-D", "-e", "-f"]);
    command.arg(file);
    let mut sshd = Program::start("sshd", command)?;
    sshd.wait_for("Server listening on")?;
    Ok(sshd)
}

/// Starts the server of iperf3 on `host`, at all of its addresses and its usual port.
///
/// # Errors
/// When it is not installed or does not start.
pub fn iperf3(host: &Namespace) -> Result<Program> {
    let command = host.command("iperf3", ["--server", "--forceflush"]);
    let mut iperf3 = Program::start("iperf3", command)?;
    iperf3.wait_for("Server listening")?;
    Ok(iperf3)
}
