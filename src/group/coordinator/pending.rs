//! Offsets that are committed in transactions: in the log, and not decided yet (KIP-98, KIP-447).
//!
//! ```text
//! log:       offsets of producer 1   offsets of producer 2   marker: 2 commits   marker: 1 aborts
//! pending    1                       1, 2                    1                   none
//! ```
//!
//! A marker decides all that its producer has pending, of whatever group. Of two commits of one partition the
//! one that stands later in the log counts, whenever it is decided. While one is pending, also on its way into
//! the log, the partition's offset may change under who reads it: whoever must not read one that others have
//! gone beyond is told to come again.
//! Source: Kafka `OffsetMetadataManager.pendingTransactionalOffsets`, `replayEndTransactionMarker`.

use super::commits::{commit_growth, commit_response, offset_records};
use super::{Coordinator, Deferred, Then, Turn, is_too_long};
use crate::codec::control_record::TransactionOutcome;
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, OffsetValue};
use crate::codec::wire::STRING_SIZE_MAX;
use crate::group::classic::Group;
use crate::group::{Answer, Effect, Moment, Ticket, WriteId};
use crate::types::limits::{
    GROUP_ENTRY_SIZE, GROUP_OFFSETS_MAX, GROUP_TRANSACTION_AT_ONCE_MAX, GROUPS_PER_COORDINATOR_MAX,
    GROUPS_SIZE_MAX,
};
use crate::types::{ProducerEpoch, ProducerId, Timestamp};
use kafka_protocol::messages::OffsetCommitRequest;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// Who commits as part of a transaction.
pub type TransactionWriter = (ProducerId, ProducerEpoch);

/// A partition of a topic, as a group has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OffsetKey {
    group: String,
    topic: String,
    partition: i32,
}

#[derive(Clone, Debug)]
struct Pending {
    value: OffsetValue,
    /// Where it stands among all that the log has.
    order: u64,
    /// Another offset of the partition was committed behind it.
    is_superseded: bool,
}

/// Lives: with a coordinator.
/// Invariant: `by_key` names the producers that have an entry of that key, and `counts` has its keys by group.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingOffsets {
    /// Writes that are on their way.
    in_flight: BTreeMap<WriteId, TransactionWriter>,
    /// What they commit, and how often; none that is zero.
    in_flight_keys: BTreeMap<OffsetKey, usize>,
    by_producer: BTreeMap<ProducerId, BTreeMap<OffsetKey, Pending>>,
    by_key: BTreeMap<OffsetKey, BTreeSet<ProducerId>>,
    /// Partitions of each group that has any.
    counts: BTreeMap<String, usize>,
    /// Bytes.
    size: usize,
    next_order: u64,
    /// Transactions that have ended, of whose offsets some are not decided yet.
    endings: VecDeque<Ending>,
}

/// Lives: from a transaction's marker until all of its offsets are decided; until then they are pending.
#[derive(Clone, Debug)]
struct Ending {
    producer: ProducerId,
    outcome: TransactionOutcome,
    /// What the producer has committed later is part of another transaction.
    last_order: u64,
    after: Option<OffsetKey>,
}

fn entry_size(key: &OffsetKey, value: &OffsetValue) -> usize {
    2 * (GROUP_ENTRY_SIZE + key.group.len() + key.topic.len()) + value.metadata.len()
}

impl PendingOffsets {
    fn begin(&mut self, write: WriteId, writer: TransactionWriter, records: &[GroupRecord]) {
        self.in_flight.insert(write, writer);
        for key in keys_of(records) {
            *self.in_flight_keys.entry(key).or_insert(0) += 1;
        }
    }

    /// A write has ended. Who wrote it, if it is part of a transaction.
    pub fn written(&mut self, write: WriteId, records: &[GroupRecord]) -> Option<TransactionWriter> {
        let writer = self.in_flight.remove(&write)?;
        for key in keys_of(records) {
            take_one(&mut self.in_flight_keys, &key);
        }
        Some(writer)
    }

