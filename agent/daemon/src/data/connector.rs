//! The connector's side: flows that come out of tunnels and go to apps, after one last check.

use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cardea_host::{addresses, tcp};
use cardea_proto::{
    app::{Protocol, Target},
    id::GrantId,
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::{DialError, FlowId, Input, PermittedAddress, ResetReason};
use mio::{Waker, event::Event};

use super::{
    flow::{Destination, Dialing, Flow, Stage},
    plane::{Due, Plane},
    resolver::Resolver,
    tcp::TcpFlow,
    udp::{self, UdpTarget},
    wiring::Owner,
};

/// How long a target may take to answer, and a name to be resolved, each.
///
/// Two retransmissions of a SYN (after 1 s and 3 s) fit, and the person does not wait longer.
const DIAL_TIME: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// How long the list of this machine's own addresses is good.
const OWN_TIME: Duration = Duration::from_secs(1);

/// What dials need besides sockets.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) resolver: Resolver,
    own: Vec<IpAddr>,
    own_until: Option<Instant>,
}

impl Dialer {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self {
            resolver: Resolver::new(waker),
            own: Vec::new(),
            own_until: None,
        }
    }

    /// The connector's own addresses, which no app is reached at by accident.
    fn own(&mut self, now: Instant) -> &[IpAddr] {
        if self.own_until.is_none_or(|until| until <= now) {
            self.own = addresses::own();
            self.own_until = Some(now + OWN_TIME);
        }
        &self.own
    }
}

impl Plane {
    /// Somebody with a grant wants to reach `target`.
    pub(super) fn dial(&mut self, flow: FlowId, grant: GrantId, target: Target) {
        let destination = Destination { grant, target };
        match destination.target.address() {
            Some(address) => self.connect(flow, destination, vec![address]),
            None if self.dialer.resolver.ask(flow, &destination.target.host) => {
                self.wait_for_dial(flow, Stage::Resolving(destination));
            }
            None => self.dialed(flow, Err(DialError::Busy)),
        }
    }

    /// A name has these addresses, for this one flow.
    pub(super) fn resolved(&mut self, flow: FlowId, mut addresses: Vec<IpAddr>) {
        let Some(Flow::Dialing(dialing)) = self.flows.get_mut(flow) else {
            return;
        };
        let Stage::Resolving(destination) = &dialing.stage else {
            return;
        };
        let destination = destination.clone();
        self.flows.remove(flow);
        if addresses.is_empty() {
            return self.dialed(flow, Err(DialError::NotResolved));
        }
        addresses.truncate(ADDRESSES_MAX);
        addresses.reverse();
        self.connect(flow, destination, addresses);
    }

    /// Tries the last of `left`, then the one before, until one can be dialed.
    fn connect(&mut self, flow: FlowId, destination: Destination, mut left: Vec<IpAddr>) {
        let mut failure = DialError::NotPermitted;
        while let Some(address) = left.pop() {
            let Some(to) = self.permitted(&destination, address, &[]) else {
                continue;
            };
            let result = match destination.target.service.protocol {
                Protocol::Udp => self.open_udp(flow, to),
                Protocol::Tcp => self.begin_tcp(flow, to, &destination, &left),
            };
            match result {
                Ok(()) => return,
                Err(error) => failure = dial_error(&error),
            }
        }
        self.dialed(flow, Err(failure));
    }

    /// The check of the address that is really dialed, at the moment when it is.
    fn permitted(
        &mut self,
        destination: &Destination,
        address: IpAddr,
        more: &[IpAddr],
    ) -> Option<PermittedAddress> {
        let now = self.carry.now.instant;
        let mut own = self.dialer.own(now).to_vec();
        own.extend_from_slice(more);
        let egress = self.routes.egress(destination.grant)?;
        match egress.permit(&destination.target, address, &own) {
            Ok(to) => Some(to),
            Err(reason) => {
                tracing::warn!(
                    grant.id = %destination.grant,
                    reason = ?reason,
                    "a target's address is not one that this connector dials"
                );
                self.carry.tunnels.note_drop(reason);
                None
            }
        }
    }

    fn open_udp(&mut self, flow: FlowId, to: PermittedAddress) -> io::Result<()> {
        let mut socket = udp::connect(to.socket())?;
        let token = self.wiring.add(&mut socket, Owner::Flow(flow))?;
        let target = UdpTarget {
            socket,
            token,
            readable: true,
            queued: false,
        };
        self.flows.insert(flow, Flow::UdpTarget(target));
        self.dialed(flow, Ok(()));
        Ok(())
    }

