//! What is known of transactional ids: what their coordinators have in the log, and what producers were told.

use crate::transactions::settings::{Settings, check};
use crate::transactions::watch::{Cause, WriteKey};
use crate::world::World;
use crate::writes::WriteEnd;
use odradek::codec::control_record::{EndMarker, TransactionOutcome};
use odradek::codec::transaction_record::{TransactionRecord, TransactionState, TransactionValue};
use odradek::txn::Writer;
use odradek::txn::coordinator::Coordinator;
use odradek::txn::transaction::Addition;
use odradek::types::{ProducerEpoch, ProducerId, java_hash};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A writer that can be compared: a later id of a producer is newer, and of one id the higher epoch.
type Order = (i64, i16);

fn order(writer: Writer) -> Order {
    (writer.producer.0, writer.epoch.0)
}

fn writer_of(value: &TransactionValue) -> Writer {
    Writer { producer: value.producer, epoch: value.epoch }
}

/// Who was told of a producer id and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Who asked for one, saying who it was before.
    Init(Option<Order>),
    /// Who ended a transaction in version 2.
    End(Order),
}

#[derive(Default)]
struct IdWatch {
    /// As the log certainly has it.
    kept: Option<TransactionValue>,
    /// On its way into the log, or nobody knows.
    open: Vec<(WriteKey, Option<TransactionValue>)>,
    told: BTreeMap<Order, Source>,
    /// The newest that was told by an InitProducerId.
    told_by_init: Option<Order>,
}

/// Lives: one per seed.
pub struct Ids {
    world: Rc<World>,
    settings: Settings,
    ids: BTreeMap<String, IdWatch>,
    /// Whose producer ids are, of all that were ever given out.
    producers: BTreeMap<i64, String>,
    /// Partitions that have the marker of the transaction that was decided last.
    marks: BTreeMap<Order, BTreeSet<(String, i32)>>,
}

impl Ids {
    pub fn new(world: Rc<World>, settings: Settings) -> Ids {
        Ids { world, settings, ids: BTreeMap::new(), producers: BTreeMap::new(), marks: BTreeMap::new() }
    }

    pub fn seeded(&mut self, record: &TransactionRecord) {
        let value = record.value.clone().expect("it is something");
        self.producers.insert(value.producer.0, record.transactional_id.clone());
        self.ids.entry(record.transactional_id.clone()).or_default().kept = Some(value);
    }

    pub fn has_any(&self) -> bool {
        self.ids.values().any(|id| id.kept.is_some())
    }

    pub fn id_of(&self, producer: ProducerId) -> Option<String> {
        self.producers.get(&producer.0).cloned()
    }

    pub fn newest_writer(&self, id: &str) -> Option<Writer> {
        self.ids.get(id)?.kept.as_ref().map(writer_of)
    }

    /// A successor was told who it is.
    pub fn is_fenced(&self, id: &str, writer: Writer) -> bool {
        let told = self.ids.get(id).and_then(|id| id.told_by_init);
        told.is_some_and(|told| told > order(writer))
    }

    /// It is the producer, and nothing is on its way that changes that.
    pub fn is_current(&self, id: &str, writer: Writer) -> bool {
        let Some(id) = self.ids.get(id).filter(|id| id.open.is_empty()) else { return false };
        writer.epoch != ProducerEpoch(i16::MAX) && id.kept.as_ref().map(writer_of) == Some(writer)
    }

    // --- Producers

    pub fn told_by_init(&mut self, id: &str, expected: Option<Writer>, writer: Writer) {
        self.told(id, Source::Init(expected.map(order)), writer);
        let id = self.ids.entry(id.to_owned()).or_default();
        id.told_by_init = id.told_by_init.max(Some(order(writer)));
    }

    pub fn told_by_end(&mut self, id: &str, asked: Writer, writer: Writer) {
        self.told(id, Source::End(order(asked)), writer);
    }

    fn told(&mut self, id: &str, source: Source, writer: Writer) {
        let told = &mut self.ids.entry(id.to_owned()).or_default().told;
        let before = told.insert(order(writer), source);
        if before.is_some_and(|before| before != source || source == Source::Init(None)) {
            let what = format!("{writer:?} of {id} to {source:?} and {before:?}");
            self.world.finding(check::FORWARD, format_args!("{what}"));
        }
    }

