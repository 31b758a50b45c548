//! The ports that a controller takes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use cardea_credential::ticket::TicketKey;
use cardea_host::{
    channel::{ChannelError, Gate, Server},
    detour::Detours,
    exit::{Code, Failure},
};
use cardea_relay_server::{
    Running as RunningRelay, Server as RelayServer,
    config::{Config as RelayConfig, DecoyFiles},
    front::{Controller, Front, Keeper, RunningFront, Targets},
};
use rustls::ServerConfig;
use tokio::sync::oneshot;

use crate::config::Settings;

/// Everything that listens for nodes.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Channels and enrollments.
    pub(crate) server: Server,
    /// The embedded relay, if there is one.
    pub(crate) relay: Option<RelayServer>,
    /// Its front, if it has one.
    pub(crate) front: Option<Front>,
}

impl Sockets {
    /// Binds all of them; channels stand behind `gate`.
    pub(crate) fn bind(
        settings: &Settings,
        tls: &Arc<ServerConfig>,
        gate: &Gate,
        tickets: &TicketKey,
    ) -> Result<Self, Failure> {
        // Before the first port is open: what strangers see is the same from then on.
        settings.guard.install("cardea-controller")?;
        let decoy = settings.decoy.as_ref().map(DecoyFiles::load).transpose();
        let decoy = decoy.map_err(|error| {
            let next = "Give PEM files that are there: --tls-decoy CERT,KEY[,PAGE]";
            Failure::of(Code::Usage, "--tls-decoy", error, next)
        })?;
        let detours = Detours::default();
        let (server, inlet) = bind(settings.listen, "--listen", |listen| {
            Server::bind_behind(listen, Arc::clone(tls), gate.clone(), detours.clone())
                .map_err(into_io)
        })?;
        let limits = RelayConfig {
            relay_rate: settings.relay_rate,
            ..RelayConfig::default()
        }
        .settings();
        let relay = settings.relay_listen.map(|listen| {
            bind(listen, "--relay-listen", |listen| {
                RelayServer::bind(listen, tickets.public(), limits)
            })
        });
        let mut relay = relay.transpose()?;
        let front = match (settings.front_listen, &mut relay) {
            (Some(listen), Some(relay)) => {
                let targets = Targets {
                    relay: relay.serve_behind(detours.clone()),
                    controller: inlet.map(Controller::Beside),
                };
                let keeper = Keeper::new(tickets.fronts().clone(), Some(gate.clone()));
                Some(bind(listen, "--listen-tls", |listen| {
                    let leads = (detours.clone(), targets.clone());
                    Front::bind(listen, keeper.clone(), decoy.clone(), leads)
                })?)
            }
            (Some(_) | None, _) => None,
        };
        Ok(Self {
            server,
            relay,
            front,
        })
    }
}

impl Sockets {
    /// Where the relay listens, and where its front does.
    pub(crate) fn listening(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let relay = self.relay.as_ref().map(RelayServer::local_address);
        (relay, self.front.as_ref().map(Front::local_address))
    }
}

/// The relay and its front, each on a thread of its own.
#[derive(Debug)]
pub(crate) struct Relaying {
    /// The relay.
    pub(crate) relay: Option<RunningRelay>,
    /// Resolves when the relay's thread has ended.
    pub(crate) relay_ended: Option<oneshot::Receiver<()>>,
    /// Its front.
    pub(crate) front: Option<RunningFront>,
    /// Resolves when the front's thread has ended.
    pub(crate) front_ended: Option<oneshot::Receiver<()>>,
}

impl Relaying {
    /// Starts what there is.
    pub(crate) fn start(relay: Option<RelayServer>, front: Option<Front>) -> io::Result<Self> {
        let (ends, ended) = oneshot::channel::<()>();
        let (front_ends, front_ended) = oneshot::channel::<()>();
        Ok(Self {
            relay_ended: relay.is_some().then_some(ended),
            relay: relay.map(|relay| relay.spawn(ends)).transpose()?,
            front_ended: front.is_some().then_some(front_ended),
            front: front.map(|front| front.spawn(front_ends)).transpose()?,
        })
    }
}

/// Binds; what listens on every address of both families does so on IPv4 alone where there is no
/// IPv6.
fn bind<T>(
    listen: SocketAddr,
    flag: &str,
    open: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, Failure> {
    let everywhere = listen.is_ipv6() && listen.ip().is_unspecified();
    let bound = match open(listen) {
        Err(error) if everywhere && error.kind() != io::ErrorKind::AddrInUse => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, listen.port())))
        }
        other => other,
    };
    bound.map_err(|error| {
        let why = if error.kind() == io::ErrorKind::AddrInUse {
            "another program uses this port".to_owned()
        } else {
            error.to_string()
        };
        let what = format!("cannot listen on {listen}");
        let next = format!("Choose another address with {flag} ADDRESS:PORT");
        Failure::of(Code::Failed, &what, why, &next)
    })
}

fn into_io(error: ChannelError) -> io::Error {
    match error {
        ChannelError::Socket(error) => error,
        ChannelError::Tls
        | ChannelError::NoAnswer(_)
        | ChannelError::Refused
        | ChannelError::Closed(_)
        | ChannelError::Protocol
        | ChannelError::Decode(_)
        | ChannelError::Truncated
        | ChannelError::SlowReader => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_it_listens_on_ipv4_alone() {
        let bound = bind(
            "[::]:7443".parse().unwrap(),
            "--listen",
            |listen| match listen.is_ipv6() {
                true => Err(io::Error::from_raw_os_error(97)),
                false => Ok(listen),
            },
        );
        assert_eq!(bound.unwrap(), "0.0.0.0:7443".parse().unwrap());
    }

    #[test]
    fn a_port_in_use_is_named_with_the_flag_that_chooses_another() {
        let refused = bind::<()>("[::]:7444".parse().unwrap(), "--relay-listen", |_| {
            Err(io::ErrorKind::AddrInUse.into())
        });
        let failure = refused.unwrap_err();
        assert_eq!(
            failure.message,
            "cannot listen on [::]:7444: another program uses this port. \
             Choose another address with --relay-listen ADDRESS:PORT"
        );
        assert_eq!(failure.code, 1);
    }
}
