//! One group under the newer protocol (KIP-848): the coordinator says who is to have which partition, and each
//! member gets there by itself, in heartbeats.
//!
//! ```text
//!   a subscription changes, a topic grows ─► group epoch ─► assignor ─► target (of that epoch)
//!                                                                         │ one member at a time
//!   heartbeat: what it has ─► member epoch, what it is to have ◄──────────┘
//! ```
//!
//! | file | what it decides |
//! |---|---|
//! | [`heartbeat`] | ConsumerGroupHeartbeat: who is let in, what it says of itself, what it is answered |
//! | [`rebalance`] | group epochs: topics that are subscribed to, when something else is aimed at |
//! | [`aim`] | what is aimed at, in steps |
//! | [`reconcile`] | how one member gets from what it has to what is aimed at |
//! | [`regex`] | regular expressions, and which topics match |
//! | [`clocks`] | when a member is given up |
//! | [`classic_members`] | members that use the classic protocol in such a group |
//! | [`convert`] | a group that changes its protocol while members use it |
//! | [`describe`] | what others are told of a group |
//! | [`settings`] | what the operator has set, for all groups or for one |
//!
//! All that is kept changes by [`put`](ConsumerGroup::put) alone, one record after the other, which is also how a
//! log is replayed. What a request changes is in memory at once, and its answer waits until its records are kept;
//! meanwhile no other request decides anything of the group. If they cannot be kept, they are undone.
//!
//! Source: Kafka `ConsumerGroup`, `ConsumerGroupMember`, `GroupMetadataManager.consumerGroupHeartbeat`.

pub mod aim;
pub mod classic_members;
pub mod clocks;
pub mod convert;
pub mod describe;
pub mod heartbeat;
pub mod rebalance;
pub mod reconcile;
pub mod regex;
pub mod settings;

pub use settings::{ConsumerSettings, Migration};

use crate::codec::consumer_record::{
    ConsumerRecord, CurrentValue, MemberValue, Partitions, RegexValue, SubscribedTopic,
};
use crate::codec::error_code::ErrorCode;
use crate::group::consumer::clocks::Clock;
use crate::group::consumer::regex::Patterns;
use crate::group::topics::Topics;
use crate::group::{Moment, WriteId};
use crate::types::limits::GROUP_ENTRY_SIZE;
use crate::types::sorted::SortedMap;
use crate::types::{Mono, TopicId};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Of a member that has been taken out, until its other records are.
const LEFT: i32 = -1;
/// Of a static member that is away for a while; also what it sends then.
const AWAY: i32 = -2;

/// What a group may look at while it decides.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub now: Moment,
    pub settings: &'a ConsumerSettings,
    pub topics: &'a dyn Topics,
    /// Grows whenever topics change.
    pub topics_version: u64,
    pub patterns: &'a Patterns,
}

/// Why a member is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: ErrorCode,
    pub message: String,
}

impl Refusal {
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal { error, message: message.into() }
    }
}

/// What a request changes: records for the log, and how to take them back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub records: Vec<ConsumerRecord>,
    pub undo: Vec<ConsumerRecord>,
}

/// Lives: from its first record until it is taken away, or uses the classic protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub value: MemberValue,
    pub current: CurrentValue,
}

/// Which version of the topics the regular expressions were last held against.
#[derive(Clone, Debug, Default)]
struct Resolution {
    /// Of each that was, since the group is in memory.
    versions: BTreeMap<String, u64>,
    /// How often some were.
    count: u64,
    at: Option<Mono>,
    /// What was found could not be taken, or not be kept.
    has_failed: bool,
    /// The shell is at it.
    is_running: bool,
}

/// Which version of the topics a group has looked at, and how often its regular expressions were held against them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    topics: u64,
    resolved: u64,
}

/// Lives: in one [`Group`](crate::group::classic::Group).
/// Invariant: what is derived (`statics`, `holders`, the counts and `size`) is what follows from the records.
#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    pub id: Rc<str>,
    pub epoch: i32,
    /// Of what is aimed at; behind `epoch` until somebody asks.
    pub target_epoch: i32,
    /// What all that is kept of a member is found by is the same piece of memory, and in its deadlines too.
    pub members: BTreeMap<Rc<str>, Member>,
    pub targets: BTreeMap<Rc<str>, Partitions>,
    /// Topics that are subscribed to, as they were when the group last looked at them.
    pub topics: BTreeMap<String, SubscribedTopic>,
    pub regexes: BTreeMap<String, RegexValue>,
    /// Member by instance id.
    statics: BTreeMap<String, String>,
    /// How many members have a partition, or still have it: one, but for what a damaged log says.
    holders: SortedMap<TopicId, BTreeMap<i32, u32>>,
    /// How many members name a topic.
    readers: SortedMap<String, u32>,
    regex_readers: SortedMap<String, u32>,
    /// Bytes.
    size: usize,
    clocks: BTreeMap<Rc<str>, Clock>,
    /// Which version of the topics it has last looked at.
    seen: u64,
    resolution: Resolution,
    /// Records on their way; nothing is decided until they are there.
    pub writing: Option<WriteId>,
}

