//! Producers that send again until they know, and readers of leaders and followers.

use crate::replication::leading::COORDINATOR;
use crate::replication::log::{Batch, offset};
use crate::replication::node::Role;
use crate::replication::scene::Scene;
use crate::replication::settings::{MS, Mistake, S, check};
use odradek::replication::produces::Acks;
use odradek::replication::reads::ReadRefused;
use odradek::replication::{EpochRefused, check_epoch};
use odradek::types::LeaderEpoch;

/// Batches that a reader takes at a time.
const READ_MAX: usize = 20;

struct Producer {
    partition: usize,
    /// `None`: it does not wait for answers.
    acks: Option<Acks>,
    /// Of idempotent producers; 0: of others.
    id: u32,
    sequence: u32,
    outstanding: Option<Batch>,
    /// What was known when it was sent first.
    known_end: u64,
    attempt: u64,
}

struct Reader {
    partition: usize,
    position: u64,
    /// The newest leader epoch that it has heard of.
    epoch: i32,
    latest: u64,
    earliest: u64,
}

/// Lives: one per seed.
#[derive(Default)]
pub struct Clients {
    producers: Vec<Producer>,
    readers: Vec<Reader>,
    next_value: u64,
    /// Of idempotent ones.
    producer_ids: u32,
    /// Nothing new is sent.
    pub is_over: bool,
}

impl Clients {
    pub fn is_for_all(&self, producer: usize) -> bool {
        producer == COORDINATOR || self.producers[producer].acks == Some(Acks::All)
    }

    /// Something to say that nobody has said.
    pub fn next_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    fn next_producer(&mut self) -> u32 {
        self.producer_ids += 1;
        self.producer_ids
    }

    pub fn outstanding_count(&self) -> usize {
        self.producers.iter().filter(|producer| producer.outstanding.is_some()).count()
    }

    /// The lowest position of the readers of a partition.
    pub fn position(&self, partition: usize) -> u64 {
        let of = self.readers.iter().filter(|reader| reader.partition == partition);
        of.map(|reader| reader.position).min().unwrap_or(u64::MAX)
    }
}

impl Scene {
    pub fn start_clients(&mut self) {
        self.partitions().into_iter().for_each(|partition| self.start_clients_of(partition));
    }

    pub fn start_clients_of(&mut self, partition: usize) {
        let producers = if self.is_coordinated(partition) { 0 } else { self.settings.producers };
        for _ in 0..producers {
            let acks = match self.one_in(self.settings.impatient) {
                false => Some(Acks::All),
                true if self.world.one_in(3) => None,
                true => Some(Acks::Leader),
            };
            let id = if acks == Some(Acks::All) { self.clients.next_producer() } else { 0 };
            let (sequence, outstanding, known_end, attempt) = (0, None, 0, 0);
            let producer = Producer { partition, acks, id, sequence, outstanding, known_end, attempt };
            self.clients.producers.push(producer);
            let client = self.clients.producers.len() - 1;
            self.after(self.world.below(100 * MS), move |scene| scene.produce(client));
        }
        for _ in 0..self.settings.readers {
            let reader = Reader { partition, position: 0, epoch: -1, latest: 0, earliest: 0 };
            self.clients.readers.push(reader);
            let client = self.clients.readers.len() - 1;
            self.after(self.world.below(100 * MS), move |scene| scene.use_reader(client));
        }
    }

    /// What lies at `end` and beyond is lost, as somebody wanted: whoever knew of it begins anew.
    pub fn forget_beyond(&mut self, partition: usize, end: u64) {
        let of = |producer: &usize| self.clients.producers[*producer].partition == partition;
        let producers: Vec<usize> = (0..self.clients.producers.len()).filter(of).collect();
        for client in producers {
            let id = self.clients.next_producer();
            let producer = &mut self.clients.producers[client];
            producer.attempt += 1;
            producer.id = if producer.id > 0 { id } else { 0 };
            producer.sequence = 0;
            if producer.outstanding.take().is_some() {
                let pause = self.pause();
                self.after(pause, move |scene| scene.produce(client));
            }
        }
        for reader in self.clients.readers.iter_mut().filter(|reader| reader.partition == partition) {
            reader.position = reader.position.min(end);
            (reader.latest, reader.earliest) = (0, 0);
        }
    }

