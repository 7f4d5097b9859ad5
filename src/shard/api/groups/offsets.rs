//! OffsetCommit, TxnOffsetCommit, OffsetFetch, OffsetDelete.
//!
//! Which topics and partitions there are is looked up where the group is coordinated, so that nothing is
//! committed to a topic whose deletion that core has seen.

use crate::codec::error_code::ErrorCode;
use crate::group::Answer;
use crate::group::member::text;
use crate::shard::api::groups::{Asking, distinct};
use crate::shard::groups::{FetchedOffset, GroupReply, GroupRequest, Stability};
use crate::shard::message::{ClaimKind, TransactionClaim};
use crate::shard::step::Pace;
use crate::types::{ProducerEpoch, ProducerId};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;

/// The first version of OffsetFetch with an error of its own; before it each partition has it.
const FETCH_ERROR_FROM: i16 = 2;
/// The first version of OffsetFetch that asks for several groups (KIP-709).
const FETCH_GROUPS_FROM: i16 = 8;
/// The first version of TxnOffsetCommit whose clients know that a transaction may have to be aborted (KIP-890).
const TRANSACTION_ABORTABLE_FROM: i16 = 4;
/// The first version of TxnOffsetCommit that adds its partition to the transaction.
const TRANSACTION_ADDS_FROM: i16 = 5;
/// "There is none", of offsets and of leader epochs.
const NONE: i64 = -1;

type Topics = Vec<(TopicName, Vec<i32>)>;

pub async fn commit(asking: &Asking<'_>, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let partitions = partitions_of(&request);
    let group = request.group_id.clone();
    match asking.ask(&group, GroupRequest::Commit(request)).await {
        GroupReply::Refused(error) => refused_commit(partitions, error),
        GroupReply::Answer(Answer::Commit(response)) => response,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a commit is answered by a commit")
        }
    }
}

fn refused_commit(topics: Topics, error: ErrorCode) -> OffsetCommitResponse {
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|index| {
            let partition = OffsetCommitResponsePartition::default().with_partition_index(index);
            partition.with_error_code(error.code())
        });
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// As a commit, whose offsets count once the transaction is committed.
pub async fn commit_in_transaction(
    asking: &Asking<'_>,
    request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let kind = match asking.version {
        TRANSACTION_ADDS_FROM.. => ClaimKind::Adds,
        TRANSACTION_ABORTABLE_FROM.. => ClaimKind::AddedOrAborts,
        _ => ClaimKind::Added,
    };
    let claim = TransactionClaim { transactional_id: request.transactional_id.to_string(), kind };
    let writer = (ProducerId(request.producer_id.0), ProducerEpoch(request.producer_epoch));
    let group = request.group_id.clone();
    let request = as_commit(request);
    let partitions = partitions_of(&request);
    let asked = GroupRequest::CommitInTransaction { request, writer, claim };
    let response = match asking.ask(&group, asked).await {
        GroupReply::Refused(error) => refused_commit(partitions, error),
        GroupReply::Answer(Answer::Commit(response)) => response,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a commit is answered by a commit")
        }
    };
    let topics = response.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            TxnOffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(partition.error_code)
        });
        TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

fn as_commit(request: TxnOffsetCommitRequest) -> OffsetCommitRequest {
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(partition.partition_index)
                .with_committed_offset(partition.committed_offset)
                .with_committed_leader_epoch(partition.committed_leader_epoch)
                .with_committed_metadata(partition.committed_metadata)
        });
        OffsetCommitRequestTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    OffsetCommitRequest::default()
        .with_group_id(request.group_id)
        .with_generation_id_or_member_epoch(request.generation_id)
        .with_member_id(request.member_id)
        .with_group_instance_id(request.group_instance_id)
        .with_topics(topics.collect())
}

fn partitions_of(request: &OffsetCommitRequest) -> Topics {
    let of_topic = |topic: &OffsetCommitRequestTopic| {
        let indexes = topic.partitions.iter().map(|partition| partition.partition_index);
        (topic.name.clone(), indexes.collect())
    };
    request.topics.iter().map(of_topic).collect()
}

pub async fn delete_offsets(asking: &Asking<'_>, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let group = request.group_id.clone();
    match asking.ask(&group, GroupRequest::DeleteOffsets(request)).await {
        GroupReply::Refused(error) => OffsetDeleteResponse::default().with_error_code(error.code()),
        GroupReply::Answer(Answer::DeleteOffsets(response)) => response,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a deletion is answered by a deletion")
        }
    }
}

pub async fn fetch(asking: &Asking<'_>, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let stability = if request.require_stable { Stability::Stable } else { Stability::Any };
    if asking.version < FETCH_GROUPS_FROM {
        let topics = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect::<Topics>()
        });
        let asked = topics.clone();
        let fetched = fetch_group(asking, &request.group_id, NOBODY, topics, stability).await;
        return of_one(fetched, asked.unwrap_or_default(), asking.version);
    }
    let asked = distinct(request.groups, |group| group.group_id.clone());
    let mut groups = Vec::with_capacity(asked.len());
    let mut pace = Pace::new(&asking.shard.clock);
    for group in asked {
        pace.give_way().await;
        let OffsetFetchRequestGroup { group_id, topics, member_id, member_epoch, .. } = group;
        let topics = topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect::<Topics>()
        });
        let member = (member_id.map(|id| id.to_string()), member_epoch);
        let fetched = fetch_group(asking, &group_id, member, topics, stability).await;
        let group = OffsetFetchResponseGroup::default().with_group_id(group_id);
        groups.push(match fetched {
            Err(error) => group.with_error_code(error.code()),
            Ok(topics) => group.with_topics(topics.into_iter().map(of_topic).collect()),
        });
    }
    OffsetFetchResponse::default().with_groups(groups)
}

