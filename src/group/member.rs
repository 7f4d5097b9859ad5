//! A member of a classic group, and what it says of itself.

use crate::codec::group_record::MemberValue;
use crate::codec::wire::STRING_SIZE_MAX;
use crate::group::{Caller, Ticket, millis};
use crate::types::Mono;
use crate::types::limits::GROUP_ENTRY_SIZE;
use bytes::Bytes;
use kafka_protocol::messages::JoinGroupRequest;
use kafka_protocol::messages::describe_groups_response::DescribedGroupMember;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;
use std::time::Duration;

/// A way to assign partitions that a member knows, with its metadata for it. Opaque to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    pub metadata: Bytes,
}

/// What a JoinGroup request says, in memory of our own: the request's bytes are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    pub group: String,
    /// Empty: the member has none yet.
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocol_type: String,
    /// In the order of the member's preference, each name once.
    pub protocols: Vec<Protocol>,
    pub version: i16,
}

impl Joining {
    pub fn new(caller: &Caller, request: &JoinGroupRequest) -> Joining {
        let mut protocols: Vec<Protocol> = Vec::with_capacity(request.protocols.len());
        for protocol in &request.protocols {
            // The first of a name, as Kafka's collection has it.
            if protocols.iter().all(|known| known.name != *protocol.name) {
                let metadata = Bytes::copy_from_slice(&protocol.metadata);
                protocols.push(Protocol { name: protocol.name.to_string(), metadata });
            }
        }
        Joining {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: request.group_instance_id.as_ref().map(|id| id.to_string()),
            client_id: caller.client_id.clone(),
            client_host: caller.client_host.clone(),
            session_timeout_ms: request.session_timeout_ms,
            // Version 0 has none: that of the session is meant.
            rebalance_timeout_ms: match caller.version {
                0 => request.session_timeout_ms,
                _ => request.rebalance_timeout_ms,
            },
            protocol_type: request.protocol_type.to_string(),
            protocols,
            version: caller.version,
        }
    }

    /// Whether all strings of it can be written; what came over the wire always can.
    pub fn fits_record(&self) -> bool {
        let names = self.protocols.iter().map(|protocol| &protocol.name);
        let strings = [&self.protocol_type, &self.client_id, &self.client_host];
        names.chain(strings).all(|text| text.len() <= STRING_SIZE_MAX)
    }

    /// Bytes that a member keeps of it.
    pub fn size(&self) -> usize {
        let protocols = self.protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len());
        let instance_id = self.instance_id.as_deref().map_or(0, str::len);
        self.client_id.len() + self.protocol_type.len() + instance_id + protocols.sum::<usize>()
    }
}

/// Bytes that an id takes that was given out.
pub fn pending_size(id: &str) -> usize {
    GROUP_ENTRY_SIZE + 2 * id.len() // It is in a deadline too.
}

/// Lives: from its first whole JoinGroup until it leaves or fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    /// Of a static member (KIP-345).
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// It does not know that it is a member yet, so it sends no heartbeats.
    pub is_new: bool,
    pub awaiting_join: Option<Ticket>,
    pub awaiting_sync: Option<Ticket>,
    /// `None`: what it waits for keeps its session.
    pub session_end: Option<Mono>,
    /// When that is looked at next: not after it.
    pub reminder: Option<Mono>,
}

impl Member {
    pub fn new(id: String, joining: &Joining) -> Member {
        Member {
            id,
            instance_id: joining.instance_id.clone(),
            client_id: joining.client_id.clone(),
            client_host: joining.client_host.clone(),
            session_timeout_ms: joining.session_timeout_ms,
            rebalance_timeout_ms: joining.rebalance_timeout_ms,
            protocols: joining.protocols.clone(),
            assignment: Bytes::new(),
            is_new: true,
            awaiting_join: None,
            awaiting_sync: None,
            session_end: None,
            reminder: None,
        }
    }

    /// As its group's record has it: of all protocols the one that was chosen.
    pub fn from_record(value: MemberValue, protocol: &str) -> Member {
        Member {
            id: value.member_id,
            instance_id: value.instance_id,
            client_id: value.client_id,
            client_host: value.client_host,
            session_timeout_ms: value.session_timeout_ms,
            rebalance_timeout_ms: value.rebalance_timeout_ms,
            protocols: vec![Protocol { name: protocol.to_owned(), metadata: value.subscription }],
            assignment: value.assignment,
            is_new: false,
            awaiting_join: None,
            awaiting_sync: None,
            session_end: None,
            reminder: None,
        }
    }

    pub fn to_record(&self, protocol: &str, assignment: Bytes) -> MemberValue {
        MemberValue {
            member_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            session_timeout_ms: self.session_timeout_ms,
            subscription: self.metadata(protocol),
            assignment,
        }
    }

    /// Bytes that it takes.
    pub fn size(&self) -> usize {
        let protocols = self.protocols.iter().map(|protocol| protocol.name.len() + protocol.metadata.len());
        let names = self.client_id.len() + self.client_host.len();
        let instance_id = self.instance_id.as_deref().map_or(0, str::len);
        pending_size(&self.id) + 2 * instance_id + names + protocols.sum::<usize>() + self.assignment.len()
    }

    pub fn session_timeout(&self) -> Duration {
        millis(self.session_timeout_ms)
    }

    pub fn rebalance_timeout(&self) -> Duration {
        millis(self.rebalance_timeout_ms)
    }

    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|known| known.name == protocol)
    }

    /// What it says of itself under a protocol; nothing for one that it does not know.
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let known = self.protocols.iter().find(|known| known.name == protocol);
        known.map(|known| known.metadata.clone()).unwrap_or_default()
    }

    pub fn describe_to_leader(&self, protocol: &str) -> JoinGroupResponseMember {
        JoinGroupResponseMember::default()
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_id.as_deref().map(text))
            .with_metadata(self.metadata(protocol))
    }

    /// `protocol`: the one in use; without it the metadata are left out.
    pub fn describe(&self, protocol: Option<&str>) -> DescribedGroupMember {
        DescribedGroupMember::default()
            .with_member_id(text(&self.id))
            .with_group_instance_id(self.instance_id.as_deref().map(text))
            .with_client_id(text(&self.client_id))
            .with_client_host(text(&self.client_host))
            .with_member_metadata(protocol.map(|protocol| self.metadata(protocol)).unwrap_or_default())
            .with_member_assignment(protocol.map(|_| self.assignment.clone()).unwrap_or_default())
    }
}

/// A string of an answer.
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
