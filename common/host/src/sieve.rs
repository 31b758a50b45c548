//! What the kernel drops for a socket, before the process is woken for it.
//!
//! A sieve is a program of the classic Berkeley packet filter (McCanne and Jacobson, 1993; Linux:
//! `socket(7)`, `SO_ATTACH_FILTER`). It sees the shape of a datagram alone, no key: what it lets
//! through is still judged by whoever reads it, and where the kernel takes no sieve nothing changes
//! but what garbage costs. Of datagrams that the kernel coalesced it sees the first, whose sender
//! is theirs, and the length of all: how long one is at most, it cannot tell.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
};

use nix::libc;
use socket2::{SockFilter, SockRef};

/// What is loaded is counted from the UDP header on.
const UDP_HEADER_BYTES: u32 = 8;

/// Jumps and loads of the filter machine. Source: `linux/filter.h`, `linux/bpf_common.h`.
mod code {
    /// Load the byte, or the four bytes, at a fixed place; what lies beyond the end drops the packet.
    pub(super) const LOAD_BYTE: u16 = 0x30;
    pub(super) const LOAD_WORD: u16 = 0x20;
    /// Load how long the packet is.
    pub(super) const LOAD_LENGTH: u16 = 0x80;
    /// Compare with a constant.
    pub(super) const IF_EQUAL: u16 = 0x15;
    pub(super) const IF_AT_LEAST: u16 = 0x35;
    pub(super) const IF_ANY_BIT: u16 = 0x45;
    pub(super) const RETURN: u16 = 0x06;
}

/// One step of a sieve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Goes on with the byte at this place of the payload; drops what is shorter.
    Byte(u32),
    /// Goes on with the four bytes at this place, in network order; drops what is shorter.
    Word(u32),
    /// Goes on with how many bytes the payload has, and the UDP header's eight.
    Length,
    /// Passes over so many steps when the value is this one, or over so many when not.
    Equal(u32, u8, u8),
    /// The same when it has one of these bits.
    AnyBit(u32, u8, u8),
    /// The same when the payload is at least so long; after [`Step::Length`].
    AtLeast(u32, u8, u8),
    /// Lets the datagram through.
    Pass,
    /// Drops it.
    Drop,
}

impl From<Step> for SockFilter {
    fn from(step: Step) -> Self {
        match step {
            Step::Byte(at) => Self::new(code::LOAD_BYTE, 0, 0, at + UDP_HEADER_BYTES),
            Step::Word(at) => Self::new(code::LOAD_WORD, 0, 0, at + UDP_HEADER_BYTES),
            Step::Length => Self::new(code::LOAD_LENGTH, 0, 0, 0),
            Step::Equal(value, yes, no) => Self::new(code::IF_EQUAL, yes, no, value),
            Step::AnyBit(bits, yes, no) => Self::new(code::IF_ANY_BIT, yes, no, bits),
            Step::AtLeast(bytes, yes, no) => {
                Self::new(code::IF_AT_LEAST, yes, no, bytes + UDP_HEADER_BYTES)
            }
            Step::Pass => Self::new(code::RETURN, 0, 0, u32::MAX),
            Step::Drop => Self::new(code::RETURN, 0, 0, 0),
        }
    }
}

/// Something by which a datagram of one kind is known. Places are counted in its payload; where it ends
/// before, it is dropped, whatever other kinds there are: [`Sign::AtLeast`] comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It, or all that were coalesced with it, have so many bytes or more.
    AtLeast(usize),
    /// This byte at this place.
    Byte(u32, u8),
    /// These four bytes at this place, in network order.
    Word(u32, u32),
    /// One of these bits, or more, in the byte at this place.
    AnyBit(u32, u8),
    /// None of these bits in the byte at this place.
    NoBit(u32, u8),
}

impl Sign {
    /// How the value is loaded that tells.
    fn load(self) -> Step {
        match self {
            Self::AtLeast(_) => Step::Length,
            Self::Byte(at, _) | Self::AnyBit(at, _) | Self::NoBit(at, _) => Step::Byte(at),
            Self::Word(at, _) => Step::Word(at),
        }
    }

    /// Goes on when it shows, and passes over so many steps when not.
    fn or_over(self, steps: u8) -> Step {
        match self {
            Self::AtLeast(bytes) => {
                Step::AtLeast(u32::try_from(bytes).unwrap_or(u32::MAX), 0, steps)
            }
            Self::Byte(_, value) => Step::Equal(value.into(), 0, steps),
            Self::Word(_, value) => Step::Equal(value, 0, steps),
            Self::AnyBit(_, bits) => Step::AnyBit(bits.into(), 0, steps),
            Self::NoBit(_, bits) => Step::AnyBit(bits.into(), steps, 0),
        }
    }
}

/// Lets through what shows every sign of one of these kinds.
#[must_use]
pub fn any_of(kinds: &[&[Sign]]) -> Vec<Step> {
    let mut steps = Vec::new();
    for signs in kinds {
        for (place, sign) in signs.iter().enumerate() {
            // Two steps for each sign behind this one, and the one that lets it through.
            let left = 2 * (signs.len() - place - 1) + 1;
            steps.push(sign.load());
            steps.push(sign.or_over(u8::try_from(left).unwrap_or(u8::MAX)));
        }
        steps.push(Step::Pass);
    }
    steps.push(Step::Drop);
    steps
}

/// Has the kernel drop what does not pass these steps.
pub fn attach(socket: &impl AsFd, steps: &[Step]) {
    let program: Vec<SockFilter> = steps.iter().copied().map(SockFilter::from).collect();
    if let Err(error) = SockRef::from(socket).attach_filter(&program) {
        tracing::debug!(%error, "the kernel drops no garbage for a socket");
    }
}

/// Has the kernel hand over everything again, as where it takes no sieve.
///
/// # Errors
/// As the kernel says, among others when there is none.
pub fn detach(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).detach_filter()
}

/// How many datagrams the kernel has dropped for a socket: by its sieve, or for want of room.
///
/// # Errors
/// As the kernel says, which has counted them since Linux 4.12.
pub fn dropped(socket: &impl AsRawFd) -> io::Result<u32> {
    const DROPS: usize = 8;
    let mut memory = [0_u32; DROPS + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&memory)).unwrap_or(0);
    // SAFETY: SO_MEMINFO writes at most `length` bytes to `memory`, which has them, and as many as it
    // wrote to `length`; both live until the call returns, and any bytes are valid numbers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let [.., drops] = memory;
    if result == 0 {
        Ok(drops)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the kernel hand over datagrams one by one again, after something asked for coalesced ones:
/// for sockets on which few arrive, and room for many would be wasted.
///
/// # Errors
/// As the kernel says.
pub fn take_apart(socket: &impl AsRawFd) -> io::Result<()> {
    let off: libc::c_int = 0;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: UDP_GRO reads one `int`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const off).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
