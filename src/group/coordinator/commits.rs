//! Committed offsets of the groups of a coordinator: commits, and how what was committed goes again.

use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, OffsetValue};
use crate::codec::wire::STRING_SIZE_MAX;
use crate::group::coordinator::{
    Coordinator, Deferred, GROUP_NOT_FOUND_FROM, Then, Turn, is_too_long, tombstone,
};
use crate::group::offsets::GroupOffsets;
use crate::group::{Answer, Effect, Moment, Ticket};
use crate::types::Timestamp;
use crate::types::limits::{GROUP_OFFSETS_MAX, GROUPS_PER_COORDINATOR_MAX, GROUPS_SIZE_MAX};
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

impl Coordinator {
    /// `request`: of topics and partitions that there are.
    pub fn commit(
        &mut self,
        version: i16,
        request: OffsetCommitRequest,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let refused = |error: ErrorCode| Answer::Commit(commit_response(&request, |_| error));
        let has_no_epoch = request.generation_id_or_member_epoch < 0;
        if self.is_closing(&request.group_id.0)
            || (has_no_epoch && self.may_have_members_again(&request.group_id.0))
        {
            let refused = refused(ErrorCode::CoordinatorLoadInProgress);
            let id = request.group_id.to_string();
            return self.defer(&id, Deferred::Commit(version, request, ticket), ticket, refused, effects);
        }
        if let Err(error) = self.check_commit(version, &request) {
            return effects.push(Effect::Answer(ticket, refused(error)));
        }
        let id = request.group_id.to_string();
        let mut turn = turn!(self, now, effects);
        let mut held = 0;
        if let Some(group) = self.groups.get_mut(&id) {
            group.keep_session(&request.member_id, &mut turn);
            held = group.offsets.count();
        }
        // A commit of what is there already takes no more room, but is not looked for.
        let partitions: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        if held + partitions > GROUP_OFFSETS_MAX {
            return turn.answer(ticket, refused(ErrorCode::PolicyViolation));
        }
        if *turn.held + commit_growth(None, &request) > GROUPS_SIZE_MAX {
            // Rarely so: what is there already may be committed again.
            let growth = commit_growth(self.groups.get(&id).map(|group| &group.offsets), &request);
            if growth > 0 && *turn.held + growth > GROUPS_SIZE_MAX {
                return turn.answer(ticket, refused(ErrorCode::CoordinatorNotAvailable));
            }
        }
        let metadata_max = turn.settings.offset_metadata_max;
        let is_too_large = |metadata: &str| {
            metadata.encode_utf16().count() > metadata_max || metadata.len() > STRING_SIZE_MAX
        };
        let response = commit_response(&request, |metadata| match is_too_large(metadata) {
            true => ErrorCode::OffsetMetadataTooLarge,
            false => ErrorCode::None,
        });
        let records = offset_records(&request, now.wall, |metadata| !is_too_large(metadata));
        let answer = Answer::Commit(response);
        if records.is_empty() {
            return turn.answer(ticket, answer);
        }
        turn.write(&id, records, Then::Answer(ticket, answer));
    }

