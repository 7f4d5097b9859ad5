//! What other shards ask of this one.
//!
//! Produce keeps its order per asking shard, in lanes of its own; everything else runs as it comes.

use crate::metrics::clients::ClientSnapshot;
use crate::metrics::{LogDirSnapshot, ShardSnapshot};
use crate::shard::api::{
    delete_records, describe_log_dirs, describe_producers, fetch, list_offsets, offset_for_leader_epoch,
};
use crate::shard::message::{Message, Reply, Request};
use crate::shard::produce_lanes::ProduceLanes;
use crate::shard::watches::WatchKey;
use crate::shard::{
    Shard, controller, groups, handover, markers, partitions, replication, telemetry, transactions,
};
use crate::types::ShardId;
use glommio::channels::shared_channel::ConnectedReceiver;
use std::rc::Rc;

/// Serves one peer until the node stops.
pub async fn serve_peer(shard: Rc<Shard>, peer: ShardId, receiver: ConnectedReceiver<Message>) {
    let lanes = ProduceLanes::start(&shard, peer);
    while let Some(message) = receiver.recv().await {
        match message {
            Message::Reply { id, reply } => shard.mesh.answered(id, reply),
            Message::Wake { watch } => shard.wake(watch),
            Message::QuotaUsage(usages) => shard.quotas.add(&usages, shard.clock.mono()),
            Message::LogDirFailed { dir, reason } => shard.log_dir_failed(dir, &reason),
            Message::Damaged { id, damaged } => shard.note_damaged(id, damaged),
            Message::Doubtful { id } => shard.note_doubtful(id),
            Message::Follower { follower, connection, version } => {
                replication::serve(&shard, follower, connection, version);
            }
            Message::Request { id, request: Request::Produce(items) } => lanes.push(id, items),
            Message::Request { request: Request::Unwatch { watch }, .. } => {
                shard.unwatch(WatchKey::new(peer, watch));
            }
            // In the order committed. What it means for partitions may take seconds: nothing that the
            // peer says meanwhile waits for that.
            Message::Request { id, request: Request::Apply(records) } => {
                let changes = partitions::apply(&shard, &records);
                let asked = shard.clone();
                shard.spawn(async move {
                    partitions::carry_out(&asked, changes).await;
                    asked.mesh.post(peer, Message::Reply { id, reply: Reply::Applied });
                });
            }
            Message::Request { id, request } => {
                let asked = shard.clone();
                shard.spawn(async move {
                    let reply = answer(&asked, peer, request).await;
                    asked.mesh.post(peer, Message::Reply { id, reply });
                });
            }
        }
    }
}

async fn answer(shard: &Rc<Shard>, peer: ShardId, request: Request) -> Reply {
    match request {
        Request::Read(request) => Reply::Read(fetch::read_for(shard, peer, request).await),
        Request::ListOffsets(items) => Reply::ListOffsets(list_offsets::list_local(shard, items).await),
        Request::EpochEnds(items) => {
            Reply::EpochEnds(offset_for_leader_epoch::epoch_ends_local(shard, &items))
        }
        Request::DeleteRecords(items) => {
            Reply::DeleteRecords(delete_records::delete_local(shard, &items).await)
        }
        Request::Group(call) => Reply::Group(Box::new(groups::call_local(shard, *call).await)),
        Request::ListGroups => Reply::ListGroups(groups::list_local(shard).await),
        Request::Transaction(call) => {
            Reply::Transaction(Box::new(transactions::call_local(shard, *call).await))
        }
        Request::ListTransactions(filter) => {
            Reply::ListTransactions(transactions::list_local(shard, &filter).await)
        }
        Request::DescribeProducers(items) => {
            Reply::DescribeProducers(describe_producers::describe_local(shard, &items).await)
        }
        Request::LogSizes(wanted) => {
            Reply::LogSizes(describe_log_dirs::sizes_local(shard, wanted.as_ref()).await)
        }
        Request::Telemetry(call) => Reply::Telemetry(telemetry::call_local(shard, *call).await),
        Request::WriteMarkers(items) => Reply::WriteMarkers(markers::write_local(shard, &items).await),
        Request::AskNode(node, call) => Reply::AskNode(transactions::pass_on(shard, node, call).await),
        Request::LendConnections => Reply::LendConnections(shard.lend_connections()),
        Request::EndRemovals => {
            shard.removals.all_ended().await;
            Reply::RemovalsEnded
        }
        Request::Handover(step) => Reply::Handover(handover::take_step(shard, step).await),
        Request::Control(request) => Reply::Control(controller::execute(shard, request).await),
        Request::Produce(_) | Request::Unwatch { .. } | Request::Apply(_) => {
            unreachable!("handled in the order of arrival")
        }
    }
}

/// Copies of what is known of this shard's connections, a few at a time.
pub async fn clients(shard: &Shard) -> Vec<ClientSnapshot> {
    const AT_ONCE: usize = 256;
    let connections = shard.connections();
    let mut clients = Vec::with_capacity(connections.len());
    for some in connections.chunks(AT_ONCE) {
        let now = shard.clock.mono();
        clients.extend(some.iter().map(|connection| connection.snapshot(shard.id, now)));
        glommio::executor().yield_now().await;
    }
    clients
}

/// A copy of this shard's counters, with the gauges read now.
pub fn snapshot(shard: &Shard) -> ShardSnapshot {
    let mut metrics = shard.metrics.borrow().clone();
    shard.fill_gauges(&mut metrics);
    let log_dirs = shard.stores.iter().map(|store| LogDirSnapshot {
        path: store.path.display().to_string(),
        partitions: store.replica_count() as u64,
        offline: store.offline_reason(),
    });
    ShardSnapshot { shard: shard.id, metrics, log_dirs: log_dirs.collect() }
}
