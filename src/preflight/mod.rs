//! What is looked at before anything starts: can this process, on this host, keep its promises?
//!
//! | file | asks |
//! |---|---|
//! | `machine.rs` | which CPUs, how much memory, which name |
//! | `data_dir.rs` | created, ours alone (`odradek.lock`), on a file system with direct I/O |
//! | `log_dirs.rs` | the same of every log directory, and whether they belong together |
//! | `identity.rs` | which cluster and node the directory belongs to (`meta.properties`) |
//! | `io_uring.rs` | does the kernel let us make a ring, and if not, who forbids it |
//! | `resources.rs` | locked memory and open files, raised as far as allowed |
//! | `ports.rs` | are the ports free |
//!
//! Every failure is one sentence that says what to do. Runs on the main thread before any executor
//! or other thread exists, so it blocks freely.

mod data_dir;
mod identity;
mod io_uring;
mod log_dirs;
mod machine;
mod ports;
mod resources;

use crate::config::{Config, HostPort};
use crate::types::Uuid;

pub use data_dir::{DataDirError, DataDirLock, FileSystem, file_system_name, hold_for_reading};
pub use identity::{Identity, IdentityError, current_boot_id, directory_ids, note_begun};
pub use io_uring::{IoUringError, probe as probe_io_uring};
pub use log_dirs::{LogDir, LogDirsError, OtherDir, adopt};
pub use machine::{hostname, machine};
pub use ports::{Listeners, PortError};
pub use resources::{MemlockError, Resources, current as current_resources, make_room};

/// A host that was found fit. Whoever holds it holds the log directories.
#[derive(Debug)]
pub struct Preflight {
    /// The log directory that has the metadata.
    pub metadata: LogDir,
    /// The others, in their order.
    pub others: Vec<OtherDir>,
    pub resources: Resources,
    pub listeners: Listeners,
    /// Where clients are told to connect (under `core` routing: to bootstrap).
    pub advertised: HostPort,
    /// Where other nodes are told to.
    pub peer_advertised: Option<HostPort>,
}

#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    LogDirs(#[from] LogDirsError),
    #[error(transparent)]
    IoUring(#[from] IoUringError),
    #[error(transparent)]
    Memlock(#[from] MemlockError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("{0}")]
    Join(String),
    #[error("a node of a cluster of several needs --peer-listen: where other nodes connect to it")]
    NoPeerListen,
}

/// How a new node finds out which cluster it joins; `None`: it begins one.
pub type Joined<'a> = dyn Fn(&Config) -> Result<Option<Uuid>, String> + 'a;

/// Checks the host and takes the log directories.
///
/// The directories come first: a second broker is to be told that there is a first, not that its
/// port is taken. On failure nothing is left behind but an empty data directory and its identity, and
/// nothing at all in a directory that is somebody else's.
///
/// `joined`: the id of the cluster that a new data directory is to belong to, asked for only then.
pub fn run(config: &Config, joined: &Joined<'_>) -> Result<Preflight, PreflightError> {
    if config.peer_listen.is_none() && !config.join.is_empty() {
        return Err(PreflightError::NoPeerListen);
    }
    let (metadata, others) = log_dirs::take_all(config, joined)?;
    io_uring::probe()?;
    let resources =
        resources::raise(config.cores, &config.memory_plan(), (config.max_connections, config.open_files))?;
    let listeners = ports::check(config)?;
    let bound = HostPort { host: config.listen.host.clone(), port: listeners.base.port() };
    let advertised = config.advertised(&bound, &hostname());
    let peers = config.peer_listen.as_ref().zip(listeners.peers);
    let peers = peers.map(|(listen, bound)| HostPort { host: listen.host.clone(), port: bound.port() });
    let peer_advertised = config.peer_advertised(peers.as_ref(), &hostname());
    Ok(Preflight { metadata, others, resources, listeners, advertised, peer_advertised })
}

/// The last system call's error, for the failures that libc reports through `errno`.
fn last_error() -> std::io::Error {
    std::io::Error::last_os_error()
}
