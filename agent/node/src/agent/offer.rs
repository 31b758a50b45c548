//! What an agent offers for one tunnel, and how it checks the answer.

use std::{net::SocketAddr, sync::Arc};

use cardea_credential::{
    key::SignError,
    signed::{StatementError, offer_digest, sign_offer, verify_answer},
    tls::{self, FixedTime},
};
use cardea_proto::{
    access::{Granted, Offer},
    app::Carrier,
    codec::{Bytes, Digest},
    id::DeviceId,
    identity::Holder,
    message::FromNode,
    name::Name,
    time::Now,
};
use cardea_tunnel::{
    CarrierKeys, Install, Meeting,
    keys::{KemError, KemKey, WireGuardKey},
};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::{channel::Channel, entropy::seed, limits};

/// An offer that was sent, with the halves of its keys that stay here.
///
/// It lives until its answer comes or nobody waits for it, and its keys with it.
#[derive(Debug)]
pub(super) struct PendingOffer {
    app: Name,
    digest: Digest,
    wireguard: WireGuardKey,
    kem: KemKey,
}

/// Who offers keys for what, and where it may be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) device: DeviceId,
    pub(super) app: &'a Name,
    /// Which of the app's hosts.
    pub(super) host: Option<&'a Name>,
    pub(super) candidates: &'a [SocketAddr],
    /// Whether there are packets to send, and not flows alone.
    pub(super) packets: bool,
}

/// Why a grant is not taken. The connector, or the controller between, is at fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The connector's statement does not hold.
    #[error("the connector's answer does not hold: {0}")]
    Statement(#[from] StatementError),
    /// Another connector, or another key of it, than the grant says.
    #[error("the answer is signed by another connector than the granted one")]
    OtherConnector,
    /// The answer is for another offer or grant.
    #[error("the answer is for another offer")]
    OtherOffer,
    /// The post-quantum exchange does not work.
    #[error("the answer's key exchange does not work: {0}")]
    Exchange(#[from] KemError),
    /// There is no relay to go through.
    #[error("the grant names no relay")]
    NoRelay,
}

impl PendingOffer {
    /// Makes fresh keys and the signed request that offers them.
    pub(super) fn make(
        wish: Wish<'_>,
        request: u64,
        channel: &Channel,
        rng: &mut ChaCha20Rng,
    ) -> Result<(Self, FromNode), SignError> {
        let wireguard = WireGuardKey::generate(seed(rng));
        let kem = KemKey::generate(seed(rng));
        let mut nonce = [0; 16];
        rng.fill_bytes(&mut nonce);
        let offer = Offer {
            device: wish.device,
            app: wish.app.clone(),
            nonce: Bytes(nonce),
            wireguard: wireguard.public,
            kem: kem.public(),
            candidates: limits::candidates(wish.candidates),
            packets: wish.packets,
            host: wish.host.cloned(),
        };
        let signed = sign_offer(&offer, channel.chain(), channel.settings().signer.as_ref())?;
        let pending = Self {
            app: wish.app.clone(),
            digest: offer_digest(&signed),
            wireguard,
            kem,
        };
        let message = FromNode::Request {
            request,
            app: wish.app.clone(),
            offer: signed,
        };
        Ok((pending, message))
    }

    /// The app that it is for.
    pub(super) const fn app(&self) -> &Name {
        &self.app
    }

    /// Checks the connector's answer and makes the tunnel of it, under the name that this agent has for
    /// its other side.
    pub(super) fn accept(
        self,
        now: Now,
        (granted, name): (&Granted, &Name),
        own: &[SocketAddr],
        channel: &Channel,
    ) -> Result<Install, AnswerError> {
        let trust = &channel.settings().trust;
        let (answer, leaf) = verify_answer(&granted.answer, trust, now.unix)?;
        if answer.connector != granted.connector || leaf.key != granted.connector_key {
            return Err(AnswerError::OtherConnector);
        }
        if answer.offer != self.digest || answer.grant != granted.grant {
            return Err(AnswerError::OtherOffer);
        }
        let secret = self.kem.open(&answer.kem)?;
        let meeting = Meeting {
            secret: secret.clone(),
            peer: limits::candidates(&answer.candidates),
            never: channel.controllers(),
        };
        let keys = match granted.carrier {
            Carrier::WireGuard => CarrierKeys::WireGuard {
                private: self.wireguard.private,
                peer: answer.wireguard,
                psk: secret,
            },
            Carrier::Quic => quic_keys(now, granted, channel),
        };
        Ok(Install {
            grant: granted.grant,
            app: name.clone(),
            keys,
            ttl: limits::ttl(granted.ttl_ms),
            relay: limits::relay(&granted.rendezvous.relay, own).ok_or(AnswerError::NoRelay)?,
            ticket: granted.rendezvous.ticket.clone(),
            standby: limits::standby(&granted.rendezvous.standby, own),
            services: granted.services.clone(),
            inner: granted.inner,
            meeting,
            egress: None,
        })
    }
}

/// The agent's end of TLS with exactly the granted connector.
fn quic_keys(now: Now, granted: &Granted, channel: &Channel) -> CarrierKeys {
    let settings = channel.settings();
    CarrierKeys::QuicClient(tls::tunnel_client(
        settings.trust.clone(),
        channel.chain(),
        Arc::clone(&settings.signer),
        tls::Peer {
            holder: Holder::Connector(granted.connector),
            key: granted.connector_key,
        },
        Arc::new(FixedTime(now.unix)),
    ))
}
