//! Readers of committed records: of each partition that is written to in transactions one, of whoever leads it.

use crate::cluster::settings::check;
use crate::replication::log::offset;
use crate::replication::node::Role;
use crate::replication::scene::Scene;
use crate::world::MS;
use odradek::codec::group_record::GroupRecord;
use odradek::codec::record_batch::BatchView;
use odradek::codec::records::Records;
use odradek::group::GROUPS_TOPIC;
use odradek::log::transactions::AbortedSearch;
use odradek::types::ProducerId;
use std::collections::{BTreeSet, VecDeque};

/// Batches that a reader takes at a time.
const READ_MAX: usize = 30;

/// Lives: one per partition.
#[derive(Debug)]
pub struct Reader {
    pub partition: usize,
    pub position: u64,
    /// The newest leader epoch that it has heard of, and the last stable offset that it was told.
    epoch: i32,
    stable: u64,
}

/// What is written, by its number, and whether who reads committed records is shown it.
type Seen = (u64, bool);

impl Scene {
    pub fn start_readers(&mut self, partitions: &[usize]) {
        for partition in partitions {
            let reader = Reader { partition: *partition, position: 0, epoch: -1, stable: 0 };
            self.coordinators().readers.push(reader);
            let client = self.coordinated().readers.len() - 1;
            self.after(self.world.below(100 * MS), move |scene| scene.read_committed(client));
        }
    }

    fn read_committed(&mut self, client: usize) {
        let unhurried = if self.is_calm { 1 } else { self.settings.unhurried };
        let again = self.world.between(20 * MS, 200 * MS) * unhurried;
        self.after(again, move |scene| scene.read_committed(client));
        let Reader { partition, position, mut epoch, stable } = self.coordinated().readers[client];
        let leader = self.leader_heard_of(partition, &mut epoch);
        self.coordinators().readers[client].epoch = epoch;
        let Some(node) = leader else { return };
        let (latency, run) = (self.latency(), self.nodes[node].run);
        self.after(latency, move |scene| {
            scene.at_node(node, run, move |scene| {
                scene.fetch_committed(node, partition, client, (position, stable));
            });
        });
    }

    fn fetch_committed(&mut self, id: usize, partition: usize, client: usize, (position, known): (u64, u64)) {
        let Some(replica) = self.nodes[id].replicas.get(&partition) else { return };
        let Role::Leader(leader) = &replica.role else { return };
        if leader.latest().is_err() {
            return; // What the leader before has shown may lie beyond.
        }
        let batches = replica.log.memory.from_offset(position).to_vec();
        let Some(log) = self.settled_log(id, partition) else { return };
        let end = log.last_stable_offset();
        let mut search = AbortedSearch::new(offset(position.min(end.get())), end);
        search.take_listed(log.active_aborted());
        let mut aborted = VecDeque::from(search.finish(end));
        aborted.make_contiguous().sort_by_key(|entry| entry.first_offset);
        if end.get() < known {
            let what = format!("partition {partition}, node {id}: {end} after {known}");
            self.world.finding(check::STABLE, format_args!("{what}"));
        }
        let mut aborting: BTreeSet<ProducerId> = BTreeSet::new();
        let mut seen: Vec<Seen> = Vec::new();
        let mut next = position;
        for batch in batches.iter().take_while(|batch| batch.end() <= end.get()).take(READ_MAX) {
            while let Some(entry) = aborted.pop_front_if(|entry| entry.first_offset.get() < batch.end()) {
                aborting.insert(entry.producer);
            }
            let bytes = self.coordinated().logs.bytes(batch);
            let (view, _) = BatchView::split_first(&bytes).expect("it was written");
            let producer = view.writer().map(|(producer, _)| producer);
            next = batch.end();
            if view.is_control() {
                if let Some(producer) = producer {
                    aborting.remove(&producer);
                }
                continue;
            }
            if !view.is_transactional() {
                continue;
            }
            let is_visible = producer.is_none_or(|producer| !aborting.contains(&producer));
            let is_groups = partition == self.partition_named(GROUPS_TOPIC);
            seen.extend(numbers(&view, is_groups).into_iter().map(|number| (number, is_visible)));
        }
        let latency = self.latency();
        self.after(latency, move |scene| {
            let reader = &mut scene.coordinators().readers[client];
            reader.stable = reader.stable.max(end.get());
            if reader.position == position {
                reader.position = next;
                seen.into_iter()
                    .for_each(|(number, is_visible)| scene.is_seen(partition, number, is_visible));
            }
        });
    }

    /// They have come to where everything is stable.
    pub fn have_readers_read(&self) -> bool {
        let has_read = |partition: usize, position: u64| position == self.watch.end(partition);
        self.coordinated().readers.iter().all(|reader| has_read(reader.partition, reader.position))
    }
}

/// The numbers of what a batch has.
fn numbers(view: &BatchView<'_>, is_groups: bool) -> Vec<u64> {
    let records = Records::new(view.payload(), view.record_count());
    let records = records.map(|record| record.expect("it was written"));
    let number = |key: Option<&[u8]>, value: Option<&[u8]>| match is_groups {
        true => match GroupRecord::decode(key, value) {
            Ok(Some(GroupRecord::Offset { value: Some(value), .. })) => Some(value.offset as u64),
            _ => None,
        },
        false => Some(u64::from_be_bytes(value?.try_into().expect("a number"))),
    };
    records.filter_map(|record| number(record.key, record.value)).collect()
}
