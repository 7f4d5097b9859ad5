//! Offsets that are committed in transactions. The log is kept here with what each batch is part of, and read
//! again after every step.

use super::*;
use crate::codec::control_record::TransactionOutcome;
use crate::group::coordinator::TransactionWriter;
use crate::types::{ProducerEpoch, ProducerId};

const COMMIT: TransactionOutcome = TransactionOutcome::Commit;
const ABORT: TransactionOutcome = TransactionOutcome::Abort;
const HOUR: u64 = 3600;

#[derive(Clone, Debug)]
enum Logged {
    Plain(GroupRecord),
    InTransaction(ProducerId, GroupRecord),
    Marker(ProducerId, TransactionOutcome),
}

/// A coordinator and its log.
struct Ledger {
    room: Room,
    log: Vec<Logged>,
}

const fn writer(producer: i64) -> TransactionWriter {
    (ProducerId(producer), ProducerEpoch(0))
}

impl Ledger {
    fn new() -> Ledger {
        Ledger::of(Room::new())
    }

    fn of(mut room: Room) -> Ledger {
        room.holds_writes = true;
        let log = room.log.iter().cloned().map(Logged::Plain).collect();
        Ledger { room, log }
    }

    /// Commits the offset of a topic's partition 0.
    fn send(&mut self, producer: i64, request: OffsetCommitRequest) -> Ticket {
        let ticket = self.room.ticket();
        self.room.decide(|coordinator, now, effects| {
            coordinator.commit_in_transaction(writer(producer), request, ticket, now, effects);
        });
        ticket
    }

    fn commit_in_transaction(&mut self, producer: i64, topic: &str, offset: i64) {
        let ticket = self.send(producer, commit_request("", -1, topic, offset, ""));
        self.end_writes();
        assert_eq!(self.answer(ticket), ErrorCode::None);
    }

    fn answer(&mut self, ticket: Ticket) -> ErrorCode {
        error(self.room.committed(ticket).topics[0].partitions[0].error_code)
    }

    fn commit(&mut self, topic: &str, offset: i64) {
        let ticket = self.room.send_commit(8, commit_request("", -1, topic, offset, ""));
        self.end_writes();
        assert_eq!(self.answer(ticket), ErrorCode::None);
    }

    fn end_writes(&mut self) {
        while let Some(write) = self.room.writes.front().copied() {
            let producer = self.room.coordinator.writer(write).map(|(producer, _)| producer);
            for record in self.room.coordinator.records(write) {
                self.log.push(match producer {
                    Some(producer) => Logged::InTransaction(producer, record.clone()),
                    None => Logged::Plain(record.clone()),
                });
            }
            self.room.end_write(Ok(()));
        }
        self.check();
    }

    fn mark(&mut self, producer: i64, outcome: TransactionOutcome) {
        self.log.push(Logged::Marker(ProducerId(producer), outcome));
        self.room.decide(|coordinator, _, _| coordinator.transaction_ended(ProducerId(producer), outcome));
        self.check();
    }

    fn offset(&self, topic: &str) -> Option<i64> {
        self.room.offset(topic)
    }

    fn is_unstable(&self, topic: &str) -> bool {
        self.room.coordinator.is_unstable(GROUP, topic, 0)
    }

    fn replayed(&self) -> Coordinator {
        let mut coordinator = Coordinator::new(settings());
        for logged in &self.log {
            match logged {
                Logged::Plain(record) => coordinator.apply(record),
                Logged::InTransaction(producer, record) => {
                    coordinator.apply_in_transaction(*producer, record)
                }
                Logged::Marker(producer, outcome) => coordinator.transaction_ended(*producer, *outcome),
            }
        }
        for id in coordinator.ids_after(None, usize::MAX) {
            coordinator.loaded(&id, self.room.now, &mut Vec::new());
        }
        coordinator.check();
        coordinator
    }

