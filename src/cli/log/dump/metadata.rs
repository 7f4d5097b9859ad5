//! The metadata log: every frame and what it holds, one frame in memory at a time.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use odradek::cluster::encoding;
use odradek::cluster::log_entry::{EntrySequence, HEADER_SIZE, NoEntry, entry_size};
use odradek::cluster::quorum::entry::{LogEntry, Payload};
use odradek::cluster::quorum::frame::{Frame, read_frame};
use odradek::cluster::quorum::members::{MemberChange, PeerId};
use odradek::cluster::record::{ConfigResource, LogDirectory, Node, PartitionState, Record};
use odradek::config::quota::{EntityName, QuotaLimit};
use odradek::types::limits::IO_ALIGNMENT;
use odradek::types::{NodeId, TopicPartition, uuid_text};
use serde_json::{Value, json};

use super::super::item::{Field, Item, Printer};
use super::Interrupted;

/// What stands at an entry's place.
enum Place {
    Entry { bytes: Vec<u8> },
    Zeros,
    Damaged { reason: String },
}

/// Entries begin at blocks, so that those behind damage are found again.
pub fn dump<W: Write>(file: &File, printer: &mut Printer<W>) -> Result<(), Interrupted> {
    let size = file.metadata().map_err(Interrupted::Read)?.len();
    let mut expected: Option<EntrySequence> = None;
    let (mut position, mut entry_count) = (0, 0u64);
    // Damage is reported where it begins, not once for each of its blocks.
    let mut in_damage = false;
    while position < size {
        let (advance, problem) = match read_place(file, position, size).map_err(Interrupted::Read)? {
            Place::Zeros => (IO_ALIGNMENT as u64, None),
            Place::Damaged { reason } => (IO_ALIGNMENT as u64, Some(reason)),
            Place::Entry { bytes } => match read_frame(&bytes, expected) {
                Ok((sequence, frame)) => {
                    let at = Item::new("entry")
                        .with("sequence", sequence.0)
                        .with("position", position)
                        .with("size", bytes.len());
                    print_frame(at, &frame, printer).map_err(Interrupted::Print)?;
                    expected = Some(sequence.next());
                    entry_count += 1;
                    (bytes.len() as u64, None)
                }
                Err(NoEntry::Unreadable { sequence, error }) => {
                    expected = Some(sequence.next());
                    in_damage = false;
                    (bytes.len() as u64, Some(format!("entry {}: {error}", sequence.0)))
                }
                Err(NoEntry::Damaged(damage)) => {
                    // Whatever comes next may be shown, in or out of sequence.
                    expected = None;
                    (IO_ALIGNMENT as u64, Some(damage.to_string()))
                }
            },
        };
        if let Some(reason) = &problem
            && !in_damage
        {
            printer.print(&Item::problem(position, reason)).map_err(Interrupted::Print)?;
        }
        in_damage = problem.is_some();
        position += advance.next_multiple_of(IO_ALIGNMENT as u64);
    }
    let end = Item::new("end").with("entries", entry_count).with("position", size);
    printer.print(&end).map_err(Interrupted::Print)
}

fn read_place(file: &File, position: u64, size: u64) -> io::Result<Place> {
    let left = size - position;
    let mut head = vec![0; left.min(IO_ALIGNMENT as u64) as usize];
    file.read_exact_at(&mut head, position)?;
    if head.iter().all(|byte| *byte == 0) {
        return Ok(Place::Zeros);
    }
    let Some(header) = head.first_chunk::<HEADER_SIZE>() else {
        return Ok(Place::Damaged {
            reason: format!("the file ends inside an entry's header: {left} bytes"),
        });
    };
    match entry_size(header) {
        Err(damage) => Ok(Place::Damaged { reason: damage.to_string() }),
        Ok(needed) if needed as u64 > left => {
            Ok(Place::Damaged { reason: format!("the file ends inside an entry: {left} of {needed} bytes") })
        }
        // At most METADATA_ENTRY_SIZE_MAX, and no more than the file has.
        Ok(needed) => {
            let mut bytes = vec![0; needed];
            file.read_exact_at(&mut bytes, position)?;
            Ok(Place::Entry { bytes })
        }
    }
}

