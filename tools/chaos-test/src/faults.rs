//! What is done to nodes and to the network between them, and undone (SAFETY, "Faults").

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use odradek_powerloss::random::Random;

use crate::cluster::Cluster;
use crate::damage::damage;
use crate::load::{LEDGER, LEDGER_PARTITIONS, PARTITIONS, TOPIC};
use crate::proxy::{NODES, Way};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// `kill -9` of one node.
    Kill,
    /// `kill -9` of one that is killed again while it starts.
    KillStart,
    /// `kill -9` of all nodes, within milliseconds.
    KillAll,
    /// `kill -9` of two: there is no quorum meanwhile.
    KillTwo,
    /// SIGTERM of one node.
    Stop,
    /// SIGTERM of one after the other, each started again.
    Rolling,
    /// SIGSTOP of one for longer than sessions last.
    Pause,
    /// SIGSTOP of one that is forgotten after some milliseconds.
    Hiccup,
    /// Nothing passes between one node and the others.
    Isolate,
    /// Nothing that one node sends arrives.
    Mute,
    /// Nothing that others send arrives at one node.
    Deafen,
    /// Two nodes do not reach each other; the third reaches both.
    CutLink,
    /// Everything between nodes is late.
    Slow,
    /// `kill -9` of one node, whose files are damaged before it starts again.
    Damage,
    /// The disk of one node is full for a while.
    FullDisk,
    /// The disk of one node fails under it, and is there again at its next start.
    FailDisk,
    /// The wall clock of one node jumps by minutes, and back.
    Clock,
    /// `kill -9` of one node, in whose place one with an empty disk starts.
    Replace,
    /// A partition leaves one node, and comes back, while something else happens.
    Move,
}

impl Fault {
    /// Whether this machine lets us.
    pub fn is_possible(self, cluster: &Cluster) -> bool {
        match self {
            Fault::FullDisk | Fault::FailDisk => cluster.disk(0).is_some(),
            Fault::Clock => cluster.has_clocks(),
            _ => true,
        }
    }

    /// Whether it takes away what nobody else may have yet.
    pub fn needs_all(self) -> bool {
        matches!(self, Fault::Damage | Fault::Replace)
    }
}

/// How often each was done.
pub type Counts = BTreeMap<Fault, u64>;

/// What else happens while a partition moves.
const MEANWHILE: [Fault; 6] =
    [Fault::Kill, Fault::KillAll, Fault::Stop, Fault::Pause, Fault::Isolate, Fault::CutLink];

/// For a command that says where replicas are to be, after whatever came before.
const MOVE_PATIENCE: Duration = Duration::from_secs(60);

/// Longer than `broker.session.timeout.ms`, and as the dice say.
fn a_while(random: &mut Random) -> Duration {
    Duration::from_millis(300 + random.below(4700))
}

