//! The broker as a process, what it says, and the load generator beside it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use odradek_powerloss::process::{Process, wait_for};
use odradek_powerloss::random::Random;

use crate::rounds::{Failed, Options};

pub const TOPIC: &str = "crash";
pub const PARTITIONS: i32 = 8;

/// Small and eager, so that seconds of load see everything.
const BUSY: [&str; 5] = [
    "journal-file-size=4MiB",
    "journal-files=4",
    "log.cleaner.backoff.ms=50",
    "log.retention.check.interval.ms=200",
    "log.segment.delete.delay.ms=100",
];

const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const TOPIC_PATIENCE: Duration = Duration::from_secs(60);
const PRODUCER_PATIENCE: Duration = Duration::from_secs(60);
const READ_PATIENCE: Duration = Duration::from_secs(300);

/// A directory with the broker's data, its log, and what the load generator knows.
pub struct World<'a> {
    options: &'a Options,
    /// Logs, and what the load generator knows.
    pub directory: PathBuf,
    /// Holds the log directories; the same, or on a file system of its own.
    pub data: PathBuf,
    pub journal: bool,
    broker: Option<Broker>,
    /// What the last whole start took.
    start_time: Duration,
}

struct Broker {
    process: Process,
    address: String,
    /// Bytes of the log that earlier runs wrote.
    log_start: usize,
}

/// On its way to serve.
struct Spawned {
    process: Process,
    ready: PathBuf,
    log_start: usize,
}

/// What came of a start that was to be killed.
pub enum Interruption {
    Killed {
        after: Duration,
    },
    /// It served already.
    TooLate,
    /// It ended by itself, with these last words.
    Ended(String),
}

/// What came of a start.
pub enum Started {
    Serving,
    /// It ended by itself, with these last words.
    Refused(String),
}

/// What the load generator says of the records that it has read.
#[derive(Debug)]
pub struct Verdict {
    pub clean: bool,
    pub said: String,
}

