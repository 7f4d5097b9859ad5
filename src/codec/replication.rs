//! What leaders and followers say to each other, as owned values; `schemas/replication.fbs` has the tables.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use crate::codec::peer_message::{MessageError, table_root, topic_partition};
use crate::schema::replication as fb;
use crate::types::limits::{PEER_PARTITIONS_MAX, STATED_EPOCHS_MAX};
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, TopicPartition};

/// Where a leader epoch begins in a follower's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatedEpoch {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// What a follower has of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    /// Counted up by the follower with every statement.
    pub session: u32,
    pub log_start: Offset,
    pub log_end: Offset,
    pub flushed_end: Offset,
    /// The newest ones, in order.
    pub epochs: Vec<StatedEpoch>,
}

/// Of a follower, with its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statements {
    pub node: NodeId,
    pub broker_epoch: BrokerEpoch,
    pub partitions: Vec<Statement>,
}

/// Why a statement has no answer but this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotLeader,
    FencedLeaderEpoch,
    UnknownLeaderEpoch,
    NoReplica,
}

/// What a follower has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlignmentOutcome {
    /// Appends follow, from its log end on.
    Follow,
    CutTo(Offset),
    StartOver(Offset),
    Refused(Refusal),
}

/// A leader's answer to a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub session: u32,
    pub outcome: AlignmentOutcome,
}

/// Batches of one partition, or only news of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Append {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub session: u32,
    /// Where the follower's log ends before.
    pub base_offset: Offset,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// Bytes of its batches in the payload.
    pub size: u32,
    /// They count against what the follower takes of throttled replicas.
    pub is_throttled: bool,
}

/// What a follower has flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    pub partition: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub session: u32,
    pub flushed_end: Offset,
    pub log_start: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgements {
    pub node: NodeId,
    pub broker_epoch: BrokerEpoch,
    /// Bytes of payload of this connection that the follower has done with, in all.
    pub released_bytes: u64,
    pub partitions: Vec<Acknowledgement>,
    /// Bytes that this connection may bring of throttled replicas, in all. `None`: any.
    pub throttled_bytes_max: Option<u64>,
}

type Builder = FlatBufferBuilder<'static>;

fn id(partition: TopicPartition) -> (fb::Id, u32) {
    (fb::Id::new(partition.topic.0.as_bytes()), partition.partition.index() as u32)
}

fn offset(value: u64) -> Result<Offset, MessageError> {
    Offset::new(value).ok_or(MessageError::Offset(value))
}

fn epoch(value: i32) -> Result<LeaderEpoch, MessageError> {
    if value < 0 { Err(MessageError::NegativeEpoch) } else { Ok(LeaderEpoch(value)) }
}

pub(super) fn encode_statements(statements: &Statements) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64 + 96 * statements.partitions.len());
    let each = |statement: &Statement| {
        let epochs = statement.epochs.iter();
        let epochs: Vec<_> =
            epochs.map(|stated| fb::EpochStart::new(stated.start_offset.get(), stated.epoch.0)).collect();
        let epochs = builder.create_vector(&epochs);
        let (topic, partition) = id(statement.partition);
        let args = fb::StatementArgs {
            topic: Some(&topic),
            partition,
            leader_epoch: statement.leader_epoch.0,
            session: statement.session,
            log_start: statement.log_start.get(),
            log_end: statement.log_end.get(),
            flushed_end: statement.flushed_end.get(),
            epochs: Some(epochs),
        };
        fb::Statement::create(&mut builder, &args)
    };
    let partitions: Vec<_> = statements.partitions.iter().map(each).collect();
    let partitions = builder.create_vector(&partitions);
    let args = fb::StatementsArgs {
        node: statements.node.0,
        broker_epoch: statements.broker_epoch.0,
        partitions: Some(partitions),
    };
    let root = fb::Statements::create(&mut builder, &args);
    finish(builder, root)
}

