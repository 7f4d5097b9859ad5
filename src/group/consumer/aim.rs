//! What a group aims at: made in steps, as large groups take long. The group does not change between them.
//!
//! ```text
//! members ─► what each subscribes to ─► assignor ─► targets that are others than before ─► their epoch
//! ```

use crate::codec::consumer_record::{ConsumerRecord, Partitions};
use crate::group::assignor::{Assigning, Assignor, Budget, Candidate, Counts, Members};
use crate::group::consumer::{Change, ConsumerGroup, Member};
use crate::types::TopicId;
use crate::types::sorted::SortedSet;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::vec;

/// Lives: from when somebody asks for a target of the group's epoch until there is one.
#[derive(Debug)]
pub struct Aiming {
    counts: Counts,
    ids: Vec<Rc<str>>,
    taking: Taking,
    /// Subscriptions by what they hash to: the first member that has each, and its place among them.
    known: BTreeMap<u64, Vec<(usize, usize)>>,
    assigning: Assigning,
    targets: Option<vec::IntoIter<Partitions>>,
}

/// What members read. Those that subscribe alike share what they subscribe to.
#[derive(Debug, Default)]
struct Taking {
    subscriptions: Vec<BTreeSet<TopicId>>,
    /// Of each member, by its place.
    subscribed: Vec<usize>,
}

struct Candidates<'a> {
    group: &'a ConsumerGroup,
    ids: &'a [Rc<str>],
    taking: &'a Taking,
}

impl Members for Candidates<'_> {
    fn count(&self) -> usize {
        self.ids.len()
    }

    fn get(&self, place: usize) -> Candidate<'_> {
        let id = &self.ids[place];
        Candidate {
            id,
            instance_id: self.group.members[id].value.instance_id.as_deref(),
            topics: &self.taking.subscriptions[self.taking.subscribed[place]],
            held: self.group.targets.get(id),
        }
    }
}

impl Aiming {
    pub fn new(group: &ConsumerGroup, assignors: &[Assignor]) -> Aiming {
        Aiming {
            counts: group.topics.values().map(|topic| (topic.id, topic.partition_count)).collect(),
            ids: group.members.keys().cloned().collect(),
            taking: Taking::default(),
            known: BTreeMap::new(),
            assigning: Assigning::new(group.assignor(assignors)),
            targets: None,
        }
    }

    /// Goes on; whether it is over. What it has changed until then is part of `change`.
    pub fn step(&mut self, group: &mut ConsumerGroup, budget: &mut Budget, change: &mut Change) -> bool {
        while self.taking.subscribed.len() < self.ids.len() {
            if !budget.is_left() {
                return false;
            }
            self.look_at(group, budget);
        }
        if self.targets.is_none() {
            let candidates = Candidates { group, ids: &self.ids, taking: &self.taking };
            self.targets = self.assigning.step(&candidates, &self.counts, budget).map(Vec::into_iter);
        }
        let Some(targets) = &mut self.targets else { return false };
        while targets.len() > 0 {
            if !budget.is_left() {
                return false;
            }
            let member = &self.ids[self.ids.len() - targets.len()];
            let target = targets.next().expect("there is one left");
            budget.spend(1 + target.values().map(SortedSet::len).sum::<usize>());
            if group.targets.get(member) != Some(&target) {
                let (id, member, partitions) = (group.id.to_string(), member.to_string(), Some(target));
                group.change(ConsumerRecord::Target { group: id, member, partitions }, change);
            }
        }
        let (id, epoch) = (group.id.to_string(), Some(group.epoch));
        group.change(ConsumerRecord::TargetEpoch { group: id, epoch }, change);
        true
    }

    /// The next member's subscription. Most have what their neighbour has.
    fn look_at(&mut self, group: &ConsumerGroup, budget: &mut Budget) {
        let place = self.taking.subscribed.len();
        let member = |place: usize| &group.members[&self.ids[place]];
        let this = member(place);
        budget.spend(1 + this.value.topics.len());
        let is_alike = |first: usize| {
            let other = member(first);
            other.value.topics == this.value.topics && other.value.regex == this.value.regex
        };
        let last = self.taking.subscribed.last().copied();
        if let Some(last) = last.filter(|_| is_alike(place - 1)) {
            return self.taking.subscribed.push(last);
        }
        let mut hasher = DefaultHasher::new();
        (&this.value.topics, &this.value.regex).hash(&mut hasher);
        let hash = hasher.finish();
        let found = self.known.get(&hash).and_then(|known| known.iter().find(|(first, _)| is_alike(*first)));
        let subscription = match found {
            Some((_, subscription)) => *subscription,
            None => {
                let topics = group.topics_of(this);
                budget.spend(topics.len());
                let subscription = self.taking.subscriptions.len();
                self.taking.subscriptions.push(topics);
                self.known.entry(hash).or_default().push((place, subscription));
                subscription
            }
        };
        self.taking.subscribed.push(subscription);
    }
}

impl ConsumerGroup {
    /// The assignor that most members ask for; of those that are asked for alike the first that the operator
    /// names.
    pub fn assignor(&self, context_assignors: &[Assignor]) -> Assignor {
        let votes = |assignor: &Assignor| {
            let asks = |member: &&Member| member.value.assignor.as_deref() == Some(assignor.name());
            self.members.values().filter(asks).count()
        };
        // The last of the largest is taken, hence from behind.
        context_assignors.iter().rev().copied().max_by_key(votes).unwrap_or(Assignor::Uniform)
    }

    /// About how much there is to look at, in units of a [`Budget`].
    pub(super) fn aiming_size(&self) -> usize {
        let partitions = self.topics.values().map(|topic| topic.partition_count.max(0) as usize);
        self.members.len() * (1 + self.topics.len()) + partitions.sum::<usize>()
    }

    /// In one step.
    pub(super) fn aim(&mut self, assignors: &[Assignor], change: &mut Change) {
        let mut aiming = Aiming::new(self, assignors);
        while !aiming.step(self, &mut Budget::new(usize::MAX), change) {}
    }

    /// Topics that a member reads; only such that there are.
    fn topics_of(&self, member: &Member) -> BTreeSet<TopicId> {
        let regex = member.value.regex.as_ref().and_then(|regex| self.regexes.get(regex));
        let names = member.value.topics.iter().chain(regex.into_iter().flat_map(|regex| &regex.topics));
        names.filter_map(|name| self.topics.get(name)).map(|topic| topic.id).collect()
    }
}
