//! Produce (key 0): batches are checked where they were received and copied once, into their
//! partition's tail.
//!
//! A request is answered when the last of its batches is durable. What belongs to another core is
//! copied into a message; `ask` keeps the order, so two requests of a connection reach the owner in
//! the order sent.

use crate::cluster::brokers::Routing;
use crate::cluster::topic_name;
use crate::codec::api::leader_hint::{CurrentLeader, NodeEndpoint};
use crate::codec::api::produce::{
    Acks, ProduceResponse, ProduceView, ProducedPartition, RecordErrors, produced_batch,
};
use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::{BatchProducer, BatchView};
use crate::log::compaction::payload::find_keyless;
use crate::replication::produces;
use crate::shard::Shard;
use crate::shard::api::RequestContext;
use crate::shard::conn::{AnswerTicket, CloseReason, Connection, Listener};
use crate::shard::look_inside::look_inside;
use crate::shard::message::{ClaimKind, ProduceItem, ProduceOutcome, Reply, Request, TransactionClaim};
use crate::shard::quotas::Charged;
use crate::shard::recompression::recompressed;
use crate::shard::replica::Appended;
use crate::shard::response::Response;
use crate::shard::store::AckTarget;
use crate::shard::verification::verify;
use crate::types::{PartitionIndex, ShardId, Timestamp, TopicPartition};
use futures::future::join_all;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

/// What the producer of a transaction is told before a shard has coordinators to ask.
const NO_COORDINATOR: &str = "no coordinator can be asked yet";
/// The first version whose clients know that a transaction may have to be aborted (KIP-890).
const ABORTABLE_FROM: i16 = 11;
/// The first version that adds its partitions to the transaction.
const ADDS_FROM: i16 = 12;

/// For so many batches of a request at a time is asked what their appends will look at.
const APPENDS_AHEAD: usize = 16;

fn claim_kind(version: i16) -> ClaimKind {
    match version {
        ADDS_FROM.. => ClaimKind::Adds,
        ABORTABLE_FROM.. => ClaimKind::AddedOrAborts,
        _ => ClaimKind::Added,
    }
}

/// One partition of a request, with what is known of it so far.
struct Part {
    topic: Rc<str>,
    partition: i32,
    outcome: ProduceOutcome,
    leader: Option<CurrentLeader>,
}

/// A request whose batches are on their way to the disk.
struct InFlight {
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    ticket: AnswerTicket,
    context: RequestContext,
    acks: Acks,
    parts: RefCell<Vec<Part>>,
    remaining: Cell<usize>,
    /// The request's time-out.
    time_max: Duration,
    /// What the request counts for; `None` while there are no quotas.
    charged: Option<Rc<Charged>>,
}

/// Where a batch goes.
struct Routed {
    index: u32,
    id: TopicPartition,
    range: Range<usize>,
}

