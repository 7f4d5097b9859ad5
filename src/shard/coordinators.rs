//! Coordinators of the partitions of an internal topic that this shard owns: of groups, of transactions.
//!
//! ```text
//! request ─► decide ─► answers ───────────────────────────────────────► who waits for that ticket
//!              ▲  └─► writes ─► lane ─► log ─► flushed ─► finished ─┐
//!              └────────────────────────────────────────────────────┘
//! ```
//!
//! A partition is read before its coordinator is asked anything. What a coordinator decides is carried out in the
//! same turn; its writes go to the partition's log one after the other, in the order in which they were decided,
//! and are flushed like any batch. When the partition goes, another replica leads it, or the node stops, the
//! coordinator resigns: it decides nothing any more, and whoever waits is sent elsewhere.
//!
//! | file | what it does |
//! |---|---|
//! | `lane.rs` | appends a partition's writes, and tells its coordinator what became of them |
//! | `load.rs` | reads a partition into a coordinator |

mod lane;
mod load;

pub use lane::batch_of;

use crate::codec::control_record::EndMarker;
use crate::codec::error_code::ErrorCode;
use crate::codec::records::RecordView;
use crate::shard::Shard;
use crate::shard::answers::Answers;
use crate::shard::event::Signal;
use crate::shard::replica::Replica;
use crate::shard::step::Pace;
use crate::types::{Mono, Offset, PartitionIndex, ProducerId, ShardId, TopicId, TopicPartition, java_hash};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

/// A log that could not be read is tried again after this long at the earliest.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// What a coordinator of one kind is to the shard that carries out what it decides.
pub trait Coordinating: Sized + 'static {
    /// In whose partitions its state is kept.
    const TOPIC: &'static str;
    /// What that is, for the log.
    const STATE: &'static str;
    /// Ids that are looked at before others may run.
    const IDS_STEP: usize;

    type Answer;
    type WriteId: Copy;
    type Effect;
    /// What it has to know of the time.
    type Now: Copy;
    /// What is to be carried out once it has decided something.
    type Decided;
    /// What the shard notes of a partition beside it.
    type Beside: Default;
    type Record: Send;
    type RecordError: Error + Send;

    /// Before anything of its partition is read.
    fn empty(shard: &Shard, partition: TopicPartition) -> Self;

    /// Calls it, counts what that has changed, and gathers what follows.
    fn decide<T>(
        &mut self,
        shard: &Shard,
        decide: impl FnOnce(&mut Self, Self::Now, &mut Vec<Self::Effect>) -> T,
    ) -> (T, Self::Decided);

    fn carry_out(shard: &Rc<Shard>, served: &Rc<Served<Self>>, decided: Self::Decided);

    /// The batch of a write; `None` if it is too large for the log.
    fn batch(&self, shard: &Shard, partition: &TopicPartition, write: Self::WriteId) -> Option<Vec<u8>>;

    fn finished(
        &mut self,
        write: Self::WriteId,
        result: Result<(), ErrorCode>,
        now: Self::Now,
        effects: &mut Vec<Self::Effect>,
    );

    fn resign(&mut self, now: Self::Now, effects: &mut Vec<Self::Effect>);

    /// Ids of which it has something.
    fn count(&self) -> usize;

    /// The first of them behind one.
    fn ids_after(&self, after: Option<&str>, count: usize) -> Vec<String>;

    fn decode(record: &RecordView<'_>) -> Decoded<Self>;

    /// Takes a record of its log. Errors: its work cannot be taken up without that record.
    fn replay(
        &mut self,
        replica: &Replica,
        place: BatchPlace,
        record: Decoded<Self>,
    ) -> Result<(), Self::RecordError>;

    /// Takes a marker that is in its log.
    fn replay_marker(&mut self, marker: EndMarker, pace: &mut Pace) -> impl Future<Output = ()>;

    /// Everything is read: it is [taken into service](Served::take_up), and goes on with what was begun.
    fn go_on(self, shard: &Rc<Shard>, served: &Rc<Served<Self>>) -> impl Future<Output = ()>;
}

/// `None`: of a kind that is not known here.
pub type Decoded<C> = Result<Option<<C as Coordinating>::Record>, <C as Coordinating>::RecordError>;

/// The batch that a record was read in.
#[derive(Clone, Copy, Debug)]
pub struct BatchPlace {
    pub base_offset: Offset,
    /// Whose transaction it is part of.
    pub producer: Option<ProducerId>,
}

