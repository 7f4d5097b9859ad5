//! Plans carried out: so many partitions on their way at a time, at a rate if one is asked for, waited for until they
//! are there, or until nothing moves any more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use kafka_protocol::messages::{DescribeLogDirsRequest, TopicName};
use odradek::cluster::balance::Assigned;
use odradek::config::value;

use super::super::Failure;
use super::super::brokers::{Cluster, Place, text};
use super::moving::{Ongoing, after_of, ongoing, pause, submit};
use super::{Load, State, TIMEOUT_MS, describe_brokers, throttle};

/// ElectLeaders: the first of the replicas, where it is in sync.
const PREFERRED: i8 = 0;

/// After so long without progress it is said what does not move.
const SAID_AFTER: Duration = Duration::from_secs(10);

/// As many as copy at once without one waiting for another for long.
const AT_A_TIME: usize = 20;

#[derive(Clone, Copy, Debug, Args)]
pub struct Carrying {
    /// Partitions on their way at a time
    #[arg(long, value_name = "N", default_value_t = AT_A_TIME)]
    pub at_a_time: usize,
    #[command(flatten)]
    pub pace: Pace,
}

/// How fast what moves is to be copied, and for how long to wait for what does not.
#[derive(Clone, Copy, Debug, Args)]
pub struct Pace {
    /// Bytes per second that each node sends, and takes, of what is copied (KIP-73), such as 50MB
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub throttle: Option<u64>,
    /// Give up once nothing has moved for so long; what is on its way stays so
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
}

fn rate(given: &str) -> Result<u64, String> {
    value::size(given, 1..=i64::MAX as u64).map_err(|expected| format!("expected {expected}"))
}

fn duration(given: &str) -> Result<Duration, String> {
    const SECOND: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
    value::duration(given, SECOND, SECOND..=LONGEST)
        .map_err(|_| "expected seconds, or a duration such as 90s, 10m or 2h".to_owned())
}

/// Has a plan carried out, and waits until all is there. Says on standard error how far it is, and what does not move.
///
/// `before`: the replicas that there are now.
pub fn carry_out(
    cluster: &mut Cluster,
    before: &[Assigned],
    plan: &[Assigned],
    carrying: Carrying,
) -> Result<(), Failure> {
    let rate = carrying.pace.throttle.filter(|_| !plan.is_empty());
    if let Some(rate) = rate {
        eprintln!(
            "copied at {rate} bytes per second; should this be interrupted, `odradek cluster reassign verify` takes \
             that away again"
        );
    }
    let moved = move_all(cluster, before, plan, carrying);
    // What is still on its way keeps it.
    let cleared = match rate {
        Some(_) => throttle::clear(cluster, Some(&plan.iter().map(|it| it.topic.clone()).collect())),
        None => Ok(Vec::new()),
    };
    moved?;
    cleared?;
    elect_preferred(cluster, plan)
}

fn move_all(
    cluster: &mut Cluster,
    before: &[Assigned],
    plan: &[Assigned],
    carrying: Carrying,
) -> Result<(), Failure> {
    let mut progress = Progress::new(plan.len());
    let begun = ongoing(cluster)?;
    let is_begun =
        |it: &&Assigned| begun.get(&place(it)).is_some_and(|moving| after_of(moving) == it.replicas);
    let (mut under_way, waiting): (Vec<&Assigned>, Vec<&Assigned>) = plan.iter().partition(is_begun);
    let mut waiting = VecDeque::from(waiting);
    if let Some(rate) = carrying.pace.throttle.filter(|_| !under_way.is_empty()) {
        throttle::set(cluster, before, &under_way.iter().copied().cloned().collect::<Vec<_>>(), rate)?;
    }
    let mut watch = Watch::new();
    loop {
        let now = ongoing(cluster)?;
        under_way.retain(|it| now.contains_key(&place(it)));
        let look = Look::at(cluster, &under_way, &now)?;
        // Those that cannot move do not keep others from it.
        let moving = under_way.len() - look.stuck.len();
        let count = waiting.len().min(carrying.at_a_time.max(1).saturating_sub(moving));
        let next: Vec<Assigned> = waiting.drain(..count).inspect(|it| under_way.push(*it)).cloned().collect();
        if !next.is_empty() {
            if let Some(rate) = carrying.pace.throttle {
                throttle::set(cluster, before, &next, rate)?;
            }
            submit(cluster, &next)?;
        }
        progress.show(plan.len() - waiting.len() - under_way.len());
        if under_way.is_empty() {
            break;
        }
        let idle = watch.idle(&look, !next.is_empty());
        if idle >= carrying.pace.timeout {
            progress.end();
            return Err(gives_up(&look, &under_way, idle).into());
        }
        if idle >= SAID_AFTER && watch.is_to_be_said(&look) {
            progress.end();
            look.stuck.iter().for_each(|(place, why)| eprintln!("{}: {why}", name(place)));
        }
        pause();
    }
    progress.end();
    Ok(())
}

