//! What becomes of a request on its way, and of its answer: late, lost, twice, long after its client has died.

use crate::transactions::cluster::Cluster;
use crate::transactions::request::{Reply, Request};
use crate::transactions::settings::{MS, S};
use crate::world::Micros;
use futures::channel::oneshot;
use futures::future::{Either, select};
use std::rc::Rc;

/// A request that is late comes so late at most: its client has long done something else.
pub const LATE_MAX: Micros = 40 * S;

/// What a client waits for an answer at most.
const PATIENCE: Micros = 5 * S;

/// Asks a broker. `None`: no answer came, whatever became of the request.
pub async fn call(cluster: &Rc<Cluster>, request: Request) -> Option<Reply> {
    let scene = &cluster.scene;
    let world = &scene.world;
    let has_fault = |one_in: u64| scene.is_faulty(scene.settings.network_fault.saturating_mul(one_in));
    scene.travel().await;
    if has_fault(2) {
        world.count("network: request lost");
        scene.pause(PATIENCE / 4).await;
        return None;
    }
    if has_fault(1) {
        world.count("network: request twice");
        let (cluster, request) = (cluster.clone(), request.clone());
        let time = if world.one_in(2) { world.below(S) } else { world.below(LATE_MAX) };
        world.clone().spawn(async move {
            cluster.scene.world.sleep(time).await;
            if time > 5 * S {
                cluster.scene.world.count("network: request late");
            }
            cluster.ask(request).await;
        });
    }
    if has_fault(2) {
        // Its client does not know, sends it again over another connection, and that one comes first.
        world.count("network: request overtaken");
        let (cluster, request) = (cluster.clone(), request.clone());
        let time = world.below(LATE_MAX);
        world.clone().spawn(async move {
            cluster.scene.world.sleep(time).await;
            cluster.ask(request).await;
        });
        scene.pause(PATIENCE / 4).await;
        return None;
    }
    // Where it is it goes on, whether somebody waits or not.
    let (sender, receiver) = oneshot::channel();
    let asking = cluster.clone();
    world.spawn(async move {
        if let Some(reply) = asking.ask(request).await {
            let _ = sender.send(reply);
        }
    });
    let reply = match select(receiver, world.sleep(world.between(S, PATIENCE))).await {
        Either::Left((reply, _)) => reply.ok(),
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
    scene.travel().await;
    if has_fault(2) {
        world.count("network: answer lost");
        scene.pause(PATIENCE / 4).await;
        return None;
    }
    reply
}
