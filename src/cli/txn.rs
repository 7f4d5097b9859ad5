//! `odradek txn`: list, describe and abort transactions, over the Kafka protocol.
//!
//! A transaction is aborted by its id, which fences its producer, or in one partition that nobody ends it in
//! any more, as `kafka-transactions.sh abort` does (KIP-664).

mod hanging;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kafka_protocol::messages::describe_transactions_response::TransactionState;
use kafka_protocol::messages::{
    DescribeTransactionsRequest, InitProducerIdRequest, ListTransactionsRequest, ProducerId, TransactionalId,
};
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use super::brokers::{Cluster, KeyType, text};
use super::client::ClientFlags;
use super::table::Table;
use super::{Failure, print, print_json};
use hanging::{FindArguments, Hanging};

#[derive(Debug, Args)]
pub struct TxnArguments {
    #[command(flatten)]
    flags: ClientFlags,
    #[command(subcommand)]
    command: TxnCommand,
}

#[derive(Debug, Subcommand)]
enum TxnCommand {
    /// List the transactional ids of all brokers
    List(ListArguments),
    /// Show where transactional ids stand, and the partitions of their transactions
    Describe {
        /// Transactional ids to show
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
    /// Find transactions that are open in partitions and that nobody ends
    FindHanging(FindArguments),
    /// Abort an open transaction: by its id, or in a partition where nobody ends it
    Abort(AbortArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Only those in these states, such as Ongoing or PrepareCommit
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<String>,
    /// Only those of these producers
    #[arg(long = "producer-id", value_name = "ID")]
    producer_ids: Vec<i64>,
    /// Only those whose transaction began longer ago than this
    #[arg(long, value_name = "SECONDS")]
    open_for: Option<u32>,
}

#[derive(Debug, Args)]
struct AbortArguments {
    /// The transactional id; its producer is fenced
    #[arg(value_name = "ID", required_unless_present = "topic", conflicts_with = "topic")]
    id: Option<String>,
    /// Topic in which a transaction is open that no coordinator knows
    #[arg(long, value_name = "TOPIC", requires = "partition", requires = "start_offset")]
    topic: Option<String>,
    /// Partition of the topic
    #[arg(long, value_name = "PARTITION", requires = "topic")]
    partition: Option<i32>,
    /// Where the transaction begins in the partition
    #[arg(long, value_name = "OFFSET", requires = "topic")]
    start_offset: Option<i64>,
}

const CONCURRENT_TRANSACTIONS: i16 = 51;
/// The first version of InitProducerId in which a producer says who it is.
const EXPECTED_FROM: i16 = 3;
/// What a producer that is fenced may ask for its transactions: it begins none.
const FENCING_TIMEOUT_MS: i32 = 1000;
/// How often the markers of an aborted transaction are looked for, and how long between two looks.
const ABORT_LOOKS: u32 = 600;
const ABORT_INTERVAL: Duration = Duration::from_millis(50);

pub fn run(arguments: &TxnArguments) -> Result<(), Failure> {
    let mut cluster = Cluster::connect(&arguments.flags.brokers)?;
    let as_json = arguments.flags.json;
    match &arguments.command {
        TxnCommand::List(arguments) => list(&mut cluster, arguments, as_json),
        TxnCommand::Describe { ids } => describe(&mut cluster, ids, as_json),
        TxnCommand::FindHanging(arguments) => hanging::find(&mut cluster, arguments, as_json),
        TxnCommand::Abort(AbortArguments { id: Some(id), .. }) => abort(&mut cluster, id, as_json),
        TxnCommand::Abort(AbortArguments { topic, partition, start_offset, .. }) => {
            let hanging = Hanging {
                topic: topic.as_deref().ok_or("name the topic")?,
                partition: partition.ok_or("name the partition")?,
                start_offset: start_offset.ok_or("name the offset at which the transaction begins")?,
            };
            hanging::abort(&mut cluster, &hanging, as_json)
        }
    }
}

fn list(cluster: &mut Cluster, arguments: &ListArguments, as_json: bool) -> Result<(), Failure> {
    let filter = |version: i16| {
        let request = ListTransactionsRequest::default()
            .with_state_filters(arguments.states.iter().map(|state| text(state)).collect())
            .with_producer_id_filters(arguments.producer_ids.iter().map(|id| ProducerId(*id)).collect());
        match (version, arguments.open_for) {
            (1.., Some(seconds)) => request.with_duration_filter(i64::from(seconds) * 1000),
            _ => request,
        }
    };
    let listed = list_all(cluster, filter)?;
    if as_json {
        let listed = listed.iter().map(|(id, (producer, state))| {
            json!({ "transactional_id": id, "producer_id": producer, "state": state })
        });
        return print_json(&listed.collect());
    }
    let mut table = Table::new(&["TRANSACTIONAL ID", "PRODUCER", "STATE"]);
    for (id, (producer, state)) in &listed {
        table.row(&[id, &producer.to_string(), state]);
    }
    print(&table.to_string())
}

/// Producer and state of every transactional id that a filter lets through.
fn list_all(
    cluster: &mut Cluster,
    filter: impl Fn(i16) -> ListTransactionsRequest,
) -> Result<BTreeMap<String, (i64, String)>, Failure> {
    let metadata = cluster.metadata(&BTreeSet::new())?;
    let mut listed = BTreeMap::new();
    for broker in &metadata.brokers {
        let response = cluster.broker(&broker.host, broker.port)?.send(&filter)?;
        if response.error_code != 0 {
            let (host, port) = (&*broker.host, broker.port);
            return Err(format!("{host}:{port}: {}", error_name(response.error_code)).into());
        }
        if let Some(unknown) = response.unknown_state_filters.first() {
            return Err(format!("{}: no transaction can be in this state", &**unknown).into());
        }
        listed.extend(response.transaction_states.into_iter().map(|state| {
            let said = (state.producer_id.0, state.transaction_state.to_string());
            (state.transactional_id.to_string(), said)
        }));
    }
    Ok(listed)
}

fn describe(cluster: &mut Cluster, ids: &[String], as_json: bool) -> Result<(), Failure> {
    let mut described = Vec::new();
    let mut missing = Vec::new();
    for id in ids {
        let state = describe_one(cluster, id)?;
        match state.error_code {
            0 => described.push(state),
            code => missing.push(format!("{id}: {}", error_name(code))),
        }
    }
    if as_json {
        print_json(&described.iter().map(as_value).collect())?;
    } else {
        let now_ms = now_ms();
        let texts: Vec<_> = described.iter().map(|state| as_text(state, now_ms)).collect();
        print(&texts.join("\n"))?;
    }
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\nodradek: ").into()) }
}

fn describe_one(cluster: &mut Cluster, id: &str) -> Result<TransactionState, Failure> {
    let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional_id(id)]);
    let mut response = cluster.coordinator_of(KeyType::Transaction, id)?.send(|_| request)?;
    Ok(response.transaction_states.pop().ok_or_else(|| format!("{id}: nothing was said of it"))?)
}

