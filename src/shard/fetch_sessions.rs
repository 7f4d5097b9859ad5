//! Incremental fetch sessions (KIP-227): a consumer names its partitions once, and is then told only
//! of those that have news. Pure; one cache per shard, for the connections of that shard.
//!
//! ```text
//! request (id, epoch)     meaning                              answer
//! (0, -1)                 no session                           all partitions, id 0
//! (0, 0)                  open one                             all partitions, a new id
//! (n, 0) (n, -1)          close n, then as above
//! (n, e > 0)              the next request of session n        partitions with news, id n
//! ```
//!
//! Sessions and the partitions in them are bounded. For a new session, or one that grows, others make
//! room as in Kafka: those unused for long, longest first; then those that are old and smaller, the
//! smallest first. If that is not enough, none has to go, and who asked is served without a session.
//!
//! Source: Kafka `FetchSession`, `FetchSessionCache`.

use crate::codec::error_code::ErrorCode;
use crate::types::{LeaderEpoch, Mono, Offset};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// A session unused for this long may make room for any other; one that exists for this long, for a
/// larger one (Kafka `min.incremental.fetch.session.eviction.ms`).
const EVICTION_AGE_MIN: Duration = Duration::from_secs(120);

/// The epochs of a request that is not part of a session's sequence.
const EPOCH_INITIAL: i32 = 0;
const EPOCH_FINAL: i32 = -1;

/// One partition of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    pub topic: Rc<str>,
    pub partition: i32,
    /// `None` for a negative offset, which is out of range.
    pub offset: Option<Offset>,
    pub bytes_max: usize,
    pub leader_epoch: Option<LeaderEpoch>,
    pub last_fetched_epoch: Option<LeaderEpoch>,
}

/// What an answer said of a partition last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub high_watermark: Option<Offset>,
    pub log_start: Option<Offset>,
}

#[derive(Clone, Debug)]
struct SessionPartition {
    fetch: FetchPartition,
    told: Option<Told>,
    /// Partitions are served in this order; one that got records goes to the end.
    turn: u64,
}

#[derive(Debug)]
struct Session {
    partitions: BTreeMap<(Rc<str>, i32), SessionPartition>,
    next_epoch: i32,
    next_turn: u64,
    created: Mono,
    used: Mono,
}

/// What a request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchScope {
    /// 0: no session.
    pub session: i32,
    /// Only partitions with news are answered.
    pub incremental: bool,
}

/// Lives: one per shard.
#[derive(Debug)]
pub struct FetchSessions {
    sessions: BTreeMap<i32, Session>,
    /// In all sessions.
    partitions: usize,
    limits: SessionLimits,
}

/// Of one shard.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub sessions: usize,
    /// In all of them.
    pub partitions: usize,
}

/// What a session needs that is opened or grows.
#[derive(Clone, Copy)]
struct Wanted {
    /// The one that grows, which is not evicted for itself.
    session: Option<i32>,
    /// What it comes to, and how much of that is new.
    size: usize,
    more: usize,
}

impl FetchSessions {
    pub fn new(limits: SessionLimits) -> FetchSessions {
        FetchSessions { sessions: BTreeMap::new(), partitions: 0, limits }
    }

    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// A session whose client was not told of it.
    pub fn forget(&mut self, id: i32) {
        self.remove(id);
    }

