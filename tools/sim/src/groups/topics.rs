//! Topics as a simulated broker has them: they come, grow and go.

use odradek::codec::consumer_record::SubscribedTopic;
use odradek::group::topics::Topics;
use odradek::types::{TopicId, Uuid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Lives: one per seed, beside the runs of its broker.
#[derive(Debug, Default)]
pub struct SimTopics {
    topics: RefCell<BTreeMap<String, SubscribedTopic>>,
    /// Names of all that there ever were.
    names: RefCell<BTreeMap<TopicId, String>>,
    next_id: Cell<u128>,
    /// A mistake: nobody is told of changes.
    pub is_unseen: Cell<bool>,
    /// A mistake: of names in order only the first is told.
    pub tells_one: Cell<bool>,
}

impl SimTopics {
    pub fn has(&self, name: &str) -> bool {
        self.topics.borrow().contains_key(name)
    }

    /// Creates a topic, or gives it more partitions.
    pub fn set(&self, name: &str, partition_count: i32) {
        let known = self.topics.borrow().get(name).map(|topic| topic.id);
        let id = known.unwrap_or_else(|| {
            self.next_id.set(self.next_id.get() + 1);
            TopicId(Uuid::from_u128(self.next_id.get()))
        });
        self.names.borrow_mut().insert(id, name.to_owned());
        self.topics.borrow_mut().insert(name.to_owned(), SubscribedTopic { id, partition_count });
    }

    pub fn remove(&self, name: &str) {
        self.topics.borrow_mut().remove(name);
    }

    pub fn all(&self) -> BTreeMap<String, SubscribedTopic> {
        self.topics.borrow().clone()
    }

    /// Also of a topic that is gone.
    pub fn name_of(&self, id: TopicId) -> String {
        self.names.borrow().get(&id).cloned().unwrap_or_default()
    }
}

impl Topics for SimTopics {
    fn named(&self, name: &str) -> Option<SubscribedTopic> {
        self.topics.borrow().get(name).copied()
    }

    fn name(&self, id: TopicId) -> Option<String> {
        self.topics.borrow().iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone())
    }

    fn count(&self) -> usize {
        self.topics.borrow().len()
    }

    fn names_after(&self, after: Option<&str>, take: &mut dyn FnMut(&str) -> bool) {
        let topics = self.topics.borrow();
        for name in topics.keys().filter(|name| after.is_none_or(|after| name.as_str() > after)) {
            if !take(name) || self.tells_one.get() {
                return;
            }
        }
    }
}
