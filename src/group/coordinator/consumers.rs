//! Groups of the newer protocol (KIP-848) among those of a coordinator: which request meets one, what a classic
//! group becomes, what waits for which write.
//!
//! While records of a group are on their way, what would decide something of it waits, in its order: what is in
//! memory is ahead of the log then, and is taken back if they cannot be kept.

use crate::codec::consumer_record::{ConsumerRecord, MemberState};
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, GroupValue};
use crate::group::classic::{Group, State, refused_join};
use crate::group::consumer::clocks::Overdue;
use crate::group::consumer::heartbeat::{Beat, Intent, validate};
use crate::group::consumer::rebalance::Resolved;
use crate::group::consumer::regex::Patterns;
use crate::group::consumer::{self, Change, ConsumerGroup, ConsumerSettings, Context, Refusal};
use crate::group::coordinator::{Coordinator, DESCRIBE_NOT_FOUND_FROM, Deferred, Then, Turn, is_too_long};
use crate::group::member::{Joining, text};
use crate::group::topics::Topics;
use crate::group::{Answer, Caller, Effect, Moment, Ticket};
use crate::types::Uuid;
use crate::types::limits::{GROUP_MEMBER_SIZE_MAX, GROUPS_PER_COORDINATOR_MAX, GROUPS_SIZE_MAX};
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId};
use std::collections::BTreeSet;
use std::rc::Rc;

/// The first version of OffsetCommit in which members of the newer protocol can say their epoch.
const MEMBER_EPOCH_FROM: i16 = 9;

/// A heartbeat, with what is needed to decide it later.
#[derive(Clone, Debug)]
pub struct HeartbeatCall {
    caller: Caller,
    request: ConsumerGroupHeartbeatRequest,
    /// An id for a member that has none.
    fresh_id: String,
    intent: Intent,
}

impl HeartbeatCall {
    /// Member and instance, as it says.
    pub(super) fn sender(&self) -> (&str, Option<&str>) {
        (&self.request.member_id, self.request.instance_id.as_deref())
    }
}

/// Regular expressions that the shell is to hold against all topics, in its own time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToResolve {
    pub group: String,
    pub regexes: Vec<String>,
    /// Of the topics, to be handed back.
    pub version: u64,
}

/// What follows when records of a group are kept, or not.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    undo: Vec<ConsumerRecord>,
    /// The classic group that it was.
    before: Option<Box<Group>>,
    answer: Option<(Ticket, Answer)>,
    /// A member that has joined by the classic protocol: it is to ask for its assignment.
    joined: Option<String>,
    touched: Option<String>,
    /// A request that goes on then.
    asker: Option<Asker>,
    becomes: Becomes,
}

/// What a group is once its records are kept; until then it is what it was.
#[derive(Clone, Debug, Default)]
enum Becomes {
    #[default]
    Itself,
    /// `rebalances`: its members share anew what there is.
    Classic { value: GroupValue, rebalances: bool },
    /// Nothing but what it has committed, and then somebody joins by the classic protocol.
    Nothing { next: Box<(Joining, String, Ticket)> },
}

/// How a group came to be one of the newer protocol.
enum Begun {
    Before,
    /// It is new, or had no members.
    Now,
    /// Members of the classic protocol are in it.
    Upgraded(Vec<ConsumerRecord>),
}

/// What a group may look at, beside the groups.
macro_rules! context {
    ($coordinator:expr, $now:expr, $settings:expr) => {
        Context {
            now: $now,
            settings: &$settings,
            topics: &*$coordinator.topics,
            topics_version: $coordinator.topics_version,
            patterns: &$coordinator.patterns,
        }
    };
}

mod aiming;
mod classic; // Behind the macro, which it uses.

use aiming::Asker;
pub use aiming::Job;

impl Coordinator {
    /// What groups of the newer protocol need; without it there are no topics.
    pub fn with_consumers(self, consumers: ConsumerSettings, topics: Rc<dyn Topics>) -> Coordinator {
        Coordinator { consumers, topics, ..self }
    }

    /// Shares what has been compiled with other coordinators.
    pub fn with_patterns(self, patterns: Rc<Patterns>) -> Coordinator {
        Coordinator { patterns, ..self }
    }

    /// Topics have come, gone or grown.
    pub fn topics_changed(&mut self) {
        self.topics_version += 1;
    }