impl<'a> World<'a> {
    pub fn new(options: &'a Options, name: &str, journal: bool) -> anyhow::Result<World<'a>> {
        let directory = options.directory.join(name);
        let data = options.data.join(name);
        fs::create_dir_all(&directory)?;
        fs::create_dir_all(&data)?;
        Ok(World { options, directory, data, journal, broker: None, start_time: Duration::from_millis(100) })
    }

    /// Its log directories; the first one has the metadata.
    pub fn data_dirs(&self) -> Vec<PathBuf> {
        let name = |number: u32| match number {
            0 => "data".to_owned(),
            _ => format!("data-{}", number + 1),
        };
        (0..self.options.log_dirs).map(|number| self.data.join(name(number))).collect()
    }

    pub fn start(&mut self) -> Result<Started, Failed> {
        let begun = Instant::now();
        let Spawned { mut process, ready, log_start } = self.spawn()?;
        let started = wait_for(START_PATIENCE, || match ready_address(&ready) {
            Some(address) => Some(Ok(address)),
            None => process.ended().map(Err),
        })?;
        match started {
            Some(Ok(address)) => {
                self.start_time = begun.elapsed();
                self.broker = Some(Broker { process, address, log_start });
                Ok(Started::Serving)
            }
            Some(Err(_)) => {
                let said = self.log_since(log_start)?;
                Ok(Started::Refused(said.lines().last().unwrap_or_default().to_owned()))
            }
            None => Err(anyhow::anyhow!("the broker is not ready after {START_PATIENCE:?}").into()),
        }
    }

    /// A start that is killed at some moment before it should be done.
    pub fn start_and_kill(&mut self, random: &mut Random) -> Result<Interruption, Failed> {
        let after = Duration::from_micros(random.below(self.start_time.as_micros() as u64));
        let Spawned { mut process, ready, log_start, .. } = self.spawn()?;
        let ended = wait_for(after, || process.ended())?;
        process.kill();
        process.join();
        Ok(match ended {
            Some(_) => {
                Interruption::Ended(self.log_since(log_start)?.lines().last().unwrap_or_default().to_owned())
            }
            None if ready_address(&ready).is_some() => Interruption::TooLate,
            None => Interruption::Killed { after },
        })
    }

    fn spawn(&self) -> Result<Spawned, Failed> {
        let (ready, log) = (self.directory.join("ready"), self.directory.join("broker.log"));
        let log_start = fs::read(&log).map_or(0, |bytes| bytes.len());
        let mut command = Command::new(&self.options.broker);
        command.arg("start");
        for data_dir in self.data_dirs() {
            command.arg("--data-dir").arg(data_dir);
        }
        command.args(["--listen", "127.0.0.1:0", "--cores", "2", "--memory", "512MiB"]);
        command.args(["--log-format", "json", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--set", &format!("journal={}", self.journal)]);
        command.args(BUSY.iter().flat_map(|setting| ["--set", setting]));
        command.args(self.options.settings.iter().flat_map(|setting| ["--set", setting]));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ODRADEK_") {
                command.env_remove(name);
            }
        }
        let log = OpenOptions::new().create(true).append(true).open(log).context("the log")?;
        let ready_file = File::create(&ready).context("the ready line")?;
        command.stdin(Stdio::null()).stdout(ready_file).stderr(log);
        let process = Process::spawn(&mut command).context("the broker cannot be run")?;
        Ok(Spawned { process, ready, log_start })
    }

    fn running(&self) -> &Broker {
        self.broker.as_ref().expect("it runs")
    }

    pub fn kill(&mut self) {
        let mut broker = self.broker.take().expect("it runs");
        broker.process.kill();
        broker.process.join();
    }

    pub fn stop(&mut self) -> Result<ExitStatus, Failed> {
        let mut broker = self.broker.take().expect("it runs");
        broker.process.terminate();
        let ended = wait_for(STOP_PATIENCE, || broker.process.ended())?;
        Ok(ended.context("the broker does not stop")?)
    }

    /// A stop that is killed. Its status, if it was faster.
    pub fn stop_and_kill(&mut self, after: Duration) -> Result<Option<ExitStatus>, Failed> {
        let mut broker = self.broker.take().expect("it runs");
        broker.process.terminate();
        let ended = wait_for(after, || broker.process.ended())?;
        broker.process.kill();
        broker.process.join();
        Ok(ended)
    }

    pub fn address(&self) -> &str {
        &self.running().address
    }

    /// How it ended, if it was not told to.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.broker.as_mut().expect("it runs").process.ended()
    }

    /// Lines that the broker has logged since its start.
    pub fn log(&self) -> Result<String, Failed> {
        self.log_since(self.running().log_start)
    }

    fn log_since(&self, start: usize) -> Result<String, Failed> {
        let bytes = fs::read(self.directory.join("broker.log")).context("the log")?;
        Ok(String::from_utf8_lossy(&bytes[start..]).into_owned())
    }

    /// Partitions that the start has found unfit, as the log says.
    pub fn offline(&self) -> Result<BTreeSet<i32>, Failed> {
        Ok(named(&self.log()?, "a partition is offline"))
    }

