//! Children that end with us, and waiting for them with a bound, or until somebody interrupts.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// SIGINT or SIGTERM came, after [`catch_interrupts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// From here on SIGINT and SIGTERM end the waiting and not the process.
pub fn catch_interrupts() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let note: extern "C" fn(libc::c_int) = note;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler stores to an atomic, which a signal handler may.
        unsafe { libc::signal(signal, note as libc::sighandler_t) };
    }
}

pub fn check_interrupts() -> Result<(), Interrupted> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Interrupted) } else { Ok(()) }
}

/// Looks again and again; `None` when it took longer than `timeout`.
pub fn wait_for<T>(timeout: Duration, mut look: impl FnMut() -> Option<T>) -> Result<Option<T>, Interrupted> {
    let give_up = Instant::now() + timeout;
    loop {
        check_interrupts()?;
        if let Some(found) = look() {
            return Ok(Some(found));
        }
        if Instant::now() >= give_up {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Killed and waited for when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// In a process group of its own: a terminal's SIGINT is for us to act on.
    pub fn spawn(command: &mut Command) -> io::Result<Process> {
        Ok(Process { child: command.process_group(0).spawn()? })
    }

    /// SIGKILL. Does not wait: it may have a request that we have to answer.
    pub fn kill(&mut self) {
        // Fails only if it has ended and was waited for.
        let _ = self.child.kill();
    }

    /// SIGTERM, for an orderly end.
    pub fn terminate(&self) {
        // SAFETY: kill takes no pointers; the process is our child and was not waited for.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        match self.child.try_wait() {
            Ok(status) => status,
            Err(error) => ExitStatus::from_raw(error.raw_os_error().unwrap_or(-1)).into(),
        }
    }

    /// Waits for the end of a process that was killed.
    pub fn join(&mut self) {
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        self.join();
    }
}
