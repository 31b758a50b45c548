//! Answers to questions: the rows that `ls` and `show` print.

use std::{collections::BTreeMap, net::SocketAddr};

use cardea_credential::authority::issued;
use cardea_proto::{
    PROGRAM_VERSION,
    admin::{
        AdminAnswer, AdminQuery, AppRow, ConnectorRow, DeviceRow, GrantRow, InviteRow, Knocks,
        RelayRow, SiteRow, StatusView, TunnelRow, UserRow, Warning,
    },
    app::Principal,
    id::{ConnectorId, DeviceId, NodeId},
    identity::Role,
    ledger::{Admits, Grant},
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::{Now, UnixMillis},
};

use super::{find, policies};
use crate::{
    channels::Seen,
    controller::Controller,
    policy::{Prepared, recommended_folder},
    posture::Facts,
    state::{GrantRecord, InviteRecord, NodeRecord},
};

/// How long before the end of the intermediate certificate its admins are warned: a week.
const INTERMEDIATE_WARNING_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// How long ago a connector that lives was heard of at most: it says so every 10 s, and what is lost
/// is said again.
const CONNECTOR_HEARD_MS: u64 = 12_000;

impl Controller {
    /// Answers a question.
    pub(super) fn answer(
        &self,
        now: Now,
        query: &AdminQuery,
        prepared: Option<&Prepared>,
    ) -> Result<AdminAnswer, Refusal> {
        let state = &self.world.state;
        let nodes = |devices: bool| {
            state
                .nodes()
                .filter(move |record| find::is_device(record) == devices)
        };
        Ok(match query {
            AdminQuery::Invites => {
                let rows = state.invites().map(|invite| self.invite_row(now, invite));
                AdminAnswer::Invites(rows.collect())
            }
            AdminQuery::Sites => {
                AdminAnswer::Sites(state.sites().map(|site| self.site_row(site)).collect())
            }
            AdminQuery::Connectors => {
                let rows = nodes(false).filter_map(|record| self.connector_row(now, record));
                AdminAnswer::Connectors(rows.collect())
            }
            AdminQuery::Devices => {
                let rows = nodes(true).filter_map(|record| self.device_row(record));
                AdminAnswer::Devices(rows.collect())
            }
            AdminQuery::Users => AdminAnswer::Users(self.user_rows()),
            AdminQuery::Apps => AdminAnswer::Apps(self.app_rows()),
            AdminQuery::Policy => AdminAnswer::Policy {
                revision: self.world.policy_revision(),
                files: self.policy_shown(),
            },
            AdminQuery::PolicyCheck(files) => policies::policy_problems(files, prepared)?,
            AdminQuery::PolicyTest(files) => policies::policy_tests(files, prepared)?,
            AdminQuery::PolicyDiff(files) => self.policy_effects(now, files, prepared)?,
            AdminQuery::PolicyRecommended => AdminAnswer::PolicyFiles(recommended_folder()),
            AdminQuery::Impact(change) => AdminAnswer::Impact {
                closes: count(self.plan_change(now, change, prepared)?.ends.len()),
            },
            AdminQuery::Explain { user, device, app } => {
                self.explain_to_admin(now, user, device, app)?
            }
            AdminQuery::Grants => {
                AdminAnswer::Grants(state.grants().map(|grant| self.grant_row(grant)).collect())
            }
            AdminQuery::Tunnels => {
                let open = state
                    .grants()
                    .filter(|record| self.live.is_open(&record.grant.id));
                AdminAnswer::Tunnels(open.map(|record| self.tunnel_row(&record.grant)).collect())
            }
            AdminQuery::Status => AdminAnswer::Status(Box::new(self.status(now))),
            AdminQuery::Audit { .. }
            | AdminQuery::AuditSearch { .. }
            | AdminQuery::AuditWho { .. }
            | AdminQuery::Checkpoint
            | AdminQuery::AuditFollow { .. } => {
                return Err(Refusal::new(
                    RefusalCode::Internal,
                    "the ledger is read from the store",
                ));
            }
        })
    }

