//! Reads of what has left the tail: in a task queue of their own, with a memory of their own, and only
//! so many of them on the disk at a time.
//!
//! ```text
//! fetch ─► in the tail? answered at once
//!            └ no ─► catch-up queue: turn (memory) ─► direct reads, a few bytes ─► batches walked
//!                                     ▲ given back once the answer is made   └► answer ─► socket
//! ```
//!
//! The queue has a fraction of the shares of the one that everything else runs in: when the core is
//! busy, readers of cold history get that part of it and producers the rest. Sending what was read
//! costs more of the core than reading it, so it is done in there as well.
//!
//! The disk has one queue for all. Beside commits of the same shard reads go one at a time.
//!
//! What waits for its turn holds nothing: a fetch that has read one partition and finds no memory for
//! the next one is answered with what it has. Otherwise two such fetches could wait for each other.

use crate::log::plan::{align_down, align_up};
use crate::log::read_turns::{Asked, ReadTurns, ReaderId, TurnId};
use crate::metrics::ShardMetrics;
use crate::shard::clock::Clock;
use crate::shard::disk::DiskFile;
use crate::shard::event::Signal;
use crate::shard::read_gate::ReadGate;
use crate::shard::reader::ReadFailed;
use crate::shard::step::timed;
use crate::shard::store::Store;
use crate::shard::walk::Walk;
use crate::types::limits::{
    CATCH_UP_BESIDE_COMMITS_MAX, CATCH_UP_IN_FLIGHT_MAX, CATCH_UP_TURN_SIZE_MAX, COMMIT_EXPECTED,
    IO_ALIGNMENT, IO_SIZE_MAX,
};
use crate::types::{Mono, Offset, ShardId};
use glommio::io::ReadResult;
use glommio::sync::{Permit, Semaphore};
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};

/// Of the 1000 that the queue of everything else has: a busy core spends a sixth on old records.
const SHARES: usize = 200;

/// Parts of the budget that one fetch may hold: so many readers are served side by side.
const FETCHES_SIDE_BY_SIDE: usize = 8;

/// Bytes read beyond what was asked for, so that the batch at the start is whole although the index
/// is sparse.
pub const READ_SLACK: u64 = 64 << 10;

/// Lives: one per shard.
pub struct CatchUp {
    queue: TaskQueueHandle,
    turns: RefCell<ReadTurns>,
    waiting: RefCell<BTreeMap<TurnId, Rc<Signal>>>,
    gate: ReadGate<Box<dyn Fn() -> usize>>,
    /// When the last commit began.
    committed: Rc<Cell<Option<Mono>>>,
    fetch_size_max: usize,
    clock: Clock,
    metrics: Rc<RefCell<ShardMetrics>>,
    /// Whose partitions are read.
    stores: RefCell<Vec<Weak<Store>>>,
    /// What was read ahead is being given back, and is to be looked for once more.
    is_dropping: Cell<bool>,
    drops_again: Cell<bool>,
}

impl CatchUp {
    /// `budget`: bytes of memory for reads. On the executor that will serve them.
    pub fn new(budget: usize, clock: Clock, metrics: Rc<RefCell<ShardMetrics>>) -> Rc<CatchUp> {
        let (shares, latency) = (Shares::Static(SHARES), Latency::NotImportant);
        let committed: Rc<Cell<Option<Mono>>> = Rc::default();
        Rc::new(CatchUp {
            queue: glommio::executor().create_task_queue(shares, latency, "catch-up"),
            turns: RefCell::new(ReadTurns::new(budget)),
            waiting: RefCell::default(),
            gate: ReadGate::new(in_flight_max(clock.clone(), committed.clone())),
            committed,
            fetch_size_max: (budget / FETCHES_SIDE_BY_SIDE).clamp(IO_SIZE_MAX, CATCH_UP_TURN_SIZE_MAX),
            clock,
            metrics,
            stores: RefCell::default(),
            is_dropping: Cell::new(false),
            drops_again: Cell::new(false),
        })
    }

    /// Bytes of memory that reads hold.
    pub fn used(&self) -> usize {
        self.turns.borrow().used()
    }

    /// Reads that wait for memory.
    pub fn waiting_count(&self) -> usize {
        self.turns.borrow().waiting_count()
    }

    /// Bytes that a read from disk may be asked for; with its slack it is within what a fetch may hold.
    pub fn read_size_max(&self) -> usize {
        self.fetch_size_max - READ_SLACK as usize - 2 * IO_ALIGNMENT
    }