    /// Whoever reads the log knows the same.
    fn check(&self) {
        let replayed = self.replayed();
        for topic in ["a", "b"] {
            let offset =
                |coordinator: &Coordinator| coordinator.offsets(GROUP)?.get(topic, 0).map(|at| at.offset);
            assert_eq!(offset(&replayed), self.offset(topic), "{topic}: {:?}", self.log);
            assert_eq!(replayed.is_unstable(GROUP, topic, 0), self.is_unstable(topic), "{topic}");
        }
    }
}

#[test]
fn offsets_count_when_their_transaction_is_committed() {
    let mut ledger = Ledger::new();
    ledger.commit("a", 1);
    ledger.commit_in_transaction(7, "a", 5);
    ledger.commit_in_transaction(7, "b", 6);
    assert_eq!((ledger.offset("a"), ledger.offset("b")), (Some(1), None));
    assert!(ledger.is_unstable("a") && ledger.is_unstable("b"));
    ledger.mark(8, COMMIT);
    assert!(ledger.is_unstable("a"), "it was another's");
    ledger.mark(7, COMMIT);
    assert_eq!((ledger.offset("a"), ledger.offset("b")), (Some(5), Some(6)));
    assert!(!ledger.is_unstable("a"));
    ledger.commit_in_transaction(7, "a", 9);
    ledger.mark(7, ABORT);
    assert_eq!(ledger.offset("a"), Some(5));
    assert!(!ledger.is_unstable("a"));
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), Some(5), "a marker once more changes nothing");
}

#[test]
fn what_is_on_its_way_is_unstable_already() {
    let mut ledger = Ledger::new();
    let ticket = ledger.send(7, commit_request("", -1, "a", 5, ""));
    assert!(ledger.is_unstable("a") && !ledger.is_unstable("b"));
    ledger.room.end_write(Err(ErrorCode::InvalidTxnState));
    assert_eq!(ledger.answer(ticket), ErrorCode::InvalidTxnState);
    assert!(!ledger.is_unstable("a"));
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), None);
}

/// Several may be, of one partition and of others.
#[test]
fn each_of_what_is_on_its_way_counts_until_it_ends() {
    let mut ledger = Ledger::new();
    for (producer, topic) in [(7, "a"), (8, "a"), (7, "b"), (8, "c")] {
        ledger.send(producer, commit_request("", -1, topic, 5, ""));
    }
    ledger.room.coordinator.check();
    let failed = Err(ErrorCode::InvalidTxnState);
    ledger.room.end_write(failed);
    assert!(ledger.is_unstable("a"), "the other producer's");
    ledger.room.end_write(failed);
    assert!(!ledger.is_unstable("a") && ledger.is_unstable("b") && ledger.is_unstable("c"));
    assert!(!ledger.room.coordinator.is_unstable("another", "b", 0));
    assert!(!ledger.room.coordinator.is_unstable(GROUP, "b", 1));
    ledger.room.end_write(failed);
    ledger.room.end_write(failed);
    assert!(!ledger.is_unstable("b") && !ledger.is_unstable("c"));
    ledger.room.coordinator.check();
}

#[test]
fn the_later_commit_counts_whenever_it_is_decided() {
    let mut ledger = Ledger::new();
    ledger.commit_in_transaction(7, "a", 5);
    ledger.commit("a", 8);
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), Some(8), "it was committed behind");
    ledger.commit_in_transaction(7, "a", 10);
    ledger.commit_in_transaction(8, "a", 20);
    ledger.mark(8, COMMIT);
    assert!(ledger.is_unstable("a"));
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), Some(20));
    ledger.commit_in_transaction(7, "a", 30);
    ledger.commit_in_transaction(8, "a", 40);
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), Some(30));
    ledger.mark(8, COMMIT);
    assert_eq!(ledger.offset("a"), Some(40));
    ledger.commit_in_transaction(7, "a", 50);
    ledger.commit_in_transaction(7, "a", 51);
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), Some(51), "the second of one transaction");
}

