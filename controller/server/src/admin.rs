//! `admin.sock`: the admin API for root and the owner of the state folder.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cardea_core::{AdminSession, CallId, Search, State, policy::Prepared};
use cardea_credential::knock::FrontKey;
use cardea_host::{
    clock::Clock,
    entropy,
    frame::{self, FrameError},
    unix::{self, UnixListener, UnixStream},
};
use cardea_proto::{
    admin::{AdminAnswer, AdminHello, AdminQuery, AdminRequest, AuditFilter},
    codec::{Bytes, Digest, MESSAGE_BYTES_MAX_ADMIN},
    id::ControllerId,
    ledger::{Entry, Revision},
    name::Name,
    refusal::{Refusal, RefusalCode},
    time::UnixMillis,
};
use tokio::{
    io::Interest,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{ledger::Ledger, turn::Event};

/// Admin connections at one time.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may be silent between two requests.
const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);

/// How long one message may take to be written.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// How long an answer may take: policies with their tests over a large inventory. Below the minute
/// for which `cardeactl` waits.
const ANSWER_TIME: Duration = Duration::from_secs(50);

/// Entries in one answer.
const ENTRIES_MAX: u32 = 1_000;

/// Bytes of entries in one answer, so that it stays below [`MESSAGE_BYTES_MAX_ADMIN`].
const ENTRIES_BYTES_MAX: usize = 12 * 1024 * 1024;

/// Time before connections are accepted again when the system gave none.
const PAUSE: Duration = Duration::from_millis(100);

/// Version of the admin protocol.
const VERSION: u16 = 1;

/// What every admin connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    /// What is said first, but for the nonce.
    pub(crate) about: Arc<About>,
    /// The controller's loop.
    pub(crate) events: mpsc::Sender<Event>,
    /// The store.
    pub(crate) ledger: Ledger,
    /// The last committed revision.
    pub(crate) head: watch::Receiver<Revision>,
    /// Counts calls.
    pub(crate) calls: Arc<AtomicU64>,
}

/// Who this controller is.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) domain: Name,
    pub(crate) controller: ControllerId,
    pub(crate) root: Digest,
    pub(crate) addresses: Vec<String>,
    /// What makes passes, where there are fronts that are not beside this controller.
    pub(crate) fronts: Option<FrontKey>,
}

/// Listens at `path`, for its owner alone.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    unix::listen(path, 0o600)
}

