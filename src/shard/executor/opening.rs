//! The main thread's part of a start, until every shard has opened its partitions.

use crate::cluster::image::{Image, Topic};
use crate::cluster::lifecycle::settings_of;
use crate::cluster::quorum::members::PeerId;
use crate::cluster::record::{FEATURE_LEVEL, Node};
use crate::cluster::registration::{Start, register};
use crate::codec::control::{Doubtful, LogsFound};
use crate::config::Config;
use crate::config::topic::TopicDefaults;
use crate::config::value::DurabilityMode;
use crate::log::segment::directory_name;
use crate::metrics::recovery::RecoveryCounts;
use crate::preflight::{self, Preflight};
use crate::shard::controller::CONTROLLER_SHARD;
use crate::shard::executor::{Command, Founded, Progress, STOP_CHECK_INTERVAL, Seed, StartError, tell};
use crate::shard::log_dirs::LogDirs;
use crate::shard::peers::Introduction;
use crate::shard::quorum::Around;
use crate::shard::quorum::start::{Metadata, Replayed};
use crate::shard::recover::{self, Images, Recovered};
use crate::types::limits::OPEN_FILES_MIN;
use crate::types::{
    BrokerEpoch, DirectoryId, LogDirIndex, NodeId, ShardId, TopicPartition, Uuid, parse_uuid_text,
};
use glommio::channels::shared_channel::ForeignSender;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};

type Started = (BTreeMap<ShardId, ForeignSender<Command>>, Arc<LogDirs>);

/// Until every shard has opened its partitions; `None` if the node is stopped before that. `held` gets the locks of
/// new log directories.
pub fn open(
    config: &Config,
    preflight: &Preflight,
    reports: &mpsc::Receiver<Progress>,
    stopped: &mut futures::channel::oneshot::Receiver<()>,
    held: &mut Vec<preflight::LogDir>,
) -> Result<Option<Started>, StartError> {
    let mut commands = BTreeMap::new();
    while commands.len() < config.cores {
        match next_report(reports, stopped)? {
            Some(Progress::Up(shard, sender)) => commands.insert(shard, sender),
            Some(_) => return Err(StartError::ShardEnded),
            None => return Ok(None),
        };
    }
    let controller = &commands[&CONTROLLER_SHARD];
    let node = Node {
        id: config.node_id,
        cores: config.cores as u16,
        routing: config.routing,
        host: preflight.advertised.host.clone(),
        port: preflight.advertised.port,
        rack: config.rack.clone(),
        log_directories: Vec::new(), // Those that turn out to be there.
        peer: preflight.peer_advertised.clone(),
        broker_epoch: BrokerEpoch(0),
        incarnation: Uuid::new_v4(),
        is_fenced: false,
        is_shutting_down: false,
        feature_level_max: FEATURE_LEVEL,
    };
    let mut ask = |command: Command| {
        tell(controller, command);
        next_report(reports, stopped)
    };
    let Some(opened) = open_log_dirs(config, preflight, node, held, controller, &mut ask)? else {
        return Ok(None);
    };
    let Opened { start, log_dirs, recovered, mut recovery } = opened;
    let node = start.node.clone();
    let image = match ask(Command::Register(Box::new(start)))? {
        Some(Progress::Registered(image)) => *image,
        Some(_) => return Err(StartError::ShardEnded),
        None => return Ok(None),
    };
    let identity = &preflight.metadata.identity;
    if let Err(error) = preflight::note_begun(config.metadata_dir(), identity, preflight::current_boot_id()) {
        if identity.has_joined && !identity.has_begun {
            // The next start would take what it has by then for nothing at all.
            return Err(StartError::Disk { path: config.metadata_dir().to_owned(), source: error });
        }
        tracing::warn!(%error, "it was not noted that there are metadata: the next start tries again");
    }
    log_dirs.report(&image, node.id);
    recovered.iter().for_each(|recovered| recovery.add(&recovered.last.recovery));
    let log_dirs = Arc::new(log_dirs);
    let seed = Seed {
        node,
        image,
        log_dirs: log_dirs.clone(),
        recovered: recovered.into(),
        recovery,
        base: preflight.listeners.base,
        per_shard: preflight.listeners.per_shard.clone(),
        open_files_max: open_files_max(config, preflight.resources.open_files),
    };
    for sender in commands.values() {
        tell(sender, Command::Open(Box::new(Mutex::new(seed.clone()))));
    }
    drop(seed);
    for _ in 0..config.cores {
        match next_report(reports, stopped)? {
            Some(Progress::Open) => {}
            Some(_) => return Err(StartError::ShardEnded),
            None => return Ok(None),
        }
    }
    Ok(Some((commands, log_dirs)))
}

