//! Compaction: of every key the last record stays (`cleanup.policy=compact`).
//!
//! ```text
//! offset   0     1     2     3     4     5     6   │ 7     8
//! before   a=1   b=1   a=2   c=1   b=∅   a=3   c=2 │ a=4   d=1     active: never compacted
//! after                            b=∅   a=3   c=2 │ a=4   d=1     b=∅ goes after delete.retention.ms
//! ```
//!
//! A pass over one log, one batch per step, so that nothing holds a core for long:
//!
//! | module | decides |
//! |---|---|
//! | [`plan`] | which part of a log is compacted, when, and which segments become one |
//! | [`keys`], [`offset_map`] | first walk over the dirty part: the newest offset of every key, in bounded memory |
//! | [`filter`], [`transactions`] | second walk, from the log's start: what of every batch stays |
//! | [`output`] | the new segment's index and what is known of it |
//! | [`swap`], [`swapped`] | how the new segment takes the old ones' place, and what a crash between means |
//! | [`checkpoint`] | what is written down: up to where a log is compacted |
//! | [`pace`] | how long to wait, so that the disk budget is kept |
//! | [`payload`] | the records inside a batch; which ones a compacted topic takes |
//!
//! When the keys of the dirty part do not fit into the map, the pass compacts up to where they did,
//! and another one goes on there. Whatever is damaged stops the pass: nothing is written over what
//! cannot be read. The rules are those of Kafka's `LogCleaner`; where they differ it is said.

pub mod checkpoint;
pub mod filter;
pub mod keys;
pub mod offset_map;
pub mod output;
pub mod pace;
pub mod payload;
pub mod plan;
pub mod swap;
pub mod swapped;
pub mod transactions;

#[cfg(test)]
mod tests;