    pub fn is_consumer_group(&self, id: &str) -> bool {
        self.consumer(id).is_some()
    }

    fn consumer(&self, id: &str) -> Option<&ConsumerGroup> {
        self.groups.get(id)?.consumer.as_deref()
    }

    fn consumer_mut(&mut self, id: &str) -> Option<&mut ConsumerGroup> {
        self.groups.get_mut(id)?.consumer.as_deref_mut()
    }

    /// Whether what is in memory is ahead of the log, or is about to be taken away.
    pub(super) fn is_busy(&self, id: &str) -> bool {
        self.is_closing(id)
            || self.is_aiming(id)
            || self.consumer(id).is_some_and(|consumer| consumer.writing.is_some())
    }

    /// Whether it is without members in memory, and the log may not take that.
    pub(super) fn may_have_members_again(&self, id: &str) -> bool {
        self.consumer(id).is_some_and(|consumer| consumer.is_empty() && consumer.writing.is_some())
    }

    // --- The log

    pub(super) fn apply_consumer(&mut self, record: &ConsumerRecord) {
        let id = record.group();
        if let ConsumerRecord::Group { epoch: None, .. } = record {
            let Some(group) = self.groups.get_mut(id) else { return };
            if let Some(consumer) = group.consumer.take() {
                self.held -= consumer.size();
            }
            if group.is_simple() && group.offsets.count() == 0 && !self.pending.has_group(id) {
                self.groups.remove(id);
            }
            return;
        }
        if record.is_tombstone() && !self.is_consumer_group(id) {
            return;
        }
        let group =
            self.groups.entry(id.to_owned()).or_insert_with(|| Group::new(id, crate::types::Timestamp::NONE));
        self.held -= group.size();
        if group.consumer.is_none() {
            // Nothing of a classic group is left where records of the other kind begin.
            let offsets = std::mem::take(&mut group.offsets);
            *group = Group::new(id, crate::types::Timestamp::NONE);
            group.offsets = offsets;
        }
        group.is_kept = true;
        let consumer = group.consumer.get_or_insert_with(|| Box::new(ConsumerGroup::new(id)));
        consumer.put(record.clone());
        self.held += group.size();
    }

    /// Records of a group have been kept, or have not.
    pub(super) fn changed(
        &mut self,
        id: &str,
        records: &[GroupRecord],
        changed: Changed,
        kept: Result<(), ErrorCode>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Changed { undo, before, answer, joined, touched, asker, becomes } = changed;
        match becomes {
            Becomes::Itself => {}
            Becomes::Classic { value, rebalances } if kept.is_ok() => {
                self.become_classic(id, value, rebalances, now, effects);
            }
            Becomes::Classic { .. } => {}
            Becomes::Nothing { next } => {
                let (joining, fresh_id, ticket) = *next;
                let goes_on = if self.is_resigned { Err(ErrorCode::NotCoordinator) } else { kept };
                if kept.is_ok() {
                    self.forget_consumer(id);
                }
                if let Err(error) = goes_on {
                    let refused = refused_join(&joining.member_id, error);
                    effects.push(Effect::Answer(ticket, refused));
                } else {
                    return self.join_or_wait(joining, fresh_id, ticket, now, effects);
                }
            }
        }
        let ids = records.iter().filter_map(|record| match record {
            // What is aimed at for a member does not concern its deadlines.
            GroupRecord::Consumer(ConsumerRecord::Target { partitions: Some(_), .. }) => None,
            GroupRecord::Consumer(record) => record.member().map(str::to_owned),
            GroupRecord::Offset { .. } | GroupRecord::Group { .. } => None,
        });
        let mut ids: BTreeSet<String> = ids.collect();
        if kept.is_ok()
            && let Some(group) = self.groups.get_mut(id).filter(|group| group.consumer.is_some())
        {
            group.is_kept = true;
        }
        if let Some(consumer) = self.groups.get_mut(id).and_then(|group| group.consumer.as_mut()) {
            consumer.writing = None;
            let settings = self.consumers.of_group(&*self.topics, id);
            let size = consumer.size();
            if kept.is_err() {
                consumer.undo(undo);
                ids.extend(consumer.members.keys().map(|id| id.to_string()));
            }
            self.held = self.held - size + consumer.size();
            for record in records.iter().filter(|_| kept.is_ok()) {
                if let GroupRecord::Consumer(ConsumerRecord::Current { member, value: Some(value), .. }) =
                    record
                    && value.state == MemberState::Unrevoked
                {
                    consumer.begin_to_let_go(member);
                }
            }
            for member in &ids {
                match consumer.members.contains_key(&**member) {
                    true => consumer.look_at(member, now.mono, &settings, &mut self.timers),
                    false => consumer.forget_clocks(Some(member), &mut self.timers),
                }
            }
            if let Some(touched) = touched {
                consumer.touch(&touched, now.mono, &settings, &mut self.timers);
            }
            if kept.is_ok()
                && let Some(joined) = joined
            {
                let timeout = consumer.members.get(&*joined).map(consumer::Member::rebalance_timeout);
                consumer.set_clock(&joined, &mut self.timers, |clock| {
                    clock.set_steps(|steps| {
                        steps.join = None;
                        steps.sync = timeout.map(|timeout| now.mono.after(timeout));
                    });
                });
            }
        }
        if let (Err(_), Some(before)) = (kept, before) {
            self.restore(id, *before, now, effects);
        }
        if let Some((ticket, answer)) = answer {
            let answer = super::kept_or_failed(answer, kept);
            effects.push(Effect::Answer(ticket, answer));
        }
        if let Some(asker) = asker {
            match if self.is_resigned { Err(ErrorCode::NotCoordinator) } else { kept } {
                Ok(()) => self.go_on(asker, now, effects),
                Err(error) => {
                    let (ticket, answer) = asker.refused(error);
                    effects.push(Effect::Answer(ticket, answer));
                }
            }
        }
        self.drop_if_nothing(id);
    }

