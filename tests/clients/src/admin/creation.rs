//! Topics that are made as asked, and grown: with settings, with assignments, on trial.

use serde_json::{Value, json};

use super::{DEFAULT, DYNAMIC_TOPIC, Play, equal};
use crate::client::Answer;
use crate::refusals::Refusal;

const MADE: &str = "made";
const ASSIGNED: &str = "assigned";

/// Of brokers, of which there is one.
const KNOWN: i32 = 1;
const UNKNOWN: i32 = 7;

/// As an application asks for a topic: a partition number, settings.
fn of(topic: &str, partitions: i32, set: Value, validate: bool) -> Value {
    json!({ "topic": topic, "partitions": partitions, "assignments": null, "set": set, "validate": validate })
}

/// Or with a broker for each partition.
fn on(topic: &str, brokers: &[i32], validate: bool) -> Value {
    let assignments: Vec<_> = brokers.iter().map(|broker| [broker]).collect();
    json!({ "topic": topic, "assignments": assignments, "set": {}, "validate": validate })
}

/// More partitions, the new ones on these brokers.
fn more(partitions: i32, brokers: Option<&[i32]>, validate: bool) -> Value {
    let assignments = brokers.map(|brokers| brokers.iter().map(|broker| [broker]).collect::<Vec<_>>());
    json!({ "topic": MADE, "partitions": partitions, "assignments": assignments, "validate": validate })
}

impl Play {
    fn expect_partitions(&mut self, topic: &str, count: i32) -> Answer<()> {
        let answer = self.ask("partitions", json!({ "topic": topic }))?;
        let expected: Vec<i32> = (0..count).collect();
        equal(topic, &answer["partitions"], &json!(expected))
    }

    fn expect_no_topic(&mut self, topic: &str) -> Answer<()> {
        self.refused("partitions", json!({ "topic": topic }), Refusal::UnknownTopic)
    }

    /// With settings of its own.
    pub(super) fn made_topic(&mut self) -> Answer<()> {
        let set = json!({ "retention.ms": "123456", "cleanup.policy": "compact" });
        if self.abilities.assigns {
            self.ask("create", of(MADE, 2, set.clone(), true))?;
            self.expect_no_topic(MADE)?;
        }
        for (setting, value) in [("retention.ms", "long"), ("no.such.setting", "1")] {
            let refused =
                self.refused("create", of(MADE, 2, json!({ setting: value }), false), Refusal::BadSetting);
            refused.map_err(|error| format!("{setting}={value}: {error}"))?;
        }
        self.expect_no_topic(MADE)?;
        self.ask("create", of(MADE, 2, set.clone(), false))?;
        self.expect_partitions(MADE, 2)?;
        if self.abilities.settings {
            self.expect_setting(("topic", MADE), "retention.ms", "123456", DYNAMIC_TOPIC)?;
            self.expect_setting(("topic", MADE), "cleanup.policy", "compact", DYNAMIC_TOPIC)?;
            self.expect_setting(("topic", MADE), "retention.bytes", "-1", DEFAULT)?;
        }
        self.refused("create", of(MADE, 3, json!({}), false), Refusal::TopicExists)?;
        if self.abilities.assigns {
            self.refused("create", of(MADE, 3, json!({}), true), Refusal::TopicExists)?;
        }
        self.expect_partitions(MADE, 2)
    }

    /// Whose partitions are where its maker wants them.
    pub(super) fn assigned_topic(&mut self) -> Answer<()> {
        if !self.abilities.assigns {
            return Ok(());
        }
        for validate in [true, false] {
            self.refused("create", on(ASSIGNED, &[KNOWN, UNKNOWN], validate), Refusal::BadAssignment)?;
        }
        self.ask("create", on(ASSIGNED, &[KNOWN; 3], true))?;
        self.expect_no_topic(ASSIGNED)?;
        self.ask("create", on(ASSIGNED, &[KNOWN; 3], false))?;
        self.expect_partitions(ASSIGNED, 3)
    }

    pub(super) fn more_partitions(&mut self) -> Answer<()> {
        if !self.abilities.assigns {
            return Ok(());
        }
        self.ask("grow", more(3, None, true))?;
        self.ask("grow", more(3, Some(&[KNOWN]), true))?;
        for validate in [true, false] {
            self.refused("grow", more(3, Some(&[UNKNOWN]), validate), Refusal::BadAssignment)?;
            self.refused("grow", more(3, Some(&[KNOWN; 2]), validate), Refusal::BadAssignment)?;
            self.refused("grow", more(1, None, validate), Refusal::FewerPartitions)?;
        }
        self.expect_partitions(MADE, 2)?;
        self.ask("grow", more(4, Some(&[KNOWN; 2]), false))?;
        self.expect_partitions(MADE, 4)?;
        self.ask("grow", more(5, None, false))?;
        self.expect_partitions(MADE, 5)
    }
}
