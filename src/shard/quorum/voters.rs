//! AddRaftVoter and RemoveRaftVoter (KIP-853): an operator gives a vote, and takes a member out that is gone for good.

use crate::cluster::quorum::event::ProposalRejected;
use crate::cluster::quorum::members::{MemberChange, PeerId};
use crate::codec::error_code::ErrorCode;
use crate::shard::quorum::{CommitError, MetadataQuorum};
use crate::types::{DirectoryId, NodeId, Uuid, parse_uuid_text};
use kafka_protocol::messages::{
    AddRaftVoterRequest, AddRaftVoterResponse, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
};
use kafka_protocol::protocol::StrBytes;

type Refused = (ErrorCode, String);

/// An observer that follows the log gets a vote.
pub async fn add(quorum: &MetadataQuorum, request: &AddRaftVoterRequest) -> AddRaftVoterResponse {
    let asked = (request.cluster_id.as_deref(), request.voter_id, request.voter_directory_id);
    let (code, message) = refusal(change(quorum, asked, Wanted::Vote).await);
    AddRaftVoterResponse::default().with_error_code(code.code()).with_error_message(message)
}

/// A member that is not there any more is none: another directory may take its place.
pub async fn remove(quorum: &MetadataQuorum, request: &RemoveRaftVoterRequest) -> RemoveRaftVoterResponse {
    let asked = (request.cluster_id.as_deref(), request.voter_id, request.voter_directory_id);
    let (code, message) = refusal(change(quorum, asked, Wanted::Gone).await);
    RemoveRaftVoterResponse::default().with_error_code(code.code()).with_error_message(message)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Vote,
    Gone,
}

fn refusal(changed: Result<(), Refused>) -> (ErrorCode, Option<StrBytes>) {
    match changed {
        Ok(()) => (ErrorCode::None, None),
        Err((code, message)) => (code, Some(StrBytes::from_string(message))),
    }
}

async fn change(
    quorum: &MetadataQuorum,
    (cluster, node, directory): (Option<&str>, i32, Uuid),
    wanted: Wanted,
) -> Result<(), Refused> {
    let refused = |code: ErrorCode| (code, code.message().to_owned());
    if cluster.is_some_and(|cluster| parse_uuid_text(cluster) != Some(quorum.cluster())) {
        return Err(refused(ErrorCode::InconsistentClusterId));
    }
    let Ok(_turn) = quorum.turn().acquire_permit(1).await else {
        return Err(refused(ErrorCode::NotController));
    };
    if !quorum.is_leading() {
        return Err(refused(ErrorCode::NotController));
    }
    let peer = member(quorum, node, directory).ok_or_else(|| refused(ErrorCode::VoterNotFound))?;
    let is_voter = quorum.quorum.borrow().members().voters.contains(&peer);
    let change = match wanted {
        Wanted::Vote if is_voter => return Err(refused(ErrorCode::DuplicateVoter)),
        Wanted::Vote => MemberChange::AddVoter(peer),
        // It would go on with metadata that nobody tells it any more.
        Wanted::Gone if !quorum.is_silent(peer) => {
            let reason =
                format!("node {node} is running, or was a moment ago: only a member that is gone is removed");
            return Err((ErrorCode::InvalidRequest, reason));
        }
        Wanted::Gone => MemberChange::Remove(peer),
    };
    quorum.change_members(change).await.map_err(|error| match (&error, error.code()) {
        (CommitError::Refused(ProposalRejected::Members(_)), ErrorCode::KafkaStorageError) => {
            (ErrorCode::InvalidRequest, error.to_string())
        }
        (_, code) => (code, error.to_string()),
    })?;
    match wanted {
        Wanted::Vote => tracing::info!(node, "a member of the quorum was given a vote"),
        Wanted::Gone => {
            tracing::info!(node, "a member was taken out of the quorum");
            quorum.promoting.notify(); // Of an even number of votes none can be missed.
        }
    }
    Ok(())
}

/// The member of that node; with that directory, if one is named.
fn member(quorum: &MetadataQuorum, node: i32, directory: Uuid) -> Option<PeerId> {
    let state = quorum.quorum.borrow();
    let members = state.members();
    let mut all = members.voters.iter().chain(&members.observers).copied();
    let is_meant = |peer: &PeerId| {
        peer.node() == NodeId(node)
            && (directory.is_nil() || *peer == PeerId::of_directory(NodeId(node), DirectoryId(directory)))
    };
    all.find(is_meant)
}
