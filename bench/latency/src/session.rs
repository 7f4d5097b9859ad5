//! A whole run: topics, calibration, then rounds in which the targets take turns, so that a slow
//! minute of the machine hits all of them.

use std::io::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use odradek_loadgen::clock;
use odradek_loadgen::cluster::{Bootstrap, NewTopic};
use odradek_loadgen::executor::block_on;
use odradek_loadgen::stats::latencies;
use odradek_loadgen::summary::{LatencySummary, micros};

use crate::bare::{Bare, BareRound};
use crate::flags::{OfTarget, RunFlags};
use crate::outcome::{Curve, Machine, Outcome, RoundOutcome, TargetOutcome, WorkloadOutcome, median};
use crate::round::{Dose, Place, Round, fill, run as run_round};
use crate::workload::{Load, NAMES, Reader, Workload, named};

/// Rounds per target, and how long each takes, of workloads that do not say.
const ROUNDS: usize = 5;
const DURATION: Duration = Duration::from_secs(10);

/// Distributions of one target, for the `.hgrm` files.
pub struct Distributions {
    pub workload: String,
    pub target: String,
    pub acknowledged: Histogram<u64>,
    pub end_to_end: Histogram<u64>,
}

/// Runs everything that the flags name. A workload that a target cannot do is left out for all, with
/// the reason.
pub fn run(flags: &RunFlags) -> anyhow::Result<(Outcome, Vec<Distributions>)> {
    anyhow::ensure!(flags.rounds != Some(0), "--rounds must be at least 1");
    anyhow::ensure!(flags.scale > 0.0, "--scale must be above zero");
    anyhow::ensure!(flags.rate.is_none_or(|rate| rate > 0.0), "--rate must be above zero");
    check_names(flags)?;
    let mut workloads = Vec::new();
    for name in &flags.workloads {
        match named(name, flags.scale) {
            Some(found) => workloads.extend(
                found
                    .into_iter()
                    .map(|workload| Workload { linger: flags.linger.unwrap_or(workload.linger), ..workload }),
            ),
            None => anyhow::bail!("there is no workload '{name}'; there are {}", NAMES.join(", ")),
        }
    }
    let mut outcome = Outcome {
        machine: Machine::this(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        label: flags.label.clone(),
        rounds: flags.rounds.unwrap_or(ROUNDS),
        seconds_per_round: flags.duration.unwrap_or(DURATION).as_secs_f64(),
        workloads: Vec::new(),
        skipped: Vec::new(),
    };
    let mut distributions = Vec::new();
    for workload in &workloads {
        say(&format!("{}: {}", workload.name, workload.about));
        match run_workload(flags, workload) {
            Ok((result, of_workload)) => {
                outcome.workloads.push(result);
                distributions.extend(of_workload);
            }
            Err(error) => {
                say(&format!("{}: left out: {error:#}", workload.name));
                outcome.skipped.push((workload.name.clone(), format!("{error:#}")));
            }
        }
    }
    anyhow::ensure!(!outcome.workloads.is_empty(), "no workload could be run");
    Ok((outcome, distributions))
}

fn check_names(flags: &RunFlags) -> anyhow::Result<()> {
    let known = |name: &str| flags.targets.iter().any(|target| target.name == name);
    let pids = flags.broker_pids.iter().map(|of| &of.name);
    for name in pids.chain(flags.durabilities.iter().map(|of| &of.name)) {
        anyhow::ensure!(known(name), "there is no target '{name}'");
    }
    for (at, target) in flags.targets.iter().enumerate() {
        let twice = flags.targets[..at].iter().any(|other| other.name == target.name);
        anyhow::ensure!(!twice, "two targets are called '{}'", target.name);
        let taken = BARE_NAMES.contains(&target.name.as_str());
        anyhow::ensure!(!taken, "'{}' is what --bare is called in the report", target.name);
    }
    Ok(())
}

/// How the two distributions of `--bare` are called.
const BARE_NAMES: [&str; 2] = ["bare-flush", "bare-round-trip"];

/// One target's share of a workload while it runs.
struct Course {
    place: Place,
    rounds: Vec<Round>,
    /// The same load without its readers, where that is the base of the figure.
    alone: Vec<Round>,
}

fn run_workload(
    flags: &RunFlags,
    workload: &Workload,
) -> anyhow::Result<(WorkloadOutcome, Vec<Distributions>)> {
    let mut courses = Vec::new();
    let mut bare = Vec::new();
    let result = prepare(flags, workload, &mut courses)
        .and_then(|()| take_turns(flags, workload, &mut courses, &mut bare));
    for course in &courses {
        if !flags.keep_topics {
            // A topic that stays is a nuisance, not a failure of the measurement.
            if let Ok(Err(error)) = block_on(course.place.bootstrap.delete_topic(&course.place.topic)) {
                say(&format!("{} stays: {error}", course.place.topic));
            }
        }
    }
    let rate_wanted = result?;
    let mut targets = Vec::new();
    let mut distributions = Vec::new();
    let mut notes = Vec::new();
    for (course, target) in courses.into_iter().zip(&flags.targets) {
        notes.extend(beside_alone(target, &course));
        notes.extend(resident(target, &course.rounds));
        if !course.alone.is_empty() {
            let alone = OfTarget { name: format!("{}-alone", target.name), value: target.value.clone() };
            let (outcome, of_target) = conclude(flags, workload, &alone, course.alone);
            let durability = durability(flags, target);
            targets.push(TargetOutcome { durability, ..outcome });
            distributions.push(of_target);
        }
        let (outcome, of_target) = conclude(flags, workload, target, course.rounds);
        targets.push(outcome);
        distributions.push(of_target);
    }
    notes.iter().for_each(|note| say(&format!("  {note}")));
    if let Some(directory) = &flags.bare {
        let (flushes, round_trips) = bare
            .into_iter()
            .map(|round| {
                let of = |latency| Round::of_requests(latency, round.seconds);
                (of(round.write_and_flush), of(round.round_trip))
            })
            .unzip();
        for (name, rounds) in BARE_NAMES.into_iter().zip([flushes, round_trips]) {
            let target = OfTarget { name: name.to_string(), value: directory.display().to_string() };
            let (outcome, of_target) = conclude(flags, workload, &target, rounds);
            targets.push(TargetOutcome { durability: "flushed".to_string(), ..outcome });
            distributions.push(of_target);
        }
    }
    let (name, about) = (workload.name.clone(), workload.about.to_string());
    let open_loop = workload.is_open_loop();
    Ok((WorkloadOutcome { name, about, open_loop, rate_wanted, targets, notes }, distributions))
}

/// What readers of history do to the producers: the ratio of both p99s, round by round.
fn beside_alone(target: &OfTarget<String>, course: &Course) -> Option<String> {
    let p99 = |round: &Round| round.outcome.acknowledged.map(|latency| latency.p99);
    let pairs: Vec<(f64, f64)> =
        course.alone.iter().zip(&course.rounds).filter_map(|(a, b)| p99(a).zip(p99(b))).collect();
    if pairs.is_empty() {
        return None;
    }
    let median_of = |of: fn(&(f64, f64)) -> f64| median(pairs.iter().map(of).collect());
    Some(format!(
        "{}: p99 {} alone, {} beside the readers of history: {:.2} times (medians of {} rounds)",
        target.name,
        micros(median_of(|(alone, _)| *alone)),
        micros(median_of(|(_, beside)| *beside)),
        median_of(|(alone, beside)| beside / alone.max(1e-9)),
        pairs.len()
    ))
}

/// Whether the broker's memory has grown.
fn resident(target: &OfTarget<String>, rounds: &[Round]) -> Option<String> {
    let bytes: Vec<f64> =
        rounds.iter().flat_map(|round| &round.outcome.resident_over_time).map(|(_, bytes)| *bytes).collect();
    let (first, last) = (bytes.first()?, bytes.last()?);
    let most = bytes.iter().copied().fold(0.0, f64::max);
    let mb = |bytes: f64| bytes / 1e6;
    Some(format!(
        "{}: resident memory {:.0} MB at first, {:.0} MB at most, {:.0} MB at the end",
        target.name,
        mb(*first),
        mb(most),
        mb(*last)
    ))
}

fn durability(flags: &RunFlags, target: &OfTarget<String>) -> String {
    let named = flags.durabilities.iter().find(|of| of.name == target.name);
    named.map_or("unknown".to_string(), |of| of.value.clone())
}

/// Creates a topic on each target, and its history.
fn prepare(flags: &RunFlags, workload: &Workload, courses: &mut Vec<Course>) -> anyhow::Result<()> {
    for target in &flags.targets {
        let bootstrap = Bootstrap { addresses: target.value.split(',').map(str::to_string).collect() };
        let topic = format!("odradek-latency-{}-{}", workload.name, clock::wall_ms());
        let configs = workload
            .topic_configs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let new = NewTopic {
            name: topic.clone(),
            partitions: workload.partitions,
            replication_factor: flags.replication_factor,
            configs,
        };
        let leaders = block_on(bootstrap.create_topic(&new))?
            .map_err(|error| anyhow::anyhow!("{}: {error}", target.name))?;
        let broker_pid = flags.broker_pids.iter().find(|of| of.name == target.name).map(|of| of.value);
        let place = Place { bootstrap, topic, leaders, broker_pid, cpus: flags.cpus.clone() };
        if let Reader::History { bytes, .. } = workload.reader {
            say(&format!("  {}: writing {:.1} GB of history", target.name, bytes as f64 / 1e9));
            fill(&place, workload, bytes)?;
        }
        courses.push(Course { place, rounds: Vec::new(), alone: Vec::new() });
    }
    Ok(())
}

/// Warms up, finds the rate, and runs the rounds. Returns the rate that was asked for.
fn take_turns(
    flags: &RunFlags,
    workload: &Workload,
    courses: &mut [Course],
    bare: &mut Vec<BareRound>,
) -> anyhow::Result<Option<f64>> {
    let mut peak: Option<f64> = None;
    let calm = Workload { reader: Reader::None, ..workload.clone() };
    for (course, target) in courses.iter().zip(&flags.targets) {
        let round = run_round(&course.place, &calm, Dose { rate: None, duration: flags.warm_up })?;
        let reached = round.outcome.records_per_second;
        say(&format!("  {}: {reached:.0} records/s at full speed", target.name));
        peak = Some(peak.map_or(reached, |peak| peak.min(reached)));
    }
    let rate = match workload.load {
        Load::Peak => None,
        Load::Share(share) => flags.rate.or(peak.map(|peak| (peak * share).max(1.0))),
    };
    let duration = flags.duration.or(workload.duration).unwrap_or(DURATION);
    let rounds = flags.rounds.unwrap_or(if workload.duration.is_some() { 1 } else { ROUNDS });
    let dose = Dose { rate, duration };
    let has_base = matches!(workload.reader, Reader::History { .. });
    for round in 0..rounds {
        for turn in 0..courses.len() {
            // Another target starts each round.
            let at = (round + turn) % courses.len();
            if has_base {
                let result = run_round(&courses[at].place, &calm, dose)?;
                say(&progress(round, &format!("{}, alone", flags.targets[at].name), &result));
                courses[at].alone.push(result);
                settle();
            }
            let result = run_round(&courses[at].place, workload, dose)?;
            say(&progress(round, &flags.targets[at].name, &result));
            courses[at].rounds.push(result);
        }
        if let Some(directory) = &flags.bare {
            settle();
            let result = Bare {
                directory: directory.clone(),
                client_cpu: flags.cpus.first().copied(),
                serving_cpu: flags.bare_cpu,
            }
            .run(rate, duration)?;
            say(&bare_progress(round, &result));
            bare.push(result);
        }
        settle();
    }
    Ok(rate)
}

fn progress(round: usize, target: &str, result: &Round) -> String {
    let p99 =
        |latency: Option<LatencySummary>| latency.map_or("-".to_string(), |latency| micros(latency.p99));
    format!(
        "  round {}: {}: {:.0} records/s, p99 {} acknowledged, {} end to end",
        round + 1,
        target,
        result.outcome.records_per_second,
        p99(result.outcome.acknowledged),
        p99(result.outcome.end_to_end)
    )
}

fn bare_progress(round: usize, result: &BareRound) -> String {
    let p99 = |latency| LatencySummary::of(latency).map_or("-".to_string(), |latency| micros(latency.p99));
    let (flush, round_trip) = (p99(&result.write_and_flush), p99(&result.round_trip));
    format!("  round {}: bare: p99 {flush} write and flush, {round_trip} round trip", round + 1)
}

/// Lets write-back and connection teardown of a round end before the next one.
fn settle() {
    std::thread::park_timeout(Duration::from_millis(200));
}

fn conclude(
    flags: &RunFlags,
    workload: &Workload,
    target: &OfTarget<String>,
    rounds: Vec<Round>,
) -> (TargetOutcome, Distributions) {
    let (mut acknowledged, mut end_to_end) = (latencies(), latencies());
    for round in &rounds {
        acknowledged.add(&round.acknowledged).expect("all histograms have the same bounds");
        end_to_end.add(&round.end_to_end).expect("all histograms have the same bounds");
    }
    let per_second = |of: fn(&RoundOutcome) -> f64| median(rounds.iter().map(|r| of(&r.outcome)).collect());
    let gigabytes: f64 = rounds.iter().map(|round| round.outcome.bytes as f64 / 1e9).sum();
    let millions: f64 = rounds.iter().map(|round| round.outcome.records as f64 / 1e6).sum();
    let broker_cpu: Option<f64> = rounds.iter().map(|round| round.broker_cpu_seconds).sum();
    let client_cpu: f64 = rounds.iter().map(|round| round.client_cpu_seconds).sum();
    let read: Option<Vec<f64>> = rounds.iter().map(|round| round.read_megabytes_per_second).collect();
    let outcome = TargetOutcome {
        name: target.name.clone(),
        address: target.value.clone(),
        durability: durability(flags, target),
        records_per_second: per_second(|round| round.records_per_second),
        megabytes_per_second: per_second(|round| round.bytes as f64 / 1e6 / round.seconds.max(1e-9)),
        errors: rounds.iter().map(|round| round.errors).sum(),
        acknowledged: Curve::of(&acknowledged),
        end_to_end: Curve::of(&end_to_end),
        read_megabytes_per_second: read.filter(|read| !read.is_empty()).map(median),
        broker_cpu_seconds_per_gigabyte: broker_cpu.map(|cpu| cpu / gigabytes.max(1e-9)),
        broker_cpu_seconds_per_million_records: broker_cpu.map(|cpu| cpu / millions.max(1e-9)),
        client_cpu_seconds_per_gigabyte: client_cpu / gigabytes.max(1e-9),
        rounds: rounds.into_iter().map(|round| round.outcome).collect(),
    };
    let (workload, target) = (workload.name.clone(), target.name.clone());
    (outcome, Distributions { workload, target, acknowledged, end_to_end })
}

fn say(line: &str) {
    // Progress is for a person; a closed standard error does not end the run.
    let _ = writeln!(std::io::stderr(), "{line}");
}
