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
//! | blocks that are believed are those of this use | 9 |

use crate::shell::replica::Replica;
use crate::world::World;
use odradek::codec::record_batch::BatchView;
use odradek::log::journal::block::BlockSequence;
use odradek::log::journal::ring::{BlockPlace, FileIndex};
use odradek::types::{Offset, TopicPartition};
use std::collections::BTreeMap;

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
    /// Its journal was hit: it may stay offline.
    pub journal: bool,
    /// The journal was hit where nothing says that it had been flushed: what lies there may be taken for a
    /// torn tail.
    pub journal_tail: bool,
    /// The checkpoint was hit, which has the log start.
    pub checkpoint: bool,
}

#[derive(Clone, Debug, Default)]
pub struct PartitionModel {
    pub name: String,
    batches: BTreeMap<u64, Written>,
    /// Where each value of an idempotent producer is.
    places: BTreeMap<u64, u64>,
    pub high_watermark: u64,
    /// As a completed checkpoint has it.
    pub log_start: u64,
    pub damaged: Damaged,
    /// Damage has cost acknowledged records: their producers do not know of it.
    pub has_lost: bool,
    pub offline: bool,
}

impl PartitionModel {
    pub fn new(name: String) -> PartitionModel {
        PartitionModel { name, ..PartitionModel::default() }
    }
}

/// Lives: one per seed; it outlives every crash.
#[derive(Debug, Default)]
pub struct Model {
    pub partitions: BTreeMap<TopicPartition, PartitionModel>,
}

/// The value that a batch's payload begins with.
pub fn value_of(batch: &BatchView<'_>) -> u64 {
    batch.payload().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Model {
    fn partition(&mut self, id: &TopicPartition) -> &mut PartitionModel {
        self.partitions.get_mut(id).expect("the model knows every partition")
    }

    /// A batch got its offsets.
    pub fn appended(&mut self, world: &World, id: &TopicPartition, batch: &[u8]) {
        let (view, _) = BatchView::split_first(batch).expect("it was appended");
        let partition = self.partition(id);
        let (base, end) = (view.base_offset().get(), view.end_offset().get());
        let known_end = partition.batches.last_key_value().map_or(0, |(_, last)| last.end);
        world.note(format_args!("append {} {base}..{end} value {}", partition.name, value_of(&view)));
        if base < partition.high_watermark.max(known_end) {
            world.finding("offsets are not used twice", format_args!("{} {base}", partition.name));
        }
        let value = value_of(&view);
        if view.producer().is_some()
            && let Some(at) = partition.places.insert(value, base)
            && at >= partition.log_start
        {
            let name = &partition.name;
            world.finding("one offset per value", format_args!("{name}: {value} at {at} and {base}"));
        }
        partition.batches.insert(base, Written { end, crc: view.crc(), value });
    }

    /// Readers may read up to `end`.
    pub fn advanced(&mut self, world: &World, id: &TopicPartition, end: Offset) {
        let partition = self.partition(id);
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
        let partition = self.partition(id);
        world.note(format_args!("acknowledged {} {base} value {value}", partition.name));
        let Some(written) = partition.batches.get(&base.get()) else {
            if base.get() >= partition.log_start && !partition.damaged.segment {
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
    pub fn log_start_kept(&mut self, id: &TopicPartition, start: Offset) {
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.log_start = partition.log_start.max(start.get());
        }
    }

    /// A consumer asked for `offset` and got `bytes`. Returns where it goes on.
    pub fn read(&mut self, world: &World, id: &TopicPartition, offset: u64, bytes: &[u8]) -> u64 {
        let partition = self.partition(id);
        let mut next = offset;
        let mut rest = bytes;
        while let Ok((view, after)) = BatchView::split_first(rest) {
            rest = after;
            let (base, end) = (view.base_offset().get(), view.end_offset().get());
            if view.validate().is_err() {
                if !partition.damaged.segment {
                    world.finding(
                        "one value per offset",
                        format_args!("{} {base}: CRC does not hold", partition.name),
                    );
                }
                world.count("read: damage noticed by its CRC");
                return next;
            }
            let follows = if next == offset { base <= offset && offset < end } else { base == next };
            let known = partition.batches.get(&base);
            let same = known.is_some_and(|known| known.end == end && known.crc == view.crc());
            if (!follows || !same) && partition.damaged.segment {
                world.count("gap: a batch in the wrong place was served");
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
                        value_of(&view)
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

    /// A start has opened the partition.
    pub fn recovered(&mut self, world: &World, id: &TopicPartition, replica: &Replica) {
        let partition = self.partition(id);
        let log = replica.log.borrow();
        let (start, end) = (log.log_start().get(), log.log_end().get());
        let name = &partition.name;
        world.note(format_args!("recovered {name} {start}..{end}"));
        if end < partition.high_watermark {
            let damaged = partition.damaged;
            if damaged.segment || damaged.journal_tail {
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
        if start < partition.log_start && !partition.damaged.checkpoint {
            let from = partition.log_start;
            world.finding("the log start does not go back", format_args!("{name} {start}, was {from}"));
        }
        partition.log_start = start;
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
        partition.high_watermark = end;
        partition.damaged.journal = false;
        partition.damaged.journal_tail = false;
        partition.damaged.checkpoint = false;
        partition.offline = false;
    }

    /// A start could not open the partition for damage.
    pub fn went_offline(&mut self, world: &World, id: &TopicPartition, why: &dyn std::fmt::Debug) {
        let partition = self.partition(id);
        let damaged = partition.damaged;
        if !damaged.segment && !damaged.journal && !partition.offline {
            world.finding("healthy partitions are served", format_args!("{}: {why:?}", partition.name));
        }
        world.count("partition offline after damage");
        partition.offline = true;
    }
}

/// Every block of the journal that was issued since the last replay, by its place.
#[derive(Debug, Default)]
pub struct Ledger {
    blocks: BTreeMap<(FileIndex, u64), (BlockSequence, usize)>,
    flushed: BlockSequence,
}

impl Ledger {
    pub fn issued(&mut self, place: BlockPlace, size: usize) {
        let (file, position) = (place.file, place.header.position);
        if position == 0 {
            self.blocks.retain(|(other, _), _| *other != file);
        }
        self.blocks.insert((file, position), (place.header.sequence, size));
    }

    pub fn flushed(&mut self, through: BlockSequence) {
        self.flushed = self.flushed.max(through);
    }

    pub fn has_blocks_in(&self, file: FileIndex) -> bool {
        self.blocks.keys().any(|(other, _)| *other == file)
    }

    /// The block that holds this byte.
    pub fn block_at(&self, file: FileIndex, byte: u64) -> Option<BlockSequence> {
        let (at, (sequence, size)) = self.blocks.range(..=(file, byte)).next_back()?;
        (at.0 == file && byte < at.1 + *size as u64).then_some(*sequence)
    }

    pub fn check_believed(&self, world: &World, sequence: BlockSequence, file: FileIndex, position: u64) {
        let known = self.blocks.get(&(file, position)).map(|(sequence, _)| *sequence);
        if known != Some(sequence) {
            world.finding(
                "blocks that are believed are those of this use",
                format_args!("block {} at {position} of file {}, issued: {known:?}", sequence.0, file.0),
            );
        }
    }

    /// The journal is made anew.
    pub fn clear(&mut self) {
        *self = Ledger::default();
    }
}
