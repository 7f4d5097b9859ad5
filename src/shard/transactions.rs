//! The coordinators of the partitions of `__transaction_state` that this shard owns: carries out what
//! [`txn`](crate::txn) decides.
//!
//! ```text
//! request ─► coordinator ─► answers ───────────────────────────────► who waits for that ticket
//!              ▲  ▲    └─┬► writes ─► lane ─► log ─► flushed ─► finished ─┐
//!              │  └──────│──────────────────────────────────────────────┘
//!              │ marked  └► markers ─► the partitions' shards, until all have them ─┐
//!              └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `load.rs` | reads a partition into a coordinator |
//! | `mark.rs` | writes the markers of a transaction that is decided |
//! | `ask.rs` | asks a coordinator, wherever it is: for clients, for partitions and for groups |

mod ask;
mod load;
mod mark;

pub use ask::{Verifier, ask, locate, partition_of};

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::{BatchHeader, Compression, write_batch};
use crate::codec::records::{NewRecord, write_record};
use crate::codec::transaction_record::{
    PartitionNames, TransactionRecord, TransactionState, TransactionValue,
};
use crate::group::consumer::regex::TopicPattern;
use crate::shard::answers::Answers;
use crate::shard::api::produce;
use crate::shard::event::Signal;
use crate::shard::message::ProduceOutcome;
use crate::shard::step::Pace;
use crate::shard::store::AckTarget;
use crate::shard::{Shard, producer_ids};
use crate::txn::coordinator::{Coordinator, Listed};
use crate::txn::transaction::{Addition, End, Init};
use crate::txn::{Answer, Effect, Settings, TRANSACTIONS_TOPIC, Ticket, WriteId, Writer};
use crate::types::limits::TRANSACTION_ADDITION_TIME_MAX;
use crate::types::{CoordinatorEpoch, Mono, ProducerId, Timestamp, TopicId, TopicPartition};
use futures::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Transactional ids that are looked at before others may run.
const TRANSACTIONS_STEP: usize = 64;

/// A log that could not be read is tried again after this long at the earliest.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// A question to the coordinator of one transactional id.
pub struct TransactionCall {
    /// Of `__transaction_state`.
    pub partition: TopicPartition,
    pub transactional_id: String,
    pub request: TransactionRequest,
}

pub enum TransactionRequest {
    Init(Init),
    Add(Addition),
    /// Whether the transaction has these.
    Verify {
        writer: Writer,
        partitions: PartitionNames,
    },
    End(End),
    Describe,
}

pub enum TransactionReply {
    Answer(Answer),
    /// One for each partition, in their order.
    Verified(Vec<Result<(), ErrorCode>>),
    /// `None`: nothing is known of it.
    Described(Option<TransactionValue>),
    /// Nothing was looked at.
    Refused(ErrorCode),
}

/// Which transactional ids are listed. What is empty or `None` means any.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    pub states: BTreeSet<TransactionState>,
    pub producers: BTreeSet<ProducerId>,
    /// Begun longer ago than this.
    pub open_for: Option<Duration>,
    /// A regular expression that the whole id matches, in RE2's syntax.
    pub pattern: Option<String>,
}

impl ListFilter {
    fn has(&self, listed: &Listed, now: Timestamp) -> bool {
        let is_old = |open_for: Duration| {
            let age = u128::try_from(now.0.saturating_sub(listed.start.0)).unwrap_or(0);
            age > open_for.as_millis()
        };
        (self.states.is_empty() || self.states.contains(&listed.state))
            && (self.producers.is_empty() || self.producers.contains(&listed.producer))
            && self.open_for.is_none_or(is_old)
    }
}

/// Lives: one per shard.
#[derive(Default)]
pub struct Transactions {
    served: RefCell<BTreeMap<TopicPartition, Rc<Served>>>,
    answers: Answers<Answer>,
}

