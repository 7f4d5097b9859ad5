//! What nodes say to each other about transactions, as owned values; `schemas/transactions.fbs` has the tables.

use flatbuffers::FlatBufferBuilder;

use crate::codec::control_record::{EndMarker, TransactionOutcome};
use crate::codec::error_code::ErrorCode;
use crate::codec::peer_message::{MessageError, table_root, topic_partition};
use crate::codec::replication::{few, finish};
use crate::schema::transactions as fb;
use crate::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, TopicPartition, TransactionVersion};

/// What a transaction's coordinator is asked: whether the partition is part of the transaction that this
/// producer has open. In version 2 it may add the partition to it, and then say yes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerificationQuestion {
    pub transactional_id: String,
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    pub partition: TopicPartition,
    pub version: TransactionVersion,
}

/// A transaction has ended in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionMarker {
    pub partition: TopicPartition,
    pub marker: EndMarker,
    pub version: TransactionVersion,
}

type Builder = FlatBufferBuilder<'static>;

fn encode_version(version: TransactionVersion) -> u8 {
    match version {
        TransactionVersion::V1 => 1,
        TransactionVersion::V2 => 2,
    }
}

fn decode_version(version: u8) -> Result<TransactionVersion, MessageError> {
    match version {
        1 => Ok(TransactionVersion::V1),
        2 => Ok(TransactionVersion::V2),
        other => Err(MessageError::TransactionVersion(other)),
    }
}

fn producer_of(id: i64, epoch: i16) -> Result<(ProducerId, ProducerEpoch), MessageError> {
    if id < 0 || epoch < 0 {
        return Err(MessageError::Producer(id, epoch));
    }
    Ok((ProducerId(id), ProducerEpoch(epoch)))
}

fn id(partition: TopicPartition) -> (fb::Id, u32) {
    (fb::Id::new(partition.topic.0.as_bytes()), partition.partition.index() as u32)
}

pub fn encode_verification(question: &VerificationQuestion) -> Vec<u8> {
    let mut builder = Builder::with_capacity(128 + question.transactional_id.len());
    let transactional_id = builder.create_string(&question.transactional_id);
    let (topic, partition) = id(question.partition);
    let args = fb::VerificationArgs {
        transactional_id: Some(transactional_id),
        producer: question.producer.0,
        producer_epoch: question.epoch.0,
        topic: Some(&topic),
        partition,
        version: encode_version(question.version),
    };
    let root = fb::Verification::create(&mut builder, &args);
    finish(builder, root)
}

pub fn decode_verification(table: &[u8]) -> Result<VerificationQuestion, MessageError> {
    let root = table_root::<fb::Verification<'_>>(table)?;
    let (producer, epoch) = producer_of(root.producer(), root.producer_epoch())?;
    Ok(VerificationQuestion {
        transactional_id: root.transactional_id().to_owned(),
        producer,
        epoch,
        partition: topic_partition(&root.topic().bytes(), root.partition())?,
        version: decode_version(root.version())?,
    })
}

pub fn encode_markers(markers: &[PartitionMarker]) -> Vec<u8> {
    let each = |PartitionMarker { partition, marker, version }: &PartitionMarker| {
        let (topic, partition) = id(*partition);
        fb::Marker::new(
            &topic,
            marker.producer.0,
            partition,
            marker.coordinator_epoch.0,
            marker.producer_epoch.0,
            marker.outcome == TransactionOutcome::Commit,
            encode_version(*version),
        )
    };
    let markers: Vec<_> = markers.iter().map(each).collect();
    let mut builder = Builder::with_capacity(64 + 40 * markers.len());
    let markers = builder.create_vector(&markers);
    let root = fb::Markers::create(&mut builder, &fb::MarkersArgs { markers: Some(markers) });
    finish(builder, root)
}

pub fn decode_markers(table: &[u8]) -> Result<Vec<PartitionMarker>, MessageError> {
    let root = table_root::<fb::Markers<'_>>(table)?;
    let each = |marker: &fb::Marker| {
        let (producer, producer_epoch) = producer_of(marker.producer(), marker.producer_epoch())?;
        let outcome = match marker.is_commit() {
            true => TransactionOutcome::Commit,
            false => TransactionOutcome::Abort,
        };
        let coordinator_epoch = CoordinatorEpoch(marker.coordinator_epoch());
        Ok(PartitionMarker {
            partition: topic_partition(&marker.topic().bytes(), marker.partition())?,
            marker: EndMarker { producer, producer_epoch, coordinator_epoch, outcome },
            version: decode_version(marker.version())?,
        })
    };
    few(root.markers().iter())?.map(each).collect()
}

