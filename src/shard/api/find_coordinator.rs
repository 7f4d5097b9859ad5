//! FindCoordinator (key 10): the broker that owns a group's partition of `__consumer_offsets`, or a transactional
//! id's of `__transaction_state`. The topic is made by the first question. Versions from 4 on ask for many keys
//! at once (KIP-699).

use crate::codec::error_code::ErrorCode;
use crate::group::member::text;
use crate::shard::Shard;
use crate::shard::api::groups::distinct;
use crate::shard::controller::InternalState;
use crate::shard::coordinators;
use crate::shard::step::Pace;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;

const KEYS_FROM: i16 = 4;
const MESSAGE_FROM: i16 = 1;
const NOBODY: BrokerId = BrokerId(-1);

/// Key types of the wire.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// What is said of one key.
struct Found {
    node: BrokerId,
    host: StrBytes,
    port: i32,
    error: ErrorCode,
    message: Option<StrBytes>,
}

impl Found {
    fn nobody(error: ErrorCode, message: &str) -> Found {
        Found { node: NOBODY, host: StrBytes::default(), port: -1, error, message: Some(text(message)) }
    }
}

pub async fn answer(
    shard: &Rc<Shard>,
    request: &FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    if version >= KEYS_FROM {
        let keys = distinct(request.coordinator_keys.clone(), StrBytes::clone);
        let mut coordinators = Vec::with_capacity(keys.len());
        let mut pace = Pace::new(&shard.clock);
        for key in &keys {
            pace.give_way().await;
            let found = find(shard, request.key_type, key).await;
            let coordinator = Coordinator::default()
                .with_key(key.clone())
                .with_node_id(found.node)
                .with_host(found.host)
                .with_port(found.port)
                .with_error_code(found.error.code())
                .with_error_message(found.message);
            coordinators.push(coordinator);
        }
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let found = find(shard, request.key_type, &request.key).await;
    let response = FindCoordinatorResponse::default()
        .with_error_code(found.error.code())
        .with_node_id(found.node)
        .with_host(found.host)
        .with_port(found.port);
    if version >= MESSAGE_FROM { response.with_error_message(found.message) } else { response }
}

async fn find(shard: &Rc<Shard>, key_type: i8, key: &str) -> Found {
    let state = match key_type {
        GROUP => InternalState::Groups,
        TRANSACTION => InternalState::Transactions,
        _ => return Found::nobody(ErrorCode::InvalidRequest, "this kind of coordinator is not known"),
    };
    find_leader(shard, state, key).await.unwrap_or_else(|error| Found::nobody(error, error.message()))
}

/// The leader of the partition that the key's state is in.
async fn find_leader(shard: &Rc<Shard>, state: InternalState, key: &str) -> Result<Found, ErrorCode> {
    shard.create_internal(state).await?;
    let partition = coordinators::partition_of(shard, state.topic_name(), key);
    let partition = partition.ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let image = shard.image.borrow();
    let state = image.partition(partition).ok_or(ErrorCode::CoordinatorNotAvailable)?;
    let brokers = shard.brokers.borrow();
    let leader = brokers.leader_of(state).and_then(|leader| brokers.get(leader));
    let leader = leader.ok_or(ErrorCode::CoordinatorNotAvailable)?;
    Ok(Found {
        node: BrokerId(leader.id.0),
        host: text(&leader.host),
        port: leader.port.into(),
        error: ErrorCode::None,
        message: None,
    })
}
