//! What must hold for members of a consumer group, whichever client they are: every record is read once, by
//! whoever has its partition, while members come, leave, crash, and while the broker does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing};
use serde::Deserialize;
use serde_json::json;

use crate::client::{Answer, Kind};
use crate::driver::{Driver, parse};

const PARTITIONS: i32 = 6;
const TOPIC: &str = "shared";
const GROUP: &str = "sharing";

/// For one step: a session that ends takes six seconds, and a client that starts a few.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Each time, all members listen for so long.
const POLL_MS: u64 = 500;

/// How a group shares partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    Range,
    RoundRobin,
    Sticky,
    CooperativeSticky,
    /// Of the broker: the newer protocol (KIP-848).
    Uniform,
}

impl Assignor {
    fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::RoundRobin => "round-robin",
            Assignor::Sticky => "sticky",
            Assignor::CooperativeSticky => "cooperative-sticky",
            Assignor::Uniform => "uniform",
        }
    }
}

/// A client process in a group.
struct Member {
    driver: Driver,
    assigned: BTreeSet<i32>,
}

#[derive(Deserialize)]
struct Polled {
    assigned: BTreeSet<i32>,
    records: Vec<(i32, i64)>,
}

impl Member {
    fn join(kind: Kind, broker: &Broker, assignor: Assignor, instance: Option<&str>) -> Answer<Member> {
        let mut driver = kind.member(&broker.bootstrap());
        driver.send(&json!({
            "op": "join", "group": GROUP, "topic": TOPIC, "assignor": assignor.name(), "instance": instance,
        }))?;
        driver.receive()?;
        Ok(Member { driver, assigned: BTreeSet::new() })
    }

    fn ask(&mut self, operation: &str) -> Answer<()> {
        self.driver.send(&json!({ "op": operation }))?;
        self.driver.receive().map(drop)
    }
}

/// The broker, who writes to it, and what the members have read.
struct Play {
    broker: Broker,
    /// Records of each partition.
    written: i64,
    read: Vec<(i32, i64)>,
}

impl Play {
    fn start(routing: Routing) -> Play {
        let options = Options::new(routing)
            .set("offsets.topic.num.partitions", "4")
            .set("group.consumer.min.session.timeout.ms", "6000")
            .set("group.consumer.session.timeout.ms", "6000")
            .set("group.consumer.min.heartbeat.interval.ms", "500")
            .set("group.consumer.heartbeat.interval.ms", "500");
        let broker = Broker::start_with(options);
        PlainClient::connect(&broker).create_topic(TOPIC, PARTITIONS, &[]);
        Play { broker, written: 0, read: Vec::new() }
    }

    /// Writes some records to every partition.
    fn write(&mut self) {
        const COUNT: i64 = 20;
        let mut client = PlainClient::connect(&self.broker);
        for partition in 0..PARTITIONS {
            for number in 0..COUNT {
                let batch = Batch::of(&[format!("record {number}")], 1_700_000_000_000 + number);
                client.produce(TOPIC, partition, &batch);
            }
        }
        self.written += COUNT;
    }

    /// All members listen at once.
    fn poll(&mut self, members: &mut [&mut Member]) -> Answer<()> {
        for member in members.iter_mut() {
            member.driver.send(&json!({ "op": "poll", "ms": POLL_MS }))?;
        }
        for member in members.iter_mut() {
            let polled: Polled = parse(member.driver.receive()?)?;
            member.assigned = polled.assigned;
            self.read.extend(polled.records);
        }
        Ok(())
    }

    /// Until they share all partitions, each having some, twice in a row, and everything written is read.
    fn poll_until_shared(&mut self, members: &mut [&mut Member]) -> Answer<()> {
        let begun = Instant::now();
        let mut shared = 0;
        while shared < 2 || (self.read.len() as i64) < self.written * i64::from(PARTITIONS) {
            self.poll(members)?;
            let all: BTreeSet<i32> = members.iter().flat_map(|member| member.assigned.clone()).collect();
            let count: usize = members.iter().map(|member| member.assigned.len()).sum();
            let is_shared = count == PARTITIONS as usize && all.len() == count;
            let has_each = members.iter().all(|member| !member.assigned.is_empty());
            shared = if is_shared && has_each { shared + 1 } else { 0 };
            if begun.elapsed() > STEP_TIME_MAX {
                let assigned: Vec<_> = members.iter().map(|member| &member.assigned).collect();
                return Err(format!("{assigned:?}, {} of {} read", self.read.len(), self.written * 6));
            }
        }
        self.check_read()
    }

