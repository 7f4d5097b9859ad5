//! Heartbeats and commits of many groups at a constant rate, and a flushed produce beside them.
//!
//! A latency counts from when the request was to be sent, so that a broker which stalls does not hide it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use glommio::timer::sleep;
use hdrhistogram::Histogram;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use odradek::codec::record_batch::{BatchHeader, Compression, write_batch};
use odradek::codec::records::{NewRecord, write_record};
use odradek::types::{Mono, Timestamp};

use crate::clock;
use crate::connection::{CallError, Connection};
use crate::groups::member::{Member, NONE};
use crate::stats::{LATENCY_MAX_NS, latencies};
use crate::versions::Api;

/// Bytes of a record that is produced.
const RECORD_SIZE: usize = 100;

/// Requests of one kind.
pub struct Requests {
    pub latency: Histogram<u64>,
    /// Answers per error code.
    pub errors: BTreeMap<i16, u64>,
}

impl Default for Requests {
    fn default() -> Requests {
        Requests { latency: latencies(), errors: BTreeMap::new() }
    }
}

impl Requests {
    fn took(&mut self, due: Mono, error: i16) {
        let latency = clock::now().since(due).as_nanos().min(u128::from(LATENCY_MAX_NS));
        self.latency.saturating_record(latency as u64);
        if error != NONE {
            *self.errors.entry(error).or_default() += 1;
        }
    }
}

/// What all connections have sent together.
#[derive(Default)]
pub struct Load {
    pub heartbeats: RefCell<Requests>,
    pub commits: RefCell<Requests>,
    pub produced: RefCell<Requests>,
}

/// When it begins and ends, and how much it is.
#[derive(Clone, Debug)]
pub struct Plan {
    pub topic: String,
    pub start: Mono,
    pub end: Mono,
    pub heartbeat: Duration,
    /// Between two commits of one connection; `None`: it commits nothing.
    pub commit: Option<Duration>,
}

/// One connection with a member in each of some groups.
pub struct Slot {
    pub connection: Connection,
    pub number: usize,
    pub slot_count: usize,
    pub members: Vec<Member>,
}

/// Waits until then; at once if it is past.
async fn wait_until(due: Mono) {
    let now = clock::now();
    if now < due {
        sleep(due.since(now)).await;
    }
}

/// The share of something that recurs, so that not all begin at once.
fn share(interval: Duration, number: usize, count: usize) -> Duration {
    interval.mul_f64(number as f64 / count.max(1) as f64)
}

impl Slot {
    pub async fn run(mut self, plan: Plan, load: Rc<Load>) -> Result<Slot, CallError> {
        let member_count = self.members.len();
        let mut heartbeats: Vec<Mono> = (0..member_count)
            .map(|at| {
                let number = self.number * member_count + at;
                plan.start.after(share(plan.heartbeat, number, self.slot_count * member_count))
            })
            .collect();
        let mut commit =
            plan.commit.map(|interval| plan.start.after(share(interval, self.number, self.slot_count)));
        let mut committed = 0;
        loop {
            let (at, heartbeat) = (0..member_count)
                .map(|at| (at, heartbeats[at]))
                .min_by_key(|(_, due)| *due)
                .expect("a connection has members");
            let due = commit.map_or(heartbeat, |commit| commit.min(heartbeat));
            if due >= plan.end {
                return Ok(self);
            }
            wait_until(due).await;
            if let (Some(next), Some(interval)) = (commit, plan.commit)
                && next <= heartbeat
            {
                committed += 1;
                let member = &self.members[committed % member_count];
                let error = member.commit(&mut self.connection, &plan.topic, 0, committed as i64).await?;
                load.commits.borrow_mut().took(next, error);
                commit = Some(next.after(interval));
            } else {
                let error = self.members[at].heartbeat(&mut self.connection).await?;
                load.heartbeats.borrow_mut().took(heartbeat, error);
                heartbeats[at] = heartbeat.after(plan.heartbeat);
            }
        }
    }
}

fn batch(now: Timestamp) -> Bytes {
    let value = [b'x'; RECORD_SIZE];
    let mut payload = Vec::new();
    let record =
        NewRecord { timestamp_delta: 0, offset_delta: 0, key: None, value: Some(&value), headers: &[] };
    write_record(&record, &mut payload);
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count: 1,
        base_timestamp: now,
        max_timestamp: now,
        producer: None,
    };
    let mut batch = Vec::new();
    write_batch(&header, &payload, &mut batch);
    batch.into()
}

/// One record at a time, each acknowledged when it is flushed.
pub async fn produce(
    mut connection: Connection,
    plan: Plan,
    interval: Duration,
    load: Rc<Load>,
) -> Result<(), CallError> {
    let version = connection.version(Api::Produce)?;
    let mut due = plan.start;
    while due < plan.end {
        wait_until(due).await;
        let partition = PartitionProduceData::default()
            .with_index(0)
            .with_records(Some(batch(Timestamp(clock::wall_ms()))));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(plan.topic.clone())))
            .with_partition_data(vec![partition]);
        let request =
            ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        let answer = connection.call(&request, version).await?;
        let partition = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let error = partition.map(|partition| partition.error_code);
        let error = error.ok_or_else(|| connection.protocol_error("no partition in the answer"))?;
        load.produced.borrow_mut().took(due, error);
        due = due.after(interval);
    }
    Ok(())
}
