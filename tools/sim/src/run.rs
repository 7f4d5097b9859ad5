//! One seed: runs of the broker, one after the other, each ended by a stop, a kill or a loss of power,
//! with damage between some of them, until enough has happened.

use crate::damage;
use crate::disk::Disk;
use crate::disk::directory::NodeId;
use crate::faults::FaultPlan;
use crate::model::Damaged;
use crate::node::{Node, Users, make_partition};
use crate::random::Random;
use crate::seeds::run_in;
pub use crate::seeds::{SeedOptions, SeedResult};
use crate::settings::{Mistake, Settings};
use crate::shell::Surroundings;
use crate::shell::journal::{parse_damaged_directory, parse_journal_directory};
use crate::shell::open::OpenFailed;
use crate::shell::start::{Started, finish, start};
use crate::workload;
use crate::world::World;
use odradek::log::ownership::{self, PARTITION_METADATA};
use odradek::log::segment::DirectoryName;
use odradek::types::{ShardId, TopicPartition};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

/// What a seed has to have done at least, so that the mean lies above 2,000.
const OPERATIONS_MIN: u64 = 2_000;

/// Steps of the executor after which a run counts as stuck.
const STEPS_MAX: u64 = 2_000_000;

/// Virtual time of a run of the broker at most.
const RUN_MICROS_MAX: u64 = 60_000_000;

/// Runs one seed. A broken assertion of the engine is a finding too.
pub fn run_seed(options: SeedOptions<Mistake>) -> SeedResult {
    let world = World::new(options.seed, options.print);
    let mut seed = Seed::new(world.clone(), options);
    run_in(&world, || seed.run())
}

/// How a run of the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Kill,
    PowerLoss,
}

struct Seed {
    world: Rc<World>,
    disk: Rc<Disk>,
    settings: Settings,
    around: Surroundings,
    users: Rc<Users>,
    /// Cores of the last run.
    shard_count: u16,
    /// The last start came to serving: what is offline is known.
    has_served: bool,
    /// For what happens between runs.
    dice: Random,
}

impl Seed {
    fn new(world: Rc<World>, options: SeedOptions<Mistake>) -> Seed {
        let disk = Disk::new(world.clone(), options.seed);
        let settings = Settings::draw(options.seed, options.mistake);
        let around = Surroundings {
            world: world.clone(),
            disk: disk.clone(),
            settings,
            metadata: Rc::default(),
            model: Rc::default(),
            ledger: Rc::default(),
        };
        Seed {
            world,
            disk,
            settings,
            around,
            users: Rc::default(),
            shard_count: 1,
            has_served: false,
            dice: Random::of(options.seed, 3),
        }
    }

    fn run(&mut self) {
        self.world.note(format_args!("{:?}", self.settings));
        for _ in 0..self.settings.partitions {
            self.make_partition();
        }
        let operations = || self.world.counts.borrow().get("operations");
        let mut last = operations();
        let mut idle_runs = 0;
        while self.world.counts.borrow().get("operations") < OPERATIONS_MIN && !self.world.has_findings() {
            self.run_once();
            let done = self.world.counts.borrow().get("operations");
            idle_runs = if done == last { idle_runs + 1 } else { 0 };
            last = done;
            if idle_runs == 30 {
                self.world
                    .finding("the broker gets on", format_args!("{idle_runs} runs without an operation"));
            }
        }
        // After the last fault everything is served again, and read.
        if !self.world.has_findings() {
            *self.disk.faults.borrow_mut() = FaultPlan::default();
            // Whoever replaces what is lost knows what is.
            if self.begin(None).is_some() {
                self.forget_memory();
                self.replace_lost_partitions();
            }
            if self.begin(None).is_some() {
                self.world.count("last start without faults");
                self.forget_memory();
            } else if !self.world.has_findings() {
                self.world.finding("the broker gets on", format_args!("the last start failed"));
            }
        }
    }

    fn make_partition(&mut self) -> TopicPartition {
        let owner = ShardId(self.dice.below(self.settings.shards_max.into()) as u16);
        make_partition(&self.around, &self.users, None, owner, &mut self.dice)
    }

    /// Runs one task of the surroundings to its end, without faults.
    fn finish_task(&self, task: impl Future<Output = ()> + 'static) {
        let faults = self.disk.faults.take();
        let done = Rc::new(std::cell::Cell::new(false));
        let ended = done.clone();
        self.world.spawn(async move {
            task.await;
            ended.set(true);
        });
        self.run_until(|| done.get());
        *self.disk.faults.borrow_mut() = faults;
    }

