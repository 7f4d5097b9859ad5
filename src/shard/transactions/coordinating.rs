//! What a coordinator of transactions is to its shard: its batches, what follows from its decisions, and how its
//! log is replayed.

use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::codec::records::RecordView;
use crate::codec::transaction_record::{TransactionRecord, TransactionRecordError};
use crate::shard::Shard;
use crate::shard::coordinators::{self, BatchPlace, Coordinating, Decoded};
use crate::shard::replica::Replica;
use crate::shard::step::Pace;
use crate::shard::transactions::{Served, mark};
use crate::txn::coordinator::Coordinator;
use crate::txn::{Answer, Effect, Settings, TRANSACTIONS_TOPIC, Ticket, WriteId};
use crate::types::{CoordinatorEpoch, Timestamp, TopicPartition};
use std::rc::Rc;

impl Coordinating for Coordinator {
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    const STATE: &'static str = "transactions";
    const IDS_STEP: usize = 64;

    type Answer = Answer;
    type WriteId = WriteId;
    type Effect = Effect;
    type Now = Timestamp;
    type Decided = Vec<Effect>;
    type Beside = ();
    type Record = TransactionRecord;
    type RecordError = TransactionRecordError;

    /// With the epoch of the partition's leader, by which markers are fenced.
    fn empty(shard: &Shard, partition: TopicPartition) -> Coordinator {
        let image = shard.image.borrow();
        let epoch = image.partition(partition).map_or(0, |state| state.leader_epoch.0);
        Coordinator::new(Settings::new(&shard.config), CoordinatorEpoch(epoch))
    }

    fn decide<T>(
        &mut self,
        shard: &Shard,
        decide: impl FnOnce(&mut Coordinator, Timestamp, &mut Vec<Effect>) -> T,
    ) -> (T, Vec<Effect>) {
        let mut effects = Vec::new();
        let (committed, aborted) = (self.committed, self.aborted);
        let decided = decide(self, shard.clock.wall(), &mut effects);
        let mut metrics = shard.metrics.borrow_mut();
        metrics.transactions_committed += self.committed - committed;
        metrics.transactions_aborted += self.aborted - aborted;
        (decided, effects)
    }

    fn carry_out(shard: &Rc<Shard>, served: &Rc<Served>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(Ticket(number), answer) => shard.transactions.answers.complete(number, answer),
                Effect::Write(write) => served.write(write),
                Effect::Mark(marking) => {
                    shard.spawn(mark::run(shard.clone(), served.clone(), marking));
                }
            }
        }
    }

    fn batch(&self, shard: &Shard, _partition: &TopicPartition, write: WriteId) -> Option<Vec<u8>> {
        let record = self.record(write).expect("it is on its way");
        let pair = (record.encode_key(), record.encode_value());
        Some(coordinators::batch_of([pair].into_iter(), None, shard.clock.wall()))
    }

    fn finished(
        &mut self,
        write: WriteId,
        result: Result<(), ErrorCode>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        self.finished(write, result, now, effects);
    }

    fn resign(&mut self, _now: Timestamp, effects: &mut Vec<Effect>) {
        self.resign(effects);
    }

    fn count(&self) -> usize {
        self.count()
    }

    fn ids_after(&self, after: Option<&str>, count: usize) -> Vec<String> {
        self.ids_after(after, count)
    }

    fn decode(record: &RecordView<'_>) -> Decoded<Coordinator> {
        TransactionRecord::decode(record.key, record.value)
    }

    /// A transaction that cannot be read must not end in another way than it was decided.
    fn replay(
        &mut self,
        _replica: &Replica,
        _place: BatchPlace,
        record: Decoded<Coordinator>,
    ) -> Result<(), TransactionRecordError> {
        if let Some(record) = record? {
            self.apply(record);
        }
        Ok(())
    }

    /// An operator may have written one here: it is passed over.
    async fn replay_marker(&mut self, _marker: EndMarker, _pace: &mut Pace) {}

    /// Transactions that are decided go on to their end. What is to be done is found before anything is asked: what
    /// a request decides meanwhile is not to be ended twice.
    async fn go_on(mut self, shard: &Rc<Shard>, served: &Rc<Served>) {
        let mut effects = begun(shard, &mut self).await;
        served.take_up(self);
        let mut pace = Pace::new(&shard.clock);
        while !effects.is_empty() {
            let later = effects.split_off(effects.len().min(Coordinator::IDS_STEP));
            Coordinator::carry_out(shard, served, std::mem::replace(&mut effects, later));
            pace.give_way().await;
        }
    }
}

/// What was decided, and is not ended in all of its partitions.
async fn begun(shard: &Rc<Shard>, coordinator: &mut Coordinator) -> Vec<Effect> {
    let mut pace = Pace::new(&shard.clock);
    let mut effects = Vec::new();
    let mut ids = coordinator.ids_after(None, Coordinator::IDS_STEP);
    while let Some(last) = ids.last() {
        ids.iter().for_each(|id| coordinator.loaded(id, &mut effects));
        ids = coordinator.ids_after(Some(last), Coordinator::IDS_STEP);
        pace.give_way().await;
    }
    effects
}
