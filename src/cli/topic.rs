//! `odradek topic`: create, list, describe, alter and delete, over the Kafka protocol.
//!
//! Each subcommand takes several topics at once. What went well is printed even if something else
//! failed; any failure makes the exit code 1, with Kafka's error name and the broker's message.

use clap::{Args, Subcommand};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, IncrementalAlterConfigsRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use super::client::{Client, ClientFlags};
use super::settings::key_value;
use super::{Failure, print, print_json};

mod describe;

#[derive(Debug, Args)]
pub struct TopicArguments {
    #[command(flatten)]
    flags: ClientFlags,
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create topics
    Create(CreateArguments),
    /// List topics
    List,
    /// Show partitions, leaders, replicas and changed settings of topics (all, if none is named)
    Describe {
        /// Topics to show
        #[arg(value_name = "TOPIC")]
        topics: Vec<String>,
    },
    /// Change the settings of topics, or add partitions
    Alter(AlterArguments),
    /// Delete topics and all of their records
    Delete {
        /// Topics to delete
        #[arg(value_name = "TOPIC", required = true)]
        topics: Vec<String>,
        /// Succeed if a topic does not exist
        #[arg(long)]
        if_exists: bool,
    },
}

#[derive(Debug, Args)]
struct CreateArguments {
    /// Topics to create, all with the same settings
    #[arg(value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Number of partitions [default: the broker's num.partitions]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Replicas of each partition [default: the broker's default.replication.factor]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting of the topic, such as retention.ms=86400000 (repeatable)
    #[arg(long = "config", short, value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,
    /// Succeed if a topic exists already
    #[arg(long)]
    if_not_exists: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true, id = "change", args = ["configs", "deleted_configs", "partitions"])]
struct AlterArguments {
    /// Topics to change
    #[arg(value_name = "TOPIC", required = true)]
    topics: Vec<String>,
    /// Set a setting, such as retention.ms=86400000 (repeatable)
    #[arg(long = "config", short, value_name = "KEY=VALUE", value_parser = key_value)]
    configs: Vec<(String, String)>,
    /// Set a setting back to its default (repeatable)
    #[arg(long = "delete-config", value_name = "KEY")]
    deleted_configs: Vec<String>,
    /// Raise the number of partitions to N
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
}

/// How long the broker may take to carry out a change.
const CHANGE_TIME_MAX_MS: i32 = 30_000;
const TOPIC_RESOURCE: i8 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const TOPIC_ALREADY_EXISTS: i16 = 36;

pub fn run(arguments: &TopicArguments) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.flags.brokers)?;
    let outcomes = match &arguments.command {
        TopicCommand::Create(create) => self::create(&mut client, create)?,
        TopicCommand::List => return describe::list(&mut client, arguments.flags.json),
        TopicCommand::Describe { topics } => {
            return describe::describe(&mut client, topics, arguments.flags.json);
        }
        TopicCommand::Alter(alter) => self::alter(&mut client, alter)?,
        TopicCommand::Delete { topics, if_exists } => delete(&mut client, topics, *if_exists)?,
    };
    report(&outcomes, arguments.flags.json)
}

/// What became of one topic.
struct Outcome {
    topic: String,
    /// For people, when it went well.
    done: String,
    /// More for JSON, when it went well.
    details: Value,
    error_code: i16,
    message: Option<String>,
}

impl Outcome {
    fn failure(&self) -> Option<String> {
        let code = (self.error_code != 0).then(|| error_name(self.error_code))?;
        Some(match &self.message {
            Some(message) => format!("{}: {code}: {message}", self.topic),
            None => format!("{}: {code}", self.topic),
        })
    }

    fn json(&self) -> Value {
        let mut object = json!({ "topic": self.topic });
        if self.error_code == 0 {
            if let (Value::Object(object), Value::Object(details)) = (&mut object, self.details.clone()) {
                object.extend(details);
            }
        } else {
            object["error"] = error_name(self.error_code).into();
            object["message"] = self.message.clone().into();
        }
        object
    }
}

fn report(outcomes: &[Outcome], as_json: bool) -> Result<(), Failure> {
    if as_json {
        print_json(&outcomes.iter().map(Outcome::json).collect())?;
    } else {
        let done = outcomes.iter().filter(|outcome| outcome.error_code == 0);
        print(&done.map(|outcome| format!("{}\n", outcome.done)).collect::<String>())?;
    }
    let failures: Vec<_> = outcomes.iter().filter_map(Outcome::failure).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nodradek: ").into()) }
}