    fn is_gone(&self, partition: usize) -> bool {
        !self.controller.partitions.contains_key(&partition)
    }

    // --- Producers

    /// The next batch.
    fn produce(&mut self, client: usize) {
        let is_outstanding = self.clients.producers[client].outstanding.is_some();
        if self.clients.is_over || is_outstanding || self.is_gone(self.clients.producers[client].partition) {
            return;
        }
        let value = self.clients.next_value();
        let count = self.world.between(1, 3) as u32;
        let producer = &mut self.clients.producers[client];
        let batch =
            Batch { base: 0, count, epoch: 0, producer: producer.id, sequence: producer.sequence, value };
        producer.sequence += 1;
        producer.known_end = self.watch.known_end(producer.partition);
        producer.outstanding = Some(batch);
        self.watch.sends(producer.partition, &batch);
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let producer = &mut self.clients.producers[client];
        producer.attempt += 1;
        let (partition, number, acks) = (producer.partition, producer.attempt, producer.acks);
        let Some(batch) = producer.outstanding else { return };
        if self.is_gone(partition) {
            self.clients.producers[client].outstanding = None;
            return;
        }
        let Some((Some(node), _)) = self.heard_of(partition) else {
            let wait = self.world.between(20 * MS, 200 * MS);
            return self.after(wait, move |scene| scene.attempt_again(client, number));
        };
        let latency = self.latency();
        let run = self.nodes[node].run;
        self.after(latency, move |scene| {
            scene.at_node(node, run, move |scene| {
                match scene.append(node, partition, batch, acks, (client, number)) {
                    Ok(()) => {}
                    Err("produce: OUT_OF_ORDER") => {
                        scene.out_of_order(node, partition, client, number, batch)
                    }
                    Err(error) => scene.answer_client(client, number, Err(error)),
                }
            });
        });
        if acks.is_none() {
            self.clients.producers[client].outstanding = None;
            let pause = self.pause();
            return self.after(pause, move |scene| scene.produce(client));
        }
        let patience = self.world.between(S, 3 * S);
        self.after(patience, move |scene| {
            if scene.clients.producers[client].attempt == number
                && scene.clients.producers[client].outstanding.is_some()
            {
                scene.world.count("produce: timed out");
                scene.give_up_or_again(client, number);
            }
        });
    }

    /// Only one whose leadership is over may lack what came before.
    fn out_of_order(&mut self, node: usize, partition: usize, client: usize, number: u64, batch: Batch) {
        let epoch = self.nodes[node].replicas[&partition].epoch;
        let producer = &self.clients.producers[client];
        let is_current = producer.attempt == number && producer.outstanding.is_some();
        if is_current
            && !self.is_gone(partition)
            && epoch >= self.controller.partitions[&partition].leader_epoch.0
        {
            let known = self.nodes[node].replicas[&partition].log.producer(batch.producer);
            let what = format!("leader {node} under {epoch} has {known:?}, and gets {batch:?}");
            self.world.finding(check::KEPT, format_args!("partition {partition}: {what}"));
        }
        self.answer_client(client, number, Err("produce: NOT_LEADER"));
    }

    pub fn answer_client(&mut self, client: usize, number: u64, result: Result<u64, &'static str>) {
        let latency = self.latency();
        if !self.is_calm && self.world.one_in(100) {
            return; // The connection is lost.
        }
        self.after(latency, move |scene| scene.is_answered(client, number, result));
    }