    /// Runs a future in the queue of those that catch up.
    pub async fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let task = timed(&self.clock, &self.metrics, future);
        glommio::spawn_local_into(task, self.queue).expect("the queue lives as long as the executor").await
    }

    /// The same, without waiting for it.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let task = timed(&self.clock, &self.metrics, future);
        glommio::spawn_local_into(task, self.queue)
            .expect("the queue lives as long as the executor")
            .detach();
    }

    /// A commit begins.
    pub fn commit_started(&self) {
        self.committed.set(Some(self.clock.mono()));
    }

    /// Aligned reads, side by side as far as the disk is left to them. Small ones cost the core more: they are
    /// for beside commits.
    pub async fn read(&self, file: &DiskFile, start: u64, end: u64) -> io::Result<Vec<Rc<ReadResult>>> {
        let (start, end) = (align_down(start), align_up(end));
        let size_max = self.gate.limit().min(IO_SIZE_MAX);
        let reads = (start..end).step_by(size_max).map(|at| async move {
            let size = (end - at).min(size_max as u64) as usize;
            let _passage = self.gate.pass(size).await;
            file.read(at, size).await
        });
        let pieces = futures::future::try_join_all(reads).await?;
        let size: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.metrics.borrow_mut().disk_read_bytes += size as u64;
        Ok(pieces.into_iter().map(Rc::new).collect())
    }

    /// Memory to read ahead, if it is not needed otherwise.
    pub fn take_ahead(self: &Rc<Self>, size: usize) -> Option<AheadMemory> {
        let takes = self.turns.borrow_mut().take_ahead(size);
        takes.then(|| AheadMemory { catch_up: self.clone(), size })
    }

    /// What was read ahead is in the way of a read that waits.
    pub fn needs_ahead_back(&self) -> bool {
        self.turns.borrow().needs_ahead_back()
    }

    /// Partitions of this store are read.
    pub fn serves(&self, store: &Rc<Store>) {
        self.stores.borrow_mut().push(Rc::downgrade(store));
    }

    /// Gives back what was read ahead, of a few partitions at a time. What arrives behind the walk is not
    /// kept while somebody waits.
    fn drop_ahead(self: &Rc<Self>) {
        self.drops_again.set(true);
        if self.is_dropping.replace(true) {
            return;
        }
        let catch_up = self.clone();
        self.spawn(async move {
            while catch_up.drops_again.replace(false) {
                let stores: Vec<Rc<Store>> =
                    catch_up.stores.borrow().iter().filter_map(Weak::upgrade).collect();
                for store in stores {
                    let mut walk = Walk::new(&store);
                    while let Some(replica) = walk.next().await {
                        replica.reads.ahead.drop_arrived();
                    }
                }
            }
            catch_up.is_dropping.set(false);
        });
    }

    /// Wakes those whose turn has come.
    fn grant(&self) {
        loop {
            let next = self.turns.borrow_mut().grant_next();
            let Some(turn) = next else { return };
            let signal = self.waiting.borrow_mut().remove(&turn);
            signal.expect("who is in line waits").notify();
        }
    }
}

/// Bytes that reads may have in flight: few while commits are to be expected.
fn in_flight_max(clock: Clock, committed: Rc<Cell<Option<Mono>>>) -> Box<dyn Fn() -> usize> {
    Box::new(move || match committed.get() {
        Some(last) if clock.mono().since(last) < COMMIT_EXPECTED => CATCH_UP_BESIDE_COMMITS_MAX,
        _ => CATCH_UP_IN_FLIGHT_MAX,
    })
}

/// What was read before anybody asked for it, as memory.
pub struct AheadMemory {
    catch_up: Rc<CatchUp>,
    size: usize,
}

impl Drop for AheadMemory {
    fn drop(&mut self) {
        self.catch_up.turns.borrow_mut().give_back_ahead(self.size);
        self.catch_up.grant();
    }
}

/// One fetch, or one look-up, as a holder of memory for reads.
pub struct Reading {
    pub store: Rc<Store>,
    reader: ReaderId,
    /// Bytes that its reads hold.
    held: Cell<usize>,
    /// One of its reads is in line.
    waits: Cell<bool>,
}

impl Reading {
    pub fn new(store: &Rc<Store>, reader: ReaderId) -> Rc<Reading> {
        Rc::new(Reading { store: store.clone(), reader, held: Cell::new(0), waits: Cell::new(false) })
    }

    /// For what the shard itself wants to know.
    pub fn own(store: &Rc<Store>) -> Rc<Reading> {
        Reading::new(store, ReaderId { shard: ShardId(0), connection: 0 })
    }

