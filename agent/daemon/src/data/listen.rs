//! The agent's side: local listeners, and the programs that connect to them.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cardea_host::tcp::{self, TcpListener, TcpStream};
use cardea_proto::{
    app::{Protocol, Service},
    id::GrantId,
    name::Name,
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::{FlowId, Input};
use mio::{Token, net::UdpSocket};

use super::{
    FromData, ListenerId, Serves,
    associate::{Associations, Peer},
    flow::Flow,
    guests::Guest,
    plane::{Due, Plane},
    socks,
    tcp::TcpFlow,
    udp::UdpListener,
    wiring::Owner,
};

/// Connections that one listener accepts in one turn.
const ACCEPTS_MAX: usize = 64;

/// How long somebody may wait for a tunnel: longer than the control half takes to say no.
const WAITING_TIME: Duration = Duration::from_secs(30);

/// How long a listener pauses when the system has no descriptor for the next connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that local programs reach us by.
#[derive(Debug, Default)]
pub(super) struct Locals {
    listeners: BTreeMap<ListenerId, Listener>,
    pub(super) guests: BTreeMap<u64, Guest>,
    pub(super) associations: Associations,
    next: u64,
}

#[derive(Debug)]
enum Listener {
    Tcp {
        socket: TcpListener,
        token: Token,
        serves: Serves,
        readable: bool,
    },
    Udp(UdpListener),
}

/// Somebody who waits for a tunnel.
#[derive(Debug)]
pub(super) struct Waiting {
    since: Instant,
    from: ListenerId,
    service: Service,
    who: Who,
}

/// Who it is that waits, with what it has said.
#[derive(Debug)]
pub(super) enum Who {
    /// A program's stream.
    Stream(Caller),
    /// A datagram at a listener.
    Datagram {
        /// Who sent it.
        client: SocketAddr,
        /// Its payload.
        bytes: Bytes,
    },
    /// A packet of the local network stack, with its virtio header.
    Packet(Vec<u8>),
    /// A datagram of an association.
    Associated {
        /// Which.
        association: u64,
        /// Who sent it, and to whom.
        peer: Peer,
        /// Its payload.
        bytes: Bytes,
    },
}

/// A local program's stream.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: TcpStream,
    /// For a client of SOCKS: what it has said to the app already.
    pub(super) socks: Option<Bytes>,
}

impl Locals {
    pub(super) fn ready(&mut self, listener: ListenerId, is_readable: bool) {
        match self.listeners.get_mut(&listener) {
            Some(Listener::Tcp { readable, .. }) => *readable |= is_readable,
            Some(Listener::Udp(udp)) => udp.readable |= is_readable,
            None => {}
        }
    }

    pub(super) fn wants_turn(&self) -> bool {
        let listens = self.listeners.values().any(|listener| match listener {
            Listener::Tcp { readable, .. } => *readable,
            Listener::Udp(udp) => udp.readable,
        });
        listens || self.associations.wants_turn()
    }

    /// A name for a guest or an association.
    pub(super) const fn next_number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn send(&self, listener: ListenerId, client: SocketAddr, bytes: &[u8]) {
        if let Some(Listener::Udp(udp)) = self.listeners.get(&listener) {
            udp.send(client, bytes);
        }
    }

    pub(super) fn leave(&mut self, listener: ListenerId, client: SocketAddr) {
        if let Some(Listener::Udp(udp)) = self.listeners.get_mut(&listener) {
            udp.leave(client);
        }
    }
}

impl Plane {
    /// Opens a local listener; says where it is.
    pub(super) fn listen(
        &mut self,
        id: ListenerId,
        serves: Serves,
        at: SocketAddr,
    ) -> io::Result<SocketAddr> {
        let owner = Owner::Listener(id);
        let (listener, address) = match serves {
            Serves::App { app, service } if service.protocol == Protocol::Udp => {
                let mut socket = UdpSocket::bind(at)?;
                let address = socket.local_addr()?;
                let token = self.wiring.add(&mut socket, owner)?;
                let udp = UdpListener::new(socket, token, app, service);
                (Listener::Udp(udp), address)
            }
            serves @ (Serves::App { .. } | Serves::Socks) => {
                let mut socket = tcp::listen(at)?;
                let address = socket.local_addr()?;
                let token = self.wiring.add(&mut socket, owner)?;
                let tcp = Listener::Tcp {
                    socket,
                    token,
                    serves,
                    readable: true,
                };
                (tcp, address)
            }
        };
        self.locals.listeners.insert(id, listener);
        Ok(address)
    }