/// What a shard says next; `None` if the node is stopped before that.
fn next_report(
    reports: &mpsc::Receiver<Progress>,
    stopped: &mut futures::channel::oneshot::Receiver<()>,
) -> Result<Option<Progress>, StartError> {
    loop {
        match reports.recv_timeout(STOP_CHECK_INTERVAL) {
            Ok(Progress::Failed(error)) => return Err(error),
            Ok(progress) => return Ok(Some(progress)),
            // Recovery may take long; what it has done so far is as good as never begun.
            Err(mpsc::RecvTimeoutError::Timeout) => {
                if !matches!(stopped.try_recv(), Ok(None)) {
                    return Ok(None);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(StartError::ShardEnded),
        }
    }
}

/// A shard's share of `open-files`, or of half of the process's limit if that is less: connections and the
/// rest have the other half.
fn open_files_max(config: &Config, process_max: u64) -> usize {
    let process_max = usize::try_from(process_max / 2).unwrap_or(usize::MAX);
    (config.open_files.min(process_max) / config.cores).max(OPEN_FILES_MIN)
}

/// What a start has found in the log directories.
struct Opened {
    start: Start,
    log_dirs: LogDirs,
    /// In their order; of those that cannot be used, nothing.
    recovered: Vec<Recovered>,
    /// Of the metadata.
    recovery: RecoveryCounts,
}

/// Tells the controller's shard something, and what a shard reports then; `None` if the node is stopped before that.
type Ask<'a> = &'a mut dyn FnMut(Command) -> Result<Option<Progress>, StartError>;

/// Reads the metadata, which the quorum on the `controller`'s shard goes on from, finds out which log directories there
/// are and what they hold, and recovers each of them. `held` gets the locks of new ones.
fn open_log_dirs(
    config: &Config,
    preflight: &Preflight,
    mut node: Node,
    held: &mut Vec<preflight::LogDir>,
    controller: &ForeignSender<Command>,
    ask: Ask<'_>,
) -> Result<Option<Opened>, StartError> {
    let on_disk = |source| StartError::Disk { path: config.metadata_dir().to_owned(), source };
    let identity = &preflight.metadata.identity;
    let me = PeerId::of_directory(node.id, identity.directory_id);
    let Replayed { metadata, image: mut before, mut deleted, recovery } =
        Metadata::open(config.metadata_dir(), me)?;
    let introduction = node.peer.clone().map(|address| Introduction { me, address, seeds: config.seeds() });
    if introduction.is_none() {
        metadata.check_alone()?;
    }
    let cluster = parse_uuid_text(&identity.cluster_id).unwrap_or_else(Uuid::new_v4);
    let around = Around { introduction, listen: preflight.listeners.peers };
    let go_on = |metadata, image, around| {
        tell(controller, Command::Quorum(Box::new(Mutex::new(Founded { metadata, image, around }))));
    };
    if identity.has_begun && !metadata.is_founded() {
        return Err(StartError::MetadataLost { path: config.metadata_dir().to_owned() });
    }
    let mut new = None;
    if metadata.is_founded() {
        go_on(metadata, before, around);
        before = match ask(Command::CatchUp)? {
            Some(Progress::CaughtUp(image, gone)) => {
                deleted.extend(gone);
                *image
            }
            Some(_) => return Err(StartError::ShardEnded),
            None => return Ok(None),
        };
    } else {
        new = Some((metadata, around));
    }
    let mut log_dirs = LogDirs::settle(config, preflight, &before, held)?;
    let found = recover::find_partitions(&mut log_dirs, &before, node.id, &deleted).map_err(on_disk)?;
    let removed = found.iter().filter(|(_, held)| held.replicas_removed).map(|(dir, _)| *dir);
    let replicas_removed: BTreeSet<LogDirIndex> = removed.collect();
    let found = found.into_iter().map(|(dir, held)| (dir, held.partitions)).collect();
    let name = |id: &TopicPartition| {
        let topic = before.topic(id.topic).map_or("", |topic| &topic.name);
        directory_name(topic, id.partition)
    };
    let located = log_dirs.locate(&found, name)?;
    node.log_directories = log_dirs.registered(&before, node.id);
    let by_id = located.iter().filter_map(|(partition, dir)| Some((*partition, log_dirs.id(*dir)?)));
    let by_id: BTreeMap<TopicPartition, DirectoryId> = by_id.collect();
    // What will be registered once everything is recovered, but for what turns out to be damaged.
    let replaces = before.node(node.id).map(|node| node.broker_epoch);
    let logs = LogsFound::Damaged(Vec::new());
    let doubtful = Doubtful::Partitions(Vec::new());
    let mut start = Start { node, found: by_id, logs, doubtful, replaces };
    let defaults = TopicDefaults::from_config(config);
    let defaults = defaults.map_err(|error| StartError::TopicDefaults(error.to_string()))?;
    let records = register(&before, &start, &defaults, cluster)?;
    let mut image = before.clone();
    for record in &records {
        image.apply(record).map_err(|error| StartError::Inapplicable(error.to_string()))?;
    }
    log_dirs.note_misplaced(&image, start.node.id, &located);
    match new {
        None => {}
        Some((mut metadata, around)) if identity.has_joined => {
            metadata.wait_for_others(cluster)?;
            go_on(metadata, Image::default(), around);
        }
        Some((mut metadata, around)) => {
            metadata.found(&records)?;
            go_on(metadata, image.clone(), around);
        }
    }
    let images = Images { before: &before, image: &image };
    let recovered = recover::recover(config, images, &mut log_dirs, &replicas_removed);
    let mut recovered = recovered.map_err(on_disk)?;
    let recovered: Vec<Recovered> =
        log_dirs.iter().map(|(dir, _)| recovered.remove(&dir).unwrap_or_default()).collect();
    // Some may have turned out to be of no use.
    start.node.log_directories = log_dirs.registered(&before, start.node.id);
    start.logs = match identity.has_joined && !identity.has_begun {
        // It has not been this node yet: what the node had before is gone.
        true => LogsFound::Empty,
        false => LogsFound::Damaged(damaged(&recovered, &located).into_iter().collect()),
    };
    let is_clean = |recovered: &Recovered| recovered.last.clean;
    let boot = preflight::current_boot_id();
    let has_lost_power = identity.is_of_another_boot(boot.as_deref()) && !recovered.iter().all(is_clean);
    let mut doubtful: BTreeSet<TopicPartition> = BTreeSet::new();
    if has_lost_power {
        doubtful.extend(unflushed(&image, start.node.id, &defaults));
        if !doubtful.is_empty() {
            tracing::warn!(
                partitions = doubtful.len(),
                "the machine was started anew and the last stop was not clean: replicas of topics with \
                 odradek.durability=write may lack what they had acknowledged"
            );
        }
    }
    let with_torn_tails = recovered.iter().flat_map(|recovered| &recovered.last.journal.doubtful);
    doubtful.extend(with_torn_tails.copied());
    start.doubtful = Doubtful::Partitions(doubtful.into_iter().collect());
    Ok(Some(Opened { start, log_dirs, recovered, recovery }))
}

/// Partitions that others have too, and whose records are acknowledged before they are flushed.
fn unflushed(image: &Image, node: NodeId, defaults: &TopicDefaults) -> Vec<TopicPartition> {
    let is_written = |topic: &&Topic| settings_of(topic, defaults).durability == DurabilityMode::Write;
    let partitions = image.topics().filter(is_written).flat_map(Topic::partitions);
    let here = partitions.filter(|(_, state)| state.replicas.len() > 1 && state.replica_on(node).is_some());
    here.map(|(id, _)| id).collect()
}

/// Partitions of which a start knows, before it opens them, that their logs lack what they had.
fn damaged(
    recovered: &[Recovered],
    located: &BTreeMap<TopicPartition, LogDirIndex>,
) -> BTreeSet<TopicPartition> {
    let mut damaged = BTreeSet::new();
    for Recovered { last, .. } in recovered {
        damaged.extend(last.journal.corrupt.iter().copied());
        let gone = last
            .points
            .iter()
            .filter(|(id, point)| point.flushed_end > point.log_start && !located.contains_key(id));
        damaged.extend(gone.map(|(id, _)| *id));
    }
    damaged
}
