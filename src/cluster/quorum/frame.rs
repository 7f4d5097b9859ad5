//! The quorum's log on disk: what its frames hold, and what a start finds in them.
//!
//! ```text
//! 00000000000000000000.log, of a build before the quorum, and gone on with:
//!   entry 1 │ entry 2 │ .. │ entry n │ write n+1 │ write n+2 │ ..          image: entries 1..=n, all committed
//! founded, compacted, or replaced by a leader's snapshot:
//!   head k │ part │ .. │ part │ write │ write │ ..                          image: the parts
//! of a node that was told of no quorum yet:
//!   write 1 │ write 2 │ ..                                                  no image
//! ```
//!
//! Frames are those of [`log_entry`], numbered in the order in which they are written.
//! A write says what a node must not forget as of then, and new entries, together: a torn one is not there at
//! all. That the commit index stands in the same frame as the entries is what changes of the members rest on: who
//! has an entry that was proposed under newer members also knows that these are committed.
//!
//! The entries of a build before the quorum have no term. They are read as committed in term 1 by a quorum of
//! this one node, and are its image rather than its log: so every other member begins with a snapshot, which has
//! the members in it.
//!
//! What the shell promises: a frame is written once the one before it has been flushed, and the file is cut to
//! `valid_end` before anything is appended; a file with a head is put in place whole.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, VerifierOptions};

use super::entry::{InvalidEntry, LogEntry, decode_entries, encode_entries};
use super::members::{Members, PeerId};
use crate::cluster::encoding::{self, DecodeError};
use crate::cluster::log_entry::{
    self, EncodeError, EntrySequence, NoEntry, Verdict, encode_frame, scan_frames,
};
use crate::cluster::record::{FEATURE_LEVEL, FEATURE_LEVEL_QUORUM, Record};
use crate::schema::quorum as fb;
use crate::types::limits::{IO_ALIGNMENT, METADATA_ENTRY_SIZE_MAX};

/// The term of the entries that were there before there were terms, and of a quorum's founding.
pub const FOUNDING_TERM: u64 = 1;

/// The index of a founding. Above zero, so that no node without a log could take itself to be that far.
pub const FOUNDING_INDEX: u64 = 1;

/// What a node must not forget (Raft's persistent state).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    /// Who has this node's vote of the term.
    pub vote: Option<PeerId>,
    /// The last entry that is known to be committed. May lag behind.
    pub commit: u64,
}

/// One frame: the hard state as it is now, and entries that replace everything from the first one's index on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Write {
    pub hard_state: HardState,
    pub entries: Vec<LogEntry>,
}

impl Write {
    /// Takes a later write into this one, if a frame holds both: one flush is enough for them.
    pub fn absorb(&mut self, later: Write) -> Option<Write> {
        let size = |write: &Write| write.entries.iter().map(LogEntry::encoded_size_max).sum::<usize>();
        if size(self) + size(&later) > METADATA_ENTRY_SIZE_MAX / 2 {
            return Some(later);
        }
        if let Some(first) = later.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
        }
        self.entries.extend(later.entries);
        self.hard_state = later.hard_state;
        None
    }
}

/// What a log goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub index: u64,
    pub term: u64,
    pub members: Members,
    /// The image's records, encoded, as many as an entry holds in each.
    pub parts: Vec<Bytes>,
}

/// The records of an image in parts of which each fits an entry.
pub fn encode_parts(records: &[Record]) -> Vec<Bytes> {
    /// As many as a compacted log has always had in one entry.
    const RECORDS_PER_PART: usize = 10_000;
    records.chunks(RECORDS_PER_PART).map(|part| encoding::encode(part).into()).collect()
}

/// The records of all parts, in order.
pub fn decode_parts(parts: &[Bytes]) -> Result<Vec<Record>, DecodeError> {
    let mut records = Vec::new();
    for part in parts {
        records.extend(encoding::decode(part)?);
    }
    Ok(records)
}

impl Snapshot {
    /// Of a quorum that begins with these voters. Each of them starts from the same one.
    pub fn founding(members: Members, records: &[Record]) -> Snapshot {
        let parts = encode_parts(records);
        Snapshot { index: FOUNDING_INDEX, term: FOUNDING_TERM, members, parts }
    }

    /// What is to be remembered beside a founding.
    pub fn founding_state() -> HardState {
        HardState { term: FOUNDING_TERM, vote: None, commit: FOUNDING_INDEX }
    }
}

