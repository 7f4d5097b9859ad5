//! What a naive reader of DESIGN expects of every partition, and the checks that hold the engine
//! against it at every step.
//!
//! ```text
//! offsets   log_start ........ high_watermark ........ appended
//!           │ may be read, must stay │ may be lost by a crash, may be kept
//! ```
//!
//! | check | SAFETY |
//! |---|---|
//! | acknowledged records are read | 1 |
//! | one value per offset | 2, 9 |
//! | one offset per value | 3 |
//! | offsets are not used twice | 4 |
//! | reads move forward | 5 |
//! | the high watermark does not go back, the log start does not go back | 6 |
//! | healthy partitions are served | 10 |
//! | partitions of a lost journal are offline | 1 |
//! | what is read is what was written, whatever became of the disk | 2, 9 |
//! | damage below a recorded flush is never cut | 1 |
//! | closed segments hold batches and nothing else | |
//! | no more is lost than `flush.messages` allows | |
//! | deleted topics do not come back | 9 |
//! | the last stable offset does not go back | 6 |
//! | nothing undecided is below the last stable offset | 8 |
//! | exactly what was aborted is named | 8 |
//! | a log that was cut ends there | 1, 7 |
//! | transactions go on | |
//!
//! A compacted log keeps the last record of every key; what is read of it is held against the records, and
//! where a batch is gone the reader goes on behind the gap.

use crate::disk::{Disk, DiskError};
use crate::metadata::{Metadata, TopicKind};
use crate::remains::Journals;
use crate::shell::cutting::CutFailed;
use crate::shell::open::OpenFailed;
use crate::shell::reading::{Committed, ReadFailed};
use crate::shell::replica::Replica;
use crate::world::World;
use odradek::codec::control_record::{TransactionOutcome, marker_outcome};
use odradek::codec::record_batch::BatchView;
use odradek::codec::records::Records;
use odradek::log::checkpoint::PartitionPoint;
use odradek::log::durability::Durability;
use odradek::types::{Offset, ProducerId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// Damage is told or refused, never served.
const AS_WRITTEN: &str = "what is read is what was written";

/// A batch as it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub end: u64,
    pub crc: u32,
    /// Which value the payload begins with; unique over the seed.
    pub value: u64,
}

/// A batch of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    producer: ProducerId,
    end: u64,
    /// It is the marker.
    outcome: Option<TransactionOutcome>,
}

/// A transaction as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Transaction {
    producer: ProducerId,
    first: u64,
    /// End of its last data batch.
    data_end: u64,
    /// Its marker, and how it ended.
    ended: Option<(u64, TransactionOutcome)>,
}

/// What damage may have cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Damaged {
    /// A segment of this partition was hit.
    pub segment: bool,
    /// A journal was hit: it may stay offline. What nothing says of that it had been flushed may be taken for
    /// a torn tail; everything else has to be there ([`remains`](crate::remains)).
    pub journal: bool,
    /// The checkpoint was hit, which has the log start.
    pub checkpoint: bool,
}

#[derive(Clone, Debug, Default)]
pub struct PartitionModel {
    pub name: String,
    pub kind: TopicKind,
    batches: BTreeMap<u64, Written>,
    /// Of a compacted log: the key and the value of every record.
    records: BTreeMap<u64, KeyValue>,
    /// Where each value of an idempotent producer is.
    places: BTreeMap<u64, u64>,
    pub high_watermark: u64,
    /// Under a completed flush of its segments.
    stored: u64,
    /// What of it is part of transactions, by base offset.
    parts: BTreeMap<u64, Part>,
    /// The last stable offset, as it was seen last.
    last_stable: u64,
    /// As a completed checkpoint or a journal has it.
    pub log_start: u64,
    /// As a completed checkpoint has it.
    log_start_checkpointed: u64,
    pub damaged: Damaged,
    /// Damage, or a loss of power where that may be, has cost acknowledged records: their producers do not
    /// know of it.
    pub has_lost: bool,
    /// The disk was too full for a snapshot of the producers: what only segments before it say of them goes
    /// with these.
    pub snapshot_left_out: bool,
    pub offline: bool,
    /// Nothing of it is to stay: a start may find that it was carried out, or not.
    starts_over: bool,
    /// Since it was opened last.
    pub power_was_lost: bool,
}

pub type KeyValue = (Vec<u8>, Vec<u8>);

impl PartitionModel {
    pub fn new(name: String, kind: TopicKind) -> PartitionModel {
        PartitionModel { name, kind, ..PartitionModel::default() }
    }

