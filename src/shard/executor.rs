//! Starts the shards of a node, one executor per core, and stops them.
//!
//! ```text
//! main thread                          each shard
//! metadata log                    ───► shard 0: the metadata quorum ─► what this node had applied
//! last checkpoints, clean mark    ───► shard 0: registers this node ─► the image
//! image                           ───► opens its partitions ─► "open"
//! all open                        ───► listens ─► shard 0: unfenced ─► "serving"
//! all serving ─► ready
//! stop                            ───► shard 0: others lead what they can ─► "left"
//! ──────────────────────────────────► no new requests ─► flush ─► final state ─► "stopped"
//! all stopped ─► clean mark
//! ```
//!
//! `opening.rs` is the main thread's part until all shards have opened their partitions.

mod opening;

use crate::cluster::image::Image;
use crate::cluster::record::Node;
use crate::cluster::registration::{RegistrationRefused, Start};
use crate::config::Config;
use crate::config::memory::MemoryPlan;
use crate::log::checkpoint::{CheckpointGeneration, CleanStop};
use crate::log::data_dir::CLEAN_STOP_FILE;
use crate::log::journal::ring::RingLimits;
use crate::log::plan::SyncFs;
use crate::metrics::clients::{ClientMetrics, ClientSnapshot};
use crate::metrics::recovery::RecoveryCounts;
use crate::metrics::{ShardMetrics, ShardSnapshot, SnapshotError, Sources};
use crate::preflight::{Preflight, PreflightError};
use crate::shard::clock::Clock;
use crate::shard::conn::{CloseReason, Connection, Listener, refuse, serve};
use crate::shard::controller::{CONTROLLER_SHARD, Controller};
use crate::shard::disk::{Disk, replace_file};
use crate::shard::executor::opening::open;
use crate::shard::final_state::write_final_state;
use crate::shard::journal::Journal;
use crate::shard::log_dirs::{HeldTwice, LogDir, LogDirs};
use crate::shard::mesh::Mesh;
use crate::shard::message::Message;
use crate::shard::nudge::Nudger;
use crate::shard::partitions::{self, LastStop};
use crate::shard::quorum::start::{Metadata, MetadataError};
use crate::shard::quorum::{Around, MetadataQuorum, RegisterError};
use crate::shard::recover::Recovered;
use crate::shard::step::timed;
use crate::shard::store::{Store, StoreDir};
use crate::shard::stores::{Shared, Stores};
use crate::shard::{
    Shard, ShardParts, Unavailable, background, groups, inbox, quotas, replication, transactions,
};
use crate::types::limits::MESH_QUEUE_LENGTH;
use crate::types::{LogDirIndex, ShardId, TopicId};
use futures::future::join_all;
use glommio::channels::channel_mesh::MeshBuilder;
use glommio::channels::shared_channel::{self, ConnectedReceiver, ForeignSender};
use glommio::net::TcpListener;
use glommio::{GlommioError, Latency, LocalExecutorBuilder, Placement, ResourceType, Shares};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests in flight get this long to finish at a stop; then their connections are closed.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How often a start looks whether it is to be stopped.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A node that has not been unfenced for so long serves all the same: clients hear from it who leads.
const UNFENCED_TIME_MAX: Duration = Duration::from_secs(10);

/// How often a shard that is busy looks at its ring: so long may the completion of a write or a flush wait
/// behind the tasks that can run.
const RING_CHECK_INTERVAL: Duration = Duration::from_micros(250);

/// Questions from the admin thread that one shard queues.
const ADMIN_QUEUE_LENGTH: usize = 64;

