//! A disk that answers late, out of order, wrongly or not at all, and forgets what was not flushed.
//!
//! ```text
//! operation issued ── 20 µs to some ms, or a stall ──► takes effect, answer
//! write     into the view; a loss of power keeps any subset of its sectors until a flush covers it
//! flush     covers what had completed when it was issued
//! names     a directory's changes survive in order, all of them once it was flushed
//! ```
//!
//! Two levels: the root, with files and directories, and files in directories. Absent: limits of
//! space; a full disk is a time during which nothing grows.

pub mod directory;
pub mod file;

use crate::disk::directory::{Change, Directory, NodeId};
use crate::disk::file::{FileState, Loss, Op};
use crate::faults::{FaultPlan, OpKind};
use crate::random::Random;
use crate::world::World;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Bytes that reach the medium whole or not at all.
pub const SECTOR: u64 = 512;

/// What the disk answers instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    Io(OpKind),
    Full,
    NotFound,
    /// Nothing was tried: an operation failed before.
    Offline,
}

impl DiskError {
    pub fn is_full(self) -> bool {
        self == DiskError::Full
    }
}

pub type DiskResult<T> = Result<T, DiskError>;

#[derive(Debug)]
enum Node {
    File(FileState),
    Directory(Directory),
}

#[derive(Debug, Default)]
struct State {
    root: Directory,
    nodes: BTreeMap<NodeId, Node>,
    next: u64,
}

/// Lives: one per seed; it outlives every crash.
pub struct Disk {
    world: Rc<World>,
    state: RefCell<State>,
    pub faults: RefCell<FaultPlan>,
    /// For losses and damage: what a seed does with them must not shift its other dice.
    dice: RefCell<Random>,
    /// Writes that went astray: where they should have gone, and where they went.
    astray: RefCell<Vec<Astray>>,
}

/// A write that went to the wrong place of its file.
#[derive(Clone, Debug)]
pub struct Astray {
    pub file: NodeId,
    pub meant: (u64, u64),
    pub went: (u64, u64),
}

/// An open file.
#[derive(Clone)]
pub struct OpenFile {
    disk: Rc<Disk>,
    pub node: NodeId,
}

impl Disk {
    pub fn new(world: Rc<World>, seed: u64) -> Rc<Disk> {
        Rc::new(Disk {
            world,
            state: RefCell::default(),
            faults: RefCell::default(),
            dice: RefCell::new(Random::of(seed, 1)),
            astray: RefCell::default(),
        })
    }

