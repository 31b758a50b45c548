//! What may pass a tunnel: the granted addresses, and the ports of one app.

use std::net::IpAddr;

use cardea_proto::{
    access::InnerAddresses,
    app::{Protocol, Service, Target},
};

use crate::{
    command::{End, Family},
    drops::DropReason,
    egress::Egress,
    inner::packet::{Body, Packet},
};

/// The rule of one tunnel.
#[derive(Debug)]
pub(crate) struct Filter {
    end: End,
    services: Vec<Service>,
    inner: InnerAddresses,
    egress: Option<Egress>,
    family: Family,
    turn: usize,
    /// Whether packets of IPv4, and of IPv6, are the local network stack's.
    stacked: (bool, bool),
}

/// A service that this tunnel's app has: what [`Filter::check`] alone makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Permitted(Service);

impl Permitted {
    pub(crate) const fn service(self) -> Service {
        self.0
    }
}

impl Filter {
    pub(crate) fn new(
        end: End,
        services: Vec<Service>,
        inner: InnerAddresses,
        egress: Option<Egress>,
        family: Family,
    ) -> Self {
        Self {
            end,
            services,
            inner,
            egress,
            family,
            turn: 0,
            stacked: (false, false),
        }
    }

    pub(crate) const fn set_stacked(&mut self, v4: bool, v6: bool) {
        self.stacked = (v4, v6);
    }

    /// Whether packets of a family are the local network stack's.
    pub(crate) const fn is_stacked(&self, v6: bool) -> bool {
        if v6 { self.stacked.1 } else { self.stacked.0 }
    }

    pub(crate) const fn end(&self) -> End {
        self.end
    }

    /// Whether flows that begin here use IPv6 inside.
    pub(crate) const fn opens_v6(&self) -> bool {
        matches!(self.family, Family::V6)
    }

    /// Our own inner address and the peer's, of one family.
    pub(crate) const fn addresses(&self, v6: bool) -> (IpAddr, IpAddr) {
        let (device, app) = if v6 {
            (
                IpAddr::V6(self.inner.device_v6),
                IpAddr::V6(self.inner.app_v6),
            )
        } else {
            (
                IpAddr::V4(self.inner.device_v4),
                IpAddr::V4(self.inner.app_v4),
            )
        };
        match self.end {
            End::Agent => (device, app),
            End::Connector => (app, device),
        }
    }

    /// Whether an inner packet comes from the one address it may come from, and goes to ours.
    pub(crate) fn check_addresses(
        &self,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<(), DropReason> {
        let (own, peer) = self.addresses(source.is_ipv6());
        if source != peer {
            return Err(DropReason::SpoofedSource);
        }
        if destination != own {
            return Err(DropReason::WrongDestination);
        }
        Ok(())
    }

    /// Whether a packet of our own network stack has the addresses that the peer will ask of it.
    pub(crate) fn check_own_addresses(
        &self,
        source: IpAddr,
        destination: IpAddr,
    ) -> Result<(), DropReason> {
        if (source, destination) != self.addresses(source.is_ipv6()) {
            return Err(DropReason::SpoofedSource);
        }
        Ok(())
    }

    /// Whether what a packet carries is of the app: one of its ports, or an echo in the right direction.
    ///
    /// `is_ours` says that it comes from this end.
    pub(crate) fn check_body(
        &self,
        packet: &Packet,
        is_ours: bool,
    ) -> Result<Option<Permitted>, DropReason> {
        let to_app = is_ours == (self.end == End::Agent);
        let port = if to_app {
            packet.destination_port
        } else {
            packet.source_port
        };
        match packet.body {
            Body::Tcp { .. } => self.check(Protocol::Tcp, port).map(Some),
            Body::Udp => self.check(Protocol::Udp, port).map(Some),
            Body::Echo { asks } if asks == to_app => Ok(None),
            Body::Echo { .. } => Err(DropReason::WrongProtocol),
        }
    }

    /// Whether the app has this port.
    pub(crate) fn check(&self, protocol: Protocol, port: u16) -> Result<Permitted, DropReason> {
        let service = Service { protocol, port };
        if self.services.contains(&service) {
            Ok(Permitted(service))
        } else {
            Err(DropReason::WrongService)
        }
    }

    /// Where a connector dials for a permitted service.
    pub(crate) fn target(&mut self, permitted: Permitted) -> Option<Target> {
        self.turn = self.turn.wrapping_add(1);
        self.egress
            .as_ref()?
            .target(permitted.service(), self.turn)
            .cloned()
    }
}
