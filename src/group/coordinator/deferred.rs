//! Requests that wait for writes of their group to end: in one queue of the group, in their order.

use crate::group::consumer::rebalance::Resolved;
use crate::group::coordinator::consumers::HeartbeatCall;
use crate::group::coordinator::{Coordinator, TransactionWriter};
use crate::group::member::Joining;
use crate::group::{Answer, Effect, Moment, Ticket};
use crate::types::limits::GROUP_DEFERRED_MAX;
use kafka_protocol::messages::{
    LeaveGroupRequest, OffsetCommitRequest, OffsetDeleteRequest, SyncGroupRequest,
};
use std::collections::BTreeSet;

/// A request that waits for writes of its group to end.
#[derive(Clone, Debug)]
pub(super) enum Deferred {
    Join(Joining, String, Ticket),
    Commit(i16, OffsetCommitRequest, Ticket),
    CommitInTransaction(TransactionWriter, OffsetCommitRequest, Ticket),
    DeleteGroup(Ticket),
    DeleteOffsets(OffsetDeleteRequest, Ticket),
    /// Topics are gone.
    Forget(BTreeSet<String>),
    ConsumerHeartbeat(Box<HeartbeatCall>, Ticket),
    Sync(SyncGroupRequest, Ticket),
    Leave(LeaveGroupRequest, Ticket),
    /// A member may have to be given up.
    Overdue(String),
    /// What regular expressions match in some version of the topics.
    Resolved(u64, Resolved),
}

impl Deferred {
    /// Topics that it is about to commit to.
    pub(super) fn committed_topics(&self) -> impl Iterator<Item = &str> {
        let topics = match self {
            Deferred::Commit(_, request, _) | Deferred::CommitInTransaction(_, request, _) => {
                &request.topics[..]
            }
            Deferred::Join(..)
            | Deferred::DeleteGroup(_)
            | Deferred::DeleteOffsets(..)
            | Deferred::Forget(_)
            | Deferred::ConsumerHeartbeat(..)
            | Deferred::Sync(..)
            | Deferred::Leave(..)
            | Deferred::Overdue(_)
            | Deferred::Resolved(..) => &[],
        };
        topics.iter().map(|topic| &**topic.name)
    }

    /// Whether a member has sent it, somebody does who has, or takes, its instance, or it is to leave by it.
    fn concerns(&self, member: &str, instance: Option<&str>) -> bool {
        let is_it = |id: &str, of: Option<&str>| id == member || (of.is_some() && of == instance);
        match self {
            Deferred::Join(joining, ..) => is_it(&joining.member_id, joining.instance_id.as_deref()),
            Deferred::Commit(_, request, _) | Deferred::CommitInTransaction(_, request, _) => {
                is_it(&request.member_id, request.group_instance_id.as_deref())
            }
            Deferred::ConsumerHeartbeat(call, _) => {
                let (id, of) = call.sender();
                is_it(id, of)
            }
            Deferred::Sync(request, _) => is_it(&request.member_id, request.group_instance_id.as_deref()),
            Deferred::Leave(request, _) => request
                .members
                .iter()
                .any(|leaving| is_it(&leaving.member_id, leaving.group_instance_id.as_deref())),
            Deferred::DeleteGroup(_)
            | Deferred::DeleteOffsets(..)
            | Deferred::Forget(_)
            | Deferred::Overdue(_)
            | Deferred::Resolved(..) => false,
        }
    }
}

impl Coordinator {
    /// Whether what is taken away has to wait: for a write, or behind others that do.
    pub(super) fn has_writes(&self, group: &str) -> bool {
        self.write_counts.contains_key(group)
            || self.deferred.contains_key(group)
            || self.jobs.contains_key(group)
    }

    /// Whether anything else has to wait: a group is being taken away, or is to be.
    pub(super) fn is_closing(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|group| group.is_closing) || self.deferred.contains_key(group)
    }

    /// Whether anything that waits concerns a member: it was there in time.
    pub(super) fn is_waited_by(&self, group: &str, member: &str, instance: Option<&str>) -> bool {
        self.deferred.get(group).into_iter().flatten().any(|deferred| deferred.concerns(member, instance))
    }

    pub(super) fn defer(
        &mut self,
        group: &str,
        deferred: Deferred,
        ticket: Ticket,
        refused: Answer,
        effects: &mut Vec<Effect>,
    ) {
        match self.deferred_count < GROUP_DEFERRED_MAX {
            true => self.defer_any(group, deferred),
            false => effects.push(Effect::Answer(ticket, refused)),
        }
    }

    pub(super) fn defer_any(&mut self, group: &str, deferred: Deferred) {
        self.deferred.entry(group.to_owned()).or_default().push_back(deferred);
        self.deferred_count += 1;
    }

    /// What waited for the writes of a group is tried again, in its order.
    pub(super) fn retry(&mut self, id: &str, now: Moment, effects: &mut Vec<Effect>) {
        if self.write_counts.contains_key(id) || self.jobs.contains_key(id) {
            return; // The first of them waits for all.
        }
        let Some(waiting) = self.deferred.remove(id) else { return };
        self.deferred_count -= waiting.len();
        for deferred in waiting {
            match deferred {
                Deferred::Join(joining, id, ticket) => self.join_or_wait(joining, id, ticket, now, effects),
                Deferred::Commit(version, request, ticket) => {
                    self.commit(version, request, ticket, now, effects);
                }
                Deferred::CommitInTransaction(writer, request, ticket) => {
                    self.commit_in_transaction(writer, request, ticket, now, effects);
                }
                Deferred::DeleteGroup(ticket) => self.delete_group(id, ticket, now, effects),
                Deferred::DeleteOffsets(request, ticket) => {
                    self.delete_offsets(request, ticket, now, effects);
                }
                Deferred::Forget(topics) => self.forget_or_wait(id, topics, now, effects),
                Deferred::ConsumerHeartbeat(call, ticket) => {
                    self.heartbeat_or_wait(call, ticket, now, effects);
                }
                Deferred::Sync(request, ticket) => self.sync(&request, ticket, now, effects),
                Deferred::Leave(request, ticket) => self.consumer_leave_group(request, ticket, now, effects),
                Deferred::Overdue(member) => self.member_reminded(id, &member, now, effects),
                Deferred::Resolved(version, resolved) => {
                    self.resolved(id, version, resolved, now, effects);
                }
            }
        }
    }
}
