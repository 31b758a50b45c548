//! Passes: how a front that is not beside the controller knows a knock.
//!
//! A controller's door knows every node by its ledger. A relay elsewhere has no ledger, and is told no
//! seeds: from one key that the controller shares with it, it derives the seed of whatever pass it is
//! shown. A pass is a number of eight bytes and a seed, which a node is given with its certificate, and before
//! that with its code:
//!
//! ```text
//!  label  = number (8) | knock (20)
//!  number = period (2) | E(key, holder (3) | random (3))   says nothing about its holder
//!  seed   = HMAC(key, number)                              makes the knock
//! ```
//!
//! Each certificate brings another number, of which nobody without the key can say that it has the same
//! holder: what an observer sees of a device is the same for no longer than a certificate. A front undoes E, so that
//! all passes of one holder share one memory and one bucket. The holder of a code's pass is random.
//!
//! A pass ends with its period and the next one, whatever becomes of its node meanwhile: it opens to a
//! TLS handshake, behind which the controller's own door stands as ever.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    time::Instant,
};

use cardea_proto::{
    admin::Knocks,
    codec::{Bytes, Digest, Secret32},
    enroll::{PASS_NUMBER_BYTES, Pass},
    id::NodeId,
    time::{Now, UnixMillis},
};
use data_encoding::BASE32_NOPAD;

use super::{
    Answer, KNOCK_BYTES, Knock, KnockKeys, Stay, first, mac, period_of,
    record::{BURST, Record, window_secs},
    secs_of, since_opened, xor,
};

/// Stands where a trust domain's root does: the key is of one domain alone.
const NO_ROOT: Digest = Bytes([0; 32]);

/// Holders of passes that are remembered; who would be one more is refused until others have been silent.
const HOLDERS_MAX: usize = 65_536;

/// Half of what stands in a number behind its period.
type Half = [u8; 3];

/// What all passes of one holder have in common; of ten thousand, a few share theirs, and with it a bucket.
type Holder = Half;

const ROUNDS: u8 = 10;

/// What a controller and its relays elsewhere share, and nobody else.
#[derive(Clone)]
pub struct FrontKey(Secret32);

impl FrontKey {
    /// The key of these bytes.
    #[must_use]
    pub const fn new(bytes: Secret32) -> Self {
        Self(bytes)
    }

    /// Its bytes, for a file.
    #[must_use]
    pub const fn reveal(&self) -> &Secret32 {
        &self.0
    }

    pub(crate) fn of(ticket_seed: &[u8; 32]) -> Self {
        Self(Secret32(mac(
            &Secret32(*ticket_seed),
            &[b"cardea front passes"],
        )))
    }

    /// The pass that a node is given at this moment with the certificate of this serial number, which
    /// is random.
    #[must_use]
    pub fn pass(&self, node: NodeId, serial: &[u8], at: UnixMillis) -> Pass {
        let holder = mac(
            &self.0,
            &[b"cardea pass holder", node.to_string().as_bytes()],
        );
        let random = mac(&self.0, &[b"cardea pass of certificate", serial]);
        let halves = (first(&holder), first(&random));
        let ([a, b, c], [d, e, f]) = self.hide(period_bytes(at), halves);
        self.pass_of([a, b, c, d, e, f], at)
    }

    /// A pass of nobody's yet, for a code: `own` must be random.
    #[must_use]
    pub fn pass_of(&self, own: [u8; 6], at: UnixMillis) -> Pass {
        let ([a, b], [c, d, e, f, g, h]) = (period_bytes(at), own);
        let number = [a, b, c, d, e, f, g, h];
        Pass {
            number: Bytes(number),
            seed: self.seed(number),
        }
    }

    /// Who holds the pass of this number, as all passes of a node say, whichever it is.
    fn holder(&self, [p, q, a, b, c, d, e, f]: [u8; PASS_NUMBER_BYTES]) -> Holder {
        let hidden = ([a, b, c], [d, e, f]);
        let (holder, _) = (0..ROUNDS).rev().fold(hidden, |(left, right), round| {
            (xor(right, self.round([p, q], round, left)), left)
        });
        holder
    }

