//! Where each leader epoch of a partition begins (KIP-101): what a follower or consumer asks to
//! find out whether its log and the leader's have parted (KIP-279, KIP-320).
//!
//! ```text
//! offsets   0 ─────────── 120 ──── 300 ───────────── log_end
//! epochs    │ 0           │ 3      │ 4                       entries (0, 0) (3, 120) (4, 300)
//!           end of 0 = 120, of 1 and 2 = 120 under epoch 0, of 3 = 300, of 4 = log_end
//! ```
//!
//! The file `leader-epoch-checkpoint` is Kafka's text format, one item a line: version 0, the count
//! of entries, then `epoch start_offset` of each in order. Source: `LeaderEpochFileCache`,
//! `LeaderEpochCheckpointFile`.

use std::fmt::Write as _;

use crate::types::with_last::WithLast;
use crate::types::{LeaderEpoch, Offset};

/// Name of the file in a partition's directory.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";

const VERSION: &str = "0";

/// The first offset written under an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// The answer to OffsetForLeaderEpoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The requested epoch, or the largest one before it that wrote anything.
    pub epoch: LeaderEpoch,
    /// Exclusive.
    pub end_offset: Offset,
}

/// Why a text is no checkpoint of leader epochs; the caller scans the log instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochsError {
    #[error("the leader epoch checkpoint is not of version 0")]
    Version,
    #[error("line {line} of the leader epoch checkpoint is malformed or out of order")]
    Line { line: usize },
    #[error("the leader epoch checkpoint promises {expected} entries and has {found}")]
    Count { expected: usize, found: usize },
}

/// Lives: one per partition, on its owner shard. Pure.
/// Shape: a sorted vector with one entry per leadership that wrote something and has records left;
/// lookups O(log n).
/// Invariant: epochs and start offsets both increase strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: WithLast<EpochStart>,
}

impl LeaderEpochs {
    pub fn new() -> LeaderEpochs {
        LeaderEpochs::default()
    }

    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The newest epoch that was assigned.
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// Begins `epoch` at `start_offset`, and says whether that was news (the checkpoint is then to
    /// be written). Entries that contradict it go: what they described was truncated, or they never
    /// wrote anything. An unknown epoch (-1, of a batch from before there were any) begins nowhere.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        if epoch.0 < 0 {
            return false;
        }
        let known = |last: &EpochStart| last.epoch == epoch && last.start_offset <= start_offset;
        if self.entries.last().is_some_and(known) {
            return false;
        }
        // A follower may get more of an epoch after it has led under a later one and written nothing.
        let kept =
            self.entries.partition_point(|entry| entry.epoch <= epoch && entry.start_offset < start_offset);
        self.entries.edit(|all| all.truncate(kept));
        if self.latest() != Some(epoch) {
            self.entries.push(EpochStart { epoch, start_offset });
        }
        true
    }

    /// Where `epoch` ends. `None` (the wire's -1, -1) when it is newer than any known epoch. An
    /// epoch older than all of them ends where the oldest begins: what it wrote is gone.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        if self.latest() == Some(epoch) {
            return Some(EpochEnd { epoch, end_offset: log_end });
        }
        let after = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let end_offset = self.entries.get(after)?.start_offset;
        let before = after.checked_sub(1).map_or(epoch, |at| self.entries[at].epoch);
        if epoch.0 < 0 { None } else { Some(EpochEnd { epoch: before, end_offset }) }
    }

    /// The epoch under which `offset` was or will be written; `None` before the first entry.
    pub fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// The epochs between which the batch at `offset` was written, both inclusive. Not more than the
    /// entries tell: some between two of them may be missing.
    pub fn bounds_for(&self, offset: Offset) -> (Option<LeaderEpoch>, Option<LeaderEpoch>) {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        let next = self.entries.get(after).map(|entry| entry.epoch);
        match after.checked_sub(1) {
            Some(at) => (Some(self.entries[at].epoch), next.map(|next| LeaderEpoch(next.0 - 1))),
            // What lies below the first entry may have been written under it: its start moves with
            // the log's.
            None => (None, next),
        }
    }

    /// The log now ends at `log_end`: epochs that begin there or later wrote nothing. Says whether
    /// anything changed.
    pub fn truncate_from_end(&mut self, log_end: Offset) -> bool {
        let kept = self.entries.partition_point(|entry| entry.start_offset < log_end);
        let changed = kept < self.entries.len();
        self.entries.edit(|all| all.truncate(kept));
        changed
    }

    /// The log now begins at `log_start`: the epoch of that offset begins there, earlier ones are
    /// forgotten. Says whether anything changed.
    pub fn truncate_from_start(&mut self, log_start: Offset) -> bool {
        let passed = self.entries.partition_point(|entry| entry.start_offset <= log_start);
        let Some(last_passed) = passed.checked_sub(1) else {
            return false;
        };
        let changed = last_passed > 0 || self.entries[0].start_offset < log_start;
        self.entries.edit(|all| {
            all.drain(..last_passed);
            all[0].start_offset = log_start;
        });
        changed
    }

    /// The text of `leader-epoch-checkpoint`.
    pub fn encode(&self) -> String {
        let mut out = format!("{VERSION}\n{}\n", self.entries.len());
        for entry in &self.entries[..] {
            writeln!(out, "{} {}", entry.epoch.0, entry.start_offset).expect("a String takes everything");
        }
        out
    }

    /// Reads a `leader-epoch-checkpoint`, ours or Kafka's; an empty file means no epochs. One that does not end
    /// with its last line was cut short: half an offset is an offset too.
    pub fn decode(text: &str) -> Result<LeaderEpochs, EpochsError> {
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(EpochsError::Line { line: text.lines().count() });
        }
        let mut lines = text.lines();
        match lines.next() {
            None => return Ok(LeaderEpochs::new()),
            Some(VERSION) => {}
            Some(_) => return Err(EpochsError::Version),
        }
        let Some(count) = lines.next() else {
            return Ok(LeaderEpochs::new());
        };
        let expected: usize = count.parse().map_err(|_| EpochsError::Line { line: 2 })?;
        let mut entries: Vec<EpochStart> = Vec::new();
        for (at, line) in lines.enumerate() {
            let entry = parse_entry(line).ok_or(EpochsError::Line { line: at + 3 })?;
            let follows = entries
                .last()
                .is_none_or(|last| last.epoch < entry.epoch && last.start_offset < entry.start_offset);
            if !follows {
                return Err(EpochsError::Line { line: at + 3 });
            }
            entries.push(entry);
        }
        if entries.len() != expected {
            return Err(EpochsError::Count { expected, found: entries.len() });
        }
        Ok(LeaderEpochs { entries: entries.into() })
    }
}