fn print_frame<W: Write>(at: Item, frame: &Frame, printer: &mut Printer<W>) -> io::Result<()> {
    match frame {
        Frame::Records(records) => {
            printer.print(&at.with("records", records.len()))?;
            print_records(records, printer)
        }
        Frame::Head { snapshot, parts } => printer.print(
            &at.with("snapshotIndex", snapshot.index)
                .with("snapshotTerm", snapshot.term)
                .with("voters", peers(&snapshot.members.voters))
                .with("observers", peers(&snapshot.members.observers))
                .with("parts", *parts),
        ),
        Frame::Part(part) => {
            printer.print(&at.with("snapshotPart", part.len()))?;
            print_encoded(part, printer)
        }
        Frame::Write(write) => {
            let state = write.hard_state;
            let vote = state.vote.map_or(Value::Null, peer);
            let at = at.with("term", state.term).with("vote", vote).with("commit", state.commit);
            printer.print(&at.with("entries", write.entries.len()))?;
            write.entries.iter().try_for_each(|entry| print_log_entry(entry, printer))
        }
    }
}

fn print_log_entry<W: Write>(entry: &LogEntry, printer: &mut Printer<W>) -> io::Result<()> {
    let item = Item::nested("quorumEntry").with("index", entry.index).with("term", entry.term);
    match &entry.payload {
        Payload::Records(records) if records.is_empty() => printer.print(&item.with("records", 0)),
        Payload::Records(records) => {
            printer.print(&item.with("size", records.len()))?;
            print_encoded(records, printer)
        }
        Payload::Members(change) => {
            let kind = match change {
                MemberChange::AddVoter(_) => "addVoter",
                MemberChange::AddObserver(_) => "addObserver",
                MemberChange::Remove(_) => "remove",
            };
            printer.print(&item.with(kind, peer(change.peer())))
        }
    }
}

fn print_encoded<W: Write>(records: &[u8], printer: &mut Printer<W>) -> io::Result<()> {
    match encoding::decode(records) {
        Ok(records) => print_records(&records, printer),
        Err(error) => printer.print(&Item::nested("record").with("unreadable", error.to_string())),
    }
}

fn print_records<W: Write>(records: &[Record], printer: &mut Printer<W>) -> io::Result<()> {
    records.iter().try_for_each(|record| printer.print(&record_item(record)))
}

/// A node and which of its metadata directories.
fn peer(peer: PeerId) -> Value {
    json!({ "nodeId": peer.node().0, "directory": format!("{:08x}", peer.incarnation()) })
}

fn peers<'a>(members: impl IntoIterator<Item = &'a PeerId>) -> Value {
    members.into_iter().copied().map(peer).collect()
}

