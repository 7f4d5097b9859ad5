//! Odradek: a streaming log broker for bare-metal Linux that every Kafka client uses unchanged.
//!
//! | layer (low to high) | what it is |
//! |---|---|
//! | [`types`], [`config`], [`metrics`], `schema` | quantities, properties, counters, generated records |
//! | [`codec`] | bytes to values and back; no state, no I/O |
//! | [`log`] | a partition's log as data: layouts, plans, which flush covers which write |
//! | [`cluster`] | the metadata image: topics, partitions, owners, configurations |
//! | `shard` | the I/O shell: the only module that names glommio |
//! | [`preflight`] | is this host fit: io_uring, data directory, limits, ports |
//! | [`admin`], `cli` | metrics and health; the commands |
//!
//! Public for the tools of this workspace (load generator, latency harness, fuzz targets): the
//! lower layers. The broker itself is the binary `odradek`.

pub mod admin;
pub mod cluster;
pub mod codec;
pub mod config;
pub mod log;
pub mod metrics;
pub mod preflight;
pub mod schema;
pub mod shard;
pub mod types;
