//! What a start asks of the quorum before partitions are opened: to be caught up, and to be registered.

use crate::cluster::encoding::encode;
use crate::cluster::image::Image;
use crate::cluster::quorum::event::ProposalRejected;
use crate::cluster::quorum::members::{ChangeRejected, MemberChange, PeerId};
use crate::cluster::record::{Node, Record};
use crate::cluster::registration::{RegistrationRefused, Start, is_registered, register};
use crate::codec::control::{
    Answer, Doubtful, Found, LogsFound, Question, QuestionKind, Registered, Registration, decode_registered,
    encode_registered,
};
use crate::codec::error_code::ErrorCode;
use crate::shard::peers::Peers;
use crate::shard::peers::forwarding::question;
use crate::shard::quorum::{CommitError, MetadataQuorum};
use crate::shard::restoring::{is_doubt_to_be_told, is_to_be_told};
use crate::shard::{Shard, doubts};
use crate::types::limits::PEER_PARTITIONS_MAX;
use crate::types::{NodeId, TopicId, TopicPartition, Uuid};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Partitions that a registration may say the log directory of: as many as a frame holds.
const FOUND_MAX: usize = 25_000;

fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::RequestTimedOut | ErrorCode::NotController | ErrorCode::DuplicateBrokerRegistration
    )
}

/// Why a node is not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(transparent)]
    Refused(#[from] RegistrationRefused),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("{0}")]
    Leader(String),
}

