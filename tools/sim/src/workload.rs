//! Who uses the broker: producers, consumers, and whatever else moves a log.

use crate::metadata::TopicKind;
use crate::model::Model;
use crate::node::Node;
use crate::settings::Settings;
use crate::shell::background;
use crate::shell::compaction;
use crate::shell::replica::{AckTarget, AppendRefused, Appended, Outcome, Replica};
use crate::shell::{Shell, reading::ReadFailed};
use crate::world::{Signal, World};
use odradek::codec::control_record::{EndMarker, TransactionOutcome};
use odradek::codec::record_batch::{BatchHeader, BatchView, Compression, write_batch};
use odradek::codec::records::{NewRecord, write_record};
use odradek::log::partition::AppendRejected;
use odradek::log::producers::SequenceError;
use odradek::log::producers::verification::VerificationNeed;
use odradek::types::{
    CoordinatorEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicPartition,
    TransactionVersion,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

/// Batches of one producer on their way; what a broker remembers of each is five.
const IN_FLIGHT_MAX: usize = 5;

/// A batch that was sent, or is to be sent again.
#[derive(Clone, Debug)]
struct Sent {
    value: u64,
    batch: Vec<u8>,
}

/// Lives: one per producer and partition; an idempotent one sends again after a crash what was not
/// acknowledged.
pub struct Producer {
    pub partition: TopicPartition,
    kind: TopicKind,
    id: Cell<Option<ProducerId>>,
    next_sequence: Cell<i32>,
    unacknowledged: RefCell<VecDeque<Sent>>,
    /// How many of them, from the front, are on their way.
    in_flight: Cell<usize>,
    answered: Signal,
    /// Something was refused: once everything is answered, it begins again with the oldest.
    again: Cell<bool>,
    /// What it has written may be gone: it writes no more.
    has_left: Cell<bool>,
}

/// Hands out values that no other batch of the seed has.
#[derive(Default)]
pub struct Values(Cell<u64>);

impl Values {
    fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }
}

impl Producer {
    pub fn new(partition: TopicPartition, kind: TopicKind, id: Option<ProducerId>) -> Rc<Producer> {
        Rc::new(Producer {
            partition,
            kind,
            id: Cell::new(id),
            next_sequence: Cell::new(0),
            unacknowledged: RefCell::default(),
            in_flight: Cell::new(0),
            answered: Signal::default(),
            again: Cell::new(false),
            has_left: Cell::new(false),
        })
    }

    /// It writes no more. Always `false`: it does not stay.
    pub fn leave(&self) -> bool {
        self.has_left.set(true);
        false
    }

    /// The broker went away.
    pub fn disconnected(&self) {
        self.in_flight.set(0);
        self.again.set(false);
        if self.id.get().is_none() {
            self.unacknowledged.borrow_mut().clear();
        }
    }

    pub fn waits(&self) -> bool {
        self.in_flight.get() > 0
    }

