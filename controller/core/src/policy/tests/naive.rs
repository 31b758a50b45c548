//! The engine against a naive one, which evaluates every policy with everything in the request.

use cedar_policy::{Authorizer, Effect, PolicyId, PolicySet};
use proptest::prelude::*;

use super::{
    super::{
        load,
        needs::Needs,
        request::{Asked, Question},
    },
    *,
};

/// All that a decision must agree on.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    allowed: bool,
    forbidden: bool,
    errors: usize,
    rules: BTreeSet<String>,
}

fn naive(text: &str, links: &BTreeSet<Link>, asked: Asked<'_>) -> Verdict {
    let all = format!("{text}\n{}", render_links(links));
    let parsed: PolicySet = all.parse().unwrap();
    let mut set = PolicySet::new();
    for policy in parsed.policies() {
        let id = PolicyId::new(policy.annotation("id").unwrap());
        set.add(policy.new_id(id)).unwrap();
    }
    // The whole request is checked against the schema: what we build conforms to what we publish.
    let question = Question::new(asked, &Needs::all(), Some(load::schema())).unwrap();
    let response = Authorizer::new().is_authorized(&question.request, &set, &question.entities);
    let reasons: BTreeSet<&PolicyId> = response.diagnostics().reason().collect();
    let is_forbid = |id: &&PolicyId| set.policy(id).unwrap().effect() == Effect::Forbid;
    let forbidden = reasons.iter().any(is_forbid);
    let errors = response.diagnostics().errors().count();
    Verdict {
        allowed: errors == 0 && !forbidden && !reasons.is_empty(),
        forbidden,
        errors,
        rules: reasons.iter().map(ToString::to_string).collect(),
    }
}

fn check(text: &str, links: &BTreeSet<Link>, company: &Company) -> Result<(), TestCaseError> {
    let engine = match Engine::new(&[file("all.cedar", text)], links) {
        Ok(engine) => engine,
        Err(problems) => {
            let refused = |problem: &PolicyProblem| {
                problem.message.contains("impossible")
                    || problem.message.contains("is missing; write")
            };
            prop_assert!(problems.iter().all(refused), "{:?}", problems);
            return Ok(());
        }
    };
    let certify = company.certify();
    let connect = company.connect();
    for (asked, decision) in [
        (Asked::Certify(&certify), engine.decide_certify(&certify)),
        (Asked::Connect(&connect), engine.decide_connect(&connect)),
    ] {
        let expected = naive(text, links, asked);
        prop_assert_eq!(decision.allowed, expected.allowed, "{}\n{}", text, decision);
        prop_assert_eq!(
            decision.errors.len(),
            expected.errors,
            "{}\n{}",
            text,
            decision
        );
        prop_assert_eq!(decision.reason == Reason::Forbidden, expected.forbidden);
        if expected.forbidden || expected.allowed {
            let rules: BTreeSet<String> = decision.rules.iter().cloned().collect();
            prop_assert_eq!(rules, expected.rules, "{}", text);
        }
    }
    Ok(())
}

const CONNECT_PRINCIPALS: &[&str] = &[
    "principal",
    "principal is User",
    "principal is Workload",
    "principal == User::\"u1\"",
    "principal == User::\"u2\"",
    "principal in Group::\"g1\"",
    "principal in Group::\"g2\"",
    "principal is User in Group::\"g3\"",
    "principal == Workload::\"u1\"",
];

const CONNECT_RESOURCES: &[&str] = &[
    "resource",
    "resource is App",
    "resource == App::\"a1\"",
    "resource == App::\"a2\"",
    "resource in Site::\"s1\"",
    "resource is App in Site::\"s2\"",
    "resource in App::\"a3\"",
];

const CONNECT_CONDITIONS: &[&str] = &[
    "true",
    "P has disk_encrypted && P.disk_encrypted.value",
    "P has disk_encrypted && P.disk_encrypted.grade_rank >= 2",
    "!(P has firewall_enabled && P.firewall_enabled.value)",
    "P has uptime_s && P.uptime_s.value + 9223372036854775000 > 0",
    "P has uptime_s.value && P.uptime_s.value > 100",
    "P has os_version.number && P.os_version.number.major >= 12",
    "P has process_running && P.process_running.value.contains(\"p1\")",
    "P == P && context.time.hour < 12",
    "context.device == context.device",
    "context.time.weekday < 6",
    "context.place has address && context.place.address.isInRange(ip(\"10.0.0.0/8\"))",
    "context has risk && context.risk < 50",
    "context.auth.method == \"device\" && context.device.os == \"linux\"",
    "resource.labels.contains(\"env=prod\")",
    "resource.sensitivity == \"normal\"",
    "App::\"a1\".sensitivity == \"normal\"",
    "(if context.time.hour < 12 then resource else App::\"a2\").name == \"a1\"",
    "User::\"u2\" in Group::\"g1\" || principal is User in Group::\"g3\"",
    "principal.name like \"u*\"",
    "principal in Group::\"g1\" || resource in Site::\"s1\"",
    "if principal in Group::\"g2\" then P has tpm_present else context.time.minute < 30",
];

