//! Batches that a topic keeps in another codec than their producer's (`compression.type`).
//!
//! Records stay as they are, byte by byte, and so do offsets, timestamps, producer, sequence and the mark of a
//! transaction: a batch is decompressed, looked through and compressed anew. One that has the topic's codec already
//! is stored as it was sent, whatever its level, and so is a control batch.
//!
//! Source: Kafka `LogValidator`.

use crate::codec::compression::{DecompressError, compress_at, decompress};
use crate::codec::record_batch::{BATCH_HEADER_SIZE, BatchRewrite, BatchView, Compression, rewrite_batch};
use crate::codec::records::Records;
use crate::config::topic::TopicConfig;
use crate::config::value::CompressionType;
use crate::log::compaction::payload::{PayloadError, TURN_SIZE_MAX, find_keyless};
use crate::types::limits::DECOMPRESSED_SIZE_MAX;

/// Bytes of records that gzip or zstd compress without letting others run: 50 MB/s take 0.3 ms.
const SLOW_TURN_SIZE_MAX: usize = 16 << 10;
/// Levels of zstd beyond it are slower than that.
const QUICK_ZSTD_LEVEL_MAX: i32 = 6;

/// What a topic stores its batches as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredCompression {
    pub codec: Compression,
    /// `None`: the codec's usual one, or its only one.
    pub level: Option<i32>,
}

impl StoredCompression {
    /// `None` where batches are stored as they are sent.
    pub fn of(config: &TopicConfig) -> Option<StoredCompression> {
        let (codec, level) = match config.compression {
            CompressionType::Producer => return None,
            CompressionType::Uncompressed => (Compression::None, None),
            CompressionType::Gzip => {
                (Compression::Gzip, Some(config.compression_gzip_level).filter(|level| *level >= 0))
            }
            CompressionType::Snappy => (Compression::Snappy, None),
            CompressionType::Lz4 => (Compression::Lz4, None),
            CompressionType::Zstd => (Compression::Zstd, Some(config.compression_zstd_level)),
        };
        Some(StoredCompression { codec, level })
    }

    /// Whether a batch has to be compressed anew.
    pub fn changes(&self, batch: &BatchView<'_>) -> bool {
        batch.compression() != Some(self.codec) && !batch.is_control()
    }

    /// Bytes of records that are compressed without letting others run.
    fn turn_size_max(&self) -> usize {
        match self.codec {
            Compression::None | Compression::Snappy | Compression::Lz4 => TURN_SIZE_MAX,
            Compression::Zstd if self.level.is_some_and(|level| level > QUICK_ZSTD_LEVEL_MAX) => 0,
            Compression::Gzip | Compression::Zstd => SLOW_TURN_SIZE_MAX,
        }
    }
}

/// The batch as the topic stores it. `size_max`: of a batch (`max.message.bytes`).
///
/// Holds the records decompressed, at most [`DECOMPRESSED_SIZE_MAX`], and once more compressed.
/// Errors: the batch is not to be stored.
pub fn recompress(
    batch: &BatchView<'_>,
    to: StoredCompression,
    size_max: usize,
) -> Result<Vec<u8>, PayloadError> {
    let records_max = match to.codec {
        Compression::None => size_max.saturating_sub(BATCH_HEADER_SIZE).min(DECOMPRESSED_SIZE_MAX),
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
            DECOMPRESSED_SIZE_MAX
        }
    };
    recompress_within(batch, to, records_max)
}

