//! Client instances: what each is asked to measure, when it may ask and push, and the newest that it has sent.
//!
//! | event | what follows |
//! |---|---|
//! | asks, too early | `THROTTLING_QUOTA_EXCEEDED`, unless the subscriptions have changed since |
//! | pushes, too early | the same, unless it says that it is its last time |
//! | pushes after its last time | `INVALID_REQUEST` |
//! | pushes under another subscription id | `UNKNOWN_SUBSCRIPTION_ID`: it asks again, at once if it did not lately |
//! | pushes what is too large or no metrics | `TELEMETRY_TOO_LARGE`, `INVALID_RECORD` |
//! | is silent for three intervals | it is forgotten |
//!
//! What is kept is bounded for all instances together: ids of instances are the clients' to make up. Nothing is
//! kept of metrics that nobody has subscribed to.
//!
//! Source: KIP-714; Kafka `ClientMetricsManager`, `ClientMetricsInstance`.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use crate::codec::error_code::ErrorCode;
use crate::config::client_metrics::{ALL_METRICS, Attribute, INTERVAL_DEFAULT, Subscription};
use crate::telemetry::otlp::{OtlpError, Value, read_metrics};
use crate::types::limits::{
    TELEMETRY_INSTANCES_MAX, TELEMETRY_INSTANCES_SHOWN_MAX, TELEMETRY_SERIES_MAX, TELEMETRY_SERIES_SIZE_MAX,
    TELEMETRY_SIZE_MAX,
};
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
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// Counts their changes.
    version: u64,
    /// By name, each with the settings that it was made from.
    all: BTreeMap<String, (BTreeMap<String, String>, Subscription)>,
}

impl Subscriptions {
    /// They are these now. Compiles the patterns of those that have changed alone, whose names it returns.
    pub fn update<'a>(
        &mut self,
        subscriptions: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    ) -> Vec<&'a str> {
        let mut before = std::mem::take(&mut self.all);
        let mut made = Vec::new();
        for (name, settings) in subscriptions {
            let known = match before.remove_entry(name) {
                Some(known) if known.1.0 == *settings => Some(known),
                Some(_) | None => {
                    made.push(name);
                    // They were checked before they were committed; those of another build may be none.
                    let parsed = Subscription::parse(settings).ok();
                    parsed.map(|parsed| (name.to_owned(), (settings.clone(), parsed)))
                }
            };
            self.all.extend(known);
        }
        self.version += 1;
        made
    }
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

/// What a push says of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub name: SeriesName,
    pub value: Value,
}

/// Bytes that a series takes, its name and attributes apart, and each of these.
const SERIES_OVERHEAD: usize = 100;
const ATTRIBUTE_OVERHEAD: usize = 64;

#[derive(Debug)]
struct Instance {
    identity: ClientIdentity,
    /// Of the subscriptions that it was assigned from.
    version: u64,
    subscription_id: i32,
    /// Shared by those that have the same.
    metrics: Rc<[String]>,
    interval: Duration,
    last_get: Option<Mono>,
    last_push: Option<Mono>,
    /// Its next question may come early: it was told to ask.
    may_ask: bool,
    /// When it was last told so for a reason that is its own.
    last_told: Option<Mono>,
    is_terminating: bool,
    expires: Mono,
    pushes: u64,
    series: BTreeMap<SeriesName, f64>,
}

/// Lives: one per shard, with the instances whose ids belong to it.
#[derive(Debug, Default)]
pub struct Instances {
    all: BTreeMap<Uuid, Instance>,
    /// What any of them was assigned.
    lists: BTreeSet<Rc<[String]>>,
    /// Bytes of all series.
    size: usize,
}

/// The series of decompressed metrics that somebody has asked for, as many and as large as may be kept of one
/// instance.
///
/// Shape: O(bytes), some milliseconds for a megabyte.
pub fn read_series(metrics: &[u8], asked: &[String]) -> Result<Vec<Measured>, OtlpError> {
    let mut found = Vec::new();
    read_metrics(metrics, |point| {
        if found.len() >= TELEMETRY_SERIES_MAX || !is_asked(point.metric, asked) {
            return;
        }
        let attributes = point.attributes.into_iter().map(|(key, value)| (key.to_owned(), value));
        let name = (point.metric.to_owned(), attributes.collect());
        if size_of(&name) <= TELEMETRY_SERIES_SIZE_MAX {
            found.push(Measured { name, value: point.value });
        }
    })?;
    Ok(found)
}

