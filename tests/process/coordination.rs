//! Transactions from InitProducerId to the last marker, in plain protocol: both versions, kills, time-outs,
//! offsets of groups, and the commands for operators.

use std::process::Command;
use std::time::{Duration, Instant};

use odradek_test_harness::kafka_protocol::ResponseError;
use odradek_test_harness::kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use odradek_test_harness::kafka_protocol::messages::describe_producers_request::TopicRequest;
use odradek_test_harness::kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use odradek_test_harness::kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use odradek_test_harness::kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, ApiVersionsRequest, DescribeProducersRequest,
    DescribeTransactionsRequest, EndTxnRequest, FetchRequest, FindCoordinatorRequest, GroupId,
    InitProducerIdRequest, ListTransactionsRequest, OffsetFetchRequest, ProducerId, TransactionalId,
    TxnOffsetCommitRequest,
};
use odradek_test_harness::kafka_protocol::protocol::StrBytes;
use odradek_test_harness::{
    Batch, BatchProducer, Broker, Client, Connection, Options, Routing, binary, records_of, topic_name,
    wait_for,
};

use crate::administration::{BROKER, set};
use crate::now_ms;

pub const TOPIC: &str = "transfers";
pub const PARTITIONS: i32 = 4;
const ID: &str = "teller";
const GROUP: &str = "clerks";

const GROUPS: i8 = 0;
pub const TRANSACTIONS: i8 = 1;
const INIT: i16 = 5;
const FIND: i16 = 3;
/// The last version that adds partitions for a client.
const ADD: i16 = 3;
const ADD_OFFSETS: i16 = 4;

/// Which version of transactions a producer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

impl Version {
    pub const BOTH: [Version; 2] = [Version::One, Version::Two];

    fn produce(self) -> i16 {
        if self == Version::One { 11 } else { 12 }
    }

    fn end(self) -> i16 {
        if self == Version::One { 4 } else { 5 }
    }

    fn commit_offsets(self) -> i16 {
        if self == Version::One { 4 } else { 5 }
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

fn error(code: i16) -> Option<ResponseError> {
    ResponseError::try_from_code(code)
}

/// Few partitions of the internal topics.
fn options(routing: Routing) -> Options {
    Options::new(routing)
        .set("transaction.state.log.num.partitions", "5")
        .set("offsets.topic.num.partitions", "5")
        .set("transaction.abort.timed.out.transaction.cleanup.interval.ms", "100")
}

pub fn coordinator(port: u16, key_type: i8, key: &str) -> u16 {
    wait_for("a coordinator", || {
        let request = FindCoordinatorRequest::default().with_key(text(key)).with_key_type(key_type);
        let response = Connection::open(port).call(FIND, &request);
        (response.error_code == 0).then_some(response.port as u16)
    })
}

/// A transactional producer.
pub struct Producer {
    id: String,
    version: Version,
    coordinator: Connection,
    client: Client,
    port: u16,
    producer: BatchProducer,
    sequences: [i32; PARTITIONS as usize],
}

impl Producer {
    pub fn new(broker: &Broker, id: &str, version: Version) -> Producer {
        let coordinator = Connection::open(coordinator(broker.port(), TRANSACTIONS, id));
        let client = Client::connect(broker);
        let producer = BatchProducer { id: -1, epoch: -1, sequence: 0 };
        let (id, port, sequences) = (id.to_string(), broker.port(), [0; PARTITIONS as usize]);
        Producer { id, version, coordinator, client, port, producer, sequences }
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(text(&self.id))
    }

    fn try_init(&mut self, timeout_ms: i32) -> Option<ResponseError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_transaction_timeout_ms(timeout_ms);
        let response = self.coordinator.call(INIT, &request);
        if response.error_code == 0 {
            self.is_now(response.producer_id.0, response.producer_epoch);
        }
        error(response.error_code)
    }

    pub fn init(mut self) -> Producer {
        wait_for("a producer id", || {
            let error = self.try_init(60_000);
            assert!(
                matches!(
                    error,
                    None | Some(
                        ResponseError::ConcurrentTransactions
                            | ResponseError::CoordinatorLoadInProgress
                            | ResponseError::CoordinatorNotAvailable
                            | ResponseError::NotCoordinator
                    )
                ),
                "{error:?}"
            );
            error.is_none().then_some(())
        });
        self
    }

    fn is_now(&mut self, id: i64, epoch: i16) {
        if (id, epoch) != (self.producer.id, self.producer.epoch) {
            self.sequences = [0; PARTITIONS as usize];
        }
        self.producer = BatchProducer { id, epoch, sequence: 0 };
    }

    fn add(&mut self, partitions: &[i32]) -> Option<ResponseError> {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic_name(TOPIC))
            .with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(self.producer.id))
            .with_v3_and_below_producer_epoch(self.producer.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let response = self.coordinator.call(ADD, &request);
        let results = &response.results_by_topic_v3_and_below[0].results_by_partition;
        assert_eq!(results.len(), partitions.len());
        error(results[0].partition_error_code)
    }