pub(super) fn decode_statements(table: &[u8]) -> Result<Statements, MessageError> {
    let root = table_root::<fb::Statements<'_>>(table)?;
    let each = |statement: fb::Statement<'_>| {
        let epochs = statement.epochs().into_iter().flatten();
        let epochs = epochs.map(|stated| {
            let start_offset = offset(stated.start_offset())?;
            Ok(StatedEpoch { epoch: epoch(stated.epoch())?, start_offset })
        });
        let epochs = epochs.collect::<Result<Vec<_>, MessageError>>()?;
        let is_ordered = epochs.is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset);
        if !is_ordered || epochs.len() > STATED_EPOCHS_MAX {
            return Err(MessageError::Epochs);
        }
        let decoded = Statement {
            partition: topic_partition(&statement.topic().bytes(), statement.partition())?,
            leader_epoch: epoch(statement.leader_epoch())?,
            session: statement.session(),
            log_start: offset(statement.log_start())?,
            log_end: offset(statement.log_end())?,
            flushed_end: offset(statement.flushed_end())?,
            epochs,
        };
        if decoded.log_start > decoded.log_end || decoded.flushed_end > decoded.log_end {
            return Err(MessageError::Ends);
        }
        Ok(decoded)
    };
    let partitions = few(root.partitions().iter())?.map(each).collect::<Result<_, _>>()?;
    Ok(Statements { node: NodeId(root.node()), broker_epoch: BrokerEpoch(root.broker_epoch()), partitions })
}

pub(super) fn encode_alignments(alignments: &[Alignment]) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64 + 64 * alignments.len());
    let each = |alignment: &Alignment| {
        let (topic, partition) = id(alignment.partition);
        let (outcome, offset) = match alignment.outcome {
            AlignmentOutcome::Follow => (fb::Outcome::Follow, 0),
            AlignmentOutcome::CutTo(end) => (fb::Outcome::CutTo, end.get()),
            AlignmentOutcome::StartOver(at) => (fb::Outcome::StartOver, at.get()),
            AlignmentOutcome::Refused(Refusal::NotLeader) => (fb::Outcome::NotLeader, 0),
            AlignmentOutcome::Refused(Refusal::FencedLeaderEpoch) => (fb::Outcome::FencedLeaderEpoch, 0),
            AlignmentOutcome::Refused(Refusal::UnknownLeaderEpoch) => (fb::Outcome::UnknownLeaderEpoch, 0),
            AlignmentOutcome::Refused(Refusal::NoReplica) => (fb::Outcome::NoReplica, 0),
        };
        let args = fb::AlignmentArgs {
            topic: Some(&topic),
            partition,
            leader_epoch: alignment.leader_epoch.0,
            session: alignment.session,
            outcome,
            offset,
        };
        fb::Alignment::create(&mut builder, &args)
    };
    let partitions: Vec<_> = alignments.iter().map(each).collect();
    let partitions = builder.create_vector(&partitions);
    let root = fb::Alignments::create(&mut builder, &fb::AlignmentsArgs { partitions: Some(partitions) });
    finish(builder, root)
}

pub(super) fn decode_alignments(table: &[u8]) -> Result<Vec<Alignment>, MessageError> {
    let root = table_root::<fb::Alignments<'_>>(table)?;
    let each = |alignment: fb::Alignment<'_>| {
        let outcome = match alignment.outcome() {
            fb::Outcome::Follow => AlignmentOutcome::Follow,
            fb::Outcome::CutTo => AlignmentOutcome::CutTo(offset(alignment.offset())?),
            fb::Outcome::StartOver => AlignmentOutcome::StartOver(offset(alignment.offset())?),
            fb::Outcome::NotLeader => AlignmentOutcome::Refused(Refusal::NotLeader),
            fb::Outcome::FencedLeaderEpoch => AlignmentOutcome::Refused(Refusal::FencedLeaderEpoch),
            fb::Outcome::UnknownLeaderEpoch => AlignmentOutcome::Refused(Refusal::UnknownLeaderEpoch),
            fb::Outcome::NoReplica => AlignmentOutcome::Refused(Refusal::NoReplica),
            other => return Err(MessageError::Outcome(other.0)),
        };
        Ok(Alignment {
            partition: topic_partition(&alignment.topic().bytes(), alignment.partition())?,
            leader_epoch: epoch(alignment.leader_epoch())?,
            session: alignment.session(),
            outcome,
        })
    };
    few(root.partitions().iter())?.map(each).collect()
}

