//! A person at a terminal who types a secret.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The process's terminal, which does not show what is typed for as long as this lives.
#[derive(Debug)]
pub(crate) struct Keyboard {
    terminal: File,
    before: Termios,
}

impl Keyboard {
    /// Nothing is shown from here on, so that whoever types as soon as he is asked, or before, is
    /// not read by others; what was typed until now is thrown away.
    pub(crate) fn open() -> io::Result<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }

    /// Asks, and takes one line of at most `max` bytes.
    pub(crate) fn ask(&mut self, prompt: &str, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        self.terminal.write_all(prompt.as_bytes())?;
        // A terminal hands over one line at a time: termios(3), canonical mode.
        let mut line = Zeroizing::new(vec![0; max]);
        let length = loop {
            match self.terminal.read(&mut line) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        line.truncate(length);
        Ok(line)
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.terminal, OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "the terminal may not show what is typed: type reset");
        }
    }
}
