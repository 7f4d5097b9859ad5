//! What members say to each other: the `raft` crate's messages under the id of their cluster.
//!
//! Bytes from a peer are decoded into messages that the crate can take, or refused: kinds that a node only tells
//! itself (proposals among them) have no code here. Protobuf, which the crate's own types come from, is never read
//! from the network or the disk.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, VerifierOptions, WIPOffset};
use raft::eraftpb::{Entry, Message as RaftMessage, MessageType, Snapshot as RaftSnapshot};

use super::entry::{InvalidEntry, LogEntry, decode_entries, encode_entries};
use super::frame::decode_parts;
use super::members::{Members, PeerId};
use crate::cluster::encoding::DecodeError;
use crate::schema::quorum as fb;
use crate::types::Uuid;

/// Tables of one message at most: entries are a few thousand, of a few bytes each.
const TABLES_MAX: usize = 1 << 20;

/// A term or an index above it is nobody's: the protocol adds to them.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// From one member to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub cluster: Uuid,
    pub from: PeerId,
    pub to: PeerId,
    pub(super) raft: RaftMessage,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    #[error("not a message of the quorum: {0}")]
    Malformed(flatbuffers::InvalidFlatbuffer),
    #[error("message kind {0} is unknown")]
    Kind(u8),
    #[error("nobody is named {0:#x}")]
    Peer(u64),
    #[error("number {0} is out of range")]
    Number(u64),
    #[error(transparent)]
    Entry(#[from] InvalidEntry),
    #[error("entries from {first} behind entry {index}")]
    Entries { first: u64, index: u64 },
    #[error("a snapshot that is none")]
    Snapshot,
    #[error("the snapshot's records: {0}")]
    Records(DecodeError),
}

/// What a message is, for who looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageKind {
    Append,
    AppendResponse,
    Vote,
    VoteResponse,
    PreVote,
    PreVoteResponse,
    Snapshot,
    Heartbeat,
    HeartbeatResponse,
    TimeoutNow,
}

/// The three names of each kind.
const KINDS: [(MessageKind, MessageType, fb::MessageKind); 10] = [
    (MessageKind::Append, MessageType::MsgAppend, fb::MessageKind::Append),
    (MessageKind::AppendResponse, MessageType::MsgAppendResponse, fb::MessageKind::AppendResponse),
    (MessageKind::Vote, MessageType::MsgRequestVote, fb::MessageKind::Vote),
    (MessageKind::VoteResponse, MessageType::MsgRequestVoteResponse, fb::MessageKind::VoteResponse),
    (MessageKind::PreVote, MessageType::MsgRequestPreVote, fb::MessageKind::PreVote),
    (MessageKind::PreVoteResponse, MessageType::MsgRequestPreVoteResponse, fb::MessageKind::PreVoteResponse),
    (MessageKind::Snapshot, MessageType::MsgSnapshot, fb::MessageKind::Snapshot),
    (MessageKind::Heartbeat, MessageType::MsgHeartbeat, fb::MessageKind::Heartbeat),
    (MessageKind::HeartbeatResponse, MessageType::MsgHeartbeatResponse, fb::MessageKind::HeartbeatResponse),
    (MessageKind::TimeoutNow, MessageType::MsgTimeoutNow, fb::MessageKind::TimeoutNow),
];

impl Message {
    /// `None` for what raft says to itself.
    pub(super) fn of(cluster: Uuid, raft: RaftMessage) -> Option<Message> {
        let is_sent = KINDS.iter().any(|(_, raft_type, _)| *raft_type == raft.get_msg_type());
        let (from, to) = (PeerId::from_raw(raft.from)?, PeerId::from_raw(raft.to)?);
        is_sent.then_some(Message { cluster, from, to, raft })
    }

    pub fn kind(&self) -> MessageKind {
        let found = KINDS.iter().find(|(_, raft_type, _)| *raft_type == self.raft.get_msg_type());
        found.expect("only these are made").0
    }

    pub fn term(&self) -> u64 {
        self.raft.term
    }

    /// Of an answer: whether it is a refusal.
    pub fn is_refusal(&self) -> bool {
        self.raft.reject
    }

