//! Names of targets, resolved on threads of their own: the loop waits for nobody.

use std::{
    net::{IpAddr, ToSocketAddrs},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
};

use cardea_tunnel::FlowId;
use mio::Waker;

/// Lookups at one time.
const THREADS: usize = 4;

/// Lookups that wait for a thread; a flow beyond that is refused as busy.
const WAITING_MAX: usize = 256;

/// Resolves names for flows, once for each flow.
#[derive(Debug)]
pub(super) struct Resolver {
    questions: Option<SyncSender<(FlowId, String)>>,
    answers: Receiver<(FlowId, Vec<IpAddr>)>,
    /// What a thread needs, until the first name makes threads worth having.
    spare: Option<Spare>,
}

#[derive(Debug)]
struct Spare {
    answers: mpsc::Sender<(FlowId, Vec<IpAddr>)>,
    waker: Arc<Waker>,
}

impl Resolver {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        // Bounded all the same: there is one answer at most for each waiting question and thread.
        let (sender, answers) = mpsc::channel();
        Self {
            questions: None,
            answers,
            spare: Some(Spare {
                answers: sender,
                waker,
            }),
        }
    }

    /// Asks for the addresses of `host`; false when too many wait already.
    pub(super) fn ask(&mut self, flow: FlowId, host: &str) -> bool {
        if let Some(spare) = self.spare.take() {
            self.questions = Some(start(&spare));
        }
        self.questions
            .as_ref()
            .is_some_and(|questions| questions.try_send((flow, host.to_owned())).is_ok())
    }

    /// The next answer, if there is one; no address means that there is none.
    pub(super) fn answer(&self) -> Option<(FlowId, Vec<IpAddr>)> {
        self.answers.try_recv().ok()
    }
}

fn start(spare: &Spare) -> SyncSender<(FlowId, String)> {
    let (questions, waiting) = mpsc::sync_channel(WAITING_MAX);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..THREADS {
        let waiting = Arc::clone(&waiting);
        let (answers, waker) = (spare.answers.clone(), Arc::clone(&spare.waker));
        let spawned = std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn(move || resolve(&waiting, &answers, &waker));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread to resolve names on");
        }
    }
    questions
}

/// Answers questions until nobody asks any more.
fn resolve(
    questions: &Mutex<Receiver<(FlowId, String)>>,
    answers: &mpsc::Sender<(FlowId, Vec<IpAddr>)>,
    waker: &Waker,
) {
    loop {
        let question = questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok((flow, host)) = question else {
            return;
        };
        let addresses = match (host.as_str(), 0).to_socket_addrs() {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(error) => {
                tracing::debug!(%error, "a target's name has no address");
                Vec::new()
            }
        };
        if answers.send((flow, addresses)).is_err() {
            return;
        }
        if let Err(error) = waker.wake() {
            tracing::warn!(%error, "the data half could not be woken");
        }
    }
}
