//! How many bytes replicas that catch up are sent, where they are held to a rate (KIP-73).
//!
//! ```text
//!   leader                                                follower
//!   [bucket of its rate] ─┐                               [bucket of its rate]
//!                         ├─ both have some left: sent ─►   │ received
//!   [credit] ─────────────┘                                 ▼
//!      ▲◄── so many bytes in all, with acknowledgements ── grants, as its bucket fills
//! ```
//!
//! A bucket is filled at a shard's share of its node's rate. What is sent while it is not empty may be one batch more
//! than is left, or a batch that is larger never left; that is owed, and made up before the next one. So at any time
//! no more was sent than the rate gives, what a bucket holds, and one batch.
//!
//! Absent: which replicas are held back (`cluster::throttled`): those in sync never are, and do not count. In Kafka
//! they count (`ReplicationQuotaManager.record`), and a rate that is below what is produced lets nobody catch up; a
//! rate is for what is to be caught up here.
//!
//! Source: KIP-73; Kafka `ReplicaManager.shouldLeaderThrottle`, `RemoteLeaderEndPoint.shouldFollowerThrottle`.

use std::time::Duration;

use crate::types::Mono;

/// What a bucket holds, as the time in which it is filled: as much as may be made up for when nothing was to be sent
/// for a moment, and some pulses of the shard that looks.
pub const BURST: Duration = Duration::from_millis(500);

const SECOND: i128 = 1_000_000_000;

/// Lives: on a shard, one for its leaders and one for its followers, as long as there is a rate.
/// Units: bytes per second; `level` in billionths of a byte, so that nothing is lost between two looks.
/// Invariant: level ≤ what [`BURST`] gives.
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: u64,
    level: i128,
    at: Mono,
}

impl Bucket {
    /// It begins empty: rates that are set again and again give no more than one that stays.
    pub fn new(rate: u64, now: Mono) -> Bucket {
        Bucket { rate, level: 0, at: now }
    }

    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// It is filled at another rate from now on.
    pub fn set_rate(&mut self, rate: u64, now: Mono) {
        self.fill(now);
        self.rate = rate;
        self.level = self.level.min(self.size());
    }

    /// Bytes that may be moved now; none while some are owed.
    pub fn left(&mut self, now: Mono) -> u64 {
        self.fill(now);
        u64::try_from(self.level / SECOND).unwrap_or(0)
    }

    /// So many were moved.
    pub fn take(&mut self, bytes: u64) {
        self.level -= i128::from(bytes) * SECOND;
    }

    fn fill(&mut self, now: Mono) {
        let gain = i128::from(self.rate) * now.since(self.at).as_nanos() as i128;
        self.level = (self.level + gain).min(self.size());
        self.at = self.at.max(now);
    }

    /// At least a byte, unless nothing is to be moved at all.
    fn size(&self) -> i128 {
        let size = i128::from(self.rate) * BURST.as_nanos() as i128;
        if self.rate == 0 { 0 } else { size.max(SECOND) }
    }
}

/// What a follower lets come over one connection, as the leader knows it.
///
/// Lives: with the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credit {
    /// In all. `None`: any.
    bytes_max: Option<u64>,
    sent: u64,
}

impl Credit {
    pub fn told(&mut self, bytes_max: Option<u64>) {
        self.bytes_max = bytes_max;
    }

    pub fn left(&self) -> u64 {
        self.bytes_max.map_or(u64::MAX, |bytes_max| bytes_max.saturating_sub(self.sent))
    }

    /// Counted also while there is no limit: the follower does.
    pub fn sent(&mut self, bytes: u64) {
        self.sent = self.sent.saturating_add(bytes);
    }
}

/// The same as the follower keeps it.
///
/// Lives: with the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grant {
    bytes_max: u64,
    received: u64,
}

impl Grant {
    /// What the leader is told.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub fn received(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// The same while there is no limit: none of it is owed once there is one.
    pub fn received_freely(&mut self, bytes: u64) {
        self.received(bytes);
        self.bytes_max = self.bytes_max.max(self.received);
    }

    /// Bytes that it may be granted for `ahead` of them to be on their way; more, where some were sent that were not
    /// granted.
    fn wanted(&self, ahead: u64) -> u64 {
        ahead.saturating_add(self.received).saturating_sub(self.bytes_max)
    }
}

