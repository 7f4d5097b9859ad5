//! Second walk: what of a batch stays (Kafka `Cleaner.cleanInto`, `MemoryRecords.filterTo`).
//!
//! | record | stays |
//! |---|---|
//! | beyond the map's latest offset | yes: another pass will judge it |
//! | older than its key's newest | no |
//! | its key's newest, with a value | yes |
//! | its key's newest, without (tombstone) | until the batch's delete horizon has passed |
//! | without key | no |
//! | of an aborted transaction | no |
//! | marker whose transaction has nothing left | until the batch's delete horizon has passed |
//!
//! The delete horizon is `delete.retention.ms` after the pass that first meets the tombstone or the
//! marker; it takes the place of the base timestamp (KIP-534). One deliberate difference to Kafka: a
//! batch that reaches beyond the map gets it only in the pass that judges all of it, so that no
//! tombstone's time begins before what it deletes is gone.
//!
//! A batch of which nothing stays is kept without its records when it is the newest of a producer that
//! is remembered, or the last of what is compacted: offsets and sequences end where they did. What
//! stays keeps its offset, batches keep their base and last offset, epoch, producer, sequence and codec.

use super::offset_map::OffsetMap;
use super::payload::{PayloadError, delta_after, records};
use super::transactions::CleanedTransactions;
use crate::codec::compression::compress;
use crate::codec::record_batch::{BatchRewrite, BatchView, Compression, rewrite_batch};
use crate::codec::records::{Header, NewRecord, RecordView, Records, write_record};
use crate::log::producers::LastRecord;
use crate::types::{Offset, Timestamp};

/// What a pass goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterOptions {
    /// Wall clock when the pass began.
    pub now: Timestamp,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// Exclusive: where what can be compacted ends.
    pub end: Offset,
}

/// What is known of a batch beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchFacts {
    /// The newest of the producer that wrote it, if that is remembered.
    pub last_record: Option<LastRecord>,
    /// It ends the segments that become one, and with them the new one.
    pub ends_group: bool,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Copied as it is.
    Kept,
    Rewritten,
    /// Kept for its offsets and its producer, without records.
    Emptied,
    Dropped,
}

/// What a pass has done. Of batches that were read, but for the `_kept`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterCounts {
    pub bytes_read: u64,
    pub bytes_kept: u64,
    pub records_read: u64,
    pub records_kept: u64,
    /// Records without key, which no pass keeps.
    pub records_without_key: u64,
}

/// Lives: for the second walk of one pass. Pure.
/// Shape: one batch per step; holds that batch decompressed and once more compressed.
#[derive(Debug)]
pub struct BatchFilter {
    map: OffsetMap,
    options: FilterOptions,
    transactions: CleanedTransactions,
    counts: FilterCounts,
    decompressed: Vec<u8>,
    payload: Vec<u8>,
    compressed: Vec<u8>,
}

/// What a look at the records of a batch has found.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    record_count: u32,
    kept_count: u32,
    keeps_tombstone: bool,
    without_key: u32,
    first_timestamp: Option<Timestamp>,
    max_timestamp: Timestamp,
}

impl BatchFilter {
    pub fn new(map: OffsetMap, options: FilterOptions) -> BatchFilter {
        BatchFilter {
            map,
            options,
            transactions: CleanedTransactions::default(),
            counts: FilterCounts::default(),
            decompressed: Vec::new(),
            payload: Vec::new(),
            compressed: Vec::new(),
        }
    }

    pub fn transactions(&mut self) -> &mut CleanedTransactions {
        &mut self.transactions
    }

    pub fn counts(&self) -> FilterCounts {
        self.counts
    }

    /// Exclusive: what lies below is compacted once the pass is through.
    pub fn clean_end(&self) -> Option<Offset> {
        self.map.latest()?.advance(1)
    }

    /// Judges the next batch of the log as it was read, and appends what stays of it to `out`.
    ///
    /// Cost per record: its varints, one hash of its key, and a copy if the batch is rewritten.
    pub fn take(
        &mut self,
        bytes: &[u8],
        facts: &BatchFacts,
        out: &mut Vec<u8>,
    ) -> Result<Fate, PayloadError> {
        let (batch, _) = BatchView::split_first(bytes)?;
        batch.validate_stored()?;
        let start = out.len();
        let is_discardable = self.transactions.observe(&batch);
        let horizon_passed = batch.delete_horizon().is_some_and(|horizon| horizon <= self.options.now);
        let discards_all = is_discardable && (!batch.is_control() || horizon_passed);
        let look = if discards_all {
            Look { record_count: batch.record_count(), ..Look::default() }
        } else {
            self.look(&batch)?
        };
        let fate = if look.kept_count > 0 {
            let begins_horizon = (look.keeps_tombstone || (batch.is_control() && is_discardable))
                && batch.delete_horizon().is_none()
                && self.map.latest().is_some_and(|latest| batch.last_offset() <= latest);
            if look.kept_count == look.record_count && !begins_horizon {
                out.extend_from_slice(batch.bytes());
                Fate::Kept
            } else {
                let horizon = Timestamp(self.options.now.0.saturating_add(self.options.delete_retention_ms));
                let horizon = if begins_horizon { Some(horizon) } else { batch.delete_horizon() };
                self.rewrite(&batch, &look, horizon, out)?;
                Fate::Rewritten
            }
        } else if is_needed_empty(&batch, facts) || batch.end_offset() == self.options.end {
            if batch.record_count() == 0 {
                out.extend_from_slice(batch.bytes());
                Fate::Kept
            } else {
                write_emptied(&batch, out);
                Fate::Emptied
            }
        } else {
            Fate::Dropped
        };
        self.counts.bytes_read += batch.size() as u64;
        self.counts.bytes_kept += (out.len() - start) as u64;
        self.counts.records_read += look.record_count as u64;
        self.counts.records_kept += look.kept_count as u64;
        self.counts.records_without_key += look.without_key as u64;
        Ok(fate)
    }

