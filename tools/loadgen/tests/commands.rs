//! The three commands against a broker that misbehaves on demand.

mod fake_broker;

use clap::Parser;
use fake_broker::{FakeBroker, Mischief};
use odradek_loadgen::cluster::Leader;
use odradek_loadgen::consume::message::Isolation;
use odradek_loadgen::consume::worker::Position;
use odradek_loadgen::flags::{Cli, Command};
use odradek_loadgen::verify;

const CORRUPT_MESSAGE: i16 = 2;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const MESSAGE_TOO_LARGE: i16 = 10;

#[test]
fn verify_passes_on_an_honest_broker() {
    for flags in
        ["", "--connections 3 --threads 2", "--compression lz4", "--acks 1", "--batches-per-request 4"]
    {
        let broker = FakeBroker::start(4, &[]);
        assert!(verified(&broker, &format!("--records 20000 --batch-bytes 2000 {flags}")), "{flags}");
        assert_eq!(broker.records(), 20_000);
    }
}

#[test]
fn verify_passes_over_every_broker_version() {
    for (produce, fetch) in [(3, 4), (7, 5), (8, 7), (9, 11), (10, 12)] {
        let broker = FakeBroker::start(2, &[]);
        broker.limit(0, produce);
        broker.limit(1, fetch);
        assert!(verified(&broker, "--records 1000"), "Produce {produce}, Fetch {fetch}");
    }
}

#[test]
fn idempotent_retries_store_each_record_once() {
    for mischief in [
        vec![(7, Mischief::CutBefore)],
        vec![(7, Mischief::CutAfter)],
        vec![(7, Mischief::CutAfter), (9, Mischief::CutAfter), (11, Mischief::CutBefore)],
        vec![(7, Mischief::Refuse(NOT_LEADER_OR_FOLLOWER))],
        vec![(7, Mischief::Refuse(NOT_LEADER_OR_FOLLOWER)), (8, Mischief::CutAfter)],
    ] {
        let broker = FakeBroker::start(2, &mischief);
        assert!(verified(&broker, "--records 5000 --batch-bytes 2000 --in-flight 10"), "{mischief:?}");
        assert_eq!(broker.records(), 5000, "{mischief:?}");
    }
}

#[test]
fn verify_fails_on_each_kind_of_mischief() {
    for mischief in
        [Mischief::Lose, Mischief::Duplicate, Mischief::Alter, Mischief::Refuse(MESSAGE_TOO_LARGE)]
    {
        let broker = FakeBroker::start(2, &[(7, mischief)]);
        assert!(!verified(&broker, "--records 5000 --batch-bytes 2000"), "{mischief:?}");
    }
}

#[test]
fn rounds_of_broken_connections_add_up_in_the_state_file() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    // Round r ends at its first cut; the next one goes on.
    let broker = FakeBroker::start(3, &[(10, Mischief::CutBefore), (20, Mischief::CutAfter)]);
    for round in 0..3 {
        let flags = format!(
            "--phase produce --records 1000 --batch-bytes 2000 --stop-on-disconnect --state {}",
            state.display()
        );
        assert!(verified(&broker, &flags), "round {round}");
        assert!(verified(&broker, &format!("--phase read --state {}", state.display())), "round {round}");
    }
    assert!(broker.records() > 1000);
    // A state that claims more than was stored is found out.
    let text = std::fs::read_to_string(&state).unwrap();
    let mut claimed: verify::ledger::State = serde_json::from_str(&text).unwrap();
    let partition = &mut claimed.partitions[0];
    partition.acked.push((partition.sent_end, partition.sent_end + 5));
    partition.sent_end += 5;
    claimed.save(&state).unwrap();
    assert!(!verified(&broker, &format!("--phase read --state {}", state.display())));
}

/// Answers come in request order: a fetch that waits for news must not have another behind it.
#[test]
fn a_reader_at_the_head_does_not_wait_behind_its_own_fetch() {
    let broker = FakeBroker::start(4, &[]);
    let start = odradek_loadgen::clock::now();
    assert!(verified(&broker, "--duration 1s --rate 100 --fetch-wait 60s"));
    assert!(broker.records() > 50);
    assert!(odradek_loadgen::clock::now().since(start).as_secs() < 30);
}

#[test]
fn records_of_others_before_the_run_do_not_matter() {
    let broker = FakeBroker::start(2, &[]);
    assert!(verified(&broker, "--records 1000"));
    assert!(verified(&broker, "--records 1000"));
}

