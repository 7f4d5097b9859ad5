//! Faults one after the other under load, quiet moments between them, and the verdict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use odradek_powerloss::process::check_interrupts;
use odradek_powerloss::random::Random;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::cluster::Cluster;
use crate::faults::{Counts, Fault, commit};
use crate::history::Outcome;
use crate::load::{GROUP, LEDGER, LEDGER_PARTITIONS, Load, PARTITIONS, PRODUCERS, Shared, TOPIC};
use crate::probes::coordinators_serve;
use crate::proxy::NODES;

/// Once the last fault has ended, everything has to be served within (SAFETY 10).
pub const HEALED_WITHIN: Duration = Duration::from_secs(60);
/// So long a group may take to be one again and commit.
const GROUP_PATIENCE: Duration = Duration::from_secs(20);
const READ_PATIENCE: Duration = Duration::from_secs(120);

/// Faults between two quiet moments, in which all replicas have to be in sync.
const SERIES: usize = 6;

pub struct Plan {
    pub time: Duration,
    pub seed: u64,
    pub faults: Vec<Fault>,
    /// Of the nodes.
    pub settings: Vec<(String, String)>,
    pub cores: usize,
    /// Of each node.
    pub log_dirs: usize,
    /// An executable: nodes are of this one and of the one beside this program, in turn.
    pub other_build: Option<PathBuf>,
}

/// Faults for a time. Returns what was violated.
pub fn chaos(plan: &Plan, say: &mut impl FnMut(String)) -> anyhow::Result<Vec<String>> {
    let mut cluster = Cluster::create(plan).context("three nodes do not become a cluster")?;
    let shared = Shared::new(cluster.bootstrap());
    let load = Load::start(&shared, plan.seed);
    let mut random = Random::new(plan.seed);
    let (mut counts, mut healings) = (Counts::new(), Histogram::<u64>::new(3)?);
    let faults: Vec<Fault> =
        plan.faults.iter().copied().filter(|fault| fault.is_possible(&cluster)).collect();
    anyhow::ensure!(!faults.is_empty(), "none of these faults can be made here");
    // Each comes before any comes again.
    let mut deck = Vec::new();
    let begun = Instant::now();
    let result = (|| -> anyhow::Result<Vec<String>> {
        while begun.elapsed() < plan.time {
            for _ in 0..SERIES {
                check_interrupts()?;
                if deck.is_empty() {
                    deck.clone_from(&faults);
                }
                let fault = deck.swap_remove(random.below(deck.len() as u64) as usize);
                let mut said = |what| say(format!("{:7.1} s  {what}", begun.elapsed().as_secs_f64()));
                if fault.needs_all() {
                    // What one node loses the others are to have.
                    cluster.wait_until_whole(HEALED_WITHIN)?;
                }
                commit(fault, &mut cluster, &mut random, &mut said)?;
                *counts.entry(fault).or_default() += 1;
                std::thread::sleep(Duration::from_millis(random.below(1500)));
                if begun.elapsed() >= plan.time {
                    break;
                }
            }
            let healed = settle(&cluster, &shared)?;
            healings.record(u64::try_from(healed.as_millis())?)?;
            let violations = shared.violations();
            if !violations.is_empty() {
                return Ok(violations);
            }
        }
        Ok(Vec::new())
    })();
    if result.is_err() {
        cluster.describe().into_iter().for_each(&mut *say); // As long as it is as it was.
    }
    say_hanging(load.end(), say);
    let mut violations = result?;
    violations.extend(judge(&mut cluster, &shared)?);
    report(&shared, &counts, &healings, say);
    Ok(violations)
}