/// Names are asked for by their beginnings.
fn is_asked(metric: &str, asked: &[String]) -> bool {
    asked.iter().any(|asked| asked == ALL_METRICS || metric.starts_with(asked.as_str()))
}

/// Bytes that a series takes.
fn size_of((metric, attributes): &SeriesName) -> usize {
    let attributes = attributes.iter().map(|(key, value)| key.len() + value.len() + ATTRIBUTE_OVERHEAD);
    SERIES_OVERHEAD + metric.len() + attributes.sum::<usize>()
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
        let is_due = last.is_none_or(|last| now.since(last) >= instance.interval);
        if !std::mem::take(&mut instance.may_ask) && !is_due {
            return Err(ErrorCode::ThrottlingQuotaExceeded);
        }
        instance.last_get = Some(now);
        Ok(Assigned {
            instance: id,
            subscription_id: instance.subscription_id,
            metrics: instance.metrics.to_vec(),
            interval: instance.interval,
        })
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
        let interval = instance.interval;
        let is_due = is_first || instance.last_push.is_none_or(|last| now.since(last) >= interval);
        if is_due {
            instance.last_push = Some(now);
        }
        match push {
            _ if !is_due && !push.is_last => Err(ErrorCode::ThrottlingQuotaExceeded),
            _ if push.subscription_id != instance.subscription_id => {
                instance.tell_to_ask(now);
                Err(ErrorCode::UnknownSubscriptionId)
            }
            _ if push.size > size_max => Err(ErrorCode::TelemetryTooLarge),
            _ => Ok(()),
        }
    }

    /// An instance has pushed in a way that it would not have, had it asked.
    pub fn tell_to_ask(&mut self, id: Uuid, now: Mono) {
        if let Some(instance) = self.all.get_mut(&id) {
            instance.tell_to_ask(now);
        }
    }

    /// What an instance was asked for.
    pub fn asked(&self, id: Uuid) -> Vec<String> {
        self.all.get(&id).map_or_else(Vec::new, |instance| instance.metrics.to_vec())
    }

    /// A push of an instance was read; its series follow.
    pub fn pushed(&mut self, id: Uuid) {
        if let Some(instance) = self.all.get_mut(&id) {
            instance.pushes += 1;
        }
    }

    /// Keeps the values of series that an instance has pushed. Of series beyond the bounds nothing is kept.
    pub fn keep(&mut self, id: Uuid, series: impl Iterator<Item = Measured>) {
        let Some(instance) = self.all.get_mut(&id) else { return }; // Forgotten meanwhile.
        for Measured { name, value } in series {
            let size = size_of(&name);
            let is_full =
                instance.series.len() >= TELEMETRY_SERIES_MAX || self.size + size > TELEMETRY_SIZE_MAX;
            let kept = match instance.series.get_mut(&name) {
                Some(kept) => kept,
                None if is_full => continue,
                None => {
                    self.size += size;
                    instance.series.entry(name).or_default()
                }
            };
            match value {
                Value::Gauge(value) | Value::Sum { value, is_delta: false } => *kept = value,
                Value::Sum { value, is_delta: true } => *kept += value,
                Value::Distribution { sum, .. } => *kept = sum,
            }
        }
    }

    /// Forgets up to `count_max` of those that have been silent for too long. False if there are no more of them.
    pub fn expire(&mut self, now: Mono, count_max: usize) -> bool {
        let over = self.all.iter().filter(|(_, instance)| now >= instance.expires);
        let over: Vec<Uuid> = over.map(|(id, _)| *id).take(count_max).collect();
        over.iter().for_each(|id| self.forget(*id));
        self.lists.retain(|list| Rc::strong_count(list) > 1);
        over.len() == count_max
    }

    fn forget(&mut self, id: Uuid) {
        if let Some(instance) = self.all.remove(&id) {
            self.size -= instance.series.keys().map(size_of).sum::<usize>();
        }
    }

    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Those that are behind an address and port, of many the first: there is one, as a client has it.
    pub fn views_of<'a>(&'a self, address: &'a str, port: u16) -> impl Iterator<Item = InstanceView> + 'a {
        let is_there = move |identity: &ClientIdentity| identity.address == address && identity.port == port;
        let there = self.all.iter().filter(move |(_, instance)| is_there(&instance.identity));
        there.take(TELEMETRY_INSTANCES_SHOWN_MAX).map(|(id, instance)| InstanceView {
            instance: *id,
            interval: instance.interval,
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
            self.make_room();
        }
        let lists = &mut self.lists;
        let instance = match self.all.entry(id) {
            Entry::Occupied(known) => {
                let instance = known.into_mut();
                instance.identity = identity; // It may have connected anew.
                if instance.version != subscriptions.version {
                    // It is told at once: for that it is as if it had never asked.
                    instance.assign(id, lists, subscriptions);
                    (instance.last_get, instance.last_push) = (None, None);
                    if instance.metrics.is_empty() {
                        let gone = std::mem::take(&mut instance.series);
                        self.size -= gone.keys().map(size_of).sum::<usize>();
                    }
                }
                instance
            }
            Entry::Vacant(new) => {
                let instance = new.insert(Instance {
                    identity,
                    version: subscriptions.version,
                    subscription_id: 0,
                    metrics: Rc::default(),
                    interval: INTERVAL_DEFAULT,
                    last_get: None,
                    last_push: None,
                    may_ask: false,
                    last_told: None,
                    is_terminating: false,
                    expires: now,
                    pushes: 0,
                    series: BTreeMap::new(),
                });
                instance.assign(id, lists, subscriptions);
                instance
            }
        };
        instance.expires = now.after(EXPIRY_MIN.max(instance.interval * 3));
        instance
    }

    /// The one that would be forgotten first goes.
    fn make_room(&mut self) {
        let first = self.all.iter().min_by_key(|(_, instance)| instance.expires);
        let first = first.map(|(id, _)| *id);
        first.into_iter().for_each(|id| self.forget(id));
    }
}

