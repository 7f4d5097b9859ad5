//! Several log directories: partitions spread over them, each directory failing, missing and coming back
//! alone, and no partition ever made anew elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::CreateTopicsRequest;
use odradek_test_harness::kafka_protocol::messages::create_topics_request::CreatableTopic;
use odradek_test_harness::{Batch, Broker, Client, Options, Routing, SmallDisk, topic_name, wait_for};

use crate::files::log;
use crate::now_ms;

const PARTITIONS: i32 = 8;

#[test]
fn partitions_are_spread_and_survive_a_stop_and_a_kill() {
    for journal in [true, false] {
        let options = Options::new(Routing::Node).other_dirs(&[Path::new("second"), Path::new("third")]);
        let options = if journal { options.small_journal() } else { options.without_journal() };
        let mut broker = Broker::start_with(options);
        let mut client = Client::connect(&broker);
        client.create_topic("spread", PARTITIONS, &[]);
        let dirs = ["data", "second", "third"].map(|name| broker.other_dir(name));
        let counts = dirs.each_ref().map(|dir| partitions_in(dir, "spread").len());
        assert_eq!(counts, [3, 3, 2]);
        let mut stored = 0;
        for is_clean in [true, false, false, true] {
            for partition in 0..PARTITIONS {
                assert_eq!(client.produce("spread", partition, &batch("one")), stored);
                assert_eq!(client.produce("spread", partition, &batch("two")), stored + 1);
            }
            stored += 2;
            if is_clean {
                broker.stop()
            } else {
                broker.kill()
            }
            for dir in &dirs {
                assert_eq!(dir.join("clean-stop").exists(), is_clean, "{}", dir.display());
            }
            if is_clean {
                let verified = log("verify", &[&dirs[0], &dirs[1], &dirs[2]]);
                assert!(verified.status.success(), "{verified:?}");
            }
            // Another number of cores: partitions change their owners and stay in their directories.
            let cores = 1 + usize::from(stored % 4 == 0);
            broker.reconfigure(|options| options.cores(cores));
            broker.start_again();
            client = Client::connect(&broker);
            for partition in 0..PARTITIONS {
                assert_eq!(client.read_all("spread", partition).len() as i64, stored);
            }
            assert_eq!(dirs.each_ref().map(|dir| partitions_in(dir, "spread").len()), [3, 3, 2]);
        }
        let (_, text) = broker.admin_get("/metrics");
        let second = format!("dir=\"{}\"}} ", dirs[1].display());
        let partitions = text.lines().filter(|line| line.starts_with("odradek_log_dir_partitions{"));
        let values = partitions.filter_map(|line| line.split_once(&second)?.1.parse::<f64>().ok());
        assert_eq!(values.sum::<f64>(), 3.0, "{text}");
        broker.stop();
    }
}

/// A disk that fails under load: its partitions are refused on all cores, the others are served, also by a
/// start without it; once it is mounted again all is there.
#[test]
fn failed_disk_takes_its_partitions_offline_and_no_others() {
    let Some(disk) = SmallDisk::mount(192 << 20) else { return };
    let second = disk.path().join("data");
    let options = Options::new(Routing::Node).other_dirs(&[&second]).small_journal();
    let mut broker = Broker::start_with(options);
    let mut client = Client::connect(&broker);
    client.create_topic("disks", PARTITIONS, &[]);
    for partition in 0..PARTITIONS {
        assert_eq!(client.produce("disks", partition, &batch("flushed")), 0);
    }
    let failing = partitions_in(&second, "disks");
    assert_eq!(failing.len(), 4);
    disk.break_down();
    let first = *failing.first().expect("just counted");
    wait_for("the failure", || {
        let produced = client.produce_bytes("disks", first, batch("lost").bytes());
        (produced == Err(ResponseError::KafkaStorageError)).then_some(())
    });
    let mut stored = 1;
    check(&mut client, &failing, stored);
    stored += 1;
    for partition in &failing {
        let read = client.read_all("disks", *partition);
        assert_eq!(read[0].value, "flushed", "what was flushed is in memory, and read");
    }
    let offline = format!("log directory offline: {}: ", second.display());
    let (status, body) = broker.admin_get("/healthz");
    assert!(status == 200 && body.starts_with("ok\n") && body.contains(&offline), "{status} {body}");
    let (_, text) = broker.admin_get("/metrics");
    for shard in 0..2 {
        let line = format!("odradek_log_dir_offline{{shard=\"{shard}\",dir=\"{}\"}} 1\n", second.display());
        assert!(text.contains(&line), "{line}{text}");
    }
    // New partitions go to what is left.
    client.create_topic("later", 3, &[]);
    for partition in 0..3 {
        client.produce("later", partition, &batch("x"));
    }
    broker.stop();
    assert!(broker.data_dir().join("clean-stop").exists(), "the other one was stopped cleanly");

    // The disk answers with errors, then it is not there at all.
    for is_there in [true, false] {
        if !is_there {
            disk.unmount();
        }
        broker.start_again();
        let mut client = Client::connect(&broker);
        check(&mut client, &failing, stored);
        stored += 1;
        let refused = client.fetch("disks", first, 0).error_code;
        assert_eq!(ResponseError::try_from_code(refused), Some(ResponseError::KafkaStorageError));
        assert!(broker.admin_get("/healthz").1.contains(&offline));
        broker.stop();
    }
    assert!(!second.exists(), "nothing was made where the disk belongs");
    assert!(broker.log().contains("the log directory cannot be used"), "{}", broker.log());

    disk.mount_again();
    broker.start_again();
    let mut client = Client::connect(&broker);
    for partition in 0..PARTITIONS {
        let read = client.read_all("disks", partition);
        assert_eq!(read[0].value, "flushed");
        let wanted = if failing.contains(&partition) { 1 } else { stored };
        assert!(read.len() as i64 >= wanted, "{} of {wanted} in {partition}", read.len());
        client.produce("disks", partition, &batch("again"));
    }
    assert_eq!(broker.admin_get("/healthz"), (200, "ok\n".to_string()));
    broker.stop();
}

