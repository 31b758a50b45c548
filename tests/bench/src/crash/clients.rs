//! Clients that speak the real protocol and do nothing else: many of them fit into one process.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use cardea_credential::{
    admin::sign_change,
    key::{self, KeyAlgorithm, Signer, SoftwareKey},
    knock::invite_seed,
    pem,
    proof::proof_message,
    signed::{offer_digest, sign_answer, sign_offer},
    tls::{channel_client, enroll_client},
    trust::Trust,
};
use cardea_host::{
    channel::{Caller, Client, Connected},
    clock::Clock,
    entropy, frame,
    unix::UnixStream,
};
use cardea_proto::{
    PROGRAM_VERSION, PROTOCOL_VERSION,
    access::{Answer, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, Offer},
    admin::{AdminAnswer, AdminChange, AdminHello, AdminQuery, AdminRequest, ChangeOrder},
    codec::{Bytes, Digest, MESSAGE_BYTES_MAX_ADMIN, Secret32},
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::{GrantId, InviteId, NodeId},
    identity::Role,
    ledger::Admits,
    message::{FromNode, Hello, ToNode},
    posture::{Fact, Grade, Reading, Report, Value},
    time::ClockOffset,
};

use super::facts::{self, Facts};

/// How long anything may take before it counts as lost with its controller.
const TIME: Duration = Duration::from_secs(3);

/// What all clients share.
pub(super) struct Shared {
    pub(super) state: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) facts: Facts,
}

/// Serves every grant until its controller dies.
pub(super) async fn connector(shared: Arc<Shared>) {
    drop(serve(&shared).await);
}

/// Enrolls one device after the other, renews, opens and revokes, until the controller dies.
pub(super) async fn device(shared: Arc<Shared>, number: usize) {
    drop(live(&shared, number).await);
}

/// Codes that have admitted somebody admit nobody else, whatever happened since.
pub(super) async fn try_used_codes(shared: &Shared) {
    let Some((name, code)) = shared.facts.some_used_code() else {
        return;
    };
    if let Ok(Ok(_)) = enroll(shared.address, &code, "again").await {
        shared.facts.misuse(name);
    }
}

async fn serve(shared: &Shared) -> Result<()> {
    let mut admin = Admin::connect(&shared.state).await?;
    let site = "default".parse()?;
    let (id, code) = admin
        .invite(&shared.facts, Admits::Connector { site })
        .await?;
    let node = admit(shared, &id, &code, "front").await?;
    let mut link = node.connect(shared.address).await?;
    loop {
        if let ToNode::Admit(admit) = link.hear().await? {
            let NodeId::Connector(connector) = node.enrolled.node else {
                bail!("no connector");
            };
            let answer = Answer {
                connector,
                grant: admit.grant,
                offer: offer_digest(&admit.offer),
                wireguard: Bytes(entropy::seed()),
                kem: vec![5; KEM_CIPHERTEXT_BYTES].into(),
                candidates: Vec::new(),
            };
            let chain = &node.enrolled.certificate.chain;
            let answer = sign_answer(&answer, chain, node.key.as_ref())?;
            let grant = admit.grant;
            link.say(&FromNode::Admitted { grant, answer })?;
        }
    }
}

async fn live(shared: &Shared, number: usize) -> Result<()> {
    let mut admin = Admin::connect(&shared.state).await?;
    loop {
        let admits = Admits::Device {
            user: format!("user-{number}").parse()?,
            groups: ["staff".parse()?].into(),
        };
        let (id, code) = admin.invite(&shared.facts, admits).await?;
        let node = admit(shared, &id, &code, "laptop").await?;
        let mut link = node.connect(shared.address).await?;
        let serial = link.renew(&node).await?;
        shared.facts.acknowledge(facts::certified(&serial));
        if let Some(grant) = link.open(&node).await? {
            shared.facts.acknowledge(facts::granted(&grant));
            admin.change(AdminChange::GrantRevoke(grant)).await?;
            shared.facts.acknowledge(facts::ended(&grant));
        }
    }
}