    /// The time an operation takes, then whether it failed.
    async fn answer(&self, kind: OpKind) -> DiskResult<()> {
        let world = &self.world;
        let base = match kind {
            OpKind::Flush | OpKind::SyncFs => world.between(50, 3000),
            OpKind::Write => world.between(20, 2000),
            _ => world.between(10, 400),
        };
        let stall_one_in = self.faults.borrow().stall_one_in;
        let stall = stall_one_in.is_some_and(|count| world.one_in(count));
        if stall {
            world.count("fault: stall");
        }
        let extra = if stall { world.between(10_000, 5_000_000) } else { 0 };
        world.sleep(base + extra).await;
        if self.faults.borrow_mut().fails(kind) {
            world.count(kind.error_name());
            world.note(format_args!("EIO on {kind:?}"));
            return Err(DiskError::Io(kind));
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let now = self.world.now();
        let full = self.faults.borrow().full.is_some_and(|(from, to)| from <= now && now < to);
        if full {
            self.world.count("fault: full disk");
        }
        full
    }

    fn grow(&self) -> DiskResult<()> {
        if self.is_full() { Err(DiskError::Full) } else { Ok(()) }
    }

    /// Opens a file; with `create`, makes it if it is not there.
    pub async fn open(self: &Rc<Self>, path: &str, create: bool) -> DiskResult<OpenFile> {
        self.answer(OpKind::Open).await?;
        let found = self.state.borrow().find(path);
        if let Some(node) = found {
            return Ok(OpenFile { disk: self.clone(), node });
        }
        if !create {
            return Err(DiskError::NotFound);
        }
        self.grow()?;
        let mut state = self.state.borrow_mut();
        let node = state.add(Node::File(FileState::default()));
        state.change(path, |name| Change::Link { name, node })?;
        Ok(OpenFile { disk: self.clone(), node })
    }

    /// The whole file.
    pub async fn read_file(self: &Rc<Self>, path: &str) -> DiskResult<Vec<u8>> {
        let file = self.open(path, false).await?;
        file.read(0, usize::MAX).await
    }

    /// Replaces a file as a whole: old or new, whatever happens.
    pub async fn replace_file(self: &Rc<Self>, path: &str, bytes: &[u8]) -> DiskResult<()> {
        let temporary = format!("{path}.tmp");
        let written = async {
            let file = self.open(&temporary, true).await?;
            self.grow()?;
            file.truncate(0).await?;
            file.write(0, bytes).await?;
            file.flush().await?;
            self.rename(&temporary, path).await
        };
        if let Err(error) = written.await {
            let _ = self.remove_if_present(&temporary).await; // On a full disk every block counts.
            return Err(error);
        }
        self.sync_directory(parent(path)).await
    }

    pub async fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        self.answer(OpKind::Rename).await?;
        self.grow()?; // A directory may need a block for it.
        let mut state = self.state.borrow_mut();
        state.find(from).ok_or(DiskError::NotFound)?;
        let to = name_of(to).to_owned();
        state.change(from, |from| Change::Rename { from, to })
    }

    pub async fn remove_if_present(&self, path: &str) -> DiskResult<()> {
        self.answer(OpKind::Remove).await?;
        let mut state = self.state.borrow_mut();
        match state.find(path) {
            Some(_) => state.change(path, |name| Change::Unlink { name }),
            None => Ok(()),
        }
    }

    /// Makes a directory in the root and flushes its name.
    pub async fn make_directory(&self, path: &str) -> DiskResult<()> {
        self.answer(OpKind::Open).await?;
        if self.state.borrow().find(path).is_none() {
            self.grow()?;
            let mut state = self.state.borrow_mut();
            let node = state.add(Node::Directory(Directory::default()));
            state.change(path, |name| Change::Link { name, node })?;
        }
        self.sync_directory("").await
    }

    /// Removes the files of a directory one after the other, then the directory.
    pub async fn remove_directory(&self, path: &str) -> DiskResult<()> {
        for (name, _) in self.list(path).await? {
            self.remove_if_present(&format!("{path}/{name}")).await?;
        }
        self.remove_if_present(path).await
    }

    /// Names and sizes; a directory has none.
    pub async fn list(&self, path: &str) -> DiskResult<Vec<(String, Option<u64>)>> {
        self.answer(OpKind::List).await?;
        self.names(path).ok_or(DiskError::NotFound)
    }

    pub fn exists(&self, path: &str) -> bool {
        self.state.borrow().find(path).is_some()
    }

    pub async fn sync_directory(&self, path: &str) -> DiskResult<()> {
        let made = self.state.borrow_mut().directory(path).ok_or(DiskError::NotFound)?.made();
        self.answer(OpKind::SyncDirectory).await?;
        if let Some(directory) = self.state.borrow_mut().directory(path) {
            directory.flushed(made);
        }
        Ok(())
    }

