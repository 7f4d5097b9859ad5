//! Bytes to values and back. No state, no I/O, no panic on any input.

pub mod compression;
pub mod record_batch;
pub mod records;
