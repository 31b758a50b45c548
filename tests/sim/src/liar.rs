//! A connector that lies: a valid certificate and modified programs.
//!
//! It answers with other offers' digests, twice, and for grants of others; claims to hold what it
//! never had; says that grants of others are over; and goes on serving what was withdrawn. Whatever
//! it does with what reaches it, nobody can prevent: see `Model` for what must hold all the same.

use std::time::Duration;

use cardea_credential::signed::sign_answer;
use cardea_proto::{
    access::{Answer, Signed},
    codec::{Blob, Bytes},
    id::GrantId,
    message::{FromNode, Usage},
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::Command;

use crate::world::World;

/// Bytes of a key exchange that leads nowhere.
const KEM_BYTES: usize = 1_088;

impl World {
    /// Whether a connector lies at this moment.
    pub(crate) fn lies(&self, index: usize) -> bool {
        self.plan.liar == Some(index) && self.calm_since.is_none()
    }

    /// What becomes of what a connector has to say.
    pub(crate) fn lie(&mut self, index: usize, message: FromNode) -> Vec<FromNode> {
        if !self.lies(index) {
            return vec![message];
        }
        match message {
            FromNode::Hello(mut hello) => {
                hello.grants.extend(self.model.live_grants());
                hello.grants.push(GrantId::from_bytes(self.dice.bytes()));
                vec![FromNode::Hello(hello)]
            }
            FromNode::Admitted { grant, answer } => self.lie_about(index, grant, answer),
            other @ (FromNode::Report(_)
            | FromNode::Renew { .. }
            | FromNode::Request { .. }
            | FromNode::Explain { .. }
            | FromNode::NotAdmitted { .. }
            | FromNode::Closed { .. }
            | FromNode::Usage(_)) => vec![other],
        }
    }

    /// What becomes of what a connector's control half tells its data half.
    pub(crate) fn cling(&mut self, index: usize, command: Command) -> Option<Command> {
        if !self.lies(index) {
            return Some(command);
        }
        match command {
            Command::Remove { .. } if self.dice.chance(700) => None,
            Command::Extend {
                grant,
                ticket,
                standby,
                ..
            } => Some(Command::Extend {
                grant,
                ttl: Duration::from_secs(3_600),
                ticket,
                standby,
            }),
            Command::Install(mut install) => {
                install.ttl = Duration::from_secs(3_600);
                Some(Command::Install(install))
            }
            Command::Remove { grant } => Some(Command::Remove { grant }),
        }
    }

    /// The liar says something that nobody asked.
    pub(crate) fn liar_acts(&mut self) {
        let Some(index) = self.plan.liar.filter(|index| self.lies(*index)) else {
            return;
        };
        let channel = self.serving(index).and_then(|serving| serving.channel);
        let live = self.model.live_grants();
        let (Some(channel), Some(grant)) = (channel, self.dice.pick(&live).copied()) else {
            return;
        };
        let kept = self.sites.get(index).and_then(|site| site.answer.clone());
        let message = match (self.dice.below(4), kept) {
            (0, Some(answer)) => FromNode::Admitted { grant, answer },
            (1, _) => FromNode::NotAdmitted {
                grant,
                refusal: Refusal::new(RefusalCode::Internal, "no"),
            },
            (2, _) => FromNode::Usage(vec![Usage {
                grant,
                bytes_in: u64::MAX,
                bytes_out: u64::MAX,
                flows: u32::MAX,
                path: None,
            }]),
            _ => FromNode::Closed { grant },
        };
        self.say(channel, message);
    }

    fn lie_about(&mut self, index: usize, grant: GrantId, answer: Signed) -> Vec<FromNode> {
        let live = self.model.live_grants();
        let Some(site) = self.sites.get_mut(index) else {
            return Vec::new();
        };
        let before = site.answer.replace(answer.clone());
        let honest = FromNode::Admitted {
            grant,
            answer: answer.clone(),
        };
        match self.dice.below(10) {
            0 => self
                .swapped(index, grant)
                .map(|answer| FromNode::Admitted { grant, answer })
                .into_iter()
                .collect(),
            1 => before
                .map(|answer| FromNode::Admitted { grant, answer })
                .into_iter()
                .collect(),
            2 => {
                let other = self.dice.pick(&live).copied().unwrap_or(grant);
                let foreign = FromNode::Admitted {
                    grant: other,
                    answer,
                };
                vec![foreign, honest]
            }
            3 | 4 => {
                let again = FromNode::Admitted { grant, answer };
                vec![honest, again]
            }
            _ => vec![honest],
        }
    }

    /// A well-signed answer to an offer that was never made.
    fn swapped(&mut self, index: usize, grant: GrantId) -> Option<Signed> {
        let (offer, wireguard) = (Bytes(self.dice.bytes()), Bytes(self.dice.bytes()));
        let site = self.sites.get(index)?;
        let answer = Answer {
            connector: site.id,
            grant,
            offer,
            wireguard,
            kem: Blob(vec![0; KEM_BYTES]),
            candidates: Vec::new(),
        };
        sign_answer(&answer, &site.disk.certificate.chain, site.key.as_ref()).ok()
    }
}