    /// Whether the log has nothing of a group but what an earlier build may have left behind: it is in no epoch.
    pub(super) fn consumer_is_stray(&self, id: &str) -> bool {
        self.consumer(id).is_some_and(|consumer| consumer.epoch == 0 && consumer.is_empty())
    }

    /// All records of a group that has no members are gone; what it has committed stays.
    pub(super) fn forget_consumer(&mut self, id: &str) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let Some(mut consumer) = group.consumer.take() else { return };
        consumer.forget_clocks(None, &mut self.timers);
        self.held -= consumer.size();
        group.is_kept = group.offsets.count() > 0 || self.pending.has_group(id);
        self.drop_if_nothing(id);
    }

    /// A group that could not be made one of the newer protocol is what it was; its members join again.
    fn restore(&mut self, id: &str, mut before: Group, now: Moment, effects: &mut Vec<Effect>) {
        let Some(group) = self.groups.get_mut(id) else { return };
        let mut turn = turn!(self, now, effects);
        *turn.held -= group.size();
        if let Some(mut consumer) = group.consumer.take() {
            consumer.forget_clocks(None, turn.timers);
        }
        before.offsets = std::mem::take(&mut group.offsets);
        *group = before;
        *turn.held += group.size();
        if !group.members.is_empty() {
            group.state = State::Stable;
            group.restart_sessions(&mut turn);
            if group.state == State::Stable {
                group.prepare_rebalance(&mut turn);
            }
        }
    }

    /// Decides something of a group. After a refusal nothing has changed.
    fn decide_change<T>(
        &mut self,
        id: &str,
        now: Moment,
        decide: impl FnOnce(&mut ConsumerGroup, &Context<'_>, &mut Change) -> Result<T, Refusal>,
    ) -> Result<(T, Change), Refusal> {
        let settings = self.consumers.of_group(&*self.topics, id);
        let context = context!(self, now, settings);
        let group = self.groups.get_mut(id).and_then(|group| group.consumer.as_mut());
        let consumer = group.expect("the caller has looked");
        let (size, seen) = (consumer.size(), consumer.seen());
        let mut change = Change::default();
        let decided = decide(consumer, &context, &mut change);
        let grown = consumer.size().saturating_sub(size);
        let decided = match decided {
            Ok(_) if grown > 0 && self.held + grown > GROUPS_SIZE_MAX => Err(Refusal::new(
                ErrorCode::CoordinatorNotAvailable,
                "The groups take all the memory that they may.",
            )),
            decided => decided,
        };
        let result = match decided {
            Ok(decided) => Ok((decided, change)),
            Err(refusal) => {
                consumer.undo_refused(change.undo, seen);
                Err(refusal)
            }
        };
        self.held = self.held - size + consumer.size();
        result
    }

    /// Has a change kept, or answers at once if there is none.
    fn keep(
        &mut self,
        id: &str,
        records: Vec<GroupRecord>,
        changed: Changed,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if records.is_empty() {
            return self.changed(id, &records, changed, Ok(()), now, effects);
        }
        let mut turn = turn!(self, now, effects);
        let write = turn.next_write();
        turn.write(id, records, Then::Changed(Box::new(changed)));
        if let Some(consumer) = self.consumer_mut(id) {
            consumer.writing = Some(write);
        }
    }

    // --- ConsumerGroupHeartbeat

    /// `fresh_id`: an id that nobody has, for a member without one.
    pub fn consumer_heartbeat(
        &mut self,
        caller: &Caller,
        request: ConsumerGroupHeartbeatRequest,
        fresh_id: &str,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let intent = match validate(&request, caller.version, &self.consumers) {
            Ok(_) if is_too_long(&request.group_id.0) => {
                Err(Refusal::new(ErrorCode::InvalidGroupId, "GroupId is too long."))
            }
            Ok(_) if said_size(&request) > GROUP_MEMBER_SIZE_MAX => {
                Err(Refusal::new(ErrorCode::InvalidRequest, "The member says too much of itself."))
            }
            intent => intent,
        };
        match intent {
            Ok(intent) => {
                let (caller, fresh_id) = (caller.clone(), fresh_id.to_owned());
                let call = HeartbeatCall { caller, request, fresh_id, intent };
                self.heartbeat_or_wait(Box::new(call), ticket, now, effects);
            }
            Err(refusal) => effects.push(Effect::Answer(ticket, refused(&refusal))),
        }
    }

    pub(super) fn heartbeat_or_wait(
        &mut self,
        call: Box<HeartbeatCall>,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let id = call.request.group_id.to_string();
        // A classic group becomes another one when nothing of it is on its way any more.
        let is_to_become = call.intent == Intent::Join && !self.is_consumer_group(&id);
        if self.is_busy(&id) || (is_to_become && self.has_writes(&id)) {
            let refused = refused_heartbeat(ErrorCode::CoordinatorLoadInProgress, None);
            return self.defer(&id, Deferred::ConsumerHeartbeat(call, ticket), ticket, refused, effects);
        }
        let refusal = match call.intent {
            Intent::Join | Intent::Stay => self.beat(&call, ticket, now, effects),
            Intent::Leave | Intent::LeaveForAWhile => self.consumer_leave(&call, ticket, now, effects),
        };
        if let Err(refusal) = refusal {
            effects.push(Effect::Answer(ticket, refused(&refusal)));
            self.drop_if_nothing(&id);
        }
    }

    fn beat(
        &mut self,
        call: &HeartbeatCall,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let request = &call.request;
        let id = request.group_id.to_string();
        let begun = self.begin(&id, call.intent == Intent::Join, now)?;
        let member_id = match request.member_id.is_empty() {
            true => call.fresh_id.clone(),
            false => request.member_id.to_string(),
        };
        let beat = Beat { request, caller: &call.caller, member_id: &member_id };
        let decided = self
            .decide_change(&id, now, |consumer, context, change| consumer.heartbeat(&beat, context, change));
        let (response, change) = match (decided, &begun) {
            (Ok(decided), _) => decided,
            (Err(refusal), Begun::Before) => return Err(refusal),
            (Err(refusal), Begun::Now | Begun::Upgraded(_)) => {
                let group = self.groups.get_mut(&id).expect("it has begun above");
                self.held -= group.consumer.take().map_or(0, |consumer| consumer.size());
                return Err(refusal);
            }
        };
        let mut records = Vec::new();
        let mut before = None;
        if !matches!(begun, Begun::Before) {
            let classic = self.leave_classic(&id, now, effects);
            if classic.is_kept && classic.protocol_type.is_some() {
                records.push(GroupRecord::Group { group: id.clone(), value: None });
            }
            before = Some(Box::new(classic));
        }
        if let Begun::Upgraded(upgraded) = begun {
            records.extend(upgraded.into_iter().map(GroupRecord::Consumer));
        }
        let has_new_epoch =
            change.records.iter().any(|record| matches!(record, ConsumerRecord::Group { .. }));
        self.rebalances += u64::from(has_new_epoch);
        records.extend(change.records.into_iter().map(GroupRecord::Consumer));
        let (answer, asker) = match response {
            Some(response) => (Some((ticket, Answer::ConsumerHeartbeat(response))), None),
            None => (None, Some(Asker::Heartbeat(Box::new(call.clone()), ticket))),
        };
        match asker {
            Some(asker) if records.is_empty() => self.begin_aiming(&id, asker),
            asker => {
                let touched = Some(member_id);
                let undo = change.undo;
                let changed = Changed { undo, before, answer, touched, asker, ..Changed::default() };
                self.keep(&id, records, changed, now, effects);
            }
        }
        self.ask_to_resolve(&id, now);
        Ok(())
    }

    /// Finds the group, or makes it one of the newer protocol; what it was before is still beside it then.
    fn begin(&mut self, id: &str, is_joining: bool, now: Moment) -> Result<Begun, Refusal> {
        let not_found = |message: String| Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
        let (consumer, begun) = match self.groups.get(id) {
            Some(group) if group.consumer.is_some() => return Ok(Begun::Before),
            None if !is_joining => return not_found(format!("Consumer group {id} not found.")),
            Some(_) if !is_joining => return not_found(format!("Group {id} is not a consumer group.")),
            None if self.groups.len() >= GROUPS_PER_COORDINATOR_MAX => {
                let message = "The coordinator has as many groups as it may.";
                return Err(Refusal::new(ErrorCode::CoordinatorNotAvailable, message));
            }
            None => (ConsumerGroup::new(id), Begun::Now),
            Some(group) if group.is_empty() => (ConsumerGroup::new(id), Begun::Now),
            Some(group) => {
                let may_upgrade = self.consumers.migration.upgrades()
                    && group.is_of_consumers()
                    && group.members.len() <= self.consumers.size_max;
                if !may_upgrade {
                    return not_found(format!("Group {id} is not a consumer group."));
                }
                match ConsumerGroup::from_classic(group, &*self.topics) {
                    Some((consumer, records)) => (consumer, Begun::Upgraded(records)),
                    None => {
                        return not_found(format!(
                            "Cannot upgrade the classic group {id} to consumer group because the embedded \
                            consumer protocol is malformed."
                        ));
                    }
                }
            }
        };
        let group = self.groups.entry(id.to_owned()).or_insert_with(|| Group::new(id, now.wall));
        self.held += consumer.size();
        group.consumer = Some(Box::new(consumer));
        Ok(begun)
    }

    /// The classic part of a group ends: its members are told to join again. Returns what it was.
    fn leave_classic(&mut self, id: &str, now: Moment, effects: &mut Vec<Effect>) -> Group {
        let mut turn = turn!(self, now, effects);
        let group = self.groups.get_mut(id).expect("the caller has looked");
        group.resign(ErrorCode::RebalanceInProgress, &mut turn);
        group.forget_timers(&mut turn);
        let mut fresh = Group::new(id, now.wall);
        fresh.offsets = std::mem::take(&mut group.offsets);
        fresh.consumer = group.consumer.take();
        fresh.is_kept = group.is_kept;
        let mut before = std::mem::replace(group, fresh);
        *turn.held -= before.size();
        for member in before.members.values_mut() {
            (member.session_end, member.reminder) = (None, None);
        }
        // Members of the classic protocol are in the group that it has become.
        let consumer = group.consumer.as_mut().expect("it has begun");
        let ids: Vec<Rc<str>> = consumer.members.keys().cloned().collect();
        let settings = self.consumers.of_group(&*self.topics, id);
        for member in ids {
            consumer.touch(&member, now.mono, &settings, turn.timers);
        }
        before
    }

    fn consumer_leave(
        &mut self,
        call: &HeartbeatCall,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let id = call.request.group_id.to_string();
        let not_found = |message: String| Refusal::new(ErrorCode::GroupIdNotFound, message);
        let consumer = match self.groups.get(&id) {
            None => return Err(not_found(format!("Group {id} not found."))),
            Some(group) => group.consumer.as_ref(),
        };
        let consumer = consumer.ok_or_else(|| not_found(format!("Group {id} is not a consumer group.")))?;
        let member = consumer.leaving(&call.request)?;
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(text(&member)))
            .with_member_epoch(call.request.member_epoch);
        let answer = Some((ticket, Answer::ConsumerHeartbeat(response)));
        if call.intent == Intent::Leave {
            self.fence(&id, &[member], answer, now, effects);
            return Ok(());
        }
        let ((), change) = self.decide_change(&id, now, |consumer, _, change| {
            consumer.leave_for_a_while(&member, change);
            Ok(())
        })?;
        let records = change.records.into_iter().map(GroupRecord::Consumer).collect();
        let changed = Changed { undo: change.undo, answer, ..Changed::default() };
        self.keep(&id, records, changed, now, effects);
        Ok(())
    }

    /// Takes members out; the group is a classic one again if all that are left use that protocol.
    fn fence(
        &mut self,
        id: &str,
        members: &[String],
        answer: Option<(Ticket, Answer)>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let Some(consumer) = self.consumer(id) else { return };
        let members: Vec<String> =
            members.iter().filter(|member| consumer.members.contains_key(&***member)).cloned().collect();
        if let [last] = &members[..]
            && consumer.members.len() > 1
            && self.may_downgrade(consumer, last, consumer.members.len() - 1)
        {
            let last = last.clone();
            return self.downgrade(id, Some(&last), Change::default(), answer, now, effects);
        }
        let decided = self
            .decide_change(id, now, |consumer, context, change| consumer.remove(&members, context, change));
        match decided {
            Ok(((), change)) => {
                let records = change.records.into_iter().map(GroupRecord::Consumer).collect();
                let changed = Changed { undo: change.undo, answer, ..Changed::default() };
                self.keep(id, records, changed, now, effects);
            }
            Err(refusal) => {
                if let Some((ticket, answer)) = answer {
                    effects.push(Effect::Answer(ticket, super::failed(answer, refusal.error)));
                }
            }
        }
    }

    // --- Time

    /// A member of a group may have to be given up.
    pub(super) fn member_reminded(&mut self, id: &str, member: &str, now: Moment, effects: &mut Vec<Effect>) {
        let consumer = self.groups.get_mut(id).and_then(|group| group.consumer.as_mut());
        let Some(consumer) = consumer else { return };
        if consumer.reminded(member, now.mono, &mut self.timers) == Overdue::No {
            return;
        }
        if self.is_busy(id) && !self.may_overtake(id, member) {
            return self.defer_any(id, Deferred::Overdue(member.to_owned())); // Bounded by the members.
        }
        if let Some(consumer) = self.groups.get_mut(id).and_then(|group| group.consumer.as_mut()) {
            consumer.remind_later(member, now.mono, &mut self.timers);
        }
        self.fence(id, &[member.to_owned()], None, now, effects);
    }

    /// Whether a member can be taken out though others wait: what they wait for changes no member, so that its end
    /// does not wait for the log, as in Kafka.
    ///
    /// Shape: O(waiting requests).
    fn may_overtake(&self, id: &str, member: &str) -> bool {
        let Some(group) = self.groups.get(id).filter(|group| !group.is_closing) else { return false };
        let consumer = group.consumer.as_ref().filter(|consumer| consumer.writing.is_none());
        let known = consumer.and_then(|consumer| consumer.members.get(member));
        known.is_some_and(|known| {
            !self.is_aiming(id) && !self.is_waited_by(id, member, known.value.instance_id.as_deref())
        })
    }

    // --- Regular expressions

    fn ask_to_resolve(&mut self, id: &str, now: Moment) {
        let settings = self.consumers.of_group(&*self.topics, id);
        let context = context!(self, now, settings);
        let consumer = self.groups.get_mut(id).and_then(|group| group.consumer.as_mut());
        if let Some(regexes) = consumer.and_then(|consumer| consumer.begin_resolving(&context)) {
            let version = self.topics_version;
            self.to_resolve.push_back(ToResolve { group: id.to_owned(), regexes, version });
        }
    }

    /// Regular expressions that are to be held against all topics; each is given out once.
    pub fn next_to_resolve(&mut self) -> Option<ToResolve> {
        self.to_resolve.pop_front()
    }

    /// What they match.
    pub fn resolved(
        &mut self,
        group: &str,
        version: u64,
        resolved: Resolved,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_resigned || !self.is_consumer_group(group) {
            return;
        }
        if self.is_busy(group) {
            // One of each group.
            return self.defer_any(group, Deferred::Resolved(version, resolved));
        }
        let decided = self.decide_change(group, now, |consumer, context, change| {
            consumer.resolved(resolved, version, context, change)
        });
        if let Ok(((), change)) = decided {
            let records = change.records.into_iter().map(GroupRecord::Consumer).collect();
            let changed = Changed { undo: change.undo, ..Changed::default() };
            self.keep(group, records, changed, now, effects);
        }
    }

    // --- Questions

    pub fn consumer_describe(&self, id: &str, version: i16) -> DescribedGroup {
        let missing = |message: String| {
            DescribedGroup::default()
                .with_group_id(GroupId(text(id)))
                .with_error_code(ErrorCode::GroupIdNotFound.code())
                .with_error_message(Some(text(&message)))
        };
        match self.groups.get(id).map(|group| &group.consumer) {
            Some(Some(consumer)) => consumer.describe(&self.consumers, &*self.topics, version),
            Some(None) => missing(format!("Group {id} is not a consumer group.")),
            None => missing(format!("Group {id} not found.")),
        }
    }

    /// Checks that a member may ask what was committed (OffsetFetch from 9 on).
    pub fn check_fetch(&self, id: &str, member: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        let Some(consumer) = self.consumer(id) else { return Ok(()) };
        if member.is_none() && epoch < 0 {
            return Ok(()); // Who does not say who it is: administrators, and older clients.
        }
        consumer.check_epoch_of(member.unwrap_or_default(), epoch)
    }
}

