//! Which file is damaged how, and what may follow from it.
//!
//! | file | bits flipped, or cut short, or gone | what may follow |
//! |---|---|---|
//! | indexes, checksums, producer snapshots, leader epochs, checkpoints, the clean mark | any | nothing: built again |
//! | active segment, below the recovery point, after a kill | below it | its partition is offline |
//! | the same with a journal | | offline, or the journal had it too |
//! | active segment beyond that point | | offline where the journal says that it was flushed; or its end is cut, with a warning |
//! | closed segment, or any after a clean stop | any bit | not scanned at a start: an error when it is read |
//! | journal, after a kill | flipped | any partitions are offline, the others are whole but for the last blocks, whose flush no later block states |
//! | the same | cut short | partitions are offline, the others are whole; a journal of one file without its first block is an empty one |
//! | journal, after a clean stop | cut short | nothing: its segments have it all |
//! | metadata, `meta.properties` | flipped | no start, with a sentence that names the file; or nothing |
//! | `partition.metadata` | any | its partition is offline, or nothing |

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use odradek::log::checkpoint::{Checkpoint, PartitionPoint, merge};
use odradek::log::journal::block::BlockView;
use odradek_powerloss::random::Random;

use crate::broker::TOPIC;

/// Where a batch states its length, the bytes before its end are counted from, and its header ends that no
/// CRC covers.
const LENGTH_AT: usize = 8;
const LENGTH_FROM: usize = 12;
const CRC_AT: usize = 17;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Everything is served.
    Served,
    /// The partition is offline.
    Offline,
    /// The partition is offline or whole.
    OfflineOrServed,
    /// The partition is offline, or an error ends its reading, or it is whole.
    Noticed,
    /// The end of the partition may be gone, with a warning; or it is offline.
    Cut,
    /// Partitions are offline; the others are whole up to an end.
    AnyOffline,
    /// Some partitions are offline, the others are whole.
    SomeOffline,
    /// The start is refused; or everything is served.
    NoStart,
}

/// What was done.
#[derive(Debug)]
pub struct Damage {
    pub file: PathBuf,
    pub how: String,
    pub partition: Option<i32>,
    pub expected: Expected,
}

/// How the broker ended, and with what settings.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub clean: bool,
    pub journal: bool,
}

const KINDS: [Kind; 11] = [
    Kind::Derived,
    Kind::Derived,
    Kind::ClosedSegment,
    Kind::ActiveSegment,
    Kind::ActiveSegment,
    Kind::ActiveSegment,
    Kind::Journal,
    Kind::Checkpoint,
    Kind::Metadata,
    Kind::Identity,
    Kind::PartitionMetadata,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Derived,
    ClosedSegment,
    ActiveSegment,
    Journal,
    Checkpoint,
    Metadata,
    Identity,
    PartitionMetadata,
}

/// Damages one file of a stopped broker with these log directories. The same dice and files give the same
/// damage.
pub fn damage(data_dirs: &[PathBuf], ended: Ended, random: &mut Random) -> anyhow::Result<Damage> {
    loop {
        let kind = KINDS[random.below(KINDS.len() as u64) as usize];
        let data = match data_dirs {
            [data] => data,
            // Of several, one whose identity is damaged is offline as a whole, and not said partition by
            // partition.
            _ if kind == Kind::Identity => continue,
            _ => &data_dirs[random.below(data_dirs.len() as u64) as usize],
        };
        let files = files_of(data, kind)?;
        if files.is_empty() {
            continue; // No journal, or nothing was closed yet; there is always `meta.properties`.
        }
        let file = files[random.below(files.len() as u64) as usize].clone();
        let bytes = fs::read(&file)?;
        let size = bytes.len();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            continue;
        }
        let partition = partition_of(&file);
        let damaged = match kind {
            Kind::Derived | Kind::Checkpoint | Kind::PartitionMetadata => any(&bytes, used, random),
            Kind::ClosedSegment | Kind::ActiveSegment => segment(&bytes, random),
            Kind::Journal => flip_or_cut(&bytes, used, random),
            Kind::Metadata | Kind::Identity => Some(flip(&bytes, 0..used, random)),
        };
        let Some(Damaged { bytes, first, how }) = damaged else { continue };
        let point = partition.and_then(|partition| points(data).remove(&partition));
        let below = point.is_some_and(|point| is_below(&file, first, &point));
        let expected = match kind {
            Kind::Derived | Kind::Checkpoint => Expected::Served,
            Kind::ClosedSegment => Expected::Noticed,
            Kind::ActiveSegment if ended.clean => Expected::Noticed,
            Kind::ActiveSegment if below && ended.journal => Expected::OfflineOrServed,
            Kind::ActiveSegment if below => Expected::Offline,
            Kind::ActiveSegment => Expected::Cut,
            Kind::Journal => match bytes.as_deref().filter(|rest| rest.len() < size) {
                Some(_) if ended.clean => Expected::Served,
                Some(rest) if states_size(&file, rest)? => Expected::SomeOffline,
                _ => Expected::AnyOffline,
            },
            Kind::Metadata | Kind::Identity => Expected::NoStart,
            Kind::PartitionMetadata => Expected::OfflineOrServed,
        };
        match bytes {
            Some(bytes) => fs::write(&file, bytes)?,
            None => fs::remove_file(&file)?,
        }
        return Ok(Damage { file, how, partition, expected });
    }
}

