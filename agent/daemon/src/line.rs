//! A node's line to its controller: does what the control half asks, tells what came of it.

use std::{net::IpAddr, sync::Arc};

use cardea_credential::{key::Signer, tls, trust::Trust};
use cardea_host::{
    channel::{Caller, CloseCode, Fallback, Sender},
    clock::Clock,
    detour::Proxy,
};
use cardea_node::Connect;
use cardea_proto::{
    detour::FRONT_SCHEME,
    message::{FromNode, Purpose, ToNode},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use crate::dial::{Destination, Dialed, detour, dial};

/// Messages that wait for the control half; the peer's stream is not read meanwhile.
const EVENTS_MAX: usize = 256;

/// What happened on the line.
#[derive(Debug)]
pub(crate) enum LineEvent {
    /// A channel is up.
    Up {
        /// What binds proofs to it.
        exporter: [u8; 32],
        /// Where it leads.
        address: String,
        /// Where that is.
        peer: IpAddr,
    },
    /// It goes on by another way.
    Rerouted {
        /// Where it leads.
        address: String,
    },
    /// The channel, or the attempt at one, is gone.
    Down {
        /// Why.
        why: String,
    },
    /// A message from the controller.
    Message(ToNode),
}

/// The same with the number of the attempt that it belongs to.
#[derive(Debug)]
struct Numbered {
    number: u64,
    event: RawEvent,
}

#[derive(Debug)]
enum RawEvent {
    Up {
        exporter: [u8; 32],
        address: String,
        peer: IpAddr,
        sender: Sender,
    },
    Rerouted(String),
    Down(String),
    Message(ToNode),
}

/// One channel at a time.
#[derive(Debug)]
pub(crate) struct Line {
    trust: Trust,
    signer: Arc<dyn Signer>,
    clock: Clock,
    proxy: Option<Proxy>,
    tell: mpsc::Sender<Numbered>,
    told: mpsc::Receiver<Numbered>,
    number: u64,
    sender: Option<Sender>,
    task: Option<AbortHandle>,
}

impl Line {
    pub(crate) fn new(
        trust: Trust,
        signer: Arc<dyn Signer>,
        clock: Clock,
        proxy: Option<Proxy>,
    ) -> Self {
        let (tell, told) = mpsc::channel(EVENTS_MAX);
        Self {
            trust,
            signer,
            clock,
            proxy,
            tell,
            told,
            number: 0,
            sender: None,
            task: None,
        }
    }

    /// Sets up a channel; the one before is forgotten.
    pub(crate) fn connect(&mut self, connect: Connect) {
        self.forget();
        let client = match connect.purpose {
            Purpose::Channel => tls::channel_client,
            Purpose::Renewal => tls::renewal_client,
        };
        let tls = client(
            self.trust.clone(),
            &connect.chain,
            Arc::clone(&self.signer),
            Arc::new(self.clock),
        );
        let root = self.trust.root_digest();
        let caller =
            Caller::new(&connect.knock, &root, connect.clock).with_pass(connect.pass.clone());
        let attempt = Attempt {
            number: self.number,
            tell: self.tell.clone(),
        };
        let to = Destination {
            address: connect.address,
            fronts: connect.fronts,
            proxy: self.proxy.clone(),
        };
        let task = tokio::spawn(attempt.run(to, tls, caller));
        self.task = Some(task.abort_handle());
    }

    /// Drops the channel, after what was sent has arrived. Nothing more is heard of it.
    pub(crate) fn disconnect(&mut self) {
        if let Some(sender) = self.sender.take() {
            sender.finish(CloseCode::Done, "the node disconnects");
        }
        self.forget();
    }

    /// Sends what one turn came to; messages that find no channel are lost with it.
    pub(crate) fn send(&self, messages: &[FromNode]) {
        let Some(sender) = self.sender.as_ref().filter(|_| !messages.is_empty()) else {
            return;
        };
        if let Err(error) = sender.send_all(messages) {
            tracing::debug!(reason = %error, "messages were not sent");
        }
    }

    /// What happens next. Safe to cancel.
    pub(crate) async fn event(&mut self) -> LineEvent {
        loop {
            let Some(Numbered { number, event }) = self.told.recv().await else {
                // This line holds a sender itself, so there is always one.
                return std::future::pending().await;
            };
            if number != self.number {
                continue;
            }
            return match event {
                RawEvent::Up {
                    exporter,
                    address,
                    peer,
                    sender,
                } => {
                    self.sender = Some(sender);
                    LineEvent::Up {
                        exporter,
                        address,
                        peer,
                    }
                }
                RawEvent::Rerouted(address) => LineEvent::Rerouted { address },
                RawEvent::Down(why) => {
                    self.forget();
                    LineEvent::Down { why }
                }
                RawEvent::Message(message) => LineEvent::Message(message),
            };
        }
    }

    fn forget(&mut self) {
        self.number += 1;
        self.sender = None;
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// One attempt at a channel, and the channel that comes of it.
#[derive(Clone)]
struct Attempt {
    number: u64,
    tell: mpsc::Sender<Numbered>,
}

impl Attempt {
    async fn run(self, to: Destination, tls: Arc<rustls::ClientConfig>, caller: Caller) {
        let Dialed { connected, front } = match dial(&to, &tls, &caller).await {
            Ok(dialed) => dialed,
            Err(error) => return self.tell(RawEvent::Down(error.to_string())).await,
        };
        let address = match front {
            Some(front) => by_front(&front),
            None => to.address.clone(),
        };
        let sender = connected.link.sender;
        let mut receiver = connected.link.receiver;
        self.tell(RawEvent::Up {
            exporter: connected.exporter,
            address,
            peer: connected.address.ip(),
            sender,
        })
        .await;
        // Ends with this attempt, whatever ends it.
        let mut beside = JoinSet::new();
        beside.spawn(self.clone().keep_way(connected.fallback, to, caller));
        let why = loop {
            match receiver.receive::<ToNode>().await {
                Ok(Some(message)) => self.tell(RawEvent::Message(message)).await,
                Ok(None) => break "the controller ended the channel".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        self.tell(RawEvent::Down(why)).await;
    }

    /// Gives a channel whose server falls silent a detour, each time, and tells which way it goes.
    async fn keep_way(self, fallback: Fallback, to: Destination, caller: Caller) {
        let mut is_direct = fallback.is_direct();
        // A detour may have been left before anybody looked.
        is_direct.mark_changed();
        loop {
            tokio::select! {
                () = fallback.wanted() => {
                    if let Some((detour, front)) = detour(&to, &caller).await {
                        tracing::info!("the controller does not answer by UDP: the channel takes a detour");
                        fallback.take(detour);
                        self.tell(RawEvent::Rerouted(by_front(&front))).await;
                    }
                }
                Ok(()) = is_direct.changed() => {
                    if *is_direct.borrow_and_update() {
                        self.tell(RawEvent::Rerouted(to.address.clone())).await;
                    }
                }
            }
        }
    }

    async fn tell(&self, event: RawEvent) {
        let number = self.number;
        if self.tell.send(Numbered { number, event }).await.is_err() {
            tracing::debug!("a channel outlived its node");
        }
    }
}

/// The address of a controller that is reached by this front.
fn by_front(front: &str) -> String {
    format!("{FRONT_SCHEME}{front}")
}
