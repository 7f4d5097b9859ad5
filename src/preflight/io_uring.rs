//! Does the kernel let us make a ring, and if not, who forbids it?
//!
//! The answer of one real `io_uring_setup` is all that counts: version numbers and configuration
//! files lie in containers. Only after a refusal are they read, to name the one who refused.

use super::last_error;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoUringError {
    #[error("this kernel has no io_uring: run Linux 5.19 or newer, built with CONFIG_IO_URING")]
    Missing,
    #[error(
        "io_uring is switched off (kernel.io_uring_disabled = 2): run `sysctl -w kernel.io_uring_disabled=0`"
    )]
    Disabled,
    #[error(
        "io_uring is reserved (kernel.io_uring_disabled = 1): add this user to the group \
         kernel.io_uring_group = {group}, or run `sysctl -w kernel.io_uring_disabled=0`"
    )]
    Reserved { group: String },
    #[error(
        "the container's seccomp profile forbids io_uring: allow io_uring_setup, io_uring_enter and \
         io_uring_register in it (Docker and Podman: --security-opt seccomp=PROFILE; Kubernetes: \
         seccompProfile)"
    )]
    Container,
    #[error(
        "a seccomp filter forbids io_uring: allow io_uring_setup, io_uring_enter and \
         io_uring_register in it (systemd: SystemCallFilter=@aio)"
    )]
    Seccomp,
    #[error("a security module forbids io_uring: allow this program to use it")]
    Forbidden,
    #[error("too little locked memory for an io_uring: raise `ulimit -l` (systemd: LimitMEMLOCK=infinity)")]
    LockedMemory,
    #[error("too few file descriptors for an io_uring: raise `ulimit -n` (systemd: LimitNOFILE)")]
    Descriptors,
    #[error("io_uring_setup failed: {0}")]
    Other(String),
}

/// Makes a small ring and closes it.
pub fn probe() -> Result<(), IoUringError> {
    /// `struct io_uring_params` of the kernel's ABI; zeros ask for no feature.
    const PARAMS_SIZE: usize = 120;
    const ENTRIES: libc::c_uint = 8;
    let mut params = [0u64; PARAMS_SIZE / 8];
    // SAFETY: the kernel reads and writes PARAMS_SIZE bytes at `params`, which is that large and
    // aligned for its 64-bit fields.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: the descriptor was just made and nobody else knows it.
        unsafe { libc::close(fd as libc::c_int) };
        return Ok(());
    }
    let error = last_error();
    Err(diagnose(error.raw_os_error().unwrap_or(0), &Surroundings::read()))
}

/// Who might have refused.
struct Surroundings {
    io_uring_disabled: Option<String>,
    io_uring_group: Option<String>,
    /// 2 in /proc/self/status: system calls go through a filter.
    seccomp_filter: bool,
    container: bool,
}

impl Surroundings {
    fn read() -> Surroundings {
        let sysctl = |name| {
            let value = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
            value.map(|value| value.trim().to_string())
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        let markers = ["/.dockerenv", "/run/.containerenv"];
        Surroundings {
            io_uring_disabled: sysctl("io_uring_disabled"),
            io_uring_group: sysctl("io_uring_group"),
            seccomp_filter: seccomp.is_some_and(|mode| mode.trim() == "2"),
            container: markers.iter().any(|marker| std::path::Path::new(marker).exists())
                || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        }
    }
}

fn diagnose(errno: i32, surroundings: &Surroundings) -> IoUringError {
    match (errno, surroundings.io_uring_disabled.as_deref()) {
        (libc::EPERM | libc::EACCES, Some("2")) => IoUringError::Disabled,
        (libc::EPERM | libc::EACCES, Some("1")) => {
            let group = surroundings.io_uring_group.clone().unwrap_or_else(|| "-1".to_string());
            IoUringError::Reserved { group }
        }
        // Docker's default profile answers EPERM, some runtimes ENOSYS.
        (libc::EPERM | libc::EACCES | libc::ENOSYS, _) if surroundings.seccomp_filter => {
            if surroundings.container { IoUringError::Container } else { IoUringError::Seccomp }
        }
        (libc::EPERM | libc::EACCES, _) => IoUringError::Forbidden,
        (libc::ENOSYS, _) => IoUringError::Missing,
        (libc::ENOMEM, _) => IoUringError::LockedMemory,
        (libc::EMFILE | libc::ENFILE, _) => IoUringError::Descriptors,
        (errno, _) => IoUringError::Other(std::io::Error::from_raw_os_error(errno).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_who_forbids_io_uring_is_named() {
        let host = |disabled: &str| surroundings(Some(disabled), false, false);
        assert_eq!(diagnose(libc::EPERM, &host("2")), IoUringError::Disabled);
        let reserved = IoUringError::Reserved { group: "1001".to_string() };
        assert_eq!(diagnose(libc::EPERM, &host("1")), reserved);
        assert_eq!(diagnose(libc::EPERM, &host("0")), IoUringError::Forbidden);
        assert_eq!(diagnose(libc::EPERM, &surroundings(Some("0"), true, true)), IoUringError::Container);
        assert_eq!(diagnose(libc::ENOSYS, &surroundings(None, true, true)), IoUringError::Container);
        assert_eq!(diagnose(libc::EPERM, &surroundings(Some("0"), true, false)), IoUringError::Seccomp);
        assert_eq!(diagnose(libc::ENOSYS, &surroundings(None, false, false)), IoUringError::Missing);
        assert_eq!(diagnose(libc::ENOMEM, &host("0")), IoUringError::LockedMemory);
        assert_eq!(diagnose(libc::EMFILE, &host("0")), IoUringError::Descriptors);
    }

    fn surroundings(disabled: Option<&str>, seccomp_filter: bool, container: bool) -> Surroundings {
        Surroundings {
            io_uring_disabled: disabled.map(str::to_string),
            io_uring_group: Some("1001".to_string()),
            seccomp_filter,
            container,
        }
    }
}
