//! Client quotas: who is limited to what, and which of several limits counts (KIP-13, KIP-546).
//!
//! A quota belongs to a user, a client id or both; either may be the default, which stands for all that have
//! no quota of their own. Of those that fit a client the most specific counts, for each kind alone:
//!
//! | | user | client id | what shares the limit |
//! |---|---|---|---|
//! | 1 | named | named | the user's connections with that client id |
//! | 2 | named | default | the same |
//! | 3 | named | | all connections of the user |
//! | 4 | default | named | the user's connections with that client id |
//! | 5 | default | default | the same |
//! | 6 | default | | all connections of the user |
//! | 7 | | named | all connections with that client id |
//! | 8 | | default | the same |
//!
//! Who names no client id is limited as a user only. Source: Kafka `ClientQuotaManager.DefaultQuotaCallback`,
//! `ClientQuotaControlManager`, `QuotaConfig`. Absent: quotas of addresses.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Who is not authenticated, as Kafka names it.
pub const ANONYMOUS: &str = "ANONYMOUS";

/// Types of entities, as Kafka names them.
pub const USER: &str = "user";
pub const CLIENT_ID: &str = "client-id";
/// There are no quotas of addresses.
pub const IP: &str = "ip";

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuotaKind {
    /// Bytes of Produce requests per second.
    ProducerByteRate,
    /// Bytes of Fetch responses per second.
    ConsumerByteRate,
    /// Percent of a core that requests may take.
    RequestPercentage,
    /// Partitions created and deleted per second (KIP-599).
    ControllerMutationRate,
}

/// Part of an entity: one name, or all that have no quota of their own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntityName {
    Default,
    Named(String),
}

/// Whom a quota belongs to. At least one of the two is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaEntity {
    pub user: Option<EntityName>,
    pub client_id: Option<EntityName>,
}

/// A limit: above zero and finite.
///
/// Unit: of its kind, per second.
#[derive(Clone, Copy, Debug)]
pub struct QuotaLimit(f64);