/// Lives: one per partition of `__transaction_state` of this shard, from the first look at it until the
/// partition goes.
struct Served {
    id: TopicPartition,
    state: RefCell<ServedState>,
    /// Writes that are not in the log yet. Bounded by the requests that wait for them.
    lane: RefCell<VecDeque<WriteId>>,
    lane_filled: Signal,
    ended: Cell<bool>,
}

enum ServedState {
    Loading,
    Failed { at: Mono },
    Ready(Box<Coordinator>),
}

impl Served {
    fn new(id: TopicPartition) -> Rc<Served> {
        Rc::new(Served {
            id,
            state: RefCell::new(ServedState::Loading),
            lane: RefCell::default(),
            lane_filled: Signal::default(),
            ended: Cell::new(false),
        })
    }

    /// Decides something, then carries it out. `None` while the log is not loaded.
    fn decide<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        decide: impl FnOnce(&mut Coordinator, Timestamp, &mut Vec<Effect>) -> T,
    ) -> Option<T> {
        let now = shard.clock.wall();
        let mut effects = Vec::new();
        let decided = {
            let mut state = self.state.borrow_mut();
            let ServedState::Ready(coordinator) = &mut *state else { return None };
            let (committed, aborted) = (coordinator.committed, coordinator.aborted);
            let decided = decide(coordinator, now, &mut effects);
            let mut metrics = shard.metrics.borrow_mut();
            metrics.transactions_committed += coordinator.committed - committed;
            metrics.transactions_aborted += coordinator.aborted - aborted;
            decided
        };
        self.carry_out(shard, effects);
        Some(decided)
    }

    fn carry_out(self: &Rc<Self>, shard: &Rc<Shard>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(Ticket(number), answer) => shard.transactions.answers.complete(number, answer),
                Effect::Write(write) => {
                    self.lane.borrow_mut().push_back(write);
                    self.lane_filled.notify();
                }
                Effect::Mark(marking) => {
                    shard.spawn(mark::run(shard.clone(), self.clone(), marking));
                }
            }
        }
    }

    /// Whether it decides nothing any more.
    fn is_over(&self, shard: &Shard) -> bool {
        self.ended.get() || shard.is_stopping()
    }

    fn end(self: &Rc<Self>, shard: &Rc<Shard>) {
        if !self.ended.replace(true) {
            self.decide(shard, |coordinator, _, effects| coordinator.resign(effects));
            self.lane_filled.notify();
        }
    }

    fn error(&self) -> Option<ErrorCode> {
        match &*self.state.borrow() {
            ServedState::Ready(_) => None,
            ServedState::Loading => Some(ErrorCode::CoordinatorLoadInProgress),
            ServedState::Failed { .. } => Some(ErrorCode::CoordinatorNotAvailable),
        }
    }
}

impl Transactions {
    fn served(&self) -> Vec<Rc<Served>> {
        self.served.borrow().values().cloned().collect()
    }

    /// Transactional ids of this shard's coordinators.
    pub fn count(&self) -> usize {
        let count = |served: &Rc<Served>| match &*served.state.borrow() {
            ServedState::Ready(coordinator) => coordinator.count(),
            ServedState::Loading | ServedState::Failed { .. } => 0,
        };
        self.served.borrow().values().map(count).sum()
    }
}

/// A record as a batch, as a producer would send it.
fn batch_of(record: &TransactionRecord, now: Timestamp) -> Vec<u8> {
    let (key, value) = (record.encode_key(), record.encode_value());
    let record = NewRecord { key: Some(&key), value: value.as_deref(), ..NewRecord::default() };
    let mut payload = Vec::new();
    write_record(&record, &mut payload);
    let header = BatchHeader {
        compression: Compression::None,
        transactional: false,
        record_count: 1,
        base_timestamp: now,
        max_timestamp: now,
        producer: None,
    };
    let mut batch = Vec::with_capacity(payload.len() + 61);
    write_batch(&header, &payload, &mut batch);
    batch
}