impl Admin {
    /// Takes connections for as long as it is polled; they end with it.
    pub(crate) async fn accept(self, listener: UnixListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(self.clone().connection(stream));
                }
                Ok(_) => {
                    tracing::warn!(
                        "{CONNECTIONS_MAX} admin connections are open; one more was closed"
                    );
                }
                Err(error) => {
                    // Such as too many open files: connections end, and then it goes on.
                    tracing::warn!(reason = %error, "an admin connection was not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn connection(self, stream: UnixStream) {
        if let Err(error) = self.converse(stream).await {
            tracing::debug!(reason = %error, "an admin connection ended");
        }
    }

    async fn converse(self, mut stream: UnixStream) -> Result<(), FrameError> {
        let peer = unix::peer(&stream).map_err(FrameError::Io)?;
        if !peer.may_administer() {
            tracing::warn!(user.id = peer.user, "admin access was refused");
            let refusal = Refusal::new(
                RefusalCode::Unauthorized,
                "only root and the owner of the state folder may administer",
            );
            return write(&mut stream, &AdminAnswer::Refused(refusal)).await;
        }
        let nonce = Bytes(entropy::bytes());
        let About {
            domain,
            controller,
            root,
            addresses,
            fronts,
        } = self.about.as_ref();
        let now = Clock::system().now().unix;
        let pass = fronts
            .as_ref()
            .map(|key| key.pass_of(entropy::bytes(), now));
        let hello = AdminHello {
            version: VERSION,
            domain: domain.clone(),
            controller: *controller,
            root: *root,
            addresses: addresses.clone(),
            nonce,
            pass,
        };
        frame::write_within(&mut stream, &hello, WRITE_TIME).await?;
        loop {
            let request = frame::read_within(&mut stream, MESSAGE_BYTES_MAX_ADMIN, SILENCE_MAX);
            let answer = match request.await {
                Err(FrameError::Ended) => return Ok(()),
                Err(error) => {
                    let refusal = Refusal::new(RefusalCode::Protocol, error.to_string());
                    write(&mut stream, &AdminAnswer::Refused(refusal)).await?;
                    return Err(error);
                }
                Ok(AdminRequest::Query(AdminQuery::Audit { from, limit })) => {
                    self.audit(from, limit).await
                }
                Ok(AdminRequest::Query(AdminQuery::AuditSearch { filter, limit })) => {
                    self.search(filter, limit).await
                }
                Ok(AdminRequest::Query(AdminQuery::AuditWho { app, at })) => {
                    self.who(&app, at).await
                }
                Ok(AdminRequest::Query(AdminQuery::Checkpoint)) => self.checkpoint(),
                Ok(AdminRequest::Query(AdminQuery::AuditFollow { from })) => {
                    return self.follow(&mut stream, from).await;
                }
                Ok(request) => self.ask(&stream, nonce, request).await,
            };
            write(&mut stream, &answer).await?;
        }
    }

    /// Asks the controller; when the admin leaves meanwhile, nobody waits for the answer.
    async fn ask(
        &self,
        stream: &UnixStream,
        nonce: Bytes<16>,
        request: AdminRequest,
    ) -> AdminAnswer {
        let call = CallId(self.calls.fetch_add(1, Ordering::Relaxed));
        let preparing = tokio::task::spawn_blocking(move || (Prepared::of(&request), request));
        let Ok((prepared, request)) = preparing.await else {
            return leaving();
        };
        let (answer, answered) = oneshot::channel();
        let asked = Event::Call {
            call,
            session: AdminSession { nonce },
            request,
            prepared,
            answer,
        };
        if self.events.send(asked).await.is_err() {
            return leaving();
        }
        let why = tokio::select! {
            answer = answered => return answer.unwrap_or_else(|_| leaving()),
            () = tokio::time::sleep(ANSWER_TIME) => "the controller did not answer in time",
            () = gone(stream) => "the admin left",
        };
        if self.events.send(Event::CallGone { call }).await.is_err() {
            return leaving();
        }
        AdminAnswer::Refused(Refusal::new(RefusalCode::Busy, why))
    }

    /// Entries from `from` on, or the last ones.
    async fn audit(&self, from: Revision, limit: u32) -> AdminAnswer {
        let limit = limit.min(ENTRIES_MAX);
        let head = *self.head.borrow();
        let last = from == Revision(0);
        let mut after = if last {
            Revision(head.0.saturating_sub(u64::from(limit)))
        } else {
            Revision(from.0.saturating_sub(1))
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        while entries.len() < limit {
            let more = match self.read(after, limit.saturating_sub(entries.len())).await {
                Ok(more) => more,
                Err(refusal) => return AdminAnswer::Refused(refusal),
            };
            let Some(end) = more.last() else {
                break;
            };
            after = end.revision;
            entries.extend(more);
        }
        AdminAnswer::Entries(fitting(entries, last))
    }

    /// The last entries that `filter` lets through.
    async fn search(&self, filter: AuditFilter, limit: u32) -> AdminAnswer {
        let limit = usize::try_from(limit.min(ENTRIES_MAX)).unwrap_or(usize::MAX);
        let mut search = Search::new(filter);
        let mut found = VecDeque::new();
        let walked = self.walk(|entry| {
            if limit > 0 && search.take(&entry) {
                if found.len() >= limit {
                    found.pop_front();
                }
                found.push_back(entry);
            }
            true
        });
        match walked.await {
            Ok(()) => AdminAnswer::Entries(fitting(found.into(), true)),
            Err(refusal) => AdminAnswer::Refused(refusal),
        }
    }

    /// Who could reach `app`: the fold of all entries until `at`.
    async fn who(&self, app: &Name, at: UnixMillis) -> AdminAnswer {
        if at > Clock::system().now().unix {
            let why = "nobody knows yet: that time is to come";
            return AdminAnswer::Refused(Refusal::new(RefusalCode::Invalid, why));
        }
        let mut state = State::default();
        let walked = self.walk(|entry| {
            let is_before = entry.draft.at <= at;
            if is_before {
                state.apply(&entry);
            }
            is_before
        });
        match walked
            .await
            .and_then(|()| cardea_core::who(&state, app, at))
        {
            Ok(rows) => AdminAnswer::Who {
                revision: state.head(),
                rows,
            },
            Err(refusal) => AdminAnswer::Refused(refusal),
        }
    }

    /// Shows all entries in order, until `visit` has seen enough.
    async fn walk(&self, mut visit: impl FnMut(Entry) -> bool) -> Result<(), Refusal> {
        let limit = usize::try_from(ENTRIES_MAX).unwrap_or(usize::MAX);
        let mut after = Revision(0);
        loop {
            let entries = self.read(after, limit).await?;
            let Some(last) = entries.last() else {
                return Ok(());
            };
            after = last.revision;
            for entry in entries {
                if !visit(entry) {
                    return Ok(());
                }
            }
        }
    }

    fn checkpoint(&self) -> AdminAnswer {
        let latest = self.ledger.checkpoints().borrow().clone();
        latest.map_or_else(
            || {
                let why = "no checkpoint was signed yet; try again in a second";
                AdminAnswer::Refused(Refusal::new(RefusalCode::Busy, why))
            },
            |note| AdminAnswer::Checkpoint(note.to_string()),
        )
    }

    /// Entries as they come, until the admin leaves.
    async fn follow(&self, stream: &mut UnixStream, from: Revision) -> Result<(), FrameError> {
        let mut head = self.head.clone();
        let mut after = if from == Revision(0) {
            *head.borrow()
        } else {
            Revision(from.0.saturating_sub(1))
        };
        loop {
            while after < *head.borrow_and_update() {
                match self.read(after, 100).await {
                    Ok(entries) => {
                        let Some(last) = entries.last() else {
                            break;
                        };
                        after = last.revision;
                        let entries = fitting(entries, false);
                        write(stream, &AdminAnswer::Entries(entries)).await?;
                    }
                    Err(refusal) => {
                        return write(stream, &AdminAnswer::Refused(refusal)).await;
                    }
                }
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = gone(stream) => return Ok(()),
            }
        }
    }

    async fn read(&self, after: Revision, limit: usize) -> Result<Vec<Entry>, Refusal> {
        match self.ledger.tail(after, limit).await {
            Ok(Ok(entries)) => Ok(entries),
            Ok(Err(error)) => {
                let text = crate::chain(&error);
                Err(Refusal::new(RefusalCode::StorageRefused, text))
            }
            Err(error) => Err(Refusal::new(RefusalCode::StorageRefused, error.to_string())),
        }
    }
}

/// As many of `entries` as one answer can carry: the first, or the `last`.
fn fitting(mut entries: Vec<Entry>, last: bool) -> Vec<Entry> {
    if last {
        entries.reverse();
    }
    let mut bytes = 0_usize;
    let fit = entries.iter().take_while(|entry| {
        bytes = bytes.saturating_add(cardea_proto::codec::encode(entry).len());
        bytes <= ENTRIES_BYTES_MAX
    });
    // A single entry larger than that is sent alone, and refused by the reader if it must be.
    let fit = fit.count().max(1);
    entries.truncate(fit);
    if last {
        entries.reverse();
    }
    entries
}

async fn write(stream: &mut UnixStream, answer: &AdminAnswer) -> Result<(), FrameError> {
    frame::write_within(stream, answer, WRITE_TIME).await
}

/// Waits until the other end has closed. A request that it sends meanwhile stays where it is.
async fn gone(stream: &UnixStream) {
    match stream.ready(Interest::READABLE).await {
        Ok(ready) if !ready.is_read_closed() => std::future::pending().await,
        Ok(_) | Err(_) => {}
    }
}

fn leaving() -> AdminAnswer {
    AdminAnswer::Refused(Refusal::new(RefusalCode::Busy, "the controller is leaving"))
}
