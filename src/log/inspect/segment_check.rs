//! Judges one segment as its batches pass: their CRCs and places, what its indexes say of them, where
//! it ends.
//!
//! | what ends the batches | closed, or after a clean stop | active, after an unclean stop |
//! |---|---|---|
//! | the end of the file | fine | fine |
//! | zeros | closed: a problem; active: preallocated | preallocated |
//! | damage below the recovery point | a problem | a problem |
//! | damage past it, no whole batch behind | a problem | a torn write: a note |
//! | damage past it, whole batches behind | a problem | a problem: recovery would cut them |

use crate::log::epochs::LeaderEpochs;
use crate::log::index::{OFFSET_ENTRY_SIZE, OffsetEntry, TIME_ENTRY_SIZE, TimeEntry};
use crate::log::inspect::findings::{Findings, Offence, Place};
use crate::log::inspect::walk::{WalkEnd, WalkTail, WalkedBatch};
use crate::log::recovery::{OffsetGaps, RecoveryPoint};
use crate::log::segment::{RELATIVE_OFFSET_MAX, SegmentFile};
use crate::types::{LeaderEpoch, Offset, Timestamp};

/// Which of a partition's segments it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentRole {
    /// Not the last one: cut to its length and flushed before the next one was begun.
    Closed,
    /// The last one of a log that was stopped in order: it ends where the checkpoint says.
    ActiveClean,
    /// The last one of a log whose broker was killed.
    ActiveUnclean,
}

/// What a segment is held against.
#[derive(Clone, Debug)]
pub struct SegmentExpectation<'a> {
    pub base_offset: Offset,
    pub role: SegmentRole,
    pub gaps: OffsetGaps,
    /// The last epoch of the segment before.
    pub leader_epoch_min: Option<LeaderEpoch>,
    /// The partition's current epoch.
    pub leader_epoch_max: Option<LeaderEpoch>,
    /// From the partition's checkpoint of epochs.
    pub epochs: &'a LeaderEpochs,
    /// Up to where the checkpoint says that this segment was flushed.
    pub recovery_point: Option<RecoveryPoint>,
    /// The files as they are; `None` when they are not there.
    pub offset_index: Option<&'a [u8]>,
    pub time_index: Option<&'a [u8]>,
}

/// What is known of a segment once it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    pub base_offset: Offset,
    /// After its last whole batch before any damage; exclusive.
    pub end_offset: Offset,
    pub last_leader_epoch: Option<LeaderEpoch>,
    pub batch_count: u64,
    pub record_count: u64,
    /// Bytes of batches.
    pub size: u64,
    /// Something in it could not be read: its end is not known.
    pub damaged: bool,
}

/// Lives: for one pass over one segment. Pure.
/// Shape: O(1) per batch; the indexes are walked along with the batches.
#[derive(Debug)]
pub struct SegmentCheck<'a> {
    expected: SegmentExpectation<'a>,
    facts: SegmentFacts,
    /// Where the next batch belongs; `None` behind damage.
    next_offset: Option<Offset>,
    /// Damage that is a torn write unless a whole batch follows.
    suspect: Option<(u64, Offence)>,
    max_timestamp: Timestamp,
    offset_entry: usize,
    time_entry: usize,
}

