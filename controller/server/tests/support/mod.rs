//! A trust domain on loopback, and the people and nodes who talk to it.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use cardea_credential::{
    admin::sign_change,
    authority::Intermediate,
    key::{self, KeyAlgorithm, Signer, SoftwareKey},
    knock::invite_seed,
    pem,
    proof::proof_message,
    tls::{channel_client, enroll_client, renewal_client},
    trust::Trust,
};
use cardea_host::{
    channel::{Caller, ChannelError, Client, Connected},
    clock::Clock,
    entropy,
    files::StateDir,
    frame,
    unix::UnixStream,
};
use cardea_proto::{
    PROGRAM_VERSION, PROTOCOL_VERSION,
    admin::{AdminAnswer, AdminChange, AdminHello, AdminQuery, AdminRequest, ChangeOrder},
    codec::{Blob, Bytes, Digest, MESSAGE_BYTES_MAX_ADMIN, Secret32},
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    id::InviteId,
    identity::Role,
    ledger::{Admits, Change, Entry, RefusedRecord, Revision},
    message::{FromNode, Hello, ToNode},
    posture::{Fact, Grade, Reading, Report, Value},
    time::ClockOffset,
};
use cardea_server::{
    config::{Config, Settings},
    founding,
    seal::Seal,
    serve::Service,
};
use tokio::{sync::oneshot, task::JoinHandle};

/// How long anything on loopback may take.
pub(crate) const TIME: Duration = Duration::from_secs(20);

/// A controller that serves in this process.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl World {
    /// Founds a trust domain and serves it.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        founding::found(&state, &Seal::default(), &config()).unwrap();
        drop(state);
        Self::serve(folder)
    }

    /// Serves the trust domain of a folder.
    pub(crate) fn serve(folder: tempfile::TempDir) -> Self {
        let state = StateDir::open(folder.path()).unwrap();
        let settings = Settings::of(config()).unwrap();
        let service = Service::start(state, &Seal::default(), &settings).unwrap();
        let address = service.listening();
        assert!(service.relay().is_some());
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(async {
            let stopped = async { drop(stopped.await) };
            service.run(stopped).await.unwrap();
        });
        Self {
            folder,
            address,
            stop,
            served,
        }
    }

    /// Stops in order and gives back the folder.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.stop.send(()).unwrap();
        tokio::time::timeout(TIME, self.served)
            .await
            .unwrap()
            .unwrap();
        self.folder
    }

    /// What signs certificates here.
    pub(crate) fn intermediate(&self) -> Intermediate {
        let read = |name, label| {
            let text = std::fs::read_to_string(self.folder.path().join("ca").join(name)).unwrap();
            pem::decode(label, &text).unwrap()
        };
        let certificate = read("intermediate.crt", pem::CERTIFICATE);
        let key = SoftwareKey::from_pkcs8(&read("intermediate.key", pem::PRIVATE_KEY)).unwrap();
        Intermediate::load(certificate.to_vec(), Arc::new(key)).unwrap()
    }

    /// A connection of the admin.
    pub(crate) async fn admin(&self) -> Admin {
        Admin::connect(self.folder.path()).await
    }
}

fn config() -> Config {
    toml::from_str(
        "domain = \"corp.example\"\nadvertise = [\"127.0.0.1\"]\nlisten = \"127.0.0.1:0\"\n\
         [relay]\nembedded = true\nlisten = \"127.0.0.1:0\"\n",
    )
    .unwrap()
}

/// A connection to `admin.sock`.
pub(crate) struct Admin {
    pub(crate) stream: UnixStream,
    pub(crate) hello: AdminHello,
    key: SoftwareKey,
    sequence: u64,
}

impl Admin {
    pub(crate) async fn connect(state: &Path) -> Self {
        let mut stream = UnixStream::connect(state.join("admin.sock")).await.unwrap();
        let hello = frame::read_within(&mut stream, MESSAGE_BYTES_MAX_ADMIN, TIME);
        let hello = hello.await.unwrap();
        let text = std::fs::read_to_string(state.join("keys/admin.key")).unwrap();
        let pkcs8 = pem::decode(pem::PRIVATE_KEY, &text).unwrap();
        Self {
            stream,
            hello,
            key: SoftwareKey::from_pkcs8(&pkcs8).unwrap(),
            sequence: 0,
        }
    }

