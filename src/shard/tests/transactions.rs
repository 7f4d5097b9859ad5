//! Transactions in a partition's files: what readers of committed records get, whatever a start finds.

use super::compacting::{SETTINGS, compacted, copy, names};
use super::*;
use crate::codec::control_record::{EndMarker, TransactionOutcome};
use crate::codec::record_batch::{BatchHeader, Compression, restamp, write_batch};
use crate::codec::records::{NewRecord, write_record};
use crate::codec::transactions::VerificationQuestion;
use crate::group::{Answer, Caller};
use crate::log::final_state::FinalStateWriter;
use crate::log::producers::verification::VerificationNeed;
use crate::log::transactions::{AbortedTransaction, Isolation};
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::Shard;
use crate::shard::api::{describe_producers, produce};
use crate::shard::compaction::Cleaner;
use crate::shard::conn::tests::shard_of;
use crate::shard::groups::{self, GroupCall, GroupReply, GroupRequest, Stability};
use crate::shard::markers;
use crate::shard::message::{ClaimKind, DescribeProducersItem, MarkerItem, TransactionClaim};
use crate::shard::stores::Stores;
use crate::shard::verification::TransactionVerifier;
use crate::types::{CoordinatorEpoch, Timestamp, TransactionVersion};
use futures::future::{FutureExt, LocalBoxFuture};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;
use std::pin::pin;

#[test]
fn readers_of_committed_records_wait_for_a_durable_marker() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        let acks = Acks::new(None);
        append(&store, &replica, &acks, &mut keyed(None, "plain")).await;
        append(&store, &replica, &acks, &mut keyed(None, "plain")).await;
        transact(&store, &replica, &acks, 1, 0).await; // 2
        append(&store, &replica, &acks, &mut keyed(None, "behind it")).await; // 3
        acks.all_arrived(&store).await;
        assert_eq!(ends(&replica), (4, 2));
        assert_eq!(committed(&store, &replica).await, [0, 1]);
        let whole = read_all(&store, &replica, 1 << 20).await;
        let stable = read_from(&store, &replica, 0).await.0;
        assert!(whole.len() > stable.len() && whole.starts_with(&stable), "others read on");
        end(&store, &replica, &acks, 1, TransactionOutcome::Commit).await; // 4
        assert_eq!(ends(&replica), (4, 2), "the marker is not flushed");
        acks.all_arrived(&store).await;
        assert_eq!(ends(&replica), (5, 5));
        assert_eq!(committed(&store, &replica).await, [0, 1, 2, 3]);
        // One read ends where another transaction begins, and is not short for it.
        transact(&store, &replica, &acks, 1, 1).await; // 5
        acks.all_arrived(&store).await;
        let read =
            replica.read_isolated(&Reading::own(&store), offset(0), 1 << 20, Isolation::Committed).await;
        let read = read.unwrap();
        assert_eq!((read.batches, read.is_short, read.aborted), (5, false, Vec::new()));
        // A log start behind the beginning of an open transaction is where the stable part ends.
        replica.log.borrow_mut().advance_log_start(offset(6));
        assert_eq!(ends(&replica), (6, 6));
    });
}

