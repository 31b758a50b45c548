//! Descriptors through which the kernel tells of mounts, swaps, devices, firewall rules, the network
//! and clocks.

use std::{fs::File, os::fd::OwnedFd};

use cardea_host::addresses::Changes;
use rustix::{
    event::{PollFd, PollFlags},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, NETFILTER, SocketAddrNetlink},
        recv, socket_with,
    },
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

/// Multicast group of device events from the kernel itself.
///
/// Source: Linux, `lib/kobject_uevent.c`: group 1; 2 is udev's own.
const GROUP_UEVENT: u32 = 1;

/// Multicast group of changes to nftables, as a bit.
///
/// Source: Linux, `include/uapi/linux/netfilter/nfnetlink.h`, `NFNLGRP_NFTABLES` = 7.
const GROUP_NFTABLES: u32 = 1 << 6;

/// Subsystem number of nftables, and its last message about a table, chain or rule.
///
/// Source: Linux, `nfnetlink.h` (`NFNL_SUBSYS_NFTABLES`) and `nf_tables.h` (`NFT_MSG_DELRULE`).
const NFTABLES: u8 = 10;
const NFTABLES_RULES_LAST: u8 = 8;

/// Subsystems of devices that facts are about.
const SUBSYSTEMS: &[&[u8]] = &[b"SUBSYSTEM=block", b"SUBSYSTEM=tpm", b"SUBSYSTEM=tpmrm"];

/// A far moment of the wall clock, in seconds: its timer is there to be canceled.
const FAR: i64 = 1 << 40;

/// One descriptor.
#[derive(Debug)]
pub(super) enum Source {
    /// `/proc/self/mountinfo` or `/proc/swaps`, which are "exceptional" after a change.
    Proc(File),
    /// Device events.
    Devices(OwnedFd),
    /// Changes of firewall rules.
    Firewall(OwnedFd),
    /// Changes of interfaces, addresses and routes.
    Network(Changes),
    /// A timer that is canceled when the wall clock is set, be it because the machine woke up.
    Clock(OwnedFd),
}

/// All that this process may have.
pub(super) fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for path in ["/proc/self/mountinfo", "/proc/swaps"] {
        sources.extend(File::open(path).ok().map(Source::Proc));
    }
    sources.extend(listener(KOBJECT_UEVENT, GROUP_UEVENT).map(Source::Devices));
    // Only for root: others find changes of the firewall at the next poll.
    sources.extend(listener(NETFILTER, GROUP_NFTABLES).map(Source::Firewall));
    sources.extend(Changes::listen().ok().map(Source::Network));
    sources.extend(clock_timer().map(Source::Clock));
    sources
}

fn listener(protocol: rustix::net::Protocol, groups: u32) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(protocol),
    )
    .ok()?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))
        .inspect_err(|error| tracing::debug!(%error, groups, "the kernel does not tell us"))
        .ok()?;
    Some(socket)
}

fn clock_timer() -> Option<OwnedFd> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok()?;
    arm(&timer)?;
    Some(timer)
}

fn arm(timer: &OwnedFd) -> Option<()> {
    let far = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: FAR,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &far).ok().map(drop)
}

impl Source {
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        match self {
            Self::Proc(file) => PollFd::new(file, PollFlags::PRI),
            Self::Devices(fd) | Self::Firewall(fd) | Self::Clock(fd) => {
                PollFd::new(fd, PollFlags::IN)
            }
            Self::Network(changes) => PollFd::new(changes, PollFlags::IN),
        }
    }

    /// Takes what is waiting; whether a fact may have changed.
    pub(super) fn changed(&mut self) -> bool {
        match self {
            // Polling it took the event.
            Self::Proc(_) => true,
            Self::Devices(socket) => any(socket, is_device),
            Self::Firewall(socket) => any(socket, is_rule),
            Self::Network(changes) => changes.take(),
            Self::Clock(timer) => {
                // Reading it fails because it was canceled; arming it anew clears that.
                let mut count = [0_u8; 8];
                rustix::io::read(&*timer, &mut count).ok();
                arm(timer);
                true
            }
        }
    }
}

/// Whether any waiting message is one of those; lost messages may have been.
fn any(socket: &OwnedFd, wanted: fn(&[u8]) -> bool) -> bool {
    let mut buffer = [0_u8; 8 * 1024];
    let mut found = false;
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => found |= wanted(buffer.get(..length).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::NOBUFS) => found = true,
            Err(_) => return found,
        }
    }
}

fn is_device(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == 0)
        .any(|field| SUBSYSTEMS.contains(&field))
}

/// Source: netlink(7): length (4), type (2) in the byte order of the machine.
fn is_rule(message: &[u8]) -> bool {
    message
        .get(4..6)
        .and_then(|kind| <[u8; 2]>::try_from(kind).ok())
        .is_some_and(|kind| {
            let [subsystem, message] = u16::from_ne_bytes(kind).to_be_bytes();
            subsystem == NFTABLES && message <= NFTABLES_RULES_LAST
        })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn everything_that_this_process_may_hear_is_listened_to() {
        let mut heard = [0; 5];
        for source in sources() {
            let kind = match source {
                Source::Proc(_) => 0,
                Source::Devices(_) => 1,
                Source::Firewall(_) => 2,
                Source::Network(_) => 3,
                Source::Clock(_) => 4,
            };
            heard[kind] += 1;
        }
        let files = ["/proc/self/mountinfo", "/proc/swaps"];
        let may = [
            files.iter().filter(|path| File::open(path).is_ok()).count(),
            usize::from(listener(KOBJECT_UEVENT, GROUP_UEVENT).is_some()),
            usize::from(listener(NETFILTER, GROUP_NFTABLES).is_some()),
            usize::from(Changes::listen().is_ok()),
            1,
        ];
        assert_eq!(heard, may);
        assert!(may[0] > 0);
    }

    /// Nobody sets this machine's clock for a test, but the kernel tells what it would do then.
    ///
    /// Source: proc(5), `fdinfo` of a timerfd: 03 is `TFD_TIMER_ABSTIME` with `TFD_TIMER_CANCEL_ON_SET`.
    #[test]
    fn the_timer_of_the_wall_clock_ends_when_that_is_set() {
        let timer = clock_timer().unwrap();
        let info = format!("/proc/self/fdinfo/{}", timer.as_raw_fd());
        let mut source = Source::Clock(timer);
        for _ in 0..2 {
            let armed = std::fs::read_to_string(&info).unwrap();
            assert!(armed.contains("clockid: 0\n"), "{armed}");
            assert!(armed.contains("settime flags: 03\n"), "{armed}");
            assert!(source.changed());
        }
    }

    #[test]
    fn only_block_devices_and_tpms_matter() {
        assert!(is_device(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=block\0"));
        assert!(!is_device(b"add@/devices/x\0ACTION=add\0SUBSYSTEM=usb\0"));
        assert!(!is_device(b""));
    }

    #[test]
    fn only_tables_chains_and_rules_matter() {
        let message = |kind: u16| [&[20, 0, 0, 0][..], &kind.to_ne_bytes(), &[0; 14]].concat();
        assert!(is_rule(&message(0x0a06)));
        assert!(!is_rule(&message(0x0a0c)));
        assert!(!is_rule(&message(0x0106)));
        assert!(!is_rule(&[0; 5]));
    }
}
