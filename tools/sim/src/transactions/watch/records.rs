//! What clients have written, in which of their transactions, and what readers of committed records get of it.

use crate::transactions::offsets::numbers;
use crate::transactions::partition::{Content, Partition, Stored};
use crate::transactions::request::{Place, Tag, Write};
use crate::transactions::settings::check;
use crate::world::World;
use odradek::codec::control_record::{EndMarker, TransactionOutcome};
use odradek::txn::Writer;
use odradek::txn::transaction::End;
use odradek::types::TransactionVersion;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A transaction as its client has it.
struct TransactionWatch {
    id: String,
    version: TransactionVersion,
    writer: Writer,
    /// How the client has asked it to end, once it has.
    asked: Option<TransactionOutcome>,
    /// How it was told that it ends.
    told: Option<TransactionOutcome>,
    /// A late request of the one before it, or a late end of that by an operator, has ended it (version 1).
    is_disturbed: bool,
    /// A late request of its own, or of one before it, has opened it again after its end (version 1).
    is_reopened: bool,
    is_seen: bool,
    is_left_out: bool,
    writes: Vec<u64>,
}

struct WriteWatch {
    /// Of who speaks in a producer's name there is none.
    tag: Option<Tag>,
    writer: Writer,
    place: Place,
    is_transactional: bool,
    is_acknowledged: bool,
    /// It has come into another transaction than its own (version 1).
    is_astray: bool,
    is_read: bool,
    is_seen: bool,
}

/// Lives: one per seed.
pub struct Records {
    world: Rc<World>,
    is_strict: bool,
    transactions: Vec<TransactionWatch>,
    /// The newest transaction under each producer id and epoch.
    newest: BTreeMap<(i64, i16), Tag>,
    writes: BTreeMap<u64, WriteWatch>,
    /// What each partition has.
    stored: BTreeMap<usize, BTreeSet<u64>>,
}

impl Records {
    pub fn new(world: Rc<World>, is_strict: bool) -> Records {
        Records {
            world,
            is_strict,
            transactions: Vec::new(),
            newest: BTreeMap::new(),
            writes: BTreeMap::new(),
            stored: BTreeMap::new(),
        }
    }

    // --- Clients

    /// A client begins a transaction.
    pub fn begins(&mut self, id: &str, version: TransactionVersion, writer: Writer) -> Tag {
        let tag = Tag(self.transactions.len());
        self.transactions.push(TransactionWatch {
            id: id.to_owned(),
            version,
            writer,
            asked: None,
            told: None,
            is_disturbed: false,
            is_reopened: false,
            is_seen: false,
            is_left_out: false,
            writes: Vec::new(),
        });
        self.newest.insert((writer.producer.0, writer.epoch.0), tag);
        tag
    }

    /// A client is about to write something; it may send that more than once.
    pub fn writes(&mut self, write: &Write) {
        if let Some(Tag(tag)) = write.tag {
            self.transactions[tag].writes.push(write.number);
        }
        let watch = WriteWatch {
            tag: write.tag,
            writer: write.writer,
            place: write.place,
            is_transactional: write.is_transactional,
            is_acknowledged: false,
            is_astray: false,
            is_read: false,
            is_seen: false,
        };
        self.writes.insert(write.number, watch);
    }

    /// A client asks for the end of its transaction; what it asks for it does not change.
    pub fn asks(&mut self, Tag(tag): Tag, outcome: TransactionOutcome) {
        self.transactions[tag].asked = Some(outcome);
    }

    /// It was told that it ends so.
    pub fn told(&mut self, Tag(tag): Tag, outcome: TransactionOutcome) {
        let transaction = &mut self.transactions[tag];
        if transaction.told.is_some_and(|told| told != outcome) && !transaction.is_disturbed {
            let what = format!("{} {:?} is told {outcome:?} too", transaction.id, transaction.writer);
            self.world.finding(check::ONE_OUTCOME, format_args!("{what}"));
        }
        transaction.told = Some(outcome);
        let is_left_out = transaction.is_left_out && outcome == TransactionOutcome::Commit;
        let is_seen = transaction.is_seen && outcome == TransactionOutcome::Abort;
        if !transaction.is_disturbed && (is_left_out || is_seen) {
            let what = format!("{} {:?} is told {outcome:?}", transaction.id, transaction.writer);
            self.world.finding(check::ONE_OUTCOME, format_args!("{what}"));
        }
    }

