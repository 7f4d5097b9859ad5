//! A partition's log and the shard's group commit as data: layouts, plans, decisions.
//!
//! Opens no file, reads no clock, awaits nothing. The shell (`shard`) carries out what is decided
//! here, and the simulation runs the same decisions.

pub mod commit;
pub mod plan;
