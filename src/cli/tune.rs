//! `odradek tune check`: this host's settings beside those that the broker runs best with.
//!
//! The settings are data (`tuning/settings.toml`, compiled in), so that the command, the drop-ins
//! and the documentation cannot differ. It changes no setting; for the least latency of an
//! acknowledgement it writes for a second into a file without a name.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use odradek::preflight;
use serde::Deserialize;
use serde_json::json;

use super::table::Table;
use super::{Failure, print, print_json};

#[derive(Debug, Args)]
pub struct TuneArguments {
    #[command(subcommand)]
    command: TuneCommand,
}

#[derive(Debug, Subcommand)]
enum TuneCommand {
    /// Show each setting: the value found, the value wanted, and why. Changes none
    Check {
        /// Data directory whose disk is looked at
        #[arg(long, value_name = "DIR", default_value = "./odradek-data", env = "ODRADEK_DATA_DIR")]
        data_dir: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// The settings, as data.
const SETTINGS: &str = include_str!("../../tuning/settings.toml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    setting: Vec<Setting>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    name: String,
    read: Source,
    #[serde(default)]
    path: String,
    /// The file lists all values and marks the present one with brackets.
    #[serde(default)]
    choice: bool,
    #[serde(default)]
    wanted: Vec<String>,
    min: Option<u64>,
    max: Option<u64>,
    #[serde(default)]
    per_cpu: bool,
    why: String,
    evidence: String,
    fix: String,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Source {
    #[serde(rename = "io_uring")]
    IoUring,
    Memlock,
    OpenFiles,
    File,
    Cpu,
    Block,
    Acknowledgement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    /// The host does not say: a virtual machine without the file, a file system without a device.
    Unknown,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Unknown => "unknown",
        }
    }
}

/// What the values are read from, besides /proc and /sys.
struct Host {
    cpus: Vec<usize>,
    /// Below /sys; the device itself, not its partition.
    block_device: Option<PathBuf>,
    data_dir: PathBuf,
}

pub fn run(arguments: &TuneArguments) -> Result<(), Failure> {
    let TuneCommand::Check { data_dir, json } = &arguments.command;
    let settings: Settings = toml::from_str(SETTINGS)?;
    let host = Host {
        cpus: preflight::machine().cpus_allowed,
        block_device: block_device(data_dir),
        data_dir: data_dir.clone(),
    };
    let checked = settings.setting.iter().map(|setting| {
        let found = setting.found(&host);
        (setting, setting.judge(found.as_deref(), host.cpus.len()), found)
    });
    let checked: Vec<_> = checked.collect();
    if *json {
        let rows = checked.iter().map(|(setting, verdict, found)| {
            json!({
                "name": setting.name,
                "status": verdict.name(),
                "found": found,
                "wanted": setting.wanted_text(host.cpus.len()),
                "why": setting.why,
                "evidence": setting.evidence,
                "fix": setting.fix,
            })
        });
        return print_json(&rows.collect());
    }
    let mut table = Table::new(&["STATUS", "SETTING", "FOUND", "WANTED"]);
    for (setting, verdict, found) in &checked {
        let found = found.as_deref().unwrap_or("-");
        table.row(&[verdict.name(), &setting.name, found, &setting.wanted_text(host.cpus.len())]);
    }
    let mut text = table.to_string();
    for (setting, ..) in checked.iter().filter(|(_, verdict, _)| *verdict == Verdict::Warn) {
        text.push_str(&format!("\n{}: {}\n  to change it: {}\n", setting.name, setting.why, setting.fix));
    }
    print(&text)
}

impl Setting {
    fn found(&self, host: &Host) -> Option<String> {
        match self.read {
            Source::IoUring => Some(match preflight::probe_io_uring() {
                Ok(()) => "allowed".to_string(),
                Err(error) => error.to_string(),
            }),
            Source::Memlock => {
                let limit = preflight::current_resources().memlock_bytes;
                Some(limit.map_or("unlimited".to_string(), |bytes| bytes.to_string()))
            }
            Source::OpenFiles => Some(preflight::current_resources().open_files.to_string()),
            Source::File => self.read_file(Path::new(&self.path)),
            Source::Cpu => {
                let root = Path::new("/sys/devices/system/cpu");
                let paths = host.cpus.iter().map(|cpu| root.join(format!("cpu{cpu}")).join(&self.path));
                let mut values: Vec<_> = paths.map(|path| self.read_file(&path)).collect::<Option<_>>()?;
                values.sort();
                values.dedup();
                Some(values.join(","))
            }
            Source::Acknowledgement => {
                super::bench::acknowledgement_us_p99(&host.data_dir).map(|us| us.to_string())
            }
            Source::Block => self.read_file(&host.block_device.as_ref()?.join(&self.path)),
        }
    }

    fn read_file(&self, path: &Path) -> Option<String> {
        let contents = std::fs::read_to_string(path).ok()?;
        let value = contents.trim();
        if self.choice { marked(value).map(str::to_string) } else { Some(value.to_string()) }
    }

