//! A member of a group under the classic protocol, which reads what it is assigned and commits how far it is.
//!
//! Whoever leads the group deals the partitions of each topic among those that subscribe to it, as Kafka's
//! `RangeAssignor` does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::cluster::{Bootstrap, ClusterError};
use crate::coordinator::{Coordinator, KeyType};
use crate::versions::Api;

const SESSION: Duration = Duration::from_secs(10);
/// Below what an answer may take, as a join waits for it.
const REBALANCE: Duration = Duration::from_secs(20);
const NEWEST: i16 = i16::MAX;
/// Of subscriptions and assignments: what every client reads.
const PROTOCOL_VERSION: i16 = 0;

const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;

/// What a heartbeat, or a commit, has to say of the generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Member,
    /// Others have come or gone: it has to join again.
    Rebalance,
    /// The group went on without it.
    Lost,
}

/// Lives: for the whole run, through all generations.
pub struct GroupMember {
    coordinator: Coordinator,
    bootstrap: Bootstrap,
    group: String,
    topic: String,
    id: String,
    generation: i32,
}

impl GroupMember {
    pub fn new(bootstrap: &Bootstrap, group: &str, topic: &str) -> GroupMember {
        GroupMember {
            coordinator: Coordinator::new(bootstrap, KeyType::Group, group),
            bootstrap: bootstrap.clone(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            id: String::new(),
            generation: -1,
        }
    }

    fn group_id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    /// Joins, and waits for what it is assigned.
    pub async fn join(&mut self) -> Result<Vec<i32>, ClusterError> {
        loop {
            let joined = self.join_once().await?;
            let assignments = match joined.leader == joined.member_id {
                true => self.assign(&joined).await?,
                false => Vec::new(),
            };
            let request = SyncGroupRequest::default()
                .with_group_id(self.group_id())
                .with_member_id(text(&self.id))
                .with_generation_id(self.generation)
                .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
                .with_protocol_name(joined.protocol_name.clone())
                .with_assignments(assignments);
            let synced = self
                .coordinator
                .ask((Api::SyncGroup, "SyncGroup"), NEWEST, &request, |answer| {
                    if standing(answer.error_code).is_some() { 0 } else { answer.error_code }
                })
                .await?;
            match standing(synced.error_code) {
                Some(Standing::Member) | None => return Ok(self.assigned(synced.assignment)),
                Some(Standing::Rebalance) => {}
                Some(Standing::Lost) => self.id.clear(),
            }
        }
    }

    async fn join_once(&mut self) -> Result<JoinGroupResponse, ClusterError> {
        let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text(&self.topic)]);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str("range"))
            .with_metadata(versioned(&subscription));
        let request = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(SESSION.as_millis() as i32)
            .with_rebalance_timeout_ms(REBALANCE.as_millis() as i32)
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol]);
        loop {
            let request = request.clone().with_member_id(text(&self.id));
            let joined = self
                .coordinator
                .ask((Api::JoinGroup, "JoinGroup"), NEWEST, &request, |answer| match answer.error_code {
                    MEMBER_ID_REQUIRED | UNKNOWN_MEMBER_ID => 0,
                    code => code,
                })
                .await?;
            match joined.error_code {
                UNKNOWN_MEMBER_ID => self.id.clear(),
                MEMBER_ID_REQUIRED => self.id = joined.member_id.to_string(),
                _ => {
                    self.id = joined.member_id.to_string();
                    self.generation = joined.generation_id;
                    return Ok(joined);
                }
            }
        }
    }

    /// As the leader: everybody's part.
    async fn assign(
        &self,
        joined: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClusterError> {
        let mut subscribers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for member in &joined.members {
            for topic in topics_of(member.metadata.clone()) {
                subscribers.entry(topic).or_default().insert(member.member_id.to_string());
            }
        }
        let mut counts = BTreeMap::new();
        for topic in subscribers.keys() {
            let leaders = self.bootstrap.leaders(topic).await?;
            counts.insert(topic.clone(), leaders.iter().map(|leader| leader.partitions.len()).sum());
        }
        let mut assigned = range(&subscribers, &counts);
        let of_member = joined.members.iter().map(|member| {
            let topics = assigned.remove(member.member_id.as_str()).unwrap_or_default();
            let topics = topics.into_iter().map(|(topic, partitions)| {
                TopicPartition::default().with_topic(TopicName(text(&topic))).with_partitions(partitions)
            });
            let assignment = ConsumerProtocolAssignment::default().with_assigned_partitions(topics.collect());
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(versioned(&assignment))
        });
        Ok(of_member.collect())
    }

    /// Its partitions of the topic; none where the assignment cannot be read.
    fn assigned(&self, mut assignment: Bytes) -> Vec<i32> {
        if assignment.len() < 2 {
            return Vec::new();
        }
        let version = i16::from_be_bytes([assignment[0], assignment[1]]).clamp(0, 3);
        let _ = assignment.split_to(2);
        let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut assignment, version) else {
            return Vec::new();
        };
        let topics = assignment.assigned_partitions.into_iter();
        topics.filter(|topic| topic.topic.as_str() == self.topic).flat_map(|topic| topic.partitions).collect()
    }

    /// Where the group is in these partitions; none of those in which it has committed nothing.
    pub async fn committed(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, ClusterError> {
        let topic = OffsetFetchRequestTopic::default()
            .with_name(TopicName(text(&self.topic)))
            .with_partition_indexes(partitions.to_vec());
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group_id())
            .with_topics(Some(vec![topic]))
            .with_require_stable(true);
        let fetched = self
            .coordinator
            .ask((Api::OffsetFetch, "OffsetFetch"), NEWEST, &request, |answer| {
                let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
                let mut codes = std::iter::once(answer.error_code).chain(partitions.map(|p| p.error_code));
                codes.find(|code| *code != 0).unwrap_or(0)
            })
            .await?;
        let partitions = fetched.topics.iter().flat_map(|topic| &topic.partitions);
        let places = partitions.map(|partition| (partition.partition_index, partition.committed_offset));
        Ok(places.filter(|(_, offset)| *offset >= 0).collect())
    }

    pub async fn commit(&mut self, positions: &BTreeMap<i32, i64>) -> Result<Standing, ClusterError> {
        if positions.is_empty() {
            return Ok(Standing::Member);
        }
        let partitions = positions.iter().map(|(partition, offset)| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(StrBytes::default()))
        });
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(&self.topic)))
            .with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_member_id(text(&self.id))
            .with_generation_id_or_member_epoch(self.generation)
            .with_topics(vec![topic]);
        let committed = self
            .coordinator
            .ask((Api::OffsetCommit, "OffsetCommit"), NEWEST, &request, |answer| {
                let code = commit_error(answer);
                if standing(code).is_some() { 0 } else { code }
            })
            .await?;
        Ok(self.now(standing(commit_error(&committed)).unwrap_or(Standing::Member)))
    }

    pub async fn heartbeat(&mut self) -> Result<Standing, ClusterError> {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_member_id(text(&self.id))
            .with_generation_id(self.generation);
        let heard = self
            .coordinator
            .ask((Api::Heartbeat, "Heartbeat"), NEWEST, &request, |answer| {
                if standing(answer.error_code).is_some() { 0 } else { answer.error_code }
            })
            .await?;
        Ok(self.now(standing(heard.error_code).unwrap_or(Standing::Member)))
    }

    fn now(&mut self, standing: Standing) -> Standing {
        if standing == Standing::Lost {
            self.id.clear();
        }
        standing
    }

    /// Its partitions go to the others at once.
    pub async fn leave(&mut self) -> Result<(), ClusterError> {
        if self.id.is_empty() {
            return Ok(());
        }
        let request =
            LeaveGroupRequest::default().with_group_id(self.group_id()).with_member_id(text(&self.id));
        let left = self
            .coordinator
            .ask((Api::LeaveGroup, "LeaveGroup"), NEWEST, &request, |answer| match answer.error_code {
                UNKNOWN_MEMBER_ID => 0,
                code => code,
            })
            .await;
        left.map(drop)
    }
}

