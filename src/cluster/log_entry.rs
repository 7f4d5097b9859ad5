//! The frame around an entry of the metadata log, and where a file of entries ends.
//!
//! An entry is one atomic change: several records that take effect together. Entries start at
//! multiples of [`IO_ALIGNMENT`] and are padded with zeros to the next one, so that appending never
//! rewrites a sector that holds an acknowledged entry. Little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic, [`MAGIC`] |
//! | 4 | 4 | payload length in bytes |
//! | 8 | 8 | sequence: one more than the entry before |
//! | 16 | 4 | format version of this frame, 0 |
//! | 20 | 4 | `crc32fast` over bytes 0..20 and the payload |
//! | 24 | length | payload: FlatBuffers `quorum.Write` or `metadata.Entry` |
//! | | | zeros to the next multiple of `IO_ALIGNMENT` |
//!
//! What the writer promises: entry n + 1 is written after entry n is flushed, and the file is cut
//! to its valid end before anything is appended after a start. So a damaged entry with a valid
//! later one behind it was acknowledged: corruption. Without one it is a write that never finished.
//! What the payloads of today's logs are is [`quorum::frame`](super::quorum::frame)'s to say; those of a build
//! before the quorum were a `metadata.Entry` each.

use std::fmt;

use super::encoding::{self, DecodeError};
use super::record::Record;
use crate::types::limits::{IO_ALIGNMENT, METADATA_ENTRY_SIZE_MAX, METADATA_RECORDS_PER_ENTRY_MAX};

/// "ODMD".
pub const MAGIC: u32 = u32::from_le_bytes(*b"ODMD");

pub const HEADER_SIZE: usize = 24;

const FORMAT_VERSION: u32 = 0;
const CHECKSUM_AT: usize = 20;

/// Position of an entry in the log over all its files. From 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntrySequence(pub u64);

impl EntrySequence {
    pub const FIRST: EntrySequence = EntrySequence(1);

    pub const fn next(self) -> EntrySequence {
        EntrySequence(self.0 + 1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing but zeros after `valid_end`.
    Clean,
    /// The last write never finished: nobody was told of it. Cut the file to `valid_end`, say so.
    TornTail { damage: Damage },
    /// An acknowledged entry is damaged. The node must not start from this file.
    Corrupt { damage: Damage },
    /// Intact, but this build cannot know what it means. The node must not start.
    Unreadable { sequence: EntrySequence, error: DecodeError },
}

/// What is wrong with the bytes at `valid_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    Magic { found: u32 },
    Length { found: u32 },
    CutShort { wanted: usize, left: usize },
    Format { found: u32 },
    Checksum { found: u32, computed: u32 },
    Sequence { found: EntrySequence, expected: EntrySequence },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Magic { found } => write!(f, "no entry starts here (magic {found:#010x})"),
            Damage::Length { found } => write!(f, "entry length {found} is out of range"),
            Damage::CutShort { wanted, left } => write!(f, "entry needs {wanted} bytes, {left} are left"),
            Damage::Format { found } => write!(f, "frame format {found} is unknown"),
            Damage::Checksum { found, computed } => {
                write!(f, "entry checksum is {found:#010x}, its bytes give {computed:#010x}")
            }
            Damage::Sequence { found, expected } => {
                write!(f, "entry {} where {} belongs", found.0, expected.0)
            }
        }
    }
}

/// Why records cannot be written as one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("{0} records in one change, allowed are {METADATA_RECORDS_PER_ENTRY_MAX}")]
    TooManyRecords(usize),
    #[error("a change of {0} bytes, allowed are {METADATA_ENTRY_SIZE_MAX}")]
    TooLarge(usize),
}

/// The bytes of one entry, padded: a whole number of aligned sectors.
pub fn encode_entry(sequence: EntrySequence, records: &[Record]) -> Result<Vec<u8>, EncodeError> {
    if records.len() > METADATA_RECORDS_PER_ENTRY_MAX {
        return Err(EncodeError::TooManyRecords(records.len()));
    }
    encode_frame(sequence, &encoding::encode(records))
}

/// A payload in its frame, padded.
pub(super) fn encode_frame(sequence: EntrySequence, payload: &[u8]) -> Result<Vec<u8>, EncodeError> {
    if payload.len() > METADATA_ENTRY_SIZE_MAX {
        return Err(EncodeError::TooLarge(payload.len()));
    }
    let mut bytes = Vec::with_capacity((HEADER_SIZE + payload.len()).next_multiple_of(IO_ALIGNMENT));
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sequence.0.to_le_bytes());
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    let checksum = checksum(&bytes, payload);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    assert_eq!(bytes.len(), HEADER_SIZE);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(IO_ALIGNMENT), 0);
    Ok(bytes)
}