/// Tells a coordinator what became of one of its writes.
struct WriteEnd {
    shard: Weak<Shard>,
    served: Rc<Served>,
    write: WriteId,
}

impl AckTarget for WriteEnd {
    fn acknowledged(&self, _index: u32, outcome: ProduceOutcome) {
        let Some(shard) = self.shard.upgrade() else { return };
        let result = match outcome.error {
            ErrorCode::None => Ok(()),
            error => Err(error),
        };
        if let Err(error) = result {
            let partition = self.served.id.partition.index();
            tracing::warn!(partition, %error, "a change of a transaction was not kept");
        }
        let write = self.write;
        self.served.decide(&shard, |coordinator, now, effects| {
            coordinator.finished(write, result, now, effects);
        });
    }
}

/// Appends a partition's writes, one after the other, until it goes.
async fn run_lane(shard: Rc<Shard>, served: Rc<Served>) {
    while !served.ended.get() || !served.lane.borrow().is_empty() {
        let next = served.lane.borrow_mut().pop_front();
        let Some(write) = next else {
            shard.stores.pump();
            served.lane_filled.notified().await;
            continue;
        };
        let mut batch = match &*served.state.borrow() {
            ServedState::Ready(coordinator) => {
                let record = coordinator.record(write).expect("it is on its way");
                batch_of(record, shard.clock.wall())
            }
            ServedState::Loading | ServedState::Failed { .. } => unreachable!("it has decided"),
        };
        let end = WriteEnd { shard: Rc::downgrade(&shard), served: served.clone(), write };
        let target: Rc<dyn AckTarget> = Rc::new(end);
        produce::append(&shard, &target, 0, &served.id, &mut batch, None).await;
    }
}

/// Starts the work that goes on beside requests, and reads what this shard's partitions hold.
pub fn start(shard: &Rc<Shard>) {
    *shard.verifier.borrow_mut() = Some(Rc::new(Verifier::new(shard)));
    load_all(shard);
    let (aborting, expiring) = (shard.clone(), shard.clone());
    shard.spawn(async move {
        loop {
            glommio::timer::sleep(aborting.config.transaction_abort_interval).await;
            if aborting.is_stopping() {
                return;
            }
            load_all(&aborting); // Those that were opened late.
            for_each_id(&aborting, |coordinator, id, now, effects| {
                if coordinator.abort_timed_out(id, now, effects) {
                    tracing::info!(transactional_id = id, "a transaction is aborted: its time is over");
                }
            })
            .await;
        }
    });
    shard.spawn(async move {
        loop {
            glommio::timer::sleep(expiring.config.transaction_expiration_interval).await;
            if expiring.is_stopping() {
                return;
            }
            for_each_id(&expiring, |coordinator, id, now, effects| coordinator.expire(id, now, effects))
                .await;
        }
    });
}

/// Decides something for every transactional id of this shard, a few at a time.
async fn for_each_id(
    shard: &Rc<Shard>,
    decide: impl Fn(&mut Coordinator, &str, Timestamp, &mut Vec<Effect>),
) {
    let mut pace = Pace::new(&shard.clock);
    for served in shard.transactions.served() {
        let mut after: Option<String> = None;
        loop {
            let ids = served.decide(shard, |coordinator, now, effects| {
                let ids = coordinator.ids_after(after.as_deref(), TRANSACTIONS_STEP);
                ids.iter().for_each(|id| decide(coordinator, id, now, effects));
                ids
            });
            after = ids.and_then(|mut ids| ids.pop());
            if after.is_none() {
                break;
            }
            pace.give_way().await;
        }
    }
}

/// The topic may be gone.
pub fn topics_deleted(shard: &Rc<Shard>, topics: &[TopicId]) {
    let gone: Vec<Rc<Served>> = {
        let mut served = shard.transactions.served.borrow_mut();
        let gone = served.extract_if(.., |id, _| topics.contains(&id.topic));
        gone.map(|(_, served)| served).collect()
    };
    gone.iter().for_each(|served| served.end(shard));
}

