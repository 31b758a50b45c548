//! What a node makes of what it saw of its network: one judgement, with what to do.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use cardea_proto::{
    admin::Warning,
    netcheck::{
        CheckState, ControllerCheck, Filtering, Mapping, NatView, NetReport, Portal, RelayCheck,
        Way,
    },
};

/// Everything that was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Each way to each controller.
    pub controllers: Vec<ControllerCheck>,
    /// Each relay.
    pub relays: Vec<ObservedRelay>,
    /// This machine's addresses with the ports of the sockets that asked relays.
    pub own: Vec<SocketAddr>,
    /// The largest packet that reached a controller.
    pub path_mtu: Option<u32>,
    /// How far this machine's clock is ahead of a controller's.
    pub clock_ahead_ms: Option<i64>,
    /// What a controller that answered had against this node, and what to do.
    pub refused: Option<(String, String)>,
    /// Where plain HTTP was answered in a controller's place, and where that sends people.
    pub http: Option<(String, Option<String>)>,
}

/// What was seen of one relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedRelay {
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// Whether there was a ticket to ask with.
    pub is_asked: bool,
    /// Each address that answered: how soon, and where it sees the socket that asked all of them.
    pub answers: Vec<(SocketAddr, Duration, SocketAddr)>,
}

/// Judges what was seen.
#[must_use]
pub fn judge(observed: &Observed) -> NetReport {
    let relays: Vec<RelayCheck> = observed.relays.iter().map(relay).collect();
    let seen = Seen::of(observed, &relays);
    let portal = portal(observed, &seen);
    let nat = nat(observed);
    NetReport {
        usable: seen.is_usable(),
        controllers: observed.controllers.clone(),
        advice: advice(observed, &seen, &relays, (&nat, portal)),
        relays,
        nat,
        path_mtu: observed.path_mtu,
        clock_ahead_ms: observed.clock_ahead_ms,
        captive_portal: portal,
    }
}

/// The few questions on which everything rests.
struct Seen {
    /// Whether a controller answers by UDP.
    by_udp: bool,
    /// Whether one does by TLS.
    by_tls: bool,
    has_fronts: bool,
    relays_asked: usize,
    relays_answered: usize,
}

impl Seen {
    fn of(observed: &Observed, relays: &[RelayCheck]) -> Self {
        let all = &observed.controllers;
        let answers = |way| {
            let mut all = all.iter();
            all.any(|check| check.way == way && check.state == CheckState::Ok)
        };
        let count = |state| relays.iter().filter(|relay| relay.state == state).count();
        let answered = count(CheckState::Ok);
        Self {
            by_udp: answers(Way::Udp),
            by_tls: answers(Way::Tls),
            has_fronts: all.iter().any(|check| check.way == Way::Tls),
            relays_asked: answered + count(CheckState::Silent),
            relays_answered: answered,
        }
    }

    /// A front leads to its relay too; relays that nobody could ask are given the benefit of the doubt.
    const fn is_usable(&self) -> bool {
        self.by_tls || (self.by_udp && (self.relays_answered > 0 || self.relays_asked == 0))
    }
}

fn relay(observed: &ObservedRelay) -> RelayCheck {
    let best = observed.answers.iter().min_by_key(|(_, rtt, _)| *rtt);
    RelayCheck {
        addresses: observed.addresses.iter().map(ToString::to_string).collect(),
        state: match (best, observed.is_asked) {
            (Some(_), _) => CheckState::Ok,
            (None, true) => CheckState::Silent,
            (None, false) => CheckState::NotChecked,
        },
        rtt_ms: best.map(|(_, rtt, _)| millis(*rtt)),
        seen_as: best.map(|(_, _, seen)| seen.to_string()),
    }
}

/// Milliseconds, at least one.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000))
        .unwrap_or(u64::MAX)
        .max(1)
}

