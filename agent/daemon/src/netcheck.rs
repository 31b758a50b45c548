//! Looks at the network that this node is in: asks controllers by every way and relays with tickets.
//!
//! Nobody is asked but who the node knows from its enrollment. The channel for renewals serves, because
//! it takes nothing from the one that may be up.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use cardea_credential::tls;
use cardea_host::{
    addresses,
    channel::{Caller, Client, CloseCode, Connected, Receiver},
    clock::Clock,
    detour::{self, OpenError, Proxy},
};
use cardea_node::netcheck::{Observed, ObservedRelay, judge, millis};
use cardea_proto::{
    PROGRAM_VERSION, PROTOCOL_VERSION,
    access::Standby,
    detour::{fronts, plain},
    message::{FromNode, Hello, ToNode},
    netcheck::{CheckState, ControllerCheck, NetReport, Way},
    relay::{ASK_BYTES, FrameKind, Handle, SEEN_BYTES, TICKET_BYTES},
    time::ClockOffset,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    dial::{Destination, Dialed, dial},
    state::Node,
};

/// How long one way to a controller may take, and its answer.
const WAY_TIME: Duration = Duration::from_secs(5);

/// How long ways by UDP have before the others begin: a slow handshake, and the search for the size of
/// packets.
const UDP_START: Duration = Duration::from_millis(2_500);

/// How long QUIC may take to find out which packets pass, and how long without news it is done.
const MTU_TIME: Duration = Duration::from_millis(1_500);
const MTU_SETTLED: Duration = Duration::from_millis(300);
const MTU_LOOK: Duration = Duration::from_millis(25);

/// When relays are asked, each time those that have not answered; and how long they have.
const ASKS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_millis(900),
];
const RELAY_TIME: Duration = Duration::from_secs(2);

/// How long somebody may take to answer plain HTTP, and how much of that is looked at.
const HTTP_TIME: Duration = Duration::from_secs(2);
const HTTP_BYTES: usize = 2_048;

/// Of a controller that completed the handshake and did not let us find out the rest.
const BROKE_OFF: &str = "it let us in and broke off";

/// Longest place to which a portal may send people that is repeated to them.
const LOCATION_BYTES_MAX: usize = 200;

/// Most addresses of each kind that are looked at.
const ADDRESSES_MAX: usize = 8;

/// Everything that a look at the network needs of a node.
pub(crate) struct Look {
    controllers: Vec<String>,
    relays: Vec<Standby>,
    tls: Arc<rustls::ClientConfig>,
    caller: Caller,
    proxy: Option<Proxy>,
    clock: Clock,
}

impl Look {
    /// What `node` knows; `offset` is how far the controller's clock is, as far as that is known.
    pub(crate) fn of(node: &Node, proxy: Option<Proxy>, offset: ClockOffset) -> Self {
        let clock = Clock::system();
        let certificate = &node.certificate;
        let is_over = certificate.not_after <= offset.theirs(clock.now().unix);
        let tls = tls::renewal_client(
            node.trust.clone(),
            &certificate.chain,
            Arc::clone(&node.signer),
            Arc::new(clock),
        );
        let caller = Caller::new(&certificate.knock, &node.trust.root_digest(), offset)
            .with_pass(certificate.pass.clone());
        let mut relays = certificate.relays.clone();
        if is_over {
            // Its tickets ended with it.
            relays.iter_mut().for_each(|relay| relay.ticket.0.clear());
        }
        Self {
            controllers: node.addresses.clone(),
            relays,
            tls,
            caller,
            proxy,
            clock,
        }
    }

    /// Looks, for some seconds at most.
    pub(crate) async fn run(self) -> NetReport {
        // One after the other: handshakes take the processor, and round trips would show it.
        let (relays, own) = self.relays().await;
        let ways = self.controllers().await;
        let mut observed = Observed {
            relays,
            own,
            ..Observed::default()
        };
        for (check, said) in ways {
            observed.controllers.push(check);
            let Some(said) = said else { continue };
            observed.path_mtu = observed.path_mtu.max(said.path_mtu);
            observed.clock_ahead_ms = observed.clock_ahead_ms.or(said.clock_ahead_ms);
            observed.refused = observed.refused.or(said.refused);
        }
        let mut checks = observed.controllers.iter();
        if !checks.any(|check| check.state == CheckState::Ok) && self.proxy.is_none() {
            observed.http = self.http().await;
        }
        judge(&observed)
    }

