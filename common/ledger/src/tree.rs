//! The Merkle tree over the entries (RFC 6962 §2.1), kept so that it can prove without being whole.
//!
//! Of a ledger of a million entries, the hashes of complete subtrees of 256 leaves and more take a
//! quarter of a megabyte; whatever lies below them is asked of the journal, which has it anyway.

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256};
use cardea_proto::codec::{Bytes, Digest};
use serde::{Deserialize, Serialize};

/// Height of the smallest subtrees whose hashes are kept.
const BLOCK_HEIGHT: u32 = 8;

/// Leaves of such a subtree.
pub const BLOCK_LEAVES: u64 = 1 << BLOCK_HEIGHT;

/// Hashes in a proof of consistency at most: two for each level of a tree of 2^64 leaves.
pub const PROOF_HASHES_MAX: usize = 128;

/// Hash of a leaf (RFC 6962 §2.1): SHA-256 over a zero byte and the data.
#[must_use]
pub fn leaf(data: &[u8]) -> Digest {
    hash(&[&[0], data])
}

fn node(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[1], &left.0, &right.0])
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    Bytes(digest.as_ref().try_into().unwrap_or([0; 32]))
}

/// The root of an empty tree: SHA-256 over nothing.
fn empty() -> Digest {
    hash(&[])
}

/// A growing tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    size: u64,
    /// Roots of the complete subtrees that the size divides into, the largest first: one for each
    /// bit that is set in `size`.
    peaks: Vec<Digest>,
    /// For each height from [`BLOCK_HEIGHT`] on, the roots of all complete subtrees of it.
    kept: Vec<Vec<Digest>>,
}

impl Tree {
    /// A tree without leaves.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: 0,
            peaks: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf, by its [`leaf`] hash.
    pub fn push(&mut self, leaf: Digest) {
        let mut root = leaf;
        let mut height = 0;
        let mut size = self.size;
        self.size = self.size.saturating_add(1);
        while size & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                root = node(&left, &root);
            }
            size >>= 1;
            height += 1;
            self.keep(height, root);
        }
        self.peaks.push(root);
    }

    fn keep(&mut self, height: u32, root: Digest) {
        let Some(level) = height.checked_sub(BLOCK_HEIGHT) else {
            return;
        };
        let level = usize::try_from(level).unwrap_or(usize::MAX);
        if level == self.kept.len() {
            self.kept.push(Vec::new());
        }
        if let Some(roots) = self.kept.get_mut(level) {
            roots.push(root);
        }
    }

    /// The root of all leaves.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return empty();
        };
        peaks.fold(*last, |right, left| node(left, &right))
    }

    /// The root of the first `size` leaves, at most [`Tree::size`]. `leaves` gives the hashes of the
    /// leaves in a range, which lies within one block of [`BLOCK_LEAVES`].
    ///
    /// # Errors
    /// What `leaves` returns.
    pub fn root_at<E>(
        &self,
        size: u64,
        leaves: impl FnMut(Range<u64>) -> Result<Vec<Digest>, E>,
    ) -> Result<Digest, E> {
        if size == 0 {
            return Ok(empty());
        }
        self.source(leaves).root(0..size.min(self.size))
    }

    /// Proves that the first `new` leaves begin with the first `old` (RFC 6962 §2.1.2); empty when
    /// the two are equal or `old` is 0. `leaves` is as for [`Tree::root_at`].
    ///
    /// # Errors
    /// What `leaves` returns.
    pub fn prove<E>(
        &self,
        old: u64,
        new: u64,
        leaves: impl FnMut(Range<u64>) -> Result<Vec<Digest>, E>,
    ) -> Result<Vec<Digest>, E> {
        let mut proof = Vec::new();
        let new = new.min(self.size);
        if old > 0 && old < new {
            let mut source = self.source(leaves);
            source.prove(old, 0..new, true, &mut proof)?;
        }
        Ok(proof)
    }

    fn source<E, L: FnMut(Range<u64>) -> Result<Vec<Digest>, E>>(
        &self,
        leaves: L,
    ) -> Source<'_, L> {
        Source {
            tree: self,
            leaves,
            block: 0..0,
            held: Vec::new(),
        }
    }
}

/// A tree together with the journal below its blocks.
struct Source<'t, L> {
    tree: &'t Tree,
    leaves: L,
    /// The leaves read last, and their hashes.
    block: Range<u64>,
    held: Vec<Digest>,
}

