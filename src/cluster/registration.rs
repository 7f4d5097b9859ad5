//! What a starting node adds to the metadata log before it opens anything.

use super::brokers::NODE_ID_MAX;
use super::image::Image;
use super::leadership::Rules;
use super::leadership::membership::{LogFound, ReplacesAnother};
use super::lifecycle::InSyncMin;
use super::placement;
use super::record::{FEATURE_LEVEL_BASE, Node, Record};
use crate::codec::control::{Doubtful, LogsFound};
use crate::config::Routing;
use crate::config::topic::TopicDefaults;
use crate::types::limits::SHARDS_MAX;
use crate::types::{BrokerEpoch, DirectoryId, NodeId, ShardId, TopicPartition, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// Why a node may not start with this configuration on this metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationRefused {
    #[error("node id {0} is out of range: use 0 to {NODE_ID_MAX}")]
    NodeId(i32),
    #[error("{0} cores are out of range: use 1 to {SHARDS_MAX}")]
    Cores(u16),
    #[error("with routing = core the cores listen on ports {base} + 1 to {base} + {cores}: use a lower port")]
    Ports { base: u16, cores: u16 },
    /// One that has no others is the whole cluster, so another id means another node's directory.
    #[error("the data directory belongs to node {found}, not to node {wanted}: start with --node-id {found}")]
    OtherNode { found: i32, wanted: i32 },
    #[error(transparent)]
    ReplacesAnother(#[from] ReplacesAnother),
    #[error(
        "the cluster is at feature level {cluster}, and this build knows levels up to {known}: start a newer build"
    )]
    OlderBuild { cluster: u16, known: u16 },
}

/// What a process says of the node that it is.
#[derive(Clone, Debug)]
pub struct Start {
    /// Its epoch and whether it is fenced are not the process's to say.
    pub node: Node,
    /// Where partitions were found that were made while it had only one log directory.
    pub found: BTreeMap<TopicPartition, DirectoryId>,
    pub logs: LogsFound,
    pub doubtful: Doubtful,
    /// The registration that ends with this one, as far as the process knows.
    pub replaces: Option<BrokerEpoch>,
}

