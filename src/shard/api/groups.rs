//! Requests to group coordinators: found by the group's name, asked on whichever core has them.
//!
//! | file | API keys |
//! |---|---|
//! | `members.rs` | JoinGroup (11), Heartbeat (12), LeaveGroup (13), SyncGroup (14) |
//! | `offsets.rs` | OffsetCommit (8), OffsetFetch (9), TxnOffsetCommit (28), OffsetDelete (47) |
//! | `consumers.rs` | ConsumerGroupHeartbeat (68), ConsumerGroupDescribe (69) |
//! | `admin.rs` | DescribeGroups (15), ListGroups (16), DeleteGroups (42) |

mod admin;
mod consumers;
mod members;
mod offsets;

pub use admin::{delete, describe, list};
pub use consumers::{consumer_describe, consumer_heartbeat};
pub use members::{heartbeat, join, leave, sync};
pub use offsets::{commit, commit_in_transaction, delete_offsets, fetch};

use crate::codec::error_code::ErrorCode;
use crate::group::{Caller, GROUPS_TOPIC};
use crate::shard::Shard;
use crate::shard::api::produce::is_served_here;
use crate::shard::conn::Connection;
use crate::shard::coordinators;
use crate::shard::groups::{GroupCall, GroupReply, GroupRequest, call_local};
use crate::shard::message::{Reply, Request};
use crate::types::{ShardId, TopicPartition};
use std::collections::BTreeSet;
use std::rc::Rc;

/// What is asked for, each once: of what is named again the first is answered.
pub fn distinct<T, K: Ord>(asked: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut known = BTreeSet::new();
    asked.into_iter().filter(|asked| known.insert(key(asked))).collect()
}

/// Whose request it is.
pub struct Asking<'a> {
    pub shard: &'a Rc<Shard>,
    pub connection: &'a Rc<Connection>,
    pub version: i16,
    /// Of the requests that keep it: JoinGroup and ConsumerGroupHeartbeat.
    pub client_id: Option<String>,
}

impl Asking<'_> {
    fn caller(&self) -> Caller {
        Caller {
            client_id: self.client_id.clone().unwrap_or_default(),
            client_host: format!("/{}", self.connection.peer.ip()),
            version: self.version,
        }
    }

    /// The shard that coordinates an id, if it may be asked on this connection. `topic`: where its state is kept.
    pub fn locate(&self, topic: &str, id: &str) -> Result<(ShardId, TopicPartition), ErrorCode> {
        let place = coordinators::locate(self.shard, topic, id)?;
        match is_served_here(self.shard, self.connection, place.0) {
            true => Ok(place),
            false => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Asks the coordinator of a group.
    async fn ask(&self, group: &str, request: GroupRequest) -> GroupReply {
        match self.locate(GROUPS_TOPIC, group) {
            Ok((owner, partition)) => self.ask_owner(owner, partition, request).await,
            Err(error) => GroupReply::Refused(error),
        }
    }

    async fn ask_owner(
        &self,
        owner: ShardId,
        partition: TopicPartition,
        request: GroupRequest,
    ) -> GroupReply {
        let call = GroupCall { partition, caller: self.caller(), request };
        if owner == self.shard.id {
            return call_local(self.shard, call).await;
        }
        self.shard.metrics.borrow_mut().requests_forwarded += 1;
        match self.shard.mesh.call(owner, Request::Group(Box::new(call))).await {
            Reply::Group(reply) => *reply,
            _ => unreachable!("groups are answered by groups"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_again_is_answered_once() {
        let asked = vec![("b", 1), ("a", 2), ("b", 3)];
        assert_eq!(distinct(asked, |(name, _)| *name), [("b", 1), ("a", 2)]);
    }
}
