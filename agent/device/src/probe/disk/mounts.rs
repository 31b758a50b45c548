//! `/proc/self/mountinfo` and `/proc/swaps`.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// A mounted file system.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `MAJOR:MINOR`; `0:N` when no block device is mounted directly.
    pub(super) device: String,
    /// Where.
    pub(super) point: PathBuf,
    /// File system type.
    pub(super) kind: String,
    /// What it calls its source: a device node, a dataset, a word.
    pub(super) source: String,
    /// Its own options.
    pub(super) options: String,
}

impl Mount {
    pub(super) fn option(&self, name: &str) -> Option<&str> {
        self.options
            .split(',')
            .find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The mounts of `mountinfo`; a line that is none is passed over.
///
/// Source: proc_pid_mountinfo(5).
pub(super) fn mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let mut front = front.split(' ').skip(2);
            let (device, _root, point) = (front.next()?, front.next()?, front.next()?);
            let mut back = back.split(' ');
            let (kind, source) = (back.next()?, back.next()?);
            Some(Mount {
                device: device.to_owned(),
                point: unescaped(point),
                kind: kind.to_owned(),
                source: unescaped(source).to_string_lossy().into_owned(),
                options: back.next().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// The swaps of `/proc/swaps`: the path, and whether it is a file and not a device.
pub(super) fn swaps(text: &str) -> Vec<(PathBuf, bool)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (path, kind) = (fields.next()?, fields.next()?);
            Some((unescaped(path), kind == "file"))
        })
        .collect()
}

/// A path in which the kernel wrote spaces and the like as `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let octal = (*byte == b'\\')
            .then(|| tail.split_first_chunk::<3>())
            .flatten()
            .and_then(|(digits, tail)| {
                let digits = std::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 8).ok()?, tail))
            });
        let (byte, tail) = octal.unwrap_or((*byte, tail));
        bytes.push(byte);
        rest = tail;
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_any_number_of_optional_fields() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,x=1\n\
                    37 35 0:5 / /b rw - overlay overlay rw,upperdir=/u\nnonsense\n";
        let found = mounts(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].point, PathBuf::from("/mnt 2"));
        assert_eq!(
            (found[0].device.as_str(), found[0].kind.as_str()),
            ("98:0", "ext3")
        );
        assert_eq!(found[1].option("upperdir"), Some("/u"));
        assert_eq!(found[1].option("upper"), None);
    }

    #[test]
    fn swaps_are_files_or_devices() {
        let text = "Filename\t\t\tType\t\tSize\n/dev/dm-1   partition 1 0 -2\n/swap\\040file file 1 0 -3\n";
        assert_eq!(
            swaps(text),
            [("/dev/dm-1".into(), false), ("/swap file".into(), true)]
        );
        assert_eq!(swaps(""), []);
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        assert_eq!(unescaped("a\\b\\99"), PathBuf::from("a\\b\\99"));
        assert_eq!(unescaped("\\134"), PathBuf::from("\\"));
    }
}
