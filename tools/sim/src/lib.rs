//! The broker's decisions with all around them simulated, one seed after the other: the storage engine on a disk
//! that loses, tears and damages; coordinators of groups and of transactions between logs that fail and clients
//! that do.
//!
//! | module | what it is |
//! |---|---|
//! | [`world`] | one thread, virtual time, dice, the trace |
//! | [`disk`], [`faults`] | files that forget what was not flushed; what goes wrong |
//! | [`shell`] | carries out what `odradek::log` decides, as `odradek::shard` does |
//! | [`metadata`], [`node`] | which partitions there are, on which of the shards of a run |
//! | [`model`], [`ledger`], [`remains`] | what is expected of partitions and of journals, and the checks |
//! | [`workload`], [`damage`], [`run`] | who uses the broker, what happens between its runs, one seed |
//! | [`settings`] | what differs between seeds, and the mistakes for the tests that must find them |
//! | [`seeds`], [`report`] | what all simulations are to whoever runs them; how often what happened |
//! | [`storage`] | the above as one of them |
//! | [`groups`] | another one: coordinators of consumer groups |
//! | [`transactions`] | another one: coordinators of transactions, and the partitions that these end in |
//! | [`consumers`] | the same of groups that use the newer protocol, or both |
//! | [`replication`] | leaders, followers and the controller's side of partitions, over a network and with clients of its own |
//! | [`crowd`] | the clients of a seed, of whatever kind |
//! | [`keyed_log`], [`writes`] | a compacted partition, as coordinators keep their state in; what becomes of their writes |
//! | [`quorum`] | another one: the metadata quorum |
//! | [`cluster`] | the two of them in one: the quorum decides about the nodes and partitions; the storage engine, and coordinators that fail over, in some |
//!
//! Absent: several log directories.

pub mod cluster;
pub mod consumers;
pub mod crowd;
pub mod damage;
pub mod disk;
pub mod faults;
pub mod groups;
pub mod keyed_log;
pub mod ledger;
pub mod metadata;
pub mod model;
pub mod node;
pub mod quorum;
pub mod random;
pub mod remains;
pub mod replication;
pub mod report;
pub mod run;
pub mod seeds;
pub mod settings;
pub mod shell;
pub mod storage;
pub mod transactions;
pub mod workload;
pub mod world;
pub mod writes;
