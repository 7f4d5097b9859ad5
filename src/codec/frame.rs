//! Length-prefixed frames and the headers inside them.
//!
//! | offset | size | field of a request | |
//! |---|---|---|---|
//! | 0 | 4 | size of what follows | |
//! | 4 | 2 | API key | |
//! | 6 | 2 | API version | |
//! | 8 | 4 | correlation id | the answer carries it back |
//! | 12 | 2 + n | client id, nullable | a classic string in every version |
//! | | 1 + n | tagged fields | header version 2 only: the API's flexible versions |
//! | | | body | |
//!
//! | offset | size | field of a response | |
//! |---|---|---|---|
//! | 0 | 4 | size of what follows | |
//! | 4 | 4 | correlation id | |
//! | 8 | 1 | tagged fields: none | header version 1 only: flexible versions, but never ApiVersions |
//! | | | body | |
//!
//! Absent: request header version 0, which only ControlledShutdown 0 had. Whether a version is
//! served is asked of [`versions`](super::api::versions) afterwards; a header is readable in any
//! version. Source: Kafka `RequestHeader`, `NetworkReceive`, KIP-482, KIP-511.

use std::ops::Range;

use crate::codec::api::versions::ApiKey;
use crate::codec::wire::{Encoding, Reader, WireError, Writer};
pub use crate::types::limits::FRAME_PREFIX_SIZE;

/// Bytes of the smallest request: a header version 1 with a null client id, and no body.
pub const REQUEST_SIZE_MIN: usize = 10;

/// What stands at the start of the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole frame; `body` is its place without the prefix. The next frame starts at `body.end`.
    Complete { body: Range<usize> },
    /// The frame, prefix included, takes `size` bytes in all; not known further than the prefix
    /// until that is there.
    Need { size: usize },
}

/// Why a connection cannot be read on: its frames are lost for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame's size is {size}")]
    Negative { size: i32 },
    #[error("a frame of {size} bytes is too short for a request header")]
    TooShort { size: usize },
    #[error("a frame of {size} bytes is larger than socket.request.max.bytes ({size_max})")]
    TooLarge { size: usize, size_max: usize },
}

/// Finds the first request frame in `bytes`. O(1); call again from `body.end` for the next one.
///
/// Units: `size_max` in bytes, without the prefix (`socket.request.max.bytes`).
pub fn next_frame(bytes: &[u8], size_max: usize) -> Result<Frame, FrameError> {
    let Some(prefix) = bytes.first_chunk::<FRAME_PREFIX_SIZE>() else {
        return Ok(Frame::Need { size: FRAME_PREFIX_SIZE });
    };
    let size = i32::from_be_bytes(*prefix);
    let size = usize::try_from(size).map_err(|_| FrameError::Negative { size })?;
    if size < REQUEST_SIZE_MIN {
        return Err(FrameError::TooShort { size });
    }
    if size > size_max {
        return Err(FrameError::TooLarge { size, size_max });
    }
    let end = FRAME_PREFIX_SIZE + size;
    if bytes.len() < end {
        return Ok(Frame::Need { size: end });
    }
    Ok(Frame::Complete { body: FRAME_PREFIX_SIZE..end })
}

/// What a request says about itself, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    pub api_key: ApiKey,
    /// As sent; ask [`ApiKey::admit`] whether it is served.
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<&'a str>,
}

/// Why a request cannot be answered. Kafka closes the connection, and so do we: without a header
/// version there is no telling where the body starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("API key {api_key} is not offered")]
    UnknownApi { api_key: i16 },
    #[error("the request header is malformed: {0}")]
    Malformed(#[from] WireError),
}

/// Parses the header of a request and returns it with the request's body.
pub fn parse_request_header(frame: &[u8]) -> Result<(RequestHeader<'_>, &[u8]), HeaderError> {
    let mut reader = Reader::new(frame, Encoding::Classic);
    let api_key = reader.i16()?;
    let api_version = reader.i16()?;
    let correlation_id = reader.i32()?;
    let api_key = ApiKey::from_wire(api_key).ok_or(HeaderError::UnknownApi { api_key })?;
    let client_id = reader.nullable_str()?;
    reader = reader.with_encoding(api_key.encoding(api_version));
    reader.skip_tagged_fields()?;
    let header = RequestHeader { api_key, api_version, correlation_id, client_id };
    Ok((header, &frame[reader.at()..]))
}

/// A response frame that is being written; its length is known only at the end.
#[derive(Debug)]
#[must_use]
pub struct ResponseFrame {
    start: usize,
}

