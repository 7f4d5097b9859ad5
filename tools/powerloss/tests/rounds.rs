//! The broker that was built with this test, through some losses of power.
//!
//! Needs root and /dev/fuse: without them it fails under `CI=true` and is skipped, with a line, elsewhere.

use std::path::PathBuf;

use odradek_powerloss::mount::Mount;
use odradek_powerloss::rounds::{self, Options};

#[test]
fn acknowledged_records_survive_losses_of_power() {
    if let Some(reason) = Mount::unavailable() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
        eprintln!("SKIPPED: {reason}");
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory below target");
    let options = Options {
        broker: built("odradek"),
        load_generator: built("odradek-loadgen"),
        directory: directory.path().join("run"),
        rounds: 3,
        // Another each time: what happens depends on the machine's timing as much.
        seed: u64::from(std::process::id()),
    };
    println!("seed {}", options.seed);
    if let Err(failed) = rounds::run(&options, &mut |line| println!("{line}")) {
        let kept = directory.keep();
        panic!("{failed}\nseed {}; everything is in {}", options.seed, kept.display());
    }
}

/// Of the same build: tests lie in target/PROFILE/deps.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    let binary = test.ancestors().nth(2).expect("a directory of the build").join(name);
    assert!(binary.exists(), "{} is not there: build the whole workspace", binary.display());
    binary
}
