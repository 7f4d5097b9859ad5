//! Large groups whose targets are made in steps: meanwhile nothing else is decided of them, and what asked for it
//! goes on once they are kept.
//!
//! ```text
//! heartbeat ─► what it changes is kept ─► work, work, work ─► targets are kept ─► the heartbeat again: its answer
//! ```
//!
//! If the broker stops in between, the group is in an epoch that nothing is aimed at for, and whoever asks next has
//! it made.

use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::GroupRecord;
use crate::group::assignor::Budget;
use crate::group::classic::refused_join;
use crate::group::consumer::aim::Aiming;
use crate::group::consumer::{Change, Seen};
use crate::group::coordinator::Coordinator;
use crate::group::coordinator::consumers::{Changed, HeartbeatCall, refused, refused_heartbeat};
use crate::group::member::Joining;
use crate::group::{Answer, Effect, Moment, Ticket};
use crate::types::limits::{GROUP_TRANSACTION_AT_ONCE_MAX, GROUPS_SIZE_MAX};

/// A request that goes on once there are targets.
#[derive(Clone, Debug)]
pub enum Asker {
    Heartbeat(Box<HeartbeatCall>, Ticket),
    Join(Box<(Joining, String)>, Ticket),
}

impl Asker {
    pub fn refused(&self, error: ErrorCode) -> (Ticket, Answer) {
        match self {
            Asker::Heartbeat(_, ticket) => (*ticket, refused_heartbeat(error, None)),
            Asker::Join(join, ticket) => (*ticket, refused_join(&join.0.member_id, error)),
        }
    }
}

/// Targets that are being made.
#[derive(Debug)]
pub struct Job {
    aiming: Aiming,
    change: Change,
    /// Bytes of the group, and what it had seen, before the first step.
    size: usize,
    seen: Seen,
    asker: Asker,
}

impl Coordinator {
    pub(super) fn begin_aiming(&mut self, id: &str, asker: Asker) {
        let settings = self.consumers.of_group(&*self.topics, id);
        let consumer = self.consumer(id).expect("the caller has looked");
        let (size, seen) = (consumer.size(), consumer.seen());
        let aiming = Aiming::new(consumer, &settings.assignors);
        self.jobs.insert(id.to_owned(), Job { aiming, change: Change::default(), size, seen, asker });
        self.waiting_jobs.push_back(id.to_owned());
    }

    /// Whether targets of a group are being made: those that it has are some of each epoch.
    pub fn is_aiming(&self, id: &str) -> bool {
        self.jobs.contains_key(id)
    }

    /// Whether there is something to [`work`](Coordinator::work) at.
    pub fn has_work(&self) -> bool {
        !self.waiting_jobs.is_empty() || self.has_endings()
    }

    /// Goes on with what takes long; the caller lets others run in between. `units`: some 100 ns each.
    pub fn work(&mut self, units: usize, now: Moment, effects: &mut Vec<Effect>) {
        if self.has_endings() {
            self.end_transactions(GROUP_TRANSACTION_AT_ONCE_MAX);
            return;
        }
        let Some(id) = self.waiting_jobs.pop_front() else { return };
        let mut job = self.jobs.remove(&id).expect("it waits");
        let consumer = self.groups.get_mut(&id).and_then(|group| group.consumer.as_mut());
        let consumer = consumer.expect("nothing else is decided of it");
        let before = consumer.size();
        let is_over = job.aiming.step(consumer, &mut Budget::new(units), &mut job.change);
        let size = consumer.size();
        self.held = self.held - before + size;
        if !is_over {
            self.jobs.insert(id.clone(), job);
            return self.waiting_jobs.push_back(id); // Each in its turn.
        }
        let Job { change, asker, .. } = job;
        if size > job.size && self.held > GROUPS_SIZE_MAX {
            let consumer = self.consumer_mut(&id).expect("as above");
            consumer.undo_refused(change.undo, job.seen);
            let undone = consumer.size();
            self.held = self.held - size + undone;
            let (ticket, answer) = asker.refused(ErrorCode::CoordinatorNotAvailable);
            effects.push(Effect::Answer(ticket, answer));
            return self.retry(&id, now, effects);
        }
        let records = change.records.into_iter().map(GroupRecord::Consumer).collect();
        let changed = Changed { undo: change.undo, asker: Some(asker), ..Changed::default() };
        self.keep(&id, records, changed, now, effects);
    }

    /// A request goes on where it was.
    pub(super) fn go_on(&mut self, asker: Asker, now: Moment, effects: &mut Vec<Effect>) {
        match asker {
            Asker::Heartbeat(call, ticket) => {
                if let Err(refusal) = self.beat(&call, ticket, now, effects) {
                    effects.push(Effect::Answer(ticket, refused(&refusal)));
                }
            }
            Asker::Join(join, ticket) => {
                let (joining, fresh_id) = *join;
                match self.is_consumer_group(&joining.group) {
                    true => self.consumer_join(joining, &fresh_id, ticket, now, effects),
                    false => self.join_or_wait(joining, fresh_id, ticket, now, effects),
                }
            }
        }
    }

    /// Answers all that wait for targets.
    pub(in crate::group::coordinator) fn resign_jobs(&mut self, effects: &mut Vec<Effect>) {
        self.waiting_jobs.clear();
        for job in std::mem::take(&mut self.jobs).into_values() {
            let (ticket, answer) = job.asker.refused(ErrorCode::NotCoordinator);
            effects.push(Effect::Answer(ticket, answer));
        }
    }
}
