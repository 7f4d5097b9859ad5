//! What must hold for the administration of every client that has one: what it sets is described, what it
//! validates is not kept, and what the broker refuses is an error of the client.
//!
//! | call | answer |
//! |---|---|
//! | `cluster` | `{"id":I,"controller":N,"brokers":[N..]}` |
//! | `create` a topic of so many `partitions`, or of `assignments`, each a list of brokers; what to `set` of it; or to `validate` only | `{}` |
//! | `grow` it to so many `partitions`; `assignments` of the new ones, or null; or to `validate` only | `{}` |
//! | `configs`, of a `type` and `name` | `{"configs":{name:[value,source,is read only]..}}` |
//! | `explained`, a `setting` of these | `{"synonyms":[[name,value,source]..],"documentation":TEXT,"type":TEXT}` |
//! | `alter`, `replace`: what to `set` of a `type` and `name`, or to `validate` only | `{}` |
//! | `change` a `setting` of these: `operation` (set, delete, append, subtract), `value` | `{}` |
//! | `offset`: `of` what, of a `topic` and `partition` | `{"offset":O}` |
//! | `delete_records`: `before` which offset | `{"low":O}`: where the log begins then |
//! | `elect` a leader of a partition | `{"elected":TEXT}`: the error that the client has |
//! | `partitions` of a topic, one in a page where there are pages | `{"partitions":[P..]}` |
//! | `log_dirs` of a topic | `{"dir":PATH,"total":B,"usable":B,"sizes":[[partition,bytes]..]}` |
//! | `client_metrics` | `{"names":[N..]}` |
//! | `reassignments` | `{"partitions":[..]}` |
//! | `quorum` | `{"leader":N,"voters":N,"observers":N,"lag":N}`: how many members there are, and what the first voter lacks |
//! | `quota`: what to `set`, null to remove, `of` whom: kinds and names, null by default | `{"quotas":{key:limit}}`: what they have then |
//! | `delete` a topic | `{}` |

mod creation;
mod settings;

use odradek_test_harness::{Batch, Broker, Client as PlainClient, Options, Routing};
use serde_json::{Value, json};

use crate::client::{Answer, Kind};
use crate::driver::Driver;
use crate::refusals::Refusal;

const TOPIC: &str = "administered";

/// Kafka's numbers of where a setting comes from.
const DYNAMIC_TOPIC: i64 = 1;
const DYNAMIC_BROKER: i64 = 2;
const DEFAULT: i64 = 5;
const DYNAMIC_CLIENT_METRICS: i64 = 7;
const DYNAMIC_GROUP: i64 = 8;

/// Which calls a client has.
#[derive(Clone, Copy)]
struct Abilities {
    /// Tells the cluster's id and its controller.
    cluster: bool,
    /// Creates topics of its own assignments, or on trial only, and has the same for more partitions.
    assigns: bool,
    /// Describes settings, and has some call that changes them.
    settings: bool,
    /// Looks at the error of each resource whose settings it describes; whose settings it changes.
    hears_of_described: bool,
    hears_of_changed: bool,
    /// IncrementalAlterConfigs, and what only newer clients have with it.
    alters: bool,
    /// AlterConfigs, which forgets what it does not set.
    replaces: bool,
    /// Has settings validated that are not to be kept.
    validates: bool,
    /// Looks before it replaces, and keeps what was set.
    keeps: bool,
    /// Asks where a setting comes from and what it is for, changes lists, and has settings of client metrics.
    explains: bool,
    /// Has settings of groups.
    group_settings: bool,
    elects: bool,
    max_timestamp: bool,
    tiers: bool,
    log_dirs: bool,
    quotas: bool,
}