/// Does it, lets it last, and undoes it.
pub fn commit(
    fault: Fault,
    cluster: &mut Cluster,
    random: &mut Random,
    said: &mut dyn FnMut(String),
) -> anyhow::Result<()> {
    let place = random.below(NODES as u64) as usize;
    let others = [(place + 1) % NODES, (place + 2) % NODES];
    let time = a_while(random);
    let node = place + 1;
    match fault {
        Fault::Kill | Fault::KillStart => {
            said(format!("node {node} is killed for {time:?}"));
            cluster.kill(place);
            std::thread::sleep(time);
            if fault == Fault::KillStart {
                cluster.begin_start(place);
                std::thread::sleep(Duration::from_millis(random.below(400)));
                cluster.nodes[place].kill();
            }
            cluster.start_down();
        }
        Fault::KillAll => {
            said("all nodes are killed".to_owned());
            for place in [place, others[0], others[1]] {
                cluster.kill(place);
                std::thread::sleep(Duration::from_millis(random.below(20)));
            }
            cluster.start_down();
        }
        Fault::KillTwo => {
            said(format!("all but node {node} are killed for {time:?}"));
            others.iter().for_each(|place| cluster.kill(*place));
            std::thread::sleep(time);
            cluster.start_down();
        }
        Fault::Stop => {
            said(format!("node {node} is stopped for {time:?}"));
            cluster.stop(place);
            std::thread::sleep(time);
            cluster.start_down();
        }
        Fault::Rolling => {
            said("nodes are stopped and started one after the other".to_owned());
            for place in 0..NODES {
                cluster.stop(place);
                cluster.start_down();
            }
        }
        Fault::Pause | Fault::Hiccup => {
            let time = match fault {
                Fault::Pause => time + Duration::from_secs(2),
                _ => Duration::from_millis(20 + random.below(800)),
            };
            said(format!("node {node} stands still for {time:?}"));
            cluster.nodes[place].pause();
            std::thread::sleep(time);
            cluster.nodes[place].resume();
        }
        Fault::Isolate | Fault::Mute | Fault::Deafen => {
            said(format!("node {node}: {fault:?} for {time:?}"));
            for other in others {
                if fault != Fault::Deafen {
                    cluster.network.set(place, other, Way::Dark);
                }
                if fault != Fault::Mute {
                    cluster.network.set(other, place, Way::Dark);
                }
            }
            std::thread::sleep(time);
            cluster.network.heal();
        }
        Fault::CutLink => {
            said(format!("nodes {node} and {} do not reach each other for {time:?}", others[0] + 1));
            cluster.network.set(place, others[0], Way::Dark);
            cluster.network.set(others[0], place, Way::Dark);
            std::thread::sleep(time);
            cluster.network.heal();
        }
        Fault::Slow => {
            let late = Duration::from_millis(5 + random.below(100));
            said(format!("everything between nodes is {late:?} late for {time:?}"));
            (0..NODES)
                .for_each(|from| (0..NODES).for_each(|to| cluster.network.set(from, to, Way::Slow(late))));
            std::thread::sleep(time);
            cluster.network.heal();
        }
        Fault::Damage => {
            cluster.kill(place);
            let directories = cluster.nodes[place].data_dirs();
            let done = damage(&directories[random.below(directories.len() as u64) as usize], random)?;
            said(format!("node {node} is killed and damaged: {}", done.join("; ")));
            cluster.start_down();
        }
        Fault::FullDisk => {
            let Some(disk) = cluster.disk(place) else { return Ok(()) };
            said(format!("the disk of node {node} is full for {time:?}"));
            disk.fill();
            std::thread::sleep(time);
            disk.make_room();
        }
        Fault::FailDisk => {
            let Some(disk) = cluster.disk(place) else { return Ok(()) };
            said(format!("the disk of node {node} fails for {time:?}"));
            disk.break_down();
            std::thread::sleep(time);
            cluster.kill(place);
            let Some(disk) = cluster.disk(place) else { return Ok(()) };
            disk.unmount();
            disk.mount_again();
            cluster.start_down();
        }
        Fault::Clock => {
            let seconds = (1 + random.below(20 * 60)) as i64 * if random.one_in(2) { 1 } else { -1 };
            said(format!("the clock of node {node} is {seconds} s off for {time:?}"));
            cluster.set_clock(place, seconds)?;
            std::thread::sleep(time);
            cluster.set_clock(place, 0)?;
        }
        Fault::Replace => {
            said(format!("node {node} is replaced by an empty one"));
            cluster.kill(place);
            cluster.replace_by_empty(place)?;
        }
        Fault::Move => {
            let (topic, partitions) =
                if random.one_in(2) { (TOPIC, PARTITIONS) } else { (LEDGER, LEDGER_PARTITIONS) };
            let partition = random.below(partitions as u64).to_string();
            let to = |nodes: &[usize]| {
                nodes.iter().map(|place| (place + 1).to_string()).collect::<Vec<_>>().join(",")
            };
            let moved = |cluster: &Cluster, replicas: &str| {
                let which = ["cluster", "reassign", "--topic", topic, "--partition", &partition];
                cluster.run_at_last(&[&which[..], &["--replicas", replicas]].concat(), MOVE_PATIENCE)
            };
            said(format!("{topic}-{partition} leaves node {node}"));
            moved(cluster, &to(&others))?;
            let meanwhile = MEANWHILE[random.below(MEANWHILE.len() as u64) as usize];
            commit(meanwhile, cluster, random, said)?;
            said(format!("{topic}-{partition} comes back to node {node}"));
            moved(cluster, &to(&[others[1], place, others[0]]))?;
        }
    }
    Ok(())
}