impl ConsumerGroup {
    pub fn new(id: &str) -> ConsumerGroup {
        ConsumerGroup {
            id: id.into(),
            epoch: 0,
            target_epoch: 0,
            members: BTreeMap::new(),
            targets: BTreeMap::new(),
            topics: BTreeMap::new(),
            regexes: BTreeMap::new(),
            statics: BTreeMap::new(),
            holders: SortedMap::new(),
            readers: SortedMap::new(),
            regex_readers: SortedMap::new(),
            size: 0,
            clocks: BTreeMap::new(),
            seen: 0,
            resolution: Resolution::default(),
            writing: None,
        }
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Takes a record, and returns the one that takes it back.
    pub fn put(&mut self, record: ConsumerRecord) -> ConsumerRecord {
        match record {
            ConsumerRecord::Group { group, epoch } => {
                let before = std::mem::replace(&mut self.epoch, epoch.unwrap_or(0));
                ConsumerRecord::Group { group, epoch: Some(before) }
            }
            ConsumerRecord::TargetEpoch { group, epoch } => {
                let before = std::mem::replace(&mut self.target_epoch, epoch.unwrap_or(LEFT));
                ConsumerRecord::TargetEpoch { group, epoch: Some(before) }
            }
            ConsumerRecord::Topics { group, topics } => {
                self.size -= topics_size(&self.topics);
                let before = std::mem::replace(&mut self.topics, topics.unwrap_or_default());
                self.size += topics_size(&self.topics);
                ConsumerRecord::Topics { group, topics: Some(before) }
            }
            ConsumerRecord::Target { group, member, partitions } => {
                self.size += partitions.as_ref().map_or(0, |target| target_size(&member, target));
                let before = match partitions {
                    Some(partitions) => {
                        let shared = self.shared_id(&member);
                        self.targets.insert(shared, partitions.tight())
                    }
                    None => self.targets.remove(&*member),
                };
                self.size -= before.as_ref().map_or(0, |target| target_size(&member, target));
                ConsumerRecord::Target { group, member, partitions: before }
            }
            ConsumerRecord::Regex { group, regex, value } => {
                self.size += value.as_ref().map_or(0, |value| regex_size(&regex, value));
                let before = match value {
                    Some(value) => self.regexes.insert(regex.clone(), value),
                    None => self.regexes.remove(&regex),
                };
                self.size -= before.as_ref().map_or(0, |value| regex_size(&regex, value));
                ConsumerRecord::Regex { group, regex, value: before }
            }
            ConsumerRecord::Member { group, member, value } => {
                let before = self.put_member(&member, value);
                ConsumerRecord::Member { group, member, value: before }
            }
            ConsumerRecord::Current { group, member, value } => {
                let before = self.put_current(&member, value);
                ConsumerRecord::Current { group, member, value: before }
            }
        }
    }

    fn put_member(&mut self, id: &str, value: Option<MemberValue>) -> Option<MemberValue> {
        let shared = self.shared_id(id);
        let (before, current) = match self.members.remove(id) {
            Some(member) => {
                self.size -= member_size(id, &member);
                self.count_subscription(&member.value, -1);
                (Some(member.value), member.current)
            }
            None => (None, CurrentValue::default()),
        };
        if let Some(instance_id) = before.as_ref().and_then(|value| value.instance_id.as_ref())
            && self.statics.get(instance_id).is_some_and(|current| current == id)
        {
            self.statics.remove(instance_id);
        }
        match value {
            Some(value) => {
                if let Some(instance_id) = &value.instance_id {
                    self.statics.insert(instance_id.clone(), id.to_owned());
                }
                self.count_subscription(&value, 1);
                let value = MemberValue { topics: value.topics.tight(), ..value };
                let member = Member { value, current };
                self.size += member_size(id, &member);
                self.members.insert(shared, member);
            }
            None => self.count_partitions(&current, -1),
        }
        before
    }

    fn put_current(&mut self, id: &str, value: Option<CurrentValue>) -> Option<CurrentValue> {
        let had = self.members.contains_key(id);
        if !had && value.is_none() {
            return None;
        }
        let gone = CurrentValue { epoch: LEFT, previous_epoch: LEFT, ..CurrentValue::default() };
        let value = value.unwrap_or(gone);
        // The log may have what a member says of itself behind this, where older records have been compacted.
        let shared = self.shared_id(id);
        let mut member = self.members.remove(id).unwrap_or_default();
        if had {
            self.size -= member_size(id, &member);
        }
        self.count_partitions(&member.current, -1);
        self.count_partitions(&value, 1);
        let tight =
            CurrentValue { assigned: value.assigned.tight(), revoking: value.revoking.tight(), ..value };
        let before = std::mem::replace(&mut member.current, tight);
        self.size += member_size(id, &member);
        self.members.insert(shared, member);
        Some(before)
    }

    /// A member's id, as it is known by already.
    fn shared_id(&self, id: &str) -> Rc<str> {
        let of_members = self.members.get_key_value(id).map(|(id, _)| id);
        let of_targets = || self.targets.get_key_value(id).map(|(id, _)| id);
        let of_clocks = || self.clocks.get_key_value(id).map(|(id, _)| id);
        of_members.or_else(of_targets).or_else(of_clocks).cloned().unwrap_or_else(|| id.into())
    }

    fn count_subscription(&mut self, value: &MemberValue, by: i32) {
        value.topics.iter().for_each(|topic| count(&mut self.readers, topic, by));
        value.regex.iter().for_each(|regex| count(&mut self.regex_readers, regex, by));
    }

    fn count_partitions(&mut self, current: &CurrentValue, by: i32) {
        for (topic, indexes) in current.assigned.iter().chain(&current.revoking) {
            let held = self.holders.get_or_default(*topic);
            for index in indexes {
                let now = held.get(index).copied().unwrap_or(0).saturating_add_signed(by);
                match now {
                    0 => held.remove(index),
                    now => held.insert(*index, now),
                };
            }
            if held.is_empty() {
                self.holders.remove(topic);
            }
        }
    }

    /// Whether somebody has a partition, or has not let it go yet.
    pub fn is_held(&self, topic: TopicId, index: i32) -> bool {
        self.holders.get(&topic).is_some_and(|held| held.contains_key(&index))
    }

    fn change(&mut self, record: ConsumerRecord, change: &mut Change) {
        let undo = self.put(record.clone());
        change.records.push(record);
        change.undo.push(undo);
    }

    /// Takes back what could not be kept.
    pub fn undo(&mut self, undo: Vec<ConsumerRecord>) {
        self.resolution.has_failed |=
            undo.iter().any(|record| matches!(record, ConsumerRecord::Regex { .. }));
        for record in undo.into_iter().rev() {
            self.put(record);
        }
        // What it had seen of the topics may have been part of that.
        self.seen = 0;
        self.resolution.versions.clear();
    }

    /// What it has looked at.
    pub fn seen(&self) -> Seen {
        Seen { topics: self.seen, resolved: self.resolution.count }
    }

    /// The same, after a request that is refused.
    pub fn undo_refused(&mut self, undo: Vec<ConsumerRecord>, before: Seen) {
        let versions = std::mem::take(&mut self.resolution.versions);
        self.undo(undo);
        self.seen = before.topics;
        if before.resolved == self.resolution.count {
            self.resolution.versions = versions;
        }
    }

    /// Records that take away all there is, the group itself at the end.
    pub fn tombstones(&self) -> Vec<ConsumerRecord> {
        let group = || self.id.to_string();
        let of_members = self.members.keys().flat_map(|member| removal(&self.id, member));
        let strays = self.targets.keys().filter(|member| !self.members.contains_key(*member)).map(|member| {
            ConsumerRecord::Target { group: group(), member: member.to_string(), partitions: None }
        });
        let regexes = self.regexes.keys().map(|regex| ConsumerRecord::Regex {
            group: group(),
            regex: regex.clone(),
            value: None,
        });
        let group_wide = [
            ConsumerRecord::TargetEpoch { group: group(), epoch: None },
            ConsumerRecord::Topics { group: group(), topics: None },
            ConsumerRecord::Group { group: group(), epoch: None },
        ];
        of_members.chain(strays).chain(regexes).chain(group_wide).collect()
    }

    /// Whether some member reads a topic.
    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        let by_regex = |(regex, value): (&String, &RegexValue)| {
            self.regex_readers.contains_key(regex) && value.topics.contains(topic)
        };
        self.readers.contains_key(topic) || self.regexes.iter().any(by_regex)
    }

