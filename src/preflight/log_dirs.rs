//! The log directories of a node: each one taken for itself, then held against the others.
//!
//! The first one has the metadata, and without it there is no node. What is wrong with another one is a
//! refusal where the operator has to decide, and otherwise leaves that directory offline:
//!
//! | a directory other than the first | what follows |
//! |---|---|
//! | has its identity and can be used | it is taken |
//! | is locked, is of another node or cluster, is a copy of another one, has metadata | no start |
//! | has an identity that cannot be read, or cannot be written | offline |
//! | has no identity | [`adopt`]ed, unless the metadata knows of partitions that were there: then its disk is not mounted |

use std::path::{Path, PathBuf};

use super::data_dir::{self, DataDirError, DataDirLock, FileSystem};
use super::identity::{self, Identity, IdentityError, Of};
use super::{Joined, PreflightError};
use crate::config::Config;

/// A log directory that is ours.
#[derive(Debug)]
pub struct LogDir {
    pub path: PathBuf,
    pub file_system: FileSystem,
    pub identity: Identity,
    /// Kept open until the process ends; the lock goes with it.
    _lock: DataDirLock,
}

/// A log directory beside the one that has the metadata.
#[derive(Debug)]
pub enum OtherDir {
    Ready(LogDir),
    /// It has no identity, and was left as it is. What keeps it from being taken, if anything does.
    New {
        path: PathBuf,
        refusal: Option<PreflightError>,
    },
    /// It is ours, most likely, and cannot be used.
    Unusable {
        path: PathBuf,
        error: PreflightError,
    },
}

impl OtherDir {
    pub fn path(&self) -> &Path {
        match self {
            OtherDir::Ready(directory) => &directory.path,
            OtherDir::New { path, .. } | OtherDir::Unusable { path, .. } => path,
        }
    }
}

/// Why directories that are well each for itself do not make a node.
#[derive(Debug, thiserror::Error)]
pub enum LogDirsError {
    #[error("{} and {} are the same directory: name it once", .first.display(), .second.display())]
    Same { first: PathBuf, second: PathBuf },
    #[error("{} lies inside {}: choose directories beside each other", .inner.display(), .outer.display())]
    Nested { inner: PathBuf, outer: PathBuf },
    #[error("{} and {} have the same directory.id: one is a copy of the other, remove it", .first.display(), .second.display())]
    Copy { first: PathBuf, second: PathBuf },
    #[error("{} has no metadata, which is in the directory with directory.id {metadata}: name that one first", .path.display())]
    NotFirst { path: PathBuf, metadata: String },
    #[error("{} has metadata: name it first, or choose another --data-dir", .path.display())]
    HasMetadata { path: PathBuf },
    #[error(
        "{} is new, but {} is in use: mount what belongs there, or name the directory with the metadata first",
        .first.display(), .other.display()
    )]
    FirstIsNew { first: PathBuf, other: PathBuf },
    #[error(
        "{} belongs to cluster {found}, and {} to cluster {wanted}: choose another --data-dir",
        .path.display(), .first.display()
    )]
    OtherCluster { path: PathBuf, found: String, first: PathBuf, wanted: String },
}

/// Takes all that can be taken; writes nothing before what can be refused has been.
pub fn take_all(config: &Config, joined: &Joined<'_>) -> Result<(LogDir, Vec<OtherDir>), PreflightError> {
    let (first, others) = config.data_dirs.split_first().expect("a configuration has a data directory");
    refuse_aliases(&config.data_dirs)?;
    identity::refuse_foreign(first)?;
    // A disk that is not mounted must not begin a cluster of its own beside those that are.
    if !identity::is_named(first)
        && let Some(other) = others.iter().find(|other| identity::is_named(other))
    {
        return Err(LogDirsError::FirstIsNew { first: first.clone(), other: other.clone() }.into());
    }
    let lock = data_dir::take(first)?;
    let file_system = data_dir::check_file_system(first, config.unsafe_buffered_io)?;
    let identity = match identity::load(first, config.node_id)? {
        Some(identity) => identity,
        None => {
            let cluster = joined(config).map_err(PreflightError::Join)?;
            identity::create(first, config.node_id, Of::Cluster(cluster))?
        }
    };
    if let Some(metadata) = identity.metadata_directory {
        return Err(LogDirsError::NotFirst { path: first.clone(), metadata }.into());
    }
    let metadata = LogDir { path: first.clone(), file_system, identity, _lock: lock };
    let others = others.iter().map(|path| take_other(config, &metadata, path));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    refuse_copies(&metadata, &others)?;
    Ok((metadata, others))
}