/// Why a limit is refused. Kafka's words, but for the last.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuota {
    #[error("Invalid configuration key {0}")]
    Key(String),
    #[error("Quota {0} must be greater than 0")]
    NotPositive(&'static str),
    #[error("{0} cannot be a fractional value.")]
    Fractional(&'static str),
    #[error("Proposed value for {0} is too large for a LONG.")]
    TooLarge(&'static str),
    #[error("Quota {0} must be a finite number")]
    NotFinite(&'static str),
}

/// Who shares a limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuotaScope {
    /// `None`: whoever it is.
    pub user: Option<String>,
    pub client_id: Option<String>,
}

/// All quotas of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaTable {
    entities: BTreeMap<QuotaEntity, BTreeMap<QuotaKind, QuotaLimit>>,
    /// Bytes of the entities' names.
    names_size: usize,
}

impl QuotaKind {
    pub const ALL: [QuotaKind; 4] = [
        QuotaKind::ProducerByteRate,
        QuotaKind::ConsumerByteRate,
        QuotaKind::RequestPercentage,
        QuotaKind::ControllerMutationRate,
    ];

    /// Kafka's key.
    pub const fn name(self) -> &'static str {
        match self {
            QuotaKind::ProducerByteRate => "producer_byte_rate",
            QuotaKind::ConsumerByteRate => "consumer_byte_rate",
            QuotaKind::RequestPercentage => "request_percentage",
            QuotaKind::ControllerMutationRate => "controller_mutation_rate",
        }
    }

    pub fn from_name(name: &str) -> Option<QuotaKind> {
        QuotaKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Checks a limit of this kind.
    pub fn limit(self, value: f64) -> Result<QuotaLimit, InvalidQuota> {
        let name = self.name();
        let is_whole = match self {
            QuotaKind::ProducerByteRate | QuotaKind::ConsumerByteRate => true,
            QuotaKind::RequestPercentage | QuotaKind::ControllerMutationRate => false,
        };
        match value {
            _ if value <= 0.0 => Err(InvalidQuota::NotPositive(name)),
            _ if !value.is_finite() => Err(InvalidQuota::NotFinite(name)),
            _ if is_whole && value > i64::MAX as f64 => Err(InvalidQuota::TooLarge(name)),
            _ if is_whole && (value % 1.0).abs() > 1e-6 => Err(InvalidQuota::Fractional(name)),
            _ => Ok(QuotaLimit(value)),
        }
    }
}

impl QuotaLimit {
    /// `None` for what is no limit at all.
    pub fn new(value: f64) -> Option<QuotaLimit> {
        (value > 0.0 && value.is_finite()).then_some(QuotaLimit(value))
    }

    pub const fn get(self) -> f64 {
        self.0
    }
}

impl PartialEq for QuotaLimit {
    fn eq(&self, other: &QuotaLimit) -> bool {
        self.0.to_bits() == other.0.to_bits() // Neither is NaN or zero.
    }
}

impl Eq for QuotaLimit {}

impl EntityName {
    /// From the wire, where null is the default.
    pub fn from_wire(name: Option<&str>) -> EntityName {
        name.map_or(EntityName::Default, |name| EntityName::Named(name.to_owned()))
    }

    /// `None`: the default.
    pub fn name(&self) -> Option<&str> {
        match self {
            EntityName::Default => None,
            EntityName::Named(name) => Some(name),
        }
    }
}

impl QuotaEntity {
    fn names_size(&self) -> usize {
        let names = [&self.user, &self.client_id].into_iter().flatten().filter_map(EntityName::name);
        names.map(str::len).sum()
    }
}

impl QuotaTable {
    pub fn is_empty(&self) -> bool {
        self.entities.is_empty()
    }

    /// Sets or removes one limit.
    pub fn set(&mut self, entity: &QuotaEntity, kind: QuotaKind, limit: Option<QuotaLimit>) {
        match limit {
            Some(limit) => {
                let limits = self.entities.entry(entity.clone()).or_default();
                if limits.is_empty() {
                    self.names_size += entity.names_size();
                }
                limits.insert(kind, limit);
            }
            None => {
                if let Some(limits) = self.entities.get_mut(entity) {
                    limits.remove(&kind);
                    if limits.is_empty() {
                        self.entities.remove(entity);
                        self.names_size -= entity.names_size();
                    }
                }
            }
        }
    }

    pub fn get(&self, entity: &QuotaEntity, kind: QuotaKind) -> Option<QuotaLimit> {
        self.entities.get(entity)?.get(&kind).copied()
    }

    /// Bytes of the names of all entities.
    pub fn names_size(&self) -> usize {
        self.names_size
    }

    /// The entities behind one, or all, with their limits.
    pub fn iter_after(
        &self,
        after: Option<&QuotaEntity>,
    ) -> impl Iterator<Item = (&QuotaEntity, &BTreeMap<QuotaKind, QuotaLimit>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.entities.range((from, Bound::Unbounded))
    }

    /// Every entity and its limits.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&QuotaEntity, &BTreeMap<QuotaKind, QuotaLimit>)> {
        self.entities.iter()
    }

    /// The limit that counts for a client, and who shares it.
    pub fn limit(&self, kind: QuotaKind, user: &str, client_id: &str) -> Option<(QuotaScope, QuotaLimit)> {
        if self.is_empty() {
            return None;
        }
        let named = |name: &str| Some(EntityName::Named(name.to_owned()));
        let default = || Some(EntityName::Default);
        let has_client = !client_id.is_empty();
        let levels = [
            (named(user), named(client_id), true),
            (named(user), default(), true),
            (named(user), None, false),
            (default(), named(client_id), true),
            (default(), default(), true),
            (default(), None, false),
            (None, named(client_id), true),
            (None, default(), true),
        ];
        let usable = levels.into_iter().filter(|(_, _, needs_client)| has_client || !needs_client);
        for (of_user, of_client, _) in usable {
            let entity = QuotaEntity { user: of_user, client_id: of_client };
            if let Some(limit) = self.get(&entity, kind) {
                let scope = QuotaScope {
                    user: entity.user.is_some().then(|| user.to_owned()),
                    client_id: entity.client_id.is_some().then(|| client_id.to_owned()),
                };
                return Some((scope, limit));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(user: Option<&str>, client_id: Option<&str>) -> QuotaEntity {
        let name = |name: &str| match name {
            "*" => EntityName::Default,
            name => EntityName::Named(name.to_owned()),
        };
        QuotaEntity { user: user.map(name), client_id: client_id.map(name) }
    }

    /// User and client id.
    type Names = (Option<&'static str>, Option<&'static str>);

    /// From the most specific to the least, with who shares each.
    const LEVELS: [(Names, Names); 8] = [
        ((Some("u"), Some("c")), (Some("u"), Some("c"))),
        ((Some("u"), Some("*")), (Some("u"), Some("c"))),
        ((Some("u"), None), (Some("u"), None)),
        ((Some("*"), Some("c")), (Some("u"), Some("c"))),
        ((Some("*"), Some("*")), (Some("u"), Some("c"))),
        ((Some("*"), None), (Some("u"), None)),
        ((None, Some("c")), (None, Some("c"))),
        ((None, Some("*")), (None, Some("c"))),
    ];

    #[test]
    fn the_most_specific_quota_counts_and_says_who_shares_it() {
        const KIND: QuotaKind = QuotaKind::ProducerByteRate;
        let mut table = QuotaTable::default();
        assert_eq!(table.limit(KIND, "u", "c"), None);
        for (rank, ((user, client), (shared_user, shared_client))) in LEVELS.into_iter().enumerate().rev() {
            let limit = QuotaLimit(rank as f64 + 1.0);
            table.set(&entity(user, client), KIND, Some(limit));
            let scope = QuotaScope {
                user: shared_user.map(str::to_owned),
                client_id: shared_client.map(str::to_owned),
            };
            assert_eq!(table.limit(KIND, "u", "c"), Some((scope, limit)), "level {rank}");
        }
        assert_eq!(table.limit(QuotaKind::ConsumerByteRate, "u", "c"), None, "each kind by itself");
        // Without a client id: the user's, which is the third.
        assert_eq!(table.limit(KIND, "u", "").map(|(_, limit)| limit), Some(QuotaLimit(3.0)));
        assert_eq!(table.limit(KIND, "other", "").map(|(_, limit)| limit), Some(QuotaLimit(6.0)));
        for ((user, client), _) in LEVELS {
            table.set(&entity(user, client), KIND, None);
        }
        assert_eq!(table, QuotaTable::default());
    }

    #[test]
    fn limits_are_checked_as_kafka_does() {
        let bytes = |value| QuotaKind::ConsumerByteRate.limit(value).map_err(|error| error.to_string());
        assert_eq!(bytes(1024.0).map(QuotaLimit::get), Ok(1024.0));
        assert_eq!(bytes(0.0), Err("Quota consumer_byte_rate must be greater than 0".to_owned()));
        assert_eq!(bytes(-1.0), Err("Quota consumer_byte_rate must be greater than 0".to_owned()));
        assert_eq!(bytes(1.5), Err("consumer_byte_rate cannot be a fractional value.".to_owned()));
        assert!(bytes(1e30).is_err());
        assert!(bytes(f64::NAN).is_err());
        assert!(QuotaKind::RequestPercentage.limit(0.5).is_ok());
        assert!(QuotaKind::RequestPercentage.limit(f64::INFINITY).is_err());
        for kind in QuotaKind::ALL {
            assert_eq!(QuotaKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(QuotaKind::from_name("connection_creation_rate"), None);
    }
}
