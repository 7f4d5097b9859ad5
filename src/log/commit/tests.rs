//! Scripts and models of a disk: what a flush covers is what is called durable.

use super::*;
use crate::log::durability::FlushBounds;
use crate::log::journal::block::FileEpoch;
use crate::log::journal::pack::pack;
use crate::log::journal::ring::{JournalFlush, RingLimits};
use crate::types::ShardId;
use proptest::prelude::*;

const SEGMENT: Offset = Offset::ZERO;

#[test]
fn an_idle_shard_writes_and_flushes_at_once() {
    let mut commit = GroupCommit::new(None, u64::MAX);
    let slot = commit.open(offset(0));
    commit.appended(slot, offset(3), 100);
    let write = commit.next_write().unwrap();
    assert_eq!(write, WritePlan { slot, end: offset(3), size: 100 });
    assert_eq!(commit.next_flush(), None, "nothing is written yet");
    commit.wrote(&write, &[SEGMENT]);
    let flush = commit.next_flush().unwrap();
    assert_eq!(advances(&mut commit, &flush), [Advance { slot, durable_end: offset(3) }]);
    assert!(commit.is_idle(slot));
}

#[test]
fn a_flush_does_not_cover_a_write_that_completes_behind_it() {
    let mut commit = GroupCommit::new(None, u64::MAX);
    let slot = commit.open(offset(0));
    commit.appended(slot, offset(1), WRITE_GATHER_SIZE);
    let first = commit.next_write().unwrap();
    commit.wrote(&first, &[SEGMENT]);
    let flush = commit.next_flush().unwrap();
    commit.appended(slot, offset(2), WRITE_GATHER_SIZE);
    let second = commit.next_write().unwrap();
    commit.wrote(&second, &[SEGMENT]);
    assert_eq!(commit.next_flush(), None, "one flush at a time");
    assert_eq!(advances(&mut commit, &flush), [Advance { slot, durable_end: offset(1) }]);
    let flush = commit.next_flush().unwrap();
    assert_eq!(advances(&mut commit, &flush), [Advance { slot, durable_end: offset(2) }]);
}

#[test]
fn a_duplicate_s_answer_waits_behind_those_parked_before() {
    let mut acks = ParkedAcks::default();
    acks.park(offset(3), "first");
    acks.park(offset(5), "second");
    acks.park(offset(3), "first again");
    assert_eq!(acks.release(offset(2)), None);
    assert_eq!(acks.release(offset(3)), Some("first"));
    assert_eq!(acks.release(offset(3)), None);
    assert_eq!(acks.release(offset(5)), Some("second"));
    assert_eq!(acks.release(offset(5)), Some("first again"));
}

#[test]
fn small_appends_gather_while_a_flush_is_in_flight() {
    let mut commit = GroupCommit::new(None, u64::MAX);
    let slot = commit.open(offset(0));
    commit.appended(slot, offset(1), 10);
    let write = commit.next_write().unwrap();
    commit.wrote(&write, &[SEGMENT]);
    let flush = commit.next_flush().unwrap();
    commit.appended(slot, offset(2), 10);
    commit.appended(slot, offset(3), 10);
    assert_eq!(commit.next_write(), None);
    advances(&mut commit, &flush);
    assert_eq!(commit.next_write(), Some(WritePlan { slot, end: offset(3), size: 20 }));
}

#[test]
fn nothing_is_acknowledged_after_a_failure() {
    let mut commit = GroupCommit::new(None, u64::MAX);
    let slot = commit.open(offset(0));
    commit.appended(slot, offset(1), 10);
    let write = commit.next_write().unwrap();
    commit.wrote(&write, &[SEGMENT]);
    let flush = commit.next_flush().unwrap();
    commit.fail();
    assert_eq!(advances(&mut commit, &flush), []);
    commit.appended(slot, offset(2), 10);
    assert_eq!(commit.next_write(), None);
}

