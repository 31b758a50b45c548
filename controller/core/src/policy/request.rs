//! From what is asked to what Cedar evaluates: the request, and the few entities it is about.
//!
//! Built from values, never from text, and only as much as the policies at hand look at.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    str::FromStr,
    sync::LazyLock,
};

use cardea_proto::{
    name::Name,
    posture::{Grade, Value},
};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
    Schema,
};

use super::{
    ask::{CertifyAsk, Circumstances, ConnectAsk, DeviceFacts},
    facts::{self, Kind, Observed},
    needs::{Bits, Field, Needs, Part},
    rule::Action,
};

/// What is asked, of either kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    Certify(&'a CertifyAsk<'a>),
    Connect(&'a ConnectAsk<'a>),
}

/// A request and its entities.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) request: Request,
    pub(super) entities: Entities,
}

/// A request that Cedar refuses to build; the decision is a denial with this text.
#[derive(Debug, thiserror::Error)]
#[error("the request could not be built: {0}")]
pub(super) struct BuildError(String);

impl<'a> Asked<'a> {
    pub(super) const fn action(self) -> Action {
        match self {
            Self::Certify(_) => Action::Certify,
            Self::Connect(_) => Action::Connect,
        }
    }

    pub(super) const fn device(self) -> DeviceFacts<'a> {
        match self {
            Self::Certify(ask) => ask.device,
            Self::Connect(ask) => ask.device,
        }
    }

    pub(super) const fn circumstances(self) -> Circumstances {
        match self {
            Self::Certify(ask) => ask.circumstances,
            Self::Connect(ask) => ask.circumstances,
        }
    }

    /// Who asks, as shown.
    pub(super) fn principal(self) -> String {
        match self {
            Self::Certify(ask) => ask.device.name.to_string(),
            Self::Connect(ask) => ask.user.to_string(),
        }
    }

    /// For what, as shown.
    pub(super) fn resource(self) -> String {
        match self {
            Self::Certify(ask) => ask.domain.to_string(),
            Self::Connect(ask) => ask.app.name.to_string(),
        }
    }
}

impl Question {
    /// Builds what `needs` names of `asked`; `schema` only where conformance is to be checked.
    pub(super) fn new(
        asked: Asked<'_>,
        needs: &Needs,
        schema: Option<&Schema>,
    ) -> Result<Self, BuildError> {
        let (principal, resource, entities) = match asked {
            Asked::Certify(ask) => certify_entities(ask, needs)?,
            Asked::Connect(ask) => connect_entities(ask, needs)?,
        };
        let context = Context::from_pairs(context(asked, needs)).map_err(BuildError::new)?;
        let action = TYPES.uid(&TYPES.action, asked.action().as_str());
        Ok(Self {
            request: Request::new(principal, action, resource, context, schema)
                .map_err(BuildError::new)?,
            // Three times as fast as `from_entities`: what is added is all that is closed over.
            entities: Entities::empty()
                .add_entities(entities, None)
                .map_err(BuildError::new)?,
        })
    }
}

fn certify_entities(
    ask: &CertifyAsk<'_>,
    needs: &Needs,
) -> Result<(EntityUid, EntityUid, Vec<Entity>), BuildError> {
    let device = TYPES.uid(&TYPES.device, &ask.device.id.to_string());
    let domain = TYPES.uid(&TYPES.domain, ask.domain.as_str());
    let mut entities = Vec::with_capacity(2);
    if needs.principal || needs.hierarchy {
        let owner = TYPES.uid(&TYPES.user, ask.device.owner.as_str());
        let attributes = HashMap::from([
            ("name".to_owned(), text(ask.device.name.as_str())),
            ("os".to_owned(), text(ask.device.os)),
            (
                "owner".to_owned(),
                RestrictedExpression::new_entity_uid(owner),
            ),
        ]);
        entities.push(
            Entity::new(device.clone(), attributes, HashSet::new()).map_err(BuildError::new)?,
        );
        entities.push(user(ask.device.owner, ask.groups, true)?);
    }
    Ok((device, domain, entities))
}