    /// A producer id is given out.
    fn given(&mut self, id: &str, producer: ProducerId) {
        if let Some(before) = self.producers.insert(producer.0, id.to_owned()) {
            let what = format!("{producer:?} to {id} and to {before}");
            self.world.finding(check::FORWARD, format_args!("{what}"));
        }
    }

    // --- The log

    /// A record is on its way.
    pub fn written(&mut self, write: WriteKey, record: &TransactionRecord, cause: Cause) {
        let id = &record.transactional_id;
        let kept = self.ids.entry(id.clone()).or_default().kept.clone();
        let state = record.value.as_ref().map_or("nothing", |value| value.state.name());
        self.world.note(format_args!("  {:?} {id} becomes {state}: {:?}", write.1, record.value));
        self.check_course(id, kept.as_ref(), record.value.as_ref());
        self.check_forward(id, kept.as_ref(), record.value.as_ref());
        self.check_reason(id, kept.as_ref(), record.value.as_ref(), cause);
        if let Some(value) = &record.value {
            if value.state.is_prepared() {
                self.marks.remove(&order(writer_of(value)));
            }
            let is_complete =
                matches!(value.state, TransactionState::CompleteCommit | TransactionState::CompleteAbort);
            if is_complete && let Some(kept) = &kept {
                self.check_marked(id, kept);
            }
        }
        let watch = self.ids.entry(id.clone()).or_default();
        watch.open.push((write, record.value.clone()));
    }

    fn check_course(&self, id: &str, kept: Option<&TransactionValue>, value: Option<&TransactionValue>) {
        use TransactionState::{
            CompleteAbort, CompleteCommit, Dead, Empty, Ongoing, PrepareAbort, PrepareCommit,
            PrepareEpochFence,
        };
        let from = kept.map(|kept| kept.state);
        let is_idle = matches!(from, Some(Empty | CompleteCommit | CompleteAbort));
        let is_fine = match value.map(|value| value.state) {
            None => is_idle,
            Some(Empty) => from.is_none() || is_idle,
            Some(Ongoing) => is_idle || from == Some(Ongoing),
            Some(PrepareCommit) => from == Some(Ongoing),
            // In version 2 also where nothing was begun.
            Some(PrepareAbort) => from == Some(Ongoing) || is_idle,
            Some(CompleteCommit) => from == Some(PrepareCommit),
            Some(CompleteAbort) => from == Some(PrepareAbort),
            Some(Dead | PrepareEpochFence) => false,
        };
        let keeps_partitions = match (kept, value) {
            (Some(kept), Some(value)) if from == Some(Ongoing) => {
                value.partitions.contains_all(&kept.partitions)
            }
            _ => true,
        };
        if !is_fine || !keeps_partitions {
            let what = format!("{id}: {kept:?} becomes {value:?}");
            self.world.finding(check::COURSE, format_args!("{what}"));
        }
    }

    fn check_forward(&mut self, id: &str, kept: Option<&TransactionValue>, value: Option<&TransactionValue>) {
        let Some(value) = value else { return };
        let before = kept.map(writer_of);
        if before.is_some_and(|before| order(before) > order(writer_of(value))) {
            let what = format!("{id}: {:?} after {before:?}", writer_of(value));
            self.world.finding(check::FORWARD, format_args!("{what}"));
        }
        let was_to_come = kept.and_then(|kept| kept.next_producer) == Some(value.producer);
        if before.is_none_or(|before| before.producer != value.producer) && !was_to_come {
            self.given(id, value.producer);
        }
        if let Some(next) = value.next_producer {
            self.world.count("a producer id is replaced");
            self.given(id, next);
        }
    }

