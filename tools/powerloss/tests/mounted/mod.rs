//! A mounted volume in a directory of the test, where this machine allows it.

use odradek_powerloss::mount::Mount;
use tempfile::TempDir;

pub fn mounted() -> Option<(TempDir, Mount)> {
    let directory = directory_to_mount_in()?;
    let mount = Mount::start(directory.path()).expect("it can be mounted");
    Some((directory, mount))
}

/// `None`, with a line, where nothing can be mounted; under `CI=true` that is a failure.
pub fn directory_to_mount_in() -> Option<TempDir> {
    if let Some(reason) = Mount::unavailable() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
        eprintln!("SKIPPED: {reason}");
        return None;
    }
    Some(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory below target"))
}
