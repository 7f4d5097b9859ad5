//! `odradek cluster create` and `join`: the first start of a node of a cluster. `odradek cluster status`: the metadata
//! quorum, brokers and the health of partitions, over the Kafka protocol; `voter`: members of the quorum.
//!
//! | file | what |
//! |---|---|
//! | `nodes.rs` | `node`: brokers, nodes that are emptied, leave or are replaced |
//! | `rebalance.rs` | `rebalance`: nodes get alike many |
//! | `reassign.rs` | `reassign`: replicas of single partitions |
//! | `moving.rs`, `carrying.rs` | what these have in common: plans; carried out and waited for |
//! | `throttle.rs` | what moves is copied at a rate |

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_quorum_response::{DescribeQuorumResponse, ReplicaState};
use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
use kafka_protocol::messages::{
    AddRaftVoterRequest, DescribeClusterRequest, DescribeClusterResponse, DescribeQuorumRequest,
    ListPartitionReassignmentsRequest, MetadataResponse, RemoveRaftVoterRequest,
};
use kafka_protocol::protocol::StrBytes;
use odradek::cluster::describe::{BrokerCores, BrokerLifecycle, ask_quorum};
use odradek::config::Config;
use odradek::metrics::names::error_name;
use odradek::preflight::{PreflightError, directory_ids};
use serde_json::{Value, json};

use super::brokers::{Cluster, Place};
use super::client::{Client, ClientFlags};
use super::settings::{SETTINGS_HELP, SettingsArguments};
use super::table::Table;
use super::{Failure, print, print_json, start};

mod carrying;
mod moving;
mod nodes;
mod reassign;
mod rebalance;
mod throttle;

use moving::Ongoing;

pub use nodes::{NodeArguments, run_alone as run_node};

/// Of a change of the quorum's members, or of partitions' replicas.
const TIMEOUT_MS: i32 = 10_000;

#[derive(Debug, Args)]
pub struct ClusterArguments {
    #[command(flatten)]
    flags: ClientFlags,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Start the first node of a cluster, on an empty data directory
    #[command(after_help = SETTINGS_HELP)]
    Create {
        #[command(flatten)]
        settings: SettingsArguments,
    },
    /// Start another node of a cluster, on an empty data directory
    #[command(after_help = SETTINGS_HELP)]
    Join {
        /// Where nodes of the cluster listen to other nodes; default: those of --voters
        #[arg(value_name = "HOST:PORT")]
        nodes: Vec<String>,
        #[command(flatten)]
        settings: SettingsArguments,
    },
    /// Show the metadata quorum, the brokers, and how many partitions lack a leader or a replica
    Status,
    /// Show the nodes of the cluster, empty or replace them, or make one that is gone for good none any more
    Node {
        #[command(subcommand)]
        command: nodes::NodeCommand,
    },
    /// Move replicas and leaders so that nodes have alike many
    Rebalance(rebalance::RebalanceArguments),
    /// Move partitions to other brokers, or go back to the replicas of before
    Reassign(reassign::ReassignArguments),
    /// Give an observer of the metadata quorum a vote, or take out a member that is gone for good
    Voter {
        #[command(subcommand)]
        command: VoterCommand,
    },
}

#[derive(Debug, Subcommand)]
enum VoterCommand {
    /// Give a vote to a node that follows the metadata quorum as an observer
    Add {
        #[arg(value_name = "NODE-ID")]
        node: i32,
    },
    /// Take a node that does not run any more out of the metadata quorum
    Remove {
        #[arg(value_name = "NODE-ID")]
        node: i32,
    },
}

pub fn run(arguments: &ClusterArguments) -> Result<(), Failure> {
    match &arguments.command {
        ClusterCommand::Create { settings } => create(settings),
        ClusterCommand::Join { nodes, settings } => join(nodes, settings),
        ClusterCommand::Status => status(arguments),
        ClusterCommand::Node { command } => nodes::run(&arguments.flags, command),
        ClusterCommand::Rebalance(rebalanced) => rebalance::run(&arguments.flags, rebalanced),
        ClusterCommand::Reassign(reassigned) => reassign::run(&arguments.flags, reassigned),
        ClusterCommand::Voter { command } => change_voters(&arguments.flags, command),
    }
}

