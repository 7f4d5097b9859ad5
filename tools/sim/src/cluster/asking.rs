//! Questions to whoever leads the quorum, over a network that loses and delays them, and the answers.

use crate::cluster::deciding::{Desk, Request};
use crate::cluster::metadata::slot;
use crate::quorum::node::slot_of;
use crate::replication::scene::Scene;
use crate::replication::settings::check;
use crate::world::{MS, Micros, S};
use kafka_protocol::protocol::{Decodable, Encodable};
use odradek::cluster::encoding;
use odradek::cluster::quorum::members::PeerId;
use odradek::cluster::record::{Node, Record};
use odradek::cluster::registration::Start;
use odradek::codec::control::{
    Answer, Question, QuestionKind, Registered, Registration, decode_alter_partitions, decode_heartbeat,
    encode_heartbeat_answer, encode_registered,
};
use odradek::codec::error_code::ErrorCode;
use odradek::codec::peer_frame::{PeerFrame, next_peer_frame};
use odradek::codec::peer_message::{PEER_VERSION_MAX, PeerMessage};
use std::collections::BTreeMap;

/// An answer leaves with this.
pub type Reply = Box<dyn FnOnce(&mut Scene, ErrorCode, Vec<u8>)>;

/// What is to be done with the answer; none came, or none that is one.
type Then = Box<dyn FnOnce(&mut Scene, Result<(Answer, Vec<u8>), ErrorCode>)>;

const ANSWER_TIME_MAX: Micros = 10 * S;
const TRY_TIME_MAX: Micros = 2 * S;

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Of whom the node takes for the leader, once, for so long.
    Once(Micros),
    /// Of anybody who may know, until it is answered; again where nobody knows whether it was heard.
    Repeated,
    /// The same, but not again.
    Careful,
}

/// A question that is not answered yet.
pub struct Asking {
    question: Question,
    payload: Vec<u8>,
    effort: Effort,
    begun: Micros,
    hint: Option<PeerId>,
    turn: usize,
    /// Which try is under way.
    attempt: u64,
    then: Then,
}

pub fn question(kind: QuestionKind, version: i16) -> Question {
    use odradek::types::NodeId;
    let (number, node, peer, found) = (0, NodeId(0), 0, Vec::new());
    Question { number, kind, node, peer, version, found, limit: None, registration: None }
}

pub fn encode(message: &impl Encodable, version: i16) -> Vec<u8> {
    let mut bytes = bytes::BytesMut::new();
    message.encode(&mut bytes, version).expect("a small request");
    bytes.to_vec()
}

fn decode<T: Decodable>(payload: &[u8], version: i16) -> T {
    T::decode(&mut bytes::Bytes::copy_from_slice(payload), version).expect("what was encoded")
}

impl Scene {
    pub fn ask(
        &mut self,
        id: usize,
        question: Question,
        payload: Vec<u8>,
        effort: Effort,
        then: impl FnOnce(&mut Scene, Result<(Answer, Vec<u8>), ErrorCode>) + 'static,
    ) {
        let now = self.world.now();
        let peer = self.decided().quorum.all[slot(id)].peer;
        let question = Question { node: peer.node(), peer: peer.raw(), ..question };
        let desk = &mut self.metadata().desks[slot(id)];
        desk.next_question += 1;
        let number = desk.next_question;
        let (then, hint) = (Box::new(then), None);
        let asking = Asking { question, payload, effort, begun: now, hint, turn: 0, attempt: 0, then };
        desk.asking.insert(number, asking);
        self.try_to_ask(id, number);
    }

    fn asker(&mut self, id: usize) -> &mut BTreeMap<u64, Asking> {
        &mut self.metadata().desks[slot(id)].asking
    }

    fn try_to_ask(&mut self, id: usize, number: u64) {
        let (now, nodes) = (self.world.now(), self.settings.nodes);
        let quorum = self.decided().quorum.all[slot(id)].quorum();
        let (me, leader) =
            (self.decided().quorum.all[slot(id)].peer, quorum.and_then(|quorum| quorum.leader()));
        let is_leading = self.decided().is_leading(slot(id));
        let Some(asking) = self.asker(id).get_mut(&number) else { return };
        let is_known = |peer: &PeerId| *peer != me;
        let leader = asking.hint.take().or(leader).filter(is_known);
        let once = match asking.effort {
            Effort::Once(time_max) => Some(time_max),
            Effort::Repeated | Effort::Careful => None,
        };
        let waited = now - asking.begun;
        if once.is_none() && (waited >= ANSWER_TIME_MAX || is_leading) {
            return self.is_answered_with(id, number, Err(ErrorCode::NotController));
        }
        let others: Vec<usize> = (1..=nodes).filter(|other| *other != id).collect();
        let to = match leader.and_then(slot_of) {
            Some(leader) => crate::cluster::metadata::id(leader),
            None if once.is_some() => {
                return self.is_answered_with(id, number, Err(ErrorCode::NotController));
            }
            None => others[asking.turn % others.len()],
        };
        asking.turn += 1;
        asking.attempt += 1;
        let attempt = asking.attempt;
        let time_max = match asking.effort {
            Effort::Once(time_max) => time_max,
            Effort::Repeated => TRY_TIME_MAX.min(ANSWER_TIME_MAX - waited),
            Effort::Careful => ANSWER_TIME_MAX - waited,
        };
        let mut frame = Vec::new();
        let question = Question { number, ..asking.question.clone() };
        let payload = asking.payload.clone();
        PeerMessage::Question(question).encode(PEER_VERSION_MAX, [&payload[..]], &mut frame);
        frame.extend_from_slice(&payload);
        // Whose question it is: another process of that node counts from the first one again.
        let asker = (id, self.nodes[id].run, attempt);
        // Of two copies of it the second comes over another connection.
        for delay in self.arrivals(id, to) {
            let frame = frame.clone();
            self.after(delay, move |scene| {
                if !scene.network.is_cut(id, to) {
                    let run = scene.nodes[to].run;
                    scene.at_node(to, run, move |scene| scene.hears_question(asker, to, &frame));
                }
            });
        }
        self.after_at(time_max, id, move |scene| scene.try_is_over(id, number, attempt));
    }

