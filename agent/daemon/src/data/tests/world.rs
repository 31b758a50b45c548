//! Two ends, a relay between them, and apps, all on this machine's loopback.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use cardea_credential::{
    testing::{TestDomain, TestNode},
    tls,
};
use cardea_host::{clock::Clock, entropy};
use cardea_proto::{
    access::InnerAddresses,
    app::{Carrier, Protocol, Service, Target},
    codec::{Blob, Bytes, Secret32},
    id::{ConnectorId, DeviceId, GrantId},
    identity::Holder,
    name::Name,
    relay::{FrameKind, Handle, Side, TICKET_BODY_BYTES, TICKET_BYTES, Ticket},
};
use cardea_tunnel::{
    CarrierKeys, Command, Egress, End, Event, Install, Meeting, keys::WireGuardKey,
};
use tokio::sync::{mpsc, oneshot};

use super::super::{Data, DirectSettings, FromData, ListenerId, Serves, ToData};

/// Nothing on one machine takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) struct World {
    pub(super) agent: Data,
    pub(super) agent_told: mpsc::Receiver<FromData>,
    pub(super) connector: Data,
    pub(super) connector_told: mpsc::Receiver<FromData>,
    relay: SocketAddr,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    domain: TestDomain,
    device: TestNode,
    node: TestNode,
    next: u8,
}

/// On loopback there is nothing else to be had.
fn relay_only() -> DirectSettings {
    DirectSettings {
        relay_only: true,
        ..DirectSettings::default()
    }
}

impl World {
    pub(super) fn new() -> Self {
        let clock = Clock::system();
        let now = clock.now().unix;
        let domain = TestDomain::new("corp.example", now);
        let device = Holder::Device(DeviceId::from_bytes([1; 10]));
        let connector = Holder::Connector(ConnectorId::from_bytes([2; 10]));
        let (device, node) = (domain.node(device, now), domain.node(connector, now));
        let (agent, agent_told) =
            Data::start(End::Agent, clock, entropy::seed(), relay_only()).unwrap();
        let (connector, connector_told) =
            Data::start(End::Connector, clock, entropy::seed(), relay_only()).unwrap();
        let said = Arc::default();
        Self {
            agent,
            agent_told,
            connector,
            connector_told,
            relay: relay(Arc::clone(&said)),
            said,
            domain,
            device,
            node,
            next: 0,
        }
    }

    /// All that the relay has said to the ends.
    pub(super) fn said(&self) -> Vec<Vec<u8>> {
        self.said.lock().unwrap().clone()
    }

    /// Installs both ends of a tunnel to `app`, and waits until bytes pass.
    pub(super) fn open(&mut self, app: &str, targets: Vec<Target>, carrier: Carrier) -> GrantId {
        let grant = self.install(app, targets, carrier, true);
        self.wait_open(grant);
        grant
    }

    pub(super) fn install(
        &mut self,
        app: &str,
        targets: Vec<Target>,
        carrier: Carrier,
        host_scoped: bool,
    ) -> GrantId {
        self.next += 1;
        let number = self.next;
        let grant = GrantId::from_bytes([number; 10]);
        let (agent_keys, connector_keys) = self.keys(carrier, number);
        let mut services: Vec<Service> = targets.iter().map(|target| target.service).collect();
        services.sort_unstable();
        services.dedup();
        let egress = Egress {
            targets,
            host_scoped,
            never: Vec::new(),
        };
        let install = |keys, side, egress| Install {
            grant,
            app: app.parse().unwrap(),
            keys,
            ttl: Duration::from_secs(300),
            relay: vec![self.relay],
            ticket: ticket(number, side),
            standby: Vec::new(),
            services: services.clone(),
            inner: InnerAddresses {
                device_v4: Ipv4Addr::new(100, 64, number, 1),
                device_v6: "fd00::1".parse().unwrap(),
                app_v4: Ipv4Addr::new(100, 64, number, 2),
                app_v6: "fd00::2".parse().unwrap(),
            },
            meeting: Meeting {
                secret: Secret32([number; 32]),
                peer: Vec::new(),
                never: Vec::new(),
            },
            egress,
        };
        let at_connector = install(connector_keys, Side::Connector, Some(egress));
        let at_agent = install(agent_keys, Side::Agent, None);
        self.connector
            .send(ToData::Tunnel(Command::Install(Box::new(at_connector))));
        self.agent
            .send(ToData::Tunnel(Command::Install(Box::new(at_agent))));
        grant
    }

