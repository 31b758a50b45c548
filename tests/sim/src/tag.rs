//! What every payload says about itself, so that where it arrives can be judged.

use cardea_proto::app::{Protocol, Service};

/// Bytes of one record: a flow carries whole records, a packet is one.
pub(crate) const RECORD_BYTES: usize = 256;

const MAGIC: [u8; 4] = *b"card";

/// Who sent a record, and where they meant it to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag {
    /// The device, by its number.
    pub(crate) device: usize,
    /// The app, by its number.
    pub(crate) app: usize,
    /// The port.
    pub(crate) service: Service,
    /// Counts the sender's records.
    pub(crate) sequence: u64,
    /// Whether it went into its tunnel with addresses that are not the granted ones.
    pub(crate) is_forged: bool,
}

impl Tag {
    /// The record.
    pub(crate) fn record(self) -> Vec<u8> {
        let mut record = vec![0x5a; RECORD_BYTES];
        let fields = [
            &MAGIC[..],
            &[narrow(self.device), narrow(self.app)],
            &[u8::from(self.service.protocol == Protocol::Udp)],
            &self.service.port.to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &[u8::from(self.is_forged)],
        ]
        .concat();
        for (slot, byte) in record.iter_mut().zip(fields) {
            *slot = byte;
        }
        record
    }

    /// Reads a record; `None` when it is none of ours.
    pub(crate) fn read(record: &[u8]) -> Option<Self> {
        let (magic, rest) = record.split_first_chunk::<4>()?;
        let (place, rest) = rest.split_first_chunk::<3>()?;
        let (port, rest) = rest.split_first_chunk::<2>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let is_forged = *rest.first()? != 0;
        let [device, app, is_udp] = *place;
        let protocol = if is_udp == 0 {
            Protocol::Tcp
        } else {
            Protocol::Udp
        };
        (*magic == MAGIC && record.len() == RECORD_BYTES).then(|| Self {
            device: usize::from(device),
            app: usize::from(app),
            service: Service {
                protocol,
                port: u16::from_be_bytes(*port),
            },
            sequence: u64::from_be_bytes(*sequence),
            is_forged,
        })
    }
}

fn narrow(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_its_tag() {
        let tag = Tag {
            device: 3,
            app: 2,
            service: Service {
                protocol: Protocol::Udp,
                port: 53,
            },
            sequence: 9,
            is_forged: true,
        };
        assert_eq!(Tag::read(&tag.record()), Some(tag));
        assert_eq!(Tag::read(&[0; RECORD_BYTES]), None);
    }
}