proptest! {
    /// A disk that completes writes and flushes in any order it may, recorded: no partition is
    /// ever advanced past what was written before a completed flush was issued.
    #[test]
    fn no_advance_is_ahead_of_a_flush(script in proptest::collection::vec((0..3usize, 0..4u8, 1..600_000u64), 1..300)) {
        let mut commit = GroupCommit::new(None, u64::MAX);
        let slots: Vec<Slot> = (0..3).map(|_| commit.open(offset(0))).collect();
        let mut appended = [0u64; 3];
        let mut written = [0u64; 3];
        let mut advanced = [0u64; 3];
        let mut writes: Vec<WritePlan> = Vec::new();
        let mut flush: Option<(FlushPlan, [u64; 3])> = None;
        for (which, action, size) in script {
            match action {
                0 => {
                    appended[which] += 1;
                    commit.appended(slots[which], offset(appended[which]), size);
                }
                1 if !writes.is_empty() => {
                    let plan = writes.remove(which % writes.len());
                    written[plan.slot.0 as usize] = plan.end.get();
                    commit.wrote(&plan, &[SEGMENT]);
                }
                2 => {
                    if let Some((plan, covered)) = flush.take() {
                        for advance in advances(&mut commit, &plan) {
                            let at = advance.slot.0 as usize;
                            prop_assert!(advance.durable_end.get() <= covered[at]);
                            prop_assert!(advanced[at] <= advance.durable_end.get());
                            advanced[at] = advance.durable_end.get();
                        }
                    }
                }
                _ => {}
            }
            while let Some(plan) = commit.next_write() {
                prop_assert!(writes.iter().all(|other| other.slot != plan.slot));
                writes.push(plan);
            }
            if let Some(plan) = commit.next_flush() {
                prop_assert!(flush.is_none());
                flush = Some((plan, written));
            }
        }
        // Liveness: once the disk answers everything, everything is durable.
        for _ in 0..10 {
            for plan in writes.drain(..) {
                commit.wrote(&plan, &[SEGMENT]);
            }
            if let Some((plan, _)) = flush.take() {
                advances(&mut commit, &plan);
            }
            while let Some(plan) = commit.next_write() {
                writes.push(plan);
            }
            flush = commit.next_flush().map(|plan| (plan, written));
        }
        prop_assert!(slots.iter().all(|slot| commit.is_idle(*slot)));
        prop_assert_eq!((commit.undurable_bytes(), commit.unstored_bytes()), (0, 0));
    }
}

proptest! {
    /// The same with a journal: whatever becomes durable is covered without a gap by what the
    /// journal and the segments had under a flush that was issued after the write was complete.
    #[test]
    fn durable_is_what_journal_and_segments_cover(
        script in proptest::collection::vec((0..4usize, 0..7u8, prop_oneof![1..9_000u64, 1..400_000u64]), 1..300),
    ) {
        let mut model = Model::new();
        for (which, action, size) in script {
            match action {
                0 | 1 => model.append(which, size),
                2 => model.complete_block(which),
                3 => model.complete_write(which),
                4 => model.complete_journal_flush()?,
                5 => model.complete_flush()?,
                _ => model.commit.write_out(model.slots[which]),
            }
            model.pump();
        }
        model.commit.drain();
        for _ in 0..200 {
            model.pump();
            model.complete_block(0);
            model.complete_write(0);
            model.complete_journal_flush()?;
            model.complete_flush()?;
        }
        prop_assert!(model.slots.iter().all(|slot| model.commit.is_idle(*slot)));
        prop_assert_eq!((model.commit.undurable_bytes(), model.commit.unstored_bytes()), (0, 0));
        prop_assert_eq!(model.commit.waiting_bytes, 0);
    }
}

#[test]
fn small_appends_of_many_partitions_are_one_write_and_one_flush() {
    let mut model = Model::new();
    (0..4).for_each(|which| model.append(which, 4000));
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (1, 0));
    model.complete_block(0);
    model.pump();
    model.complete_journal_flush().unwrap();
    assert_eq!(model.durable, [4000; 4]);
    assert_eq!(model.commit.unstored_bytes(), 16_000, "the segments get them later");
}

