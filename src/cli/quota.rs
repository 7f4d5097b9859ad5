//! `odradek quota`: list, set and remove client quotas, over the Kafka protocol.

use clap::{Args, Subcommand};
use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::describe_client_quotas_request::ComponentData;
use kafka_protocol::messages::describe_client_quotas_response;
use kafka_protocol::messages::{AlterClientQuotasRequest, DescribeClientQuotasRequest};
use kafka_protocol::protocol::StrBytes;
use odradek::config::quota::{CLIENT_ID, QuotaKind, USER};
use odradek::metrics::names::error_name;
use serde_json::{Map, Value, json};

use super::client::{Client, ClientFlags};
use super::table::Table;
use super::{Failure, print, print_json};

#[derive(Debug, Args)]
pub struct QuotaArguments {
    #[command(flatten)]
    flags: ClientFlags,
    #[command(subcommand)]
    command: QuotaCommand,
}

#[derive(Debug, Subcommand)]
enum QuotaCommand {
    /// List quotas: all, or those of a user or a client id
    List(ListArguments),
    /// Set quotas of a user, a client id, or both together
    Set {
        #[command(flatten)]
        entity: Entity,
        /// producer_byte_rate, consumer_byte_rate (bytes per second), request_percentage (of a core),
        /// controller_mutation_rate (partitions per second)
        #[arg(value_name = "QUOTA=LIMIT", required = true, value_parser = assignment)]
        limits: Vec<(String, f64)>,
    },
    /// Remove quotas of a user, a client id, or both together
    Remove {
        #[command(flatten)]
        entity: Entity,
        /// Quotas to remove; without any, all that the entity has
        #[arg(value_name = "QUOTA")]
        keys: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct ListArguments {
    #[command(flatten)]
    entity: Entity,
}

/// Whom quotas belong to.
#[derive(Debug, Args)]
struct Entity {
    /// A user
    #[arg(long, value_name = "NAME", conflicts_with = "user_default")]
    user: Option<String>,
    /// All users that have no quota of their own
    #[arg(long)]
    user_default: bool,
    /// A client id
    #[arg(long, value_name = "ID", conflicts_with = "client_id_default")]
    client_id: Option<String>,
    /// All client ids that have no quota of their own
    #[arg(long)]
    client_id_default: bool,
}

impl Entity {
    /// Type, and name or `None` for the default.
    fn parts(&self) -> Vec<(&'static str, Option<&str>)> {
        let given =
            [(USER, &self.user, self.user_default), (CLIENT_ID, &self.client_id, self.client_id_default)];
        let given = given.into_iter().filter(|(_, name, is_default)| name.is_some() || *is_default);
        given.map(|(entity_type, name, _)| (entity_type, name.as_deref())).collect()
    }

    fn required(&self) -> Result<Vec<EntityData>, Failure> {
        let parts = self.parts();
        if parts.is_empty() {
            return Err(
                "whose quotas? Name a --user, a --client-id, or --user-default, --client-id-default".into()
            );
        }
        let data = |(entity_type, name): (&'static str, Option<&str>)| {
            let data = EntityData::default().with_entity_type(StrBytes::from_static_str(entity_type));
            data.with_entity_name(name.map(text))
        };
        Ok(parts.into_iter().map(data).collect())
    }
}

fn assignment(assigned: &str) -> Result<(String, f64), String> {
    let expected = || {
        let names: Vec<_> = QuotaKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("expected QUOTA=LIMIT, such as producer_byte_rate=1048576; there are {}", names.join(", "))
    };
    let (key, limit) = assigned.split_once('=').ok_or_else(expected)?;
    let limit = limit.trim().parse::<f64>().map_err(|_| expected())?;
    Ok((key.trim().to_string(), limit))
}

pub fn run(arguments: &QuotaArguments) -> Result<(), Failure> {
    let mut client = Client::connect(&arguments.flags.brokers)?;
    let as_json = arguments.flags.json;
    match &arguments.command {
        QuotaCommand::List(list) => show(&describe(&mut client, &list.entity, false)?, as_json),
        QuotaCommand::Set { entity, limits } => {
            let set = |(key, limit): &(String, f64)| OpData::default().with_key(text(key)).with_value(*limit);
            alter(&mut client, entity, limits.iter().map(set).collect())?;
            show(&describe(&mut client, entity, true)?, as_json)
        }
        QuotaCommand::Remove { entity, keys } => {
            let keys = if keys.is_empty() { all_keys(&mut client, entity)? } else { keys.clone() };
            let remove = |key: &String| OpData::default().with_key(text(key)).with_remove(true);
            alter(&mut client, entity, keys.iter().map(remove).collect())?;
            show(&describe(&mut client, entity, true)?, as_json)
        }
    }
}

fn all_keys(client: &mut Client, entity: &Entity) -> Result<Vec<String>, Failure> {
    let found = describe(client, entity, true)?;
    Ok(found.iter().flat_map(|found| &found.values).map(|value| value.key.to_string()).collect())
}

fn alter(client: &mut Client, entity: &Entity, operations: Vec<OpData>) -> Result<(), Failure> {
    let entry = EntryData::default().with_entity(entity.required()?).with_ops(operations);
    let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
    let response = client.send(|_| request)?;
    match response.entries.first().filter(|entry| entry.error_code != 0) {
        None => Ok(()),
        Some(entry) => {
            let message = entry.error_message.as_deref().unwrap_or_default();
            Err(format!("{}: {message}", error_name(entry.error_code)).into())
        }
    }
}

type Found = describe_client_quotas_response::EntryData;

/// `strict`: of exactly that entity, otherwise of all that it is part of.
fn describe(client: &mut Client, entity: &Entity, strict: bool) -> Result<Vec<Found>, Failure> {
    let components = entity.parts().into_iter().map(|(entity_type, name)| {
        ComponentData::default()
            .with_entity_type(StrBytes::from_static_str(entity_type))
            .with_match_type(i8::from(name.is_none()))
            .with_match(name.map(text))
    });
    let request =
        DescribeClientQuotasRequest::default().with_components(components.collect()).with_strict(strict);
    let response = client.send(|_| request)?;
    match response.error_code {
        0 => Ok(response.entries.unwrap_or_default()),
        code => {
            let message = response.error_message.as_deref().unwrap_or_default();
            Err(format!("{}: {message}", error_name(code)).into())
        }
    }
}

/// The name of one part of an entity; `None` if it has none, `Some(None)`: the default.
fn part<'a>(found: &'a Found, entity_type: &str) -> Option<Option<&'a str>> {
    let found = found.entity.iter().find(|part| &*part.entity_type == entity_type)?;
    Some(found.entity_name.as_deref())
}