fn take_other(config: &Config, metadata: &LogDir, path: &Path) -> Result<OtherDir, PreflightError> {
    if !identity::is_named(path) {
        let refusal = identity::refuse_foreign(path).err().map(PreflightError::from);
        return Ok(OtherDir::New { path: path.to_path_buf(), refusal });
    }
    match open(config, path, metadata) {
        Ok(directory) => Ok(OtherDir::Ready(directory)),
        Err(error) if is_for_the_operator(&error) => Err(error),
        Err(error) => Ok(OtherDir::Unusable { path: path.to_path_buf(), error }),
    }
}

fn open(config: &Config, path: &Path, metadata: &LogDir) -> Result<LogDir, PreflightError> {
    let lock = data_dir::take(path)?;
    let file_system = data_dir::check_file_system(path, config.unsafe_buffered_io)?;
    let named = identity::load(path, config.node_id)?;
    let identity = match named {
        Some(identity) => identity,
        None => identity::create(path, config.node_id, Of::Metadata(&metadata.identity))?,
    };
    if identity.cluster_id != metadata.identity.cluster_id {
        let (found, wanted) = (identity.cluster_id, metadata.identity.cluster_id.clone());
        let (path, first) = (path.to_path_buf(), metadata.path.clone());
        return Err(LogDirsError::OtherCluster { path, found, first, wanted }.into());
    }
    if path.join("metadata").exists() {
        return Err(LogDirsError::HasMetadata { path: path.to_path_buf() }.into());
    }
    Ok(LogDir { path: path.to_path_buf(), file_system, identity, _lock: lock })
}

/// Takes a new directory into the node.
pub fn adopt(config: &Config, metadata: &LogDir, path: &Path) -> Result<LogDir, PreflightError> {
    open(config, path, metadata)
}

/// Whether an error says that the configuration is wrong, and not that a disk has failed.
fn is_for_the_operator(error: &PreflightError) -> bool {
    match error {
        PreflightError::DataDir(error) => match error {
            DataDirError::Locked { .. }
            | DataDirError::FileSystem { .. }
            | DataDirError::Alignment { .. } => true,
            DataDirError::Create { .. }
            | DataDirError::NoBroker { .. }
            | DataDirError::Lock { .. }
            | DataDirError::Write { .. } => false,
        },
        PreflightError::Identity(error) => match error {
            IdentityError::OtherNode { .. } | IdentityError::Foreign { .. } => true,
            IdentityError::Damaged { .. } | IdentityError::Io { .. } => false,
        },
        PreflightError::LogDirs(_)
        | PreflightError::Join(_)
        | PreflightError::NoPeerListen
        | PreflightError::IoUring(_)
        | PreflightError::Memlock(_)
        | PreflightError::Port(_) => true,
    }
}

/// Two names may lead to one directory, or into one.
fn refuse_aliases(paths: &[PathBuf]) -> Result<(), LogDirsError> {
    let found: Vec<(&PathBuf, PathBuf)> =
        paths.iter().filter_map(|path| Some((path, std::fs::canonicalize(path).ok()?))).collect();
    for (at, (second, real)) in found.iter().enumerate() {
        for (first, other) in &found[..at] {
            let nested = |inner: &PathBuf, outer: &PathBuf| LogDirsError::Nested {
                inner: inner.clone(),
                outer: outer.clone(),
            };
            if real == other {
                return Err(LogDirsError::Same { first: (*first).clone(), second: (*second).clone() });
            } else if real.starts_with(other) {
                return Err(nested(second, first));
            } else if other.starts_with(real) {
                return Err(nested(first, second));
            }
        }
    }
    Ok(())
}

