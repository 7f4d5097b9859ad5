//! Group epochs: a subscription or a topic has changed, so there is something else to aim at.
//!
//! A group looks at its topics when a member sends a heartbeat and they have changed since it last did.

use crate::codec::consumer_record::{ConsumerRecord, RegexValue, SubscribedTopic};
use crate::codec::error_code::ErrorCode;
use crate::group::consumer::{Change, ConsumerGroup, Context, Refusal, Resolution};
use crate::types::limits::{GROUP_REGEX_INTERVAL, GROUP_REGEX_TOPICS_AT_ONCE_MAX, GROUP_REGEXES_AT_ONCE_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// Whether there are targets of the group's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aimed {
    Yes,
    /// They take longer than one step.
    Later,
}

/// Topics by the regular expression that they match.
pub type Resolved = BTreeMap<String, BTreeSet<String>>;

impl ConsumerGroup {
    /// Goes on to the next epoch if something has changed (`is_changed`: a subscription has), and aims at
    /// something else then.
    pub(super) fn rebalance(
        &mut self,
        is_changed: bool,
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<Aimed, Refusal> {
        self.resolve_at_once(context, change);
        let mut is_changed = is_changed || self.epoch == 0;
        if is_changed || self.seen != context.topics_version {
            is_changed |= self.look_at_topics(context, change);
        }
        if is_changed {
            self.next_epoch(change)?;
        }
        if self.epoch > self.target_epoch {
            if self.aiming_size() > context.settings.aiming_at_once_max {
                return Ok(Aimed::Later);
            }
            self.aim(&context.settings.assignors, change);
        }
        Ok(Aimed::Yes)
    }

    pub(super) fn next_epoch(&mut self, change: &mut Change) -> Result<(), Refusal> {
        let full = || Refusal::new(ErrorCode::UnknownServerError, "The group has had all epochs there are.");
        let epoch = self.epoch.checked_add(1).ok_or_else(full)?;
        self.change(ConsumerRecord::Group { group: self.id.to_string(), epoch: Some(epoch) }, change);
        Ok(())
    }

    /// Whether topics that are subscribed to have come, gone or grown.
    pub(super) fn look_at_topics(&mut self, context: &Context<'_>, change: &mut Change) -> bool {
        self.seen = context.topics_version;
        let matched = self.regexes.iter().filter(|(regex, _)| self.regex_readers.contains_key(*regex));
        let names = self.readers.keys().chain(matched.flat_map(|(_, value)| &value.topics));
        let known = names.filter_map(|name| Some((name.clone(), context.topics.named(name)?)));
        let topics: BTreeMap<String, SubscribedTopic> = known.collect();
        let is_changed = topics != self.topics;
        if is_changed {
            self.change(ConsumerRecord::Topics { group: self.id.to_string(), topics: Some(topics) }, change);
        }
        is_changed
    }

    // --- Regular expressions

    /// Expressions that are to be held against all topics; again, if these have changed, but not all the time.
    fn unresolved(&self, context: &Context<'_>) -> Vec<String> {
        let Resolution { versions, at, has_failed, .. } = &self.resolution;
        let is_time = at.is_none_or(|at| context.now.mono.since(at) >= GROUP_REGEX_INTERVAL);
        let is_due = |regex: &&String| {
            let is_new = !self.regexes.contains_key(*regex);
            let is_stale = is_new || versions.get(*regex) != Some(&context.topics_version);
            (is_new && !has_failed) || (is_stale && is_time)
        };
        self.regex_readers.keys().filter(is_due).cloned().collect()
    }

    fn resolve_at_once(&mut self, context: &Context<'_>, change: &mut Change) {
        let topic_count = context.topics.count();
        if topic_count > GROUP_REGEX_TOPICS_AT_ONCE_MAX || self.resolution.is_running {
            return;
        }
        let unresolved = self.unresolved(context);
        if unresolved.len() > GROUP_REGEXES_AT_ONCE_MAX
            || unresolved.len() * topic_count > GROUP_REGEX_TOPICS_AT_ONCE_MAX
        {
            return;
        }
        let mut resolved = Resolved::new();
        for regex in unresolved {
            let mut topics = BTreeSet::new();
            if let Ok(pattern) = context.patterns.get(&regex) {
                context.topics.names_after(None, &mut |name| {
                    if pattern.matches(name) {
                        topics.insert(name.to_owned());
                    }
                    true
                });
            }
            resolved.insert(regex, topics);
        }
        if !resolved.is_empty() {
            self.take_resolved(resolved, context.topics_version, context, change);
        }
    }

    /// What the shell is to hold against all topics in its own time; it says what matches, or that it has failed.
    pub fn begin_resolving(&mut self, context: &Context<'_>) -> Option<Vec<String>> {
        if self.resolution.is_running {
            return None;
        }
        let unresolved = self.unresolved(context);
        self.resolution.is_running = !unresolved.is_empty();
        Some(unresolved).filter(|unresolved| !unresolved.is_empty())
    }

    /// `resolved`: of those that were asked for, or some of them: the others are asked for again, with the next
    /// heartbeat. `version`: of the topics, before the first of them was looked at.
    pub fn resolved(
        &mut self,
        resolved: Resolved,
        version: u64,
        context: &Context<'_>,
        change: &mut Change,
    ) -> Result<(), Refusal> {
        self.resolution.is_running = false;
        if self.take_resolved(resolved, version, context, change) {
            self.look_at_topics(context, change);
            // The next heartbeat of any member aims at something else.
            self.next_epoch(change)?;
        }
        Ok(())
    }

    /// Whether anything matches now that did not, or the other way round.
    fn take_resolved(
        &mut self,
        resolved: Resolved,
        version: u64,
        context: &Context<'_>,
        change: &mut Change,
    ) -> bool {
        self.resolution.count += 1;
        self.resolution.has_failed = false;
        self.resolution.at = Some(context.now.mono);
        let mut is_changed = false;
        for (regex, topics) in resolved {
            if !self.regex_readers.contains_key(&regex) {
                continue;
            }
            self.resolution.versions.insert(regex.clone(), version);
            if self.regexes.get(&regex).is_some_and(|known| known.topics == topics) {
                continue;
            }
            let (version, timestamp) = (version as i64, context.now.wall.0);
            let value = Some(RegexValue { topics, version, timestamp });
            self.change(ConsumerRecord::Regex { group: self.id.to_string(), regex, value }, change);
            is_changed = true;
        }
        if is_changed {
            self.seen = 0; // They are looked at in any case.
        }
        is_changed
    }

    /// Forgets expressions that nobody subscribes by any more.
    pub(super) fn forget_regexes(&mut self, change: &mut Change) {
        let unread = self.regexes.keys().filter(|regex| !self.regex_readers.contains_key(*regex));
        for regex in unread.cloned().collect::<Vec<_>>() {
            self.resolution.versions.remove(&regex);
            self.change(ConsumerRecord::Regex { group: self.id.to_string(), regex, value: None }, change);
        }
    }
}
