//! What leaders decide, carried out: frames to followers, proposals, answers.

use crate::replication::log::{BATCH_SIZE, Batch, offset};
use crate::replication::network::Way;
use crate::replication::node::Role;
use crate::replication::scene::{Scene, index, number_of, partition_id};
use crate::replication::settings::{MS, Mistake, check};
use odradek::codec::control::{
    AlterOutcome, AlterPartitions, AlterRefusal, AlteredPartition, PartitionProposal,
};
use odradek::codec::peer_message::{PEER_VERSION_MAX, PeerMessage};
use odradek::codec::replication::{
    Acknowledgement, Acknowledgements, Alignment, AlignmentOutcome, Append, Refusal, Statements,
};
use odradek::log::epochs::LeaderEpochs;
use odradek::replication::divergence::FirstBatch;
use odradek::replication::in_sync::{Committed, Proposal};
use odradek::replication::leader::{AckRejected, Effect, Event, ToSend};
use odradek::replication::produces::{Acks, ProduceId, ProduceOutcome};
use odradek::replication::window::{Lane, Turns, Window};
use odradek::types::{NodeId, PartitionEpoch};

/// Among those who append: a coordinator, or who writes for one.
pub const COORDINATOR: usize = usize::MAX;

/// What becomes of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Judged {
    New(Batch),
    /// It was appended before, up to there.
    There {
        end: u64,
    },
}

/// Batches in one frame, of one partition.
const BATCHES_MAX: usize = 8;

/// A connection to a follower.
pub struct Feed {
    pub connection: usize,
    window: Window,
    turns: Turns<usize>,
    /// A read from disk is under way.
    is_reading: bool,
}

impl Scene {
    /// One event of a leader, and what follows from it.
    pub fn lead(&mut self, id: usize, partition: usize, event: Event<'_>) {
        let mut effects = Vec::new();
        let Some(replica) = self.nodes[id].replicas.get_mut(&partition) else { return };
        let Role::Leader(leader) = &mut replica.role else { return };
        leader.step(event, &mut effects);
        self.carry_out_lead(id, partition, effects);
    }

