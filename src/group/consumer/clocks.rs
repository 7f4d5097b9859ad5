//! When a member is given up: its session is over, or it takes longer than it said it would.
//!
//! | deadline | begins | ends |
//! |---|---|---|
//! | session | with each heartbeat | the member is taken out |
//! | rebalance | the member has to let partitions go | if it has not got another epoch by then |
//! | join, sync | a member of the classic protocol is told to join again, or has joined | unless it did |
//!
//! None of them is kept: they begin anew when a log has been loaded.

use crate::codec::consumer_record::MemberState;
use crate::group::consumer::{ConsumerGroup, ConsumerSettings, Member};
use crate::group::millis;
use crate::group::timers::{Timer, Timers};
use crate::types::Mono;
use crate::types::limits::GROUP_RETRY_INTERVAL;
use std::rc::Rc;
use std::time::Duration;

/// Deadlines of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    pub session: Option<Mono>,
    /// When they are looked at next: not after the first of them.
    reminder: Option<Mono>,
    /// The other ones, if there are any: nearly all the time there are not.
    steps: Option<Box<Steps>>,
}

/// Until when a member has to have done something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// And the epoch that it has to leave.
    pub rebalance: Option<(Mono, i32)>,
    pub join: Option<Mono>,
    pub sync: Option<Mono>,
}

impl Steps {
    fn next(&self) -> Option<Mono> {
        let rebalance = self.rebalance.map(|(end, _)| end);
        [rebalance, self.join, self.sync].into_iter().flatten().min()
    }
}

impl Clock {
    fn next(&self) -> Option<Mono> {
        let step = self.steps.as_ref().and_then(|steps| steps.next());
        self.session.into_iter().chain(step).min()
    }

    pub fn set_steps(&mut self, set: impl FnOnce(&mut Steps)) {
        let mut steps = self.steps.as_deref().copied().unwrap_or_default();
        set(&mut steps);
        self.steps = (steps != Steps::default()).then(|| Box::new(steps));
    }
}

/// What to do about a member whose reminder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    No,
    Yes,
}

impl Member {
    pub fn uses_classic(&self) -> bool {
        self.value.classic.is_some()
    }

    fn session_timeout(&self, settings: &ConsumerSettings) -> Duration {
        match &self.value.classic {
            Some(classic) => millis(classic.session_timeout_ms),
            None => settings.session_timeout,
        }
    }

    pub fn rebalance_timeout(&self) -> Duration {
        millis(self.value.rebalance_timeout_ms)
    }
}

impl ConsumerGroup {
    /// A member has been heard of: its session begins anew, and whether it has to let partitions go is looked at.
    pub fn touch(&mut self, id: &str, now: Mono, settings: &ConsumerSettings, timers: &mut Timers) {
        if let Some(clock) = self.clocks.get_mut(id) {
            clock.session = None;
        }
        self.look_at(id, now, settings, timers);
    }

    /// Something of a member has changed: whether it has to let partitions go is looked at. Its session begins if
    /// it has none; what others do does not keep it.
    pub fn look_at(&mut self, id: &str, now: Mono, settings: &ConsumerSettings, timers: &mut Timers) {
        let Some(member) = self.members.get(id) else { return };
        let session = now.after(member.session_timeout(settings));
        let (epoch, timeout) = (member.current.epoch, member.rebalance_timeout());
        // Members of the classic protocol have to join instead.
        let uses_classic = member.uses_classic();
        let is_revoking = member.current.state == MemberState::Unrevoked && !uses_classic;
        self.set_clock(id, timers, |clock| {
            clock.session.get_or_insert(session);
            clock.set_steps(|steps| {
                if !uses_classic {
                    // It may have been one that does, and was told to join.
                    (steps.join, steps.sync) = (None, None);
                }
                let begun = steps.rebalance.filter(|(_, since)| *since == epoch);
                steps.rebalance = is_revoking.then(|| begun.unwrap_or((now.after(timeout), epoch)));
            });
        });
    }

