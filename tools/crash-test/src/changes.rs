//! What changes logs in more ways than by appends, beside the load generator: each on its own connection,
//! one request at a time, until the broker is gone.
//!
//! | topic | what is done to it |
//! |---|---|
//! | `compacted` | some keys are written again and again, or deleted; small segments, an eager cleaner |
//! | `retained` | is written, and keeps little |
//! | `trimmed` | is written, and records of it are deleted |
//! | `passing-N` | are made, written to and deleted, under the same names again and again |
//! | all of them but the last, and the load generator's | log start and high watermark are asked for |
//!
//! What is asked and answered is in the [`Ledger`].

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use odradek_powerloss::random::Random;
use odradek_test_harness::Batch;

use crate::broker::{PARTITIONS, TOPIC};
use crate::client::{CallError, Client, stamped};
use crate::promises::{Content, Kind, Ledger, Presence, Stamp};

/// What `retained` keeps, in bytes: some of its segments.
const RETAINED_BYTES: u64 = 256 << 10;
/// The largest batch that goes to it: what a crash may take of the end that was not acknowledged.
const RETAINED_BATCH_BYTES: u64 = 48 << 10;
/// Of a partition; some batches write all of them.
const KEYS: u64 = 60;
const PASSING: u64 = 3;
const PARTITIONS_OF_EACH: i32 = 2;
/// Between two looks at all log starts and high watermarks, and after a refusal that passes.
const PAUSE: Duration = Duration::from_millis(10);

const SMALL_SEGMENTS: (&str, &str) = ("segment.bytes", "65536");

/// A topic that stays, with what makes it one.
struct Steady {
    name: &'static str,
    kind: Kind,
    settings: &'static [(&'static str, &'static str)],
}

const COMPACTED: Steady = Steady {
    name: "compacted",
    kind: Kind::Compacted,
    settings: &[
        SMALL_SEGMENTS,
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "100"),
    ],
};
const RETAINED: Steady = Steady {
    name: "retained",
    kind: Kind::Retained { bytes_min: RETAINED_BYTES - RETAINED_BATCH_BYTES },
    settings: &[SMALL_SEGMENTS, ("retention.bytes", "262144")],
};
const TRIMMED: Steady = Steady { name: "trimmed", kind: Kind::Trimmed, settings: &[SMALL_SEGMENTS] };

const STEADY: [&Steady; 3] = [&COMPACTED, &RETAINED, &TRIMMED];

/// How often what this is for has happened.
#[derive(Debug, Default)]
pub struct Met {
    counts: [AtomicU64; What::ALL.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Acknowledged,
    /// Records that a restart found to be gone from compacted logs. Each restart counts them anew.
    CompactedAway,
    /// The same of logs that keep little.
    RetainedAway,
    RecordsDeleted,
    TopicsMade,
    TopicsDeleted,
    KilledInStart,
    KilledInStop,
}

impl What {
    pub const ALL: [What; 8] = [
        What::Acknowledged,
        What::CompactedAway,
        What::RetainedAway,
        What::RecordsDeleted,
        What::TopicsMade,
        What::TopicsDeleted,
        What::KilledInStart,
        What::KilledInStop,
    ];

    const fn name(self) -> &'static str {
        match self {
            What::Acknowledged => "batches acknowledged",
            What::CompactedAway => "records compacted away",
            What::RetainedAway => "records past retention",
            What::RecordsDeleted => "deletions of records",
            What::TopicsMade => "topics made",
            What::TopicsDeleted => "topics deleted",
            What::KilledInStart => "starts killed",
            What::KilledInStop => "stops killed",
        }
    }
}

impl Met {
    pub fn add(&self, what: What, count: u64) {
        self.counts[what as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self, what: What) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    pub fn never(&self) -> Vec<&'static str> {
        What::ALL.into_iter().filter(|what| self.get(*what) == 0).map(What::name).collect()
    }

    pub fn told(&self) -> String {
        let told = What::ALL.map(|what| format!("{} {}", self.get(what), what.name()));
        told.join(", ")
    }
}

/// Lives: one per data directory; clones are of the same.
#[derive(Clone, Default)]
pub struct Shared {
    ledger: Arc<Mutex<Ledger>>,
    pub met: Arc<Met>,
}

