//! Three nodes as processes, with the network between them, and what they say of themselves.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use odradek_test_harness::{Broker, Options, Routing, SmallDisk, binary};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::load::{LEDGER, LEDGER_PARTITIONS, PARTITIONS, TOPIC};
use crate::probes::{PROBED, PROBED_PARTITIONS};
use crate::proxy::{NODES, Network};
use crate::rounds::Plan;

const REPLICAS: i32 = 3;

/// Bytes of a node's disk; and more for each minute.
const DISK_SIZE: u64 = 384 << 20;
const DISK_SIZE_PER_MINUTE: u64 = 24 << 20;

/// What can be preloaded beside this program.
const WALL_CLOCK: &str = "libodradek_wall_clock.so";

pub struct Cluster {
    pub nodes: Vec<Broker>,
    pub network: Network,
    /// By place: whether the process runs.
    pub is_up: [bool; NODES],
    /// By place, where file systems can be mounted: what each node has its data on. Dropped behind the nodes.
    disks: Vec<SmallDisk>,
    /// By place: how far off the wall clock is. Empty where there is nothing to preload.
    clocks: Vec<PathBuf>,
    /// Nodes are of one build and the other in turn, start by start.
    other_build: Option<PathBuf>,
    /// By place.
    is_other: [bool; NODES],
}

impl Cluster {
    /// Three nodes whose votes count, and the topics of the load. Their first start is of the other build.
    pub fn create(plan: &Plan) -> anyhow::Result<Cluster> {
        let Plan { settings, time, cores, log_dirs, other_build, .. } = plan;
        let network = Network::default();
        let mut nodes: Vec<Broker> = Vec::new();
        let size = DISK_SIZE + DISK_SIZE_PER_MINUTE * (time.as_secs() / 60);
        let disks: Vec<SmallDisk> = (0..NODES).map_while(|_| SmallDisk::mount(size)).collect();
        let mut clocks = Vec::new();
        for place in 0..NODES {
            let mut options = Options::new(Routing::Node).cores(*cores).memory("512MiB");
            options = options.set("offsets.topic.num.partitions", "6");
            options = options.set("transaction.state.log.num.partitions", "6").set("log-level", "info");
            options = options.build(other_build.clone());
            for (name, value) in settings {
                options = options.set(name, value);
            }
            if disks.len() == NODES {
                options = options.data_dir(disks[place].path().join("data"));
            }
            let more = (1..*log_dirs).map(|number| match disks.get(place) {
                Some(disk) => disk.path().join(format!("data-{number}")),
                None => PathBuf::from(format!("data-{number}")),
            });
            let more: Vec<PathBuf> = more.collect();
            options = options.other_dirs(&more.iter().map(PathBuf::as_path).collect::<Vec<_>>());
            let others: Vec<&Broker> = nodes.first().into_iter().collect();
            let mut node = Broker::not_started(options.in_cluster(place as i32 + 1, &others));
            if let Some(library) = wall_clock() {
                let clock = node.scratch().join("wall-clock-offset");
                std::fs::write(&clock, 0i64.to_le_bytes())?;
                let [library, file] = [&library, &clock].map(|path| path.display().to_string());
                node.reconfigure(|options| {
                    options.env("LD_PRELOAD", &library).env("WALL_CLOCK_OFFSET", &file)
                });
                clocks.push(clock);
            }
            let advertised = format!("127.0.0.1:{}", node.spare_port());
            node.reconfigure(|options| options.set("peer-advertise", &advertised));
            network.stand_before(place, node.spare_port(), node.peer_address())?;
            node.start_again();
            nodes.push(node);
        }
        let disks = if disks.len() == NODES { disks } else { Vec::new() };
        let is_other = [other_build.is_some(); NODES];
        let other_build = other_build.clone();
        let is_up = [true; NODES];
        let mut cluster = Cluster { nodes, network, is_up, disks, clocks, other_build, is_other };
        // Who was told at its first start where another one is, past the network, is not any more.
        for place in 0..NODES {
            cluster.wait_until_whole(Duration::from_secs(60))?;
            cluster.stop(place);
            cluster.start_down();
        }
        cluster.create_topic(TOPIC, PARTITIONS)?;
        cluster.create_topic(LEDGER, LEDGER_PARTITIONS)?;
        cluster.create_topic(PROBED, PROBED_PARTITIONS)?;
        cluster.wait_until_whole(Duration::from_secs(60))?;
        Ok(cluster)
    }

