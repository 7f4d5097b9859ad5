//! The only reader of the clock. Everything below takes a [`Mono`] or a [`Timestamp`] as an argument.

use crate::types::{Mono, Timestamp};

/// Monotonic and wall time of this process.
#[derive(Clone, Debug)]
pub struct Clock {
    monotonic: quanta::Clock,
    start: u64,
}

impl Clock {
    pub fn new() -> Clock {
        let monotonic = quanta::Clock::new();
        let start = monotonic.raw();
        Clock { monotonic, start }
    }

    /// About 10 ns: a read of the time stamp counter.
    pub fn mono(&self) -> Mono {
        Mono(self.monotonic.delta_as_nanos(self.start, self.monotonic.raw()))
    }

    /// Milliseconds since the Unix epoch. May jump, forwards and back.
    pub fn wall(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
        let now = std::time::SystemTime::now();
        let since_epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(since_epoch.as_millis() as i64)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}
