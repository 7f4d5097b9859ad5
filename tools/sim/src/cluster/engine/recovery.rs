//! What a start finds of the logs, held against what they were when the process ended.
//!
//! | what is found | is |
//! |---|---|
//! | everything that was told to be flushed, and any beginning of what was done since (after a clean stop, all of it) | the log from now on |
//! | less, where files were damaged and the start says that it may be | lost: the registration tells |
//! | nothing, likewise | damaged: an empty log takes its place |
//! | a replica that has left, and whose removal was interrupted | the log from now on, as it has come again |
//! | anything else | a finding |

use crate::cluster::engine::{batches, known_as};
use crate::cluster::metadata::slot;
use crate::cluster::settings::check;
use crate::disk::DiskResult;
use crate::replication::log::{Batch, Image, Log, Op, offset};
use crate::replication::scene::{Scene, number_of, partition_id};
use crate::shell::Shell;
use crate::shell::background::write_checkpoint;
use crate::shell::open::OpenFailed;
use crate::shell::reading::ReadFailed;
use crate::shell::replica::Replica;
use crate::shell::start::start;
use odradek::codec::record_batch::BatchView;
use odradek::log::checkpoint::PartitionPoint;
use odradek::log::epochs::LeaderEpochs;
use odradek::types::{LeaderEpoch, ProducerId, Sequence};
use std::collections::BTreeMap;
use std::rc::Rc;

/// One log.
pub enum Found {
    Log(FoundLog),
    Damaged(String),
}

pub struct FoundLog {
    start: u64,
    end: u64,
    batches: Vec<Batch>,
    epochs: LeaderEpochs,
    /// The last sequence of each.
    producers: BTreeMap<u32, Sequence>,
}

/// Opens all logs, and reads each from its beginning to its end: what a reader would find later is found now.
pub async fn recover(shell: &Rc<Shell>) -> DiskResult<BTreeMap<usize, Found>> {
    let started = start(std::slice::from_ref(shell)).await?;
    let mut all = BTreeMap::new();
    for (id, error) in started.failed {
        if let OpenFailed::Disk(error) = error {
            return Err(error);
        }
        all.insert(number_of(id), Found::Damaged(format!("{error:?}")));
    }
    for replica in shell.all_replicas() {
        let found = match read_whole(shell, &replica).await {
            Ok(log) => Found::Log(log),
            Err(ReadFailed::Disk(error)) => return Err(error),
            Err(error) => {
                // Nobody is to take it for one that can be written to, nor a later start for one that ends there.
                let point = PartitionPoint::of(&replica.log.borrow(), replica.log_start_decided());
                shell.remove(&replica.id);
                shell.unavailable.borrow_mut().insert(replica.id, Some(point));
                Found::Damaged(format!("{error:?}"))
            }
        };
        all.insert(number_of(replica.id), found);
    }
    write_checkpoint(shell).await?;
    Ok(all)
}

async fn read_whole(shell: &Shell, replica: &Replica) -> Result<FoundLog, ReadFailed> {
    let (start, end) = {
        let log = replica.log.borrow();
        (log.log_start(), log.log_end())
    };
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        let bytes = replica.read(shell, at).await?;
        let mut rest = &bytes[..];
        let from = at;
        while let Ok((view, after)) = BatchView::split_first(rest) {
            rest = after;
            at = view.end_offset();
            match batches::decode(&view).filter(|_| view.validate_stored().is_ok()) {
                Some(batch) => found.push(batch),
                None => {
                    let what = format_args!("{}: {} is nobody's batch", replica.name, view.base_offset());
                    shell.world.finding(check::FOUND, what);
                }
            }
        }
        if at == from {
            return Err(ReadFailed::OutOfRange);
        }
    }
    let log = replica.log.borrow();
    let described = log.producers.describe(ProducerId(0), usize::MAX);
    let known = described.into_iter().filter_map(|it| Some((it.id.0 as u32, it.last_sequence?)));
    Ok(FoundLog {
        start: start.get(),
        end: end.get(),
        batches: found,
        epochs: log.epochs().clone(),
        producers: known.collect(),
    })
}

/// Why something else may be found than what the log was.
struct Why {
    /// Its files were damaged, or changed.
    is_blamed: bool,
    /// It is the log of a replica that has left before, and was to be removed.
    is_one_that_left: bool,
    /// The process had written everything out before it ended.
    ended_clean: bool,
}

/// Everything that may be found of a log, the least of it first.
struct Expected {
    images: Vec<Image>,
    /// It was about to begin anew somewhere.
    starts_over: bool,
}

impl Expected {
    fn of(log: &Log) -> Expected {
        let mut images = vec![log.durable.clone()];
        for op in log.unflushed() {
            let mut next = images.last().expect("there is one").clone();
            next.apply(*op);
            images.push(next);
        }
        let starts_over = log.unflushed().iter().any(|op| matches!(op, Op::StartOver(_)));
        Expected { images, starts_over }
    }

