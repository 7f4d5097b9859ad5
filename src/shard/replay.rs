//! The producers of a partition as they were before its active segment, at an unclean start.
//!
//! ```text
//! segments    │ 0 │ 4711 │ 9000 │ 12000  active │
//! snapshots          usable  damaged  missing
//!                    └─ replayed ──────┘└ the scan of the active segment goes on ┘
//! ```
//!
//! The snapshot beside the active segment says it all. When that is missing or damaged, the newest
//! usable one before it is taken and the batches behind that are recorded again; without any, all
//! that are left (Kafka `ProducerStateManager.truncateAndReload`, `UnifiedLog.rebuildProducerState`).
//! Otherwise a retry of what is stored would be stored twice.
//!
//! Leader epochs go along: a roll writes their file before the snapshot, so that segments closed by a replay of the
//! journal, of which it may know nothing, are those without one. A leader that knew of no epoch before its active segment
//! would have its followers begin there.

use crate::log::checksums::SegmentChecksums;
use crate::log::checksums::check::ChecksumCompare;
use crate::log::checksums::walk::DamageAt;
use crate::log::epochs::LeaderEpochs;
use crate::log::producers::{ProducerEvent, Producers};
use crate::log::recovery::{OffsetGaps, Progress, RecoveryScan, ScanOptions, Tail};
use crate::log::segment::SegmentFile;
use crate::metrics::recovery::RecoveryBranch;
use crate::shard::disk::{blocking, replace_file};
use crate::shard::open::{BATCH_SIZE_MAX, OpenRequest};
use crate::shard::segments::EPOCHS_FILE;
use crate::shard::step::Pace;
use crate::shard::store::Store;
use crate::types::limits::IO_SIZE_MAX;
use crate::types::{Offset, Timestamp};
use std::io;
use std::rc::Rc;

/// The producers just before the active segment, at `active`; `closed` are the bases of the segments
/// before it, oldest first.
pub async fn producers_before(
    store: &Rc<Store>,
    request: &OpenRequest,
    closed: &[Offset],
    active: Offset,
    epochs: &mut LeaderEpochs,
) -> io::Result<Producers> {
    let now = store.clock.wall();
    // Without their file those of all segments are looked for.
    let lacks_epochs = epochs.entries().is_empty() && !closed.is_empty();
    let (kept, reason) = match read_snapshot(request, active, now).await {
        Ok(producers) if !lacks_epochs => return Ok(producers),
        Ok(producers) => (Some(producers), "there is no file of leader epochs".to_owned()),
        Err(reason) => (None, reason),
    };
    if closed.is_empty() && active == Offset::ZERO {
        return Ok(Producers::new()); // Nothing lies before the first record.
    }
    let (mut producers, from) = newest_usable(request, closed, now).await;
    let first = if lacks_epochs { 0 } else { from };
    tracing::warn!(
        directory = %request.directory.display(), segment = %active, reason, segments = closed.len() - first,
        "the producers, or the leader epochs, are built again from the segments before the active one"
    );
    if kept.is_none() {
        store.recovered(RecoveryBranch::ProducersRebuilt);
    }
    for (at, base) in closed.iter().enumerate().skip(first) {
        let producers = (at >= from).then_some(&mut producers);
        replay(store, request, *base, producers, epochs, now).await?;
    }
    let has_epochs = keep_epochs(store, request, epochs).await;
    if let Some(kept) = kept {
        return Ok(kept);
    }
    if has_epochs {
        keep_snapshot(store, request, active, &producers).await;
    }
    Ok(producers)
}

/// The newest state that can be read, and the first of `closed` that it does not cover.
///
/// Of a compacted log one with an open transaction is none: its marker, behind the snapshot, may have gone
/// with the rest of it, and nothing would ever say that it has ended. From an earlier snapshot on, what is
/// left of a transaction is there with its marker, or is not. Where the oldest one has an open transaction, no
/// record of that is left before it: what it says of sequences is believed, and what of the transaction is left
/// opens it again.
async fn newest_usable(request: &OpenRequest, closed: &[Offset], now: Timestamp) -> (Producers, usize) {
    let is_compacted = request.config.cleanup.compact.is_some();
    for (at, base) in closed.iter().enumerate().rev() {
        let Ok(mut producers) = read_snapshot(request, *base, now).await else { continue };
        if is_compacted && at == 0 {
            producers.forget_open_transactions();
        }
        if !is_compacted || producers.first_open_transaction().is_none() {
            return (producers, at);
        }
    }
    (Producers::new(), 0)
}