    /// Whether the broker may not know a producer as that knows itself.
    pub fn may_not_know_producers(&self) -> bool {
        self.damaged.segment || self.has_lost || self.snapshot_left_out
    }

    /// All transactions, in the order in which they began. O(n) in the batches of transactions.
    fn transactions(&self) -> Vec<Transaction> {
        let mut all: Vec<Transaction> = Vec::new();
        let mut open: BTreeMap<ProducerId, usize> = BTreeMap::new();
        for (base, part) in &self.parts {
            match (open.get(&part.producer).copied(), part.outcome) {
                (Some(at), None) => all[at].data_end = part.end,
                (Some(at), Some(outcome)) => {
                    all[at].ended = Some((*base, outcome));
                    open.remove(&part.producer);
                }
                (None, None) => {
                    open.insert(part.producer, all.len());
                    let (producer, first, data_end) = (part.producer, *base, part.end);
                    all.push(Transaction { producer, first, data_end, ended: None });
                }
                (None, Some(_)) => {} // A marker once more.
            }
        }
        all
    }

    /// How the transaction of a data batch ended; `None` while it is open, or when there is no such batch.
    fn outcome_of(
        &self,
        transactions: &[Transaction],
        producer: ProducerId,
        base: u64,
    ) -> Option<Transaction> {
        let mine = transactions.iter().filter(|transaction| transaction.producer == producer);
        mine.copied().find(|transaction| transaction.first <= base && base < transaction.data_end)
    }

    /// The last record of every key that is there to be read. What was aborted is no record.
    fn wanted(&self, from: u64, end: u64) -> BTreeSet<u64> {
        let mut last: BTreeMap<&[u8], u64> = BTreeMap::new();
        let transactions = self.transactions();
        let is_aborted = |offset: u64| {
            let part = self.parts.range(..=offset).next_back().filter(|(_, part)| offset < part.end);
            let transaction =
                part.and_then(|(base, part)| self.outcome_of(&transactions, part.producer, *base));
            matches!(transaction.and_then(|found| found.ended), Some((_, TransactionOutcome::Abort)))
        };
        for (offset, (key, _)) in self.records.range(..end) {
            if !is_aborted(*offset) {
                last.insert(key, *offset);
            }
        }
        last.into_values().filter(|offset| *offset >= from).collect()
    }
}

/// Lives: one per seed; it outlives every crash.
#[derive(Debug, Default)]
pub struct Model {
    pub partitions: BTreeMap<TopicPartition, PartitionModel>,
    /// Journals or the checkpoint were hit, and no start has come to serving that saw it: who comes
    /// meanwhile is hit too.
    unserved: Damaged,
    /// The same, since the last start was begun.
    unseen: Damaged,
    /// What they had when it was.
    pub journals: Journals,
}

impl Damaged {
    fn add(&mut self, hit: Damaged) {
        self.segment |= hit.segment;
        self.journal |= hit.journal;
        self.checkpoint |= hit.checkpoint;
    }
}

/// The value that a batch was made with: its payload begins with it, or its first record's value does.
fn value_of(kind: &TopicKind, batch: &BatchView<'_>) -> u64 {
    let first = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    match kind.compacts {
        true => records_of(batch).first().map_or(0, |(_, (_, value))| first(value)),
        false => first(batch.payload()),
    }
}

impl Model {
    pub fn add(&mut self, id: TopicPartition, partition: PartitionModel) {
        let mut damaged = self.unserved;
        damaged.add(self.unseen);
        self.partitions.insert(id, PartitionModel { damaged, ..partition });
    }

    /// Journals or the checkpoint are not what was written.
    pub fn hit_all(&mut self, hit: Damaged) {
        let damaged = self.partitions.values_mut().map(|partition| &mut partition.damaged);
        damaged.chain([&mut self.unseen]).for_each(|damaged| damaged.add(hit));
    }

    /// A start begins. It sees what was hit before.
    pub fn starting(&mut self, disk: &Disk, metadata: &Metadata) {
        self.unserved.add(std::mem::take(&mut self.unseen));
        let are_hit =
            self.unserved.journal || self.partitions.values().any(|partition| partition.damaged.segment);
        self.journals.starting(disk, metadata, are_hit);
    }

    /// It came to serving.
    pub fn started(&mut self) {
        self.unserved = Damaged::default();
    }

