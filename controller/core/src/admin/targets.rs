//! Which targets an app may name without saying that it means the connector's own host.

use cardea_proto::{
    app::{AppSpec, Target},
    refusal::Refusal,
    scope::Scope,
};

use super::inventory::invalid;

/// Most targets, and most DNS names, of one app.
const PLACES_MAX: usize = 64;

/// Most labels of one app, and most bytes of each part of one.
const LABELS_MAX: usize = 64;
const LABEL_BYTES_MAX: usize = 256;

/// Names that every resolver answers with a loopback address (RFC 6761 §6.3).
const LOOPBACK_NAME: &str = "localhost";

/// Checks an app before it is published.
pub(super) fn check(spec: &AppSpec) -> Result<(), Refusal> {
    let AppSpec {
        name,
        targets,
        names,
        labels,
        host_scoped,
        ..
    } = spec;
    if targets.is_empty() {
        return Err(
            invalid(format!("app {name} has no target")).with_next("Give one: --target HOST:PORT")
        );
    }
    if targets.len() > PLACES_MAX || names.len() > PLACES_MAX {
        return Err(invalid(format!(
            "app {name} has more than {PLACES_MAX} targets or names"
        ))
        .with_next("Make several apps of it"));
    }
    let label_fits = |(key, value): (&String, &String)| {
        !key.is_empty() && key.len() <= LABEL_BYTES_MAX && value.len() <= LABEL_BYTES_MAX
    };
    if labels.len() > LABELS_MAX || !labels.iter().all(label_fits) {
        return Err(invalid(format!(
            "app {name} has more than {LABELS_MAX} labels, or one longer than {LABEL_BYTES_MAX} bytes"
        ))
        .with_next("Give fewer or shorter ones: --label KEY=VALUE"));
    }
    check_wildcards(spec)?;
    for (place, target) in targets.iter().enumerate() {
        if targets.iter().take(place).any(|before| before == target) {
            return Err(
                invalid(format!("app {name}: target {target} is given twice"))
                    .with_next("Leave one out"),
            );
        }
        let Some(kind) = host_scope(target) else {
            continue;
        };
        // A connector dials such an address only where it was named itself, and never many at once.
        let address = target.address();
        let is_many = address.is_some_and(|address| Scope::of(address) == Some(Scope::Many));
        if is_many || address.is_none() || !host_scoped {
            let next = match address {
                Some(_) if is_many => "Name the address of one host",
                Some(_) => "If exactly that is meant, add: --allow-host-scoped",
                None => "If exactly that is meant, name the address, with --allow-host-scoped",
            };
            return Err(invalid(format!(
                "app {name}: target {target} is {kind}, which leads to the connector's own host or network"
            ))
            .with_next(next));
        }
    }
    Ok(())
}

/// A target for many hosts is one for those that a wildcard name covers, and for nobody else.
fn check_wildcards(spec: &AppSpec) -> Result<(), Refusal> {
    let name = &spec.name;
    let wild = spec
        .targets
        .iter()
        .filter(|target| target.parent().is_some());
    let Some(target) = wild.clone().next() else {
        return Ok(());
    };
    if wild.count() < spec.targets.len() {
        return Err(invalid(format!(
            "app {name}: target {target} is for many hosts, and others are not"
        ))
        .with_next("Make two apps of it"));
    }
    if spec.names.is_empty() || spec.wildcards().count() < spec.names.len() {
        return Err(invalid(format!(
            "app {name}: target {target} is for many hosts, so each of its DNS names must be for many, too"
        ))
        .with_next("Give a wildcard name, and no other: --name '*.NAME'"));
    }
    Ok(())
}

/// What kind of place a target names that only exists as seen from one host.
fn host_scope(target: &Target) -> Option<&'static str> {
    let host = target.host.to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    if host == LOOPBACK_NAME || host.ends_with(".localhost") {
        return Some("a loopback name");
    }
    if target.address().is_none() && is_number(host) {
        return Some("a number, which every resolver reads in its own way");
    }
    Scope::of(target.address()?).map(Scope::as_str)
}