    fn try_write(&mut self, partition: i32, value: &str) -> Option<ResponseError> {
        let sequence = self.sequences[partition as usize];
        let batch = Batch::of(&[value], now_ms()).by(BatchProducer { sequence, ..self.producer });
        let request = Client::produce_request(TOPIC, partition, batch.in_transaction().bytes())
            .with_transactional_id(Some(self.transactional_id()));
        let response = self.client.to_leader(TOPIC, partition).call(self.version.produce(), &request);
        let error = error(Client::partition_answer(&response).error_code);
        if error.is_none() {
            self.sequences[partition as usize] += 1;
        }
        error
    }

    /// As a client does: in version 1 the partition is added first. Markers may still be on their way.
    pub fn write(&mut self, partition: i32, value: &str) {
        wait_for("a write", || {
            if self.version == Version::One {
                match self.add(&[partition]) {
                    None => {}
                    Some(ResponseError::ConcurrentTransactions) => return None,
                    error => panic!("{error:?}"),
                }
            }
            match self.try_write(partition, value) {
                None => Some(()),
                Some(
                    ResponseError::ConcurrentTransactions
                    | ResponseError::NotEnoughReplicas
                    | ResponseError::NotLeaderOrFollower
                    // It was just made: the leader may hear of that last.
                    | ResponseError::UnknownTopicOrPartition,
                ) => None,
                error => panic!("{error:?}"),
            }
        });
    }

    /// Without waiting for the answer.
    pub fn send_end(&mut self, commits: bool) {
        let request = self.end_request(commits);
        self.coordinator.send(self.version.end(), &request).expect("it is sent");
    }

    fn end_request(&self, commits: bool) -> EndTxnRequest {
        EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer.id))
            .with_producer_epoch(self.producer.epoch)
            .with_committed(commits)
    }

    pub fn try_end(&mut self, commits: bool) -> Option<ResponseError> {
        let request = self.end_request(commits);
        let response = self.coordinator.call(self.version.end(), &request);
        if response.error_code == 0 && self.version == Version::Two {
            self.is_now(response.producer_id.0, response.producer_epoch);
        }
        error(response.error_code)
    }

    /// As a client does: another node may coordinate by now, or nobody for a moment.
    pub fn end(&mut self, commits: bool) {
        wait_for("an end", || match self.try_end(commits) {
            Some(ResponseError::CoordinatorNotAvailable | ResponseError::NotCoordinator) => {
                self.coordinator = Connection::open(coordinator(self.port, TRANSACTIONS, &self.id));
                None
            }
            ended => {
                assert_eq!(ended, None);
                Some(())
            }
        });
    }

    /// Commits an offset of the topic's partition 0 as part of the transaction.
    pub fn commit_offset(&mut self, offset: i64) -> Option<ResponseError> {
        if self.version == Version::One {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(self.transactional_id())
                .with_producer_id(ProducerId(self.producer.id))
                .with_producer_epoch(self.producer.epoch)
                .with_group_id(GroupId(text(GROUP)));
            let added = self.coordinator.call(ADD_OFFSETS, &request);
            if added.error_code != 0 {
                return error(added.error_code);
            }
        }
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(0)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("note")));
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic_name(TOPIC))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_group_id(GroupId(text(GROUP)))
            .with_producer_id(ProducerId(self.producer.id))
            .with_producer_epoch(self.producer.epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        let port = coordinator(self.port, GROUPS, GROUP);
        let response = Connection::open(port).call(self.version.commit_offsets(), &request);
        error(response.topics[0].partitions[0].error_code)
    }
}

