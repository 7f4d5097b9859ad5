//! The groups of one partition of `__consumer_offsets`: takes a request, says what is to be written and
//! answered.
//!
//! Requests meet their group as it is in memory; what they change in the log is applied when it is kept. Two
//! things wait until the writes of a group have ended: taking away a group or its offsets, since a commit on its
//! way would come after; and whatever meets a group that is being taken away. They wait in one queue of their
//! group, in their order.
//!
//! | file | what it decides |
//! |---|---|
//! | `members.rs` | requests of members of the classic protocol |
//! | `consumers.rs` | requests and groups of the newer protocol |
//! | `commits.rs`, `pending.rs` | committed offsets; those that are committed in transactions |
//! | `deferred.rs` | what waits for writes of its group |

use crate::codec::consumer_protocol::PROTOCOL_TYPE;
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::GroupRecord;
use crate::group::classic::{Assignments, Group, Replaced, refused_join, refused_sync};
use crate::group::consumer::ConsumerSettings;
use crate::group::consumer::regex::Patterns;
use crate::group::coordinator::commits::commit_response;
use crate::group::coordinator::consumers::{Changed, described_as_classic, refused_heartbeat};
use crate::group::member::text;
use crate::group::offsets::GroupOffsets;
use crate::group::timers::{Timer, Timers};
use crate::group::topics::{NoTopics, Topics};
use crate::group::{Answer, Effect, Moment, Settings, Ticket, WriteId};
use crate::types::limits::{
    GROUP_ID_SIZE_MAX, GROUP_REMOVAL_RECORDS_MAX, GROUP_REMOVAL_SIZE_MAX, GROUP_TIMERS_PER_STEP,
};
use crate::types::{Mono, Timestamp};
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, LeaveGroupResponse, OffsetDeleteResponse};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::rc::Rc;

/// The first version that says that a group does not exist; before it the generation was wrong.
const GROUP_NOT_FOUND_FROM: i16 = 9;
/// The first version of DescribeGroups that says so (KIP-1043); before it the group is dead.
const DESCRIBE_NOT_FOUND_FROM: i16 = 6;
/// Kafka's names for groups of the two protocols.
const CLASSIC: &str = "classic";
const CONSUMER: &str = "consumer";
/// Kafka's name of the state of a group that does not exist.
const DEAD: &str = "Dead";

/// What follows when a write has ended.
#[derive(Clone, Debug)]
pub enum Then {
    Nothing,
    Assigned {
        generation: i32,
        assignments: Assignments,
    },
    Replaced(Box<Replaced>),
    Answer(Ticket, Answer),
    /// A group of the newer protocol.
    Changed(Box<Changed>),
    /// More is taken away, if this was; at the end of it somebody is answered.
    Remove {
        rest: VecDeque<GroupRecord>,
        answer: Option<(Ticket, Answer)>,
    },
}

/// Lives: while it is on its way.
#[derive(Clone, Debug)]
struct Write {
    group: String,
    records: Vec<GroupRecord>,
    then: Then,
}

/// What a group may use while it decides.
pub struct Turn<'a> {
    pub now: Moment,
    pub settings: &'a Settings,
    pub consumers: &'a ConsumerSettings,
    pub topics: &'a dyn Topics,
    pub timers: &'a mut Timers,
    /// Rebalances that began a generation with members.
    pub rebalances: &'a mut u64,
    /// Bytes that all groups take: every change of them is counted here.
    pub held: &'a mut usize,
    writes: &'a mut BTreeMap<WriteId, Write>,
    write_counts: &'a mut BTreeMap<String, usize>,
    next_write: &'a mut WriteId,
    effects: &'a mut Vec<Effect>,
}

impl Turn<'_> {
    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.push(Effect::Answer(ticket, answer));
    }

    /// The id that the next write gets.
    pub fn next_write(&self) -> WriteId {
        *self.next_write
    }

    pub fn write(&mut self, group: &str, records: Vec<GroupRecord>, then: Then) {
        assert!(!records.is_empty(), "a batch has at least one record");
        let id = *self.next_write;
        *self.next_write = WriteId(id.0 + 1);
        *self.write_counts.entry(group.to_owned()).or_insert(0) += 1;
        self.writes.insert(id, Write { group: group.to_owned(), records, then });
        self.effects.push(Effect::Write(id));
    }

    /// Deletions of one group, as many batches as it takes. Each waits for the one before it, so that after one
    /// that was not kept there are no more, and the group itself goes last; what meets the group meanwhile waits.
    fn remove(
        &mut self,
        group: &mut Group,
        mut records: VecDeque<GroupRecord>,
        answer: Option<(Ticket, Answer)>,
    ) {
        let first = take_batch(&mut records);
        if !records.is_empty() {
            group.is_closing = true;
        }
        self.write(&group.id, first, Then::Remove { rest: records, answer });
    }
}

