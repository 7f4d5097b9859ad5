//! Checkpoints, retention, `DeleteRecords`, the final state of a clean stop.

use crate::disk::DiskResult;
use crate::shell::replica::Replica;
use crate::shell::{SHARD, Shell};
use odradek::log::checkpoint::{Checkpoint, PartitionPoint};
use odradek::log::data_dir::checkpoint_name;
use odradek::log::epochs::LEADER_EPOCH_CHECKPOINT;
use odradek::log::retention::{RetentionBounds, RetentionLimits, plan_retention};
use odradek::log::segment::{SegmentFile, SegmentInfo};
use odradek::types::{Offset, Timestamp, TopicPartition};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Writes down how far each partition is flushed.
pub async fn write_checkpoint(shell: &Rc<Shell>) -> DiskResult<()> {
    let _turn = shell.checkpoint_turn.take().await;
    let points = shell.all_replicas().into_iter().map(|replica| {
        let log = replica.log.borrow();
        let place = log.stored_place();
        let point = PartitionPoint {
            log_start: log.log_start(),
            flushed_end: log.stored_end(),
            segment_base: place.segment,
            file_position: place.file_position,
        };
        (replica.id, point)
    });
    let mut points: BTreeMap<TopicPartition, PartitionPoint> = points.collect();
    points.extend(shell.unavailable.borrow().iter().filter_map(|(id, point)| Some((*id, (*point)?))));
    let generation = shell.generation.get().next();
    shell.generation.set(generation);
    let starts: Vec<(TopicPartition, Offset)> =
        points.iter().map(|(id, point)| (*id, point.log_start)).collect();
    let bytes = Checkpoint { shard: SHARD, generation, points }.encode();
    shell.disk.replace_file(&checkpoint_name(SHARD), &bytes).await?;
    shell.world.count("checkpoint");
    for (id, start) in starts {
        shell.model.borrow_mut().log_start_kept(&id, start);
    }
    Ok(())
}

pub async fn retain(shell: &Rc<Shell>, replica: &Rc<Replica>) {
    let now = Timestamp(shell.world.wall_ms());
    let mut due = {
        let log = replica.log.borrow();
        let segments: Vec<SegmentInfo> = log.closed().iter().chain([log.active()]).copied().collect();
        let bounds = RetentionBounds {
            log_start: log.log_start(),
            high_watermark: log.stored_end(),
            log_end: log.log_end(),
        };
        let limits = RetentionLimits {
            delete: log.config.cleanup.delete,
            retention_ms: log.config.retention_ms,
            retention_bytes: log.config.retention_bytes,
        };
        plan_retention(&segments, &bounds, &limits, now)
    };
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
        return shell.fail(&format!("rolling {}: {error:?}", replica.name));
    }
    shell.world.count("retention");
    shell.world.note(format_args!("retention of {} to {}", replica.name, due.log_start));
    move_log_start(shell, replica, due.log_start).await;
}

/// `DeleteRecords`: whether the answer may leave.
pub async fn delete_records(shell: &Rc<Shell>, replica: &Rc<Replica>, to: Offset) -> bool {
    while !shell.is_idle(replica.slot) && !shell.is_offline() && to > replica.log.borrow().stored_end() {
        shell.request_write_out(replica.slot);
        shell.pump();
        shell.drained.notified().await;
    }
    if shell.is_offline() {
        return false;
    }
    // The log start never passes what is flushed in the segments: the checkpoint says both.
    let to = to.min(replica.log.borrow().stored_end());
    shell.world.count("log start moved");
    shell.world.note(format_args!("log start of {} to {to}", replica.name));
    move_log_start(shell, replica, to).await
}

/// The log start is durable before the files go, so that it never moves back.
async fn move_log_start(shell: &Rc<Shell>, replica: &Rc<Replica>, to: Offset) -> bool {
    replica.log.borrow_mut().advance_log_start(to);
    match write_checkpoint(shell).await {
        Err(error) if error.is_full() => {
            shell.world.count("checkpoint: no space");
            drop_segments(shell, replica).await;
            return false;
        }
        Err(error) => {
            shell.fail(&format!("writing the checkpoint: {error:?}"));
            return false;
        }
        Ok(()) => {}
    }
    drop_segments(shell, replica).await;
    true
}

/// Removes the segments that lie wholly below the log start.
async fn drop_segments(shell: &Rc<Shell>, replica: &Rc<Replica>) {
    let _turn = replica.replacing.take().await;
    let dropped = {
        let mut log = replica.log.borrow_mut();
        let written = replica.segments.borrow().written;
        let final_count = log.closed().partition_point(|segment| segment.base_offset < written);
        let count = log.droppable_segments().min(final_count);
        log.drop_segments(count)
    };
    if dropped.is_empty() {
        return;
    }
    replica.generation.set(replica.generation.get() + 1);
    let first = replica.log.borrow().closed().front().map(|segment| segment.base_offset);
    let first = first.unwrap_or(replica.log.borrow().active().base_offset);
    replica.tail.borrow_mut().drop_before(first);
    for segment in dropped {
        shell.world.note(format_args!("segment {} of {} goes", segment.base_offset, replica.name));
        if let Err(error) = give_up(shell, replica, segment.base_offset).await {
            return shell.fail(&format!("removing segments of {}: {error:?}", replica.name));
        }
    }
}

/// Renames the files to their last names, then removes those.
async fn give_up(shell: &Rc<Shell>, replica: &Replica, base: Offset) -> DiskResult<()> {
    let mut given_up = Vec::new();
    for file in SegmentFile::ALL {
        let (live, deleted) =
            (replica.path(base, file), format!("{}/{}", replica.name, file.deleted_name(base)));
        match shell.disk.rename(&live, &deleted).await {
            Ok(()) => given_up.push(deleted),
            Err(crate::disk::DiskError::NotFound) => {}
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
    for replica in shell.all_replicas() {
        let active = replica.log.borrow().active().base_offset;
        replica.finish_rolls(shell, active).await?;
        let files = {
            let log = replica.log.borrow();
            let (base, end) = (log.active().base_offset, log.high_watermark());
            let index = log.active_index();
            [
                (replica.path(base, SegmentFile::OffsetIndex), index.encode_offset_index()),
                (replica.path(base, SegmentFile::TimeIndex), index.encode_time_index()),
                (replica.path(end, SegmentFile::ProducerSnapshot), log.producers.encode_snapshot()),
                (format!("{}/{LEADER_EPOCH_CHECKPOINT}", replica.name), log.epochs().encode().into_bytes()),
            ]
        };
        for (path, bytes) in files {
            shell.disk.replace_file(&path, &bytes).await?;
        }
    }
    write_checkpoint(shell).await
}
