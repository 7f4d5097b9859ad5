//! A stamped record says who it is in every part, so that a change of any part shows.
//!
//! | part | content |
//! |---|---|
//! | key | sequence, 16 hexadecimal digits |
//! | header `partition` | partition, i32 |
//! | header `sequence` | sequence, u64 |
//! | timestamp | the one that the value states |
//! | value | as below |
//!
//! | offset in the value | size | field |
//! |---|---|---|
//! | 0 | 8 | run id |
//! | 8 | 4 | partition |
//! | 12 | 8 | sequence within the partition and run, from zero |
//! | 20 | 8 | timestamp, ms |
//! | 28 | 8 | CRC-64/NVME of all other bytes of the value |
//! | 36 | | filler that follows from run, partition and sequence |
//!
//! Integers big-endian.

use odradek::codec::records::{Header, NewRecord, RecordView, write_record};
use odradek::types::Timestamp;

use crate::content::Random;

const SEQUENCE_AT: usize = 12;
const TIMESTAMP_AT: usize = 20;
const HASH_AT: usize = 28;
/// Bytes of a value before its filler: the smallest record size.
pub const STAMP_SIZE: usize = 36;

/// Which run a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(pub u64);

/// Who a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub run: RunId,
    pub partition: i32,
    pub sequence: u64,
    pub timestamp: Timestamp,
}

/// A part of a record that is not as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Value,
    Key,
    Headers,
    Timestamp,
}

/// Appends a stamped record. Cost: one pass over the value to fill and one to hash it.
pub fn write_stamped(stamp: &Stamp, offset_delta: i32, value: &mut Vec<u8>, size: usize, out: &mut Vec<u8>) {
    fill_value(stamp, value, size);
    let key = key_of(stamp.sequence);
    let (partition, sequence) = (stamp.partition.to_be_bytes(), stamp.sequence.to_be_bytes());
    let headers = headers_of(&partition, &sequence);
    let record = NewRecord {
        timestamp_delta: 0,
        offset_delta,
        key: Some(&key),
        value: Some(value),
        headers: &headers,
    };
    write_record(&record, out);
}

/// Who a record says it is, from its value alone; `None` when the value is not as it was written.
pub fn read_stamp(value: &[u8]) -> Option<Stamp> {
    let (stored, rest) = value.get(HASH_AT..)?.split_first_chunk::<8>()?;
    if u64::from_be_bytes(*stored) != hash(&value[..HASH_AT], rest) {
        return None;
    }
    let field = |at: usize| value[at..at + 8].try_into().expect("eight bytes");
    Some(Stamp {
        run: RunId(u64::from_be_bytes(field(0))),
        partition: i32::from_be_bytes(value[8..12].try_into().expect("four bytes")),
        sequence: u64::from_be_bytes(field(SEQUENCE_AT)),
        timestamp: Timestamp(i64::from_be_bytes(field(TIMESTAMP_AT))),
    })
}

/// The first part besides the value that does not fit the stamp. `timestamp`: the record's own;
/// `None` where the broker sets it.
pub fn mismatch(stamp: &Stamp, record: &RecordView<'_>, timestamp: Option<Timestamp>) -> Option<Part> {
    if record.key != Some(&key_of(stamp.sequence)[..]) {
        return Some(Part::Key);
    }
    let (partition, sequence) = (stamp.partition.to_be_bytes(), stamp.sequence.to_be_bytes());
    if !record.headers().eq(headers_of(&partition, &sequence)) {
        return Some(Part::Headers);
    }
    match timestamp {
        Some(timestamp) if timestamp != stamp.timestamp => Some(Part::Timestamp),
        _ => None,
    }
}

fn fill_value(stamp: &Stamp, value: &mut Vec<u8>, size: usize) {
    value.clear();
    value.extend_from_slice(&stamp.run.0.to_be_bytes());
    value.extend_from_slice(&stamp.partition.to_be_bytes());
    value.extend_from_slice(&stamp.sequence.to_be_bytes());
    value.extend_from_slice(&stamp.timestamp.0.to_be_bytes());
    value.extend_from_slice(&[0; 8]);
    let mut random = Random::new(stamp.run.0 ^ stamp.sequence ^ ((stamp.partition as u64) << 48));
    while value.len() < size {
        // Bytes that compress, as real ones do.
        value.extend_from_slice(&(random.next() & 0x0f0f_0f0f_0f0f_0f0f).to_be_bytes());
    }
    value.truncate(size.max(STAMP_SIZE));
    let hash = hash(&value[..HASH_AT], &value[STAMP_SIZE..]);
    value[HASH_AT..STAMP_SIZE].copy_from_slice(&hash.to_be_bytes());
}

fn hash(before: &[u8], after: &[u8]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(before);
    digest.update(after);
    digest.finalize()
}

fn key_of(sequence: u64) -> [u8; 16] {
    let mut key = [0; 16];
    for (at, digit) in key.iter_mut().enumerate() {
        let nibble = (sequence >> (60 - 4 * at)) as u8 & 0xf;
        *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    }
    key
}

fn headers_of<'a>(partition: &'a [u8; 4], sequence: &'a [u8; 8]) -> [Header<'a>; 2] {
    [Header { key: b"partition", value: Some(partition) }, Header { key: b"sequence", value: Some(sequence) }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek::codec::records::Records;

    #[test]
    fn a_record_says_who_it_is() {
        let stamp = Stamp { run: RunId(7), partition: 3, sequence: 0xab, timestamp: Timestamp(1234) };
        for size in [0, 36, 37, 100, 1001] {
            let (mut value, mut out) = (Vec::new(), Vec::new());
            write_stamped(&stamp, 0, &mut value, size, &mut out);
            assert_eq!(value.len(), size.max(STAMP_SIZE));
            let record = Records::new(&out, 1).next().unwrap().unwrap();
            assert_eq!(record.key, Some(&b"00000000000000ab"[..]));
            assert_eq!(read_stamp(record.value.unwrap()), Some(stamp));
            assert_eq!(mismatch(&stamp, &record, Some(Timestamp(1234))), None);
            assert_eq!(mismatch(&stamp, &record, Some(Timestamp(1235))), Some(Part::Timestamp));
            assert_eq!(mismatch(&stamp, &record, None), None);
        }
    }

    #[test]
    fn any_changed_bit_of_the_value_shows() {
        let stamp = Stamp { run: RunId(7), partition: 3, sequence: 9, timestamp: Timestamp(1234) };
        let mut value = Vec::new();
        fill_value(&stamp, &mut value, 60);
        for bit in 0..value.len() * 8 {
            let mut changed = value.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_stamp(&changed), None, "bit {bit}");
        }
        for size in 0..value.len() {
            assert_eq!(read_stamp(&value[..size]), None, "cut to {size}");
        }
    }
}