    fn explain_to_admin(
        &self,
        now: Now,
        user: &Name,
        device: &str,
        app: &Name,
    ) -> Result<AdminAnswer, Refusal> {
        let state = &self.world.state;
        find::user_to_come(state, user)?;
        let (device, _) = find::device(state, device)?;
        find::app(state, app)?;
        let decision = self.explain(now, device, user, app);
        Ok(AdminAnswer::Decision(Box::new(decision)))
    }

    fn invite_row(&self, now: Now, record: &InviteRecord) -> InviteRow {
        let invite = &record.invite;
        let (name, role) = match &invite.admits {
            Admits::Device { user, .. } => (user.clone(), Role::Device),
            Admits::Connector { site } => (site.clone(), Role::Connector),
        };
        let state = if record.used_by.is_some() {
            "used"
        } else if invite.expires_at <= now.unix {
            "expired"
        } else {
            "open"
        };
        let used_by = record.used_by.map(|node| {
            let name = self.world.state.node(node);
            name.map_or_else(|| node.to_string(), |record| record.node.name.to_string())
        });
        InviteRow {
            id: invite.id,
            name,
            role,
            state: state.to_owned(),
            expires_at: invite.expires_at.to_rfc3339(),
            used_by,
        }
    }

    fn site_row(&self, site: &Name) -> SiteRow {
        let state = &self.world.state;
        SiteRow {
            id: site.clone(),
            name: site.clone(),
            apps: count(state.apps().filter(|app| app.spec.site == *site).count()),
            connectors: count(state.connectors_of(site).count()),
            connectors_online: self.online(site),
        }
    }

    fn connector_row(&self, now: Now, record: &NodeRecord) -> Option<ConnectorRow> {
        let NodeId::Connector(id) = record.node.id else {
            return None;
        };
        let seen = self.channels.seen(record.node.id);
        let connected = self.channels.of(record.node.id).is_some();
        let is_silent =
            seen.is_some_and(|seen| now.unix.0.saturating_sub(seen.at.0) > CONNECTOR_HEARD_MS);
        Some(ConnectorRow {
            id,
            name: record.node.name.clone(),
            site: record.node.site.clone()?,
            state: match (connected, is_silent) {
                (true, false) => "connected",
                (true, true) => "silent",
                (false, _) => "offline",
            }
            .to_owned(),
            last_seen: last_seen(record, seen),
            certificate_not_after: certificate_end(record),
            program: seen.and_then(|seen| seen.program.clone()),
            tunnels: count(self.world.state.connector_load(id)),
        })
    }

    fn device_row(&self, record: &NodeRecord) -> Option<DeviceRow> {
        let NodeId::Device(id) = record.node.id else {
            return None;
        };
        let posture = self.postures.get(id);
        let verdict = posture.and_then(|posture| posture.verdict.as_ref());
        let facts = self.postures.facts(id);
        let seen = self.channels.seen(record.node.id);
        let connected = self.channels.of(record.node.id).is_some();
        let state = match (record.blocked, connected) {
            (true, _) => "blocked",
            (false, true) => "connected",
            (false, false) => "offline",
        };
        Some(DeviceRow {
            id,
            name: record.node.name.clone(),
            user: record.node.user.clone()?,
            state: state.to_owned(),
            compliant: record.compliant,
            failed: verdict.map_or_else(Vec::new, |verdict| verdict.failed.clone()),
            why: verdict.and_then(|verdict| verdict.why.clone()),
            checked_at: facts.map(|facts| facts.received_at().to_rfc3339()),
            last_seen: last_seen(record, seen),
            certificate_not_after: certificate_end(record),
            os: record.node.os.clone(),
            program: seen.and_then(|seen| seen.program.clone()),
            facts: facts.map_or_else(BTreeMap::new, Facts::shown),
        })
    }

