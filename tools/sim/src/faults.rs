//! What goes wrong, and when: drawn once per run of the broker, so that most runs meet one or two
//! faults and some meet none.

use crate::random::Random;
use crate::world::Micros;

/// The operations of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    Read,
    Write,
    Flush,
    SyncFs,
    Allocate,
    Truncate,
    Open,
    Rename,
    Remove,
    List,
    SyncDirectory,
}

impl OpKind {
    pub const ALL: [OpKind; 11] = [
        OpKind::Read,
        OpKind::Write,
        OpKind::Flush,
        OpKind::SyncFs,
        OpKind::Allocate,
        OpKind::Truncate,
        OpKind::Open,
        OpKind::Rename,
        OpKind::Remove,
        OpKind::List,
        OpKind::SyncDirectory,
    ];

    /// Under which an error of it is counted.
    pub const fn error_name(self) -> &'static str {
        match self {
            OpKind::Read => "fault: EIO on read",
            OpKind::Write => "fault: EIO on write",
            OpKind::Flush => "fault: EIO on flush",
            OpKind::SyncFs => "fault: EIO on syncfs",
            OpKind::Allocate => "fault: EIO on allocate",
            OpKind::Truncate => "fault: EIO on truncate",
            OpKind::Open => "fault: EIO on open",
            OpKind::Rename => "fault: EIO on rename",
            OpKind::Remove => "fault: EIO on remove",
            OpKind::List => "fault: EIO on list",
            OpKind::SyncDirectory => "fault: EIO on directory flush",
        }
    }
}

/// The faults of one run of the broker.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    /// So many operations of this kind succeed, then one fails.
    pub error: Option<(OpKind, u64)>,
    /// So many writes go where they should, then one does not.
    pub misdirected_write: Option<u64>,
    /// One operation in so many takes 10 ms to 5 s.
    pub stall_one_in: Option<u64>,
    /// From when to when the disk is full.
    pub full: Option<(Micros, Micros)>,
}

impl FaultPlan {
    pub fn draw(dice: &mut Random, now: Micros) -> FaultPlan {
        let error = dice.one_in(4).then(|| FaultPlan::an_error(dice));
        let full = dice.one_in(4).then(|| {
            let from = now + dice.below(300_000);
            (from, from + dice.between(1_000, 3_000_000))
        });
        FaultPlan {
            error,
            misdirected_write: dice.one_in(30).then(|| dice.below(120)),
            stall_one_in: dice.one_in(3).then(|| dice.between(30, 400)),
            full,
        }
    }

    /// One that comes sooner or later.
    pub fn an_error(dice: &mut Random) -> (OpKind, u64) {
        let kind = *dice.pick(&OpKind::ALL);
        let after = match kind {
            OpKind::Write | OpKind::Read => dice.below(150),
            OpKind::Flush | OpKind::Open => dice.below(40),
            _ => dice.below(12),
        };
        (kind, after)
    }

    /// Whether this operation fails.
    pub fn fails(&mut self, kind: OpKind) -> bool {
        match &mut self.error {
            Some((planned, after)) if *planned == kind => match after.checked_sub(1) {
                Some(left) => {
                    *after = left;
                    false
                }
                None => {
                    self.error = None;
                    true
                }
            },
            _ => false,
        }
    }

    /// Whether this write goes astray.
    pub fn misdirects(&mut self) -> bool {
        match &mut self.misdirected_write {
            Some(0) => {
                self.misdirected_write = None;
                true
            }
            Some(after) => {
                *after -= 1;
                false
            }
            None => false,
        }
    }
}
