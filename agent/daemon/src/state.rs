//! What a node keeps on disk from its enrollment.

use cardea_credential::{key::Signer, trust::Trust};
use cardea_device::key::{KeyStore, KeyStoreError};
use cardea_host::{
    exit::{Code, Failure},
    files::{Dir, StateError},
};
use cardea_ledger::checkpoint::{Verifier, origin};
use cardea_proto::{
    access::Standby,
    codec::{Blob, Bytes, Secret32},
    enroll::{Certificate, Enrolled, Pass},
    id::NodeId,
    name::Name,
    time::UnixMillis,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};
use zeroize::{Zeroize as _, Zeroizing};

/// Who the node is; written once, and again when controllers move.
const NODE_FILE: &str = "node.json";

/// Its certificate of the moment.
const CERTIFICATE_FILE: &str = "certificate.json";

/// The ledger's checkpoint that it accepted last.
const CHECKPOINT_FILE: &str = "ledger.checkpoint";

/// The numbers that make the addresses of apps.
const NUMBERS_FILE: &str = "addresses.json";

/// The names that apps had when this device last heard of them.
const NAMES_FILE: &str = "names.json";

/// Version of both files.
const VERSION: u32 = 1;

/// An enrolled node, as its state directory has it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Who it is.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// A device's user.
    pub user: Option<Name>,
    /// The trust domain.
    pub domain: Name,
    /// The domain's root.
    pub trust: Trust,
    /// The certificate that was issued last.
    pub certificate: Certificate,
    /// The node's key.
    pub signer: Arc<dyn Signer>,
    /// Where controllers are, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// What checks the ledger's checkpoints.
    pub ledger: Verifier,
    /// The last checkpoint that it accepted.
    pub checkpoint: Option<String>,
}

/// Why a state directory gives no node.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory or a file in it cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyStoreError),
    /// A file is not what we wrote.
    #[error("{path}: is damaged ({why})")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl LoadError {
    /// The failure of a command that has no use for such a state directory.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let next = match self {
            Self::State(error) => return error.failure(),
            Self::Key(_) | Self::Damaged { .. } => {
                "Restore it from a backup, or move the state directory away and enroll again"
            }
        };
        Failure::new(Code::Storage, format!("{self}. {next}"))
    }
}

#[derive(Serialize, Deserialize)]
struct NodeFile {
    version: u32,
    node: NodeId,
    name: Name,
    user: Option<Name>,
    domain: Name,
    root: String,
    addresses: Vec<String>,
    ledger: String,
}

#[derive(Serialize, Deserialize)]
struct CertificateFile {
    version: u32,
    chain: Vec<String>,
    serial: String,
    not_before: UnixMillis,
    not_after: UnixMillis,
    /// A secret: the file is its owner's alone.
    knock: String,
    /// Its number and its seed, the second of which is one as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pass: Option<(String, String)>,
    /// The addresses of each relay, and a ticket that it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relays: Vec<(Vec<SocketAddr>, String)>,
}