    /// A member is about to be told to let partitions go: what was looked at before has begun too early.
    pub fn begin_to_let_go(&mut self, id: &str) {
        if let Some(clock) = self.clocks.get_mut(id) {
            clock.set_steps(|steps| steps.rebalance = None);
        }
    }

    /// Changes deadlines of a member, and sees to it that they are looked at.
    pub fn set_clock(&mut self, id: &str, timers: &mut Timers, set: impl FnOnce(&mut Clock)) {
        if !self.members.contains_key(id) {
            return;
        }
        let id = self.shared_id(id);
        let clock = self.clocks.entry(id.clone()).or_default();
        set(clock);
        let Some(next) = clock.next() else { return };
        // A reminder that comes too early is set again.
        if clock.reminder.is_some_and(|reminder| reminder <= next) {
            return;
        }
        let timer = Timer::Member { group: self.id.clone(), member: id };
        if let Some(earlier) = clock.reminder.replace(next) {
            timers.cancel(earlier, &timer);
        }
        timers.set(next, timer);
    }

    /// A member of the classic protocol has been told to join.
    pub fn await_join(&mut self, id: &str, now: Mono, timers: &mut Timers) {
        let Some(timeout) = self.members.get(id).map(Member::rebalance_timeout) else { return };
        self.set_clock(id, timers, |clock| {
            clock.set_steps(|steps| {
                steps.join.get_or_insert(now.after(timeout));
            });
        });
    }

    /// Forgets when a member, or all of them, would be given up.
    pub fn forget_clocks(&mut self, member: Option<&str>, timers: &mut Timers) {
        let gone: Vec<(Rc<str>, Clock)> = match member {
            Some(id) => self.clocks.remove_entry(id).into_iter().collect(),
            None => std::mem::take(&mut self.clocks).into_iter().collect(),
        };
        for (member, clock) in gone {
            if let Some(reminder) = clock.reminder {
                timers.cancel(reminder, &Timer::Member { group: self.id.clone(), member });
            }
        }
    }

    /// A reminder has come. It is set again if nothing is over yet.
    pub fn reminded(&mut self, id: &str, now: Mono, timers: &mut Timers) -> Overdue {
        let epoch = self.members.get(id).map(|member| member.current.epoch);
        let Some(clock) = self.clocks.get_mut(id) else { return Overdue::No };
        // If this one had to wait for a write, there may be another one by now.
        if let Some(reminder) = clock.reminder.take() {
            timers.cancel(reminder, &Timer::Member { group: self.id.clone(), member: id.into() });
        }
        // While records are on their way, the epoch that it is in may be taken back with them.
        if self.writing.is_none() {
            let is_current = |begun: &(Mono, i32)| epoch == Some(begun.1);
            clock.set_steps(|steps| steps.rebalance = steps.rebalance.filter(is_current));
        }
        match clock.next() {
            Some(next) if next <= now => Overdue::Yes,
            Some(_) => {
                self.set_clock(id, timers, |_| {});
                Overdue::No
            }
            None => Overdue::No,
        }
    }

    /// A member that is overdue is to be given up now; if that fails, it is tried again a little later.
    pub fn remind_later(&mut self, id: &str, now: Mono, timers: &mut Timers) {
        let later = now.after(GROUP_RETRY_INTERVAL);
        self.set_clock(id, timers, |clock| {
            let move_on = |end: &mut Mono| *end = (*end).max(later);
            clock.session.as_mut().into_iter().for_each(move_on);
            clock.set_steps(|steps| {
                let rebalance = steps.rebalance.as_mut().map(|(end, _)| end);
                [rebalance, steps.join.as_mut(), steps.sync.as_mut()].into_iter().flatten().for_each(move_on);
            });
        });
    }

    #[cfg(test)]
    pub fn clock_count(&self) -> usize {
        self.clocks.len()
    }
}
