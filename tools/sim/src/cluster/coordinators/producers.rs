//! Producers with transactions: they ask who they are, write to partitions and commit a group's offset, end their
//! transaction, and ask again where no answer came. They crash, and another one takes their transactional id; and
//! some share one.

use crate::cluster::coordinators::requests::{READ_TOPIC, Reply, Request, Write};
use crate::cluster::coordinators::topics::WRITTEN_TOPICS;
use crate::cluster::settings::check;
use crate::groups::request::{Committing, Sender, commit};
use crate::replication::scene::Scene;
use crate::world::{MS, S};
use odradek::codec::control_record::TransactionOutcome;
use odradek::codec::error_code::ErrorCode;
use odradek::group::GROUPS_TOPIC;
use odradek::txn::transaction::{End, Init};
use odradek::txn::{TRANSACTIONS_TOPIC, Writer};
use odradek::types::TransactionVersion;
use std::collections::BTreeMap;

/// Whose offsets are committed in transactions.
const GROUP: &str = "in-transactions";

/// How often a producer asks for the same until it gives its transaction up.
const TRIES: u32 = 30;

/// What a producer is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Doing {
    Init,
    /// What is left to be written, the last first.
    Write(Vec<Place>),
    End(TransactionOutcome),
    /// Looks at what it has committed.
    Fetch,
    Nothing,
}

/// One thing that is to be written, and under which number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    topic: &'static str,
    number: u64,
    sequence: i32,
}

/// Lives: one per client, to the end of the seed.
#[derive(Debug)]
pub struct Producer {
    caller: usize,
    id: String,
    /// The partition whose offsets it commits.
    of: i32,
    writer: Option<Writer>,
    sequences: BTreeMap<&'static str, i32>,
    /// The newest leader epoch that it has heard of, by partition.
    epochs: BTreeMap<usize, i32>,
    doing: Doing,
    tries: u32,
    transaction: usize,
    /// The offset in its transaction, and the last that it was told is committed.
    offset: Option<i64>,
    committed: Option<i64>,
}

impl Producer {
    pub fn is_done(&self) -> bool {
        self.doing == Doing::Nothing
    }
}

impl Scene {
    pub fn start_producers(&mut self) {
        let count = self.world.between(1, 3);
        for client in 0..count {
            let caller = self.coordinators().calls.new_caller();
            // The third takes the place of the first, and is taken it from.
            let id = format!("id{}", client % 2);
            let producer = Producer {
                caller,
                id,
                of: client as i32,
                writer: None,
                sequences: BTreeMap::new(),
                epochs: BTreeMap::new(),
                doing: Doing::Init,
                tries: 0,
                transaction: 0,
                offset: None,
                committed: None,
            };
            self.coordinators().producers.push(producer);
            self.after(self.world.below(100 * MS), move |scene| scene.go_on(client as usize));
        }
    }

    fn producer(&mut self, client: usize) -> &mut Producer {
        &mut self.coordinators().producers[client]
    }

    fn go_on_later(&mut self, client: usize) {
        let usual = if self.one_in(20) { 2 * S } else { 200 * MS };
        let pause = self.world.below(if self.is_calm { 50 * MS } else { usual });
        self.after(pause, move |scene| scene.go_on(client));
    }

    /// Something else is to be done.
    fn turn_to(&mut self, client: usize, doing: Doing) {
        let producer = self.producer(client);
        producer.doing = doing;
        producer.tries = 0;
        self.go_on_later(client);
    }

