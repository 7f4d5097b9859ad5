//! The I/O shell: one executor per core, its connections, its partitions, its disk. The only module
//! that names glommio. It carries out what the layers below decide.
//!
//! | file | what it does |
//! |---|---|
//! | [`executor`], [`nudge`] | starts and stops the shards of a node; interrupts sleeps that last too long |
//! | [`conn`], [`connection_share`], [`receive`], [`request_memory`], [`response`] | a client connection: how many, frames in, the memory they take, answers out in order |
//! | [`api`] | one thin handler per API key |
//! | [`mesh`], [`message`], [`produce_lanes`] | shards talk; what they forward is appended in its order |
//! | [`stores`] | one store per log directory, and what they share |
//! | [`store`], [`partition_map`], [`replica`], [`tail`], [`segments`], [`open`], [`survey`] | partitions: append, commit, recover |
//! | [`reader`], [`verified`], [`segment_checksums`], [`catch_up`], [`read_gate`], [`read_ahead`], [`segment_index`] | reads: from the tail, or in turns from disk, held against checksums |
//! | [`coordinators`], [`answers`] | coordinators of internal partitions: loaded, asked, their writes, and who waits for them |
//! | [`groups`], [`transactions`] | what is special to those of consumer groups and of transactions: deadlines, markers |
//! | [`producer_ids`] | ids that this shard may give out |
//! | [`quotas`] | what clients use of their quotas, and how long they are not read |
//! | [`telemetry`] | what clients measure of themselves |
//! | [`controller`], [`settings`] | metadata changes, on shard 0; settings that change with them |
//! | [`quorum`], [`metadata_log`], [`peers`] | the metadata quorum on shard 0: its log, and other nodes |
//! | [`partitions`], [`background`], [`removing`], [`final_state`] | partitions come, change and go; retention, checkpoints, idle connections; files that go; a clean stop |
//! | [`compaction`] | compacted logs: carries out what `log::compaction` decides |
//! | [`handover`] | partitions move between shards of a node |
//! | [`restoring`], [`kept_journals`], [`doubts`], [`named_partitions`] | damaged replicas, made again from those of others; what was lost with journals that are kept; replicas that may lack their end; the files that name them |
//! | [`disk`], [`open_files`], [`replacing`], [`clock`] | the seams to files and time |
//! | [`shared_flush`] | one flush of a file system for many who wait for one |
//! | [`side_thread`] | a thread for long work that hardly any request waits for |
//! | [`fetch_sessions`], [`watches`] | what consumers have said, and what parked fetches wait for |
//! | [`event`], [`memory`], [`step`], [`walk`], [`look_inside`], [`recompression`] | wake-ups and budgets within a core; how long its tasks hold it; batches looked into, and compressed anew, without holding it |
//!
//! Nothing here is shared between cores but messages: no lock, no atomic.

mod answers;
pub mod api;
mod background;
mod catch_up;
pub mod clock;
mod compaction;
pub mod conn;
mod connection_share;
pub mod controller;
mod coordinators;
pub mod disk;
mod doubts;
mod event;
pub mod executor;
mod fetch_sessions;
mod final_state;
mod groups;
mod handover;
mod inbox;
pub mod journal;
mod journal_replay;
mod kept_journals;
mod log_dirs;
mod look_inside;
pub mod markers;
pub mod memory;
pub mod mesh;
pub mod message;
mod metadata_log;
mod named_partitions;
pub mod nudge;
mod open;
mod open_files;
mod partition_map;
mod partitions;
pub mod peers;
mod produce_lanes;
mod producer_ids;
mod quorum;
pub mod quotas;
mod read_ahead;
mod read_gate;
mod reader;
mod receive;
mod recompression;
mod recover;
mod reindex;
mod removing;
mod replacing;
mod replay;
mod replica;
mod replication;
mod request_memory;
mod response;
mod restoring;
mod segment_checksums;
mod segment_index;
mod segment_transactions;
mod segments;
mod settings;
mod shared_flush;
mod side_thread;
mod step;
mod store;
mod stores;
mod survey;
mod tail;
pub mod telemetry;
#[cfg(test)]
mod tests;
mod transactions;
pub mod verification;
mod verified;
mod walk;
mod watches;

