//! ConsumerGroupHeartbeat: a member joins (epoch 0), goes on (its epoch), leaves (-1), or, a static one, leaves for
//! a while (-2).

use crate::codec::consumer_record::{ConsumerRecord, CurrentValue, MemberState, MemberValue, Partitions};
use crate::codec::error_code::ErrorCode;
use crate::group::Caller;
use crate::group::consumer::rebalance::Aimed;
use crate::group::consumer::reconcile::{self, Aim};
use crate::group::consumer::{
    AWAY, Change, ConsumerGroup, ConsumerSettings, Context, LEFT, Member, Refusal, removal,
};
use crate::group::member::text;
use crate::types::TopicId;
use crate::types::limits::{GROUP_INSTANCE_ID_SIZE_MAX, GROUP_MEMBERS_MAX};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as SaidPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::{Assignment, TopicPartitions};
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};

/// The first version in which members make their own ids (KIP-1082).
const OWN_ID_FROM: i16 = 1;
/// "It does not say", of the rebalance time-out.
const UNSAID: i32 = -1;

/// Whether a member joins or leaves by what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    Join,
    Stay,
    Leave,
    /// A static member comes back.
    LeaveForAWhile,
}

/// Checks what a request says by itself (Kafka `throwIfConsumerGroupHeartbeatRequestIsInvalid`).
pub fn validate(
    request: &ConsumerGroupHeartbeatRequest,
    version: i16,
    settings: &ConsumerSettings,
) -> Result<Intent, Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidRequest, message));
    let is_blank = |text: &str| text.trim().is_empty();
    let is_blank_option = |text: &Option<_>| text.as_deref().is_some_and(is_blank);
    if is_blank(&request.group_id) {
        return invalid("GroupId can't be empty.");
    }
    if is_blank_option(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    }
    if is_blank_option(&request.rack_id) {
        return invalid("RackId can't be empty.");
    }
    if request.instance_id.as_ref().is_some_and(|id| id.len() > GROUP_INSTANCE_ID_SIZE_MAX) {
        return invalid("InstanceId is too long.");
    }
    let epoch = request.member_epoch;
    if (version >= OWN_ID_FROM || epoch > 0 || epoch == LEFT) && is_blank(&request.member_id) {
        return invalid("MemberId can't be empty.");
    }
    let intent = match epoch {
        0 => {
            if request.rebalance_timeout_ms == UNSAID {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
            Intent::Join
        }
        1.. => Intent::Stay,
        LEFT => Intent::Leave,
        AWAY if is_blank(&request.member_id) => return invalid("MemberId can't be empty."),
        AWAY if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        AWAY => Intent::LeaveForAWhile,
        _ => return invalid("MemberEpoch is invalid."),
    };
    let known = || settings.assignors.iter().map(|assignor| assignor.name());
    if let Some(name) = request.server_assignor.as_deref().filter(|name| known().all(|known| known != *name))
    {
        let known: Vec<&str> = known().collect();
        let message =
            format!("ServerAssignor {name} is not supported. Supported assignors: {}.", known.join(", "));
        return Err(Refusal::new(ErrorCode::UnsupportedAssignor, message));
    }
    Ok(intent)
}

/// A heartbeat of a member that joins or stays.
pub struct Beat<'a> {
    pub request: &'a ConsumerGroupHeartbeatRequest,
    pub caller: &'a Caller,
    /// The request's, or one that was made for it.
    pub member_id: &'a str,
}