    fn user_rows(&self) -> Vec<UserRow> {
        let state = &self.world.state;
        let devices = |user: &Name| {
            state
                .devices_of(user)
                .filter_map(|id| Some(state.device(id)?.node.name.clone()))
                .collect()
        };
        state
            .users()
            .map(|user| UserRow {
                id: user.name.clone(),
                name: user.name.clone(),
                groups: user.groups.clone(),
                devices: devices(&user.name),
            })
            .collect()
    }

    fn app_rows(&self) -> Vec<AppRow> {
        let state = &self.world.state;
        let mut allow: BTreeMap<&Name, Vec<Principal>> = BTreeMap::new();
        for link in state.links() {
            allow
                .entry(&link.app)
                .or_default()
                .push(link.principal.clone());
        }
        state
            .apps()
            .map(|app| AppRow {
                id: app.spec.name.clone(),
                allow: allow.remove(&app.spec.name).unwrap_or_default(),
                grants: count(state.grants_of_app(&app.spec.name).count()),
                connectors_online: self.online(&app.spec.site),
                spec: app.spec.clone(),
            })
            .collect()
    }

    fn grant_row(&self, record: &GrantRecord) -> GrantRow {
        let grant = &record.grant;
        GrantRow {
            id: grant.id,
            name: {
                let place = grant.host.as_ref().unwrap_or(&grant.app);
                format!("{place} for {}", grant.user)
            },
            user: grant.user.clone(),
            device: self.device_name(grant.device),
            app: grant.app.clone(),
            connector: self.connector_name(grant.connector),
            carrier: grant.carrier,
            state: if record.admitted { "open" } else { "offered" }.to_owned(),
            since: record.since.to_rfc3339(),
            ttl_s: grant.ttl_ms / 1_000,
            revision: record.revision,
            rules: record.rules.clone(),
        }
    }

    fn tunnel_row(&self, grant: &Grant) -> TunnelRow {
        let told = self.live.told(&grant.id);
        let path = told.and_then(|told| told.path);
        TunnelRow {
            id: grant.id,
            name: format!("{} for {}", grant.app, grant.user),
            user: grant.user.clone(),
            device: self.device_name(grant.device),
            app: grant.app.clone(),
            carrier: grant.carrier,
            path: path.map_or_else(|| "unknown".to_owned(), |path| path.to_string()),
            bytes_in: told.map_or(0, |told| told.bytes_in),
            bytes_out: told.map_or(0, |told| told.bytes_out),
            flows: told.map_or(0, |told| told.flows),
            told_at: told.map(|told| told.at.to_rfc3339()),
        }
    }

    fn status(&self, now: Now) -> StatusView {
        let state = &self.world.state;
        let started = self.health.started.unwrap_or(now);
        let counted = |devices: bool| {
            let enrolled = state
                .nodes()
                .filter(|record| find::is_device(record) == devices);
            enrolled.fold((0, 0), |(all, online): (u32, u32), record| {
                let connected = self.channels.of(record.node.id).is_some();
                (all + 1, online + u32::from(connected))
            })
        };
        StatusView {
            domain: self.world.domain().clone(),
            controller: self.world.controller(),
            program: PROGRAM_VERSION.to_owned(),
            addresses: self.world.settings.addresses.clone(),
            revision: state.head(),
            policy_revision: self.world.policy_revision(),
            started_at: started.unix.to_rfc3339(),
            store: self
                .health
                .store_problem
                .clone()
                .unwrap_or_else(|| "ok".to_owned()),
            devices: counted(true),
            connectors: counted(false),
            grants: count(state.grants_count()),
            intermediate_not_after: self.world.keys.intermediate.not_after().to_rfc3339(),
            simulated_posture: self.world.settings.allow_simulated_posture,
            rollback: state.rollback().cloned(),
            knocks: Knocks::default(),
            relays: self.relay_rows(),
            warnings: self.warnings(now),
        }
    }

