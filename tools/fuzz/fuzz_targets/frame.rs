//! Frames and request headers, however the bytes arrive.
//!
//! Input: one byte of chunk size, then what a client sends. Frames found chunk by chunk must be
//! those found in the whole.
#![no_main]

use std::ops::Range;

use libfuzzer_sys::fuzz_target;
use odradek::codec::frame::{FRAME_PREFIX_SIZE, Frame, FrameError, next_frame, parse_request_header};

const SIZE_MAX: usize = 32 << 10;

fuzz_target!(|input: &[u8]| {
    let Some((chunk, stream)) = input.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    let chunked = frames(stream, usize::from(*chunk).max(1));
    assert_eq!(whole, chunked);
    for body in whole.0 {
        let frame = &stream[body];
        if let Ok((_, rest)) = parse_request_header(frame) {
            assert!(frame.ends_with(rest));
        }
    }
});

/// The places of all frames, and the error that ended them.
fn frames(stream: &[u8], chunk: usize) -> (Vec<Range<usize>>, Option<FrameError>) {
    let mut found = Vec::new();
    let (mut start, mut end) = (0, 0);
    loop {
        match next_frame(&stream[start..end], SIZE_MAX) {
            Ok(Frame::Complete { body }) => {
                assert_eq!(body.start, FRAME_PREFIX_SIZE);
                assert!(start + body.end <= end);
                found.push(start + body.start..start + body.end);
                start += body.end;
            }
            Ok(Frame::Need { size }) => {
                assert!(size > end - start, "asked for what is there");
                assert!(size <= SIZE_MAX + FRAME_PREFIX_SIZE);
                if end == stream.len() {
                    return (found, None);
                }
                end = (end + chunk).min(stream.len());
            }
            Err(error) => return (found, Some(error)),
        }
    }
}
