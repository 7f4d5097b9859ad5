//! The command line. Names and meanings are part of the product.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use odradek::codec::record_batch::Compression;

use crate::cluster::{Bootstrap, LogEnd, NewTopic};
use crate::consume::message::{FetchSetup, Isolation};
use crate::content::{Keys, Shape};
use crate::executor::Threads;
use crate::produce::message::Acks;
use crate::produce::run::ProduceConfig;
use crate::produce::worker::OnDisconnect;

/// Load generator and verifier for any Kafka-compatible broker.
#[derive(Debug, Parser)]
#[command(name = "odradek-loadgen", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sends records: as fast as they are acknowledged, or at a constant --rate.
    Produce(ProduceFlags),
    /// Reads records and counts them.
    Consume(ConsumeFlags),
    /// Sends stamped records and checks that each acknowledged one is read once, in order, unaltered.
    Verify(VerifyFlags),
    /// Keeps many consumer groups going, and measures heartbeats, commits, a large join and memory.
    Groups(GroupsFlags),
}

#[derive(Clone, Debug, Args)]
pub struct CommonFlags {
    /// Brokers to start from, HOST:PORT[,HOST:PORT...].
    #[arg(long, required = true, value_delimiter = ',')]
    pub brokers: Vec<String>,
    #[arg(long)]
    pub topic: String,
    /// Connections over all leaders; each leader gets at least one.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// CPU of the first thread (the others follow), or one per thread, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Write the result as JSON to a file, or to standard output for -.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// No progress line and no summary.
    #[arg(long)]
    pub quiet: bool,
}

impl CommonFlags {
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap { addresses: self.brokers.clone() }
    }

    pub fn threads(&self) -> Threads {
        Threads { count: self.threads.max(1), cpus: self.cpus.clone(), ..Threads::default() }
    }
}

#[derive(Clone, Debug, Args)]
pub struct CreateFlags {
    /// Create the topic first, unless it is there.
    #[arg(long)]
    pub create: bool,
    #[arg(long, default_value_t = 1)]
    pub partitions: u32,
    /// -1: the broker's default.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub replication_factor: i16,
    /// Topic property for --create, NAME=VALUE; repeatable.
    #[arg(long = "topic-config", value_parser = parse_pair)]
    pub configs: Vec<(String, String)>,
}

impl CreateFlags {
    pub fn new_topic(&self, name: &str) -> Option<NewTopic> {
        self.create.then(|| NewTopic {
            name: name.to_string(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.configs.clone(),
        })
    }
}

#[derive(Clone, Debug, Args)]
pub struct ProduceFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    #[command(flatten)]
    pub create: CreateFlags,
    /// Bytes of each record's value.
    #[arg(long, value_parser = parse_size)]
    pub record_size: usize,
    #[arg(long, required_unless_present = "duration")]
    pub records: Option<u64>,
    /// Such as 500ms, 30s, 2m.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Records per second over all connections, whatever the broker does; without it a request is
    /// sent for each that is answered.
    #[arg(long)]
    pub rate: Option<f64>,
    #[arg(long, default_value = "all")]
    pub acks: Acks,
    /// Bytes of a full batch before compression.
    #[arg(long, default_value = "65536", value_parser = parse_size)]
    pub batch_bytes: usize,
    /// Batches per request, each for another partition that the connection's broker leads.
    #[arg(long, default_value_t = 1)]
    pub batches_per_request: usize,
    /// With --rate: how long a record waits for others in its request.
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    pub linger: Duration,
    /// Requests in flight per connection.
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    #[arg(long, default_value = "none", value_parser = parse_compression)]
    pub compression: Compression,
    /// none, sequential or zipf:N.
    #[arg(long, default_value = "none")]
    pub keys: Keys,
    /// With a producer id and sequences, so that retries are stored once.
    #[arg(long)]
    pub idempotent: bool,
    /// Produce in transactions under this id; each further connection under ID-1, ID-2 and so on.
    #[arg(long, requires = "transaction_records")]
    pub transactional_id: Option<String>,
    /// Records per transaction.
    #[arg(long, requires = "transactional_id")]
    pub transaction_records: Option<u64>,
    /// How long a batch is retried before its records count as failed.
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    pub delivery_timeout: Duration,
}