fn place(it: &Assigned) -> Place {
    (it.topic.clone(), it.partition)
}

fn name((topic, partition): &Place) -> String {
    format!("{topic}-{partition}")
}

fn gives_up(look: &Look, under_way: &[&Assigned], idle: Duration) -> String {
    let mut said = format!("nothing has moved for {} s, which is what --timeout allows:\n", idle.as_secs());
    for it in under_way {
        let place = place(it);
        let why = look.stuck.get(&place).map_or("it is not copied any further", String::as_str);
        said.push_str(&format!("{}: {why}\n", name(&place)));
    }
    said.push_str(
        "they stay on their way: give the command again once what they wait for is there, or cancel them \
         (`odradek cluster reassign --topic TOPIC --partition N --cancel`)",
    );
    said
}

/// What is known of the partitions on their way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    /// Those that cannot move, and why.
    stuck: BTreeMap<Place, String>,
    in_sync: BTreeMap<Place, Vec<i32>>,
    /// Bytes of those that come, by partition and broker.
    sizes: BTreeMap<(Place, i32), i64>,
}

impl Look {
    fn at(
        cluster: &mut Cluster,
        under_way: &[&Assigned],
        now: &BTreeMap<Place, Ongoing>,
    ) -> Result<Look, Failure> {
        let mut look = Look::default();
        if under_way.is_empty() {
            return Ok(look);
        }
        let metadata = cluster.metadata(&under_way.iter().map(|it| it.topic.clone()).collect())?;
        let described = describe_brokers(cluster.any())?;
        let running = described.iter().filter(|broker| !matches!(Load::of(broker).state, State::Fenced));
        let running: BTreeSet<i32> = running.map(|broker| broker.broker_id.0).collect();
        let wanted: BTreeSet<Place> = under_way.iter().map(|it| place(it)).collect();
        for topic in &metadata.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for partition in &topic.partitions {
                let place = (name.clone(), partition.partition_index);
                let Some(moving) = now.get(&place).filter(|_| wanted.contains(&place)) else { continue };
                let ids = |brokers: &[kafka_protocol::messages::BrokerId]| {
                    brokers.iter().map(|id| id.0).collect::<Vec<i32>>()
                };
                let (in_sync, adding) = (ids(&partition.isr_nodes), ids(&moving.adding_replicas));
                let mut sources = ids(&partition.replica_nodes);
                sources.retain(|id| !adding.contains(id));
                let why = why_stuck(partition.leader_id.0, &sources, &adding, &running);
                look.stuck.extend(why.map(|why| (place.clone(), why)));
                look.in_sync.insert(place, in_sync);
            }
        }
        for broker in described.iter().filter(|broker| running.contains(&broker.broker_id.0)) {
            let id = broker.broker_id;
            let is_coming =
                |place: &&Place| now.get(*place).is_some_and(|moving| moving.adding_replicas.contains(&id));
            let coming: Vec<&Place> = wanted.iter().filter(is_coming).collect();
            let sizes = sizes(cluster, (&broker.host, broker.port), &coming);
            look.sizes.extend(sizes.into_iter().map(|(place, size)| ((place, id.0), size)));
        }
        Ok(look)
    }
}

