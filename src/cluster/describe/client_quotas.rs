//! DescribeClientQuotas: the quotas of the entities that a filter lets through (KIP-546).

use std::collections::BTreeMap;

use kafka_protocol::messages::describe_client_quotas_request::DescribeClientQuotasRequest;
use kafka_protocol::messages::describe_client_quotas_response::{
    DescribeClientQuotasResponse, EntityData, EntryData, ValueData,
};
use kafka_protocol::protocol::StrBytes;

use crate::cluster::wire_text;
use crate::codec::error_code::ErrorCode;
use crate::config::quota::{CLIENT_ID, EntityName, IP, QuotaEntity, QuotaKind, QuotaLimit, QuotaTable, USER};

/// What a filter says of one type of entity.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Match {
    Exactly(EntityName),
    /// Any name, the default among them.
    Any,
}

/// Why a filter is refused. Kafka's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("Invalid empty entity type.")]
    EmptyType,
    #[error("Unsupported entity type {0}")]
    Type(String),
    #[error("Entity type {0} cannot appear more than once in the filter.")]
    TypeTwice(&'static str),
    #[error("Request specified MATCH_TYPE_EXACT, but set match string to null.")]
    NoName,
    #[error("Request specified {0}, but also specified a match string.")]
    Name(&'static str),
    #[error("Unknown match type {0}")]
    MatchType(i8),
    #[error(
        "Invalid entity filter component combination. IP filter component should not be used with user or \
         clientId filter component."
    )]
    AddressAndOthers,
}

/// Which entities are asked for.
pub struct QuotaFilter {
    filter: Filter,
    strict: bool,
}

impl QuotaFilter {
    /// Of DescribeClientQuotas 0 to 1; the answer if it is refused.
    pub fn of(request: &DescribeClientQuotasRequest) -> Result<QuotaFilter, DescribeClientQuotasResponse> {
        match filter(request) {
            Ok(filter) => Ok(QuotaFilter { filter, strict: request.strict }),
            Err(refusal) => Err(DescribeClientQuotasResponse::default()
                .with_error_code(refusal.code().code())
                .with_error_message(wire_text::error_message(&refusal))
                .with_entries(None)),
        }
    }

    /// Looks at the next `count_max` entities behind `after`, and adds those that are asked for. Returns where to
    /// go on, unless it was the last.
    pub fn describe(
        &self,
        quotas: &QuotaTable,
        after: Option<&QuotaEntity>,
        count_max: usize,
        entries: &mut Vec<EntryData>,
    ) -> Option<QuotaEntity> {
        let mut looked_at = 0;
        for (entity, limits) in quotas.iter_after(after) {
            if is_let_through(entity, &self.filter, self.strict) {
                entries.push(entry(entity, limits));
            }
            looked_at += 1;
            if looked_at == count_max {
                return Some(entity.clone());
            }
        }
        None
    }
}

/// The answer with all that was found.
pub fn described_client_quotas(entries: Vec<EntryData>) -> DescribeClientQuotasResponse {
    DescribeClientQuotasResponse::default().with_error_message(None).with_entries(Some(entries))
}

type Filter = BTreeMap<&'static str, Match>;

fn filter(request: &DescribeClientQuotasRequest) -> Result<Filter, Refusal> {
    let mut filter = Filter::new();
    for component in &request.components {
        let entity_type = match component.entity_type.as_str() {
            "" => return Err(Refusal::EmptyType),
            USER => USER,
            CLIENT_ID => CLIENT_ID,
            IP => IP,
            other => return Err(Refusal::Type(other.chars().take(256).collect())),
        };
        if filter.contains_key(entity_type) {
            return Err(Refusal::TypeTwice(entity_type));
        }
        let matched = match (component.match_type, component._match.as_deref()) {
            (0, Some(name)) => Match::Exactly(EntityName::Named(name.to_owned())),
            (0, None) => return Err(Refusal::NoName),
            (1, None) => Match::Exactly(EntityName::Default),
            (1, Some(_)) => return Err(Refusal::Name("MATCH_TYPE_DEFAULT")),
            (2, None) => Match::Any,
            (2, Some(_)) => return Err(Refusal::Name("MATCH_TYPE_SPECIFIED")),
            (other, _) => return Err(Refusal::MatchType(other)),
        };
        filter.insert(entity_type, matched);
    }
    if filter.contains_key(IP) && filter.len() > 1 {
        return Err(Refusal::AddressAndOthers);
    }
    Ok(filter)
}

/// `strict`: the entity is of no type that is not in the filter.
fn is_let_through(entity: &QuotaEntity, filter: &Filter, strict: bool) -> bool {
    let parts = [(USER, &entity.user), (CLIENT_ID, &entity.client_id)];
    let part = |entity_type: &str| {
        let found = parts.iter().find(|(name, _)| *name == entity_type);
        found.and_then(|(_, part)| part.as_ref())
    };
    let has_all = filter.iter().all(|(entity_type, wanted)| match (part(entity_type), wanted) {
        (None, _) => false,
        (Some(_), Match::Any) => true,
        (Some(name), Match::Exactly(wanted)) => name == wanted,
    });
    let count = parts.iter().filter(|(_, part)| part.is_some()).count();
    has_all && (!strict || count == filter.len())
}

