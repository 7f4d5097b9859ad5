//! The records of the metadata log, as owned values.
//!
//! Each is one fact in its final form; `schemas/metadata.fbs` says what a field means on disk, and
//! `encoding` converts. A value of these types satisfies the rules that hold for a record alone
//! ([`PartitionState::check`]); rules that need the image are checked by `Image::apply`.

use crate::config::quota::{QuotaEntity, QuotaKind, QuotaLimit};
use crate::config::{HostPort, Routing};
use crate::types::limits::SHARDS_MAX;
use crate::types::{
    BrokerEpoch, DirectoryId, LeaderEpoch, NodeId, OwnershipEpoch, PartitionEpoch, ShardId, TopicId,
    TopicPartition, Uuid,
};

/// The newest feature level that this build writes and understands.
pub const FEATURE_LEVEL: u16 = 7;

/// Of a cluster whose nodes have one log directory each.
pub const FEATURE_LEVEL_BASE: u16 = 1;

/// Nodes with several log directories, and which one a partition is in.
pub const FEATURE_LEVEL_DIRECTORIES: u16 = 2;

/// Settings other than topics', and client quotas.
pub const FEATURE_LEVEL_SETTINGS: u16 = 3;

/// Settings of groups.
pub const FEATURE_LEVEL_GROUP_SETTINGS: u16 = 4;

/// Not of a record: of the log itself, once a quorum has written to it. A build that knows only records refuses it.
pub const FEATURE_LEVEL_QUORUM: u16 = 5;

/// Nodes that others reach.
pub const FEATURE_LEVEL_PEERS: u16 = 6;

/// Registrations with epochs, fencing, eligible leaders, reassignments.
pub const FEATURE_LEVEL_LIFECYCLE: u16 = 7;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    ClusterCreated {
        cluster_id: Uuid,
    },
    FeatureLevelSet {
        level: u16,
    },
    NodeRegistered(Node),
    TopicCreated {
        topic: TopicId,
        name: String,
    },
    TopicDeleted {
        topic: TopicId,
    },
    PartitionCreated {
        id: TopicPartition,
        state: PartitionState,
    },
    PartitionChanged {
        id: TopicPartition,
        state: PartitionState,
    },
    TopicConfigSet {
        topic: TopicId,
        key: String,
        value: Option<String>,
    },
    ProducerIdsAllocated {
        node: NodeId,
        block: ProducerIdBlock,
    },
    ConfigSet {
        resource: ConfigResource,
        key: String,
        value: Option<String>,
    },
    ClientQuotaSet {
        entity: QuotaEntity,
        kind: QuotaKind,
        limit: Option<QuotaLimit>,
    },
    /// The node is none any more, unless it has a higher epoch by now.
    NodeUnregistered {
        node: NodeId,
        broker_epoch: BrokerEpoch,
    },
}

/// What a setting belongs to that is no topic's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// Every node that does not say for itself.
    Brokers,
    /// Whichever brokers it is.
    Node(NodeId),
    /// A subscription to clients' metrics, by its name.
    ClientMetrics(String),
    /// A group, by its id; it need not be there.
    Group(String),
}

