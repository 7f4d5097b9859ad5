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
//!
//! A compacted log keeps the last record of every key; what is read of it is held against the records, and
//! where a batch is gone the reader goes on behind the gap.

use crate::disk::Disk;
use crate::metadata::{Metadata, TopicKind};
use crate::remains::Journals;
use crate::shell::replica::Replica;
use crate::world::World;
use odradek::codec::record_batch::BatchView;
use odradek::codec::records::Records;
use odradek::log::durability::Durability;
use odradek::types::{Offset, TopicPartition};
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
    /// As a completed checkpoint or a journal has it.
    pub log_start: u64,
    /// As a completed checkpoint has it.
    log_start_checkpointed: u64,
    pub damaged: Damaged,
    /// Damage, or a loss of power where that may be, has cost acknowledged records: their producers do not
    /// know of it.
    pub has_lost: bool,
    pub offline: bool,
    /// Since it was opened last.
    pub power_was_lost: bool,
}

pub type KeyValue = (Vec<u8>, Vec<u8>);

impl PartitionModel {
    pub fn new(name: String, kind: TopicKind) -> PartitionModel {
        PartitionModel { name, kind, ..PartitionModel::default() }
    }

    /// The last record of every key that is there to be read.
    fn wanted(&self, from: u64, end: u64) -> BTreeSet<u64> {
        let mut last: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (offset, (key, _)) in self.records.range(..end) {
            last.insert(key, *offset);
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
        if partition.kind.compacts {
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
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.log_start_checkpointed = partition.log_start_checkpointed.max(start.get());
        }
        self.log_start_kept(id, start);
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
        (partition.log_start, partition.log_start_checkpointed) = (start, start);
        partition.stored = end;
        let whole =
            partition.batches.last_key_value().is_none_or(|(base, last)| *base >= end || last.end <= end);
        if !whole {
            world.finding("one value per offset", format_args!("{name} ends inside a batch at {end}"));
        }
        // What the crash took was never acknowledged, or damaged.
        let lost = partition.batches.split_off(&end);
        lost.values().for_each(|batch| {
            partition.places.remove(&batch.value);
        });
        partition.records.split_off(&end);
        partition.high_watermark = end;
        partition.power_was_lost = false;
        partition.damaged = Damaged { segment: partition.damaged.segment, ..unseen };
        partition.offline = false;
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

/// The records of a batch that is not compressed.
fn records_of(batch: &BatchView<'_>) -> Vec<(u64, KeyValue)> {
    let base = batch.base_offset().get();
    let records = Records::new(batch.payload(), batch.record_count()).filter_map(Result::ok);
    let owned = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
    records
        .map(|record| (base + record.offset_delta as u64, (owned(record.key), owned(record.value))))
        .collect()
}
