//! What a kernel at an end would say: packets with virtio headers, and a TCP client that loses nothing.

use std::{net::IpAddr, time::Duration};

use cardea_tunnel::{Bundle, End, Input, bundle::HEADER_BYTES, packet::Packet};

use super::{GRANT, Pair, pattern};

pub const DEVICE: [&str; 2] = ["100.64.0.1", "fd00::1"];
pub const APP: [&str; 2] = ["100.65.0.1", "fd00::a"];

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A segment of 1,360 bytes, as Linux says with an interface of 1,400 (RFC 9293 §3.7.1).
const MSS: [u8; 4] = [2, 4, 5, 0x50];

/// Longer than the way there and back.
const ROUND: Duration = Duration::from_millis(21);

/// Hands over a packet, and lets it arrive.
pub fn send(pair: &mut Pair, end: End, packet: Vec<u8>) {
    hand_over(pair, end, packet);
    pair.pass(Duration::from_millis(100));
}

fn hand_over(pair: &mut Pair, end: End, mut packet: Vec<u8>) {
    let bundle = Bundle::read(&mut packet).unwrap();
    pair.input(
        end,
        Input::Bundle {
            grant: GRANT,
            bundle,
        },
    );
}

/// What has come for an end's network stack after a while.
pub fn take(pair: &mut Pair, end: End) -> Vec<Vec<u8>> {
    pair.pass(Duration::from_millis(100));
    take_now(pair, end)
}

fn take_now(pair: &mut Pair, end: End) -> Vec<Vec<u8>> {
    let packets = &mut pair.node(end).out.packets;
    let came = packets.iter().map(|(bytes, _)| bytes.to_vec()).collect();
    packets.clear();
    came
}

/// A device's end of a TCP conversation with an app.
pub struct Client {
    v6: usize,
    ports: (u16, u16),
    sent: u32,
    /// The next byte of the app's.
    next: u32,
    pub came: Vec<u8>,
    /// Bytes of the longest packet that came.
    pub longest: usize,
    pub is_reset: bool,
    pub is_finished: bool,
}

impl Client {
    pub fn begin(pair: &mut Pair, v6: usize, ports: (u16, u16)) -> Self {
        let mut client = Self {
            v6,
            ports,
            sent: 1_000,
            next: 0,
            came: Vec::new(),
            longest: 0,
            is_reset: false,
            is_finished: false,
        };
        client.say(pair, SYN, &MSS);
        client.sent += 1;
        client
    }

    pub fn write(&mut self, pair: &mut Pair, data: &[u8]) {
        for part in data.chunks(1_200) {
            self.say(pair, ACK, part);
            self.sent += u32::try_from(part.len()).unwrap();
        }
    }

    pub fn finish(&mut self, pair: &mut Pair) {
        self.say(pair, FIN | ACK, &[]);
        self.sent += 1;
    }

    fn say(&self, pair: &mut Pair, flags: u8, payload: &[u8]) {
        let (from, to) = (DEVICE[self.v6], APP[self.v6]);
        let mut packet = tcp(from, to, self.ports, payload.len());
        packet[1] = 0;
        let above = packet.len() - payload.len() - 20;
        packet[above + 4..above + 8].copy_from_slice(&self.sent.to_be_bytes());
        packet[above + 8..above + 12].copy_from_slice(&self.next.to_be_bytes());
        packet[above + 13] = flags;
        if flags & SYN != 0 {
            // What follows are options.
            packet[above + 12] = 0x60;
        }
        packet[above + 14..above + 16].fill(0xff);
        packet[above + 20..].copy_from_slice(payload);
        hand_over(pair, End::Agent, packet);
    }

    /// Takes one segment of the app's, if it is the next.
    fn hear(&mut self, packet: &Packet, bytes: &[u8]) {
        self.longest = self.longest.max(bytes.len());
        let above = &bytes[packet.ip_len..];
        let sequence = u32::from_be_bytes(above[4..8].try_into().unwrap());
        let flags = above[13];
        self.is_reset |= flags & RST != 0;
        if flags & SYN != 0 {
            self.next = sequence.wrapping_add(1);
        }
        if sequence == self.next {
            let payload = packet.payload(bytes);
            self.came.extend_from_slice(payload);
            self.next += u32::try_from(payload.len()).unwrap();
            if flags & FIN != 0 && !self.is_finished {
                self.is_finished = true;
                self.next += 1;
            }
        }
    }
}

