//! A reader of committed records while transactions are made and the broker is killed.
//!
//! Markers come to partitions one after the other, so a reader may have one side of a transaction and not yet
//! the other. When it has one, the transaction was committed, and all that it wrote lies below the ends that
//! the partitions have then: once what is stable in each of them has got there and was read, all of it has to
//! have been seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use super::{PARTITIONS, text};
use crate::client::Answer;

/// Of one call, of a broker that may be away.
const CALL_TIME_MAX: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(200);

/// A record of the topics `accounts` and `outputs`, as the workers write it.
#[derive(Deserialize)]
struct Written {
    transaction: String,
    /// How many records the transaction has.
    of: usize,
    #[serde(default)]
    amount: i64,
    input: Option<u64>,
}

/// What was read of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    of: usize,
    places: BTreeSet<(i32, i64)>,
    sum: i64,
    inputs: BTreeSet<u64>,
}

impl Parts {
    pub fn is_whole(&self) -> bool {
        self.places.len() == self.of && self.sum == 0
    }
}

/// Why a look has not come to its end.
#[derive(Debug)]
pub enum Broken {
    /// The broker is not there, or not in time.
    Away(String),
    Violated(String),
}

fn away(error: impl std::fmt::Display) -> Broken {
    Broken::Away(error.to_string())
}

fn violated<T>(what: String) -> Result<T, Broken> {
    Err(Broken::Violated(what))
}

/// Everything that was read of a topic until now.
#[derive(Debug)]
pub struct Reader {
    bootstrap: String,
    topic: &'static str,
    /// Of each partition: what is read next, and what was stable when it was last asked for.
    next: Vec<i64>,
    stable: Vec<i64>,
    transactions: BTreeMap<String, Parts>,
    inputs: BTreeSet<u64>,
    /// Transactions that are not whole yet, with the ends of all partitions after that was seen.
    halves: BTreeMap<String, Vec<i64>>,
    /// Looks that came to their end, and transactions that one of them left half.
    pub looks: usize,
    pub halves_met: usize,
}

impl Reader {
    pub fn new(bootstrap: String, topic: &'static str) -> Reader {
        let nowhere = vec![0; PARTITIONS as usize];
        Reader {
            bootstrap,
            topic,
            next: nowhere.clone(),
            stable: nowhere,
            transactions: BTreeMap::new(),
            inputs: BTreeSet::new(),
            halves: BTreeMap::new(),
            looks: 0,
            halves_met: 0,
        }
    }

