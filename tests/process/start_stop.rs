//! Starting, being refused to start, stopping.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use odradek_test_harness::kafka_protocol::messages::ProduceRequest;
use odradek_test_harness::{Batch, Broker, Client, Connection, Options, Routing, binary};

use crate::now_ms;

#[test]
fn ready_line_says_address_cores_and_directory() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        broker.stop();
        let ready = broker.start_again();
        let directory = broker.data_dir();
        assert_eq!(ready, format!("odradek ready: {}, 2 cores, {}", broker.bootstrap(), directory.display()));
    }
}

#[test]
fn second_broker_on_a_directory_is_refused() {
    let broker = Broker::start(Routing::Node);
    let (status, said) = broker.start_other(&broker.data_dir(), broker.spare_port());
    assert!(!status.success());
    assert!(said.contains(&broker.data_dir().display().to_string()), "it names the directory: {said}");
    // The first one goes on.
    Client::connect(&broker).create_topic("still-here", 1, &[]);
}

#[test]
fn port_in_use_is_refused() {
    for routing in Routing::BOTH {
        let broker = Broker::start(routing);
        let (status, said) = broker.start_other(&broker.scratch().join("other"), broker.port());
        assert!(!status.success());
        assert!(said.contains(&format!("{} is in use", broker.bootstrap())), "it names the port: {said}");
    }
}

#[test]
fn a_largest_request_that_memory_cannot_hold_is_refused() {
    let mut broker = Broker::start_with(Options::new(Routing::Node).memory("128MiB"));
    broker.stop();
    broker.reconfigure(|options| options.set("socket.request.max.bytes", "104857600"));
    let (status, said) = broker.start_other(&broker.scratch().join("other"), broker.spare_port());
    assert!(!status.success());
    assert!(said.contains("lower it, raise --memory to"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
}

#[test]
fn stop_is_clean_and_quick_and_the_next_start_scans_nothing() {
    const STOP_TIME_MAX: Duration = Duration::from_secs(10);
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        let mut client = Client::connect(&broker);
        client.create_topic("kept", 3, &[]);
        for partition in 0..3 {
            client.produce("kept", partition, &Batch::of(&["one", "two"], now_ms()));
        }
        // The client stays connected: an idle connection does not hold up the stop.
        let start = Instant::now();
        broker.stop();
        assert!(start.elapsed() < STOP_TIME_MAX, "stopping took {:?}", start.elapsed());
        assert!(broker.log().contains("stopped cleanly"));
        let said_before = broker.log().len();
        broker.start_again();
        let said = broker.log()[said_before..].to_string();
        assert!(said.contains("the last stop was clean: nothing is scanned"), "{said}");
        let mut client = Client::connect(&broker);
        for partition in 0..3 {
            let values: Vec<_> = client.read_all("kept", partition).into_iter().map(|r| r.value).collect();
            assert_eq!(values, ["one", "two"]);
        }
    }
}

#[test]
fn stop_under_load_keeps_what_was_acknowledged() {
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        Client::connect(&broker).create_topic("load", 2, &[]);
        let mut client = Client::connect(&broker);
        let writer = std::thread::spawn(move || {
            let mut acknowledged = Vec::new();
            let leader = client.to_leader("load", 1);
            for number in 0.. {
                let value = format!("value {number}");
                let request = Client::produce_request("load", 1, Batch::of(&[&value], now_ms()).bytes());
                let Ok(response) = leader.try_call(Client::PRODUCE_VERSION, &request) else { break };
                let answer = Client::partition_answer(&response);
                if answer.error_code != 0 {
                    break;
                }
                acknowledged.push((answer.base_offset, value));
            }
            acknowledged
        });
        // Some load, seen from outside.
        let mut watcher = Client::connect(&broker);
        odradek_test_harness::wait_for("records", || {
            (watcher.list_offset("load", 1, -1) >= 20).then_some(())
        });
        broker.stop();
        let acknowledged = writer.join().expect("the writer ends with its connection");
        broker.start_again();
        let read = Client::connect(&broker).read_all("load", 1);
        for (offset, value) in acknowledged {
            assert_eq!(read[offset as usize].value, value.as_bytes(), "offset {offset}");
        }
    }
}

