//! Poly1305, eight packets or strands of packets at a time. Source: RFC 8439 §2.5.
//!
//! Numbers below 2^130 are three limbs of 44, 44 and 42 bits. A product of limbs comes in two
//! halves, of which the upper counts 2^52: 2^8 times the next limb. What is beyond 2^130 comes back
//! five times; a product that lies two bits higher still, because limbs make 132 bits, twenty times.
//!
//! A step takes four blocks of each lane: `(h + m0) r^4 + m1 r^3 + m2 r^2 + m3 r`, and carries once.
//! All lanes end together: one with fewer blocks begins with blocks that are nothing, not even the
//! bit behind a block, and leave the sum at zero.
//!
//! Where there are few packets, each is dealt out to `k` lanes, a chunk of four blocks to each in
//! turn. Then a lane's sum is multiplied by `r^(4k)` in each step, and at the end by `r^4` for each
//! lane of the packet behind it, before the lanes of a packet are added.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_mask_blend_epi64, _mm512_mask_set1_epi64, _mm512_or_si512, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};

use zerocopy::transmute;

use super::{OneTimeKey, chacha::turn, fill, shifted};
use crate::TAG_BYTES;

/// A message without additional data, and the key for it alone.
pub(super) type Message<'a> = (&'a [u8], &'a OneTimeKey);

/// The tags of up to [`LANES`] messages; those behind the last mean nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
pub(super) fn tags(messages: &[Message<'_>]) -> [[u8; TAG_BYTES]; LANES] {
    match messages.len() {
        0 => [[0; TAG_BYTES]; LANES],
        1 => in_strands::<8>(messages),
        2 => in_strands::<4>(messages),
        3 | 4 => in_strands::<2>(messages),
        _ => in_strands::<1>(messages),
    }
}

/// The same with each message dealt out to `K` lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
fn in_strands<const K: usize>(messages: &[Message<'_>]) -> [[u8; TAG_BYTES]; LANES] {
    let round = CHUNK_BLOCKS * K;
    let count = messages.iter().map(|(bytes, _)| blocks_of(bytes)).max();
    let rounds = count.unwrap_or(0).div_ceil(round);
    let mut lanes = [Lane::default(); LANES];
    let mut r = [[0; LANES]; 3];
    let of_lanes = messages.iter().flat_map(|message| [message; K]);
    for (at, (lane, (bytes, key))) in lanes.iter_mut().zip(of_lanes).enumerate() {
        let (lead, strand) = (rounds * round - blocks_of(bytes), at % K);
        *lane = Lane {
            bytes,
            lead,
            strand,
            from: (strand * CHUNK_BYTES).wrapping_sub(lead * BLOCK_BYTES),
        };
        for (row, limb) in r.iter_mut().zip(clamped(key)) {
            if let Some(place) = row.get_mut(at) {
                *place = limb;
            }
        }
    }
    let leading = lanes.iter().map(|lane| lane.lead).max().unwrap_or(0);
    let powers = Powers::new(r.map(|row| transmute!(row)));
    let across = powers.across::<K>();
    let mut sum = [_mm512_setzero_si512(); 3];
    for index in 0..rounds {
        let first = index * round;
        let chunk = fetch::<K>(&lanes, first);
        let bits = if first < leading {
            marks::<K>(&lanes, first)
        } else {
            [_mm512_set1_epi64(BIT); CHUNK_BLOCKS]
        };
        sum = powers.step::<K>(sum, &across, chunk, bits);
    }
    let sum = powers.level::<K>(sum).map(|row| transmute!(row));
    let mut tags = [[0; TAG_BYTES]; LANES];
    for (index, (tag, (_, key))) in tags.iter_mut().zip(messages).enumerate() {
        let limbs = sum.map(|row: [u64; LANES]| row.iter().skip(index * K).take(K).sum());
        *tag = finish(limbs, key);
    }
    tags
}

/// What one lane takes.
#[derive(Clone, Copy, Default)]
struct Lane<'a> {
    bytes: &'a [u8],
    /// How many blocks that are nothing its packet begins with.
    lead: usize,
    /// Which of its packet's chunks it takes.
    strand: usize,
    /// Where in the message it begins: before the front where it has a lead.
    from: usize,
}

impl Lane<'_> {
    /// Four blocks of the round that begins with block `first`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn chunk(&self, first: usize) -> __m512i {
        // Before the message this wraps, and is far beyond its end.
        let at = (first * BLOCK_BYTES).wrapping_add(self.from);
        match self.bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(chunk) => load(chunk),
            None => self.edge(at.cast_signed()),
        }
    }

    /// Four blocks where not all of them are in the middle of the message.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    fn edge(&self, at: isize) -> __m512i {
        // As much of the message as one vector holds, from its front or up to its end.
        let (part, shift) = if let Some(part) = self.bytes.last_chunk()
            && at >= 0
        {
            let behind = self.bytes.len() - CHUNK_BYTES;
            (load(part), at - behind.cast_signed())
        } else if let Some(part) = self.bytes.first_chunk() {
            (load(part), at)
        } else {
            let mut part = [0; CHUNK_BYTES];
            fill(&mut part, self.bytes);
            (load(&part), at)
        };
        let chunk = shifted(part, shift);
        // The lengths are the last block: the message's in its second half.
        let is_last = at + CHUNK_BYTES.cast_signed() > self.bytes.len().cast_signed();
        let len = i64::try_from(self.bytes.len()).unwrap_or(i64::MAX);
        _mm512_mask_set1_epi64(chunk, if is_last { 1 << 7 } else { 0 }, len)
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn load(chunk: &[u8; CHUNK_BYTES]) -> __m512i {
    transmute!(*chunk)
}

