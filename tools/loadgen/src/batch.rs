//! Record batches that are built once and sent many times.
//!
//! A batch on the wire is a 61-byte header and a payload. The payload of a [`Template`] is shared by
//! everything in flight; only the header is written anew (timestamp, producer, sequence, record
//! count, CRC). Without compression any first part of the records is a payload too, so a batch that
//! holds fewer records than the template costs no more.
//!
//! The CRC runs over the shared payload each time: 0.6 µs for 64 KiB, and the bytes are on their way
//! into the cache for the socket's copy anyway.

use std::ops::Range;
use std::rc::Rc;

use odradek::codec::compression::compress;
use odradek::codec::record_batch::{BATCH_HEADER_SIZE, BATCH_OVERHEAD, CRC_COVERS_FROM, Compression};
use odradek::codec::records::{NewRecord, write_record};
use odradek::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Who sends a batch, and where it stands in that producer's stream.
pub type Stamp = Option<(ProducerId, ProducerEpoch, Sequence)>;

/// Attribute of a batch that belongs to a transaction (KIP-98).
const TRANSACTIONAL: i16 = 0x10;

/// Some records, ready to be sent: a part of shared bytes.
#[derive(Clone)]
pub struct Payload {
    pub bytes: Rc<[u8]>,
    pub range: Range<usize>,
    pub record_count: u32,
    pub compression: Compression,
}

impl Payload {
    /// Bytes of the whole batch.
    pub fn batch_size(&self) -> usize {
        BATCH_HEADER_SIZE + self.range.len()
    }

    /// Appends the batch header. All records get the timestamp `now`.
    pub fn write_header(&self, now: Timestamp, stamp: Stamp, transactional: bool, out: &mut Vec<u8>) {
        let start = out.len();
        let (id, epoch, sequence) = stamp.map_or((-1, -1, -1), |(id, epoch, seq)| (id.0, epoch.0, seq.0));
        let length = (self.batch_size() - BATCH_OVERHEAD) as i32;
        out.extend_from_slice(&0i64.to_be_bytes()); // Base offset: the broker's to assign.
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes()); // Leader epoch: the broker's.
        out.extend_from_slice(&[2, 0, 0, 0, 0]); // Magic, CRC below.
        let attributes = self.compression.attribute_bits() | if transactional { TRANSACTIONAL } else { 0 };
        out.extend_from_slice(&attributes.to_be_bytes());
        out.extend_from_slice(&(self.record_count as i32 - 1).to_be_bytes());
        out.extend_from_slice(&now.0.to_be_bytes());
        out.extend_from_slice(&now.0.to_be_bytes());
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&epoch.to_be_bytes());
        out.extend_from_slice(&sequence.to_be_bytes());
        out.extend_from_slice(&(self.record_count as i32).to_be_bytes());
        let header = &mut out[start..];
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        crc.update(&header[CRC_COVERS_FROM..]);
        crc.update(&self.bytes[self.range.clone()]);
        let crc = crc.finalize() as u32;
        header[CRC_COVERS_FROM - 4..CRC_COVERS_FROM].copy_from_slice(&crc.to_be_bytes());
        debug_assert_eq!(header.len(), BATCH_HEADER_SIZE);
    }
}

/// A full batch, from which smaller ones are cut.
pub struct Template {
    plain: Rc<[u8]>,
    /// End of each record in `plain`.
    ends: Vec<usize>,
    compression: Compression,
    /// Compressed forms by record count; counts are rounded down to powers of two, so there are few.
    compressed: Vec<(u32, Rc<[u8]>)>,
}

impl Template {
    /// From record contents: key and value of each.
    pub fn new<'a>(
        records: impl IntoIterator<Item = (Option<&'a [u8]>, &'a [u8])>,
        compression: Compression,
    ) -> Template {
        let mut plain = Vec::new();
        let mut ends = Vec::new();
        for (index, (key, value)) in records.into_iter().enumerate() {
            let record =
                NewRecord { offset_delta: index as i32, key, value: Some(value), ..NewRecord::default() };
            write_record(&record, &mut plain);
            ends.push(plain.len());
        }
        assert!(!ends.is_empty(), "a batch has at least one record");
        Template { plain: plain.into(), ends, compression, compressed: Vec::new() }
    }

    pub fn record_count(&self) -> u32 {
        self.ends.len() as u32
    }

    /// At most `count` of the first records: fewer when compressed, where only the whole and powers
    /// of two are kept.
    pub fn take(&mut self, count: u32) -> Payload {
        assert!(count > 0, "a batch has at least one record");
        let count = count.min(self.record_count());
        let end = self.ends[count as usize - 1];
        if self.compression == Compression::None {
            let (bytes, compression) = (self.plain.clone(), Compression::None);
            return Payload { bytes, range: 0..end, record_count: count, compression };
        }
        let count = if count == self.record_count() { count } else { 1 << count.ilog2() };
        let bytes = self.compressed(count);
        Payload { range: 0..bytes.len(), bytes, record_count: count, compression: self.compression }
    }

    fn compressed(&mut self, count: u32) -> Rc<[u8]> {
        if let Some((_, bytes)) = self.compressed.iter().find(|(of, _)| *of == count) {
            return bytes.clone();
        }
        let mut out = Vec::new();
        compress(self.compression, &self.plain[..self.ends[count as usize - 1]], &mut out);
        let bytes: Rc<[u8]> = out.into();
        self.compressed.push((count, bytes.clone()));
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek::codec::record_batch::{BatchHeader, BatchView, restamp, write_batch};

    #[test]
    fn the_header_is_the_codecs() {
        let mut template = Template::new([(None, &b"one"[..]), (Some(&b"k"[..]), b"two")], Compression::None);
        let stamp = Some((ProducerId(7), ProducerEpoch(1), Sequence(42)));
        for (count, transactional) in [(1, false), (2, false), (2, true)] {
            let payload = template.take(count);
            let header = BatchHeader {
                compression: Compression::None,
                transactional,
                record_count: count,
                base_timestamp: Timestamp(1),
                max_timestamp: Timestamp(1),
                producer: None,
            };
            let mut expected = Vec::new();
            write_batch(&header, &payload.bytes[payload.range.clone()], &mut expected);
            restamp(&mut expected, Timestamp(99), stamp);
            assert_eq!(whole(&payload, Timestamp(99), stamp, transactional), expected);
        }
    }

    #[test]
    fn compressed_parts_are_valid_batches() {
        let value = [b'x'; 50];
        for codec in Compression::ALL {
            let mut template = Template::new((0..100).map(|_| (None, &value[..])), codec);
            for (asked, got) in [(1, 1), (7, 4), (100, 100), (500, 100)] {
                let got = if codec == Compression::None { asked.min(100) } else { got };
                let payload = template.take(asked);
                assert_eq!(payload.record_count, got);
                let bytes = whole(&payload, Timestamp(5), None, false);
                assert_eq!(bytes.len(), payload.batch_size());
                let (view, _) = BatchView::split_first(&bytes).unwrap();
                assert_eq!(view.validate_produced(), Ok(()));
                assert_eq!(view.record_count(), got);
            }
        }
    }

    fn whole(payload: &Payload, now: Timestamp, stamp: Stamp, transactional: bool) -> Vec<u8> {
        let mut out = Vec::new();
        payload.write_header(now, stamp, transactional, &mut out);
        out.extend_from_slice(&payload.bytes[payload.range.clone()]);
        out
    }
}
