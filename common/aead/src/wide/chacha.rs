//! ChaCha20, sixteen blocks at a time: a lane holds the same word of each. Source: RFC 8439 §2.3.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_mask_add_epi32, _mm512_mask_set1_epi32, _mm512_rol_epi32,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_i64x2, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use zerocopy::transmute;

use super::{BLOCK_BYTES, LANES};
use crate::Words;

/// Blocks of one packet that follow one another, in lanes that do.
#[derive(Clone, Copy, Default)]
pub(super) struct Run {
    /// The packet, by its place among those that are taken together.
    pub(super) job: usize,
    /// The first block's number within the packet. Number 0 is the Poly1305 key.
    pub(super) block: u32,
    /// The first of the lanes.
    pub(super) lane: usize,
    /// How many they are.
    pub(super) count: usize,
}

/// Sixteen blocks, or fewer when there are no more: what each lane makes, and for whom.
pub(super) struct Lot {
    counters: __m512i,
    low: __m512i,
    high: __m512i,
    runs: [Run; LANES],
    count: usize,
}

impl Lot {
    pub(super) fn runs(&self) -> &[Run] {
        self.runs.get(..self.count).unwrap_or_default()
    }
}

/// Lays the blocks of packets into lanes, one after the other.
pub(super) struct Places<'a> {
    /// For each packet its nonce, and one more than its last block.
    jobs: &'a [(u64, u32)],
    job: usize,
    first: u32,
    block: u32,
}

impl<'a> Places<'a> {
    /// All blocks from number `first` on, of every packet.
    pub(super) const fn new(jobs: &'a [(u64, u32)], first: u32) -> Self {
        Self {
            jobs,
            job: 0,
            first,
            block: first,
        }
    }

    /// The next sixteen; `None` when there is not one.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
    #[inline]
    pub(super) fn next(&mut self) -> Option<Lot> {
        let zero = _mm512_setzero_si512();
        let mut lot = Lot {
            counters: zero,
            low: zero,
            high: zero,
            runs: [Run::default(); LANES],
            count: 0,
        };
        let (mut lane, mut mask) = (0, u16::MAX);
        let numbers: __m512i = transmute!(NUMBERS);
        for run in &mut lot.runs {
            // One more than the last block: what is not above the next one has none.
            let (nonce, rest) = loop {
                match self.jobs.get(self.job) {
                    Some((nonce, end)) if self.block < *end => break (*nonce, end - self.block),
                    Some(_) => {
                        self.job += 1;
                        self.block = self.first;
                    }
                    None => break (0, 0),
                }
            };
            let count = rest.min(LANES_U32 - lane);
            if count == 0 {
                break;
            }
            // Of all lanes from this one on: the next run takes back those that are its.
            let start = _mm512_set1_epi32(self.block.wrapping_sub(lane).cast_signed());
            let [low, high] = words_of(nonce).map(u32::cast_signed);
            lot.counters = _mm512_mask_add_epi32(lot.counters, mask, numbers, start);
            lot.low = _mm512_mask_set1_epi32(lot.low, mask, low);
            lot.high = _mm512_mask_set1_epi32(lot.high, mask, high);
            *run = Run {
                job: self.job,
                block: self.block,
                lane: usize::try_from(lane).unwrap_or(0),
                count: usize::try_from(count).unwrap_or(0),
            };
            self.block += count;
            lane += count;
            mask = u16::MAX.unbounded_shl(lane);
            lot.count += 1;
        }
        (lot.count > 0).then_some(lot)
    }
}

