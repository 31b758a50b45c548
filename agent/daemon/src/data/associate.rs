//! SOCKS5's `UDP ASSOCIATE`: datagrams whose headers name apps, for as long as a TCP connection lives.
//!
//! Source: RFC 1928 §7.

use std::{collections::BTreeMap, io, net::SocketAddr};

use bytes::Bytes;
use cardea_host::tcp::TcpStream;
use cardea_proto::app::{Protocol, Service};
use cardea_tunnel::{FlowId, Input};
use mio::{Token, net::UdpSocket};

use super::{ListenerId, flow::Flow, listen::Who, plane::Plane, socks, wiring::Owner};

/// Associations at a time.
const ASSOCIATIONS_MAX: usize = 256;

/// Conversations of one association at a time.
const PEERS_MAX: usize = 256;

/// Datagrams that one association gives in one turn.
const TURN_DATAGRAMS: usize = 128;

/// All associations.
#[derive(Debug, Default)]
pub(super) struct Associations {
    all: BTreeMap<u64, Association>,
}

#[derive(Debug)]
struct Association {
    socket: UdpSocket,
    token: Token,
    /// Its end is the association's.
    tether: TcpStream,
    tether_token: Token,
    from: ListenerId,
    readable: bool,
    flows: BTreeMap<Peer, FlowId>,
}

/// One conversation of an association: who speaks, and with whom, as the client named it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) client: SocketAddr,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Associations {
    pub(super) fn ready(&mut self, number: u64) {
        if let Some(association) = self.all.get_mut(&number) {
            association.readable = true;
        }
    }

    pub(super) fn wants_turn(&self) -> bool {
        self.all.values().any(|association| association.readable)
    }

    /// Sends an app's payload to the client, with the name under which it knows the app.
    pub(super) fn send(&self, number: u64, peer: &Peer, bytes: &[u8]) {
        let Some(association) = self.all.get(&number) else {
            return;
        };
        let mut datagram = socks::datagram_header(&peer.host, peer.port);
        datagram.extend_from_slice(bytes);
        if let Err(error) = association.socket.send_to(&datagram, peer.client) {
            tracing::trace!(%error, "a datagram to a client of SOCKS was lost");
        }
    }

    pub(super) fn leave(&mut self, number: u64, peer: &Peer) {
        if let Some(association) = self.all.get_mut(&number) {
            association.flows.remove(peer);
        }
    }
}

impl Plane {
    /// A client of SOCKS asks for an association; its stream becomes the tether.
    pub(super) fn associate(&mut self, from: ListenerId, mut tether: TcpStream, token: Token) {
        let number = self.locals.next_number();
        match self.open_association(number, from, &tether) {
            Ok((socket, socket_token, address)) => {
                self.wiring.change(token, Owner::Tether(number));
                super::listen::say(&mut tether, &socks::succeeded_at(address));
                let association = Association {
                    socket,
                    token: socket_token,
                    tether,
                    tether_token: token,
                    from,
                    readable: true,
                    flows: BTreeMap::new(),
                };
                self.locals.associations.all.insert(number, association);
            }
            Err(error) => {
                tracing::debug!(%error, "no association for a client of SOCKS");
                self.wiring.forget(token);
                super::listen::say(&mut tether, &socks::Reply::Failed.bytes());
            }
        }
    }

    fn open_association(
        &mut self,
        number: u64,
        from: ListenerId,
        tether: &TcpStream,
    ) -> io::Result<(UdpSocket, Token, SocketAddr)> {
        if self.locals.associations.all.len() >= ASSOCIATIONS_MAX {
            return Err(io::Error::other("too many associations"));
        }
        let at = SocketAddr::new(tether.local_addr()?.ip(), 0);
        let mut socket = UdpSocket::bind(at)?;
        let address = socket.local_addr()?;
        let token = self.wiring.add(&mut socket, Owner::Association(number))?;
        tracing::debug!(listener = from.0, "a client of SOCKS sends datagrams");
        Ok((socket, token, address))
    }