/// Lives: one per shard and kind.
pub struct Coordinators<C: Coordinating> {
    served: RefCell<BTreeMap<TopicPartition, Rc<Served<C>>>>,
    pub answers: Answers<C::Answer>,
}

/// Lives: one per partition of this shard, from the first look at it until the partition goes.
pub struct Served<C: Coordinating> {
    id: TopicPartition,
    state: RefCell<State<C>>,
    /// Writes that are not in the log yet; each is encoded when its turn comes. Bounded by the requests that
    /// wait for them.
    lane: RefCell<VecDeque<C::WriteId>>,
    lane_filled: Signal,
    ended: Cell<bool>,
    pub beside: C::Beside,
}

enum State<C> {
    Loading,
    Failed { at: Mono },
    Ready(Box<C>),
}

impl<C: Coordinating> Served<C> {
    fn new(id: TopicPartition) -> Rc<Served<C>> {
        Rc::new(Served {
            id,
            state: RefCell::new(State::Loading),
            lane: RefCell::default(),
            lane_filled: Signal::default(),
            ended: Cell::new(false),
            beside: C::Beside::default(),
        })
    }

    /// Decides something, then carries it out. `None` while the log is not loaded.
    pub fn decide<T>(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        decide: impl FnOnce(&mut C, C::Now, &mut Vec<C::Effect>) -> T,
    ) -> Option<T> {
        let (answer, decided) = {
            let mut state = self.state.borrow_mut();
            let State::Ready(coordinator) = &mut *state else { return None };
            coordinator.decide(shard, decide)
        };
        C::carry_out(shard, self, decided);
        Some(answer)
    }

    /// Looks at something. Errors: what is answered while the log is not loaded.
    pub fn look<T>(&self, look: impl FnOnce(&C) -> T) -> Result<T, ErrorCode> {
        match &*self.state.borrow() {
            State::Ready(coordinator) => Ok(look(coordinator)),
            State::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            State::Failed { .. } => Err(ErrorCode::CoordinatorNotAvailable),
        }
    }

    /// Tells it what nothing follows from.
    pub fn tell(&self, tell: impl FnOnce(&mut C)) {
        if let State::Ready(coordinator) = &mut *self.state.borrow_mut() {
            tell(coordinator);
        }
    }

    pub fn take_up(&self, coordinator: C) {
        *self.state.borrow_mut() = State::Ready(Box::new(coordinator));
    }

    /// What is to be appended, behind what was decided before.
    pub fn write(&self, write: C::WriteId) {
        self.lane.borrow_mut().push_back(write);
        self.lane_filled.notify();
    }

    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    fn end(self: &Rc<Self>, shard: &Rc<Shard>) {
        if !self.ended.replace(true) {
            self.decide(shard, C::resign);
            self.lane_filled.notify();
        }
    }

    /// Decides something for every id, a few at a time.
    pub async fn for_each_id(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        pace: &mut Pace,
        decide: impl Fn(&mut C, &str, C::Now, &mut Vec<C::Effect>),
    ) {
        let mut after: Option<String> = None;
        loop {
            let ids = self.decide(shard, |coordinator, now, effects| {
                let ids = coordinator.ids_after(after.as_deref(), C::IDS_STEP);
                ids.iter().for_each(|id| decide(coordinator, id, now, effects));
                ids
            });
            after = ids.and_then(|mut ids| ids.pop());
            if after.is_none() {
                return;
            }
            pace.give_way().await;
        }
    }
}

impl<C: Coordinating> Default for Coordinators<C> {
    fn default() -> Coordinators<C> {
        Coordinators { served: RefCell::default(), answers: Answers::default() }
    }
}

impl<C: Coordinating> Coordinators<C> {
    pub fn served(&self) -> Vec<Rc<Served<C>>> {
        self.served.borrow().values().cloned().collect()
    }

    /// One that somebody has asked for.
    pub fn known(&self, id: TopicPartition) -> Option<Rc<Served<C>>> {
        self.served.borrow().get(&id).cloned()
    }

    /// The earliest of what they say.
    pub fn earliest<T: Ord>(&self, of: impl Fn(&C) -> Option<T>) -> Option<T> {
        self.served.borrow().values().filter_map(|served| served.look(&of).ok().flatten()).min()
    }

    /// Ids of all of them.
    pub fn count(&self) -> usize {
        self.served.borrow().values().map(|served| served.look(C::count).unwrap_or(0)).sum()
    }

