//! The agent's network interface: apps have addresses, and whatever is sent there goes to them.
//!
//! ```text
//! a program ─▶ kernel ─▶ interface ─▶ which app ─▶ its tunnel, or parked until there is one
//! a program ◀─ kernel ◀─ interface ◀─ the app's address ◀─ opened and checked
//! ```
//!
//! Only the addresses of apps are routed here, by a table of our own before the main one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use cardea_host::tun::{Network, Prefix, TunError};
use cardea_node::is_no_way;
use cardea_proto::{
    access::InnerAddresses,
    app::{Protocol, Service},
    id::GrantId,
    name::Name,
    refusal::RefusalCode,
};
use cardea_tunnel::{
    Bundle, DropReason, Input, Packets,
    bundle::{self, Refused},
    packet::Packet,
};

use super::{
    ListenerId,
    flow::Carry,
    listen::Who,
    plane::Plane,
    routes::Routes,
    stack::{Interface, Stack},
};
use crate::virtual_addresses::{Both, Ranges, SEATS_MAX};

/// What an agent has of the machine, so that those of several organisations stand side by side: an
/// interface, a routing table, and the place of its rules, before the main table's (32,766).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    /// Which one: the first free.
    pub(crate) number: usize,
    name: &'static str,
    table: u32,
    priority: u32,
}

/// All seats; a connector has the interface, the table and the place that are left out.
const SEATS: [Seat; SEATS_MAX] = [
    Seat::new(0, "cardea0", 0),
    Seat::new(1, "cardea2", 2),
    Seat::new(2, "cardea3", 3),
];

impl Seat {
    const fn new(number: usize, name: &'static str, place: u32) -> Self {
        Self {
            number,
            name,
            table: 7_443 + place,
            priority: 5_210 + place,
        }
    }
}

/// Apps that are routed before those that are gone no longer are.
const ROUTED_MAX: usize = 8_192;

/// Bytes of packets that wait for tunnels at a time.
const PARKED_BYTES_MAX: usize = 1024 * 1024;

/// Packets that are read in one turn.
const READS_MAX: usize = 64;

/// Who waits at no listener.
const NOBODY: ListenerId = ListenerId(0);

/// A host may do without IPv6; then its half is left out.
pub(super) fn unless_off(v6: bool, made: Result<(), TunError>) -> Result<(), TunError> {
    match made {
        Err(error) if v6 => {
            tracing::warn!(%error, "no app is reached over IPv6");
            Ok(())
        }
        made => made,
    }
}

/// The interface, and which app is at which address.
#[derive(Debug)]
pub(crate) struct Front {
    pub(super) stack: Stack,
    seat: Seat,
    ranges: Ranges,
    own: Both,
    apps: BTreeMap<Name, Both>,
    names: BTreeMap<IpAddr, Name>,
    pub(super) parked_bytes: usize,
}

impl Front {
    /// Makes an interface on the first seat that is free.
    ///
    /// # Errors
    /// [`TunError`], which says what is missing, or that every seat is taken.
    pub(crate) fn take_seat() -> Result<(Seat, Stack), TunError> {
        let mut last = None;
        for seat in SEATS {
            match Stack::open(seat.name) {
                Err(TunError::Busy(name)) => last = Some(TunError::Busy(name)),
                stack => return Ok((seat, stack?)),
            }
        }
        Err(last.unwrap_or(TunError::NoDevice))
    }

    /// Gives an interface this device's own addresses.
    ///
    /// # Errors
    /// [`TunError`].
    pub(crate) fn open(
        (seat, mut stack): (Seat, Stack),
        ranges: Ranges,
        own: Both,
    ) -> Result<Self, TunError> {
        let Stack { network, index, .. } = &mut stack;
        for (range, v6) in ranges.prefixes().into_iter().zip([false, true]) {
            let made = network
                .add_address(*index, own.of(v6))
                .and_then(|()| network.add_rule(range, seat.table, seat.priority));
            unless_off(v6, made)?;
        }
        tracing::info!(
            interface = stack.name(),
            "apps are reached through an interface"
        );
        Ok(Self {
            stack,
            seat,
            ranges,
            own,
            apps: BTreeMap::new(),
            names: BTreeMap::new(),
            parked_bytes: 0,
        })
    }

