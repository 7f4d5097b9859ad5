//! The transactional ids of one partition of `__transaction_state`: takes a request, says what is to be written
//! and answered.
//!
//! Of one id one write is on its way at a time; what it changes holds when it is kept. Whatever else comes
//! meanwhile is told to come again, but for additions: they wait, and are written together.

use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::codec::transaction_record::{
    PartitionNames, TransactionRecord, TransactionState, TransactionValue,
};
use crate::txn::transaction::{Added, Addition, End, Ended, FreshId, Init, Initialised, Next, Transaction};
use crate::txn::{Answer, Effect, Marking, MarkingId, Settings, Ticket, WriteId, Writer};
use crate::types::limits::{
    TRANSACTION_ADDITIONS_WAITING_MAX, TRANSACTION_ENTRY_SIZE, TRANSACTIONAL_IDS_PER_COORDINATOR_MAX,
    TRANSACTIONS_SIZE_MAX,
};
use crate::types::{CoordinatorEpoch, ProducerId, Timestamp, TransactionVersion};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What follows when a write has ended.
#[derive(Clone, Debug, PartialEq)]
enum Then {
    /// The producer is told who it is.
    Tell(Ticket),
    Add(Vec<Ticket>),
    /// The transaction is aborted by the coordinator itself; who asked for that comes again.
    Fence(Option<Ticket>),
    Complete,
    Expire,
}

/// Lives: while it is on its way.
#[derive(Clone, Debug)]
struct Write {
    record: TransactionRecord,
    next: Option<Next>,
    then: Then,
}

/// A transactional id as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub transactional_id: String,
    pub producer: ProducerId,
    pub state: TransactionState,
    /// [`Timestamp::NONE`] before the first transaction.
    pub start: Timestamp,
}

/// Lives: one per partition of `__transaction_state`, on the shard that owns it, from the end of its replay.
/// Invariant: of each transactional id at most one write is on its way, and `pending` says which.
pub struct Coordinator {
    settings: Settings,
    /// Of the partition's leader: markers of earlier ones are refused.
    epoch: CoordinatorEpoch,
    transactions: BTreeMap<String, Transaction>,
    /// Bytes that they take, with the additions that wait.
    held: usize,
    writes: BTreeMap<WriteId, Write>,
    next_write: WriteId,
    next_marking: MarkingId,
    /// It decides nothing any more: another coordinator may.
    is_resigned: bool,
    /// Transactions whose end was decided, by how.
    pub committed: u64,
    pub aborted: u64,
}