impl ProduceFlags {
    pub fn config(&self) -> ProduceConfig {
        ProduceConfig {
            bootstrap: self.common.bootstrap(),
            topic: self.common.topic.clone(),
            create: self.create.new_topic(&self.common.topic),
            shape: Shape {
                record_size: self.record_size,
                batch_size: self.batch_bytes,
                keys: self.keys,
                compression: self.compression,
            },
            records_per_batch: None,
            records: self.records,
            duration: self.duration,
            rate: self.rate,
            acks: self.acks,
            batches_per_request: self.batches_per_request,
            linger: self.linger,
            in_flight: self.in_flight,
            connections: self.common.connections,
            exclusive_partitions: false,
            idempotent: self.idempotent,
            transactional: self.transactional_id.clone().zip(self.transaction_records),
            delivery_timeout: self.delivery_timeout,
            on_disconnect: OnDisconnect::Retry,
            threads: self.common.threads(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum From {
    Earliest,
    Latest,
}

impl From {
    pub fn log_end(self) -> LogEnd {
        match self {
            From::Earliest => LogEnd::Earliest,
            From::Latest => LogEnd::Latest,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub struct ConsumeFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    #[arg(long, required_unless_present = "duration")]
    pub records: Option<u64>,
    /// Such as 500ms, 30s, 2m.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Consume in this group, each connection as a member; goes on where the group has got to.
    #[arg(long)]
    pub group: Option<String>,
    /// With --group: where nothing was committed yet.
    #[arg(long, value_enum, default_value = "earliest")]
    pub from: From,
    /// Pass over records of open and aborted transactions.
    #[arg(long)]
    pub read_committed: bool,
    #[command(flatten)]
    pub fetch: FetchFlags,
}

#[derive(Clone, Debug, Args)]
pub struct FetchFlags {
    /// Bytes of one answer.
    #[arg(long, default_value = "4MiB", value_parser = parse_size)]
    pub fetch_bytes: usize,
    /// Bytes of one partition's part of an answer.
    #[arg(long, default_value = "1MiB", value_parser = parse_size)]
    pub partition_fetch_bytes: usize,
    /// How long the broker may hold an empty answer back.
    #[arg(long, default_value = "500ms", value_parser = parse_duration)]
    pub fetch_wait: Duration,
    /// Give up when nothing arrives for this long.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// Do not check the CRC of batches.
    #[arg(long)]
    pub no_crc_check: bool,
}

impl FetchFlags {
    /// What they mean on the wire.
    pub fn setup(&self, topic: &str, isolation: Isolation) -> FetchSetup {
        FetchSetup {
            topic: topic.to_string(),
            isolation,
            bytes_max: self.fetch_bytes as i32,
            partition_bytes_max: self.partition_fetch_bytes as i32,
            bytes_min: 1,
            wait_max_ms: self.fetch_wait.as_millis().min(60_000) as i32,
        }
    }
}

/// Which half of a verification runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Produces and reads at the same time.
    Both,
    /// Produces, and leaves what was acknowledged in --state.
    Produce,
    /// Reads everything and checks it against --state.
    Read,
}

#[derive(Clone, Debug, Args)]
pub struct VerifyFlags {
    #[command(flatten)]
    pub common: CommonFlags,
    #[command(flatten)]
    pub create: CreateFlags,
    #[arg(long, required_unless_present_any = ["duration", "phase"])]
    pub records: Option<u64>,
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    #[arg(long, value_enum, default_value = "both")]
    pub phase: Phase,
    /// Where the produce phase leaves what was acknowledged, and goes on from when it exists.
    #[arg(long, value_name = "FILE", required_if_eq_any = [("phase", "produce"), ("phase", "read")])]
    pub state: Option<PathBuf>,
    /// Partitions that the read phase looks at, such as 0,3,5; all without it.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub only: Option<Vec<i32>>,
    /// End the produce phase when a connection breaks, rather than reconnect and retry.
    #[arg(long)]
    pub stop_on_disconnect: bool,
    /// Bytes of each record's value.
    #[arg(long, default_value = "100", value_parser = parse_size)]
    pub record_size: usize,
    #[arg(long)]
    pub rate: Option<f64>,
    #[arg(long, default_value = "all")]
    pub acks: Acks,
    #[arg(long, default_value = "16384", value_parser = parse_size)]
    pub batch_bytes: usize,
    #[arg(long, default_value_t = 1)]
    pub batches_per_request: usize,
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    pub linger: Duration,
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    #[arg(long, default_value = "none", value_parser = parse_compression)]
    pub compression: Compression,
    #[arg(long, default_value = "120s", value_parser = parse_duration)]
    pub delivery_timeout: Duration,
    #[command(flatten)]
    pub fetch: FetchFlags,
}

#[derive(Clone, Debug, Args)]
pub struct GroupsFlags {
    /// Brokers to start from, HOST:PORT[,HOST:PORT...].
    #[arg(long, required = true, value_delimiter = ',')]
    pub brokers: Vec<String>,
    /// What is committed to, and produced to beside it; created if it is not there.
    #[arg(long, default_value = "odradek-groups")]
    pub topic: String,
    /// Groups whose members send heartbeats.
    #[arg(long, default_value_t = 1000)]
    pub groups: usize,
    /// Members of each.
    #[arg(long, default_value_t = 10)]
    pub members: usize,
    /// Groups that a connection has a member in.
    #[arg(long, default_value_t = 10)]
    pub groups_per_connection: usize,
    /// Between two heartbeats of a member.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub heartbeat: Duration,
    /// Commits per second over all members, each of one partition.
    #[arg(long, default_value_t = 10_000.0)]
    pub commit_rate: f64,
    /// Flushed records per second beside them, one at a time.
    #[arg(long, default_value_t = 100.0)]
    pub produce_rate: f64,
    /// How long heartbeats and commits go on.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Members that then join one more group, all at once.
    #[arg(long, default_value_t = 1000)]
    pub join: usize,
    /// Groups that then commit once and are left alone, for the memory that they take.
    #[arg(long, default_value_t = 10_000)]
    pub idle: usize,
    /// The broker's process, on this machine, whose resident memory is read.
    #[arg(long)]
    pub pid: Option<u32>,
    /// CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Write the result as JSON to a file, or to standard output for -.
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// 500us, 20ms, 30s, 2m, 1h; a plain number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: f64 = number.parse().map_err(|_| format!("'{text}' is not a duration such as 30s"))?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" | "" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(format!("'{unit}' is not a unit of time; use us, ms, s, m or h")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| format!("'{text}' is too long"))
}

/// 1000, 64KiB, 1MiB, 2GiB, or 10kB, 1MB, 1GB.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: usize = number.parse().map_err(|_| format!("'{text}' is not a size such as 64KiB"))?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return Err(format!("'{unit}' is not a unit of size; use KiB, MiB or GiB")),
    };
    number.checked_mul(factor).filter(|size| *size <= 1 << 30).ok_or(format!("'{text}' is too large"))
}

fn parse_compression(text: &str) -> Result<Compression, String> {
    let found = Compression::ALL.into_iter().find(|codec| codec.name() == text);
    found.ok_or_else(|| "use none, gzip, snappy, lz4 or zstd".to_string())
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE")?;
    Ok((name.to_string(), value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_of_the_manual_parses() {
        let produce = "odradek-loadgen produce --brokers a:1,b:2 --topic t --create --partitions 8 --record-size 100 \
             --duration 30s --rate 1000 --acks all --batch-bytes 65536 --batches-per-request 1 --linger 0ms \
             --in-flight 5 --connections 1 --compression lz4 --keys zipf:10 --idempotent --transactional-id x \
             --transaction-records 5 --threads 1 --cpus 1 --json - --quiet";
        let cli = Cli::try_parse_from(produce.split_whitespace()).unwrap();
        let Command::Produce(flags) = cli.command else { panic!("not produce") };
        assert_eq!(flags.common.brokers, ["a:1", "b:2"]);
        assert_eq!(flags.duration, Some(Duration::from_secs(30)));
        for line in [
            "odradek-loadgen produce --brokers a:1 --topic t --record-size 100 --records 5 --acks 1",
            "odradek-loadgen consume --brokers a:1 --topic t --records 5 --group g --from latest --read-committed",
            "odradek-loadgen consume --brokers a:1 --topic t --duration 5s --from earliest",
            "odradek-loadgen verify --brokers a:1 --topic t --records 10000000",
            "odradek-loadgen verify --brokers a:1 --topic t --phase read --state f",
            "odradek-loadgen groups --brokers a:1 --groups 5 --members 2 --commit-rate 10 --join 0 --idle 0 --pid 7",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_ok(), "{line}");
        }
        for line in [
            "odradek-loadgen produce --brokers a:1 --topic t --record-size 100",
            "odradek-loadgen verify --brokers a:1 --topic t --phase read",
            "odradek-loadgen produce --brokers a:1 --topic t --record-size 9 --records 1 --acks 2",
        ] {
            assert!(Cli::try_parse_from(line.split_whitespace()).is_err(), "{line}");
        }
    }

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(parse_duration("1.5ms"), Ok(Duration::from_micros(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("x").is_err());
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1MB"), Ok(1_000_000));
        assert!(parse_size("9999GiB").is_err());
    }
}
