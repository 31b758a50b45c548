//! Invite codes: what an admin hands to a person who enrolls a node.
//!
//! `cardea1-` and lowercase base32 of: version (1), role (1), secret (32), SHA-256 of the root
//! certificate (32), in version 2 a pass (number 8, seed 32), the controller's addresses (each a length byte
//! and text), checksum (4). The checksum tells a mistyped code from a forged one before anything is sent.
//! Version 2 is written where there is a pass alone, so that programs that know none read all other codes.

use std::{fmt, str::FromStr};

use crate::{
    codec::{Bytes, Digest, Secret32},
    enroll::{PASS_NUMBER_BYTES, Pass},
    identity::Role,
};

/// What every code begins with.
pub const CODE_PREFIX: &str = "cardea1-";

/// Longest life of an invite, in days: past a month, nobody remembers whom a code was for.
pub const INVITE_DAYS_MAX: u64 = 30;

/// Longest code that is looked at, in bytes.
pub const CODE_BYTES_MAX: usize = 2_048;

/// Most addresses in a code.
pub const ADDRESSES_MAX: usize = 8;

/// A one-time code, parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    /// Whom it admits: [`Role::Device`] or [`Role::Connector`].
    pub role: Role,
    /// 256 random bits.
    pub secret: Secret32,
    /// SHA-256 of the root certificate's DER: how the node knows its controller.
    pub root: Digest,
    /// What opens fronts that are not beside the controller, where there are any.
    pub pass: Option<Pass>,
    /// Where the controller is, `HOST:PORT`.
    pub addresses: Vec<String>,
}

/// Text that is no code of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseInviteError {
    /// Does not begin with [`CODE_PREFIX`], is too long, or is not base32.
    #[error("not a Cardea code")]
    NotACode,
    /// The checksum does not match.
    #[error("not a Cardea code: it was mistyped or cut off")]
    Checksum,
    /// A newer program made it.
    #[error("this code was made by a newer version of Cardea")]
    Version,
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InviteCode")
            .field("role", &self.role)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl InviteCode {
    /// The text to hand over. It is a secret: print it once and log it nowhere.
    #[must_use]
    pub fn reveal(&self) -> String {
        let version = match &self.pass {
            None => VERSION,
            Some(_) => VERSION_WITH_PASS,
        };
        let mut bytes = vec![
            version,
            match self.role {
                Role::Connector => 2,
                Role::Device | Role::Controller | Role::Relay => 1,
            },
        ];
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&self.root.0);
        if let Some(Pass { number, seed }) = &self.pass {
            bytes.extend_from_slice(&number.0);
            bytes.extend_from_slice(&seed.0);
        }
        for address in self.addresses.iter().take(ADDRESSES_MAX) {
            let length = u8::try_from(address.len()).unwrap_or(0);
            if length > 0 {
                bytes.push(length);
                bytes.extend_from_slice(address.as_bytes());
            }
        }
        bytes.extend_from_slice(&checksum(&bytes).to_be_bytes());
        let text = data_encoding::BASE32_NOPAD
            .encode(&bytes)
            .to_ascii_lowercase();
        format!("{CODE_PREFIX}{text}")
    }
}

impl FromStr for InviteCode {
    type Err = ParseInviteError;

    fn from_str(text: &str) -> Result<Self, ParseInviteError> {
        use ParseInviteError::{Checksum, NotACode, Version};
        let text = text.trim();
        if text.len() > CODE_BYTES_MAX {
            return Err(NotACode);
        }
        let body = text
            .strip_prefix(CODE_PREFIX)
            .ok_or(NotACode)?
            .to_ascii_uppercase();
        let bytes = data_encoding::BASE32_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| Checksum)?;
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Checksum)?;
        if checksum(body).to_be_bytes() != *sum {
            return Err(Checksum);
        }
        let ([version, role], rest) = body.split_first_chunk::<2>().ok_or(NotACode)?;
        if ![VERSION, VERSION_WITH_PASS].contains(version) {
            return Err(Version);
        }
        let role = match role {
            1 => Role::Device,
            2 => Role::Connector,
            _ => return Err(Version),
        };
        let (secret, rest) = rest.split_first_chunk::<32>().ok_or(NotACode)?;
        let (root, rest) = rest.split_first_chunk::<32>().ok_or(NotACode)?;
        let (pass, mut rest) = match *version {
            VERSION_WITH_PASS => split_pass(rest).ok_or(NotACode)?,
            _ => (None, rest),
        };
        let mut addresses = Vec::new();
        while let Some((length, tail)) = rest.split_first() {
            let (address, tail) = tail
                .split_at_checked(usize::from(*length))
                .ok_or(NotACode)?;
            addresses.push(
                std::str::from_utf8(address)
                    .map_err(|_| NotACode)?
                    .to_owned(),
            );
            rest = tail;
        }
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
            return Err(NotACode);
        }
        Ok(Self {
            role,
            secret: Secret32(*secret),
            root: Bytes(*root),
            pass,
            addresses,
        })
    }
}

/// The pass at the beginning, and what follows it.
fn split_pass(bytes: &[u8]) -> Option<(Option<Pass>, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<PASS_NUMBER_BYTES>()?;
    let (seed, rest) = rest.split_first_chunk::<32>()?;
    let pass = Pass {
        number: Bytes(*number),
        seed: Secret32(*seed),
    };
    Some((Some(pass), rest))
}

/// Of codes that have no pass.
const VERSION: u8 = 1;

/// Of those that have one.
const VERSION_WITH_PASS: u8 = 2;

/// FNV-1a, 32 bits: against typing errors, not against people.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_code_reads_back_as_itself_with_a_pass_or_without() {
        for code in [code(), with_pass()] {
            assert_eq!(code.reveal().parse(), Ok(code));
        }
    }

    #[test]
    fn a_code_without_a_pass_is_what_it_was_before_there_were_passes() {
        let known = "cardea1-aebakbifaucqkbifaucqkbifaucqkbifaucqkbifaucqkbifaucqkbigaydambqgaydambqg\
                     aydambqgaydambqgaydambqgaydambqgaylhu5domexgg33soaxgk6dbnvygyzj2g42dimyklm5dumk5\
                     hi3tinbt4uq2h2a";
        assert_eq!(code().reveal(), known);
        assert!(with_pass().reveal().len() > code().reveal().len() + 60);
    }

    #[test]
    fn every_changed_character_is_noticed() {
        for text in [code().reveal(), with_pass().reveal()] {
            for at in CODE_PREFIX.len()..text.len() {
                let mut changed = text.clone().into_bytes();
                changed[at] = if changed[at] == b'a' { b'b' } else { b'a' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(changed.parse::<InviteCode>().is_err(), "{at}");
                assert!(text[..at].parse::<InviteCode>().is_err(), "{at}");
            }
        }
    }

    #[test]
    fn a_code_does_not_show_its_secret_in_logs() {
        assert!(!format!("{:?}", code()).contains("secret"));
    }

    fn with_pass() -> InviteCode {
        InviteCode {
            pass: Some(Pass {
                number: Bytes([7; 8]),
                seed: Secret32([8; 32]),
            }),
            ..code()
        }
    }

    fn code() -> InviteCode {
        InviteCode {
            role: Role::Connector,
            secret: Secret32([5; 32]),
            root: Bytes([6; 32]),
            pass: None,
            addresses: vec!["ztna.corp.example:7443".to_owned(), "[::1]:7443".to_owned()],
        }
    }
}
