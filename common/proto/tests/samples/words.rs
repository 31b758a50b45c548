//! The names of enums without fields.

use cardea_proto::{
    app::{Carrier, Protocol, Transport},
    decision::Reason,
    identity::Role,
    ledger::EndReason,
    local::{AppState, ControllerState},
    posture::Grade,
    refusal::RefusalCode,
};

use super::names;

names!(Role {
    Role::Device => "device",
    Role::Connector => "connector",
    Role::Controller => "controller",
    Role::Relay => "relay",
});

names!(Protocol {
    Protocol::Tcp => "tcp",
    Protocol::Udp => "udp",
});

names!(Transport {
    Transport::Auto => "auto",
    Transport::WireGuard => "wireguard",
    Transport::Quic => "quic",
});

names!(Carrier {
    Carrier::WireGuard => "wireguard",
    Carrier::Quic => "quic",
});

names!(Grade {
    Grade::Simulated => "simulated",
    Grade::Own => "self",
    Grade::Os => "os",
    Grade::Mdm => "mdm",
    Grade::Hardware => "hardware",
});

names!(ControllerState {
    ControllerState::Connected => "connected",
    ControllerState::Connecting => "connecting",
    ControllerState::Unreachable => "unreachable",
});

names!(AppState {
    AppState::Idle => "idle",
    AppState::Opening => "opening",
    AppState::Open => "open",
    AppState::Denied => "denied",
    AppState::Unreachable => "unreachable",
});

names!(Reason {
    Reason::Permitted => "permitted",
    Reason::NoRule => "no_rule",
    Reason::CheckFailed => "check_failed",
    Reason::Forbidden => "forbidden",
    Reason::EvaluationError => "evaluation_error",
    Reason::NotCompliant => "not_compliant",
    Reason::StalePosture => "stale_posture",
    Reason::Blocked => "blocked",
    Reason::CertificateExpired => "certificate_expired",
    Reason::Gone => "gone",
});

names!(EndReason {
    EndReason::Revoked => "revoked",
    EndReason::NotPermitted => "not_permitted",
    EndReason::PostureFailed => "posture_failed",
    EndReason::PostureStale => "posture_stale",
    EndReason::DeviceBlocked => "device_blocked",
    EndReason::CertificateExpired => "certificate_expired",
    EndReason::AppChanged => "app_changed",
    EndReason::ConnectorGone => "connector_gone",
    EndReason::Expired => "expired",
    EndReason::Closed => "closed",
    EndReason::Replaced => "replaced",
    EndReason::ControllerRestarted => "controller_restarted",
});

names!(RefusalCode {
    RefusalCode::InviteUsed => "invite_used",
    RefusalCode::InviteExpired => "invite_expired",
    RefusalCode::InviteUnknown => "invite_unknown",
    RefusalCode::InviteWrongRole => "invite_wrong_role",
    RefusalCode::PostureFailed => "posture_failed",
    RefusalCode::SimulatedPosture => "simulated_posture",
    RefusalCode::NotPermitted => "not_permitted",
    RefusalCode::NoConnector => "no_connector",
    RefusalCode::Blocked => "blocked",
    RefusalCode::CertificateExpired => "certificate_expired",
    RefusalCode::ClockSkew => "clock_skew",
    RefusalCode::NotProven => "not_proven",
    RefusalCode::StorageRefused => "storage_refused",
    RefusalCode::StorageFull => "storage_full",
    RefusalCode::Version => "version",
    RefusalCode::SafeMode => "safe_mode",
    RefusalCode::NotFound => "not_found",
    RefusalCode::Exists => "exists",
    RefusalCode::Invalid => "invalid",
    RefusalCode::PolicyTestFailed => "policy_test_failed",
    RefusalCode::Unauthorized => "unauthorized",
    RefusalCode::Busy => "busy",
    RefusalCode::Protocol => "protocol",
    RefusalCode::Unreachable => "unreachable",
    RefusalCode::TargetUnreachable => "target_unreachable",
    RefusalCode::Internal => "internal",
});
