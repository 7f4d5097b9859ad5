//! Settings beyond their values: where each comes from, what it is for, those that are lists, those of groups.

use serde_json::json;

use super::{DEFAULT, DYNAMIC_GROUP, DYNAMIC_TOPIC, Play, TOPIC, equal};
use crate::client::Answer;

impl Play {
    /// What it was set to, and what it would be without that, by their names in the order in which they hold.
    pub(super) fn explained_setting(&mut self) -> Answer<()> {
        if !self.abilities.explains {
            return Ok(());
        }
        let asked = json!({ "type": "topic", "name": TOPIC, "setting": "retention.bytes" });
        // `log.retention.bytes` of the broker was set before.
        let of_broker = json!([
            ["log.retention.bytes", "987654321", super::DYNAMIC_BROKER],
            ["log.retention.bytes", "-1", DEFAULT],
        ]);
        let answer = self.ask("explained", asked.clone())?;
        equal("the synonyms", &answer["synonyms"], &of_broker)?;
        equal("the type", &answer["type"], &json!("LONG"))?;
        let documentation = answer["documentation"].as_str().unwrap_or_default();
        equal("that it is documented", documentation.len() > 20, true).map_err(|_| answer.to_string())?;
        self.change("topic", TOPIC, "retention.bytes", ("set", "77777777"))?;
        let mut synonyms = of_broker.as_array().cloned().unwrap_or_default();
        synonyms.insert(0, json!(["retention.bytes", "77777777", DYNAMIC_TOPIC]));
        let answer = self.ask("explained", asked.clone())?;
        equal("the synonyms", &answer["synonyms"], &json!(synonyms))?;
        self.change("topic", TOPIC, "retention.bytes", ("delete", ""))?;
        equal("the synonyms", &self.ask("explained", asked)?["synonyms"], &of_broker)
    }

    fn change(
        &mut self,
        kind: &str,
        of: &str,
        setting: &str,
        (operation, value): (&str, &str),
    ) -> Answer<()> {
        let change = json!({
            "type": kind, "name": of, "setting": setting, "operation": operation, "value": value,
        });
        self.ask("change", change).map(drop)
    }

    pub(super) fn listed_settings(&mut self) -> Answer<()> {
        if !self.abilities.explains {
            return Ok(());
        }
        for (operation, policy, source) in [
            (("append", "compact"), "delete,compact", DYNAMIC_TOPIC),
            (("append", "compact"), "delete,compact", DYNAMIC_TOPIC),
            (("subtract", "delete"), "compact", DYNAMIC_TOPIC),
            (("set", "compact,delete"), "compact,delete", DYNAMIC_TOPIC),
            (("delete", ""), "delete", DEFAULT),
        ] {
            self.change("topic", TOPIC, "cleanup.policy", operation)?;
            self.expect_setting(("topic", TOPIC), "cleanup.policy", policy, source)
                .map_err(|error| format!("{operation:?}: {error}"))?;
        }
        // Which is no list.
        match self.change("topic", TOPIC, "retention.bytes", ("append", "1")) {
            Ok(()) => Err("a number was appended to".to_owned()),
            Err(said) if said.contains("InvalidConfigurationException") => Ok(()),
            Err(said) => Err(said),
        }
    }

    pub(super) fn group_settings(&mut self) -> Answer<()> {
        if !self.abilities.group_settings {
            return Ok(());
        }
        const OF: (&str, &str) = ("group", "of-consumers");
        const SETTING: &str = "consumer.heartbeat.interval.ms";
        let (before, _) = self.setting(OF.0, OF.1, SETTING)?;
        equal("what it is by default", before.as_str(), "5000")?;
        self.change(OF.0, OF.1, SETTING, ("set", "7000"))?;
        self.expect_setting(OF, SETTING, "7000", DYNAMIC_GROUP)?;
        self.change(OF.0, OF.1, SETTING, ("delete", ""))?;
        equal(SETTING, self.setting(OF.0, OF.1, SETTING)?.0.as_str(), "5000")?;
        match self.change(OF.0, OF.1, SETTING, ("set", "1")) {
            Ok(()) => Err("an interval that is too short was accepted".to_owned()),
            Err(said) if said.contains("InvalidConfigurationException") => Ok(()),
            Err(said) => Err(said),
        }
    }
}
