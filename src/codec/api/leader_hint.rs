//! Who leads a partition now, told along with an error so that the client need not ask (KIP-951).
//!
//! `CurrentLeader` is a tagged field of a partition (Produce 10, Fetch 12), `NodeEndpoints` one of
//! the whole response (Produce 10, Fetch 16).

use crate::codec::wire::{Writer, uvarint_size};
use crate::types::{BrokerId, LeaderEpoch};

/// The leader of a partition, as far as this broker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentLeader {
    pub leader: BrokerId,
    pub epoch: LeaderEpoch,
}

impl CurrentLeader {
    /// Bytes of the structure on the wire: two integers and an empty list of tagged fields.
    const SIZE: u32 = 9;

    pub(super) fn write_tagged(&self, tag: u32, writer: &mut Writer<'_>) {
        writer.uvarint(tag);
        writer.uvarint(CurrentLeader::SIZE);
        writer.i32(self.leader.0);
        writer.i32(self.epoch.0);
        writer.no_tagged_fields();
    }
}

/// Where a leader named in the same response listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEndpoint<'a> {
    pub node: BrokerId,
    pub host: &'a str,
    pub port: u16,
    pub rack: Option<&'a str>,
}

impl NodeEndpoint<'_> {
    fn size(&self) -> usize {
        let host = uvarint_size(self.host.len() as u32 + 1) + self.host.len();
        let rack = self.rack.map_or(1, |rack| uvarint_size(rack.len() as u32 + 1) + rack.len());
        4 + host + 4 + rack + 1
    }

    /// All of `endpoints` as one tagged field.
    pub(super) fn write_all_tagged(endpoints: &[NodeEndpoint<'_>], tag: u32, writer: &mut Writer<'_>) {
        let count_size = uvarint_size(endpoints.len() as u32 + 1);
        let size = count_size + endpoints.iter().map(NodeEndpoint::size).sum::<usize>();
        writer.uvarint(tag);
        writer.uvarint(size as u32);
        writer.length(Some(endpoints.len()));
        for endpoint in endpoints {
            writer.i32(endpoint.node.0);
            writer.str(endpoint.host);
            writer.i32(i32::from(endpoint.port));
            writer.nullable_str(endpoint.rack);
            writer.no_tagged_fields();
        }
    }
}