/// The bit behind each block of a round: none where a lane's message has not begun.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn marks<const K: usize>(lanes: &[Lane<'_>; LANES], first: usize) -> [__m512i; CHUNK_BLOCKS] {
    let mut bits = [[0; LANES]; CHUNK_BLOCKS];
    for (index, row) in bits.iter_mut().enumerate() {
        for (bit, lane) in row.iter_mut().zip(lanes) {
            let block = first + lane.strand * CHUNK_BLOCKS + index;
            *bit = if block < lane.lead { 0 } else { BIT };
        }
    }
    bits.map(|row| transmute!(row))
}

/// Four blocks of each lane, as their lower and upper halves.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn fetch<const K: usize>(
    lanes: &[Lane<'_>; LANES],
    first: usize,
) -> [(__m512i, __m512i); CHUNK_BLOCKS] {
    let [a, b, c, d, e, f, g, h] = lanes;
    let (a, b, c, d) = (
        a.chunk(first),
        b.chunk(first),
        c.chunk(first),
        d.chunk(first),
    );
    let (e, f, g, h) = (
        e.chunk(first),
        f.chunk(first),
        g.chunk(first),
        h.chunk(first),
    );
    let lower = |a, b| _mm512_unpacklo_epi64(a, b);
    let upper = |a, b| _mm512_unpackhi_epi64(a, b);
    let [l0, l1, l2, l3] = turn([lower(a, b), lower(c, d), lower(e, f), lower(g, h)]);
    let [u0, u1, u2, u3] = turn([upper(a, b), upper(c, d), upper(e, f), upper(g, h)]);
    [(l0, u0), (l1, u1), (l2, u2), (l3, u3)]
}

/// A number in each lane.
type Limbs = [__m512i; 3];

/// A factor in each lane, with its upper limbs twenty times as well.
#[derive(Clone, Copy)]
struct Factor {
    limbs: Limbs,
    twenty: [__m512i; 2],
}

impl Factor {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn new(limbs: Limbs) -> Self {
        let [_, middle, high] = limbs;
        let twenty =
            |limb| _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb));
        Self {
            limbs,
            twenty: [twenty(middle), twenty(high)],
        }
    }
}

/// Products before their carries: sums of lower halves, and of upper ones.
struct Sums {
    lower: Limbs,
    upper: Limbs,
}

impl Sums {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn zero() -> Self {
        let zero = [_mm512_setzero_si512(); 3];
        Self {
            lower: zero,
            upper: zero,
        }
    }

