//! A file of the commit journal: every block of its last use and what each entry says, one block in
//! memory at a time. Positions are those in this file; where an entry's bytes go is its own field.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use odradek::log::inspect::journal_walk::{WalkedPart, entries_at, walk_journal_file};
use odradek::log::inspect::walk::{SegmentWalk, WalkTail};
use odradek::log::journal::block::{BlockView, Change, Entry};
use odradek::log::partition::Place;
use odradek::types::{LeaderEpoch, Offset, uuid_text};

use super::super::item::{Item, Printer};
use super::segment::{DECODED_SIZE_MAX, print_batch};
use super::{Depth, Interrupted};

pub fn dump<W: Write>(file: &File, depth: Depth, printer: &mut Printer<W>) -> Result<(), Interrupted> {
    let size = file.metadata().map_err(Interrupted::Read)?.len();
    let read = |position, size| read_at(file, position, size).map_err(Interrupted::Read);
    let mut entry_count = 0u64;
    let counts = walk_journal_file(size, read, |part| {
        let printed = match part {
            WalkedPart::Block(view) => {
                entry_count += view.entries().count() as u64;
                print_block(&view, depth, printer)
            }
            WalkedPart::Damaged { position, error } => printer.print(&Item::problem(position, error)),
        };
        printed.map_err(Interrupted::Print)
    })?;
    let end = Item::new("end")
        .with("blocks", counts.blocks)
        .with("entries", entry_count)
        .with("staleBlocks", counts.stale_blocks)
        .with("staleBytes", counts.stale_bytes)
        .with("emptyBytes", counts.empty_bytes)
        .with("position", size);
    printer.print(&end).map_err(Interrupted::Print)
}

fn print_block<W: Write>(view: &BlockView<'_>, depth: Depth, printer: &mut Printer<W>) -> io::Result<()> {
    let header = &view.header;
    let entries = entries_at(view);
    let item = Item::new("block")
        .with("position", header.position)
        .with("sequence", header.sequence.0)
        .with("shard", header.shard.0)
        .with("fileEpoch", header.epoch.0)
        .with("flushed", header.flushed.0)
        .with("needed", header.needed.0)
        .with("size", view.size)
        .with("version", view.version())
        .with("entries", entries.len())
        .with("isvalid", entries.iter().all(|(_, _, bytes)| bytes.is_some()));
    printer.print(&item)?;
    for (position, entry, bytes) in entries {
        printer.print(&entry_item(&entry, bytes.is_some()))?;
        match (bytes, depth) {
            (None, _) => {
                let reason = "the bytes of the entry are not as its CRC-32 says";
                printer.print(&Item::problem(position, reason))?;
            }
            (Some([]), _) | (Some(_), Depth::Batches) => {}
            (Some(bytes), Depth::Records) => print_batches(bytes, position, printer)?,
        }
    }
    Ok(())
}

fn entry_item(entry: &Entry, holds: bool) -> Item {
    let item = |kind: &'static str| {
        Item::nested("entry")
            .with("topicId", uuid_text(entry.partition.topic.0))
            .with("partition", entry.partition.partition.to_wire())
            .with("kind", kind)
    };
    match entry.change {
        Change::Bytes { place, end, size, crc } => item("bytes")
            .with("segment", place.segment.get())
            .with("segmentPosition", place.file_position)
            .with("logEnd", end.get())
            .with("size", size)
            .with("crc", crc)
            .with("isvalid", holds),
        Change::Closed { segment, size, next } => item("closed")
            .with("segment", segment.get())
            .with("segmentSize", size)
            .with("nextSegment", next.get()),
        Change::LogStart { start, epoch } => {
            item("log start").with("logStart", start.get()).with("leaderEpoch", epoch.0)
        }
        Change::Deleted { epoch } => item("deleted").with("leaderEpoch", epoch.0),
        Change::Removed { epoch } => item("removed").with("leaderEpoch", epoch.0),
        Change::Replaced { from, to, epoch } => {
            item("replaced").with("from", from.get()).with("to", to.get()).with("leaderEpoch", epoch.0)
        }
        Change::Cutting { place, end, epoch } => at_place(item("cutting"), place, end, epoch),
        Change::Cut { place, end, epoch } => at_place(item("cut"), place, end, epoch),
        Change::Flushed { place, end, epoch } => at_place(item("flushed"), place, end, epoch),
    }
}

fn at_place(item: Item, place: Place, end: Offset, epoch: LeaderEpoch) -> Item {
    item.with("segment", place.segment.get())
        .with("segmentPosition", place.file_position)
        .with("logEnd", end.get())
        .with("leaderEpoch", epoch.0)
}

/// A range may begin and end inside a batch: what is not whole here is told, and is no problem.
fn print_batches<W: Write>(bytes: &[u8], position: u64, printer: &mut Printer<W>) -> io::Result<()> {
    let mut walk = SegmentWalk::with_payload(DECODED_SIZE_MAX);
    let mut scratch = Vec::new();
    let mut printed = Ok(());
    walk.feed(bytes, &mut |batch, payload| {
        if printed.is_ok() {
            let mut batch = *batch;
            batch.file_position += position;
            printed = print_batch(&batch, payload, &mut scratch, printer);
        }
    });
    printed?;
    let end = walk.finish();
    match end.tail {
        WalkTail::End => Ok(()),
        WalkTail::Zeros
        | WalkTail::BeyondZeros { .. }
        | WalkTail::CutOff { .. }
        | WalkTail::NoBatch { .. } => printer.print(
            &Item::nested("part")
                .with("position", position + end.file_position)
                .with("partOfBatch", end.size - end.file_position),
        ),
    }
}

/// Fewer bytes only at the end of the file.
fn read_at(file: &File, position: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match file.read_at(&mut bytes[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
