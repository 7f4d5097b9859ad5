//! A follower's log ends where it and its leader's part, or begins anew.
//!
//! ```text
//!   nothing is in flight ─► the journal says Cutting ─► files are cut ─► checkpoint ─► the journal says Cut ─► opened
//! ```
//!
//! A crash anywhere in between leaves a log that the next start cuts as well, or one that is as it was: its leader
//! has it cut again. The journal keeps the first entry until the checkpoint is flushed, which knows of no more than
//! what is left. Rare, and so slow: the log is closed and opened as a start does.
//!
//! Source: KIP-101, 279; DESIGN: the journal logs everything that changes a log.

use crate::codec::error_code::ErrorCode;
use crate::log::checkpoint::PartitionPoint;
use crate::log::epochs::{LEADER_EPOCH_CHECKPOINT, LeaderEpochs};
use crate::log::journal::block::{Change, Entry};
use crate::log::partition::Place;
use crate::log::segment::SegmentFile;
use crate::shard::background::write_checkpoint;
use crate::shard::catch_up::Reading;
use crate::shard::disk::{blocking, is_full_disk, remove_if_present, replace_file, sync_directory};
use crate::shard::journal_replay::truncate;
use crate::shard::partitions::{LastStop, open_once_there_is_space, open_one};
use crate::shard::replica::Replica;
use crate::shard::replication::role::Role;
use crate::shard::replication::{follow_later, take_role};
use crate::shard::store::Store;
use crate::shard::store::changes::Logged;
use crate::shard::{Shard, Unavailable};
use crate::types::{LeaderEpoch, Offset};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// A log that could not be read is looked at again after so long.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The log ends there.
    To(Offset),
    /// Nothing stays; the log begins there.
    StartOver(Offset),
}

/// What stays.
#[derive(Clone)]
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

/// Cuts the log of a replica that followed under that leader epoch, unless it is another by then.
pub async fn cut(shard: Rc<Shard>, replica: Rc<Replica>, epoch: LeaderEpoch, cut: Cut) {
    let Ok(_turn) = shard.changing_partitions.acquire_permit(1).await else { return };
    if replica.is_deleted() || replica.replication.epoch() != Some(epoch) || shard.is_stopping() {
        return;
    }
    let store = shard.stores.of(&replica).clone();
    store.write_out(replica.slot).await;
    if store.is_offline() {
        return;
    }
    let directory = replica.directory.display().to_string();
    let rest = match find(&store, &replica, cut).await {
        Ok(Some(rest)) => rest,
        // There is nothing to cut: it states what it has.
        Ok(None) => return follow_later(&shard, &replica, Duration::ZERO),
        Err(reason) => {
            tracing::error!(directory, reason, "a log cannot be cut where its leader's has parted from it");
            return follow_later(&shard, &replica, RETRY);
        }
    };
    tracing::info!(directory, ?cut, log_end = %replica.log.borrow().log_end(), "a follower's log is cut");
    shard.replication.cutting.set(Some(replica.id));
    let cut = carry_out(&shard, &store, &replica, &rest).await;
    shard.replication.cutting.set(None);
    match cut {
        Ok(()) => {}
        // The next start finds what is to be cut in the journal.
        Err(error) if is_full_disk(&error) => {
            tracing::error!(
                directory,
                "no space to cut a log: the partition is offline until the broker starts again"
            );
        }
        Err(error) => store.fail(&format!("cutting {directory}: {error}")),
    }
}

