//! What becomes of a request on its way, and of its answer: late, lost, twice, long after its client has died.

use crate::groups::broker::Broker;
use crate::groups::request::{Reply, Request};
use crate::groups::settings::{MS, S};
use crate::groups::witness::Witness;
use crate::world::Micros;
use futures::future::{Either, select};
use std::pin::pin;
use std::rc::Rc;

/// A request that is late comes so late at most: its client has long done something else.
pub const LATE_MAX: Micros = 40 * S;

/// What a client waits for an answer, beside what the request itself may wait for.
const PATIENCE: Micros = 5 * S;

/// Asks a broker. `None`: no answer came, whatever became of the request.
pub async fn call<W: Witness>(broker: &Rc<Broker<W>>, request: Request, waits: Micros) -> Option<Reply> {
    let world = &broker.world;
    let latency = || world.below(broker.settings.latency_max + 1);
    let has_fault = |one_in: u64| {
        let fault = broker.settings.network_fault;
        !broker.is_calm.get() && fault != u64::MAX && world.one_in(fault * one_in)
    };
    world.sleep(latency()).await;
    if has_fault(2) {
        world.count("network: request lost");
        world.sleep(world.below(PATIENCE)).await;
        return None;
    }
    if has_fault(1) {
        world.count("network: request twice");
        let (broker, request) = (broker.clone(), request.clone());
        let time = if world.one_in(2) { world.below(S) } else { world.below(LATE_MAX) };
        broker.world.clone().spawn(async move {
            broker.world.sleep(time).await;
            if time > 5 * S {
                broker.world.count("network: request late");
            }
            broker.ask(request).await;
        });
    }
    let asked = broker.ask(request);
    let patience = PATIENCE + waits;
    let reply = match select(pin!(asked), world.sleep(patience)).await {
        Either::Left((reply, _)) => reply,
        Either::Right(_) => {
            world.count("network: client gave up");
            None
        }
    };
    if reply.is_none() {
        // A connection that ended is made anew.
        world.sleep(world.between(MS, 500 * MS)).await;
        return None;
    }
    world.sleep(latency()).await;
    if has_fault(2) {
        world.count("network: answer lost");
        world.sleep(world.below(PATIENCE)).await;
        return None;
    }
    reply
}
