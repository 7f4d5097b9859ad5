//! Rebalances: waiting for joins, then the leader, the protocol and the next generation.

use crate::codec::consumer_protocol::subscribed_topics;
use crate::codec::error_code::ErrorCode;
use crate::group::Answer;
use crate::group::classic::{Assignments, Group, Initial, State};
use crate::group::coordinator::{Then, Turn};
use crate::group::member::{Member, Protocol};
use crate::group::timers::Timer;
use crate::types::limits::GROUP_REJOIN_TIME_MIN;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Group {
    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        match self.state {
            State::PreparingRebalance { .. } => self.maybe_complete_join(turn),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(turn),
        }
    }

    /// Asks all members to join again.
    pub fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == State::CompletingRebalance {
            self.assign_nothing(ErrorCode::RebalanceInProgress, turn);
        }
        self.pending_sync.clear();
        self.forget_sync(turn);
        self.assigning = None; // Its record is of a generation that is over.
        let all = self.rebalance_timeout();
        let (wait, initial) = match self.state {
            State::Empty => {
                let delay = turn.settings.initial_rebalance_delay;
                (delay, Some(Initial { delay, remaining: all.saturating_sub(delay) }))
            }
            _ => (all, None),
        };
        self.member_added = false;
        self.wait_for_joins(wait, initial, turn);
        self.state_since = Some(turn.now.wall);
        if initial.is_none() {
            self.maybe_complete_join(turn);
        }
    }

    pub(super) fn wait_for_joins(&mut self, wait: Duration, initial: Option<Initial>, turn: &mut Turn<'_>) {
        self.forget_join(turn);
        let end = turn.now.mono.after(wait);
        self.state = State::PreparingRebalance { end, initial };
        turn.timers.set(end, Timer::Join { group: self.id.as_str().into() });
    }

    pub(super) fn forget_join(&self, turn: &mut Turn<'_>) {
        if let State::PreparingRebalance { end, .. } = self.state {
            turn.timers.cancel(end, &Timer::Join { group: self.id.as_str().into() });
        }
    }

    pub(super) fn forget_sync(&mut self, turn: &mut Turn<'_>) {
        if let Some(end) = self.sync_end.take() {
            turn.timers.cancel(end, &Timer::Sync { group: self.id.as_str().into() });
        }
    }

    /// The longest that a member may take (KIP-62).
    pub(super) fn rebalance_timeout(&self) -> Duration {
        self.members.values().map(Member::rebalance_timeout).max().unwrap_or_default()
    }

    pub(super) fn has_all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// Goes on once all members have joined; but an empty group waits for more of them in any case.
    pub(super) fn maybe_complete_join(&mut self, turn: &mut Turn<'_>) {
        if let State::PreparingRebalance { initial: None, .. } = self.state
            && self.has_all_joined()
        {
            self.complete_join(turn);
        }
    }

    /// Members had the time to join.
    pub fn join_ended(&mut self, turn: &mut Turn<'_>) {
        let State::PreparingRebalance { end, initial } = self.state else { return };
        if end > turn.now.mono {
            return; // Of another rebalance.
        }
        match initial {
            Some(Initial { delay, remaining }) if self.member_added && remaining > Duration::ZERO => {
                self.member_added = false;
                let next = turn.settings.initial_rebalance_delay.min(remaining);
                let initial = Initial { delay: next, remaining: remaining.saturating_sub(delay) };
                self.wait_for_joins(next, Some(initial), turn);
            }
            _ => self.complete_join(turn),
        }
    }

    /// The next generation begins, of those that have joined.
    pub(super) fn complete_join(&mut self, turn: &mut Turn<'_>) {
        let is_missing = |member: &&Member| member.awaiting_join.is_none() && member.instance_id.is_none();
        let missing: Vec<String> =
            self.members.values().filter(is_missing).map(|member| member.id.clone()).collect();
        missing.iter().for_each(|member| self.drop_member(member, turn));
        if !self.elect_leader() && !self.members.is_empty() {
            // Static members that are all away keep their places until their sessions end.
            let wait = self.rebalance_timeout().max(GROUP_REJOIN_TIME_MIN);
            return self.wait_for_joins(wait, None, turn);
        }
        self.forget_join(turn);
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.state_since = Some(turn.now.wall);
        self.pending_sync.clear();
        self.protocol = self.choose_protocol();
        self.subscribed = self.subscriptions();
        if self.members.is_empty() {
            self.state = State::Empty;
            let record = self.to_record(&Assignments::new());
            return turn.write(&self.id, vec![record], Then::Nothing);
        }
        self.state = State::CompletingRebalance;
        *turn.rebalances += 1;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in &ids {
            let answer = self.joined(id, self.leader.as_ref() == Some(id));
            let member = self.members.get_mut(id).expect("listed above");
            member.is_new = false;
            let timeout = member.session_timeout();
            if let Some(ticket) = member.awaiting_join.take() {
                turn.answer(ticket, Answer::Join(answer));
            }
            self.extend_session(id, timeout, turn);
            self.pending_sync.insert(id.clone());
        }
        let end = turn.now.mono.after(self.rebalance_timeout());
        self.sync_end = Some(end);
        turn.timers.set(end, Timer::Sync { group: self.id.as_str().into() });
    }

    /// The leader stays if it has joined; else one that has takes its place.
    pub(super) fn elect_leader(&mut self) -> bool {
        let has_joined = |member: &&Member| member.awaiting_join.is_some();
        let current = self.leader.as_ref().and_then(|leader| self.members.get(leader));
        if current.as_ref().is_some_and(has_joined) {
            return true;
        }
        let next = self.members.values().find(has_joined).map(|member| member.id.clone());
        let is_found = next.is_some();
        self.leader = next.or_else(|| self.leader.take());
        is_found
    }

    /// Of the protocols that all members know, the one that most of them like best; the first by name of those
    /// that are liked alike.
    pub fn choose_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let is_common = |name: &str| self.members.values().all(|member| member.supports(name));
        let common: BTreeSet<&str> = first
            .protocols
            .iter()
            .map(|protocol| protocol.name.as_str())
            .filter(|name| is_common(name))
            .collect();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let names = || member.protocols.iter().map(|protocol: &Protocol| protocol.name.as_str());
            if let Some(liked) = names().find(|name| common.contains(name)) {
                *votes.entry(liked).or_insert(0) += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.to_owned())
    }

    pub(super) fn subscriptions(&self) -> Option<BTreeSet<String>> {
        if !self.is_of_consumers() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(protocol);
            topics.extend(subscribed_topics(&metadata).ok()?.into_iter().map(str::to_owned));
        }
        Some(topics)
    }
}