    /// Every way to every controller, in the order in which they are known.
    ///
    /// A controller keeps one channel for the renewals of a node, and a newer way to it ends an older one in
    /// the middle. A silent way takes its whole time, though: so UDP has a start that is enough where it
    /// passes, and who broke off nevertheless is asked again, alone.
    async fn controllers(&self) -> Vec<(ControllerCheck, Option<Said>)> {
        let udp = plain(&self.controllers).map(|address| (Way::Udp, address));
        let tls = fronts(&self.controllers).map(|address| (Way::Tls, address));
        let all: Vec<_> = udp.chain(tls).take(ADDRESSES_MAX).enumerate().collect();
        let mut attempts = JoinSet::new();
        let mut found = BTreeMap::new();
        for (begun, time) in [(Way::Udp, UDP_START), (Way::Tls, WAY_TIME * 3)] {
            for (place, (way, address)) in all.iter().filter(|(_, (way, _))| *way == begun) {
                let (place, way, attempt) = (*place, *way, self.attempt(address));
                attempts.spawn(async move { (place, attempt.look(way).await) });
            }
            let gathered = timeout(time, gather(&mut attempts, &mut found)).await;
            tracing::trace!(way = ?begun, all = gathered.is_ok(), "controllers were asked");
        }
        for (check, said) in found.values_mut() {
            if check.why.as_deref() == Some(BROKE_OFF) {
                (*check, *said) = self.attempt(&check.address).look(check.way).await;
            }
        }
        found.into_values().collect()
    }

    fn attempt(&self, address: &str) -> Attempt {
        Attempt {
            address: address.to_owned(),
            tls: Arc::clone(&self.tls),
            caller: self.caller.clone(),
            proxy: self.proxy.clone(),
            clock: self.clock,
        }
    }

    /// Every relay, from one socket for each family; and where those sockets are.
    async fn relays(&self) -> (Vec<ObservedRelay>, Vec<SocketAddr>) {
        let mut asked = Asked::new(&self.relays);
        let any = [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        ];
        let mut sockets = Vec::new();
        for address in any {
            match UdpSocket::bind(address).await {
                Ok(socket) => sockets.push(socket),
                Err(error) => tracing::debug!(%error, "no socket of a family"),
            }
        }
        let begun = Instant::now();
        for (round, at) in ASKS.iter().enumerate() {
            for socket in &sockets {
                asked.ask(socket).await;
            }
            let until = begun + ASKS.get(round + 1).copied().unwrap_or(RELAY_TIME).max(*at);
            while !asked.is_done() {
                let Ok(answer) = timeout_at(until, receive(&sockets)).await else {
                    break;
                };
                asked.answered(&answer);
            }
        }
        let ports = sockets.iter().filter_map(|socket| socket.local_addr().ok());
        let own = ports.flat_map(|local| {
            let own = addresses::own().into_iter();
            own.map(move |ip| SocketAddr::new(ip, local.port()))
        });
        (asked.relays, own.collect())
    }

    /// What answers plain HTTP where the first controller is: nothing of ours does.
    async fn http(&self) -> Option<(String, Option<String>)> {
        let address = plain(&self.controllers).next()?;
        let (host, _) = address.rsplit_once(':')?;
        let asking = async {
            let mut stream = TcpStream::connect(format!("{host}:80")).await?;
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let mut limited = stream.take(u64::try_from(HTTP_BYTES).unwrap_or(0));
            limited.read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = timeout(HTTP_TIME, asking).await.ok()?.ok()?;
        page(host, &String::from_utf8_lossy(&answer))
    }
}

/// Who answered plain HTTP, and where that sends people, if it is fit to be shown.
fn page(host: &str, answer: &str) -> Option<(String, Option<String>)> {
    if !answer.starts_with("HTTP/1.") {
        return None;
    }
    let location = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("location").then(|| value.trim())
    });
    let is_shown = |place: &&str| {
        place.len() <= LOCATION_BYTES_MAX
            && place.bytes().all(|byte| byte.is_ascii_graphic())
            && (place.starts_with("http://") || place.starts_with("https://"))
    };
    let location = location.filter(is_shown).map(ToOwned::to_owned);
    Some((host.to_owned(), location))
}

