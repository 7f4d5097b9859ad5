//! Facts about the host that defaults follow from.

use std::path::{Path, PathBuf};

use super::last_error;
use crate::config::Machine;

/// The CPUs that this process may use and the memory it may have.
pub fn machine() -> Machine {
    let memory_bytes = match (memory_total(), cgroup_memory_limit()) {
        (Some(total), Some(limit)) => total.min(limit),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => FALLBACK_MEMORY_BYTES,
    };
    Machine { cpus_allowed: cpus_allowed(), memory_bytes }
}

/// Assumed where /proc is not mounted.
const FALLBACK_MEMORY_BYTES: u64 = 2 << 30;

/// The host's name, as clients would have to resolve it.
pub fn hostname() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the buffer is writable for the length that is passed.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) };
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(0);
    match std::str::from_utf8(&name[..end]) {
        Ok(name) if result == 0 && !name.is_empty() => name.to_string(),
        _ => "localhost".to_string(),
    }
}

fn cpus_allowed() -> Vec<usize> {
    // SAFETY: an all-zero mask is a valid, empty one.
    let mut mask: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `mask` is writable for the size that is passed.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut mask) };
    if result != 0 {
        tracing::warn!(error = %last_error(), "the CPU affinity cannot be read; assuming CPU 0");
        return vec![0];
    }
    let bits = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: `cpu` is below the number of bits of the mask.
    (0..bits).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &mask) }).collect()
}

fn memory_total() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit from our control group up to the root, of either version.
fn cgroup_memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    groups
        .lines()
        .filter_map(cgroup_path)
        .filter_map(|(root, path, file)| limit_above(&root, &path, file))
        .min()
}

/// The mount, the group's path below it and the limit's file, if the line is about memory.
fn cgroup_path(line: &str) -> Option<(PathBuf, PathBuf, &'static str)> {
    let mut fields = line.splitn(3, ':');
    let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = PathBuf::from(path.trim_start_matches('/'));
    if controllers.split(',').any(|controller| controller == "memory") {
        Some((PathBuf::from("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes"))
    } else if hierarchy == "0" {
        Some((PathBuf::from("/sys/fs/cgroup"), path, "memory.max"))
    } else {
        None
    }
}

fn limit_above(root: &Path, group: &Path, file: &str) -> Option<u64> {
    let groups = group.ancestors();
    let limits = groups.filter_map(|group| std::fs::read_to_string(root.join(group).join(file)).ok());
    // "max" (version 2) does not parse; version 1 spells "no limit" as a number near 2^63.
    limits.filter_map(|limit| limit.trim().parse().ok()).filter(|&limit: &u64| limit < 1 << 62).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_understood() {
        let (root, path, file) = cgroup_path("4:memory:/a/b").expect("version 1");
        assert_eq!((root.to_str(), path.to_str()), (Some("/sys/fs/cgroup/memory"), Some("a/b")));
        assert_eq!(file, "memory.limit_in_bytes");
        let (root, path, file) = cgroup_path("0::/system.slice/odradek.service").expect("version 2");
        assert_eq!((root.to_str(), file), (Some("/sys/fs/cgroup"), "memory.max"));
        assert_eq!(path.to_str(), Some("system.slice/odradek.service"));
        assert!(cgroup_path("3:cpuset:/").is_none());
        assert!(cgroup_path("").is_none());
    }

    #[test]
    fn this_machine_has_a_cpu_memory_and_a_name() {
        let machine = machine();
        assert!(!machine.cpus_allowed.is_empty());
        assert!(machine.memory_bytes > 64 << 20);
        assert!(!hostname().is_empty());
    }
}