impl Coordinator {
    pub fn new(settings: Settings, epoch: CoordinatorEpoch) -> Coordinator {
        Coordinator {
            settings,
            epoch,
            transactions: BTreeMap::new(),
            held: 0,
            writes: BTreeMap::new(),
            next_write: WriteId(1),
            next_marking: MarkingId(1),
            is_resigned: false,
            committed: 0,
            aborted: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.transactions.len()
    }

    /// What a write is to append.
    pub fn record(&self, write: WriteId) -> Option<&TransactionRecord> {
        self.writes.get(&write).map(|write| &write.record)
    }

    // --- The log

    /// Takes what is in the log: the replay.
    pub fn apply(&mut self, record: TransactionRecord) {
        let TransactionRecord { transactional_id, value } = record;
        self.remove(&transactional_id);
        // The other two are never written; what they would be of is over, or has to end by its time-out.
        let value = value.filter(|value| value.state != TransactionState::Dead);
        if let Some(mut value) = value {
            if value.state == TransactionState::PrepareEpochFence {
                value.state = TransactionState::Ongoing;
            }
            self.insert(transactional_id, Transaction::from_log(value));
        }
    }

    fn insert(&mut self, id: String, transaction: Transaction) {
        self.held += size(&id, &transaction.value);
        self.transactions.insert(id, transaction);
    }

    fn remove(&mut self, id: &str) -> Option<Transaction> {
        let transaction = self.transactions.remove(id)?;
        self.held -= size(id, &transaction.value) + waiting_size(&transaction.waiting);
        Some(transaction)
    }

    /// The log has been replayed: what was decided goes on. For every id, before the first request.
    pub fn loaded(&mut self, id: &str, effects: &mut Vec<Effect>) {
        let partitions = self.transactions.get(id).map(|found| found.value.partitions.clone());
        self.mark(id, partitions.unwrap_or_default(), false, effects);
    }

    /// Nothing, while its markers are being written, or the record behind them: those of a second writing could
    /// come when the producer has begun its next transaction under the same epoch, and end that.
    fn mark(&mut self, id: &str, partitions: PartitionNames, is_again: bool, effects: &mut Vec<Effect>) {
        let found = self.transactions.get(id).filter(|_| !self.is_resigned);
        let is_marked = |found: &Transaction| found.marking.is_some() || found.pending.is_some();
        let Some(transaction) = found.filter(|found| !is_marked(found)) else { return };
        let Some(marker) = self.marker(transaction) else { return };
        let version = transaction.version();
        let marking = self.next_marking;
        self.next_marking = MarkingId(marking.0 + 1);
        self.transactions.get_mut(id).expect("it was just there").marking = Some(marking);
        let transactional_id = id.to_owned();
        effects.push(Effect::Mark(Marking {
            id: marking,
            transactional_id,
            marker,
            version,
            partitions,
            is_again,
        }));
    }

    fn marker(&self, transaction: &Transaction) -> Option<EndMarker> {
        Some(EndMarker {
            producer: transaction.value.producer,
            producer_epoch: transaction.value.epoch,
            coordinator_epoch: self.epoch,
            outcome: transaction.outcome()?,
        })
    }

    fn write(&mut self, id: &str, next: Option<Next>, then: Then, effects: &mut Vec<Effect>) {
        let transaction = self.transactions.get_mut(id).expect("who decides is there");
        assert!(transaction.pending.is_none(), "one write at a time");
        let value = next.as_ref().map(|next| next.value.clone());
        transaction.pending = Some(value.as_ref().map_or(TransactionState::Dead, |value| value.state));
        let record = TransactionRecord { transactional_id: id.to_owned(), value };
        let write = self.next_write;
        self.next_write = WriteId(write.0 + 1);
        self.writes.insert(write, Write { record, next, then });
        effects.push(Effect::Write(write));
    }

    /// A write has ended: its record is kept, or not, for that reason.
    pub fn finished(
        &mut self,
        write: WriteId,
        result: Result<(), ErrorCode>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Write { record, next, then }) = self.writes.remove(&write) else { return };
        let id = record.transactional_id;
        let kept = result.map_err(write_error);
        let transaction = self.transactions.get_mut(&id).expect("nothing goes while it is written");
        assert!(transaction.pending.take().is_some(), "it was on its way");
        match (&kept, next) {
            (Ok(()), Some(next)) => {
                self.held -= size(&id, &transaction.value);
                self.held += size(&id, &next.value);
                transaction.value = next.value;
                transaction.last_epoch = next.last_epoch;
                transaction.is_kept = true;
            }
            (Ok(()), None) => self.expired(&id, effects),
            (Err(_), _) if !transaction.is_kept => self.expired(&id, effects),
            (Err(_), _) => {}
        }
        self.follow(&id, then, kept, effects);
        self.add_waiting(&id, now, effects);
    }

    /// Who waited to add something has nothing to add it to.
    fn expired(&mut self, id: &str, effects: &mut Vec<Effect>) {
        let gone = self.remove(id).into_iter().flat_map(|gone| gone.waiting);
        let refused = Answer::Added(Err(ErrorCode::InvalidProducerIdMapping));
        effects.extend(gone.map(|(_, ticket)| Effect::Answer(ticket, refused)));
    }

    fn follow(&mut self, id: &str, then: Then, kept: Result<(), ErrorCode>, effects: &mut Vec<Effect>) {
        let found = self.transactions.get(id);
        let writer = found.map(Transaction::told);
        let is_decided = kept.is_ok() && found.is_some_and(|found| found.value.state.is_prepared());
        if is_decided {
            let found = found.expect("it is decided");
            match found.value.state {
                TransactionState::PrepareCommit => self.committed += 1,
                _ => self.aborted += 1,
            }
            let partitions = found.value.partitions.clone();
            self.mark(id, partitions, false, effects);
        }
        match then {
            Then::Tell(ticket) => {
                let told = kept.and_then(|()| writer.ok_or(ErrorCode::UnknownServerError));
                effects.push(Effect::Answer(ticket, Answer::Writer(told)));
            }
            Then::Add(tickets) => {
                effects.extend(tickets.into_iter().map(|ticket| Effect::Answer(ticket, Answer::Added(kept))));
            }
            Then::Fence(ticket) => {
                let told = kept.and(Err(ErrorCode::ConcurrentTransactions));
                effects.extend(ticket.map(|ticket| Effect::Answer(ticket, Answer::Writer(told))));
            }
            // The markers are there: only this is tried again.
            Then::Complete if kept.is_err() => self.mark(id, PartitionNames::default(), true, effects),
            Then::Complete | Then::Expire => {}
        }
    }

    // --- Requests

