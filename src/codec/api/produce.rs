//! Produce (key 0, versions 3 to 12): requests viewed in place, responses written in one pass.
//!
//! ```text
//! request  transactional_id acks timeout_ms [topic: name [partition: index records]]
//! response [topic: name [partition: index error base_offset append_time log_start₅ errors₈ message₈
//!          CurrentLeader₁₀]] throttle_time_ms NodeEndpoints₁₀
//! ```
//! A small number is the first version with the field; capitals are tagged fields. Records are never
//! copied here. Absent: errors of single records, as batches are accepted or refused whole.

use crate::codec::api::leader_hint::{CurrentLeader, NodeEndpoint};
use crate::codec::api::versions::{Admission, ApiKey};
use crate::codec::error_code::ErrorCode;
use crate::codec::frame::ResponseFrame;
use crate::codec::record_batch::{BatchError, BatchView, Compression};
use crate::codec::wire::{Encoding, Reader, WireError, Writer, clip};
use crate::types::limits::REQUEST_ELEMENTS_MAX;
use crate::types::{Offset, Timestamp};

const LOG_START_FROM: i16 = 5;
const ZSTD_FROM: i16 = 7;
const ERROR_MESSAGE_FROM: i16 = 8;
const LEADER_HINT_FROM: i16 = 10;
const TAG_CURRENT_LEADER: u32 = 0;
const TAG_NODE_ENDPOINTS: u32 = 0;

/// When a producer wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// 0: there is no answer at all, not even for errors.
    None,
    /// 1: the leader has it.
    Leader,
    /// -1: all in-sync replicas have it.
    All,
}

impl Acks {
    /// `None` for other values: `INVALID_REQUIRED_ACKS` for every partition of the request.
    pub const fn from_wire(acks: i16) -> Option<Acks> {
        match acks {
            0 => Some(Acks::None),
            1 => Some(Acks::Leader),
            -1 => Some(Acks::All),
            _ => None,
        }
    }
}

/// Why a Produce body cannot be read; ends the connection, like any malformed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    #[error("Produce version {version} is not served")]
    Unserved { version: i16 },
    #[error("the Produce request is malformed: {0}")]
    Malformed(#[from] WireError),
    #[error("more than {REQUEST_ELEMENTS_MAX} topics and partitions in one Produce request")]
    TooMany,
}

/// A Produce request in somebody else's bytes, checked as a whole, so that walking it cannot fail.
#[derive(Clone, Copy, Debug)]
pub struct ProduceView<'a> {
    pub transactional_id: Option<&'a str>,
    /// As sent; see [`Acks::from_wire`].
    pub acks: i16,
    pub timeout_ms: i32,
    topics: Topics<'a>,
    partition_count: usize,
}

impl<'a> ProduceView<'a> {
    /// Cost: O(topics + partitions), no allocation; records are passed over.
    pub fn parse(version: i16, body: &'a [u8]) -> Result<ProduceView<'a>, ProduceError> {
        if ApiKey::Produce.admit(version) != Admission::Serve {
            return Err(ProduceError::Unserved { version });
        }
        let mut reader = Reader::new(body, ApiKey::Produce.encoding(version));
        let transactional_id = reader.nullable_str()?;
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let topic_count = reader.count(topic_size_min(reader.encoding()))?;
        let topics = Topics { reader, left: topic_count };

        let mut partition_count = 0;
        for _ in 0..topic_count {
            let topic = read_topic(&mut reader)?;
            partition_count += topic.partitions.left;
            if topic_count + partition_count > REQUEST_ELEMENTS_MAX {
                return Err(ProduceError::TooMany);
            }
        }
        reader.skip_tagged_fields()?;
        // What may follow is ignored, as Kafka does.
        Ok(ProduceView { transactional_id, acks, timeout_ms, topics, partition_count })
    }

    pub fn topics(&self) -> Topics<'a> {
        self.topics
    }

    pub fn topic_count(&self) -> usize {
        self.topics.left
    }

    /// Over all topics.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }
}

