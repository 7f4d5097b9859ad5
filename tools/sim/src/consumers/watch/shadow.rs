//! A group of the newer protocol as its records have it, read by other code than the coordinator's, and what holds
//! of every step from one such state to the next.

use crate::consumers::settings::check;
use crate::consumers::watch::targets;
use crate::world::Micros;
use odradek::codec::consumer_record::{
    ConsumerRecord, CurrentValue, MemberState, MemberValue, Partitions, RegexValue, SubscribedTopic,
};
use odradek::group::assignor::Assignor;
use odradek::group::coordinator::Coordinator;
use odradek::types::TopicId;
use odradek::types::sorted::SortedSet;
use std::collections::{BTreeMap, BTreeSet};

/// Of a static member that is away for a while.
pub const AWAY: i32 = -2;

/// A member, or what is left of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShadowMember {
    pub value: MemberValue,
    pub current: CurrentValue,
}

impl ShadowMember {
    pub fn uses_classic(&self) -> bool {
        self.value.classic.is_some()
    }

    pub fn rebalance_timeout(&self) -> Micros {
        self.value.rebalance_timeout_ms.max(0) as Micros * 1000
    }

    /// It has to let partitions go.
    pub fn is_revoking(&self) -> bool {
        self.current.state == MemberState::Unrevoked && !self.uses_classic()
    }
}

/// A group; without an epoch there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    pub epoch: Option<i32>,
    pub target_epoch: i32,
    pub topics: BTreeMap<String, SubscribedTopic>,
    pub regexes: BTreeMap<String, RegexValue>,
    values: BTreeMap<String, MemberValue>,
    currents: BTreeMap<String, CurrentValue>,
    pub targets: BTreeMap<String, Partitions>,
}

fn set<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

impl Shadow {
    pub fn put(&mut self, record: &ConsumerRecord) {
        match record.clone() {
            ConsumerRecord::Group { epoch: None, .. } => *self = Shadow::default(),
            ConsumerRecord::Group { epoch, .. } => self.epoch = epoch,
            ConsumerRecord::TargetEpoch { epoch, .. } => self.target_epoch = epoch.unwrap_or(0),
            ConsumerRecord::Topics { topics, .. } => self.topics = topics.unwrap_or_default(),
            ConsumerRecord::Regex { regex, value, .. } => set(&mut self.regexes, regex, value),
            ConsumerRecord::Member { member, value, .. } => {
                if value.is_some() {
                    self.currents.entry(member.clone()).or_default();
                }
                set(&mut self.values, member, value);
            }
            ConsumerRecord::Current { member, value, .. } => set(&mut self.currents, member, value),
            ConsumerRecord::Target { member, partitions, .. } => set(&mut self.targets, member, partitions),
        }
    }

    pub fn is_there(&self) -> bool {
        self.epoch.is_some()
    }

    pub fn count(&self) -> usize {
        self.values.len()
    }

    pub fn has(&self, member: &str) -> bool {
        self.values.contains_key(member)
    }

    pub fn member(&self, id: &str) -> Option<ShadowMember> {
        let value = self.values.get(id)?.clone();
        Some(ShadowMember { value, current: self.currents.get(id).cloned().unwrap_or_default() })
    }

    pub fn current(&self, id: &str) -> Option<&CurrentValue> {
        self.currents.get(id).filter(|_| self.has(id))
    }

    pub fn uses_classic(&self, id: &str) -> bool {
        self.values.get(id).is_some_and(|value| value.classic.is_some())
    }

    pub fn ids(&self) -> impl Iterator<Item = &String> {
        self.values.keys()
    }

    /// Who has an instance id.
    pub fn holder(&self, instance: &str) -> Option<&str> {
        let has = |value: &MemberValue| value.instance_id.as_deref() == Some(instance);
        self.values.iter().find(|(_, value)| has(value)).map(|(id, _)| id.as_str())
    }

    /// Names of topics that a member reads, as far as the group knows.
    pub fn read_by(&self, id: &str) -> BTreeSet<String> {
        let Some(value) = self.values.get(id) else { return BTreeSet::new() };
        let matched = value.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        let matched = matched.into_iter().flat_map(|value| &value.topics);
        value.topics.iter().chain(matched).filter(|name| self.topics.contains_key(*name)).cloned().collect()
    }

