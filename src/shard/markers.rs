//! Transaction markers: what a coordinator has written into partitions to end a transaction in them.
//!
//! A marker is appended like any batch and answered once it is durable. The coordinator sends it again until
//! it is: one that is there already is appended once more, which changes nothing.

use crate::codec::error_code::ErrorCode;
use crate::shard::event::Signal;
use crate::shard::message::{MarkerItem, MarkerOutcome, ProduceOutcome};
use crate::shard::replica::Appended;
use crate::shard::step::Pace;
use crate::shard::store::AckTarget;
use crate::shard::{Shard, groups};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Markers on their way to the disk.
struct Pending {
    shard: Weak<Shard>,
    items: Vec<MarkerItem>,
    outcomes: RefCell<Vec<MarkerOutcome>>,
    remaining: Cell<usize>,
    done: Signal,
}

impl AckTarget for Pending {
    /// A partition tells in the order of its log, and so the group coordinator hears of a marker before what is
    /// committed behind it, which is of the producer's next transaction, and in no case after it.
    fn acknowledged(&self, index: u32, outcome: ProduceOutcome) {
        if let (ErrorCode::None, Some(shard)) = (outcome.error, self.shard.upgrade()) {
            let MarkerItem { partition, marker, .. } = self.items[index as usize];
            // Only those of `__consumer_offsets` have any.
            groups::transaction_ended(&shard, partition, marker.producer, marker.outcome);
        }
        let outcome = MarkerOutcome { error: outcome.error, offset: outcome.base_offset };
        self.outcomes.borrow_mut()[index as usize] = outcome;
        self.remaining.set(self.remaining.get() - 1);
        if self.remaining.get() == 0 {
            self.done.notify();
        }
    }
}

/// Writes markers into partitions of this core; one outcome for each, in their order.
pub async fn write_local(shard: &Rc<Shard>, items: &[MarkerItem]) -> Vec<MarkerOutcome> {
    if items.is_empty() {
        return Vec::new();
    }
    let pending = Rc::new(Pending {
        shard: Rc::downgrade(shard),
        items: items.to_vec(),
        outcomes: RefCell::new(vec![MarkerOutcome::default(); items.len()]),
        remaining: Cell::new(items.len()),
        done: Signal::default(),
    });
    let target: Rc<dyn AckTarget> = pending.clone();
    let mut pace = Pace::new(&shard.clock);
    for (index, item) in (0..).zip(items) {
        write(shard, &target, index, item).await;
        pace.give_way().await;
    }
    shard.stores.pump();
    pending.done.notified().await;
    pending.outcomes.take()
}

async fn write(shard: &Rc<Shard>, target: &Rc<dyn AckTarget>, index: u32, item: &MarkerItem) {
    let Some(replica) = shard.stores.find(&item.partition) else {
        let error = shard.absence(&item.partition);
        return target.acknowledged(index, ProduceOutcome { error, ..Default::default() });
    };
    if !replica.log.borrow().producers.may_be_coordinators(&item.marker, item.newest) {
        let message = Some("no coordinator has such an epoch".to_owned());
        let error = ErrorCode::InvalidRequest;
        return target.acknowledged(index, ProduceOutcome { error, message, ..Default::default() });
    }
    let store = shard.stores.of(&replica);
    shard.wait_for_room(store).await;
    loop {
        match replica.append_marker(store, &item.marker, item.version, target, index) {
            Ok(Appended::Parked) => return,
            Ok(Appended::Wait) => {
                store.pump();
                replica.ready.notified().await;
            }
            Err(outcome) => return target.acknowledged(index, outcome),
        }
    }
}
