//! Everything that a broker has of transactions: coordinators, partitions, the groups' coordinator; and how it
//! goes down and comes again, as a whole or in parts.

use crate::transactions::coordinator::Shell;
use crate::transactions::offsets::Groups;
use crate::transactions::partition::Partition;
use crate::transactions::produce::{MarkerItem, mark, produce};
use crate::transactions::request::{Place, Reply, Request};
use crate::transactions::scene::Scene;
use crate::transactions::settings::{MS, Mistake, S, check};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::transaction_record::{
    PartitionNames, TransactionRecord, TransactionState, TransactionValue,
};
use odradek::group::GROUPS_TOPIC;
use odradek::txn::transaction::Addition;
use odradek::types::{CoordinatorEpoch, ProducerEpoch, ProducerId, Timestamp, TransactionVersion, java_hash};
use std::cell::Cell;
use std::rc::Rc;

/// Topic that is written to.
const TOPIC: &str = "t";

/// Lives: one per seed.
pub struct Cluster {
    pub scene: Rc<Scene>,
    pub coordinators: Vec<Rc<Shell>>,
    /// The last one is that of `__consumer_offsets`.
    pub partitions: Vec<Rc<Partition>>,
    pub groups: Rc<Groups>,
    next_producer: Cell<i64>,
}

impl Cluster {
    pub fn new(scene: &Rc<Scene>) -> Rc<Cluster> {
        let settings = scene.settings;
        let mut partitions: Vec<_> =
            (0..settings.partitions).map(|index| Partition::new(scene, index, TOPIC, index as i32)).collect();
        partitions.push(Partition::new(scene, settings.partitions, GROUPS_TOPIC, 0));
        let groups = Groups::new(scene, partitions.last().expect("there is one"));
        let coordinators = (0..settings.coordinators).map(|index| Shell::new(scene, index)).collect();
        let cluster = Rc::new(Cluster {
            scene: scene.clone(),
            coordinators,
            partitions,
            groups,
            next_producer: Cell::new(1000),
        });
        cluster.coordinators.iter().for_each(|shell| shell.join(&cluster));
        cluster
    }

    pub fn id(&self, number: usize) -> String {
        format!("id{number}")
    }

    pub fn offsets_partition(&self) -> usize {
        self.partitions.len() - 1
    }

    pub fn partition_named(&self, topic: &str, number: i32) -> usize {
        let found = self.partitions.iter().position(|found| found.topic == topic && found.number == number);
        found.expect("nothing else is added")
    }

    pub fn coordinator_of(&self, id: &str) -> &Rc<Shell> {
        &self.coordinators[java_hash::partition_of(id, self.coordinators.len())]
    }

    pub fn fresh_producer(&self) -> Option<ProducerId> {
        if !self.scene.makes(Mistake::IdGivenTwice) || self.scene.world.one_in(2) {
            self.next_producer.set(self.next_producer.get() + 1);
        }
        Some(ProducerId(self.next_producer.get()))
    }

    /// Transactional ids that have used up most of their epochs.
    pub fn seed(&self) {
        let now = self.scene.now();
        for number in 0..self.scene.settings.ids {
            let id = self.id(number);
            let left = self.scene.world.between(1, 6) as i16;
            let value = TransactionValue {
                producer: self.fresh_producer().expect("there is one"),
                epoch: ProducerEpoch(i16::MAX - left),
                previous_producer: None,
                next_producer: None,
                timeout_ms: 10_000,
                state: TransactionState::Empty,
                partitions: PartitionNames::default(),
                last_update: now,
                start: Timestamp::NONE,
                client_version: 0,
            };
            let record = TransactionRecord { transactional_id: id.clone(), value: Some(value) };
            self.coordinator_of(&id).seed(record);
        }
    }

    // --- Requests

    /// `None`: the connection has ended.
    pub async fn ask(self: &Rc<Self>, request: Request) -> Option<Reply> {
        let world = &self.scene.world;
        world.count("requests");
        world.note(format_args!("{}", request.summary()));
        let asked = self.scene.watch.borrow_mut().arrived(&request);
        let reply = self.dispatch(request.clone()).await?;
        world.note(format_args!("  {} is answered {reply:?}", request.name()));
        count_answer(&self.scene, &request, &reply);
        if let Some(error) = reply.error()
            && !request.allows(error)
        {
            let what = format!("{} with {}", request.summary(), error.name());
            world.finding(check::ERRORS, format_args!("{what}"));
        }
        self.scene.watch.borrow_mut().answered(&request, &asked, &reply);
        Some(reply)
    }