/// Why a frame is refused that is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWrite {
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    #[error("neither a write nor a part of a snapshot")]
    Empty,
    #[error("an entry without a term behind those that have one")]
    Untermed,
    #[error("a snapshot that does not begin its file")]
    Head,
    #[error("{missing} parts of the snapshot are not there")]
    Parts { missing: u32 },
    #[error("a part of a snapshot where none belongs")]
    Part,
    #[error("members that there cannot be")]
    Members,
    #[error("a vote for a peer that there cannot be ({0:#x})")]
    Vote(u64),
    #[error("term {found} behind term {before}")]
    TermGoesBack { found: u64, before: u64 },
    #[error("entries from {first} where the log reaches from {base} to {last}")]
    Gap { first: u64, base: u64, last: u64 },
    #[error("entry {index} replaces a committed one")]
    Committed { index: u64 },
}

/// Numbers and encodes the frames of one log.
///
/// Lives: one per node, beside its file.
#[derive(Clone, Copy, Debug)]
pub struct FrameWriter {
    next: EntrySequence,
}

impl FrameWriter {
    pub fn new(next: EntrySequence) -> FrameWriter {
        FrameWriter { next }
    }

    /// Bytes of the frame of a write that has records of this size, at most.
    pub fn frame_size_max(records: usize) -> u64 {
        (log_entry::HEADER_SIZE + 256 + records).next_multiple_of(IO_ALIGNMENT) as u64
    }

    /// The frame that goes to the end of the file.
    pub fn append(&mut self, write: &Write) -> Result<Vec<u8>, EncodeError> {
        self.frame(&encode_write(write))
    }

    /// A file of its own, which takes the place of the one before it.
    pub fn replace(&mut self, snapshot: &Snapshot, write: &Write) -> Result<Vec<u8>, EncodeError> {
        let mut bytes = self.frame(&encode_head(snapshot))?;
        for part in &snapshot.parts {
            bytes.extend(self.frame(&encode_part(part))?);
        }
        bytes.extend(self.frame(&encode_write(write))?);
        Ok(bytes)
    }

    fn frame(&mut self, payload: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let bytes = encode_frame(self.next, payload)?;
        self.next = self.next.next();
        Ok(bytes)
    }
}

fn encode_write(write: &Write) -> Vec<u8> {
    let size: usize = write.entries.iter().map(LogEntry::encoded_size_max).sum();
    let mut builder = FlatBufferBuilder::with_capacity(128 + size);
    let entries = encode_entries(&mut builder, &write.entries);
    let HardState { term, vote, commit } = write.hard_state;
    let hard_state = fb::HardState::new(term, vote.map_or(0, PeerId::raw), commit);
    let args = fb::WriteArgs { hard_state: Some(&hard_state), entries, ..fb::WriteArgs::default() };
    finish(builder, args)
}

fn encode_head(snapshot: &Snapshot) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::with_capacity(256);
    let raw = |peer: &PeerId| peer.raw();
    let voters = builder.create_vector_from_iter(snapshot.members.voters.iter().map(raw));
    let observers = builder.create_vector_from_iter(snapshot.members.observers.iter().map(raw));
    let args = fb::SnapshotHeadArgs {
        index: snapshot.index,
        term: snapshot.term,
        voters: Some(voters),
        observers: Some(observers),
        parts: snapshot.parts.len() as u32,
    };
    let head = fb::SnapshotHead::create(&mut builder, &args);
    finish(builder, fb::WriteArgs { snapshot: Some(head), ..fb::WriteArgs::default() })
}

fn encode_part(part: &[u8]) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::with_capacity(64 + part.len());
    let part = builder.create_vector(part);
    finish(builder, fb::WriteArgs { part: Some(part), ..fb::WriteArgs::default() })
}

fn finish<'a>(mut builder: FlatBufferBuilder<'a>, args: fb::WriteArgs<'a>) -> Vec<u8> {
    let records = Some(builder.create_vector::<u8>(&[]));
    let args = fb::WriteArgs { feature_level: FEATURE_LEVEL_QUORUM, records, ..args };
    let write = fb::Write::create(&mut builder, &args);
    builder.finish(write, None);
    builder.finished_data().to_vec()
}