    /// Everything below `end` is flushed in the segments.
    pub fn stored(&mut self, id: &TopicPartition, end: Offset) {
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.stored = partition.stored.max(end.get());
        }
    }

    /// A batch got its offsets.
    pub fn appended(&mut self, world: &World, id: &TopicPartition, batch: &[u8]) {
        let (view, _) = BatchView::split_first(batch).expect("it was appended");
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let (base, end) = (view.base_offset().get(), view.end_offset().get());
        let known_end = partition.batches.last_key_value().map_or(0, |(_, last)| last.end);
        world.note(format_args!(
            "append {} {base}..{end} value {}",
            partition.name,
            value_of(&partition.kind, &view)
        ));
        if base < partition.high_watermark.max(known_end) {
            world.finding("offsets are not used twice", format_args!("{} {base}", partition.name));
        }
        let value = value_of(&partition.kind, &view);
        if view.producer().is_some()
            && let Some(at) = partition.places.insert(value, base)
            && at >= partition.log_start
        {
            let name = &partition.name;
            world.finding("one offset per value", format_args!("{name}: {value} at {at} and {base}"));
        }
        partition.batches.insert(base, Written { end, crc: view.crc(), value });
        if let Some((producer, _)) = view.writer().filter(|_| view.is_transactional()) {
            partition.parts.insert(base, Part { producer, end, outcome: marker_outcome(&view) });
        }
        if partition.kind.compacts && !view.is_control() {
            partition.records.extend(records_of(&view));
        }
    }

    /// Readers may read up to `end`.
    pub fn advanced(&mut self, world: &World, id: &TopicPartition, end: Offset) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        world.note(format_args!("high watermark {} {end}", partition.name));
        if end.get() < partition.high_watermark {
            world.finding(
                "the high watermark does not go back",
                format_args!("{} from {} to {end}", partition.name, partition.high_watermark),
            );
        }
        partition.high_watermark = end.get();
    }

    /// Readers of committed records may read up to `stable`.
    pub fn stable(&mut self, world: &World, id: &TopicPartition, start: Offset, stable: Offset) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let (start, stable, high_watermark) = (start.get(), stable.get(), partition.high_watermark);
        let name = &partition.name;
        if partition.parts.is_empty() && stable == high_watermark {
            partition.last_stable = stable;
            return;
        }
        if stable < partition.last_stable {
            world.finding(
                "the last stable offset does not go back",
                format_args!("{name} from {} to {stable}", partition.last_stable),
            );
        }
        partition.last_stable = stable;
        // Of a transaction whose data are gone with the log's start, nobody need know any more.
        let is_open = |found: &&Transaction| found.ended.is_none_or(|(marker, _)| marker >= high_watermark);
        let transactions = partition.transactions();
        let open = transactions.iter().filter(is_open);
        let known = |first: u64| if first < start { start } else { first };
        let low = open.clone().map(|found| known(found.first)).min().unwrap_or(u64::MAX).min(high_watermark);
        let left = open.filter(|found| found.data_end > start);
        let high = left.map(|found| known(partition.first_part(found, start))).min().unwrap_or(u64::MAX);
        let high = high.min(high_watermark);
        // A marker that damage has taken is not known to the model.
        let may_be_lost = partition.damaged.segment || partition.has_lost;
        if (stable < low || stable > high) && !may_be_lost {
            world.finding(
                "nothing undecided is below the last stable offset",
                format_args!("{name}: {stable}, expected {low} to {high} of {high_watermark}"),
            );
        }
        if stable < high_watermark {
            world.count("transaction: readers wait for its end");
        }
    }

    /// What a reader of committed records got from `offset` on, beside the batches themselves.
    pub fn read_committed(&self, world: &World, id: &TopicPartition, offset: u64, read: &Committed) {
        let Some(partition) = self.partitions.get(id) else { return };
        if partition.damaged.segment || partition.has_lost || partition.parts.is_empty() {
            return;
        }
        world.count("read: committed");
        const NAMED: &str = "exactly what was aborted is named";
        let name = &partition.name;
        let transactions = partition.transactions();
        let mut leaving_out: BTreeSet<ProducerId> = BTreeSet::new();
        let mut to_begin = read.aborted.clone();
        if !to_begin.is_sorted_by_key(|named| named.last_offset) {
            world.finding(NAMED, format_args!("{name} {offset}: out of order"));
        }
        to_begin.sort_by_key(|named| named.first_offset);
        let mut to_begin = to_begin.into_iter().peekable();
        let mut rest = &read.bytes[..];
        let mut end = offset;
        while let Ok((view, after)) = BatchView::split_first(rest) {
            rest = after;
            end = view.end_offset().get();
            let base = view.base_offset().get();
            while let Some(named) = to_begin.next_if(|named| named.first_offset <= view.last_offset()) {
                leaving_out.insert(named.producer);
            }
            if end > read.stable.get() {
                let stable = read.stable;
                world.finding(
                    "nothing undecided is below the last stable offset",
                    format_args!("{name}: {base}..{end} is read, stable is {stable}"),
                );
            }
            let Some((producer, _)) = view.writer().filter(|_| view.is_transactional()) else { continue };
            if view.is_control() {
                leaving_out.remove(&producer);
                continue;
            }
            let found = partition.outcome_of(&transactions, producer, base).and_then(|found| found.ended);
            let is_aborted = match found {
                Some((_, outcome)) => outcome == TransactionOutcome::Abort,
                None => {
                    world.finding(
                        "nothing undecided is below the last stable offset",
                        format_args!("{name}: {base}..{end} is read and open"),
                    );
                    continue;
                }
            };
            world.count(if is_aborted { "read: aborted batch" } else { "read: committed batch" });
            if leaving_out.contains(&producer) != is_aborted {
                world.finding(NAMED, format_args!("{name} {base}..{end}: aborted {is_aborted}"));
            }
        }
        for named in &read.aborted {
            let (first, last) = (named.first_offset.get(), named.last_offset.get());
            let known = transactions.iter().any(|found| {
                let is_first = found.first == first
                    || (partition.kind.compacts && found.first <= first)
                    || found.first < partition.log_start;
                found.producer == named.producer
                    && is_first
                    && found.ended == Some((last, TransactionOutcome::Abort))
            });
            if !known || last < offset || first >= end {
                world.finding(NAMED, format_args!("{name} {offset}..{end}: {named:?}"));
            }
        }
    }

    /// An acknowledgement left.
    pub fn acknowledged(&mut self, world: &World, id: &TopicPartition, value: u64, base: Offset) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        world.note(format_args!("acknowledged {} {base} value {value}", partition.name));
        let Some(written) = partition.batches.get(&base.get()) else {
            if base.get() >= partition.log_start && !partition.damaged.segment && !partition.has_lost {
                let name = &partition.name;
                world.finding("one value per offset", format_args!("{name}: {value} acknowledged at {base}"));
            }
            return;
        };
        if written.value != value {
            let name = &partition.name;
            world.finding(
                "one value per offset",
                format_args!("{name} {base}: {value} and {}", written.value),
            );
        }
        if written.end > partition.high_watermark {
            world.finding(
                "acknowledgements are not ahead of their flush",
                format_args!("{} {base} with high watermark {}", partition.name, partition.high_watermark),
            );
        }
    }

    /// A completed checkpoint has this log start.
    pub fn checkpointed(&mut self, id: &TopicPartition, start: Offset) {
        // Of one that begins anew a start may have it or not.
        if let Some(partition) = self.partitions.get_mut(id).filter(|partition| !partition.starts_over) {
            partition.log_start_checkpointed = partition.log_start_checkpointed.max(start.get());
            self.log_start_kept(id, start);
        }
    }

    /// This log start was told, or is about to be: it does not move back any more.
    pub fn log_start_kept(&mut self, id: &TopicPartition, start: Offset) {
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.log_start = partition.log_start.max(start.get());
        }
    }

    /// A consumer asked for `offset` and got `bytes`. Returns where it goes on. `seen`: offsets of records.
    pub fn read(
        &mut self,
        world: &World,
        id: &TopicPartition,
        offset: u64,
        bytes: &[u8],
        seen: &mut BTreeSet<u64>,
    ) -> u64 {
        let Some(partition) = self.partitions.get_mut(id) else { return offset };
        let mut next = offset;
        let mut rest = bytes;
        while let Ok((view, after)) = BatchView::split_first(rest) {
            rest = after;
            let (base, end) = (view.base_offset().get(), view.end_offset().get());
            if view.validate_stored().is_err() {
                world.finding(AS_WRITTEN, format_args!("{} {base}: CRC does not hold", partition.name));
                return next;
            }
            let is_first = next == offset && base <= offset && offset < end;
            let follows = is_first || base == next || (partition.kind.compacts && base > next);
            let known = partition.batches.get(&base);
            let same = match partition.kind.compacts {
                false => known.is_some_and(|known| known.end == end && known.crc == view.crc()),
                true if view.is_control() => {
                    let marker =
                        marker_outcome(&view).or(partition.parts.get(&base).and_then(|part| part.outcome));
                    partition
                        .parts
                        .get(&base)
                        .is_some_and(|part| part.outcome.is_some() && part.outcome == marker)
                }
                true => {
                    let found = records_of(&view);
                    seen.extend(found.iter().map(|(offset, _)| *offset));
                    found.iter().all(|(offset, record)| partition.records.get(offset) == Some(record))
                }
            };
            if (!follows || !same) && partition.damaged.segment {
                let name = &partition.name;
                world.finding(AS_WRITTEN, format_args!("{name} {next}: {base}..{end}, written {known:?}"));
                return next;
            }
            if !follows {
                world.finding("reads move forward", format_args!("{} {next}: {base}..{end}", partition.name));
            }
            if !same {
                world.finding(
                    "one value per offset",
                    format_args!(
                        "{} {base}..{end}: value {}, written {known:?}",
                        partition.name,
                        value_of(&partition.kind, &view)
                    ),
                );
            }
            if end > partition.high_watermark {
                world.finding(
                    "nothing beyond the high watermark is read",
                    format_args!("{} {base}..{end} of {}", partition.name, partition.high_watermark),
                );
            }
            next = end;
        }
        next
    }

    /// Everything from `start` to `end` was read, and these records were seen.
    pub fn read_whole(
        &self,
        world: &World,
        id: &TopicPartition,
        (start, end): (u64, u64),
        seen: &BTreeSet<u64>,
    ) {
        let Some(partition) = self.partitions.get(id) else { return };
        if !partition.kind.compacts || partition.damaged.segment {
            return;
        }
        if let Some(missing) = partition.wanted(start, end).difference(seen).next() {
            let name = &partition.name;
            world.finding(
                "acknowledged records are read",
                format_args!("{name} {missing}, the last one of its key"),
            );
        }
    }

    /// A start has opened the partition.
    pub fn recovered(&mut self, world: &World, id: &TopicPartition, replica: &Replica) {
        let unseen = self.unseen;
        let (remains, is_lost) = (self.journals.remains(id), self.journals.have_lost(id));
        let flushed = self.journals.flushed(id);
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let log = replica.log.borrow();
        let (start, end) = (log.log_start().get(), log.log_end().get());
        let name = &partition.name;
        world.note(format_args!("recovered {name} {start}..{end}"));
        if is_lost {
            world.finding("partitions of a lost journal are offline", format_args!("{name} is served"));
        }
        let damaged = partition.damaged;
        let may_be_torn = damaged.journal && !is_lost;
        let is_torn = may_be_torn && !partition.offline && partition.stored.max(remains.end) <= end;
        if end < flushed {
            world.finding(
                "damage below a recorded flush is never cut",
                format_args!("{name} ends at {end}, a block says that it was flushed up to {flushed}"),
            );
        }
        if end < partition.high_watermark {
            let lost = partition.high_watermark - end;
            if partition.kind.is_flushed_late() && partition.power_was_lost {
                world.count("recovery: acknowledged records lost with the power, as their topic allows");
                partition.has_lost = true;
                if let Durability::Write(bounds) = partition.kind.durability
                    && lost >= bounds.records_max
                    && !damaged.segment
                    && !is_torn
                {
                    world.finding(
                        "no more is lost than flush.messages allows",
                        format_args!("{name}: {lost} of {}", bounds.records_max),
                    );
                }
            } else if damaged.segment || is_torn {
                world.count("recovery: damage taken for a torn tail");
                partition.has_lost = true;
            } else {
                let from = partition.high_watermark;
                world.finding(
                    "acknowledged records are read",
                    format_args!("{name} ends at {end}, was {from}"),
                );
            }
        }
        let is_torn = may_be_torn && partition.log_start_checkpointed.max(remains.log_start) <= start;
        if start < partition.log_start && !damaged.checkpoint && !is_torn {
            let from = partition.log_start;
            world.finding("the log start does not go back", format_args!("{name} {start}, was {from}"));
        }
        // Damage may have taken the log start back; what is stable lies behind that or an open transaction.
        let has_start = partition.log_start <= start;
        (partition.log_start, partition.log_start_checkpointed) = (start, start);
        partition.stored = end;
        let whole =
            partition.batches.last_key_value().is_none_or(|(base, last)| *base >= end || last.end <= end);
        let begins_anew = partition.starts_over && start == end;
        if !whole && !begins_anew {
            world.finding("one value per offset", format_args!("{name} ends inside a batch at {end}"));
        }
        // What the crash took was never acknowledged, or damaged.
        // Where a log begins anew, what lies before is none of it.
        partition.forget_from(if begins_anew { 0 } else { end });
        partition.starts_over = false;
        let stable = log.last_stable_offset();
        let stays = end >= partition.high_watermark && has_start;
        partition.high_watermark = end;
        if !stays || partition.damaged.segment || partition.has_lost {
            partition.last_stable = 0;
        }
        partition.power_was_lost = false;
        partition.damaged = Damaged { segment: partition.damaged.segment, ..unseen };
        partition.offline = false;
        let start = log.log_start();
        drop(log);
        self.stable(world, id, start, stable);
    }

    /// A log is about to be cut: it ends and begins there then, or is as it was, or begins where files did.
    pub fn cutting(&mut self, id: &TopicPartition, starts_over: bool, begins: Offset, ends: Offset) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let (begins, ends) = (begins.get(), ends.get());
        partition.starts_over = starts_over;
        partition.high_watermark = partition.high_watermark.min(ends);
        partition.stored = partition.stored.min(ends);
        partition.log_start = partition.log_start.min(begins);
        partition.log_start_checkpointed = partition.log_start_checkpointed.min(begins);
        partition.last_stable = 0;
    }

    /// It was cut and is open again.
    pub fn was_cut(
        &mut self,
        world: &World,
        id: &TopicPartition,
        replica: &Replica,
        opened: &PartitionPoint,
    ) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let log = replica.log.borrow();
        let (start, end) = (log.log_start(), log.log_end());
        if (start, end) != (opened.log_start, opened.flushed_end) {
            let (from, to) = (opened.log_start, opened.flushed_end);
            let what = format_args!("{} has {start}..{end}, not {from}..{to}", partition.name);
            world.finding("a log that was cut ends there", what);
        }
        partition.forget_from(if partition.starts_over { 0 } else { end.get() });
        partition.starts_over = false;
        partition.high_watermark = end.get();
        partition.stored = end.get();
        partition.log_start = start.get();
        partition.log_start_checkpointed = start.get();
        partition.last_stable = 0;
        let stable = log.last_stable_offset();
        drop(log);
        self.stable(world, id, start, stable);
    }

    /// It could not be cut, or not be opened then.
    pub fn not_cut(&mut self, world: &World, id: &TopicPartition, why: &CutFailed) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        match why {
            CutFailed::Offline
            | CutFailed::Read(ReadFailed::Disk(DiskError::Io(_)))
            | CutFailed::Open(OpenFailed::Disk(_)) => world.count("cut: not now"),
            _ if partition.damaged.segment => {
                world.count("cut: damage noticed");
                partition.offline = matches!(why, CutFailed::Open(_));
            }
            _ => world.finding("a log that was cut ends there", format_args!("{}: {why:?}", partition.name)),
        }
    }

    /// A start could not open the partition for damage.
    pub fn went_offline(&mut self, world: &World, id: &TopicPartition, why: &dyn std::fmt::Debug) {
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let damaged = partition.damaged;
        if !damaged.segment && !damaged.journal && !partition.offline {
            world.finding("healthy partitions are served", format_args!("{}: {why:?}", partition.name));
        }
        world.count("partition offline after damage");
        partition.offline = true;
    }
}

impl PartitionModel {
    fn forget_from(&mut self, end: u64) {
        let lost = self.batches.split_off(&end);
        lost.values().for_each(|batch| {
            self.places.remove(&batch.value);
        });
        self.records.split_off(&end);
        self.parts.split_off(&end);
    }

    /// The first batch of a transaction that the log still has.
    fn first_part(&self, transaction: &Transaction, start: u64) -> u64 {
        let parts = self.parts.range(transaction.first..transaction.data_end);
        let mut left = parts.filter(|(_, part)| part.producer == transaction.producer && part.end > start);
        left.next().map_or(transaction.first, |(base, _)| *base)
    }
}

/// The records of a batch that is not compressed.
fn records_of(batch: &BatchView<'_>) -> Vec<(u64, KeyValue)> {
    let base = batch.base_offset().get();
    let records = Records::new(batch.payload(), batch.record_count()).filter_map(Result::ok);
    let owned = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
    records
        .map(|record| (base + record.offset_delta as u64, (owned(record.key), owned(record.value))))
        .collect()
}
