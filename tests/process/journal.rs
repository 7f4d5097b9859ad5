//! The commit journal under a real broker: what only it holds survives, what is damaged in it is told
//! from what was never acknowledged, and it goes round.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use odradek::log::journal::block::{BlockView, Change};
use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{Batch, BatchProducer, Broker, Client, Options, Routing, wait_for};

use crate::now_ms;

const MAGIC: &[u8] = b"ODRKJRNL";
pub const DISK_BLOCK: usize = 4096;

#[test]
fn what_only_the_journal_holds_survives_a_kill() {
    let mut broker = start();
    let mut client = Client::connect(&broker);
    client.create_topic("small", 3, &[]);
    let producer = client.init_producer();
    let batch = |sequence| Batch::of(&["a", "b"], now_ms()).by(BatchProducer { sequence, ..producer });
    for number in 0..20 {
        assert_eq!(client.produce("small", 1, &batch(number * 2)), i64::from(number) * 2);
    }
    let before = client.read_all("small", 1);
    assert_eq!(before.len(), 40);
    broker.kill();
    let segment = broker.data_dir().join("small-1/00000000000000000000.log");
    let bytes = std::fs::read(&segment).expect("the segment is preallocated");
    assert!(bytes.iter().all(|byte| *byte == 0), "nothing has been written out yet");

    broker.start_again();
    let mut client = Client::connect(&broker);
    assert_eq!(client.read_all("small", 1), before);
    assert_eq!(client.produce("small", 1, &batch(38)), 38, "a retry gets its first offset");
    assert_eq!(client.produce("small", 1, &batch(40)), 40);
    broker.stop();
    broker.start_again();
    let mut client = Client::connect(&broker);
    assert_eq!(client.read_all("small", 1).len(), 42);
}

#[test]
fn journal_goes_round_under_many_small_batches_and_rolls() {
    let mut broker = start();
    let mut client = Client::connect(&broker);
    client.create_topic("round", 4, &[("segment.bytes", "1000000")]);
    let mut sent = [0i64; 4];
    for round in 0..4 {
        // 12 MiB of journal, 5 MiB a round and partition.
        for number in 0..250 {
            for partition in 0..4 {
                let value = vec![b'a' + (number % 20) as u8; 5000];
                let offset = client.produce("round", partition, &Batch::of(&[value], now_ms()));
                assert_eq!(offset, sent[partition as usize]);
                sent[partition as usize] += 1;
            }
        }
        if round % 2 == 0 {
            broker.kill();
        } else {
            broker.stop();
        }
        broker.start_again();
        client = Client::connect(&broker);
        for partition in 0..4 {
            let read = client.read_all("round", partition);
            assert_eq!(read.len() as i64, sent[partition as usize]);
            for (offset, record) in (0..).zip(&read) {
                assert_eq!(record.offset, offset);
                assert_eq!(record.value, vec![b'a' + (offset % 250 % 20) as u8; 5000]);
            }
        }
    }
}

#[test]
fn torn_block_at_the_end_was_never_acknowledged() {
    let mut broker = start();
    let mut client = Client::connect(&broker);
    client.create_topic("torn", 1, &[]);
    for _ in 0..10 {
        client.produce("torn", 0, &Batch::of(&["kept"], now_ms()));
    }
    broker.kill();
    let (file, last) = blocks(&broker).pop().expect("it has blocks");
    let bytes = std::fs::read(&file).expect("the journal can be read");
    let mut torn = bytes[last..last + DISK_BLOCK].to_vec();
    torn[40..48].fill(0xff); // As if the next block had reached the disk in part.
    write(&file, last + DISK_BLOCK, &torn);
    broker.start_again();
    let mut client = Client::connect(&broker);
    assert_eq!(client.read_all("torn", 0).len(), 10);
    assert_eq!(client.produce("torn", 0, &Batch::of(&["next"], now_ms())), 10);
}

#[test]
fn damaged_bytes_take_their_partition_offline_and_no_other() {
    let mut broker = start();
    let mut client = Client::connect(&broker);
    client.create_topic("damaged", 2, &[]);
    for number in 0..10 {
        client.produce("damaged", 0, &Batch::of(&[format!("first {number}")], now_ms()));
        client.produce("damaged", 1, &Batch::of(&[format!("other {number}")], now_ms()));
    }
    broker.kill();
    let (file, at) = blocks(&broker)
        .into_iter()
        .find(|(file, at)| {
            let bytes = std::fs::read(file).expect("the journal can be read");
            bytes[*at..at + DISK_BLOCK].windows(7).any(|text| text == b"first 3")
        })
        .expect("some block holds it");
    let bytes = std::fs::read(&file).expect("the journal can be read");
    let inside = bytes[at..].windows(7).position(|text| text == b"first 3").expect("just found");
    write(&file, at + inside, b"FIRST");
    for _ in 0..2 {
        broker.start_again();
        let mut client = Client::connect(&broker);
        let refused = client.produce_bytes("damaged", 0, Batch::of(&["x"], now_ms()).bytes());
        assert_eq!(refused, Err(ResponseError::KafkaStorageError));
        assert!(client.read_all("damaged", 1).len() >= 10, "the other one is served");
        client.produce("damaged", 1, &Batch::of(&["x"], now_ms()));
        broker.kill();
        assert!(broker.data_dir().join("journal.0.damaged.1").is_dir(), "what is damaged is kept");
    }
}