    fn insert(&mut self, producer: ProducerId, key: OffsetKey, value: OffsetValue) {
        self.remove(producer, &key);
        self.size += entry_size(&key, &value);
        self.next_order += 1;
        let pending = Pending { value, order: self.next_order, is_superseded: false };
        let producers = self.by_key.entry(key.clone()).or_insert_with(|| {
            *self.counts.entry(key.group.clone()).or_insert(0) += 1;
            BTreeSet::new()
        });
        producers.insert(producer);
        self.by_producer.entry(producer).or_default().insert(key, pending);
    }

    fn remove(&mut self, producer: ProducerId, key: &OffsetKey) -> Option<Pending> {
        let entries = self.by_producer.get_mut(&producer)?;
        let pending = entries.remove(key)?;
        if entries.is_empty() {
            self.by_producer.remove(&producer);
        }
        if let Some(producers) = self.by_key.get_mut(key) {
            producers.remove(&producer);
            if producers.is_empty() {
                self.by_key.remove(key);
                take_one(&mut self.counts, &key.group);
            }
        }
        self.size -= entry_size(key, &pending.value);
        Some(pending)
    }

    /// An offset was committed, behind those that are pending up to `order`.
    fn supersede(&mut self, key: &OffsetKey, order: u64) {
        for producer in self.by_key.get(key).into_iter().flatten() {
            let pending = self.by_producer.get_mut(producer).and_then(|entries| entries.get_mut(key));
            if let Some(pending) = pending.filter(|pending| pending.order <= order) {
                pending.is_superseded = true;
            }
        }
    }

    /// What a record of the log says of a partition outside of transactions.
    pub fn committed(&mut self, group: &str, topic: &str, partition: i32, value: Option<&OffsetValue>) {
        if self.by_key.is_empty() {
            return; // Nearly always.
        }
        let key = key(group, topic, partition);
        if value.is_some() {
            return self.supersede(&key, u64::MAX);
        }
        for producer in self.by_key.get(&key).cloned().unwrap_or_default() {
            self.remove(producer, &key);
        }
    }

    pub fn has(&self, group: &str, topic: &str, partition: i32) -> bool {
        !self.by_key.is_empty() && self.by_key.contains_key(&key(group, topic, partition))
    }

    /// The partitions of a group that have any.
    pub fn of_group(&self, group: &str) -> impl Iterator<Item = (&str, i32)> {
        let from = key(group, "", i32::MIN);
        let of_group = self.by_key.range(from..).take_while(move |(key, _)| key.group == group);
        of_group.map(|(key, _)| (key.topic.as_str(), key.partition))
    }

    pub fn has_group(&self, group: &str) -> bool {
        self.counts.contains_key(group)
    }

    /// How many those are.
    fn count_of(&self, group: &str) -> usize {
        self.counts.get(group).copied().unwrap_or(0)
    }

    /// Whether a write that is on its way commits a partition.
    fn is_in_flight(&self, group: &str, topic: &str, partition: i32) -> bool {
        !self.in_flight_keys.is_empty() && self.in_flight_keys.contains_key(&key(group, topic, partition))
    }
}

fn keys_of(records: &[GroupRecord]) -> impl Iterator<Item = OffsetKey> {
    records.iter().filter_map(|record| match record {
        GroupRecord::Offset { group, topic, partition, .. } => Some(key(group, topic, *partition)),
        GroupRecord::Group { .. } | GroupRecord::Consumer(_) => None,
    })
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    let count = counts.get_mut(key).expect("it was counted");
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
    }
}

fn key(group: &str, topic: &str, partition: i32) -> OffsetKey {
    OffsetKey { group: group.to_owned(), topic: topic.to_owned(), partition }
}