fn change_voters(flags: &ClientFlags, command: &VoterCommand) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&flags.brokers)?;
    let client = cluster.any();
    let (node, done, code, message) = match *command {
        VoterCommand::Add { node } => {
            let request = AddRaftVoterRequest::default()
                .with_cluster_id(None)
                .with_voter_id(node)
                .with_timeout_ms(TIMEOUT_MS);
            let response = client.send(|_| request.clone())?;
            (node, "added", response.error_code, response.error_message)
        }
        VoterCommand::Remove { node } => {
            let request = RemoveRaftVoterRequest::default().with_cluster_id(None).with_voter_id(node);
            let response = client.send(|_| request.clone())?;
            (node, "removed", response.error_code, response.error_message)
        }
    };
    if code != 0 {
        return Err(refused("node", node, code, message));
    }
    if flags.json {
        print_json(&json!({ "node": node, "voter": done }))
    } else {
        print(&format!("{done} {node}\n"))
    }
}

fn refused(what: &str, id: i32, code: i16, message: Option<StrBytes>) -> Failure {
    let reason = message.filter(|message| !message.is_empty());
    let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
    format!("{what} {id}: {}{reason}", error_name(code)).into()
}

fn create(settings: &SettingsArguments) -> Result<(), Failure> {
    let config = settings.resolve()?;
    if !config.join.is_empty() {
        return Err("a node that joins a cluster does not create one: leave one of both out".into());
    }
    if !config.voters.is_empty() && config.voters.iter().all(|voter| voter.node != config.node_id) {
        let id = config.node_id.0;
        return Err(format!("node {id} is none of --voters: create the cluster on one of them").into());
    }
    start_new(&config)
}

fn join(nodes: &[String], settings: &SettingsArguments) -> Result<(), Failure> {
    let mut nodes = nodes.to_vec();
    if nodes.is_empty() {
        nodes = settings.resolve()?.seeds().iter().map(ToString::to_string).collect();
    }
    if nodes.is_empty() {
        return Err("say where a node of the cluster listens to others: HOST:PORT, or --voters".into());
    }
    start_new(&settings.clone().with("HOST:PORT", "join", nodes.join(",")).resolve()?)
}

/// A node that has been started before is started by `odradek start`.
fn start_new(config: &Config) -> Result<(), Failure> {
    if config.peer_listen.is_none() {
        return Err(PreflightError::NoPeerListen.into());
    }
    if let Some(path) = config.data_dirs.iter().find(|path| directory_ids(path).is_some()) {
        let problem = "belongs to a node already: run `odradek start`, or choose another --data-dir";
        return Err(format!("{} {problem}", path.display()).into());
    }
    start::run_as(config, start::First::Here)
}

fn status(arguments: &ClusterArguments) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&arguments.flags.brokers)?;
    // Before and after: what begins or ends in between is not taken for something missing.
    let mut moving = ongoing_if_told(&mut cluster)?;
    let metadata = cluster.metadata_of_all()?;
    moving.extend(ongoing_if_told(&mut cluster)?);
    let quorum = describe_quorum(cluster.any())?;
    let brokers = describe_brokers(cluster.any())?;
    let status = Status::new(&metadata, quorum, &brokers, &moving);
    if arguments.flags.json { print_json(&status.json()) } else { print(&status.text()) }
}

/// None of a broker that does not tell.
fn ongoing_if_told(cluster: &mut Cluster) -> Result<BTreeMap<Place, Ongoing>, Failure> {
    match cluster.any().offers::<ListPartitionReassignmentsRequest>() {
        true => moving::ongoing(cluster),
        false => Ok(BTreeMap::new()),
    }
}

/// `None` of a broker that has no quorum, or does not say.
fn describe_quorum(client: &mut Client) -> Result<Option<Quorum>, Failure> {
    if !client.offers::<DescribeQuorumRequest>() {
        return Ok(None);
    }
    let response: DescribeQuorumResponse = client.send(|_| ask_quorum())?;
    let partition = response.topics.into_iter().flat_map(|topic| topic.partitions).next();
    let code = match &partition {
        Some(partition) if response.error_code == 0 => partition.error_code,
        _ => response.error_code,
    };
    match partition {
        Some(partition) if code == 0 => Ok(Some(Quorum {
            leader: partition.leader_id.0,
            term: partition.leader_epoch,
            committed: partition.high_watermark,
            voters: partition.current_voters,
            observers: partition.observers,
        })),
        _ => Err(format!("the metadata quorum: {}", error_name(code)).into()),
    }
}

