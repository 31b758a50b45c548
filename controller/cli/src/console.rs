//! Data on stdout, talk on stderr, questions only on a terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use cardea_host::exit::{Code, Failure, io_advice, printable};

/// Where a command reads and writes.
pub struct Console {
    out: Box<dyn Write>,
    talk: Box<dyn Write>,
    input: Box<dyn BufRead>,
    interactive: bool,
    closed: bool,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console")
            .field("interactive", &self.interactive)
            .finish_non_exhaustive()
    }
}

impl Console {
    /// The standard streams of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self {
            out: Box::new(io::stdout()),
            talk: Box::new(io::stderr()),
            input: Box::new(io::stdin().lock()),
            interactive: io::stdin().is_terminal() && io::stderr().is_terminal(),
            closed: false,
        }
    }

    /// Streams of a test.
    #[must_use]
    pub fn new(
        out: Box<dyn Write>,
        talk: Box<dyn Write>,
        input: Box<dyn BufRead>,
        interactive: bool,
    ) -> Self {
        Self {
            out,
            talk,
            input,
            interactive,
            closed: false,
        }
    }

    /// Whether a person can be asked.
    #[must_use]
    pub const fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Whether nobody reads any more, as behind `head`.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Prints data, which ends with a line break.
    ///
    /// # Errors
    /// [`Failure`] when it cannot be written; a reader that went away is none.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        let text = printable(text);
        let end = if text.ends_with('\n') || text.is_empty() {
            ""
        } else {
            "\n"
        };
        let written = write!(self.out, "{text}{end}").and_then(|()| self.out.flush());
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other
                .map_err(|error| Failure::of(Code::Failed, "stdout", &error, io_advice(&error))),
        }
    }

    /// Says something to a person.
    pub fn say(&mut self, text: &str) {
        // Nobody to tell that nobody can be told.
        writeln!(self.talk, "{}", printable(text)).ok();
    }

    /// Shows a person how far something has come, in place of what was shown before; nothing to
    /// anybody else.
    pub fn progress(&mut self, text: &str) {
        if self.interactive {
            write!(self.talk, "\r\x1b[K{}", printable(text))
                .and_then(|()| self.talk.flush())
                .ok();
        }
    }

    /// Asks a person; only `y` and `yes` are a yes.
    pub fn ask(&mut self, question: &str) -> bool {
        write!(self.talk, "{} [y/N] ", printable(question))
            .and_then(|()| self.talk.flush())
            .ok();
        let mut answer = String::new();
        self.input.read_line(&mut answer).is_ok()
            && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
    }
}