async fn read_snapshot(request: &OpenRequest, base: Offset, now: Timestamp) -> Result<Producers, String> {
    let path = request.directory.join(SegmentFile::ProducerSnapshot.name(base));
    #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
    let bytes = blocking(move || std::fs::read(path)).await.map_err(|error| error.to_string())?;
    Producers::decode_snapshot(&bytes, now).map_err(|error| error.to_string())
}

/// Records the batches of one closed segment. One that is damaged is replayed up to the damage: what lies
/// behind it cannot be told apart, and reading it is refused anyway. Of an extent that is not what was
/// written although its batches are whole, nothing is recorded.
async fn replay(
    store: &Rc<Store>,
    request: &OpenRequest,
    base: Offset,
    mut producers: Option<&mut Producers>,
    epochs: &mut LeaderEpochs,
    now: Timestamp,
) -> io::Result<()> {
    let path = request.directory.join(SegmentFile::Log.name(base));
    let file = store.disk.open_for_reading(&path).await?;
    let size = file.size().await?;
    let mut scan = RecoveryScan::new(ScanOptions {
        segment_base: base,
        recovery_point: None,
        gaps: OffsetGaps::Allowed, // It may have been compacted.
        leader_epoch_min: None,
        leader_epoch_max: Some(request.leader_epoch),
        batch_size_max: BATCH_SIZE_MAX,
    });
    let mut compare = ChecksumCompare::new(request.segment(base), read_companion(request, base, size).await);
    let mut waiting: Vec<ProducerEvent> = Vec::new();
    let mut pace = Pace::new(&store.clock);
    let mut position = 0;
    while position < size && compare.damage().is_none() {
        let bytes = file.read(position, IO_SIZE_MAX).await?;
        if bytes.is_empty() {
            break;
        }
        let progress = scan.feed(&bytes, &mut |batch, stored| {
            epochs.assign(stored.leader_epoch, stored.base_offset);
            waiting.extend(ProducerEvent::of(batch, stored, now));
            if compare.observe(batch.header(), stored.size) {
                take_all(producers.as_deref_mut(), &mut waiting);
            }
        });
        if progress != Progress::Batches {
            break;
        }
        position += bytes.len() as u64;
        pace.give_way().await;
    }
    let scanned = match scan.finish().tail {
        Tail::Torn { file_position, damage } | Tail::Corrupt { file_position, damage } => {
            Some(DamageAt { file_position, damage })
        }
        Tail::Clean => None,
    };
    if compare.damage().is_none() {
        // Whole by themselves and where they belong, up to a batch that is not.
        take_all(producers, &mut waiting);
    }
    if let Some(DamageAt { file_position, damage }) = compare.damage().or(scanned) {
        tracing::error!(
            directory = %request.directory.display(), segment = %base, file_position, %damage,
            "a closed segment is damaged: producers that wrote behind the damage are not known"
        );
    }
    Ok(())
}

/// `None`: they are known from further on.
fn take_all(producers: Option<&mut Producers>, waiting: &mut Vec<ProducerEvent>) {
    let Some(producers) = producers else { return waiting.clear() };
    for event in waiting.drain(..) {
        let _ended = producers.take(&event); // Listed by the index of its segment.
    }
}

/// `None` when it is missing or wrong: then the batches' own checksums have to do.
async fn read_companion(request: &OpenRequest, base: Offset, size: u64) -> Option<SegmentChecksums> {
    let path = request.directory.join(SegmentFile::Checksums.name(base));
    let segment = request.segment(base);
    let read = move || {
        #[expect(clippy::disallowed_methods, reason = "runs on the helper thread")]
        let bytes = std::fs::read(path).ok()?;
        SegmentChecksums::decode(segment, size, &bytes).ok()
    };
    blocking(read).await
}

/// Where a snapshot is, the next start looks for no epochs before it: whether their file is there.
async fn keep_epochs(store: &Store, request: &OpenRequest, epochs: &LeaderEpochs) -> bool {
    let path = request.directory.join(EPOCHS_FILE);
    let text = epochs.encode();
    let written = blocking(move || replace_file(&path, text.as_bytes())).await;
    let is_there = written.is_ok();
    store.derived_written(&request.directory, written, "no space for the leader epochs");
    is_there
}

/// So that the next unclean start need not replay again.
async fn keep_snapshot(store: &Store, request: &OpenRequest, base: Offset, producers: &Producers) {
    let path = request.directory.join(SegmentFile::ProducerSnapshot.name(base));
    let producers = producers.snapshot().finish();
    let written = blocking(move || replace_file(&path, &producers.seal())).await;
    store.derived_written(&request.directory, written, "no space for the producer snapshot");
}