pub async fn handle(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    (ticket, charged): (AnswerTicket, Option<&Rc<Charged>>),
    context: RequestContext,
    body: &mut [u8],
) -> Result<(), CloseReason> {
    let mut parts = Vec::new();
    let mut local: Vec<Routed> = Vec::new();
    let mut remote: BTreeMap<ShardId, Vec<Routed>> = BTreeMap::new();
    let claim;
    let time_max;
    let acks = {
        let view = ProduceView::parse(context.version, body)?;
        time_max = Duration::from_millis(u64::try_from(view.timeout_ms).unwrap_or(0));
        let acks = Acks::from_wire(view.acks);
        let refusal = match acks {
            None => Some(ErrorCode::InvalidRequiredAcks),
            Some(_) => None,
        };
        let transactional_id = view.transactional_id.filter(|_| shard.may_have_transactions());
        let kind = claim_kind(context.version);
        claim = transactional_id.map(|id| TransactionClaim { transactional_id: id.to_owned(), kind });
        route(shard, connection, context.version, &view, body, refusal, |part, routed| {
            let index = parts.len() as u32;
            parts.push(part);
            if let Some((owner, id, range)) = routed {
                let routed = Routed { index, id, range };
                if owner == shard.id {
                    local.push(routed);
                } else {
                    remote.entry(owner).or_default().push(routed);
                }
            }
        });
        acks.unwrap_or(Acks::All)
    };
    let pending = local.len() + remote.values().map(Vec::len).sum::<usize>();
    let in_flight = Rc::new(InFlight {
        shard: shard.clone(),
        connection: connection.clone(),
        ticket,
        context,
        acks,
        parts: RefCell::new(parts),
        // One more, held by this function until everything has been handed on.
        remaining: Cell::new(pending + 1),
        time_max,
        charged: charged.cloned(),
    });
    let target: Rc<dyn AckTarget> = in_flight.clone();
    for (owner, routed) in remote {
        forward(shard, &in_flight, owner, routed, body, claim.as_ref()).await;
    }
    let mut refused = Vec::new();
    if local.len() > 1 {
        let batches = local.iter().map(|routed| (&routed.id, &body[routed.range.clone()]));
        refused = verify_all(shard, batches, claim.as_ref()).await;
    }
    for (at, routed) in local.iter().enumerate() {
        if at % APPENDS_AHEAD == 0 && local.len() > 1 {
            shard.stores.prefetch_appends(local[at..].iter().take(APPENDS_AHEAD).map(|routed| &routed.id));
        }
        match refused.get_mut(at).and_then(Option::take) {
            Some(refused) => target.acknowledged(routed.index, refused),
            None => {
                let batch = &mut body[routed.range.clone()];
                append(shard, &target, routed.index, &routed.id, batch, claim.as_ref()).await;
            }
        }
    }
    // Nobody is told of it where there is no answer, and Kafka counts none of these.
    if let Some(charged) = charged.filter(|_| acks != Acks::None) {
        charged.record_time();
    }
    in_flight.finish_one();
    if acks == Acks::None {
        // The client does not wait: the answer's place is given free now (see `finish`).
        in_flight.release_unacknowledged()?;
    }
    Ok(())
}

/// Walks the request's partitions; each is refused here or gets its owner.
fn route(
    shard: &Rc<Shard>,
    connection: &Connection,
    version: i16,
    view: &ProduceView<'_>,
    body: &[u8],
    refusal: Option<ErrorCode>,
    mut each: impl FnMut(Part, Option<(ShardId, TopicPartition, Range<usize>)>),
) {
    let image = shard.image.borrow();
    for topic in view.topics() {
        let known = image.topic_named(topic.name);
        let name: Rc<str> = topic.name.into();
        for partition in topic.partitions {
            let mut part = Part {
                topic: name.clone(),
                partition: partition.index,
                outcome: ProduceOutcome::default(),
                leader: None,
            };
            // Coordinators alone write there.
            let internal = topic_name::is_internal(topic.name).then_some(ErrorCode::InvalidTopicException);
            if let Some(error) = refusal.or(internal) {
                part.outcome.error = error;
                each(part, None);
                continue;
            }
            let index = PartitionIndex::from_wire(partition.index);
            let state = known.zip(index).and_then(|(topic, index)| topic.partitions.get(index.index()));
            let (Some(topic), Some(index), Some(state)) = (known, index, state) else {
                part.outcome.error = ErrorCode::UnknownTopicOrPartition;
                each(part, None);
                continue;
            };
            let owner = state.led_on(shard.node);
            let Some(owner) = owner.filter(|owner| is_served_here(shard, connection, *owner)) else {
                part.outcome.error = ErrorCode::NotLeaderOrFollower;
                let leader = shard.brokers.borrow().leader_of(state);
                part.leader = leader.map(|leader| CurrentLeader { leader, epoch: state.leader_epoch });
                each(part, None);
                continue;
            };
            match produced_batch(version, partition.records) {
                // Kafka, too, says so of a request that has no right to a transaction.
                Ok(batch) if batch.is_transactional() && view.transactional_id.is_none() => {
                    part.outcome.error = ErrorCode::TransactionalIdAuthorizationFailed;
                    each(part, None);
                }
                // Before anything is kept of it: nobody can have begun one.
                Ok(batch) if batch.is_transactional() && !shard.may_have_transactions() => {
                    part.outcome.error = ErrorCode::InvalidTxnState;
                    part.outcome.message = Some(NO_COORDINATOR.to_owned());
                    each(part, None);
                }
                Ok(batch) => {
                    let start = batch.bytes().as_ptr() as usize - body.as_ptr() as usize;
                    let range = start..start + batch.size();
                    let id = TopicPartition { topic: topic.id, partition: index };
                    each(part, Some((owner, id, range)));
                }
                Err(rejected) => {
                    part.outcome.error = ErrorCode::from(&rejected);
                    part.outcome.message = Some(rejected.to_string());
                    each(part, None);
                }
            }
        }
    }
}