    pub fn topic(&self) -> &'static str {
        self.topic
    }

    pub fn transactions(&self) -> &BTreeMap<String, Parts> {
        &self.transactions
    }

    pub fn inputs(&self) -> &BTreeSet<u64> {
        &self.inputs
    }

    /// Reads on to what is stable now, with clients of its own: where a partition ends, an older one may have been
    /// told before.
    pub fn look(&mut self) -> Result<(), Broken> {
        let (committed, all) = (self.consumer("read_committed")?, self.consumer("read_uncommitted")?);
        let stable = self.ends(&committed)?;
        if let Some(partition) = (0..stable.len()).find(|at| stable[*at] < self.stable[*at]) {
            let (topic, before) = (self.topic, self.stable[partition]);
            let after = stable[partition];
            return violated(format!("{topic}-{partition}: stable to {before}, and then to {after}"));
        }
        self.stable = stable;
        self.read(&committed)?;
        let is_due = |ends: &Vec<i64>| ends.iter().zip(&self.stable).all(|(end, stable)| stable >= end);
        if let Some(half) = self.halves.iter().find(|(_, ends)| is_due(ends)).map(|(half, _)| half.clone()) {
            let parts = &self.transactions[&half];
            let again = self.read_again(&half);
            return violated(format!("{half} is not whole where all of it can be read: {parts:?}; {again}"));
        }
        let is_new = |name: &String, parts: &Parts| !parts.is_whole() && !self.halves.contains_key(name);
        let new = self.transactions.iter().filter(|(name, parts)| is_new(name, parts));
        let new: Vec<String> = new.map(|(name, _)| name.clone()).collect();
        if !new.is_empty() {
            let ends = self.ends(&all)?;
            self.halves_met += new.len();
            self.halves.extend(new.into_iter().map(|name| (name, ends.clone())));
        }
        self.looks += 1;
        Ok(())
    }

    /// Whether nothing is half read, and nothing is open.
    pub fn is_at_rest(&self) -> Result<bool, Broken> {
        let ends = self.ends(&self.consumer("read_uncommitted")?)?;
        Ok(self.halves.is_empty() && ends == self.stable)
    }

    /// What others find of a transaction, who read everything: whether it is this reader that has missed some of it,
    /// or readers of what is committed have, or it was never written.
    fn read_again(&self, transaction: &str) -> String {
        let found = |isolation| {
            let mut other = Reader::new(self.bootstrap.clone(), self.topic);
            let read = other.consumer(isolation).and_then(|consumer| other.read(&consumer));
            format!("{isolation} {:?} up to {:?}, {read:?}", other.transactions.get(transaction), other.next)
        };
        let Reader { next, stable, halves, .. } = self;
        let ends = &halves[transaction];
        let (committed, all) = (found("read_committed"), found("read_uncommitted"));
        format!(
            "read to {next:?}, stable to {stable:?}, ends {ends:?}; from the beginning {committed}; {all}"
        )
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer, Broken> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("group.id", "unused");
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "error");
        config.set("enable.partition.eof", "true").set("isolation.level", isolation);
        config.set("fetch.wait.max.ms", "20");
        config.create().map_err(away)
    }

    fn ends(&self, consumer: &BaseConsumer) -> Result<Vec<i64>, Broken> {
        let end = |partition| consumer.fetch_watermarks(self.topic, partition, CALL_TIME_MAX);
        (0..PARTITIONS).map(|partition| Ok(end(partition).map_err(away)?.1)).collect()
    }

    fn read(&mut self, committed: &BaseConsumer) -> Result<(), Broken> {
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let next = Offset::Offset(self.next[partition as usize]);
            list.add_partition_offset(self.topic, partition, next).map_err(away)?;
        }
        committed.assign(&list).map_err(away)?;
        let mut ended = BTreeSet::new();
        while ended.len() < PARTITIONS as usize {
            match committed.poll(CALL_TIME_MAX) {
                None => return Err(away("nothing comes")),
                Some(Ok(message)) => {
                    let value = message.payload().unwrap_or_default();
                    self.take(message.partition(), message.offset(), value)?;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    return violated(format!("{}: what was read is not there any more", self.topic));
                }
                Some(Err(error)) => return Err(away(error)),
            }
        }
        Ok(())
    }

    fn take(&mut self, partition: i32, offset: i64, value: &[u8]) -> Result<(), Broken> {
        let next = &mut self.next[partition as usize];
        if offset < *next {
            let next = *next;
            return violated(format!("{}-{partition}: {offset} behind {next}", self.topic));
        }
        *next = offset + 1;
        let written: Written = match serde_json::from_slice(value) {
            Ok(written) => written,
            Err(error) => return violated(format!("{}-{partition}, {offset}: {error}", self.topic)),
        };
        let parts = self.transactions.entry(written.transaction.clone()).or_default();
        parts.of = written.of;
        parts.sum += written.amount;
        parts.places.insert((partition, offset));
        let is_again = written.input.is_some_and(|input| !self.inputs.insert(input));
        parts.inputs.extend(written.input);
        if is_again {
            return violated(format!("input {:?} was counted again: {parts:?}", written.input));
        }
        if parts.places.len() > parts.of || (parts.places.len() == parts.of && parts.sum != 0) {
            return violated(format!("{} is not what it was: {parts:?}", written.transaction));
        }
        if parts.is_whole() {
            self.halves.remove(&written.transaction);
        }
        Ok(())
    }
}

/// Readers at work beside everything else.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    /// Until it has ended.
    thread: Option<JoinHandle<Answer<Vec<Reader>>>>,
}

impl Watch {
    pub fn start(bootstrap: &str, topics: &[&'static str]) -> Watch {
        let readers = topics.iter().map(|topic| Reader::new(bootstrap.to_owned(), topic));
        let (mut readers, is_over) = (readers.collect::<Vec<_>>(), Arc::new(AtomicBool::new(false)));
        let is_over_too = is_over.clone();
        let thread = std::thread::spawn(move || {
            while !is_over_too.load(Ordering::Relaxed) {
                for reader in &mut readers {
                    match reader.look() {
                        Ok(()) | Err(Broken::Away(_)) => {}
                        Err(Broken::Violated(what)) => return Err(what),
                    }
                }
                std::thread::sleep(PAUSE);
            }
            Ok(readers)
        });
        Watch { is_over, thread: Some(thread) }
    }

    /// Whether a reader has met what must not be.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    pub fn end(mut self) -> Answer<Vec<Reader>> {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        thread.join().map_err(|_| text("a reader has panicked"))?
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed); // Another error has ended the test.
    }
}