    /// Runs until `done`. A write that goes astray is damage from that moment on.
    fn run_until(&self, mut done: impl FnMut() -> bool) -> bool {
        self.world.run_until(|| {
            self.blame_astray();
            done()
        })
    }

    /// One run of the broker, from its start to its end, and what happens after it.
    fn run_once(&mut self) {
        *self.disk.faults.borrow_mut() = FaultPlan::draw(&mut self.dice, self.world.now());
        let cut_short = self.dice.one_in(6).then(|| self.dice.between(1, 400));
        let Some(node) = self.begin(cut_short) else {
            // It died while starting, or an error ended the start.
            self.forget_memory();
            if self.dice.one_in(2) {
                self.world.count("stop: power loss while starting");
                self.world.count("crashes");
                self.lose_power();
            } else {
                self.disk.kill();
            }
            self.after_stop();
            return;
        };
        if !self.world.has_findings() {
            self.work(&node);
        }
        let end = match self.dice.below(8) {
            0 | 1 => End::Clean,
            2 | 3 => End::Kill,
            _ => End::PowerLoss,
        };
        self.end(&node, end);
        drop(node);
        self.after_stop();
    }

    fn lose_power(&self) {
        self.disk.lose_power();
        let mut model = self.around.model.borrow_mut();
        model.partitions.values_mut().for_each(|partition| partition.power_was_lost = true);
    }

    /// Starts the broker and reads everything. `None` when it did not come to serving.
    fn begin(&mut self, steps_max: Option<u64>) -> Option<Rc<Node>> {
        self.has_served = false;
        if self.dice.one_in(3) {
            self.shard_count = self.dice.between(1, self.settings.shards_max.into()) as u16;
        }
        let metadata = self.around.metadata.borrow();
        self.around.model.borrow_mut().starting(&self.disk, &metadata);
        drop(metadata);
        let pause = self.dice.between(200, 20_000);
        let node = Node::new(&self.around, self.shard_count, self.users.clone(), pause);
        let started: Rc<RefCell<Option<Result<Started, crate::disk::DiskError>>>> = Rc::default();
        let (starting, result) = (node.clone(), started.clone());
        self.world.spawn(async move {
            let ended = start(&starting.shells).await;
            *result.borrow_mut() = Some(ended);
        });
        let mut steps = 0;
        self.run_until(|| {
            steps += 1;
            started.borrow().is_some() || steps_max.is_some_and(|max| steps > max)
        });
        let started = match started.take() {
            Some(Ok(started)) => started,
            Some(Err(error)) => {
                self.world.note(format_args!("the start failed: {error:?}"));
                self.world.count("start failed");
                return None;
            }
            None => return None,
        };
        let model = &self.around.model;
        model.borrow_mut().started();
        for (id, error) in &started.failed {
            match error {
                OpenFailed::Disk(_) => self.world.count("partition waits for the next start"),
                OpenFailed::Corrupt { .. }
                | OpenFailed::Short { .. }
                | OpenFailed::NoSegment
                | OpenFailed::Foreign
                | OpenFailed::Deleted => {
                    model.borrow_mut().went_offline(&self.world, id, error);
                }
                OpenFailed::JournalCorrupt => {
                    self.world.count("journal: partition offline");
                    model.borrow_mut().went_offline(&self.world, id, error);
                }
            }
        }
        for (_, replica) in node.all_replicas() {
            model.borrow_mut().recovered(&self.world, &replica.id, &replica);
        }
        self.check_files(&node);
        self.has_served = true;
        self.read_everything(&node);
        Some(node)
    }

    /// What a start has made of the directories.
    fn check_files(&self, node: &Node) {
        let metadata = self.around.metadata.borrow();
        for (name, size) in self.disk.names("").unwrap_or_default() {
            let is_live = matches!(DirectoryName::parse(&name), Some(DirectoryName::Live { .. }));
            let text = self.disk.peek(&format!("{name}/{PARTITION_METADATA}")).unwrap_or_default();
            let topic = std::str::from_utf8(&text).ok().and_then(|text| ownership::decode(text).ok());
            if size.is_none() && is_live && topic.is_some_and(|topic| metadata.deleted.contains(&topic)) {
                self.world.finding("deleted topics do not come back", format_args!("{name} is there"));
            }
        }
        let model = self.around.model.borrow();
        for (_, replica) in node.all_replicas() {
            let Some(partition) = model.partitions.get(&replica.id) else { continue };
            if partition.damaged.segment {
                continue;
            }
            let log = replica.log.borrow();
            // Those below the log start are on their way out, as they are.
            for segment in log.closed().iter().skip(log.droppable_segments()) {
                let path = replica.path(segment.base_offset, odradek::log::segment::SegmentFile::Log);
                let bytes = self.disk.peek(&path).unwrap_or_default();
                let pieces = [&bytes[..]];
                let rope = odradek::log::read::Rope::new(&pieces);
                let end = rope.batches(0).last().map_or(0, |last| last.at + last.size);
                if end != bytes.len() {
                    self.world.finding(
                        "closed segments hold batches and nothing else",
                        format_args!("{path}: {end} of {}", bytes.len()),
                    );
                }
            }
        }
    }

