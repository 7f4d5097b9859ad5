//! The volume as a mounted file system, and the moment at which its power goes.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption};

use crate::files::Files;
use crate::history::SECTOR_SIZE;
use crate::power::{Power, Shared, State};
use crate::volume::{Counts, Loss, Volume};

/// How long the kernel may need to let go of a killed process's files.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// A mounted volume. Dropping it unmounts it and leaves `DIRECTORY/blocks` behind.
pub struct Mount {
    directory: PathBuf,
    shared: Shared,
    session: Option<BackgroundSession>,
}

impl Mount {
    /// Mounts `directory/tree` at `directory/mount`. Needs root and /dev/fuse.
    pub fn start(directory: &Path) -> io::Result<Mount> {
        Mount::start_with_sectors(directory, SECTOR_SIZE)
    }

    /// The same on a device that writes so many bytes whole or not at all.
    pub fn start_with_sectors(directory: &Path, sector_size: u64) -> io::Result<Mount> {
        let point = directory.join("mount");
        // What a run that was killed left behind.
        let _ = unmount(&point, libc::MNT_DETACH);
        std::fs::create_dir_all(&point)?;
        let shared = Shared::new(Volume::open(directory, sector_size)?);
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("odradek-powerloss".into()), MountOption::RW];
        let files = Files::new(shared.clone(), directory);
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
                Ok(()) => return ended_with_the_mount(session.join()),
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

/// How the thread that answers the kernel ended, after its mount did. The kernel says so with ENODEV,
/// which the library knows, or with ECONNABORTED where it was about to hand a request over.
fn ended_with_the_mount(ended: io::Result<()>) -> io::Result<()> {
    match ended {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        ended => {
            ended.map_err(|error| io::Error::new(error.kind(), format!("answering the kernel: {error}")))
        }
    }
}

fn unmount(point: &Path, flags: libc::c_int) -> io::Result<()> {
    let point = CString::new(point.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a zero byte.
    let result = unsafe { libc::umount2(point.as_ptr(), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Root in a container may well not.
fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u32 = 21; // From linux/capability.h.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> CAP_SYS_ADMIN & 1 == 1)
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
