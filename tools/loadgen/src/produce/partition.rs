//! What a producer knows of one partition: batches that were sent and not answered, in sequence
//! order, and what follows from each answer (KIP-98). Pure.
//!
//! ```text
//! open ──retriable answer, lost connection──► draining ──nothing in flight──► resend in order ──► open
//!   └──final error of an idempotent producer──► closed: a gap in the sequence cannot be filled
//! ```
//! Without idempotence a batch is retried the same way and may end up in the log twice, as with
//! Kafka's producer.

use std::collections::VecDeque;
use std::time::Duration;

use odradek::types::{Mono, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::batch::{Payload, Stamp};
use crate::cluster::is_retriable;
use crate::produce::pacing::Due;

/// Batches in flight to one partition that a broker still recognises when they are sent again.
pub const IDEMPOTENT_WINDOW: usize = 5;
/// Between a retriable answer and the next attempt (Kafka `retry.backoff.ms`).
pub const RETRY_BACKOFF: Duration = Duration::from_millis(100);

const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

/// A batch that waits for its answer.
pub struct Outstanding {
    pub payload: Payload,
    pub sequence: Sequence,
    pub timestamp: Timestamp,
    pub due: Due,
    /// Retries end here.
    give_up: Mono,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Sent,
    Waiting,
    Stored,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Draining { until: Mono },
    Resending,
    Closed,
}

/// What an answer meant for its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Stored,
    /// Will be sent again.
    Retry,
    /// Not stored as far as we know, and not sent again.
    Failed,
}

/// Lives: with the worker whose connection leads to the partition's leader.
/// Invariant: `outstanding` is in sequence order and its front is neither stored nor failed.
pub struct Partition {
    pub index: i32,
    producer: Option<(ProducerId, ProducerEpoch)>,
    next_sequence: Sequence,
    /// Number of the front of `outstanding`, counting all batches from zero.
    front: u64,
    outstanding: VecDeque<Outstanding>,
    in_flight: usize,
    mode: Mode,
}

impl Partition {
    pub fn new(index: i32, producer: Option<(ProducerId, ProducerEpoch)>) -> Partition {
        let (next_sequence, outstanding) = (Sequence(0), VecDeque::new());
        Partition { index, producer, next_sequence, front: 0, outstanding, in_flight: 0, mode: Mode::Open }
    }

    /// From here on with this id and epoch; a new epoch begins a new sequence.
    pub fn renew(&mut self, producer: (ProducerId, ProducerEpoch)) {
        assert!(self.is_idle(), "what was sent has the epoch of its time");
        if self.producer != Some(producer) {
            self.producer = Some(producer);
            self.next_sequence = Sequence(0);
        }
    }

    /// Whether a new batch may be sent now.
    pub fn is_open(&self) -> bool {
        let room = self.producer.is_none() || self.outstanding.len() < IDEMPOTENT_WINDOW;
        self.mode == Mode::Open && room
    }

    pub fn is_closed(&self) -> bool {
        self.mode == Mode::Closed
    }

