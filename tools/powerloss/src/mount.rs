//! The volume as a mounted file system, and the moment at which its power goes.
//!
//! ```text
//! power   on ──(the chosen operation arrives, or `cut_now`)──► going ──(the broker is dead)──► off
//! answers    at once; flushes after FLUSH_TIME           none, they wait                  EIO
//! ```
//!
//! Who uses the file system must not see an error that a lost machine would never have returned: while
//! the power is going nothing is answered, and `EIO` only reaches a process that was killed.
//!
//! Every file is opened with FOPEN_DIRECT_IO: the kernel caches no page, so O_DIRECT works and each
//! write arrives when it is made. `syncfs` never arrives: the kernel passes it on only for virtiofs and
//! mounts of block devices.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use crate::names::{Entry, Inode, Kind};
use crate::volume::{Attributes, Counts, FlushMark, Loss, Replaces, Volume, os};

/// How long a flush takes; what is written meanwhile is not covered by it.
const FLUSH_TIME: Duration = Duration::from_millis(1);

/// The kernel keeps no attributes and no names: every look is ours to answer.
const TTL: Duration = Duration::ZERO;

/// How long the kernel may need to let go of a killed process's files.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    On,
    Going,
    Off,
}

struct State {
    /// `None` once it was taken for the cut.
    volume: Option<Volume>,
    power: Power,
    /// Changes and flushes that were asked for.
    operations: u64,
    /// The operation that finds the power gone.
    cut_at: Option<u64>,
    /// Open directories, as they were when they were opened.
    listings: BTreeMap<u64, Vec<(OsString, Entry)>>,
    next_listing: u64,
}

#[derive(Clone)]
struct Shared(Arc<(Mutex<State>, Condvar)>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().expect("no request panics")
    }

    /// Runs a request, unless the power is gone.
    fn request<T>(&self, run: impl FnOnce(&mut State, &mut Volume) -> io::Result<T>) -> Result<T, Errno> {
        self.run(self.lock(), run)
    }

    /// The same, for a request that changes or flushes something: the power may go at it.
    fn operation<T>(&self, run: impl FnOnce(&mut State, &mut Volume) -> io::Result<T>) -> Result<T, Errno> {
        let mut state = self.lock();
        if state.power == Power::On {
            state.operations += 1;
            if state.cut_at.is_some_and(|at| at <= state.operations) {
                state.power = Power::Going;
                self.0.1.notify_all();
            }
        }
        self.run(state, run)
    }

    fn run<T>(
        &self,
        state: MutexGuard<'_, State>,
        run: impl FnOnce(&mut State, &mut Volume) -> io::Result<T>,
    ) -> Result<T, Errno> {
        let waits = |state: &mut State| state.power == Power::Going;
        let mut state = self.0.1.wait_while(state, waits).expect("no request panics");
        if state.power == Power::Off {
            return Err(Errno::EIO);
        }
        let mut volume = state.volume.take().ok_or(Errno::EIO)?;
        let result = run(&mut state, &mut volume);
        state.volume = Some(volume);
        result.map_err(Errno::from)
    }
}

