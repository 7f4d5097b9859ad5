//! Indexes, entry by entry; and the files that are read as a whole: producer snapshots, checkpoints and
//! the like.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use odradek::log::checkpoint::{Checkpoint, CleanStop};
use odradek::log::checksums::{DecodedChecksums, HasTransactions};
use odradek::log::epochs::LeaderEpochs;
use odradek::log::final_state;
use odradek::log::index::{OFFSET_ENTRY_SIZE, OffsetEntry, TIME_ENTRY_SIZE, TimeEntry};
use odradek::log::ownership;
use odradek::log::producers::{SnapshotBatch, SnapshotListing};
use odradek::log::transactions::index::TransactionIndex;
use odradek::types::{Offset, Timestamp, uuid_text};

use super::super::item::{Item, Printer};
use super::Interrupted;

/// Bytes of a file that is read as a whole: a checkpoint of the most partitions that a cluster has is
/// a quarter of it.
const WHOLE_FILE_MAX: u64 = 256 << 20;

pub fn dump_offset_index<W: Write>(
    file: &File,
    base_offset: Offset,
    printer: &mut Printer<W>,
) -> Result<(), Interrupted> {
    let mut previous: Option<OffsetEntry> = None;
    dump_entries(file, printer, |bytes: &[u8; OFFSET_ENTRY_SIZE]| {
        let entry = OffsetEntry::decode(bytes);
        let follows = previous.is_none_or(|last| {
            last.relative_offset < entry.relative_offset && last.file_position < entry.file_position
        });
        previous = Some(entry);
        let item = Item::new("entry")
            .with("offset", base_offset.get() + u64::from(entry.relative_offset))
            .with("position", entry.file_position);
        (item, follows)
    })
}

pub fn dump_time_index<W: Write>(
    file: &File,
    base_offset: Offset,
    printer: &mut Printer<W>,
) -> Result<(), Interrupted> {
    let mut previous = TimeEntry { timestamp: Timestamp::NONE, relative_offset: 0 };
    let mut is_first = true;
    dump_entries(file, printer, |bytes: &[u8; TIME_ENTRY_SIZE]| {
        let entry = TimeEntry::decode(bytes);
        let follows = previous.timestamp < entry.timestamp
            && (is_first || previous.relative_offset < entry.relative_offset);
        (previous, is_first) = (entry, false);
        let item = Item::new("entry")
            .with("timestamp", entry.timestamp.0)
            .with("offset", base_offset.get() + u64::from(entry.relative_offset));
        (item, follows)
    })
}

/// `describe` says what an entry is, and whether it follows the one before. Zeros after the first entry
/// are the preallocated end of an index that Kafka had open.
fn dump_entries<W: Write, const SIZE: usize>(
    file: &File,
    printer: &mut Printer<W>,
    mut describe: impl FnMut(&[u8; SIZE]) -> (Item, bool),
) -> Result<(), Interrupted> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let (mut position, mut count) = (0, 0u64);
    let mut print = |item: Item| printer.print(&item).map_err(Interrupted::Print);
    loop {
        let mut entry = [0; SIZE];
        let size = read_up_to(&mut reader, &mut entry).map_err(Interrupted::Read)?;
        if size == 0 || (size == SIZE && count > 0 && entry == [0; SIZE]) {
            break;
        }
        if size < SIZE {
            print(Item::problem(position, format!("the file ends inside an entry: {size} of {SIZE} bytes")))?;
            break;
        }
        let (item, follows) = describe(&entry);
        print(item)?;
        if !follows {
            print(Item::problem(position, "the entry does not follow the one before"))?;
        }
        position += SIZE as u64;
        count += 1;
    }
    print(Item::new("end").with("entries", count).with("position", position))
}

/// Fewer bytes only at the end of the file.
fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(size) => filled += size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads the file and prints what `describe` makes of it.
pub fn dump_whole<W: Write>(
    file: &File,
    printer: &mut Printer<W>,
    describe: impl FnOnce(&[u8]) -> Result<Vec<Item>, String>,
) -> Result<(), Interrupted> {
    let mut bytes = Vec::new();
    file.take(WHOLE_FILE_MAX + 1).read_to_end(&mut bytes).map_err(Interrupted::Read)?;
    let described = match bytes.len() as u64 > WHOLE_FILE_MAX {
        true => Err(format!("more than {WHOLE_FILE_MAX} bytes are not looked at")),
        false => describe(&bytes),
    };
    let items = described.unwrap_or_else(|reason| vec![Item::problem(0, reason)]);
    items.iter().try_for_each(|item| printer.print(item)).map_err(Interrupted::Print)
}

