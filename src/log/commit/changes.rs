//! Changes of logs that are no appends, on their way through the journal: log starts, deletions,
//! replaced segments.
//!
//! ```text
//! log_changes ─► waiting ─► a block of their own ─► the journal's next flush
//!                                                └─► a later block that states this flush, flushed ─► are_settled
//! ```
//!
//! They share the flushes with the ticks, and stand behind everything of their partitions that was handed
//! to one before. Whoever logs a change waits until it is settled and carries it out then, never before.
//!
//! Its own flush is not enough: were its block damaged and no later one stated that it had been flushed, a
//! start would take it for a torn tail, and redo what stands before it in files that the change has
//! replaced since.
//!
//! Absent: bounds. Each caller has one request at a time and waits for it.

use crate::log::commit::GroupCommit;
use crate::log::journal::block::{BlockSequence, Change, Entry, block_size};
use crate::log::journal::ring::BlockPlace;
use std::collections::VecDeque;

/// Entries of one block of changes: one block of the disk.
pub const CHANGES_PER_BLOCK: usize = 70;

/// Everything that was logged up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChangeTicket(u64);

/// A moment between two blocks of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangesSeen(BlockSequence);

#[derive(Debug, Default)]
pub(super) struct Changes {
    waiting: VecDeque<Entry>,
    /// Blocks issued, each with how many changes were logged up to its last one; oldest first.
    issued: VecDeque<(BlockSequence, ChangeTicket)>,
    logged: u64,
    taken: u64,
    settled: u64,
}

impl Changes {
    pub(super) fn stated(&mut self, through: BlockSequence) {
        while let Some((_, ticket)) = self.issued.pop_front_if(|(block, _)| *block < through) {
            self.settled = ticket.0;
        }
    }

    pub(super) fn are_waiting_for_statement(&self) -> bool {
        !self.issued.is_empty()
    }
}

impl GroupCommit {
    /// Logs changes; `None` without a journal, or before it has a file: then no start replays anything
    /// that they could contradict.
    pub fn log_changes(&mut self, changes: impl IntoIterator<Item = Entry>) -> Option<ChangeTicket> {
        self.journal.as_ref().filter(|journal| journal.has_file())?;
        let before = self.changes.waiting.len();
        self.changes.waiting.extend(changes);
        self.changes.logged += (self.changes.waiting.len() - before) as u64;
        Some(ChangeTicket(self.changes.logged))
    }

    /// The next block of changes to write, once there is room for it.
    pub fn next_change_block(&mut self) -> Option<(BlockPlace, Vec<Entry>)> {
        if self.failed || self.changes.waiting.is_empty() {
            return None;
        }
        let journal = self.journal.as_mut().expect("changes are logged with a journal");
        let count = self.changes.waiting.len().min(CHANGES_PER_BLOCK);
        let size = block_size(count, 0) as u64;
        let needs_checkpoint = self.changes.waiting.range(..count).any(|entry| match entry.change {
            // What is cut stands in the checkpoint of before.
            Change::LogStart { .. } | Change::Cutting { .. } => true,
            Change::Bytes { .. }
            | Change::Closed { .. }
            | Change::Deleted { .. }
            | Change::Removed { .. }
            | Change::Replaced { .. }
            | Change::Cut { .. }
            | Change::Flushed { .. } => false,
        });
        let place = match needs_checkpoint {
            true => journal.reserve_log_starts(size),
            // It says what of the blocks before it is not redone, and is not needed without them.
            false => journal.reserve(size, std::iter::empty()),
        };
        let Some(place) = place else {
            self.journal_blocked = true;
            return None;
        };
        self.blocks_in_flight += 1;
        self.state_through = place.header.sequence.next();
        self.changes.taken += count as u64;
        self.changes.issued.push_back((place.header.sequence, ChangeTicket(self.changes.taken)));
        Some((place, self.changes.waiting.drain(..count).collect()))
    }

