//! How far groups are behind: in records, and in time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, TopicName};
use odradek::metrics::names::error_name;
use serde_json::{Value, json};

use super::times::{Written, written};
use crate::cli::Failure;
use crate::cli::brokers::{Address, Cluster, KeyType, LATEST, Place, text};
use crate::cli::client::Client;
use crate::cli::table::Table;

/// Where a group is in a partition.
#[derive(Debug)]
pub struct Progress {
    place: Place,
    /// `None`: its members have the partition, and nothing is committed for it.
    committed: Option<i64>,
    end: Option<i64>,
    /// How long ago the record was written that is next; 0 where there is none.
    lag_seconds: Option<f64>,
}

/// How far a whole group is behind: all records, and the most seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    pub records: Option<i64>,
    pub seconds: Option<f64>,
}

impl Progress {
    fn new(place: Place, committed: Option<i64>) -> Progress {
        Progress { place, committed, end: None, lag_seconds: None }
    }

    fn lag(&self) -> Option<i64> {
        Some((self.end? - self.committed?).max(0))
    }

    pub fn json(&self) -> Value {
        json!({
            "topic": self.place.0,
            "partition": self.place.1,
            "committed": self.committed,
            "end": self.end,
            "lag": self.lag(),
            "lag_seconds": self.lag_seconds,
        })
    }
}

/// Of one group: what it has committed, and partitions that it has without.
pub fn of_group(
    cluster: &mut Cluster,
    id: &str,
    assigned: &BTreeSet<Place>,
) -> Result<Vec<Progress>, Failure> {
    let client = cluster.coordinator_of(KeyType::Group, id)?;
    let mut committed =
        committed(client, std::slice::from_ref(&id.to_string()))?.remove(id).unwrap_or_default();
    for place in assigned {
        committed.entry(place.clone()).or_insert(None);
    }
    let mut progress: Vec<_> =
        committed.into_iter().map(|(place, committed)| Progress::new(place, committed)).collect();
    measure(cluster, progress.iter_mut().collect())?;
    Ok(progress)
}

/// Of all groups that brokers coordinate; those without a committed offset are not behind.
pub fn lags(
    cluster: &mut Cluster,
    coordinated: &BTreeMap<Address, Vec<String>>,
) -> Result<BTreeMap<String, Lag>, Failure> {
    let mut groups: Vec<(String, Vec<Progress>)> = Vec::new();
    for ((host, port), ids) in coordinated.iter().filter(|(_, ids)| !ids.is_empty()) {
        for (id, committed) in committed(cluster.broker(host, *port)?, ids)? {
            let progress = committed.into_iter().map(|(place, committed)| Progress::new(place, committed));
            groups.push((id, progress.collect()));
        }
    }
    measure(cluster, groups.iter_mut().flat_map(|(_, progress)| progress).collect())?;
    Ok(groups.into_iter().map(|(id, progress)| (id, in_all(&progress))).collect())
}

fn in_all(progress: &[Progress]) -> Lag {
    let records = progress.iter().filter_map(Progress::lag).reduce(i64::saturating_add);
    let seconds = progress.iter().filter_map(|progress| progress.lag_seconds).reduce(f64::max);
    Lag { records, seconds }
}

type Committed = BTreeMap<Place, Option<i64>>;