use crate::cluster::brokers::{Brokers, Routing};
use crate::cluster::image::Image;
use crate::cluster::record::{PartitionState, ProducerIdBlock};
use crate::codec::error_code::ErrorCode;
use crate::config::Config;
use crate::config::memory::MemoryPlan;
use crate::log::checkpoint::PartitionPoint;
use crate::metrics::ShardMetrics;
use crate::quota::rate::Windows;
use crate::shard::clock::Clock;
use crate::shard::conn::{CloseReason, Connection};
use crate::shard::connection_share::{ASK_AGAIN_AFTER, ASK_ROUNDS_MAX, ConnectionShare, Lent};
use crate::shard::controller::Controller;
use crate::shard::event::Broadcast;
use crate::shard::fetch_sessions::{FetchSessions, SessionLimits};
use crate::shard::groups::Groups;
use crate::shard::handover::Handovers;
use crate::shard::log_dirs::LogDirs;
use crate::shard::memory::Meter;
use crate::shard::mesh::Mesh;
use crate::shard::message::{Message, Reply, Request};
use crate::shard::partitions::Removals;
use crate::shard::quotas::Quotas;
use crate::shard::receive::ReceiveMemory;
use crate::shard::replica::{Replica, Watcher};
use crate::shard::replication::ShardReplication;
use crate::shard::request_memory::{RequestMemory, oldest_covering};
use crate::shard::response::{ResponseMemory, Shortage};
use crate::shard::restoring::StatedUnder;
use crate::shard::settings::Settings;
use crate::shard::store::Store;
use crate::shard::stores::Stores;
use crate::shard::telemetry::Telemetry;
use crate::shard::transactions::Transactions;
use crate::shard::verification::TransactionVerifier;
use crate::shard::watches::{RemoteWatches, WatchKey};
use crate::types::limits::FETCH_SESSION_PARTITIONS_MAX;
use crate::types::{BrokerEpoch, DirectoryId, LogDirIndex, NodeId, ShardId, TopicPartition};
use glommio::sync::Semaphore;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Lives: one per core, as long as the process.
pub struct Shard {
    pub id: ShardId,
    pub node: NodeId,
    pub config: Rc<Config>,
    pub clock: Clock,
    pub metrics: Rc<RefCell<ShardMetrics>>,
    pub stores: Stores,
    /// Signalled when one of the stores has fewer unflushed bytes.
    drained: Rc<Broadcast>,
    /// Which log directory is which.
    pub log_dirs: Rc<LogDirs>,
    pub mesh: Rc<Mesh>,
    /// What the cluster agreed on, as far as this shard has applied it.
    pub image: Rc<RefCell<Image>>,
    pub brokers: RefCell<Brokers>,
    /// Partitions of this shard whose log could not be opened: `KAFKA_STORAGE_ERROR`. With what the
    /// last checkpoint said of them, which every new one repeats: without it the next start would
    /// take damage for a torn tail, and cut it.
    pub unavailable: RefCell<BTreeMap<TopicPartition, Unavailable>>,
    /// The settings in effect.
    settings: RefCell<Settings>,
    /// On shard 0 only.
    pub controller: OnceCell<Rc<Controller>>,
    pub receive_memory: Rc<ReceiveMemory>,
    /// Batches copied for other shards and not yet answered by them.
    pub forward_memory: Rc<Meter>,
    pub forward_freed: Broadcast,
    /// Requests that are decoded and not answered, Produce aside.
    pub request_memory: RequestMemory,
    /// Answers that are being made or wait for their sockets.
    pub response_memory: Rc<ResponseMemory>,
    /// They are too many.
    answers_short: Shortage,
    /// They keep too much of the newest records' memory.
    tail_short: Shortage,
    connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    next_connection: Cell<u64>,
    connection_share: RefCell<ConnectionShare>,
    pub sessions: RefCell<FetchSessions>,
    pub groups: Groups,
    pub quotas: Quotas,
    pub telemetry: Telemetry,
    pub transactions: Transactions,
    pub replication: ShardReplication,
    /// Partitions of this shard that parked fetches of other shards watch.
    remote_watches: RefCell<RemoteWatches>,
    /// A topic has had a codec of its own since the start (`compression.type`).
    pub recompresses: Cell<bool>,
    /// Producer ids that this shard may give out.
    producer_ids: Cell<Option<ProducerIdBlock>>,
    /// Asks transactions' coordinators; without it there are no transactions.
    pub verifier: RefCell<Option<Rc<dyn TransactionVerifier>>>,
    next_watch: Cell<u64>,
    parked_fetches: Cell<usize>,
    /// Partitions are opened and deleted by one task at a time.
    changing_partitions: Semaphore,
    removals: Removals,
    /// Partitions on their way to or from another shard of this node.
    handed_over: RefCell<BTreeSet<TopicPartition>>,
    handovers: Handovers,
    /// Partitions of this shard that are opened once there is space.
    waiting_for_space: RefCell<BTreeSet<TopicPartition>>,
    /// Replicas of this shard that are damaged.
    damaged: RefCell<BTreeMap<TopicPartition, StatedUnder>>,
    /// Somebody sees to those.
    restoring: Cell<bool>,
    /// Those of all shards of the node, where the quorum is.
    damaged_on_node: RefCell<BTreeMap<TopicPartition, StatedUnder>>,
    /// Likewise those that may lack their end, as long as nobody was told.
    doubtful_on_node: RefCell<BTreeSet<TopicPartition>>,
    stopping: Cell<bool>,
    /// Fetches of this shard that wait for data, the oldest first.
    wakes: RefCell<BTreeMap<u64, Rc<Parked>>>,
}

