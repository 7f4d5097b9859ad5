//! How far one partition has come on its way to its segment.
//!
//! ```text
//! appended ─► sealed ─────────► flushed ─► durable        through the journal or the segment
//!        └──► segment_sealed ─► written ─► flushing ─► stored
//! ```

use crate::log::commit::flush_records::Named;
use crate::log::durability::Durability;
use crate::types::Offset;

/// How far one partition has come. Offsets exclusive, `bytes` cumulative since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub end: Offset,
    pub bytes: u64,
}

/// In this order in memory, whole cache lines: what an append and its tick look at is in the first two and a half.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Progress {
    pub appended: Mark,
    /// Handed to a tick or a segment write.
    pub sealed: Mark,
    pub durable: Mark,
    /// Under a completed flush, of the journal or the segment.
    pub flushed: Mark,

    /// Handed to a segment write.
    pub segment_sealed: Mark,
    /// Flushed in the segment.
    pub stored: Mark,
    /// Bytes up to which a segment write holds what no tick does.
    pub direct: u64,
    /// How much of it stands in `GroupCommit::waiting_bytes`.
    pub counted: u64,
    /// Bytes up to which somebody waits until they are stored.
    pub store_wanted: u64,
    /// Ticks in flight that hold some of it.
    pub ticks: u32,
    pub open: bool,
    pub writing: bool,
    /// The write in flight is one of `GroupCommit::write_outs`.
    pub writing_out: bool,
    /// Written, unflushed, and somebody waits for the flush.
    pub urgent: bool,

    pub durability: Durability,
    pub queued: Queued,
    /// In blocks of the journal, as bytes or by a record.
    pub named: Named,
    /// In the segment: written, under a flush.
    pub written: Mark,
    pub flushing: Mark,
    /// Segments written since the last flush that covered them.
    pub dirty_segments: Vec<Offset>,
}

/// In which queues of `GroupCommit` the partition stands. What became of it meanwhile is seen when it
/// is taken out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queued {
    pub waiting: bool,
    pub gathering: bool,
    pub large: bool,
    pub write_out: bool,
    pub unwritten: bool,
    pub unflushed: bool,
    pub record: bool,
}

impl Progress {
    pub fn pending(&self) -> u64 {
        self.appended.bytes - self.sealed.bytes
    }

    pub fn is_idle(&self) -> bool {
        self.appended.bytes == self.stored.bytes && !self.writing && self.ticks == 0
    }

    /// A segment write has something to do.
    pub fn is_unwritten(&self) -> bool {
        !self.writing && self.segment_sealed.bytes < self.appended.bytes
    }

    pub fn waits_for_writes(&self) -> bool {
        matches!(self.durability, Durability::Write(_))
    }

    /// What it appends goes to its segment however little it is, and waits for no flush.
    pub fn is_eager(&self, direct_size: u64) -> bool {
        let is_direct = self.is_direct(direct_size) || self.is_behind_a_write();
        self.waits_for_writes() && is_direct && self.pending() > 0
    }

    /// More of it is flushed than the journal says.
    pub fn lacks_record(&self) -> bool {
        self.open && self.named.bytes < self.stored.bytes
    }

    /// What it has pending had better go to its segment.
    pub fn is_direct(&self, direct_size: u64) -> bool {
        self.pending() > 0 && self.pending() >= direct_size
    }

    pub fn flush_is_urgent(&self) -> bool {
        let written = self.written.bytes;
        self.stored.bytes < self.store_wanted.min(written) || self.durable.bytes < self.direct.min(written)
    }

    /// The next bytes may not go to the journal: something before them is in no flush yet but that of
    /// the segment.
    pub fn is_behind_a_write(&self) -> bool {
        self.stored.bytes < self.direct
    }

    /// Everything up to `to` is flushed. Returns by how many bytes the durable prefix grew.
    pub fn advance_flushed(&mut self, to: Mark) -> u64 {
        if to.bytes > self.flushed.bytes {
            self.flushed = to;
        }
        self.advance(to)
    }

    /// Everything up to `to` is written, and `from` is where that begins. Likewise.
    pub fn advance_written(&mut self, from: u64, to: Mark) -> u64 {
        match self.durability {
            Durability::Write(bounds)
                if from <= self.durable.bytes && bounds.allow(self.flushed.end, to.end) =>
            {
                self.advance(to)
            }
            Durability::Write(_) | Durability::Fsync => 0,
        }
    }

    /// Everything up to `to` is durable. Likewise.
    pub fn advance(&mut self, to: Mark) -> u64 {
        let grown = to.bytes.saturating_sub(self.durable.bytes);
        if grown > 0 {
            self.durable = to;
        }
        grown
    }
}
