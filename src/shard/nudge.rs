//! Wakes executors that sleep although their tasks can run.
//!
//! The runtime (glommio-ng 0.12, `LocalExecutor::run_task_queues`) looks at its preemption ring before it runs
//! the first task. When something is there already, which is so when the thread lost its CPU for as long as the
//! preemption timer runs between arming it and looking, it runs nothing, says that nothing could be run, and
//! goes to sleep, until the next completion or timer of any kind: the very first task of one executor in forty,
//! and now and then those of a running one. Completions of a queue with `Latency::Matters` arrive in that ring
//! too, so such queues hang by themselves.
//!
//! So one thread interrupts the system calls of every shard at a fixed interval: a signal with an empty handler,
//! sent to the thread. A shard that is awake loses about a microsecond, one that is lost sleeps no longer than
//! the interval. (Every millisecond, by this thread or by a timer of the shard's own, was no better for the
//! latencies of a busy shard up to p99.99: it has other completions all the time.)
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
