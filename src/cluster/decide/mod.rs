//! What the controller decides: a request and the image in, records and the response out.
//!
//! Nothing here changes the image. The response leaves when the records are in the metadata log;
//! until then the caller decides nothing else, since the next decision must see these records
//! applied. Each topic or resource of a request is decided alone: one that is refused leaves no
//! record and does not stop the others. The errors and their texts are Kafka's
//! (`ReplicationControlManager`, `ControllerApis`, `ConfigurationControlManager`).

mod alter_configs;
mod alter_partitions;
mod alter_reassignments;
mod auto_create;
mod client_quotas;
mod create_internal;
mod create_partitions;
mod create_topics;
mod delete_topics;
mod elect_leaders;
mod producer_ids;
mod refusal;
mod unregister_broker;

pub use alter_configs::{decide_alter_configs, decide_incremental_alter_configs};
pub use alter_partitions::decide_alter_partitions;
pub use alter_reassignments::decide_alter_reassignments;
pub use auto_create::{decide_auto_create, topics_to_create};
pub use client_quotas::decide_alter_client_quotas;
pub use create_internal::{InternalTopic, decide_create_internal};
pub use create_partitions::decide_create_partitions;
pub use create_topics::decide_create_topics;
pub use delete_topics::decide_delete_topics;
pub use elect_leaders::decide_elect_leaders;
pub use producer_ids::{PRODUCER_IDS_PER_BLOCK, ProducerIdsExhausted, decide_allocate_producer_ids};
pub use refusal::Refusal;
pub use unregister_broker::decide_unregister_broker;

use std::cell::Cell;
use std::collections::BTreeMap;

use super::brokers::Brokers;
use super::image::Image;
use super::levels::check_levels;
use super::placement::DirectoryChoice;
use super::record::{FEATURE_LEVEL_BASE, Record};
use crate::config::Config;
use crate::config::topic::TopicDefaults;
use crate::types::limits::{METADATA_RECORDS_PER_ENTRY_MAX, PARTITIONS_MAX, QUORUM_RECORDS_SIZE_MAX};
use crate::types::{NodeId, TopicId};

/// What every decision may look at.
#[derive(Clone, Copy, Debug)]
pub struct Controller<'a> {
    pub image: &'a Image,
    pub brokers: &'a Brokers,
    /// What this node was started with.
    pub config: &'a Config,
    pub defaults: &'a TopicDefaults,
    /// Of this node.
    pub log_dirs: (NodeId, &'a DirectoryChoice),
    /// Where the client that asks is limited.
    pub mutations: Option<Mutations<'a>>,
}

/// What a client may change (KIP-599).
#[derive(Clone, Copy, Debug)]
pub struct Mutations<'a> {
    /// Partitions that may be created and deleted; below zero: so many too many were.
    pub tokens: &'a Cell<f64>,
    /// Who owes some is refused; otherwise it only waits longer.
    pub is_strict: bool,
}

impl Controller<'_> {
    /// Counts partitions that are created or deleted.
    fn take_mutations(&self, count: usize) -> Result<(), Refusal> {
        let Some(Mutations { tokens, is_strict }) = self.mutations else { return Ok(()) };
        if is_strict && tokens.get() < 0.0 {
            return Err(Refusal::QuotaExceeded);
        }
        tokens.set(tokens.get() - count as f64);
        Ok(())
    }
}

/// Gives a topic id that no topic has: random in the broker, counted in tests.
pub type NewTopicId<'a> = &'a mut dyn FnMut() -> TopicId;

/// The records of one request so far, never more than one log entry and the cluster hold.
#[derive(Debug)]
struct Change<'a> {
    image: &'a Image,
    /// Of the cluster, so far.
    feature_level: u16,
    records: Vec<Record>,
    encoded_size: usize,
    partitions_left: usize,
}

