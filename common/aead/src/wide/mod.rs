//! ChaCha20-Poly1305 with AVX-512, for up to [`LANES`] packets together.
//!
//! ```text
//! ChaCha20   16 lanes of 32 bits: block b of packet p is a lane, whoever its neighbors are
//! Poly1305    8 lanes of 64 bits: a packet is a lane, or several where there are few packets
//! ```
//!
//! Whether there are such instructions is [`dispatch`]'s to know; everything else here is compiled
//! for them. Nothing branches on a secret or uses one as an address.

mod chacha;
#[expect(
    unsafe_code,
    reason = "only a check at run time tells what a processor has"
)]
mod dispatch;
mod poly;

use core::arch::x86_64::{
    __m512i, __mmask64, _mm512_add_epi8, _mm512_mask_blend_epi8, _mm512_maskz_permutexvar_epi8,
    _mm512_set1_epi8, _mm512_xor_si512,
};

use subtle::ConstantTimeEq as _;
use zerocopy::transmute;
use zeroize::Zeroizing;

pub(crate) use self::dispatch::Wide;
use self::{
    chacha::{Places, Run, blocks},
    poly::{Message, tags},
};
use crate::{Opening, Sealing, Words};

/// A packet's Poly1305 key: `r`, then `s`.
type OneTimeKey = [u8; 32];

