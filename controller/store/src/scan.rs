//! Reading a whole journal: every frame is checked, and so is the chain of hashes through them.

use std::io;

use cardea_ledger::{
    entry::Record,
    mark::Mark,
    seal::DataKey,
    segment::{self, HEADER_BYTES, Header, Next, Place, Reader},
    tree, wide,
};
use cardea_proto::{
    codec::{Bytes, Digest},
    ledger::Revision,
};

use crate::{
    Head,
    disk::Disk,
    error::{LoadError, TornTail},
    mark,
    seal::segment_key,
};

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The headers of all segments, in order.
    pub(crate) segments: Vec<Header>,
    /// Behind the last entry; `None` in an empty folder.
    pub(crate) end: Option<Place>,
    /// The last entry.
    pub(crate) head: Head,
    /// The last checkpoint.
    pub(crate) checkpoint: Option<String>,
    /// What follows the last entry and must be cut off.
    pub(crate) torn: Option<TornTail>,
}

/// One entry as a scan shows it.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// Where it is.
    pub(crate) place: Place,
    /// Its revision and hash.
    pub(crate) head: Head,
    /// Its bytes.
    pub(crate) payload: &'a [u8],
}

/// Called with each entry; what it returns as an error is damage at that place.
pub(crate) type Visit<'v> = dyn FnMut(&Found<'_>) -> Result<(), String> + 'v;

/// Reads the journal on `disk` and shows each entry to `visit`. Nothing is changed.
pub(crate) fn scan(
    disk: &dyn Disk,
    key: Option<&DataKey>,
    visit: &mut Visit<'_>,
) -> Result<Scan, LoadError> {
    let mark = mark::read(disk).map_err(failed(disk, "read", cardea_ledger::mark::NAME))?;
    let names = disk.names().map_err(failed(disk, "list", ""))?;
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::number(name))
        .collect();
    numbers.sort_unstable();
    let last = numbers.last().copied().unwrap_or(0);
    let mut scanner = Scanner {
        disk,
        key,
        mark,
        last,
        found: Scan {
            segments: Vec::new(),
            end: None,
            head: Head::default(),
            checkpoint: None,
            torn: None,
        },
    };
    for (expected, number) in (1..).zip(numbers) {
        if number != expected {
            return Err(scanner.damaged(at_start(expected), "the segment is missing".to_owned()));
        }
        scanner.segment(number, visit)?;
    }
    scanner.reaches_mark()?;
    Ok(scanner.found)
}

struct Scanner<'a> {
    disk: &'a dyn Disk,
    key: Option<&'a DataKey>,
    mark: Option<Mark>,
    last: u64,
    found: Scan,
}