/// The first of some deletions: one, and more as long as they are few and small.
fn take_batch(records: &mut VecDeque<GroupRecord>) -> Vec<GroupRecord> {
    let mut batch = Vec::new();
    let mut size = 0;
    while let Some(record) = records.pop_front() {
        size += record.size();
        if !batch.is_empty() && (size > GROUP_REMOVAL_SIZE_MAX || batch.len() == GROUP_REMOVAL_RECORDS_MAX) {
            records.push_front(record);
            break;
        }
        batch.push(record);
    }
    batch
}

/// What a coordinator holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    pub groups: usize,
    /// With those that have only been given an id.
    pub members: usize,
    /// Bytes that all groups take.
    pub size: usize,
    pub deadlines: usize,
    /// Writes on their way, and groups that have some.
    pub writes: usize,
    /// Requests that wait for writes to end.
    pub waiting: usize,
}

/// Lives: one per partition of `__consumer_offsets`, on the shard that owns it, from the end of its replay.
pub struct Coordinator {
    settings: Settings,
    consumers: ConsumerSettings,
    topics: Rc<dyn Topics>,
    /// Grows whenever topics change; never zero.
    topics_version: u64,
    /// Regular expressions for the shell: of each group once.
    to_resolve: VecDeque<ToResolve>,
    patterns: Rc<Patterns>,
    /// Targets that are being made, by group, and whose turn it is.
    jobs: BTreeMap<String, Job>,
    waiting_jobs: VecDeque<String>,
    groups: BTreeMap<String, Group>,
    /// Bytes that they take.
    held: usize,
    timers: Timers,
    writes: BTreeMap<WriteId, Write>,
    /// Of each group that has any.
    write_counts: BTreeMap<String, usize>,
    next_write: WriteId,
    /// What waits for the writes of a group, in its order. Never empty.
    deferred: BTreeMap<String, VecDeque<Deferred>>,
    /// Of all groups; [`GROUP_DEFERRED_MAX`] and what deleted topics add.
    deferred_count: usize,
    /// Committed in transactions that are open.
    pending: PendingOffsets,
    /// It decides nothing any more: another coordinator may.
    is_resigned: bool,
    /// Generations that began with members.
    pub rebalances: u64,
}

/// Borrows the parts of a coordinator that a turn needs, beside its groups.
macro_rules! turn {
    ($coordinator:expr, $now:expr, $effects:expr) => {
        Turn {
            now: $now,
            settings: &$coordinator.settings,
            consumers: &$coordinator.consumers,
            topics: &*$coordinator.topics,
            timers: &mut $coordinator.timers,
            rebalances: &mut $coordinator.rebalances,
            held: &mut $coordinator.held,
            writes: &mut $coordinator.writes,
            write_counts: &mut $coordinator.write_counts,
            next_write: &mut $coordinator.next_write,
            effects: $effects,
        }
    };
}

mod commits; // Behind the macro, which they use.
mod consumers;
mod deferred;
mod members;
mod pending;

use consumers::Job;
pub use consumers::ToResolve;
use deferred::Deferred;
use pending::PendingOffsets;
pub use pending::TransactionWriter;