/// Why the shards cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Refused(#[from] RegistrationRefused),
    #[error("this node cannot be registered: {0}")]
    Registration(#[from] RegisterError),
    #[error("the new metadata does not apply: {0}")]
    Inapplicable(String),
    #[error("{path}: {source}")]
    Disk { path: PathBuf, source: io::Error },
    #[error(transparent)]
    LogDirs(#[from] PreflightError),
    #[error(transparent)]
    HeldTwice(#[from] HeldTwice),
    #[error("topic defaults: {0}")]
    TopicDefaults(String),
    #[error("an executor cannot be started: {0}; check locked memory (`ulimit -l`) and io_uring")]
    Executor(String),
    #[error("listening on {address}: {reason}")]
    Listen { address: SocketAddr, reason: String },
    #[error(
        "the metadata in {} are gone, and its meta.properties says that there were some: restore them, or start \
         over with an empty directory", .path.display()
    )]
    MetadataLost { path: PathBuf },
    #[error("listening to other nodes: {0}")]
    Peers(io::Error),
    #[error("a shard ended before it served; the log says why")]
    ShardEnded,
}

/// What the main thread tells a shard.
enum Command {
    Snapshot(tokio::sync::oneshot::Sender<ShardSnapshot>),
    Clients(tokio::sync::oneshot::Sender<Vec<ClientSnapshot>>),
    /// What the client at an address measures of itself, as far as this shard has it.
    ClientMetrics(SocketAddr, tokio::sync::oneshot::Sender<Vec<ClientMetrics>>),
    /// To shard 0: the metadata quorum goes on.
    Quorum(Box<Mutex<Founded>>),
    /// To shard 0: up to where this node had applied the metadata, at least.
    CatchUp,
    /// To shard 0: the metadata are to say this of the node.
    Register(Box<Start>),
    /// Open your partitions.
    Open(Box<Mutex<Seed>>),
    /// All shards have opened their partitions.
    Listen,
    /// To shard 0: other nodes are to lead what they can.
    Leave,
    /// Finish what is in flight, take nothing new; other shards may still ask.
    Stop,
    /// Every shard has finished: write the final state and end.
    Finish,
}

/// The metadata quorum as the start has found it.
struct Founded {
    metadata: Metadata,
    image: Image,
    around: Around,
}

/// What a shard tells the main thread.
enum Progress {
    /// It listens to commands.
    Up(ShardId, ForeignSender<Command>),
    /// The image to recover logs by, and topics that are gone from it.
    CaughtUp(Box<Image>, BTreeSet<TopicId>),
    /// With the image that has the node.
    Registered(Box<Image>),
    Open,
    Serving,
    /// Other nodes lead what they can.
    Left,
    Drained,
    Failed(StartError),
    /// With the generation of its last checkpoint in each log directory, or `None` when it could not write
    /// its final state there.
    Stopped(ShardId, Vec<Option<CheckpointGeneration>>),
}

/// What a shard opens its partitions with. Leaves the main thread.
#[derive(Clone)]
struct Seed {
    node: Node,
    image: Image,
    log_dirs: Arc<LogDirs>,
    /// In the order of the log directories.
    recovered: Arc<[Recovered]>,
    /// What was put right or refused before any shard ran: shard 0 counts it.
    recovery: RecoveryCounts,
    base: SocketAddr,
    per_shard: Vec<SocketAddr>,
    /// Segment files that a shard keeps open.
    open_files_max: usize,
}

