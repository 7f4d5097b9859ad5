//! Directories: as they are, as they are on disk, and the changes between the two.
//!
//! A change is on disk once its directory was flushed. A cut leaves of each directory's unflushed
//! changes the first few, in their order; a rename between two directories is left in both or in
//! neither.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use crate::random::Random;

/// Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(pub u64);

impl Inode {
    /// As FUSE has it.
    pub const ROOT: Inode = Inode(1);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub inode: Inode,
    pub kind: Kind,
}

pub type Directory = BTreeMap<OsString, Entry>;

/// Directories by inode. One that no entry leads to is not reachable and does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(BTreeMap<Inode, Directory>);

impl Tree {
    fn empty() -> Tree {
        Tree(BTreeMap::from([(Inode::ROOT, Directory::new())]))
    }

    pub fn directory(&self, inode: Inode) -> Option<&Directory> {
        self.0.get(&inode)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { directory, name, entry } => {
                if entry.kind == Kind::Directory {
                    self.0.entry(entry.inode).or_default();
                }
                self.0.entry(*directory).or_default().insert(name.clone(), *entry);
            }
            Change::Unlink { directory, name } => {
                self.0.entry(*directory).or_default().remove(name);
            }
            Change::Rename { from, to } => {
                let entry = self.0.entry(from.0).or_default().remove(&from.1);
                let entry = entry.expect("what came before in its directory was applied");
                self.0.entry(to.0).or_default().insert(to.1.clone(), entry);
            }
        }
    }

    fn inodes(&self) -> impl Iterator<Item = Inode> + '_ {
        self.0.values().flat_map(|directory| directory.values().map(|entry| entry.inode))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Link { directory: Inode, name: OsString, entry: Entry },
    Unlink { directory: Inode, name: OsString },
    Rename { from: (Inode, OsString), to: (Inode, OsString) },
}

impl Change {
    fn directories(&self) -> impl Iterator<Item = Inode> + use<> {
        let (first, second) = match self {
            Change::Link { directory, .. } | Change::Unlink { directory, .. } => (*directory, None),
            Change::Rename { from, to } => (from.0, (from.0 != to.0).then_some(to.0)),
        };
        std::iter::once(first).chain(second)
    }
}

/// A point in the order of changes; a flush that was asked for then covers those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// Lives: one per volume.
#[derive(Debug)]
pub struct Names {
    now: Tree,
    on_disk: Tree,
    /// With their place in the order of all changes.
    unflushed: Vec<(u64, Change)>,
    count: u64,
}

impl Default for Names {
    fn default() -> Names {
        Names { now: Tree::empty(), on_disk: Tree::empty(), unflushed: Vec::new(), count: 0 }
    }
}

impl Names {
    pub fn now(&self) -> &Tree {
        &self.now
    }

    pub fn directory(&self, inode: Inode) -> Option<&Directory> {
        self.now.directory(inode)
    }

    pub fn entry(&self, directory: Inode, name: &OsStr) -> Option<Entry> {
        self.now.directory(directory)?.get(name).copied()
    }

    pub fn link(&mut self, directory: Inode, name: &OsStr, entry: Entry) {
        self.change(Change::Link { directory, name: name.to_owned(), entry });
    }

    pub fn unlink(&mut self, directory: Inode, name: &OsStr) {
        self.change(Change::Unlink { directory, name: name.to_owned() });
    }

    /// Takes the place of what has the new name.
    pub fn rename(&mut self, from: (Inode, &OsStr), to: (Inode, &OsStr)) {
        let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        if from != to {
            self.change(Change::Rename { from, to });
        }
    }

    fn change(&mut self, change: Change) {
        self.now.apply(&change);
        self.unflushed.push((self.count, change));
        self.count += 1;
    }

    /// Everything is on disk, as after a mount.
    pub fn flush_all(&mut self) {
        self.on_disk = self.now.clone();
        self.unflushed.clear();
    }

    pub fn mark(&self) -> Mark {
        Mark(self.count)
    }

    /// A flush of `directory` that was asked for at `mark` is complete. With a rename from or to another
    /// directory goes what came before it there.
    pub fn flushed(&mut self, directory: Inode, mark: Mark) {
        let mut concerned = BTreeSet::from([directory]);
        let mut flushed = BTreeSet::new();
        for (place, change) in self.unflushed.iter().rev().filter(|(place, _)| *place < mark.0) {
            if change.directories().any(|directory| concerned.contains(&directory)) {
                concerned.extend(change.directories());
                flushed.insert(*place);
            }
        }
        let on_disk = &mut self.on_disk;
        self.unflushed.retain(|(place, change)| {
            let flushed = flushed.contains(place);
            if flushed {
                on_disk.apply(change);
            }
            !flushed
        });
    }

    pub fn unflushed_count(&self) -> usize {
        self.unflushed.len()
    }

