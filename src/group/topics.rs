//! What groups have to know of topics, and what is set of groups: an input, which the shell takes from the metadata
//! image.

use crate::codec::consumer_record::SubscribedTopic;
use crate::config::group::GroupTimes;
use crate::types::TopicId;

/// The topics as they are now. They do not change while something is decided; that they have changed since is told
/// to [`topics_changed`](crate::group::coordinator::Coordinator::topics_changed).
pub trait Topics {
    fn named(&self, name: &str) -> Option<SubscribedTopic>;

    fn name(&self, id: TopicId) -> Option<String>;

    fn count(&self) -> usize;

    /// Names behind one, in order, until somebody has enough of them.
    fn names_after(&self, after: Option<&str>, take: &mut dyn FnMut(&str) -> bool);

    /// What one group goes by; `None`: what all do.
    fn times_of_group(&self, _group: &str) -> Option<GroupTimes> {
        None
    }
}

/// Nothing at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTopics;

impl Topics for NoTopics {
    fn named(&self, _name: &str) -> Option<SubscribedTopic> {
        None
    }

    fn name(&self, _id: TopicId) -> Option<String> {
        None
    }

    fn count(&self) -> usize {
        0
    }

    fn names_after(&self, _after: Option<&str>, _take: &mut dyn FnMut(&str) -> bool) {}
}