impl Coordinator {
    pub fn new(settings: Settings) -> Coordinator {
        Coordinator {
            settings,
            consumers: ConsumerSettings::default(),
            topics: Rc::new(NoTopics),
            topics_version: 1,
            to_resolve: VecDeque::new(),
            patterns: Rc::default(),
            jobs: BTreeMap::new(),
            waiting_jobs: VecDeque::new(),
            groups: BTreeMap::new(),
            held: 0,
            timers: Timers::default(),
            writes: BTreeMap::new(),
            write_counts: BTreeMap::new(),
            next_write: WriteId(1),
            deferred: BTreeMap::new(),
            deferred_count: 0,
            pending: PendingOffsets::default(),
            is_resigned: false,
            rebalances: 0,
        }
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// What it holds, for those who watch that it lets go of it again.
    pub fn holdings(&self) -> Holdings {
        Holdings {
            groups: self.groups.len(),
            members: self.groups.values().map(Group::member_count).sum(),
            size: self.held,
            deadlines: self.timers.count(),
            writes: self.writes.len() + self.write_counts.len(),
            waiting: self.deferred_count,
        }
    }

    /// The records of a write, to be appended.
    pub fn records(&self, write: WriteId) -> &[GroupRecord] {
        self.writes.get(&write).map_or(&[], |write| &write.records)
    }

    // --- The log

    /// Takes what is in the log: the only way in which that changes what is kept, and so also the replay.
    pub fn apply(&mut self, record: &GroupRecord) {
        match record {
            GroupRecord::Offset { group, topic, partition, value: Some(value) } => {
                self.pending.committed(group, topic, *partition, Some(value));
                // Who only commits has a group without members.
                let created = || Group::new(group, Timestamp(value.commit_timestamp));
                let group = self.groups.entry(group.clone()).or_insert_with(created);
                group.is_kept = true;
                self.held -= group.offsets.size();
                group.offsets.set(topic.clone(), *partition, value.clone());
                self.held += group.offsets.size();
            }
            GroupRecord::Offset { group, topic, partition, value: None } => {
                self.pending.committed(group, topic, *partition, None);
                if let Some(group) = self.groups.get_mut(group) {
                    self.held -= group.offsets.size();
                    group.offsets.remove(topic, *partition);
                    self.held += group.offsets.size();
                }
            }
            GroupRecord::Group { group: id, value: Some(value) } => {
                let offsets = self.take_offsets(id);
                let group = Group::from_record(id, value.clone(), offsets);
                self.held += group.size();
                self.groups.insert(id.clone(), group);
            }
            GroupRecord::Consumer(record) => self.apply_consumer(record),
            GroupRecord::Group { group: id, value: None } => {
                let offsets = self.take_offsets(id);
                // Offsets have records of their own: those that are not taken away stay.
                if offsets.count() > 0 {
                    let mut simple = Group::new(id, Timestamp::NONE);
                    simple.offsets = offsets;
                    simple.is_kept = true;
                    self.held += simple.size();
                    self.groups.insert(id.clone(), simple);
                }
            }
        }
    }

    /// Takes a group away; what it has committed stays.
    fn take_offsets(&mut self, id: &str) -> GroupOffsets {
        let Some(group) = self.groups.remove(id) else { return GroupOffsets::default() };
        self.held -= group.size();
        group.offsets
    }

    /// The log has been replayed: members of a group keep their generation, their sessions begin anew.
    pub fn loaded(&mut self, id: &str, now: Moment, effects: &mut Vec<Effect>) {
        if self.consumer_is_stray(id) {
            self.forget_consumer(id);
        }
        if let Some(group) = self.groups.get_mut(id) {
            group.restart_sessions(&mut turn!(self, now, effects));
        }
    }

    /// A write has ended: its records are kept, or none of them is, for that reason.
    pub fn finished(
        &mut self,
        id: WriteId,
        result: Result<(), ErrorCode>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(write) = self.writes.remove(&id) else { return };
        let kept = result.map_err(write_error);
        let id_of_group = write.group;
        if let Some(count) = self.write_counts.get_mut(&id_of_group) {
            *count -= 1;
            if *count == 0 {
                self.write_counts.remove(&id_of_group);
            }
        }
        if let Then::Changed(changed) = write.then {
            self.changed(&id_of_group, &write.records, *changed, kept, now, effects);
            return self.retry(&id_of_group, now, effects);
        }
        let writer = self.pending.written(id, &write.records);
        for record in &write.records {
            match writer {
                Some((producer, _)) if kept.is_ok() => self.apply_in_transaction(producer, record),
                Some(_) => {}
                None => self.record_ended(record, kept, now, effects),
            }
        }
        let goes_on = if self.is_resigned { Err(ErrorCode::NotCoordinator) } else { kept };
        let group = self.groups.get_mut(&id_of_group);
        let mut turn = turn!(self, now, effects);
        match (write.then, group) {
            (Then::Nothing | Then::Changed(_), _) => {}
            (Then::Assigned { generation, assignments }, Some(group)) => {
                group.assigned(id, generation, assignments, kept, &mut turn);
            }
            (Then::Replaced(replaced), Some(group)) => group.replaced(*replaced, kept, &mut turn),
            (Then::Assigned { .. } | Then::Replaced(_), None) => {}
            (Then::Answer(ticket, answer), _) => turn.answer(ticket, kept_or_failed(answer, kept)),
            (Then::Remove { rest, answer }, Some(group)) if goes_on.is_ok() && !rest.is_empty() => {
                turn.remove(group, rest, answer);
            }
            (Then::Remove { rest, answer }, group) => {
                group.into_iter().for_each(|group| group.is_closing = false);
                let kept = if rest.is_empty() { kept } else { goes_on };
                if let Some((ticket, answer)) = answer {
                    turn.answer(ticket, kept_or_failed(answer, kept));
                }
            }
        }
        self.retry(&id_of_group, now, effects);
    }

    fn record_ended(
        &mut self,
        record: &GroupRecord,
        kept: Result<(), ErrorCode>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        match record {
            // Of a group with members, what is in memory is ahead of its record.
            GroupRecord::Group { group, value: Some(_) } => {
                if let Some(group) = self.groups.get_mut(group).filter(|_| kept.is_ok()) {
                    group.is_kept = true;
                }
            }
            GroupRecord::Group { group, value: None } if kept.is_ok() => {
                let mut turn = turn!(self, now, effects);
                let Some(group) = self.groups.get_mut(group) else { return };
                group.forget_timers(&mut turn);
                self.apply(record);
            }
            GroupRecord::Offset { .. } if kept.is_ok() => self.apply(record),
            // What is taken away goes with its group; of a group that stays, memory is ahead of its records.
            GroupRecord::Group { .. } | GroupRecord::Offset { .. } | GroupRecord::Consumer(_) => {}
        }
    }

    // --- Requests

    /// If nobody is a member of it.
    pub fn delete_group(&mut self, id: &str, ticket: Ticket, now: Moment, effects: &mut Vec<Effect>) {
        if self.has_writes(id) {
            let refused = Answer::DeleteGroup(ErrorCode::CoordinatorLoadInProgress);
            return self.defer(id, Deferred::DeleteGroup(ticket), ticket, refused, effects);
        }
        let mut turn = turn!(self, now, effects);
        let pending = &self.pending;
        match self.groups.get_mut(id) {
            None => turn.answer(ticket, Answer::DeleteGroup(ErrorCode::GroupIdNotFound)),
            Some(group) if !group.is_empty() => {
                turn.answer(ticket, Answer::DeleteGroup(ErrorCode::NonEmptyGroup));
            }
            Some(group) => {
                let records = group.close(pending);
                turn.remove(group, records, Some((ticket, Answer::DeleteGroup(ErrorCode::None))));
            }
        }
    }

    // --- Questions

    /// Committed offsets of a group; `None` for a group that there is not.
    pub fn offsets(&self, group: &str) -> Option<&GroupOffsets> {
        self.groups.get(group).map(|group| &group.offsets)
    }

    pub fn describe(&self, id: &str, version: i16) -> DescribedGroup {
        let described = DescribedGroup::default().with_group_id(GroupId(text(id)));
        let Some(group) = self.groups.get(id) else {
            let described = described.with_group_state(text(DEAD));
            return match version {
                DESCRIBE_NOT_FOUND_FROM.. => described
                    .with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(text(&format!("Group {id} not found.")))),
                _ => described,
            };
        };
        if group.consumer.is_some() {
            return described_as_classic(id, version);
        }
        let is_stable = group.state == crate::group::classic::State::Stable;
        let protocol = group.protocol.as_deref().filter(|_| is_stable);
        described
            .with_group_state(text(group.state.name()))
            .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
            .with_protocol_data(text(protocol.unwrap_or_default()))
            .with_members(group.members.values().map(|member| member.describe(protocol)).collect())
    }