/// What groups of one coordinator have committed.
fn committed(client: &mut Client, ids: &[String]) -> Result<BTreeMap<String, Committed>, Failure> {
    /// From here on several groups are asked for at once.
    const GROUPS_SINCE: i16 = 8;
    /// The last version that has names of topics.
    const VERSION_MAX: i16 = 9;
    /// Groups in one request.
    const GROUPS_MAX: usize = 200;
    let mut committed: BTreeMap<String, Committed> = BTreeMap::new();
    let mut remaining = ids;
    while !remaining.is_empty() {
        let mut asked = 1;
        let response = client.send_up_to(VERSION_MAX, |version| match version {
            GROUPS_SINCE.. => {
                asked = remaining.len().min(GROUPS_MAX);
                let groups = remaining[..asked].iter().map(|id| {
                    OffsetFetchRequestGroup::default().with_group_id(GroupId(text(id))).with_topics(None)
                });
                OffsetFetchRequest::default().with_groups(groups.collect())
            }
            _ => OffsetFetchRequest::default().with_group_id(GroupId(text(&remaining[0]))).with_topics(None),
        })?;
        if response.error_code != 0 {
            return Err(format!("{}: {}", remaining[0], error_name(response.error_code)).into());
        }
        let mut add = |id: &str, topic: &TopicName, index: i32, offset: i64| {
            // What is committed in an open transaction only, the broker calls -1.
            if offset >= 0 {
                let group = committed.entry(id.to_string()).or_default();
                group.insert((topic.to_string(), index), Some(offset));
            }
        };
        for topic in &response.topics {
            let partitions = topic.partitions.iter();
            partitions.for_each(|p| add(&remaining[0], &topic.name, p.partition_index, p.committed_offset));
        }
        for group in &response.groups {
            if group.error_code != 0 {
                return Err(format!("{}: {}", &*group.group_id.0, error_name(group.error_code)).into());
            }
            for topic in &group.topics {
                let partitions = topic.partitions.iter();
                partitions
                    .for_each(|p| add(&group.group_id, &topic.name, p.partition_index, p.committed_offset));
            }
        }
        remaining = &remaining[asked..];
    }
    Ok(committed)
}

/// Finds the ends of the partitions, and when what is to be read next was written.
fn measure(cluster: &mut Cluster, mut progress: Vec<&mut Progress>) -> Result<(), Failure> {
    let ends = cluster.look_up(&progress.iter().map(|progress| progress.place.clone()).collect(), LATEST)?;
    for progress in &mut progress {
        progress.end = ends.get(&progress.place).copied();
    }
    let behind = progress.iter().filter(|progress| progress.lag() > Some(0));
    let wanted = behind.filter_map(|progress| Some((progress.place.clone(), progress.committed?)));
    let written = written(cluster, &wanted.collect())?;
    let now_ms = now_ms();
    for progress in &mut progress {
        let Some((committed, end)) = progress.committed.zip(progress.end) else { continue };
        progress.lag_seconds = match written.get(&(progress.place.clone(), committed)) {
            Some(Written::At(time_ms)) => Some((now_ms - time_ms).max(0) as f64 / 1000.0),
            Some(Written::Nothing) => Some(0.0),
            // Beyond its end: the topic is another one than that which was read.
            None => (committed == end).then_some(0.0),
        };
    }
    Ok(())
}

pub fn shown(progress: &[Progress]) -> String {
    if progress.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "LAG-SECONDS"]);
    for progress in progress {
        let (topic, partition) = &progress.place;
        table.row(&[
            topic,
            &partition.to_string(),
            &number(progress.committed),
            &number(progress.end),
            &number(progress.lag()),
            &seconds(progress.lag_seconds),
        ]);
    }
    table.to_string()
}

pub fn number(number: Option<i64>) -> String {
    number.map_or("-".to_string(), |number| number.to_string())
}

pub fn seconds(seconds: Option<f64>) -> String {
    seconds.map_or("-".to_string(), |seconds| format!("{seconds:.1}"))
}

#[expect(clippy::disallowed_methods, reason = "a command tells how long ago something was written")]
fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_behind_by_all_records_and_the_most_seconds() {
        let at = |committed, end, lag_seconds| Progress {
            place: ("t".to_string(), 0),
            committed,
            end,
            lag_seconds,
        };
        let known = [at(Some(2), Some(5), Some(7.5)), at(Some(4), Some(4), Some(0.0))];
        assert_eq!(in_all(&known), Lag { records: Some(3), seconds: Some(7.5) });
        let partly = [at(Some(2), Some(5), None), at(None, Some(9), None), at(Some(2), None, None)];
        assert_eq!(in_all(&partly), Lag { records: Some(3), seconds: None });
        assert_eq!(in_all(&[at(None, Some(9), None)]), Lag::default());
        assert_eq!(
            shown(&[at(None, Some(9), None)]).lines().last(),
            Some("t      0          -          9    -    -")
        );
        assert_eq!(shown(&[]), "");
    }
}