impl Shared {
    pub fn new(met: Arc<Met>) -> Shared {
        let shared = Shared { ledger: Arc::default(), met };
        // Made by the load generator, which knows what is in it.
        shared.ledger().create(TOPIC, Kind::Whole, PARTITIONS as usize);
        shared
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything back after a restart and says what is wrong.
    pub fn judge(&self, address: &str) -> Result<Vec<String>, CallError> {
        let mut client = Client::connect(address)?;
        let there = client.topics()?;
        let mut ledger = self.ledger();
        let mut wrong = std::mem::take(&mut ledger.wrong);
        wrong.extend(ledger.settle(&there));
        for (name, topic) in &mut ledger.topics {
            if topic.presence != Presence::There {
                continue;
            }
            for (partition, promises) in (0..).zip(&mut topic.partitions) {
                let then = (promises.earliest(), promises.latest());
                let (earliest, latest, found) = if name == TOPIC {
                    let (earliest, latest) = client.ends(name, partition)?;
                    (earliest, latest, Vec::new())
                } else {
                    let read = client.read_all(name, partition)?;
                    match topic.kind {
                        Kind::Compacted => {
                            let there = read.records.len() as u64;
                            self.met.add(What::CompactedAway, (read.latest as u64).saturating_sub(there));
                        }
                        Kind::Retained { .. } => {
                            self.met.add(What::RetainedAway, read.earliest as u64);
                        }
                        Kind::Whole | Kind::Trimmed => {}
                    }
                    (read.earliest, read.latest, promises.judge(&read))
                };
                let mut found = found;
                if found.is_empty() {
                    found = promises.observed(then, earliest, latest);
                }
                if earliest > 0 && !client.is_refused_at(name, partition, earliest - 1)? {
                    found.push(format!("the log starts at {earliest}, and what is before is read"));
                }
                wrong.extend(found.into_iter().map(|what| format!("{name}-{partition}: {what}")));
            }
        }
        Ok(wrong)
    }
}

/// The threads of one life of the broker.
pub struct Changes {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), CallError>>>,
}

impl Changes {
    pub fn start(shared: &Shared, address: &str, random: &mut Random) -> Changes {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = [write_keys, write_retained, write_and_trim, make_and_delete, watch].map(|change| {
            let (shared, address, is_over) = (shared.clone(), address.to_owned(), is_over.clone());
            let random = Random::new(random.draw());
            std::thread::spawn(move || {
                let client = Client::connect(&address)?;
                let mut changer = Changer { shared, client, random, is_over };
                change(&mut changer)
            })
        });
        Changes { is_over, threads: threads.into() }
    }

    /// What ended one of them while the broker was not told to end. They go on meanwhile.
    pub fn failure(&mut self) -> Option<String> {
        let at = self.threads.iter().position(JoinHandle::is_finished)?;
        Some(match self.threads.swap_remove(at).join() {
            Ok(Ok(())) => "it ended by itself".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        })
    }

    /// After the end of the broker. What was refused rather than left without an answer.
    pub fn join(self) -> Option<String> {
        self.is_over.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self.threads.into_iter().map(JoinHandle::join).collect();
        ends.into_iter().find_map(|end| match end {
            Ok(Ok(()) | Err(CallError::Gone(_))) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("a load panicked".to_owned()),
        })
    }
}

/// Lives: one per thread.
struct Changer {
    shared: Shared,
    client: Client,
    random: Random,
    is_over: Arc<AtomicBool>,
}

