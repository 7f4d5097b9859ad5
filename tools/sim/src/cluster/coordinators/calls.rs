//! Clients that ask nodes, and nodes that ask each other. What they ask for gets lost, and what comes back; who has waited for long enough asks again
//! over another connection, and what was on its way over the one before goes with it.

use crate::cluster::coordinators::Then;
use crate::cluster::coordinators::requests::{Reply, Request};
use crate::replication::scene::Scene;
use crate::world::{Micros, S};
use odradek::codec::error_code::ErrorCode;
use std::collections::BTreeMap;

/// One request in so many is lost, and one answer.
const LOST: u64 = 60;

/// Lives: one per client.
#[derive(Default)]
struct Caller {
    attempt: u64,
    then: Option<Then<Option<Reply>>>,
}

/// A node that waits for another.
struct Question {
    node: usize,
    then: Then<Result<(), ErrorCode>>,
}

/// Lives: one per seed.
#[derive(Default)]
pub struct Calls {
    callers: Vec<Caller>,
    questions: BTreeMap<u64, Question>,
    next_question: u64,
}

impl Calls {
    pub fn new_caller(&mut self) -> usize {
        self.callers.push(Caller::default());
        self.callers.len() - 1
    }

    pub fn crash(&mut self, id: usize) {
        self.questions.retain(|_, question| question.node != id);
    }
}

impl Scene {
    /// Asks a node. `None`: no answer has come, whatever has become of it.
    pub fn call(
        &mut self,
        caller: usize,
        node: usize,
        request: Request,
        then: impl FnOnce(&mut Scene, Option<Reply>) + 'static,
    ) {
        let asking = &mut self.coordinators().calls.callers[caller];
        asking.attempt += 1;
        asking.then = Some(Box::new(then));
        let attempt = asking.attempt;
        let (latency, run) = (self.latency(), self.nodes[node].run);
        if !self.is_call_lost() {
            self.after(latency, move |scene| {
                scene.at_node(node, run, move |scene| {
                    if scene.coordinated().calls.callers[caller].attempt != attempt {
                        return; // The connection has ended.
                    }
                    let reply: Then<Reply> = Box::new(move |scene, reply| {
                        let latency = scene.latency();
                        if !scene.is_call_lost() {
                            scene.after(latency, move |scene| scene.called(caller, attempt, Some(reply)));
                        }
                    });
                    scene.serve(node, request, reply);
                });
            });
        }
        let patience = self.world.between(S, 3 * S);
        self.after(patience, move |scene| scene.called(caller, attempt, None));
    }

    /// One node asks another; as long as nobody answers, it cannot be reached.
    pub fn ask_node(
        &mut self,
        (from, to): (usize, usize),
        time_max: Micros,
        ask: impl FnOnce(&mut Scene, Then<Result<(), ErrorCode>>) + 'static,
        then: Then<Result<(), ErrorCode>>,
    ) {
        let calls = &mut self.coordinators().calls;
        calls.next_question += 1;
        let number = calls.next_question;
        calls.questions.insert(number, Question { node: from, then });
        let runs = (self.nodes[from].run, self.nodes[to].run);
        let latency = self.latency();
        self.after(latency, move |scene| {
            if scene.network.is_cut(from, to) || scene.is_call_lost() {
                return scene.world.count("node asks another: lost");
            }
            scene.at_node(to, runs.1, move |scene| {
                let reply: Then<_> = Box::new(move |scene, result| {
                    let latency = scene.latency();
                    scene.after(latency, move |scene| {
                        if scene.network.is_cut(to, from) || scene.is_call_lost() {
                            return scene.world.count("node asks another: answer lost");
                        }
                        scene.at_node(from, runs.0, move |scene| scene.node_is_answered(number, result));
                    });
                });
                ask(scene, reply);
            });
        });
        self.after_at(time_max, from, move |scene| {
            scene.node_is_answered(number, Err(ErrorCode::NetworkException));
        });
    }

    fn node_is_answered(&mut self, number: u64, result: Result<(), ErrorCode>) {
        if let Some(Question { then, .. }) = self.coordinators().calls.questions.remove(&number) {
            then(self, result);
        }
    }

    fn is_call_lost(&self) -> bool {
        !self.is_calm && self.world.one_in(LOST)
    }

    fn called(&mut self, caller: usize, attempt: u64, reply: Option<Reply>) {
        let asking = &mut self.coordinators().calls.callers[caller];
        if asking.attempt != attempt {
            return;
        }
        if let Some(then) = asking.then.take() {
            if reply.is_none() {
                asking.attempt += 1;
                self.world.count("call: no answer");
            }
            then(self, reply);
        }
    }
}
