//! Scripts of requests, writes and markers, case by case. The cluster that carries them out is at the bottom:
//! a log, partitions that take markers as those of `log::producers` do, and a coordinator that can be started
//! again from any record.

mod crashes;
mod ending;
mod fencing;
mod keeping;

use super::coordinator::Coordinator;
use super::transaction::{Addition, End, Init};
use super::{Answer, Effect, Marking, Settings, Ticket, WriteId, Writer};
use crate::codec::control_record::{EndMarker, TransactionOutcome};
use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::{TransactionRecord, TransactionState, TransactionValue};
use crate::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, Timestamp, TransactionVersion};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const V1: TransactionVersion = TransactionVersion::V1;
const V2: TransactionVersion = TransactionVersion::V2;
const COMMIT: TransactionOutcome = TransactionOutcome::Commit;
const ABORT: TransactionOutcome = TransactionOutcome::Abort;
const TIMEOUT_MS: i32 = 60_000;
const SETTINGS: Settings =
    Settings { timeout_max: Duration::from_secs(900), id_expiration: Duration::from_secs(7 * 86_400) };

const fn writer(producer: i64, epoch: i16) -> Writer {
    Writer { producer: ProducerId(producer), epoch: ProducerEpoch(epoch) }
}

type Told = Result<Writer, ErrorCode>;

