//! Who waits for which offset: produce requests between their append and their answer.

use std::collections::BTreeSet;

use crate::types::Offset;

/// Number of a produce request, given by whoever parks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProduceId(pub u64);

/// What an answer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// `acks=1`: it is flushed here.
    Leader,
    /// `acks=all`: it is below the high watermark.
    All,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProduceOutcome {
    Done,
    /// `NOT_ENOUGH_REPLICAS_AFTER_APPEND`: it is in the log, and may yet be everywhere.
    NotEnoughReplicasAfterAppend,
    /// `NOT_LEADER_OR_FOLLOWER`.
    NotLeader,
}

/// Lives: one per led partition.
#[derive(Clone, Debug, Default)]
pub struct Produces {
    /// By the end of what was appended, and in the order of their requests.
    for_flush: BTreeSet<(Offset, ProduceId)>,
    for_replicas: BTreeSet<(Offset, ProduceId)>,
}

impl Produces {
    pub fn park(&mut self, produce: ProduceId, end: Offset, acks: Acks) {
        match acks {
            Acks::Leader => self.for_flush.insert((end, produce)),
            Acks::All => self.for_replicas.insert((end, produce)),
        };
    }

    /// The client does not wait any more.
    pub fn forget(&mut self, produce: ProduceId) {
        self.for_flush.retain(|(_, parked)| *parked != produce);
        self.for_replicas.retain(|(_, parked)| *parked != produce);
    }

    pub fn count(&self) -> usize {
        self.for_flush.len() + self.for_replicas.len()
    }

    /// Those that wait for no more than a flush up to here.
    pub fn flushed(&mut self, flushed_end: Offset) -> impl Iterator<Item = ProduceId> + use<> {
        reached(&mut self.for_flush, flushed_end)
    }

    /// Those that wait for no more than a high watermark here.
    pub fn replicated(&mut self, high_watermark: Offset) -> impl Iterator<Item = ProduceId> + use<> {
        reached(&mut self.for_replicas, high_watermark)
    }

    /// Those that wait for replicas.
    pub fn take_for_replicas(&mut self) -> impl Iterator<Item = ProduceId> + use<> {
        std::mem::take(&mut self.for_replicas).into_iter().map(|(_, produce)| produce)
    }

    pub fn take_all(&mut self) -> impl Iterator<Item = ProduceId> + use<> {
        let for_flush = std::mem::take(&mut self.for_flush).into_iter().map(|(_, produce)| produce);
        for_flush.chain(self.take_for_replicas())
    }
}

fn reached(
    parked: &mut BTreeSet<(Offset, ProduceId)>,
    to: Offset,
) -> impl Iterator<Item = ProduceId> + use<> {
    let above = match to.advance(1) {
        Some(next) => parked.split_off(&(next, ProduceId(0))),
        None => BTreeSet::new(),
    };
    std::mem::replace(parked, above).into_iter().map(|(_, produce)| produce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }

    #[test]
    fn each_is_answered_once_what_it_waits_for_is_there() {
        let mut produces = Produces::default();
        produces.park(ProduceId(1), offset(10), Acks::All);
        produces.park(ProduceId(2), offset(10), Acks::Leader);
        produces.park(ProduceId(3), offset(11), Acks::All);
        produces.park(ProduceId(4), offset(12), Acks::All);
        produces.forget(ProduceId(4));
        assert_eq!(produces.flushed(offset(10)).collect::<Vec<_>>(), [ProduceId(2)]);
        assert_eq!(produces.replicated(offset(9)).count(), 0);
        assert_eq!(produces.replicated(offset(10)).collect::<Vec<_>>(), [ProduceId(1)]);
        assert_eq!(produces.take_all().collect::<Vec<_>>(), [ProduceId(3)]);
        assert_eq!(produces.count(), 0);
    }
}