    /// Flushes everything, names included.
    pub async fn sync_file_system(&self) -> DiskResult<()> {
        let (files, directories) = {
            let state = self.state.borrow();
            let mut files = Vec::new();
            let mut directories = vec![(None, state.root.made())];
            for (id, node) in &state.nodes {
                match node {
                    Node::File(file) if file.has_unflushed() => files.push((*id, file.completed())),
                    Node::File(_) => {}
                    Node::Directory(directory) => directories.push((Some(*id), directory.made())),
                }
            }
            (files, directories)
        };
        self.answer(OpKind::SyncFs).await?;
        let mut state = self.state.borrow_mut();
        for (id, covered) in files {
            if let Some(Node::File(file)) = state.nodes.get_mut(&id) {
                file.flushed(&covered);
            }
        }
        for (id, made) in directories {
            match id {
                None => state.root.flushed(made),
                Some(id) => {
                    if let Some(Node::Directory(directory)) = state.nodes.get_mut(&id) {
                        directory.flushed(made);
                    }
                }
            }
        }
        Ok(())
    }

    /// Names and sizes, at once: for checks and damage.
    pub fn names(&self, path: &str) -> Option<Vec<(String, Option<u64>)>> {
        let state = self.state.borrow();
        let directory = match path {
            "" => &state.root,
            _ => match state.nodes.get(&state.find(path)?)? {
                Node::Directory(directory) => directory,
                Node::File(_) => return None,
            },
        };
        let size = |node| match &state.nodes[&node] {
            Node::File(file) => Some(file.size()),
            Node::Directory(_) => None,
        };
        Some(directory.names().map(|(name, node)| (name.to_owned(), size(node))).collect())
    }

    /// The file's bytes as a read would see them, at once: for checks.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        match state.nodes.get(&state.find(path)?)? {
            Node::File(file) => Some(file.read(0, usize::MAX)),
            Node::Directory(_) => None,
        }
    }

    pub fn node(&self, path: &str) -> Option<NodeId> {
        self.state.borrow().find(path)
    }

    pub fn take_astray(&self) -> Vec<Astray> {
        self.astray.take()
    }

    /// The process died.
    pub fn kill(&self) {
        let (mut state, mut dice) = (self.state.borrow_mut(), self.dice.borrow_mut());
        for node in state.nodes.values_mut() {
            if let Node::File(file) = node {
                file.kill(&mut dice);
            }
        }
    }

    /// The power went.
    pub fn lose_power(&self) {
        let (mut state, mut dice) = (self.state.borrow_mut(), self.dice.borrow_mut());
        let loss = Loss::draw(&mut dice);
        self.world.note(format_args!("power lost, of what was not flushed goes {loss:?}"));
        let state = &mut *state;
        state.root.lose_power(&mut dice);
        for node in state.nodes.values_mut() {
            match node {
                Node::File(file) => file.lose_power(loss, &mut dice),
                Node::Directory(directory) => directory.lose_power(&mut dice),
            }
        }
        state.forget_unreachable();
    }

    /// Removes a name behind everybody's back, for good: with it all that happened in its directory before.
    pub fn take_away(&self, path: &str) {
        let mut state = self.state.borrow_mut();
        let directory = state.directory(parent(path)).expect("it is there");
        directory.change(Change::Unlink { name: name_of(path).to_owned() });
        directory.flushed(directory.made());
    }

    /// Changes a file's bytes behind everybody's back.
    pub fn damage(&self, path: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.state.borrow_mut();
        let node = state.find(path);
        if let Some(Node::File(file)) = node.and_then(|node| state.nodes.get_mut(&node)) {
            file.damage(change);
        }
    }
}

impl OpenFile {
    pub fn size(&self) -> u64 {
        self.with(|file| file.size())
    }

    pub async fn read(&self, position: u64, size: usize) -> DiskResult<Vec<u8>> {
        self.disk.answer(OpKind::Read).await?;
        Ok(self.with(|file| file.read(position, size)))
    }

