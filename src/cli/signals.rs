//! SIGTERM and SIGINT: the first stops in order, the second at once.
//!
//! The signals are blocked before any thread exists, so that every thread inherits the mask and no
//! system call of a shard is ever interrupted; one thread of its own waits for them.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// How long an orderly stop may take before the process ends anyway. Recovery then has more to do,
/// and nothing acknowledged is lost.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(30);

/// The signals that stop the process, blocked in every thread made from now on.
pub struct StopSignals {
    set: libc::sigset_t,
}

impl StopSignals {
    /// Must be called before the process has a second thread.
    pub fn block() -> io::Result<StopSignals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that the other calls then read and change; the
        // signal numbers are valid.
        let (set, result) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            let set = set.assume_init();
            (set, libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()))
        };
        if result == 0 { Ok(StopSignals { set }) } else { Err(io::Error::from_raw_os_error(result)) }
    }

    /// Whether one has come that nobody has taken yet.
    pub fn is_pending(&self) -> bool {
        let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigpending initialises the set that is then looked into, or fails.
        unsafe {
            libc::sigpending(pending.as_mut_ptr()) == 0
                && [libc::SIGTERM, libc::SIGINT]
                    .iter()
                    .any(|signal| libc::sigismember(pending.as_ptr(), *signal) == 1)
        }
    }

    /// Calls `stop` on the first signal. A second one, or [`STOP_TIME_MAX`] later, ends the process
    /// with the code that shells expect (128 + signal) or 1.
    pub fn on_first(self, stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name("signals".to_string());
        thread.spawn(move || {
            let signal = self.wait(None).expect("without a time limit there is a signal");
            tracing::info!(signal = name(signal), "stopping; a second signal ends the process at once");
            stop();
            let code = match self.wait(Some(STOP_TIME_MAX)) {
                Some(second) => {
                    tracing::warn!(signal = name(second), "ending at once");
                    128 + second
                }
                None => {
                    tracing::error!("not stopped after {} s; ending at once", STOP_TIME_MAX.as_secs());
                    1
                }
            };
            // SAFETY: ends the process without running anything else of it.
            unsafe { libc::_exit(code) }
        })?;
        Ok(())
    }

    /// `None` when the time has passed.
    fn wait(&self, limit: Option<Duration>) -> Option<libc::c_int> {
        let limit = limit.map(|limit| libc::timespec { tv_sec: limit.as_secs() as _, tv_nsec: 0 });
        loop {
            // SAFETY: the set is initialised, and the time is null or readable.
            let signal = unsafe {
                let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
                libc::sigtimedwait(&self.set, std::ptr::null_mut(), limit)
            };
            if signal > 0 {
                return Some(signal);
            }
            // EINTR (a debugger, SIGCONT) is not an end of the wait.
            if limit.is_some() && last_errno() == libc::EAGAIN {
                return None;
            }
        }
    }
}

fn last_errno() -> libc::c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn name(signal: libc::c_int) -> &'static str {
    if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" }
}