fn create(client: &mut Client, arguments: &CreateArguments) -> Result<Vec<Outcome>, Failure> {
    let configs = arguments.configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    });
    let configs: Vec<_> = configs.collect();
    let topics = arguments.topics.iter().map(|topic| {
        CreatableTopic::default()
            .with_name(name(topic))
            // -1: the broker's default (KIP-464).
            .with_num_partitions(arguments.partitions.unwrap_or(-1))
            .with_replication_factor(arguments.replication_factor.unwrap_or(-1))
            .with_configs(configs.clone())
    });
    let topics = topics.collect();
    let response = client
        .send(|_| CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(CHANGE_TIME_MAX_MS))?;
    let outcomes = response.topics.into_iter().map(|result| {
        let topic = result.name.to_string();
        let exists = result.error_code == TOPIC_ALREADY_EXISTS && arguments.if_not_exists;
        let created = result.error_code == 0;
        // Older versions of the answer do not say; -1 is what they leave.
        let known = created && result.num_partitions > 0;
        Outcome {
            done: match (exists, known) {
                (true, _) => format!("{topic} exists"),
                (false, true) => format!(
                    "created {topic}: {} partitions, replication factor {}",
                    result.num_partitions, result.replication_factor
                ),
                (false, false) => format!("created {topic}"),
            },
            details: json!({
                "created": created,
                "topic_id": (!result.topic_id.is_nil()).then(|| result.topic_id.to_string()),
                "partitions": known.then_some(result.num_partitions),
                "replication_factor": known.then_some(result.replication_factor),
            }),
            error_code: if exists { 0 } else { result.error_code },
            message: result.error_message.map(|message| message.to_string()),
            topic,
        }
    });
    Ok(outcomes.collect())
}

fn delete(client: &mut Client, topics: &[String], if_exists: bool) -> Result<Vec<Outcome>, Failure> {
    /// From here on a topic is named by name or id.
    const STATES_SINCE: i16 = 6;
    let response = client.send(|version| {
        let request = DeleteTopicsRequest::default().with_timeout_ms(CHANGE_TIME_MAX_MS);
        if version >= STATES_SINCE {
            let states = topics.iter().map(|topic| DeleteTopicState::default().with_name(Some(name(topic))));
            request.with_topics(states.collect())
        } else {
            request.with_topic_names(topics.iter().map(|topic| name(topic)).collect())
        }
    })?;
    let outcomes = response.responses.into_iter().map(|result| {
        let topic = result.name.map(|name| name.to_string()).unwrap_or_default();
        let missing = result.error_code == UNKNOWN_TOPIC_OR_PARTITION && if_exists;
        Outcome {
            done: if missing { format!("{topic} does not exist") } else { format!("deleted {topic}") },
            details: json!({ "deleted": result.error_code == 0 }),
            error_code: if missing { 0 } else { result.error_code },
            message: result.error_message.map(|message| message.to_string()),
            topic,
        }
    });
    Ok(outcomes.collect())
}

fn alter(client: &mut Client, arguments: &AlterArguments) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    if !arguments.configs.is_empty() || !arguments.deleted_configs.is_empty() {
        if !client.offers::<IncrementalAlterConfigsRequest>() {
            return Err("this broker cannot change the settings of a topic (no IncrementalAlterConfigs): \
                        set them when the topic is created"
                .into());
        }
        outcomes.extend(alter_configs(client, arguments)?);
    }
    if let Some(partitions) = arguments.partitions {
        outcomes.extend(add_partitions(client, &arguments.topics, partitions)?);
    }
    Ok(outcomes)
}

fn alter_configs(client: &mut Client, arguments: &AlterArguments) -> Result<Vec<Outcome>, Failure> {
    const SET: i8 = 0;
    const DELETE: i8 = 1;
    let set = arguments.configs.iter().map(|(key, value)| {
        AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(SET)
            .with_value(Some(text(value)))
    });
    let delete = arguments.deleted_configs.iter().map(|key| {
        AlterableConfig::default().with_name(text(key)).with_config_operation(DELETE).with_value(None)
    });
    let configs: Vec<_> = set.chain(delete).collect();
    let resources = arguments.topics.iter().map(|topic| {
        AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(text(topic))
            .with_configs(configs.clone())
    });
    let resources = resources.collect();
    let response = client.send(|_| IncrementalAlterConfigsRequest::default().with_resources(resources))?;
    let outcomes = response.responses.into_iter().map(|result| {
        let topic = result.resource_name.to_string();
        Outcome {
            done: format!("changed the settings of {topic}"),
            details: json!({ "configs_altered": true }),
            error_code: result.error_code,
            message: result.error_message.map(|message| message.to_string()),
            topic,
        }
    });
    Ok(outcomes.collect())
}

fn add_partitions(client: &mut Client, topics: &[String], count: i32) -> Result<Vec<Outcome>, Failure> {
    let topics = topics.iter().map(|topic| {
        CreatePartitionsTopic::default().with_name(name(topic)).with_count(count).with_assignments(None)
    });
    let topics = topics.collect();
    let response = client.send(|_| {
        CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(CHANGE_TIME_MAX_MS)
    })?;
    let outcomes = response.results.into_iter().map(|result| {
        let topic = result.name.to_string();
        Outcome {
            done: format!("{topic} has {count} partitions"),
            details: json!({ "partitions": count }),
            error_code: result.error_code,
            message: result.error_message.map(|message| message.to_string()),
            topic,
        }
    });
    Ok(outcomes.collect())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

#[cfg(test)]
mod tests;