#[test]
fn large_append_goes_to_its_segment_at_once() {
    let mut model = Model::new();
    model.append(0, WRITE_GATHER_SIZE);
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (0, 1));
    model.append(0, 100);
    model.pump();
    assert_eq!(model.blocks.len(), 0, "a replay would put it behind a hole");
    model.complete_write(0);
    model.pump();
    model.complete_flush().unwrap();
    assert_eq!(model.durable[0], WRITE_GATHER_SIZE);
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (1, 0), "the journal can take it now");
}

#[test]
fn what_is_much_gathers_for_its_segment_while_a_flush_that_is_waited_for_is_in_flight() {
    let mut model = Model::new();
    model.append(0, DIRECT_SIZE);
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (0, 1));
    model.complete_write(0);
    model.pump();
    model.append(1, DIRECT_SIZE);
    model.append(2, DIRECT_SIZE - 1);
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (1, 0), "only the little goes to the journal");
    model.complete_flush().unwrap();
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (1, 1));
    model.complete_write(0);
    model.pump();
    model.complete_flush().unwrap();
    assert_eq!(model.durable[..3], [DIRECT_SIZE, DIRECT_SIZE, 0]);
}

#[test]
fn what_is_much_goes_to_the_journal_behind_a_flush_that_nobody_waits_for() {
    const MUCH: u64 = 100_000;
    let sizes =
        CommitSizes { direct: MUCH, write_out: MUCH, write_out_flush: MUCH, ..CommitSizes::default() };
    let mut model = Model::with_sizes(sizes);
    for _ in 0..2 {
        model.append(0, MUCH - 1);
        model.pump();
        model.complete_block(0);
        model.pump();
        model.complete_journal_flush().unwrap();
        model.pump();
    }
    model.complete_write(0);
    model.pump();
    assert!(model.flush.is_some(), "enough is written out");
    model.append(1, MUCH);
    model.pump();
    assert_eq!((model.blocks.len(), model.writes.len()), (1, 0));
}

#[test]
fn what_many_partitions_keep_in_memory_is_written_out_in_time() {
    let mut model = Model::with_direct(u64::MAX);
    for round in 0..3 {
        for which in 0..4 {
            model.append(which, MODEL_UNSTORED_MAX / 20);
        }
        model.pump();
        model.complete_block(0);
        model.pump();
        model.complete_journal_flush().unwrap();
        model.pump();
        assert_eq!(model.writes.is_empty(), round < 2, "more than half of what may wait");
    }
}

/// None of them ever gets much, so each goes once it has what fits into one write. What it gets after that stands
/// behind the others when memory is short.
#[test]
fn what_very_many_partitions_share_is_written_out_in_single_writes() {
    const MANY: usize = 16;
    let limits = RingLimits { file_size: 8 << 20, file_count_max: 4 };
    let ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
    let sizes = CommitSizes { direct: u64::MAX, ..CommitSizes::default() };
    let mut commit = GroupCommit::with_sizes(Some(ring), 2 << 20, sizes);
    let slots: Vec<Slot> = (0..MANY).map(|_| commit.open(Offset::ZERO)).collect();
    let append = |commit: &mut GroupCommit, slot: Slot, end: u64, size: u64| {
        commit.appended(slot, offset(end), size);
        while let Some(file) = commit.next_journal_file() {
            commit.journal_file_made(file, true);
        }
        let plan = commit.next_tick().unwrap();
        let places = commit.begin_tick(&plan, &[0], &pack([size as usize].into_iter())).unwrap();
        places.into_iter().for_each(|place| commit.block_written(place.header.sequence));
        let flush = commit.next_journal_flush().unwrap();
        commit.journal_flushed(&flush, &mut Vec::new());
    };
    slots.iter().for_each(|slot| append(&mut commit, *slot, 1, 49_000));
    assert_eq!(commit.next_write(), None, "three eighths of the memory are not used");
    append(&mut commit, slots[0], 2, 9_000);
    let write = commit.next_write().unwrap();
    assert_eq!(write, WritePlan { slot: slots[0], end: offset(2), size: 58_000 });
    assert_eq!(commit.next_write(), None, "the others have less");
    commit.wrote(&write, &[SEGMENT]);
    append(&mut commit, slots[0], 3, 9_000);
    assert_eq!(commit.next_write(), None);
    commit.set_memory_short(true);
    let rest = std::iter::from_fn(|| commit.next_write()).map(|plan| (plan.slot, plan.size));
    let others = slots[1..].iter().map(|slot| (*slot, 49_000));
    assert!(rest.eq(others.chain([(slots[0], 9_000)])), "oldest first");
}

