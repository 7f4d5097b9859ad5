//! Files and directories with their histories, over real files; and the plain directory that they
//! come from and end as.
//!
//! ```text
//! DIRECTORY/tree      before and after: a plain directory
//! DIRECTORY/blocks    in between: the newest bytes of each file, by inode number
//! ```
//!
//! Nothing here is flushed: the power that is lost is not this machine's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::history::{self, History, sectors_around};
use crate::names::{Directory, Entry, Inode, Kind, Names, Tree};
use crate::random::Random;

/// What was asked of the volume so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub writes: u64,
    pub written_bytes: u64,
    /// Completed flushes of a file, of a directory.
    pub file_flushes: u64,
    pub directory_flushes: u64,
    /// Created, renamed and removed names.
    pub name_changes: u64,
}

/// What a cut took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    pub sectors_unflushed: u64,
    pub sectors_dropped: u64,
    pub names_unflushed: u64,
    pub names_dropped: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub inode: Inode,
    pub kind: Kind,
    pub size: u64,
    pub modified: SystemTime,
}

/// What a flush covers that starts now.
#[derive(Clone, Copy, Debug)]
pub enum FlushMark {
    File(Inode, history::Mark),
    Directory(Inode, crate::names::Mark),
}

struct Stored {
    data: File,
    history: History,
    size: u64,
    handles: u32,
}

/// Lives: from a mount to its cut or unmount.
pub struct Volume {
    directory: PathBuf,
    names: Names,
    files: BTreeMap<Inode, Stored>,
    next_inode: u64,
    made_at: SystemTime,
    counts: Counts,
    /// Bytes that are written whole or not at all.
    sector_size: u64,
}

impl Volume {
    /// Takes in `directory/tree`, made if it is not there. All of it counts as flushed.
    pub fn open(directory: &Path, sector_size: u64) -> io::Result<Volume> {
        let mut volume = Volume {
            directory: directory.to_owned(),
            names: Names::default(),
            files: BTreeMap::new(),
            next_inode: Inode::ROOT.0 + 1,
            made_at: SystemTime::now(),
            counts: Counts::default(),
            sector_size,
        };
        let tree = volume.tree_path();
        fs::create_dir_all(&tree)?;
        fs::create_dir(volume.blocks_path())?;
        volume.take_in(&tree, Inode::ROOT)?;
        fs::remove_dir_all(&tree)?;
        volume.names.flush_all();
        Ok(volume)
    }

    fn tree_path(&self) -> PathBuf {
        self.directory.join("tree")
    }

    fn blocks_path(&self) -> PathBuf {
        self.directory.join("blocks")
    }

    fn block_path(&self, inode: Inode) -> PathBuf {
        self.blocks_path().join(inode.0.to_string())
    }