/// What a start goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The image's records and where they reach to. Index 0: there are none.
    pub base: Snapshot,
    pub hard_state: HardState,
    /// Those behind the base, in order.
    pub entries: Vec<LogEntry>,
    pub next: EntrySequence,
    /// Whether the file begins with entries of a build before the quorum.
    pub upgraded: bool,
}

impl Recovered {
    /// Of an empty file: a node that waits to be told of a quorum.
    pub fn nothing() -> Recovered {
        Recovered {
            base: Snapshot::default(),
            hard_state: HardState::default(),
            entries: Vec::new(),
            next: EntrySequence::FIRST,
            upgraded: false,
        }
    }

    fn last(&self) -> (u64, u64) {
        self.entries.last().map_or((self.base.index, self.base.term), |entry| (entry.index, entry.term))
    }
}

/// What a file of frames holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Of the frames before `valid_end`.
    pub recovered: Recovered,
    /// Bytes, exclusive: where the next frame goes.
    pub valid_end: usize,
    /// As of `log_entry`: after `Corrupt` and `Unreadable` the node must not start.
    pub verdict: Verdict,
}

/// Reads a whole file. `me`: the only voter of a log that was begun before there were any.
pub fn scan(bytes: &[u8], me: PeerId) -> Scanned {
    let mut replay = Replay { recovered: Recovered::nothing(), parts_missing: 0, is_first: true, me };
    let (valid_end, mut verdict) = scan_frames(bytes, |sequence, payload| replay.take(sequence, payload));
    let Replay { mut recovered, parts_missing, .. } = replay;
    let is_readable = matches!(verdict, Verdict::Clean | Verdict::TornTail { .. });
    if is_readable && parts_missing > 0 {
        // A file with a head is put in place whole.
        let error = DecodeError::Quorum(InvalidWrite::Parts { missing: parts_missing });
        verdict = Verdict::Unreadable { sequence: recovered.next, error };
    }
    // More may have been committed than was flushed here.
    recovered.hard_state.commit = recovered.hard_state.commit.min(recovered.last().0);
    Scanned { recovered, valid_end, verdict }
}

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Written by a build before the quorum.
    Records(Vec<Record>),
    Write(Write),
    /// The parts follow, so many.
    Head {
        snapshot: Snapshot,
        parts: u32,
    },
    /// Records, encoded.
    Part(Bytes),
}

/// The frame at the start of `bytes`, which may end before its padding; `expected`: `None` takes any sequence.
/// For readers that do not hold the whole file, and look past damage.
pub fn read_frame(bytes: &[u8], expected: Option<EntrySequence>) -> Result<(EntrySequence, Frame), NoEntry> {
    let (sequence, payload) = log_entry::read_frame(bytes, expected).map_err(NoEntry::Damaged)?;
    let unreadable = |error| NoEntry::Unreadable { sequence, error };
    Ok((sequence, decode_frame(payload).map_err(unreadable)?))
}

fn decode_frame(payload: &[u8]) -> Result<Frame, DecodeError> {
    let options = VerifierOptions { max_tables: 1 << 20, ..VerifierOptions::default() };
    let write =
        flatbuffers::root_with_opts::<fb::Write>(&options, payload).map_err(DecodeError::Malformed)?;
    let written = write.feature_level();
    if written > FEATURE_LEVEL {
        return Err(DecodeError::FeatureLevel { written });
    }
    match (write.snapshot(), write.part(), write.hard_state()) {
        (Some(head), None, None) => decode_head(head).map_err(DecodeError::Quorum),
        (None, Some(part), None) => Ok(Frame::Part(Bytes::copy_from_slice(part.bytes()))),
        (None, None, Some(state)) => decode_write(state, write.entries()).map_err(DecodeError::Quorum),
        (None, None, None) => Ok(Frame::Records(encoding::decode(payload)?)),
        _ => Err(DecodeError::Quorum(InvalidWrite::Empty)),
    }
}

fn decode_head(head: fb::SnapshotHead<'_>) -> Result<Frame, InvalidWrite> {
    if head.index() == 0 || head.term() == 0 {
        return Err(InvalidWrite::Head);
    }
    let members = Members::from_raw(head.voters(), head.observers()).ok_or(InvalidWrite::Members)?;
    let snapshot = Snapshot { index: head.index(), term: head.term(), members, parts: Vec::new() };
    Ok(Frame::Head { snapshot, parts: head.parts() })
}

