//! Whole clusters: nodes with a real quorum, whose leader decides about nodes and partitions, and leaders and
//! followers that go by what each of them has applied.
//!
//! ```text
//!  operators, nodes ─ questions ─► leader of the quorum: one decision after the other ─► Quorum ─► entries
//!      ▲                                                                                             │
//!      └── answers ── roles, in-sync sets ◄── image of each node ◄── applied, when it comes to it ◄──┘
//! ```
//!
//! Leaders, followers, clients and their network are those of [`replication`](crate::replication), metadata logs and
//! their disks those of [`quorum`](crate::quorum): what holds there holds here, with the same checks, and every
//! decision is the product's own. In a third of the seeds replicas' logs are kept as those of
//! [`storage`](crate::storage) are, and what a start finds of them is held against what was flushed.
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what differs between seeds, and the mistakes for the tests that must find them |
//! | [`metadata`] | the quorum, what each process knows besides, and what is decided |
//! | [`asking`] | questions to whoever leads the quorum, and answers |
//! | [`deciding`] | what the one that leads the quorum decides, in turns |
//! | [`engine`] | the storage engine below the replicas of some seeds, each node's on a disk of its own |
//! | [`starting`] | metadata that are caught up with, registrations, heartbeats |
//! | [`operators`] | topics that come and go, replicas that move, leaders that are elected |
//! | [`coordinators`] | coordinators of groups and transactions, which fail over with the leaders of their partitions |
//! | [`faults`] | what goes wrong |
//! | [`run`] | one seed |
//!
//! Absent: retention, compaction and several directories of the storage engine, several cores.

pub mod asking;
pub mod coordinators;
pub mod deciding;
pub mod engine;
pub mod faults;
pub mod metadata;
pub mod operators;
pub mod run;
pub mod settings;
pub mod starting;

use crate::cluster::settings::Mistake;
use crate::seeds::{SeedOptions, SeedResult, Simulation};

/// Nodes of a cluster, with everything that they decide.
pub struct Clusters;

impl Simulation for Clusters {
    type Mistake = Mistake;
    const NAME: &'static str = "cluster";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &[
        "simulated seconds",
        "acknowledged: all",
        "committed",
        "elections",
        "fault: crash",
        "coordinator: failed over",
        "commit: acknowledged",
        "transaction: committed",
    ];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run::run_seed(options)
    }
}

/// Everything that a long run has to have met at least once.
const EXPECTED: &[&str] = &[
    "fault: crash",
    "fault: all nodes crash",
    "fault: controller killed",
    "fault: controller stopped",
    "fault: pause",
    "fault: node cut off",
    "fault: link cut",
    "fault: cut off one way",
    "fault: connection lost",
    "fault: slow disk",
    "fault: controlled shutdown",
    "fault: rolling restart",
    "fault: node replaced by an empty one",
    "fault: quorum handed over",
    "fault: metadata log damaged",
    "fault: frame damaged",
    "restart: clean",
    "restart: damaged",
    "restart: empty disk",
    "restart: unflushed lost",
    "restart: unflushed there",
    "restart: before it was missed",
    "start: torn tail cut",
    "start: write in flight is there",
    "start: write in flight is not there",
    "compaction",
    "snapshot: arrived",
    "snapshot: lost",
    "snapshot: restored",
    "network: lost",
    "network: twice",
    "network: late",
    "network: held up",
    "network: late over an old connection",
    "network: for an old directory",
    "quorum: not through",
    "quorum of 1",
    "quorum of 3",
    "elections",
    "members: observer added",
    "members: voter added",
    "members: lost one removed",
    "question: asked again",
    "node: fenced",
    "node: unfenced",
    "node: begins to stop",
    "node: stops, leading nothing",
    "node: registration late",
    "node: registration refused, another directory",
    "controller: a change in parts",
    "controller: elected from the in-sync set",
    "controller: elected from the eligible",
    "controller: nobody to elect",
    "controller: leaders go back to the preferred",
    "alter: StaleBrokerEpoch",
    "alter: FencedLeaderEpoch",
    "alter: InvalidUpdateVersion",
    "alter: IneligibleReplica",
    "topic: created",
    "topic: deleted",
    "topic: settings changed",
    "reassignment: begun",
    "reassignment: completed",
    "reassignment: completed at once",
    "reassignment: cancelled",
    "reassignment: replaced by another",
    "reassignment: leader went",
    "replica: removed",
    "election: held for an operator",
    "election: unclean",
    "election: unclean, something is lost",
    "leader: begins",
    "leader: begins with a high watermark behind its epoch",
    "leader: stale, wakes up",
    "leader: resigns with requests waiting",
    "leader: proposes again",
    "leader: catch-up from disk",
    "leader: log start moves",
    "follower: follows",
    "follower: cuts its log",
    "follower: starts over",
    "engine: below the replicas",
    "engine: segment damaged",
    "engine: journal damaged",
    "engine: damage found",
    "engine: damage taken for a torn tail",
    "engine: damaged replica made again",
    "engine: log directory offline",
    "engine: topic gone while the node was down",
    "roll",
    "cut",
    "cut: started over",
    "replica removed",
    "fault: stall",
    "journal: file used again",
    "journal: block replayed",
    "journal: cut replayed",
    "segment: closed by replay",
    "recovery: tail torn, cut",
    "recovery: producers rebuilt",
    "acknowledged: all",
    "acknowledged: leader only",
    "produce: NOT_LEADER",
    "produce: NOT_ENOUGH_REPLICAS",
    "produce: NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "produce: timed out",
    "produce: sent again and already there",
    "read",
    "read: of a follower",
    "read: OFFSET_NOT_AVAILABLE",
    "read: OFFSET_OUT_OF_RANGE",
    "latest: told",
    "coordinator: loaded",
    "coordinator: failed over",
    "coordinator: resigns",
    "coordinator: waits for the high watermark",
    "coordinator: a write is not kept",
    "coordinator: not enough replicas after an append",
    "coordinator: a decided transaction goes on",
    "call: no answer",
    "commit: acknowledged",
    "commit: no answer",
    "commit: NOT_COORDINATOR",
    "commit: COORDINATOR_LOAD_IN_PROGRESS",
    "commit: COORDINATOR_NOT_AVAILABLE",
    "committed offset: fetched",
    "committed offset: of a transaction",
    "fetch: UNSTABLE_OFFSET_COMMIT",
    "member: joined",
    "member: heard",
    "heartbeat: UNKNOWN_MEMBER_ID",
    "init: answered",
    "init: CONCURRENT_TRANSACTIONS",
    "write: INVALID_PRODUCER_EPOCH",
    "write: NOT_LEADER_OR_FOLLOWER",
    "write: NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "end: CONCURRENT_TRANSACTIONS",
    "end: PRODUCER_FENCED",
    "verify: on another node",
    "node asks another: lost",
    "node asks another: answer lost",
    "marker: kept",
    "marker: into a partition of another node",
    "marker: tried again",
    "produce: there already",
    "producer: crashed",
    "transaction: record acknowledged",
    "transaction: offset committed",
    "transaction: committed",
    "transaction: aborted",
    "transaction: timed out",
    "transaction: left behind",
    "transaction: asked to end, nobody was told",
    "read: a committed record",
    "read: an aborted record is left out",
];