impl Node {
    /// The node of this state directory; `None` when it is not enrolled.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(dir: &Dir) -> Result<Option<Self>, LoadError> {
        let Some(node) = read::<NodeFile>(dir, NODE_FILE)? else {
            return Ok(None);
        };
        let damaged = |file: &str, why: &str| LoadError::Damaged {
            path: dir.join(file),
            why: why.to_owned(),
        };
        let certificate = read::<CertificateFile>(dir, CERTIFICATE_FILE)?
            .ok_or_else(|| damaged(CERTIFICATE_FILE, "it is missing"))?;
        let signer = KeyStore::new(dir)
            .load()?
            .ok_or_else(|| damaged(cardea_device::key::KEY_FILE, "it is missing"))?;
        if node.version != VERSION || certificate.version != VERSION {
            return Err(damaged(NODE_FILE, "another version of Cardea wrote it"));
        }
        let root =
            from_text(&node.root).ok_or_else(|| damaged(NODE_FILE, "the root is not base64"))?;
        let trust = Trust::new(node.domain.clone(), root)
            .map_err(|error| damaged(NODE_FILE, &error.to_string()))?;
        let chain = certificate
            .chain
            .iter()
            .map(|text| from_text(text).map(Blob))
            .collect::<Option<Vec<Blob>>>()
            .ok_or_else(|| damaged(CERTIFICATE_FILE, "the chain is not base64"))?;
        let knock = Zeroizing::new(certificate.knock);
        let knock = from_text(&knock)
            .map(Zeroizing::new)
            .and_then(|seed| <[u8; 32]>::try_from(seed.as_slice()).ok())
            .map(Secret32)
            .ok_or_else(|| damaged(CERTIFICATE_FILE, "the seed of its knock is not 32 bytes"))?;
        // Without it the controller's own fronts still open.
        let pass = certificate.pass.and_then(|(number, seed)| {
            let seed = Zeroizing::new(from_text(&Zeroizing::new(seed))?);
            Some(Pass {
                number: Bytes(from_text(&number)?.try_into().ok()?),
                seed: Secret32(seed.as_slice().try_into().ok()?),
            })
        });
        let relays = certificate.relays.into_iter();
        let relays = relays.filter_map(|(relay, ticket)| {
            let ticket = Blob(from_text(&ticket)?);
            Some(Standby { relay, ticket })
        });
        Ok(Some(Self {
            id: node.node,
            name: node.name,
            user: node.user,
            domain: node.domain,
            trust,
            certificate: Certificate {
                chain,
                serial: certificate.serial,
                not_before: certificate.not_before,
                not_after: certificate.not_after,
                knock,
                pass,
                relays: relays.collect(),
            },
            signer,
            addresses: node.addresses,
            ledger: node
                .ledger
                .parse()
                .map_err(|_| damaged(NODE_FILE, "the ledger's key is none"))?,
            // One that cannot be read proves nothing; the next takes its place.
            checkpoint: dir
                .read(CHECKPOINT_FILE)?
                .and_then(|note| String::from_utf8(note).ok()),
        }))
    }

    /// The node that an enrollment made, not yet on disk.
    #[must_use]
    pub fn enrolled(
        enrolled: Enrolled,
        ledger_key: [u8; 32],
        trust: Trust,
        signer: Arc<dyn Signer>,
    ) -> Self {
        Self {
            ledger: Verifier::new(origin(&enrolled.domain), ledger_key),
            checkpoint: None,
            id: enrolled.node,
            name: enrolled.name,
            user: enrolled.user,
            domain: enrolled.domain,
            trust,
            certificate: enrolled.certificate,
            signer,
            addresses: enrolled.addresses,
        }
    }

    /// Keeps the node. The file that says that it is enrolled comes last, so that a crash in
    /// between leaves a machine that is not.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save(&self, dir: &Dir) -> Result<(), StateError> {
        save_certificate(dir, &self.certificate)?;
        let file = NodeFile {
            version: VERSION,
            node: self.id,
            name: self.name.clone(),
            user: self.user.clone(),
            domain: self.domain.clone(),
            root: to_text(self.trust.root()),
            addresses: self.addresses.clone(),
            ledger: self.ledger.to_string(),
        };
        write(dir, NODE_FILE, &file)
    }
}

/// Keeps the next certificate.
///
/// # Errors
/// [`StateError`]; the one before is still there then.
pub fn save_certificate(dir: &Dir, certificate: &Certificate) -> Result<(), StateError> {
    let mut file = CertificateFile {
        version: VERSION,
        chain: certificate
            .chain
            .iter()
            .map(|one| to_text(&one.0))
            .collect(),
        serial: certificate.serial.clone(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        knock: to_text(&certificate.knock.0),
        pass: certificate
            .pass
            .as_ref()
            .map(|pass| (to_text(&pass.number.0), to_text(&pass.seed.0))),
        relays: certificate
            .relays
            .iter()
            .map(|relay| (relay.relay.clone(), to_text(&relay.ticket.0)))
            .collect(),
    };
    let written = write(dir, CERTIFICATE_FILE, &file);
    file.knock.zeroize();
    if let Some((_, seed)) = &mut file.pass {
        seed.zeroize();
    }
    written
}

/// Keeps the ledger's checkpoint.
///
/// # Errors
/// [`StateError`]; the one before is still there then.
pub fn save_checkpoint(dir: &Dir, note: &str) -> Result<(), StateError> {
    dir.write_atomic(CHECKPOINT_FILE, note.as_bytes())
}

/// Keeps the numbers that make the addresses of apps at this device's interface.
///
/// # Errors
/// [`StateError`]; those before are still there then.
pub fn save_numbers(dir: &Dir, numbers: &BTreeMap<Name, u32>) -> Result<(), StateError> {
    write(dir, NUMBERS_FILE, numbers)
}

/// The numbers that were kept; none when there are none yet.
///
/// # Errors
/// [`LoadError`].
pub fn load_numbers(dir: &Dir) -> Result<BTreeMap<Name, u32>, LoadError> {
    Ok(read(dir, NUMBERS_FILE)?.unwrap_or_default())
}

/// Keeps the names that apps have.
///
/// # Errors
/// [`StateError`]; those before are still there then.
pub fn save_names(dir: &Dir, names: &[String]) -> Result<(), StateError> {
    write(dir, NAMES_FILE, &names)
}

/// The names that were kept; none when there are none yet.
///
/// # Errors
/// [`LoadError`].
pub fn load_names(dir: &Dir) -> Result<Vec<String>, LoadError> {
    Ok(read(dir, NAMES_FILE)?.unwrap_or_default())
}

/// Whether somebody enrolled here, without looking at what is inside.
#[must_use]
pub fn is_enrolled(dir: &Dir) -> bool {
    dir.contains(NODE_FILE)
}

fn read<T: for<'a> Deserialize<'a>>(dir: &Dir, name: &str) -> Result<Option<T>, LoadError> {
    let Some(bytes) = dir.read(name)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| LoadError::Damaged {
            path: dir.join(name),
            why: error.to_string(),
        })
}