/// Whether what is left of a journal, of which this file has `rest`, tells how large its files were.
fn states_size(file: &Path, rest: &[u8]) -> anyhow::Result<bool> {
    let has_others = files_in(file.parent().unwrap_or(file), "journal")?.len() > 1;
    Ok(has_others || BlockView::decode(rest, 0).is_ok_and(|view| view.header.file_size > 0))
}

fn files_in(directory: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    let is = |file: &PathBuf| file.extension().is_some_and(|found| found == extension);
    Ok(sorted(directory)?.into_iter().filter(is).collect())
}

/// The new bytes, `None` for no file; the first byte that differs.
struct Damaged {
    bytes: Option<Vec<u8>>,
    first: usize,
    how: String,
}

fn any(bytes: &[u8], used: usize, random: &mut Random) -> Option<Damaged> {
    if random.one_in(4) {
        return Some(Damaged { bytes: None, first: 0, how: "removed".to_owned() });
    }
    flip_or_cut(bytes, used, random)
}

fn flip_or_cut(bytes: &[u8], used: usize, random: &mut Random) -> Option<Damaged> {
    Some(match random.one_in(3) {
        true => cut(bytes, random.below(used as u64) as usize),
        false => flip(bytes, 0..used, random),
    })
}

fn cut(bytes: &[u8], at: usize) -> Damaged {
    Damaged { bytes: Some(bytes[..at].to_vec()), first: at, how: format!("cut at byte {at}") }
}

fn flip(bytes: &[u8], within: std::ops::Range<usize>, random: &mut Random) -> Damaged {
    let at = within.start + random.below(within.len() as u64) as usize;
    let bit = random.below(8);
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    Damaged { bytes: Some(bytes), first: at, how: format!("bit {bit} of byte {at} flipped") }
}

/// A bit of a batch, or everything from some byte on.
fn segment(bytes: &[u8], random: &mut Random) -> Option<Damaged> {
    let batches = batches(bytes);
    let last = batches.last()?.end;
    if random.one_in(4) {
        return Some(cut(bytes, random.below(last as u64) as usize));
    }
    let batch = batches[random.below(batches.len() as u64) as usize].clone();
    let parts = [batch.start..batch.start + CRC_AT, batch.start + CRC_AT..batch.end];
    // What no CRC covers is a small part of a batch, and the more interesting one.
    let part = usize::from(!random.one_in(4));
    Some(flip(bytes, parts[part].clone(), random))
}

/// The batches of a segment, as far as their lengths can be true.
fn batches(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(length) = bytes.get(at + LENGTH_AT..).and_then(|rest| rest.first_chunk::<4>()) {
        let end = at + LENGTH_FROM + u32::from_be_bytes(*length) as usize;
        if end > bytes.len() || end <= at + CRC_AT {
            break;
        }
        found.push(at..end);
        at = end;
    }
    found
}

