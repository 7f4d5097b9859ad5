//! FindCoordinator (key 10): there are no consumer groups and no transactions yet, and so no
//! coordinators. Why it is answered all the same is told beside the version table.
//!
//! The error is one after which clients ask again, without a word to whoever assigns partitions:
//! librdkafka wants a group's name even where none is used, looks for its coordinator, and would hand any
//! other error to the application. Versions from 4 on ask for many keys at once (KIP-699).

use crate::codec::error_code::ErrorCode;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

/// What clients show to whoever uses a group.
const NO_GROUPS: &str =
    "this broker has no consumer groups and no transactions yet; assign partitions instead of subscribing";
const KEYS_FROM: i16 = 4;
const MESSAGE_FROM: i16 = 1;
const NOBODY: BrokerId = BrokerId(-1);

pub fn answer(request: &FindCoordinatorRequest, version: i16) -> FindCoordinatorResponse {
    let error = ErrorCode::CoordinatorNotAvailable.code();
    let message = || Some(StrBytes::from_static_str(NO_GROUPS));
    if version >= KEYS_FROM {
        let none = |key: &StrBytes| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id(NOBODY)
                .with_port(-1)
                .with_error_code(error)
                .with_error_message(message())
        };
        let coordinators = request.coordinator_keys.iter().map(none).collect();
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let response =
        FindCoordinatorResponse::default().with_error_code(error).with_node_id(NOBODY).with_port(-1);
    if version >= MESSAGE_FROM { response.with_error_message(message()) } else { response }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn every_version_says_that_there_is_none() {
        let keys = vec![StrBytes::from_static_str("billing"), StrBytes::from_static_str("shipping")];
        for version in 0..=6 {
            let request = if version >= KEYS_FROM {
                FindCoordinatorRequest::default().with_coordinator_keys(keys.clone())
            } else {
                FindCoordinatorRequest::default().with_key(keys[0].clone())
            };
            let response = answer(&request, version);
            response.encode(&mut Vec::new(), version).unwrap();
            if version >= KEYS_FROM {
                let answered: Vec<_> = response.coordinators.iter().map(|one| one.key.clone()).collect();
                assert_eq!(answered, keys);
                assert!(response.coordinators.iter().all(|one| one.error_code == 15));
            } else {
                assert_eq!(response.error_code, 15);
                let message = response.error_message.unwrap_or_default();
                assert_eq!(&*message == NO_GROUPS, version >= MESSAGE_FROM);
            }
        }
    }
}