    fn keys(&self, carrier: Carrier, number: u8) -> (CarrierKeys, CarrierKeys) {
        match carrier {
            Carrier::WireGuard => {
                let agent = WireGuardKey::generate([number; 32]);
                let connector = WireGuardKey::generate([number + 100; 32]);
                let psk = Secret32([number; 32]);
                let keys = |private: &Secret32, peer: Bytes<32>| CarrierKeys::WireGuard {
                    private: private.clone(),
                    peer,
                    psk: psk.clone(),
                };
                (
                    keys(&agent.private, connector.public),
                    keys(&connector.private, agent.public),
                )
            }
            Carrier::Quic => {
                let time = Arc::new(tls::FixedTime(Clock::system().now().unix));
                let trust = &self.domain.trust;
                let client = tls::tunnel_client(
                    trust.clone(),
                    &self.device.chain,
                    Arc::clone(&self.device.signer),
                    self.node.peer(),
                    time.clone(),
                );
                let server = tls::tunnel_server(
                    trust.clone(),
                    &self.node.chain,
                    Arc::clone(&self.node.signer),
                    self.device.peer(),
                    time,
                );
                (
                    CarrierKeys::QuicClient(client),
                    CarrierKeys::QuicServer(server),
                )
            }
        }
    }

    pub(super) fn wait_open(&mut self, grant: GrantId) {
        loop {
            if let FromData::Tunnel(Event::Opened { grant: opened }) = told(&mut self.agent_told)
                && opened == grant
            {
                return;
            }
        }
    }

    /// A listener at the agent.
    pub(super) fn listen(&self, number: u64, serves: Serves) -> SocketAddr {
        let (reply, answer) = oneshot::channel();
        self.agent.send(ToData::Listen {
            listener: ListenerId(number),
            serves,
            at: (Ipv4Addr::LOCALHOST, 0).into(),
            reply,
        });
        answer.blocking_recv().unwrap().unwrap()
    }

    /// A listener at the agent for the one port of an app.
    pub(super) fn forward(&self, number: u64, app: &str, target: &Target) -> SocketAddr {
        self.listen(
            number,
            Serves::App {
                app: app.parse::<Name>().unwrap(),
                service: target.service,
            },
        )
    }
}

/// The next event, or the test fails.
pub(super) fn told(events: &mut mpsc::Receiver<FromData>) -> FromData {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, events.recv()).await })
        .expect("an event in time")
        .expect("a data half that lives")
}

pub(super) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// An app that `serve`s each of its connections on a thread.
pub(super) fn tcp_app(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    target(port, Protocol::Tcp)
}

/// An app that says back what it hears, and ends when its client has.
pub(super) fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// An app that says every datagram back, at an address of either family.
pub(super) fn udp_app(host: IpAddr) -> Target {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            if socket.send_to(&buffer[..count], from).is_err() {
                return;
            }
        }
    });
    target_at(host, port, Protocol::Udp)
}

pub(super) fn target(port: u16, protocol: Protocol) -> Target {
    target_at(LOOPBACK, port, protocol)
}

fn target_at(host: IpAddr, port: u16, protocol: Protocol) -> Target {
    Target {
        host: host.to_string(),
        service: Service { protocol, port },
    }
}

fn ticket(number: u8, side: Side) -> Blob {
    let handle = match side {
        Side::Agent => [number; 7],
        Side::Connector => [number + 100; 7],
    };
    let ticket = Ticket {
        tunnel: Bytes([number; 16]),
        side,
        handle: Handle::from_bytes(handle),
        not_after: Clock::system().now().unix.plus(Duration::from_secs(600)),
    };
    let mut bytes = ticket.body().to_vec();
    bytes.resize(TICKET_BYTES, 0);
    Blob(bytes)
}

/// Forwards between the two ends of each tunnel; believes every ticket.
fn relay(said: Arc<Mutex<Vec<Vec<u8>>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut bound: BTreeMap<Handle, (Ticket, SocketAddr)> = BTreeMap::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let datagram = &buffer[..count];
            let mut answer = Vec::new();
            let mut to = from;
            if let Some((handle, sealed)) = Handle::split_data(datagram) {
                let Some((mine, _)) = bound.get(&handle) else {
                    continue;
                };
                let other = bound
                    .values()
                    .find(|(other, _)| other.tunnel == mine.tunnel && other.side != mine.side);
                let Some((other, address)) = other else {
                    continue;
                };
                to = *address;
                answer.extend_from_slice(&other.handle.data_header());
                answer.extend_from_slice(sealed);
            } else if datagram.first() == Some(&FrameKind::Bind.byte()) {
                let body: [u8; TICKET_BODY_BYTES] = datagram[1..][..TICKET_BODY_BYTES]
                    .try_into()
                    .expect("a ticket");
                let ticket = Ticket::from_body(&body).expect("a ticket");
                bound.insert(ticket.handle, (ticket, from));
                answer.extend_from_slice(&ticket.handle.bound());
            }
            if socket.send_to(&answer, to).is_err() {
                return;
            }
            said.lock().unwrap().push(answer);
        }
    });
    address
}
