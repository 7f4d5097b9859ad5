//! Odradek: a streaming log broker for Linux that every Kafka client uses unchanged.
//!
//! | layer (low to high) | what it is | knows nothing of |
//! |---|---|---|
//! | [`types`], [`config`], [`metrics`], [`schema`] | quantities and bounds, settings, counters, generated records | anything below |
//! | [`codec`] | bytes to values and back | files, sockets, partitions' states |
//! | [`log`] | a partition's log as data: layouts, plans, which flush covers which write | async, file handles |
//! | [`replication`] | leader, follower, in-sync replicas: who has what, what may be read and acknowledged | clocks, sockets, disks |
//! | [`cluster`] | the metadata: topics, partitions, owners, configurations | clocks, sockets, disks |
//! | [`group`] | consumer groups: members, generations, committed offsets | clocks, sockets, disks |
//! | [`quota`] | what clients have used of their quotas | clocks, sockets, disks |
//! | [`telemetry`] | what clients measure of themselves | clocks, sockets, disks |
//! | [`preflight`] | is this host fit: io_uring, data directory, limits, ports | shards |
//! | [`shard`] | the I/O shell: connections, disk, one executor per core; the only module that names glommio | decisions |
//! | [`admin`] | metrics and health, on one ordinary thread | glommio, files |
//! | `cli` (of the binary) | the commands | what is inside the above |
//!
//! A layer names only those above it here; `tests/layering.rs` checks that. The way of a record and
//! the map of the tree are in the README.
//!
//! Public for the packages of this workspace: `types` and `codec` serve the load generator, the latency
//! harness, the micro-benchmarks and the fuzz targets, `shard::nudge` their executors; the rest serves the binary
//! `odradek`. None of it
//! is a stable interface.

pub mod admin;
pub mod cluster;
pub mod codec;
pub mod config;
pub mod group;
pub mod log;
pub mod metrics;
pub mod preflight;
pub mod quota;
pub mod replication;
pub mod schema;
pub mod shard;
pub mod telemetry;
pub mod txn;
pub mod types;