    /// A disk of its own of a node, where there is one.
    pub fn disk(&self, place: usize) -> Option<&SmallDisk> {
        self.disks.get(place)
    }

    pub fn has_clocks(&self) -> bool {
        !self.clocks.is_empty()
    }

    /// From now on the wall clock of a node is so many seconds off.
    pub fn set_clock(&self, place: usize, seconds: i64) -> anyhow::Result<()> {
        let Some(clock) = self.clocks.get(place) else { return Ok(()) };
        // In place: the node has it mapped.
        let file = std::fs::OpenOptions::new().write(true).open(clock)?;
        Ok(file.write_all_at(&seconds.to_le_bytes(), 0)?)
    }

    /// Runs a command of the broker's against those that are up.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let up = self.nodes.iter().zip(self.is_up).filter(|(_, is_up)| *is_up);
        let brokers = up.map(|(node, _)| node.bootstrap()).collect::<Vec<_>>().join(",");
        let output = Command::new(binary()).args(arguments).args(["--brokers", &brokers]).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("{}: {}", arguments.join(" "), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// The same until it succeeds.
    pub fn run_at_last(&self, arguments: &[&str], patience: Duration) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            match self.run(arguments) {
                Err(error) if begun.elapsed() > patience => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
                done => return done,
            }
        }
    }

    /// A node that is down has an empty disk, and is to take its own place.
    pub fn replace_by_empty(&mut self, place: usize) -> anyhow::Result<()> {
        let id = (place + 1).to_string();
        self.run_at_last(&["cluster", "voter", "remove", &id], Duration::from_secs(60))?;
        self.nodes[place].data_dirs().iter().try_for_each(std::fs::remove_dir_all)?;
        let others = (0..NODES).filter(|other| *other != place);
        let addresses: Vec<String> =
            others.map(|other| format!("127.0.0.1:{}", self.nodes[other].spare_port())).collect();
        self.nodes[place].reconfigure(|options| options.joining(addresses));
        self.start_down();
        Ok(())
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

    /// What the nodes say of the cluster, and have said last of what is not as it should be.
    pub fn describe(&self) -> Vec<String> {
        const LINES: usize = 12;
        let status = self.run(&["cluster", "status"]).unwrap_or_else(|error| format!("{error:#}"));
        let mut said = vec![status];
        for (number, node) in (1..).zip(&self.nodes) {
            let log = node.log();
            let lines = log
                .lines()
                .rev()
                .filter(|line| ["\"WARN\"", "\"ERROR\"", "is cut"].iter().any(|what| line.contains(what)));
            let mut lines: Vec<&str> = lines.take(LINES).collect();
            lines.reverse();
            said.extend(lines.iter().map(|line| format!("node {number}: {line}")));
        }
        said
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
        let is_whole = partitions().all(|found| {
            found.isr().len() == found.replicas().len()
                && found.replicas().len() == NODES
                && found.leader() > 0
        });
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
        down.iter().for_each(|place| self.begin_start(*place));
        for place in down {
            self.nodes[place].wait_until_ready();
            self.is_up[place] = true;
        }
    }

    /// With the build that it did not have last time, where there are two.
    pub fn begin_start(&mut self, place: usize) {
        if let Some(other) = &self.other_build {
            self.is_other[place] = !self.is_other[place];
            let build = self.is_other[place].then(|| other.clone());
            self.nodes[place].reconfigure(|options| options.build(build));
        }
        self.nodes[place].begin_start();
    }

    /// Once all are stopped: replicas have the same bytes, which is whole once segments are closed.
    pub fn compare_replicas(&self) -> anyhow::Result<Vec<String>> {
        let mut differ = Vec::new();
        for (topic, partitions) in
            [(TOPIC, PARTITIONS), (LEDGER, LEDGER_PARTITIONS), (PROBED, PROBED_PARTITIONS)]
        {
            for partition in 0..partitions {
                let name = format!("{topic}-{partition}");
                let read = |node: &Broker| {
                    let mut places = node.data_dirs().into_iter().map(|directory| directory.join(&name));
                    let place = places.find(|place| place.exists());
                    read_segments(place.with_context(|| format!("a node has no {name}"))?)
                };
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

/// Built beside this program.
fn wall_clock() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name(WALL_CLOCK);
    if !beside.exists() {
        let has_to = std::env::var("CI").as_deref() == Ok("true");
        assert!(!has_to, "there is no {}; under CI=true clocks must jump", beside.display());
        eprintln!("SKIPPED: clocks do not jump: there is no {}", beside.display());
        return None;
    }
    Some(beside)
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
