//! What is in the log of a coordinator, what may be, and what has to be: committed offsets and generations.
//!
//! Of every key there is one value that is kept, and values on their way. One that has failed for certain is
//! forgotten; after a crash any of those on their way may be what is kept, and nothing else.

use crate::groups::request::{Request, error};
use crate::groups::settings::{S, check};
use crate::groups::watch::committed_with_errors;
use crate::keyed_log::Keyed;
use crate::world::{Micros, World};
use crate::writes::WriteEnd;
use kafka_protocol::messages::SyncGroupRequest;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::group_record::{GroupRecord, GroupValue, OffsetValue};
use odradek::group::coordinator::Coordinator;
use odradek::group::{Answer, WriteId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

impl Keyed for GroupRecord {
    fn key(&self) -> Vec<u8> {
        self.encode_key()
    }

    fn is_tombstone(&self) -> bool {
        match self {
            GroupRecord::Offset { value, .. } => value.is_none(),
            GroupRecord::Group { value, .. } => value.is_none(),
            GroupRecord::Consumer(record) => record.is_tombstone(),
        }
    }
}

type OffsetKey = (String, String, i32);

/// How long it takes at most until offsets of a topic that is gone are gone too.
const FORGETTING_MAX: Micros = 10 * S;

/// Values of one key.
struct Place<V> {
    kept: Option<V>,
    /// Since when.
    since: Micros,
    /// In the order in which they were written.
    open: Vec<(WriteId, Option<V>)>,
}

impl<V> Default for Place<V> {
    fn default() -> Place<V> {
        Place { kept: None, since: 0, open: Vec::new() }
    }
}

impl<V: Clone> Place<V> {
    fn ended(&mut self, write: WriteId, end: WriteEnd, now: Micros) {
        let at = self.open.iter().position(|(open, _)| *open == write);
        let Some(at) = at.filter(|_| end != WriteEnd::Unsure) else { return };
        let (_, value) = self.open.remove(at);
        if end == WriteEnd::Kept {
            (self.kept, self.since) = (value, now);
        }
    }
}

/// Which requests may take something away just now.
#[derive(Default)]
struct Deletions {
    groups: BTreeMap<String, u32>,
    offsets: BTreeMap<OffsetKey, u32>,
}

/// Lives: one per seed.
pub struct Kept {
    world: Rc<World>,
    retention: Micros,
    offsets: BTreeMap<OffsetKey, Place<OffsetValue>>,
    groups: BTreeMap<String, Place<GroupValue>>,
    writes: BTreeMap<WriteId, Vec<GroupRecord>>,
    deletions: Deletions,
    /// Since when.
    topics_gone: BTreeMap<String, Micros>,
    /// Those that are there again: what was on its way to be taken away still may be.
    topics_back: BTreeSet<String>,
    /// Groups whose offsets of a topic that is gone could not be taken away: that is tried again now and then.
    leftovers: BTreeSet<(String, String)>,
    /// Whom the assignments of a sync name, by its number.
    named: BTreeMap<u64, BTreeSet<String>>,
}

/// What a leader sends for a member: told apart from all others.
pub fn assignment(number: u64, generation: i32, leader: &str, member: &str) -> String {
    format!("{number}/{generation}/{leader}/{member}")
}

impl Kept {
    pub fn new(world: Rc<World>, retention: Micros) -> Kept {
        Kept {
            world,
            retention,
            offsets: BTreeMap::new(),
            groups: BTreeMap::new(),
            writes: BTreeMap::new(),
            deletions: Deletions::default(),
            topics_gone: BTreeMap::new(),
            topics_back: BTreeSet::new(),
            leftovers: BTreeSet::new(),
            named: BTreeMap::new(),
        }
    }

    // --- Requests

    /// A leader sends a sync that names these.
    pub fn names(&mut self, number: u64, members: BTreeSet<String>) {
        self.named.insert(number, members);
    }

    pub fn topic_gone(&mut self, topic: &str) {
        self.topics_gone.insert(topic.to_owned(), self.world.now());
    }

    /// It is there again, or for the first time.
    pub fn topic_made(&mut self, topic: &str) {
        if self.topics_gone.remove(topic).is_some() {
            self.topics_back.insert(topic.to_owned());
        }
    }

    fn deleted_keys(request: &Request) -> Vec<OffsetKey> {
        let Request::DeleteOffsets(request) = request else { return Vec::new() };
        let keys = request.topics.iter().flat_map(|topic| {
            let key = |index| (request.group_id.to_string(), topic.name.to_string(), index);
            topic.partitions.iter().map(move |partition| key(partition.partition_index))
        });
        keys.collect()
    }

    pub fn asked(&mut self, request: &Request) {
        if let Request::DeleteGroup(group) = request {
            *self.deletions.groups.entry(group.clone()).or_insert(0) += 1;
        }
        for key in Self::deleted_keys(request) {
            *self.deletions.offsets.entry(key).or_insert(0) += 1;
        }
    }

    pub fn answered(&mut self, request: &Request, answer: &Answer) {
        match (request, answer) {
            (Request::Commit(_, commit), Answer::Commit(response)) => {
                for (topic, index, offset, error) in committed_with_errors(commit, response) {
                    let key = (commit.group_id.to_string(), topic.to_owned(), index);
                    let kept = self.offsets.get(&key).and_then(|place| place.kept.as_ref());
                    let kept = kept.map(|value| value.offset);
                    if error == ErrorCode::None && kept != Some(offset) {
                        let what =
                            format_args!("{key:?}: {offset} is acknowledged, {kept:?} is kept").to_string();
                        self.world.finding(check::COMMIT_KEPT, format_args!("{what}"));
                    }
                }
            }
            (Request::DeleteGroup(group), Answer::DeleteGroup(answer)) => {
                *self.deletions.groups.entry(group.clone()).or_insert(1) -= 1;
                let is_left = self.has_anything(group);
                if *answer == ErrorCode::None && is_left {
                    let what = format_args!("{group} is acknowledged as deleted").to_string();
                    self.world.finding(check::DELETED_EMPTY, format_args!("{what}"));
                }
            }
            (Request::DeleteOffsets(_), Answer::DeleteOffsets(response)) => {
                for key in Self::deleted_keys(request) {
                    *self.deletions.offsets.entry(key).or_insert(1) -= 1;
                }
                let Request::DeleteOffsets(deletion) = request else { return };
                for topic in response.topics.iter().filter(|_| response.error_code == 0) {
                    for at in topic.partitions.iter().filter(|at| error(at.error_code) == ErrorCode::None) {
                        let group = deletion.group_id.to_string();
                        let key = (group, topic.name.to_string(), at.partition_index);
                        let is_kept = self.offsets.get(&key).is_some_and(|place| place.kept.is_some());
                        if is_kept {
                            let what = format!("{key:?} is acknowledged as deleted");
                            self.world.finding(check::DELETED_STAYS, format_args!("{what}"));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn has_anything(&self, group: &str) -> bool {
        let has_offsets = self.offsets.iter().any(|((of, _, _), place)| of == group && place.kept.is_some());
        has_offsets || self.groups.get(group).is_some_and(|place| place.kept.is_some())
    }

    /// An assignment was handed out.
    pub fn synced(&self, request: &SyncGroupRequest, assignment: &[u8]) {
        let (group, member_id) = (&request.group_id, &request.member_id);
        let kept = self.groups.get(&***group).and_then(|place| place.kept.as_ref());
        let of_generation = kept.filter(|kept| kept.generation == request.generation_id);
        let member =
            of_generation.and_then(|kept| kept.members.iter().find(|member| member.member_id == **member_id));
        if member.is_none_or(|member| member.assignment != assignment) {
            let what = format_args!(
                "{:?} is handed to {member_id:?} of {}, {} is kept",
                String::from_utf8_lossy(assignment),
                request.generation_id,
                kept.map_or(0, |kept| kept.generation)
            )
            .to_string();
            self.world.finding(check::GENERATION_KEPT, format_args!("{what}"));
        }
    }

    /// Whether what a generation's members get is what their leader has sent for them.
    pub fn check_assignments(&self, value: &GroupValue, leader: Option<&str>) {
        let mut numbers = BTreeSet::new();
        for member in &value.members {
            let text = String::from_utf8_lossy(&member.assignment);
            let mut parts = text.split('/');
            let mut next = || parts.next().unwrap_or_default();
            let (number, generation, sender, target) = (next(), next(), next(), next());
            if text.is_empty() {
                continue;
            }
            let number: u64 = number.parse().unwrap_or(0);
            numbers.insert(number);
            // A static member's place is taken by another id.
            let instance = member.instance_id.as_deref();
            let is_of = |instance: &str| target.starts_with(&format!("{instance}-"));
            let is_meant = target == member.member_id || instance.is_some_and(is_of);
            let is_named = self.named.get(&number).is_some_and(|named| named.contains(target));
            let is_right = is_meant
                && is_named
                && generation == value.generation.to_string()
                && leader.is_none_or(|leader| leader == sender);
            if !is_right {
                let what =
                    format!("{} of {} gets {text}, {leader:?} leads", member.member_id, value.generation);
                self.world.finding(check::ASSIGNED, format_args!("{what}"));
            }
        }
        if numbers.len() > 1 {
            let what = format!("{numbers:?} in one generation");
            self.world.finding(check::ASSIGNED, format_args!("{what}"));
        }
        let named = numbers.first().and_then(|number| self.named.get(number));
        let forgotten = value
            .members
            .iter()
            .filter(|member| member.assignment.is_empty())
            .find(|member| named.is_some_and(|named| named.contains(&member.member_id)));
        if let Some(member) = forgotten {
            let what = format!("{} of {} was named and gets nothing", member.member_id, value.generation);
            self.world.finding(check::ASSIGNED, format_args!("{what}"));
        }
    }

    // --- Writes

    /// Records are on their way. `is_read`: whether members surely read a topic of the group.
    pub fn written(&mut self, write: WriteId, records: &[GroupRecord], is_read: impl Fn(&str, &str) -> bool) {
        for record in records {
            match record {
                GroupRecord::Offset { group, topic, partition, value } => {
                    let key = (group.clone(), topic.clone(), *partition);
                    if value.is_none() {
                        self.check_reason(&key, &is_read);
                    }
                    self.offsets.entry(key).or_default().open.push((write, value.clone()));
                }
                GroupRecord::Group { group, value } => {
                    self.groups.entry(group.clone()).or_default().open.push((write, value.clone()));
                }
                GroupRecord::Consumer(_) => {} // Another one watches over these.
            }
        }
        self.writes.insert(write, records.to_vec());
    }

    /// Whether there is a reason to take an offset away.
    fn check_reason(&self, key: &OffsetKey, is_read: &impl Fn(&str, &str) -> bool) {
        let is_asked = |count: Option<&u32>| count.is_some_and(|count| *count > 0);
        let (group, topic, _) = key;
        let is_group_deleted = is_asked(self.deletions.groups.get(group));
        if is_group_deleted || self.topics_gone.contains_key(topic) || self.topics_back.contains(topic) {
            return;
        }
        let is_surely_read = is_read(group, topic);
        let is_deleted = is_asked(self.deletions.offsets.get(key));
        let kept = self.offsets.get(key).and_then(|place| place.kept.as_ref());
        let is_over = kept.is_none_or(|value| {
            let age_ms = self.world.wall_ms() - value.commit_timestamp;
            match value.expire_timestamp {
                Some(end) => self.world.wall_ms() >= end,
                // That of a group's emptiness may be longer; but not of one of this seed.
                None => age_ms as u64 * 1000 >= self.retention || !self.is_simple(group),
            }
        });
        if is_surely_read || !(is_deleted || is_over) {
            let what = format!("{key:?} is taken away: read {is_surely_read}, asked {is_deleted}");
            self.world.finding(check::NOT_TAKEN_AWAY, format_args!("{what}"));
        }
        if !is_deleted {
            self.world.count("offset expired");
        }
    }

    /// Nobody was ever a member, as far as the log says.
    fn is_simple(&self, group: &str) -> bool {
        self.groups.get(group).is_none_or(|place| place.kept.is_none())
    }

    /// Returns the records of a write that has ended.
    pub fn ended(&mut self, write: WriteId, end: WriteEnd) -> Vec<GroupRecord> {
        let now = self.world.now();
        let records = self.writes.remove(&write).unwrap_or_default();
        for record in &records {
            match record {
                GroupRecord::Offset { group, topic, partition, value } => {
                    let key = (group.clone(), topic.clone(), *partition);
                    self.offsets.entry(key).or_default().ended(write, end, now);
                    if value.is_none() && end != WriteEnd::Kept && self.topics_gone.contains_key(topic) {
                        self.leftovers.insert((group.clone(), topic.clone()));
                    }
                }
                GroupRecord::Group { group, value } => {
                    self.groups.entry(group.clone()).or_default().ended(write, end, now);
                    let is_asked = self.deletions.groups.get(group).is_some_and(|count| *count > 0);
                    if value.is_none() && end == WriteEnd::Kept && !is_asked {
                        self.world.count("group expired");
                    }
                }
                GroupRecord::Consumer(_) => {}
            }
        }
        records
    }

    /// The run is over: what was on its way may be kept. Whether there was something.
    pub fn run_ended(&mut self) -> (bool, bool) {
        let mut open = self.writes.values().flatten();
        let is_assigning = open.any(|record| matches!(record, GroupRecord::Group { value: Some(_), .. }));
        let mut open = self.writes.values().flatten();
        let is_deleting = open.any(Keyed::is_tombstone);
        self.writes.clear();
        self.deletions = Deletions::default();
        (is_assigning, is_deleting)
    }

    // --- What the coordinator says

    /// In one run exactly what is kept is fetched.
    pub fn look(&self, coordinator: &Coordinator, group: &str) {
        let offsets = coordinator.offsets(group);
        let range = (group.to_owned(), String::new(), i32::MIN)..;
        let of_group = self.offsets.range(range).take_while(|((of, _, _), _)| of == group);
        for (key, place) in of_group {
            let (_, topic, partition) = key;
            let fetched = offsets.and_then(|offsets| offsets.get(topic, *partition));
            if fetched != place.kept.as_ref() {
                let check = if place.kept.is_some() { check::COMMIT_KEPT } else { check::DELETED_STAYS };
                let (kept, fetched) = (offset_of(place.kept.as_ref()), offset_of(fetched));
                let what = format!("{key:?}: {fetched:?} is fetched, {kept:?} is kept");
                self.world.finding(check, format_args!("{what}"));
            }
            let gone_at = self.topics_gone.get(topic).filter(|_| place.kept.is_some());
            if gone_at.is_some_and(|gone_at| self.world.now() > place.since.max(*gone_at) + FORGETTING_MAX) {
                self.check_gone(group, topic);
            }
        }
        for (topic, index) in offsets.into_iter().flat_map(|offsets| offsets.keys()) {
            let key = (group.to_owned(), topic.to_owned(), index);
            if !self.offsets.contains_key(&key) {
                let what = format!("{key:?} was never committed");
                self.world.finding(check::DELETED_STAYS, format_args!("{what}"));
            }
        }
    }

    /// A run begins: what the coordinator has read has to be what was kept, or on its way. From then on it is
    /// what is kept. Returns the groups with what they have.
    pub fn restarted(
        &mut self,
        coordinator: &Coordinator,
        latest: &BTreeMap<Vec<u8>, GroupRecord>,
    ) -> Vec<(String, GroupValue)> {
        let world = self.world.clone();
        for (key, place) in &mut self.offsets {
            let (group, topic, partition) = key;
            let fetched = coordinator.offsets(group).and_then(|offsets| offsets.get(topic, *partition));
            let is_expected = fetched == place.kept.as_ref()
                || place.open.iter().any(|(_, value)| fetched == value.as_ref());
            if !is_expected {
                let check = if place.kept.is_some() { check::COMMIT_KEPT } else { check::DELETED_STAYS };
                let (kept, fetched) = (offset_of(place.kept.as_ref()), offset_of(fetched));
                let what = format!("{key:?} after a restart: {fetched:?} is fetched, {kept:?} is kept");
                world.finding(check, format_args!("{what}"));
            }
            if !place.open.is_empty() {
                let is_lost = fetched == place.kept.as_ref();
                world.count(if is_lost {
                    "restart: unflushed records lost"
                } else {
                    "restart: unflushed records there"
                });
            }
            (place.kept, place.since) = (fetched.cloned(), world.now());
            place.open.clear();
        }
        let said: BTreeMap<&str, &GroupValue> = latest
            .values()
            .filter_map(|record| match record {
                GroupRecord::Group { group, value } => Some((group.as_str(), value.as_ref()?)),
                GroupRecord::Offset { .. } | GroupRecord::Consumer(_) => None,
            })
            .collect();
        let mut restored = Vec::new();
        for (group, place) in &mut self.groups {
            let is_as = |value: Option<&GroupValue>| is_group_as(coordinator, group, value);
            let is_expected =
                is_as(place.kept.as_ref()) || place.open.iter().any(|(_, value)| is_as(value.as_ref()));
            if !is_expected {
                let check = if place.kept.is_some() { check::GENERATION_KEPT } else { check::DELETED_STAYS };
                let kept = place.kept.as_ref().map(|value| (value.generation, value.members.len()));
                let what = format!("{group} after a restart: generation and members {kept:?} were kept");
                world.finding(check, format_args!("{what}"));
            }
            let value = said.get(group.as_str()).copied();
            if !is_as(value) {
                let what = format!("{group} is not as its record has it");
                world.finding(check::REPLAYED, format_args!("{what}"));
            }
            if value.is_some_and(|value| !value.members.is_empty()) {
                world.count("restart: members keep their generation");
            }
            place.kept = value.cloned();
            place.open.clear();
            restored.extend(value.map(|value| (group.clone(), value.clone())));
        }
        for record in latest.values() {
            if let GroupRecord::Offset { group, topic, partition, value } = record {
                let fetched = coordinator.offsets(group).and_then(|offsets| offsets.get(topic, *partition));
                if fetched != value.as_ref() {
                    let what = format!("{group} {topic}-{partition} is not as its record has it");
                    world.finding(check::REPLAYED, format_args!("{what}"));
                }
            }
        }
        restored
    }

    /// A group has offsets of a topic that is gone, though nothing went wrong.
    pub fn check_gone(&self, group: &str, topic: &str) {
        let is_excused = self.leftovers.contains(&(group.to_owned(), topic.to_owned()));
        if self.topics_gone.contains_key(topic) && !is_excused {
            let what = format!("{group} has offsets of {topic}, which is gone");
            self.world.finding(check::DELETED_STAYS, format_args!("{what}"));
        }
    }

    /// What could not be taken away was tried again, and nothing was in the way.
    pub fn retried(&mut self) {
        self.leftovers.clear();
    }

    /// Nothing is kept any more.
    pub fn is_empty(&self) -> bool {
        self.offsets.values().all(|place| place.kept.is_none())
            && self.groups.values().all(|place| place.kept.is_none())
    }
}

fn offset_of(value: Option<&OffsetValue>) -> Option<i64> {
    value.map(|value| value.offset)
}

/// Whether a group has the members that its record has, with what they are to do.
fn is_group_as(coordinator: &Coordinator, group: &str, value: Option<&GroupValue>) -> bool {
    let described = coordinator.describe(group, 0);
    let Some(value) = value else {
        return described.members.is_empty() && described.protocol_type.is_empty();
    };
    let mut expected: Vec<_> = value
        .members
        .iter()
        .map(|member| (&*member.member_id, member.instance_id.as_deref(), &member.assignment[..]))
        .collect();
    expected.sort_unstable();
    let mut found: Vec<_> = described
        .members
        .iter()
        .map(|member| {
            let instance = member.group_instance_id.as_deref();
            (&*member.member_id, instance, &member.member_assignment[..])
        })
        .collect();
    found.sort_unstable();
    *described.protocol_type == *value.protocol_type && found == expected
}