    /// In the order of names, so that the same tree gets the same inodes.
    fn take_in(&mut self, path: &Path, directory: Inode) -> io::Result<()> {
        let mut entries: Vec<fs::DirEntry> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let inode = self.new_inode();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.names.link(directory, &entry.file_name(), Entry { inode, kind: Kind::Directory });
                self.take_in(&entry.path(), inode)?;
            } else if kind.is_file() {
                fs::rename(entry.path(), self.block_path(inode))?;
                self.store(inode, OpenOptions::new().read(true).write(true).open(self.block_path(inode))?)?;
                self.names.link(directory, &entry.file_name(), Entry { inode, kind: Kind::File });
            } else {
                return Err(io::Error::other(format!("{} is no file", entry.path().display())));
            }
        }
        Ok(())
    }

    fn new_inode(&mut self) -> Inode {
        self.next_inode += 1;
        Inode(self.next_inode - 1)
    }

    fn store(&mut self, inode: Inode, data: File) -> io::Result<()> {
        let size = data.metadata()?.len();
        self.files.insert(inode, Stored { data, history: History::default(), size, handles: 0 });
        Ok(())
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn lookup(&self, directory: Inode, name: &OsStr) -> io::Result<Attributes> {
        let entry = self.names.entry(directory, name).ok_or_else(|| os(libc::ENOENT))?;
        self.attributes(entry.inode)
    }

    pub fn attributes(&self, inode: Inode) -> io::Result<Attributes> {
        if let Ok(stored) = self.file(inode) {
            let modified = stored.data.metadata()?.modified()?;
            return Ok(Attributes { inode, kind: Kind::File, size: stored.size, modified });
        }
        self.list(inode)?;
        Ok(Attributes { inode, kind: Kind::Directory, size: 4096, modified: self.made_at })
    }

    pub fn list(&self, directory: Inode) -> io::Result<&Directory> {
        self.names.directory(directory).ok_or_else(|| os(libc::ENOENT))
    }

    /// A new file without a handle.
    pub fn create(&mut self, directory: Inode, name: &OsStr) -> io::Result<Attributes> {
        self.check_absent(directory, name)?;
        let inode = self.new_inode();
        let mut options = OpenOptions::new();
        self.store(inode, options.read(true).write(true).create_new(true).open(self.block_path(inode))?)?;
        self.change_names(|names| names.link(directory, name, Entry { inode, kind: Kind::File }));
        self.attributes(inode)
    }

    pub fn make_directory(&mut self, directory: Inode, name: &OsStr) -> io::Result<Attributes> {
        self.check_absent(directory, name)?;
        let inode = self.new_inode();
        self.change_names(|names| names.link(directory, name, Entry { inode, kind: Kind::Directory }));
        self.attributes(inode)
    }

    fn check_absent(&self, directory: Inode, name: &OsStr) -> io::Result<()> {
        match self.list(directory)?.contains_key(name) {
            true => Err(os(libc::EEXIST)),
            false => Ok(()),
        }
    }

    pub fn remove(&mut self, directory: Inode, name: &OsStr, kind: Kind) -> io::Result<()> {
        let entry = self.names.entry(directory, name).ok_or_else(|| os(libc::ENOENT))?;
        match (kind, entry.kind) {
            (Kind::File, Kind::Directory) => return Err(os(libc::EISDIR)),
            (Kind::Directory, Kind::File) => return Err(os(libc::ENOTDIR)),
            (Kind::Directory, Kind::Directory) => self.check_empty(entry.inode)?,
            (Kind::File, Kind::File) => {}
        }
        self.change_names(|names| names.unlink(directory, name));
        Ok(())
    }

    fn check_empty(&self, directory: Inode) -> io::Result<()> {
        match self.list(directory)?.is_empty() {
            true => Ok(()),
            false => Err(os(libc::ENOTEMPTY)),
        }
    }

    pub fn rename(
        &mut self,
        from: (Inode, &OsStr),
        to: (Inode, &OsStr),
        replaces: Replaces,
    ) -> io::Result<()> {
        let moved = self.names.entry(from.0, from.1).ok_or_else(|| os(libc::ENOENT))?;
        self.list(to.0)?;
        if let Some(replaced) = self.names.entry(to.0, to.1) {
            match (replaces, moved.kind, replaced.kind) {
                (Replaces::Nothing, ..) => return Err(os(libc::EEXIST)),
                (_, Kind::File, Kind::Directory) => return Err(os(libc::EISDIR)),
                (_, Kind::Directory, Kind::File) => return Err(os(libc::ENOTDIR)),
                (_, Kind::Directory, Kind::Directory) => self.check_empty(replaced.inode)?,
                (_, Kind::File, Kind::File) => {}
            }
        }
        self.change_names(|names| names.rename(from, to));
        Ok(())
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names)) {
        change(&mut self.names);
        self.counts.name_changes += 1;
    }

    pub fn opened(&mut self, inode: Inode) -> io::Result<()> {
        self.file_mut(inode)?.handles += 1;
        Ok(())
    }

    pub fn closed(&mut self, inode: Inode) {
        if let Ok(stored) = self.file_mut(inode) {
            stored.handles -= 1;
            self.forget_unreachable();
        }
    }

    /// Fewer bytes at the end of the file.
    pub fn read(&self, inode: Inode, position: u64, size: usize) -> io::Result<Vec<u8>> {
        let stored = self.file(inode)?;
        let size = stored.size.saturating_sub(position).min(size as u64) as usize;
        let mut bytes = vec![0; size];
        stored.data.read_exact_at(&mut bytes, position)?;
        Ok(bytes)
    }

    pub fn write(&mut self, inode: Inode, position: u64, bytes: &[u8]) -> io::Result<()> {
        let stored = self.file_mut(inode)?;
        let end = position.checked_add(bytes.len() as u64).ok_or_else(|| os(libc::EFBIG))?;
        let around = sectors_around(position..end);
        let before = stored.sectors(around.clone())?;
        let size = stored.size.max(end);
        stored.history.write(around.start, before, stored.size, size);
        stored.data.write_all_at(bytes, position)?;
        stored.size = size;
        self.counts.writes += 1;
        self.counts.written_bytes += bytes.len() as u64;
        Ok(())
    }

    pub fn resize(&mut self, inode: Inode, size: u64) -> io::Result<()> {
        let stored = self.file_mut(inode)?;
        let around = sectors_around(size.min(stored.size)..stored.size);
        let before = stored.sectors(around.clone())?;
        stored.history.resize(around.start, before, stored.size, size);
        stored.data.set_len(size)?;
        stored.size = size;
        Ok(())
    }

    /// Reserves nothing; makes the file at least `size` bytes long.
    pub fn extend(&mut self, inode: Inode, size: u64) -> io::Result<()> {
        if self.file(inode)?.size < size {
            self.resize(inode, size)?;
        }
        Ok(())
    }

    pub fn flush_mark(&self, inode: Inode) -> FlushMark {
        match self.file(inode) {
            Ok(stored) => FlushMark::File(inode, stored.history.mark()),
            Err(_) => FlushMark::Directory(inode, self.names.mark()),
        }
    }

    /// A flush is complete.
    pub fn flushed(&mut self, mark: FlushMark) {
        match mark {
            FlushMark::File(inode, mark) => {
                if let Ok(stored) = self.file_mut(inode) {
                    stored.history.flushed(mark);
                }
                self.counts.file_flushes += 1;
            }
            FlushMark::Directory(inode, mark) => {
                self.names.flushed(inode, mark);
                self.counts.directory_flushes += 1;
                self.forget_unreachable();
            }
        }
    }

    /// Drops files that have neither a handle nor a name, not even one that a cut may bring back.
    fn forget_unreachable(&mut self) {
        let reachable = self.names.reachable();
        let forgotten: Vec<Inode> = self
            .files
            .iter()
            .filter(|(inode, stored)| stored.handles == 0 && !reachable.contains(inode))
            .map(|(inode, _)| *inode)
            .collect();
        for inode in forgotten {
            self.files.remove(&inode);
            // Only space is lost if it stays; `blocks` is removed in the end.
            let _ = fs::remove_file(self.block_path(inode));
        }
    }

    fn file(&self, inode: Inode) -> io::Result<&Stored> {
        self.files.get(&inode).ok_or_else(|| os(libc::ENOENT))
    }

    fn file_mut(&mut self, inode: Inode) -> io::Result<&mut Stored> {
        self.files.get_mut(&inode).ok_or_else(|| os(libc::ENOENT))
    }

    /// Everything as it is becomes a plain directory.
    pub fn close(self) -> io::Result<()> {
        let tree = self.names.now().clone();
        self.lay_out(&tree)
    }

    /// What was flushed and, of the rest, what the dice leave becomes a plain directory.
    pub fn cut(mut self, seed: u64) -> io::Result<Loss> {
        let names_unflushed = self.names.unflushed_count() as u64;
        let (tree, names_dropped) = self.names.cut(&mut Random::of(seed, 0));
        let mut loss = Loss { names_unflushed, names_dropped, ..Loss::default() };
        for (inode, stored) in &mut self.files {
            let cut = stored.history.cut(self.sector_size, &mut Random::of(seed, inode.0));
            for (position, bytes) in &cut.restored {
                stored.data.write_all_at(bytes, *position)?;
            }
            if let Some(size) = cut.size {
                stored.data.set_len(size)?;
            }
            loss.sectors_unflushed += cut.sectors_unflushed;
            loss.sectors_dropped += cut.sectors_dropped;
        }
        self.lay_out(&tree)?;
        Ok(loss)
    }

    fn lay_out(&self, tree: &Tree) -> io::Result<()> {
        self.lay_out_directory(tree, Inode::ROOT, &self.tree_path())?;
        fs::remove_dir_all(self.blocks_path())
    }

    fn lay_out_directory(&self, tree: &Tree, directory: Inode, path: &Path) -> io::Result<()> {
        fs::create_dir(path)?;
        for (name, entry) in tree.directory(directory).into_iter().flatten() {
            let path = path.join(name);
            match entry.kind {
                Kind::Directory => self.lay_out_directory(tree, entry.inode, &path)?,
                Kind::File => fs::rename(self.block_path(entry.inode), path)?,
            }
        }
        Ok(())
    }
}

/// What a rename may put its file in the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    Anything,
    Nothing,
}

impl Stored {
    /// Whole sectors, with zeros behind the end of the file.
    fn sectors(&self, around: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (around.end - around.start) as usize];
        let there = self.size.saturating_sub(around.start).min(bytes.len() as u64) as usize;
        self.data.read_exact_at(&mut bytes[..there], around.start)?;
        Ok(bytes)
    }
}

pub(crate) fn os(code: libc::c_int) -> io::Error {
    io::Error::from_raw_os_error(code)
}