impl Changer {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger()
    }

    /// Makes a topic if it is not there.
    fn make(&mut self, topic: &Steady) -> Result<(), CallError> {
        if self.ledger().presence(topic.name) == Presence::There {
            return Ok(());
        }
        self.create(topic.name, topic.kind, topic.settings)
    }

    fn create(&mut self, name: &str, kind: Kind, settings: &[(&str, &str)]) -> Result<(), CallError> {
        self.ledger().create(name, kind, PARTITIONS_OF_EACH as usize);
        self.client.create_topic(name, PARTITIONS_OF_EACH as usize, settings)?;
        self.ledger().set_presence(name, Presence::There);
        self.shared.met.add(What::TopicsMade, 1);
        Ok(())
    }

    /// Sends records of some bytes and waits for the answer.
    fn send(
        &mut self,
        topic: &str,
        partition: i32,
        contents: &[Content],
        size: usize,
    ) -> Result<(), CallError> {
        let (sending, run) = {
            let mut ledger = self.ledger();
            let promises = ledger.partition(topic, partition);
            (promises.send(contents), promises.run())
        };
        let values = (sending.first..).take(contents.len());
        let values: Vec<Vec<u8>> = values.map(|sequence| stamped(Stamp { run, sequence }, size)).collect();
        let mut batch = Batch::of(&values, now_ms());
        if contents.iter().all(|content| content.key.is_some()) {
            let keys = contents.iter().map(|content| content.key.unwrap_or_default().to_string());
            batch = batch.keyed(&keys.collect::<Vec<_>>());
        }
        for (at, _) in contents.iter().enumerate().filter(|(_, content)| content.is_null) {
            batch = batch.null_at(at);
        }
        match self.client.produce(topic, partition, &batch) {
            Ok(base_offset) => {
                let mut ledger = self.ledger();
                let wrong = ledger.partition(topic, partition).acknowledged(sending, base_offset);
                ledger.wrong.extend(wrong.map(|what| format!("{topic}-{partition}: {what}")));
                self.shared.met.add(What::Acknowledged, 1);
                Ok(())
            }
            Err(error) if error.is_no_leader() => {
                sleep(PAUSE);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn partition(&mut self) -> i32 {
        self.random.below(PARTITIONS_OF_EACH as u64) as i32
    }

    fn without_keys(&mut self, count_max: u64) -> Vec<Content> {
        vec![Content { key: None, is_null: false }; 1 + self.random.below(count_max) as usize]
    }
}

fn write_keys(changer: &mut Changer) -> Result<(), CallError> {
    changer.make(&COMPACTED)?;
    while !changer.is_over() {
        let partition = changer.partition();
        let count = 1 + changer.random.below(30);
        let contents: Vec<Content> = (0..count)
            .map(|_| {
                let key = Some(changer.random.below(KEYS) as u32);
                Content { key, is_null: changer.random.one_in(8) }
            })
            .collect();
        let size = changer.random.below(1000) as usize;
        changer.send(COMPACTED.name, partition, &contents, size)?;
    }
    Ok(())
}

fn write_retained(changer: &mut Changer) -> Result<(), CallError> {
    changer.make(&RETAINED)?;
    while !changer.is_over() {
        let partition = changer.partition();
        let contents = changer.without_keys(40);
        // The journal takes the smaller ones, segments the larger.
        changer.send(RETAINED.name, partition, &contents, 1000)?;
    }
    Ok(())
}

fn write_and_trim(changer: &mut Changer) -> Result<(), CallError> {
    changer.make(&TRIMMED)?;
    while !changer.is_over() {
        let partition = changer.partition();
        let contents = changer.without_keys(20);
        changer.send(TRIMMED.name, partition, &contents, 300)?;
        if !changer.random.one_in(10) {
            continue;
        }
        let (earliest, latest) = {
            let mut ledger = changer.ledger();
            let promises = ledger.partition(TRIMMED.name, partition);
            (promises.earliest(), promises.latest())
        };
        // Now and then everything, which Kafka calls -1. Nobody else writes, so it ends where we know.
        let below = match changer.random.below(5) {
            0 => latest,
            _ => earliest + changer.random.below((latest - earliest) as u64 + 1) as i64,
        };
        let asked = if below == latest { -1 } else { below };
        changer.ledger().partition(TRIMMED.name, partition).delete(below);
        match changer.client.delete_records(TRIMMED.name, partition, asked) {
            Ok(log_start) => {
                let mut ledger = changer.ledger();
                ledger.partition(TRIMMED.name, partition).deleted(log_start);
                if log_start < below {
                    let name = TRIMMED.name;
                    ledger
                        .wrong
                        .push(format!("{name}-{partition}: asked for {below}, deleted to {log_start}"));
                }
                changer.shared.met.add(What::RecordsDeleted, 1);
            }
            Err(error) if error.is_no_leader() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn make_and_delete(changer: &mut Changer) -> Result<(), CallError> {
    while !changer.is_over() {
        let name = format!("passing-{}", changer.random.below(PASSING));
        let presence = changer.ledger().presence(&name);
        if presence != Presence::There {
            let settings: &[_] = if changer.random.one_in(2) { &[SMALL_SEGMENTS] } else { &[] };
            changer.create(&name, Kind::Whole, settings)?;
        }
        for _ in 0..changer.random.below(6) {
            let partition = changer.partition();
            let contents = changer.without_keys(50);
            changer.send(&name, partition, &contents, 500)?;
        }
        if changer.random.one_in(3) {
            continue; // It stays for a while.
        }
        changer.ledger().set_presence(&name, Presence::Deleting);
        changer.client.delete_topic(&name)?;
        changer.ledger().set_presence(&name, Presence::Absent);
        changer.shared.met.add(What::TopicsDeleted, 1);
    }
    Ok(())
}

fn watch(changer: &mut Changer) -> Result<(), CallError> {
    let mut seen = BTreeSet::new();
    while !changer.is_over() {
        let watched =
            STEADY.iter().map(|topic| (topic.name, PARTITIONS_OF_EACH)).chain([(TOPIC, PARTITIONS)]);
        for (topic, partition) in watched.flat_map(|(topic, count)| (0..count).map(move |at| (topic, at))) {
            if changer.ledger().presence(topic) == Presence::Absent {
                continue; // Its thread makes it.
            }
            let then = {
                let mut ledger = changer.ledger();
                let promises = ledger.partition(topic, partition);
                (promises.earliest(), promises.latest())
            };
            let (earliest, latest) = match changer.client.ends(topic, partition) {
                // Not made yet: each partition has its own core, and its own time.
                Err(error) if error.is_no_leader() && !seen.contains(&(topic, partition)) => continue,
                ends => ends?,
            };
            seen.insert((topic, partition));
            let mut ledger = changer.ledger();
            let wrong = ledger.partition(topic, partition).observed(then, earliest, latest);
            ledger
                .wrong
                .extend(wrong.into_iter().map(|what| format!("{topic}-{partition}: {what}, at once")));
        }
        sleep(PAUSE);
    }
    Ok(())
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}