impl Record {
    /// The feature level that a reader must know so as not to overlook anything in it.
    pub fn feature_level(&self) -> u16 {
        let has_directories = match self {
            Record::NodeRegistered(node) if node.has_lifecycle() => return FEATURE_LEVEL_LIFECYCLE,
            Record::NodeUnregistered { .. } => return FEATURE_LEVEL_LIFECYCLE,
            Record::PartitionCreated { state, .. } | Record::PartitionChanged { state, .. }
                if !state.eligible_leaders.is_empty() || state.is_reassigned() =>
            {
                return FEATURE_LEVEL_LIFECYCLE;
            }
            Record::NodeRegistered(node) if node.peer.is_some() => return FEATURE_LEVEL_PEERS,
            Record::NodeRegistered(node) => !node.log_directories.is_empty(),
            Record::PartitionCreated { state, .. } | Record::PartitionChanged { state, .. } => {
                state.replicas.iter().any(|replica| replica.directory.is_some())
            }
            Record::FeatureLevelSet { level } => return (*level).min(FEATURE_LEVEL),
            Record::ConfigSet { resource: ConfigResource::Group(_), .. } => {
                return FEATURE_LEVEL_GROUP_SETTINGS;
            }
            Record::ConfigSet { .. } | Record::ClientQuotaSet { .. } => return FEATURE_LEVEL_SETTINGS,
            Record::ClusterCreated { .. }
            | Record::TopicCreated { .. }
            | Record::TopicDeleted { .. }
            | Record::TopicConfigSet { .. }
            | Record::ProducerIdsAllocated { .. } => false,
        };
        if has_directories { FEATURE_LEVEL_DIRECTORIES } else { FEATURE_LEVEL_BASE }
    }

    /// An upper bound of the bytes that this record takes in an entry.
    pub fn encoded_size_max(&self) -> usize {
        /// Tables, their shared layouts, offsets, ids and alignment.
        const FIXED: usize = 224;
        let variable = match self {
            Record::ClusterCreated { .. }
            | Record::FeatureLevelSet { .. }
            | Record::TopicDeleted { .. }
            | Record::ProducerIdsAllocated { .. }
            | Record::NodeUnregistered { .. } => 0,
            Record::NodeRegistered(node) => {
                let directories = node.log_directories.iter().map(|directory| 48 + directory.path.len());
                let peer = node.peer.as_ref().map_or(0, |peer| 8 + peer.host.len());
                node.host.len()
                    + node.rack.as_ref().map_or(0, String::len)
                    + directories.sum::<usize>()
                    + peer
            }
            Record::TopicCreated { name, .. } => name.len(),
            Record::PartitionCreated { state, .. } | Record::PartitionChanged { state, .. } => {
                let lists = [&state.in_sync, &state.eligible_leaders, &state.adding, &state.removing];
                let moving = if state.is_reassigned() { 16 } else { 0 };
                moving + 28 * state.replicas.len() + lists.map(|nodes| 4 * nodes.len()).iter().sum::<usize>()
            }
            Record::TopicConfigSet { key, value, .. } => key.len() + value.as_ref().map_or(0, String::len),
            Record::ConfigSet { resource, key, value } => {
                let name = match resource {
                    ConfigResource::Brokers | ConfigResource::Node(_) => 0,
                    ConfigResource::ClientMetrics(name) | ConfigResource::Group(name) => name.len(),
                };
                name + key.len() + value.as_ref().map_or(0, String::len)
            }
            Record::ClientQuotaSet { entity, .. } => {
                let names = [&entity.user, &entity.client_id].into_iter().flatten();
                names.map(|name| 40 + name.name().map_or(0, str::len)).sum::<usize>()
            }
        };
        FIXED + variable
    }
}

/// A node as it last started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    pub cores: u16,
    pub routing: Routing,
    /// The advertised address: what clients connect to.
    pub host: String,
    /// Of the node's broker, or under core routing of the bootstrap address.
    pub port: u16,
    pub rack: Option<String>,
    /// In their order, where there are several; the first one has the metadata.
    pub log_directories: Vec<LogDirectory>,
    /// Where other nodes reach it.
    pub peer: Option<HostPort>,
    /// Of this registration (KIP-631). 0: of before there were any.
    pub broker_epoch: BrokerEpoch,
    /// Of the process that has registered, random. Nil: of before there were any.
    pub incarnation: Uuid,
    /// It leads nothing and comes into no in-sync set: nothing is heard of it, or not yet that it is up to date.
    pub is_fenced: bool,
    /// Likewise: it is about to stop (KIP-841).
    pub is_shutting_down: bool,
    /// The highest level that its build knows.
    pub feature_level_max: u16,
}

/// A log directory of a node, and where it was when the node last started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirectory {
    pub id: DirectoryId,
    pub path: String,
    /// It could not be used then, or has failed since.
    pub is_offline: bool,
}

