//! DescribeGroups, ListGroups, DeleteGroups.

use crate::cluster::brokers::Routing;
use crate::cluster::describe::operations;
use crate::group::Answer;
use crate::shard::api::groups::{Asking, distinct};
use crate::shard::conn::Listener;
use crate::shard::groups::{GroupReply, GroupRequest, list_local};
use crate::shard::message::{Reply, Request};
use crate::shard::step::Pace;
use crate::types::ShardId;
use crate::types::limits::GROUP_DELETIONS_MAX;
use futures::stream::{self, StreamExt};
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    ListGroupsRequest, ListGroupsResponse,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeSet;

/// The first version of ListGroups that names the type of a group.
const LISTED_TYPE_FROM: i16 = 5;

pub async fn describe(asking: &Asking<'_>, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let asked = distinct(request.groups, GroupId::clone);
    let mut groups = Vec::with_capacity(asked.len());
    let mut pace = Pace::new(&asking.shard.clock);
    for id in asked {
        pace.give_way().await;
        let asked = GroupRequest::Describe { group: id.to_string() };
        let mut described = match asking.ask(&id, asked).await {
            GroupReply::Described(described) => described,
            GroupReply::Refused(error) => {
                DescribedGroup::default().with_group_id(id).with_error_code(error.code())
            }
            GroupReply::Answer(_) | GroupReply::Fetched(_) | GroupReply::ConsumerDescribed(_) => {
                unreachable!("a description is answered by a description")
            }
        };
        if request.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = operations::GROUP;
        }
        groups.push(described);
    }
    DescribeGroupsResponse::default().with_groups(groups)
}

/// Of a broker, all that it coordinates: the node's, or one core's where each core is a broker.
pub async fn list(asking: &Asking<'_>, request: ListGroupsRequest) -> ListGroupsResponse {
    let shard = asking.shard;
    let asked: Vec<ShardId> = match (shard.routing(), asking.connection.listener) {
        (Routing::Core, Listener::Core(core)) => vec![core],
        (Routing::Core, Listener::Base) | (Routing::Node, _) => {
            (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16)).collect()
        }
    };
    let mut groups = Vec::new();
    for owner in asked {
        let listed = if owner == shard.id {
            list_local(shard).await
        } else {
            match shard.mesh.call(owner, Request::ListGroups).await {
                Reply::ListGroups(listed) => listed,
                _ => unreachable!("a list is answered by a list"),
            }
        };
        match listed {
            Ok(listed) => groups.extend(listed),
            Err(error) => return ListGroupsResponse::default().with_error_code(error.code()),
        }
    }
    let wanted = Wanted::new(&request);
    groups.retain(|group| wanted.has(group));
    if asking.version < LISTED_TYPE_FROM {
        groups.iter_mut().for_each(|group| group.group_type = StrBytes::default());
    }
    ListGroupsResponse::default().with_groups(groups)
}

/// Which groups are asked for (KIP-518, KIP-848). No state and no type means any.
struct Wanted {
    states: BTreeSet<String>,
    types: BTreeSet<String>,
}

impl Wanted {
    fn new(request: &ListGroupsRequest) -> Wanted {
        let states = request.states_filter.iter().map(|state| state.trim().to_lowercase());
        let types = request.types_filter.iter().map(|name| name.trim().to_lowercase());
        Wanted { states: states.collect(), types: types.collect() }
    }

    fn has(&self, group: &ListedGroup) -> bool {
        let has = |wanted: &BTreeSet<String>, name: &str| {
            wanted.is_empty() || wanted.contains(&name.to_lowercase())
        };
        has(&self.states, &group.group_state) && has(&self.types, &group.group_type)
    }
}

/// Each group is answered once. They are deleted side by side, some at a time.
pub async fn delete(asking: &Asking<'_>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let names: BTreeSet<GroupId> = request.groups_names.into_iter().collect();
    let deletions = names.into_iter().map(|id| delete_one(asking, id));
    let results = stream::iter(deletions).buffered(GROUP_DELETIONS_MAX).collect().await;
    DeleteGroupsResponse::default().with_results(results)
}

async fn delete_one(asking: &Asking<'_>, id: GroupId) -> DeletableGroupResult {
    let error = match asking.ask(&id, GroupRequest::DeleteGroup { group: id.to_string() }).await {
        GroupReply::Answer(Answer::DeleteGroup(error)) | GroupReply::Refused(error) => error,
        GroupReply::Answer(_)
        | GroupReply::Fetched(_)
        | GroupReply::Described(_)
        | GroupReply::ConsumerDescribed(_) => {
            unreachable!("a deletion is answered by a deletion")
        }
    };
    DeletableGroupResult::default().with_group_id(id).with_error_code(error.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::member::text;

    #[test]
    fn groups_are_listed_by_state_and_type_however_they_are_spelt() {
        let group = ListedGroup::default()
            .with_group_state(text("PreparingRebalance"))
            .with_group_type(text("classic"));
        let has = |states: &[&str], types: &[&str]| {
            let request = ListGroupsRequest::default()
                .with_states_filter(states.iter().map(|state| text(state)).collect())
                .with_types_filter(types.iter().map(|name| text(name)).collect());
            Wanted::new(&request).has(&group)
        };
        assert!(has(&[], &[]));
        assert!(has(&["Stable", " preparingrebalance"], &["Classic"]));
        assert!(!has(&["Stable"], &[]));
        assert!(!has(&[], &["consumer"]));
    }
}
