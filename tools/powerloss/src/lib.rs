//! Loss of power under a running broker: a FUSE file system that keeps what was flushed and, of the
//! rest, whatever the dice say.
//!
//! ```text
//! broker ── io_uring, O_DIRECT ──► kernel ── FUSE ──► mount ──► volume ──► files of DIRECTORY/blocks
//!                                                                 │
//!                     names: which directory changes are not flushed; histories: which writes are not
//!
//! cut: no request is answered any more ─► the broker is killed ─► DIRECTORY/tree: a plain directory
//!      with what was flushed, and a subset of what was not, in whole sectors of 512 bytes
//! ```
//!
//! With `--fs` the mount holds one file, the disk, and the broker is on ext4 or XFS above it (`rounds`).
//! The kernel waits for this program then: whoever stops it, stops every `sync` on the machine.
//!
//! | file | what it is |
//! |---|---|
//! | `history` | what one file looked like before each unflushed change, and what a cut leaves of it; pure |
//! | `names` | directories: now, on disk, and the changes between; pure |
//! | `random` | the dice |
//! | `volume` | the two over real files, and the plain directory before and after |
//! | `mount`, `files`, `power` | the volume mounted; the kernel's requests, in order; the moment of the cut |
//! | `rounds` | the broker on it under load, again and again |
//! | `process` | children that end with us |
//!
//! More forgetful than a journalling file system on a good disk, never less: a name is on disk only
//! after the directory was flushed (POSIX promises no more; ext4 would keep it with the file), and
//! each unflushed write may be there or not, whatever was written after it.
//!
//! Absent: owners, modes and times (a file has its backing file's times), links, mmap, O_SYNC; a device
//! that loses what it has confirmed as flushed.
#![expect(
    clippy::disallowed_methods,
    reason = "a file system over files, and a tool that waits for processes; no broker code"
)]

mod files;
pub mod history;
pub mod mount;
pub mod names;
mod power;
pub mod process;
pub mod random;
pub mod rounds;
pub mod volume;