/// Runs the shards until `stopped` resolves. Blocks. `on_serving` is called once all accept.
pub fn run(
    config: &Config,
    preflight: &Preflight,
    mut stopped: futures::channel::oneshot::Receiver<()>,
    on_serving: impl FnOnce(Sources),
) -> Result<(), StartError> {
    let (progress, reports) = mpsc::channel();
    let threads = spawn_shards(config, &progress)?;
    drop(progress);
    let mut held = Vec::new();
    let Some((commands, log_dirs)) = open(config, preflight, &reports, &mut stopped, &mut held)? else {
        tracing::info!("stopped while starting: nothing was served");
        return Ok(());
    };
    commands.values().for_each(|sender| tell(sender, Command::Listen));
    for _ in 0..config.cores {
        match reports.recv().map_err(|_| StartError::ShardEnded)? {
            Progress::Serving => {}
            Progress::Failed(error) => return Err(error),
            _ => return Err(StartError::ShardEnded),
        }
    }
    let commands = Arc::new(commands);
    on_serving(sources(&commands));
    let _ = futures::executor::block_on(stopped); // A dropped sender also means: stop.
    tracing::info!("stopping");
    tell(&commands[&CONTROLLER_SHARD], Command::Leave);
    let _ = reports.recv(); // Left, or gone.
    commands.values().for_each(|sender| tell(sender, Command::Stop));
    for _ in 0..config.cores {
        let _ = reports.recv(); // Drained, or gone.
    }
    commands.values().for_each(|sender| tell(sender, Command::Finish));
    finish(config, &log_dirs, &reports)?;
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a shard's thread ended abnormally");
        }
    }
    Ok(())
}

/// Hands a command over; a full queue is tried again, a shard that is gone is left alone.
fn tell(sender: &ForeignSender<Command>, mut command: Command) {
    loop {
        match sender.try_send(command) {
            Err(GlommioError::WouldBlock(ResourceType::Channel(returned))) => {
                command = returned;
                std::thread::yield_now();
            }
            _ => return,
        }
    }
}

fn spawn_shards(
    config: &Config,
    progress: &mpsc::Sender<Progress>,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let mesh = MeshBuilder::full(config.cores, MESH_QUEUE_LENGTH);
    let memory = config.memory_plan();
    let nudger = Nudger::start().map_err(|error| StartError::Executor(error.to_string()))?;
    let shared = Arc::new(config.clone());
    let mut threads = Vec::with_capacity(config.cores);
    for (number, cpu) in config.cpus.iter().enumerate() {
        let (config, mesh, progress) = (shared.clone(), mesh.clone(), progress.clone());
        let nudger = nudger.clone();
        let plan = memory.clone();
        let builder = LocalExecutorBuilder::new(Placement::Fixed(*cpu))
            .name(&format!("shard-{number}"))
            .io_memory(memory.registered())
            .preempt_timer(RING_CHECK_INTERVAL);
        let thread = std::thread::Builder::new().name(format!("shard-{number}")).spawn(move || {
            // First of all: an executor may sleep past its very first task.
            nudger.register_this_thread();
            let ended = match builder.make() {
                Ok(executor) => executor.run(run_shard(&config, mesh, progress.clone(), plan)),
                Err(error) => Err(StartError::Executor(error.to_string())),
            };
            if let Err(error) = ended {
                let _ = progress.send(Progress::Failed(error));
            }
        });
        threads.push(thread.map_err(|error| StartError::Executor(error.to_string()))?);
    }
    Ok(threads)
}

/// Waits for every shard's last word, then marks the stop as clean in each log directory of which all have
/// kept everything.
fn finish(config: &Config, log_dirs: &LogDirs, reports: &mpsc::Receiver<Progress>) -> Result<(), StartError> {
    let mut of_dirs: Vec<BTreeMap<ShardId, CheckpointGeneration>> =
        vec![BTreeMap::new(); log_dirs.iter().len()];
    for _ in 0..config.cores {
        let Ok(Progress::Stopped(shard, generations)) = reports.recv() else { continue };
        for (of_dir, generation) in of_dirs.iter_mut().zip(generations) {
            of_dir.extend(generation.map(|generation| (shard, generation)));
        }
    }
    let mut all_clean = true;
    for ((index, dir), generations) in log_dirs.iter().zip(of_dirs) {
        if generations.len() < config.cores {
            let directory = dir.path.display();
            tracing::warn!(%directory, "stopped without a clean mark: the next start scans");
            all_clean = false;
            continue;
        }
        let path = dir.path.join(CLEAN_STOP_FILE);
        let bytes = CleanStop { generations }.encode();
        match replace_file(&path, &bytes) {
            Ok(()) => {}
            Err(source) if index == LogDirIndex::METADATA => return Err(StartError::Disk { path, source }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the mark of a clean stop was not written: the next start scans");
                all_clean = false;
            }
        }
    }
    if all_clean {
        tracing::info!("stopped cleanly");
    }
    Ok(())
}

