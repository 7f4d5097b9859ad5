//! DescribeTransactions, ListTransactions (KIP-664).

use crate::cluster::brokers::Routing;
use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::{TransactionState, TransactionValue};
use crate::group::member::text;
use crate::shard::api::groups::{Asking, distinct};
use crate::shard::conn::Listener;
use crate::shard::message::{Reply, Request};
use crate::shard::step::Pace;
use crate::shard::transactions::{ListFilter, TransactionReply, TransactionRequest, list_local};
use crate::txn::coordinator::Listed;
use crate::types::{ProducerId, ShardId};
use kafka_protocol::messages::describe_transactions_response::{
    TopicData, TransactionState as DescribedTransaction,
};
use kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest,
    ListTransactionsResponse, TopicName, TransactionalId,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// Each id is described once.
pub async fn describe(
    asking: &Asking<'_>,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let ids = distinct(request.transactional_ids, TransactionalId::clone);
    let mut states = Vec::with_capacity(ids.len());
    let mut pace = Pace::new(&asking.shard.clock);
    for id in ids {
        pace.give_way().await;
        let described = match asking.ask_transaction(&id, TransactionRequest::Describe).await {
            _ if id.is_empty() => Err(ErrorCode::InvalidRequest),
            TransactionReply::Described(Some(value)) => Ok(described(&value)),
            TransactionReply::Described(None) => Err(ErrorCode::TransactionalIdNotFound),
            TransactionReply::Refused(error) => Err(error),
            TransactionReply::Answer(_) | TransactionReply::Verified(_) => {
                unreachable!("a description is answered by a description")
            }
        };
        let refused = |error: ErrorCode| DescribedTransaction::default().with_error_code(error.code());
        states.push(described.unwrap_or_else(refused).with_transactional_id(id));
    }
    DescribeTransactionsResponse::default().with_transaction_states(states)
}

fn described(value: &TransactionValue) -> DescribedTransaction {
    let topics = value.partitions.topics().map(|(topic, partitions)| {
        let partitions = partitions.iter().copied().collect();
        TopicData::default().with_topic(TopicName(text(topic))).with_partitions(partitions)
    });
    DescribedTransaction::default()
        .with_producer_id(value.producer.0.into())
        .with_producer_epoch(value.epoch.0)
        .with_transaction_state(text(value.state.name()))
        .with_transaction_timeout_ms(value.timeout_ms)
        .with_transaction_start_time_ms(value.start.0)
        .with_topics(topics.collect())
}

/// Of a broker, all that it coordinates: the node's, or one core's where each core is a broker.
pub async fn list(asking: &Asking<'_>, request: ListTransactionsRequest) -> ListTransactionsResponse {
    let mut response = ListTransactionsResponse::default();
    let mut filter = ListFilter {
        states: BTreeSet::new(),
        producers: request.producer_id_filters.iter().map(|id| ProducerId(id.0)).collect(),
        open_for: u64::try_from(request.duration_filter).ok().map(Duration::from_millis),
        pattern: request
            .transactional_id_pattern
            .as_ref()
            .filter(|pattern| !pattern.is_empty())
            .map(ToString::to_string),
    };
    for name in &request.state_filters {
        match TransactionState::from_name(name) {
            Some(state) => {
                filter.states.insert(state);
            }
            None => response.unknown_state_filters.push(name.clone()),
        }
    }
    // Nothing is in any of the states that were asked for.
    if filter.states.is_empty() && !request.state_filters.is_empty() {
        return response;
    }
    match list_all(asking, &filter).await {
        Ok(listed) => response.with_transaction_states(listed.into_iter().map(of_one).collect()),
        Err(error) => response.with_error_code(error.code()),
    }
}

async fn list_all(asking: &Asking<'_>, filter: &ListFilter) -> Result<Vec<Listed>, ErrorCode> {
    let shard = asking.shard;
    let asked: Vec<ShardId> = match (shard.routing(), asking.connection.listener) {
        (Routing::Core, Listener::Core(core)) => vec![core],
        (Routing::Core, Listener::Base) | (Routing::Node, _) => {
            (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16)).collect()
        }
    };
    let mut all = Vec::new();
    for owner in asked {
        let listed = if owner == shard.id {
            list_local(shard, filter).await
        } else {
            match shard.mesh.call(owner, Request::ListTransactions(filter.clone())).await {
                Reply::ListTransactions(listed) => listed,
                _ => unreachable!("a list is answered by a list"),
            }
        };
        all.extend(listed?);
    }
    Ok(all)
}

fn of_one(listed: Listed) -> ListedTransaction {
    ListedTransaction::default()
        .with_transactional_id(TransactionalId(text(&listed.transactional_id)))
        .with_producer_id(listed.producer.0.into())
        .with_transaction_state(text(listed.state.name()))
}
