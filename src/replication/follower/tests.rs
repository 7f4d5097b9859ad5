//! Each rule as a script of events.

use super::*;
use crate::codec::replication::Refusal;
use crate::replication::reads::ReadRefused;
use crate::types::{PartitionIndex, TopicId};

fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}

fn partition() -> TopicPartition {
    TopicPartition { topic: TopicId::ZERO, partition: PartitionIndex::from_wire(0).unwrap() }
}

/// Follows under epoch 5 with offsets 0 to 10, all flushed, of which it knows 6 to be everywhere.
fn follower() -> Follower {
    Follower::new(FollowerStart {
        partition: partition(),
        epoch: LeaderEpoch(5),
        log_start: Offset::ZERO,
        log_start_flushed: Offset::ZERO,
        log_end: offset(10),
        flushed_end: offset(10),
        high_watermark: offset(6),
        sessions: 0,
    })
}

fn step(follower: &mut Follower, event: Event<'_>) -> Vec<Effect> {
    let mut effects = Vec::new();
    follower.step(event, &mut effects);
    effects
}

fn align(follower: &mut Follower, outcome: AlignmentOutcome) -> Vec<Effect> {
    let (leader_epoch, session) = (follower.epoch(), follower.sessions());
    let alignment = Alignment { partition: partition(), leader_epoch, session, outcome };
    step(follower, Event::Aligned(&alignment))
}

fn append(follower: &Follower, base_offset: u64, high_watermark: u64) -> Append {
    Append {
        partition: partition(),
        leader_epoch: follower.epoch(),
        session: follower.sessions(),
        base_offset: offset(base_offset),
        high_watermark: offset(high_watermark),
        log_start: Offset::ZERO,
        size: 0,
        is_throttled: false,
    }
}

fn receive(follower: &mut Follower, base_offset: u64, end: u64, high_watermark: u64) -> Vec<Effect> {
    let append = append(follower, base_offset, high_watermark);
    step(follower, Event::Received { append: &append, end: offset(end) })
}

fn flush(follower: &mut Follower, flushed_end: u64) -> Vec<Effect> {
    step(follower, Event::Flushed { flushed_end: offset(flushed_end) })
}

fn acknowledge(flushed_end: u64, log_start: u64) -> Effect {
    Effect::Acknowledge { flushed_end: offset(flushed_end), log_start: offset(log_start) }
}

fn following() -> Follower {
    let mut follower = follower();
    assert_eq!(step(&mut follower, Event::Connected), [Effect::State]);
    assert_eq!(align(&mut follower, AlignmentOutcome::Follow), [acknowledge(10, 0)]);
    follower
}

#[test]
fn only_what_is_flushed_is_acknowledged() {
    let mut follower = following();
    assert_eq!(receive(&mut follower, 10, 15, 6), [Effect::Append { end: offset(15) }]);
    assert_eq!(receive(&mut follower, 15, 20, 6), [Effect::Append { end: offset(20) }]);
    assert_eq!(flush(&mut follower, 15), [acknowledge(15, 0)]);
    assert_eq!(flush(&mut follower, 20), [acknowledge(20, 0)]);
    assert_eq!(receive(&mut follower, 20, 20, 6), [], "no news");
}

#[test]
fn the_log_is_cut_where_the_leader_says_and_stated_again() {
    let mut follower = follower();
    step(&mut follower, Event::Connected);
    let statement = follower.statement(&LeaderEpochs::new());
    assert_eq!((statement.log_end, statement.session), (offset(10), 1));
    assert_eq!(align(&mut follower, AlignmentOutcome::CutTo(offset(8))), [Effect::CutTo(offset(8))]);
    assert_eq!(receive(&mut follower, 8, 9, 9), [Effect::Reject(Rejected::Session)], "not flushed yet");
    assert_eq!(step(&mut follower, Event::Cut), [Effect::State]);
    let statement = follower.statement(&LeaderEpochs::new());
    assert_eq!((statement.log_end, statement.flushed_end, statement.session), (offset(8), offset(8), 2));
    assert_eq!(align(&mut follower, AlignmentOutcome::Follow), [acknowledge(8, 0)]);
    assert_eq!(follower.high_watermark(), offset(6));
}

/// A leader that has heard of an earlier log start answers with a cut to the one that there is by now.
#[test]
fn who_is_cut_to_its_start_starts_over() {
    let mut follower = follower();
    step(&mut follower, Event::Connected);
    let start = follower.statement(&LeaderEpochs::new()).log_start;
    assert_eq!(align(&mut follower, AlignmentOutcome::CutTo(start)), [Effect::StartOver(start)]);
    assert_eq!(step(&mut follower, Event::Cut), [Effect::State]);
    let statement = follower.statement(&LeaderEpochs::new());
    assert_eq!((statement.log_start, statement.log_end, statement.session), (start, start, 2));
    assert_eq!(follower.high_watermark(), start);
}

