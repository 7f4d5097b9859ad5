//! DescribeLogDirs (key 35): the log directories of a broker, and how many bytes of each partition are in them.
//!
//! Of a broker that is one core, the partitions of that core; the directories are those of the node.

use crate::cluster::brokers::Routing;
use crate::codec::error_code::ErrorCode;
use crate::shard::Shard;
use crate::shard::conn::{Connection, Listener};
use crate::shard::disk::{FileSystemSpace, blocking, file_system_space};
use crate::shard::message::{Reply, Request};
use crate::shard::step::Pace;
use crate::types::{LogDirIndex, PartitionIndex, ShardId, TopicPartition};
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;

/// The first version that tells how large the file system is.
const SPACE_FROM: i16 = 4;

/// A partition, the directory that has it, and its bytes there.
pub type LogSize = (TopicPartition, LogDirIndex, u64);

pub async fn answer(
    shard: &Rc<Shard>,
    connection: &Connection,
    request: DescribeLogDirsRequest,
    version: i16,
) -> DescribeLogDirsResponse {
    let wanted = wanted(shard, &request);
    let mut sizes = Vec::new();
    for owner in described(shard, connection) {
        if owner == shard.id {
            sizes.extend(sizes_local(shard, wanted.as_ref()).await);
            continue;
        }
        match shard.mesh.call(owner, Request::LogSizes(wanted.clone())).await {
            Reply::LogSizes(found) => sizes.extend(found),
            _ => unreachable!("sizes are answered by sizes"),
        }
    }
    let mut by_dir: BTreeMap<LogDirIndex, Vec<(TopicPartition, u64)>> = BTreeMap::new();
    sizes.into_iter().for_each(|(id, dir, size)| by_dir.entry(dir).or_default().push((id, size)));
    let mut results = Vec::new();
    let dirs: Vec<(LogDirIndex, PathBuf)> =
        shard.log_dirs.iter().map(|(dir, found)| (dir, found.path.clone())).collect();
    for (dir, path) in dirs {
        let path = std::path::absolute(&path).unwrap_or(path);
        let result =
            DescribeLogDirsResult::default().with_log_dir(StrBytes::from_string(path.display().to_string()));
        let looked_at = path.clone();
        let space = blocking(move || file_system_space(&looked_at)).await;
        results.push(match space {
            Ok(space) if !shard.stores.get(dir).is_offline() => {
                let topics = topics(shard, by_dir.remove(&dir).unwrap_or_default());
                with_space(result.with_topics(topics), space, version)
            }
            _ => result.with_error_code(ErrorCode::KafkaStorageError.code()),
        });
    }
    DescribeLogDirsResponse::default().with_results(results)
}

fn with_space(result: DescribeLogDirsResult, space: FileSystemSpace, version: i16) -> DescribeLogDirsResult {
    if version < SPACE_FROM {
        return result;
    }
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    result.with_total_bytes(bytes(space.total)).with_usable_bytes(bytes(space.usable))
}

/// The partitions that are asked for; `None`: all. Those that there are not are left out, as in Kafka.
fn wanted(shard: &Shard, request: &DescribeLogDirsRequest) -> Option<BTreeSet<TopicPartition>> {
    let image = shard.image.borrow();
    let topics = request.topics.as_ref()?;
    let known =
        topics.iter().filter_map(|asked| Some((image.topic_named(&asked.topic)?.id, &asked.partitions)));
    let partitions = known.flat_map(|(topic, partitions)| {
        let index = partitions.iter().filter_map(|index| PartitionIndex::from_wire(*index));
        index.map(move |partition| TopicPartition { topic, partition })
    });
    Some(partitions.collect())
}

/// The shards that the broker of this connection is.
fn described(shard: &Shard, connection: &Connection) -> Vec<ShardId> {
    match (shard.routing(), connection.listener) {
        (Routing::Core, Listener::Core(core)) => vec![core],
        (Routing::Core, Listener::Base) | (Routing::Node, _) => {
            (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16)).collect()
        }
    }
}

/// The sizes of partitions of this shard.
pub async fn sizes_local(shard: &Rc<Shard>, wanted: Option<&BTreeSet<TopicPartition>>) -> Vec<LogSize> {
    let mut sizes = Vec::new();
    let mut pace = Pace::new(&shard.clock);
    for replica in shard.stores.replicas() {
        pace.give_way().await;
        if replica.is_deleted() || wanted.is_some_and(|wanted| !wanted.contains(&replica.id)) {
            continue;
        }
        sizes.push((replica.id, replica.dir, replica.log.borrow().size()));
    }
    sizes
}

fn topics(shard: &Shard, sizes: Vec<(TopicPartition, u64)>) -> Vec<DescribeLogDirsTopic> {
    let image = shard.image.borrow();
    let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for (id, size) in sizes {
        let Some(topic) = image.topic(id.topic) else { continue }; // Deleted meanwhile.
        let partition = DescribeLogDirsPartition::default()
            .with_partition_index(id.partition.to_wire())
            .with_partition_size(i64::try_from(size).unwrap_or(i64::MAX));
        topics.entry(&topic.name).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, mut partitions)| {
        partitions.sort_by_key(|partition| partition.partition_index);
        let name = TopicName(StrBytes::from_string(name.to_owned()));
        DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions)
    });
    topics.collect()
}