/// The same of one that there must be.
fn describe_known(cluster: &mut Cluster, id: &str) -> Result<TransactionState, Failure> {
    let state = describe_one(cluster, id)?;
    match state.error_code {
        0 => Ok(state),
        code => Err(format!("{id}: {}", error_name(code)).into()),
    }
}

fn as_value(state: &TransactionState) -> Value {
    let partitions = state.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(|partition| json!({ "topic": &**topic.topic, "partition": partition }))
    });
    json!({
        "transactional_id": &**state.transactional_id,
        "state": &*state.transaction_state,
        "producer_id": state.producer_id.0,
        "producer_epoch": state.producer_epoch,
        "timeout_ms": state.transaction_timeout_ms,
        "start_ms": (state.transaction_start_time_ms >= 0).then_some(state.transaction_start_time_ms),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

fn as_text(state: &TransactionState, now_ms: i64) -> String {
    let TransactionState { producer_id, producer_epoch, transaction_timeout_ms, .. } = state;
    let mut shown = format!(
        "{}: {}, producer {} epoch {producer_epoch}, time-out {} s",
        &**state.transactional_id,
        &*state.transaction_state,
        producer_id.0,
        f64::from(*transaction_timeout_ms) / 1000.0,
    );
    if &*state.transaction_state == ONGOING {
        let open_for_ms = (now_ms - state.transaction_start_time_ms).max(0);
        shown += &format!(", open for {} s", open_for_ms / 1000);
    }
    shown.push('\n');
    if !state.topics.is_empty() {
        let mut table = Table::new(&["TOPIC", "PARTITION"]);
        for topic in &state.topics {
            for partition in &topic.partitions {
                table.row(&[&topic.topic, &partition.to_string()]);
            }
        }
        shown += &table.to_string();
    }
    shown
}

const ONGOING: &str = "Ongoing";

/// What has become of a transaction that is to be aborted.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    /// It is open as it was.
    Open,
    Aborting,
    Aborted,
    Committed,
    /// The id has gone on: how it ended is not known any more.
    Past,
}

fn became(was: &TransactionState, is: &TransactionState) -> Became {
    let is_same = (is.producer_id, is.producer_epoch, is.transaction_start_time_ms)
        == (was.producer_id, was.producer_epoch, was.transaction_start_time_ms);
    // Its end may have the next epoch, and a new producer id behind that.
    let is_its_end = is.transaction_start_time_ms == was.transaction_start_time_ms;
    match &*is.transaction_state {
        ONGOING if is_same => Became::Open,
        "PrepareAbort" if is_its_end => Became::Aborting,
        "CompleteAbort" if is_its_end => Became::Aborted,
        "PrepareCommit" | "CompleteCommit" if is_its_end => Became::Committed,
        _ => Became::Past,
    }
}

/// Comes as its producer does after an error, as the one that has this transaction and no other: its coordinator
/// aborts what is open. Asked again only while it is open still, so that a producer that has come meanwhile is not
/// fenced.
fn abort(cluster: &mut Cluster, id: &str, as_json: bool) -> Result<(), Failure> {
    let state = describe_known(cluster, id)?;
    if &*state.transaction_state != ONGOING {
        return Err(format!("{id}: nothing to abort, it is in state {}", &*state.transaction_state).into());
    }
    let mut is = state.clone();
    for _ in 0..ABORT_LOOKS {
        match became(&state, &is) {
            Became::Aborted => break,
            Became::Aborting => {}
            Became::Open => match fence(cluster, &state)? {
                // Begun, or something else is being written first.
                CONCURRENT_TRANSACTIONS => {}
                0 => return Err(format!("{id}: it has ended meanwhile, and its producer is fenced").into()),
                code => return Err(format!("{id}: {}", error_name(code)).into()),
            },
            Became::Committed => return Err(format!("{id}: it has been committed meanwhile").into()),
            Became::Past => {
                return Err(format!("{id}: it has ended, and others of the id have begun since").into());
            }
        }
        is = describe_known(cluster, id)?;
        if matches!(became(&state, &is), Became::Open | Became::Aborting) {
            wait(ABORT_INTERVAL);
            is = describe_known(cluster, id)?;
        }
    }
    match became(&state, &is) {
        Became::Aborted => {}
        Became::Open => return Err(format!("{id}: {}", error_name(CONCURRENT_TRANSACTIONS)).into()),
        _ => {
            return Err(
                format!("{id}: in state {}, not all markers are written", &*is.transaction_state).into()
            );
        }
    }
    match as_json {
        true => print_json(&json!({ "transactional_id": id, "aborted": true })),
        false => print(&format!("aborted {id}\n")),
    }
}

/// Asks for the id in the name of the producer that has it. Returns the error's code.
fn fence(cluster: &mut Cluster, state: &TransactionState) -> Result<i16, Failure> {
    let id = &*state.transactional_id;
    let request = |version: i16| {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id(id)))
            .with_transaction_timeout_ms(FENCING_TIMEOUT_MS);
        match version {
            ..EXPECTED_FROM => request,
            EXPECTED_FROM.. => {
                request.with_producer_id(state.producer_id).with_producer_epoch(state.producer_epoch)
            }
        }
    };
    Ok(cluster.coordinator_of(KeyType::Transaction, id)?.send(request)?.error_code)
}