fn write<T: Serialize>(dir: &Dir, name: &str, value: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| StateError::Io {
        path: dir.join(name),
        source: error.into(),
    })?;
    let mut bytes = Zeroizing::new(bytes);
    bytes.push(b'\n');
    dir.write_atomic(name, &bytes)
}

fn to_text(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

fn from_text(text: &str) -> Option<Vec<u8>> {
    data_encoding::BASE64.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use cardea_credential::{key::KeyAlgorithm, testing::TestDomain};
    use cardea_proto::{id::DeviceId, identity::Holder};

    use super::*;

    #[test]
    fn a_node_reads_back_as_it_was_kept() {
        let (_keep, dir, node) = kept();
        let read = Node::load(&dir).unwrap().unwrap();
        assert_eq!(read.id, node.id);
        assert_eq!(read.name, node.name);
        assert_eq!(read.certificate, node.certificate);
        assert_eq!(read.addresses, node.addresses);
        assert_eq!(read.ledger, node.ledger);
        assert_eq!(read.checkpoint, node.checkpoint);
        assert_eq!(read.trust.root(), node.trust.root());
        assert_eq!(read.signer.public_key(), node.signer.public_key());
    }

    #[test]
    fn an_empty_directory_is_not_enrolled() {
        let (_keep, dir) = place();
        assert!(Node::load(&dir).unwrap().is_none());
        assert!(!is_enrolled(&dir));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let (_keep, dir, _) = kept();
        for file in [NODE_FILE, CERTIFICATE_FILE] {
            let before = dir.read(file).unwrap().unwrap();
            dir.write_atomic(file, &before[..before.len() / 2]).unwrap();
            let error = Node::load(&dir).unwrap_err().to_string();
            assert!(error.contains(file), "{error}");
            dir.write_atomic(file, &before).unwrap();
        }
    }

    fn place() -> (tempfile::TempDir, Dir) {
        let keep = tempfile::tempdir().unwrap();
        let dir = Dir::create(&keep.path().join("state")).unwrap();
        (keep, dir)
    }

    fn kept() -> (tempfile::TempDir, Dir, Node) {
        let (keep, dir) = place();
        let now = cardea_host::clock::Clock::system().now().unix;
        let domain = TestDomain::new("corp.example", now);
        let id = DeviceId::from_bytes([1; 10]);
        let signer = KeyStore::new(&dir)
            .load_or_create(KeyAlgorithm::P256)
            .unwrap();
        let made = domain.node_with_key(Holder::Device(id), Arc::clone(&signer), now);
        let node = Node {
            id: NodeId::Device(id),
            name: "laptop".parse().unwrap(),
            user: Some("alice".parse().unwrap()),
            domain: domain.trust.domain().clone(),
            trust: domain.trust.clone(),
            certificate: Certificate {
                chain: made.chain,
                serial: "0a".to_owned(),
                not_before: now,
                not_after: now,
                knock: Secret32([7; 32]),
                pass: Some(Pass {
                    number: Bytes([8; 8]),
                    seed: Secret32([9; 32]),
                }),
                relays: vec![Standby {
                    relay: vec!["192.0.2.1:7444".parse().unwrap()],
                    ticket: Blob(vec![1; 97]),
                }],
            },
            signer,
            addresses: vec!["ztna.corp.example:7443".to_owned()],
            ledger: Verifier::new("corp.example/ledger".to_owned(), [7; 32]),
            checkpoint: Some("a note\n".to_owned()),
        };
        save_checkpoint(&dir, "a note\n").unwrap();
        node.save(&dir).unwrap();
        (keep, dir, node)
    }
}