type Commands = Arc<BTreeMap<ShardId, ForeignSender<Command>>>;

/// How the admin thread asks the shards.
fn sources(commands: &Commands) -> Sources {
    let (snapshots, clients, client_metrics) = (commands.clone(), commands.clone(), commands.clone());
    Sources {
        snapshots: Arc::new(move || Box::pin(ask_all(snapshots.clone(), Command::Snapshot))),
        clients: Arc::new(move || {
            let answers = ask_all(clients.clone(), Command::Clients);
            Box::pin(async move { Ok(answers.await?.concat()) })
        }),
        client_metrics: Arc::new(move |address| {
            let command = move |reply| Command::ClientMetrics(address, reply);
            let answers = ask_all(client_metrics.clone(), command);
            Box::pin(async move { Ok(answers.await?.concat()) })
        }),
    }
}

/// Asks all shards at once; their answers in shard order.
async fn ask_all<T>(
    commands: Commands,
    command: impl Fn(tokio::sync::oneshot::Sender<T>) -> Command,
) -> Result<Vec<T>, SnapshotError> {
    let mut asked = Vec::with_capacity(commands.len());
    for (shard, sender) in commands.iter() {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let unanswered = SnapshotError { shard: *shard };
        sender.try_send(command(reply)).map_err(|_| unanswered)?;
        asked.push((answer, unanswered));
    }
    let mut answers = Vec::with_capacity(asked.len());
    for (answer, unanswered) in asked {
        answers.push(answer.await.map_err(|_| unanswered)?);
    }
    Ok(answers)
}

async fn run_shard(
    config: &Config,
    mesh: MeshBuilder<Message, glommio::channels::channel_mesh::Full>,
    progress: mpsc::Sender<Progress>,
    memory: MemoryPlan,
) -> Result<(), StartError> {
    let mesh = mesh.join().await;
    let (senders, mut receivers) = mesh.map_err(|error| StartError::Executor(error.to_string()))?;
    let id = ShardId(senders.peer_id() as u16);
    partitions::topic_defaults(config).map_err(StartError::TopicDefaults)?;
    let (sender, receiver) = shared_channel::new_bounded(ADMIN_QUEUE_LENGTH);
    let (sender, commands) = futures::join!(sender.connect(), receiver.connect());
    let _ = progress.send(Progress::Up(id, sender.into_foreign()));
    let config = Rc::new(config.clone());
    let Some((seed, quorum)) = wait_to_open(&config, &commands, &progress).await else { return Ok(()) };
    let metrics = Rc::new(RefCell::new(ShardMetrics::new()));
    if id == CONTROLLER_SHARD {
        metrics.borrow_mut().recovery.add(&seed.recovery);
    }
    let clock = Clock::new();
    let disk = Disk::new(SyncFs::Nothing, None).with_open_files_max(seed.open_files_max);
    let disk = disk.with_min_free(config.storage_min_free_bytes);
    let shared = Shared::new(clock.clone(), metrics.clone(), &memory, seed.log_dirs.iter().len());
    let mut stores = Vec::with_capacity(seed.log_dirs.iter().len());
    for (index, dir) in seed.log_dirs.iter() {
        stores.push(open_store(&config, &seed, id, &shared, &disk, index, dir).await?);
    }
    let shard = Shard::new(ShardParts {
        id,
        node: seed.node.id,
        config,
        clock,
        metrics: metrics.clone(),
        stores: Stores::new(stores),
        log_dirs: Rc::new((*seed.log_dirs).clone()),
        mesh: Mesh::new(senders, metrics),
        image: seed.image,
        memory,
    });
    tell_of_failures(&shard);
    for (peer, receiver) in receivers.streams() {
        let peer = ShardId(peer as u16);
        shard.spawn(inbox::serve_peer(shard.clone(), peer, receiver));
        shard.spawn(shard.mesh.clone().run_outbox(peer));
    }
    let last: Vec<&LastStop> = seed.recovered.iter().map(|recovered| &recovered.last).collect();
    partitions::open_all(&shard, &last).await;
    drop(seed.recovered);
    let _ = progress.send(Progress::Open);
    let listeners = (&seed.base, &seed.per_shard[..]);
    timed(&shard.clock, &shard.metrics, obey(&shard, listeners, quorum.clone(), commands, &progress)).await?;
    let generations = finish_shard(&shard).await;
    if let Some(quorum) = &quorum {
        quorum.end().await;
    }
    let _ = progress.send(Progress::Stopped(id, generations));
    Ok(())
}