    pub fn encode(&self) -> Vec<u8> {
        let raft = &self.raft;
        let entries: Vec<LogEntry> =
            raft.entries.iter().map(|entry| LogEntry::from_raft(entry).expect("we proposed it")).collect();
        let size: usize = entries.iter().map(LogEntry::encoded_size_max).sum();
        let mut builder = FlatBufferBuilder::with_capacity(256 + size);
        let entries = encode_entries(&mut builder, &entries);
        let context = (!raft.context.is_empty()).then(|| builder.create_vector(&raft.context));
        let snapshot = (self.kind() == MessageKind::Snapshot)
            .then(|| encode_snapshot(&mut builder, raft.get_snapshot()));
        let kind = KINDS.iter().find(|(_, raft_type, _)| *raft_type == raft.get_msg_type());
        let args = fb::MessageArgs {
            cluster: Some(&fb::ClusterId::new(self.cluster.as_bytes())),
            kind: kind.expect("only these are made").2,
            from: raft.from,
            to: raft.to,
            term: raft.term,
            log_term: raft.log_term,
            index: raft.index,
            commit: raft.commit,
            commit_term: raft.commit_term,
            reject: raft.reject,
            reject_hint: raft.reject_hint,
            request_snapshot: raft.request_snapshot,
            context,
            entries,
            snapshot,
        };
        let message = fb::Message::create(&mut builder, &args);
        builder.finish(message, None);
        builder.finished_data().to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Message, InvalidMessage> {
        let options = VerifierOptions { max_tables: TABLES_MAX, ..VerifierOptions::default() };
        let read =
            flatbuffers::root_with_opts::<fb::Message>(&options, bytes).map_err(InvalidMessage::Malformed)?;
        let peer = |raw| PeerId::from_raw(raw).ok_or(InvalidMessage::Peer(raw));
        let number = |value| if value > NUMBER_MAX { Err(InvalidMessage::Number(value)) } else { Ok(value) };
        let kind = KINDS.iter().find(|(_, _, kind)| *kind == read.kind());
        let kind = kind.ok_or(InvalidMessage::Kind(read.kind().0))?;
        let mut raft = RaftMessage {
            from: read.from(),
            to: read.to(),
            // No message between members is of no term: raft takes such for its own.
            term: number(read.term())?,
            log_term: number(read.log_term())?,
            index: number(read.index())?,
            commit: number(read.commit())?,
            commit_term: number(read.commit_term())?,
            reject: read.reject(),
            reject_hint: number(read.reject_hint())?,
            request_snapshot: number(read.request_snapshot())?,
            context: read
                .context()
                .map_or_else(Bytes::new, |context| Bytes::copy_from_slice(context.bytes())),
            ..RaftMessage::default()
        };
        if raft.term == 0 {
            return Err(InvalidMessage::Number(0));
        }
        raft.set_msg_type(kind.1);
        let entries = decode_entries(read.entries())?;
        if let Some(first) = entries.first()
            && first.index != raft.index + 1
        {
            return Err(InvalidMessage::Entries { first: first.index, index: raft.index });
        }
        raft.entries = entries.iter().map(LogEntry::to_raft).collect::<Vec<Entry>>().into();
        if kind.0 == MessageKind::Snapshot {
            raft.set_snapshot(decode_snapshot(read.snapshot().ok_or(InvalidMessage::Snapshot)?)?);
        }
        let cluster = Uuid::from_bytes(read.cluster().bytes().into());
        Ok(Message { cluster, from: peer(read.from())?, to: peer(read.to())?, raft })
    }
}

fn encode_snapshot<'a>(
    builder: &mut FlatBufferBuilder<'a>,
    snapshot: &RaftSnapshot,
) -> WIPOffset<fb::Snapshot<'a>> {
    let metadata = snapshot.get_metadata();
    let members = metadata.get_conf_state();
    let voters = builder.create_vector(&members.voters);
    let observers = builder.create_vector(&members.learners);
    let image = builder.create_vector(&snapshot.data);
    let args = fb::SnapshotArgs {
        index: metadata.index,
        term: metadata.term,
        voters: Some(voters),
        observers: Some(observers),
        image: Some(image),
    };
    fb::Snapshot::create(builder, &args)
}

fn decode_snapshot(read: fb::Snapshot<'_>) -> Result<RaftSnapshot, InvalidMessage> {
    let members = Members::from_raw(read.voters(), read.observers()).ok_or(InvalidMessage::Snapshot)?;
    let (index, term) = (read.index(), read.term());
    if members.voters.is_empty() || index == 0 || index > NUMBER_MAX || term == 0 || term > NUMBER_MAX {
        return Err(InvalidMessage::Snapshot);
    }
    let image = Bytes::copy_from_slice(read.image().bytes());
    // What cannot be read must not take the place of the log.
    decode_parts(&decode_image(&image)?).map_err(InvalidMessage::Records)?;
    let mut snapshot = RaftSnapshot { data: image, ..RaftSnapshot::default() };
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(members.to_raft());
    Ok(snapshot)
}

/// The parts of an image as one run of bytes.
pub(super) fn encode_image(parts: &[Bytes]) -> Bytes {
    let mut builder = FlatBufferBuilder::with_capacity(64 + parts.iter().map(Bytes::len).sum::<usize>());
    let encoded: Vec<_> = parts
        .iter()
        .map(|part| {
            let records = Some(builder.create_vector(part));
            fb::Part::create(&mut builder, &fb::PartArgs { records })
        })
        .collect();
    let parts = Some(builder.create_vector(&encoded));
    let image = fb::Image::create(&mut builder, &fb::ImageArgs { parts });
    builder.finish(image, None);
    Bytes::copy_from_slice(builder.finished_data())
}

pub(super) fn decode_image(bytes: &Bytes) -> Result<Vec<Bytes>, InvalidMessage> {
    let options = VerifierOptions { max_tables: TABLES_MAX, ..VerifierOptions::default() };
    let image =
        flatbuffers::root_with_opts::<fb::Image>(&options, bytes).map_err(InvalidMessage::Malformed)?;
    Ok(image.parts().iter().map(|part| Bytes::copy_from_slice(part.records().bytes())).collect())
}

#[cfg(test)]
mod tests;
