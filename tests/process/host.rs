//! Commands that look at the host: they measure, say so to programs too, and leave nothing behind.

use std::fs;
use std::process::{Command, Stdio};

use odradek_test_harness::{Broker, Routing, binary, wait_for};

#[test]
fn a_measured_disk_is_left_as_it_was() {
    // For a directory on a real file system.
    let broker = Broker::start(Routing::Node);
    let directory = broker.scratch().join("measured");
    fs::create_dir(&directory).expect("it can be made");
    let left = || fs::read_dir(&directory).expect("it can be listed").count();
    let bench = || {
        let mut command = Command::new(binary());
        command.args(["bench", "disk", "--json", "--dir"]).arg(&directory).stdin(Stdio::null());
        command
    };
    let output = bench().args(["--seconds", "1"]).output().expect("it can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("it is text");
    for figure in [
        "\"flush_overwriting\"",
        "\"flush_preallocated\"",
        "\"flush_many_preallocated\"",
        "\"size\": 1048576",
        "\"busy_p99_us\"",
    ] {
        assert!(printed.contains(figure), "{figure} is missing in {printed}");
    }
    assert_eq!(left(), 0);

    let mut interrupted =
        bench().args(["--seconds", "600"]).stdout(Stdio::null()).spawn().expect("it can be run");
    let descriptors = format!("/proc/{}/fd", interrupted.id());
    wait_for("its file", || {
        let open = fs::read_dir(&descriptors).expect("it runs");
        let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        targets.into_iter().any(|target| target.starts_with(&directory)).then_some(())
    });
    // Not SIGINT: what runs in the background of a script inherits that it is ignored.
    // SAFETY: kill takes no pointers; the process is our child and was not waited for.
    let result = unsafe { libc::kill(interrupted.id() as libc::pid_t, libc::SIGTERM) };
    assert_eq!(result, 0, "it has ended by itself");
    assert!(!interrupted.wait().expect("it is our child").success());
    assert_eq!(left(), 0, "an interrupted measurement leaves nothing");
}

#[test]
fn the_check_shows_what_an_acknowledgement_takes_where_there_is_a_directory() {
    let broker = Broker::start(Routing::Node);
    let check = |directory: &std::path::Path| {
        let mut command = Command::new(binary());
        let output = command.args(["tune", "check", "--data-dir"]).arg(directory).output();
        String::from_utf8(output.expect("it can be run").stdout).expect("it is text")
    };
    let line = |text: &str| {
        let line = text.lines().find(|line| line.contains("least acknowledgement")).expect("it is a setting");
        line.split_whitespace().next().expect("it has a status").to_string()
    };
    assert_ne!(line(&check(&broker.data_dir())), "unknown");
    assert_eq!(line(&check(&broker.scratch().join("none"))), "unknown");
}
