//! What an agent's command and its daemon say to each other.

use cardea_proto::{
    admin::Warning,
    local::{
        AgentStatus, AppError, AppState, AppStatus, CertificateView, ConnectorStatus,
        ConnectorView, ControllerState, ControllerView, DeviceView, LocalAnswer, LocalRequest,
        PostureView,
    },
    netcheck::{
        CheckState, ControllerCheck, Filtering, Mapping, NatView, NetReport, Portal, RelayCheck,
        Way,
    },
};

use super::{names, parts};

names!(LocalRequest {
    LocalRequest::Up => "up",
    LocalRequest::Down => "down",
    LocalRequest::Status => "status",
    LocalRequest::Apps => "apps",
    LocalRequest::Explain(_) => "explain",
    LocalRequest::Posture => "posture",
    LocalRequest::Forward { .. } => "forward",
    LocalRequest::Proxy { .. } => "proxy",
    LocalRequest::RestoreDns => "restore_dns",
    LocalRequest::Netcheck => "netcheck",
});

names!(LocalAnswer {
    LocalAnswer::Done(_) => "done",
    LocalAnswer::Refused(_) => "refused",
    LocalAnswer::Status(_) => "status",
    LocalAnswer::ConnectorStatus(_) => "connector_status",
    LocalAnswer::Apps(_) => "apps",
    LocalAnswer::Explained(_) => "explained",
    LocalAnswer::Posture { .. } => "posture",
    LocalAnswer::Listening { .. } => "listening",
    LocalAnswer::Netcheck(_) => "netcheck",
});

pub(super) fn requests() -> Vec<LocalRequest> {
    vec![
        LocalRequest::Up,
        LocalRequest::Down,
        LocalRequest::Status,
        LocalRequest::Apps,
        LocalRequest::Explain(parts::name("wiki")),
        LocalRequest::Posture,
        LocalRequest::Forward {
            app: parts::name("wiki"),
            service: Some(parts::service()),
            listen: "127.0.0.1:0".to_owned(),
        },
        LocalRequest::Proxy {
            listen: "127.0.0.1:1080".to_owned(),
        },
        LocalRequest::RestoreDns,
        LocalRequest::Netcheck,
    ]
}

pub(super) fn answers() -> Vec<LocalAnswer> {
    vec![
        LocalAnswer::Done("connected".to_owned()),
        LocalAnswer::Refused(parts::refusal()),
        LocalAnswer::Status(Box::new(status())),
        LocalAnswer::ConnectorStatus(Box::new(connector_status())),
        LocalAnswer::Apps(vec![app()]),
        LocalAnswer::Explained(Box::new(parts::decision())),
        LocalAnswer::Posture {
            report: parts::report(),
            verdict: Some(parts::verdict()),
        },
        LocalAnswer::Listening {
            address: "127.0.0.1:8080".to_owned(),
        },
        LocalAnswer::Netcheck(Box::new(report())),
    ]
}

fn report() -> NetReport {
    NetReport {
        usable: true,
        controllers: vec![ControllerCheck {
            address: "ztna.corp.example:7443".to_owned(),
            way: Way::Udp,
            state: CheckState::Ok,
            rtt_ms: Some(12),
            why: None,
        }],
        relays: vec![RelayCheck {
            addresses: vec!["192.0.2.1:7444".to_owned()],
            state: CheckState::Silent,
            rtt_ms: None,
            seen_as: None,
        }],
        nat: NatView {
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::NotTested,
            seen_as: vec!["203.0.113.7:4711".to_owned()],
        },
        path_mtu: Some(1_480),
        clock_ahead_ms: Some(-20),
        captive_portal: Portal::None,
        advice: vec![Warning {
            code: "relay_silent".to_owned(),
            title: "relay 192.0.2.1:7444 does not answer".to_owned(),
            fix: "Tell the operator".to_owned(),
        }],
    }
}

fn status() -> AgentStatus {
    AgentStatus {
        device: DeviceView {
            id: parts::device(),
            name: parts::name("laptop"),
        },
        user: Some(parts::name("alice@corp.example")),
        controller: controller(),
        certificate: certificate(),
        posture: PostureView {
            compliant: Some(true),
            checked_at: Some("2026-01-01T00:00:00Z".to_owned()),
            failed: Vec::new(),
        },
        apps: vec![app()],
        warnings: vec![Warning {
            code: "clock".to_owned(),
            title: "the clock is wrong".to_owned(),
            fix: "Set it".to_owned(),
        }],
        dns: None,
    }
}

fn connector_status() -> ConnectorStatus {
    ConnectorStatus {
        connector: ConnectorView {
            id: parts::connector(),
            name: parts::name("rack-7"),
        },
        controller: controller(),
        certificate: certificate(),
        grants: vec![parts::grant()],
    }
}

fn controller() -> ControllerView {
    ControllerView {
        state: ControllerState::Connected,
        address: "ztna.corp.example:7443".to_owned(),
        since: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn certificate() -> CertificateView {
    CertificateView {
        not_after: "2026-01-01T01:00:00Z".to_owned(),
        serial: "0102".to_owned(),
    }
}

fn app() -> AppStatus {
    AppStatus {
        name: parts::name("wiki"),
        state: AppState::Open,
        transport: "quic".to_owned(),
        path: Some("relay".to_owned()),
        path_why: None,
        standby: Vec::new(),
        rtt_ms: Some(12),
        bytes_in: 1_000,
        bytes_out: 10,
        not_after: Some("2026-01-01T00:05:00Z".to_owned()),
        why: None,
        last_error: None,
        services: vec![parts::service()],
        addresses: Vec::new(),
    }
}

pub(super) fn apps_with_error() -> LocalAnswer {
    LocalAnswer::Apps(vec![AppStatus {
        last_error: Some(AppError {
            message: "the target refused the connection".to_owned(),
            at: "2026-01-01T00:00:00Z".to_owned(),
            count: 2,
        }),
        ..app()
    }])
}
