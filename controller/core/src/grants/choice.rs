//! Which connector serves a grant, and over which carrier.

use std::collections::BTreeSet;

use cardea_proto::{
    app::{AppSpec, Carrier, Transport},
    id::ConnectorId,
    name::Name,
    pattern::HostError,
    refusal::{Refusal, RefusalCode},
};

use crate::controller::Controller;

impl Controller {
    /// The connected connector of a site with the fewest tunnels, promised ones included.
    pub(super) fn choose(&self, site: &Name, tried: &BTreeSet<ConnectorId>) -> Option<ConnectorId> {
        self.world
            .state
            .connectors_of(site)
            .filter(|id| !tried.contains(id) && self.channels.of_connector(*id).is_some())
            .min_by_key(|id| {
                let promised = self.live.promised.get(id).copied().unwrap_or(0);
                (self.world.state.connector_load(*id) + promised, *id)
            })
    }
}

/// Flows travel better over QUIC, which has streams; packets over WireGuard, which only seals them.
pub(super) const fn carrier(app: &AppSpec, packets: bool) -> Carrier {
    match app.transport {
        Transport::Auto if packets => Carrier::WireGuard,
        Transport::Auto | Transport::Quic => Carrier::Quic,
        Transport::WireGuard => Carrier::WireGuard,
    }
}

/// The refusal when nobody serves a site.
pub(super) fn no_connector(app: &Name, site: &Name, asked: bool) -> Refusal {
    let why = if asked {
        format!("{app}: no connector of site {site} could take the tunnel")
    } else {
        format!("{app}: no connector of site {site} is connected")
    };
    Refusal::new(RefusalCode::NoConnector, why)
        .with_next("An admin can look at: cardeactl connector ls")
}

/// The refusal of a host that the app does not have.
pub(super) fn no_host(app: &Name, host: Option<&Name>, error: HostError) -> Refusal {
    let why = match host {
        Some(host) => format!("{app}: {error}: {host}"),
        None => format!("{app}: {error}"),
    };
    Refusal::new(RefusalCode::NotFound, why).with_next("See its names: cardea apps")
}