    /// A permutation of six bytes that looks random to whoever lacks the key: a Feistel network with HMAC
    /// for its function, with as many rounds as FF1 has (NIST SP 800-38G §5).
    fn hide(&self, period: [u8; 2], halves: (Holder, Half)) -> (Half, Half) {
        (0..ROUNDS).fold(halves, |(left, right), round| {
            (right, xor(left, self.round(period, round, right)))
        })
    }

    fn round(&self, period: [u8; 2], round: u8, half: Half) -> Half {
        first(&mac(
            &self.0,
            &[b"cardea pass number", &period, &[round], &half],
        ))
    }

    fn seed(&self, number: [u8; PASS_NUMBER_BYTES]) -> Secret32 {
        Secret32(mac(&self.0, &[b"cardea pass", &number]))
    }
}

impl fmt::Debug for FrontKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FrontKey(…)")
    }
}

/// The keys of a pass: what makes its knocks.
#[must_use]
pub fn pass_keys(pass: &Pass) -> KnockKeys {
    KnockKeys::new(&pass.seed, &NO_ROOT)
}

/// A pass and a knock as a label of a domain name.
#[must_use]
pub fn pass_label(pass: &Pass, knock: &Knock) -> String {
    let bytes = [&pass.number.0[..], &knock.0].concat();
    BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
}

/// The door of a front elsewhere.
#[derive(Debug)]
pub struct PassDoor {
    key: FrontKey,
    opened_at: Instant,
    /// Only holders of passes whose knocks were theirs.
    records: BTreeMap<Holder, Record>,
    knocks: Knocks,
}

impl PassDoor {
    /// The door of whoever has a pass under this key.
    #[must_use]
    pub fn new(key: FrontKey, now: Now) -> Self {
        Self {
            key,
            opened_at: now.instant,
            records: BTreeMap::new(),
            knocks: Knocks::default(),
        }
    }

    /// The keys of whoever made a label that opens.
    ///
    /// # Errors
    /// What else it comes to.
    pub fn knock_once(&mut self, label: &str, now: Now) -> Result<KnockKeys, Answer> {
        let answer = self.answer(label, now);
        let given = answer.as_ref().err().copied().unwrap_or(Answer::Open);
        given.count(&mut self.knocks);
        answer
    }

    /// How often each answer was given.
    #[must_use]
    pub const fn knocks(&self) -> Knocks {
        self.knocks
    }

    fn answer(&mut self, label: &str, now: Now) -> Result<KnockKeys, Answer> {
        let (number, knock) = parse(label).ok_or(Answer::Unknown)?;
        let [a, b, ..] = number;
        let period = u16::from_be_bytes([a, b]);
        if !periods(now.unix).contains(&period) {
            return Err(Answer::Unknown);
        }
        let keys = KnockKeys::new(&self.key.seed(number), &NO_ROOT);
        let moment = keys.open(&knock).ok_or(Answer::Forged)?;
        let (at, window) = (secs_of(now.unix), window_secs());
        if moment.secs > at.saturating_add(window) {
            return Err(Answer::Early);
        }
        let opened = since_opened(self.opened_at, now);
        if moment < opened || moment.secs < at.saturating_sub(window) {
            return Err(Answer::Late);
        }
        let holder = self.key.holder(number);
        let record = self.record(holder, now).ok_or(Answer::TooMany)?;
        if !record.hear(moment, now.unix) {
            return Err(Answer::Replayed);
        }
        if !record.spend(now.instant) {
            return Err(Answer::TooMany);
        }
        Ok(keys)
    }

