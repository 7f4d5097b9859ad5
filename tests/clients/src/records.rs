//! The records that every client writes.
//!
//! Keys and values that are null, of no bytes, of one byte and up to 900 KB; bytes that are no text;
//! headers that are absent, repeated, of no bytes and null; partitions chosen by us and by the client.
//! Values are half pattern and half noise, so that every codec has something to do and something that
//! it cannot shrink.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::client::Abilities;

/// Partitions of a topic. Both cores own some.
pub const PARTITIONS: u32 = 5;

/// Milliseconds between the timestamps of consecutive records.
pub const TIMESTAMP_STEP_MS: i64 = 1000;

/// A key, value or header value; `None` is null.
pub type Field = Option<Vec<u8>>;

/// Names may repeat; order counts.
pub type Headers = Vec<(String, Field)>;

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// `None`: the client's partitioner chooses, by the key.
    pub partition: Option<i32>,
    /// Milliseconds; some clients cannot set it.
    pub timestamp: i64,
    pub key: Field,
    pub value: Field,
    pub headers: Headers,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Field,
    pub value: Field,
    pub headers: Headers,
}

/// The records for a client that can do that much; `seed` makes their bytes differ between topics.
pub fn records(abilities: Abilities, seed: u64) -> Vec<Outgoing> {
    const VALUE_SIZES: [usize; 9] = [1, 2, 63, 64, 1_000, 16_383, 65_536, 300_000, 900_000];
    let mut noise = Noise(seed);
    let mut fields: Vec<(Field, Field, Headers)> = Vec::new();
    for (index, size) in VALUE_SIZES.into_iter().enumerate() {
        let key = format!("key-{index}").into_bytes();
        fields.push((Some(key), Some(value(&mut noise, size)), Vec::new()));
    }
    fields.push((None, Some(b"null key".to_vec()), headers(abilities)));
    fields.push((Some(b"null value".to_vec()), None, headers(abilities)));
    let every_byte: Vec<u8> = (0..=255).collect();
    fields.push((Some(every_byte.clone()), Some(every_byte), headers(abilities)));
    if abilities.empty_fields {
        fields.push((Some(Vec::new()), Some(b"empty key".to_vec()), Vec::new()));
        fields.push((Some(b"empty value".to_vec()), Some(Vec::new()), Vec::new()));
    }
    if abilities.empty_records {
        fields.push((None, None, Vec::new()));
    }
    // Every partition gets one of them before any gets the second; the largest go to different ones.
    let placed = fields.into_iter().enumerate().map(|(index, fields)| {
        let partition = index as i32 % PARTITIONS as i32;
        (Some(partition), fields)
    });
    let keyed = (0..20).map(|index| {
        let key = format!("customer-{index}").into_bytes();
        (None, (Some(key), Some(format!("order {index}").into_bytes()), Vec::new()))
    });
    let start = now_ms() - 3_600_000;
    (0..)
        .zip(placed.chain(keyed))
        .map(|(index, (partition, (key, value, headers)))| Outgoing {
            partition,
            timestamp: start + index * TIMESTAMP_STEP_MS,
            key,
            value,
            headers,
        })
        .collect()
}

fn headers(abilities: Abilities) -> Headers {
    let mut headers = vec![
        ("trace".to_string(), Some(b"00-4bf92f35".to_vec())),
        ("trace".to_string(), Some(b"repeated".to_vec())),
        ("no-bytes".to_string(), Some(Vec::new())),
        ("sprache".to_string(), Some("größe".as_bytes().to_vec())),
    ];
    if abilities.null_headers {
        headers.push(("null".to_string(), None));
    }
    if abilities.binary_headers {
        headers.push(("bytes".to_string(), Some((0..=255).rev().collect())));
    }
    headers
}

fn value(noise: &mut Noise, size: usize) -> Vec<u8> {
    const PATTERN: &[u8] = b"Odradek looks like a flat star-shaped spool for thread. ";
    (0..size)
        .map(|at| match at / PATTERN.len() % 2 {
            0 => PATTERN[at % PATTERN.len()],
            _ => noise.byte(),
        })
        .collect()
}

/// SplitMix64: the same seed gives the same bytes.
struct Noise(u64);

impl Noise {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) as u8
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
    i64::try_from(now.as_millis()).expect("it is before the year 292 million")
}
