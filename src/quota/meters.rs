//! The rates of a shard, by who shares the limit, and what it tells the other shards of them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::rate::{Rate, Windows};
use crate::config::quota::{QuotaKind, QuotaLimit, QuotaScope};
use crate::types::Mono;
use crate::types::limits::QUOTA_NAME_SIZE_MAX;

/// Rates of one shard; past it clients that are new share one of each kind.
pub const METERS_MAX: usize = 50_000;

/// Bytes of the names that they are kept by, past which it is the same: some hundred each.
pub const METERS_SIZE_MAX: usize = 8 << 20;

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

/// What a rate is found by.
pub type MeterKey = (QuotaKind, QuotaScope);

/// Lives: one per shard.
///
/// Clients whose ids are longer than any that a quota could name share one rate, as those past the bounds do:
/// an id takes as much memory as its client likes.
#[derive(Debug)]
pub struct Meters {
    windows: Windows,
    meters: BTreeMap<MeterKey, Meter>,
    /// Bytes of their names.
    size: usize,
}

impl Meters {
    pub fn new(windows: Windows) -> Meters {
        Meters { windows, meters: BTreeMap::new(), size: 0 }
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
        let meter = self.meter(kind, scope);
        meter.untold += amount;
        meter.rate.record(amount, now, &windows);
        meter.rate.excess_time(limit.get(), now, &windows)
    }

    /// Takes back what was counted.
    pub fn unrecord(&mut self, kind: QuotaKind, scope: &QuotaScope, amount: f64, now: Mono) {
        let windows = self.windows;
        let meter = self.meter(kind, scope);
        meter.untold -= amount;
        meter.rate.record(-amount, now, &windows);
    }

    /// What the other shards are to be told, each time once, of the next `count_max` rates behind `after`; those
    /// that count for nothing any more are forgotten. Returns where to go on, unless it was the last.
    pub fn tell(
        &mut self,
        after: Option<MeterKey>,
        count_max: usize,
        now: Mono,
    ) -> (Vec<Usage>, Option<MeterKey>) {
        let windows = self.windows;
        let (mut told, mut over) = (Vec::new(), Vec::new());
        let (mut count, mut last) = (0, None);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, meter) in self.meters.range_mut((from, Bound::Unbounded)).take(count_max) {
            let amount = std::mem::take(&mut meter.untold);
            if amount != 0.0 {
                told.push(Usage { kind: key.0, scope: key.1.clone(), amount });
            }
            if meter.rate.is_over(now, &windows) {
                over.push(key.clone());
            }
            count += 1;
            last = (count == count_max).then(|| key.clone());
        }
        for key in over {
            self.size -= size_of_names(&key.1);
            self.meters.remove(&key);
        }
        (told, last)
    }

    /// Forgets up to so many rates, whatever they are. False if there are none left.
    pub fn forget(&mut self, count_max: usize) -> bool {
        for _ in 0..count_max {
            let Some(((_, scope), _)) = self.meters.pop_first() else { return false };
            self.size -= size_of_names(&scope);
        }
        true
    }

    /// Another shard has told what its connections have used.
    pub fn add(&mut self, usage: &Usage, now: Mono) {
        let windows = self.windows;
        let meter = self.meter(usage.kind, &usage.scope);
        meter.rate.record(usage.amount, now, &windows);
    }

    /// Every rate that there is, in units per second.
    pub fn rates(&mut self, now: Mono) -> Vec<(QuotaKind, QuotaScope, f64)> {
        let windows = self.windows;
        let all = self.meters.iter_mut();
        all.map(|((kind, scope), meter)| (*kind, scope.clone(), meter.rate.measure(now, &windows))).collect()
    }

    fn meter(&mut self, kind: QuotaKind, scope: &QuotaScope) -> &mut Meter {
        let is_long = |name: &Option<String>| name.as_ref().is_some_and(|it| it.len() > QUOTA_NAME_SIZE_MAX);
        let size = size_of_names(scope);
        let key = (kind, scope.clone());
        let has_room = self.meters.len() < METERS_MAX && self.size + size <= METERS_SIZE_MAX;
        if !self.meters.contains_key(&key) {
            if is_long(&scope.user) || is_long(&scope.client_id) || !has_room {
                let nobody = QuotaScope { user: None, client_id: None };
                return self.meters.entry((kind, nobody)).or_default();
            }
            self.size += size;
        }
        self.meters.entry(key).or_default()
    }
}

