//! One file: what readers see, what a loss of power leaves, and what lies between.
//!
//! ```text
//! view      what a read returns: every completed write
//! durable   what was flushed
//! pending   writes and changes of size since, completed or in flight, oldest first
//! ```

use crate::disk::SECTOR;
use crate::random::Random;

#[derive(Clone, Debug)]
pub enum Op {
    Write {
        position: u64,
        bytes: Vec<u8>,
    },
    /// At least so long, zeros behind.
    Grow(u64),
    Cut(u64),
}

#[derive(Clone, Debug)]
struct Pending {
    number: u64,
    op: Op,
    done: bool,
}

/// What of the unflushed sectors a loss of power keeps.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Nothing.
    All,
    /// Everything.
    None,
    /// Each with one chance in two.
    Half,
    /// Almost everything, almost nothing.
    OneIn(u64),
    AllButOneIn(u64),
}

impl Loss {
    pub fn draw(dice: &mut Random) -> Loss {
        match dice.below(8) {
            0 => Loss::All,
            1 => Loss::None,
            2 | 3 => Loss::OneIn(dice.between(2, 40)),
            4 | 5 => Loss::AllButOneIn(dice.between(2, 40)),
            _ => Loss::Half,
        }
    }

    pub fn keeps(self, dice: &mut Random) -> bool {
        match self {
            Loss::All => false,
            Loss::None => true,
            Loss::Half => dice.one_in(2),
            Loss::OneIn(count) => !dice.one_in(count),
            Loss::AllButOneIn(count) => dice.one_in(count),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct FileState {
    view: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    next: u64,
}

impl FileState {
    pub fn size(&self) -> u64 {
        self.view.len() as u64
    }

    pub fn read(&self, position: u64, size: usize) -> Vec<u8> {
        let from = (position as usize).min(self.view.len());
        let to = (position as usize).saturating_add(size).min(self.view.len());
        self.view[from..to].to_vec()
    }

    /// Issues an operation. `false` when it overlaps a write that is in flight: two writes to one place
    /// have no order.
    pub fn begin(&mut self, op: Op) -> (u64, bool) {
        let number = self.next;
        self.next += 1;
        let clear = self.pending.iter().all(|other| other.done || !overlap(&op, &other.op));
        self.pending.push(Pending { number, op, done: false });
        (number, clear)
    }

    /// The operation has completed.
    pub fn complete(&mut self, number: u64) {
        let Some(at) = self.pending.iter().position(|pending| pending.number == number) else { return };
        self.pending[at].done = true;
        apply(&mut self.view, &self.pending[at].op);
    }

    /// A write goes somewhere else.
    pub fn misdirect(&mut self, number: u64, to: u64) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.number == number)
            && let Op::Write { position, .. } = &mut pending.op
        {
            *position = to;
        }
    }

    /// The operation failed, or the process died over it: any of its sectors may have got there.
    pub fn tear(&mut self, number: u64, dice: &mut Random) {
        let Some(at) = self.pending.iter().position(|pending| pending.number == number) else { return };
        let torn = self.pending.remove(at);
        let parts: Vec<Pending> = match torn.op {
            Op::Write { position, bytes } => {
                let kept = sectors(position, &bytes).filter(|_| dice.one_in(2));
                kept.map(|(position, sector)| Op::Write { position, bytes: sector.to_vec() })
                    .map(|op| Pending { number: torn.number, op, done: true })
                    .collect()
            }
            op if dice.one_in(2) => vec![Pending { number: torn.number, op, done: true }],
            _ => Vec::new(),
        };
        parts.iter().for_each(|part| apply(&mut self.view, &part.op));
        self.pending.splice(at..at, parts);
    }

    /// What a flush issued now will cover.
    pub fn completed(&self) -> Vec<u64> {
        self.pending.iter().filter(|pending| pending.done).map(|pending| pending.number).collect()
    }

    /// A flush has returned. `covered` ascends.
    pub fn flushed(&mut self, covered: &[u64]) {
        let durable = &mut self.durable;
        self.pending.retain(|pending| {
            let is_covered = pending.done && covered.binary_search(&pending.number).is_ok();
            if is_covered {
                apply(durable, &pending.op);
            }
            !is_covered
        });
    }

    pub fn has_unflushed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The process died: what is in flight gets there in part.
    pub fn kill(&mut self, dice: &mut Random) {
        let in_flight: Vec<u64> =
            self.pending.iter().filter(|pending| !pending.done).map(|pending| pending.number).collect();
        in_flight.into_iter().for_each(|number| self.tear(number, dice));
    }

    /// The power went: any subset of the unflushed sectors is there. Changes of size are kept in their
    /// order.
    pub fn lose_power(&mut self, loss: Loss, dice: &mut Random) {
        let mut sizes_kept = true;
        for pending in std::mem::take(&mut self.pending) {
            match &pending.op {
                Op::Grow(_) | Op::Cut(_) => {
                    sizes_kept = sizes_kept && loss.keeps(dice);
                    if sizes_kept {
                        apply(&mut self.durable, &pending.op);
                    }
                }
                Op::Write { position, bytes } => {
                    for (position, sector) in sectors(*position, bytes) {
                        if loss.keeps(dice) {
                            put(&mut self.durable, position, sector);
                        }
                    }
                }
            }
        }
        self.view.clone_from(&self.durable);
    }

    /// Changes bytes behind everybody's back, of a file at rest: what was written is in its place by then, and
    /// does not come over the damage later.
    pub fn damage(&mut self, change: impl Fn(&mut Vec<u8>)) {
        change(&mut self.view);
        self.durable.clone_from(&self.view);
        self.pending.clear();
    }
}

fn overlap(one: &Op, other: &Op) -> bool {
    let (Op::Write { position: one_from, bytes: one }, Op::Write { position: other_from, bytes: other }) =
        (one, other)
    else {
        return false;
    };
    *one_from < other_from + other.len() as u64 && *other_from < one_from + one.len() as u64
}

fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write { position, bytes: written } => put(bytes, *position, written),
        Op::Grow(size) => {
            if bytes.len() < *size as usize {
                bytes.resize(*size as usize, 0);
            }
        }
        Op::Cut(size) => bytes.resize(*size as usize, 0),
    }
}

