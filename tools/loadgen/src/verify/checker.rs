//! Checks what is read against what was sent, one record at a time. Pure.
//!
//! One idempotent producer writes each partition, so its log must hold the sequences 0, 1, 2, ... in
//! this order. Per partition the checker keeps the next sequence and the gaps behind it:
//!
//! ```text
//! sequence   0 1 2 3 4 . . 7 8 . 10 | next = 11
//!                      gap   gap
//! read 11: in order      read 5: fills a gap, reordered      read 3: neither, duplicated
//! ```
//! What is still a gap at the end was lost if it was acknowledged. A record whose value does not hold
//! together is altered, and stands for the one that was expected in its place.
//!
//! Memory: [`GAPS_MAX`] gaps and [`OFFENDERS_MAX`] offenders, however much is read.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use odradek::codec::records::RecordView;
use odradek::types::Timestamp;

use crate::verify::stamp::{Part, RunId, mismatch, read_stamp};

/// Gaps kept over all partitions. Past it the oldest of a partition counts as lost at once; a later
/// record from it then counts as duplicated.
pub const GAPS_MAX: usize = 65_536;
/// Offenders that are named; the others are counted.
pub const OFFENDERS_MAX: usize = 20;

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Acknowledged and not there.
    Lost,
    /// There more than once.
    Duplicated,
    /// Behind a later record of its partition, or at an offset that is not behind the last one.
    Reordered,
    /// Not as it was sent.
    Altered(Part),
    /// Never sent, not to this partition, or not in this run.
    Invented,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Lost => "lost",
            Fault::Duplicated => "duplicated",
            Fault::Reordered => "reordered",
            Fault::Altered(Part::Value) => "altered value",
            Fault::Altered(Part::Key) => "altered key",
            Fault::Altered(Part::Headers) => "altered headers",
            Fault::Altered(Part::Timestamp) => "altered timestamp",
            Fault::Invented => "invented",
        })
    }
}

/// One record, or several lost in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offender {
    pub fault: Fault,
    pub partition: i32,
    /// Where it was read; none for what is not there.
    pub offset: Option<i64>,
    /// Which record; none for what does not say.
    pub sequences: Option<Range<u64>>,
}

impl fmt::Display for Offender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: partition {}", self.fault, self.partition)?;
        if let Some(offset) = self.offset {
            write!(f, ", offset {offset}")?;
        }
        match &self.sequences {
            Some(range) if range.end - range.start == 1 => write!(f, ", sequence {}", range.start),
            Some(range) => write!(f, ", sequences {} to {}", range.start, range.end - 1),
            None => Ok(()),
        }
    }
}

/// What was wrong in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Records per fault; empty when all is well.
    pub faults: BTreeMap<Fault, u64>,
    /// The first of them.
    pub offenders: Vec<Offender>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn merge(&mut self, other: Report) {
        self.records += other.records;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        let room = OFFENDERS_MAX.saturating_sub(self.offenders.len());
        self.offenders.extend(other.offenders.into_iter().take(room));
    }

    fn add(&mut self, offender: Offender) {
        let count = offender.sequences.as_ref().map_or(1, |range| range.end - range.start);
        *self.faults.entry(offender.fault).or_default() += count;
        if self.offenders.len() < OFFENDERS_MAX {
            self.offenders.push(offender);
        }
    }
}

/// A record as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    pub partition: i32,
    pub offset: i64,
    /// `None` where the broker sets it.
    pub timestamp: Option<Timestamp>,
    pub record: RecordView<'a>,
}

#[derive(Default)]
struct Progress {
    next: u64,
    last_offset: Option<i64>,
    /// Sequences below `next` that were not read: start to end, disjoint.
    gaps: BTreeMap<u64, u64>,
}

/// Lives: one per reading thread; each partition is read by one thread.
pub struct Checker {
    run: RunId,
    partitions: BTreeMap<i32, Progress>,
    gap_count: usize,
    report: Report,
}

impl Checker {
    pub fn new(run: RunId) -> Checker {
        Checker { run, partitions: BTreeMap::new(), gap_count: 0, report: Report::default() }
    }

