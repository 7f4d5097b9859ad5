//! The rounds and the verdicts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use odradek_powerloss::process::{Interrupted, wait_for};
use odradek_powerloss::random::Random;

use crate::broker::{Interruption, PARTITIONS, Started, Verdict, World, named};
use crate::changes::{Changes, Met, Shared, What};
use crate::damage::{Damage, Ended, Expected, damage};

/// Kills on one data directory, so that reading everything back stays short.
const SERIES: u32 = 10;

/// What a machine that does other work may take between two records. After damage, which may well end
/// what there is, nobody waits as long.
const READ_PATIENCE: Duration = Duration::from_secs(20);
const DAMAGED_PATIENCE: Duration = Duration::from_secs(5);

/// Within this a stop is killed: some of it, or all.
const STOP_TIME: Duration = Duration::from_millis(400);

/// Starts that are killed one after the other, at most.
const STARTS_KILLED_MAX: u64 = 3;

/// What the load generator says after that.
const GAVE_UP: &str = "nothing arrived for";

/// What no damage may lead to: the load generator's words.
const NEVER: [&str; 4] = ["invented", "altered", "duplicated", "reordered"];

#[derive(Clone, Debug)]
pub struct Options {
    pub broker: PathBuf,
    pub load_generator: PathBuf,
    /// Holds everything that is to be looked at after a violation.
    pub directory: PathBuf,
    /// Holds the log directories: the same, or on a file system of its own.
    pub data: PathBuf,
    pub kills: u32,
    pub damages: u32,
    pub seed: u64,
    /// Of the broker.
    pub log_dirs: u32,
    /// Of the broker, as `NAME=VALUE`.
    pub settings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The broker broke a promise.
    #[error("{round}: {what}")]
    Violation { round: String, what: String },
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Nothing is known about the broker.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

/// Runs all rounds and tells a line after each. What the kills have met is counted.
pub fn run(options: &Options, met: &Arc<Met>, tell: &mut dyn FnMut(&str)) -> Result<(), Failed> {
    std::fs::create_dir_all(&options.directory).context("the directory")?;
    for (at, journal) in [false, true].into_iter().enumerate() {
        // The first half without a journal, of an odd number one more.
        let share = |count: u32| if journal { count / 2 } else { count.div_ceil(2) };
        let mut random = Random::of(options.seed, at as u64);
        kills(options, journal, share(options.kills), met, &mut random, tell)?;
        for round in 1..=share(options.damages) {
            // Every round has its own dice: it can be looked at alone.
            let mut random = Random::of(options.seed, u64::from(round) << 8 | at as u64);
            let name = format!("damage-{}{round}", if journal { "journal-" } else { "" });
            let line = damage_round(options, &name, journal, &mut random)?;
            tell(&format!("{name}: {line}"));
        }
    }
    Ok(())
}

fn violation(round: &str, what: impl Into<String>) -> Failed {
    Failed::Violation { round: round.to_owned(), what: what.into() }
}

fn kills(
    options: &Options,
    journal: bool,
    count: u32,
    met: &Arc<Met>,
    random: &mut Random,
    tell: &mut dyn FnMut(&str),
) -> Result<(), Failed> {
    let mut done = 0;
    while done < count {
        let name = format!("kill-{}{}", if journal { "journal-" } else { "" }, done + 1);
        let mut world = World::new(options, &name, journal)?;
        let shared = Shared::new(met.clone());
        start(&mut world, &name)?;
        for _ in 0..SERIES.min(count - done) {
            done += 1;
            let name = format!("kill-{}{done}", if journal { "journal-" } else { "" });
            let line = kill_round(&mut world, &shared, &name, random)?;
            tell(&format!("{name}: {line}"));
        }
        world.remove()?;
    }
    Ok(())
}

fn kill_round(
    world: &mut World<'_>,
    shared: &Shared,
    name: &str,
    random: &mut Random,
) -> Result<String, Failed> {
    let after = Duration::from_millis(300 + random.below(2700));
    let producer = world.produce(batch_bytes(random))?;
    let mut changes = Changes::start(shared, world.address(), random);
    let failed = wait_for(after, || changes.failure())?;
    if let Some(failed) = failed {
        return Err(violation(name, format!("under load: {failed} (the broker: {:?})", world.ended())));
    }
    let mut story = end(world, shared, name, random)?;
    story.push_str(&format!(" after {} ms", after.as_millis()));
    if let Some(refused) = changes.join() {
        return Err(violation(name, format!("{story}, before that: {refused}")));
    }
    world.wait_for_producer(producer)?;
    if random.one_in(3) {
        for _ in 0..1 + random.below(STARTS_KILLED_MAX) {
            match world.start_and_kill(random)? {
                Interruption::Killed { after } => {
                    shared.met.add(What::KilledInStart, 1);
                    story.push_str(&format!(", again {} ms into the start", after.as_millis()));
                }
                Interruption::TooLate => story.push_str(", again behind the start"),
                Interruption::Ended(said) => {
                    return Err(violation(name, format!("{story}, the broker did not start: {said}")));
                }
            }
        }
    }
    start(world, name)?;
    let wrong =
        shared.judge(world.address()).map_err(|error| violation(name, format!("{story}: {error}")))?;
    if !wrong.is_empty() {
        return Err(violation(name, format!("{story}:\n{}", wrong.join("\n"))));
    }
    let mut verdict = world.read(&all(), READ_PATIENCE)?;
    if !verdict.clean && verdict.said.contains(GAVE_UP) {
        // Either nothing comes, and will not now, or this machine stood still.
        story.push_str(", read twice");
        verdict = world.read(&all(), READ_PATIENCE)?;
    }
    if !verdict.clean {
        return Err(violation(name, format!("{story}: {}", verdict.said)));
    }
    Ok(format!("{story}: {}", last_line(&verdict)))
}

/// Mostly by a kill; else by a stop, which is killed half of the time.
fn end(world: &mut World<'_>, shared: &Shared, name: &str, random: &mut Random) -> Result<String, Failed> {
    let ended = match random.below(6) {
        0 => Some(world.stop()?),
        1 => {
            let after = random.below(STOP_TIME.as_millis() as u64);
            let ended = world.stop_and_kill(Duration::from_millis(after))?;
            if ended.is_none() {
                shared.met.add(What::KilledInStop, 1);
                return Ok(format!("killed {after} ms into a stop"));
            }
            ended
        }
        _ => {
            world.kill();
            return Ok("killed".to_owned());
        }
    };
    match ended.filter(|status| !status.success()) {
        None => Ok("stopped".to_owned()),
        Some(status) => Err(violation(name, format!("the stop ended in {status}"))),
    }
}

fn damage_round(options: &Options, name: &str, journal: bool, random: &mut Random) -> Result<String, Failed> {
    let mut world = World::new(options, name, journal)?;
    start(&mut world, name)?;
    // Recovery points are written every five seconds; some rounds have them.
    let (min, max) = if random.one_in(2) { (5500, 7500) } else { (400, 2000) };
    let after = Duration::from_millis(min + random.below(max - min));
    let producer = world.produce(batch_bytes(random))?;
    wait(after)?;
    let clean = random.one_in(4);
    if clean {
        world.stop()?;
    } else {
        world.kill();
    }
    world.wait_for_producer(producer)?;
    let damage = damage(&world.data_dirs(), Ended { clean, journal }, random)?;
    let file = damage.file.strip_prefix(&world.data).unwrap_or(&damage.file).display().to_string();
    let ended = if clean { "stopped" } else { "killed" };
    let story = format!("{ended} after {} ms, {file}: {}", after.as_millis(), damage.how);
    let outcome = judge(&mut world, &damage).map_err(|failed| match failed {
        Verdicts::Violation(what) => violation(name, format!("{story}, {:?}: {what}", damage.expected)),
        Verdicts::Failed(failed) => failed,
    })?;
    world.remove()?;
    Ok(format!("{story}: {outcome}"))
}

enum Verdicts {
    Violation(String),
    Failed(Failed),
}

impl<E: Into<Failed>> From<E> for Verdicts {
    fn from(error: E) -> Verdicts {
        Verdicts::Failed(error.into())
    }
}

/// Starts on damaged files and says what became of it, if that may be.
fn judge(world: &mut World<'_>, damage: &Damage) -> Result<String, Verdicts> {
    let refuse = |what: String| Err(Verdicts::Violation(what));
    if let Started::Refused(said) = world.start()? {
        let file = damage.file.file_name().map(|name| name.to_string_lossy().into_owned());
        let names_it = file.is_some_and(|file| said.contains(&file));
        return match damage.expected == Expected::NoStart && names_it {
            true => Ok(format!("no start: {said}")),
            false => refuse(format!("the broker did not start: {said}")),
        };
    }
    let offline = world.offline()?;
    let metric = world.offline_metric()?;
    if metric != offline.len() as u64 {
        return refuse(format!("the log says that {offline:?} are offline, the metric that {metric} are"));
    }
    let may_be_offline: BTreeSet<i32> = match damage.expected {
        Expected::Served | Expected::NoStart => BTreeSet::new(),
        Expected::AnyOffline | Expected::SomeOffline => all(),
        Expected::Offline | Expected::OfflineOrServed | Expected::Noticed | Expected::Cut => {
            damage.partition.into_iter().collect()
        }
    };
    if !offline.is_subset(&may_be_offline) {
        return refuse(format!("{offline:?} are offline"));
    }
    let must_be_told = matches!(damage.expected, Expected::Offline | Expected::SomeOffline);
    if must_be_told && offline.is_empty() {
        return refuse("the damage was not noticed".to_owned());
    }
    let suspect = damage.partition.filter(|_| matches!(damage.expected, Expected::Noticed | Expected::Cut));
    let others: BTreeSet<i32> =
        all().into_iter().filter(|id| !offline.contains(id) && Some(*id) != suspect).collect();
    if !others.is_empty() {
        let verdict = world.read(&others, DAMAGED_PATIENCE)?;
        if !verdict.clean && damage.expected == Expected::AnyOffline {
            return match only_ends_are_lost(world, &verdict)? {
                true => Ok(format!("{offline:?} offline; of the others only the end is gone")),
                false => refuse(verdict.said),
            };
        }
        if !verdict.clean {
            return refuse(format!("of {others:?}: {}", verdict.said));
        }
    }
    let Some(suspect) = suspect.filter(|id| !offline.contains(id)) else {
        return Ok(match offline.is_empty() {
            true => "all is served".to_owned(),
            false => format!("{offline:?} offline, all else is served"),
        });
    };
    let verdict = world.read(&BTreeSet::from([suspect]), DAMAGED_PATIENCE)?;
    if verdict.clean {
        return Ok("all is served".to_owned());
    }
    if NEVER.iter().any(|word| verdict.said.contains(word)) {
        return refuse(verdict.said);
    }
    match damage.expected {
        Expected::Cut => {
            let warned = named(&world.log()?, "torn tail was cut").contains(&suspect);
            let lost = verdict.said.lines().find(|line| line.starts_with("lost: ")).unwrap_or_default();
            match warned && only_ends_are_lost(world, &verdict)? {
                true => Ok(format!("cut, with a warning; {lost}")),
                false => refuse(verdict.said),
            }
        }
        _ => {
            let error = verdict.said.lines().find(|line| line.starts_with("odradek-loadgen: "));
            match error {
                Some(error) => Ok(format!("noticed by its reader: {error}")),
                None => refuse(verdict.said),
            }
        }
    }
}

/// Whether everything that is wrong is that the newest acknowledged records of partitions are not there.
fn only_ends_are_lost(world: &World<'_>, verdict: &Verdict) -> Result<bool, Failed> {
    let mut partitions = BTreeSet::new();
    for line in verdict.said.lines() {
        if NEVER.iter().any(|word| line.contains(word)) || line.starts_with("odradek-loadgen: ") {
            return Ok(false);
        }
        let Some(rest) = line.strip_prefix("lost: partition ") else { continue };
        let partition = rest.split(',').next().and_then(|partition| partition.parse().ok());
        let partition: i32 = partition.with_context(|| format!("the load generator said {line:?}"))?;
        let last = world.acknowledged_end(partition)?.saturating_sub(1);
        // Of one partition only one row of records can be its end.
        if !partitions.insert(partition) || rest.rsplit(' ').next() != Some(&last.to_string()) {
            return Ok(false);
        }
    }
    Ok(!partitions.is_empty())
}

fn start(world: &mut World<'_>, round: &str) -> Result<(), Failed> {
    match world.start()? {
        Started::Serving => Ok(()),
        Started::Refused(said) => Err(violation(round, format!("the broker did not start: {said}"))),
    }
}

fn batch_bytes(random: &mut Random) -> u64 {
    [1000, 16_384, 100_000][random.below(3) as usize]
}

fn all() -> BTreeSet<i32> {
    (0..PARTITIONS).collect()
}

fn wait(time: Duration) -> Result<(), Failed> {
    wait_for(time, || None::<()>)?;
    Ok(())
}

fn last_line(verdict: &Verdict) -> &str {
    verdict.said.lines().last().unwrap_or_default()
}
