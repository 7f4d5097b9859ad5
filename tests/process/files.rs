//! `odradek log dump` and `odradek log verify` on what a broker has written: everything is shown, nothing
//! is found wrong, and one flipped bit is found with its file and byte.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use odradek_test_harness::{Batch, BatchProducer, Broker, Client, Options, Routing, binary};

use crate::now_ms;

const BATCHES: i32 = 60;
const RECORDS_PER_BATCH: i32 = 3;

#[test]
fn a_stopped_brokers_files_hold_and_a_flipped_bit_is_found() {
    let mut broker = written_to();
    let data_dir = broker.data_dir();
    let refused = log("verify", &[&data_dir]);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("belongs to another broker (process "), "{}", said(&refused));
    broker.stop();

    let verified = log("verify", &[&data_dir]);
    assert!(verified.status.success(), "{}", said(&verified));
    let records = 2 * BATCHES * RECORDS_PER_BATCH;
    let summary = format!("{records} records in {} batches", 2 * BATCHES);
    assert!(printed(&verified).contains(&summary), "{}", printed(&verified));
    assert!(printed(&verified).ends_with("stopped cleanly: 0 problems, 0 notes\n"), "{}", printed(&verified));

    let segments = files(&data_dir, &|name| name.ends_with(".log"));
    assert!(segments.len() > 4, "the segments were rolled: {segments:?}");
    let dumped = log("dump", &every_file(&data_dir));
    assert!(dumped.status.success(), "{}", said(&dumped));
    assert!(printed(&dumped).contains(" preallocated: "), "the active segments end with zeros");
    let deep = Command::new(binary()).args(["log", "dump", "--deep", "--json"]).args(&segments).output();
    let deep = deep.expect("it can be run");
    assert!(deep.status.success(), "{}", said(&deep));
    let values = printed(&deep).matches("\"payload\":\"value ").count();
    assert_eq!(values, records as usize, "each record is shown once");

    // The second batch of a closed segment: its first is told apart from it by the byte.
    let segment = data_dir.join("held-1").join("00000000000000000000.log");
    let second = {
        let bytes = std::fs::read(&segment).expect("it can be read");
        12 + u32::from_be_bytes(bytes[8..12].try_into().expect("four bytes")) as usize
    };
    flip(&segment, second + 70);
    let found = log("verify", &[&data_dir]);
    assert_eq!(found.status.code(), Some(1));
    let line = format!("held-1: problem: 00000000000000000000.log byte {second}: CRC-32C is ");
    assert!(printed(&found).contains(&line), "{}", printed(&found));
    assert!(said(&found).contains("1 problem in "), "{}", said(&found));
    let dumped = log("dump", &[&segment]);
    assert_eq!(dumped.status.code(), Some(1));
    let line = format!("problem position: {second} reason: CRC-32C is ");
    assert!(printed(&dumped).contains(&line), "{}", printed(&dumped));
}

#[test]
fn a_killed_brokers_files_hold_too() {
    let mut broker = written_to();
    broker.kill();
    let verified = log("verify", &[&broker.data_dir()]);
    assert!(verified.status.success(), "{}\n{}", printed(&verified), said(&verified));
    assert!(printed(&verified).contains("not stopped cleanly: 0 problems, "), "{}", printed(&verified));
    // Nothing was changed or left behind that a start would mind.
    broker.start_again();
    let mut client = Client::connect(&broker);
    assert_eq!(client.read_all("held", 0).len(), (BATCHES * RECORDS_PER_BATCH) as usize);
}

#[test]
fn a_killed_brokers_journal_holds_and_is_shown() {
    let mut broker = written_with(Options::new(Routing::Node).cores(1).small_journal());
    broker.kill();
    let verified = log("verify", &[&broker.data_dir()]);
    assert!(verified.status.success(), "{}\n{}", printed(&verified), said(&verified));
    let dumped = log("dump", &[&broker.data_dir().join("journal.0/00000000.journal")]);
    assert!(dumped.status.success(), "{}", said(&dumped));
    assert!(printed(&dumped).contains(" kind: bytes segment: "), "{}", printed(&dumped));
}

/// A broker with two partitions of several segments each, from an idempotent producer.
fn written_to() -> Broker {
    written_with(Options::new(Routing::Node))
}

fn written_with(options: Options) -> Broker {
    let broker = Broker::start_with(options);
    let mut client = Client::connect(&broker);
    client.create_topic("held", 2, &[("segment.bytes", "8192"), ("index.interval.bytes", "512")]);
    let producer = client.init_producer();
    for partition in 0..2 {
        for number in 0..BATCHES {
            let values: Vec<_> = (0..RECORDS_PER_BATCH).map(|n| format!("value {number} {n:0150}")).collect();
            let sequence = number * RECORDS_PER_BATCH;
            let batch = Batch::of(&values, now_ms()).by(BatchProducer { sequence, ..producer });
            client.produce("held", partition, &batch);
        }
    }
    broker
}

pub fn log(command: &str, paths: &[impl AsRef<Path>]) -> Output {
    let mut run = Command::new(binary());
    run.args(["log", command]).args(paths.iter().map(AsRef::as_ref)).stdin(Stdio::null());
    run.output().expect("it can be run")
}

/// Everything but what no command claims to know.
fn every_file(data_dir: &Path) -> Vec<PathBuf> {
    files(data_dir, &|name| {
        !(name.starts_with("odradek.")
            || name.starts_with("final-state.")
            || name == "meta.properties"
            || name.ends_with(".spare"))
    })
}

fn files(data_dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(data_dir).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(&name) {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("it can be written");
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it is text")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
