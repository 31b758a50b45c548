//! Which tunnel leads to which app, and who waits for one.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use cardea_proto::{
    access::InnerAddresses, app::Service, id::GrantId, message::AppView, name::Name, pattern,
};
use cardea_tunnel::{Command, Egress, Event};

/// Tunnels by app, as the last commands and events left them.
#[derive(Debug)]
pub(super) struct Routes<W> {
    installed: BTreeMap<GrantId, Installed>,
    open: BTreeMap<Name, GrantId>,
    waiting: BTreeMap<Name, VecDeque<W>>,
    waiting_count: usize,
    apps: Vec<AppView>,
}

#[derive(Debug)]
struct Installed {
    app: Name,
    /// Whether its other end alone does not answer.
    is_deserted: bool,
    /// When somebody began a flow in it last.
    begun: Option<Instant>,
    inner: InnerAddresses,
    services: Vec<Service>,
    egress: Option<Egress>,
}

/// Longer than it takes to find out that the other end is gone.
const LATELY: Duration = Duration::from_secs(3);

/// Most connections that wait for tunnels at a time.
const WAITING_MAX: usize = 4_096;

impl<W> Routes<W> {
    pub(super) const fn new() -> Self {
        Self {
            installed: BTreeMap::new(),
            open: BTreeMap::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            apps: Vec::new(),
        }
    }

    /// Takes note of a command before the tunnels carry it out.
    pub(super) fn note_command(&mut self, command: &Command) {
        match command {
            Command::Install(install) => {
                // A grant that is replaced is closed by the tunnels, which is told by an event.
                let installed = Installed {
                    app: install.app.clone(),
                    is_deserted: false,
                    begun: None,
                    inner: install.inner,
                    services: install.services.clone(),
                    egress: install.egress.clone(),
                };
                self.installed.insert(install.grant, installed);
            }
            Command::Remove { grant } => self.forget(*grant),
            Command::Extend { .. } => {}
        }
    }

    /// Takes note of an event; gives the app whose tunnel has just opened.
    pub(super) fn note_event(&mut self, event: &Event, is_gone: bool) -> Option<Name> {
        match event {
            Event::Opened { grant } => {
                let app = self.installed.get(grant)?.app.clone();
                self.open.insert(app.clone(), *grant);
                Some(app)
            }
            Event::Closed { grant, .. } => {
                if is_gone {
                    self.forget(*grant);
                }
                None
            }
            Event::Used { .. }
            | Event::Path { .. }
            | Event::Standby { .. }
            | Event::Unreached { .. } => None,
            Event::Silent { grant, silence } => {
                self.installed.get_mut(grant)?.is_deserted = silence.alone;
                None
            }
            Event::Answers { grant } => {
                self.installed.get_mut(grant)?.is_deserted = false;
                None
            }
        }
    }

    /// The open tunnel to an app that a new flow may begin in.
    pub(super) fn begins_in(&mut self, now: Instant, app: &Name) -> Option<GrantId> {
        let grant = self.open(app)?;
        let installed = self.installed.get_mut(&grant)?;
        installed.begun = Some(now);
        (!installed.is_deserted).then_some(grant)
    }

    /// The app of a tunnel that was found deserted while somebody who came lately waits in it.
    pub(super) fn is_waited_in(&self, now: Instant, grant: GrantId) -> Option<&Name> {
        let installed = self.installed.get(&grant)?;
        let is_late = installed.begun.is_some_and(|begun| now < begun + LATELY);
        (installed.is_deserted && is_late).then_some(&installed.app)
    }

    /// The open tunnel to an app.
    pub(super) fn open(&self, app: &Name) -> Option<GrantId> {
        self.open.get(app).copied()
    }

    /// The addresses inside the tunnel of a grant.
    pub(super) fn inner(&self, grant: GrantId) -> Option<InnerAddresses> {
        Some(self.installed.get(&grant)?.inner)
    }

    /// The app that a grant is for.
    pub(super) fn app(&self, grant: GrantId) -> Option<&Name> {
        Some(&self.installed.get(&grant)?.app)
    }

    /// Where the flows of a grant may go.
    pub(super) fn egress(&self, grant: GrantId) -> Option<&Egress> {
        self.installed.get(&grant)?.egress.as_ref()
    }

    /// Somebody waits for an app. Gives them back when too many do; else whether they are the first.
    pub(super) fn wait(&mut self, app: &Name, who: W) -> Result<bool, W> {
        if self.waiting_count >= WAITING_MAX {
            return Err(who);
        }
        self.waiting_count += 1;
        let queue = self.waiting.entry(app.clone()).or_default();
        queue.push_back(who);
        Ok(queue.len() == 1)
    }

