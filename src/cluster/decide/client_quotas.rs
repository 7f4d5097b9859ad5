//! AlterClientQuotas: what clients may use (KIP-546).

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_client_quotas_request::{AlterClientQuotasRequest, EntryData, OpData};
use kafka_protocol::messages::alter_client_quotas_response::{
    AlterClientQuotasResponse, EntityData, EntryData as AnsweredEntry,
};

use super::{Change, Controller};
use crate::cluster::record::Record;
use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::config::quota::{
    CLIENT_ID, EntityName, IP, InvalidQuota, QuotaEntity, QuotaKind, QuotaLimit, USER,
};
use crate::types::limits::{CLIENT_QUOTA_ENTITIES_MAX, QUOTA_NAME_SIZE_MAX};

/// Why an entity's quotas are not changed. Kafka's words where it has some.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("Invalid empty client quota entity")]
    EmptyEntity,
    #[error("Unhandled client quota entity type: {0}")]
    EntityType(String),
    #[error("Invalid client quota entity, duplicate entity entry {0}")]
    EntityTypeTwice(&'static str),
    #[error("Empty {0} not supported")]
    EmptyName(&'static str),
    /// Ours: a bound.
    #[error("The name of a {0} cannot be longer than {QUOTA_NAME_SIZE_MAX} bytes")]
    LongName(&'static str),
    /// Ours: there are none of addresses.
    #[error("Quotas of IP addresses are not supported")]
    Address,
    #[error("Duplicate quota key {0}")]
    DuplicateKey(String),
    #[error("Ignoring duplicate entity")]
    DuplicateEntity,
    #[error(transparent)]
    Quota(#[from] InvalidQuota),
    #[error(transparent)]
    Change(#[from] super::Refusal),
    /// Ours: a bound.
    #[error("There are quotas of {CLIENT_QUOTA_ENTITIES_MAX} entities already.")]
    TooManyEntities,
}

/// Decides AlterClientQuotas 0 to 1. Each entity by itself, all of its quotas or none.
pub fn decide_alter_client_quotas(
    controller: Controller<'_>,
    request: &AlterClientQuotasRequest,
) -> (Vec<Record>, AlterClientQuotasResponse) {
    let mut change = Change::new(controller.image);
    let mut decided: BTreeMap<QuotaEntity, usize> = BTreeMap::new();
    let mut left = CLIENT_QUOTA_ENTITIES_MAX.saturating_sub(controller.image.quotas().iter().len());
    let mut answers = Vec::with_capacity(request.entries.len());
    for entry in &request.entries {
        let altered = entity(entry).and_then(|entity| {
            let times = decided.entry(entity.clone()).or_default();
            *times += 1;
            if *times > 1 {
                return Err(Refusal::DuplicateEntity);
            }
            alter(controller, &entity, &entry.ops, &mut left).map(|records| (entity, records))
        });
        let added = altered.and_then(|(_, records)| Ok(change.add(records)?));
        answers.push(answer(entry, added));
    }
    let records = change.into_records(request.validate_only);
    (records, AlterClientQuotasResponse::default().with_entries(answers))
}

fn entity(entry: &EntryData) -> Result<QuotaEntity, Refusal> {
    let mut entity = QuotaEntity { user: None, client_id: None };
    for component in &entry.entity {
        let (part, entity_type) = match component.entity_type.as_str() {
            USER => (&mut entity.user, USER),
            CLIENT_ID => (&mut entity.client_id, CLIENT_ID),
            IP => return Err(Refusal::Address),
            other => return Err(Refusal::EntityType(other.chars().take(QUOTA_NAME_SIZE_MAX).collect())),
        };
        let name = component.entity_name.as_deref();
        match name.map(str::len) {
            Some(0) => return Err(Refusal::EmptyName(entity_type)),
            Some(size) if size > QUOTA_NAME_SIZE_MAX => return Err(Refusal::LongName(entity_type)),
            Some(_) | None => {}
        }
        if part.replace(EntityName::from_wire(name)).is_some() {
            return Err(Refusal::EntityTypeTwice(entity_type));
        }
    }
    match entity {
        QuotaEntity { user: None, client_id: None } => Err(Refusal::EmptyEntity),
        entity => Ok(entity),
    }
}

/// `left`: entities that may still be added.
fn alter(
    controller: Controller<'_>,
    entity: &QuotaEntity,
    operations: &[OpData],
    left: &mut usize,
) -> Result<Vec<Record>, Refusal> {
    let quotas = controller.image.quotas();
    let mut altered: BTreeMap<QuotaKind, Option<QuotaLimit>> = BTreeMap::new();
    for operation in operations {
        let key = operation.key.as_str();
        let kind = QuotaKind::from_name(key);
        let kind = kind.ok_or_else(|| InvalidQuota::Key(key.chars().take(QUOTA_NAME_SIZE_MAX).collect()))?;
        let limit = if operation.remove { None } else { Some(kind.limit(operation.value)?) };
        if altered.insert(kind, limit).is_some() {
            return Err(Refusal::DuplicateKey(kind.name().to_owned()));
        }
    }
    let is_new = QuotaKind::ALL.iter().all(|kind| quotas.get(entity, *kind).is_none());
    if is_new && altered.values().any(Option::is_some) {
        *left = left.checked_sub(1).ok_or(Refusal::TooManyEntities)?;
    }
    let changed = altered.into_iter().filter(|(kind, limit)| quotas.get(entity, *kind) != *limit);
    let record = |(kind, limit)| Record::ClientQuotaSet { entity: entity.clone(), kind, limit };
    Ok(changed.map(record).collect())
}

fn answer(entry: &EntryData, altered: Result<(), Refusal>) -> AnsweredEntry {
    let entity = entry.entity.iter().map(|component| {
        EntityData::default()
            .with_entity_type(component.entity_type.clone())
            .with_entity_name(component.entity_name.clone())
    });
    let answered = AnsweredEntry::default().with_entity(entity.collect());
    match altered {
        Ok(()) => answered.with_error_message(None),
        Err(refusal) => answered
            .with_error_code(refusal.code().code())
            .with_error_message(wire_text::error_message(&refusal)),
    }
}

impl Refusal {
    fn code(&self) -> ErrorCode {
        match self {
            Refusal::TooManyEntities => ErrorCode::PolicyViolation,
            Refusal::Change(refusal) => refusal.code(),
            Refusal::EmptyEntity
            | Refusal::EntityType(_)
            | Refusal::EntityTypeTwice(_)
            | Refusal::EmptyName(_)
            | Refusal::LongName(_)
            | Refusal::Address
            | Refusal::DuplicateKey(_)
            | Refusal::DuplicateEntity
            | Refusal::Quota(_) => ErrorCode::InvalidRequest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::decide::tests::Cluster;
    use crate::config::Routing;
    use kafka_protocol::messages::alter_client_quotas_request::EntityData as AskedEntity;
    use kafka_protocol::protocol::StrBytes;

    fn text(text: &str) -> StrBytes {
        StrBytes::from_string(text.to_owned())
    }

    fn entry(entity: &[(&str, Option<&str>)], operations: &[(&str, Option<f64>)]) -> EntryData {
        let component = |&(entity_type, name): &(&str, Option<&str>)| {
            AskedEntity::default().with_entity_type(text(entity_type)).with_entity_name(name.map(text))
        };
        let operation = |&(key, value): &(&str, Option<f64>)| {
            let operation = OpData::default().with_key(text(key)).with_remove(value.is_none());
            operation.with_value(value.unwrap_or_default())
        };
        EntryData::default()
            .with_entity(entity.iter().map(component).collect())
            .with_ops(operations.iter().map(operation).collect())
    }

    fn alter(cluster: &mut Cluster, entries: Vec<EntryData>) -> Vec<(ErrorCode, String)> {
        let request = AlterClientQuotasRequest::default().with_entries(entries);
        let (_, response) = cluster.decide(|controller, _| decide_alter_client_quotas(controller, &request));
        let answer = |entry: &AnsweredEntry| {
            let code = ErrorCode::from_wire(entry.error_code).expect("a known code");
            (code, entry.error_message.as_ref().map(|text| text.to_string()).unwrap_or_default())
        };
        response.entries.iter().map(answer).collect()
    }

    #[test]
    fn quotas_are_set_changed_and_removed() {
        let mut cluster = Cluster::new(1, Routing::Node);
        let both = [("user", Some("ann")), ("client-id", None)];
        let set = entry(&both, &[("producer_byte_rate", Some(1024.0)), ("request_percentage", Some(12.5))]);
        assert_eq!(alter(&mut cluster, vec![set]), [(ErrorCode::None, String::new())]);
        let limit = |cluster: &Cluster, kind| {
            let found = cluster.image.quotas().limit(kind, "ann", "any");
            found.map(|(_, limit)| limit.get())
        };
        assert_eq!(limit(&cluster, QuotaKind::ProducerByteRate), Some(1024.0));
        assert_eq!(limit(&cluster, QuotaKind::RequestPercentage), Some(12.5));
        let change = entry(&both, &[("producer_byte_rate", None), ("request_percentage", Some(20.0))]);
        assert_eq!(alter(&mut cluster, vec![change])[0].0, ErrorCode::None);
        assert_eq!(limit(&cluster, QuotaKind::ProducerByteRate), None);
        assert_eq!(limit(&cluster, QuotaKind::RequestPercentage), Some(20.0));
        // What is not there may be removed.
        let remove = entry(&both, &[("request_percentage", None), ("consumer_byte_rate", None)]);
        assert_eq!(alter(&mut cluster, vec![remove])[0].0, ErrorCode::None);
        assert!(cluster.image.quotas().is_empty());
    }

    #[test]
    fn refusals_change_nothing_and_others_of_the_request_go_on() {
        let user = [("user", Some("ann"))];
        let rate = |value| [("producer_byte_rate", Some(value))];
        let refused = [
            (entry(&[], &rate(1.0)), "Invalid empty client quota entity"),
            (entry(&[("group", Some("g"))], &rate(1.0)), "Unhandled client quota entity type: group"),
            (entry(&[("ip", Some("127.0.0.1"))], &rate(1.0)), "Quotas of IP addresses are not supported"),
            (entry(&[("user", Some(""))], &rate(1.0)), "Empty user not supported"),
            (
                entry(&[("user", Some("a")), ("user", None)], &rate(1.0)),
                "Invalid client quota entity, duplicate entity entry user",
            ),
            (entry(&user, &[("nosuch", Some(1.0))]), "Invalid configuration key nosuch"),
            (entry(&user, &rate(0.0)), "Quota producer_byte_rate must be greater than 0"),
            (entry(&user, &rate(1.5)), "producer_byte_rate cannot be a fractional value."),
            (
                entry(&user, &[("producer_byte_rate", Some(1.0)), ("producer_byte_rate", None)]),
                "Duplicate quota key producer_byte_rate",
            ),
        ];
        for (entry, message) in refused {
            let mut cluster = Cluster::new(1, Routing::Node);
            let answered = alter(&mut cluster, vec![entry]);
            assert_eq!(answered, [(ErrorCode::InvalidRequest, message.to_owned())]);
            assert!(cluster.image.quotas().is_empty());
        }
        let mut cluster = Cluster::new(1, Routing::Node);
        let entries = vec![entry(&[], &rate(1.0)), entry(&user, &rate(2.0)), entry(&user, &rate(3.0))];
        let codes: Vec<_> = alter(&mut cluster, entries).into_iter().map(|(code, _)| code).collect();
        assert_eq!(codes, [ErrorCode::InvalidRequest, ErrorCode::None, ErrorCode::InvalidRequest]);
        let found = cluster.image.quotas().limit(QuotaKind::ProducerByteRate, "ann", "c");
        assert_eq!(found.map(|(_, limit)| limit.get()), Some(2.0));
        let validate = AlterClientQuotasRequest::default()
            .with_entries(vec![entry(&user, &rate(9.0))])
            .with_validate_only(true);
        let (records, response) =
            cluster.decide(|controller, _| decide_alter_client_quotas(controller, &validate));
        assert_eq!((records.len(), response.entries[0].error_code), (0, 0));
    }
}