/// Segments of a few batches, transactions across them. Then starts of every kind, with files missing or
/// wrong: the same records are committed, and the same transactions named.
#[test]
fn whatever_a_start_finds_the_same_is_committed() {
    on_executor(async {
        let first = directory();
        let (expected, aborted, active) = {
            let store = store(None, 8 << 20);
            let replica = open_partition(&store, first.path(), 0, 2_500).await;
            let acks = Acks::new(None);
            let expected = fill(&store, &replica, &acks).await;
            store.write_out(replica.slot).await;
            let active = replica.log.borrow().active().base_offset;
            replica.finish_rolls(&store, active).await.unwrap();
            assert_eq!(committed(&store, &replica).await, expected);
            replica.reads.forget();
            assert_eq!(committed(&store, &replica).await, expected, "from the files");
            assert_eq!(store.metrics.borrow().recovery.get(RecoveryBranch::TransactionsRebuilt), 0);
            (expected, every_aborted(&store, &replica).await, active)
        };
        assert!(aborted.len() > 5, "{aborted:?}");
        let spans =
            |aborted: &AbortedTransaction| aborted.first_offset.get() / 10 < aborted.last_offset.get() / 10;
        assert!(aborted.iter().any(spans));
        let files = names(first.path(), ".txnindex");
        assert!(files.len() > 4);
        type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
        let damages: [Damage<'_>; 6] = [
            ("nothing", &|_| {}),
            ("no index", &|partition| each(partition, ".txnindex", remove)),
            ("wrong indexes", &|partition| each(partition, ".txnindex", flip)),
            ("indexes that are empty", &|partition| {
                each(partition, ".txnindex", |path| std_write(path, &[]))
            }),
            ("no checksums", &|partition| {
                each(partition, ".txnindex", remove);
                each(partition, ".checksums", remove);
            }),
            ("no snapshot", &|partition| {
                each(partition, ".txnindex", remove);
                each(partition, ".snapshot", remove);
            }),
        ];
        for (what, damage) in damages {
            let directory = directory();
            let partition = directory.path().join("t-0");
            copy(&first.path().join("t-0"), &partition);
            damage(&partition);
            for start in 0..2 {
                let store = store(None, 8 << 20);
                let replica = open_partition(&store, directory.path(), 0, 2_500).await;
                assert_eq!(replica.log.borrow().active().base_offset, active);
                assert_eq!(committed(&store, &replica).await, expected, "{what}, start {start}");
                assert_eq!(every_aborted(&store, &replica).await, aborted, "{what}, start {start}");
                let rebuilt = store.metrics.borrow().recovery.get(RecoveryBranch::TransactionsRebuilt);
                assert_eq!(rebuilt > 0, what != "nothing" && start == 0, "{what}, start {start}");
                assert_eq!(names(directory.path(), ".txnindex"), files, "{what}");
            }
        }
    });
}

#[test]
fn a_clean_stop_keeps_open_and_aborted_transactions() {
    on_executor(async {
        for state_size_max in [0, 16 << 10] {
            let directory = directory();
            let (point, state, before) = {
                let store = store(None, 8 << 20);
                let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
                let acks = Acks::new(None);
                transact(&store, &replica, &acks, 1, 0).await;
                end(&store, &replica, &acks, 1, TransactionOutcome::Abort).await;
                transact(&store, &replica, &acks, 2, 0).await;
                acks.all_arrived(&store).await;
                store.write_out(replica.slot).await;
                let state = crate::shard::final_state::state_of(&replica);
                let before = (ends(&replica), replica.log.borrow().active_aborted().to_vec());
                (point_of(&replica), state, before)
            };
            assert_eq!(before.1.len(), 1);
            let mut writer = FinalStateWriter::with_state_size_max(state_size_max);
            let id = request(directory.path(), 0, 1 << 20).id;
            if !writer.add(id, &state) {
                let file = |file: SegmentFile, base| directory.path().join("t-0").join(file.name(base));
                std_write(&file(SegmentFile::OffsetIndex, state.active), &state.offset_index);
                std_write(&file(SegmentFile::TimeIndex, state.active), &state.time_index);
                std_write(&file(SegmentFile::Checksums, state.active), &state.checksums);
                std_write(&file(SegmentFile::TransactionIndex, state.active), &state.transactions);
                std_write(&file(SegmentFile::ProducerSnapshot, state.log_end), &state.producers);
                let epochs = directory.path().join("t-0").join(crate::shard::segments::EPOCHS_FILE);
                std_write(&epochs, &state.epochs);
            }
            let mut states = crate::log::final_state::decode(&writer.finish()).unwrap();
            let store = store(None, 8 << 20);
            let request = OpenRequest {
                point: Some(point),
                clean: true,
                state: states.remove(&id),
                ..request(directory.path(), 0, 1 << 20)
            };
            let replica = open(&store, request).await.unwrap();
            let unusable = store.metrics.borrow().recovery.get(RecoveryBranch::CleanStateUnusable);
            assert_eq!(unusable, 0, "state size {state_size_max}");
            let after = (ends(&replica), replica.log.borrow().active_aborted().to_vec());
            assert_eq!(after, before, "state size {state_size_max}");
            // The transaction goes on where it was.
            let acks = Acks::new(None);
            append(&store, &replica, &acks, &mut part(2, 1)).await;
            end(&store, &replica, &acks, 2, TransactionOutcome::Commit).await;
            acks.all_arrived(&store).await;
            assert_eq!(ends(&replica), (5, 5));
            assert_eq!(committed(&store, &replica).await, [2, 3]);
        }
    });
}