/// Fenced ones too, of a broker that tells of them.
fn describe_brokers(client: &mut Client) -> Result<Vec<DescribeClusterBroker>, Failure> {
    if !client.offers::<DescribeClusterRequest>() {
        return Ok(Vec::new());
    }
    let ask = |version| DescribeClusterRequest::default().with_include_fenced_brokers(version >= 2);
    let response: DescribeClusterResponse = client.send(ask)?;
    match response.error_code {
        0 => Ok(response.brokers),
        code => Err(format!("the brokers: {}", error_name(code)).into()),
    }
}

struct Quorum {
    leader: i32,
    term: i32,
    committed: i64,
    voters: Vec<ReplicaState>,
    observers: Vec<ReplicaState>,
}

/// A broker and the partitions that it has.
#[derive(Default)]
struct Load {
    address: String,
    rack: Option<String>,
    state: State,
    /// `None` of one that does not say.
    epoch: Option<i64>,
    /// Its node, and the leaders on each core; likewise.
    cores: Option<BrokerCores>,
    leaders: usize,
    replicas: usize,
}

impl Load {
    /// Of one that has no partitions yet.
    fn of(broker: &DescribeClusterBroker) -> Load {
        let lifecycle = BrokerLifecycle::told(broker);
        Load {
            address: format!("{}:{}", broker.host, broker.port),
            rack: broker.rack.as_ref().map(ToString::to_string),
            state: match lifecycle {
                _ if broker.is_fenced => State::Fenced,
                Some(lifecycle) if lifecycle.is_shutting_down => State::Stopping,
                _ => State::Alive,
            },
            epoch: lifecycle.map(|lifecycle| lifecycle.broker_epoch.0),
            cores: BrokerCores::told(broker),
            ..Load::default()
        }
    }

    fn node(&self) -> Option<i32> {
        self.cores.as_ref().map(|cores| cores.node.0)
    }

    /// Of each core, in their order.
    fn per_core(&self) -> String {
        let leaders = self.cores.iter().flat_map(|cores| &cores.leaders).map(u32::to_string);
        let leaders = leaders.collect::<Vec<_>>();
        if leaders.is_empty() { "-".to_string() } else { leaders.join(" ") }
    }

    fn epoch(&self) -> String {
        self.epoch.map_or("-".to_string(), |epoch| epoch.to_string())
    }
}

#[derive(Clone, Copy, Default)]
enum State {
    Alive,
    Stopping,
    Fenced,
    /// It is none any more, and has replicas.
    #[default]
    Gone,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Alive => "alive",
            State::Stopping => "stopping",
            State::Fenced => "fenced",
            State::Gone => "gone",
        }
    }
}

struct Status {
    cluster: String,
    controller: i32,
    quorum: Option<Quorum>,
    brokers: BTreeMap<i32, Load>,
    topics: usize,
    partitions: usize,
    /// Fewer replicas in sync than there are, without those that are still to come.
    under_replicated: Vec<String>,
    /// Replicas come, or go.
    moving: Vec<String>,
    /// Nobody leads them.
    offline: Vec<String>,
}

