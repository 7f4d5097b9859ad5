//! What a coordinator of groups is to its shard: its batches, what follows from its decisions, and how its log is
//! replayed.

use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::{GroupRecord, GroupRecordError};
use crate::codec::records::RecordView;
use crate::group::assignor::Assignor;
use crate::group::consumer::{ConsumerSettings, Migration};
use crate::group::coordinator::{Coordinator, ToResolve, TransactionWriter};
use crate::group::{Answer, Effect, GROUPS_TOPIC, Moment, Settings, WriteId};
use crate::shard::Shard;
use crate::shard::coordinators::{self, BatchPlace, Coordinating, Decoded};
use crate::shard::groups::{Served, forget_gone_topics, topics};
use crate::shard::replica::Replica;
use crate::shard::step::Pace;
use crate::types::limits::{GROUP_BATCH_SIZE_MAX, GROUP_TRANSACTION_AT_ONCE_MAX, GROUP_WORK_STEP};
use crate::types::{Mono, Timestamp, TopicPartition};
use std::cell::Cell;
use std::rc::Rc;

/// What is to be done once a coordinator has decided something.
pub struct Decision {
    effects: Vec<Effect>,
    to_resolve: Vec<ToResolve>,
    has_work: bool,
    next_deadline: Option<Mono>,
}

/// There is what takes long, and a task that is at it.
#[derive(Default)]
pub struct Work {
    is_there: Cell<bool>,
    is_going_on: Cell<bool>,
}

impl Coordinating for Coordinator {
    const TOPIC: &'static str = GROUPS_TOPIC;
    const STATE: &'static str = "consumer groups";
    const IDS_STEP: usize = 16;

    type Answer = Answer;
    type WriteId = WriteId;
    type Effect = Effect;
    type Now = Moment;
    type Decided = Decision;
    type Beside = Work;
    type Record = GroupRecord;
    type RecordError = GroupRecordError;

    fn empty(shard: &Shard, _partition: TopicPartition) -> Coordinator {
        let config = &shard.config;
        let named = |name: &&str| Assignor::named(name).expect("the configuration has no others");
        let policy = config.group_consumer_migration_policy;
        let migration = Migration::ALL.into_iter().find(|migration| migration.name() == policy);
        let consumers = ConsumerSettings {
            session_timeout: config.group_consumer_session_timeout,
            heartbeat_interval: config.group_consumer_heartbeat_interval,
            size_max: config.group_consumer_max_size,
            assignors: config.group_consumer_assignors.iter().map(named).collect(),
            migration: migration.expect("the configuration has no others"),
            ..ConsumerSettings::default()
        };
        let topics = Rc::new(topics::ImageTopics::new(shard));
        Coordinator::new(Settings::new(config))
            .with_consumers(consumers, topics)
            .with_patterns(shard.groups.patterns.clone())
    }

    fn decide<T>(
        &mut self,
        shard: &Shard,
        decide: impl FnOnce(&mut Coordinator, Moment, &mut Vec<Effect>) -> T,
    ) -> (T, Decision) {
        let now = Moment { mono: shard.clock.mono(), wall: shard.clock.wall() };
        let mut effects = Vec::new();
        let rebalances = self.rebalances;
        let decided = decide(self, now, &mut effects);
        shard.metrics.borrow_mut().group_rebalances += self.rebalances - rebalances;
        let to_resolve = std::iter::from_fn(|| self.next_to_resolve()).collect();
        let (has_work, next_deadline) = (self.has_work(), self.next_deadline());
        (decided, Decision { effects, to_resolve, has_work, next_deadline })
    }

    fn carry_out(shard: &Rc<Shard>, served: &Rc<Served>, decision: Decision) {
        for effect in decision.effects {
            match effect {
                Effect::Answer(ticket, answer) => {
                    shard.groups.coordinators.answers.complete(ticket.0, answer);
                }
                Effect::Write(write) => served.write(write),
            }
        }
        let work = &served.beside;
        work.is_there.set(decision.has_work);
        if decision.has_work && !work.is_going_on.replace(true) {
            shard.spawn(go_on_working(shard.clone(), served.clone()));
        }
        for asked in decision.to_resolve {
            shard.spawn(topics::resolve(shard.clone(), served.clone(), asked));
        }
        shard.groups.look_by(decision.next_deadline);
    }

