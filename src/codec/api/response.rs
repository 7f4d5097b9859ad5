//! Responses that the library encodes, as whole frames.

use kafka_protocol::protocol::Encodable;

use crate::codec::api::versions::ApiKey;
use crate::codec::frame::ResponseFrame;

/// The library refused to encode: a field is set that the version does not have. Our bug, found by
/// a test for every version; the connection is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {version} cannot be encoded: {reason}", api_key.name())]
pub struct EncodeError {
    pub api_key: ApiKey,
    pub version: i16,
    pub reason: String,
}

/// Appends `message` as one frame: prefix, response header, body. After an error `out` is as before.
pub fn write_response<M: Encodable>(
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
    message: &M,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let start = out.len();
    let frame = ResponseFrame::begin(out, api_key, version, correlation_id);
    if let Err(error) = message.encode(out, version) {
        out.truncate(start);
        return Err(EncodeError { api_key, version, reason: error.to_string() });
    }
    frame.end(out, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::api::versions::{api_versions_fallback, api_versions_response};
    use kafka_protocol::messages::{InitProducerIdResponse, MetadataResponse};

    #[test]
    fn prefix_counts_header_and_body() {
        let mut out = b"before".to_vec();
        write_response(ApiKey::InitProducerId, 2, 7, &InitProducerIdResponse::default(), &mut out).unwrap();
        assert_eq!(out[6..15], [0, 0, 0, 22, 0, 0, 0, 7, 0]);
        assert_eq!(out.len(), 6 + 4 + 22);
    }

    #[test]
    fn answers_to_api_versions_keep_the_old_header() {
        let mut fallback = Vec::new();
        write_response(ApiKey::ApiVersions, 0, 7, &api_versions_fallback(), &mut fallback).unwrap();
        assert_eq!(fallback[..10], [0, 0, 0, 16, 0, 0, 0, 7, 0, 35]);
        let mut answer = Vec::new();
        write_response(ApiKey::ApiVersions, 3, 7, &api_versions_response(3), &mut answer).unwrap();
        assert_eq!(answer[4..11], [0, 0, 0, 7, 0, 0, 51]);
    }

    #[test]
    fn a_refused_message_leaves_nothing_behind() {
        let message = MetadataResponse::default().with_cluster_authorized_operations(1);
        let mut out = b"before".to_vec();
        assert!(write_response(ApiKey::Metadata, 0, 7, &message, &mut out).is_err());
        assert_eq!(out, b"before");
    }
}
