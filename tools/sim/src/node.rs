//! The shards of one run of the broker, and who uses them.

use crate::metadata::{Metadata, TopicKind};
use crate::model::PartitionModel;
use crate::random::Random;
use crate::shell::cutting::{Cut, CutFailed, cut};
use crate::shell::deletion;
use crate::shell::open::{OpenRequest, open};
use crate::shell::replica::Replica;
use crate::shell::{Shell, Surroundings};
use crate::workload::{Producer, Transactor, Values};
use crate::world::Turn;
use odradek::types::{LeaderEpoch, Offset, ProducerId, ShardId, TopicPartition};
use std::cell::RefCell;
use std::rc::Rc;

/// Producers, whichever run of the broker they talk to.
#[derive(Default)]
pub struct Users {
    pub values: Values,
    pub producers: RefCell<Vec<Rc<Producer>>>,
    pub transactors: RefCell<Vec<Rc<Transactor>>>,
}

impl Users {
    /// The partition is gone, or what they know of it.
    pub fn forget(&self, partition: &TopicPartition) {
        let stays = |producer: &Rc<Producer>| producer.partition != *partition || producer.leave();
        self.producers.borrow_mut().retain(stays);
        let stays = |transactor: &Rc<Transactor>| transactor.partition != *partition || transactor.leave();
        self.transactors.borrow_mut().retain(stays);
    }

    fn add_for(
        &self,
        id: TopicPartition,
        kind: TopicKind,
        number: i64,
        has_transactions: bool,
        dice: &mut Random,
    ) {
        for producer in 0..2 {
            let producer_id = (producer == 0 || dice.one_in(2)).then_some(ProducerId(number + producer));
            self.producers.borrow_mut().push(Producer::new(id, kind, producer_id));
        }
        if has_transactions {
            for transactor in 0..dice.below(3) as i64 {
                let id_of = ProducerId(number + 2 + transactor);
                self.transactors.borrow_mut().push(Transactor::new(id, kind, id_of));
            }
        }
    }
}

/// Lives: from a start to the next stop or crash.
pub struct Node {
    pub around: Surroundings,
    pub shells: Vec<Rc<Shell>>,
    pub users: Rc<Users>,
    /// Who moves the beginning or the end of a log has it alone.
    pub cutting: Turn,
    /// Virtual microseconds between two batches of a producer at most.
    pub pause: u64,
}

impl Node {
    pub fn new(around: &Surroundings, shard_count: u16, users: Rc<Users>, pause: u64) -> Rc<Node> {
        let shells = (0..shard_count).map(|shard| Shell::new(ShardId(shard), around)).collect();
        Rc::new(Node { around: around.clone(), shells, users, cutting: Turn::default(), pause })
    }

    pub fn find(&self, id: &TopicPartition) -> Option<(Rc<Shell>, Rc<Replica>)> {
        self.shells.iter().find_map(|shell| Some((shell.clone(), shell.find(id)?)))
    }

    pub fn all_replicas(&self) -> Vec<(Rc<Shell>, Rc<Replica>)> {
        let of = |shell: &Rc<Shell>| {
            shell.all_replicas().into_iter().map(|replica| (shell.clone(), replica)).collect::<Vec<_>>()
        };
        self.shells.iter().flat_map(of).collect()
    }

    /// None of the shards takes appends any more.
    pub fn is_offline(&self) -> bool {
        self.shells.iter().all(|shell| shell.is_offline())
    }

    pub fn is_closed(&self) -> bool {
        self.shells[0].is_closed()
    }

    pub fn spawn_producer(self: &Rc<Self>, producer: Rc<Producer>) {
        self.around.world.spawn(producer.run(self.clone()));
    }

    /// Of one partition, or of all.
    pub fn spawn_transactors(self: &Rc<Self>, partition: Option<&TopicPartition>) {
        let transactors = self.users.transactors.borrow().clone();
        for transactor in transactors {
            if partition.is_none_or(|partition| transactor.partition == *partition) {
                self.around.world.spawn(transactor.run(self.clone()));
            }
        }
    }

