use domain::{
    base::{
        Message, MessageBuilder, Rtype,
        iana::{Class, Opcode, Rcode},
    },
    rdata::{A, Aaaa, Ptr, Soa},
};
use proptest::prelude::*;

use super::{query as asking, *};

const WIKI: AppAddresses = AppAddresses {
    v4: Ipv4Addr::new(100, 64, 0, 7),
    v6: Some(Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 7)),
};
const DB: AppAddresses = AppAddresses {
    v4: Ipv4Addr::new(100, 127, 255, 9),
    v6: None,
};

#[test]
fn every_name_has_one_owner() {
    let names = names();
    for (name, expected) in [
        ("wiki.corp.example", Owner::App(WIKI)),
        ("WiKi.CORP.example.", Owner::App(WIKI)),
        ("docs.elsewhere.example", Owner::App(WIKI)),
        ("db.eu.corp.example", Owner::App(DB)),
        ("eu.corp.example", Owner::Above),
        ("us.corp.example", Owner::Nobody),
        ("a.wiki.corp.example", Owner::Nobody),
        ("_443._https.docs.elsewhere.example", Owner::Nobody),
        ("payroll.corp.example", Owner::Nobody),
        ("ztna.corp.example", Owner::Others),
        ("a.ztna.corp.example", Owner::Nobody),
        ("www.corp.example", Owner::Others),
        ("a.www.corp.example", Owner::Others),
        ("corp.example", Owner::Others),
        ("notcorp.example", Owner::Others),
        ("elsewhere.example", Owner::Others),
        ("example", Owner::Others),
        ("wiki", Owner::Others),
        ("8.0.64.100.in-addr.arpa", Owner::Nobody),
        ("1.0.0.127.in-addr.arpa", Owner::Others),
        ("64.100.in-addr.arpa", Owner::Others),
    ] {
        let name = parse(name).unwrap();
        assert_eq!(names.owner(&name), expected, "{name}");
    }
    let wiki = parse("docs.elsewhere.example").unwrap();
    for address in [IpAddr::V4(WIKI.v4), IpAddr::V6(WIKI.v6.unwrap())] {
        let reverse = Dns::reverse_from_addr(address).unwrap();
        assert_eq!(names.owner(&reverse), Owner::Address(&wiki), "{reverse}");
    }
    let other = Dns::reverse_from_addr("fd12::8".parse().unwrap()).unwrap();
    assert_eq!(names.owner(&other), Owner::Nobody);
    let other = Dns::reverse_from_addr("fd13::8".parse().unwrap()).unwrap();
    assert_eq!(names.owner(&other), Owner::Others);
}

#[test]
fn an_app_is_found_at_its_addresses_and_has_nothing_else() {
    let code = |name: &str, kind| {
        let answer = ask(&names(), name, kind);
        let message = Message::from_octets(answer).unwrap();
        let nothing = message.authority().unwrap().limit_to::<Soa<_>>().count();
        let found = message.header_counts().ancount();
        assert!(message.header().aa() && message.header().ra());
        (message.header().rcode(), found, nothing)
    };
    let ok = Rcode::NOERROR;
    for (name, kind, expected) in [
        ("wiki.corp.example", Rtype::A, (ok, 1, 0)),
        ("wiki.corp.example", Rtype::AAAA, (ok, 1, 0)),
        ("wiki.corp.example", Rtype::ANY, (ok, 2, 0)),
        ("db.eu.corp.example", Rtype::AAAA, (ok, 0, 1)),
        ("wiki.corp.example", Rtype::HTTPS, (ok, 0, 1)),
        ("wiki.corp.example", Rtype::SVCB, (ok, 0, 1)),
        ("wiki.corp.example", Rtype::DS, (ok, 0, 1)),
        ("wiki.corp.example", Rtype::from_int(65_280), (ok, 0, 1)),
        ("eu.corp.example", Rtype::A, (ok, 0, 1)),
        ("payroll.corp.example", Rtype::A, (Rcode::NXDOMAIN, 0, 1)),
        ("7.0.64.100.in-addr.arpa", Rtype::PTR, (ok, 1, 0)),
        ("7.0.64.100.in-addr.arpa", Rtype::A, (ok, 0, 1)),
    ] {
        assert_eq!(code(name, kind), expected, "{name} {kind}");
    }
    let answer = Message::from_octets(ask(&names(), "WIKI.corp.example", Rtype::A)).unwrap();
    let record = answer
        .answer()
        .unwrap()
        .limit_to::<A>()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(record.data().addr(), WIKI.v4);
    assert_eq!(record.owner().to_string(), "WIKI.corp.example");
    let answer = Message::from_octets(ask(&names(), "wiki.corp.example", Rtype::AAAA)).unwrap();
    let record = answer
        .answer()
        .unwrap()
        .limit_to::<Aaaa>()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(Some(record.data().addr()), WIKI.v6);
    let answer =
        Message::from_octets(ask(&names(), "7.0.64.100.in-addr.arpa", Rtype::PTR)).unwrap();
    let record = answer
        .answer()
        .unwrap()
        .limit_to::<Ptr<_>>()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(
        record.data().ptrdname().to_string(),
        "docs.elsewhere.example"
    );
}

