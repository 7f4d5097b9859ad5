//! Groups of twenty members, which are processes of one client or of several.

use std::collections::BTreeSet;
use std::time::Duration;

use odradek_test_harness::Routing;

use super::{Assignor, LONG_SESSION_MS, Member, Play, all, commit, expect, leave, metric};
use crate::client::{Answer, Kind};

const MANY: usize = 20;
const MANY_PARTITIONS: i32 = 24;
/// Of twenty clients that start at once on a few cores.
const STEP_TIME_MAX: Duration = Duration::from_secs(180);

impl Play {
    /// In which those that are killed are gone after [`LONG_SESSION_MS`], whichever protocol they use.
    fn of_many() -> Play {
        Play::with_sessions(Routing::Node, MANY_PARTITIONS, STEP_TIME_MAX, LONG_SESSION_MS)
    }
}

/// Twenty members of these kinds in turn: nineteen come at once, some leave, some are killed, new ones come.
pub fn twenty_members_share_a_topic(kinds: &[Kind], assignor: Assignor) {
    let mut play = Play::of_many();
    if let Err(error) = share_among_many(&mut play, kinds, assignor) {
        panic!("{kinds:?} with {}: {error}", assignor.name());
    }
    play.broker.stop();
}

fn share_among_many(play: &mut Play, kinds: &[Kind], assignor: Assignor) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    let kinds: Vec<Kind> = kinds.iter().copied().cycle().take(MANY).collect();
    play.write();
    let mut members = Member::start_all(&kinds[..1], &play.broker, assignor, None, LONG_SESSION_MS)?;
    play.poll_until_shared(&mut all(&mut members)).map_err(step("one member"))?;
    play.commit_at_last(&mut all(&mut members))?;
    members.extend(Member::start_all(&kinds[1..], &play.broker, assignor, None, LONG_SESSION_MS)?);
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members"))?;
    play.write();
    play.poll_until_shared(&mut all(&mut members)).map_err(step("twenty members read"))?;
    play.commit_at_last(&mut all(&mut members)).map_err(step("twenty commits"))?;

    leave(&mut members.split_off(MANY - 4)).map_err(step("leaving"))?;
    play.poll_until_shared(&mut all(&mut members)).map_err(step("some have left"))?;
    play.commit_at_last(&mut all(&mut members))?;
    drop(members.drain(..5)); // Their processes are killed; the leader may be among them.
    play.poll_until_shared(&mut all(&mut members)).map_err(step("some were killed"))?;
    play.commit_at_last(&mut all(&mut members))?;
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
    play.commit_at_last(&mut all(&mut members)).map_err(step("their commits"))?;
    play.broker.kill();
    play.broker.start_again();
    // A client that has given its session up joins again: who reads meanwhile may have to let go uncommitted.
    play.poll_until_shared(&mut all(&mut members)).map_err(step("after the broker was killed"))?;
    play.write_and_poll_after_kill(&mut all(&mut members)).map_err(step("what they read then"))?;
    leave(&mut members).map_err(step("leaving at last"))
}

/// Twenty members of these kinds in turn come at once, some leave, others come, and the broker is killed.
pub fn twenty_members_come_and_go(kinds: &[Kind], assignor: Assignor) {
    let mut play = Play::of_many();
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
    let mut play = Play::of_many();
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