impl ConsumerGroup {
    /// Checks that a commit is from a member of its epoch, or from nobody to a group without members.
    pub fn check_commit(&self, version: i16, member: &str, epoch: i32) -> Result<(), ErrorCode> {
        if epoch < 0 && self.is_empty() {
            return Ok(());
        }
        let is_new = self.members.get(member).is_some_and(|member| !member.uses_classic());
        if is_new && version < MEMBER_EPOCH_FROM {
            return Err(ErrorCode::UnsupportedVersion);
        }
        self.check_epoch_of(member, epoch)
    }

    fn check_epoch_of(&self, member: &str, epoch: i32) -> Result<(), ErrorCode> {
        match self.members.get(member) {
            None => Err(ErrorCode::UnknownMemberId),
            Some(member) if member.current.epoch == epoch => Ok(()),
            Some(member) if member.uses_classic() => Err(ErrorCode::IllegalGeneration),
            Some(_) => Err(ErrorCode::StaleMemberEpoch),
        }
    }
}

/// The description of a group of the newer protocol by an API of the classic one (KIP-1043).
pub(super) fn described_as_classic(
    id: &str,
    version: i16,
) -> kafka_protocol::messages::describe_groups_response::DescribedGroup {
    use kafka_protocol::messages::describe_groups_response::DescribedGroup;
    let described =
        DescribedGroup::default().with_group_id(GroupId(text(id))).with_group_state(text(super::DEAD));
    match version {
        DESCRIBE_NOT_FOUND_FROM.. => described
            .with_error_code(ErrorCode::GroupIdNotFound.code())
            .with_error_message(Some(text(&format!("Group {id} is not a classic group.")))),
        _ => described,
    }
}

/// Bytes that a member says of itself. Partitions count as much as they would take in a record, so that no member
/// can have more of them than it may say.
fn said_size(request: &ConsumerGroupHeartbeatRequest) -> usize {
    let owned = request.topic_partitions.iter().flatten();
    let owned: usize = owned.map(|topic| size_of::<Uuid>() + 4 * topic.partitions.len()).sum();
    let names: usize = request.subscribed_topic_names.iter().flatten().map(|name| name.len()).sum();
    let texts = [&request.rack_id, &request.subscribed_topic_regex, &request.server_assignor];
    owned
        + names
        + request.member_id.len()
        + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>()
}

fn refused(refusal: &Refusal) -> Answer {
    refused_heartbeat(refusal.error, Some(&refusal.message))
}

/// Without a message, that of the error.
pub fn refused_heartbeat(error: ErrorCode, message: Option<&str>) -> Answer {
    let message = message.unwrap_or(error.message());
    Answer::ConsumerHeartbeat(
        ConsumerGroupHeartbeatResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(text(crate::codec::wire::clip(message)))),
    )
}