/// What a reader of committed records gets of a partition, aborted ones left out.
pub fn committed(broker: &Broker, partition: i32) -> Vec<String> {
    let mut client = Client::connect(broker);
    let mut request = Client::fetch_request(TOPIC, partition, 0);
    request.isolation_level = 1;
    let response = client.to_leader(TOPIC, partition).call::<FetchRequest>(Client::FETCH_VERSION, &request);
    let data = &response.responses[0].partitions[0];
    assert_eq!(data.error_code, 0);
    let aborted: Vec<i64> =
        data.aborted_transactions.iter().flatten().map(|aborted| aborted.first_offset).collect();
    // Of the transactions of these tests each has one record in a partition. Markers are records, too.
    let kept = records_of(data).into_iter().filter(|record| !aborted.contains(&record.offset));
    let values = kept.map(|record| String::from_utf8_lossy(&record.value).into_owned());
    values.filter(|value| !value.contains('\0')).collect()
}

/// Until the transaction of an id has come to its end.
pub fn wait_for_state(broker: &Broker, id: &str, state: &str) {
    wait_for(&format!("{id} to be {state}"), || {
        let request =
            DescribeTransactionsRequest::default().with_transactional_ids(vec![TransactionalId(text(id))]);
        let port = coordinator(broker.port(), TRANSACTIONS, id);
        let described = &Connection::open(port).call(0, &request).transaction_states[0];
        (described.error_code == 0 && &*described.transaction_state == state).then_some(())
    });
}

/// The committed offset of partition 0, or why there is none.
pub fn fetch_offset(broker: &Broker, require_stable: bool) -> Result<i64, ResponseError> {
    let topic =
        OffsetFetchRequestTopics::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![0]);
    let group =
        OffsetFetchRequestGroup::default().with_group_id(GroupId(text(GROUP))).with_topics(Some(vec![topic]));
    let request =
        OffsetFetchRequest::default().with_groups(vec![group.clone()]).with_require_stable(require_stable);
    let port = coordinator(broker.port(), GROUPS, GROUP);
    wait_for("offsets to be loaded", || {
        let response = Connection::open(port).call(9, &request);
        let group = &response.groups[0];
        match error(group.error_code) {
            None => {}
            Some(ResponseError::CoordinatorLoadInProgress | ResponseError::NotCoordinator) => return None,
            error => panic!("{error:?}"),
        }
        let partition = &group.topics[0].partitions[0];
        Some(match error(partition.error_code) {
            None => Ok(partition.committed_offset),
            Some(error) => Err(error),
        })
    })
}

#[test]
fn transactions_are_committed_and_aborted_over_all_cores_and_kills() {
    for routing in Routing::BOTH {
        for version in Version::BOTH {
            let what = format!("{routing:?} {version:?}");
            let mut broker = Broker::start_with(options(routing));
            Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
            let mut producer = Producer::new(&broker, ID, version).init();
            for (value, commits) in [("first", true), ("second", false), ("third", true)] {
                for partition in 0..PARTITIONS {
                    producer.write(partition, value);
                }
                producer.end(commits);
            }
            wait_for_state(&broker, ID, "CompleteCommit");
            for partition in 0..PARTITIONS {
                assert_eq!(committed(&broker, partition), ["first", "third"], "{what} {partition}");
            }
            let before = producer.producer;
            producer.write(0, "open");
            broker.kill();
            broker.start_again();
            // It goes on where it was.
            let mut again = Producer::new(&broker, ID, version);
            (again.producer, again.sequences) = (producer.producer, producer.sequences);
            wait_for_state(&broker, ID, "Ongoing");
            assert_eq!(committed(&broker, 0), ["first", "third"], "{what}");
            again.write(1, "open");
            again.end(true);
            wait_for_state(&broker, ID, "CompleteCommit");
            assert_eq!(committed(&broker, 0), ["first", "third", "open"], "{what}");
            assert_eq!(committed(&broker, 1), ["first", "third", "open"], "{what}");
            match version {
                Version::One => assert_eq!(again.producer.epoch, before.epoch),
                Version::Two => assert_eq!(again.producer.epoch, before.epoch + 1),
            }
            broker.stop();
        }
    }
}