    /// Closes a listener, and every flow that came in through it.
    pub(super) fn unlisten(&mut self, id: ListenerId) {
        match self.locals.listeners.remove(&id) {
            Some(Listener::Tcp {
                mut socket, token, ..
            }) => self.wiring.remove(&mut socket, token),
            Some(Listener::Udp(mut udp)) => self.wiring.remove(&mut udp.socket, udp.token),
            None => {}
        }
        for flow in self.flows.through(id) {
            self.break_flow(flow);
        }
        for waiting in self.routes.take_leaving(|waiting| waiting.from == id) {
            if let Who::Stream(caller) = waiting.who {
                tcp::abort(caller.stream);
            }
        }
        self.dismiss_guests(id);
        self.dissociate_all(id);
    }

    /// Takes in whoever has come, a bounded number.
    pub(super) fn serve_listeners(&mut self) {
        let ids: Vec<ListenerId> = self.locals.listeners.keys().copied().collect();
        for id in ids {
            match self.locals.listeners.get_mut(&id) {
                Some(Listener::Tcp { readable: true, .. }) => self.accept(id),
                Some(Listener::Udp(udp)) if udp.readable => {
                    let arrived = udp.receive(&mut self.carry.scratch);
                    let (app, service) = (udp.app.clone(), udp.service);
                    for datagram in arrived {
                        match datagram.flow {
                            Some(flow) => self.carry.input(Input::Packet {
                                flow,
                                bytes: datagram.bytes,
                            }),
                            None => self.want(
                                &app,
                                Waiting {
                                    since: self.carry.now.instant,
                                    from: id,
                                    service,
                                    who: Who::Datagram {
                                        client: datagram.client,
                                        bytes: datagram.bytes,
                                    },
                                },
                            ),
                        }
                    }
                }
                Some(Listener::Tcp { .. } | Listener::Udp(_)) | None => {}
            }
        }
    }