    fn record(&mut self, holder: Holder, now: Now) -> Option<&mut Record> {
        if self.records.len() >= HOLDERS_MAX && !self.records.contains_key(&holder) {
            // What they made would be late by now.
            self.records.retain(|_, record| !record.is_silent(now));
            if self.records.len() >= HOLDERS_MAX {
                return None;
            }
        }
        Some(match self.records.entry(holder) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let stay = Stay::Until(now.unix);
                new.insert(Record::new(Vec::new(), stay, BURST))
            }
        })
    }
}

/// Enough for a hundred thousand years of periods that begin anew.
fn period_bytes(at: UnixMillis) -> [u8; 2] {
    let [.., a, b] = period_of(at).to_be_bytes();
    [a, b]
}

/// The periods of which a pass may be: this one, the one before, and the next, where the clock of
/// whoever gave it was ahead.
fn periods(at: UnixMillis) -> [u16; 3] {
    let period = u16::from_be_bytes(period_bytes(at));
    [period, period.wrapping_sub(1), period.wrapping_add(1)]
}

fn parse(label: &str) -> Option<([u8; PASS_NUMBER_BYTES], Knock)> {
    let bytes = BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes());
    let bytes = bytes.ok()?;
    let (number, knock) = bytes.split_first_chunk::<PASS_NUMBER_BYTES>()?;
    let knock = <[u8; KNOCK_BYTES]>::try_from(knock).ok()?;
    Some((*number, Knock(knock)))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use cardea_proto::{id::DeviceId, time::testing::start};

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    #[test]
    fn a_pass_opens_to_its_holder_once_for_each_knock_and_for_a_month() {
        let mut bench = Bench::new();
        let pass = bench.pass(1);
        let label = bench.label(&pass);
        assert!(bench.door.knock_once(&label, bench.now).is_ok());
        assert_eq!(bench.refused(&label), Some(Answer::Replayed));
        assert_eq!(bench.refused(&label.to_uppercase()), Some(Answer::Replayed));
        bench.now = bench.now.plus(30 * DAY);
        let later = bench.label(&pass);
        assert_eq!(bench.refused(&later), None);
        bench.now = bench.now.plus(31 * DAY);
        let late = bench.label(&pass);
        assert_eq!(bench.refused(&late), Some(Answer::Unknown));
        let knocks = bench.door.knocks();
        let counted = (knocks.opened, knocks.replayed, knocks.unknown);
        assert_eq!(counted, (2, 2, 1));
    }

    #[test]
    fn another_key_another_number_or_another_time_opens_nothing() {
        let mut bench = Bench::new();
        let (one, two) = (bench.pass(1), bench.pass(2));
        assert_ne!(one.number, two.number);
        let knock = pass_keys(&one).knock(bench.now.unix, [1; 2]);
        assert_eq!(
            bench.refused(&pass_label(&two, &knock)),
            Some(Answer::Forged)
        );
        let other = FrontKey::new(Secret32([2; 32])).pass(node(1), &[1], bench.now.unix);
        let label = bench.label(&other);
        assert_eq!(bench.refused(&label), Some(Answer::Forged));
        let hours = UnixMillis(bench.now.unix.0 + 2 * 3_600_000);
        let early = pass_label(&one, &pass_keys(&one).knock(hours, [1; 2]));
        assert_eq!(bench.refused(&early), Some(Answer::Early));
        let before = bench.label(&one);
        bench.now = bench.now.plus(Duration::from_millis(400));
        bench.door = PassDoor::new(bench.key.clone(), bench.now);
        assert_eq!(bench.refused(&before), Some(Answer::Late));
        for wrong in ["", "www", &knock.label(), &before[1..]] {
            assert_eq!(bench.refused(wrong), Some(Answer::Unknown), "{wrong}");
        }
        assert!(bench.door.records.is_empty(), "strangers take no memory");
        let after = bench.label(&one);
        assert_eq!(bench.refused(&after), None, "in the same second");
    }

    #[test]
    fn whoever_keeps_knocking_is_let_in_at_a_pace() {
        let mut bench = Bench::new();
        let (one, two) = (bench.pass(1), bench.pass(2));
        let mut opened = 0;
        while let label = bench.label(&one)
            && bench.refused(&label).is_none()
        {
            opened += 1;
        }
        assert_eq!(opened, 30);
        let label = bench.label(&two);
        assert_eq!(bench.refused(&label), None);
    }

    #[test]
    fn each_certificate_brings_another_number_and_no_more_knocks() {
        let mut bench = Bench::new();
        let passes: Vec<Pass> = (0..1_440)
            .map(|serial| bench.pass_with(1, serial))
            .collect();
        let numbers: BTreeSet<_> = passes.iter().map(|pass| pass.number.0).collect();
        assert_eq!(numbers.len(), passes.len());
        // Two numbers of one device are as far from each other as two of two devices.
        let apart = |one: u16, other: u8| {
            let pairs = passes.iter().zip(0..).map(|(pass, serial)| {
                let rest = bench.pass_with(other, serial + one).number.0;
                let pairs = pass.number.0.into_iter().zip(rest).skip(2);
                pairs.map(|(a, b)| (a ^ b).count_ones()).sum::<u32>()
            });
            pairs.sum::<u32>() / 1_440
        };
        for (serials, device) in [(1, 1), (1_440, 1), (0, 2), (1, 2)] {
            let bits = apart(serials, device);
            assert!((23..=25).contains(&bits), "{bits} of 48 bits");
        }
        let mut opened = 0;
        for pass in &passes {
            let label = bench.label(pass);
            opened += u32::from(bench.refused(&label).is_none());
        }
        assert_eq!(opened, BURST, "however many passes somebody has kept");
        assert_eq!(bench.door.records.len(), 1);
    }

    #[test]
    fn passes_of_before_and_of_codes_open_until_they_end() {
        let mut bench = Bench::new();
        let (renewed, kept) = (bench.pass_with(1, 9), bench.pass_with(1, 8));
        for pass in [bench.key.pass_of([7; 6], bench.now.unix), renewed, kept] {
            let label = bench.label(&pass);
            assert_eq!(bench.refused(&label), None);
            assert_eq!(bench.refused(&label), Some(Answer::Replayed));
        }
    }

    #[test]
    fn nobody_is_anothers_holder_and_what_was_hidden_is_found() {
        let key = FrontKey::new(Secret32([1; 32]));
        let holders = (0..200).map(|number| {
            let pass = |serial| key.pass(node(number), &[serial], start().unix).number.0;
            let holder = key.holder(pass(1));
            assert_eq!(holder, key.holder(pass(2)));
            let other = FrontKey::new(Secret32([2; 32]));
            assert_ne!(other.holder(pass(1)), other.holder(pass(2)));
            holder
        });
        assert_eq!(holders.collect::<BTreeSet<_>>().len(), 200);
    }

    struct Bench {
        door: PassDoor,
        key: FrontKey,
        now: Now,
        nonce: u16,
    }

    impl Bench {
        fn new() -> Self {
            let (key, now) = (FrontKey::new(Secret32([1; 32])), start());
            Self {
                door: PassDoor::new(key.clone(), now),
                key,
                now,
                nonce: 0,
            }
        }

        fn pass(&self, number: u8) -> Pass {
            self.pass_with(number, 1)
        }

        fn pass_with(&self, number: u8, serial: u16) -> Pass {
            self.key
                .pass(node(number), &serial.to_be_bytes(), self.now.unix)
        }

        fn label(&mut self, pass: &Pass) -> String {
            self.nonce += 1;
            let knock = pass_keys(pass).knock(self.now.unix, self.nonce.to_be_bytes());
            pass_label(pass, &knock)
        }

        fn refused(&mut self, label: &str) -> Option<Answer> {
            self.door.knock_once(label, self.now).err()
        }
    }

    fn node(number: u8) -> NodeId {
        NodeId::Device(DeviceId::from_bytes([number; 10]))
    }
}