impl Instance {
    fn assign(&mut self, id: Uuid, lists: &mut BTreeSet<Rc<[String]>>, subscriptions: &Subscriptions) {
        let (metrics, interval) = assign(id, &self.identity, subscriptions);
        self.subscription_id = subscription_id(id, &metrics, interval);
        self.metrics = match lists.get(&metrics[..]) {
            Some(known) => known.clone(),
            None => {
                let list: Rc<[String]> = metrics.into();
                lists.insert(list.clone());
                list
            }
        };
        self.interval = interval;
        self.version = subscriptions.version;
    }

    /// Its next question is answered at once, but for one in an interval: what it pushes is its own to choose.
    fn tell_to_ask(&mut self, now: Mono) {
        if self.last_told.is_none_or(|last| now.since(last) >= self.interval) {
            self.last_told = Some(now);
            self.may_ask = true;
        }
    }
}

/// What all subscriptions together ask of a client: their metrics, as often as the most impatient wants them.
fn assign(id: Uuid, identity: &ClientIdentity, subscriptions: &Subscriptions) -> (Vec<String>, Duration) {
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
    let all = subscriptions.all.values().map(|(_, subscription)| subscription);
    for subscription in all.filter(|subscription| subscription.is_for(attribute)) {
        metrics.extend(subscription.metrics.iter().cloned());
        interval = interval.min(subscription.interval);
    }
    if metrics.contains(ALL_METRICS) {
        metrics = BTreeSet::from([ALL_METRICS.to_owned()]);
    }
    (metrics.into_iter().collect(), interval)
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
    use crate::telemetry::otlp::tests::{gauge, nested, push};

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

    fn settings(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn subscriptions(version: u64, all: &[&[(&str, &str)]]) -> Subscriptions {
        let all: Vec<_> = all.iter().enumerate().map(|(at, it)| (at.to_string(), settings(it))).collect();
        let mut subscriptions = Subscriptions { version: version - 1, ..Subscriptions::default() };
        subscriptions.update(all.iter().map(|(name, settings)| (name.as_str(), settings)));
        assert_eq!(subscriptions.all.len(), all.len(), "they are valid");
        subscriptions
    }

    #[test]
    fn only_subscriptions_that_have_changed_are_made_anew() {
        let mut subscriptions = Subscriptions::default();
        let (one, two) = (settings(&[("metrics", "a")]), settings(&[("match", "client_id=b")]));
        let invalid = settings(&[("match", "client_id=(")]);
        assert_eq!(subscriptions.update([("1", &one), ("2", &two)].into_iter()), ["1", "2"]);
        assert_eq!(subscriptions.update([("1", &one), ("2", &one), ("3", &two)].into_iter()), ["2", "3"]);
        assert_eq!(subscriptions.update([("3", &two), ("4", &invalid)].into_iter()), ["4"]);
        let names: Vec<&str> = subscriptions.all.keys().map(String::as_str).collect();
        assert_eq!((names, subscriptions.version), (vec!["3"], 3));
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
        assert_eq!(taken(&mut instances, ID, &push("m", &gauge(2.5))), Ok(()));
        assert!(taken(&mut instances, ID, b"no metrics").is_err());
        let views: Vec<_> = instances.views_of("127.0.0.1", 4711).collect();
        assert_eq!(instances.views_of("127.0.0.1", 4712).count(), 0);
        assert_eq!((views.len(), views[0].pushes), (1, 1));
        let attributes = vec![("node_id".to_owned(), "1".to_owned())];
        assert_eq!(views[0].series, [(("m".to_owned(), attributes), 2.5)]);
        instances.expire(at(61), 10);
        assert_eq!(instances.count(), 1);
        instances.expire(at(62), 10);
        assert_eq!((instances.count(), instances.size, instances.lists.len()), (0, 0, 0));
    }

    /// As the shell does it.
    fn taken(instances: &mut Instances, id: Uuid, metrics: &[u8]) -> Result<(), OtlpError> {
        let series = read_series(metrics, &instances.asked(id))?;
        instances.pushed(id);
        instances.keep(id, series.into_iter());
        Ok(())
    }

    fn names(instances: &Instances) -> Vec<String> {
        let views = instances.views_of("127.0.0.1", 4711);
        views.flat_map(|view| view.series).map(|((metric, _), _)| metric).collect()
    }

    #[test]
    fn nothing_is_kept_that_nobody_has_asked_for() {
        let mut instances = Instances::default();
        let nobody = Subscriptions::default();
        instances.get(ID, identity("a"), &nobody, at(0)).expect("the first time");
        assert_eq!(taken(&mut instances, ID, &push("a.one", &gauge(1.0))), Ok(()));
        assert_eq!((names(&instances), instances.size), (vec![], 0));
        let some = subscriptions(1, &[&[("metrics", "a.,b.two")]]);
        instances.get(ID, identity("a"), &some, at(1)).expect("it is told at once");
        for name in ["a.one", "b.two.three", "b.one", "other"] {
            assert_eq!(taken(&mut instances, ID, &push(name, &gauge(1.0))), Ok(()));
        }
        assert_eq!(names(&instances), ["a.one", "b.two.three"]);
        instances.get(ID, identity("a"), &subscriptions(2, &[]), at(2)).expect("the same");
        assert_eq!((names(&instances), instances.size), (vec![], 0), "nobody does any more");
    }

    #[test]
    fn instances_together_keep_no_more_than_they_may() {
        let subs = subscriptions(1, &[&[("metrics", "*")]]);
        let mut instances = Instances::default();
        let series = |number: usize| {
            let value = "v".repeat(TELEMETRY_SERIES_SIZE_MAX - SERIES_OVERHEAD - ATTRIBUTE_OVERHEAD - 5);
            let name = (format!("{number:04}"), vec![("k".to_owned(), value)]);
            Measured { name, value: Value::Gauge(1.0) }
        };
        let id = |number: usize| Uuid::from_u128(100 + number as u128);
        let each = TELEMETRY_SERIES_MAX * TELEMETRY_SERIES_SIZE_MAX;
        let last = TELEMETRY_SIZE_MAX / each;
        for number in 0..=last {
            instances.get(id(number), identity("a"), &subs, at(number as u64)).expect("the first time");
            instances.keep(id(number), (0..=TELEMETRY_SERIES_MAX).map(series));
        }
        assert_eq!(
            instances.size,
            TELEMETRY_SIZE_MAX / TELEMETRY_SERIES_SIZE_MAX * TELEMETRY_SERIES_SIZE_MAX
        );
        let kept = instances.all[&id(last)].series.len();
        assert!(kept < TELEMETRY_SERIES_MAX, "there is no room for more");
        let newer = Measured { value: Value::Gauge(2.0), ..series(0) };
        instances.keep(id(0), std::iter::once(newer));
        assert_eq!(instances.all[&id(0)].series.first_key_value().map(|(_, value)| *value), Some(2.0));
        // A few at a time; then there is room again.
        let silent = at(10_000);
        instances.get(id(last), identity("a"), &subs, silent).expect("after so long");
        let mut steps = 1;
        while instances.expire(silent, 2) {
            steps += 1;
        }
        assert_eq!((instances.count(), steps), (1, last / 2 + 1));
        instances.keep(id(last), (0..TELEMETRY_SERIES_MAX).map(series));
        assert_eq!(instances.size, each);
    }

    #[test]
    fn attributes_count_for_what_they_take() {
        let asked = [ALL_METRICS.to_owned()];
        let of_attributes = |count: usize| {
            let attribute = |_| {
                let value = nested(1, b"");
                nested(7, &[nested(1, b"k"), nested(2, &value)].concat())
            };
            push("m", &nested(5, &nested(1, &(0..count).flat_map(attribute).collect::<Vec<u8>>())))
        };
        let most = (TELEMETRY_SERIES_SIZE_MAX - SERIES_OVERHEAD - 1) / (ATTRIBUTE_OVERHEAD + 1);
        assert_eq!(read_series(&of_attributes(most), &asked).map(|series| series.len()), Ok(1));
        assert_eq!(read_series(&of_attributes(most + 1), &asked), Ok(vec![]));
    }

    /// Asking is answered at once after it, once in an interval, and pushing is not.
    #[test]
    fn a_wrong_subscription_id_does_not_make_the_next_push_due() {
        let subs = subscriptions(1, &[&[("metrics", "a."), ("interval.ms", "100000")]]);
        let mut instances = Instances::default();
        let wrong =
            instances.get(ID, identity("a"), &subs, at(0)).expect("the first time").subscription_id + 1;
        let unknown = Err(ErrorCode::UnknownSubscriptionId);
        let early = Err(ErrorCode::ThrottlingQuotaExceeded);
        assert_eq!(pushed(&mut instances, wrong, &subs, at(1)), unknown);
        assert_eq!(pushed(&mut instances, wrong, &subs, at(2)), early);
        assert!(instances.get(ID, identity("a"), &subs, at(3)).is_ok(), "it was told to ask");
        assert_eq!(instances.get(ID, identity("a"), &subs, at(4)).map(drop), early, "once");
        assert_eq!(pushed(&mut instances, wrong, &subs, at(5)), unknown, "the first after a question");
        assert_eq!(instances.get(ID, identity("a"), &subs, at(6)).map(drop), early);
        assert_eq!(pushed(&mut instances, wrong, &subs, at(7)), early);
        assert_eq!(pushed(&mut instances, wrong, &subs, at(105)), unknown);
        assert!(instances.get(ID, identity("a"), &subs, at(106)).is_ok());
    }

    #[test]
    fn an_instance_is_found_where_it_is_connected_now() {
        let subs = subscriptions(1, &[&[("metrics", "*")]]);
        let mut instances = Instances::default();
        let id = instances.get(ID, identity("a"), &subs, at(0)).expect("the first time").subscription_id;
        let elsewhere = ClientIdentity { port: 4712, ..identity("a") };
        let push = Push { subscription_id: id, is_last: false, size: 1 };
        assert_eq!(instances.begin_push(ID, elsewhere, push, 1000, &subs, at(1)), Ok(()));
        let count = |port| instances.views_of("127.0.0.1", port).count();
        assert_eq!((count(4711), count(4712)), (0, 1));
    }
}