    /// Takes the next record of its partition. `sent_end`: sequences from here on were never sent.
    pub fn read(&mut self, read: &Read<'_>, sent_end: u64) {
        self.report.records += 1;
        let progress = self.partitions.entry(read.partition).or_default();
        let offset_fits = progress.last_offset.is_none_or(|last| last < read.offset);
        progress.last_offset = Some(read.offset);
        let stamp = read.record.value.and_then(read_stamp);
        let Some(stamp) = stamp else {
            let expected = progress.next;
            progress.next += 1;
            return self.blame(Fault::Altered(Part::Value), read, Some(expected));
        };
        let ours = stamp.run == self.run && stamp.partition == read.partition && stamp.sequence < sent_end;
        if !ours {
            return self.blame(Fault::Invented, read, Some(stamp.sequence));
        }
        let placed = self.place(read.partition, stamp.sequence);
        if let Some(fault) = placed {
            self.blame(fault, read, Some(stamp.sequence));
        } else if !offset_fits {
            self.blame(Fault::Reordered, read, Some(stamp.sequence));
        }
        if let Some(part) = mismatch(&stamp, &read.record, read.timestamp) {
            self.blame(Fault::Altered(part), read, Some(stamp.sequence));
        }
    }

    /// Bytes that were announced as records and are none; they count as altered records.
    pub fn unreadable(&mut self, partition: i32, base_offset: i64, record_count: u32) {
        self.report.records += record_count as u64;
        let progress = self.partitions.entry(partition).or_default();
        let first = progress.next;
        progress.next += record_count as u64;
        progress.last_offset = Some(base_offset + record_count as i64 - 1);
        self.report.add(Offender {
            fault: Fault::Altered(Part::Value),
            partition,
            offset: Some(base_offset),
            sequences: Some(first..first + record_count as u64),
        });
    }

    /// Everything was read: what of `acked` is not there was lost.
    pub fn finish(mut self, acked: &BTreeMap<i32, Vec<Range<u64>>>) -> Report {
        for (&partition, ranges) in acked {
            let progress = self.partitions.remove(&partition).unwrap_or_default();
            let gaps = progress.gaps.iter().map(|(&start, &end)| start..end);
            for gap in gaps.chain(std::iter::once(progress.next..u64::MAX)) {
                for range in ranges {
                    let lost = gap.start.max(range.start)..gap.end.min(range.end);
                    if lost.start < lost.end {
                        self.lost(partition, lost);
                    }
                }
            }
        }
        self.report
    }

    /// Finds a sequence its place, and says what is wrong with it.
    fn place(&mut self, partition: i32, sequence: u64) -> Option<Fault> {
        let progress = self.partitions.entry(partition).or_default();
        if sequence == progress.next {
            progress.next += 1;
            return None;
        }
        if sequence > progress.next {
            let gap = progress.next..sequence;
            progress.next = sequence + 1;
            self.open_gap(partition, gap);
            return None;
        }
        if self.fill_gap(partition, sequence) { Some(Fault::Reordered) } else { Some(Fault::Duplicated) }
    }

    fn open_gap(&mut self, partition: i32, gap: Range<u64>) {
        let progress = self.partitions.entry(partition).or_default();
        progress.gaps.insert(gap.start, gap.end);
        self.gap_count += 1;
        if self.gap_count > GAPS_MAX
            && let Some((start, end)) = progress.gaps.pop_first()
        {
            self.gap_count -= 1;
            self.lost(partition, start..end);
        }
    }

    /// Whether the sequence was missing until now.
    fn fill_gap(&mut self, partition: i32, sequence: u64) -> bool {
        let progress = self.partitions.entry(partition).or_default();
        let Some((&start, &end)) = progress.gaps.range(..=sequence).next_back() else {
            return false;
        };
        if end <= sequence {
            return false;
        }
        progress.gaps.remove(&start);
        let mut pieces = 0;
        for (start, end) in [(start, sequence), (sequence + 1, end)] {
            if start < end {
                progress.gaps.insert(start, end);
                pieces += 1;
            }
        }
        self.gap_count = self.gap_count + pieces - 1;
        true
    }

    fn lost(&mut self, partition: i32, sequences: Range<u64>) {
        let sequences = Some(sequences);
        self.report.add(Offender { fault: Fault::Lost, partition, offset: None, sequences });
    }

    fn blame(&mut self, fault: Fault, read: &Read<'_>, sequence: Option<u64>) {
        self.report.add(Offender {
            fault,
            partition: read.partition,
            offset: Some(read.offset),
            sequences: sequence.map(|sequence| sequence..sequence.saturating_add(1)),
        });
    }
}

#[cfg(test)]
mod tests;
