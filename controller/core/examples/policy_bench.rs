//! One decision among 1,000 rules and 10,000 entities, against Cedar that is given all of them.
//!
//! `tests/bench/run policy [--json] [--rounds N]`. The company has 5,000 users with 8 groups each,
//! 4,000 devices, 480 groups, 500 apps and 20 sites; 1,000 rules in its folder, of which a hundred
//! are about no app in particular, and 500 everyday rules beside them. Devices report 27 facts.
//! Each round decides for users, devices and apps drawn at random, and about half are allowed.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark measures, prints, and ends where its own company is wrong"
)]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write,
    time::{Duration, Instant},
};

use cardea_core::policy::{
    Auth, CATALOGUE, CertifyAsk, Circumstances, ConnectAsk, DeviceFacts, Engine, Kind, SCHEMA,
    recommended_folder,
};
use cardea_proto::{
    app::{AppSpec, Principal, Transport},
    id::DeviceId,
    ledger::Link,
    name::Name,
    policy::PolicyFile,
    posture::{Fact, Grade, Reading, Value},
    time::UnixMillis,
};
use cedar_policy::{Authorizer, Context, Entities, Entity, EntityUid, PolicySet, Request, Schema};

const USERS: usize = 5_000;
const DEVICES: usize = 4_000;
const GROUPS: usize = 480;
const APPS: usize = 500;
const SITES: usize = 20;
const GROUPS_OF_A_USER: usize = 8;
const DECISIONS: usize = 20_000;
const PEER_DECISIONS: usize = 300;

/// Microseconds that a decision may take: percentile, floor, goal.
const TARGETS: [(&str, usize, f64, f64); 2] = [("p50", 50, 60.0, 30.0), ("p99", 99, 200.0, 60.0)];

struct Company {
    domain: Name,
    users: Vec<(Name, BTreeSet<Name>)>,
    devices: Vec<(DeviceId, Name, BTreeMap<String, Fact>)>,
    apps: Vec<AppSpec>,
    folder: Vec<PolicyFile>,
    links: BTreeSet<Link>,
}

/// Numbers that are the same in every run (SplitMix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let end = u64::try_from(end).expect("a small number");
        usize::try_from(mixed % end).expect("a small number")
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        items
            .get(self.below(items.len()))
            .expect("below its length")
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let rounds = arguments
        .iter()
        .position(|argument| argument == "--rounds")
        .and_then(|at| arguments.get(at.checked_add(1)?)?.parse().ok())
        .unwrap_or(5);
    let company = Company::new();
    let started = Instant::now();
    let engine = Engine::new(&company.folder, &company.links).expect("the folder is valid");
    let loaded = started.elapsed();
    let plain = Plain::new(&company, &engine);
    let mut draw = Draw(1);
    let (mut ours, mut denied, mut certify, mut peer) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        connect_round(&company, &engine, &mut draw, &mut ours, &mut denied);
        certify_round(&company, &engine, &mut draw, &mut certify);
        plain.round(&company, &mut draw, &mut peer);
    }
    let denials = denied.len().saturating_mul(100) / ours.len().max(1);
    if !json {
        println!(
            "1,000 rules loaded in {} ms; {denials} % of the decisions denied",
            loaded.as_millis()
        );
        println!(
            "{:<22} {:>9} {:>12} {:>8} {:>6} {:>6}  us",
            "", "ours", "plain Cedar", "ratio", "floor", "goal"
        );
    }
    for (case, times) in [
        ("connect", &mut ours),
        ("connect denied", &mut denied),
        ("certify", &mut certify),
    ] {
        for (name, percent, floor, goal) in TARGETS {
            let ours = percentile(times, percent);
            let other = percentile(&mut peer, percent);
            let ratio = other / ours;
            if json {
                println!(
                    "{{\"bench\":\"policy\",\"case\":\"{case} {name}\",\"ours\":{ours:.1},\"peer\":\"plain Cedar\",\
                     \"peer_value\":{other:.1},\"ratio\":{ratio:.1},\"floor\":{floor},\"goal\":{goal},\"unit\":\"us\"}}"
                );
            } else {
                println!(
                    "{:<22} {ours:>9.1} {other:>12.1} {ratio:>7.1}x {floor:>6} {goal:>6}",
                    format!("{case} {name}")
                );
            }
        }
    }
}

fn connect_round(
    company: &Company,
    engine: &Engine,
    draw: &mut Draw,
    times: &mut Vec<Duration>,
    denied: &mut Vec<Duration>,
) {
    for _ in 0..DECISIONS {
        let (user, groups) = draw.of(&company.users);
        let ask = ConnectAsk {
            user,
            groups,
            app: draw.of(&company.apps),
            device: facts(draw.of(&company.devices), user),
            auth: Auth::default(),
            circumstances: circumstances(),
            risk: None,
        };
        let started = Instant::now();
        let decision = engine.decide_connect(&ask);
        let took = started.elapsed();
        times.push(took);
        if !decision.allowed {
            denied.push(took);
        }
    }
}

