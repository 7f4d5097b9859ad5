//! What is expected, and the checks.
//!
//! What was once below a high watermark of a leader is canonical: it stays, where it is and as it is. Every log,
//! answer and read is held against it.

use crate::replication::log::{Batch, Image, Log, Op};
use crate::replication::node::{Node, Role};
use crate::replication::scene::{Scene, index};
use crate::replication::settings::{Mistake, check};
use crate::world::World;
use odradek::cluster::leadership::Leadership;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is known of a partition.
#[derive(Default)]
struct Canon {
    batches: Vec<Batch>,
    end: u64,
    /// Where whoever was elected uncleanly begins: before that others may have anything.
    begin: u64,
    /// Where each value is.
    places: BTreeMap<u64, u64>,
    /// The highest offset that a client was told of.
    known_end: u64,
    /// Everything that was acknowledged by all: its end, by its value.
    acknowledged: BTreeMap<u64, u64>,
    /// Up to where anybody ever wanted it to be taken away.
    wanted_start: u64,
    /// The node, and its start, that led under an epoch.
    leaders: BTreeMap<i32, (usize, u64)>,
    /// How far replicas were flushed that were removed since.
    removed: Vec<u64>,
    /// Elections that lost something, and the epoch of the last one: what those before it do counts no more.
    losses: u64,
    epoch_min: i32,
    /// Values that were sent, and who by.
    sent: BTreeMap<u64, u32>,
}

/// Lives: one per seed.
pub struct Watch {
    world: Rc<World>,
    partitions: BTreeMap<usize, Canon>,
}

impl Watch {
    pub fn new(world: Rc<World>) -> Watch {
        Watch { world, partitions: BTreeMap::new() }
    }

    /// A partition is new.
    pub fn begins(&mut self, partition: usize) {
        self.partitions.insert(partition, Canon::default());
    }

    /// A replica goes, and what it had with it.
    pub fn is_removed(&mut self, partition: usize, log: &Log) {
        if let Some(canon) = self.partitions.get_mut(&partition) {
            canon.removed.push(log.flushed_end.max(log.once_flushed));
        }
    }

    fn canon(&mut self, partition: usize) -> &mut Canon {
        self.partitions.get_mut(&partition).expect("it has begun")
    }

    pub fn end(&self, partition: usize) -> u64 {
        self.partitions.get(&partition).map_or(0, |canon| canon.end)
    }

    /// Everything that was ever below a high watermark.
    pub fn canonical(&self, partition: usize) -> &[Batch] {
        self.partitions.get(&partition).map_or(&[], |canon| &canon.batches)
    }

    pub fn known_end(&self, partition: usize) -> u64 {
        self.partitions.get(&partition).map_or(0, |canon| canon.known_end)
    }

    /// Elections so far that may have lost something.
    pub fn losses(&self, partition: usize) -> u64 {
        self.partitions.get(&partition).map_or(0, |canon| canon.losses)
    }

    /// A partition is no more, and nothing is expected of it.
    pub fn ends(&mut self, partition: usize) {
        self.partitions.remove(&partition);
    }

    pub fn sends(&mut self, partition: usize, batch: &Batch) {
        self.canon(partition).sent.insert(batch.value, batch.producer);
    }

    /// Retention has begun to take away what lies below.
    pub fn wants_start(&mut self, partition: usize, start: u64) {
        if let Some(canon) = self.partitions.get_mut(&partition) {
            canon.wanted_start = start.max(canon.wanted_start);
        }
    }

    /// Of a batch that was sent when nothing beyond `known_end` was known.
    pub fn is_told(&mut self, partition: usize, batch: &Batch, end: u64, known_end: u64) {
        let Some(canon) = self.partitions.get_mut(&partition) else { return };
        let base = end - u64::from(batch.count);
        if canon.places.get(&batch.value) != Some(&base) {
            let place = canon.places.get(&batch.value);
            let what = format!("{batch:?} was acknowledged at {base} and is at {place:?}");
            self.world.finding(check::KEPT, format_args!("partition {partition}: {what}"));
        }
        if base < known_end {
            let what = format!("{batch:?} is acknowledged at {base}, {known_end} was known before");
            self.world.finding(check::ORDER, format_args!("partition {partition}: {what}"));
        }
        canon.acknowledged.insert(batch.value, end);
        canon.known_end = canon.known_end.max(end);
    }

