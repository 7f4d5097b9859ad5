//! One partition's directory: reads its files and hands them to the checks of `odradek::log`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use odradek::log::checksums::SegmentId;
use odradek::log::epochs::{LEADER_EPOCH_CHECKPOINT, LeaderEpochs};
use odradek::log::inspect::companion_check::CompanionCheck;
use odradek::log::inspect::findings::{Findings, Offence, Place};
use odradek::log::inspect::partition_check::PartitionCheck;
use odradek::log::inspect::segment_check::{SegmentCheck, SegmentExpectation, SegmentFacts, SegmentRole};
use odradek::log::inspect::transactions_check::check_transactions;
use odradek::log::inspect::walk::SegmentWalk;
use odradek::log::ownership::{self, PARTITION_METADATA};
use odradek::log::producers::Producers;
use odradek::log::segment::{FileName, SegmentFile};
use odradek::types::limits::IO_SIZE_MAX;
use odradek::types::{Offset, Timestamp, TopicId, uuid_text};

use super::report::{PartitionReport, Progress};
use super::{Expected, names, read_whole};

/// Bytes of an index that is held in memory: several times `segment.index.bytes`' default.
const INDEX_SIZE_MAX: usize = 64 << 20;

/// Errors: the directory cannot be listed.
pub fn verify(directory: &Path, expected: &Expected, progress: &mut Progress) -> io::Result<PartitionReport> {
    let mut findings = Findings::default();
    let files = list(directory)?;
    check_owner(directory, expected.id.topic, &mut findings);
    let epochs = read_epochs(directory, &mut findings);
    let bases: Vec<Offset> = files.get(&SegmentFile::Log).cloned().unwrap_or_default();
    let mut check = PartitionCheck::new(expected.log);
    for (at, base_offset) in bases.iter().enumerate() {
        let indexes = [SegmentFile::OffsetIndex, SegmentFile::TimeIndex]
            .map(|file| read_index(directory, *base_offset, file, &mut findings));
        let expectation = SegmentExpectation {
            base_offset: *base_offset,
            role: expected.log.role(*base_offset, at + 1 == bases.len()),
            gaps: expected.log.gaps,
            leader_epoch_min: check.leader_epoch_min(),
            leader_epoch_max: expected.leader_epoch,
            epochs: &epochs,
            recovery_point: expected.log.point.and_then(|point| point.recovery_point(*base_offset)),
            offset_index: indexes[0].as_deref(),
            time_index: indexes[1].as_deref(),
        };
        let companion = read_index(directory, *base_offset, SegmentFile::Checksums, &mut findings);
        let size = segment_size(directory, &expectation);
        let segment = SegmentId { partition: expected.id, base_offset: *base_offset };
        let transactions = read_index(directory, *base_offset, SegmentFile::TransactionIndex, &mut findings);
        let role = expectation.role;
        check_transactions(segment, role, size, companion.as_deref(), transactions.as_deref(), &mut findings);
        let companion =
            CompanionCheck::new(segment, expectation.role, size, companion.as_deref(), &mut findings);
        match verify_segment(directory, expectation, companion, &mut findings, progress) {
            Ok(facts) => check.take(&facts, &mut findings),
            Err(error) => unreadable(SegmentFile::Log, *base_offset, &error, &mut findings),
        }
    }
    for offset in files.get(&SegmentFile::ProducerSnapshot).into_iter().flatten() {
        check_snapshot(directory, *offset, &mut findings);
    }
    let facts = check.finish(&mut findings);
    Ok(PartitionReport::new(facts, &findings))
}

/// The segments' files, by kind and base offset.
fn list(directory: &Path) -> io::Result<BTreeMap<SegmentFile, Vec<Offset>>> {
    let mut files: BTreeMap<SegmentFile, Vec<Offset>> = BTreeMap::new();
    for name in names(directory)? {
        if let Some(FileName::Live { base_offset, file }) = FileName::parse(&name) {
            files.entry(file).or_default().push(base_offset);
        }
    }
    Ok(files)
}