impl Turn<'_> {
    fn write_in_transaction(
        &mut self,
        pending: &mut PendingOffsets,
        writer: TransactionWriter,
        group: &str,
        records: Vec<GroupRecord>,
        then: Then,
    ) {
        pending.begin(self.next_write(), writer, &records);
        self.write(group, records, then);
    }
}

impl Coordinator {
    /// Who a write is of, if it is part of a transaction.
    pub fn writer(&self, write: WriteId) -> Option<TransactionWriter> {
        self.pending.in_flight.get(&write).copied()
    }

    /// Takes what the log has of a transaction.
    pub fn apply_in_transaction(&mut self, producer: ProducerId, record: &GroupRecord) {
        let GroupRecord::Offset { group, topic, partition, value: Some(value) } = record else {
            return self.apply(record); // Nobody writes such.
        };
        // Who only commits has a group without members.
        let created = || Group::new(group, Timestamp(value.commit_timestamp));
        self.groups.entry(group.clone()).or_insert_with(created).is_kept = true;
        let key = key(group, topic, *partition);
        self.decide_ended(producer, &key);
        self.pending.insert(producer, key, value.clone());
    }

    /// The log has the marker that ends a producer's transaction. Large ones take a while: see
    /// [`work`](Coordinator::work).
    pub fn transaction_ended(&mut self, producer: ProducerId, outcome: TransactionOutcome) {
        let Some(entries) = self.pending.by_producer.get(&producer) else { return };
        let is_small = entries.len() <= GROUP_TRANSACTION_AT_ONCE_MAX;
        let last_order = self.pending.next_order;
        self.pending.endings.push_back(Ending { producer, outcome, last_order, after: None });
        if is_small && self.pending.endings.len() == 1 {
            self.end_transactions(usize::MAX);
        }
    }

    /// Decides some more offsets of transactions that have ended; whether there are others left.
    pub fn end_transactions(&mut self, keys_max: usize) -> bool {
        let Some(ending) = self.pending.endings.front_mut() else { return false };
        let (producer, outcome) = (ending.producer, ending.outcome);
        let entries = self.pending.by_producer.get(&producer);
        let from = ending.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let next = entries.into_iter().flat_map(|entries| entries.range((from, Bound::Unbounded)));
        let keys: Vec<(OffsetKey, u64)> =
            next.take(keys_max).map(|(key, pending)| (key.clone(), pending.order)).collect();
        let last_order = ending.last_order;
        match keys.len() < keys_max {
            true => drop(self.pending.endings.pop_front()),
            false => ending.after = keys.last().map(|(key, _)| key.clone()),
        }
        for (key, _) in keys.iter().filter(|(_, order)| *order <= last_order) {
            self.decide(producer, key, outcome);
        }
        self.has_endings()
    }

    pub(super) fn has_endings(&self) -> bool {
        !self.pending.endings.is_empty()
    }

    /// The offset of a partition in a transaction of that producer which has ended, if it is not decided yet.
    fn decide_ended(&mut self, producer: ProducerId, key: &OffsetKey) {
        let entries = self.pending.by_producer.get(&producer);
        let Some(pending) = entries.and_then(|entries| entries.get(key)) else { return };
        let order = pending.order;
        let is_its = |ending: &&Ending| ending.producer == producer && order <= ending.last_order;
        if let Some(outcome) = self.pending.endings.iter().find(is_its).map(|ending| ending.outcome) {
            self.decide(producer, key, outcome);
        }
    }

    fn decide(&mut self, producer: ProducerId, key: &OffsetKey, outcome: TransactionOutcome) {
        let Some(pending) = self.pending.remove(producer, key) else { return };
        if outcome == TransactionOutcome::Abort || pending.is_superseded {
            return;
        }
        self.pending.supersede(key, pending.order);
        if let Some(group) = self.groups.get_mut(&key.group) {
            self.held -= group.offsets.size();
            group.offsets.set(key.topic.clone(), key.partition, pending.value);
            self.held += group.offsets.size();
        }
    }