/// Until the start knows what there is to be opened; shard 0 has the metadata quorum meanwhile. `None`: the start has
/// been given up.
async fn wait_to_open(
    config: &Rc<Config>,
    commands: &ConnectedReceiver<Command>,
    progress: &mpsc::Sender<Progress>,
) -> Option<(Seed, Option<Rc<MetadataQuorum>>)> {
    let mut quorum = None;
    loop {
        match commands.recv().await? {
            Command::Quorum(founded) => {
                let Founded { metadata, image, around } = founded.into_inner().expect("nobody has held it");
                match MetadataQuorum::start(metadata, image, around, config.clone()) {
                    Ok(started) => quorum = Some(started),
                    Err(error) => {
                        let _ = progress.send(Progress::Failed(StartError::Peers(error)));
                        return None;
                    }
                }
            }
            Command::CatchUp => {
                let quorum = quorum.as_ref().expect("it was started before");
                let _ = progress.send(match quorum.catch_up().await {
                    Ok((image, deleted)) => Progress::CaughtUp(Box::new(image), deleted),
                    Err(error) => Progress::Failed(RegisterError::from(error).into()),
                });
            }
            Command::Register(start) => {
                let quorum = quorum.as_ref().expect("it was started before");
                let registered = quorum.register(*start).await;
                let _ = progress.send(match registered {
                    Ok(image) => Progress::Registered(Box::new(image)),
                    Err(error) => Progress::Failed(error.into()),
                });
            }
            Command::Open(seed) => return Some((seed.into_inner().expect("nobody has held it"), quorum)),
            _ => return None,
        }
    }
}

/// A shard's store of one log directory; offline if the directory cannot be used.
async fn open_store(
    config: &Config,
    seed: &Seed,
    id: ShardId,
    shared: &Shared,
    disk: &Disk,
    index: LogDirIndex,
    dir: &LogDir,
) -> Result<Rc<Store>, StartError> {
    let recovered = &seed.recovered[index.index()];
    let store_dir = StoreDir { index, path: dir.path.clone(), generation: recovered.generation };
    let disk = disk.on(SyncFs::of(&dir.file_system));
    let mut offline = dir.offline.clone();
    let journal = match open_journal(config, id, &disk, dir, recovered).await {
        Ok(journal) => journal,
        Err(source) if index == LogDirIndex::METADATA => {
            return Err(StartError::Disk { path: dir.path.clone(), source });
        }
        Err(error) => {
            offline = Some(format!("opening the journal: {error}"));
            None
        }
    };
    let store = Store::new(shared, store_dir, disk, journal.map(|journal| (id, journal)));
    if let Some(reason) = offline {
        store.go_offline(&reason);
    }
    Ok(store)
}