    fn read_everything(&self, node: &Node) {
        for (shell, replica) in node.all_replicas() {
            let reading = shell.clone();
            self.finish_task_with_faults(async move {
                let (start, end) = {
                    let log = replica.log.borrow();
                    (log.log_start().get(), log.high_watermark().get())
                };
                let mut at = start;
                let mut seen = BTreeSet::new();
                while at < end {
                    let offset = odradek::types::Offset::new(at).expect("below the end");
                    match replica.read(&reading, offset).await {
                        Ok(bytes) => {
                            let mut model = reading.model.borrow_mut();
                            let next = model.read(&reading.world, &replica.id, at, &bytes, &mut seen);
                            if next == at {
                                let partition = &model.partitions[&replica.id];
                                if !partition.damaged.segment {
                                    reading.world.finding(
                                        "acknowledged records are read",
                                        format_args!("{} stops at {at} of {end}", partition.name),
                                    );
                                }
                                return;
                            }
                            at = next;
                        }
                        Err(error) => return workload::failed_read(&reading, &replica.id, at, error),
                    }
                }
                reading.model.borrow().read_whole(&reading.world, &replica.id, (start, end), &seen);
                let (mut at, stable) = (start, replica.log.borrow().last_stable_offset().get());
                while at < stable {
                    let offset = odradek::types::Offset::new(at).expect("below the end");
                    match replica.read_committed(&reading, offset).await {
                        Ok(read) => {
                            let mut model = reading.model.borrow_mut();
                            let world = &reading.world;
                            let next = model.read(world, &replica.id, at, &read.bytes, &mut BTreeSet::new());
                            model.read_committed(world, &replica.id, at, &read);
                            if next == at {
                                return; // Damage, which was told above.
                            }
                            at = next;
                        }
                        Err(error) => return workload::failed_read(&reading, &replica.id, at, error),
                    }
                }
            });
        }
    }

    fn finish_task_with_faults(&self, task: impl Future<Output = ()> + 'static) {
        let done = Rc::new(std::cell::Cell::new(false));
        let ended = done.clone();
        self.world.spawn(async move {
            task.await;
            ended.set(true);
        });
        self.run_until(|| done.get());
    }

    fn work(&mut self, node: &Rc<Node>) {
        for producer in self.users.producers.borrow().iter() {
            node.spawn_producer(producer.clone());
        }
        node.spawn_transactors(None);
        for _ in 0..2 {
            self.world.spawn(workload::consume(node.clone()));
            self.world.spawn(workload::tend(node.clone()));
        }
        let done = self.world.counts.borrow().get("operations");
        let until = done + self.dice.between(20, 700);
        let time = self.world.now() + RUN_MICROS_MAX;
        let mut steps = 0u64;
        let mut offline_steps = self.dice.between(1, 400);
        let world = self.world.clone();
        self.run_until(|| {
            steps += 1;
            if node.is_offline() {
                offline_steps = offline_steps.saturating_sub(1);
            }
            steps > STEPS_MAX
                || offline_steps == 0
                || world.has_findings()
                || world.now() > time
                || world.counts.borrow().get("operations") >= until
        });
        let got_on = self.world.counts.borrow().get("operations") > done + 5;
        let stuck = self.world.now() > time && !got_on && !node.is_offline();
        if (stuck || steps > STEPS_MAX) && !node.all_replicas().is_empty() {
            self.world.finding("the broker gets on", format_args!("{steps} steps without an end"));
        }
    }

