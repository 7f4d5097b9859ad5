//! Record batches, as they come from a client or a disk, and the records in them.
//!
//! Input: batches, one after the other. Each is also tried with its CRC made right, as no fuzzer
//! guesses one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use odradek::codec::compression::decompress;
use odradek::codec::record_batch::{BatchView, assign_offset, seal, stamp_append_time};
use odradek::codec::records::Records;
use odradek::types::{LeaderEpoch, Offset, Timestamp};

/// Bytes that a payload may expand to here; the bound itself is what is tested.
const DECOMPRESSED_SIZE_MAX: usize = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok((batch, after)) = BatchView::split_first(rest) {
        assert_eq!(batch.size() + after.len(), rest.len());
        read(&batch);
        let mut sealed = batch.bytes().to_vec();
        seal(&mut sealed);
        let (sealed_view, nothing) = BatchView::split_first(&sealed).expect("only the CRC changed");
        assert!(nothing.is_empty());
        read(&sealed_view);
        if sealed_view.validate_produced().is_ok() {
            append(sealed);
        }
        rest = after;
    }
});

fn read(batch: &BatchView<'_>) {
    let _ = (batch.validate(), batch.validate_produced(), batch.validate_stored());
    let _ = (batch.last_offset(), batch.end_offset(), batch.producer(), batch.max_timestamp());
    let _ = (batch.is_log_append_time(), batch.is_transactional(), batch.is_control());
    let Some(codec) = batch.compression() else { return };
    let mut payload = Vec::new();
    let decompressed = decompress(codec, batch.payload(), DECOMPRESSED_SIZE_MAX, &mut payload);
    assert!(payload.len() <= DECOMPRESSED_SIZE_MAX);
    if decompressed.is_err() {
        return;
    }
    let mut read = 0;
    for record in Records::new(&payload, batch.record_count()) {
        let Ok(record) = record else { return };
        read += 1;
        assert_eq!(record.headers().count(), record.header_count() as usize);
    }
    assert_eq!(read, batch.record_count());
}

/// What the broker does with a batch that it accepted keeps it whole.
fn append(mut batch: Vec<u8>) {
    assign_offset(&mut batch, Offset::new(1000).expect("a small offset"), LeaderEpoch(3));
    let (view, _) = BatchView::split_first(&batch).expect("offset and epoch do not change the size");
    assert_eq!(view.validate_stored(), Ok(()));
    assert_eq!(view.base_offset().get(), 1000);
    stamp_append_time(&mut batch, Timestamp(7));
    let (view, _) = BatchView::split_first(&batch).expect("timestamps do not change the size");
    assert_eq!(view.validate_stored(), Ok(()));
    assert!(view.is_log_append_time());
}
