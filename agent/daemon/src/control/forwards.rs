//! `forward` and `proxy`: listeners that local programs ask for, each as long as its program lives.

use std::{collections::BTreeMap, io, net::SocketAddr};

use cardea_proto::{
    app::Service,
    local::LocalAnswer,
    name::Name,
    refusal::{Refusal, RefusalCode},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    data::{Data, ListenerId, Serves, ToData},
    local::{self, Guard, Kept, Reply},
};

/// Listeners at a time.
const LISTENERS_MAX: usize = 1_024;

/// Every listener, and everybody who waits for one.
#[derive(Debug)]
pub(super) struct Forwards {
    listeners: BTreeMap<ListenerId, mpsc::Sender<Refusal>>,
    waiting: BTreeMap<Name, Vec<Waiting>>,
    next: u64,
    ended: mpsc::UnboundedSender<ListenerId>,
}

/// A `forward` whose app is being opened.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The port that was asked for.
    pub(super) service: Option<Service>,
    /// Where to listen.
    pub(super) at: SocketAddr,
    /// The way back.
    pub(super) reply: oneshot::Sender<Reply>,
}

impl Forwards {
    /// Also gives the queue of listeners whose programs ended.
    ///
    /// It is unbounded in name alone: each listener is told of once.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<ListenerId>) {
        let (ended, ends) = mpsc::unbounded_channel();
        let forwards = Self {
            listeners: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next: 0,
            ended,
        };
        (forwards, ends)
    }

    /// Keeps a `forward` until its app is open, or is not.
    pub(super) fn wait(&mut self, app: Name, waiting: Waiting) {
        self.waiting.entry(app).or_default().push(waiting);
    }

    /// The app is open: whoever waits for it gets a listener.
    pub(super) fn opened(&mut self, app: &Name, services: &[Service], data: &Data) {
        for waiting in self.waiting.remove(app).unwrap_or_default() {
            match choose(app, waiting.service, services) {
                Ok(service) => {
                    let serves = Serves::App {
                        app: app.clone(),
                        service,
                    };
                    self.listen(serves, waiting.at, waiting.reply, data);
                }
                Err(refusal) => refuse(waiting.reply, refusal),
            }
        }
    }

    /// The app cannot be opened: whoever waits for it is told.
    pub(super) fn denied(&mut self, app: &Name, refusal: &Refusal) {
        for waiting in self.waiting.remove(app).unwrap_or_default() {
            refuse(waiting.reply, refusal.clone());
        }
    }

    /// Opens a listener; the answer goes out when the data half has it.
    pub(super) fn listen(
        &mut self,
        serves: Serves,
        at: SocketAddr,
        reply: oneshot::Sender<Reply>,
        data: &Data,
    ) {
        if self.listeners.len() >= LISTENERS_MAX {
            let why = Refusal::new(RefusalCode::Busy, "too many listeners");
            return refuse(reply, why);
        }
        self.next += 1;
        let listener = ListenerId(self.next);
        let (refusals, told) = local::refusals();
        self.listeners.insert(listener, refusals);
        let kept = Kept {
            guard: Guard::new(listener, self.ended.clone()),
            refusals: told,
        };
        let flag = match serves {
            Serves::App { .. } => "--listen",
            Serves::Socks => "--socks5",
        };
        let (bound, address) = oneshot::channel();
        data.send(ToData::Listen {
            listener,
            serves,
            at,
            reply: bound,
        });
        tokio::spawn(async move {
            // Whatever fails from here on drops `kept`, and with it the listener.
            match address.await {
                Ok(Ok(address)) => {
                    let answer = LocalAnswer::Listening {
                        address: address.to_string(),
                    };
                    send(
                        reply,
                        Reply {
                            answer,
                            kept: Some(kept),
                        },
                    );
                }
                Ok(Err(error)) => {
                    refuse(reply, not_bound(at, &error, flag));
                }
                Err(_) => refuse(
                    reply,
                    Refusal::new(RefusalCode::Internal, "the agent is ending"),
                ),
            }
        });
    }

    /// A connection to a listener came to nothing.
    pub(super) fn refused(&self, listener: ListenerId, refusal: Refusal) {
        if let Some(refusals) = self.listeners.get(&listener)
            && refusals.try_send(refusal).is_err()
        {
            tracing::trace!("a program is told of some refusals, not of all");
        }
    }

    /// A listener's program ended.
    pub(super) fn ended(&mut self, listener: ListenerId, data: &Data) {
        self.listeners.remove(&listener);
        data.send(ToData::Unlisten(listener));
    }
}

/// Why nothing listens at `at`, which `flag` chose.
fn not_bound(at: SocketAddr, error: &io::Error, flag: &str) -> Refusal {
    let why = if error.kind() == io::ErrorKind::AddrInUse {
        "another program uses this port".to_owned()
    } else {
        error.to_string()
    };
    Refusal::new(
        RefusalCode::Invalid,
        format!("cannot listen on {at}: {why}"),
    )
    .with_next(format!("Choose another: {flag} 127.0.0.1:0"))
}

/// The port that a listener is for: the one that was asked for, or the only one.
fn choose(app: &Name, wanted: Option<Service>, services: &[Service]) -> Result<Service, Refusal> {
    let list = || {
        let all: Vec<String> = services.iter().map(ToString::to_string).collect();
        all.join(", ")
    };
    let refuse = |message: String| {
        let first = services.first().map(ToString::to_string);
        let refusal = Refusal::new(RefusalCode::Invalid, message);
        match first {
            Some(first) => refusal.with_next(format!("Name one: --service {first}")),
            None => refusal,
        }
    };
    match (wanted, services) {
        (Some(wanted), _) if services.contains(&wanted) => Ok(wanted),
        (Some(wanted), _) => Err(refuse(format!(
            "{app} has no port {wanted} (it has {})",
            list()
        ))),
        (None, [only]) => Ok(*only),
        (None, []) => Err(refuse(format!("{app} has no ports"))),
        (None, _) => Err(refuse(format!("{app} has several ports ({})", list()))),
    }
}

pub(super) fn refuse(reply: oneshot::Sender<Reply>, refusal: Refusal) {
    send(reply, LocalAnswer::Refused(refusal).into());
}

fn send(reply: oneshot::Sender<Reply>, answer: Reply) {
    if reply.send(answer).is_err() {
        tracing::debug!("a local program did not wait for its answer");
    }
}

#[cfg(test)]
mod tests {
    use cardea_proto::app::Protocol;

    use super::*;

    #[test]
    fn a_port_is_the_one_that_was_asked_for_or_the_only_one() {
        let service = |port| Service {
            protocol: Protocol::Tcp,
            port,
        };
        let app: Name = "wiki".parse().unwrap();
        assert_eq!(choose(&app, None, &[service(80)]), Ok(service(80)));
        let both = [service(80), service(443)];
        assert_eq!(choose(&app, Some(service(443)), &both), Ok(service(443)));
        let refusal = choose(&app, None, &both).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "wiki has several ports (80/tcp, 443/tcp). Name one: --service 80/tcp"
        );
        assert!(choose(&app, Some(service(81)), &both).is_err());
        assert!(choose(&app, None, &[]).is_err());
    }
}
