//! `range`: of each topic a run of neighbouring partitions to each of its readers, the longer runs first.

use crate::codec::consumer_record::Partitions;
use crate::group::assignor::{Candidate, Counts, Targets};
use crate::types::TopicId;
use std::collections::BTreeMap;

/// What is left of a topic.
struct Rest {
    next: i32,
    count: i32,
    readers: i32,
    given: i32,
}

impl Rest {
    /// The run of the next reader: the first ones have one more, where it does not come out even.
    fn take(&mut self) -> std::ops::Range<i32> {
        let longer = i32::from(self.given < self.count % self.readers);
        let run = self.next..self.next + self.count / self.readers + longer;
        self.given += 1;
        self.next = run.end;
        run
    }
}

/// Static members come first, by their instance ids: they keep their place when they come back under another
/// member id.
pub fn assign(members: &[Candidate<'_>], counts: &Counts) -> Targets {
    let mut order: Vec<&Candidate<'_>> = members.iter().collect();
    order.sort_by_key(|member| (member.instance_id.is_none(), member.instance_id, member.id));
    let mut rests: BTreeMap<TopicId, Rest> = BTreeMap::new();
    for topic in members.iter().flat_map(|member| member.topics) {
        let count = counts.get(topic).copied().unwrap_or(0);
        let rest = rests.entry(*topic).or_insert(Rest { next: 0, count, readers: 0, given: 0 });
        rest.readers += 1;
    }
    let mut targets = Targets::new();
    for member in order {
        let mut assigned = Partitions::new();
        for topic in member.topics {
            let run = rests.get_mut(topic).expect("counted above").take();
            if !run.is_empty() {
                assigned.insert(*topic, run.collect());
            }
        }
        targets.insert(member.id.to_owned(), assigned);
    }
    targets
}
