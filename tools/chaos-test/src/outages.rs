//! How long partitions take no records: leaders that are killed, nodes that are stopped.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use odradek_powerloss::process::check_interrupts;
use odradek_powerloss::random::Random;

use crate::cluster::Cluster;
use crate::faults::Counts;
use crate::load::{Load, PARTITIONS, Shared};
use crate::proxy::NODES;
use crate::rounds::{HEALED_WITHIN, Plan, judge, report, say_hanging, settle, wait_for_all_producers};

/// The longest that a partition may take no records where its leader is stopped.
const STOP_OUTAGE_MAX: Duration = Duration::from_secs(1);

/// Kills the leader of a partition again and again. Returns what was violated.
pub fn failover(plan: &Plan, rounds: u32, say: &mut impl FnMut(String)) -> anyhow::Result<Vec<String>> {
    let mut cluster = Cluster::create(plan).context("three nodes do not become a cluster")?;
    let shared = Shared::new(cluster.bootstrap());
    let load = Load::start(&shared, plan.seed);
    let mut random = Random::new(plan.seed);
    let mut times = Histogram::<u64>::new(3)?;
    let result = (|| -> anyhow::Result<()> {
        for round in 1..=rounds {
            settle(&cluster, &shared)?;
            std::thread::sleep(Duration::from_millis(random.below(1000)));
            let partition = random.below(PARTITIONS as u64) as usize;
            let leader = loop {
                check_interrupts()?;
                let leaders = cluster.look().map(|(leaders, _)| leaders).unwrap_or_default();
                if let Some(leader) = leaders.get(partition).filter(|leader| **leader > 0) {
                    break *leader as usize - 1;
                }
            };
            let killed = Instant::now();
            cluster.kill(leader);
            let acknowledged = loop {
                check_interrupts()?;
                if let Some(at) = shared.acknowledged_since(partition, killed) {
                    break at;
                }
                if killed.elapsed() > HEALED_WITHIN {
                    bail!(
                        "partition {partition} took no record {HEALED_WITHIN:?} after its leader was killed"
                    );
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            let time = u64::try_from(acknowledged.duration_since(killed).as_millis())?;
            times.record(time)?;
            say(format!("round {round}: node {} led partition {partition}, {time} ms", leader + 1));
            cluster.start_down();
        }
        Ok(())
    })();
    say_hanging(load.end(), say);
    result?;
    let violations = judge(&mut cluster, &shared)?;
    report(&shared, &Counts::new(), &Histogram::<u64>::new(3)?, say);
    say(format!(
        "from the kill of a leader to the next acknowledgement of a record sent after it, {rounds} rounds: median {} ms, \
         90 of 100 within {} ms, at most {} ms",
        times.value_at_quantile(0.5),
        times.value_at_quantile(0.9),
        times.max()
    ));
    Ok(violations)
}

/// Stops nodes again and again with SIGTERM, which are to let others lead first. Returns what was violated: also a
/// record that a client's retries did not get through, and one that took too long.
pub fn stops(plan: &Plan, rounds: u32, say: &mut impl FnMut(String)) -> anyhow::Result<Vec<String>> {
    let mut cluster = Cluster::create(plan).context("three nodes do not become a cluster")?;
    let shared = Shared::new(cluster.bootstrap());
    let load = Load::start(&shared, plan.seed);
    let mut random = Random::new(plan.seed);
    let (mut times, mut stops) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let mut violations = Vec::new();
    let result = (|| -> anyhow::Result<()> {
        for round in 1..=rounds {
            settle(&cluster, &shared)?;
            std::thread::sleep(Duration::from_millis(random.below(1000)));
            let place = random.below(NODES as u64) as usize;
            let leaders = loop {
                check_interrupts()?;
                match cluster.look() {
                    Some((leaders, _)) if leaders.len() == PARTITIONS => break leaders,
                    _ => {}
                }
            };
            let led = (0..PARTITIONS).filter(|partition| leaders[*partition] == place as i32 + 1);
            let led: Vec<usize> = led.collect();
            shared.forget_slowest();
            let stopped = Instant::now();
            cluster.stop(place);
            let took = stopped.elapsed();
            wait_for_all_producers(&shared, stopped + took)?;
            let slowest: Vec<Duration> = led.iter().map(|partition| shared.slowest(*partition)).collect();
            slowest.iter().try_for_each(|time| times.record(time.as_millis() as u64))?;
            stops.record(took.as_millis() as u64)?;
            let longest = slowest.into_iter().max().unwrap_or_default();
            say(format!(
                "round {round}: node {} led {} partitions, a record took {longest:?} at most; it was gone after {took:?}",
                place + 1,
                led.len()
            ));
            if longest > STOP_OUTAGE_MAX {
                violations.push(format!(
                    "round {round}: a record took {longest:?} while node {} stopped",
                    place + 1
                ));
            }
            cluster.start_down();
        }
        Ok(())
    })();
    say_hanging(load.end(), say);
    result?;
    violations.extend(judge(&mut cluster, &shared)?);
    let failed = shared.failed();
    if failed > 0 {
        violations.push(format!("{failed} records failed, which no stop of a node may cause"));
    }
    report(&shared, &Counts::new(), &Histogram::<u64>::new(3)?, say);
    say(format!(
        "while a leader was stopped, {rounds} stops, {} partitions led: the slowest record of each: median {} ms, 90 of 100 \
         within {} ms, at most {} ms; a stop took {} ms, at most {} ms",
        times.len(),
        times.value_at_quantile(0.5),
        times.value_at_quantile(0.9),
        times.max(),
        stops.value_at_quantile(0.5),
        stops.max()
    ));
    Ok(violations)
}
