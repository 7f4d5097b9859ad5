//! What generated records say: values like the JSON of an event stream, keys by pattern.
//!
//! Everything follows from a seed, so that two runs send the same bytes.

use std::str::FromStr;

use odradek::codec::record_batch::{BATCH_HEADER_SIZE, Compression};
use odradek::codec::records::{NewRecord, record_size};

use crate::batch::Template;

/// Bytes of keys and values that one thread keeps as templates when records have keys.
const TEMPLATE_BYTES_MAX: usize = 16 << 20;
/// Templates of one thread, at most.
const TEMPLATES_MAX: usize = 256;

/// Which keys the records carry (`--keys`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Keys {
    #[default]
    None,
    /// 0, 1, 2, ... as 16 decimal digits; starts over after as many as the templates hold.
    Sequential,
    /// Drawn from this many keys, the k-th with a probability proportional to 1/k.
    Zipf(u64),
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Keys, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Keys::None),
            None if text == "sequential" => Ok(Keys::Sequential),
            Some(("zipf", count)) => match count.parse() {
                Ok(count) if count > 0 => Ok(Keys::Zipf(count)),
                _ => Err(format!("'{count}' is not a number of keys")),
            },
            _ => Err("use none, sequential or zipf:N".to_string()),
        }
    }
}

/// What a run's records look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Bytes of each value.
    pub record_size: usize,
    /// Bytes of a whole uncompressed batch, header included; at least one record is in it.
    pub batch_size: usize,
    pub keys: Keys,
    pub compression: Compression,
}

impl Shape {
    /// Records in a full batch (Kafka `batch.size`).
    pub fn records_per_batch(&self) -> u32 {
        let value = vec![0; self.record_size];
        let key = [0; KEY_SIZE];
        let key = (self.keys != Keys::None).then_some(&key[..]);
        let size_of = |offset_delta| {
            record_size(&NewRecord { offset_delta, key, value: Some(&value), ..NewRecord::default() })
        };
        let (mut count, mut used) = (0, BATCH_HEADER_SIZE);
        while count == 0 || used + size_of(count) <= self.batch_size {
            used += size_of(count);
            count += 1;
        }
        count as u32
    }

    /// The templates of one thread: one when no keys tell batches apart, else as many as fit.
    pub fn templates(&self, seed: u64) -> Vec<Template> {
        let records = self.records_per_batch() as usize;
        let fit = TEMPLATE_BYTES_MAX / (records * (self.record_size + KEY_SIZE)).max(1);
        let count = if self.keys == Keys::None { 1 } else { fit.clamp(1, TEMPLATES_MAX) };
        let mut random = Random::new(seed);
        let mut keys = KeySource::new(self.keys);
        (0..count)
            .map(|_| {
                let contents: Vec<(Option<Vec<u8>>, Vec<u8>)> = (0..records)
                    .map(|_| (keys.next(&mut random), event(self.record_size, &mut random)))
                    .collect();
                let views = contents.iter().map(|(key, value)| (key.as_deref(), value.as_slice()));
                Template::new(views, self.compression)
            })
            .collect()
    }
}

const KEY_SIZE: usize = 16;

/// An event of exactly `size` bytes: names that repeat, numbers that do not. It compresses to about
/// a third, like logs and change streams do.
pub fn event(size: usize, random: &mut Random) -> Vec<u8> {
    const KINDS: [&str; 6] = ["page_view", "add_to_cart", "checkout", "search", "login", "logout"];
    const COUNTRIES: [&str; 5] = ["DE", "US", "BR", "IN", "JP"];
    let mut text = String::with_capacity(size + 128);
    text.push('{');
    while text.len() < size {
        let kind = KINDS[random.below(KINDS.len() as u64) as usize];
        let country = COUNTRIES[random.below(COUNTRIES.len() as u64) as usize];
        let (user, session, amount) = (random.below(1_000_000), random.next(), random.below(100_000));
        text.push_str(&format!(
            "\"event\":\"{kind}\",\"user\":{user},\"session\":\"{session:016x}\",\"amount\":{amount},\
             \"country\":\"{country}\","
        ));
    }
    let mut bytes = text.into_bytes();
    bytes.truncate(size);
    if let Some(last) = bytes.last_mut() {
        *last = b'}';
    }
    bytes
}

