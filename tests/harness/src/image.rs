//! A file system in a file, mounted over a loop device: takes root and a kernel that allows it.
//!
//! The device has sectors of [`SECTOR_SIZE`] bytes: direct I/O that is aligned to less is refused, as on a
//! disk that has no smaller ones, and a file system writes no smaller pieces of itself.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);
const UNMOUNT_RETRY: Duration = Duration::from_millis(20);

/// Bytes that the device reads and writes at least.
pub const SECTOR_SIZE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    pub const ALL: [FileSystem; 2] = [FileSystem::Ext4, FileSystem::Xfs];

    pub const fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
        }
    }

    /// Without discarding first: the file may not be able to.
    fn make_command(self) -> Command {
        let (program, arguments): (_, &[&str]) = match self {
            FileSystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "nodiscard"]),
            FileSystem::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }
}

impl FromStr for FileSystem {
    type Err = String;

    fn from_str(name: &str) -> Result<FileSystem, String> {
        let found = FileSystem::ALL.into_iter().find(|known| known.name() == name);
        found.ok_or_else(|| "use ext4 or xfs".to_owned())
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Mounted while it lives, unless it was unmounted. Whoever uses files on it is dropped first.
#[derive(Debug)]
pub struct Image {
    file: PathBuf,
    at: PathBuf,
}

impl Image {
    /// Makes the file, the file system in it, and the directory that it is mounted at. XFS wants 300 MiB.
    pub fn make(file: &Path, at: &Path, file_system: FileSystem, size: u64) -> io::Result<Image> {
        File::create(file)?.set_len(size)?;
        std::fs::create_dir_all(at)?;
        // As the kernel lists it.
        let image = Image { file: file.to_owned(), at: at.canonicalize()? };
        let device = LoopDevice::attach(file)?;
        run(file_system.make_command().arg(&device.path))?;
        image.mount_device(&device)?;
        Ok(image)
    }

    /// Why there can be none here, if so, in a sentence. A kernel may still refuse the mount.
    pub fn unavailable(file_system: FileSystem) -> Option<String> {
        let made = run(file_system.make_command().arg("-V"));
        let attached = made.and_then(|()| said(Command::new("losetup").arg("--find")));
        attached.err().map(|error| format!("{file_system} in a file needs root and a loop device: {error}"))
    }

    /// Once more, after it was unmounted.
    pub fn mount(&self) -> io::Result<()> {
        self.mount_device(&LoopDevice::attach(&self.file)?)
    }

    fn mount_device(&self, device: &LoopDevice) -> io::Result<()> {
        run(Command::new("mount").arg(&device.path).arg(&self.at))
    }

    /// Errors: somebody uses files on it, still after [`UNMOUNT_PATIENCE`]. The kernel takes back the rings of a
    /// killed process, and the files in use by them, some time after it is gone.
    pub fn unmount(&self) -> io::Result<()> {
        let give_up = Instant::now() + UNMOUNT_PATIENCE;
        loop {
            match run(Command::new("umount").arg(&self.at)) {
                Err(error) if error.to_string().contains("busy") && Instant::now() < give_up => {
                    std::thread::sleep(UNMOUNT_RETRY);
                }
                done => return done,
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    pub fn is_mounted(&self) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == self.at))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if !self.is_mounted() {
            return;
        }
        if let Err(error) = self.unmount() {
            eprintln!("{error}: it is unmounted once nobody uses it");
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.at));
        }
    }
}

/// Lives: until it is mounted or that has failed. The kernel lets go of it with its last user.
struct LoopDevice {
    path: String,
}

impl LoopDevice {
    fn attach(file: &Path) -> io::Result<LoopDevice> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &SECTOR_SIZE.to_string()]).arg(file);
        Ok(LoopDevice { path: said(&mut command)?.trim().to_owned() })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = run(Command::new("losetup").args(["--detach", &self.path]));
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    said(command).map(drop)
}

fn said(command: &mut Command) -> io::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", error.trim())))
}
