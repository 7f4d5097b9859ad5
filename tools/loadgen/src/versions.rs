//! Which version of each API is spoken: the highest that the broker offers and this client knows.
//!
//! Produce stays at 12 and Fetch at 12: newer ones name topics by id, which older brokers lack.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The APIs that this client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    Produce,
    Fetch,
    ListOffsets,
    Metadata,
    CreateTopics,
    DeleteTopics,
    InitProducerId,
    OffsetCommit,
    JoinGroup,
    Heartbeat,
    SyncGroup,
    FindCoordinator,
    OffsetFetch,
    LeaveGroup,
    AddPartitionsToTxn,
    EndTxn,
}

impl Api {
    pub const fn key(self) -> i16 {
        match self {
            Api::Produce => 0,
            Api::Fetch => 1,
            Api::ListOffsets => 2,
            Api::Metadata => 3,
            Api::CreateTopics => 19,
            Api::DeleteTopics => 20,
            Api::InitProducerId => 22,
            Api::OffsetCommit => 8,
            Api::JoinGroup => 11,
            Api::Heartbeat => 12,
            Api::SyncGroup => 14,
            Api::FindCoordinator => 10,
            Api::OffsetFetch => 9,
            Api::LeaveGroup => 13,
            Api::AddPartitionsToTxn => 24,
            Api::EndTxn => 26,
        }
    }

    /// What this client encodes and decodes.
    const fn known(self) -> RangeInclusive<i16> {
        match self {
            Api::Produce => 3..=12,
            Api::Fetch => 4..=12,
            Api::ListOffsets => 1..=7,
            Api::Metadata => 0..=12,
            Api::CreateTopics => 2..=7,
            Api::DeleteTopics => 1..=5,
            Api::InitProducerId => 0..=5,
            // Named by topic id from 10 on.
            Api::OffsetCommit => 2..=8,
            Api::JoinGroup => 2..=8,
            Api::Heartbeat => 0..=4,
            Api::SyncGroup => 0..=5,
            // Several keys from 4 on.
            Api::FindCoordinator => 1..=3,
            // Several groups from 8 on.
            Api::OffsetFetch => 1..=7,
            // Several members from 3 on.
            Api::LeaveGroup => 0..=2,
            Api::AddPartitionsToTxn => 0..=3,
            Api::EndTxn => 0..=5,
        }
    }
}

/// An API that this run needs is not offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    #[error("the broker does not offer {api:?}")]
    Missing { api: Api },
    #[error("the broker offers {api:?} {min} to {max} only")]
    Versions { api: Api, min: i16, max: i16 },
}

/// What one broker offers.
#[derive(Clone, Debug, Default)]
pub struct Versions {
    offered: BTreeMap<i16, RangeInclusive<i16>>,
    /// Finalised level of `transaction.version`; 0 where the cluster does not say.
    pub transactions: i16,
}

impl Versions {
    pub fn new(offered: impl IntoIterator<Item = (i16, RangeInclusive<i16>)>) -> Versions {
        Versions { offered: offered.into_iter().collect(), transactions: 0 }
    }

    pub fn offers(&self, api_key: i16) -> bool {
        self.offered.contains_key(&api_key)
    }

    pub fn of(&self, api: Api) -> Result<i16, Unsupported> {
        let offered = self.offered.get(&api.key()).ok_or(Unsupported::Missing { api })?;
        let version = *offered.end().min(api.known().end());
        if version < *offered.start().max(api.known().start()) {
            return Err(Unsupported::Versions { api, min: *offered.start(), max: *offered.end() });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_taken() {
        let versions = Versions::new([(0, 0..=13), (1, 4..=9), (2, 8..=9)]);
        assert_eq!(versions.of(Api::Produce), Ok(12));
        assert_eq!(versions.of(Api::Fetch), Ok(9));
        assert_eq!(
            versions.of(Api::ListOffsets),
            Err(Unsupported::Versions { api: Api::ListOffsets, min: 8, max: 9 })
        );
        assert_eq!(versions.of(Api::Metadata), Err(Unsupported::Missing { api: Api::Metadata }));
    }
}
