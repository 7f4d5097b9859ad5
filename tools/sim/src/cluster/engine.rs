//! The storage engine below the replicas of a node: what decides how far a log is flushed, and what a start finds.
//!
//! ```text
//! leaders, followers ─ append, cut, start over, move the start ─► Log: what they read
//!         ▲                                                        │ handed over, in order
//!         │                                              lane of each replica ─► Shell: journal, segments ─► Disk
//!         └── flushed ◄── Log: flush ◄── done, from the oldest on ◄──┘                                        │
//!             logs found ◄── held against what they were when the process ended ◄── start ◄── kill, loss, damage
//! ```
//!
//! A process has its tasks in a world beside that of the seed; they end with it. While it is stopped none of them goes
//! on.
//!
//! | module | what it is |
//! |---|---|
//! | [`batches`] | a replica's batches as record batches |
//! | [`lane`] | what is handed over, carried out one after the other |
//! | [`recovery`] | what a start finds, and the checks |
//! | [`damage`] | files that change while the node is down |
//!
//! A node that stops leaves its engine behind until that has finished: whatever was handed over is carried out, then all
//! of it is written out, and the next start finds every bit of it.
//!
//! Absent: retention and compaction, several log directories. A log directory that fails ends its process, and so does a
//! full disk that a cut, a new log or a removal meets.

pub mod batches;
pub mod damage;
pub mod lane;
pub mod recovery;

use crate::cluster::engine::lane::{Lane, Step};
use crate::cluster::engine::recovery::{Found, recover};
use crate::cluster::metadata::slot;
use crate::cluster::settings::{Mistake, Settings};
use crate::disk::{Disk, DiskResult};
use crate::faults::FaultPlan;
use crate::ledger::Ledger;
use crate::metadata::{Known, Metadata, TopicKind};
use crate::random::Random;
use crate::replication::log::{Log, Op};
use crate::replication::scene::{Scene, partition_id};
use crate::settings as storage;
use crate::shell::start::finish;
use crate::shell::{Shell, Surroundings, background, doubts};
use crate::world::{MS, Micros, S, World};
use odradek::log::journal::ring::RingLimits;
use odradek::types::{LeaderEpoch, ShardId, TopicId, TopicPartition};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// What an engine has done.
pub enum Event {
    Started(DiskResult<BTreeMap<usize, Found>>),
    /// Nothing is left of what was damaged.
    Gone {
        partition: usize,
    },
    /// Nothing is left of a replica that has left.
    Removed {
        partition: usize,
    },
    /// What was handed over under this number is flushed.
    Done {
        partition: usize,
        number: u64,
    },
    /// All that the process had to do is done.
    Finished {
        is_clean: bool,
    },
}

pub type Events = Rc<RefCell<VecDeque<Event>>>;

/// Lives: one per node, through its crashes.
pub struct Engine {
    world: Rc<World>,
    disk: Rc<Disk>,
    settings: storage::Settings,
    metadata: Rc<RefCell<Metadata>>,
    ledger: Rc<RefCell<Ledger>>,
    running: Option<Running>,
    /// Topics that ever had a replica here.
    ever: BTreeSet<TopicId>,
    /// The process has ended but for what is still to be written out.
    is_finishing: bool,
    /// It had written everything out.
    ended_clean: bool,
    /// Logs as they were when a process ended that had come to serving.
    before: BTreeMap<usize, Log>,
    /// Of replicas that have left, and may be found as long as they have not gone to their end.
    leaving: BTreeMap<usize, VecDeque<Log>>,
    /// Damage may have hit their files, and these are there still.
    blamed: BTreeSet<usize>,
    /// The journal was hit: what it has of them at its end may look like a write that was torn.
    journal_hit: BTreeSet<usize>,
    /// Damage has hit what had lost something before, and nobody knows.
    lost_before: BTreeSet<usize>,
    /// They lack what no start can tell of: whoever has damaged them does, until that is known.
    untold: BTreeSet<usize>,
    /// What the last start has found damaged.
    damaged: BTreeSet<usize>,
    /// The last start cannot tell whether it has found all of them.
    doubtful: BTreeSet<usize>,
}

