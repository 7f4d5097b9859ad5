//! What the broker has promised of the topics whose logs change in more ways than by appends, and whether
//! what is read back keeps it. Pure.
//!
//! ```text
//! sequence    0   1   2   3   4   5       every record of a partition has its own, ascending
//! answer     @0  @1   ?   ?  @4  @5       @: acknowledged at that offset; ?: it may be there or not
//! ```
//! | kind | its log start | what is there from it to the end |
//! |---|---|---|
//! | `Whole` | zero | every offset; every acknowledged record at its own |
//! | `Trimmed` | not before what was acknowledged as deleted, not behind what was asked | the same |
//! | `Retained` | anywhere | the same, and no less than the topic keeps |
//! | `Compacted` | zero | of every key the last acknowledged record, or a later one; never an older one |
//!
//! Of all of them: nothing that was not sent, each record once, sequences and offsets ascending together;
//! an acknowledged offset is not before an end that was known when it was sent; log start and high
//! watermark never move back, and the first is not behind the second. A topic that was acknowledged as
//! made is there, one that was acknowledged as deleted is not, and neither is anything of it in a topic
//! that has its name later.

use std::collections::{BTreeMap, BTreeSet};

/// Violations that are told of one partition; more of them say the same.
const TOLD_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Whole,
    Trimmed,
    /// Bytes that stay at least, once anything has gone.
    Retained {
        bytes_min: u64,
    },
    Compacted,
}

/// What was sent as one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub key: Option<u32>,
    /// Deletes its key.
    pub is_null: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    content: Content,
    /// Where it was acknowledged.
    offset: Option<i64>,
}

/// Records that are on their way.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// The sequence of the first one.
    pub first: usize,
    count: usize,
    /// Offsets below were known when it began.
    known_end: i64,
}

/// A record as it was read. One without a value does not say which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub offset: i64,
    pub key: Option<u32>,
    /// `None`: null. Else the topic's run and the sequence.
    pub stamp: Option<Stamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Of the topic: another one under its name has another.
    pub run: u64,
    pub sequence: usize,
}

/// Everything that is in a partition.
#[derive(Clone, Debug, Default)]
pub struct ReadBack {
    pub earliest: i64,
    pub latest: i64,
    pub records: Vec<Read>,
    /// Of the batches.
    pub bytes: u64,
}

/// Lives: one per partition, as long as its topic.
#[derive(Debug)]
pub struct Promises {
    kind: Kind,
    run: u64,
    sent: Vec<Sent>,
    /// The largest that were answered: log start, high watermark.
    earliest: i64,
    latest: i64,
    /// No DeleteRecords was asked beyond.
    delete_asked: i64,
}

impl Promises {
    pub fn new(kind: Kind, run: u64) -> Promises {
        Promises { kind, run, sent: Vec::new(), earliest: 0, latest: 0, delete_asked: 0 }
    }

    pub fn earliest(&self) -> i64 {
        self.earliest
    }

    pub fn latest(&self) -> i64 {
        self.latest
    }

    pub fn run(&self) -> u64 {
        self.run
    }

    /// To be called before the records are sent.
    pub fn send(&mut self, contents: &[Content]) -> Sending {
        let sending = Sending { first: self.sent.len(), count: contents.len(), known_end: self.latest };
        self.sent.extend(contents.iter().map(|&content| Sent { content, offset: None }));
        sending
    }

    pub fn acknowledged(&mut self, sending: Sending, base_offset: i64) -> Option<String> {
        for (offset, sent) in (base_offset..).zip(&mut self.sent[sending.first..][..sending.count]) {
            sent.offset = Some(offset);
        }
        self.latest = self.latest.max(base_offset + sending.count as i64);
        let known = sending.known_end;
        (base_offset < known)
            .then(|| format!("acknowledged at offset {base_offset}, and {known} was the end before"))
    }

    /// To be called before a DeleteRecords is sent.
    pub fn delete(&mut self, offset: i64) {
        self.delete_asked = self.delete_asked.max(offset);
    }

    pub fn deleted(&mut self, log_start: i64) {
        self.earliest = self.earliest.max(log_start);
    }