fn record_item(record: &Record) -> Item {
    let item = |name: &'static str| Item::nested("record").with("record", name);
    match record {
        Record::ClusterCreated { cluster_id } => {
            item("ClusterCreated").with("clusterId", cluster_id.to_string())
        }
        Record::FeatureLevelSet { level } => item("FeatureLevelSet").with("level", *level),
        Record::NodeRegistered(node) => item("NodeRegistered")
            .with("nodeId", node.id.0)
            .with("cores", node.cores)
            .with("routing", format!("{:?}", node.routing).to_lowercase())
            .with("host", data(Some(&node.host)))
            .with("port", node.port)
            .with("rack", data(node.rack.as_deref()))
            .with("logDirectories", directories(node))
            .with("brokerEpoch", node.broker_epoch.0)
            .with("incarnationId", uuid_text(node.incarnation))
            .with("isFenced", node.is_fenced)
            .with("isShuttingDown", node.is_shutting_down)
            .with("featureLevelMax", node.feature_level_max),
        Record::NodeUnregistered { node, broker_epoch } => {
            item("NodeUnregistered").with("nodeId", node.0).with("brokerEpoch", broker_epoch.0)
        }
        Record::TopicCreated { topic, name } => {
            item("TopicCreated").with("topicId", uuid_text(topic.0)).with("topic", name.clone())
        }
        Record::TopicDeleted { topic } => item("TopicDeleted").with("topicId", uuid_text(topic.0)),
        Record::PartitionCreated { id, state } => with_state(item("PartitionCreated"), *id, state),
        Record::PartitionChanged { id, state } => with_state(item("PartitionChanged"), *id, state),
        Record::TopicConfigSet { topic, key, value } => item("TopicConfigSet")
            .with("topicId", uuid_text(topic.0))
            .with("key", data(Some(key)))
            .with("value", data(value.as_deref())),
        Record::ProducerIdsAllocated { node, block } => item("ProducerIdsAllocated")
            .with("nodeId", node.0)
            .with("first", block.first)
            .with("count", block.count),
        Record::ConfigSet { resource, key, value } => {
            let item = match resource {
                ConfigResource::Brokers => item("ConfigSet").with("resource", "brokers"),
                ConfigResource::Node(node) => {
                    item("ConfigSet").with("resource", "node").with("nodeId", node.0)
                }
                ConfigResource::ClientMetrics(name) => {
                    item("ConfigSet").with("resource", "client-metrics").with("name", data(Some(name)))
                }
                ConfigResource::Group(name) => {
                    item("ConfigSet").with("resource", "group").with("name", data(Some(name)))
                }
            };
            item.with("key", data(Some(key))).with("value", data(value.as_deref()))
        }
        Record::ClientQuotaSet { entity, kind, limit } => {
            let shown = |name: &Option<EntityName>| match name {
                None => Value::Null,
                Some(name) => json!({ "default": name.name().is_none(), "name": name.name() }),
            };
            item("ClientQuotaSet")
                .with("user", shown(&entity.user))
                .with("clientId", shown(&entity.client_id))
                .with("key", kind.name())
                .with("limit", json!(limit.map(QuotaLimit::get)))
        }
    }
}

fn directories(node: &Node) -> Value {
    let named = |directory: &LogDirectory| {
        json!({
            "id": directory.id.to_string(),
            "path": directory.path,
            "is_offline": directory.is_offline,
        })
    };
    node.log_directories.iter().map(named).collect()
}

/// What somebody else has written: not to be printed as it is.
fn data(text: Option<&str>) -> Field {
    Field::Data(text.map(|text| text.as_bytes().to_vec()))
}

fn with_state(item: Item, id: TopicPartition, state: &PartitionState) -> Item {
    let replicas: Vec<Value> = state
        .replicas
        .iter()
        .map(|replica| {
            let mut shown = json!({
                "nodeId": replica.node.0,
                "shard": replica.owner.0,
                "ownershipEpoch": replica.ownership_epoch.0,
            });
            // Of the only directory of a node nothing is said.
            if let Some(directory) = replica.directory {
                shown["directory"] = directory.to_string().into();
            }
            shown
        })
        .collect();
    let ids = |nodes: &[NodeId]| Value::from(nodes.iter().map(|node| node.0).collect::<Vec<i32>>());
    item.with("topicId", uuid_text(id.topic.0))
        .with("partition", id.partition.to_wire())
        .with("replicas", Value::from(replicas))
        .with("inSync", ids(&state.in_sync))
        .with("eligibleLeaders", ids(&state.eligible_leaders))
        .with("leader", state.leader.map(|node| node.0))
        .with("leaderEpoch", state.leader_epoch.0)
        .with("partitionEpoch", state.partition_epoch.0)
}