fn words_of(nonce: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = nonce.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// The lanes' own numbers.
const NUMBERS: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const LANES_U32: u32 = 16;

/// One quarter round on each lane. Source: RFC 8439 §2.1.
macro_rules! quarter {
    ($a:ident, $b:ident, $c:ident, $d:ident) => {
        $a = _mm512_add_epi32($a, $b);
        $d = _mm512_rol_epi32::<16>(_mm512_xor_si512($d, $a));
        $c = _mm512_add_epi32($c, $d);
        $b = _mm512_rol_epi32::<12>(_mm512_xor_si512($b, $c));
        $a = _mm512_add_epi32($a, $b);
        $d = _mm512_rol_epi32::<8>(_mm512_xor_si512($d, $a));
        $c = _mm512_add_epi32($c, $d);
        $b = _mm512_rol_epi32::<7>(_mm512_xor_si512($b, $c));
    };
}

/// The key stream's block in each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
pub(super) fn blocks(key: &Words, lot: &Lot) -> [[u8; BLOCK_BYTES]; LANES] {
    let (i12, i14, i15) = (lot.counters, lot.low, lot.high);
    let splat = |word: u32| _mm512_set1_epi32(word.cast_signed());
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let (i0, i1) = (splat(0x6170_7865), splat(0x3320_646e));
    let (i2, i3) = (splat(0x7962_2d32), splat(0x6b20_6574));
    let (i4, i5, i6, i7) = (splat(k0), splat(k1), splat(k2), splat(k3));
    let (i8, i9, i10, i11) = (splat(k4), splat(k5), splat(k6), splat(k7));
    // The nonce's first word.
    let i13 = _mm512_setzero_si512();
    let (mut x0, mut x1, mut x2, mut x3) = (i0, i1, i2, i3);
    let (mut x4, mut x5, mut x6, mut x7) = (i4, i5, i6, i7);
    let (mut x8, mut x9, mut x10, mut x11) = (i8, i9, i10, i11);
    let (mut x12, mut x13, mut x14, mut x15) = (i12, i13, i14, i15);
    for _ in 0..10 {
        quarter!(x0, x4, x8, x12);
        quarter!(x1, x5, x9, x13);
        quarter!(x2, x6, x10, x14);
        quarter!(x3, x7, x11, x15);
        quarter!(x0, x5, x10, x15);
        quarter!(x1, x6, x11, x12);
        quarter!(x2, x7, x8, x13);
        quarter!(x3, x4, x9, x14);
    }
    let add = |a, b| _mm512_add_epi32(a, b);
    let first = quads([add(x0, i0), add(x1, i1), add(x2, i2), add(x3, i3)]);
    let second = quads([add(x4, i4), add(x5, i5), add(x6, i6), add(x7, i7)]);
    let third = quads([add(x8, i8), add(x9, i9), add(x10, i10), add(x11, i11)]);
    let fourth = quads([add(x12, i12), x13, add(x14, i14), add(x15, i15)]);
    let [a0, a1, a2, a3] = first;
    let [b0, b1, b2, b3] = second;
    let [c0, c1, c2, c3] = third;
    let [d0, d1, d2, d3] = fourth;
    let [y0, y4, y8, y12] = turn([a0, b0, c0, d0]);
    let [y1, y5, y9, y13] = turn([a1, b1, c1, d1]);
    let [y2, y6, y10, y14] = turn([a2, b2, c2, d2]);
    let [y3, y7, y11, y15] = turn([a3, b3, c3, d3]);
    transmute!([
        y0, y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11, y12, y13, y14, y15,
    ])
}

/// Four words of sixteen blocks: quarter `i` of vector `n` has those of block `4 i + n` afterwards.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
fn quads([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (next_low, next_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(low, next_low),
        _mm512_unpackhi_epi64(low, next_low),
        _mm512_unpacklo_epi64(high, next_high),
        _mm512_unpackhi_epi64(high, next_high),
    ]
}

/// Four vectors as rows of four quarters each, turned into columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,avx512vbmi")]
#[inline]
pub(super) fn turn([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let even = _mm512_shuffle_i64x2::<0x88>(a, b);
    let odd = _mm512_shuffle_i64x2::<0xdd>(a, b);
    let next_even = _mm512_shuffle_i64x2::<0x88>(c, d);
    let next_odd = _mm512_shuffle_i64x2::<0xdd>(c, d);
    [
        _mm512_shuffle_i64x2::<0x88>(even, next_even),
        _mm512_shuffle_i64x2::<0x88>(odd, next_odd),
        _mm512_shuffle_i64x2::<0xdd>(even, next_even),
        _mm512_shuffle_i64x2::<0xdd>(odd, next_odd),
    ]
}