/// Lives: from a start to the end of the process.
struct Running {
    shell: Rc<Shell>,
    events: Events,
    lanes: BTreeMap<usize, Handed>,
    has_started: bool,
}

/// What was handed over of a replica's log.
struct Handed {
    lane: Rc<Lane>,
    /// Of what is unflushed.
    count: usize,
    next: u64,
    /// All below it are flushed, or nobody waits for them.
    flushed: u64,
    done: BTreeSet<u64>,
}

impl Engine {
    fn new(world: &World, settings: &Settings) -> Engine {
        let world = world.beside();
        let mistake = match settings.mistake {
            Some(Mistake::Engine(mistake)) => Some(mistake),
            _ => None,
        };
        let drawn = storage::Settings::draw(world.draw(), mistake);
        let settings = storage::Settings { retention_bytes: None, shards_max: 1, ..drawn };
        let settings = match settings.journal {
            Some(_) => settings,
            // What nothing says of that it had been flushed could be taken for a torn tail.
            None => storage::Settings { journal: Some(a_journal(&settings)), ..settings },
        };
        Engine {
            disk: Disk::new(world.clone(), world.draw()),
            world,
            settings,
            metadata: Rc::default(),
            ledger: Rc::default(),
            running: None,
            ever: BTreeSet::new(),
            is_finishing: false,
            ended_clean: false,
            before: BTreeMap::new(),
            leaving: BTreeMap::new(),
            blamed: BTreeSet::new(),
            journal_hit: BTreeSet::new(),
            lost_before: BTreeSet::new(),
            untold: BTreeSet::new(),
            damaged: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        }
    }

    /// What a registration says of logs: those that are damaged, and those that may lack something.
    pub fn told(&self) -> (Vec<TopicPartition>, Vec<TopicPartition>) {
        let ids = |numbers: &BTreeSet<usize>| numbers.iter().map(|number| partition_id(*number)).collect();
        (ids(&self.damaged), ids(&self.doubtful))
    }

    fn start(&mut self, known: BTreeMap<usize, LeaderEpoch>) {
        let topics: BTreeSet<TopicId> = known.keys().map(|number| partition_id(*number).topic).collect();
        self.ever.extend(&topics);
        {
            let mut metadata = self.metadata.borrow_mut();
            metadata.deleted = self.ever.difference(&topics).copied().collect();
            metadata.replicas_removed = !metadata.deleted.is_empty();
            metadata.partitions = known
                .into_iter()
                .map(|(number, epoch)| (partition_id(number), known_as(number, epoch)))
                .collect();
        }
        let around = Surroundings {
            world: self.world.clone(),
            disk: self.disk.clone(),
            settings: self.settings,
            metadata: self.metadata.clone(),
            model: Rc::default(),
            ledger: self.ledger.clone(),
        };
        let shell = Shell::new(ShardId(0), &around);
        let events = Events::default();
        let (starting, started) = (shell.clone(), events.clone());
        self.world.spawn(async move {
            let found = recover(&starting).await;
            started.borrow_mut().push_back(Event::Started(found));
        });
        self.running = Some(Running { shell, events, lanes: BTreeMap::new(), has_started: false });
    }
}

impl Engine {
    /// Nothing of the process goes on.
    fn ends(&mut self, loses_power: bool) {
        self.world.drop_tasks();
        match loses_power {
            true => self.disk.lose_power(),
            false => self.disk.kill(),
        }
    }

    /// What was under way of a log when the process ended, until the next one has found it.
    pub fn interrupted(&self, partition: usize) -> &[Op] {
        self.before.get(&partition).map_or(&[], Log::unflushed)
    }

    fn finished(&mut self, loses_power: bool, is_clean: bool) {
        self.ends(loses_power);
        self.running = None;
        self.is_finishing = false;
        self.ended_clean = is_clean;
    }
}