    /// The tether moved: whatever it was, there is nothing more to say on it but its end.
    pub(super) fn tether_moved(&mut self, number: u64) {
        let Some(association) = self.locals.associations.all.get_mut(&number) else {
            return;
        };
        loop {
            match io::Read::read(&mut association.tether, &mut self.carry.scratch) {
                Ok(count) if count > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return self.dissociate(number),
            }
        }
    }

    /// Ends every association that came in through a listener.
    pub(super) fn dissociate_all(&mut self, from: ListenerId) {
        let all = self.locals.associations.all.iter();
        let numbers: Vec<u64> = all
            .filter(|(_, association)| association.from == from)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.dissociate(number);
        }
    }

    fn dissociate(&mut self, number: u64) {
        let Some(association) = self.locals.associations.all.remove(&number) else {
            return;
        };
        self.wiring.forget(association.token);
        self.wiring.forget(association.tether_token);
        for flow in association.flows.into_values() {
            self.break_flow(flow);
        }
    }

    /// Takes in what clients have sent, a bounded amount.
    pub(super) fn serve_associations(&mut self) {
        let all = self.locals.associations.all.iter();
        let ready: Vec<u64> = all
            .filter(|(_, association)| association.readable)
            .map(|(number, _)| *number)
            .collect();
        for number in ready {
            for _ in 0..TURN_DATAGRAMS {
                let Some((client, datagram)) = self.next_datagram(number) else {
                    break;
                };
                self.take_datagram(number, client, datagram);
            }
        }
    }

    fn next_datagram(&mut self, number: u64) -> Option<(SocketAddr, Bytes)> {
        let association = self.locals.associations.all.get_mut(&number)?;
        while association.readable {
            match association.socket.recv_from(&mut self.carry.scratch) {
                Ok((length, client)) => {
                    let bytes = self.carry.scratch.get(..length).unwrap_or_default();
                    return Some((client, Bytes::copy_from_slice(bytes)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    association.readable = false;
                }
                Err(error) => tracing::trace!(%error, "a client of SOCKS answered with an error"),
            }
        }
        None
    }

    fn take_datagram(&mut self, number: u64, client: SocketAddr, datagram: Bytes) {
        let Some(association) = self.locals.associations.all.get(&number) else {
            return;
        };
        // Datagrams count as the client's only from where its stream comes from.
        let tethered = association.tether.peer_addr().map(|peer| peer.ip());
        if tethered.ok() != Some(client.ip()) {
            return tracing::debug!("a stranger's datagram came to an association");
        }
        let Some((host, port, header)) = socks::datagram(&datagram) else {
            return tracing::debug!("a client of SOCKS sent what is no datagram for an app");
        };
        let (host, bytes) = (host.to_owned(), datagram.slice(header..));
        let peer = Peer { client, host, port };
        if let Some(flow) = association.flows.get(&peer).copied() {
            return self.carry.input(Input::Packet { flow, bytes });
        }
        let service = Service {
            protocol: Protocol::Udp,
            port,
        };
        let from = association.from;
        if let Some(app) = self.routes.find(&peer.host, service) {
            let who = Who::Associated {
                association: number,
                peer,
                bytes,
            };
            let waiting = self.waiting(from, service, who);
            self.want(&app, waiting);
        }
    }

    /// The tunnel is open: a conversation of an association begins.
    pub(super) fn begin_associated(
        &mut self,
        (flow, open): (FlowId, Input<'_>),
        listener: ListenerId,
        (association, peer): (u64, Peer),
        bytes: Bytes,
    ) {
        let Some(found) = self.locals.associations.all.get_mut(&association) else {
            return;
        };
        if let Some(flow) = found.flows.get(&peer).copied() {
            return self.carry.input(Input::Packet { flow, bytes });
        }
        if found.flows.len() >= PEERS_MAX {
            return;
        }
        found.flows.insert(peer.clone(), flow);
        let associated = Flow::Associated {
            listener,
            association,
            peer,
        };
        self.flows.insert(flow, associated);
        self.carry.input(open);
        self.carry.input(Input::Packet { flow, bytes });
    }
}
