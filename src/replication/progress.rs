//! How far one follower is, as its leader knows it.

use crate::types::{BrokerEpoch, Mono, Offset};

/// Which conversation with a follower: the registration of its process, and a number that it counts up with
/// every statement. A message of an older one that comes late is known by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    pub broker_epoch: BrokerEpoch,
    pub number: u32,
}

/// Lives: one per follower of a led partition, from the start of the leadership.
#[derive(Clone, Debug)]
pub struct Progress {
    /// `None`: nothing was heard from it under this leadership.
    pub session: Option<Session>,
    /// It appends what it is sent; what it acknowledges counts.
    pub is_following: bool,
    /// Sent to it in this session, exclusive.
    pub sent_end: Offset,
    /// Zero until it has stated otherwise. Moves back when it has lost its disk.
    pub flushed_end: Offset,
    pub log_start: Offset,
    /// What it was told last.
    pub told_high_watermark: Offset,
    pub told_log_start: Offset,
    /// Not before then is it proposed again: the controller has refused it.
    pub propose_after: Mono,
    /// As far as the metadata say, the controller would take it: it is neither fenced nor about to stop.
    pub is_eligible: bool,
    /// When it last had all that there was.
    caught_up_at: Mono,
    /// The log end at its last acknowledgement, and when that was.
    last_seen: (Offset, Mono),
}

impl Progress {
    /// As if it had been caught up at the start, or every new leader would begin without followers.
    pub fn new(now: Mono, log_end: Offset) -> Progress {
        Progress {
            session: None,
            is_following: false,
            sent_end: Offset::ZERO,
            flushed_end: Offset::ZERO,
            log_start: Offset::ZERO,
            told_high_watermark: Offset::ZERO,
            told_log_start: Offset::ZERO,
            propose_after: now,
            is_eligible: true,
            caught_up_at: now,
            last_seen: (log_end, now),
        }
    }

    /// It has flushed up to `flushed_end`, and the leader's log ends at `log_end`.
    ///
    /// One that always lags a little is caught up as of the time whose log end it has reached since, as in
    /// Kafka (`Replica.updateFetchStateOrThrow`).
    pub fn seen(&mut self, flushed_end: Offset, log_end: Offset, now: Mono) {
        self.flushed_end = flushed_end;
        if flushed_end >= log_end {
            self.caught_up_at = now;
        } else if flushed_end >= self.last_seen.0 {
            self.caught_up_at = self.caught_up_at.max(self.last_seen.1);
        }
        self.last_seen = (log_end, now);
    }

    /// Whether it has not had all that there was for longer than `lag_max`.
    pub fn is_lagging(&self, log_end: Offset, now: Mono, lag_max: std::time::Duration) -> bool {
        self.flushed_end < log_end && now.since(self.caught_up_at) > lag_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn who_keeps_up_with_a_moving_end_does_not_lag() {
        let lag_max = Duration::from_secs(10);
        let mut progress = Progress::new(at(0), offset(0));
        for second in 1..100 {
            // Always one second behind.
            progress.seen(offset(second * 10 - 10), offset(second * 10), at(second));
            assert!(!progress.is_lagging(offset(second * 10), at(second), lag_max));
        }
        progress.seen(offset(990), offset(1000), at(100));
        for second in 101..120 {
            progress.seen(offset(991), offset(second * 10), at(second));
        }
        assert!(progress.is_lagging(offset(1200), at(119), lag_max));
        progress.seen(offset(1200), offset(1200), at(120));
        assert!(!progress.is_lagging(offset(1300), at(130), lag_max));
        assert!(!progress.is_lagging(offset(1200), at(500), lag_max), "nothing is missing");
    }
}
