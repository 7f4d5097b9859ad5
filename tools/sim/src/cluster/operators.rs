//! Who administers: topics that come and go, replicas that move, leaders that are elected, members that are removed.

use crate::cluster::asking::{Effort, encode};
use crate::cluster::metadata::slot;
use crate::replication::scene::{Scene, partition_id};
use crate::world::{MS, S};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use kafka_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use kafka_protocol::messages::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use kafka_protocol::messages::{BrokerId, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use odradek::cluster::leadership::Leadership;
use odradek::codec::control::QuestionKind;
use odradek::codec::error_code::ErrorCode;

/// Topics at a time.
const TOPICS_MAX: usize = 5;

const CREATE_TOPICS: i16 = 7;
const DELETE_TOPICS: i16 = 6;
const ELECT_LEADERS: i16 = 2;
const REASSIGN: i16 = 1;
const ALTER_CONFIGS: i16 = 1;

/// A topic, among the resources that have settings.
const TOPIC_RESOURCE: i8 = 2;

fn text(text: String) -> StrBytes {
    StrBytes::from_string(text)
}

impl Scene {
    /// Until the seed becomes calm.
    pub fn administer(&mut self) {
        if self.is_calm {
            return;
        }
        match self.world.below(12) {
            0 | 1 => self.create_topic(),
            2 if self.world.one_in(3) => self.delete_topic(),
            3..=6 => self.reassign(),
            7 => self.cancel_reassignment(),
            8 | 9 => self.elect_preferred_leader(),
            10 => self.elect_anybody(),
            _ => self.change_settings(),
        }
        let pause = self.world.between(200 * MS, self.decided().settings.operator_pause_max);
        self.after(pause, |scene| scene.administer());
    }

    /// Somebody who sees to it that lost members are removed, and topics that nobody can lead.
    pub fn look_after(&mut self) {
        let lost = self.decided().quorum.lost_member();
        if let (Some(lost), Some(id)) = (lost, self.any_serving()) {
            let raw = lost.raw().to_be_bytes().to_vec();
            self.ask_for(id, (QuestionKind::RemoveVoter, 0), raw, Effort::Careful, move |scene, code, _| {
                scene.world.note(format_args!("{lost:?} is removed: {code:?}"));
                scene.world.count(match code {
                    ErrorCode::None => "members: lost one removed",
                    _ => "members: lost one not removed",
                });
            });
        }
        let stillborn = self.decided().stillborn.iter().copied().collect::<Vec<_>>();
        stillborn.into_iter().for_each(|partition| self.ask_to_delete(partition));
        // Who has elected uncleanly before has to do it again where the one that was elected had nothing; and where the
        // only one in sync has lost its disk before anything was acknowledged, there is nothing to lose. Who has a doubt
        // told of itself, and is sure of nothing, may be all that is left where another one is damaged.
        let is_stuck = |(partition, leadership): (&usize, &Leadership)| {
            let has_nobody = leadership.in_sync.is_empty() && leadership.eligible_leaders.is_empty();
            let has_nothing = self.watch.losses(*partition) > 0 || self.watch.end(*partition) == 0;
            let is_doubted = self.decided().doubted.contains(partition) && !self.is_coordinated(*partition);
            (has_nobody && (has_nothing || is_doubted)).then_some(*partition)
        };
        let stuck: Vec<usize> = self.controller.partitions.iter().filter_map(is_stuck).collect();
        stuck.into_iter().for_each(|partition| self.ask_to_elect(partition, 1));
        self.after(self.world.between(300 * MS, 2 * S), |scene| scene.look_after());
    }

    fn any_serving(&self) -> Option<usize> {
        let serves = |id: &usize| {
            let node = &self.nodes[*id];
            node.is_up && !node.is_paused && self.decided().desks[slot(*id)].is_serving()
        };
        let serving: Vec<usize> = (1..=self.settings.nodes).filter(serves).collect();
        (!serving.is_empty()).then(|| serving[self.world.below(serving.len() as u64) as usize])
    }

    fn administrate(
        &mut self,
        (kind, version): (QuestionKind, i16),
        request: &impl Encodable,
        then: impl FnOnce(&mut Scene, ErrorCode) + 'static,
    ) {
        let Some(id) = self.any_serving() else { return };
        let payload = encode(request, version);
        self.ask_for(id, (kind, version), payload, Effort::Careful, move |scene, code, payload| {
            let inner = payload.first_chunk::<2>().map(|code| i16::from_be_bytes(*code));
            let inner = inner.and_then(ErrorCode::from_wire);
            then(scene, if code == ErrorCode::None { inner.unwrap_or(code) } else { code });
        });
    }

    /// Some nodes, in any order.
    fn some_nodes(&self, count: usize) -> Vec<i32> {
        let mut nodes: Vec<i32> = (1..=self.settings.nodes as i32).collect();
        (0..count.min(nodes.len()))
            .map(|_| nodes.remove(self.world.below(nodes.len() as u64) as usize))
            .collect()
    }

    /// One of any number of replicas, most often three.
    pub fn create_topic(&mut self) {
        if self.ordinary_partitions().len() >= TOPICS_MAX {
            return;
        }
        let count = match self.world.below(8) {
            0 => 1,
            1 => 2,
            2 => 5,
            _ => 3,
        };
        let nodes = self.some_nodes(count);
        let majority = nodes.len() / 2 + 1;
        let mut configs = Vec::new();
        let mut set = |name: &'static str, value: String| {
            let config = CreatableTopicConfig::default().with_name(StrBytes::from_static_str(name));
            configs.push(config.with_value(Some(text(value))));
        };
        if self.world.one_in(5) {
            set("unclean.leader.election.enable", "true".to_owned());
        }
        match self.world.below(6) {
            0 => set("min.insync.replicas", "1".to_owned()),
            1 => set("min.insync.replicas", majority.to_string()),
            _ => {}
        }
        let name = format!("topic-{}", self.world.below(1 << 40));
        self.ask_to_create(name, nodes, configs);
    }

    /// One of three replicas, and with no settings of its own.
    pub fn create_topic_named(&mut self, name: &str) {
        let nodes = self.some_nodes(3);
        self.ask_to_create(name.to_owned(), nodes, Vec::new());
    }

    fn ask_to_create(&mut self, name: String, nodes: Vec<i32>, configs: Vec<CreatableTopicConfig>) {
        let assignment = CreatableReplicaAssignment::default()
            .with_partition_index(0)
            .with_broker_ids(nodes.into_iter().map(BrokerId).collect());
        let topic = CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_assignments(vec![assignment])
            .with_configs(configs);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        self.administrate((QuestionKind::CreateTopics, CREATE_TOPICS), &request, |scene, code| {
            if code != ErrorCode::None {
                scene.world.count("topic: not created");
            }
        });
    }

    fn a_partition(&self) -> Option<(usize, &Leadership)> {
        let partitions = &self.controller.partitions;
        if partitions.is_empty() {
            return None;
        }
        let at = self.world.below(partitions.len() as u64) as usize;
        partitions.iter().nth(at).map(|(number, leadership)| (*number, leadership))
    }

    /// Somebody in sync has lost what it had, and the controller does not know.
    fn has_lost_in_sync(&self, partition: usize) -> bool {
        let in_sync = &self.controller.partitions[&partition].in_sync;
        in_sync.iter().any(|node| self.is_lost(node.0 as usize, partition))
    }

    fn name_of(&self, partition: usize) -> Option<TopicName> {
        let topic = self.decided().image.topic(partition_id(partition).topic)?;
        Some(TopicName(text(topic.name.clone())))
    }

    fn delete_topic(&mut self) {
        let Some((partition, _)) = self.a_partition() else { return };
        if self.ordinary_partitions().len() < 2 || self.is_coordinated(partition) {
            return;
        }
        self.ask_to_delete(partition);
    }

    fn ask_to_delete(&mut self, partition: usize) {
        let Some(name) = self.name_of(partition) else { return };
        let topic = DeleteTopicState::default().with_name(Some(name));
        let request = DeleteTopicsRequest::default().with_topics(vec![topic]);
        self.administrate((QuestionKind::DeleteTopics, DELETE_TOPICS), &request, |_, _| {});
    }

    fn ask_to_reassign(&mut self, partition: usize, replicas: Option<Vec<i32>>) {
        let Some(name) = self.name_of(partition) else { return };
        self.world.note(format_args!("partition {partition} is to go to {replicas:?}"));
        if let Some(replicas) = &replicas {
            let asked = (self.world.now(), replicas.len());
            self.metadata().reassignment_asked.insert(partition, asked);
        }
        let replicas = replicas.map(|replicas| replicas.into_iter().map(BrokerId).collect());
        let asked = ReassignablePartition::default().with_partition_index(0).with_replicas(replicas);
        let topic = ReassignableTopic::default().with_name(name).with_partitions(vec![asked]);
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
        let kind = QuestionKind::AlterPartitionReassignments;
        self.administrate((kind, REASSIGN), &request, |scene, code| {
            scene.world.count(match code {
                ErrorCode::None => "reassignment: accepted",
                ErrorCode::NoReassignmentInProgress => "reassignment: none to cancel",
                ErrorCode::InvalidReplicaAssignment => "reassignment: refused",
                _ => "reassignment: not known",
            });
        });
    }

    fn reassign(&mut self) {
        let Some((partition, leadership)) = self.a_partition() else { return };
        // Another one would cancel it, and may elect uncleanly with that.
        if self.is_coordinated(partition) && leadership.is_reassigned() {
            return;
        }
        let before = leadership.target_count();
        let count = match self.world.below(4) {
            0 => self.world.between(1, self.settings.nodes as u64) as usize,
            _ => before,
        };
        let nodes = self.some_nodes(count);
        // A replica alone on a disk that is lost is what nobody survives.
        if nodes.iter().any(|node| self.is_lost(*node as usize, partition)) {
            return;
        }
        self.ask_to_reassign(partition, Some(nodes));
    }

    fn cancel_reassignment(&mut self) {
        // Nor is one to go back to those of before who have lost what only others have.
        let moving = |(partition, leadership): (&usize, &Leadership)| {
            let is_moving = leadership.is_reassigned() && !self.is_coordinated(*partition);
            (is_moving && !self.has_lost_in_sync(*partition)).then_some(*partition)
        };
        if let Some(partition) = self.controller.partitions.iter().find_map(moving) {
            self.ask_to_reassign(partition, None);
        }
    }

    fn ask_to_elect(&mut self, partition: usize, election_type: i8) {
        let Some(name) = self.name_of(partition) else { return };
        if election_type == 1 {
            self.metadata().asked_uncleanly.insert(partition);
        }
        let topic = TopicPartitions::default().with_topic(name).with_partitions(vec![0]);
        let request = ElectLeadersRequest::default()
            .with_topic_partitions(Some(vec![topic]))
            .with_election_type(election_type);
        self.administrate((QuestionKind::ElectLeaders, ELECT_LEADERS), &request, |scene, code| {
            if code == ErrorCode::None {
                scene.world.count("election: held for an operator");
            }
        });
    }

    fn elect_preferred_leader(&mut self) {
        if let Some((partition, _)) = self.a_partition() {
            self.ask_to_elect(partition, 0);
        }
    }

    /// Where somebody has to decide to lose what only others have.
    fn elect_anybody(&mut self) {
        let is_leaderless = |(partition, leadership): &(&usize, &Leadership)| {
            leadership.leader.is_none() && !self.is_coordinated(**partition)
        };
        let found = self.controller.partitions.iter().find(is_leaderless).map(|(partition, _)| *partition);
        if let Some(partition) = found.filter(|_| self.world.one_in(3)) {
            self.ask_to_elect(partition, 1);
        }
    }

    /// How many have to be in sync, or whether anybody may be elected.
    fn change_settings(&mut self) {
        let Some((partition, leadership)) = self.a_partition() else { return };
        let replicas = leadership.target_count() as u64;
        // The same of fewer that have to be in sync: also of one that a proposal on its way brings in.
        if leadership.replicas.iter().any(|node| self.is_lost(node.0 as usize, partition)) {
            return;
        }
        let Some(name) = self.name_of(partition) else { return };
        let is_coordinated = self.is_coordinated(partition);
        let (key, value) = match self.world.one_in(3) && !is_coordinated {
            true => ("unclean.leader.election.enable", self.world.one_in(2).to_string()),
            false => ("min.insync.replicas", self.world.between(1, replicas).to_string()),
        };
        let now = self.world.now();
        self.metadata().minimum_asked.insert(partition, now);
        self.world.note(format_args!("partition {partition} is to have {key} = {value}"));
        let config = AlterableConfig::default()
            .with_name(StrBytes::from_static_str(key))
            .with_config_operation(0)
            .with_value(Some(text(value)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(name.0)
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let kind = (QuestionKind::IncrementalAlterConfigs, ALTER_CONFIGS);
        self.administrate(kind, &request, |scene, code| {
            if code == ErrorCode::None {
                scene.world.count("topic: settings changed");
            }
        });
    }

    /// How a change of replicas goes on.
    pub fn count_reassignment(&self, before: &Leadership, next: &Leadership) {
        if !before.is_reassigned() && next.is_reassigned() {
            self.world.count("reassignment: begun");
        } else if before.is_reassigned() && next.is_reassigned() && before.replicas != next.replicas {
            self.world.count("reassignment: replaced by another");
        } else if before.is_reassigned() && !next.is_reassigned() {
            let has_come = before.adding.iter().all(|node| next.replicas.contains(node));
            let is_back = before.removing.iter().any(|node| next.replicas.contains(node));
            self.world.count(if has_come && !is_back {
                "reassignment: completed"
            } else {
                "reassignment: cancelled"
            });
        } else if before.replicas.iter().any(|node| !next.replicas.contains(node)) {
            self.world.count("reassignment: completed at once");
        }
        if before.leader.is_some_and(|leader| !next.replicas.contains(&leader)) {
            self.world.count("reassignment: leader went");
        }
    }
}
