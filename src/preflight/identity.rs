//! Which cluster and node a log directory belongs to: `meta.properties`, as Kafka writes it.
//!
//! ```text
//! crc32=5f2b1c7e
//! version=1
//! cluster.id=MkU3OEVBNTcwNTJENDM2Qg
//! node.id=1
//! directory.id=Ls2XWq3gTkKx6ZQO8Y3V1A
//! ```
//! One that was made to join a cluster says so (`cluster.joined=true`): it never begins one of its own.
//! In those that do not have the metadata one more line says which one does, so that none of them is ever
//! taken for the directory of an empty cluster: `metadata.directory.id=MzE8dy87TCSMBw0PLz0eWg`.
//!
//! `metadata.begun=true` says that there were metadata once: a start without them is refused. `boot.id` says since which
//! start of the machine the node runs, or ran. Else made with the directory and never changed: a directory that is mounted under the wrong node would
//! otherwise answer for partitions that it does not have.
//!
//! `crc32` is over all that stands behind its line (`crc32fast`, hexadecimal), so that it is missed by no file that
//! was cut short. Kafka passes it by; files of Kafka and of earlier builds have none, and whoever changes the file takes
//! it out.

#![expect(clippy::disallowed_methods, reason = "runs on the main thread before any shard exists")]

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::types::{DirectoryId, NodeId, Uuid, parse_uuid_text, uuid_text};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// 22 characters, as in Kafka: a UUID in URL-safe base 64.
    pub cluster_id: String,
    pub directory_id: DirectoryId,
    /// The directory that has the metadata, where that is another one.
    pub metadata_directory: Option<String>,
    pub node_id: NodeId,
    /// Others have founded the cluster: without metadata it waits for them.
    pub has_joined: bool,
    /// There were metadata in it: where there are none any more, they are lost.
    pub has_begun: bool,
    /// During which run of the machine the node was last registered, as the kernel names it.
    pub boot_id: Option<String>,
    /// True if the directory was empty: nothing is to be recovered.
    pub created: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{} belongs to node {found}, not {}: start with --node-id {found}, or choose another --data-dir", .path.display(), .wanted.0)]
    OtherNode { path: PathBuf, found: String, wanted: NodeId },
    #[error("{} is damaged ({problem}): restore it, or empty the data directory to start over", .path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "{} holds {found} but no meta.properties, so it is not one of our data directories: choose \
         another --data-dir, or restore the file", .path.display()
    )]
    Foreign { path: PathBuf, found: String },
    #[error("{} cannot be read or written: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
}

const FILE_NAME: &str = "meta.properties";
const JOINED: &str = "cluster.joined";
const BEGUN: &str = "metadata.begun";
const BOOT: &str = "boot.id";
const CHECKSUM: &str = "crc32=";
const STAGED_NAME: &str = "meta.properties.tmp";
/// Bytes; ours has some 110.
const FILE_SIZE_MAX: u64 = 64 << 10;