    /// Memory for a read of `size` bytes. Waits only when no other read of this fetch holds any or is in
    /// line itself; otherwise [`ReadFailed::NoTurn`].
    async fn turn(self: &Rc<Self>, size: usize) -> Result<ReadTurn, ReadFailed> {
        let catch_up = &self.store.catch_up;
        if self.waits.get() || self.held.get() > 0 {
            let is_allowed = self.held.get() + size <= catch_up.fetch_size_max;
            if !is_allowed || !catch_up.turns.borrow_mut().try_take(size) {
                return Err(ReadFailed::NoTurn);
            }
            return Ok(ReadTurn::granted(self, size));
        }
        let asked = catch_up.turns.borrow_mut().ask(self.reader, size);
        if let Asked::Waits(turn) = asked {
            catch_up.metrics.borrow_mut().catch_up_waits += 1;
            let signal = Rc::new(Signal::default());
            catch_up.waiting.borrow_mut().insert(turn, signal.clone());
            if catch_up.needs_ahead_back() {
                catch_up.drop_ahead();
            }
            let mut in_line = InLine { reading: self, turn, size, is_over: false };
            self.waits.set(true);
            signal.notified().await;
            in_line.is_over = true;
        }
        Ok(ReadTurn::granted(self, size))
    }
}

/// A wait for a turn. One that is dropped gives up its place.
struct InLine<'a> {
    reading: &'a Reading,
    turn: TurnId,
    size: usize,
    is_over: bool,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.reading.waits.set(false);
        if self.is_over {
            return;
        }
        let catch_up = &self.reading.store.catch_up;
        let was_waiting = catch_up.waiting.borrow_mut().remove(&self.turn).is_some();
        let mut turns = catch_up.turns.borrow_mut();
        match was_waiting {
            true => turns.withdraw(self.reading.reader, self.turn),
            false => turns.give_back(self.size), // Granted, and nobody came for it.
        }
        drop(turns);
        catch_up.grant();
    }
}

/// Memory that one read holds, until it is dropped.
pub struct ReadTurn {
    reading: Rc<Reading>,
    size: usize,
}

impl ReadTurn {
    fn granted(reading: &Rc<Reading>, size: usize) -> ReadTurn {
        reading.held.set(reading.held.get() + size);
        ReadTurn { reading: reading.clone(), size }
    }
}

impl Drop for ReadTurn {
    fn drop(&mut self) {
        self.reading.held.set(self.reading.held.get() - self.size);
        let catch_up = &self.reading.store.catch_up;
        catch_up.turns.borrow_mut().give_back(self.size);
        catch_up.grant();
    }
}

/// Bytes of the blocks from `start` to `end` of a file.
pub fn blocks_size(start: u64, end: u64) -> usize {
    (align_up(end) - align_down(start)) as usize
}

/// The memory of one read as it grows. Nothing that was read under it is kept when it does.
pub struct Hold {
    reading: Rc<Reading>,
    turn: Option<ReadTurn>,
}

impl Hold {
    pub fn new(reading: &Rc<Reading>) -> Hold {
        Hold { reading: reading.clone(), turn: None }
    }

    pub fn store(&self) -> &Rc<Store> {
        &self.reading.store
    }

    /// Makes sure of memory for the blocks from `start` to `end` of a file.
    pub async fn reserve(&mut self, start: u64, end: u64) -> Result<(), ReadFailed> {
        let size = blocks_size(start, end);
        if self.turn.as_ref().is_none_or(|turn| turn.size < size) {
            self.turn = None; // Back in line with empty hands.
            self.turn = Some(self.reading.turn(size).await?);
        }
        Ok(())
    }

    /// Gives its memory back. Fails when other reads of the same fetch hold some: whoever waits for
    /// others must not.
    pub fn let_go(&mut self) -> Result<(), ReadFailed> {
        self.turn = None;
        if self.reading.held.get() > 0 { Err(ReadFailed::NoTurn) } else { Ok(()) }
    }

    /// One of `turns`, for what is read through or built once however many ask for it. Who waits for it holds no
    /// memory: whoever has it may need some.
    pub async fn wait_for<'a>(
        &mut self,
        turns: &'a Semaphore,
        segment: Offset,
    ) -> Result<Permit<'a>, ReadFailed> {
        if let Ok(turn) = turns.try_acquire_permit(1) {
            return Ok(turn);
        }
        self.let_go()?;
        turns.acquire_permit(1).await.map_err(|error| ReadFailed::Disk { segment, source: error.into() })
    }

    pub fn into_turn(self) -> Option<ReadTurn> {
        self.turn
    }
}