/// Waits until all replicas are in sync and each partition takes records, and for the group to commit; then for
/// coordinators to serve others. Returns how long the former took.
pub fn settle(cluster: &Cluster, shared: &Arc<Shared>) -> anyhow::Result<Duration> {
    let since = Instant::now();
    cluster.wait_until_whole(HEALED_WITHIN)?;
    // Members of librdkafka may stand still for good: what they have not said is not held against the nodes.
    let commits = shared.commits.load(Ordering::Relaxed);
    let asked = Instant::now();
    while shared.commits.load(Ordering::Relaxed) == commits && asked.elapsed() < GROUP_PATIENCE {
        check_interrupts()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_for_all_producers(shared, Instant::now())?;
    let took = since.elapsed();
    coordinators_serve(shared, since, HEALED_WITHIN)?;
    Ok(took)
}

/// Until each has had a record acknowledged in each partition that was sent after that.
pub fn wait_for_all_producers(shared: &Shared, since: Instant) -> anyhow::Result<()> {
    let all = (0..PARTITIONS).flat_map(|partition| (0..PRODUCERS).map(move |producer| (partition, producer)));
    for (partition, producer) in all {
        while shared.acknowledged_to(producer, partition, since).is_none() {
            check_interrupts()?;
            if since.elapsed() > HEALED_WITHIN {
                shared.said_in(producer).iter().for_each(|line| eprintln!("producer {producer}: {line}"));
                bail!(
                    "partition {partition} takes no record of producer {producer} {HEALED_WITHIN:?} after the last fault"
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Reads everything, and compares what the nodes have once they are stopped.
pub fn judge(cluster: &mut Cluster, shared: &Shared) -> anyhow::Result<Vec<String>> {
    cluster.wait_until_whole(HEALED_WITHIN)?;
    let mut broken = Vec::new();
    for partition in 0..PARTITIONS {
        match shared.read_whole(TOPIC, partition as i32, "read_uncommitted", READ_PATIENCE) {
            Ok(records) => lock(&shared.history).read_whole(partition, &records),
            Err(error) => broken.push(error),
        }
    }
    // A transaction that nobody ends is aborted when its time is over.
    let mut parts = Vec::new();
    for partition in 0..LEDGER_PARTITIONS {
        match shared.read_whole(LEDGER, partition as i32, "read_committed", READ_PATIENCE) {
            Ok(records) => parts.push(records),
            Err(error) => broken.push(error),
        }
    }
    if parts.len() == LEDGER_PARTITIONS {
        broken.extend(lock(&shared.ledger).check(&parts));
    }
    broken.extend(check_group(shared)?);
    broken.extend(said_nothing(shared));
    broken.extend(shared.violations());
    (0..NODES).for_each(|place| cluster.stop(place));
    broken.extend(cluster.compare_replicas()?);
    Ok(broken)
}

/// Where nobody was told anything nothing is proven.
fn said_nothing(shared: &Shared) -> Option<String> {
    let history = lock(&shared.history);
    let committed =
        lock(&shared.ledger).outcomes.values().filter(|it| **it == Outcome::Committed).count() as u64;
    let commits = shared.commits.load(Ordering::Relaxed);
    let all = [("acknowledgements", history.acknowledged), ("reads", history.read)];
    let all =
        all.into_iter().chain([("committed transactions", committed), ("commits of the group", commits)]);
    let none = all.filter(|(_, count)| *count == 0).map(|(what, _)| what).collect::<Vec<_>>();
    (!none.is_empty()).then(|| format!("there were no {}", none.join(", no ")))
}

/// What a group has committed and heard of is not taken back (SAFETY 6).
fn check_group(shared: &Shared) -> anyhow::Result<Vec<String>> {
    let mut config = shared.config();
    let consumer: BaseConsumer = config.set("group.id", GROUP).create()?;
    let mut list = TopicPartitionList::new();
    let committed = lock(&shared.committed).clone();
    for partition in committed.keys() {
        list.add_partition(TOPIC, *partition);
    }
    let found = consumer.committed_offsets(list, Duration::from_secs(30))?;
    let back = committed.iter().filter_map(|(partition, offset)| {
        let found = found.find_partition(TOPIC, *partition)?.offset().to_raw()?;
        (found < *offset).then(|| format!("the group committed {partition}:{offset} and is at {found}"))
    });
    Ok(back.collect())
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub fn say_hanging(count: usize, say: &mut impl FnMut(String)) {
    if count > 0 {
        say(format!("{count} clients stand still in librdkafka"));
    }
}

pub fn report(shared: &Shared, counts: &Counts, healings: &Histogram<u64>, say: &mut impl FnMut(String)) {
    let done: Vec<String> = counts.iter().map(|(fault, count)| format!("{count} {fault:?}")).collect();
    if !done.is_empty() {
        say(format!("faults: {}", done.join(", ")));
    }
    let history = lock(&shared.history);
    say(format!(
        "records: {} acknowledged, {} failed, {} read; {} producers replaced; {} commits of the group; {} probes of \
         coordinators",
        history.acknowledged,
        history.failed,
        history.read,
        shared.replaced.load(Ordering::Relaxed),
        shared.commits.load(Ordering::Relaxed),
        shared.probes(),
    ));
    let ledger = lock(&shared.ledger);
    let count = |wanted| ledger.outcomes.values().filter(|outcome| **outcome == wanted).count();
    say(format!(
        "transactions: {} committed, {} aborted, {} that nobody knows of",
        count(Outcome::Committed),
        count(Outcome::Aborted),
        count(Outcome::Unknown)
    ));
    if !healings.is_empty() {
        say(format!(
            "all in sync and every partition taking records: median {} ms, at most {} ms after the last fault of a series",
            healings.value_at_quantile(0.5),
            healings.max()
        ));
    }
}
