//! A controller that says what a test wants, and an admin before it.

use std::{
    io::{Cursor, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use cardea_credential::{
    admin::{admin_public_key, verify_change},
    key::{KeyAlgorithm, SoftwareKey},
    pem,
};
use cardea_host::frame;
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminHello, AdminQuery, AdminRequest, DeviceRow, GrantRow},
    app::Carrier,
    codec::{Bytes, MESSAGE_BYTES_MAX_ADMIN},
    id::{ControllerId, DeviceId, GrantId},
    ledger::{Actor, Change, Draft, Entry, Revision},
    policy::{PolicyEffect, PolicyFile, PolicyTestResult},
    time::UnixMillis,
};
use clap::Parser;

use crate::{args::Cli, console::Console, run::run};

const NONCE: Bytes<16> = Bytes([7; 16]);

/// A controller and an admin's key.
pub(super) struct World {
    pub(super) place: tempfile::TempDir,
    pub(super) changes: Arc<Mutex<Vec<AdminChange>>>,
    _thread: JoinHandle<()>,
}

pub(super) struct Outcome {
    pub(super) code: u8,
    pub(super) data: String,
    pub(super) talk: String,
}

impl World {
    pub(super) fn new(answer: impl Fn(&AdminRequest) -> AdminAnswer + Send + 'static) -> Self {
        let place = tempfile::tempdir().unwrap();
        let key = SoftwareKey::generate(KeyAlgorithm::Ed25519).unwrap();
        let public = admin_public_key(&key).unwrap();
        let path = place.path().join("keys/admin.key");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let text = pem::encode(pem::PRIVATE_KEY, &key.to_pkcs8().unwrap());
        std::fs::write(&path, text.as_bytes()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let listener = UnixListener::bind(place.path().join("admin.sock")).unwrap();
        let changes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&changes);
        let thread = std::thread::spawn(move || serve(&listener, &public, &seen, answer));
        Self {
            place,
            changes,
            _thread: thread,
        }
    }

    pub(super) fn run(&self, line: &str, input: &str) -> Outcome {
        self.run_words(&line.split(' ').collect::<Vec<&str>>(), input, false)
    }

    pub(super) fn run_at_terminal(&self, line: &str, input: &str) -> Outcome {
        self.run_words(&line.split(' ').collect::<Vec<&str>>(), input, true)
    }

    pub(super) fn run_words(&self, words: &[&str], input: &str, interactive: bool) -> Outcome {
        let admin = format!("unix:{}", self.place.path().join("admin.sock").display());
        let words = [words, &["--admin", &admin]].concat();
        outcome(&words, input, interactive)
    }

    pub(super) fn changes(&self) -> Vec<AdminChange> {
        self.changes.lock().unwrap().clone()
    }

    pub(super) fn policy_folder(&self) -> String {
        let dir = self.place.path().join("policy");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("rules.cedar"), "permit").unwrap();
        dir.display().to_string()
    }
}

/// Greets, then answers; a follower gets one answer and the end.
pub(super) fn serve(
    listener: &UnixListener,
    public: &[u8; 32],
    changes: &Mutex<Vec<AdminChange>>,
    answer: impl Fn(&AdminRequest) -> AdminAnswer,
) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let hello = AdminHello {
            version: 1,
            domain: "corp.example".parse().unwrap(),
            controller: ControllerId::from_bytes([1; 10]),
            root: Bytes([2; 32]),
            addresses: vec!["ztna.corp.example:7443".to_owned()],
            nonce: NONCE,
            pass: None,
        };
        frame::write_sync(&mut stream, &hello).unwrap();
        let mut sequence = 0;
        while let Ok(request) =
            frame::read_sync::<AdminRequest>(&mut stream, MESSAGE_BYTES_MAX_ADMIN)
        {
            if let AdminRequest::Change(signed) = &request {
                let order = verify_change(public, signed).unwrap();
                sequence += 1;
                assert_eq!((order.nonce, order.sequence), (NONCE, sequence));
                assert_eq!(order.domain.as_str(), "corp.example");
                changes.lock().unwrap().push(order.change);
            }
            frame::write_sync(&mut stream, &answer(&request)).unwrap();
            if matches!(request, AdminRequest::Query(AdminQuery::AuditFollow { .. })) {
                break;
            }
        }
    }
}

