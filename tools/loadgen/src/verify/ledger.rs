//! What was sent and what of it was acknowledged, per partition: shared by the producing and the
//! reading threads, and kept in a file between the two phases of a verification.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use odradek::codec::compression::compress;
use odradek::codec::record_batch::{BATCH_HEADER_SIZE, Compression};
use odradek::types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::batch::Payload;
use crate::produce::worker::{SettledBatch, Source};
use crate::verify::stamp::{RunId, Stamp, write_stamped};

/// The file between the phases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub run: u64,
    pub topic: String,
    pub partitions: Vec<PartitionState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    pub partition: i32,
    /// Log end when the run began; what is before belongs to others.
    pub start_offset: i64,
    /// Sequences from here on were never sent.
    pub sent_end: u64,
    /// Sequences that were acknowledged: start and end, ascending.
    pub acked: Vec<(u64, u64)>,
}

impl State {
    /// A run that has sent nothing yet.
    pub fn new(run: RunId, topic: &str, start_offsets: &BTreeMap<i32, i64>) -> State {
        let partitions = start_offsets.iter().map(|(&partition, &start_offset)| PartitionState {
            partition,
            start_offset,
            sent_end: 0,
            acked: Vec::new(),
        });
        State { run: run.0, topic: topic.to_string(), partitions: partitions.collect() }
    }

    /// `None` when there is no such file.
    pub fn load(path: &Path) -> anyhow::Result<Option<State>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let state = serde_json::from_str(&text)
            .with_context(|| format!("{} is not a verification state", path.display()))?;
        Ok(Some(state))
    }

    /// Replaces the file as a whole.
    #[expect(clippy::disallowed_methods, reason = "written once, after the load has ended")]
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", path.display());
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        std::fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(failed)?;
        std::fs::rename(&new, path).with_context(failed)
    }

    pub fn acked_records(&self) -> u64 {
        self.partitions.iter().flat_map(|p| &p.acked).map(|(start, end)| end - start).sum()
    }
}

struct Entry {
    start_offset: i64,
    sent_end: AtomicU64,
    settled: Mutex<Settled>,
}

struct Settled {
    /// Fate known up to here.
    end: u64,
    acked: Vec<Range<u64>>,
}

/// Lives: one per run, shared by its threads.
pub struct Ledger {
    run: RunId,
    topic: String,
    partitions: BTreeMap<i32, Entry>,
}

impl Ledger {
    /// Goes on where `state` ended: what it left unanswered stays so.
    pub fn new(state: &State) -> Ledger {
        let entry = |partition: &PartitionState| Entry {
            start_offset: partition.start_offset,
            sent_end: AtomicU64::new(partition.sent_end),
            settled: Mutex::new(Settled {
                end: partition.sent_end,
                acked: partition.acked.iter().map(|&(start, end)| start..end).collect(),
            }),
        };
        let partitions = state.partitions.iter().map(|p| (p.partition, entry(p))).collect();
        Ledger { run: RunId(state.run), topic: state.topic.clone(), partitions }
    }

    pub fn run(&self) -> RunId {
        self.run
    }

    /// Sequences from here on were never sent; zero for partitions that are not of this run.
    pub fn sent_end(&self, partition: i32) -> u64 {
        self.partitions.get(&partition).map_or(0, |entry| entry.sent_end.load(Ordering::Acquire))
    }

    pub fn acked(&self) -> BTreeMap<i32, Vec<Range<u64>>> {
        self.partitions.iter().map(|(&partition, entry)| (partition, entry.settled().acked.clone())).collect()
    }

    pub fn state(&self) -> State {
        let partitions = self.partitions.iter().map(|(&partition, entry)| PartitionState {
            partition,
            start_offset: entry.start_offset,
            sent_end: entry.sent_end.load(Ordering::Acquire),
            acked: entry.settled().acked.iter().map(|range| (range.start, range.end)).collect(),
        });
        State { run: self.run.0, topic: self.topic.clone(), partitions: partitions.collect() }
    }

    /// Hands out the next sequences of a partition. They count as sent from now on.
    fn reserve(&self, partition: i32, count: u32) -> u64 {
        self.entry(partition).sent_end.fetch_add(count as u64, Ordering::AcqRel)
    }