impl<E, L: FnMut(Range<u64>) -> Result<Vec<Digest>, E>> Source<'_, L> {
    /// MTH of RFC 6962 §2.1 over a range that is not empty.
    fn root(&mut self, range: Range<u64>) -> Result<Digest, E> {
        let leaves = range.end.saturating_sub(range.start);
        if let Some(kept) = self.kept(&range) {
            return Ok(kept);
        }
        if leaves <= 1 {
            return self.leaf(range.start);
        }
        let middle = range.start.saturating_add(split(leaves));
        let left = self.root(range.start..middle)?;
        let right = self.root(middle..range.end)?;
        Ok(node(&left, &right))
    }

    /// SUBPROOF of RFC 6962 §2.1.2: `old` counts from the beginning of the tree.
    fn prove(
        &mut self,
        old: u64,
        range: Range<u64>,
        whole: bool,
        proof: &mut Vec<Digest>,
    ) -> Result<(), E> {
        if old == range.end {
            if !whole {
                proof.push(self.root(range)?);
            }
            return Ok(());
        }
        let middle = range
            .start
            .saturating_add(split(range.end.saturating_sub(range.start)));
        if old <= middle {
            self.prove(old, range.start..middle, whole, proof)?;
            proof.push(self.root(middle..range.end)?);
        } else {
            self.prove(old, middle..range.end, false, proof)?;
            proof.push(self.root(range.start..middle)?);
        }
        Ok(())
    }

    fn kept(&self, range: &Range<u64>) -> Option<Digest> {
        let leaves = range.end.checked_sub(range.start)?;
        if !leaves.is_power_of_two() || range.start.checked_rem(leaves)? != 0 {
            return None;
        }
        let level = leaves.trailing_zeros().checked_sub(BLOCK_HEIGHT)?;
        let roots = self.tree.kept.get(usize::try_from(level).ok()?)?;
        let index = usize::try_from(range.start.checked_div(leaves)?).ok()?;
        roots.get(index).copied()
    }

    fn leaf(&mut self, at: u64) -> Result<Digest, E> {
        if !self.block.contains(&at) {
            let start = at - at % BLOCK_LEAVES;
            self.block = start..start.saturating_add(BLOCK_LEAVES).min(self.tree.size);
            self.held = (self.leaves)(self.block.clone())?;
        }
        let index = usize::try_from(at.saturating_sub(self.block.start)).unwrap_or(usize::MAX);
        // A source that gives too few makes a proof that does not hold, which is what it deserves.
        Ok(self.held.get(index).copied().unwrap_or(Bytes([0; 32])))
    }
}

/// The largest power of two below `leaves`, which is at least 2.
fn split(leaves: u64) -> u64 {
    1 << leaves.saturating_sub(1).checked_ilog2().unwrap_or(0)
}