/// One copy of a partition, the shard of its node that owns it and the directory that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    pub node: NodeId,
    pub owner: ShardId,
    pub ownership_epoch: OwnershipEpoch,
    /// `None`: the only one of its node, which then holds everything.
    pub directory: Option<DirectoryId>,
}

/// Invariant: replicas name each node once; in-sync and eligible nodes are replicas, none of them both; the leader is
/// in sync; nodes that come and go are replicas, and neither are all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// In preference order: the first is the preferred leader.
    pub replicas: Vec<Replica>,
    pub in_sync: Vec<NodeId>,
    /// Who has everything that was acknowledged and may lead once nobody is in sync (KIP-966).
    pub eligible_leaders: Vec<NodeId>,
    /// Replicas that a reassignment brings in (KIP-455).
    pub adding: Vec<NodeId>,
    /// Replicas that go once all others are in sync. One that an earlier reassignment was to bring in is both.
    pub removing: Vec<NodeId>,
    pub leader: Option<NodeId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
}

/// Producer ids `first` to `first + count - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerIdBlock {
    pub first: i64,
    pub count: u32,
}

/// Why a record cannot be what a controller wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    #[error("node id {0} is negative")]
    NegativeNode(i32),
    #[error("{0} cores, allowed are 1 to {SHARDS_MAX}")]
    Cores(u16),
    #[error("routing {0} is unknown")]
    Routing(u8),
    #[error("partition index {0} is out of range")]
    PartitionIndex(u32),
    #[error("owner shard {0} is out of range")]
    OwnerShard(u16),
    #[error("no replicas")]
    NoReplicas,
    #[error("{directories} log directories for {replicas} replicas")]
    Directories { replicas: usize, directories: usize },
    #[error("node {0:?} holds two replicas")]
    ReplicaTwice(NodeId),
    #[error("node {0:?} is in sync but holds no replica")]
    InSyncElsewhere(NodeId),
    #[error("node {0:?} is eligible but holds no replica, or is in sync")]
    Eligible(NodeId),
    #[error("node {0:?} comes or goes and holds no replica, or does so twice")]
    Reassigned(NodeId),
    #[error("all replicas come, or all go")]
    ReassignedAll,
    #[error("leader {0:?} is not in sync")]
    LeaderNotInSync(NodeId),
    #[error("a leader, partition or broker epoch is negative")]
    NegativeEpoch,
    #[error("producer ids from {first}, {count} of them")]
    ProducerIds { first: i64, count: i64 },
    #[error("feature level 0")]
    FeatureLevel,
    #[error("kind {0} of a setting's resource is unknown")]
    ConfigKind(u8),
    #[error("a subscription without a name")]
    NamelessSubscription,
    #[error("settings of a group without a name")]
    NamelessGroup,
    #[error("a quota of nobody, or of an unknown type of entity, or of one twice")]
    QuotaEntity,
    #[error("quota {0:?} is unknown")]
    QuotaKey(String),
    #[error("a quota of {0}")]
    QuotaLimit(String),
}

impl Node {
    /// Whether the log directory of one of its replicas cannot be used, or is not there any more.
    pub fn is_offline(&self, replica: &Replica) -> bool {
        let Some(id) = replica.directory.filter(|_| !self.log_directories.is_empty()) else { return false };
        self.log_directories.iter().all(|directory| directory.id != id || directory.is_offline)
    }

    /// It says more than builds know that have no registrations with epochs.
    fn has_lifecycle(&self) -> bool {
        self.broker_epoch.0 != 0 || !self.incarnation.is_nil() || self.is_fenced || self.is_shutting_down
    }

    /// Partitions are led by it and made on it.
    pub fn is_active(&self) -> bool {
        !self.is_fenced && !self.is_shutting_down
    }
}

impl Replica {
    /// Whether it was once on another shard of its node.
    pub fn has_moved(&self) -> bool {
        self.ownership_epoch > OwnershipEpoch(0)
    }
}

