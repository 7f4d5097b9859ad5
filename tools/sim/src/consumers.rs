//! Coordinators whose groups use the newer protocol (KIP-848), or both, between a log that fails and clients that
//! die, come late and say things twice. The broker, its log and the network are those of [`crate::groups`].
//!
//! ```text
//! members of both protocols,  ─► network ─► broker ─► Coordinator ─► writes ─► lane ─► log ─► flush
//! committers, administrators,                │ ▲                                 │
//! strays, topics that come and go      watch ┘ └─── restarts from the log ◄──────┘
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what differs between seeds, and the mistakes for the tests that must find them |
//! | [`watch`] | what is expected: groups as their records have them, what clients read, and the checks |
//! | [`users`] | what all clients of a seed share, and what each of them is at |
//! | [`member`] | members by the newer protocol: they heartbeat, let go sooner or later, commit, leave and die |
//! | [`classic`] | members by the classic one: eager, or cooperative |
//! | [`others`] | who only commits, administrators, strays, and topics that come, grow and go |
//! | [`run`] | one seed |

pub mod classic;
pub mod member;
pub mod others;
pub mod run;
pub mod settings;
pub mod users;
pub mod watch;

use crate::consumers::settings::Mistake;
use crate::seeds::{SeedOptions, SeedResult, Simulation};

/// Coordinators of consumer groups, both protocols.
pub struct Consumers;

impl Simulation for Consumers {
    type Mistake = Mistake;
    const NAME: &'static str = "consumers";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &["requests", "restarts", "group epochs"];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run::run_seed(options)
    }
}