/// An aborted record takes nobody's place, and goes; what is committed afterwards is what was before.
#[test]
fn compaction_drops_what_was_aborted_and_nothing_that_was_committed() {
    on_executor(async {
        let directory = directory();
        let newest = {
            let store = store(None, 8 << 20);
            let mut request = request(directory.path(), 0, 2_500);
            Rc::make_mut(&mut request.config).cleanup = compacted();
            let replica = open(&store, request).await.unwrap();
            let acks = Acks::new(None);
            fill(&store, &replica, &acks).await;
            // Open: nothing from here on is compacted.
            transact(&store, &replica, &acks, 9, 0).await;
            let open = replica.log.borrow().log_end().get() - 1;
            for _ in 0..10 {
                append(&store, &replica, &acks, &mut keyed(None, "behind")).await;
            }
            acks.all_arrived(&store).await;
            store.write_out(replica.slot).await;
            let active = replica.log.borrow().active().base_offset;
            replica.finish_rolls(&store, active).await.unwrap();
            let before = newest_committed(&store, &replica).await;
            let cleaner = Cleaner::new(vec![store.clone()], SETTINGS);
            for pass in 0..3 {
                let cleaned = cleaner.clean_dirtiest().await;
                assert!(cleaned || pass > 0);
                assert_eq!(newest_committed(&store, &replica).await, before, "pass {pass}");
                replica.reads.forget();
                assert_eq!(newest_committed(&store, &replica).await, before, "pass {pass}, from files");
            }
            assert_eq!(store.metrics.borrow().recovery.get(RecoveryBranch::TransactionsRebuilt), 0);
            assert!(store.metrics.borrow().compacted_records_removed > 0);
            let below = {
                let log = replica.log.borrow();
                let bases = log.closed().iter().map(|closed| closed.base_offset.get());
                bases.filter(|base| *base <= open).max().unwrap()
            };
            let kept = records(&read_all(&store, &replica, 1 << 20).await, &[], Isolation::Uncommitted);
            let left = kept.iter().filter(|(at, _, value)| *at < below && value == "Abort");
            assert_eq!(left.count(), 0);
            assert!(kept.iter().any(|(at, _, _)| *at == open));
            before
        };
        let store = store(None, 8 << 20);
        let mut request = request(directory.path(), 0, 2_500);
        Rc::make_mut(&mut request.config).cleanup = compacted();
        let replica = open(&store, request).await.unwrap();
        assert_eq!(newest_committed(&store, &replica).await, newest, "after a start");
    });
}

