//! Wakes executors that sleep past their own timers.
//!
//! On the kernels and with the runtime we build on (Linux 6.18, glommio-ng 0.12) about one executor
//! start in forty, and now and then a running one, slept in `io_uring_enter` although a timer was
//! due or a peer had connected; any interruption of the system call made it go on. So one thread
//! interrupts every shard at a fixed interval: a signal with an empty handler, sent to the thread. A
//! shard that is awake loses about a microsecond, one that is lost sleeps no longer than the interval.
//!
//! Absent: a cure. It belongs into the runtime; the test of it is a thousand starts.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

/// The longest that a lost wake-up can last. Fifty interruptions a second cost an idle core about a
/// thousandth.
const INTERVAL: Duration = Duration::from_millis(20);

/// A signal that nothing else in the process uses; without a handler it would be ignored, and an
/// ignored signal interrupts nothing.
const SIGNAL: libc::c_int = libc::SIGURG;

/// The interrupting thread. It ends once every handle is gone.
#[derive(Clone, Debug)]
pub struct Nudger {
    threads: mpsc::Sender<libc::pid_t>,
}

impl Nudger {
    pub fn start() -> io::Result<Nudger> {
        install_empty_handler()?;
        let (threads, registered) = mpsc::channel();
        std::thread::Builder::new().name("nudge".to_string()).spawn(move || run(&registered))?;
        Ok(Nudger { threads })
    }

    /// Has the calling thread interrupted from now on.
    pub fn register_this_thread(&self) {
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        let _ = self.threads.send(thread); // Gone only if the thread could not go on.
    }
}

fn run(registered: &mpsc::Receiver<libc::pid_t>) {
    let mut threads = Vec::new();
    loop {
        match registered.recv_timeout(INTERVAL) {
            Ok(thread) => threads.push(thread),
            Err(mpsc::RecvTimeoutError::Timeout) => threads.iter().for_each(|thread| interrupt(*thread)),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn interrupt(thread: libc::pid_t) {
    // SAFETY: tgkill takes any numbers; a thread that has ended is an error that does not matter, and
    // one that has its number now is of this process and loses nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
}

fn install_empty_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: an all-zero sigaction is valid: no flags (system calls are not restarted, which is the
    // purpose) and an empty mask; the handler does nothing, which is safe in any context.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(SIGNAL, &action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
