//! All parts of a seed, and what is to happen when.

use crate::cluster::coordinators::Coordinators;
use crate::cluster::metadata::Metadata;
use crate::replication::clients::Clients;
use crate::replication::controller::Controller;
use crate::replication::network::Network;
use crate::replication::node::Node;
use crate::replication::settings::{MS, Mistake, Settings};
use crate::replication::watch::Watch;
use crate::world::{Micros, World};
use odradek::types::{NodeId, PartitionIndex, TopicId, TopicPartition, Uuid};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What happens at some time.
pub type Action = Box<dyn FnOnce(&mut Scene)>;

/// Lives: one per seed.
pub struct Scene {
    pub world: Rc<World>,
    pub settings: Settings,
    /// Number 0 is nobody: nodes are numbered from 1.
    pub nodes: Vec<Node>,
    pub controller: Controller,
    pub network: Network,
    pub clients: Clients,
    pub watch: Watch,
    /// Of a cluster whose nodes decide by a quorum; `None`: the controller stands in for it.
    pub metadata: Option<Box<Metadata>>,
    /// Of a cluster that has some.
    pub coordinators: Option<Box<Coordinators>>,
    /// Nothing goes wrong any more.
    pub is_calm: bool,
    agenda: BTreeMap<(Micros, u64), Action>,
    next_action: u64,
}

impl Scene {
    pub fn new(world: Rc<World>, settings: Settings) -> Scene {
        Scene {
            nodes: (0..=settings.nodes).map(|id| Node::new(NodeId(id as i32))).collect(),
            controller: Controller::new(),
            network: Network::new(settings.nodes),
            clients: Clients::default(),
            watch: Watch::new(world.clone()),
            metadata: None,
            coordinators: None,
            is_calm: false,
            agenda: BTreeMap::new(),
            next_action: 0,
            world,
            settings,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.settings.makes(mistake)
    }

    pub fn after(&mut self, time: Micros, action: impl FnOnce(&mut Scene) + 'static) {
        let number = self.next_action;
        self.next_action += 1;
        self.agenda.insert((self.world.now() + time, number), Box::new(action));
    }

    /// The same, of a node's process: not if it has ended, and later if it is stopped.
    pub fn after_at(&mut self, time: Micros, node: usize, action: impl FnOnce(&mut Scene) + 'static) {
        let run = self.nodes[node].run;
        self.after(time, move |scene| scene.at_node(node, run, action));
    }

    pub fn at_node(&mut self, node: usize, run: u64, action: impl FnOnce(&mut Scene) + 'static) {
        let found = &mut self.nodes[node];
        if !found.is_up || found.run != run {
            return;
        }
        if found.is_paused {
            found.deferred.push(Box::new(action));
        } else {
            action(self);
        }
    }

    /// The next thing happens. `false` when there is none.
    pub fn step(&mut self) -> bool {
        let next = self.agenda.first_key_value().map(|((time, _), _)| *time);
        if self.metadata.is_some() && self.step_engines(next) {
            return true;
        }
        let Some(((time, _), action)) = self.agenda.pop_first() else { return false };
        self.world.jump(time);
        action(self);
        true
    }

    pub fn one_in(&self, count: u64) -> bool {
        count != u64::MAX && self.world.one_in(count)
    }

    /// How long something is on its way.
    pub fn latency(&self) -> Micros {
        let max = if self.is_calm { 2 * MS } else { self.settings.latency_max };
        let spike = !self.is_calm && self.one_in(self.settings.spike);
        50 + self.world.below(if spike { 20 * max } else { max })
    }
}

/// Each is a topic of its own.
pub fn partition_id(number: usize) -> TopicPartition {
    let topic = TopicId(Uuid::from_u128(FIRST_TOPIC + number as u128));
    TopicPartition { topic, partition: PartitionIndex::from_wire(0).expect("the first one") }
}

/// The other way round.
pub fn number_of(partition: TopicPartition) -> usize {
    (partition.topic.0.as_u128() - FIRST_TOPIC) as usize
}

/// The topic id of partition 0.
const FIRST_TOPIC: u128 = 7;

/// The numbers are those of the nodes.
pub fn index(node: NodeId) -> usize {
    node.0 as usize
}