/// This node stops: all that wait are sent to look elsewhere.
pub fn resign(shard: &Rc<Shard>) {
    for served in shard.transactions.served() {
        served.decide(shard, |coordinator, _, effects| coordinator.resign(effects));
    }
}

/// Begins to read every partition of this shard that is not read yet.
fn load_all(shard: &Rc<Shard>) {
    let topic = shard.image.borrow().topic_named(TRANSACTIONS_TOPIC).map(|topic| topic.id);
    let Some(topic) = topic else { return };
    for store in shard.stores.iter() {
        for replica in store.replicas_of(topic, usize::MAX) {
            find(shard, replica.id);
        }
    }
}

/// The coordinator of a partition of this shard, which is read first if need be.
fn find(shard: &Rc<Shard>, id: TopicPartition) -> Option<Rc<Served>> {
    let replica = shard.stores.find(&id)?;
    let known = shard.transactions.served.borrow().get(&id).cloned();
    let served = known.unwrap_or_else(|| {
        let served = Served::new(id);
        shard.transactions.served.borrow_mut().insert(id, served.clone());
        shard.spawn(run_lane(shard.clone(), served.clone()));
        load::begin(shard, &served, &replica);
        served
    });
    let failed = match &*served.state.borrow() {
        ServedState::Failed { at } => Some(*at),
        ServedState::Loading | ServedState::Ready(_) => None,
    };
    if failed.is_some_and(|at| shard.clock.mono().since(at) >= RELOAD_INTERVAL) {
        *served.state.borrow_mut() = ServedState::Loading;
        load::begin(shard, &served, &replica);
    }
    Some(served)
}

/// Lives: while somebody waits for an addition. Without the answer, it is given up.
struct Waiter<'a> {
    served: &'a Served,
    id: &'a str,
    ticket: Option<Ticket>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        if let ServedState::Ready(coordinator) = &mut *self.served.state.borrow_mut() {
            coordinator.give_up(self.id, ticket);
        }
    }
}

/// Answers a question to a coordinator of this shard.
pub async fn call_local(shard: &Rc<Shard>, call: TransactionCall) -> TransactionReply {
    let TransactionCall { partition, transactional_id: id, request } = call;
    let may_need_producer = matches!(&request, TransactionRequest::Init(_) | TransactionRequest::End(_));
    if may_need_producer {
        producer_ids::prepare(shard).await;
    }
    if shard.is_stopping() {
        return TransactionReply::Refused(ErrorCode::NotCoordinator);
    }
    let Some(served) = find(shard, partition) else {
        return TransactionReply::Refused(ErrorCode::NotCoordinator);
    };
    if let Some(error) = served.error() {
        return TransactionReply::Refused(error);
    }
    let wait = shard.transactions.answers.ask();
    let ticket = Ticket(wait.number());
    let fresh = &mut || producer_ids::take(shard);
    match request {
        TransactionRequest::Init(init) => {
            served.decide(shard, |coordinator, now, effects| {
                coordinator.init(&id, &init, ticket, now, fresh, effects);
            });
            TransactionReply::Answer(wait.answer().await)
        }
        TransactionRequest::End(end) => {
            served.decide(shard, |coordinator, now, effects| {
                coordinator.end(&id, &end, ticket, now, fresh, effects);
            });
            TransactionReply::Answer(wait.answer().await)
        }
        // Its markers would be left out: whoever asks has heard of a partition before this core, and comes again.
        TransactionRequest::Add(addition) if !mark::has_all(&shard.image.borrow(), &addition.partitions) => {
            TransactionReply::Refused(ErrorCode::CoordinatorLoadInProgress)
        }
        TransactionRequest::Add(addition) => {
            served.decide(shard, |coordinator, now, effects| {
                coordinator.add(&id, addition, ticket, now, effects);
            });
            let mut waiter = Waiter { served: &served, id: &id, ticket: Some(ticket) };
            // What is being ended may take as long as a partition is offline.
            let patience = pin!(glommio::timer::sleep(TRANSACTION_ADDITION_TIME_MAX));
            TransactionReply::Answer(match select(pin!(wait.answer()), patience).await {
                Either::Left((answer, _)) => {
                    waiter.ticket = None;
                    answer
                }
                Either::Right(_) => Answer::Added(Err(ErrorCode::ConcurrentTransactions)),
            })
        }
        TransactionRequest::Verify { writer, partitions } => {
            let verified = served.decide(shard, |coordinator, _, _| {
                let verify = |(topic, partition)| coordinator.verify(&id, writer, topic, partition);
                partitions.iter().map(verify).collect()
            });
            verified.map_or(
                TransactionReply::Refused(ErrorCode::CoordinatorLoadInProgress),
                TransactionReply::Verified,
            )
        }
        TransactionRequest::Describe => {
            let described = served.decide(shard, |coordinator, _, _| coordinator.describe(&id).cloned());
            TransactionReply::Described(described.flatten())
        }
    }
}