    pub fn is_read(&mut self, partition: usize, batch: &Batch) {
        let Some(canon) = self.partitions.get_mut(&partition) else { return };
        let place = canon.batches.partition_point(|known| known.end() <= batch.base);
        if canon.batches.get(place) != Some(batch) {
            let expected = canon.batches.get(place);
            let what = format!("{batch:?} is read where {expected:?} is");
            self.world.finding(check::ONE_VALUE, format_args!("partition {partition}: {what}"));
        }
        canon.known_end = canon.known_end.max(batch.end());
    }

    /// A leader has a high watermark beyond all before it.
    fn extend(&mut self, partition: usize, batches: &[Batch], end: u64) {
        let canon = self.partitions.get_mut(&partition).expect("it has begun");
        for batch in batches.iter().take_while(|batch| batch.end() <= end) {
            if !canon.sent.contains_key(&batch.value) {
                self.world.finding(check::PHANTOM, format_args!("partition {partition}: {batch:?}"));
            }
            if let Some(other) = canon.places.insert(batch.value, batch.base) {
                let what = format!("{batch:?} is at {other} too");
                self.world.finding(check::STORED_ONCE, format_args!("partition {partition}: {what}"));
            }
            canon.batches.push(*batch);
            canon.end = batch.end();
        }
    }

    /// Where a log is not what is canonical, from one offset to another.
    fn difference(&self, partition: usize, image: &Image, from: u64, to: u64) -> Option<String> {
        let Canon { batches: canon, wanted_start, begin, .. } = &self.partitions[&partition];
        if image.start > *wanted_start {
            return Some(format!("it begins at {}, {wanted_start} was wanted", image.start));
        }
        let from = from.max(image.start).max(*begin);
        let mut found = image.from_offset(from).iter();
        let first = canon.partition_point(|batch| batch.end() <= from);
        for expected in canon[first..].iter().take_while(|batch| batch.end() <= to) {
            match found.next() {
                Some(batch) if batch == expected => {}
                other => return Some(format!("it has {other:?} where {expected:?} belongs")),
            }
        }
        None
    }
}

/// How many of these batches are not lost when this log is everybody's, and where it begins.
fn kept_by(canon: &[Batch], log: &Log) -> (usize, u64) {
    // A log start may lie within a batch.
    let start = log.memory.start;
    let start = log.memory.from_offset(start).first().map_or(start, |batch| batch.base.min(start));
    let mut found = log.memory.from_offset(start).iter();
    let first = canon.partition_point(|batch| batch.end() <= start);
    let same = canon[first..]
        .iter()
        .take_while(|expected| found.next() == Some(*expected) && expected.end() <= log.flushed_end);
    (first + same.count(), start)
}

impl Scene {
    /// Somebody leads who lacks something, as somebody wanted: what others have beyond it is lost.
    pub fn is_led_uncleanly(&mut self, partition: usize, next: &Leadership) {
        let Some(leader) = next.leader.map(index) else { return };
        self.world.count("election: unclean");
        let log = self.nodes[leader].replicas.get(&partition).map(|replica| replica.log.clone());
        let log = log.unwrap_or_default();
        // What it was about to be rid of when it ended, its next start may find done, or not.
        let mut done = log.clone();
        for op in self.nodes[leader].engine.iter().flat_map(|engine| engine.interrupted(partition)) {
            if matches!(op, Op::CutTo(_) | Op::StartOver(_)) {
                done.memory.apply(*op);
                done.flushed_end = done.flushed_end.min(done.memory.end());
            }
        }
        let canon = self.watch.canon(partition);
        let kept = [log, done].map(|log| kept_by(&canon.batches, &log));
        let (kept, start) = kept.into_iter().min().expect("there are two");
        let lost = canon.batches.split_off(kept);
        canon.end = canon.batches.last().map_or(0, Batch::end);
        for batch in &lost {
            canon.places.remove(&batch.value);
            canon.acknowledged.remove(&batch.value);
        }
        canon.known_end = canon.known_end.min(canon.end);
        (canon.losses, canon.epoch_min) = (canon.losses + 1, next.leader_epoch.0);
        canon.begin = start;
        let end = canon.end;
        if !lost.is_empty() {
            self.world.count("election: unclean, something is lost");
        }
        self.world.note(format_args!("partition {partition}: {} batches from {end} on are lost", lost.len()));
        self.forget_beyond(partition, end);
    }

