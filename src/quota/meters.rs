//! The rates of a shard, by who shares the limit, and what it tells the other shards of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::rate::{Rate, Windows};
use crate::config::quota::{QuotaKind, QuotaLimit, QuotaScope};
use crate::types::Mono;

/// Rates of one shard. Those that nothing is left of go first; past it clients that are new share one.
pub const METERS_MAX: usize = 50_000;

/// What connections of one shard have used and others do not know yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    pub kind: QuotaKind,
    pub scope: QuotaScope,
    pub amount: f64,
}

#[derive(Clone, Debug, Default)]
struct Meter {
    rate: Rate,
    /// Used here since the others were told.
    untold: f64,
}

/// Lives: one per shard.
#[derive(Debug)]
pub struct Meters {
    windows: Windows,
    meters: BTreeMap<(QuotaKind, QuotaScope), Meter>,
}

impl Meters {
    pub fn new(windows: Windows) -> Meters {
        Meters { windows, meters: BTreeMap::new() }
    }

    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Counts what a client has used, and returns how long it has to wait for that.
    pub fn record(
        &mut self,
        kind: QuotaKind,
        scope: &QuotaScope,
        limit: QuotaLimit,
        amount: f64,
        now: Mono,
    ) -> Duration {
        let windows = self.windows;
        let meter = self.meter(kind, scope, now);
        meter.untold += amount;
        meter.rate.record(amount, now, &windows);
        meter.rate.excess_time(limit.get(), now, &windows)
    }

    /// Takes back what was counted.
    pub fn unrecord(&mut self, kind: QuotaKind, scope: &QuotaScope, amount: f64, now: Mono) {
        let windows = self.windows;
        let meter = self.meter(kind, scope, now);
        meter.untold -= amount;
        meter.rate.record(-amount, now, &windows);
    }

    /// What the other shards are to be told, each time once.
    pub fn take_untold(&mut self) -> Vec<Usage> {
        let told = self.meters.iter_mut().filter(|(_, meter)| meter.untold != 0.0);
        let told = told.map(|((kind, scope), meter)| Usage {
            kind: *kind,
            scope: scope.clone(),
            amount: std::mem::take(&mut meter.untold),
        });
        told.collect()
    }

    /// Another shard has told what its connections have used.
    pub fn add(&mut self, usage: &Usage, now: Mono) {
        let windows = self.windows;
        let meter = self.meter(usage.kind, &usage.scope, now);
        meter.rate.record(usage.amount, now, &windows);
    }

    /// Forgets what counts for nothing any more.
    pub fn purge(&mut self, now: Mono) {
        let windows = self.windows;
        self.meters.retain(|_, meter| meter.untold != 0.0 || !meter.rate.is_over(now, &windows));
    }

    /// Every rate that there is, in units per second.
    pub fn rates(&mut self, now: Mono) -> Vec<(QuotaKind, QuotaScope, f64)> {
        let windows = self.windows;
        let all = self.meters.iter_mut();
        all.map(|((kind, scope), meter)| (*kind, scope.clone(), meter.rate.measure(now, &windows))).collect()
    }

