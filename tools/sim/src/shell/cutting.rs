//! A log ends somewhere else than it did, or begins anew, as `shard::replication::cutting` has it.
//!
//! ```text
//!   nothing is in flight ─► the journal says Cutting ─► files are cut ─► checkpoint ─► the journal says Cut ─► opened
//! ```
//!
//! A crash anywhere in between leaves a log that the next start cuts as well, or one that is as it was.

use crate::disk::{Disk, DiskResult};
use crate::settings::Mistake;
use crate::shell::Shell;
use crate::shell::background::write_checkpoint;
use crate::shell::journal::Logged;
use crate::shell::open::{OpenFailed, OpenRequest, open};
use crate::shell::reading::ReadFailed;
use crate::shell::replica::Replica;
use odradek::log::checkpoint::PartitionPoint;
use odradek::log::epochs::{LEADER_EPOCH_CHECKPOINT, LeaderEpochs};
use odradek::log::journal::block::{Change, Entry};
use odradek::log::partition::Place;
use odradek::log::segment::{FileName, SegmentFile};
use odradek::types::Offset;
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The log ends there.
    To(Offset),
    /// Nothing stays; the log begins there.
    StartOver(Offset),
}

/// Why a log was not cut, or is not open any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutFailed {
    /// It is as it was: the place could not be found.
    Read(ReadFailed),
    /// It is as it was, or a start cuts it.
    Offline,
    /// A start cuts it.
    NoSpace,
    /// It was cut, and cannot be opened.
    Open(OpenFailed),
}

/// What stays.
struct Rest {
    /// Where files are cut, and which offset that is.
    place: Place,
    end: Offset,
    /// The log that is opened then.
    opened: PartitionPoint,
    epochs: LeaderEpochs,
    starts_over: bool,
}

impl Rest {
    /// Of a log whose first segment is there, and that begins anew.
    fn nothing(first: Offset, at: Offset) -> Rest {
        // Whatever comes in between, no log is left that ends beyond what the journal says.
        let place = Place { segment: first.min(at), file_position: 0 };
        let opened = PartitionPoint { log_start: at, flushed_end: at, segment_base: at, file_position: 0 };
        Rest { place, end: place.segment, opened, epochs: LeaderEpochs::new(), starts_over: true }
    }

    /// What there is until the files are cut, whatever comes in between: a log that begins anew further on has less
    /// until then.
    fn left(&self) -> PartitionPoint {
        PartitionPoint {
            log_start: self.opened.log_start.min(self.end),
            flushed_end: self.opened.flushed_end.min(self.end),
            segment_base: self.place.segment,
            file_position: self.place.file_position,
        }
    }
}

/// Cuts a log that nobody appends to. Another replica of it is there then, unless it ended there already.
pub async fn cut(shell: &Rc<Shell>, replica: &Rc<Replica>, cut: Cut) -> Result<(), CutFailed> {
    shell.write_out(replica.slot).await;
    if shell.is_offline() || shell.is_closed() || replica.is_deleted() {
        return Err(CutFailed::Offline);
    }
    let Some(rest) = find(shell, replica, cut).await.map_err(CutFailed::Read)? else { return Ok(()) };
    shell.world.count(match cut {
        Cut::To(_) => "cut",
        Cut::StartOver(_) => "cut: started over",
    });
    shell.world.note(format_args!("{} is cut: {cut:?}, {:?}", replica.name, rest.opened));
    let (begins, ends) = (rest.opened.log_start.min(rest.end), rest.opened.flushed_end.min(rest.end));
    shell.model.borrow_mut().cutting(&replica.id, rest.starts_over, begins, ends);
    match carry_out(shell, replica, &rest).await {
        Ok(opened) => opened,
        // The next start finds what is to be cut in the journal.
        Err(error) if error.is_full() => {
            shell.world.count("cut: no space");
            Err(CutFailed::NoSpace)
        }
        Err(error) => {
            shell.failed(format_args!("cutting {}", replica.name), error);
            Err(CutFailed::Offline)
        }
    }
}

/// `None`: it ends there already.
async fn find(shell: &Shell, replica: &Replica, cut: Cut) -> Result<Option<Rest>, ReadFailed> {
    let (log_start, log_end, first) = {
        let log = replica.log.borrow();
        let first = log.closed().front().map_or(log.active().base_offset, |segment| segment.base_offset);
        (log.log_start(), log.log_end(), first)
    };
    match cut {
        Cut::To(end) if end >= log_end => Ok(None),
        Cut::To(end) if end <= log_start => Ok(Some(Rest::nothing(first, end))),
        Cut::To(end) => {
            // A batch that reaches across goes as a whole.
            let (place, base) = replica.place_of(shell, end).await?;
            let end = end.min(base);
            let log_start = replica.log.borrow().log_start(); // By now.
            if end <= log_start {
                return Ok(Some(Rest::nothing(first, end)));
            }
            let mut epochs = replica.log.borrow().epochs().clone();
            epochs.truncate_from_end(end);
            let opened = PartitionPoint {
                log_start,
                flushed_end: end,
                segment_base: place.segment,
                file_position: place.file_position,
            };
            Ok(Some(Rest { place, end, opened, epochs, starts_over: false }))
        }
        Cut::StartOver(at) => Ok(Some(Rest::nothing(first, at))),
    }
}