    /// The member that has an instance id.
    pub fn instance(&self, instance_id: Option<&str>) -> Option<&str> {
        self.statics.get(instance_id?).map(String::as_str)
    }

    fn member(&self, id: &str) -> Result<&Member, Refusal> {
        let unknown = || {
            Refusal::new(
                ErrorCode::UnknownMemberId,
                format!("Member {id} is not a member of group {}.", self.id),
            )
        };
        self.members.get(id).ok_or_else(unknown)
    }

    /// Panics unless what must hold does.
    #[cfg(test)]
    pub fn check(&self) {
        let mut anew = ConsumerGroup::new(&self.id);
        for record in self.records() {
            anew.put(record);
        }
        assert_eq!(anew.statics, self.statics);
        assert_eq!(anew.holders, self.holders);
        assert_eq!((&anew.readers, &anew.regex_readers), (&self.readers, &self.regex_readers));
        assert_eq!(anew.size, self.size);
        assert!(self.holders.values().flat_map(BTreeMap::values).all(|count| *count == 1), "{self:?}");
        if self.writing.is_none() {
            assert!(self.clocks.keys().all(|member| self.members.contains_key(member)));
        }
        assert!(self.targets.keys().all(|member| self.members.contains_key(member)), "{self:?}");
        assert!(self.target_epoch <= self.epoch);
        assert!(self.members.values().all(|member| member.current.epoch <= self.epoch));
    }