fn show(found: &[Found], as_json: bool) -> Result<(), Failure> {
    if as_json {
        let entries = found.iter().map(|found| {
            let shown = |entity_type| match part(found, entity_type) {
                None => Value::Null,
                Some(name) => json!({ "name": name, "default": name.is_none() }),
            };
            let limits: Map<String, Value> =
                found.values.iter().map(|value| (value.key.to_string(), json!(value.value))).collect();
            json!({ "user": shown(USER), "client_id": shown(CLIENT_ID), "limits": limits })
        });
        return print_json(&entries.collect());
    }
    let mut table = Table::new(&["USER", "CLIENT ID", "QUOTA", "LIMIT"]);
    for found in found {
        let shown = |entity_type| match part(found, entity_type) {
            None => "-".to_string(),
            Some(None) => "<default>".to_string(),
            Some(Some(name)) => name.to_string(),
        };
        for value in &found.values {
            table.row(&[&shown(USER), &shown(CLIENT_ID), &value.key, &value.value.to_string()]);
        }
    }
    print(&table.to_string())
}

fn text(text: impl AsRef<str>) -> StrBytes {
    StrBytes::from_string(text.as_ref().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_assigned_by_name() {
        assert_eq!(
            assignment("producer_byte_rate=1048576"),
            Ok(("producer_byte_rate".to_string(), 1048576.0))
        );
        assert_eq!(assignment("request_percentage = 12.5"), Ok(("request_percentage".to_string(), 12.5)));
        for wrong in ["", "producer_byte_rate", "producer_byte_rate=fast"] {
            assert!(assignment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn entities_are_named_or_the_default() {
        let entity = |user: Option<&str>, user_default, client_id: Option<&str>, client_id_default| Entity {
            user: user.map(str::to_string),
            user_default,
            client_id: client_id.map(str::to_string),
            client_id_default,
        };
        assert_eq!(entity(Some("ann"), false, None, false).parts(), [(USER, Some("ann"))]);
        assert_eq!(entity(None, true, Some("c"), false).parts(), [(USER, None), (CLIENT_ID, Some("c"))]);
        assert_eq!(entity(None, false, None, true).parts(), [(CLIENT_ID, None)]);
        assert!(entity(None, false, None, false).required().is_err());
    }
}