    /// Who reads a topic.
    pub fn is_read(&self, topic: &str) -> bool {
        self.ids().any(|id| self.read_by(id).contains(topic))
    }

    /// The assignor that most members ask for; the operator's first, of those that are asked for alike.
    pub fn assignor(&self, known: &[Assignor]) -> Assignor {
        let votes = |assignor: &Assignor| {
            self.values.values().filter(|value| value.assignor.as_deref() == Some(assignor.name())).count()
        };
        let most = known.iter().map(votes).max().unwrap_or(0);
        known.iter().copied().find(|assignor| votes(assignor) == most).unwrap_or(Assignor::Uniform)
    }

    // --- Against what the coordinator says

    /// What differs from what a coordinator has in memory, if anything does. `name`: of a topic that there is.
    /// Targets that are being made are in memory in part, and in the log once there are all of them.
    pub fn difference(
        &self,
        coordinator: &Coordinator,
        group: &str,
        name: impl Fn(TopicId) -> Option<String>,
    ) -> Option<String> {
        let described = coordinator.consumer_describe(group, 1);
        if described.error_code != 0 {
            return self.is_there().then(|| "it is not there".to_owned());
        }
        let Some(epoch) = self.epoch else { return Some("it is there".to_owned()) };
        if (described.group_epoch, described.assignment_epoch) != (epoch, self.target_epoch) {
            let (there, aimed) = (described.group_epoch, described.assignment_epoch);
            return Some(format!("epochs {there}, {aimed} instead of {epoch}, {}", self.target_epoch));
        }
        let ids: Vec<&str> = described.members.iter().map(|member| &*member.member_id).collect();
        if !ids.iter().copied().eq(self.ids().map(String::as_str)) {
            return Some(format!("members {ids:?} instead of {:?}", self.values.keys()));
        }
        let named = |partitions: &Partitions| -> BTreeSet<(String, i32)> {
            let of = |(id, indexes): (&TopicId, &SortedSet<i32>)| {
                let indexes = indexes.clone();
                name(*id)
                    .into_iter()
                    .flat_map(move |name| indexes.clone().into_iter().map(move |i| (name.clone(), i)))
            };
            partitions.iter().flat_map(of).collect()
        };
        for member in &described.members {
            let known = self.member(&member.member_id)?;
            let said =
                |assignment: &kafka_protocol::messages::consumer_group_describe_response::Assignment| {
                    let topics = assignment.topic_partitions.iter();
                    let of = topics.flat_map(|topic| {
                        topic.partitions.iter().map(|index| (topic.topic_name.to_string(), *index))
                    });
                    of.collect::<BTreeSet<_>>()
                };
            let names: BTreeSet<String> =
                member.subscribed_topic_names.iter().map(|name| name.to_string()).collect();
            let none = Partitions::new();
            let target = self.targets.get(&*member.member_id).unwrap_or(&none);
            let is_same = member.member_epoch == known.current.epoch
                && member.instance_id.as_deref() == known.value.instance_id.as_deref()
                && names.iter().eq(&known.value.topics)
                && member.subscribed_topic_regex.as_deref() == known.value.regex.as_deref()
                && said(&member.assignment) == named(&known.current.assigned)
                && (coordinator.is_aiming(group) || said(&member.target_assignment) == named(target));
            if !is_same {
                return Some(format!("{member:?} instead of {known:?}, {target:?}"));
            }
        }
        None
    }

    // --- From one state to the next

    /// What is wrong about a step, if anything is: the check that fails, and why. `converts`: from, or to, the
    /// classic protocol.
    pub fn step(
        &self,
        next: &Shadow,
        known: &[Assignor],
        converts: bool,
    ) -> Result<(), (&'static str, String)> {
        let Some(epoch) = next.epoch else { return Ok(()) };
        if self.epoch.is_some_and(|before| before > epoch) {
            return Err((check::EPOCHS_GROW, format!("the group goes from {:?} to {epoch}", self.epoch)));
        }
        if next.target_epoch > epoch || (self.is_there() && self.target_epoch > next.target_epoch) {
            let (before, target) = (self.target_epoch, next.target_epoch);
            return Err((check::EPOCHS_GROW, format!("{target} is aimed at after {before}, in {epoch}")));
        }
        for (id, current) in &next.currents {
            self.check_member(next, id, current, converts)?;
        }
        self.check_reason(next, converts)?;
        next.check_held(converts)?;
        if next.target_epoch == epoch && (self.target_epoch != epoch || !self.is_there()) {
            targets::check(next, next.assignor(known)).map_err(|why| (check::AIMED_EVENLY, why))?;
        }
        Ok(())
    }