/// `None` for a log directory without one, or that cannot be used.
async fn open_journal(
    config: &Config,
    id: ShardId,
    disk: &Disk,
    dir: &LogDir,
    recovered: &Recovered,
) -> io::Result<Option<Journal>> {
    if !config.journal || dir.offline.is_some() {
        return Ok(None);
    }
    let limits = RingLimits { file_size: config.journal_file_size, file_count_max: config.journal_files };
    let journal = Journal::new(&dir.path, id, disk.clone(), limits);
    match recovered.last.journal.heads.get(&id) {
        None => Ok(Some(journal)),
        Some(head) => journal.resume(*head).await.map(Some),
    }
}

/// A write or a flush that fails on one shard takes the log directory offline on all of them, and so does
/// a journal that one of them could not open.
fn tell_of_failures(shard: &Rc<Shard>) {
    for (store, (_, dir)) in shard.stores.iter().zip(shard.log_dirs.iter()) {
        let weak = Rc::downgrade(shard);
        let index = store.dir;
        let tell = move |reason: &str| {
            let Some(shard) = weak.upgrade() else { return };
            let others = (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16));
            for other in others.filter(|other| *other != shard.id) {
                shard.mesh.post(other, Message::LogDirFailed { dir: index, reason: reason.to_owned() });
            }
        };
        if let Some(reason) = store.offline_reason().filter(|_| dir.offline.is_none()) {
            tracing::error!(directory = %dir.path.display(), reason, "the log directory is offline");
            tell(&reason);
        }
        store.on_failed(Box::new(tell));
        let weak = Rc::downgrade(shard);
        store.on_damaged(Box::new(move |id| {
            if let Some(shard) = weak.upgrade() {
                shard.replica_damaged(id);
            }
        }));
        let weak = Rc::downgrade(shard);
        store.on_doubtful(Box::new(move |id| {
            if let Some(shard) = weak.upgrade() {
                shard.replica_doubtful(id);
            }
        }));
    }
}

/// Does what the main thread says until the shard is to end.
async fn obey(
    shard: &Rc<Shard>,
    (base, per_shard): (&SocketAddr, &[SocketAddr]),
    quorum: Option<Rc<MetadataQuorum>>,
    commands: ConnectedReceiver<Command>,
    progress: &mpsc::Sender<Progress>,
) -> Result<(), StartError> {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen => {
                if let Some(quorum) = &quorum {
                    quorum.attach(shard);
                    let controller = Controller::new(quorum.clone());
                    assert!(shard.controller.set(controller).is_ok(), "one metadata quorum");
                }
                listen(shard, base, per_shard)?;
                let (shares, latency) = (Shares::Static(50), Latency::NotImportant);
                let queue = glommio::executor().create_task_queue(shares, latency, "background");
                background::start(shard, queue);
                replication::start(shard);
                groups::start(shard);
                transactions::start(shard);
                shard.spawn(quotas::exchange(shard.clone()));
                shard.subscriptions_changed();
                if let Some(quorum) = &quorum {
                    quorum.begin_to_serve(UNFENCED_TIME_MAX).await;
                }
                let _ = progress.send(Progress::Serving);
            }
            Command::Leave => {
                if let Some(quorum) = &quorum {
                    quorum.shut_down().await;
                }
                let _ = progress.send(Progress::Left);
            }
            Command::Snapshot(reply) => {
                let _ = reply.send(inbox::snapshot(shard));
            }
            Command::Clients(reply) => {
                let asked = shard.clone();
                shard.spawn(async move {
                    let _ = reply.send(inbox::clients(&asked).await);
                });
            }
            Command::ClientMetrics(address, reply) => {
                let _ = reply.send(shard.client_metrics(address));
            }
            Command::Stop => {
                if let Some(quorum) = &quorum {
                    quorum.hand_over().await;
                }
                drain(shard).await;
                let _ = progress.send(Progress::Drained);
            }
            Command::Quorum(_) | Command::CatchUp | Command::Register(_) | Command::Open(_) => {
                unreachable!("they come before the partitions are open")
            }
            Command::Finish => break,
        }
    }
    Ok(())
}