    pub fn init(
        &mut self,
        id: &str,
        init: &Init,
        ticket: Ticket,
        now: Timestamp,
        fresh: FreshId<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let refuse = |error| Effect::Answer(ticket, Answer::Writer(Err(error)));
        if id.is_empty() {
            return effects.push(refuse(ErrorCode::InvalidRequest));
        }
        let timeout_max = self.settings.timeout_max.as_millis();
        if init.timeout_ms <= 0 || init.timeout_ms as u128 > timeout_max {
            return effects.push(refuse(ErrorCode::InvalidTransactionTimeout));
        }
        if !self.transactions.contains_key(id) {
            let is_full = self.transactions.len() >= TRANSACTIONAL_IDS_PER_COORDINATOR_MAX
                || self.held > TRANSACTIONS_SIZE_MAX;
            let Some(producer) = fresh().filter(|_| !is_full) else {
                return effects.push(refuse(ErrorCode::CoordinatorNotAvailable));
            };
            self.insert(id.to_owned(), Transaction::new(producer, init.timeout_ms, now));
        }
        match self.transactions[id].init(init, now, fresh) {
            Ok(Initialised::As(next)) => self.write(id, Some(next), Then::Tell(ticket), effects),
            Ok(Initialised::Fences(next)) => self.write(id, Some(next), Then::Fence(Some(ticket)), effects),
            Err(error) => effects.push(refuse(error)),
        }
    }

    pub fn add(
        &mut self,
        id: &str,
        addition: Addition,
        ticket: Ticket,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        self.add_all(id, vec![(addition, ticket)], now, effects);
    }

    /// What waited for the last write, together.
    fn add_waiting(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let waiting = self.transactions.get_mut(id).map(|found| std::mem::take(&mut found.waiting));
        if let Some(waiting) = waiting.filter(|waiting| !waiting.is_empty()) {
            self.held -= waiting_size(&waiting);
            self.add_all(id, waiting, now, effects);
        }
    }

    /// Who asked for an addition waits no more: it is not to be made behind the back of a producer that was told
    /// otherwise.
    pub fn give_up(&mut self, id: &str, ticket: Ticket) {
        let Some(found) = self.transactions.get_mut(id) else { return };
        let given_up = found.waiting.extract_if(.., |(_, waiting)| *waiting == ticket);
        self.held -= given_up.map(|(addition, _)| addition_size(&addition)).sum::<usize>();
    }

    fn add_all(
        &mut self,
        id: &str,
        additions: Vec<(Addition, Ticket)>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let mut added = PartitionNames::default();
        let mut tickets = Vec::new();
        let mut version = TransactionVersion::V1;
        let mut held = self.held;
        for (addition, ticket) in additions {
            let answer = |result| Effect::Answer(ticket, Answer::Added(result));
            let found = self.transactions.get_mut(id);
            let found = found.ok_or(if id.is_empty() {
                ErrorCode::InvalidRequest
            } else {
                ErrorCode::InvalidProducerIdMapping
            });
            let judged = found.and_then(|found| Ok((found.add(&addition)?, found)));
            match judged {
                Err(error) => effects.push(answer(Err(error))),
                Ok((Added::Already, _)) => effects.push(answer(Ok(()))),
                Ok((Added::Later, found))
                    if found.waiting.len() < TRANSACTION_ADDITIONS_WAITING_MAX
                        && held + addition_size(&addition) <= TRANSACTIONS_SIZE_MAX =>
                {
                    held += addition_size(&addition);
                    found.waiting.push((addition, ticket));
                }
                Ok((Added::Later, _)) => effects.push(answer(Err(ErrorCode::ConcurrentTransactions))),
                Ok((Added::New, _)) => {
                    added.add_all(&addition.partitions);
                    version = version.max(addition.version);
                    tickets.push(ticket);
                }
            }
        }
        self.held = held;
        if tickets.is_empty() {
            return;
        }
        if self.held + added.size() > TRANSACTIONS_SIZE_MAX {
            let refused = Answer::Added(Err(ErrorCode::CoordinatorNotAvailable));
            return effects.extend(tickets.into_iter().map(|ticket| Effect::Answer(ticket, refused)));
        }
        let next = self.transactions[id].with_partitions(&added, version, now);
        self.write(id, Some(next), Then::Add(tickets), effects);
    }

    /// Whether a producer's transaction has a partition.
    pub fn verify(&self, id: &str, writer: Writer, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let found = self.transactions.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        found.verify(writer, topic, partition)
    }

