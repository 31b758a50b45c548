//! PEM (RFC 7468): how keys and certificates lie in files that people move about.

use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";

/// Label of a PKCS#8 private key.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";

/// Longest PEM text that is looked at, in bytes; a chain of certificates needs a tenth of it.
pub const PEM_BYTES_MAX: usize = 64 * 1024;

/// Text that is not PEM of the expected label.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a PEM file with {0}")]
pub struct ParsePemError(&'static str);

/// Writes `der` under `label`; wiped when dropped, because it may be a key.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at_checked(64).unwrap_or((rest, ""));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Reads the first block under `label`; text around it is ignored.
///
/// # Errors
/// [`ParsePemError`] when there is none, or when it is not whole.
pub fn decode(label: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, ParsePemError> {
    let wrong = || ParsePemError(label);
    if text.len() > PEM_BYTES_MAX {
        return Err(wrong());
    }
    let (_, rest) = text
        .split_once(&format!("-----BEGIN {label}-----"))
        .ok_or_else(wrong)?;
    let (body, _) = rest
        .split_once(&format!("-----END {label}-----"))
        .ok_or_else(wrong)?;
    let body: Zeroizing<Vec<u8>> = Zeroizing::new(
        body.bytes()
            .filter(|byte| !byte.is_ascii_whitespace())
            .collect(),
    );
    BASE64
        .decode(&body)
        .map(Zeroizing::new)
        .map_err(|_| wrong())
}

/// Reads every block under `label`, in order; one at least.
///
/// # Errors
/// [`ParsePemError`] when there is none, or when one is not whole.
pub fn decode_all(label: &'static str, text: &str) -> Result<Vec<Vec<u8>>, ParsePemError> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let mut found = vec![decode(label, text)?.to_vec()];
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&end) {
        rest = after;
        if rest.contains(&begin) {
            found.push(decode(label, rest)?.to_vec());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_reads_back_as_itself() {
        for length in [0, 1, 47, 48, 49, 200] {
            let bytes = vec![0xa5; length];
            let text = encode(CERTIFICATE, &bytes);
            assert_eq!(*decode(CERTIFICATE, &text).unwrap(), bytes);
            assert!(text.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn all_blocks_are_read_in_order() {
        let text = [[1; 9], [2; 9]].map(|bytes| encode(CERTIFICATE, &bytes).to_string());
        assert_eq!(
            decode_all(CERTIFICATE, &text.concat()).unwrap(),
            [[1; 9], [2; 9]]
        );
        let cut = format!("{}{}", text[0], &text[1][..40]);
        assert!(decode_all(CERTIFICATE, &cut).is_err());
        assert!(decode_all(CERTIFICATE, "").is_err());
    }

    #[test]
    fn another_label_or_half_a_file_is_refused() {
        let text = encode(CERTIFICATE, &[1; 100]);
        assert!(decode(PRIVATE_KEY, &text).is_err());
        assert!(decode(CERTIFICATE, &text[..100]).is_err());
        assert!(decode(CERTIFICATE, "").is_err());
    }
}
