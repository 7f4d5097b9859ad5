//! What shards of a node say to each other. Everything here can leave its core; record bytes are
//! copied once into it.

use crate::cluster::record::Record;
use crate::codec::api::fetch::AbortedTransaction;
use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::log::producers::ProducerDescription;
use crate::log::read::ListOffsetsTarget;
use crate::log::transactions::Isolation;
use crate::quota::meters::Usage;
use crate::replication::produces::Acks;
use crate::shard::api::describe_log_dirs::LogSize;
use crate::shard::connection_share::Lent;
use crate::shard::controller::{ControlReply, ControlRequest};
use crate::shard::groups::{GroupCall, GroupReply};
use crate::shard::handover::{HandoverStep, StepTaken};
use crate::shard::replication::feed::FollowerShard;
use crate::shard::restoring::StatedUnder;
use crate::shard::telemetry::{TelemetryCall, TelemetryReply};
use crate::shard::transactions::{ListFilter, NodeCall, NodeReply, TransactionCall, TransactionReply};
use crate::txn::coordinator::Listed;
use crate::types::{
    BrokerId, CoordinatorEpoch, LeaderEpoch, LogDirIndex, NodeId, Offset, Timestamp, TopicPartition,
    TransactionVersion,
};
use bytes::Bytes;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

pub enum Message {
    Request {
        id: u64,
        request: Request,
    },
    Reply {
        id: u64,
        reply: Reply,
    },
    /// A watched partition has new records for a parked fetch of the receiver.
    Wake {
        watch: u64,
    },
    /// What clients of the sender have used of their quotas since it last said so.
    QuotaUsage(Vec<Usage>),
    /// A write or a flush of the sender has failed: a log directory is offline for the whole node.
    LogDirFailed {
        dir: LogDirIndex,
        reason: String,
    },
    /// A replica of the sender is damaged, or is not any more.
    Damaged {
        id: TopicPartition,
        damaged: Option<StatedUnder>,
    },
    /// A replica of the sender may lack its end.
    Doubtful {
        id: TopicPartition,
    },
    /// A shard of another node follows partitions of the receiver.
    Follower {
        follower: FollowerShard,
        connection: OwnedFd,
        /// Of the messages, as both sides have agreed.
        version: u16,
    },
}

pub enum Request {
    Produce(Vec<ProduceItem>),
    Read(ReadRequest),
    /// The fetch that watched has been answered.
    Unwatch {
        watch: u64,
    },
    ListOffsets(Vec<ListOffsetsItem>),
    EpochEnds(Vec<EpochEndItem>),
    DeleteRecords(Vec<DeleteRecordsItem>),
    Group(Box<GroupCall>),
    Telemetry(Box<TelemetryCall>),
    /// All groups that the receiver coordinates.
    ListGroups,
    Transaction(Box<TransactionCall>),
    /// Transactional ids that the receiver coordinates.
    ListTransactions(ListFilter),
    DescribeProducers(Vec<DescribeProducersItem>),
    /// How large logs of the receiver are: those named, or all.
    LogSizes(Option<BTreeSet<TopicPartition>>),
    /// From a transaction's coordinator: it has ended in these partitions.
    WriteMarkers(Vec<MarkerItem>),
    /// To shard 0: another node is to be asked.
    AskNode(NodeId, NodeCall),
    /// Some of the connections that the receiver may have and has not.
    LendConnections,
    /// Answered once nothing is left of the replicas that have left the receiver.
    EndRemovals,
    /// To the controller's shard.
    Control(ControlRequest),
    /// From the controller's shard: committed metadata, to be applied in this order.
    Apply(Arc<[Record]>),
    /// From the controller's shard: partitions move between shards of this node.
    Handover(HandoverStep),
}

pub enum Reply {
    Produce(Vec<ProduceOutcome>),
    Read(Vec<ReadOutcome>),
    ListOffsets(Vec<ListOffsetsOutcome>),
    EpochEnds(Vec<EpochEndOutcome>),
    DeleteRecords(Vec<DeleteRecordsOutcome>),
    Group(Box<GroupReply>),
    Telemetry(TelemetryReply),
    ListGroups(Result<Vec<ListedGroup>, ErrorCode>),
    Transaction(Box<TransactionReply>),
    ListTransactions(Result<Vec<Listed>, ErrorCode>),
    DescribeProducers(Vec<DescribeProducersOutcome>),
    LogSizes(Vec<LogSize>),
    WriteMarkers(Vec<MarkerOutcome>),
    AskNode(NodeReply),
    /// How many the asking shard may have more.
    LendConnections(Lent),
    Control(ControlReply),
    Applied,
    RemovalsEnded,
    Handover(StepTaken),
}

pub struct ProduceItem {
    pub partition: TopicPartition,
    /// One validated batch.
    pub batch: Vec<u8>,
    pub claim: Option<TransactionClaim>,
    pub waits_for: Acks,
    pub time_max: Duration,
}

