//! Coordinators serve whoever comes (SAFETY 10): a group commits, and a transaction takes records and offsets.
//!
//! By clients made for it: those of the load may stand still in librdkafka for good, which is not held against the
//! nodes. So may these, each in a thread that is left behind then, and others are tried.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use odradek_powerloss::process::check_interrupts;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

use crate::load::Shared;

/// What the transactions of probes write to.
pub const PROBED: &str = "probed";
pub const PROBED_PARTITIONS: usize = 3;

const GROUP: &str = "probes";
const TRANSACTIONAL_ID: &str = "probe";

/// For each call of librdkafka.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Somebody else is tried then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until both coordinators have served somebody who came after `since`.
pub fn coordinators_serve(shared: &Arc<Shared>, since: Instant, patience: Duration) -> anyhow::Result<()> {
    loop {
        check_interrupts()?;
        let number = shared.next_probe();
        let (done, is_done) = channel();
        let probing = shared.clone();
        std::thread::spawn(move || done.send(probe(&probing, number)));
        let error = match is_done.recv_timeout(PATIENCE) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(RecvTimeoutError::Timeout) => anyhow::anyhow!("a client has not ended after {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("a probe has panicked"),
        };
        if since.elapsed() > patience {
            return Err(
                error.context(format!("a coordinator serves nobody {patience:?} after the last fault"))
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `number`: higher each time.
fn probe(shared: &Shared, number: i64) -> anyhow::Result<()> {
    let mut config = shared.config();
    config.set("group.id", GROUP).set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    consumer.commit(&offset(2 * number)?, CommitMode::Sync).context("a group's commit")?;
    check_committed(&consumer, 2 * number).context("a group")?;

    let mut config = shared.config();
    config.set("transactional.id", TRANSACTIONAL_ID).set("transaction.timeout.ms", "20000");
    config.set("message.timeout.ms", "10000").set("linger.ms", "0").set("request.timeout.ms", "5000");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    producer.init_transactions(TIMEOUT).context("a transactional producer begins")?;
    producer.begin_transaction()?;
    let payload = number.to_string();
    for partition in 0..PROBED_PARTITIONS {
        let record = BaseRecord::<(), _>::to(PROBED).partition(partition as i32).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).context("a transaction's record")?;
    }
    let group = consumer.group_metadata().context("a consumer of a group has none")?;
    producer
        .send_offsets_to_transaction(&offset(2 * number + 1)?, &group, TIMEOUT)
        .context("a transaction's offsets")?;
    producer.commit_transaction(TIMEOUT).context("a transaction's end")?;
    check_committed(&consumer, 2 * number + 1).context("a transaction's offsets")
}

fn offset(number: i64) -> anyhow::Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(PROBED, 0, Offset::Offset(number))?;
    Ok(list)
}

fn check_committed(consumer: &BaseConsumer, expected: i64) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition(PROBED, 0);
    let found = consumer.committed_offsets(list, TIMEOUT)?;
    let found = found.find_partition(PROBED, 0).and_then(|found| found.offset().to_raw());
    ensure!(found == Some(expected), "{expected} was committed, and {found:?} is said to be");
    Ok(())
}
