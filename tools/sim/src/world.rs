//! One thread, virtual time, dice: what the simulated shell runs on instead of an executor and a
//! clock.
//!
//! ```text
//! ready tasks ─► one of them, by the dice, runs to its next wait
//! none ready  ─► time jumps to the next timer (every answer of the disk is one)
//! a crash     ─► all tasks are dropped where they stand; disk and model stay
//! ```
//!
//! The order of tasks, the times of answers and every fault come from one seed, so a seed always runs
//! the same. [`World::note`] takes down what happened; its checksum is what two runs are compared by.

use crate::random::Random;
use crate::report::Counts;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// Virtual microseconds.
pub type Micros = u64;

/// A millisecond.
pub const MS: Micros = 1000;
/// A second.
pub const S: Micros = 1_000_000;

/// Wall clock at the start of every seed, milliseconds.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// What follows the first findings of a seed mostly follows from them.
const FINDINGS_MAX: usize = 3;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What a waker reaches: wakers are shared by type although everything is on one thread.
#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

struct TaskWaker {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.0.lock().expect("nobody panics with it");
        if !ready.contains(&self.task) {
            ready.push(self.task);
        }
    }
}

/// What has happened, as a checksum and, if asked for, as text.
#[derive(Default)]
struct Trace {
    checksum: crc32fast::Hasher,
    lines: u64,
    print: bool,
}

/// Lives: one per seed, and one [`beside`](World::beside) it for each process whose tasks end with it.
pub struct World {
    now: Rc<Cell<Micros>>,
    dice: Rc<RefCell<Random>>,
    pub counts: Rc<RefCell<Counts>>,
    trace: Rc<RefCell<Trace>>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_task: Cell<u64>,
    ready: Arc<Ready>,
    timers: RefCell<BTreeMap<(Micros, u64), Waker>>,
    next_timer: Cell<u64>,
    /// Checks that failed, oldest first.
    findings: Rc<RefCell<Vec<String>>>,
}

impl World {
    pub fn new(seed: u64, print: bool) -> Rc<World> {
        Rc::new(World {
            now: Rc::default(),
            dice: Rc::new(RefCell::new(Random::of(seed, 0))),
            counts: Rc::default(),
            trace: Rc::new(RefCell::new(Trace { print, ..Trace::default() })),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Arc::default(),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            findings: Rc::default(),
        })
    }

    /// Tasks and timers of their own, in the same time and with the same dice.
    pub fn beside(&self) -> Rc<World> {
        Rc::new(World {
            now: self.now.clone(),
            dice: self.dice.clone(),
            counts: self.counts.clone(),
            trace: self.trace.clone(),
            tasks: RefCell::default(),
            next_task: Cell::new(0),
            ready: Arc::default(),
            timers: RefCell::default(),
            next_timer: Cell::new(0),
            findings: self.findings.clone(),
        })
    }

    /// When a task goes on: at once, or with the next timer. `None`: all of them wait for each other.
    pub fn next_step(&self) -> Option<Micros> {
        if !self.ready.0.lock().expect("nobody panics with it").is_empty() {
            return Some(self.now());
        }
        self.timers.borrow().first_key_value().map(|((time, _), _)| *time)
    }

    pub fn now(&self) -> Micros {
        self.now.get()
    }

    /// Milliseconds since 1970, as batches carry them.
    pub fn wall_ms(&self) -> i64 {
        EPOCH_MS + (self.now.get() / 1000) as i64
    }

    pub fn below(&self, end: u64) -> u64 {
        self.dice.borrow_mut().below(end)
    }

    pub fn between(&self, from: u64, to: u64) -> u64 {
        self.dice.borrow_mut().between(from, to)
    }

    pub fn one_in(&self, count: u64) -> bool {
        self.dice.borrow_mut().one_in(count)
    }

    pub fn draw(&self) -> u64 {
        self.dice.borrow_mut().draw()
    }

