//! Who else asks: consumers that commit without a transaction, administrators, and strays that say what they
//! should not.

use crate::transactions::network::call;
use crate::transactions::producer::{GROUPS, READ_PARTITIONS, Users};
use crate::transactions::request::{Claim, Place, Reply, Request, Write};
use crate::transactions::settings::{MS, S};
use odradek::codec::control_record::{EndMarker, TransactionOutcome};
use odradek::codec::transaction_record::TransactionState;
use odradek::txn::Writer;
use odradek::txn::transaction::{End, Init};
use odradek::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, TransactionVersion};
use std::rc::Rc;

/// Commits offsets that are part of no transaction, and asks for them.
pub async fn run_consumer(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        let group = world.below(GROUPS) as usize;
        if world.one_in(2) {
            call(&users.cluster, Request::FetchOffsets { group }).await;
            return;
        }
        let write = Write {
            number: users.crowd.next(),
            tag: None,
            writer: Writer { producer: ProducerId(-1), epoch: ProducerEpoch(-1) },
            claim: Claim::Added,
            place: Place::Offset { group, of: world.below(READ_PARTITIONS) as i32 },
            is_transactional: false,
        };
        users.cluster.scene.watch.borrow_mut().records.writes(&write);
        call(&users.cluster, Request::Write { id: String::new(), write }).await;
    };
    users.crowd.now_and_then((100 * MS, 6 * S), act).await;
}

/// Describes, lists, and aborts what hangs.
pub async fn run_administrator(users: Rc<Users>) {
    let act = async || {
        let world = users.world();
        match world.below(3) {
            0 => {
                call(&users.cluster, Request::Describe { id: users.some_id() }).await;
            }
            1 => {
                let coordinators = users.cluster.coordinators.len() as u64;
                let coordinator = world.below(coordinators) as usize;
                call(&users.cluster, Request::List { coordinator }).await;
            }
            _ => abort_hanging(&users).await,
        }
    };
    users.crowd.now_and_then((500 * MS, 6 * S), act).await;
}

/// As `kafka-transactions.sh abort`: a transaction that is open in a partition, and that no coordinator knows.
pub async fn abort_hanging(users: &Rc<Users>) {
    let cluster = &users.cluster;
    for partition in &cluster.partitions {
        if !partition.is_up() {
            continue;
        }
        for (writer, start) in partition.open_transactions() {
            let mut is_known = false;
            for coordinator in 0..cluster.coordinators.len() {
                match call(cluster, Request::List { coordinator }).await {
                    Some(Reply::Listed(Ok(listed))) => {
                        is_known |= listed.iter().any(|listed| {
                            let is_idle = matches!(
                                listed.state,
                                TransactionState::Empty
                                    | TransactionState::CompleteCommit
                                    | TransactionState::CompleteAbort
                            );
                            listed.producer == writer.producer && !is_idle
                        });
                    }
                    _ => is_known = true, // It may be.
                }
            }
            // It may have ended meanwhile, and another one begun.
            if is_known || !partition.open_transactions().contains(&(writer, start)) {
                continue;
            }
            cluster.scene.world.count("a hanging transaction is aborted");
            let described = partition.log.borrow().producers.describe(writer.producer, 1).first().copied();
            let marker = EndMarker {
                producer: writer.producer,
                producer_epoch: writer.epoch,
                coordinator_epoch: described.map_or(CoordinatorEpoch(0), |found| found.coordinator_epoch),
                outcome: TransactionOutcome::Abort,
            };
            let request = Request::Mark { partition: partition.index, marker };
            call(cluster, request).await;
        }
    }
}

/// Speaks in the name of producers: of older epochs, other ids, epochs that nobody has.
pub async fn run_stray(users: Rc<Users>) {
    let act = async || {
        let world = users.world().clone();
        let id = users.some_id();
        let newest = users.cluster.scene.watch.borrow().newest_writer(&id);
        let Some(newest) = newest else { return };
        let older = Writer { epoch: ProducerEpoch(newest.epoch.0 - world.between(1, 2) as i16), ..newest };
        let writer = match world.below(5) {
            0 => Writer { producer: ProducerId(7), ..newest },
            1 => Writer { epoch: ProducerEpoch(i16::MAX), ..newest },
            _ if older.epoch.0 < 0 => return,
            _ => older,
        };
        let version = if world.one_in(2) { TransactionVersion::V1 } else { TransactionVersion::V2 };
        let outcome = if world.one_in(2) { TransactionOutcome::Commit } else { TransactionOutcome::Abort };
        let partition = world.below(users.cluster.partitions.len() as u64 - 1) as usize;
        let request = match world.below(7) {
            0 | 1 => Request::End { id, tag: None, end: End { writer, version, outcome } },
            2 => Request::AddPartitions { id, tag: None, writer, partitions: vec![partition] },
            3 => {
                let init = Init { timeout_ms: 5000, expected: Some(writer) };
                Request::Init { id, init }
            }
            // What is open has the newest epoch, or the one before it, and an operator may end that.
            4 if newest.epoch.0 >= 2 => {
                let marker = EndMarker {
                    producer: newest.producer,
                    producer_epoch: ProducerEpoch(newest.epoch.0 - 2),
                    coordinator_epoch: CoordinatorEpoch(world.below(2) as i32 * 1000 - 1),
                    outcome,
                };
                Request::Mark { partition, marker }
            }
            // Nobody asks whether these may.
            _ if !users.cluster.scene.settings.verifies => return,
            _ => {
                let place = match world.one_in(4) {
                    true => Place::Offset { group: 0, of: 0 },
                    false => Place::Record { partition, sequence: world.below(3) as i32 },
                };
                let claim = [Claim::Added, Claim::AddedOrAborts, Claim::Adds][world.below(3) as usize];
                let is_transactional = true;
                let write =
                    Write { number: users.crowd.next(), tag: None, writer, claim, place, is_transactional };
                users.cluster.scene.watch.borrow_mut().records.writes(&write);
                Request::Write { id, write }
            }
        };
        call(&users.cluster, request).await;
    };
    users.crowd.now_and_then((10 * MS, 3 * S), act).await;
}