impl Kind {
    fn administers(self) -> Abilities {
        let all = Abilities {
            cluster: true,
            assigns: true,
            settings: true,
            hears_of_described: true,
            hears_of_changed: true,
            alters: true,
            replaces: true,
            validates: true,
            keeps: false,
            explains: false,
            group_settings: false,
            elects: true,
            max_timestamp: true,
            tiers: true,
            log_dirs: true,
            quotas: true,
        };
        match self {
            Kind::Confluent => Abilities { tiers: false, log_dirs: false, quotas: false, ..all },
            Kind::KafkaPython3 => Abilities { keeps: true, hears_of_described: false, quotas: false, ..all },
            Kind::Kafkajs => Abilities {
                alters: false,
                elects: false,
                max_timestamp: false,
                tiers: false,
                log_dirs: false,
                quotas: false,
                ..all
            },
            Kind::Rdkafka => Abilities {
                cluster: false,
                hears_of_described: false,
                hears_of_changed: false,
                alters: false,
                elects: false,
                max_timestamp: false,
                tiers: false,
                log_dirs: false,
                quotas: false,
                ..all
            },
            Kind::ConfluentJs => Abilities {
                cluster: false,
                assigns: false,
                settings: false,
                alters: false,
                replaces: false,
                elects: false,
                tiers: false,
                log_dirs: false,
                quotas: false,
                ..all
            },
            Kind::Java3 => Abilities { replaces: false, explains: true, ..all },
            Kind::Java4 => Abilities { replaces: false, explains: true, group_settings: true, ..all },
            Kind::KafkaPython2 => Abilities {
                alters: false,
                validates: false,
                max_timestamp: false,
                tiers: false,
                log_dirs: false,
                quotas: false,
                ..all
            },
            Kind::Aiokafka => Abilities {
                alters: false,
                validates: false,
                elects: false,
                max_timestamp: false,
                tiers: false,
                log_dirs: false,
                quotas: false,
                ..all
            },
            Kind::Kcat => unreachable!("it has no administration"),
        }
    }
}

struct Play {
    kind: Kind,
    broker: Broker,
    driver: Driver,
    abilities: Abilities,
}

type Step = fn(&mut Play) -> Answer<()>;

/// All calls of one client.
pub fn administration(kind: Kind) {
    let options = Options::new(Routing::Node).set("auto.create.topics.enable", "false");
    // What a quota allows for a second may be used at once, and no more.
    let options = options.set("quota.window.num", "2");
    let mut broker = Broker::start_with(options);
    let mut plain = PlainClient::connect(&broker);
    plain.create_topic(TOPIC, 2, &[("retention.ms", "-1")]);
    for timestamp in [1_700_000_000_000, 1_700_000_000_900, 1_700_000_000_500] {
        plain.produce(TOPIC, 0, &Batch::of(&["a record"], timestamp));
    }
    drop(plain);
    let driver = kind.member(&broker.bootstrap());
    let mut play = Play { kind, driver, broker, abilities: kind.administers() };
    let steps: [(&str, Step); 17] = [
        ("cluster", Play::cluster),
        ("a topic that is made", Play::made_topic),
        ("a topic that is assigned", Play::assigned_topic),
        ("more partitions", Play::more_partitions),
        ("settings of the topic", Play::topic_settings),
        ("refused settings", Play::refused_settings),
        ("settings of the broker", Play::broker_settings),
        ("a setting that is explained", Play::explained_setting),
        ("settings that are lists", Play::listed_settings),
        ("settings of a group", Play::group_settings),
        ("offsets", Play::offsets),
        ("deleted records", Play::deleted_records),
        ("election", Play::election),
        ("partitions", Play::partitions),
        ("log directories", Play::log_dirs),
        ("quotas", Play::quotas),
        ("a deleted topic", Play::deleted_topic),
    ];
    let failures: Vec<_> = steps
        .into_iter()
        .filter_map(|(name, step)| step(&mut play).err().map(|failure| format!("{name}: {failure}")))
        .collect();
    assert!(failures.is_empty(), "{}:\n{}", kind.name(), failures.join("\n"));
    broker = play.broker;
    drop(play.driver);
    broker.stop();
}

