//! The shards of one run of the broker, and who uses them.

use crate::metadata::{Metadata, TopicKind};
use crate::model::PartitionModel;
use crate::random::Random;
use crate::shell::deletion;
use crate::shell::open::{OpenRequest, open};
use crate::shell::replica::Replica;
use crate::shell::{Shell, Surroundings};
use crate::workload::{Producer, Transactor, Values};
use odradek::types::{ProducerId, ShardId, TopicPartition};
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
    /// The partition is gone.
    pub fn forget(&self, partition: &TopicPartition) {
        self.producers.borrow_mut().retain(|producer| producer.partition != *partition);
        self.transactors.borrow_mut().retain(|transactor| transactor.partition != *partition);
    }
}

/// Lives: from a start to the next stop or crash.
pub struct Node {
    pub around: Surroundings,
    pub shells: Vec<Rc<Shell>>,
    pub users: Rc<Users>,
    /// Virtual microseconds between two batches of a producer at most.
    pub pause: u64,
}

impl Node {
    pub fn new(around: &Surroundings, shard_count: u16, users: Rc<Users>, pause: u64) -> Rc<Node> {
        let shells = (0..shard_count).map(|shard| Shell::new(ShardId(shard), around)).collect();
        Rc::new(Node { around: around.clone(), shells, users, pause })
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
    for producer in 0..2 {
        let number = Metadata::number(&id) as i64 * 10 + producer;
        let producer_id = (producer == 0 || dice.one_in(2)).then_some(ProducerId(number));
        users.producers.borrow_mut().push(Producer::new(id, kind, producer_id));
    }
    if around.settings.has_transactions {
        for transactor in 0..dice.below(3) as i64 {
            let number = Metadata::number(&id) as i64 * 10 + 2 + transactor;
            users.transactors.borrow_mut().push(Transactor::new(id, kind, ProducerId(number)));
        }
    }
    id
}
