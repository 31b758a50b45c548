//! Enrollment: one request and one answer on a connection of their own.

use serde::{Deserialize, Serialize};

use crate::{
    access::Standby,
    codec::{Blob, Bytes, Secret32},
    id::NodeId,
    identity::Role,
    name::Name,
    posture::Report,
    refusal::Refusal,
    time::UnixMillis,
};

/// What a node that is not enrolled asks, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The channel protocol that the node speaks.
    pub version: u16,
    /// Version of the node's program.
    pub program: String,
    /// The secret of the invite.
    pub invite: Secret32,
    /// What the node wants to be; must be what the invite admits.
    pub role: Role,
    /// The name it would like, usually its host name.
    pub name: Name,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Its public key: SubjectPublicKeyInfo in DER, P-256 or Ed25519.
    pub public_key: Blob,
    /// Signature by that key over the 32 exporter bytes of this connection, then the public key.
    pub proof: Blob,
    /// A device's posture; a connector reports none.
    pub report: Option<Report>,
}

/// The one answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrollAnswer {
    /// The node exists and has its first certificate.
    Enrolled(Box<Enrolled>),
    /// It does not.
    Refused(Refusal),
}

/// All that a node must keep from its enrollment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The channel protocol that the controller speaks.
    pub version: u16,
    /// The trust domain.
    pub domain: Name,
    /// Who the node is.
    pub node: NodeId,
    /// The name it was given; a number is appended where the wanted one was taken.
    pub name: Name,
    /// A device's user.
    pub user: Option<Name>,
    /// Its first certificate.
    pub certificate: Certificate,
    /// The root certificate, DER.
    pub root: Blob,
    /// Where the controller can be reached, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// The Ed25519 public key that signs the ledger's checkpoints, 32 bytes.
    pub ledger_key: Blob,
}

/// A certificate as it is handed to its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Leaf, then intermediate; DER.
    pub chain: Vec<Blob>,
    /// Its serial number, lower-case hexadecimal.
    pub serial: String,
    /// When it begins.
    pub not_before: UnixMillis,
    /// When it ends.
    pub not_after: UnixMillis,
    /// The seed of the knocks that the controller answers, from this certificate on.
    pub knock: Secret32,
    /// What opens fronts that are not beside the controller, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Pass>,
    /// The relays, with tickets that each of them answers and that lead to nobody: for whoever wants
    /// to know how the network is, controller or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<Standby>,
}

/// Bytes of a pass's number.
pub const PASS_NUMBER_BYTES: usize = 8;

/// What a node shows a front elsewhere, and with which seed it knocks there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// Shown.
    pub number: Bytes<PASS_NUMBER_BYTES>,
    /// Kept.
    pub seed: Secret32,
}

#[cfg(test)]
mod tests {
    use crate::codec;

    use super::*;

    #[test]
    fn a_certificate_of_a_controller_that_knows_no_passes_has_none() {
        let mut certificate = Certificate {
            chain: Vec::new(),
            serial: "01".to_owned(),
            not_before: UnixMillis(1),
            not_after: UnixMillis(2),
            knock: Secret32([1; 32]),
            pass: None,
            relays: Vec::new(),
        };
        let bytes = codec::encode(&certificate);
        assert!(!bytes.windows(4).any(|name| name == b"pass"));
        assert_eq!(codec::decode(&bytes, usize::MAX), Ok(certificate.clone()));
        certificate.pass = Some(Pass {
            number: Bytes([2; 8]),
            seed: Secret32([3; 32]),
        });
        let bytes = codec::encode(&certificate);
        assert_eq!(codec::decode(&bytes, usize::MAX), Ok(certificate));
    }
}