    /// Whether what was logged is on stable storage, and something else there says so.
    pub fn are_settled(&self, ticket: ChangeTicket) -> bool {
        ticket.0 <= self.changes.settled
    }

    /// Log starts that were logged before now stand in the checkpoint that is begun now.
    pub fn changes_seen(&self) -> Option<ChangesSeen> {
        self.journal.as_ref().map(|journal| ChangesSeen(journal.next()))
    }

    /// That checkpoint is flushed.
    pub fn checkpointed(&mut self, seen: ChangesSeen) {
        let journal = self.journal.as_mut().expect("it has seen changes");
        journal.checkpointed(seen.0);
        self.records.checkpointed(seen.0);
        self.journal_blocked = false;
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::log::journal::block::FileEpoch;
    use crate::log::journal::pack::pack;
    use crate::log::journal::ring::{JournalRing, RingLimits};
    use crate::types::{LeaderEpoch, Offset, PartitionIndex, ShardId, TopicId, TopicPartition, Uuid};

    const BLOCK: u64 = 4096;

    #[test]
    fn changes_are_settled_once_a_block_behind_them_states_their_flush() {
        let mut commit = commit();
        let first = commit.log_changes([deleted(), deleted()]).unwrap();
        let (place, entries) = commit.next_change_block().unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(commit.next_change_block(), None);
        let second = commit.log_changes([deleted()]).unwrap();
        commit.block_written(place.header.sequence);
        assert_eq!(commit.next_statement(), None, "there is nothing to state yet");
        let flush = commit.next_journal_flush().unwrap();
        let (later, _) = commit.next_change_block().unwrap();
        commit.journal_flushed(&flush, &mut Vec::new());
        assert!(!commit.are_settled(first), "the later block was issued before that flush was over");
        let statement = commit.next_statement().unwrap();
        assert_eq!(statement.header.flushed, place.header.sequence.next());
        assert_eq!(commit.next_statement(), None);
        commit.block_written(later.header.sequence);
        commit.block_written(statement.header.sequence);
        flush_journal(&mut commit);
        assert!(commit.are_settled(first));
        assert!(!commit.are_settled(second));
        let statement = commit.next_statement().unwrap();
        commit.block_written(statement.header.sequence);
        flush_journal(&mut commit);
        assert!(commit.are_settled(second));
        assert_eq!(commit.next_statement(), None);
    }

    /// The statement is one of the appends' blocks where there are any.
    #[test]
    fn changes_are_settled_by_what_is_appended_behind_their_flush() {
        let mut commit = commit();
        let slot = commit.open(Offset::ZERO);
        let ticket = commit.log_changes([deleted()]).unwrap();
        let (place, _) = commit.next_change_block().unwrap();
        commit.block_written(place.header.sequence);
        flush_journal(&mut commit);
        commit.appended(slot, Offset::new(1).unwrap(), 100);
        let plan = commit.next_tick().unwrap();
        let blocks = pack([100].into_iter());
        let places = commit.begin_tick(&plan, &[0], &blocks).unwrap();
        assert_eq!(commit.next_statement(), None);
        commit.block_written(places[0].header.sequence);
        flush_journal(&mut commit);
        assert!(commit.are_settled(ticket));
    }

    #[test]
    fn nothing_is_logged_before_there_is_a_file() {
        assert_eq!(GroupCommit::new(None, u64::MAX).log_changes([deleted()]), None);
        let limits = RingLimits { file_size: 4 * BLOCK, file_count_max: 2 };
        let ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
        assert_eq!(GroupCommit::new(Some(ring), u64::MAX).log_changes([deleted()]), None);
    }

    #[test]
    fn many_changes_take_several_blocks_of_the_disk_s_size() {
        let mut commit = commit();
        let ticket = commit.log_changes((0..CHANGES_PER_BLOCK + 1).map(|_| deleted())).unwrap();
        for count in [CHANGES_PER_BLOCK, 1] {
            let (place, entries) = commit.next_change_block().unwrap();
            assert_eq!(entries.len(), count);
            assert_eq!(block_size(entries.len(), 0) as u64, BLOCK);
            commit.block_written(place.header.sequence);
        }
        flush_journal(&mut commit);
        let statement = commit.next_statement().unwrap();
        commit.block_written(statement.header.sequence);
        flush_journal(&mut commit);
        assert!(commit.are_settled(ticket));
    }

    /// Two files of two blocks and a mark each: they go round only as checkpoints take the log starts.
    #[test]
    fn log_starts_wait_for_a_checkpoint_where_there_is_no_room() {
        let mut commit = commit_of(3);
        let log_start = Change::LogStart { start: Offset::ZERO, epoch: LeaderEpoch(0) };
        let pass = |commit: &mut GroupCommit| {
            let ticket = commit.log_changes([Entry { change: log_start, ..deleted() }]).unwrap();
            for _ in 0..4 {
                make_files(commit);
                let blocks = commit.next_change_block().map(|(place, _)| place).into_iter();
                let statements = commit.next_statement().into_iter();
                for place in blocks.chain(statements).chain(commit.next_mark()).collect::<Vec<_>>() {
                    commit.block_written(place.header.sequence);
                }
                if let Some(flush) = commit.next_journal_flush() {
                    commit.journal_flushed(&flush, &mut Vec::new());
                }
            }
            commit.are_settled(ticket)
        };
        assert!(pass(&mut commit));
        assert!(pass(&mut commit));
        assert!(!pass(&mut commit), "both files hold log starts");
        let seen = commit.changes_seen().unwrap();
        commit.checkpointed(seen);
        assert!(pass(&mut commit));
    }

    /// There is no space for the second file, and the change may be what makes some.
    #[test]
    fn change_in_the_last_place_of_the_only_file_is_settled() {
        let limits = RingLimits { file_size: 2 * BLOCK, file_count_max: 2 };
        let ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
        let mut commit = GroupCommit::new(Some(ring), u64::MAX);
        let file = commit.next_journal_file().unwrap();
        commit.journal_file_made(file, true);
        let ticket = commit.log_changes([deleted()]).unwrap();
        for _ in 0..2 {
            let block = commit.next_change_block().map(|(place, _)| place);
            let places = block.into_iter().chain(commit.next_mark()).chain(commit.next_statement());
            places.for_each(|place| commit.block_written(place.header.sequence));
            flush_journal(&mut commit);
            if let Some(file) = commit.next_journal_file() {
                commit.journal_file_made(file, false);
            }
        }
        assert!(commit.are_settled(ticket));
    }

    fn flush_journal(commit: &mut GroupCommit) {
        let flush = commit.next_journal_flush().unwrap();
        commit.journal_flushed(&flush, &mut Vec::new());
    }

    fn commit() -> GroupCommit {
        commit_of(8)
    }

    /// With a journal of two files of so many blocks of 4 KiB.
    pub fn commit_of(blocks: u64) -> GroupCommit {
        let limits = RingLimits { file_size: blocks * BLOCK, file_count_max: 2 };
        let ring = JournalRing::new(ShardId(0), limits, BlockSequence(1), FileEpoch(0));
        let mut commit = GroupCommit::new(Some(ring), u64::MAX);
        make_files(&mut commit);
        commit
    }

    pub fn make_files(commit: &mut GroupCommit) {
        while let Some(file) = commit.next_journal_file() {
            commit.journal_file_made(file, true);
        }
    }

    fn deleted() -> Entry {
        let topic = TopicId(Uuid::from_u128(1));
        let partition = TopicPartition { topic, partition: PartitionIndex::from_wire(0).unwrap() };
        Entry { partition, change: Change::Deleted { epoch: LeaderEpoch(0) } }
    }
}
