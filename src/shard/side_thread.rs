//! A thread beside each shard for long work that hardly any request waits for.
//!
//! ```text
//! shard's core   [blocking]  syncfs, renames, small files      the runtime's thread, pinned to the core
//! any core     [SideThread]  unlinks, decompression, …         niced, in the order of the calls
//!                   │ done: its number, by a foreign sender
//!                   └────────────────────► one task on the shard wakes who waits
//! ```
//!
//! The rule: [`blocking`](crate::shard::disk::blocking) is for what is over in some milliseconds and what an
//! acknowledgement, a read or a new topic may wait for, be it only for names that are held still meanwhile.
//! What may take longer comes here: files that go, a slice at a time, batches that compaction looks into, the
//! indexes it has made, checkpoints. A flush waits for none of it, and a request only for the checkpoint of a
//! log directory without a journal, or for its own large batch that a topic stores in another codec.
//!
//! The thread never wakes a task itself: a waker belongs to its executor.
//!
//! Absent: order between shards, and a wait at the end. What is still queued when the process ends was
//! as good as never begun.

use crate::metrics::ShardMetrics;
use crate::shard::clock::Clock;
use crate::shard::event::Signal;
use crate::shard::step::timed;
use glommio::channels::shared_channel;
use glommio::sync::{Semaphore, StaticPermit};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::mpsc;

/// Calls that are queued or run; further ones wait. Each kind of side work has one at a time.
const CALLS_MAX: usize = 64;

/// Added to the thread's: a tenth of the share of one that is not niced.
const NICE: libc::c_int = 10;

/// A call on its way to the thread.
struct Job {
    number: u64,
    call: Box<dyn FnOnce() + Send>,
}

/// Who waits for a call.
struct Waiting {
    done: Rc<Signal>,
    /// Held until it is done, even when nobody waits any more: the answers have room for all.
    _place: StaticPermit,
}

/// Lives: one per shard. The thread ends with it.
pub struct SideThread {
    jobs: mpsc::Sender<Job>,
    waiting: Rc<RefCell<BTreeMap<u64, Waiting>>>,
    places: Rc<Semaphore>,
    next: Cell<u64>,
}

impl SideThread {
    /// On the executor that will ask it.
    pub fn start(clock: &Clock, metrics: &Rc<RefCell<ShardMetrics>>) -> Rc<SideThread> {
        let (jobs, asked) = mpsc::channel::<Job>();
        let (answers, answered) = mpsc::channel();
        let waiting: Rc<RefCell<BTreeMap<u64, Waiting>>> = Rc::default();
        let told = waiting.clone();
        let wake = async move {
            let (sender, receiver) = shared_channel::new_bounded::<u64>(CALLS_MAX);
            let (sender, receiver) = futures::join!(sender.connect(), receiver.connect());
            let _ = answers.send(sender.into_foreign());
            while let Some(number) = receiver.recv().await {
                let done: Option<Waiting> = told.borrow_mut().remove(&number);
                done.expect("a call is done once").done.notify();
            }
        };
        glommio::spawn_local(timed(clock, metrics, wake)).detach();
        let serve = move || {
            leave_the_core();
            let Ok(answers) = answered.recv() else { return };
            while let Ok(Job { number, call }) = asked.recv() {
                call();
                // Full it cannot be; without its executor there is nobody to tell.
                let _ = answers.try_send(number);
            }
        };
        let thread = std::thread::Builder::new().name("side".to_owned()).spawn(serve);
        thread.expect("a process that can start a shard can start its side thread");
        Rc::new(SideThread {
            jobs,
            waiting,
            places: Rc::new(Semaphore::new(CALLS_MAX as u64)),
            next: Cell::new(0),
        })
    }

