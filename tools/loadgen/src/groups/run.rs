//! The command: groups form and go on, a large one joins, many lie idle; what each took.

use std::collections::BTreeMap;
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use serde::Serialize;

use crate::clock;
use crate::cluster::{Bootstrap, NewTopic};
use crate::connection::Connection;
use crate::executor::{Threads, run_threads};
use crate::flags::GroupsFlags;
use crate::groups::formation::Formation;
use crate::groups::load::{Load, Plan, Requests, Slot, produce};
use crate::groups::member::{Member, NONE};
use crate::summary::{LatencySummary, micros, write_json};

/// Bytes of a connection's receive buffer: answers are small, but for those to leaders.
const RECEIVE_SIZE: usize = 16 << 10;
/// Connections that are opened at a time.
const CONNECTING: usize = 64;
/// The group of the first commits.
const WARM_UP: &str = "odradek-groups-warm-up";
/// Connections that idle groups are made over.
const IDLE_CONNECTIONS: usize = 32;

/// Requests of one kind, as the result has them.
#[derive(Clone, Debug, Serialize)]
pub struct RequestsReport {
    pub count: u64,
    pub per_second: f64,
    pub latency_us: Option<LatencySummary>,
    pub errors: BTreeMap<i16, u64>,
}

impl RequestsReport {
    fn of(requests: &Requests, seconds: f64) -> RequestsReport {
        let count = requests.latency.len();
        RequestsReport {
            count,
            per_second: count as f64 / seconds,
            latency_us: LatencySummary::of(&requests.latency),
            errors: requests.errors.clone(),
        }
    }

    fn line(&self, name: &str) -> String {
        let latency = self.latency_us.as_ref().map_or_else(String::new, |latency| {
            let named = latency.named();
            named.map(|(name, us)| format!("{name} {}", micros(us))).join("  ")
        });
        let errors = match self.errors.is_empty() {
            true => String::new(),
            false => format!("  errors {:?}", self.errors),
        };
        format!("{name:>12}  {:>9.0}/s  {latency}{errors}", self.per_second)
    }
}

/// What is known of a process's memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Resident {
    pub before_bytes: u64,
    pub after_bytes: u64,
    pub per_group_bytes: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupsReport {
    pub groups: usize,
    pub members: usize,
    pub forming_seconds: f64,
    /// The broker's, with all members of the groups.
    pub members_resident: Option<Resident>,
    pub heartbeats: Option<RequestsReport>,
    pub commits: Option<RequestsReport>,
    pub produced: Option<RequestsReport>,
    /// How many times the p99 of a commit is that of a flushed produce.
    pub commit_to_produce_p99: Option<f64>,
    pub join_members: usize,
    /// From the first join to the last assignment of the generation that has all of them.
    pub join_seconds: Option<f64>,
    pub join_generations: i32,
    pub idle_groups: usize,
    pub idle_resident: Option<Resident>,
    pub client_cpu_seconds: f64,
}

/// Returns whether every request was answered as it should be.
pub fn run(flags: &GroupsFlags) -> anyhow::Result<bool> {
    raise_file_limit();
    let threads = Threads { count: 1, cpus: flags.cpu.into_iter().collect(), ..Threads::default() };
    let wanted = flags.clone();
    let body = move |_, gate: std::sync::Arc<crate::executor::Gate>| {
        let flags = wanted.clone();
        async move {
            gate.pass().await.context("another thread failed")?;
            measure(&flags).await
        }
    };
    let finished = run_threads("groups", &threads, body, |_| {})?;
    let mut report = finished.results.into_iter().next().context("there is one thread")?;
    report.client_cpu_seconds = finished.cpu_seconds;
    let kinds = || [&report.heartbeats, &report.commits, &report.produced].into_iter().flatten();
    let is_fine = kinds().all(|requests| requests.errors.is_empty());
    show(flags, &report)?;
    Ok(is_fine)
}

async fn measure(flags: &GroupsFlags) -> anyhow::Result<GroupsReport> {
    let bootstrap = Bootstrap { addresses: flags.brokers.clone() };
    let topic =
        NewTopic { name: flags.topic.clone(), partitions: 1, replication_factor: -1, configs: Vec::new() };
    let leaders = bootstrap.create_topic(&topic).await?;
    let address = leaders.first().context("the topic has a leader")?.address.clone();
    warm_up(&address, flags).await?;
    let mut report = GroupsReport {
        groups: flags.groups,
        members: flags.members,
        join_members: flags.join,
        idle_groups: flags.idle,
        ..GroupsReport::default()
    };
    if flags.groups > 0 {
        keep_going(&address, flags, &mut report).await?;
    }
    if flags.join > 0 {
        join_at_once(&address, flags, &mut report).await?;
    }
    if flags.idle > 0 {
        lie_idle(&address, flags, &mut report).await?;
    }
    Ok(report)
}