pub(super) fn outcome(words: &[&str], input: &str, interactive: bool) -> Outcome {
    let (data, talk) = (Shared::default(), Shared::default());
    let mut console = Console::new(
        Box::new(data.clone()),
        Box::new(talk.clone()),
        Box::new(Cursor::new(input.to_owned().into_bytes())),
        interactive,
    );
    let cli = Cli::try_parse_from([&["cardeactl"], words].concat()).unwrap();
    let code = match run(cli, &mut console) {
        Ok(()) => 0,
        Err(failure) => {
            console.say(&failure.message);
            failure.code
        }
    };
    Outcome {
        code,
        data: data.text(),
        talk: talk.text(),
    }
}

#[derive(Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn policies(
    request: &AdminRequest,
    passes: bool,
    effects: Vec<PolicyEffect>,
) -> AdminAnswer {
    match request {
        AdminRequest::Query(AdminQuery::PolicyRecommended) => {
            AdminAnswer::PolicyFiles(vec![PolicyFile {
                path: "base.cedar".to_owned(),
                text: "permit".to_owned(),
            }])
        }
        AdminRequest::Query(AdminQuery::PolicyCheck(_)) => AdminAnswer::PolicyProblems(Vec::new()),
        AdminRequest::Query(AdminQuery::PolicyTest(_)) => {
            AdminAnswer::PolicyTests(vec![PolicyTestResult {
                path: "rules.test.toml".to_owned(),
                name: "staff".to_owned(),
                passed: passes,
                detail: None,
            }])
        }
        AdminRequest::Query(AdminQuery::PolicyDiff(_)) => AdminAnswer::PolicyEffects {
            effects,
            unjudged: Vec::new(),
        },
        AdminRequest::Query(AdminQuery::Impact(_)) => AdminAnswer::Impact { closes: 2 },
        AdminRequest::Change(_) => done("policy applied", 2),
        AdminRequest::Query(_) => panic!("{request:?}"),
    }
}

pub(super) fn done(message: &str, closed: u32) -> AdminAnswer {
    AdminAnswer::Done {
        revision: Revision(9),
        message: message.to_owned(),
        closed,
    }
}

pub(super) fn device_id(byte: u8) -> DeviceId {
    DeviceId::from_bytes([byte; 10])
}

pub(super) fn device(name: &str, id: u8) -> DeviceRow {
    use cardea_proto::{
        decision::Check,
        posture::{Fact, Grade, Reading, Value},
    };
    let fact = Fact {
        reading: Reading::Value(Value::Bool(false)),
        grade: Grade::Os,
        age_ms: 2_500,
    };
    DeviceRow {
        id: device_id(id),
        name: name.parse().unwrap(),
        user: "alice".parse().unwrap(),
        state: "connected".to_owned(),
        compliant: Some(false),
        failed: vec![Check {
            subject: "disk.encrypted".to_owned(),
            observed: "false".to_owned(),
            needed: "true".to_owned(),
            rule: "base/certify".to_owned(),
            remedy: None,
        }],
        why: None,
        checked_at: None,
        last_seen: Some("2026-01-01T00:00:00Z".to_owned()),
        certificate_not_after: None,
        program: Some("0.1.0".to_owned()),
        os: "linux".to_owned(),
        facts: [("disk.encrypted".to_owned(), fact)].into(),
    }
}

pub(super) fn grant() -> GrantRow {
    GrantRow {
        id: GrantId::from_bytes([3; 10]),
        name: "wiki for alice".to_owned(),
        user: "alice".parse().unwrap(),
        device: "laptop".parse().unwrap(),
        app: "wiki".parse().unwrap(),
        connector: "rack".parse().unwrap(),
        carrier: Carrier::WireGuard,
        state: "open".to_owned(),
        since: "2026-01-01T00:00:00Z".to_owned(),
        ttl_s: 300,
        revision: Revision(8),
        rules: vec!["links/wiki".to_owned()],
    }
}

pub(super) fn entry(revision: u64) -> Entry {
    Entry {
        revision: Revision(revision),
        previous: Bytes([0; 32]),
        draft: Draft {
            at: UnixMillis(1_767_225_600_000),
            actor: Actor::Stranger("10.0.0.9:1".to_owned()),
            changes: vec![Change::SiteAdded("office".parse().unwrap())],
            decision: None,
            signed: None,
        },
    }
}