    /// Runs a call after those before it. It runs even if nobody waits for it any more.
    pub async fn run<R: Send + 'static>(&self, call: impl FnOnce() -> R + Send + 'static) -> R {
        let place = self.places.acquire_static_permit(1).await.expect("it is never closed");
        let (sender, result) = mpsc::sync_channel(1);
        let done = Rc::new(Signal::default());
        let number = self.next.replace(self.next.get() + 1);
        self.waiting.borrow_mut().insert(number, Waiting { done: done.clone(), _place: place });
        let call = Box::new(move || {
            let _ = sender.send(catch_unwind(AssertUnwindSafe(call)));
        });
        self.jobs.send(Job { number, call }).expect("the thread ends after its senders");
        done.notified().await;
        match result.try_recv().expect("it is sent before it is told") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// Takes the calling thread off the core that it was started on, and lets others go first.
fn leave_the_core() {
    // SAFETY: an all-zero set is a valid one to be filled in; sizes are those of the set. What fails leaves
    // the thread as it was, which works as well. The main thread, whose number is the process's, is pinned
    // to no core.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(libc::getpid(), size, &raw mut cpus) == 0 {
            libc::sched_setaffinity(0, size, &raw const cpus);
        }
        let _ = libc::nice(NICE); // Of this thread only: Linux has it so.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::disk::blocking;
    use crate::shard::tests::on_executor;
    use futures::FutureExt;

    fn started() -> Rc<SideThread> {
        SideThread::start(&Clock::new(), &Rc::default())
    }

    #[test]
    fn what_a_flush_needs_does_not_wait_for_long_work() {
        on_executor(async {
            let side_thread = started();
            let (end, ended) = mpsc::channel::<()>();
            let long = side_thread.run(move || ended.recv().is_ok());
            let mut long = std::pin::pin!(long);
            assert!((&mut long).now_or_never().is_none(), "it was asked for, and waits");
            for number in 0..100 {
                assert_eq!(blocking(move || number).await, number);
            }
            assert!((&mut long).now_or_never().is_none());
            end.send(()).unwrap();
            assert!(long.await);
        });
    }

    #[test]
    fn calls_run_in_order_however_many_and_whoever_waits() {
        on_executor(async {
            let side_thread = started();
            let (seen, order) = mpsc::channel();
            let count = 5 * CALLS_MAX as u64;
            let calls = (0..count).map(|number| {
                let seen = seen.clone();
                side_thread.run(move || seen.send(number).unwrap())
            });
            // Some are given up at once: they run all the same, and take no place for ever.
            let mut calls = futures::future::join_all(calls);
            assert!((&mut calls).now_or_never().is_none());
            drop(calls);
            for _ in 0..2 * CALLS_MAX {
                side_thread.run(|| {}).await;
            }
            drop(seen);
            let order: Vec<u64> = order.iter().collect();
            assert!(order.len() >= CALLS_MAX, "{}", order.len());
            assert!(order.is_sorted());
        });
    }

    #[test]
    fn thread_is_niced_and_not_pinned() {
        let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Fixed(0));
        builder.make().expect("io_uring is available").run(async {
            let side_thread = started();
            // SAFETY: it takes any numbers.
            let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            assert_eq!(side_thread.run(nice).await, (nice() + NICE).min(19));
            // SAFETY: an all-zero set is a valid one to be filled in, of the size that is said.
            let cpus = |thread: libc::pid_t| unsafe {
                let mut cpus: libc::cpu_set_t = std::mem::zeroed();
                libc::sched_getaffinity(thread, size_of::<libc::cpu_set_t>(), &raw mut cpus);
                libc::CPU_COUNT(&cpus)
            };
            assert_eq!(cpus(0), 1);
            let process = std::process::id() as libc::pid_t;
            assert_eq!(side_thread.run(move || cpus(0)).await, cpus(process));
        });
    }

    #[test]
    #[should_panic(expected = "as asked")]
    fn panic_comes_to_who_waits() {
        on_executor(async {
            started().run(|| panic!("as asked")).await;
        });
    }
}
