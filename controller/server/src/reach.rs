//! Where this controller and its relays are, as nodes see them.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use cardea_host::exit::{Code, Failure};
use cardea_proto::{PORT_FRONT, PORT_RELAY, detour::FRONT_SCHEME};

use crate::{config::Settings, values::Place};

/// Addresses for nodes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// `HOST:PORT` of this controller, then its fronts with their scheme.
    pub(crate) addresses: Vec<String>,
    /// The addresses of each relay, the preferred one first.
    pub(crate) relays: Vec<Vec<SocketAddr>>,
    /// What no connector dials: the addresses of both.
    pub(crate) never: Vec<IpAddr>,
}

impl Reach {
    /// What follows from the settings once the sockets are bound. Names are looked up here, which
    /// may take the seconds that the resolver takes.
    pub(crate) fn of(
        settings: &Settings,
        listening: SocketAddr,
        relay_listening: Option<SocketAddr>,
        front_listening: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let advertise = match settings.advertise.as_slice() {
            [] => vec![own_place(listening)],
            given => given.to_vec(),
        };
        let mut addresses: Vec<String> = advertise
            .iter()
            .map(|place| place.with_port(listening.port()))
            .collect();
        addresses.extend(front_addresses(settings, &advertise, front_listening));
        let mut never: Vec<IpAddr> = advertise.iter().flat_map(addresses_of).collect();
        let relays = relays(settings, &advertise, relay_listening)?;
        never.extend(relays.iter().flatten().map(SocketAddr::ip));
        never.sort_unstable();
        never.dedup();
        Ok(Self {
            addresses,
            relays,
            never,
        })
    }
}

/// Where nodes reach relays: the first one, and those that stand by.
fn relays(
    settings: &Settings,
    advertise: &[Place],
    listening: Option<SocketAddr>,
) -> Result<Vec<Vec<SocketAddr>>, Failure> {
    let mut relays = Vec::new();
    match (settings.relay_addresses.as_slice(), listening) {
        ([], None) => {}
        ([], Some(listening)) => {
            let found = advertise.iter().flat_map(addresses_of);
            let first: Vec<_> = found
                .map(|ip| SocketAddr::new(ip, listening.port()))
                .collect();
            if first.is_empty() {
                let why = "no address was found for what --advertise names";
                let next = "Name the relay's address with --relay-address ADDRESS:PORT";
                return Err(Failure::of(Code::Usage, "relay", why, next));
            }
            relays.push(first);
        }
        (given, listening) => {
            let port = listening.map_or(PORT_RELAY, |listening| listening.port());
            relays.push(relay(given, "--relay-address", port)?);
        }
    }
    for standby in &settings.relay_standby {
        relays.push(relay(&standby.0, "--standby-relay", PORT_RELAY)?);
    }
    Ok(relays)
}

/// All addresses of one relay.
fn relay(places: &[Place], flag: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let mut relay = Vec::new();
    for place in places {
        let found = addresses_of(place);
        if found.is_empty() {
            let why = "no address was found for this name";
            return Err(Failure::of(
                Code::Usage,
                &format!("{flag} {place}"),
                why,
                "",
            ));
        }
        let port = place.port.unwrap_or(port);
        relay.extend(found.into_iter().map(|ip| SocketAddr::new(ip, port)));
    }
    Ok(relay)
}

/// Where nodes reach fronts: where they were told to, or on the hosts of a controller that has one.
fn front_addresses(
    settings: &Settings,
    advertise: &[Place],
    listening: Option<SocketAddr>,
) -> Vec<String> {
    let port = listening.map_or(PORT_FRONT, |listening| listening.port());
    match (settings.front_addresses.as_slice(), listening) {
        ([], None) => Vec::new(),
        ([], Some(_)) => {
            // The ports that are advertised are those of the channels.
            let hosts = advertise.iter().map(|place| Place {
                host: place.host.clone(),
                port: None,
            });
            let mut fronts: Vec<String> = hosts.map(|place| front(&place, port)).collect();
            fronts.dedup();
            fronts
        }
        (given, _) => given.iter().map(|place| front(place, port)).collect(),
    }
}

fn front(place: &Place, port: u16) -> String {
    format!("{FRONT_SCHEME}{}", place.with_port(port))
}

/// Where a controller is when nobody said: the address it listens on, or the name of its host.
fn own_place(listening: SocketAddr) -> Place {
    let host = if listening.ip().is_unspecified() {
        cardea_host::process::host_name()
    } else {
        listening.ip().to_string()
    };
    Place { host, port: None }
}

