//! What must hold for members of a consumer group, whichever client they are: every record is read once, by
//! whoever has its partition, while members come, leave, crash, and while the broker does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Answer, Client, Kind};
use crate::driver::{Driver, parse};
use crate::refusals::Refusal;

const PARTITIONS: i32 = 6;
const TOPIC: &str = "shared";
const GROUP: &str = "sharing";

/// For one step: a session that ends takes six seconds, and a client that starts a few.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);
/// Of twenty clients that start at once on a few cores.
const MANY_STEP_TIME_MAX: Duration = Duration::from_secs(180);

/// The shortest session that the broker allows by default.
const SESSION_MS: u64 = 6000;
/// Of many on a few cores, and of those that have to come back within it.
const LONG_SESSION_MS: u64 = 30_000;

const MANY: usize = 20;
const MANY_PARTITIONS: i32 = 24;
/// Each time, all members listen for so long.
const POLL_MS: u64 = 500;
/// Between two looks whether they have answered.
const POLL_LOOK: Duration = Duration::from_millis(10);

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
///
/// It is asked one thing at a time, and the others go on while it has not answered: some wait in a poll, or in
/// joining, until all members have joined.
struct Member {
    driver: Driver,
    asked: Asked,
    assigned: BTreeSet<i32>,
    /// Read, and not taken down yet.
    records: Vec<(i32, i64)>,
}

/// What a member has been asked and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    ToJoin,
    ToPoll,
}

#[derive(Deserialize)]
struct Polled {
    assigned: BTreeSet<i32>,
    records: Vec<(i32, i64)>,
}

impl Member {
    fn join(kind: Kind, broker: &Broker, assignor: Assignor, instance: Option<&str>) -> Answer<Member> {
        let mut member = Member::start(kind, broker, assignor, instance, SESSION_MS)?;
        member.settle()?;
        Ok(member)
    }

    /// Joins without waiting for it to have begun.
    fn start(
        kind: Kind,
        broker: &Broker,
        assignor: Assignor,
        instance: Option<&str>,
        session_ms: u64,
    ) -> Answer<Member> {
        let mut driver = kind.member(&broker.bootstrap());
        driver.send(&json!({
            "op": "join", "group": GROUP, "topic": TOPIC, "assignor": assignor.name(), "instance": instance,
            "session": session_ms,
        }))?;
        Ok(Member { driver, asked: Asked::ToJoin, assigned: BTreeSet::new(), records: Vec::new() })
    }

    /// Some of these kinds, side by side, without waiting for them.
    fn start_all(
        kinds: &[Kind],
        broker: &Broker,
        assignor: Assignor,
        instances: Option<&[String]>,
        session_ms: u64,
    ) -> Answer<Vec<Member>> {
        let start = |(number, kind): (usize, &Kind)| {
            let instance = instances.map(|instances| instances[number].as_str());
            Member::start(*kind, broker, assignor, instance, session_ms)
        };
        kinds.iter().enumerate().map(start).collect()
    }

    fn ask(&mut self, operation: &str) -> Answer<()> {
        self.settle()?;
        self.driver.send(&json!({ "op": operation }))?;
        self.driver.receive().map(drop)
    }

    /// Waits for what it has been asked.
    fn settle(&mut self) -> Answer<()> {
        match self.asked {
            Asked::Nothing => Ok(()),
            Asked::ToJoin | Asked::ToPoll => {
                let answer = self.driver.receive()?;
                self.answered(answer)
            }
        }
    }

    fn answered(&mut self, answer: serde_json::Value) -> Answer<()> {
        if std::mem::replace(&mut self.asked, Asked::Nothing) == Asked::ToPoll {
            let polled: Polled = parse(answer)?;
            self.assigned = polled.assigned;
            self.records.extend(polled.records);
        }
        Ok(())
    }
}