fn a_journal(settings: &storage::Settings) -> RingLimits {
    RingLimits { file_size: 4 * settings.sizes.block_max, file_count_max: 2 }
}

impl Drop for Engine {
    /// Tasks hold the world, and the world its tasks.
    fn drop(&mut self) {
        self.world.drop_tasks();
    }
}

/// A partition as its engine knows it.
fn known_as(number: usize, leader_epoch: LeaderEpoch) -> Known {
    Known { topic: format!("p{number}"), kind: TopicKind::default(), leader_epoch, owner: ShardId(0) }
}

impl Scene {
    pub fn found_engines(&mut self, settings: Settings) {
        if !settings.has_engine {
            return;
        }
        self.world.count("engine: below the replicas");
        for id in 1..=self.settings.nodes {
            let engine = Engine::new(&self.world, &settings);
            self.world.note(format_args!("node {id}: {:?}", engine.settings));
            self.nodes[id].engine = Some(Box::new(engine));
        }
    }

    // --- Start and end

    /// Its logs are recovered; then it is registered.
    pub fn start_engine(&mut self, id: usize) {
        let image = self.decided().image_of(slot(id));
        // Those of topics that are no more are not looked for.
        let known = self.nodes[id].replicas.keys().filter_map(|number| {
            let state = image?.partition(partition_id(*number))?;
            Some((*number, state.leader_epoch))
        });
        let known = known.collect();
        let has_error = !self.is_calm && self.world.one_in(8);
        let is_full = !self.is_calm && self.world.one_in(8);
        let engine = self.nodes[id].engine.as_mut().expect("it has one");
        let mut dice = Random::new(self.world.draw());
        let error = has_error.then(|| FaultPlan::an_error(&mut dice));
        let full = is_full.then(|| {
            let from = self.world.now() + dice.below(10 * S);
            (from, from + dice.between(10 * MS, 3 * S))
        });
        *engine.disk.faults.borrow_mut() = FaultPlan { error, full, ..FaultPlan::default() };
        engine.start(known);
    }

    /// The process has ended, or the power has.
    pub fn engine_crashes(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let Some(engine) = &mut node.engine else { return };
        // One that had not come so far has changed nothing that a log has.
        let has_changed = engine.is_finishing || {
            engine.ends(self.world.one_in(2));
            engine.running.take().is_some_and(|running| running.has_started)
        };
        if has_changed {
            engine.before =
                node.replicas.iter().map(|(partition, replica)| (*partition, replica.log.clone())).collect();
        }
    }

    /// The process is about to end, and its engine writes out what there is.
    pub fn engine_finishes(&mut self, id: usize) {
        let is_killed = self.world.one_in(4);
        let until = self.world.below(100 * MS);
        let run = self.nodes[id].run;
        self.hand_to_engine(id); // Also of what was to be issued a little later.
        let Some(engine) = &mut self.nodes[id].engine else { return };
        let Some(running) = engine.running.as_ref().filter(|running| running.has_started) else { return };
        engine.is_finishing = true;
        let (shell, events) = (running.shell.clone(), running.events.clone());
        let lanes: Vec<Rc<Lane>> = running.lanes.values().map(|handed| handed.lane.clone()).collect();
        engine.world.spawn(async move {
            while !lanes.iter().all(|lane| lane.is_idle()) && !shell.is_offline() {
                shell.world.sleep(MS).await;
            }
            let is_clean = finish(std::slice::from_ref(&shell)).await;
            events.borrow_mut().push_back(Event::Finished { is_clean });
        });
        if is_killed {
            self.after(until, move |scene| {
                let node = &mut scene.nodes[id];
                let engine = node.engine.as_mut().expect("it has one");
                if engine.is_finishing && node.run == run {
                    scene.world.count("engine: killed while it stops");
                    engine.finished(scene.world.one_in(2), false);
                }
            });
        }
    }

