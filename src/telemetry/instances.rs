//! Client instances: what each is asked to measure, when it may ask and push, and the newest that it has sent.
//!
//! | event | what follows |
//! |---|---|
//! | asks, too early | `THROTTLING_QUOTA_EXCEEDED`, unless the subscriptions have changed since |
//! | pushes, too early | the same, unless it says that it is its last time |
//! | pushes after its last time | `INVALID_REQUEST` |
//! | pushes under another subscription id | `UNKNOWN_SUBSCRIPTION_ID`: it asks again |
//! | pushes what is too large or no metrics | `TELEMETRY_TOO_LARGE`, `INVALID_RECORD` |
//! | is silent for three intervals | it is forgotten |
//!
//! Source: KIP-714; Kafka `ClientMetricsManager`, `ClientMetricsInstance`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::codec::error_code::ErrorCode;
use crate::config::client_metrics::{ALL_METRICS, Attribute, INTERVAL_DEFAULT, Subscription};
use crate::telemetry::otlp::{OtlpError, Value, read_metrics};
use crate::types::limits::{TELEMETRY_INSTANCES_MAX, TELEMETRY_SERIES_MAX, TELEMETRY_SERIES_NAME_SIZE_MAX};
use crate::types::{Mono, Uuid};

/// The shortest time after which a silent instance is forgotten (Kafka `DEFAULT_CACHE_EXPIRY_MS`).
const EXPIRY_MIN: Duration = Duration::from_secs(60);

/// Who a client says it is, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    pub client_id: String,
    pub software_name: Option<String>,
    pub software_version: Option<String>,
    pub address: String,
    pub port: u16,
}

/// The subscriptions of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    /// Counts their changes.
    pub version: u64,
    pub all: Vec<Subscription>,
}

/// What a client is asked to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub instance: Uuid,
    pub subscription_id: i32,
    pub metrics: Vec<String>,
    pub interval: Duration,
}

/// A push, before its metrics are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Push {
    pub subscription_id: i32,
    pub is_last: bool,
    /// As it was sent, compressed.
    pub size: usize,
}

/// Name and attributes.
pub type SeriesName = (String, Vec<(String, String)>);

/// A client instance as it is shown.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceView {
    pub instance: Uuid,
    pub interval: Duration,
    pub pushes: u64,
    pub series: Vec<(SeriesName, f64)>,
}

#[derive(Debug)]
struct Instance {
    identity: ClientIdentity,
    /// Of the subscriptions that `assigned` was made from.
    version: u64,
    assigned: Assigned,
    last_get: Option<Mono>,
    last_push: Option<Mono>,
    is_terminating: bool,
    expires: Mono,
    pushes: u64,
    series: BTreeMap<SeriesName, f64>,
}

/// Lives: one per shard, with the instances whose ids belong to it.
#[derive(Debug, Default)]
pub struct Instances {
    all: BTreeMap<Uuid, Instance>,
}

