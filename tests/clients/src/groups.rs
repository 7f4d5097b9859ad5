//! What must hold for members of a consumer group, whichever client they are: every record is read once, by
//! whoever has its partition, while members come, leave, crash, and while the broker does.
//!
//! | file | what it does |
//! |---|---|
//! | `operator.rs` | looks how far a group is behind, sets it back and deletes it |
//! | `twenty.rs` | groups of twenty members |

mod operator;
mod twenty;

pub use operator::lag_and_reset;
pub use twenty::{
    some_of_twenty_static_members_come_back, twenty_members_come_and_go, twenty_members_share_a_topic,
};

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing};
use serde::Deserialize;
use serde_json::{Value, json};

use self::operator::Operator;
use crate::client::{Answer, Kind};
use crate::driver::{Driver, parse};
use crate::kcat::Kcat;

const PARTITIONS: i32 = 6;
const TOPIC: &str = "shared";
const GROUP: &str = "sharing";

/// For one step: a session that ends takes six seconds, and a client that starts a few.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// The shortest session that the broker allows by default.
const SESSION_MS: u64 = 6000;
/// Of many on a few cores, and of those that have to come back within it.
const LONG_SESSION_MS: u64 = 30_000;

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
    fn join(kind: Kind, broker: &Broker, assignor: Assignor) -> Answer<Member> {
        let mut member = Member::start(kind, broker, assignor, None, SESSION_MS)?;
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
        Member::ask_to_join(
            kind,
            broker,
            &json!({
                "op": "join", "group": GROUP, "topic": TOPIC, "assignor": assignor.name(), "instance": instance,
                "session": session_ms,
            }),
        )
    }

    /// Of whatever matches.
    fn of_pattern(kind: Kind, broker: &Broker, pattern: &str) -> Answer<Member> {
        let mut member = Member::ask_to_join(
            kind,
            broker,
            &json!({
                "op": "join", "group": GROUP, "topic": pattern, "assignor": Assignor::Uniform.name(),
                "instance": null, "pattern": true,
            }),
        )?;
        member.settle()?;
        Ok(member)
    }

    fn ask_to_join(kind: Kind, broker: &Broker, request: &Value) -> Answer<Member> {
        let mut driver = kind.member(&broker.bootstrap());
        driver.send(request)?;
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
    /// By a client that forgets what is committed now and then.
    may_read_twice: bool,
}

impl Play {
    fn start(routing: Routing) -> Play {
        Play::with_sessions(routing, PARTITIONS, STEP_TIME_MAX, SESSION_MS)
    }

