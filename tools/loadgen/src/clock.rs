//! The only reader of clocks: monotonic nanoseconds for latencies, wall-clock milliseconds for record
//! timestamps, CPU time of the process.

#![expect(clippy::disallowed_methods, reason = "record timestamps are wall-clock time")]

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use odradek::types::Mono;

/// Readings of one process share their start, whatever thread took them.
pub fn now() -> Mono {
    static CLOCK: OnceLock<(quanta::Clock, u64)> = OnceLock::new();
    let (clock, start) = CLOCK.get_or_init(|| {
        let clock = quanta::Clock::new();
        let start = clock.raw();
        (clock, start)
    });
    Mono(clock.delta_as_nanos(*start, clock.raw()))
}

/// Milliseconds since the Unix epoch.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// User and system time of this process so far.
pub fn process_cpu() -> Duration {
    // SAFETY: an all-zero `rusage` is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, writable `rusage`.
    let failed = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert_eq!(failed, 0, "getrusage fails only for bad arguments");
    let of =
        |t: libc::timeval| Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64);
    of(usage.ru_utime) + of(usage.ru_stime)
}
