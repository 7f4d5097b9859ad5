//! What the journal takes that is no append: changes of logs, flushed before they are carried out; records of
//! what was flushed in the segments.

use crate::log::commit::changes::ChangesSeen;
use crate::log::durability::Durability;
use crate::log::journal::block::{BlockWriter, Change, Entry, block_size};
use crate::log::journal::ring::BlockPlace;
use crate::shard::disk::allocate;
use crate::shard::journal::Journal;
use crate::shard::store::Store;
use std::rc::Rc;

/// What became of changes that were to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// They are on stable storage, and replayed after a crash.
    Flushed,
    /// There is no journal that could contradict them, and none that keeps them.
    NoJournal,
    /// The log directory is offline.
    Failed,
}

impl Store {
    /// Logs changes of partitions and waits until they are settled. Whoever is told that they are flushed
    /// carries them out.
    pub async fn log_changes(self: &Rc<Self>, changes: Vec<Entry>) -> Logged {
        let ticket = self.commit.borrow_mut().log_changes(changes);
        let Some(ticket) = ticket else { return Logged::NoJournal };
        self.pump();
        loop {
            if self.is_offline() {
                return Logged::Failed;
            }
            if self.commit.borrow().are_settled(ticket) {
                return Logged::Flushed;
            }
            self.drained.notified().await;
        }
    }

    /// Whatever was flushed is stated in the journal, soon.
    pub fn state_flushed(self: &Rc<Self>) {
        self.commit.borrow_mut().state_flushed();
        self.pump();
    }

    /// Before the log starts of a checkpoint are looked at.
    pub fn changes_seen(&self) -> Option<ChangesSeen> {
        self.commit.borrow().changes_seen()
    }

    /// That checkpoint is flushed, and has the log starts of all.
    pub fn checkpointed(self: &Rc<Self>, seen: ChangesSeen) {
        self.commit.borrow_mut().checkpointed(seen);
        self.pump();
    }

    pub(super) fn issue_changes(self: &Rc<Self>, journal: &Rc<Journal>) {
        loop {
            let block = self.commit.borrow_mut().next_change_block();
            let Some((place, changes)) = block else { return };
            self.commit_started(Durability::Fsync);
            self.write_changes(journal, place, &changes);
        }
    }

    /// At most one block at a time, so that many partitions take many steps.
    pub(super) fn issue_records(self: &Rc<Self>, journal: &Rc<Journal>) {
        let block = self.commit.borrow_mut().next_record_block();
        let Some((place, slots)) = block else { return };
        let records = slots.iter().map(|slot| {
            let replica = self.slot(*slot);
            let change = Change::flushed(&replica.log.borrow());
            Entry { partition: replica.id, change }
        });
        self.write_changes(journal, place, &records.collect::<Vec<_>>());
    }

    fn write_changes(self: &Rc<Self>, journal: &Rc<Journal>, place: BlockPlace, changes: &[Entry]) {
        let (mut buffer, _) = allocate(block_size(changes.len(), 0));
        let mut writer = BlockWriter::new(buffer.as_bytes_mut(), changes.len());
        changes.iter().for_each(|change| writer.change(change));
        writer.finish(&place.header);
        self.issue_block(journal, place, buffer);
    }
}