/// Whether `proof` shows that a tree of `new` leaves with root `new_root` begins with the tree of
/// `old` leaves with root `old_root` (RFC 9162 §2.1.4.2).
#[must_use]
pub fn is_consistent(
    (old, old_root): (u64, &Digest),
    (new, new_root): (u64, &Digest),
    proof: &[Digest],
) -> bool {
    if old == 0 {
        return proof.is_empty() && *old_root == empty();
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old > new || proof.len() > PROOF_HASHES_MAX {
        return false;
    }
    let mut path = proof.iter();
    let seed = if old.is_power_of_two() {
        Some(old_root)
    } else {
        path.next()
    };
    let Some(seed) = seed else {
        return false;
    };
    let (mut old_at, mut new_at) = (old.saturating_sub(1), new.saturating_sub(1));
    let complete = old_at.trailing_ones();
    old_at >>= complete;
    new_at >>= complete;
    let (mut old_is, mut new_is) = (*seed, *seed);
    for step in path {
        if new_at == 0 {
            return false;
        }
        if old_at & 1 == 1 || old_at == new_at {
            old_is = node(step, &old_is);
            new_is = node(step, &new_is);
            while old_at & 1 == 0 && old_at != 0 {
                old_at >>= 1;
                new_at >>= 1;
            }
        } else {
            new_is = node(&new_is, step);
        }
        old_at >>= 1;
        new_at >>= 1;
    }
    new_at == 0 && old_is == *old_root && new_is == *new_root
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn leaves(count: u64) -> Vec<Digest> {
        (0..count).map(|at| leaf(&at.to_be_bytes())).collect()
    }

    fn tree(leaves: &[Digest]) -> Tree {
        let mut tree = Tree::default();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    /// MTH as RFC 6962 §2.1 defines it.
    fn defined(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty(),
            [one] => *one,
            more => {
                let mut middle = 1;
                while middle * 2 < more.len() {
                    middle *= 2;
                }
                node(&defined(&more[..middle]), &defined(&more[middle..]))
            }
        }
    }

    fn read(leaves: &[Digest]) -> impl FnMut(Range<u64>) -> Result<Vec<Digest>, Infallible> + '_ {
        |range| {
            let range = range.start.try_into().unwrap()..range.end.try_into().unwrap();
            Ok(leaves[range].to_vec())
        }
    }

    #[test]
    fn roots_are_those_of_the_reference_vectors() {
        // The eight inputs and the roots of Certificate Transparency's own tests.
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let roots = [
            (
                0,
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                1,
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            ),
            (
                2,
                "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            ),
            (
                3,
                "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            ),
            (
                5,
                "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            ),
            (
                8,
                "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
            ),
        ];
        let mut tree = Tree::default();
        let mut inputs = inputs.iter();
        for (size, root) in roots {
            while tree.size() < size {
                tree.push(leaf(inputs.next().unwrap()));
            }
            assert_eq!(
                data_encoding::HEXLOWER.encode(&tree.root().0),
                root,
                "{size}"
            );
        }
    }

    #[test]
    fn every_pair_of_sizes_is_proven_and_no_touched_proof_holds() {
        let leaves = leaves(70);
        let tree = tree(&leaves);
        for new in 0..=70_u64 {
            let new_root = defined(&leaves[..usize::try_from(new).unwrap()]);
            for old in 0..=new {
                let old_root = defined(&leaves[..usize::try_from(old).unwrap()]);
                let proof = tree.prove(old, new, read(&leaves)).unwrap();
                assert!(
                    is_consistent((old, &old_root), (new, &new_root), &proof),
                    "{old} to {new}"
                );
                for at in 0..proof.len() {
                    let mut touched = proof.clone();
                    touched[at].0[0] ^= 1;
                    assert!(!is_consistent((old, &old_root), (new, &new_root), &touched));
                    touched.remove(at);
                    assert!(!is_consistent((old, &old_root), (new, &new_root), &touched));
                }
                let mut longer = proof.clone();
                longer.push(old_root);
                assert!(!is_consistent((old, &old_root), (new, &new_root), &longer));
                assert!(!is_consistent(
                    (old, &leaf(b"other")),
                    (new, &new_root),
                    &proof
                ));
                if old > 0 {
                    assert!(!is_consistent(
                        (old, &old_root),
                        (new, &leaf(b"other")),
                        &proof
                    ));
                }
                if old < new {
                    assert!(!is_consistent((new, &new_root), (old, &old_root), &proof));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn trees_with_many_blocks_prove_as_small_ones_do(
            size in 1_u64..5_000,
            old in 0_u64..5_000,
            new in 0_u64..5_000,
        ) {
            let leaves = leaves(size);
            let tree = tree(&leaves);
            prop_assert_eq!(tree.root(), defined(&leaves));
            let (old, new) = (old.min(new).min(size), new.max(old).min(size));
            let old_root = tree.root_at(old, read(&leaves)).unwrap();
            let new_root = tree.root_at(new, read(&leaves)).unwrap();
            prop_assert_eq!(old_root, defined(&leaves[..usize::try_from(old).unwrap()]));
            let proof = tree.prove(old, new, read(&leaves)).unwrap();
            prop_assert!(is_consistent((old, &old_root), (new, &new_root), &proof));
            if old > 0 && old < size {
                // Another history of the same length.
                let mut forked = leaves.clone();
                forked[usize::try_from(old - 1).unwrap()] = leaf(b"forked");
                let forked_root = defined(&forked[..usize::try_from(new).unwrap()]);
                let fork = self::tree(&forked);
                let proof = fork.prove(old, new, read(&forked)).unwrap();
                prop_assert!(!is_consistent((old, &old_root), (new, &forked_root), &proof));
            }
        }
    }
}
