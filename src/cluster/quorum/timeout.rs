//! The election time-outs of one node.
//!
//! The `raft` crate draws them from the thread's generator whenever it resets its state, which no seed replays.
//! So each of its draws is overwritten: this says the time-out that holds, and draws another one when something
//! has happened upon which raft would. That the crate has drawn cannot be told from its time-out having
//! changed: now and then it draws what was there before.

use raft::StateRole;

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
struct Generator(u64);

impl Generator {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// What raft resets its time-out upon, as far as it can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub term: u64,
    pub role: StateRole,
    pub leader: u64,
    /// How often this node has asked for votes.
    pub campaigns: u64,
}

/// Lives: one per node. Unit: ticks.
#[derive(Clone, Debug)]
pub(super) struct ElectionTimeout {
    generator: Generator,
    from: usize,
    standing: Option<Standing>,
    ticks: usize,
}

impl ElectionTimeout {
    /// Between `from` and twice as much, the latter exclusive: what raft takes by default.
    pub fn new(seed: u64, from: usize) -> ElectionTimeout {
        ElectionTimeout { generator: Generator(seed), from, standing: None, ticks: from }
    }

    pub fn of(&mut self, standing: Standing) -> usize {
        if self.standing != Some(standing) {
            self.standing = Some(standing);
            self.ticks = self.from + (self.generator.draw() % self.from as u64) as usize;
        }
        self.ticks
    }
}
