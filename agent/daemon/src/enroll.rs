//! Enrollment: a code becomes a key, a proof, and a first certificate.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cardea_credential::{
    key::{self, KeyAlgorithm},
    knock::invite_seed,
    proof::proof_message,
    tls::{self, ClockOff},
    trust::Trust,
};
use cardea_device::{
    key::KeyStore,
    posture::{Posture, Settings},
};
use cardea_host::{
    channel::{Caller, ChannelError, CloseCode, Connected},
    clock::Clock,
    detour::Proxy,
    exit::{Code, Failure},
    files::Dir,
};
use cardea_proto::{
    PROGRAM_VERSION, PROTOCOL_VERSION,
    codec::{Blob, Bytes},
    detour,
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    identity::{Holder, Identity, Role},
    invite::InviteCode,
    name::Name,
    posture::Report,
    time::ClockOffset,
};

use crate::{
    dial::{Destination, DialError, Dialed, dial},
    state::Node,
};

/// How long the controller may take to answer: twice its slowest commit, and room for two losses.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// How long it is waited for an answer before there is a second knock. A code may be in many hands: of
/// two hundred who knock with one in the same second, two may make the same knock, and the later one
/// is taken for a replay, to which nobody answers.
const KNOCK_AGAIN: Duration = Duration::from_secs(2);

/// What an enrollment needs besides the code.
#[derive(Debug)]
pub struct Applicant<'a> {
    /// Where the node's state goes.
    pub dir: &'a Dir,
    /// What the program is.
    pub role: Role,
    /// The name it would like.
    pub name: Name,
    /// Where a device's posture is read from.
    pub posture: Option<Settings>,
    /// The proxy that leads to fronts.
    pub proxy: Option<Proxy>,
}

impl Applicant<'_> {
    /// Enrolls with `code` and keeps what came of it.
    ///
    /// # Errors
    /// [`Failure`] with the text and exit code to show.
    pub async fn enroll(self, code: &InviteCode) -> Result<Node, Failure> {
        if code.role != self.role {
            let program = match code.role {
                Role::Connector => "cardea-connector",
                Role::Device | Role::Controller | Role::Relay => "cardea",
            };
            return Err(Failure::of(
                Code::NotEnrolled,
                "this code",
                format!("it enrolls a {}, not a {}", code.role, self.role),
                &format!("Run: {program} up CODE"),
            ));
        }
        let signer = KeyStore::new(self.dir)
            .load_or_create(KeyAlgorithm::of_leaf(self.role))
            .map_err(|error| Failure::new(Code::Storage, error.to_string()))?;
        let clock = Clock::system();
        let (tls, pinned) = tls::enroll_client(code.root, Arc::new(clock));
        let connected = self.reach(code, &tls).await?;
        let public_key = signer.public_key().to_vec();
        let proof = signer
            .sign(&proof_message(&connected.exporter, &public_key))
            .map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        let request = EnrollRequest {
            version: PROTOCOL_VERSION,
            program: PROGRAM_VERSION.to_owned(),
            invite: code.secret.clone(),
            role: self.role,
            name: self.name.clone(),
            os: std::env::consts::OS.to_owned(),
            public_key: Blob(public_key),
            proof: Blob(proof),
            report: self.report(clock).await?,
        };
        let enrolled = ask(connected, &request).await?;
        let trust = pinned
            .trust()
            .ok_or_else(|| theirs("it did not prove who it is"))?;
        check(&enrolled, &trust, signer.public_key(), self.role, clock)?;
        let ledger_key = enrolled
            .ledger_key
            .as_ref()
            .try_into()
            .map_err(|_| theirs("its ledger key is not 32 bytes"))?;
        let node = Node::enrolled(enrolled, ledger_key, trust, signer);
        node.save(self.dir).map_err(|error| error.failure())?;
        Ok(node)
    }

    /// Connects to the first of the code's controllers that answers.
    async fn reach(
        &self,
        code: &InviteCode,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<Connected, Failure> {
        let seed = invite_seed(&key::digest(&code.secret.0));
        let caller = Caller::new(&seed, &code.root, ClockOffset::default());
        let caller = caller.with_pass(code.pass.clone());
        let mut last = None;
        let fronts: Vec<String> = detour::fronts(&code.addresses)
            .map(ToOwned::to_owned)
            .collect();
        for address in detour::plain(&code.addresses) {
            let to = Destination {
                address: address.to_owned(),
                fronts: fronts.clone(),
                proxy: self.proxy.clone(),
            };
            match dial_twice(&to, tls, &caller).await {
                Ok(dialed) => return Ok(dialed.connected),
                Err(error) => last = Some((address, error)),
            }
        }
        let tried = code.addresses.len() - fronts.len();
        Err(match last {
            Some((address, error)) => {
                unreachable_failure(address, (tried, !fronts.is_empty()), &error)
            }
            None => Failure::of(
                Code::NotEnrolled,
                "this code",
                "it names no controller",
                "Ask an admin for a new one: cardeactl invite",
            ),
        })
    }

    /// A device's facts, read on a thread that may block.
    async fn report(&self, clock: Clock) -> Result<Option<Report>, Failure> {
        let Some(settings) = self.posture.clone() else {
            return Ok(None);
        };
        let collected = tokio::task::spawn_blocking(move || Posture::new(settings).collect())
            .await
            .map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        let now = clock.now();
        let facts: BTreeMap<_, _> = collected
            .into_iter()
            .map(|fact| (fact.name.clone(), fact.fact(now.instant)))
            .collect();
        Ok(Some(Report {
            counter: 1,
            nonce: Bytes([0; 16]),
            clock: now.unix,
            facts,
        }))
    }
}