    /// The interface's number and name.
    pub(crate) fn interface(&self) -> (u32, &str) {
        (self.stack.index, self.stack.name())
    }

    /// Routes these apps. Who is gone stays routed, so that what programs still send there is refused
    /// and leaves by no other interface, until somebody else has its address.
    pub(super) fn set_apps(&mut self, mut apps: BTreeMap<Name, Both>) {
        let taken: BTreeSet<IpAddr> = apps.values().map(|both| both.of(false)).collect();
        let mut gone = Vec::new();
        for (app, both) in &self.apps {
            if apps.get(app) == Some(both) {
                continue;
            }
            let is_free = !apps.contains_key(app) && !taken.contains(&both.of(false));
            if is_free && apps.len() < ROUTED_MAX {
                apps.insert(app.clone(), *both);
            } else {
                gone.push(*both);
            }
        }
        let Stack { network, index, .. } = &mut self.stack;
        for address in gone.iter().flat_map(|both| [both.of(false), both.of(true)]) {
            let removed = network.remove_route(*index, self.seat.table, Prefix::host(address));
            if let Err(error) = removed {
                tracing::warn!(%error, "an app's route stays");
            }
            self.names.remove(&address);
        }
        for (app, both) in &apps {
            if self.apps.get(app) == Some(both) {
                continue;
            }
            for v6 in [false, true] {
                let (to, from) = (both.of(v6), self.own.of(v6));
                if let Err(error) =
                    network.add_route((*index, self.seat.table), Prefix::host(to), Some(from))
                {
                    tracing::warn!(%error, app.name = %app, "an app has no route");
                }
                self.names.insert(to, app.clone());
            }
        }
        self.apps = apps;
    }

    /// Gives opened packets to the kernel, each with the address of its app.
    pub(super) fn deliver<W>(&mut self, routes: &Routes<W>, packets: &mut Packets) {
        let mut last: Option<(GrantId, Both)> = None;
        let (apps, own) = (&self.apps, self.own);
        packets.retain(|grant, packet, bytes| {
            let app = match last {
                Some((of, app)) if of == grant => Some(app),
                Some(_) | None => routes.app(grant).and_then(|app| apps.get(app)).copied(),
            };
            let Some(app) = app else {
                return false;
            };
            last = Some((grant, app));
            let v6 = packet.source.is_ipv6();
            bundle::readdress(bytes, packet, app.of(v6), own.of(v6));
            true
        });
        self.stack.write(packets);
    }

    /// Tells the program that sent a packet that it goes nowhere.
    fn refuse(&self, bundle: &Bundle<'_>, why: Refused) {
        if let Some(answer) = bundle.refusal(why) {
            self.stack.answer(&answer);
        }
    }

    /// The app that a packet is for.
    fn find(&self, source: IpAddr, destination: IpAddr) -> Result<&Name, DropReason> {
        if source != self.own.of(source.is_ipv6()) {
            return Err(DropReason::SpoofedSource);
        }
        self.names
            .get(&destination)
            .ok_or(DropReason::WrongDestination)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // Routes and addresses go with the interface; rules would stay.
        for range in self.ranges.prefixes() {
            let removed = Network::open().and_then(|mut network| {
                network.remove_rule(range, self.seat.table, self.seat.priority)
            });
            if let Err(error) = removed {
                tracing::warn!(%error, "a routing rule stays");
            }
        }
    }
}

