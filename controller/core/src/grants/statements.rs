//! What the two ends sign: verified, and compared with what is on record.

use cardea_credential::{signed::StatementError, trust::ChainError};
use cardea_proto::{
    access::Offer,
    codec::Digest,
    id::{ConnectorId, DeviceId, GrantId, NodeId},
    identity::Holder,
    name::Name,
    refusal::{Refusal, RefusalCode},
};

use crate::{controller::Controller, heard::Statement};

impl Controller {
    /// Checks a device's offer for an app; the digest of the key that signed it, and the offer.
    pub(super) fn check_offer(
        &self,
        device: DeviceId,
        app: &Name,
        statement: Statement,
    ) -> Result<(Digest, Offer), Refusal> {
        let not_proven = |why: &str| {
            Refusal::new(
                RefusalCode::NotProven,
                format!("{app}: the offer is not to be believed: {why}"),
            )
        };
        let (offer, leaf) = match statement {
            Statement::Offer(Ok(verified)) => verified,
            Statement::Offer(Err(StatementError::Chain(ChainError::Expired { not_after }))) => {
                return Err(Refusal::new(
                    RefusalCode::CertificateExpired,
                    format!(
                        "{app}: the device's certificate ended at {}",
                        not_after.to_rfc3339()
                    ),
                ));
            }
            Statement::Offer(Err(error)) => return Err(not_proven(&error.to_string())),
            Statement::None | Statement::Answer(_) => return Err(not_proven("it is no offer")),
        };
        let enrolled = self.world.state.device(device).map(|known| known.node.key);
        if leaf.identity.holder != Holder::Device(device) || offer.device != device {
            Err(not_proven("another device signed it"))
        } else if enrolled != Some(leaf.key) {
            Err(not_proven("another key signed it than the enrolled one"))
        } else if offer.app != *app {
            Err(not_proven("it is for another app"))
        } else {
            Ok((leaf.key, offer))
        }
    }

    /// Checks a connector's answer to an offer; the digest of the key that signed it.
    pub(super) fn check_answer(
        &self,
        connector: ConnectorId,
        (grant, offer): (GrantId, Digest),
        statement: Statement,
    ) -> Result<Digest, String> {
        let (answer, leaf) = match statement {
            Statement::Answer(checked) => checked.map_err(|error| error.to_string())?,
            Statement::None | Statement::Offer(_) => return Err("it is no answer".to_owned()),
        };
        let enrolled = self
            .world
            .state
            .node(NodeId::Connector(connector))
            .map(|known| known.node.key);
        let wrong = if leaf.identity.holder != Holder::Connector(connector)
            || answer.connector != connector
        {
            "another connector signed it"
        } else if enrolled != Some(leaf.key) {
            "another key signed it than the enrolled one"
        } else if answer.grant != grant {
            "it is for another grant"
        } else if answer.offer != offer {
            "it is for another offer"
        } else {
            return Ok(leaf.key);
        };
        Err(wrong.to_owned())
    }
}