    fn make(&self, world: &World, settings: &Settings, values: &Values) -> Sent {
        let value = values.next();
        let record_count = world.between(1, 4) as u32;
        let size = if world.one_in(20) { settings.payload_max * 4 } else { settings.payload_max };
        let size = size.min(settings.segment_size_max - 200); // It has to fit into a segment.
        let size = world.below(size) as usize;
        let payload = payload_of(world, &self.kind, value, record_count, size);
        let sequence = self.next_sequence.get();
        let now = Timestamp(world.wall_ms());
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count,
            base_timestamp: now,
            max_timestamp: now,
            producer: self.id.get().map(|id| (id, ProducerEpoch(0), Sequence(sequence))),
        };
        self.next_sequence.set(sequence + record_count as i32);
        let mut batch = Vec::new();
        write_batch(&header, &payload, &mut batch);
        Sent { value, batch }
    }

    /// After a loss that the broker was allowed: with another id, from the first sequence on.
    fn begin_anew(&self) {
        self.id.set(self.id.get().map(|id| ProducerId(id.0 + 1_000_000)));
        self.next_sequence.set(0);
        self.unacknowledged.borrow_mut().clear();
    }

    pub async fn run(self: Rc<Self>, node: Rc<Node>) {
        let Some((shell, _)) = node.find(&self.partition) else { return };
        let world = shell.world.clone();
        loop {
            world.sleep(world.below(node.pause) + 1).await;
            while self.in_flight.get() >= IN_FLIGHT_MAX || (self.again.get() && self.in_flight.get() > 0) {
                self.answered.notified().await;
            }
            self.again.set(false);
            while shell.is_full() && !shell.is_offline() {
                shell.drained.notified().await;
            }
            if shell.is_offline() || self.has_left.get() {
                return;
            }
            if self.in_flight.get() == self.unacknowledged.borrow().len() {
                let sent = self.make(&world, &shell.settings, &node.users.values);
                self.unacknowledged.borrow_mut().push_back(sent);
            }
            let sent = self.unacknowledged.borrow()[self.in_flight.get()].clone();
            if !self.send(&shell, sent).await {
                return;
            }
        }
    }

    /// Whether to go on.
    async fn send(self: &Rc<Self>, shell: &Rc<Shell>, sent: Sent) -> bool {
        let world = shell.world.clone();
        self.in_flight.set(self.in_flight.get() + 1);
        loop {
            world.count("operations");
            let Some(replica) = shell.find(&self.partition).filter(|_| !self.has_left.get()) else {
                return false;
            };
            let target = self.target(shell, sent.value);
            let mut batch = sent.batch.clone();
            match replica.append(shell, &mut batch, &target) {
                Ok(Appended::Parked) => {
                    world.count("append");
                    shell.pump();
                    return true;
                }
                Ok(Appended::Wait) => replica.ready.notified().await,
                Err(refused) => return self.refused(shell, refused),
            }
        }
    }

    fn refused(&self, shell: &Shell, refused: AppendRefused) -> bool {
        self.in_flight.set(self.in_flight.get() - 1);
        self.again.set(true);
        let world = &shell.world;
        match refused {
            AppendRefused::Offline => {
                world.count("append: refused, log directory offline");
                return false;
            }
            AppendRefused::NoSpace => world.count("append: refused for want of space"),
            AppendRefused::Rejected(AppendRejected::Sequence(error)) => {
                let model = shell.model.borrow();
                let Some(partition) = model.partitions.get(&self.partition) else { return false };
                if !partition.may_not_know_producers() {
                    world.finding("sequences go on", format_args!("{}: {error}", partition.name));
                }
                if self.in_flight.get() == 0 {
                    world.count("producer begun anew after a loss");
                    self.begin_anew();
                    return true;
                }
                return false;
            }
            AppendRefused::Rejected(rejected) => {
                world.finding("batches that fit are taken", format_args!("{:?}: {rejected}", self.partition));
                return false;
            }
        }
        true
    }

    fn target(self: &Rc<Self>, shell: &Rc<Shell>, value: u64) -> AckTarget {
        // Not the shell: its replicas hold this until it is called.
        let (producer, world, model) = (self.clone(), shell.world.clone(), shell.model.clone());
        Rc::new(move |outcome| producer.outcome(&world, &model, value, outcome))
    }

    fn outcome(&self, world: &Rc<World>, model: &Rc<RefCell<Model>>, value: u64, outcome: Outcome) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        match outcome {
            Outcome::Acknowledged { base_offset } => {
                model.borrow_mut().acknowledged(world, &self.partition, value, base_offset);
                self.unacknowledged.borrow_mut().retain(|sent| sent.value != value);
            }
            Outcome::Refused => self.again.set(true),
        }
        self.answered.notify();
    }
}

/// A producer that writes in transactions, and their coordinator: what it has decided it does not forget, and
/// has it written until it is.
///
/// Lives: one per partition, over all runs of the broker.
pub struct Transactor {
    pub partition: TopicPartition,
    kind: TopicKind,
    version: TransactionVersion,
    id: Cell<ProducerId>,
    epoch: Cell<i16>,
    next_sequence: Cell<i32>,
    /// Batches may have been appended that no marker has ended.
    is_open: Cell<bool>,
    /// How the open transaction ends, and the epoch of its marker.
    decided: Cell<Option<(TransactionOutcome, i16)>>,
    coordinator_epoch: Cell<i32>,
    has_left: Cell<bool>,
}