    fn check_member(
        &self,
        next: &Shadow,
        id: &str,
        current: &CurrentValue,
        converts: bool,
    ) -> Result<(), (&'static str, String)> {
        if !next.has(id) {
            return Err((check::REPLAYED, format!("{id} has an epoch and is no member")));
        }
        if Some(current.epoch) > next.epoch {
            return Err((check::EPOCHS_GROW, format!("{id} is in {}, ahead of its group", current.epoch)));
        }
        if converts {
            return Ok(());
        }
        let before = self.current(id);
        if let Some(before) = before
            && before.epoch > current.epoch
            && before.epoch >= 0
            && current.epoch != AWAY
        {
            return Err((
                check::EPOCHS_GROW,
                format!("{id} goes from {} to {}", before.epoch, current.epoch),
            ));
        }
        // What a static member had, the one in its place has.
        let instance = next.values.get(id).and_then(|value| value.instance_id.as_deref());
        let old = instance.and_then(|instance| self.holder(instance)).and_then(|old| self.current(old));
        let had = |topic: &TopicId, index: &i32| {
            let has = |current: &CurrentValue| {
                current.assigned.get(topic).is_some_and(|indexes| indexes.contains(index))
            };
            before.is_some_and(has) || old.is_some_and(has)
        };
        let read: BTreeSet<TopicId> =
            next.read_by(id).iter().filter_map(|name| next.topics.get(name)).map(|topic| topic.id).collect();
        let none = Partitions::new();
        let target = next.targets.get(id).unwrap_or(&none);
        for (topic, indexes) in &current.assigned {
            for index in indexes.iter().filter(|index| !had(topic, index)) {
                let is_aimed = target.get(topic).is_some_and(|target| target.contains(index));
                let is_read = read.contains(topic);
                if !is_aimed || (next.target_epoch == next.epoch.unwrap_or(0) && !is_read) {
                    let what = format!("{id} gets {topic:?}-{index}: aimed {is_aimed}, read {is_read}");
                    return Err((check::SUBSCRIBED, what));
                }
            }
        }
        Ok(())
    }

    fn check_reason(&self, next: &Shadow, converts: bool) -> Result<(), (&'static str, String)> {
        let (Some(before), Some(after)) = (self.epoch, next.epoch) else { return Ok(()) };
        if before == after || converts {
            return Ok(());
        }
        if after != before + 1 {
            return Err((check::EPOCH_FOR_A_REASON, format!("from {before} to {after}")));
        }
        let subscriptions = |of: &Shadow| -> Vec<(String, SortedSet<String>, Option<String>)> {
            let said = |(id, value): (&String, &MemberValue)| {
                (id.clone(), value.topics.clone(), value.regex.clone())
            };
            of.values.iter().map(said).collect()
        };
        let matches = |of: &Shadow| -> Vec<BTreeSet<String>> {
            of.regexes.values().map(|value| value.topics.clone()).collect()
        };
        let has_reason = self.topics != next.topics
            || subscriptions(self) != subscriptions(next)
            || matches(self) != matches(next);
        match has_reason {
            true => Ok(()),
            false => Err((check::EPOCH_FOR_A_REASON, format!("{after} comes after {before} for none"))),
        }
    }

    /// Nobody has what another one has, or has not let go.
    fn check_held(&self, converts: bool) -> Result<(), (&'static str, String)> {
        let mut held = BTreeMap::new();
        for (id, current) in &self.currents {
            for (topic, indexes) in current.assigned.iter().chain(&current.revoking) {
                for index in indexes {
                    if let Some(other) = held.insert((*topic, *index), id)
                        && !(converts && other == id)
                    {
                        return Err((
                            check::ONE_READER,
                            format!("{topic:?}-{index} is with {other} and {id}"),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
