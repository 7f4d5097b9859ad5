//! Where a log begins, as a start finds it.
//!
//! ```text
//! noted by checkpoint or journal      5
//! segments that are there                  9 ........ │ 40 active
//! begins at                                9          the later of the two
//! ```
//!
//! A log start is noted before the segments below it go, except where the disk is too full for that. Then
//! only the names that are left say it, and names that were seen may be those of before once the power
//! has gone: readers see such a log start only behind a flush of the directory.

use crate::types::Offset;

/// What a start serves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundLogStart {
    pub offset: Offset,
    /// Nothing but the names of the segments says it: the directory is flushed before anybody reads.
    pub is_by_names: bool,
}

/// `noted`: by the checkpoint and the journals. `oldest`: the base offset of the first segment that is
/// there.
pub fn find_log_start(noted: Option<Offset>, oldest: Offset, log_end: Offset) -> FoundLogStart {
    let noted = noted.unwrap_or(Offset::ZERO);
    let offset = noted.max(oldest).min(log_end);
    FoundLogStart { offset, is_by_names: offset > noted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_start_that_only_names_tell_is_known_to_be_that() {
        let found = |noted: Option<u64>, oldest, end| {
            let found = find_log_start(noted.map(offset), offset(oldest), offset(end));
            (found.offset.get(), found.is_by_names)
        };
        assert_eq!(found(None, 0, 40), (0, false));
        assert_eq!(found(None, 9, 40), (9, true));
        assert_eq!(found(Some(5), 9, 40), (9, true));
        assert_eq!(found(Some(9), 9, 40), (9, false));
        assert_eq!(found(Some(12), 9, 40), (12, false), "inside a segment");
        assert_eq!(found(Some(50), 9, 40), (40, false), "what was noted is not there");
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