fn files_of(data: &Path, kind: Kind) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in sorted(data)? {
        let name = file_name(&directory);
        let within = if directory.is_dir() { sorted(&directory)? } else { Vec::new() };
        let is = |file: &&PathBuf, extensions: &[&str]| {
            file.extension().is_some_and(|extension| extensions.iter().any(|one| extension == *one))
        };
        let mut logs: Vec<PathBuf> = within.iter().filter(|file| is(file, &["log"])).cloned().collect();
        let is_partition = partition_of(&directory.join("x")).is_some();
        match kind {
            Kind::Derived if is_partition => {
                let names = ["leader-epoch-checkpoint"];
                let derived = within.iter().filter(|file| {
                    is(file, &["index", "timeindex", "checksums", "snapshot"])
                        || names.contains(&file_name(file).as_str())
                });
                found.extend(derived.cloned());
            }
            Kind::ClosedSegment if is_partition => {
                logs.pop();
                found.append(&mut logs);
            }
            Kind::ActiveSegment if is_partition => found.extend(logs.pop()),
            Kind::PartitionMetadata if is_partition => {
                found.extend(within.iter().filter(|file| file_name(file) == "partition.metadata").cloned());
            }
            Kind::Journal if name.starts_with("journal.") => {
                found.extend(within.iter().filter(|file| is(file, &["journal"])).cloned());
            }
            Kind::Checkpoint if name.starts_with("recovery-point-checkpoint.") || name == "clean-stop" => {
                found.push(directory.clone());
            }
            Kind::Metadata if name == "metadata" => found.append(&mut logs),
            Kind::Identity if name == "meta.properties" => found.push(directory.clone()),
            _ => {}
        }
    }
    Ok(found)
}

fn sorted(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries: Result<Vec<_>, _> = fs::read_dir(directory)?.map(|entry| entry.map(|e| e.path())).collect();
    let mut entries = entries?;
    entries.sort();
    Ok(entries)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Of a file in a partition's directory.
fn partition_of(file: &Path) -> Option<i32> {
    let directory = file_name(file.parent()?);
    directory.strip_prefix(TOPIC)?.strip_prefix('-')?.parse().ok()
}

/// What the checkpoints say; there is one topic.
fn points(data: &Path) -> BTreeMap<i32, PartitionPoint> {
    let files = files_of(data, Kind::Checkpoint).unwrap_or_default();
    let checkpoints = files.iter().filter_map(|file| Checkpoint::decode(&fs::read(file).ok()?).ok());
    let checkpoints: Vec<Checkpoint> = checkpoints.collect();
    merge(&checkpoints).into_iter().map(|(id, point)| (id.partition.to_wire(), point)).collect()
}

/// Whether a segment's byte is one that was flushed, says the checkpoint.
fn is_below(file: &Path, byte: usize, point: &PartitionPoint) -> bool {
    let base = file.file_stem().and_then(|stem| stem.to_string_lossy().parse::<u64>().ok());
    base == Some(point.segment_base.get()) && (byte as u64) < point.file_position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(size: usize) -> Vec<u8> {
        let mut bytes = vec![7; size];
        bytes[LENGTH_AT..LENGTH_FROM].copy_from_slice(&((size - LENGTH_FROM) as u32).to_be_bytes());
        bytes
    }

    #[test]
    fn a_segment_is_damaged_inside_its_batches_and_in_every_part_of_them() {
        let mut bytes = [batch(100), batch(61)].concat();
        bytes.resize(4096, 0);
        assert_eq!(batches(&bytes), [0..100, 100..161]);
        let mut parts = [0; 5];
        for seed in 0..500 {
            let damaged = segment(&bytes, &mut Random::new(seed)).expect("it has batches");
            assert!(damaged.first < 161);
            let new = damaged.bytes.expect("it stays");
            assert!(new != bytes);
            let within = damaged.first % 100;
            parts[[8, 12, 16, 17].iter().filter(|end| within >= **end).count()] += 1;
        }
        assert!(parts.iter().all(|count| *count > 0), "{parts:?}");
    }

    #[test]
    fn the_same_dice_damage_the_same() {
        let with = |seed| {
            let data = tempfile::tempdir().expect("a directory");
            let partition = data.path().join("crash-3");
            fs::create_dir(&partition).expect("made");
            fs::write(data.path().join("meta.properties"), "node.id=1\n").expect("written");
            for name in ["00000000000000000000.log", "00000000000000000009.log"] {
                fs::write(partition.join(name), batch(300)).expect("written");
            }
            fs::write(partition.join("00000000000000000000.index"), [1; 16]).expect("written");
            let ended = Ended { clean: false, journal: false };
            let damage = damage(&[data.path().to_owned()], ended, &mut Random::new(seed)).expect("damaged");
            (damage.file.strip_prefix(data.path()).expect("inside").to_owned(), damage.how, damage.expected)
        };
        let all: Vec<_> = (0..40).map(with).collect();
        assert_eq!(all, (0..40).map(with).collect::<Vec<_>>());
        let expected = |wanted| all.iter().any(|(_, _, expected)| *expected == wanted);
        assert!(expected(Expected::Served) && expected(Expected::Cut) && expected(Expected::NoStart));
    }
}