#[test]
fn a_transaction_is_begun_with_its_coordinators_word_and_ended_with_its_marker() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        let claim = TransactionClaim { transactional_id: "transfers".to_owned(), kind: ClaimKind::Added };
        let acks = Acks::new(None);
        let produce = async |sequence: i32, claim: Option<&TransactionClaim>| {
            let target: Rc<dyn AckTarget> = acks.clone();
            let index = acks.sent.get();
            acks.sent.set(index + 1);
            let mut bytes = part(1, sequence);
            produce::append(&shard, &target, index, &replica.id, &mut bytes, claim).await;
            acks.all_arrived(&store).await;
            let arrived = acks.arrived.borrow();
            let outcome = &arrived.last().unwrap().outcome;
            (outcome.error, outcome.base_offset.map(Offset::get))
        };
        assert_eq!(produce(0, None).await, (ErrorCode::InvalidTxnState, None), "nobody's transaction");
        assert_eq!(produce(0, Some(&claim)).await, (ErrorCode::InvalidTxnState, None), "no coordinator");
        let coordinator = Rc::new(Coordinator::default());
        *shard.verifier.borrow_mut() = Some(coordinator.clone());
        coordinator.answer.set(Err(ErrorCode::NotCoordinator));
        assert_eq!(produce(0, Some(&claim)).await, (ErrorCode::NotEnoughReplicas, None));
        coordinator.answer.set(Ok(()));
        assert_eq!(produce(0, Some(&claim)).await, (ErrorCode::None, Some(0)));
        assert_eq!(produce(1, Some(&claim)).await, (ErrorCode::None, Some(1)));
        assert_eq!(produce(0, Some(&claim)).await, (ErrorCode::None, Some(0)), "a retry");
        assert_eq!(coordinator.asked.borrow().len(), 2, "an open one is not asked about");
        let asked = VerificationQuestion {
            transactional_id: "transfers".into(),
            producer: ProducerId(1),
            epoch: ProducerEpoch(0),
            partition: replica.id,
            version: TransactionVersion::V1,
        };
        assert_eq!(coordinator.asked.borrow()[1], asked);

        let describe = async || {
            let items = [DescribeProducersItem { partition: replica.id }];
            describe_producers::describe_local(&shard, &items).await.remove(0).producers.remove(0)
        };
        let described = describe().await;
        assert_eq!((described.id, described.last_sequence), (ProducerId(1), Some(Sequence(1))));
        assert_eq!(described.transaction_start, Some(Offset::ZERO));

        let write = async |partition: TopicPartition, epoch: i16, coordinator_epoch: i32| {
            let marker = EndMarker {
                producer: ProducerId(1),
                producer_epoch: ProducerEpoch(epoch),
                coordinator_epoch: CoordinatorEpoch(coordinator_epoch),
                outcome: TransactionOutcome::Abort,
            };
            let newest = CoordinatorEpoch(3);
            let item = MarkerItem { partition, marker, version: TransactionVersion::V1, newest };
            let outcome = markers::write_local(&shard, &[item]).await.remove(0);
            (outcome.error, outcome.offset.map(Offset::get))
        };
        let unknown = TopicPartition { partition: PartitionIndex::from_wire(7).unwrap(), ..replica.id };
        assert_eq!(write(unknown, 0, 3).await, (ErrorCode::UnknownTopicOrPartition, None));
        assert_eq!(ends(&replica), (2, 0));
        assert_eq!(write(replica.id, 0, 4).await, (ErrorCode::InvalidRequest, None), "no coordinator has it");
        assert_eq!(write(replica.id, 0, 3).await, (ErrorCode::None, Some(2)));
        assert_eq!(ends(&replica), (3, 3), "it is answered once it is durable");
        assert_eq!(write(replica.id, 0, 2).await, (ErrorCode::TransactionCoordinatorFenced, None));
        assert_eq!(write(replica.id, 1, 3).await, (ErrorCode::None, Some(3)));
        assert_eq!(write(replica.id, 0, 3).await, (ErrorCode::InvalidProducerEpoch, None));
        assert_eq!(committed(&store, &replica).await, [0; 0]);
        let described = describe().await;
        assert_eq!((described.epoch, described.transaction_start), (ProducerEpoch(1), None));
        assert_eq!(described.coordinator_epoch, CoordinatorEpoch(3));
        // Behind the end of its transaction a batch is asked about anew.
        assert_eq!(produce(2, Some(&claim)).await, (ErrorCode::InvalidProducerEpoch, None));
    });
}