    fn batch(&self, shard: &Shard, partition: &TopicPartition, write: WriteId) -> Option<Vec<u8>> {
        let allowed = shard.stores.find(partition).map_or(usize::MAX, |replica| {
            let log = replica.log.borrow();
            log.config.batch_size_max.min(usize::try_from(log.config.segment_size_max).unwrap_or(usize::MAX))
        });
        let (records, writer) = (self.records(write), self.writer(write));
        let batch = batch_of(records, writer, shard.clock.wall(), allowed.min(GROUP_BATCH_SIZE_MAX));
        if batch.is_none() {
            let size = records.iter().map(GroupRecord::size).sum::<usize>();
            let group = records.first().map_or("", GroupRecord::group);
            tracing::error!(
                group,
                size,
                allowed,
                "what is to be kept of a group is larger than its log takes: raise max.message.bytes of \
                 {GROUPS_TOPIC}"
            );
        }
        batch
    }

    fn finished(
        &mut self,
        write: WriteId,
        result: Result<(), ErrorCode>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        self.finished(write, result, now, effects);
    }

    fn resign(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.resign(now, effects);
    }

    fn count(&self) -> usize {
        self.group_count()
    }

    fn ids_after(&self, after: Option<&str>, count: usize) -> Vec<String> {
        self.ids_after(after, count)
    }

    fn decode(record: &RecordView<'_>) -> Decoded<Coordinator> {
        GroupRecord::decode(record.key, record.value)
    }

    fn replay(
        &mut self,
        replica: &Replica,
        place: BatchPlace,
        record: Decoded<Coordinator>,
    ) -> Result<(), GroupRecordError> {
        let (partition, batch) = (replica.id.partition.index(), place.base_offset);
        match record {
            Ok(Some(mut record)) => {
                if let GroupRecord::Group { group, value: Some(value) } = &mut record {
                    let dropped = value.drop_repeated();
                    if dropped > 0 {
                        tracing::error!(partition, %batch, group, dropped, "a group's record names members twice");
                    }
                }
                match place.producer {
                    Some(producer) => self.apply_in_transaction(producer, &record),
                    None => self.apply(&record),
                }
            }
            Ok(None) => {} // Of another kind of group.
            // One group is the worse for it, the others go on.
            Err(error) => {
                tracing::error!(partition, %batch, %error, "a record of consumer groups is passed over");
            }
        }
        Ok(())
    }

    /// Its transaction is decided.
    async fn replay_marker(&mut self, marker: EndMarker, pace: &mut Pace) {
        self.transaction_ended(marker.producer, marker.outcome);
        while self.end_transactions(GROUP_TRANSACTION_AT_ONCE_MAX) {
            pace.give_way().await;
        }
    }

    async fn go_on(self, shard: &Rc<Shard>, served: &Rc<Served>) {
        served.take_up(self);
        served.for_each_id(shard, &mut Pace::new(&shard.clock), Coordinator::loaded).await;
        // A crash may have come between a topic's deletion and theirs.
        forget_gone_topics(shard, served).await;
    }
}

/// Goes on with what takes a coordinator long, a little at a time.
async fn go_on_working(shard: Rc<Shard>, served: Rc<Served>) {
    let mut pace = Pace::new(&shard.clock);
    while served.beside.is_there.get() {
        pace.give_way().await;
        served.decide(&shard, |coordinator, now, effects| coordinator.work(GROUP_WORK_STEP, now, effects));
    }
    served.beside.is_going_on.set(false);
}

/// Records as one batch; `None` if they have more bytes than so many, in which case nothing is written.
fn batch_of(
    records: &[GroupRecord],
    writer: Option<TransactionWriter>,
    now: Timestamp,
    size_max: usize,
) -> Option<Vec<u8>> {
    if records.iter().map(GroupRecord::size).sum::<usize>() > size_max {
        return None;
    }
    let pairs = records.iter().map(|record| (record.encode_key(), record.encode_value()));
    Some(coordinators::batch_of(pairs, writer, now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::group_record::{GroupValue, MemberValue};
    use bytes::Bytes;

    #[test]
    fn what_does_not_fit_the_log_is_not_even_written() {
        // One MiB each, all of them the same memory.
        let subscription = Bytes::from(vec![0; 1 << 20]);
        let group = |members: usize| {
            let member = MemberValue { subscription: subscription.clone(), ..MemberValue::default() };
            let value = GroupValue { members: vec![member; members], ..GroupValue::default() };
            [GroupRecord::Group { group: "g".to_owned(), value: Some(value) }]
        };
        let small = group(1);
        let size = small[0].size();
        assert!(batch_of(&small, None, Timestamp(0), size).is_some());
        assert!(batch_of(&small, None, Timestamp(0), size - 1).is_none());
        assert!(batch_of(&group(10_000), None, Timestamp(0), GROUP_BATCH_SIZE_MAX).is_none(), "10 GiB");
    }
}