    /// A log is cut, or begins anew, as a follower's is whose leader has another one. What its producers know goes
    /// with it: others come.
    pub async fn cut(self: &Rc<Self>, shell: &Rc<Shell>, replica: &Rc<Replica>) {
        let Surroundings { world, metadata, settings, .. } = &self.around;
        let id = replica.id;
        let Some(kind) = metadata.borrow().partitions.get(&id).map(|known| known.kind) else { return };
        // A leader's log that was compacted is cut nowhere below its high watermark.
        if kind.compacts || replica.is_deleted() || shell.is_offline() || shell.is_closed() {
            return;
        }
        let _turn = self.cutting.take().await;
        let (start, end) = {
            let log = replica.log.borrow();
            (log.log_start().get(), log.log_end().get())
        };
        let offset = |value: u64| Offset::new(value).expect("a simulated log is short");
        let to = match world.below(5) {
            0 => Cut::StartOver(offset(world.below(end + 50))),
            1 | 2 => Cut::To(offset(start.max(end.saturating_sub(world.below(10))))),
            _ => Cut::To(offset(start + world.below(end - start + 1))),
        };
        self.users.forget(&id);
        let mut dice = Random::new(world.draw());
        let number = Metadata::number(&id) as i64 * 10 + 10_000_000 * dice.between(1, 1 << 30) as i64;
        self.users.add_for(id, kind, number, settings.has_transactions, &mut dice);
        match cut(shell, replica, to).await {
            Ok(()) => {}
            Err(CutFailed::Offline | CutFailed::NoSpace) => return,
            Err(error) => self.around.model.borrow_mut().not_cut(world, &id, &error),
        }
        let producers = self.users.producers.borrow().clone();
        for producer in producers.into_iter().filter(|producer| producer.partition == id) {
            self.spawn_producer(producer);
        }
        self.spawn_transactors(Some(&id));
    }

    /// A topic goes, and another one of its name comes.
    pub async fn recreate(self: &Rc<Self>, id: &TopicPartition) {
        let Surroundings { world, metadata, model, .. } = &self.around;
        let known = metadata.borrow_mut().delete(id);
        let Some(known) = known else { return };
        model.borrow_mut().partitions.remove(id);
        self.users.forget(id);
        deletion::delete(&self.shells[known.owner.index()], id).await;
        if self.is_closed() {
            return;
        }
        world.sleep(world.below(2000)).await;
        let mut dice = Random::new(world.draw());
        let owner = ShardId(dice.below(self.shells.len() as u64) as u16);
        let made = make_partition(&self.around, &self.users, Some(known.topic), owner, &mut dice);
        let (name, kind) = {
            let metadata = metadata.borrow();
            let known = &metadata.partitions[&made];
            (known.directory(), known.kind)
        };
        world.count("topic made again under its name");
        world.note(format_args!("{name} is made again as {}", Metadata::number(&made)));
        let shell = &self.shells[owner.index()];
        let request = OpenRequest {
            id: made,
            name,
            kind,
            leader_epoch: LeaderEpoch(0),
            point: None,
            checkpointed_end: None,
            clean: false,
            state: None,
            journal_end: None,
        };
        if let Err(error) = open(shell, request).await {
            world.note(format_args!("it is not served: {error:?}"));
            world.count("topic made again: not served yet");
            shell.unavailable.borrow_mut().insert(made, None);
            return;
        }
        if let Some(replica) = shell.find(&made) {
            model.borrow_mut().recovered(world, &made, &replica);
        }
        let producers = self.users.producers.borrow().clone();
        for producer in producers.into_iter().filter(|producer| producer.partition == made) {
            self.spawn_producer(producer);
        }
        self.spawn_transactors(Some(&made));
    }
}

/// A topic of one partition with its producers. Its directory is made when it is opened.
pub fn make_partition(
    around: &Surroundings,
    users: &Users,
    topic: Option<String>,
    owner: ShardId,
    dice: &mut Random,
) -> TopicPartition {
    let kind = TopicKind::draw(dice);
    let mut metadata = around.metadata.borrow_mut();
    let id = metadata.create(topic, kind, owner);
    let name = metadata.partitions[&id].directory();
    around.model.borrow_mut().add(id, PartitionModel::new(name, kind));
    users.add_for(id, kind, Metadata::number(&id) as i64 * 10, around.settings.has_transactions, dice);
    id
}