    /// A group as it is listed.
    pub fn listed(&self, id: &str) -> Option<ListedGroup> {
        let group = self.groups.get(id)?;
        let listed = ListedGroup::default().with_group_id(GroupId(text(&group.id)));
        Some(match &group.consumer {
            Some(consumer) => listed
                .with_protocol_type(text(PROTOCOL_TYPE))
                .with_group_state(text(consumer.state_name()))
                .with_group_type(text(CONSUMER)),
            None => listed
                .with_protocol_type(text(group.protocol_type.as_deref().unwrap_or_default()))
                .with_group_state(text(group.state.name()))
                .with_group_type(text(CLASSIC)),
        })
    }

    // --- Time

    /// When [`expire`](Self::expire) has something to do.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.timers.next().filter(|_| !self.is_resigned)
    }

    /// Ends what is over; some of it, where there is much, and the next deadline is due then.
    pub fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.is_resigned {
            return;
        }
        for _ in 0..GROUP_TIMERS_PER_STEP {
            let Some(timer) = self.timers.take_due(now.mono) else { return };
            let (Timer::Session { group: id, .. }
            | Timer::Join { group: id }
            | Timer::Sync { group: id }
            | Timer::Member { group: id, .. }) = &timer;
            if let Timer::Member { member, .. } = &timer {
                self.member_reminded(id, member, now, effects);
                continue;
            }
            let Some(group) = self.groups.get_mut(&**id) else { continue };
            let mut turn = turn!(self, now, effects);
            match &timer {
                Timer::Session { member, .. } => group.session_ended(member, &mut turn),
                Timer::Join { .. } => group.join_ended(&mut turn),
                Timer::Sync { .. } => group.sync_ended(&mut turn),
                Timer::Member { .. } => {} // Looked at above.
            }
            self.drop_if_nothing(id);
        }
    }

    /// The first groups behind one, by id, for walks that take turns.
    pub fn ids_after(&self, after: Option<&str>, count: usize) -> Vec<String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.groups.range::<str, _>((from, Bound::Unbounded)).take(count).map(|(id, _)| id.clone()).collect()
    }

    /// This is the coordinator no more: all that waits is answered so, and no deadline is looked at. A group in
    /// the middle of a rebalance would lose its members, who come back to the next coordinator.
    pub fn resign(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.is_resigned = true;
        let error = ErrorCode::NotCoordinator;
        let mut turn = turn!(self, now, effects);
        self.groups.values_mut().for_each(|group| group.resign(error, &mut turn));
        self.deferred_count = 0;
        self.resign_jobs(effects);
        let mut turn = turn!(self, now, effects);
        for deferred in std::mem::take(&mut self.deferred).into_values().flatten() {
            let (ticket, refused) = match deferred {
                Deferred::Join(joining, _, ticket) => (ticket, refused_join(&joining.member_id, error)),
                Deferred::Commit(_, request, ticket) | Deferred::CommitInTransaction(_, request, ticket) => {
                    (ticket, Answer::Commit(commit_response(&request, |_| error)))
                }
                Deferred::DeleteGroup(ticket) => (ticket, Answer::DeleteGroup(error)),
                Deferred::DeleteOffsets(_, ticket) => {
                    let refused = OffsetDeleteResponse::default().with_error_code(error.code());
                    (ticket, Answer::DeleteOffsets(refused))
                }
                Deferred::ConsumerHeartbeat(_, ticket) => (ticket, refused_heartbeat(error, None)),
                Deferred::Sync(_, ticket) => (ticket, refused_sync(error)),
                Deferred::Leave(_, ticket) => {
                    let refused = LeaveGroupResponse::default().with_error_code(error.code());
                    (ticket, Answer::Leave(refused))
                }
                Deferred::Forget(_) | Deferred::Overdue(_) | Deferred::Resolved(..) => continue,
            };
            turn.answer(ticket, refused);
        }
    }

    /// Who was refused, or never came back with its id, leaves nothing behind.
    fn drop_if_nothing(&mut self, id: &str) {
        let is_nothing = |group: &Group| {
            group.is_simple() && !group.has_pending_members() && !group.is_kept && !group.is_closing
        };
        if self.groups.get(id).is_some_and(is_nothing) {
            self.groups.remove(id);
        }
    }

    /// Panics unless what must hold does.
    #[cfg(test)]
    pub fn check(&self) {
        self.groups.values().for_each(Group::check);
        self.check_pending();
        let clocks = |group: &Group| group.consumer.as_ref().map_or(0, |consumer| consumer.clock_count());
        let members = |group: &Group| group.members.len() + group.pending_count() + clocks(group) + 2;
        assert_eq!(self.held, self.groups.values().map(Group::size).sum::<usize>());
        let mut counts = BTreeMap::new();
        for write in self.writes.values() {
            assert!(write.records.iter().all(|record| record.group() == write.group), "{write:?}");
            *counts.entry(write.group.clone()).or_insert(0) += 1;
        }
        assert_eq!(self.write_counts, counts);
        assert_eq!(self.deferred.values().map(VecDeque::len).sum::<usize>(), self.deferred_count);
        // A write that ends is what they are tried again after.
        let is_to_end = |id: &String| counts.contains_key(id) || self.jobs.contains_key(id);
        assert!(self.deferred.iter().all(|(id, queue)| !queue.is_empty() && is_to_end(id)));
        assert_eq!(self.jobs.len(), self.waiting_jobs.len());
        let is_closing = |group: &&Group| group.is_closing;
        assert!(self.groups.values().filter(is_closing).all(|group| counts.contains_key(&group.id)));
        assert!(self.timers.count() <= self.groups.values().map(members).sum(), "{:?}", self.timers);
    }

    #[cfg(test)]
    pub fn groups_mut(&mut self) -> &mut BTreeMap<String, Group> {
        &mut self.groups
    }

    #[cfg(test)]
    pub fn groups(&self) -> &BTreeMap<String, Group> {
        &self.groups
    }
}

