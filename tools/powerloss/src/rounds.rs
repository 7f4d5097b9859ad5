//! The broker under load on a file system whose power goes, again and again.
//!
//! ```text
//! round   load ─► power goes at an operation ─► kill -9 ─► cut ─► [start, power goes again] ─► start ─► read
//!         load ─► kill -9 at an operation ─► start ─► read ─► power goes ─► cut ─► ..
//!         load ─► SIGTERM ─► the power goes during the stop, or behind it ─► cut ─► ..
//! ```
//! The first start on an empty disk is cut or killed in the same way, half of the time.
//!
//! With a file system of its own the data directory is on that, in a file of the one that forgets: what
//! the kernel's file system flushes of its device is what stays, and a restart mounts what is left.
//!
//! ```text
//! broker ──► ext4 or XFS ──► loop device ──► one file of ours: each write and each flush of the device
//! ```
//!
//! After each round every acknowledged record is there once, in its order, unaltered, and nothing is
//! that was never sent (`odradek-loadgen verify`); nothing that was read is gone; and the broker has
//! started by itself. After [`SERIES`] rounds the data directory is emptied, so that reading everything
//! back stays short.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use odradek_test_harness::{FileSystem, Image, SECTOR_SIZE};

use crate::mount::Mount;
use crate::process::{Interrupted, Process, wait_for};
use crate::random::Random;
use crate::volume::{Counts, Loss};

/// Rounds on one data directory.
const SERIES: u32 = 10;

/// Operations of the file system before the power goes, at most: some seconds of load.
const OPERATIONS_MAX: u64 = 4000;

/// The same for a start, which does some dozens.
const START_OPERATIONS_MAX: u64 = 50;

/// The same for a stop, with some files for each of the partitions.
const STOP_OPERATIONS_MAX: u64 = 200;

/// Bytes of a file system of its own, of which the ten rounds of a series use some hundred MB.
const DISK_SIZE: u64 = 2 << 30;

/// The load ends here if the chosen operation does not come.
const LOAD_PATIENCE: Duration = Duration::from_secs(15);
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const PRODUCER_PATIENCE: Duration = Duration::from_secs(60);
const READ_PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub struct Options {
    pub broker: PathBuf,
    pub load_generator: PathBuf,
    /// Empty or absent. Holds everything that is to be looked at after a violation.
    pub directory: PathBuf,
    pub rounds: u32,
    pub seed: u64,
    /// Between the broker and what forgets.
    pub file_system: Option<FileSystem>,
    /// Of the broker, as `NAME=VALUE`.
    pub settings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The broker broke a promise.
    #[error("round {round}: {what}")]
    Violation { round: u32, what: String },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Nothing is known about the broker.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Other(error.into())
    }
}

/// Runs all rounds and tells a line after each. On a failure the directory stays: `tree` is what the
/// broker had, beside it the state of the load generator and the logs.
pub fn run(options: &Options, tell: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    fs::create_dir_all(&options.directory)?;
    let mut random = Random::new(options.seed);
    let mut round = 0;
    while round < options.rounds {
        let mut series = Series::start(options, round + 1, &mut random)?;
        let end = options.rounds.min(round + SERIES);
        while round < end {
            round += 1;
            series.round = round;
            let line = series.round(&mut random)?;
            tell(&format!("round {round}: {line}"));
        }
        series.remove()?;
    }
    Ok(())
}

/// Lives: as long as its data directory.
struct Series<'a> {
    options: &'a Options,
    round: u32,
    /// Always there, but while the power is being cut.
    mount: Option<Mount>,
    /// In a file of `mount`.
    disk: Option<Image>,
    broker: Option<Broker>,
    /// Records that were read at the last end of a round; none of them may be gone later.
    records_read: u64,
}

struct Broker {
    process: Process,
    address: String,
}