pub(super) fn encode_appends(appends: &[Append]) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64 + 72 * appends.len());
    let each = |append: &Append| {
        let (topic, partition) = id(append.partition);
        let args = fb::AppendArgs {
            topic: Some(&topic),
            partition,
            leader_epoch: append.leader_epoch.0,
            session: append.session,
            base_offset: append.base_offset.get(),
            high_watermark: append.high_watermark.get(),
            log_start: append.log_start.get(),
            size: append.size,
            is_throttled: append.is_throttled,
        };
        fb::Append::create(&mut builder, &args)
    };
    let partitions: Vec<_> = appends.iter().map(each).collect();
    let partitions = builder.create_vector(&partitions);
    let root = fb::Appends::create(&mut builder, &fb::AppendsArgs { partitions: Some(partitions) });
    finish(builder, root)
}

pub(super) fn decode_appends(table: &[u8], payload: usize) -> Result<Vec<Append>, MessageError> {
    let root = table_root::<fb::Appends<'_>>(table)?;
    let each = |append: fb::Append<'_>| {
        Ok(Append {
            partition: topic_partition(&append.topic().bytes(), append.partition())?,
            leader_epoch: epoch(append.leader_epoch())?,
            session: append.session(),
            base_offset: offset(append.base_offset())?,
            high_watermark: offset(append.high_watermark())?,
            log_start: offset(append.log_start())?,
            size: append.size(),
            is_throttled: append.is_throttled(),
        })
    };
    let appends = few(root.partitions().iter())?.map(each).collect::<Result<Vec<_>, _>>()?;
    let promised: u64 = appends.iter().map(|append| u64::from(append.size)).sum();
    if promised != payload as u64 {
        return Err(MessageError::Payload { promised, found: payload as u64 });
    }
    Ok(appends)
}

pub(super) fn encode_acknowledgements(acknowledgements: &Acknowledgements) -> Vec<u8> {
    let mut builder = Builder::with_capacity(64 + 64 * acknowledgements.partitions.len());
    let each = |ack: &Acknowledgement| {
        let (topic, partition) = id(ack.partition);
        let args = fb::AcknowledgementArgs {
            topic: Some(&topic),
            partition,
            leader_epoch: ack.leader_epoch.0,
            session: ack.session,
            flushed_end: ack.flushed_end.get(),
            log_start: ack.log_start.get(),
        };
        fb::Acknowledgement::create(&mut builder, &args)
    };
    let partitions: Vec<_> = acknowledgements.partitions.iter().map(each).collect();
    let partitions = builder.create_vector(&partitions);
    let args = fb::AcknowledgementsArgs {
        node: acknowledgements.node.0,
        broker_epoch: acknowledgements.broker_epoch.0,
        released_bytes: acknowledgements.released_bytes,
        partitions: Some(partitions),
        throttled_bytes_max: acknowledgements.throttled_bytes_max,
    };
    let root = fb::Acknowledgements::create(&mut builder, &args);
    finish(builder, root)
}

pub(super) fn decode_acknowledgements(table: &[u8]) -> Result<Acknowledgements, MessageError> {
    let root = table_root::<fb::Acknowledgements<'_>>(table)?;
    let each = |ack: fb::Acknowledgement<'_>| {
        Ok(Acknowledgement {
            partition: topic_partition(&ack.topic().bytes(), ack.partition())?,
            leader_epoch: epoch(ack.leader_epoch())?,
            session: ack.session(),
            flushed_end: offset(ack.flushed_end())?,
            log_start: offset(ack.log_start())?,
        })
    };
    let partitions = match root.partitions() {
        Some(partitions) => few(partitions.iter())?.map(each).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    Ok(Acknowledgements {
        node: NodeId(root.node()),
        broker_epoch: BrokerEpoch(root.broker_epoch()),
        released_bytes: root.released_bytes(),
        partitions,
        throttled_bytes_max: root.throttled_bytes_max(),
    })
}

pub(super) fn few<I: ExactSizeIterator>(partitions: I) -> Result<I, MessageError> {
    match partitions.len() {
        count if count > PEER_PARTITIONS_MAX => Err(MessageError::TooMany(count)),
        _ => Ok(partitions),
    }
}

pub(super) fn finish<T>(mut builder: Builder, root: WIPOffset<T>) -> Vec<u8> {
    builder.finish(root, None);
    builder.finished_data().to_vec()
}
