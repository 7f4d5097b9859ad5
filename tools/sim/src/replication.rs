//! Replicas of partitions on nodes that crash, stall and lose their disks, with a network that cuts, delays and
//! overtakes, and a controller that answers late.
//!
//! ```text
//! producers ─► node: Leader ◄── frames, in order per connection ──► node: Follower   readers ─► any of them
//!                │  log: flushed, or not yet                          │
//!                └──── AlterPartitions, Heartbeat ─► controller: Leadership, Members ── images ─► nodes
//!
//!            watch: what was ever below a high watermark, against every log, answer and read
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what differs between seeds, and the mistakes for the tests that must find them |
//! | [`scene`] | all parts of a seed, and what is to happen when |
//! | [`network`] | connections between nodes, and what becomes of frames on them |
//! | [`log`] | one replica's log: what is flushed, and what a crash leaves |
//! | [`node`] | carries out what `odradek::replication` decides: roles, flushes, feeds |
//! | [`leading`], [`following`] | the same of leaders and of followers |
//! | [`controller`] | stands in for the quorum: always of one mind, sometimes away |
//! | [`clients`] | producers that send again, readers of leaders and followers |
//! | [`faults`] | what goes wrong |
//! | [`watch`] | what is expected, and the checks |
//! | [`run`] | one seed |
//!
//! Absent: the quorum itself, the storage engine, reassignment, several cores.

pub mod clients;
pub mod controller;
pub mod faults;
pub mod following;
pub mod leading;
pub mod log;
pub mod network;
pub mod node;
pub mod run;
pub mod scene;
pub mod settings;
pub mod watch;

use crate::replication::settings::Mistake;
use crate::seeds::{SeedOptions, SeedResult, Simulation};

/// Leaders, followers, the controller's side of partitions.
pub struct Replication;

impl Simulation for Replication {
    type Mistake = Mistake;
    const NAME: &'static str = "replication";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &["acknowledged: all", "read", "leader: begins", "fault: crash"];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run::run_seed(options)
    }
}

/// Everything that a long run has to have met at least once.
const EXPECTED: &[&str] = &[
    "fault: crash",
    "fault: all nodes crash",
    "fault: pause",
    "fault: node cut off",
    "fault: link cut",
    "fault: link cut one way",
    "fault: cut off from the controller",
    "fault: connection lost",
    "fault: slow disk",
    "fault: controller away",
    "fault: controlled shutdown",
    "fault: rolling restart",
    "fault: frame damaged",
    "restart: clean",
    "restart: damaged",
    "restart: empty disk",
    "restart: unflushed lost",
    "restart: unflushed there",
    "restart: before it was missed",
    "network: held up",
    "network: late over an old connection",
    "network: request to the controller lost",
    "network: request to the controller late",
    "controller: fenced",
    "controller: unfenced",
    "controller: elected from the in-sync set",
    "controller: elected from the eligible",
    "controller: nobody to elect",
    "controller: preferred leader elected",
    "controller: log lost, out of the in-sync set",
    "controller: log complete, place kept",
    "controller: leaders moved for a shutdown",
    "controller: in-sync set grew",
    "controller: in-sync set shrank",
    "alter: StaleBrokerEpoch",
    "alter: FencedLeaderEpoch",
    "alter: InvalidUpdateVersion",
    "alter: IneligibleReplica",
    "leader: begins",
    "leader: begins with a high watermark behind its epoch",
    "leader: stale, wakes up",
    "leader: resigns with requests waiting",
    "leader: proposes again",
    "leader: a refused proposal is waited for",
    "leader: catch-up from disk",
    "leader: no room in the window",
    "leader: log start moves",
    "follower: follows",
    "follower: cuts its log",
    "follower: starts over",
    "follower: log start moves",
    "follower: rejects an epoch",
    "follower: rejects a session",
    "statement: FencedLeaderEpoch",
    "statement: NotLeader",
    "ack rejected: epoch",
    "ack rejected: session",
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
    "read: FENCED_LEADER_EPOCH",
    "read: UNKNOWN_LEADER_EPOCH",
    "latest: told",
    "latest: OFFSET_NOT_AVAILABLE",
    "earliest: OFFSET_NOT_AVAILABLE",
];
