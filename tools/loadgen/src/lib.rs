//! A Kafka client for measuring: produces, consumes and verifies against any Kafka-compatible broker
//! at little cost of its own.
//!
//! | module | what it is |
//! |---|---|
//! | [`wire`], [`versions`], [`connection`], [`cluster`], [`coordinator`] | the client: frames, negotiation, pipelining, metadata, coordinators |
//! | [`content`], [`batch`] | what is sent, built once |
//! | [`produce`], [`consume`], [`verify`], [`groups`] | the commands, as libraries |
//! | [`stats`], [`tally`], [`summary`] | counts, those of a thread's tasks, and how they are shown |
//! | [`executor`], [`clock`] | threads, and the only reader of clocks |
//!
//! The broker's library is used for record batches only; the protocol code here is separate, so that
//! a mistake in one is not hidden by the same mistake in the other.

pub mod batch;
pub mod clock;
pub mod cluster;
pub mod connection;
pub mod consume;
pub mod content;
pub mod coordinator;
pub mod executor;
pub mod flags;
pub mod groups;
pub mod produce;
pub mod stats;
pub mod summary;
pub mod tally;
pub mod verify;
pub mod versions;
pub mod wire;
