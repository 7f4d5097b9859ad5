//! A file system of a test's own, small enough to be filled: ext4 in a file ([`Image`]), which takes root
//! and a kernel that allows it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::broker::temporary_directory;
use crate::image::{FileSystem, Image};

/// Mounted while it lives. Whoever uses files on it is dropped first.
pub struct SmallDisk {
    /// Dropped, and by that unmounted, before its directory.
    image: Image,
    _directory: TempDir,
}

impl SmallDisk {
    /// `None` when this machine does not let us, said on standard error. Under `CI=true` that is a
    /// failure: there it has to run.
    pub fn mount(size: u64) -> Option<SmallDisk> {
        match SmallDisk::try_mount(size) {
            Ok(disk) => Some(disk),
            Err(reason) => {
                let said = format!("a small ext4 cannot be mounted, which takes root: {reason}");
                assert!(
                    std::env::var("CI").as_deref() != Ok("true"),
                    "{said}; under CI=true this test must run"
                );
                eprintln!("SKIPPED: {said}");
                None
            }
        }
    }

    fn try_mount(size: u64) -> Result<SmallDisk, String> {
        let directory = temporary_directory("disk-");
        let (file, at) = (directory.path().join("image"), directory.path().join("mounted"));
        let image = Image::make(&file, &at, FileSystem::Ext4, size).map_err(|error| error.to_string())?;
        Ok(SmallDisk { image, _directory: directory })
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.image.path().to_path_buf()
    }

    /// Bytes that are left.
    pub fn free(&self) -> u64 {
        let root = File::open(self.path()).expect("it is mounted");
        let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: fstatvfs takes any open descriptor and fills in `found`, which lives until it returns.
        let result = unsafe { libc::fstatvfs(root.as_raw_fd(), found.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: it has succeeded.
        let found = unsafe { found.assume_init() };
        found.f_bavail * found.f_frsize
    }

    /// Takes every block that is left.
    pub fn fill(&self) {
        let filler = OpenOptions::new().create(true).append(true).open(self.filler());
        let mut filler = filler.expect("the filler can be made while there is space");
        // Most of it at once, where the file system can.
        // SAFETY: fallocate takes any open descriptor; `filler` is open.
        let _ = unsafe { libc::fallocate(filler.as_raw_fd(), 0, 0, self.free() as libc::off_t) };
        // What a flush finds missing or left over, the next round takes.
        for _round in 0..3 {
            for size in [1 << 20, 4096] {
                while filler.write_all(&vec![0xff; size]).is_ok() {}
            }
            let _ = filler.sync_all();
            // SAFETY: syncfs takes any open descriptor; `filler` is open.
            let _ = unsafe { libc::syncfs(filler.as_raw_fd()) };
        }
    }

    /// Every access fails from here on with an error of the device, until it is mounted again.
    pub fn break_down(&self) {
        /// `EXT4_IOC_SHUTDOWN`, which is `_IOR('X', 125, u32)`, and its flag for "write nothing more".
        const SHUTDOWN: libc::c_ulong = 0x8004_587d;
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(self.path()).expect("it is mounted");
        // SAFETY: the request reads one u32, which lives until it returns.
        let result = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN as _, &NO_LOG_FLUSH) };
        assert_eq!(result, 0, "ext4 cannot be shut down: {}", std::io::Error::last_os_error());
    }

    /// As if the disk were not there: its place is an empty directory. Nobody may use files on it.
    pub fn unmount(&self) {
        self.image.unmount().expect("nobody uses it");
    }

    /// The disk is back, repaired.
    pub fn mount_again(&self) {
        self.image.mount().expect("as before");
    }

    /// Gives the blocks of [`SmallDisk::fill`] back, also where the disk fails the next moment.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
        File::open(self.path()).and_then(|root| root.sync_all()).expect("it is mounted");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}
