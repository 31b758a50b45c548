//! Everyday rules: links of three Cedar templates, one for each kind of principal.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write,
    sync::{Arc, LazyLock},
};

use cardea_proto::{app::Principal, ledger::Link};
use cedar_policy::{EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet, SlotId, Template};

use super::{
    rule::{self, Action, Rule},
    slice::Index,
};

/// The file in which everyday rules are shown beside those of the folder.
pub const LINKS_FILE: &str = "links.cedar";

/// The templates, by the kind of principal.
const TEMPLATES: [(&str, &str); 3] = [
    (
        "allow/user",
        r#"permit (principal == ?principal, action == Action::"connect", resource == ?resource);"#,
    ),
    (
        "allow/group",
        r#"permit (principal in ?principal, action == Action::"connect", resource == ?resource);"#,
    ),
    (
        "allow/everyone",
        r#"permit (principal is User, action == Action::"connect", resource == ?resource);"#,
    ),
];

struct Parsed {
    templates: PolicySet,
    user: EntityTypeName,
    group: EntityTypeName,
    app: EntityTypeName,
}

static PARSED: LazyLock<Parsed> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "constants, parsed by every test")]
    let parse = |name: &str| name.parse().expect("a constant name of a type");
    let mut templates = PolicySet::new();
    for (id, text) in TEMPLATES {
        #[expect(clippy::expect_used, reason = "constants, parsed by every test")]
        let template = Template::parse(Some(PolicyId::new(id)), text).expect("a constant template");
        #[expect(clippy::expect_used, reason = "the ids differ")]
        templates.add_template(template).expect("a new id");
    }
    Parsed {
        templates,
        user: parse("User"),
        group: parse("Group"),
        app: parse("App"),
    }
});

/// The id of an everyday rule, such as `allow/group:staff/wiki`.
#[must_use]
pub fn link_id(link: &Link) -> String {
    format!("allow/{}/{}", link.principal, link.app)
}

/// The text in which everyday rules are shown.
#[must_use]
pub fn render_links(links: &BTreeSet<Link>) -> String {
    let mut text = String::from(
        "// Everyday rules: `cardeactl allow` adds them and `cardeactl disallow` takes them back.\n",
    );
    for link in links {
        let principal = match &link.principal {
            Principal::User(name) => format!("principal == User::\"{name}\""),
            Principal::Group(name) => format!("principal in Group::\"{name}\""),
            Principal::Everyone => "principal is User".to_owned(),
        };
        // Writing to a String cannot fail.
        let _infallible = write!(
            text,
            "\n@id(\"{}\")\npermit (\n    {principal},\n    action == Action::\"connect\",\n    \
             resource == App::\"{}\"\n);\n",
            link_id(link),
            link.app,
        );
    }
    text
}

/// Sorts the links into an index.
///
/// # Errors
/// Cedar's text about a link that it does not make.
pub(super) fn index(links: &BTreeSet<Link>) -> Result<Index, String> {
    let mut index = Index::default();
    let mut linked = PARSED.templates.clone();
    for link in links {
        let id = PolicyId::new(link_id(link));
        let (template, principal) = match &link.principal {
            Principal::User(name) => ("allow/user", Some((&PARSED.user, name))),
            Principal::Group(name) => ("allow/group", Some((&PARSED.group, name))),
            Principal::Everyone => ("allow/everyone", None),
        };
        let uid = |kind: &EntityTypeName, name: &str| {
            EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name))
        };
        let mut slots = HashMap::from([(SlotId::resource(), uid(&PARSED.app, link.app.as_str()))]);
        if let Some((kind, name)) = principal {
            slots.insert(SlotId::principal(), uid(kind, name.as_str()));
        }
        linked
            .link(PolicyId::new(template), id.clone(), slots)
            .map_err(|error| error.to_string())?;
        let Some(policy) = linked.policy(&id) else {
            continue;
        };
        let Some((principal, resource)) = rule::scopes(policy, Action::Connect) else {
            continue;
        };
        let rule = Rule::new(policy, Vec::new())?;
        index.bucket(resource, principal).add(Arc::new(rule));
    }
    Ok(index)
}
