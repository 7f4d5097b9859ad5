//! Walking a segment in windows of bounded size, when a batch does not end inside one.
//!
//! ```text
//! segment   |--batch--|-batch-|------ batch ------|-batch-| ..
//! window         [^start                ^end ]
//!                          cut: the window is made as large as this batch, if its
//!                          header can be believed: another batch begins where it ends ^
//! ```
//!
//! Memory follows the size that a header claims only after that look at 61 more bytes, so a flipped bit
//! costs one block of reading, not a segment. A window that is larger than asked for gets a turn of that
//! size, before which the smaller one is given back.

use crate::codec::record_batch::BATCH_HEADER_SIZE;
use crate::log::read::{BatchPlace, Rope};
use crate::shard::catch_up::Hold;
use crate::shard::reader::ReadFailed;
use crate::shard::replica::Replica;
use crate::shard::response::Slice;
use crate::types::Offset;
use std::rc::Rc;

/// What stands at a place of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// A whole batch.
    Whole,
    /// A batch that goes on behind the window.
    Cut(BatchPlace),
    /// Too few bytes to tell.
    Short,
    /// Something else.
    Damaged,
}

/// What begins at byte `at`, which may lie behind the window.
pub fn beginning(window: &Rope<'_>, at: usize) -> Beginning {
    if at + BATCH_HEADER_SIZE > window.size() {
        return Beginning::Short;
    }
    match window.batches(at).next() {
        None => Beginning::Damaged,
        Some(batch) if batch.at + batch.size > window.size() => Beginning::Cut(batch),
        Some(_) => Beginning::Whole,
    }
}

/// Whether `next`, the first bytes behind a batch that ends at offset `end`, are the next batch.
fn is_followed_by(next: &Rope<'_>, end: Offset) -> bool {
    next.batches(0).next().is_some_and(|next| next.base_offset >= end)
}

impl Replica {
    /// How large a window for the batch `cut` has to be, which begins at file position `position` of a
    /// segment that is readable up to `readable_end`. Fails when its header cannot be right.
    ///
    /// Nothing that was read under `hold` before is kept by now.
    pub async fn enlarge(
        self: &Rc<Self>,
        hold: &mut Hold,
        segment: Offset,
        position: u64,
        cut: BatchPlace,
        readable_end: u64,
    ) -> Result<u64, ReadFailed> {
        let damaged = || ReadFailed::Damaged { segment, offset: cut.base_offset };
        let end = position + cut.size as u64;
        if end > readable_end {
            return Err(damaged());
        }
        if end < readable_end {
            let next_end = readable_end.min(end + BATCH_HEADER_SIZE as u64);
            let next = self.slices(hold, segment, end, next_end).await?;
            let pieces: Vec<&[u8]> = next.iter().map(Slice::bytes).collect();
            if !is_followed_by(&Rope::new(&pieces), cut.end_offset) {
                return Err(damaged());
            }
        }
        Ok(cut.size as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record_batch::{BatchHeader, Compression, assign_offset, write_batch};
    use crate::types::{LeaderEpoch, Timestamp};

    #[test]
    fn a_cut_batch_is_told_from_too_few_bytes_and_from_damage() {
        let bytes = [batch(0, 100), batch(1, 100)].concat();
        let second = bytes.len() / 2;
        let at = |end: usize, at: usize| beginning(&Rope::new(&[&bytes[..end]]), at);
        assert_eq!(at(bytes.len(), 0), Beginning::Whole);
        assert_eq!(at(bytes.len(), second), Beginning::Whole);
        assert!(matches!(at(bytes.len() - 1, second), Beginning::Cut(cut) if cut.size == second));
        assert!(matches!(at(second + BATCH_HEADER_SIZE, second), Beginning::Cut(_)));
        assert_eq!(at(second + BATCH_HEADER_SIZE - 1, second), Beginning::Short);
        assert_eq!(at(bytes.len(), bytes.len()), Beginning::Short);
        assert_eq!(at(bytes.len(), bytes.len() * 2), Beginning::Short);
        assert_eq!(at(bytes.len(), 1), Beginning::Damaged);
        assert_eq!(beginning(&Rope::new(&[&[0; 4096]]), 0), Beginning::Damaged);
    }

    #[test]
    fn a_length_is_believed_where_the_next_batch_begins() {
        let (first, second) = (batch(4, 10), batch(5, 10));
        let end = Offset::new(5).unwrap();
        assert!(is_followed_by(&Rope::new(&[&second]), end));
        assert!(!is_followed_by(&Rope::new(&[&first]), end), "that one came before");
        assert!(!is_followed_by(&Rope::new(&[&second[1..]]), end));
        assert!(!is_followed_by(&Rope::new(&[&second[..20]]), end));
    }

    fn batch(offset: u64, payload: usize) -> Vec<u8> {
        let header = BatchHeader {
            compression: Compression::None,
            transactional: false,
            record_count: 1,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
            producer: None,
        };
        let mut out = Vec::new();
        write_batch(&header, &vec![7; payload], &mut out);
        assign_offset(&mut out, Offset::new(offset).unwrap(), LeaderEpoch(0));
        out
    }
}
