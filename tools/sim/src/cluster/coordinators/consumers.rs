//! Who commits offsets, one after the other and each until it is acknowledged, and looks at them: its own and others'.
//! Some are members of a group of the newer protocol (KIP-848), and commit under their epoch in it.

use crate::cluster::coordinators::members::Member;
use crate::cluster::coordinators::requests::{READ_TOPIC, Reply, Request};
use crate::cluster::coordinators::watch::OffsetKey;
use crate::cluster::settings::check;
use crate::groups::request::{Committing, Sender, commit};
use crate::replication::scene::Scene;
use crate::world::{MS, S};
use odradek::codec::error_code::ErrorCode;
use odradek::group::GROUPS_TOPIC;
use std::collections::BTreeMap;

const SIMPLE: &str = "simple";
const WITH_MEMBERS: &str = "members";

/// Lives: one per client, to the end of the seed.
#[derive(Debug)]
pub struct Consumer {
    pub caller: usize,
    pub key: OffsetKey,
    pub member: Option<Member>,
    /// The newest leader epoch of the coordinator's partition that it has heard of.
    epoch: i32,
    committed: Option<i64>,
    sending: Option<i64>,
    /// What it was told, of any partition.
    known: BTreeMap<OffsetKey, i64>,
    /// It has looked at what it has committed, after everything else.
    is_over: bool,
}

impl Consumer {
    pub fn is_done(&self) -> bool {
        self.is_over
    }
}

impl Scene {
    pub fn start_consumers(&mut self) {
        for client in 0..self.world.between(2, 4) {
            let caller = self.coordinators().calls.new_caller();
            let member = (client % 2 == 1).then(|| Member::new(client));
            let group = if member.is_some() { WITH_MEMBERS } else { SIMPLE };
            let key = (group.to_owned(), client as i32);
            let (epoch, committed, sending, known) = (-1, None, None, BTreeMap::new());
            let consumer = Consumer { caller, key, member, epoch, committed, sending, known, is_over: false };
            self.coordinators().consumers.push(consumer);
            self.after(self.world.below(100 * MS), move |scene| scene.consume(client as usize));
        }
    }

    pub fn consumer(&mut self, client: usize) -> &mut Consumer {
        &mut self.coordinators().consumers[client]
    }

    /// The node that leads a partition, as somebody has heard who has not heard of a newer one.
    pub fn leader_heard_of(&self, partition: usize, epoch: &mut i32) -> Option<usize> {
        let (leader, heard) = self.heard_of(partition)?;
        if heard < *epoch {
            return None; // Old news.
        }
        *epoch = heard;
        leader
    }

    pub fn consume_later(&mut self, client: usize) {
        let usual = if self.one_in(20) { 2 * S } else { 200 * MS };
        let pause = self.world.below(if self.is_calm { 50 * MS } else { usual });
        self.after(pause, move |scene| scene.consume(client));
    }

    fn consume(&mut self, client: usize) {
        let partition = self.partition_named(GROUPS_TOPIC);
        let mut epoch = self.consumer(client).epoch;
        let leader = self.leader_heard_of(partition, &mut epoch);
        self.consumer(client).epoch = epoch;
        let Some(node) = leader else { return self.consume_later(client) };
        let consumer = self.consumer(client);
        let key = consumer.key.clone();
        let (has_epoch, is_member) = match &consumer.member {
            Some(member) => (member.has_epoch(), true),
            None => (true, false),
        };
        let is_wanted = !self.clients.is_over || self.consumer(client).sending.is_some();
        if is_wanted && (!has_epoch || is_member && self.world.one_in(3)) {
            return self.beat_as_member(client, node);
        }
        if let Some(offset) = self.consumer(client).sending {
            return self.commit_offset(client, node, key, offset);
        }
        if self.clients.is_over {
            return self.fetch_offset(client, node, key);
        }
        if self.world.one_in(3) {
            let others = self.coordinated().consumers.len() as u64;
            let other = self.world.below(others) as usize;
            let key = self.coordinated().consumers[other].key.clone();
            return self.fetch_offset(client, node, key);
        }
        let offset = self.consumer(client).committed.unwrap_or(0) + self.world.between(1, 3) as i64;
        self.consumer(client).sending = Some(offset);
        self.coordinators().watch.sends(&key, offset);
        self.commit_offset(client, node, key, offset);
    }

