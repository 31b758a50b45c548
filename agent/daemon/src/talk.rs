//! What a program says to people: talk on stderr, data on stdout.
#![expect(
    clippy::print_stderr,
    reason = "the one place where these programs say something"
)]

use std::io::{self, Write as _};

use cardea_host::exit::{Code, Failure, io_advice, printable};

/// Says one line to whoever watches.
pub fn say(line: &str) {
    eprintln!("{}", printable(line));
}

/// Prints data.
///
/// # Errors
/// When it cannot be written; a reader that went away, as `head` does, is none.
pub fn print(data: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{}", printable(data)).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => {
            written.map_err(|error| Failure::of(Code::Failed, "stdout", &error, io_advice(&error)))
        }
    }
}
