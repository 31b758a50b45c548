//! How things are, in the words of the local API. Nothing reads `open` when bytes cannot pass.

use cardea_proto::{
    admin::Warning,
    app::Transport,
    decision::Check,
    local::{
        AgentStatus, AppError, AppState, AppStatus, CertificateView, ControllerView, DeviceView,
        PostureView, transport_text,
    },
    message::AppView,
    name::Name,
    posture::PostureVerdict,
    refusal::{Refusal, RefusalCode},
    time::Now,
};

use crate::channel::Doubt;

use super::{
    Agent,
    access::{Access, Held},
    apps::{Entry, Failure},
};

impl Agent {
    /// How things are at this moment.
    #[must_use]
    pub fn status(&self, now: Now) -> AgentStatus {
        let controller: ControllerView = self.channel.controller_view();
        let certificate: CertificateView = self.channel.certificate_view();
        AgentStatus {
            device: DeviceView {
                id: self.device,
                name: self.name.clone(),
            },
            user: self.user.clone(),
            controller,
            certificate,
            posture: self.posture_view(),
            apps: self.app_statuses(now),
            warnings: self.warnings(now),
            dns: None,
        }
    }

    /// Why this device has no access until it enrolls anew, where every controller said so.
    #[must_use]
    pub fn ended(&self) -> Option<&Refusal> {
        self.channel.ended()
    }

    /// The apps that the controller told of and what else is open or was just refused, by name.
    pub(super) fn app_statuses(&self, now: Now) -> Vec<AppStatus> {
        let views = self.apps.views();
        let known = views
            .iter()
            .map(|view| self.app_status(now, &view.name, Some(view)));
        let others = self
            .apps
            .others(now.instant)
            .map(|app| self.app_status(now, app, self.apps.view(app)));
        let mut statuses: Vec<AppStatus> = known.chain(others).collect();
        statuses.sort_by(|a, b| a.name.cmp(&b.name));
        statuses
    }

    fn app_status(&self, now: Now, app: &Name, view: Option<&AppView>) -> AppStatus {
        let entry = self.apps.entry(app);
        let held = entry.and_then(|entry| entry.access.held());
        let traffic = entry.map(|entry| entry.traffic).unwrap_or_default();
        let (state, why) = self.app_state(now, entry, view);
        let is_open = state == AppState::Open;
        let path = traffic.path.filter(|_| is_open);
        let wish = view.map_or(Transport::Auto, |view| view.transport);
        AppStatus {
            name: app.clone(),
            state,
            transport: transport_text(held.map(|held| held.carrier), wish),
            path: path.map(|(path, _)| path.to_string()),
            path_why: path.map(|(_, why)| why.to_string()),
            standby: traffic
                .standby
                .into_iter()
                .flatten()
                .filter(|_| is_open)
                .map(|relay| relay.to_string())
                .collect(),
            rtt_ms: traffic
                .rtt
                .filter(|_| is_open)
                .and_then(|rtt| u64::try_from(rtt.as_millis()).ok()),
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            not_after: held.map(|held| not_after(now, held)),
            why,
            last_error: traffic.failure.filter(|_| held.is_some()).map(app_error),
            services: view.map(|view| view.services.clone()).unwrap_or_default(),
            addresses: Vec::new(),
        }
    }

    fn app_state(
        &self,
        now: Now,
        entry: Option<&Entry>,
        view: Option<&AppView>,
    ) -> (AppState, Option<String>) {
        match entry.map(|entry| &entry.access) {
            Some(Access::Open { held }) if held.until > now.instant => {
                open_state(entry.is_some_and(Entry::is_silent))
            }
            Some(Access::Opening { .. } | Access::Asking { .. }) => (AppState::Opening, None),
            Some(Access::Denied { refusal, .. }) => (AppState::Denied, Some(refusal.to_string())),
            Some(Access::Unreachable { refusal, .. }) => {
                (AppState::Unreachable, Some(refusal.to_string()))
            }
            Some(Access::Open { .. } | Access::Idle { .. }) | None => {
                let ended = match entry.map(|entry| &entry.access) {
                    Some(Access::Idle { ended: Some(ended) }) => Some(ended.to_string()),
                    _ => None,
                };
                self.idle_state(view, ended)
            }
        }
    }

    /// The state of an app that nobody has asked for, or whose tunnel ended.
    fn idle_state(
        &self,
        view: Option<&AppView>,
        ended: Option<String>,
    ) -> (AppState, Option<String>) {
        if let Some(view) = view.filter(|view| !view.allowed) {
            return (AppState::Denied, view.why.clone());
        }
        if self.channel.is_unreachable() {
            return (
                AppState::Unreachable,
                Some(self.channel.unreachable().to_string()),
            );
        }
        (AppState::Idle, ended)
    }