    /// Everything that was written was read, and once.
    fn check_read(&self) -> Answer<()> {
        let mut read = self.read.clone();
        read.sort_unstable();
        let written: Vec<(i32, i64)> =
            (0..PARTITIONS).flat_map(|partition| (0..self.written).map(move |at| (partition, at))).collect();
        if read == written {
            return Ok(());
        }
        let twice: Vec<_> = read.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        let missing: Vec<_> = written.iter().filter(|record| !read.contains(record)).collect();
        Err(format!("read twice: {twice:?}; not read: {missing:?}"))
    }
}

fn commit(members: &mut [&mut Member]) -> Answer<()> {
    members.iter_mut().try_for_each(|member| member.ask("commit"))
}

/// Members of one client come one after the other, one leaves, one is killed, and so is the broker.
pub fn members_share_a_topic(kind: Kind, routing: Routing, assignor: Assignor) {
    let mut play = Play::start(routing);
    if let Err(error) = share(&mut play, kind, assignor) {
        panic!("{} with {}: {error}", kind.name(), assignor.name());
    }
    play.broker.stop();
}

fn share(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    play.write();
    let mut first = Member::join(kind, &play.broker, assignor, None)?;
    play.poll_until_shared(&mut [&mut first]).map_err(step("one member"))?;
    commit(&mut [&mut first]).map_err(step("the first commit"))?;

    let mut second = Member::join(kind, &play.broker, assignor, None)?;
    let mut third = Member::join(kind, &play.broker, assignor, None)?;
    let all = &mut [&mut first, &mut second, &mut third];
    play.poll_until_shared(all).map_err(step("three members"))?;
    play.write();
    play.poll_until_shared(all).map_err(step("three members read"))?;
    commit(all).map_err(step("three commits"))?;

    second.ask("leave").map_err(step("leaving"))?;
    drop(second);
    play.poll_until_shared(&mut [&mut first, &mut third]).map_err(step("two members"))?;
    play.write();
    play.poll_until_shared(&mut [&mut first, &mut third]).map_err(step("two members read"))?;
    commit(&mut [&mut first, &mut third]).map_err(step("two commits"))?;

    drop(third); // Its process is killed.
    play.poll_until_shared(&mut [&mut first]).map_err(step("the one that is left"))?;
    play.broker.kill();
    play.broker.start_again();
    play.write();
    play.poll_until_shared(&mut [&mut first]).map_err(step("after the broker was killed"))?;
    commit(&mut [&mut first]).map_err(step("the commit after that"))?;
    first.ask("leave").map_err(step("leaving at last"))?;
    drop(first);

    let mut next = Member::join(kind, &play.broker, assignor, None)?;
    play.poll_until_shared(&mut [&mut next]).map_err(step("one that comes later"))?;
    play.write();
    play.poll_until_shared(&mut [&mut next]).map_err(step("what it reads"))?;
    next.ask("leave")
}

/// A static member is killed and started again within its session: it has the partitions that it had, and the
/// other one is not disturbed.
pub fn static_members_come_back(kind: Kind, assignor: Assignor) {
    let mut play = Play::start(Routing::Node);
    if let Err(error) = come_back(&mut play, kind, assignor) {
        panic!("{} with {}: {error}", kind.name(), assignor.name());
    }
    play.broker.stop();
}

fn come_back(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    play.write();
    let mut first = Member::join(kind, &play.broker, assignor, Some("first"))?;
    let mut second = Member::join(kind, &play.broker, assignor, Some("second"))?;
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    commit(&mut [&mut first, &mut second])?;
    let (kept, had) = (first.assigned.clone(), second.assigned.clone());
    let rebalances = metric(&play.broker, "odradek_group_rebalances_total");
    drop(second);
    let mut second = Member::join(kind, &play.broker, assignor, Some("second"))?;
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    if (&first.assigned, &second.assigned) != (&kept, &had) {
        return Err(format!("{had:?} became {:?}", second.assigned));
    }
    let after = metric(&play.broker, "odradek_group_rebalances_total");
    if rebalances == 0 || after != rebalances {
        return Err(format!("{rebalances} rebalances became {after}"));
    }
    play.write();
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    Ok(())
}

/// A counter of the broker, over all cores.
fn metric(broker: &Broker, name: &str) -> u64 {
    let (_, text) = broker.admin_get("/metrics");
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