    async fn dispatch(self: &Rc<Self>, request: Request) -> Option<Reply> {
        match request {
            Request::Init { id, init } => self.coordinator_of(&id).init(&id, init).await.map(Reply::Writer),
            Request::End { id, end, .. } => self.coordinator_of(&id).end(&id, end).await.map(Reply::Writer),
            Request::AddPartitions { id, writer, partitions, .. } => {
                let named = partitions.iter().map(|at| &self.partitions[*at]);
                let partitions: PartitionNames =
                    named.map(|found| (found.topic.as_str(), found.number)).collect();
                let addition = Addition { writer, version: TransactionVersion::V1, partitions };
                self.coordinator_of(&id).add(&id, addition).await.map(Reply::Done)
            }
            Request::AddOffsets { id, writer, .. } => {
                let partitions = [(GROUPS_TOPIC, 0)].into_iter().collect();
                let addition = Addition { writer, version: TransactionVersion::V1, partitions };
                self.coordinator_of(&id).add(&id, addition).await.map(Reply::Done)
            }
            Request::Write { id, write } => match write.place {
                Place::Record { .. } => produce(self, &id, write).await.map(Reply::Done),
                Place::Offset { .. } => self.groups.commit(self, &id, write).await.map(Reply::Done),
            },
            Request::FetchOffsets { group } => self.groups.fetch(group).map(Reply::Fetched),
            Request::Describe { id } => Some(Reply::Described(self.coordinator_of(&id).describe(&id))),
            Request::List { coordinator } => Some(Reply::Listed(self.coordinators[coordinator].list())),
            Request::Mark { partition, marker } => {
                let newest = self.newest_epoch();
                let version = TransactionVersion::V1;
                let item = MarkerItem { marker, version, newest, is_coordinators: false };
                if !self.partitions[partition].is_up() {
                    return None;
                }
                mark(self, partition, item).await.map(Reply::Done)
            }
        }
    }

    pub fn newest_epoch(&self) -> CoordinatorEpoch {
        let epochs = self.coordinators.iter().map(|shell| shell.epoch());
        epochs.max().unwrap_or(CoordinatorEpoch(0))
    }

    // --- Checks from time to time

    pub fn look(&self) {
        self.coordinators.iter().for_each(|shell| shell.look());
        for partition in &self.partitions {
            partition.read();
            if partition.is_up() {
                self.scene.watch.borrow().look_at_open(partition);
            }
        }
        self.groups.look();
    }

    // --- Runs

    /// Everything starts for the first time.
    pub async fn start(self: &Rc<Self>) {
        for partition in &self.partitions {
            partition.start();
        }
        self.groups.start().await;
        for shell in &self.coordinators {
            shell.start(false).await;
        }
    }

    /// The whole node crashes, and starts after a while.
    pub async fn restart(self: &Rc<Self>) {
        let world = &self.scene.world;
        world.count("restart: the whole node");
        self.scene.run.set(self.scene.run.get() + 1);
        self.coordinators.iter().for_each(|shell| shell.crash());
        self.partitions.iter().for_each(|partition| partition.crash());
        self.groups.crash();
        self.pause().await;
        // In any order, and requests come in meanwhile.
        let coordinators_first = world.one_in(2);
        if coordinators_first {
            self.start_coordinators().await;
        }
        for partition in &self.partitions {
            self.scene.pause(200 * MS).await;
            partition.start();
        }
        self.groups.start().await;
        if !coordinators_first {
            self.start_coordinators().await;
        }
    }

    async fn start_coordinators(&self) {
        for shell in &self.coordinators {
            shell.start(false).await;
        }
    }

    async fn pause(&self) {
        let max = if self.scene.is_calm.get() { MS } else { 3 * S };
        self.scene.pause(max).await;
    }

    /// A coordinator moves: it has crashed, or gives up its partition.
    pub async fn move_coordinator(&self, index: usize) {
        let world = &self.scene.world;
        let shell = &self.coordinators[index];
        if world.one_in(2) && !shell.is_offline() && shell.is_ready() {
            shell.resign();
            self.scene.pause(S).await;
            shell.hand_over();
        } else {
            shell.crash();
        }
        self.pause().await;
        if world.one_in(2) {
            shell.clean();
        }
        shell.start(true).await;
    }

    /// A partition crashes and comes back.
    pub async fn restart_partition(&self, index: usize) {
        let partition = &self.partitions[index];
        let is_offsets = index == self.offsets_partition();
        partition.crash();
        if is_offsets {
            self.groups.crash();
        }
        self.pause().await;
        partition.start();
        if is_offsets {
            self.groups.start().await;
        }
    }

    /// What cannot go on by itself.
    pub async fn mend(&self) {
        for (index, shell) in self.coordinators.iter().enumerate() {
            if shell.is_offline() {
                self.move_coordinator(index).await;
            }
        }
        for (index, partition) in self.partitions.iter().enumerate() {
            if partition.is_offline() {
                self.restart_partition(index).await;
            }
        }
    }

    pub fn waiting_count(&self) -> usize {
        let coordinators: usize = self.coordinators.iter().map(|shell| shell.waiting_count()).sum();
        coordinators + self.groups.waiting_count()
    }
}

/// Under names that do not change from seed to seed.
fn count_answer(scene: &Scene, request: &Request, reply: &Reply) {
    let name = match reply.error() {
        None => format!("{}: answered", request.name()),
        Some(error) => format!("{}: refused, {}", request.name(), error.name()),
    };
    scene.world.counts.borrow_mut().add(&name, 1);
    if reply.error() == Some(ErrorCode::ConcurrentTransactions) {
        scene.world.count("told to come again");
    }
}