/// Names what is not as it has to be.
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Answer<()> {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, not {expected:?}")) }
}

fn request(call: &str, arguments: Value) -> Value {
    let mut request = json!({ "op": "admin", "call": call });
    let fields = request.as_object_mut().expect("it is an object");
    fields.extend(arguments.as_object().cloned().unwrap_or_default());
    request
}

impl Play {
    fn ask(&mut self, call: &str, arguments: Value) -> Answer<Value> {
        self.driver.ask(&request(call, arguments))
    }

    fn refused(&mut self, call: &str, arguments: Value, refusal: Refusal) -> Answer<()> {
        self.driver.expect_refused(&request(call, arguments), self.kind.says(refusal))
    }

    /// Value and source of a setting.
    fn setting(&mut self, kind: &str, of: &str, setting: &str) -> Answer<(String, i64)> {
        let answer = self.ask("configs", json!({ "type": kind, "name": of }))?;
        let entry = &answer["configs"][setting];
        let missing = || format!("no {setting} in {answer:.200}");
        let value = entry[0].as_str().ok_or_else(missing)?;
        Ok((value.to_string(), entry[1].as_i64().ok_or_else(missing)?))
    }

    fn expect_setting(
        &mut self,
        (kind, of): (&str, &str),
        setting: &str,
        value: &str,
        source: i64,
    ) -> Answer<()> {
        equal(setting, self.setting(kind, of, setting)?, (value.to_string(), source))
    }

    fn cluster(&mut self) -> Answer<()> {
        if !self.abilities.cluster {
            return Ok(());
        }
        let answer = self.ask("cluster", json!({}))?;
        equal("the controller", &answer["controller"], &json!(1))?;
        equal("the brokers", &answer["brokers"], &json!([1]))?;
        let id = answer["id"].as_str().unwrap_or_default();
        equal("the length of the cluster's id", id.len(), 22)?;
        // Of the clients, only these ask for it.
        if matches!(self.kind, Kind::Java3 | Kind::Java4) {
            let quorum = self.ask("quorum", json!({}))?;
            for (what, expected) in [("leader", 1), ("voters", 1), ("observers", 0), ("lag", 0)] {
                equal(what, &quorum[what], &json!(expected))?;
            }
        }
        Ok(())
    }

    fn topic_settings(&mut self) -> Answer<()> {
        if !self.abilities.settings {
            return Ok(());
        }
        const OF: (&str, &str) = ("topic", TOPIC);
        self.expect_setting(OF, "retention.ms", "-1", DYNAMIC_TOPIC)?;
        self.expect_setting(OF, "segment.bytes", "1073741824", DEFAULT)?;
        if self.abilities.alters {
            let set = json!({ "segment.bytes": "33554432" });
            let validated = json!({ "type": "topic", "name": TOPIC, "set": set, "validate": true });
            self.ask("alter", validated)?;
            self.expect_setting(OF, "segment.bytes", "1073741824", DEFAULT)?;
            self.ask("alter", json!({ "type": "topic", "name": TOPIC, "set": set, "validate": false }))?;
            self.expect_setting(OF, "segment.bytes", "33554432", DYNAMIC_TOPIC)?;
            self.expect_setting(OF, "retention.ms", "-1", DYNAMIC_TOPIC)?;
        }
        if self.abilities.replaces {
            let set = json!({ "retention.bytes": "123456789" });
            if self.abilities.validates {
                let validated = json!({ "type": "topic", "name": TOPIC, "set": set, "validate": true });
                self.ask("replace", validated)?;
                self.expect_setting(OF, "retention.bytes", "-1", DEFAULT)?;
            }
            self.ask("replace", json!({ "type": "topic", "name": TOPIC, "set": set, "validate": false }))?;
            self.expect_setting(OF, "retention.bytes", "123456789", DYNAMIC_TOPIC)?;
            if self.abilities.keeps {
                self.expect_setting(OF, "retention.ms", "-1", DYNAMIC_TOPIC)?;
            } else {
                self.expect_setting(OF, "retention.ms", "604800000", DEFAULT)?;
                self.expect_setting(OF, "segment.bytes", "1073741824", DEFAULT)?;
            }
        }
        Ok(())
    }