pub fn checksums(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let decoded = DecodedChecksums::decode(bytes).map_err(|error| error.to_string())?;
    let (topic, partition, base_offset) = decoded.segment();
    let head = Item::new("segment")
        .with("topicId", uuid_text(topic))
        .with("partition", partition)
        .with("baseOffset", base_offset)
        .with("segmentSize", decoded.segment_size)
        .with(
            "hasTransactions",
            match decoded.transactions {
                HasTransactions::No => Some(false),
                HasTransactions::Yes => Some(true),
                HasTransactions::Unknown => None,
            },
        )
        .with("extents", decoded.extents.len());
    let extents = decoded.extents.iter().map(|(file_position, crc)| {
        Item::nested("extent").with("position", *file_position).with("crc", format!("{crc:#010x}"))
    });
    Ok([head].into_iter().chain(extents).collect())
}

/// Of a file that has no end by which it could be told, as Kafka's, the entries are not shown.
pub fn transactions(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let index = TransactionIndex::list(bytes).map_err(|error| error.to_string())?;
    let entries = index.aborted.iter().map(|entry| {
        Item::new("abortedTransaction")
            .with("producerId", entry.producer.0)
            .with("firstOffset", entry.first_offset.get())
            .with("lastOffset", entry.last_offset.get())
            .with("lastStableOffset", entry.last_stable_offset.get())
    });
    let end = Item::new("end")
        .with("entries", index.aborted.len())
        .with("firstOpenOffset", index.first_open.map(|offset| offset.get()));
    Ok(entries.chain([end]).collect())
}

pub fn producers(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let listing = SnapshotListing::decode(bytes).map_err(|error| error.to_string())?;
    let batch = |item: Item, batch: &SnapshotBatch| {
        item.with("lastSequence", batch.last_sequence)
            .with("lastOffset", batch.last_offset)
            .with("offsetDelta", batch.offset_delta)
            .with("timestamp", batch.timestamp)
    };
    let producers = listing.producers.iter().map(|producer| {
        let item = Item::new("producer")
            .with("producerId", producer.producer_id)
            .with("producerEpoch", producer.producer_epoch)
            .with("coordinatorEpoch", producer.coordinator_epoch)
            .with("currentTxnFirstOffset", producer.transaction_start);
        batch(item, &producer.newest)
    });
    let earlier = listing
        .earlier
        .iter()
        .map(|(id, earlier)| batch(Item::nested("earlierBatch").with("producerId", *id), earlier));
    let end = Item::new("end")
        .with("producers", listing.producers.len())
        .with("earlierBatches", listing.earlier.len());
    Ok(producers.chain(earlier).chain([end]).collect())
}

pub fn recovery_points(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let checkpoint = Checkpoint::decode(bytes).map_err(|error| error.to_string())?;
    let head = Item::new("checkpoint")
        .with("shard", checkpoint.shard.0)
        .with("generation", checkpoint.generation.0)
        .with("partitions", checkpoint.points.len());
    let points = checkpoint.points.iter().map(|(partition, point)| {
        Item::nested("partition")
            .with("topicId", uuid_text(partition.topic.0))
            .with("partition", partition.partition.to_wire())
            .with("logStart", point.log_start.get())
            .with("flushedEnd", point.flushed_end.get())
            .with("segment", point.segment_base.get())
            .with("position", point.file_position)
    });
    Ok([head].into_iter().chain(points).collect())
}

pub fn final_state(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let states = final_state::decode(bytes).map_err(|error| error.to_string())?;
    let head = Item::new("partitions").with("partitions", states.len());
    let states = states.iter().map(|(id, state)| {
        Item::nested("partition")
            .with("topicId", uuid_text(id.topic.0))
            .with("partition", id.partition.to_wire())
            .with("segment", state.active.get())
            .with("logEnd", state.log_end.get())
            .with("firstTimestamp", state.first_timestamp.map(|timestamp| timestamp.0))
            .with("offsetIndexSize", state.offset_index.len())
            .with("timeIndexSize", state.time_index.len())
            .with("checksumsSize", state.checksums.len())
            .with("producersSize", state.producers.len())
            .with("epochsSize", state.epochs.len())
            .with("transactionsSize", state.transactions.len())
            .with("lastBlockSize", state.carry.len())
            .with("filesChecksum", state.files_checksum)
    });
    Ok([head].into_iter().chain(states).collect())
}

pub fn clean_stop(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let mark = CleanStop::decode(bytes).map_err(|error| error.to_string())?;
    let shards = mark.generations.iter();
    Ok(shards
        .map(|(shard, generation)| Item::new("shard").with("shard", shard.0).with("generation", generation.0))
        .collect())
}

pub fn leader_epochs(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let epochs = LeaderEpochs::decode(text).map_err(|error| error.to_string())?;
    let entries = epochs.entries().iter();
    Ok(entries
        .map(|entry| {
            Item::new("epoch").with("epoch", entry.epoch.0).with("startOffset", entry.start_offset.get())
        })
        .collect())
}

pub fn partition_metadata(bytes: &[u8]) -> Result<Vec<Item>, String> {
    let topic = ownership::decode(&String::from_utf8_lossy(bytes)).map_err(|error| error.to_string())?;
    Ok(vec![Item::new("topic").with("topicId", uuid_text(topic.0))])
}
