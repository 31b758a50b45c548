//! SOCKS5 as far as a name of an app needs it: no authentication, `CONNECT` and `UDP ASSOCIATE`, a
//! domain name.
//!
//! Source: RFC 1928.

use std::net::{IpAddr, SocketAddr};

use cardea_proto::app::{Protocol, Service};

/// Longest that a client may say before it has said where it wants to go, in bytes.
///
/// 2 + 255 methods, and 4 + 1 + 255 + 2 of a request.
pub const BYTES_MAX: usize = 519;

/// What to answer "no authentication needed" with.
pub const NO_AUTHENTICATION: [u8; 2] = [5, 0];

/// None of the client's ways to authenticate is ours.
const NO_METHOD: [u8; 2] = [5, 0xff];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Connected.
    Succeeded,
    /// Something else went wrong.
    Failed,
    /// The rules do not permit it.
    NotAllowed,
    /// There is no way to the app's host.
    HostUnreachable,
    /// The app's host refused.
    Refused,
    /// Neither `CONNECT` nor `UDP ASSOCIATE`.
    CommandNotSupported,
    /// Apps have names, not addresses.
    AddressNotSupported,
}

impl Reply {
    /// The reply on the wire; the bound address in it is of no use to anybody.
    #[must_use]
    pub const fn bytes(self) -> [u8; 10] {
        let code = match self {
            Self::Succeeded => 0,
            Self::Failed => 1,
            Self::NotAllowed => 2,
            Self::HostUnreachable => 4,
            Self::Refused => 5,
            Self::CommandNotSupported => 7,
            Self::AddressNotSupported => 8,
        };
        [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It names its ways to authenticate.
    Methods,
    /// It says where it wants to go.
    Request,
}

/// What the bytes of a client come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Not whole yet.
    More,
    /// The methods are fine; this many bytes were theirs. Answer [`NO_AUTHENTICATION`].
    Methods {
        /// How many.
        used: usize,
    },
    /// It wants to go there; what follows these bytes is for the app.
    Connect {
        /// The name it gave.
        host: String,
        /// The port it gave.
        service: Service,
        /// How many bytes the request had.
        used: usize,
    },
    /// It wants to send datagrams; each of them says where it goes.
    Associate,
    /// Say this and close.
    Refuse(Vec<u8>),
    /// Not SOCKS5: close.
    Garbage,
}

/// Reads what a client has said since its last stage.
#[must_use]
pub fn hear(stage: Stage, bytes: &[u8]) -> Heard {
    match stage {
        Stage::Methods => methods(bytes),
        Stage::Request => request(bytes),
    }
}

fn methods(bytes: &[u8]) -> Heard {
    match bytes {
        [] | [5] => Heard::More,
        [5, count, rest @ ..] => match rest.get(..usize::from(*count)) {
            None => Heard::More,
            Some(methods) if methods.contains(&0) => Heard::Methods {
                used: 2 + methods.len(),
            },
            Some(_) => Heard::Refuse(NO_METHOD.to_vec()),
        },
        _ => Heard::Garbage,
    }
}

fn request(bytes: &[u8]) -> Heard {
    let refuse = |reply: Reply| Heard::Refuse(reply.bytes().to_vec());
    match bytes {
        [] | [5] | [5, _] | [5, _, 0] | [5, 1, 0, 3] => Heard::More,
        [5, 1, 0, 3, length, rest @ ..] => {
            let length = usize::from(*length);
            let Some((name, tail)) = rest.split_at_checked(length) else {
                return Heard::More;
            };
            let Some(port) = tail.first_chunk::<2>() else {
                return Heard::More;
            };
            let port = u16::from_be_bytes(*port);
            match std::str::from_utf8(name) {
                Ok(host) if port != 0 => Heard::Connect {
                    host: host.to_owned(),
                    service: Service {
                        protocol: Protocol::Tcp,
                        port,
                    },
                    used: 5 + length + 2,
                },
                Ok(_) | Err(_) => refuse(Reply::NotAllowed),
            }
        }
        // The address that it will send from, which it need not know and we do not need.
        [5, 3, 0, 1, rest @ ..] => whole(rest, 4 + 2),
        [5, 3, 0, 4, rest @ ..] => whole(rest, 16 + 2),
        [5, 3, 0, 3, length, rest @ ..] => whole(rest, usize::from(*length) + 2),
        [5, 3, 0, 3] => Heard::More,
        [5, 1 | 3, 0, ..] => refuse(Reply::AddressNotSupported),
        [5, _, 0, ..] => refuse(Reply::CommandNotSupported),
        _ => Heard::Garbage,
    }
}

/// An association, once the address of its request has come whole.
const fn whole(address: &[u8], length: usize) -> Heard {
    if address.len() < length {
        Heard::More
    } else {
        Heard::Associate
    }
}

/// The reply that says where an association's datagrams go.
#[must_use]
pub fn succeeded_at(address: SocketAddr) -> Vec<u8> {
    let mut reply = vec![5, 0, 0];
    match address.ip() {
        IpAddr::V4(v4) => {
            reply.push(1);
            reply.extend_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            reply.push(4);
            reply.extend_from_slice(&v6.octets());
        }
    }
    reply.extend_from_slice(&address.port().to_be_bytes());
    reply
}

/// Where a datagram of an association goes, and how long its header is; `None` when it is in
/// fragments, or for no name.
#[must_use]
pub fn datagram(bytes: &[u8]) -> Option<(&str, u16, usize)> {
    let [0, 0, 0, 3, length, rest @ ..] = bytes else {
        return None;
    };
    let (name, tail) = rest.split_at_checked(usize::from(*length))?;
    let port = u16::from_be_bytes(*tail.first_chunk::<2>()?);
    let host = std::str::from_utf8(name).ok()?;
    (port != 0).then_some((host, port, 5 + name.len() + 2))
}

/// The header of a datagram that comes from an app, under the name that the client gave it.
#[must_use]
pub fn datagram_header(host: &str, port: u16) -> Vec<u8> {
    let length = u8::try_from(host.len()).unwrap_or(u8::MAX);
    let mut header = vec![0, 0, 0, 3, length];
    header.extend_from_slice(host.as_bytes());
    header.extend_from_slice(&port.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_its_methods_then_where_it_wants_to_go() {
        check(Stage::Methods, &[5, 2, 2, 0], &Heard::Methods { used: 4 });
        let request = [&[5, 1, 0, 3, 4][..], b"wiki", &[0, 80]].concat();
        check(
            Stage::Request,
            &request,
            &Heard::Connect {
                host: "wiki".to_owned(),
                service: Service {
                    protocol: Protocol::Tcp,
                    port: 80,
                },
                used: request.len(),
            },
        );
    }

    #[test]
    fn what_we_do_not_serve_is_refused_by_its_code() {
        check(Stage::Methods, &[5, 1, 2], &Heard::Refuse(vec![5, 0xff]));
        check(Stage::Methods, &[4, 1], &Heard::Garbage);
        check(Stage::Methods, b"GET / HTTP/1.1", &Heard::Garbage);
        let refusals = [
            (&[5, 1, 0, 1, 10][..], Reply::AddressNotSupported),
            (&[5, 1, 0, 4, 10], Reply::AddressNotSupported),
            (&[5, 2, 0, 3, 1], Reply::CommandNotSupported),
            (&[5, 3, 0, 9, 1], Reply::AddressNotSupported),
            (&[5, 1, 0, 3, 1, 0xff, 0, 80], Reply::NotAllowed),
            (&[5, 1, 0, 3, 1, b'a', 0, 0], Reply::NotAllowed),
        ];
        for (bytes, reply) in refusals {
            check(
                Stage::Request,
                bytes,
                &Heard::Refuse(reply.bytes().to_vec()),
            );
        }
    }

    #[test]
    fn an_association_is_asked_for_with_an_address_that_does_not_matter() {
        for request in [
            &[5, 3, 0, 1, 0, 0, 0, 0, 0, 0][..],
            &[5, 3, 0, 3, 1, b'x', 0, 0],
            &[[5, 3, 0, 4].as_slice(), &[0; 18]].concat(),
        ] {
            check(Stage::Request, request, &Heard::Associate);
        }
    }

    #[test]
    fn a_datagram_names_its_app_and_reads_back() {
        let mut bytes = datagram_header("dns", 53);
        let header = bytes.len();
        bytes.extend_from_slice(b"payload");
        assert_eq!(datagram(&bytes), Some(("dns", 53, header)));
        for end in 0..header {
            assert_eq!(datagram(&bytes[..end]), None, "{end}");
        }
        bytes[2] = 1;
        assert_eq!(datagram(&bytes), None, "a fragment");
    }

    /// Every shorter beginning of `bytes` must wait for more, unless it is wrong already.
    fn check(stage: Stage, bytes: &[u8], expected: &Heard) {
        assert_eq!(&hear(stage, bytes), expected, "{bytes:?}");
        for end in 0..bytes.len() {
            let part = hear(stage, &bytes[..end]);
            let fine = part == Heard::More || part == *expected;
            assert!(fine, "{:?}: {part:?}", &bytes[..end]);
        }
    }
}
