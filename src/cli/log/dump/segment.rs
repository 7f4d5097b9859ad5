//! A segment: every batch, and its records where they are asked for.

use std::fs::File;
use std::io::{self, Read, Write};

use odradek::codec::compression::decompress;
use odradek::codec::record_batch::BatchFields;
use odradek::codec::records::{RecordView, Records};
use odradek::log::inspect::findings::Offence;
use odradek::log::inspect::walk::{Payload, SegmentWalk, WalkEnd, WalkTail, WalkedBatch};
use odradek::types::limits::IO_SIZE_MAX;

use super::super::item::{Field, Item, Printer};
use super::{Depth, Interrupted};

/// Bytes of a batch's records, compressed and not, up to which they are decoded. Twice the default
/// bound of a whole request.
pub const DECODED_SIZE_MAX: usize = 256 << 20;

pub fn dump<W: Write>(mut file: &File, depth: Depth, printer: &mut Printer<W>) -> Result<(), Interrupted> {
    let mut walk = match depth {
        Depth::Batches => SegmentWalk::new(),
        Depth::Records => SegmentWalk::with_payload(DECODED_SIZE_MAX),
    };
    let mut buffer = vec![0; IO_SIZE_MAX];
    let mut scratch = Vec::new();
    let (mut batch_count, mut record_count) = (0u64, 0u64);
    let mut printed = Ok(());
    loop {
        let size = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Interrupted::Read(error)),
        };
        walk.feed(&buffer[..size], &mut |batch, payload| {
            batch_count += 1;
            record_count += u64::try_from(batch.fields.record_count).unwrap_or(0);
            if printed.is_ok() {
                printed = print_batch(batch, payload, &mut scratch, printer);
            }
        });
        if let Err(error) = printed {
            return Err(Interrupted::Print(error));
        }
        printed = Ok(());
    }
    print_end(&walk.finish(), batch_count, record_count, printer).map_err(Interrupted::Print)
}

pub fn print_batch<W: Write>(
    batch: &WalkedBatch,
    payload: Payload<'_>,
    scratch: &mut Vec<u8>,
    printer: &mut Printer<W>,
) -> io::Result<()> {
    let fields = &batch.fields;
    printer.print(&batch_item(batch))?;
    if !batch.crc_holds() {
        let offence = Offence::Crc { stored: fields.crc, computed: batch.computed_crc };
        printer.print(&Item::problem(batch.file_position, offence))?;
    } else if let Err(error) = fields.check() {
        printer.print(&Item::problem(batch.file_position, error))?;
    }
    let payload = match payload {
        Payload::NotKept => return Ok(()),
        Payload::TooLarge => {
            let reason = format!("more than {DECODED_SIZE_MAX} bytes of records are not decoded");
            return printer.print(&Item::problem(batch.file_position, reason));
        }
        Payload::Whole(payload) => payload,
    };
    // An unknown codec was reported.
    let Some(codec) = fields.compression() else { return Ok(()) };
    if let Err(error) = decompress(codec, payload, DECODED_SIZE_MAX, scratch) {
        return printer.print(&Item::problem(batch.file_position, error));
    }
    for record in Records::new(scratch, u32::try_from(fields.record_count).unwrap_or(0)) {
        match record {
            Ok(record) => printer.print(&record_item(fields, &record))?,
            Err(error) => printer.print(&Item::problem(batch.file_position, error))?,
        }
    }
    Ok(())
}

fn batch_item(batch: &WalkedBatch) -> Item {
    let fields = &batch.fields;
    let last_offset = fields.base_offset.wrapping_add(i64::from(fields.last_offset_delta));
    Item::new("batch")
        .with("baseOffset", fields.base_offset)
        .with("lastOffset", last_offset)
        .with("count", fields.record_count)
        .with("baseSequence", fields.base_sequence)
        .with("lastSequence", fields.last_sequence())
        .with("producerId", fields.producer_id)
        .with("producerEpoch", fields.producer_epoch)
        .with("partitionLeaderEpoch", fields.leader_epoch)
        .with("isTransactional", fields.is_transactional())
        .with("isControl", fields.is_control())
        .with("deleteHorizonMs", fields.delete_horizon().map(|horizon| horizon.0))
        .with("position", batch.file_position)
        .with(timestamp_name(fields), fields.max_timestamp)
        .with("size", batch.size)
        .with("magic", fields.magic)
        .with("compresscodec", fields.compression().map_or("unknown", |codec| codec.name()))
        .with("crc", fields.crc)
        .with("isvalid", batch.crc_holds() && fields.check().is_ok())
}

fn record_item(batch: &BatchFields, record: &RecordView<'_>) -> Item {
    let size = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
    let owned = |bytes: Option<&[u8]>| Field::Data(bytes.map(<[u8]>::to_vec));
    let headers = record.headers().map(|header| (header.key.to_vec(), header.value.map(<[u8]>::to_vec)));
    let timestamp = match batch.is_log_append_time() {
        true => batch.max_timestamp,
        false => batch.base_timestamp.wrapping_add(record.timestamp_delta),
    };
    let sequence = match batch.base_sequence {
        -1 => -1,
        base => base.wrapping_add(record.offset_delta) & i32::MAX,
    };
    Item::nested("record")
        .with("offset", batch.base_offset.wrapping_add(i64::from(record.offset_delta)))
        .with(timestamp_name(batch), timestamp)
        .with("keySize", size(record.key))
        .with("valueSize", size(record.value))
        .with("sequence", sequence)
        .with("headers", Field::Headers(headers.collect()))
        .with("key", owned(record.key))
        .with("payload", owned(record.value))
}

fn timestamp_name(batch: &BatchFields) -> &'static str {
    if batch.is_log_append_time() { "LogAppendTime" } else { "CreateTime" }
}

fn print_end<W: Write>(
    end: &WalkEnd,
    batch_count: u64,
    record_count: u64,
    printer: &mut Printer<W>,
) -> io::Result<()> {
    let mut item = Item::new("end")
        .with("batches", batch_count)
        .with("records", record_count)
        .with("position", end.file_position);
    let problem = match end.tail {
        WalkTail::End => None,
        WalkTail::Zeros => {
            // The active segment grows in steps and is cut to its length when it is closed.
            item = item.with("preallocated", end.size - end.file_position);
            None
        }
        WalkTail::BeyondZeros { at } => Some((at, Offence::BeyondZeros)),
        WalkTail::CutOff { needed, available } => {
            Some((end.file_position, Offence::CutOff { needed, available }))
        }
        WalkTail::NoBatch { error } => Some((end.file_position, Offence::NoBatch(error))),
    };
    if let Some((position, offence)) = problem {
        printer.print(&Item::problem(position, offence))?;
        item = item.with("unread", end.size - end.file_position);
    }
    printer.print(&item)
}
