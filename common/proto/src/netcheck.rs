//! What `cardea netcheck` found out about the network that a node is in.

use serde::{Deserialize, Serialize};

use crate::admin::Warning;

/// How the network is; `cardea netcheck -o json` prints exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetReport {
    /// Whether a tunnel could be opened: a controller answers, and something leads to other ends.
    pub usable: bool,
    /// Each way to each controller.
    pub controllers: Vec<ControllerCheck>,
    /// Each relay, by UDP.
    pub relays: Vec<RelayCheck>,
    /// What stands between this machine and the others.
    pub nat: NatView,
    /// The largest packet that was shown to reach a controller, in bytes with its IP header; larger
    /// ones may pass as well.
    pub path_mtu: Option<u32>,
    /// How far this machine's clock is ahead of the controller's, in milliseconds; negative when it
    /// is behind.
    pub clock_ahead_ms: Option<i64>,
    /// Whether somebody else answers in the controller's place.
    pub captive_portal: Portal,
    /// What is wrong, and what to do about it.
    pub advice: Vec<Warning>,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// It answers.
    Ok,
    /// It does not.
    Silent,
    /// Somebody else answers there.
    Impostor,
    /// Nobody asked: there was no ticket that holds.
    NotChecked,
}

/// How a controller is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// UDP.
    Udp,
    /// TLS on TCP, at a front.
    Tls,
}

/// One way to a controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerCheck {
    /// `HOST:PORT`.
    pub address: String,
    /// How.
    pub way: Way,
    /// What came of it.
    pub state: CheckState,
    /// Round trip of a message and its answer.
    pub rtt_ms: Option<u64>,
    /// Why there is none.
    pub why: Option<String>,
}

/// One relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCheck {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What came of it.
    pub state: CheckState,
    /// Round trip of a question and its answer, by the address that answered first.
    pub rtt_ms: Option<u64>,
    /// Where this relay sees this machine.
    pub seen_as: Option<String>,
}

/// What stands between this machine and the others, in the words of RFC 4787.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatView {
    /// How it maps.
    pub mapping: Mapping,
    /// How it filters; no relay ever sends from where it was not asked, so this is never tested.
    pub filtering: Filtering,
    /// Where one socket of this machine is seen.
    pub seen_as: Vec<String>,
}

/// How a NAT maps one socket. Source: RFC 4787 §4.1; how it is told: RFC 5780 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mapping {
    /// There is no NAT.
    None,
    /// The same address for everybody.
    EndpointIndependent,
    /// Another one for each address.
    AddressDependent,
    /// Another one for each address and port.
    AddressAndPortDependent,
    /// One of the last two: no relay has two ports to tell them apart.
    EndpointDependent,
    /// There is a NAT, and fewer than two relays answered.
    Unknown,
    /// No relay answered.
    NotChecked,
}

/// How a NAT filters. Source: RFC 4787 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filtering {
    /// It was not tested.
    NotTested,
}

/// Whether somebody answers in the controller's place until a person signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Portal {
    /// A controller itself answers.
    None,
    /// Something answers where nothing of ours is.
    Suspected,
    /// Nothing answers at all.
    Unknown,
}

impl Mapping {
    /// The same for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::EndpointIndependent => "endpoint-independent mapping",
            Self::AddressDependent => "address-dependent mapping (symmetric)",
            Self::AddressAndPortDependent => "address- and port-dependent mapping (symmetric)",
            Self::EndpointDependent => "endpoint-dependent mapping (symmetric)",
            Self::Unknown => "a NAT; its mapping shows only to two relays",
            Self::NotChecked => "no relay answered",
        }
    }
}
