//! Applications as the distribution ships them, which know nothing of us.

use std::{fs, path::Path};

use anyhow::Result;

use crate::{namespace::Namespace, program::Program};

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

/// Starts dnsmasq on `host` as the name server at `listen`, with nothing to say but what `answers`
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