fn connect_entities(
    ask: &ConnectAsk<'_>,
    needs: &Needs,
) -> Result<(EntityUid, EntityUid, Vec<Entity>), BuildError> {
    let app = TYPES.uid(&TYPES.app, ask.app.name.as_str());
    if !(needs.principal || needs.resource || needs.hierarchy) {
        return Ok((TYPES.uid(&TYPES.user, ask.user.as_str()), app, Vec::new()));
    }
    let site = HashSet::from([TYPES.uid(&TYPES.site, ask.app.site.as_str())]);
    let app_entity = if needs.resource {
        let labels = &ask.app.labels;
        let sensitivity = labels.get("sensitivity").map_or("normal", String::as_str);
        let shown = labels
            .iter()
            .map(|(key, value)| RestrictedExpression::new_string(format!("{key}={value}")));
        let attributes = HashMap::from([
            ("name".to_owned(), text(ask.app.name.as_str())),
            ("labels".to_owned(), RestrictedExpression::new_set(shown)),
            ("sensitivity".to_owned(), text(sensitivity)),
        ]);
        Entity::new(app.clone(), attributes, site).map_err(BuildError::new)?
    } else {
        Entity::new_no_attrs(app.clone(), site)
    };
    let user_entity = user(ask.user, ask.groups, needs.principal)?;
    Ok((user_entity.uid(), app, vec![user_entity, app_entity]))
}

fn user(name: &Name, groups: &BTreeSet<Name>, attributes: bool) -> Result<Entity, BuildError> {
    let uid = TYPES.uid(&TYPES.user, name.as_str());
    let parents = groups
        .iter()
        .map(|group| TYPES.uid(&TYPES.group, group.as_str()))
        .collect();
    if attributes {
        let attributes = HashMap::from([("name".to_owned(), text(name.as_str()))]);
        Entity::new(uid, attributes, parents).map_err(BuildError::new)
    } else {
        Ok(Entity::new_no_attrs(uid, parents))
    }
}

fn context(asked: Asked<'_>, needs: &Needs) -> Vec<(String, RestrictedExpression)> {
    let mut pairs = Vec::with_capacity(5);
    let posture = ("posture".to_owned(), posture(&asked.device(), needs));
    match asked {
        Asked::Certify(_) => pairs.push(posture),
        Asked::Connect(ask) => {
            let mut device = vec![posture];
            if needs.part(Part::Device) {
                device.push(("id".to_owned(), text(&ask.device.id.to_string())));
                device.push(("name".to_owned(), text(ask.device.name.as_str())));
                device.push(("os".to_owned(), text(ask.device.os)));
            }
            pairs.push(("device".to_owned(), record(device)));
            if needs.part(Part::Auth) {
                let method = ("method".to_owned(), text(ask.auth.method));
                pairs.push(("auth".to_owned(), record([method])));
            }
            if let Some(risk) = ask.risk.filter(|_| needs.part(Part::Risk)) {
                pairs.push(("risk".to_owned(), long(i64::from(risk))));
            }
        }
    }
    if needs.part(Part::Place) {
        let address = asked.circumstances().address.map(|address| {
            let address = RestrictedExpression::new_ip(address.to_string());
            ("address".to_owned(), address)
        });
        pairs.push(("place".to_owned(), record(address)));
    }
    if needs.part(Part::Time) {
        let fields = time_fields(asked.circumstances().time.as_secs());
        let fields = fields.map(|(name, value)| (name.to_owned(), long(value)));
        pairs.push(("time".to_owned(), record(fields)));
    }
    pairs
}

fn posture(device: &DeviceFacts<'_>, needs: &Needs) -> RestrictedExpression {
    let known = facts::known();
    record(needs.facts().filter_map(|(number, fields)| {
        let fact = known.get(number)?;
        match facts::observe(device, fact) {
            Observed::Value(value, grade, age_s) => {
                let shown = fact_record(fact.kind, &value, grade, age_s, fields);
                Some((fact.attribute.clone(), shown))
            }
            Observed::Nothing(_) => None,
        }
    }))
}

