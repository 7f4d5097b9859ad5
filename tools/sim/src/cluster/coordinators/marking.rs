//! Markers of transactions that are decided, into partitions that any node may lead, again and again until each has
//! one: as `odradek::shard::transactions` writes them.

use crate::cluster::coordinators::Then;
use crate::cluster::coordinators::logs::Appending;
use crate::cluster::settings::Mistake;
use crate::replication::scene::{Scene, index};
use crate::world::Micros;
use odradek::codec::control_record::EndMarker;
use odradek::codec::error_code::ErrorCode;
use odradek::codec::transaction_record::PartitionNames;
use odradek::group::GROUPS_TOPIC;
use odradek::txn::Marking;
use odradek::types::TransactionVersion;
use odradek::types::limits::{MARKER_ANSWER_TIME_MAX, MARKER_RETRY_TIMES};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Markers that are on their way.
struct Progress {
    key: u64,
    marking: Marking,
    left: PartitionNames,
    /// Partitions that have not said what became of theirs.
    waiting: usize,
    wait: Micros,
}

/// Lives: one per seed.
#[derive(Default)]
pub struct Markings {
    all: BTreeMap<u64, Progress>,
    next: u64,
}

impl Markings {
    /// Those of coordinators that are gone with their node.
    pub fn crash(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.all.retain(|_, progress| !is_gone(progress.key));
    }
}

impl Scene {
    pub fn begin_marking(&mut self, key: u64, marking: Marking) {
        let Some(served) = self.coordinated().serving.served(key) else { return };
        let id = served.node;
        self.world.note(format_args!("node {id}: {marking:?}"));
        let pause = if marking.is_again { micros(MARKER_RETRY_TIMES.1) } else { 0 };
        let wait = micros(MARKER_RETRY_TIMES.0);
        self.after_at(pause, id, move |scene| scene.write_markers(key, marking, wait));
    }

    fn write_markers(&mut self, key: u64, marking: Marking, wait: Micros) {
        let served = self.coordinated().serving.served(key).filter(|served| !served.has_ended());
        let Some(served) = served else { return };
        let id = served.node;
        let names: Vec<String> = marking.partitions.iter().map(|(topic, _)| topic.to_owned()).collect();
        if names.is_empty() {
            return self.is_marked_everywhere(key, &marking);
        }
        let (marker, version) = (marking.marker, marking.version);
        let markings = &mut self.coordinators().markings;
        markings.next += 1;
        let number = markings.next;
        let left = PartitionNames::default();
        let progress = Progress { key, marking, left, waiting: names.len(), wait };
        markings.all.insert(number, progress);
        for name in names {
            let partition = self.partition_named(&name);
            let leadership = self.nodes[id].image.partitions.get(&partition);
            let leader = leadership.and_then(|leadership| leadership.leader).map(index);
            let then: Then<_> = Box::new(move |scene, result| scene.is_marked(number, &name, result));
            match leader {
                None => then(self, Err(ErrorCode::NotLeaderOrFollower)),
                Some(leader) if leader == id => self.write_marker(id, partition, marker, version, then),
                Some(leader) => {
                    self.world.count("marker: into a partition of another node");
                    let time_max = micros(MARKER_ANSWER_TIME_MAX);
                    let ask = move |scene: &mut Scene, reply| {
                        scene.write_marker(leader, partition, marker, version, reply);
                    };
                    self.ask_node((id, leader), time_max, ask, then);
                }
            }
        }
    }

    /// Into a partition that this node leads, if it does.
    fn write_marker(
        &mut self,
        id: usize,
        partition: usize,
        marker: EndMarker,
        version: TransactionVersion,
        then: Then<Result<(), ErrorCode>>,
    ) {
        let then = Rc::new(RefCell::new(Some(then)));
        let telling = then.clone();
        let is_kept: Then<Result<(), ErrorCode>> = Box::new(move |scene, result| {
            if result.is_ok() {
                scene.marker_is_kept(id, partition, marker);
            }
            if let Some(then) = telling.take() {
                then(scene, result);
            }
        });
        self.append_coordinated(id, partition, Appending::Marker(marker, version), is_kept);
        if self.errs(Mistake::MarkerAnsweredEarly)
            && let Some(then) = then.take()
        {
            then(self, Ok(()));
        }
    }

    /// The groups' coordinator hears of it. What is still loading reads it.
    fn marker_is_kept(&mut self, id: usize, partition: usize, marker: EndMarker) {
        self.world.count("marker: kept");
        if partition == self.partition_named(GROUPS_TOPIC)
            && let Ok(key) = self.coordinated().serving.ready(id, partition)
        {
            self.tell_groups(key, |groups| groups.transaction_ended(marker.producer, marker.outcome));
        }
    }

    fn is_marked(&mut self, number: u64, name: &str, result: Result<(), ErrorCode>) {
        let is_left = self.errs(Mistake::MarkerNotTriedAgain);
        let markings = &mut self.coordinators.as_deref_mut().expect("the cluster has some").markings;
        let Some(progress) = markings.all.get_mut(&number) else { return };
        match result {
            Ok(()) => {}
            // Somebody has ended it there, and the producer has gone on.
            Err(ErrorCode::InvalidProducerEpoch) => self.world.count("marker: comes too late"),
            Err(_) if is_left => {}
            Err(error) => {
                let counted = format!("marker: {}", error.name());
                self.world.counts.borrow_mut().add(&counted, 1);
                progress.left.insert(name, 0);
            }
        }
        progress.waiting -= 1;
        if progress.waiting > 0 {
            return;
        }
        let Progress { key, mut marking, left, wait, .. } = markings.all.remove(&number).expect("just there");
        if left.is_empty() {
            return self.is_marked_everywhere(key, &marking);
        }
        marking.partitions = left;
        let Some(served) = self.coordinated().serving.served(key) else { return };
        let (id, next) = (served.node, (wait * 2).min(micros(MARKER_RETRY_TIMES.1)));
        self.world.count("marker: tried again");
        self.after_at(wait, id, move |scene| scene.write_markers(key, marking, next));
    }

    fn is_marked_everywhere(&mut self, key: u64, marking: &Marking) {
        self.tell_transactions(key, |transactions, now, effects| {
            transactions.marked(&marking.transactional_id, marking.id, now.wall, effects);
        });
    }
}

pub fn micros(time: Duration) -> Micros {
    time.as_micros() as Micros
}