/// What a coordinator says after a long wait holds for the request: nobody behind it waits for each partition.
#[test]
fn the_partitions_of_a_request_are_asked_about_once_and_side_by_side() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        let coordinator = Rc::new(Coordinator::default());
        *shard.verifier.borrow_mut() = Some(coordinator.clone());
        let claim = TransactionClaim { transactional_id: "transfers".to_owned(), kind: ClaimKind::Adds };
        let batches = [part(1, 0), keyed(None, "plain"), part(2, 0)];
        let unknown = TopicPartition { partition: PartitionIndex::from_wire(7).unwrap(), ..replica.id };
        let ask = async |claim: Option<&TransactionClaim>| {
            let here = batches.iter().map(|batch| (&replica.id, &batch[..]));
            let all = here.chain([(&unknown, &batches[0][..])]);
            let refused = produce::verify_all(&shard, all, claim).await;
            let errors = refused.into_iter().map(|refused| refused.map(|refused| refused.error));
            errors.collect::<Vec<_>>()
        };
        assert!(ask(None).await.is_empty());
        coordinator.answer.set(Err(ErrorCode::ConcurrentTransactions));
        let concurrent = Some(ErrorCode::ConcurrentTransactions);
        assert_eq!(ask(Some(&claim)).await, [concurrent, None, concurrent, None]);
        assert_eq!(coordinator.asked.borrow().len(), 2);
        coordinator.answer.set(Ok(()));
        assert_eq!(ask(Some(&claim)).await, [None; 4]);
        assert_eq!(ask(Some(&claim)).await, [None; 4]);
        assert_eq!(coordinator.asked.borrow().len(), 4, "what was confirmed is not asked about");
    });
}

/// In version 2 the next transaction may begin while the markers of the one before are being written.
#[test]
fn a_marker_between_a_question_and_its_answer_has_it_asked_again() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        let acks = Acks::new(None);
        let marker = EndMarker {
            producer: ProducerId(1),
            producer_epoch: ProducerEpoch(1),
            coordinator_epoch: CoordinatorEpoch(0),
            outcome: TransactionOutcome::Commit,
        };
        let newest = marker.coordinator_epoch;
        let item = MarkerItem { partition: replica.id, marker, version: TransactionVersion::V2, newest };
        let coordinator = Rc::new(Ending { shard: shard.clone(), item, asked: Cell::new(0) });
        *shard.verifier.borrow_mut() = Some(coordinator.clone());
        let claim = TransactionClaim { transactional_id: "transfers".to_owned(), kind: ClaimKind::Adds };
        for (epoch, asked, offset) in [(0, 1, 0), (1, 3, 2)] {
            let target: Rc<dyn AckTarget> = acks.clone();
            let index = acks.sent.get();
            acks.sent.set(index + 1);
            let mut bytes = part(1, 0);
            restamp(&mut bytes, Timestamp(1), Some((ProducerId(1), ProducerEpoch(epoch), Sequence(0))));
            produce::append(&shard, &target, index, &replica.id, &mut bytes, Some(&claim)).await;
            acks.all_arrived(&store).await;
            let arrived = acks.arrived.borrow();
            let outcome = &arrived.last().unwrap().outcome;
            assert_eq!(
                (outcome.error, outcome.base_offset.map(Offset::get)),
                (ErrorCode::None, Some(offset))
            );
            assert_eq!(coordinator.asked.get(), asked, "epoch {epoch}");
        }
        *shard.verifier.borrow_mut() = None; // It holds the shard.
    });
}

