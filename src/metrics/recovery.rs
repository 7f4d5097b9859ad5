//! What starts and reads have met on disk and put right, cut, or refused to serve.
//!
//! A branch is counted where it is taken, with a line in the log. What is found before the shards run is
//! counted with shard 0.

use std::array;

/// One way in which what is on disk is not what a clean stop leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecoveryBranch {
    /// A last batch that was being written: cut.
    TornTailCut,
    /// Damage below what was known to be flushed: the partition is offline.
    SegmentDamaged,
    /// Records that were flushed are gone: the partition is offline.
    LogShort,
    /// What a clean stop has left of a partition cannot be used: its active segment is scanned.
    CleanStateUnusable,
    /// Nothing but the names of the segments says where a log begins.
    LogStartByNames,
    /// Index files of a segment were missing or wrong.
    IndexRebuilt,
    /// The index of a segment's aborted transactions was missing or wrong.
    TransactionsRebuilt,
    /// The snapshot of the producers was missing or wrong.
    ProducersRebuilt,
    /// The leader epochs were wrong.
    EpochsRebuilt,
    /// A compaction that was decided was interrupted.
    SwapCompleted,
    /// A compaction that was not decided was interrupted.
    SwapUndone,
    /// A directory of a topic that nobody knows was in the way.
    DirectoryPutAside,
    /// A directory is not the partition's: it is offline.
    DirectoryForeign,
    CheckpointUnreadable,
    FinalStateUnreadable,
    /// A change of the metadata that was being written: cut.
    MetadataEntryTorn,
    /// A block of a journal does not hold: an interrupted write, unless another branch says more.
    JournalBlockDamaged,
    /// Whole blocks behind one that is missing: not replayed.
    JournalBlockBeyondGap,
    /// A block that was flushed is damaged or gone: the core's partitions are offline.
    JournalBlockGone,
    JournalFileCut,
    JournalFileGone,
    /// Committed bytes of a partition are damaged: it is offline.
    JournalEntryDamaged,
    /// A journal that an earlier start has kept as damaged.
    JournalKeptDamaged,
    /// A partition is offline for what a journal has lost.
    JournalPartitionOffline,
}

impl RecoveryBranch {
    pub const ALL: [RecoveryBranch; 24] = [
        RecoveryBranch::TornTailCut,
        RecoveryBranch::SegmentDamaged,
        RecoveryBranch::LogShort,
        RecoveryBranch::CleanStateUnusable,
        RecoveryBranch::LogStartByNames,
        RecoveryBranch::IndexRebuilt,
        RecoveryBranch::TransactionsRebuilt,
        RecoveryBranch::ProducersRebuilt,
        RecoveryBranch::EpochsRebuilt,
        RecoveryBranch::SwapCompleted,
        RecoveryBranch::SwapUndone,
        RecoveryBranch::DirectoryPutAside,
        RecoveryBranch::DirectoryForeign,
        RecoveryBranch::CheckpointUnreadable,
        RecoveryBranch::FinalStateUnreadable,
        RecoveryBranch::MetadataEntryTorn,
        RecoveryBranch::JournalBlockDamaged,
        RecoveryBranch::JournalBlockBeyondGap,
        RecoveryBranch::JournalBlockGone,
        RecoveryBranch::JournalFileCut,
        RecoveryBranch::JournalFileGone,
        RecoveryBranch::JournalEntryDamaged,
        RecoveryBranch::JournalKeptDamaged,
        RecoveryBranch::JournalPartitionOffline,
    ];

    /// As the label of the metric.
    pub const fn name(self) -> &'static str {
        match self {
            RecoveryBranch::TornTailCut => "torn_tail_cut",
            RecoveryBranch::SegmentDamaged => "segment_damaged",
            RecoveryBranch::LogShort => "log_short",
            RecoveryBranch::CleanStateUnusable => "clean_state_unusable",
            RecoveryBranch::LogStartByNames => "log_start_by_names",
            RecoveryBranch::IndexRebuilt => "index_rebuilt",
            RecoveryBranch::TransactionsRebuilt => "transaction_index_rebuilt",
            RecoveryBranch::ProducersRebuilt => "producers_rebuilt",
            RecoveryBranch::EpochsRebuilt => "epochs_rebuilt",
            RecoveryBranch::SwapCompleted => "swap_completed",
            RecoveryBranch::SwapUndone => "swap_undone",
            RecoveryBranch::DirectoryPutAside => "directory_put_aside",
            RecoveryBranch::DirectoryForeign => "directory_foreign",
            RecoveryBranch::CheckpointUnreadable => "checkpoint_unreadable",
            RecoveryBranch::FinalStateUnreadable => "final_state_unreadable",
            RecoveryBranch::MetadataEntryTorn => "metadata_entry_torn",
            RecoveryBranch::JournalBlockDamaged => "journal_block_damaged",
            RecoveryBranch::JournalBlockBeyondGap => "journal_block_beyond_gap",
            RecoveryBranch::JournalBlockGone => "journal_block_gone",
            RecoveryBranch::JournalFileCut => "journal_file_cut",
            RecoveryBranch::JournalFileGone => "journal_file_gone",
            RecoveryBranch::JournalEntryDamaged => "journal_entry_damaged",
            RecoveryBranch::JournalKeptDamaged => "journal_kept_damaged",
            RecoveryBranch::JournalPartitionOffline => "journal_partition_offline",
        }
    }
}

/// How often each branch was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryCounts([u64; RecoveryBranch::ALL.len()]);

impl RecoveryCounts {
    pub fn count(&mut self, branch: RecoveryBranch) {
        self.count_many(branch, 1);
    }

    pub fn count_many(&mut self, branch: RecoveryBranch, times: usize) {
        self.0[branch as usize] += times as u64;
    }

    pub fn add(&mut self, other: &RecoveryCounts) {
        self.0 = array::from_fn(|at| self.0[at] + other.0[at]);
    }

    pub fn get(&self, branch: RecoveryBranch) -> u64 {
        self.0[branch as usize]
    }

    /// Those that were taken.
    pub fn taken(&self) -> impl Iterator<Item = (RecoveryBranch, u64)> {
        RecoveryBranch::ALL
            .into_iter()
            .map(|branch| (branch, self.get(branch)))
            .filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_branch_has_its_own_place_and_name() {
        let names: BTreeSet<&str> = RecoveryBranch::ALL.iter().map(|branch| branch.name()).collect();
        assert_eq!(names.len(), RecoveryBranch::ALL.len());
        let mut counts = RecoveryCounts::default();
        for (at, branch) in RecoveryBranch::ALL.into_iter().enumerate() {
            assert_eq!(branch as usize, at, "in the order of their places");
            counts.count_many(branch, at);
        }
        let mut twice = counts.clone();
        twice.add(&counts);
        assert_eq!(twice.get(RecoveryBranch::LogShort), 4);
        assert_eq!(twice.taken().count(), RecoveryBranch::ALL.len() - 1);
    }
}
