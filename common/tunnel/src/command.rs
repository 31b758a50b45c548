//! What the control half tells the data half.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use cardea_proto::{
    access::{InnerAddresses, Standby},
    app::{Carrier, Service},
    codec::{Blob, Bytes, Secret32},
    id::GrantId,
    name::Name,
};

use crate::{egress::Egress, link::Meeting};

/// Which end of its tunnels a [`crate::Tunnels`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// On a device: opens flows.
    Agent,
    /// Beside an app: admits flows, and is the end that enforces.
    Connector,
}

/// What stands at the local side of an end's tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// Sockets: packets become flows.
    #[default]
    Flows,
    /// A network stack: packets stay packets. An agent may have flows as well.
    Packets,
}

/// Which inner addresses the flows that begin at an agent use; what arrives may use either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// A change of what may pass.
#[derive(Debug)]
pub enum Command {
    /// Opens a tunnel; one that has the same grant is replaced.
    Install(Box<Install>),
    /// Lets a tunnel live on.
    Extend {
        /// The grant.
        grant: GrantId,
        /// Its new life from now on.
        ttl: Duration,
        /// A ticket for that time.
        ticket: Blob,
        /// The same for the relays that stand by, in the order of [`Install::standby`].
        standby: Vec<Blob>,
    },
    /// Ends a tunnel: keys, flows and queues are gone when the call returns.
    Remove {
        /// The grant.
        grant: GrantId,
    },
}

/// Everything that makes one tunnel.
#[derive(Debug)]
pub struct Install {
    /// The grant that it exists for.
    pub grant: GrantId,
    /// The app at its other side.
    pub app: Name,
    /// Keys and peer.
    pub keys: CarrierKeys,
    /// How long it lives from now on.
    pub ttl: Duration,
    /// The addresses of the relay to which its datagrams go, at least one; the first is tried first.
    pub relay: Vec<SocketAddr>,
    /// This end's signed ticket for that relay.
    pub ticket: Blob,
    /// The relays that stand by, with this end's tickets, in the order of both ends.
    pub standby: Vec<Standby>,
    /// The ports that flows may ask for.
    pub services: Vec<Service>,
    /// The addresses inside.
    pub inner: InnerAddresses,
    /// How the two ends find direct paths.
    pub meeting: Meeting,
    /// Where a connector may dial; `None` at an agent.
    pub egress: Option<Egress>,
}

/// The keys of a tunnel, by carrier.
#[derive(Clone)]
pub enum CarrierKeys {
    /// WireGuard.
    WireGuard {
        /// Our X25519 key, made for this grant.
        private: Secret32,
        /// The peer's X25519 public key, made for this grant.
        peer: Bytes<32>,
        /// What ML-KEM-768 agreed on.
        psk: Secret32,
    },
    /// QUIC, at the agent's end.
    QuicClient(Arc<rustls::ClientConfig>),
    /// QUIC, at the connector's end.
    QuicServer(Arc<rustls::ServerConfig>),
}

impl CarrierKeys {
    /// The carrier that these keys are for.
    #[must_use]
    pub const fn carrier(&self) -> Carrier {
        match self {
            Self::WireGuard { .. } => Carrier::WireGuard,
            Self::QuicClient(_) | Self::QuicServer(_) => Carrier::Quic,
        }
    }
}

impl fmt::Debug for CarrierKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CarrierKeys({})", self.carrier().as_str())
    }
}
