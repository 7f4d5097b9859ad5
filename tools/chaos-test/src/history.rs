//! What clients were told of one topic, and what of that cannot be (SAFETY 1 to 5 and 9); pure.
//!
//! A value is sent once, to one partition, by a producer that counts. Every acknowledgement and every read says which
//! value lies at an offset.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a record says of itself: the `number`th of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    pub producer: u32,
    pub number: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}-{}", self.producer, self.number)
    }
}

impl Value {
    pub fn parse(bytes: &[u8]) -> Option<Value> {
        let (producer, number) = std::str::from_utf8(bytes).ok()?.split_once('-')?;
        Some(Value { producer: producer.parse().ok()?, number: number.parse().ok()? })
    }
}

#[derive(Clone, Copy)]
struct Sent {
    /// No offset that anybody knew when it was sent is at or above its own.
    above: i64,
    offset: Option<i64>,
    is_acknowledged: bool,
}

/// One partition.
#[derive(Default)]
struct Partition {
    sent: BTreeMap<Value, Sent>,
    by_offset: BTreeMap<i64, Value>,
    /// The highest offset that is known of anything.
    known: Option<i64>,
}

pub struct History {
    partitions: Vec<Partition>,
    pub violations: Vec<String>,
    pub acknowledged: u64,
    pub failed: u64,
    pub read: u64,
}

impl History {
    pub fn new(partitions: usize) -> History {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        History { partitions, violations: Vec::new(), acknowledged: 0, failed: 0, read: 0 }
    }

    /// It may be stored from now on.
    pub fn sent(&mut self, partition: usize, value: Value) {
        let partition = &mut self.partitions[partition];
        let above = partition.known.unwrap_or(-1);
        partition.sent.insert(value, Sent { above, offset: None, is_acknowledged: false });
    }

    /// Nobody will hear what became of it.
    pub fn failed(&mut self) {
        self.failed += 1;
    }

    pub fn acknowledged(&mut self, index: usize, value: Value, offset: i64) {
        self.acknowledged += 1;
        self.lies_at(index, value, offset, "acknowledged");
        let partition = &mut self.partitions[index];
        if let Some(sent) = partition.sent.get_mut(&value) {
            sent.is_acknowledged = true;
            if offset <= sent.above {
                let above = sent.above;
                self.violations.push(format!(
                    "{value} acknowledged at {index}:{offset}, and {above} was known before it was sent"
                ));
            }
        }
    }

    /// The broker has said that it has it already, and not where (DUPLICATE_SEQUENCE_NUMBER).
    pub fn acknowledged_somewhere(&mut self, index: usize, value: Value) {
        self.acknowledged += 1;
        self.partitions[index].sent.entry(value).and_modify(|sent| sent.is_acknowledged = true);
    }

    pub fn read(&mut self, index: usize, offset: i64, payload: &[u8]) {
        self.read += 1;
        let Some(value) = Value::parse(payload) else {
            return self.violations.push(format!("{index}:{offset} has {payload:?}, which nobody sent"));
        };
        self.lies_at(index, value, offset, "read");
    }

    fn lies_at(&mut self, index: usize, value: Value, offset: i64, how: &str) {
        let partition = &mut self.partitions[index];
        partition.known = partition.known.max(Some(offset));
        let Some(sent) = partition.sent.get_mut(&value) else {
            return self
                .violations
                .push(format!("{value} was {how} at {index}:{offset}, and never sent there"));
        };
        match sent.offset {
            Some(before) if before != offset => {
                return self
                    .violations
                    .push(format!("{value} was {how} at {index}:{offset} and lay at {before}"));
            }
            _ => sent.offset = Some(offset),
        }
        let before = *partition.by_offset.entry(offset).or_insert(value);
        if before != value {
            self.violations.push(format!("{index}:{offset} was {how} as {value} and was {before}"));
        }
    }

    /// Everything that a partition has, read from its start once all faults have ended.
    pub fn read_whole(&mut self, index: usize, records: &[(i64, Vec<u8>)]) {
        let mut newest: BTreeMap<u32, u64> = BTreeMap::new();
        for (offset, payload) in records {
            self.read(index, *offset, payload);
            if let Some(Value { producer, number }) = Value::parse(payload) {
                let before = newest.insert(producer, number);
                if let Some(before) = before.filter(|before| *before >= number) {
                    self.violations.push(format!("{index}:{offset} has {producer}-{number} behind {before}"));
                }
            }
        }
        // Each is there once, since its offset is known, and nothing lies between them.
        if let Some((gap, _)) =
            records.iter().map(|(offset, _)| *offset).zip(0..).find(|(is, should)| is != should)
        {
            self.violations.push(format!("before {index}:{gap} something is missing"));
        }
        let end = records.len() as i64;
        let partition = &self.partitions[index];
        let lost = partition.by_offset.range(end..).find(|(_, value)| partition.sent[value].is_acknowledged);
        if let Some((offset, value)) = lost {
            self.violations
                .push(format!("{value} was acknowledged at {index}:{offset} and the log ends at {end}"));
        }
        let nowhere = partition.sent.iter().find(|(_, sent)| sent.is_acknowledged && sent.offset.is_none());
        if let Some((value, _)) = nowhere {
            self.violations.push(format!("{value} was acknowledged in {index} and is nowhere"));
        }
    }
}