impl Instances {
    /// GetTelemetrySubscriptions of an instance.
    pub fn get(
        &mut self,
        id: Uuid,
        identity: ClientIdentity,
        subscriptions: &Subscriptions,
        now: Mono,
    ) -> Result<Assigned, ErrorCode> {
        let instance = self.instance(id, identity, subscriptions, now);
        let last = instance.last_get.max(instance.last_push);
        if last.is_some_and(|last| now.since(last) < instance.assigned.interval) {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        instance.last_get = Some(now);
        Ok(instance.assigned.clone())
    }

    /// Whether an instance may push. Its metrics are looked at only then.
    pub fn begin_push(
        &mut self,
        id: Uuid,
        identity: ClientIdentity,
        push: Push,
        size_max: usize,
        subscriptions: &Subscriptions,
        now: Mono,
    ) -> Result<(), ErrorCode> {
        let instance = self.instance(id, identity, subscriptions, now);
        let was_terminating = std::mem::replace(&mut instance.is_terminating, push.is_last);
        if was_terminating {
            return Err(ErrorCode::InvalidRequest);
        }
        // The first push after a question may come early: clients spread theirs over the interval.
        let is_first = instance.last_get > instance.last_push;
        let interval = instance.assigned.interval;
        let is_due = is_first || instance.last_push.is_none_or(|last| now.since(last) >= interval);
        if is_due {
            instance.last_push = Some(now);
        }
        match push {
            _ if !is_due && !push.is_last => Err(ErrorCode::ThrottlingQuotaExceeded),
            _ if push.subscription_id != instance.assigned.subscription_id => {
                // It asks again, and is answered at once.
                (instance.last_get, instance.last_push) = (None, None);
                Err(ErrorCode::UnknownSubscriptionId)
            }
            _ if push.size > size_max => Err(ErrorCode::TelemetryTooLarge),
            _ => Ok(()),
        }
    }

    /// Takes decompressed metrics of an instance that may push. Of series beyond the bound nothing is kept.
    pub fn take(&mut self, id: Uuid, metrics: &[u8]) -> Result<(), OtlpError> {
        let Some(instance) = self.all.get_mut(&id) else { return Ok(()) }; // Forgotten meanwhile.
        let mut points = Vec::new();
        read_metrics(metrics, |point| {
            let size: usize = point.attributes.iter().map(|(key, value)| key.len() + value.len()).sum();
            let fits = point.metric.len() + size <= TELEMETRY_SERIES_NAME_SIZE_MAX;
            if fits && points.len() < TELEMETRY_SERIES_MAX {
                points.push(point);
            }
        })?;
        for point in points {
            let attributes = point.attributes.into_iter().map(|(key, value)| (key.to_owned(), value));
            let key = (point.metric.to_owned(), attributes.collect());
            if instance.series.len() >= TELEMETRY_SERIES_MAX && !instance.series.contains_key(&key) {
                continue;
            }
            let kept = instance.series.entry(key).or_default();
            match point.value {
                Value::Gauge(value) | Value::Sum { value, is_delta: false } => *kept = value,
                Value::Sum { value, is_delta: true } => *kept += value,
                Value::Distribution { sum, .. } => *kept = sum,
            }
        }
        instance.pushes += 1;
        Ok(())
    }

    /// Forgets those that have been silent for too long.
    pub fn expire(&mut self, now: Mono) {
        self.all.retain(|_, instance| now < instance.expires);
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Those that are behind an address and port.
    pub fn views_of<'a>(&'a self, address: &'a str, port: u16) -> impl Iterator<Item = InstanceView> + 'a {
        let is_there = move |identity: &ClientIdentity| identity.address == address && identity.port == port;
        let there = self.all.iter().filter(move |(_, instance)| is_there(&instance.identity));
        there.map(|(id, instance)| InstanceView {
            instance: *id,
            interval: instance.assigned.interval,
            pushes: instance.pushes,
            series: instance.series.iter().map(|(name, value)| (name.clone(), *value)).collect(),
        })
    }

    fn instance(
        &mut self,
        id: Uuid,
        identity: ClientIdentity,
        subscriptions: &Subscriptions,
        now: Mono,
    ) -> &mut Instance {
        if self.all.len() >= TELEMETRY_INSTANCES_MAX && !self.all.contains_key(&id) {
            self.make_room(now);
        }
        let instance = self.all.entry(id).or_insert_with(|| Instance {
            assigned: assign(id, &identity, subscriptions),
            identity,
            version: subscriptions.version,
            last_get: None,
            last_push: None,
            is_terminating: false,
            expires: now,
            pushes: 0,
            series: BTreeMap::new(),
        });
        if instance.version != subscriptions.version {
            // It is told at once: for that it is as if it had never asked.
            instance.assigned = assign(id, &instance.identity, subscriptions);
            instance.version = subscriptions.version;
            (instance.last_get, instance.last_push) = (None, None);
        }
        instance.expires = now.after(EXPIRY_MIN.max(instance.assigned.interval * 3));
        instance
    }

    /// The one that would be forgotten first goes.
    fn make_room(&mut self, now: Mono) {
        self.expire(now);
        if self.all.len() >= TELEMETRY_INSTANCES_MAX {
            let first = self.all.iter().min_by_key(|(_, instance)| instance.expires);
            let first = first.map(|(id, _)| *id);
            first.map(|id| self.all.remove(&id));
        }
    }
}

/// What all subscriptions together ask of a client: their metrics, as often as the most impatient wants them.
fn assign(id: Uuid, identity: &ClientIdentity, subscriptions: &Subscriptions) -> Assigned {
    let (instance_id, port) = (crate::types::uuid_text(id), identity.port.to_string());
    let attribute = |attribute| match attribute {
        Attribute::InstanceId => Some(instance_id.as_str()),
        Attribute::ClientId => Some(identity.client_id.as_str()),
        Attribute::SoftwareName => identity.software_name.as_deref(),
        Attribute::SoftwareVersion => identity.software_version.as_deref(),
        Attribute::SourceAddress => Some(identity.address.as_str()),
        Attribute::SourcePort => Some(port.as_str()),
    };
    let mut metrics = BTreeSet::new();
    let mut interval = INTERVAL_DEFAULT;
    for subscription in subscriptions.all.iter().filter(|subscription| subscription.is_for(attribute)) {
        metrics.extend(subscription.metrics.iter().cloned());
        interval = interval.min(subscription.interval);
    }
    if metrics.contains(ALL_METRICS) {
        metrics = BTreeSet::from([ALL_METRICS.to_owned()]);
    }
    let metrics: Vec<String> = metrics.into_iter().collect();
    let subscription_id = subscription_id(id, &metrics, interval);
    Assigned { instance: id, subscription_id, metrics, interval }
}

/// Another one whenever metrics or interval are; whose it is, is part of it.
fn subscription_id(id: Uuid, metrics: &[String], interval: Duration) -> i32 {
    let text = format!("{metrics:?}{}", interval.as_millis());
    let bits = id.as_u128();
    let folded = (bits >> 96) ^ (bits >> 64) ^ (bits >> 32) ^ bits;
    (crc32fast::hash(text.as_bytes()) ^ folded as u32) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otlp::tests::{gauge, push};

    fn at(seconds: u64) -> Mono {
        Mono::default().after(Duration::from_secs(1_000 + seconds))
    }

    fn identity(name: &str) -> ClientIdentity {
        ClientIdentity {
            client_id: "app".to_owned(),
            software_name: Some(name.to_owned()),
            software_version: Some("1.0".to_owned()),
            address: "127.0.0.1".to_owned(),
            port: 4711,
        }
    }

    fn subscriptions(version: u64, all: &[&[(&str, &str)]]) -> Subscriptions {
        let parse = |settings: &&[(&str, &str)]| {
            let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Subscription::parse(&settings.collect()).expect("valid")
        };
        Subscriptions { version, all: all.iter().map(parse).collect() }
    }

    const ID: Uuid = Uuid::from_u128(7);

    fn pushed(instances: &mut Instances, id: i32, subs: &Subscriptions, now: Mono) -> Result<(), ErrorCode> {
        let push = Push { subscription_id: id, is_last: false, size: 100 };
        instances.begin_push(ID, identity("a"), push, 1000, subs, now)
    }

    #[test]
    fn clients_get_what_their_subscriptions_add_up_to() {
        let subs = subscriptions(
            1,
            &[
                &[("metrics", "a.,b."), ("interval.ms", "60000"), ("match", "client_software_name=one")],
                &[("metrics", "b.,c."), ("interval.ms", "30000")],
                &[("metrics", "*"), ("interval.ms", "1000"), ("match", "client_id=other")],
            ],
        );
        let mut instances = Instances::default();
        let one = instances.get(ID, identity("one"), &subs, at(0)).expect("the first time");
        assert_eq!(
            (one.metrics.as_slice(), one.interval.as_secs()),
            (&["a.", "b.", "c."].map(str::to_owned)[..], 30)
        );
        let two = instances.get(Uuid::from_u128(8), identity("two"), &subs, at(0)).expect("the first time");
        assert_eq!(two.metrics, ["b.", "c."]);
        assert_ne!(one.subscription_id, two.subscription_id);
        let all = ClientIdentity { client_id: "other".to_owned(), ..identity("two") };
        let three = instances.get(Uuid::from_u128(9), all, &subs, at(0)).expect("the first time");
        assert_eq!((three.metrics.as_slice(), three.interval.as_secs()), (&["*".to_owned()][..], 1));
        let none = Instances::default().get(ID, identity("a"), &Subscriptions::default(), at(0));
        assert_eq!(none.map(|none| (none.metrics.len(), none.interval)), Ok((0, INTERVAL_DEFAULT)));
    }

    #[test]
    fn who_comes_early_is_sent_away() {
        let subs = subscriptions(1, &[&[("metrics", "a."), ("interval.ms", "10000")]]);
        let mut instances = Instances::default();
        let assigned = instances.get(ID, identity("a"), &subs, at(0)).expect("the first time");
        let early = Err(ErrorCode::ThrottlingQuotaExceeded);
        assert_eq!(instances.get(ID, identity("a"), &subs, at(9)), early.map(|()| assigned.clone()));
        // The first push after a question may be early, the next may not.
        assert_eq!(pushed(&mut instances, assigned.subscription_id, &subs, at(5)), Ok(()));
        assert_eq!(pushed(&mut instances, assigned.subscription_id, &subs, at(14)), early);
        assert_eq!(pushed(&mut instances, assigned.subscription_id, &subs, at(15)), Ok(()));
        // Changed subscriptions are told at once.
        let changed = subscriptions(2, &[&[("metrics", "b."), ("interval.ms", "10000")]]);
        let next = instances.get(ID, identity("a"), &changed, at(16)).expect("it is told at once");
        assert_ne!(next.subscription_id, assigned.subscription_id);
        assert_eq!(
            pushed(&mut instances, assigned.subscription_id, &changed, at(17)),
            Err(ErrorCode::UnknownSubscriptionId)
        );
    }

    #[test]
    fn the_last_push_is_never_too_early_and_is_the_last() {
        let subs = subscriptions(1, &[&[("metrics", "a.")]]);
        let mut instances = Instances::default();
        let id = instances.get(ID, identity("a"), &subs, at(0)).expect("the first time").subscription_id;
        assert_eq!(pushed(&mut instances, id, &subs, at(1)), Ok(()));
        let last = Push { subscription_id: id, is_last: true, size: 100 };
        assert_eq!(instances.begin_push(ID, identity("a"), last, 1000, &subs, at(2)), Ok(()));
        assert_eq!(pushed(&mut instances, id, &subs, at(900)), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn too_much_is_refused_and_what_is_taken_is_kept() {
        let subs = subscriptions(1, &[&[("metrics", "*"), ("interval.ms", "1000")]]);
        let mut instances = Instances::default();
        let id = instances.get(ID, identity("a"), &subs, at(0)).expect("the first time").subscription_id;
        let large = Push { subscription_id: id, is_last: false, size: 1001 };
        let refused = instances.begin_push(ID, identity("a"), large, 1000, &subs, at(1));
        assert_eq!(refused, Err(ErrorCode::TelemetryTooLarge));
        assert_eq!(pushed(&mut instances, id, &subs, at(2)), Ok(()));
        assert_eq!(instances.take(ID, &push("m", &gauge(2.5))), Ok(()));
        assert!(instances.take(ID, b"no metrics").is_err());
        let views: Vec<_> = instances.views_of("127.0.0.1", 4711).collect();
        assert_eq!(instances.views_of("127.0.0.1", 4712).count(), 0);
        assert_eq!((views.len(), views[0].pushes), (1, 1));
        let attributes = vec![("node_id".to_owned(), "1".to_owned())];
        assert_eq!(views[0].series, [(("m".to_owned(), attributes), 2.5)]);
        instances.expire(at(61));
        assert_eq!(instances.count(), 1);
        instances.expire(at(62));
        assert_eq!(instances.count(), 0);
    }
}