    /// Takes down what happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let line = what.to_string();
        let mut trace = self.trace.borrow_mut();
        trace.checksum.update(&self.now.get().to_be_bytes());
        trace.checksum.update(line.as_bytes());
        trace.lines += 1;
        if trace.print {
            println!("{:>12} {line}", self.now.get());
        }
    }

    /// Lines and checksum of everything noted.
    pub fn trace(&self) -> (u64, u32) {
        let trace = self.trace.borrow();
        (trace.lines, trace.checksum.clone().finalize())
    }

    pub fn count(&self, what: &'static str) {
        self.counts.borrow_mut().add(what, 1);
    }

    /// A check has failed. `check` is its name.
    pub fn finding(&self, check: &'static str, what: fmt::Arguments<'_>) {
        let finding = format!("{check}: {what}");
        self.note(format_args!("FINDING {finding}"));
        let mut findings = self.findings.borrow_mut();
        if findings.len() < FINDINGS_MAX {
            findings.push(finding);
        }
    }

    pub fn has_findings(&self) -> bool {
        !self.findings.borrow().is_empty()
    }

    pub fn take_findings(&self) -> Vec<String> {
        self.findings.take()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let id = self.next_task.get();
        self.next_task.set(id + 1);
        self.tasks.borrow_mut().insert(id, Box::pin(task));
        self.ready.0.lock().expect("nobody panics with it").push(id);
    }

    /// Runs one task to its next wait, or moves on to the next timer. `false` when there is nothing
    /// left to do.
    pub fn step(&self) -> bool {
        let next = {
            let mut ready = self.ready.0.lock().expect("nobody panics with it");
            match ready.len() as u64 {
                0 => None,
                count => Some(ready.swap_remove(self.below(count) as usize)),
            }
        };
        match next {
            Some(id) => {
                self.poll(id);
                true
            }
            None => self.advance(),
        }
    }

    fn poll(&self, id: u64) {
        // Out of the table while it runs: it may spawn.
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else { return };
        let waker = Waker::from(Arc::new(TaskWaker { task: id, ready: self.ready.clone() }));
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.tasks.borrow_mut().insert(id, task);
        }
    }

    fn advance(&self) -> bool {
        let first = self.timers.borrow_mut().pop_first();
        let Some(((time, _), waker)) = first else { return false };
        self.now.set(self.now.get().max(time));
        waker.wake();
        true
    }

    /// Runs until `done`, or until nothing is left to do: then `false`.
    pub fn run_until(&self, mut done: impl FnMut() -> bool) -> bool {
        while !done() {
            if !self.step() {
                return done();
            }
        }
        true
    }

    /// Everything in memory is gone.
    pub fn drop_tasks(&self) {
        let tasks = self.tasks.take();
        drop(tasks);
        self.ready.0.lock().expect("nobody panics with it").clear();
        self.timers.borrow_mut().clear();
    }

    /// Time moves on to there, for those who keep their own timers.
    pub fn jump(&self, to: Micros) {
        self.now.set(self.now.get().max(to));
    }

    pub fn sleep(&self, time: Micros) -> Sleep<'_> {
        Sleep { world: self, until: self.now.get() + time, registered: false }
    }
}

pub struct Sleep<'a> {
    world: &'a World,
    until: Micros,
    registered: bool,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.registered && self.world.now.get() >= self.until {
            return Poll::Ready(());
        }
        if !self.registered {
            self.registered = true;
            let number = self.world.next_timer.get();
            self.world.next_timer.set(number + 1);
            self.world.timers.borrow_mut().insert((self.until, number), cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Wakes everybody who waits for it.
#[derive(Default)]
pub struct Signal {
    generation: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    pub fn notify(&self) {
        self.generation.set(self.generation.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Resolves at the next [`notify`](Self::notify) from now on.
    pub fn notified(&self) -> impl Future<Output = ()> + '_ {
        let from = self.generation.get();
        std::future::poll_fn(move |cx| {
            if self.generation.get() != from {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
    }
}

/// One at a time.
#[derive(Default)]
pub struct Turn {
    taken: Cell<bool>,
    freed: Signal,
}

pub struct Held<'a>(&'a Turn);

impl Turn {
    pub async fn take(&self) -> Held<'_> {
        while self.taken.get() {
            self.freed.notified().await;
        }
        self.taken.set(true);
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.freed.notify();
    }
}