impl ConsumerGroup {
    /// The answer, once what it changes is kept; `None`: it is to come again then, and once there are targets. After
    /// a refusal what it has changed is to be undone.
    pub fn heartbeat(
        &mut self,
        beat: &Beat<'_>,
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<Option<ConsumerGroupHeartbeatResponse>, Refusal> {
        let (request, id) = (beat.request, beat.member_id);
        let instance_id = request.instance_id.as_deref();
        let is_joining = request.member_epoch == 0;
        self.check_size(id, instance_id, context)?;
        // Of who is no member nothing is looked at.
        let owned = request.topic_partitions.as_deref().map(|owned| match self.members.contains_key(id) {
            true => said_partitions(owned),
            false => Partitions::new(),
        });
        let known = self.members.get(id).map(|member| &member.current);
        // Who is in no epoch yet has been kept, and waits for targets.
        let is_there = known.is_some_and(|known| known.epoch > 0 && known.state != MemberState::Unknown);
        match instance_id {
            None => self.check_dynamic(id, request.member_epoch, owned.as_ref())?,
            Some(instance_id) => {
                self.check_static(id, instance_id, request.member_epoch, owned.as_ref(), change)?;
            }
        }
        let before = self.members.get(id).cloned();
        let value = before.as_ref().map(|member| &member.value);
        let is_changed = self.update(beat, value, context, change)?;
        if self.rebalance(is_changed, context, change)? == Aimed::Later {
            return Ok(None);
        }
        // A request that comes twice joins too, while the member goes on: only what it sends next takes it further.
        if !is_there || !is_joining {
            self.reconcile(id, owned.as_ref(), change)?;
        }
        let member = &self.members[id];
        let is_full = is_joining
            || (request.rebalance_timeout_ms != UNSAID
                && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
                && owned.is_some());
        let is_other = before.is_none_or(|before| before.current.assigned != member.current.assigned);
        let response = ConsumerGroupHeartbeatResponse::default()
            .with_member_id(Some(text(id)))
            .with_member_epoch(member.current.epoch)
            .with_heartbeat_interval_ms(context.settings.heartbeat_interval.as_millis() as i32)
            .with_assignment((is_full || is_other).then(|| assignment(&member.current.assigned)));
        Ok(Some(response))
    }

    pub(super) fn check_size(
        &self,
        id: &str,
        instance_id: Option<&str>,
        context: &Context<'_>,
    ) -> Result<(), Refusal> {
        let size_max = context.settings.size_max.min(GROUP_MEMBERS_MAX);
        // Who takes the place of another one takes no more.
        let is_known =
            self.members.contains_key(id) || instance_id.is_some_and(|id| self.statics.contains_key(id));
        if self.members.len() < size_max || is_known {
            return Ok(());
        }
        let message = format!("The consumer group has reached its maximum capacity of {size_max} members.");
        Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message))
    }

    fn check_dynamic(&self, id: &str, epoch: i32, owned: Option<&Partitions>) -> Result<(), Refusal> {
        match self.members.get(id) {
            None if epoch == 0 => Ok(()),
            _ => check_epoch(self.member(id)?, epoch, owned),
        }
    }

    /// A static member that joins under another id takes the place of who was there, if that one has left for a
    /// while, has never been told that it is in, or uses the classic protocol.
    fn check_static(
        &mut self,
        id: &str,
        instance_id: &str,
        epoch: i32,
        owned: Option<&Partitions>,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        let current = self.statics.get(instance_id).cloned();
        match current {
            None if epoch == 0 => Ok(()),
            None => {
                let message = format!("Instance id {instance_id} is unknown.");
                Err(Refusal::new(ErrorCode::UnknownMemberId, message))
            }
            Some(current) if current == id => {
                check_epoch(&self.members[id], epoch, owned)?;
                if epoch == 0 && self.members[id].current.epoch == AWAY {
                    let value = Some(back(&self.members[id].current));
                    let (group, member) = (self.id.to_string(), current);
                    self.change(ConsumerRecord::Current { group, member, value }, change);
                }
                Ok(())
            }
            Some(current) if epoch == 0 => {
                let old = &self.members[&*current];
                // Who is in no epoch was kept, but targets were not: its join has been refused.
                if old.current.epoch > 0 && !old.uses_classic() {
                    let message = format!(
                        "Static member {id} with instance id {instance_id} cannot join the group because the \
                        instance id is owned by {current} member."
                    );
                    return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
                }
                self.replace(&current, id, change);
                Ok(())
            }
            Some(current) => {
                let message = format!(
                    "Static member {id} with instance id {instance_id} was fenced by member {current}."
                );
                Err(Refusal::new(ErrorCode::FencedInstanceId, message))
            }
        }
    }

    /// Gives a static member another id, with all that it had.
    pub(super) fn replace(&mut self, old_id: &str, new_id: &str, change: &mut Change) {
        let old = self.members[old_id].clone();
        let target = self.targets.get(old_id).cloned().unwrap_or_default();
        removal(&self.id, old_id).into_iter().for_each(|record| self.change(record, change));
        let (group, member) = (|| self.id.to_string(), || new_id.to_owned());
        let current = back(&old.current);
        let records = [
            ConsumerRecord::Member { group: group(), member: member(), value: Some(old.value) },
            ConsumerRecord::Target { group: group(), member: member(), partitions: Some(target) },
            ConsumerRecord::Current { group: group(), member: member(), value: Some(current) },
        ];
        records.into_iter().for_each(|record| self.change(record, change));
    }

    /// Takes what a member says of itself; whether it subscribes to something else now.
    fn update(
        &mut self,
        beat: &Beat<'_>,
        before: Option<&MemberValue>,
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<bool, Refusal> {
        let request = beat.request;
        let unsaid = MemberValue { rebalance_timeout_ms: UNSAID, ..MemberValue::default() };
        let mut value = match before {
            // Who joins says all that there is to say: what it had said before, or who was in its place, is over.
            Some(before) if request.member_epoch == 0 => {
                MemberValue { instance_id: before.instance_id.clone(), ..unsaid }
            }
            Some(before) => before.clone(),
            None => unsaid,
        };
        let set = |field: &mut Option<String>, said: &Option<kafka_protocol::protocol::StrBytes>| {
            if let Some(said) = said {
                *field = Some(said.to_string());
            }
        };
        set(&mut value.instance_id, &request.instance_id);
        set(&mut value.rack, &request.rack_id);
        set(&mut value.assignor, &request.server_assignor);
        if request.rebalance_timeout_ms != UNSAID {
            value.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        if let Some(names) = &request.subscribed_topic_names {
            value.topics = names.iter().map(|name| name.to_string()).collect();
        }
        if let Some(regex) = &request.subscribed_topic_regex {
            // None at all is sent as an empty one.
            value.regex = Some(regex.to_string()).filter(|regex| !regex.is_empty());
        }
        value.client_id.clone_from(&beat.caller.client_id);
        value.client_host.clone_from(&beat.caller.client_host);
        value.classic = None;
        self.subscribe(beat.member_id, (before, value), context, change)
    }

    /// Keeps what a member says of itself, if it is something new; whether it subscribes to something else now.
    pub(super) fn subscribe(
        &mut self,
        id: &str,
        (before, value): (Option<&MemberValue>, MemberValue),
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<bool, Refusal> {
        if before == Some(&value) {
            return Ok(false);
        }
        if let Some(regex) = value.regex.as_ref().filter(|regex| !self.regex_readers.contains_key(*regex)) {
            context.patterns.get(regex).map_err(|error| {
                let message =
                    format!("SubscribedTopicRegex `{regex}` is not a valid regular expression: {error}.");
                Refusal::new(ErrorCode::InvalidRegularExpression, message)
            })?;
        }
        let is_changed = match before {
            Some(before) => before.topics != value.topics || before.regex != value.regex,
            None => true,
        };
        let (group, member) = (self.id.to_string(), id.to_owned());
        self.change(ConsumerRecord::Member { group, member, value: Some(value) }, change);
        self.forget_regexes(change);
        Ok(is_changed)
    }

    /// Takes a member a step further.
    pub(super) fn reconcile(
        &mut self,
        id: &str,
        owned: Option<&Partitions>,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        let current = &self.members[id].current;
        if reconcile::is_reconciled(current, self.target_epoch) {
            return Ok(());
        }
        let none = Partitions::new();
        let target = self.targets.get(id).unwrap_or(&none);
        let aim = Aim { epoch: self.target_epoch, target, owned };
        let next = reconcile::step(current, &aim, |topic, index| self.is_held(topic, index));
        let next = next.map_err(|_| {
            let message = "The consumer group member is in a unknown state. The member must abandon all its \
                partitions and rejoin.";
            Refusal::new(ErrorCode::FencedMemberEpoch, message)
        })?;
        if next != *current {
            let (group, member) = (self.id.to_string(), id.to_owned());
            self.change(ConsumerRecord::Current { group, member, value: Some(next) }, change);
        }
        Ok(())
    }

    // --- Leaving

    /// The member that a request to leave means.
    pub fn leaving(&self, request: &ConsumerGroupHeartbeatRequest) -> Result<String, Refusal> {
        let id = &request.member_id;
        let Some(instance_id) = request.instance_id.as_deref() else {
            return self.member(id).map(|_| id.to_string());
        };
        match self.statics.get(instance_id) {
            None => {
                let message = format!("Instance id {instance_id} is unknown.");
                Err(Refusal::new(ErrorCode::UnknownMemberId, message))
            }
            Some(current) if **current != **id => {
                let message = format!(
                    "Static member {id} with instance id {instance_id} was fenced by member {current}."
                );
                Err(Refusal::new(ErrorCode::FencedInstanceId, message))
            }
            Some(current) => Ok(current.clone()),
        }
    }

    /// A static member is away for a while: it keeps its partitions until its session is over.
    pub fn leave_for_a_while(&mut self, id: &str, change: &mut Change) {
        let current = &self.members[id].current;
        let value = CurrentValue { epoch: AWAY, revoking: Partitions::new(), ..current.clone() };
        let (group, member) = (self.id.to_string(), id.to_owned());
        self.change(ConsumerRecord::Current { group, member, value: Some(value) }, change);
    }

    /// Takes members out. The others get what they had once one of them asks.
    pub fn remove(
        &mut self,
        ids: &[String],
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        for id in ids {
            removal(&self.id, id).into_iter().for_each(|record| self.change(record, change));
        }
        self.forget_regexes(change);
        self.look_at_topics(context, change);
        self.next_epoch(change)
    }
}

/// Partitions as a member says them; a topic may be named more than once.
fn said_partitions(topics: &[SaidPartitions]) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in topics.iter().filter(|topic| !topic.partitions.is_empty()) {
        partitions.get_or_default(TopicId(topic.topic_id)).extend(topic.partitions.iter().copied());
    }
    partitions
}

/// A member that has started again: it has nothing, but what it had is still its own.
fn back(current: &CurrentValue) -> CurrentValue {
    CurrentValue { assigned: current.assigned.clone(), ..CurrentValue::default() }
}

/// Checks that a member is where the coordinator has it, or one step behind, if an answer was lost. Who joins again
/// goes on from where it was.
fn check_epoch(member: &Member, epoch: i32, owned: Option<&Partitions>) -> Result<(), Refusal> {
    let CurrentValue { epoch: known, previous_epoch, assigned, .. } = &member.current;
    let is_subset = || {
        owned.is_some_and(|owned| {
            owned.iter().all(|(topic, indexes)| {
                assigned.get(topic).is_some_and(|assigned| indexes.is_subset(assigned))
            })
        })
    };
    let fenced = |how: &str| {
        let message = format!(
            "The consumer group member has a {how} member epoch ({epoch}) than the one known by the group \
            coordinator ({known}). The member must abandon all its partitions and rejoin."
        );
        Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
    };
    match epoch {
        0 => Ok(()),
        epoch if epoch > *known => fenced("greater"),
        epoch if epoch < *known && (epoch != *previous_epoch || !is_subset()) => fenced("smaller"),
        _ => Ok(()),
    }
}

fn assignment(assigned: &Partitions) -> Assignment {
    let topics = assigned.iter().map(|(topic, indexes)| {
        TopicPartitions::default().with_topic_id(topic.0).with_partitions(indexes.iter().copied().collect())
    });
    Assignment::default().with_topic_partitions(topics.collect())
}