/// The topics of a request, in the order sent; a name may come twice.
#[derive(Clone, Copy, Debug)]
pub struct Topics<'a> {
    reader: Reader<'a>,
    left: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct ProduceTopic<'a> {
    pub name: &'a str,
    pub partitions: Partitions<'a>,
}

/// The partitions of one topic of a request, in the order sent; an index may come twice.
#[derive(Clone, Copy, Debug)]
pub struct Partitions<'a> {
    reader: Reader<'a>,
    left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducePartition<'a> {
    /// As sent; may be negative or beyond the topic's partitions.
    pub index: i32,
    pub records: Option<&'a [u8]>,
}

impl<'a> Iterator for Topics<'a> {
    type Item = ProduceTopic<'a>;

    fn next(&mut self) -> Option<ProduceTopic<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_topic(&mut self.reader).ok() // Was read once by `parse`.
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<'a> Iterator for Partitions<'a> {
    type Item = ProducePartition<'a>;

    fn next(&mut self) -> Option<ProducePartition<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_partition(&mut self.reader).ok() // Was read once by `parse`.
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Topics<'_> {}
impl ExactSizeIterator for Partitions<'_> {}

/// Reads a topic's name and count, keeps the place of its partitions, and passes over them.
fn read_topic<'a>(reader: &mut Reader<'a>) -> Result<ProduceTopic<'a>, WireError> {
    let name = reader.str()?;
    let count = reader.count(partition_size_min(reader.encoding()))?;
    let partitions = Partitions { reader: *reader, left: count };
    for _ in 0..count {
        read_partition(reader)?;
    }
    reader.skip_tagged_fields()?;
    Ok(ProduceTopic { name, partitions })
}

fn read_partition<'a>(reader: &mut Reader<'a>) -> Result<ProducePartition<'a>, WireError> {
    let index = reader.i32()?;
    let records = reader.nullable_bytes()?;
    reader.skip_tagged_fields()?;
    Ok(ProducePartition { index, records })
}

/// Bytes of an empty name, an empty array and no tagged fields.
const fn topic_size_min(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Classic => 2 + 4,
        Encoding::Compact => 1 + 1 + 1,
    }
}

/// Bytes of an index, null records and no tagged fields.
const fn partition_size_min(encoding: Encoding) -> usize {
    match encoding {
        Encoding::Classic => 4 + 4,
        Encoding::Compact => 4 + 1 + 1,
    }
}

/// Why a partition's records cannot be appended. Damage and rules, before any byte is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordsRejected {
    #[error("there is no record batch")]
    Missing,
    #[error("{size} bytes follow the record batch; a partition takes one batch per request")]
    NotAlone { size: usize },
    #[error("zstd needs Produce version 7, this is {version}")]
    ZstdTooEarly { version: i16 },
    #[error(transparent)]
    Batch(#[from] BatchError),
}

impl From<&RecordsRejected> for ErrorCode {
    fn from(rejected: &RecordsRejected) -> ErrorCode {
        match rejected {
            RecordsRejected::Missing | RecordsRejected::NotAlone { .. } => ErrorCode::InvalidRecord,
            RecordsRejected::ZstdTooEarly { .. } => ErrorCode::UnsupportedCompressionType,
            RecordsRejected::Batch(error) => ErrorCode::from(error),
        }
    }
}

/// The one batch that a partition of a Produce request carries, with its checks done: length,
/// format, CRC, counts, producer fields and what the version allows.
///
/// Cost: one pass of CRC-32C. Source: Kafka `ProduceRequest.validateRecords`.
pub fn produced_batch(version: i16, records: Option<&[u8]>) -> Result<BatchView<'_>, RecordsRejected> {
    let records = records.unwrap_or_default();
    if records.is_empty() {
        return Err(RecordsRejected::Missing);
    }
    let (batch, rest) = BatchView::split_first(records)?;
    if !rest.is_empty() {
        return Err(RecordsRejected::NotAlone { size: rest.len() });
    }
    batch.validate_produced()?;
    if version < ZSTD_FROM && batch.compression() == Some(Compression::Zstd) {
        return Err(RecordsRejected::ZstdTooEarly { version });
    }
    Ok(batch)
}

