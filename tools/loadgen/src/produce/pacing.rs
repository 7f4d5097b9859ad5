//! When records fall due at a constant rate, and when those that are due make a request. Pure.
//!
//! The schedule does not wait for the broker: a record's intended send time is fixed when the run
//! starts, so a stall shows in the latency of every record that fell due during it.

use std::time::Duration;

use odradek::types::Mono;

/// Intended send times of consecutive records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    pub first: Mono,
    /// Nanoseconds from one record to the next; zero in a closed loop.
    pub interval_ns: f64,
}

impl Due {
    pub fn of(&self, record: u32) -> Mono {
        Mono(self.first.0 + (self.interval_ns * record as f64) as u64)
    }

    /// The schedule from the given record on.
    pub fn skip(&self, records: u32) -> Due {
        Due { first: self.of(records), interval_ns: self.interval_ns }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This many records are sent now.
    Send(u32),
    /// Nothing before this time.
    Wait(Mono),
}

/// Lives: one per producing connection with `--rate`.
#[derive(Clone, Debug)]
pub struct Pacer {
    start: Mono,
    interval_ns: f64,
    linger: Duration,
    sent: u64,
}

impl Pacer {
    /// `rate`: records per second of this connection.
    pub fn new(start: Mono, rate: f64, linger: Duration) -> Pacer {
        assert!(rate > 0.0, "a rate is positive");
        Pacer { start, interval_ns: 1e9 / rate, linger, sent: 0 }
    }

    /// `full`: records of a request whose batches are all full. A request leaves when it is full or
    /// its oldest record has waited for the linger time (Kafka `linger.ms`).
    pub fn decide(&self, now: Mono, full: u32) -> Decision {
        let due = self.due_count(now).saturating_sub(self.sent);
        if due >= full as u64 {
            return Decision::Send(full);
        }
        let flush_at = self.intended(self.sent).after(self.linger);
        if due > 0 && flush_at <= now {
            return Decision::Send(due as u32);
        }
        let full_at = self.intended(self.sent + full as u64 - 1);
        Decision::Wait(flush_at.min(full_at).max(Mono(now.0 + 1)))
    }

    /// Intended send times of the records that go next.
    pub fn next(&self) -> Due {
        Due { first: self.intended(self.sent), interval_ns: self.interval_ns }
    }

    pub fn advance(&mut self, records: u32) {
        self.sent += records as u64;
    }

    fn intended(&self, record: u64) -> Mono {
        Mono(self.start.0 + (self.interval_ns * record as f64) as u64)
    }

    fn due_count(&self, now: Mono) -> u64 {
        if now < self.start {
            return 0;
        }
        ((now.0 - self.start.0) as f64 / self.interval_ns) as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(1);

    #[test]
    fn a_lone_record_waits_for_the_linger_time() {
        let pacer = Pacer::new(Mono(0), 100.0, LINGER);
        assert_eq!(pacer.decide(Mono(0), 10), Decision::Wait(Mono(1_000_000)));
        assert_eq!(pacer.decide(Mono(1_000_000), 10), Decision::Send(1));
    }

    #[test]
    fn without_linger_a_record_leaves_when_due() {
        let mut pacer = Pacer::new(Mono(0), 1000.0, Duration::ZERO);
        assert_eq!(pacer.decide(Mono(0), 10), Decision::Send(1));
        pacer.advance(1);
        assert_eq!(pacer.decide(Mono(0), 10), Decision::Wait(Mono(1_000_000)));
        assert_eq!(pacer.next().first, Mono(1_000_000));
    }

    #[test]
    fn a_full_request_does_not_wait() {
        let pacer = Pacer::new(Mono(0), 1e6, Duration::from_secs(1));
        assert_eq!(pacer.decide(Mono(0), 10), Decision::Wait(Mono(9_000)));
        assert_eq!(pacer.decide(Mono(9_000), 10), Decision::Send(10));
    }

    #[test]
    fn a_stall_does_not_move_the_schedule() {
        let mut pacer = Pacer::new(Mono(0), 1e6, LINGER);
        let stalled = Mono(50_000_000);
        assert_eq!(pacer.decide(stalled, 10), Decision::Send(10));
        pacer.advance(10);
        assert_eq!(pacer.next().first, Mono(10_000));
        assert_eq!(pacer.next().of(5), Mono(15_000));
    }

    #[test]
    fn the_rate_is_kept_over_a_second() {
        let mut pacer = Pacer::new(Mono(0), 12_345.0, LINGER);
        let (mut now, mut sent) = (Mono(0), 0u64);
        while now < Mono(1_000_000_000) {
            match pacer.decide(now, 64) {
                Decision::Send(count) => {
                    pacer.advance(count);
                    sent += count as u64;
                }
                Decision::Wait(until) => now = until,
            }
        }
        assert!((12_320..=12_346).contains(&sent), "{sent}");
    }
}