/// Kills at random moments around the end of transactions: each ends in one way everywhere.
#[test]
fn a_kill_leaves_every_transaction_with_one_outcome() {
    const ROUNDS: u64 = 8;
    for version in Version::BOTH {
        let mut broker = Broker::start_with(options(Routing::Node));
        Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
        let mut expected: Vec<(String, Option<bool>)> = Vec::new();
        for round in 0..ROUNDS {
            let mut producer = Producer::new(&broker, ID, version).init();
            for step in 0..3 {
                let value = format!("{round}-{step}");
                for partition in 0..PARTITIONS {
                    producer.write(partition, &value);
                }
                let commits = (round + step) % 3 != 0;
                if step < 2 {
                    producer.end(commits);
                    expected.push((value, Some(commits)));
                } else {
                    // Nobody hears how this one ends.
                    producer.send_end(commits);
                    std::thread::sleep(Duration::from_micros(round * 700));
                    expected.push((value, (!commits).then_some(false)));
                }
            }
            broker.kill();
            broker.start_again();
        }
        let _ = Producer::new(&broker, ID, version).init();
        let first = committed(&broker, 0);
        for (value, commits) in &expected {
            if let Some(commits) = commits {
                assert_eq!(first.contains(value), *commits, "{version:?} {value}");
            }
        }
        for partition in 1..PARTITIONS {
            assert_eq!(committed(&broker, partition), first, "{version:?} {partition}");
        }
        broker.stop();
    }
}

#[test]
fn what_takes_too_long_is_aborted_and_its_producer_fenced() {
    for version in Version::BOTH {
        let broker = Broker::start_with(options(Routing::Node));
        Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
        let mut producer = Producer::new(&broker, ID, version);
        let too_long = producer.try_init(15 * 60_000 + 1);
        assert_eq!(too_long, Some(ResponseError::InvalidTransactionTimeout));
        assert_eq!(producer.try_init(3_000), None);
        let begun = Instant::now();
        producer.write(0, "late");
        wait_for_state(&broker, ID, "CompleteAbort");
        assert!(begun.elapsed() >= Duration::from_millis(3_000), "{:?}", begun.elapsed());
        assert_eq!(committed(&broker, 0), Vec::<String>::new());
        let fenced = [Some(ResponseError::InvalidProducerEpoch), Some(ResponseError::ProducerFenced)];
        assert!(fenced.contains(&producer.try_write(0, "later")), "{version:?}");
        assert_eq!(producer.try_end(true), Some(ResponseError::ProducerFenced), "{version:?}");
        assert_eq!(producer.try_end(false), Some(ResponseError::ProducerFenced), "{version:?}");
        let mut next = Producer::new(&broker, ID, version).init();
        next.write(0, "in time");
        next.end(true);
        wait_for_state(&broker, ID, "CompleteCommit");
        assert_eq!(committed(&broker, 0), ["in time"]);
    }
}

#[test]
fn a_second_producer_fences_the_first() {
    for version in Version::BOTH {
        let broker = Broker::start_with(options(Routing::Node));
        Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
        let mut first = Producer::new(&broker, ID, version).init();
        first.write(0, "first");
        let mut second = Producer::new(&broker, ID, version).init();
        assert!(second.producer.epoch > first.producer.epoch);
        second.write(0, "second");
        let refused = first.try_write(0, "zombie");
        assert_eq!(refused, Some(ResponseError::InvalidProducerEpoch), "{version:?}");
        assert_eq!(first.try_end(true), Some(ResponseError::ProducerFenced));
        assert_eq!(first.add(&[1]), Some(ResponseError::ProducerFenced));
        second.end(true);
        wait_for_state(&broker, ID, "CompleteCommit");
        assert_eq!(committed(&broker, 0), ["second"], "{version:?}");
    }
}