/// Compares where one socket is seen from several places.
fn nat(observed: &Observed) -> NatView {
    let answers = observed.relays.iter().flat_map(|relay| &relay.answers);
    // The families have sockets of their own; where there is a NAT, it is IPv4's.
    let mut by_family: BTreeMap<bool, Vec<(SocketAddr, SocketAddr)>> = BTreeMap::new();
    for (asked, _, seen) in answers {
        by_family
            .entry(asked.is_ipv6())
            .or_default()
            .push((*asked, *seen));
    }
    let mut seen_as: Vec<String> = by_family
        .values()
        .flatten()
        .map(|(_, seen)| seen.to_string())
        .collect();
    seen_as.sort();
    seen_as.dedup();
    let mapping = by_family
        .values()
        .next()
        .map_or(Mapping::NotChecked, |answers| {
            mapping(answers, &observed.own)
        });
    NatView {
        mapping,
        filtering: Filtering::NotTested,
        seen_as,
    }
}

fn mapping(answers: &[(SocketAddr, SocketAddr)], own: &[SocketAddr]) -> Mapping {
    if answers.iter().all(|(_, seen)| own.contains(seen)) {
        return Mapping::None;
    }
    let Some(((_, first), others)) = answers.split_first() else {
        return Mapping::NotChecked;
    };
    if others.is_empty() {
        return Mapping::Unknown;
    }
    if others.iter().all(|(_, seen)| seen == first) {
        return Mapping::EndpointIndependent;
    }
    let mut of_host: BTreeMap<IpAddr, Vec<SocketAddr>> = BTreeMap::new();
    for (asked, seen) in answers {
        of_host.entry(asked.ip()).or_default().push(*seen);
    }
    let mut twice = of_host.values().filter(|seen| seen.len() > 1).peekable();
    if twice.peek().is_none() {
        return Mapping::EndpointDependent;
    }
    let is_one = |seen: &Vec<SocketAddr>| seen.iter().all(|other| Some(other) == seen.first());
    if twice.all(is_one) {
        Mapping::AddressDependent
    } else {
        Mapping::AddressAndPortDependent
    }
}

fn portal(observed: &Observed, seen: &Seen) -> Portal {
    let mut checks = observed.controllers.iter();
    let is_other = checks.any(|check| check.state == CheckState::Impostor);
    match (
        seen.by_udp || seen.by_tls,
        observed.http.is_some() || is_other,
    ) {
        (true, _) => Portal::None,
        (false, true) => Portal::Suspected,
        (false, false) => Portal::Unknown,
    }
}

/// What is wrong, the worst first.
fn advice(
    observed: &Observed,
    seen: &Seen,
    relays: &[RelayCheck],
    (nat, portal): (&NatView, Portal),
) -> Vec<Warning> {
    let mut advice = Vec::new();
    let mut say = |code: &str, title: String, fix: String| {
        advice.push(Warning {
            code: code.to_owned(),
            title,
            fix,
        });
    };
    if let Some((title, fix)) = &observed.refused {
        say("refused", title.clone(), fix.clone());
    }
    of_controllers(observed, seen, portal, &mut say);
    of_relays(seen, relays, &mut say);
    match nat.mapping {
        Mapping::AddressDependent
        | Mapping::AddressAndPortDependent
        | Mapping::EndpointDependent => say(
            "symmetric_nat",
            "the NAT gives this machine another address for each peer (symmetric)".to_owned(),
            "Apps work; some go through a relay. For direct paths forward a UDP port to this machine \
             and start with: --direct-port PORT --candidate ADDRESS:PORT"
                .to_owned(),
        ),
        Mapping::None
        | Mapping::EndpointIndependent
        | Mapping::Unknown
        | Mapping::NotChecked => {}
    }
    if let Some(mtu) = observed.path_mtu.filter(|mtu| *mtu < MTU_USUAL) {
        say(
            "small_mtu",
            format!("packets of more than about {mtu} bytes do not reach the controller"),
            "Apps work with smaller packets; look at the MTU of a VPN or PPPoE on the way"
                .to_owned(),
        );
    }
    if let Some(ahead) = observed
        .clock_ahead_ms
        .filter(|ahead| ahead.abs() > SKEW_MAX_MS)
    {
        let how = if ahead > 0 { "ahead of" } else { "behind" };
        let seconds = ahead.unsigned_abs() / 1_000;
        say(
            "clock_skew",
            format!("this machine's clock is {seconds} s {how} the controller's"),
            "Set the clock: timedatectl set-ntp true".to_owned(),
        );
    }
    advice
}