    /// Signs with another key from here on.
    pub(crate) fn sign_with(&mut self, key: SoftwareKey) {
        self.key = key;
    }

    pub(crate) async fn query(&mut self, query: AdminQuery) -> AdminAnswer {
        self.say(&AdminRequest::Query(query)).await;
        self.hear().await
    }

    pub(crate) async fn change(&mut self, change: AdminChange) -> AdminAnswer {
        self.sequence += 1;
        let order = ChangeOrder {
            domain: self.hello.domain.clone(),
            nonce: self.hello.nonce,
            sequence: self.sequence,
            at: Clock::system().now().unix,
            change,
        };
        let signed = sign_change(&order, &self.key).unwrap();
        self.say(&AdminRequest::Change(signed)).await;
        self.hear().await
    }

    pub(crate) async fn say(&mut self, request: &AdminRequest) {
        frame::write_within(&mut self.stream, request, TIME)
            .await
            .unwrap();
    }

    pub(crate) async fn hear(&mut self) -> AdminAnswer {
        let answer = frame::read_within(&mut self.stream, MESSAGE_BYTES_MAX_ADMIN, TIME);
        answer.await.unwrap()
    }

    /// All entries.
    pub(crate) async fn entries(&mut self) -> Vec<Entry> {
        let from = Revision(1);
        let answer = self.query(AdminQuery::Audit { from, limit: 1_000 }).await;
        let AdminAnswer::Entries(entries) = answer else {
            panic!("{answer:?}");
        };
        entries
    }

    /// Waits for a refusal on record: an entry follows its answer.
    pub(crate) async fn refusal(&mut self, is_it: impl Fn(&RefusedRecord) -> bool) -> Entry {
        let deadline = tokio::time::Instant::now() + TIME;
        loop {
            let entries = self.entries().await;
            let has_it = |entry: &Entry| {
                entry
                    .draft
                    .changes
                    .iter()
                    .any(|change| matches!(change, Change::Refused(record) if is_it(record)))
            };
            if let Some(entry) = entries.iter().find(|entry| has_it(entry)) {
                return entry.clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "{entries:#?}");
        }
    }

    /// A code for one node.
    pub(crate) async fn invite(&mut self, admits: Admits) -> Code {
        let secret: [u8; 32] = entropy::seed();
        let answer = self.change(AdminChange::InviteCreate {
            id: InviteId::from_bytes(entropy::bytes()),
            secret_hash: key::digest(&secret),
            admits: admits.clone(),
            life_s: 3_600,
        });
        let answer = answer.await;
        assert!(matches!(answer, AdminAnswer::Done { .. }), "{answer:?}");
        Code {
            secret,
            role: admits.role(),
            root: self.hello.root,
        }
    }

    pub(crate) async fn invite_connector(&mut self) -> Code {
        let site = "default".parse().unwrap();
        self.invite(Admits::Connector { site }).await
    }
}

/// What an invite code holds.
#[derive(Clone)]
pub(crate) struct Code {
    pub(crate) secret: [u8; 32],
    pub(crate) role: Role,
    pub(crate) root: Digest,
}

/// An enrolled node with its key.
pub(crate) struct Node {
    pub(crate) enrolled: Enrolled,
    pub(crate) key: Arc<SoftwareKey>,
}

/// Enrolls a node under a fresh key.
pub(crate) async fn enroll(
    address: SocketAddr,
    code: &Code,
    name: &str,
) -> Result<Node, EnrollAnswer> {
    let connected = knock(address, code, TIME).await.unwrap();
    enroll_over(connected, code, name).await
}

/// Connects as the holder of a code.
pub(crate) async fn knock(
    address: SocketAddr,
    code: &Code,
    time: Duration,
) -> Result<Connected, ChannelError> {
    let (tls, _) = enroll_client(code.root, Arc::new(Clock::system()));
    Client::connect(address, tls, &holder(code), time).await
}