    fn judge(&self, found: Option<&str>, cpus: usize) -> Verdict {
        let Some(found) = found else { return Verdict::Unknown };
        let number = if found == "unlimited" { Some(u64::MAX) } else { found.parse().ok() };
        let met = match (self.bound(self.min, cpus), self.bound(self.max, cpus), number) {
            (None, None, _) => self.wanted.iter().any(|wanted| wanted == found),
            (_, _, None) => return Verdict::Unknown,
            (min, max, Some(number)) => {
                min.is_none_or(|min| min <= number) && max.is_none_or(|max| number <= max)
            }
        };
        if met { Verdict::Ok } else { Verdict::Warn }
    }

    fn bound(&self, bound: Option<u64>, cpus: usize) -> Option<u64> {
        let factor = if self.per_cpu { cpus as u64 } else { 1 };
        bound.map(|bound| bound.saturating_mul(factor))
    }

    fn wanted_text(&self, cpus: usize) -> String {
        match (self.bound(self.min, cpus), self.bound(self.max, cpus)) {
            (Some(min), Some(max)) => format!("{min} to {max}"),
            (Some(min), None) => format!("at least {min}"),
            (None, Some(max)) => format!("at most {max}"),
            (None, None) => self.wanted.join(" or "),
        }
    }
}

/// The present value in `none [mq-deadline] kyber`; a file with a single value marks none.
fn marked(values: &str) -> Option<&str> {
    match values.split_once('[') {
        Some((_, rest)) => rest.split_once(']').map(|(value, _)| value),
        None => Some(values),
    }
}

/// The device under the directory, or under the nearest one above it that exists.
fn block_device(data_dir: &Path) -> Option<PathBuf> {
    let existing = data_dir.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        std::fs::metadata(path).ok()
    })?;
    let (major, minor) = (libc::major(existing.dev()), libc::minor(existing.dev()));
    let device = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // A partition has no queue of its own; its disk is the directory above.
    let with_queue = device.ancestors().take(2).find(|path| path.join("queue").is_dir());
    with_queue.map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_complete_and_has_its_reason() {
        let settings = settings();
        assert!(settings.len() >= 9, "issue 2 names nine");
        for setting in settings {
            assert!(!setting.why.is_empty() && !setting.evidence.is_empty() && !setting.fix.is_empty());
            let needs_path = matches!(setting.read, Source::File | Source::Cpu | Source::Block);
            assert_eq!(needs_path, !setting.path.is_empty(), "{}", setting.name);
            let bounded = setting.min.is_some() || setting.max.is_some();
            assert_ne!(bounded, !setting.wanted.is_empty(), "{}: words or bounds", setting.name);
        }
    }

    #[test]
    fn values_are_compared_as_words_or_numbers() {
        let words = setting("wanted = ['madvise', 'never']");
        assert_eq!(words.judge(Some("madvise"), 1), Verdict::Ok);
        assert_eq!(words.judge(Some("always"), 1), Verdict::Warn);
        assert_eq!(words.judge(None, 1), Verdict::Unknown);
        let per_cpu = setting("min = 100\nper_cpu = true");
        assert_eq!(per_cpu.judge(Some("399"), 4), Verdict::Warn);
        assert_eq!(per_cpu.judge(Some("400"), 4), Verdict::Ok);
        assert_eq!(per_cpu.judge(Some("unlimited"), 4), Verdict::Ok);
        assert_eq!(per_cpu.wanted_text(4), "at least 400");
        assert_eq!(setting("max = 1").judge(Some("60"), 1), Verdict::Warn);
        assert_eq!(setting("max = 1").judge(Some("?"), 1), Verdict::Unknown);
        assert_eq!(marked("none [mq-deadline] kyber"), Some("mq-deadline"));
        assert_eq!(marked("none"), Some("none"));
    }

    #[test]
    fn the_sysctl_drop_in_satisfies_the_settings() {
        let drop_in = include_str!("../../tuning/99-odradek.conf");
        let mut lines = drop_in.lines().filter_map(|line| line.split_once(" = "));
        let settings = settings();
        for setting in settings.iter().filter(|setting| setting.fix == "tuning/99-odradek.conf") {
            let key = setting.path.trim_start_matches("/proc/sys/").replace('/', ".");
            let line = lines.clone().find(|(name, _)| *name == key);
            let (_, value) = line.unwrap_or_else(|| panic!("{key} is not in the drop-in"));
            assert_eq!(setting.judge(Some(value), 1), Verdict::Ok, "{key}");
        }
        let known =
            |name: &str| name == "kernel.io_uring_disabled" || settings.iter().any(|s| s.name == name);
        assert!(lines.all(|(name, _)| known(name)), "the drop-in sets nothing without a reason");
    }

    fn settings() -> Vec<Setting> {
        toml::from_str::<Settings>(SETTINGS).expect("the compiled-in data is valid").setting
    }

    fn setting(wanted: &str) -> Setting {
        let text = format!("name = 'x'\nread = 'memlock'\nwhy = 'x'\nevidence = 'x'\nfix = 'x'\n{wanted}");
        toml::from_str(&text).expect("valid")
    }
}
