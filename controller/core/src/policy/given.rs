//! A small world that a policy test describes, from which its question is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use cardea_proto::{
    app::{AppSpec, Transport},
    id::{DeviceId, ID_BYTES},
    ledger::Link,
    name::Name,
    posture::{Fact, FactName, Grade, Reading, Value},
    time::UnixMillis,
};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    ask::{Auth, CertifyAsk, Circumstances, ConnectAsk, DeviceFacts},
    facts::{self, CLOCK_SKEW},
};

/// What is given, as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Given {
    domain: Option<Name>,
    address: Option<IpAddr>,
    time: Option<toml::value::Datetime>,
    allow: Vec<String>,
    users: BTreeMap<Name, BTreeSet<Name>>,
    apps: BTreeMap<Name, GivenApp>,
    devices: BTreeMap<Name, GivenDevice>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GivenApp {
    site: Option<Name>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenDevice {
    user: Name,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    clock_skew_s: i64,
    #[serde(default)]
    report_age_s: u64,
    #[serde(default)]
    posture: BTreeMap<FactName, GivenFact>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum GivenFact {
    Value(Value),
    Fact(FullFact),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FullFact {
    value: Option<Value>,
    reading: Option<String>,
    grade: Option<Grade>,
    #[serde(default)]
    age_s: u64,
}

/// The same as values of ours.
#[derive(Debug)]
pub(super) struct World<'g> {
    domain: Name,
    circumstances: Circumstances,
    links: BTreeSet<Link>,
    users: &'g BTreeMap<Name, BTreeSet<Name>>,
    apps: BTreeMap<&'g str, AppSpec>,
    devices: BTreeMap<&'g str, Device<'g>>,
    nobody: BTreeSet<Name>,
}

#[derive(Debug)]
struct Device<'g> {
    id: DeviceId,
    name: &'g Name,
    given: &'g GivenDevice,
    posture: BTreeMap<FactName, Fact>,
}

impl<'g> World<'g> {
    pub(super) fn new(given: &'g Given) -> Result<Self, String> {
        let name = |text: &str| text.parse::<Name>().map_err(|error| error.to_string());
        let mut devices = BTreeMap::new();
        for (number, (device, facts)) in (1_u64..).zip(&given.devices) {
            let posture = facts.posture.iter().map(|(name, fact)| {
                check_name(name)?;
                Ok((name.clone(), fact.clone().read()?))
            });
            let device_facts = Device {
                id: numbered(number),
                name: device,
                given: facts,
                posture: posture.collect::<Result<_, String>>()?,
            };
            devices.insert(device.as_str(), device_facts);
        }
        let mut apps = BTreeMap::new();
        for (app, GivenApp { site, labels }) in &given.apps {
            let spec = AppSpec {
                name: app.clone(),
                site: site.clone().map_or_else(|| name("default"), Ok)?,
                targets: Vec::new(),
                names: Vec::new(),
                transport: Transport::Auto,
                labels: labels.clone(),
                host_scoped: false,
            };
            apps.insert(app.as_str(), spec);
        }
        let links = given.allow.iter().map(|text| link(text));
        Ok(Self {
            domain: given
                .domain
                .clone()
                .map_or_else(|| name("corp.example"), Ok)?,
            circumstances: Circumstances {
                address: given.address,
                time: given.time.map_or_else(|| Ok(UnixMillis::default()), unix)?,
            },
            links: links.collect::<Result<_, String>>()?,
            users: &given.users,
            apps,
            devices,
            nobody: BTreeSet::new(),
        })
    }

    pub(super) const fn links(&self) -> &BTreeSet<Link> {
        &self.links
    }

    pub(super) fn certify(&self, device: &str) -> Result<CertifyAsk<'_>, String> {
        let device = self.device(device)?;
        Ok(CertifyAsk {
            domain: &self.domain,
            device,
            groups: self.groups(device.owner),
            circumstances: self.circumstances,
        })
    }

    pub(super) fn connect<'w>(
        &'w self,
        app: &str,
        device: &str,
        user: Option<&str>,
    ) -> Result<ConnectAsk<'w>, String> {
        let device = self.device(device)?;
        let user = match user {
            None => device.owner,
            Some(name) => {
                let known = self.users.get_key_value(name).map(|(user, _)| user);
                known.ok_or_else(|| format!("given.users.{name:?} is missing"))?
            }
        };
        Ok(ConnectAsk {
            user,
            groups: self.groups(user),
            app: self
                .apps
                .get(app)
                .ok_or_else(|| format!("given.apps.{app} is missing"))?,
            device,
            auth: Auth::default(),
            circumstances: self.circumstances,
            risk: None,
        })
    }

    fn groups(&self, user: &Name) -> &BTreeSet<Name> {
        self.users.get(user).unwrap_or(&self.nobody)
    }

    fn device(&self, name: &str) -> Result<DeviceFacts<'_>, String> {
        let found = self.devices.get(name);
        let Device {
            id,
            name,
            given,
            posture,
        } = found.ok_or_else(|| format!("given.devices.{name} is missing"))?;
        Ok(DeviceFacts {
            id: *id,
            name,
            os: given.os.as_deref().unwrap_or("linux"),
            owner: &given.user,
            posture,
            report_age: Duration::from_secs(given.report_age_s),
            clock_skew_s: Some(given.clock_skew_s),
        })
    }
}

