//! The kernel's requests, answered from the volume in the order in which they come.
//!
//! Every file is opened with FOPEN_DIRECT_IO: the kernel caches no page, so O_DIRECT works and each
//! write arrives when it is made. `syncfs` never arrives: the kernel passes it on only for virtiofs and
//! mounts of block devices.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::names::{Inode, Kind};
use crate::power::Shared;
use crate::volume::{Attributes, FlushMark, Replaces, os};

/// How long a flush takes; what is written meanwhile is not covered by it.
const FLUSH_TIME: Duration = Duration::from_millis(1);

/// The kernel keeps no attributes and no names: every look is ours to answer.
const TTL: Duration = Duration::ZERO;

struct Flush {
    due: Instant,
    mark: FlushMark,
    reply: ReplyEmpty,
}

/// All flushes take the same time, so they end in the order in which they began.
fn complete_flushes(shared: &Shared, asked: &Receiver<Flush>) {
    for flush in asked {
        std::thread::sleep(flush.due.saturating_duration_since(Instant::now()));
        let flushed = shared.request(|_, volume| {
            volume.flushed(flush.mark);
            Ok(())
        });
        empty(flush.reply, flushed);
    }
}

pub(crate) struct Files {
    shared: Shared,
    flushes: Sender<Flush>,
    directory: PathBuf,
}

impl Files {
    /// With a thread that completes flushes; it ends with this.
    pub(crate) fn new(shared: Shared, directory: &Path) -> Files {
        let (flushes, asked) = channel();
        let flusher = shared.clone();
        std::thread::spawn(move || complete_flushes(&flusher, &asked));
        Files { shared, flushes, directory: directory.to_owned() }
    }

    fn begin_flush(&self, inode: INodeNo, reply: ReplyEmpty) {
        match self.shared.operation(|_, volume| Ok(volume.flush_mark(Inode(inode.0)))) {
            Ok(mark) => {
                let flush = Flush { due: Instant::now() + FLUSH_TIME, mark, reply };
                self.flushes.send(flush).expect("the flusher lives as long as its sender");
            }
            Err(error) => reply.error(error),
        }
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, result: Result<Attributes, Errno>) {
    match result {
        Ok(attributes) => reply.entry(&TTL, &attr(&attributes), Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
    }
}

fn attr(attributes: &Attributes) -> FileAttr {
    let Attributes { inode, kind, size, modified } = *attributes;
    let (perm, nlink) = match kind {
        Kind::File => (0o644, 1),
        Kind::Directory => (0o755, 2),
    };
    FileAttr {
        ino: INodeNo(inode.0),
        size,
        blocks: size.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: file_type(kind),
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Direct, and several writes of one file at a time, as on a real disk.
const OPENED: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.shared.request(|_, volume| volume.lookup(Inode(parent.0), name)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.shared.request(|_, volume| volume.attributes(Inode(inode.0))) {
            Ok(attributes) => reply.attr(&TTL, &attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let inode = Inode(inode.0);
        let result = self.shared.operation(|_, volume| {
            if let Some(size) = size {
                volume.resize(inode, size)?;
            }
            volume.attributes(inode)
        });
        match result {
            Ok(attributes) => reply.attr(&TTL, &attr(&attributes)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        entry(reply, self.shared.operation(|_, volume| volume.make_directory(Inode(parent.0), name)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.shared.operation(|_, volume| volume.remove(Inode(parent.0), name, Kind::File)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(
            reply,
            self.shared.operation(|_, volume| volume.remove(Inode(parent.0), name, Kind::Directory)),
        );
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let replaces = match flags.contains(RenameFlags::RENAME_NOREPLACE) {
            true => Replaces::Nothing,
            false => Replaces::Anything,
        };
        let result = self.shared.operation(|_, volume| {
            if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
                return Err(os(libc::EINVAL));
            }
            volume.rename((Inode(parent.0), name), (Inode(new_parent.0), new_name), replaces)
        });
        empty(reply, result);
    }

    fn open(&self, _: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.shared.request(|_, volume| volume.opened(Inode(inode.0))) {
            Ok(()) => reply.opened(FileHandle(0), OPENED),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let result = self.shared.operation(|_, volume| {
            let attributes = volume.create(Inode(parent.0), name)?;
            volume.opened(attributes.inode)?;
            Ok(attributes)
        });
        match result {
            Ok(attributes) => reply.created(&TTL, &attr(&attributes), Generation(0), FileHandle(0), OPENED),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let closed = self.shared.request(|_, volume| {
            volume.closed(Inode(inode.0));
            Ok(())
        });
        empty(reply, closed);
    }

    /// A handle is closed. No flush: what is written stays in the device's cache.
    fn flush(&self, _: &Request, _inode: INodeNo, _: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.shared.request(|_, volume| volume.read(Inode(inode.0), offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.shared.operation(|_, volume| volume.write(Inode(inode.0), offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result = self.shared.operation(|_, volume| match mode {
            0 => volume.extend(Inode(inode.0), offset.saturating_add(length)),
            libc::FALLOC_FL_KEEP_SIZE => Ok(()),
            _ => Err(os(libc::EOPNOTSUPP)),
        });
        empty(reply, result);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.begin_flush(inode, reply);
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.begin_flush(inode, reply);
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let result = self.shared.request(|state, volume| {
            let listing = volume.list(Inode(inode.0))?;
            let handle = state.next_listing;
            state.next_listing += 1;
            state
                .listings
                .insert(handle, listing.iter().map(|(name, entry)| (name.clone(), *entry)).collect());
            Ok(handle)
        });
        match result {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.shared.request(|state, _| {
            let listing = state.listings.get(&handle.0).ok_or_else(|| os(libc::EBADF))?;
            for (at, (name, entry)) in (1..).zip(listing).skip(offset as usize) {
                if reply.add(INodeNo(entry.inode.0), at, file_type(entry.kind), name) {
                    break;
                }
            }
            Ok(())
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let closed = self.shared.request(|state, _| {
            state.listings.remove(&handle.0);
            Ok(())
        });
        empty(reply, closed);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match free_space(&self.directory) {
            Ok(of) => reply.statfs(
                of.f_blocks,
                of.f_bfree,
                of.f_bavail,
                of.f_files,
                of.f_ffree,
                of.f_bsize as u32,
                of.f_namemax as u32,
                of.f_frsize as u32,
            ),
            Err(error) => reply.error(error.into()),
        }
    }
}

/// Of the file system below.
fn free_space(directory: &Path) -> io::Result<libc::statvfs> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte and `stat` is writable.
    let result = unsafe { libc::statvfs(path.as_ptr(), &mut stat) };
    if result == 0 { Ok(stat) } else { Err(io::Error::last_os_error()) }
}