fn decode_write(
    state: &fb::HardState,
    entries: Option<super::entry::Entries<'_>>,
) -> Result<Frame, InvalidWrite> {
    let entries = decode_entries(entries)?;
    let vote = match state.vote() {
        0 => None,
        raw => Some(PeerId::from_raw(raw).ok_or(InvalidWrite::Vote(raw))?),
    };
    let hard_state = HardState { term: state.term(), vote, commit: state.commit() };
    Ok(Frame::Write(Write { hard_state, entries }))
}

/// Takes one frame after the other.
struct Replay {
    recovered: Recovered,
    parts_missing: u32,
    is_first: bool,
    me: PeerId,
}

impl Replay {
    fn take(&mut self, sequence: EntrySequence, payload: &[u8]) -> Result<(), DecodeError> {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let taken = match decode_frame(payload)? {
            Frame::Records(_) => self.take_untermed(sequence, payload, is_first),
            Frame::Head { snapshot, parts } => self.take_head(snapshot, parts, is_first),
            Frame::Part(part) => self.take_part(part),
            Frame::Write(write) => self.take_write(write),
        };
        taken.map_err(DecodeError::Quorum)?;
        self.recovered.next = sequence.next();
        Ok(())
    }

    fn take_untermed(
        &mut self,
        sequence: EntrySequence,
        payload: &[u8],
        is_first: bool,
    ) -> Result<(), InvalidWrite> {
        let recovered = &mut self.recovered;
        if !is_first && (!recovered.upgraded || recovered.hard_state.commit != recovered.base.index) {
            return Err(InvalidWrite::Untermed);
        }
        if recovered.hard_state.term > FOUNDING_TERM || !recovered.entries.is_empty() {
            return Err(InvalidWrite::Untermed);
        }
        recovered.upgraded = true;
        recovered.base.index = sequence.0;
        recovered.base.term = FOUNDING_TERM;
        recovered.base.members = Members::voters([self.me]);
        recovered.base.parts.push(Bytes::copy_from_slice(payload));
        recovered.hard_state = HardState { term: FOUNDING_TERM, vote: Some(self.me), commit: sequence.0 };
        Ok(())
    }

    fn take_head(&mut self, snapshot: Snapshot, parts: u32, is_first: bool) -> Result<(), InvalidWrite> {
        if !is_first {
            return Err(InvalidWrite::Head);
        }
        self.parts_missing = parts;
        self.recovered.hard_state.commit = snapshot.index;
        self.recovered.base = snapshot;
        Ok(())
    }

    fn take_part(&mut self, part: Bytes) -> Result<(), InvalidWrite> {
        self.parts_missing = self.parts_missing.checked_sub(1).ok_or(InvalidWrite::Part)?;
        self.recovered.base.parts.push(part);
        Ok(())
    }

    fn take_write(&mut self, write: Write) -> Result<(), InvalidWrite> {
        if self.parts_missing > 0 {
            return Err(InvalidWrite::Parts { missing: self.parts_missing });
        }
        let recovered = &mut self.recovered;
        let (state, before) = (write.hard_state, recovered.hard_state);
        if state.term < before.term {
            return Err(InvalidWrite::TermGoesBack { found: state.term, before: before.term });
        }
        if let Some(first) = write.entries.first() {
            replace_tail(recovered, first)?;
        }
        recovered.entries.extend(write.entries);
        // What was committed stays so, whatever a later write may have known of it.
        recovered.hard_state = HardState { commit: state.commit.max(before.commit), ..state };
        Ok(())
    }
}

/// Makes room for entries that begin with this one.
fn replace_tail(recovered: &mut Recovered, first: &LogEntry) -> Result<(), InvalidWrite> {
    let (base, last) = (recovered.base.index, recovered.last().0);
    // The base may be further than entries that follow it in the file only where they are its own tail.
    if first.index <= base || first.index > last + 1 {
        return Err(InvalidWrite::Gap { first: first.index, base, last });
    }
    if first.index <= recovered.hard_state.commit.min(last) {
        return Err(InvalidWrite::Committed { index: first.index });
    }
    recovered.entries.truncate((first.index - base - 1) as usize);
    let (_, before) = recovered.last();
    if first.term < before {
        let (index, term) = (first.index, first.term);
        return Err(InvalidEntry::Term { index, term, before }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
