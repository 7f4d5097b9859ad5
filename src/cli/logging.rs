//! Logs to standard error: human on a terminal, JSON for collectors.

use std::io::IsTerminal;

use odradek::config::LogFormat;
use tracing_subscriber::EnvFilter;

use super::Failure;

/// Installs the process's log writer. Once.
pub fn start(format: LogFormat, level: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| format!("`{level}` is not a log level ({error}): use info, debug or a filter"))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    // A log line that cannot be written is lost. To say so would be another write to the same file,
    // by a macro that panics when that fails: the disk that the log is on may be full.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let installed = if json {
        subscriber.json().flatten_event(true).try_init()
    } else {
        subscriber.with_ansi(terminal).try_init()
    };
    installed.map_err(|error| format!("logging cannot be started: {error}").into())
}