/// Everything that a long run has to have met at least once.
const EXPECTED: &[&str] = &[
    "requests",
    "group epochs",
    "targets",
    "targets: range",
    "targets: of members that read different topics",
    "restarts",
    "restart: a change of a group was lost",
    "restart: a change of a group was there",
    "restart: crash",
    "restart: during a deletion",
    "restart: members keep their epoch",
    "restart: members keep their generation",
    "restart: resigned",
    "restart: unflushed records lost",
    "restart: unflushed records there",
    "restart: while a member lets go",
    "cleaner",
    "cleaner: old deletions gone",
    "restart: while targets are made",
    "write: flush failed",
    "write: kept",
    "write: refused",
    "write: slow",
    "network: answer lost",
    "network: request late",
    "network: request lost",
    "network: request twice",
    "consumer join: answered",
    "consumer join: refused, COORDINATOR_NOT_AVAILABLE",
    "consumer join: refused, GROUP_ID_NOT_FOUND",
    "consumer join: refused, GROUP_MAX_SIZE_REACHED",
    "consumer join: refused, INVALID_REGULAR_EXPRESSION",
    "consumer join: refused, INVALID_REQUEST",
    "consumer join: refused, NOT_COORDINATOR",
    "consumer join: refused, UNKNOWN_SERVER_ERROR",
    "consumer join: refused, UNRELEASED_INSTANCE_ID",
    "consumer join: refused, UNSUPPORTED_ASSIGNOR",
    "consumer heartbeat: answered",
    "consumer heartbeat: refused, COORDINATOR_NOT_AVAILABLE",
    "consumer heartbeat: refused, FENCED_INSTANCE_ID",
    "consumer heartbeat: refused, FENCED_MEMBER_EPOCH",
    "consumer heartbeat: refused, GROUP_ID_NOT_FOUND",
    "consumer heartbeat: refused, GROUP_MAX_SIZE_REACHED",
    "consumer heartbeat: refused, NOT_COORDINATOR",
    "consumer heartbeat: refused, UNKNOWN_MEMBER_ID",
    "consumer heartbeat: refused, UNKNOWN_SERVER_ERROR",
    "consumer leave for a while: answered",
    "consumer leave for a while: refused, NOT_COORDINATOR",
    "consumer leave for a while: refused, UNKNOWN_MEMBER_ID",
    "consumer leave: answered",
    "consumer leave: refused, FENCED_INSTANCE_ID",
    "consumer leave: refused, GROUP_ID_NOT_FOUND",
    "consumer leave: refused, INVALID_REQUEST",
    "consumer leave: refused, NOT_COORDINATOR",
    "consumer leave: refused, UNKNOWN_MEMBER_ID",
    "member: did not join in time",
    "member: did not let go in time",
    "member: replaced",
    "member: replaced before it was told that it is in",
    "member: session over",
    "coordinator: goes on in its own time",
    "regular expressions: match something else",
    "regular expressions: resolved later",
    "group: downgraded",
    "group: upgraded",
    "group of both: joined",
    "group of both: synced",
    "group of both: told to join",
    "classic group: joined",
    "join: answered",
    "join: given an id",
    "join: refused, COORDINATOR_NOT_AVAILABLE",
    "join: refused, FENCED_INSTANCE_ID",
    "join: refused, GROUP_MAX_SIZE_REACHED",
    "join: refused, NOT_COORDINATOR",
    "join: refused, REBALANCE_IN_PROGRESS",
    "join: refused, UNKNOWN_MEMBER_ID",
    "join: refused, UNKNOWN_SERVER_ERROR",
    "sync: answered",
    "sync: refused, COORDINATOR_NOT_AVAILABLE",
    "sync: refused, FENCED_INSTANCE_ID",
    "sync: refused, ILLEGAL_GENERATION",
    "sync: refused, NOT_COORDINATOR",
    "sync: refused, REBALANCE_IN_PROGRESS",
    "sync: refused, UNKNOWN_MEMBER_ID",
    "sync: refused, UNKNOWN_SERVER_ERROR",
    "heartbeat: answered",
    "heartbeat: refused, FENCED_INSTANCE_ID",
    "heartbeat: refused, ILLEGAL_GENERATION",
    "heartbeat: refused, REBALANCE_IN_PROGRESS",
    "heartbeat: refused, UNKNOWN_MEMBER_ID",
    "leave: answered",
    "leave: refused, FENCED_INSTANCE_ID",
    "leave: refused, NOT_COORDINATOR",
    "leave: refused, UNKNOWN_MEMBER_ID",
    "commit: answered",
    "commit: refused, COORDINATOR_NOT_AVAILABLE",
    "commit: refused, FENCED_INSTANCE_ID",
    "commit: refused, GROUP_ID_NOT_FOUND",
    "commit: refused, ILLEGAL_GENERATION",
    "commit: refused, NOT_COORDINATOR",
    "commit: refused, OFFSET_METADATA_TOO_LARGE",
    "commit: refused, STALE_MEMBER_EPOCH",
    "commit: refused, UNKNOWN_MEMBER_ID",
    "commit: refused, UNKNOWN_SERVER_ERROR",
    "commit: refused, UNSUPPORTED_VERSION",
    "fetch: no offset",
    "fetch: offset there",
    "delete group: answered",
    "delete group: refused, GROUP_ID_NOT_FOUND",
    "delete group: refused, NON_EMPTY_GROUP",
    "delete offsets: answered",
    "delete offsets: refused, GROUP_ID_NOT_FOUND",
    "delete offsets: refused, GROUP_SUBSCRIBED_TO_TOPIC",
    "topic created",
    "topic deleted",
    "topic grown",
    "offset expired",
    "group expired",
    "claims: doubted after a request that was late",
    "consumer: began anew",
    "consumer: changed its topics",
    "consumer: died",
    "consumer: froze",
    "consumer: joins late",
    "consumer: left",
    "consumer: lets nothing go",
    "consumer: static member came back",
    "end: a group of both protocols settled",
    "end: a group of the classic protocol settled",
    "end: a group of the newer protocol settled",
    "end: a group without members",
    "end: groups deleted",
    "end: groups expired",
];
