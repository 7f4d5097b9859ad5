//! The four codecs of a record batch's payload, as Kafka's clients write and read them.
//!
//! | codec | container | notes |
//! |---|---|---|
//! | gzip | one or several gzip members | |
//! | snappy | raw block, or xerial framing | Java and kafkajs write the framing, librdkafka the raw block; both are read, the framing is written |
//! | lz4 | lz4 frames | Java reads independent blocks only, so those are written |
//! | zstd | zstd frames | |
//!
//! Xerial framing, integers big-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `82 'SNAPPY' 00` |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | lowest version that can read it: 1 |
//! | 16 | 4 | bytes of the block that follows |
//! | 20 | | raw snappy block; then the next size and block, or the magic again |
//!
//! Both directions replace what `out` held, so that a caller keeps one scratch buffer. Output never
//! grows past the caller's bound, whatever the input claims. Absent: streaming, dictionaries.
//! Sources: snappy-java `SnappyOutputStream`; Kafka `Lz4BlockInputStream`; zstd RFC 8878.

use std::io::{Read, Write};

use zstd::zstd_safe;

use super::record_batch::Compression;

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Magic and the two versions.
const XERIAL_HEADER_SIZE: usize = 16;
/// Uncompressed bytes of one block; snappy-java's default.
const XERIAL_BLOCK_SIZE: usize = 32 << 10;

/// First guess at the size of an output whose container does not say it, as a multiple of the input.
const EXPANSION_GUESS: usize = 4;

/// Why a payload was not decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    #[error("the {} data are damaged", codec.name())]
    Corrupt { codec: Compression },
    #[error("the {} data expand to more than {size_max} bytes", codec.name())]
    TooLarge { codec: Compression, size_max: usize },
}

/// Replaces `out` by `input`, compressed with the codec's default level (Kafka's defaults).
pub fn compress(codec: Compression, input: &[u8], out: &mut Vec<u8>) {
    compress_at(codec, None, input, out);
}

/// The same, with a level of gzip (0 to 9) or zstd (-131072 to 22). Snappy and lz4 have one.
pub fn compress_at(codec: Compression, level: Option<i32>, input: &[u8], out: &mut Vec<u8>) {
    out.clear();
    match codec {
        Compression::None => out.extend_from_slice(input),
        Compression::Gzip => {
            let level = level.and_then(|level| u32::try_from(level).ok());
            let level = level.map_or_else(flate2::Compression::default, flate2::Compression::new);
            let mut encoder = flate2::write::GzEncoder::new(out, level);
            encoder.write_all(input).expect("writing to memory does not fail");
            encoder.finish().expect("writing to memory does not fail");
        }
        Compression::Snappy => compress_xerial(input, out),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(lz4_frame_info(), out);
            encoder.write_all(input).expect("writing to memory does not fail");
            encoder.finish().expect("writing to memory does not fail");
        }
        Compression::Zstd => {
            out.reserve(zstd_safe::compress_bound(input.len()));
            zstd_safe::compress(out, input, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL))
                .expect("the output holds the bound that zstd asked for");
        }
    }
}