    /// Everybody who waits for an app.
    pub(super) fn take_waiting(&mut self, app: &Name) -> VecDeque<W> {
        let taken = self.waiting.remove(app).unwrap_or_default();
        self.waiting_count = self.waiting_count.saturating_sub(taken.len());
        taken
    }

    /// Everybody who waits and for whom `leaves` holds.
    pub(super) fn take_leaving(&mut self, leaves: impl Fn(&W) -> bool) -> Vec<W> {
        let mut left = Vec::new();
        for queue in self.waiting.values_mut() {
            for _ in 0..queue.len() {
                match queue.pop_front() {
                    Some(who) if leaves(&who) => left.push(who),
                    Some(who) => queue.push_back(who),
                    None => {}
                }
            }
        }
        self.waiting.retain(|_, queue| !queue.is_empty());
        self.waiting_count = self.waiting_count.saturating_sub(left.len());
        left
    }

    pub(super) fn set_apps(&mut self, apps: Vec<AppView>) {
        self.apps = apps;
    }

    /// The app of a name or DNS name that somebody asked SOCKS for, if it has such a port.
    ///
    /// A name that is known but has no such port is no destination; one that is not known is the
    /// controller's to refuse, with its reason.
    pub(super) fn find(&self, host: &str, service: Service) -> Option<Name> {
        let host = host.trim_end_matches('.');
        match pattern::meant(&self.apps, host) {
            Some(meant) => {
                let has_it = meant.view.services.contains(&service);
                has_it.then(|| meant.name())
            }
            None => host.parse().ok(),
        }
    }

    /// Whether it is known that an app has no such service: by its open tunnel, else as the controller
    /// said. An echo belongs to none.
    pub(super) fn is_missing(&self, name: &Name, open: Option<GrantId>, service: Service) -> bool {
        let lacks = |services: &[Service]| service.port != 0 && !services.contains(&service);
        match open.and_then(|grant| self.installed.get(&grant)) {
            Some(installed) => lacks(&installed.services),
            None => pattern::meant(&self.apps, name.as_str())
                .is_some_and(|meant| lacks(&meant.view.services)),
        }
    }

    fn forget(&mut self, grant: GrantId) {
        if let Some(installed) = self.installed.remove(&grant)
            && self.open.get(&installed.app) == Some(&grant)
        {
            self.open.remove(&installed.app);
        }
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::app::{Protocol, Transport};

    use super::*;

    const WEB: Service = Service {
        protocol: Protocol::Tcp,
        port: 80,
    };

    #[test]
    fn socks_finds_an_app_by_its_name_or_its_dns_name_and_only_at_its_ports() {
        let mut routes: Routes<()> = Routes::new();
        routes.set_apps(vec![AppView {
            name: "wiki".parse().unwrap(),
            names: ["wiki.corp.example", "*.dev.corp.example"]
                .map(|name| name.parse().unwrap())
                .to_vec(),
            services: vec![WEB],
            transport: Transport::Auto,
            allowed: true,
            why: None,
        }]);
        let wiki: Name = "wiki".parse().unwrap();
        for host in ["wiki", "WIKI", "wiki.corp.example", "Wiki.Corp.Example."] {
            assert_eq!(routes.find(host, WEB), Some(wiki.clone()), "{host}");
        }
        let api = "api.dev.corp.example".parse().unwrap();
        assert_eq!(routes.find("API.dev.corp.example", WEB), Some(api));
        let other = Service { port: 81, ..WEB };
        assert_eq!(routes.find("api.dev.corp.example", other), None);
        assert_eq!(routes.find("wiki", other), None);
        assert_eq!(routes.find("a b", WEB), None);
    }

    #[test]
    fn those_who_wait_are_bounded_and_leave_when_told() {
        let mut routes = Routes::new();
        let app: Name = "wiki".parse().unwrap();
        for number in 0..WAITING_MAX {
            assert_eq!(routes.wait(&app, number), Ok(number == 0));
        }
        assert_eq!(routes.wait(&app, 0), Err(0));
        assert_eq!(routes.take_leaving(|number| *number < 10).len(), 10);
        assert_eq!(routes.wait(&app, 0), Ok(false));
        assert_eq!(routes.take_waiting(&app).len(), WAITING_MAX - 9);
        assert_eq!(routes.wait(&app, 0), Ok(true));
    }
}