/// Enrolls once, notes what was told, and tries the code again.
async fn admit(shared: &Shared, id: &InviteId, code: &Code, name: &str) -> Result<Node> {
    let node = match enroll(shared.address, code, name).await? {
        Ok(node) => node,
        Err(refused) => bail!("{refused:?}"),
    };
    shared
        .facts
        .acknowledge(facts::enrolled(&node.enrolled.node));
    shared
        .facts
        .acknowledge(facts::certified(&node.enrolled.certificate.serial));
    shared.facts.used(id.to_string(), code.clone());
    if let Ok(Ok(_)) = enroll(shared.address, code, name).await {
        shared.facts.misuse(id.to_string());
    }
    Ok(node)
}

/// A connection to `admin.sock`.
pub(crate) struct Admin {
    stream: UnixStream,
    hello: AdminHello,
    key: SoftwareKey,
    sequence: u64,
}

impl Admin {
    pub(crate) async fn connect(state: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(state.join("admin.sock")).await?;
        let hello = frame::read_within(&mut stream, MESSAGE_BYTES_MAX_ADMIN, TIME).await?;
        let text = std::fs::read_to_string(state.join("keys/admin.key"))?;
        let pkcs8 = pem::decode(pem::PRIVATE_KEY, &text)?;
        Ok(Self {
            stream,
            hello,
            key: SoftwareKey::from_pkcs8(&pkcs8)?,
            sequence: 0,
        })
    }

    pub(super) async fn query(&mut self, query: AdminQuery) -> Result<AdminAnswer> {
        self.ask(&AdminRequest::Query(query)).await
    }

    /// Has a change done; `Ok` means that it was acknowledged.
    async fn change(&mut self, change: AdminChange) -> Result<()> {
        self.sequence += 1;
        let order = ChangeOrder {
            domain: self.hello.domain.clone(),
            nonce: self.hello.nonce,
            sequence: self.sequence,
            at: Clock::system().now().unix,
            change,
        };
        let signed = sign_change(&order, &self.key)?;
        match self.ask(&AdminRequest::Change(signed)).await? {
            AdminAnswer::Done { .. } => Ok(()),
            other => bail!("not done: {other:?}"),
        }
    }

    async fn ask(&mut self, request: &AdminRequest) -> Result<AdminAnswer> {
        frame::write_within(&mut self.stream, request, TIME).await?;
        Ok(frame::read_within(&mut self.stream, MESSAGE_BYTES_MAX_ADMIN, TIME).await?)
    }

    pub(crate) async fn invite(
        &mut self,
        facts: &Facts,
        admits: Admits,
    ) -> Result<(InviteId, Code)> {
        let secret: [u8; 32] = entropy::seed();
        let id = InviteId::from_bytes(entropy::bytes());
        let role = admits.role();
        self.change(AdminChange::InviteCreate {
            id,
            secret_hash: key::digest(&secret),
            admits,
            life_s: 3_600,
        })
        .await?;
        facts.acknowledge(facts::invited(&id));
        let root = self.hello.root;
        Ok((id, Code { secret, role, root }))
    }
}

/// What an invite code holds.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    secret: [u8; 32],
    role: Role,
    root: Digest,
}

/// An enrolled node with its key.
pub(crate) struct Node {
    pub(crate) enrolled: Enrolled,
    key: Arc<SoftwareKey>,
}