/// Bytes of batches: the file may be longer where it takes appends.
fn segment_size(directory: &Path, expected: &SegmentExpectation<'_>) -> u64 {
    match expected.recovery_point.filter(|_| expected.role == SegmentRole::ActiveClean) {
        Some(point) => point.file_position,
        None => {
            let path = directory.join(SegmentFile::Log.name(expected.base_offset));
            std::fs::metadata(path).map_or(0, |metadata| metadata.len())
        }
    }
}

fn verify_segment(
    directory: &Path,
    expectation: SegmentExpectation<'_>,
    mut companion: CompanionCheck,
    findings: &mut Findings,
    progress: &mut Progress,
) -> io::Result<SegmentFacts> {
    let mut file = File::open(directory.join(SegmentFile::Log.name(expectation.base_offset)))?;
    let mut check = SegmentCheck::new(expectation, findings);
    let mut walk = SegmentWalk::new();
    let mut buffer = vec![0; IO_SIZE_MAX];
    loop {
        let size = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        walk.feed(&buffer[..size], &mut |batch, _| check.take(batch, findings));
        companion.feed(&buffer[..size], findings);
        progress.advance(size as u64);
    }
    Ok(check.finish(&walk.finish(), findings))
}

fn check_owner(directory: &Path, topic: TopicId, findings: &mut Findings) {
    let what = match read_whole(&directory.join(PARTITION_METADATA)) {
        Err(error) => format!("{PARTITION_METADATA} cannot be read: {error}"),
        Ok(bytes) => match ownership::decode(&String::from_utf8_lossy(&bytes)) {
            Ok(found) if found == topic => return,
            Ok(found) => format!(
                "{PARTITION_METADATA} says topic id {}, in the metadata the topic of this name has {}",
                uuid_text(found.0),
                uuid_text(topic.0)
            ),
            Err(error) => error.to_string(),
        },
    };
    findings.problem(Place::Partition, Offence::Directory(what));
}

/// Without the file nothing is known of epochs: it is written when a segment is closed.
fn read_epochs(directory: &Path, findings: &mut Findings) -> LeaderEpochs {
    let bytes = match read_whole(&directory.join(LEADER_EPOCH_CHECKPOINT)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return LeaderEpochs::default(),
        Err(error) => Err(format!("{LEADER_EPOCH_CHECKPOINT} cannot be read: {error}")),
        Ok(bytes) => LeaderEpochs::decode(&String::from_utf8_lossy(&bytes))
            .map_err(|error| format!("{LEADER_EPOCH_CHECKPOINT}: {error}")),
    };
    bytes.unwrap_or_else(|what| {
        findings.problem(Place::Partition, Offence::Directory(what));
        LeaderEpochs::default()
    })
}

fn read_index(
    directory: &Path,
    base_offset: Offset,
    file: SegmentFile,
    findings: &mut Findings,
) -> Option<Vec<u8>> {
    let path = directory.join(file.name(base_offset));
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() > INDEX_SIZE_MAX as u64 => {
            let place = Place::File { base_offset, file, file_position: 0 };
            findings.note(place, Offence::IndexTooLarge { size: metadata.len() });
            return None;
        }
        Ok(_) | Err(_) => {}
    }
    match read_whole(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            unreadable(file, base_offset, &error, findings);
            None
        }
    }
}

fn check_snapshot(directory: &Path, base_offset: Offset, findings: &mut Findings) {
    let file = SegmentFile::ProducerSnapshot;
    match read_whole(&directory.join(file.name(base_offset))) {
        Err(error) => unreadable(file, base_offset, &error, findings),
        // When its producers were last active does not matter here.
        Ok(bytes) => {
            if let Err(error) = Producers::decode_snapshot(&bytes, Timestamp(0)) {
                let place = Place::File { base_offset, file, file_position: 0 };
                findings.problem(place, Offence::Snapshot(error));
            }
        }
    }
}

fn unreadable(file: SegmentFile, base_offset: Offset, error: &io::Error, findings: &mut Findings) {
    let place = Place::File { base_offset, file, file_position: 0 };
    findings.problem(place, Offence::Directory(format!("it cannot be read: {error}")));
}