#[test]
fn high_watermark_lies_within_what_is_flushed() {
    let mut follower = following();
    let effects = receive(&mut follower, 10, 15, 14);
    let advance = |to| Effect::AdvanceHighWatermark(offset(to));
    assert_eq!(effects, [Effect::Append { end: offset(15) }, advance(10)]);
    assert_eq!(flush(&mut follower, 15), [advance(14), acknowledge(15, 0)]);
    assert_eq!(receive(&mut follower, 15, 15, 9), [], "it never moves back");
    assert_eq!(follower.high_watermark(), offset(14));
}

#[test]
fn stale_leaders_and_sessions_are_rejected() {
    let mut follower = following();
    let current = LeaderEpoch(5);
    for epoch in [4, 6] {
        let stated = LeaderEpoch(epoch);
        let append = Append { leader_epoch: stated, ..append(&follower, 10, 10) };
        let effects = step(&mut follower, Event::Received { append: &append, end: offset(12) });
        assert_eq!(effects, [Effect::Reject(Rejected::Epoch { stated, current })]);
    }
    let old = append(&follower, 10, 10);
    step(&mut follower, Event::Connected);
    align(&mut follower, AlignmentOutcome::Follow);
    let effects = step(&mut follower, Event::Received { append: &old, end: offset(12) });
    assert_eq!(effects, [Effect::Reject(Rejected::Session)]);
    assert_eq!(follower.log_end(), offset(10));
}

#[test]
fn a_gap_leads_to_a_new_statement() {
    let mut follower = following();
    let gap = Rejected::Gap { base_offset: offset(12), log_end: offset(10) };
    assert_eq!(receive(&mut follower, 12, 15, 6), [Effect::Reject(gap), Effect::State]);
    assert_eq!(follower.log_end(), offset(10));
}

#[test]
fn who_has_nothing_in_common_starts_over() {
    let mut follower = follower();
    step(&mut follower, Event::Connected);
    let effects = align(&mut follower, AlignmentOutcome::StartOver(offset(100)));
    assert_eq!(effects, [Effect::StartOver(offset(100))]);
    step(&mut follower, Event::Cut);
    assert_eq!(align(&mut follower, AlignmentOutcome::Follow), [acknowledge(100, 100)]);
    assert_eq!(receive(&mut follower, 100, 103, 100), [Effect::Append { end: offset(103) }]);
}

#[test]
fn a_leader_that_refuses_is_tried_again_later() {
    for refusal in [Refusal::NotLeader, Refusal::UnknownLeaderEpoch, Refusal::FencedLeaderEpoch] {
        let mut follower = follower();
        step(&mut follower, Event::Connected);
        assert_eq!(align(&mut follower, AlignmentOutcome::Refused(refusal)), [Effect::Retry]);
        assert!(follower.is_away());
        assert_eq!(step(&mut follower, Event::Connected), [Effect::State]);
    }
}

/// Found by seed 4 of the simulation: a move that was not flushed was stated, shown to clients, and lost.
#[test]
fn a_log_start_that_is_not_flushed_is_not_stated() {
    let start = FollowerStart {
        partition: partition(),
        epoch: LeaderEpoch(5),
        log_start: offset(6),
        log_start_flushed: offset(2),
        log_end: offset(10),
        flushed_end: offset(10),
        high_watermark: offset(6),
        sessions: 0,
    };
    let mut follower = Follower::new(start);
    step(&mut follower, Event::Connected);
    assert_eq!(follower.statement(&LeaderEpochs::new()).log_start, offset(2));
    assert_eq!(align(&mut follower, AlignmentOutcome::Follow), [acknowledge(10, 2)]);
    let flushed = step(&mut follower, Event::LogStartFlushed { log_start: offset(6) });
    assert_eq!(flushed, [acknowledge(10, 6)]);
}

#[test]
fn log_start_follows_within_what_is_known_to_be_everywhere() {
    let mut follower = following();
    let append = Append { log_start: offset(9), ..append(&follower, 10, 8) };
    let effects = step(&mut follower, Event::Received { append: &append, end: offset(10) });
    let advance = Effect::AdvanceHighWatermark(offset(8));
    assert_eq!(effects, [advance, Effect::MoveLogStart(offset(8))]);
    let flushed = step(&mut follower, Event::LogStartFlushed { log_start: offset(8) });
    assert_eq!(flushed, [acknowledge(10, 8)]);
}

#[test]
fn readers_get_what_is_known_to_be_everywhere_and_are_sent_away_for_the_rest() {
    let mut follower = following();
    assert_eq!(follower.readable(offset(2)), Ok(offset(6)));
    assert_eq!(follower.readable(offset(6)), Ok(offset(6)), "nothing yet");
    for from in [7, 10, 11] {
        assert_eq!(follower.readable(offset(from)), Err(ReadRefused::NotAvailable), "the leader may have it");
    }
    receive(&mut follower, 10, 15, 8);
    assert_eq!(follower.readable(offset(7)), Ok(offset(8)));
}
