//! The frames between nodes: a fixed header, a FlatBuffers table, raw payload.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 4 | magic | `ODRK` |
//! | 4 | 1 | layout | of this header: 1 |
//! | 5 | 1 | kind | which table follows |
//! | 6 | 2 | version | of the messages, as both sides have agreed |
//! | 8 | 4 | table size | bytes |
//! | 12 | 4 | payload size | bytes |
//! | 16 | 4 | checksum | CRC-32 of the header before it |
//! | 20 | 4 | checksum | CRC-32 of table and payload |
//! | 24 | | table, payload | |
//!
//! All little-endian, as FlatBuffers are. The header has a checksum of its own so that a damaged size is found
//! out at once, and not waited for. Nothing of a table is looked at before its checksum and the FlatBuffers
//! verifier have passed it.

use crate::types::limits::{PEER_PAYLOAD_SIZE_MAX, PEER_TABLE_SIZE_MAX};
use std::ops::Range;

/// Bytes.
pub const PEER_HEADER_SIZE: usize = 24;

const MAGIC: [u8; 4] = *b"ODRK";
const LAYOUT: u8 = 1;

/// What a frame says. Numbers are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PeerKind {
    Greeting = 1,
    Statements = 2,
    Alignments = 3,
    Appends = 4,
    Acknowledgements = 5,
    Registration = 6,
    Registered = 7,
    Heartbeat = 8,
    HeartbeatAnswer = 9,
    AlterPartitions = 10,
    AlteredPartitions = 11,
    Quorum = 12,
    Question = 13,
    Answer = 14,
}

impl PeerKind {
    pub const ALL: [PeerKind; 14] = [
        PeerKind::Greeting,
        PeerKind::Statements,
        PeerKind::Alignments,
        PeerKind::Appends,
        PeerKind::Acknowledgements,
        PeerKind::Registration,
        PeerKind::Registered,
        PeerKind::Heartbeat,
        PeerKind::HeartbeatAnswer,
        PeerKind::AlterPartitions,
        PeerKind::AlteredPartitions,
        PeerKind::Quorum,
        PeerKind::Question,
        PeerKind::Answer,
    ];

    fn from_wire(kind: u8) -> Option<PeerKind> {
        PeerKind::ALL.into_iter().find(|known| *known as u8 == kind)
    }
}

/// What stands at the start of the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerFrame {
    /// More is needed: the frame takes `size` bytes in all, or its header does.
    Need { size: usize },
    /// Whole, its checksums right. The next one starts where the payload ends.
    Complete { kind: PeerKind, version: u16, table: Range<usize>, payload: Range<usize> },
}

/// Why a connection between nodes cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerFrameError {
    #[error("no frame of ours: it starts with {0:?}")]
    Magic([u8; 4]),
    #[error("header layout {0} is unknown")]
    Layout(u8),
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    #[error("the checksum of the header is wrong")]
    HeaderChecksum,
    #[error("a table of {table} and a payload of {payload} bytes are too large")]
    TooLarge { table: usize, payload: usize },
    #[error("the checksum of the frame is wrong")]
    Checksum,
}

/// Finds the first frame in `bytes`. O(1) until it is whole, then one pass over it.
pub fn next_peer_frame(bytes: &[u8]) -> Result<PeerFrame, PeerFrameError> {
    let Some(header) = bytes.first_chunk::<PEER_HEADER_SIZE>() else {
        return Ok(PeerFrame::Need { size: PEER_HEADER_SIZE });
    };
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..4] != MAGIC {
        return Err(PeerFrameError::Magic([header[0], header[1], header[2], header[3]]));
    }
    if crc32fast::hash(&header[..16]) != u32_at(16) {
        return Err(PeerFrameError::HeaderChecksum);
    }
    if header[4] != LAYOUT {
        return Err(PeerFrameError::Layout(header[4]));
    }
    let kind = PeerKind::from_wire(header[5]).ok_or(PeerFrameError::Kind(header[5]))?;
    let version = u16::from_le_bytes([header[6], header[7]]);
    let (table, payload) = (u32_at(8) as usize, u32_at(12) as usize);
    if table > PEER_TABLE_SIZE_MAX || payload > PEER_PAYLOAD_SIZE_MAX {
        return Err(PeerFrameError::TooLarge { table, payload });
    }
    let table_end = PEER_HEADER_SIZE + table;
    let end = table_end + payload;
    let Some(body) = bytes.get(PEER_HEADER_SIZE..end) else {
        return Ok(PeerFrame::Need { size: end });
    };
    if crc32fast::hash(body) != u32_at(20) {
        return Err(PeerFrameError::Checksum);
    }
    Ok(PeerFrame::Complete { kind, version, table: PEER_HEADER_SIZE..table_end, payload: table_end..end })
}