#[test]
fn lost_block_takes_its_core_s_partitions_offline() {
    let mut broker = start();
    let mut client = Client::connect(&broker);
    client.create_topic("lost", 1, &[]);
    for _ in 0..10 {
        client.produce("lost", 0, &Batch::of(&["x"], now_ms()));
    }
    broker.kill();
    let (file, at) = blocks(&broker)[3].clone();
    write(&file, at, &[0; DISK_BLOCK]);
    for _ in 0..2 {
        broker.start_again();
        let mut client = Client::connect(&broker);
        let refused = client.produce_bytes("lost", 0, Batch::of(&["x"], now_ms()).bytes());
        assert_eq!(refused, Err(ResponseError::KafkaStorageError));
        broker.kill();
    }
}

/// The batches went straight to their segment, and no checkpoint has them: the journal says that they were
/// flushed.
#[test]
fn damage_in_large_batches_that_were_flushed_takes_their_partition_offline_and_no_other() {
    let mut broker = start();
    let mut client = Client::connect(&broker);
    client.create_topic("large", 2, &[]);
    let large = |number: u8| Batch::of(&[vec![b'a' + number; 60_000]], now_ms());
    for number in 0..3 {
        client.produce("large", 0, &large(number));
        client.produce("large", 1, &large(number));
    }
    wait_for("the records of the flushes", || (recorded_ends(&broker) >= 2).then_some(()));
    broker.kill();
    let segment = broker.data_dir().join("large-0/00000000000000000000.log");
    write(&segment, large(0).bytes().len() + 1000, b"FLIPPED");
    for _ in 0..2 {
        broker.start_again();
        let mut client = Client::connect(&broker);
        let refused = client.produce_bytes("large", 0, Batch::of(&["x"], now_ms()).bytes());
        assert_eq!(refused, Err(ResponseError::KafkaStorageError));
        assert!(client.read_all("large", 1).len() >= 3, "the other one is served");
        client.produce("large", 1, &Batch::of(&["x"], now_ms()));
        assert!(broker.log().contains("below the recovery point: CRC-32C is"));
        broker.kill();
    }
}

/// Partitions of which the journal says that three batches of one record were flushed.
fn recorded_ends(broker: &Broker) -> usize {
    let mut found = std::collections::BTreeSet::new();
    for (file, at) in blocks(broker) {
        let bytes = std::fs::read(file).expect("the journal can be read");
        let Ok(view) = BlockView::decode(&bytes[at..], at as u64) else { continue };
        let recorded = view.entries().filter(|(entry, _)| match entry.change {
            Change::Flushed { end, .. } => end.get() == 3,
            _ => false,
        });
        found.extend(recorded.map(|(entry, _)| entry.partition));
    }
    found.len()
}

/// A broker whose journal has taken its first batch: until its first file is made, everything goes to
/// the segments.
fn start() -> Broker {
    let broker = Broker::start_with(Options::new(Routing::Node).cores(1).small_journal());
    let mut client = Client::connect(&broker);
    client.create_topic("first", 1, &[]);
    wait_for("the journal", || {
        client.produce("first", 0, &Batch::of(&["x"], now_ms()));
        (!blocks(&broker).is_empty()).then_some(())
    });
    broker
}

/// File and position of every disk block that begins a block of the journal, in their order.
pub fn blocks(broker: &Broker) -> Vec<(PathBuf, usize)> {
    let directory = broker.data_dir().join("journal.0");
    let Ok(entries) = std::fs::read_dir(&directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "journal"));
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file).expect("the journal can be read");
        let starts = (0..bytes.len()).step_by(DISK_BLOCK).filter(|at| bytes[*at..].starts_with(MAGIC));
        found.extend(starts.map(|at| (file.clone(), at)));
    }
    found
}

pub fn write(file: &PathBuf, position: usize, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(file).expect("the journal can be written");
    file.write_all_at(bytes, position as u64).expect("the journal can be written");
}