    fn is_answered(&mut self, client: usize, number: u64, result: Result<u64, &'static str>) {
        let producer = &mut self.clients.producers[client];
        if producer.attempt != number {
            return;
        }
        let (Some(batch), partition) = (producer.outstanding, producer.partition) else { return };
        match result {
            Ok(end) => {
                producer.outstanding = None;
                let (acks, known_end) = (producer.acks, producer.known_end);
                if acks == Some(Acks::All) {
                    self.world.count("acknowledged: all");
                    self.watch.is_told(partition, &batch, end, known_end);
                } else {
                    self.world.count("acknowledged: leader only");
                }
                let pause = self.pause();
                self.after(pause, move |scene| scene.produce(client));
            }
            Err(error) => {
                self.world.count(error);
                self.give_up_or_again(client, number);
            }
        }
    }

    /// Only idempotent producers can send again without harm.
    fn give_up_or_again(&mut self, client: usize, number: u64) {
        let wait = self.world.between(5 * MS, 200 * MS);
        if self.clients.producers[client].id > 0 {
            return self.after(wait, move |scene| scene.attempt_again(client, number));
        }
        self.clients.producers[client].outstanding = None;
        self.after(wait, move |scene| scene.produce(client));
    }

    fn attempt_again(&mut self, client: usize, number: u64) {
        let producer = &self.clients.producers[client];
        if producer.attempt == number && producer.outstanding.is_some() {
            self.attempt(client);
        }
    }

    fn pause(&mut self) -> u64 {
        let usual = if self.one_in(20) { self.world.below(2 * S) } else { self.world.below(100 * MS) };
        usual * self.settings.unhurried
    }

    // --- Readers

    fn use_reader(&mut self, client: usize) {
        let partition = self.clients.readers[client].partition;
        if self.is_gone(partition) {
            return;
        }
        let unhurried = if self.is_calm { 1 } else { self.settings.unhurried };
        let again = self.world.between(20 * MS, 200 * MS) * unhurried;
        self.after(again, move |scene| scene.use_reader(client));
        let Some((leader, epoch)) = self.heard_of(partition) else { return };
        let reader = &mut self.clients.readers[client];
        if epoch < reader.epoch {
            return; // Old news.
        }
        reader.epoch = epoch;
        let Some(leader) = leader else { return };
        let latency = self.latency();
        let what = self.world.below(8);
        let replicas = &self.controller.partitions[&partition].replicas;
        let any = replicas[self.world.below(replicas.len() as u64) as usize].0 as usize;
        let node = if what < 3 && !self.is_calm { any } else { leader };
        let run = self.nodes[node].run;
        // What it knew when it asked: a node that is stopped answers late.
        let reader = &self.clients.readers[client];
        let (position, latest, earliest) = (reader.position, reader.latest, reader.earliest);
        let losses = self.watch.losses(partition);
        self.after(latency, move |scene| {
            scene.at_node(node, run, move |scene| {
                if !scene.nodes[node].replicas.contains_key(&partition) {
                    return scene.world.count("read: NOT_LEADER_OR_FOLLOWER");
                }
                // Nothing is expected of what an unclean election has ended.
                let is_left = losses > 0 && scene.nodes[node].replicas[&partition].is_behind();
                if losses != scene.watch.losses(partition) || scene.is_passed_over(node, partition) || is_left
                {
                    return;
                }
                let stated = Some(LeaderEpoch(epoch));
                let current = LeaderEpoch(scene.nodes[node].replicas[&partition].epoch);
                match check_epoch(current, stated) {
                    Err(EpochRefused::Fenced { .. }) => scene.world.count("read: FENCED_LEADER_EPOCH"),
                    Err(EpochRefused::Unknown { .. }) => scene.world.count("read: UNKNOWN_LEADER_EPOCH"),
                    Ok(()) if what == 7 => scene.tell_latest(node, partition, client, latest),
                    Ok(()) if what == 6 => scene.tell_earliest(node, partition, client, earliest),
                    Ok(()) => scene.fetch(node, partition, client, position),
                }
            });
        });
    }

