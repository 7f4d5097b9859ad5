//! One member on its way from what it has to what is aimed at for it.
//!
//! ```text
//!            has to let partitions go           some are not free yet
//!   Stable ───────────────────────────► Unrevoked ─────┐
//!     │  ▲                                 │           │
//!     │  └── everything is there ──────────┼── Unreleased ◄┐
//!     └────────────────────────────────────┴────────┴──────┘
//! ```
//!
//! A member keeps its epoch until it has let go of what is not its own any more; then it gets the epoch of the
//! target, and with it those partitions that nobody else has. Source: KIP-848; Kafka `CurrentAssignmentBuilder`.

use crate::codec::consumer_record::{CurrentValue, MemberState, Partitions};
use crate::types::TopicId;
use crate::types::sorted::SortedSet;

/// What is aimed at.
pub struct Aim<'a> {
    pub epoch: i32,
    pub target: &'a Partitions,
    /// Partitions that the member says it has; `None` if it does not say.
    pub owned: Option<&'a Partitions>,
}

/// The member has to begin anew: what it is doing is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

/// Whether nothing is left to do.
pub fn is_reconciled(current: &CurrentValue, epoch: i32) -> bool {
    current.state == MemberState::Stable && current.epoch == epoch
}

/// The next step of a member. `is_held`: whether somebody has a partition, the member itself included.
pub fn step(
    current: &CurrentValue,
    aim: &Aim<'_>,
    is_held: impl Fn(TopicId, i32) -> bool,
) -> Result<CurrentValue, Lost> {
    match current.state {
        MemberState::Stable if current.epoch == aim.epoch => Ok(current.clone()),
        MemberState::Stable | MemberState::Unreleased => Ok(next(current, current.epoch, aim, is_held)),
        MemberState::Unrevoked if owns_any(aim.owned, &current.revoking) => Ok(current.clone()),
        MemberState::Unrevoked => Ok(next(current, current.epoch + 1, aim, is_held)),
        MemberState::Unknown if aim.owned.is_some_and(Partitions::is_empty) => {
            Ok(next(current, aim.epoch, aim, is_held))
        }
        MemberState::Unknown => Err(Lost),
    }
}

/// Who does not say what it has may have anything.
fn owns_any(owned: Option<&Partitions>, partitions: &Partitions) -> bool {
    let Some(owned) = owned else { return true };
    let shares = |(topic, indexes): (&TopicId, &SortedSet<i32>)| {
        owned.get(topic).is_some_and(|owned| !owned.is_disjoint(indexes))
    };
    partitions.iter().any(shares)
}