/// KIP-890: a partition takes nothing of a transaction that its coordinator does not know to have it.
#[test]
fn a_batch_of_version_1_needs_its_partition_added() {
    let broker = Broker::start_with(options(Routing::Node));
    Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = Producer::new(&broker, ID, Version::One).init();
    assert_eq!(producer.try_write(0, "x"), Some(ResponseError::TransactionAbortable));
    // What takes long to be flushed is answered so that it is asked for again.
    wait_for("an addition", || match producer.add(&[0, 1]) {
        Some(ResponseError::ConcurrentTransactions) => None,
        added => {
            assert_eq!(added, None);
            Some(())
        }
    });
    assert_eq!(producer.try_write(0, "x"), None);
    assert_eq!(producer.try_write(2, "x"), Some(ResponseError::TransactionAbortable));
    producer.end(true);
    wait_for_state(&broker, ID, "CompleteCommit");
    assert_eq!(producer.try_write(0, "late"), Some(ResponseError::TransactionAbortable), "behind the marker");
    assert_eq!(producer.add(&[0, 9]), Some(ResponseError::OperationNotAttempted));
    let internal = AddPartitionsToTxnTopic::default()
        .with_name(topic_name("__transaction_state"))
        .with_partitions(vec![0]);
    let request = AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(producer.transactional_id())
        .with_v3_and_below_producer_id(ProducerId(producer.producer.id))
        .with_v3_and_below_producer_epoch(producer.producer.epoch)
        .with_v3_and_below_topics(vec![internal]);
    let response = producer.coordinator.call(ADD, &request);
    let code = response.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code;
    assert_eq!(error(code), Some(ResponseError::TopicAuthorizationFailed));
    // As brokers ask each other.
    wait_for("an addition", || producer.add(&[3]).is_none().then_some(()));
    let topic = AddPartitionsToTxnTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![2, 3]);
    let transaction = AddPartitionsToTxnTransaction::default()
        .with_transactional_id(producer.transactional_id())
        .with_producer_id(ProducerId(producer.producer.id))
        .with_producer_epoch(producer.producer.epoch)
        .with_verify_only(true)
        .with_topics(vec![topic]);
    let request = AddPartitionsToTxnRequest::default().with_transactions(vec![transaction]);
    for (version, expected) in [(4, ResponseError::InvalidTxnState), (5, ResponseError::TransactionAbortable)]
    {
        let response = producer.coordinator.call(version, &request);
        let results = &response.results_by_transaction[0].topic_results[0].results_by_partition;
        let errors: Vec<_> = results.iter().map(|result| error(result.partition_error_code)).collect();
        assert_eq!(errors, [Some(expected), None]);
    }
}

#[test]
fn offsets_count_once_their_transaction_is_committed() {
    for routing in Routing::BOTH {
        for version in Version::BOTH {
            let what = format!("{routing:?} {version:?}");
            let mut broker = Broker::start_with(options(routing));
            Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
            let mut producer = Producer::new(&broker, ID, version).init();
            producer.write(0, "a");
            wait_for("an offset", || match producer.commit_offset(7) {
                Some(ResponseError::ConcurrentTransactions) => None,
                committed => {
                    assert_eq!(committed, None, "{what}");
                    Some(())
                }
            });
            assert_eq!(fetch_offset(&broker, false), Ok(-1), "{what}");
            assert_eq!(fetch_offset(&broker, true), Err(ResponseError::UnstableOffsetCommit), "{what}");
            broker.kill();
            broker.start_again();
            assert_eq!(fetch_offset(&broker, true), Err(ResponseError::UnstableOffsetCommit), "{what}");
            let mut again = Producer::new(&broker, ID, version);
            (again.producer, again.sequences) = (producer.producer, producer.sequences);
            wait_for_state(&broker, ID, "Ongoing");
            again.end(true);
            wait_for_state(&broker, ID, "CompleteCommit");
            assert_eq!(fetch_offset(&broker, true), Ok(7), "{what}");
            wait_for("the next one", || (again.commit_offset(9).is_none()).then_some(()));
            assert_eq!(fetch_offset(&broker, true), Err(ResponseError::UnstableOffsetCommit), "{what}");
            assert_eq!(fetch_offset(&broker, false), Ok(7), "{what}");
            again.end(false);
            wait_for_state(&broker, ID, "CompleteAbort");
            assert_eq!(fetch_offset(&broker, true), Ok(7), "{what}");
            broker.kill();
            broker.start_again();
            assert_eq!(fetch_offset(&broker, true), Ok(7), "{what}");
            broker.stop();
        }
    }
}