fn entry(entity: &QuotaEntity, limits: &BTreeMap<QuotaKind, QuotaLimit>) -> EntryData {
    let part = |entity_type: &'static str, name: &Option<EntityName>| {
        let name = name.as_ref()?;
        let entity_name = name.name().map(|name| StrBytes::from_string(name.to_owned()));
        let data = EntityData::default().with_entity_type(StrBytes::from_static_str(entity_type));
        Some(data.with_entity_name(entity_name))
    };
    let value = |(kind, limit): (&QuotaKind, &QuotaLimit)| {
        ValueData::default().with_key(StrBytes::from_static_str(kind.name())).with_value(limit.get())
    };
    let parts = [part(USER, &entity.user), part(CLIENT_ID, &entity.client_id)];
    EntryData::default()
        .with_entity(parts.into_iter().flatten().collect())
        .with_values(limits.iter().map(value).collect())
}

impl Refusal {
    fn code(&self) -> ErrorCode {
        match self {
            Refusal::Type(_) => ErrorCode::UnsupportedVersion,
            Refusal::EmptyType
            | Refusal::TypeTwice(_)
            | Refusal::NoName
            | Refusal::Name(_)
            | Refusal::MatchType(_)
            | Refusal::AddressAndOthers => ErrorCode::InvalidRequest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::describe_client_quotas_request::ComponentData;

    fn table() -> QuotaTable {
        let mut table = QuotaTable::default();
        let name = |name: &str| match name {
            "*" => EntityName::Default,
            name => EntityName::Named(name.to_owned()),
        };
        let entities =
            [(Some("ann"), None), (Some("ann"), Some("c")), (Some("*"), Some("*")), (None, Some("c"))];
        for (number, (user, client_id)) in entities.into_iter().enumerate() {
            let entity = QuotaEntity { user: user.map(name), client_id: client_id.map(name) };
            table.set(&entity, QuotaKind::ProducerByteRate, QuotaLimit::new(number as f64 + 1.0));
        }
        table
    }

    fn describe(
        components: &[(&'static str, i8, Option<&'static str>)],
        strict: bool,
    ) -> Result<Vec<u32>, ErrorCode> {
        let component = |&(entity_type, match_type, name): &(&'static str, i8, Option<&'static str>)| {
            ComponentData::default()
                .with_entity_type(StrBytes::from_static_str(entity_type))
                .with_match_type(match_type)
                .with_match(name.map(StrBytes::from_static_str))
        };
        let request = DescribeClientQuotasRequest::default()
            .with_components(components.iter().map(component).collect())
            .with_strict(strict);
        let known = |code| ErrorCode::from_wire(code).expect("a known code");
        let filter = QuotaFilter::of(&request).map_err(|response| known(response.error_code))?;
        let all = |count_max| {
            let (mut entries, mut after, mut steps) = (Vec::new(), None, 0);
            loop {
                after = filter.describe(&table(), after.as_ref(), count_max, &mut entries);
                steps += 1;
                if after.is_none() {
                    return (entries, steps);
                }
            }
        };
        let (mut entries, steps) = all(100);
        assert_eq!((all(3).0, steps), (entries.clone(), 1), "a few at a time they are the same");
        entries.sort_by(|a, b| a.values[0].value.total_cmp(&b.values[0].value));
        Ok(entries.iter().map(|entry| entry.values[0].value as u32).collect())
    }

    #[test]
    fn filters_let_through_what_kafkas_do() {
        assert_eq!(describe(&[], false), Ok(vec![1, 2, 3, 4]));
        assert_eq!(describe(&[], true), Ok(vec![]));
        assert_eq!(describe(&[("user", 0, Some("ann"))], false), Ok(vec![1, 2]));
        assert_eq!(describe(&[("user", 0, Some("ann"))], true), Ok(vec![1]));
        assert_eq!(describe(&[("user", 1, None)], false), Ok(vec![3]));
        assert_eq!(describe(&[("user", 2, None)], false), Ok(vec![1, 2, 3]));
        assert_eq!(describe(&[("client-id", 2, None)], true), Ok(vec![4]));
        assert_eq!(describe(&[("user", 2, None), ("client-id", 0, Some("c"))], true), Ok(vec![2]));
        assert_eq!(describe(&[("ip", 2, None)], false), Ok(vec![]));
    }

    #[test]
    fn filters_that_make_no_sense_are_refused() {
        let invalid = Err(ErrorCode::InvalidRequest);
        assert_eq!(describe(&[("", 0, Some("a"))], false), invalid);
        assert_eq!(describe(&[("user", 0, None)], false), invalid);
        assert_eq!(describe(&[("user", 1, Some("a"))], false), invalid);
        assert_eq!(describe(&[("user", 2, Some("a"))], false), invalid);
        assert_eq!(describe(&[("user", 7, None)], false), invalid);
        assert_eq!(describe(&[("user", 2, None), ("user", 2, None)], false), invalid);
        assert_eq!(describe(&[("ip", 2, None), ("user", 2, None)], false), invalid);
        assert_eq!(describe(&[("group", 2, None)], false), Err(ErrorCode::UnsupportedVersion));
    }
}