/// What a directory says of itself; `None` when it is new.
pub fn load(data_dir: &Path, node_id: NodeId) -> Result<Option<Identity>, IdentityError> {
    let path = data_dir.join(FILE_NAME);
    let failed = |error| IdentityError::Io { path: path.clone(), error };
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > FILE_SIZE_MAX => {
            Err(IdentityError::Damaged { path, problem: format!("{} bytes long", metadata.len()) })
        }
        Ok(_) => {
            let contents = std::fs::read(&path).map_err(failed)?;
            parse(&String::from_utf8_lossy(&contents), &path, node_id).map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What a new directory belongs to.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// It is a node's first one: of a cluster that there is, or of a new one.
    Cluster(Option<Uuid>),
    /// The node of the one that has the metadata.
    Metadata(&'a Identity),
}

/// Gives a new directory its identity.
pub fn create(data_dir: &Path, node_id: NodeId, of: Of<'_>) -> Result<Identity, IdentityError> {
    let path = data_dir.join(FILE_NAME);
    let (cluster_id, metadata_directory, has_joined) = match of {
        Of::Cluster(cluster) => (uuid_text(cluster.unwrap_or_else(Uuid::new_v4)), None, cluster.is_some()),
        Of::Metadata(first) => (first.cluster_id.clone(), Some(first.directory_id.to_string()), false),
    };
    let directory_id = DirectoryId(Uuid::new_v4());
    let identity = Identity {
        cluster_id,
        directory_id,
        metadata_directory,
        node_id,
        has_joined,
        has_begun: false,
        boot_id: None,
        created: true,
    };
    write(data_dir, &path, &identity).map_err(|error| IdentityError::Io { path, error })?;
    Ok(identity)
}

/// Notes that there are metadata in a directory now, and during which run of the machine.
pub fn note_begun(data_dir: &Path, identity: &Identity, boot_id: Option<String>) -> io::Result<()> {
    let noted = Identity { has_begun: true, boot_id, ..identity.clone() };
    if noted == *identity { Ok(()) } else { write(data_dir, &data_dir.join(FILE_NAME), &noted) }
}

/// What the kernel calls this run of the machine.
pub fn current_boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

impl Identity {
    /// The machine may have lost what was written and not flushed since the node last ran: it was started anew, or nobody
    /// can say.
    pub fn is_of_another_boot(&self, current: Option<&str>) -> bool {
        self.has_begun && (current.is_none() || self.boot_id.as_deref() != current)
    }
}

/// Which directory it says it is, and which one has the metadata if that is another; for readers of a
/// stopped broker's files, whosever they are. `None` when it does not say.
pub fn directory_ids(data_dir: &Path) -> Option<(DirectoryId, Option<String>)> {
    let text = std::fs::read_to_string(data_dir.join(FILE_NAME)).ok()?;
    let value = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=')).map(str::trim)
    };
    let id = DirectoryId(parse_uuid_text(value("directory.id")?)?);
    Some((id, value("metadata.directory.id").map(str::to_owned)))
}

/// Whether a directory has an identity, or may have one that cannot be read.
pub fn is_named(data_dir: &Path) -> bool {
    !matches!(std::fs::symlink_metadata(data_dir.join(FILE_NAME)),
        Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Refuses a directory that holds something, but no identity; before anything is written to it.
pub fn refuse_foreign(data_dir: &Path) -> Result<(), IdentityError> {
    let path = data_dir.to_path_buf();
    if data_dir.join(FILE_NAME).exists() {
        return Ok(());
    }
    match foreign_entry(data_dir) {
        Ok(None) => Ok(()),
        Ok(Some(found)) => Err(IdentityError::Foreign { path, found }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(IdentityError::Io { path, error }),
    }
}

/// The first entry that an unfinished first start cannot have left.
fn foreign_entry(data_dir: &Path) -> io::Result<Option<String>> {
    const OURS: [&str; 4] = ["odradek.lock", ".odradek-probe", STAGED_NAME, "lost+found"];
    for entry in std::fs::read_dir(data_dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !OURS.contains(&name.as_str()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn parse(contents: &str, path: &Path, wanted: NodeId) -> Result<Identity, IdentityError> {
    let damaged = |problem: String| IdentityError::Damaged { path: path.to_path_buf(), problem };
    let property = |name: &str| {
        let lines = contents.lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        let found = pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_string());
        found.filter(|value| !value.is_empty()).ok_or_else(|| damaged(format!("no {name}")))
    };
    if !holds(contents) {
        let problem =
            "its checksum does not hold; if somebody has changed it, its line crc32 is to be taken out";
        return Err(damaged(problem.to_owned()));
    }
    let version = property("version")?;
    if version != "1" {
        return Err(damaged(format!("version {version}, and this build knows 1")));
    }
    let found = property("node.id")?;
    if found != wanted.0.to_string() {
        return Err(IdentityError::OtherNode { path: path.to_path_buf(), found, wanted });
    }
    let (cluster_id, directory) = (property("cluster.id")?, property("directory.id")?);
    // Kafka's are such ids too.
    let directory_id = parse_uuid_text(&directory).filter(|id| !id.is_nil()).map(DirectoryId);
    let directory_id = directory_id.ok_or_else(|| damaged(format!("directory.id {directory}")))?;
    let metadata_directory = property("metadata.directory.id").ok();
    let is_true = |name| property(name).is_ok_and(|value| value == "true");
    let (node_id, has_joined, has_begun) = (wanted, is_true(JOINED), is_true(BEGUN));
    let boot_id = property(BOOT).ok();
    let created = false;
    Ok(Identity {
        cluster_id,
        directory_id,
        metadata_directory,
        node_id,
        has_joined,
        has_begun,
        boot_id,
        created,
    })
}

/// Whether a file is as it was written, if it says how that was.
fn holds(contents: &str) -> bool {
    let Some(rest) = contents.strip_prefix(CHECKSUM) else { return true };
    let Some((stated, covered)) = rest.split_once('\n') else { return false };
    stated == checksum(covered)
}

fn checksum(covered: &str) -> String {
    format!("{:08x}", crc32fast::hash(covered.as_bytes()))
}

/// Whole or not at all: under another name, flushed, renamed, and the directory flushed.
fn write(data_dir: &Path, path: &Path, identity: &Identity) -> io::Result<()> {
    let staged = data_dir.join(STAGED_NAME);
    let mut file = File::create(&staged)?;
    let covered = encode(identity);
    write!(file, "{CHECKSUM}{}\n{covered}", checksum(&covered))?;
    file.sync_all()?;
    std::fs::rename(&staged, path)?;
    File::open(data_dir)?.sync_all()
}

fn encode(identity: &Identity) -> String {
    let mut lines = vec![
        "version=1".to_owned(),
        format!("cluster.id={}", identity.cluster_id),
        format!("node.id={}", identity.node_id.0),
        format!("directory.id={}", identity.directory_id),
    ];
    lines.extend(
        identity.metadata_directory.as_ref().map(|metadata| format!("metadata.directory.id={metadata}")),
    );
    lines.extend(identity.has_joined.then(|| format!("{JOINED}=true")));
    lines.extend(identity.has_begun.then(|| format!("{BEGUN}=true")));
    lines.extend(identity.boot_id.as_ref().map(|boot| format!("{BOOT}={boot}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_found_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(load(directory.path(), NodeId(7)).expect("readable"), None);
        let made = create(directory.path(), NodeId(7), Of::Cluster(None)).expect("made");
        assert!(made.created);
        let found = load(directory.path(), NodeId(7)).expect("readable");
        assert_eq!(found, Some(Identity { created: false, ..made.clone() }));
        let joined = tempfile::tempdir().expect("a temporary directory");
        let cluster = parse_uuid_text(&made.cluster_id);
        let made = create(joined.path(), NodeId(9), Of::Cluster(cluster)).expect("made");
        let found = load(joined.path(), NodeId(9)).expect("readable").expect("it is there");
        assert!(found.has_joined && found.cluster_id == made.cluster_id);
        assert!(!found.is_of_another_boot(Some("one")), "it has not run");
        let boot = |name: &str| Some(name.to_owned());
        note_begun(joined.path(), &found, boot("one")).expect("noted");
        let begun = load(joined.path(), NodeId(9)).expect("readable").expect("it is there");
        assert_eq!(begun, Identity { has_begun: true, boot_id: boot("one"), ..found });
        let is_other = |boot| begun.is_of_another_boot(boot);
        assert_eq!([Some("one"), Some("two"), None].map(is_other), [false, true, true]);
        note_begun(joined.path(), &begun, boot("two")).expect("noted");
        let again = load(joined.path(), NodeId(9)).expect("readable").expect("it is there");
        assert_eq!(again, Identity { boot_id: boot("two"), ..begun.clone() });
        assert!(Identity { boot_id: None, ..begun }.is_of_another_boot(Some("one")), "of an earlier build");
        let error = load(directory.path(), NodeId(8)).expect_err("another node").to_string();
        assert!(error.contains("belongs to node 7, not 8: start with --node-id 7"), "{error}");
        let other = tempfile::tempdir().expect("a temporary directory");
        create(other.path(), NodeId(7), Of::Metadata(&made)).expect("made");
        let other = load(other.path(), NodeId(7)).expect("readable").expect("just made");
        assert_eq!(other.cluster_id, made.cluster_id);
        assert_eq!(other.metadata_directory, Some(made.directory_id.to_string()));
        assert_ne!(other.directory_id, made.directory_id);
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for ours in ["odradek.lock", STAGED_NAME] {
            File::create(directory.path().join(ours)).expect("created");
        }
        assert!(refuse_foreign(directory.path()).is_ok());
        assert!(refuse_foreign(&directory.path().join("none yet")).is_ok());
        File::create(directory.path().join("thesis.tex")).expect("created");
        let error = refuse_foreign(directory.path()).expect_err("foreign").to_string();
        assert!(error.contains("holds thesis.tex but no meta.properties"), "{error}");
        create(directory.path(), NodeId(1), Of::Cluster(None)).expect("made");
        assert!(refuse_foreign(directory.path()).is_ok(), "ours from now on");
    }

    #[test]
    fn damage_is_refused_with_its_reason() {
        let path = Path::new("meta.properties");
        let problem = |contents: &str| parse(contents, path, NodeId(1)).expect_err("damaged").to_string();
        assert!(problem("").contains("no version"));
        assert!(problem("version=2\n").contains("version 2"));
        assert!(problem("version=1\nnode.id=1\ncluster.id=\n").contains("no cluster.id"));
        let kafkas =
            "#\n#Sun Nov 22\nnode.id=1\nversion=1\ncluster.id=a\ndirectory.id=Ls2XWq3gTkKx6ZQO8Y3V1A\n";
        assert!(parse(kafkas, path, NodeId(1)).is_ok());
    }

    /// But for the line that names the checksum: without it, it is a file of before.
    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let made = create(directory.path(), NodeId(1), Of::Cluster(Some(Uuid::new_v4()))).expect("writable");
        note_begun(directory.path(), &made, Some("one".to_owned())).expect("writable");
        let path = directory.path().join(FILE_NAME);
        let whole = load(directory.path(), NodeId(1)).expect("readable");
        assert!(whole.as_ref().is_some_and(|identity| identity.has_joined && identity.has_begun));
        let bytes = std::fs::read(&path).expect("readable");
        let found = |damaged: &[u8]| {
            std::fs::write(&path, damaged).expect("writable");
            load(directory.path(), NodeId(1)).map_err(|error| error.to_string())
        };
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            match found(&flipped) {
                Ok(found) => {
                    assert!(at < CHECKSUM.len() && found == whole, "bit {bit} of byte {at}: {found:?}")
                }
                Err(error) => assert!(error.contains("meta.properties is damaged"), "{error}"),
            }
        }
        for end in 0..bytes.len() {
            assert!(found(&bytes[..end]).is_err(), "{end}");
        }
        let without = bytes.split_inclusive(|byte| *byte == b'\n').skip(1).collect::<Vec<_>>().concat();
        assert_eq!(found(&without), Ok(whole));
    }
}