/// The same for as much as one turn of a core may take; `None` for more.
pub fn recompress_in_turn(
    batch: &BatchView<'_>,
    to: StoredCompression,
) -> Result<Option<Vec<u8>>, PayloadError> {
    let records_max = to.turn_size_max();
    if batch.payload().len() > records_max {
        return Ok(None);
    }
    match recompress_within(batch, to, records_max) {
        Ok(stored) => Ok(Some(stored)),
        Err(PayloadError::Decompress(DecompressError::TooLarge { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn recompress_within(
    batch: &BatchView<'_>,
    to: StoredCompression,
    records_max: usize,
) -> Result<Vec<u8>, PayloadError> {
    let from = batch.compression().ok_or(PayloadError::Codec)?;
    let (mut decompressed, mut packed) = (Vec::new(), Vec::new());
    let records = match from {
        Compression::None => batch.payload(),
        Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
            decompress(from, batch.payload(), records_max, &mut decompressed)?;
            &decompressed
        }
    };
    // Whole records, each at its offset; whether they have keys matters elsewhere.
    find_keyless(Records::new(records, batch.record_count()))?;
    compress_at(to.codec, to.level, records, &mut packed);
    let rewrite = BatchRewrite {
        compression: to.codec,
        record_count: batch.record_count(),
        base_timestamp: batch.base_timestamp(),
        max_timestamp: batch.max_timestamp(),
        has_delete_horizon: batch.delete_horizon().is_some(),
    };
    let mut stored = Vec::with_capacity(BATCH_HEADER_SIZE + packed.len());
    rewrite_batch(batch, &rewrite, &packed, &mut stored);
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::compression::compress;
    use crate::codec::record_batch::{BatchHeader, write_batch, write_control_batch};
    use crate::codec::records::{NewRecord, write_record};
    use crate::config::topic::TopicDefaults;
    use crate::log::compaction::payload::records;
    use crate::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};

    fn stored_as(codec: Compression) -> StoredCompression {
        StoredCompression { codec, level: None }
    }

    #[test]
    fn topics_say_what_they_store() {
        let of = |overrides: &[(&str, &str)]| {
            let config = TopicConfig::resolve(&TopicDefaults::default(), 1, overrides.iter().copied());
            StoredCompression::of(&config.unwrap())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("compression.type", "uncompressed")]), Some(stored_as(Compression::None)));
        assert_eq!(of(&[("compression.type", "gzip")]), Some(stored_as(Compression::Gzip)));
        let level = |name, level| of(&[("compression.type", name), level]).unwrap().level;
        assert_eq!(level("gzip", ("compression.gzip.level", "9")), Some(9));
        assert_eq!(level("zstd", ("compression.zstd.level", "-7")), Some(-7));
        assert_eq!(level("lz4", ("compression.lz4.level", "17")), None);
    }

    #[test]
    fn records_and_all_that_a_batch_says_of_them_stay() {
        for from in Compression::ALL {
            let sent = batch(from, 50, 10);
            let (sent, _) = BatchView::split_first(&sent).unwrap();
            for to in Compression::ALL {
                assert_eq!(stored_as(to).changes(&sent), from != to);
                let stored = recompress(&sent, stored_as(to), 1 << 20).unwrap();
                let (stored, rest) = BatchView::split_first(&stored).unwrap();
                assert!(rest.is_empty());
                stored.validate_produced().unwrap();
                assert_eq!(stored.compression(), Some(to));
                assert_eq!(stored.producer(), sent.producer());
                assert_eq!(stored.last_offset_delta(), 49);
                assert_eq!(
                    (stored.base_timestamp(), stored.max_timestamp(), stored.is_transactional()),
                    (Timestamp(1000), Timestamp(1049), true)
                );
                let (mut left, mut right) = (Vec::new(), Vec::new());
                let (left, right) =
                    (records(&sent, &mut left).unwrap(), records(&stored, &mut right).unwrap());
                assert_eq!(left.collect::<Vec<_>>(), right.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn markers_are_left_alone() {
        let mut marker = Vec::new();
        write_control_batch((ProducerId(1), ProducerEpoch(0)), Timestamp(0), b"", &mut marker);
        let (marker, _) = BatchView::split_first(&marker).unwrap();
        assert!(!stored_as(Compression::Zstd).changes(&marker));
    }

    #[test]
    fn what_a_turn_has_no_time_for_is_told_by_its_records() {
        for (to, size, fits) in [
            (Compression::Gzip, SLOW_TURN_SIZE_MAX / 2, true),
            (Compression::Gzip, SLOW_TURN_SIZE_MAX + 1, false),
            (Compression::None, SLOW_TURN_SIZE_MAX + 1, true),
            (Compression::None, TURN_SIZE_MAX + 1, false),
        ] {
            let sent = batch(Compression::Zstd, 1, size);
            let (sent, _) = BatchView::split_first(&sent).unwrap();
            assert!(sent.size() < SLOW_TURN_SIZE_MAX);
            assert_eq!(recompress_in_turn(&sent, stored_as(to)).unwrap().is_some(), fits, "{to:?} {size}");
        }
        let sent = batch(Compression::Gzip, 1, 10);
        let (sent, _) = BatchView::split_first(&sent).unwrap();
        let slow = StoredCompression { codec: Compression::Zstd, level: Some(22) };
        assert_eq!(recompress_in_turn(&sent, slow), Ok(None));
    }

    #[test]
    fn bombs_and_damage_are_refused() {
        let bomb = batch(Compression::Zstd, 1, DECOMPRESSED_SIZE_MAX);
        let (bomb, _) = BatchView::split_first(&bomb).unwrap();
        let refused = |batch: &BatchView<'_>, to| recompress(batch, stored_as(to), 1 << 20);
        for to in [Compression::Gzip, Compression::None] {
            let refused = refused(&bomb, to);
            assert!(matches!(refused, Err(PayloadError::Decompress(DecompressError::TooLarge { .. }))));
        }
        let large = batch(Compression::Zstd, 1, 2 << 20);
        let (large, _) = BatchView::split_first(&large).unwrap();
        assert!(refused(&large, Compression::Gzip).is_ok());
        assert!(refused(&large, Compression::None).is_err(), "no such batch is stored");
        let mut payload = Vec::new();
        write_record(&NewRecord { offset_delta: 3, ..NewRecord::default() }, &mut payload);
        let elsewhere = wrapped(Compression::None, 1, &payload);
        let (elsewhere, _) = BatchView::split_first(&elsewhere).unwrap();
        assert!(matches!(refused(&elsewhere, Compression::Lz4), Err(PayloadError::OffsetDelta { .. })));
        let cut = wrapped(Compression::None, 1, &payload[..payload.len() - 1]);
        let (cut, _) = BatchView::split_first(&cut).unwrap();
        assert!(matches!(refused(&cut, Compression::Lz4), Err(PayloadError::Record(_))));
    }

    /// Of one producer's transaction; every value has as many bytes.
    fn batch(compression: Compression, count: u32, value_size: usize) -> Vec<u8> {
        let (mut payload, mut packed) = (Vec::new(), Vec::new());
        for number in 0..count as i32 {
            let record = NewRecord {
                offset_delta: number,
                timestamp_delta: number.into(),
                value: Some(&vec![number as u8; value_size]),
                ..NewRecord::default()
            };
            write_record(&record, &mut payload);
        }
        compress(compression, &payload, &mut packed);
        wrapped(compression, count, &packed)
    }

    fn wrapped(compression: Compression, record_count: u32, payload: &[u8]) -> Vec<u8> {
        let header = BatchHeader {
            compression,
            transactional: true,
            record_count,
            base_timestamp: Timestamp(1000),
            max_timestamp: Timestamp(1000 + i64::from(record_count) - 1),
            producer: Some((ProducerId(7), ProducerEpoch(3), Sequence(11))),
        };
        let mut out = Vec::new();
        write_batch(&header, payload, &mut out);
        out
    }
}