/// Replaces `out` by the decompressed `input`; `out` never holds more than `size_max` bytes.
///
/// Errors: on any, `out` holds an unspecified part of the data.
pub fn decompress(
    codec: Compression,
    input: &[u8],
    size_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecompressError> {
    out.clear();
    match codec {
        Compression::None => {
            if input.len() > size_max {
                return Err(DecompressError::TooLarge { codec, size_max });
            }
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => read_bounded(codec, flate2::read::MultiGzDecoder::new(input), size_max, out),
        Compression::Snappy if input.starts_with(&XERIAL_MAGIC) => decompress_xerial(input, size_max, out),
        Compression::Snappy => append_snappy_block(input, size_max, out),
        Compression::Lz4 => decompress_lz4(input, size_max, out),
        Compression::Zstd => decompress_zstd(input, size_max, out),
    }
}

fn lz4_frame_info() -> lz4_flex::frame::FrameInfo {
    lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max64KB)
}

/// Appends what `decoder` gives. Reads one byte past the bound to tell "exactly full" from "too large".
fn read_bounded(
    codec: Compression,
    decoder: impl Read,
    size_max: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecompressError> {
    let limit = ((size_max - out.len()) as u64).saturating_add(1);
    decoder.take(limit).read_to_end(out).map_err(|_| DecompressError::Corrupt { codec })?;
    if out.len() > size_max {
        out.truncate(size_max);
        return Err(DecompressError::TooLarge { codec, size_max });
    }
    Ok(())
}

/// The library's decoder stops at the end of a frame.
fn decompress_lz4(mut input: &[u8], size_max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    loop {
        let before = input.len();
        read_bounded(Compression::Lz4, lz4_flex::frame::FrameDecoder::new(&mut input), size_max, out)?;
        if input.is_empty() {
            return Ok(());
        }
        if input.len() == before {
            return Err(DecompressError::Corrupt { codec: Compression::Lz4 });
        }
    }
}

fn compress_xerial(input: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_SIZE) {
        let size_at = out.len();
        let block_at = size_at + 4;
        out.resize(block_at + snap::raw::max_compress_len(block.len()), 0);
        let size = encoder.compress(block, &mut out[block_at..]).expect("the output holds the most it needs");
        out[size_at..block_at].copy_from_slice(&(size as i32).to_be_bytes());
        out.truncate(block_at + size);
    }
}

fn decompress_xerial(mut input: &[u8], size_max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    const CORRUPT: DecompressError = DecompressError::Corrupt { codec: Compression::Snappy };
    while !input.is_empty() {
        // Concatenated streams: the header comes again where a block size could stand.
        if input.starts_with(&XERIAL_MAGIC) {
            input = input.get(XERIAL_HEADER_SIZE..).ok_or(CORRUPT)?;
            continue;
        }
        let (size, rest) = input.split_first_chunk::<4>().ok_or(CORRUPT)?;
        let size = usize::try_from(i32::from_be_bytes(*size)).map_err(|_| CORRUPT)?;
        let (block, rest) = rest.split_at_checked(size).ok_or(CORRUPT)?;
        append_snappy_block(block, size_max, out)?;
        input = rest;
    }
    Ok(())
}

fn append_snappy_block(block: &[u8], size_max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let codec = Compression::Snappy;
    let size = snap::raw::decompress_len(block).map_err(|_| DecompressError::Corrupt { codec })?;
    let start = out.len();
    if size > size_max - start {
        return Err(DecompressError::TooLarge { codec, size_max });
    }
    // A block expands at most 64 to 3 (a three-byte copy of 64 bytes): a larger claim is a lie, and
    // memory is not touched for it.
    if size > block.len().saturating_mul(22) + 64 {
        return Err(DecompressError::Corrupt { codec });
    }
    out.resize(start + size, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]);
    match written {
        Ok(written) if written == size => Ok(()),
        Ok(_) | Err(_) => Err(DecompressError::Corrupt { codec }),
    }
}

/// In one shot into `out`, which needs no window buffer of the size that the frame asks for. Frames
/// that do not say their size are tried with doubling capacity, so at most twice the work.
fn decompress_zstd(input: &[u8], size_max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let codec = Compression::Zstd;
    let stated = match zstd_safe::get_frame_content_size(input) {
        Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
        Ok(None) | Err(_) => input.len().saturating_mul(EXPANSION_GUESS).max(4096),
    };
    let mut capacity = stated.min(size_max);
    let mut context = zstd_safe::DCtx::create();
    loop {
        out.clear();
        out.resize(capacity, 0);
        match context.decompress(&mut out[..], input) {
            Ok(size) => {
                out.truncate(size);
                return Ok(());
            }
            Err(error) if is_output_full(error) && capacity < size_max => {
                capacity = capacity.saturating_mul(2).clamp(4096.min(size_max), size_max);
            }
            Err(error) if is_output_full(error) => {
                return Err(DecompressError::TooLarge { codec, size_max });
            }
            Err(_) => return Err(DecompressError::Corrupt { codec }),
        }
    }
}

