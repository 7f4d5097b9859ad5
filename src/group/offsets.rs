//! Committed offsets of one group: who may commit, and how long they are kept.
//!
//! An offset is kept while somebody may come back for it: as long as a group has members that read its topic,
//! and for `offsets.retention.minutes` after (KIP-211). Of a group that only commits and has no members, the
//! time counts from each commit.

use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::OffsetValue;
use crate::group::classic::{Group, State};
use crate::group::coordinator::Turn;
use crate::types::Timestamp;
use crate::types::limits::GROUP_ENTRY_SIZE;
use crate::types::sorted::SortedMap;
use std::collections::BTreeMap;
use std::time::Duration;

/// Invariant: no topic without a partition; `count` and `size` are those of all partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupOffsets {
    topics: SortedMap<String, BTreeMap<i32, OffsetValue>>,
    count: usize,
    /// Bytes.
    size: usize,
}

fn entry_size(name: &str) -> usize {
    GROUP_ENTRY_SIZE + name.len()
}

impl GroupOffsets {
    pub fn get(&self, topic: &str, partition: i32) -> Option<&OffsetValue> {
        self.topics.get(topic)?.get(&partition)
    }

    pub fn set(&mut self, topic: String, partition: i32, value: OffsetValue) {
        self.size += entry_size(&value.metadata);
        if !self.topics.contains_key(&topic) {
            self.size += entry_size(&topic);
        }
        match self.topics.get_or_default(topic).insert(partition, value) {
            None => self.count += 1,
            Some(before) => self.size -= entry_size(&before.metadata),
        }
    }

    pub fn remove(&mut self, topic: &str, partition: i32) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        if let Some(before) = partitions.remove(&partition) {
            self.count -= 1;
            self.size -= entry_size(&before.metadata);
        }
        if partitions.is_empty() {
            self.topics.remove(topic);
            self.size -= entry_size(topic);
        }
    }

    /// Bytes that they take.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Bytes that an offset would take more than now, its topic aside.
    pub fn growth(&self, topic: &str, partition: i32, metadata: &str) -> usize {
        let now = self.get(topic, partition).map_or(0, |value| entry_size(&value.metadata));
        entry_size(metadata).saturating_sub(now)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn topics(&self) -> impl Iterator<Item = (&str, &BTreeMap<i32, OffsetValue>)> {
        self.topics.iter().map(|(topic, partitions)| (topic.as_str(), partitions))
    }

    /// Every partition that has an offset.
    pub fn keys(&self) -> impl Iterator<Item = (&str, i32)> {
        self.topics().flat_map(|(topic, partitions)| partitions.keys().map(move |index| (topic, *index)))
    }

    pub fn of_topic(&self, topic: &str) -> impl Iterator<Item = i32> {
        self.topics.get(topic).into_iter().flat_map(|partitions| partitions.keys().copied())
    }
}

impl Group {
    /// Checks that a commit is from a member of this generation, or from nobody to a group without members.
    pub fn check_commit(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.is_empty() {
            return Ok(()); // Consumers that assign partitions themselves, and administrators.
        }
        if generation < 0 && member_id.is_empty() && instance_id.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        match self.state {
            // It was told of a generation whose assignments are still to come.
            State::CompletingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::Empty | State::PreparingRebalance { .. } | State::Stable => Ok(()),
        }
    }

    /// A commit shows that the member lives.
    pub fn keep_session(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        if matches!(self.state, State::Stable | State::PreparingRebalance { .. }) {
            self.touch(member_id, turn);
        }
    }

    /// Checks that offsets may be taken away while others may be in use.
    pub fn check_delete_offsets(&self) -> Result<(), ErrorCode> {
        // Which topics others than consumers use is not known.
        let is_of_consumers = self.is_of_consumers() || self.consumer.is_some();
        if self.is_empty() || is_of_consumers { Ok(()) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    /// Offsets that nobody came back for in time, and whether these are all.
    pub fn expired_offsets(&self, now: Timestamp, retention: Duration) -> (Vec<(String, i32)>, bool) {
        let counts_from_state = match (&self.protocol_type, self.state) {
            _ if self.consumer.is_some() => false,
            (None, _) => false,
            (Some(_), State::Empty) => true,
            (Some(_), State::Stable) if self.knows_subscriptions() => false,
            // Who reads what is decided just now, or not known.
            (Some(_), _) => return (Vec::new(), self.offsets.count() == 0),
        };
        let base = |value: &OffsetValue| match self.state_since {
            Some(since) if counts_from_state => since.0,
            _ => value.commit_timestamp,
        };
        let is_expired = |value: &OffsetValue| match value.expire_timestamp {
            Some(end) => now.0 >= end,
            None => u128::try_from(now.0.saturating_sub(base(value)))
                .is_ok_and(|age| age >= retention.as_millis()),
        };
        let unread = self.offsets.topics().filter(|(topic, _)| !self.is_subscribed_to(topic));
        let expired: Vec<(String, i32)> = unread
            .flat_map(|(topic, partitions)| {
                partitions.iter().map(move |(index, value)| (topic, *index, value))
            })
            .filter(|(_, _, value)| is_expired(value))
            .map(|(topic, index, _)| (topic.to_owned(), index))
            .collect();
        let is_all = expired.len() == self.offsets.count();
        (expired, is_all)
    }
}
