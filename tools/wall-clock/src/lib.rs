//! The wall clock of one process jumps: preloaded (`LD_PRELOAD`), it adds to what the kernel says what a file says.
//!
//! ```text
//! WALL_CLOCK_OFFSET=FILE LD_PRELOAD=libodradek_wall_clock.so odradek start ..
//! FILE: seconds, 8 bytes, little-endian; changed in place, from the next look at the clock on
//! ```
//!
//! Linux has no name space for the wall clock. Only `clock_gettime` is stood in for, which is what Rust's standard
//! library asks; clocks that only go forward, and the kernel's own time stamps, stay as they are.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

const VARIABLE: &CStr = c"WALL_CLOCK_OFFSET";

/// The file, mapped; `None`: there is none.
fn offset() -> Option<&'static AtomicI64> {
    static OFFSET: OnceLock<Option<&'static AtomicI64>> = OnceLock::new();
    *OFFSET.get_or_init(map)
}

fn map() -> Option<&'static AtomicI64> {
    // SAFETY: the name is a C string; the value is read at once.
    let path = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: `path` is a C string of the environment, which nobody changes while the library is first used.
    let file = unsafe { libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let size = size_of::<AtomicI64>();
    // SAFETY: a new mapping of an open file; the result is looked at before it is used.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, file, 0) };
    // SAFETY: it is ours, and the mapping stays without it.
    unsafe { libc::close(file) };
    // SAFETY: pages are aligned for it, it is never unmapped, and never written to through this reference.
    (at != libc::MAP_FAILED).then(|| unsafe { &*at.cast::<AtomicI64>() })
}

/// As the C library has it.
///
/// # Safety
///
/// `time` can be written to, as for the function that this stands in for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the kernel checks `time`.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0
        && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE)
        && let Some(offset) = offset()
    {
        // SAFETY: the kernel has just written to it.
        unsafe { (*time).tv_sec += offset.load(Ordering::Relaxed) };
    }
    result as libc::c_int
}