    pub(super) fn check_commit(&self, version: i16, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        if is_too_long(&request.group_id.0) {
            return Err(ErrorCode::InvalidGroupId);
        }
        match self.groups.get(&*request.group_id.0) {
            Some(group) => match &group.consumer {
                Some(consumer) => consumer.check_commit(version, &request.member_id, generation),
                None => {
                    group.check_commit(&request.member_id, request.group_instance_id.as_deref(), generation)
                }
            },
            None if generation < 0 && self.groups.len() < GROUPS_PER_COORDINATOR_MAX => Ok(()),
            None if generation < 0 => Err(ErrorCode::CoordinatorNotAvailable),
            None if version >= GROUP_NOT_FOUND_FROM => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    /// `request`: of topics and partitions that there are.
    pub fn delete_offsets(
        &mut self,
        request: OffsetDeleteRequest,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let id = request.group_id.to_string();
        let refused = |error: ErrorCode| {
            Answer::DeleteOffsets(OffsetDeleteResponse::default().with_error_code(error.code()))
        };
        if self.has_writes(&id) {
            let refused = refused(ErrorCode::CoordinatorLoadInProgress);
            return self.defer(&id, Deferred::DeleteOffsets(request, ticket), ticket, refused, effects);
        }
        let mut turn = turn!(self, now, effects);
        let group = match self.groups.get_mut(&id) {
            _ if id.is_empty() => return turn.answer(ticket, refused(ErrorCode::InvalidGroupId)),
            None => return turn.answer(ticket, refused(ErrorCode::GroupIdNotFound)),
            Some(group) => group,
        };
        if let Err(error) = group.check_delete_offsets() {
            return turn.answer(ticket, refused(error));
        }
        let mut records = VecDeque::new();
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let is_read = group.is_subscribed_to(&topic.name);
            let error = if is_read { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            let indexes = || topic.partitions.iter().map(|partition| partition.partition_index);
            let deleted =
                indexes().filter(|index| !is_read && group.offsets.get(&topic.name, *index).is_some());
            records.extend(deleted.map(|index| tombstone(&id, &topic.name, index)));
            let answered = indexes().map(|index| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(index)
                    .with_error_code(error.code())
            });
            let answered = OffsetDeleteResponseTopic::default().with_partitions(answered.collect());
            topics.push(answered.with_name(topic.name.clone()));
        }
        let answer = Answer::DeleteOffsets(OffsetDeleteResponse::default().with_topics(topics));
        match records.is_empty() {
            true => turn.answer(ticket, answer),
            false => turn.remove(group, records, Some((ticket, answer))),
        }
    }

    /// Takes away what nobody came back for; the group too, if nothing of it is left.
    pub fn expire_offsets(&mut self, id: &str, now: Moment, effects: &mut Vec<Effect>) {
        if self.is_resigned || self.has_writes(id) {
            return; // It is in use; the next look finds it.
        }
        let retention = self.settings.offsets_retention;
        let mut turn = turn!(self, now, effects);
        let Some(group) = self.groups.get_mut(id) else { return };
        let (mut expired, is_all) = group.expired_offsets(now.wall, retention);
        let has_pending = self.pending.has_group(id);
        if has_pending {
            expired.retain(|(topic, index)| !self.pending.has(id, topic, *index));
        }
        let records = if is_all && !has_pending && group.is_empty() && !group.has_pending_members() {
            group.close(&self.pending)
        } else {
            expired.iter().map(|(topic, index)| tombstone(id, topic, *index)).collect()
        };
        if !records.is_empty() {
            turn.remove(group, records, None);
        }
    }

    /// Topics are gone: what is on its way into the log of them, or waits to be, is to be taken away again.
    pub fn forget_in_flight(&mut self, is_gone: impl Fn(&str) -> bool) {
        let mut gone: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for record in self.writes.values().flat_map(|write| &write.records) {
            if let GroupRecord::Offset { group, topic, value: Some(_), .. } = record
                && is_gone(topic)
            {
                gone.entry(group.clone()).or_default().insert(topic.clone());
            }
        }
        // Commits that wait come into the log before it is taken away behind them.
        for (group, deferred) in &self.deferred {
            for topic in deferred.iter().flat_map(Deferred::committed_topics).filter(|topic| is_gone(topic)) {
                gone.entry(group.clone()).or_default().insert(topic.to_owned());
            }
        }
        // Bounded by the writes that are on their way, and the requests that wait for them.
        gone.into_iter().for_each(|(group, topics)| self.defer_any(&group, Deferred::Forget(topics)));
    }

    /// The same of what a group has in them.
    pub fn forget_topics(
        &mut self,
        id: &str,
        is_gone: impl Fn(&str) -> bool,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get(id).filter(|_| !self.is_resigned) else { return };
        let topics: BTreeSet<String> = group
            .offsets
            .topics()
            .map(|(topic, _)| topic)
            .chain(self.pending.of_group(id).map(|(topic, _)| topic))
            .filter(|topic| is_gone(topic))
            .map(str::to_owned)
            .collect();
        if !topics.is_empty() {
            self.forget_or_wait(id, topics, now, effects);
        }
    }

    pub(super) fn forget_or_wait(
        &mut self,
        id: &str,
        topics: BTreeSet<String>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if self.has_writes(id) {
            // Bounded by the topics that are deleted while a write is on its way.
            return self.defer_any(id, Deferred::Forget(topics));
        }
        let mut turn = turn!(self, now, effects);
        let Some(group) = self.groups.get_mut(id) else { return };
        let pending = &self.pending;
        let of_topic = |topic: &String| {
            let pending = pending.of_group(id).filter(|(theirs, _)| theirs == topic).map(|(_, index)| index);
            let indexes: BTreeSet<i32> = group.offsets.of_topic(topic).chain(pending).collect();
            indexes.into_iter().map(|index| tombstone(id, topic, index)).collect::<Vec<_>>()
        };
        let records: VecDeque<GroupRecord> = topics.iter().flat_map(of_topic).collect();
        if !records.is_empty() {
            turn.remove(group, records, None);
        }
    }
}

/// Bytes that offsets would take more than those that are there.
pub(super) fn commit_growth(offsets: Option<&GroupOffsets>, request: &OffsetCommitRequest) -> usize {
    let none = GroupOffsets::default();
    let offsets = offsets.unwrap_or(&none);
    let of_topic = |topic: &OffsetCommitRequestTopic| -> usize {
        let growth = topic.partitions.iter().map(|partition| {
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            offsets.growth(&topic.name, partition.partition_index, metadata)
        });
        growth.sum()
    };
    request.topics.iter().map(of_topic).sum()
}

pub(super) fn commit_response(
    request: &OffsetCommitRequest,
    error: impl Fn(&str) -> ErrorCode,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error(metadata).code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

pub(super) fn offset_records(
    request: &OffsetCommitRequest,
    now: Timestamp,
    is_fine: impl Fn(&str) -> bool,
) -> Vec<GroupRecord> {
    let expire_timestamp =
        (request.retention_time_ms >= 0).then(|| now.0.saturating_add(request.retention_time_ms));
    let mut records = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
            if !is_fine(metadata) {
                continue;
            }
            let epoch = partition.committed_leader_epoch;
            let value = OffsetValue {
                offset: partition.committed_offset,
                leader_epoch: (epoch >= 0).then_some(epoch),
                metadata: metadata.to_owned(),
                commit_timestamp: now.0,
                expire_timestamp,
            };
            records.push(GroupRecord::Offset {
                group: request.group_id.to_string(),
                topic: topic.name.to_string(),
                partition: partition.partition_index,
                value: Some(value),
            });
        }
    }
    records
}
