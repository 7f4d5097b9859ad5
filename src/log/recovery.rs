//! How much of a segment is whole after an unclean stop: a scan that is fed the file in chunks of
//! any size and says where the log ends, and whether that end can be believed.
//!
//! ```text
//! file    │ batch │ batch │ batch │ bat#ch │ 0000000000000 preallocated │
//!         0                       ▲ end: whatever follows was never flushed
//!                 ▲ recovery point: flushed up to here, says the checkpoint or the journal
//! ```
//!
//! | what ends the scan | at or past the recovery point | below it |
//! |---|---|---|
//! | zeros or the end of the file, at a batch's boundary | [`Tail::Clean`] | [`Tail::Corrupt`] |
//! | anything else that is no batch in its place | [`Tail::Torn`]: cut and report | [`Tail::Corrupt`] |
//!
//! Below the recovery point everything was flushed, and some of it acknowledged: what is damaged
//! there is never cut; the partition goes offline. The checkpoint lags behind the last flush, and the journal
//! may by a write ([`flush_records`](crate::log::commit::flush_records)), so a torn tail is reported too.
//!
//! After an unclean stop the file is cut at the end that was found, and that is flushed before
//! anything is appended, also when the tail is clean: whole batches of an interrupted write may lie
//! beyond zeros, and new ones must never grow up to them. It stays as long as it is only where nothing
//! was ever written behind the end.
//!
//! A batch's place: its CRC and length hold, its base offset is the end of the one before, its
//! leader epoch is not smaller. The leader epoch is not under the CRC, so one that was raised by a
//! flipped bit is found at the next batch only, unless it exceeds
//! [`leader_epoch_max`](ScanOptions::leader_epoch_max).
//! Absent: replay of anything else than appends (the commit journal brings it).

use crate::codec::record_batch::{BatchError, BatchView, batch_size};
use crate::log::epochs::LeaderEpochs;
use crate::log::index::{FILE_POSITION_MAX, MaxTimestamp, SegmentIndex};
use crate::log::producers::{ProducerEvent, Producers};
use crate::log::segment::{RELATIVE_OFFSET_MAX, SegmentInfo, StoredBatch};
use crate::log::transactions::{AbortedTransaction, aborted};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Bytes of a batch that tell its size.
const SIZE_KNOWN_AT: usize = 17;

/// Whether offsets may be missing between batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetGaps {
    /// Every append is dense.
    Refused,
    /// Compaction removed records.
    Allowed,
}

/// Up to where the checkpoint or the journal says that a segment was flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Exclusive.
    pub flushed_end: Offset,
    /// End of the last flushed batch in this segment.
    pub file_position: u64,
}

/// What the scan of one segment goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanOptions {
    pub segment_base: Offset,
    /// `None` when no checkpoint names this segment: then nothing in it is known to be flushed.
    pub recovery_point: Option<RecoveryPoint>,
    pub gaps: OffsetGaps,
    /// The last epoch of the segment before; `None` for the first.
    pub leader_epoch_min: Option<LeaderEpoch>,
    /// The partition's current epoch, where the metadata has it.
    pub leader_epoch_max: Option<LeaderEpoch>,
    /// Bytes of the largest batch that any configuration ever allowed: a larger length is damage.
    /// Bounds the memory of the scan.
    pub batch_size_max: usize,
}

/// Why bytes are not the next batch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("{0}")]
    Batch(#[from] BatchError),
    #[error("a batch of {size} bytes is larger than any that was accepted")]
    Oversized { size: usize },
    #[error("base offset {got} where {expected} was expected")]
    BaseOffset { expected: Offset, got: Offset },
    #[error("offset {last_offset} or its file position is too far from the segment's base")]
    OutOfSegment { last_offset: Offset },
    #[error("leader epoch {got:?} after {previous:?}")]
    LeaderEpoch { previous: Option<LeaderEpoch>, got: LeaderEpoch },
    #[error("the file ends inside a batch")]
    CutOff,
    /// Every batch is whole, but they are not those that were written here.
    #[error("checksum {computed:#010x} over the batches up to byte {end}, {stored:#010x} was expected")]
    Checksum { end: u64, stored: u32, computed: u32 },
    #[error("the log ends before its recovery point")]
    Missing,
    #[error("bytes were found beyond the zeros that end the log")]
    BeyondZeros,
}

/// Whether the end that was found can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The last batch is whole, and nothing or zeros follow it.
    Clean,
    /// Cut here and say so: what follows was never part of a completed flush that was noted.
    Torn { file_position: u64, damage: Damage },
    /// Flushed batches are gone or altered: the partition goes offline, nothing is cut.
    Corrupt { file_position: u64, damage: Damage },
}

/// What a scan has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Exclusive: after the last whole batch.
    pub log_end: Offset,
    /// Where the next batch goes.
    pub file_position_end: u64,
    /// `None` when no batch has a timestamp.
    pub max_timestamp: Option<MaxTimestamp>,
    pub last_leader_epoch: Option<LeaderEpoch>,
    pub batch_count: u64,
    pub tail: Tail,
}