/// The first commit of all makes the broker's internal topic.
async fn warm_up(address: &str, flags: &GroupsFlags) -> anyhow::Result<()> {
    let mut connection = Connection::open(address, RECEIVE_SIZE).await?;
    find_coordinator(&mut connection).await?;
    let give_up = clock::now().after(Duration::from_secs(30));
    loop {
        let error = Member::new(WARM_UP).commit(&mut connection, &flags.topic, 0, 0).await?;
        if error == NONE {
            return Ok(());
        }
        anyhow::ensure!(clock::now() < give_up, "offsets cannot be committed: error {error}");
        glommio::timer::sleep(Duration::from_millis(100)).await;
    }
}

/// Asked for a coordinator, brokers make the topic that it keeps its state in.
async fn find_coordinator(connection: &mut Connection) -> anyhow::Result<()> {
    let request = kafka_protocol::messages::FindCoordinatorRequest::default()
        .with_key(kafka_protocol::protocol::StrBytes::from_static_str(WARM_UP));
    connection.call(&request, 2).await?;
    Ok(())
}

async fn open_all(address: &str, count: usize) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let some = CONNECTING.min(count - connections.len());
        let opened = (0..some).map(|_| Connection::open(address, RECEIVE_SIZE));
        connections.extend(try_join_all(opened).await?);
    }
    Ok(connections)
}

/// One commit on each, so that what a connection takes is taken already.
async fn touch_all(connections: &mut [Connection], topic: &str) -> anyhow::Result<()> {
    let member = Member::new(WARM_UP);
    for connection in connections {
        member.commit(connection, topic, 0, 0).await?;
    }
    Ok(())
}

fn resident(flags: &GroupsFlags) -> anyhow::Result<Option<u64>> {
    let Some(pid) = flags.pid else { return Ok(None) };
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .with_context(|| format!("{path} has no VmRSS"))?;
    Ok(Some(kib << 10))
}

fn per_group(before: Option<u64>, after: Option<u64>, groups: usize) -> Option<Resident> {
    let (before_bytes, after_bytes) = before.zip(after)?;
    let per_group_bytes = (after_bytes as f64 - before_bytes as f64) / groups as f64;
    Some(Resident { before_bytes, after_bytes, per_group_bytes })
}

/// All groups form, then heartbeats and commits go on for a while.
async fn keep_going(address: &str, flags: &GroupsFlags, report: &mut GroupsReport) -> anyhow::Result<()> {
    let sets = flags.groups.div_ceil(flags.groups_per_connection);
    let slot_count = sets * flags.members;
    let mut connections = open_all(address, slot_count).await?;
    touch_all(&mut connections, &flags.topic).await?;
    let before = resident(flags)?;
    let begun = clock::now();
    let formations: Rc<Vec<Formation>> =
        Rc::new((0..flags.groups).map(|_| Formation::new(flags.members)).collect());
    let mut forming = Vec::new();
    for (number, mut connection) in connections.into_iter().enumerate() {
        let (set, place) = (number / flags.members, number % flags.members);
        let first = set * flags.groups_per_connection;
        let groups = first..flags.groups.min(first + flags.groups_per_connection);
        let (formations, topic) = (formations.clone(), flags.topic.clone());
        forming.push(glommio::spawn_local(async move {
            let mut members = Vec::new();
            for group in groups {
                let mut member = Member::new(&format!("odradek-groups-{group}"));
                formations[group].take_part(place, &mut member, &mut connection, &topic).await?;
                members.push(member);
            }
            anyhow::Ok(Slot { connection, number, slot_count, members })
        }));
    }
    let slots = try_join_all(forming).await?;
    report.forming_seconds = clock::now().since(begun).as_secs_f64();
    report.members_resident = per_group(before, resident(flags)?, flags.groups);

    let load = Rc::new(Load::default());
    let start = clock::now().after(Duration::from_millis(100));
    let per_slot = flags.commit_rate / slot_count as f64;
    let plan = Plan {
        topic: flags.topic.clone(),
        start,
        end: start.after(flags.duration),
        heartbeat: flags.heartbeat,
        commit: (per_slot > 0.0).then(|| Duration::from_secs_f64(1.0 / per_slot)),
    };
    let running = slots.into_iter().map(|slot| glommio::spawn_local(slot.run(plan.clone(), load.clone())));
    let running: Vec<_> = running.collect();
    if flags.produce_rate > 0.0 {
        let connection = Connection::open(address, RECEIVE_SIZE).await?;
        let interval = Duration::from_secs_f64(1.0 / flags.produce_rate);
        produce(connection, plan.clone(), interval, load.clone()).await?;
    }
    // Members stay: their connections end here, their sessions do not.
    try_join_all(running).await?;
    let seconds = flags.duration.as_secs_f64();
    report.heartbeats = Some(RequestsReport::of(&load.heartbeats.borrow(), seconds));
    report.commits = Some(RequestsReport::of(&load.commits.borrow(), seconds));
    report.produced = Some(RequestsReport::of(&load.produced.borrow(), seconds));
    let (commits, produced) = (load.commits.borrow(), load.produced.borrow());
    if !commits.latency.is_empty() && !produced.latency.is_empty() {
        let p99 = |requests: &Requests| requests.latency.value_at_quantile(0.99) as f64;
        report.commit_to_produce_p99 = Some(p99(&commits) / p99(&produced));
    }
    Ok(())
}

