//! A conversation through the relay, under which the agent's NAT maps anew or its addresses change:
//! it stands still for no longer than is promised, one round trip and 200 ms.

#[cfg(test)]
mod pair;

use std::time::{Duration, Instant};

use bytes::Bytes;
use cardea_proto::app::Carrier;
use cardea_tunnel::{End, FlowId, Input};

use pair::{Beside, CARRIERS, Pair, nat::Kind, pattern};

/// How long a round trip between the two ends takes; to the relay it is half of that.
const RTT: Duration = Duration::from_millis(40);

/// How long nothing may come once the way works. A conversation waits a round trip for each answer
/// anyway, which is not counted on top.
const GAP_MAX: Duration = Duration::from_millis(40 + 200);

#[test]
fn a_nat_that_maps_anew_before_a_relay_costs_no_more_than_the_promised_gap() {
    everywhere(|pair| pair.forget_binding(End::Agent));
}

#[test]
fn a_family_of_addresses_that_goes_costs_no_more_than_the_promised_gap() {
    everywhere(|pair| {
        pair.beside = Some(Beside::new(Kind::Symmetric, Kind::Symmetric));
        pair.unreached.insert((true, pair::RELAY.parse().unwrap()));
        let own = vec!["[2001:db8::7]:4000".parse().unwrap()];
        pair.input(End::Agent, Input::Addresses(own));
        pair.input(End::Agent, Input::Roamed);
    });
}

#[test]
fn a_new_address_costs_no_more_than_the_promised_gap() {
    everywhere(|pair| {
        pair.forget_binding(End::Agent);
        pair.input(End::Agent, Input::Roamed);
    });
}

