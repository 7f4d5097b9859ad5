//! The metadata quorum between disks that forget what was not flushed and a network that loses, doubles, delays
//! and parts; members come and go.
//!
//! ```text
//! clients, administrators ─► Quorum::step ─► effects ─► persist ─► disk ─► flush ─► flushed up to n
//!                              ▲   │                └─► send ─► network: late, lost, twice, cut ─► other nodes
//!                              │   └─► apply ─► Image        watch: the checks, at every step
//!              crashes, pauses, restarts from whatever the disk has kept
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | what differs between seeds, the checks, and the mistakes for the tests that must find them |
//! | [`node`] | one node: its log's file, its image, what is on its way to the disk |
//! | [`shell`] | carries out what `odradek::cluster::quorum` decides, for other simulations as well |
//! | [`network`] | what becomes of a message |
//! | [`cluster`] | all nodes, and what happens next |
//! | [`clients`] | who proposes, and what becomes of it |
//! | [`faults`] | what goes wrong, and who administers |
//! | [`watch`] | what is expected, and the checks |
//! | [`quiet`] | the end: nothing goes wrong, and everybody has to get everything |
//! | [`run`] | one seed |

pub mod clients;
pub mod cluster;
pub mod faults;
pub mod network;
pub mod node;
pub mod quiet;
pub mod run;
pub mod settings;
pub mod shell;
pub mod watch;

use crate::quorum::settings::Mistake;
use crate::seeds::{SeedOptions, SeedResult, Simulation};

/// The metadata quorum.
pub struct Quorums;

impl Simulation for Quorums {
    type Mistake = Mistake;
    const NAME: &'static str = "quorum";
    const EXPECTED: &'static [&'static str] = EXPECTED;
    const RATES: &'static [&'static str] = &["messages", "committed", "elections", "starts"];

    fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
        run::run_seed(options)
    }
}

/// Everything that a long run has to have met at least once.
const EXPECTED: &[&str] = &[
    "messages",
    "committed",
    "elections",
    "starts",
    "start: upgraded log",
    "start: torn tail cut",
    "start: write in flight is there",
    "start: write in flight is not there",
    "start: log replaced, as asked for",
    "start: log not replaced yet",
    "crash: power lost",
    "crash: killed",
    "crash: all at once",
    "pause",
    "disk: slow",
    "disk: writes merged",
    "disk: entries replaced",
    "network: lost",
    "network: twice",
    "network: late",
    "network: cut",
    "network: unreachable",
    "network: another cluster",
    "network: for an old directory",
    "partition: in two",
    "partition: one way",
    "partition: leader alone",
    "leader: made way",
    "leader: removed by a change of another",
    "transfer",
    "transfer: arrived",
    "proposal: committed",
    "proposal: outcome unknown",
    "proposal: refused, NotLeader",
    "proposal: refused, NotReady",
    "proposal: refused, HandingOver",
    "members: observer added",
    "members: voter added",
    "members: voter removed",
    "members: observer removed",
    "members: directory replaced",
    "members: refused, Behind",
    "members: refused, Pending",
    "members: refused, Leader",
    "compaction",
    "snapshot: asked for",
    "snapshot: arrived",
    "snapshot: lost",
    "snapshot: restored",
    "quorum of 1",
    "quorum of 3",
    "quorum of 5",
    "quiet: everybody has everything",
];
