//! Properties of the broker and of topics: Kafka's names, our types.

pub mod topic;