#[test]
fn write_outs_make_room_in_a_full_journal() {
    let mut model = Model::new();
    let mut appended = 0;
    for round in 0..200 {
        model.append(round % 4, 200_000);
        appended += 200_000;
        for _ in 0..3 {
            model.pump();
            model.complete_block(0);
            model.complete_write(0);
            model.complete_journal_flush().unwrap();
            model.complete_flush().unwrap();
        }
    }
    assert!(appended > 3 * MODEL_RING, "the ring went round");
    assert!(model.durable.iter().sum::<u64>() > appended - 4 * 200_000);
}

proptest! {
    /// Partitions whose acknowledgements wait for writes, and change that: what is called durable is
    /// found by a start after a crash of the process, and no more of it is unflushed than allowed.
    #[test]
    fn durable_is_what_a_crash_of_the_process_leaves(
        journal in any::<bool>(),
        script in proptest::collection::vec((0..4usize, 0..9u8, prop_oneof![1..9_000u64, 1..400_000u64]), 1..300),
    ) {
        let mut model = if journal { Model::new() } else { Model::without_journal() };
        (1..4).for_each(|which| model.set_durability(which, WRITE));
        model.set_durability(3, bounded(5));
        for (which, action, size) in script {
            match action {
                0..=2 => model.append(which, size),
                3 => model.complete_block(which),
                4 => model.complete_write(which),
                5 => model.complete_journal_flush()?,
                6 => model.complete_flush()?,
                7 => model.now = model.now.after(Duration::from_micros(size)),
                _ => model.set_durability(which, [Durability::Fsync, WRITE, bounded(2)][size as usize % 3]),
            }
            model.check_written()?;
            model.pump();
        }
        // The disk answers everything and time goes on: it is all flushed without another append.
        for _ in 0..200 {
            model.now = model.now.after(Duration::from_millis(100));
            model.pump();
            model.complete_block(0);
            model.complete_write(0);
            model.check_written()?;
            model.complete_journal_flush()?;
            model.complete_flush()?;
        }
        for which in 0..4 {
            let all = *model.ends[which].last().unwrap();
            prop_assert_eq!((model.durable[which], model.flushed(which)), (all, all));
        }
        prop_assert_eq!((model.commit.undurable_bytes(), model.commit.waiting_bytes), (0, 0));
        prop_assert_eq!(model.commit.waiting_write_bytes, 0);
    }
}

#[test]
fn a_write_is_enough_where_the_topic_says_so() {
    let mut model = Model::without_journal();
    model.set_durability(0, WRITE);
    model.append(0, 100);
    model.append(1, 100);
    model.pump();
    model.complete_write(0);
    model.complete_write(0);
    model.check_written().unwrap();
    assert_eq!(model.durable, [100, 0, 0, 0]);
    model.pump();
    // The other one's flush is in flight: it holds up nothing here.
    assert!(model.flush.is_some());
    model.append(0, 50);
    model.append(1, 50);
    model.pump();
    assert_eq!(model.writes.len(), 1);
    model.complete_write(0);
    model.check_written().unwrap();
    assert_eq!(model.durable[0], 150);
}

#[test]
fn an_acknowledged_write_is_flushed_in_time() {
    let mut model = Model::without_journal();
    model.set_durability(0, WRITE);
    model.append(0, 100);
    model.pump();
    model.complete_write(0);
    model.pump();
    assert!(model.flush.is_none());
    assert_eq!(model.deadline, Some(model.now.after(FLUSH_WITHIN)));
    model.now = model.now.after(FLUSH_WITHIN);
    model.pump();
    model.complete_flush().unwrap();
    assert_eq!(model.flushed(0), 100);
    model.pump();
    assert_eq!(model.deadline, None);
}