    /// What an unclean election has lost may come back with another one: the leader shows it from its begin on.
    pub fn take_back(&mut self, id: usize, partition: usize, high_watermark: u64) {
        let before = self.watch.end(partition);
        if high_watermark > before && !self.is_passed_over(id, partition) {
            let batches = self.nodes[id].replicas[&partition].log.memory.from_offset(before).to_vec();
            self.watch.extend(partition, &batches, high_watermark);
        }
    }

    /// A follower shows what its high watermark was before an unclean election, and the leader has it as well.
    pub fn comes_back(&mut self, partition: usize, batch: &Batch) {
        let leader = self.controller.partitions.get(&partition).and_then(|leadership| leadership.leader);
        let Some(leader) = leader.map(index).filter(|_| self.watch.losses(partition) > 0) else { return };
        let has = |log: &Log| log.memory.from_offset(batch.base).first() == Some(batch);
        if self.nodes[leader].replicas.get(&partition).is_some_and(|replica| has(&replica.log)) {
            self.take_back(leader, partition, batch.end());
        }
    }

    /// Its epoch is one that an unclean election has ended, and it does not know yet; or the partition is no more.
    pub fn is_passed_over(&self, id: usize, partition: usize) -> bool {
        let epoch = self.nodes[id].replicas.get(&partition).map(|replica| replica.epoch);
        let canon = self.watch.partitions.get(&partition);
        canon.is_none_or(|canon| epoch.is_none_or(|epoch| epoch < canon.epoch_min))
    }

    /// A node begins to lead.
    pub fn check_leader(&mut self, id: usize, partition: usize, epoch: i32) {
        let run = self.nodes[id].run;
        if self.is_passed_over(id, partition) {
            return;
        }
        let canon = self.watch.canon(partition);
        let (first, first_run) = *canon.leaders.entry(epoch).or_insert((id, run));
        if (first, first_run) != (id, run) {
            let what = format!("nodes {first} and {id} lead under {epoch}, in runs {first_run} and {run}");
            self.world.finding(check::ONE_LEADER, format_args!("partition {partition}: {what}"));
        }
        // One that has only now heard of a leadership that is over lacks what came later, and will learn of it.
        let is_current = self.controller.partitions[&partition].leader_epoch.0 == epoch;
        let end = self.watch.end(partition);
        let log = &self.nodes[id].replicas[&partition].log;
        if is_current && let Some(what) = self.watch.difference(partition, &log.memory, 0, end) {
            self.world.finding(check::LEADERS, format_args!("partition {partition}, node {id}: {what}"));
        }
    }

    pub fn check_leader_high_watermark(&mut self, id: usize, partition: usize, to: u64) {
        if self.is_passed_over(id, partition) {
            return;
        }
        let before = self.watch.end(partition);
        self.check_high_watermark(id, partition, to);
        if to > before {
            let batches = self.nodes[id].replicas[&partition].log.memory.from_offset(before).to_vec();
            self.watch.extend(partition, &batches, to);
            self.check_members(partition, before);
        }
        let flushed = |node: &Node| {
            let log = &node.replicas.get(&partition)?.log;
            Some(log.flushed_end.max(log.once_flushed))
        };
        let removed = self.watch.partitions[&partition].removed.iter().copied();
        let count = self.nodes.iter().filter_map(flushed).chain(removed).filter(|end| *end >= to).count();
        let minimum = self.in_sync_min_known_to(id, partition);
        if count < minimum {
            let what = format!("{count} replicas have flushed up to {to}, {minimum} have to");
            self.world.finding(check::MINIMUM, format_args!("partition {partition}, node {id}: {what}"));
        }
    }