    /// The same as a number, as the metrics say.
    pub fn offline_metric(&self) -> Result<u64, Failed> {
        let admin = admin_address(&self.log()?).context("no address of the metrics in the log")?;
        let text = get(admin, "/metrics").context("the metrics")?;
        let values = text.lines().filter(|line| line.starts_with("odradek_partitions_offline{"));
        let values = values.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()));
        let sum: Option<f64> = values.sum();
        Ok(sum.context("a metric that is no number")? as u64)
    }

    /// Loads until the broker is gone, or told to stop.
    pub fn produce(&self, batch_bytes: u64) -> Result<Process, Failed> {
        let batch_bytes = batch_bytes.to_string();
        let partitions = PARTITIONS.to_string();
        let phase = [
            "--phase",
            "produce",
            "--stop-on-disconnect",
            "--records",
            "1000000000",
            "--create",
            "--partitions",
            &partitions,
            "--topic-config",
            "segment.bytes=524288",
            "--batch-bytes",
            &batch_bytes,
            "--connections",
            "2",
        ];
        let producer = self.verify("produce.log", &phase)?;
        // A kill before that would interrupt nothing. On a slow machine it comes late.
        let partition = format!("{TOPIC}-0");
        let is_there = || self.data_dirs().iter().any(|dir| dir.join(&partition).exists()).then_some(());
        wait_for(TOPIC_PATIENCE, is_there)?.context("the load generator makes no topic; see produce.log")?;
        Ok(producer)
    }

    /// Its exit status says nothing here: the broker is gone.
    pub fn wait_for_producer(&self, mut producer: Process) -> Result<(), Failed> {
        let ended = wait_for(PRODUCER_PATIENCE, || producer.ended())?;
        ended.context("the load generator does not end; see produce.log")?;
        Ok(())
    }

    /// Reads some partitions back, until they are whole or nothing comes for so long.
    pub fn read(&self, partitions: &BTreeSet<i32>, patience: Duration) -> Result<Verdict, Failed> {
        if !self.state().exists() {
            // The broker was killed before the load generator had connected to it.
            return Ok(Verdict { clean: true, said: "nothing was sent".to_owned() });
        }
        let only: Vec<String> = partitions.iter().map(i32::to_string).collect();
        let only = only.join(",");
        let patience = format!("{}s", patience.as_secs());
        let phase = [
            "--phase",
            "read",
            "--only",
            &only,
            "--idle-timeout",
            &patience,
            "--delivery-timeout",
            &patience,
        ];
        let mut reader = self.verify("read.log", &phase)?;
        let ended = wait_for(READ_PATIENCE, || reader.ended())?;
        let said = fs::read_to_string(self.directory.join("read.log")).context("read.log")?;
        let clean = ended.is_some_and(|status| status.success());
        Ok(Verdict { clean, said })
    }

    fn verify(&self, output: &str, phase: &[&str]) -> Result<Process, Failed> {
        let output = File::create(self.directory.join(output)).context("the load generator's log")?;
        let mut command = Command::new(&self.options.load_generator);
        command.args(["verify", "--brokers", &self.running().address, "--topic", TOPIC, "--state"]);
        command.arg(self.state()).args(phase).stdin(Stdio::null());
        command.stdout(output.try_clone().context("the load generator's log")?).stderr(output);
        Ok(Process::spawn(&mut command).context("the load generator cannot be run")?)
    }

    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Sequences of a partition below which all were acknowledged, or some.
    pub fn acknowledged_end(&self, partition: i32) -> anyhow::Result<u64> {
        let state: serde_json::Value = serde_json::from_str(&fs::read_to_string(self.state())?)?;
        let partitions = state["partitions"].as_array().context("a state without partitions")?;
        let found = partitions.iter().find(|state| state["partition"] == partition);
        let acked = found.and_then(|state| state["acked"].as_array()).and_then(|ranges| ranges.last());
        Ok(acked.and_then(|range| range[1].as_u64()).unwrap_or(0))
    }

    pub fn remove(mut self) -> anyhow::Result<()> {
        if self.broker.is_some() {
            self.kill();
        }
        fs::remove_dir_all(&self.data)?;
        match self.directory.exists() {
            true => Ok(fs::remove_dir_all(&self.directory)?),
            false => Ok(()), // The same.
        }
    }
}

/// Partitions whose directories are named in the lines that say `what`.
pub fn named(log: &str, what: &str) -> BTreeSet<i32> {
    let prefix = format!("/{TOPIC}-");
    let lines = log.lines().filter(|line| line.contains(what));
    lines
        .filter_map(|line| {
            let (_, rest) = line.split_once(&prefix)?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .collect()
}

/// From the line that the broker writes when it serves.
fn ready_address(path: &Path) -> Option<String> {
    let said = fs::read_to_string(path).ok()?;
    let (line, _) = said.split_once('\n')?;
    Some(line.strip_prefix("odradek ready: ")?.split(',').next()?.to_string())
}

/// From the line of the log that tells it.
fn admin_address(log: &str) -> Option<SocketAddr> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut addresses = lines.filter_map(|line| {
        let is_it = line["message"] == "metrics and health are served";
        is_it.then(|| line["address"].as_str()?.parse().ok())?
    });
    addresses.next()
}

fn get(admin: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