#[test]
fn what_is_not_ours_is_passed_on_or_refused_and_what_is_ours_never() {
    let mut names = names();
    let verdict = names.judge(&query("other.example", Rtype::A, false));
    let Verdict::PassOn { failed } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(rcode(&failed), Rcode::SERVFAIL);
    assert!(is_failure(&failed) && !is_failure(&ask(&names, "wiki.corp.example", Rtype::A)));
    names.pass_on(false);
    assert_eq!(
        rcode(&ask(&names, "other.example", Rtype::A)),
        Rcode::REFUSED
    );
    names.pass_on(true);
    // Before the apps are known, and for what was one of them the last time.
    let mut young = Names::new(&"corp.example".parse().unwrap(), []);
    young.pass_on(true);
    young.expect(["docs.elsewhere.example"]);
    for name in [
        "wiki.corp.example",
        "docs.elsewhere.example",
        "a.corp.example",
    ] {
        assert_eq!(
            rcode(&ask(&young, name, Rtype::A)),
            Rcode::SERVFAIL,
            "{name}"
        );
    }
    let others = young.judge(&query("other.example", Rtype::A, false));
    assert!(matches!(others, Verdict::PassOn { .. }));
    // Whatever is asked about it.
    for kind in [Rtype::AXFR, Rtype::IXFR] {
        let answer = ask(&names, "wiki.corp.example", kind);
        assert_eq!(rcode(&answer), Rcode::REFUSED);
    }
    let mut builder = MessageBuilder::new_vec().question();
    let wiki = parse("wiki.corp.example").unwrap();
    builder.push((&wiki, Rtype::TXT, Class::CH)).unwrap();
    let Verdict::Answer(answer) = names.judge(&builder.finish()) else {
        panic!("passed on");
    };
    assert_eq!(rcode(&answer), Rcode::REFUSED);
}

#[test]
fn edns_is_answered_in_kind_and_dnssec_flags_are_kept() {
    let names = names();
    let plain = ask(&names, "wiki.corp.example", Rtype::A);
    assert!(Message::from_octets(plain).unwrap().opt().is_none());
    let Verdict::Answer(answer) = names.judge(&query("wiki.corp.example", Rtype::A, true)) else {
        panic!("passed on");
    };
    let answer = Message::from_octets(answer).unwrap();
    let opt = answer.opt().unwrap();
    assert!(opt.dnssec_ok() && opt.udp_payload_size() == 1_232);
    assert!(answer.header().cd() && !answer.header().ad());
}

#[test]
fn what_is_malformed_is_said_to_be_so_and_an_answer_is_no_query() {
    let names = names();
    let good = query("wiki.corp.example", Rtype::A, false);
    let code = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        match names.judge(&bytes) {
            Verdict::Answer(answer) => {
                assert_eq!(answer[..2], bytes[..2]);
                Some(rcode(&answer))
            }
            Verdict::Ignore => None,
            Verdict::PassOn { .. } | Verdict::Give { .. } => panic!("passed on"),
        }
    };
    assert_eq!(code(&|bytes| bytes.truncate(11)), None);
    assert_eq!(code(&|bytes| bytes[2] |= 0x80), None);
    assert_eq!(code(&|bytes| bytes.truncate(20)), Some(Rcode::FORMERR));
    assert_eq!(code(&|bytes| bytes[5] = 0), Some(Rcode::FORMERR));
    assert_eq!(code(&|bytes| bytes[5] = 2), Some(Rcode::FORMERR));
    assert_eq!(code(&|bytes| bytes[11] = 1), Some(Rcode::FORMERR));
    // A name that points to itself.
    let pointing = |bytes: &mut Vec<u8>| {
        bytes.truncate(12);
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    };
    assert_eq!(code(&pointing), Some(Rcode::FORMERR));
    let update = u8::from(Opcode::UPDATE) << 3;
    assert_eq!(code(&|bytes| bytes[2] = update), Some(Rcode::NOTIMP));
    let mut twice = query("wiki.corp.example", Rtype::A, true);
    let opt = twice.split_off(twice.len() - 11);
    twice.extend(opt.iter().chain(&opt));
    twice[11] = 2;
    let Verdict::Answer(answer) = names.judge(&twice) else {
        panic!("passed on");
    };
    assert_eq!(rcode(&answer), Rcode::FORMERR);
    let mut version = query("wiki.corp.example", Rtype::A, true);
    let at = version.len() - 5;
    version[at] = 1;
    let Verdict::Answer(answer) = names.judge(&version) else {
        panic!("passed on");
    };
    let answer = Message::from_octets(answer).unwrap();
    assert_eq!(answer.opt_rcode(), domain::base::iana::OptRcode::BADVERS);
}