/// A mounted volume. Dropping it unmounts it and leaves `DIRECTORY/blocks` behind.
pub struct Mount {
    directory: PathBuf,
    shared: Shared,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts `directory/tree` at `directory/mount`. Needs root and /dev/fuse.
    pub fn start(directory: &Path) -> io::Result<Mount> {
        let point = directory.join("mount");
        // What a run that was killed left behind.
        let _ = unmount(&point, libc::MNT_DETACH);
        std::fs::create_dir_all(&point)?;
        let state = State {
            volume: Some(Volume::open(directory)?),
            power: Power::On,
            operations: 0,
            cut_at: None,
            listings: BTreeMap::new(),
            next_listing: 0,
        };
        let shared = Shared(Arc::new((Mutex::new(state), Condvar::new())));
        let (flushes, asked) = channel();
        let flusher = shared.clone();
        std::thread::spawn(move || complete_flushes(&flusher, &asked));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("odradek-powerloss".into()), MountOption::RW];
        let files = Files { shared: shared.clone(), flushes, directory: directory.to_owned() };
        let session = fuser::spawn_mount(files, &point, &config)?;
        Ok(Mount { directory: directory.to_owned(), shared, session: Some(session) })
    }

    /// Why there can be no mount here, if so, in a sentence.
    pub fn unavailable() -> Option<String> {
        let open = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
        if let Err(error) = open {
            return Some(format!("cutting the power needs FUSE, and /dev/fuse cannot be opened ({error})"));
        }
        (!may_mount())
            .then(|| "cutting the power needs root (CAP_SYS_ADMIN), to mount a file system".to_string())
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join("mount")
    }

    pub fn counts(&self) -> Counts {
        self.shared.lock().volume.as_ref().map(Volume::counts).unwrap_or_default()
    }

    /// Changes and flushes that were asked for since the mount.
    pub fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// The power goes when the `count`th operation from now arrives.
    pub fn cut_after(&self, count: u64) {
        let mut state = self.shared.lock();
        state.cut_at = Some(state.operations + count);
    }

    /// The power goes, unless it is gone.
    pub fn cut_now(&self) {
        let mut state = self.shared.lock();
        if state.power == Power::On {
            state.power = Power::Going;
        }
    }

    pub fn is_on(&self) -> bool {
        self.shared.lock().power == Power::On
    }

    /// Whether the power is gone; waits for that at most so long.
    pub fn wait_for_cut(&self, timeout: Duration) -> bool {
        let on = |state: &mut State| state.power == Power::On;
        let waited = self.shared.0.1.wait_timeout_while(self.shared.lock(), timeout, on);
        !waited.expect("no request panics").1.timed_out()
    }

    /// The broker is killed: what waits for an answer gets an error that nobody reads. To be called
    /// before waiting for the end of a process that has a request here.
    pub fn power_off(&self) {
        self.shared.lock().power = Power::Off;
        self.shared.0.1.notify_all();
    }

    /// The machine stays: what waits for an answer happens, whether or not its process was killed.
    pub fn power_back(&self) {
        let mut state = self.shared.lock();
        state.cut_at = None;
        state.power = Power::On;
        self.shared.0.1.notify_all();
    }

    /// Unmounts, and leaves in `DIRECTORY/tree` what the dice of `seed` leave.
    pub fn cut(mut self, seed: u64) -> io::Result<Loss> {
        self.power_off();
        let volume = self.shared.lock().volume.take().expect("it is taken once");
        self.detach()?;
        volume.cut(seed)
    }

    /// Unmounts, and leaves everything in `DIRECTORY/tree`.
    pub fn unmount(mut self) -> io::Result<()> {
        self.detach()?;
        let volume = self.shared.lock().volume.take().expect("it is taken once");
        volume.close()
    }

    fn detach(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let give_up = Instant::now() + UNMOUNT_PATIENCE;
        loop {
            match unmount(&self.path(), 0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Its thread ends with the mount.
                Ok(()) => return session.join(),
                Err(error) => {
                    // Somebody holds it: taken out of sight, its requests fail from here on.
                    unmount(&self.path(), libc::MNT_DETACH)?;
                    self.shared.lock().power = Power::Off;
                    self.shared.0.1.notify_all();
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.power_off();
        let _ = self.detach();
    }
}

fn unmount(point: &Path, flags: libc::c_int) -> io::Result<()> {
    let point = CString::new(point.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte.
    let result = unsafe { libc::umount2(point.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

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

struct Files {
    shared: Shared,
    flushes: Sender<Flush>,
    directory: PathBuf,
}

impl Files {
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

/// Root in a container may well not.
fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21; // From linux/capability.h.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> CAP_SYS_ADMIN & 1 == 1)
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

/// Whether a path is on a mounted file system of its own.
pub fn is_mounted(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev());
    match (device(path), path.parent().map(device)) {
        (Ok(own), Some(Ok(above))) => own != above,
        // A mount whose program is gone answers nothing.
        (Err(error), _) => error.raw_os_error() == Some(libc::ENOTCONN),
        _ => false,
    }
}