async fn carry_out(
    shell: &Rc<Shell>,
    replica: &Rc<Replica>,
    rest: &Rest,
) -> DiskResult<Result<(), CutFailed>> {
    let (id, slot) = (replica.id, replica.slot);
    let leader_epoch = replica.log.borrow().leader_epoch();
    // Checkpoints say from here on what is left.
    shell.unavailable.borrow_mut().insert(id, Some(rest.left()));
    shell.remove(&id);
    replica.mark_deleted();
    replica.names_released().await;
    shell.release_slot(slot).await;

    let is_logged = !shell.settings.makes(Mistake::CutNotLogged);
    let cutting = Change::Cutting { place: rest.place, end: rest.end, epoch: leader_epoch };
    let cutting = is_logged.then_some(Entry { partition: id, change: cutting });
    match shell.log_changes(cutting.into_iter().collect()).await {
        Logged::Failed => return Ok(Err(CutFailed::Offline)),
        Logged::Flushed => {}
        // Then nothing but a checkpoint could want more than what is left.
        Logged::NoJournal => write_checkpoint(shell).await?,
    }
    cut_files(&shell.disk, &replica.name, rest).await?;
    shell.unavailable.borrow_mut().insert(id, Some(rest.opened));
    write_checkpoint(shell).await?;
    let place = Place { segment: rest.opened.segment_base, file_position: rest.opened.file_position };
    let cut = Change::Cut { place, end: rest.opened.flushed_end, epoch: leader_epoch };
    let cut = is_logged.then_some(Entry { partition: id, change: cut });
    if shell.log_changes(cut.into_iter().collect()).await == Logged::Failed {
        return Ok(Err(CutFailed::Offline));
    }
    let Some(kind) = shell.metadata.borrow().partitions.get(&id).map(|known| known.kind) else {
        return Ok(Err(CutFailed::Open(OpenFailed::Deleted)));
    };
    let request = OpenRequest {
        id,
        name: replica.name.clone(),
        kind,
        leader_epoch,
        point: Some(rest.opened),
        checkpointed_end: None,
        clean: false,
        state: None,
        journal_end: None,
    };
    if let Err(error) = open(shell, request).await {
        shell.world.note(format_args!("{} is not served: {error:?}", replica.name));
        return Ok(Err(CutFailed::Open(error)));
    }
    shell.unavailable.borrow_mut().remove(&id);
    if let Some(opened) = shell.find(&id) {
        shell.model.borrow_mut().was_cut(&shell.world, &id, &opened, &rest.opened);
    }
    Ok(Ok(()))
}

/// Cuts the files at its place; where the log begins elsewhere then, none of them stays.
async fn cut_files(disk: &Rc<Disk>, directory: &str, rest: &Rest) -> DiskResult<()> {
    let (place, begins) = (rest.place, rest.opened.segment_base);
    truncate(disk, directory, place).await?;
    if rest.starts_over {
        // Nobody has written anything before.
        let snapshot = SegmentFile::ProducerSnapshot.name(begins);
        disk.remove_if_present(&format!("{directory}/{snapshot}")).await?;
    }
    if begins != place.segment {
        // It says where the log begins, also where nothing comes behind. The directory is never without one, nor has two.
        let [from, to] =
            [place.segment, begins].map(|base| format!("{directory}/{}", SegmentFile::Log.name(base)));
        disk.open(&from, false).await?.flush().await?;
        disk.rename(&from, &to).await?;
    }
    let epochs = format!("{directory}/{LEADER_EPOCH_CHECKPOINT}");
    disk.replace_file(&epochs, rest.epochs.encode().as_bytes()).await?;
    disk.sync_directory(directory).await
}

/// Makes the segment of `place` the last one, and cuts it there, without a flush. Files that describe what is gone
/// go first, and the newest segment before those below it: an interrupted one is seen by its log file. Each is gone for
/// good before what lies below it goes: without a journal nothing would tell of the gap that one which came back leaves.
/// Where no segment is left, as of a log that begins anew before it, the oldest one becomes it, empty; where there is none,
/// it is made. A log of which nothing is left forgets its producers as well: a transaction that is open in a snapshot would
/// never end in it.
pub async fn truncate(disk: &Rc<Disk>, directory: &str, place: Place) -> DiskResult<()> {
    let mut names: Vec<(Offset, SegmentFile)> = Vec::new();
    let mut is_first = true;
    for (name, _) in disk.list(directory).await? {
        match FileName::parse(&name) {
            Some(FileName::Live { base_offset, file }) if base_offset >= place.segment => {
                names.push((base_offset, file));
            }
            Some(FileName::Live { file: SegmentFile::Log, .. }) => is_first = false,
            _ => {}
        }
    }
    let is_there = names.contains(&(place.segment, SegmentFile::Log));
    let logs = names.iter().filter(|(_, file)| *file == SegmentFile::Log);
    let kept = logs.map(|(base, _)| *base).min().filter(|_| is_first && !is_there);
    names.sort_by_key(|(base, file)| (*base, *file != SegmentFile::Log));
    for (base, file) in names.into_iter().rev() {
        let is_log = file == SegmentFile::Log;
        if is_log && kept == Some(base) {
            continue;
        }
        if base > place.segment || !is_log && file != SegmentFile::ProducerSnapshot {
            disk.remove_if_present(&format!("{directory}/{}", file.name(base))).await?;
            if is_log {
                disk.sync_directory(directory).await?;
            }
        }
    }
    let path = format!("{directory}/{}", SegmentFile::Log.name(place.segment));
    if let Some(kept) = kept {
        let kept = format!("{directory}/{}", SegmentFile::Log.name(kept));
        let file = disk.open(&kept, false).await?;
        file.truncate(0).await?;
        file.flush().await?;
        disk.rename(&kept, &path).await?;
    } else if disk.exists(&path) {
        let file = disk.open(&path, true).await?;
        file.truncate(file.size().min(place.file_position)).await?;
    } else if is_first {
        disk.open(&path, true).await?;
    }
    if is_first && place.file_position == 0 {
        let snapshot = SegmentFile::ProducerSnapshot.name(place.segment);
        disk.remove_if_present(&format!("{directory}/{snapshot}")).await?;
    }
    Ok(())
}
