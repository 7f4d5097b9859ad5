//! A compacted partition, as coordinators keep their state in. What was flushed stays; of the rest a crash leaves
//! as much as it likes. The cleaner takes away what newer records of the same key stand for.
//!
//! ```text
//! records   ████ █ ██ █████████████░░░░░░
//!           gaps: cleaned          ▲ flushed end: a crash cuts at it or anywhere behind it
//! ```

use std::collections::BTreeMap;

/// A record with a key, or the deletion of one.
pub trait Keyed: Clone {
    /// The bytes of its key.
    fn key(&self) -> Vec<u8>;

    fn is_tombstone(&self) -> bool;
}

/// Lives: one per seed; it is what outlives the runs of a broker.
pub struct KeyedLog<R> {
    /// By offset, with gaps.
    records: Vec<(u64, R)>,
    end: u64,
    flushed_end: u64,
    /// Ends of the batches behind what was flushed.
    batch_ends: Vec<u64>,
}

impl<R> Default for KeyedLog<R> {
    fn default() -> KeyedLog<R> {
        KeyedLog { records: Vec::new(), end: 0, flushed_end: 0, batch_ends: Vec::new() }
    }
}

impl<R: Keyed> KeyedLog<R> {
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn flushed_end(&self) -> u64 {
        self.flushed_end
    }

    pub fn records(&self) -> impl Iterator<Item = &R> {
        self.records.iter().map(|(_, record)| record)
    }

    /// Where a crash may cut it: a batch is there as a whole, or not at all.
    pub fn cuts(&self) -> Vec<u64> {
        [self.flushed_end].into_iter().chain(self.batch_ends.iter().copied()).collect()
    }

    /// Appends records as one batch.
    pub fn append(&mut self, records: &[R]) {
        for record in records {
            self.records.push((self.end, record.clone()));
            self.end += 1;
        }
        self.batch_ends.push(self.end);
    }

    /// Everything below `end` was flushed.
    pub fn flush(&mut self, end: u64) {
        assert!(end <= self.end);
        self.flushed_end = self.flushed_end.max(end);
        self.batch_ends.retain(|batch_end| *batch_end > end);
    }

    /// A crash: what begins at `end`, which is not below what was flushed, is gone. What is left was read, and is
    /// there to stay.
    pub fn cut(&mut self, end: u64) {
        assert!((self.flushed_end..=self.end).contains(&end));
        self.records.retain(|(offset, _)| *offset < end);
        (self.end, self.flushed_end) = (end, end);
        self.batch_ends.clear();
    }

    /// The cleaner: of every key the last record below `end` stays, `end` being no further than what was flushed.
    /// Deletions go too if they are `old` enough that every reader has seen them.
    pub fn compact(&mut self, end: u64, old: bool) {
        assert!(end <= self.flushed_end);
        let mut last = BTreeMap::new();
        for (offset, record) in self.records.iter().filter(|(offset, _)| *offset < end) {
            last.insert(record.key(), *offset);
        }
        let stays =
            |offset: u64, record: &R| last[&record.key()] == offset && !(old && record.is_tombstone());
        self.records.retain(|(offset, record)| *offset >= end || stays(*offset, record));
    }

    /// A mistake: deletions go, from `from` on, while what they delete may still lie before them.
    pub fn drop_tombstones(&mut self, from: u64) {
        let end = self.flushed_end;
        self.records.retain(|(offset, record)| *offset < from || *offset >= end || !record.is_tombstone());
    }

    /// What the log says, key by key.
    pub fn latest(&self) -> BTreeMap<Vec<u8>, R> {
        let mut latest = BTreeMap::new();
        for (_, record) in &self.records {
            if record.is_tombstone() {
                latest.remove(&record.key());
            } else {
                latest.insert(record.key(), record.clone());
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Record(u8, Option<u8>);

    impl Keyed for Record {
        fn key(&self) -> Vec<u8> {
            vec![self.0]
        }

        fn is_tombstone(&self) -> bool {
            self.1.is_none()
        }
    }

    fn log() -> KeyedLog<Record> {
        let mut log = KeyedLog::default();
        log.append(&[Record(1, Some(1)), Record(2, Some(2)), Record(1, Some(3)), Record(2, None)]);
        log.flush(4);
        log.append(&[Record(1, None)]);
        log
    }

    #[test]
    fn a_crash_leaves_what_was_flushed() {
        let mut cut = log();
        cut.cut(4);
        assert_eq!(cut.latest().into_values().collect::<Vec<_>>(), [Record(1, Some(3))]);
        assert_eq!(cut.flushed_end(), 4);
        assert_eq!(log().cuts(), [4, 5]);
        let mut whole = log();
        whole.cut(5);
        assert!(whole.latest().is_empty());
    }

    #[test]
    fn the_cleaner_changes_nothing_that_the_log_says() {
        for end in 0..=4 {
            for old in [false, true] {
                let mut cleaned = log();
                cleaned.compact(end, old);
                assert_eq!(cleaned.latest(), log().latest());
                cleaned.cut(4);
                assert_eq!(cleaned.latest().len(), 1);
            }
        }
        let mut cleaned = log();
        cleaned.compact(4, true);
        let left: Vec<_> = cleaned.records().cloned().collect();
        assert_eq!(left, [Record(1, Some(3)), Record(1, None)]);
    }
}