/// A coordinator with everything around it.
struct Cluster {
    coordinator: Coordinator,
    now: Timestamp,
    log: Vec<TransactionRecord>,
    /// Written, and not yet said to be.
    writes: VecDeque<WriteId>,
    markings: VecDeque<Marking>,
    answers: BTreeMap<Ticket, Answer>,
    next_ticket: u64,
    next_producer: i64,
    /// In the order in which they were written, with the partition.
    markers: Vec<(String, EndMarker)>,
    /// What a write ends with.
    write_result: Result<(), ErrorCode>,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster {
            coordinator: Coordinator::new(SETTINGS, CoordinatorEpoch(0)),
            now: Timestamp(1_000_000),
            log: Vec::new(),
            writes: VecDeque::new(),
            markings: VecDeque::new(),
            answers: BTreeMap::new(),
            next_ticket: 0,
            next_producer: 100,
            markers: Vec::new(),
            write_result: Ok(()),
        }
    }

    /// One whose id was given out up to some epoch.
    fn with_epoch(epoch: i16) -> Cluster {
        let mut cluster = Cluster::new();
        cluster.init().unwrap();
        let value = TransactionValue { epoch: ProducerEpoch(epoch), ..cluster.value() };
        cluster.log.push(TransactionRecord { transactional_id: "id".to_owned(), value: Some(value) });
        cluster.restart();
        cluster
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Decides, and takes what is to be carried out.
    fn decide<T>(&mut self, decide: impl FnOnce(&mut Coordinator, Timestamp, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let decided = decide(&mut self.coordinator, self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => {
                    assert_eq!(self.answers.insert(ticket, answer), None, "answered twice");
                }
                Effect::Write(write) => self.writes.push_back(write),
                Effect::Mark(marking) => self.markings.push_back(marking),
            }
        }
        self.coordinator.check();
        decided
    }

    // --- Requests, each sent and not waited for

    fn send_init(&mut self, init: Init) -> Ticket {
        let ticket = self.ticket();
        let mut next = self.next_producer;
        self.decide(|coordinator, now, effects| {
            let mut fresh = || {
                next += 1;
                Some(ProducerId(next - 1))
            };
            coordinator.init("id", &init, ticket, now, &mut fresh, effects);
        });
        self.next_producer = next;
        ticket
    }

    fn send_add(
        &mut self,
        version: TransactionVersion,
        writer: Writer,
        partitions: &[(&str, i32)],
    ) -> Ticket {
        let ticket = self.ticket();
        let addition = Addition { writer, version, partitions: partitions.iter().copied().collect() };
        self.decide(|coordinator, now, effects| coordinator.add("id", addition, ticket, now, effects));
        ticket
    }

    fn send_end(
        &mut self,
        version: TransactionVersion,
        writer: Writer,
        outcome: TransactionOutcome,
    ) -> Ticket {
        let ticket = self.ticket();
        let mut next = self.next_producer;
        self.decide(|coordinator, now, effects| {
            let mut fresh = || {
                next += 1;
                Some(ProducerId(next - 1))
            };
            coordinator.end("id", &End { writer, version, outcome }, ticket, now, &mut fresh, effects);
        });
        self.next_producer = next;
        ticket
    }

    // --- The same with everything that follows

    fn init(&mut self) -> Told {
        self.init_as(None)
    }

    fn init_as(&mut self, expected: Option<Writer>) -> Told {
        let ticket = self.send_init(Init { timeout_ms: TIMEOUT_MS, expected });
        self.settle();
        self.told(ticket)
    }

    fn add(&mut self, version: TransactionVersion, writer: Writer, partition: i32) -> Result<(), ErrorCode> {
        let ticket = self.send_add(version, writer, &[("t", partition)]);
        self.settle();
        self.added(ticket)
    }

    fn end(&mut self, version: TransactionVersion, writer: Writer, outcome: TransactionOutcome) -> Told {
        let ticket = self.send_end(version, writer, outcome);
        self.settle();
        self.told(ticket)
    }

    fn told(&self, ticket: Ticket) -> Told {
        match self.answers.get(&ticket) {
            Some(Answer::Writer(told)) => *told,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    fn added(&self, ticket: Ticket) -> Result<(), ErrorCode> {
        match self.answers.get(&ticket) {
            Some(Answer::Added(added)) => *added,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    // --- What the shell does

    /// Ends the next write. `false`: there is none.
    fn write_one(&mut self) -> bool {
        let Some(write) = self.writes.pop_front() else { return false };
        let record = self.coordinator.record(write).expect("it is on its way").clone();
        let result = self.write_result;
        if result.is_ok() {
            self.log.push(record);
        }
        self.decide(|coordinator, now, effects| coordinator.finished(write, result, now, effects));
        true
    }

    /// Writes the markers of the next transaction that is decided, and says so.
    fn mark_one(&mut self) -> bool {
        let Some(marking) = self.markings.pop_front() else { return false };
        for (topic, partition) in marking.partitions.iter() {
            self.markers.push((format!("{topic}-{partition}"), marking.marker));
        }
        self.decide(|coordinator, now, effects| {
            coordinator.marked(&marking.transactional_id, marking.id, now, effects);
        });
        true
    }

    fn settle(&mut self) {
        while self.write_one() || self.mark_one() {}
    }

    /// Writes the next marker of a transaction that is decided, if it has one left. Returns its partition of `t`.
    /// Once there is none left, the coordinator hears of it.
    fn mark_next(&mut self, marking: usize, is_heard: bool) -> Option<(usize, EndMarker)> {
        let found = self.markings.get_mut(marking)?;
        let next = found.partitions.iter().next().map(|(_, partition)| partition);
        if let Some(partition) = next.filter(|_| is_heard) {
            found.partitions.remove("t", partition);
        }
        let marker = found.marker;
        if found.partitions.is_empty() {
            let marking = self.markings.remove(marking).expect("it was just there");
            self.decide(|coordinator, now, effects| {
                coordinator.marked(&marking.transactional_id, marking.id, now, effects);
            });
        }
        next.map(|partition| (partition as usize, marker))
    }

    /// Another coordinator loads the log.
    fn restart(&mut self) {
        self.read_again();
        self.load();
    }

    /// What was decided is not looked for yet.
    fn read_again(&mut self) {
        self.coordinator = Coordinator::new(SETTINGS, CoordinatorEpoch(0));
        self.writes.clear();
        self.markings.clear();
        for record in self.log.clone() {
            self.coordinator.apply(record);
        }
    }

    fn load(&mut self) {
        for id in self.coordinator.ids_after(None, usize::MAX) {
            self.decide(|coordinator, _, effects| coordinator.loaded(&id, effects));
        }
    }

    fn value(&self) -> TransactionValue {
        self.coordinator.describe("id").expect("it is known").clone()
    }

    fn state(&self) -> TransactionState {
        self.value().state
    }

    fn pass(&mut self, time: Duration) {
        self.now = Timestamp(self.now.0 + time.as_millis() as i64);
        for id in self.coordinator.ids_after(None, usize::MAX) {
            self.decide(|coordinator, now, effects| {
                if !coordinator.abort_timed_out(&id, now, effects) {
                    coordinator.expire(&id, now, effects);
                }
            });
        }
    }

    /// The epochs of the markers that a partition of `t` has got, and how.
    fn markers_of(&self, partition: i32) -> Vec<(i64, i16, TransactionOutcome)> {
        let name = format!("t-{partition}");
        let of_it = self.markers.iter().filter(|(partition, _)| *partition == name);
        of_it.map(|(_, marker)| (marker.producer.0, marker.producer_epoch.0, marker.outcome)).collect()
    }
}
