//! What everybody holds when the faults have stopped: no more than what is live.

use std::{collections::BTreeSet, time::Duration};

use cardea_proto::id::GrantId;
use cardea_tunnel::Tunnels;

use crate::{
    device::Device, founding::RELAYS, member::Acting, plan::TTL, site::Site, user::FLOWS_MAX,
    world::World,
};

/// How long the relay goes on holding an end that fell silent: its default, and a keepalive.
const SILENT_END: Duration = Duration::from_secs(110);

/// One table or queue: whose and which, its size, and the most that what is live explains.
type Size = (String, usize, usize);

impl World {
    /// Every queue and table is bounded by what is live.
    pub(crate) fn judge_growth(&mut self) {
        let mut sizes = self.relay_sizes();
        for (member, running) in self.control.members.iter().enumerate() {
            if let Some(acting) = &running.running {
                sizes.extend(self.controller_sizes(member, acting));
            }
        }
        for (index, device) in self.devices.iter().enumerate() {
            sizes.extend(self.device_sizes(index, device));
        }
        for (index, site) in self.sites.iter().enumerate() {
            sizes.extend(self.site_sizes(index, site));
        }
        for (what, size, most) in sizes {
            if size > most {
                self.fail(0, format!("{what}: {size}, and {most} are live"));
            }
        }
    }

    fn controller_sizes(&self, member: usize, acting: &Acting) -> Vec<Size> {
        let held = acting.controller.sizes();
        let grants = acting.controller.state().grants_count();
        let nodes = self.devices.len() + self.sites.len();
        let writing = acting.writing.as_ref().map_or(0, Vec::len);
        let waiting = acting.waiting.len() + writing + acting.own.len();
        let channels = self.control.channels.values();
        let channels = channels.filter(|channel| channel.member == member).count();
        let size = |what: &str, size, most| (format!("controller {member}: {what}"), size, most);
        vec![
            size("proposals at the store", waiting, nodes),
            size("proposals", held.proposals, waiting),
            size("requests being recorded", held.deciding, held.proposals),
            size("grants promised", held.promised, held.proposals),
            size("names reserved", held.reserved, held.proposals),
            size("channels", held.channels, channels),
            size("nodes remembered", held.nodes, nodes),
            size("devices reviewed", held.reviews, self.devices.len()),
            size("tunnels", held.tunnels, grants),
            size("ends wanted", held.endings, grants),
            // A report and a certificate of each device; refusals, witnesses, reviews.
            size("timers", held.timers, grants + 2 * self.devices.len() + 3),
        ]
    }

    fn relay_sizes(&self) -> Vec<Size> {
        let agents = self.devices.iter().filter_map(Device::tunnels);
        let connectors = self.sites.iter().filter_map(Site::tunnels);
        let tunnels = agents.chain(connectors);
        // A liar keeps one end of tunnels whose other end fell silent long ago.
        let held: usize = tunnels.map(|tunnels| tunnels.sizes().tunnels).sum();
        let now = self.now.instant;
        let live = self.model.live_since(now).len();
        let since = now.checked_sub(SILENT_END).unwrap_or(now);
        let silent = self.model.live_since(since).len() - live;
        let relays = self.relays.iter().enumerate();
        relays
            .map(|(which, relay)| {
                let name = format!("relay {which}: ends");
                (name, relay.ends(), 2 * (held + silent))
            })
            .collect()
    }

    fn device_sizes(&self, index: usize, device: &Device) -> Vec<Size> {
        let Some(running) = &device.running else {
            return Vec::new();
        };
        let who = format!("device {index}");
        // What was said last in a tunnel that nobody answers waits as long as its grant lasts, and a
        // villain keeps tunnels of grants that ended.
        let flows = match index == self.plan.villain() {
            true => usize::try_from(device.user.opened).unwrap_or(usize::MAX),
            false => device.user.flows.len(),
        };
        let mut sizes = tunnel_sizes(&who, &running.tunnels, flows);
        let apps = running.agent.status(device.skew.show(self.now)).apps.len();
        sizes.push((format!("{who}: apps"), apps, self.plan.apps));
        if index != self.plan.villain() {
            let of_the_dead = self.of_the_dead(running.tunnels.grants());
            sizes.push((format!("{who}: tunnels of no grant"), of_the_dead, 0));
        }
        sizes
    }

    fn site_sizes(&self, index: usize, site: &Site) -> Vec<Size> {
        let Some(serving) = &site.serving else {
            return Vec::new();
        };
        let who = format!("site {index}");
        let mut sizes = tunnel_sizes(&who, &serving.tunnels, serving.flows.len());
        // An end may know of flows that the other one has given up, while their tunnel lives.
        let flows = self.devices.len() * FLOWS_MAX;
        sizes.push((format!("{who}: flows"), serving.flows.len(), flows));
        if self.plan.liar != Some(index) {
            let of_the_dead = self.of_the_dead(serving.tunnels.grants());
            sizes.push((format!("{who}: tunnels of no grant"), of_the_dead, 0));
            let of_the_dead = self.of_the_dead(serving.connector.grants().into_iter());
            sizes.push((format!("{who}: grants that ended"), of_the_dead, 0));
        }
        sizes
    }

    /// How many of these ended so long ago that nobody has a reason to hold them.
    fn of_the_dead(&self, held: impl Iterator<Item = GrantId>) -> usize {
        let now = self.now.instant;
        let live: BTreeSet<GrantId> = self.model.live_since(now.checked_sub(TTL).unwrap_or(now));
        held.filter(|grant| !live.contains(grant)).count()
    }
}

fn tunnel_sizes(who: &str, tunnels: &Tunnels, flows: usize) -> Vec<Size> {
    let held = tunnels.sizes();
    vec![
        (
            format!("{who}: handles"),
            held.handles,
            held.tunnels * RELAYS.len(),
        ),
        (
            format!("{who}: tunnels to flush"),
            held.unflushed,
            held.tunnels,
        ),
        (format!("{who}: flows in tunnels"), held.flows, flows),
    ]
}
