//! The disk budget of compaction (`log.cleaner.io.max.bytes.per.second`).

use crate::types::Mono;
use std::time::Duration;

/// Lives: one per shard.
/// Invariant: over any stretch of time no more is spent than its rate allows, and the last piece.
#[derive(Debug)]
pub struct Pace {
    /// `None`: no limit.
    bytes_per_second: Option<u64>,
    /// When what was spent is paid for.
    paid_at: Mono,
}

impl Pace {
    pub fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, paid_at: Mono::default() }
    }

    /// What was spent is paid for as it was.
    pub fn set_rate(&mut self, bytes_per_second: Option<u64>) {
        self.bytes_per_second = bytes_per_second;
    }

    /// Counts bytes read or written, and returns how long to wait before the next.
    pub fn spend(&mut self, bytes: u64, now: Mono) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.paid_at = self.paid_at.max(now).after(cost);
        self.paid_at.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_paid_for_what_was_spent_and_idle_time_is_not_saved_up() {
        let second = |count| Mono::default().after(Duration::from_secs(count));
        let mut pace = Pace::new(Some(1_000));
        assert_eq!(pace.spend(2_000, second(0)), Duration::from_secs(2));
        assert_eq!(pace.spend(500, second(1)), Duration::from_millis(1_500));
        assert_eq!(pace.spend(1_000, second(100)), Duration::from_secs(1));
        assert_eq!(Pace::new(None).spend(u64::MAX, second(0)), Duration::ZERO);
    }
}
