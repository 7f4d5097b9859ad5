//! Entries of the replicated log: between the `raft` crate's form and ours.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};
use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, Entry, EntryType};

use super::members::{MemberChange, PeerId};
use crate::schema::quorum as fb;

/// What an entry does once it is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Records, encoded: a `metadata.Entry`. Empty in the first entry of a leader.
    Records(Bytes),
    Members(MemberChange),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub term: u64,
    pub index: u64,
    pub payload: Payload,
}

/// Why an entry is refused that somebody wrote or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    #[error("entry {index} is of kind {kind}, which this build does not know")]
    Kind { index: u64, kind: u8 },
    #[error("entry {index} changes a member that there cannot be ({peer:#x})")]
    Peer { index: u64, peer: u64 },
    #[error("entry {found} where {expected} belongs")]
    Order { found: u64, expected: u64 },
    #[error("entry {index} is of term {term}, the one before it of {before}")]
    Term { index: u64, term: u64, before: u64 },
}

impl LogEntry {
    /// `None` for what we never propose: changes of several members at once.
    pub(super) fn from_raft(entry: &Entry) -> Option<LogEntry> {
        let payload = match entry.get_entry_type() {
            EntryType::EntryNormal => Payload::Records(entry.data.clone()),
            EntryType::EntryConfChange => {
                let change = ConfChange::parse_from_bytes(&entry.data).ok()?;
                Payload::Members(from_conf_change(&change)?)
            }
            EntryType::EntryConfChangeV2 => return None,
        };
        Some(LogEntry { term: entry.term, index: entry.index, payload })
    }

    pub(super) fn to_raft(&self) -> Entry {
        let mut entry = Entry { term: self.term, index: self.index, ..Entry::default() };
        match &self.payload {
            Payload::Records(records) => entry.data = records.clone(),
            Payload::Members(change) => {
                entry.set_entry_type(EntryType::EntryConfChange);
                let bytes = to_conf_change(*change).write_to_bytes().expect("a small message is written");
                entry.data = bytes.into();
            }
        }
        entry
    }

    /// Bytes that it takes in a frame, at most.
    pub fn encoded_size_max(&self) -> usize {
        64 + match &self.payload {
            Payload::Records(records) => records.len(),
            Payload::Members(_) => 0,
        }
    }
}

pub(super) fn to_conf_change(change: MemberChange) -> ConfChange {
    let mut conf_change = ConfChange { node_id: change.peer().raw(), ..ConfChange::default() };
    conf_change.set_change_type(match change {
        MemberChange::AddObserver(_) => ConfChangeType::AddLearnerNode,
        MemberChange::AddVoter(_) => ConfChangeType::AddNode,
        MemberChange::Remove(_) => ConfChangeType::RemoveNode,
    });
    conf_change
}

fn from_conf_change(change: &ConfChange) -> Option<MemberChange> {
    let peer = PeerId::from_raw(change.node_id)?;
    Some(match change.get_change_type() {
        ConfChangeType::AddLearnerNode => MemberChange::AddObserver(peer),
        ConfChangeType::AddNode => MemberChange::AddVoter(peer),
        ConfChangeType::RemoveNode => MemberChange::Remove(peer),
    })
}

pub(super) type Entries<'a> = Vector<'a, ForwardsUOffset<fb::Entry<'a>>>;

pub(super) fn encode_entries<'a>(
    builder: &mut FlatBufferBuilder<'a>,
    entries: &[LogEntry],
) -> Option<WIPOffset<Entries<'a>>> {
    if entries.is_empty() {
        return None;
    }
    let encoded: Vec<_> = entries.iter().map(|entry| encode_entry(builder, entry)).collect();
    Some(builder.create_vector(&encoded))
}

fn encode_entry<'a>(builder: &mut FlatBufferBuilder<'a>, entry: &LogEntry) -> WIPOffset<fb::Entry<'a>> {
    let (kind, records, peer) = match &entry.payload {
        Payload::Records(records) if records.is_empty() => (fb::EntryKind::Records, None, 0),
        Payload::Records(records) => (fb::EntryKind::Records, Some(builder.create_vector(records)), 0),
        Payload::Members(change) => {
            let kind = match change {
                MemberChange::AddVoter(_) => fb::EntryKind::AddVoter,
                MemberChange::AddObserver(_) => fb::EntryKind::AddObserver,
                MemberChange::Remove(_) => fb::EntryKind::Remove,
            };
            (kind, None, change.peer().raw())
        }
    };
    let args = fb::EntryArgs { term: entry.term, index: entry.index, kind, records, peer };
    fb::Entry::create(builder, &args)
}

/// The entries, which follow one another.
pub(super) fn decode_entries(entries: Option<Entries<'_>>) -> Result<Vec<LogEntry>, InvalidEntry> {
    let mut decoded: Vec<LogEntry> = Vec::with_capacity(entries.map_or(0, |entries| entries.len()));
    for entry in entries.into_iter().flatten() {
        let entry = decode_entry(entry)?;
        if let Some(last) = decoded.last() {
            // What a hostile index could wrap to is not the one that follows.
            let (index, term, before) = (entry.index, entry.term, last.term);
            let expected = last.index.wrapping_add(1);
            if index != expected {
                return Err(InvalidEntry::Order { found: index, expected });
            }
            if term < before {
                return Err(InvalidEntry::Term { index, term, before });
            }
        }
        decoded.push(entry);
    }
    Ok(decoded)
}

fn decode_entry(entry: fb::Entry<'_>) -> Result<LogEntry, InvalidEntry> {
    let (term, index) = (entry.term(), entry.index());
    if index == 0 || term == 0 {
        return Err(InvalidEntry::Order { found: index, expected: 1 });
    }
    let peer = || {
        let peer = entry.peer();
        PeerId::from_raw(peer).ok_or(InvalidEntry::Peer { index, peer })
    };
    let payload = match entry.kind() {
        fb::EntryKind::Records => Payload::Records(
            entry.records().map_or_else(Bytes::new, |bytes| Bytes::copy_from_slice(bytes.bytes())),
        ),
        fb::EntryKind::AddVoter => Payload::Members(MemberChange::AddVoter(peer()?)),
        fb::EntryKind::AddObserver => Payload::Members(MemberChange::AddObserver(peer()?)),
        fb::EntryKind::Remove => Payload::Members(MemberChange::Remove(peer()?)),
        unknown => return Err(InvalidEntry::Kind { index, kind: unknown.0 }),
    };
    Ok(LogEntry { term, index, payload })
}
