//! One directory: names seen, names on stable storage, and the changes between, which a loss of power
//! keeps in their order up to some point.

use crate::random::Random;
use std::collections::BTreeMap;

/// Which file or directory a name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub u64);

#[derive(Clone, Debug)]
pub enum Change {
    Link { name: String, node: NodeId },
    Unlink { name: String },
    Rename { from: String, to: String },
}

#[derive(Clone, Debug, Default)]
pub struct Directory {
    view: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<Change>,
    /// Changes that have left `pending` so far.
    settled: usize,
}

impl Directory {
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.view.get(name).copied()
    }

    pub fn names(&self) -> impl Iterator<Item = (&str, NodeId)> {
        self.view.iter().map(|(name, node)| (name.as_str(), *node))
    }

    /// Nodes that can be reached now or after a loss of power.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        let linked = self.pending.iter().filter_map(|change| match change {
            Change::Link { node, .. } => Some(*node),
            Change::Unlink { .. } | Change::Rename { .. } => None,
        });
        self.view.values().copied().chain(self.durable.values().copied()).chain(linked)
    }

    pub fn change(&mut self, change: Change) {
        apply(&mut self.view, &change);
        self.pending.push(change);
    }

    /// Changes made so far, which a flush issued now covers.
    pub fn made(&self) -> usize {
        self.settled + self.pending.len()
    }

    /// The first `made` changes are on stable storage.
    pub fn flushed(&mut self, made: usize) {
        let count = made.saturating_sub(self.settled).min(self.pending.len());
        self.settled += count;
        for change in self.pending.drain(..count) {
            apply(&mut self.durable, &change);
        }
    }

    pub fn has_unflushed(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn lose_power(&mut self, dice: &mut Random) {
        let kept = dice.below(self.pending.len() as u64 + 1) as usize;
        self.flushed(self.settled + kept);
        self.settled += self.pending.len();
        self.pending.clear();
        self.view.clone_from(&self.durable);
    }
}

fn apply(names: &mut BTreeMap<String, NodeId>, change: &Change) {
    match change {
        Change::Link { name, node } => {
            names.insert(name.clone(), *node);
        }
        Change::Unlink { name } => {
            names.remove(name);
        }
        Change::Rename { from, to } => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_survive_in_their_order() {
        for seed in 0..50 {
            let mut directory = Directory::default();
            directory.change(Change::Link { name: "a.tmp".to_owned(), node: NodeId(1) });
            directory.flushed(directory.made());
            directory.change(Change::Rename { from: "a.tmp".to_owned(), to: "a".to_owned() });
            directory.change(Change::Link { name: "b".to_owned(), node: NodeId(2) });
            directory.lose_power(&mut Random::new(seed));
            let names: Vec<&str> = directory.names().map(|(name, _)| name).collect();
            assert!([vec!["a.tmp"], vec!["a"], vec!["a", "b"]].contains(&names), "{names:?}");
        }
    }
}
