//! `odradek start`: checks the host, starts the admin thread and the shards, and waits for the end.

use std::sync::Arc;

use clap::Args;
use futures::channel::oneshot;
use odradek::admin::{self, AdminHandle};
use odradek::config::{Config, HostPort};
use odradek::metrics::Sources;
use odradek::preflight::{self, Preflight};
use odradek::shard;
use odradek::shard::peers::discovery::cluster_to_join;

use super::settings::{SETTINGS_HELP, SettingsArguments};
use super::signals::StopSignals;
use super::{Failure, logging, print};

#[derive(Debug, Args)]
#[command(after_help = SETTINGS_HELP)]
pub struct StartArguments {
    #[command(flatten)]
    settings: SettingsArguments,
}

pub fn run(arguments: &StartArguments) -> Result<(), Failure> {
    run_as(&arguments.settings.resolve()?, First::NotHere)
}

/// Whether it may be the first start of a node of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// An empty data directory is one that was lost, or is not mounted.
    NotHere,
    Here,
}

pub fn run_as(config: &Config, first: First) -> Result<(), Failure> {
    logging::start(config.log_format, &config.log_level)?;
    let signals = StopSignals::block()?; // No thread exists yet.
    abort_on_panic();
    let preflight = preflight::run(config, &|config| {
        if first == First::NotHere && config.peer_listen.is_some() && config.join.is_empty() {
            return Err(format!(
                "{} is empty: the first node of a cluster is started by `odradek cluster create`, others by \
                 `odradek cluster join`",
                config.metadata_dir().display()
            ));
        }
        cluster_to_join(config, || signals.is_pending())
    })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster_id = preflight.metadata.identity.cluster_id,
        node_id = config.node_id.0,
        cores = config.cores,
        memory_bytes = config.memory_bytes,
        file_system = preflight.metadata.file_system.name,
        "starting"
    );
    let admin = match &config.admin_listen {
        Some(listen) => Some(Arc::new(admin::start(listen)?)),
        None => None,
    };
    let result = serve(config, preflight, signals, admin.clone());
    if let Some(admin) = admin.and_then(Arc::into_inner) {
        admin.stop();
    }
    result
}

/// Runs the shards on this thread's behalf until they have stopped.
fn serve(
    config: &Config,
    preflight: Preflight,
    signals: StopSignals,
    admin: Option<Arc<AdminHandle>>,
) -> Result<(), Failure> {
    let (stop, stopped) = oneshot::channel();
    let stopping = admin.clone();
    signals.on_first(move || {
        if let Some(admin) = stopping {
            admin.stopping();
        }
        let _ = stop.send(()); // The shards may have ended by themselves.
    })?;

    let ready = ready_line(config, &preflight);
    let on_serving = move |sources: Sources| {
        if let Some(admin) = admin {
            admin.serving(sources);
        }
        if let Err(error) = print(&ready) {
            tracing::warn!(%error, "standard output is closed");
        }
    };
    Ok(shard::executor::run(config, &preflight, stopped, on_serving)?)
}

/// What scripts wait for.
fn ready_line(config: &Config, preflight: &Preflight) -> String {
    let address = HostPort { port: preflight.listeners.base.port(), ..config.listen.clone() };
    let directories: Vec<String> = config.data_dirs.iter().map(|path| path.display().to_string()).collect();
    format!("odradek ready: {address}, {} cores, {}\n", config.cores, directories.join(", "))
}

/// A broken assertion ends the process in every build: a shard that is gone while the others go on
/// would be a lie, and replicas and restarts recover from a crash.
fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
}