/// A fetch that waits for data.
struct Parked {
    signal: Rc<event::Signal>,
    /// Bytes of request memory that it holds and others may wait for.
    memory_size: usize,
    /// It is not to wait any longer.
    is_hurried: Cell<bool>,
}

/// What a shard is made of.
pub struct ShardParts {
    pub id: ShardId,
    pub node: NodeId,
    pub config: Rc<Config>,
    pub clock: Clock,
    pub metrics: Rc<RefCell<ShardMetrics>>,
    pub stores: Stores,
    pub log_dirs: Rc<LogDirs>,
    pub mesh: Rc<Mesh>,
    pub image: Image,
    pub memory: MemoryPlan,
}

/// A partition whose log is not open.
#[derive(Clone, Copy, Debug)]
pub struct Unavailable {
    /// `None`: its log directory is not among those of this start.
    pub dir: Option<LogDirIndex>,
    /// What the last checkpoint says of it.
    pub point: Option<PartitionPoint>,
}

impl Shard {
    /// Why nothing is found of a partition here.
    pub fn absence(&self, id: &TopicPartition) -> ErrorCode {
        match self.image.borrow().partition(*id) {
            _ if self.is_handed_over(id) => ErrorCode::NotLeaderOrFollower,
            // Another core may not have heard yet that this one follows; it is not for want of a disk that it is away.
            _ if self.replication.is_cutting(id) => ErrorCode::NotLeaderOrFollower,
            _ if self.unavailable.borrow().contains_key(id) => ErrorCode::KafkaStorageError,
            // Others have it; by now, where a request was on its way here.
            Some(state) if !self.owns(state) => ErrorCode::NotLeaderOrFollower,
            // It is on its way from another shard, the first time or once more.
            Some(state) if state.replica_on(self.node).is_some_and(|replica| replica.has_moved()) => {
                ErrorCode::NotLeaderOrFollower
            }
            Some(_) | None => ErrorCode::UnknownTopicOrPartition,
        }
    }

    /// Whether a replica of the partition is this shard's.
    pub fn owns(&self, state: &PartitionState) -> bool {
        state.owner_on(self.node) == Some(self.id)
    }

