//! The command line. Names and meanings are part of the product.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use odradek_loadgen::flags::parse_duration;

/// Latency of Kafka-compatible brokers, side by side, from the intended send time.
#[derive(Debug, Parser)]
#[command(name = "odradek-latency", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs workloads against one or several brokers and writes a report.
    Run(Box<RunFlags>),
    /// Shows how two reports differ.
    Compare(CompareFlags),
}

/// NAME=VALUE, where the name is a target's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfTarget<T> {
    pub name: String,
    pub value: T,
}

#[derive(Clone, Debug, Args)]
pub struct RunFlags {
    /// A broker, NAME=HOST:PORT; repeatable.
    #[arg(long = "target", required = true, value_parser = of_target::<String>)]
    pub targets: Vec<OfTarget<String>>,
    /// Workloads, separated by commas.
    #[arg(long = "workload", required = true, value_delimiter = ',')]
    pub workloads: Vec<String>,
    /// Where the report goes.
    #[arg(long, default_value = "latency-report")]
    pub report: PathBuf,
    /// Rounds per target; the targets take turns. Without it 5; 1 for `retention` and `compact`.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Of one round. Without it 10s; 10m for `retention` and `compact`.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Load before the first round that is not measured; also how long the peak is looked for.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// Records per second for the workloads at a constant rate; without it half of what the slowest
    /// target reaches.
    #[arg(long)]
    pub rate: Option<f64>,
    /// How long a batch waits for more records, instead of what the workload says.
    #[arg(long, value_parser = parse_duration)]
    pub linger: Option<Duration>,
    /// Measure in turn with the targets what a flushed round trip costs without a broker: a loop of
    /// request, 4 KiB write, fdatasync and answer, with its file in this directory.
    #[arg(long, value_name = "DIR")]
    pub bare: Option<PathBuf>,
    /// CPU of that loop's writing thread: the broker's.
    #[arg(long, value_name = "CPU", requires = "bare")]
    pub bare_cpu: Option<usize>,
    /// Shrinks partitions, connections and history, for small machines.
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Process of a target's broker, NAME=PID: its CPU time and memory are reported.
    #[arg(long = "broker-pid", value_parser = of_target::<u32>)]
    pub broker_pids: Vec<OfTarget<u32>>,
    /// What an acknowledgement of a target means, NAME=flushed|written|memory.
    #[arg(long = "durability", value_parser = of_target::<String>)]
    pub durabilities: Vec<OfTarget<String>>,
    /// CPU of the producing thread and of the reading one, separated by a comma.
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// Free text for the report: commits, settings.
    #[arg(long, default_value = "")]
    pub label: String,
    /// -1: the broker's default.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    pub replication_factor: i16,
    /// Leave the topics of the run there.
    #[arg(long)]
    pub keep_topics: bool,
}

#[derive(Clone, Debug, Args)]
pub struct CompareFlags {
    /// Report directory that is the base of the ratios.
    pub base: PathBuf,
    pub other: PathBuf,
    /// Write both reports' curves into one HTML file.
    #[arg(long)]
    pub report: Option<PathBuf>,
}

fn of_target<T: std::str::FromStr>(text: &str) -> Result<OfTarget<T>, String> {
    let (name, value) = text.split_once('=').ok_or("use NAME=VALUE")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("'{name}' is not a name: letters, digits, '-', '_' and '.'"));
    }
    let value = value.parse().map_err(|_| format!("'{value}' is not what {name} should be"))?;
    Ok(OfTarget { name: name.to_string(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manuals_lines_parse() {
        let line = "odradek-latency run --target a=h:1 --target b=h:2 --workload steady-1k,small --report d \
             --broker-pid a=12 --durability a=flushed --linger 0ms --bare . --bare-cpu 0";
        let Command::Run(flags) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not run")
        };
        assert_eq!(flags.targets[1], OfTarget { name: "b".into(), value: "h:2".into() });
        assert_eq!(flags.workloads, ["steady-1k", "small"]);
        assert_eq!((flags.linger, flags.bare_cpu), (Some(Duration::ZERO), Some(0)));
        let alone = "odradek-latency run --target a=h:1 --workload small --bare-cpu 0";
        assert!(Cli::try_parse_from(alone.split_whitespace()).is_err());
        assert!(Cli::try_parse_from(["odradek-latency", "compare", "a", "b"]).is_ok());
        assert!(of_target::<u32>("a=x").is_err());
        assert!(of_target::<u32>("../a=1").is_err());
    }
}
