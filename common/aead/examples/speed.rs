//! Seals and opens batches of packets with this crate and with aws-lc-rs alone, in turns, and prints
//! what one core does, in seconds of the processor.
//!
//! `cargo run --release -p cardea-aead --example speed [-- PAYLOAD BATCH]`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::as_conversions,
    reason = "a measuring tool reads the clock and prints"
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use cardea_aead::{Key, Opening, Sealing, TAG_BYTES};

fn main() {
    let wide = Key::new(&[7; 32]).unwrap();
    let narrow = Key::one_by_one(&[7; 32]).unwrap();
    println!("many at once: {}", wide.is_wide());
    println!("payload batch       seal GB/s  aws-lc ratio       open GB/s  aws-lc ratio");
    let mut only = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let only: Option<(usize, usize)> = only.next().zip(only.next());
    for len in [64, 128, 256, 512, 1_420, 21_700] {
        for count in [1, 2, 3, 4, 8, 16, 44] {
            if only.is_some_and(|only| only != (len, count)) {
                continue;
            }
            let mut bench = Bench::new(len, count);
            let [seal, seal_one] = best([&wide, &narrow], |key| bench.seal(key));
            bench.seal(&wide);
            let [open, open_one] = best([&wide, &narrow], |key| bench.open(key));
            let (ratio, ratio_open) = (seal / seal_one, open / open_one);
            println!(
                "{len:>6} B {count:>4} {seal:>15.2} {seal_one:>7.2} {ratio:>5.2} {open:>15.2} \
                 {open_one:>7.2} {ratio_open:>5.2}"
            );
        }
    }
}

/// The highest rate of each key, in GB/s, of rounds that take turns.
fn best(keys: [&Key; 2], mut run: impl FnMut(&Key) -> usize) -> [f64; 2] {
    let mut rates = [0.0; 2];
    for _ in 0..ROUNDS {
        for (rate, key) in rates.iter_mut().zip(keys) {
            let (mut bytes, began, used) = (0, Instant::now(), processor());
            while began.elapsed() < ROUND {
                bytes += run(key);
            }
            let took = processor().saturating_sub(used);
            *rate = f64::max(*rate, bytes as f64 / took.as_secs_f64() / 1e9);
        }
    }
    rates
}

struct Bench {
    len: usize,
    sealed: Vec<u8>,
    room: Vec<u8>,
}

impl Bench {
    fn new(len: usize, count: usize) -> Self {
        Self {
            len,
            sealed: vec![1; (len + TAG_BYTES) * count],
            room: vec![0; len * count],
        }
    }

    fn seal(&mut self, key: &Key) -> usize {
        self.sealed.fill(1);
        let packets = self.sealed.chunks_mut(self.len + TAG_BYTES);
        let jobs = packets.zip(0..);
        let mut jobs: Vec<_> = jobs
            .map(|(bytes, counter)| Sealing::new(counter, bytes).unwrap())
            .collect();
        key.seal(black_box(&mut jobs));
        self.room.len()
    }

    fn open(&mut self, key: &Key) -> usize {
        let packets = self.sealed.chunks(self.len + TAG_BYTES).zip(0..);
        let mut jobs: Vec<_> = packets
            .zip(self.room.chunks_mut(self.len))
            .map(|((sealed, counter), room)| Opening::new(counter, sealed, room).unwrap())
            .collect();
        key.open(black_box(&mut jobs));
        assert!(jobs.into_iter().all(|job| job.opened().is_some()));
        self.room.len()
    }
}

/// Time that this program has been on a processor.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.unwrap())
}

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(50);