/// Appends the header and the table of a frame whose payload, in pieces, the caller sends behind it.
pub fn begin_peer_frame<'a>(
    kind: PeerKind,
    version: u16,
    table: &[u8],
    payload: impl IntoIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    let mut body = crc32fast::Hasher::new();
    body.update(table);
    let mut payload_size = 0;
    for piece in payload {
        body.update(piece);
        payload_size += piece.len();
    }
    assert!(table.len() <= PEER_TABLE_SIZE_MAX, "whoever fills a table stops in time");
    assert!(payload_size <= PEER_PAYLOAD_SIZE_MAX);
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[LAYOUT, kind as u8]);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&(table.len() as u32).to_le_bytes());
    out.extend_from_slice(&(payload_size as u32).to_le_bytes());
    let header = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&header.to_le_bytes());
    out.extend_from_slice(&body.finalize().to_le_bytes());
    out.extend_from_slice(table);
}

/// The newest version of the messages that both sides understand.
pub fn agree_on_version(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let newest = ours.1.min(theirs.1);
    (newest >= ours.0 && newest >= theirs.0).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    fn frame(kind: PeerKind, table: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        begin_peer_frame(kind, 1, table, [payload], &mut out);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn golden_bytes() {
        let bytes = frame(PeerKind::Appends, b"table", b"payload");
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect![[r#"
            4f 44 52 4b 01 04 01 00
            05 00 00 00 07 00 00 00
            bd 87 00 81 55 88 cd e5
            74 61 62 6c 65 70 61 79
            6c 6f 61 64"#]]
        .assert_eq(&hex.chunks(8).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn newest_common_version_is_agreed_upon() {
        assert_eq!(agree_on_version((1, 3), (2, 5)), Some(3));
        assert_eq!(agree_on_version((1, 3), (1, 1)), Some(1));
        assert_eq!(agree_on_version((2, 3), (1, 1)), None);
        assert_eq!(agree_on_version((1, 1), (2, 3)), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_every_flipped_bit_is_noticed(
            kind in 0..PeerKind::ALL.len(),
            table in proptest::collection::vec(any::<u8>(), 0..40),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            flip in any::<prop::sample::Index>(),
        ) {
            let kind = PeerKind::ALL[kind];
            let mut bytes = frame(kind, &table, &payload);
            let table_end = PEER_HEADER_SIZE + table.len();
            let whole = PeerFrame::Complete {
                kind,
                version: 1,
                table: PEER_HEADER_SIZE..table_end,
                payload: table_end..bytes.len(),
            };
            prop_assert_eq!(next_peer_frame(&bytes), Ok(whole));
            for size in 0..bytes.len() {
                let need = if size < PEER_HEADER_SIZE { PEER_HEADER_SIZE } else { bytes.len() };
                prop_assert_eq!(next_peer_frame(&bytes[..size]), Ok(PeerFrame::Need { size: need }));
            }
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(next_peer_frame(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_whole(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = next_peer_frame(&bytes);
            let mut ours = MAGIC.to_vec();
            ours.extend(bytes);
            let _ = next_peer_frame(&ours);
        }
    }
}
