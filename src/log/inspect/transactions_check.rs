//! Holds a segment's transaction index against its checksums, which say whether there is to be one. What it
//! lists is not compared with the batches: its own checksum says that it is what was written.

use crate::log::checksums::{HasTransactions, SegmentChecksums, SegmentId};
use crate::log::inspect::findings::{Findings, Offence, Place};
use crate::log::inspect::segment_check::SegmentRole;
use crate::log::segment::SegmentFile;
use crate::log::transactions::index::TransactionIndex;

/// `size`: bytes of batches. `companion`, `index`: the files as they are; `None` when they are not there.
pub fn check_transactions(
    segment: SegmentId,
    role: SegmentRole,
    size: u64,
    companion: Option<&[u8]>,
    index: Option<&[u8]>,
    findings: &mut Findings,
) {
    // An active one has its index in memory, or in the final state.
    if role != SegmentRole::Closed {
        return;
    }
    // What is wrong with the checksums is said elsewhere.
    let Some(Ok(checksums)) = companion.map(|bytes| SegmentChecksums::decode(segment, size, bytes)) else {
        return;
    };
    let file = SegmentFile::TransactionIndex;
    let place = Place::File { base_offset: segment.base_offset, file, file_position: 0 };
    match index {
        _ if checksums.has_transactions() == HasTransactions::No => {}
        None => findings.note(place, Offence::TransactionsMissing),
        Some(bytes) => {
            if let Err(error) = TransactionIndex::decode(&segment, size, bytes) {
                findings.problem(place, Offence::Transactions(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::record_batch::{BatchHeader, BatchView, Compression, write_batch};
    use crate::log::samples::sample_segment;
    use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

    #[test]
    fn an_index_is_missed_where_there_are_transactions_and_believed_by_its_checksum() {
        let segment = sample_segment(Offset::ZERO);
        for transactional in [false, true] {
            let header = BatchHeader {
                compression: Compression::None,
                transactional,
                record_count: 1,
                base_timestamp: Timestamp(1),
                max_timestamp: Timestamp(1),
                producer: Some((ProducerId(5), ProducerEpoch(0), Sequence(0))),
            };
            let mut batch = Vec::new();
            write_batch(&header, b"payload", &mut batch);
            let (view, _) = BatchView::split_first(&batch).unwrap();
            let mut checksums = SegmentChecksums::new(segment);
            checksums.observe(view.header(), batch.len() as u32);
            let (size, companion) = (batch.len() as u64, checksums.encode());
            let judge = |role, index: Option<&[u8]>| {
                let mut findings = Findings::default();
                check_transactions(segment, role, size, Some(&companion), index, &mut findings);
                (findings.note_count, findings.problem_count)
            };
            let index = TransactionIndex { aborted: Vec::new(), first_open: Some(Offset::ZERO) };
            let mut bytes = index.encode(&segment, size);
            let counted = u64::from(transactional);
            assert_eq!(judge(SegmentRole::Closed, None), (counted, 0));
            assert_eq!(judge(SegmentRole::Closed, Some(&bytes)), (0, 0));
            bytes[7] ^= 1;
            assert_eq!(judge(SegmentRole::Closed, Some(&bytes)), (0, counted));
            assert_eq!(judge(SegmentRole::ActiveClean, None), (0, 0));
        }
    }
}
