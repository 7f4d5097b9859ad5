//! This node says that it is there, to whoever leads the quorum; and the leader fences those that do not.
//!
//! What follows from heartbeats is decided in [`cluster::heartbeats`](crate::cluster::heartbeats) and
//! [`cluster::lifecycle`](crate::cluster::lifecycle). A node begins to say it once it serves; under which epoch it is
//! registered it knows from the metadata that it has applied.

use crate::cluster::image::Image;
use crate::cluster::lifecycle::{NodeChange, change_node};
use crate::cluster::registration::is_registered;
use crate::codec::control::{
    Heartbeat, HeartbeatAnswer, QuestionKind, decode_heartbeat_answer, encode_heartbeat,
};
use crate::shard::event::Signal;
use crate::shard::peers::forwarding::question;
use crate::shard::quorum::{CommitError, MetadataQuorum};
use crate::types::{BrokerEpoch, LogDirIndex, NodeId};
use futures::future::select;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Between two looks of the leader at what is due.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Between two heartbeats of a node that waits for what becomes of one.
const HURRIED_INTERVAL: Duration = Duration::from_millis(50);

/// A node that stops waits so long for others to lead.
const SHUT_DOWN_TIME_MAX: Duration = Duration::from_secs(5);

/// The same where nobody has answered it: there is no majority any more, most likely.
const SHUT_DOWN_UNHEARD_MAX: Duration = Duration::from_secs(2);

impl MetadataQuorum {
    /// This node serves from now on. Ends once it is unfenced, or after a while.
    pub async fn begin_to_serve(self: &Rc<Self>, time_max: Duration) {
        const LOOK: Duration = Duration::from_millis(10);
        if self.peers().is_none() {
            // There is nobody else to lead.
            if let Some(shard) = self.attached() {
                self.doubts_are_known(&shard);
            }
            return;
        }
        glommio::spawn_local(beat(self.clone())).detach();
        let begun = self.clock.mono();
        while self.with_image(|image| self.is_fenced(image)) && !self.has_failed() {
            if self.clock.mono().since(begun) > time_max {
                tracing::warn!("this node is not unfenced yet: it leads nothing until it is");
                return;
            }
            glommio::timer::sleep(LOOK).await;
        }
    }

    fn is_fenced(&self, image: &Image) -> bool {
        image.node(self.me().node()).is_none_or(|node| node.is_fenced)
    }

    /// What this node has to say; `None` where its registration is not there, or another process's.
    fn heartbeat(&self) -> Option<Heartbeat> {
        let started = &self.started.borrow().as_ref()?.node.clone();
        let broker_epoch = self.with_image(|image| {
            let own = image.node(started.id).filter(|_| is_registered(image, started));
            own.map(|node| node.broker_epoch)
        })?;
        Some(Heartbeat {
            node: started.id,
            broker_epoch,
            metadata_offset: self.applied_index(),
            wants_shut_down: self.wants_shut_down.get(),
            offline_directories: self.attached().map_or_else(Vec::new, |shard| shard.offline_directories()),
        })
    }

    /// The directory that has the metadata too, and may be the only one, has failed. Others lead then: a node that says
    /// nothing is fenced, and goes on answering reads of what it had. Where there is no other it goes on with that as it is.
    fn has_no_directory(&self) -> bool {
        let has_failed =
            self.attached().is_some_and(|shard| shard.stores.get(LogDirIndex::METADATA).is_offline());
        let me = self.me().node();
        has_failed && self.with_image(|image| image.nodes().any(|node| node.id != me && node.is_active()))
    }

    /// There is something to say before the next heartbeat is due.
    pub fn beat_soon(&self) {
        self.beating.notify();
    }

    /// Says it once; `None` where nobody has answered.
    async fn say(&self, heartbeat: &Heartbeat) -> Option<HeartbeatAnswer> {
        if self.is_leading() {
            return Some(self.hear(heartbeat));
        }
        let question = question(QuestionKind::Heartbeat, self.me());
        let time_max = self.config.broker_session_timeout / 2;
        let (answer, payload) =
            self.peers()?.ask_once(&question, &encode_heartbeat(heartbeat), time_max).await?;
        if answer.error != 0 {
            return None; // Another one leads by now.
        }
        let answer = decode_heartbeat_answer(&payload);
        answer.inspect_err(|error| tracing::warn!(%error, "an answer to a heartbeat cannot be read")).ok()
    }

    /// As the leader.
    pub fn hear(&self, heartbeat: &Heartbeat) -> HeartbeatAnswer {
        let now = self.clock.mono();
        let answer = self.with_image(|image| self.heartbeats.borrow_mut().heard(image, heartbeat, now));
        if answer.is_fenced || heartbeat.wants_shut_down {
            self.looking.notify();
        }
        answer
    }