    fn check_reason(
        &self,
        id: &str,
        kept: Option<&TransactionValue>,
        value: Option<&TransactionValue>,
        cause: Cause,
    ) {
        let now = self.world.wall_ms();
        let Some(value) = value else {
            let age_ms = kept.map_or(0, |kept| now - kept.last_update.0);
            let is_old = age_ms as u128 >= self.settings.coordinator.id_expiration.as_millis();
            if !is_old || !matches!(cause, Cause::Time) {
                let what = format!("{id} expires after {age_ms} ms");
                self.world.finding(check::REASON, format_args!("{what}"));
            }
            return;
        };
        let current = kept.map(writer_of);
        let (is_entitled, has_reason) = match (value.state, cause) {
            (TransactionState::PrepareCommit, Cause::End(end)) => {
                (current == Some(end.writer), end.outcome == TransactionOutcome::Commit)
            }
            (TransactionState::PrepareAbort, Cause::End(end)) => {
                (current == Some(end.writer), end.outcome == TransactionOutcome::Abort)
            }
            (TransactionState::PrepareAbort, Cause::Init(init)) => {
                (init.expected.is_none() || init.expected == current, true)
            }
            (TransactionState::PrepareAbort, Cause::Time) => {
                let is_over = kept.is_some_and(|kept| now - kept.start.0 > i64::from(kept.timeout_ms));
                (true, is_over)
            }
            (TransactionState::Ongoing, Cause::Add(writer)) => (current == Some(writer), true),
            // What has waited.
            (TransactionState::Ongoing, Cause::WriteEnded) => (true, true),
            (TransactionState::Empty, Cause::Init(_)) => (true, true),
            (TransactionState::CompleteCommit | TransactionState::CompleteAbort, Cause::Marked) => {
                (true, true)
            }
            _ => (true, false),
        };
        if !is_entitled {
            let what = format!("{id}: {current:?} becomes {:?} by {cause:?}", value.state);
            self.world.finding(check::FENCED, format_args!("{what}"));
        } else if !has_reason {
            let what = format!("{id}: {kept:?} becomes {:?} by {cause:?}", value.state);
            self.world.finding(check::REASON, format_args!("{what}"));
        }
    }

    fn check_marked(&self, id: &str, kept: &TransactionValue) {
        let marks = self.marks.get(&order(writer_of(kept)));
        for (topic, partition) in kept.partitions.iter() {
            let is_marked = marks.is_some_and(|marks| marks.contains(&(topic.to_owned(), partition)));
            if !is_marked {
                let what = format!("{id} {:?}: {topic}-{partition} has none", writer_of(kept));
                self.world.finding(check::ALL_MARKED, format_args!("{what}"));
            }
        }
    }

    pub fn ended(&mut self, write: WriteKey, end: WriteEnd) {
        for id in self.ids.values_mut() {
            let Some(at) = id.open.iter().position(|(open, _)| *open == write) else { continue };
            match end {
                WriteEnd::Kept => {
                    let (_, value) = id.open.remove(at);
                    if value.is_none() {
                        self.world.count("id expired");
                    }
                    id.kept = value;
                }
                WriteEnd::Refused => {
                    id.open.remove(at);
                }
                // The next start tells.
                WriteEnd::Unsure => {}
            }
            return;
        }
    }

    pub fn check_added(&self, id: &str, addition: &Addition) {
        let kept = self.ids.get(id).and_then(|id| id.kept.as_ref());
        let is_in = kept.is_some_and(|kept| {
            kept.state == TransactionState::Ongoing
                && writer_of(kept) == addition.writer
                && kept.partitions.contains_all(&addition.partitions)
        });
        if !is_in {
            let what = format!("{addition:?} is said to be in {kept:?}");
            self.world.finding(check::TOLD, format_args!("{what}"));
        }
    }

    // --- What the coordinator says

    fn of_coordinator(&self, index: usize) -> impl Iterator<Item = (&String, &IdWatch)> {
        let count = self.settings.coordinators;
        self.ids.iter().filter(move |(id, _)| java_hash::partition_of(id, count) == index)
    }

    pub fn look(&self, index: usize, coordinator: &Coordinator) {
        for (id, watch) in self.of_coordinator(index) {
            let described = coordinator.describe(id);
            let listed = coordinator.listed(id);
            let is_listed_so = match (&watch.kept, listed) {
                (None, None) => true,
                (Some(kept), Some(listed)) => {
                    (listed.producer, listed.state, listed.start) == (kept.producer, kept.state, kept.start)
                }
                _ => false,
            };
            if described != watch.kept.as_ref() || !is_listed_so {
                let what = format!("{id} is described as {described:?}, and kept as {:?}", watch.kept);
                self.world.finding(check::TOLD, format_args!("{what}"));
            }
        }
    }

