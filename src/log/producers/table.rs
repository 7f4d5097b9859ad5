//! Producers by id. A copy of the table is cheap, however many there are: it shares what neither of the two
//! has changed since.
//!
//! ```text
//! table     │ 3 5 8 │ 13 21 │ 34 55 89 │
//! its copy  │ 3 5 8 │   │   │ 34 55 89 │     13 has written since: its chunk was copied before
//!                   └ 13 21 ┘
//! ```

use super::ProducerState;
use crate::types::ProducerId;
use std::rc::Rc;

/// Producers of one chunk, some 250 bytes each: what the first write to it after a copy of the table has to
/// copy, some 10 µs. The table is a pointer for each.
const CHUNK_LENGTH_MAX: usize = 256;

type Chunk = Vec<(ProducerId, ProducerState)>;

/// Lives: one per partition, and one per snapshot of it that is being written down. A map in the order of
/// the ids: O(log n) but for the moves within a chunk and of the list of chunks.
/// Invariant: no chunk is empty; ids ascend within chunks and from one to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct ProducerTable {
    chunks: Vec<Rc<Chunk>>,
    count: usize,
}

impl ProducerTable {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn contains(&self, id: ProducerId) -> bool {
        self.get(id).is_some()
    }

    pub fn get(&self, id: ProducerId) -> Option<&ProducerState> {
        let chunk = &self.chunks[self.chunk_of(id)?];
        let at = place_in(chunk, id).ok()?;
        Some(&chunk[at].1)
    }

    pub fn get_mut(&mut self, id: ProducerId) -> Option<&mut ProducerState> {
        let chunk = self.chunk_of(id)?;
        let at = place_in(&self.chunks[chunk], id).ok()?;
        Some(&mut Rc::make_mut(&mut self.chunks[chunk])[at].1)
    }

    /// Adds one that is not there.
    pub fn insert(&mut self, id: ProducerId, state: ProducerState) {
        self.count += 1;
        let Some(at_chunk) = self.chunk_of(id) else {
            self.chunks.insert(0, Rc::new(vec![(id, state)]));
            return;
        };
        let at = place_in(&self.chunks[at_chunk], id).expect_err("it is not there");
        if self.chunks[at_chunk].len() < CHUNK_LENGTH_MAX {
            return Rc::make_mut(&mut self.chunks[at_chunk]).insert(at, (id, state));
        }
        // Ids ascend as they are given out: most often it is the last of all, and the full ones stay full.
        let mut rest = match at {
            CHUNK_LENGTH_MAX => Vec::new(),
            _ => Rc::make_mut(&mut self.chunks[at_chunk]).split_off(CHUNK_LENGTH_MAX / 2),
        };
        match at.checked_sub(self.chunks[at_chunk].len()) {
            Some(at) => rest.insert(at, (id, state)),
            None => Rc::make_mut(&mut self.chunks[at_chunk]).insert(at, (id, state)),
        }
        self.chunks.insert(at_chunk + 1, Rc::new(rest));
    }

    pub fn remove(&mut self, id: ProducerId) -> Option<ProducerState> {
        let at_chunk = self.chunk_of(id)?;
        let at = place_in(&self.chunks[at_chunk], id).ok()?;
        let (_, removed) = Rc::make_mut(&mut self.chunks[at_chunk]).remove(at);
        if self.chunks[at_chunk].is_empty() {
            self.chunks.remove(at_chunk);
        }
        self.count -= 1;
        Some(removed)
    }

    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerState)> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(id, state)| (*id, state)))
    }

    /// One of the parts that it consists of, in order.
    pub fn chunk(&self, at: usize) -> Option<&[(ProducerId, ProducerState)]> {
        self.chunks.get(at).map(|chunk| &chunk[..])
    }

    /// Those from `from` on.
    pub fn iter_from(&self, from: ProducerId) -> impl Iterator<Item = (ProducerId, &ProducerState)> {
        let chunks = &self.chunks[self.chunk_of(from).unwrap_or(0)..];
        let all = chunks.iter().flat_map(|chunk| chunk.iter().map(|(id, state)| (*id, state)));
        all.skip_while(move |(id, _)| *id < from)
    }

    /// The chunk that holds an id, or would: the last that does not begin behind it. `None` for one before
    /// all others.
    fn chunk_of(&self, id: ProducerId) -> Option<usize> {
        self.chunks.partition_point(|chunk| chunk[0].0 <= id).checked_sub(1)
    }
}

impl PartialEq for ProducerTable {
    fn eq(&self, other: &ProducerTable) -> bool {
        self.count == other.count && self.iter().eq(other.iter())
    }
}

impl Eq for ProducerTable {}

fn place_in(chunk: &Chunk, id: ProducerId) -> Result<usize, usize> {
    chunk.binary_search_by_key(&id, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ProducerEpoch, Timestamp};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn state(mark: i64) -> ProducerState {
        ProducerState::new(ProducerEpoch(0), Timestamp(mark))
    }

    fn content(table: &ProducerTable) -> Vec<(i64, i64)> {
        table.iter().map(|(id, state)| (id.0, state.appended_at.0)).collect()
    }

    #[test]
    fn ascending_ids_fill_their_chunks() {
        let mut table = ProducerTable::default();
        for id in 0..10 * CHUNK_LENGTH_MAX as i64 {
            table.insert(ProducerId(id), state(id));
        }
        assert_eq!(table.chunks.len(), 10);
    }

    #[test]
    fn a_write_after_a_copy_copies_one_chunk() {
        let mut table = ProducerTable::default();
        for id in 0..10 * CHUNK_LENGTH_MAX as i64 {
            table.insert(ProducerId(id), state(id));
        }
        let copy = table.clone();
        table.get_mut(ProducerId(300)).unwrap().appended_at = Timestamp(-1);
        let shared = table.chunks.iter().zip(&copy.chunks).filter(|(left, right)| Rc::ptr_eq(left, right));
        assert_eq!(shared.count(), 9);
        assert_eq!(copy.get(ProducerId(300)), Some(&state(300)));
    }

    proptest! {
        #[test]
        fn table_is_a_map_and_its_copies_do_not_change(
            calls in prop::collection::vec((0..3u8, 0..2000i64), 0..3000),
            copied_at in 0..3000usize,
        ) {
            let mut table = ProducerTable::default();
            let mut model: BTreeMap<i64, i64> = BTreeMap::new();
            let mut copy = None;
            for (at, (call, id)) in calls.into_iter().enumerate() {
                if at == copied_at {
                    copy = Some((table.clone(), content(&table)));
                }
                let (key, mark) = (ProducerId(id), at as i64);
                match call {
                    0 => prop_assert_eq!(table.remove(key).is_some(), model.remove(&id).is_some()),
                    _ => {
                        match table.get_mut(key) {
                            Some(state) => state.appended_at = Timestamp(mark),
                            None => table.insert(key, state(mark)),
                        }
                        model.insert(id, mark);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.contains(key), model.contains_key(&id));
            }
            prop_assert_eq!(content(&table), model.iter().map(|(id, mark)| (*id, *mark)).collect::<Vec<_>>());
            prop_assert!(table.chunks.iter().all(|chunk| (1..=CHUNK_LENGTH_MAX).contains(&chunk.len())));
            let from = table.iter_from(ProducerId(1000)).map(|(id, _)| id.0);
            prop_assert!(from.eq(model.range(1000..).map(|(id, _)| *id)));
            if let Some((copy, then)) = copy {
                prop_assert_eq!(content(&copy), then);
            }
        }
    }
}