/// Records for which a batch was refused, all for the same reason (KIP-467).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordErrors<'a> {
    /// Their numbers in the batch.
    pub records: &'a [u32],
    pub message: &'a str,
}

/// What became of one partition's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducedPartition<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub error: ErrorCode,
    /// `None` after an error.
    pub base_offset: Option<Offset>,
    /// [`Timestamp::NONE`] unless the topic stamps append time.
    pub log_append_time: Timestamp,
    pub log_start: Option<Offset>,
    pub error_message: Option<&'a str>,
    /// Sent from version 8, like the message.
    pub record_errors: RecordErrors<'a>,
    pub current_leader: Option<CurrentLeader>,
}

impl<'a> ProducedPartition<'a> {
    /// An outcome that says nothing but its error, for the caller to add to.
    pub fn refused(topic: &'a str, partition: i32, error: ErrorCode) -> ProducedPartition<'a> {
        ProducedPartition {
            topic,
            partition,
            error,
            base_offset: None,
            log_append_time: Timestamp::NONE,
            log_start: None,
            error_message: None,
            record_errors: RecordErrors::default(),
            current_leader: None,
        }
    }
}

/// The answer to a Produce request.
#[derive(Clone, Copy, Debug)]
pub struct ProduceResponse<'a> {
    /// Results of one topic stand next to each other; each run becomes one topic of the answer.
    pub partitions: &'a [ProducedPartition<'a>],
    /// Of the leaders named above; sent from version 10.
    pub endpoints: &'a [NodeEndpoint<'a>],
    pub throttle_time_ms: i32,
}

impl ProduceResponse<'_> {
    /// Appends the whole frame to `out`; fields that `version` lacks are left out.
    pub fn write(&self, version: i16, correlation_id: i32, out: &mut Vec<u8>) {
        assert!(ApiKey::Produce.admit(version) == Admission::Serve, "Produce {version} is not served");
        let frame = ResponseFrame::begin(out, ApiKey::Produce, version, correlation_id);
        let mut writer = Writer::new(out, ApiKey::Produce.encoding(version));
        let topics = || self.partitions.chunk_by(|left, right| left.topic == right.topic);
        writer.length(Some(topics().count()));
        for partitions in topics() {
            writer.str(partitions[0].topic);
            writer.length(Some(partitions.len()));
            for partition in partitions {
                write_partition(partition, version, &mut writer);
            }
            writer.no_tagged_fields();
        }
        writer.i32(self.throttle_time_ms);
        if version >= LEADER_HINT_FROM && !self.endpoints.is_empty() {
            writer.uvarint(1);
            NodeEndpoint::write_all_tagged(self.endpoints, TAG_NODE_ENDPOINTS, &mut writer);
        } else {
            writer.no_tagged_fields();
        }
        frame.end(out, 0);
    }
}

fn write_partition(partition: &ProducedPartition<'_>, version: i16, writer: &mut Writer<'_>) {
    writer.i32(partition.partition);
    writer.i16(partition.error.code());
    writer.i64(partition.base_offset.map_or(-1, Offset::to_wire));
    writer.i64(partition.log_append_time.0);
    if version >= LOG_START_FROM {
        writer.i64(partition.log_start.map_or(-1, Offset::to_wire));
    }
    if version >= ERROR_MESSAGE_FROM {
        let RecordErrors { records, message } = partition.record_errors;
        writer.length(Some(records.len()));
        for record in records {
            writer.i32(*record as i32);
            writer.nullable_str(Some(clip(message)));
            writer.no_tagged_fields();
        }
        writer.nullable_str(partition.error_message.map(clip));
    }
    match partition.current_leader {
        Some(leader) if version >= LEADER_HINT_FROM => {
            writer.uvarint(1);
            leader.write_tagged(TAG_CURRENT_LEADER, writer);
        }
        _ => writer.no_tagged_fields(),
    }
}

#[cfg(test)]
mod tests;
