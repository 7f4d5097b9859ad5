//! Producers as clients are: they ask who they are, write to partitions, commit offsets, end their transactions,
//! ask again where no answer came, take their time, and die. In version 1 of transactions they add what they
//! write to, in version 2 they write.

use crate::crowd::Crowd;
use crate::transactions::cluster::Cluster;
use crate::transactions::network::call;
use crate::transactions::request::{Claim, Place, Reply, Request, Tag, Write};
use crate::transactions::settings::{MS, S};
use crate::world::{Micros, World};
use odradek::codec::control_record::TransactionOutcome;
use odradek::codec::error_code::ErrorCode;
use odradek::txn::Writer;
use odradek::txn::transaction::{End, Init};
use odradek::types::TransactionVersion;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How often a client asks for the same until it gives up.
const TRIES: usize = 12;

/// Groups whose offsets are committed, and partitions that they have read.
pub const GROUPS: u64 = 2;
pub const READ_PARTITIONS: u64 = 2;

/// What all clients of a seed share.
pub struct Users {
    pub cluster: Rc<Cluster>,
    /// What is written is told apart by its number.
    pub crowd: Crowd,
}

impl Users {
    pub fn new(cluster: &Rc<Cluster>) -> Rc<Users> {
        Rc::new(Users { cluster: cluster.clone(), crowd: Crowd::new(&cluster.scene.world) })
    }

    pub fn world(&self) -> &Rc<World> {
        &self.cluster.scene.world
    }

    pub fn some_id(&self) -> String {
        let ids = self.cluster.scene.settings.ids as u64;
        self.cluster.id(self.world().below(ids) as usize)
    }
}

/// What follows for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    /// The transaction has to be aborted.
    Abort,
    /// It is not the producer any more, or does not know.
    Die,
}

/// Lives: from a client's start to its end.
struct Producer {
    users: Rc<Users>,
    id: String,
    claim: Claim,
    timeout: Micros,
    writer: Writer,
    sequences: BTreeMap<usize, i32>,
    /// One pause in so many is longer than the time-out.
    freezes: u64,
}

/// A place for producers of one transactional id, one after the other.
pub async fn run_slot(users: Rc<Users>, id: String) {
    let client = async {
        while !users.crowd.is_over() {
            let world = users.world().clone();
            world.sleep(world.below(6 * S)).await;
            let settings = users.cluster.scene.settings;
            let producer = Producer {
                users: users.clone(),
                id: id.clone(),
                claim: match world.below(6) {
                    0 => Claim::Added,
                    1 => Claim::AddedOrAborts,
                    _ => Claim::Adds,
                },
                timeout: world.between(S, settings.timeout_max),
                writer: Writer {
                    producer: odradek::types::ProducerId(-1),
                    epoch: odradek::types::ProducerEpoch(-1),
                },
                sequences: BTreeMap::new(),
                freezes: [20, 200, u64::MAX][world.below(3) as usize],
            };
            producer.run().await;
        }
    };
    users.crowd.attend(client).await;
}

impl Producer {
    fn world(&self) -> &Rc<World> {
        self.users.world()
    }

    fn version(&self) -> TransactionVersion {
        self.claim.version()
    }

    async fn run(mut self) {
        let end = self.world().now() + self.world().between(S, 40 * S);
        if self.init(None).await == Next::Die {
            return;
        }
        while self.world().now() < end && !self.users.crowd.is_over() {
            match self.transaction().await {
                Next::GoOn => {}
                // It does not know what became of what it has sent (KIP-360).
                Next::Abort => {
                    self.world().count("producer: goes on after an error");
                    let expected = Some(self.writer);
                    if self.init(expected).await == Next::Die {
                        return;
                    }
                }
                Next::Die => return self.world().count("producer: died"),
            }
            if self.world().one_in(3) {
                self.world().sleep(self.world().below(3 * S)).await;
            }
        }
    }

    async fn ask(&self, request: Request) -> Option<Reply> {
        call(&self.users.cluster, request).await
    }

    async fn back_off(&self) {
        self.world().sleep(self.world().between(20 * MS, 400 * MS)).await;
    }

    async fn init(&mut self, expected: Option<Writer>) -> Next {
        let timeout_ms = (self.timeout / 1000) as i32;
        let timeout_ms = if self.world().one_in(100) { 3_600_000 } else { timeout_ms };
        let init = Init { timeout_ms, expected };
        for _ in 0..4 * TRIES {
            let reply = self.ask(Request::Init { id: self.id.clone(), init }).await;
            match reply {
                Some(Reply::Writer(Ok(writer))) => {
                    self.writer = writer;
                    self.sequences.clear();
                    return Next::GoOn;
                }
                Some(Reply::Writer(Err(
                    ErrorCode::ProducerFenced
                    | ErrorCode::InvalidProducerEpoch
                    | ErrorCode::InvalidTransactionTimeout
                    | ErrorCode::InvalidRequest,
                ))) => return Next::Die,
                Some(Reply::Writer(Err(_))) | None => self.back_off().await,
                Some(other) => unreachable!("an init is answered by an init: {other:?}"),
            }
        }
        Next::Die
    }