/// Shares what a follower's bucket holds among the connections that bring throttled replicas something.
///
/// All get alike much, and what some do not want goes to the others. What was granted and not used is kept small, so
/// that it does not come all at once later.
pub fn grant(bucket: &mut Bucket, grants: &mut [&mut Grant], now: Mono) {
    if grants.is_empty() {
        return;
    }
    let ahead = (bucket.size() / SECOND) as u64 / grants.len() as u64;
    let ahead = if bucket.rate == 0 { 0 } else { ahead.max(1) };
    grants.sort_by_key(|grant| grant.wanted(ahead));
    let (mut left, mut count) = (bucket.left(now), grants.len() as u64);
    for grant in grants {
        // Whoever comes last gets what is not a whole byte for each.
        let share = grant.wanted(ahead).min(left / count);
        grant.bytes_max += share;
        bucket.take(share);
        (left, count) = (left - share, count - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn at(milliseconds: u64) -> Mono {
        Mono::default().after(Duration::from_millis(1_000 + milliseconds))
    }

    #[test]
    fn a_bucket_holds_a_moment_and_what_is_owed_is_made_up() {
        let mut bucket = Bucket::new(1_000, at(0));
        assert_eq!(bucket.left(at(0)), 0, "it begins empty");
        assert_eq!(bucket.left(at(100)), 100);
        assert_eq!(bucket.left(at(9_000)), 500, "no more than it holds");
        bucket.take(700);
        assert_eq!(bucket.left(at(9_200)), 0);
        assert_eq!(bucket.left(at(9_210)), 10);
        bucket.set_rate(10, at(9_710));
        assert_eq!(bucket.left(at(9_710)), 5, "a smaller one holds less");
        bucket.set_rate(0, at(9_710));
        assert_eq!(bucket.left(at(1_000_000)), 0, "nothing is moved at all");
    }

    #[test]
    fn nothing_is_lost_between_looks_however_often() {
        let mut bucket = Bucket::new(3, at(0));
        let left: Vec<u64> = (0..700).map(|millisecond| bucket.left(at(millisecond))).collect();
        assert_eq!((left[333], left[334], left[699]), (0, 1, 1), "a byte and a half fit");
        bucket.take(1);
        assert_eq!((bucket.left(at(860)), bucket.left(at(870))), (0, 1));
    }

    #[test]
    fn who_is_told_no_limit_has_none_and_counts_nonetheless() {
        let mut credit = Credit::default();
        assert_eq!(credit.left(), u64::MAX);
        credit.sent(70);
        credit.told(Some(50));
        assert_eq!(credit.left(), 0);
        credit.told(Some(100));
        assert_eq!(credit.left(), 30);
    }

    #[test]
    fn what_came_without_a_limit_is_not_owed_once_there_is_one() {
        let (mut grant_of, mut credit) = (Grant::default(), Credit::default());
        credit.sent(1_000_000);
        grant_of.received_freely(1_000_000);
        let mut bucket = Bucket::new(1_000, at(0));
        grant(&mut bucket, &mut [&mut grant_of], at(100));
        credit.told(Some(grant_of.bytes_max()));
        assert_eq!(credit.left(), 100);
    }

    #[test]
    fn what_one_connection_does_not_want_goes_to_the_others() {
        let (mut idle, mut busy) = (Grant::default(), Grant::default());
        let mut bucket = Bucket::new(1_000, at(0));
        for pulse in 1..=100 {
            grant(&mut bucket, &mut [&mut idle, &mut busy], at(50 * pulse));
            busy.received(busy.bytes_max() - busy.received);
        }
        assert_eq!(idle.bytes_max(), 250, "it holds its half of what may be on the way");
        assert_eq!(busy.bytes_max(), 4_750, "and the other gets the rest of five seconds");
    }

    proptest! {
        /// Whatever is sent when: over any time no more than the rate, what a bucket holds, and a batch; and whoever
        /// always has something is sent what the rate gives.
        #[test]
        fn no_more_is_sent_than_the_rate_gives_and_no_less(
            rate in 1..2_000_000u64,
            steps in vec((0..400u64, 1..60_000u64, any::<bool>()), 1..300),
        ) {
            const BATCH_MAX: u64 = 60_000;
            let mut bucket = Bucket::new(rate, at(0));
            let (mut now, mut sent) = (0, 0);
            let mut history = vec![(0, 0)];
            let mut always = steps.iter().all(|(_, _, has_some)| *has_some);
            for (pause, batch, has_some) in steps {
                now += pause;
                while has_some && bucket.left(at(now)) > 0 {
                    bucket.take(batch);
                    sent += batch;
                }
                history.push((now, sent));
                always &= pause <= BURST.as_millis() as u64;
            }
            let burst = rate / 2 + 1;
            for (index, (from, before)) in history.iter().enumerate() {
                for (to, after) in &history[index..] {
                    let given = u128::from(rate) * u128::from(to - from) / 1_000 + u128::from(burst + BATCH_MAX);
                    prop_assert!(u128::from(after - before) <= given, "{before} to {after} from {from} to {to} ms");
                }
            }
            if always {
                prop_assert!(u128::from(sent) + 1 >= u128::from(rate) * u128::from(now) / 1_000);
            }
        }

        /// A follower and its leaders: together they bring no more than the follower's rate gives, and each of those
        /// that always have something gets its part.
        #[test]
        fn leaders_bring_together_what_their_follower_takes(
            rate in 1_000..2_000_000u64,
            steps in vec((1..120u64, vec(any::<bool>(), 4)), 50..200),
            busy in 0..4usize,
        ) {
            const BATCH: u64 = 16_384;
            let mut bucket = Bucket::new(rate, at(0));
            let (mut grants, mut credits) = ([Grant::default(); 4], [Credit::default(); 4]);
            let mut sent = [0; 4];
            let mut now = 0;
            for (pause, sends) in steps {
                now += pause;
                grant(&mut bucket, &mut grants.each_mut(), at(now));
                for connection in 0..4 {
                    credits[connection].told(Some(grants[connection].bytes_max()));
                    while (sends[connection] || connection == busy) && credits[connection].left() > 0 {
                        credits[connection].sent(BATCH);
                        grants[connection].received(BATCH);
                        sent[connection] += BATCH;
                    }
                }
                let given = rate * now / 1_000 + 4 * BATCH;
                prop_assert!(sent.iter().sum::<u64>() <= given, "{sent:?} of {given}");
            }
            let part = rate * now / 1_000 / 4;
            prop_assert!(sent[busy] + BATCH >= part, "{sent:?}, of which {busy} is to have {part}");
        }
    }
}