    /// Who was removed is judged by nobody any more.
    fn posture_view(&self) -> PostureView {
        let verdict = self
            .posture
            .verdict()
            .filter(|_| !self.channel.is_removed());
        PostureView {
            compliant: verdict.map(|verdict| verdict.compliant),
            checked_at: verdict.map(|verdict| verdict.checked_at.to_rfc3339()),
            failed: verdict.map_or_else(Vec::new, PostureVerdict::reasons),
        }
    }

    /// That an admin blocked this device, where no controller has turned it away for that.
    fn block_warning(&self) -> Option<Warning> {
        let is_told = self.channel.told().map(|told| told.code) == Some(RefusalCode::Blocked);
        (self.posture.is_blocked() && !is_told).then(|| Warning {
            code: RefusalCode::Blocked.to_string(),
            title: "this device is blocked".to_owned(),
            fix: format!(
                "Ask an admin to run: cardeactl device unblock {}",
                self.name
            ),
        })
    }

    fn warnings(&self, now: Now) -> Vec<Warning> {
        let warning = |code: &str, title: String, fix: String| Warning {
            code: code.to_owned(),
            title,
            fix,
        };
        let mut warnings = Vec::new();
        let is_lost = self.channel.is_wanted() && self.channel.is_unreachable();
        if let Some(told) = self.channel.told() {
            // Who was told why has just that to do.
            let told = told.clone().advised();
            let fix = told.next.unwrap_or_default();
            warnings.push(warning(&told.code.to_string(), told.message, fix));
        } else if is_lost && !self.channel.is_renewing() {
            let Refusal { message, next, .. } = self.channel.unreachable();
            let next = next.unwrap_or_else(|| "Check the network".to_owned());
            let fix = format!("Open tunnels go on for their ttl. {next}, then: cardea status");
            warnings.push(warning("controller_unreachable", message, fix));
        }
        warnings.extend(self.block_warning());
        if let Some(skew) = self.channel.skew() {
            let way = if skew.ahead { "ahead of" } else { "behind" };
            warnings.push(warning(
                &RefusalCode::ClockSkew.to_string(),
                format!(
                    "this device's clock is {} s {way} the controller's",
                    skew.offset.as_secs()
                ),
                "Set the clock, then: cardea up".to_owned(),
            ));
        }
        if self.channel.not_after() <= now.unix {
            warnings.push(warning(
                &RefusalCode::CertificateExpired.to_string(),
                "this device's certificate has ended".to_owned(),
                "It is renewed at the next connection while posture passes; see: cardea posture"
                    .to_owned(),
            ));
        }
        if let Some(doubt) = self.channel.doubt() {
            let title = match doubt {
                Doubt::Silent => "the controller does not show its ledger".to_owned(),
                Doubt::Contradicted { known } => format!(
                    "the controller's ledger does not go on from the {known} entries that this device knows: it was rolled back or written anew"
                ),
            };
            let fix = "Tell an admin, who sees more with: cardeactl status".to_owned();
            warnings.push(warning("ledger_doubtful", title, fix));
        }
        let refused = self.channel.renewal_refused();
        // That it is blocked is said above, in the present.
        if let Some(refusal) = refused.filter(|refusal| refusal.code != RefusalCode::Blocked) {
            let fix = refusal
                .next
                .clone()
                .unwrap_or_else(|| "See: cardea posture".to_owned());
            warnings.push(warning("certificate_refused", refusal.message.clone(), fix));
        }
        if let Some(verdict) = self.posture.verdict().filter(|verdict| !verdict.compliant) {
            let title = verdict
                .failed
                .first()
                .map(Check::place)
                .or_else(|| verdict.why.clone())
                .unwrap_or_else(|| "posture does not pass".to_owned());
            let fix = verdict
                .remedy
                .clone()
                .unwrap_or_else(|| "See: cardea posture".to_owned());
            warnings.push(warning(&RefusalCode::PostureFailed.to_string(), title, fix));
        }
        warnings
    }
}

fn app_error(failure: Failure) -> AppError {
    AppError {
        message: format!("the connector did not reach the app: {}", failure.why),
        at: failure.at.to_rfc3339(),
        count: failure.count,
    }
}

/// A tunnel that was opened, as it is at the moment.
fn open_state(is_silent: bool) -> (AppState, Option<String>) {
    if is_silent {
        let why = "the other end does not answer; the tunnel opens again when it does";
        (AppState::Unreachable, Some(why.to_owned()))
    } else {
        (AppState::Open, None)
    }
}

/// When a grant ends unless it is extended, as a wall clock shows it.
fn not_after(now: Now, held: &Held) -> String {
    let left = held.until.saturating_duration_since(now.instant);
    now.unix.plus(left).to_rfc3339()
}