fn listen(shard: &Rc<Shard>, base: &SocketAddr, per_shard: &[SocketAddr]) -> Result<(), StartError> {
    let own = per_shard.get(shard.id.index()).map(|address| (*address, Listener::Core(shard.id)));
    for (address, listener) in [(*base, Listener::Base)].into_iter().chain(own) {
        let bound = TcpListener::bind(address)
            .map_err(|error| StartError::Listen { address, reason: error.to_string() })?;
        shard.spawn(accept(shard.clone(), bound, listener));
    }
    Ok(())
}

async fn accept(shard: Rc<Shard>, listening: TcpListener, listener: Listener) {
    loop {
        let stream = match listening.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, most likely: those that end make room.
                tracing::warn!(%error, "a connection was not accepted");
                glommio::timer::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if shard.is_stopping() {
            return;
        }
        if !shard.admits_connection().await {
            shard.metrics.borrow_mut().connections_refused += 1;
            let connections_max = shard.settings().max_connections;
            tracing::warn!(connections_max, "a connection was refused: max.connections is reached");
            refuse(stream).await;
            continue;
        }
        let (Ok(peer), Ok(())) = (stream.peer_addr(), stream.set_nodelay(true)) else { continue };
        let connection = shard.connection_started(|id| {
            let (now, metrics) = (shard.clock.mono(), shard.metrics.clone());
            Connection::new(id, stream, peer, listener, now, metrics, shard.response_memory.clone())
        });
        shard.spawn(serve(shard.clone(), connection));
    }
}

/// Finishes what is in flight; nothing new is accepted.
async fn drain(shard: &Rc<Shard>) {
    shard.begin_stop();
    let begun = shard.clock.mono();
    while shard.connection_count() > 0 && shard.clock.mono().since(begun) < STOP_GRACE {
        shard.stores.pump();
        glommio::timer::sleep(Duration::from_millis(5)).await;
    }
    shard.close_connections(&CloseReason::Stopping);
}

/// Flushes what is left and writes the final state of every log directory. `None` where a start has to
/// scan.
async fn finish_shard(shard: &Rc<Shard>) -> Vec<Option<CheckpointGeneration>> {
    // Topics that are being deleted are, or their directories would go while their state is written.
    let turn = shard.changing_partitions.acquire_permit(1).await;
    shard.removals.all_ended().await;
    shard.stores.iter().for_each(|store| store.close());
    join_all(shard.stores.iter().map(store_all)).await;
    shard.mesh.close();
    let generations = join_all(shard.stores.iter().map(|store| finish_store(shard, store))).await;
    std::mem::forget(turn); // Whoever waits for it would begin what the executor does not live to see the end of.
    generations
}

async fn store_all(store: &Rc<Store>) {
    let begun = store.clock.mono();
    let mut is_told = false;
    while store.unstored_bytes() > 0 && !store.is_offline() {
        if !is_told && store.clock.mono().since(begun) >= STOP_GRACE {
            is_told = true;
            let (directory, outstanding) = (store.path.display(), store.outstanding());
            tracing::warn!(%directory, outstanding, "the stop waits for the disk");
        }
        store.write_all_out();
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
}

async fn finish_store(shard: &Rc<Shard>, store: &Rc<Store>) -> Option<CheckpointGeneration> {
    if store.is_offline() {
        return None;
    }
    let is_here = |unavailable: &Unavailable| unavailable.dir == Some(store.dir);
    match write_final_state(shard, store).await {
        // The next start has to look at what could not be opened, not to believe its checkpoint.
        Ok(()) if shard.unavailable.borrow().values().any(is_here) => None,
        Ok(()) => Some(store.checkpoint_generation()),
        Err(error) => {
            tracing::error!(directory = %store.path.display(), %error, "the final state was not written");
            None
        }
    }
}