/// Whether more of the file is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The log may go on.
    Batches,
    /// The log has ended in zeros. What is fed further is only looked through for bytes that are
    /// not zero, for the report; reading may stop here.
    Zeros,
    /// The log has ended in damage; what is fed further is ignored.
    Damaged,
}

/// Lives: for the scan of one segment. Pure.
/// Shape: one pass, one CRC per byte; holds at most one batch that chunks cut apart, never more
/// than was fed.
#[derive(Debug)]
pub struct RecoveryScan {
    options: ScanOptions,
    state: State,
    /// The beginning of a batch whose end is in a later chunk.
    carry: Vec<u8>,
    log_end: Offset,
    file_position_end: u64,
    max_timestamp: Option<MaxTimestamp>,
    last_leader_epoch: Option<LeaderEpoch>,
    batch_count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Batches,
    Zeros,
    BeyondZeros,
    Damaged(Damage),
}

/// What the bytes at a batch's boundary are.
enum Piece {
    Batch {
        size: usize,
    },
    /// Whole only with this many bytes.
    Unfinished {
        needed: usize,
    },
    Zeros,
    Damaged(Damage),
}

impl RecoveryScan {
    pub fn new(options: ScanOptions) -> RecoveryScan {
        RecoveryScan {
            options,
            state: State::Batches,
            carry: Vec::new(),
            log_end: options.segment_base,
            file_position_end: 0,
            max_timestamp: None,
            last_leader_epoch: options.leader_epoch_min,
            batch_count: 0,
        }
    }

    /// Takes the next bytes of the file, and hands every whole batch to `on_batch` (for the
    /// indexes, the producers, the epochs).
    pub fn feed(
        &mut self,
        chunk: &[u8],
        on_batch: &mut impl FnMut(&BatchView<'_>, &StoredBatch),
    ) -> Progress {
        let mut rest = chunk;
        while self.state == State::Batches && !rest.is_empty() {
            rest = if self.carry.is_empty() {
                self.feed_in_place(rest, on_batch)
            } else {
                self.feed_carry(rest, on_batch)
            };
        }
        if self.state == State::Zeros && rest.iter().any(|byte| *byte != 0) {
            self.state = State::BeyondZeros;
        }
        match self.state {
            State::Batches => Progress::Batches,
            State::Zeros | State::BeyondZeros => Progress::Zeros,
            State::Damaged(_) => Progress::Damaged,
        }
    }

    /// The file has ended, or the caller has seen enough.
    pub fn finish(self) -> Recovered {
        let damage = match self.state {
            State::Batches if self.carry.iter().all(|byte| *byte == 0) => None,
            State::Batches => Some(Damage::CutOff),
            State::Zeros => None,
            State::BeyondZeros => Some(Damage::BeyondZeros),
            State::Damaged(damage) => Some(damage),
        };
        let file_position = self.file_position_end;
        let flushed = self
            .options
            .recovery_point
            .is_some_and(|point| file_position < point.file_position || self.log_end < point.flushed_end);
        let tail = match damage {
            _ if flushed => Tail::Corrupt { file_position, damage: damage.unwrap_or(Damage::Missing) },
            Some(damage) => Tail::Torn { file_position, damage },
            None => Tail::Clean,
        };
        Recovered {
            log_end: self.log_end,
            file_position_end: file_position,
            max_timestamp: self.max_timestamp,
            last_leader_epoch: self.last_leader_epoch,
            batch_count: self.batch_count,
            tail,
        }
    }

    /// Takes one batch off `bytes` without copying it; carries over what is not whole.
    fn feed_in_place<'a>(
        &mut self,
        bytes: &'a [u8],
        on_batch: &mut impl FnMut(&BatchView<'_>, &StoredBatch),
    ) -> &'a [u8] {
        match self.look_at(bytes) {
            Piece::Batch { size } => {
                let (batch, rest) = bytes.split_at(size);
                self.take_batch(batch, on_batch);
                rest
            }
            Piece::Unfinished { .. } => {
                self.carry.extend_from_slice(bytes);
                &[]
            }
            Piece::Zeros => {
                self.state = State::Zeros;
                bytes
            }
            Piece::Damaged(damage) => {
                self.state = State::Damaged(damage);
                &[]
            }
        }
    }

