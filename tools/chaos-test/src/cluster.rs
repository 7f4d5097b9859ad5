//! Three nodes as processes, with the network between them, and what they say of themselves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use odradek_test_harness::{Broker, Options, Routing};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::load::{LEDGER, LEDGER_PARTITIONS, PARTITIONS, TOPIC};
use crate::proxy::{NODES, Network};

const REPLICAS: i32 = 3;

pub struct Cluster {
    pub nodes: Vec<Broker>,
    pub network: Network,
    /// By place: whether the process runs.
    pub is_up: [bool; NODES],
}

impl Cluster {
    /// Three nodes whose votes count, and the topics of the load.
    pub fn create(settings: &[(String, String)]) -> anyhow::Result<Cluster> {
        let network = Network::default();
        let mut nodes: Vec<Broker> = Vec::new();
        for place in 0..NODES {
            let mut options = Options::new(Routing::Node).cores(1).memory("512MiB");
            options = options.set("offsets.topic.num.partitions", "6");
            options = options.set("transaction.state.log.num.partitions", "6").set("log-level", "info");
            for (name, value) in settings {
                options = options.set(name, value);
            }
            let others: Vec<&Broker> = nodes.first().into_iter().collect();
            let mut node = Broker::not_started(options.in_cluster(place as i32 + 1, &others));
            let advertised = format!("127.0.0.1:{}", node.spare_port());
            node.reconfigure(|options| options.set("peer-advertise", &advertised));
            network.stand_before(place, node.spare_port(), node.peer_address())?;
            node.start_again();
            nodes.push(node);
        }
        let mut cluster = Cluster { nodes, network, is_up: [true; NODES] };
        // Who was told at its first start where another one is, past the network, is not any more.
        for place in 0..NODES {
            cluster.wait_until_whole(Duration::from_secs(60))?;
            cluster.nodes[place].stop();
            cluster.nodes[place].start_again();
        }
        cluster.create_topic(TOPIC, PARTITIONS)?;
        cluster.create_topic(LEDGER, LEDGER_PARTITIONS)?;
        cluster.wait_until_whole(Duration::from_secs(60))?;
        Ok(cluster)
    }

    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",")
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("socket.timeout.ms", "3000")
            .set("log_level", "0");
        config
    }

    fn create_topic(&self, name: &str, partitions: usize) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.config().create()?;
        let topic = NewTopic::new(name, partitions as i32, TopicReplication::Fixed(REPLICAS));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let created = futures::executor::block_on(admin.create_topics([&topic], &options))?;
        for outcome in created {
            if let Err((topic, code)) = outcome {
                bail!("{topic} cannot be made: {code}");
            }
        }
        Ok(())
    }

    /// Leaders of the partitions of the load, by node, and whether all replicas of everything are in sync; `None`
    /// where nobody says.
    pub fn look(&self) -> Option<(Vec<i32>, bool)> {
        let consumer: BaseConsumer = self.config().create().ok()?;
        let metadata = consumer.fetch_metadata(None, Duration::from_secs(3)).ok()?;
        if metadata.brokers().len() < NODES {
            return Some((Vec::new(), false));
        }
        let partitions = || metadata.topics().iter().flat_map(|topic| topic.partitions());
        let is_whole =
            partitions().all(|found| found.isr().len() == found.replicas().len() && found.leader() > 0);
        let topic = metadata.topics().iter().find(|topic| topic.name() == TOPIC);
        let leaders = topic.map(|topic| {
            let mut leaders: Vec<_> =
                topic.partitions().iter().map(|found| (found.id(), found.leader())).collect();
            leaders.sort_unstable();
            leaders.into_iter().map(|(_, leader)| leader).collect()
        });
        Some((leaders.unwrap_or_default(), is_whole))
    }

    /// Waits until every replica is in sync. Returns how long that took.
    pub fn wait_until_whole(&self, patience: Duration) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            if let Some((_, true)) = self.look() {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > patience {
                bail!("not everything is served by all its replicas {patience:?} after the last fault");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn kill(&mut self, place: usize) {
        self.nodes[place].kill();
        self.is_up[place] = false;
    }

    pub fn stop(&mut self, place: usize) {
        self.nodes[place].stop();
        self.is_up[place] = false;
    }

    /// Starts those that are down, all at once.
    pub fn start_down(&mut self) {
        let down: Vec<usize> = (0..NODES).filter(|place| !self.is_up[*place]).collect();
        down.iter().for_each(|place| self.nodes[*place].begin_start());
        for place in down {
            self.nodes[place].wait_until_ready();
            self.is_up[place] = true;
        }
    }

    /// Once all are stopped: replicas have the same bytes, which is whole once segments are closed.
    pub fn compare_replicas(&self) -> anyhow::Result<Vec<String>> {
        let mut differ = Vec::new();
        for (topic, partitions) in [(TOPIC, PARTITIONS), (LEDGER, LEDGER_PARTITIONS)] {
            for partition in 0..partitions {
                let name = format!("{topic}-{partition}");
                let read = |node: &Broker| read_segments(node.data_dir().join(&name));
                let first = read(&self.nodes[0])?;
                for node in &self.nodes[1..] {
                    if read(node)? != first {
                        differ.push(format!("replicas of {name} differ"));
                    }
                }
            }
        }
        Ok(differ)
    }
}

/// One behind the other: where they are cut does not matter.
fn read_segments(directory: PathBuf) -> anyhow::Result<Vec<u8>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend(std::fs::read(path)?);
    }
    Ok(bytes)
}