/// Whether requests for a partition of `owner` are served on this connection (DESIGN 4): under
/// `node` routing all of the node, under `core` routing only the core that the client connected to.
pub fn is_served_here(shard: &Shard, connection: &Connection, owner: ShardId) -> bool {
    match shard.routing() {
        Routing::Node => true,
        Routing::Core => connection.listener == Listener::Core(owner),
    }
}

/// Appends one batch on its owner shard, waiting if need be: for its log directory to flush what it has, and
/// for disk space. Who reads, or writes elsewhere, does not wait with it. A batch that begins a transaction
/// waits for the word of its coordinator, and one that its topic stores in another codec for that.
pub async fn append(
    shard: &Rc<Shard>,
    target: &Rc<dyn AckTarget>,
    index: u32,
    id: &TopicPartition,
    batch: &mut [u8],
    claim: Option<&TransactionClaim>,
) {
    let Some(replica) = shard.stores.find(id) else {
        let error = shard.absence(id);
        target.acknowledged(index, ProduceOutcome { error, ..Default::default() });
        return;
    };
    let (is_compacted, compression) = {
        let config = &replica.log.borrow().config;
        (config.cleanup.compact.is_some(), config.compression)
    };
    if is_compacted && let Some(refused) = check_keys(batch).await {
        return target.acknowledged(index, refused);
    }
    if let Some(claim) = claim
        && let Some(producer) = transactional_producer(batch)
        && let Err(refused) = verify(shard, &replica, &producer, claim).await
    {
        return target.acknowledged(index, refused);
    }
    let store = shard.stores.of(&replica);
    let mut stored = None;
    if let Some(compression) = compression {
        match recompressed(store, &replica, batch, compression).await {
            Ok(anew) => stored = anew,
            Err(refused) => return target.acknowledged(index, refused),
        }
    }
    let batch = stored.as_deref_mut().unwrap_or(batch);
    let epoch = replica.replication.epoch();
    shard.wait_for_room(store).await;
    loop {
        // Whoever has led meanwhile, the batch was meant for the leader that it came to.
        if replica.replication.epoch() != epoch {
            let error = ErrorCode::NotLeaderOrFollower;
            return target.acknowledged(index, ProduceOutcome { error, ..Default::default() });
        }
        match replica.append(store, batch, target, index) {
            Ok(Appended::Parked) => return,
            Ok(Appended::Wait) => {
                store.pump();
                replica.ready.notified().await;
            }
            Err(outcome) => return target.acknowledged(index, outcome),
        }
    }
}

/// Asks the coordinator of a transaction about all partitions of a request side by side: what it writes for them
/// is written together, and what it waits for is waited for once. Returns the refusal of each batch that must not
/// be appended, in their order; nothing at all without a claim.
pub async fn verify_all<'a>(
    shard: &Rc<Shard>,
    batches: impl Iterator<Item = (&'a TopicPartition, &'a [u8])>,
    claim: Option<&TransactionClaim>,
) -> Vec<Option<ProduceOutcome>> {
    let Some(claim) = claim else { return Vec::new() };
    let questions = batches.map(|(id, batch)| async move {
        let (replica, producer) = (shard.stores.find(id)?, transactional_producer(batch)?);
        verify(shard, &replica, &producer, claim).await.err()
    });
    join_all(questions).await
}

