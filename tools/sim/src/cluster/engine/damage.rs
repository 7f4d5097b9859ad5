//! Files of a node that is down change behind everybody's back, as far as others have what is in them.

use crate::cluster::engine::known_as;
use crate::disk::SECTOR;
use crate::random::Random;
use crate::replication::scene::Scene;
use odradek::codec::record_batch::BatchView;
use odradek::types::LeaderEpoch;
use std::ops::Range;

/// The leader epoch of a batch has no checksum in Kafka's format: another one is a whole batch too.
fn beside_epochs(bytes: &[u8], at: usize) -> usize {
    const EPOCH: Range<usize> = 12..16;
    let mut base = 0;
    while let Ok((batch, _)) = BatchView::split_first(&bytes[base..]) {
        if at < base + batch.size() {
            return if EPOCH.contains(&(at - base)) { base + EPOCH.end } else { at };
        }
        base += batch.size();
    }
    at
}

impl Scene {
    /// `partitions`: those that have a replica here, as far as is decided.
    pub fn damage_engine(&mut self, node: usize, partitions: &[usize]) {
        let may_lose: Vec<usize> =
            partitions.iter().copied().filter(|partition| self.may_lose(node, *partition)).collect();
        let mut dice = Random::new(self.world.draw());
        let engine = self.nodes[node].engine.as_ref().expect("it has one");
        // The start after a clean stop takes the last block of a log from elsewhere: damage there may go unseen until
        // another one.
        if engine.ended_clean {
            return self.world.count("restart: clean");
        }
        let disk = engine.disk.clone();
        let files = |directory: &str, suffix: &str| {
            let names = disk.names(directory).unwrap_or_default().into_iter();
            let paths = names.filter(|(name, _)| name.ends_with(suffix));
            paths.map(|(name, _)| format!("{directory}/{name}")).collect::<Vec<_>>()
        };
        // What a journal has of one it has of all.
        let is_journal = may_lose.len() == partitions.len() && dice.one_in(2);
        let (paths, hit) = if is_journal {
            let all = self.nodes[node].replicas.keys().copied().collect();
            (files("journal.0", ".journal"), all)
        } else if !may_lose.is_empty() {
            let partition = *dice.pick(&may_lose);
            (files(&known_as(partition, LeaderEpoch(0)).directory(), ".log"), vec![partition])
        } else {
            (Vec::new(), Vec::new())
        };
        if paths.is_empty() {
            return self.world.count("restart: clean");
        }
        let path = dice.pick(&paths).clone();
        let bytes = disk.peek(&path).expect("it was listed");
        let Some(last) = bytes.iter().rposition(|byte| *byte != 0) else {
            return self.world.count("restart: clean");
        };
        let at = beside_epochs(&bytes, dice.below(last as u64 + 1) as usize);
        self.world.count("restart: damaged");
        self.world.count(if is_journal { "engine: journal damaged" } else { "engine: segment damaged" });
        self.world.note(format_args!("node {node}: damage at {at} of {path}"));
        // Zeros up to the end look like a log that ends there, and nothing but a record of the flush tells otherwise: a
        // shard whose journal has no room for that flushes segments without one.
        let sector_end = (at - at % SECTOR as usize) + SECTOR as usize;
        if dice.one_in(2) || !is_journal && last < sector_end {
            let bit = 1u8 << dice.below(8);
            disk.damage(&path, |bytes| bytes[at] ^= bit);
        } else {
            let from = at - at % SECTOR as usize;
            disk.damage(&path, |bytes| {
                let to = bytes.len().min(from + SECTOR as usize);
                bytes[from..to].fill(0);
            });
        }
        let node = &mut self.nodes[node];
        for partition in hit {
            let Some(replica) = node.replicas.get_mut(&partition) else { continue };
            let engine = node.engine.as_mut().expect("it has one");
            if replica.log.is_lost && !engine.blamed.contains(&partition) {
                engine.lost_before.insert(partition);
            }
            engine.blamed.insert(partition);
            if is_journal {
                engine.journal_hit.insert(partition);
            }
            replica.log.is_lost = true;
        }
    }
}