/// The records by which a node joins: the cluster itself when there is none, new owners for the partitions of cores
/// that it no longer has, the log directory of partitions that were made while it had only one, what its start means
/// for those who lead, and the registration, under a new epoch, behind all of that.
///
/// A node that has others is fenced until it is up to date; one that has none is the only one to lead, and goes on
/// at once. A process that is registered yields nothing. `new_cluster_id` is used only for a new cluster.
pub fn register(
    image: &Image,
    start: &Start,
    defaults: &TopicDefaults,
    new_cluster_id: Uuid,
) -> Result<Vec<Record>, RegistrationRefused> {
    let Start { node, found, logs, doubtful, replaces } = start;
    check(image, node)?;
    if is_registered(image, node) {
        return Ok(Vec::new());
    }
    let mut members = image.members();
    members.may_register(node.id, *replaces)?;
    let node = Node {
        broker_epoch: image.next_broker_epoch(),
        is_fenced: node.peer.is_some(),
        is_shutting_down: false,
        ..node.clone()
    };
    members.register(node.id, node.broker_epoch);
    if !node.is_fenced {
        members.unfence(node.id);
    }
    let mut records = Vec::new();
    if image.cluster_id().is_none() {
        records.push(Record::ClusterCreated { cluster_id: new_cluster_id });
    }
    let mut changed = placement::rehome(image, &node, found, *logs == LogsFound::Empty);
    let damaged = match logs {
        LogsFound::Damaged(damaged) => damaged.iter().copied().collect(),
        LogsFound::Empty => BTreeSet::new(),
    };
    let doubtful: Option<BTreeSet<TopicPartition>> = match doubtful {
        Doubtful::Partitions(some) => Some(some.iter().copied().collect()),
        Doubtful::All => None,
    };
    let is_doubtful = |id: TopicPartition| doubtful.as_ref().is_none_or(|some| some.contains(&id));
    for topic in image.topics() {
        let mut in_sync_min = InSyncMin::of(topic, defaults);
        for (id, state) in topic.partitions().filter(|(_, state)| state.replica_on(node.id).is_some()) {
            let state = changed.get(&id).unwrap_or(state);
            let known = |id| if id == node.id { Some(&node) } else { image.node(id) };
            let offline = state.offline_replicas(known);
            let rules = Rules { members: &members, in_sync_min: in_sync_min.get(state), offline: &offline };
            let is_lost = *logs == LogsFound::Empty || damaged.contains(&id);
            let leadership = state.leadership();
            let leadership = match is_lost {
                // Nobody else could lead, and the node itself says what it cannot serve.
                _ if !node.is_fenced => leadership.node_came(rules, node.id),
                true => leadership.node_started(rules, node.id, LogFound::Lost),
                false if offline.contains(&node.id) => {
                    leadership.node_started(rules, node.id, LogFound::Unavailable)
                }
                false if is_doubtful(id) => leadership.node_started(rules, node.id, LogFound::Doubtful),
                false => leadership.node_started(rules, node.id, LogFound::Complete),
            };
            if let Some(leadership) = leadership {
                let state = state.clone().with_leadership(&leadership);
                changed.insert(id, state);
            }
        }
    }
    records.extend(changed.into_iter().map(|(id, state)| Record::PartitionChanged { id, state }));
    records.push(Record::NodeRegistered(node));
    let level = records.iter().map(Record::feature_level).max().unwrap_or(FEATURE_LEVEL_BASE);
    if start.node.feature_level_max < level {
        let (cluster, known) = (level, start.node.feature_level_max);
        return Err(RegistrationRefused::OlderBuild { cluster, known });
    }
    if image.feature_level() < level {
        let at = usize::from(image.cluster_id().is_none());
        records.insert(at, Record::FeatureLevelSet { level });
    }
    Ok(records)
}

/// By this very process.
pub fn is_registered(image: &Image, node: &Node) -> bool {
    image.node(node.id).is_some_and(|registered| registered.incarnation == node.incarnation)
}