fn transactional_producer(batch: &[u8]) -> Option<BatchProducer> {
    let (view, _) = BatchView::split_first(batch).expect("it was checked where it was received");
    view.producer().filter(|producer| producer.is_transactional)
}

/// A compacted topic takes no record that compaction could not find again (Kafka `LogValidator`). Returns
/// the refusal of a batch that has one.
async fn check_keys(batch: &[u8]) -> Option<ProduceOutcome> {
    let found = look_inside(batch, |_, records| find_keyless(records)).await.flatten();
    let (message, record_errors) = match found {
        Ok(keyless) if keyless.count == 0 => return None,
        Ok(keyless) => {
            (format!("{} records have no key, and the topic is compacted", keyless.count), keyless.records)
        }
        Err(error) => (error.to_string(), Vec::new()),
    };
    let message = Some(message);
    Some(ProduceOutcome { error: ErrorCode::InvalidRecord, message, record_errors, ..Default::default() })
}

/// Sends batches to the shard that owns their partitions.
async fn forward(
    shard: &Rc<Shard>,
    in_flight: &Rc<InFlight>,
    owner: ShardId,
    routed: Vec<Routed>,
    body: &[u8],
    claim: Option<&TransactionClaim>,
) {
    let claim_size = claim.map_or(0, |claim| claim.transactional_id.len());
    let size: usize = routed.iter().map(|routed| routed.range.len() + claim_size).sum();
    let must_wait = || shard.forward_memory.used() > 0 && !shard.forward_memory.has_room(size);
    if must_wait() {
        shard.metrics.borrow_mut().memory_waits += 1;
    }
    while must_wait() {
        shard.stores.pump();
        shard.forward_freed.notified().await;
    }
    let charge = shard.forward_memory.charge(size);
    let items = routed.iter().map(|routed| ProduceItem {
        partition: routed.id,
        batch: body[routed.range.clone()].to_vec(),
        claim: claim.cloned(),
        waits_for: waits_for(in_flight.acks),
        time_max: in_flight.time_max,
    });
    let request = Request::Produce(items.collect());
    let ticket = shard.mesh.ask(owner, request).await;
    shard.metrics.borrow_mut().requests_forwarded += 1;
    let (asking, in_flight) = (shard.clone(), in_flight.clone());
    shard.spawn(async move {
        let reply = asking.mesh.reply(ticket).await;
        drop(charge);
        asking.forward_freed.notify_all();
        let Reply::Produce(outcomes) = reply else { unreachable!("a produce is answered by a produce") };
        for (routed, outcome) in routed.iter().zip(outcomes) {
            in_flight.acknowledged(routed.index, outcome);
        }
    });
}

impl AckTarget for InFlight {
    fn acknowledged(&self, index: u32, outcome: ProduceOutcome) {
        self.parts.borrow_mut()[index as usize].outcome = outcome;
        self.finish_one();
    }

    fn waits_for(&self) -> produces::Acks {
        waits_for(self.acks)
    }

    fn time_max(&self) -> Duration {
        self.time_max
    }
}

fn waits_for(acks: Acks) -> produces::Acks {
    match acks {
        // Nobody is told; it is counted once it is flushed here.
        Acks::None | Acks::Leader => produces::Acks::Leader,
        Acks::All => produces::Acks::All,
    }
}

impl InFlight {
    fn finish_one(&self) {
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() > 0 {
            return;
        }
        let parts = self.parts.borrow();
        let mut metrics = self.shard.metrics.borrow_mut();
        for part in parts.iter().filter(|part| part.outcome.error != ErrorCode::None) {
            metrics.error(self.context.api_key.to_wire(), part.outcome.error.code());
        }
        drop(metrics);
        if self.acks != Acks::None {
            self.connection.complete(self.ticket, Some(self.encode(&parts)));
        }
    }

