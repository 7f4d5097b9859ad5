//! Bytes to values and back. No state, no I/O, no panic on any input.

pub mod api;
pub mod compression;
pub mod consumer_protocol;
pub mod consumer_record;
pub mod control;
pub mod control_record;
pub mod error_code;
pub mod frame;
pub mod group_record;
pub mod peer_frame;
pub mod peer_message;
pub mod record_batch;
pub mod records;
pub mod replication;
pub mod transaction_record;
pub mod transactions;
pub mod wire;