struct KeySource {
    keys: Keys,
    next: u64,
    /// Cumulative weights for zipf, over at most [`ZIPF_EXACT`] keys; the rest are drawn uniformly.
    cumulative: Vec<f64>,
}

const ZIPF_EXACT: u64 = 1 << 20;

impl KeySource {
    fn new(keys: Keys) -> KeySource {
        let exact = match keys {
            Keys::Zipf(count) => count.min(ZIPF_EXACT),
            Keys::None | Keys::Sequential => 0,
        };
        let mut sum = 0.0;
        let cumulative = (1..=exact).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        KeySource { keys, next: 0, cumulative: cumulative.collect() }
    }

    fn next(&mut self, random: &mut Random) -> Option<Vec<u8>> {
        let number = match self.keys {
            Keys::None => return None,
            Keys::Sequential => {
                self.next += 1;
                self.next - 1
            }
            Keys::Zipf(count) => self.zipf(count, random),
        };
        Some(format!("{number:0width$}", width = KEY_SIZE).into_bytes())
    }

    fn zipf(&self, count: u64, random: &mut Random) -> u64 {
        let head = *self.cumulative.last().expect("there is at least one key");
        let tail = (count as f64 / self.cumulative.len() as f64).ln();
        let at = random.unit() * (head + tail);
        if at < head {
            return self.cumulative.partition_point(|&sum| sum <= at) as u64;
        }
        self.cumulative.len() as u64 + random.below(count - self.cumulative.len() as u64)
    }
}

/// SplitMix64: small, seeded, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    #[expect(clippy::should_implement_trait, reason = "a generator is not an iterator: it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; zero for a bound of zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_batch_is_as_large_as_asked_and_no_larger() {
        for (record_size, batch_size) in [(100, 65_536), (1024, 65_536), (1, 100), (100_000, 65_536)] {
            for keys in [Keys::None, Keys::Sequential] {
                let shape = Shape { record_size, batch_size, keys, compression: Compression::None };
                let mut templates = shape.templates(1);
                let payload = templates[0].take(u32::MAX);
                assert_eq!(payload.record_count, shape.records_per_batch());
                let one = payload.record_count == 1;
                assert!(payload.batch_size() <= batch_size || one, "{shape:?}");
                assert!(payload.batch_size() + record_size + 40 > batch_size, "{shape:?}");
            }
        }
    }

    #[test]
    fn events_have_the_size_asked_for() {
        let mut random = Random::new(3);
        for size in [0, 1, 2, 57, 100, 1024] {
            assert_eq!(event(size, &mut random).len(), size);
        }
    }

    #[test]
    fn zipf_draws_the_first_key_most() {
        let source = KeySource::new(Keys::Zipf(1000));
        let mut random = Random::new(5);
        let mut counts = vec![0u32; 1000];
        (0..100_000).for_each(|_| counts[source.zipf(1000, &mut random) as usize] += 1);
        assert!(counts[0] > counts[1]);
        assert!(counts[1] > counts[100]);
        // 1/H(1000) is 13.4 %.
        assert!((12_000..15_000).contains(&counts[0]), "{}", counts[0]);
    }

    #[test]
    fn key_patterns_parse() {
        assert_eq!("none".parse(), Ok(Keys::None));
        assert_eq!("zipf:10".parse(), Ok(Keys::Zipf(10)));
        assert!("zipf:0".parse::<Keys>().is_err());
        assert!("random".parse::<Keys>().is_err());
    }
}
