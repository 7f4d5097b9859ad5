//! An operator of groups, with the calls that clients have for that.
//!
//! | call of an operator | answer |
//! |---|---|
//! | `delete_offsets` of a `group` in a `topic` and `partition` | `{}` |
//! | `expel` all members of a `group` | `{}` |

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Assignor, GROUP, Member, PARTITIONS, POLL_LOOK, Play, STEP_TIME_MAX, TOPIC, commit, expect};
use crate::client::{Answer, Client, Kind};
use crate::driver::{Driver, parse};
use crate::refusals::Refusal;
use odradek_test_harness::Routing;

/// An operator looks how far a group is behind, sets its offsets back and deletes it, with the same client.
pub fn lag_and_reset(kind: Kind, assignor: Assignor) {
    let mut play = Play::start(Routing::Node);
    if let Err(error) = look_and_reset(&mut play, kind, assignor) {
        panic!("{}: {error}", kind.name());
    }
    play.broker.stop();
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Described {
    state: String,
    members: usize,
    /// From clients that tell these.
    #[serde(default)]
    pub(super) r#type: Option<String>,
    #[serde(default)]
    pub(super) assigned: Option<Vec<Vec<String>>>,
}

impl Kind {
    /// Has a call that deletes offsets of a group.
    fn deletes_offsets(self) -> bool {
        matches!(self, Kind::Java3 | Kind::Java4 | Kind::KafkaPython3)
    }

    /// Has a call that removes the members of a group.
    fn expels(self) -> bool {
        matches!(self, Kind::Java3 | Kind::Java4)
    }
}

/// A client process of an operator.
pub(super) struct Operator(pub(super) Driver);

impl Operator {
    pub(super) fn described(&mut self) -> Answer<Described> {
        parse(self.0.ask(&json!({ "op": "describe", "group": GROUP }))?)
    }

    fn describe(&mut self) -> Answer<(String, usize)> {
        let described = self.described()?;
        Ok((described.state, described.members))
    }

    /// Until one member has everything, in a group of the protocol that this assignor is of.
    pub(super) fn wait_for_one_member(&mut self, assignor: Assignor) -> Answer<()> {
        let r#type = if assignor == Assignor::Uniform { "Consumer" } else { "Classic" };
        let all = (0..PARTITIONS).map(|partition| format!("{TOPIC}-{partition}")).collect::<Vec<_>>();
        let (state, assigned) = ("Stable".to_owned(), vec![all]);
        let begun = Instant::now();
        loop {
            let found = self.described()?;
            let is_expected = (&found.state, found.members) == (&state, 1)
                && found.r#type.as_ref().is_none_or(|found| *found == r#type)
                && found.assigned.as_ref().is_none_or(|found| *found == assigned);
            if is_expected {
                return Ok(());
            }
            if begun.elapsed() > STEP_TIME_MAX {
                return Err(format!("described as {found:?}"));
            }
            std::thread::sleep(POLL_LOOK);
        }
    }

    fn admin_request(call: &str, partition: i32) -> Value {
        json!({ "op": "admin", "call": call, "group": GROUP, "topic": TOPIC, "partition": partition })
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

fn look_and_reset(play: &mut Play, kind: Kind, assignor: Assignor) -> Answer<()> {
    let step = |what: &'static str| move |error: String| format!("{what}: {error}");
    let of_each = |at: i64| (0..PARTITIONS).map(|partition| (partition, at)).collect::<BTreeMap<_, _>>();
    let mut operator = Operator(kind.member(&play.broker.bootstrap()));
    play.write();
    let mut member = Member::join(kind, &play.broker, assignor)?;
    play.poll_until_shared(&mut [&mut member]).map_err(step("one member"))?;
    commit(&mut [&mut member])?;
    play.write();
    expect("groups", operator.groups().map_err(step("groups"))?, vec![GROUP.to_owned()])?;
    operator.wait_for_one_member(assignor).map_err(step("describe"))?;
    expect("offsets", operator.offsets().map_err(step("offsets"))?, of_each(20))?;
    expect("lag", operator.lag().map_err(step("lag"))?, vec![20; PARTITIONS as usize])?;
    let refused = operator.0.expect_refused(&Operator::reset_request(5), kind.says(Refusal::NoMember));
    refused.map_err(step("reset of a group with members"))?;
    if kind.abilities().deletes_groups {
        let refused =
            operator.0.expect_refused(&Operator::delete_request(), kind.says(Refusal::NonEmptyGroup));
        refused.map_err(step("deletion of a group with members"))?;
    }
    let delete_offsets = Operator::admin_request("delete_offsets", 0);
    if kind.deletes_offsets() {
        let refused = operator.0.expect_refused(&delete_offsets, kind.says(Refusal::Subscribed));
        refused.map_err(step("deletion of offsets of a group with members"))?;
    }
    play.poll_until_shared(&mut [&mut member]).map_err(step("the member goes on"))?;
    commit(&mut [&mut member])?;
    expect("lag", operator.lag()?, vec![0; PARTITIONS as usize])?;
    member.ask("leave")?;
    drop(member);

    expect("described", operator.describe()?, ("Empty".to_owned(), 0))?;
    if kind.deletes_offsets() {
        operator.0.ask(&delete_offsets).map_err(step("deletion of offsets"))?;
        let mut left = of_each(40);
        left.remove(&0);
        expect("offsets that are left", operator.offsets()?, left)?;
    }
    operator.reset(5).map_err(step("reset"))?;
    expect("offsets", operator.offsets()?, of_each(5))?;
    expect("lag", operator.lag()?, vec![35; PARTITIONS as usize])?;
    (play.from, play.read) = (5, Vec::new());
    let mut member = Member::join(kind, &play.broker, assignor)?;
    play.poll_until_shared(&mut [&mut member]).map_err(step("what was set back is read again"))?;
    if kind.expels() && assignor != Assignor::Uniform {
        // It comes back when it polls.
        operator.0.ask(&Operator::admin_request("expel", 0)).map_err(step("expel"))?;
        expect("described", operator.describe()?, ("Empty".to_owned(), 0))?;
        let begun = Instant::now();
        while operator.describe()? != ("Stable".to_owned(), 1) {
            play.poll(&mut [&mut member]).map_err(step("one that was expelled"))?;
            if begun.elapsed() > STEP_TIME_MAX {
                return Err("one that was expelled does not come back".to_owned());
            }
        }
    }
    member.ask("leave")?;
    drop(member);
    if kind.abilities().deletes_groups {
        operator.delete().map_err(step("delete"))?;
        expect("groups", operator.groups()?, Vec::new())?;
    }
    Ok(())
}