/// The broker, who writes to it, and what the members have read.
struct Play {
    broker: Broker,
    partitions: i32,
    step_time_max: Duration,
    /// Where reading begins in each partition.
    from: i64,
    /// Records of each partition.
    written: i64,
    read: Vec<(i32, i64)>,
}

impl Play {
    fn start(routing: Routing) -> Play {
        Play::with(routing, PARTITIONS, STEP_TIME_MAX)
    }

    fn with(routing: Routing, partitions: i32, step_time_max: Duration) -> Play {
        let options = Options::new(routing)
            .set("offsets.topic.num.partitions", "4")
            .set("group.consumer.min.session.timeout.ms", "6000")
            .set("group.consumer.session.timeout.ms", "6000")
            .set("group.consumer.min.heartbeat.interval.ms", "500")
            .set("group.consumer.heartbeat.interval.ms", "500");
        let broker = Broker::start_with(options);
        PlainClient::connect(&broker).create_topic(TOPIC, partitions, &[]);
        Play { broker, partitions, step_time_max, from: 0, written: 0, read: Vec::new() }
    }

    /// Writes some records to every partition.
    fn write(&mut self) {
        const COUNT: i64 = 20;
        let mut client = PlainClient::connect(&self.broker);
        for partition in 0..self.partitions {
            for number in 0..COUNT {
                let batch = Batch::of(&[format!("record {number}")], 1_700_000_000_000 + number);
                client.produce(TOPIC, partition, &batch);
            }
        }
        self.written += COUNT;
    }

    /// All members listen at once. Whether all have answered.
    fn poll(&mut self, members: &mut [&mut Member]) -> Answer<bool> {
        for member in members.iter_mut().filter(|member| member.asked == Asked::Nothing) {
            member.driver.send(&json!({ "op": "poll", "ms": POLL_MS }))?;
            member.asked = Asked::ToPoll;
        }
        let end = Instant::now() + Duration::from_millis(2 * POLL_MS);
        loop {
            for member in members.iter_mut() {
                if member.asked != Asked::Nothing
                    && let Some(answer) = member.driver.try_receive()?
                {
                    member.answered(answer)?;
                }
                self.read.append(&mut member.records);
            }
            let have_all = members.iter().all(|member| member.asked == Asked::Nothing);
            if have_all || Instant::now() > end {
                return Ok(have_all);
            }
            std::thread::sleep(POLL_LOOK);
        }
    }

    /// Until they share all partitions, each having some, twice in a row, and everything written is read.
    fn poll_until_shared(&mut self, members: &mut [&mut Member]) -> Answer<()> {
        self.poll_until_all(members)?;
        self.check_read()
    }

    /// Writes, and polls, some time after the broker was killed. A client that has given its session up joins again
    /// when it learns of that, which may be now; what others have read by then and not committed is read again. If
    /// the group has not rebalanced, nothing is.
    fn write_and_poll_after_kill(&mut self, members: &mut [&mut Member]) -> Answer<()> {
        let rebalances = |play: &Play| metric(&play.broker, "odradek_group_rebalances_total");
        let before = rebalances(self);
        self.write();
        self.poll_until_all(members)?;
        if rebalances(self) > before {
            self.read.sort_unstable();
            self.read.dedup();
        }
        self.check_read()
    }

    fn poll_until_all(&mut self, members: &mut [&mut Member]) -> Answer<()> {
        let begun = Instant::now();
        let mut shared = 0;
        let expected = (self.written - self.from) * i64::from(self.partitions);
        while shared < 2 || (self.read.len() as i64) < expected {
            let have_all = self.poll(members)?;
            let all: BTreeSet<i32> = members.iter().flat_map(|member| member.assigned.clone()).collect();
            let count: usize = members.iter().map(|member| member.assigned.len()).sum();
            let is_shared = count == self.partitions as usize && all.len() == count;
            let has_each = members.iter().all(|member| !member.assigned.is_empty());
            shared = if have_all && is_shared && has_each { shared + 1 } else { 0 };
            if begun.elapsed() > self.step_time_max {
                let assigned: Vec<_> = members.iter().map(|member| &member.assigned).collect();
                return Err(format!("{assigned:?}, {} of {expected} read", self.read.len()));
            }
        }
        Ok(())
    }

