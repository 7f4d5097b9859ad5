//! What assignors promise, looked at from outside: every partition that somebody reads goes to one who reads it, and
//! evenly.

use crate::consumers::watch::shadow::Shadow;
use odradek::codec::consumer_record::{Partitions, SubscribedTopic};
use odradek::group::assignor::Assignor;
use odradek::types::sorted::SortedSet;
use std::collections::{BTreeMap, BTreeSet};

fn size(partitions: &Partitions) -> usize {
    partitions.values().map(SortedSet::len).sum()
}

/// Why a group's targets are not what they are to be.
pub fn check(group: &Shadow, assignor: Assignor) -> Result<(), String> {
    let reads: BTreeMap<&String, BTreeSet<String>> = group.ids().map(|id| (id, group.read_by(id))).collect();
    let none = Partitions::new();
    let target = |id: &String| group.targets.get(id).unwrap_or(&none);
    if let Some(stray) = group.targets.keys().find(|id| !group.has(id)) {
        return Err(format!("something is aimed at for {stray}, which is no member"));
    }
    let mut aimed = BTreeMap::new();
    for id in group.ids() {
        for (topic, indexes) in target(id) {
            for index in indexes {
                if let Some(other) = aimed.insert((*topic, *index), id) {
                    return Err(format!("{topic:?}-{index} is aimed at for {other} and {id}"));
                }
            }
        }
    }
    for (name, SubscribedTopic { id: topic, partition_count }) in &group.topics {
        let is_read = reads.values().any(|reads| reads.contains(name));
        for index in (0..*partition_count).filter(|_| is_read) {
            match aimed.remove(&(*topic, index)) {
                None => return Err(format!("{name}-{index} is aimed at for nobody")),
                Some(id) if !reads[id].contains(name) => {
                    return Err(format!("{name}-{index} is aimed at for {id}, which does not read it"));
                }
                Some(_) => {}
            }
        }
    }
    if let Some(((topic, index), id)) = aimed.first_key_value() {
        return Err(format!("{topic:?}-{index}, which there is not, is aimed at for {id}"));
    }
    match assignor {
        Assignor::Range => check_range(group, &reads),
        Assignor::Uniform => check_uniform(group, &reads),
    }
}

/// Nobody has two more than another one who could take one of them.
fn check_uniform(group: &Shadow, reads: &BTreeMap<&String, BTreeSet<String>>) -> Result<(), String> {
    let none = Partitions::new();
    let target = |id: &String| group.targets.get(id).unwrap_or(&none);
    for more in reads.keys() {
        for (less, can_take) in reads {
            if size(target(more)) < size(target(less)) + 2 {
                continue;
            }
            let named = |name: &String| group.topics.get(name).map(|topic| topic.id);
            let mut movable = can_take.iter().filter_map(named);
            if movable.any(|topic| target(more).contains_key(&topic)) {
                let (more_count, less_count) = (size(target(more)), size(target(less)));
                return Err(format!("{more} is to have {more_count}, {less} {less_count}"));
            }
        }
    }
    Ok(())
}

/// Of each topic everybody has a run, none more than one longer than another.
fn check_range(group: &Shadow, reads: &BTreeMap<&String, BTreeSet<String>>) -> Result<(), String> {
    for (name, topic) in &group.topics {
        let readers = reads.iter().filter(|(_, reads)| reads.contains(name));
        let mut counts = Vec::new();
        for (id, _) in readers {
            let indexes = group.targets.get(*id).and_then(|target| target.get(&topic.id));
            let (first, last) =
                indexes.map_or((None, None), |all| (all.iter().next(), all.iter().next_back()));
            let count = indexes.map_or(0, SortedSet::len);
            if let (Some(first), Some(last)) = (first, last)
                && (last - first + 1) as usize != count
            {
                return Err(format!("{id} is to have {indexes:?} of {name}, which is no run"));
            }
            counts.push(count);
        }
        let (least, most) = (counts.iter().min(), counts.iter().max());
        if let (Some(least), Some(most)) = (least, most)
            && most > &(least + 1)
        {
            return Err(format!("of {name} somebody is to have {most}, somebody {least}"));
        }
    }
    Ok(())
}
