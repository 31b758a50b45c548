//! What a program says to people: talk on stderr, data on stdout.
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "the one place where these programs say something"
)]

use cardea_host::exit::printable;

/// Says one line to whoever watches.
pub fn say(line: &str) {
    eprintln!("{}", printable(line));
}

/// Prints data.
pub fn print(data: &str) {
    println!("{}", printable(data));
}