impl Change<'_> {
    fn new(image: &Image) -> Change<'_> {
        let partitions_left = PARTITIONS_MAX.saturating_sub(image.partition_count());
        let feature_level = image.feature_level();
        Change { image, feature_level, records: Vec::new(), encoded_size: 0, partitions_left }
    }

    /// Adds the records of one topic or resource, all or none.
    fn add(&mut self, mut records: Vec<Record>) -> Result<(), Refusal> {
        let level = records.iter().map(Record::feature_level).max().unwrap_or_default();
        if level > self.feature_level.max(FEATURE_LEVEL_BASE) {
            check_levels(self.image, &records)?;
            records.insert(0, Record::FeatureLevelSet { level });
        }
        let count = self.records.len() + records.len();
        let size = self.encoded_size + records.iter().map(Record::encoded_size_max).sum::<usize>();
        if count > METADATA_RECORDS_PER_ENTRY_MAX || size > QUORUM_RECORDS_SIZE_MAX {
            return Err(Refusal::ChangeTooLarge);
        }
        let partitions =
            records.iter().filter(|record| matches!(record, Record::PartitionCreated { .. })).count();
        self.partitions_left = self.partitions_left.checked_sub(partitions).ok_or(Refusal::ClusterFull)?;
        self.feature_level = self.feature_level.max(level);
        self.records.extend(records);
        self.encoded_size = size;
        Ok(())
    }

    fn into_records(self, validate_only: bool) -> Vec<Record> {
        if validate_only { Vec::new() } else { self.records }
    }
}

