//! Every client that the tests drive, behind one trait.
//!
//! | client | how it is driven |
//! |---|---|
//! | kcat | a process per call (`kcat.rs`) |
//! | kafka-python 2 and 3, confluent-kafka, aiokafka | `python/`, a request per line |
//! | kafkajs, @confluentinc/kafka-javascript | `node/`, `node-confluent/`, the same |
//! | the official Java client 3.9 and 4.3 | `java/`, the same |
//! | the `rdkafka` crate | in this process (`librdkafka.rs`); as one of a group or with transactions, in one of its own (`rdkafka_driver.rs`) |
//!
//! All comparing is done in `conformance.rs`, `groups.rs`, `consumers.rs`, `admin.rs`, `transactions.rs`,
//! `operators.rs`, `telemetry.rs`, `nearest.rs` and `exactly_once.rs`, so that the drivers hold nothing but calls.
#![expect(clippy::disallowed_methods, reason = "tests wait for clients and read the clock")]

mod admin;
mod client;
mod commands;
mod conformance;
mod consumers;
mod driver;
mod exactly_once;
mod groups;
mod kcat;
mod librdkafka;
mod nearest;
mod operators;
mod rdkafka_driver;
mod records;
mod refusals;
mod telemetry;
mod transactions;

pub use admin::administration;
pub use client::{Abilities, Client, Codec, Kind};
pub use conformance::{conformance, cross_reading};
pub use consumers::{
    consumers_follow_a_regular_expression, consumers_share_a_topic, group_changes_its_protocol,
    static_consumers_come_back,
};
pub use exactly_once::{Met, Play, Transactor, exactly_once};
pub use groups::{
    Assignor, kcat_goes_on, lag_and_reset, members_change_their_protocol,
    members_follow_a_regular_expression, members_share_a_topic, some_of_twenty_static_members_come_back,
    static_members_come_back, twenty_members_come_and_go, twenty_members_share_a_topic,
};
pub use nearest::consumers_read_in_their_rack;
pub use operators::transactions_are_operated;
pub use rdkafka_driver::serve_rdkafka;
pub use telemetry::clients_measure_themselves;
pub use transactions::{
    offsets_of_an_old_generation_are_refused, one_pipeline_counts_once, pipelines_count_once,
    transactions_end,
};