#[test]
fn no_more_records_than_allowed_are_acknowledged_without_a_flush() {
    let mut model = Model::without_journal();
    model.set_durability(0, bounded(2));
    for expected in [100, 100] {
        model.append(0, 100);
        model.pump();
        model.complete_write(0);
        model.check_written().unwrap();
        assert_eq!(model.durable[0], expected, "the second waits");
        model.pump();
    }
    model.complete_flush().unwrap();
    assert_eq!(model.durable[0], 200);
}

/// A block that is whole is not there for a start while one before it is not.
#[test]
fn a_block_behind_an_unwritten_one_acknowledges_nothing() {
    let mut model = Model::with_direct(WRITE_GATHER_SIZE);
    for which in 0..4 {
        model.set_durability(which, WRITE);
        model.append(which, WRITE_GATHER_SIZE - 1);
    }
    model.pump();
    assert_eq!(model.blocks.len(), 2);
    model.complete_block(1);
    model.check_written().unwrap();
    assert_eq!(model.durable, [0; 4]);
    model.complete_block(0);
    model.check_written().unwrap();
    assert_eq!(model.durable, [WRITE_GATHER_SIZE - 1; 4]);
}

#[test]
fn a_topic_that_asks_for_flushes_again_waits_for_them() {
    let mut model = Model::without_journal();
    model.set_durability(0, WRITE);
    model.append(0, 100);
    model.pump();
    model.complete_write(0);
    model.check_written().unwrap();
    model.set_durability(0, Durability::Fsync);
    model.append(0, 10);
    model.pump();
    assert!(model.flush.is_some(), "what was acknowledged is flushed soon");
    model.complete_flush().unwrap();
    model.pump();
    model.complete_write(0);
    model.check_written().unwrap();
    assert_eq!(model.durable[0], 100);
    model.pump();
    model.complete_flush().unwrap();
    assert_eq!(model.durable[0], 110);
}

const FLUSH_WITHIN: Duration = Duration::from_millis(500);
const WRITE: Durability = Durability::Write(FlushBounds { records_max: u64::MAX, within: FLUSH_WITHIN });

fn bounded(records_max: u64) -> Durability {
    Durability::Write(FlushBounds { records_max, within: FLUSH_WITHIN })
}

const MODEL_UNSTORED_MAX: u64 = 4 << 20;
const MODEL_FILE: u64 = 4 << 20;
const MODEL_RING: u64 = 3 * MODEL_FILE;

/// A disk that completes what it is asked to in any order, and knows what it has flushed.
struct Model {
    commit: GroupCommit,
    slots: Vec<Slot>,
    /// Per partition: bytes at each log end, from 0.
    ends: Vec<Vec<u64>>,
    /// Per partition: what a flushed segment holds, what a written one does.
    segment: Vec<(u64, u64)>,
    /// What each block in flight, written or under flush holds: slot, from, to.
    contents: std::collections::BTreeMap<BlockSequence, Vec<(usize, u64, u64)>>,
    sealed: Vec<u64>,
    blocks: Vec<BlockSequence>,
    journalled: Vec<Vec<(u64, u64)>>,
    writes: Vec<WritePlan>,
    flush: Option<(FlushPlan, Vec<u64>)>,
    journal_flush: Option<JournalFlush>,
    durable: Vec<u64>,
    durabilities: Vec<Durability>,
    now: Mono,
    /// When the commit wants to look at the clock.
    deadline: Option<Mono>,
}

impl Model {
    fn new() -> Model {
        Model::with_direct(DIRECT_SIZE)
    }

    /// Partitions with so much pending go to their segments.
    fn with_direct(direct: u64) -> Model {
        Model::with_sizes(CommitSizes { direct, ..CommitSizes::default() })
    }

    fn with_sizes(sizes: CommitSizes) -> Model {
        let limits = RingLimits { file_size: MODEL_FILE, file_count_max: 3 };
        let ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
        Model::on(GroupCommit::with_sizes(Some(ring), MODEL_UNSTORED_MAX, sizes))
    }

