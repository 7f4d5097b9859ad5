//! Damage beyond the last checkpoint: what the journal says was flushed in a segment is missed, anything else
//! is a torn tail.

use super::compacting::copy;
use super::journalled::{claimed, has_room, journalled_after, next_file_is_made, read_checkpoint, start};
use super::*;
use crate::cluster::image::Image;
use crate::log::checkpoint::PartitionPoint;
use crate::log::commit::DIRECT_SIZE;
use crate::log::journal::block::{BlockView, Change};
use crate::log::journal::replay::Replay;
use crate::log::journal::ring::FileIndex;
use crate::shard::journal_replay::replay;
use crate::types::ShardId;

const JOURNAL: &str = "journal.0/00000000.journal";

/// Three batches went straight to their segment. Nothing of them is in the journal but what it says of their
/// flushes, and that is enough for this start and the next one.
#[test]
fn large_batch_that_was_flushed_and_is_damaged_is_no_torn_tail() {
    on_executor(async {
        let original = directory();
        claimed(original.path());
        let size = {
            let store = journalled_after(original.path(), 16 << 20, None).await;
            let replica = open_partition(&store, original.path(), 0, 8 << 20).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            let size = large(0).len() as u64;
            for number in 0..3 {
                append(&store, &replica, &acks, &mut large(number)).await;
                acks.all_arrived(&store).await;
            }
            assert_eq!(replica.log.borrow().stored_end(), offset(3), "nothing went to the journal");
            until(|| recorded_end(original.path()) == Some(3), "the last flush is recorded").await;
            next_file_is_made(original.path()).await;
            size
        };
        for (is_recorded, expected) in [(true, None), (false, Some(1))] {
            let (crashed, image) = crashed(original.path());
            overwrite(&newest_log(crashed.path()), size + 1000, b"flipped");
            if !is_recorded {
                let path = crashed.path().join(JOURNAL);
                std_write(&path, &vec![0; std_read(&path).len()]);
            }
            for again in 0..2 {
                let mut points = read_checkpoint(crashed.path());
                assert_eq!(points.is_empty(), again == 0 || !is_recorded);
                let opened = open_after(crashed.path(), &image, &mut points).await;
                match (opened, expected) {
                    (Ok(end), Some(expected)) => assert_eq!(end, expected, "the valid prefix is left"),
                    (Err(error), None) => {
                        let expected = format!(
                            "segment 0 is damaged at byte {size}, below the recovery point: CRC-32C is"
                        );
                        assert!(error.contains(&expected), "{error}");
                    }
                    (opened, expected) => panic!("{opened:?}, expected was {expected:?}"),
                }
            }
        }
    });
}

#[test]
fn what_is_torn_behind_the_last_record_is_cut() {
    on_executor(async {
        let original = directory();
        claimed(original.path());
        {
            let store = journalled_after(original.path(), 16 << 20, None).await;
            let replica = open_partition(&store, original.path(), 0, 8 << 20).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            append(&store, &replica, &acks, &mut large(0)).await;
            acks.all_arrived(&store).await;
            until(|| recorded_end(original.path()) == Some(1), "the flush is recorded").await;
            next_file_is_made(original.path()).await;
        }
        let (crashed, image) = crashed(original.path());
        tear(&newest_log(crashed.path()), &large(1));
        let opened = open_after(crashed.path(), &image, &mut BTreeMap::new()).await;
        assert_eq!(opened, Ok(1));
    });
}

/// Small batches went through the journal and were written out: their own blocks say that they were flushed.
#[test]
fn blocks_that_are_not_needed_any_more_say_what_was_flushed() {
    on_executor(async {
        let original = directory();
        claimed(original.path());
        let size = batch(1, None, &[0; 500]).len() as u64;
        {
            let store = journalled_after(original.path(), 16 << 20, None).await;
            let replica = open_partition(&store, original.path(), 0, 8 << 20).await;
            has_room(&store).await;
            let acks = Acks::new(None);
            for number in 0..3 {
                append(&store, &replica, &acks, &mut batch(1, None, &[number; 500])).await;
                acks.all_arrived(&store).await;
            }
            store.write_out(replica.slot).await;
            store.state_flushed();
            until(|| scanned(original.path()).0.blocks().count() <= 1, "no block is needed any more").await;
            assert_eq!(recorded_end(original.path()), None, "there is nothing to record");
            next_file_is_made(original.path()).await;
        }
        let (crashed, image) = crashed(original.path());
        overwrite(&newest_log(crashed.path()), size + 200, b"flipped");
        let error = open_after(crashed.path(), &image, &mut BTreeMap::new()).await.unwrap_err();
        let expected = format!("segment 0 is damaged at byte {size}, below the recovery point: CRC-32C is");
        assert!(error.contains(&expected), "{error}");
    });
}

/// Goes to its segment.
fn large(number: u8) -> Vec<u8> {
    batch(1, None, &vec![number + 1; DIRECT_SIZE as usize])
}

/// As a kill has left it.
fn crashed(original: &Path) -> (tempfile::TempDir, Image) {
    let crashed = directory();
    let image = claimed(crashed.path());
    for name in ["t-0", "journal.0"] {
        copy(&original.join(name), &crashed.path().join(name));
    }
    (crashed, image)
}

/// The log end that a start finds, or why the partition is offline.
async fn open_after(
    data_dir: &Path,
    image: &Image,
    points: &mut BTreeMap<TopicPartition, PartitionPoint>,
) -> Result<u64, String> {
    let replayed = replay(&start(data_dir, image, false), points).unwrap();
    assert!(replayed.corrupt.is_empty());
    let head = replayed.heads.get(&ShardId(0)).copied();
    let store = journalled_after(data_dir, 16 << 20, head).await;
    let mut request = request(data_dir, 0, 8 << 20);
    request.point = points.get(&request.id).copied();
    request.journal_end = replayed.ends.get(&request.id).copied();
    let opened = open(&store, request).await;
    opened.map(|replica| replica.log.borrow().log_end().get()).map_err(|error| error.to_string())
}

/// Up to where the last record in the journal says that the partition was flushed.
fn recorded_end(data_dir: &Path) -> Option<u64> {
    let (replay, bytes) = scanned(data_dir);
    let ends = replay.run().flat_map(|(_, block)| {
        let view =
            BlockView::decode(&bytes[block.position as usize..][..block.size], block.position).unwrap();
        let changes = view.entries().map(|(entry, _)| entry.change).collect::<Vec<_>>();
        changes.into_iter().filter_map(|change| match change {
            Change::Flushed { end, .. } => Some(end.get()),
            _ => None,
        })
    });
    ends.last()
}

fn scanned(data_dir: &Path) -> (Replay, Vec<u8>) {
    let bytes = std_read(&data_dir.join(JOURNAL));
    let mut replay = Replay::default();
    let read = |position: u64, size: usize| {
        let rest = &bytes[position as usize..];
        Ok::<_, std::convert::Infallible>(rest[..size.min(rest.len())].to_vec())
    };
    let Ok(_) = replay.scan_file(FileIndex(0), bytes.len() as u64, read);
    (replay, bytes)
}

async fn until(mut holds: impl FnMut() -> bool, what: &str) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}