/// Ways to the controller that do not work.
fn of_controllers(
    observed: &Observed,
    seen: &Seen,
    portal: Portal,
    say: &mut impl FnMut(&str, String, String),
) {
    let named = |way| {
        let all = observed.controllers.iter().filter(|check| check.way == way);
        let all: Vec<&str> = all.map(|check| check.address.as_str()).collect();
        all.join(", ")
    };
    let (udp, tls) = (named(Way::Udp), named(Way::Tls));
    if portal == Portal::Suspected {
        let page = observed.http.as_ref();
        let at = page.and_then(|(_, location)| location.clone());
        let at = at.or_else(|| page.map(|(host, _)| format!("http://{host}/")));
        say(
            "captive_portal",
            "something else answers in the controller's place: a captive portal, or a proxy that \
             reads TLS"
                .to_owned(),
            at.map_or_else(
                || "Sign in to this network in a browser, then: cardea netcheck".to_owned(),
                |at| format!("Open {at} in a browser and sign in, then: cardea netcheck"),
            ),
        );
    }
    let has_udp = observed
        .relays
        .iter()
        .any(|relay| !relay.answers.is_empty());
    match (seen.by_udp, seen.by_tls, seen.has_fronts) {
        (false, false, _) if has_udp && portal != Portal::Suspected => say(
            "unreachable",
            "the controller does not answer, although UDP reaches a relay".to_owned(),
            "Look at this machine's clock first: a controller is silent to knocks of another time, \
             and to nodes that were removed. Else it is down: ask its operator"
                .to_owned(),
        ),
        (false, false, true) => say(
            "unreachable",
            "the controller answers neither by UDP nor by TLS".to_owned(),
            format!(
                "Look at this machine's network; UDP to {udp} or TCP to {tls} must get out of it"
            ),
        ),
        (false, false, false) => say(
            "unreachable",
            "the controller does not answer by UDP, and has no port for TLS".to_owned(),
            format!(
                "Look at this machine's network; UDP to {udp} must get out of it, or the operator \
                 starts the controller with --listen-tls"
            ),
        ),
        (false, true, _) => say(
            "udp_blocked",
            "UDP does not reach the controller; TLS on TCP does".to_owned(),
            format!(
                "Apps work, slower and through a relay. Let UDP out of this network, to {udp} and to \
                 the relays, for speed and direct paths"
            ),
        ),
        (true, false, true) => say(
            "tls_silent",
            "the controller does not answer by TLS".to_owned(),
            format!(
                "Nothing is wrong while UDP works. For networks that drop it, tell the operator that \
                 TCP to {tls} is not answered"
            ),
        ),
        (true, true, _) | (true, false, false) => {}
    }
}

/// Relays that do not answer.
fn of_relays(seen: &Seen, relays: &[RelayCheck], say: &mut impl FnMut(&str, String, String)) {
    let silent = relays
        .iter()
        .filter(|relay| relay.state == CheckState::Silent);
    let silent: Vec<String> = silent.map(|relay| relay.addresses.join(", ")).collect();
    if silent.is_empty() || !seen.by_udp {
        return;
    }
    let places = silent.join("; ");
    if seen.relays_answered > 0 {
        return say(
            "relay_silent",
            format!("relay {places} does not answer"),
            "Others carry its tunnels meanwhile. Tell the operator: cardea-relay there, and its UDP \
             port"
                .to_owned(),
        );
    }
    let fix = if seen.by_tls {
        "Apps go over TLS meanwhile. Let UDP out of this network to there"
    } else {
        "No app can be opened. Let UDP out of this network to there, or tell the operator that \
         cardea-relay is down"
    };
    say(
        "relays_silent",
        format!("no relay answers by UDP: {places}"),
        fix.to_owned(),
    );
}

/// What a path must carry so that it is not worth a word: IPv6's least (RFC 8200 §5) and what
/// tunnels add.
const MTU_USUAL: u32 = 1_340;