    fn without_journal() -> Model {
        Model::on(GroupCommit::new(None, MODEL_UNSTORED_MAX))
    }

    fn on(mut commit: GroupCommit) -> Model {
        let slots = (0..4).map(|_| commit.open(offset(0))).collect();
        let mut model = Model {
            commit,
            slots,
            ends: vec![vec![0]; 4],
            segment: vec![(0, 0); 4],
            contents: Default::default(),
            sealed: vec![0; 4],
            blocks: Vec::new(),
            journalled: vec![Vec::new(); 4],
            writes: Vec::new(),
            flush: None,
            journal_flush: None,
            durable: vec![0; 4],
            durabilities: vec![Durability::Fsync; 4],
            now: Mono::default(),
            deadline: None,
        };
        model.pump();
        model
    }

    fn append(&mut self, which: usize, size: u64) {
        let ends = &mut self.ends[which];
        ends.push(ends.last().unwrap() + size);
        self.commit.appended(self.slots[which], offset(ends.len() as u64 - 1), size);
    }

    fn pump(&mut self) {
        while let Some(file) = self.commit.next_journal_file() {
            self.commit.journal_file_made(file, true);
        }
        while let Some(plan) = self.commit.next_write() {
            assert!(self.writes.iter().all(|other| other.slot != plan.slot));
            self.sealed[plan.slot.0 as usize] = self.bytes_at(plan.slot, plan.end);
            self.writes.push(plan);
        }
        while let Some(plan) = self.commit.next_tick() {
            let blocks = pack(plan.entries.iter().map(|entry| entry.size as usize));
            let items: Vec<usize> = (0..plan.entries.len()).collect();
            let Some(places) = self.commit.begin_tick(&plan, &items, &blocks) else { break };
            for (block, place) in blocks.iter().zip(places) {
                let parts = block.parts.iter().map(|part| {
                    let which = plan.entries[part.item].slot.0 as usize;
                    let from = self.sealed[which];
                    (which, from + part.part.start as u64, from + part.part.end as u64)
                });
                let parts: Vec<(usize, u64, u64)> = parts.collect();
                for (which, from, _) in &parts {
                    assert!(*from <= self.replayable(*which), "a replay would leave a hole");
                }
                self.contents.insert(place.header.sequence, parts);
                self.blocks.push(place.header.sequence);
            }
            for entry in &plan.entries {
                self.sealed[entry.slot.0 as usize] += entry.size;
                assert_eq!(self.sealed[entry.slot.0 as usize], self.bytes_at(entry.slot, entry.end));
            }
        }
        if let Some(mark) = self.commit.next_mark() {
            self.contents.insert(mark.header.sequence, Vec::new());
            self.blocks.push(mark.header.sequence);
        }
        if let Some(flush) = self.commit.next_journal_flush() {
            assert!(self.journal_flush.is_none());
            assert!(
                self.blocks.iter().all(|block| *block >= flush.through),
                "a block is still being written"
            );
            self.journal_flush = Some(flush);
        }
        self.deadline = self.commit.flush_deadline(self.now);
        if let Some(flush) = self.commit.next_flush() {
            assert!(self.flush.is_none());
            self.flush = Some((flush, self.segment.iter().map(|(_, written)| *written).collect()));
        }
    }

    /// How far a replay of all blocks issued so far would reach without a hole.
    fn replayable(&self, which: usize) -> u64 {
        let issued = self.contents.values().flatten().filter(|part| part.0 == which);
        let issued = issued.map(|(_, from, to)| (*from, *to));
        covered(self.segment[which].0, self.journalled[which].iter().copied().chain(issued))
    }

    fn bytes_at(&self, slot: Slot, end: Offset) -> u64 {
        self.ends[slot.0 as usize][end.get() as usize]
    }

    fn complete_block(&mut self, which: usize) {
        if !self.blocks.is_empty() {
            let block = self.blocks.remove(which % self.blocks.len());
            self.commit.block_written(block);
        }
    }

    fn complete_write(&mut self, which: usize) {
        if !self.writes.is_empty() {
            let plan = self.writes.remove(which % self.writes.len());
            self.segment[plan.slot.0 as usize].1 = self.bytes_at(plan.slot, plan.end);
            self.commit.wrote(&plan, &[SEGMENT]);
        }
    }

