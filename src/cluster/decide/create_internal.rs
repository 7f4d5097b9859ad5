//! Topics that the broker keeps its own state in, made when they are first needed (Kafka
//! `AutoTopicCreationManager`). No client can make them.

use std::collections::BTreeMap;

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::protocol::StrBytes;

use super::create_topics::{Creation, Naming};
use super::{Controller, NewTopicId, Refusal};
use crate::cluster::record::Record;
use crate::cluster::topic_name;
use crate::codec::error_code::ErrorCode;

/// How such a topic is made: of every key the last record stays.
#[derive(Clone, Copy, Debug)]
pub struct InternalTopic {
    pub name: &'static str,
    pub partitions: u32,
    /// As many as there are nodes for.
    pub replicas: u16,
    pub segment_bytes: u64,
    /// `None`: what topics inherit.
    pub batch_bytes_max: Option<usize>,
}

/// Creates the topic; if it is there, that is fine. The map says why it was not.
pub fn decide_create_internal(
    controller: Controller<'_>,
    topic: &InternalTopic,
    new_topic_id: NewTopicId<'_>,
) -> (Vec<Record>, BTreeMap<TopicName, ErrorCode>) {
    assert!(topic_name::is_internal(topic.name), "clients make all others");
    // No more replicas than there are nodes: it is needed now.
    let replicas = usize::from(topic.replicas).min(controller.brokers.node_count());
    let config = |name, value: String| {
        CreatableTopicConfig::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
    };
    let mut configs = vec![
        config("cleanup.policy", "compact".to_owned()),
        config("segment.bytes", topic.segment_bytes.to_string()),
    ];
    configs.extend(topic.batch_bytes_max.map(|bytes| config("max.message.bytes", bytes.to_string())));
    let name = TopicName(StrBytes::from_static_str(topic.name));
    let created = CreatableTopic::default()
        .with_name(name.clone())
        .with_num_partitions(topic.partitions as i32)
        .with_replication_factor(replicas as i16)
        .with_configs(configs);
    let mut creation = Creation::new(controller, new_topic_id).naming(Naming::Internal);
    match creation.create(&created) {
        Ok(_) | Err(Refusal::TopicExists(_)) => (creation.change.into_records(false), BTreeMap::new()),
        Err(refusal) => (Vec::new(), BTreeMap::from([(name, refusal.code())])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::config::Routing;

    const TOPIC: InternalTopic = InternalTopic {
        name: "__consumer_offsets",
        partitions: 5,
        replicas: 3,
        segment_bytes: 1 << 20,
        batch_bytes_max: Some(1 << 19),
    };

    #[test]
    fn internal_topic_is_compacted_and_made_once() {
        let mut cluster = Cluster::new(2, Routing::Node);
        cluster.defaults.replication_factor = 3;
        for made in [true, false] {
            let (records, errors) =
                cluster.decide(|controller, new_id| decide_create_internal(controller, &TOPIC, new_id));
            assert_eq!((records.is_empty(), errors.len()), (!made, 0));
        }
        let topic = cluster.image.topic_named(TOPIC.name).expect("it was created");
        assert_eq!((topic.partitions.len(), topic.replication_factor()), (5, 1));
        let owners: Vec<u16> = topic.partitions.iter().map(|state| state.replicas[0].owner.0).collect();
        assert_eq!(owners, [0, 1, 0, 1, 0], "over all cores");
        let config = topic.resolve_config(&cluster.defaults).expect("valid");
        assert!(config.is_compacted() && !config.is_deleting());
        assert_eq!((config.segment_bytes, config.max_message_bytes), (1 << 20, 1 << 19));
    }
}