    /// Nothing has come of it.
    fn try_is_over(&mut self, id: usize, number: u64, attempt: u64) {
        let Some(asking) = self.asker(id).get(&number).filter(|asking| asking.attempt == attempt) else {
            return;
        };
        match asking.effort {
            Effort::Repeated => {
                self.world.count("question: asked again");
                self.after_at(50 * MS, id, move |scene| scene.try_to_ask(id, number));
            }
            Effort::Once(_) | Effort::Careful => {
                self.is_answered_with(id, number, Err(ErrorCode::RequestTimedOut));
            }
        }
    }

    fn is_answered_with(&mut self, id: usize, number: u64, result: Result<(Answer, Vec<u8>), ErrorCode>) {
        if let Some(asking) = self.asker(id).remove(&number) {
            (asking.then)(self, result);
        }
    }

    fn hears_answer(&mut self, id: usize, attempt: u64, frame: &[u8]) {
        let Some((PeerMessage::Answer(answer), payload)) = self.decode(id, frame) else {
            return self.world.finding(check::PROTOCOL, format_args!("an answer that is none"));
        };
        let (number, payload) = (answer.number, payload.to_vec());
        let Some(asking) = self.asker(id).get_mut(&number) else { return };
        let is_once = matches!(asking.effort, Effort::Once(_));
        if asking.attempt != attempt {
            return; // It was given up.
        }
        if answer.error == ErrorCode::NotController.code() && !is_once {
            asking.hint = PeerId::from_raw(answer.leader);
            asking.attempt += 1;
            return self.after_at(50 * MS, id, move |scene| scene.try_to_ask(id, number));
        }
        // This try has come to its end.
        asking.attempt += 1;
        if is_once {
            return self.is_answered_with(id, number, Ok((answer, payload)));
        }
        if answer.error != 0 {
            return self.is_answered_with(id, number, Ok((answer, payload)));
        }
        let until = self.world.now() + ANSWER_TIME_MAX;
        self.wait_for_applied(id, number, until, answer, payload);
    }

    /// Until this node has applied what the answer speaks of.
    fn wait_for_applied(&mut self, id: usize, number: u64, until: Micros, answer: Answer, payload: Vec<u8>) {
        if self.decided().applied(slot(id)) >= answer.index || self.world.now() >= until {
            return self.is_answered_with(id, number, Ok((answer, payload)));
        }
        self.after_at(20 * MS, id, move |scene| scene.wait_for_applied(id, number, until, answer, payload));
    }

    // --- The other side

    fn hears_question(&mut self, asker: (usize, u64, u64), to: usize, frame: &[u8]) {
        let Ok(PeerFrame::Complete { kind, table, payload, .. }) = next_peer_frame(frame) else {
            return self.world.finding(check::PROTOCOL, format_args!("a question that is no frame"));
        };
        let message = PeerMessage::decode(kind, &frame[table], payload.len());
        let Ok(PeerMessage::Question(question)) = message else {
            return self.world.finding(check::PROTOCOL, format_args!("a question that is none: {message:?}"));
        };
        let (number, kind) = (question.number, question.kind);
        let (from, _, attempt) = asker;
        if kind != QuestionKind::Heartbeat {
            self.world.note(format_args!("node {from} asks {to}: {kind:?}, try {attempt} of {number}"));
        }
        let reply: Reply = Box::new(move |scene, code, payload| {
            scene.answer_question(to, asker, (number, kind), code, payload);
        });
        self.answer_to(slot(to), &question, &frame[payload], reply);
    }

