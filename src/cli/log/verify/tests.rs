//! A data directory as a broker with one topic leaves it, with one thing changed, and what is said.

use super::*;
use expect_test::{Expect, expect};
use odradek::cluster::log_entry::{EntrySequence, encode_entry};
use odradek::cluster::record::{PartitionState, Record, Replica};
use odradek::codec::record_batch::{BatchHeader, BatchView, Compression, assign_offset, seal, write_batch};
use odradek::log::checkpoint::CheckpointGeneration;
use odradek::log::checksums::{SegmentChecksums, SegmentId};
use odradek::log::data_dir::checkpoint_name;
use odradek::log::final_state::FinalStateWriter;
use odradek::log::journal::block::{
    BlockHeader, BlockSequence, BlockWriter, Change, ENTRY_SIZE, Entry, FileEpoch, HEADER_SIZE, block_size,
};
use odradek::log::ownership::{self, PARTITION_METADATA};
use odradek::log::partition::Place;
use odradek::log::producers::Producers;
use odradek::types::{DirectoryId, NodeId, OwnershipEpoch, ShardId, Timestamp, TopicId, Uuid};
use std::path::PathBuf;
use tempfile::TempDir;

/// Bytes of each of the four batches, of three records.
const BATCH_SIZE: u64 = 81;

const JOURNAL: &str = "journal.0/00000000.journal";

