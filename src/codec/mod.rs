//! Bytes to values and back. No state, no I/O, no panic on any input.

pub mod record_batch;