impl MetadataQuorum {
    /// Until everything that this node had applied before it was started is applied again: of what its own log has it
    /// cannot know that it was committed before others say so. Ends with the image to recover logs by, and the topics
    /// that are gone from it.
    pub async fn catch_up(&self) -> Result<(Image, BTreeSet<TopicId>), CommitError> {
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            let is_known = match self.peers() {
                _ if self.has_failed() => return Err(CommitError::Failed),
                _ if self.is_leading() => true,
                None => return Err(CommitError::Refused(ProposalRejected::NotLeader { leader: None })),
                Some(peers) => {
                    let question = question(QuestionKind::AppliedIndex, self.me());
                    let asked = peers.ask_leader(&question, &[], true).await;
                    // Of an earlier term it may be one who leads no more, and does not know it. What this node had
                    // applied was committed in a term that it had flushed.
                    let is_current = |answer: &Answer| answer.term >= self.term();
                    asked.is_ok_and(|(answer, _)| is_current(&answer) && self.applied.get() >= answer.index)
                }
            };
            if is_known {
                let early = self.early.borrow();
                return Ok((early.image.clone(), early.deleted.clone()));
            }
            glommio::timer::sleep(PAUSE).await;
        }
    }

    /// Sees to it that the metadata say what this node is now, and that it is a member of the quorum. Ends with the
    /// image that has it: the one to open partitions by, before this is [attached](MetadataQuorum::attach).
    pub async fn register(self: &Rc<Self>, start: Start) -> Result<Image, RegisterError> {
        const PAUSE: Duration = Duration::from_millis(100);
        loop {
            let is_known = self.with_image(|image| is_registered(image, &start.node));
            if is_known && self.quorum.borrow().members().contains(self.me()) {
                if let Doubtful::Partitions(told) = &start.doubtful {
                    self.told_doubtful.borrow_mut().extend(told);
                }
                // What it lacked then it may have by now, once it has to register another time.
                let (logs, doubtful) = (LogsFound::Damaged(Vec::new()), Doubtful::Partitions(Vec::new()));
                let start = Start { logs, doubtful, ..start };
                assert!(self.started.replace(Some(start)).is_none(), "a process starts once");
                let mut early = self.early.borrow_mut();
                early.since = Some(VecDeque::new());
                return Ok(early.image.clone());
            }
            self.register_once(&start).await?;
            if !self.is_leading() {
                glommio::timer::sleep(PAUSE).await;
            }
        }
    }

    /// Replicas of this node are damaged, or may lack their end, that others count it for having: it registers anew,
    /// without them. One try; the next heartbeat comes with the next one.
    pub(super) async fn give_up_damaged(&self) {
        let Some(shard) = self.attached() else { return };
        let Some(before) = self.started.borrow().clone() else { return };
        if self.has_registered_anew(&before) || !self.with_image(|image| is_registered(image, &before.node)) {
            return; // Somebody else may have taken its place.
        }
        let me = self.me().node();
        let (damaged, doubtful) = self.with_image(|image| {
            let is_told = |id: TopicPartition, stated| is_to_be_told(image, me, id, stated);
            let damaged = shard.damaged_on_node.borrow().clone();
            let damaged = damaged.into_iter().filter(|(id, stated)| is_told(*id, *stated));
            let doubtful = shard.doubtful_on_node.borrow().clone();
            let doubtful = doubtful.into_iter().filter(|id| is_doubt_to_be_told(image, me, *id));
            // Of more than a message names the others come next.
            let damaged: Vec<_> = damaged.map(|(id, _)| id).take(PEER_PARTITIONS_MAX).collect();
            (damaged, doubtful.take(PEER_PARTITIONS_MAX).collect::<Vec<_>>())
        });
        if damaged.is_empty() && doubtful.is_empty() {
            return self.doubts_are_known(&shard);
        }
        tracing::warn!(
            damaged = damaged.len(),
            doubtful = doubtful.len(),
            "replicas that are damaged, or may lack their end, count no more: this node registers anew without them"
        );
        let incarnation = {
            let mut anew = self.anew.borrow_mut();
            let (incarnation, told) = anew.get_or_insert_with(|| (Uuid::new_v4(), doubtful.clone()));
            // Any of the tries may be the one that is heard.
            told.retain(|id| doubtful.contains(id));
            *incarnation
        };
        let node = Node { incarnation, ..before.node.clone() };
        let (logs, doubtful) = (LogsFound::Damaged(damaged), Doubtful::Partitions(doubtful));
        let start = Start { node, logs, doubtful, ..before.clone() };
        if let Err(error) = self.register_once(&start).await {
            tracing::warn!(%error, "damaged replicas still count: the node cannot register anew");
        }
        self.has_registered_anew(&before);
    }

    /// Goes on as the new registration once that is committed, however late.
    fn has_registered_anew(&self, before: &Start) -> bool {
        let Some((incarnation, told)) = self.anew.borrow().clone() else { return false };
        let node = Node { incarnation, ..before.node.clone() };
        if !self.with_image(|image| is_registered(image, &node)) {
            return false;
        }
        self.anew.replace(None);
        // What was damaged then may be well again when it registers another time.
        let (logs, doubtful) = (LogsFound::Damaged(Vec::new()), Doubtful::Partitions(Vec::new()));
        self.started.replace(Some(Start { node, logs, doubtful, ..before.clone() }));
        if let Some(shard) = self.attached() {
            shard.doubtful_on_node.borrow_mut().retain(|id| !told.contains(id));
        }
        self.told_doubtful.borrow_mut().extend(told);
        true
    }

    /// Every replica that may lack its end is one that the metadata do not count, or nobody else has more of it.
    pub(super) fn doubts_are_known(&self, shard: &Rc<Shard>) {
        let mut known = self.told_doubtful.take();
        known.extend(shard.doubtful_on_node.take());
        if known.is_empty() {
            return;
        }
        for store in shard.stores.iter().filter(|store| !store.is_offline()) {
            store.spawn(doubts::forget(store.clone(), known.clone()));
        }
    }

    /// One try; that it came to nothing for now is no error.
    pub(super) async fn register_once(&self, start: &Start) -> Result<(), RegisterError> {
        // What this process knows by now.
        let known = self.with_image(|image| image.node(start.node.id).map(|node| node.broker_epoch));
        let replaces = known.max(self.told.get());
        let start = Start { replaces, ..start.clone() };
        match self.peers() {
            Some(peers) if !self.is_leading() => {
                // What is wrong with it is said here, as far as it is known here.
                self.registration(&Start { replaces: known, ..start.clone() })?;
                self.register_with(&peers, &start).await
            }
            peers => {
                let Ok(_turn) = self.turn.acquire_permit(1).await else {
                    return Err(CommitError::Failed.into());
                };
                let records = self.registration(&start)?;
                match self.commit_all(records).await {
                    // Somebody else leads by now, or nobody.
                    Err(error) if peers.is_some() && is_passing(error.code()) => Ok(()),
                    done => Ok(done?),
                }
            }
        }
    }

    /// What a start adds to the metadata as they are here.
    fn registration(&self, start: &Start) -> Result<Vec<Record>, RegistrationRefused> {
        let defaults = self.topic_defaults();
        self.with_image(|image| register(image, start, &defaults, self.cluster()))
    }

    /// Asks whoever leads to register this node; that nobody could be asked is no error.
    async fn register_with(&self, peers: &Peers, start: &Start) -> Result<(), RegisterError> {
        let Start { node, found, logs, doubtful, replaces } = start;
        let payload = encode(&[Record::NodeRegistered(node.clone())]);
        // Only of those whose directory is not stated yet.
        let is_stated = |id: &TopicPartition| {
            let stated = |image: &Image| image.partition(*id)?.replica_on(node.id)?.directory;
            self.with_image(stated).is_some()
        };
        // Nor of a node with one directory, which is not stated at all.
        let has_several = !node.log_directories.is_empty();
        let found = found.iter().filter(|(partition, _)| has_several && !is_stated(partition));
        let found =
            found.map(|(partition, directory)| Found { partition: *partition, directory: *directory });
        let found: Vec<Found> = found.collect();
        if found.len() > FOUND_MAX {
            let reason =
                "too many partitions whose log directory is not stated yet: start it with one of them first";
            return Err(RegisterError::Leader(reason.to_owned()));
        }
        let logs = match logs {
            // Than so many no frame holds: what cannot be said is not believed.
            LogsFound::Damaged(damaged) if damaged.len() > PEER_PARTITIONS_MAX => LogsFound::Empty,
            logs => logs.clone(),
        };
        let (node, incarnation) = (node.id, node.incarnation);
        let doubtful = match doubtful {
            Doubtful::Partitions(some) if some.len() > PEER_PARTITIONS_MAX => Doubtful::All,
            doubtful => doubtful.clone(),
        };
        let registration = Some(Registration { node, incarnation, logs, doubtful, replaces: *replaces });
        let question = Question { found, registration, ..question(QuestionKind::Register, self.me()) };
        match peers.ask_leader(&question, &payload, true).await {
            Ok((answer, payload)) if answer.error != 0 => {
                if let Ok(registered) = decode_registered(&payload) {
                    self.told.set(Some(registered.broker_epoch));
                }
                let code = ErrorCode::from_wire(answer.error).unwrap_or(ErrorCode::UnknownServerError);
                if !is_passing(code) {
                    return Err(RegisterError::Leader(answer.message));
                }
                tracing::info!(reason = answer.message, "waiting to be registered");
            }
            Ok(_) => {}
            Err(_) => tracing::info!("waiting for the metadata quorum: nobody leads it, or can be reached"),
        }
        Ok(())
    }

    /// What another process that would replace a registration is told of it.
    pub fn current_registration(&self, node: NodeId) -> Vec<u8> {
        let current = self.with_image(|image| {
            let Node { incarnation, broker_epoch, .. } = *image.node(node)?;
            Some(Registered { incarnation, broker_epoch, is_accepted: false })
        });
        current.map_or_else(Vec::new, |current| encode_registered(&current))
    }

    /// Registers another node, as the leader, and makes it a member.
    pub async fn register_other(
        self: &Rc<Self>,
        peer: PeerId,
        start: &Start,
    ) -> Result<(), (ErrorCode, String)> {
        let Node { id, .. } = start.node;
        let away = || (ErrorCode::NotController, "this node does not lead the quorum".to_owned());
        let Ok(_turn) = self.turn.acquire_permit(1).await else { return Err(away()) };
        if !self.is_leading() {
            return Err(away());
        }
        let failed = |error: CommitError| (error.code(), error.to_string());
        let members = self.quorum.borrow().members().clone();
        if !members.contains(peer) {
            let checked = members.check(MemberChange::AddObserver(peer));
            if let Err(ChangeRejected::OtherDirectory(_)) = checked {
                let reason = format!(
                    "node {} is a member of the quorum with another data directory: restore that one, or remove the \
                     member first (`odradek cluster voter remove`)",
                    id.0
                );
                return Err((ErrorCode::InvalidRequest, reason));
            }
            checked.map_err(|error| (ErrorCode::InvalidRequest, error.to_string()))?;
        }
        let records = self.registration(start).map_err(|error| match error {
            // It has not heard of the newest one yet, or a copy of what it has asked comes late.
            RegistrationRefused::ReplacesAnother(_) => {
                (ErrorCode::DuplicateBrokerRegistration, error.to_string())
            }
            error => (ErrorCode::InvalidRequest, error.to_string()),
        })?;
        self.commit_all(records).await.map_err(failed)?;
        self.node_changed(id);
        if !members.contains(peer) {
            self.change_members(MemberChange::AddObserver(peer)).await.map_err(failed)?;
            tracing::info!(node = id.0, "a node has joined the metadata quorum as an observer");
        }
        Ok(())
    }
}