/// The addresses of a place; none when its name is unknown.
fn addresses_of(place: &Place) -> Vec<IpAddr> {
    if let Some(address) = place.address() {
        return vec![address];
    }
    let found = (place.host.as_str(), 0).to_socket_addrs();
    let mut addresses: Vec<IpAddr> = found
        .map(|found| found.map(|address| address.ip()).collect())
        .unwrap_or_default();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn ports_that_are_not_given_are_those_that_were_bound() {
        check(
            "advertise = [\"192.0.2.1\", \"[2001:db8::1]:443\"]",
            Some("0.0.0.0:9002"),
            (
                &["192.0.2.1:9001", "[2001:db8::1]:443"],
                &["192.0.2.1:9002", "[2001:db8::1]:9002"],
            ),
        );
        check(
            "advertise = [\"192.0.2.1:1\"]\n[relay]\naddresses = [\"192.0.2.9\", \"192.0.2.8:5\"]",
            Some("0.0.0.0:9002"),
            (&["192.0.2.1:1"], &["192.0.2.9:9002", "192.0.2.8:5"]),
        );
        check(
            "[relay]\naddresses = [\"192.0.2.9\"]",
            None,
            (&["127.0.0.1:9001"], &["192.0.2.9:7444"]),
        );
        check("", None, (&["127.0.0.1:9001"], &[]));
    }

    #[test]
    fn each_relay_that_stands_by_has_its_own_addresses_and_is_never_dialed() {
        let text = "advertise = [\"192.0.2.1\"]\n[relay]\nstandby = [\"192.0.2.9\", \"192.0.2.8:5,[2001:db8::8]:5\"]";
        let settings = Settings::of(toml::from_str::<Config>(text).unwrap()).unwrap();
        let listening = "0.0.0.0:9001".parse().unwrap();
        let relay = Some("0.0.0.0:9002".parse().unwrap());
        let reach = Reach::of(&settings, listening, relay, None).unwrap();
        let all = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let expected = [
            all(&["192.0.2.1:9002"]),
            all(&["192.0.2.9:7444"]),
            all(&["192.0.2.8:5", "[2001:db8::8]:5"]),
        ];
        assert_eq!(reach.relays, expected);
        assert!(reach.never.contains(&"2001:db8::8".parse().unwrap()));
    }

    #[test]
    fn controllers_and_relays_are_never_dialed() {
        let text = "advertise = [\"192.0.2.1\"]\n[relay]\naddresses = [\"192.0.2.9\"]";
        let settings = Settings::of(toml::from_str::<Config>(text).unwrap()).unwrap();
        let reach = Reach::of(&settings, "127.0.0.1:9001".parse().unwrap(), None, None).unwrap();
        let never: Vec<String> = reach.never.iter().map(ToString::to_string).collect();
        assert_eq!(never, ["192.0.2.1", "192.0.2.9"]);
    }

    #[test]
    fn a_front_is_on_the_controllers_hosts_or_where_it_is_said_to_be() {
        for (more, expected) in [
            (
                "",
                ["tls://192.0.2.1:9443", "tls://[2001:db8::1]:9443"].as_slice(),
            ),
            (
                "[relay]\ntls_addresses = [\"a\", \"b:1\"]",
                &["tls://a:9443", "tls://b:1"],
            ),
        ] {
            let text = format!("advertise = [\"192.0.2.1:7\", \"2001:db8::1\"]\n{more}");
            let settings = Settings::of(toml::from_str::<Config>(&text).unwrap()).unwrap();
            let listening = "0.0.0.0:9001".parse().unwrap();
            let front = Some("0.0.0.0:9443".parse().unwrap());
            let reach = Reach::of(&settings, listening, None, front).unwrap();
            assert_eq!(reach.addresses[2..], *expected);
        }
        let text = "advertise = [\"192.0.2.1\"]\n[relay]\ntls_addresses = [\"relay\"]";
        let settings = Settings::of(toml::from_str::<Config>(text).unwrap()).unwrap();
        let listening = "0.0.0.0:9001".parse().unwrap();
        let reach = Reach::of(&settings, listening, None, None).unwrap();
        assert_eq!(reach.addresses, ["192.0.2.1:9001", "tls://relay:443"]);
    }

    fn check(config: &str, relay: Option<&str>, expected: (&[&str], &[&str])) {
        let settings = Settings::of(toml::from_str::<Config>(config).unwrap()).unwrap();
        let listening = "127.0.0.1:9001".parse().unwrap();
        let relay = relay.map(|relay| relay.parse().unwrap());
        let reach = Reach::of(&settings, listening, relay, None).unwrap();
        assert_eq!(reach.addresses, expected.0);
        let relays = reach.relays.iter().flatten();
        let relays: Vec<String> = relays.map(ToString::to_string).collect();
        assert_eq!(relays, expected.1);
    }
}