impl Status {
    fn new(
        metadata: &MetadataResponse,
        quorum: Option<Quorum>,
        described: &[DescribeClusterBroker],
        moving: &BTreeMap<Place, Ongoing>,
    ) -> Status {
        let load = |broker: &MetadataResponseBroker| Load {
            address: format!("{}:{}", broker.host, broker.port),
            rack: broker.rack.as_ref().map(ToString::to_string),
            state: State::Alive,
            ..Load::default()
        };
        let mut status = Status {
            cluster: metadata.cluster_id.as_deref().unwrap_or_default().to_owned(),
            controller: metadata.controller_id.0,
            quorum,
            brokers: metadata.brokers.iter().map(|broker| (broker.node_id.0, load(broker))).collect(),
            topics: metadata.topics.len(),
            partitions: 0,
            under_replicated: Vec::new(),
            moving: moving.keys().map(|(topic, partition)| format!("{topic}-{partition}")).collect(),
            offline: Vec::new(),
        };
        for broker in described {
            status.brokers.insert(broker.broker_id.0, Load::of(broker));
        }
        for topic in &metadata.topics {
            let name = topic.name.as_ref().map_or("", |name| name.as_str());
            for partition in &topic.partitions {
                let id = format!("{name}-{}", partition.partition_index);
                status.partitions += 1;
                if partition.leader_id.0 < 0 {
                    status.offline.push(id.clone());
                } else {
                    status.brokers.entry(partition.leader_id.0).or_default().leaders += 1;
                }
                let place = (name.to_owned(), partition.partition_index);
                let adding = moving.get(&place).map_or(&[][..], |moving| &moving.adding_replicas);
                // As Kafka counts (`Partition.isUnderReplicated`).
                let has = partition.replica_nodes.iter().filter(|node| !adding.contains(node)).count();
                if partition.isr_nodes.len() < has {
                    status.under_replicated.push(id);
                }
                for replica in &partition.replica_nodes {
                    status.brokers.entry(replica.0).or_default().replicas += 1;
                }
            }
        }
        status
    }

    fn text(&self) -> String {
        let mut text = format!("Cluster: {}\n", self.cluster);
        if let Some(quorum) = &self.quorum {
            let Quorum { leader, term, committed, .. } = quorum;
            text.push_str(&format!(
                "Quorum: led by {leader} in term {term}, {committed} entries committed\n\n"
            ));
            let mut table = Table::new(&["MEMBER", "ROLE", "FLUSHED", "LAG"]);
            for (role, member) in quorum.members() {
                let (id, flushed) = (member.replica_id.0.to_string(), number(member.log_end_offset));
                let lag = quorum.lag(member).map_or("-".to_string(), |lag| lag.to_string());
                table.row(&[&id, role, &flushed, &lag]);
            }
            text.push_str(&table.to_string());
        }
        text.push('\n');
        let mut table =
            Table::new(&["BROKER", "ADDRESS", "RACK", "STATE", "EPOCH", "LEADERS", "PER CORE", "REPLICAS"]);
        for (id, load) in &self.brokers {
            let id = if *id == self.controller { format!("{id} (controller)") } else { id.to_string() };
            let (leaders, replicas) = (load.leaders.to_string(), load.replicas.to_string());
            let rack = load.rack.as_deref().unwrap_or("-");
            let address = if load.address.is_empty() { "-" } else { &load.address };
            let (state, epoch, per_core) = (load.state.name(), load.epoch(), load.per_core());
            table.row(&[&id, address, rack, state, &epoch, &leaders, &per_core, &replicas]);
        }
        text.push_str(&table.to_string());
        let nodes = self.nodes_of_several();
        if !nodes.is_empty() {
            text.push('\n');
            let mut table = Table::new(&["NODE", "LEADERS", "REPLICAS"]);
            for (node, (leaders, replicas)) in nodes {
                table.row(&[&node.to_string(), &leaders.to_string(), &replicas.to_string()]);
            }
            text.push_str(&table.to_string());
        }
        text.push_str(&format!(
            "\n{} topics, {} partitions, {} under-replicated, {} offline, {} moving\n",
            self.topics,
            self.partitions,
            self.under_replicated.len(),
            self.offline.len(),
            self.moving.len()
        ));
        let lists = [
            ("Under-replicated", &self.under_replicated),
            ("Offline", &self.offline),
            ("Moving", &self.moving),
        ];
        for (what, partitions) in lists {
            if !partitions.is_empty() {
                text.push_str(&format!("{what}: {}\n", partitions.join(", ")));
            }
        }
        text
    }

    /// Leaders and replicas of each node, where nodes are more than one broker (`core` routing).
    fn nodes_of_several(&self) -> BTreeMap<i32, (usize, usize)> {
        let mut nodes: BTreeMap<i32, (usize, usize)> = BTreeMap::new();
        for (id, load) in &self.brokers {
            if let Some(node) = load.node().filter(|node| node != id) {
                let (leaders, replicas) = nodes.entry(node).or_default();
                (*leaders, *replicas) = (*leaders + load.leaders, *replicas + load.replicas);
            }
        }
        nodes
    }

