//! Client quotas: what connections of this shard use, held against what they may (`crate::quota` counts).
//!
//! A client that has used too much is answered with the time that it has to wait, and its connection is not
//! read for as long, whether it waits or not (KIP-219). While no quota is set all of this is one branch a
//! request.
//!
//! Of the time of requests what they take on the core of their connection counts, and not what other cores do for
//! them.

use crate::config::quota::{ANONYMOUS, QuotaKind, QuotaLimit, QuotaScope};
use crate::quota::meters::{Meters, Usage};
use crate::quota::rate::Windows;
use crate::shard::Shard;
use crate::shard::conn::Connection;
use crate::shard::controller::MutationLimit;
use crate::shard::event::Signal;
use crate::shard::message::Message;
use crate::types::limits::QUOTA_NAME_SIZE_MAX;
use crate::types::{Mono, ShardId};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// How often shards tell each other what their connections have used. By what others use in that time a quota
/// may be exceeded, once.
const EXCHANGE_INTERVAL: Duration = Duration::from_millis(100);

/// Rates that are looked at before others run: some 100 ns each, and as much for each shard that is told.
const METERS_PER_STEP: usize = 1000;

/// Lives: one per shard.
pub struct Quotas {
    is_set: Cell<bool>,
    /// Counts the changes of the table.
    version: Cell<u64>,
    meters: RefCell<Meters>,
    /// There are some to exchange.
    set: Signal,
}

/// The limits of a client, as the table had them.
pub struct ClientLimits {
    version: u64,
    client_id: String,
    /// In the order of [`QuotaKind::ALL`].
    limits: [Option<(QuotaScope, QuotaLimit)>; QuotaKind::ALL.len()],
}

/// One request of a client, as it counts for the client's quotas.
pub struct Charged {
    shard: Rc<Shard>,
    connection: Rc<Connection>,
    limits: Rc<ClientLimits>,
    /// How long it has held the core.
    spent: Cell<Duration>,
    /// Since when it does, while it does.
    entered: Cell<Option<Mono>>,
    throttle: Cell<Duration>,
}

impl Quotas {
    pub fn new(windows: Windows) -> Quotas {
        Quotas {
            is_set: Cell::new(false),
            version: Cell::new(0),
            meters: RefCell::new(Meters::new(windows)),
            set: Signal::default(),
        }
    }

    /// Whether any client is limited.
    pub fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// How amounts are counted.
    pub fn windows(&self) -> Windows {
        *self.meters.borrow().windows()
    }

    /// The table is another one now. Once nobody is limited, what was used is forgotten.
    pub fn changed(&self, is_set: bool) {
        self.version.set(self.version.get() + 1);
        self.is_set.set(is_set);
        if is_set {
            self.set.notify();
        }
    }

    /// Another shard has told what its connections have used.
    pub fn add(&self, usages: &[Usage], now: Mono) {
        if !self.is_set() {
            return;
        }
        let mut meters = self.meters.borrow_mut();
        usages.iter().for_each(|usage| meters.add(usage, now));
    }
}

impl Shard {
    /// A request of a client that may be limited; `None` while nobody is.
    pub fn charged(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        client_id: Option<&str>,
    ) -> Option<Rc<Charged>> {
        if !self.quotas.is_set() {
            return None;
        }
        let limits = self.limits_of(connection, client_id.unwrap_or_default());
        Some(Rc::new(Charged {
            shard: self.clone(),
            connection: connection.clone(),
            limits,
            spent: Cell::default(),
            entered: Cell::default(),
            throttle: Cell::default(),
        }))
    }

    /// Looked up again only when the table or the client has changed: most connections are of one client.
    fn limits_of(&self, connection: &Connection, client_id: &str) -> Rc<ClientLimits> {
        let client_id = counted(client_id);
        let mut known = connection.limits.borrow_mut();
        let version = self.quotas.version.get();
        match &*known {
            Some(known) if known.version == version && known.client_id == client_id => known.clone(),
            _ => {
                let image = self.image.borrow();
                let limit = |kind| image.quotas().limit(kind, ANONYMOUS, client_id);
                let limits = QuotaKind::ALL.map(limit);
                let found = Rc::new(ClientLimits { version, client_id: client_id.to_owned(), limits });
                *known = Some(found.clone());
                found
            }
        }
    }
}

/// As much of a client id as tells clients apart: those that are longer than any quota's share one rate.
fn counted(client_id: &str) -> &str {
    /// More than a quota can name, whatever the last character takes.
    const SIZE_MAX: usize = QUOTA_NAME_SIZE_MAX + 4;
    &client_id[..client_id.floor_char_boundary(SIZE_MAX)]
}

impl Charged {
    /// Counts bytes of a Produce request.
    pub fn produced(&self, size: usize) {
        self.record(QuotaKind::ProducerByteRate, size as f64);
    }

    /// The most that a fetch may find: more would be throttled whatever was fetched before.
    pub fn fetch_size_max(&self) -> usize {
        let burst = self.shard.quotas.meters.borrow().windows().burst_seconds();
        match self.limit(QuotaKind::ConsumerByteRate) {
            Some((_, limit)) => (limit.get() * burst) as usize, // Saturates.
            None => usize::MAX,
        }
    }

