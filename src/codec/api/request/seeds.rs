//! Writes what the fuzz targets start from (`tools/fuzz/run`), in the formats of their inputs.
#![expect(clippy::disallowed_methods, reason = "a tool that runs as a test and writes files")]

use std::path::Path;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey as LibraryKey, RequestHeader};
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::samples::samples;
use crate::codec::api::versions::ApiKey;
use crate::codec::compression::compress;
use crate::codec::record_batch::{BatchHeader, Compression, write_batch};
use crate::codec::records::{Header, NewRecord, write_record};
use crate::codec::wire::Encoding;
use crate::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};

#[test]
#[ignore = "writes files; run by tools/fuzz/run"]
fn write_fuzz_seeds() {
    let root = std::env::var("ODRADEK_FUZZ_SEEDS").expect("ODRADEK_FUZZ_SEEDS names the directory");
    let root = Path::new(&root);
    for target in ["frame", "request", "record_batch"] {
        std::fs::create_dir_all(root.join(target)).unwrap();
    }
    for codec in Compression::ALL {
        std::fs::write(root.join("record_batch").join(codec.name()), batch(codec)).unwrap();
    }
    let records = Bytes::from(batch(Compression::None));
    for (index, key) in ApiKey::ALL.iter().enumerate() {
        let api = key.api();
        let mut pipelined = vec![200];
        for version in api.served_min..=api.max {
            let library = LibraryKey::try_from(key.to_wire()).unwrap();
            for (sample, body) in samples(library, version, &records).into_iter().enumerate() {
                let picks = [index as u8, (version - api.served_min) as u8];
                let name = format!("{}-{version}-{sample}", api.name);
                std::fs::write(root.join("request").join(name), [&picks, &body[..]].concat()).unwrap();
                pipelined.extend(frame(*key, version, &body));
            }
        }
        std::fs::write(root.join("frame").join(api.name), pipelined).unwrap();
    }
}

fn frame(key: ApiKey, version: i16, body: &[u8]) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(key.to_wire())
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("rdkafka")));
    let mut frame = vec![0; 4];
    let header_version = if key.encoding(version) == Encoding::Compact { 2 } else { 1 };
    header.encode(&mut frame, header_version).unwrap();
    frame.extend_from_slice(body);
    let size = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame
}

fn batch(compression: Compression) -> Vec<u8> {
    let mut payload = Vec::new();
    let values = [Some(&b"value"[..]), None, Some(&[7; 200])];
    for (offset_delta, value) in values.into_iter().enumerate() {
        let headers =
            [Header { key: b"header", value: Some(b"of it") }, Header { key: b"empty", value: None }];
        let record = NewRecord {
            timestamp_delta: 5,
            offset_delta: offset_delta as i32,
            key: Some(b"key"),
            value,
            headers: &headers,
        };
        write_record(&record, &mut payload);
    }
    let mut compressed = Vec::new();
    compress(compression, &payload, &mut compressed);
    let header = BatchHeader {
        compression,
        transactional: false,
        record_count: values.len() as u32,
        base_timestamp: Timestamp(1),
        max_timestamp: Timestamp(6),
        producer: Some((ProducerId(5), ProducerEpoch(0), Sequence(0))),
    };
    let mut out = Vec::new();
    write_batch(&header, &compressed, &mut out);
    out
}