/// Whether the last label is a number: such a host is an address to some and a name to others.
///
/// Source: the URL standard's "ends in a number".
fn is_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    let hexadecimal = last.strip_prefix("0x");
    hexadecimal.is_some_and(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()))
        || (!last.is_empty() && last.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cardea_proto::{app::Transport, refusal::RefusalCode};

    use super::*;

    #[test]
    fn targets_on_the_connectors_own_host_are_refused_unless_they_are_meant() {
        for target in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "169.254.169.254:80",
            "169.254.0.1:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "0.0.0.0:80",
            "[::]:80",
            "240.0.0.1:80",
            "100.100.100.200:80",
            "[fd20:ce::254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[64:ff9b:1::1]:80",
            "[2002:7f00:1::1]:80",
            "[::127.0.0.1]:80",
        ] {
            check_target(target, false, false);
            check_target(target, true, true);
        }
        // No connector dials a name that leads home.
        for target in [
            "localhost:80",
            "LOCALHOST:80",
            "db.localhost:80",
            "127.1:80",
            "0x7f.1:80",
            "0x7f.0x1:80",
            "2130706433:80",
        ] {
            check_target(target, false, false);
            check_target(target, true, false);
        }
        for target in ["224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80"] {
            for host_scoped in [false, true] {
                let refusal = check(&app(target, host_scoped)).unwrap_err();
                assert!(refusal.to_string().contains("of one host"), "{refusal}");
            }
        }
        for target in [
            "10.9.0.10:80",
            "[fd00::1]:80",
            "db.corp.example:5432",
            "db1.corp2.example:5432",
            "192.0.2.1:53/udp",
        ] {
            check_target(target, false, true);
        }
    }

    #[test]
    fn a_target_for_many_hosts_goes_with_names_of_many_and_nothing_else() {
        let wild = "*.dev.internal.example:80";
        for (target, more, names, accepted) in [
            (wild, None, &["*.dev.corp.example"][..], true),
            (
                wild,
                Some("*.dev.internal.example:81"),
                &["*.dev.corp.example"],
                true,
            ),
            (wild, None, &[], false),
            (wild, None, &["api.dev.corp.example"], false),
            (
                wild,
                None,
                &["*.dev.corp.example", "dev.corp.example"],
                false,
            ),
            (wild, Some("10.9.0.10:80"), &["*.dev.corp.example"], false),
            (
                "10.9.0.10:80",
                None,
                &["*.dev.corp.example", "dev.corp.example"],
                true,
            ),
            ("*.dev.localhost:80", None, &["*.dev.corp.example"], false),
        ] {
            let mut app = app(target, false);
            app.targets.extend(more.map(|more| more.parse().unwrap()));
            app.names = names.iter().map(|name| name.parse().unwrap()).collect();
            assert_eq!(check(&app).is_ok(), accepted, "{target} {more:?} {names:?}");
        }
    }

    #[test]
    fn an_app_without_a_target_is_refused() {
        let mut app = app("10.0.0.1:1", false);
        app.targets.clear();
        assert_eq!(check(&app).unwrap_err().code, RefusalCode::Invalid);
    }

    fn check_target(target: &str, host_scoped: bool, accepted: bool) {
        let result = check(&app(target, host_scoped));
        assert_eq!(result.is_ok(), accepted, "{target} {result:?}");
        if let Err(refusal) = result {
            assert!(
                refusal.to_string().contains("--allow-host-scoped"),
                "{refusal}"
            );
        }
    }

    fn app(target: &str, host_scoped: bool) -> AppSpec {
        AppSpec {
            name: "wiki".parse().unwrap(),
            site: "default".parse().unwrap(),
            targets: vec![target.parse().unwrap()],
            names: Vec::new(),
            transport: Transport::Auto,
            labels: BTreeMap::new(),
            host_scoped,
        }
    }
}