    /// Its registration was taken from it while it could not be heard.
    async fn register_again(&self) {
        let Some(started) = self.started.borrow().clone() else { return };
        let node = started.node.id;
        // Not by this process, or there would be a heartbeat.
        if self.with_image(|image| image.node(node).is_some()) {
            tracing::error!(node = node.0, "another process has registered as this node");
        } else if let Err(error) = self.register_once(&started).await {
            tracing::warn!(%error, "this node is not registered any more, and cannot be again");
        }
    }

    /// Other nodes lead from now on what they can. Ends once this one leads nothing that another one could, or after a
    /// while.
    pub async fn shut_down(&self) {
        const LOOK: Duration = Duration::from_millis(10);
        let me = self.me().node();
        let is_other = |image: &Image| image.nodes().any(|node| node.id != me && node.is_active());
        if self.peers().is_none() || self.has_failed() || !self.with_image(is_other) {
            return;
        }
        self.answered.set(None);
        self.wants_shut_down.set(true);
        self.beating.notify();
        let begun = self.clock.mono();
        loop {
            let waited = self.clock.mono().since(begun);
            match self.answered.get() {
                Some(answer) if answer.may_shut_down => return,
                Some(_) if waited < SHUT_DOWN_TIME_MAX => {}
                None if waited < SHUT_DOWN_UNHEARD_MAX => {}
                _ => return tracing::warn!("nobody leads for this node: it stops all the same"),
            }
            glommio::timer::sleep(LOOK).await;
        }
    }

    /// This node leads from now on.
    pub(super) fn begin_to_look(&self) {
        let now = self.clock.mono();
        let before = self.led.take().and_then(|peer| {
            let heard = self.heard.borrow().get(&peer).copied();
            Some((peer.node(), heard?))
        });
        let applied = self.applied_index();
        self.with_image(|image| self.heartbeats.borrow_mut().begin(image, now, applied, before));
        self.beating.notify();
    }

    fn due(&self) -> Vec<(NodeId, BrokerEpoch, NodeChange)> {
        let now = self.clock.mono();
        self.with_image(|image| self.heartbeats.borrow_mut().due(image, now))
    }

    /// The caller has the turn.
    async fn change_node(
        &self,
        (node, broker_epoch): (NodeId, BrokerEpoch),
        change: &NodeChange,
    ) -> Result<(), CommitError> {
        let defaults = self.topic_defaults();
        let records = self.with_image(|image| change_node(image, &defaults, (node, broker_epoch), change));
        if records.is_empty() {
            return Ok(()); // It has changed meanwhile.
        }
        self.commit_all(records).await?;
        match change {
            NodeChange::Fence => {
                tracing::warn!(node = node.0, "a node was fenced: it leads nothing any more")
            }
            NodeChange::Unfence => tracing::info!(node = node.0, "a node was unfenced"),
            NodeChange::BeginShutDown => tracing::info!(node = node.0, "a node is about to stop"),
            NodeChange::LoseDirectories(failed) => {
                let directories: Vec<_> = failed.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    node = node.0,
                    ?directories,
                    "log directories of a node have failed: it leads nothing that is in them any more"
                )
            }
        }
        self.node_changed(node);
        Ok(())
    }

    /// What became of a node is applied here.
    pub(super) fn node_changed(&self, node: NodeId) {
        let (now, applied) = (self.clock.mono(), self.applied_index());
        self.with_image(|image| self.heartbeats.borrow_mut().changed(image, node, now, applied));
    }
}

/// Says that this node is there, again and again.
async fn beat(quorum: Rc<MetadataQuorum>) {
    while !quorum.has_failed() {
        if !quorum.wants_shut_down.get() {
            quorum.give_up_damaged().await;
        }
        let answer = match quorum.heartbeat() {
            _ if quorum.has_no_directory() => None,
            Some(heartbeat) => quorum.say(&heartbeat).await,
            None => {
                quorum.register_again().await;
                None
            }
        };
        quorum.answered.set(answer);
        let is_waiting = quorum.wants_shut_down.get() || answer.is_none_or(|answer| answer.is_fenced);
        let interval = quorum.config.broker_heartbeat_interval;
        let pause = if is_waiting { interval.min(HURRIED_INTERVAL) } else { interval };
        wait(&quorum.beating, pause).await;
    }
}

/// Carries out what is due, while this node leads.
pub async fn look(quorum: Rc<MetadataQuorum>) {
    while !quorum.has_failed() {
        wait(&quorum.looking, LOOK_INTERVAL).await;
        if !quorum.is_leading() || quorum.due().is_empty() {
            continue;
        }
        let Ok(_turn) = quorum.turn().acquire_permit(1).await else { return };
        if !quorum.is_leading() {
            continue;
        }
        for (node, broker_epoch, change) in quorum.due() {
            if let Err(error) = quorum.change_node((node, broker_epoch), &change).await {
                tracing::warn!(node = node.0, ?change, %error, "what became of a node was not committed");
                break;
            }
        }
    }
}

async fn wait(signal: &Signal, time_max: Duration) {
    select(pin!(signal.notified()), pin!(glommio::timer::sleep(time_max))).await;
}
