//! The conversation with a controller: it greets, we ask, it answers.

use std::{
    io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use cardea_credential::{admin::sign_change, key::SoftwareKey, pem};
use cardea_host::{
    clock::Clock,
    exit::{Code, Failure, io_advice},
    files::read_named,
    frame::{self, FrameError},
    unix::{self, connect_sync},
};
use cardea_proto::{
    admin::{AdminAnswer, AdminChange, AdminHello, AdminQuery, AdminRequest, ChangeOrder},
    codec::{Bytes, Digest, MESSAGE_BYTES_MAX_ADMIN},
    enroll::Pass,
    id::ControllerId,
    ledger::{Entry, Revision},
    name::Name,
    refusal::Refusal,
};

use zeroize::Zeroizing;

use crate::config::Settings;

/// The admin protocol that this program speaks.
const VERSION: u16 = 1;

/// How long a controller may take to greet, and to answer from what it has in memory.
const PROMPT_TIME: Duration = Duration::from_secs(5);

/// How long it may take otherwise: the tests of a large policy folder are the slowest question, and
/// a change waits for a disk.
const PATIENT_TIME: Duration = Duration::from_secs(60);

/// Largest key file, in bytes.
const KEY_BYTES_MAX: u64 = 64 * 1024;

/// An open admin connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    hello: AdminHello,
    /// Counts the changes of this connection.
    sequence: u64,
    clock: Clock,
}

/// An [`AdminHello`], or the [`AdminAnswer::Refused`] that stands in its place for somebody who may
/// not administer.
#[derive(serde::Deserialize)]
struct Greeting {
    refused: Option<Refusal>,
    version: Option<u16>,
    domain: Option<Name>,
    controller: Option<ControllerId>,
    root: Option<Digest>,
    addresses: Option<Vec<String>>,
    nonce: Option<Bytes<16>>,
    pass: Option<Pass>,
}

impl Greeting {
    fn hello(self) -> Result<AdminHello, Failure> {
        if let Some(refusal) = self.refused {
            return Err(refusal.into());
        }
        let whole = || {
            Some(AdminHello {
                version: self.version?,
                domain: self.domain?,
                controller: self.controller?,
                root: self.root?,
                addresses: self.addresses?,
                nonce: self.nonce?,
                pass: self.pass,
            })
        };
        whole().ok_or_else(unexpected)
    }
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Done {
    /// Where it stands in the ledger.
    pub revision: Revision,
    /// What it did, in one line.
    pub message: String,
    /// Grants that it ended.
    pub closed: u32,
}

impl Connection {
    /// Connects and takes the controller's greeting.
    ///
    /// # Errors
    /// [`Failure`] with the code for "not reachable" when no controller answers there.
    pub fn open(settings: &Settings) -> Result<Self, Failure> {
        let path = &settings.socket;
        let mut stream =
            connect_sync(path, Some(PROMPT_TIME)).map_err(|error| not_reachable(path, &error))?;
        let hello = frame::read_sync::<Greeting>(&mut stream, MESSAGE_BYTES_MAX_ADMIN)
            .map_err(|error| broken(&stream, PROMPT_TIME, &error))?
            .hello()?;
        if hello.version != VERSION {
            return Err(Failure::of(
                Code::NotReachable,
                "controller",
                format!(
                    "speaks admin protocol {}, this program speaks {VERSION}",
                    hello.version
                ),
                "Use the cardeactl of its version",
            ));
        }
        Ok(Self {
            stream,
            hello,
            sequence: 0,
            clock: Clock::system(),
        })
    }

    /// What the controller said first.
    #[must_use]
    pub const fn hello(&self) -> &AdminHello {
        &self.hello
    }

    /// Asks something.
    ///
    /// # Errors
    /// [`Failure`] when the controller refuses or the connection breaks.
    pub fn query(&mut self, query: AdminQuery) -> Result<AdminAnswer, Failure> {
        self.request(&AdminRequest::Query(query))
    }

    /// Signs a change with the admin's key and has it done.
    ///
    /// # Errors
    /// [`Failure`] when there is no key, the controller refuses, or the connection breaks.
    pub fn change(&mut self, change: AdminChange, key: &Path) -> Result<Done, Failure> {
        let key = read_key(key)?;
        self.sequence += 1;
        let order = ChangeOrder {
            domain: self.hello.domain.clone(),
            nonce: self.hello.nonce,
            sequence: self.sequence,
            at: self.clock.now().unix,
            change,
        };
        let signed = sign_change(&order, &key).map_err(|error| {
            Failure::of(
                Code::Failed,
                "admin key",
                error,
                "Give the key that init made: --admin-key FILE",
            )
        })?;
        let answer = self.request(&AdminRequest::Change(signed))?;
        let AdminAnswer::Done {
            revision,
            message,
            closed,
        } = answer
        else {
            return Err(unexpected());
        };
        Ok(Done {
            revision,
            message,
            closed,
        })
    }

    /// Hands entries from `from` on to `each` as they are committed, until it says that this was
    /// enough or the controller ends.
    ///
    /// # Errors
    /// [`Failure`] of `each`, or when the connection breaks.
    pub fn follow(
        &mut self,
        from: Revision,
        mut each: impl FnMut(Entry) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        self.send(&AdminRequest::Query(AdminQuery::AuditFollow { from }))?;
        loop {
            // The next entry may take for ever.
            let AdminAnswer::Entries(entries) = self.receive(None)? else {
                return Err(unexpected());
            };
            for entry in entries {
                if !each(entry)? {
                    return Ok(());
                }
            }
        }
    }

    fn request(&mut self, request: &AdminRequest) -> Result<AdminAnswer, Failure> {
        self.send(request)?;
        self.receive(Some(time_for(request)))
    }