/// What a producer commits behind a marker is of its next transaction, however long the marker's request takes.
#[test]
fn group_coordinators_hear_of_markers_in_the_order_of_the_log() {
    on_executor(async {
        let directory = directory();
        let store = store(None, 8 << 20);
        let replica = open_partition(&store, directory.path(), 0, 1 << 20).await;
        let shard = shard_of(Stores::new(vec![store.clone()]), directory.path(), &[0]).await;
        *shard.verifier.borrow_mut() = Some(Rc::new(Coordinator::default()));
        let (group, topic) = (StrBytes::from_static_str("g"), TopicName(StrBytes::from_static_str("t")));
        let ask = async |request: GroupRequest| {
            let caller = Caller { client_id: String::new(), client_host: String::new(), version: 3 };
            groups::call_local(&shard, GroupCall { partition: replica.id, caller, request }).await
        };
        let commit = async |offset: i64| {
            let partition =
                OffsetCommitRequestPartition::default().with_committed_offset(offset).with_partition_index(0);
            let topic =
                OffsetCommitRequestTopic::default().with_name(topic.clone()).with_partitions(vec![partition]);
            let request = OffsetCommitRequest::default()
                .with_group_id(GroupId(group.clone()))
                .with_generation_id_or_member_epoch(-1)
                .with_topics(vec![topic]);
            let writer = (ProducerId(1), ProducerEpoch(0));
            let claim = TransactionClaim { transactional_id: "transfers".to_owned(), kind: ClaimKind::Added };
            match ask(GroupRequest::CommitInTransaction { request, writer, claim }).await {
                GroupReply::Answer(Answer::Commit(response)) => {
                    assert_eq!(response.topics[0].partitions[0].error_code, 0);
                }
                _ => panic!("a commit is answered"),
            }
        };
        let fetch = async || {
            let fetch = GroupRequest::Fetch {
                group: group.to_string(),
                member: (None, -1),
                topics: Some(vec![(topic.clone(), vec![0])]),
                stability: Stability::Stable,
            };
            let GroupReply::Fetched(fetched) = ask(fetch).await else { panic!("offsets are fetched") };
            let offset = &fetched[0].1[0];
            (offset.committed.as_ref().map(|committed| committed.offset), offset.is_unstable)
        };
        commit(5).await;
        assert_eq!(fetch().await, (None, true));
        let marker = EndMarker {
            producer: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            coordinator_epoch: CoordinatorEpoch(0),
            outcome: TransactionOutcome::Commit,
        };
        let newest = marker.coordinator_epoch;
        let item = MarkerItem { partition: replica.id, marker, version: TransactionVersion::V1, newest };
        let items = [item];
        let mut writing = pin!(markers::write_local(&shard, &items));
        assert!(writing.as_mut().now_or_never().is_none(), "it is on its way to the disk");
        commit(7).await; // And what is behind it is there.
        assert_eq!(fetch().await, (Some(5), true));
        assert_eq!(writing.await[0].error, ErrorCode::None);
        assert_eq!(fetch().await, (Some(5), true), "the next transaction is open");
    });
}

/// Writes a marker before its second answer.
struct Ending {
    shard: Rc<Shard>,
    item: MarkerItem,
    asked: Cell<usize>,
}

impl TransactionVerifier for Ending {
    fn verify(&self, _: VerificationQuestion) -> LocalBoxFuture<'static, Result<(), ErrorCode>> {
        self.asked.set(self.asked.get() + 1);
        let (shard, item, asked) = (self.shard.clone(), self.item, self.asked.get());
        async move {
            if asked == 2 {
                assert_eq!(markers::write_local(&shard, &[item]).await[0].error, ErrorCode::None);
            }
            Ok(())
        }
        .boxed_local()
    }
}

/// Says the same to everybody.
struct Coordinator {
    answer: Cell<Result<(), ErrorCode>>,
    asked: RefCell<Vec<VerificationQuestion>>,
}

impl Default for Coordinator {
    fn default() -> Coordinator {
        Coordinator { answer: Cell::new(Ok(())), asked: RefCell::default() }
    }
}

impl TransactionVerifier for Coordinator {
    fn verify(&self, question: VerificationQuestion) -> LocalBoxFuture<'static, Result<(), ErrorCode>> {
        self.asked.borrow_mut().push(question);
        let answer = self.answer.get();
        async move { answer }.boxed_local()
    }
}

/// Short transactions of producer 1 and long ones of producer 2 among plain batches; the value of a record says
/// how its transaction ends. Returns the offsets of records that are committed.
async fn fill(store: &Rc<Store>, replica: &Rc<Replica>, acks: &Rc<Acks>) -> Vec<u64> {
    let mut committed = Vec::new();
    for round in 0..15 {
        let key = format!("key {}", round % 5);
        for id in [1, 2] {
            let outcome = outcome_of(id, round);
            verify(replica, id, round as i32);
            if outcome == TransactionOutcome::Commit {
                committed.push(replica.log.borrow().log_end().get());
            }
            let by = Some((ProducerId(id), ProducerEpoch(0), Sequence(round as i32)));
            append(store, replica, acks, &mut record(by, &key, &format!("{outcome:?}"))).await;
        }
        committed.push(replica.log.borrow().log_end().get());
        append(store, replica, acks, &mut keyed(None, &key)).await;
        end(store, replica, acks, 1, outcome_of(1, round)).await;
        if round % 3 == 2 {
            end(store, replica, acks, 2, outcome_of(2, round)).await;
        }
    }
    acks.all_arrived(store).await;
    committed
}

