//! A partition's writes: appended one after the other, as they were decided.

use crate::codec::error_code::ErrorCode;
use crate::codec::record_batch::{BatchHeader, Compression, UNSEQUENCED, write_batch};
use crate::codec::records::{NewRecord, write_record};
use crate::shard::Shard;
use crate::shard::api::produce;
use crate::shard::coordinators::{Coordinating, Served, State};
use crate::shard::message::ProduceOutcome;
use crate::shard::store::AckTarget;
use crate::types::{ProducerEpoch, ProducerId, Timestamp};
use std::rc::{Rc, Weak};

/// Appends what is in the lane, until the partition goes.
pub async fn run<C: Coordinating>(shard: Rc<Shard>, served: Rc<Served<C>>) {
    while !served.ended.get() || !served.lane.borrow().is_empty() {
        let next = served.lane.borrow_mut().pop_front();
        let Some(write) = next else {
            shard.stores.pump();
            served.lane_filled.notified().await;
            continue;
        };
        let batch = match &*served.state.borrow() {
            State::Ready(coordinator) => coordinator.batch(&shard, &served.id, write),
            State::Loading | State::Failed { .. } => unreachable!("it has decided"),
        };
        let end = WriteEnd { shard: Rc::downgrade(&shard), served: served.clone(), write };
        let target: Rc<dyn AckTarget> = Rc::new(end);
        match batch {
            // Whoever coordinates by now has not heard of it.
            Some(_) if served.ended.get() => {
                let error = ErrorCode::NotLeaderOrFollower;
                target.acknowledged(0, ProduceOutcome { error, ..Default::default() });
            }
            Some(mut batch) => produce::append(&shard, &target, 0, &served.id, &mut batch, None).await,
            None => {
                let error = ErrorCode::MessageTooLarge;
                target.acknowledged(0, ProduceOutcome { error, ..Default::default() });
            }
        }
    }
}

/// Tells a coordinator what became of one of its writes.
struct WriteEnd<C: Coordinating> {
    shard: Weak<Shard>,
    served: Rc<Served<C>>,
    write: C::WriteId,
}

impl<C: Coordinating> AckTarget for WriteEnd<C> {
    fn acknowledged(&self, _index: u32, outcome: ProduceOutcome) {
        let Some(shard) = self.shard.upgrade() else { return };
        let result = match outcome.error {
            ErrorCode::None => Ok(()),
            error => Err(error),
        };
        if let Err(error) = result {
            let partition = self.served.id.partition.index();
            tracing::warn!(partition, %error, "a change of {} was not kept", C::STATE);
        }
        let write = self.write;
        self.served.decide(&shard, |coordinator, now, effects| {
            coordinator.finished(write, result, now, effects);
        });
    }
}

/// Keys and values as one batch, as a producer would send it; with `writer`, as part of that one's transaction.
pub fn batch_of(
    records: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    writer: Option<(ProducerId, ProducerEpoch)>,
    now: Timestamp,
) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut record_count = 0;
    for (offset_delta, (key, value)) in (0..).zip(records) {
        let (key, value) = (Some(&*key), value.as_deref());
        write_record(&NewRecord { offset_delta, key, value, ..NewRecord::default() }, &mut payload);
        record_count += 1;
    }
    let header = BatchHeader {
        compression: Compression::None,
        transactional: writer.is_some(),
        record_count,
        base_timestamp: now,
        max_timestamp: now,
        producer: writer.map(|(id, epoch)| (id, epoch, UNSEQUENCED)),
    };
    let mut batch = Vec::with_capacity(payload.len() + 61);
    write_batch(&header, &payload, &mut batch);
    batch
}
