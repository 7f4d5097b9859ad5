//! What a consumer group takes of memory while it lies idle, beside what its members have said and been assigned:
//! 4 KiB at most of the classic protocol, which are its members' own affair; of the newer one the broker keeps
//! each member's place, target and deadlines itself, which is more.
//!
//! A process of its own, as it counts every allocation. What members have said is their ids, names, addresses,
//! subscriptions and assignments; the rest is ours. A request's buffer must not stay with a group that has taken
//! a few of its bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, JoinGroupRequest, OffsetCommitRequest, SyncGroupRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use odradek::codec::consumer_record::SubscribedTopic;
use odradek::codec::error_code::ErrorCode;
use odradek::group::consumer::ConsumerSettings;
use odradek::group::coordinator::Coordinator;
use odradek::group::topics::Topics;
use odradek::group::{Answer, Caller, Effect, Moment, Settings, Ticket};
use odradek::types::{Mono, Timestamp, TopicId, Uuid};

/// Bytes of a group that nobody has said.
const GROUP_SIZE_MAX: usize = 4 << 10;
/// Of a group of ten members of the newer protocol, whose places, targets and deadlines the broker keeps itself.
const NEWER_GROUP_SIZE_MAX: usize = 9_500;
const GROUPS: usize = 1_000;
const MEMBERS: usize = 10;
/// A connection's receive buffer, of which a request is a slice.
const RECEIVE_SIZE: usize = 256 << 10;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system's allocator with its arguments as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get().wrapping_sub(layout.size())));
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_group_that_only_commits_is_small() {
    let mut room = Room::new();
    let held = room.growth(|room| (0..GROUPS).for_each(|group| room.commit(&name(group), "", -1)));
    let said = GROUPS * (name(0).len() + TOPIC.len());
    assert_small("a group without members", held, said, GROUP_SIZE_MAX);
}

#[test]
fn a_group_of_ten_members_is_small() {
    let mut room = Room::new();
    let mut said = 0;
    let held = room.growth(|room| {
        for group in 0..GROUPS {
            said += room.form(&name(group));
        }
    });
    assert_small("a group of ten members", held, said, GROUP_SIZE_MAX);
}

#[test]
fn a_group_of_ten_members_of_the_newer_protocol_is_small() {
    let mut room = Room::new();
    let mut said = 0;
    let held = room.growth(|room| {
        for group in 0..GROUPS {
            said += room.form_newer(&name(group));
        }
    });
    assert_small("a group of ten members of the newer protocol", held, said, NEWER_GROUP_SIZE_MAX);
}

fn assert_small(what: &str, held: usize, said: usize, allowed: usize) {
    let ours = held.saturating_sub(said) / GROUPS;
    println!("{what}: {} bytes, {} of them said by members", held / GROUPS, said / GROUPS);
    assert!(held > said, "nothing was kept: {held} bytes of {said}");
    assert!(ours <= allowed, "{what} takes {ours} bytes beside what its members have said");
}

// --- A coordinator, its log and its clock

const TOPIC: &str = "orders";
const TOPIC_ID: TopicId = TopicId(Uuid::from_u128(7));
/// Two for each member.
const PARTITIONS: usize = 20;
const CLIENT: &str = "consumer-application-1";
const HOST: &str = "/192.168.100.100";

/// One topic, which all groups read.
struct OneTopic;

impl Topics for OneTopic {
    fn named(&self, name: &str) -> Option<SubscribedTopic> {
        let topic = SubscribedTopic { id: TOPIC_ID, partition_count: PARTITIONS as i32 };
        (name == TOPIC).then_some(topic)
    }

    fn name(&self, id: TopicId) -> Option<String> {
        (id == TOPIC_ID).then(|| TOPIC.to_owned())
    }

    fn count(&self) -> usize {
        1
    }

    fn names_after(&self, after: Option<&str>, take: &mut dyn FnMut(&str) -> bool) {
        if after.is_none_or(|after| after < TOPIC) {
            take(TOPIC);
        }
    }
}

/// A client of the newer protocol: what it has.
struct Newer {
    id: String,
    epoch: i32,
    owned: Vec<TopicPartitions>,
}

impl Newer {
    fn new(id: String) -> Newer {
        Newer { id, epoch: 0, owned: Vec::new() }
    }
}

struct Room {
    coordinator: Coordinator,
    now: Moment,
    next_ticket: u64,
    answers: Vec<Answer>,
}