/// How far clocks may differ. Source: the controller refuses nodes beyond that.
const SKEW_MAX_MS: i64 = 5 * 60 * 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_network_is_usable_and_needs_no_advice() {
        let report = judge(&open());
        assert!(report.usable && report.advice.is_empty(), "{report:?}");
        assert_eq!(report.nat.mapping, Mapping::EndpointIndependent);
        assert_eq!(report.captive_portal, Portal::None);
        assert_eq!(report.relays[0].rtt_ms, Some(12));
    }

    #[test]
    fn each_bad_case_has_its_advice() {
        let check = |change: fn(&mut Observed), usable, codes: &[&str]| {
            let mut observed = open();
            change(&mut observed);
            let report = judge(&observed);
            let found: Vec<&str> = report.advice.iter().map(|one| one.code.as_str()).collect();
            assert_eq!(
                (report.usable, found.as_slice()),
                (usable, codes),
                "{report:?}"
            );
        };
        check(|net| silence(net, Way::Udp), true, &["udp_blocked"]);
        check(|net| silence(net, Way::Tls), true, &["tls_silent"]);
        check(
            |net| {
                silence(net, Way::Udp);
                silence(net, Way::Tls);
            },
            false,
            &["unreachable"],
        );
        check(
            |net| {
                silence(net, Way::Udp);
                silence(net, Way::Tls);
                net.http = Some(("ztna.example".to_owned(), None));
            },
            false,
            &["captive_portal", "unreachable"],
        );
        check(|net| net.relays[0].answers.clear(), true, &["relay_silent"]);
        check(
            |net| {
                net.controllers.truncate(1);
                net.relays
                    .iter_mut()
                    .for_each(|relay| relay.answers.clear());
            },
            false,
            &["relays_silent"],
        );
        check(|net| net.path_mtu = Some(1_290), true, &["small_mtu"]);
        check(
            |net| net.clock_ahead_ms = Some(-400_000),
            true,
            &["clock_skew"],
        );
        check(
            |net| net.relays[1].answers[0].2 = at("203.0.113.5:2"),
            true,
            &["symmetric_nat"],
        );
        check(
            |net| net.refused = Some(("not enrolled".to_owned(), "Enroll".to_owned())),
            true,
            &["refused"],
        );
    }

    #[test]
    fn a_mapping_is_told_as_far_as_the_relays_that_answer_can_tell() {
        let check = |answers: &[(&str, &str)], expected| {
            let answers: Vec<_> = answers
                .iter()
                .map(|(asked, seen)| (at(asked), at(seen)))
                .collect();
            assert_eq!(
                mapping(&answers, &[at("10.0.0.2:1")]),
                expected,
                "{answers:?}"
            );
        };
        check(&[("192.0.2.1:1", "10.0.0.2:1")], Mapping::None);
        check(&[("192.0.2.1:1", "203.0.113.5:1")], Mapping::Unknown);
        let same = [
            ("192.0.2.1:1", "203.0.113.5:1"),
            ("192.0.2.2:1", "203.0.113.5:1"),
        ];
        check(&same, Mapping::EndpointIndependent);
        let other = [
            ("192.0.2.1:1", "203.0.113.5:1"),
            ("192.0.2.2:1", "203.0.113.5:2"),
        ];
        check(&other, Mapping::EndpointDependent);
        let by_address = [
            ("192.0.2.1:1", "203.0.113.5:1"),
            ("192.0.2.1:2", "203.0.113.5:1"),
            ("192.0.2.2:1", "203.0.113.5:2"),
        ];
        check(&by_address, Mapping::AddressDependent);
        let by_port = [
            ("192.0.2.1:1", "203.0.113.5:1"),
            ("192.0.2.1:2", "203.0.113.5:2"),
        ];
        check(&by_port, Mapping::AddressAndPortDependent);
    }

    fn open() -> Observed {
        let controller = |way| ControllerCheck {
            address: "ztna.example:1".to_owned(),
            way,
            state: CheckState::Ok,
            rtt_ms: Some(20),
            why: None,
        };
        let relay = |last: u8| ObservedRelay {
            addresses: vec![SocketAddr::from(([192, 0, 2, last], 7_444))],
            is_asked: true,
            answers: vec![(
                SocketAddr::from(([192, 0, 2, last], 7_444)),
                Duration::from_micros(11_200),
                at("203.0.113.5:1"),
            )],
        };
        Observed {
            controllers: vec![controller(Way::Udp), controller(Way::Tls)],
            relays: vec![relay(1), relay(2)],
            own: vec![at("10.0.0.2:1")],
            path_mtu: Some(1_480),
            clock_ahead_ms: Some(120),
            refused: None,
            http: None,
        }
    }

    fn silence(net: &mut Observed, way: Way) {
        for check in net.controllers.iter_mut().filter(|check| check.way == way) {
            check.state = CheckState::Silent;
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }
}
