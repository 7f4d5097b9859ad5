//! Bytes to values and back. No state, no I/O, no panic on any input.

pub mod api;
pub mod compression;
pub mod control_record;
pub mod error_code;
pub mod frame;
pub mod record_batch;
pub mod records;
pub mod wire;