/// How often each key occurs in a request.
fn occurrences<K: Ord>(keys: impl IntoIterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    keys.into_iter().for_each(|key| *counts.entry(key).or_insert(0) += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica};
    use crate::cluster::log_entry::tests::scan;
    use crate::cluster::log_entry::{EntrySequence, Verdict, encode_entry};
    use crate::cluster::record::{FEATURE_LEVEL_LIFECYCLE, Node, PartitionState};
    use crate::codec::error_code::ErrorCode;
    use crate::config::{Machine, Routing};
    use crate::types::{BrokerEpoch, Uuid};
    use kafka_protocol::messages::create_partitions_request::{
        CreatePartitionsRequest, CreatePartitionsTopic,
    };
    use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
    use kafka_protocol::messages::incremental_alter_configs_request::{
        AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
    };
    use kafka_protocol::messages::{DeleteTopicsRequest, TopicName};
    use kafka_protocol::protocol::StrBytes;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A cluster to decide on, which takes what was decided.
    pub struct Cluster {
        pub image: Image,
        pub brokers: Brokers,
        pub config: Config,
        pub defaults: TopicDefaults,
        topic_ids: u128,
    }

    impl Cluster {
        pub fn new(cores: u16, routing: Routing) -> Cluster {
            let image = image_of(&[node(1, cores, routing)]);
            let brokers = Brokers::new(&image, NodeId(1));
            let machine = Machine { cpus_allowed: vec![0, 1], memory_bytes: 8 << 30 };
            let config = Config::defaults(&machine).expect("valid");
            Cluster { image, brokers, config, defaults: TopicDefaults::default(), topic_ids: 0 }
        }

        /// Decides, applies the records, and gives them back with the response.
        pub fn decide<R>(
            &mut self,
            decide: impl FnOnce(Controller<'_>, NewTopicId<'_>) -> (Vec<Record>, R),
        ) -> (Vec<Record>, R) {
            let Cluster { image, brokers, config, defaults, topic_ids } = self;
            let mut new_topic_id = || {
                *topic_ids += 1;
                TopicId(Uuid::from_u128(*topic_ids))
            };
            let log_dirs = (NodeId(1), &DirectoryChoice::One);
            let controller = Controller { image, brokers, config, defaults, log_dirs, mutations: None };
            let (records, response) = decide(controller, &mut new_topic_id);
            records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
            (records, response)
        }
    }

    fn limited<'a>(controller: Controller<'a>, mutations: Mutations<'a>) -> Controller<'a> {
        Controller { mutations: Some(mutations), ..controller }
    }

    #[test]
    fn limited_clients_owe_what_they_take_too_much_and_are_refused_or_wait() {
        let topic = |name: &'static str| {
            let topic = CreatableTopic::default().with_name(TopicName(StrBytes::from_static_str(name)));
            topic.with_num_partitions(4).with_replication_factor(1)
        };
        let create = CreateTopicsRequest::default().with_topics(vec![topic("a"), topic("b"), topic("c")]);
        let extend = CreatePartitionsTopic::default()
            .with_name(TopicName(StrBytes::from_static_str("a")))
            .with_count(6)
            .with_assignments(None);
        let extend = CreatePartitionsRequest::default().with_topics(vec![extend]);
        let delete =
            DeleteTopicsRequest::default().with_topic_names(vec![TopicName(StrBytes::from_static_str("a"))]);
        for (is_strict, created) in [(true, [0, 0, 89]), (false, [0, 0, 0])] {
            let mut cluster = Cluster::new(2, Routing::Node);
            let tokens = Cell::new(7.0);
            let mutations = Mutations { tokens: &tokens, is_strict };
            let (_, response) =
                cluster.decide(|view, ids| decide_create_topics(limited(view, mutations), &create, ids));
            let codes: Vec<i16> = response.topics.iter().map(|topic| topic.error_code).collect();
            assert_eq!(codes, created, "as long as nothing is owed, and then some");
            assert_eq!(tokens.get(), if is_strict { -1.0 } else { -5.0 });
            let (_, response) =
                cluster.decide(|view, _| decide_create_partitions(limited(view, mutations), &extend));
            assert_eq!(response.results[0].error_code, created[2]);
            let (_, response) =
                cluster.decide(|view, _| decide_delete_topics(limited(view, mutations), &delete, 5));
            assert_eq!(response.responses[0].error_code, created[2]);
            assert_eq!(tokens.get(), if is_strict { -1.0 } else { -5.0 - 2.0 - 6.0 });
        }
    }

    #[test]
    fn change_is_never_larger_than_an_entry() {
        let record = Record::TopicDeleted { topic: TopicId::ZERO };
        let image = Image::default();
        let mut change = Change::new(&image);
        change.add(vec![record.clone(); METADATA_RECORDS_PER_ENTRY_MAX]).expect("fits");
        assert_eq!(change.add(vec![record]), Err(Refusal::ChangeTooLarge));
        assert_eq!(change.into_records(false).len(), METADATA_RECORDS_PER_ENTRY_MAX);
    }

    #[test]
    fn what_not_all_nodes_know_is_refused_and_leaves_nothing() {
        let known = FEATURE_LEVEL_LIFECYCLE - 1;
        let mut image = image_of(&[Node { feature_level_max: known, ..node(1, 1, Routing::Node) }]);
        image.apply(&Record::FeatureLevelSet { level: FEATURE_LEVEL_BASE }).expect("it is known");
        let mut change = Change::new(&image);
        let newer = Record::NodeUnregistered { node: NodeId(9), broker_epoch: BrokerEpoch(1) };
        let refusal = change.add(vec![newer]).expect_err("it is not known");
        assert_eq!(refusal.code(), ErrorCode::UnsupportedVersion);
        let deleted = || vec![Record::TopicDeleted { topic: TopicId::ZERO }];
        change.add(deleted()).expect("it is known");
        assert_eq!(change.into_records(false), deleted());
    }

    #[test]
    fn cluster_holds_so_many_partitions_and_no_more() {
        let created = Record::PartitionCreated {
            id: partition_id(1, 0),
            state: PartitionState::new(vec![replica(1, 0)]),
        };
        let image = Image::default();
        let mut change = Change { partitions_left: 2, ..Change::new(&image) };
        assert_eq!(change.add(vec![created.clone(); 3]), Err(Refusal::ClusterFull));
        assert_eq!(change.add(vec![created; 2]), Ok(()));
    }

    /// One administrative request over few names, so that most of them meet.
    #[derive(Clone, Debug)]
    enum Step {
        Create { name: &'static str, partitions: i32 },
        Delete { name: &'static str },
        Extend { name: &'static str, partitions: i32 },
        Alter { name: &'static str, operation: i8, value: &'static str },
        AutoCreate { name: &'static str },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let name = || proptest::sample::select(vec!["a", "b.c", "b_c", "no/good"]);
        let value = proptest::sample::select(vec!["-1", "5", "x"]);
        prop_oneof![
            (name(), -1..6).prop_map(|(name, partitions)| Step::Create { name, partitions }),
            name().prop_map(|name| Step::Delete { name }),
            (name(), -1..9).prop_map(|(name, partitions)| Step::Extend { name, partitions }),
            (name(), 0..4i8, value).prop_map(|(name, operation, value)| Step::Alter {
                name,
                operation,
                value
            }),
            name().prop_map(|name| Step::AutoCreate { name }),
        ]
    }

    fn decide_step(
        controller: Controller<'_>,
        new_topic_id: NewTopicId<'_>,
        step: &Step,
    ) -> (Vec<Record>, ()) {
        let name = |name: &'static str| TopicName(StrBytes::from_static_str(name));
        let records = match *step {
            Step::Create { name: topic, partitions } => {
                let topic = CreatableTopic::default().with_name(name(topic)).with_num_partitions(partitions);
                let request =
                    CreateTopicsRequest::default().with_topics(vec![topic.with_replication_factor(1)]);
                decide_create_topics(controller, &request, new_topic_id).0
            }
            Step::Delete { name: topic } => {
                let request = DeleteTopicsRequest::default().with_topic_names(vec![name(topic)]);
                decide_delete_topics(controller, &request, 5).0
            }
            Step::Extend { name: topic, partitions } => {
                let topic = CreatePartitionsTopic::default().with_name(name(topic)).with_count(partitions);
                let request = CreatePartitionsRequest::default();
                decide_create_partitions(controller, &request.with_topics(vec![topic.with_assignments(None)]))
                    .0
            }
            Step::Alter { name: topic, operation, value } => {
                let config = AlterableConfig::default()
                    .with_name(StrBytes::from_static_str("retention.ms"))
                    .with_config_operation(operation)
                    .with_value(Some(StrBytes::from_static_str(value)));
                let resource = AlterConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(StrBytes::from_static_str(topic))
                    .with_configs(vec![config]);
                let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
                decide_incremental_alter_configs(controller, &request).0
            }
            Step::AutoCreate { name: topic } => {
                decide_auto_create(controller, &BTreeSet::from([name(topic)]), new_topic_id).0
            }
        };
        (records, ())
    }

    proptest! {
        #[test]
        fn what_was_decided_survives_the_log(steps in proptest::collection::vec(any_step(), 0..40)) {
            let mut cluster = Cluster::new(3, Routing::Core);
            let mut sequence = EntrySequence::FIRST;
            let mut file = encode_entry(sequence, &cluster.image.snapshot()).expect("small");
            for step in &steps {
                // Applying fails, and with it the test, if a decision does not fit the image.
                let (records, ()) = cluster.decide(|controller, new_id| decide_step(controller, new_id, step));
                if !records.is_empty() {
                    sequence = sequence.next();
                    file.extend(encode_entry(sequence, &records).expect("small"));
                }
            }
            let scan = scan(&file);
            prop_assert_eq!(scan.verdict, Verdict::Clean);
            let rebuilt = Image::rebuild(scan.entries.iter().flat_map(|entry| &entry.records));
            prop_assert_eq!(rebuilt.as_ref(), Ok(&cluster.image));
            let compacted = Image::rebuild(&cluster.image.snapshot());
            prop_assert_eq!(compacted.as_ref(), Ok(&cluster.image));
        }
    }
}
