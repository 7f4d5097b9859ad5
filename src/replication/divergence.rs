//! Up to where a follower's log agrees with its leader's: by epochs, never by the high watermark.
//!
//! ```text
//!   leader    │ 2 ──────────│ 3 ─────│ 5 ──────────────
//!   follower  │ 2 ──────────│ 3 ──────────│ 4 ────│
//!                                    ▲ both have 3, and the leader's ends here: cut
//! ```
//!
//! One epoch has one leader, so what two logs have under it is the same up to the shorter one. The newest
//! epoch that both have decides. The follower states its newest epochs only; where the leader has none of
//! them it is cut to where the oldest of those begins, and states again. Source: KIP-101, KIP-279;
//! hachikuji/kafka-specification `Kip279`.

use crate::log::epochs::{EpochStart, LeaderEpochs};
use crate::types::Offset;

/// A replica's log as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct LogEnds<'a> {
    pub log_start: Offset,
    pub log_end: Offset,
    pub epochs: &'a [EpochStart],
}

/// A batch of a leader that reaches across an offset where its log, or a follower's, begins: it is sent as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstBatch {
    pub within: Offset,
    pub base_offset: Offset,
}

/// What a follower has to do before it may append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Nothing: its log is a beginning of the leader's.
    None,
    /// Cut its log to this end, and state again.
    CutTo(Offset),
    /// It shares nothing with what the leader still has: begin anew there. Or nothing is left of it.
    StartOver(Offset),
}

/// Compares what a follower states with the leader's log. O(epochs stated × log(epochs of the leader)).
pub fn divergence(
    leader: LogEnds<'_>,
    leader_epochs: &LeaderEpochs,
    first_batch: Option<FirstBatch>,
    follower: LogEnds<'_>,
) -> Divergence {
    let agreed = agreed_end(leader, leader_epochs, follower);
    // Epochs may be forgotten before the log start is shown; what lies below them can not be compared.
    let first = leader.epochs.first().map_or(leader.log_start, |entry| entry.start_offset);
    let shown = leader.log_start.max(first);
    let log_start =
        first_batch.filter(|first| first.within == shown).map_or(shown, |first| first.base_offset);
    // It has nothing, and stands where no batch begins.
    let is_empty = follower.log_start == follower.log_end;
    let is_within_batch = is_empty
        && first_batch
            .is_some_and(|first| first.base_offset < follower.log_end && follower.log_end <= first.within);
    if agreed < log_start
        || follower.log_start > agreed
        || is_within_batch
        || differs_below_start(leader, follower)
    {
        // Also of a follower that has nothing, and stands where the leader has nothing yet or any more.
        return Divergence::StartOver(log_start);
    }
    // Nor does it go on from the middle of a batch.
    let within =
        first_batch.filter(|first| first.within == agreed && first.base_offset >= follower.log_start);
    let agreed = within.map_or(agreed, |first| first.base_offset);
    if agreed >= follower.log_end {
        Divergence::None
    } else if agreed == follower.log_start {
        // Of a cut, the file would keep what was deleted before it, maybe of a later epoch than what comes now.
        Divergence::StartOver(agreed)
    } else {
        Divergence::CutTo(agreed)
    }
}

fn agreed_end(leader: LogEnds<'_>, leader_epochs: &LeaderEpochs, follower: LogEnds<'_>) -> Offset {
    let mut end = follower.log_end;
    for entry in follower.epochs.iter().rev() {
        if entry.start_offset >= end {
            continue; // It wrote nothing that is left.
        }
        let of_leader = leader_epochs.end_offset_for(entry.epoch, leader.log_end);
        if let Some(found) = of_leader.filter(|found| found.epoch == entry.epoch)
            && has(leader_epochs, entry)
        {
            return found.end_offset.min(end);
        }
        end = entry.start_offset;
    }
    // Nothing stated, or nothing of it known.
    if follower.epochs.is_empty() { end.min(leader.log_end) } else { end }
}

