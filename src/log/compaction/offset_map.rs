//! The newest offset of every key, in bounded memory (Kafka `SkimpyOffsetMap`).
//!
//! ```text
//! slot, 24 bytes    hash of the key, 128 bits │ offset + 1, 0: free
//! ```
//!
//! Keys are not kept, only their hashes. Two keys of one hash would cost the older one its record,
//! so the hash takes a seed that nobody outside knows: collisions cannot be looked for. Kafka uses
//! MD5, where they can.

use crate::types::Offset;
use std::hash::{DefaultHasher, Hasher};

/// Bytes.
const SLOT_SIZE: usize = size_of::<Slot>();

/// Used slots per hundred, past which looking a key up gets slow (Kafka
/// `log.cleaner.io.buffer.load.factor`).
const LOAD_PERCENT_MAX: usize = 90;

/// Keeps two maps of one process from sharing their collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeed(pub u64, pub u64);

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: [u64; 2],
    /// The newest offset + 1; 0 while the slot is free.
    end: u64,
}

/// The map has no room for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the offset map is full")]
pub struct MapFull;

/// Lives: for one pass over one log.
/// Shape: open addressing, O(1) per key; all memory is taken at once, and touched as it fills.
pub struct OffsetMap {
    slots: Box<[Slot]>,
    count: usize,
    count_max: usize,
    seed: HashSeed,
    latest: Option<Offset>,
}

impl OffsetMap {
    /// A map for `records` keys, or for as many as fit into `size_max` bytes.
    pub fn new(records: u64, size_max: usize, seed: HashSeed) -> OffsetMap {
        let slots_max = (size_max / SLOT_SIZE).max(2);
        // Never full, so that every probe ends.
        let wanted = records.saturating_mul(100).div_ceil(LOAD_PERCENT_MAX as u64).saturating_add(1);
        let slot_count = usize::try_from(wanted).map_or(slots_max, |wanted| wanted.clamp(2, slots_max));
        let count_max = (slot_count * LOAD_PERCENT_MAX / 100).clamp(1, slot_count - 1);
        let slots = vec![Slot::default(); slot_count].into_boxed_slice();
        OffsetMap { slots, count: 0, count_max, seed, latest: None }
    }

    /// Bytes.
    pub fn size(&self) -> usize {
        self.slots.len() * SLOT_SIZE
    }

    pub fn key_count(&self) -> usize {
        self.count
    }

    /// Up to here, inclusive, the map knows every key. `None` while it knows nothing.
    pub fn latest(&self) -> Option<Offset> {
        self.latest
    }

    /// The map knows all keys up to `offset`: what lies between had none.
    pub fn advance_latest(&mut self, offset: Offset) {
        self.latest = self.latest.max(Some(offset));
    }

    /// Notes the newest offset of a key. Offsets come in order.
    pub fn put(&mut self, key: &[u8], offset: Offset) -> Result<(), MapFull> {
        let hash = self.hash(key);
        let at = self.find(&hash);
        let slot = &mut self.slots[at];
        if slot.end == 0 {
            if self.count == self.count_max {
                return Err(MapFull);
            }
            self.count += 1;
            slot.hash = hash;
        }
        assert!(slot.end <= offset.get(), "offsets of a log come in order");
        slot.end = offset.get() + 1;
        self.advance_latest(offset);
        Ok(())
    }

    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let slot = &self.slots[self.find(&self.hash(key))];
        Offset::new(slot.end.checked_sub(1)?)
    }

    /// The slot of a hash, or the free one that it would take.
    fn find(&self, hash: &[u64; 2]) -> usize {
        let mut at = (hash[0] % self.slots.len() as u64) as usize;
        while self.slots[at].end != 0 && self.slots[at].hash != *hash {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        at
    }

    /// Cost: two passes of SipHash over the key.
    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let half = |seed: u64| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(seed);
            hasher.write(key);
            hasher.finish()
        };
        [half(self.seed.0), half(self.seed.1)]
    }
}

impl std::fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.len();
        f.debug_struct("OffsetMap").field("count", &self.count).field("slots", &slots).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const SEED: HashSeed = HashSeed(7, 11);

    #[test]
    fn a_full_map_takes_known_keys_and_no_others() {
        let mut map = OffsetMap::new(u64::MAX, 100 * SLOT_SIZE, SEED);
        assert_eq!(map.size(), 100 * SLOT_SIZE);
        for number in 0..90u64 {
            assert_eq!(map.put(&number.to_be_bytes(), offset(number)), Ok(()));
        }
        assert_eq!(map.put(b"another", offset(90)), Err(MapFull));
        assert_eq!(map.latest(), Some(offset(89)), "what did not fit is not known");
        assert_eq!(map.put(&3u64.to_be_bytes(), offset(90)), Ok(()));
        assert_eq!(map.get(&3u64.to_be_bytes()), Some(offset(90)));
        assert_eq!(map.get(b"another"), None);
    }

    #[test]
    fn memory_follows_the_records() {
        assert!(OffsetMap::new(10, 1 << 20, SEED).size() <= 13 * SLOT_SIZE);
        assert!(OffsetMap::new(1 << 40, 1 << 20, SEED).size() <= 1 << 20);
        for records in 0..200 {
            let mut map = OffsetMap::new(records, 1 << 20, SEED);
            let all = (0..records).all(|number| map.put(&number.to_be_bytes(), offset(number)).is_ok());
            assert!(all, "{records} records");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map(keys in proptest::collection::vec(0u8..40, 0..300), slots in 2usize..60) {
            let mut map = OffsetMap::new(u64::MAX, slots * SLOT_SIZE, SEED);
            let mut model = BTreeMap::new();
            for (number, key) in keys.iter().enumerate() {
                match map.put(&[*key], offset(number as u64)) {
                    Ok(()) => {
                        model.insert(*key, offset(number as u64));
                    }
                    Err(MapFull) => prop_assert!(!model.contains_key(key)),
                }
            }
            prop_assert_eq!(map.key_count(), model.len());
            for key in 0..40 {
                prop_assert_eq!(map.get(&[key]), model.get(&key).copied());
            }
        }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }
}