/// Hands over the payload of every frame before `valid_end`, which is returned, until one is refused.
pub(super) fn scan_frames(
    bytes: &[u8],
    mut take: impl FnMut(EntrySequence, &[u8]) -> Result<(), DecodeError>,
) -> (usize, Verdict) {
    let mut last: Option<EntrySequence> = None;
    let mut valid_end = 0;
    let verdict = loop {
        let rest = &bytes[valid_end.min(bytes.len())..];
        if rest.iter().all(|&byte| byte == 0) {
            break Verdict::Clean;
        }
        let expected = last.map(EntrySequence::next);
        let (sequence, payload) = match read_frame(rest, expected) {
            Ok(frame) => frame,
            Err(damage) if valid_entry_follows(rest, expected) => break Verdict::Corrupt { damage },
            // An intact entry out of sequence was written by nobody we know of: not a torn write.
            Err(damage @ Damage::Sequence { .. }) => break Verdict::Corrupt { damage },
            Err(damage) => break Verdict::TornTail { damage },
        };
        if let Err(error) = take(sequence, payload) {
            break Verdict::Unreadable { sequence, error };
        }
        last = Some(sequence);
        valid_end += (HEADER_SIZE + payload.len()).next_multiple_of(IO_ALIGNMENT);
    };
    (valid_end, verdict)
}

/// Why there is no entry at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoEntry {
    Damaged(Damage),
    /// Intact, but this build cannot know what it means.
    Unreadable {
        sequence: EntrySequence,
        error: DecodeError,
    },
}

/// Bytes of the entry with this header, without its padding: what is read of it. For readers
/// that do not hold the whole file.
pub fn entry_size(header: &[u8; HEADER_SIZE]) -> Result<usize, Damage> {
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(0) != MAGIC {
        return Err(Damage::Magic { found: word(0) });
    }
    let length = word(4);
    if length == 0 || length as usize > METADATA_ENTRY_SIZE_MAX {
        return Err(Damage::Length { found: length });
    }
    Ok(HEADER_SIZE + length as usize)
}

/// The entry at the start of `bytes`, checksum verified. `expected`: `None` takes any sequence.
pub(super) fn read_frame(
    bytes: &[u8],
    expected: Option<EntrySequence>,
) -> Result<(EntrySequence, &[u8]), Damage> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
        return Err(Damage::CutShort { wanted: HEADER_SIZE, left: bytes.len() });
    };
    let length = entry_size(header)? - HEADER_SIZE;
    let Some(payload) = rest.get(..length) else {
        return Err(Damage::CutShort { wanted: length, left: rest.len() });
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let computed = checksum(&header[..CHECKSUM_AT], payload);
    let found = word(CHECKSUM_AT);
    if found != computed {
        return Err(Damage::Checksum { found, computed });
    }
    if word(16) != FORMAT_VERSION {
        return Err(Damage::Format { found: word(16) });
    }
    let sequence = EntrySequence(u64::from(word(8)) | u64::from(word(12)) << 32);
    match expected {
        Some(expected) if expected != sequence => Err(Damage::Sequence { found: sequence, expected }),
        _ => Ok((sequence, payload)),
    }
}