/// Many members join one group at the same moment.
async fn join_at_once(address: &str, flags: &GroupsFlags, report: &mut GroupsReport) -> anyhow::Result<()> {
    let connections = open_all(address, flags.join).await?;
    let formation = Rc::new(Formation::new(flags.join));
    let begun = clock::now();
    let joining = connections.into_iter().enumerate().map(|(number, mut connection)| {
        let (formation, topic) = (formation.clone(), flags.topic.clone());
        glommio::spawn_local(async move {
            let mut member = Member::new("odradek-groups-large");
            formation.take_part(number, &mut member, &mut connection, &topic).await
        })
    });
    let joining: Vec<_> = joining.collect();
    try_join_all(joining).await?;
    report.join_seconds = formation.formed_at().map(|at| at.since(begun).as_secs_f64());
    report.join_generations = formation.generation();
    Ok(())
}

/// Groups that commit one offset and are left alone.
async fn lie_idle(address: &str, flags: &GroupsFlags, report: &mut GroupsReport) -> anyhow::Result<()> {
    let mut connections = open_all(address, IDLE_CONNECTIONS.min(flags.idle)).await?;
    touch_all(&mut connections, &flags.topic).await?;
    let count = connections.len();
    let before = resident(flags)?;
    let making = connections.into_iter().enumerate().map(|(first, mut connection)| {
        let (topic, idle) = (flags.topic.clone(), flags.idle);
        glommio::spawn_local(async move {
            for group in (first..idle).step_by(count) {
                let member = Member::new(&format!("odradek-groups-idle-{group}"));
                let error = member.commit(&mut connection, &topic, 0, 1).await?;
                anyhow::ensure!(error == NONE, "an idle group cannot commit: error {error}");
            }
            anyhow::Ok(())
        })
    });
    let making: Vec<_> = making.collect();
    try_join_all(making).await?;
    report.idle_resident = per_group(before, resident(flags)?, flags.idle);
    Ok(())
}

/// A connection is a file; their soft limit is often 1024.
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live, writable `rlimit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer is to a live `rlimit`. Where it fails, connecting says so.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

fn show(flags: &GroupsFlags, report: &GroupsReport) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    if flags.groups > 0 {
        lines.push(format!(
            "{} groups of {} members formed in {:.1} s",
            report.groups, report.members, report.forming_seconds
        ));
    }
    let kinds =
        [("heartbeats", &report.heartbeats), ("commits", &report.commits), ("produced", &report.produced)];
    lines.extend(kinds.into_iter().filter_map(|(name, requests)| Some(requests.as_ref()?.line(name))));
    if let Some(ratio) = report.commit_to_produce_p99 {
        lines.push(format!("p99 of a commit is {ratio:.2} times that of a flushed produce"));
    }
    if let Some(seconds) = report.join_seconds {
        let (members, generations) = (report.join_members, report.join_generations);
        lines
            .push(format!("{members} members joined one group in {seconds:.2} s, {generations} generations"));
    }
    for (name, resident) in [("of members", report.members_resident), ("idle", report.idle_resident)] {
        if let Some(resident) = resident {
            lines.push(format!(
                "a group {name} takes {:.0} bytes of resident memory",
                resident.per_group_bytes
            ));
        }
    }
    let text = lines.join("\n");
    let to_stdout = flags.json.as_deref() == Some(std::path::Path::new("-"));
    match to_stdout {
        true => writeln!(std::io::stderr(), "{text}")?,
        false => writeln!(std::io::stdout(), "{text}")?,
    }
    if let Some(path) = &flags.json {
        write_json(report, path).context("the result was not written")?;
    }
    Ok(())
}
