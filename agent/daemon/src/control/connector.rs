//! A connector's loop.

use cardea_host::{clock::Clock, entropy, files::StateDir, process};
use cardea_node::{Connector, ConnectorInput, ConnectorOutbox, ConnectorSettings};
use cardea_proto::{
    PROGRAM_VERSION,
    id::ConnectorId,
    local::{ConnectorStatus, ConnectorView, LocalAnswer, LocalRequest},
    refusal::{Refusal, RefusalCode},
};
use cardea_tunnel::End;

use super::{Common, FAREWELL_TIME, Net, Until, nap};
use crate::{
    data::{Data, FromData, ToData, back::Back, stack::Interface},
    line::LineEvent,
    local::{self, Call},
    state::Node,
    virtual_addresses::Ranges,
};

/// A connector and its shell.
struct Shell {
    common: Common,
    connector: Connector,
    out: ConnectorOutbox,
}

/// Serves as the connector `id` until the program is asked to end, or until what ends it earlier:
/// why is returned.
///
/// # Errors
/// As the system says, when there is no socket or thread to begin with.
pub(crate) async fn run(
    dir: StateDir,
    node: Node,
    id: ConnectorId,
    (Net { direct, proxy }, ranges): (Net, Option<Ranges>),
    until: Until,
) -> std::io::Result<Option<Refusal>> {
    let clock = Clock::system();
    let interface = match ranges {
        None => None,
        Some(ranges) => {
            let back = Back::open(ranges).map_err(std::io::Error::other)?;
            Some(Interface::Back(Box::new(back)))
        }
    };
    let (data, mut told) =
        Data::start_with((End::Connector, interface), clock, entropy::seed(), direct)?;
    let mut calls = local::serve(dir.path(), None)?;
    let settings = ConnectorSettings {
        connector: id,
        name: node.name.clone(),
        domain: node.domain.clone(),
        trust: node.trust.clone(),
        certificate: node.certificate.clone(),
        signer: std::sync::Arc::clone(&node.signer),
        addresses: node.addresses.clone(),
        program: PROGRAM_VERSION.to_owned(),
        ledger: node.ledger.clone(),
        checkpoint: node.checkpoint.clone(),
        home: dir.path().display().to_string(),
    };
    let mut shell = Shell {
        common: Common::new(clock, dir, node, data, proxy),
        connector: Connector::new(settings, entropy::seed()),
        out: ConnectorOutbox::default(),
    };
    shell.handle(ConnectorInput::Timeout);
    let mut ending = std::pin::pin!(process::listen_for_end()?);
    shell.common.supervisor.ready();
    let ended = loop {
        if let Some(ended) = until.has_come(shell.connector.ended()) {
            break Some(ended);
        }
        shell.common.show_life();
        let deadline = shell.common.next(shell.connector.deadline());
        tokio::select! {
            biased;
            event = shell.common.line.event() => shell.line(event),
            event = told.recv() => match event {
                Some(FromData::Tunnel(event)) => shell.handle(ConnectorInput::Tunnel(event)),
                Some(FromData::Addresses(addresses)) => {
                    shell.handle(ConnectorInput::Addresses(addresses));
                }
                Some(FromData::Pulse) => shell.common.supervisor.alive(),
                Some(FromData::Moved) => shell.handle(ConnectorInput::Moved),
                Some(
                    FromData::Wanted(_)
                    | FromData::Refused { .. }
                    | FromData::Figures(_)
                    | FromData::Addressed(_),
                ) => {}
                None => return Err(std::io::Error::other("the data half ended")),
            },
            Some(call) = calls.recv() => shell.call(call),
            () = nap(clock, deadline) => shell.handle(ConnectorInput::Timeout),
            () = &mut ending => break None,
        }
    };
    shell.common.supervisor.stopping();
    shell.common.line.disconnect();
    tokio::time::sleep(FAREWELL_TIME).await;
    Ok(ended)
}

impl Shell {
    fn handle(&mut self, input: ConnectorInput) {
        let now = self.common.clock.now();
        self.connector.handle(now, input, &mut self.out);
        self.common.flush(&mut self.out.node);
        let view = self.connector.controller_view();
        let why = self.connector.unreachable().advised();
        self.common.show(&view, &why.to_string());
    }

    fn line(&mut self, event: LineEvent) {
        self.handle(match event {
            LineEvent::Up {
                exporter,
                address,
                peer,
            } => {
                self.common.data.send(ToData::Controller(peer));
                ConnectorInput::ChannelUp { exporter, address }
            }
            LineEvent::Rerouted { address } => ConnectorInput::ChannelRerouted { address },
            LineEvent::Down { why } => {
                tracing::info!(reason = %why, "no channel");
                ConnectorInput::ChannelDown { why }
            }
            LineEvent::Message(message) => ConnectorInput::Message(message),
        });
    }

    fn call(&self, call: Call) {
        let answer = match call.request {
            LocalRequest::Netcheck => return self.common.netcheck(call.reply),
            LocalRequest::Status => LocalAnswer::ConnectorStatus(Box::new(ConnectorStatus {
                connector: ConnectorView {
                    id: self.connector.connector(),
                    name: self.connector.name().clone(),
                },
                controller: self.connector.controller_view(),
                certificate: self.connector.certificate_view(),
                grants: self.connector.grants(),
            })),
            LocalRequest::Up
            | LocalRequest::Down
            | LocalRequest::Apps
            | LocalRequest::Explain(_)
            | LocalRequest::Posture
            | LocalRequest::Forward { .. }
            | LocalRequest::Proxy { .. }
            | LocalRequest::RestoreDns => LocalAnswer::Refused(Refusal::new(
                RefusalCode::Invalid,
                "a connector serves apps; it reaches none",
            )),
        };
        if call.reply.send(answer.into()).is_err() {
            tracing::debug!("a local program did not wait for its answer");
        }
    }
}