/// Whether an intact entry newer than the expected one stands behind damage.
fn valid_entry_follows(bytes: &[u8], expected: Option<EntrySequence>) -> bool {
    let mut sectors = (IO_ALIGNMENT..bytes.len()).step_by(IO_ALIGNMENT);
    sectors.any(|position| match read_frame(&bytes[position..], None) {
        Ok((sequence, _)) => expected.is_none_or(|expected| sequence > expected),
        Err(_) => false,
    })
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

const _: () = assert!(CHECKSUM_AT + 4 == HEADER_SIZE);
const _: () = assert!(METADATA_ENTRY_SIZE_MAX <= u32::MAX as usize);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::types::{TopicId, Uuid};
    use proptest::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Entry {
        pub sequence: EntrySequence,
        pub records: Vec<Record>,
    }

    /// What a build before the quorum found in a file of entries.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Scan {
        /// The entries before `valid_end`, in order, consecutive.
        pub entries: Vec<Entry>,
        /// Bytes, exclusive, a multiple of [`IO_ALIGNMENT`]: where the next entry goes.
        pub valid_end: usize,
        pub verdict: Verdict,
    }

    /// As a build before the quorum read a file.
    pub fn scan(bytes: &[u8]) -> Scan {
        let mut entries: Vec<Entry> = Vec::new();
        let (valid_end, verdict) = scan_frames(bytes, |sequence, payload| {
            entries.push(Entry { sequence, records: encoding::decode(payload)? });
            Ok(())
        });
        Scan { entries, valid_end, verdict }
    }

    fn change(number: u64, name_length: usize) -> Vec<Record> {
        vec![Record::TopicCreated {
            topic: TopicId(Uuid::from_u128(u128::from(number))),
            name: "x".repeat(name_length),
        }]
    }

    /// A file of entries 1, 2, .. whose payloads have about these sizes.
    fn file(sizes: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (sequence, &size) in (1..).zip(sizes) {
            bytes.extend(encode_entry(EntrySequence(sequence), &change(sequence, size)).expect("small"));
        }
        bytes
    }

    #[test]
    fn entries_are_read_back_in_order() {
        let scan = scan(&file(&[10, 5000, 10]));
        assert_eq!(scan.verdict, Verdict::Clean);
        assert_eq!(scan.entries.iter().map(|entry| entry.sequence.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(scan.entries[1].records, change(2, 5000));
        let bytes = file(&[10]);
        let size = entry_size(bytes.first_chunk().expect("a header")).expect("whole");
        let (sequence, payload) = read_frame(&bytes[..size], None).expect("without its padding");
        assert_eq!((sequence, encoding::decode(payload)), (EntrySequence(1), Ok(change(1, 10))));
        let early = read_frame(&bytes, Some(EntrySequence(9)));
        assert!(matches!(early, Err(Damage::Sequence { .. })), "{early:?}");
        assert_eq!(scan.valid_end, 4 * IO_ALIGNMENT);
    }

    #[test]
    fn empty_and_preallocated_files_are_clean() {
        assert_eq!(scan(&[]).verdict, Verdict::Clean);
        let mut bytes = file(&[10]);
        bytes.resize(bytes.len() + 3 * IO_ALIGNMENT, 0);
        let scan = scan(&bytes);
        assert_eq!((scan.verdict, scan.valid_end), (Verdict::Clean, IO_ALIGNMENT));
    }

    #[test]
    fn golden_header() {
        let bytes = encode_entry(EntrySequence(0x0102_0304), &[Record::FeatureLevelSet { level: 1 }]);
        let bytes = bytes.expect("small");
        assert_eq!(bytes.len(), IO_ALIGNMENT);
        assert_eq!(&bytes[..4], b"ODMD");
        assert_eq!(&bytes[8..20], [4, 3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn torn_last_entry_is_cut() {
        let mut bytes = file(&[10, 9000]);
        bytes[IO_ALIGNMENT * 2..].fill(0); // Only the first sector of the second entry arrived.
        let scan = scan(&bytes);
        assert_eq!(scan.entries.len(), 1);
        assert_eq!(scan.valid_end, IO_ALIGNMENT);
        assert!(matches!(scan.verdict, Verdict::TornTail { damage: Damage::Checksum { .. } }));
    }

    #[test]
    fn damage_with_a_valid_entry_behind_it_is_corruption() {
        let mut bytes = file(&[10, 10, 10]);
        bytes[IO_ALIGNMENT + HEADER_SIZE + 20] ^= 1;
        let scan = scan(&bytes);
        assert_eq!(scan.entries.len(), 1);
        assert!(matches!(scan.verdict, Verdict::Corrupt { damage: Damage::Checksum { .. } }));
    }

    #[test]
    fn gap_in_the_sequence_is_corruption() {
        let mut bytes = file(&[10]);
        bytes.extend(encode_entry(EntrySequence(3), &change(3, 10)).expect("small"));
        let damage = Damage::Sequence { found: EntrySequence(3), expected: EntrySequence(2) };
        assert_eq!(scan(&bytes).verdict, Verdict::Corrupt { damage });
    }

    #[test]
    fn intact_entry_of_a_newer_build_is_unreadable_not_torn() {
        let payload = {
            let mut payload = encoding::encode(&[Record::FeatureLevelSet { level: 1 }]);
            let level = payload.windows(2).position(|pair| pair == [1, 0]).expect("the entry's level");
            payload[level] = 9;
            payload
        };
        assert_eq!(encoding::decode(&payload), Err(DecodeError::FeatureLevel { written: 9 }));
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&1u64.to_le_bytes());
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&checksum(&bytes[..CHECKSUM_AT], &payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        assert!(matches!(scan(&bytes).verdict, Verdict::Unreadable { sequence: EntrySequence(1), .. }));
    }

    proptest! {
        #[test]
        fn any_cut_leaves_the_whole_entries_before_it(
            sizes in proptest::collection::vec(1usize..12_000, 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = file(&sizes);
            let cut = cut.index(whole.len());
            let scanned = scan(&whole[..cut]);
            // Padding is not part of an entry, so a cut inside it loses nothing.
            prop_assert!(scanned.valid_end <= cut.next_multiple_of(IO_ALIGNMENT));
            let harmless = matches!(scanned.verdict, Verdict::Clean | Verdict::TornTail { .. });
            prop_assert!(harmless, "{:?}", scanned.verdict);
            let all = scan(&whole);
            prop_assert_eq!(&all.entries[..scanned.entries.len()], &scanned.entries[..]);
        }

        #[test]
        fn any_flipped_bit_of_an_entry_is_noticed(
            sizes in proptest::collection::vec(1usize..6000, 1..5),
            victim in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let victim = victim.index(sizes.len());
            let start = file(&sizes[..victim]).len();
            let mut bytes = file(&sizes);
            let length = u32::from_le_bytes(bytes[start + 4..start + 8].try_into().expect("4 bytes"));
            bytes[start + at.index(HEADER_SIZE + length as usize)] ^= 1 << bit;
            let scanned = scan(&bytes);
            prop_assert_eq!(scanned.entries.len(), victim);
            prop_assert_eq!(scanned.valid_end, start);
            let last = victim + 1 == sizes.len();
            prop_assert_eq!(matches!(scanned.verdict, Verdict::TornTail { .. }), last);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
            let _ = scan(&bytes);
        }
    }
}