    /// Of the newer protocol, in which the broker says how long they are.
    fn with_sessions(routing: Routing, partitions: i32, step_time_max: Duration, session_ms: u64) -> Play {
        let options = Options::new(routing)
            .set("offsets.topic.num.partitions", "4")
            .set("group.consumer.min.session.timeout.ms", "6000")
            .set("group.consumer.session.timeout.ms", &session_ms.to_string())
            .set("group.consumer.min.heartbeat.interval.ms", "500")
            .set("group.consumer.heartbeat.interval.ms", "500");
        let broker = Broker::start_with(options);
        PlainClient::connect(&broker).create_topic(TOPIC, partitions, &[]);
        Play {
            broker,
            partitions,
            step_time_max,
            from: 0,
            written: 0,
            read: Vec::new(),
            may_read_twice: false,
        }
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
                if self.may_read_twice {
                    self.read.sort_unstable();
                    self.read.dedup();
                }
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

    /// All commit. One that has not heard of the group's newest epoch yet is refused, and hears of it when it polls.
    fn commit_at_last(&mut self, members: &mut [&mut Member]) -> Answer<()> {
        let begun = Instant::now();
        loop {
            match commit(members) {
                Err(_) if begun.elapsed() < self.step_time_max => self.poll(members)?,
                done => return done,
            };
        }
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
    // The newer protocol in Java 3.9: a partition that comes while it looks up where others go on begins anew
    // (KAFKA-17674).
    play.may_read_twice = kind == Kind::Java3 && assignor == Assignor::Uniform;
    if let Err(error) = share(&mut play, kind, assignor) {
        panic!("{} with {}: {error}", kind.name(), assignor.name());
    }
    play.broker.stop();
}

fn share(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    play.write();
    let mut first = Member::join(kind, &play.broker, assignor)?;
    play.poll_until_shared(&mut [&mut first]).map_err(step("one member"))?;
    commit(&mut [&mut first]).map_err(step("the first commit"))?;

    let mut second = Member::join(kind, &play.broker, assignor)?;
    let mut third = Member::join(kind, &play.broker, assignor)?;
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
    play.write_and_poll_after_kill(&mut [&mut first]).map_err(step("after the broker was killed"))?;
    commit(&mut [&mut first]).map_err(step("the commit after that"))?;
    first.ask("leave").map_err(step("leaving at last"))?;
    drop(first);

    let mut next = Member::join(kind, &play.broker, assignor)?;
    play.poll_until_shared(&mut [&mut next]).map_err(step("one that comes later"))?;
    play.write();
    play.poll_until_shared(&mut [&mut next]).map_err(step("what it reads"))?;
    next.ask("leave")
}

/// kcat as the only member, which goes once it has read what it was to, and comes again.
pub fn kcat_goes_on() {
    let mut play = Play::start(Routing::Node);
    let kcat = Kcat::new(&play.broker.bootstrap());
    for time in ["the first time", "the second time"] {
        play.write();
        let count = play.written as usize * PARTITIONS as usize - play.read.len();
        let read = kcat.read_as_member(GROUP, TOPIC, count);
        play.read.extend(read.unwrap_or_else(|error| panic!("{time}: {error}")));
        play.check_read().unwrap_or_else(|error| panic!("{time}: {error}"));
    }
    play.broker.stop();
}

/// A static member is killed and started again within its session: it has the partitions that it had, and the
/// other one is not disturbed.
pub fn static_members_come_back(kind: Kind, assignor: Assignor) {
    let mut play = Play::with_sessions(Routing::Node, PARTITIONS, STEP_TIME_MAX, LONG_SESSION_MS);
    if let Err(error) = come_back(&mut play, kind, assignor) {
        panic!("{} with {}: {error}", kind.name(), assignor.name());
    }
    play.broker.stop();
}

fn come_back(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    let join = |play: &Play, instance| {
        let mut member = Member::start(kind, &play.broker, assignor, Some(instance), LONG_SESSION_MS)?;
        member.settle()?;
        Ok::<_, String>(member)
    };
    let mut first = join(play, "first")?;
    let mut second = join(play, "second")?;
    // Whoever is there first has everything, and would read it.
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    play.write();
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    commit(&mut [&mut first, &mut second])?;
    let (kept, had) = (first.assigned.clone(), second.assigned.clone());
    let rebalances = metric(&play.broker, "odradek_group_rebalances_total");
    if assignor == Assignor::Uniform {
        // Who crashes has its place until its session ends; who goes leaves it to the next of its name.
        second.ask("leave")?;
    }
    drop(second);
    let mut second = join(play, "second")?;
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    if (&first.assigned, &second.assigned) != (&kept, &had) {
        return Err(format!("{had:?} became {:?}", second.assigned));
    }
    let after = metric(&play.broker, "odradek_group_rebalances_total");
    // The newer protocol has none.
    let have_been = rebalances > 0 || assignor == Assignor::Uniform;
    if !have_been || after != rebalances {
        return Err(format!("{rebalances} rebalances became {after}"));
    }
    play.write();
    play.poll_until_shared(&mut [&mut first, &mut second])?;
    Ok(())
}

/// A group moves from the protocol and the client of one assignor to another while it reads, and back.
pub fn members_change_their_protocol(before: (Kind, Assignor), after: (Kind, Assignor)) {
    let mut play = Play::start(Routing::Node);
    if let Err(error) = change_protocol(&mut play, before, after) {
        panic!("{before:?} and {after:?}: {error}");
    }
    play.broker.stop();
}

fn change_protocol(play: &mut Play, before: (Kind, Assignor), after: (Kind, Assignor)) -> Answer<()> {
    let mut members = Vec::new();
    for _ in 0..2 {
        members.push(Member::join(before.0, &play.broker, before.1)?);
    }
    play.poll_until_shared(&mut all(&mut members)).map_err(|error| format!("before: {error}"))?;
    play.write();
    play.poll_until_shared(&mut all(&mut members)).map_err(|error| format!("before: {error}"))?;
    for (to, (kind, assignor)) in [("there", after), ("back", before)] {
        for number in 0..2 {
            let step = |what: &str| {
                let what = what.to_owned();
                move |error: String| format!("{to}, {number}, {what}: {error}")
            };
            // What is read is committed before a partition goes to another one.
            play.commit_at_last(&mut all(&mut members)).map_err(step("commit"))?;
            members.push(Member::join(kind, &play.broker, assignor)?);
            play.poll_until_shared(&mut all(&mut members)).map_err(step("one of the other protocol"))?;
            play.write();
            play.poll_until_shared(&mut all(&mut members)).map_err(step("what they read"))?;
            play.commit_at_last(&mut all(&mut members)).map_err(step("commit"))?;
            members[0].ask("leave").map_err(step("one leaves"))?;
            drop(members.remove(0));
            play.poll_until_shared(&mut all(&mut members)).map_err(step("one has left"))?;
        }
        let mut operator = Operator(kind.member(&play.broker.bootstrap()));
        let described = operator.described()?;
        let expected = if assignor == Assignor::Uniform { "Consumer" } else { "Classic" };
        expect("type", described.r#type.as_deref(), Some(expected))?;
    }
    leave(&mut members)
}

/// Topics that a regular expression matches are read, those that come later too, and no others.
pub fn members_follow_a_regular_expression(kind: Kind) {
    let mut play = Play::start(Routing::Node);
    if let Err(error) = follow(&mut play, kind) {
        panic!("{}: {error}", kind.name());
    }
    play.broker.stop();
}

fn follow(play: &mut Play, kind: Kind) -> Answer<()> {
    const LATER: &str = "shaded";
    let mut client = PlainClient::connect(&play.broker);
    client.create_topic("other", PARTITIONS, &[]);
    play.write();
    for partition in 0..PARTITIONS {
        client.produce("other", partition, &Batch::of(&["of nobody's interest"], 1_700_000_000_000));
    }
    let mut member = Member::of_pattern(kind, &play.broker, "sha[a-z]+d")?;
    play.poll_until_shared(&mut [&mut member])?;
    let mut operator = Operator(kind.member(&play.broker.bootstrap()));
    operator.wait_for_one_member(Assignor::Uniform)?;
    client.create_topic(LATER, 1, &[]);
    let begun = Instant::now();
    loop {
        play.poll(&mut [&mut member])?;
        let assigned = operator.described()?.assigned.unwrap_or_default().concat();
        if assigned.iter().any(|name| name.starts_with(LATER)) {
            return expect("partitions", assigned.len(), PARTITIONS as usize + 1);
        }
        if begun.elapsed() > play.step_time_max {
            return Err(format!("{LATER} is not among {assigned:?}"));
        }
    }
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

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Answer<()> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, and not {expected:?}")) }
}

/// A counter of the broker, over all cores.
pub fn metric(broker: &Broker, name: &str) -> u64 {
    let (_, text) = broker.admin_get("/metrics");
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