    /// Of a leader or a follower.
    pub fn check_high_watermark(&mut self, id: usize, partition: usize, to: u64) {
        if self.is_passed_over(id, partition) {
            return;
        }
        let replica = &self.nodes[id].replicas[&partition];
        let flushed_end = replica.log.flushed_end;
        if to > flushed_end {
            let what = format!("high watermark {to}, flushed up to {flushed_end}");
            self.world.finding(check::WITHIN, format_args!("partition {partition}, node {id}: {what}"));
        }
        let from = replica.high_watermark;
        let to = to.min(self.watch.end(partition));
        if let Some(what) = self.watch.difference(partition, &replica.log.memory, from, to) {
            self.world.finding(check::IDENTICAL, format_args!("partition {partition}, node {id}: {what}"));
        }
        let replica = self.nodes[id].replica(partition);
        replica.high_watermark = replica.high_watermark.max(to);
    }

    pub fn check_all_members(&mut self) {
        for partition in self.partitions() {
            self.check_members(partition, 0);
        }
    }

    /// A node has lost what it had in memory.
    pub fn check_members_at(&mut self, _id: usize) {
        self.check_all_members();
    }

    /// Who is in sync, or eligible, has all that is canonical, flushed.
    fn check_members(&mut self, partition: usize, from: u64) {
        let Some(leadership) = self.controller.partitions.get(&partition) else { return };
        let end = self.watch.end(partition);
        for node in leadership.in_sync.iter().chain(&leadership.eligible_leaders) {
            let Some(replica) = self.nodes[index(*node)].replicas.get(&partition) else { continue };
            if replica.log.is_lost {
                continue;
            }
            let flushed_end = replica.log.flushed_end;
            if flushed_end < end {
                let what =
                    format!("{node:?} has flushed up to {flushed_end}, {end} is below a high watermark");
                self.world.finding(check::MEMBERS, format_args!("partition {partition}: {what}"));
            }
            if let Some(what) = self.watch.difference(partition, &replica.log.memory, from, end) {
                self.world.finding(check::MEMBERS, format_args!("partition {partition}: {node:?}: {what}"));
            }
        }
    }

    /// A follower's log was cut.
    pub fn check_cut(&mut self, id: usize, partition: usize, to: u64) {
        let replica = self.nodes[id].replica(partition);
        replica.high_watermark = replica.high_watermark.min(to);
        self.check_members(partition, 0);
    }

    /// What a leader answers: it is true when it says so.
    pub fn check_answer(&mut self, id: usize, partition: usize, client: usize, end: Option<u64>) {
        let Some(end) = end.filter(|_| !self.is_passed_over(id, partition)) else { return };
        if self.clients.is_for_all(client) {
            let canonical = self.watch.end(partition);
            if end > canonical {
                let what = format!("{end} is acknowledged, {canonical} is below a high watermark");
                self.world.finding(check::KEPT, format_args!("partition {partition}, node {id}: {what}"));
            }
        } else if !self.makes(Mistake::LeaderBeforeFlush) {
            let flushed_end = self.nodes[id].replicas[&partition].log.flushed_end;
            let leads = matches!(self.nodes[id].replicas[&partition].role, Role::Leader(_));
            if leads && end > flushed_end {
                let what = format!("{end} is acknowledged, {flushed_end} is flushed");
                self.world.finding(check::KEPT, format_args!("partition {partition}, node {id}: {what}"));
            }
        }
    }

    /// In the end: what was acknowledged is there.
    pub fn check_kept(&mut self) {
        for (partition, canon) in &self.watch.partitions {
            for (value, end) in &canon.acknowledged {
                let place = canon.places.get(value);
                if place.is_none_or(|base| *base >= *end) {
                    let what = format!("{value} was acknowledged up to {end} and is at {place:?}");
                    self.world.finding(check::KEPT, format_args!("partition {partition}: {what}"));
                }
            }
            for (node, replica) in self.nodes.iter().filter_map(|node| {
                let is_replica = self.controller.partitions[partition].replicas.contains(&node.id);
                node.replicas.get(partition).filter(|_| is_replica).map(|replica| (node.id, replica))
            }) {
                if let Some(what) = self.watch.difference(*partition, &replica.log.memory, 0, canon.end) {
                    let what = format!("{node:?}: {what}");
                    self.world.finding(check::IDENTICAL, format_args!("partition {partition}, {what}"));
                }
            }
        }
    }
}
