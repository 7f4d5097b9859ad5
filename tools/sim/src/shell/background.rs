//! Checkpoints, retention, `DeleteRecords`, the final state of a clean stop.

use crate::disk::{DiskError, DiskResult};
use crate::shell::Shell;
use crate::shell::compaction::abandon_swap;
use crate::shell::journal::Logged;
use crate::shell::replica::Replica;
use odradek::log::checkpoint::{Checkpoint, PartitionPoint};
use odradek::log::data_dir::{checkpoint_name, final_state_name};
use odradek::log::epochs::LEADER_EPOCH_CHECKPOINT;
use odradek::log::final_state::{FinalStateWriter, PartitionState};
use odradek::log::retention::plan_for;
use odradek::log::segment::SegmentFile;
use odradek::types::{Offset, Timestamp, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Writes down how far each partition is flushed, unless the log directory is offline: whoever waited for a
/// flush there waited in vain.
pub async fn write_checkpoint(shell: &Rc<Shell>) -> DiskResult<()> {
    let _turn = shell.checkpoint_turn.take().await;
    if shell.is_offline() {
        return Err(DiskError::Offline);
    }
    shell.state_flushed();
    let seen = shell.changes_seen();
    let mut has_log_starts = true;
    let mut points: BTreeMap<TopicPartition, PartitionPoint> = BTreeMap::new();
    points.extend(shell.unavailable.borrow().iter().filter_map(|(id, point)| Some((*id, (*point)?))));
    for replica in shell.all_replicas() {
        let point = PartitionPoint::of(&replica.log.borrow(), replica.log_start_decided());
        if point.log_start < replica.log_start_decided() {
            has_log_starts = false; // The next one has it: a point does not begin behind its end.
            shell.request_write_out(replica.slot);
        }
        points.insert(replica.id, point);
    }
    let generation = shell.generation.get().next();
    shell.generation.set(generation);
    let starts: Vec<(TopicPartition, Offset)> =
        points.iter().map(|(id, point)| (*id, point.log_start)).collect();
    let bytes = Checkpoint { shard: shell.shard, generation, points }.encode();
    shell.disk.replace_file(&checkpoint_name(shell.shard), &bytes).await?;
    shell.world.count("checkpoint");
    for (id, start) in starts {
        shell.model.borrow_mut().checkpointed(&id, start);
    }
    if let Some(seen) = seen.filter(|_| has_log_starts) {
        shell.checkpointed(seen);
    }
    Ok(())
}

pub async fn retain(shell: &Rc<Shell>, replica: &Rc<Replica>) {
    let _turn = shell.retaining.take().await;
    if replica.is_deleted() || shell.is_offline() {
        return;
    }
    let now = Timestamp(shell.world.wall_ms());
    let mut due = plan_for(&replica.log.borrow(), now);
    if due.delete.is_empty() {
        return;
    }
    let rolled = if due.roll_active { replica.try_roll(shell) } else { None };
    if due.roll_active && rolled.is_none() {
        due.delete.pop();
        due.log_start = due.log_start.min(replica.log.borrow().active().base_offset);
    }
    if let Some(segment) = rolled
        && let Err(error) = replica.finish_rolls(shell, segment).await
    {
        return shell.failed(format_args!("rolling {}", replica.name), error);
    }
    if shell.is_closed() {
        return; // The final state has the log start as it is; a clean start looks for no other.
    }
    shell.world.count("retention");
    shell.world.note(format_args!("retention of {} to {}", replica.name, due.log_start));
    let change = replica.decide_log_start(due.log_start);
    if !replica.log.borrow().is_flushed_below(replica.log_start_decided()) {
        shell.write_out(replica.slot).await;
    }
    if replica.is_deleted() {
        return; // The journal has said the last of it.
    }
    let durable = match shell.log_changes(vec![change]).await {
        Logged::Flushed => Ok(()),
        Logged::NoJournal => write_checkpoint(shell).await,
        Logged::Failed => return,
    };
    match durable {
        Err(error) if error.is_full() => shell.world.count("retention: no space for its log start"),
        Err(error) => return shell.failed(format_args!("writing the checkpoint"), error),
        Ok(()) => shell.model.borrow_mut().log_start_kept(&replica.id, due.log_start),
    }
    replica.log.borrow_mut().advance_log_start(due.log_start);
    drop_segments(shell, replica).await;
}

/// `DeleteRecords`: whether it is answered with success.
pub async fn delete_records(shell: &Rc<Shell>, replica: &Rc<Replica>, to: Offset) -> bool {
    if shell.is_offline() || shell.is_closed() || replica.is_deleted() {
        return false;
    }
    shell.world.count("log start moved");
    shell.world.note(format_args!("log start of {} to {to}", replica.name));
    let change = replica.decide_log_start(to);
    if !replica.log.borrow().is_flushed_below(replica.log_start_decided()) {
        shell.world.count("log start moved: what lies below was flushed first");
        shell.write_out(replica.slot).await;
    }
    if replica.is_deleted() {
        return false;
    }
    let durable = match shell.log_changes(vec![change]).await {
        Logged::Flushed => Ok(()),
        Logged::NoJournal => {
            if to > replica.log.borrow().stored_end() {
                shell.write_out(replica.slot).await;
            }
            write_checkpoint(shell).await
        }
        Logged::Failed => return false,
    };
    match durable {
        Err(error) if error.is_full() => {
            shell.world.count("log start: no space for it");
            return false;
        }
        Err(error) => {
            shell.failed(format_args!("writing the checkpoint"), error);
            return false;
        }
        Ok(()) => {}
    }
    shell.model.borrow_mut().log_start_kept(&replica.id, to);
    replica.log.borrow_mut().advance_log_start(to);
    if !replica.is_deleted() {
        drop_segments(shell, replica).await;
    }
    true
}

/// Removes the segments that lie wholly below the log start.
async fn drop_segments(shell: &Rc<Shell>, replica: &Rc<Replica>) {
    let _turn = replica.replacing.take().await;
    let dropped = replica.log.borrow_mut().drop_final_segments(replica.segments.borrow().written);
    if dropped.is_empty() {
        return;
    }
    replica.generation.set(replica.generation.get() + 1);
    let first = replica.log.borrow().closed().front().map(|segment| segment.base_offset);
    let first = first.unwrap_or(replica.log.borrow().active().base_offset);
    replica.tail.borrow_mut().drop_before(first);
    let Some(_names) = replica.hold_names() else { return };
    for segment in dropped {
        shell.world.note(format_args!("segment {} of {} goes", segment.base_offset, replica.name));
        if let Err(error) = give_up(shell, replica, segment.base_offset).await {
            return shell.failed(format_args!("removing segments of {}", replica.name), error);
        }
    }
}

/// Renames the files to their last names, then removes those.
async fn give_up(shell: &Rc<Shell>, replica: &Replica, base: Offset) -> DiskResult<()> {
    abandon_swap(shell, replica, base).await?;
    let mut given_up = Vec::new();
    for file in SegmentFile::ALL {
        let (live, deleted) =
            (replica.path(base, file), format!("{}/{}", replica.name, file.deleted_name(base)));
        match shell.disk.rename(&live, &deleted).await {
            Ok(()) => given_up.push(deleted),
            Err(DiskError::NotFound) => {}
            Err(error) if error.is_full() => shell.disk.remove_if_present(&live).await?,
            Err(error) => return Err(error),
        }
    }
    shell.disk.sync_directory(&replica.name).await?;
    for path in given_up {
        // What fails is tried again by the next start, which knows it by its name.
        let _ = shell.disk.remove_if_present(&path).await;
    }
    Ok(())
}

/// At a clean stop: everything a start needs so that it need not scan.
pub async fn write_final_state(shell: &Rc<Shell>) -> DiskResult<()> {
    let mut states = FinalStateWriter::with_state_size_max(shell.settings.state_size_max);
    for replica in shell.all_replicas() {
        let active = replica.log.borrow().active().base_offset;
        replica.finish_rolls(shell, active).await?;
        let state = state_of(&replica);
        if states.add(replica.id, &state) {
            continue;
        }
        shell.world.count("stop: files beside a segment");
        let files = [
            (replica.path(state.active, SegmentFile::OffsetIndex), state.offset_index),
            (replica.path(state.active, SegmentFile::TimeIndex), state.time_index),
            (replica.path(state.active, SegmentFile::Checksums), state.checksums),
            (replica.path(state.log_end, SegmentFile::ProducerSnapshot), state.producers),
            (format!("{}/{LEADER_EPOCH_CHECKPOINT}", replica.name), state.epochs),
        ];
        let has_transactions = !state.transactions.is_empty();
        let transactions = (replica.path(state.active, SegmentFile::TransactionIndex), state.transactions);
        for (path, bytes) in files.into_iter().chain(has_transactions.then_some(transactions)) {
            shell.disk.replace_file(&path, &bytes).await?;
        }
    }
    shell.disk.replace_file(&final_state_name(shell.shard), &states.finish()).await?;
    write_checkpoint(shell).await
}

fn state_of(replica: &Replica) -> PartitionState {
    PartitionState::of(&replica.log.borrow(), replica.tail.borrow().last_partial_block())
}