    fn begin_tcp(
        &mut self,
        flow: FlowId,
        to: PermittedAddress,
        destination: &Destination,
        left: &[IpAddr],
    ) -> io::Result<()> {
        let mut stream = tcp::connect(to.socket())?;
        let token = self.wiring.add(&mut stream, Owner::Flow(flow))?;
        let stage = Stage::Connecting {
            stream,
            token,
            to,
            destination: destination.clone(),
            left: left.to_vec(),
        };
        self.wait_for_dial(flow, stage);
        Ok(())
    }

    fn wait_for_dial(&mut self, flow: FlowId, stage: Stage) {
        let until = self.carry.now.instant + DIAL_TIME;
        self.timers.set(until, Due::Dial(flow));
        self.flows
            .insert(flow, Flow::Dialing(Dialing { stage, until }));
    }

    /// The system has news of a connection that is being made.
    pub(super) fn dial_progress(&mut self, flow: FlowId, event: &Event) {
        let Some(Flow::Dialing(dialing)) = self.flows.get_mut(flow) else {
            return;
        };
        let Stage::Connecting { stream, .. } = &dialing.stage else {
            return;
        };
        if stream.peer_addr().is_ok() {
            return self.connected(flow, event);
        }
        match stream.take_error() {
            // Not yet.
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => self.dial_failed(flow, dial_error(&error)),
        }
    }

    fn connected(&mut self, flow: FlowId, event: &Event) {
        let Some(Flow::Dialing(Dialing {
            stage:
                Stage::Connecting {
                    stream,
                    token,
                    to,
                    destination,
                    ..
                },
            ..
        })) = self.flows.remove(flow)
        else {
            return;
        };
        // Whoever is reached from its own address is this very host, whatever the tables said.
        let peer = to.socket().ip();
        let is_own = stream.local_addr().is_ok_and(|local| local.ip() == peer);
        if is_own && self.permitted(&destination, peer, &[peer]).is_none() {
            self.wiring.forget(token);
            tcp::abort(stream);
            return self.dialed(flow, Err(DialError::NotPermitted));
        }
        let joined = Flow::Tcp {
            flow: Box::new(TcpFlow::dialed(flow, stream, token, event)),
            from: None,
        };
        self.flows.insert(flow, joined);
        self.dialed(flow, Ok(()));
    }

    fn dial_failed(&mut self, flow: FlowId, why: DialError) {
        let Some(Flow::Dialing(Dialing {
            stage:
                Stage::Connecting {
                    stream,
                    token,
                    destination,
                    left,
                    ..
                },
            ..
        })) = self.flows.remove(flow)
        else {
            return;
        };
        self.wiring.forget(token);
        drop(stream);
        if left.is_empty() {
            self.dialed(flow, Err(why));
        } else {
            self.connect(flow, destination, left);
        }
    }

    pub(super) fn dial_timed_out(&mut self, flow: FlowId) {
        let now = self.carry.now.instant;
        match self.flows.get_mut(flow) {
            Some(Flow::Dialing(dialing)) if dialing.until <= now => {}
            Some(_) | None => return,
        }
        if let Some(Flow::Dialing(Dialing {
            stage: Stage::Resolving(_),
            ..
        })) = self.flows.get_mut(flow)
        {
            self.flows.remove(flow);
            self.dialed(flow, Err(DialError::NotResolved));
        } else {
            self.dial_failed(flow, DialError::TimedOut);
        }
    }

    fn dialed(&mut self, flow: FlowId, result: Result<(), DialError>) {
        if let Err(why) = result {
            tracing::debug!(reason = %why, "a flow did not reach its target");
        }
        self.carry.input(Input::Dialed { flow, result });
    }
}

/// What the system's error means to whoever waits for the flow.
fn dial_error(error: &io::Error) -> DialError {
    let kind = error.kind();
    if matches!(
        kind,
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    ) {
        DialError::Refused
    } else if kind == io::ErrorKind::TimedOut {
        DialError::TimedOut
    } else if kind == io::ErrorKind::PermissionDenied {
        DialError::NotPermitted
    } else {
        DialError::Unreachable
    }
}

/// What the person at a local listener is told; nothing when the flow simply ended.
pub(super) fn refusal(why: ResetReason) -> Option<Refusal> {
    match why {
        ResetReason::Refused(error) => Some(Refusal::new(
            RefusalCode::TargetUnreachable,
            format!("the connector did not reach the app: {error}"),
        )),
        ResetReason::NotGranted => Some(Refusal::new(
            RefusalCode::NotPermitted,
            "the app has no such port",
        )),
        ResetReason::Limit => Some(Refusal::new(
            RefusalCode::Busy,
            "too many connections through this tunnel",
        )),
        ResetReason::Peer | ResetReason::TunnelClosed(_) => None,
    }
}
