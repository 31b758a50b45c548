//! Who a certificate speaks for: `spiffe://<trust-domain>/<role>/<id>`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    id::{ConnectorId, ControllerId, DeviceId, NodeId, RelayId},
    name::Name,
};

/// What a certificate's holder is allowed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An agent's machine.
    Device,
    /// An enforcing end.
    Connector,
    /// A controller.
    Controller,
    /// A relay.
    Relay,
}

impl Role {
    /// The role as it stands in a URI.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Connector => "connector",
            Self::Controller => "controller",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The id within an [`Identity`], of the kind that its role has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// An agent's machine.
    Device(DeviceId),
    /// An enforcing end.
    Connector(ConnectorId),
    /// A controller.
    Controller(ControllerId),
    /// A relay.
    Relay(RelayId),
}

impl Holder {
    /// The role that this kind of id belongs to.
    #[must_use]
    pub const fn role(&self) -> Role {
        match self {
            Self::Device(_) => Role::Device,
            Self::Connector(_) => Role::Connector,
            Self::Controller(_) => Role::Controller,
            Self::Relay(_) => Role::Relay,
        }
    }

    /// The node, when this is one.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Device(id) => Some(NodeId::Device(*id)),
            Self::Connector(id) => Some(NodeId::Connector(*id)),
            Self::Controller(_) | Self::Relay(_) => None,
        }
    }
}

impl From<NodeId> for Holder {
    fn from(node: NodeId) -> Self {
        match node {
            NodeId::Device(id) => Self::Device(id),
            NodeId::Connector(id) => Self::Connector(id),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => id.fmt(f),
            Self::Connector(id) => id.fmt(f),
            Self::Controller(id) => id.fmt(f),
            Self::Relay(id) => id.fmt(f),
        }
    }
}

/// A verified or claimed identity within one trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The trust domain, as given to `init --domain`.
    pub domain: Name,
    /// Role and id.
    pub holder: Holder,
}

/// Text that is no identity of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not spiffe://<trust-domain>/<role>/<id>")]
pub struct ParseIdentityError(String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/{}/{}",
            self.domain,
            self.holder.role(),
            self.holder
        )
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        let parse = || {
            let rest = text.strip_prefix("spiffe://")?;
            let mut parts = rest.splitn(3, '/');
            let (domain, role, id) = (parts.next()?, parts.next()?, parts.next()?);
            let holder = match role {
                "device" => Holder::Device(id.parse().ok()?),
                "connector" => Holder::Connector(id.parse().ok()?),
                "controller" => Holder::Controller(id.parse().ok()?),
                "relay" => Holder::Relay(id.parse().ok()?),
                _ => return None,
            };
            Some(Self {
                domain: domain.parse().ok()?,
                holder,
            })
        };
        parse().ok_or_else(|| ParseIdentityError(text.chars().take(300).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_itself_and_its_role_must_match_its_id() {
        let id = DeviceId::from_bytes([1; 10]);
        let identity = Identity {
            domain: "corp.example".parse().unwrap(),
            holder: Holder::Device(id),
        };
        let text = identity.to_string();
        assert_eq!(text.parse(), Ok(identity));
        assert!(
            text.replace("/device/", "/connector/")
                .parse::<Identity>()
                .is_err()
        );
        assert!(format!("{text}/more").parse::<Identity>().is_err());
    }
}