    /// Takes in a request and says which partitions to read, in which order.
    ///
    /// `fresh` is a random id for a session that this request may open.
    pub fn begin(
        &mut self,
        id: i32,
        epoch: i32,
        named: Vec<FetchPartition>,
        forgotten: &[(Rc<str>, i32)],
        fresh: i32,
        now: Mono,
    ) -> Result<(FetchScope, Vec<FetchPartition>), ErrorCode> {
        if epoch == EPOCH_FINAL || epoch == EPOCH_INITIAL {
            self.remove(id);
            let session = if epoch == EPOCH_INITIAL { self.open(fresh, &named, now) } else { 0 };
            return Ok((FetchScope { session, incremental: false }, named));
        }
        let session = self.sessions.get_mut(&id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        session.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        session.used = now;
        for key in forgotten {
            self.partitions -= usize::from(session.partitions.remove(key).is_some());
        }
        let more = session.count_new(&named);
        let wanted = Wanted { session: Some(id), size: session.partitions.len() + more, more };
        if !self.make_room(wanted, now) {
            // The client starts over, and is served without a session as long as there is no room.
            self.remove(id);
            return Err(ErrorCode::FetchSessionIdNotFound);
        }
        let session = self.sessions.get_mut(&id).expect("it was found above and not evicted");
        self.partitions += more;
        named.into_iter().for_each(|fetch| session.name(fetch));
        let mut ordered: Vec<(u64, FetchPartition)> =
            session.partitions.values().map(|partition| (partition.turn, partition.fetch.clone())).collect();
        ordered.sort_by_key(|(turn, _)| *turn);
        let fetches = ordered.into_iter().map(|(_, fetch)| fetch).collect();
        Ok((FetchScope { session: id, incremental: true }, fetches))
    }

    fn open(&mut self, id: i32, named: &[FetchPartition], now: Mono) -> i32 {
        if named.is_empty() || self.sessions.contains_key(&id) {
            return 0;
        }
        let mut session =
            Session { partitions: BTreeMap::new(), next_epoch: 1, next_turn: 0, created: now, used: now };
        let size = session.count_new(named);
        if !self.make_room(Wanted { session: None, size, more: size }, now) {
            return 0;
        }
        named.iter().for_each(|fetch| session.name(fetch.clone()));
        self.partitions += size;
        self.sessions.insert(id, session);
        id
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.partitions -= session.partitions.len();
        }
    }

    /// Evicts what has to go for `wanted`; false, and nothing evicted, if that is not enough. O(1) while
    /// there is room, else O(n log n) in the sessions.
    fn make_room(&mut self, wanted: Wanted, now: Mono) -> bool {
        let slots = usize::from(wanted.session.is_none());
        let fits = |sessions: usize, partitions: usize| {
            sessions + slots <= self.limits.sessions && partitions + wanted.more <= self.limits.partitions
        };
        let (mut sessions, mut partitions) = (self.sessions.len(), self.partitions);
        if fits(sessions, partitions) {
            return true;
        }
        if wanted.size > self.limits.partitions {
            return false;
        }
        let mut evictable: Vec<(EvictionRank, i32, usize)> = Vec::new();
        for (id, session) in self.sessions.iter().filter(|(id, _)| wanted.session != Some(**id)) {
            let rank = session.eviction_rank(wanted.size, now);
            evictable.extend(rank.map(|rank| (rank, *id, session.partitions.len())));
        }
        evictable.sort();
        let mut evicted = Vec::new();
        for (_, id, size) in evictable {
            evicted.push(id);
            sessions -= 1;
            partitions -= size;
            if fits(sessions, partitions) {
                evicted.into_iter().for_each(|id| self.remove(id));
                return true;
            }
        }
        false
    }

    /// Whether a partition's outcome belongs into the answer; takes note of what it says.
    pub fn tell(
        &mut self,
        scope: FetchScope,
        topic: &Rc<str>,
        partition: i32,
        told: Told,
        news: bool,
        has_records: bool,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(&scope.session) else { return true };
        let turn = session.next_turn;
        let Some(known) = session.partitions.get_mut(&(topic.clone(), partition)) else { return true };
        let changed = known.told != Some(told);
        known.told = Some(told);
        if has_records {
            known.turn = turn;
            session.next_turn += 1;
        }
        !scope.incremental || news || has_records || changed
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    Unused { since: Mono },
    Small { size: usize },
}

impl Session {
    /// When it goes to make room for a session of `size` partitions, if at all.
    fn eviction_rank(&self, size: usize, now: Mono) -> Option<EvictionRank> {
        if now.since(self.used) >= EVICTION_AGE_MIN {
            return Some(EvictionRank::Unused { since: self.used });
        }
        let is_old = now.since(self.created) >= EVICTION_AGE_MIN;
        let own = self.partitions.len();
        (is_old && own < size).then_some(EvictionRank::Small { size: own })
    }

    /// How many of `named` it does not have.
    fn count_new(&self, named: &[FetchPartition]) -> usize {
        let keys = named.iter().map(|fetch| (fetch.topic.clone(), fetch.partition));
        keys.filter(|key| !self.partitions.contains_key(key)).collect::<BTreeSet<_>>().len()
    }