/// Whoever speaks first, and wherever the words of a round are when it happens.
fn everywhere(happens: impl Fn(&mut Pair)) {
    let mut wrong = Vec::new();
    for carrier in CARRIERS {
        for speaker in [End::Agent, End::Connector] {
            for after in (0..=40).step_by(4).map(Duration::from_millis) {
                let mut talk = Talk::new(carrier, speaker);
                let gap = talk.round(after, &happens);
                if gap > GAP_MAX {
                    wrong.push((carrier, speaker, after, gap));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_nat_that_maps_anew_under_a_download_costs_no_more_than_the_promised_gap() {
    for carrier in CARRIERS {
        for after in (0..=40).step_by(4).map(Duration::from_millis) {
            let mut talk = Talk::new(carrier, End::Connector);
            let gap = talk.download(after, |pair| pair.forget_binding(End::Agent));
            assert!(gap > RTT, "{carrier:?}: nothing was lost");
            assert!(gap <= GAP_MAX, "{carrier:?} {after:?}: {gap:?}");
        }
    }
}

#[test]
fn a_block_is_whole_again_soon_when_the_direct_way_goes_with_its_family_of_addresses() {
    let mut wrong = Vec::new();
    for carrier in CARRIERS {
        for speaker in [End::Agent, End::Connector] {
            for after in (0..=900).step_by(50).map(Duration::from_micros) {
                let mut talk = Talk::new(carrier, speaker);
                talk.pair.delay = Duration::from_micros(200);
                let mut beside = Beside::new(Kind::Open, Kind::Open);
                beside.delay = Duration::from_micros(100);
                talk.pair.meet(beside);
                assert!(talk.pair.run(Duration::from_secs(2), Pair::is_direct));
                for _ in 0..50 {
                    talk.block(Duration::ZERO, |_| ());
                }
                let took = talk.block(after, |pair| {
                    pair.beside.as_mut().unwrap().is_cut = true;
                    // An IPv6 header is 20 bytes longer.
                    pair.mtu = 1_452;
                    pair.unreached.insert((true, pair::RELAY.parse().unwrap()));
                    let own = vec!["[2001:db8::7]:4000".parse().unwrap()];
                    pair.pass(Duration::from_millis(10));
                    pair.input(End::Agent, Input::Addresses(own));
                    pair.input(End::Agent, Input::Roamed);
                });
                // Of the 10 ms before anybody is told, and a timer or two.
                if took > Duration::from_millis(80) {
                    wrong.push((carrier, speaker, after, took));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_relay_that_loses_a_third_and_wobbles_is_asked_little_and_the_conversation_goes_on() {
    for carrier in CARRIERS {
        let mut talk = Talk::new(carrier, End::Agent);
        (talk.pair.loss, talk.pair.jitter) = (300, Duration::from_millis(100));
        let (began, before) = (talk.pair.now.instant, talk.pair.binds);
        let mut rounds = 0;
        while talk.pair.now.instant < began + Duration::from_secs(60) {
            talk.round(Duration::ZERO, |_| ());
            talk.pair.pass(Duration::from_millis(200));
            rounds += 1;
        }
        let binds = talk.pair.binds - before;
        assert!(rounds >= 30, "{carrier:?}: {rounds}");
        assert!(
            binds <= 60 * 2 * 3,
            "{carrier:?}: {binds} tickets, of two ends in a minute"
        );
    }
}

/// Two ends that speak in turn all the time.
struct Talk {
    pair: Pair,
    speaker: End,
    flows: (FlowId, FlowId),
}

impl Talk {
    fn new(carrier: Carrier, speaker: End) -> Self {
        let mut pair = Pair::new(carrier);
        pair.delay = RTT / 2;
        let flows = pair.connect("80/tcp");
        let mut talk = Self {
            pair,
            speaker,
            flows,
        };
        talk.pair.pass(Duration::from_secs(1));
        for _ in 0..20 {
            assert!(talk.round(Duration::ZERO, |_| ()) <= RTT * 2);
        }
        talk
    }

    fn flow(&self, end: End) -> FlowId {
        match end {
            End::Agent => self.flows.0,
            End::Connector => self.flows.1,
        }
    }

    fn say(&mut self, end: End, data: &[u8]) {
        let (now, flow) = (self.pair.now, self.flow(end));
        let node = self.pair.node(end);
        let data = Bytes::copy_from_slice(data);
        node.tunnels.write(now, flow, data, &mut node.out);
        self.pair.flush(end);
    }

    fn hear(&mut self, end: End) -> usize {
        let flow = self.flow(end);
        self.pair.read_all(end, flow).0.len()
    }

    /// How long nothing comes at either end in a round in which something happens, so long `after` it
    /// began. Of what was lost each segment may take a round trip more, as in any TCP.
    fn round(&mut self, after: Duration, happens: impl FnOnce(&mut Pair)) -> Duration {
        let (there, back) = (pattern(2_000), pattern(3_000));
        let (speaker, answerer) = (self.speaker, pair::other(self.speaker));
        let mut happening = Happening::new(&self.pair, after, happens);
        let mut silence = Silence::new(&self.pair);
        let (mut asked, mut answered) = (0, 0);
        self.say(speaker, &there);
        while answered < back.len() {
            happening.step(&mut self.pair);
            let came = self.hear(answerer);
            asked += came;
            if came > 0 && asked == there.len() {
                self.say(answerer, &back);
            }
            let returned = self.hear(speaker);
            answered += returned;
            silence.heard(&self.pair, came + returned);
        }
        silence.longest
    }

    /// How long it takes to bring 8 KiB there and back when something happens, so long after that
    /// began.
    fn block(&mut self, after: Duration, happens: impl FnOnce(&mut Pair)) -> Duration {
        let block = pattern(8 * 1024);
        let (speaker, answerer) = (self.speaker, pair::other(self.speaker));
        let mut happening = Happening::new(&self.pair, after, happens);
        let began = self.pair.now.instant;
        let (mut asked, mut answered) = (0, 0);
        self.say(speaker, &block);
        while answered < block.len() {
            happening.step(&mut self.pair);
            let came = self.hear(answerer);
            asked += came;
            if came > 0 && asked == block.len() {
                self.say(answerer, &block);
            }
            answered += self.hear(speaker);
        }
        self.pair.now.instant - began
    }

    /// How long nothing comes of a download when something happens, so long `after` it was in full
    /// swing.
    fn download(&mut self, after: Duration, happens: impl FnOnce(&mut Pair)) -> Duration {
        let block = pattern(16 * 1024);
        let mut happening = Happening::new(&self.pair, Duration::from_secs(1) + after, happens);
        let end = self.pair.now.instant + Duration::from_secs(3);
        let mut silence = Silence::new(&self.pair);
        while self.pair.now.instant < end {
            self.say(End::Connector, &block);
            happening.step(&mut self.pair);
            let came = self.hear(End::Agent);
            silence.heard(&self.pair, came);
        }
        silence.heard(&self.pair, 1);
        silence.longest
    }
}

/// How long nothing came.
struct Silence {
    since: Instant,
    longest: Duration,
}

impl Silence {
    fn new(pair: &Pair) -> Self {
        Self {
            since: pair.now.instant,
            longest: Duration::ZERO,
        }
    }

    fn heard(&mut self, pair: &Pair, bytes: usize) {
        if bytes > 0 {
            let now = pair.now.instant;
            self.longest = self.longest.max(now - self.since);
            self.since = now;
        }
    }
}

/// What happens once, at its time.
struct Happening<F> {
    at: Instant,
    happens: Option<F>,
}

impl<F: FnOnce(&mut Pair)> Happening<F> {
    fn new(pair: &Pair, after: Duration, happens: F) -> Self {
        Self {
            at: pair.now.instant + after,
            happens: Some(happens),
        }
    }

    /// Goes to the next thing that happens.
    fn step(&mut self, pair: &mut Pair) {
        let later = pair.now.instant + Duration::from_secs(60);
        let limit = self.happens.as_ref().map_or(later, |_| self.at);
        let is_before = pair.step_until(limit);
        assert!(
            is_before || self.happens.is_some(),
            "the conversation was cut"
        );
        if !is_before && let Some(happens) = self.happens.take() {
            happens(pair);
        }
    }
}