    fn meter(&mut self, kind: QuotaKind, scope: &QuotaScope, now: Mono) -> &mut Meter {
        let key = (kind, scope.clone());
        if self.meters.len() < METERS_MAX || self.meters.contains_key(&key) {
            return self.meters.entry(key).or_default();
        }
        self.purge(now);
        let nobody = QuotaScope { user: None, client_id: None };
        let key = if self.meters.len() < METERS_MAX { key } else { (kind, nobody) };
        self.meters.entry(key).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: QuotaKind = QuotaKind::ProducerByteRate;
    const WINDOWS: Windows = Windows { count: 11, size: Duration::from_secs(1) };

    fn scope(client_id: &str) -> QuotaScope {
        QuotaScope { user: None, client_id: Some(client_id.to_owned()) }
    }

    fn limit(value: f64) -> QuotaLimit {
        QuotaLimit::new(value).expect("above zero")
    }

    fn at(milliseconds: u64) -> Mono {
        Mono::default().after(Duration::from_millis(milliseconds))
    }

    #[test]
    fn who_shares_a_limit_waits_for_what_the_others_have_used() {
        let mut meters = Meters::new(WINDOWS);
        assert_eq!(meters.record(KIND, &scope("a"), limit(100.0), 1000.0, at(0)), Duration::ZERO);
        assert_eq!(meters.record(KIND, &scope("b"), limit(100.0), 1000.0, at(0)), Duration::ZERO);
        let wait = meters.record(KIND, &scope("a"), limit(100.0), 500.0, at(0));
        assert_eq!(wait, Duration::from_secs(5));
        meters.unrecord(KIND, &scope("a"), 500.0, at(0));
        assert_eq!(meters.record(KIND, &scope("a"), limit(100.0), 0.0, at(0)), Duration::ZERO);
    }

    /// The sum over shards is held: each knows what the others have used once they have told it.
    #[test]
    fn shards_that_tell_each_other_hold_the_limit_together() {
        const SHARDS: usize = 4;
        const LIMIT: f64 = 10_000.0;
        const STEP_MS: u64 = 10;
        const TELL_EVERY: u64 = 10; // Steps: a tenth of a second.
        let mut shards: Vec<Meters> = (0..SHARDS).map(|_| Meters::new(WINDOWS)).collect();
        let mut muted = [0u64; SHARDS];
        let (mut used, mut late) = (0.0, 0.0);
        let end = 60_000 / STEP_MS;
        for step in 0..end {
            let now = step * STEP_MS;
            for shard in 0..SHARDS {
                if muted[shard] > now {
                    continue;
                }
                let wait = shards[shard].record(KIND, &scope("c"), limit(LIMIT), 1_000.0, at(now));
                muted[shard] = now + wait.as_millis() as u64;
                used += 1_000.0;
                late += if now >= 30_000 { 1_000.0 } else { 0.0 };
            }
            if step % TELL_EVERY == 0 {
                for from in 0..SHARDS {
                    for usage in shards[from].take_untold() {
                        (0..SHARDS).filter(|to| *to != from).for_each(|to| shards[to].add(&usage, at(now)));
                    }
                }
            }
        }
        // At first what may be used at once, then the limit.
        let steady = late / 30.0;
        assert!((LIMIT * 0.8..LIMIT * 1.2).contains(&steady), "{steady} per second");
        assert!(used < LIMIT * (60.0 + WINDOWS.burst_seconds()) * 1.2, "{used}");
        let knows = |meters: &mut Meters| meters.rates(at(60_000))[0].2;
        let rates: Vec<f64> = shards.iter_mut().map(knows).collect();
        assert!(rates.iter().all(|rate| (rate - rates[0]).abs() < LIMIT * 0.2), "{rates:?}");
    }

    #[test]
    fn told_once_and_forgotten_when_it_counts_no_more() {
        let mut meters = Meters::new(WINDOWS);
        meters.record(KIND, &scope("a"), limit(1.0), 5.0, at(0));
        meters.purge(at(60_000));
        let told = [Usage { kind: KIND, scope: scope("a"), amount: 5.0 }];
        assert_eq!(meters.take_untold(), told, "what was not told is kept");
        assert_eq!(meters.take_untold(), []);
        meters.purge(at(10_999));
        assert_eq!(meters.rates(at(10_999)).len(), 1);
        meters.purge(at(11_000));
        assert_eq!(meters.rates(at(11_000)), []);
    }

    #[test]
    fn clients_beyond_the_bound_share_one_meter() {
        let mut meters = Meters::new(WINDOWS);
        for number in 0..METERS_MAX + 100 {
            meters.record(KIND, &scope(&number.to_string()), limit(1e9), 1.0, at(0));
        }
        assert_eq!(meters.meters.len(), METERS_MAX + 1);
        let shared = meters.record(KIND, &scope("new"), limit(1.0), 0.0, at(0));
        assert!(shared > Duration::ZERO, "a hundred others have used it");
        meters.take_untold();
        meters.record(KIND, &scope("later"), limit(1.0), 1.0, at(20_000));
        assert_eq!(meters.meters.len(), 1, "those that are over make room");
    }
}
