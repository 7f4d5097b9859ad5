//! Event scripts of groups. The room plays the clients, the log and the clock.

mod consumers;
mod joining;
mod leaving;
mod offsets;
mod pending;
mod replaying;
mod statics;

use crate::codec::error_code::ErrorCode;
use crate::codec::group_record::GroupRecord;
use crate::group::coordinator::Coordinator;
use crate::group::member::text;
use crate::group::{Answer, Caller, Effect, Moment, Settings, Ticket, WriteId, partition_of};
use crate::types::java_hash::java_hash;
use crate::types::{Mono, Timestamp};
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const GROUP: &str = "g";
/// The newest JoinGroup; members are given their ids first.
const NEWEST: i16 = 9;
/// The last one before that.
const OLD: i16 = 3;

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;

fn settings() -> Settings {
    Settings {
        session_timeout_min: Duration::from_secs(6),
        session_timeout_max: Duration::from_secs(1800),
        initial_rebalance_delay: Duration::from_secs(3),
        size_max: usize::MAX,
        offset_metadata_max: 10,
        offsets_retention: Duration::from_secs(3600),
    }
}

/// One coordinator with all around it.
struct Room {
    coordinator: Coordinator,
    settings: Settings,
    now: Moment,
    next_ticket: u64,
    next_member: u64,
    answers: BTreeMap<Ticket, Answer>,
    /// Writes on their way.
    writes: VecDeque<WriteId>,
    /// Writes stay on their way until they are ended by hand.
    holds_writes: bool,
    /// What takes long is not gone on with.
    holds_work: bool,
    /// What has been kept.
    log: Vec<GroupRecord>,
}

impl Room {
    fn new() -> Room {
        Room::with(settings())
    }

    fn with(settings: Settings) -> Room {
        Room {
            coordinator: Coordinator::new(settings),
            settings,
            now: Moment { mono: Mono(1_000_000_000), wall: Timestamp(1_700_000_000_000) },
            next_ticket: 0,
            next_member: 0,
            answers: BTreeMap::new(),
            writes: VecDeque::new(),
            holds_writes: false,
            holds_work: false,
            log: Vec::new(),
        }
    }

    /// Decides something, then carries it out.
    fn decide<T>(&mut self, decide: impl FnOnce(&mut Coordinator, Moment, &mut Vec<Effect>) -> T) -> T {
        let mut effects = Vec::new();
        let decided = decide(&mut self.coordinator, self.now, &mut effects);
        self.carry_out(effects);
        decided
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        self.coordinator.check();
        for effect in effects {
            match effect {
                Effect::Answer(ticket, answer) => {
                    assert!(self.answers.insert(ticket, answer).is_none(), "{ticket:?} is answered twice");
                }
                Effect::Write(write) => self.writes.push_back(write),
            }
        }
        while !self.holds_writes && !self.writes.is_empty() {
            self.end_write(Ok(()));
        }
        while !self.holds_work && self.coordinator.has_work() {
            self.work();
        }
    }

    /// A little of what takes long.
    fn work(&mut self) {
        self.decide(|coordinator, now, effects| coordinator.work(3, now, effects));
    }

    /// Ends the oldest write.
    fn end_write(&mut self, result: Result<(), ErrorCode>) {
        let write = self.writes.pop_front().expect("a write is on its way");
        if result.is_ok() {
            self.log.extend_from_slice(self.coordinator.records(write));
        }
        self.decide(|coordinator, now, effects| coordinator.finished(write, result, now, effects));
    }

    fn pass(&mut self, seconds: u64) {
        self.pass_ms(seconds * 1000);
    }

