//! A partition goes from one shard to another one of its node, and is opened after a crash at every step of it.

use super::cutting::{copy, read_from, store_of};
use super::journalled::{claimed_with, has_room, start};
use super::*;
use crate::cluster::image::Image;
use crate::cluster::image::tests::{add_topic, image_of, node, partition_id};
use crate::cluster::placement::moved;
use crate::cluster::record::Record;
use crate::config::Routing;
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::api::delete_records::delete_local;
use crate::shard::background::write_checkpoint;
use crate::shard::conn::tests::shard_with;
use crate::shard::handover::{HandedOver, HandoverStep, StepTaken, take_step};
use crate::shard::journal_replay::replay;
use crate::shard::message::DeleteRecordsItem;
use crate::shard::recover::read_last_stop;
use crate::shard::replication::cutting::{Cut, cut};
use crate::shard::replication::role::Role;
use crate::shard::stores::Stores;
use crate::shard::{Shard, Unavailable};
use crate::types::ShardId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Some four batches a segment.
const SEGMENT: u64 = 4096;

/// A node of two shards with one partition.
struct Cores {
    directory: tempfile::TempDir,
    shards: [Rc<Shard>; 2],
    /// The log as it has to be: where it begins, and the batches from there on.
    start: u64,
    batches: Vec<Vec<u8>>,
}

fn image_of_two() -> Image {
    let mut image = image_of(&[node(1, 2, Routing::Node)]);
    add_topic(&mut image, 1, "t", &[0]);
    image
}

impl Cores {
    /// The first one has it, with some batches of a producer in several segments.
    async fn new(is_journalled: bool) -> Cores {
        let directory = directory();
        claimed_with(directory.path(), &[0]);
        let stores = [0, 1].map(|id| store_of(ShardId(id), directory.path(), is_journalled));
        open_partition(&stores[0], directory.path(), 0, SEGMENT).await;
        if is_journalled {
            has_room(&stores[0]).await;
            has_room(&stores[1]).await;
        }
        let [first, second] = stores.map(|store| Stores::new(vec![store]));
        let shards = [
            shard_with(ShardId(0), first, directory.path(), image_of_two()).await,
            shard_with(ShardId(1), second, directory.path(), image_of_two()).await,
        ];
        Cores { directory, shards, start: 0, batches: Vec::new() }
    }

    fn id(&self) -> TopicPartition {
        partition_id(1, 0)
    }

    async fn append(&mut self, owner: usize, count: u64) {
        let shard = &self.shards[owner];
        let replica = shard.stores.find(&self.id()).expect("it is here");
        let store = shard.stores.of(&replica);
        let acks = Acks::new(None);
        for _ in 0..count {
            let number = self.batches.len();
            let mut bytes = batch(1, Some(number as i32), &[number as u8; 900]);
            append(store, &replica, &acks, &mut bytes).await;
            self.batches.push(bytes);
        }
        acks.all_arrived(store).await;
    }

    /// What comes before an offset goes.
    async fn delete_before(&mut self, owner: usize, before: u64) {
        let item = DeleteRecordsItem { partition: self.id(), before: Some(offset(before)) };
        let deleted = delete_local(&self.shards[owner], &[item]).await;
        assert_eq!(deleted[0].error, ErrorCode::None);
        self.start = before;
    }

    /// What comes from an offset on goes, as where a leader has it not.
    async fn cut_to(&mut self, owner: usize, end: u64) {
        let shard = &self.shards[owner];
        let replica = shard.stores.find(&self.id()).expect("it is here");
        let epoch = replica.log.borrow().leader_epoch();
        replica.take_role(shard, Role::Idle { epoch: Some(epoch) });
        cut(shard.clone(), replica, epoch, Cut::To(offset(end))).await;
        self.batches.truncate(end as usize);
    }

    fn let_go(&self, from: usize) -> HandoverStep {
        assert!(self.shards[from].stores.find(&self.id()).is_some());
        HandoverStep::LetGo(vec![self.id()], Duration::from_secs(5))
    }

    /// The metadata say so, on both.
    fn commit_move_to(&self, to: usize) {
        for shard in &self.shards {
            let record = {
                let image = shard.image.borrow();
                let state = image.partition(self.id()).expect("it is there");
                let next = moved(&state.replicas[0], ShardId(to as u16));
                Record::PartitionChanged { id: self.id(), state: state.with_owners(&[next]) }
            };
            shard.image.borrow_mut().apply(&record).expect("it fits");
        }
    }

