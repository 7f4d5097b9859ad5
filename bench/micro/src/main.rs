//! `odradek-micro [FILTER]`: what the broker's hot paths cost per call, on one core.
//!
//! | benchmark | what it stands for |
//! |---|---|
//! | `batch/validate` | what each produced batch is checked for, CRC-32C included |
//! | `batch/assign-offset` | the rewrite of a stored batch |
//! | `produce/parse` | a Produce request viewed in place |
//! | `fetch/write` | the header of a Fetch answer around stored records |
//! | `records/iterate` | walking the records of a batch (compacted topics, tools) |
//! | `codec/*` | compression of a 64 KiB batch of JSON-like records |
//!
//! Absolute numbers move with the machine; compare two builds in turn.

mod harness;

use std::io::Write;
use std::process::ExitCode;

use odradek::codec::api::fetch::{EncodedFetch, FetchResponseHeader, FetchResponseWriter, FetchedPartition};
use odradek::codec::api::produce::ProduceView;
use odradek::codec::compression::{compress, decompress};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::frame::parse_request_header;
use odradek::codec::record_batch::{BatchView, Compression, assign_offset};
use odradek::codec::records::Records;
use odradek::types::{LeaderEpoch, Offset, Timestamp};
use odradek_loadgen::batch::Payload;
use odradek_loadgen::connection::Outgoing;
use odradek_loadgen::content::{Keys, Shape};
use odradek_loadgen::produce::message::{Acks, ProducePart, ProduceSetup, write_request};

fn main() -> ExitCode {
    let filter = std::env::args().nth(1).unwrap_or_default();
    match run(&filter) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // Standard output is closed.
    }
}

fn run(filter: &str) -> std::io::Result<()> {
    for (size, record_size) in [(65_536, 100), (65_536, 1024), (4096, 1000)] {
        let payload = payload(size, record_size);
        let batch = whole(&payload);
        let of = format!("{} B, {} records", batch.len(), payload.record_count);
        let view = BatchView::split_first(&batch).expect("a whole batch").0;
        report(filter, "batch/validate", &of, batch.len(), || view.validate_produced())?;
        report(filter, "records/iterate", &of, batch.len(), || {
            Records::new(view.payload(), view.record_count()).filter(Result::is_ok).count()
        })?;
    }
    let mut batch = whole(&payload(65_536, 1024));
    report(filter, "batch/assign-offset", "", 0, || {
        assign_offset(&mut batch, Offset::ZERO, LeaderEpoch(3));
    })?;
    for (partitions, size) in [(1, 65_536), (16, 4096), (100, 1024)] {
        let request = produce_request(partitions, size);
        let of = format!("{partitions} partitions");
        report(filter, "produce/parse", &of, request.len(), || {
            let (header, body) = parse_request_header(&request).expect("a whole request");
            let view = ProduceView::parse(header.api_version, body).expect("a whole request");
            view.topics().flat_map(|topic| topic.partitions).count()
        })?;
        let mut encoded = EncodedFetch::default();
        report(filter, "fetch/write", &of, 0, || {
            encoded = fetch_answer(partitions, std::mem::take(&mut encoded));
        })?;
    }
    codecs(filter)
}

fn codecs(filter: &str) -> std::io::Result<()> {
    let plain = payload(65_536, 1024);
    let plain = &plain.bytes[plain.range.clone()];
    let (mut packed, mut out) = (Vec::new(), Vec::new());
    for codec in Compression::ALL {
        let name = format!("codec/compress-{}", codec.name());
        report(filter, &name, "", plain.len(), || compress(codec, plain, &mut packed))?;
        compress(codec, plain, &mut packed);
        let name = format!("codec/decompress-{}", codec.name());
        report(filter, &name, "", plain.len(), || decompress(codec, &packed, plain.len(), &mut out))?;
    }
    Ok(())
}

/// Runs one benchmark if its name holds the filter.
fn report<T>(
    filter: &str,
    name: &str,
    of: &str,
    bytes: usize,
    body: impl FnMut() -> T,
) -> std::io::Result<()> {
    if !name.contains(filter) {
        return Ok(());
    }
    let cost = harness::time(body).nanoseconds;
    let speed = if bytes == 0 { String::new() } else { format!("{:8.2} GB/s", bytes as f64 / cost) };
    writeln!(std::io::stdout(), "{name:<26} {of:<26} {cost:12.1} ns {speed}")
}

fn payload(batch_size: usize, record_size: usize) -> Payload {
    let shape = Shape { record_size, batch_size, keys: Keys::None, compression: Compression::None };
    shape.templates(1)[0].take(u32::MAX)
}

fn whole(payload: &Payload) -> Vec<u8> {
    let mut batch = Vec::new();
    payload.write_header(Timestamp(1), None, false, &mut batch);
    batch.extend_from_slice(&payload.bytes[payload.range.clone()]);
    batch
}

/// Without its size prefix.
fn produce_request(partitions: i32, batch_size: usize) -> Vec<u8> {
    let setup = ProduceSetup {
        topic: "topic".into(),
        acks: Acks::All,
        timeout_ms: 1000,
        version: 11,
        transactional_id: None,
    };
    let payload = payload(batch_size, 100);
    let part = |partition| ProducePart { partition, payload: &payload, timestamp: Timestamp(1), stamp: None };
    let parts: Vec<ProducePart<'_>> = (0..partitions).map(part).collect();
    let mut request = Outgoing::default();
    write_request(&setup, 1, &parts, &mut request);
    request.to_bytes().split_off(4)
}

fn fetch_answer(partitions: i32, recycled: EncodedFetch) -> EncodedFetch {
    let header = FetchResponseHeader {
        version: 12,
        correlation_id: 1,
        throttle_time_ms: 0,
        error: ErrorCode::None,
        session_id: 0,
    };
    let mut writer = FetchResponseWriter::new(&header, 1, recycled);
    writer.topic("topic", partitions as usize);
    for index in 0..partitions {
        writer.partition(&FetchedPartition::refused(index, ErrorCode::None), 65_536);
    }
    writer.finish()
}