impl ResponseFrame {
    /// Appends the prefix, still zero, and the response header.
    pub fn begin(out: &mut Vec<u8>, api_key: ApiKey, api_version: i16, correlation_id: i32) -> ResponseFrame {
        let start = out.len();
        let mut writer = Writer::new(out, api_key.response_header_encoding(api_version));
        writer.i32(0);
        writer.i32(correlation_id);
        writer.no_tagged_fields();
        ResponseFrame { start }
    }

    /// Fills in the prefix. `spliced` counts bytes that the sender puts between those of `out`.
    pub fn end(self, out: &mut [u8], spliced: usize) {
        let size = out.len() - self.start - FRAME_PREFIX_SIZE + spliced;
        let size = i32::try_from(size).expect("a response is bounded far below 2 GiB");
        out[self.start..self.start + FRAME_PREFIX_SIZE].copy_from_slice(&size.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::messages::RequestHeader as LibraryHeader;
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use proptest::prelude::*;

    const SIZE_MAX: usize = 1000;

    #[test]
    fn prefix_then_body_are_asked_for() {
        assert_eq!(next_frame(&[], SIZE_MAX), Ok(Frame::Need { size: 4 }));
        assert_eq!(next_frame(&[0, 0, 0], SIZE_MAX), Ok(Frame::Need { size: 4 }));
        assert_eq!(next_frame(&[0, 0, 0, 12, 1], SIZE_MAX), Ok(Frame::Need { size: 16 }));
        let two = [[0, 0, 0, 10].as_slice(), &[7; 10], &[0, 0]].concat();
        assert_eq!(next_frame(&two, SIZE_MAX), Ok(Frame::Complete { body: 4..14 }));
        assert_eq!(next_frame(&two[14..], SIZE_MAX), Ok(Frame::Need { size: 4 }));
    }

    #[test]
    fn impossible_sizes_are_refused_at_the_prefix() {
        let error = |size: i32| next_frame(&size.to_be_bytes(), SIZE_MAX).err();
        assert_eq!(error(-1), Some(FrameError::Negative { size: -1 }));
        assert_eq!(error(i32::MIN), Some(FrameError::Negative { size: i32::MIN }));
        assert_eq!(error(0), Some(FrameError::TooShort { size: 0 }));
        assert_eq!(error(9), Some(FrameError::TooShort { size: 9 }));
        assert_eq!(error(10), None);
        assert_eq!(error(1000), None);
        assert_eq!(error(1001), Some(FrameError::TooLarge { size: 1001, size_max: SIZE_MAX }));
        assert_eq!(
            error(i32::MAX),
            Some(FrameError::TooLarge { size: i32::MAX as usize, size_max: SIZE_MAX })
        );
    }

    #[test]
    fn headers_of_both_versions_are_read_as_the_library_writes_them() {
        for api in ApiKey::ALL {
            for version in 0..=15 {
                for client_id in [None, Some(""), Some("rdkafka")] {
                    let flexible = api.encoding(version) == Encoding::Compact;
                    let mut frame = BytesMut::new();
                    let header = LibraryHeader::default()
                        .with_request_api_key(api.to_wire())
                        .with_request_api_version(version)
                        .with_correlation_id(77)
                        .with_client_id(client_id.map(StrBytes::from_static_str));
                    header.encode(&mut frame, if flexible { 2 } else { 1 }).unwrap();
                    frame.extend_from_slice(b"body");
                    let (parsed, body) = parse_request_header(&frame).unwrap();
                    let expected =
                        RequestHeader { api_key: *api, api_version: version, correlation_id: 77, client_id };
                    assert_eq!(parsed, expected);
                    assert_eq!(body, b"body");
                }
            }
        }
    }

    #[test]
    fn tagged_fields_of_a_header_are_passed_over() {
        let header = [0, 18, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
        let frame = [header.as_slice(), &[2, 0, 1, 9, 5, 0], b"body"].concat();
        let (_, body) = parse_request_header(&frame).unwrap();
        assert_eq!(body, b"body");
        let truncated = [header.as_slice(), &[1, 0, 9, 1]].concat();
        assert!(matches!(parse_request_header(&truncated), Err(HeaderError::Malformed(_))));
    }

    #[test]
    fn unknown_api_key_is_refused() {
        let frame = [0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
        assert_eq!(parse_request_header(&frame), Err(HeaderError::UnknownApi { api_key: 0x7f00 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_a_header(frame in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = next_frame(&frame, SIZE_MAX);
            if let Ok((_, body)) = parse_request_header(&frame) {
                prop_assert!(frame.ends_with(body));
            }
        }

        #[test]
        fn known_keys_with_any_rest_do_not_panic(
            key in 0..ApiKey::ALL.len(), rest in proptest::collection::vec(any::<u8>(), 0..60)
        ) {
            let frame = [&ApiKey::ALL[key].to_wire().to_be_bytes(), rest.as_slice()].concat();
            let _ = parse_request_header(&frame);
        }
    }
}