    pub fn is_engine_finishing(&self, id: usize) -> bool {
        self.nodes[id].engine.as_ref().is_some_and(|engine| engine.is_finishing)
    }

    /// Its directory is another one.
    pub fn engine_is_wiped(&mut self, id: usize) {
        let Some(engine) = &mut self.nodes[id].engine else { return };
        engine.disk = Disk::new(engine.world.clone(), self.world.draw());
        engine.ledger = Rc::default();
        engine.ever.clear();
        engine.before.clear();
        engine.ended_clean = false;
        engine.leaving.clear();
        engine.blamed.clear();
        engine.journal_hit.clear();
        engine.lost_before.clear();
        engine.untold.clear();
    }

    /// What was told when it registered.
    pub fn engine_doubts_are_known(&mut self, id: usize) {
        let Some(engine) = &mut self.nodes[id].engine else { return };
        let Some(running) = &engine.running else { return };
        engine.untold.clear();
        let shell = running.shell.clone();
        let known = shell.doubtful.take();
        engine.world.spawn(async move {
            match doubts::forget(&shell, &known).await {
                Err(error) if !error.is_full() => shell.failed(format_args!("forgetting doubts"), error),
                _ => {}
            }
        });
    }

    // --- Logs

    /// What was done to logs since is the engine's to do.
    pub fn hand_to_engine(&mut self, id: usize) {
        let node = &mut self.nodes[id];
        let Some(engine) = &mut node.engine else { return };
        let Some(running) = engine.running.as_mut().filter(|running| running.has_started) else { return };
        for (partition, replica) in &node.replicas {
            let unflushed = replica.log.unflushed();
            if unflushed.is_empty() {
                continue;
            }
            engine.ever.insert(partition_id(*partition).topic);
            let handed = running.lane(*partition);
            for op in &unflushed[handed.count..] {
                handed.push(Step::Do(*op));
            }
            handed.count = unflushed.len();
        }
    }

    /// A replica goes: its partition goes on without it, or has gone as well.
    pub fn engine_removes(&mut self, id: usize, partition: usize, log: Log) {
        let is_deleted = !self.nodes[id].image.partitions.contains_key(&partition);
        let Some(engine) = &mut self.nodes[id].engine else { return };
        let Some(running) = engine.running.as_mut().filter(|running| running.has_started) else { return };
        // One that comes again before this has gone to its end may be taken for it.
        engine.blamed.insert(partition);
        engine.leaving.entry(partition).or_default().push_back(log);
        let handed = running.lane(partition);
        handed.push(if is_deleted { Step::Delete } else { Step::Remove });
        handed.count = 0;
        handed.flushed = handed.next;
        handed.done.clear();
    }

    // --- Time

    /// The next that an engine does, if that comes before the next on the agenda.
    pub fn step_engines(&mut self, next: Option<Micros>) -> bool {
        let next_of = |id: usize| {
            let node = &self.nodes[id];
            let engine = node.engine.as_ref()?;
            let goes_on = engine.is_finishing || node.is_up && !node.is_paused;
            let engine = Some(engine).filter(|_| goes_on)?;
            Some((engine.world.next_step()?, id))
        };
        let first = (1..self.nodes.len()).filter_map(next_of).min();
        let Some((_, id)) = first.filter(|(time, _)| next.is_none_or(|next| *time <= next)) else {
            return false;
        };
        let node = &self.nodes[id];
        let engine = node.engine.as_ref().expect("it has one");
        {
            let mut faults = engine.disk.faults.borrow_mut();
            faults.stall_one_in = (node.is_slow && !self.is_calm).then_some(20);
            faults.error = faults.error.filter(|_| !self.is_calm);
            faults.full = faults.full.filter(|_| !self.is_calm);
        }
        engine.world.step();
        self.hear_engine(id);
        true
    }

