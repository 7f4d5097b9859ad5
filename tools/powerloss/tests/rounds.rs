//! The broker that was built with this test, through some losses of power.
//!
//! Needs root and /dev/fuse: without them it fails under `CI=true` and is skipped, with a line, elsewhere.
#![expect(clippy::disallowed_methods, reason = "tests use files")]

mod mounted;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use odradek_powerloss::process::{Process, wait_for};
use odradek_powerloss::rounds::{self, Options};

use mounted::{directory_to_mount_in, mounted};

#[test]
fn acknowledged_records_survive_losses_of_power() {
    run_rounds(&["journal=off"]);
}

#[test]
fn acknowledged_records_in_the_journal_survive_losses_of_power() {
    run_rounds(&[]);
}

fn run_rounds(settings: &[&str]) {
    let Some(directory) = directory_to_mount_in() else { return };
    let options = Options {
        broker: built("odradek"),
        load_generator: built("odradek-loadgen"),
        directory: directory.path().join("run"),
        rounds: 3,
        // Another each time: what happens depends on the machine's timing as much.
        seed: u64::from(std::process::id()),
        file_system: None,
        settings: settings.iter().map(ToString::to_string).collect(),
    };
    println!("seed {}", options.seed);
    if let Err(failed) = rounds::run(&options, &mut |line| println!("{line}")) {
        let kept = directory.keep();
        panic!("{failed}\nseed {}; everything is in {}", options.seed, kept.display());
    }
}

/// Somebody made it with `mkdir`, which flushes nothing; everything that is acknowledged lies below.
#[test]
fn name_of_the_data_directory_is_flushed_before_the_broker_serves() {
    for seed in 0..8 {
        let Some((directory, mount)) = mounted() else { return };
        let data = mount.path().join("data");
        fs::create_dir(&data).expect("an empty file system");
        let ready = directory.path().join("ready");
        let mut broker = Command::new(built("odradek"));
        broker.arg("start").arg("--data-dir").arg(&data);
        broker.args([
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "none",
            "--cores",
            "1",
            "--memory",
            "256MiB",
        ]);
        broker.stdout(File::create(&ready).expect("it can be made")).stderr(Stdio::null());
        let mut broker = Process::spawn(&mut broker).expect("it can be run");
        let serves = || fs::read_to_string(&ready).is_ok_and(|said| said.ends_with('\n')).then_some(());
        wait_for(Duration::from_secs(60), serves).expect("no interrupt").expect("it serves");
        broker.kill();
        mount.cut_now();
        mount.power_off();
        broker.join();
        mount.cut(seed).expect("it is unmounted");
        assert!(directory.path().join("tree/data/meta.properties").exists(), "seed {seed}");
    }
}

/// `None` where there is no FUSE.
/// Of the same build: tests lie in target/PROFILE/deps.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    let binary = test.ancestors().nth(2).expect("a directory of the build").join(name);
    assert!(binary.exists(), "{} is not there: build the whole workspace", binary.display());
    binary
}
