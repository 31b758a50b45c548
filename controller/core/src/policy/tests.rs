//! Claims about decisions, with a small company to make them about.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use cardea_proto::{
    app::{AppSpec, Transport},
    decision::{Decision, Reason},
    id::{DeviceId, ID_BYTES},
    ledger::Link,
    name::Name,
    policy::{PolicyFile, PolicyProblem},
    posture::{Fact, Grade, Reading, Value},
    time::UnixMillis,
};

use super::*;

mod decisions;
mod explanations;
mod hostile;
mod loading;
mod naive;

/// Alice of the staff, on her laptop, before the wiki.
#[derive(Clone, Debug)]
struct Company {
    domain: Name,
    user: Name,
    groups: BTreeSet<Name>,
    app: AppSpec,
    device: Name,
    os: String,
    posture: BTreeMap<String, Fact>,
    clock_skew_s: Option<i64>,
    report_age: Duration,
    circumstances: Circumstances,
    risk: Option<u8>,
}

impl Company {
    fn new() -> Self {
        Self {
            domain: name("corp.example"),
            user: name("alice@corp.example"),
            groups: BTreeSet::from([name("staff")]),
            app: app("wiki", "office"),
            device: name("laptop"),
            os: "linux".to_owned(),
            posture: BTreeMap::from([
                fact("agent.version", Value::Text("0.1.0".to_owned())),
                fact("disk.encrypted", Value::Bool(true)),
                fact("uptime_s", Value::Integer(60)),
            ]),
            clock_skew_s: Some(0),
            report_age: Duration::ZERO,
            // A Thursday, 09:30 in UTC.
            circumstances: Circumstances {
                address: Some("192.0.2.7".parse().unwrap()),
                time: UnixMillis(1_767_259_800_000),
            },
            risk: None,
        }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.posture.extend([fact(name, value)]);
        self
    }

    fn reading(mut self, name: &str, reading: Reading) -> Self {
        let grade = Grade::Os;
        let fact = Fact {
            reading,
            grade,
            age_ms: 0,
        };
        self.posture.insert(name.to_owned(), fact);
        self
    }

    fn facts(&self) -> DeviceFacts<'_> {
        DeviceFacts {
            id: DeviceId::from_bytes([1; ID_BYTES]),
            name: &self.device,
            os: &self.os,
            owner: &self.user,
            posture: &self.posture,
            report_age: self.report_age,
            clock_skew_s: self.clock_skew_s,
        }
    }

    fn certify(&self) -> CertifyAsk<'_> {
        CertifyAsk {
            domain: &self.domain,
            device: self.facts(),
            groups: &self.groups,
            circumstances: self.circumstances,
        }
    }

    fn connect(&self) -> ConnectAsk<'_> {
        ConnectAsk {
            user: &self.user,
            groups: &self.groups,
            app: &self.app,
            device: self.facts(),
            auth: Auth::default(),
            circumstances: self.circumstances,
            risk: self.risk,
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn app(app: &str, site: &str) -> AppSpec {
    AppSpec {
        name: name(app),
        site: name(site),
        targets: Vec::new(),
        names: Vec::new(),
        transport: Transport::Auto,
        labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
        host_scoped: false,
    }
}

fn fact(name: &str, value: Value) -> (String, Fact) {
    let fact = Fact {
        reading: Reading::Value(value),
        grade: Grade::Os,
        age_ms: 0,
    };
    (name.to_owned(), fact)
}

fn links(texts: &[&str]) -> BTreeSet<Link> {
    let parse = |text: &&str| {
        let (principal, app) = text.split_once(' ').unwrap();
        Link {
            principal: principal.parse().unwrap(),
            app: name(app),
        }
    };
    texts.iter().map(parse).collect()
}

fn file(path: &str, text: &str) -> PolicyFile {
    PolicyFile {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

fn try_engine(text: &str) -> Result<Engine, Vec<PolicyProblem>> {
    Engine::new(&[file("test.cedar", text)], &BTreeSet::new())
}

fn engine(text: &str) -> Engine {
    try_engine(text).unwrap()
}

/// The decision on the company's one question, to open the wiki.
fn connect(text: &str, company: &Company) -> Decision {
    engine(text).decide_connect(&company.connect())
}

/// A permit for everybody on everything under a condition.
fn permit_when(condition: &str) -> String {
    format!(
        "@id(\"one\") permit (principal, action == Action::\"connect\", resource) when {{ {condition} }};"
    )
}