    /// How many of what was done since the last flush are in it; `None`: it is none of what may be found.
    fn matching(&self, found: &FoundLog) -> Option<usize> {
        let start_min = self.images.iter().map(|image| image.start).min().unwrap_or(0);
        let start_max = self.images.iter().map(|image| image.start).max().unwrap_or(0);
        if found.start < start_min || found.start > start_max {
            return None;
        }
        let fits =
            |image: &Image| image.end() == found.end && image.from_offset(found.start) == &found.batches[..];
        self.images.iter().rposition(fits)
    }

    /// Less than what was flushed, and nothing else.
    fn is_beginning(&self, found: &FoundLog) -> bool {
        self.images.iter().any(|image| image.from_offset(found.start).starts_with(&found.batches))
    }
}

impl Scene {
    pub fn logs_are_found(&mut self, id: usize, found: &BTreeMap<usize, Found>) {
        let engine = self.nodes[id].engine.as_mut().expect("it has one");
        let shell = engine.running.as_ref().expect("it has just started").shell.clone();
        engine.doubtful = shell.doubtful.borrow().iter().map(|id| number_of(*id)).collect();
        engine.damaged = engine.untold.clone();
        let doubtful: Vec<usize> = engine.doubtful.iter().copied().collect();
        let blamed = std::mem::take(&mut engine.blamed);
        let before = std::mem::take(&mut engine.before);
        let leaving = std::mem::take(&mut engine.leaving);
        let ended_clean = std::mem::take(&mut engine.ended_clean);
        for partition in self.nodes[id].partitions_where(|_| true) {
            let log = before.get(&partition).cloned().unwrap_or_default();
            let is_blamed = blamed.contains(&partition);
            match found.get(&partition) {
                Some(Found::Log(found)) => {
                    let mut left = leaving.get(&partition).into_iter().flatten();
                    let is_one_that_left = left.any(|left| Expected::of(left).matching(found).is_some());
                    // What came after it is kept once it is gone.
                    let is_one_that_left = is_one_that_left && log.durable.batches.is_empty();
                    self.log_is_found(
                        id,
                        partition,
                        &log,
                        found,
                        Why { is_blamed, is_one_that_left, ended_clean },
                    );
                }
                Some(Found::Damaged(why)) => {
                    self.world.note(format_args!("node {id} partition {partition} is damaged: {why}"));
                    self.world.count("engine: damage found");
                    if !is_blamed {
                        let what = format_args!("node {id} partition {partition} is whole: {why}");
                        self.world.finding(check::FOUND, what);
                    }
                    let engine = self.nodes[id].engine.as_mut().expect("it has one");
                    engine.damaged.insert(partition);
                    engine.doubtful.remove(&partition);
                    engine.blamed.insert(partition);
                    let replica = self.nodes[id].replica(partition);
                    replica.log.wipe();
                    replica.high_watermark = 0;
                }
                // Its directory is a new one, or its topic is gone.
                None if log.durable.batches.is_empty() && log.unflushed().is_empty() => {}
                None if self
                    .decided()
                    .image_of(slot(id))
                    .is_none_or(|image| image.partition(partition_id(partition)).is_none()) =>
                {
                    self.world.count("engine: topic gone while the node was down");
                }
                None => {
                    let name = known_as(partition, LeaderEpoch(0)).directory();
                    let what = format_args!("node {id}: {name} was not looked for");
                    self.world.finding(check::FOUND, what);
                }
            }
        }
        self.metadata().doubted.extend(doubtful);
        self.check_all_members();
    }