    /// What a cut leaves, and how many changes it drops.
    pub fn cut(&self, random: &mut Random) -> (Tree, u64) {
        let mut counts: BTreeMap<Inode, u64> = BTreeMap::new();
        for directory in self.unflushed.iter().flat_map(|(_, change)| change.directories()) {
            *counts.entry(directory).or_default() += 1;
        }
        // How many more changes of each directory are left.
        let mut left: BTreeMap<Inode, u64> =
            counts.into_iter().map(|(directory, count)| (directory, random.below(count + 1))).collect();
        let mut tree = self.on_disk.clone();
        let mut dropped = 0;
        for (_, change) in &self.unflushed {
            if change.directories().all(|directory| left[&directory] > 0) {
                change.directories().for_each(|directory| *left.entry(directory).or_default() -= 1);
                tree.apply(change);
            } else {
                left.extend(change.directories().map(|directory| (directory, 0)));
                dropped += 1;
            }
        }
        (tree, dropped)
    }

    /// Inodes that a name leads to, or may lead to after a cut.
    pub fn reachable(&self) -> BTreeSet<Inode> {
        let linked = self.unflushed.iter().filter_map(|(_, change)| match change {
            Change::Link { entry, .. } => Some(entry.inode),
            Change::Unlink { .. } | Change::Rename { .. } => None,
        });
        self.now.inodes().chain(self.on_disk.inodes()).chain(linked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Inode = Inode(10);
    const B: Inode = Inode(11);

    #[test]
    fn unflushed_names_are_left_in_their_order() {
        let mut names = Names::default();
        names.link(Inode::ROOT, "new".as_ref(), file(20));
        names.rename((Inode::ROOT, "new".as_ref()), (Inode::ROOT, "final".as_ref()));
        names.unlink(Inode::ROOT, "final".as_ref());
        let seen = after_cuts(&names, Inode::ROOT);
        assert_eq!(seen, BTreeSet::from([vec![], vec!["new".to_string()], vec!["final".to_string()]]));
        assert!(names.reachable().contains(&Inode(20)), "it may be there after a cut");

        let mark = names.mark();
        names.link(Inode::ROOT, "later".as_ref(), file(21));
        names.flushed(Inode::ROOT, mark);
        assert_eq!(after_cuts(&names, Inode::ROOT), BTreeSet::from([vec![], vec!["later".to_string()]]));
        assert!(!names.reachable().contains(&Inode(20)));
    }

    #[test]
    fn flush_of_one_directory_leaves_the_other_unflushed() {
        let mut names = two_directories();
        names.link(A, "a".as_ref(), file(20));
        names.link(B, "b".as_ref(), file(21));
        names.flushed(A, names.mark());
        assert_eq!(after_cuts(&names, A), BTreeSet::from([vec!["a".to_string()]]));
        assert_eq!(after_cuts(&names, B), BTreeSet::from([vec![], vec!["b".to_string()]]));
    }

    #[test]
    fn rename_between_directories_is_in_both_or_in_neither() {
        let mut names = two_directories();
        names.link(A, "x".as_ref(), file(20));
        names.flush_all();
        names.rename((A, "x".as_ref()), (B, "y".as_ref()));
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let (tree, _) = names.cut(&mut Random::new(seed));
            seen.insert((list(&tree, A), list(&tree, B)));
        }
        let (x, y) = (vec!["x".to_string()], vec!["y".to_string()]);
        assert_eq!(seen, BTreeSet::from([(x, vec![]), (vec![], y.clone())]));
        names.flushed(A, names.mark());
        assert_eq!(after_cuts(&names, B), BTreeSet::from([y]));
    }

    #[test]
    fn directory_whose_name_is_not_on_disk_takes_its_flushed_names_along() {
        let mut names = Names::default();
        names.link(Inode::ROOT, "a".as_ref(), directory(A));
        names.link(A, "x".as_ref(), file(20));
        names.flushed(A, names.mark());
        assert!(after_cuts(&names, Inode::ROOT).contains(&vec![]), "the fsync of A does not flush A's name");
    }

    fn two_directories() -> Names {
        let mut names = Names::default();
        names.link(Inode::ROOT, "a".as_ref(), directory(A));
        names.link(Inode::ROOT, "b".as_ref(), directory(B));
        names.flush_all();
        names
    }

    fn after_cuts(names: &Names, directory: Inode) -> BTreeSet<Vec<String>> {
        (0..100).map(|seed| list(&names.cut(&mut Random::new(seed)).0, directory)).collect()
    }

    fn list(tree: &Tree, directory: Inode) -> Vec<String> {
        let names = tree.directory(directory).into_iter().flat_map(|directory| directory.keys());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    fn file(inode: u64) -> Entry {
        Entry { inode: Inode(inode), kind: Kind::File }
    }

    fn directory(inode: Inode) -> Entry {
        Entry { inode, kind: Kind::Directory }
    }
}