fn outcome_of(id: i64, round: i64) -> TransactionOutcome {
    let transaction = if id == 1 { round } else { round / 3 };
    if (transaction + id) % 2 == 0 { TransactionOutcome::Abort } else { TransactionOutcome::Commit }
}

async fn transact(store: &Rc<Store>, replica: &Rc<Replica>, acks: &Rc<Acks>, id: i64, sequence: i32) {
    verify(replica, id, sequence);
    append(store, replica, acks, &mut part(id, sequence)).await;
}

/// The coordinator knows of it.
fn verify(replica: &Replica, id: i64, sequence: i32) {
    let bytes = part(id, sequence);
    let (view, _) = BatchView::split_first(&bytes).unwrap();
    let producer = view.producer().unwrap();
    let mut log = replica.log.borrow_mut();
    let version = TransactionVersion::V1;
    if let VerificationNeed::Ask(guard) =
        log.producers.begin_verification(&producer, version, Timestamp(0)).unwrap()
    {
        assert!(log.producers.verified(producer.id, guard));
    }
}

async fn end(
    store: &Rc<Store>,
    replica: &Rc<Replica>,
    acks: &Rc<Acks>,
    id: i64,
    outcome: TransactionOutcome,
) {
    let index = acks.sent.get();
    acks.sent.set(index + 1);
    let target: Rc<dyn AckTarget> = acks.clone();
    let marker = EndMarker {
        producer: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: CoordinatorEpoch(0),
        outcome,
    };
    loop {
        match replica.append_marker(store, &marker, TransactionVersion::V1, &target, index) {
            Ok(Appended::Parked) => return,
            Ok(Appended::Wait) => {
                store.pump();
                replica.ready.notified().await;
            }
            Err(outcome) => panic!("{outcome:?}"),
        }
    }
}

/// High watermark and last stable offset.
fn ends(replica: &Replica) -> (u64, u64) {
    let log = replica.log.borrow();
    (log.high_watermark().get(), log.last_stable_offset().get())
}

/// Everything that a reader of committed records is handed from `from` on.
async fn read_from(
    store: &Rc<Store>,
    replica: &Rc<Replica>,
    from: u64,
) -> (Vec<u8>, BTreeSet<AbortedTransaction>) {
    let (mut all, mut named) = (Vec::new(), BTreeSet::new());
    for (bytes, aborted) in reads(store, replica, from).await {
        all.extend(bytes);
        named.extend(aborted);
    }
    (all, named)
}

type Read = (Vec<u8>, Vec<AbortedTransaction>);

async fn reads(store: &Rc<Store>, replica: &Rc<Replica>, from: u64) -> Vec<Read> {
    let mut reads = Vec::new();
    let mut next = offset(from);
    while next < replica.log.borrow().last_stable_offset() {
        let read = replica.read_isolated(&Reading::own(store), next, 1 << 20, Isolation::Committed).await;
        let read = read.unwrap();
        let bytes: Vec<u8> = read.slices.iter().flat_map(|slice| slice.bytes().to_vec()).collect();
        let mut rest = &bytes[..];
        let start = next;
        while !rest.is_empty() {
            let (view, tail) = BatchView::split_first(rest).unwrap();
            (next, rest) = (view.end_offset(), tail);
        }
        assert!(start < next, "a read below the last stable offset found nothing");
        assert!(next <= replica.log.borrow().last_stable_offset());
        assert!(read.aborted.iter().all(|aborted| aborted.overlaps(start, next)));
        assert!(read.aborted.is_sorted_by_key(|aborted| aborted.last_offset), "in the order of the markers");
        reads.push((bytes, read.aborted));
    }
    reads
}

