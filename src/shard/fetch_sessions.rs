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
//! Source: Kafka `FetchSession`, `FetchSessionCache`.

use crate::codec::error_code::ErrorCode;
use crate::types::{LeaderEpoch, Mono, Offset};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// A session unused for this long may make room for a new one (Kafka
/// `FetchSession.MIN_EVICTION_MS`).
const EVICTION_IDLE_MIN: Duration = Duration::from_secs(120);

/// Partitions of one session; a larger fetch is served without one.
const SESSION_PARTITIONS_MAX: usize = 100_000;

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
    count_max: usize,
}

impl FetchSessions {
    pub fn new(count_max: usize) -> FetchSessions {
        FetchSessions { sessions: BTreeMap::new(), count_max }
    }

    pub fn count(&self) -> usize {
        self.sessions.len()
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
            self.sessions.remove(&id);
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
            session.partitions.remove(key);
        }
        for fetch in named {
            session.name(fetch)?;
        }
        let mut ordered: Vec<(u64, FetchPartition)> =
            session.partitions.values().map(|partition| (partition.turn, partition.fetch.clone())).collect();
        ordered.sort_by_key(|(turn, _)| *turn);
        let fetches = ordered.into_iter().map(|(_, fetch)| fetch).collect();
        Ok((FetchScope { session: id, incremental: true }, fetches))
    }

    fn open(&mut self, id: i32, named: &[FetchPartition], now: Mono) -> i32 {
        if named.is_empty() || named.len() > SESSION_PARTITIONS_MAX || self.sessions.contains_key(&id) {
            return 0;
        }
        if self.sessions.len() >= self.count_max && !self.evict(now) {
            return 0;
        }
        let mut session = Session { partitions: BTreeMap::new(), next_epoch: 1, next_turn: 0, used: now };
        for fetch in named {
            if session.name(fetch.clone()).is_err() {
                return 0;
            }
        }
        self.sessions.insert(id, session);
        id
    }

    fn evict(&mut self, now: Mono) -> bool {
        let oldest = self.sessions.iter().min_by_key(|(_, session)| session.used);
        let Some((id, session)) = oldest else { return false };
        let (id, idle) = (*id, now.since(session.used));
        idle >= EVICTION_IDLE_MIN && self.sessions.remove(&id).is_some()
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

impl Session {
    fn name(&mut self, fetch: FetchPartition) -> Result<(), ErrorCode> {
        let key = (fetch.topic.clone(), fetch.partition);
        if let Some(known) = self.partitions.get_mut(&key) {
            known.fetch = fetch;
            return Ok(());
        }
        if self.partitions.len() >= SESSION_PARTITIONS_MAX {
            return Err(ErrorCode::InvalidRequest);
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        self.partitions.insert(key, SessionPartition { fetch, told: None, turn });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Mono = Mono(0);

    #[test]
    fn an_incremental_fetch_reads_everything_named_and_not_forgotten() {
        let mut sessions = FetchSessions::new(10);
        let (scope, all) = begin(&mut sessions, 0, 0, &[0, 1, 2], &[]).unwrap();
        assert_eq!((scope, all.len()), (FetchScope { session: 7, incremental: false }, 3));
        let (scope, all) = begin(&mut sessions, 7, 1, &[3], &[1]).unwrap();
        assert_eq!(scope, FetchScope { session: 7, incremental: true });
        assert_eq!(indexes(&all), [0, 2, 3]);
    }

    #[test]
    fn epochs_are_kept() {
        let mut sessions = FetchSessions::new(10);
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
        let mut sessions = FetchSessions::new(10);
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
        let mut sessions = FetchSessions::new(1);
        begin(&mut sessions, 0, 0, &[0], &[]).unwrap();
        let (scope, _) = sessions.begin(0, 0, named(&[0]), &[], 8, NOW).unwrap();
        assert_eq!(scope.session, 0);
        let later = NOW.after(EVICTION_IDLE_MIN);
        let (scope, _) = sessions.begin(0, 0, named(&[0]), &[], 8, later).unwrap();
        assert_eq!((scope.session, sessions.count()), (8, 1));
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