    fn go_on(&mut self, client: usize) {
        if !self.clients.is_over && !self.is_calm && self.world.one_in(60) {
            self.world.count("producer: crashed");
            let producer = self.producer(client);
            (producer.doing, producer.writer) = (Doing::Init, None);
        }
        let (doing, tries) = (self.producer(client).doing.clone(), self.producer(client).tries);
        if tries > TRIES && matches!(doing, Doing::Write(_)) {
            self.world.count("producer: gave a write up");
            return self.turn_to(client, Doing::End(TransactionOutcome::Abort));
        }
        let topic = match &doing {
            Doing::Init | Doing::End(_) => TRANSACTIONS_TOPIC,
            Doing::Write(places) => places.last().expect("there is one").topic,
            Doing::Fetch => GROUPS_TOPIC,
            Doing::Nothing => return,
        };
        let partition = self.partition_named(topic);
        let mut epoch = self.producer(client).epochs.get(&partition).copied().unwrap_or(-1);
        let leader = self.leader_heard_of(partition, &mut epoch);
        self.producer(client).epochs.insert(partition, epoch);
        let Some(node) = leader else { return self.go_on_later(client) };
        self.producer(client).tries += 1;
        let request = self.request_of(client, &doing);
        let caller = self.producer(client).caller;
        let known = self.producer(client).committed;
        let writer = self.producer(client).writer;
        let fenced = writer.filter(|writer| self.coordinated().outcomes.is_fenced(*writer));
        self.call(caller, node, request, move |scene, reply| match (doing, reply) {
            (
                doing @ (Doing::Write(_) | Doing::End(_)),
                Some(reply @ (Reply::Done(Ok(())) | Reply::Writer(Ok(_)))),
            ) if fenced.is_some() => {
                let what = format!("{fenced:?} is answered {reply:?} to {doing:?}");
                scene.world.finding(check::FENCED_PRODUCER, format_args!("{what}"));
            }
            (_, None) => scene.go_on_later(client),
            (Doing::Init, Some(Reply::Writer(result))) => scene.is_initialised(client, result),
            (Doing::Write(places), Some(Reply::Done(result))) => scene.has_written(client, places, result),
            (Doing::End(outcome), Some(Reply::Writer(result))) => scene.has_ended(client, outcome, result),
            (Doing::Fetch, Some(Reply::Fetched(result))) => scene.has_looked(client, known, result),
            (doing, reply) => unreachable!("{doing:?} is answered by {reply:?}"),
        });
    }

    fn request_of(&mut self, client: usize, doing: &Doing) -> Request {
        let producer = self.producer(client);
        let (id, writer, of) = (producer.id.clone(), producer.writer, producer.of);
        match doing {
            Doing::Init => Request::Init { id, init: Init { timeout_ms: 8_000, expected: writer } },
            Doing::End(outcome) => {
                let writer = writer.expect("it has written");
                let (transaction, outcome) = (producer.transaction, *outcome);
                self.coordinators().outcomes.asks(transaction, outcome);
                Request::End { id, end: End { writer, version: TransactionVersion::V2, outcome } }
            }
            Doing::Write(places) => {
                let writer = writer.expect("it was told");
                let Place { topic, number, sequence } = places.last().expect("there is one").clone();
                if topic == GROUPS_TOPIC {
                    let sender = Sender { member: "", instance: None, generation: -1 };
                    let committing = Committing {
                        topic: READ_TOPIC.to_owned(),
                        partition: of,
                        offset: number as i64,
                        metadata: String::new(),
                    };
                    let commit = commit(GROUP, sender, -1, &[committing]);
                    return Request::CommitInTransaction { id, writer, commit };
                }
                let partition = self.partition_named(topic);
                Request::Write(Write { id, partition, writer, sequence, number })
            }
            Doing::Fetch => Request::Fetch { group: GROUP.to_owned(), of },
            Doing::Nothing => unreachable!("nothing is asked for"),
        }
    }

    fn is_initialised(&mut self, client: usize, result: Result<Writer, ErrorCode>) {
        match result {
            Ok(writer) => {
                self.world.count("init: answered");
                self.is_producer(client, writer);
                self.begin_transaction(client);
            }
            Err(error) => {
                self.count_refusal("init", error);
                if is_fenced(error) {
                    self.producer(client).writer = None;
                }
                self.go_on_later(client);
            }
        }
    }

    fn is_producer(&mut self, client: usize, writer: Writer) {
        if !self.coordinators().outcomes.is_new(writer) {
            self.world.finding(check::GIVEN_ONCE, format_args!("{writer:?}"));
        }
        let producer = self.producer(client);
        producer.writer = Some(writer);
        producer.sequences.clear();
    }

