//! `kill -9`: nothing acknowledged is lost, nothing else is served, and a retry finds its batch.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, ReadRecord, Routing, wait_for,
};

use crate::now_ms;

#[test]
fn kill_under_load_loses_nothing_acknowledged() {
    let options = Routing::BOTH.into_iter().map(|routing| Options::new(routing).without_journal());
    options.for_each(kill_under_load);
}

#[test]
fn kill_under_load_loses_nothing_acknowledged_in_the_journal() {
    Routing::BOTH.into_iter().map(|routing| Options::new(routing).small_journal()).for_each(kill_under_load);
}

/// Acknowledged is written then, and a kill takes nothing of it.
#[test]
fn kill_under_load_loses_nothing_that_was_only_written() {
    let options = Options::new(Routing::Node).set("odradek.durability", "write");
    kill_under_load(options.clone().without_journal());
    kill_under_load(options.small_journal());
}

fn kill_under_load(options: Options) {
    let mut broker = Broker::start_with(options);
    Client::connect(&broker).create_topic("load", 4, &[]);
    let mut acknowledged: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut producers = [None; 4];
    for _round in 0..3 {
        let (sender, progress) = mpsc::channel();
        let writers: Vec<_> = (0..4)
            .map(|partition| {
                let mut client = Client::connect(&broker);
                let producer = producers[partition as usize].unwrap_or_else(|| client.init_producer());
                let sender = sender.clone();
                std::thread::spawn(move || write_until_killed(client, partition, producer, &sender))
            })
            .collect();
        // Killed while requests are under way, some thousand records in.
        drop(sender);
        progress.iter().take(400).for_each(drop);
        broker.kill();
        for (partition, writer) in (0..4).zip(writers) {
            let (offsets, producer) = writer.join().expect("the writer ends with its connection");
            acknowledged.entry(partition).or_default().extend(offsets);
            producers[partition as usize] = Some(producer);
        }
        broker.start_again();
    }
    let mut client = Client::connect(&broker);
    for (partition, offsets) in acknowledged {
        let read = client.read_all("load", partition);
        for (expected, record) in (0..).zip(&read) {
            assert_eq!(record.offset, expected, "offsets are dense");
            assert_eq!(record.value, value(expected), "each record once, in order, at its place");
        }
        let last = *offsets.last().expect("something was acknowledged");
        assert!(last < read.len() as i64, "offset {last} was acknowledged, {} are left", read.len());
    }
}

/// Sends batches of one to ten records until the connection ends. The value of a record is its
/// sequence, which is its offset as long as everything is stored once. Returns the acknowledged
/// offsets, and the producer with the sequence of the batch that may or may not be stored.
fn write_until_killed(
    mut client: Client,
    partition: i32,
    mut producer: BatchProducer,
    progress: &mpsc::Sender<()>,
) -> (Vec<i64>, BatchProducer) {
    let mut offsets = Vec::new();
    let leader = client.to_leader("load", partition);
    loop {
        let count = 1 + i64::from(producer.sequence) % 10;
        let first = i64::from(producer.sequence);
        let values: Vec<_> = (first..first + count).map(value).collect();
        let batch = Batch::of(&values, 1_000_000_000_000).by(producer);
        let request = Client::produce_request("load", partition, batch.bytes());
        let Ok(response) = leader.try_call(Client::PRODUCE_VERSION, &request) else {
            return (offsets, producer);
        };
        let answer = Client::partition_answer(&response);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        assert_eq!(answer.base_offset, first, "a batch keeps its place, whether or not it is a retry");
        offsets.extend(first..first + count);
        producer.sequence += count as i32;
        let _ = progress.send(()); // The test has seen enough.
    }
}

fn value(number: i64) -> Vec<u8> {
    let mut value = format!("record {number} ").into_bytes();
    value.resize(100 + number as usize % 50, b'.');
    value
}

#[test]
fn retry_after_a_kill_between_append_and_answer_gets_its_first_offset() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("once", 2, &[]);
        let producer = client.init_producer();
        let batch =
            |sequence| Batch::of(&["a", "b", "c"], now_ms()).by(BatchProducer { sequence, ..producer });
        assert_eq!(client.produce("once", 1, &batch(0)), 0);

        // Sent and never answered, as far as this client knows: it is gone before it could read.
        let unanswered = Client::produce_request("once", 1, batch(3).bytes());
        let (_, port) = client.leader("once", 1);
        Connection::open(port).send(Client::PRODUCE_VERSION, &unanswered).expect("it is accepted");
        wait_for("the append", || (client.list_offset("once", 1, -1) == 6).then_some(()));
        broker.kill();
        broker.start_again();

        let mut client = Client::connect(&broker);
        assert_eq!(client.produce("once", 1, &batch(3)), 3, "the retry gets the offset of the first try");
        assert_eq!(client.produce("once", 1, &batch(0)), 0, "and an older one its own");
        assert_eq!(client.list_offset("once", 1, -1), 6, "nothing was appended");
        let gap = client.produce_bytes("once", 1, batch(9).bytes());
        assert_eq!(gap, Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(client.produce("once", 1, &batch(6)), 6);
    }
}

#[test]
fn torn_tail_is_cut_and_everything_before_it_is_served() {
    // What a kill may leave behind the last whole batch: bytes of nothing, or a batch's first part,
    // or a whole batch with a wrong byte.
    let whole = Batch::of(&["never acknowledged"; 20], now_ms()).bytes();
    let mut damaged = whole.to_vec();
    *damaged.last_mut().expect("it has bytes") ^= 1;
    let tails = [vec![0xa5; 700], whole[..90].to_vec(), damaged];
    for tail in tails {
        let mut broker = Broker::start(Routing::Node);
        let mut client = Client::connect(&broker);
        client.create_topic("torn", 2, &[]);
        for number in 0..50 {
            client.produce("torn", 1, &Batch::of(&[value(number), value(number)], now_ms()));
        }
        let before = client.read_all("torn", 1);
        assert_eq!(before.len(), 100);
        broker.kill();
        append_after_last_batch(&segment(&broker.data_dir(), "torn-1"), &tail);
        broker.start_again();
        let mut client = Client::connect(&broker);
        assert_eq!(client.read_all("torn", 1), before);
        assert_eq!(client.list_offset("torn", 1, -1), 100);
        assert_eq!(client.produce("torn", 1, &Batch::of(&["next"], now_ms())), 100);
        let after: Vec<ReadRecord> = client.read_all("torn", 1);
        assert_eq!(after.len(), 101);
        assert_eq!(after[100].value, "next");
    }
}

/// The only segment of a partition that has never rolled.
fn segment(data_dir: &Path, partition: &str) -> PathBuf {
    let mut pending = vec![data_dir.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            if path.is_dir() {
                pending.push(path);
            } else if path.ends_with("00000000000000000000.log")
                && directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(partition))
            {
                return path;
            }
        }
    }
    panic!("no segment of {partition} below {}", data_dir.display());
}

/// The file is preallocated: its end is not the end of its batches.
fn append_after_last_batch(segment: &Path, tail: &[u8]) {
    const HEADER: usize = 12; // Base offset and length; the length counts what follows.
    let bytes = std::fs::read(segment).expect("the segment can be read");
    let mut end = 0;
    while let Some(header) = bytes.get(end..end + HEADER) {
        let length = u32::from_be_bytes(header[8..].try_into().expect("four bytes"));
        if length == 0 {
            break;
        }
        end += HEADER + length as usize;
    }
    let file = OpenOptions::new().write(true).open(segment).expect("the segment can be written");
    file.write_all_at(tail, end as u64).expect("the segment can be written");
}