/// Clients that always have sixteen requests under way, of one record each. Behind the signal none is taken
/// from a socket any more; each that was taken is answered, whatever else was sent; and it is over soon.
#[test]
fn stop_under_pipelined_load_answers_what_it_took_and_takes_no_more() {
    const IN_FLIGHT: usize = 16;
    /// Less than is waited for clients that do not go.
    const STOP_TIME_MAX: Duration = Duration::from_millis(4_800);
    for routing in Routing::BOTH {
        let mut broker = Broker::start(routing);
        Client::connect(&broker).create_topic("load", 4, &[]);
        let writers: Vec<_> = (0..4)
            .map(|partition| {
                let mut client = Client::connect(&broker);
                std::thread::spawn(move || {
                    let leader = client.to_leader("load", partition);
                    let send = |leader: &mut Connection, number: usize| {
                        let batch = Batch::of(&[format!("value {number}")], now_ms()).bytes();
                        let request = Client::produce_request("load", partition, batch);
                        leader.send(Client::PRODUCE_VERSION, &request).is_ok()
                    };
                    (0..IN_FLIGHT).for_each(|number| assert!(send(leader, number)));
                    let mut acknowledged = 0;
                    while let Ok(response) = leader.receive::<ProduceRequest>(Client::PRODUCE_VERSION) {
                        assert_eq!(Client::partition_answer(&response).error_code, 0);
                        acknowledged += 1;
                        send(leader, acknowledged + IN_FLIGHT); // In vain, once it has ended.
                    }
                    acknowledged
                })
            })
            .collect();
        let mut watcher = Client::connect(&broker);
        odradek_test_harness::wait_for("records", || {
            (0..4).all(|partition| watcher.list_offset("load", partition, -1) >= 100).then_some(())
        });
        let start = Instant::now();
        broker.stop();
        assert!(start.elapsed() < STOP_TIME_MAX, "stopping took {:?}", start.elapsed());
        let acknowledged: Vec<usize> =
            writers.into_iter().map(|writer| writer.join().expect("it ends")).collect();
        broker.start_again();
        let mut client = Client::connect(&broker);
        let kept: Vec<usize> = (0..4).map(|partition| client.read_all("load", partition).len()).collect();
        assert_eq!(kept, acknowledged, "what was taken was answered");
    }
}

#[test]
fn topics_and_their_settings_survive_a_restart() {
    for routing in Routing::BOTH {
        for killed in [false, true] {
            let mut broker = Broker::start_with(Options::new(routing));
            let mut client = Client::connect(&broker);
            client.create_topic("first", 4, &[("max.message.bytes", "5000")]);
            client.create_topic("second", 1, &[]);
            let before = client.metadata(&["first", "second"]);
            if killed {
                broker.kill()
            } else {
                broker.stop()
            }
            broker.start_again();
            let mut client = Client::connect(&broker);
            let after = client.metadata(&["first", "second"]);
            assert_eq!(before.cluster_id, after.cluster_id);
            assert_eq!(before.brokers, after.brokers);
            assert_eq!(before.topics, after.topics, "ids, partitions, leaders and epochs");
            let too_large = Batch::of(&[vec![0; 6000]], now_ms()).bytes();
            let refused = client.produce_bytes("first", 0, too_large);
            assert_eq!(refused, Err(odradek_test_harness::kafka_protocol::ResponseError::MessageTooLarge));
        }
    }
}

/// SIGINT is a clean stop too. What is logged on the way is in the format that was asked for, wherever it
/// goes.
#[test]
fn sigint_stops_cleanly_and_every_line_of_the_log_is_in_its_format() {
    for format in ["json", "human"] {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory below target");
        let mut broker = Command::new(binary())
            .args(["start", "--listen", "127.0.0.1:0", "--admin-listen", "none", "--cores", "1"])
            .args(["--memory", "512MiB", "--log-format", format, "--data-dir"])
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be run");
        let mut ready = String::new();
        let stdout = broker.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("it is text");
        assert!(ready.starts_with("odradek ready: "), "{ready}");
        // SAFETY: kill takes no pointers; the process is our child and was not waited for.
        unsafe { libc::kill(broker.id() as libc::pid_t, libc::SIGINT) };
        let mut log = String::new();
        broker.stderr.take().expect("it is piped").read_to_string(&mut log).expect("it is text");
        assert!(broker.wait().expect("it is our child").success(), "{log}");
        assert!(log.contains("SIGINT"), "it says why it stops: {log}");
        assert!(log.contains("stopped cleanly"), "{log}");
        for line in log.lines() {
            assert_eq!(is_log_object(line), format == "json", "{format}: {line}");
        }
    }
}

/// An object on one line, with the fields that every entry has.
fn is_log_object(line: &str) -> bool {
    let fields = ["\"timestamp\":\"", "\"level\":\"", "\"message\":\"", "\"target\":\""];
    line.starts_with('{') && line.ends_with('}') && fields.iter().all(|field| line.contains(field))
}

/// The disk that the log goes to is full, say: lines are lost, and nothing else.
#[test]
fn log_that_cannot_be_written_does_not_end_the_broker() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory below target");
    let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut broker = Command::new(binary())
        .args(["start", "--listen", "127.0.0.1:0", "--admin-listen", "none", "--cores", "1"])
        .args(["--memory", "512MiB", "--data-dir"])
        .arg(directory.path().join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .expect("it can be run");
    let mut ready = String::new();
    BufReader::new(broker.stdout.take().expect("it is piped")).read_line(&mut ready).expect("it is text");
    assert!(ready.starts_with("odradek ready: "), "{ready}");
    // SAFETY: kill takes no pointers; the process is our child and was not waited for.
    unsafe { libc::kill(broker.id() as libc::pid_t, libc::SIGTERM) };
    assert!(broker.wait().expect("it is our child").success());
}