/// Waits for all attempts, each of which has its place. Nothing is lost when it is cancelled.
async fn gather<T: 'static>(attempts: &mut JoinSet<(usize, T)>, found: &mut BTreeMap<usize, T>) {
    while let Some(result) = attempts.join_next().await {
        match result {
            Ok((place, checked)) => drop(found.insert(place, checked)),
            Err(error) => tracing::error!(%error, "a look at a controller panicked"),
        }
    }
}

/// What a controller that answered showed.
struct Said {
    rtt: Duration,
    path_mtu: Option<u32>,
    clock_ahead_ms: Option<i64>,
    refused: Option<(String, String)>,
}

/// One way to one controller.
struct Attempt {
    address: String,
    tls: Arc<rustls::ClientConfig>,
    caller: Caller,
    proxy: Option<Proxy>,
    clock: Clock,
}

impl Attempt {
    async fn look(self, way: Way) -> (ControllerCheck, Option<Said>) {
        let connecting = async {
            match way {
                Way::Udp => self.by_udp().await,
                Way::Tls => self.by_tls().await,
            }
        };
        let (state, said, why) = match timeout(WAY_TIME, connecting).await {
            Err(_) => (
                CheckState::Silent,
                None,
                Some("no answer in time".to_owned()),
            ),
            Ok(Err((state, why))) => (state, None, Some(why)),
            Ok(Ok(connected)) => match self.converse(way, connected).await {
                Some(said) => (CheckState::Ok, Some(said), None),
                None => {
                    let why = BROKE_OFF.to_owned();
                    (CheckState::Silent, None, Some(why))
                }
            },
        };
        let check = ControllerCheck {
            address: self.address,
            way,
            state,
            rtt_ms: said.as_ref().map(|said| millis(said.rtt)),
            why,
        };
        (check, said)
    }

    async fn by_udp(&self) -> Result<Connected, (CheckState, String)> {
        let to = Destination {
            address: self.address.clone(),
            fronts: Vec::new(),
            proxy: None,
        };
        dial(&to, &self.tls, &self.caller)
            .await
            .map(|Dialed { connected, .. }| connected)
            .map_err(|error| (CheckState::Silent, error.to_string()))
    }

    async fn by_tls(&self) -> Result<Connected, (CheckState, String)> {
        let stream = detour::open(&self.address, &self.caller, self.proxy.as_ref())
            .await
            .map_err(|error| (state_of(&error), error.to_string()))?;
        Client::connect_by(stream, None, Arc::clone(&self.tls), &self.caller, WAY_TIME)
            .await
            .map_err(|error| (CheckState::Silent, error.to_string()))
    }

