//! What a new policy would change, subject by subject.

use cardea_proto::policy::PolicyEffect;

use super::{
    ask::{CertifyAsk, ConnectAsk},
    engine::{Engine, not_compliant},
};

/// A device, with the apps that its user might open on it.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// May the device hold a certificate?
    pub certify: CertifyAsk<'a>,
    /// May its user open each of these?
    pub connects: Vec<ConnectAsk<'a>>,
}

/// What differs for `subjects` between the engine in force and a new one; only what changes.
pub fn diff<'a>(
    before: &Engine,
    after: &Engine,
    subjects: impl IntoIterator<Item = Subject<'a>>,
) -> Vec<PolicyEffect> {
    let mut effects = Vec::new();
    for Subject { certify, connects } in subjects {
        let was = before.decide_certify(&certify);
        let is = after.decide_certify(&certify);
        let effect = |action: &str, app: Option<String>, before: bool, after: bool, why: String| {
            PolicyEffect {
                action: action.to_owned(),
                device: certify.device.name.to_string(),
                user: certify.device.owner.to_string(),
                app,
                before,
                after,
                why,
            }
        };
        if was.allowed != is.allowed {
            effects.push(effect(
                "certify",
                None,
                was.allowed,
                is.allowed,
                is.summary(),
            ));
        }
        for ask in connects {
            let decide = |engine: &Engine, certify: &cardea_proto::decision::Decision| {
                if certify.allowed {
                    engine.decide_connect(&ask)
                } else {
                    not_compliant(&ask, certify)
                }
            };
            let (was, is) = (decide(before, &was), decide(after, &is));
            if was.allowed != is.allowed {
                let app = Some(ask.app.name.to_string());
                effects.push(effect(
                    "connect",
                    app,
                    was.allowed,
                    is.allowed,
                    is.summary(),
                ));
            }
        }
    }
    effects
}