/// Whose transaction a request says its batches are part of. Not believed before the coordinator has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionClaim {
    pub transactional_id: String,
    pub kind: ClaimKind,
}

/// What the version of a request makes of its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// The partition was added before. The client does not know that a transaction may have to be aborted for it.
    Added,
    /// The same, and it knows.
    AddedOrAborts,
    /// The request adds it, in version 2 of transactions.
    Adds,
}

impl ClaimKind {
    pub fn version(self) -> TransactionVersion {
        match self {
            ClaimKind::Added | ClaimKind::AddedOrAborts => TransactionVersion::V1,
            ClaimKind::Adds => TransactionVersion::V2,
        }
    }
}

/// A transaction that has ended in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkerItem {
    pub partition: TopicPartition,
    pub marker: EndMarker,
    pub version: TransactionVersion,
    /// The newest that a coordinator has.
    pub newest: CoordinatorEpoch,
}

/// `error` is `None` once the marker is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkerOutcome {
    pub error: ErrorCode,
    /// Where it stands.
    pub offset: Option<Offset>,
}

#[derive(Clone, Copy, Debug)]
pub struct DescribeProducersItem {
    pub partition: TopicPartition,
}

#[derive(Clone, Debug, Default)]
pub struct DescribeProducersOutcome {
    pub error: ErrorCode,
    pub producers: Vec<ProducerDescription>,
}

/// What became of one batch. `error` is `None` when it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProduceOutcome {
    pub error: ErrorCode,
    pub base_offset: Option<Offset>,
    pub log_append_time: Option<Timestamp>,
    pub log_start: Option<Offset>,
    pub message: Option<String>,
    /// Numbers of the records for which the batch was refused (KIP-467).
    pub record_errors: Vec<u32>,
}

#[derive(Clone, Debug)]
pub struct ReadRequest {
    pub scope: ReadScope,
    /// Of the asking shard: whose turn it is.
    pub connection: u64,
    pub items: Vec<ReadItem>,
    /// Bytes over all items; the first batch found is returned whole even if it is larger.
    pub bytes_max: usize,
    /// Below this many bytes the reader wants a [`Message::Wake`] at the next append.
    pub bytes_min: usize,
    pub watch: Option<u64>,
}

/// What a client reads, and whom it wants to read it from.
#[derive(Clone, Debug)]
pub struct ReadScope {
    pub isolation: Isolation,
    /// A follower will do (KIP-392).
    pub from_followers: bool,
    /// Where the client is, if leaders send clients elsewhere.
    pub rack: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug)]
pub struct ReadItem {
    pub partition: TopicPartition,
    pub offset: Offset,
    pub bytes_max: usize,
    /// The leader epoch that the reader believes in (KIP-320).
    pub leader_epoch: Option<LeaderEpoch>,
    /// The epoch of the last record it has (KIP-595), to detect divergence.
    pub last_fetched_epoch: Option<LeaderEpoch>,
}

/// One partition's part of a fetch.
#[derive(Clone, Debug, Default)]
pub struct ReadOutcome {
    pub error: ErrorCode,
    pub high_watermark: Option<Offset>,
    pub last_stable_offset: Option<Offset>,
    pub log_start: Option<Offset>,
    pub diverging: Option<(LeaderEpoch, Offset)>,
    /// Who is to be asked instead.
    pub preferred: Option<BrokerId>,
    /// `None` unless committed records were asked for.
    pub aborted: Option<Vec<AbortedTransaction>>,
    pub records: Bytes,
    pub batches: usize,
    /// How much of `records` its owner had to read from disk.
    pub disk_size: usize,
    /// There is more to read, for which memory was short.
    pub is_short: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct ListOffsetsItem {
    pub partition: TopicPartition,
    pub target: ListOffsetsTarget,
    pub isolation: Isolation,
    pub leader_epoch: Option<LeaderEpoch>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ListOffsetsOutcome {
    pub error: ErrorCode,
    pub offset: Option<Offset>,
    pub timestamp: Option<Timestamp>,
    pub leader_epoch: Option<LeaderEpoch>,
}

#[derive(Clone, Copy, Debug)]
pub struct EpochEndItem {
    pub partition: TopicPartition,
    pub current_epoch: Option<LeaderEpoch>,
    pub epoch: LeaderEpoch,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct EpochEndOutcome {
    pub error: ErrorCode,
    pub epoch: Option<LeaderEpoch>,
    pub end_offset: Option<Offset>,
}

#[derive(Clone, Copy, Debug)]
pub struct DeleteRecordsItem {
    pub partition: TopicPartition,
    /// The new log start; `None` means the high watermark.
    pub before: Option<Offset>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteRecordsOutcome {
    pub error: ErrorCode,
    pub low_watermark: Option<Offset>,
}