fn size_of_names(scope: &QuotaScope) -> usize {
    [&scope.user, &scope.client_id].into_iter().flatten().map(String::len).sum()
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
                    for usage in untold(&mut shards[from], at(now)) {
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
        let told = [Usage { kind: KIND, scope: scope("a"), amount: 5.0 }];
        assert_eq!(untold(&mut meters, at(0)), told);
        assert_eq!(untold(&mut meters, at(10_999)), []);
        assert_eq!(meters.rates(at(10_999)).len(), 1);
        assert_eq!(untold(&mut meters, at(11_000)), []);
        assert_eq!((meters.rates(at(11_000)), meters.size), (vec![], 0));
        meters.record(KIND, &scope("a"), limit(1.0), 5.0, at(20_000));
        assert_eq!(untold(&mut meters, at(60_000)), told, "what was not told is, however late");
    }

    #[test]
    fn all_are_told_a_few_at_a_time() {
        let mut meters = Meters::new(WINDOWS);
        let names = ["a", "b", "c", "d"];
        for name in names {
            meters.record(KIND, &scope(name), limit(1.0), 5.0, at(0));
        }
        let mut steps = Vec::new();
        let mut after = None;
        loop {
            let (told, next) = meters.tell(after, 3, at(20_000));
            steps.push(told.len());
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((steps, meters.meters.len()), (vec![3, 1], 0));
    }

    /// Nobody is limited any more; whoever is later begins with nothing.
    #[test]
    fn all_are_forgotten_a_few_at_a_time() {
        let mut meters = Meters::new(WINDOWS);
        for name in ["a", "b", "c"] {
            meters.record(KIND, &scope(name), limit(1.0), 5.0, at(0));
        }
        assert!(meters.forget(2));
        assert_eq!(meters.meters.len(), 1);
        assert!(!meters.forget(2));
        assert_eq!(meters.size, 0);
        assert_eq!(untold(&mut meters, at(0)), []);
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
        meters.record(KIND, &scope("later"), limit(1.0), 1.0, at(20_000));
        assert_eq!(meters.meters.len(), METERS_MAX + 1, "who comes does not look for room");
        untold(&mut meters, at(20_000));
        assert_eq!(meters.meters.len(), 1, "those that are over make room");
    }

    #[test]
    fn names_take_no_more_memory_than_they_may() {
        let mut meters = Meters::new(WINDOWS);
        let long = |number: usize| scope(&format!("{number:0>width$}", width = QUOTA_NAME_SIZE_MAX + 1));
        for number in 0..10 {
            meters.record(KIND, &long(number), limit(1e9), 1.0, at(0));
        }
        assert_eq!((meters.meters.len(), meters.size), (1, 0), "no quota could name one of them");
        let longest = |number: usize| scope(&format!("{number:0>QUOTA_NAME_SIZE_MAX$}"));
        for number in 0..2 * METERS_SIZE_MAX / QUOTA_NAME_SIZE_MAX {
            meters.record(KIND, &longest(number), limit(1e9), 1.0, at(0));
        }
        assert_eq!(meters.size, METERS_SIZE_MAX);
        assert_eq!(meters.meters.len(), METERS_SIZE_MAX / QUOTA_NAME_SIZE_MAX + 1);
    }

    fn untold(meters: &mut Meters, now: Mono) -> Vec<Usage> {
        let (told, next) = meters.tell(None, usize::MAX, now);
        assert_eq!(next, None);
        told
    }
}