fn next(
    current: &CurrentValue,
    epoch: i32,
    aim: &Aim<'_>,
    is_held: impl Fn(TopicId, i32) -> bool,
) -> CurrentValue {
    let (mut assigned, mut revoking) = (Partitions::new(), Partitions::new());
    for (topic, indexes) in &current.assigned {
        let target = aim.target.get(topic);
        let (kept, lost): (Vec<i32>, Vec<i32>) =
            indexes.iter().partition(|index| target.is_some_and(|target| target.contains(*index)));
        if !kept.is_empty() {
            assigned.insert(*topic, kept.into_iter().collect());
        }
        if !lost.is_empty() {
            revoking.insert(*topic, lost.into_iter().collect());
        }
    }
    if !revoking.is_empty() && owns_any(aim.owned, &revoking) {
        let (previous_epoch, state) = (current.epoch, MemberState::Unrevoked);
        return CurrentValue { epoch, previous_epoch, state, assigned, revoking };
    }
    let mut has_unreleased = false;
    for (topic, indexes) in aim.target {
        let has = |index: &i32| assigned.get(topic).is_some_and(|assigned| assigned.contains(index));
        let missing = indexes.iter().copied().filter(|index| !has(index));
        let (held, free): (Vec<i32>, Vec<i32>) = missing.partition(|index| is_held(*topic, *index));
        has_unreleased |= !held.is_empty();
        if !free.is_empty() {
            assigned.get_or_default(*topic).extend(free);
        }
    }
    let state = if has_unreleased { MemberState::Unreleased } else { MemberState::Stable };
    CurrentValue {
        epoch: aim.epoch,
        previous_epoch: current.epoch,
        state,
        assigned,
        revoking: Partitions::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Uuid;

    fn partitions(indexes: &[i32]) -> Partitions {
        let indexes: SortedSet<i32> = indexes.iter().copied().collect();
        let topic = TopicId(Uuid::from_u128(1));
        Partitions::from_iter(Some((topic, indexes)).filter(|(_, indexes)| !indexes.is_empty()))
    }

    fn current(epoch: i32, state: MemberState, assigned: &[i32], revoking: &[i32]) -> CurrentValue {
        let (assigned, revoking) = (partitions(assigned), partitions(revoking));
        CurrentValue { epoch, previous_epoch: epoch, state, assigned, revoking }
    }

    /// `owned`: what the member says; `held`: partitions that others have.
    fn step_to(
        from: &CurrentValue,
        (epoch, target): (i32, &[i32]),
        owned: Option<&[i32]>,
        held: &[i32],
    ) -> CurrentValue {
        let (target, owned) = (partitions(target), owned.map(partitions));
        let aim = Aim { epoch, target: &target, owned: owned.as_ref() };
        let own = |index| {
            let has = |partitions: &Partitions| partitions.values().any(|indexes| indexes.contains(&index));
            has(&from.assigned) || has(&from.revoking)
        };
        step(from, &aim, |_, index| held.contains(&index) || own(index)).unwrap()
    }

    fn is(current: &CurrentValue, epoch: i32, state: MemberState, assigned: &[i32], revoking: &[i32]) {
        assert_eq!((current.epoch, current.state), (epoch, state), "{current:?}");
        assert_eq!((&current.assigned, &current.revoking), (&partitions(assigned), &partitions(revoking)));
    }

    use MemberState::{Stable, Unreleased, Unrevoked};

    #[test]
    fn free_partitions_are_given_at_once() {
        let next = step_to(&current(0, Stable, &[], &[]), (3, &[0, 1]), Some(&[]), &[]);
        is(&next, 3, Stable, &[0, 1], &[]);
        assert_eq!(next.previous_epoch, 0);
    }

    #[test]
    fn nothing_happens_to_who_is_there() {
        let there = current(3, Stable, &[0], &[]);
        assert_eq!(step_to(&there, (3, &[0]), None, &[]), there);
        assert!(is_reconciled(&there, 3) && !is_reconciled(&there, 4));
    }

    #[test]
    fn partitions_of_others_are_waited_for() {
        let next = step_to(&current(3, Stable, &[0], &[]), (4, &[0, 1, 2]), None, &[1]);
        is(&next, 4, Unreleased, &[0, 2], &[]);
        let next = step_to(&next, (4, &[0, 1, 2]), None, &[]);
        is(&next, 4, Stable, &[0, 1, 2], &[]);
    }

    #[test]
    fn what_is_not_its_own_any_more_is_let_go_before_the_next_epoch() {
        let next = step_to(&current(3, Stable, &[0, 1], &[]), (5, &[1, 2]), None, &[]);
        is(&next, 3, Unrevoked, &[1], &[0]);
        let again = step_to(&next, (5, &[1, 2]), None, &[]);
        assert_eq!(again, next, "it does not say what it has");
        let again = step_to(&next, (5, &[1, 2]), Some(&[0, 1]), &[]);
        assert_eq!(again, next, "it still has it");
        let next = step_to(&next, (5, &[1, 2]), Some(&[1]), &[]);
        is(&next, 5, Stable, &[1, 2], &[]);
        assert_eq!(next.previous_epoch, 3);
    }

    #[test]
    fn what_was_let_go_before_it_was_asked_for_needs_no_round() {
        let next = step_to(&current(3, Stable, &[0, 1], &[]), (4, &[1]), Some(&[1]), &[]);
        is(&next, 4, Stable, &[1], &[]);
    }

    #[test]
    fn a_newer_target_may_take_away_more_while_partitions_are_let_go() {
        let next = step_to(&current(3, Unrevoked, &[1, 2], &[0]), (6, &[2]), Some(&[1, 2]), &[]);
        is(&next, 4, Unrevoked, &[2], &[1]);
        let next = step_to(&next, (6, &[2]), Some(&[2]), &[]);
        is(&next, 6, Stable, &[2], &[]);
    }

    #[test]
    fn what_is_waited_for_may_be_aimed_at_others_meanwhile() {
        let next = step_to(&current(4, Unreleased, &[0], &[]), (5, &[0]), None, &[1]);
        is(&next, 5, Stable, &[0], &[]);
        let next = step_to(&current(4, Unreleased, &[0], &[]), (5, &[2]), None, &[1]);
        is(&next, 4, Unrevoked, &[], &[0]);
    }

    #[test]
    fn who_is_in_an_unknown_state_begins_anew() {
        let unknown = current(4, MemberState::Unknown, &[0], &[]);
        let target = partitions(&[0]);
        let aim = |owned| Aim { epoch: 5, target: &target, owned };
        assert_eq!(step(&unknown, &aim(None), |_, _| false), Err(Lost));
        assert_eq!(step(&unknown, &aim(Some(&target)), |_, _| false), Err(Lost));
        let nothing = Partitions::new();
        is(&step(&unknown, &aim(Some(&nothing)), |_, _| false).unwrap(), 5, Stable, &[0], &[]);
    }
}
