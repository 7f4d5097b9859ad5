//! A partition's log as data: which bytes mean what, what follows from them, what to do next.
//!
//! Bytes and facts in, decisions out: nothing here waits, opens a file or reads a clock. The shell
//! in `shard` carries the decisions out and reports back.
//!
//! ```text
//! <data-dir>/<topic>-<partition>/
//!   00000000000000000000.log        record batches v2, end to end       segment, recovery
//!   00000000000000000000.index      offset -> file position, sparse     index
//!   00000000000000000000.timeindex  timestamp -> offset, sparse         index
//!   00000000000000000000.checksums  what the batches are held against  checksums
//!   00000000000000000000.txnindex   aborted transactions that ended in it  transactions
//!   00000000000000004711.snapshot   producers just before offset 4711   producers
//!   leader-epoch-checkpoint         epoch -> first offset               epochs
//!
//! offsets:  log_start ≤ stored_end ≤ high_watermark ≤ log_end
//!           log_start ≤ last_stable_offset ≤ high_watermark
//! ```
//!
//! | module | decides |
//! |---|---|
//! | [`partition`] | which offset a batch gets, which segment takes it, how far readers may read |
//! | [`plan`] | which bytes go where |
//! | [`commit`] | which flush covers which write, and when an answer may leave |
//! | [`durability`] | what an acknowledgement waits for: a flush, or a write |
//! | [`recompression`] | batches that a topic keeps in another codec than their producer's |
//! | [`read`] | where in bytes that were read a batch is |
//! | [`read_turns`] | whose turn it is to read from disk |
//! | [`segment`] | names of files and directories, when to roll, how much to preallocate |
//! | [`checksums`] | whether what was read from disk is what was written there |
//! | [`index`] | where in a segment an offset or a timestamp is to be looked for |
//! | [`producers`] | whether an idempotent producer's batch is next, known or out of order (KIP-98) |
//! | [`transactions`] | how far readers of committed records may read, and what they leave out |
//! | [`epochs`] | where each leader epoch begins and ends (KIP-101, 279, 320) |
//! | [`recovery`] | how much of a segment is whole after an unclean stop |
//! | [`log_start`] | where a log begins, as a start finds it |
//! | [`retention`] | which segments may go |
//! | [`ownership`] | whose a partition's directory is |
//! | [`named_partitions`] | files that name partitions: of which a journal has lost something, whose replicas may lack their end |
//! | [`removal`] | when the files of what went are removed |
//! | [`compaction`] | which records of a compacted log stay, and how new segments replace old ones |
//! | [`checkpoint`] | what a shard writes down so that a clean start need not scan |
//! | [`data_dir`] | names of the other files, and whose a partition's directory is |
//! | [`inspect`] | what a stopped broker's files say, and whether they hold |

pub mod checkpoint;
pub mod checksums;
pub mod commit;
pub mod compaction;
pub mod data_dir;
pub mod durability;
pub mod epochs;
pub mod final_state;
pub mod index;
pub mod inspect;
pub mod journal;
pub mod log_start;
pub mod named_partitions;
pub mod ownership;
pub mod partition;
pub mod plan;
pub mod producers;
pub mod read;
pub mod read_turns;
pub mod recompression;
pub mod recovery;
pub mod removal;
pub mod retention;
#[cfg(test)]
pub mod samples;
pub mod segment;
pub mod transactions;