    /// Writes all of it. An error leaves any part of it written.
    pub async fn write(&self, position: u64, bytes: &[u8]) -> DiskResult<()> {
        let size = bytes.len() as u64;
        let (number, clear) = self.with(|file| file.begin(Op::Write { position, bytes: bytes.to_vec() }));
        if !clear {
            let node = self.node;
            self.disk.world.finding(
                "writes in flight do not overlap",
                format_args!("{size} bytes at {position} of {node:?}"),
            );
        }
        let goes_astray = self.disk.faults.borrow_mut().misdirects();
        let answer = self.disk.answer(OpKind::Write).await;
        if goes_astray {
            self.misdirect(number, position, size);
        }
        match answer {
            Ok(()) => self.with(|file| file.complete(number)),
            Err(_) => self.with(|file| file.tear(number, &mut self.disk.dice.borrow_mut())),
        }
        answer
    }

    fn misdirect(&self, number: u64, position: u64, size: u64) {
        let blocks = self.size().saturating_sub(size) / SECTOR;
        let to = self.disk.dice.borrow_mut().below(blocks + 1) * SECTOR;
        if to == position || !position.is_multiple_of(SECTOR) {
            return;
        }
        self.with(|file| file.misdirect(number, to));
        self.disk.world.count("fault: misdirected write");
        let (meant, went) = ((position, position + size), (to, to + size));
        self.disk.world.note(format_args!("misdirected write in {:?}: {meant:?} to {went:?}", self.node));
        self.disk.astray.borrow_mut().push(Astray { file: self.node, meant, went });
    }

    /// Returns once everything that had completed before is on stable storage.
    pub async fn flush(&self) -> DiskResult<()> {
        let covered = self.with(|file| file.completed());
        self.disk.answer(OpKind::Flush).await?;
        self.with(|file| file.flushed(&covered));
        Ok(())
    }

    /// Reserves the file's first `size` bytes.
    pub async fn allocate(&self, size: u64) -> DiskResult<()> {
        self.disk.answer(OpKind::Allocate).await?;
        if size > self.size() {
            self.disk.grow()?;
            self.at_once(Op::Grow(size));
        }
        Ok(())
    }

    pub async fn truncate(&self, size: u64) -> DiskResult<()> {
        self.disk.answer(OpKind::Truncate).await?;
        if size != self.size() {
            self.at_once(Op::Cut(size));
        }
        Ok(())
    }

    fn at_once(&self, op: Op) {
        self.disk.world.note(format_args!("{op:?} of {:?}", self.node));
        self.with(|file| {
            let (number, _) = file.begin(op);
            file.complete(number);
        });
    }

    fn with<T>(&self, with: impl FnOnce(&mut FileState) -> T) -> T {
        match self.disk.state.borrow_mut().nodes.get_mut(&self.node) {
            Some(Node::File(file)) => with(file),
            Some(Node::Directory(_)) | None => unreachable!("an open file stays until the next crash"),
        }
    }
}

impl State {
    fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    fn find(&self, path: &str) -> Option<NodeId> {
        match path.split_once('/') {
            None => self.root.find(path),
            Some((directory, name)) => match &self.nodes[&self.root.find(directory)?] {
                Node::Directory(directory) => directory.find(name),
                Node::File(_) => None,
            },
        }
    }

    fn directory(&mut self, path: &str) -> Option<&mut Directory> {
        if path.is_empty() {
            return Some(&mut self.root);
        }
        let node = self.root.find(path)?;
        match self.nodes.get_mut(&node) {
            Some(Node::Directory(directory)) => Some(directory),
            Some(Node::File(_)) | None => None,
        }
    }

    fn change(&mut self, path: &str, change: impl FnOnce(String) -> Change) -> DiskResult<()> {
        let directory = self.directory(parent(path)).ok_or(DiskError::NotFound)?;
        directory.change(change(name_of(path).to_owned()));
        Ok(())
    }

    fn forget_unreachable(&mut self) {
        let mut reachable: Vec<NodeId> = self.root.nodes().collect();
        for node in &reachable.clone() {
            if let Some(Node::Directory(directory)) = self.nodes.get(node) {
                reachable.extend(directory.nodes());
            }
        }
        self.nodes.retain(|id, _| reachable.contains(id));
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn name_of(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
