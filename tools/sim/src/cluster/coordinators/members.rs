//! Members of a group of the newer protocol (KIP-848): they join, have what they are told to have, and join again where
//! they were taken for gone.

use crate::cluster::coordinators::requests::{READ_TOPIC, Reply, Request};
use crate::cluster::settings::check;
use crate::groups::request::{error, group_id, text};
use crate::replication::scene::Scene;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, TopicName};
use odradek::codec::error_code::ErrorCode;

/// What a client has to be a member with.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    /// 0: it has yet to join.
    pub epoch: i32,
    owned: Vec<TopicPartitions>,
}

impl Member {
    pub fn new(client: u64) -> Member {
        Member { id: format!("member-{client}"), epoch: 0, owned: Vec::new() }
    }

    pub fn has_epoch(&self) -> bool {
        self.epoch > 0
    }

    /// Something that it has asked for.
    pub fn is_refused(&mut self, error: ErrorCode) {
        if matches!(
            error,
            ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch | ErrorCode::GroupIdNotFound
        ) {
            self.epoch = 0;
            self.owned.clear();
        }
    }

    fn takes(&mut self, response: &ConsumerGroupHeartbeatResponse) {
        self.epoch = response.member_epoch;
        if let Some(assignment) = &response.assignment {
            let owned = assignment.topic_partitions.iter().map(|topic| {
                TopicPartitions::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(topic.partitions.clone())
            });
            self.owned = owned.collect();
        }
    }
}

impl Scene {
    /// Joins, or says that it is there.
    pub fn beat_as_member(&mut self, client: usize, node: usize) {
        let consumer = self.consumer(client);
        let (caller, group) = (consumer.caller, consumer.key.0.clone());
        let member = consumer.member.clone().expect("it is a member");
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(&group))
            .with_member_id(text(&member.id))
            .with_member_epoch(member.epoch)
            .with_rebalance_timeout_ms(300_000)
            .with_subscribed_topic_names(Some(vec![TopicName(text(READ_TOPIC))]))
            .with_topic_partitions(Some(member.owned.clone()));
        self.call(caller, node, Request::Heartbeat(request), move |scene, reply| {
            match reply {
                Some(Reply::Heartbeat(Ok(response))) => scene.has_beaten(client, &member, &response),
                Some(Reply::Heartbeat(Err(error))) => scene.count_refusal("heartbeat", error),
                Some(other) => unreachable!("a heartbeat is answered as one: {other:?}"),
                None => {}
            }
            scene.consume_later(client);
        });
    }

    fn has_beaten(&mut self, client: usize, asked: &Member, response: &ConsumerGroupHeartbeatResponse) {
        let error = error(response.error_code);
        let member = self.consumer(client).member.as_mut().expect("it is a member");
        if error != ErrorCode::None {
            member.is_refused(error);
            return self.count_refusal("heartbeat", error);
        }
        member.takes(response);
        self.world.count(if asked.epoch == 0 { "member: joined" } else { "member: heard" });
        if response.member_epoch < asked.epoch {
            let what = format!("{asked:?} is told {}", response.member_epoch);
            self.world.finding(check::MEMBER_FORWARD, format_args!("{what}"));
        }
    }
}