#[test]
fn a_whole_directory_has_no_findings() {
    let data = DataDir::new();
    data.check(expect![[r#"
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 0 problems, 0 notes
    "#]]);
    std::fs::remove_file(data.path("clean-stop")).expect("it is there");
    data.check(expect![[r#"
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 0 notes
    "#]]);
}

#[test]
fn damage_is_told_with_its_file_and_byte() {
    let data = DataDir::new();
    let segment = "orders-0/00000000000000000000.log";
    data.change(segment, |bytes| bytes[150] ^= 0x40);
    data.change("orders-0/00000000000000000012.snapshot", |bytes| bytes[9] ^= 1);
    data.check(expect![[r#"
        orders-0: problem: 00000000000000000000.log byte 81: CRC-32C is 0xbc1d6ffb, the batch says 0xd8ba0fb7
        orders-0: problem: 00000000000000000012.snapshot byte 0: CRC-32C is 0xba0cc8c4, the snapshot says 0x48674bc7
        1 partition, 1 segment, 9 records in 4 batches and 324 bytes, stopped cleanly: 2 problems, 0 notes
    "#]]);
    // Beyond the recovery point of a killed broker the last batch may be torn.
    let data = DataDir::new();
    std::fs::remove_file(data.path("clean-stop")).expect("it is there");
    data.write_checkpoint(0, 9, 3 * BATCH_SIZE);
    data.change(segment, |bytes| bytes[3 * BATCH_SIZE as usize + 70] ^= 1);
    data.check(expect![[r#"
        orders-0: note: 00000000000000000000.log byte 243: a torn write; the next start cuts the log here (CRC-32C is 0x4fcbf876, the batch says 0xd8ba0fb7)
        1 partition, 1 segment, 9 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 1 note
    "#]]);
}

/// What every CRC holds for, and was not written here.
#[test]
fn what_contradicts_the_checksums_is_told() {
    let data = DataDir::new();
    let mut checksums = SegmentChecksums::new(SegmentId { partition: id(), base_offset: offset(0) });
    for base in [0, 3, 6, 9] {
        let bytes = batch(base);
        let (view, _) = BatchView::split_first(&bytes).expect("it is one");
        checksums.observe(view.header(), view.size() as u32);
    }
    let companion = "orders-0/00000000000000000000.checksums";
    data.write(companion, &checksums.encode());
    data.check(expect![[r#"
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 0 problems, 0 notes
    "#]]);
    let mut foreign = batch(3);
    foreign[70] ^= 1;
    seal(&mut foreign);
    let at = BATCH_SIZE as usize;
    data.change("orders-0/00000000000000000000.log", |bytes| {
        bytes[at..2 * at].copy_from_slice(&foreign);
    });
    data.check(expect![[r#"
        orders-0: problem: 00000000000000000000.log byte 0: the batches up to byte 324 are not those that were written: checksum 0x244258fe, 0xe2552667 was expected
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 1 problem, 0 notes
    "#]]);
    data.change(companion, |bytes| bytes[51] ^= 1);
    data.check(expect![[r#"
        orders-0: problem: 00000000000000000000.checksums byte 0: it cannot be used, and is built again: the file is not as its CRC-32 says
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 1 problem, 0 notes
    "#]]);
    // Of an earlier stop: the newer ones are in the final state.
    let none = SegmentChecksums::new(checksums.segment());
    data.write(companion, &none.encode());
    data.check(expect![[r#"
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 0 problems, 0 notes
    "#]]);
    // Closed, from before there were any.
    data.write("orders-0/00000000000000000012.log", b"");
    data.change("orders-0/00000000000000000000.log", |bytes| bytes.truncate(4 * at));
    std::fs::remove_file(data.path(companion)).expect("it is there");
    data.write_checkpoint(0, 12, 4 * BATCH_SIZE);
    data.check(expect![[r#"
        orders-0: note: 00000000000000000000.checksums byte 0: there are no checksums of a closed segment; they are built again from its batches
        orders-0: note: 00000000000000000000.index byte 0: there is no index
        orders-0: note: 00000000000000000000.timeindex byte 0: there is no index
        1 partition, 2 segments, 12 records in 4 batches and 324 bytes, stopped cleanly: 0 problems, 3 notes
    "#]]);
}

#[test]
fn what_contradicts_the_checkpoint_is_told() {
    let data = DataDir::new();
    data.change("orders-0/00000000000000000000.log", |bytes| bytes.truncate(3 * BATCH_SIZE as usize));
    data.check(expect![[r#"
        orders-0: problem: the log ends at 9; flushed were 12
        1 partition, 1 segment, 9 records in 3 batches and 243 bytes, stopped cleanly: 1 problem, 0 notes
    "#]]);
    let data = DataDir::new();
    data.write_checkpoint(0, 9, 3 * BATCH_SIZE);
    data.check(expect![[r#"
        orders-0: problem: a clean stop is marked at 9, but the log goes on to 12
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 1 problem, 0 notes
    "#]]);
    let data = DataDir::new();
    std::fs::remove_dir_all(data.path("orders-0")).expect("it is there");
    data.check(expect![[r#"
        problem: orders-0: the directory is not there; flushed were 12
        0 partitions, 0 segments, 0 records in 0 batches and 0 bytes, stopped cleanly: 1 problem, 0 notes
    "#]]);
}

#[test]
fn what_contradicts_the_metadata_is_told() {
    let data = DataDir::new();
    let other = ownership::encode(TopicId(Uuid::from_u128(11)));
    data.write(&format!("orders-0/{PARTITION_METADATA}"), other.as_bytes());
    data.check(expect![[r#"
        orders-0: problem: partition.metadata says topic id AAAAAAAAAAAAAAAAAAAACw, in the metadata the topic of this name has AAAAAAAAAAAAAAAAAAAACg
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 1 problem, 0 notes
    "#]]);
    let data = DataDir::new();
    data.write("orders-1/00000000000000000000.log", b"whatever");
    data.check(expect![[r#"
        orders-1: note: no topic in the metadata has this partition; brokers leave it alone
        2 partitions, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 0 problems, 1 note
    "#]]);
    let data = DataDir::new();
    data.change("clean-stop", |bytes| bytes[20] ^= 1);
    data.change("metadata/00000000000000000000.log", |bytes| bytes.extend([7; 100]));
    data.check(expect![[r#"
        note: metadata/00000000000000000000.log byte 4096: a torn write; the next start cuts the log here (no entry starts here (magic 0x07070707))
        problem: clean-stop: CRC-32 is 0xbc3955b3, the file says 0xa52264f2
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 1 note
    "#]]);
}

#[test]
fn a_journal_is_judged_as_a_start_would() {
    let data = DataDir::unclean();
    data.write_journal(&[(1, 1), (2, 2), (3, 3)]);
    data.check(expect![[r#"
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 0 notes
    "#]]);
    // The last one may be torn: no block behind it says that it was flushed.
    data.change(JOURNAL, |bytes| bytes[2 * 4096 + 41] ^= 1);
    data.check(expect![[r#"
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 0 notes
    "#]]);
    data.write_journal(&[(1, 1), (2, 2), (3, 3)]);
    data.change(JOURNAL, |bytes| bytes[4096 + 41] ^= 1);
    data.check(expect![[r#"
        problem: journal.0/00000000.journal byte 4096: CRC-32 of header and table is 0x27e78339, the block says 0x219857c7; block 2, which was flushed, is lost
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
    data.write_journal(&[(1, 1), (3, 3)]);
    data.check(expect![[r#"
        problem: journal.0: block 2, which was flushed, is missing
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
    data.write_journal(&[(1, 1), (3, 1)]);
    data.check(expect![[r#"
        note: journal.0: block 3 and those behind it lie beyond a gap: an interrupted write; the next start ignores them
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 1 note
    "#]]);
    data.write_journal(&[(1, 1), (2, 2)]);
    data.change(JOURNAL, |bytes| bytes[HEADER_SIZE + ENTRY_SIZE] ^= 1);
    data.check(expect![[r#"
        problem: journal.0/00000000.journal byte 128: bytes of block 1, which was flushed, are not as their CRC-32 says
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
    data.write("journal.0/00000001.journal", &[0; 4096]);
    data.check(expect![[r#"
        problem: journal.0/00000001.journal: 4096 bytes, where the first file has 8192
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
    let data = DataDir::new();
    data.write_journal(&[(1, 1), (3, 3)]);
    data.write("journal.1.damaged.2/00000000.journal", b"");
    data.write("journal.1.replayed/00000001.journal", b"");
    data.change("final-state.0", |bytes| bytes.push(1));
    data.check(expect![[r#"
        note: final-state.0: the file is not as its CRC-32 says
        note: journal.0: block 2, which was flushed, is missing; after a clean stop it is not needed
        problem: journal.1.damaged.2: a start has found this journal damaged; its partitions are offline until it is removed
        note: journal.1.replayed: a journal that was replayed; the next start removes it
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, stopped cleanly: 1 problem, 3 notes
    "#]]);
}

#[test]
fn recovery_points_that_the_journal_explains_are_no_offence() {
    let data = DataDir::unclean();
    data.write_checkpoint(0, 12, 4 * BATCH_SIZE);
    data.change("orders-0/00000000000000000000.log", |bytes| bytes.truncate(3 * BATCH_SIZE as usize));
    data.check(expect![[r#"
        orders-0: problem: the log ends at 9; flushed were 12
        1 partition, 1 segment, 9 records in 3 batches and 243 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
    let place = Place { segment: offset(0), file_position: 3 * BATCH_SIZE };
    let cut = Change::Cut { place, end: offset(9), epoch: LeaderEpoch(0) };
    let mut block = vec![0; block_size(1, 0)];
    let mut writer = BlockWriter::new(&mut block, 1);
    writer.change(&Entry { partition: id(), change: cut });
    writer.finish(&journal_header(0, 1, 1));
    data.write(JOURNAL, &block);
    data.check(expect![[r#"
        orders-0: problem: the log ends at 9; flushed were 12
        1 partition, 1 segment, 9 records in 3 batches and 243 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
}

/// What is torn behind the last checkpoint is damage where the journal says that it was flushed.
#[test]
fn what_the_journal_says_was_flushed_is_missed() {
    let data = DataDir::unclean();
    data.write_checkpoint(0, 9, 3 * BATCH_SIZE);
    data.change("orders-0/00000000000000000000.log", |bytes| bytes[3 * BATCH_SIZE as usize + 70] ^= 0x40);
    data.check(expect![[r#"
        orders-0: note: 00000000000000000000.log byte 243: a torn write; the next start cuts the log here (CRC-32C is 0xab148ce2, the batch says 0xd8ba0fb7)
        1 partition, 1 segment, 9 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 1 note
    "#]]);
    let place = Place { segment: offset(0), file_position: 4 * BATCH_SIZE };
    let change = Change::Flushed { place, end: offset(12), epoch: LeaderEpoch(0) };
    let mut block = vec![0; block_size(1, 0)];
    let mut writer = BlockWriter::new(&mut block, 1);
    writer.change(&Entry { partition: id(), change });
    writer.finish(&journal_header(0, 1, 1));
    data.write(JOURNAL, &block);
    data.check(expect![[r#"
        orders-0: problem: 00000000000000000000.log byte 243: CRC-32C is 0xab148ce2, the batch says 0xd8ba0fb7
        1 partition, 1 segment, 9 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]);
}

#[test]
fn programs_get_the_same() {
    let data = DataDir::new();
    data.change("orders-0/00000000000000000000.log", |bytes| bytes[150] ^= 0x40);
    let report =
        verify(&[data.directory.path().to_owned()], &mut Progress::hidden()).expect("it can be listed");
    expect![[r#"
        {
          "batches": 4,
          "bytes": 324,
          "cleanStop": true,
          "findings": [],
          "notes": 0,
          "partitions": [
            {
              "batches": 4,
              "bytes": 324,
              "directory": "orders-0",
              "findings": [
                {
                  "file": "00000000000000000000.log",
                  "position": 81,
                  "severity": "problem",
                  "what": "CRC-32C is 0xbc1d6ffb, the batch says 0xd8ba0fb7"
                }
              ],
              "logEnd": 3,
              "logStart": 0,
              "notes": 0,
              "problems": 1,
              "records": 9,
              "segments": 1
            }
          ],
          "problems": 1,
          "records": 9,
          "segments": 1
        }
    "#]]
    .assert_eq(&format!("{:#}\n", report.json()));
}

#[test]
fn partitions_of_several_directories_are_held_against_one_metadata() {
    let data = DataDir::unclean();
    let other = tempfile::tempdir().expect("a temporary directory");
    let id = "MzE8dy87TCSMBw0PLz0eWg";
    let properties = format!("version=1\ndirectory.id={id}\nmetadata.directory.id=Ls2XWq3gTkKx6ZQO8Y3V1A\n");
    std::fs::write(other.path().join("meta.properties"), properties).expect("it can be written");
    // Of the other one alone less is known.
    std::fs::rename(data.path("orders-0"), other.path().join("orders-0")).expect("the same file system");
    let both = [data.directory.path().to_owned(), other.path().to_owned()];
    let alone = verify(&both[1..], &mut Progress::hidden()).expect("it can be listed");
    expect![[r#"
        note: metadata/00000000000000000000.log: the metadata is in the directory with directory.id Ls2XWq3gTkKx6ZQO8Y3V1A; give it as well
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 0 problems, 1 note
    "#]]
    .assert_eq(&alone.text());
    let text = |both: &[PathBuf]| {
        let report = verify(both, &mut Progress::hidden()).expect("it can be listed");
        let names = [(&both[0], "FIRST"), (&both[1], "OTHER")];
        names.iter().fold(report.text(), |text, (path, name)| text.replace(&path.display().to_string(), name))
    };
    expect![[r#"
        problem: FIRST/orders-0: the directory is not there; flushed were 12
        1 partition, 1 segment, 12 records in 4 batches and 324 bytes, not stopped cleanly: 1 problem, 0 notes
    "#]]
    .assert_eq(&text(&both));
    // In both, and the metadata names another one.
    let replica = Replica {
        node: NodeId(1),
        owner: ShardId(0),
        ownership_epoch: OwnershipEpoch(0),
        directory: Some(DirectoryId(Uuid::from_u128(5))),
    };
    let records = [
        Record::TopicCreated { topic: topic(), name: "orders".to_string() },
        Record::PartitionCreated { id: self::id(), state: PartitionState::new(vec![replica]) },
    ];
    data.write(METADATA_LOG, &encode_entry(EntrySequence(1), &records).expect("small"));
    let copy = DataDir::unclean();
    std::fs::rename(copy.path("orders-0"), data.path("orders-0")).expect("the same file system");
    expect![[r#"
        OTHER/orders-0: problem: the metadata says that it is in the directory with directory.id AAAAAAAAAAAAAAAAAAAABQ
        OTHER/orders-0: problem: the same partition is in FIRST/orders-0
        2 partitions, 2 segments, 24 records in 8 batches and 648 bytes, not stopped cleanly: 2 problems, 0 notes
    "#]]
    .assert_eq(&text(&both));
}

struct DataDir {
    directory: TempDir,
}

impl DataDir {
    fn new() -> DataDir {
        let data = DataDir { directory: tempfile::tempdir().expect("a temporary directory") };
        let replica = Replica {
            node: NodeId(1),
            owner: ShardId(0),
            ownership_epoch: OwnershipEpoch(0),
            directory: None,
        };
        let records = [
            Record::TopicCreated { topic: topic(), name: "orders".to_string() },
            Record::PartitionCreated { id: id(), state: PartitionState::new(vec![replica]) },
        ];
        data.write(METADATA_LOG, &encode_entry(EntrySequence(1), &records).expect("small"));
        let mut segment = Vec::new();
        for base in [0, 3, 6, 9] {
            segment.extend(batch(base));
        }
        segment.resize(8192, 0);
        data.write("orders-0/00000000000000000000.log", &segment);
        data.write("orders-0/00000000000000000012.snapshot", &Producers::new().encode_snapshot());
        data.write("orders-0/leader-epoch-checkpoint", b"0\n1\n0 0\n");
        let owner = ownership::encode(topic());
        data.write(&format!("orders-0/{PARTITION_METADATA}"), owner.as_bytes());
        data.write_checkpoint(0, 12, 4 * BATCH_SIZE);
        let generations = BTreeMap::from([(ShardId(0), CheckpointGeneration(5))]);
        data.write("final-state.0", &FinalStateWriter::default().finish());
        data.write(CLEAN_STOP_FILE, &CleanStop { generations }.encode());
        data
    }

    /// Killed, with everything flushed in the segments.
    fn unclean() -> DataDir {
        let data = DataDir::new();
        std::fs::remove_file(data.path(CLEAN_STOP_FILE)).expect("it is there");
        data
    }

    /// Blocks of one batch each, by sequence number and flush mark. The bytes are those of the segment.
    fn write_journal(&self, blocks: &[(u64, u64)]) {
        let mut file = Vec::new();
        for (sequence, flushed) in blocks {
            let bytes = batch(0);
            let mut block = vec![0; block_size(1, bytes.len())];
            let mut writer = BlockWriter::new(&mut block, 1);
            let place = Place { segment: offset(0), file_position: 0 };
            writer.bytes(id(), place, offset(3), [&bytes[..]].into_iter());
            writer.finish(&journal_header(file.len() as u64, *sequence, *flushed));
            file.extend(&block);
        }
        self.write(JOURNAL, &file);
    }

    fn write_checkpoint(&self, log_start: u64, flushed_end: u64, file_position: u64) {
        let point = PartitionPoint {
            log_start: offset(log_start),
            flushed_end: offset(flushed_end),
            segment_base: offset(0),
            file_position,
        };
        let (shard, generation) = (ShardId(0), CheckpointGeneration(5));
        let checkpoint = Checkpoint { shard, generation, points: BTreeMap::from([(id(), point)]) };
        self.write(&checkpoint_name(shard), &checkpoint.encode());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("it is below")).expect("it can be made");
        std::fs::write(path, bytes).expect("it can be written");
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).expect("it is there");
        change(&mut bytes);
        self.write(name, &bytes);
    }

    fn check(&self, expected: Expect) {
        let report =
            verify(&[self.directory.path().to_owned()], &mut Progress::hidden()).expect("it can be listed");
        expected.assert_eq(&report.text());
    }
}

fn journal_header(position: u64, sequence: u64, flushed: u64) -> BlockHeader {
    BlockHeader {
        shard: ShardId(0),
        file_size: 0,
        epoch: FileEpoch(1),
        position,
        sequence: BlockSequence(sequence),
        flushed: BlockSequence(flushed),
        needed: BlockSequence(1),
    }
}

fn batch(base: u64) -> Vec<u8> {
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count: 3,
        base_timestamp: Timestamp(1000),
        max_timestamp: Timestamp(1000),
        producer: None,
    };
    let mut bytes = Vec::new();
    write_batch(&header, &[7; 20], &mut bytes);
    assign_offset(&mut bytes, offset(base), LeaderEpoch(0));
    bytes
}

fn id() -> TopicPartition {
    TopicPartition { topic: topic(), partition: PartitionIndex::from_wire(0).expect("small") }
}

fn topic() -> TopicId {
    TopicId(Uuid::from_u128(10))
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}