fn certify_round(company: &Company, engine: &Engine, draw: &mut Draw, times: &mut Vec<Duration>) {
    for _ in 0..DECISIONS {
        let (user, groups) = draw.of(&company.users);
        let ask = CertifyAsk {
            domain: &company.domain,
            device: facts(draw.of(&company.devices), user),
            groups,
            circumstances: circumstances(),
        };
        let started = Instant::now();
        let decision = engine.decide_certify(&ask);
        times.push(started.elapsed());
        assert!(decision.errors.is_empty());
    }
}

/// Cedar as it is: one set of all policies, one store of all entities, the context from JSON.
struct Plain {
    policies: PolicySet,
    entities: Entities,
    schema: Schema,
}

impl Plain {
    fn new(company: &Company, engine: &Engine) -> Self {
        let mut text = String::new();
        for file in engine.files() {
            if file.path.ends_with(".cedar") {
                writeln!(text, "{}", file.text).expect("writing to a String");
            }
        }
        let mut entities = Vec::new();
        for (user, groups) in &company.users {
            let parents = groups.iter().map(|group| uid("Group", group.as_str()));
            entities.push(Entity::new_no_attrs(
                uid("User", user.as_str()),
                parents.collect(),
            ));
        }
        for app in &company.apps {
            let site = HashSet::from([uid("Site", app.site.as_str())]);
            entities.push(Entity::new_no_attrs(uid("App", app.name.as_str()), site));
        }
        let devices = company
            .devices
            .iter()
            .map(|(id, ..)| Entity::with_uid(uid("Device", &id.to_string())));
        entities.extend(devices);
        entities.extend((0..GROUPS).map(|n| Entity::with_uid(uid("Group", &format!("g{n}")))));
        entities.extend((0..SITES).map(|n| Entity::with_uid(uid("Site", &format!("s{n}")))));
        Self {
            policies: text.parse().expect("the folder parses"),
            entities: Entities::from_entities(entities, None).expect("the entities differ"),
            schema: Schema::from_cedarschema_str(SCHEMA)
                .expect("the schema parses")
                .0,
        }
    }

    fn round(&self, company: &Company, draw: &mut Draw, times: &mut Vec<Duration>) {
        for _ in 0..PEER_DECISIONS {
            let (user, _) = draw.of(&company.users);
            let app = draw.of(&company.apps);
            let (_, _, posture) = draw.of(&company.devices);
            let posture: serde_json::Map<String, serde_json::Value> = posture
                .iter()
                .map(|(name, fact)| (name.replace('.', "_"), json_fact(name, fact)))
                .collect();
            let context = serde_json::json!({
                "device": { "id": "dev", "name": "laptop", "os": "linux", "posture": posture },
                "auth": { "method": "device" }, "place": {},
                "time": { "unix_s": 0, "weekday": 4, "hour": 9, "minute": 30 },
            });
            let action = uid("Action", "connect");
            let (principal, resource) = (uid("User", user.as_str()), uid("App", app.name.as_str()));
            let started = Instant::now();
            let context = Context::from_json_value(context, Some((&self.schema, &action)))
                .expect("it conforms");
            let request =
                Request::new(principal, action, resource, context, None).expect("it is whole");
            let response =
                Authorizer::new().is_authorized(&request, &self.policies, &self.entities);
            times.push(started.elapsed());
            assert_eq!(response.diagnostics().errors().count(), 0);
        }
    }
}

fn json_fact(name: &str, fact: &Fact) -> serde_json::Value {
    let Reading::Value(value) = &fact.reading else {
        return serde_json::Value::Null;
    };
    let mut json = serde_json::json!({
        "value": value, "grade": fact.grade.as_str(), "grade_rank": 2, "age_s": 3,
    });
    if name.ends_with(".version")
        && let Some(fields) = json.as_object_mut()
    {
        let number = serde_json::json!({ "major": 12, "minor": 4, "patch": 0 });
        fields.insert("number".to_owned(), number);
    }
    json
}

impl Company {
    fn new() -> Self {
        let mut draw = Draw(7);
        let groups: Vec<Name> = (0..GROUPS).map(|n| name(&format!("g{n}"))).collect();
        let users = (0..USERS).map(|n| {
            let mut of_user = BTreeSet::from([name("staff")]);
            while of_user.len() < GROUPS_OF_A_USER {
                of_user.insert(draw.of(&groups).clone());
            }
            (name(&format!("user{n}@corp.example")), of_user)
        });
        let users = users.collect();
        let devices = (0..DEVICES).map(|n| {
            let mut id = [0; 10];
            for (to, from) in id.iter_mut().zip(n.to_le_bytes()) {
                *to = from;
            }
            let healthy = draw.below(10) > 0;
            (
                DeviceId::from_bytes(id),
                name(&format!("laptop{n}")),
                posture(healthy),
            )
        });
        let devices = devices.collect();
        let apps: Vec<AppSpec> = (0..APPS).map(app).collect();
        let links = apps.iter().map(|app| Link {
            principal: Principal::Group(draw.of(&groups).clone()),
            app: app.name.clone(),
        });
        let links = links.collect();
        let mut folder = recommended_folder();
        folder.retain(|file| file.path == "base.cedar");
        folder.push(PolicyFile {
            path: "apps.cedar".to_owned(),
            text: rules(&mut draw),
        });
        Self {
            domain: name("corp.example"),
            users,
            devices,
            apps,
            folder,
            links,
        }
    }
}

