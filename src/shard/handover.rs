//! Partitions move from one shard of this node to another one while both serve (DESIGN 4).
//!
//! The metadata say whose they are; shard 0, which has these applied one after the other, sees to the rest:
//!
//! ```text
//!   from:  let go ─────────┐                          ┌─► forget ──────────────┐
//!          written out,    ▼                          │   checkpoint without   ▼
//!          not found   records applied everywhere     │   it, journal: gone    to:  take over
//!                          └─► to: expect ────────────┘                             opened, takes its role
//!                                  checkpoint has it
//! ```
//!
//! A start replays the journals of both shards. After a crash between any two steps it finds the same log:
//!
//! | crash before | where the log ends and begins |
//! |---|---|
//! | expect | checkpoint and journal of the shard that had it |
//! | forget | the same, and the checkpoint of the one that gets it |
//! | the journal says that it is gone | that journal, and the checkpoint of the one that gets it |
//! | take over | the checkpoint of the one that gets it |
//!
//! What cannot be done at a step, for want of space mostly, is tried again from the step of the
//! first that was not done; nobody is served from the partition meanwhile, and a start finds what the table says.
//!
//! Nothing changes the log before the journal of the shard that had it says that it is gone: what is in there would be
//! replayed over what has come since.

use crate::cluster::image::Image;
use crate::cluster::record::{PartitionState as PartitionStateRecord, Record};
use crate::log::checkpoint::PartitionPoint;
use crate::log::final_state::PartitionState;
use crate::log::segment::SegmentInfo;
use crate::shard::Shard;
use crate::shard::message::{Reply, Request};
use crate::shard::restoring::StatedUnder;
use crate::types::{NodeId, Offset, ShardId, TopicPartition};
use futures::future::join_all;
use glommio::sync::Semaphore;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

mod steps;

pub use steps::take_step;

/// What a replica has is written out within this time, or it stays for now.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);

/// After which moves that could not be made are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// What shard 0 asks of those that let go and of those that take over.
#[derive(Clone)]
pub enum HandoverStep {
    /// These are another shard's from now on. What cannot be written out within that time stays for now.
    LetGo(Vec<TopicPartition>, Duration),
    /// They are on their way to the receiver, which has the metadata that say so; how far each is flushed.
    Expect(Vec<(TopicPartition, Option<PartitionPoint>)>),
    /// They have reached the checkpoints of the shards that get them.
    Forget(Vec<TopicPartition>),
    /// They are the receiver's.
    TakeOver(Vec<HandedOver>),
    /// The receiver could not let them go, and keeps them: the metadata have changed once more.
    Keep(Vec<TopicPartition>),
    /// They leave the node, or are deleted, before they have reached another shard.
    Drop(Vec<TopicPartition>),
}

/// What has become of it.
pub enum StepTaken {
    /// Those that were let go.
    LetGo(Vec<HandedOver>),
    /// Those of which it is done.
    Done(BTreeSet<TopicPartition>),
}

/// A partition's log between two shards: nothing of it is in memory or in flight.
#[derive(Clone, Debug)]
pub struct HandedOver {
    pub id: TopicPartition,
    /// How far it is flushed; `None` where nobody knows, as it was never open.
    pub point: Option<PartitionPoint>,
    /// `None`: it was not open, and is not opened by the next owner either. What is the matter with it a start finds
    /// out again.
    pub whole: Option<Whole>,
    /// It is damaged.
    damaged: Option<StatedUnder>,
}

/// What an open needs so that it need not read anything, and what is not on disk.
#[derive(Clone, Debug)]
pub struct Whole {
    state: PartitionState,
    closed: Vec<SegmentInfo>,
    high_watermark: Offset,
    /// Sessions with leaders.
    sessions: u32,
}

/// Which partitions leave which shard for which.
type Moves = BTreeMap<TopicPartition, (ShardId, ShardId)>;

/// A move that could not be made, for want of space mostly.
struct Waiting {
    from: ShardId,
    /// It was let go.
    handed: Option<HandedOver>,
    /// Shards that were told to expect it: their checkpoints may speak of it.
    expected_by: BTreeSet<ShardId>,
}