/// Whether what the follower has deleted was something else than what the leader has there: all epochs of which it has
/// records are over
/// in the leader's log before its own log begins. So it is only after an unclean election; the leader has begun anew
/// below, and a follower that went on at its log start would lack what was acknowledged since.
fn differs_below_start(leader: LogEnds<'_>, follower: LogEnds<'_>) -> bool {
    let below = leader.epochs.iter().rev().find(|entry| entry.start_offset < follower.log_start);
    let newest = follower.epochs.iter().rev().find(|entry| entry.start_offset < follower.log_end);
    leader.log_start < follower.log_start
        && below.zip(newest).is_some_and(|(below, newest)| below.epoch > newest.epoch)
}

/// An epoch older than all that are left in the leader's log is answered with itself, but is not in it.
fn has(leader_epochs: &LeaderEpochs, entry: &EpochStart) -> bool {
    leader_epochs.entries().binary_search_by_key(&entry.epoch, |known| known.epoch).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderEpoch;
    use proptest::prelude::*;

    /// The epoch of each record, from `start`.
    #[derive(Clone, Debug)]
    struct Log {
        start: u64,
        records: Vec<i32>,
    }

    impl Log {
        fn end(&self) -> u64 {
            self.start + self.records.len() as u64
        }

        fn epochs(&self) -> LeaderEpochs {
            let mut epochs = LeaderEpochs::new();
            for (index, epoch) in self.records.iter().enumerate() {
                epochs.assign(LeaderEpoch(*epoch), offset(self.start + index as u64));
            }
            epochs
        }

        fn starting_at(&self, start: u64) -> Log {
            let start = start.clamp(self.start, self.end());
            Log { start, records: self.records[(start - self.start) as usize..].to_vec() }
        }
    }

    fn offset(value: u64) -> Offset {
        Offset::new(value).unwrap()
    }

    fn compare(leader: &Log, follower: &Log, stated_max: usize) -> Divergence {
        let (of_leader, of_follower) = (leader.epochs(), follower.epochs());
        let ends = |log: &Log| (offset(log.start), offset(log.end()));
        let (log_start, log_end) = ends(leader);
        let leader = LogEnds { log_start, log_end, epochs: of_leader.entries() };
        let (log_start, log_end) = ends(follower);
        let stated = of_follower.entries();
        let stated = &stated[stated.len().saturating_sub(stated_max)..];
        divergence(leader, &of_leader, None, LogEnds { log_start, log_end, epochs: stated })
    }

    fn log(start: u64, runs: &[(i32, usize)]) -> Log {
        Log { start, records: runs.iter().flat_map(|(epoch, count)| vec![*epoch; *count]).collect() }
    }

    #[test]
    fn newest_epoch_that_both_have_decides() {
        let leader = log(0, &[(2, 10), (3, 5), (5, 10)]);
        let cut = |runs: &[(i32, usize)]| compare(&leader, &log(0, runs), 64);
        assert_eq!(cut(&[(2, 10), (3, 5)]), Divergence::None);
        assert_eq!(cut(&[(2, 10), (3, 8), (4, 2)]), Divergence::CutTo(offset(15)));
        assert_eq!(cut(&[(2, 10), (4, 2)]), Divergence::CutTo(offset(10)));
        assert_eq!(cut(&[(2, 12)]), Divergence::CutTo(offset(10)));
        assert_eq!(cut(&[(2, 10), (3, 5), (5, 12)]), Divergence::CutTo(offset(25)));
        assert_eq!(cut(&[]), Divergence::None);
    }

    #[test]
    fn what_is_not_left_in_the_leader_is_no_agreement() {
        let leader = log(150, &[(5, 50)]);
        assert_eq!(compare(&leader, &log(10, &[(2, 110)]), 64), Divergence::StartOver(offset(150)));
        assert_eq!(compare(&leader, &log(10, &[(2, 170)]), 64), Divergence::StartOver(offset(150)));
        assert_eq!(compare(&leader, &log(10, &[(2, 110), (5, 80)]), 64), Divergence::None);
        assert_eq!(compare(&leader, &log(300, &[]), 64), Divergence::StartOver(offset(150)));
        assert_eq!(compare(&leader, &log(0, &[]), 64), Divergence::StartOver(offset(150)));
    }

    /// Found by seed 111 of the simulation of whole clusters.
    #[test]
    fn who_has_deleted_something_else_starts_over() {
        let leader = log(0, &[(10, 6)]);
        assert_eq!(compare(&leader, &log(4, &[(5, 3)]), 64), Divergence::StartOver(offset(0)));
        assert_eq!(compare(&leader, &log(4, &[(5, 1)]), 64), Divergence::StartOver(offset(0)));
        // What was deleted there may have been the same here.
        let leader = log(0, &[(4, 4), (6, 2)]);
        assert_eq!(compare(&leader, &log(4, &[(5, 3)]), 64), Divergence::StartOver(offset(4)));
        assert_eq!(compare(&leader, &log(4, &[]), 64), Divergence::None);
    }

    /// Found by seed 1237 of the simulation of whole clusters: cut to its start, it kept what it had deleted in the
    /// same segment, under 7, and went on behind that with the leader's batches of 0, which its next start took for
    /// damage.
    #[test]
    fn of_whom_nothing_is_left_begins_anew() {
        let leader = log(0, &[(0, 17)]);
        assert_eq!(compare(&leader, &log(4, &[(8, 14)]), 64), Divergence::StartOver(offset(4)));
        assert_eq!(compare(&leader, &log(4, &[(0, 1), (8, 13)]), 64), Divergence::CutTo(offset(5)));
    }

    /// Found by seed 4970: it had led under 9 and written nothing.
    #[test]
    fn an_epoch_without_records_says_nothing_of_what_was_deleted() {
        let leader = log(0, &[(6, 7)]);
        let of_leader = leader.epochs();
        let ends = |log_start, log_end, epochs| LogEnds {
            log_start: offset(log_start),
            log_end: offset(log_end),
            epochs,
        };
        let entry = |epoch, start| EpochStart { epoch: LeaderEpoch(epoch), start_offset: offset(start) };
        let stated = [entry(1, 5), entry(9, 8)];
        let found = divergence(ends(0, 7, of_leader.entries()), &of_leader, None, ends(5, 8, &stated));
        assert_eq!(found, Divergence::StartOver(offset(0)));
    }

    #[test]
    fn a_log_that_begins_within_a_batch_is_begun_with_all_of_it() {
        let leader = log(5, &[(6, 7)]);
        let of_leader = leader.epochs();
        let compare = |first_batch, start| {
            let ends = |log_start, log_end, epochs| LogEnds {
                log_start: offset(log_start),
                log_end: offset(log_end),
                epochs,
            };
            divergence(ends(5, 12, of_leader.entries()), &of_leader, first_batch, ends(start, start, &[]))
        };
        let within = |within| Some(FirstBatch { within: offset(within), base_offset: offset(3) });
        for (start, expected) in [
            (0, Divergence::StartOver(offset(3))),
            (3, Divergence::None),
            (4, Divergence::StartOver(offset(3))),
            (5, Divergence::StartOver(offset(3))),
        ] {
            assert_eq!(compare(within(5), start), expected, "{start}");
        }
        // It was found of another offset.
        assert_eq!(compare(within(4), 5), Divergence::None);
        assert_eq!(compare(within(4), 3), Divergence::StartOver(offset(5)));
        // A follower's: what it lacks before it comes as well.
        assert_eq!(compare(within(7), 7), Divergence::StartOver(offset(5)));
        assert_eq!(compare(None, 7), Divergence::None);
        let stated = [EpochStart { epoch: LeaderEpoch(6), start_offset: offset(5) }];
        let follower = LogEnds { log_start: offset(5), log_end: offset(8), epochs: &stated };
        let leader = LogEnds { log_start: offset(5), log_end: offset(12), epochs: of_leader.entries() };
        let across = Some(FirstBatch { within: offset(8), base_offset: offset(6) });
        assert_eq!(divergence(leader, &of_leader, across, follower), Divergence::CutTo(offset(6)));
        assert_eq!(divergence(leader, &of_leader, None, follower), Divergence::None);
    }

    /// Found by seed 260 of the simulation: a whole log was cut to nothing.
    #[test]
    fn what_lies_below_the_known_epochs_is_not_cut_one_by_one() {
        let mut epochs = LeaderEpochs::new();
        epochs.assign(LeaderEpoch(1), offset(14));
        let leader = LogEnds { log_start: offset(0), log_end: offset(14), epochs: epochs.entries() };
        let stated = [EpochStart { epoch: LeaderEpoch(0), start_offset: offset(0) }];
        let follower = LogEnds { log_start: offset(0), log_end: offset(14), epochs: &stated };
        assert_eq!(divergence(leader, &epochs, None, follower), Divergence::StartOver(offset(14)));
    }

    #[test]
    fn few_epochs_stated_lead_there_in_rounds() {
        let leader = log(0, &[(1, 5), (9, 1)]);
        let mut follower = log(0, &[(1, 5), (2, 1), (3, 1), (4, 1), (5, 1)]);
        let mut rounds = 0;
        while let Divergence::CutTo(end) = compare(&leader, &follower, 2) {
            follower.records.truncate(end.get() as usize);
            rounds += 1;
        }
        assert_eq!((follower.end(), rounds), (5, 2));
    }

    /// Logs as leaders make them: each continues some earlier log, cut anywhere, under a higher epoch.
    fn history() -> impl Strategy<Value = Vec<Log>> {
        let step = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..6usize);
        prop::collection::vec(step, 1..12).prop_map(|steps| {
            let mut logs = vec![log(0, &[])];
            for (epoch, (from, cut, count)) in steps.into_iter().enumerate() {
                let mut next = from.get(&logs).clone();
                next.records.truncate(cut.index(next.records.len() + 1));
                next.records.extend(vec![epoch as i32; count]);
                // Whoever follows has any beginning of it.
                let shorter = cut.index(next.records.len() + 1);
                let follower = Log { start: 0, records: next.records[..shorter].to_vec() };
                logs.extend([next, follower]);
            }
            logs
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_comparison_of_every_record(
            logs in history(),
            pick in any::<(prop::sample::Index, prop::sample::Index)>(),
            starts in (0..8u64, 0..8u64),
            stated_max in 1..5usize,
        ) {
            let leader = pick.0.get(&logs).starting_at(starts.0);
            let mut follower = pick.1.get(&logs).starting_at(starts.1);
            for _ in 0..100 {
                match compare(&leader, &follower, stated_max) {
                    Divergence::CutTo(end) => {
                        prop_assert!(end.get() < follower.end());
                        follower.records.truncate((end.get() - follower.start) as usize);
                    }
                    Divergence::StartOver(at) => {
                        prop_assert!(at.get() == leader.start || at.get() == follower.start);
                        follower = Log { start: at.get(), records: Vec::new() };
                    }
                    Divergence::None => break,
                }
            }
            prop_assert_eq!(compare(&leader, &follower, stated_max), Divergence::None);
            // What is left of it is in the leader, record by record.
            prop_assert!(follower.end() <= leader.end());
            prop_assert!(follower.end() >= leader.start);
            for at in follower.start.max(leader.start)..follower.end() {
                prop_assert_eq!(
                    leader.records[(at - leader.start) as usize],
                    follower.records[(at - follower.start) as usize]
                );
            }
            // And nothing more was cut than had to be.
            let whole = pick.1.get(&logs).starting_at(starts.1);
            let mut agreed = whole.start;
            while agreed < whole.end().min(leader.end())
                && (agreed < leader.start
                    || leader.records[(agreed - leader.start) as usize]
                        == whole.records[(agreed - whole.start) as usize])
            {
                agreed += 1;
            }
            if agreed >= leader.start && whole.start >= leader.start && agreed > whole.start {
                prop_assert_eq!(follower.end(), agreed);
            }
        }
    }
}