    /// Whether an open transaction may change the offset of a partition.
    pub fn is_unstable(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.pending.has(group, topic, partition) || self.pending.is_in_flight(group, topic, partition)
    }

    #[cfg(test)]
    pub(super) fn check_pending(&self) {
        let pending = &self.pending;
        let mut in_flight: BTreeMap<OffsetKey, usize> = BTreeMap::new();
        for write in pending.in_flight.keys() {
            keys_of(&self.writes[write].records).for_each(|key| *in_flight.entry(key).or_insert(0) += 1);
        }
        assert_eq!(pending.in_flight_keys, in_flight);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        pending.by_key.keys().for_each(|key| *counts.entry(key.group.clone()).or_insert(0) += 1);
        assert_eq!(pending.counts, counts);
    }

    /// `request`: of topics and partitions that there are; its transaction is known to have the group's partition.
    pub fn commit_in_transaction(
        &mut self,
        writer: TransactionWriter,
        request: OffsetCommitRequest,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let id = request.group_id.to_string();
        let refused = |error: ErrorCode| Answer::Commit(commit_response(&request, |_| error));
        if self.is_closing(&id) {
            let refused = refused(ErrorCode::CoordinatorLoadInProgress);
            let deferred = Deferred::CommitInTransaction(writer, request, ticket);
            return self.defer(&id, deferred, ticket, refused, effects);
        }
        if let Err(error) = self.check_commit_in_transaction(&request) {
            return effects.push(Effect::Answer(ticket, refused(error)));
        }
        let partitions: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
        let held = self.groups.get(&id).map_or(0, |group| group.offsets.count());
        if held + self.pending.count_of(&id) + partitions > GROUP_OFFSETS_MAX {
            return effects.push(Effect::Answer(ticket, refused(ErrorCode::PolicyViolation)));
        }
        if self.held + self.pending.size + 3 * commit_growth(None, &request) > GROUPS_SIZE_MAX {
            return effects.push(Effect::Answer(ticket, refused(ErrorCode::CoordinatorNotAvailable)));
        }
        let metadata_max = self.settings.offset_metadata_max;
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
            return effects.push(Effect::Answer(ticket, answer));
        }
        let mut turn = turn!(self, now, effects);
        let then = Then::Answer(ticket, answer);
        turn.write_in_transaction(&mut self.pending, writer, &id, records, then);
    }

    fn check_commit_in_transaction(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        if request.group_id.is_empty() || is_too_long(&request.group_id.0) {
            return Err(ErrorCode::InvalidGroupId);
        }
        match self.groups.get(&*request.group_id.0) {
            Some(group) => {
                let instance_id = request.group_instance_id.as_deref();
                if generation < 0 && request.member_id.is_empty() && instance_id.is_none() {
                    return Ok(()); // A producer from before KIP-447 does not say whose offsets these are.
                }
                match &group.consumer {
                    Some(consumer) => {
                        let checked = consumer.check_commit(NEWEST_COMMIT, &request.member_id, generation);
                        checked.map_err(as_generation)
                    }
                    None => group.check_commit_in_transaction(&request.member_id, instance_id, generation),
                }
            }
            None if generation < 0 && self.groups.len() < GROUPS_PER_COORDINATOR_MAX => Ok(()),
            None if generation < 0 => Err(ErrorCode::CoordinatorNotAvailable),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }
}

/// A version of OffsetCommit whose clients know epochs of members: all of TxnOffsetCommit do.
const NEWEST_COMMIT: i16 = i16::MAX;

/// The error of a member's epoch as clients of this API know it (Kafka
/// `OffsetMetadataManager.validateTransactionalOffsetCommit`).
fn as_generation(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
        error => error,
    }
}

impl Group {
    /// Checks that a commit is from a member of this generation, or from nobody to a group without members.
    fn check_commit_in_transaction(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.is_empty() {
            return Ok(());
        }
        self.check_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        Ok(())
    }
}