type Fetched = Vec<(TopicName, Vec<FetchedOffset>)>;

/// A member of a group of the newer protocol, and its epoch.
type Member = (Option<String>, i32);

/// Who does not say who it is.
const NOBODY: Member = (None, -1);

async fn fetch_group(
    asking: &Asking<'_>,
    group: &str,
    member: Member,
    topics: Option<Topics>,
    stability: Stability,
) -> Result<Fetched, ErrorCode> {
    match asking.ask(group, GroupRequest::Fetch { group: group.to_owned(), member, topics, stability }).await
    {
        GroupReply::Fetched(topics) => Ok(topics),
        GroupReply::Refused(error) => Err(error),
        GroupReply::Answer(_) | GroupReply::Described(_) | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a fetch is answered by a fetch")
        }
    }
}

/// Offset, leader epoch and metadata of a partition.
fn committed(fetched: FetchedOffset) -> (i64, i32, Option<StrBytes>) {
    match fetched.committed.filter(|_| !fetched.is_unstable) {
        Some(committed) => {
            (committed.offset, committed.leader_epoch.unwrap_or(-1), Some(text(&committed.metadata)))
        }
        None => (NONE, NONE as i32, Some(StrBytes::default())),
    }
}

fn unstable(fetched: &FetchedOffset) -> ErrorCode {
    if fetched.is_unstable { ErrorCode::UnstableOffsetCommit } else { ErrorCode::None }
}

fn of_topic((name, partitions): (TopicName, Vec<FetchedOffset>)) -> OffsetFetchResponseTopics {
    let partitions = partitions.into_iter().map(|fetched| {
        let partition = OffsetFetchResponsePartitions::default()
            .with_partition_index(fetched.partition)
            .with_error_code(unstable(&fetched).code());
        let (offset, epoch, metadata) = committed(fetched);
        partition.with_committed_offset(offset).with_committed_leader_epoch(epoch).with_metadata(metadata)
    });
    OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.collect())
}

/// The answer of versions that ask for one group.
fn of_one(fetched: Result<Fetched, ErrorCode>, asked: Topics, version: i16) -> OffsetFetchResponse {
    let response = OffsetFetchResponse::default();
    let (topics, error) = match fetched {
        Ok(topics) => (topics, ErrorCode::None),
        Err(error) if version >= FETCH_ERROR_FROM => return response.with_error_code(error.code()),
        Err(error) => {
            let missing = |partition| FetchedOffset { partition, committed: None, is_unstable: false };
            let topics = asked
                .into_iter()
                .map(|(name, partitions)| (name, partitions.into_iter().map(missing).collect()));
            (topics.collect(), error)
        }
    };
    let topics = topics.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|fetched| {
            let partition = OffsetFetchResponsePartition::default().with_partition_index(fetched.partition);
            let error = if error == ErrorCode::None { unstable(&fetched) } else { error };
            let (offset, epoch, metadata) = committed(fetched);
            partition
                .with_committed_offset(offset)
                .with_committed_leader_epoch(epoch)
                .with_metadata(metadata)
                .with_error_code(error.code())
        });
        OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    response.with_topics(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::groups::Committed;
    use kafka_protocol::protocol::Encodable;

    fn fetched() -> Fetched {
        let committed = Committed { offset: 5, leader_epoch: Some(2), metadata: "note".to_owned() };
        let partitions = vec![
            FetchedOffset { partition: 0, committed: Some(committed), is_unstable: false },
            FetchedOffset { partition: 1, committed: None, is_unstable: false },
        ];
        vec![(TopicName(text("t")), partitions)]
    }

    #[test]
    fn offsets_are_answered_in_every_version() {
        for version in 1..FETCH_GROUPS_FROM {
            let response = of_one(Ok(fetched()), Vec::new(), version);
            response.encode(&mut Vec::new(), version).unwrap();
            let [first, second] = &response.topics[0].partitions[..] else { panic!() };
            assert_eq!((first.committed_offset, first.committed_leader_epoch), (5, 2));
            assert_eq!((second.committed_offset, second.committed_leader_epoch), (-1, -1));
            assert_eq!(second.metadata.as_deref(), Some(""));
        }
    }

    #[test]
    fn an_offset_that_may_change_is_not_told() {
        let unstable = || {
            let mut fetched = fetched();
            fetched[0].1[0].is_unstable = true;
            fetched
        };
        let response = of_one(Ok(unstable()), Vec::new(), 7);
        let [first, second] = &response.topics[0].partitions[..] else { panic!() };
        assert_eq!((first.error_code, first.committed_offset), (88, -1));
        assert_eq!((second.error_code, second.committed_offset), (0, -1));
        let first = &of_topic(unstable().remove(0)).partitions[0];
        assert_eq!((first.error_code, first.committed_offset), (88, -1));
    }

    #[test]
    fn oldest_version_has_the_error_in_each_partition() {
        let asked = vec![(TopicName(text("t")), vec![0, 1])];
        let old = of_one(Err(ErrorCode::NotCoordinator), asked.clone(), 1);
        old.encode(&mut Vec::new(), 1).unwrap();
        let errors: Vec<_> = old.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
        assert_eq!((old.error_code, errors), (0, vec![16, 16]));
        let new = of_one(Err(ErrorCode::NotCoordinator), asked, 2);
        assert_eq!((new.error_code, new.topics.len()), (16, 0));
    }
}