impl GivenFact {
    fn read(self) -> Result<Fact, String> {
        let (reading, grade, age_s) = match self {
            Self::Value(value) => (Reading::Value(value), None, 0),
            Self::Fact(fact) => {
                let reading = match (fact.value, fact.reading.as_deref()) {
                    (Some(value), None) => Reading::Value(value),
                    (None, Some("absent")) => Reading::Absent,
                    (None, Some("unsupported")) => Reading::Unsupported,
                    (None, Some("denied")) => Reading::Denied,
                    (None, Some("error")) => Reading::Error("given".to_owned()),
                    _ => {
                        return Err("a fact has either `value`, or `reading` = \"absent\", \
                                    \"unsupported\", \"denied\" or \"error\""
                            .to_owned());
                    }
                };
                (reading, fact.grade, fact.age_s)
            }
        };
        Ok(Fact {
            reading,
            grade: grade.unwrap_or(Grade::Os),
            age_ms: age_s.saturating_mul(1_000),
        })
    }
}

/// An id for a test's device.
fn numbered(number: u64) -> DeviceId {
    let mut bytes = [0; ID_BYTES];
    for (to, from) in bytes.iter_mut().zip(number.to_le_bytes()) {
        *to = from;
    }
    DeviceId::from_bytes(bytes)
}

fn check_name(name: &str) -> Result<(), String> {
    if name == CLOCK_SKEW {
        return Err(format!(
            "{CLOCK_SKEW} is what the controller says: give clock_skew_s of the device"
        ));
    }
    let mut known = facts::CATALOGUE.iter().map(|(name, _)| *name);
    if known.any(|known| known == name) {
        Ok(())
    } else {
        Err(format!("policies know no fact {name:?}"))
    }
}

fn link(text: &str) -> Result<Link, String> {
    let wrong = || format!("{text:?} is not PRINCIPAL APP, such as \"group:staff wiki\"");
    let (principal, app) = text.split_once(' ').ok_or_else(wrong)?;
    Ok(Link {
        principal: principal.parse().map_err(|_| wrong())?,
        app: app.trim().parse().map_err(|_| wrong())?,
    })
}

fn unix(written: toml::value::Datetime) -> Result<UnixMillis, String> {
    let wrong = || format!("time = {written} needs a date, a time and an offset such as Z");
    let at = OffsetDateTime::parse(&written.to_string(), &Rfc3339).map_err(|_| wrong())?;
    let seconds = u64::try_from(at.unix_timestamp()).map_err(|_| wrong())?;
    Ok(UnixMillis(seconds.saturating_mul(1_000)))
}
