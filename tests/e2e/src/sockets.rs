//! The UDP sockets of other processes, as the kernel lists them, and datagrams in others' names.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use anyhow::{Result, bail, ensure};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::program::{PATIENCE, now};

/// A UDP socket of some process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOf {
    /// Where it is bound.
    pub local: SocketAddr,
    /// The only one it hears, when it is connected.
    pub peer: Option<SocketAddr>,
    /// Bytes that wait to be read from it, with what the kernel needs beside them.
    pub waiting: u64,
    /// Datagrams that were lost because nobody had read those before.
    pub dropped: u64,
    inode: u64,
}

impl UdpOf {
    /// All that `process`, in this network namespace, has open.
    ///
    /// # Errors
    /// When it has gone or belongs to somebody else.
    pub fn process(process: u32) -> Result<Vec<Self>> {
        let mut own = Vec::new();
        for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
            let leads_to = fs::read_link(entry?.path()).unwrap_or_default();
            let inode = leads_to.to_str().and_then(|text| {
                let (_, inode) = text.strip_suffix(']')?.split_once("socket:[")?;
                inode.parse::<u64>().ok()
            });
            own.extend(inode);
        }
        let mut sockets = all()?;
        sockets.retain(|socket| own.contains(&socket.inode));
        Ok(sockets)
    }

    /// Waits until its process has read all that was sent to it, and tells how it stands.
    ///
    /// # Errors
    /// When it is closed, or its process stops reading.
    pub fn drained(&self) -> Result<Self> {
        let deadline = now() + PATIENCE;
        let mut missed = 0;
        while now() < deadline {
            let mut sockets = all()?.into_iter();
            match sockets.find(|socket| socket.inode == self.inode) {
                Some(socket) if socket.waiting == 0 => return Ok(socket),
                Some(_) => missed = 0,
                None => missed += 1,
            }
            ensure!(missed < LOOKS, "{} was closed", self.local);
            std::thread::yield_now();
        }
        bail!("{} is not read any more", self.local)
    }
}

/// How often a socket must be missing from the list to be gone: the kernel writes it in pieces, and
/// leaves out what lies at a seam while others come and go.
const LOOKS: u32 = 20;

/// Every UDP socket of the network namespace in which this thread is.
///
/// Source: proc_net_udp in the kernel's documentation, and `udp4_format_sock` in net/ipv4/udp.c.
fn all() -> Result<Vec<UdpOf>> {
    let text = fs::read_to_string("/proc/thread-self/net/udp")?
        + &fs::read_to_string("/proc/thread-self/net/udp6")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `sl local rem st tx:rx tr:when retrnsmt uid timeout inode ref pointer drops`; `None` for the head.
fn parse(line: &str) -> Option<UdpOf> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let peer = address(fields.get(2)?)?;
    Some(UdpOf {
        local: address(fields.get(1)?)?,
        peer: (peer.port() != 0).then_some(peer),
        waiting: u64::from_str_radix(fields.get(4)?.split_once(':')?.1, 16).ok()?,
        dropped: fields.last()?.parse().ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

/// `0100007F:1D13`: words of 32 bits as they lie in memory, here in little endian.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<u32> = (0..ip.len())
        .step_by(8)
        .filter_map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok())
        .map(u32::swap_bytes)
        .collect();
    let ip = match words[..] {
        [v4] => IpAddr::V4(Ipv4Addr::from(v4)),
        [a, b, c, d] => {
            let all = [a, b, c, d].map(u128::from);
            IpAddr::V6(Ipv6Addr::from(
                all.iter().fold(0, |all, word| all << 32 | word),
            ))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Sends datagrams from addresses that are not its own, which only root may do.
#[derive(Debug)]
pub struct Forger {
    socket: OwnedFd,
}

impl Forger {
    /// # Errors
    /// Without root.
    pub fn new() -> Result<Self> {
        // Raw sockets of this protocol take the IP header from us: raw(7).
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
        Ok(Self { socket })
    }

    /// Sends `payload` as if `from` had sent it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn send(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<()> {
        let udp_length = u16::try_from(payload.len() + UDP_HEADER)?;
        let length = u16::try_from(payload.len() + UDP_HEADER + IP_HEADER)?;
        // RFC 791 §3.1; the kernel fills in id and checksum. RFC 768: no checksum is 0.
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend(udp_length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        let sent = sendto(&self.socket, &packet, SendFlags::empty(), &to)?;
        ensure!(sent == packet.len(), "only {sent} bytes were sent");
        Ok(())
    }
}

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let v4 = " 1181: 0100007F:1D13 0200000A:0035 01 00000000:00000A00 00:00000000 00000000  \
                  1000        0 24312 2 0000000000000000 7";
        let socket = parse(v4).unwrap();
        assert_eq!(socket.local, "127.0.0.1:7443".parse().unwrap());
        assert_eq!(socket.peer, Some("10.0.0.2:53".parse().unwrap()));
        assert_eq!(
            (socket.waiting, socket.dropped, socket.inode),
            (2_560, 7, 24_312)
        );
        let v6 = "4: B80D0120000000000000000001000000:1D13 00000000000000000000000000000000:0000 07 \
                  00000000:00000000 00:00000000 00000000 0 0 5 2 0 0";
        let socket = parse(v6).unwrap();
        assert_eq!(socket.local, "[2001:db8::1]:7443".parse().unwrap());
        assert_eq!(socket.peer, None);
    }
}
