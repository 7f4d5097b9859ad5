//! Changes of the metadata that clients may make, as buckets of tokens (KIP-599).
//!
//! A bucket holds what its limit gives in all windows together, and is filled at that rate. A change is let through
//! while there is nothing owed, however large it is, and may leave the bucket owing: until that is made up, the
//! next ones wait. Source: Kafka `TokenBucket`, `ControllerMutationQuotaManager`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::quota::{QuotaLimit, QuotaScope};
use crate::quota::rate::Windows;
use crate::types::Mono;

/// Lives: one, where changes are decided.
#[derive(Debug, Default)]
pub struct Buckets {
    /// Those that are not full.
    all: BTreeMap<QuotaScope, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    limit: f64,
    at: Mono,
}

impl Bucket {
    fn tokens_at(&self, now: Mono) -> f64 {
        self.limit.mul_add(now.since(self.at).as_secs_f64(), self.tokens)
    }
}

fn burst(limit: f64, windows: &Windows) -> f64 {
    limit * f64::from(windows.count) * windows.size.as_secs_f64()
}

impl Buckets {
    /// What those who share a limit have left; below zero: they owe it.
    pub fn tokens(&self, scope: &QuotaScope, limit: QuotaLimit, windows: &Windows, now: Mono) -> f64 {
        let full = burst(limit.get(), windows);
        self.all.get(scope).map_or(full, |bucket| bucket.tokens_at(now).min(full))
    }

    /// So many are left. How long until nothing is owed.
    pub fn leave(
        &mut self,
        scope: &QuotaScope,
        limit: QuotaLimit,
        tokens: f64,
        windows: &Windows,
        now: Mono,
    ) -> Duration {
        self.all.retain(|_, bucket| bucket.tokens_at(now) < burst(bucket.limit, windows));
        self.all.insert(scope.clone(), Bucket { tokens, limit: limit.get(), at: now });
        Duration::try_from_secs_f64((-tokens / limit.get()).max(0.0)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows = Windows { count: 5, size: Duration::from_secs(2) };

    fn at(seconds: u64) -> Mono {
        Mono::default().after(Duration::from_secs(1_000 + seconds))
    }

    #[test]
    fn what_is_owed_is_made_up_at_the_limits_rate() {
        let scope = QuotaScope { user: None, client_id: Some("c".to_owned()) };
        let limit = QuotaLimit::new(3.0).expect("a limit");
        let mut buckets = Buckets::default();
        assert_eq!(buckets.tokens(&scope, limit, &WINDOWS, at(0)), 30.0, "it begins full");
        assert_eq!(buckets.leave(&scope, limit, 10.0, &WINDOWS, at(0)), Duration::ZERO);
        assert_eq!(buckets.tokens(&scope, limit, &WINDOWS, at(2)), 16.0);
        assert_eq!(buckets.leave(&scope, limit, -24.0, &WINDOWS, at(2)), Duration::from_secs(8));
        assert_eq!(buckets.tokens(&scope, limit, &WINDOWS, at(9)), -3.0);
        assert_eq!(buckets.tokens(&scope, limit, &WINDOWS, at(1_000)), 30.0, "it never holds more");
    }

    #[test]
    fn full_ones_are_forgotten() {
        let scope = |name: &str| QuotaScope { user: Some(name.to_owned()), client_id: None };
        let limit = QuotaLimit::new(1.0).expect("a limit");
        let mut buckets = Buckets::default();
        buckets.leave(&scope("a"), limit, 9.0, &WINDOWS, at(0));
        buckets.leave(&scope("b"), limit, -5.0, &WINDOWS, at(1));
        assert_eq!(buckets.all.len(), 1);
        buckets.leave(&scope("c"), limit, 0.0, &WINDOWS, at(2));
        assert_eq!(buckets.all.len(), 2);
    }
}