/// Appends one record to every partition that is not `offline`, and finds those refused.
fn check(client: &mut Client, offline: &BTreeSet<i32>, stored: i64) {
    for partition in 0..PARTITIONS {
        let produced = client.produce_bytes("disks", partition, batch("x").bytes());
        let wanted =
            if offline.contains(&partition) { Err(ResponseError::KafkaStorageError) } else { Ok(stored) };
        assert_eq!(produced, wanted, "{partition}");
    }
}

#[test]
fn missing_removed_and_moved_directories_are_known_by_their_id() {
    let mut broker = Broker::start_with(Options::new(Routing::Node).other_dirs(&[Path::new("second")]));
    let mut client = Client::connect(&broker);
    client.create_topic("moved", 4, &[]);
    (0..4).for_each(|partition| assert_eq!(client.produce("moved", partition, &batch("mine")), 0));
    let second = broker.other_dir("second");
    let there = partitions_in(&second, "moved");
    assert_eq!(there.len(), 2);
    let properties = std::fs::read_to_string(second.join("meta.properties")).expect("it has an identity");
    let id = property(&properties, "directory.id").to_owned();
    broker.stop();
    let ready = |broker: &mut Broker, offline: bool| {
        broker.start_again();
        let mut client = Client::connect(broker);
        for partition in 0..4 {
            if offline && there.contains(&partition) {
                let refused = client.produce_bytes("moved", partition, batch("other").bytes());
                assert_eq!(refused, Err(ResponseError::KafkaStorageError));
            } else {
                assert_eq!(client.read_all("moved", partition).len(), 1);
            }
        }
        broker.stop();
    };
    // Not there: nothing is made in its place, twice.
    let away = broker.other_dir("away");
    std::fs::rename(&second, &away).expect("the broker is stopped");
    for _ in 0..2 {
        ready(&mut broker, true);
        assert!(!second.exists());
    }
    // Not in the configuration any more: the log names it.
    broker.reconfigure(|options| options.other_dirs(&[]));
    ready(&mut broker, true);
    let log = broker.log();
    let line = log.lines().find(|line| line.contains("no --data-dir is this log directory"));
    assert!(line.is_some_and(|line| line.contains(&id)), "{log}");
    // Another one in its place: its partitions are still missed.
    broker.reconfigure(|options| options.other_dirs(&[Path::new("new")]));
    ready(&mut broker, true);
    assert_eq!(partitions_in(&broker.other_dir("new"), "moved").len(), 0);
    // At another path, beside that one.
    broker.reconfigure(|options| options.other_dirs(&[Path::new("new"), Path::new("away")]));
    ready(&mut broker, false);
    assert_eq!(partitions_in(&away, "moved"), there);
}

#[test]
fn a_second_directory_is_added_to_a_broker_that_had_one() {
    let mut broker = Broker::start(Routing::Node);
    let mut client = Client::connect(&broker);
    client.create_topic("old", 4, &[]);
    (0..4).for_each(|partition| assert_eq!(client.produce("old", partition, &batch("kept")), 0));
    broker.kill();
    broker.reconfigure(|options| options.other_dirs(&[Path::new("second")]));
    for round in 1..3 {
        broker.start_again();
        let mut client = Client::connect(&broker);
        if round == 1 {
            client.create_topic("new", 6, &[]);
        }
        for partition in 0..4 {
            assert_eq!(client.produce("old", partition, &batch("more")), round);
            assert_eq!(client.read_all("old", partition).len() as i64, round + 1);
        }
        assert_eq!(partitions_in(&broker.data_dir(), "old").len(), 4);
        assert_eq!(partitions_in(&broker.data_dir(), "new").len(), 1);
        assert_eq!(partitions_in(&broker.other_dir("second"), "new").len(), 5);
        broker.kill();
    }
}

