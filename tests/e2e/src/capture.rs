//! What passes through a host: every IP packet, as the kernel shows it to whoever listens below IP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    os::fd::OwnedFd,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with,
        sockopt::set_socket_recv_buffer_size_force,
    },
};

use crate::{namespace::Namespace, program::now};

/// Listens at every interface of one namespace from the moment when it is made.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
}

/// One packet, without what lies below IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its sender; the port is zero where there is none.
    pub from: SocketAddr,
    /// Whom it is for.
    pub to: SocketAddr,
    /// The number of the protocol that it carries: 17 is UDP.
    pub protocol: u8,
    /// What lies behind the header of UDP, or of IP.
    pub payload: Vec<u8>,
}

impl Capture {
    /// Begins to listen. A packet that passes through the host shows once on its way in and once
    /// on its way out.
    ///
    /// # Errors
    /// Without root.
    pub fn of(host: &Namespace) -> Result<Self> {
        Self::with_room(host, BUFFER_BYTES)
    }

    fn with_room(host: &Namespace, bytes: usize) -> Result<Self> {
        host.within(|| {
            // Cooked packets, which begin with the header of IP, of every protocol: packet(7).
            let all = NonZeroU32::new(u32::from(ALL_PROTOCOLS.to_be())).map(Protocol::from_raw);
            let socket = socket_with(
                AddressFamily::PACKET,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                all,
            )?;
            set_socket_recv_buffer_size_force(&socket, bytes)?;
            Ok(Self { socket })
        })
    }

    /// What has passed since it was asked last, or passes next before the deadline.
    ///
    /// # Errors
    /// When the kernel says so.
    pub fn wait(&self, deadline: Instant) -> Result<Vec<Packet>> {
        let left = deadline.saturating_duration_since(now());
        let mut readable = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut readable, Some(&left.try_into()?))?;
        self.take()
    }

    /// All that has passed since it was asked last.
    ///
    /// # Errors
    /// When the kernel says so, or when something has passed for which there was no room.
    pub fn take(&self) -> Result<Vec<Packet>> {
        let mut packets = Vec::new();
        let mut buffer = vec![0; 65_536];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => packets.extend(buffer.get(..length).and_then(Packet::parse)),
                Err(Errno::AGAIN) => {
                    let lost = cardea_host::sieve::dropped(&self.socket)?;
                    ensure!(lost == 0, "{lost} packets were not captured");
                    return Ok(packets);
                }
                Err(Errno::NETDOWN) => {}
                Err(error) => bail!("nothing is captured: {error}"),
            }
        }
    }
}

impl Packet {
    /// Source: RFC 791 §3.1, RFC 8200 §3, RFC 768. Fragments after the first show no ports.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (from, to, protocol, rest) = match bytes.first()? >> 4 {
            4 => {
                let header = usize::from(bytes.first()? & 0xf) * 4;
                let length = usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?));
                let address = |at: usize| -> Option<IpAddr> {
                    let octets = bytes.get(at..)?.first_chunk::<4>()?;
                    Some(Ipv4Addr::from(*octets).into())
                };
                let rest = bytes.get(header..length)?;
                (address(12)?, address(16)?, *bytes.get(9)?, rest)
            }
            6 => {
                let length = usize::from(u16::from_be_bytes(*bytes.get(4..)?.first_chunk()?));
                let address = |at: usize| -> Option<IpAddr> {
                    let octets = bytes.get(at..)?.first_chunk::<16>()?;
                    Some(Ipv6Addr::from(*octets).into())
                };
                let rest = bytes.get(40..)?.get(..length)?;
                (address(8)?, address(24)?, *bytes.get(6)?, rest)
            }
            _ => return None,
        };
        let port = |at: usize| {
            let port = rest.get(at..).and_then(<[u8]>::first_chunk::<2>);
            port.map_or(0, |port| u16::from_be_bytes(*port))
        };
        let (ports, payload) = match protocol {
            UDP => ((port(0), port(2)), rest.get(UDP_HEADER..)?),
            _ => ((0, 0), rest),
        };
        Some(Self {
            from: SocketAddr::new(from, ports.0),
            to: SocketAddr::new(to, ports.1),
            protocol,
            payload: payload.to_vec(),
        })
    }

    /// Whether it is a UDP datagram to `port`.
    #[must_use]
    pub fn is_udp_to(&self, port: u16) -> bool {
        self.protocol == UDP && self.to.port() == port
    }
}

/// Datagrams that one socket of a host sends.
///
/// # Errors
/// When the host has no such socket, or the kernel does not take one.
#[expect(
    clippy::disallowed_types,
    reason = "whoever captured them uses a socket"
)]
pub fn send_from(host: &Namespace, to: SocketAddr, datagrams: &[Vec<u8>]) -> Result<SocketAddr> {
    host.within(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(to)?;
        for datagram in datagrams {
            socket.send(datagram).context("the kernel takes none")?;
        }
        Ok(socket.local_addr()?)
    })
}

/// `ETH_P_ALL` of linux/if_ether.h.
const ALL_PROTOCOLS: u16 = 3;

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// Room for what passes while nobody asks.
const BUFFER_BYTES: usize = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needs;

    #[test]
    fn a_capture_that_lost_something_says_so() {
        if !needs::root_and(&["ip"]) {
            return;
        }
        let host = Namespace::new("capture", "host").unwrap();
        host.ip("link set lo up").unwrap();
        let captures = [BUFFER_BYTES, 8_192].map(|room| Capture::with_room(&host, room).unwrap());
        let to = "127.0.0.1:9".parse().unwrap();
        for _ in 0..100 {
            // Nobody listens there, which the next one would be told.
            send_from(&host, to, &[vec![0; 1_000]]).unwrap();
        }
        let [whole, lossy] = captures.map(|capture| capture.take());
        let count = whole
            .unwrap()
            .iter()
            .filter(|packet| packet.is_udp_to(9))
            .count();
        assert!(count >= 100, "{count}");
        assert!(lossy.unwrap_err().to_string().contains("not captured"));
    }

    #[test]
    fn packets_of_both_families_are_read() {
        let udp = [0x1d, 0x13, 0, 53, 0, 11, 0, 0, 1, 2, 3];
        let mut v4 = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0];
        v4.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        v4.extend(udp);
        // Ethernet pads short packets.
        v4.extend([0; 15]);
        let packet = Packet::parse(&v4).unwrap();
        assert_eq!(packet.from, "10.0.0.1:7443".parse().unwrap());
        assert_eq!(packet.to, "10.0.0.2:53".parse().unwrap());
        assert_eq!(packet.payload, [1, 2, 3]);
        assert!(packet.is_udp_to(53));
        let mut v6 = vec![0x60, 0, 0, 0, 0, 11, 17, 64];
        let (one, two) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        v6.extend(one.octets());
        v6.extend(two.octets());
        v6.extend(udp);
        let packet = Packet::parse(&v6).unwrap();
        assert_eq!(packet.from, "[::1]:7443".parse().unwrap());
        assert_eq!(packet.payload, [1, 2, 3]);
        for end in 0..v6.len() {
            assert_eq!(Packet::parse(&v6[..end]), None);
        }
    }
}