    pub fn acknowledged(&mut self, number: u64) {
        // Of a stray what is there already may be another's, and of a producer a stray's, in its epoch and sequence.
        let Some(write) = self.writes.get(&number) else { return };
        let is_stray = |write: &WriteWatch| write.tag.is_none() && write.is_transactional;
        let is_here = |number: &u64| match write.place {
            Place::Record { partition, .. } => {
                self.stored.get(&partition).is_some_and(|stored| stored.contains(number))
            }
            Place::Offset { .. } => false,
        };
        let is_taken_for_strays = matches!(write.place, Place::Record { .. })
            && !is_here(&number)
            && self.writes.iter().any(|(number, other)| {
                is_stray(other)
                    && other.place == write.place
                    && other.writer == write.writer
                    && is_here(number)
            });
        if is_taken_for_strays {
            self.world.count("produce: taken for a stray's");
        } else if !is_stray(write) {
            self.writes.get_mut(&number).expect("looked up above").is_acknowledged = true;
        }
    }

    pub fn is_transactional(&self, number: u64) -> bool {
        self.writes.get(&number).is_some_and(|write| write.is_transactional)
    }

    /// An EndTxn ends the transaction that is open.
    pub fn ends(&mut self, tag: Tag, end: &End) {
        let newest = self.newest.get(&(end.writer.producer.0, end.writer.epoch.0));
        let Some(newest) = newest.copied().filter(|newest| *newest != tag) else { return };
        if end.version == TransactionVersion::V2 {
            let what = format!("{end:?} of {tag:?} ends {newest:?}");
            return self.world.finding(check::LATE, format_args!("{what}"));
        }
        self.world.count("late: an end in version 1");
        self.transactions[newest.0].is_disturbed = true;
    }

    /// A partition, or a group's offsets, is added to the transaction that is open, or opens one. What opens one
    /// behind the newest is late.
    pub fn adds(&mut self, writer: Writer) {
        let newest = self.newest.get(&(writer.producer.0, writer.epoch.0));
        let Some(newest) = newest.map(|newest| &mut self.transactions[newest.0]) else { return };
        if newest.version == TransactionVersion::V1 && newest.told.is_some() {
            newest.is_reopened = true;
            self.world.count("late: an addition in version 1");
        }
    }

    /// An operator ends what a producer has open in a partition, and may come too late for that.
    pub fn marked(&mut self, marker: &EndMarker) {
        let newest = self.newest.get(&(marker.producer.0, marker.producer_epoch.0));
        let Some(newest) = newest.map(|newest| &mut self.transactions[newest.0]) else { return };
        if newest.version == TransactionVersion::V1 && newest.told.is_none() {
            newest.is_disturbed = true;
            self.world.count("late: an operator's end in version 1");
        }
    }

    // --- Partitions

    pub fn appended(&mut self, partition: &Partition, writer: Writer, content: &Content) {
        let all: Vec<u64> = match content {
            Content::Record(number) => vec![*number],
            Content::Groups(records) => numbers(records).collect(),
            Content::Marker(_) => return,
        };
        let is_numbered = matches!(content, Content::Record(_));
        let newest = self.newest.get(&(writer.producer.0, writer.epoch.0)).copied();
        for number in all {
            let is_new = self.stored.entry(partition.index).or_default().insert(number);
            if is_numbered && !is_new {
                let what = format!("{number} in {}-{}", partition.topic, partition.number);
                self.world.finding(check::STORED_ONCE, format_args!("{what}"));
            }
            let Some(write) = self.writes.get_mut(&number) else { continue };
            let Some(tag) = write.tag else { continue };
            let transaction = &self.transactions[tag.0];
            let is_late = newest != Some(tag);
            let is_hanging = transaction.told.is_some() && (!self.is_strict || transaction.is_reopened);
            if transaction.version == TransactionVersion::V1 && (is_late || is_hanging) {
                write.is_astray = true;
                self.world.count("late: a write in version 1");
            } else if is_late {
                let what = format!("{number} of {tag:?} is taken for one of {newest:?}");
                self.world.finding(check::LATE, format_args!("{what}"));
            }
        }
    }