    /// Adds a product.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn add(self, [a0, a1, a2]: Limbs, by: &Factor) -> Self {
        let ([b0, b1, b2], [c1, c2]) = (by.limbs, by.twenty);
        let ([l0, l1, l2], [u0, u1, u2]) = (self.lower, self.upper);
        let low = |sum, a, b| _mm512_madd52lo_epu64(sum, a, b);
        let high = |sum, a, b| _mm512_madd52hi_epu64(sum, a, b);
        let (l0, u0) = (low(l0, a0, b0), high(u0, a0, b0));
        let (l1, u1) = (low(l1, a0, b1), high(u1, a0, b1));
        let (l2, u2) = (low(l2, a0, b2), high(u2, a0, b2));
        let (l0, u0) = (low(l0, a1, c2), high(u0, a1, c2));
        let (l1, u1) = (low(l1, a1, b0), high(u1, a1, b0));
        let (l2, u2) = (low(l2, a1, b1), high(u2, a1, b1));
        let (l0, u0) = (low(l0, a2, c1), high(u0, a2, c1));
        let (l1, u1) = (low(l1, a2, c2), high(u1, a2, c2));
        let (l2, u2) = (low(l2, a2, b0), high(u2, a2, b0));
        Self {
            lower: [l0, l1, l2],
            upper: [u0, u1, u2],
        }
    }

    /// Limbs again: of 44, 44 and 42 bits, but for ten more of the second.
    ///
    /// Of up to five products, whose factors have limbs below 2^45 and, twenty times, 2^49, no sum
    /// here passes 2^56.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn carry(self) -> Limbs {
        let ([l0, l1, l2], [u0, u1, u2]) = (self.lower, self.upper);
        let (mask, mask_high) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
        let h1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(u0));
        let h2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(u1));
        let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(l0));
        let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
        let beyond = _mm512_add_epi64(_mm512_slli_epi64::<10>(u2), _mm512_srli_epi64::<42>(h2));
        let five = _mm512_add_epi64(beyond, _mm512_slli_epi64::<2>(beyond));
        let h0 = _mm512_add_epi64(_mm512_and_si512(l0, mask), five);
        let h1 = _mm512_add_epi64(_mm512_and_si512(h1, mask), _mm512_srli_epi64::<44>(h0));
        [
            _mm512_and_si512(h0, mask),
            h1,
            _mm512_and_si512(h2, mask_high),
        ]
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn product(a: Limbs, by: &Factor) -> Factor {
    Factor::new(Sums::zero().add(a, by).carry())
}

/// `r`, `r^2`, `r^3` and `r^4` of each lane.
struct Powers([Factor; CHUNK_BLOCKS]);

impl Powers {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn new(r: Limbs) -> Self {
        let first = Factor::new(r);
        let second = product(r, &first);
        let third = product(second.limbs, &first);
        let fourth = product(second.limbs, &second);
        Self([first, second, third, fourth])
    }

    /// `r^4`, `r^8`, `r^16` and `r^32`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn doubled(&self) -> [Factor; 4] {
        let [_, _, _, fourth] = self.0;
        let eighth = product(fourth.limbs, &fourth);
        let sixteenth = product(eighth.limbs, &eighth);
        let next = product(sixteenth.limbs, &sixteenth);
        [fourth, eighth, sixteenth, next]
    }

    /// `r^(4k)`: what a lane's sum is multiplied by in each step.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn across<const K: usize>(&self) -> Factor {
        let [fourth, eighth, sixteenth, next] = self.doubled();
        match K {
            1 => fourth,
            2 => eighth,
            4 => sixteenth,
            _ => next,
        }
    }

    /// Takes four blocks of each lane, with the bits behind them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn step<const K: usize>(
        &self,
        sum: Limbs,
        across: &Factor,
        chunk: [(__m512i, __m512i); CHUNK_BLOCKS],
        bits: [__m512i; CHUNK_BLOCKS],
    ) -> Limbs {
        let Self([first, second, third, fourth]) = self;
        let [m0, m1, m2, m3] = chunk;
        let [b0, b1, b2, b3] = bits;
        let sums = Sums::zero()
            .add(limbs(m3, b3), first)
            .add(limbs(m2, b2), second)
            .add(limbs(m1, b1), third);
        let front = limbs(m0, b0);
        // The former sum comes last, so that the processor begins a step before it is known.
        if K == 1 {
            let ([m0, m1, m2], [h0, h1, h2]) = (front, sum);
            let added = [
                _mm512_add_epi64(m0, h0),
                _mm512_add_epi64(m1, h1),
                _mm512_add_epi64(m2, h2),
            ];
            return sums.add(added, fourth).carry();
        }
        sums.add(front, fourth).add(sum, across).carry()
    }

    /// Multiplies the sums by what comes behind them in the other lanes of their packets.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    fn level<const K: usize>(&self, sum: Limbs) -> Limbs {
        if K == 1 {
            return sum;
        }
        let [fourth, eighth, sixteenth, _] = self.doubled();
        // Lane `j` of `K` has `K - 1 - j` behind it: each mask is a bit of that.
        let sum = scale(sum, &fourth, 0b0101_0101);
        if K == 2 {
            return sum;
        }
        let sum = scale(sum, &eighth, 0b0011_0011);
        if K == 4 {
            return sum;
        }
        scale(sum, &sixteenth, 0b0000_1111)
    }
}