    fn settle(&self, partition: i32, record_count: u32, acked: bool) {
        let mut settled = self.entry(partition).settled();
        let range = settled.end..settled.end + record_count as u64;
        settled.end = range.end;
        if !acked {
            return;
        }
        match settled.acked.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => settled.acked.push(range),
        }
    }

    fn entry(&self, partition: i32) -> &Entry {
        self.partitions.get(&partition).expect("the run was set up for every partition that it writes")
    }
}

impl Entry {
    fn settled(&self) -> std::sync::MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Batches of stamped records, each built when it is sent.
pub struct StampedSource {
    ledger: std::sync::Arc<Ledger>,
    record_size: usize,
    compression: Compression,
    /// Whether an answer says that a batch is stored; with `acks=0` none does.
    acknowledged: bool,
    value: Vec<u8>,
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl StampedSource {
    pub fn new(
        ledger: std::sync::Arc<Ledger>,
        record_size: usize,
        compression: Compression,
        acknowledged: bool,
    ) -> StampedSource {
        let (value, plain, packed) = Default::default();
        StampedSource { ledger, record_size, compression, acknowledged, value, plain, packed }
    }
}

impl Source for StampedSource {
    fn take(&mut self, partition: i32, count: u32, timestamp: Timestamp) -> Payload {
        let first = self.ledger.reserve(partition, count);
        self.plain.clear();
        for at in 0..count {
            let sequence = first + at as u64;
            let stamp = Stamp { run: self.ledger.run, partition, sequence, timestamp };
            write_stamped(&stamp, at as i32, &mut self.value, self.record_size, &mut self.plain);
        }
        let bytes = if self.compression == Compression::None {
            &self.plain
        } else {
            compress(self.compression, &self.plain, &mut self.packed);
            &self.packed
        };
        let bytes: std::rc::Rc<[u8]> = bytes.as_slice().into();
        Payload { range: 0..bytes.len(), bytes, record_count: count, compression: self.compression }
    }

    fn settled(&mut self, batch: SettledBatch) {
        self.ledger.settle(batch.partition, batch.record_count, batch.stored && self.acknowledged);
    }
}

/// Records of a stamped batch of at most `batch_size` bytes.
pub fn stamped_records_per_batch(record_size: usize, batch_size: usize) -> u32 {
    let stamp = Stamp { run: RunId(0), partition: 0, sequence: 0, timestamp: Timestamp(0) };
    let (mut value, mut out) = (Vec::new(), Vec::new());
    // The largest offset delta that a batch of this size can have takes three bytes.
    write_stamped(&stamp, 1 << 16, &mut value, record_size, &mut out);
    (batch_size.saturating_sub(BATCH_HEADER_SIZE) / out.len()).max(1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_ranges_survive_the_file_and_grow_in_the_next_round() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert!(State::load(&path).unwrap().is_none());
        let ledger = Ledger::new(&State::new(RunId(7), "t", &BTreeMap::from([(3, 50)])));
        (0..3).for_each(|_| assert!(ledger.reserve(3, 10) < 30));
        ledger.settle(3, 10, true);
        ledger.settle(3, 10, true);
        ledger.state().save(&path).unwrap(); // The third batch was never answered.

        let loaded = State::load(&path).unwrap().unwrap();
        assert_eq!(loaded.acked_records(), 20);
        let ledger = Ledger::new(&loaded);
        assert_eq!(ledger.reserve(3, 5), 30);
        ledger.settle(3, 5, true);
        assert_eq!(ledger.acked(), BTreeMap::from([(3, vec![0..20, 30..35])]));
        assert_eq!((ledger.sent_end(3), ledger.sent_end(4)), (35, 0));
        assert_eq!(ledger.state().partitions[0].start_offset, 50);
    }

    #[test]
    fn stamped_batches_stay_below_their_size() {
        for (record_size, batch_size) in [(36, 1000), (100, 16_384), (1000, 500)] {
            let ledger = Ledger::new(&State::new(RunId(7), "t", &BTreeMap::from([(0, 0)])));
            let mut source = StampedSource::new(ledger.into(), record_size, Compression::None, true);
            let count = stamped_records_per_batch(record_size, batch_size);
            let payload = source.take(0, count, Timestamp(5));
            assert!(payload.batch_size() <= batch_size || count == 1);
        }
    }
}
