//! Requests of all kinds, as a node takes them, and what comes back.

use crate::cluster::coordinators::Then;
use crate::groups::request::{caller, errors};
use crate::replication::scene::Scene;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, OffsetCommitRequest,
};
use odradek::codec::error_code::ErrorCode;
use odradek::group::coordinator::write_error;
use odradek::group::{Answer, GROUPS_TOPIC};
use odradek::txn::transaction::{End, Init};
use odradek::txn::{self, TRANSACTIONS_TOPIC, Writer};
use odradek::types::ProducerId;

/// The topic whose offsets are committed.
pub const READ_TOPIC: &str = "input";

/// The version of OffsetCommit.
const COMMIT: i16 = 9;

#[derive(Clone, Debug)]
pub enum Request {
    Commit(OffsetCommitRequest),
    /// What a group has committed of a partition.
    Fetch {
        group: String,
        of: i32,
    },
    Heartbeat(ConsumerGroupHeartbeatRequest),
    Init {
        id: String,
        init: Init,
    },
    End {
        id: String,
        end: End,
    },
    Write(Write),
    CommitInTransaction {
        id: String,
        writer: Writer,
        commit: OffsetCommitRequest,
    },
}

/// A record of a transaction.
#[derive(Clone, Debug)]
pub struct Write {
    /// The transactional id.
    pub id: String,
    pub partition: usize,
    pub writer: Writer,
    pub sequence: i32,
    /// What it says, told apart from everything else.
    pub number: u64,
}

#[derive(Clone, Debug)]
pub enum Reply {
    Done(Result<(), ErrorCode>),
    /// The offset, if there is one.
    Fetched(Result<Option<i64>, ErrorCode>),
    Heartbeat(Result<ConsumerGroupHeartbeatResponse, ErrorCode>),
    /// Who the producer is from now on.
    Writer(Result<Writer, ErrorCode>),
}

impl Scene {
    pub fn serve(&mut self, id: usize, request: Request, reply: Then<Reply>) {
        match request {
            Request::Commit(request) => {
                let key = match self.coordinator_at(id, GROUPS_TOPIC) {
                    Ok(key) => key,
                    Err(error) => return reply(self, Reply::Done(Err(error))),
                };
                let commits = crate::groups::request::committed(&request)
                    .map(|(_, of, offset)| (request.group_id.to_string(), of, offset))
                    .collect::<Vec<_>>();
                self.ask_groups(
                    key,
                    |groups, ticket, now, effects| groups.commit(COMMIT, request, ticket, now, effects),
                    move |scene, answer| {
                        let error = errors(&answer)[0];
                        let result = if error == ErrorCode::None { Ok(()) } else { Err(error) };
                        if result.is_ok() {
                            scene.check_commits(id, &commits);
                        }
                        reply(scene, Reply::Done(result));
                    },
                );
            }
            Request::Fetch { group, of } => {
                let fetched = self.coordinator_at(id, GROUPS_TOPIC).and_then(|key| {
                    let groups = self.coordinated().serving.groups(key);
                    if groups.is_unstable(&group, READ_TOPIC, of) {
                        return Err(ErrorCode::UnstableOffsetCommit);
                    }
                    let offsets = groups.offsets(&group);
                    Ok(offsets.and_then(|offsets| offsets.get(READ_TOPIC, of)).map(|value| value.offset))
                });
                if let Ok(found) = fetched {
                    self.check_fetched(id, &(group, of), found);
                }
                reply(self, Reply::Fetched(fetched));
            }
            Request::Heartbeat(request) => self.beat_in_group(id, request, reply),
            Request::Init { .. } | Request::End { .. } => self.serve_producer(id, request, reply),
            Request::Write(write) => self.produce_in_transaction(id, write, reply),
            Request::CommitInTransaction { id: producer, writer, commit } => {
                self.commit_in_transaction(id, producer, writer, commit, reply);
            }
        }
    }

    fn beat_in_group(&mut self, id: usize, request: ConsumerGroupHeartbeatRequest, reply: Then<Reply>) {
        let key = match self.coordinator_at(id, GROUPS_TOPIC) {
            Ok(key) => key,
            Err(error) => return reply(self, Reply::Heartbeat(Err(error))),
        };
        // Members say who they are.
        let fresh_id = request.member_id.to_string();
        let who = caller("member", 1);
        self.ask_groups(
            key,
            |groups, ticket, now, effects| {
                groups.consumer_heartbeat(&who, request, &fresh_id, ticket, now, effects);
            },
            |scene, answer| {
                let Answer::ConsumerHeartbeat(response) = answer else { unreachable!("it is a heartbeat") };
                reply(scene, Reply::Heartbeat(Ok(response)));
            },
        );
    }

    fn serve_producer(&mut self, id: usize, request: Request, reply: Then<Reply>) {
        let key = match self.coordinator_at(id, TRANSACTIONS_TOPIC) {
            Ok(key) => key,
            Err(error) => return reply(self, Reply::Writer(Err(error))),
        };
        let mut next_producer = self.coordinators().next_producer;
        let mut fresh = || {
            next_producer += 1;
            Some(ProducerId(next_producer))
        };
        self.ask_transactions(
            key,
            |transactions, ticket, now, effects| match &request {
                Request::Init { id, init } => {
                    transactions.init(id, init, ticket, now.wall, &mut fresh, effects);
                }
                Request::End { id, end } => transactions.end(id, end, ticket, now.wall, &mut fresh, effects),
                other => unreachable!("{other:?} is not of a producer"),
            },
            |scene, answer| match answer {
                txn::Answer::Writer(result) => reply(scene, Reply::Writer(result)),
                txn::Answer::Added(_) => unreachable!("a producer is told who it is"),
            },
        );
        self.coordinators().next_producer = next_producer;
    }

    fn commit_in_transaction(
        &mut self,
        id: usize,
        producer: String,
        writer: Writer,
        commit: OffsetCommitRequest,
        reply: Then<Reply>,
    ) {
        if let Err(error) = self.coordinator_at(id, GROUPS_TOPIC) {
            return reply(self, Reply::Done(Err(error)));
        }
        let partition = self.partition_named(GROUPS_TOPIC);
        let then: Then<_> = Box::new(move |scene, verified: Result<(), ErrorCode>| {
            let key = verified.map_err(write_error).and_then(|()| scene.coordinator_at(id, GROUPS_TOPIC));
            let key = match key {
                Ok(key) => key,
                Err(error) => return reply(scene, Reply::Done(Err(error))),
            };
            let writer = (writer.producer, writer.epoch);
            scene.ask_groups(
                key,
                |groups, ticket, now, effects| {
                    groups.commit_in_transaction(writer, commit, ticket, now, effects);
                },
                |scene, answer| {
                    let error = errors(&answer)[0];
                    let result = if error == ErrorCode::None { Ok(()) } else { Err(error) };
                    reply(scene, Reply::Done(result));
                },
            );
        });
        // What is committed is not numbered.
        self.verify(id, partition, producer, (writer, 0), then);
    }

    pub fn coordinator_at(&self, id: usize, topic: &str) -> Result<u64, ErrorCode> {
        self.coordinated().serving.ready(id, self.partition_named(topic))
    }
}
