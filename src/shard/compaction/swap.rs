//! Carries out the steps by which a compacted segment takes the place of others, and completes at a
//! start what a crash interrupted. Runs on the helper thread.

use crate::codec::record_batch::BATCH_HEADER_SIZE;
use crate::log::compaction::swap::{Interrupted, SwapStep};
use crate::log::read::Rope;
use crate::shard::disk::sync_directory;
use crate::shard::segments::give_up;
use crate::types::Offset;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Takes steps one after the other. Returns the files that were given up, under the names that they wait
/// under.
#[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
pub fn carry_out(directory: &Path, steps: &[SwapStep]) -> io::Result<Vec<PathBuf>> {
    let mut given_up = Vec::new();
    let unless_gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for step in steps {
        match step {
            SwapStep::Rename { from, to } => {
                unless_gone(std::fs::rename(directory.join(from), directory.join(to)))?;
            }
            SwapStep::Remove { name } => unless_gone(std::fs::remove_file(directory.join(name)))?,
            SwapStep::GiveUp { name, deleted } => {
                given_up.extend(give_up(&directory.join(name), directory.join(deleted))?);
            }
            SwapStep::SyncDirectory => sync_directory(directory)?,
        }
    }
    Ok(given_up)
}

/// Before a partition's directory is read: a swap that was decided is completed, one that was not is
/// undone.
pub fn complete_swaps(directory: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    let found = Interrupted::find(names.iter().map(String::as_str));
    let mut ends = Vec::with_capacity(found.decided().len());
    for base in found.decided() {
        let path = directory.join(Interrupted::log_name(*base));
        ends.push(end_offset(&path)?);
        tracing::info!(directory = %directory.display(), segment = %base, "an interrupted compaction is completed");
    }
    carry_out(directory, &found.steps(&ends)).map(|_| ())
}

/// The offset after the last batch of a file that was flushed before it got its name.
fn end_offset(path: &Path) -> io::Result<Offset> {
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    let file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let (mut position, mut end) = (0, None);
    while position < size {
        let mut header = [0; BATCH_HEADER_SIZE];
        file.read_exact_at(&mut header, position)?;
        let batch = Rope::new(&[&header]).batches(0).next();
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: damaged", path.display()));
        let batch = batch.ok_or_else(damaged)?;
        position += batch.size as u64;
        end = Some(batch.end_offset);
    }
    end.filter(|_| position == size).ok_or(io::ErrorKind::UnexpectedEof.into())
}
