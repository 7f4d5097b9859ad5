//! Reading a stopped broker's log to tell people what it says and whether it holds. Recovery stops at
//! the first damage, because what follows is to be cut; these go on, because what follows is to be
//! shown.
//!
//! | module | does |
//! |---|---|
//! | [`walk`] | finds the batches of a segment in bytes that come in pieces, in bounded memory |
//! | [`journal_walk`] | finds the blocks of a commit journal's file, and what is left of its earlier uses |
//! | [`segment_check`] | judges a segment: its batches' places, its indexes, its end |
//! | [`companion_check`] | holds a segment against its checksums |
//! | [`transactions_check`] | holds a segment's transaction index against its checksums |
//! | [`findings`] | what does not hold, and where |
//! | [`partition_check`] | judges how the segments of a partition fit together and what the checkpoint says of them |
//!
//! Nothing here repairs anything. Absent: which bytes a commit journal will add to a segment; that it has
//! some of a partition is told from outside.

pub mod companion_check;
pub mod findings;
pub mod journal_walk;
pub mod partition_check;
pub mod segment_check;
pub mod transactions_check;
pub mod walk;