impl<'a> Series<'a> {
    fn start(options: &'a Options, round: u32, random: &mut Random) -> Result<Series<'a>, Failed> {
        let mount = start_mount(options).context("the file system cannot be mounted")?;
        let mut series =
            Series { options, round, mount: Some(mount), disk: None, broker: None, records_read: 0 };
        series.disk = options.file_system.map(|file_system| series.make_disk(file_system)).transpose()?;
        if random.one_in(2) {
            // As people do it: nobody flushes its name.
            fs::create_dir(series.data_path())?;
        }
        match random.below(4) {
            0 => drop(series.lose_power_at_start(random)?),
            1 => series.start_until_kill(random)?,
            _ => {}
        }
        series.start_broker()?;
        Ok(series)
    }

    fn mount(&self) -> &Mount {
        self.mount.as_ref().expect("it is mounted")
    }

    /// A disk that was formatted long ago.
    fn make_disk(&self, file_system: FileSystem) -> Result<Image, Failed> {
        let (file, at) = (self.mount().path().join("disk"), self.file("mounted"));
        let disk = Image::make(&file, &at, file_system, DISK_SIZE)
            .with_context(|| format!("{file_system} cannot be mounted"))?;
        File::open(&file)?.sync_all()?;
        File::open(self.mount().path())?.sync_all()?;
        Ok(disk)
    }

    fn data_path(&self) -> PathBuf {
        let disk = self.disk.as_ref().map(|disk| disk.path().to_owned());
        disk.unwrap_or_else(|| self.mount().path()).join("data")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.options.directory.join(name)
    }

    fn violation(&self, what: impl Into<String>) -> Failed {
        Failed::Violation { round: self.round, what: what.into() }
    }

    fn round(&mut self, random: &mut Random) -> Result<String, Failed> {
        let before = self.mount().counts();
        let mut story = String::new();
        match random.below(6) {
            0 => {
                self.load_until_kill(random)?;
                self.start_broker()?;
                self.read_back()?;
                self.mount().cut_now();
                story.push_str("killed, read, then ");
            }
            1 => {
                self.load_until_stop(random)?;
                story.push_str("stopped, then ");
            }
            _ => self.load_until_cut(random)?,
        }
        let flushes = flushes(self.mount().counts()) - flushes(before);
        let operations = self.mount().operations();
        let loss = self.cut(random.draw())?;
        story.push_str(&format!("power lost at operation {operations}, {flushes} flushes: {}", told(&loss)));
        if random.one_in(3) {
            let loss = self.lose_power_at_start(random)?;
            story.push_str(&format!("; lost again during the start: {}", told(&loss)));
        }
        self.start_broker()?;
        let verdict = self.read_back()?;
        Ok(format!("{story}; {verdict}"))
    }

    /// Loads until an operation that finds the power gone, or for long.
    fn load_until_cut(&mut self, random: &mut Random) -> Result<(), Failed> {
        let mut producer = self.load_until_operation(random)?;
        self.kill_broker();
        self.wait_for_producer(&mut producer)
    }

    /// The same, but only the broker is gone: what it wrote is still there for the next.
    fn load_until_kill(&mut self, random: &mut Random) -> Result<(), Failed> {
        let mut producer = self.load_until_operation(random)?;
        self.kill_broker_alone();
        self.wait_for_producer(&mut producer)
    }

    /// An orderly stop under load, which the power interrupts half of the time.
    fn load_until_stop(&mut self, random: &mut Random) -> Result<(), Failed> {
        let mut producer = self.load_until_operation(random)?;
        let (mount, broker) = (&self.mount, &mut self.broker);
        let (mount, broker) = (mount.as_ref().expect("it is mounted"), broker.as_mut().expect("it runs"));
        mount.power_back();
        if random.one_in(2) {
            mount.cut_after(1 + random.below(STOP_OPERATIONS_MAX));
        }
        broker.process.terminate();
        let ended = wait_for(STOP_PATIENCE, || match mount.is_on() {
            false => Some(None),
            true => broker.process.ended().map(Some),
        })?;
        mount.cut_now();
        match ended {
            Some(None) => {}
            Some(Some(status)) if status.success() => {}
            Some(Some(status)) => {
                return Err(self.violation(format!("the stop ended in {status}: {}", self.last_words())));
            }
            None => return Err(self.violation(format!("the broker does not stop: {}", self.last_words()))),
        }
        self.kill_broker();
        self.wait_for_producer(&mut producer)
    }

    fn load_until_operation(&mut self, random: &mut Random) -> Result<Process, Failed> {
        // Now and then early, when little more than names was written.
        let operations_max = if random.one_in(6) { 50 } else { OPERATIONS_MAX };
        self.mount().cut_after(1 + random.below(operations_max));
        let producer = self.produce(random)?;
        let (mount, broker) = (&self.mount, &mut self.broker);
        let (mount, broker) = (mount.as_ref().expect("it is mounted"), broker.as_mut().expect("it runs"));
        let ended = wait_for(LOAD_PATIENCE, || match mount.is_on() {
            false => Some(None),
            true => broker.process.ended().map(Some),
        })?;
        if let Some(Some(status)) = ended {
            return Err(
                self.violation(format!("the broker ended under load ({status}): {}", self.last_words()))
            );
        }
        self.mount().cut_now();
        Ok(producer)
    }

    /// SIGKILL first: what the file system answers after that reaches nobody.
    fn kill_broker(&mut self) {
        let broker = self.broker.take();
        if let Some(mut broker) = broker {
            broker.process.kill();
            self.mount().power_off();
            broker.process.join();
        }
    }

    fn kill_broker_alone(&mut self) {
        let mut broker = self.broker.take().expect("it runs");
        broker.process.kill();
        self.mount().power_back();
        broker.process.join();
    }

    /// The machine is gone; what is left of its disk is mounted again.
    fn cut(&mut self, seed: u64) -> Result<Loss, Failed> {
        self.kill_broker();
        if let Some(disk) = &self.disk {
            // Nothing that it still writes arrives: the power is off.
            disk.unmount().context("the file system on the lost disk cannot be unmounted")?;
        }
        let mount = self.mount.take().expect("it is mounted");
        let loss = mount.cut(seed).context("the power cannot be cut")?;
        self.mount = Some(start_mount(self.options).context("what is left cannot be mounted")?);
        if let Some(disk) = &self.disk {
            disk.mount().context("the file system that is left cannot be mounted")?;
        }
        Ok(loss)
    }

    fn lose_power_at_start(&mut self, random: &mut Random) -> Result<Loss, Failed> {
        self.start_until_operation(random)?;
        self.cut(random.draw())
    }

    fn start_until_kill(&mut self, random: &mut Random) -> Result<(), Failed> {
        self.start_until_operation(random)?;
        self.kill_broker_alone();
        Ok(())
    }

    /// A start that does not get to its end, most of the time.
    fn start_until_operation(&mut self, random: &mut Random) -> Result<(), Failed> {
        self.mount().cut_after(1 + random.below(START_OPERATIONS_MAX));
        let ready = self.file("ready");
        let mut process = self.spawn_broker(&ready)?;
        let mount = self.mount.as_ref().expect("it is mounted");
        let ended = wait_for(START_PATIENCE, || match mount.is_on() {
            false => Some(None),
            true if ready_address(&ready).is_some() => Some(None),
            true => process.ended().map(Some),
        })?;
        mount.cut_now();
        self.broker = Some(Broker { process, address: String::new() });
        match ended {
            Some(Some(status)) => Err(self.no_start(&format!("ended ({status})"))),
            Some(None) => Ok(()),
            None => Err(self.no_start("is not ready")),
        }
    }

    fn start_broker(&mut self) -> Result<(), Failed> {
        let ready = self.file("ready");
        let mut process = self.spawn_broker(&ready)?;
        let address = wait_for(START_PATIENCE, || match ready_address(&ready) {
            Some(address) => Some(Ok(address)),
            None => process.ended().map(Err),
        })?;
        match address {
            Some(Ok(address)) => {
                self.broker = Some(Broker { process, address });
                Ok(())
            }
            Some(Err(status)) => Err(self.no_start(&format!("ended ({status})"))),
            None => Err(self.no_start("is not ready")),
        }
    }

    fn no_start(&self, what: &str) -> Failed {
        self.violation(format!("the broker {what} at its start: {}", self.last_words()))
    }

    fn spawn_broker(&self, ready: &Path) -> Result<Process, Failed> {
        let log = OpenOptions::new().create(true).append(true).open(self.file("broker.log"))?;
        let mut command = Command::new(&self.options.broker);
        command.arg("start").arg("--data-dir").arg(self.data_path());
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "none", "--cores", "2"]);
        // Small files: this file system keeps them in memory, and they are used again soon.
        command.args(["--memory", "512MiB", "--set", "journal-file-size=8MiB"]);
        command.args(self.options.settings.iter().flat_map(|setting| ["--set", setting]));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ODRADEK_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(File::create(ready)?).stderr(log);
        let broker = self.options.broker.display();
        Ok(Process::spawn(&mut command).with_context(|| format!("{broker} cannot be run"))?)
    }

    fn verify(&self, output: &Path, phase: &[&str]) -> Result<Process, Failed> {
        let address = &self.broker.as_ref().expect("it runs").address;
        let output = File::create(output)?;
        let mut command = Command::new(&self.options.load_generator);
        command.args(["verify", "--brokers", address, "--topic", "power", "--state"]).arg(self.file("state"));
        command.args(phase).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let load_generator = self.options.load_generator.display();
        Ok(Process::spawn(&mut command).with_context(|| format!("{load_generator} cannot be run"))?)
    }

    /// Batches of several sizes; segments that are full after a moment.
    fn produce(&self, random: &mut Random) -> Result<Process, Failed> {
        let batch_bytes = ["1000", "16384", "100000"][random.below(3) as usize];
        let batches = ["1", "4"][random.below(2) as usize];
        let phase = [
            "--phase",
            "produce",
            "--stop-on-disconnect",
            "--records",
            "1000000000",
            "--create",
            "--partitions",
            "8",
            "--topic-config",
            "segment.bytes=2097152",
            "--batch-bytes",
            batch_bytes,
            "--batches-per-request",
            batches,
            "--connections",
            "2",
        ];
        self.verify(&self.file("produce.log"), &phase)
    }

    /// Its exit status says nothing here: it may not even have met the broker.
    fn wait_for_producer(&self, producer: &mut Process) -> Result<(), Failed> {
        match wait_for(PRODUCER_PATIENCE, || producer.ended())? {
            Some(_) => Ok(()),
            None => Err(anyhow::anyhow!("the load generator does not end; see produce.log").into()),
        }
    }

    fn read_back(&mut self) -> Result<String, Failed> {
        if !self.file("state").exists() {
            return Ok("nothing was sent yet".to_string());
        }
        let output = self.file("read.log");
        let mut reader = self.verify(&output, &["--phase", "read"])?;
        let status = wait_for(READ_PATIENCE, || reader.ended())?;
        let said = fs::read_to_string(&output)?;
        let Some(status) = status else {
            return Err(self.violation(format!("not everything is served: {}", tail(&said))));
        };
        let verdict = said.lines().rev().find_map(|line| line.strip_prefix("verified: "));
        let Some(verdict) = verdict.filter(|_| status.success()) else {
            return Err(self.violation(tail(&said)));
        };
        let read = verdict.split_ascii_whitespace().rev().nth(1).and_then(|count| count.parse().ok());
        let read: u64 = read.with_context(|| format!("the load generator said {verdict:?}"))?;
        if read < self.records_read {
            let before = self.records_read;
            return Err(self.violation(format!("{before} records were read before, {read} are left")));
        }
        self.records_read = read;
        Ok(verdict.to_string())
    }

    fn last_words(&self) -> String {
        tail(&fs::read_to_string(self.file("broker.log")).unwrap_or_default())
    }

    /// The series was clean: its files go.
    fn remove(mut self) -> Result<(), Failed> {
        self.kill_broker();
        drop(self.disk.take());
        let mount = self.mount.take().expect("it is mounted");
        mount.unmount()?;
        fs::remove_dir_all(self.file("tree"))?;
        if self.file("state").exists() {
            fs::remove_file(self.file("state"))?;
        }
        Ok(())
    }
}