    fn name(&mut self, fetch: FetchPartition) {
        let key = (fetch.topic.clone(), fetch.partition);
        if let Some(known) = self.partitions.get_mut(&key) {
            known.fetch = fetch;
            return;
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        self.partitions.insert(key, SessionPartition { fetch, told: None, turn });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::Range;

    const NOW: Mono = Mono(0);

    #[test]
    fn an_incremental_fetch_reads_everything_named_and_not_forgotten() {
        let mut sessions = sessions(10, 100);
        let (scope, all) = begin(&mut sessions, 0, 0, &[0, 1, 2], &[]).unwrap();
        assert_eq!((scope, all.len()), (FetchScope { session: 7, incremental: false }, 3));
        let (scope, all) = begin(&mut sessions, 7, 1, &[3], &[1]).unwrap();
        assert_eq!(scope, FetchScope { session: 7, incremental: true });
        assert_eq!(indexes(&all), [0, 2, 3]);
    }

    #[test]
    fn epochs_are_kept() {
        let mut sessions = sessions(10, 100);
        assert_eq!(begin(&mut sessions, 9, 1, &[], &[]), Err(ErrorCode::FetchSessionIdNotFound));
        begin(&mut sessions, 0, 0, &[0], &[]).unwrap();
        assert_eq!(begin(&mut sessions, 7, 2, &[], &[]), Err(ErrorCode::InvalidFetchSessionEpoch));
        begin(&mut sessions, 7, 1, &[], &[]).unwrap();
        begin(&mut sessions, 7, 2, &[], &[]).unwrap();
        begin(&mut sessions, 7, -1, &[0], &[]).unwrap();
        assert_eq!(sessions.count(), 0, "the final epoch closes the session");
    }

    #[test]
    fn only_news_is_told_and_who_got_records_goes_last() {
        let mut sessions = sessions(10, 100);
        begin(&mut sessions, 0, 0, &[0, 1], &[]).unwrap();
        let scope = FetchScope { session: 7, incremental: true };
        let topic: Rc<str> = "t".into();
        let told = Told { high_watermark: Offset::new(5), log_start: Offset::new(0) };
        assert!(sessions.tell(scope, &topic, 0, told, false, true));
        assert!(!sessions.tell(scope, &topic, 0, told, false, false));
        assert!(sessions.tell(scope, &topic, 0, told, true, false), "an error is news");
        let moved = Told { high_watermark: Offset::new(6), ..told };
        assert!(sessions.tell(scope, &topic, 0, moved, false, false));
        let (_, all) = begin(&mut sessions, 7, 1, &[], &[]).unwrap();
        assert_eq!(indexes(&all), [1, 0]);
    }

    #[test]
    fn a_full_cache_serves_without_a_session_until_one_is_old() {
        let mut sessions = sessions(1, 100);
        begin(&mut sessions, 0, 0, &[0], &[]).unwrap();
        let (scope, _) = sessions.begin(0, 0, named(&[0]), &[], 8, NOW).unwrap();
        assert_eq!(scope.session, 0);
        let later = NOW.after(EVICTION_AGE_MIN);
        let (scope, _) = sessions.begin(0, 0, named(&[0]), &[], 8, later).unwrap();
        assert_eq!((scope.session, sessions.count()), (8, 1));
    }

    #[test]
    fn a_larger_session_takes_the_place_of_an_old_smaller_one() {
        let mut sessions = sessions(2, 100);
        open(&mut sessions, 1, 0..2, NOW);
        open(&mut sessions, 2, 0..5, NOW);
        let later = NOW.after(EVICTION_AGE_MIN);
        for id in [1, 2] {
            sessions.begin(id, 1, Vec::new(), &[], 9, later).unwrap(); // Both are in use.
        }
        assert_eq!(open(&mut sessions, 3, 0..2, later), 0, "none is smaller");
        assert_eq!(open(&mut sessions, 3, 0..3, later), 3);
        assert_eq!(ids(&sessions), [2, 3], "the smaller one went");
        assert_eq!(open(&mut sessions, 4, 0..50, later), 4);
        assert_eq!(ids(&sessions), [3, 4], "the newer one is not old enough");
        assert_eq!(open(&mut sessions, 5, 0..90, later), 0);
    }

    #[test]
    fn partitions_are_bounded_over_all_sessions() {
        let mut sessions = sessions(10, 10);
        assert_eq!(open(&mut sessions, 1, 0..4, NOW), 1);
        assert_eq!(open(&mut sessions, 2, 0..4, NOW), 2);
        assert_eq!(open(&mut sessions, 3, 0..4, NOW), 0, "served without a session");
        assert_eq!(open(&mut sessions, 3, 0..2, NOW), 3);
        let later = NOW.after(EVICTION_AGE_MIN);
        sessions.begin(2, 1, Vec::new(), &[], 9, later).unwrap();
        assert_eq!(open(&mut sessions, 4, 0..11, later), 0, "it could never fit");
        assert_eq!(ids(&sessions), [1, 2, 3], "and nobody goes for it");
        assert_eq!(open(&mut sessions, 4, 0..5, later), 4);
        assert_eq!(ids(&sessions), [2, 4], "the unused went, the one in use stays");
    }

    #[test]
    fn a_session_that_outgrows_the_bound_starts_over() {
        let mut sessions = sessions(10, 10);
        open(&mut sessions, 1, 0..4, NOW);
        open(&mut sessions, 2, 0..4, NOW);
        let grown = sessions.begin(1, 1, named(&[0, 4, 5, 5]), &[], 9, NOW);
        assert_eq!(grown.map(|(_, all)| all.len()), Ok(6), "two are new, one of them named twice");
        let grown = sessions.begin(1, 2, named(&[6]), &[], 9, NOW);
        assert_eq!(grown, Err(ErrorCode::FetchSessionIdNotFound));
        assert_eq!((ids(&sessions), sessions.partitions), (vec![2], 4));
    }

    proptest! {
        #[test]
        fn bounds_hold_and_partitions_are_counted(
            steps in proptest::collection::vec((0..6i32, 0..4i32, 0..8i32, 0..8i32, 0..100u64), 1..100),
        ) {
            let mut sessions = sessions(3, 12);
            let mut now = NOW;
            for (id, epoch, from, count, seconds) in steps {
                now = now.after(Duration::from_secs(seconds));
                let named = named(&(from..from + count).collect::<Vec<_>>());
                let forgotten = [("t".into(), from + count)];
                let fresh = id + 1;
                let _ = sessions.begin(id, epoch - 1, named, &forgotten, fresh, now);
                let counted: usize = sessions.sessions.values().map(|session| session.partitions.len()).sum();
                prop_assert_eq!(counted, sessions.partitions);
                prop_assert!(sessions.partitions <= 12);
                prop_assert!(sessions.count() <= 3);
            }
        }
    }

    fn sessions(sessions: usize, partitions: usize) -> FetchSessions {
        FetchSessions::new(SessionLimits { sessions, partitions })
    }

    fn open(sessions: &mut FetchSessions, fresh: i32, partitions: Range<i32>, now: Mono) -> i32 {
        let named = named(&partitions.collect::<Vec<_>>());
        sessions.begin(0, 0, named, &[], fresh, now).expect("a session is opened or not").0.session
    }

    fn ids(sessions: &FetchSessions) -> Vec<i32> {
        sessions.sessions.keys().copied().collect()
    }

    fn begin(
        sessions: &mut FetchSessions,
        id: i32,
        epoch: i32,
        partitions: &[i32],
        forgotten: &[i32],
    ) -> Result<(FetchScope, Vec<FetchPartition>), ErrorCode> {
        let forgotten: Vec<(Rc<str>, i32)> =
            forgotten.iter().map(|partition| ("t".into(), *partition)).collect();
        sessions.begin(id, epoch, named(partitions), &forgotten, 7, NOW)
    }

    fn named(partitions: &[i32]) -> Vec<FetchPartition> {
        let named = partitions.iter().map(|partition| FetchPartition {
            topic: "t".into(),
            partition: *partition,
            offset: Some(Offset::ZERO),
            bytes_max: 100,
            leader_epoch: None,
            last_fetched_epoch: None,
        });
        named.collect()
    }

    fn indexes(partitions: &[FetchPartition]) -> Vec<i32> {
        partitions.iter().map(|partition| partition.partition).collect()
    }
}