#[test]
fn transactions_of_version_2_are_announced() {
    let broker = Broker::start(Routing::Node);
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"));
    let response = Connection::open(broker.port()).call(4, &request);
    let found = response.finalized_features.iter().find(|feature| &*feature.name == "transaction.version");
    assert_eq!(found.map(|feature| feature.max_version_level), Some(2));
    assert!(response.finalized_features_epoch >= 0);
}

#[test]
fn operators_list_describe_and_abort() {
    let broker = Broker::start_with(options(Routing::Node));
    Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
    let mut open = Producer::new(&broker, ID, Version::Two).init();
    open.write(1, "open");
    let mut done = Producer::new(&broker, "done", Version::One).init();
    done.write(2, "done");
    done.end(true);
    wait_for_state(&broker, "done", "CompleteCommit");
    let run = |arguments: &[&str]| {
        let output = Command::new(binary())
            .arg("txn")
            .args(arguments)
            .args(["--brokers", &broker.bootstrap()])
            .output()
            .expect("the command runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), out.into_owned(), err.into_owned())
    };
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (succeeded, out, err) = run(&[arguments, &["--json"]].concat());
        assert!(succeeded, "{arguments:?}: {err}");
        serde_json::from_str(&out).expect("JSON")
    };
    let listed = json(&["list"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(listed[1]["transactional_id"], ID);
    assert_eq!(listed[1]["state"], "Ongoing");
    let ongoing = json(&["list", "--state", "Ongoing", "--producer-id", &open.producer.id.to_string()]);
    assert_eq!(ongoing.as_array().map(Vec::len), Some(1));
    assert_eq!(json(&["list", "--open-for", "3600", "--state", "Ongoing"]).as_array().map(Vec::len), Some(0));
    let (succeeded, _, err) = run(&["list", "--state", "Odd"]);
    assert!(!succeeded && err.contains("Odd"), "{err}");
    let described = json(&["describe", ID]);
    assert_eq!(described[0]["partitions"], serde_json::json!([{ "topic": TOPIC, "partition": 1 }]));
    assert_eq!(described[0]["producer_epoch"], open.producer.epoch);
    let (succeeded, _, err) = run(&["describe", "nobody"]);
    assert!(!succeeded && err.contains("TRANSACTIONAL_ID_NOT_FOUND"), "{err}");
    // One that a coordinator knows is not aborted behind its back.
    let hanging = ["abort", "--topic", TOPIC, "--partition", "1", "--start-offset", "0"];
    let (succeeded, _, err) = run(&hanging);
    assert!(!succeeded && err.contains(ID), "{err}");
    assert_eq!(json(&["abort", ID])["aborted"], true);
    wait_for_state(&broker, ID, "CompleteAbort");
    let described = json(&["describe", ID]);
    assert_eq!(described[0]["producer_epoch"], open.producer.epoch + 1, "fenced once, and nobody else is");
    let (succeeded, _, err) = run(&["abort", ID]);
    assert!(!succeeded && err.contains("nothing to abort"), "{err}");
    assert_eq!(committed(&broker, 1), Vec::<String>::new());
    let port = coordinator(broker.port(), TRANSACTIONS, ID);
    let mut connection = Connection::open(port);
    let mut by_pattern = |pattern: &str| {
        let request = ListTransactionsRequest::default().with_transactional_id_pattern(Some(text(pattern)));
        let listed = connection.call(2, &request);
        let ids = listed.transaction_states.iter().map(|state| state.transactional_id.to_string());
        (error(listed.error_code), ids.collect::<Vec<_>>())
    };
    assert_eq!(by_pattern("t.*r"), (None, vec![ID.to_string()]));
    assert_eq!(by_pattern("tell"), (None, vec![]), "all of it has to match");
    assert_eq!(by_pattern("t("), (Some(ResponseError::InvalidRegularExpression), vec![]));
}

/// A transaction whose coordinator has forgotten it, or never knew.
#[test]
fn operators_abort_what_hangs() {
    let mut broker =
        Broker::start_with(options(Routing::Node).set("transaction.partition.verification.enable", "false"));
    Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = Producer::new(&broker, ID, Version::One).init();
    assert_eq!(producer.try_write(1, "hanging"), None, "nobody has added the partition");
    let mut known = Producer::new(&broker, "known", Version::One).init();
    known.write(2, "open");
    let run = |arguments: &[&str]| -> serde_json::Value {
        let output = Command::new(binary())
            .arg("txn")
            .args(arguments)
            .args(["--json", "--brokers", &broker.bootstrap()])
            .output()
            .expect("the command runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let find = |arguments: &[&str]| run(&[&["find-hanging", "--open-for", "0"], arguments].concat());
    let found = find(&[]);
    let [hanging] = &found.as_array().expect("a list")[..] else { panic!("{found}") };
    assert_eq!((&hanging["topic"], &hanging["partition"]), (&TOPIC.into(), &1.into()));
    assert_eq!(hanging["producer_id"], producer.producer.id);
    assert_eq!(hanging["producer_epoch"], producer.producer.epoch);
    assert_eq!((&hanging["start_offset"], hanging["transactional_id"].is_null()), (&0.into(), true));
    let none = serde_json::json!([]);
    assert_eq!(find(&["--topic", TOPIC, "--partition", "2"]), none, "its coordinator knows that one");
    assert_eq!(find(&["--broker-id", "77"]), none);
    assert_eq!(find(&["--topic", TOPIC, "--broker-id", "1"]), found);
    assert_eq!(run(&["find-hanging"]), none, "not for a quarter of an hour yet");
    let start_offset = hanging["start_offset"].to_string();
    let abort = ["abort", "--topic", TOPIC, "--partition", "1", "--start-offset", &start_offset];
    assert_eq!(run(&abort)["aborted"], true);
    assert_eq!(find(&[]), none);
    let mut client = Client::connect(&broker);
    let mut request = Client::fetch_request(TOPIC, 1, 0);
    request.isolation_level = 1;
    let response = client.to_leader(TOPIC, 1).call::<FetchRequest>(Client::FETCH_VERSION, &request);
    assert_eq!(response.responses[0].partitions[0].last_stable_offset, 2);
    assert_eq!(committed(&broker, 1), Vec::<String>::new());
    broker.stop();
}

/// By a producer whose version adds partitions by itself, and has not.
#[test]
fn whether_coordinators_are_asked_changes_at_run_time() {
    let mut broker = Broker::start_with(options(Routing::Node));
    let mut client = Client::connect(&broker);
    client.create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = Producer::new(&broker, ID, Version::One).init();
    let mut ask = |partition: i32, value: Option<&str>, expected: Option<ResponseError>| {
        let key = "transaction.partition.verification.enable";
        let (code, message) = set(&mut client, BROKER, "", key, value);
        assert_eq!(code, 0, "{message}");
        // The partition's core hears of it a little later.
        wait_for("what is set", || (producer.try_write(partition, "unknown") == expected).then_some(()));
    };
    ask(0, Some("true"), Some(ResponseError::TransactionAbortable));
    ask(1, Some("false"), None);
    ask(2, None, Some(ResponseError::TransactionAbortable));
    broker.stop();
}

#[test]
fn ids_that_nobody_uses_are_forgotten() {
    let options = options(Routing::Node)
        .set("transactional.id.expiration.ms", "3000")
        .set("transaction.remove.expired.transaction.cleanup.interval.ms", "50")
        .set("producer.id.expiration.ms", "3000")
        .set("producer.id.expiration.check.interval.ms", "50");
    let mut broker = Broker::start_with(options);
    Client::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = Producer::new(&broker, ID, Version::Two).init();
    producer.write(0, "written");
    let mut open = Producer::new(&broker, "open", Version::Two).init();
    open.write(1, "open");
    producer.end(true);
    wait_for("a transactional id to be forgotten", || {
        let listed = producer.coordinator.call(1, &ListTransactionsRequest::default());
        let mut ids: Vec<_> =
            listed.transaction_states.iter().map(|state| state.transactional_id.to_string()).collect();
        ids.sort();
        (ids == ["open"]).then_some(())
    });
    let asked = TopicRequest::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![0, 1]);
    let request = DescribeProducersRequest::default().with_topics(vec![asked]);
    wait_for("a producer to be forgotten", || {
        let described = producer.coordinator.call(0, &request);
        let ids = described.topics[0].partitions.iter().map(|partition| {
            partition.active_producers.iter().map(|active| active.producer_id.0).collect::<Vec<_>>()
        });
        (ids.collect::<Vec<_>>() == [vec![], vec![open.producer.id]]).then_some(())
    });
    broker.stop();
}
