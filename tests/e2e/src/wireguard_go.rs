//! WireGuard as others implement it: processes that take their settings over a socket of their own.
//!
//! Source: <https://www.wireguard.com/xplatform/>, the configuration protocol.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::program::{PATIENCE, Program, now};

/// Starts what `command` says, which makes `interface` in the foreground, and gives it `settings`.
///
/// The name of the interface is that of a file all over the machine, whatever its namespace.
///
/// # Errors
/// When it does not start, or refuses its settings.
pub fn start(name: &str, mut command: Command, interface: &str, settings: &str) -> Result<Program> {
    command.arg(interface);
    command.env("WG_PROCESS_FOREGROUND", "1");
    let mut running = Program::start(name, command)?;
    let path = format!("/var/run/wireguard/{interface}.sock");
    let deadline = now() + PATIENCE;
    let mut stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(error) if now() > deadline || !running.is_alive()? => {
                return Err(error).with_context(|| format!("{name}: {}", running.said()));
            }
            Err(_) => std::thread::yield_now(),
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(settings.as_bytes())?;
    let mut answer = [0; 256];
    let len = stream.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..len).unwrap_or_default()).into_owned();
    ensure!(answer.contains("errno=0"), "{name}: {answer}");
    Ok(running)
}
