//! The classic protocol in and around groups of the newer one: members that use it in such a group, and groups that
//! go back to it.

use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, GroupValue};
use crate::group::classic::{Group, State, refused_join, refused_sync};
use crate::group::consumer::{Change, ConsumerGroup, ConsumerSettings, Context, Refusal};
use crate::group::coordinator::consumers::{Asker, Becomes, Changed};
use crate::group::coordinator::{Coordinator, Deferred, Turn};
use crate::group::member::{Joining, Protocol, text};
use crate::group::{Answer, Effect, Moment, Ticket};
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{HeartbeatRequest, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest};

impl Coordinator {
    // --- Back to the classic protocol

    pub(super) fn may_downgrade(&self, consumer: &ConsumerGroup, last: &str, size: usize) -> bool {
        self.consumers.migration.downgrades()
            && consumer.is_last_of_its_protocol(last)
            && size <= self.settings.size_max
    }

    /// `leaving`: a member that goes; `change`: what else has changed. It is a classic group once that is kept.
    pub(super) fn downgrade(
        &mut self,
        id: &str,
        leaving: Option<&str>,
        change: Change,
        answer: Option<(Ticket, Answer)>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let consumer = self.consumer(id).expect("the caller has looked");
        let value = consumer.to_classic(leaving, &*self.topics, now.wall);
        // Who is left shares what the one had that has gone, or what was on its way from one to the other.
        let rebalances = leaving.is_some() || !consumer.is_settled();
        let gone = change.records.into_iter().chain(consumer.tombstones()).map(GroupRecord::Consumer);
        let classic = GroupRecord::Group { group: id.to_owned(), value: Some(value.clone()) };
        let records = gone.chain([classic]).collect();
        let becomes = Becomes::Classic { value, rebalances };
        let changed = Changed { undo: change.undo, answer, becomes, ..Changed::default() };
        self.keep(id, records, changed, now, effects);
    }

    /// The records of the classic group are kept.
    pub(super) fn become_classic(
        &mut self,
        id: &str,
        value: GroupValue,
        rebalances: bool,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let mut turn = turn!(self, now, effects);
        let Some(group) = self.groups.get_mut(id) else { return };
        *turn.held -= group.size();
        let offsets = std::mem::take(&mut group.offsets);
        if let Some(mut consumer) = std::mem::replace(group, Group::from_record(id, value, offsets)).consumer
        {
            consumer.forget_clocks(None, turn.timers);
            for member in group.members.values_mut() {
                let protocols = consumer.protocols_of(&member.id).into_iter();
                member.protocols = protocols.map(|(name, metadata)| Protocol { name, metadata }).collect();
            }
        }
        *turn.held += group.size();
        group.restart_sessions(&mut turn);
        if rebalances && group.state == State::Stable {
            group.prepare_rebalance(&mut turn);
        }
    }

    // --- Members of the classic protocol

    pub(in crate::group::coordinator) fn consumer_join(
        &mut self,
        joining: Joining,
        fresh_id: &str,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let id = joining.group.clone();
        let refuse = |refusal: &Refusal, effects: &mut Vec<Effect>| {
            effects.push(Effect::Answer(ticket, refused_join(&joining.member_id, refusal.error)));
        };
        let consumer = self.consumer(&id).expect("the caller has looked");
        if consumer.is_empty() {
            if !joining.member_id.is_empty() {
                return refuse(&Refusal::new(ErrorCode::UnknownMemberId, ""), effects);
            }
            // It may be one of the other protocol, once nothing is left of it.
            let records = consumer.tombstones().into_iter().map(GroupRecord::Consumer).collect();
            let becomes = Becomes::Nothing { next: Box::new((joining, fresh_id.to_owned(), ticket)) };
            return self.keep(&id, records, Changed { becomes, ..Changed::default() }, now, effects);
        }
        let settings = self.consumers.of_group(&*self.topics, &id);
        let context = context!(self, now, settings);
        if let Err(refusal) = consumer.check_joining(&joining, &context) {
            return refuse(&refusal, effects);
        }
        if ConsumerGroup::has_to_come_back(&joining) {
            let answer = refused_join(fresh_id, ErrorCode::MemberIdRequired);
            effects.push(Effect::Answer(ticket, answer));
            return;
        }
        let member_id = match joining.member_id.is_empty() {
            true => fresh_id.to_owned(),
            false => joining.member_id.clone(),
        };
        let replaced = consumer.instance(joining.instance_id.as_deref()).map(str::to_owned);
        let replaced = replaced.filter(|old| joining.member_id.is_empty() && *old != member_id);
        let is_last =
            replaced.as_ref().is_some_and(|old| self.may_downgrade(consumer, old, consumer.members.len()));
        let decided = self.decide_change(&id, now, |consumer, context, change| {
            if !is_last {
                return consumer.join(&joining, &member_id, context, change);
            }
            // It becomes another group, which is done at once.
            let aiming_at_once_max = usize::MAX;
            let settings = ConsumerSettings { aiming_at_once_max, ..context.settings.clone() };
            consumer.join(&joining, &member_id, &Context { settings: &settings, ..*context }, change)
        });
        let (response, change) = match decided {
            Ok(decided) => decided,
            Err(refusal) => return refuse(&refusal, effects),
        };
        let records: Vec<_> = change.records.iter().cloned().map(GroupRecord::Consumer).collect();
        let Some(response) = response else {
            let asker = Asker::Join(Box::new((joining, fresh_id.to_owned())), ticket);
            if records.is_empty() {
                return self.begin_aiming(&id, asker);
            }
            let (undo, touched, asker) = (change.undo, Some(member_id), Some(asker));
            let changed = Changed { undo, touched, asker, ..Changed::default() };
            return self.keep(&id, records, changed, now, effects);
        };
        let answer = Some((ticket, Answer::Join(response)));
        if is_last {
            return self.downgrade(&id, None, change, answer, now, effects);
        }
        let joined = Some(member_id.clone());
        let touched = Some(member_id);
        let changed = Changed { undo: change.undo, answer, joined, touched, ..Changed::default() };
        self.keep(&id, records, changed, now, effects);
    }