    /// Everything that was written was read, and once.
    fn check_read(&self) -> Answer<()> {
        let mut read = self.read.clone();
        read.sort_unstable();
        let of_partition = |partition| (self.from..self.written).map(move |at| (partition, at));
        let written: Vec<(i32, i64)> = (0..self.partitions).flat_map(of_partition).collect();
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

/// An operator looks how far a group is behind, sets its offsets back and deletes it, with the same client.
pub fn lag_and_reset(kind: Kind, assignor: Assignor) {
    let mut play = Play::start(Routing::Node);
    if let Err(error) = look_and_reset(&mut play, kind, assignor) {
        panic!("{}: {error}", kind.name());
    }
    play.broker.stop();
}

#[derive(Debug, PartialEq, Deserialize)]
struct Described {
    state: String,
    members: usize,
}

/// A client process of an operator.
struct Operator(Driver);

impl Operator {
    fn describe(&mut self) -> Answer<(String, usize)> {
        let described: Described = parse(self.0.ask(&json!({ "op": "describe", "group": GROUP }))?)?;
        Ok((described.state, described.members))
    }

    fn groups(&mut self) -> Answer<Vec<String>> {
        parse(self.0.ask(&json!({ "op": "groups" }))?["groups"].take())
    }

    fn offsets(&mut self) -> Answer<BTreeMap<i32, i64>> {
        let answer = self.0.ask(&json!({ "op": "positions", "group": GROUP, "topic": TOPIC }))?;
        let offsets: Vec<(i32, i64)> = parse(answer["offsets"].clone())?;
        Ok(offsets.into_iter().collect())
    }

    /// Records of each partition that the group has not read.
    fn lag(&mut self) -> Answer<Vec<i64>> {
        let offsets = self.offsets()?;
        offsets.into_iter().map(|(partition, at)| Ok(self.0.ends(TOPIC, partition)?.latest - at)).collect()
    }

    fn reset_request(to: i64) -> Value {
        let offsets: Vec<(i32, i64)> = (0..PARTITIONS).map(|partition| (partition, to)).collect();
        json!({ "op": "reset", "group": GROUP, "topic": TOPIC, "offsets": offsets })
    }

    fn reset(&mut self, to: i64) -> Answer<()> {
        self.0.ask(&Operator::reset_request(to)).map(drop)
    }

    fn delete_request() -> Value {
        json!({ "op": "delete", "group": GROUP })
    }

    fn delete(&mut self) -> Answer<()> {
        self.0.ask(&Operator::delete_request()).map(drop)
    }
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Answer<()> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, and not {expected:?}")) }
}

fn look_and_reset(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    let of_each = |at: i64| (0..PARTITIONS).map(|partition| (partition, at)).collect::<BTreeMap<_, _>>();
    let mut operator = Operator(kind.member(&play.broker.bootstrap()));
    play.write();
    let mut member = Member::join(kind, &play.broker, assignor, None)?;
    play.poll_until_shared(&mut [&mut member]).map_err(step("one member"))?;
    commit(&mut [&mut member])?;
    play.write();
    expect("groups", operator.groups().map_err(step("groups"))?, vec![GROUP.to_owned()])?;
    expect("described", operator.describe().map_err(step("describe"))?, ("Stable".to_owned(), 1))?;
    expect("offsets", operator.offsets().map_err(step("offsets"))?, of_each(20))?;
    expect("lag", operator.lag().map_err(step("lag"))?, vec![20; PARTITIONS as usize])?;
    let refused = operator.0.expect_refused(&Operator::reset_request(5), kind.says(Refusal::NoMember));
    refused.map_err(step("reset of a group with members"))?;
    if kind.abilities().deletes_groups {
        let refused =
            operator.0.expect_refused(&Operator::delete_request(), kind.says(Refusal::NonEmptyGroup));
        refused.map_err(step("deletion of a group with members"))?;
    }
    play.poll_until_shared(&mut [&mut member]).map_err(step("the member goes on"))?;
    commit(&mut [&mut member])?;
    expect("lag", operator.lag()?, vec![0; PARTITIONS as usize])?;
    member.ask("leave")?;
    drop(member);

    expect("described", operator.describe()?, ("Empty".to_owned(), 0))?;
    operator.reset(5).map_err(step("reset"))?;
    expect("offsets", operator.offsets()?, of_each(5))?;
    expect("lag", operator.lag()?, vec![35; PARTITIONS as usize])?;
    (play.from, play.read) = (5, Vec::new());
    let mut member = Member::join(kind, &play.broker, assignor, None)?;
    play.poll_until_shared(&mut [&mut member]).map_err(step("what was set back is read again"))?;
    member.ask("leave")?;
    drop(member);
    if kind.abilities().deletes_groups {
        operator.delete().map_err(step("delete"))?;
        expect("groups", operator.groups()?, Vec::new())?;
    }
    Ok(())
}

/// Twenty members of these kinds in turn: nineteen come at once, some leave, some are killed, new ones come.
pub fn twenty_members_share_a_topic(kinds: &[Kind], assignor: Assignor) {
    let mut play = Play::with(Routing::Node, MANY_PARTITIONS, MANY_STEP_TIME_MAX);
    if let Err(error) = share_among_many(&mut play, kinds, assignor) {
        panic!("{kinds:?} with {}: {error}", assignor.name());
    }
    play.broker.stop();
}

fn all(members: &mut [Member]) -> Vec<&mut Member> {
    members.iter_mut().collect()
}

/// All at once: a client that is joining leaves when it has joined, for which it needs those that are still there.
fn leave(members: &mut [Member]) -> Answer<()> {
    for member in members.iter_mut() {
        member.settle()?;
        member.driver.send(&json!({ "op": "leave" }))?;
    }
    members.iter_mut().try_for_each(|member| member.driver.receive().map(drop))
}

fn share_among_many(play: &mut Play, kinds: &[Kind], assignor: Assignor) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    let kinds: Vec<Kind> = kinds.iter().copied().cycle().take(MANY).collect();
    play.write();
    let mut members = Member::start_all(&kinds[..1], &play.broker, assignor, None, LONG_SESSION_MS)?;
    play.poll_until_shared(&mut all(&mut members)).map_err(step("one member"))?;
    commit(&mut all(&mut members))?;
    members.extend(Member::start_all(&kinds[1..], &play.broker, assignor, None, LONG_SESSION_MS)?);
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members"))?;
    play.write();
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members read"))?;
    commit(&mut all(&mut members)).map_err(step("twenty commits"))?;

    leave(&mut members.split_off(MANY - 4)).map_err(step("leaving"))?;
    play.poll_until_shared(&mut all(&mut members)).map_err(step("some have left"))?;
    commit(&mut all(&mut members))?;
    drop(members.drain(..5)); // Their processes are killed; the leader may be among them.
    play.poll_until_shared(&mut all(&mut members)).map_err(step("some were killed"))?;
    commit(&mut all(&mut members))?;
    members.extend(Member::start_all(
        &kinds[..MANY - members.len()],
        &play.broker,
        assignor,
        None,
        LONG_SESSION_MS,
    )?);
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members again"))?;
    play.write();
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members read again"))?;
    commit(&mut all(&mut members)).map_err(step("their commits"))?;
    play.broker.kill();
    play.broker.start_again();
    // A client that has given its session up joins again: who reads meanwhile may have to let go uncommitted.
    play.poll_until_shared(&mut all(&mut members)).map_err(step("after the broker was killed"))?;
    play.write_and_poll_after_kill(&mut all(&mut members)).map_err(step("what they read then"))?;
    leave(&mut members).map_err(step("leaving at last"))
}

/// Twenty members of these kinds in turn come at once, some leave, others come, and the broker is killed.
pub fn twenty_members_come_and_go(kinds: &[Kind], assignor: Assignor) {
    let mut play = Play::with(Routing::Node, MANY_PARTITIONS, MANY_STEP_TIME_MAX);
    if let Err(error) = come_and_go(&mut play, kinds, assignor) {
        panic!("{kinds:?} with {}: {error}", assignor.name());
    }
    play.broker.stop();
}

fn come_and_go(play: &mut Play, kinds: &[Kind], assignor: Assignor) -> Answer<()> {
    const COUNT: usize = 4;
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    let start = |play: &Play, count: usize| {
        let kinds: Vec<Kind> = kinds.iter().copied().cycle().take(count).collect();
        Member::start_all(&kinds, &play.broker, assignor, None, LONG_SESSION_MS)
    };
    let mut members = start(play, MANY)?;
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members"))?;
    play.write();
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members read"))?;
    commit(&mut all(&mut members)).map_err(step("twenty commits"))?;

    leave(&mut members.drain(..COUNT).collect::<Vec<_>>()).map_err(step("leaving"))?;
    play.poll_until_shared(&mut all(&mut members)).map_err(step("some have left"))?;
    members.extend(start(play, COUNT)?);
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members again"))?;
    play.broker.kill();
    play.broker.start_again();
    // A client that has given its session up joins again: who reads meanwhile may have to let go uncommitted.
    play.poll_until_shared(&mut all(&mut members)).map_err(step("after the broker was killed"))?;
    play.write_and_poll_after_kill(&mut all(&mut members)).map_err(step("what they read then"))?;
    commit(&mut all(&mut members)).map_err(step("their commits"))?;
    leave(&mut members).map_err(step("leaving at last"))
}

/// Three of twenty static members are killed and started again: nobody is disturbed, and they have what they had.
pub fn some_of_twenty_static_members_come_back(kind: Kind, assignor: Assignor) {
    let mut play = Play::with(Routing::Node, MANY_PARTITIONS, MANY_STEP_TIME_MAX);
    if let Err(error) = some_come_back(&mut play, kind, assignor) {
        panic!("{} with {}: {error}", kind.name(), assignor.name());
    }
    play.broker.stop();
}

fn some_come_back(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    const COUNT: usize = 3;
    let kinds = vec![kind; MANY];
    let instances: Vec<String> = (0..MANY).map(|number| format!("instance-{number}")).collect();
    play.write();
    let mut members = Member::start_all(&kinds, &play.broker, assignor, Some(&instances), LONG_SESSION_MS)?;
    play.poll_until_shared(&mut all(&mut members))?;
    commit(&mut all(&mut members))?;
    let had: Vec<BTreeSet<i32>> = members.iter().map(|member| member.assigned.clone()).collect();
    let rebalances = metric(&play.broker, "odradek_group_rebalances_total");
    drop(members.drain(..COUNT));
    let back = Member::start_all(
        &kinds[..COUNT],
        &play.broker,
        assignor,
        Some(&instances[..COUNT]),
        LONG_SESSION_MS,
    )?;
    members.splice(0..0, back);
    play.write();
    play.poll_until_shared(&mut all(&mut members))?;
    let have: Vec<BTreeSet<i32>> = members.iter().map(|member| member.assigned.clone()).collect();
    expect("assigned", have, had)?;
    let after = metric(&play.broker, "odradek_group_rebalances_total");
    if rebalances == 0 || after != rebalances {
        return Err(format!("{rebalances} rebalances became {after}"));
    }
    Ok(())
}

/// A counter of the broker, over all cores.
fn metric(broker: &Broker, name: &str) -> u64 {
    let (_, text) = broker.admin_get("/metrics");
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