    /// Goes on with the batch that the chunks before began, first up to where its size is known.
    fn feed_carry<'a>(
        &mut self,
        bytes: &'a [u8],
        on_batch: &mut impl FnMut(&BatchView<'_>, &StoredBatch),
    ) -> &'a [u8] {
        let Piece::Unfinished { needed } = self.look_at(&self.carry) else {
            unreachable!("what is not unfinished is not carried over");
        };
        let (missing, rest) = bytes.split_at((needed - self.carry.len()).min(bytes.len()));
        self.carry.extend_from_slice(missing);
        match self.look_at(&self.carry) {
            Piece::Batch { size } => {
                assert_eq!(size, self.carry.len());
                let batch = std::mem::take(&mut self.carry);
                self.take_batch(&batch, on_batch);
                self.carry = batch; // Keeps the allocation.
                self.carry.clear();
            }
            Piece::Unfinished { .. } => {}
            Piece::Zeros => self.state = State::Zeros,
            Piece::Damaged(damage) => self.state = State::Damaged(damage),
        }
        rest
    }

    fn look_at(&self, bytes: &[u8]) -> Piece {
        let Some(head) = bytes.get(..SIZE_KNOWN_AT) else {
            return Piece::Unfinished { needed: SIZE_KNOWN_AT };
        };
        if head.iter().all(|byte| *byte == 0) {
            return Piece::Zeros;
        }
        match batch_size(head) {
            Err(error) => Piece::Damaged(error.into()),
            Ok(size) if size > self.options.batch_size_max => Piece::Damaged(Damage::Oversized { size }),
            Ok(size) if size > bytes.len() => Piece::Unfinished { needed: size },
            Ok(size) => Piece::Batch { size },
        }
    }

    fn take_batch(&mut self, bytes: &[u8], on_batch: &mut impl FnMut(&BatchView<'_>, &StoredBatch)) {
        let (view, end) = match self.judge(bytes) {
            Ok(judged) => judged,
            Err(damage) => {
                self.state = State::Damaged(damage);
                return;
            }
        };
        let stored = StoredBatch::new(&view, self.file_position_end);
        on_batch(&view, &stored);
        if stored.max_timestamp > self.max_timestamp.map_or(Timestamp::NONE, |max| max.timestamp) {
            self.max_timestamp =
                Some(MaxTimestamp { timestamp: stored.max_timestamp, last_offset: stored.last_offset });
        }
        if stored.leader_epoch.0 >= 0 {
            self.last_leader_epoch = Some(stored.leader_epoch);
        }
        self.log_end = end;
        self.file_position_end = stored.file_position_end();
        self.batch_count += 1;
    }

    /// Checks a batch and its place; returns it with the offset after it.
    fn judge<'a>(&self, bytes: &'a [u8]) -> Result<(BatchView<'a>, Offset), Damage> {
        let (view, _) = BatchView::split_first(bytes)?;
        view.validate_stored()?;
        let got = view.base_offset();
        let in_place = match self.options.gaps {
            OffsetGaps::Refused => got == self.log_end,
            OffsetGaps::Allowed => got >= self.log_end,
        };
        if !in_place {
            return Err(Damage::BaseOffset { expected: self.log_end, got });
        }
        let last_offset = view.last_offset();
        let end = last_offset.advance(1).ok_or(Damage::OutOfSegment { last_offset })?;
        let is_far = last_offset.since(self.options.segment_base) > RELATIVE_OFFSET_MAX;
        if is_far || self.file_position_end > FILE_POSITION_MAX {
            return Err(Damage::OutOfSegment { last_offset });
        }
        let epoch = view.leader_epoch();
        // -1 in batches that were written before epochs were known.
        let goes_back = match self.last_leader_epoch {
            Some(previous) => epoch < previous,
            None => epoch.0 < -1,
        };
        if goes_back || self.options.leader_epoch_max.is_some_and(|max| epoch > max) {
            return Err(Damage::LeaderEpoch { previous: self.last_leader_epoch, got: epoch });
        }
        Ok((view, end))
    }
}

/// What the appends to a segment left in memory, built again from its batches: the `on_batch` of a
/// scan (Kafka `LogSegment.recover`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRebuild {
    pub info: SegmentInfo,
    pub index: SegmentIndex,
    /// As they were just before the segment: from the snapshot at its base offset, or as the
    /// segment before left them.
    pub producers: Producers,
    /// Transactions whose markers lie in the segment.
    pub aborted: Vec<AbortedTransaction>,
    /// From the checkpoint, or as the segment before left them. What they say about offsets at or
    /// past the end that is found is to be truncated.
    pub epochs: LeaderEpochs,
}

impl SegmentRebuild {
    /// `info` and `index` are those of an empty segment.
    pub fn new(
        info: SegmentInfo,
        index: SegmentIndex,
        producers: Producers,
        epochs: LeaderEpochs,
    ) -> SegmentRebuild {
        assert_eq!(info.size, 0, "a segment is built again from its first batch");
        assert_eq!(info.base_offset, index.base_offset());
        SegmentRebuild { info, index, producers, aborted: Vec::new(), epochs }
    }

    /// `appended_at` stands for the time of the append, which is not stored: the file's
    /// modification time. Producers count as active at it.
    pub fn take(&mut self, batch: &BatchView<'_>, stored: &StoredBatch, appended_at: Timestamp) {
        self.info.append(stored, appended_at);
        self.index.observe(stored);
        let epoch = stored.leader_epoch;
        if epoch.0 >= 0 && self.epochs.latest().is_none_or(|latest| latest < epoch) {
            self.epochs.assign(epoch, stored.base_offset);
        }
        if let Some(event) = ProducerEvent::of(batch, stored, appended_at) {
            let ended = self.producers.take(&event);
            self.aborted.extend(ended.as_ref().and_then(aborted));
        }
    }
}

#[cfg(test)]
mod tests;