    pub(in crate::group::coordinator) fn consumer_sync(
        &mut self,
        request: &SyncGroupRequest,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let id = request.group_id.to_string();
        if self.is_busy(&id) {
            let refused = refused_sync(ErrorCode::CoordinatorLoadInProgress);
            return self.defer(&id, Deferred::Sync(request.clone(), ticket), ticket, refused, effects);
        }
        let consumer = self.groups.get_mut(&id).and_then(|group| group.consumer.as_mut());
        let consumer = consumer.expect("the caller has looked");
        let member = request.member_id.to_string();
        let answer = match consumer.sync(request, &*self.topics) {
            Ok(response) => {
                consumer.touch(&member, now.mono, &self.consumers, &mut self.timers);
                consumer
                    .set_clock(&member, &mut self.timers, |clock| clock.set_steps(|steps| steps.sync = None));
                Answer::Sync(response)
            }
            Err(error) => {
                if error == ErrorCode::RebalanceInProgress {
                    consumer.await_join(&member, now.mono, &mut self.timers);
                }
                refused_sync(error)
            }
        };
        effects.push(Effect::Answer(ticket, answer));
    }

    pub(in crate::group::coordinator) fn consumer_classic_heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        now: Moment,
    ) -> ErrorCode {
        let consumer = self.groups.get_mut(&*request.group_id.0).and_then(|group| group.consumer.as_mut());
        let Some(consumer) = consumer else { return ErrorCode::UnknownMemberId };
        match consumer.classic_heartbeat(request) {
            Ok(is_to_join) => {
                consumer.touch(&request.member_id, now.mono, &self.consumers, &mut self.timers);
                if !is_to_join {
                    return ErrorCode::None;
                }
                consumer.await_join(&request.member_id, now.mono, &mut self.timers);
                ErrorCode::RebalanceInProgress
            }
            Err(error) => error,
        }
    }

    /// LeaveGroup of members of such a group; `request` as versions from 3 on have it.
    pub fn consumer_leave_group(
        &mut self,
        request: LeaveGroupRequest,
        ticket: Ticket,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        let id = request.group_id.to_string();
        if self.is_busy(&id) {
            let error = ErrorCode::CoordinatorLoadInProgress.code();
            let refused = Answer::Leave(LeaveGroupResponse::default().with_error_code(error));
            return self.defer(&id, Deferred::Leave(request, ticket), ticket, refused, effects);
        }
        let Some(consumer) = self.consumer(&id) else {
            // It has become a classic one meanwhile.
            let response = self.leave(&request, now, effects);
            return effects.push(Effect::Answer(ticket, Answer::Leave(response)));
        };
        let mut gone = Vec::new();
        let mut answered = Vec::with_capacity(request.members.len());
        for identity in &request.members {
            let leaving = match consumer.classic_leaving(identity) {
                Ok(member) if gone.contains(&member) => Err(ErrorCode::UnknownMemberId),
                leaving => leaving,
            };
            let response =
                MemberResponse::default().with_group_instance_id(identity.group_instance_id.clone());
            answered.push(match leaving {
                Ok(member) => {
                    let response = response.with_member_id(text(&member));
                    gone.push(member);
                    response
                }
                Err(error) => {
                    response.with_member_id(identity.member_id.clone()).with_error_code(error.code())
                }
            });
        }
        let answer = Answer::Leave(LeaveGroupResponse::default().with_members(answered));
        match gone.is_empty() {
            true => effects.push(Effect::Answer(ticket, answer)),
            false => self.fence(&id, &gone, Some((ticket, answer)), now, effects),
        }
    }
}