    /// Time goes by, and what is due happens when it is.
    fn pass_ms(&mut self, ms: u64) {
        let end = self.now.mono.after(Duration::from_millis(ms));
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            self.set_time(at.max(self.now.mono));
            self.decide(|coordinator, now, effects| coordinator.expire(now, effects));
        }
        self.set_time(end);
    }

    fn set_time(&mut self, mono: Mono) {
        let passed = mono.since(self.now.mono).as_millis() as i64;
        self.now = Moment { mono, wall: Timestamp(self.now.wall.0 + passed) };
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// Sends a JoinGroup; the answer may come later.
    fn send_join(&mut self, version: i16, request: JoinGroupRequest) -> Ticket {
        let ticket = self.ticket();
        self.next_member += 1;
        let fresh = self.next_member.to_string();
        let caller = Caller { client_id: "client".to_owned(), client_host: "/127.0.0.1".to_owned(), version };
        self.decide(|coordinator, now, effects| {
            coordinator.join(&caller, &request, &fresh, ticket, now, effects);
        });
        ticket
    }

    /// Joins with an id, which is asked for first.
    fn start_join(&mut self, protocols: &[&str]) -> (String, Ticket) {
        let asked = self.send_join(NEWEST, join_request("", protocols));
        let given = self.joined(asked);
        assert_eq!(error(given.error_code), ErrorCode::MemberIdRequired);
        let id = given.member_id.to_string();
        let ticket = self.send_join(NEWEST, join_request(&id, protocols));
        (id, ticket)
    }

    fn joined(&mut self, ticket: Ticket) -> JoinGroupResponse {
        match self.answers.remove(&ticket) {
            Some(Answer::Join(response)) => response,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    fn is_waiting(&self, ticket: Ticket) -> bool {
        !self.answers.contains_key(&ticket)
    }

    fn send_sync(&mut self, request: SyncGroupRequest) -> Ticket {
        let ticket = self.ticket();
        self.decide(|coordinator, now, effects| coordinator.sync(&request, ticket, now, effects));
        ticket
    }

    fn synced(&mut self, ticket: Ticket) -> SyncGroupResponse {
        match self.answers.remove(&ticket) {
            Some(Answer::Sync(response)) => response,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(member))
            .with_generation_id(generation);
        self.decide(|coordinator, now, effects| coordinator.heartbeat(&request, now, effects))
    }

    fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<ErrorCode> {
        let members = members.iter().map(|(id, instance_id)| {
            MemberIdentity::default().with_member_id(text(id)).with_group_instance_id(instance_id.map(text))
        });
        let request = LeaveGroupRequest::default().with_group_id(group_id()).with_members(members.collect());
        let response = self.decide(|coordinator, now, effects| coordinator.leave(&request, now, effects));
        assert_eq!(response.error_code, 0);
        response.members.iter().map(|member| error(member.error_code)).collect()
    }

    fn send_commit(&mut self, version: i16, request: OffsetCommitRequest) -> Ticket {
        let ticket = self.ticket();
        self.decide(|coordinator, now, effects| coordinator.commit(version, request, ticket, now, effects));
        ticket
    }

    fn committed(&mut self, ticket: Ticket) -> OffsetCommitResponse {
        match self.answers.remove(&ticket) {
            Some(Answer::Commit(response)) => response,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    /// Commits one offset: the error.
    fn commit(&mut self, member: &str, generation: i32, topic: &str, offset: i64) -> ErrorCode {
        let ticket = self.send_commit(8, commit_request(member, generation, topic, offset, ""));
        error(self.committed(ticket).topics[0].partitions[0].error_code)
    }

    fn offset(&self, topic: &str) -> Option<i64> {
        self.coordinator.offsets(GROUP)?.get(topic, 0).map(|value| value.offset)
    }

    fn delete_group(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.decide(|coordinator, now, effects| {
            coordinator.delete_group(GROUP, ticket, now, effects);
        });
        ticket
    }

    fn deleted(&mut self, ticket: Ticket) -> ErrorCode {
        match self.answers.remove(&ticket) {
            Some(Answer::DeleteGroup(error)) => error,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    fn expire_offsets(&mut self) {
        self.decide(|coordinator, now, effects| coordinator.expire_offsets(GROUP, now, effects));
    }

    fn state(&self) -> &'static str {
        self.coordinator.groups().get(GROUP).map_or("none", |group| group.state.name())
    }

    fn generation(&self) -> i32 {
        self.coordinator.groups()[GROUP].generation
    }

    /// A stable group of so many dynamic members; the first one leads.
    fn stable(count: usize) -> (Room, Vec<String>) {
        let mut room = Room::new();
        let started: Vec<_> = (0..count).map(|_| room.start_join(&["range"])).collect();
        room.pass(6);
        room.settle(&started);
        let members = started.into_iter().map(|(id, _)| id).collect();
        (room, members)
    }

    /// Everybody who joined asks for an assignment, the leader hands out one named like its member.
    fn settle(&mut self, started: &[(String, Ticket)]) {
        let joined: Vec<_> = started.iter().map(|(_, ticket)| self.joined(*ticket)).collect();
        assert!(joined.iter().all(|joined| joined.error_code == 0), "{joined:?}");
        let (leaders, followers): (Vec<_>, Vec<_>) =
            joined.iter().partition(|joined| joined.member_id == joined.leader);
        let waiting: Vec<_> = followers
            .iter()
            .map(|joined| (joined, self.send_sync(sync_request(&joined.member_id, joined.generation_id))))
            .collect();
        let [leader] = leaders[..] else { panic!("{} leaders", leaders.len()) };
        assert!(waiting.iter().all(|(_, ticket)| self.is_waiting(*ticket)), "the leader comes first");
        let assignments = leader.members.iter().map(|member| {
            SyncGroupRequestAssignment::default()
                .with_member_id(member.member_id.clone())
                .with_assignment(Bytes::from(member.member_id.to_string()))
        });
        let request = sync_request(&leader.member_id, leader.generation_id);
        let lead = self.send_sync(request.with_assignments(assignments.collect()));
        for (joined, ticket) in waiting.into_iter().chain([(&leader, lead)]) {
            let synced = self.synced(ticket);
            assert_eq!(synced.error_code, 0);
            assert_eq!(synced.assignment, joined.member_id.as_bytes());
        }
        assert_eq!(self.state(), "Stable");
    }

    /// The only member asks for its assignment, as the leader of a group of one.
    fn settle_one(&mut self, joined: &JoinGroupResponse) {
        assert_eq!(joined.error_code, 0);
        let syncing = self.send_sync(sync_request(&joined.member_id, joined.generation_id));
        assert_eq!(self.synced(syncing).error_code, 0);
        assert_eq!(self.state(), "Stable");
    }

    /// The same log, read by another coordinator.
    fn replayed(&self) -> Coordinator {
        let mut coordinator = Coordinator::new(self.settings);
        for record in &self.log {
            let (key, value) = (record.encode_key(), record.encode_value());
            let read = GroupRecord::decode(Some(&key), value.as_deref());
            assert_eq!(read.as_ref().map(Option::as_ref), Ok(Some(record)));
            coordinator.apply(record);
        }
        coordinator
    }

    /// Starts again from what was kept.
    fn restart(&mut self) {
        let mut coordinator = self.replayed();
        let mut effects = Vec::new();
        for id in coordinator.ids_after(None, usize::MAX) {
            coordinator.loaded(&id, self.now, &mut effects);
        }
        self.coordinator = coordinator;
        self.answers.clear();
        self.writes.clear();
        self.carry_out(effects);
    }
}

fn group_id() -> GroupId {
    GroupId(text(GROUP))
}

fn error(code: i16) -> ErrorCode {
    ErrorCode::from_wire(code).expect("the broker's own")
}

#[test]
fn groups_hash_as_in_java() {
    assert_eq!(java_hash(""), 0);
    assert_eq!(java_hash("hello"), 99_162_322);
    assert_eq!(java_hash("polygenelubricants") as i32, i32::MIN);
    assert_eq!(java_hash("ä€😀"), 16603051);
    assert_eq!(partition_of("hello", 50), 22);
    assert_eq!(partition_of("polygenelubricants", 50), 0);
    assert_eq!(partition_of("console-consumer-65537", 1), 0);
    // Their hashes are negative: what counts is the distance from zero.
    for (group, partition) in [("my-group", 12), ("orders", 31), ("billing", 9)] {
        assert_eq!(partition_of(group, 50), partition, "{group}");
    }
}

/// A subscription to the topic "read".
const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x04read\xff\xff\xff\xff";

fn join_request(member: &str, protocols: &[&str]) -> JoinGroupRequest {
    let protocol = |name: &&str| {
        JoinGroupRequestProtocol::default()
            .with_name(text(name))
            .with_metadata(Bytes::from_static(SUBSCRIPTION))
    };
    JoinGroupRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member))
        .with_session_timeout_ms(SESSION_MS)
        .with_rebalance_timeout_ms(REBALANCE_MS)
        .with_protocol_type(text("consumer"))
        .with_protocols(protocols.iter().map(protocol).collect())
}

fn static_request(instance_id: &str, member: &str) -> JoinGroupRequest {
    join_request(member, &["range"]).with_group_instance_id(Some(text(instance_id)))
}

fn sync_request(member: &str, generation: i32) -> SyncGroupRequest {
    SyncGroupRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member))
        .with_generation_id(generation)
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
}

fn commit_request(
    member: &str,
    generation: i32,
    topic: &str,
    offset: i64,
    metadata: &str,
) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(metadata)));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![topic])
}