/// Sends the request and waits for its one answer.
async fn ask(connected: Connected, request: &EnrollRequest) -> Result<Enrolled, Failure> {
    let Connected {
        address, mut link, ..
    } = connected;
    let lost = |error: &dyn std::fmt::Display| {
        Failure::of(
            Code::NotReachable,
            &format!("controller {address}"),
            error,
            "Try again with the same code; when it was used, ask for another",
        )
    };
    link.sender.send(request).map_err(|error| lost(&error))?;
    let answer = tokio::time::timeout(ANSWER_TIME, link.receiver.receive::<EnrollAnswer>())
        .await
        .map_err(|_| lost(&"no answer in time"))?
        .map_err(|error| lost(&error))?
        .ok_or_else(|| lost(&"it ended the connection without an answer"))?;
    link.sender.close(CloseCode::Done, "enrolled");
    match answer {
        EnrollAnswer::Enrolled(enrolled) => Ok(*enrolled),
        EnrollAnswer::Refused(refusal) => Err(refusal.into()),
    }
}

/// Nothing is kept that would not work: the certificate must be ours, and good at this moment.
fn check(
    enrolled: &Enrolled,
    trust: &Trust,
    public_key: &[u8],
    role: Role,
    clock: Clock,
) -> Result<(), Failure> {
    let leaf = trust
        .verify(&enrolled.certificate.chain, clock.now().unix)
        .map_err(|error| {
            Failure::of(
                Code::NotReachable,
                "the certificate that was issued does not hold here",
                error,
                "Compare this machine's clock with the controller's",
            )
        })?;
    let expected = Identity {
        domain: enrolled.domain.clone(),
        holder: Holder::from(enrolled.node),
    };
    let ours = leaf.identity == expected
        && leaf.key == key::digest(public_key)
        && expected.holder.role() == role
        && trust.domain() == &enrolled.domain;
    if ours {
        Ok(())
    } else {
        Err(theirs("it issued a certificate for somebody else"))
    }
}

/// An answer that no sound controller gives. The controller is at fault.
fn theirs(why: &str) -> Failure {
    Failure::of(
        Code::Failed,
        "the controller's answer is not to be used",
        why,
        "Nothing was kept. Ask an admin to look at the controller, and for a new code: cardeactl invite",
    )
}