const CERTIFY_CONDITIONS: &[&str] = &[
    "true",
    "P has disk_encrypted && P.disk_encrypted.value",
    "P has clock_skew_s && P.clock_skew_s.value < 300 && P.clock_skew_s.value > -300",
    "P has uptime_s && P.uptime_s.value * 9223372036854775 < 0",
    "principal.os == \"linux\"",
    "principal.owner in Group::\"g1\"",
    "principal.owner == User::\"u1\" && principal.name == \"laptop\"",
    "context == context",
];

fn policies() -> impl Strategy<Value = String> {
    let effect = || prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let keyword = || prop_oneof![3 => Just("when"), 1 => Just("unless")];
    let connect = (
        effect(),
        prop::sample::select(CONNECT_PRINCIPALS),
        prop::sample::select(CONNECT_RESOURCES),
        prop::collection::vec((keyword(), prop::sample::select(CONNECT_CONDITIONS)), 0..3),
    )
        .prop_map(|(effect, principal, resource, conditions)| {
            let scope = format!("{principal}, action == Action::\"connect\", {resource}");
            one(effect, &scope, &conditions, "context.device.posture")
        });
    let certify = (
        effect(),
        prop::sample::select(&["principal", "principal is Device"][..]),
        prop::collection::vec((keyword(), prop::sample::select(CERTIFY_CONDITIONS)), 0..3),
    )
        .prop_map(|(effect, principal, conditions)| {
            let scope = format!("{principal}, action == Action::\"certify\", resource");
            one(effect, &scope, &conditions, "context.posture")
        });
    let any = effect().prop_map(|effect| one(effect, "principal, action, resource", &[], ""));
    let policy = prop_oneof![8 => connect, 4 => certify, 1 => any];
    prop::collection::vec(policy, 0..8).prop_map(|policies| {
        let numbered = policies.iter().enumerate();
        numbered
            .map(|(number, text)| format!("@id(\"p{number}\") {text}\n"))
            .collect()
    })
}

fn one(effect: &str, scope: &str, conditions: &[(&str, &str)], posture: &str) -> String {
    let conditions: String = conditions
        .iter()
        .map(|(keyword, condition)| {
            let condition = condition
                .replace("P.", &format!("{posture}."))
                .replace("P has", &format!("{posture} has"))
                .replace("P == P", &format!("{posture} == {posture}"));
            format!(" {keyword} {{ {condition} }}")
        })
        .collect();
    format!("{effect} ({scope}){conditions};")
}

fn companies() -> impl Strategy<Value = Company> {
    let pick = |from: &'static [&'static str]| prop::sample::select(from);
    let facts = (
        any::<Option<bool>>(),
        any::<Option<bool>>(),
        prop::option::of(-5_i64..2_000),
        prop::option::of(pick(&["12.1", "11", "rolling"])),
        prop::option::of(prop::collection::vec("p[1-3]", 0..3)),
        any::<Option<bool>>(),
        prop::option::of(-600_i64..600),
    );
    let around = (
        pick(&["u1", "u2", "u3"]),
        prop::collection::btree_set(pick(&["g1", "g2", "g3"]), 0..3),
        pick(&["a1", "a2", "a3"]),
        pick(&["s1", "s2"]),
        prop::option::of(pick(&["10.1.2.3", "192.0.2.1", "2001:db8::1"])),
        0_u64..4_000_000_000,
        prop::option::of(0_u8..100),
        pick(&["linux", "plan9"]),
        0_u8..5,
    );
    (facts, around).prop_map(|(facts, around)| {
        let (disk, firewall, uptime, version, running, tpm, skew) = facts;
        let (user, groups, app_name, site, address, time_s, risk, os, grade) = around;
        let mut company = Company::new();
        company.user = name(user);
        company.groups = groups.into_iter().map(name).collect();
        company.app = app(app_name, site);
        company.circumstances = Circumstances {
            address: address.map(|address| address.parse().unwrap()),
            time: UnixMillis(time_s * 1_000),
        };
        company.risk = risk;
        company.os = os.to_owned();
        company.clock_skew_s = skew;
        company.posture.clear();
        let mut add = |name: &str, value: Option<Value>| {
            company.posture.extend(value.map(|value| fact(name, value)));
        };
        add("disk.encrypted", disk.map(Value::Bool));
        add("firewall.enabled", firewall.map(Value::Bool));
        add("tpm.present", tpm.map(Value::Bool));
        add("uptime_s", uptime.map(Value::Integer));
        add(
            "os.version",
            version.map(|text| Value::Text(text.to_owned())),
        );
        add("process.running", running.map(Value::List));
        let grades = [
            Grade::Simulated,
            Grade::Own,
            Grade::Os,
            Grade::Mdm,
            Grade::Hardware,
        ];
        for fact in company.posture.values_mut() {
            fact.grade = grades[usize::from(grade)];
        }
        company
    })
}

fn everyday() -> impl Strategy<Value = BTreeSet<Link>> {
    let all = &[
        "everyone a1",
        "user:u1 a1",
        "user:u2 a2",
        "group:g1 a1",
        "group:g2 a3",
        "group:g3 a2",
    ][..];
    prop::collection::vec(prop::sample::select(all), 0..3).prop_map(|texts| links(&texts))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_engine_agrees_with_one_that_evaluates_everything(
        text in policies(),
        links in everyday(),
        company in companies(),
    ) {
        check(&text, &links, &company)?;
    }
}
