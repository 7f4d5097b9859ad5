//! Locked memory and open files: raised as far as allowed, and compared with what is needed.
//!
//! The rings and their registered buffers are locked memory. An unprivileged process under the
//! usual limit of 8 MiB still starts, but the runtime then goes on with buffers that are not
//! registered, without a word: hence the warning here.

use super::last_error;
use crate::config::memory::MemoryPlan;

/// What the process may have, after raising.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// `None`: no limit.
    pub memlock_bytes: Option<u64>,
    pub open_files: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of locked memory is {limit} bytes and {cores} cores need at least {needed}: raise \
     `ulimit -l` (systemd: LimitMEMLOCK=infinity; /etc/security/limits.conf: memlock) or lower --cores"
)]
pub struct MemlockError {
    pub limit: u64,
    pub cores: usize,
    pub needed: u64,
}

/// Bytes of locked memory without which an executor does not start.
pub const MEMLOCK_PER_CORE_MIN: u64 = 512 << 10;

/// What happens when an executor's registration is refused. Logged with the limit in bytes and with
/// what all cores together want.
const UNREGISTERED: &str = "too little locked memory for the I/O buffers of all cores: those beyond it \
    are not registered with the kernel, and every read and write pins its pages anew, which costs \
    speed; raise `ulimit -l` or lower --memory";

/// Descriptors beside those of connections and segments: indexes, rings, the admin plane.
pub const OPEN_FILES_RESERVED: u64 = 2_000;

pub fn raise(
    cores: usize,
    memory: &MemoryPlan,
    (connections_max, segments_max): (usize, usize),
) -> Result<Resources, MemlockError> {
    // Not just what we need: the kernel counts all processes of the user together.
    raise_limit(libc::RLIMIT_MEMLOCK, libc::RLIM_INFINITY);
    // Half of it is what segments get at most.
    let open_files_wanted = (2 * segments_max as u64).max(connections_max as u64 + OPEN_FILES_RESERVED);
    raise_limit(libc::RLIMIT_NOFILE, open_files_wanted);

    let resources = current();
    if let Some(limit) = resources.memlock_bytes {
        let needed = MEMLOCK_PER_CORE_MIN * cores as u64;
        if limit < needed {
            return Err(MemlockError { limit, cores, needed });
        }
        let wanted = memory.locked() * cores as u64;
        if limit < wanted {
            tracing::warn!(limit, wanted, "{}", UNREGISTERED);
        }
    }
    if resources.open_files < open_files_wanted {
        tracing::warn!(
            limit = resources.open_files,
            wanted = open_files_wanted,
            "fewer open files than max.connections and open-files may need: raise `ulimit -n`"
        );
    }
    Ok(resources)
}

/// Raises the limit of open files for so many connections as far as allowed, and returns how many of them it has
/// room for.
pub fn make_room(connections: usize) -> usize {
    raise_limit(libc::RLIMIT_NOFILE, connections as u64 + OPEN_FILES_RESERVED);
    let open_files = limit(libc::RLIMIT_NOFILE).rlim_cur;
    connections.min(open_files.saturating_sub(OPEN_FILES_RESERVED) as usize)
}

/// The present soft limits; a process that may lock memory without limit has none.
pub fn current() -> Resources {
    let memlock = limit(libc::RLIMIT_MEMLOCK).rlim_cur;
    let unlimited = memlock == libc::RLIM_INFINITY || has_capability(CAP_IPC_LOCK);
    Resources {
        memlock_bytes: (!unlimited).then_some(memlock),
        open_files: limit(libc::RLIMIT_NOFILE).rlim_cur,
    }
}

/// From linux/capability.h.
const CAP_IPC_LOCK: u32 = 14;

fn has_capability(capability: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_some_and(|mask| mask >> capability & 1 == 1)
}

#[cfg(target_env = "musl")]
type Resource = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;

fn limit(resource: Resource) -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    let result = unsafe { libc::getrlimit(resource, &mut limit) };
    assert_eq!(result, 0, "getrlimit fails only on a bad resource or address: {}", last_error());
    limit
}

/// Both limits to `wanted` if we may, else the soft one as far as the hard one allows.
fn raise_limit(resource: Resource, wanted: u64) {
    let now = limit(resource);
    if now.rlim_cur >= wanted {
        return;
    }
    let both = libc::rlimit { rlim_cur: wanted, rlim_max: wanted.max(now.rlim_max) };
    let soft = libc::rlimit { rlim_cur: wanted.min(now.rlim_max), rlim_max: now.rlim_max };
    // SAFETY: both structures are readable; the process's limits belong to it.
    let raised = unsafe { libc::setrlimit(resource, &both) == 0 || libc::setrlimit(resource, &soft) == 0 };
    if !raised {
        tracing::debug!(error = %last_error(), "a resource limit could not be raised");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_never_lowered() {
        let before = current();
        let after = raise(1, &MemoryPlan::new(64 << 20), (10, 10))
            .expect("any machine that builds this has 512 KiB of locked memory");
        assert!(after.open_files >= before.open_files);
        if let (Some(before), Some(after)) = (before.memlock_bytes, after.memlock_bytes) {
            assert!(after >= before);
        }
    }
}