/// An id that no group is made for.
fn is_too_long(group: &str) -> bool {
    group.len() > GROUP_ID_SIZE_MAX
}

fn tombstone(group: &str, topic: &str, partition: i32) -> GroupRecord {
    GroupRecord::Offset { group: group.to_owned(), topic: topic.to_owned(), partition, value: None }
}

impl Group {
    /// Takes away all that is kept of it, what is pending included: itself at the end.
    fn close(&mut self, pending: &PendingOffsets) -> VecDeque<GroupRecord> {
        self.is_closing = true;
        let is_new = |(topic, index): &(&str, i32)| self.offsets.get(topic, *index).is_none();
        let keys = self.offsets.keys().chain(pending.of_group(&self.id).filter(is_new));
        let offsets = keys.map(|(topic, index)| tombstone(&self.id, topic, index));
        let consumer = self.consumer.iter().flat_map(|consumer| consumer.tombstones());
        offsets
            .chain(consumer.map(GroupRecord::Consumer))
            .chain([GroupRecord::Group { group: self.id.clone(), value: None }])
            .collect()
    }
}

/// What a client is told of records that are larger than the log takes, as in Kafka.
const TOO_LARGE: ErrorCode = ErrorCode::UnknownServerError;

/// With this where there is place for it.
const TOO_LARGE_MESSAGE: &str =
    "What is to be kept of the group is larger than max.message.bytes of __consumer_offsets allows.";