    fn complete_journal_flush(&mut self) -> Result<(), TestCaseError> {
        let Some(flush) = self.journal_flush.take() else { return Ok(()) };
        for (_, parts) in self.contents.extract_if(..flush.through, |_, _| true) {
            parts.into_iter().for_each(|(which, from, to)| self.journalled[which].push((from, to)));
        }
        let mut advances = Vec::new();
        self.commit.journal_flushed(&flush, &mut advances);
        self.check(&advances)
    }

    fn complete_flush(&mut self) -> Result<(), TestCaseError> {
        let Some((plan, covered)) = self.flush.take() else { return Ok(()) };
        self.segment.iter_mut().zip(covered).for_each(|(segment, covered)| segment.0 = covered);
        let (mut advances, mut stored) = (Vec::new(), Vec::new());
        self.commit.flushed(&plan, &mut advances, &mut stored);
        for stored in stored {
            let bytes = self.bytes_at(stored.slot, stored.stored_end);
            prop_assert!(bytes <= self.segment[stored.slot.0 as usize].0, "stored ahead of the flush");
        }
        self.check(&advances)
    }

    fn set_durability(&mut self, which: usize, durability: Durability) {
        self.durabilities[which] = durability;
        self.commit.set_durability(self.slots[which], durability);
    }

    /// The end of what a loss of power leaves of a partition.
    fn flushed(&self, which: usize) -> u64 {
        covered(self.segment[which].0, self.journalled[which].iter().copied())
    }

    /// The end of what a crash of the process leaves: whole blocks up to the first that is not.
    fn written(&self, which: usize) -> u64 {
        let first_unwritten = self.blocks.iter().min().copied().unwrap_or(BlockSequence(u64::MAX));
        let blocks = self.contents.range(..first_unwritten).flat_map(|(_, parts)| parts);
        let parts = blocks.filter(|part| part.0 == which).map(|(_, from, to)| (*from, *to));
        covered(self.segment[which].1, self.journalled[which].iter().copied().chain(parts))
    }

    /// What writes have made durable since the last call is there.
    fn check_written(&mut self) -> Result<(), TestCaseError> {
        let mut advances = Vec::new();
        self.commit.written(&mut advances);
        for advance in advances {
            let which = advance.slot.0 as usize;
            let Durability::Write(bounds) = self.durabilities[which] else {
                return Err(TestCaseError::fail("acknowledged before the flush"));
            };
            let durable = self.bytes_at(advance.slot, advance.durable_end);
            prop_assert!(durable <= self.written(which));
            prop_assert!(self.durable[which] < durable);
            let flushed = self.ends[which].partition_point(|bytes| *bytes <= self.flushed(which)) as u64 - 1;
            prop_assert!(
                advance.durable_end.get() - flushed.min(advance.durable_end.get()) < bounds.records_max
            );
            self.durable[which] = durable;
        }
        Ok(())
    }

    fn check(&mut self, advances: &[Advance]) -> Result<(), TestCaseError> {
        for advance in advances {
            let which = advance.slot.0 as usize;
            let covered = self.flushed(which);
            let durable = self.bytes_at(advance.slot, advance.durable_end);
            prop_assert!(durable <= covered, "{durable} bytes are called durable, {covered} are");
            prop_assert!(self.durable[which] < durable);
            self.durable[which] = durable;
        }
        Ok(())
    }
}

/// The end of what is there from 0 without a hole: a prefix and some ranges.
fn covered(prefix: u64, ranges: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut ranges: Vec<(u64, u64)> = ranges.collect();
    ranges.sort();
    ranges
        .into_iter()
        .filter(|(from, to)| from <= to)
        .fold(prefix, |covered, (from, to)| if from <= covered { covered.max(to) } else { covered })
}

fn advances(commit: &mut GroupCommit, plan: &FlushPlan) -> Vec<Advance> {
    let mut out = Vec::new();
    commit.flushed(plan, &mut out, &mut Vec::new());
    out
}

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}