/// Offsets of the records that such a reader delivers, each read judged by what came with it.
async fn committed(store: &Rc<Store>, replica: &Rc<Replica>) -> Vec<u64> {
    let mut found = Vec::new();
    for (bytes, aborted) in reads(store, replica, 0).await {
        found.extend(records(&bytes, &aborted, Isolation::Committed).into_iter().map(|(at, ..)| at));
    }
    found
}

/// The newest committed record of every key.
async fn newest_committed(store: &Rc<Store>, replica: &Rc<Replica>) -> BTreeMap<String, (u64, String)> {
    let mut newest = BTreeMap::new();
    for (bytes, aborted) in reads(store, replica, 0).await {
        for (at, key, value) in records(&bytes, &aborted, Isolation::Committed) {
            newest.insert(key, (at, value));
        }
    }
    newest
}

/// What reads from every offset on name.
async fn every_aborted(store: &Rc<Store>, replica: &Rc<Replica>) -> BTreeSet<AbortedTransaction> {
    let mut named = BTreeSet::new();
    for from in 0..ends(replica).1 {
        named.extend(read_from(store, replica, from).await.1);
    }
    named
}

/// Offset, key and value of records, as a client delivers them.
fn records(bytes: &[u8], aborted: &[AbortedTransaction], isolation: Isolation) -> Vec<(u64, String, String)> {
    let mut found = Vec::new();
    let mut leaving_out = BTreeSet::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (batch, tail) = BatchView::split_first(rest).unwrap();
        rest = tail;
        let begun = aborted.iter().filter(|aborted| {
            aborted.first_offset <= batch.last_offset() && aborted.last_offset >= batch.base_offset()
        });
        leaving_out.extend(begun.map(|aborted| aborted.producer));
        let writer = batch.writer().map(|(id, _)| id);
        if batch.is_control() {
            leaving_out.remove(&writer.unwrap());
            continue;
        }
        let is_left_out = writer.is_some_and(|id| leaving_out.contains(&id)) && batch.is_transactional();
        if isolation == Isolation::Committed && is_left_out {
            continue;
        }
        for record in crate::codec::records::Records::new(batch.payload(), batch.record_count()) {
            let record = record.unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
            let value = text(record.value);
            let value = value.split('|').next().unwrap_or_default().to_owned();
            found.push((batch.base_offset().get() + record.offset_delta as u64, text(record.key), value));
        }
    }
    found
}

fn part(id: i64, sequence: i32) -> Vec<u8> {
    record(Some((ProducerId(id), ProducerEpoch(0), Sequence(sequence))), "key", "open")
}

fn keyed(producer: Option<(ProducerId, ProducerEpoch, Sequence)>, key: &str) -> Vec<u8> {
    record(producer, key, "plain")
}

/// With a producer it is part of a transaction. The value is filled up, so that segments are soon full.
fn record(producer: Option<(ProducerId, ProducerEpoch, Sequence)>, key: &str, value: &str) -> Vec<u8> {
    let value = format!("{value}|{}", "x".repeat(400));
    let mut payload = Vec::new();
    let record =
        NewRecord { key: Some(key.as_bytes()), value: Some(value.as_bytes()), ..NewRecord::default() };
    write_record(&record, &mut payload);
    let header = BatchHeader {
        compression: Compression::None,
        transactional: producer.is_some(),
        record_count: 1,
        base_timestamp: Timestamp(1_000),
        max_timestamp: Timestamp(1_000),
        producer,
    };
    let mut out = Vec::new();
    write_batch(&header, &payload, &mut out);
    out
}

/// Does something to every file of a kind.
fn each(partition: &Path, suffix: &str, mut change: impl FnMut(&Path)) {
    for entry in std::fs::read_dir(partition).unwrap() {
        let path = entry.unwrap().path();
        if path.to_str().is_some_and(|name| name.ends_with(suffix)) {
            change(&path);
        }
    }
}

fn flip(path: &Path) {
    let mut bytes = std_read(path);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std_write(path, &bytes);
}