fn check(image: &Image, node: &Node) -> Result<(), RegistrationRefused> {
    let NodeId(id) = node.id;
    if !(0..=NODE_ID_MAX).contains(&id) {
        return Err(RegistrationRefused::NodeId(id));
    }
    if node.cores == 0 || usize::from(node.cores) > SHARDS_MAX {
        return Err(RegistrationRefused::Cores(node.cores));
    }
    if node.routing == Routing::Core && node.routing.port(node.port, ShardId(node.cores - 1)).is_none() {
        return Err(RegistrationRefused::Ports { base: node.port, cores: node.cores });
    }
    if node.feature_level_max < image.feature_level() {
        let (cluster, known) = (image.feature_level(), node.feature_level_max);
        return Err(RegistrationRefused::OlderBuild { cluster, known });
    }
    match image.nodes().next() {
        Some(other) if image.node(node.id).is_none() && node.peer.is_none() => {
            Err(RegistrationRefused::OtherNode { found: other.id.0, wanted: id })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cluster::image::tests::{add_topic, image_of, node, partition_id, replica, topic_id};
    use crate::cluster::record::{LogDirectory, PartitionState};
    use crate::config::HostPort;

    pub const CLUSTER_ID: Uuid = Uuid::from_u128(9);

    /// What that process says, whose logs are complete and which knows the image.
    pub fn started(image: &Image, node: Node, process: u128) -> Start {
        Start {
            replaces: image.node(node.id).map(|node| node.broker_epoch),
            node: Node { incarnation: Uuid::from_u128(process), ..node },
            found: BTreeMap::new(),
            logs: LogsFound::Damaged(Vec::new()),
            doubtful: Doubtful::Partitions(Vec::new()),
        }
    }

    /// The records by which it registers.
    pub fn registration(
        image: &Image,
        node: Node,
        process: u128,
    ) -> Result<Vec<Record>, RegistrationRefused> {
        register(image, &started(image, node, process), &TopicDefaults::default(), CLUSTER_ID)
    }

    fn take(image: &mut Image, records: &[Record]) {
        records.iter().for_each(|record| image.apply(record).expect("decided on this image"));
    }

    fn registered(image: &mut Image, node: Node, process: u128) -> Vec<Record> {
        let records = registration(image, node, process).expect("a valid node");
        take(image, &records);
        records
    }

    fn with_peer(id: i32) -> Node {
        let peer = Some(HostPort { host: "broker.example".to_owned(), port: 9093 });
        Node { peer, ..node(id, 1, Routing::Node) }
    }

    #[test]
    fn first_start_forms_the_cluster_and_each_one_gets_an_epoch() {
        let mut image = Image::default();
        assert_eq!(registered(&mut image, node(1, 2, Routing::Node), 1).len(), 3);
        assert_eq!(image.cluster_id(), Some(CLUSTER_ID));
        assert_eq!(registered(&mut image, node(1, 2, Routing::Node), 1), [], "it is registered");
        assert_eq!(registered(&mut image, node(1, 2, Routing::Node), 2).len(), 1);
        let epoch = image.node(NodeId(1)).map(|node| (node.broker_epoch, node.is_fenced));
        assert_eq!(epoch, Some((BrokerEpoch(2), false)), "it has nobody to wait for");
    }

    #[test]
    fn a_log_of_before_epochs_goes_on_with_its_leaders() {
        let mut image = image_of(&[node(1, 1, Routing::Node)]);
        image.apply(&Record::FeatureLevelSet { level: 2 }).expect("it is lower");
        add_topic(&mut image, 1, "a", &[0, 0]);
        let records = registered(&mut image, node(1, 1, Routing::Node), 1);
        let [Record::FeatureLevelSet { level: 7 }, Record::NodeRegistered(node)] = &records[..] else {
            panic!("{records:?}");
        };
        assert_eq!(node.broker_epoch, BrokerEpoch(1));
        assert!(image.partitions().all(|(_, state)| state.leader_epoch.0 == 0));
    }

    #[test]
    fn a_build_that_does_not_know_the_level_of_the_cluster_is_refused() {
        let mut image = image_of(&[with_peer(1)]);
        image.apply(&Record::FeatureLevelSet { level: 7 }).expect("it is known");
        let older = || Node { feature_level_max: 6, ..with_peer(2) };
        let refused = RegistrationRefused::OlderBuild { cluster: 7, known: 6 };
        assert_eq!(registration(&image, older(), 1), Err(refused.clone()));
        image.apply(&Record::FeatureLevelSet { level: 6 }).expect("it is known");
        assert_eq!(registration(&image, older(), 1), Err(refused), "it would be with this registration");
        assert!(registration(&image, with_peer(3), 1).is_ok());
    }

    #[test]
    fn fewer_cores_rehome_and_register() {
        let mut image = Image::default();
        registered(&mut image, node(1, 4, Routing::Node), 1);
        add_topic(&mut image, 1, "a", &[3, 0]);
        let records = registered(&mut image, node(1, 1, Routing::Node), 2);
        assert!(matches!(records[..], [Record::PartitionChanged { .. }, Record::NodeRegistered(_)]));
        assert!(image.partitions().all(|(_, state)| state.replicas[0].owner == ShardId(0)));
    }

    /// Nodes 1 and 2, unfenced; three partitions that node 1 leads and has alone, two that node 2 is in sync of.
    fn two() -> Image {
        let mut image = image_of(&[
            Node { broker_epoch: BrokerEpoch(1), ..with_peer(1) },
            Node { broker_epoch: BrokerEpoch(2), ..with_peer(2) },
        ]);
        add_topic(&mut image, 1, "a", &[0, 0, 0]);
        image.apply(&Record::TopicCreated { topic: topic_id(2), name: "b".to_owned() }).expect("new");
        for index in 0..2 {
            let state = PartitionState::new(vec![replica(1, 0), replica(2, 0)]);
            image.apply(&Record::PartitionCreated { id: partition_id(2, index), state }).expect("the next");
        }
        image
    }

    /// Leader, in sync, eligible.
    fn state(image: &Image, topic: u128, index: usize) -> (Option<i32>, Vec<i32>, Vec<i32>) {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let state = image.partition(partition_id(topic, index)).expect("it is there");
        (state.leader.map(|node| node.0), ids(&state.in_sync), ids(&state.eligible_leaders))
    }

    #[test]
    fn a_node_that_has_others_starts_fenced_and_leads_nothing() {
        let mut image = two();
        let records = registered(&mut image, with_peer(1), 7);
        assert!(matches!(records.last(), Some(Record::NodeRegistered(_))), "behind what follows from it");
        let node = image.node(NodeId(1)).expect("it is registered");
        assert_eq!((node.broker_epoch, node.is_fenced), (BrokerEpoch(3), true));
        assert_eq!(state(&image, 1, 0), (None, vec![1], vec![]), "its log is complete");
        assert_eq!(state(&image, 2, 0), (Some(2), vec![1, 2], vec![]));
    }

    #[test]
    fn what_is_damaged_or_gone_is_in_sync_no_more() {
        let mut image = two();
        let damaged = LogsFound::Damaged(vec![partition_id(1, 1), partition_id(2, 0)]);
        let start = Start { logs: damaged, ..started(&image, with_peer(1), 7) };
        let records = register(&image, &start, &TopicDefaults::default(), CLUSTER_ID).expect("valid");
        take(&mut image, &records);
        assert_eq!(state(&image, 1, 0), (None, vec![1], vec![]));
        assert_eq!(state(&image, 1, 1), (None, vec![], vec![]));
        assert_eq!(state(&image, 2, 0), (Some(2), vec![2], vec![]));
        assert_eq!(state(&image, 2, 1), (Some(2), vec![1, 2], vec![]));
        let start = Start { logs: LogsFound::Empty, ..started(&image, with_peer(1), 8) };
        let records = register(&image, &start, &TopicDefaults::default(), CLUSTER_ID).expect("valid");
        take(&mut image, &records);
        assert_eq!(state(&image, 1, 0), (None, vec![], vec![]));
        assert_eq!(state(&image, 2, 1), (Some(2), vec![2], vec![]));
    }

    #[test]
    fn what_may_lack_its_end_counts_where_nobody_is_sure_to_have_more() {
        let mut image = two();
        let mut start = |id, process, doubtful| {
            let start = Start { doubtful, ..started(&image, with_peer(id), process) };
            let records = register(&image, &start, &TopicDefaults::default(), CLUSTER_ID).expect("valid");
            take(&mut image, &records);
            [state(&image, 1, 0), state(&image, 2, 0), state(&image, 2, 1)]
        };
        let [alone, doubtful, sure] = start(1, 7, Doubtful::Partitions(vec![partition_id(2, 0)]));
        assert_eq!(alone, (None, vec![1], vec![]));
        assert_eq!(doubtful, (Some(2), vec![2], vec![]), "the other one has all that was acknowledged");
        assert_eq!(sure, (Some(2), vec![1, 2], vec![]));
        let [_, doubtful, sure] = start(2, 8, Doubtful::All);
        assert_eq!(doubtful, (None, vec![2], vec![]), "nobody has more");
        assert_eq!(sure, (None, vec![1], vec![]));
    }

    #[test]
    fn what_is_in_a_log_directory_without_use_is_led_by_others_and_may_come_back() {
        let mut image = two();
        let directory = DirectoryId(Uuid::from_u128(5));
        for topic in [1, 2] {
            let id = partition_id(topic, 0);
            let mut state = image.partition(id).expect("it is there").clone();
            state.replicas[0].directory = Some(directory);
            image.apply(&Record::PartitionChanged { id, state }).expect("fits");
        }
        let unusable = LogDirectory { id: directory, path: "/disk".to_owned(), is_offline: true };
        let well = LogDirectory {
            id: DirectoryId(Uuid::from_u128(6)),
            path: "/other".to_owned(),
            is_offline: false,
        };
        let log_directories = vec![well, unusable];
        registered(&mut image, Node { log_directories, ..with_peer(1) }, 7);
        assert_eq!(state(&image, 1, 0), (None, vec![], vec![1]), "once it can be used again");
        assert_eq!(state(&image, 2, 0), (Some(2), vec![2], vec![1]));
        assert_eq!(state(&image, 2, 1), (Some(2), vec![1, 2], vec![]), "in the other one");
    }

    #[test]
    fn a_node_that_begins_anew_has_its_replicas_in_the_directories_that_it_has_now() {
        let directory = |number| DirectoryId(Uuid::from_u128(number));
        let with = |ids: &[u128]| {
            let named =
                |id: &u128| LogDirectory { id: directory(*id), path: format!("/{id}"), is_offline: false };
            Node { log_directories: ids.iter().map(named).collect(), ..with_peer(1) }
        };
        let mut image = two();
        registered(&mut image, with(&[5, 6]), 7);
        let homes = |image: &Image| -> BTreeSet<Option<DirectoryId>> {
            let replicas = image.partitions().filter_map(|(_, state)| state.replica_on(NodeId(1)));
            replicas.map(|replica| replica.directory).collect()
        };
        assert_eq!(homes(&image), [Some(directory(5))].into());
        let mut begin_anew = |node: Node, process| {
            let start = Start { logs: LogsFound::Empty, ..started(&image, node, process) };
            let records = register(&image, &start, &TopicDefaults::default(), CLUSTER_ID);
            take(&mut image, &records.expect("a valid node"));
            homes(&image)
        };
        assert_eq!(begin_anew(with(&[7, 8]), 8), [Some(directory(7)), Some(directory(8))].into());
        assert_eq!(begin_anew(with(&[7, 8]), 9), [Some(directory(7)), Some(directory(8))].into());
        assert_eq!(begin_anew(with(&[]), 10), [None].into(), "it has only one");
        assert_eq!(begin_anew(with(&[9, 10]), 11), [Some(directory(9)), Some(directory(10))].into());
    }

    #[test]
    fn a_copy_of_an_earlier_registration_comes_too_late() {
        let mut image = two();
        let early = started(&image, with_peer(1), 7);
        let defaults = TopicDefaults::default();
        registered(&mut image, with_peer(1), 7);
        registered(&mut image, with_peer(1), 8);
        let refused = register(&image, &early, &defaults, CLUSTER_ID);
        let current = BrokerEpoch(4);
        assert_eq!(refused, Err(ReplacesAnother { current }.into()));
        let unknowing = Start { replaces: None, ..early };
        assert_eq!(
            register(&image, &unknowing, &defaults, CLUSTER_ID),
            Err(ReplacesAnother { current }.into())
        );
    }

    #[test]
    fn another_nodes_directory_is_refused() {
        let mut image = Image::default();
        registered(&mut image, node(1, 1, Routing::Node), 1);
        let refused = registration(&image, node(2, 1, Routing::Node), 2);
        assert_eq!(refused, Err(RegistrationRefused::OtherNode { found: 1, wanted: 2 }));
    }

    #[test]
    fn ids_and_ports_past_their_range_are_refused() {
        let image = Image::default();
        let refused = |node: Node| registration(&image, node, 1).is_err();
        assert!(refused(node(-1, 1, Routing::Node)));
        assert!(refused(node(NODE_ID_MAX + 1, 1, Routing::Node)));
        assert!(refused(node(1, 0, Routing::Node)));
        assert!(refused(Node { port: 65_535, ..node(1, 1, Routing::Core) }));
        assert!(!refused(Node { port: 65_535, ..node(1, 1, Routing::Node) }));
    }
}
