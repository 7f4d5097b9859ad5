//! Carries out the steps by which a compacted segment takes the place of others, and completes at a
//! start what a crash interrupted. Runs on the helper thread.

use crate::codec::record_batch::BATCH_HEADER_SIZE;
use crate::log::checksums::walk::DamageAt;
use crate::log::compaction::swap::{Interrupted, SwapStep};
use crate::log::compaction::swapped::SwappedSegment;
use crate::log::recovery::Damage;
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::disk::sync_directory;
use crate::shard::segments::give_up;
use crate::types::Offset;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How far steps came.
#[derive(Debug)]
pub struct CarriedOut {
    /// Files that were given up, under the names that they wait under.
    pub given_up: Vec<PathBuf>,
    /// Why it ends before the first step of `rest`.
    pub stopped: Option<io::Error>,
    pub rest: Vec<SwapStep>,
}

impl CarriedOut {
    /// The files that were given up, if all was done.
    pub fn whole(self) -> io::Result<Vec<PathBuf>> {
        self.stopped.map_or(Ok(self.given_up), Err)
    }
}

/// Takes steps one after the other, up to the first that fails.
pub fn carry_out(directory: &Path, steps: &[SwapStep]) -> CarriedOut {
    let mut given_up = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match take(directory, step) {
            Ok(file) => given_up.extend(file),
            Err(error) => return CarriedOut { given_up, stopped: Some(error), rest: steps[at..].to_vec() },
        }
    }
    CarriedOut { given_up, stopped: None, rest: Vec::new() }
}

#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
fn take(directory: &Path, step: &SwapStep) -> io::Result<Option<PathBuf>> {
    let unless_gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    };
    #[cfg(test)]
    full::check(directory)?;
    match step {
        SwapStep::Rename { from, to } => {
            unless_gone(std::fs::rename(directory.join(from), directory.join(to)))
        }
        SwapStep::Remove { name } => unless_gone(std::fs::remove_file(directory.join(name))),
        SwapStep::GiveUp { name, deleted } => give_up(&directory.join(name), directory.join(deleted)),
        SwapStep::SyncDirectory => sync_directory(directory).map(|()| None),
    }
}

/// Before a partition's directory is read: a swap that was decided is completed, one that was not is
/// undone.
pub fn complete_swaps(directory: &Path) -> io::Result<Vec<RecoveryBranch>> {
    let mut taken = Vec::new();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    let found = Interrupted::find(names.iter().map(String::as_str));
    let mut ends = Vec::with_capacity(found.decided().len());
    for base in found.decided() {
        ends.push(end_offset(directory, *base)?);
        tracing::info!(directory = %directory.display(), segment = %base, "an interrupted compaction is completed");
        taken.push(RecoveryBranch::SwapCompleted);
    }
    if found.leaves_undecided() {
        tracing::info!(directory = %directory.display(), "an interrupted compaction is undone: the log is as it was");
        taken.push(RecoveryBranch::SwapUndone);
    }
    carry_out(directory, &found.steps(&ends)).whole().map(|_| taken)
}

/// The segment of a decided swap is not what was written, so that nobody knows what it replaces. Nothing
/// is touched.
#[derive(Debug, thiserror::Error)]
#[error("compacted segment {segment} is damaged: {damage}")]
pub struct SwapDamaged {
    pub segment: Offset,
    pub damage: DamageAt,
}

/// The offset after the last batch of a file that was flushed before it got its name.
fn end_offset(directory: &Path, base: Offset) -> io::Result<Offset> {
    let path = directory.join(Interrupted::log_name(base));
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    let file = std::fs::File::open(&path)?;
    let size = file.metadata()?.len();
    let mut companions = Vec::new();
    for name in Interrupted::checksums_names(base) {
        #[expect(clippy::disallowed_methods, reason = "as above")]
        match std::fs::read(directory.join(name)) {
            Ok(bytes) => companions.push(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let mut segment = SwappedSegment::new(base, size, companions.iter().map(Vec::as_slice));
    if !segment.has_companion() {
        tracing::warn!(path = %path.display(), "no checksums of it are left: its headers are believed");
    }
    let damaged = |damage| io::Error::new(io::ErrorKind::InvalidData, SwapDamaged { segment: base, damage });
    while let Some(position) = segment.next_header() {
        let mut header = [0; BATCH_HEADER_SIZE];
        match file.read_exact_at(&mut header, position) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(damaged(DamageAt { file_position: position, damage: Damage::CutOff }));
            }
            read => read?,
        }
        segment.observe(&header).map_err(damaged)?;
    }
    segment.finish().map_err(damaged)
}

/// Steps that a test lets find no space: no file system can be made to at a given one. Which, a file in the
/// directory says.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread, in tests")]
pub mod full {
    use std::io;
    use std::ops::Range;
    use std::path::Path;

    const REFUSED_STEPS: &str = "refused-steps";

    /// From now on, of the steps in `directory`, these are refused; all may go on when there are none.
    pub fn refuse(directory: &Path, steps: Range<usize>) {
        let path = directory.join(REFUSED_STEPS);
        if steps.is_empty() {
            std::fs::remove_file(path).unwrap();
        } else {
            std::fs::write(path, format!("{} {}", steps.start, steps.end)).unwrap();
        }
    }

    pub(super) fn check(directory: &Path) -> io::Result<()> {
        let Ok(text) = std::fs::read_to_string(directory.join(REFUSED_STEPS)) else { return Ok(()) };
        let (start, end) = text.split_once(' ').unwrap();
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        refuse(directory, start.saturating_sub(1)..end - 1);
        if start == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
