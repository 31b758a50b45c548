//! What travels between nodes and controllers.

use cardea_proto::{
    app::Transport,
    codec::{Bytes, Secret32},
    enroll::{EnrollAnswer, EnrollRequest, Enrolled},
    identity::Role,
    ledger::EndReason,
    message::{AppView, Checkpointed, FromNode, Hello, ToNode, Usage, Welcome},
    path::Path,
};

use super::{names, parts};

names!(FromNode {
    FromNode::Hello(_) => "hello",
    FromNode::Report(_) => "report",
    FromNode::Renew { .. } => "renew",
    FromNode::Request { .. } => "request",
    FromNode::Explain { .. } => "explain",
    FromNode::Admitted { .. } => "admitted",
    FromNode::NotAdmitted { .. } => "not_admitted",
    FromNode::Closed { .. } => "closed",
    FromNode::Usage(_) => "usage",
});

names!(ToNode {
    ToNode::Welcome(_) => "welcome",
    ToNode::Certificate(_) => "certificate",
    ToNode::CertificateRefused(_) => "certificate_refused",
    ToNode::Posture(_) => "posture",
    ToNode::Apps(_) => "apps",
    ToNode::Granted(_) => "granted",
    ToNode::Denied { .. } => "denied",
    ToNode::Explained { .. } => "explained",
    ToNode::Admit(_) => "admit",
    ToNode::Extend(_) => "extend",
    ToNode::Withdraw { .. } => "withdraw",
    ToNode::Checkpoint(_) => "checkpoint",
    ToNode::Goodbye(_) => "goodbye",
});

names!(EnrollAnswer {
    EnrollAnswer::Enrolled(_) => "enrolled",
    EnrollAnswer::Refused(_) => "refused",
});

pub(super) fn from_node() -> Vec<FromNode> {
    vec![
        FromNode::Hello(Hello {
            version: 1,
            program: "0.1.0".to_owned(),
            clock: parts::at(),
            grants: vec![parts::grant()],
            checkpoint: Some(parts::note()),
        }),
        FromNode::Report(parts::report()),
        FromNode::Renew {
            public_key: parts::blob(b"public key"),
            proof: parts::blob(b"proof"),
        },
        FromNode::Request {
            request: 5,
            app: parts::name("wiki"),
            offer: parts::signed(),
        },
        FromNode::Explain {
            request: 6,
            app: parts::name("wiki"),
        },
        FromNode::Admitted {
            grant: parts::grant(),
            answer: parts::signed(),
        },
        FromNode::NotAdmitted {
            grant: parts::grant(),
            refusal: parts::refusal(),
        },
        FromNode::Closed {
            grant: parts::grant(),
        },
        FromNode::Usage(vec![Usage {
            grant: parts::grant(),
            bytes_in: 1 << 40,
            bytes_out: 9,
            flows: 2,
            path: None,
        }]),
    ]
}

pub(super) fn usage_with_path() -> FromNode {
    FromNode::Usage(
        [
            Path::Relay("192.0.2.7:7444".parse().unwrap()),
            Path::RelayTls("192.0.2.7:443".parse().unwrap()),
            Path::Direct("[2001:db8::7]:4711".parse().unwrap()),
        ]
        .map(|path| Usage {
            grant: parts::grant(),
            bytes_in: 1,
            bytes_out: 2,
            flows: 3,
            path: Some(path),
        })
        .to_vec(),
    )
}

pub(super) fn to_node() -> Vec<ToNode> {
    vec![
        ToNode::Welcome(Welcome {
            version: 1,
            program: "0.1.0".to_owned(),
            clock: parts::at(),
            name: parts::name("laptop"),
            user: Some(parts::name("alice@corp.example")),
            nonce: Bytes([9; 16]),
            posture_poll_ms: 60_000,
            watched_processes: vec!["clamd".to_owned()],
            addresses: vec!["ztna.corp.example:7443".to_owned()],
        }),
        ToNode::Certificate(parts::certificate()),
        ToNode::CertificateRefused(parts::refusal()),
        ToNode::Posture(parts::verdict()),
        ToNode::Apps(vec![AppView {
            name: parts::name("wiki"),
            names: vec![parts::name("wiki.corp.example").into()],
            services: vec![parts::service()],
            transport: Transport::Auto,
            allowed: false,
            why: Some("posture".to_owned()),
        }]),
        ToNode::Granted(Box::new(parts::granted())),
        ToNode::Denied {
            request: 5,
            refusal: parts::refusal(),
            decision: Some(Box::new(parts::decision())),
        },
        ToNode::Explained {
            request: 6,
            decision: Err(parts::refusal()),
        },
        ToNode::Admit(Box::new(parts::admit())),
        ToNode::Extend(parts::extend()),
        ToNode::Withdraw {
            grant: parts::grant(),
            reason: EndReason::Revoked,
        },
        ToNode::Checkpoint(Box::new(Checkpointed {
            note: parts::note(),
            proof: vec![Bytes([5; 32])],
        })),
        ToNode::Goodbye(parts::refusal()),
    ]
}

pub(super) fn enroll_request() -> EnrollRequest {
    EnrollRequest {
        version: 1,
        program: "0.1.0".to_owned(),
        invite: Secret32([8; 32]),
        role: Role::Device,
        name: parts::name("laptop"),
        os: "linux".to_owned(),
        public_key: parts::blob(b"public key"),
        proof: parts::blob(b"proof"),
        report: Some(parts::report()),
    }
}

pub(super) fn enroll_answers() -> Vec<EnrollAnswer> {
    vec![
        EnrollAnswer::Enrolled(Box::new(Enrolled {
            version: 1,
            domain: parts::name("corp.example"),
            node: parts::node(),
            name: parts::name("laptop"),
            user: None,
            certificate: parts::certificate(),
            root: parts::blob(b"root"),
            addresses: vec!["ztna.corp.example:7443".to_owned()],
            ledger_key: parts::blob(&[19; 32]),
        })),
        EnrollAnswer::Refused(parts::refusal()),
    ]
}