    fn refused_settings(&mut self) -> Answer<()> {
        if !self.abilities.settings {
            return Ok(());
        }
        let call = if self.abilities.alters { "alter" } else { "replace" };
        let before = self.setting("topic", TOPIC, "segment.bytes")?;
        for (setting, value) in [("segment.bytes", "many"), ("no.such.setting", "1")] {
            let change =
                json!({ "type": "topic", "name": TOPIC, "set": { setting: value }, "validate": false });
            match self.ask(call, change) {
                Ok(_) if !self.abilities.hears_of_changed => {}
                Ok(_) => return Err(format!("{setting}={value} was accepted")),
                Err(said) if said.to_lowercase().contains("config") => {}
                Err(said) => return Err(format!("{setting}={value}: {said}")),
            }
        }
        equal("segment.bytes after that", self.setting("topic", TOPIC, "segment.bytes")?, before)
    }

    fn broker_settings(&mut self) -> Answer<()> {
        if !self.abilities.settings {
            return Ok(());
        }
        const OF: (&str, &str) = ("broker", "1");
        self.expect_setting(OF, "log.retention.bytes", "-1", DEFAULT)?;
        if !self.abilities.alters {
            return Ok(());
        }
        let set = json!({ "log.retention.bytes": "987654321" });
        self.ask("alter", json!({ "type": "broker", "name": "1", "set": set, "validate": false }))?;
        self.expect_setting(OF, "log.retention.bytes", "987654321", DYNAMIC_BROKER)?;
        let set = json!({ "num.partitions": "3" });
        match self.ask("alter", json!({ "type": "broker", "name": "1", "set": set, "validate": false })) {
            Ok(_) => Err("a setting that cannot change was accepted".to_string()),
            Err(said) if said.contains("Cannot update these configs dynamically") => Ok(()),
            Err(said) => Err(said),
        }
    }

    fn offsets(&mut self) -> Answer<()> {
        let mut known = vec![("earliest", 0), ("latest", 3)];
        if self.abilities.max_timestamp {
            known.push(("max-timestamp", 1));
        }
        if self.abilities.tiers {
            known.extend([("earliest-local", 0), ("latest-tiered", -1)]);
        }
        for (of, offset) in known {
            let answer = self.ask("offset", json!({ "topic": TOPIC, "partition": 0, "of": of }))?;
            equal(of, &answer["offset"], &json!(offset))?;
        }
        Ok(())
    }

    fn deleted_records(&mut self) -> Answer<()> {
        let answer = self.ask("delete_records", json!({ "topic": TOPIC, "partition": 0, "before": 1 }))?;
        equal("the low watermark", &answer["low"], &json!(1))
    }

    fn election(&mut self) -> Answer<()> {
        if !self.abilities.elects {
            return Ok(());
        }
        let answer = self.ask("elect", json!({ "topic": TOPIC, "partition": 1 }))?;
        let elected = answer["elected"].to_string().to_lowercase().replace('_', "");
        equal("an election that is not needed", elected.contains("electionnotneeded"), true)
            .map_err(|_| elected)
    }

    fn partitions(&mut self) -> Answer<()> {
        let answer = self.ask("partitions", json!({ "topic": TOPIC }))?;
        equal("the partitions", &answer["partitions"], &json!([0, 1]))
    }