/// How a transaction ended, as far as its producer has heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    Aborted,
    /// One of the two.
    Unknown,
}

/// Transactions that write one record to each of several partitions.
#[derive(Default)]
pub struct Ledger {
    pub outcomes: BTreeMap<Value, Outcome>,
}

impl Ledger {
    /// `partitions`: what readers of committed records get of each, whole.
    pub fn check(&self, partitions: &[Vec<(i64, Vec<u8>)>]) -> Vec<String> {
        let mut violations = Vec::new();
        let mut seen: BTreeMap<Value, usize> = BTreeMap::new();
        for (index, records) in partitions.iter().enumerate() {
            let mut here = BTreeSet::new();
            for (offset, payload) in records {
                let Some(value) = Value::parse(payload) else {
                    violations.push(format!("{index}:{offset} of the ledger has {payload:?}"));
                    continue;
                };
                if !here.insert(value) {
                    violations
                        .push(format!("transaction {value} is twice in partition {index} of the ledger"));
                }
            }
            here.into_iter().for_each(|value| *seen.entry(value).or_default() += 1);
        }
        for (value, count) in &seen {
            match self.outcomes.get(value) {
                None => violations.push(format!("transaction {value} is in the ledger, and nobody began it")),
                Some(Outcome::Aborted) => {
                    violations.push(format!("transaction {value} was aborted and is read"))
                }
                _ if *count != partitions.len() => {
                    violations.push(format!(
                        "of transaction {value} {count} of {} parts are read",
                        partitions.len()
                    ));
                }
                _ => {}
            }
        }
        let committed = self.outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Committed);
        for (value, _) in committed.filter(|(value, _)| !seen.contains_key(value)) {
            violations.push(format!("transaction {value} was committed and is not read"));
        }
        violations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u64) -> Value {
        Value { producer: 1, number }
    }

    fn records(numbers: &[u64]) -> Vec<(i64, Vec<u8>)> {
        (0..).zip(numbers).map(|(offset, number)| (offset, value(*number).to_string().into_bytes())).collect()
    }

    /// Three are sent, two acknowledged.
    fn history() -> History {
        let mut history = History::new(1);
        (0..3).for_each(|number| history.sent(0, value(number)));
        history.acknowledged(0, value(0), 0);
        history.acknowledged(0, value(1), 1);
        history
    }

    fn found(mut history: History, numbers: &[u64]) -> Vec<String> {
        history.read_whole(0, &records(numbers));
        history.violations
    }

    #[test]
    fn what_was_acknowledged_is_there_and_what_was_not_may_be() {
        assert_eq!(found(history(), &[0, 1]), Vec::<String>::new());
        assert_eq!(found(history(), &[0, 1, 2]), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_found() {
        let first = |history, numbers: &[u64]| found(history, numbers).remove(0);
        assert_eq!(first(history(), &[0]), "1-1 was acknowledged at 0:1 and the log ends at 1");
        assert_eq!(first(history(), &[0, 2]), "0:1 was read as 1-2 and was 1-1");
        assert_eq!(first(history(), &[0, 1, 1]), "1-1 was read at 0:2 and lay at 1");
        assert_eq!(first(history(), &[0, 1, 7]), "1-7 was read at 0:2, and never sent there");
        let mut late = history();
        late.sent(0, value(3));
        late.acknowledged(0, value(3), 1);
        assert!(late.violations[0].starts_with("0:1 was acknowledged as 1-3"), "{:?}", late.violations);
        assert!(late.violations[1].starts_with("1-3 acknowledged at 0:1, and 1 was known"));
        let mut somewhere = history();
        somewhere.acknowledged_somewhere(0, value(2));
        assert_eq!(first(somewhere, &[0, 1]), "1-2 was acknowledged in 0 and is nowhere");
        let mut gap = history();
        gap.read_whole(0, &[(0, b"1-0".to_vec()), (2, b"1-2".to_vec())]);
        assert_eq!(gap.violations[0], "before 0:2 something is missing");
        let mut foreign = history();
        foreign.read(0, 2, b"what");
        assert_eq!(foreign.violations.len(), 1);
        let mut order = History::new(1);
        (0..2).for_each(|number| order.sent(0, value(number)));
        assert_eq!(first(order, &[1, 0]), "0:1 has 1-0 behind 1");
    }

    #[test]
    fn transactions_are_whole_or_absent() {
        let ledger = Ledger {
            outcomes: [
                (value(0), Outcome::Committed),
                (value(1), Outcome::Aborted),
                (value(2), Outcome::Unknown),
            ]
            .into(),
        };
        let check = |first: &[u64], second: &[u64]| ledger.check(&[records(first), records(second)]);
        assert_eq!(check(&[0], &[0]), Vec::<String>::new());
        assert_eq!(check(&[0, 2], &[2, 0]), Vec::<String>::new());
        assert_eq!(check(&[0, 2], &[0]), ["of transaction 1-2 1 of 2 parts are read"]);
        assert_eq!(check(&[], &[]), ["transaction 1-0 was committed and is not read"]);
        assert_eq!(check(&[0, 1], &[0, 1]), ["transaction 1-1 was aborted and is read"]);
        assert_eq!(check(&[0, 0], &[0]), ["transaction 1-0 is twice in partition 0 of the ledger"]);
        assert_eq!(check(&[0, 9], &[0, 9]), ["transaction 1-9 is in the ledger, and nobody began it"]);
    }
}
