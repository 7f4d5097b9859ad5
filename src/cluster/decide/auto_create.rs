//! Topics that come into being because a client asked for their metadata
//! (`auto.create.topics.enable`).
//!
//! The shard that serves Metadata asks [`topics_to_create`]; when that is not empty it sends the
//! names to the controller, which runs [`decide_auto_create`], and describes the topics once the
//! records are applied. Kafka answers before that and lets the client ask again.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::metadata_request::MetadataRequest;

use super::create_topics::Creation;
use super::{Controller, NewTopicId, Refusal};
use crate::cluster::image::Image;
use crate::cluster::record::Record;
use crate::cluster::topic_name;
use crate::codec::error_code::ErrorCode;
use crate::config::topic::TopicDefaults;

/// From here on the request says whether it wants topics created; before it always does.
const ALLOW_FIELD: i16 = 4;

/// The names in a Metadata request that should be created first, each once.
///
/// Illegal and internal names are not among them: they are described as errors.
pub fn topics_to_create(
    image: &Image,
    defaults: &TopicDefaults,
    request: &MetadataRequest,
    version: i16,
) -> BTreeSet<TopicName> {
    let allowed = defaults.auto_create && (version < ALLOW_FIELD || request.allow_auto_topic_creation);
    let Some(topics) = request.topics.as_ref().filter(|_| allowed) else {
        return BTreeSet::new();
    };
    let by_name =
        topics.iter().filter(|topic| topic.topic_id.is_nil()).filter_map(|topic| topic.name.as_ref());
    let wanted = |name: &&TopicName| {
        image.topic_id(name.as_str()).is_none()
            && topic_name::validate(name.as_str()).is_ok()
            && !topic_name::is_internal(name.as_str())
            && name.as_str() != topic_name::CLUSTER_METADATA
    };
    by_name.filter(wanted).cloned().collect()
}

/// Creates topics with the broker's defaults. The map has the names that could not be created.
pub fn decide_auto_create(
    controller: Controller<'_>,
    names: &BTreeSet<TopicName>,
    new_topic_id: NewTopicId<'_>,
) -> (Vec<Record>, BTreeMap<TopicName, ErrorCode>) {
    let mut creation = Creation::new(controller, new_topic_id);
    let mut errors = BTreeMap::new();
    for name in names {
        let topic = CreatableTopic::default()
            .with_name(name.clone())
            .with_num_partitions(-1)
            .with_replication_factor(-1);
        match creation.create(&topic) {
            // Somebody else was first: as good as created.
            Ok(_) | Err(Refusal::TopicExists(_)) => {}
            Err(refusal) => {
                errors.insert(name.clone(), refusal.code());
            }
        }
    }
    (creation.change.into_records(false), errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::cluster::image::tests::add_topic;
    use crate::config::Routing;
    use kafka_protocol::messages::metadata_request::MetadataRequestTopic;

    fn name(name: &str) -> TopicName {
        TopicName(name.to_owned().into())
    }

    fn request(names: &[&str]) -> MetadataRequest {
        let topic = |topic: &&str| MetadataRequestTopic::default().with_name(Some(name(topic)));
        MetadataRequest::default().with_topics(Some(names.iter().map(topic).collect()))
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::new(2, Routing::Node);
        add_topic(&mut cluster.image, 99, "old.one", &[0]);
        cluster
    }

    #[test]
    fn missing_topics_are_created_with_the_defaults() {
        let mut cluster = cluster();
        cluster.defaults.partitions = 3;
        let request = request(&["new", "old.one", "new", "bad/name", "__consumer_offsets"]);
        let names = topics_to_create(&cluster.image, &cluster.defaults, &request, 9);
        assert_eq!(names, BTreeSet::from([name("new")]));
        let (_, errors) = cluster.decide(|controller, new_id| decide_auto_create(controller, &names, new_id));
        assert_eq!(errors, BTreeMap::new());
        assert_eq!(cluster.image.topic_named("new").map(|topic| topic.partitions.len()), Some(3));
        assert!(topics_to_create(&cluster.image, &cluster.defaults, &request, 9).is_empty());
    }

    #[test]
    fn nothing_is_created_unasked() {
        let mut cluster = cluster();
        let refusing = request(&["new"]).with_allow_auto_topic_creation(false);
        assert!(topics_to_create(&cluster.image, &cluster.defaults, &refusing, 4).is_empty());
        assert!(!topics_to_create(&cluster.image, &cluster.defaults, &refusing, 3).is_empty());
        let all = MetadataRequest::default().with_topics(None);
        assert!(topics_to_create(&cluster.image, &cluster.defaults, &all, 9).is_empty());
        cluster.defaults.auto_create = false;
        assert!(topics_to_create(&cluster.image, &cluster.defaults, &request(&["new"]), 9).is_empty());
    }

    #[test]
    fn race_lost_is_success_and_a_collision_is_an_error() {
        let mut cluster = cluster();
        let names = BTreeSet::from([name("old.one"), name("old_one")]);
        let (records, errors) =
            cluster.decide(|controller, new_id| decide_auto_create(controller, &names, new_id));
        assert_eq!(records, []);
        assert_eq!(errors, BTreeMap::from([(name("old_one"), ErrorCode::InvalidTopicException)]));
    }
}