    fn accept(&mut self, id: ListenerId) {
        for _ in 0..ACCEPTS_MAX {
            let Some(Listener::Tcp {
                socket,
                serves,
                readable,
                ..
            }) = self.locals.listeners.get_mut(&id)
            else {
                return;
            };
            match socket.accept() {
                Ok((stream, _)) => match serves.clone() {
                    Serves::App { app, service } => {
                        let who = Who::Stream(Caller {
                            stream,
                            socks: None,
                        });
                        self.want(&app, self.waiting(id, service, who));
                    }
                    Serves::Socks => self.greet(id, stream),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *readable = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "a local connection could not be accepted");
                    *readable = false;
                    let again = self.carry.now.instant + ACCEPT_PAUSE;
                    self.timers.set(again, Due::Accept(id));
                    return;
                }
            }
        }
    }

    pub(super) fn waiting(&self, from: ListenerId, service: Service, who: Who) -> Waiting {
        Waiting {
            since: self.carry.now.instant,
            from,
            service,
            who,
        }
    }

    /// Somebody wants to reach an app: through its tunnel, or once there is one.
    pub(super) fn want(&mut self, app: &Name, waiting: Waiting) {
        let now = self.carry.now.instant;
        if let Some(grant) = self.routes.begins_in(now, app) {
            return self.begin(grant, waiting);
        }
        match self.routes.wait(app, waiting) {
            Ok(is_first) => {
                if is_first {
                    self.told.push(FromData::Wanted(app.clone()));
                    let until = self.carry.now.instant + WAITING_TIME;
                    self.timers.set(until, Due::Waiting);
                }
            }
            Err(waiting) => {
                let why = Refusal::new(RefusalCode::Busy, format!("{app}: too many wait for it"));
                self.turn_away(waiting, &why);
            }
        }
    }

    /// Opens a flow through an open tunnel.
    fn begin(&mut self, grant: GrantId, waiting: Waiting) {
        let Waiting {
            from, service, who, ..
        } = waiting;
        let flow = self.flows.name();
        let open = Input::OpenFlow {
            flow,
            grant,
            service,
        };
        match who {
            Who::Stream(caller) => {
                let Caller { mut stream, socks } = caller;
                match self.wiring.add(&mut stream, Owner::Flow(flow)) {
                    Ok(token) => {
                        let mut tcp = TcpFlow::new(flow, stream, token);
                        if let Some(said) = socks {
                            tcp.hold(said);
                        }
                        let joined = Flow::Tcp {
                            flow: Box::new(tcp),
                            from: Some(from),
                        };
                        self.flows.insert(flow, joined);
                        self.carry.input(open);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a local connection could not be served");
                        tcp::abort(stream);
                    }
                }
            }
            Who::Packet(packet) => self.unpark(packet),
            Who::Datagram { client, bytes } => self.begin_udp(flow, open, from, client, bytes),
            Who::Associated {
                association,
                peer,
                bytes,
            } => self.begin_associated((flow, open), from, (association, peer), bytes),
        }
    }

    fn begin_udp(
        &mut self,
        flow: FlowId,
        open: Input<'_>,
        listener: ListenerId,
        client: SocketAddr,
        bytes: Bytes,
    ) {
        let Some(Listener::Udp(udp)) = self.locals.listeners.get_mut(&listener) else {
            return;
        };
        if let Some(flow) = udp.flow_of(client) {
            return self.carry.input(Input::Packet { flow, bytes });
        }
        if udp.join(client, flow) {
            self.flows
                .insert(flow, Flow::UdpClient { listener, client });
            self.carry.input(open);
            self.carry.input(Input::Packet { flow, bytes });
        }
    }

    /// An app's tunnel is open: everybody who waited for it begins.
    pub(super) fn start_waiting(&mut self, app: &Name) {
        let Some(grant) = self.routes.open(app) else {
            return;
        };
        for waiting in self.routes.take_waiting(app) {
            self.begin(grant, waiting);
        }
    }

    /// The control half says that an app is open under this grant.
    ///
    /// The tunnel may have ended meanwhile; then whoever waits wants another.
    pub(super) fn opened(&mut self, app: &Name, grant: GrantId) {
        if self.routes.open(app).is_some() {
            self.start_waiting(app);
        } else if self.carry.tunnels.stats(grant).is_none() {
            for waiting in self.routes.take_waiting(app) {
                self.want(app, waiting);
            }
        }
    }

    /// An app cannot be opened: everybody who waits for it is turned away.
    pub(super) fn denied(&mut self, app: &Name, why: &Refusal) {
        for waiting in self.routes.take_waiting(app) {
            self.turn_away(waiting, why);
        }
    }

    pub(super) fn waited_too_long(&mut self) {
        let now = self.carry.now.instant;
        let why = Refusal::new(RefusalCode::Unreachable, "no tunnel was opened in time");
        let late = |waiting: &Waiting| waiting.since + WAITING_TIME <= now;
        for waiting in self.routes.take_leaving(late) {
            self.turn_away(waiting, &why);
        }
    }

    fn turn_away(&mut self, waiting: Waiting, why: &Refusal) {
        match waiting.who {
            Who::Stream(Caller {
                mut stream,
                socks: Some(_),
            }) => say(&mut stream, &socks::Reply::NotAllowed.bytes()),
            Who::Stream(caller) => tcp::abort(caller.stream),
            Who::Packet(packet) => return self.refuse_packet(packet, why.code),
            Who::Datagram { .. } | Who::Associated { .. } => {}
        }
        self.told.push(FromData::Refused {
            listener: waiting.from,
            refusal: why.clone(),
        });
    }
}

/// Says a few bytes to a local program, which has room for them or is not worth waiting for.
pub(super) fn say(stream: &mut TcpStream, bytes: &[u8]) {
    if let Err(error) = stream.write_all(bytes) {
        tracing::debug!(%error, "a local program did not take an answer");
    }
}
