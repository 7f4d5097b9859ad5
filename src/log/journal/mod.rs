//! The commit journal of one shard: everything that all its partitions appended, in one place on disk
//! that one flush covers.
//!
//! ```text
//! appends of all partitions ─► tail buffers ──┬─► one block (or a few) in the journal ─► one fdatasync ─► acknowledged
//!                                             └─► later, in large writes: segments ─► one flush for many ─► journal file free
//!
//! file 0  │ 41 │ 42 │ 43 │ 44 │ ....      sequence numbers run on from file to file
//! file 1  │ 45 │ 46 │ 21 │ 22 │ ....      45, 46: this use of the file; 21, 22: left from its last one
//! file 2  free: everything in it is flushed in its segments
//! ```
//!
//! Files have a fixed size and are filled with zeros once: a flush of overwritten blocks needs no
//! commit of the file system's own journal. A file is used again once everything in it is flushed in
//! its segments and a flushed block says so.
//!
//! | module | decides |
//! |---|---|
//! | [`block`] | which bytes mean what |
//! | [`pack`] | which ranges go into which block |
//! | [`ring`] | which file and position a block gets, what a flush covers, when a file is free |
//! | [`replay`] | what of the files a start after a crash believes |
//! | [`redo`] | what it does with that |
//! | [`settle`] | which recovery points follow from it |
//! | [`flushed_ends`] | how far the logs were flushed in their segments, says what is left of it |
//! | [`supersede`] | which entries it leaves out, since the log was cut, replaced or deleted behind them |
//!
//! Absent: batches and offsets inside the bytes; a replayed range is checked by the segment's scan.

pub mod block;
pub mod flushed_ends;
pub mod pack;
pub mod redo;
pub mod replay;
pub mod ring;
pub mod settle;
pub mod supersede;
