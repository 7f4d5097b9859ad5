//! Fetch responses (key 1, versions 4 to 12): everything but the records, and where those go.
//!
//! ```text
//! throttle_time_ms error₇ session_id₇ [topic: name [partition: index error high_watermark
//!   last_stable_offset log_start₅ [aborted: producer_id first_offset] preferred_read_replica₁₁
//!   records DivergingEpoch₁₂ CurrentLeader₁₂]]
//! ```
//! A small number is the first version with the field; capitals are tagged fields. Records are not
//! copied: the sender puts the stored buffers between the pieces of the head. Requests carry no
//! records and are decoded by the library.
//!
//! ```text
//! head    prefix … partition … length ┆ tags … partition … length ┆ tags …
//! splices                             ▲ at, size                  ▲ at, size
//! ```

use crate::codec::api::leader_hint::CurrentLeader;
use crate::codec::api::versions::{Admission, ApiKey};
use crate::codec::error_code::ErrorCode;
use crate::codec::frame::ResponseFrame;
use crate::codec::wire::Writer;
use crate::types::{BrokerId, LeaderEpoch, Offset, ProducerId};

const LOG_START_FROM: i16 = 5;
const SESSION_FROM: i16 = 7;
const READ_REPLICA_FROM: i16 = 11;
const TAGS_FROM: i16 = 12;
const TAG_DIVERGING_EPOCH: u32 = 0;
const TAG_CURRENT_LEADER: u32 = 1;
/// Bytes of epoch, end offset and an empty list of tagged fields.
const DIVERGING_EPOCH_SIZE: u32 = 13;

/// A place in the head where `size` bytes of records go: before the byte `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Splice {
    pub at: usize,
    pub size: usize,
}

/// A Fetch response frame without its records.
///
/// Invariant: splices are in order of `at`, none is empty, and the frame's length prefix counts
/// them.
#[derive(Clone, Debug, Default)]
pub struct EncodedFetch {
    pub head: Vec<u8>,
    pub splices: Vec<Splice>,
}

/// What the sender writes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Head(&'a [u8]),
    /// The records announced by the splice of this index.
    Records {
        splice: usize,
        size: usize,
    },
}

impl EncodedFetch {
    /// Bytes of the whole frame, prefix and records included.
    pub fn size(&self) -> usize {
        self.head.len() + self.splices.iter().map(|splice| splice.size).sum::<usize>()
    }

    /// The frame from front to back.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut from = 0;
        let spliced = self.splices.iter().enumerate().flat_map(move |(index, splice)| {
            let head = Piece::Head(&self.head[from..splice.at]);
            from = splice.at;
            [head, Piece::Records { splice: index, size: splice.size }]
        });
        let tail = self.splices.last().map_or(0, |splice| splice.at);
        spliced.chain([Piece::Head(&self.head[tail..])])
    }
}

/// What a response says before its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchResponseHeader {
    pub version: i16,
    pub correlation_id: i32,
    pub throttle_time_ms: i32,
    /// Of the fetch session; sent from version 7.
    pub error: ErrorCode,
    /// 0: none. Sent from version 7.
    pub session_id: i32,
}

/// A transaction whose records a reader of committed records must leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer: ProducerId,
    pub first_offset: Offset,
}

/// Where the log of a fetcher ceases to agree with ours (KIP-595).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DivergingEpoch {
    pub epoch: LeaderEpoch,
    pub end_offset: Offset,
}

/// What one partition of a response says, but its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedPartition<'a> {
    pub partition: i32,
    pub error: ErrorCode,
    pub high_watermark: Option<Offset>,
    pub last_stable_offset: Option<Offset>,
    pub log_start: Option<Offset>,
    /// `None` unless the client reads committed records only.
    pub aborted: Option<&'a [AbortedTransaction]>,
    pub preferred_read_replica: Option<BrokerId>,
    pub diverging_epoch: Option<DivergingEpoch>,
    pub current_leader: Option<CurrentLeader>,
}

impl FetchedPartition<'_> {
    /// A partition that says nothing but its error, for the caller to add to.
    pub const fn refused(partition: i32, error: ErrorCode) -> FetchedPartition<'static> {
        FetchedPartition {
            partition,
            error,
            high_watermark: None,
            last_stable_offset: None,
            log_start: None,
            aborted: None,
            preferred_read_replica: None,
            diverging_epoch: None,
            current_leader: None,
        }
    }
}

/// Writes a response from front to back; counts are announced before what they count.
#[derive(Debug)]
pub struct FetchResponseWriter {
    version: i16,
    frame: ResponseFrame,
    encoded: EncodedFetch,
    topics_left: usize,
    partitions_left: usize,
}

