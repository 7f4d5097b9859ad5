//! Coordinators of transactions between logs that fail, partitions that are slow or gone, and producers that die,
//! come late and say things twice.
//!
//! ```text
//! producers, consumers, ─► network: late, ─► cluster ─► Coordinator ─► writes ─► lane ─► log ─► flush ─► finished
//! administrators, strays   lost, twice        │   ▲         ▲ │
//!                                             │   │ verified│ └─► markers: late, lost, twice ─┐
//!                                             ▼   │         │                                 ▼
//!                                           partitions: PartitionLog, of groups too ◄─────────┘
//!                                             │
//!            watch: the checks ◄──────────────┴─► readers of committed records, the groups' Coordinator
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what differs between seeds, and the mistakes for the tests that must find them |
//! | [`scene`] | what all parts of a seed share |
//! | [`cluster`] | all parts of the broker; how they go down and come again, together or alone |
//! | [`coordinator`] | carries out what `odradek::txn` decides, as `odradek::shard` does; its markers on their way |
//! | [`partition`] | a log that is written to in transactions, and its reader |
//! | [`produce`] | batches that are verified and appended, and markers that come |
//! | [`offsets`] | the groups' coordinator, whose offsets are committed in transactions |
//! | [`request`], [`network`] | requests of all kinds; what becomes of them on their way |
//! | [`producer`] | clients of both versions of transactions |
//! | [`others`] | who commits without a transaction, administrators, strays |
//! | [`watch`] | what is expected, and the checks |
//! | [`run`] | one seed |
//!
//! Absent: topics that are deleted, compaction of partitions (the storage engine's simulation has it), several
//! partitions of `__consumer_offsets`.

pub mod cluster;
pub mod coordinator;
pub mod network;
pub mod offsets;
pub mod others;
pub mod partition;
pub mod produce;
pub mod producer;
pub mod request;
pub mod run;
pub mod scene;
pub mod settings;
pub mod watch;

use crate::seeds::{SeedOptions, SeedResult, Simulation};
use crate::transactions::settings::Mistake;

/// Coordinators of transactions, versions 1 and 2.
pub struct Transactions;

impl Simulation for Transactions {
    type Mistake = Mistake;
    const NAME: &'static str = "transactions";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &["requests", "restarts", "transaction: committed"];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run::run_seed(options)
    }
}

/// Everything that a long run has to have met at least once.
const EXPECTED: &[&str] = &[
    "requests",
    "restarts",
    "restart: crash",
    "restart: resigned",
    "restart: the whole node",
    "restart: unflushed records lost",
    "restart: unflushed records there",
    "restart: a transaction is open",
    "restart: a commit is decided",
    "restart: an abort is decided",
    "restart: a decided transaction goes on",
    "cleaner",
    "cleaner: old deletions gone",
    "write: kept",
    "write: refused",
    "write: slow",
    "write: flush failed",
    "partition: crash",
    "partition: slow",
    "partition: no room for long",
    "partition: flush failed",
    "partition: unflushed batches lost",
    "partition: unflushed batches there",
    "partition: producer forgotten",
    "network: request lost",
    "network: answer lost",
    "network: request twice",
    "network: request late",
    "network: request overtaken",
    "network: client gave up",
    "init: answered",
    "init: refused, CONCURRENT_TRANSACTIONS",
    "init: refused, PRODUCER_FENCED",
    "init: refused, INVALID_TRANSACTION_TIMEOUT",
    "init: refused, COORDINATOR_LOAD_IN_PROGRESS",
    "init: refused, COORDINATOR_NOT_AVAILABLE",
    "init: refused, NOT_COORDINATOR",
    "init: refused, UNKNOWN_SERVER_ERROR",
    "add partitions: answered",
    "add partitions: refused, CONCURRENT_TRANSACTIONS",
    "add partitions: refused, PRODUCER_FENCED",
    "add partitions: refused, INVALID_PRODUCER_ID_MAPPING",
    "add partitions: refused, COORDINATOR_NOT_AVAILABLE",
    "add partitions: refused, NOT_COORDINATOR",
    "add offsets: answered",
    "add offsets: refused, CONCURRENT_TRANSACTIONS",
    "add offsets: refused, PRODUCER_FENCED",
    "add: waited for long enough",
    "verify: confirmed",
    "verify: refused",
    "verify: the answer came too late",
    "produce: answered",
    "produce: there already",
    "produce: refused, CONCURRENT_TRANSACTIONS",
    "produce: refused, INVALID_PRODUCER_EPOCH",
    "produce: refused, INVALID_TXN_STATE",
    "produce: refused, TRANSACTION_ABORTABLE",
    "produce: refused, OUT_OF_ORDER_SEQUENCE_NUMBER",
    "produce: refused, NOT_ENOUGH_REPLICAS",
    "produce: refused, KAFKA_STORAGE_ERROR",
    "commit offsets: answered",
    "commit offsets: refused, CONCURRENT_TRANSACTIONS",
    "commit offsets: refused, INVALID_PRODUCER_EPOCH",
    "commit offsets: refused, INVALID_TXN_STATE",
    "commit offsets: refused, COORDINATOR_LOAD_IN_PROGRESS",
    "commit offsets: refused, COORDINATOR_NOT_AVAILABLE",
    "commit offsets: refused, NOT_COORDINATOR",
    "fetch offsets: answered",
    "fetch offsets: refused, UNSTABLE_OFFSET_COMMIT",
    "commit: answered",
    "commit: refused, CONCURRENT_TRANSACTIONS",
    "commit: refused, PRODUCER_FENCED",
    "commit: refused, INVALID_PRODUCER_ID_MAPPING",
    "commit: refused, INVALID_TXN_STATE",
    "commit: refused, COORDINATOR_NOT_AVAILABLE",
    "commit: refused, NOT_COORDINATOR",
    "abort: answered",
    "abort: refused, CONCURRENT_TRANSACTIONS",
    "abort: refused, PRODUCER_FENCED",
    "abort: refused, INVALID_PRODUCER_ID_MAPPING",
    "abort: refused, INVALID_TXN_STATE",
    "abort: refused, COORDINATOR_NOT_AVAILABLE",
    "abort: refused, NOT_COORDINATOR",
    "marker: commit",
    "marker: abort",
    "marker: lost",
    "marker: late",
    "marker: answer lost",
    "marker: tried again",
    "marker: only its record is tried again",
    "marker: of a coordinator that is gone",
    "marker: comes too late",
    "marker: refused, TRANSACTION_COORDINATOR_FENCED",
    "write marker: answered",
    "write marker: refused, INVALID_PRODUCER_EPOCH",
    "write marker: refused, INVALID_REQUEST",
    "write marker: refused, TRANSACTION_COORDINATOR_FENCED",
    "describe: answered",
    "list: answered",
    "transaction timed out",
    "a hanging transaction is aborted",
    "a producer id is replaced",
    "id expired",
    "late: an end in version 1",
    "late: a write in version 1",
    "late: an addition in version 1",
    "read: a committed record",
    "read: an aborted record is left out",
    "read: a committed offset",
    "read: an aborted offset is left out",
    "transaction: committed",
    "transaction: aborted",
    "transaction: left behind",
    "transaction: asked to end, nobody was told",
    "producer: froze",
    "producer: died",
    "producer: gave a write up",
    "producer: aborts what is on its way",
    "producer: goes on after an error",
];