    /// A run begins: what the coordinator has read has to be what was kept, or on its way. From then on it is
    /// what is kept.
    pub fn restarted(
        &mut self,
        index: usize,
        coordinator: &Coordinator,
        latest: &BTreeMap<Vec<u8>, TransactionRecord>,
    ) {
        let said: BTreeMap<&str, &TransactionRecord> =
            latest.values().map(|record| (record.transactional_id.as_str(), record)).collect();
        let known = coordinator.ids_after(None, usize::MAX);
        let is_same = known.iter().map(String::as_str).eq(said.keys().copied());
        let differs = said.iter().find(|(id, record)| coordinator.describe(id) != record.value.as_ref());
        if !is_same || differs.is_some() {
            let what = format!("{known:?} of {:?}: {differs:?} is different", said.keys());
            self.world.finding(check::REPLAYED, format_args!("{what}"));
        }
        let count = self.settings.coordinators;
        for id in &known {
            self.ids.entry(id.clone()).or_default();
        }
        for (id, watch) in &mut self.ids {
            if java_hash::partition_of(id, count) != index {
                continue;
            }
            let found = coordinator.describe(id);
            let is_expected =
                found == watch.kept.as_ref() || watch.open.iter().any(|(_, value)| found == value.as_ref());
            if !is_expected {
                let what = format!("{id} is {found:?}, and was {:?}", watch.kept);
                self.world.finding(check::KEPT, format_args!("{what}"));
            }
            if !watch.open.is_empty() {
                self.world.count(match found == watch.kept.as_ref() {
                    true => "restart: unflushed records lost",
                    false => "restart: unflushed records there",
                });
            }
            match found.map(|value| value.state) {
                Some(TransactionState::Ongoing) => self.world.count("restart: a transaction is open"),
                Some(TransactionState::PrepareCommit) => self.world.count("restart: a commit is decided"),
                Some(TransactionState::PrepareAbort) => self.world.count("restart: an abort is decided"),
                _ => {}
            }
            watch.kept = found.cloned();
            watch.open.clear();
        }
    }

    // --- Partitions

    /// The coordinator has this partition in the transaction that the writer has open, or that is ending.
    pub fn is_known(&self, writer: Writer, topic: &str, partition: i32) -> bool {
        let Some(id) = self.producers.get(&writer.producer.0).and_then(|id| self.ids.get(id)) else {
            return false;
        };
        let Some(kept) = &id.kept else { return false };
        let is_of_it = match kept.state {
            TransactionState::Ongoing => kept.epoch == writer.epoch,
            // Raised, where the end has an epoch of its own.
            TransactionState::PrepareCommit | TransactionState::PrepareAbort => {
                let raised = writer.epoch.0.saturating_add(1);
                kept.epoch == writer.epoch || kept.epoch.0 == raised
            }
            _ => false,
        };
        kept.producer == writer.producer && is_of_it && kept.partitions.contains(topic, partition)
    }

    /// What a marker says was decided, and is to be written.
    pub fn has_decided(&self, marker: &EndMarker) -> bool {
        let Some(id) = self.producers.get(&marker.producer.0).and_then(|id| self.ids.get(id)) else {
            return false;
        };
        id.kept.as_ref().is_some_and(|kept| {
            let state = match marker.outcome {
                TransactionOutcome::Commit => TransactionState::PrepareCommit,
                TransactionOutcome::Abort => TransactionState::PrepareAbort,
            };
            (kept.producer, kept.epoch, kept.state) == (marker.producer, marker.producer_epoch, state)
        })
    }

    pub fn marked(&mut self, marker: &EndMarker, topic: &str, partition: i32) {
        let order = (marker.producer.0, marker.producer_epoch.0);
        self.marks.entry(order).or_default().insert((topic.to_owned(), partition));
    }
}