    /// Everything as records.
    #[cfg(test)]
    pub fn records(&self) -> Vec<ConsumerRecord> {
        let group = || self.id.to_string();
        let mut records = vec![
            ConsumerRecord::Group { group: group(), epoch: Some(self.epoch) },
            ConsumerRecord::TargetEpoch { group: group(), epoch: Some(self.target_epoch) },
            ConsumerRecord::Topics { group: group(), topics: Some(self.topics.clone()) },
        ];
        for (id, member) in &self.members {
            let member_id = || id.to_string();
            let value = Some(member.value.clone());
            records.push(ConsumerRecord::Member { group: group(), member: member_id(), value });
            let value = Some(member.current.clone());
            records.push(ConsumerRecord::Current { group: group(), member: member_id(), value });
        }
        records.extend(self.targets.iter().map(|(member, partitions)| ConsumerRecord::Target {
            group: group(),
            member: member.to_string(),
            partitions: Some(partitions.clone()),
        }));
        records.extend(self.regexes.iter().map(|(regex, value)| ConsumerRecord::Regex {
            group: group(),
            regex: regex.clone(),
            value: Some(value.clone()),
        }));
        records
    }
}

/// Records that take a member away.
pub fn removal(group: &str, member: &str) -> [ConsumerRecord; 3] {
    let (group, member) = (|| group.to_owned(), || member.to_owned());
    [
        ConsumerRecord::Current { group: group(), member: member(), value: None },
        ConsumerRecord::Target { group: group(), member: member(), partitions: None },
        ConsumerRecord::Member { group: group(), member: member(), value: None },
    ]
}

/// Counts up or down; what is down to nothing is not there.
fn count(counts: &mut SortedMap<String, u32>, key: &String, by: i32) {
    let now = counts.get(key).copied().unwrap_or(0).saturating_add_signed(by);
    match now {
        0 => counts.remove(key),
        now => counts.insert(key.clone(), now),
    };
}

fn partitions_size(partitions: &Partitions) -> usize {
    partitions.values().map(|indexes| GROUP_ENTRY_SIZE + 8 * indexes.len()).sum()
}

fn target_size(member: &str, target: &Partitions) -> usize {
    GROUP_ENTRY_SIZE + member.len() + partitions_size(target)
}

fn topics_size(topics: &BTreeMap<String, SubscribedTopic>) -> usize {
    topics.keys().map(|name| GROUP_ENTRY_SIZE + name.len()).sum()
}

fn regex_size(regex: &str, value: &RegexValue) -> usize {
    let topics: usize = value.topics.iter().map(|name| GROUP_ENTRY_SIZE + name.len()).sum();
    GROUP_ENTRY_SIZE + regex.len() + topics
}

/// With what is derived from it: instance id, names and partitions are in another map each. The id, of which there
/// is one, counts for each of those that are found by it, which is what these take beside.
fn member_size(id: &str, member: &Member) -> usize {
    let value = &member.value;
    let optional = |text: &Option<String>| text.as_deref().map_or(0, str::len);
    let names: usize = value.topics.iter().map(|name| GROUP_ENTRY_SIZE + 2 * name.len()).sum();
    let texts = optional(&value.rack) + optional(&value.assignor) + 2 * optional(&value.regex);
    let classic = value.classic.iter().flat_map(|classic| &classic.protocols);
    let classic: usize = classic.map(|(name, metadata)| GROUP_ENTRY_SIZE + name.len() + metadata.len()).sum();
    let client = value.client_id.len() + value.client_host.len();
    let partitions = partitions_size(&member.current.assigned) + partitions_size(&member.current.revoking);
    let ids = 4 * id.len() + 2 * optional(&value.instance_id);
    3 * GROUP_ENTRY_SIZE + ids + client + texts + names + classic + 2 * partitions
}
