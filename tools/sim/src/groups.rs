//! Coordinators of consumer groups between a log that fails and clients that die, come late and say things twice.
//!
//! ```text
//! consumers, committers, ─► network: late, lost, twice ─► broker ─► Coordinator ─► writes ─► lane ─► log ─► flush
//! administrators, strays                                  │ ▲ ▲                                           │
//!                                        watch: the checks┘ │ └──────────────── finished ◄────────────────┘
//!                                                  restarts from the log, wherever a crash has cut it
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what differs between seeds, and the mistakes for the tests that must find them |
//! | [`broker`] | carries out what `odradek::group` decides, as `odradek::shard` does; starts, crashes, faults |
//! | [`request`] | requests of all kinds, as a broker takes them |
//! | [`network`] | what becomes of a request on its way, and of its answer |
//! | [`topics`] | topics, as groups of the newer protocol look at them |
//! | [`witness`] | what watches over a broker, of whatever clients |
//! | [`watch`] | what is expected: members, sessions, offsets, and the checks |
//! | [`consumer`] | members: they join, sync, heartbeat, commit, leave, freeze and die |
//! | [`others`] | who only commits, administrators, and strays that say what they should not |
//! | [`run`] | one seed |
//!
//! Another coordinator joins in as a simulation of its own ([`crate::seeds::Simulation`]), with its records in a
//! [`crate::keyed_log`] and its clients as tasks of a [`crate::world`].

pub mod broker;
pub mod consumer;
pub mod network;
pub mod others;
pub mod request;
pub mod run;
pub mod settings;
pub mod topics;
pub mod watch;
pub mod witness;

use crate::groups::settings::Mistake;
use crate::seeds::{SeedOptions, SeedResult, Simulation};

/// Coordinators of consumer groups, classic protocol.
pub struct Groups;

impl Simulation for Groups {
    type Mistake = Mistake;
    const NAME: &'static str = "groups";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &["requests", "restarts", "generations"];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run::run_seed(options)
    }
}

/// Everything that a long run has to have met at least once.
const EXPECTED: &[&str] = &[
    "requests",
    "generations",
    "restarts",
    "restart: crash",
    "restart: resigned",
    "restart: unflushed records lost",
    "restart: unflushed records there",
    "restart: members keep their generation",
    "restart: while a leader assigns",
    "restart: during a deletion",
    "cleaner",
    "cleaner: old deletions gone",
    "write: kept",
    "write: refused",
    "write: slow",
    "write: flush failed",
    "network: request lost",
    "network: answer lost",
    "network: request twice",
    "network: request late",
    "network: client gave up",
    "join: answered",
    "join: as leader",
    "join: leader told to assign nothing",
    "join: given an id",
    "join: static member replaced",
    "join: refused, UNKNOWN_MEMBER_ID",
    "join: refused, FENCED_INSTANCE_ID",
    "join: refused, INCONSISTENT_GROUP_PROTOCOL",
    "join: refused, GROUP_MAX_SIZE_REACHED",
    "join: refused, REBALANCE_IN_PROGRESS",
    "join: refused, NOT_COORDINATOR",
    "join: refused, INVALID_SESSION_TIMEOUT",
    "sync: answered",
    "sync: refused, REBALANCE_IN_PROGRESS",
    "sync: refused, ILLEGAL_GENERATION",
    "sync: refused, UNKNOWN_MEMBER_ID",
    "sync: refused, FENCED_INSTANCE_ID",
    "sync: refused, COORDINATOR_NOT_AVAILABLE",
    "heartbeat: answered",
    "heartbeat: refused, REBALANCE_IN_PROGRESS",
    "heartbeat: refused, ILLEGAL_GENERATION",
    "heartbeat: refused, UNKNOWN_MEMBER_ID",
    "heartbeat: refused, FENCED_INSTANCE_ID",
    "leave: answered",
    "leave: refused, UNKNOWN_MEMBER_ID",
    "leave: refused, FENCED_INSTANCE_ID",
    "commit: answered",
    "commit: of nobody",
    "commit: refused, ILLEGAL_GENERATION",
    "commit: refused, UNKNOWN_MEMBER_ID",
    "commit: refused, FENCED_INSTANCE_ID",
    "commit: refused, REBALANCE_IN_PROGRESS",
    "commit: refused, OFFSET_METADATA_TOO_LARGE",
    "commit: refused, COORDINATOR_NOT_AVAILABLE",
    "commit: refused, NOT_COORDINATOR",
    "fetch: offset there",
    "fetch: no offset",
    "delete group: answered",
    "delete group: refused, NON_EMPTY_GROUP",
    "delete group: refused, GROUP_ID_NOT_FOUND",
    "delete offsets: answered",
    "delete offsets: refused, GROUP_SUBSCRIBED_TO_TOPIC",
    "topic deleted",
    "offset expired",
    "group expired",
    "consumer: left",
    "consumer: died",
    "consumer: froze",
    "consumer: changed its topics",
    "consumer: static member came back",
    "end: groups deleted",
    "end: groups expired",
];