    /// Counts bytes of a Fetch response, and the time that it took. Where that is too much the client gets none
    /// of it, so that none of the bytes counts.
    pub fn fetched(&self, size: usize) -> Duration {
        self.record(QuotaKind::ConsumerByteRate, size as f64);
        self.record_time();
        if self.throttle.get() > Duration::ZERO
            && let Some((scope, _)) = self.limit(QuotaKind::ConsumerByteRate)
        {
            let now = self.shard.clock.mono();
            let mut meters = self.shard.quotas.meters.borrow_mut();
            meters.unrecord(QuotaKind::ConsumerByteRate, scope, size as f64, now);
        }
        self.throttle.get()
    }

    /// Counts the time that the request has held the core so far. At most one window is waited for it (Kafka
    /// `ClientRequestQuotaManager`).
    pub fn record_time(&self) {
        let now = self.shard.clock.mono();
        let running = self.entered.get().map_or(Duration::ZERO, |entered| now.since(entered));
        let percent = (self.spent.get() + running).as_secs_f64() * 100.0;
        self.record(QuotaKind::RequestPercentage, percent);
    }

    /// What the client may create and delete. `is_strict`: what is too much is refused.
    pub fn mutations(&self, is_strict: bool) -> Option<MutationLimit> {
        let (scope, limit) = self.limit(QuotaKind::ControllerMutationRate)?;
        Some(MutationLimit { scope: scope.clone(), limit: *limit, is_strict })
    }

    /// The controller has counted, and says for how long the client has to wait.
    pub fn mutated(&self, throttle_ms: i32) {
        let wait = Duration::from_millis(u64::try_from(throttle_ms).unwrap_or_default());
        self.wait(QuotaKind::ControllerMutationRate, wait, self.shard.clock.mono());
    }

    /// How long the client has to wait; its connection is not read meanwhile.
    pub fn throttle(&self) -> Duration {
        self.throttle.get()
    }

    /// The same as the wire has it.
    pub fn throttle_ms(&self) -> i32 {
        i32::try_from(self.throttle.get().as_millis()).unwrap_or(i32::MAX)
    }

    fn limit(&self, kind: QuotaKind) -> Option<&(QuotaScope, QuotaLimit)> {
        self.limits.limits[kind as usize].as_ref()
    }

    fn record(&self, kind: QuotaKind, amount: f64) {
        let Some((scope, limit)) = self.limit(kind) else { return };
        if !self.shard.quotas.is_set() {
            return; // No longer: nothing is to be left for when it is.
        }
        let now = self.shard.clock.mono();
        let mut meters = self.shard.quotas.meters.borrow_mut();
        let mut wait = meters.record(kind, scope, *limit, amount, now);
        if kind == QuotaKind::RequestPercentage {
            wait = wait.min(meters.windows().size);
        }
        drop(meters);
        // Whole milliseconds, as the client is told.
        let wait = Duration::from_millis(wait.as_secs_f64().mul_add(1000.0, 0.5) as u64);
        self.wait(kind, wait, now);
    }

    fn wait(&self, kind: QuotaKind, wait: Duration, now: Mono) {
        if wait > Duration::ZERO {
            self.throttle.set(self.throttle.get().max(wait));
            self.connection.mute_until(now.after(wait));
            self.shard.metrics.borrow_mut().throttled(kind, wait);
        }
    }

    /// Counts the time that a future holds the core.
    pub async fn timed<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            let entered = self.shard.clock.mono();
            self.entered.set(Some(entered));
            let polled = future.as_mut().poll(context);
            self.entered.set(None);
            self.spent.set(self.spent.get() + self.shard.clock.mono().since(entered));
            polled
        })
        .await
    }
}

/// Tells the other shards what connections of this one have used, for as long as any quota is set.
pub async fn exchange(shard: Rc<Shard>) {
    let quotas = &shard.quotas;
    while !shard.is_stopping() {
        if !quotas.is_set() {
            let is_left = quotas.meters.borrow_mut().forget(METERS_PER_STEP);
            match is_left {
                true => glommio::executor().yield_task_queue_now().await,
                false => quotas.set.notified().await,
            }
            continue;
        }
        glommio::timer::sleep(EXCHANGE_INTERVAL).await;
        let mut after = None;
        loop {
            let (told, next) = quotas.meters.borrow_mut().tell(after, METERS_PER_STEP, shard.clock.mono());
            let others = (0..shard.mesh.shard_count()).map(|at| ShardId(at as u16));
            for other in others.filter(|other| *other != shard.id && !told.is_empty()) {
                shard.mesh.post(other, Message::QuotaUsage(told.clone()));
            }
            if next.is_none() {
                break;
            }
            after = next;
            glommio::executor().yield_task_queue_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_too_long_are_cut_where_no_quota_could_name_them() {
        let fits = "i".repeat(QUOTA_NAME_SIZE_MAX);
        assert_eq!(counted(&fits), fits);
        for letter in ["i", "\u{e9}", "\u{20ac}", "\u{1f600}"] {
            let size = counted(&letter.repeat(32_767 / letter.len())).len();
            assert!((QUOTA_NAME_SIZE_MAX + 1..=QUOTA_NAME_SIZE_MAX + 4).contains(&size), "{letter}: {size}");
        }
    }
}
