//! Who could reach an app at some time: a question to the fold of the ledger up to then.

use std::collections::BTreeMap;

use cardea_proto::{
    admin::WhoRow,
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::UnixMillis,
};

use crate::{
    State,
    judge::NO_GROUPS,
    policy::{Auth, Circumstances, ConnectAsk, DeviceFacts, Engine},
    state::NodeRecord,
};

/// Who could open `app` in this state, at its time `at`, and by which rules.
///
/// Reports are not in the ledger, only whether they passed: a rule that looks at facts when an app
/// is opened is judged without them, which denies. A grant that was open then shows that they held.
///
/// # Errors
/// [`Refusal`] when there was no such app, or the policy of then does not load today.
pub fn who(state: &State, app: &Name, at: UnixMillis) -> Result<Vec<WhoRow>, Refusal> {
    let Some(record) = state.app(app) else {
        let why = format!("there was no app {app} then");
        return Err(Refusal::new(RefusalCode::NotFound, why).with_next("Look at: cardeactl app ls"));
    };
    let engine = Engine::new(state.policy(), state.links()).map_err(|_| {
        let why = "the policy of then does not load with this version";
        Refusal::new(RefusalCode::Invalid, why).with_next("Ask the version of Cardea of that time")
    })?;
    let no_facts = BTreeMap::new();
    let devices = state.nodes().filter_map(|record| {
        let device = state.device(match record.node.id {
            cardea_proto::id::NodeId::Device(device) => device,
            cardea_proto::id::NodeId::Connector(_) => return None,
        })?;
        Some((device, device.node.user.as_ref()?))
    });
    let rows = devices.filter_map(|(device, user)| {
        let cardea_proto::id::NodeId::Device(id) = device.node.id else {
            return None;
        };
        let groups = state.user(user).map_or(&NO_GROUPS, |user| &user.groups);
        let ask = ConnectAsk {
            user,
            groups,
            app: &record.spec,
            device: DeviceFacts {
                id,
                name: &device.node.name,
                os: &device.node.os,
                owner: user,
                posture: &no_facts,
                report_age: std::time::Duration::ZERO,
                clock_skew_s: None,
            },
            auth: Auth::default(),
            circumstances: Circumstances {
                address: None,
                time: at,
            },
            risk: None,
        };
        let decision = engine.decide_connect(&ask);
        let open = state
            .grants_between(id, app)
            .find_map(|id| state.grant(&id));
        let may = decision.allowed && is_fit(device, at);
        let rules = match open {
            Some(grant) => grant.rules.clone(),
            None => decision.rules,
        };
        (may || open.is_some()).then(|| WhoRow {
            user: user.clone(),
            device: device.node.name.clone(),
            rules,
            grant: open.map(|grant| grant.grant.id),
        })
    });
    Ok(rows.collect())
}

/// Whether a device could have been granted anything.
fn is_fit(device: &NodeRecord, at: UnixMillis) -> bool {
    let certificate = device.certificate.as_ref();
    !device.blocked
        && device.compliant != Some(false)
        && certificate.is_some_and(|certificate| certificate.not_after > at)
}

#[cfg(test)]
mod tests {
    use cardea_proto::admin::AdminChange;

    use super::*;
    use crate::testing::{Bench, name};

    /// The state and the time after each entry.
    fn history(bench: &Bench) -> Vec<(State, UnixMillis)> {
        let mut state = State::default();
        let fold = bench.entries.iter().map(|entry| {
            state.apply(entry);
            (state.clone(), entry.draft.at)
        });
        fold.collect()
    }

    #[test]
    fn whoever_could_reach_an_app_is_named_with_the_rule_until_they_could_not() {
        let (mut bench, device, connector) = Bench::office();
        let granted = bench.open(&device, &connector, "wiki");
        let open = bench.entries.len();
        bench.must(AdminChange::GrantRevoke(granted.grant));
        let revoked = bench.entries.len();
        bench.must(AdminChange::DeviceBlock("laptop".to_owned()));
        let history = history(&bench);
        let at = |entries: usize| {
            let (state, at) = &history[entries - 1];
            who(state, &name("wiki"), *at).unwrap()
        };
        let rows = at(open);
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].user.as_str(), rows[0].device.as_str()),
            ("alice", "laptop")
        );
        assert_eq!(rows[0].grant, Some(granted.grant));
        assert!(!rows[0].rules.is_empty());
        let rows = at(revoked);
        assert_eq!(rows.len(), 1, "it could have asked again");
        assert_eq!(rows[0].grant, None);
        assert!(!rows[0].rules.is_empty());
        assert_eq!(at(bench.entries.len()), []);
        let (first, begin) = &history[0];
        assert!(who(first, &name("nothing"), *begin).is_err());
    }

    #[test]
    fn a_certificate_that_had_ended_reaches_nothing() {
        let (bench, _, _) = Bench::office();
        let (state, at) = history(&bench).pop().unwrap();
        assert_eq!(who(&state, &name("wiki"), at).unwrap().len(), 1);
        let later = at.plus(std::time::Duration::from_secs(30 * 24 * 3_600));
        assert_eq!(who(&state, &name("wiki"), later).unwrap(), []);
    }
}
