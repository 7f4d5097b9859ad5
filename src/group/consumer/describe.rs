//! What others are told of a group: its state, and ConsumerGroupDescribe.

use crate::codec::consumer_record::Partitions;
use crate::group::consumer::reconcile::is_reconciled;
use crate::group::consumer::{ConsumerGroup, ConsumerSettings, Member};
use crate::group::member::text;
use crate::group::topics::Topics;
use kafka_protocol::messages::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member as DescribedMember, TopicPartitions,
};
use kafka_protocol::messages::{GroupId, TopicName};

/// What kind of protocol a member uses, as ConsumerGroupDescribe has it.
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;
/// Before version 1 there is no such field.
const MEMBER_TYPE_FROM: i16 = 1;

impl ConsumerGroup {
    /// Kafka's name, as ConsumerGroupDescribe and ListGroups have it.
    pub fn state_name(&self) -> &'static str {
        let is_there = |member: &Member| is_reconciled(&member.current, self.target_epoch);
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().all(is_there) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    pub fn describe(&self, settings: &ConsumerSettings, topics: &dyn Topics, version: i16) -> DescribedGroup {
        let members = self.members.iter().map(|(id, member)| {
            let value = &member.value;
            let none = Partitions::new();
            let kind = if member.uses_classic() { CLASSIC } else { CONSUMER };
            let described = DescribedMember::default()
                .with_member_id(text(id))
                .with_instance_id(value.instance_id.as_deref().map(text))
                .with_rack_id(value.rack.as_deref().map(text))
                .with_member_epoch(member.current.epoch)
                .with_client_id(text(&value.client_id))
                .with_client_host(text(&value.client_host))
                .with_subscribed_topic_names(value.topics.iter().map(|name| TopicName(text(name))).collect())
                .with_subscribed_topic_regex(value.regex.as_deref().map(text))
                .with_assignment(assignment(&member.current.assigned, topics))
                .with_target_assignment(assignment(self.targets.get(id).unwrap_or(&none), topics));
            if version >= MEMBER_TYPE_FROM { described.with_member_type(kind) } else { described }
        });
        DescribedGroup::default()
            .with_group_id(GroupId(text(&self.id)))
            .with_group_state(text(self.state_name()))
            .with_group_epoch(self.epoch)
            .with_assignment_epoch(self.target_epoch)
            .with_assignor_name(text(self.assignor(&settings.assignors).name()))
            .with_members(members.collect())
    }
}

/// Partitions of topics that there are.
fn assignment(partitions: &Partitions, topics: &dyn Topics) -> Assignment {
    let topics = partitions.iter().filter_map(|(id, indexes)| {
        let name = TopicName(text(&topics.name(*id)?));
        let topic = TopicPartitions::default().with_topic_id(id.0).with_topic_name(name);
        Some(topic.with_partitions(indexes.iter().copied().collect()))
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
