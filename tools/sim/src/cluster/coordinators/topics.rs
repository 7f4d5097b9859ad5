//! The topics that there are for coordinators. They are made before anything goes wrong, and stay.

use crate::cluster::coordinators::Coordinators;
use crate::cluster::metadata::slot;
use crate::replication::run::play;
use crate::replication::scene::Scene;
use crate::world::S;
use odradek::cluster::decide::InternalTopic;
use odradek::group::GROUPS_TOPIC;
use odradek::txn::TRANSACTIONS_TOPIC;
use odradek::types::TopicId;

/// All of them.
const TOPICS: &[&str] = &[GROUPS_TOPIC, TRANSACTIONS_TOPIC, WRITTEN_TOPICS[0], WRITTEN_TOPICS[1]];

/// Those that are written to in transactions, and by nobody else.
pub const WRITTEN_TOPICS: &[&str] = &["accounts", "orders"];

/// How one of those is made that no client can make.
pub fn internal_topic(name: &str) -> Option<InternalTopic> {
    let name = [GROUPS_TOPIC, TRANSACTIONS_TOPIC].into_iter().find(|internal| *internal == name)?;
    let (partitions, replicas, segment_bytes, batch_bytes_max) = (1, 3, 1 << 20, None);
    Some(InternalTopic { name, partitions, replicas, segment_bytes, batch_bytes_max })
}

impl Scene {
    /// Until every node has heard of all of them.
    pub fn create_coordinated_topics(&mut self) {
        if !self.decided().settings.has_coordinators {
            return;
        }
        self.coordinators = Some(Box::<Coordinators>::default());
        for name in TOPICS {
            while self.coordinated().partition_named(name).is_none() && !self.world.has_findings() {
                self.create_topic_named(name);
                play(self, S, |_| false);
            }
        }
        let all_know = |scene: &Scene| {
            let knows = |id: usize| {
                let image = scene.decided().image_of(slot(id));
                image.is_some_and(|image| TOPICS.iter().all(|name| image.topic_named(name).is_some()))
            };
            (1..=scene.settings.nodes).all(knows)
        };
        play(self, 20 * S, all_know);
        self.use_coordinators();
    }

    /// A topic is decided: is it one of these?
    pub fn coordinated_topic_is_made(&mut self, topic: TopicId, partition: usize) {
        let name = self.decided().image.topic(topic).map(|topic| topic.name.clone());
        let Some(all) = &mut self.coordinators else { return };
        if let Some(name) = name.filter(|name| TOPICS.contains(&name.as_str())) {
            all.names.insert(partition, name);
        }
    }

    /// Partitions that operators may do anything with.
    pub fn ordinary_partitions(&self) -> Vec<usize> {
        self.partitions().into_iter().filter(|partition| !self.is_coordinated(*partition)).collect()
    }
}