/// Why a partition that is on its way does not get there, as far as brokers say who runs. `sources`: who has it.
fn why_stuck(leader: i32, sources: &[i32], adding: &[i32], running: &BTreeSet<i32>) -> Option<String> {
    let listed = |ids: &[i32]| ids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    if leader < 0 {
        let away: Vec<i32> = sources.iter().copied().filter(|id| !running.contains(id)).collect();
        return Some(match &away[..] {
            [] => "nobody leads it".to_owned(),
            away => format!("its source is not there: broker {}, which has it, does not run", listed(away)),
        });
    }
    let away: Vec<i32> = adding.iter().copied().filter(|id| !running.contains(id)).collect();
    // One that is there goes on copying; it is not done before all are.
    (!away.is_empty() && away.len() == adding.len())
        .then(|| format!("broker {}, which is to have it, does not run", listed(&away)))
}

/// What a broker has of these partitions; nothing of one that does not say.
fn sizes(cluster: &mut Cluster, (host, port): (&str, i32), of: &[&Place]) -> BTreeMap<Place, i64> {
    if of.is_empty() {
        return BTreeMap::new();
    }
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    of.iter().for_each(|(topic, partition)| topics.entry(topic).or_default().push(*partition));
    let topics = topics.into_iter().map(|(topic, partitions)| {
        DescribableLogDirTopic::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
    });
    let request = DescribeLogDirsRequest::default().with_topics(Some(topics.collect()));
    let said = cluster.broker(host, port).and_then(|client| Ok(client.send(|_| request)?));
    let Ok(response) = said else { return BTreeMap::new() };
    let mut sizes = BTreeMap::new();
    for topic in response.results.into_iter().flat_map(|dir| dir.topics) {
        for partition in &topic.partitions {
            sizes.insert((topic.name.to_string(), partition.partition_index), partition.partition_size);
        }
    }
    sizes
}

/// Since when nothing has moved.
struct Watch {
    last: Option<Look>,
    since: Instant,
    said: BTreeMap<Place, String>,
}

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "a person waits for it")]
    fn new() -> Watch {
        Watch { last: None, since: Instant::now(), said: BTreeMap::new() }
    }

    /// For how long it has looked as it does now. `has_begun`: more is on its way since.
    #[expect(clippy::disallowed_methods, reason = "a person waits for it")]
    fn idle(&mut self, look: &Look, has_begun: bool) -> Duration {
        let now = Instant::now();
        let is_same =
            self.last.as_ref().is_some_and(|last| last.sizes == look.sizes && last.in_sync == look.in_sync);
        if has_begun || !is_same {
            self.since = now;
        }
        self.last = Some(Look {
            stuck: look.stuck.clone(),
            in_sync: look.in_sync.clone(),
            sizes: look.sizes.clone(),
        });
        now.duration_since(self.since)
    }

    fn is_to_be_said(&mut self, look: &Look) -> bool {
        let is_new = !look.stuck.is_empty() && self.said != look.stuck;
        self.said = look.stuck.clone();
        is_new
    }
}

/// So that leaders are where the plan has them, without waiting for the controller to see to it. Who leads already, or
/// cannot yet, is no failure.
fn elect_preferred(cluster: &mut Cluster, plan: &[Assigned]) -> Result<(), Failure> {
    if plan.is_empty() || !cluster.any().offers::<ElectLeadersRequest>() {
        return Ok(());
    }
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    plan.iter().for_each(|it| topics.entry(&it.topic).or_default().push(it.partition));
    let topics = topics.into_iter().map(|(name, indexes)| {
        TopicPartitions::default().with_topic(TopicName(text(name))).with_partitions(indexes)
    });
    let request = ElectLeadersRequest::default()
        .with_election_type(PREFERRED)
        .with_timeout_ms(TIMEOUT_MS)
        .with_topic_partitions(Some(topics.collect()));
    cluster.any().send(|_| request)?;
    Ok(())
}