    /// Says hello, and how long the answer took.
    async fn converse(&self, way: Way, connected: Connected) -> Option<Said> {
        let Connected {
            mut link, address, ..
        } = connected;
        let sent = self.clock.now();
        let hello = FromNode::Hello(Hello {
            version: PROTOCOL_VERSION,
            program: PROGRAM_VERSION.to_owned(),
            clock: sent.unix,
            grants: Vec::new(),
            checkpoint: None,
        });
        link.sender.send(&hello).ok()?;
        let answer = timeout(WAY_TIME, link.receiver.receive::<ToNode>()).await;
        let now = self.clock.now();
        let rtt = now.instant.saturating_duration_since(sent.instant);
        let mut said = Said {
            rtt,
            path_mtu: None,
            clock_ahead_ms: None,
            refused: None,
        };
        match answer.ok()?.ok()?? {
            ToNode::Welcome(welcome) => {
                // The answer was made in the middle, as far as anybody can tell.
                let ours = i64::try_from(sent.unix.plus(rtt / 2).0).ok()?;
                let theirs = i64::try_from(welcome.clock.0).ok()?;
                said.clock_ahead_ms = Some(ours.saturating_sub(theirs));
            }
            ToNode::Goodbye(refusal) => {
                let next = refusal.next.clone().unwrap_or_default();
                said.refused = Some((refusal.message, next));
            }
            ToNode::Certificate(_)
            | ToNode::CertificateRefused(_)
            | ToNode::Posture(_)
            | ToNode::Apps(_)
            | ToNode::Granted(_)
            | ToNode::Denied { .. }
            | ToNode::Explained { .. }
            | ToNode::Admit(_)
            | ToNode::Extend(_)
            | ToNode::Withdraw { .. }
            | ToNode::Checkpoint(_) => return None,
        }
        if way == Way::Udp {
            let headers = if address.ip().to_canonical().is_ipv4() {
                28
            } else {
                48
            };
            let payload = tokio::select! {
                payload = settled(|| link.sender.datagram_bytes()) => payload,
                () = ended(&mut link.receiver) => return None,
            };
            said.path_mtu = Some(u32::from(payload) + headers);
        }
        link.sender.close(CloseCode::Done, "only looking");
        Some(said)
    }
}

/// Waits for the end of a channel, whatever is said on it until then.
async fn ended(receiver: &mut Receiver) {
    while let Ok(Some(_)) = receiver.receive::<ToNode>().await {}
}

/// A value that has not grown for a while, or has had its time.
async fn settled(read: impl Fn() -> u16) -> u16 {
    let begun = Instant::now();
    let (mut value, mut since) = (read(), begun);
    while since.elapsed() < MTU_SETTLED && begun.elapsed() < MTU_TIME {
        tokio::time::sleep(MTU_LOOK).await;
        let next = read();
        if next > value {
            (value, since) = (next, Instant::now());
        }
    }
    value
}

/// Whether somebody else answered, or nobody.
fn state_of(error: &OpenError) -> CheckState {
    match error {
        OpenError::Impostor => CheckState::Impostor,
        // What is no TLS was said by somebody, who is not of ours.
        OpenError::Io(error) if error.kind() == io::ErrorKind::InvalidData => CheckState::Impostor,
        OpenError::Io(_) | OpenError::Name(_) => CheckState::Silent,
    }
}

/// Questions to relays.
struct Asked {
    relays: Vec<ObservedRelay>,
    /// What each address is asked, the handle in its answer, and when it was asked last.
    open: BTreeMap<SocketAddr, Open>,
}

struct Open {
    place: usize,
    question: [u8; ASK_BYTES],
    handle: Handle,
    asked: Option<Instant>,
}

impl Asked {
    fn new(known: &[Standby]) -> Self {
        let mut open = BTreeMap::new();
        let mut relays = Vec::new();
        for (place, relay) in known.iter().enumerate().take(ADDRESSES_MAX) {
            let question = question(&relay.ticket.0);
            relays.push(ObservedRelay {
                addresses: relay.relay.clone(),
                is_asked: question.is_some(),
                answers: Vec::new(),
            });
            let Some((question, handle)) = question else {
                continue;
            };
            for address in relay.relay.iter().take(ADDRESSES_MAX) {
                open.entry(*address).or_insert(Open {
                    place,
                    question,
                    handle,
                    asked: None,
                });
            }
        }
        Self { relays, open }
    }

    fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// Asks everybody of the socket's family who has not answered.
    async fn ask(&mut self, socket: &UdpSocket) {
        let is_v4 = socket.local_addr().is_ok_and(|local| local.is_ipv4());
        for (address, open) in &mut self.open {
            if address.is_ipv4() == is_v4 {
                open.asked = Some(Instant::now());
                if let Err(error) = socket.send_to(&open.question, address).await {
                    tracing::debug!(%error, relay = %address, "not asked");
                }
            }
        }
    }

    fn answered(&mut self, (from, datagram): &(SocketAddr, Vec<u8>)) {
        let Some(open) = self.open.get(from) else {
            return;
        };
        let Some((handle, seen)) = Handle::of_seen(datagram) else {
            return;
        };
        let Some(rtt) = open.asked.filter(|_| handle == open.handle) else {
            return;
        };
        if let Some(relay) = self.relays.get_mut(open.place) {
            relay.answers.push((*from, rtt.elapsed(), seen));
        }
        self.open.remove(from);
    }
}