    /// Begins to read every partition of this shard that is not read yet.
    pub fn load_all(&self, shard: &Rc<Shard>) {
        let topic = shard.image.borrow().topic_named(C::TOPIC).map(|topic| topic.id);
        let Some(topic) = topic else { return };
        for store in shard.stores.iter() {
            for replica in store.replicas_of(topic, usize::MAX) {
                self.find(shard, replica.id);
            }
        }
    }

    /// The coordinator of a partition of this shard, which is read first if need be.
    fn find(&self, shard: &Rc<Shard>, id: TopicPartition) -> Option<Rc<Served<C>>> {
        let replica = shard.stores.find(&id).filter(|replica| replica.replication.serves())?;
        let served = self.known(id).unwrap_or_else(|| {
            let served = Served::new(id);
            self.served.borrow_mut().insert(id, served.clone());
            shard.spawn(lane::run(shard.clone(), served.clone()));
            load::begin(shard, &served, &replica);
            served
        });
        let failed = match &*served.state.borrow() {
            State::Failed { at } => Some(*at),
            State::Loading | State::Ready(_) => None,
        };
        if failed.is_some_and(|at| shard.clock.mono().since(at) >= RELOAD_INTERVAL) {
            *served.state.borrow_mut() = State::Loading;
            load::begin(shard, &served, &replica);
        }
        Some(served)
    }

    /// One that can be asked now. Errors: why there is none.
    pub fn ready(&self, shard: &Rc<Shard>, id: TopicPartition) -> Result<Rc<Served<C>>, ErrorCode> {
        if shard.is_stopping() {
            return Err(ErrorCode::NotCoordinator);
        }
        let served = self.find(shard, id).ok_or(ErrorCode::NotCoordinator)?;
        served.look(|_| ())?;
        Ok(served)
    }

    /// The topic may be gone.
    pub fn topics_deleted(&self, shard: &Rc<Shard>, topics: &[TopicId]) {
        let gone: Vec<Rc<Served<C>>> = {
            let mut served = self.served.borrow_mut();
            let gone = served.extract_if(.., |id, _| topics.contains(&id.topic));
            gone.map(|(_, served)| served).collect()
        };
        gone.iter().for_each(|served| served.end(shard));
    }

    /// Another replica leads, or this one does anew: what was known of before is read again.
    pub fn role_changed(&self, shard: &Rc<Shard>, id: TopicPartition) {
        let before = self.served.borrow_mut().remove(&id);
        if let Some(served) = before {
            served.end(shard);
        }
        let is_of_topic = shard.image.borrow().topic(id.topic).is_some_and(|topic| topic.name == C::TOPIC);
        if is_of_topic {
            self.find(shard, id);
        }
    }

    /// This node stops: all that wait are sent to look elsewhere.
    pub fn resign(&self, shard: &Rc<Shard>) {
        for served in self.served() {
            served.decide(shard, C::resign);
        }
    }

    /// What is listed of all ids.
    pub async fn list<T>(
        &self,
        shard: &Rc<Shard>,
        listed: impl Fn(&C, &str) -> Option<T>,
    ) -> Result<Vec<T>, ErrorCode> {
        let mut pace = Pace::new(&shard.clock);
        let mut all = Vec::new();
        for served in self.served() {
            let mut after: Option<String> = None;
            loop {
                after = served.look(|coordinator| {
                    let mut ids = coordinator.ids_after(after.as_deref(), C::IDS_STEP);
                    all.extend(ids.iter().filter_map(|id| listed(coordinator, id)));
                    ids.pop()
                })?;
                if after.is_none() {
                    break;
                }
                pace.give_way().await;
            }
        }
        Ok(all)
    }
}

/// The partition of an internal topic that an id belongs to; `None` while there is no such topic.
pub fn partition_of(shard: &Shard, topic: &str, id: &str) -> Option<TopicPartition> {
    let image = shard.image.borrow();
    let topic = image.topic_named(topic)?;
    let index = java_hash::partition_of(id, topic.partitions.len());
    let partition = PartitionIndex::from_wire(index as i32)?;
    Some(TopicPartition { topic: topic.id, partition })
}

/// The same, and whose it is. Errors: there is no such topic, or no leader here.
pub fn locate(shard: &Shard, topic: &str, id: &str) -> Result<(ShardId, TopicPartition), ErrorCode> {
    let partition = partition_of(shard, topic, id).ok_or(ErrorCode::NotCoordinator)?;
    let owner = shard.leader(&partition).ok_or(ErrorCode::NotCoordinator)?;
    Ok((owner, partition))
}