/// Moves between the shards of this node.
///
/// Lives: one per shard, and is used by the one that has the quorum.
pub struct Handovers {
    /// One change of the metadata is carried out at a time.
    pub turn: Semaphore,
    waiting: RefCell<BTreeMap<TopicPartition, Waiting>>,
    /// Somebody sees to those.
    retrying: Cell<bool>,
}

impl Default for Handovers {
    fn default() -> Handovers {
        Handovers { turn: Semaphore::new(1), waiting: RefCell::default(), retrying: Cell::new(false) }
    }
}

/// What is on its way while records are applied.
#[derive(Default)]
pub struct Underway {
    moves: Moves,
    handed: Vec<HandedOver>,
    expected_by: BTreeMap<TopicPartition, BTreeSet<ShardId>>,
}

fn owner(state: &PartitionStateRecord, node: NodeId) -> Option<ShardId> {
    state.replica_on(node).map(|replica| replica.owner)
}

/// Who owns the partitions that these records are about once they are applied; `None`: nobody, or a replica that comes
/// anew.
fn owners_after(node: NodeId, records: &[Record]) -> BTreeMap<TopicPartition, Option<ShardId>> {
    let mut last: BTreeMap<TopicPartition, Option<ShardId>> = BTreeMap::new();
    for record in records {
        match record {
            Record::PartitionChanged { id, state } => {
                // One that has left does not come back as it was.
                let next = last.get(id).is_none_or(Option::is_some).then(|| owner(state, node)).flatten();
                last.insert(*id, next);
            }
            Record::TopicDeleted { topic } => {
                let of_topic = last.iter_mut().filter(|(id, _)| id.topic == *topic);
                of_topic.for_each(|(_, owner)| *owner = None);
            }
            _ => {}
        }
    }
    last
}

/// Partitions that have another owner on this node once these records are applied, but stay on it all the while.
fn moves(image: &Image, node: NodeId, records: &[Record]) -> Moves {
    let moves = owners_after(node, records).into_iter().filter_map(|(id, to)| {
        let (from, to) = (owner(image.partition(id)?, node)?, to?);
        (from != to).then_some((id, (from, to)))
    });
    moves.collect()
}

/// Before these records are applied anywhere: the shards that have partitions which are others' then let them go.
pub async fn begin(shard: &Rc<Shard>, records: &[Record]) -> Underway {
    let moves = moves(&shard.image.borrow(), shard.node, records);
    let mut underway = Underway { moves, ..Underway::default() };
    // Those that wait are still where they were.
    let mut waiting = take_waiting(shard, records);
    drop_those_that_go(shard, &mut waiting).await;
    underway.moves.retain(|id, _| !waiting.contains_key(id));
    let_all_go(shard, &mut underway, SETTLE_TIME_MAX).await;
    underway.goes_on(waiting);
    // They have had their time.
    let_all_go(shard, &mut underway, Duration::ZERO).await;
    underway
}

/// Partitions that wait, and who owns them next.
type StillWaiting = BTreeMap<TopicPartition, (Waiting, Option<ShardId>)>;

/// Those that these records are about.
fn take_waiting(shard: &Shard, records: &[Record]) -> StillWaiting {
    let mut waiting = shard.handovers.waiting.borrow_mut();
    let owners = owners_after(shard.node, records);
    let is_deleted = |id: &TopicPartition| {
        records.iter().any(|record| matches!(record, Record::TopicDeleted { topic } if *topic == id.topic))
    };
    let taken = waiting.extract_if(.., |id, _| owners.contains_key(id) || is_deleted(id));
    taken.map(|(id, waiting)| (id, (waiting, owners.get(&id).copied().flatten()))).collect()
}

/// Nothing is left of those on any shard, before others hear that they go.
async fn drop_those_that_go(shard: &Rc<Shard>, waiting: &mut StillWaiting) {
    let mut by_shard: BTreeMap<ShardId, Vec<TopicPartition>> = BTreeMap::new();
    for (id, (waiting, _)) in waiting.extract_if(.., |_, (_, to)| to.is_none()) {
        for shard in waiting.expected_by.into_iter().chain([waiting.from]).collect::<BTreeSet<_>>() {
            by_shard.entry(shard).or_default().push(id);
        }
    }
    join_all(by_shard.into_iter().map(|(from, ids)| ask(shard, from, HandoverStep::Drop(ids)))).await;
}