    fn end(&mut self, node: &Rc<Node>, end: End) {
        match end {
            End::Clean => {
                let done = Rc::new(std::cell::Cell::new(false));
                let (stopping, ended) = (node.clone(), done.clone());
                self.world.spawn(async move {
                    let clean = finish(&stopping.shells).await;
                    if clean {
                        stopping.around.world.count("stop: clean");
                    }
                    ended.set(true);
                });
                let time = self.world.now() + RUN_MICROS_MAX * 10;
                let world = self.world.clone();
                self.run_until(|| done.get() || world.now() > time || world.has_findings());
                if !done.get() && !self.world.has_findings() {
                    self.world.finding("the broker gets on", format_args!("a stop has no end"));
                }
                self.forget_memory();
                self.disk.kill();
            }
            End::Kill => {
                self.world.count("stop: kill");
                self.world.count("crashes");
                self.forget_memory();
                self.disk.kill();
            }
            End::PowerLoss => {
                self.world.count("stop: power loss");
                self.world.count("crashes");
                self.forget_memory();
                self.lose_power();
            }
        }
        self.world.note(format_args!("end: {end:?}"));
    }

    fn forget_memory(&self) {
        self.world.drop_tasks();
        self.users.producers.borrow().iter().for_each(|producer| producer.disconnected());
    }

    /// Between two runs: what went astray is damage, more of it, and maybe an operator.
    fn after_stop(&mut self) {
        if self.settings.mistake.is_none_or(Mistake::needs_damage) && self.dice.one_in(4) {
            let mut model = self.around.model.borrow_mut();
            damage::inflict(&self.world, &self.disk, &mut model, &mut self.dice);
        }
        if self.has_served && self.dice.one_in(2) {
            self.replace_lost_partitions();
        }
        // A deletion that was cut short has left room for one more.
        while self.around.metadata.borrow().partitions.len() < self.settings.partitions {
            self.make_partition();
        }
    }

    /// Writes that went to a wrong place have damaged two.
    fn blame_astray(&self) {
        let astray = self.disk.take_astray();
        if astray.is_empty() {
            return;
        }
        self.world.count("damage");
        let mut model = self.around.model.borrow_mut();
        for astray in astray {
            self.around.ledger.borrow_mut().went_astray(astray.file, astray.meant.0);
            let mut known = false;
            for partition in model.partitions.values_mut() {
                let names = self.disk.names(&partition.name).unwrap_or_default();
                let hit = names.iter().any(|(name, _)| {
                    self.disk.node(&format!("{}/{name}", partition.name)) == Some(astray.file)
                });
                partition.damaged.segment |= hit;
                known |= hit;
            }
            if !known {
                let directory = self.journal_directory_of(astray.file);
                let journal = directory.as_ref().is_some_and(|name| parse_journal_directory(name).is_some());
                directory.iter().for_each(|name| model.journals.forget_aside(name));
                model.hit_all(Damaged { journal, checkpoint: !journal, ..Damaged::default() });
            }
        }
    }

    /// Of a journal, or of one that was put aside.
    fn journal_directory_of(&self, file: NodeId) -> Option<String> {
        let names = self.disk.names("").unwrap_or_default().into_iter().map(|(name, _)| name);
        let is_journal =
            |name: &str| parse_journal_directory(name).or_else(|| parse_damaged_directory(name)).is_some();
        names.filter(|name| is_journal(name)).find(|directory| {
            let files = self.disk.names(directory).unwrap_or_default();
            files.iter().any(|(name, _)| self.disk.node(&format!("{directory}/{name}")) == Some(file))
        })
    }

    /// An operator gives up what is offline for good and removes the journals that were kept.
    fn replace_lost_partitions(&mut self) {
        let lost: Vec<TopicPartition> = {
            let model = self.around.model.borrow();
            let lost = model.partitions.iter().filter(|(_, partition)| partition.offline);
            lost.map(|(id, _)| *id).collect()
        };
        if lost.is_empty() {
            return;
        }
        let names = self.disk.names("").unwrap_or_default().into_iter().map(|(name, _)| name);
        let kept: Vec<String> = names.filter(|name| parse_damaged_directory(name).is_some()).collect();
        for name in kept {
            let disk = self.disk.clone();
            self.finish_task(async move {
                disk.remove_directory(&name).await.expect("there are no faults");
                disk.sync_directory("").await.expect("there are no faults");
            });
        }
        for id in lost {
            self.world.count("partition replaced");
            self.around.metadata.borrow_mut().delete(&id);
            let lost = self.around.model.borrow_mut().partitions.remove(&id);
            self.users.forget(&id);
            let made = self.make_partition();
            // A journal that was hit before the next start takes along who has nothing in it.
            if let Some(partition) = self.around.model.borrow_mut().partitions.get_mut(&made) {
                partition.damaged.journal = lost.is_some_and(|lost| lost.damaged.journal);
            }
        }
    }
}