    /// As a start finds it after a kill now, whatever of the metadata had been flushed by then.
    async fn check_after_a_kill(&self, step: &str) {
        let left = directory();
        copy(self.directory.path(), left.path());
        let image = self.shards[0].image.borrow().clone();
        let (last, _) = read_last_stop(left.path()).unwrap();
        let mut points = last.points;
        let replayed = replay(&start(left.path(), &image, false), &mut points).unwrap();
        assert!(replayed.corrupt.is_empty(), "{step}");
        let store = store_of(ShardId(0), left.path(), false);
        let leader_epoch = image.partition(self.id()).expect("it is there").leader_epoch;
        let wanted = OpenRequest { leader_epoch, ..request(left.path(), 0, SEGMENT) };
        let (point, journal_end) = (points.get(&wanted.id).copied(), replayed.ends.get(&wanted.id).copied());
        let replica = open(&store, OpenRequest { point, journal_end, ..wanted }).await.unwrap();
        self.check(&store, &replica, step).await;
    }

    async fn check(&self, store: &Rc<Store>, replica: &Rc<Replica>, step: &str) {
        let ends = {
            let log = replica.log.borrow();
            (log.log_start().get(), log.log_end().get())
        };
        assert_eq!(ends, (self.start, self.batches.len() as u64), "{step}");
        let read = read_from(store, replica, self.start).await;
        assert!(read == self.batches[self.start as usize..].concat(), "{step}");
        let next = replica.log.borrow().producers.last_record(ProducerId(1));
        assert!(next.is_some(), "{step}: its producer is known");
    }

    /// From one to the other, looking at what a kill leaves before and after each step and while it goes on.
    async fn hand_over(&self, from: usize, to: usize) {
        let path = format!("{from} to {to}");
        let taken = self.watched(&self.shards[from], self.let_go(from), &format!("{path}: let go")).await;
        let StepTaken::LetGo(handed) = taken else { panic!("it lets go") };
        let [HandedOver { point, whole, .. }] = &handed[..] else { panic!("{handed:?}") };
        let point = point.expect("it was open");
        let ends = (point.log_start.get(), point.flushed_end.get());
        assert_eq!(ends, (self.start, self.batches.len() as u64), "all of it is stored");
        assert!(whole.is_some());
        assert!(self.shards[from].stores.find(&self.id()).is_none());
        self.commit_move_to(to);
        self.check_after_a_kill(&format!("{path}: the metadata say so")).await;
        let steps = [
            (to, HandoverStep::Expect(vec![(self.id(), Some(point))]), "expect"),
            (from, HandoverStep::Forget(vec![self.id()]), "forget"),
            (to, HandoverStep::TakeOver(handed), "take over"),
        ];
        for (shard, step, name) in steps {
            assert!(self.shards[to].stores.find(&self.id()).is_none(), "nobody serves it yet");
            assert_eq!(self.shards[to].absence(&self.id()), ErrorCode::NotLeaderOrFollower);
            let taken = self.watched(&self.shards[shard], step, &format!("{path}: {name}")).await;
            assert!(matches!(taken, StepTaken::Done(done) if done.contains(&self.id())), "{path}: {name}");
        }
        let replica = self.shards[to].stores.find(&self.id()).expect("it is open");
        self.check(self.shards[to].stores.of(&replica), &replica, &path).await;
        assert!(!self.shards[to].is_handed_over(&self.id()) && !self.shards[from].is_handed_over(&self.id()));
        let (scans, unusable) = {
            let metrics = self.shards[to].metrics.borrow();
            (metrics.recovery.get(RecoveryBranch::CleanStateUnusable), metrics.partitions_offline)
        };
        assert_eq!((scans, unusable), (0, 0), "it was opened without a scan");
    }

    async fn watched(&self, shard: &Rc<Shard>, step: HandoverStep, name: &str) -> StepTaken {
        let taking = shard.clone();
        let done = Rc::new(RefCell::new(None));
        let result = done.clone();
        let task = shard.spawn(async move {
            let taken = take_step(&taking, step).await;
            *result.borrow_mut() = Some(taken);
        });
        while done.borrow().is_none() {
            self.check_after_a_kill(&format!("during {name}")).await;
        }
        task.await;
        self.check_after_a_kill(&format!("after {name}")).await;
        done.take().expect("it has ended")
    }
}

