//! Topics and settings of groups as group coordinators see them, and the regular expressions that are held against all of them.

use crate::cluster::image::Image;
use crate::cluster::record::ConfigResource;
use crate::codec::consumer_record::SubscribedTopic;
use crate::config::Config;
use crate::config::group::GroupTimes;
use crate::group::consumer::rebalance::Resolved;
use crate::group::coordinator::ToResolve;
use crate::group::topics::Topics;
use crate::shard::Shard;
use crate::shard::groups::Served;
use crate::shard::step::Pace;
use crate::types::TopicId;
use crate::types::limits::{GROUP_ENTRY_SIZE, GROUP_REGEX_RESOLVED_SIZE_MAX};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Names that are looked at before others may run.
const NAMES_STEP: usize = 256;

/// The shard's copy of the metadata.
pub struct ImageTopics {
    pub image: Rc<RefCell<Image>>,
    /// What settings of groups are held against.
    pub config: Rc<Config>,
}

impl ImageTopics {
    pub fn new(shard: &Shard) -> ImageTopics {
        ImageTopics { image: shard.image.clone(), config: shard.config.clone() }
    }
}

impl Topics for ImageTopics {
    fn named(&self, name: &str) -> Option<SubscribedTopic> {
        let image = self.image.borrow();
        let topic = image.topic_named(name)?;
        Some(SubscribedTopic { id: topic.id, partition_count: topic.partitions.len() as i32 })
    }

    fn name(&self, id: TopicId) -> Option<String> {
        self.image.borrow().topic(id).map(|topic| topic.name.clone())
    }

    fn count(&self) -> usize {
        self.image.borrow().topics().len()
    }

    fn names_after(&self, after: Option<&str>, take: &mut dyn FnMut(&str) -> bool) {
        for topic in self.image.borrow().topics_after(after) {
            if !take(&topic.name) {
                return;
            }
        }
    }

    fn times_of_group(&self, group: &str) -> Option<GroupTimes> {
        let image = self.image.borrow();
        let settings = image.settings(&ConfigResource::Group(group.to_owned()))?;
        Some(GroupTimes::in_effect(settings, &self.config))
    }
}

/// Holds a group's regular expressions against all topics, some of them at a time. Those that are left once it has
/// found very much are asked for again.
pub(super) async fn resolve(shard: Rc<Shard>, served: Rc<Served>, asked: ToResolve) {
    let mut pace = Pace::new(&shard.clock);
    let mut resolved = Resolved::new();
    let mut size = 0;
    for regex in asked.regexes {
        let topics = matching(&shard, &regex, &mut pace).await;
        size += topics.iter().map(|name| GROUP_ENTRY_SIZE + name.len()).sum::<usize>();
        resolved.insert(regex, topics);
        if size > GROUP_REGEX_RESOLVED_SIZE_MAX {
            break;
        }
    }
    served.decide(&shard, |coordinator, now, effects| {
        coordinator.resolved(&asked.group, asked.version, resolved, now, effects);
    });
}

async fn matching(shard: &Rc<Shard>, regex: &str, pace: &mut Pace) -> BTreeSet<String> {
    let mut matching = BTreeSet::new();
    // One of another build may not be one any more; it matches nothing.
    let Ok(pattern) = shard.groups.patterns.get(regex) else { return matching };
    let topics = ImageTopics::new(shard);
    let mut after: Option<String> = None;
    loop {
        pace.give_way().await;
        let mut seen = 0;
        let mut last = None;
        topics.names_after(after.as_deref(), &mut |name| {
            if pattern.matches(name) {
                matching.insert(name.to_owned());
            }
            seen += 1;
            last = Some(name.to_owned());
            seen < NAMES_STEP
        });
        match last {
            Some(last) => after = Some(last),
            None => return matching,
        }
    }
}