impl Plane {
    /// Takes what the local network stack sends into tunnels, a bounded number of packets.
    pub(super) fn serve_interface(&mut self) {
        for _ in 0..READS_MAX {
            if self.relays.is_full() {
                return;
            }
            let Some(stack) = self.interface.as_mut().map(Interface::stack) else {
                return;
            };
            if !stack.readable {
                return;
            }
            let mut buffer = std::mem::take(&mut self.carry.stacked);
            let read = stack.read(&mut buffer);
            if let Some(bytes) = read.and_then(|len| buffer.get_mut(..len)) {
                self.take_stacked(bytes);
            }
            self.carry.stacked = buffer;
            // What another packet may join waits for it.
            if self.carry.out.transmits.len() > 1 {
                let now = self.carry.now.instant;
                self.relays.send(now, &mut self.wiring, &mut self.carry.out);
            }
        }
    }

    /// One packet of the local network stack, with its virtio header.
    pub(super) fn take_stacked(&mut self, bytes: &mut [u8]) {
        let mut bundle = match Bundle::read(bytes) {
            Ok(bundle) => bundle,
            Err(reason) => return self.carry.tunnels.note_drop(reason),
        };
        let front = match &mut self.interface {
            Some(Interface::Front(front)) => front,
            Some(Interface::Back(back)) => {
                let routed = back.route(self.carry.now.instant, &mut bundle);
                return match routed {
                    Ok(grant) => self.carry.input(Input::Bundle { grant, bundle }),
                    Err(reason) => self.carry.tunnels.note_drop(reason),
                };
            }
            None => return,
        };
        let packet = bundle.packet();
        let app = match front.find(packet.source, packet.destination) {
            Ok(app) => app,
            Err(reason) => return self.carry.tunnels.note_drop(reason),
        };
        let open = self.routes.open(app);
        let service = service(packet);
        if self.routes.is_missing(app, open, service) {
            self.carry.tunnels.note_drop(DropReason::WrongService);
            return front.refuse(&bundle, Refused::NoPort);
        }
        match open.and_then(|grant| Some((grant, self.routes.inner(grant)?))) {
            Some((grant, inner)) => self.carry.stacked_input(grant, inner, bundle),
            None if front.parked_bytes + bytes_of(&bundle) > PARKED_BYTES_MAX => {
                self.carry.tunnels.note_drop(DropReason::QueueFull);
            }
            None => {
                let app = app.clone();
                let parked = bundle.unread();
                front.parked_bytes += parked.len();
                let waiting = self.waiting(NOBODY, service, Who::Packet(parked));
                self.want(&app, waiting);
            }
        }
    }

    /// A packet that waited for its tunnel goes on.
    pub(super) fn unpark(&mut self, mut packet: Vec<u8>) {
        if let Some(Interface::Front(front)) = &mut self.interface {
            front.parked_bytes = front.parked_bytes.saturating_sub(packet.len());
        }
        self.take_stacked(&mut packet);
    }

    /// A packet waited for a tunnel that there will not be: its program hears of that.
    pub(super) fn refuse_packet(&mut self, mut packet: Vec<u8>, code: RefusalCode) {
        let Some(Interface::Front(front)) = &mut self.interface else {
            return;
        };
        front.parked_bytes = front.parked_bytes.saturating_sub(packet.len());
        let why = if is_no_way(code) {
            Refused::Unreachable
        } else {
            Refused::Prohibited
        };
        if let Ok(bundle) = Bundle::read(&mut packet) {
            front.refuse(&bundle, why);
        }
    }
}

impl Carry {
    /// Gives a packet to its tunnel, with the addresses that it has inside.
    fn stacked_input(&mut self, grant: GrantId, inner: InnerAddresses, mut bundle: Bundle<'_>) {
        if bundle.packet().source.is_ipv6() {
            bundle.readdress(inner.device_v6.into(), inner.app_v6.into());
        } else {
            bundle.readdress(inner.device_v4.into(), inner.app_v4.into());
        }
        self.input(Input::Bundle { grant, bundle });
    }
}

fn bytes_of(bundle: &Bundle<'_>) -> usize {
    bundle::HEADER_BYTES + bundle.packet().head_len + bundle.payload_len()
}

/// The service that a packet asks for; an echo asks for none, and no service has port 0.
fn service(packet: &Packet) -> Service {
    Service {
        protocol: packet.body.protocol().unwrap_or(Protocol::Udp),
        port: packet.destination_port,
    }
}