pub(crate) async fn enroll(
    address: SocketAddr,
    code: &Code,
    name: &str,
) -> Result<Result<Node, EnrollAnswer>> {
    let key = Arc::new(SoftwareKey::generate(KeyAlgorithm::P256)?);
    let (tls, _) = enroll_client(code.root, Arc::new(Clock::system()));
    let Connected {
        exporter, mut link, ..
    } = Client::connect(address, tls, &holder(code), TIME)
        .await
        .context("no connection")?;
    let [nonce @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = exporter;
    let request = EnrollRequest {
        version: PROTOCOL_VERSION,
        program: PROGRAM_VERSION.to_owned(),
        invite: Secret32(code.secret),
        role: code.role,
        name: name.parse()?,
        os: "linux".to_owned(),
        public_key: key.public_key().to_vec().into(),
        proof: key
            .sign(&proof_message(&exporter, key.public_key()))?
            .into(),
        report: (code.role == Role::Device).then(|| report(1, Bytes(nonce))),
    };
    link.sender.send(&request)?;
    let answer = tokio::time::timeout(TIME, link.receiver.receive::<EnrollAnswer>());
    match answer.await??.context("no answer")? {
        EnrollAnswer::Enrolled(enrolled) => Ok(Ok(Node {
            enrolled: *enrolled,
            key,
        })),
        refused @ EnrollAnswer::Refused(_) => Ok(Err(refused)),
    }
}

/// What whoever holds a code knocks with.
fn holder(code: &Code) -> Caller {
    let seed = invite_seed(&key::digest(&code.secret));
    Caller::new(&seed, &code.root, ClockOffset::default())
}

/// The report of a device that the default policy certifies.
fn report(counter: u64, nonce: Bytes<16>) -> Report {
    let fact = |value| Fact {
        reading: Reading::Value(value),
        grade: Grade::Os,
        age_ms: 0,
    };
    let facts = [
        ("agent.version", Value::Text(PROGRAM_VERSION.to_owned())),
        ("os.name", Value::Text("linux".to_owned())),
    ];
    let facts = facts.map(|(name, value)| (name.to_owned(), fact(value)));
    Report {
        counter,
        nonce,
        clock: Clock::system().now().unix,
        facts: facts.into_iter().collect::<BTreeMap<_, _>>(),
    }
}

/// A node's open channel.
pub(crate) struct Link {
    connected: Connected,
}

impl Node {
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Link> {
        let Enrolled {
            domain,
            root,
            certificate,
            ..
        } = &self.enrolled;
        let trust = Trust::new(domain.clone(), root.0.clone())?;
        let signer: Arc<dyn Signer> = Arc::<SoftwareKey>::clone(&self.key);
        let caller = Caller::new(
            &certificate.knock,
            &trust.root_digest(),
            ClockOffset::default(),
        );
        let tls = channel_client(trust, &certificate.chain, signer, Arc::new(Clock::system()));
        let connected = Client::connect(address, tls, &caller, TIME).await?;
        let mut link = Link { connected };
        link.say(&FromNode::Hello(Hello {
            version: PROTOCOL_VERSION,
            program: PROGRAM_VERSION.to_owned(),
            clock: Clock::system().now().unix,
            grants: Vec::new(),
            checkpoint: None,
        }))?;
        loop {
            if let ToNode::Welcome(welcome) = link.hear().await? {
                if matches!(self.enrolled.node, NodeId::Device(_)) {
                    link.say(&FromNode::Report(report(2, welcome.nonce)))?;
                }
                return Ok(link);
            }
        }
    }
}

impl Link {
    fn say(&self, message: &FromNode) -> Result<()> {
        Ok(self.connected.link.sender.send(message)?)
    }

    pub(crate) async fn hear(&mut self) -> Result<ToNode> {
        let message = self.connected.link.receiver.receive::<ToNode>().await?;
        message.context("the channel ended")
    }

    /// The next certificate's serial number.
    async fn renew(&mut self, node: &Node) -> Result<String> {
        let public_key = node.key.public_key();
        let proof = node
            .key
            .sign(&proof_message(&self.connected.exporter, public_key))?;
        self.say(&FromNode::Renew {
            public_key: public_key.to_vec().into(),
            proof: proof.into(),
        })?;
        loop {
            match self.hear().await? {
                ToNode::Certificate(certificate) => return Ok(certificate.serial),
                ToNode::CertificateRefused(refusal) => bail!("{refusal}"),
                _ => {}
            }
        }
    }

    /// Opens the app; `None` when no connector is there yet.
    async fn open(&mut self, node: &Node) -> Result<Option<GrantId>> {
        let NodeId::Device(device) = node.enrolled.node else {
            bail!("no device");
        };
        let app: cardea_proto::name::Name = "wiki".parse()?;
        let offer = Offer {
            device,
            app: app.clone(),
            nonce: Bytes(entropy::bytes()),
            wireguard: Bytes(entropy::seed()),
            kem: vec![3; KEM_KEY_BYTES].into(),
            candidates: Vec::new(),
            packets: false,
            host: None,
        };
        let chain = &node.enrolled.certificate.chain;
        let offer = sign_offer(&offer, chain, node.key.as_ref())?;
        let request = 1;
        self.say(&FromNode::Request {
            request,
            app,
            offer,
        })?;
        loop {
            match self.hear().await? {
                ToNode::Granted(granted) => return Ok(Some(granted.grant)),
                ToNode::Denied { .. } => return Ok(None),
                _ => {}
            }
        }
    }
}