impl Scanner<'_> {
    fn segment(&mut self, number: u64, visit: &mut Visit<'_>) -> Result<(), LoadError> {
        let name = segment::name(number);
        let broken = |operation| failed(self.disk, operation, &name);
        let file = self.disk.open(&name).map_err(broken("open"))?;
        let Some(file) = file else {
            return Err(self.damaged(at_start(number), "the segment is missing".to_owned()));
        };
        let length = file.length().map_err(broken("read"))?;
        let expected = Header {
            number,
            first: self.found.head.revision.next(),
            previous: self.found.head.hash,
            is_sealed: self.key.is_some(),
        };
        self.found.segments.push(expected);
        let header = Header::read(file.as_ref()).map_err(broken("read"))?;
        let Some(header) = header else {
            let fault = "the segment's header does not hold";
            return self.bad(at_start(number), length, fault);
        };
        self.follows(header, expected)?;
        let key = segment_key(self.key, &expected).map_err(broken("open"))?;
        let mut reader = Reader::at(file.as_ref(), wide(HEADER_BYTES))
            .map_err(broken("read"))?
            .sealed_with(key.as_ref());
        loop {
            let broken = failed(self.disk, "read", &name);
            match reader.advance().map_err(broken)? {
                Next::Frame { offset, payload } => {
                    let place = Place {
                        segment: number,
                        offset,
                    };
                    self.record(place, payload, visit)?;
                }
                Next::End { offset } => {
                    let place = Place {
                        segment: number,
                        offset,
                    };
                    if number != self.last && offset < length {
                        let fault = "zeros follow the segment's last entry".to_owned();
                        return Err(self.damaged(place, fault));
                    }
                    self.found.end = Some(place);
                    return Ok(());
                }
                Next::Bad { offset, fault } => {
                    let place = Place {
                        segment: number,
                        offset,
                    };
                    return self.bad(place, length, fault);
                }
            }
        }
    }

    fn follows(&self, header: Header, expected: Header) -> Result<(), LoadError> {
        if header.is_sealed && !expected.is_sealed {
            let path = self.disk.path(&segment::name(expected.number));
            return Err(LoadError::Sealed(path));
        }
        let fault = match header.is_sealed == expected.is_sealed {
            true if header == expected => return Ok(()),
            true => "the segment does not follow the one before",
            false => "the segment is not sealed, and this ledger is",
        };
        Err(self.damaged(at_start(expected.number), fault.to_owned()))
    }

    fn record(
        &mut self,
        place: Place,
        payload: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), LoadError> {
        let before = self.found.head;
        match Record::of(payload) {
            Some(Record::Entry(outline)) if before.precedes(outline.revision, outline.previous) => {
                self.found.head = Head {
                    revision: outline.revision,
                    hash: tree::leaf(payload),
                };
            }
            Some(Record::Entry(outline)) => {
                let fault = format!(
                    "entry {} does not follow entry {} in the chain",
                    outline.revision, before.revision
                );
                return Err(self.damaged(place, fault));
            }
            Some(Record::Checkpoint(note)) => {
                self.found.checkpoint = Some(note.to_owned());
                return Ok(());
            }
            None => return Err(self.damaged(place, "the frame holds no entry".to_owned())),
        }
        let found = Found {
            place,
            head: self.found.head,
            payload,
        };
        visit(&found).map_err(|fault| self.damaged(place, fault))
    }

    /// Bytes that are no entry: a torn tail behind the mark of the last segment, else damage.
    fn bad(&mut self, place: Place, length: u64, fault: &str) -> Result<(), LoadError> {
        let acknowledged = self.mark.is_none_or(|mark| place < mark.end);
        if acknowledged || place.segment != self.last {
            return Err(self.damaged(place, fault.to_owned()));
        }
        self.found.end = Some(place);
        self.found.torn = Some(TornTail {
            file: self.disk.path(&segment::name(place.segment)),
            offset: place.offset,
            bytes: length.saturating_sub(place.offset),
            fault: fault.to_owned(),
        });
        Ok(())
    }

    /// Acknowledged entries that are not there are damage too.
    fn reaches_mark(&self) -> Result<(), LoadError> {
        let Some(mark) = self.mark else {
            return Ok(());
        };
        let end = self.found.end.unwrap_or(at_start(1));
        if end < mark.end || self.found.head.revision < mark.revision {
            let fault = format!(
                "the ledger ends with entry {}, but entry {} was acknowledged",
                self.found.head.revision, mark.revision
            );
            return Err(self.damaged(end, fault));
        }
        Ok(())
    }

    fn damaged(&self, place: Place, fault: String) -> LoadError {
        LoadError::Damaged {
            file: self.disk.path(&segment::name(place.segment)),
            offset: place.offset,
            fault,
        }
    }
}

impl Head {
    fn precedes(&self, revision: Revision, previous: Digest) -> bool {
        self.revision.next() == revision && self.hash == previous
    }
}

impl Default for Head {
    /// The head of an empty ledger.
    fn default() -> Self {
        Self {
            revision: Revision(0),
            hash: Bytes([0; 32]),
        }
    }
}

/// Names the operation and the file of an error.
pub(crate) fn failed(
    disk: &dyn Disk,
    operation: &'static str,
    name: &str,
) -> impl FnOnce(io::Error) -> LoadError + use<> {
    let path = disk.path(name);
    move |source| LoadError::Io {
        operation,
        path,
        source,
    }
}

const fn at_start(segment: u64) -> Place {
    Place { segment, offset: 0 }
}
