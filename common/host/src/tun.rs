//! A TUN interface: a kernel's network stack as a file, with packets that stand for many.
//!
//! Every packet has a virtio header before it (`IFF_VNET_HDR`). Source: Linux,
//! `Documentation/networking/tuntap.rst` and `include/uapi/linux/if_tun.h`. The interface goes when
//! the file is closed.

mod netlink;

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use mio::{Interest, Registry, Token, event::Source, unix::SourceFd};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode},
};

pub use self::netlink::{Network, Prefix};

/// An open TUN interface that does not block.
#[derive(Debug)]
pub struct Tun {
    file: OwnedFd,
    name: String,
    offloads: Offloads,
}

/// What the kernel lets stand for many packets, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Segments of TCP.
    pub tcp: bool,
    /// Datagrams of UDP.
    pub udp: bool,
}

/// Why there is no TUN interface. The environment is at fault.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel has no TUN.
    #[error("{DEVICE} is missing: this kernel or container has no TUN")]
    NoDevice,
    /// The process may not configure the network.
    #[error("this process has no CAP_NET_ADMIN: run it as root, or give it that capability")]
    NotPermitted,
    /// The name is in use, by another process of ours perhaps.
    #[error("the interface {0} exists and is in use")]
    Busy(String),
    /// Anything else that the kernel says.
    #[error("{what}: {error}")]
    Kernel {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        error: io::Error,
    },
}

impl TunError {
    fn of(what: &'static str, error: Errno) -> Self {
        match error {
            Errno::PERM | Errno::ACCESS => Self::NotPermitted,
            error => Self::Kernel {
                what,
                error: error.into(),
            },
        }
    }
}

impl Tun {
    /// Makes the interface `name`; it has no address yet and is down.
    ///
    /// # Errors
    /// [`TunError`], which says what is missing.
    pub fn open(name: &str) -> Result<Self, TunError> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => TunError::NoDevice,
            error => TunError::of("opening the TUN device", error),
        })?;
        let mut request = Request::new(name);
        // SAFETY: TUNSETIFF takes and returns an `ifreq`, of which `Request` has the layout and the
        // size, and keeps no pointer to it.
        let made = unsafe {
            let call = Updater::<SET_INTERFACE, Request>::new(&mut request);
            ioctl(&file, call)
        };
        made.map_err(|error| match error {
            Errno::BUSY => TunError::Busy(name.to_owned()),
            error => TunError::of("making the TUN interface", error),
        })?;
        let name = request.name();
        let offloads = offload(&file);
        Ok(Self {
            file,
            name,
            offloads,
        })
    }

    /// As the kernel calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What may stand for many packets.
    #[must_use]
    pub const fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one packet with its header; returns how long both are.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Writes one packet with its header, in pieces.
    ///
    /// # Errors
    /// As the kernel says; a packet that it does not take is lost, as packets are.
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        rustix::io::writev(&self.file, pieces)?;
        Ok(())
    }
}

/// Has the kernel leave checksums and segments to us, as far as it does.
fn offload(file: &OwnedFd) -> Offloads {
    let asked = [
        (CHECKSUM | TCP4 | TCP6 | UDP4 | UDP6, true, true),
        // Linux before 6.2 has no segments of UDP.
        (CHECKSUM | TCP4 | TCP6, true, false),
    ];
    for (bits, tcp, udp) in asked {
        // SAFETY: TUNSETOFFLOAD takes its flags as a number, not as a pointer.
        let set = unsafe {
            let call = IntegerSetter::<SET_OFFLOAD>::new_usize(bits);
            ioctl(file, call)
        };
        if set.is_ok() {
            return Offloads { tcp, udp };
        }
    }
    tracing::warn!("this kernel's TUN has no offloads: packets pass one by one");
    Offloads::default()
}

impl Source for Tun {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.file.as_fd().as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.file.as_fd().as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.file.as_fd().as_raw_fd()).deregister(registry)
    }
}

/// `struct ifreq`: a name and the flags of an interface. Source: `netdevice(7)`.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

impl Request {
    fn new(name: &str) -> Self {
        let mut bytes = [0; NAME_BYTES];
        for (to, from) in bytes.iter_mut().take(NAME_BYTES - 1).zip(name.bytes()) {
            *to = from;
        }
        Self {
            name: bytes,
            flags: FLAG_TUN | FLAG_NO_INFORMATION | FLAG_VIRTIO,
            rest: [0; 22],
        }
    }

    fn name(&self) -> String {
        let bytes = self.name.iter().take_while(|byte| **byte != 0);
        bytes.map(|byte| char::from(*byte)).collect()
    }
}

const DEVICE: &str = "/dev/net/tun";
const NAME_BYTES: usize = 16;
const SET_INTERFACE: Opcode = opcode::write::<i32>(b'T', 202);
const SET_OFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const FLAG_TUN: u16 = 0x0001;
const FLAG_NO_INFORMATION: u16 = 0x1000;
const FLAG_VIRTIO: u16 = 0x4000;
const CHECKSUM: usize = 0x01;
const TCP4: usize = 0x02;
const TCP6: usize = 0x04;
const UDP4: usize = 0x20;
const UDP6: usize = 0x40;

#[cfg(test)]
mod tests;