fn name(group: usize) -> String {
    format!("application-{group:06}")
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// As a request has them: a slice of what a connection has received.
fn received(said: usize) -> Bytes {
    Bytes::from(vec![7; RECEIVE_SIZE]).slice(100..100 + said)
}

impl Room {
    fn new() -> Room {
        let settings = Settings {
            session_timeout_min: Duration::from_secs(6),
            session_timeout_max: Duration::from_secs(1800),
            initial_rebalance_delay: Duration::from_secs(3),
            size_max: usize::MAX,
            offset_metadata_max: 4096,
            offsets_retention: Duration::from_secs(7 * 86_400),
        };
        let coordinator =
            Coordinator::new(settings).with_consumers(ConsumerSettings::default(), Rc::new(OneTopic));
        let now = Moment { mono: Mono(1_000_000_000), wall: Timestamp(1_700_000_000_000) };
        Room { coordinator, now, next_ticket: 0, answers: Vec::new() }
    }

    /// Bytes that are held after it and were not before.
    fn growth(&mut self, act: impl FnOnce(&mut Room)) -> usize {
        let before = HELD.get();
        act(self);
        self.answers = Vec::new();
        assert_eq!(self.coordinator.holdings().groups, GROUPS);
        HELD.get() - before
    }

    /// Decides something; its records are kept at once.
    fn decide(&mut self, decide: impl FnOnce(&mut Coordinator, Ticket, Moment, &mut Vec<Effect>)) {
        self.next_ticket += 1;
        let mut effects = Vec::new();
        decide(&mut self.coordinator, Ticket(self.next_ticket), self.now, &mut effects);
        let mut effects = VecDeque::from(effects);
        loop {
            let mut more = Vec::new();
            match effects.pop_front() {
                Some(Effect::Answer(_, answer)) => self.answers.push(answer),
                Some(Effect::Write(write)) => self.coordinator.finished(write, Ok(()), self.now, &mut more),
                None if self.coordinator.has_work() => {
                    self.coordinator.work(1_000, self.now, &mut more);
                }
                None => return,
            }
            effects.extend(more);
        }
    }

    fn passes(&mut self, time: Duration) {
        self.now.mono = self.now.mono.after(time);
        self.decide(|coordinator, _, now, effects| coordinator.expire(now, effects));
    }

    fn commit(&mut self, group: &str, member: &str, generation: i32) {
        let partition = OffsetCommitRequestPartition::default()
            .with_committed_offset(42)
            .with_committed_metadata(Some(StrBytes::default()));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text(TOPIC)))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(text(member))
            .with_generation_id_or_member_epoch(generation)
            .with_topics(vec![topic]);
        self.decide(|coordinator, ticket, now, effects| {
            coordinator.commit(9, request, ticket, now, effects);
        });
        let Some(Answer::Commit(answer)) = self.answers.pop() else { panic!("it is answered") };
        assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::None.code());
    }

    /// Ten members of the classic protocol, each of which commits. How many bytes they have said.
    fn form(&mut self, group: &str) -> usize {
        const SUBSCRIPTION: usize = 60;
        const ASSIGNMENT: usize = 50;
        let caller = Caller { client_id: CLIENT.to_owned(), client_host: HOST.to_owned(), version: 3 };
        for member in 0..MEMBERS {
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(received(SUBSCRIPTION));
            let request = JoinGroupRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_session_timeout_ms(45_000)
                .with_rebalance_timeout_ms(300_000)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol]);
            let fresh = format!("{member:036}");
            self.decide(|coordinator, ticket, now, effects| {
                coordinator.join(&caller, &request, &fresh, ticket, now, effects);
            });
        }
        while self.answers.is_empty() {
            self.passes(Duration::from_secs(1));
        }
        let joined: Vec<_> = std::mem::take(&mut self.answers)
            .into_iter()
            .map(|answer| match answer {
                Answer::Join(answer) if answer.error_code == 0 => answer,
                answer => panic!("{answer:?}"),
            })
            .collect();
        assert_eq!(joined.len(), MEMBERS);
        for answer in &joined {
            let assigned = answer.members.iter().map(|member| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(member.member_id.clone())
                    .with_assignment(received(ASSIGNMENT))
            });
            let request = SyncGroupRequest::default()
                .with_group_id(GroupId(text(group)))
                .with_member_id(answer.member_id.clone())
                .with_generation_id(answer.generation_id)
                .with_assignments(assigned.collect());
            self.decide(|coordinator, ticket, now, effects| {
                coordinator.sync(&request, ticket, now, effects);
            });
        }
        assert_eq!(self.answers.len(), MEMBERS);
        self.answers.clear();
        for answer in &joined {
            self.commit(group, &answer.member_id, answer.generation_id);
        }
        let ids: usize = joined.iter().map(|answer| answer.member_id.len()).sum();
        ids + MEMBERS * (CLIENT.len() + HOST.len() + SUBSCRIPTION + ASSIGNMENT) + group.len() + TOPIC.len()
    }

    /// Ten members of the newer protocol, each of which has its share of the partitions, and commits. How many
    /// bytes they have said, and been assigned.
    fn form_newer(&mut self, group: &str) -> usize {
        let mut members: Vec<Newer> =
            (0..MEMBERS).map(|member| Newer::new(format!("{member:022}"))).collect();
        members.iter_mut().for_each(|member| self.beat(group, member));
        let share = PARTITIONS / MEMBERS;
        for _ in 0..MEMBERS {
            members.iter_mut().for_each(|member| self.beat(group, member));
        }
        for member in &members {
            let owned: usize = member.owned.iter().map(|topic| topic.partitions.len()).sum();
            assert_eq!(owned, share, "it has got what is aimed at for it");
            self.commit(group, &member.id, member.epoch);
        }
        let of_member = |member: &Newer| {
            member.id.len() + CLIENT.len() + HOST.len() + TOPIC.len() + size_of::<Uuid>() + 4 * share
        };
        members.iter().map(of_member).sum::<usize>() + group.len() + TOPIC.len()
    }

    fn beat(&mut self, group: &str, member: &mut Newer) {
        let caller = Caller { client_id: CLIENT.to_owned(), client_host: HOST.to_owned(), version: 1 };
        let mut request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_member_id(text(&member.id))
            .with_member_epoch(member.epoch)
            .with_topic_partitions(Some(member.owned.clone()));
        if member.epoch == 0 {
            request.rebalance_timeout_ms = 300_000;
            request.subscribed_topic_names = Some(vec![TopicName(text(TOPIC))]);
        }
        self.decide(|coordinator, ticket, now, effects| {
            coordinator.consumer_heartbeat(&caller, request, "", ticket, now, effects);
        });
        let answer = match self.answers.pop() {
            Some(Answer::ConsumerHeartbeat(answer)) if answer.error_code == 0 => answer,
            answer => panic!("{answer:?}"),
        };
        member.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            let owned = assignment.topic_partitions.into_iter().map(|topic| {
                TopicPartitions::default().with_topic_id(topic.topic_id).with_partitions(topic.partitions)
            });
            member.owned = owned.collect();
        }
    }
}
