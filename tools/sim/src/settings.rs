//! What one seed runs with: sizes, features, and the mistake that it makes on purpose.

use crate::metadata::TopicKind;
use crate::random::Random;
use odradek::log::commit::CommitSizes;
use odradek::log::journal::ring::RingLimits;
use odradek::log::partition::LogConfig;
use odradek::log::plan::SyncFs;
use std::time::Duration;

/// A mistake that somebody could make, for the tests that must find it. `None` in every other run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mistake {
    /// No flush of a file reaches the disk.
    FlushLeftOut,
    /// Segments count as flushed when they are written, so that journal files are used again too early.
    RecycledBeforeStored,
    /// A block of the journal counts as written when it is issued.
    AcknowledgedAcrossGap,
    /// A replay brings back segments that were deleted, and the log starts with what is there.
    LogStartMovedBack,
    /// A replay takes what an earlier use of a journal file left for blocks of this one.
    StaleBlockAccepted,
    /// What was read from disk is not held against its checksums.
    ChecksumsUnchecked,
    /// The partitions of a journal that has lost something are served, with what the segments have.
    LostJournalServed,
    /// A start does not look for what the journals say of flushes of segments.
    FlushRecordsIgnored,
    /// A segment whose transaction index is missing or wrong is taken for one without aborted transactions.
    AbortedForgotten,
    /// A cut goes by the journal.
    CutNotLogged,
    /// A start looks for epochs in the last segment only. There is one epoch where there is one node.
    EpochsForgotten,
}

impl Mistake {
    /// What one node shows.
    pub const ALL: [Mistake; 10] = [
        Mistake::FlushLeftOut,
        Mistake::RecycledBeforeStored,
        Mistake::AcknowledgedAcrossGap,
        Mistake::LogStartMovedBack,
        Mistake::StaleBlockAccepted,
        Mistake::ChecksumsUnchecked,
        Mistake::LostJournalServed,
        Mistake::FlushRecordsIgnored,
        Mistake::AbortedForgotten,
        Mistake::CutNotLogged,
    ];

    /// Only damage to files shows it.
    pub const fn needs_damage(self) -> bool {
        match self {
            Mistake::ChecksumsUnchecked | Mistake::LostJournalServed | Mistake::FlushRecordsIgnored => true,
            Mistake::FlushLeftOut
            | Mistake::RecycledBeforeStored
            | Mistake::AcknowledgedAcrossGap
            | Mistake::LogStartMovedBack
            | Mistake::StaleBlockAccepted
            | Mistake::AbortedForgotten
            | Mistake::CutNotLogged
            | Mistake::EpochsForgotten => false,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Mistake::FlushLeftOut => "flush-left-out",
            Mistake::RecycledBeforeStored => "recycled-before-stored",
            Mistake::AcknowledgedAcrossGap => "acknowledged-across-gap",
            Mistake::LogStartMovedBack => "log-start-moved-back",
            Mistake::StaleBlockAccepted => "stale-block-accepted",
            Mistake::ChecksumsUnchecked => "checksums-unchecked",
            Mistake::LostJournalServed => "lost-journal-served",
            Mistake::FlushRecordsIgnored => "flush-records-ignored",
            Mistake::AbortedForgotten => "aborted-forgotten",
            Mistake::CutNotLogged => "cut-not-logged",
            Mistake::EpochsForgotten => "epochs-forgotten",
        }
    }

    /// The name of the check that has to find it.
    pub const fn check(self) -> &'static str {
        match self {
            Mistake::FlushLeftOut | Mistake::RecycledBeforeStored | Mistake::AcknowledgedAcrossGap => {
                "acknowledged records are read"
            }
            Mistake::LogStartMovedBack => "the log start does not go back",
            Mistake::StaleBlockAccepted => "blocks that are believed are those of this use",
            Mistake::ChecksumsUnchecked => "what is read is what was written",
            Mistake::LostJournalServed => "partitions of a lost journal are offline",
            Mistake::FlushRecordsIgnored => "damage below a recorded flush is never cut",
            Mistake::AbortedForgotten => "exactly what was aborted is named",
            Mistake::CutNotLogged => "healthy partitions are served",
            Mistake::EpochsForgotten => "epochs and producers of a log are those of its batches",
        }
    }
}

/// Drawn from the seed alone, so that it is the same in every run of it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub partitions: usize,
    pub journal: Option<RingLimits>,
    pub sizes: CommitSizes,
    pub unstored_max: u64,
    pub undurable_max: u64,
    pub segment_size_max: u64,
    /// Bytes of a batch's payload at most.
    pub payload_max: u64,
    pub sync_fs: SyncFs,
    pub retention_bytes: Option<u64>,
    /// Bytes of what a partition leaves in the final state of its shard.
    pub state_size_max: usize,
    /// Keys of a compaction's map.
    pub keys_max: u64,
    /// Cores of a run at most.
    pub shards_max: u16,
    /// Some producers write in transactions.
    pub has_transactions: bool,
    pub mistake: Option<Mistake>,
}

const BLOCK: u64 = 4096;

impl Settings {
    pub fn draw(seed: u64, mistake: Option<Mistake>) -> Settings {
        let mut dice = Random::of(seed, 2);
        let block_max = BLOCK * dice.between(3, 8);
        let file_size = block_max * dice.between(2, 6) + BLOCK;
        let wants_journal = match mistake {
            None | Some(Mistake::FlushLeftOut | Mistake::ChecksumsUnchecked) => dice.one_in(3),
            Some(_) => false,
        };
        let journal =
            (!wants_journal).then(|| RingLimits { file_size, file_count_max: dice.between(2, 4) as u32 });
        let sizes = CommitSizes {
            direct: BLOCK * dice.between(1, 8),
            write_gather: BLOCK * dice.between(2, 12),
            write_out: BLOCK * dice.between(2, 16),
            write_out_min: BLOCK,
            write_out_flush: BLOCK * dice.between(4, 64),
            tick_max: block_max * dice.between(1, 3),
            block_max,
        };
        Settings {
            partitions: dice.between(2, 6) as usize,
            journal,
            sizes,
            unstored_max: BLOCK * dice.between(16, 64),
            undurable_max: BLOCK * dice.between(4, 16),
            segment_size_max: BLOCK * dice.between(2, 24) + dice.below(BLOCK),
            payload_max: *dice.pick(&[200, 1000, 5000]),
            sync_fs: *dice.pick(&[SyncFs::Device, SyncFs::Metadata, SyncFs::Nothing]),
            retention_bytes: dice.one_in(2).then(|| BLOCK * dice.between(8, 200)),
            state_size_max: *dice.pick(&[0, 500, 3000, 16 << 10]),
            keys_max: dice.between(2, 20),
            shards_max: dice.between(1, 3) as u16,
            has_transactions: dice.one_in(2) || mistake == Some(Mistake::AbortedForgotten),
            mistake,
        }
    }

    pub fn log_config(&self, kind: &TopicKind) -> LogConfig {
        LogConfig {
            segment_size_max: self.segment_size_max,
            segment_ms: i64::MAX,
            segment_jitter_ms: 0,
            batch_size_max: 1 << 20,
            index_interval_bytes: 1024,
            index_size_max: 10 << 20,
            append_time: false,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            retention_ms: None,
            retention_bytes: self.retention_bytes,
            file_delete_delay: Duration::ZERO,
            cleanup: kind.cleanup(),
            durability: kind.durability,
            compression: None,
        }
    }

    pub fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