    fn begin_transaction(&mut self, client: usize) {
        if self.clients.is_over {
            return self.turn_to(client, Doing::Fetch);
        }
        let writer = self.producer(client).writer.expect("it was told");
        let transaction = self.coordinators().outcomes.begins(writer);
        let mut topics = Vec::new();
        for topic in WRITTEN_TOPICS {
            for _ in 0..self.world.below(3) {
                topics.push(*topic);
            }
        }
        if topics.is_empty() || self.world.one_in(3) {
            topics.push(GROUPS_TOPIC);
        }
        self.producer(client).transaction = transaction;
        self.producer(client).offset = None;
        let mut places = Vec::new();
        for topic in topics {
            let number = self.clients.next_value();
            self.coordinators().outcomes.writes(transaction, number);
            let producer = self.producer(client);
            let sequence = producer.sequences.entry(topic).or_insert(0);
            places.push(Place { topic, number, sequence: *sequence });
            *sequence += 1;
            if topic == GROUPS_TOPIC {
                producer.offset = Some(number as i64);
            }
        }
        places.reverse();
        self.turn_to(client, Doing::Write(places));
    }

    fn has_written(&mut self, client: usize, mut places: Vec<Place>, result: Result<(), ErrorCode>) {
        match result {
            Ok(()) => {
                let place = places.pop().expect("it was written");
                self.coordinators().outcomes.is_acknowledged(place.number);
                self.world.count(match place.topic == GROUPS_TOPIC {
                    true => "transaction: offset committed",
                    false => "transaction: record acknowledged",
                });
                if !places.is_empty() {
                    return self.turn_to(client, Doing::Write(places));
                }
                let outcome = match self.world.one_in(4) {
                    true => TransactionOutcome::Abort,
                    false => TransactionOutcome::Commit,
                };
                self.turn_to(client, Doing::End(outcome));
            }
            Err(error) => {
                self.count_refusal("write", error);
                match error {
                    error if is_fenced(error) => {
                        self.producer(client).writer = None;
                        self.turn_to(client, Doing::Init);
                    }
                    ErrorCode::InvalidTxnState
                    | ErrorCode::TransactionAbortable
                    | ErrorCode::OutOfOrderSequenceNumber
                    | ErrorCode::UnknownServerError
                    | ErrorCode::InvalidRequest => {
                        self.turn_to(client, Doing::End(TransactionOutcome::Abort));
                    }
                    _ => self.go_on_later(client),
                }
            }
        }
    }

    fn has_ended(&mut self, client: usize, outcome: TransactionOutcome, result: Result<Writer, ErrorCode>) {
        match result {
            Ok(writer) => {
                let transaction = self.producer(client).transaction;
                self.is_told_outcome(transaction, outcome);
                let producer = self.producer(client);
                if outcome == TransactionOutcome::Commit && producer.offset.is_some() {
                    producer.committed = producer.offset;
                }
                self.is_producer(client, writer);
                match self.world.one_in(3) {
                    true => self.turn_to(client, Doing::Fetch),
                    false => self.begin_transaction(client),
                }
            }
            Err(error) => {
                self.count_refusal("end", error);
                // What it has come to, it does not know.
                if is_fenced(error) || error == ErrorCode::InvalidTxnState {
                    self.producer(client).writer = None;
                    return self.turn_to(client, Doing::Init);
                }
                self.go_on_later(client);
            }
        }
    }

    fn has_looked(&mut self, client: usize, known: Option<i64>, result: Result<Option<i64>, ErrorCode>) {
        let offset = match result {
            Ok(offset) => offset,
            Err(error) => {
                self.count_refusal("fetch", error);
                return self.go_on_later(client);
            }
        };
        self.world.count("committed offset: of a transaction");
        let of = self.producer(client).of;
        if offset < known {
            let what = format!("{GROUP} {of} is at {offset:?} after {known:?}");
            self.world.finding(check::COMMIT_FORWARD, format_args!("{what}"));
        }
        if let Some(offset) = offset
            && !self.coordinated().outcomes.may_be_committed(offset as u64)
        {
            let what = format!("{GROUP} {of} is at {offset}, which was not committed");
            self.world.finding(check::COMMITTED_ONLY, format_args!("{what}"));
        }
        let is_over = self.clients.is_over;
        let producer = self.producer(client);
        producer.committed = producer.committed.max(offset);
        if is_over {
            producer.doing = Doing::Nothing;
            return;
        }
        match self.producer(client).writer {
            Some(_) => self.begin_transaction(client),
            None => self.turn_to(client, Doing::Init),
        }
    }
}

fn is_fenced(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch | ErrorCode::InvalidProducerIdMapping
    )
}
