//! When each batch was due, kept until it is read: the link between the producing and the reading
//! thread of one process, whose clock they share.
//!
//! A batch is known by its producer id and base sequence, which stand in its header whatever its
//! compression; so end-to-end runs are idempotent, with one producer per partition.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use odradek::codec::record_batch::BatchView;
use odradek::types::{Mono, ProducerId, Sequence, Timestamp};
use odradek_loadgen::batch::Payload;
use odradek_loadgen::consume::worker::Sink;
use odradek_loadgen::produce::pacing::Due;
use odradek_loadgen::produce::run::Templates;
use odradek_loadgen::produce::worker::{SentBatch, Source};
use odradek_loadgen::stats::{LATENCY_MAX_NS, latencies};

use crate::outcome::Point;

/// Batches of one partition that were sent and not read yet. Older ones are forgotten and not
/// measured; the reader is then so late that the run says nothing about latency.
const BATCHES_MAX: usize = 1 << 16;

struct Entry {
    producer: Option<ProducerId>,
    sequence: Sequence,
    due: Due,
}

/// Lives: one per round.
pub struct SendLog {
    partitions: BTreeMap<i32, Mutex<VecDeque<Entry>>>,
}

impl SendLog {
    pub fn new(partitions: impl IntoIterator<Item = i32>) -> SendLog {
        SendLog { partitions: partitions.into_iter().map(|index| (index, Mutex::default())).collect() }
    }

    fn sent(&self, batch: &SentBatch) {
        let Some(partition) = self.partitions.get(&batch.partition) else {
            return;
        };
        let mut entries = partition.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == BATCHES_MAX {
            entries.pop_front();
        }
        entries.push_back(Entry { producer: batch.producer, sequence: batch.sequence, due: batch.due });
    }

    /// When the records of a batch were due; `None` for batches that this run did not send.
    fn due(&self, partition: i32, batch: &BatchView<'_>) -> Option<Due> {
        let producer = batch.producer()?;
        let mut entries = self.partitions.get(&partition)?.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |e: &Entry| e.producer == Some(producer.id) && e.sequence == producer.base_sequence;
        let at = entries.iter().position(is_it)?;
        entries.drain(..=at).next_back().map(|entry| entry.due)
    }
}

/// Template batches that are noted when they are sent.
pub struct NotedSource {
    pub templates: Templates,
    pub log: Arc<SendLog>,
}

impl Source for NotedSource {
    fn take(&mut self, partition: i32, count: u32, timestamp: Timestamp) -> Payload {
        self.templates.take(partition, count, timestamp)
    }

    fn sent(&mut self, batch: SentBatch) {
        self.log.sent(&batch);
    }
}

/// Measures what arrives.
pub struct EndToEnd {
    log: Arc<SendLog>,
    pub latency: Histogram<u64>,
    pub points: Vec<Point>,
    pub records: u64,
    interval: Histogram<u64>,
    every: Duration,
    start: Mono,
    next: Mono,
}

impl EndToEnd {
    /// `start`: zero of the time axis; `every`: distance of its points.
    pub fn new(log: Arc<SendLog>, start: Mono, every: Duration) -> EndToEnd {
        EndToEnd {
            log,
            latency: latencies(),
            points: Vec::new(),
            records: 0,
            interval: latencies(),
            every,
            start,
            next: start.after(every),
        }
    }

    fn close_intervals(&mut self, now: Mono) {
        while self.next <= now {
            let seconds = self.next.since(self.start).as_secs_f64();
            self.points.extend(Point::of(seconds, &self.interval));
            self.interval.reset();
            self.next = self.next.after(self.every);
        }
    }
}

impl Sink for EndToEnd {
    fn batch(&mut self, partition: i32, batch: &BatchView<'_>, received: Mono) {
        self.close_intervals(received);
        self.records += batch.record_count() as u64;
        let Some(due) = self.log.due(partition, batch) else {
            return;
        };
        if due.interval_ns == 0.0 {
            let latency = (received.since(due.first).as_nanos() as u64).min(LATENCY_MAX_NS);
            self.latency.saturating_record_n(latency, batch.record_count() as u64);
            self.interval.saturating_record_n(latency, batch.record_count() as u64);
            return;
        }
        for record in 0..batch.record_count() {
            let latency = (received.since(due.of(record)).as_nanos() as u64).min(LATENCY_MAX_NS);
            self.latency.saturating_record(latency);
            self.interval.saturating_record(latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use odradek::codec::record_batch::{BatchHeader, Compression, write_batch};
    use odradek::types::ProducerEpoch;

    #[test]
    fn latency_runs_from_when_each_record_was_due() {
        let log = Arc::new(SendLog::new([0]));
        let mut sink = EndToEnd::new(log.clone(), Mono(0), Duration::from_millis(10));
        log.sent(&sent(0, 1_000_000));
        log.sent(&sent(3, 4_000_000));
        read(&mut sink, 0, 5_000_000);
        // Due at 1, 2 and 3 ms, read at 5 ms.
        assert_eq!(sink.latency.len(), 3);
        assert!((2e6..=2.01e6).contains(&(sink.latency.min() as f64 * 1.001)));
        assert!((4e6..=4.01e6).contains(&(sink.latency.max() as f64)));
        read(&mut sink, 3, 11_000_000);
        assert_eq!(sink.latency.len(), 6);
        log.sent(&sent(6, 24_000_000));
        read(&mut sink, 6, 27_000_000);
        read(&mut sink, 6, 31_000_000);
        // Each interval has a maximum of its own.
        assert_eq!(sink.points.iter().map(|p| (p.max / 1e3).round() as u64).collect::<Vec<_>>(), [4, 7, 3]);
    }

    #[test]
    fn batches_of_others_are_not_measured() {
        let log = Arc::new(SendLog::new([0]));
        let mut sink = EndToEnd::new(log, Mono(0), Duration::from_secs(1));
        read(&mut sink, 0, 5_000_000);
        assert_eq!((sink.latency.len(), sink.records), (0, 3));
    }

    #[test]
    fn a_reader_that_never_comes_costs_bounded_memory() {
        let log = SendLog::new([0]);
        (0..BATCHES_MAX as i32 + 100).for_each(|sequence| log.sent(&sent(sequence, 1)));
        assert_eq!(log.partitions[&0].lock().unwrap().len(), BATCHES_MAX);
    }

    /// Three records, a millisecond apart.
    fn sent(sequence: i32, first: u64) -> SentBatch {
        SentBatch {
            partition: 0,
            producer: Some(ProducerId(9)),
            sequence: Sequence(sequence),
            record_count: 3,
            due: Due { first: Mono(first), interval_ns: 1e6 },
        }
    }

    fn read(sink: &mut EndToEnd, sequence: i32, now: u64) {
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count: 3,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
            producer: Some((ProducerId(9), ProducerEpoch(0), Sequence(sequence))),
        };
        let mut bytes = Vec::new();
        write_batch(&header, b"", &mut bytes);
        sink.batch(0, &BatchView::split_first(&bytes).unwrap().0, Mono(now));
    }
}
