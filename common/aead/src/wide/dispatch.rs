//! The one way to the code that a processor may not have the instructions for.

use super::{open, seal};
use crate::{Opening, Sealing, Words};

/// Shows that this processor has AVX-512 as of Ice Lake and Zen 4.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide(());

impl Wide {
    /// `None` where it has not.
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vbmi");
        has_all.then_some(Self(()))
    }

    pub(crate) fn seal(self, key: &Words, jobs: &mut [Sealing<'_>]) {
        // SAFETY: safe but for the instructions that it enables, and a `Wide` is only made by
        // `detect`, which has found each of them.
        unsafe { seal(key, jobs) }
    }

    pub(crate) fn open(self, key: &Words, jobs: &mut [Opening<'_>]) {
        // SAFETY: as for `seal`.
        unsafe { open(key, jobs) }
    }

    /// One block of the key stream of packets, by its lane.
    #[cfg(test)]
    pub(super) fn block(
        self,
        key: &Words,
        jobs: &[(u64, u32)],
        first: u32,
        lane: usize,
    ) -> [u8; super::BLOCK_BYTES] {
        // SAFETY: as for `seal`.
        unsafe {
            let lot = super::Places::new(jobs, first).next().unwrap();
            super::blocks(key, &lot)[lane]
        }
    }

    #[cfg(test)]
    pub(super) fn tags(self, messages: &[super::Message<'_>]) -> [[u8; crate::TAG_BYTES]; 8] {
        // SAFETY: as for `seal`.
        unsafe { super::tags(messages) }
    }
}