fn refuse_copies(metadata: &LogDir, others: &[OtherDir]) -> Result<(), LogDirsError> {
    let ready = others.iter().filter_map(|other| match other {
        OtherDir::Ready(directory) => Some(directory),
        OtherDir::New { .. } | OtherDir::Unusable { .. } => None,
    });
    let all: Vec<&LogDir> = std::iter::once(metadata).chain(ready).collect();
    for (at, second) in all.iter().enumerate() {
        let same = |first: &&&LogDir| first.identity.directory_id == second.identity.directory_id;
        if let Some(first) = all[..at].iter().find(same) {
            return Err(LogDirsError::Copy { first: first.path.clone(), second: second.path.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests write files")]
mod tests {
    use super::*;
    use crate::config::{Inputs, Machine};
    use crate::types::Uuid;
    use std::fs;

    fn alone(_: &Config) -> Result<Option<Uuid>, String> {
        Ok(None)
    }

    fn config(paths: &[&Path]) -> Config {
        let list = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(",");
        let flags = [("--data-dir".to_owned(), "data-dir".to_owned(), list)];
        let machine = Machine { cpus_allowed: vec![0], memory_bytes: 4 << 30 };
        let inputs = Inputs { flags: &flags, ..Inputs::default() };
        Config::resolve(&inputs, &machine).expect("valid")
    }

    /// On the build's disk: the system's directory for temporary files may be in memory.
    fn parent() -> tempfile::TempDir {
        let build = std::env::current_exe().expect("a test knows its executable");
        tempfile::tempdir_in(build.parent().expect("it is in a directory")).expect("a directory")
    }

    #[test]
    fn new_directories_are_adopted_and_known_again() {
        let parent = parent();
        let (first, second) = (parent.path().join("first"), parent.path().join("second"));
        let config = config(&[&first, &second]);
        let (metadata, others) = take_all(&config, &alone).expect("free");
        assert!(matches!(&others[..], [OtherDir::New { refusal: None, .. }]), "{others:?}");
        assert!(!second.exists(), "whether it is new is not known yet");
        let adopted = adopt(&config, &metadata, &second).expect("free");
        assert_eq!(adopted.identity.cluster_id, metadata.identity.cluster_id);
        assert!(matches!(
            take_all(&config, &alone),
            Err(PreflightError::DataDir(DataDirError::Locked { .. }))
        ));
        let id = adopted.identity.directory_id;
        drop((metadata, adopted));
        let (metadata, others) = take_all(&config, &alone).expect("free again");
        let [OtherDir::Ready(found)] = &others[..] else { panic!("{others:?}") };
        assert_eq!(found.identity.directory_id, id);
        drop((metadata, others));
        // What cannot be read is not taken for a new one.
        fs::write(second.join("meta.properties"), "version=1\n").expect("it can be damaged");
        let (_metadata, others) = take_all(&config, &alone).expect("the first is well");
        assert!(matches!(&others[..], [OtherDir::Unusable { .. }]), "{others:?}");
    }

    #[test]
    fn directories_of_different_clusters_are_refused() {
        let parent = parent();
        let (first, second) = (parent.path().join("first"), parent.path().join("second"));
        take_all(&config(&[&first]), &alone).expect("free");
        take_all(&config(&[&second]), &alone).expect("free");
        let refused = |error: PreflightError| error.to_string();
        let error =
            take_all(&config(&[&first, &second]), &alone).map(drop).map_err(refused).expect_err("another");
        assert!(error.contains("belongs to cluster"), "{error}");
        let empty = parent.path().join("not-mounted");
        fs::create_dir(&empty).expect("made");
        let error =
            take_all(&config(&[&empty, &second]), &alone).map(drop).map_err(refused).expect_err("empty");
        assert!(error.contains("is new, but"), "{error}");
        assert_eq!(fs::read_dir(&empty).expect("there").count(), 0, "nothing is begun in it");
        // Somebody else's files are left alone, and reported where the directory belongs to nobody.
        fs::write(empty.join("thesis.tex"), "").expect("written");
        let (_metadata, others) = take_all(&config(&[&first, &empty]), &alone).expect("the first is well");
        assert!(matches!(&others[..], [OtherDir::New { refusal: Some(_), .. }]), "{others:?}");
        assert_eq!(fs::read_dir(&empty).expect("there").count(), 1);
    }
}