    /// What is there after a start is all that was acknowledged.
    pub fn started(&mut self, partition: &Partition) {
        let mut stored = BTreeSet::new();
        for batch in partition.batches() {
            match &batch.content {
                Content::Record(number) => {
                    stored.insert(*number);
                }
                Content::Groups(records) => stored.extend(numbers(records)),
                Content::Marker(_) => {}
            }
        }
        for (number, write) in &self.writes {
            let is_here = match write.place {
                Place::Record { partition: at, .. } => at == partition.index,
                Place::Offset { .. } => partition.topic == odradek::group::GROUPS_TOPIC,
            };
            if is_here && write.is_acknowledged && !stored.contains(number) {
                let what = format!("{number} in {}-{} is gone", partition.topic, partition.number);
                self.world.finding(check::KEPT, format_args!("{what}"));
            }
        }
        self.stored.insert(partition.index, stored);
    }

    // --- Readers

    pub fn read(&mut self, partition: &Partition, stored: &Stored, is_visible: bool) {
        let all: Vec<u64> = match &stored.content {
            Content::Record(number) => vec![*number],
            Content::Groups(records) => numbers(records).collect(),
            Content::Marker(_) => return,
        };
        for number in all {
            self.read_one(partition, number, is_visible);
        }
    }

    fn read_one(&mut self, partition: &Partition, number: u64, is_visible: bool) {
        let Some(write) = self.writes.get_mut(&number) else { return };
        let is_record = matches!(write.place, Place::Record { .. });
        if is_record && write.is_read {
            let what = format!("{number} of {}-{} is read twice", partition.topic, partition.number);
            self.world.finding(check::STORED_ONCE, format_args!("{what}"));
        }
        write.is_read = true;
        write.is_seen |= is_visible;
        let Some(Tag(tag)) = write.tag.filter(|_| !write.is_astray) else { return };
        let transaction = &mut self.transactions[tag];
        if transaction.is_disturbed {
            return;
        }
        let what = format!("{number} of {} {:?} {tag}", transaction.id, transaction.writer);
        match is_visible {
            true => transaction.is_seen = true,
            false => transaction.is_left_out = true,
        }
        if transaction.is_seen && transaction.is_left_out {
            self.world.finding(check::ONE_OUTCOME, format_args!("{what} is seen: {is_visible}"));
        } else if is_visible && transaction.asked != Some(TransactionOutcome::Commit) {
            self.world.finding(check::COMMITTED_ONLY, format_args!("{what} is seen"));
        } else if !is_visible && transaction.told == Some(TransactionOutcome::Commit) {
            self.world.finding(check::WHOLE, format_args!("{what} is left out"));
        }
        self.world.count(match (is_record, is_visible) {
            (true, true) => "read: a committed record",
            (true, false) => "read: an aborted record is left out",
            (false, true) => "read: a committed offset",
            (false, false) => "read: an aborted offset is left out",
        });
    }

    /// Everything has been read: of what was committed everything that was acknowledged was seen, and of a
    /// transaction of which nobody was told, all or nothing.
    pub fn check_whole(&self) {
        for (tag, transaction) in self.transactions.iter().enumerate() {
            if transaction.is_disturbed {
                continue;
            }
            let writes = transaction.writes.iter().map(|number| (number, &self.writes[number]));
            let mut writes = writes.filter(|(_, write)| write.is_acknowledged && !write.is_astray);
            let is_committed = transaction.told == Some(TransactionOutcome::Commit);
            let is_seen = transaction.is_seen;
            if let Some((number, _)) = writes.find(|(_, write)| (is_committed || is_seen) != write.is_seen) {
                let what = format!("{number} of {} {:?} {tag}", transaction.id, transaction.writer);
                let told = transaction.told;
                self.world.finding(check::WHOLE, format_args!("{what}: told {told:?}, seen {is_seen}"));
            }
            self.world.count(match (transaction.asked, transaction.told) {
                (None, _) => "transaction: left behind",
                (Some(_), None) => "transaction: asked to end, nobody was told",
                (_, Some(TransactionOutcome::Commit)) => "transaction: committed",
                (_, Some(TransactionOutcome::Abort)) => "transaction: aborted",
            });
        }
    }
}