impl<'a> SegmentCheck<'a> {
    pub fn new(expected: SegmentExpectation<'a>, findings: &mut Findings) -> SegmentCheck<'a> {
        let facts = SegmentFacts {
            base_offset: expected.base_offset,
            end_offset: expected.base_offset,
            last_leader_epoch: expected.leader_epoch_min,
            batch_count: 0,
            record_count: 0,
            size: 0,
            damaged: false,
        };
        let next_offset = Some(expected.base_offset);
        let check = SegmentCheck {
            expected,
            facts,
            next_offset,
            suspect: None,
            max_timestamp: Timestamp::NONE,
            offset_entry: 0,
            time_entry: 0,
        };
        check.check_index_files(findings);
        check
    }

    /// Takes the next batch of the file.
    pub fn take(&mut self, batch: &WalkedBatch, findings: &mut Findings) {
        self.facts.batch_count += 1;
        self.facts.size = batch.file_position_end();
        if let Err(offence) = self.judge(batch) {
            self.damage(batch.file_position, offence, findings);
            self.check_offset_index(batch, None, findings);
            return;
        }
        // Judged: the fields are those of a stored batch.
        let last_offset = batch.fields.last_offset().expect("it was judged");
        if let Some((file_position, offence)) = self.suspect.take() {
            findings.problem(self.log_place(file_position), offence);
        }
        self.check_epoch(batch, findings);
        self.check_point(batch, findings);
        self.max_timestamp = self.max_timestamp.max(Timestamp(batch.fields.max_timestamp));
        self.check_offset_index(batch, Some(last_offset), findings);
        self.check_time_index(last_offset, findings);
        self.facts.record_count += batch.fields.record_count as u64; // Judged: positive.
        self.next_offset = last_offset.advance(1);
        if !self.facts.damaged {
            self.facts.end_offset = self.next_offset.unwrap_or(Offset::MAX);
        }
    }

    /// The file has ended.
    pub fn finish(mut self, end: &WalkEnd, findings: &mut Findings) -> SegmentFacts {
        let offence = match end.tail {
            WalkTail::End => None,
            WalkTail::Zeros if self.expected.role != SegmentRole::Closed => None,
            WalkTail::Zeros => Some(Offence::ZerosInClosed { count: end.size - end.file_position }),
            WalkTail::BeyondZeros { .. } => Some(Offence::BeyondZeros),
            WalkTail::CutOff { needed, available } => Some(Offence::CutOff { needed, available }),
            WalkTail::NoBatch { error } => Some(Offence::NoBatch(error)),
        };
        let unreadable = matches!(end.tail, WalkTail::CutOff { .. } | WalkTail::NoBatch { .. });
        let at = match end.tail {
            WalkTail::BeyondZeros { at } => at,
            _ => end.file_position,
        };
        if let Some(offence) = offence {
            self.damage(at, offence, findings);
        }
        if let Some((file_position, offence)) = self.suspect.take() {
            let place = self.log_place(file_position);
            findings.note(place, Offence::Torn(Box::new(offence)));
        }
        if !unreadable {
            self.check_ends(end, findings);
        }
        self.facts
    }

    /// Whether the batch is whole and in its place.
    fn judge(&self, batch: &WalkedBatch) -> Result<(), Offence> {
        let fields = &batch.fields;
        if !batch.crc_holds() {
            return Err(Offence::Crc { stored: fields.crc, computed: batch.computed_crc });
        }
        fields.check().map_err(Offence::Fields)?;
        let expected = self.next_offset.unwrap_or(self.facts.end_offset);
        let dense = self.next_offset.is_some() && self.expected.gaps == OffsetGaps::Refused;
        let in_place = match Offset::from_wire(fields.base_offset) {
            Some(base_offset) if dense => base_offset == expected,
            Some(base_offset) => base_offset >= expected,
            None => false,
        };
        let Some(last_offset) = fields.last_offset().filter(|_| in_place) else {
            return Err(Offence::BaseOffset { expected, got: fields.base_offset });
        };
        if last_offset.since(self.expected.base_offset) > RELATIVE_OFFSET_MAX {
            return Err(Offence::OutOfSegment { last_offset });
        }
        Ok(())
    }

    fn check_epoch(&mut self, batch: &WalkedBatch, findings: &mut Findings) {
        let got = LeaderEpoch(batch.fields.leader_epoch);
        let place = self.log_place(batch.file_position);
        if let Some(previous) = self.facts.last_leader_epoch.filter(|previous| got < *previous) {
            findings.problem(place, Offence::LeaderEpochGoesBack { previous, got });
        }
        if let Some(max) = self.expected.leader_epoch_max.filter(|max| got > *max) {
            findings.problem(place, Offence::LeaderEpochUnknown { max, got });
        }
        // The checkpoint is written when a segment is closed: it may not know the newest epoch yet.
        let noted =
            self.expected.epochs.epoch_for(Offset::from_wire(batch.fields.base_offset).unwrap_or_default());
        let is_newer = self.expected.epochs.latest().is_none_or(|latest| latest < got);
        if let Some(noted) = noted.filter(|noted| *noted != got && !is_newer) {
            findings.problem(place, Offence::LeaderEpochNoted { noted, got });
        }
        if got.0 >= 0 {
            self.facts.last_leader_epoch = self.facts.last_leader_epoch.max(Some(got));
        }
    }

    /// The recovery point lies between two batches, and where it says.
    fn check_point(&self, batch: &WalkedBatch, findings: &mut Findings) {
        let Some(point) = self.expected.recovery_point else { return };
        let place = self.log_place(batch.file_position);
        let base_offset = Offset::from_wire(batch.fields.base_offset).unwrap_or_default();
        if batch.file_position == point.file_position && base_offset != point.flushed_end {
            findings.problem(place, Offence::PointOffset { point, got: base_offset });
        }
        if batch.file_position < point.file_position && point.file_position < batch.file_position_end() {
            findings.problem(place, Offence::PointInsideBatch(point));
        }
    }

    /// What can be said once all batches are known.
    fn check_ends(&mut self, end: &WalkEnd, findings: &mut Findings) {
        if let Some(point) = self.expected.recovery_point
            && point.file_position == end.file_position
            && point.flushed_end != self.facts.end_offset
            && !self.facts.damaged
        {
            let place = self.log_place(end.file_position);
            findings.problem(place, Offence::PointOffset { point, got: self.facts.end_offset });
        }
        while let Some(entry) = self.next_offset_entry() {
            self.stray_offset_entry(entry, findings);
        }
        while let Some(entry) = self.next_time_entry() {
            self.stray_time_entry(entry, findings);
        }
        let last = entries::<TIME_ENTRY_SIZE>(self.expected.time_index).last().map(TimeEntry::decode);
        let is_final = self.expected.role != SegmentRole::ActiveUnclean;
        if let Some(last) =
            last.filter(|last| is_final && !self.facts.damaged && last.timestamp != self.max_timestamp)
        {
            let entry = self.expected.time_index.map_or(0, |bytes| bytes.len() / TIME_ENTRY_SIZE - 1);
            let offence = Offence::TimeLast { says: last.timestamp.0, is: self.max_timestamp.0 };
            findings.problem(self.index_place(SegmentFile::TimeIndex, entry * TIME_ENTRY_SIZE), offence);
        }
    }

    fn check_index_files(&self, findings: &mut Findings) {
        let files = [
            (SegmentFile::OffsetIndex, self.expected.offset_index, OFFSET_ENTRY_SIZE),
            (SegmentFile::TimeIndex, self.expected.time_index, TIME_ENTRY_SIZE),
        ];
        for (file, bytes, entry_size) in files {
            match bytes {
                Some(bytes) if !bytes.len().is_multiple_of(entry_size) => {
                    let at = bytes.len() - bytes.len() % entry_size;
                    findings.problem(self.index_place(file, at), Offence::IndexSize { size: bytes.len() });
                }
                None if self.expected.role == SegmentRole::Closed => {
                    findings.note(self.index_place(file, 0), Offence::IndexMissing);
                }
                Some(_) | None => {}
            }
        }
    }

    /// Passes the entries up to this batch. `last_offset`: `None` when the batch cannot be believed.
    fn check_offset_index(
        &mut self,
        batch: &WalkedBatch,
        last_offset: Option<Offset>,
        findings: &mut Findings,
    ) {
        while let Some(entry) = self.next_offset_entry() {
            if u64::from(entry.file_position) > batch.file_position {
                return;
            }
            if u64::from(entry.file_position) < batch.file_position {
                self.stray_offset_entry(entry, findings);
                continue;
            }
            let says = self.expected.base_offset.get() + u64::from(entry.relative_offset);
            if let Some(is) = last_offset.filter(|last| last.get() != says) {
                let place = self.index_place(SegmentFile::OffsetIndex, self.offset_entry * OFFSET_ENTRY_SIZE);
                let (entry, file_position) = (self.offset_entry, entry.file_position);
                findings.problem(place, Offence::IndexOffset { entry, file_position, says, is });
            }
            self.offset_entry += 1;
        }
    }

    fn check_time_index(&mut self, last_offset: Offset, findings: &mut Findings) {
        let relative = last_offset.since(self.expected.base_offset);
        while let Some(entry) = self.next_time_entry() {
            if u64::from(entry.relative_offset) > relative {
                return;
            }
            if u64::from(entry.relative_offset) < relative {
                self.stray_time_entry(entry, findings);
                continue;
            }
            if entry.timestamp != self.max_timestamp && !self.facts.damaged {
                let place = self.index_place(SegmentFile::TimeIndex, self.time_entry * TIME_ENTRY_SIZE);
                let offence = Offence::TimeValue {
                    entry: self.time_entry,
                    offset: last_offset.get(),
                    says: entry.timestamp.0,
                    is: self.max_timestamp.0,
                };
                findings.problem(place, offence);
            }
            self.time_entry += 1;
        }
    }

    fn stray_offset_entry(&mut self, entry: OffsetEntry, findings: &mut Findings) {
        let place = self.index_place(SegmentFile::OffsetIndex, self.offset_entry * OFFSET_ENTRY_SIZE);
        let file_position = entry.file_position;
        findings.problem(place, Offence::IndexPosition { entry: self.offset_entry, file_position });
        self.offset_entry += 1;
    }

    /// Behind damage the batch that it names may be the damaged one.
    fn stray_time_entry(&mut self, entry: TimeEntry, findings: &mut Findings) {
        if !self.facts.damaged {
            let place = self.index_place(SegmentFile::TimeIndex, self.time_entry * TIME_ENTRY_SIZE);
            let says = self.expected.base_offset.get() + u64::from(entry.relative_offset);
            findings.problem(place, Offence::TimeOffset { entry: self.time_entry, says });
        }
        self.time_entry += 1;
    }

    fn next_offset_entry(&self) -> Option<OffsetEntry> {
        entries::<OFFSET_ENTRY_SIZE>(self.expected.offset_index)
            .get(self.offset_entry)
            .map(OffsetEntry::decode)
    }

    fn next_time_entry(&self) -> Option<TimeEntry> {
        entries::<TIME_ENTRY_SIZE>(self.expected.time_index).get(self.time_entry).map(TimeEntry::decode)
    }

    /// Takes note of damage; past the recovery point of an unclean log it may be a torn write.
    fn damage(&mut self, file_position: u64, offence: Offence, findings: &mut Findings) {
        self.facts.damaged = true;
        self.next_offset = None;
        let flushed = self.expected.recovery_point.map_or(0, |point| point.file_position);
        let may_be_torn = self.expected.role == SegmentRole::ActiveUnclean && file_position >= flushed;
        if !may_be_torn {
            findings.problem(self.log_place(file_position), offence);
        } else if self.suspect.is_none() {
            self.suspect = Some((file_position, offence));
        }
    }

    fn log_place(&self, file_position: u64) -> Place {
        Place::File { base_offset: self.expected.base_offset, file: SegmentFile::Log, file_position }
    }

    fn index_place(&self, file: SegmentFile, at: usize) -> Place {
        Place::File { base_offset: self.expected.base_offset, file, file_position: at as u64 }
    }
}

fn entries<const SIZE: usize>(bytes: Option<&[u8]>) -> &[[u8; SIZE]] {
    bytes.unwrap_or_default().as_chunks().0
}

#[cfg(test)]
pub mod tests;