fn put(bytes: &mut Vec<u8>, position: u64, written: &[u8]) {
    let (from, to) = (position as usize, position as usize + written.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(written);
}

/// The pieces of a write that reach the disk whole or not at all.
fn sectors(position: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at == bytes.len() {
            return None;
        }
        let from = position + at as u64;
        let to_boundary = (SECTOR - from % SECTOR) as usize;
        let size = to_boundary.min(bytes.len() - at);
        let piece = (from, &bytes[at..at + size]);
        at += size;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &mut FileState, position: u64, bytes: &[u8]) -> u64 {
        let (number, clear) = file.begin(Op::Write { position, bytes: bytes.to_vec() });
        assert!(clear);
        number
    }

    #[test]
    fn what_was_not_flushed_goes_with_the_power() {
        let mut file = FileState::default();
        let first = write(&mut file, 0, &[1; 512]);
        file.complete(first);
        let covered = file.completed();
        let second = write(&mut file, 512, &[2; 512]);
        file.complete(second); // Behind the flush.
        file.flushed(&covered);
        assert_eq!(file.read(0, 1024), [[1; 512], [2; 512]].concat());
        file.lose_power(Loss::All, &mut Random::new(1));
        assert_eq!(file.read(0, 1024), [1; 512]);
    }

    #[test]
    fn any_sector_of_an_unflushed_write_may_survive() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut file = FileState::default();
            let number = write(&mut file, 0, &[7; 1536]);
            file.complete(number);
            file.lose_power(Loss::Half, &mut Random::new(seed));
            let kept: Vec<bool> = (0..3).map(|sector| file.read(sector * 512, 1) == [7]).collect();
            seen.insert(kept);
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn two_writes_in_flight_to_one_place_are_noticed() {
        let mut file = FileState::default();
        write(&mut file, 0, &[1; 1024]);
        assert!(!file.begin(Op::Write { position: 512, bytes: vec![2; 512] }).1);
    }
}
