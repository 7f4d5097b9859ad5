//! Event scripts of groups of the newer protocol. Clients do what consumers do: they let go what they are not
//! given any more, and say what they have.

mod administering;
mod classic_members;
mod joining;
mod large;
mod regexes;
mod replaying;
mod statics;

use super::*;
use crate::codec::consumer_record::{Partitions, SubscribedTopic};
use crate::config::group::GroupTimes;
use crate::group::consumer::{ConsumerGroup, ConsumerSettings};
use crate::group::topics::Topics;
use crate::types::sorted::SortedSet;
use crate::types::{TopicId, Uuid};
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Topics as the metadata have them.
#[derive(Debug, Default)]
struct FakeTopics {
    topics: RefCell<BTreeMap<String, SubscribedTopic>>,
    next_id: RefCell<u128>,
    /// How often one was looked for by its name.
    looked: Cell<usize>,
    /// What is set of the group.
    times: Cell<Option<GroupTimes>>,
}

impl Topics for FakeTopics {
    fn named(&self, name: &str) -> Option<SubscribedTopic> {
        self.looked.set(self.looked.get() + 1);
        self.topics.borrow().get(name).copied()
    }

    fn name(&self, id: TopicId) -> Option<String> {
        self.topics.borrow().iter().find(|(_, topic)| topic.id == id).map(|(name, _)| name.clone())
    }

    fn count(&self) -> usize {
        self.topics.borrow().len()
    }

    fn names_after(&self, after: Option<&str>, take: &mut dyn FnMut(&str) -> bool) {
        for name in self.topics.borrow().keys().filter(|name| after.is_none_or(|after| name.as_str() > after))
        {
            if !take(name) {
                return;
            }
        }
    }

    fn times_of_group(&self, group: &str) -> Option<GroupTimes> {
        self.times.get().filter(|_| group == GROUP)
    }
}

fn consumer_settings() -> ConsumerSettings {
    ConsumerSettings { heartbeat_interval: Duration::from_secs(5), ..ConsumerSettings::default() }
}

/// A coordinator, its topics and its clients.
struct Hall {
    room: Room,
    topics: Rc<FakeTopics>,
    settings: ConsumerSettings,
}

/// A consumer.
#[derive(Clone, Debug)]
struct Client {
    id: String,
    epoch: i32,
    owned: Partitions,
    topics: Vec<String>,
    regex: Option<String>,
    instance: Option<String>,
    assignor: Option<String>,
    /// It has joined, and what it subscribes to has been said.
    is_in: bool,
}

impl Client {
    fn new(id: &str, topics: &[&str]) -> Client {
        Client {
            id: id.to_owned(),
            epoch: 0,
            owned: Partitions::new(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            regex: None,
            instance: None,
            assignor: None,
            is_in: false,
        }
    }

    fn named(id: &str, instance: &str, topics: &[&str]) -> Client {
        Client { instance: Some(instance.to_owned()), ..Client::new(id, topics) }
    }

    fn matching(id: &str, regex: &str) -> Client {
        Client { regex: Some(regex.to_owned()), ..Client::new(id, &[]) }
    }

    fn request(&self) -> ConsumerGroupHeartbeatRequest {
        let owned = self.owned.iter().map(|(topic, indexes)| {
            TopicPartitions::default()
                .with_topic_id(topic.0)
                .with_partitions(indexes.iter().copied().collect())
        });
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(&self.id))
            .with_member_epoch(self.epoch)
            .with_instance_id(self.instance.as_deref().map(text))
            .with_topic_partitions(Some(owned.collect()));
        if self.is_in {
            return request;
        }
        request
            .with_rebalance_timeout_ms(REBALANCE_MS)
            .with_subscribed_topic_names(Some(
                self.topics.iter().map(|topic| TopicName(text(topic))).collect(),
            ))
            .with_subscribed_topic_regex(self.regex.as_deref().map(text))
            .with_server_assignor(self.assignor.as_deref().map(text))
    }

    /// Takes an answer; the partitions that it lets go.
    fn take(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        assert_eq!(response.error_code, 0, "{response:?}");
        assert_eq!(response.member_id.as_deref(), Some(&*self.id));
        assert_eq!(response.heartbeat_interval_ms, 5000);
        self.epoch = response.member_epoch;
        self.is_in = true;
        if let Some(assignment) = &response.assignment {
            let topics = assignment.topic_partitions.iter();
            self.owned = topics
                .map(|topic| (TopicId(topic.topic_id), topic.partitions.iter().copied().collect()))
                .collect();
        }
    }

    fn count(&self) -> usize {
        self.owned.values().map(SortedSet::len).sum()
    }
}

impl Hall {
    fn new(topics: &[(&str, i32)]) -> Hall {
        Hall::with(consumer_settings(), topics)
    }

    fn with(settings: ConsumerSettings, topics: &[(&str, i32)]) -> Hall {
        let mut hall = Hall { room: Room::new(), topics: Rc::default(), settings };
        hall.room.coordinator = hall.coordinator();
        topics.iter().for_each(|(name, count)| hall.set_topic(name, *count));
        hall
    }