    pub fn new(parts: ShardParts) -> Rc<Shard> {
        let brokers = Brokers::new(&parts.image, parts.node);
        let sessions = FetchSessions::new(SessionLimits {
            sessions: parts.config.max_incremental_fetch_session_cache_slots,
            partitions: FETCH_SESSION_PARTITIONS_MAX,
        });
        let windows = Windows { count: parts.config.quota_window_num, size: parts.config.quota_window_size };
        let quotas = Quotas::new(windows);
        quotas.changed(!parts.image.quotas().is_empty());
        let settings = Settings::of(&parts.config, &parts.image, parts.node);
        let connections_max = settings.config.max_connections;
        let share = ConnectionShare::new(connections_max, parts.config.cores, parts.id);
        Rc::new(Shard {
            id: parts.id,
            node: parts.node,
            config: parts.config,
            clock: parts.clock,
            metrics: parts.metrics,
            drained: parts.stores.drained().clone(),
            stores: parts.stores,
            log_dirs: parts.log_dirs,
            mesh: parts.mesh,
            image: Rc::new(RefCell::new(parts.image)),
            brokers: RefCell::new(brokers),
            unavailable: RefCell::default(),
            settings: RefCell::new(settings),
            controller: OnceCell::new(),
            receive_memory: ReceiveMemory::new(parts.memory.receive),
            forward_memory: Meter::new(parts.memory.forward),
            request_memory: RequestMemory::new(parts.memory.requests),
            forward_freed: Broadcast::default(),
            response_memory: ResponseMemory::new(parts.memory.response),
            answers_short: Shortage::default(),
            tail_short: Shortage::default(),
            connections: RefCell::default(),
            next_connection: Cell::new(1),
            connection_share: RefCell::new(share),
            sessions: RefCell::new(sessions),
            groups: Groups::default(),
            quotas,
            telemetry: Telemetry::default(),
            transactions: Transactions::default(),
            replication: ShardReplication::default(),
            remote_watches: RefCell::default(),
            producer_ids: Cell::new(None),
            recompresses: Cell::new(false),
            verifier: RefCell::new(None),
            next_watch: Cell::new(1),
            parked_fetches: Cell::new(0),
            changing_partitions: Semaphore::new(1),
            removals: Removals::default(),
            handed_over: RefCell::default(),
            handovers: Handovers::default(),
            waiting_for_space: RefCell::default(),
            damaged: RefCell::default(),
            restoring: Cell::new(false),
            damaged_on_node: RefCell::default(),
            doubtful_on_node: RefCell::default(),
            stopping: Cell::new(false),
            wakes: RefCell::default(),
        })
    }

    pub fn routing(&self) -> Routing {
        self.image.borrow().node(self.node).map(|node| node.routing).unwrap_or_default()
    }

