//! Request bodies of every API and version that is served.
//!
//! Input: one byte that picks the API, one that picks the version, then the body. The memory bound
//! is libFuzzer's `-malloc_limit_mb`, see ./run.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use odradek::codec::api::produce::{ProduceView, produced_batch};
use odradek::codec::api::request::{RequestError, decode_request};
use odradek::codec::api::versions::ApiKey;

fuzz_target!(|input: &[u8]| {
    let [api, version, body @ ..] = input else { return };
    let api = ApiKey::ALL[usize::from(*api) % ApiKey::ALL.len()].api();
    let versions = api.max - api.served_min + 1;
    let version = api.served_min + i16::from(*version) % versions;
    if api.key == ApiKey::Produce {
        return walk_produce(version, body);
    }
    match decode_request(api.key, version, Bytes::copy_from_slice(body)) {
        // The walk accepted it: only a tag of a later version may be refused after that.
        Err(RequestError::Refused { reason, .. }) => assert!(reason.starts_with("Tag "), "{reason}"),
        Err(RequestError::Unserved { .. }) => panic!("{} {version} is served", api.name),
        Ok(_) | Err(RequestError::Malformed { .. }) => {}
    }
});

fn walk_produce(version: i16, body: &[u8]) {
    let Ok(view) = ProduceView::parse(version, body) else { return };
    assert_eq!(view.topics().count(), view.topic_count());
    let mut partition_count = 0;
    for topic in view.topics() {
        for partition in topic.partitions {
            partition_count += 1;
            let _ = produced_batch(version, partition.records);
        }
    }
    assert_eq!(partition_count, view.partition_count());
}