/// 999 rules beside the one of the recommended folder.
fn rules(draw: &mut Draw) -> String {
    let mut text = String::new();
    let posture = "context.device.posture";
    let mut rule = |scope: &str, condition: &str, number: usize| {
        writeln!(text, "@id(\"r{number}\") {scope} {condition};").expect("writing to a String");
    };
    let disk = format!(
        "when {{ {posture} has disk_encrypted && {posture}.disk_encrypted.value && {posture}.disk_encrypted.grade_rank >= 2 }}"
    );
    let patched =
        format!("when {{ {posture} has patch_age_days && {posture}.patch_age_days.value <= 30 }}");
    let locked = format!("unless {{ {posture} has screen_lock && {posture}.screen_lock.value }}");
    let connect = "action == Action::\"connect\"";
    for number in 0..999 {
        match number {
            // Ten about everybody and every app, and ninety about a group and every app.
            0..10 => rule(
                &format!("forbid (principal, {connect}, resource)"),
                &locked,
                number,
            ),
            10..100 => {
                let group = draw.below(GROUPS);
                rule(
                    &format!("forbid (principal in Group::\"g{group}\", {connect}, resource)"),
                    "when { context.time.hour < 1 && resource.labels.contains(\"night=no\") }",
                    number,
                );
            }
            100..140 => {
                let site = number % SITES;
                rule(
                    &format!("forbid (principal, {connect}, resource in Site::\"s{site}\")"),
                    &locked,
                    number,
                );
            }
            140..640 => {
                let app = number - 140;
                rule(
                    &format!(
                        "permit (principal in Group::\"staff\", {connect}, resource == App::\"app{app}\")"
                    ),
                    &disk,
                    number,
                );
            }
            _ => {
                let (app, group) = (draw.below(APPS), draw.below(GROUPS));
                rule(
                    &format!(
                        "permit (principal in Group::\"g{group}\", {connect}, resource == App::\"app{app}\")"
                    ),
                    &format!("{disk} {patched}"),
                    number,
                );
            }
        }
    }
    text
}

fn posture(healthy: bool) -> BTreeMap<String, Fact> {
    let value = |name: &str, kind: Kind| match kind {
        Kind::Bool => Value::Bool(healthy || name != "disk.encrypted"),
        Kind::Long => Value::Integer(3),
        Kind::Text => Value::Text("debian".to_owned()),
        Kind::Version => Value::Text("12.4".to_owned()),
        Kind::List => Value::List(vec!["auditd".to_owned(), "falcon-sensor".to_owned()]),
    };
    let fact = |(name, kind): &(&str, Kind)| {
        let fact = Fact {
            reading: Reading::Value(value(name, *kind)),
            grade: Grade::Os,
            age_ms: 3_000,
        };
        ((*name).to_owned(), fact)
    };
    CATALOGUE.iter().map(fact).collect()
}

fn facts<'a>(
    (id, name, posture): &'a (DeviceId, Name, BTreeMap<String, Fact>),
    owner: &'a Name,
) -> DeviceFacts<'a> {
    DeviceFacts {
        id: *id,
        name,
        os: "linux",
        owner,
        posture,
        report_age: Duration::from_secs(20),
        clock_skew_s: Some(1),
    }
}

fn circumstances() -> Circumstances {
    Circumstances {
        address: Some(std::net::Ipv4Addr::new(192, 0, 2, 7).into()),
        time: UnixMillis(1_767_259_800_000),
    }
}

fn app(number: usize) -> AppSpec {
    AppSpec {
        name: name(&format!("app{number}")),
        site: name(&format!("s{}", number % SITES)),
        targets: Vec::new(),
        names: Vec::new(),
        transport: Transport::Auto,
        labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        host_scoped: false,
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a valid name")
}

fn uid(kind: &str, id: &str) -> EntityUid {
    let kind = kind.parse().expect("a valid type");
    EntityUid::from_type_name_and_id(kind, cedar_policy::EntityId::new(id))
}

/// Microseconds below which `percent` of the times lie.
fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let at = times.len().saturating_mul(percent) / 100;
    let time = times.get(at.min(times.len().saturating_sub(1)));
    time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
