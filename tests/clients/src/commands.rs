//! The broker's own commands, for what no client shows.

use std::process::Command;

use odradek_test_harness::{Broker, binary};
use serde_json::Value;

use crate::client::Answer;

/// Asks the broker by its port for clients.
pub fn ask(broker: &Broker, arguments: &[&str]) -> Answer<Value> {
    run(&[arguments, &["--json", "--brokers", &broker.bootstrap()]].concat())
}

/// Asks it by its admin port.
pub fn ask_admin(broker: &Broker, arguments: &[&str]) -> Answer<Value> {
    run(&[arguments, &["--json", "--admin", &format!("127.0.0.1:{}", broker.admin_port())]].concat())
}

fn run(arguments: &[&str]) -> Answer<Value> {
    let output = Command::new(binary()).args(arguments).output();
    let output = output.map_err(|error| format!("{arguments:?} cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{arguments:?} prints no JSON: {error}"))
}