/// What a client is told when records could not be kept (Kafka `GroupMetadataManager`,
/// `CoordinatorOperationExceptionHelper`).
pub fn write_error(error: ErrorCode) -> ErrorCode {
    match error {
        // Behind the append too: clients know neither, and would give up.
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => TOO_LARGE,
        error => error,
    }
}

fn kept_or_failed(answer: Answer, kept: Result<(), ErrorCode>) -> Answer {
    match kept {
        Ok(()) => answer,
        Err(error) => failed(answer, error),
    }
}

/// The answer to a request whose records were not kept: what was to succeed has failed.
fn failed(answer: Answer, error: ErrorCode) -> Answer {
    let or = |code: i16| if code == ErrorCode::None.code() { error.code() } else { code };
    match answer {
        Answer::Commit(mut response) => {
            let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            partitions.for_each(|partition| partition.error_code = or(partition.error_code));
            Answer::Commit(response)
        }
        Answer::DeleteGroup(_) => Answer::DeleteGroup(error),
        Answer::DeleteOffsets(_) => {
            Answer::DeleteOffsets(OffsetDeleteResponse::default().with_error_code(error.code()))
        }
        Answer::Join(response) => Answer::Join(response.with_error_code(error.code())),
        Answer::Sync(response) => Answer::Sync(response.with_error_code(error.code())),
        Answer::Leave(response) => Answer::Leave(response.with_error_code(error.code())),
        Answer::Heartbeat(_) => Answer::Heartbeat(error),
        Answer::ConsumerHeartbeat(_) => {
            refused_heartbeat(error, (error == TOO_LARGE).then_some(TOO_LARGE_MESSAGE))
        }
    }
}