    /// `acks=0`: nothing is answered; an error that is known by now closes the connection, as the
    /// client has no other way to learn of it (Kafka does the same).
    fn release_unacknowledged(&self) -> Result<(), CloseReason> {
        self.connection.complete(self.ticket, None);
        let parts = self.parts.borrow();
        match parts.iter().find(|part| part.outcome.error != ErrorCode::None) {
            Some(part) => Err(CloseReason::UnacknowledgedProduce {
                reason: format!("{}-{}: {}", part.topic, part.partition, part.outcome.error.name()),
            }),
            None => Ok(()),
        }
    }

    fn encode(&self, parts: &[Part]) -> Response {
        let brokers = self.shard.brokers.borrow();
        let of_records = |part: &Part| match part.outcome.record_errors.is_empty() {
            true => String::new(),
            // Kafka's wording.
            false => format!(
                "Compacted topic cannot accept message without key in topic partition {}-{}",
                part.topic, part.partition
            ),
        };
        let record_messages: Vec<String> = parts.iter().map(of_records).collect();
        let partitions: Vec<ProducedPartition<'_>> = parts
            .iter()
            .zip(&record_messages)
            .map(|(part, message)| ProducedPartition {
                topic: &part.topic,
                partition: part.partition,
                error: part.outcome.error,
                base_offset: part.outcome.base_offset,
                log_append_time: part.outcome.log_append_time.unwrap_or(Timestamp::NONE),
                log_start: part.outcome.log_start,
                error_message: part.outcome.message.as_deref(),
                record_errors: RecordErrors { records: &part.outcome.record_errors, message },
                current_leader: part.leader,
            })
            .collect();
        let leaders = partitions.iter().filter_map(|partition| partition.current_leader);
        let mut named: Vec<_> = leaders.map(|leader| leader.leader).collect();
        named.sort();
        named.dedup();
        let endpoints: Vec<NodeEndpoint<'_>> = named
            .iter()
            .filter_map(|leader| brokers.get(*leader))
            .map(|broker| NodeEndpoint {
                node: broker.id,
                host: &broker.host,
                port: broker.port,
                rack: broker.rack.as_deref(),
            })
            .collect();
        let throttle_time_ms = self.charged.as_ref().map_or(0, |charged| charged.throttle_ms());
        let response = ProduceResponse { partitions: &partitions, endpoints: &endpoints, throttle_time_ms };
        let mut out = Vec::with_capacity(128);
        response.write(self.context.version, self.context.correlation_id, &mut out);
        Response::new(out)
    }
}

/// Batches that another shard received for partitions of this one.
pub struct Forwarded {
    outcomes: RefCell<Vec<ProduceOutcome>>,
    remaining: Cell<usize>,
    waits_for: produces::Acks,
    time_max: Duration,
    done: Box<dyn Fn(Vec<ProduceOutcome>)>,
}

impl Forwarded {
    pub fn new(
        count: usize,
        (waits_for, time_max): (produces::Acks, Duration),
        done: Box<dyn Fn(Vec<ProduceOutcome>)>,
    ) -> Rc<Forwarded> {
        Rc::new(Forwarded {
            outcomes: RefCell::new(vec![ProduceOutcome::default(); count]),
            remaining: Cell::new(count),
            waits_for,
            time_max,
            done,
        })
    }
}

impl AckTarget for Forwarded {
    fn acknowledged(&self, index: u32, outcome: ProduceOutcome) {
        self.outcomes.borrow_mut()[index as usize] = outcome;
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0 {
            (self.done)(std::mem::take(&mut *self.outcomes.borrow_mut()));
        }
    }

    fn waits_for(&self) -> produces::Acks {
        self.waits_for
    }

    fn time_max(&self) -> Duration {
        self.time_max
    }
}
