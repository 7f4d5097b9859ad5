//! A rate over the last windows, as Kafka counts it.
//!
//! ```text
//!        ├─ 1 s ─┤├─ 1 s ─┤   ..    ├─ 1 s ─┤├ so far ┤
//!        sample   sample            sample   sample   now     rate = sum of all / time since the oldest began
//! ```
//!
//! A sample begins with what is recorded first in it. While there are fewer than all but one, the time of those
//! that are missing counts as well: a burst after a pause is held against the whole stretch.

use std::collections::VecDeque;
use std::time::Duration;

use crate::types::Mono;

/// How rates are counted (`quota.window.num`, `quota.window.size.seconds`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// At least 1; the one that is being filled among them.
    pub count: u32,
    pub size: Duration,
}

impl Windows {
    /// What may be used at once by who has used nothing for so long, for each unit of the limit.
    pub fn burst_seconds(&self) -> f64 {
        f64::from(self.count.saturating_sub(1)) * self.size.as_secs_f64()
    }

    fn span(&self) -> Duration {
        self.size * self.count
    }
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    start: Mono,
    last: Mono,
    value: f64,
}

/// Lives: one per shard, quota and who shares it.
/// Shape: at most `count` + 1 samples; each call O(count).
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// The oldest first.
    samples: VecDeque<Sample>,
}

impl Rate {
    /// Counts an amount; below zero takes back what was counted.
    pub fn record(&mut self, value: f64, now: Mono, windows: &Windows) {
        let current = self.samples.back_mut().filter(|sample| now.since(sample.start) < windows.size);
        match current {
            Some(sample) => {
                sample.value += value;
                sample.last = now;
            }
            None => {
                if self.samples.len() > windows.count as usize {
                    self.samples.pop_front();
                }
                self.samples.push_back(Sample { start: now, last: now, value });
            }
        }
    }

    /// Units per second.
    pub fn measure(&mut self, now: Mono, windows: &Windows) -> f64 {
        self.purge(now, windows);
        self.total() / self.stretch(now, windows).as_secs_f64()
    }

    /// How long nothing may be recorded until the rate is down to `limit`.
    pub fn excess_time(&mut self, limit: f64, now: Mono, windows: &Windows) -> Duration {
        let rate = self.measure(now, windows);
        if rate <= limit {
            return Duration::ZERO;
        }
        let seconds = (rate - limit) / limit * self.stretch(now, windows).as_secs_f64();
        /// Longer than anybody waits, and still far from what a duration holds.
        const SECONDS_MAX: f64 = 1e6;
        Duration::from_secs_f64(seconds.min(SECONDS_MAX))
    }

    /// Nothing of it counts any more.
    pub fn is_over(&mut self, now: Mono, windows: &Windows) -> bool {
        self.purge(now, windows);
        self.samples.is_empty()
    }

    fn purge(&mut self, now: Mono, windows: &Windows) {
        self.samples.retain(|sample| now.since(sample.last) < windows.span());
    }

    fn total(&self) -> f64 {
        self.samples.iter().map(|sample| sample.value).sum()
    }

    /// What the total is divided by. After a purge.
    fn stretch(&self, now: Mono, windows: &Windows) -> Duration {
        let elapsed = self.samples.front().map_or(Duration::ZERO, |oldest| now.since(oldest.start));
        let full = (elapsed.as_nanos() / windows.size.as_nanos()) as u32;
        let missing = windows.count.saturating_sub(1).saturating_sub(full);
        (elapsed + windows.size * missing).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOWS: Windows = Windows { count: 11, size: Duration::from_secs(1) };

    fn at(milliseconds: u64) -> Mono {
        Mono::default().after(Duration::from_millis(milliseconds))
    }

    #[test]
    fn a_burst_is_held_against_the_whole_stretch() {
        let mut rate = Rate::default();
        rate.record(1000.0, at(0), &WINDOWS);
        // Ten windows that are missing.
        assert_eq!(rate.measure(at(0), &WINDOWS), 100.0);
        assert_eq!(rate.excess_time(100.0, at(0), &WINDOWS), Duration::ZERO);
        // As Kafka: X = (O - T) / T * W = (100 - 50) / 50 * 10 s.
        assert_eq!(rate.excess_time(50.0, at(0), &WINDOWS), Duration::from_secs(10));
    }

    #[test]
    fn steady_use_is_what_it_is_and_goes_by() {
        let mut rate = Rate::default();
        for step in 0..200 {
            rate.record(10.0, at(step * 100), &WINDOWS);
        }
        let measured = rate.measure(at(19_950), &WINDOWS);
        assert!((95.0..105.0).contains(&measured), "{measured}");
        assert!(!rate.is_over(at(30_000), &WINDOWS));
        assert!(rate.is_over(at(31_000), &WINDOWS));
        assert_eq!(rate.measure(at(31_000), &WINDOWS), 0.0);
    }

    #[test]
    fn what_is_taken_back_never_was() {
        let mut rate = Rate::default();
        rate.record(500.0, at(0), &WINDOWS);
        rate.record(700.0, at(300), &WINDOWS);
        rate.record(-700.0, at(300), &WINDOWS);
        assert_eq!(rate.measure(at(300), &WINDOWS), 500.0 / 10.3);
    }

    proptest! {
        /// Who waits for as long as he is told to gets about his limit, over any stretch that begins with him. (A
        /// piece that is worth more than all windows is forgotten with them, in Kafka too.)
        #[test]
        fn who_waits_keeps_to_the_limit(
            pieces in proptest::collection::vec((1..5_000u32, 0..300u64), 1..200),
            limit in 5_000..50_000u32,
        ) {
            let mut rate = Rate::default();
            let (mut now, mut used, mut largest) = (0u64, 0.0, 0.0f64);
            for (piece, pause) in pieces {
                now += pause;
                let piece = f64::from(piece);
                rate.record(piece, at(now), &WINDOWS);
                used += piece;
                largest = largest.max(piece);
                let wait = rate.excess_time(f64::from(limit), at(now), &WINDOWS);
                now += wait.as_millis() as u64 + 1;
                // The time before the first piece counts, as for who was silent.
                let seconds = now as f64 / 1000.0 + WINDOWS.burst_seconds() + 1.0;
                let allowed = f64::from(limit) * seconds * 1.1;
                prop_assert!(used <= allowed + largest, "{used} of {allowed} after {now} ms");
                prop_assert!(rate.samples.len() <= 12);
            }
        }
    }
}