impl Drop for Series<'_> {
    /// After a failure: nothing runs, nothing is mounted, and the files are there as `tree`.
    fn drop(&mut self) {
        if let Some(mut broker) = self.broker.take() {
            broker.process.kill();
            if let Some(mount) = self.mount.as_ref().filter(|mount| !mount.is_on()) {
                mount.power_off();
            }
            broker.process.join();
        }
        drop(self.disk.take());
        if let Some(mount) = self.mount.take() {
            let _ = mount.unmount();
        }
    }
}

fn start_mount(options: &Options) -> io::Result<Mount> {
    match options.file_system {
        None => Mount::start(&options.directory),
        // The loop device writes no smaller ones, and file systems count on them to be whole.
        Some(_) => Mount::start_with_sectors(&options.directory, SECTOR_SIZE),
    }
}

/// From the line that the broker writes when it serves.
fn ready_address(path: &Path) -> Option<String> {
    let said = fs::read_to_string(path).ok()?;
    let (line, _) = said.split_once('\n')?;
    Some(line.strip_prefix("odradek ready: ")?.split(',').next()?.to_string())
}

fn flushes(counts: Counts) -> u64 {
    counts.file_flushes + counts.directory_flushes
}

fn told(loss: &Loss) -> String {
    let Loss { sectors_unflushed, sectors_dropped, names_unflushed, names_dropped } = loss;
    format!(
        "{sectors_dropped} of {sectors_unflushed} unflushed sectors and {names_dropped} of {names_unflushed} names dropped"
    )
}

/// The last lines, for a message.
fn tail(text: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
