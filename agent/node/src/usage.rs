//! What passed through tunnels, and which way, told to the controller now and then.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cardea_proto::{
    id::GrantId,
    message::{FromNode, Usage},
};

/// How long figures are gathered before they are sent.
const INTERVAL: Duration = Duration::from_secs(5);

/// Most tunnels in one message: 256 KiB hold more than twice as many.
const USAGES_MAX: usize = 1_000;

/// Figures that wait to be sent: the latest of each tunnel.
#[derive(Debug, Default)]
pub(crate) struct UsageReports {
    latest: BTreeMap<GrantId, Usage>,
    due: Option<Instant>,
}

impl UsageReports {
    /// Takes the figures of one tunnel.
    pub(crate) fn note(&mut self, now: Instant, usage: Usage) {
        self.latest.insert(usage.grant, usage);
        self.due.get_or_insert(now + INTERVAL);
    }

    /// The messages that are due; without a channel the figures are forgotten.
    pub(crate) fn flush(&mut self, now: Instant, is_ready: bool) -> Vec<FromNode> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = None;
        let latest: Vec<Usage> = std::mem::take(&mut self.latest).into_values().collect();
        if !is_ready {
            return Vec::new();
        }
        latest
            .chunks(USAGES_MAX)
            .map(|usages| FromNode::Usage(usages.to_vec()))
            .collect()
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::time::testing;

    use super::*;

    #[test]
    fn only_the_latest_figures_of_a_tunnel_are_sent_and_only_after_a_while() {
        let now = testing::start().instant;
        let mut reports = UsageReports::default();
        let grant = GrantId::from_bytes([1; 10]);
        for bytes_in in [1, 2] {
            let (bytes_out, flows) = (0, 1);
            reports.note(
                now,
                Usage {
                    grant,
                    bytes_in,
                    bytes_out,
                    flows,
                    path: None,
                },
            );
        }
        assert!(reports.flush(now, true).is_empty());
        let sent = reports.flush(reports.deadline().unwrap(), true);
        let expected = Usage {
            grant,
            bytes_in: 2,
            bytes_out: 0,
            flows: 1,
            path: None,
        };
        assert_eq!(sent, [FromNode::Usage(vec![expected])]);
        assert_eq!(reports.deadline(), None);
    }
}