    pub fn end(
        &mut self,
        id: &str,
        end: &End,
        ticket: Ticket,
        now: Timestamp,
        fresh: FreshId<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let ended = match self.transactions.get(id) {
            _ if id.is_empty() => Err(ErrorCode::InvalidRequest),
            None => Err(ErrorCode::InvalidProducerIdMapping),
            Some(found) => found.end(end, now, fresh),
        };
        match ended {
            Ok(Ended::By(next)) => self.write(id, Some(next), Then::Tell(ticket), effects),
            Ok(Ended::Already(writer)) => {
                effects.push(Effect::Answer(ticket, Answer::Writer(Ok(writer))));
            }
            Err(error) => effects.push(Effect::Answer(ticket, Answer::Writer(Err(error)))),
        }
    }

    /// Every partition of a transaction has its marker, or is gone.
    pub fn marked(&mut self, id: &str, marking: MarkingId, now: Timestamp, effects: &mut Vec<Effect>) {
        let found = self.transactions.get_mut(id).filter(|_| !self.is_resigned);
        let Some(found) = found.filter(|found| found.marking == Some(marking)) else { return };
        found.marking = None;
        let next = found.completed(now);
        self.write(id, Some(next), Then::Complete, effects);
    }

    // --- Time

    /// Aborts a transaction that takes longer than its producer has said. Whether it does.
    pub fn abort_timed_out(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) -> bool {
        let found = self.transactions.get(id).filter(|_| !self.is_resigned);
        let Some(found) = found.filter(|found| found.is_timed_out(now)) else { return false };
        let next = found.fence(now);
        self.write(id, Some(next), Then::Fence(None), effects);
        true
    }

    /// Takes away an id that nobody uses.
    pub fn expire(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let found = self.transactions.get(id).filter(|_| !self.is_resigned);
        if found.is_some_and(|found| found.is_expired(now, self.settings.id_expiration)) {
            self.write(id, None, Then::Expire, effects);
        }
    }

    /// The first ids behind one, for walks that take turns.
    pub fn ids_after(&self, after: Option<&str>, count: usize) -> Vec<String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.transactions.range::<str, _>((from, Bound::Unbounded));
        found.take(count).map(|(id, _)| id.clone()).collect()
    }

    /// This is the coordinator no more: all that waits is answered so.
    pub fn resign(&mut self, effects: &mut Vec<Effect>) {
        self.is_resigned = true;
        let refused = Answer::Added(Err(ErrorCode::NotCoordinator));
        for found in self.transactions.values_mut() {
            self.held -= waiting_size(&found.waiting);
            let waiting = std::mem::take(&mut found.waiting).into_iter();
            effects.extend(waiting.map(|(_, ticket)| Effect::Answer(ticket, refused)));
        }
    }

    // --- Questions

    /// What the log has of an id.
    pub fn describe(&self, id: &str) -> Option<&TransactionValue> {
        self.transactions.get(id).filter(|found| found.is_kept).map(|found| &found.value)
    }

    pub fn listed(&self, id: &str) -> Option<Listed> {
        let value = self.describe(id)?;
        Some(Listed {
            transactional_id: id.to_owned(),
            producer: value.producer,
            state: value.state,
            start: value.start,
        })
    }

    /// Panics unless what must hold does.
    #[cfg(test)]
    pub fn check(&self) {
        let sizes =
            self.transactions.iter().map(|(id, found)| size(id, &found.value) + waiting_size(&found.waiting));
        assert_eq!(self.held, sizes.sum::<usize>());
        let mut written: Vec<&str> =
            self.writes.values().map(|write| write.record.transactional_id.as_str()).collect();
        written.sort_unstable();
        let pending = self.transactions.iter().filter(|(_, found)| found.pending.is_some());
        let pending: Vec<&str> = pending.map(|(id, _)| id.as_str()).collect();
        assert_eq!(written, pending);
        for found in self.transactions.values() {
            let waits_for = found.pending.is_some() || found.value.state.is_prepared();
            assert!(found.waiting.is_empty() || waits_for || self.is_resigned, "{found:?}");
            assert!(found.is_kept || found.pending.is_some(), "{found:?}");
            let is_marked = found.value.state.is_prepared() && found.pending.is_none();
            assert!(found.marking.is_none() || is_marked, "{found:?}");
        }
    }
}

fn size(id: &str, value: &TransactionValue) -> usize {
    TRANSACTION_ENTRY_SIZE + id.len() + value.partitions.size()
}

fn addition_size(addition: &Addition) -> usize {
    size_of::<(Addition, Ticket)>() + addition.partitions.size()
}

fn waiting_size(waiting: &[(Addition, Ticket)]) -> usize {
    waiting.iter().map(|(addition, _)| addition_size(addition)).sum()
}

/// What a client is told when a record could not be kept (Kafka `TransactionStateManager`).
fn write_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => ErrorCode::UnknownServerError,
        error => error,
    }
}
