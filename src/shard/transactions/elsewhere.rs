//! Coordinators and partitions of other nodes: asked over the port for nodes, by shard 0, which answers for this one.
//!
//! Kafka's brokers ask the same with AddPartitionsToTxn and WriteTxnMarkers. Whoever is asked may have heard less of
//! the metadata than who asks, or more: what it does not know is refused with an error after which the same is asked
//! again, of whoever leads by then.

use crate::codec::control::QuestionKind;
use crate::codec::error_code::ErrorCode;
use crate::codec::peer_message::MessageError;
use crate::codec::transactions::{
    PartitionMarker, VerificationQuestion, decode_markers, decode_markers_written, decode_verification,
    encode_markers, encode_markers_written, encode_verification,
};
use crate::shard::Shard;
use crate::shard::api::by_owner::{ByOwner, Place};
use crate::shard::controller::CONTROLLER_SHARD;
use crate::shard::message::{MarkerItem, Reply, Request};
use crate::shard::transactions::ask::verify_here;
use crate::types::NodeId;
use crate::types::limits::{MARKER_ANSWER_TIME_MAX, VERIFICATION_ANSWER_TIME_MAX};
use bytes::Bytes;
use futures::future::{Either, select};
use std::pin::pin;
use std::rc::Rc;

/// What another node is asked.
pub enum NodeCall {
    Verify(VerificationQuestion),
    /// No more than [`PEER_PARTITIONS_MAX`](crate::types::limits::PEER_PARTITIONS_MAX).
    WriteMarkers(Vec<PartitionMarker>),
}

/// One error for each marker, or one.
pub type NodeReply = Vec<ErrorCode>;

/// Asks another node; as long as nobody answers, it cannot be reached.
pub async fn ask_node(shard: &Rc<Shard>, node: NodeId, call: NodeCall) -> NodeReply {
    if shard.id == CONTROLLER_SHARD {
        return pass_on(shard, node, call).await;
    }
    match shard.mesh.call(CONTROLLER_SHARD, Request::AskNode(node, call)).await {
        Reply::AskNode(reply) => reply,
        _ => unreachable!("another node answers as one"),
    }
}

/// The same on shard 0.
pub async fn pass_on(shard: &Rc<Shard>, node: NodeId, call: NodeCall) -> NodeReply {
    let (kind, payload, count, time_max) = match &call {
        NodeCall::Verify(question) => {
            (QuestionKind::VerifyTransaction, encode_verification(question), 1, VERIFICATION_ANSWER_TIME_MAX)
        }
        NodeCall::WriteMarkers(markers) => {
            (QuestionKind::WriteMarkers, encode_markers(markers), markers.len(), MARKER_ANSWER_TIME_MAX)
        }
    };
    let all = |error| vec![error; count];
    let peers = shard.controller.get().and_then(|controller| controller.peers());
    let Some(peers) = peers else { return all(ErrorCode::NetworkException) };
    let Some((answer, payload)) = peers.ask_node(node, kind, &payload, time_max).await else {
        return all(ErrorCode::NetworkException);
    };
    match (ErrorCode::from_wire(answer.error).unwrap_or(ErrorCode::UnknownServerError), call) {
        (ErrorCode::None, NodeCall::WriteMarkers(_)) => match decode_markers_written(&payload) {
            Ok(errors) if errors.len() == count => errors,
            _ => {
                tracing::error!(node = node.0, "an answer about markers cannot be read");
                all(ErrorCode::UnknownServerError)
            }
        },
        (error, _) => all(error),
    }
}

/// Answers another node, on shard 0; `None`: it is no question about transactions.
pub async fn answer(shard: &Rc<Shard>, kind: QuestionKind, payload: &[u8]) -> Option<(ErrorCode, Bytes)> {
    let answered = match kind {
        QuestionKind::VerifyTransaction => match decode_verification(payload) {
            Ok(question) => Ok((verify_here(shard, question).await.err(), Bytes::new())),
            Err(error) => Err(error),
        },
        QuestionKind::WriteMarkers => match decode_markers(payload) {
            Ok(markers) => {
                // Who asked has given up by then, and asks again.
                let patience = pin!(glommio::timer::sleep(MARKER_ANSWER_TIME_MAX));
                match select(pin!(write_markers(shard, markers)), patience).await {
                    Either::Left((errors, _)) => Ok((None, Bytes::from(encode_markers_written(&errors)))),
                    Either::Right(_) => Ok((Some(ErrorCode::RequestTimedOut), Bytes::new())),
                }
            }
            Err(error) => Err(error),
        },
        _ => return None,
    };
    Some(answered.map_or_else(
        |error: MessageError| {
            tracing::warn!(%error, ?kind, "a question of another node cannot be read");
            (ErrorCode::InvalidRequest, Bytes::new())
        },
        |(error, payload)| (error.unwrap_or(ErrorCode::None), payload),
    ))
}

/// Into partitions that this node leads.
async fn write_markers(shard: &Rc<Shard>, markers: Vec<PartitionMarker>) -> Vec<ErrorCode> {
    let mut errors = vec![ErrorCode::NotLeaderOrFollower; markers.len()];
    let mut by_owner = ByOwner::new();
    for (at, PartitionMarker { partition, marker, version }) in markers.into_iter().enumerate() {
        if let Some(owner) = shard.leader(&partition) {
            let item = MarkerItem { partition, marker, version, newest: marker.coordinator_epoch };
            by_owner.push(owner, Place { topic: 0, partition: at }, item);
        }
    }
    for (place, outcome) in by_owner.ask(shard).await {
        errors[place.partition] = outcome.error;
    }
    errors
}
