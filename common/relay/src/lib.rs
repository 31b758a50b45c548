//! The relay: forwards sealed datagrams between the two ends of a tunnel, and knows nothing else.
//!
//! Pure: a datagram in, a verdict out, the header rewritten in place.
//!
//! ```text
//!   end of a tunnel:  (unknown) ── Bind, ticket signed and in time ──▶ (unknown), challenged there
//!                     (unknown) ── Proof with the cookie ──▶ bound to the source address
//!                         ▲                                    │  │ Bind from elsewhere: bound where it
//!                         │                                    │  │ was, challenged elsewhere
//!                         │                                    │  └─ Proof from elsewhere ──▶ bound there
//!                         └── ticket ended, or silent for Settings::idle
//!   Data from a bound end, at its address, while the other end is bound ──▶ forwarded
//! ```
//!
//! An end may also ask where its datagram came from; that binds nothing and keeps nothing.
//!
//! What a stranger can make it do: nothing. It never sends first, answers a valid ticket alone, and
//! then with fewer bytes than it was sent. A datagram goes to the other end of its own tunnel or
//! nowhere, and to no address from which nobody has answered: whoever sends a captured ticket again
//! from an address that is not its own moves nothing. Without a ticket and a proof nothing is
//! stored, and checking tickets has a budget.
#![forbid(unsafe_code)]

mod budget;
mod cookie;
mod counters;
mod pace;
mod shares;
mod table;

use std::{
    net::SocketAddr,
    num::NonZeroU64,
    time::{Duration, Instant},
};

use cardea_credential::ticket::verify_ticket;
use cardea_proto::{
    relay::{
        ASK_BYTES, BIND_BYTES, Cookie, FrameKind, Handle, TICKET_BODY_BYTES, TICKET_BYTES, Ticket,
    },
    time::Now,
};

pub use self::counters::{Counters, DropReason};
use self::{
    cookie::{Claim, Cookies, Proven},
    pace::Pace,
    shares::Shares,
    table::{Admission, Placed, Table},
};

/// Limits of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Most ends that are bound at once; a tunnel has two. Each takes less than 400 bytes.
    pub ends_max: usize,
    /// How long an end may be silent before it is forgotten.
    pub idle: Duration,
    /// Most tickets that are checked in a second, so that forged ones cannot take the processor. One
    /// address or IPv6 /64 gets half of them and its share of the rest.
    pub checks_per_second: u32,
    /// Most bytes, headers included, that one end may send in a second; as many as it likes for `None`.
    pub bytes_per_second: Option<NonZeroU64>,
}

impl Default for Settings {
    /// 65,536 tunnels; four lost keepalives of 20 s; a third of a processor for tickets.
    fn default() -> Self {
        Self {
            ends_max: 131_072,
            idle: Duration::from_secs(90),
            checks_per_second: 5_000,
            bytes_per_second: None,
        }
    }
}

/// What must happen with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it, all of it, there. Its header is rewritten.
    Forward {
        /// The other end.
        to: SocketAddr,
    },
    /// Send its first `len` bytes back to where it came from. They are rewritten.
    Answer {
        /// How many; never more than came.
        len: usize,
    },
    /// Send nothing.
    Drop(DropReason),
}

/// One relay.
#[derive(Debug)]
pub struct Relay {
    ticket_key: [u8; 32],
    table: Table,
    cookies: Cookies,
    checks: Shares,
    counters: Counters,
}

impl Relay {
    /// A relay for tickets signed with the Ed25519 key whose public half is `ticket_key`.
    ///
    /// `seed` must be random and of this process alone: who knows it can prove to be anywhere.
    #[must_use]
    pub fn new(ticket_key: [u8; 32], seed: [u8; 32], settings: Settings) -> Self {
        Self {
            ticket_key,
            table: Table::new(
                settings.ends_max,
                settings.idle,
                settings.bytes_per_second.map(Pace::new),
            ),
            cookies: Cookies::new(&seed),
            checks: Shares::new(settings.checks_per_second),
            counters: Counters::default(),
        }
    }

    /// Takes one datagram, of any bytes and any length, and says what must happen with it.
    pub fn handle(&mut self, now: Now, from: SocketAddr, datagram: &mut [u8]) -> Verdict {
        let result = match datagram.first().copied().and_then(FrameKind::of) {
            Some(FrameKind::Data) => self.forward(now.instant, from, datagram),
            Some(FrameKind::Bind | FrameKind::Proof) => self.bind(now, from, datagram),
            Some(FrameKind::Ask) => self.ask(now, from, datagram),
            Some(FrameKind::Bound | FrameKind::Challenge | FrameKind::Seen) | None => {
                Err(DropReason::NotOurs)
            }
        };
        let verdict = result.unwrap_or_else(Verdict::Drop);
        self.counters.count(&verdict, datagram.len());
        verdict
    }