    pub fn carry_out_lead(&mut self, id: usize, partition: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Align { replica, alignment } => self.align(id, index(replica), alignment),
                Effect::Send { replica } => self.want_to_send(id, partition, index(replica)),
                Effect::AdvanceHighWatermark(to) => {
                    self.world.note(format_args!("node {id} partition {partition} high watermark {to}"));
                    self.check_leader_high_watermark(id, partition, to.get());
                }
                Effect::AdvanceLogStart(to) => {
                    self.world.count("leader: log start moves");
                    self.nodes[id].replica(partition).log.forget_epochs(to.get());
                    self.world.note(format_args!("node {id} partition {partition} log start {to}"));
                }
                Effect::MoveLogStart(to) => {
                    self.nodes[id].replica(partition).log.move_start(to.get());
                    self.want_flush(id);
                }
                Effect::Propose(proposal) => self.propose(id, partition, proposal),
                Effect::Answer { produce, outcome } => self.answer(id, partition, produce, outcome),
                Effect::RejectAck { reason, .. } => match reason {
                    AckRejected::Epoch(_) => self.world.count("ack rejected: epoch"),
                    AckRejected::Session => self.world.count("ack rejected: session"),
                    AckRejected::NoReplica(_) | AckRejected::BeyondSent { .. } => {
                        if !self.makes(Mistake::AckBeforeFlush) {
                            self.world.finding(check::PROTOCOL, format_args!("an acknowledgement: {reason}"));
                        }
                    }
                },
            }
        }
    }

    // --- Produce

    /// A batch of a client. Its answer, if it has one at once.
    pub fn append(
        &mut self,
        id: usize,
        partition: usize,
        batch: Batch,
        acks: Option<Acks>,
        client: (usize, u64),
    ) -> Result<(), &'static str> {
        let checks_sequence = !self.makes(Mistake::DuplicateStored);
        let node = &mut self.nodes[id];
        let Some(replica) = node.replicas.get_mut(&partition) else { return Err("produce: NOT_LEADER") };
        let Role::Leader(leader) = &mut replica.role else { return Err("produce: NOT_LEADER") };
        if acks.is_some_and(|acks| leader.admit(acks).is_err()) {
            return Err("produce: NOT_ENOUGH_REPLICAS");
        }
        let known = replica.log.producer(batch.producer).filter(|_| batch.producer > 0 && checks_sequence);
        match known {
            Some((sequence, end)) if sequence == batch.sequence => {
                self.world.count("produce: sent again and already there");
                self.append_judged(id, partition, Judged::There { end }, acks, client);
                Ok(())
            }
            Some((sequence, _)) if sequence > batch.sequence => Err("produce: DUPLICATE_SEQUENCE"),
            Some((sequence, _)) if batch.sequence != sequence + 1 => Err("produce: OUT_OF_ORDER"),
            None if batch.producer > 0 && batch.sequence > 0 && checks_sequence => {
                Err("produce: OUT_OF_ORDER")
            }
            _ => {
                self.append_judged(id, partition, Judged::New(batch), acks, client);
                Ok(())
            }
        }
    }

    /// What a leader has judged is appended. Whoever has sent it is answered once it is as safe as it is to be.
    pub fn append_judged(
        &mut self,
        id: usize,
        partition: usize,
        judged: Judged,
        acks: Option<Acks>,
        client: (usize, u64),
    ) {
        let node = &mut self.nodes[id];
        let produce = ProduceId(node.next_produce);
        node.next_produce += 1;
        let replica = node.replicas.get_mut(&partition).expect("it has one");
        let Role::Leader(leader) = &mut replica.role else { unreachable!("it leads") };
        let epoch = leader.epoch();
        let mut effects = Vec::new();
        let end = match judged {
            Judged::There { end } => end,
            Judged::New(mut batch) => {
                batch.base = replica.log.end();
                batch.epoch = epoch.0;
                replica.log.append(batch);
                leader.step(Event::Appended { log_end: offset(batch.end()) }, &mut effects);
                batch.end()
            }
        };
        if let Some(acks) = acks {
            leader.park(produce, offset(end), acks, &mut effects);
            self.nodes[id].produces.insert(produce.0, (client.0, client.1, end));
        }
        self.carry_out_lead(id, partition, effects);
        if self.makes(Mistake::LeaderBeforeFlush) {
            self.lead(id, partition, Event::Flushed { flushed_end: offset(end) });
        }
        // The write is issued a little later, of all that is there by then.
        let time = self.world.below(2 * MS);
        self.after_at(time, id, move |scene| {
            let Some(replica) = scene.nodes[id].replicas.get(&partition) else { return };
            if matches!(&replica.role, Role::Leader(leader) if leader.epoch() == epoch) {
                let end = offset(replica.log.end());
                scene.lead(id, partition, Event::Issued { end });
            }
            scene.want_flush(id);
        });
    }

    fn answer(&mut self, id: usize, partition: usize, produce: ProduceId, outcome: ProduceOutcome) {
        // Before it may hear of another epoch, in the same instant.
        let is_passed_over = self.is_passed_over(id, partition);
        // An answer may be there before its request is noted down.
        self.after_at(0, id, move |scene| {
            let Some((client, number, end)) = scene.nodes[id].produces.remove(&produce.0) else { return };
            let result = match outcome {
                ProduceOutcome::Done => Ok(end),
                ProduceOutcome::NotEnoughReplicasAfterAppend => {
                    Err("produce: NOT_ENOUGH_REPLICAS_AFTER_APPEND")
                }
                ProduceOutcome::NotLeader => Err("produce: NOT_LEADER"),
            };
            if result.is_ok() && (is_passed_over || scene.is_passed_over(id, partition)) {
                return; // An unclean election has ended what it knows of.
            }
            scene.check_answer(id, partition, client, result.ok());
            if client == COORDINATOR {
                return scene.is_written(number, outcome);
            }
            scene.answer_client(client, number, result);
        });
    }

    // --- Followers

    /// A follower has connected.
    pub fn greeted(&mut self, id: usize, follower: usize, connection: usize) {
        let window = Window::new(self.settings.window);
        let feed = Feed { connection, window, turns: Turns::new(), is_reading: false };
        let newer = |known: &Feed| known.connection > connection;
        if !self.nodes[id].feeds.get(&follower).is_some_and(newer) {
            self.nodes[id].feeds.insert(follower, feed);
        }
    }

    pub fn stated(&mut self, id: usize, connection: usize, statements: &Statements) {
        for statement in &statements.partitions {
            let partition = number_of(statement.partition);
            let replica = statements.node;
            let now = self.mono();
            let found = self.nodes[id].replicas.get(&partition);
            match found.map(|replica| (&replica.role, &replica.log.epochs)) {
                Some((Role::Leader(leader), epochs)) => {
                    let (broker_epoch, epochs) = (statements.broker_epoch, epochs.clone());
                    let event = Event::Stated { replica, broker_epoch, statement, epochs: &epochs, now };
                    if leader.knows_newer(&event) {
                        self.world.count("statement: came late");
                        continue;
                    }
                    self.nodes[id].heard_on.insert((partition, index(replica)), connection);
                    let known =
                        epochs.entries().iter().map(|entry| (entry.epoch.0, entry.start_offset.get()));
                    let known: Vec<_> = known.collect();
                    self.world
                        .note(format_args!("node {id} has {known:?} and hears {replica:?}: {statement:?}"));
                    let (mut statement, mut epochs) = (statement.clone(), epochs);
                    if self.makes(Mistake::EpochsNotCompared) {
                        statement.epochs.clear();
                        statement.log_start = offset(self.nodes[id].replica(partition).log.start());
                        epochs = LeaderEpochs::new();
                    }
                    let event =
                        Event::Stated { replica, broker_epoch, statement: &statement, epochs: &epochs, now };
                    self.lead(id, partition, event);
                }
                None | Some((Role::Idle | Role::Follower { .. }, _)) => {
                    self.world.count("statement: NotLeader");
                    let alignment = Alignment {
                        partition: statement.partition,
                        leader_epoch: statement.leader_epoch,
                        session: statement.session,
                        outcome: AlignmentOutcome::Refused(Refusal::NotLeader),
                    };
                    self.say(connection, Way::ToFollower, &PeerMessage::Alignments(vec![alignment]), &[]);
                }
            }
        }
    }

    fn align(&mut self, id: usize, follower: usize, alignment: Alignment) {
        let (partition, outcome) = (alignment.partition.partition, alignment.outcome);
        let session = alignment.session;
        self.world
            .note(format_args!("node {id} tells {follower}, session {session} of {partition}: {outcome:?}"));
        match alignment.outcome {
            AlignmentOutcome::Refused(Refusal::FencedLeaderEpoch) => {
                self.world.count("statement: FencedLeaderEpoch");
            }
            AlignmentOutcome::Refused(Refusal::UnknownLeaderEpoch) => {
                self.world.count("statement: UnknownLeaderEpoch");
            }
            _ => {}
        }
        if let Some(feed) = self.heard_feed(id, number_of(alignment.partition), follower) {
            let connection = feed.connection;
            self.say(connection, Way::ToFollower, &PeerMessage::Alignments(vec![alignment]), &[]);
        }
    }

    pub fn acknowledged(&mut self, id: usize, connection: usize, acks: &Acknowledgements) {
        let follower = index(acks.node);
        for ack in &acks.partitions {
            let (replica, broker_epoch) = (acks.node, acks.broker_epoch);
            let event = Event::Acknowledged { replica, broker_epoch, acknowledgement: ack, now: self.mono() };
            self.lead(id, number_of(ack.partition), event);
        }
        let feed = self.nodes[id].feeds.get_mut(&follower).filter(|feed| feed.connection == connection);
        if let Some(feed) = feed {
            if let Err(error) = feed.window.released(acks.released_bytes) {
                self.world.finding(check::PROTOCOL, format_args!("{error}"));
            }
            self.pump(id, follower);
        }
    }

    /// The connection of a follower, if it is the one on which it was heard of this partition.
    fn heard_feed(&mut self, id: usize, partition: usize, follower: usize) -> Option<&mut Feed> {
        let node = &mut self.nodes[id];
        let heard_on = node.heard_on.get(&(partition, follower))?;
        let feed = node.feeds.get_mut(&follower).filter(|feed| feed.connection == *heard_on);
        if feed.is_none() {
            self.world.count("statement: over a connection that is no more");
        }
        feed
    }

    fn want_to_send(&mut self, id: usize, partition: usize, follower: usize) {
        if let Some(feed) = self.heard_feed(id, partition, follower) {
            feed.turns.want(partition, Lane::Tail);
            self.pump(id, follower);
        }
    }

    /// Sends what there is room for, of many partitions in one frame: the tail first.
    fn pump(&mut self, id: usize, follower: usize) {
        let mut frame = (Vec::new(), Vec::new());
        while let Some(feed) = self.nodes[id].feeds.get_mut(&follower) {
            let Some(partition) = feed.turns.next(Lane::Tail) else { break };
            let Some(to_send) = self.next_to_send(id, partition, follower) else { continue };
            let tail_start = self.nodes[id].replica(partition).log.end().saturating_sub(self.settings.tail);
            if to_send.from < to_send.to && to_send.from.get() < tail_start {
                let feed = self.nodes[id].feeds.get_mut(&follower).expect("it is there");
                feed.turns.want(partition, Lane::CatchUp);
            } else if !self.add_batches(id, partition, follower, to_send, Lane::Tail, &mut frame) {
                break;
            }
        }
        self.send_appends(id, follower, frame);
        self.catch_up(id, follower);
    }

    /// One read from disk at a time.
    fn catch_up(&mut self, id: usize, follower: usize) {
        let Some(feed) = self.nodes[id].feeds.get_mut(&follower) else { return };
        if feed.is_reading {
            return;
        }
        let Some(partition) = feed.turns.next(Lane::CatchUp) else { return };
        feed.is_reading = true;
        let connection = feed.connection;
        self.world.count("leader: catch-up from disk");
        let time = self.world.between(MS, if self.is_calm { 5 * MS } else { 30 * MS });
        self.after_at(time, id, move |scene| {
            let feed = scene.nodes[id].feeds.get_mut(&follower).filter(|feed| feed.connection == connection);
            let Some(feed) = feed else { return };
            feed.is_reading = false;
            let Some(to_send) = scene.next_to_send(id, partition, follower) else {
                return scene.pump(id, follower);
            };
            let mut frame = (Vec::new(), Vec::new());
            if scene.add_batches(id, partition, follower, to_send, Lane::CatchUp, &mut frame) {
                scene.send_appends(id, follower, frame);
                scene.pump(id, follower);
            }
        });
    }

    fn next_to_send(&mut self, id: usize, partition: usize, follower: usize) -> Option<ToSend> {
        let replica = NodeId(follower as i32);
        match &self.nodes[id].replicas.get(&partition)?.role {
            Role::Leader(leader) => leader.to_send(replica),
            Role::Idle | Role::Follower { .. } => None,
        }
    }

    /// As many batches as there is room for. `false`: there was none, and its turn comes first once there is.
    fn add_batches(
        &mut self,
        id: usize,
        partition: usize,
        follower: usize,
        to_send: ToSend,
        lane: Lane,
        frame: &mut (Vec<Append>, Vec<u8>),
    ) -> bool {
        let node = &mut self.nodes[id];
        let feed = node.feeds.get_mut(&follower).expect("it is there");
        let replica = node.replicas.get_mut(&partition).expect("it has one");
        let Role::Leader(leader) = &mut replica.role else { return true };
        let batches = replica.log.memory.from_offset(leader.reads_at(to_send.from).get());
        let (mut payload, mut to) = (Vec::new(), to_send.from.get());
        if let Some(first) = batches.first().filter(|first| to_send.from < to_send.to && first.base < to) {
            // It states again, and begins with the whole batch.
            leader.begins_within(FirstBatch { within: to_send.from, base_offset: offset(first.base) });
            let connection = feed.connection;
            self.world.count("leader: a log begins within a batch");
            self.disconnect(connection);
            return false;
        }
        for batch in batches.iter().take(BATCHES_MAX) {
            let size = (payload.len() + BATCH_SIZE) as u64;
            let has_room = match payload.is_empty() {
                true => feed.window.admits(lane, size),
                false => size <= feed.window.room(lane),
            };
            if batch.end() > to_send.to.get() || !has_room {
                break;
            }
            batch.encode(&mut payload);
            to = batch.end();
        }
        if to_send.from < to_send.to && payload.is_empty() {
            self.world.count("leader: no room in the window");
            feed.turns.put_back(partition, lane);
            return false;
        }
        feed.window.sent(payload.len() as u64);
        leader.sent(NodeId(follower as i32), ToSend { to: offset(to), ..to_send });
        let append = Append {
            partition: partition_id(partition),
            leader_epoch: leader.epoch(),
            session: to_send.session,
            base_offset: to_send.from,
            high_watermark: to_send.high_watermark,
            log_start: to_send.log_start,
            size: payload.len() as u32,
            is_throttled: false,
        };
        if to < to_send.to.get() {
            feed.turns.want(partition, Lane::Tail);
        }
        frame.0.push(append);
        frame.1.extend(payload);
        if self.makes(Mistake::SentTakenForAcked) {
            self.after_at(0, id, move |scene| scene.take_sent_for_acked(id, partition, follower, append, to));
        }
        true
    }

    fn send_appends(&mut self, id: usize, follower: usize, (appends, payload): (Vec<Append>, Vec<u8>)) {
        if appends.is_empty() {
            return;
        }
        if let Some(feed) = self.nodes[id].feeds.get(&follower) {
            let connection = feed.connection;
            self.say(connection, Way::ToFollower, &PeerMessage::Appends(appends), &payload);
        }
    }

    pub fn say(&mut self, connection: usize, way: Way, message: &PeerMessage, payload: &[u8]) {
        let mut frame = Vec::new();
        message.encode(PEER_VERSION_MAX, [payload], &mut frame);
        frame.extend_from_slice(payload);
        self.send(connection, way, frame);
    }

    // --- Who is in sync

    fn propose(&mut self, id: usize, partition: usize, proposal: Proposal) {
        let replica = self.nodes[id].replica(partition);
        if replica.proposed.replace(proposal.clone()) == Some(proposal.clone()) {
            self.world.count("leader: proposes again");
        }
        let node = &self.nodes[id];
        let Some(broker_epoch) = node.broker_epoch else { return };
        self.world.note(format_args!("node {id} partition {partition} proposes {proposal:?}"));
        let asked = PartitionProposal {
            partition: partition_id(partition),
            leader_epoch: proposal.leader_epoch,
            partition_epoch: proposal.partition_epoch,
            in_sync: proposal.in_sync.clone(),
        };
        let message = AlterPartitions { node: node.id, broker_epoch, partitions: vec![asked] };
        self.ask_controller(id, &PeerMessage::AlterPartitions(message));
        let Role::Leader(leader) = &self.nodes[id].replica(partition).role else { return };
        let committed = leader.in_sync().committed().clone();
        let partition_epoch = PartitionEpoch(proposal.partition_epoch.0 + 1);
        let in_sync: Vec<NodeId> = proposal.in_sync.iter().map(|(node, _)| *node).collect();
        if self.makes(Mistake::ShrunkWithoutController) && in_sync.len() < committed.len() {
            self.lead(id, partition, Event::IsrCommitted(Committed { partition_epoch, in_sync }));
        } else if self.makes(Mistake::MaximalNotUsed) && in_sync.len() > committed.len() {
            let in_sync = committed.into_iter().collect();
            self.lead(id, partition, Event::IsrCommitted(Committed { partition_epoch, in_sync }));
        }
    }

    /// The controller's answers.
    pub fn altered(&mut self, id: usize, altered: &[AlteredPartition]) {
        for altered in altered {
            let partition = number_of(altered.partition);
            let replica = self.nodes[id].replicas.get(&partition);
            if replica.is_none_or(|replica| replica.epoch != altered.leader_epoch.0) {
                continue;
            }
            match &altered.outcome {
                AlterOutcome::Committed { partition_epoch, in_sync } => {
                    let in_sync = in_sync.clone();
                    let committed = Committed { partition_epoch: *partition_epoch, in_sync };
                    self.lead(id, partition, Event::IsrCommitted(committed));
                }
                // News are due, or another registration.
                AlterOutcome::Refused {
                    reason: AlterRefusal::FencedLeaderEpoch | AlterRefusal::InvalidUpdateVersion,
                    ..
                } => {}
                AlterOutcome::Refused { partition_epoch, .. } => {
                    let (partition_epoch, now) = (*partition_epoch, self.mono());
                    self.lead(id, partition, Event::ProposalRefused { partition_epoch, now });
                    if let Role::Leader(leader) = &self.nodes[id].replica(partition).role
                        && leader.in_sync().in_vain().count() > 0
                    {
                        self.world.count("leader: a refused proposal is waited for");
                    }
                }
            }
        }
    }

    // --- Mistakes

    fn take_sent_for_acked(&mut self, id: usize, partition: usize, follower: usize, sent: Append, to: u64) {
        let Some(replica) = self.nodes[id].replicas.get(&partition) else { return };
        let Role::Leader(leader) = &replica.role else { return };
        let Some(session) = leader.follower(NodeId(follower as i32)).and_then(|progress| progress.session)
        else {
            return;
        };
        let acknowledgement = Acknowledgement {
            partition: partition_id(partition),
            leader_epoch: sent.leader_epoch,
            session: sent.session,
            flushed_end: offset(to),
            log_start: sent.log_start,
        };
        let broker_epoch = session.broker_epoch;
        let (replica, now) = (NodeId(follower as i32), self.mono());
        let event = Event::Acknowledged { replica, broker_epoch, acknowledgement: &acknowledgement, now };
        self.lead(id, partition, event);
    }
}