    fn hear_engine(&mut self, id: usize) {
        let mut has_flushed = false;
        let is_finishing = self.is_engine_finishing(id);
        loop {
            let running = self.nodes[id].engine.as_mut().and_then(|engine| engine.running.as_mut());
            let Some(running) = running else { return };
            if running.shell.is_offline() {
                return match is_finishing {
                    true => self.engine_has_finished(id, false),
                    false => self.engine_has_failed(id),
                };
            }
            let event = running.events.borrow_mut().pop_front();
            match event {
                None => break,
                Some(Event::Started(Ok(found))) => {
                    running.has_started = true;
                    let shell = running.shell.clone();
                    shell.world.spawn(tend(shell.clone()));
                    self.logs_are_found(id, &found);
                    self.logs_are_recovered(id);
                }
                Some(Event::Started(Err(error))) => {
                    self.world.note(format_args!("node {id} cannot start: {error:?}"));
                    return self.engine_has_failed(id);
                }
                Some(Event::Gone { partition }) => {
                    let engine = self.nodes[id].engine.as_mut().expect("it has one");
                    engine.blamed.remove(&partition);
                }
                Some(Event::Removed { partition }) => {
                    let engine = self.nodes[id].engine.as_mut().expect("it has one");
                    engine.blamed.remove(&partition);
                    engine.leaving.get_mut(&partition).and_then(VecDeque::pop_front);
                    has_flushed = true; // Nobody waits for what it had not flushed.
                }
                Some(Event::Finished { is_clean }) => return self.engine_has_finished(id, is_clean),
                // Nobody waits for it any more.
                Some(Event::Done { .. }) if is_finishing => {}
                Some(Event::Done { partition, number }) => {
                    let count = running.lane(partition).is_done(number);
                    if count > 0 {
                        has_flushed = true;
                        self.flushed(id, partition, count);
                    }
                }
            }
        }
        if has_flushed {
            self.release_if_flushed(id);
            self.send_acknowledgements(id);
        }
    }

    fn engine_has_finished(&mut self, id: usize, is_clean: bool) {
        self.world.count(if is_clean {
            "engine: stopped clean"
        } else {
            "engine: a stop that was not clean"
        });
        let loses_power = self.world.one_in(2);
        self.nodes[id].engine.as_mut().expect("it has one").finished(loses_power, is_clean);
    }

    /// Its only log directory is offline.
    fn engine_has_failed(&mut self, id: usize) {
        self.world.count("engine: log directory offline");
        let time = if self.is_calm { 100 * MS } else { self.world.between(50 * MS, 3 * S) };
        self.crash_node(id);
        self.start_later(id, time);
    }
}

impl Running {
    fn lane(&mut self, partition: usize) -> &mut Handed {
        let (shell, events) = (&self.shell, &self.events);
        self.lanes.entry(partition).or_insert_with(|| Handed {
            lane: Lane::start(shell, partition, events),
            count: 0,
            next: 0,
            flushed: 0,
            done: BTreeSet::new(),
        })
    }
}

impl Handed {
    fn push(&mut self, step: Step) {
        self.lane.push(self.next, step);
        self.next += 1;
    }

    /// How many more are flushed now, from the oldest on.
    fn is_done(&mut self, number: u64) -> usize {
        if number >= self.flushed {
            self.done.insert(number);
        }
        let from = self.flushed;
        while self.done.remove(&self.flushed) {
            self.flushed += 1;
        }
        let count = (self.flushed - from) as usize;
        self.count -= count;
        count
    }
}

/// Checkpoints, and memory that is given back.
async fn tend(shell: Rc<Shell>) {
    loop {
        shell.world.sleep(shell.world.between(100 * MS, 4 * S)).await;
        if shell.is_offline() || shell.is_closed() {
            return;
        }
        match shell.world.below(4) {
            0 => shell.all_replicas().iter().for_each(|replica| replica.evict()),
            1 => {
                shell.set_memory_short(shell.world.one_in(3));
                shell.pump();
            }
            _ => {
                if let Err(error) = background::write_checkpoint(&shell).await
                    && !error.is_full()
                {
                    return shell.failed(format_args!("writing the checkpoint"), error);
                }
            }
        }
    }
}