/// Enrolls a node under a fresh key over a connection that is up.
pub(crate) async fn enroll_over(
    connected: Connected,
    code: &Code,
    name: &str,
) -> Result<Node, EnrollAnswer> {
    let (request, key) = request(&connected, code, name);
    let mut link = connected.link;
    link.sender.send(&request).unwrap();
    let answer = link
        .receiver
        .receive::<EnrollAnswer>()
        .await
        .unwrap()
        .unwrap();
    match answer {
        EnrollAnswer::Enrolled(enrolled) => Ok(Node {
            enrolled: *enrolled,
            key,
        }),
        refused @ EnrollAnswer::Refused(_) => Err(refused),
    }
}

/// What a node asks for over a connection, and its fresh key.
pub(crate) fn request(
    connected: &Connected,
    code: &Code,
    name: &str,
) -> (EnrollRequest, Arc<SoftwareKey>) {
    let key = Arc::new(SoftwareKey::generate(KeyAlgorithm::P256).unwrap());
    let exporter = connected.exporter;
    let request = EnrollRequest {
        version: PROTOCOL_VERSION,
        program: PROGRAM_VERSION.to_owned(),
        invite: Secret32(code.secret),
        role: code.role,
        name: name.parse().unwrap(),
        os: "linux".to_owned(),
        public_key: key.public_key().to_vec().into(),
        proof: key
            .sign(&proof_message(&exporter, key.public_key()))
            .unwrap()
            .into(),
        report: (code.role == Role::Device).then(|| report(exporter)),
    };
    (request, key)
}

/// What whoever holds a code knocks with.
pub(crate) fn holder(code: &Code) -> Caller {
    let seed = invite_seed(&key::digest(&code.secret));
    Caller::new(&seed, &code.root, ClockOffset::default())
}

/// The report of a device that the default policy certifies.
fn report(exporter: [u8; 32]) -> Report {
    let fact = |value| Fact {
        reading: Reading::Value(value),
        grade: Grade::Os,
        age_ms: 0,
    };
    let facts = [
        ("agent.version", Value::Text(PROGRAM_VERSION.to_owned())),
        ("os.name", Value::Text("linux".to_owned())),
    ];
    let [nonce @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = exporter;
    Report {
        counter: 1,
        nonce: Bytes(nonce),
        clock: Clock::system().now().unix,
        facts: facts
            .map(|(name, value)| (name.to_owned(), fact(value)))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    }
}

impl Node {
    /// What it trusts.
    pub(crate) fn trust(&self) -> Trust {
        let Enrolled { domain, root, .. } = &self.enrolled;
        Trust::new(domain.clone(), root.0.clone()).unwrap()
    }

    fn signer(&self) -> Arc<dyn Signer> {
        Arc::<SoftwareKey>::clone(&self.key)
    }
}

/// Opens a node's channel and says hello.
pub(crate) async fn hello(
    address: SocketAddr,
    node: &Node,
) -> Result<(Connected, ToNode), ChannelError> {
    show(address, node, &node.enrolled.certificate.chain).await
}

/// The same with a certificate that it was not given.
pub(crate) async fn show(
    address: SocketAddr,
    node: &Node,
    chain: &[Blob],
) -> Result<(Connected, ToNode), ChannelError> {
    let time = Arc::new(Clock::system());
    let tls = channel_client(node.trust(), chain, node.signer(), time);
    hello_over(address, node, tls).await
}

/// Asks for the next certificate with one that may have ended: hello, and no more.
pub(crate) async fn renew(
    address: SocketAddr,
    node: &Node,
    chain: &[Blob],
) -> Result<(Connected, ToNode), ChannelError> {
    let time = Arc::new(Clock::system());
    let tls = renewal_client(node.trust(), chain, node.signer(), time);
    hello_over(address, node, tls).await
}

async fn hello_over(
    address: SocketAddr,
    node: &Node,
    tls: Arc<rustls::ClientConfig>,
) -> Result<(Connected, ToNode), ChannelError> {
    let seed = &node.enrolled.certificate.knock;
    let caller = Caller::new(seed, &node.trust().root_digest(), ClockOffset::default());
    let mut connected = Client::connect(address, tls, &caller, TIME).await?;
    let hello = FromNode::Hello(Hello {
        version: PROTOCOL_VERSION,
        program: PROGRAM_VERSION.to_owned(),
        clock: Clock::system().now().unix,
        grants: Vec::new(),
        checkpoint: None,
    });
    connected.link.sender.send(&hello)?;
    let answer = connected.link.receiver.receive().await?;
    Ok((connected, answer.unwrap()))
}