impl FetchResponseWriter {
    /// `recycled` lends its buffers; what was in them is dropped.
    pub fn new(
        header: &FetchResponseHeader,
        topic_count: usize,
        recycled: EncodedFetch,
    ) -> FetchResponseWriter {
        let version = header.version;
        assert!(ApiKey::Fetch.admit(version) == Admission::Serve, "Fetch {version} is not served");
        let mut encoded = recycled;
        encoded.head.clear();
        encoded.splices.clear();
        let frame = ResponseFrame::begin(&mut encoded.head, ApiKey::Fetch, version, header.correlation_id);
        let mut response =
            FetchResponseWriter { version, frame, encoded, topics_left: topic_count, partitions_left: 0 };
        let mut writer = response.writer();
        writer.i32(header.throttle_time_ms);
        if version >= SESSION_FROM {
            writer.i16(header.error.code());
            writer.i32(header.session_id);
        }
        writer.length(Some(topic_count));
        response
    }

    /// Starts a topic.
    pub fn topic(&mut self, name: &str, partition_count: usize) {
        assert!(self.partitions_left == 0, "the topic before lacks partitions");
        assert!(self.topics_left > 0, "more topics than announced");
        self.topics_left -= 1;
        self.partitions_left = partition_count;
        let mut writer = self.writer();
        writer.str(name);
        writer.length(Some(partition_count));
        if partition_count == 0 {
            writer.no_tagged_fields();
        }
    }

    /// Adds a partition of the current topic. `records_size` bytes of records are spliced in.
    pub fn partition(&mut self, partition: &FetchedPartition<'_>, records_size: usize) {
        assert!(self.partitions_left > 0, "more partitions than announced");
        self.partitions_left -= 1;
        let version = self.version;
        let mut writer = self.writer();
        write_partition(partition, version, &mut writer);
        // Never null: an empty list of records is what every client reads the same way.
        writer.length(Some(records_size));
        if records_size > 0 {
            self.encoded.splices.push(Splice { at: self.encoded.head.len(), size: records_size });
        }
        let topic_ends = self.partitions_left == 0;
        let mut writer = self.writer();
        write_partition_tags(partition, version, &mut writer);
        if topic_ends {
            writer.no_tagged_fields();
        }
    }

    pub fn finish(mut self) -> EncodedFetch {
        assert!(self.partitions_left == 0, "the last topic lacks partitions");
        assert!(self.topics_left == 0, "fewer topics than announced");
        self.writer().no_tagged_fields();
        let spliced = self.encoded.size() - self.encoded.head.len();
        self.frame.end(&mut self.encoded.head, spliced);
        self.encoded
    }

    fn writer(&mut self) -> Writer<'_> {
        Writer::new(&mut self.encoded.head, ApiKey::Fetch.encoding(self.version))
    }
}

/// The fields in front of the records' length.
fn write_partition(partition: &FetchedPartition<'_>, version: i16, writer: &mut Writer<'_>) {
    writer.i32(partition.partition);
    writer.i16(partition.error.code());
    writer.i64(partition.high_watermark.map_or(-1, Offset::to_wire));
    writer.i64(partition.last_stable_offset.map_or(-1, Offset::to_wire));
    if version >= LOG_START_FROM {
        writer.i64(partition.log_start.map_or(-1, Offset::to_wire));
    }
    writer.length(partition.aborted.map(<[_]>::len));
    for transaction in partition.aborted.unwrap_or_default() {
        writer.i64(transaction.producer.0);
        writer.i64(transaction.first_offset.to_wire());
        writer.no_tagged_fields();
    }
    if version >= READ_REPLICA_FROM {
        writer.i32(partition.preferred_read_replica.map_or(-1, |replica| replica.0));
    }
}

fn write_partition_tags(partition: &FetchedPartition<'_>, version: i16, writer: &mut Writer<'_>) {
    if version < TAGS_FROM {
        return;
    }
    let tag_count = partition.diverging_epoch.iter().count() + partition.current_leader.iter().count();
    writer.uvarint(tag_count as u32);
    if let Some(diverging) = partition.diverging_epoch {
        writer.uvarint(TAG_DIVERGING_EPOCH);
        writer.uvarint(DIVERGING_EPOCH_SIZE);
        writer.i32(diverging.epoch.0);
        writer.i64(diverging.end_offset.to_wire());
        writer.no_tagged_fields();
    }
    if let Some(leader) = partition.current_leader {
        leader.write_tagged(TAG_CURRENT_LEADER, writer);
    }
}

#[cfg(test)]
mod tests;
