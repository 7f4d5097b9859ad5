//! A file system of a test's own, small enough to be filled: ext4 in a file, mounted by `mount -o
//! loop`, which takes root and a kernel that allows it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::broker::temporary_directory;

/// Mounted while it lives. Whoever uses files on it is dropped first.
pub struct SmallDisk {
    directory: TempDir,
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
        let disk = SmallDisk { directory: temporary_directory("disk-") };
        let image = disk.directory.path().join("image");
        File::create(&image).and_then(|file| file.set_len(size)).map_err(|error| error.to_string())?;
        std::fs::create_dir(disk.path()).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
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
        run(Command::new("umount").arg(self.path())).expect("nobody uses it");
    }

    /// The disk is back, repaired.
    pub fn mount_again(&self) {
        let image = self.directory.path().join("image");
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(self.path())).expect("as before");
    }

    /// Gives the blocks of [`SmallDisk::fill`] back.
    pub fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !is_mounted(&self.path()) {
            return;
        }
        if let Err(error) = run(Command::new("umount").arg(self.path())) {
            eprintln!("{error}: it is unmounted once nobody uses it");
            let _ = run(Command::new("umount").arg("--lazy").arg(self.path()));
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{:?}: {}", command.get_program(), said.trim()))
    }
}
