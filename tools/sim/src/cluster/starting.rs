//! A start: metadata that are caught up with, logs that are recovered, a registration, and heartbeats from then on.

use crate::cluster::asking::{Effort, question};
use crate::cluster::deciding::Stage;
use crate::cluster::metadata::slot;
use crate::cluster::settings::Mistake;
use crate::quorum::shell::Shell;
use crate::replication::node::incarnation;
use crate::replication::scene::{Scene, partition_id};
use crate::world::{MS, S};
use odradek::cluster::encoding;
use odradek::cluster::record::{FEATURE_LEVEL, Node, Record};
use odradek::cluster::registration::{Start, is_registered};
use odradek::codec::control::{
    Doubtful, Heartbeat, HeartbeatAnswer, LogsFound, Question, QuestionKind, Registration,
    decode_heartbeat_answer, decode_registered, encode_heartbeat,
};
use odradek::codec::error_code::ErrorCode;
use odradek::config::{HostPort, Routing};
use odradek::types::{BrokerEpoch, NodeId};
use std::collections::BTreeMap;

impl Scene {
    pub fn start_with_quorum(&mut self, id: usize) {
        let started = self.start_process(slot(id));
        if self.decided().quorum.all[slot(id)].is_damaged {
            self.metadata().quorum.lose_directory(slot(id));
            return self.start_with_quorum(id);
        }
        if !started {
            return;
        }
        self.after_at(500 * MS, id, move |scene| scene.promote(slot(id)));
        // A directory that is new has nothing to catch up with, and no logs.
        match self.decided().quorum.all[slot(id)].kept.base.0 {
            0 => self.recover_logs(id),
            _ => self.catch_up_metadata(id),
        }
    }

    /// Until everything that this node had applied before is applied again.
    fn catch_up_metadata(&mut self, id: usize) {
        if self.decided().is_leading(slot(id)) {
            return self.recover_logs(id);
        }
        let asked = question(QuestionKind::AppliedIndex, 0);
        self.ask(id, asked, Vec::new(), Effort::Repeated, move |scene, result| {
            let metadata = scene.decided();
            let term = metadata.quorum.all[slot(id)].quorum().map_or(0, |quorum| quorum.term());
            let applied = metadata.applied(slot(id));
            let is_known = result
                .is_ok_and(|(answer, _)| answer.error == 0 && answer.term >= term && applied >= answer.index);
            if is_known {
                return scene.recover_logs(id);
            }
            scene.after_at(100 * MS, id, move |scene| scene.catch_up_metadata(id));
        });
    }

    fn recover_logs(&mut self, id: usize) {
        match self.nodes[id].engine.is_some() {
            true => self.start_engine(id),
            false => self.logs_are_recovered(id),
        }
    }

    pub fn logs_are_recovered(&mut self, id: usize) {
        let most = if self.is_calm || !self.world.one_in(4) { 100 * MS } else { 3 * S };
        let time = self.world.below(most);
        self.after_at(time, id, move |scene| {
            let node = &scene.nodes[id];
            let damaged = node.replicas.iter().filter(|(_, replica)| replica.log.is_lost);
            let damaged = || damaged.map(|(partition, _)| partition_id(*partition)).collect();
            let (damaged, doubtful) = match &node.engine {
                Some(engine) => engine.told(),
                None => (damaged(), Vec::new()),
            };
            let logs = match node.is_empty {
                true => LogsFound::Empty,
                false => LogsFound::Damaged(damaged),
            };
            let logs = if scene.decided().makes(Mistake::DamageNotTold) {
                LogsFound::Damaged(Vec::new())
            } else {
                logs
            };
            let node = Node {
                id: node.id,
                cores: 1,
                routing: Routing::Node,
                host: format!("node-{id}"),
                port: 9092,
                rack: None,
                log_directories: Vec::new(),
                peer: Some(HostPort { host: format!("node-{id}"), port: 9093 }),
                broker_epoch: BrokerEpoch(0),
                incarnation: incarnation(id, node.run),
                is_fenced: true,
                is_shutting_down: false,
                feature_level_max: FEATURE_LEVEL,
            };
            let doubtful = Doubtful::Partitions(doubtful);
            let start = Start { node, found: BTreeMap::new(), logs, doubtful, replaces: None };
            let desk = &mut scene.metadata().desks[slot(id)];
            desk.started = Some(start);
            desk.stage = Stage::Registering;
            scene.register_with_quorum(id);
        });
    }