    /// Answers to ListOffsets that was asked when these were known: `earliest` and `latest` of then.
    pub fn observed(&mut self, then: (i64, i64), earliest: i64, latest: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        if earliest < then.0 {
            wrong.push(format!("the log start moved back from {} to {earliest}", then.0));
        }
        if latest < then.1 {
            wrong.push(format!("the high watermark moved back from {} to {latest}", then.1));
        }
        self.earliest = self.earliest.max(earliest);
        self.latest = self.latest.max(latest);
        wrong
    }

    /// What is wrong with everything that is there.
    pub fn judge(&self, read: &ReadBack) -> Vec<String> {
        let mut wrong = Vec::new();
        self.judge_ends(read, &mut wrong);
        let sequences = self.judge_records(read, &mut wrong);
        match self.kind {
            Kind::Compacted => self.judge_keys(&sequences, &mut wrong),
            Kind::Whole | Kind::Trimmed | Kind::Retained { .. } => judge_gaps(read, &mut wrong),
        }
        wrong.truncate(TOLD_MAX);
        wrong
    }

    fn judge_ends(&self, read: &ReadBack, wrong: &mut Vec<String>) {
        let ReadBack { earliest, latest, bytes, .. } = *read;
        if earliest < self.earliest {
            wrong.push(format!("the log start moved back from {} to {earliest}", self.earliest));
        }
        if latest < self.latest {
            wrong.push(format!("the high watermark moved back from {} to {latest}", self.latest));
        }
        if latest < earliest {
            wrong.push(format!("the log start is {earliest}, behind the high watermark, {latest}"));
        }
        match self.kind {
            Kind::Whole | Kind::Compacted if earliest > 0 => {
                wrong.push(format!("the log starts at {earliest}, and nothing was to be deleted"));
            }
            Kind::Trimmed if earliest > self.delete_asked => {
                let asked = self.delete_asked;
                wrong.push(format!("the log starts at {earliest}, and no more than {asked} was asked"));
            }
            Kind::Retained { bytes_min } if earliest > 0 && bytes < bytes_min => {
                wrong.push(format!("{bytes} bytes are left of {bytes_min} that stay at least"));
            }
            Kind::Whole | Kind::Compacted | Kind::Trimmed | Kind::Retained { .. } => {}
        }
    }

    /// The sequence of each record that is what was sent.
    fn judge_records(&self, read: &ReadBack, wrong: &mut Vec<String>) -> Vec<usize> {
        let acknowledged: BTreeMap<i64, usize> =
            (0..).zip(&self.sent).filter_map(|(sequence, sent)| Some((sent.offset?, sequence))).collect();
        let mut sequences: Vec<usize> = Vec::new();
        let mut last_offset = read.earliest - 1;
        for record in &read.records {
            let offset = record.offset;
            if offset <= last_offset || offset >= read.latest {
                wrong.push(format!("offset {offset} was read behind {last_offset}, below {}", read.latest));
            }
            last_offset = last_offset.max(offset);
            let next = sequences.last().map_or(0, |last| last + 1);
            let Some(sequence) = self.sequence_of(record, acknowledged.get(&offset), next) else {
                wrong.push(format!("invented: {record:?}"));
                continue;
            };
            let Sent { content, offset: acknowledged_at } = self.sent[sequence];
            let is = Content { key: record.key, is_null: record.stamp.is_none() };
            if content != is {
                wrong.push(format!("altered: {record:?} was sent as {content:?}"));
            }
            if acknowledged_at.is_some_and(|at| at != offset) {
                wrong.push(format!(
                    "sequence {sequence} was acknowledged at {acknowledged_at:?}, not {offset}"
                ));
            }
            if acknowledged.get(&offset).is_some_and(|there| *there != sequence) {
                wrong.push(format!("offset {offset} was acknowledged for another record than {record:?}"));
            }
            if sequence < next {
                wrong.push(format!("sequence {sequence} at {offset} was read behind {}", next - 1));
            }
            sequences.push(sequence);
        }
        sequences
    }

