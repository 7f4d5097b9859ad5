//! A producer's transactions (KIP-98), of version 2 where the cluster has finalised it (KIP-890): partitions
//! then join by being written to, and each transaction has an epoch of its own.
//!
//! ```text
//! open ──begin (version 1: its partitions are added)──► writing ──`records` are stored──► end ──► open, next epoch
//! ```

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest, TopicName, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;
use odradek::types::{ProducerEpoch, ProducerId};

use crate::cluster::{Bootstrap, ClusterError};
use crate::coordinator::{Coordinator, KeyType};
use crate::versions::Api;

/// How long the coordinator lets a transaction be open (Kafka `transaction.timeout.ms`).
const TIMEOUT_MS: i32 = 60_000;
/// Newest EndTxn whose transaction keeps its epoch.
const END_KEEPS_EPOCH: i16 = 4;
const NEWEST: i16 = i16::MAX;
const ADD_PARTITIONS: (Api, &str) = (Api::AddPartitionsToTxn, "AddPartitionsToTxn");
/// From the next one on brokers ask each other.
const ADD_PARTITIONS_OF_CLIENTS: i16 = 3;

/// Lives: with the worker whose batches it covers, for the whole run.
pub struct Transactions {
    coordinator: Coordinator,
    id: String,
    /// Version 2.
    implicit: bool,
    producer: (ProducerId, ProducerEpoch),
    records_max: u64,
    /// Written in the transaction that is open.
    records: u64,
    is_open: bool,
}

impl Transactions {
    /// Fences whoever had this id before, whose transaction is then aborted.
    pub async fn start(
        bootstrap: &Bootstrap,
        id: &str,
        records_max: u64,
    ) -> Result<Transactions, ClusterError> {
        let mut coordinator = Coordinator::new(bootstrap, KeyType::Transaction, id);
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id(id)))
            .with_transaction_timeout_ms(TIMEOUT_MS)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let given = coordinator
            .ask((Api::InitProducerId, "InitProducerId"), NEWEST, &request, |answer| answer.error_code)
            .await?;
        let implicit = coordinator.connection().await?.has_implicit_transactions();
        let producer = (ProducerId(given.producer_id.0), ProducerEpoch(given.producer_epoch));
        let id = id.to_owned();
        Ok(Transactions { coordinator, id, implicit, producer, records_max, records: 0, is_open: false })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether partitions join by being written to.
    pub fn is_implicit(&self) -> bool {
        self.implicit
    }

    pub fn producer(&self) -> (ProducerId, ProducerEpoch) {
        self.producer
    }

    /// How many records still belong into the open one.
    pub fn room(&self) -> u64 {
        self.records_max - self.records
    }

    /// In the open one.
    pub fn written(&self) -> u64 {
        self.records
    }

    pub fn wrote(&mut self, records: u64) {
        self.records += records;
    }

    /// Unless one is open: opens one, which may write to these partitions.
    pub async fn begin(&mut self, topic: &str, partitions: &[i32]) -> Result<(), ClusterError> {
        if self.is_open {
            return Ok(());
        }
        if !self.implicit {
            let topic = AddPartitionsToTxnTopic::default()
                .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
                .with_partitions(partitions.to_vec());
            let request = AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(transactional_id(&self.id))
                .with_v3_and_below_producer_id(self.producer.0.0.into())
                .with_v3_and_below_producer_epoch(self.producer.1.0)
                .with_v3_and_below_topics(vec![topic]);
            self.coordinator
                .ask(ADD_PARTITIONS, ADD_PARTITIONS_OF_CLIENTS, &request, |answer| {
                    let topics = answer.results_by_topic_v3_and_below.iter();
                    let mut codes = topics.flat_map(|topic| &topic.results_by_partition);
                    codes.find_map(|p| Some(p.partition_error_code).filter(|code| *code != 0)).unwrap_or(0)
                })
                .await?;
        }
        self.is_open = true;
        Ok(())
    }

    /// Ends the open one. Returns how many records it had.
    pub async fn end(&mut self, commit: bool) -> Result<u64, ClusterError> {
        let records = std::mem::take(&mut self.records);
        // Nothing was written, and so the coordinator knows of none.
        let is_known = records > 0 || !self.implicit;
        if std::mem::take(&mut self.is_open) && is_known {
            let request = EndTxnRequest::default()
                .with_transactional_id(transactional_id(&self.id))
                .with_producer_id(self.producer.0.0.into())
                .with_producer_epoch(self.producer.1.0)
                .with_committed(commit);
            let newest = if self.implicit { NEWEST } else { END_KEEPS_EPOCH };
            let ended = self
                .coordinator
                .ask((Api::EndTxn, "EndTxn"), newest, &request, |answer| answer.error_code)
                .await?;
            if self.implicit {
                self.producer = (ProducerId(ended.producer_id.0), ProducerEpoch(ended.producer_epoch));
            }
        }
        Ok(records)
    }
}

fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}
