//! Files as they lie on disk, and what is printed of them.

use super::*;
use expect_test::{Expect, expect};
use odradek::cluster::log_entry::{EntrySequence, encode_entry};
use odradek::cluster::record::{PartitionState, Record, Replica};
use odradek::codec::compression::compress;
use odradek::codec::record_batch::{BatchHeader, Compression, assign_offset, write_batch};
use odradek::codec::records::{Header, NewRecord, write_record};
use odradek::log::checkpoint::{Checkpoint, CheckpointGeneration, CleanStop, PartitionPoint};
use odradek::log::checksums::{SegmentChecksums, SegmentId};
use odradek::log::final_state::{self, FinalStateWriter};
use odradek::log::journal::block::{
    BlockHeader, BlockSequence, BlockWriter, Change, ENTRY_SIZE, Entry, FileEpoch, HEADER_SIZE, block_size,
};
use odradek::log::partition::Place;
use odradek::log::producers::Producers;
use odradek::log::transactions::AbortedTransaction;
use odradek::log::transactions::index::TransactionIndex;
use odradek::types::{
    LeaderEpoch, NodeId, OwnershipEpoch, PartitionIndex, ProducerEpoch, ProducerId, Sequence, ShardId,
    Timestamp, TopicId, TopicPartition, Uuid,
};
use std::collections::BTreeMap;

const SEGMENT: &str = "00000000000000000100.log";