    /// Which record it is that was sent.
    fn sequence_of(&self, record: &Read, acknowledged: Option<&usize>, next: usize) -> Option<usize> {
        let Some(stamp) = record.stamp else {
            let is_same =
                |sent: &Sent| sent.offset.is_none() && sent.content.is_null && sent.content.key == record.key;
            let unanswered = || {
                let after = self.sent.get(next..).unwrap_or_default();
                after.iter().position(is_same).map(|at| next + at)
            };
            return acknowledged.copied().or_else(unanswered);
        };
        (stamp.run == self.run && stamp.sequence < self.sent.len()).then_some(stamp.sequence)
    }

    fn judge_keys(&self, sequences: &[usize], wrong: &mut Vec<String>) {
        let mut newest: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for &sequence in sequences {
            newest.insert(self.sent[sequence].content.key, sequence);
        }
        let mut keys: BTreeMap<Option<u32>, KeyPromise> = BTreeMap::new();
        for (sequence, sent) in self.sent.iter().enumerate() {
            let promise = keys.entry(sent.content.key).or_default();
            if sent.offset.is_some() {
                *promise = KeyPromise { acknowledged: Some(sequence), may_be_gone: sent.content.is_null };
            } else if sent.content.is_null {
                promise.may_be_gone = true;
            }
        }
        for (key, promise) in keys {
            let (Some(acknowledged), there) = (promise.acknowledged, newest.get(&key)) else { continue };
            match there {
                Some(there) if *there >= acknowledged => {}
                Some(there) => wrong.push(format!(
                    "key {key:?} is what sequence {there} made it; {acknowledged} was acknowledged"
                )),
                None if promise.may_be_gone => {}
                None => wrong.push(format!("lost: key {key:?}, acknowledged with sequence {acknowledged}")),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct KeyPromise {
    /// The last one that was.
    acknowledged: Option<usize>,
    /// It, or one behind it, deletes the key.
    may_be_gone: bool,
}

/// Every offset from the log start on is there; so are then all that were acknowledged.
fn judge_gaps(read: &ReadBack, wrong: &mut Vec<String>) {
    let mut next = read.earliest;
    let ends = read.records.iter().map(|record| record.offset).chain([read.latest]);
    for offset in ends {
        if offset > next {
            wrong.push(format!("lost: offsets {next} to {}", offset - 1));
        }
        next = next.max(offset + 1);
    }
}

/// Whether a topic is there, as far as the answers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Absent,
    /// Asked to be made, not answered.
    Creating,
    There,
    /// Asked to be deleted, not answered.
    Deleting,
}

#[derive(Debug)]
pub struct Topic {
    pub kind: Kind,
    pub presence: Presence,
    pub partitions: Vec<Promises>,
}

/// Lives: one per data directory.
#[derive(Debug, Default)]
pub struct Ledger {
    pub topics: BTreeMap<String, Topic>,
    /// What answers have shown while the broker ran.
    pub wrong: Vec<String>,
    runs: u64,
}

impl Ledger {
    /// To be called before the topic is made: what was under its name before is no more.
    pub fn create(&mut self, name: &str, kind: Kind, partition_count: usize) {
        self.runs += 1;
        let partitions = (0..partition_count).map(|_| Promises::new(kind, self.runs)).collect();
        let topic = Topic { kind, presence: Presence::Creating, partitions };
        self.topics.insert(name.to_owned(), topic);
    }

    pub fn presence(&self, name: &str) -> Presence {
        self.topics.get(name).map_or(Presence::Absent, |topic| topic.presence)
    }

    pub fn set_presence(&mut self, name: &str, presence: Presence) {
        self.topics.get_mut(name).expect("it was made").presence = presence;
    }

    pub fn partition(&mut self, name: &str, partition: i32) -> &mut Promises {
        &mut self.topics.get_mut(name).expect("it was made").partitions[partition as usize]
    }

    /// What is wrong with the topics that there are; from here on they are known.
    pub fn settle(&mut self, there: &BTreeSet<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, topic) in &mut self.topics {
            let is_there = there.contains(name);
            match topic.presence {
                Presence::There if !is_there => wrong.push(format!("{name}: lost, the topic is not there")),
                Presence::Absent if is_there => wrong.push(format!("{name}: the deleted topic is back")),
                Presence::There | Presence::Absent | Presence::Creating | Presence::Deleting => {}
            }
            topic.presence = if is_there { Presence::There } else { Presence::Absent };
        }
        wrong
    }
}

#[cfg(test)]
mod tests;