/// Of the first partition that was refused.
fn commit_error(answer: &OffsetCommitResponse) -> i16 {
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|partition| partition.error_code).find(|code| *code != 0).unwrap_or(0)
}

/// What an answer says of the generation, where it says something of that.
fn standing(code: i16) -> Option<Standing> {
    match code {
        0 => Some(Standing::Member),
        REBALANCE_IN_PROGRESS => Some(Standing::Rebalance),
        ILLEGAL_GENERATION | UNKNOWN_MEMBER_ID => Some(Standing::Lost),
        _ => None,
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn versioned(message: &impl Encodable) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(PROTOCOL_VERSION);
    message.encode(&mut bytes, PROTOCOL_VERSION).expect("every field is of that version");
    bytes.freeze()
}

fn topics_of(mut subscription: Bytes) -> Vec<String> {
    if subscription.len() < 2 {
        return Vec::new();
    }
    let version = i16::from_be_bytes([subscription[0], subscription[1]]).clamp(0, 3);
    let _ = subscription.split_to(2);
    let subscription = ConsumerProtocolSubscription::decode(&mut subscription, version);
    subscription.map_or(Vec::new(), |found| found.topics.iter().map(StrBytes::to_string).collect())
}

/// Per member and topic its partitions: neighbours, and one more for the first members where they do not divide.
fn range(
    subscribers: &BTreeMap<String, BTreeSet<String>>,
    counts: &BTreeMap<String, usize>,
) -> BTreeMap<String, BTreeMap<String, Vec<i32>>> {
    let mut assigned: BTreeMap<String, BTreeMap<String, Vec<i32>>> = BTreeMap::new();
    for (topic, members) in subscribers {
        let count = counts.get(topic).copied().unwrap_or(0);
        let mut next = 0;
        for (at, member) in members.iter().enumerate() {
            let share = count / members.len() + usize::from(at < count % members.len());
            let partitions = (next..next + share).map(|partition| partition as i32).collect();
            assigned.entry(member.clone()).or_default().insert(topic.clone(), partitions);
            next += share;
        }
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_dealt_in_ranges() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let subscribers = BTreeMap::from([
            ("few".to_owned(), names(&["a", "b", "c"])),
            ("many".to_owned(), names(&["a", "b"])),
        ]);
        let counts = BTreeMap::from([("few".to_owned(), 2), ("many".to_owned(), 5)]);
        let assigned = range(&subscribers, &counts);
        assert_eq!((&assigned["a"]["few"], &assigned["a"]["many"]), (&vec![0], &vec![0, 1, 2]));
        assert_eq!((&assigned["b"]["few"], &assigned["b"]["many"]), (&vec![1], &vec![3, 4]));
        assert!(assigned["c"]["few"].is_empty());
    }

    #[test]
    fn subscriptions_and_assignments_are_read_back() {
        let subscription = ConsumerProtocolSubscription::default().with_topics(vec![text("t"), text("u")]);
        assert_eq!(topics_of(versioned(&subscription)), ["t", "u"]);
        assert!(topics_of(Bytes::from_static(b"\0")).is_empty());
        let of = |topic: &str, partitions: &[i32]| {
            TopicPartition::default().with_topic(TopicName(text(topic))).with_partitions(partitions.to_vec())
        };
        let assignment = ConsumerProtocolAssignment::default()
            .with_assigned_partitions(vec![of("t", &[1, 4]), of("u", &[0])]);
        let member = GroupMember::new(&Bootstrap { addresses: Vec::new() }, "group", "t");
        assert_eq!(member.assigned(versioned(&assignment)), [1, 4]);
        assert!(member.assigned(Bytes::new()).is_empty());
    }
}
