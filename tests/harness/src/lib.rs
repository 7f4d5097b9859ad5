//! What the process tests share: the broker as a process, plain protocol, batches byte by byte.
//!
//! Everything here panics with what a reader of the test's output needs; nothing is retried beyond
//! what a client would retry. Waiting has a bound everywhere.
#![expect(
    clippy::disallowed_methods,
    reason = "tests wait for a process, read its files and keep no order that a run depends on"
)]

mod batch;
mod broker;
mod client;
mod connection;
mod image;
mod ports;
mod small_disk;
mod wait;

pub use batch::{Batch, BatchProducer, legacy_message_set};
pub use broker::{Broker, Options, Routing, binary};
pub use client::{Client, ReadRecord, create_topics, delete_topic, records_of, topic_name};
pub use connection::{Connection, frame};
pub use image::{FileSystem, Image, SECTOR_SIZE};
pub use kafka_protocol;
pub use small_disk::SmallDisk;
pub use wait::{PATIENCE, wait_for};