#[test]
fn directories_that_do_not_belong_together_are_refused() {
    let two = |options: Options| options.other_dirs(&[Path::new("second")]);
    let mut broker = Broker::start_with(two(Options::new(Routing::Node)));
    let mut client = Client::connect(&broker);
    client.create_topic("held", 2, &[]);
    let (first, second) = (broker.data_dir(), broker.other_dir("second"));
    let refused = |broker: &mut Broker, what: &str| {
        let said = broker.start_refused();
        assert!(said.contains(what), "{said}");
    };
    let (status, said) = broker.start_other(&second, broker.spare_port());
    assert!(!status.success() && said.contains("belongs to another broker"), "{said}");
    broker.stop();
    let (status, said) = broker.start_other(&second, broker.spare_port());
    assert!(!status.success() && said.contains("has no metadata"), "{said}");

    std::os::unix::fs::symlink(&second, broker.other_dir("alias")).expect("a link");
    broker.reconfigure(|options| options.other_dirs(&[Path::new("second"), Path::new("alias")]));
    refused(&mut broker, "are the same directory");
    broker.reconfigure(|options| options.other_dirs(&[Path::new("second"), Path::new("second/inner")]));
    refused(&mut broker, "lies inside");
    // A copy of the directory with the metadata, and one of the other.
    let copy = broker.other_dir("copy");
    copy_dir(&second, &copy);
    broker.reconfigure(|options| options.other_dirs(&[Path::new("second"), Path::new("copy")]));
    refused(&mut broker, "have the same directory.id");
    // A partition in both.
    broker.reconfigure(two);
    let held = partitions_in(&second, "held").into_iter().next().expect("it has one");
    let name = format!("held-{held}");
    copy_dir(&second.join(&name), &first.join(&name));
    refused(&mut broker, &format!("{name} is in "));
    // In the other one only: it is not made anew where it was.
    std::fs::rename(second.join(&name), broker.other_dir("aside")).expect("it can be moved");
    broker.start_again();
    let mut client = Client::connect(&broker);
    let produced = client.produce_bytes("held", held, batch("x").bytes());
    assert_eq!(produced, Err(ResponseError::KafkaStorageError));
    assert!(broker.log().contains("another log directory than the metadata say"), "{}", broker.log());
    broker.stop();
    // The first disk is not mounted: no cluster is begun in its place.
    std::fs::rename(&first, broker.other_dir("first-away")).expect("it can be moved");
    refused(&mut broker, "is new, but");
    assert!(!first.exists());
}

#[test]
fn no_topic_is_created_when_all_directories_are_offline() {
    // With room for the journals beside what is left free: a full one refuses produce and tries no write.
    const SIZE: u64 = 192 << 20;
    let (Some(one), Some(two)) = (SmallDisk::mount(SIZE), SmallDisk::mount(SIZE)) else { return };
    let options = Options::new(Routing::Node).data_dir(one.path().join("data"));
    let second = two.path().join("data");
    let mut broker = Broker::start_with(options.other_dirs(&[&second]));
    let mut client = Client::connect(&broker);
    client.create_topic("both", 2, &[]);
    for disk in [&two, &one] {
        disk.break_down();
        wait_for("a failure", || {
            let produced = [0, 1].map(|at| client.produce_bytes("both", at, batch("x").bytes()).is_err());
            produced.contains(&true).then_some(())
        });
    }
    wait_for("the other failure", || {
        let produced = [0, 1].map(|at| client.produce_bytes("both", at, batch("x").bytes()).is_err());
        (produced == [true, true]).then_some(())
    });
    let topic = CreatableTopic::default()
        .with_name(topic_name("none"))
        .with_num_partitions(1)
        .with_replication_factor(1);
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![topic]);
    let code = client.bootstrap().call(5, &request).topics[0].error_code;
    assert_eq!(ResponseError::try_from_code(code), Some(ResponseError::KafkaStorageError));
    let (status, body) = broker.admin_get("/healthz");
    assert!(status == 503 && body.lines().count() == 2, "{status} {body}");
    broker.kill();
}

fn batch(value: &str) -> Batch {
    Batch::of(&[value], now_ms())
}

/// Partitions of a topic that a log directory has.
pub fn partitions_in(dir: &Path, topic: &str) -> BTreeSet<i32> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeSet::new() };
    let names = entries.map(|entry| entry.expect("it can be listed").file_name());
    let index =
        |name: std::ffi::OsString| name.to_str()?.strip_prefix(topic)?.strip_prefix('-')?.parse().ok();
    names.filter_map(index).collect()
}

fn property<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.expect("it is there")
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("it is new");
    for entry in std::fs::read_dir(from).expect("it can be listed") {
        let path: PathBuf = entry.expect("it can be listed").path();
        let copy = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy_dir(&path, &copy);
        } else {
            std::fs::copy(&path, &copy).expect("it can be copied");
        }
    }
}