impl Transactor {
    pub fn new(partition: TopicPartition, kind: TopicKind, id: ProducerId) -> Rc<Transactor> {
        let version = if id.0 % 3 == 0 { TransactionVersion::V2 } else { TransactionVersion::V1 };
        Rc::new(Transactor {
            partition,
            kind,
            version,
            id: Cell::new(id),
            epoch: Cell::new(0),
            next_sequence: Cell::new(0),
            is_open: Cell::new(false),
            decided: Cell::new(None),
            coordinator_epoch: Cell::new(0),
            has_left: Cell::new(false),
        })
    }

    /// It writes no more. Always `false`: it does not stay.
    pub fn leave(&self) -> bool {
        self.has_left.set(true);
        false
    }

    pub async fn run(self: Rc<Self>, node: Rc<Node>) {
        let Some((shell, _)) = node.find(&self.partition) else { return };
        let world = shell.world.clone();
        // What was open when the broker went away: nobody knows what got through, so it ends with an epoch
        // in which nothing of it can come any more. A new coordinator sees to that.
        if self.is_open.get() && self.decided.get().is_none() {
            world.count("transaction: aborted after a crash");
            self.decided.set(Some((TransactionOutcome::Abort, self.epoch.get() + 1)));
            self.coordinator_epoch.set(self.coordinator_epoch.get() + 1);
        }
        loop {
            world.sleep(world.below(node.pause) + 1).await;
            while shell.is_full() && !shell.is_offline() {
                shell.drained.notified().await;
            }
            if shell.is_offline() || shell.is_closed() || self.has_left.get() {
                return;
            }
            let goes_on = match self.decided.get() {
                Some((outcome, epoch)) => self.end(&shell, outcome, epoch).await,
                None if self.is_open.get() && world.one_in(3) => {
                    let outcome =
                        if world.one_in(2) { TransactionOutcome::Commit } else { TransactionOutcome::Abort };
                    let raise = i16::from(self.version == TransactionVersion::V2);
                    self.decided.set(Some((outcome, self.epoch.get() + raise)));
                    true
                }
                None => self.write(&shell, &node).await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Writes one batch of a transaction, and waits until it is acknowledged.
    async fn write(self: &Rc<Self>, shell: &Rc<Shell>, node: &Node) -> bool {
        let (world, settings) = (&shell.world, &shell.settings);
        let value = node.users.values.next();
        let record_count = world.between(1, 4) as u32;
        let payload =
            payload_of(world, &self.kind, value, record_count, world.below(settings.payload_max) as usize);
        let now = Timestamp(world.wall_ms());
        let sequence = Sequence(self.next_sequence.get());
        let header = BatchHeader {
            compression: Compression::None,
            transactional: true,
            record_count,
            base_timestamp: now,
            max_timestamp: now,
            producer: Some((self.id.get(), ProducerEpoch(self.epoch.get()), sequence)),
        };
        let mut batch = Vec::new();
        write_batch(&header, &payload, &mut batch);
        loop {
            world.count("operations");
            let Some(replica) = shell.find(&self.partition).filter(|_| !self.has_left.get()) else {
                return false;
            };
            if let Err(error) = self.verify(&replica, &batch, shell) {
                return self.rejected(shell, &AppendRejected::Sequence(error));
            }
            let (outcome, target) = Answer::new();
            match replica.append(shell, &mut batch.clone(), &target) {
                Ok(Appended::Parked) => {
                    world.count("transaction: batch");
                    self.is_open.set(true);
                    self.next_sequence.set(sequence.0 + record_count as i32);
                    shell.pump();
                    let outcome = outcome.wait().await;
                    if self.has_left.get() {
                        return false;
                    }
                    if let Outcome::Acknowledged { base_offset } = outcome {
                        shell.model.borrow_mut().acknowledged(world, &self.partition, value, base_offset);
                        return true;
                    }
                    return false; // The log directory has failed.
                }
                Ok(Appended::Wait) => replica.ready.notified().await,
                Err(AppendRefused::NoSpace) => return true,
                Err(AppendRefused::Offline) => return false,
                Err(AppendRefused::Rejected(rejected)) => return self.rejected(shell, &rejected),
            }
        }
    }

    /// The coordinator says that the partition is part of the transaction.
    fn verify(&self, replica: &Replica, batch: &[u8], shell: &Shell) -> Result<(), SequenceError> {
        let (view, _) = BatchView::split_first(batch).expect("it was just made");
        let producer = view.producer().expect("it has one");
        let mut log = replica.log.borrow_mut();
        let now = Timestamp(shell.world.wall_ms());
        if let VerificationNeed::Ask(guard) =
            log.producers.begin_verification(&producer, self.version, now)?
        {
            assert!(log.producers.verified(producer.id, guard), "nothing came between");
        }
        Ok(())
    }

    /// Has the marker written.
    async fn end(&self, shell: &Rc<Shell>, outcome: TransactionOutcome, epoch: i16) -> bool {
        let world = &shell.world;
        let marker = EndMarker {
            producer: self.id.get(),
            producer_epoch: ProducerEpoch(epoch),
            coordinator_epoch: CoordinatorEpoch(self.coordinator_epoch.get()),
            outcome,
        };
        loop {
            world.count("operations");
            let Some(replica) = shell.find(&self.partition).filter(|_| !self.has_left.get()) else {
                return false;
            };
            let (answer, target) = Answer::new();
            match replica.append_marker(shell, &marker, self.version, &target) {
                Ok(Appended::Parked) => {
                    world.count(match outcome {
                        TransactionOutcome::Commit => "transaction: commit marker",
                        TransactionOutcome::Abort => "transaction: abort marker",
                    });
                    shell.pump();
                    if let Outcome::Acknowledged { .. } = answer.wait().await {
                        if epoch != self.epoch.get() {
                            self.next_sequence.set(0);
                        }
                        self.epoch.set(epoch);
                        self.is_open.set(false);
                        self.decided.set(None);
                        return true;
                    }
                    return false; // It is sent again after the next start.
                }
                Ok(Appended::Wait) => replica.ready.notified().await,
                Err(AppendRefused::NoSpace) => return true,
                Err(AppendRefused::Offline) => return false,
                Err(AppendRefused::Rejected(rejected)) => return self.rejected(shell, &rejected),
            }
        }
    }

    fn rejected(&self, shell: &Shell, rejected: &AppendRejected) -> bool {
        let world = &shell.world;
        let model = shell.model.borrow();
        let Some(partition) = model.partitions.get(&self.partition) else { return false };
        if !partition.may_not_know_producers() {
            world.finding("transactions go on", format_args!("{}: {rejected}", partition.name));
            return false;
        }
        drop(model);
        self.begin_anew(shell)
    }

    /// After a loss that the broker was allowed. What the one before has left open is ended by nobody.
    fn begin_anew(&self, shell: &Shell) -> bool {
        shell.world.count("producer begun anew after a loss");
        self.id.set(ProducerId(self.id.get().0 + 3_000_000));
        self.epoch.set(0);
        self.next_sequence.set(0);
        self.is_open.set(false);
        self.decided.set(None);
        true
    }
}

/// An answer that one task waits for.
#[derive(Default)]
struct Answer {
    outcome: Cell<Option<Outcome>>,
    came: Signal,
}

impl Answer {
    fn new() -> (Rc<Answer>, AckTarget) {
        let answer = Rc::new(Answer::default());
        let told = answer.clone();
        let target: AckTarget = Rc::new(move |outcome| {
            told.outcome.set(Some(outcome));
            told.came.notify();
        });
        (answer, target)
    }

    async fn wait(&self) -> Outcome {
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome;
            }
            self.came.notified().await;
        }
    }
}

fn payload_of(world: &World, kind: &TopicKind, value: u64, record_count: u32, size: usize) -> Vec<u8> {
    if kind.compacts {
        return keyed(world, value, record_count, size);
    }
    let mut payload = value.to_be_bytes().to_vec();
    payload.resize(8 + size, value as u8);
    payload
}

/// Records with a few keys, the value of each its own.
fn keyed(world: &World, value: u64, record_count: u32, size: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for at in 0..record_count {
        let key = [world.below(12) as u8];
        let mut bytes = value.to_be_bytes().to_vec();
        bytes.push(at as u8);
        bytes.resize(bytes.len() + size / record_count as usize, value as u8);
        let is_tombstone = at > 0 && world.one_in(8); // The first one has the batch's value.
        let record = NewRecord {
            offset_delta: at as i32,
            key: Some(&key),
            value: (!is_tombstone).then_some(&bytes),
            ..NewRecord::default()
        };
        write_record(&record, &mut payload);
    }
    payload
}

/// Reads from anywhere, mostly a few batches in a row.
pub async fn consume(node: Rc<Node>) {
    let world = node.around.world.clone();
    loop {
        world.sleep(world.below(20_000) + 1).await;
        let replicas = node.all_replicas();
        if replicas.is_empty() {
            return;
        }
        let (shell, replica) = &replicas[world.below(replicas.len() as u64) as usize];
        let (start, end) = {
            let log = replica.log.borrow();
            (log.log_start().get(), log.high_watermark().get())
        };
        let mut at = start + world.below(end - start + 1);
        let is_committed = world.one_in(2);
        for _ in 0..world.between(1, 4) {
            world.count("operations");
            world.count("read");
            let offset = Offset::new(at).expect("below the high watermark");
            if is_committed {
                let read = replica.read_committed(shell, offset).await;
                if replica.is_deleted() {
                    break;
                }
                match read {
                    Ok(read) => {
                        let mut model = shell.model.borrow_mut();
                        let next = model.read(&world, &replica.id, at, &read.bytes, &mut BTreeSet::new());
                        model.read_committed(&world, &replica.id, at, &read);
                        if next == at {
                            break;
                        }
                        at = next;
                    }
                    Err(error) => {
                        failed_read(shell, &replica.id, at, error);
                        break;
                    }
                }
                continue;
            }
            let read = replica.read(shell, offset).await;
            if replica.is_deleted() {
                break;
            }
            match read {
                Ok(bytes) => {
                    let mut model = shell.model.borrow_mut();
                    let next = model.read(&world, &replica.id, at, &bytes, &mut BTreeSet::new());
                    drop(model);
                    if next == at {
                        break;
                    }
                    at = next;
                }
                Err(error) => {
                    failed_read(shell, &replica.id, at, error);
                    break;
                }
            }
        }
    }
}

/// Holds a read that failed against what may have made it fail.
pub fn failed_read(shell: &Shell, id: &TopicPartition, at: u64, error: ReadFailed) {
    let world = &shell.world;
    let model = shell.model.borrow();
    let Some(partition) = model.partitions.get(id) else { return };
    match error {
        // Retention may have been faster.
        ReadFailed::OutOfRange => world.count("read: out of range"),
        ReadFailed::Disk(crate::disk::DiskError::Io(_)) => world.count("read: EIO"),
        ReadFailed::Disk(_) | ReadFailed::Damaged { .. } if partition.damaged.segment => {
            world.count("read: damage noticed");
        }
        ReadFailed::Disk(_) | ReadFailed::Damaged { .. } => {
            world
                .finding("acknowledged records are read", format_args!("{} {at}: {error:?}", partition.name));
        }
    }
}

/// Checkpoints, retention, deletions, compaction, memory.
pub async fn tend(node: Rc<Node>) {
    let world = node.around.world.clone();
    loop {
        world.sleep(world.between(1_000, 60_000)).await;
        if node.is_offline() || node.is_closed() {
            return;
        }
        let replicas = node.all_replicas();
        if replicas.is_empty() {
            return;
        }
        let (shell, replica) = replicas[world.below(replicas.len() as u64) as usize].clone();
        world.count("operations");
        match world.below(53) {
            0..13 => match background::write_checkpoint(&shell).await {
                Ok(()) => {}
                Err(_) => world.count("checkpoint: failed"),
            },
            13..22 => {
                let _turn = node.cutting.take().await;
                for (shell, replica) in &replicas {
                    background::retain(shell, replica).await;
                }
            }
            22..27 => {
                let _turn = node.cutting.take().await;
                let (start, end) = {
                    let log = replica.log.borrow();
                    (log.log_start().get(), log.high_watermark().get())
                };
                let to = Offset::new(start + world.below(end - start + 1)).expect("below the high watermark");
                background::delete_records(&shell, &replica, to).await;
            }
            27..37 => replicas.iter().for_each(|(_, replica)| replica.evict()),
            37..40 => {
                shell.set_memory_short(world.one_in(2));
                shell.pump();
            }
            40..49 => {
                for shell in &node.shells {
                    compaction::clean_all(shell).await;
                }
            }
            49..52 => node.cut(&shell, &replica).await,
            _ => {
                let _turn = node.cutting.take().await;
                node.recreate(&replica.id).await;
            }
        }
    }
}