    fn coordinator(&self) -> Coordinator {
        Coordinator::new(self.room.settings).with_consumers(self.settings.clone(), self.topics.clone())
    }

    /// Creates a topic, or gives it more partitions.
    fn set_topic(&mut self, name: &str, partition_count: i32) {
        let mut topics = self.topics.topics.borrow_mut();
        let known = topics.get(name).map(|topic| topic.id);
        let id = known.unwrap_or_else(|| {
            *self.topics.next_id.borrow_mut() += 1;
            TopicId(Uuid::from_u128(*self.topics.next_id.borrow()))
        });
        topics.insert(name.to_owned(), SubscribedTopic { id, partition_count });
        drop(topics);
        self.room.coordinator.topics_changed();
    }

    fn delete_topic(&mut self, name: &str) {
        self.topics.topics.borrow_mut().remove(name);
        self.room.coordinator.topics_changed();
    }

    fn send(&mut self, version: i16, request: ConsumerGroupHeartbeatRequest) -> Ticket {
        let ticket = self.room.ticket();
        let caller = Caller { client_id: "client".to_owned(), client_host: "/127.0.0.1".to_owned(), version };
        let fresh = format!("fresh-{}", ticket.0);
        self.room.decide(|coordinator, now, effects| {
            coordinator.consumer_heartbeat(&caller, request, &fresh, ticket, now, effects);
        });
        ticket
    }

    fn answered(&mut self, ticket: Ticket) -> ConsumerGroupHeartbeatResponse {
        match self.room.answers.remove(&ticket) {
            Some(Answer::ConsumerHeartbeat(response)) => response,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    fn ask(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        let ticket = self.send(1, request);
        self.answered(ticket)
    }

    /// One heartbeat, which has to be answered well.
    fn beat(&mut self, client: &mut Client) {
        let response = self.ask(client.request());
        client.take(&response);
    }

    fn error(&mut self, request: ConsumerGroupHeartbeatRequest) -> ErrorCode {
        error(self.ask(request).error_code)
    }

    /// Heartbeats until nobody's epoch or partitions change; nobody ever has what another one has.
    fn settle(&mut self, clients: &mut [&mut Client]) {
        for _ in 0..20 {
            let mut has_changed = false;
            for at in 0..clients.len() {
                let before = (clients[at].epoch, clients[at].owned.clone());
                self.beat(clients[at]);
                has_changed |= before != (clients[at].epoch, clients[at].owned.clone());
                check_apart(clients);
            }
            if !has_changed {
                assert_eq!(self.state(), "Stable");
                return;
            }
        }
        panic!("they do not settle: {:?}", self.group());
    }

    fn leave(&mut self, client: &mut Client, epoch: i32) -> ErrorCode {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id())
            .with_member_id(text(&client.id))
            .with_member_epoch(epoch)
            .with_instance_id(client.instance.as_deref().map(text));
        let response = self.ask(request);
        if response.error_code == 0 {
            assert_eq!(response.member_epoch, epoch);
            (client.epoch, client.is_in, client.owned) = (0, false, Partitions::new());
        }
        error(response.error_code)
    }

    fn group(&self) -> &ConsumerGroup {
        self.room.coordinator.groups()[GROUP].consumer.as_ref().expect("it is of the newer protocol")
    }

    fn state(&self) -> &'static str {
        self.group().state_name()
    }

    fn replay(&self, records: &[GroupRecord]) -> Coordinator {
        let mut coordinator = self.coordinator();
        for record in records {
            let (key, value) = (record.encode_key(), record.encode_value());
            let read = GroupRecord::decode(Some(&key), value.as_deref());
            assert_eq!(read.as_ref().map(Option::as_ref), Ok(Some(record)));
            coordinator.apply(record);
        }
        coordinator
    }

    /// Starts again from what was kept.
    fn restart(&mut self) {
        let mut coordinator = self.replay(&self.room.log);
        let mut effects = Vec::new();
        for id in coordinator.ids_after(None, usize::MAX) {
            coordinator.loaded(&id, self.room.now, &mut effects);
        }
        self.room.coordinator = coordinator;
        self.room.answers.clear();
        self.room.writes.clear();
        self.room.carry_out(effects);
    }
}

/// Nobody has what another one has.
fn check_apart(clients: &[&mut Client]) {
    let mut seen = BTreeSet::new();
    for client in clients {
        for (topic, index) in client.owned.iter().flat_map(|(topic, all)| all.iter().map(move |i| (topic, i)))
        {
            assert!(seen.insert((*topic, *index)), "{topic:?}-{index} is with two");
        }
    }
}

/// Members of a group that has settled, with so many partitions of the topic "read".
fn settled(count: usize, partitions: i32) -> (Hall, Vec<Client>) {
    let mut hall = Hall::new(&[("read", partitions)]);
    let mut clients: Vec<Client> = (0..count).map(|n| Client::new(&format!("m{n}"), &["read"])).collect();
    hall.settle(&mut clients.iter_mut().collect::<Vec<_>>());
    (hall, clients)
}
