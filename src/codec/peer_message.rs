//! Messages between nodes to frames and back.
//!
//! A frame is read in this order: its checksums ([`peer_frame`](super::peer_frame)), the FlatBuffers verifier,
//! then every field into a type that cannot be wrong.

use flatbuffers::{Follow, Verifiable, VerifierOptions};

use crate::codec::control::{
    AlterPartitions, AlteredPartition, Answer, Greeting, Heartbeat, HeartbeatAnswer, Question, Registered,
    Registration,
};
use crate::codec::peer_frame::{PeerKind, begin_peer_frame};
use crate::codec::replication::{Acknowledgements, Alignment, Append, Statements};
use crate::codec::{control, replication};
use crate::types::limits::PEER_PARTITIONS_MAX;
use crate::types::{PartitionIndex, TopicId, TopicPartition, Uuid};

/// Versions of the messages that this build understands.
pub const PEER_VERSION_MIN: u16 = 1;
pub const PEER_VERSION_MAX: u16 = 1;

#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    Greeting(Greeting),
    Statements(Statements),
    Alignments(Vec<Alignment>),
    /// Their batches are the frame's payload.
    Appends(Vec<Append>),
    Acknowledgements(Acknowledgements),
    Registration(Registration),
    Registered(Registered),
    Heartbeat(Heartbeat),
    HeartbeatAnswer(HeartbeatAnswer),
    AlterPartitions(AlterPartitions),
    AlteredPartitions(Vec<AlteredPartition>),
    /// The payload is a message of the metadata quorum's protocol.
    Quorum,
    /// What it is about is the payload.
    Question(Question),
    /// The same.
    Answer(Answer),
}

/// Why a frame whose checksums are right means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the table is malformed: {0}")]
    Malformed(flatbuffers::InvalidFlatbuffer),
    #[error("{0} is no offset")]
    Offset(u64),
    #[error("partition {0} is out of range")]
    Partition(u32),
    #[error("an epoch is negative")]
    NegativeEpoch,
    #[error("leader epochs are out of order, or too many")]
    Epochs,
    #[error("the log's ends are out of order")]
    Ends,
    #[error("outcome {0} is unknown")]
    Outcome(u8),
    #[error("{0} partitions in one frame, allowed are {PEER_PARTITIONS_MAX}")]
    TooMany(usize),
    #[error("{promised} bytes of batches are promised, {found} are there")]
    Payload { promised: u64, found: u64 },
    #[error("a payload where none belongs")]
    UnexpectedPayload,
    #[error("question {0} is unknown")]
    Question(u8),
    #[error("nobody has producer id {0} with epoch {1}")]
    Producer(i64, i16),
    #[error("version {0} of transactions is unknown")]
    TransactionVersion(u8),
    #[error("a table where none belongs")]
    UnexpectedTable,
}

impl PeerMessage {
    /// Appends header and table; the payload, in pieces, is sent behind them.
    pub fn encode<'a>(&self, version: u16, payload: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
        let (kind, table) = match self {
            PeerMessage::Greeting(message) => (PeerKind::Greeting, control::encode_greeting(message)),
            PeerMessage::Statements(message) => {
                (PeerKind::Statements, replication::encode_statements(message))
            }
            PeerMessage::Alignments(message) => {
                (PeerKind::Alignments, replication::encode_alignments(message))
            }
            PeerMessage::Appends(message) => (PeerKind::Appends, replication::encode_appends(message)),
            PeerMessage::Acknowledgements(message) => {
                (PeerKind::Acknowledgements, replication::encode_acknowledgements(message))
            }
            PeerMessage::Registration(message) => {
                (PeerKind::Registration, control::encode_registration(message))
            }
            PeerMessage::Registered(message) => (PeerKind::Registered, control::encode_registered(message)),
            PeerMessage::Heartbeat(message) => (PeerKind::Heartbeat, control::encode_heartbeat(message)),
            PeerMessage::HeartbeatAnswer(message) => {
                (PeerKind::HeartbeatAnswer, control::encode_heartbeat_answer(message))
            }
            PeerMessage::AlterPartitions(message) => {
                (PeerKind::AlterPartitions, control::encode_alter_partitions(message))
            }
            PeerMessage::AlteredPartitions(message) => {
                (PeerKind::AlteredPartitions, control::encode_altered_partitions(message))
            }
            PeerMessage::Quorum => (PeerKind::Quorum, Vec::new()),
            PeerMessage::Question(message) => (PeerKind::Question, control::encode_question(message)),
            PeerMessage::Answer(message) => (PeerKind::Answer, control::encode_answer(message)),
        };
        begin_peer_frame(kind, version, &table, payload, out);
    }

    /// `payload`: its size in bytes.
    pub fn decode(kind: PeerKind, table: &[u8], payload: usize) -> Result<PeerMessage, MessageError> {
        let has_payload =
            matches!(kind, PeerKind::Appends | PeerKind::Quorum | PeerKind::Question | PeerKind::Answer);
        if payload > 0 && !has_payload {
            return Err(MessageError::UnexpectedPayload);
        }
        Ok(match kind {
            PeerKind::Greeting => PeerMessage::Greeting(control::decode_greeting(table)?),
            PeerKind::Statements => PeerMessage::Statements(replication::decode_statements(table)?),
            PeerKind::Alignments => PeerMessage::Alignments(replication::decode_alignments(table)?),
            PeerKind::Appends => PeerMessage::Appends(replication::decode_appends(table, payload)?),
            PeerKind::Acknowledgements => {
                PeerMessage::Acknowledgements(replication::decode_acknowledgements(table)?)
            }
            PeerKind::Registration => PeerMessage::Registration(control::decode_registration(table)?),
            PeerKind::Registered => PeerMessage::Registered(control::decode_registered(table)?),
            PeerKind::Heartbeat => PeerMessage::Heartbeat(control::decode_heartbeat(table)?),
            PeerKind::HeartbeatAnswer => {
                PeerMessage::HeartbeatAnswer(control::decode_heartbeat_answer(table)?)
            }
            PeerKind::AlterPartitions => {
                PeerMessage::AlterPartitions(control::decode_alter_partitions(table)?)
            }
            PeerKind::AlteredPartitions => {
                PeerMessage::AlteredPartitions(control::decode_altered_partitions(table)?)
            }
            PeerKind::Quorum if table.is_empty() => PeerMessage::Quorum,
            PeerKind::Quorum => return Err(MessageError::UnexpectedTable),
            PeerKind::Question => PeerMessage::Question(control::decode_question(table)?),
            PeerKind::Answer => PeerMessage::Answer(control::decode_answer(table)?),
        })
    }
}

/// The root of a table, once the verifier has passed all of it.
pub(super) fn table_root<'a, T: Follow<'a> + Verifiable + 'a>(
    table: &'a [u8],
) -> Result<T::Inner, MessageError> {
    let options = VerifierOptions { max_tables: PEER_PARTITIONS_MAX + 1, ..VerifierOptions::default() };
    flatbuffers::root_with_opts::<T>(&options, table).map_err(MessageError::Malformed)
}

pub(super) fn topic_partition(
    topic: &flatbuffers::Array<'_, u8, 16>,
    index: u32,
) -> Result<TopicPartition, MessageError> {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(topic.iter()).for_each(|(to, from)| *to = from);
    let partition = i32::try_from(index).ok().and_then(PartitionIndex::from_wire);
    let partition = partition.ok_or(MessageError::Partition(index))?;
    Ok(TopicPartition { topic: TopicId(Uuid::from_bytes(bytes)), partition })
}

#[cfg(test)]
mod tests;