    /// Under which this process is registered, as far as this shard has applied the metadata.
    pub fn broker_epoch(&self) -> BrokerEpoch {
        self.image.borrow().node(self.node).map_or(BrokerEpoch(0), |node| node.broker_epoch)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The shard of this node that leads a partition.
    pub fn leader(&self, partition: &TopicPartition) -> Option<ShardId> {
        self.image.borrow().partition(*partition)?.led_on(self.node)
    }

    /// Waits while a store has more unflushed bytes than it may. What was appended meanwhile, there and
    /// elsewhere, is issued first.
    pub async fn wait_for_room(&self, store: &Store) {
        let must_wait = || store.is_full();
        if must_wait() {
            self.metrics.borrow_mut().memory_waits += 1;
        }
        while must_wait() {
            self.stores.pump();
            if must_wait() {
                self.drained.notified().await;
            }
        }
    }

    pub fn connection_started(&self, make: impl FnOnce(u64) -> Rc<Connection>) -> Rc<Connection> {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let connection = make(id);
        self.connections.borrow_mut().insert(id, connection.clone());
        let mut metrics = self.metrics.borrow_mut();
        metrics.connections_open += 1;
        metrics.connections_accepted += 1;
        connection
    }

    fn connection_ended(&self, connection: &Connection) {
        self.connections.borrow_mut().remove(&connection.id);
        self.metrics.borrow_mut().connections_open -= 1;
    }

    pub fn connection_count(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Whether one more connection is within `max.connections`. A shard that has used up its share asks
    /// the others for some of theirs.
    async fn admits_connection(&self) -> bool {
        let has_room = || self.connection_share.borrow().has_room(self.connection_count());
        if has_room() || !self.connection_share.borrow().may_ask(self.clock.mono()) {
            return has_room();
        }
        for _ in 0..ASK_ROUNDS_MAX {
            let more_may_come = self.ask_for_connections().await;
            if has_room() || !more_may_come {
                break;
            }
            glommio::timer::sleep(ASK_AGAIN_AFTER).await;
        }
        if !has_room() {
            self.connection_share.borrow_mut().asked_in_vain(self.clock.mono());
        }
        has_room()
    }

    /// Asks one shard after the other until one of them has given something. Whether one had nothing, but asks
    /// others itself.
    async fn ask_for_connections(&self) -> bool {
        let count = self.mesh.shard_count();
        let others = (1..count).map(|step| ShardId(((self.id.index() + step) % count) as u16));
        let mut more_may_come = false;
        self.connection_share.borrow_mut().begins_asking();
        for other in others {
            let Reply::LendConnections(lent) = self.mesh.call(other, Request::LendConnections).await else {
                unreachable!("lending is answered by lending")
            };
            self.connection_share.borrow_mut().take(lent.slots);
            if self.connection_share.borrow().has_room(self.connection_count()) {
                break;
            }
            more_may_come |= lent.is_asking;
        }
        self.connection_share.borrow_mut().ends_asking();
        more_may_come
    }

    fn lend_connections(&self) -> Lent {
        self.connection_share.borrow_mut().lend(self.connection_count())
    }

    /// A log directory has failed on another shard of this node.
    fn log_dir_failed(&self, dir: LogDirIndex, reason: &str) {
        self.stores.get(dir).go_offline(reason);
    }

    /// Log directories that have failed, or could not be used at the start, of those that are known.
    fn offline_directories(&self) -> Vec<DirectoryId> {
        let offline = self.stores.iter().filter(|store| store.is_offline());
        offline.filter_map(|store| self.log_dirs.id(store.dir)).collect()
    }

    fn connections(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().values().cloned().collect()
    }

    /// No new requests: connections end by themselves once what they have read has been answered.
    fn begin_stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.hurry_fetches();
        groups::resign(self);
        self.transactions.resign(self);
        self.connections().iter().for_each(|connection| connection.begin_stop());
    }

    fn close_connections(&self, reason: &CloseReason) {
        for connection in self.connections() {
            connection.close(reason);
        }
    }

    fn post_wake(&self, to: ShardId, watch: u64) {
        if to == self.id {
            self.wake(watch);
        } else {
            self.mesh.post(to, Message::Wake { watch });
        }
    }

    /// Wakes a fetch of another shard at the next record of a partition of this one.
    fn watch_for(&self, from: ShardId, watch: u64, replica: &Replica) {
        let key = WatchKey::new(from, watch);
        self.remote_watches.borrow_mut().add(key, replica.id);
        replica.watch(key.number(), Watcher::Remote { shard: from, watch });
    }

    /// A fetch of another shard was answered.
    fn unwatch(&self, key: WatchKey) {
        for partition in self.remote_watches.borrow_mut().remove(key) {
            if let Some(replica) = self.stores.find(&partition) {
                replica.unwatch(key.number());
            }
        }
    }

    /// Fetches that wait for data are answered with what there is.
    fn hurry_fetches(&self) {
        self.wakes.borrow().values().for_each(|parked| parked.hurry());
    }

    /// The same of the oldest of them, as far as other requests wait for their memory.
    fn hurry_oldest_fetches(&self) {
        let missing = self.request_memory.missing();
        let parked = self.wakes.borrow();
        let covering = oldest_covering(parked.values(), |parked| parked.memory_size, missing);
        covering.for_each(|parked| parked.hurry());
    }

    /// A partition that a fetch of this shard watches has news.
    fn wake(&self, watch: u64) {
        if let Some(parked) = self.wakes.borrow().get(&watch) {
            parked.signal.notify();
        }
    }
}

impl Parked {
    fn hurry(&self) {
        self.is_hurried.set(true);
        self.signal.notify();
    }
}