#[test]
fn a_deleted_group_is_not_brought_back_by_a_marker() {
    let mut ledger = Ledger::new();
    ledger.commit("a", 1);
    ledger.commit_in_transaction(7, "a", 5);
    ledger.commit_in_transaction(7, "b", 6);
    let ticket = ledger.room.delete_group();
    ledger.end_writes();
    assert_eq!(ledger.room.deleted(ticket), ErrorCode::None);
    assert_eq!(ledger.room.state(), "none");
    ledger.mark(7, COMMIT);
    assert_eq!((ledger.offset("a"), ledger.offset("b")), (None, None));
    assert_eq!(ledger.room.state(), "none");
}

#[test]
fn nothing_expires_that_a_transaction_may_commit() {
    let mut ledger = Ledger::new();
    ledger.commit("a", 1);
    ledger.commit("b", 1);
    ledger.commit_in_transaction(7, "a", 5);
    ledger.room.pass(2 * HOUR);
    ledger.room.expire_offsets();
    ledger.end_writes();
    assert_eq!((ledger.offset("a"), ledger.offset("b")), (Some(1), None));
    assert_eq!(ledger.room.state(), "Empty");
    ledger.mark(7, ABORT);
    ledger.room.expire_offsets();
    ledger.end_writes();
    assert_eq!(ledger.room.state(), "none");
    // A group that has never committed otherwise.
    ledger.commit_in_transaction(7, "a", 5);
    assert_eq!(ledger.room.state(), "Empty");
    ledger.room.pass(2 * HOUR);
    ledger.room.expire_offsets();
    assert!(ledger.room.writes.is_empty());
}

#[test]
fn offsets_of_a_topic_that_is_gone_stay_gone() {
    let mut ledger = Ledger::new();
    ledger.commit_in_transaction(7, "a", 5);
    ledger.commit_in_transaction(7, "b", 6);
    ledger.room.decide(|coordinator, now, effects| {
        coordinator.forget_topics(GROUP, |topic| topic == "a", now, effects);
    });
    ledger.end_writes();
    assert!(!ledger.is_unstable("a"));
    ledger.mark(7, COMMIT);
    assert_eq!((ledger.offset("a"), ledger.offset("b")), (None, Some(6)));
}

#[test]
fn members_commit_in_their_generation_and_others_without_one() {
    let (room, members) = Room::stable(1);
    let mut ledger = Ledger::of(room);
    let mut commit = |member: &str, generation, instance: Option<&str>| {
        let request = commit_request(member, generation, "a", 5, "");
        let ticket = ledger.send(7, request.with_group_instance_id(instance.map(text)));
        ledger.end_writes();
        ledger.answer(ticket)
    };
    assert_eq!(commit(&members[0], 1, None), ErrorCode::None);
    assert_eq!(commit(&members[0], 0, None), ErrorCode::IllegalGeneration);
    assert_eq!(commit("nobody", 1, None), ErrorCode::UnknownMemberId);
    assert_eq!(commit("", -1, Some("nobody")), ErrorCode::UnknownMemberId);
    assert_eq!(commit("", -1, None), ErrorCode::None, "a producer that does not say");
    let mut ledger = Ledger::new();
    let ticket = ledger.send(7, commit_request("nobody", 3, "a", 5, ""));
    assert_eq!(ledger.answer(ticket), ErrorCode::IllegalGeneration, "there is no such group");
    let ticket = ledger.send(7, commit_request("", -1, "a", 5, "longer than ten"));
    assert_eq!(ledger.answer(ticket), ErrorCode::OffsetMetadataTooLarge);
    let nameless = commit_request("", -1, "a", 5, "").with_group_id(GroupId::default());
    let ticket = ledger.send(7, nameless);
    assert_eq!(ledger.answer(ticket), ErrorCode::InvalidGroupId);
}