    fn fetch(&mut self, node: usize, partition: usize, client: usize, position: u64) {
        let replica = &self.nodes[node].replicas[&partition];
        let (readable, is_leader) = match &replica.role {
            Role::Idle => return,
            Role::Leader(leader) => (leader.readable(offset(position)), true),
            Role::Follower { machine, .. } => (machine.readable(offset(position)), false),
        };
        let (latency, losses) = (self.latency(), self.watch.losses(partition));
        match readable {
            Ok(end) => {
                let batches = replica.log.memory.from_offset(position).iter();
                let batches = batches.take_while(|batch| batch.end() <= end.get()).take(READ_MAX);
                let batches: Vec<Batch> = batches.copied().collect();
                if !is_leader && !batches.is_empty() {
                    self.world.count("read: of a follower");
                }
                self.after(latency, move |scene| {
                    if losses == scene.watch.losses(partition) {
                        scene.has_read(client, position, &batches);
                    }
                });
            }
            Err(ReadRefused::NotAvailable) => self.world.count("read: OFFSET_NOT_AVAILABLE"),
            Err(ReadRefused::OutOfRange { log_start, log_end }) => {
                self.world.count("read: OFFSET_OUT_OF_RANGE");
                if offset(position) > log_end {
                    let what = format!("a reader is at {position}, node {node} has up to {log_end}");
                    self.world.finding(check::READS, format_args!("partition {partition}: {what}"));
                }
                if !is_leader {
                    return self.world.count("read: OFFSET_OUT_OF_RANGE of a follower"); // Its leader is asked next (KIP-392).
                }
                let start = log_start.get();
                self.after(latency, move |scene| {
                    let reader = &mut scene.clients.readers[client];
                    if reader.position == position && losses == scene.watch.losses(partition) {
                        reader.position = start.max(position);
                    }
                });
            }
        }
    }

    fn has_read(&mut self, client: usize, position: u64, batches: &[Batch]) {
        let reader = &mut self.clients.readers[client];
        let partition = reader.partition;
        if reader.position != position {
            return; // It has long read on.
        }
        for batch in batches {
            self.world.count("read");
            let reader = &mut self.clients.readers[client];
            // A log start may lie within a batch.
            if batch.base > reader.position || batch.end() <= reader.position {
                let what = format!("a reader at {} gets {batch:?}", reader.position);
                self.world.finding(check::READS, format_args!("partition {partition}: {what}"));
            }
            reader.position = batch.end();
            self.comes_back(partition, batch);
            self.watch.is_read(partition, batch);
        }
    }

    fn tell_latest(&mut self, node: usize, partition: usize, client: usize, known: u64) {
        let Role::Leader(leader) = &self.nodes[node].replicas[&partition].role else { return };
        let latest = match leader.latest() {
            Ok(latest) => latest.get(),
            Err(_) if self.makes(Mistake::LatestTooEarly) => leader.high_watermark().get(),
            Err(_) => return self.world.count("latest: OFFSET_NOT_AVAILABLE"),
        };
        self.world.count("latest: told");
        let reader = &mut self.clients.readers[client];
        reader.latest = reader.latest.max(latest);
        if latest < known {
            let what = format!("node {node} tells {latest}, {known} was told before");
            self.world.finding(check::FORWARD, format_args!("partition {partition}: {what}"));
        }
    }

    fn tell_earliest(&mut self, node: usize, partition: usize, client: usize, known: u64) {
        let replica = &self.nodes[node].replicas[&partition];
        let Role::Leader(leader) = &replica.role else { return };
        let earliest = match leader.earliest() {
            _ if self.makes(Mistake::LogStartTooEarly) => replica.log.start(),
            Ok(earliest) => earliest.get(),
            Err(_) => return self.world.count("earliest: OFFSET_NOT_AVAILABLE"),
        };
        let reader = &mut self.clients.readers[client];
        reader.earliest = reader.earliest.max(earliest);
        if earliest < known {
            let what = format!("node {node} tells {earliest}, {known} was told before");
            self.world.finding(check::LOG_START, format_args!("partition {partition}: {what}"));
        }
    }
}