/// One line that is written over, on a terminal; else a line each time.
struct Progress {
    total: usize,
    done: usize,
    shown: Option<usize>,
}

impl Progress {
    fn new(total: usize) -> Progress {
        Progress { total, done: 0, shown: None }
    }

    fn show(&mut self, done: usize) {
        self.done = done;
        if self.shown == Some(done) {
            return;
        }
        self.shown = Some(done);
        let mut out = std::io::stderr().lock();
        let (start, end) = if out.is_terminal() { ("\r", "") } else { ("", "\n") };
        // It is for eyes only.
        let _ = write!(out, "{start}{done} of {} partitions moved{end}", self.total);
        let _ = out.flush();
    }

    fn end(&self) {
        if self.shown.is_some() && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuck(leader: i32, in_sync: &[i32], adding: &[i32], running: &[i32]) -> Option<String> {
        why_stuck(leader, in_sync, adding, &running.iter().copied().collect())
    }

    #[test]
    fn who_is_missing_is_said() {
        assert_eq!(stuck(1, &[1], &[2, 3], &[1, 2, 3]), None);
        assert_eq!(
            stuck(-1, &[1], &[2], &[2, 3]).as_deref(),
            Some("its source is not there: broker 1, which has it, does not run")
        );
        assert_eq!(
            stuck(-1, &[1], &[2], &[1, 2]).as_deref(),
            Some("nobody leads it"),
            "it has just come back"
        );
        assert_eq!(
            stuck(1, &[1], &[4], &[1, 2]).as_deref(),
            Some("broker 4, which is to have it, does not run")
        );
        assert_eq!(stuck(1, &[1], &[2, 4], &[1, 2]), None, "one of two is copied");
        assert_eq!(stuck(1, &[1, 2], &[], &[1]), None, "only removed");
    }

    #[test]
    fn nothing_moves_while_sizes_and_those_in_sync_stay() {
        let mut watch = Watch::new();
        let place = ("t".to_owned(), 0);
        let look = |size, in_sync: &[i32]| Look {
            stuck: BTreeMap::new(),
            in_sync: [(place.clone(), in_sync.to_vec())].into(),
            sizes: [((place.clone(), 4), size)].into(),
        };
        assert_eq!(watch.idle(&look(1, &[1]), false), Duration::ZERO);
        assert!(watch.idle(&look(1, &[1]), false) > Duration::ZERO);
        assert_eq!(watch.idle(&look(2, &[1]), false), Duration::ZERO, "more is copied");
        assert_eq!(watch.idle(&look(2, &[1, 4]), false), Duration::ZERO, "it is in sync");
        assert!(watch.idle(&look(2, &[1, 4]), false) > Duration::ZERO);
        assert_eq!(watch.idle(&look(2, &[1, 4]), true), Duration::ZERO, "more is on its way");
    }

    #[test]
    fn what_does_not_move_is_said_once() {
        let mut watch = Watch::new();
        let mut look = Look::default();
        assert!(!watch.is_to_be_said(&look));
        look.stuck.insert(("t".to_owned(), 0), "nobody leads it".to_owned());
        assert!(watch.is_to_be_said(&look));
        assert!(!watch.is_to_be_said(&look));
        look.stuck.insert(("t".to_owned(), 1), "nobody leads it".to_owned());
        assert!(watch.is_to_be_said(&look));
    }

    #[test]
    fn rates_and_times_are_as_people_write_them() {
        assert_eq!((rate("10MiB"), rate("700000")), (Ok(10 << 20), Ok(700_000)));
        assert!(rate("0").is_err(), "nothing would ever move");
        assert_eq!(
            (duration("90"), duration("10m")),
            (Ok(Duration::from_secs(90)), Ok(Duration::from_secs(600)))
        );
        assert!(duration("0").is_err());
    }
}
