//! How a flow's two sides learn what became of each other.

use cardea_host::tcp::{self, TcpStream};
use cardea_tunnel::{FlowId, Input, ResetReason};

use super::{
    FromData, connector,
    flow::{Flow, Stage},
    listen::say,
    plane::Plane,
    socks,
};

impl Plane {
    /// The connector reached the target: a client of SOCKS is told.
    pub(super) fn established(&mut self, id: FlowId) {
        if let Some(Flow::Tcp { flow, .. }) = self.flows.get_mut(id)
            && flow.is_held()
        {
            flow.release(bytes::Bytes::copy_from_slice(
                &socks::Reply::Succeeded.bytes(),
            ));
        }
        self.flows.queue(id);
    }

    /// The tunnel's side of a flow is gone: so is this one, at once.
    pub(super) fn reset(&mut self, id: FlowId, why: ResetReason) {
        tracing::debug!(?why, "a flow was reset");
        let from = self.flows.listener(id);
        if let (Some(from), Some(refusal)) = (from, connector::refusal(why)) {
            self.told.push(FromData::Refused {
                listener: from,
                refusal,
            });
        }
        let held = matches!(self.flows.get(id), Some(Flow::Tcp { flow, .. }) if flow.is_held());
        let stream = self.take_stream(id);
        match stream {
            Some(mut stream) if held => say(&mut stream, &reply(why).bytes()),
            Some(stream) => tcp::abort(stream),
            None => {}
        }
    }

    /// The tunnel has delivered everything of a flow.
    pub(super) fn closed(&mut self, id: FlowId) {
        if let Some(Flow::Tcp { flow, .. }) = self.flows.get_mut(id) {
            flow.delivered();
            self.flows.queue(id);
        } else {
            drop(self.take_stream(id));
        }
    }

    /// The local side of a flow is gone: the tunnel's side is reset.
    pub(super) fn break_flow(&mut self, id: FlowId) {
        self.carry.input(Input::Reset { flow: id });
        if let Some(stream) = self.take_stream(id) {
            tcp::abort(stream);
        }
    }

    /// Forgets a flow and its sockets; gives its stream back, to be closed.
    pub(super) fn take_stream(&mut self, id: FlowId) -> Option<TcpStream> {
        match self.flows.remove(id)? {
            Flow::Tcp { flow, .. } => {
                let (stream, token) = flow.into_stream();
                self.wiring.forget(token);
                Some(stream)
            }
            Flow::Dialing(dialing) => match dialing.stage {
                Stage::Connecting { stream, token, .. } => {
                    self.wiring.forget(token);
                    Some(stream)
                }
                Stage::Resolving(_) => None,
            },
            Flow::UdpTarget(target) => {
                self.wiring.forget(target.token);
                None
            }
            Flow::UdpClient { listener, client } => {
                self.locals.leave(listener, client);
                None
            }
            Flow::Associated {
                association, peer, ..
            } => {
                self.locals.associations.leave(association, &peer);
                None
            }
        }
    }
}

/// What a client of SOCKS is told.
const fn reply(why: ResetReason) -> socks::Reply {
    use cardea_tunnel::DialError;
    match why {
        ResetReason::Refused(DialError::Refused | DialError::Unsaid) => socks::Reply::Refused,
        ResetReason::Refused(
            DialError::Unreachable | DialError::TimedOut | DialError::NotResolved,
        ) => socks::Reply::HostUnreachable,
        ResetReason::Refused(DialError::NotPermitted) | ResetReason::NotGranted => {
            socks::Reply::NotAllowed
        }
        ResetReason::Refused(DialError::Busy)
        | ResetReason::Peer
        | ResetReason::TunnelClosed(_)
        | ResetReason::Limit => socks::Reply::Failed,
    }
}