/// The transactional ids of this shard's coordinators.
pub async fn list_local(shard: &Rc<Shard>, filter: &ListFilter) -> Result<Vec<Listed>, ErrorCode> {
    let pattern = filter.pattern.as_deref().map(TopicPattern::new).transpose();
    let pattern = pattern.map_err(|_| ErrorCode::InvalidRegularExpression)?;
    let matches = |id: &str| pattern.as_ref().is_none_or(|pattern| pattern.matches(id));
    let mut pace = Pace::new(&shard.clock);
    let mut listed = Vec::new();
    for served in shard.transactions.served() {
        if let Some(error) = served.error() {
            return Err(error);
        }
        let mut after: Option<String> = None;
        loop {
            let ids = served.decide(shard, |coordinator, now, _| {
                let ids = coordinator.ids_after(after.as_deref(), TRANSACTIONS_STEP);
                let found = ids.iter().filter_map(|id| coordinator.listed(id));
                let wanted = found.filter(|found| filter.has(found, now));
                listed.extend(wanted.filter(|found| matches(&found.transactional_id)));
                ids
            });
            after = ids.and_then(|mut ids| ids.pop());
            if after.is_none() {
                break;
            }
            pace.give_way().await;
        }
    }
    Ok(listed)
}

/// With the epoch of the partition's leader, by which markers are fenced.
fn new_coordinator(shard: &Shard, partition: TopicPartition) -> Coordinator {
    let image = shard.image.borrow();
    let epoch = image.partition(partition).map_or(0, |state| state.leader_epoch.0);
    Coordinator::new(Settings::new(&shard.config), CoordinatorEpoch(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_listed_by_state_producer_and_time() {
        let listed = Listed {
            transactional_id: "id".to_owned(),
            producer: ProducerId(7),
            state: TransactionState::Ongoing,
            start: Timestamp(1000),
        };
        let has = |filter: ListFilter| filter.has(&listed, Timestamp(3000));
        assert!(has(ListFilter::default()));
        let states = |state| ListFilter { states: BTreeSet::from([state]), ..ListFilter::default() };
        assert!(has(states(TransactionState::Ongoing)));
        assert!(!has(states(TransactionState::Empty)));
        let producers =
            |id| ListFilter { producers: BTreeSet::from([ProducerId(id)]), ..ListFilter::default() };
        assert!(has(producers(7)) && !has(producers(8)));
        let open_for = |ms| ListFilter { open_for: Some(Duration::from_millis(ms)), ..ListFilter::default() };
        assert!(has(open_for(1999)) && !has(open_for(2000)));
    }
}