impl Underway {
    fn goes_on(&mut self, waiting: StillWaiting) {
        for (id, (waiting, to)) in waiting {
            let Some(to) = to else { continue };
            self.moves.insert(id, (waiting.from, to));
            self.handed.extend(waiting.handed);
            self.expected_by.insert(id, waiting.expected_by);
        }
    }
}

async fn let_all_go(shard: &Rc<Shard>, underway: &mut Underway, patience: Duration) {
    let Underway { moves, handed, .. } = underway;
    let mut by_owner: BTreeMap<ShardId, Vec<TopicPartition>> = BTreeMap::new();
    for (id, (from, to)) in &*moves {
        if from != to && handed.iter().all(|handed| handed.id != *id) {
            by_owner.entry(*from).or_default().push(*id);
        }
    }
    let let_go = by_owner.into_iter().map(|(from, ids)| ask(shard, from, HandoverStep::LetGo(ids, patience)));
    for taken in join_all(let_go).await {
        if let StepTaken::LetGo(let_gone) = taken {
            handed.extend(let_gone);
        }
    }
}

/// Once they are applied everywhere. What cannot be done now is tried again.
pub async fn complete(shard: &Rc<Shard>, Underway { moves, handed, mut expected_by }: Underway) {
    if moves.is_empty() {
        return;
    }
    let mut kept: BTreeMap<ShardId, Vec<TopicPartition>> = BTreeMap::new();
    let mut left: BTreeMap<TopicPartition, Option<HandedOver>> =
        moves.keys().map(|id| (*id, None)).chain(handed.into_iter().map(|it| (it.id, Some(it)))).collect();
    for (id, (from, to)) in &moves {
        if from == to && left.get(id).is_some_and(Option::is_none) {
            kept.entry(*from).or_default().push(*id);
            left.remove(id);
        }
    }
    join_all(kept.into_iter().map(|(at, ids)| ask(shard, at, HandoverStep::Keep(ids)))).await;

    let of = |(id, handed): (&TopicPartition, &Option<HandedOver>)| Some((*id, handed.clone()?));
    let handed: BTreeMap<TopicPartition, HandedOver> = left.iter().filter_map(of).collect();
    for id in handed.keys() {
        expected_by.entry(*id).or_default().insert(moves[id].1);
    }
    let next = |id: &TopicPartition| BTreeSet::from([moves[id].1]);
    let expect = by_shard(&handed, next).into_iter().map(|(to, handed)| {
        let points = handed.iter().map(|handed| (handed.id, handed.point)).collect();
        ask(shard, to, HandoverStep::Expect(points))
    });
    let handed = those_done(handed, join_all(expect).await, next);
    // Whoever had it, or was to have it, but not who gets it.
    let others = |id: &TopicPartition| {
        let (from, to) = moves[id];
        let others = expected_by[id].iter().copied().chain([from]);
        others.filter(|other| *other != to).collect::<BTreeSet<ShardId>>()
    };
    let forget = by_shard(&handed, others).into_iter().map(|(from, handed)| {
        ask(shard, from, HandoverStep::Forget(handed.iter().map(|handed| handed.id).collect()))
    });
    let handed = those_done(handed, join_all(forget).await, others);
    let take_over = by_shard(&handed, next);
    let take_over = take_over.into_iter().map(|(to, handed)| ask(shard, to, HandoverStep::TakeOver(handed)));
    for id in those_done(handed, join_all(take_over).await, next).keys() {
        left.remove(id);
    }
    if left.is_empty() {
        return;
    }
    tracing::warn!(
        partitions = left.len(),
        "partitions wait on their way to other cores, and are not served meanwhile"
    );
    let waiting = left.into_iter().map(|(id, handed)| {
        let expected_by = expected_by.remove(&id).unwrap_or_default();
        (id, Waiting { from: moves[&id].0, handed, expected_by })
    });
    shard.handovers.waiting.borrow_mut().extend(waiting);
    if !shard.handovers.retrying.replace(true) {
        shard.spawn(retry(shard.clone()));
    }
}

fn by_shard(
    handed: &BTreeMap<TopicPartition, HandedOver>,
    shards_of: impl Fn(&TopicPartition) -> BTreeSet<ShardId>,
) -> BTreeMap<ShardId, Vec<HandedOver>> {
    let mut by_shard: BTreeMap<ShardId, Vec<HandedOver>> = BTreeMap::new();
    for (id, handed) in handed {
        for shard in shards_of(id) {
            by_shard.entry(shard).or_default().push(handed.clone());
        }
    }
    by_shard
}