    fn send(&mut self, request: &AdminRequest) -> Result<(), Failure> {
        frame::write_sync(&mut self.stream, request)
            .map_err(|error| broken(&self.stream, PROMPT_TIME, &error))
    }

    fn receive(&mut self, time: Option<Duration>) -> Result<AdminAnswer, Failure> {
        self.stream
            .set_read_timeout(time)
            .map_err(|error| Failure::of(Code::Failed, "admin socket", error, ""))?;
        let answer = frame::read_sync(&mut self.stream, MESSAGE_BYTES_MAX_ADMIN)
            .map_err(|error| broken(&self.stream, time.unwrap_or_default(), &error))?;
        if let AdminAnswer::Refused(refusal) = answer {
            return Err(refusal.into());
        }
        Ok(answer)
    }
}

/// How long a controller may take for the answer to this.
const fn time_for(request: &AdminRequest) -> Duration {
    let query = match request {
        AdminRequest::Query(query) => query,
        AdminRequest::Change(_) => return PATIENT_TIME,
    };
    match query {
        AdminQuery::Invites
        | AdminQuery::Sites
        | AdminQuery::Connectors
        | AdminQuery::Devices
        | AdminQuery::Users
        | AdminQuery::Apps
        | AdminQuery::Policy
        | AdminQuery::PolicyRecommended
        | AdminQuery::Explain { .. }
        | AdminQuery::Grants
        | AdminQuery::Tunnels
        | AdminQuery::Status
        | AdminQuery::Checkpoint => PROMPT_TIME,
        AdminQuery::PolicyCheck(_)
        | AdminQuery::PolicyTest(_)
        | AdminQuery::PolicyDiff(_)
        | AdminQuery::Impact(_)
        | AdminQuery::Audit { .. }
        | AdminQuery::AuditSearch { .. }
        | AdminQuery::AuditWho { .. }
        | AdminQuery::AuditFollow { .. } => PATIENT_TIME,
    }
}

/// An answer to another question than the one that was asked. The controller is at fault.
pub(crate) fn unexpected() -> Failure {
    Failure::of(
        Code::Failed,
        "controller",
        "answered something else than was asked",
        "Use the cardeactl of its version",
    )
}

fn not_reachable(path: &Path, error: &io::Error) -> Failure {
    let shown = format!("controller at unix:{}", path.display());
    let is = |kind| error.kind() == kind;
    let (why, next) = if is(io::ErrorKind::NotFound) {
        (
            "not reachable: there is no such socket".to_owned(),
            "Is it running on this machine? Start it with cardea-controller up, or name its socket with --admin unix:PATH",
        )
    } else if is(io::ErrorKind::ConnectionRefused) {
        (
            "not reachable: nobody answers there".to_owned(),
            "Start the controller with cardea-controller run",
        )
    } else if is(io::ErrorKind::PermissionDenied) {
        (
            "not reachable: this user may not".to_owned(),
            "Run cardeactl as root or as the user that runs the controller",
        )
    } else {
        (format!("not reachable: {error}"), io_advice(error))
    };
    Failure::of(Code::NotReachable, &shown, why, next)
}

fn broken(stream: &UnixStream, time: Duration, error: &FrameError) -> Failure {
    if error.is_late() {
        let start = "cardea-controller run";
        return unix::no_answer(stream, "cardea-controller", time, start);
    }
    let why = format!("the conversation broke off: {error}");
    Failure::of(
        Code::NotReachable,
        "controller",
        why,
        "Look at its log, and at: cardeactl status",
    )
}

/// An admin's Ed25519 key: PKCS#8, as PEM or DER, in a file that nobody else may read.
fn read_key(path: &Path) -> Result<SoftwareKey, Failure> {
    let shown = format!("admin key {}", path.display());
    let fail = |why: String, next: &str| Failure::of(Code::Failed, &shown, why, next);
    let other = "Name the key that init made with --admin-key FILE";
    let data = std::fs::metadata(path).map_err(|error| fail(error.to_string(), other))?;
    let bytes = Zeroizing::new(
        read_named(path, KEY_BYTES_MAX).map_err(|error| fail(error.to_string(), other))?,
    );
    let not_a_key = || fail("is no private key".to_owned(), other);
    let key = match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains("-----BEGIN") => {
            let der = Zeroizing::new(pem::decode(pem::PRIVATE_KEY, text).map_err(|_| not_a_key())?);
            SoftwareKey::from_pkcs8(&der)
        }
        Ok(_) | Err(_) => SoftwareKey::from_pkcs8(&bytes),
    }
    .map_err(|_| not_a_key())?;
    // Only of a key do we say what its mode should be: the path may lead to a file of the system.
    let mode = data.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let next = format!("Run: chmod 600 {}", path.display());
        return Err(fail(format!("others may read it (mode {mode:o})"), &next));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// As root every file is our own: what is no key is not told to be made private.
    #[test]
    fn what_is_no_key_is_left_as_it_is_and_a_key_is_to_be_private() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("passwd");
        fs::write(&path, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let said = read_key(&path).err().unwrap().message;
        assert!(
            said.contains("is no private key") && !said.contains("chmod"),
            "{said}"
        );
        let key = SoftwareKey::generate(cardea_credential::key::KeyAlgorithm::Ed25519).unwrap();
        fs::write(
            &path,
            pem::encode(pem::PRIVATE_KEY, &key.to_pkcs8().unwrap()),
        )
        .unwrap();
        let said = read_key(&path).err().unwrap().message;
        assert!(
            said.ends_with(&format!("Run: chmod 600 {}", path.display())),
            "{said}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_key(&path).is_ok());
    }
}