    fn relay_rows(&self) -> Vec<RelayRow> {
        let relays = self.world.settings.relays.iter().enumerate();
        let row = |(place, addresses): (usize, &Vec<SocketAddr>)| RelayRow {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            answers: !self.world.relays.is_silent(place),
        };
        relays.map(row).collect()
    }

    fn warnings(&self, now: Now) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let mut warn = |code: &str, title: String, fix: &str| {
            warnings.push(Warning {
                code: code.to_owned(),
                title,
                fix: fix.to_owned(),
            });
        };
        if let Some(problem) = &self.health.store_problem {
            let title = format!("nothing can be recorded: {problem}");
            warn(
                "store",
                title,
                "Free space on the disk, or restart cardea-controller",
            );
        }
        if let Some(problem) = &self.world.policy_problem {
            let title =
                format!("everything is denied, because the policy does not load: {problem}");
            warn("policy", title, "cardeactl policy apply DIR");
        }
        let end = self.world.keys.intermediate.not_after();
        if end <= UnixMillis(now.unix.0.saturating_add(INTERMEDIATE_WARNING_MS)) {
            let title = format!("the intermediate certificate ends at {}", end.to_rfc3339());
            warn(
                "intermediate",
                title,
                "cardea-controller renew --root DIR, then restart it",
            );
        }
        if self.world.settings.allow_simulated_posture {
            let title = "devices may report simulated posture".to_owned();
            warn(
                "simulated_posture",
                title,
                "Restart cardea-controller without --allow-simulated-posture, nor that in controller.toml",
            );
        }
        for relay in self.relay_rows().iter().filter(|relay| !relay.answers) {
            let title = format!("relay {} does not answer", relay.addresses.join(", "));
            warn(
                "relay_silent",
                title,
                "Look at cardea-relay there, and at the UDP port on the way",
            );
        }
        for site in self.world.state.sites() {
            let apps = self.world.state.apps().any(|app| app.spec.site == *site);
            if apps && self.online(site) == 0 {
                let title = format!("no connector of site {site} is connected");
                warn("site_offline", title, "cardeactl invite connector");
            }
        }
        warnings
    }

    fn policy_shown(&self) -> Vec<cardea_proto::policy::PolicyFile> {
        // The engine adds the everyday rules; where the policy does not load, it has nothing.
        if self.world.policy_problem.is_some() {
            self.world.state.policy().to_vec()
        } else {
            self.world.engine.files()
        }
    }

    fn online(&self, site: &Name) -> u32 {
        let connectors = self.world.state.connectors_of(site);
        count(
            connectors
                .filter(|id| self.channels.of_connector(*id).is_some())
                .count(),
        )
    }

    fn device_name(&self, id: DeviceId) -> Name {
        self.node_name(NodeId::Device(id), &id.to_string())
    }

    fn connector_name(&self, id: ConnectorId) -> Name {
        self.node_name(NodeId::Connector(id), &id.to_string())
    }

    /// A node's name; its id, which is a name too, for one that is gone.
    fn node_name(&self, node: NodeId, id: &str) -> Name {
        if let Some(record) = self.world.state.node(node) {
            return record.node.name.clone();
        }
        #[expect(clippy::expect_used, reason = "an id has only characters of a name")]
        id.parse().expect("an id is a name")
    }
}

/// When a node was last heard of: by this process, else when it last got a certificate.
fn last_seen(record: &NodeRecord, seen: Option<&Seen>) -> Option<String> {
    let certified = record.certificate.as_ref();
    let certified = certified.map(|certificate| issued(certificate.not_before));
    let at = seen.map(|seen| seen.at).or(certified)?;
    Some(at.to_rfc3339())
}

fn certificate_end(record: &NodeRecord) -> Option<String> {
    let certificate = record.certificate.as_ref()?;
    Some(certificate.not_after.to_rfc3339())
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