#[test]
fn a_segment_is_shown_batch_by_batch() {
    let mut segment = segment();
    segment.resize(segment.len() + 4096, 0);
    shown(
        SEGMENT,
        &segment,
        Depth::Batches,
        expect![[r#"
        file: 00000000000000000100.log kind: segment startingOffset: 100
        baseOffset: 100 lastOffset: 101 count: 2 baseSequence: 40 lastSequence: 41 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 0 CreateTime: 1000 size: 95 magic: 2 compresscodec: none crc: 3405091893 isvalid: true
        baseOffset: 102 lastOffset: 102 count: 1 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 95 CreateTime: 1005 size: 104 magic: 2 compresscodec: snappy crc: 286616595 isvalid: true
        end batches: 2 records: 3 position: 199 preallocated: 4096
    "#]],
    );
}

#[test]
fn records_are_decompressed_and_cannot_leave_their_line() {
    shown(
        SEGMENT,
        &segment(),
        Depth::Records,
        expect![[r#"
        file: 00000000000000000100.log kind: segment startingOffset: 100
        baseOffset: 100 lastOffset: 101 count: 2 baseSequence: 40 lastSequence: 41 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 0 CreateTime: 1000 size: 95 magic: 2 compresscodec: none crc: 3405091893 isvalid: true
        | offset: 100 CreateTime: 1000 keySize: 1 valueSize: 3 sequence: 40 headers: {} key: "k" payload: "one"
        | offset: 101 CreateTime: 1000 keySize: 1 valueSize: 15 sequence: 41 headers: {} key: "k" payload: "two\n| offset: 9"
        baseOffset: 102 lastOffset: 102 count: 1 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 95 CreateTime: 1005 size: 104 magic: 2 compresscodec: snappy crc: 286616595 isvalid: true
        | offset: 102 CreateTime: 1005 keySize: -1 valueSize: -1 sequence: -1 headers: {"lang": "en", "none": null} key: null payload: null
        end batches: 2 records: 3 position: 199
    "#]],
    );
}

#[test]
fn damage_is_a_line_in_its_place_and_the_rest_is_shown() {
    let mut flipped = segment();
    flipped[70] ^= 1;
    flipped.extend([0xa5; 100]);
    shown(
        SEGMENT,
        &flipped,
        Depth::Batches,
        expect![[r#"
        file: 00000000000000000100.log kind: segment startingOffset: 100
        baseOffset: 100 lastOffset: 101 count: 2 baseSequence: 40 lastSequence: 41 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 0 CreateTime: 1000 size: 95 magic: 2 compresscodec: none crc: 3405091893 isvalid: false
        problem position: 0 reason: CRC-32C is 0xe4c15fa8, the batch says 0xcaf59435
        baseOffset: 102 lastOffset: 102 count: 1 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 95 CreateTime: 1005 size: 104 magic: 2 compresscodec: snappy crc: 286616595 isvalid: true
        problem position: 199 reason: no batch begins here: message format v-91 is not supported; v2 is; what follows cannot be read
        end batches: 2 records: 3 position: 199 unread: 100
    "#]],
    );
    let mut cut = segment();
    cut.truncate(cut.len() - 1);
    // The records of a batch whose bytes are damaged are tried all the same.
    cut[75] = 0x7f;
    shown(
        SEGMENT,
        &cut,
        Depth::Records,
        expect![[r#"
        file: 00000000000000000100.log kind: segment startingOffset: 100
        baseOffset: 100 lastOffset: 101 count: 2 baseSequence: 40 lastSequence: 41 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 0 CreateTime: 1000 size: 95 magic: 2 compresscodec: none crc: 3405091893 isvalid: false
        problem position: 0 reason: CRC-32C is 0xfc95a2dd, the batch says 0xcaf59435
        | offset: 100 CreateTime: 1000 keySize: 1 valueSize: 3 sequence: 40 headers: {} key: "k" payload: "one"
        | offset: 36 CreateTime: 1000 keySize: 1 valueSize: 15 sequence: 2147483624 headers: {} key: "k" payload: "two\n| offset: 9"
        problem position: 95 reason: the file ends inside a batch: 103 of 104 bytes
        end batches: 1 records: 2 position: 95 unread: 103
    "#]],
    );
}

#[test]
fn indexes_are_shown_entry_by_entry() {
    let offsets = [0, 0, 0, 6, 0, 0, 0, 101, 0, 0, 0, 7, 0, 0, 0, 202];
    shown(
        "00000000000000000100.index",
        &offsets,
        Depth::Batches,
        expect![[r#"
        file: 00000000000000000100.index kind: offset index startingOffset: 100
        offset: 106 position: 101
        offset: 107 position: 202
        end entries: 2 position: 16
    "#]],
    );
    let mut times = vec![0, 0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 80, 0, 0, 0, 7];
    times.push(1);
    shown(
        "00000000000000000100.timeindex",
        &times,
        Depth::Batches,
        expect![[r#"
        file: 00000000000000000100.timeindex kind: time index startingOffset: 100
        timestamp: 90 offset: 106
        timestamp: 80 offset: 107
        problem position: 12 reason: the entry does not follow the one before
        problem position: 24 reason: the file ends inside an entry: 1 of 12 bytes
        end entries: 2 position: 24
    "#]],
    );
}

#[test]
fn the_metadata_log_is_shown_past_damage() {
    let mut log = metadata_log();
    shown(
        "00000000000000000000.log",
        &log,
        Depth::Batches,
        expect![[r#"
            file: 00000000000000000000.log kind: metadata log
            sequence: 1 position: 0 size: 232 records: 2
            | record: TopicCreated topicId: AAAAAAAAAAAAAAAAAAAACg topic: orders
            | record: PartitionCreated topicId: AAAAAAAAAAAAAAAAAAAACg partition: 0 replicas: [{"nodeId":1,"ownershipEpoch":0,"shard":0}] inSync: [1] eligibleLeaders: [] leader: 1 leaderEpoch: 0 partitionEpoch: 0
            sequence: 2 position: 4096 size: 148 records: 1
            | record: TopicConfigSet topicId: AAAAAAAAAAAAAAAAAAAACg key: "retention.ms" value: "1\u{1b}[2J"
            end entries: 2 position: 8192
        "#]],
    );
    log[40] ^= 1;
    shown(
        "00000000000000000000.log",
        &log,
        Depth::Batches,
        expect![[r#"
            file: 00000000000000000000.log kind: metadata log
            problem position: 0 reason: entry checksum is 0x3e1866f1, its bytes give 0x6774eb70
            sequence: 2 position: 4096 size: 148 records: 1
            | record: TopicConfigSet topicId: AAAAAAAAAAAAAAAAAAAACg key: "retention.ms" value: "1\u{1b}[2J"
            end entries: 1 position: 8192
        "#]],
    );
}

#[test]
fn small_files_are_shown_whole_or_not_at_all() {
    let id = TopicPartition { topic: topic(), partition: PartitionIndex::from_wire(3).expect("small") };
    let point = PartitionPoint {
        log_start: offset(1),
        flushed_end: offset(20),
        segment_base: offset(10),
        file_position: 4096,
    };
    let generation = CheckpointGeneration(9);
    let mut checkpoint =
        Checkpoint { shard: ShardId(2), generation, points: BTreeMap::from([(id, point)]) }.encode();
    shown(
        "recovery-point-checkpoint.2",
        &checkpoint,
        Depth::Batches,
        expect![[r#"
            file: recovery-point-checkpoint.2 kind: recovery point checkpoint
            shard: 2 generation: 9 partitions: 1
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 logStart: 1 flushedEnd: 20 segment: 10 position: 4096
        "#]],
    );
    checkpoint[30] ^= 1;
    shown(
        "recovery-point-checkpoint.2",
        &checkpoint,
        Depth::Batches,
        expect![[r#"
        file: recovery-point-checkpoint.2 kind: recovery point checkpoint
        problem position: 0 reason: CRC-32 is 0x49c50422, the file says 0x360c9fb1
    "#]],
    );
    let mark = CleanStop { generations: BTreeMap::from([(ShardId(2), generation)]) }.encode();
    shown(
        "clean-stop",
        &mark,
        Depth::Batches,
        expect![[r#"
        file: clean-stop kind: clean stop
        shard: 2 generation: 9
    "#]],
    );
    shown(
        "leader-epoch-checkpoint",
        b"0\n2\n0 1\n1 20\n",
        Depth::Batches,
        expect![[r#"
        file: leader-epoch-checkpoint kind: leader epoch checkpoint
        epoch: 0 startOffset: 1
        epoch: 1 startOffset: 20
    "#]],
    );
    let owner = b"version: 0\ntopic_id: 00000000-0000-0000-0000-00000000000a\n";
    shown(
        "partition.metadata",
        owner,
        Depth::Batches,
        expect![[r#"
            file: partition.metadata kind: partition metadata
            topicId: AAAAAAAAAAAAAAAAAAAACg
        "#]],
    );
    let mut checksums = SegmentChecksums::new(SegmentId { partition: id, base_offset: offset(4711) });
    checksums.observe(&[7; 61], 40_000);
    let mut transactional = [8; 61];
    transactional[22] |= 0x10; // Of the attributes, the bit of a transaction's batch.
    checksums.observe(&transactional, 100);
    shown(
        "00000000000000004711.checksums",
        &checksums.encode(),
        Depth::Batches,
        expect![[r#"
            file: 00000000000000004711.checksums kind: checksums startingOffset: 4711
            topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 baseOffset: 4711 segmentSize: 40100 hasTransactions: true extents: 2
            | position: 0 crc: 0xc133bfce
            | position: 40000 crc: 0x8eb7026a
        "#]],
    );
    shown(
        "00000000000000004711.checksums",
        &checksums.encode()[1..],
        Depth::Batches,
        expect![[r#"
        file: 00000000000000004711.checksums kind: checksums startingOffset: 4711
        problem position: 0 reason: the file does not begin as checksums of version 1 or 2
    "#]],
    );
    let aborted = AbortedTransaction {
        first_offset: offset(4000),
        producer: ProducerId(9),
        last_offset: offset(4800),
        last_stable_offset: offset(4790),
    };
    let index = TransactionIndex { aborted: vec![aborted], first_open: None };
    shown(
        "00000000000000004711.txnindex",
        &index.encode(&checksums.segment(), checksums.end()),
        Depth::Batches,
        expect![[r#"
            file: 00000000000000004711.txnindex kind: transaction index startingOffset: 4711
            producerId: 9 firstOffset: 4000 lastOffset: 4800 lastStableOffset: 4790
            end entries: 1 firstOpenOffset: none
        "#]],
    );
    let snapshot = Producers::new().encode_snapshot();
    shown(
        "00000000000000004711.snapshot",
        &snapshot,
        Depth::Batches,
        expect![[r#"
        file: 00000000000000004711.snapshot kind: producer snapshot startingOffset: 4711
        end producers: 0 earlierBatches: 0
    "#]],
    );
    let mut writer = FinalStateWriter::default();
    let state = final_state::PartitionState {
        active: offset(10),
        log_end: offset(20),
        carry: vec![7; 30],
        ..Default::default()
    };
    assert!(writer.add(id, &state));
    shown(
        "final-state.2",
        &writer.finish(),
        Depth::Batches,
        expect![[r#"
            file: final-state.2 kind: final state
            partitions: 1
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 segment: 10 logEnd: 20 firstTimestamp: none offsetIndexSize: 0 timeIndexSize: 0 checksumsSize: 0 producersSize: 0 epochsSize: 0 transactionsSize: 0 lastBlockSize: 30 filesChecksum: none
        "#]],
    );
    shown(
        "thesis.tex",
        b"",
        Depth::Batches,
        expect![[r#"
        file: thesis.tex
        problem position: 0 reason: not a file of a data directory, by its name
    "#]],
    );
}

#[test]
fn a_journal_is_shown_block_by_block() {
    let mut file = journal_file();
    shown(
        "00000000.journal",
        &file,
        Depth::Batches,
        expect![[r#"
            file: 00000000.journal kind: commit journal
            position: 0 sequence: 20 shard: 2 fileEpoch: 7 flushed: 20 needed: 9 size: 4096 version: 4 entries: 2 isvalid: true
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: bytes segment: 100 segmentPosition: 8192 logEnd: 102 size: 198 crc: 3522402485 isvalid: true
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: closed segment: 100 segmentSize: 9000 nextSegment: 103
            position: 4096 sequence: 21 shard: 2 fileEpoch: 7 flushed: 21 needed: 9 size: 4096 version: 4 entries: 6 isvalid: true
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: log start logStart: 90 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: deleted leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: replaced from: 20 to: 100 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: cutting segment: 100 segmentPosition: 8192 logEnd: 120 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: cut segment: 100 segmentPosition: 8192 logEnd: 120 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: flushed segment: 100 segmentPosition: 8192 logEnd: 120 leaderEpoch: 6
            end blocks: 2 entries: 8 staleBlocks: 1 staleBytes: 4096 emptyBytes: 4096 position: 16384
        "#]],
    );
    shown(
        "00000000.journal",
        &file,
        Depth::Records,
        expect![[r#"
            file: 00000000.journal kind: commit journal
            position: 0 sequence: 20 shard: 2 fileEpoch: 7 flushed: 20 needed: 9 size: 4096 version: 4 entries: 2 isvalid: true
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: bytes segment: 100 segmentPosition: 8192 logEnd: 102 size: 198 crc: 3522402485 isvalid: true
            baseOffset: 100 lastOffset: 101 count: 2 baseSequence: 40 lastSequence: 41 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: 3 isTransactional: false isControl: false deleteHorizonMs: none position: 184 CreateTime: 1000 size: 95 magic: 2 compresscodec: none crc: 3405091893 isvalid: true
            | offset: 100 CreateTime: 1000 keySize: 1 valueSize: 3 sequence: 40 headers: {} key: "k" payload: "one"
            | offset: 101 CreateTime: 1000 keySize: 1 valueSize: 15 sequence: 41 headers: {} key: "k" payload: "two\n| offset: 9"
            | position: 279 partOfBatch: 103
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: closed segment: 100 segmentSize: 9000 nextSegment: 103
            position: 4096 sequence: 21 shard: 2 fileEpoch: 7 flushed: 21 needed: 9 size: 4096 version: 4 entries: 6 isvalid: true
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: log start logStart: 90 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: deleted leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: replaced from: 20 to: 100 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: cutting segment: 100 segmentPosition: 8192 logEnd: 120 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: cut segment: 100 segmentPosition: 8192 logEnd: 120 leaderEpoch: 6
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: flushed segment: 100 segmentPosition: 8192 logEnd: 120 leaderEpoch: 6
            end blocks: 2 entries: 8 staleBlocks: 1 staleBytes: 4096 emptyBytes: 4096 position: 16384
        "#]],
    );
    // Bytes of an entry, and the header of the next block.
    file[HEADER_SIZE + 2 * ENTRY_SIZE + 10] ^= 1;
    file[4096 + 41] ^= 1;
    shown(
        "00000000.journal",
        &file,
        Depth::Records,
        expect![[r#"
            file: 00000000.journal kind: commit journal
            position: 0 sequence: 20 shard: 2 fileEpoch: 7 flushed: 20 needed: 9 size: 4096 version: 4 entries: 2 isvalid: false
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: bytes segment: 100 segmentPosition: 8192 logEnd: 102 size: 198 crc: 3522402485 isvalid: false
            problem position: 184 reason: the bytes of the entry are not as its CRC-32 says
            | topicId: AAAAAAAAAAAAAAAAAAAACg partition: 3 kind: closed segment: 100 segmentSize: 9000 nextSegment: 103
            problem position: 4096 reason: CRC-32 of header and table is 0x0ecbae66, the block says 0x8653cdd5
            end blocks: 1 entries: 2 staleBlocks: 1 staleBytes: 4096 emptyBytes: 4096 position: 16384
        "#]],
    );
}

#[test]
fn any_bytes_under_any_name_are_shown() {
    let names = [SEGMENT, "00000000000000000100.index", "00000000000000000100.timeindex"];
    let others = ["00000000000000000100.snapshot", "recovery-point-checkpoint.0", "clean-stop"];
    let more = ["leader-epoch-checkpoint", "partition.metadata", "00000000.journal", "final-state.0"];
    let mut seed = 1u32;
    let mut noise = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    for name in names.iter().chain(&others).chain(&more) {
        for size in [0, 1, 7, 61, 5000] {
            let mut bytes: Vec<u8> = (0..size).map(|_| noise()).collect();
            dumped(name, &bytes, Depth::Records, false);
            // As the metadata log, if it is a segment's name.
            bytes.splice(0..size.min(4), log_entry::MAGIC.to_le_bytes());
            dumped(name, &bytes, Depth::Records, true);
        }
    }
}

fn shown(name: &str, bytes: &[u8], depth: Depth, expected: Expect) {
    let (text, _) = dumped(name, bytes, depth, false);
    expected.assert_eq(&text);
    let (lines, _) = dumped(name, bytes, depth, true);
    for line in lines.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("each line is an object");
    }
}

fn dumped(name: &str, bytes: &[u8], depth: Depth, json: bool) -> (String, u64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).expect("it can be written");
    let mut printer = Printer::new(Vec::new(), json);
    dump(&path, depth, &mut printer).expect("writing to memory does not fail");
    let problem_count = printer.problem_count;
    let text = String::from_utf8(printer.finish().expect("memory")).expect("text");
    (text.replace(&format!("{}/", directory.path().display()), ""), problem_count)
}

/// Two batches from offset 100: plain with a producer, and compressed with headers.
fn segment() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut payload = Vec::new();
    for (offset_delta, value) in [(0, &b"one"[..]), (1, b"two\n| offset: 9")] {
        let record = NewRecord { offset_delta, key: Some(b"k"), value: Some(value), ..NewRecord::default() };
        write_record(&record, &mut payload);
    }
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count: 2,
        base_timestamp: Timestamp(1000),
        max_timestamp: Timestamp(1000),
        producer: Some((ProducerId(7), ProducerEpoch(1), Sequence(40))),
    };
    write_batch(&header, &payload, &mut bytes);
    assign_offset(&mut bytes, offset(100), LeaderEpoch(3));

    let second = bytes.len();
    let headers = [Header { key: b"lang", value: Some(b"en") }, Header { key: b"none", value: None }];
    let record =
        NewRecord { timestamp_delta: 5, key: None, value: None, headers: &headers, ..NewRecord::default() };
    payload.clear();
    write_record(&record, &mut payload);
    let mut packed = Vec::new();
    compress(Compression::Snappy, &payload, &mut packed);
    let header = BatchHeader {
        compression: Compression::Snappy,
        record_count: 1,
        max_timestamp: Timestamp(1005),
        producer: None,
        ..header
    };
    write_batch(&header, &packed, &mut bytes);
    assign_offset(&mut bytes[second..], offset(102), LeaderEpoch(3));
    bytes
}

/// A block with a range of bytes, whose last batch goes on elsewhere, one of changes, one that an earlier
/// use of the file has left, and nothing.
fn journal_file() -> Vec<u8> {
    let id = TopicPartition { topic: topic(), partition: PartitionIndex::from_wire(3).expect("small") };
    let segment = segment();
    let mut file = vec![0; block_size(2, segment.len() - 1)];
    let mut writer = BlockWriter::new(&mut file, 2);
    let place = Place { segment: offset(100), file_position: 8192 };
    writer.bytes(id, place, offset(102), [&segment[..segment.len() - 1]].into_iter());
    writer.closed(id, offset(100), 9000, offset(103));
    writer.finish(&journal_header(0, 7, 20));
    let epoch = LeaderEpoch(6);
    let changes = [
        Change::LogStart { start: offset(90), epoch },
        Change::Deleted { epoch },
        Change::Replaced { from: offset(20), to: offset(100), epoch },
        Change::Cutting { place, end: offset(120), epoch },
        Change::Cut { place, end: offset(120), epoch },
        Change::Flushed { place, end: offset(120), epoch },
    ];
    let mut block = vec![0; block_size(changes.len(), 0)];
    let mut writer = BlockWriter::new(&mut block, changes.len());
    changes.iter().for_each(|change| writer.change(&Entry { partition: id, change: *change }));
    writer.finish(&journal_header(4096, 7, 21));
    file.extend(&block);
    let mut left = vec![0; block_size(0, 0)];
    BlockWriter::new(&mut left, 0).finish(&journal_header(8192, 6, 12));
    file.extend(&left);
    file.extend([0; 4096]);
    file
}

fn journal_header(position: u64, epoch: u64, sequence: u64) -> BlockHeader {
    let (sequence, epoch) = (BlockSequence(sequence), FileEpoch(epoch));
    let (flushed, needed) = (sequence, BlockSequence(9));
    BlockHeader { shard: ShardId(2), file_size: 0, epoch, position, sequence, flushed, needed }
}

fn metadata_log() -> Vec<u8> {
    let replica =
        Replica { node: NodeId(1), owner: ShardId(0), ownership_epoch: OwnershipEpoch(0), directory: None };
    let id = TopicPartition { topic: topic(), partition: PartitionIndex::from_wire(0).expect("small") };
    let created = [
        Record::TopicCreated { topic: topic(), name: "orders".to_string() },
        Record::PartitionCreated { id, state: PartitionState::new(vec![replica]) },
    ];
    let changed = [Record::TopicConfigSet {
        topic: topic(),
        key: "retention.ms".to_string(),
        value: Some("1\x1b[2J".to_string()),
    }];
    let mut bytes = encode_entry(EntrySequence(1), &created).expect("small");
    bytes.extend(encode_entry(EntrySequence(2), &changed).expect("small"));
    bytes
}

fn topic() -> TopicId {
    TopicId(Uuid::from_u128(10))
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}