/// What a person sees when no controller of a code can be talked to.
///
/// TLS reports its reasons as text, from which the two that a person can act on are told apart.
fn unreachable_failure(
    address: &str,
    (tried, has_front): (usize, bool),
    error: &DialError,
) -> Failure {
    let text = error.to_string();
    if text.contains("not the one that the code names") || text.contains("OtherRoot") {
        return Failure::of(
            Code::NotEnrolled,
            "this code",
            format!("it is for another controller than the one at {address}"),
            "Ask an admin of this controller for a code: cardeactl invite",
        );
    }
    if let Some(off) = ClockOff::of(&text) {
        return Failure::of(
            Code::NotReachable,
            &format!("controller {address}"),
            format!(
                "its certificate does not hold at the time of this machine, \
                 whose clock is {off} the controller's"
            ),
            "Set the clock, then try again",
        );
    }
    let noun = if tried == 1 { "address" } else { "addresses" };
    let (why, next) = match error {
        DialError::Channel(ChannelError::NoAnswer(_)) => ("no answer".to_owned(), NO_ANSWER_NEXT),
        DialError::Front(error) if error.is_told() => (text, IN_THE_WAY_NEXT),
        DialError::Channel(_) | DialError::NotResolved { .. } | DialError::Front(_) => (
            text,
            "Check the network and the controller, then try again with the same code",
        ),
    };
    Failure::of(
        Code::NotReachable,
        &format!(
            "controller {address} not reachable ({tried} {noun} tried, UDP{})",
            if has_front { " and TLS" } else { "" }
        ),
        why,
        next,
    )
}

/// What may be wrong when nothing comes back: a controller does not tell, it is silent to all of them.
const NO_ANSWER_NEXT: &str = "A controller is silent to whoever has no good code. \
    Check that this machine's clock is right, that UDP reaches the address, \
    and with an admin that it is the controller's and that the code was not used, expired or taken back";

/// What to do about who stands between: a proxy that refuses, or one that reads along.
const IN_THE_WAY_NEXT: &str = "Check the name and the password in HTTPS_PROXY, and whether this network reads along; \
    NO_PROXY names what is reached without a proxy. Then try again with the same code";

/// Connects, and begins anew beside that when nobody answers soon.
async fn dial_twice(
    to: &Destination,
    tls: &Arc<rustls::ClientConfig>,
    caller: &Caller,
) -> Result<Dialed, DialError> {
    let mut first = std::pin::pin!(dial(to, tls, caller));
    if let Ok(dialed) = tokio::time::timeout(KNOCK_AGAIN, &mut first).await {
        return dialed;
    }
    let mut second = std::pin::pin!(dial(to, tls, caller));
    tokio::select! {
        dialed = &mut first => match dialed {
            Ok(dialed) => Ok(dialed),
            Err(_) => second.await,
        },
        dialed = &mut second => match dialed {
            Ok(dialed) => Ok(dialed),
            Err(_) => first.await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn who_hears_nothing_knocks_with_another_knock_before_giving_up() {
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = Destination {
            address: silent.local_addr().unwrap().to_string(),
            fronts: Vec::new(),
            proxy: None,
        };
        let (tls, _) = tls::enroll_client(Bytes([7; 32]), Arc::new(Clock::system()));
        let caller = Caller::new(
            &invite_seed(&Bytes([1; 32])),
            &Bytes([7; 32]),
            ClockOffset::default(),
        );
        let heard = async {
            let mut knocks = BTreeSet::new();
            let mut datagram = [0; 2_048];
            while knocks.len() < 2 {
                let length = silent.recv(&mut datagram).await.unwrap();
                // RFC 9000 §17.2: where the destination connection id of a long header stands.
                knocks.insert(datagram[6..length][..usize::from(datagram[5])].to_vec());
            }
        };
        tokio::select! {
            () = heard => {}
            dialed = dial_twice(&to, &tls, &caller) => panic!("{:?}", dialed.map(|_| ())),
        }
    }

    #[test]
    fn a_code_of_another_controller_is_told_from_one_that_does_not_answer() {
        let other = DialError::Channel(ChannelError::Closed(
            "the root certificate is not the one that the code names".to_owned(),
        ));
        let failure = unreachable_failure("h:1", (1, false), &other);
        assert_eq!(failure.code, 4);
        assert!(failure.message.contains("another controller"));
        // It cannot tell itself: everything that it may be stands there.
        let silent = DialError::Channel(ChannelError::NoAnswer(ANSWER_TIME));
        let failure = unreachable_failure("h:1", (1, false), &silent);
        assert_eq!(failure.code, 5);
        assert!(
            failure
                .message
                .contains("h:1 not reachable (1 address tried, UDP): no answer")
        );
        for cause in ["clock", "UDP", "address", "used", "expired"] {
            assert!(failure.message.contains(cause), "{}", failure.message);
        }
    }
}