#[test]
fn a_commit_waits_while_its_group_is_taken_away() {
    let mut ledger = Ledger::new();
    ledger.commit("a", 1);
    let deleting = ledger.room.delete_group();
    let second = ledger.room.delete_group();
    let ticket = ledger.send(7, commit_request("", -1, "a", 5, ""));
    assert!(ledger.room.is_waiting(ticket));
    ledger.end_writes();
    assert_eq!(ledger.room.deleted(deleting), ErrorCode::None);
    assert_eq!(ledger.room.deleted(second), ErrorCode::GroupIdNotFound);
    assert_eq!(ledger.answer(ticket), ErrorCode::None);
    ledger.mark(7, COMMIT);
    assert_eq!(ledger.offset("a"), Some(5));
}

/// Commits the first so many partitions of a topic in one transaction.
fn commit_many(ledger: &mut Ledger, producer: i64, count: i32, offset: i64) {
    for from in (0..count).step_by(50) {
        let mut request = commit_request("", -1, "a", offset, "");
        let first = request.topics[0].partitions.remove(0);
        let partitions = (from..count.min(from + 50)).map(|index| first.clone().with_partition_index(index));
        request.topics[0].partitions = partitions.collect();
        let ticket = ledger.send(producer, request);
        ledger.end_writes();
        assert_eq!(ledger.answer(ticket), ErrorCode::None);
    }
}

fn many(ledger: &Ledger, count: i32) -> Vec<Option<i64>> {
    let offsets = ledger.room.coordinator.offsets(GROUP);
    (0..count).map(|index| Some(offsets?.get("a", index)?.offset)).collect()
}

#[test]
fn a_large_transaction_ends_in_steps() {
    let mut ledger = Ledger::new();
    commit_many(&mut ledger, 7, 250, 5);
    ledger.room.holds_work = true;
    ledger.room.decide(|coordinator, _, _| coordinator.transaction_ended(ProducerId(7), COMMIT));
    assert!(ledger.room.coordinator.has_work());
    assert!(ledger.is_unstable("a"), "who needs it stable comes again");
    // What the producer, and others, do next is part of no transaction that has ended.
    let request = |index, offset| {
        let mut request = commit_request("", -1, "a", offset, "");
        request.topics[0].partitions[0].partition_index = index;
        request
    };
    ledger.send(7, request(0, 8));
    ledger.send(7, request(249, 9));
    let plain = ledger.room.send_commit(8, request(100, 10));
    ledger.room.holds_writes = false;
    ledger.room.carry_out(Vec::new());
    assert_eq!(ledger.answer(plain), ErrorCode::None);
    let mut steps = 0;
    while ledger.room.coordinator.has_work() {
        let decided = many(&ledger, 250).iter().flatten().count();
        assert!(decided < 250);
        ledger.room.work();
        steps += 1;
    }
    assert!(steps > 2, "{steps}");
    let mut expected = vec![Some(5); 250];
    expected[100] = Some(10);
    assert_eq!(many(&ledger, 250), expected);
    assert!(ledger.is_unstable("a"), "its next transaction is open");
    ledger.room.decide(|coordinator, _, _| coordinator.transaction_ended(ProducerId(7), COMMIT));
    (expected[0], expected[249]) = (Some(8), Some(9));
    assert_eq!(many(&ledger, 250), expected);
    assert!(!ledger.is_unstable("a"));
}

#[test]
fn large_transactions_end_in_their_order() {
    let mut ledger = Ledger::new();
    commit_many(&mut ledger, 7, 250, 5);
    ledger.room.holds_work = true;
    for outcome in [COMMIT, ABORT] {
        ledger.room.decide(|coordinator, _, _| coordinator.transaction_ended(ProducerId(7), outcome));
        let mut request = commit_request("", -1, "a", 6, "");
        request.topics[0].partitions[0].partition_index = 249;
        ledger.send(7, request);
        ledger.room.holds_writes = false;
        ledger.room.carry_out(Vec::new());
    }
    while ledger.room.coordinator.has_work() {
        ledger.room.work();
    }
    assert_eq!(many(&ledger, 250), vec![Some(5); 250], "what was aborted is not there");
    let index = 249;
    assert!(ledger.room.coordinator.is_unstable(GROUP, "a", index), "the third is open");
}
