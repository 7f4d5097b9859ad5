//! What an acknowledgement waits for, and how far behind it a flush may be.
//!
//! ```text
//! fsync   stored ...... flushed = durable ........................ sealed ...... appended
//! write   stored ...... flushed ...... written = durable ......... sealed ...... appended
//!                       ◄── bounded ──►
//! ```
//!
//! What is durable in this sense is readable too: the high watermark. Under `write` a crash of the
//! process loses none of it, as the writes have reached the kernel and the device; a loss of power
//! may take what no flush covers, and the offsets are given out again.

use crate::config::topic::TopicConfig;
use crate::config::value::DurabilityMode;
use crate::types::Offset;
use std::time::Duration;

/// The longest that acknowledged records wait for their flush, whatever `flush.ms` says.
///
/// Kafka's default is never: the operating system writes its page cache back after some 30 seconds,
/// and there is none here.
pub const FLUSH_WITHIN_MAX: Duration = Duration::from_secs(1);

/// `odradek.durability` of a topic, with the bounds that `write` has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A flush that was issued after the write completed has returned.
    #[default]
    Fsync,
    /// The write has completed.
    Write(FlushBounds),
}

/// How much may be acknowledged and not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushBounds {
    /// As many records are never acknowledged without a flush (`flush.messages`): with 1 every
    /// acknowledgement waits for one.
    pub records_max: u64,
    /// `flush.ms`.
    pub within: Duration,
}

impl FlushBounds {
    /// Whether records up to `end` may be acknowledged with flushes up to `flushed` only.
    pub fn allow(&self, flushed: Offset, end: Offset) -> bool {
        end.get().saturating_sub(flushed.get()) < self.records_max
    }
}

impl Durability {
    pub fn of(config: &TopicConfig) -> Durability {
        match config.durability {
            DurabilityMode::Fsync => Durability::Fsync,
            DurabilityMode::Write => Durability::Write(FlushBounds {
                records_max: config.flush_messages,
                within: Duration::from_millis(config.flush_ms).min(FLUSH_WITHIN_MAX),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::topic::TopicDefaults;

    #[test]
    fn kafkas_bounds_matter_under_write_only() {
        let of = |overrides: &[(&str, &str)]| {
            let config =
                TopicConfig::resolve(&TopicDefaults::default(), 1, overrides.iter().copied()).unwrap();
            Durability::of(&config)
        };
        assert_eq!(of(&[("flush.ms", "1"), ("flush.messages", "1")]), Durability::Fsync);
        let unbounded = FlushBounds { records_max: i64::MAX as u64, within: FLUSH_WITHIN_MAX };
        assert_eq!(of(&[("odradek.durability", "write")]), Durability::Write(unbounded));
        let bounded = FlushBounds { records_max: 10, within: Duration::from_millis(20) };
        let texts = [("odradek.durability", "write"), ("flush.ms", "20"), ("flush.messages", "10")];
        assert_eq!(of(&texts), Durability::Write(bounded));
    }

    #[test]
    fn as_many_records_as_the_bound_need_a_flush() {
        let offset = |value| Offset::new(value).unwrap();
        let bounds = FlushBounds { records_max: 3, within: Duration::ZERO };
        assert!(bounds.allow(offset(5), offset(7)));
        assert!(!bounds.allow(offset(5), offset(8)));
        let every = FlushBounds { records_max: 1, within: Duration::ZERO };
        assert!(!every.allow(offset(5), offset(6)));
    }
}