fn parse_entry(line: &str) -> Option<EpochStart> {
    let mut fields = line.split_whitespace();
    let (epoch, start_offset) = (fields.next()?.parse::<i32>().ok()?, fields.next()?.parse().ok()?);
    if epoch < 0 || fields.next().is_some() {
        return None;
    }
    Some(EpochStart { epoch: LeaderEpoch(epoch), start_offset: Offset::new(start_offset)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn text_is_kafkas() {
        assert_eq!(epochs(&[(0, 1), (1, 2)]).encode(), "0\n2\n0 1\n1 2\n");
        assert_eq!(LeaderEpochs::decode("0\n2\n0 1\n1  2\n"), Ok(epochs(&[(0, 1), (1, 2)])));
        assert_eq!(LeaderEpochs::decode(""), Ok(LeaderEpochs::new()));
    }

    #[test]
    fn malformed_text_is_refused() {
        assert_eq!(LeaderEpochs::decode("1\n0\n"), Err(EpochsError::Version));
        assert_eq!(LeaderEpochs::decode("0\nx\n"), Err(EpochsError::Line { line: 2 }));
        assert_eq!(LeaderEpochs::decode("0\n2\n0 1\n"), Err(EpochsError::Count { expected: 2, found: 1 }));
        for line in ["1", "1 2 3", "-1 2", "1 -2", "1 99999999999999999999", ""] {
            let text = format!("0\n1\n{line}\n");
            assert_eq!(LeaderEpochs::decode(&text), Err(EpochsError::Line { line: 3 }), "{line}");
        }
        assert_eq!(LeaderEpochs::decode("0\n2\n1 5\n1 6\n"), Err(EpochsError::Line { line: 4 }));
        assert_eq!(LeaderEpochs::decode("0\n2\n1 5\n2 5\n"), Err(EpochsError::Line { line: 4 }));
        for cut in ["0\n2\n0 0\n3 120", "0\n2\n0 0\n3 12"] {
            assert_eq!(LeaderEpochs::decode(cut), Err(EpochsError::Line { line: 4 }), "it was cut short");
        }
    }

    /// A start finds such batches in segments of before, or made by damage outside of their checksum.
    #[test]
    fn an_unknown_epoch_begins_nowhere() {
        let mut epochs = epochs(&[(2, 10)]);
        assert!(!epochs.assign(LeaderEpoch(-1), offset(0)));
        assert_eq!(epochs.encode(), "0\n1\n2 10\n");
    }

    #[test]
    fn end_of_an_epoch_is_the_start_of_the_next() {
        let epochs = epochs(&[(2, 10), (5, 120), (6, 300)]);
        let end = |epoch| {
            let end = epochs.end_offset_for(LeaderEpoch(epoch), offset(400))?;
            Some((end.epoch.0, end.end_offset.get()))
        };
        assert_eq!(end(6), Some((6, 400)), "the latest ends at the log end");
        assert_eq!(end(5), Some((5, 300)));
        assert_eq!(end(4), Some((2, 120)), "an epoch that wrote nothing: the one before it");
        assert_eq!(end(2), Some((2, 120)));
        assert_eq!(end(1), Some((1, 10)), "older than all: the log holds nothing of it");
        assert_eq!(end(7), None, "newer than all");
        assert_eq!(end(-1), None);
        assert_eq!(LeaderEpochs::new().end_offset_for(LeaderEpoch(0), offset(9)), None);
    }

    #[test]
    fn epoch_that_wrote_nothing_gives_its_place_to_the_next() {
        let mut epochs = epochs(&[(0, 0), (1, 10)]);
        assert!(epochs.assign(LeaderEpoch(2), offset(10)));
        assert!(!epochs.assign(LeaderEpoch(2), offset(15)), "an epoch begins once");
        assert_eq!(epochs.encode(), "0\n2\n0 0\n2 10\n");
    }

    /// Found by seed 82 of the simulation of replication: epoch 3 seemed to begin at 163, and a follower that had
    /// other records from 132 on was not cut.
    #[test]
    fn an_older_epoch_goes_on_behind_one_that_wrote_nothing() {
        let mut epochs = epochs(&[(2, 88), (3, 132), (4, 163)]);
        assert!(epochs.assign(LeaderEpoch(3), offset(163)));
        assert_eq!(epochs.encode(), "0\n2\n2 88\n3 132\n");
        assert!(!epochs.assign(LeaderEpoch(3), offset(165)));
    }

    #[test]
    fn truncation_keeps_the_epoch_of_the_log_start() {
        let whole = epochs(&[(2, 10), (5, 120), (6, 300)]);
        let mut cut = whole.clone();
        assert!(cut.truncate_from_start(offset(150)));
        assert_eq!(cut, epochs(&[(5, 150), (6, 300)]));
        assert!(!cut.truncate_from_start(offset(150)));
        assert!(!whole.clone().truncate_from_start(offset(9)));
        let mut cut = whole.clone();
        assert!(cut.truncate_from_end(offset(300)));
        assert_eq!(cut, epochs(&[(2, 10), (5, 120)]));
        assert!(!cut.truncate_from_end(offset(121)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append { epoch_gain: i32, records: u64 },
        CutEnd { keep: u64 },
        CutStart { drop: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3i32, 1..10u64).prop_map(|(epoch_gain, records)| Step::Append { epoch_gain, records }),
            1 => (0..100u64).prop_map(|keep| Step::CutEnd { keep }),
            1 => (0..20u64).prop_map(|drop| Step::CutStart { drop }),
        ]
    }

    proptest! {
        /// The model is the epoch of every single offset.
        #[test]
        fn agrees_with_the_epoch_of_every_record(steps in vec(step(), 0..40)) {
            let (mut epochs, mut log, mut start, mut epoch) = (LeaderEpochs::new(), Vec::new(), 0, 0);
            for step in steps {
                match step {
                    Step::Append { epoch_gain, records } => {
                        epoch += epoch_gain;
                        epochs.assign(LeaderEpoch(epoch), offset(start + log.len() as u64));
                        log.extend((0..records).map(|_| epoch));
                    }
                    Step::CutEnd { keep } => {
                        log.truncate(keep as usize);
                        epochs.truncate_from_end(offset(start + log.len() as u64));
                    }
                    Step::CutStart { drop } => {
                        let drop = drop.min(log.len() as u64);
                        log.drain(..drop as usize);
                        start += drop;
                        epochs.truncate_from_start(offset(start));
                        epochs.truncate_from_end(offset(start + log.len() as u64));
                    }
                }
                let at = |index: usize| offset(start + index as u64);
                for (index, epoch) in log.iter().enumerate() {
                    prop_assert_eq!(epochs.epoch_for(at(index)), Some(LeaderEpoch(*epoch)));
                }
                for asked in log.first().copied().unwrap_or(0)..epoch + 1 {
                    let end = epochs.end_offset_for(LeaderEpoch(asked), at(log.len()));
                    let count = log.partition_point(|written| *written <= asked);
                    let newest = log[..count].last();
                    let newer = log.last().is_some_and(|last| *last < asked);
                    let expected = newest.filter(|_| !newer).map(|newest| (LeaderEpoch(*newest), at(count)));
                    prop_assert_eq!(end.map(|end| (end.epoch, end.end_offset)), expected);
                }
                prop_assert_eq!(LeaderEpochs::decode(&epochs.encode()), Ok(epochs.clone()));
            }
        }

        #[test]
        fn any_text_is_refused_or_ordered(text in "(0\n)?[0-9 \n-]{0,30}") {
            if let Ok(epochs) = LeaderEpochs::decode(&text) {
                prop_assert!(epochs.entries().is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset));
            }
        }
    }

    fn epochs(entries: &[(i32, u64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::new();
        entries.iter().for_each(|(epoch, start)| assert!(epochs.assign(LeaderEpoch(*epoch), offset(*start))));
        epochs
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