impl PartitionState {
    /// It goes on without a replica on this node, and others have everything.
    pub fn is_elsewhere(&self, node: NodeId) -> bool {
        self.replica_on(node).is_none() && !self.in_sync.is_empty()
    }

    /// A new partition: led by its first replica, everyone in sync.
    pub fn new(replicas: Vec<Replica>) -> PartitionState {
        PartitionState {
            in_sync: replicas.iter().map(|replica| replica.node).collect(),
            eligible_leaders: Vec::new(),
            adding: Vec::new(),
            removing: Vec::new(),
            leader: replicas.first().map(|replica| replica.node),
            replicas,
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
        }
    }

    pub fn replica_on(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// The nodes whose replica is in a log directory that cannot be used, of nodes as `node` says.
    pub fn offline_replicas<'a>(&self, node: impl Fn(NodeId) -> Option<&'a Node>) -> Vec<NodeId> {
        let is_offline = |replica: &&Replica| node(replica.node).is_some_and(|node| node.is_offline(replica));
        self.replicas.iter().filter(is_offline).map(|replica| replica.node).collect()
    }

    /// Replicas come or go.
    pub fn is_reassigned(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The shard of a node that has a replica of it.
    pub fn owner_on(&self, node: NodeId) -> Option<ShardId> {
        self.replica_on(node).map(|replica| replica.owner)
    }

    /// The shard that leads it, if that is one of this node.
    pub fn led_on(&self, node: NodeId) -> Option<ShardId> {
        self.replica_on(node).filter(|_| self.leader == Some(node)).map(|replica| replica.owner)
    }

    /// O(replicas²), replicas are a handful.
    pub fn check(&self) -> Result<(), InvalidRecord> {
        if self.replicas.is_empty() {
            return Err(InvalidRecord::NoReplicas);
        }
        for (position, replica) in self.replicas.iter().enumerate() {
            if self.replicas[..position].iter().any(|other| other.node == replica.node) {
                return Err(InvalidRecord::ReplicaTwice(replica.node));
            }
            if replica.owner.index() >= SHARDS_MAX {
                return Err(InvalidRecord::OwnerShard(replica.owner.0));
            }
        }
        if let Some(&node) = self.in_sync.iter().find(|&&node| self.replica_on(node).is_none()) {
            return Err(InvalidRecord::InSyncElsewhere(node));
        }
        let is_ineligible = |node: &NodeId| self.replica_on(*node).is_none() || self.in_sync.contains(node);
        if let Some(&node) = self.eligible_leaders.iter().find(|node| is_ineligible(node)) {
            return Err(InvalidRecord::Eligible(node));
        }
        for moving in [&self.adding, &self.removing] {
            let is_wrong =
                |at: &usize| self.replica_on(moving[*at]).is_none() || moving[..*at].contains(&moving[*at]);
            if let Some(at) = (0..moving.len()).find(is_wrong) {
                return Err(InvalidRecord::Reassigned(moving[at]));
            }
            if moving.len() == self.replicas.len() {
                return Err(InvalidRecord::ReassignedAll);
            }
        }
        if let Some(leader) = self.leader.filter(|leader| !self.in_sync.contains(leader)) {
            return Err(InvalidRecord::LeaderNotInSync(leader));
        }
        if self.leader_epoch.0 < 0 || self.partition_epoch.0 < 0 {
            return Err(InvalidRecord::NegativeEpoch);
        }
        Ok(())
    }
}

impl ProducerIdBlock {
    /// `None` when the block would pass the largest producer id.
    pub fn new(first: i64, count: u32) -> Option<ProducerIdBlock> {
        let end = first.checked_add(i64::from(count))?;
        (first >= 0 && count > 0 && end > first).then_some(ProducerIdBlock { first, count })
    }

    /// Exclusive.
    pub fn end(self) -> i64 {
        self.first + i64::from(self.count)
    }
}
