//! How a connector checks an offer, and makes its end of the tunnel.

use std::{net::SocketAddr, sync::Arc};

use cardea_credential::{
    signed::{offer_digest, sign_answer, verify_offer},
    tls::{self, FixedTime},
};
use cardea_proto::{
    access::{Admit, Answer, Offer, Signed},
    app::{Carrier, Service},
    codec::{Blob, Secret32},
    id::ConnectorId,
    identity::Holder,
    pattern,
    refusal::{Refusal, RefusalCode},
    time::Now,
};
use cardea_tunnel::{
    CarrierKeys, Egress, Install, Meeting,
    keys::{WireGuardKey, encapsulate},
};
use rand_chacha::ChaCha20Rng;

use crate::{channel::Channel, entropy::seed, limits};

/// Who admits, and where it may be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    pub(super) connector: ConnectorId,
    pub(super) candidates: &'a [SocketAddr],
}

/// Checks everything that an admission rests on, and makes the tunnel and the signed answer of it.
///
/// The controller says who may come; that it is really they who offered these keys is proven by the
/// device's own signature, which the controller cannot make.
pub(super) fn admit(
    now: Now,
    own: Own<'_>,
    admit: &Admit,
    channel: &Channel,
    rng: &mut ChaCha20Rng,
) -> Result<(Install, Signed), Refusal> {
    let offer = verified(now, admit, channel)?;
    let egress = egress(admit, &offer)?;
    let relay = limits::relay(&admit.rendezvous.relay, own.candidates)
        .ok_or_else(|| invalid("the grant names no relay"))?;
    if admit.ttl_ms == 0 {
        return Err(invalid("the grant has no life"));
    }
    let wireguard = WireGuardKey::generate(seed(rng));
    let (kem, psk) = encapsulate(&offer.kem, seed(rng))
        .map_err(|error| not_proven(format!("the offer's key exchange does not work: {error}")))?;
    let meeting = Meeting {
        secret: psk.clone(),
        peer: limits::candidates(&offer.candidates),
        never: admit.never.clone(),
    };
    let answer = answer(own, admit, &wireguard, kem);
    let settings = channel.settings();
    let signed = sign_answer(&answer, channel.chain(), settings.signer.as_ref())
        .map_err(|_| Refusal::new(RefusalCode::Internal, "the connector's key did not sign"))?;
    let keys = match admit.carrier {
        Carrier::WireGuard => wireguard_keys(wireguard, &offer, psk),
        Carrier::Quic => quic_keys(now, admit, channel),
    };
    let install = Install {
        grant: admit.grant,
        app: admit.app.clone(),
        keys,
        ttl: limits::ttl(admit.ttl_ms),
        relay,
        ticket: admit.rendezvous.ticket.clone(),
        standby: limits::standby(&admit.rendezvous.standby, own.candidates),
        services: services(&egress),
        inner: admit.inner,
        meeting,
        egress: Some(egress),
    };
    Ok((install, signed))
}

/// The offer, when it is by this device, with this key, for this app.
fn verified(now: Now, admit: &Admit, channel: &Channel) -> Result<Offer, Refusal> {
    let (offer, leaf) = verify_offer(&admit.offer, &channel.settings().trust, now.unix)
        .map_err(|error| not_proven(format!("the device's offer does not hold: {error}")))?;
    if offer.device != admit.device {
        return Err(not_proven("the offer is by another device".to_owned()));
    }
    if leaf.key != admit.device_key {
        return Err(not_proven(
            "the offer is signed with another key".to_owned(),
        ));
    }
    if offer.app != admit.app {
        return Err(not_proven("the offer is for another app".to_owned()));
    }
    Ok(offer)
}

fn answer(own: Own<'_>, admit: &Admit, wireguard: &WireGuardKey, kem: Blob) -> Answer {
    Answer {
        connector: own.connector,
        grant: admit.grant,
        offer: offer_digest(&admit.offer),
        wireguard: wireguard.public,
        kem,
        candidates: limits::candidates(own.candidates),
    }
}

fn wireguard_keys(key: WireGuardKey, offer: &Offer, psk: Secret32) -> CarrierKeys {
    CarrierKeys::WireGuard {
        private: key.private,
        peer: offer.wireguard,
        psk,
    }
}

/// The connector's end of TLS with exactly the granted device.
fn quic_keys(now: Now, admit: &Admit, channel: &Channel) -> CarrierKeys {
    let settings = channel.settings();
    CarrierKeys::QuicServer(tls::tunnel_server(
        settings.trust.clone(),
        channel.chain(),
        Arc::clone(&settings.signer),
        tls::Peer {
            holder: Holder::Device(admit.device),
            key: admit.device_key,
        },
        Arc::new(FixedTime(now.unix)),
    ))
}

/// Where flows may go: to the host that the device has signed, if the app has such a one.
fn egress(admit: &Admit, offer: &Offer) -> Result<Egress, Refusal> {
    if admit.targets.is_empty() {
        return Err(invalid("the app has no target"));
    }
    let targets = pattern::targets(&admit.patterns, &admit.targets, offer.host.as_ref())
        .map_err(|error| invalid(&error.to_string()))?;
    Ok(Egress {
        targets,
        host_scoped: admit.host_scoped,
        never: admit.never.clone(),
    })
}

/// The ports of the targets, without duplicates.
fn services(egress: &Egress) -> Vec<Service> {
    let mut services: Vec<Service> = egress.targets.iter().map(|target| target.service).collect();
    services.sort_unstable();
    services.dedup();
    services
}

fn not_proven(why: String) -> Refusal {
    Refusal::new(RefusalCode::NotProven, why)
}

fn invalid(why: &str) -> Refusal {
    Refusal::new(RefusalCode::Invalid, why)
}
