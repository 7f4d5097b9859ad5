//! What the operator has set for groups of the newer protocol, for all of them or for one.

use crate::group::assignor::Assignor;
use crate::group::topics::Topics;
use crate::types::limits::GROUP_AIMING_AT_ONCE_MAX;
use std::borrow::Cow;
use std::time::Duration;

/// Which groups may change their protocol while members use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    Disabled,
    Upgrade,
    Downgrade,
    Bidirectional,
}

impl Migration {
    pub const ALL: [Migration; 4] =
        [Migration::Disabled, Migration::Upgrade, Migration::Downgrade, Migration::Bidirectional];

    pub fn name(self) -> &'static str {
        match self {
            Migration::Disabled => "disabled",
            Migration::Upgrade => "upgrade",
            Migration::Downgrade => "downgrade",
            Migration::Bidirectional => "bidirectional",
        }
    }

    pub fn upgrades(self) -> bool {
        matches!(self, Migration::Upgrade | Migration::Bidirectional)
    }

    pub fn downgrades(self) -> bool {
        matches!(self, Migration::Downgrade | Migration::Bidirectional)
    }
}

/// What the operator has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSettings {
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// Members of a group.
    pub size_max: usize,
    /// Those that members may ask for; the first is the default. Never empty.
    pub assignors: Vec<Assignor>,
    pub migration: Migration,
    /// How much may be looked at to make targets in one step: members, topics and partitions.
    pub aiming_at_once_max: usize,
}

impl Default for ConsumerSettings {
    fn default() -> ConsumerSettings {
        ConsumerSettings {
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(5),
            size_max: i32::MAX as usize,
            assignors: Assignor::ALL.to_vec(),
            migration: Migration::Bidirectional,
            aiming_at_once_max: GROUP_AIMING_AT_ONCE_MAX,
        }
    }
}

impl ConsumerSettings {
    /// With what is set of one group.
    pub fn of_group(&self, topics: &dyn Topics, group: &str) -> Cow<'_, ConsumerSettings> {
        match topics.times_of_group(group) {
            None => Cow::Borrowed(self),
            Some(times) => Cow::Owned(ConsumerSettings {
                session_timeout: times.session_timeout,
                heartbeat_interval: times.heartbeat_interval,
                ..self.clone()
            }),
        }
    }
}