/// Lets a round trip pass, in which every client hears and acknowledges what has come.
pub fn round(pair: &mut Pair, clients: &mut [Client]) {
    pair.pass(ROUND);
    let came = take_now(pair, End::Agent);
    let mut heard = vec![false; clients.len()];
    for bytes in &came {
        let packet = Packet::parse_head(bytes).unwrap();
        let ports = (packet.destination_port, packet.source_port);
        if let Some(index) = clients.iter().position(|client| client.ports == ports) {
            clients[index].hear(&packet, bytes);
            heard[index] = true;
        }
    }
    for (client, _) in clients.iter().zip(heard).filter(|(_, heard)| *heard) {
        if !client.is_reset {
            client.say(pair, ACK, &[]);
        }
    }
}

/// What a kernel would hand over: a virtio header, and a TCP window with ACK set that is not summed yet.
pub fn tcp(from: &str, to: &str, (source, destination): (u16, u16), len: usize) -> Vec<u8> {
    let mut packet = match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(40 + len).unwrap().to_be_bytes();
            let mut ip = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0];
            ip.extend(from.octets());
            ip.extend(to.octets());
            let made = !fold(sum(&ip));
            ip[10..12].copy_from_slice(&made.to_be_bytes());
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let total = u16::try_from(20 + len).unwrap().to_be_bytes();
            let mut ip = vec![0x60, 0, 0, 0, total[0], total[1], 6, 64];
            ip.extend(from.octets());
            ip.extend(to.octets());
            ip
        }
        _ => panic!("two families"),
    };
    let ip_len = u8::try_from(packet.len()).unwrap();
    let mut above = vec![0; 20];
    above[..2].copy_from_slice(&source.to_be_bytes());
    above[2..4].copy_from_slice(&destination.to_be_bytes());
    (above[12], above[13], above[14]) = (0x50, 0x10, 0x20);
    packet.extend(above);
    packet.extend(pattern(len));
    let kind = if len == 0 {
        0
    } else if ip_len == 20 {
        1
    } else {
        4
    };
    let size = 1_300_u16.to_ne_bytes();
    let header = [1, kind, ip_len + 20, 0, size[0], size[1], ip_len, 0, 16, 0];
    [&header[..], &packet].concat()
}

/// A UDP packet that is not summed yet.
pub fn udp(from: &str, to: &str, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = tcp(from, to, ports, 0);
    let ip_len = packet[6];
    let above = HEADER_BYTES + usize::from(ip_len);
    packet.truncate(above + 4);
    let len = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    packet.extend([len[0], len[1], 0, 0]);
    packet.extend(payload);
    packet[8] = 6;
    address(&mut packet, 17);
    packet
}

/// A question whether somebody is there.
pub fn echo(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = tcp(from, to, (1, 1), 0);
    let is_v4 = packet[6] == 20;
    let above = HEADER_BYTES + usize::from(packet[6]);
    packet[..HEADER_BYTES].fill(0);
    packet.truncate(above);
    let kind = if is_v4 { 8 } else { 128 };
    packet.extend([kind, 0, 0, 0, 0, 1, 0, 2]);
    packet.extend(payload);
    address(&mut packet, if is_v4 { 1 } else { 58 });
    let pseudo = if is_v4 {
        0
    } else {
        let addresses = sum(&packet[HEADER_BYTES + 8..above]);
        addresses + u32::try_from(packet.len() - above).unwrap() + 58
    };
    let made = !fold(pseudo + sum(&packet[above..]));
    packet[above + 2..above + 4].copy_from_slice(&made.to_be_bytes());
    packet
}

/// Sets protocol, length and checksum in the IP header of a packet that was TCP's.
fn address(packet: &mut [u8], protocol: u8) {
    let ip = &mut packet[HEADER_BYTES..];
    let len = u16::try_from(ip.len()).unwrap();
    if ip[0] == 0x45 {
        ip[2..4].copy_from_slice(&len.to_be_bytes());
        ip[9] = protocol;
        ip[10..12].fill(0);
        let made = !fold(sum(&ip[..20]));
        ip[10..12].copy_from_slice(&made.to_be_bytes());
    } else {
        ip[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        ip[6] = protocol;
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)))
        .sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    u16::try_from((once & 0xffff) + (once >> 16)).unwrap()
}