/// What is asked with a ticket, and under which handle it is answered.
fn question(ticket: &[u8]) -> Option<([u8; ASK_BYTES], Handle)> {
    let ticket = <&[u8; TICKET_BYTES]>::try_from(ticket).ok()?;
    let body = cardea_proto::relay::Ticket::from_body(ticket.first_chunk()?)?;
    let question = [&[FrameKind::Ask.byte()], &ticket[..]].concat();
    Some((question.try_into().ok()?, body.handle))
}

/// The next datagram at any of the sockets.
async fn receive(sockets: &[UdpSocket]) -> (SocketAddr, Vec<u8>) {
    let one = |index: usize| async move {
        let Some(socket) = sockets.get(index) else {
            return std::future::pending().await;
        };
        let mut buffer = [0; SEEN_BYTES + 1];
        loop {
            // An error is what the host says of a relay that is not there.
            if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let datagram = buffer.get(..length).unwrap_or_default().to_vec();
                return (from, datagram);
            }
        }
    };
    tokio::select! {
        answer = one(0) => answer,
        answer = one(1) => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portal_is_named_by_where_it_sends_people_and_by_nothing_else() {
        let redirect = "HTTP/1.1 302 Found\r\nLocation: http://portal.example/login\r\n\r\n";
        let expected = Some("http://portal.example/login".to_owned());
        assert_eq!(page("c", redirect), Some(("c".to_owned(), expected)));
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\nhello", Some(("c".to_owned(), None))),
            (
                "HTTP/1.1 302 Found\r\nlocation: javascript:alert(1)\r\n\r\n",
                Some(("c".to_owned(), None)),
            ),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://a/\u{1b}[2J\r\n\r\n",
                Some(("c".to_owned(), None)),
            ),
            ("SSH-2.0-x\r\n", None),
            ("", None),
        ] {
            assert_eq!(page("c", answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn whoever_speaks_no_tls_of_ours_is_somebody_else_and_who_is_silent_is_nobody() {
        let io = |kind: io::ErrorKind| state_of(&OpenError::Io(kind.into()));
        assert_eq!(state_of(&OpenError::Impostor), CheckState::Impostor);
        assert_eq!(io(io::ErrorKind::InvalidData), CheckState::Impostor);
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(io(kind), CheckState::Silent);
        }
    }

    #[test]
    fn a_relay_counts_as_answering_by_the_right_words_from_the_right_place_alone() {
        let ticket = cardea_proto::relay::Ticket {
            tunnel: cardea_proto::codec::Bytes([1; 16]),
            side: cardea_proto::relay::Side::Agent,
            handle: Handle::from_bytes([2; 7]),
            not_after: cardea_proto::time::UnixMillis(1),
        };
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let (relay, us) = (at("192.0.2.1:7444"), at("203.0.113.7:4"));
        let known = |ticket: Vec<u8>| Standby {
            relay: vec![relay],
            ticket: ticket.into(),
        };
        let signed = [&ticket.body()[..], &[0; 64]].concat();
        let mut asked = Asked::new(&[known(signed), known(Vec::new())]);
        assert!(asked.relays[0].is_asked && !asked.relays[1].is_asked);
        let right = ticket.handle.seen(us).to_vec();
        asked.answered(&(relay, right.clone()));
        assert!(asked.relays[0].answers.is_empty(), "nobody has asked yet");
        asked.open.get_mut(&relay).unwrap().asked = Some(Instant::now());
        let wrong = Handle::from_bytes([3; 7]).seen(us).to_vec();
        asked.answered(&(relay, wrong));
        asked.answered(&(at("192.0.2.9:7444"), right.clone()));
        assert!(!asked.is_done() && asked.relays[0].answers.is_empty());
        asked.answered(&(relay, right));
        assert!(asked.is_done());
        assert_eq!(asked.relays[0].answers[0].2, us);
    }
}