    fn log_dirs(&mut self) -> Answer<()> {
        if !self.abilities.log_dirs {
            return Ok(());
        }
        let answer = self.ask("log_dirs", json!({ "topic": TOPIC }))?;
        let data_dir = self.broker.data_dir();
        equal("the directory", answer["dir"].as_str(), data_dir.to_str())?;
        let size = |partition: i64| {
            let sizes = answer["sizes"].as_array().into_iter().flatten();
            sizes.filter(|entry| entry[0] == partition).find_map(|entry| entry[1].as_i64())
        };
        equal("the size of the empty partition", size(1), Some(0))?;
        let (total, usable) = (answer["total"].as_i64(), answer["usable"].as_i64());
        let is_sound = size(0) > Some(0) && usable > Some(0) && total > usable;
        equal("sound sizes", is_sound, true).map_err(|_| answer.to_string())?;
        let answer = self.ask("reassignments", json!({}))?;
        equal("reassignments", &answer["partitions"], &json!([]))?;
        let set = json!({ "metrics": "org.apache.kafka.producer.", "interval.ms": "1000" });
        let change = json!({ "type": "client_metrics", "name": "producers", "set": set, "validate": false });
        self.ask("alter", change)?;
        let answer = self.ask("client_metrics", json!({}))?;
        equal("the subscriptions", &answer["names"], &json!(["producers"]))?;
        if !self.abilities.explains {
            return Ok(());
        }
        const OF: (&str, &str) = ("client_metrics", "producers");
        self.expect_setting(OF, "metrics", "org.apache.kafka.producer.", DYNAMIC_CLIENT_METRICS)?;
        self.expect_setting(OF, "interval.ms", "1000", DYNAMIC_CLIENT_METRICS)
    }

    fn quotas(&mut self) -> Answer<()> {
        if !self.abilities.quotas {
            return Ok(());
        }
        for (of, key, limit) in [
            (json!({ "client-id": "importer" }), "producer_byte_rate", 1e6),
            (json!({ "client-id": null }), "request_percentage", 500.0),
            (json!({ "user": null }), "consumer_byte_rate", 1e6),
            (json!({ "user": "somebody", "client-id": null }), "consumer_byte_rate", 2e6),
            // The one that holds for the importer: of anybody by this client id.
            (json!({ "user": null, "client-id": "importer" }), "producer_byte_rate", 10_000.0),
        ] {
            let answer = self.ask("quota", json!({ "of": of, "set": { key: limit } }))?;
            equal("the quotas", &answer["quotas"], &json!({ key: limit }))
                .map_err(|error| format!("{of}: {error}"))?;
        }
        // Three seconds' worth at once.
        let record = json!({ "op": "throttled", "topic": TOPIC, "bytes": 30_000, "count": 1 });
        let produced = |client: &str| {
            let mut request = record.clone();
            request["client"] = json!(client);
            request
        };
        let answer = self.driver.ask(&produced("exporter"))?;
        equal("how long one without a quota waits", &answer["ms"], &json!(0.0))?;
        let answer = self.driver.ask(&produced("importer"))?;
        equal("whether one with a quota waits", answer["ms"].as_f64() > Some(0.0), true)?;
        for (of, key) in [
            (json!({ "client-id": "importer" }), "producer_byte_rate"),
            (json!({ "user": null, "client-id": "importer" }), "producer_byte_rate"),
        ] {
            let answer = self.ask("quota", json!({ "of": of, "set": { key: null } }))?;
            equal("the quotas that are left", &answer["quotas"], &json!({}))?;
        }
        Ok(())
    }

    fn deleted_topic(&mut self) -> Answer<()> {
        self.ask("delete", json!({ "topic": TOPIC }))?;
        let gone = match self.abilities.settings && self.abilities.hears_of_described {
            true => json!({ "op": "admin", "call": "configs", "type": "topic", "name": TOPIC }),
            false => json!({ "op": "admin", "call": "partitions", "topic": TOPIC }),
        };
        self.driver.expect_refused(&gone, self.kind.says(Refusal::UnknownTopic))
    }
}