fn fact_record(
    kind: Kind,
    value: &Value,
    grade: Grade,
    age_s: i64,
    needed: Bits,
) -> RestrictedExpression {
    let mut fields = Vec::with_capacity(5);
    if needed.field(Field::Value) {
        fields.push(("value".to_owned(), fact_value(value)));
    }
    if needed.field(Field::Number)
        && kind == Kind::Version
        && let Value::Text(text) = value
        && let Some(numbers) = facts::version_numbers(text)
    {
        let names = ["major", "minor", "patch"].into_iter();
        let numbers = names
            .zip(numbers)
            .map(|(name, n)| (name.to_owned(), long(n)));
        fields.push(("number".to_owned(), record(numbers)));
    }
    if needed.field(Field::Grade) {
        fields.push(("grade".to_owned(), text(grade.as_str())));
    }
    if needed.field(Field::GradeRank) {
        fields.push(("grade_rank".to_owned(), long(grade_rank(grade))));
    }
    if needed.field(Field::Age) {
        fields.push(("age_s".to_owned(), long(age_s)));
    }
    record(fields)
}

fn fact_value(value: &Value) -> RestrictedExpression {
    match value {
        Value::Bool(value) => RestrictedExpression::new_bool(*value),
        Value::Integer(value) => long(*value),
        Value::Text(value) => text(value),
        Value::List(values) => RestrictedExpression::new_set(values.iter().map(|v| text(v))),
    }
}

/// A grade as the number that policies compare.
pub(super) const fn grade_rank(grade: Grade) -> i64 {
    match grade {
        Grade::Simulated => 0,
        Grade::Own => 1,
        Grade::Os => 2,
        Grade::Mdm => 3,
        Grade::Hardware => 4,
    }
}

/// The grade of a number that policies compare.
pub(super) const fn grade_name(rank: i64) -> Option<&'static str> {
    Some(match rank {
        0 => Grade::Simulated.as_str(),
        1 => Grade::Own.as_str(),
        2 => Grade::Os.as_str(),
        3 => Grade::Mdm.as_str(),
        4 => Grade::Hardware.as_str(),
        _ => return None,
    })
}

/// The fields of `context.time`.
pub(super) fn time_fields(unix_s: u64) -> [(&'static str, i64); 4] {
    let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    [
        ("unix_s", part(unix_s)),
        // 1970-01-01 was a Thursday, the fourth day of its week.
        ("weekday", part((unix_s / 86_400 + 3) % 7 + 1)),
        ("hour", part(unix_s % 86_400 / 3_600)),
        ("minute", part(unix_s % 3_600 / 60)),
    ]
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn long(value: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(value)
}

/// A record of fields whose names differ.
fn record(
    fields: impl IntoIterator<Item = (String, RestrictedExpression)>,
) -> RestrictedExpression {
    #[expect(clippy::expect_used, reason = "the names are constants and differ")]
    RestrictedExpression::new_record(fields).expect("the names of a record differ")
}

/// Entity types, parsed once: Cedar parses a type's name with its whole grammar.
struct Types {
    action: EntityTypeName,
    app: EntityTypeName,
    device: EntityTypeName,
    domain: EntityTypeName,
    group: EntityTypeName,
    site: EntityTypeName,
    user: EntityTypeName,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the names are constants and valid")]
    let parse = |name| EntityTypeName::from_str(name).expect("a constant name of a type");
    Types {
        action: parse("Action"),
        app: parse("App"),
        device: parse("Device"),
        domain: parse("TrustDomain"),
        group: parse("Group"),
        site: parse("Site"),
        user: parse("User"),
    }
});

impl Types {
    #[expect(clippy::unused_self, reason = "reads as TYPES.uid(&TYPES.app, …)")]
    fn uid(&self, kind: &EntityTypeName, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
    }
}

impl BuildError {
    fn new(source: impl std::error::Error) -> Self {
        Self(source.to_string())
    }
}