    fn json(&self) -> Value {
        let brokers = self.brokers.iter().map(|(id, load)| {
            json!({
                "broker": id,
                "node": load.node(),
                "address": load.address,
                "rack": load.rack,
                "state": load.state.name(),
                "epoch": load.epoch,
                "leaders": load.leaders,
                "leaders_per_core": load.cores.as_ref().map(|cores| &cores.leaders),
                "replicas": load.replicas,
            })
        });
        json!({
            "cluster_id": self.cluster,
            "controller": self.controller,
            "quorum": self.quorum.as_ref().map(Quorum::json),
            "brokers": brokers.collect::<Vec<_>>(),
            "topics": self.topics,
            "partitions": self.partitions,
            "under_replicated": self.under_replicated,
            "offline": self.offline,
            "moving": self.moving,
        })
    }
}

impl Quorum {
    fn members(&self) -> impl Iterator<Item = (&'static str, &ReplicaState)> {
        let voters = self.voters.iter().map(|member| {
            let role = if member.replica_id.0 == self.leader { "leader" } else { "voter" };
            (role, member)
        });
        voters.chain(self.observers.iter().map(|member| ("observer", member)))
    }

    /// Committed entries that a member lacks; `None` of one that has said nothing.
    fn lag(&self, member: &ReplicaState) -> Option<i64> {
        (member.log_end_offset >= 0).then(|| (self.committed - member.log_end_offset).max(0))
    }

    fn json(&self) -> Value {
        let members = self.members().map(|(role, member)| {
            json!({
                "node": member.replica_id.0,
                "role": role,
                "directory_id": odradek::types::uuid_text(member.replica_directory_id),
                "flushed": (member.log_end_offset >= 0).then_some(member.log_end_offset),
                "lag": self.lag(member),
            })
        });
        json!({
            "leader": self.leader,
            "term": self.term,
            "committed": self.committed,
            "members": members.collect::<Vec<_>>(),
        })
    }
}

fn number(value: i64) -> String {
    if value < 0 { "-".to_string() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
    use kafka_protocol::messages::{BrokerId, TopicName};

    fn ids(ids: &[i32]) -> Vec<BrokerId> {
        ids.iter().copied().map(BrokerId).collect()
    }

    /// A partition with these replicas, those in sync, and those that are still to come.
    fn under_replicated(replicas: &[i32], in_sync: &[i32], adding: &[i32], removing: &[i32]) -> bool {
        let partition = MetadataResponsePartition::default()
            .with_leader_id(BrokerId(in_sync[0]))
            .with_replica_nodes(ids(replicas))
            .with_isr_nodes(ids(in_sync));
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_static_str("t"))))
            .with_partitions(vec![partition]);
        let moves = !adding.is_empty() || !removing.is_empty();
        let moving = Ongoing::default()
            .with_replicas(ids(replicas))
            .with_adding_replicas(ids(adding))
            .with_removing_replicas(ids(removing));
        let moving = moves.then(|| (("t".to_owned(), 0), moving)).into_iter().collect();
        let metadata = MetadataResponse::default().with_topics(vec![topic]);
        let status = Status::new(&metadata, None, &[], &moving);
        assert_eq!(status.moving, if moves { vec!["t-0"] } else { vec![] });
        assert!(status.offline.is_empty());
        status.under_replicated == ["t-0"]
    }

    #[test]
    fn replicas_that_are_still_to_come_are_not_missed() {
        assert!(!under_replicated(&[1, 2, 3], &[1, 2, 3], &[], &[]));
        assert!(under_replicated(&[1, 2, 3], &[1, 3], &[], &[]));
        assert!(
            !under_replicated(&[4, 1, 2], &[1, 2], &[4], &[1]),
            "it moves, and those of before are there"
        );
        assert!(under_replicated(&[4, 1, 2], &[2], &[4], &[1]), "one of those of before is not");
        assert!(!under_replicated(&[4, 1, 2], &[2, 4], &[4], &[1]), "as Kafka counts: two have it");
        assert!(!under_replicated(&[1, 2], &[1, 2], &[], &[1]), "one only goes");
    }
}