    pub fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }

    pub fn outstanding(&self, id: u64) -> &Outstanding {
        &self.outstanding[(id - self.front) as usize]
    }

    pub fn stamp(&self, id: u64) -> Stamp {
        let (producer, epoch) = self.producer?;
        Some((producer, epoch, self.outstanding(id).sequence))
    }

    /// Takes a new batch that is sent at once, and gives it its place in the sequence.
    pub fn send(&mut self, payload: Payload, timestamp: Timestamp, due: Due, give_up: Mono) -> u64 {
        assert!(self.is_open(), "a new batch would overtake those that wait");
        let sequence = self.next_sequence;
        self.next_sequence = sequence.advance(payload.record_count);
        let state = State::Sent;
        self.outstanding.push_back(Outstanding { payload, sequence, timestamp, due, give_up, state });
        self.in_flight += 1;
        self.front + self.outstanding.len() as u64 - 1
    }

    /// The next batch to send again, in order, once nothing is in flight and the time has come.
    pub fn resend(&mut self, now: Mono) -> Option<u64> {
        match self.mode {
            Mode::Draining { until } if self.in_flight == 0 && until <= now => self.mode = Mode::Resending,
            Mode::Resending => {}
            Mode::Draining { .. } | Mode::Open | Mode::Closed => return None,
        }
        let Some(at) = self.outstanding.iter().position(|batch| batch.state == State::Waiting) else {
            self.mode = Mode::Open;
            return None;
        };
        self.outstanding[at].state = State::Sent;
        self.in_flight += 1;
        Some(self.front + at as u64)
    }

    /// When [`resend`](Self::resend) is worth asking, if ever.
    pub fn resend_at(&self) -> Option<Mono> {
        match self.mode {
            Mode::Draining { until } if self.in_flight == 0 => Some(until),
            Mode::Draining { .. } | Mode::Resending | Mode::Open | Mode::Closed => None,
        }
    }

    /// The answer to batch `id`. Stored and failed ones then come out of [`settled`](Self::settled).
    pub fn answered(&mut self, id: u64, code: i16, now: Mono) -> Verdict {
        assert!(self.in_flight > 0, "only what is in flight is answered");
        self.in_flight -= 1;
        let at = (id - self.front) as usize;
        let idempotent = self.producer.is_some();
        // Behind a batch that is not stored yet, out of order only says that.
        let follows = code == OUT_OF_ORDER_SEQUENCE_NUMBER && idempotent && at > 0;
        let batch = &mut self.outstanding[at];
        assert_eq!(batch.state, State::Sent, "a batch is answered once");
        if code == 0 || (idempotent && code == DUPLICATE_SEQUENCE_NUMBER) {
            batch.state = State::Stored;
            return Verdict::Stored;
        }
        let again = (is_retriable(code) || follows) && now < batch.give_up && self.mode != Mode::Closed;
        if again {
            batch.state = State::Waiting;
            self.mode = Mode::Draining { until: now.after(RETRY_BACKOFF) };
            return Verdict::Retry;
        }
        batch.state = State::Failed;
        if idempotent {
            self.close();
        }
        Verdict::Failed
    }

    /// The connection is gone: what was in flight is unanswered and waits.
    pub fn disconnected(&mut self, now: Mono) {
        for batch in &mut self.outstanding {
            if batch.state == State::Sent {
                batch.state = State::Waiting;
            }
        }
        self.in_flight = 0;
        if self.mode != Mode::Closed && !self.outstanding.is_empty() {
            self.mode = Mode::Draining { until: now };
        }
    }

    /// No more is sent. What waits has failed; what is in flight may still be answered.
    pub fn close(&mut self) {
        self.mode = Mode::Closed;
        for batch in &mut self.outstanding {
            if batch.state == State::Waiting {
                batch.state = State::Failed;
            }
        }
    }

    /// Takes batches off the front whose fate is known, in sequence order, and says whether stored.
    pub fn settled(&mut self) -> Option<(Outstanding, bool)> {
        let stored = match self.outstanding.front()?.state {
            State::Sent | State::Waiting => return None,
            State::Stored => true,
            State::Failed => false,
        };
        self.front += 1;
        self.outstanding.pop_front().map(|batch| (batch, stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Template;
    use odradek::codec::record_batch::Compression;

    const NOT_LEADER: i16 = 6;
    const CORRUPT: i16 = 87;

    #[test]
    fn sequences_follow_each_other_and_settle_in_order() {
        let mut partition = idempotent();
        assert_eq!([send(&mut partition), send(&mut partition), send(&mut partition)], [0, 1, 2]);
        assert_eq!(partition.outstanding(2).sequence, Sequence(4));
        assert_eq!(partition.answered(0, 0, Mono(1)), Verdict::Stored);
        assert_eq!(settled(&mut partition), [(0, true)]);
        assert_eq!(partition.answered(1, 0, Mono(1)), Verdict::Stored);
        assert_eq!(partition.answered(2, 0, Mono(1)), Verdict::Stored);
        assert_eq!(settled(&mut partition), [(2, true), (4, true)]);
        assert!(partition.is_idle());
    }

    #[test]
    fn an_idempotent_partition_has_five_batches_out_at_most() {
        let mut partition = idempotent();
        send_many(&mut partition, 5);
        assert!(!partition.is_open());
        assert_eq!(partition.answered(0, 0, Mono(1)), Verdict::Stored);
        settled(&mut partition);
        assert!(partition.is_open());
    }

    #[test]
    fn after_a_retriable_error_all_that_follow_are_sent_again_in_order() {
        let mut partition = idempotent();
        send_many(&mut partition, 3);
        assert_eq!(partition.answered(0, NOT_LEADER, Mono(1)), Verdict::Retry);
        assert!(!partition.is_open(), "a new batch would overtake");
        let later = Mono(1).after(RETRY_BACKOFF);
        assert_eq!(partition.resend(later), None, "two are still in flight");
        assert_eq!(partition.answered(1, OUT_OF_ORDER_SEQUENCE_NUMBER, Mono(1)), Verdict::Retry);
        assert_eq!(partition.answered(2, OUT_OF_ORDER_SEQUENCE_NUMBER, Mono(1)), Verdict::Retry);
        assert_eq!(partition.resend(Mono(2)), None, "the backoff is not over");
        let resent: Vec<u64> = std::iter::from_fn(|| partition.resend(later)).collect();
        assert_eq!(resent, [0, 1, 2]);
        assert!(partition.is_open());
        (0..3).for_each(|id| assert_eq!(partition.answered(id, 0, later), Verdict::Stored));
        assert_eq!(settled(&mut partition), [(0, true), (2, true), (4, true)]);
    }

    #[test]
    fn a_lost_connection_sends_all_again_and_duplicates_count_as_stored() {
        let mut partition = idempotent();
        send_many(&mut partition, 2);
        partition.disconnected(Mono(5));
        assert_eq!(partition.resend_at(), Some(Mono(5)));
        let resent: Vec<u64> = std::iter::from_fn(|| partition.resend(Mono(5))).collect();
        assert_eq!(resent, [0, 1]);
        assert_eq!(partition.answered(0, DUPLICATE_SEQUENCE_NUMBER, Mono(6)), Verdict::Stored);
        assert_eq!(partition.answered(1, 0, Mono(6)), Verdict::Stored);
        assert_eq!(settled(&mut partition), [(0, true), (2, true)]);
    }

    #[test]
    fn a_gap_closes_an_idempotent_partition() {
        let mut partition = idempotent();
        send_many(&mut partition, 2);
        assert_eq!(partition.answered(0, CORRUPT, Mono(1)), Verdict::Failed);
        assert_eq!(partition.answered(1, OUT_OF_ORDER_SEQUENCE_NUMBER, Mono(1)), Verdict::Failed);
        assert!(partition.is_closed());
        assert_eq!(settled(&mut partition), [(0, false), (2, false)]);
    }

    #[test]
    fn out_of_order_at_the_front_is_final() {
        let mut partition = idempotent();
        send(&mut partition);
        assert_eq!(partition.answered(0, OUT_OF_ORDER_SEQUENCE_NUMBER, Mono(1)), Verdict::Failed);
    }

    #[test]
    fn without_idempotence_a_final_error_costs_one_batch() {
        let mut partition = Partition::new(0, None);
        send_many(&mut partition, 2);
        assert_eq!(partition.answered(0, CORRUPT, Mono(1)), Verdict::Failed);
        assert!(partition.is_open());
        assert_eq!(partition.answered(1, 0, Mono(1)), Verdict::Stored);
    }

    #[test]
    fn retries_end_with_the_delivery_time_out() {
        let mut partition = idempotent();
        send(&mut partition);
        assert_eq!(partition.answered(0, NOT_LEADER, GIVE_UP), Verdict::Failed);
    }

    const GIVE_UP: Mono = Mono(1_000_000_000);

    fn idempotent() -> Partition {
        Partition::new(0, Some((ProducerId(1), ProducerEpoch(0))))
    }

    /// A batch of two records.
    fn send(partition: &mut Partition) -> u64 {
        let mut template = Template::new([(None, &b"a"[..]), (None, b"b")], Compression::None);
        let due = Due { first: Mono(0), interval_ns: 0.0 };
        partition.send(template.take(2), Timestamp(0), due, GIVE_UP)
    }

    fn send_many(partition: &mut Partition, count: usize) {
        for _ in 0..count {
            send(partition);
        }
    }

    fn settled(partition: &mut Partition) -> Vec<(i32, bool)> {
        std::iter::from_fn(|| partition.settled()).map(|(batch, stored)| (batch.sequence.0, stored)).collect()
    }
}