    fn answer_to(&mut self, slot: usize, question: &Question, payload: &[u8], reply: Reply) {
        let is_leading = self.decided().is_leading(slot);
        let is_serving = self.decided().desks[slot].is_serving();
        match question.kind {
            QuestionKind::AppliedIndex | QuestionKind::Heartbeat | QuestionKind::Register if !is_leading => {
                reply(self, ErrorCode::NotController, Vec::new());
            }
            QuestionKind::AppliedIndex => reply(self, ErrorCode::None, Vec::new()),
            QuestionKind::Heartbeat => {
                let heartbeat = decode_heartbeat(payload).expect("what was encoded");
                let answer = self.hear(slot, &heartbeat);
                reply(self, ErrorCode::None, encode_heartbeat_answer(&answer));
            }
            QuestionKind::Register => {
                let records = encoding::decode(payload).expect("what was encoded");
                let [Record::NodeRegistered(node)] = &records[..] else { unreachable!("one node registers") };
                let registration = question.registration.clone().expect("it says what has started");
                let Registration { logs, doubtful, replaces, .. } = registration;
                let start = Start { node: node.clone(), found: BTreeMap::new(), logs, doubtful, replaces };
                let peer = PeerId::from_raw(question.peer).expect("a node of this seed");
                let node = node.id;
                let tell: Reply = Box::new(move |scene, code, payload| {
                    let payload = match code {
                        ErrorCode::DuplicateBrokerRegistration => scene.current_registration(slot, node),
                        _ => payload,
                    };
                    reply(scene, code, payload);
                });
                self.register_other(slot, peer, start, tell);
            }
            // Its own partitions are not open yet.
            _ if !is_serving => reply(self, ErrorCode::NotController, Vec::new()),
            kind => {
                let request = match kind {
                    QuestionKind::AlterPartitions => {
                        Request::AlterPartitions(decode_alter_partitions(payload).expect("what was encoded"))
                    }
                    QuestionKind::CreateTopics => Request::CreateTopics(decode(payload, question.version)),
                    QuestionKind::DeleteTopics => Request::DeleteTopics(decode(payload, question.version)),
                    QuestionKind::ElectLeaders => Request::ElectLeaders(decode(payload, question.version)),
                    QuestionKind::AlterPartitionReassignments => {
                        Request::AlterReassignments(decode(payload, question.version))
                    }
                    QuestionKind::IncrementalAlterConfigs => {
                        Request::IncrementalAlterConfigs(decode(payload, question.version))
                    }
                    QuestionKind::RemoveVoter => {
                        let raw = u64::from_be_bytes(payload.try_into().expect("a member"));
                        Request::RemoveVoter(PeerId::from_raw(raw).expect("a node of this seed"))
                    }
                    other => unreachable!("nobody asks {other:?} here"),
                };
                self.execute(slot, request, reply);
            }
        }
    }

    /// What another process that would replace a registration is told of it.
    fn current_registration(&self, slot: usize, node: odradek::types::NodeId) -> Vec<u8> {
        let current = self.decided().image_of(slot).and_then(|image| {
            let Node { incarnation, broker_epoch, .. } = *image.node(node)?;
            Some(Registered { incarnation, broker_epoch, is_accepted: false })
        });
        current.map_or_else(Vec::new, |current| encode_registered(&current))
    }

    fn answer_question(
        &mut self,
        from: usize,
        (to, run, attempt): (usize, u64, u64),
        (number, kind): (u64, QuestionKind),
        code: ErrorCode,
        payload: Vec<u8>,
    ) {
        let Some(quorum) = self.decided().quorum.all[slot(from)].quorum() else { return };
        let index = match kind {
            QuestionKind::AppliedIndex => quorum.committed(),
            _ => self.decided().applied(slot(from)),
        };
        let (leader, term) = (quorum.leader().map_or(0, PeerId::raw), quorum.term());
        if kind != QuestionKind::Heartbeat {
            self.world.note(format_args!("node {from} answers {to}: {code:?}, {kind:?} {number}"));
        }
        let error = code.code();
        let message = String::new();
        let answer = Answer { number, error, leader, leader_address: None, term, index, message };
        let mut frame = Vec::new();
        PeerMessage::Answer(answer).encode(PEER_VERSION_MAX, [&payload[..]], &mut frame);
        frame.extend_from_slice(&payload);
        for delay in self.arrivals(from, to) {
            let frame = frame.clone();
            self.after(delay, move |scene| {
                if !scene.network.is_cut(from, to) {
                    scene.at_node(to, run, move |scene| scene.hears_answer(to, attempt, &frame));
                }
            });
        }
    }

    /// Asks the node itself where it decides, else whoever does.
    pub fn ask_for(
        &mut self,
        id: usize,
        (kind, version): (QuestionKind, i16),
        payload: Vec<u8>,
        effort: Effort,
        then: impl FnOnce(&mut Scene, ErrorCode, Vec<u8>) + 'static,
    ) {
        let asked = question(kind, version);
        if self.decided().is_leading(slot(id)) {
            let reply: Reply = Box::new(then);
            return self.answer_to(slot(id), &asked, &payload, reply);
        }
        self.ask(id, asked, payload, effort, move |scene, result| match result {
            Ok((answer, payload)) => {
                let code = ErrorCode::from_wire(answer.error).unwrap_or(ErrorCode::UnknownServerError);
                then(scene, code, payload);
            }
            Err(code) => then(scene, code, Vec::new()),
        });
    }
}

impl Desk {
    /// How many questions are open.
    pub fn open_count(&self) -> usize {
        self.asking.len()
    }
}
