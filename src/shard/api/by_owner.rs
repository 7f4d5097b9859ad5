//! Requests that ask the same of many partitions: sorted by the shard that owns them, asked side by
//! side, and the outcomes put back where the request has them.

use crate::shard::Shard;
use crate::shard::message::{Reply, Request};
use crate::types::ShardId;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is asked of one partition.
pub trait PartitionItem: Sized {
    type Outcome;

    /// Does it for partitions of this shard; one outcome for each item, in their order.
    async fn serve(shard: &Rc<Shard>, items: Vec<Self>) -> Vec<Self::Outcome>;

    /// Asks another shard for it.
    fn request(items: Vec<Self>) -> Request;

    /// What came of it there.
    fn outcomes(reply: Reply) -> Vec<Self::Outcome>;
}

/// Where a partition stands in its request, and so in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub topic: usize,
    pub partition: usize,
}

/// The items of one request.
pub struct ByOwner<I> {
    groups: BTreeMap<ShardId, (Vec<Place>, Vec<I>)>,
}

impl<I: PartitionItem> ByOwner<I> {
    pub fn new() -> ByOwner<I> {
        ByOwner { groups: BTreeMap::new() }
    }

    pub fn push(&mut self, owner: ShardId, place: Place, item: I) {
        let (places, items) = self.groups.entry(owner).or_default();
        places.push(place);
        items.push(item);
    }

    /// Asks every owner. The other shards work while this one does its part.
    pub async fn ask(mut self, shard: &Rc<Shard>) -> Vec<(Place, I::Outcome)> {
        let local = self.groups.remove(&shard.id);
        let mut answered = Vec::new();
        let mut asked = Vec::with_capacity(self.groups.len());
        for (owner, (places, items)) in self.groups {
            shard.metrics.borrow_mut().requests_forwarded += 1;
            asked.push((places, shard.mesh.ask(owner, I::request(items)).await));
        }
        if let Some((places, items)) = local {
            answered.extend(places.into_iter().zip(I::serve(shard, items).await));
        }
        for (places, ticket) in asked {
            let outcomes = I::outcomes(shard.mesh.reply(ticket).await);
            answered.extend(places.into_iter().zip(outcomes));
        }
        answered
    }
}