    /// Goes through the records without copying them; what is decompressed stays for
    /// [`rewrite`](Self::rewrite).
    fn look(&mut self, batch: &BatchView<'_>) -> Result<Look, PayloadError> {
        let mut look = Look { max_timestamp: Timestamp::NONE, ..Look::default() };
        let mut before = None;
        let (map, now) = (&self.map, self.options.now);
        for (number, record) in (0..).zip(records(batch, &mut self.decompressed)?) {
            let record = record?;
            let delta = delta_after(&record, number, before, batch)?;
            before = Some(delta);
            look.record_count += 1;
            let verdict = judge(map, now, batch, &record, delta);
            look.without_key += u32::from(verdict == Verdict::NoKey);
            if verdict != Verdict::Keep {
                continue;
            }
            let timestamp = timestamp_of(batch, &record);
            look.kept_count += 1;
            look.keeps_tombstone |= record.value.is_none();
            look.first_timestamp.get_or_insert(timestamp);
            look.max_timestamp = look.max_timestamp.max(timestamp);
        }
        Ok(look)
    }

    fn rewrite(
        &mut self,
        batch: &BatchView<'_>,
        look: &Look,
        horizon: Option<Timestamp>,
        out: &mut Vec<u8>,
    ) -> Result<(), PayloadError> {
        let base = horizon.or(look.first_timestamp).unwrap_or(Timestamp::NONE);
        let compression = batch.compression().ok_or(PayloadError::Codec)?;
        self.payload.clear();
        let payload = if compression == Compression::None { batch.payload() } else { &self.decompressed };
        let mut headers: Vec<Header<'_>> = Vec::new();
        for record in Records::new(payload, batch.record_count()) {
            let record = record?;
            let delta = record.offset_delta.max(0) as u32; // Checked by the look.
            if judge(&self.map, self.options.now, batch, &record, delta) != Verdict::Keep {
                continue;
            }
            headers.clear();
            headers.extend(record.headers());
            let new = NewRecord {
                timestamp_delta: timestamp_of(batch, &record).0.wrapping_sub(base.0),
                offset_delta: record.offset_delta,
                key: record.key,
                value: record.value,
                headers: &headers,
            };
            write_record(&new, &mut self.payload);
        }
        let rewrite = BatchRewrite {
            compression,
            record_count: look.kept_count,
            base_timestamp: base,
            max_timestamp: look.max_timestamp,
            has_delete_horizon: horizon.is_some(),
        };
        if compression == Compression::None {
            rewrite_batch(batch, &rewrite, &self.payload, out);
        } else {
            compress(compression, &self.payload, &mut self.compressed);
            rewrite_batch(batch, &rewrite, &self.compressed, out);
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Drop,
    NoKey,
}

fn judge(
    map: &OffsetMap,
    now: Timestamp,
    batch: &BatchView<'_>,
    record: &RecordView<'_>,
    delta: u32,
) -> Verdict {
    let offset = batch.base_offset().advance(delta).unwrap_or(Offset::MAX);
    if batch.is_control() || map.latest().is_none_or(|latest| offset > latest) {
        return Verdict::Keep;
    }
    let Some(key) = record.key else { return Verdict::NoKey };
    let is_newest = map.get(key).is_none_or(|newest| offset >= newest);
    let may_stay = record.value.is_some() || batch.delete_horizon().is_none_or(|horizon| now < horizon);
    if is_newest && may_stay { Verdict::Keep } else { Verdict::Drop }
}

/// In a `LogAppendTime` batch all records have its largest timestamp.
fn timestamp_of(batch: &BatchView<'_>, record: &RecordView<'_>) -> Timestamp {
    if batch.is_log_append_time() {
        return batch.max_timestamp();
    }
    Timestamp(batch.base_timestamp().0.wrapping_add(record.timestamp_delta))
}

/// Whether a batch has to stay although none of its records does.
fn is_needed_empty(batch: &BatchView<'_>, facts: &BatchFacts) -> bool {
    let holds_producer =
        batch.writer().zip(facts.last_record).is_some_and(|((_, epoch), last)| match last.last_offset {
            Some(last_offset) => batch.last_offset() == last_offset,
            None => batch.is_control() && epoch == last.epoch,
        });
    holds_producer || facts.ends_group
}

fn write_emptied(batch: &BatchView<'_>, out: &mut Vec<u8>) {
    let rewrite = BatchRewrite {
        compression: Compression::None,
        record_count: 0,
        // Where no record is, no time is found. (Kafka leaves the largest timestamp there.)
        base_timestamp: Timestamp::NONE,
        max_timestamp: Timestamp::NONE,
        has_delete_horizon: false,
    };
    rewrite_batch(batch, &rewrite, &[], out);
}

#[cfg(test)]
mod tests;