pub fn encode_markers_written(errors: &[ErrorCode]) -> Vec<u8> {
    let errors: Vec<i16> = errors.iter().map(|error| error.code()).collect();
    let mut builder = Builder::with_capacity(64 + 2 * errors.len());
    let errors = builder.create_vector(&errors);
    let root = fb::MarkersWritten::create(&mut builder, &fb::MarkersWrittenArgs { errors: Some(errors) });
    finish(builder, root)
}

/// An error that is unknown is one of the server.
pub fn decode_markers_written(table: &[u8]) -> Result<Vec<ErrorCode>, MessageError> {
    let root = table_root::<fb::MarkersWritten<'_>>(table)?;
    let known = |code| ErrorCode::from_wire(code).unwrap_or(ErrorCode::UnknownServerError);
    Ok(few(root.errors().iter())?.map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PartitionIndex, TopicId, Uuid};
    use expect_test::expect;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn partition() -> impl Strategy<Value = TopicPartition> {
        (any::<u128>(), 0..i32::MAX).prop_map(|(topic, index)| TopicPartition {
            topic: TopicId(Uuid::from_u128(topic)),
            partition: PartitionIndex::from_wire(index).unwrap(),
        })
    }

    fn version() -> impl Strategy<Value = TransactionVersion> {
        prop_oneof![Just(TransactionVersion::V1), Just(TransactionVersion::V2)]
    }

    fn producer() -> impl Strategy<Value = (ProducerId, ProducerEpoch)> {
        (0..=i64::MAX, 0..=i16::MAX).prop_map(|(id, epoch)| (ProducerId(id), ProducerEpoch(epoch)))
    }

    fn verification() -> impl Strategy<Value = VerificationQuestion> {
        (".{0,20}", producer(), partition(), version()).prop_map(
            |(transactional_id, (producer, epoch), partition, version)| VerificationQuestion {
                transactional_id,
                producer,
                epoch,
                partition,
                version,
            },
        )
    }

    fn marker() -> impl Strategy<Value = PartitionMarker> {
        (partition(), producer(), any::<i32>(), any::<bool>(), version()).prop_map(
            |(partition, (producer, producer_epoch), coordinator_epoch, is_commit, version)| {
                let outcome = if is_commit { TransactionOutcome::Commit } else { TransactionOutcome::Abort };
                let coordinator_epoch = CoordinatorEpoch(coordinator_epoch);
                let marker = EndMarker { producer, producer_epoch, coordinator_epoch, outcome };
                PartitionMarker { partition, marker, version }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(question in verification(), markers in vec(marker(), 0..5)) {
            prop_assert_eq!(decode_verification(&encode_verification(&question)), Ok(question));
            prop_assert_eq!(decode_markers(&encode_markers(&markers)), Ok(markers));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode_verification(&bytes);
            let _ = decode_markers(&bytes);
            let _ = decode_markers_written(&bytes);
        }
    }

    #[test]
    fn outcomes_are_read_as_they_were_written() {
        let errors = [ErrorCode::None, ErrorCode::NotLeaderOrFollower, ErrorCode::InvalidProducerEpoch];
        assert_eq!(decode_markers_written(&encode_markers_written(&errors)), Ok(errors.to_vec()));
    }

    #[test]
    fn a_marker_has_these_bytes() {
        let topic = TopicId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
        let marker = PartitionMarker {
            partition: TopicPartition { topic, partition: PartitionIndex::from_wire(3).unwrap() },
            marker: EndMarker {
                producer: ProducerId(4000),
                producer_epoch: ProducerEpoch(5),
                coordinator_epoch: CoordinatorEpoch(6),
                outcome: TransactionOutcome::Commit,
            },
            version: TransactionVersion::V2,
        };
        let hex: String = encode_markers(&[marker]).iter().map(|byte| format!("{byte:02x}")).collect();
        expect!["0c00000000000600080004000600000004000000010000000102030405060708090a0b0c0d0e0f10a00f00000000000003000000060000000500010200000000"].assert_eq(&hex);
    }

    #[test]
    fn nobody_has_a_negative_producer_id_or_a_third_version() {
        assert_eq!(producer_of(-1, 0), Err(MessageError::Producer(-1, 0)));
        assert_eq!(producer_of(0, -1), Err(MessageError::Producer(0, -1)));
        assert_eq!(decode_version(3), Err(MessageError::TransactionVersion(3)));
        assert_eq!(decode_version(0), Err(MessageError::TransactionVersion(0)));
    }
}
