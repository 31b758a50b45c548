//! Processes: started with their output captured, awaited by what they say, ended by id.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to say what is awaited of it. Debug builds on two busy cores are slow.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How the addresses begin that programs print.
const LOOPBACK: &str = "127.0.0.1:";

/// A running program of which every line is kept.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Arc<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    said: Mutex<Vec<String>>,
    more: Condvar,
}

impl Program {
    /// Starts `command` with both outputs captured.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        Self::start_with(name, command, Stdio::null())
    }

    /// Starts `command`, which reads `stdin`, with both outputs captured.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_with(name: &str, mut command: Command, stdin: Stdio) -> Result<Self> {
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let lines = Arc::new(Lines::default());
        if let Some(stdout) = child.stdout.take() {
            lines.listen(stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            lines.listen(stderr);
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
        })
    }

    /// Waits for a line that contains `text` and returns it.
    ///
    /// # Errors
    /// When the program ends first, or says nothing of the kind within [`PATIENCE`].
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_after(0, text).map(|(_, line)| line)
    }

    /// Waits for a line that contains `text` among those after the first `seen`; also tells how
    /// many lines had been said up to it.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_after(&mut self, seen: usize, text: &str) -> Result<(usize, String)> {
        let deadline = now() + PATIENCE;
        loop {
            let ended = self.child.try_wait()?;
            let said = self.lines.said();
            let found = said
                .iter()
                .enumerate()
                .skip(seen)
                .find(|(_, line)| line.contains(text));
            if let Some((at, line)) = found {
                return Ok((at + 1, line.clone()));
            }
            let left = deadline.saturating_duration_since(now());
            if ended.is_some() || left.is_zero() {
                let why = ended.map_or("timed out".to_owned(), |status| status.to_string());
                bail!(
                    "{}: {why} before it said {text:?}; it said:\n{}",
                    self.name,
                    said.join("\n")
                );
            }
            drop(self.lines.wait(said, left.min(Duration::from_millis(200))));
        }
    }

    /// Waits for a line that names an address on loopback, and returns that address.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_for_address(&mut self) -> Result<String> {
        let line = self.wait_for(LOOPBACK)?;
        let mut words = line.split_whitespace();
        let address = words.find(|word| word.starts_with(LOOPBACK));
        Ok(address
            .with_context(|| format!("no address in {line:?}"))?
            .to_owned())
    }

    /// How many lines it has said.
    #[must_use]
    pub fn line_count(&self) -> usize {
        self.lines.said().len()
    }

    /// All that it has said.
    #[must_use]
    pub fn said(&self) -> String {
        self.lines.said().join("\n")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("{} has no process id", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Stops it as Ctrl-Z does, until what comes back is dropped; returns once the kernel says that all
    /// of it stands still.
    ///
    /// # Errors
    /// When it does not stop within [`PATIENCE`].
    pub fn pause(&self) -> Result<Paused> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| anyhow!("{} has no process id", self.name))?;
        kill_process(pid, Signal::STOP).with_context(|| format!("cannot stop {}", self.name))?;
        let paused = Paused(pid);
        let deadline = now() + PATIENCE;
        while !is_stopped(self.child.id())? {
            ensure!(now() < deadline, "{} does not stop", self.name);
        }
        Ok(paused)
    }

    /// Asks it to end and waits until it has; returns its exit code.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<Option<i32>> {
        self.signal(Signal::TERM)?;
        self.wait()
    }

    /// Waits until it ends by itself; returns its exit code.
    ///
    /// # Errors
    /// When it has not ended within [`PATIENCE`].
    pub fn wait(&mut self) -> Result<Option<i32>> {
        let deadline = now() + PATIENCE;
        while now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            drop(
                self.lines
                    .wait(self.lines.said(), Duration::from_millis(20)),
            );
        }
        bail!("{} does not end; it said:\n{}", self.name, self.said())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            // A wrapper such as `ip netns exec` replaces itself by the program, so this is its id.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Lines {
    fn listen(self: &Arc<Self>, source: impl std::io::Read + Send + 'static) {
        let lines = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines() {
                let Ok(line) = line else { break };
                lines.said().push(line);
                lines.more.notify_all();
            }
            lines.more.notify_all();
        });
    }

    fn said(&self) -> MutexGuard<'_, Vec<String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        said: MutexGuard<'a, Vec<String>>,
        limit: Duration,
    ) -> MutexGuard<'a, Vec<String>> {
        self.more
            .wait_timeout(said, limit)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

/// The command lines of all running processes that name `text`.
///
/// # Errors
/// When the system does not list its processes.
pub fn running_with(text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        // Who has ended meanwhile has none.
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) {
            found.push(line);
        }
    }
    Ok(found)
}

/// The folder of the built programs: beside the one that runs, or above it for a test.
///
/// # Errors
/// When they are not built.
pub fn binaries() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("cardea-controller").is_file());
    folder
        .map(Path::to_owned)
        .ok_or_else(|| anyhow!("the programs are not built; run: cargo build --workspace --bins"))
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started or does not end within [`PATIENCE`].
pub fn run(command: Command) -> Result<Output> {
    run_with(command, Stdio::null())
}

/// Runs a command that reads `stdin` to its end.
///
/// # Errors
/// As [`run`].
pub fn run_with(mut command: Command, stdin: Stdio) -> Result<Output> {
    command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let (send, receive) = std::sync::mpsc::channel();
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    std::thread::spawn(move || drop(send.send(child.wait_with_output())));
    if let Ok(output) = receive.recv_timeout(PATIENCE) {
        return Ok(output?);
    }
    if id.is_some_and(|id| kill_process(id, Signal::KILL).is_err()) {
        bail!("{command:?} does not end and cannot be ended");
    }
    bail!("{command:?} does not end")
}

/// What a program reads that is given a few lines: as many as a pipe holds.
///
/// # Errors
/// When there is no pipe.
pub fn typed(text: &str) -> Result<Stdio> {
    let (reader, mut writer) = std::io::pipe()?;
    writer.write_all(text.as_bytes())?;
    Ok(reader.into())
}

/// Runs a command that must succeed and returns what it printed on stdout.
///
/// # Errors
/// When it fails; the error holds all that it said.
pub fn run_ok(command: Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = run(command)?;
    if !output.status.success() {
        bail!(
            "{shown} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program that stands still until this is dropped.
#[derive(Debug)]
pub struct Paused(Pid);

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        kill_process(self.0, Signal::CONT).ok();
    }
}

/// Whether every thread of a process is stopped (proc(5), `stat`).
fn is_stopped(process: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let stat = fs::read_to_string(thread?.path().join("stat"))?;
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        if !state.is_some_and(|state| state.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes sure that a command ended with `code` and said `text`.
///
/// # Errors
/// When it did not, or panicked; the error holds all that it said.
pub fn expect(output: &Output, code: i32, text: &str) -> Result<()> {
    let said = text_of(output);
    ensure!(
        output.status.code() == Some(code),
        "{}, not {code}: {said}",
        output.status
    );
    ensure!(said.contains(text), "no {text:?} in: {said}");
    ensure!(!said.contains("panicked"), "{said}");
    Ok(())
}

/// All that a command said.
#[must_use]
pub fn text_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A command with its arguments.
pub fn command<S: Into<OsString>>(
    program: impl Into<OsString>,
    arguments: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program.into());
    command.args(arguments.into_iter().map(Into::into));
    command
}

/// The clock of a test.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "end-to-end tests run in real time"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// A UDP port of this machine that nobody uses at the moment.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    #[expect(
        clippy::disallowed_types,
        reason = "a test may ask the system for a port"
    )]
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port())
}
