//! Connections to the brokers of a cluster: each is asked what it leads or coordinates.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    BrokerId, FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek::config::HostPort;
use odradek::metrics::names::error_name;

use super::Failure;
use super::client::Client;

/// What ListOffsets calls them.
pub const EARLIEST: i64 = -2;
pub const LATEST: i64 = -1;

/// A topic's name, and the number of a partition.
pub type Place = (String, i32);

/// Where a broker listens.
pub type Address = (String, i32);

/// Connections, one to each broker that had to be asked.
pub struct Cluster {
    bootstrap: Client,
    brokers: BTreeMap<(String, u16), Client>,
}

/// What a coordinator is asked for, as FindCoordinator numbers it.
#[derive(Clone, Copy, Debug)]
pub enum KeyType {
    Group = 0,
    Transaction = 1,
}

impl Cluster {
    pub fn connect(brokers: &[HostPort]) -> Result<Cluster, Failure> {
        Ok(Cluster { bootstrap: Client::connect(brokers)?, brokers: BTreeMap::new() })
    }

    /// The broker that has answered first.
    pub fn any(&mut self) -> &mut Client {
        &mut self.bootstrap
    }

    pub fn broker(&mut self, host: &str, port: i32) -> Result<&mut Client, Failure> {
        let port = u16::try_from(port).map_err(|_| format!("a broker is said to have port {port}"))?;
        let place = (host.to_string(), port);
        if !self.brokers.contains_key(&place) {
            let client = Client::connect(&[HostPort { host: host.to_string(), port }])?;
            self.brokers.insert(place.clone(), client);
        }
        Ok(self.brokers.get_mut(&place).expect("connected above"))
    }

    pub fn metadata(&mut self, topics: &BTreeSet<String>) -> Result<MetadataResponse, Failure> {
        /// Before it, creation cannot be switched off.
        const AUTO_CREATION_SINCE: i16 = 4;
        let topics = topics
            .iter()
            .map(|topic| MetadataRequestTopic::default().with_name(Some(TopicName(text(topic)))));
        let topics: Vec<_> = topics.collect();
        Ok(self.bootstrap.send(|version| {
            let request = MetadataRequest::default().with_topics(Some(topics));
            match version {
                AUTO_CREATION_SINCE.. => request.with_allow_auto_topic_creation(false),
                _ => request,
            }
        })?)
    }

    pub fn metadata_of_all(&mut self) -> Result<MetadataResponse, Failure> {
        /// Before it, to ask for no topic is to ask for all.
        const ALL_IS_NULL_SINCE: i16 = 1;
        Ok(self.bootstrap.send(|version| {
            let topics = if version >= ALL_IS_NULL_SINCE { None } else { Some(Vec::new()) };
            MetadataRequest::default().with_topics(topics)
        })?)
    }

    pub fn coordinator_of(&mut self, key_type: KeyType, key: &str) -> Result<&mut Client, Failure> {
        /// From here on several keys are asked for at once.
        const KEYS_SINCE: i16 = 4;
        /// Before it, there are coordinators of groups only.
        const KEY_TYPE_SINCE: i16 = 1;
        let response = self.bootstrap.send(|version| {
            let request = FindCoordinatorRequest::default();
            let request = match version {
                KEY_TYPE_SINCE.. => request.with_key_type(key_type as i8),
                _ => request,
            };
            match version {
                KEYS_SINCE.. => request.with_coordinator_keys(vec![text(key)]),
                _ => request.with_key(text(key)),
            }
        })?;
        let (host, port, code) = match response.coordinators.first() {
            Some(found) => (found.host.to_string(), found.port, found.error_code),
            None => (response.host.to_string(), response.port, response.error_code),
        };
        match code {
            0 => self.broker(&host, port),
            code => Err(format!("{key}: no coordinator: {}", error_name(code)).into()),
        }
    }

    /// Partitions, by who leads them; without those that nobody leads, or that are not there.
    pub fn by_leader(&mut self, wanted: &BTreeSet<Place>) -> Result<BTreeMap<Address, Vec<Place>>, Failure> {
        let mut by_leader: BTreeMap<Address, Vec<Place>> = BTreeMap::new();
        if wanted.is_empty() {
            return Ok(by_leader);
        }
        let metadata = self.metadata(&wanted.iter().map(|(topic, _)| topic.clone()).collect())?;
        for topic in &metadata.topics {
            let name = topic.name.as_ref().map(|name| name.to_string()).unwrap_or_default();
            for partition in &topic.partitions {
                let place = (name.clone(), partition.partition_index);
                let leader = metadata.brokers.iter().find(|broker| broker.node_id == partition.leader_id);
                if let Some(leader) = leader.filter(|_| wanted.contains(&place)) {
                    by_leader.entry((leader.host.to_string(), leader.port)).or_default().push(place);
                }
            }
        }
        Ok(by_leader)
    }

    /// The offset that is looked for in every partition named, as its leader says.
    pub fn look_up(
        &mut self,
        wanted: &BTreeSet<Place>,
        timestamp: i64,
    ) -> Result<BTreeMap<Place, i64>, Failure> {
        let mut found = BTreeMap::new();
        for ((host, port), places) in self.by_leader(wanted)? {
            let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for (topic, index) in &places {
                let partition = ListOffsetsPartition::default().with_partition_index(*index);
                topics.entry(topic).or_default().push(partition.with_timestamp(timestamp));
            }
            let topics = topics.into_iter().map(|(topic, partitions)| {
                ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions)
            });
            let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1));
            let request = request.with_topics(topics.collect());
            let response = self.broker(&host, port)?.send(|_| request)?;
            for topic in response.topics {
                for partition in topic.partitions.iter().filter(|partition| partition.error_code == 0) {
                    found.insert((topic.name.to_string(), partition.partition_index), partition.offset);
                }
            }
        }
        Ok(found)
    }
}

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_string())
}