    fn log_is_found(&mut self, id: usize, partition: usize, log: &Log, found: &FoundLog, why: Why) {
        let Why { is_blamed, is_one_that_left, ended_clean } = why;
        let (start, end) = (found.start, found.end);
        self.world.note(format_args!("node {id} partition {partition} is found with {start}..{end}"));
        let expected = Expected::of(log);
        let is_interrupted = expected.starts_over && found.batches.is_empty() && start == end;
        let engine = self.nodes[id].engine.as_mut().expect("it has one");
        let is_doubtful = engine.doubtful.contains(&partition);
        let had_lost = engine.lost_before.remove(&partition);
        let is_journal_hit = engine.journal_hit.remove(&partition);
        let mut is_lost = false;
        match expected.matching(found) {
            Some(count) => {
                if count > 0 {
                    self.world.count("restart: unflushed there");
                }
                if count < expected.images.len() - 1 {
                    self.world.count("restart: unflushed lost");
                    if ended_clean && !is_blamed {
                        let what =
                            format_args!("node {id} partition {partition} ends at {end} after a clean stop");
                        self.world.finding(check::FOUND, what);
                    }
                }
            }
            None if is_one_that_left && !ended_clean => self.world.count("engine: a removal was interrupted"),
            None if is_interrupted && !ended_clean => {
                self.world.count("engine: starting over was interrupted");
                // It has less than where it was to begin, which others count on.
                if !is_doubtful {
                    let what = format_args!("node {id} partition {partition} was to begin anew, {end}");
                    self.world.finding(check::TOLD, what);
                }
            }
            None if is_blamed && expected.is_beginning(found) => {
                self.world.count("engine: damage taken for a torn tail");
                is_lost = true;
                if is_journal_hit && !is_doubtful {
                    // Nothing but a later block states that the last one was flushed: no start can tell. Whoever has
                    // damaged it does.
                    self.world.count("engine: end of the journal lost, and nobody knows");
                    let engine = self.nodes[id].engine.as_mut().expect("it has one");
                    engine.damaged.insert(partition);
                    engine.untold.insert(partition);
                } else if !is_doubtful {
                    let what =
                        format_args!("node {id} partition {partition} ends at {end}, {}", described(log));
                    self.world.finding(check::TOLD, what);
                }
            }
            None => {
                let what =
                    format_args!("node {id} partition {partition}: {start}..{end}, {}", described(log));
                self.world.finding(check::FOUND, what);
            }
        }
        let replica = self.nodes[id].replica(partition);
        if is_lost {
            replica.log.once_flushed = replica.log.once_flushed.max(log.durable.end());
        }
        if is_blamed {
            replica.log.is_lost = is_lost || had_lost;
        }
        let origin = found.batches.first().map_or(end, |batch| batch.base);
        replica.log.is_found(Image::found(start, origin, found.batches.clone()));
        replica.high_watermark = start;
        let log = &replica.log;
        let producers = log.producers().iter().map(|(producer, (sequence, end))| {
            let last = log.memory.batches.iter().find(|batch| batch.end() == *end);
            (*producer, batches::last_sequence(*sequence, last.map_or(1, |batch| batch.count)))
        });
        let unknown =
            producers.filter(|(id, last)| found.producers.get(id) != Some(last)).collect::<Vec<_>>();
        if !unknown.is_empty() {
            let what = format_args!("node {id} partition {partition}: {unknown:?}, {:?}", found.producers);
            self.world.finding(check::DERIVED, what);
        }
        // A start knows of those below the log start too.
        let mut epochs = found.epochs.clone();
        epochs.truncate_from_start(offset(start));
        if !found.batches.is_empty() && log.epochs.entries() != epochs.entries() {
            let (own, other) = (log.epochs.entries(), epochs.entries());
            let what = format_args!("node {id} partition {partition}: {own:?}, {other:?}");
            self.world.finding(check::DERIVED, what);
        }
        // What replicas are compared by.
        self.nodes[id].replica(partition).log.epochs = epochs;
    }
}

fn described(log: &Log) -> String {
    let (start, end) = (log.durable.start, log.durable.end());
    let ops: Vec<String> = log.unflushed().iter().map(|op| format!("{op:?}")).collect();
    format!("flushed {start}..{end}, then {}", ops.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: u64) -> Batch {
        Batch { base, count: 1, epoch: 1, producer: 0, sequence: 0, value: base + 1 }
    }

    fn found(batches: &[Batch]) -> FoundLog {
        FoundLog {
            start: 0,
            end: batches.last().map_or(0, Batch::end),
            batches: batches.to_vec(),
            epochs: LeaderEpochs::new(),
            producers: BTreeMap::new(),
        }
    }

    #[test]
    fn any_beginning_of_what_was_not_flushed_may_be_found() {
        let mut log = Log::default();
        (0..4).for_each(|base| log.append(batch(base)));
        log.flush(2, 0);
        let expected = Expected::of(&log);
        let all: Vec<Batch> = (0..4).map(batch).collect();
        let matching = |batches: &[Batch]| expected.matching(&found(batches));
        assert_eq!(matching(&all[..2]), Some(0));
        assert_eq!(matching(&all[..3]), Some(1));
        assert_eq!(matching(&all), Some(2));
        assert_eq!(matching(&all[..1]), None, "less than what was flushed");
        assert!(expected.is_beginning(&found(&all[..1])));
        let other = Batch { value: 99, ..all[1] };
        assert_eq!(matching(&[all[0], other]), None);
        assert!(!expected.is_beginning(&found(&[all[0], other])));
    }

    #[test]
    fn a_cut_may_be_found_undone() {
        let mut log = Log::default();
        (0..4).for_each(|base| log.append(batch(base)));
        log.flush(4, 0);
        log.cut_to(1);
        log.append(Batch { value: 50, ..batch(1) });
        let expected = Expected::of(&log);
        let all: Vec<Batch> = (0..4).map(batch).collect();
        assert_eq!(expected.matching(&found(&all)), Some(0));
        assert_eq!(expected.matching(&found(&all[..1])), Some(1));
        assert_eq!(expected.matching(&found(&[all[0], Batch { value: 50, ..all[1] }])), Some(2));
        assert_eq!(expected.matching(&found(&all[..2])), None);
    }
}