/// `None`: it ends there already.
async fn find(store: &Rc<Store>, replica: &Rc<Replica>, cut: Cut) -> Result<Option<Rest>, String> {
    let (log_start, log_end, first) = {
        let log = replica.log.borrow();
        let first = log.closed().front().map_or(log.active().base_offset, |segment| segment.base_offset);
        (log.log_start(), log.log_end(), first)
    };
    match cut {
        Cut::To(end) if end >= log_end => Ok(None),
        Cut::To(end) if end <= log_start => Ok(Some(Rest::nothing(first, end))),
        Cut::To(end) => {
            let found = replica.place_of(&Reading::own(store), end).await;
            // A batch that reaches across goes as a whole.
            let (place, base) = found.map_err(|error| error.to_string())?;
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
    shard: &Rc<Shard>,
    store: &Rc<Store>,
    replica: &Rc<Replica>,
    rest: &Rest,
) -> io::Result<()> {
    let (id, slot) = (replica.id, replica.slot);
    let leader_epoch = replica.log.borrow().leader_epoch();
    let high_watermark = replica.log.borrow().high_watermark();
    // Checkpoints say from here on what is left.
    let is_left = |point| {
        let left = Unavailable { dir: Some(store.dir), point: Some(point) };
        shard.unavailable.borrow_mut().insert(id, left);
    };
    is_left(rest.left());
    store.remove(&id);
    replica.take_role(shard, Role::Idle { epoch: Some(leader_epoch) });
    replica.give_up(ErrorCode::NotLeaderOrFollower);
    replica.names_released().await;
    store.release_slot(slot).await;

    let cutting = Change::Cutting { place: rest.place, end: rest.end, epoch: leader_epoch };
    match store.log_changes(vec![Entry { partition: id, change: cutting }]).await {
        Logged::Failed => return Ok(()),
        Logged::Flushed => {}
        // Then nothing but a checkpoint could want more than what is left.
        Logged::NoJournal => write_checkpoint(shard, store).await?,
    }
    let (directory, rest_of) = (replica.directory.clone(), rest.clone());
    blocking(move || cut_files(&directory, &rest_of)).await?;
    is_left(rest.opened);
    write_checkpoint(shard, store).await?;
    let cut = Change::Cut {
        place: Place { segment: rest.opened.segment_base, file_position: rest.opened.file_position },
        end: rest.opened.flushed_end,
        epoch: leader_epoch,
    };
    if store.log_changes(vec![Entry { partition: id, change: cut }]).await == Logged::Failed {
        return Ok(());
    }
    let last = LastStop { points: [(id, rest.opened)].into(), ..LastStop::default() };
    if let Err(error) = open_one(shard, store, id, &last).await {
        tracing::error!(%error, "a partition is offline");
        if error.is_damage() {
            shard.replica_damaged(id);
        }
        if error.is_for_want_of_space() {
            shard.spawn(open_once_there_is_space(shard.clone(), store.dir, vec![id], last));
        }
        return Ok(());
    }
    shard.unavailable.borrow_mut().remove(&id);
    if let Some(opened) = shard.stores.find(&id) {
        opened.replication.sessions.set(replica.replication.sessions.get());
        let known = high_watermark.min(rest.opened.flushed_end).max(rest.opened.log_start);
        opened.log.borrow_mut().replicate_from(Some(known));
        take_role(shard, id);
    }
    Ok(())
}

/// Cuts the files at `place`; where the log begins elsewhere then, none of them stays.
fn cut_files(directory: &Path, rest: &Rest) -> io::Result<()> {
    let (place, begins) = (rest.place, rest.opened.segment_base);
    truncate(directory, place)?;
    if rest.starts_over {
        // Nobody has written anything before.
        remove_if_present(&directory.join(SegmentFile::ProducerSnapshot.name(begins)))?;
    }
    if begins != place.segment {
        // It says where the log begins, also where nothing comes behind. The directory is never without one, nor has two.
        let [from, to] = [place.segment, begins].map(|base| directory.join(SegmentFile::Log.name(base)));
        OpenOptions::new().write(true).open(&from)?.sync_all()?;
        #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
        std::fs::rename(from, to)?;
    }
    replace_file(&directory.join(LEADER_EPOCH_CHECKPOINT), rest.epochs.encode().as_bytes())?;
    sync_directory(directory)
}

/// As it is known of a log that was just opened and has other replicas: nothing beyond its begin.
pub fn known_high_watermark(replica: &Replica) -> Offset {
    let log = replica.log.borrow();
    log.replicated_end().unwrap_or_else(|| log.log_start()).min(log.durable_end())
}

/// Batches are appended under that epoch from now on.
pub fn begin_epoch(replica: &Replica, epoch: LeaderEpoch) {
    let mut log = replica.log.borrow_mut();
    if log.leader_epoch() < epoch {
        log.begin_epoch(epoch);
    }
}