    /// Until the metadata say what this node is now, and that it is a member of the quorum.
    fn register_with_quorum(&mut self, id: usize) {
        let metadata = self.decided();
        let started = metadata.desks[slot(id)].started.as_ref().expect("it was said what has started");
        let node = &metadata.quorum.all[slot(id)];
        let is_member = node.quorum().is_some_and(|quorum| quorum.members().contains(node.peer));
        let is_known = metadata.image_of(slot(id)).is_some_and(|image| is_registered(image, &started.node));
        if is_known && is_member {
            // Partitions are opened by what the metadata say by then.
            let time = self.world.below(50 * MS);
            return self.after_at(time, id, move |scene| {
                scene.metadata().desks[slot(id)].stage = Stage::Serving;
                scene.nodes[id].is_empty = false;
                scene.world.note(format_args!("node {id} serves"));
                scene.engine_doubts_are_known(id);
                scene.go_by_image(slot(id));
                scene.beat_with_quorum(id);
            });
        }
        self.register_once(id);
        self.after_at(100 * MS, id, move |scene| scene.register_when_answered(id));
    }

    /// One try at a time.
    fn register_when_answered(&mut self, id: usize) {
        if self.decided().desks[slot(id)].open_count() > 0 {
            return self.after_at(50 * MS, id, move |scene| scene.register_when_answered(id));
        }
        self.register_with_quorum(id);
    }

    fn register_once(&mut self, id: usize) {
        let metadata = self.decided();
        let desk = &metadata.desks[slot(id)];
        let known = metadata.image_of(slot(id)).and_then(|image| image.node(NodeId(id as i32)));
        let known = known.map(|node| node.broker_epoch);
        let start = desk.started.clone().expect("it was said what has started");
        let start = Start { replaces: known.max(desk.told), ..start };
        if metadata.is_leading(slot(id)) {
            return self.register_self(slot(id), start);
        }
        let payload = encoding::encode(&[Record::NodeRegistered(start.node.clone())]);
        let Start { node, logs, doubtful, replaces, .. } = start;
        let (node, incarnation) = (node.id, node.incarnation);
        let registration = Registration { node, incarnation, logs, doubtful, replaces };
        let asked = Question { registration: Some(registration), ..question(QuestionKind::Register, 0) };
        self.ask(id, asked, payload, Effort::Repeated, move |scene, result| {
            let Ok((answer, payload)) = result else { return };
            if answer.error == ErrorCode::None.code() {
                return;
            }
            scene.world.note(format_args!("node {id} is not registered: {}", answer.error));
            if let Ok(registered) = decode_registered(&payload) {
                scene.world.count("node: registration late");
                scene.metadata().desks[slot(id)].told = Some(registered.broker_epoch);
            }
        });
    }

    // --- Heartbeats

    fn beat_with_quorum(&mut self, id: usize) {
        let metadata = self.decided();
        let desk = &metadata.desks[slot(id)];
        let image = metadata.image_of(slot(id)).expect("it runs");
        let wants_shut_down = self.nodes[id].wants_shut_down;
        let Some(own) = self.own_registration(slot(id), image) else {
            // It was taken from it while it could not be heard.
            if image.node(NodeId(id as i32)).is_none() && desk.open_count() == 0 {
                self.register_once(id);
            }
            return self.beat_again(id, None);
        };
        let heartbeat = Heartbeat {
            node: own.id,
            broker_epoch: own.broker_epoch,
            metadata_offset: metadata.applied(slot(id)),
            wants_shut_down,
            offline_directories: Vec::new(),
        };
        if metadata.is_leading(slot(id)) {
            let answer = self.hear(slot(id), &heartbeat);
            return self.beat_again(id, Some(answer));
        }
        let asked = question(QuestionKind::Heartbeat, 0);
        let time_max = self.settings.session_max / 2;
        self.ask(id, asked, encode_heartbeat(&heartbeat), Effort::Once(time_max), move |scene, result| {
            let answer = result.ok().filter(|(answer, _)| answer.error == 0);
            let answer = answer.and_then(|(_, payload)| decode_heartbeat_answer(&payload).ok());
            scene.beat_again(id, answer);
        });
    }

    fn beat_again(&mut self, id: usize, answer: Option<HeartbeatAnswer>) {
        let node = &self.nodes[id];
        if node.wants_shut_down && answer.is_some_and(|answer| answer.may_shut_down) {
            self.world.count("node: stops, leading nothing");
            return self.stop_node(id);
        }
        let is_waiting = node.wants_shut_down || answer.is_none_or(|answer| answer.is_fenced);
        let interval = self.settings.heartbeat;
        let pause = if is_waiting { interval.min(50 * MS) } else { interval };
        self.after_at(pause, id, move |scene| scene.beat_with_quorum(id));
    }
}
