//! The local API: what `cardea` says to the daemon on the same machine over `agent.sock`.
//!
//! Each [`LocalRequest`] has one [`LocalAnswer`], except that after `Forward` and `Proxy` the daemon
//! keeps the listener for as long as the connection lives, and says `Refused` on it whenever somebody
//! connected to the listener in vain.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    admin::Warning,
    app::{Carrier, Service, Transport},
    decision::Decision,
    id::{ConnectorId, DeviceId, GrantId},
    name::Name,
    netcheck::NetReport,
    posture::{PostureVerdict, Report},
    refusal::Refusal,
};

/// One request to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalRequest {
    /// Connects, and stays connected.
    Up,
    /// Disconnects, and stays so until `Up`.
    Down,
    /// How things are.
    Status,
    /// What this device may reach.
    Apps,
    /// Why an app may or may not be opened.
    Explain(Name),
    /// Facts, collected now and reported, with the controller's verdict.
    Posture,
    /// Listens on this machine for an app.
    Forward {
        /// The app.
        app: Name,
        /// Which of its ports; the only one when `None`.
        service: Option<Service>,
        /// Where to listen, `HOST:PORT`; port 0 takes any.
        listen: String,
    },
    /// Listens for SOCKS5 (RFC 1928), whose destinations are names of apps.
    Proxy {
        /// Where to listen, `HOST:PORT`; port 0 takes any.
        listen: String,
    },
    /// Undoes what was done so that the system finds names of apps, until the daemon is started anew.
    RestoreDns,
    /// Looks at the network: controllers by every way, relays, what stands between.
    Netcheck,
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalAnswer {
    /// Done, as the line says.
    Done(String),
    /// Not done.
    Refused(Refusal),
    /// The answer to `Status`.
    Status(Box<AgentStatus>),
    /// The answer to `Status` at a connector.
    ConnectorStatus(Box<ConnectorStatus>),
    /// The answer to `Apps`.
    Apps(Vec<AppStatus>),
    /// The answer to `Explain`.
    Explained(Box<Decision>),
    /// The answer to `Posture`.
    Posture {
        /// What this device reports.
        report: Report,
        /// What the controller last made of it.
        verdict: Option<PostureVerdict>,
    },
    /// The listener is there.
    Listening {
        /// Where.
        address: String,
    },
    /// The answer to `Netcheck`.
    Netcheck(Box<NetReport>),
}

/// How an agent is; `cardea status -o json` prints exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// The device.
    pub device: DeviceView,
    /// Its user.
    pub user: Option<Name>,
    /// The channel.
    pub controller: ControllerView,
    /// The certificate.
    pub certificate: CertificateView,
    /// Posture.
    pub posture: PostureView,
    /// Apps.
    pub apps: Vec<AppStatus>,
    /// What needs attention.
    pub warnings: Vec<Warning>,
    /// How names of apps are found, where the agent has a network interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsView>,
}

/// How names of apps are found on this device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsView {
    /// How the system is told: `resolved`, `resolv-conf`, or `off`.
    pub mode: String,
    /// Where the stub resolver answers; empty while it does not.
    pub stub: Vec<IpAddr>,
    /// Below which names it has the word.
    pub domain: Name,
    /// Whom it asks for everything else, as `ADDRESS:PORT`.
    pub servers: Vec<String>,
    /// Whether the system asks it.
    pub is_asked: bool,
}

/// How a connector is; `cardea-connector status -o json` prints exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorStatus {
    /// The connector.
    pub connector: ConnectorView,
    /// The channel.
    pub controller: ControllerView,
    /// The certificate.
    pub certificate: CertificateView,
    /// The grants that it serves.
    pub grants: Vec<GrantId>,
}

/// The connector in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectorView {
    /// Its id.
    pub id: ConnectorId,
    /// Its name.
    pub name: Name,
}

/// The device in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub name: Name,
}

/// State of the channel to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControllerState {
    /// The channel is up.
    Connected,
    /// It is being set up.
    Connecting,
    /// No address answers, or `down` was asked for.
    Unreachable,
}

/// The channel in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerView {
    /// Its state.
    pub state: ControllerState,
    /// The address in use or last tried.
    pub address: String,
    /// Since when it has been in this state, RFC 3339.
    pub since: String,
}

/// The certificate in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// When it ends, RFC 3339.
    pub not_after: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
}

/// Posture in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureView {
    /// Whether the last verdict passed; `None` before the first.
    pub compliant: Option<bool>,
    /// When the facts behind it were taken, RFC 3339.
    pub checked_at: Option<String>,
    /// What failed, one line each.
    pub failed: Vec<String>,
}

/// State of an app at an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppState {
    /// Not open, could be.
    Idle,
    /// Being opened.
    Opening,
    /// Bytes pass.
    Open,
    /// May not be opened.
    Denied,
    /// No way there at the moment.
    Unreachable,
}

/// An app in a status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its name.
    pub name: Name,
    /// Its state.
    pub state: AppState,
    /// The carrier in use, else the one it asks for.
    pub transport: String,
    /// `relay ADDRESS:PORT` or `direct ADDRESS:PORT`, when open.
    pub path: Option<String>,
    /// Why it is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_why: Option<String>,
    /// Relays through which the other end answers as well, `ADDRESS:PORT`: one of them takes over
    /// when the relay in use dies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standby: Vec<String>,
    /// Round trip of the tunnel, when known.
    pub rtt_ms: Option<u64>,
    /// Payload from the app.
    pub bytes_in: u64,
    /// Payload to the app.
    pub bytes_out: u64,
    /// When the grant ends unless it is extended, RFC 3339.
    pub not_after: Option<String>,
    /// Why it is denied or unreachable.
    pub why: Option<String>,
    /// What went wrong for a connection through its tunnel, which itself is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<AppError>,
    /// Its ports.
    pub services: Vec<Service>,
    /// Where programs on this device reach it, when the agent has a network interface.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

/// The last of the connections through a tunnel that did not reach their app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppError {
    /// What happened.
    pub message: String,
    /// When, RFC 3339.
    pub at: String,
    /// How many there were since the tunnel began.
    pub count: u64,
}

/// The carrier or wish of an app, as [`AppStatus::transport`] shows it.
#[must_use]
pub fn transport_text(carrier: Option<Carrier>, wish: Transport) -> String {
    carrier
        .map_or_else(|| wish.as_str(), Carrier::as_str)
        .to_owned()
}