/// Seals jobs that have room for their tags.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
fn seal(key: &Words, jobs: &mut [Sealing<'_>]) {
    for jobs in jobs.chunks_mut(LANES) {
        seal_some(key, jobs);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
fn seal_some(key: &Words, jobs: &mut [Sealing<'_>]) {
    let mut keys = Zeroizing::new([[0; 32]; LANES]);
    let mut ends = [(0, 0); LANES];
    for (end, job) in ends.iter_mut().zip(jobs.iter_mut()) {
        *end = (job.counter, end_of(job.parts().0.len()));
    }
    let mut places = Places::new(ends.get(..jobs.len()).unwrap_or_default(), 0);
    while let Some(lot) = places.next() {
        let stream = blocks(key, &lot);
        for run in lot.runs() {
            let mut stream = stream.iter().skip(run.lane).take(run.count);
            if run.block == 0
                && let (Some(block), Some(key)) = (stream.next(), keys.get_mut(run.job))
            {
                key.copy_from_slice(first_half(block));
            }
            if let Some(job) = jobs.get_mut(run.job) {
                xor(job.parts().0, run, stream);
            }
        }
    }
    for (jobs, keys) in jobs.chunks_mut(poly::LANES).zip(keys.chunks(poly::LANES)) {
        let mut messages: [Message<'_>; poly::LANES] = [(&[], &[0; 32]); poly::LANES];
        let count = jobs.len();
        let mut rooms = [const { None }; poly::LANES];
        let both = messages.iter_mut().zip(&mut rooms);
        for (((message, room), job), key) in both.zip(jobs).zip(keys) {
            let (body, tag) = job.parts();
            (*message, *room) = ((&*body, key), Some(tag));
        }
        let tags = tags(messages.get(..count).unwrap_or_default());
        for (room, tag) in rooms.into_iter().flatten().zip(tags) {
            room.copy_from_slice(&tag);
        }
    }
}

/// Opens jobs whose rooms are as long as what they open.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
fn open(key: &Words, jobs: &mut [Opening<'_>]) {
    for jobs in jobs.chunks_mut(LANES) {
        open_some(key, jobs);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
fn open_some(key: &Words, jobs: &mut [Opening<'_>]) {
    let mut keys = Zeroizing::new([[0; 32]; LANES]);
    let mut ends = [(0, 0); LANES];
    for (end, job) in ends.iter_mut().zip(&*jobs) {
        *end = (job.counter, 1);
    }
    let ends = ends.get_mut(..jobs.len()).unwrap_or_default();
    let mut places = Places::new(ends, 0);
    while let Some(lot) = places.next() {
        let stream = blocks(key, &lot);
        for (block, key) in stream.iter().zip(keys.iter_mut()) {
            key.copy_from_slice(first_half(block));
        }
    }
    for (jobs, keys) in jobs.chunks_mut(poly::LANES).zip(keys.chunks(poly::LANES)) {
        let mut messages: [Message<'_>; poly::LANES] = [(&[], &[0; 32]); poly::LANES];
        let count = jobs.len();
        for ((message, job), key) in messages.iter_mut().zip(&*jobs).zip(keys) {
            *message = (job.parts().0, key);
        }
        let tags = tags(messages.get(..count).unwrap_or_default());
        for (job, made) in jobs.iter_mut().zip(tags) {
            job.is_open = made.ct_eq(job.parts().1).into();
        }
    }
    // Only what is authentic has blocks to decrypt.
    for (end, job) in ends.iter_mut().zip(&*jobs) {
        *end = (
            job.counter,
            if job.is_open {
                end_of(job.room.len())
            } else {
                0
            },
        );
    }
    let mut places = Places::new(ends, 1);
    while let Some(lot) = places.next() {
        let stream = blocks(key, &lot);
        for run in lot.runs() {
            let stream = stream.iter().skip(run.lane).take(run.count);
            if let Some(job) = jobs.get_mut(run.job) {
                xor_into(job.sealed, job.room, run, stream);
            }
        }
    }
}

type Block = [u8; BLOCK_BYTES];

/// Adds the key stream of a run to where it stands in `body`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn xor<'a>(body: &mut [u8], run: &Run, mut stream: impl Iterator<Item = &'a Block>) {
    let rest = body.get_mut(offset(run.block)..).unwrap_or_default();
    let (whole, last) = rest.as_chunks_mut::<BLOCK_BYTES>();
    let last_len = last.len();
    for (block, stream) in whole.iter_mut().zip(&mut stream) {
        *block = sum(block, stream);
    }
    if let Some(stream) = stream.next() {
        end(None, body, last_len, stream);
    }
}

/// The same from `body` into `room`, which is no longer.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn xor_into<'a>(
    body: &[u8],
    room: &mut [u8],
    run: &Run,
    mut stream: impl Iterator<Item = &'a Block>,
) {
    let from = body.get(offset(run.block)..).unwrap_or_default();
    let to = room.get_mut(offset(run.block)..).unwrap_or_default();
    let (whole, last) = to.as_chunks_mut::<BLOCK_BYTES>();
    let last_len = last.len();
    let (blocks, _) = from.as_chunks::<BLOCK_BYTES>();
    for ((room, block), stream) in whole.iter_mut().zip(blocks).zip(&mut stream) {
        *room = sum(block, stream);
    }
    if let Some(stream) = stream.next() {
        end(Some(body), room, last_len, stream);
    }
}

/// The same for the last `len` bytes, which fill no block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn end(from: Option<&[u8]>, to: &mut [u8], len: usize, stream: &Block) {
    let total = to.len();
    let Some(room) = to.last_chunk_mut::<BLOCK_BYTES>() else {
        let mut block = [0; BLOCK_BYTES];
        fill(&mut block, from.unwrap_or(to));
        fill(to, &sum(&block, stream));
        return;
    };
    // Of the last 64 bytes together, the first are done.
    let done = BLOCK_BYTES - len;
    let stream = shifted(transmute!(*stream), -done.cast_signed());
    let ours: __mmask64 = u64::MAX.unbounded_shl(u32::try_from(done).unwrap_or(0));
    let before: __m512i = transmute!(*room);
    let window = from.and_then(|from| from.get(..total)?.last_chunk::<BLOCK_BYTES>());
    let sealed = window.map_or(before, |window| transmute!(*window));
    let made = _mm512_xor_si512(sealed, stream);
    *room = transmute!(_mm512_mask_blend_epi8(ours, before, made));
}

/// What stands `shift` bytes further into `bytes`, with zeros where that is outside of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn shifted(bytes: __m512i, shift: isize) -> __m512i {
    let by = u32::try_from(shift.unsigned_abs()).unwrap_or(u32::MAX);
    let inside: __mmask64 = if shift < 0 {
        u64::MAX.unbounded_shl(by)
    } else {
        u64::MAX.unbounded_shr(by)
    };
    // The instruction looks at the lowest six bits of each place.
    let [by, ..] = shift.to_le_bytes();
    let places = _mm512_add_epi8(transmute!(NUMBERS), _mm512_set1_epi8(by.cast_signed()));
    _mm512_maskz_permutexvar_epi8(inside, places, bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn sum(block: &Block, stream: &Block) -> Block {
    transmute!(_mm512_xor_si512(transmute!(*block), transmute!(*stream)))
}

/// Copies as much as both have.
fn fill(to: &mut [u8], from: &[u8]) {
    let len = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}

fn first_half(block: &Block) -> &[u8] {
    block.split_at(32).0
}

/// One more than the last block of a packet whose body has `len` bytes.
fn end_of(len: usize) -> u32 {
    u32::try_from(len.div_ceil(BLOCK_BYTES) + 1).unwrap_or(0)
}

/// Where a block stands in its packet's body: the one before the first is the Poly1305 key.
fn offset(block: u32) -> usize {
    usize::try_from(block.saturating_sub(1)).unwrap_or(usize::MAX) * BLOCK_BYTES
}

/// Packets that are taken together.
const LANES: usize = 16;

/// Places of the bytes of a vector.
const NUMBERS: [u8; BLOCK_BYTES] = {
    let mut numbers = [0; BLOCK_BYTES];
    let mut rest: &mut [u8] = &mut numbers;
    let mut number = 0;
    while let Some((first, behind)) = rest.split_first_mut() {
        *first = number;
        number += 1;
        rest = behind;
    }
    numbers
};

/// Bytes of a ChaCha20 block.
const BLOCK_BYTES: usize = 64;

#[cfg(test)]
mod tests;