#[test]
fn an_open_loop_sends_what_is_due_and_no_more() {
    use odradek_loadgen::produce::run::{Templates, run};
    let broker = FakeBroker::start(2, &[]);
    let (config, shape) =
        produce_config(&broker, "--record-size 10 --duration 500ms --rate 2000 --linger 20ms");
    let produced = run(&config, move |thread| Templates::new(&shape, thread), |_, _| {}).unwrap();
    assert!((800..=1010).contains(&produced.stats.records), "{}", produced.stats.records);
    assert_eq!(produced.stats.latency.len(), produced.stats.records);
    // 40 records fall due in a linger time.
    let counts = broker.batch_record_counts();
    assert!(counts.iter().all(|count| *count < 200), "{counts:?}");
    assert!(counts.len() < 60, "{counts:?}");
}

#[test]
fn every_batch_shape_is_stored() {
    use odradek_loadgen::produce::run::{Templates, run};
    for flags in [
        "",
        "--acks 0",
        "--acks 1",
        "--compression gzip",
        "--compression zstd",
        "--keys zipf:50",
        "--keys sequential --compression snappy",
        "--idempotent",
        "--batches-per-request 3 --connections 2",
    ] {
        let broker = FakeBroker::start(4, &[]);
        let line = format!("--record-size 50 --records 4321 --batch-bytes 3000 {flags}");
        let (config, shape) = produce_config(&broker, &line);
        let produced = run(&config, move |thread| Templates::new(&shape, thread), |_, _| {}).unwrap();
        assert_eq!((produced.stats.records, produced.stats.failed), (4321, 0), "{flags}");
        assert_eq!(produced.stats.bytes, 4321 * 50);
        if flags != "--acks 0" {
            assert_eq!(broker.records(), 4321, "{flags}");
        }
    }
}

#[test]
fn what_a_broker_lacks_is_named() {
    let broker = FakeBroker::start(1, &[]);
    broker.limit(22, -1);
    let (config, shape) = produce_config(&broker, "--record-size 10 --records 1 --idempotent");
    let error = odradek_loadgen::produce::run::run(
        &config,
        move |thread| odradek_loadgen::produce::run::Templates::new(&shape, thread),
        |_, _| {},
    )
    .err()
    .unwrap();
    assert!(format!("{error:#}").contains("InitProducerId"), "{error:#}");
}

#[test]
fn a_consumer_that_waits_in_vain_names_what_it_was_refused() {
    use odradek_loadgen::consume::run::{ConsumeConfig, run};
    use odradek_loadgen::consume::worker::Discard;
    use odradek_loadgen::produce::run::Templates;
    let broker = FakeBroker::start(1, &[]);
    let (config, shape) = produce_config(&broker, "--record-size 50 --records 1000 --batch-bytes 1000");
    odradek_loadgen::produce::run::run(&config, move |thread| Templates::new(&shape, thread), |_, _| {})
        .unwrap();
    broker.refuse_fetches(CORRUPT_MESSAGE);
    let line = format!(
        "odradek-loadgen consume --brokers {} --topic t --quiet --records 1000 --partition-fetch-bytes 2000 \
            --idle-timeout 500ms",
        broker.address()
    );
    let Command::Consume(flags) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
        unreachable!("the line says consume")
    };
    let config = ConsumeConfig {
        bootstrap: flags.common.bootstrap(),
        setup: flags.fetch.setup("t", Isolation::ReadUncommitted),
        positions: vec![Position::from(0, 0)],
        more_readers: Vec::new(),
        leaders: vec![Leader { broker_id: 0, address: broker.address(), partitions: vec![0] }],
        records: flags.records,
        duration: None,
        idle_timeout: flags.fetch.idle_timeout,
        check_crc: true,
        connections: 1,
        threads: flags.common.threads(),
    };
    let consumed = run(&config, |_| Discard, |_, _| {}).unwrap();
    assert!((1..1000).contains(&consumed.stats.records), "{}", consumed.stats.records);
    let problems = consumed.problems.join("\n");
    assert!(problems.contains("partition 0 answers CorruptMessage (2)"), "{problems}");
}

fn produce_config(
    broker: &FakeBroker,
    flags: &str,
) -> (odradek_loadgen::produce::run::ProduceConfig, odradek_loadgen::content::Shape) {
    let line = format!("odradek-loadgen produce --brokers {} --topic t --quiet {flags}", broker.address());
    let Command::Produce(flags) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
        unreachable!("the line says produce")
    };
    let config = flags.config();
    let shape = config.shape;
    (config, shape)
}

fn verified(broker: &FakeBroker, flags: &str) -> bool {
    let line = format!(
        "odradek-loadgen verify --brokers {} --topic t --create --quiet --delivery-timeout 10s {flags}",
        broker.address()
    );
    let Command::Verify(flags) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
        unreachable!("the line says verify")
    };
    verify::run::run(&flags).unwrap()
}
