//! Other implementations of WireGuard, each with its own pair of addresses, by their common API.

use std::path::PathBuf;

use anyhow::Result;
use cardea_e2e::{namespace::Namespace, program::Program, wireguard_go};
use cardea_tunnel::keys::WireGuardKey;
use data_encoding::HEXLOWER;

use super::{CLIENT, Hosts, SERVER};

/// A program to compare with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    number: u8,
}

/// Both ends of a running one.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: &'static str,
    /// Of the server's end.
    pub(super) address: String,
    _programs: Vec<Program>,
}

impl Peer {
    pub(super) const ALL: [Self; 3] = [
        Self {
            name: "wireguard-go",
            program: "wireguard",
            arguments: &["-f"],
            number: 1,
        },
        Self {
            name: "boringtun",
            program: "boringtun-cli",
            arguments: &["-f", "--disable-drop-privileges"],
            number: 2,
        },
        Self {
            name: "gotatun",
            program: "gotatun",
            arguments: &["-f", "--disable-drop-privileges"],
            number: 3,
        },
    ];

    /// Starts both ends and lets them know each other.
    pub(super) fn start(self, hosts: &Hosts) -> Result<Running> {
        let number = self.number;
        let key = |side: u8| WireGuardKey::generate([number * 2 + side; 32]);
        let (client, server) = (key(0), key(1));
        let port = |side: u8| 51_800 + u16::from(number) * 2 + u16::from(side);
        let ends = [
            (&hosts.client, 0, &client, &server, SERVER),
            (&hosts.server, 1, &server, &client, CLIENT),
        ];
        let mut programs = Vec::new();
        for (host, side, own, peer, address) in ends {
            let interface = format!("wgb{number}{side}");
            let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
            let settings = format!(
                "set=1\nprivate_key={}\nlisten_port={}\npublic_key={}\nendpoint={address}:{}\n\
                 replace_allowed_ips=true\nallowed_ip=10.77.{number}.0/24\n\n",
                hex(&own.private.0),
                port(side),
                hex(&peer.public.0),
                port(1 - side),
            );
            programs.push(self.end(host, &interface, &settings)?);
            let own = side + 1;
            host.ip(&format!("addr add 10.77.{number}.{own}/24 dev {interface}"))?;
            host.ip(&format!("link set {interface} mtu 1420 up"))?;
        }
        Ok(Running {
            name: self.name,
            address: format!("10.77.{number}.2"),
            _programs: programs,
        })
    }

    fn end(self, host: &Namespace, interface: &str, settings: &str) -> Result<Program> {
        let command = host.command(program(self.program), self.arguments.iter().copied());
        wireguard_go::start(self.name, command, interface, settings)
    }
}

/// In the folder that `tests/bench/run` fills, else wherever programs are.
fn program(name: &str) -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "the script says where its peers are"
    )]
    let folder = std::env::var("CARDEA_PEERS");
    folder.map_or_else(
        |_| PathBuf::from(name),
        |folder| PathBuf::from(folder).join(name),
    )
}