/// `ZSTD_error_dstSize_tooSmall`, as the library's own negated code.
fn is_output_full(error: zstd_safe::ErrorCode) -> bool {
    error == 0usize.wrapping_sub(zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exactly_the_bound_is_let_through_and_one_more_is_not() {
        let input = vec![7u8; 100_000];
        for codec in Compression::ALL {
            let packed = compressed(codec, &input);
            let mut out = Vec::new();
            assert_eq!(decompress(codec, &packed, input.len(), &mut out), Ok(()), "{codec:?}");
            assert_eq!(out, input);
            let size_max = input.len() - 1;
            let refused = decompress(codec, &packed, size_max, &mut out);
            assert_eq!(refused, Err(DecompressError::TooLarge { codec, size_max }));
            assert!(out.len() <= size_max);
        }
    }

    #[test]
    fn bombs_stop_at_the_bound() {
        let input = vec![0u8; 64 << 20];
        for codec in Compression::ALL {
            let packed = compressed(codec, &input);
            let mut out = Vec::new();
            let refused = decompress(codec, &packed, 1 << 20, &mut out);
            assert_eq!(refused, Err(DecompressError::TooLarge { codec, size_max: 1 << 20 }));
            assert!(out.capacity() <= 4 << 20, "{codec:?} grew to {}", out.capacity());
        }
    }

    #[test]
    fn raw_snappy_is_read() {
        let raw = snap::raw::Encoder::new().compress_vec(b"what librdkafka writes").unwrap();
        let mut out = Vec::new();
        assert_eq!(decompress(Compression::Snappy, &raw, 1000, &mut out), Ok(()));
        assert_eq!(out, b"what librdkafka writes");
    }

    #[test]
    fn concatenated_xerial_streams_are_read() {
        let mut both = compressed(Compression::Snappy, b"one, ");
        both.extend(compressed(Compression::Snappy, b"two"));
        let mut out = Vec::new();
        assert_eq!(decompress(Compression::Snappy, &both, 1000, &mut out), Ok(()));
        assert_eq!(out, b"one, two");
    }

    #[test]
    fn concatenated_frames_are_read() {
        for codec in [Compression::Gzip, Compression::Zstd, Compression::Lz4] {
            let mut both = compressed(codec, b"one, ");
            both.extend(compressed(codec, b"two"));
            let mut out = Vec::new();
            assert_eq!(decompress(codec, &both, 1000, &mut out), Ok(()), "{codec:?}");
            assert_eq!(out, b"one, two", "{codec:?}");
        }
    }

    #[test]
    fn a_zstd_frame_of_unknown_size_is_read() {
        let input = vec![9u8; 3 << 20];
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.write_all(&input).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(zstd_safe::get_frame_content_size(&packed).ok(), Some(None));
        let mut out = Vec::new();
        assert_eq!(decompress(Compression::Zstd, &packed, 4 << 20, &mut out), Ok(()));
        assert_eq!(out, input);
    }

    #[test]
    fn a_cut_payload_is_corrupt() {
        let input: Vec<u8> =
            (0..50_000u32).flat_map(|i| (i.wrapping_mul(2654435761) >> 7).to_le_bytes()).collect();
        for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
            let packed = compressed(codec, &input);
            let mut out = Vec::new();
            let cut = decompress(codec, &packed[..packed.len() - 9], 1 << 20, &mut out);
            assert_eq!(cut, Err(DecompressError::Corrupt { codec }));
        }
    }

    #[test]
    fn levels_are_taken_where_there_are_any() {
        let input: Vec<u8> = (0..100_000u32).flat_map(|i| (i / 7 % 1000).to_le_bytes()).collect();
        let at = |codec, level| {
            let (mut packed, mut out) = (Vec::new(), Vec::new());
            compress_at(codec, Some(level), &input, &mut packed);
            decompress(codec, &packed, input.len(), &mut out).unwrap();
            assert_eq!(out, input);
            packed.len()
        };
        assert!(at(Compression::Gzip, 9) < at(Compression::Gzip, 1));
        assert_eq!(at(Compression::Gzip, -1), compressed(Compression::Gzip, &input).len());
        assert!(at(Compression::Zstd, 19) < at(Compression::Zstd, -50));
        assert_eq!(at(Compression::Lz4, 17), at(Compression::Lz4, 1));
    }

    proptest! {
        #[test]
        fn every_codec_returns_what_it_was_given(input in proptest::collection::vec(0u8..8, 0..100_000)) {
            let mut out = Vec::new();
            for codec in Compression::ALL {
                decompress(codec, &compressed(codec, &input), input.len(), &mut out).unwrap();
                prop_assert_eq!(&out, &input);
            }
        }

        #[test]
        fn garbage_stays_inside_the_bound(
            codec in proptest::sample::select(&Compression::ALL[..]),
            keep in 0usize..40,
            garbage in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut bytes = compressed(codec, b"a valid start, a valid start, a valid start");
            bytes.truncate(keep);
            bytes.extend(garbage);
            let mut out = Vec::new();
            let _ = decompress(codec, &bytes, 1000, &mut out);
            prop_assert!(out.len() <= 1000);
        }
    }

    fn compressed(codec: Compression, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(codec, input, &mut out);
        out
    }
}
