//! No request makes the decoder allocate beyond a bound, whatever its bytes announce.
//!
//! A process of its own, as it counts every allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use odradek::codec::api::request::{check_request, decode_request};
use odradek::codec::api::versions::ApiKey;
use odradek::types::limits::{REQUEST_ELEMENTS_MAX, REQUEST_TAGGED_FIELDS_MAX};
use proptest::collection::vec;
use proptest::prelude::*;

/// Bytes that a decoded element may take: the largest structure of a request and its first nested
/// allocation.
const ELEMENT_SIZE_MAX: usize = 256;
/// Bytes of a map that holds one tagged field.
const TAGGED_FIELD_SIZE_MAX: usize = 1024;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system's allocator with its arguments as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get() + layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes allocated, freed ones included, while decoding.
fn allocated(api_key: ApiKey, version: i16, body: &[u8]) -> usize {
    let body = Bytes::copy_from_slice(body);
    let before = ALLOCATED.get();
    let decoded = decode_request(api_key, version, body);
    let after = ALLOCATED.get();
    drop(decoded);
    after - before
}

fn decodable() -> Vec<(ApiKey, i16)> {
    let keys = ApiKey::ALL.iter();
    keys.flat_map(|key| (key.api().served_min..=key.api().max).map(|version| (*key, version))).collect()
}

#[test]
fn announced_counts_cost_nothing() {
    for (api_key, version) in decodable() {
        for announced in [[0x7f, 0xff, 0xff, 0xff].as_slice(), &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
            for at in 0..24 {
                let body = [&vec![0; at][..], announced, &[0; 8]].concat();
                let allocated = allocated(api_key, version, &body);
                assert!(allocated < 16 << 10, "{} {version}: {allocated} bytes", api_key.name());
            }
        }
    }
}

#[test]
fn the_largest_requests_stay_within_the_bound() {
    // CreateTopics 5: the largest elements, from ten bytes each. All empty; some with a tagged field.
    let elements = REQUEST_ELEMENTS_MAX as u32 + 1; // A compact array counts one more.
    let count = [elements as u8 | 0x80, (elements >> 7) as u8 | 0x80, (elements >> 14) as u8];
    let mut body = count.to_vec();
    for index in 0..REQUEST_ELEMENTS_MAX {
        body.extend([1, 0, 0, 0, 0, 0, 0, 1, 1]);
        match index < REQUEST_TAGGED_FIELDS_MAX {
            true => body.extend([1, 9, 0]),
            false => body.push(0),
        }
    }
    body.extend([0; 6]);
    let decoded = decode_request(ApiKey::CreateTopics, 5, body.clone().into());
    assert!(decoded.is_ok(), "{:?}", decoded.err());
    let bound = REQUEST_ELEMENTS_MAX * ELEMENT_SIZE_MAX + REQUEST_TAGGED_FIELDS_MAX * TAGGED_FIELD_SIZE_MAX;
    let allocated = allocated(ApiKey::CreateTopics, 5, &body);
    assert!(allocated < bound, "{allocated} bytes, {bound} are allowed");
    let counted = check_request(ApiKey::CreateTopics, 5, &body).expect("it was decoded").memory_size();
    assert!(allocated <= counted, "{allocated} bytes, {counted} are counted");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_allocate_in_proportion(at in 0..decodable().len(), body in vec(any::<u8>(), 0..200)) {
        let (api_key, version) = decodable()[at];
        let bound = body.len() * ELEMENT_SIZE_MAX + (16 << 10);
        let allocated = allocated(api_key, version, &body);
        prop_assert!(allocated < bound);
        if let Ok(checked) = check_request(api_key, version, &body) {
            prop_assert!(allocated <= checked.memory_size() + 512, "{} are counted", checked.memory_size());
        }
    }
}
