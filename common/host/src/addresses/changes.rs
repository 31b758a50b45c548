//! Word from the kernel that an interface, an address or a route is another one.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use mio::{Interest, Registry, Token, event::Source, unix::SourceFd};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};

/// Becomes readable when the network of this machine changes.
#[derive(Debug)]
pub struct Changes {
    socket: OwnedFd,
}

impl Changes {
    /// Begins to listen.
    ///
    /// # Errors
    /// As the kernel says, as where a sandbox does not let us.
    pub fn listen() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            // NETLINK_ROUTE is number 0.
            None,
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Whether anything has changed since this was asked last. What it was is for the kernel's own
    /// tables to tell, because whoever is slow to read loses some of these messages.
    pub fn take(&mut self) -> bool {
        let mut is_changed = false;
        loop {
            match recv(&self.socket, &mut [0_u8; 1][..], RecvFlags::TRUNC) {
                Ok(_) | Err(Errno::NOBUFS) => is_changed = true,
                Err(Errno::INTR) => {}
                Err(_) => return is_changed,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Source for Changes {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interests: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.socket.as_raw_fd()).deregister(registry)
    }
}

/// Links, addresses, routes and rules of both families.
///
/// Source: `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `_ROUTE`, `_RULE`, `RTMGRP_IPV6_IFADDR`, `_ROUTE` in
/// linux/rtnetlink.h.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400;
