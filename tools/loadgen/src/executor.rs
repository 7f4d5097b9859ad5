//! One glommio executor per thread, pinned when asked, all starting their load at the same moment, and
//! none of them asleep for longer than the broker's own executors (`odradek::shard::nudge`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use glommio::{LocalExecutorBuilder, Placement};
use odradek::shard::nudge::Nudger;
use odradek::types::Mono;

use crate::clock;

/// Bytes registered for disk I/O, of which this tool does none; the least that glommio takes.
const IO_MEMORY: usize = 64 << 10;
/// Longest turn of one connection while others wait.
const PREEMPT: Duration = Duration::from_millis(5);
/// How long a thread that is ready waits between two looks at the gate.
const GATE_POLL: Duration = Duration::from_millis(1);
/// From the last thread being ready to the start of the load.
const START_DELAY: Duration = Duration::from_millis(5);
/// How often `watch` is called, unless told otherwise.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Runs one future on an executor of its own, on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let nudger = Nudger::start()?;
    nudger.register_this_thread();
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY)
        .make()
        .map_err(|e| anyhow::anyhow!("io_uring is not available here: {e}"))?;
    Ok(executor.run(future))
}

/// How many threads, and where they run.
#[derive(Clone, Debug)]
pub struct Threads {
    pub count: usize,
    /// CPU of each thread; a single one is that of the first thread, the others follow. Empty: not
    /// pinned.
    pub cpus: Vec<usize>,
    pub watch_every: Duration,
}

impl Default for Threads {
    fn default() -> Threads {
        Threads { count: 1, cpus: Vec::new(), watch_every: WATCH_EVERY }
    }
}

impl Threads {
    fn placement(&self, thread: usize) -> anyhow::Result<Placement> {
        let cpu = match self.cpus.as_slice() {
            [] => return Ok(Placement::Unbound),
            [first] => first + thread,
            cpus => *cpus.get(thread).context("--cpus names fewer CPUs than --threads asks for")?,
        };
        Ok(Placement::Fixed(cpu))
    }
}

/// Holds threads back until all are connected.
#[derive(Default)]
pub struct Gate {
    ready: AtomicUsize,
    start: AtomicU64,
    aborted: AtomicBool,
}

impl Gate {
    /// Says that this thread is ready and returns the common start; `None` if another one failed.
    pub async fn pass(&self) -> Option<Mono> {
        self.ready.fetch_add(1, Ordering::SeqCst);
        loop {
            if self.aborted.load(Ordering::SeqCst) {
                return None;
            }
            let start = self.start.load(Ordering::SeqCst);
            if start != 0 {
                return Some(Mono(start));
            }
            glommio::timer::sleep(GATE_POLL).await;
        }
    }

    fn open_when_ready(&self, threads: usize) -> Option<Mono> {
        if self.start.load(Ordering::SeqCst) != 0 || self.ready.load(Ordering::SeqCst) < threads {
            return None;
        }
        let start = clock::now().after(START_DELAY);
        self.start.store(start.0, Ordering::SeqCst);
        Some(start)
    }
}

/// What a group of threads did.
pub struct Finished<T> {
    pub results: Vec<T>,
    pub seconds: f64,
    pub cpu_seconds: f64,
}

/// Runs `body` once per thread and collects what they return, calling `watch` every so often.
///
/// `seconds` is from the common start to the last thread's end. Errors: the first thread's; the
/// others are told to give up at the gate.
pub fn run_threads<T, F>(
    name: &str,
    threads: &Threads,
    body: impl Fn(usize, Arc<Gate>) -> F + Clone + Send + 'static,
    mut watch: impl FnMut(Duration),
) -> anyhow::Result<Finished<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + 'static,
{
    let gate = Arc::new(Gate::default());
    let (sender, receiver) = mpsc::channel::<anyhow::Result<T>>();
    let nudger = Nudger::start()?;
    let mut handles = Vec::new();
    for thread in 0..threads.count {
        let (gate, sender, body) = (gate.clone(), sender.clone(), body.clone());
        let nudger = nudger.clone();
        let builder = LocalExecutorBuilder::new(threads.placement(thread)?)
            .name(&format!("{name}-{thread}"))
            .io_memory(IO_MEMORY)
            .preempt_timer(PREEMPT);
        let handle = std::thread::Builder::new().name(format!("{name}-{thread}")).spawn(move || {
            // First of all: an executor may sleep past its very first task.
            nudger.register_this_thread();
            let result = match builder.make() {
                Ok(executor) => executor.run(body(thread, gate)),
                Err(error) => Err(anyhow::anyhow!("io_uring is not available here: {error}")),
            };
            // The receiver is gone only when another thread has failed already.
            let _ = sender.send(result);
        });
        handles.push(handle.context("cannot start a thread")?);
    }
    drop(sender);
    let finished = collect(&gate, threads, &receiver, &mut watch);
    if finished.is_err() {
        gate.aborted.store(true, Ordering::SeqCst);
    }
    for handle in handles {
        handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    }
    finished
}

fn collect<T>(
    gate: &Gate,
    threads: &Threads,
    receiver: &mpsc::Receiver<anyhow::Result<T>>,
    watch: &mut impl FnMut(Duration),
) -> anyhow::Result<Finished<T>> {
    let mut results = Vec::new();
    let mut start: Option<(Mono, Duration)> = None;
    let mut watched = Mono(0);
    while results.len() < threads.count {
        let wait = match start {
            None => GATE_POLL,
            Some(_) => watched.after(threads.watch_every).since(clock::now()),
        };
        match receiver.recv_timeout(wait) {
            Ok(result) => results.push(result?),
            Err(mpsc::RecvTimeoutError::Disconnected) => anyhow::bail!("a thread ended without a result"),
            Err(mpsc::RecvTimeoutError::Timeout) => match start {
                None => {
                    start = gate.open_when_ready(threads.count).map(|at| (at, clock::process_cpu()));
                    watched = start.map_or(watched, |(at, _)| at);
                }
                Some((at, _)) => {
                    watched = watched.after(threads.watch_every);
                    watch(clock::now().since(at));
                }
            },
        }
    }
    let (start, cpu) = start.context("no thread was ever ready")?;
    let seconds = clock::now().since(start).as_secs_f64();
    let cpu_seconds = clock::process_cpu().saturating_sub(cpu).as_secs_f64();
    Ok(Finished { results, seconds, cpu_seconds })
}