#[expect(clippy::disallowed_methods, reason = "a command tells how long ago something was")]
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

#[expect(clippy::disallowed_methods, reason = "there is no event to wait for in another process")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

fn transactional_id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::describe_transactions_response::TopicData;

    #[test]
    fn only_the_transaction_that_was_found_is_aborted() {
        let state = |name: &str, epoch: i16, start: i64| {
            TransactionState::default()
                .with_transaction_state(text(name))
                .with_producer_id(ProducerId(7))
                .with_producer_epoch(epoch)
                .with_transaction_start_time_ms(start)
        };
        let was = state(ONGOING, 3, 1000);
        assert_eq!(became(&was, &was), Became::Open);
        assert_eq!(became(&was, &state("PrepareAbort", 4, 1000)), Became::Aborting);
        assert_eq!(became(&was, &state("CompleteAbort", 4, 1000)), Became::Aborted);
        let replaced = state("CompleteAbort", 0, 1000).with_producer_id(ProducerId(8));
        assert_eq!(became(&was, &replaced), Became::Aborted, "the last epoch was used up");
        assert_eq!(became(&was, &state("PrepareCommit", 3, 1000)), Became::Committed);
        assert_eq!(became(&was, &state("CompleteCommit", 4, 1000)), Became::Committed);
        // Version 1 keeps the epoch: the next transaction differs by its time.
        assert_eq!(became(&was, &state(ONGOING, 3, 2000)), Became::Past);
        assert_eq!(became(&was, &state("CompleteAbort", 3, 2000)), Became::Past);
        assert_eq!(became(&was, &state(ONGOING, 5, 2000)), Became::Past);
        assert_eq!(became(&was, &state("Empty", 5, -1)), Became::Past);
    }

    #[test]
    fn a_transaction_is_shown_with_its_partitions() {
        let topic = TopicData::default().with_topic(TopicName(text("orders"))).with_partitions(vec![1, 2]);
        let state = TransactionState::default()
            .with_transactional_id(transactional_id("billing"))
            .with_transaction_state(text(ONGOING))
            .with_producer_id(ProducerId(7))
            .with_producer_epoch(3)
            .with_transaction_timeout_ms(1500)
            .with_transaction_start_time_ms(10_000)
            .with_topics(vec![topic]);
        let shown = "billing: Ongoing, producer 7 epoch 3, time-out 1.5 s, open for 4 s\n\
            TOPIC   PARTITION\norders  1\norders  2\n";
        assert_eq!(as_text(&state, 14_999), shown);
        let value = as_value(&state);
        assert_eq!(value["partitions"][1], json!({ "topic": "orders", "partition": 2 }));
        assert_eq!(value["start_ms"], 10_000);
    }
}
