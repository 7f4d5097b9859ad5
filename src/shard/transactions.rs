//! The coordinators of the partitions of `__transaction_state` that this shard owns: what [`txn`](crate::txn)
//! decides is carried out as for every [coordinator](crate::shard::coordinators), and besides:
//!
//! ```text
//! coordinator ─► markers ─► the partitions' shards, until all have them ─┐
//!      ▲                                                                 │
//!      └─ marked ────────────────────────────────────────────────────────┘
//! ```
//!
//! | file | what it does |
//! |---|---|
//! | `coordinating.rs` | what a coordinator of transactions is to its shard: writes, effects, the replay |
//! | `mark.rs` | writes the markers of a transaction that is decided |
//! | `ask.rs` | asks a coordinator, wherever it is: for clients, for partitions and for groups |
//! | `elsewhere.rs` | coordinators and partitions of other nodes |

mod ask;
mod coordinating;
mod elsewhere;
mod mark;

pub use ask::{Verifier, ask};
pub use elsewhere::{NodeCall, NodeReply, answer as answer_node, pass_on};

use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::{PartitionNames, TransactionState, TransactionValue};
use crate::group::consumer::regex::TopicPattern;
use crate::shard::coordinators::{self, Coordinators};
use crate::shard::step::Pace;
use crate::shard::{Shard, producer_ids};
use crate::txn::coordinator::{Coordinator, Listed};
use crate::txn::transaction::{Addition, End, Init};
use crate::txn::{Answer, Effect, Ticket, Writer};
use crate::types::limits::TRANSACTION_ADDITION_TIME_MAX;
use crate::types::{ProducerId, Timestamp, TopicPartition};
use futures::future::{Either, select};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// The coordinator of one partition, and what is kept beside it.
type Served = coordinators::Served<Coordinator>;

/// Lives: one per shard.
pub type Transactions = Coordinators<Coordinator>;

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

/// Starts the work that goes on beside requests, and reads what this shard's partitions hold.
pub fn start(shard: &Rc<Shard>) {
    *shard.verifier.borrow_mut() = Some(Rc::new(Verifier::new(shard)));
    shard.transactions.load_all(shard);
    let (aborting, expiring) = (shard.clone(), shard.clone());
    shard.spawn(async move {
        loop {
            glommio::timer::sleep(aborting.config.transaction_abort_interval).await;
            if aborting.is_stopping() {
                return;
            }
            aborting.transactions.load_all(&aborting); // Those that were opened late.
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
            for_each_id(&expiring, Coordinator::expire).await;
        }
    });
}

/// Decides something for every transactional id of this shard.
async fn for_each_id(
    shard: &Rc<Shard>,
    decide: impl Fn(&mut Coordinator, &str, Timestamp, &mut Vec<Effect>),
) {
    let mut pace = Pace::new(&shard.clock);
    for served in shard.transactions.served() {
        served.for_each_id(shard, &mut pace, &decide).await;
    }
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
        self.served.tell(|coordinator| coordinator.give_up(self.id, ticket));
    }
}

/// Answers a question to a coordinator of this shard.
pub async fn call_local(shard: &Rc<Shard>, call: TransactionCall) -> TransactionReply {
    let TransactionCall { partition, transactional_id: id, request } = call;
    let may_need_producer = matches!(&request, TransactionRequest::Init(_) | TransactionRequest::End(_));
    if may_need_producer {
        producer_ids::prepare(shard).await;
    }
    let served = match shard.transactions.ready(shard, partition) {
        Ok(served) => served,
        Err(error) => return TransactionReply::Refused(error),
    };
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
    let listed = |coordinator: &Coordinator, id: &str| {
        let listed = coordinator.listed(id)?;
        (filter.has(&listed, shard.clock.wall()) && matches(&listed.transactional_id)).then_some(listed)
    };
    shard.transactions.list(shard, listed).await
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
