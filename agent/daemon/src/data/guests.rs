//! Clients of SOCKS, until they have said where they want to go.

use std::{
    io::{self, Read as _},
    time::Duration,
};

use bytes::Bytes;
use cardea_host::tcp::{self, TcpStream};
use mio::Token;

use super::{
    ListenerId,
    listen::{Caller, Who, say},
    plane::{Due, Plane},
    socks::{self, Heard, Stage},
    wiring::Owner,
};

/// Clients of SOCKS at a time that have not said where they want to go.
const GUESTS_MAX: usize = 256;

/// How long such a client may take.
const GUEST_TIME: Duration = Duration::from_secs(10);

/// A client of SOCKS that has not said where it wants to go.
#[derive(Debug)]
pub(super) struct Guest {
    stream: TcpStream,
    token: Token,
    from: ListenerId,
    stage: Stage,
    heard: Vec<u8>,
}

impl Plane {
    /// A client of SOCKS has come.
    pub(super) fn greet(&mut self, from: ListenerId, mut stream: TcpStream) {
        if self.locals.guests.len() >= GUESTS_MAX {
            return tcp::abort(stream);
        }
        let number = self.locals.next_number();
        match self.wiring.add(&mut stream, Owner::Guest(number)) {
            Ok(token) => {
                let guest = Guest {
                    stream,
                    token,
                    from,
                    stage: Stage::Methods,
                    heard: Vec::new(),
                };
                self.locals.guests.insert(number, guest);
                let until = self.carry.now.instant + GUEST_TIME;
                self.timers.set(until, Due::Guest(number));
                self.hear_guest(number);
            }
            Err(error) => tracing::warn!(%error, "a client of SOCKS could not be served"),
        }
    }

    /// Reads what a client of SOCKS has said, and answers.
    pub(super) fn hear_guest(&mut self, number: u64) {
        while let Some(guest) = self.locals.guests.get_mut(&number) {
            let room = socks::BYTES_MAX.saturating_sub(guest.heard.len());
            let buffer = self.carry.scratch.get_mut(..room).unwrap_or_default();
            match guest.stream.read(buffer) {
                Ok(count) if count > 0 => {
                    guest
                        .heard
                        .extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) | Err(_) => return drop(self.take_guest(number)),
            }
            self.answer_guest(number);
        }
    }

    fn answer_guest(&mut self, number: u64) {
        while let Some(guest) = self.locals.guests.get_mut(&number) {
            match socks::hear(guest.stage, &guest.heard) {
                Heard::More => return,
                Heard::Methods { used } => {
                    guest.heard.drain(..used);
                    guest.stage = Stage::Request;
                    say(&mut guest.stream, &socks::NO_AUTHENTICATION);
                }
                Heard::Connect {
                    host,
                    service,
                    used,
                } => {
                    let said = Bytes::copy_from_slice(guest.heard.get(used..).unwrap_or_default());
                    let from = guest.from;
                    let app = self.routes.find(&host, service);
                    let Some(mut stream) = self.take_guest(number) else {
                        return;
                    };
                    return match app {
                        Some(app) => {
                            let caller = Caller {
                                stream,
                                socks: Some(said),
                            };
                            self.want(&app, self.waiting(from, service, Who::Stream(caller)));
                        }
                        None => say(&mut stream, &socks::Reply::NotAllowed.bytes()),
                    };
                }
                Heard::Associate => {
                    if let Some(guest) = self.locals.guests.remove(&number) {
                        self.associate(guest.from, guest.stream, guest.token);
                    }
                }
                Heard::Refuse(reply) => {
                    if let Some(mut stream) = self.take_guest(number) {
                        say(&mut stream, &reply);
                    }
                }
                Heard::Garbage => drop(self.take_guest(number)),
            }
        }
    }

    pub(super) fn guest_timed_out(&mut self, number: u64) {
        drop(self.take_guest(number));
    }

    /// Sends every client away that came in through a listener.
    pub(super) fn dismiss_guests(&mut self, from: ListenerId) {
        let guests = self.locals.guests.iter();
        let numbers: Vec<u64> = guests
            .filter(|(_, guest)| guest.from == from)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            drop(self.take_guest(number));
        }
    }

    fn take_guest(&mut self, number: u64) -> Option<TcpStream> {
        let mut guest = self.locals.guests.remove(&number)?;
        self.wiring.remove(&mut guest.stream, guest.token);
        Some(guest.stream)
    }
}