    fn commit_offset(&mut self, client: usize, node: usize, key: OffsetKey, offset: i64) {
        let (member, generation) = match &self.consumer(client).member {
            Some(member) => (member.id.clone(), member.epoch),
            None => (String::new(), -1),
        };
        let sender = Sender { member: &member, instance: None, generation };
        let committing =
            Committing { topic: READ_TOPIC.to_owned(), partition: key.1, offset, metadata: String::new() };
        let request = Request::Commit(commit(&key.0, sender, -1, &[committing]));
        let caller = self.consumer(client).caller;
        self.call(caller, node, request, move |scene, reply| {
            match reply {
                Some(Reply::Done(Ok(()))) => {
                    scene.world.count("commit: acknowledged");
                    scene.world.note(format_args!("{key:?} is at {offset}"));
                    scene.coordinators().watch.is_acknowledged(&key, offset);
                    let consumer = scene.consumer(client);
                    consumer.committed = Some(offset);
                    consumer.sending = None;
                    consumer.known.insert(key, offset);
                }
                Some(Reply::Done(Err(error))) => {
                    scene.count_refusal("commit", error);
                    if let Some(member) = &mut scene.consumer(client).member {
                        member.is_refused(error);
                    }
                }
                Some(other) => unreachable!("a commit is answered as one: {other:?}"),
                None => scene.world.count("commit: no answer"),
            }
            scene.consume_later(client);
        });
    }

    fn fetch_offset(&mut self, client: usize, node: usize, key: OffsetKey) {
        let consumer = self.consumer(client);
        let (caller, known) = (consumer.caller, consumer.known.get(&key).copied());
        let is_last = self.clients.is_over;
        let request = Request::Fetch { group: key.0.clone(), of: key.1 };
        self.call(caller, node, request, move |scene, reply| {
            match reply {
                Some(Reply::Fetched(Ok(offset))) => scene.has_fetched(client, key, known, offset, is_last),
                Some(Reply::Fetched(Err(error))) => scene.count_refusal("fetch", error),
                Some(other) => unreachable!("a fetch is answered as one: {other:?}"),
                None => {}
            }
            if !scene.consumer(client).is_over {
                scene.consume_later(client);
            }
        });
    }

    fn has_fetched(
        &mut self,
        client: usize,
        key: OffsetKey,
        known: Option<i64>,
        offset: Option<i64>,
        is_last: bool,
    ) {
        self.world.count("committed offset: fetched");
        if offset < known {
            let what = format!("{key:?} is at {offset:?} after {known:?}");
            self.world.finding(check::COMMIT_FORWARD, format_args!("{what}"));
        }
        if let Some(offset) = offset.filter(|offset| !self.coordinated().watch.was_sent(&key, *offset)) {
            self.world.finding(check::COMMIT_SENT, format_args!("{key:?} is at {offset}"));
        }
        let consumer = self.consumer(client);
        if is_last && key == consumer.key {
            consumer.is_over = true;
            if offset != consumer.committed {
                let what = format!("{key:?} is at {offset:?}, the last was {:?}", consumer.committed);
                self.world.finding(check::COMMIT_KEPT, format_args!("{what}"));
            }
        } else if let Some(offset) = offset {
            consumer.known.insert(key, offset);
        }
    }

    /// Under names that do not change from seed to seed.
    pub fn count_refusal(&self, of: &str, error: ErrorCode) {
        self.world.counts.borrow_mut().add(&format!("{of}: {}", error.name()), 1);
        if !may_be_refused(of, error) {
            self.world.finding(check::ERRORS, format_args!("{of}: {error:?}"));
        }
    }
}

/// Errors that clients know as answers to it, of those that may come here: others they take for the end.
fn may_be_refused(of: &str, error: ErrorCode) -> bool {
    use ErrorCode::{
        ConcurrentTransactions, CoordinatorLoadInProgress, CoordinatorNotAvailable, FencedMemberEpoch,
        GroupIdNotFound, InvalidProducerEpoch, InvalidTxnState, NotCoordinator, NotEnoughReplicas,
        NotEnoughReplicasAfterAppend, NotLeaderOrFollower, OutOfOrderSequenceNumber, ProducerFenced,
        StaleMemberEpoch, TransactionAbortable, UnknownMemberId, UnstableOffsetCommit,
    };
    let is_away = matches!(error, CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator);
    is_away
        || match of {
            "commit" => matches!(error, UnknownMemberId | StaleMemberEpoch | GroupIdNotFound),
            "fetch" => error == UnstableOffsetCommit,
            "heartbeat" => matches!(error, UnknownMemberId | FencedMemberEpoch | GroupIdNotFound),
            "init" => matches!(error, ConcurrentTransactions | ProducerFenced | InvalidProducerEpoch),
            "end" => {
                matches!(
                    error,
                    ConcurrentTransactions | ProducerFenced | InvalidProducerEpoch | InvalidTxnState
                )
            }
            // Produce, which the log answers, and TxnOffsetCommit.
            _ => matches!(
                error,
                ConcurrentTransactions
                    | InvalidProducerEpoch
                    | InvalidTxnState
                    | TransactionAbortable
                    | OutOfOrderSequenceNumber
                    | NotEnoughReplicas
                    | NotEnoughReplicasAfterAppend
                    | NotLeaderOrFollower
            ),
        }
}