/// Multiplies the lanes that are in `mask`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn scale(sum: Limbs, by: &Factor, mask: u8) -> Limbs {
    let [s0, s1, s2] = sum;
    let [p0, p1, p2] = product(sum, by).limbs;
    [
        _mm512_mask_blend_epi64(mask, s0, p0),
        _mm512_mask_blend_epi64(mask, s1, p1),
        _mm512_mask_blend_epi64(mask, s2, p2),
    ]
}

/// A block of each lane as a number.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn limbs((lower, upper): (__m512i, __m512i), bit: __m512i) -> Limbs {
    let mask = _mm512_set1_epi64(MASK_44);
    let middle = _mm512_or_si512(
        _mm512_srli_epi64::<44>(lower),
        _mm512_slli_epi64::<20>(upper),
    );
    [
        _mm512_and_si512(lower, mask),
        _mm512_and_si512(middle, mask),
        _mm512_or_si512(_mm512_srli_epi64::<24>(upper), bit),
    ]
}

/// The `r` of a key. Source: RFC 8439 §2.5.
fn clamped(key: &OneTimeKey) -> [u64; 3] {
    let [lower, upper] = halves(key.first_chunk());
    let (lower, upper) = (lower & 0x0fff_fffc_0fff_ffff, upper & 0x0fff_fffc_0fff_fffc);
    [
        lower & MASK_44.cast_unsigned(),
        (lower >> 44 | upper << 20) & MASK_44.cast_unsigned(),
        upper >> 24,
    ]
}

/// The sum modulo 2^130 - 5, and `s` added. Source: RFC 8439 §2.5.
fn finish([h0, h1, h2]: [u64; 3], key: &OneTimeKey) -> [u8; TAG_BYTES] {
    let (mask, mask_high) = (MASK_44.cast_unsigned(), MASK_42.cast_unsigned());
    let h1 = h1 + (h0 >> 44);
    let h2 = h2 + (h1 >> 44);
    let h0 = (h0 & mask) + (h2 >> 42) * 5;
    let h1 = (h1 & mask) + (h0 >> 44);
    let h2 = (h2 & mask_high) + (h1 >> 44);
    // Another time round for what the last carries made.
    let h0 = (h0 & mask) + (h2 >> 42) * 5;
    let (h1, h2) = ((h1 & mask) + (h0 >> 44), h2 & mask_high);
    let (h0, h2) = (h0 & mask, h2 + (h1 >> 44));
    let h1 = h1 & mask;
    // As it is, or less 2^130 - 5 where that is not below zero.
    let g0 = h0 + 5;
    let g1 = h1 + (g0 >> 44);
    let g2 = h2 + (g1 >> 44);
    let is_beyond = 0_u64.wrapping_sub(g2 >> 42);
    let pick = |h: u64, g: u64| (h & !is_beyond) | (g & is_beyond);
    let (h0, h1, h2) = (pick(h0, g0 & mask), pick(h1, g1 & mask), pick(h2, g2));
    let number = u128::from(h0) | u128::from(h1) << 44 | u128::from(h2) << 88;
    let [lower, upper] = halves(key.last_chunk());
    let s = u128::from(lower) | u128::from(upper) << 64;
    number.wrapping_add(s).to_le_bytes()
}

fn halves(bytes: Option<&[u8; 16]>) -> [u64; 2] {
    let number = u128::from_le_bytes(bytes.copied().unwrap_or_default());
    let [a, b, c, d, e, f, g, h, rest @ ..] = number.to_le_bytes();
    [
        u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        u64::from_le_bytes(rest),
    ]
}

/// How many blocks a message is: those that it fills, and that of the lengths.
const fn blocks_of(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(BLOCK_BYTES) + 1
}

/// Messages that are taken together.
pub(super) const LANES: usize = 8;

const BLOCK_BYTES: usize = 16;
const CHUNK_BLOCKS: usize = 4;
const CHUNK_BYTES: usize = BLOCK_BYTES * CHUNK_BLOCKS;

const MASK_44: i64 = (1 << 44) - 1;
const MASK_42: i64 = (1 << 42) - 1;

/// 2^128 in the third limb.
const BIT: i64 = 1 << 40;
