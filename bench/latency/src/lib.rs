//! Measures brokers side by side: constant-rate load, latency from the intended send time, several
//! targets interleaved in rounds within one run.
//!
//! | module | what it is |
//! |---|---|
//! | [`flags`] | the command line |
//! | [`workload`] | the named workloads |
//! | [`session`] | a whole run: topics, calibration, rounds in turn |
//! | [`round`] | one target under load for one round |
//! | [`bare`] | the floor: a flushed round trip with no broker in it |
//! | [`send_log`] | matches what is read with when it was due, for end-to-end latency |
//! | [`outcome`] | what was measured, as data: the JSON file |
//! | [`report`], [`compare`] | how it is shown |
//!
//! The load comes from the library of `odradek-loadgen`.

pub mod bare;
pub mod compare;
pub mod flags;
pub mod outcome;
pub mod report;
pub mod round;
pub mod send_log;
pub mod session;
pub mod workload;
