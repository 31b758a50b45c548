//! Says that packets were too long, which whoever sent them does not learn.

use cardea_tunnel::{DropReason, Drops, PACKET_BYTES_MAX};

/// How many were dropped for their length when it was last said.
#[derive(Debug, Default)]
pub(super) struct Oversized {
    told: u64,
}

impl Oversized {
    /// Logs what was dropped since the last time, in one line.
    pub(super) fn tell(&mut self, drops: &Drops) {
        if let Some(count) = self.news(drops) {
            tracing::warn!(
                count,
                bytes_max = PACKET_BYTES_MAX,
                "packets longer than a tunnel carries, or fragments of such, were dropped"
            );
        }
    }

    fn news(&mut self, drops: &Drops) -> Option<u64> {
        let reasons = [DropReason::Fragmented, DropReason::TooLarge];
        let count = reasons.map(|reason| drops.count(reason)).iter().sum();
        let before = std::mem::replace(&mut self.told, count);
        count.checked_sub(before).filter(|more| *more > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_that_was_too_long_is_counted_once() {
        let (mut oversized, mut drops) = (Oversized::default(), Drops::default());
        assert_eq!(oversized.news(&drops), None);
        drops.note(DropReason::Fragmented);
        drops.note(DropReason::TooLarge);
        drops.note(DropReason::Malformed);
        assert_eq!(oversized.news(&drops), Some(2));
        assert_eq!(oversized.news(&drops), None);
        drops.note(DropReason::TooLarge);
        assert_eq!(oversized.news(&drops), Some(1));
    }
}