/// Both write one checkpoint after the other meanwhile.
fn write_checkpoints(cores: &Cores) -> Rc<Cell<bool>> {
    let is_over = Rc::new(Cell::new(false));
    for shard in &cores.shards {
        let (shard, is_over) = (shard.clone(), is_over.clone());
        shard.clone().spawn(async move {
            let store = shard.stores.iter().next().expect("it has one").clone();
            while !is_over.get() {
                write_checkpoint(&shard, &store).await.expect("there is space");
                glommio::executor().yield_now().await;
            }
        });
    }
    is_over
}

/// Its journal has lost something, say: whoever gets it knows nothing of that.
#[test]
fn what_was_not_open_is_not_opened_by_the_next_owner() {
    on_executor(async {
        let mut cores = Cores::new(true).await;
        cores.append(0, 5).await;
        let [from, to] = cores.shards.clone();
        let replica = from.stores.find(&cores.id()).expect("it is here");
        let store = from.stores.of(&replica).clone();
        store.write_out(replica.slot).await;
        let point = Some(PartitionPoint::of(&replica.log.borrow(), Offset::ZERO));
        store.remove(&cores.id());
        replica.give_up(ErrorCode::KafkaStorageError);
        from.unavailable.borrow_mut().insert(cores.id(), Unavailable { dir: Some(store.dir), point });

        let taken = take_step(&from, HandoverStep::LetGo(vec![cores.id()], Duration::from_secs(5))).await;
        let StepTaken::LetGo(handed) = taken else { panic!("it lets go") };
        assert!(handed[0].whole.is_none() && handed[0].point == point);
        cores.commit_move_to(1);
        take_step(&to, HandoverStep::Expect(vec![(cores.id(), point)])).await;
        take_step(&from, HandoverStep::Forget(vec![cores.id()])).await;
        take_step(&to, HandoverStep::TakeOver(handed)).await;
        assert!(to.stores.find(&cores.id()).is_none());
        assert_eq!(to.absence(&cores.id()), ErrorCode::KafkaStorageError);
        let (last, _) = read_last_stop(cores.directory.path()).unwrap();
        assert_eq!(last.points.get(&cores.id()).copied(), point, "checkpoints know how far it was flushed");
        assert_eq!(last.checkpointed_by[&cores.id()], BTreeSet::from([ShardId(1)]));
    });
}

#[test]
fn a_kill_at_any_step_of_a_move_leaves_the_log_as_it_was() {
    for is_journalled in [true, false] {
        on_executor(async move {
            let mut cores = Cores::new(is_journalled).await;
            cores.append(0, 11).await;
            cores.delete_before(0, 2).await;
            let is_over = write_checkpoints(&cores);
            cores.hand_over(0, 1).await;
            is_over.set(true);
            // What happens there is not undone by what the other shard has had in its journal.
            cores.append(1, 6).await;
            cores.cut_to(1, 10).await;
            cores.check_after_a_kill("it was cut below where it came from").await;
            cores.append(1, 4).await;
            cores.delete_before(1, 9).await;
            cores.check_after_a_kill("it has gone on").await;
            cores.hand_over(1, 0).await;
            cores.append(0, 3).await;
            cores.delete_before(0, 13).await;
            cores.check_after_a_kill("it is back and has gone on").await;
            cores.hand_over(0, 1).await;
            cores.append(1, 1).await;
            cores.check_after_a_kill("it has gone again").await;
        });
    }
}

/// Appends that nobody has been answered are refused, or are there.
#[test]
fn who_waits_while_a_partition_is_let_go_is_told_to_look_elsewhere() {
    on_executor(async {
        let mut cores = Cores::new(true).await;
        cores.append(0, 3).await;
        let shard = cores.shards[0].clone();
        let replica = shard.stores.find(&cores.id()).expect("it is here");
        let acks = Acks::new(None);
        let mut bytes = batch(1, Some(3), &[3; 900]);
        append(shard.stores.of(&replica), &replica, &acks, &mut bytes).await;
        let StepTaken::LetGo(handed) =
            take_step(&shard, HandoverStep::LetGo(vec![cores.id()], Duration::from_secs(5))).await
        else {
            panic!("it lets go")
        };
        acks.all_arrived(shard.stores.of(&replica)).await;
        assert_eq!(acks.arrived.borrow()[0].outcome.error, ErrorCode::NotLeaderOrFollower);
        assert_eq!(
            handed[0].point.map(|point| point.flushed_end.get()),
            Some(4),
            "it is handed over all the same"
        );
        let target: Rc<dyn AckTarget> = acks.clone();
        let refused = replica.append(shard.stores.of(&replica), &mut bytes, &target, 0);
        assert_eq!(refused.err().map(|outcome| outcome.error), Some(ErrorCode::NotLeaderOrFollower));
    });
}