#[test]
fn what_was_found_is_read_from_an_answer() {
    let found_at = |name: &str, v6| {
        let Verdict::Answer(answer) = names().judge(&asking(name, v6, 9).unwrap()) else {
            panic!("passed on");
        };
        assert_eq!(id(&answer), Some(9));
        found(&answer)
    };
    let v6 = WIKI.v6.unwrap();
    assert_eq!(
        found_at("wiki.corp.example", false),
        Some(vec![WIKI.v4.into()])
    );
    assert_eq!(found_at("wiki.corp.example", true), Some(vec![v6.into()]));
    assert_eq!(found_at("db.eu.corp.example", true), Some(Vec::new()));
    assert_eq!(found_at("payroll.corp.example", false), None);
    assert_eq!(asking("no..name", false, 9), None);
}

#[test]
fn an_answer_has_the_number_and_the_question_of_its_query() {
    let asked = with_id(&query("other.example", Rtype::A, false), 7);
    assert_eq!(id(&asked), Some(7));
    let mut answer = asked.clone();
    assert!(!is_answer(&asked, &answer));
    answer[2] |= 0x80;
    assert!(is_answer(&asked, &answer));
    assert!(!is_answer(&asked, &with_id(&answer, 8)));
    let mut other = with_id(&query("another.example", Rtype::A, false), 7);
    other[2] |= 0x80;
    assert!(!is_answer(&asked, &other));
    let error = [0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(is_answer(&asked, &error));
    assert!(!is_answer(&asked, &error[..11]));
}

#[test]
fn a_system_that_can_split_asks_for_the_domain_and_for_names_elsewhere() {
    let routed: Vec<String> = names().routed().collect();
    assert_eq!(routed, ["corp.example", "docs.elsewhere.example"]);
    let odd = Names::new(&"not@dns..name".parse().unwrap(), []);
    assert_eq!(odd.routed().count(), 0);
}

#[test]
fn a_host_below_a_wildcard_is_given_addresses_once_and_nothing_else_is() {
    let parsed = |name: &str| parse(name).unwrap();
    let host = |name: &str| Owner::Host(name.parse().unwrap());
    let app: Name = "dev".parse().unwrap();
    let patterns =
        ["*.dev.corp.example", "*.lab.elsewhere.example"].map(|name| name.parse().unwrap());
    let mut names = names();
    names.set_apps([(&app, &patterns[..], DB)], []);
    for (name, expected) in [
        ("api.dev.corp.example", host("api.dev.corp.example")),
        ("API.dev.Corp.example.", host("api.dev.corp.example")),
        ("x.lab.elsewhere.example", host("x.lab.elsewhere.example")),
        ("dev.corp.example", Owner::App(DB)),
        ("lab.elsewhere.example", Owner::Others),
        ("a.api.dev.corp.example", Owner::Nobody),
        ("a.b.lab.elsewhere.example", Owner::Nobody),
        ("-a.dev.corp.example", Owner::Nobody),
        ("api.prod.corp.example", Owner::Nobody),
    ] {
        assert_eq!(names.owner(&parsed(name)), expected, "{name}");
    }
    let question = query("api.dev.corp.example", Rtype::A, false);
    let Verdict::Give { host, failed } = names.judge(&question) else {
        panic!("it has no addresses yet");
    };
    assert!(host.as_str() == "api.dev.corp.example" && is_failure(&failed));
    // Nobody gets addresses for such a question.
    let nothing = ask(&names, "api.dev.corp.example", Rtype::HTTPS);
    assert_eq!(rcode(&nothing), Rcode::NOERROR);
    let routed: Vec<String> = names.routed().collect();
    assert_eq!(routed, ["corp.example", "lab.elsewhere.example"]);

    names.set_apps([(&app, &patterns[..], DB)], [(&host, WIKI)]);
    let api = parsed("api.dev.corp.example");
    assert_eq!(names.owner(&api), Owner::App(WIKI));
    let reverse = Dns::reverse_from_addr(IpAddr::V4(WIKI.v4)).unwrap();
    assert_eq!(names.owner(&reverse), Owner::Address(&api));

    // A wildcard's parent exists, or resolvers deny what lies below (RFC 8020).
    names.set_apps([(&"x".parse().unwrap(), &patterns[..1], DB)], []);
    assert_eq!(names.owner(&parsed("dev.corp.example")), Owner::Above);
}

#[test]
fn hosts_of_a_wildcard_fail_until_the_apps_are_known() {
    let patterns = ["*.lab.elsewhere.example".parse().unwrap()];
    let mut before = names();
    before.set_apps([(&"dev".parse().unwrap(), &patterns[..], DB)], []);
    let known: Vec<String> = before.apps().collect();
    let mut names = Names::new(&"corp.example".parse().unwrap(), []);
    names.expect(known.iter().map(String::as_str));
    let host = parse("api.lab.elsewhere.example").unwrap();
    assert_eq!(names.owner(&host), Owner::Unknown);
}

proptest! {
    #[test]
    fn any_bytes_are_judged_and_an_answer_is_whole(bytes: Vec<u8>) {
        check(&names(), &bytes);
    }

    #[test]
    fn a_damaged_query_is_judged_and_an_answer_is_whole(
        at in 0_usize..60,
        byte: u8,
        edns: bool,
    ) {
        let mut bytes = query("docs.elsewhere.example", Rtype::ANY, edns);
        let len = bytes.len();
        bytes[at % len] = byte;
        check(&names(), &bytes);
    }

    #[test]
    fn no_name_below_the_domain_is_passed_on(labels in "[a-z_]{1,12}(\\.[A-Za-z0-9-]{1,40}){0,4}") {
        let name = format!("{labels}.Corp.Example");
        prop_assume!(!labels.ends_with("www") && labels != "ztna" && !labels.ends_with(".www"));
        let Verdict::Answer(answer) = names().judge(&query(&name, Rtype::A, true)) else {
            return Err(TestCaseError::fail("passed on"));
        };
        prop_assert!(answer.len() <= 512);
    }

    #[test]
    fn the_longest_names_fit(app in "[a-z]{60}\\.[a-z]{60}\\.[a-z]{60}\\.[a-z]{50}") {
        let mut names = names();
        let app: Name = app.parse().unwrap();
        names.set_apps([(&app, &[][..], WIKI)], []);
        let answer = ask(&names, &format!("{app}.corp.example"), Rtype::ANY);
        let message = Message::from_octets(&answer).unwrap();
        prop_assert_eq!(message.header_counts().ancount(), 2);
        prop_assert!(answer.len() <= 512);
    }
}

/// What holds of every verdict.
fn check(names: &Names, bytes: &[u8]) {
    match names.judge(bytes) {
        Verdict::Answer(answer)
        | Verdict::PassOn { failed: answer }
        | Verdict::Give { failed: answer, .. } => {
            assert!(answer.len() <= 512);
            assert_eq!(id(&answer), id(bytes));
            let message = Message::from_octets(&answer).unwrap();
            assert!(message.header().qr());
            assert!(message.iter().all(|record| record.is_ok()));
        }
        Verdict::Ignore => {}
    }
}

fn names() -> Names {
    let mut names = Names::new(
        &"corp.example".parse().unwrap(),
        [("100.64.0.0", 10), ("fd12::", 48)].map(|(range, bits)| (range.parse().unwrap(), bits)),
    );
    names.pass_on(true);
    names.set_controllers(["ztna.corp.example", "192.0.2.1"]);
    names.set_outside(["www.corp.example"]);
    let name = |text: &str| text.parse::<Name>().unwrap();
    let (wiki, db) = (name("wiki"), name("db.eu"));
    let elsewhere =
        ["docs.elsewhere.example", "wiki.corp.example"].map(|name| name.parse().unwrap());
    names.set_apps([(&wiki, &elsewhere[..], WIKI), (&db, &[], DB)], []);
    names
}

fn query(name: &str, kind: Rtype, edns: bool) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    builder.header_mut().set_cd(edns);
    let mut builder = builder.question();
    builder.push((parse(name).unwrap(), kind)).unwrap();
    let mut builder = builder.additional();
    if edns {
        let opt = builder.opt(|opt| {
            opt.set_udp_payload_size(4_096);
            opt.set_dnssec_ok(true);
            Ok(())
        });
        opt.unwrap();
    }
    builder.finish()
}

fn ask(names: &Names, name: &str, kind: Rtype) -> Vec<u8> {
    match names.judge(&query(name, kind, false)) {
        Verdict::Answer(answer) => answer,
        other @ (Verdict::PassOn { .. } | Verdict::Give { .. } | Verdict::Ignore) => {
            panic!("{name}: {other:?}")
        }
    }
}

fn rcode(answer: &[u8]) -> Rcode {
    Message::from_octets(answer).unwrap().header().rcode()
}
