//! A group that changes its protocol while members use it: to the newer one when the first member comes that uses
//! it, back when the last such member goes. Members of the classic protocol stay what they are (KIP-848).
//!
//! Source: Kafka `GroupMetadataManager.convertToConsumerGroup`, `convertToClassicGroup`.

use crate::codec::consumer_protocol::{self, NamedPartitions};
use crate::codec::consumer_record::{
    ClassicValue, ConsumerRecord, CurrentValue, MemberState, MemberValue, Partitions,
};
use crate::codec::group_record::{GroupValue, MemberValue as ClassicRecord};
use crate::group::classic::Group;
use crate::group::consumer::classic_members::{version_of, with_ids, with_names};
use crate::group::consumer::reconcile::is_reconciled;
use crate::group::consumer::{ConsumerGroup, Member};
use crate::group::topics::Topics;
use crate::types::{Timestamp, TopicId};
use bytes::Bytes;
use std::collections::BTreeSet;

impl ConsumerGroup {
    /// The group that a classic one becomes, and the records of it, in an epoch that is the generation. Everybody
    /// has what the last leader assigned, and what it said that it has when it last joined: in the middle of a
    /// rebalance that is what it may still read. `None` if members are no consumers.
    pub fn from_classic(
        classic: &Group,
        topics: &dyn Topics,
    ) -> Option<(ConsumerGroup, Vec<ConsumerRecord>)> {
        // Before the first generation there is none yet.
        let protocol = classic.protocol.clone().or_else(|| classic.choose_protocol()).unwrap_or_default();
        let epoch = classic.generation;
        let mut records = vec![ConsumerRecord::Group { group: classic.id.clone(), epoch: Some(epoch) }];
        let mut taken: BTreeSet<(TopicId, i32)> = BTreeSet::new();
        // Leaders are clients: two members may have been given the same.
        let mut take = |named: &NamedPartitions, assigned: &mut Partitions| {
            for (topic, indexes) in with_ids(named, topics) {
                let free: Vec<i32> =
                    indexes.into_iter().filter(|index| taken.insert((topic, *index))).collect();
                if !free.is_empty() {
                    assigned.get_or_default(topic).extend(free);
                }
            }
        };
        let mut members = Vec::with_capacity(classic.members.len());
        for (id, member) in &classic.members {
            let said = consumer_protocol::subscription(&member.metadata(&protocol)).ok()?;
            let mut assigned = Partitions::new();
            take(&consumer_protocol::assignment(&member.assignment).ok()?, &mut assigned);
            members.push((id, member, said, assigned));
        }
        // What was assigned is newer than what members say.
        members.iter_mut().for_each(|(_, _, said, assigned)| take(&said.owned, assigned));
        for (id, member, said, assigned) in members {
            let protocols = member.protocols.iter();
            let value = MemberValue {
                instance_id: member.instance_id.clone(),
                rack: said.rack,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics: said.topics.into_iter().collect(),
                regex: None,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                classic: Some(Box::new(ClassicValue {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: protocols.map(|known| (known.name.clone(), known.metadata.clone())).collect(),
                })),
            };
            let current = CurrentValue {
                epoch,
                previous_epoch: epoch,
                state: MemberState::Stable,
                assigned: assigned.clone(),
                revoking: Partitions::new(),
            };
            let (group, member) = (|| classic.id.clone(), || id.clone());
            records.push(ConsumerRecord::Member { group: group(), member: member(), value: Some(value) });
            let partitions = Some(assigned);
            records.push(ConsumerRecord::Target { group: group(), member: member(), partitions });
            records.push(ConsumerRecord::Current { group: group(), member: member(), value: Some(current) });
        }
        records.push(ConsumerRecord::TargetEpoch { group: classic.id.clone(), epoch: Some(epoch) });
        let mut group = ConsumerGroup::new(&classic.id);
        records.iter().cloned().for_each(|record| drop(group.put(record)));
        Some((group, records))
    }

    /// The classic group that this one becomes, without a member that leaves. Members are assigned what they have:
    /// others may still read what is aimed at for them.
    pub fn to_classic(&self, leaving: Option<&str>, topics: &dyn Topics, now: Timestamp) -> GroupValue {
        let staying = || self.members.iter().filter(|(id, _)| Some(&***id) != leaving);
        let classic = |member: &Member| member.value.classic.clone().unwrap_or_default();
        // One that all know; the first such in the first member's order.
        let knows =
            |member: &Member, name: &str| classic(member).protocols.iter().any(|(known, _)| known == name);
        let first = staying().next().map(|(_, member)| classic(member).protocols).unwrap_or_default();
        let common = first.iter().map(|(name, _)| name);
        let protocol =
            common.into_iter().find(|name| staying().all(|(_, member)| knows(member, name))).cloned();
        let members = staying().map(|(id, member)| {
            let classic = classic(member);
            let assigned = with_names(&member.current.assigned, topics);
            let assignment = consumer_protocol::write_assignment(version_of(member), &assigned);
            let subscription = classic.protocols.iter().find(|(name, _)| Some(name) == protocol.as_ref());
            ClassicRecord {
                member_id: id.to_string(),
                instance_id: member.value.instance_id.clone(),
                client_id: member.value.client_id.clone(),
                client_host: member.value.client_host.clone(),
                rebalance_timeout_ms: member.value.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                subscription: subscription.map(|(_, metadata)| metadata.clone()).unwrap_or_default(),
                assignment: Bytes::from(assignment),
            }
        });
        GroupValue {
            protocol_type: consumer_protocol::PROTOCOL_TYPE.to_owned(),
            generation: self.epoch,
            leader: staying().next().map(|(id, _)| id.to_string()),
            state_timestamp: Some(now.0),
            members: members.collect(),
            protocol,
        }
    }

    /// Whether everybody has what is aimed at in the newest epoch.
    pub fn is_settled(&self) -> bool {
        let mut members = self.members.values();
        self.target_epoch == self.epoch && members.all(|member| is_reconciled(&member.current, self.epoch))
    }

    /// The protocols that a member of the classic protocol knows, which the record of a classic group does not have
    /// but for one.
    pub fn protocols_of(&self, id: &str) -> Vec<(String, Bytes)> {
        let classic = self.members.get(id).and_then(|member| member.value.classic.as_ref());
        classic.map(|classic| classic.protocols.clone()).unwrap_or_default()
    }
}
