//! NATs as RFC 4787 sorts them, made of nftables.

use anyhow::{Result, ensure};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::{namespace::Namespace, program::run_ok};

/// How a NAT maps and filters one UDP port of one host behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    Restricted,
    /// Endpoint-independent mapping, address- and port-dependent filtering: what Linux does by itself
    /// while ports do not clash.
    PortRestricted,
    /// Address- and port-dependent mapping and filtering.
    Symmetric,
}

impl Namespace {
    /// Makes this namespace a NAT between `lan` and `wan`, of this kind for `host`'s UDP `port`.
    ///
    /// What nobody asked for is dropped before it leaves a trace: a trace would take the port of a
    /// later mapping, which then would be another one.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn nat(&self, kind: NatKind, host: &str, port: u16) -> Result<()> {
        run_ok(self.command("sysctl", ["-qw", "net.ipv4.ip_forward=1"]))?;
        let (set, inward, how) = match kind {
            NatKind::FullCone => ("", format!("udp dport {port} dnat to {host}:{port}"), ""),
            NatKind::Restricted => (
                "set sent { type ipv4_addr; flags dynamic,timeout; timeout 2m; }",
                format!("ip saddr @sent udp dport {port} dnat to {host}:{port}"),
                "",
            ),
            NatKind::PortRestricted => ("", String::new(), ""),
            NatKind::Symmetric => ("", String::new(), "fully-random"),
        };
        let inward = if inward.is_empty() {
            inward
        } else {
            format!("iifname \"wan\" {inward}")
        };
        let note = if set.is_empty() {
            String::new()
        } else {
            format!("oifname \"wan\" udp sport {port} update @sent {{ ip daddr }}")
        };
        self.nft(&format!(
            "table ip nat {{\n {set}\n\
             chain note {{ type filter hook forward priority -10; {note}\n }}\n\
             chain pre {{ type nat hook prerouting priority -100; {inward}\n }}\n\
             chain post {{ type nat hook postrouting priority 100; oifname \"wan\" masquerade {how}\n }}\n\
             chain guard {{ type filter hook forward priority 0; policy drop;\n\
             ct state established,related accept\n oifname \"wan\" accept\n ct status dnat accept\n }}\n\
             chain in {{ type filter hook input priority 0;\n\
             ct state established,related accept\n iifname \"wan\" drop\n }}\n}}\n"
        ))
    }

    /// Has this NAT forget what it mapped, and map to other ports from here on, as one does that was
    /// restarted.
    ///
    /// # Errors
    /// When nftables or the kernel refuses.
    pub fn rebind(&self, ports: &str) -> Result<()> {
        self.nft(&format!(
            "flush chain ip nat post\n\
             add rule ip nat post oifname \"wan\" meta l4proto udp masquerade to :{ports}\n"
        ))?;
        self.within(forget_connections)
    }

    /// Loads rules.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), rules)?;
        run_ok(self.command("nft", ["-f".into(), file.path().as_os_str().to_owned()])).map(drop)
    }
}

/// Empties the connection table of this thread's namespace.
///
/// Source: linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h: a delete without attributes.
fn forget_connections() -> Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    let mut request = Vec::new();
    // struct nlmsghdr: length, type, flags (request, acknowledge), sequence, port; struct nfgenmsg.
    request.extend(20_u32.to_ne_bytes());
    request.extend((CONNTRACK << 8 | DELETE).to_ne_bytes());
    request.extend(0x5_u16.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; 4]);
    send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0_u8; 1_024];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    // struct nlmsgerr behind the header begins with its code.
    let code = answer.get(16..length).and_then(<[u8]>::first_chunk::<4>);
    ensure!(
        code == Some(&[0; 4]),
        "the kernel does not forget: {code:?}"
    );
    Ok(())
}

const CONNTRACK: u16 = 1;
const DELETE: u16 = 2;
