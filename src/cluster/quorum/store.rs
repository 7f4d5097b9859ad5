//! The log as the `raft` crate reads it: all of it in memory, behind the snapshot that it goes on from.
//!
//! ```text
//! base: index, term      first entry            last entry
//!        │                 │                        │
//!  ──────┼─────────────────┼────────────────────────┤
//!  in images only          │ in memory
//! ```
//!
//! What is here was given out to be written before raft heard of it; that it has been flushed raft is told by
//! itself ([`Event::Persisted`](super::Event::Persisted)). After [`compact`](Store::compact) the base may lie below
//! the snapshot on disk: entries behind it are kept for followers that are a little behind.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

#[derive(Debug, Default)]
pub(super) struct Store {
    /// Index and term of the entry before the first one.
    base: (u64, u64),
    entries: VecDeque<Entry>,
    hard_state: HardState,
    /// As of the last entry that was applied; while raft starts, as of the base.
    members: ConfState,
    /// For followers to which entries cannot help any more.
    prepared: Option<Snapshot>,
    /// Raft has asked for a snapshot and there was none.
    wanted: Cell<bool>,
}

impl Store {
    pub fn new(base: (u64, u64), members: ConfState, hard_state: HardState, entries: Vec<Entry>) -> Store {
        let store = Store {
            base,
            entries: entries.into(),
            hard_state,
            members,
            prepared: None,
            wanted: Cell::new(false),
        };
        assert!(store.entries.front().is_none_or(|first| first.index == base.0 + 1));
        store
    }

    pub fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub fn base(&self) -> (u64, u64) {
        self.base
    }

    pub fn set_members(&mut self, members: ConfState) {
        self.members = members;
    }

    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// `None` where there is no such entry, or none any more.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term)
    }

    /// Those with an index above it.
    pub fn entries_above(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let skipped = index.saturating_sub(self.base.0) as usize;
        self.entries.range(skipped.min(self.entries.len())..)
    }

    /// Replaces everything from the index of the first of them on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0, "entry {} is below the base {}", first.index, self.base.0);
        assert!(first.index <= self.last() + 1, "entry {} behind {}", first.index, self.last());
        self.entries.truncate((first.index - self.base.0 - 1) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    /// Everything up to the index of a snapshot comes from it.
    pub fn restore(&mut self, metadata: &SnapshotMetadata) {
        self.base = (metadata.index, metadata.term);
        self.entries.clear();
        self.members = metadata.get_conf_state().clone();
        self.hard_state.commit = metadata.index;
        self.prepared = None;
    }

    /// Forgets entries up to an index, which has been applied.
    pub fn compact(&mut self, index: u64) {
        assert!(index <= self.last());
        while self.base.0 < index {
            let first = self.entries.pop_front().expect("it is below the last");
            self.base = (first.index, first.term);
        }
        let is_of_use = |prepared: &Snapshot| prepared.get_metadata().index >= self.base.0;
        if !self.prepared.as_ref().is_some_and(is_of_use) {
            self.prepared = None;
        }
    }

    pub fn prepare(&mut self, snapshot: Snapshot) {
        self.prepared = Some(snapshot);
        self.wanted.set(false);
    }

    pub fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    pub fn forget_prepared(&mut self) {
        self.prepared = None;
    }

    pub fn take_wanted(&self) -> bool {
        self.wanted.take()
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.0 {
            return Err(StorageError::Compacted.into());
        }
        assert!(high <= self.last() + 1, "entries up to {high} of {}", self.last());
        let size_max = max_size.into().unwrap_or(u64::MAX);
        let (from, to) = ((low - self.base.0 - 1) as usize, (high - self.base.0 - 1) as usize);
        let (mut entries, mut size) = (Vec::new(), 0);
        for entry in self.entries.range(from..to) {
            size += entry.data.len() as u64 + 16;
            // One at least, whatever its size.
            if size > size_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.base.0 { StorageError::Compacted } else { StorageError::Unavailable };
        self.term_of(index).ok_or_else(|| missing.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        match &self.prepared {
            Some(snapshot) if snapshot.get_metadata().index >= request_index => Ok(snapshot.clone()),
            _ => {
                self.wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}