    async fn transaction(&mut self) -> Next {
        let world = self.world().clone();
        let scene = self.users.cluster.scene.clone();
        let tag = scene.watch.borrow_mut().records.begins(&self.id, self.version(), self.writer);
        let partitions = scene.settings.partitions as u64;
        let all: BTreeSet<usize> =
            (0..world.between(0, 3)).map(|_| world.below(partitions) as usize).collect();
        let has_offsets = world.one_in(3);
        if all.is_empty() && !has_offsets {
            return Next::GoOn;
        }
        let mut next = match self.version() {
            TransactionVersion::V1 => self.add(tag, &all, has_offsets).await,
            TransactionVersion::V2 => Next::GoOn,
        };
        if next == Next::GoOn {
            next = self.write_all(tag, &all, has_offsets).await;
        }
        if world.one_in(self.freezes) {
            world.count("producer: froze");
            world.sleep(world.between(self.timeout, 2 * self.timeout)).await;
        }
        match next {
            Next::Die => return Next::Die,
            _ if world.one_in(25) => return Next::Die,
            Next::GoOn | Next::Abort => {}
        }
        let outcome = match next == Next::Abort || world.one_in(4) {
            true => TransactionOutcome::Abort,
            false => TransactionOutcome::Commit,
        };
        match self.end(tag, outcome).await {
            Next::GoOn if next == Next::Abort && self.version() == TransactionVersion::V1 => Next::Abort,
            ended => ended,
        }
    }

    async fn add(&mut self, tag: Tag, partitions: &BTreeSet<usize>, has_offsets: bool) -> Next {
        let (id, writer, tag) = (self.id.clone(), self.writer, Some(tag));
        let partitions: Vec<usize> = partitions.iter().copied().collect();
        let mut requests = Vec::new();
        if !partitions.is_empty() {
            requests.push(Request::AddPartitions { id: id.clone(), tag, writer, partitions });
        }
        if has_offsets {
            requests.push(Request::AddOffsets { id, tag, writer });
        }
        for request in requests {
            let next = self.until_done(request).await;
            if next != Next::GoOn {
                return Next::Die;
            }
        }
        Next::GoOn
    }

    async fn write_all(&mut self, tag: Tag, partitions: &BTreeSet<usize>, has_offsets: bool) -> Next {
        let world = self.world().clone();
        for partition in partitions {
            for _ in 0..world.between(1, 3) {
                let sequence = self.sequences.entry(*partition).or_insert(0);
                let place = Place::Record { partition: *partition, sequence: *sequence };
                *sequence += 1;
                if world.one_in(25) {
                    self.write_unwatched(tag, place);
                    return Next::Abort;
                }
                let next = self.write(tag, place).await;
                if next != Next::GoOn {
                    return next;
                }
            }
            if world.one_in(6) {
                world.sleep(world.below(S)).await;
            }
        }
        if has_offsets {
            let group = world.below(GROUPS) as usize;
            let of = world.below(READ_PARTITIONS) as i32;
            let place = Place::Offset { group, of };
            if world.one_in(10) {
                self.write_unwatched(tag, place);
                return Next::Abort;
            }
            return self.write(tag, place).await;
        }
        Next::GoOn
    }

    fn write_of(&self, tag: Tag, place: Place) -> Request {
        let write = Write {
            number: self.users.crowd.next(),
            tag: Some(tag),
            writer: self.writer,
            claim: self.claim,
            place,
            is_transactional: true,
        };
        self.users.cluster.scene.watch.borrow_mut().records.writes(&write);
        Request::Write { id: self.id.clone(), write }
    }

    async fn write(&mut self, tag: Tag, place: Place) -> Next {
        self.until_done(self.write_of(tag, place)).await
    }

    /// Sends something, and does not wait for it: the transaction is aborted.
    fn write_unwatched(&self, tag: Tag, place: Place) {
        self.world().count("producer: aborts what is on its way");
        let (cluster, request) = (self.users.cluster.clone(), self.write_of(tag, place));
        self.world().spawn(async move {
            call(&cluster, request).await;
        });
    }

    /// Asks until it is done, or cannot be.
    async fn until_done(&self, request: Request) -> Next {
        for _ in 0..TRIES {
            match self.ask(request.clone()).await {
                Some(Reply::Done(Ok(()))) => return Next::GoOn,
                Some(Reply::Done(Err(error))) => match error {
                    ErrorCode::ProducerFenced | ErrorCode::InvalidProducerIdMapping => return Next::Die,
                    ErrorCode::InvalidProducerEpoch
                    | ErrorCode::OutOfOrderSequenceNumber
                    | ErrorCode::InvalidTxnState
                    | ErrorCode::TransactionAbortable
                    | ErrorCode::UnknownServerError
                    | ErrorCode::InvalidRequest => return Next::Abort,
                    _ => {}
                },
                None => {}
                Some(other) => unreachable!("a write is answered by a write: {other:?}"),
            }
            self.back_off().await;
        }
        self.world().count("producer: gave a write up");
        Next::Abort
    }

    async fn end(&mut self, tag: Tag, outcome: TransactionOutcome) -> Next {
        self.users.cluster.scene.watch.borrow_mut().records.asks(tag, outcome);
        let end = End { writer: self.writer, version: self.version(), outcome };
        for _ in 0..4 * TRIES {
            match self.ask(Request::End { id: self.id.clone(), tag: Some(tag), end }).await {
                Some(Reply::Writer(Ok(writer))) => {
                    if self.version() == TransactionVersion::V2 {
                        self.writer = writer;
                        self.sequences.clear();
                    }
                    return Next::GoOn;
                }
                Some(Reply::Writer(Err(
                    ErrorCode::ProducerFenced
                    | ErrorCode::InvalidProducerEpoch
                    | ErrorCode::InvalidProducerIdMapping,
                ))) => return Next::Die,
                Some(Reply::Writer(Err(ErrorCode::InvalidTxnState))) => return Next::Abort,
                Some(Reply::Writer(Err(_))) | None => self.back_off().await,
                Some(other) => unreachable!("an end is answered by an end: {other:?}"),
            }
        }
        Next::Die
    }
}