/// Those of which every shard that was asked has done its part.
fn those_done(
    mut handed: BTreeMap<TopicPartition, HandedOver>,
    taken: Vec<StepTaken>,
    asked: impl Fn(&TopicPartition) -> BTreeSet<ShardId>,
) -> BTreeMap<TopicPartition, HandedOver> {
    let count = |id: &TopicPartition| {
        taken.iter().filter(|taken| matches!(taken, StepTaken::Done(done) if done.contains(id))).count()
    };
    handed.retain(|id, _| count(id) == asked(id).len());
    handed
}

/// As long as some wait.
async fn retry(shard: Rc<Shard>) {
    loop {
        glommio::timer::sleep(RETRY_INTERVAL).await;
        let Ok(_turn) = shard.handovers.turn.acquire_permit(1).await else { return };
        let waiting = std::mem::take(&mut *shard.handovers.waiting.borrow_mut());
        if waiting.is_empty() || shard.is_stopping() {
            return shard.handovers.retrying.set(false);
        }
        let owner = |id| shard.image.borrow().partition(id).and_then(|state| owner(state, shard.node));
        let mut underway = Underway::default();
        underway.goes_on(waiting.into_iter().map(|(id, waiting)| (id, (waiting, owner(id)))).collect());
        let_all_go(&shard, &mut underway, Duration::ZERO).await;
        complete(&shard, underway).await;
    }
}

async fn ask(shard: &Rc<Shard>, to: ShardId, step: HandoverStep) -> StepTaken {
    if to == shard.id {
        return take_step(shard, step).await;
    }
    match shard.mesh.call(to, Request::Handover(step)).await {
        Reply::Handover(taken) => taken,
        _ => unreachable!("a step of a handover is answered by what was done"),
    }
}

impl Shard {
    /// A partition on its way from or to another shard: it is opened here by nobody else.
    pub fn is_handed_over(&self, id: &TopicPartition) -> bool {
        self.handed_over.borrow().contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::image::tests::{image_of, node, partition_id, replica, topic_id};
    use crate::config::Routing;

    #[test]
    fn what_stays_on_the_node_is_handed_over() {
        let mut image = image_of(&[1, 2].map(|id| node(id, 4, Routing::Node)));
        image.apply(&Record::TopicCreated { topic: topic_id(1), name: "t".to_owned() }).expect("new");
        let owned = |replicas: &[(i32, u16)]| {
            PartitionStateRecord::new(replicas.iter().map(|(node, owner)| replica(*node, *owner)).collect())
        };
        for index in 0..2 {
            let (id, state) = (partition_id(1, index), owned(&[(1, 0), (2, 3)]));
            image.apply(&Record::PartitionCreated { id, state }).expect("the next");
        }
        let id = partition_id(1, 0);
        let changed = |replicas: &[(i32, u16)]| Record::PartitionChanged { id, state: owned(replicas) };
        let found = |records: &[Record]| {
            let moves = moves(&image, NodeId(1), records);
            moves.into_iter().map(|(id, (from, to))| (id, from.0, to.0)).collect::<Vec<_>>()
        };
        assert_eq!(found(&[changed(&[(1, 2), (2, 3)])]), [(id, 0, 2)]);
        assert_eq!(
            found(&[changed(&[(1, 2), (2, 3)]), changed(&[(2, 3), (1, 1)])]),
            [(id, 0, 1)],
            "the last"
        );
        assert_eq!(found(&[changed(&[(1, 2)]), changed(&[(1, 0)])]), [], "there and back");
        assert_eq!(found(&[changed(&[(1, 0), (2, 1)])]), [], "the other node's");
        assert_eq!(found(&[changed(&[(2, 3)])]), [], "it leaves");
        assert_eq!(
            found(&[changed(&[(2, 3)]), changed(&[(2, 3), (1, 1)])]),
            [],
            "it has left and comes anew"
        );
        let deleted = Record::TopicDeleted { topic: topic_id(1) };
        assert_eq!(found(&[changed(&[(1, 2), (2, 3)]), deleted]), [], "it is deleted");
    }
}