    /// When [`Self::expire`] is next due; `None` while nothing is bound.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.table.deadline()
    }

    /// Forgets ends whose tickets ended or that fell silent. They are not served before this either.
    pub fn expire(&mut self, now: Now) {
        self.table.expire(now.instant);
    }

    /// What passed so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Ends that are bound.
    #[must_use]
    pub fn ends(&self) -> usize {
        self.table.len()
    }

    fn forward(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let (handle, sealed) = Handle::split_data(datagram).ok_or(DropReason::Short)?;
        if sealed.is_empty() {
            return Err(DropReason::Short);
        }
        let length = datagram.len();
        let (peer, to) = self.table.route(now, handle, from, length)?;
        let _ = overwrite(datagram, &peer.data_header());
        Ok(Verdict::Forward { to })
    }

    /// Answers a bind or a proof. A proof whose cookie does not hold is a bind: its end has moved
    /// on, or the relay began anew, and asking again costs the least.
    fn bind(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let (ticket, cookie) = parse(datagram).ok_or(DropReason::Malformed)?;
        let handle = read(&ticket).ok_or(DropReason::Forged)?.handle;
        let claim = Claim {
            from,
            ticket: &ticket,
            moves: self.table.moves(handle),
        };
        let proven = cookie.and_then(|cookie| self.cookies.check(now.instant, &claim, &cookie));
        // The keepalive of an end that is bound by the same ticket: its signature is known to hold.
        let known = self
            .table
            .refresh(now.instant, handle, &ticket, from, proven);
        let placed = match known {
            Some(placed) => placed,
            None => self.admit(now, from, &ticket, proven)?,
        };
        let len = match placed {
            Placed::Bound => {
                self.counters.bound += 1;
                overwrite(datagram, &handle.bound())
            }
            Placed::Unproven => {
                self.counters.challenged += 1;
                let cookie = self.cookies.make(now.instant, &claim);
                overwrite(datagram, &handle.challenge(&cookie))
            }
        };
        Ok(Verdict::Answer { len })
    }

    /// Tells an end where its datagram came from. Nothing is kept and nobody is moved: the socket
    /// that asks is another one than the socket that is bound.
    fn ask(
        &mut self,
        now: Now,
        from: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<Verdict, DropReason> {
        let ticket = match <&[u8; ASK_BYTES]>::try_from(&*datagram) {
            Ok([_, ticket @ ..]) => *ticket,
            Err(_) => return Err(DropReason::Malformed),
        };
        let handle = read(&ticket).ok_or(DropReason::Forged)?.handle;
        if !self.table.holds(now.instant, handle, &ticket) {
            self.verify(now, from, &ticket)?;
        }
        self.counters.asked += 1;
        Ok(Verdict::Answer {
            len: overwrite(datagram, &handle.seen(from)),
        })
    }

    /// A ticket that is signed, in time, and within its sender's share of such checks.
    fn verify(
        &mut self,
        now: Now,
        from: SocketAddr,
        bytes: &[u8; TICKET_BYTES],
    ) -> Result<Ticket, DropReason> {
        if !self.checks.take(now.instant, from) {
            return Err(DropReason::Busy);
        }
        let ticket = verify_ticket(&self.ticket_key, bytes).ok_or(DropReason::Forged)?;
        if ticket.not_after.since(now.unix).is_zero() {
            return Err(DropReason::Expired);
        }
        Ok(ticket)
    }

    fn admit(
        &mut self,
        now: Now,
        from: SocketAddr,
        bytes: &[u8; TICKET_BYTES],
        proven: Option<Proven>,
    ) -> Result<Placed, DropReason> {
        // A cookie was made for these very bytes, behind the check of their signature.
        let ticket = match proven {
            Some(_) => read(bytes),
            None => Some(self.verify(now, from, bytes)?),
        };
        let ticket = ticket.ok_or(DropReason::Forged)?;
        let life = ticket.not_after.since(now.unix).min(TICKET_LIFE_MAX);
        if life.is_zero() {
            return Err(DropReason::Expired);
        }
        let admission = Admission {
            ticket,
            bytes,
            life,
        };
        self.table.bind(now.instant, &admission, from, proven)
    }
}

/// The ticket of a bind, or of a proof with its cookie.
fn parse(datagram: &[u8]) -> Option<([u8; TICKET_BYTES], Option<Cookie>)> {
    if let Some((ticket, cookie)) = Cookie::of_proof(datagram) {
        return Some((*ticket, Some(cookie)));
    }
    let [kind, ticket @ ..] = <&[u8; BIND_BYTES]>::try_from(datagram).ok()?;
    (*kind == FrameKind::Bind.byte()).then_some((*ticket, None))
}

/// What a ticket says, whoever signed it.
fn read(ticket: &[u8; TICKET_BYTES]) -> Option<Ticket> {
    Ticket::from_body(ticket.first_chunk::<TICKET_BODY_BYTES>()?)
}

/// Longest that one ticket is served, whatever it says.
///
/// A grant lives an hour at most and its ticket little longer, so this only guards the arithmetic.
const TICKET_LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Replaces the beginning of `datagram`, which is at least as long, and says with how many bytes.
fn overwrite<const N: usize>(datagram: &mut [u8], header: &[u8; N]) -> usize {
    datagram.first_chunk_mut::<N>().map_or(0, |front| {
        *front = *header;
        N
    })
}

#[cfg(test)]
mod tests;
