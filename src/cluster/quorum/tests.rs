use std::collections::BTreeSet;

use super::frame::{FOUNDING_INDEX, FrameWriter, scan};
use super::message::MessageKind;
use super::*;
use crate::cluster::log_entry::{EntrySequence, encode_entry};
use crate::types::{NodeId, TopicId};

const CLUSTER: Uuid = Uuid::from_u128(0xC1);
const ELECTION_TICKS: usize = 10;

fn peer(node: i32) -> PeerId {
    PeerId::new(NodeId(node), 0)
}

fn topic(number: u128) -> Record {
    Record::TopicCreated { topic: TopicId(Uuid::from_u128(number)), name: format!("topic-{number}") }
}

fn settings(seed: u64) -> Settings {
    Settings { election_ticks: ELECTION_TICKS, heartbeat_ticks: 2, seed, entries_retained: 2 }
}

/// A file in memory that is flushed when the test says so.
struct Disk {
    bytes: Vec<u8>,
    writer: FrameWriter,
}

impl Disk {
    fn of(bytes: Vec<u8>, me: PeerId) -> (Disk, Recovered) {
        let recovered = scan(&bytes, me).recovered;
        (Disk { bytes, writer: FrameWriter::new(recovered.next) }, recovered)
    }

    fn founded(members: &Members) -> Vec<u8> {
        let write = Write { hard_state: Snapshot::founding_state(), entries: Vec::new() };
        let founding = Snapshot::founding(members.clone(), &[topic(1000)]);
        FrameWriter::new(EntrySequence::FIRST).replace(&founding, &write).expect("small")
    }

    fn write(&mut self, what: &Written) {
        match what {
            Written::Append(write) => self.bytes.extend(self.writer.append(write).expect("small")),
            Written::Replace { snapshot, write } => {
                self.bytes = self.writer.replace(snapshot, write).expect("small");
            }
        }
    }
}

/// Some nodes whose messages all arrive, and whose flushes all come.
struct Cluster {
    nodes: BTreeMap<PeerId, (Quorum, Disk)>,
    /// Writes of these are not flushed.
    hung: BTreeSet<PeerId>,
    /// Nothing comes from these, or to them.
    away: BTreeSet<PeerId>,
    /// By node, what the test looks at.
    seen: Vec<(PeerId, Effect)>,
}

impl Cluster {
    fn of(voters: &[i32]) -> Cluster {
        let members = Members::voters(voters.iter().copied().map(peer));
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            hung: BTreeSet::new(),
            away: BTreeSet::new(),
            seen: Vec::new(),
        };
        for voter in &members.voters {
            cluster.start(*voter, Disk::founded(&members));
        }
        cluster
    }

    fn start(&mut self, me: PeerId, bytes: Vec<u8>) {
        let (disk, recovered) = Disk::of(bytes, me);
        let mut effects = Vec::new();
        let quorum = Quorum::start(CLUSTER, me, settings(me.raw()), recovered, &mut effects);
        self.nodes.insert(me, (quorum, disk));
        self.carry_out(me, effects);
    }

    fn step(&mut self, node: i32, event: Event) {
        self.step_peer(peer(node), event);
    }

    fn step_peer(&mut self, me: PeerId, event: Event) {
        let mut effects = Vec::new();
        self.nodes.get_mut(&me).expect("it runs").0.step(event, &mut effects);
        self.carry_out(me, effects);
    }

    fn carry_out(&mut self, me: PeerId, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => self.send(message),
                Effect::Persist(persist) if !self.hung.contains(&me) => {
                    if let Some(what) = &persist.what {
                        self.nodes.get_mut(&me).expect("it runs").1.write(what);
                    }
                    persist.then_send.into_iter().for_each(|message| self.send(message));
                    self.step_peer(me, Event::Persisted(persist.number));
                }
                Effect::SnapshotWanted => {
                    self.step_peer(me, Event::SnapshotTaken { records: vec![topic(1000)] });
                }
                other => self.seen.push((me, other)),
            }
        }
    }

    fn send(&mut self, message: Message) {
        let is_lost = self.away.contains(&message.from) || self.away.contains(&message.to);
        if is_lost || !self.nodes.contains_key(&message.to) {
            return;
        }
        let (from, to) = (message.from, message.to);
        let is_snapshot = message.kind() == MessageKind::Snapshot;
        let message = Message::decode(&message.encode()).expect("it is one");
        self.step_peer(to, Event::Received(message));
        if is_snapshot {
            self.step_peer(from, Event::SnapshotSent { to, delivered: true });
        }
    }

    fn tick(&mut self, times: usize) {
        for _ in 0..times {
            for me in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.step_peer(me, Event::Tick);
            }
        }
    }

    /// Makes a node the leader.
    fn elect(&mut self, node: i32) {
        while !self.quorum(node).is_leader() {
            self.step(node, Event::Tick);
        }
    }

    fn quorum(&self, node: i32) -> &Quorum {
        &self.nodes[&peer(node)].0
    }

    fn propose(&mut self, node: i32, number: u64) {
        let event = Event::Propose { ticket: Ticket(number), records: vec![topic(number.into())] };
        self.step(node, event);
    }

    fn change(&mut self, node: i32, number: u64, change: MemberChange) {
        self.step(node, Event::ChangeMembers { ticket: Ticket(number), change });
    }

    fn outcome(&self, number: u64) -> Option<Outcome> {
        self.seen.iter().find_map(|(_, effect)| match effect {
            Effect::Answer { ticket, outcome } if *ticket == Ticket(number) => Some(*outcome),
            _ => None,
        })
    }

    /// The records that a node has applied since it started.
    fn applied(&self, node: i32) -> Vec<Record> {
        let of = |(me, effect): &(PeerId, Effect)| match effect {
            Effect::Apply { records, .. } if *me == peer(node) => records.clone(),
            Effect::Restore { records, .. } if *me == peer(node) => records.clone(),
            _ => Vec::new(),
        };
        self.seen.iter().flat_map(of).collect()
    }
}

#[test]
fn a_quorum_of_one_commits_with_its_own_flush() {
    let mut cluster = Cluster::of(&[1]);
    assert!(cluster.quorum(1).is_leader(), "nobody else could");
    cluster.propose(1, 7);
    assert_eq!(cluster.outcome(7), Some(Outcome::Committed { index: FOUNDING_INDEX + 2 }));
    assert_eq!(cluster.applied(1), [topic(1000), topic(7)]);
    cluster.hung.insert(peer(1));
    cluster.propose(1, 8);
    cluster.tick(50);
    assert_eq!(cluster.outcome(8), None);
    assert!(cluster.quorum(1).is_leader());
}

#[test]
fn a_quorum_of_one_says_nothing_before_its_term_is_flushed() {
    let mut cluster = Cluster::of(&[1]);
    cluster.change(1, 1, MemberChange::AddObserver(peer(2)));
    let bytes = cluster.nodes[&peer(1)].1.bytes.clone();
    // It wins at once, with its own vote; were it to forget that, it would win the same term again.
    let (_, recovered) = Disk::of(bytes, peer(1));
    let mut effects = Vec::new();
    let mut quorum = Quorum::start(CLUSTER, peer(1), settings(1), recovered, &mut effects);
    for _ in 0..10 {
        quorum.step(Event::Tick, &mut effects);
    }
    assert!(quorum.is_leader());
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "{effects:?}");
    let last = effects.iter().filter_map(|effect| match effect {
        Effect::Persist(persist) => Some(persist.number),
        _ => None,
    });
    let last = last.max().expect("its term is written");
    effects.clear();
    quorum.step(Event::Persisted(last), &mut effects);
    quorum.step(Event::Tick, &mut effects);
    quorum.step(Event::Tick, &mut effects);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "{effects:?}");
}

#[test]
fn a_proposal_is_committed_by_a_majority_that_has_flushed_it() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(2);
    cluster.propose(2, 7);
    assert_eq!(cluster.outcome(7), Some(Outcome::Committed { index: FOUNDING_INDEX + 2 }));
    cluster.tick(3);
    for node in [1, 2, 3] {
        assert_eq!(cluster.applied(node), [topic(1000), topic(7)], "node {node}");
    }
    cluster.hung.extend([peer(1), peer(3)]);
    cluster.propose(2, 8);
    assert_eq!(cluster.outcome(8), None, "they have it, and have not flushed it");
    cluster.propose(1, 9);
    let leader = Some(peer(2));
    assert_eq!(cluster.outcome(9), Some(Outcome::Refused(ProposalRejected::NotLeader { leader })));
}

#[test]
fn a_leader_without_a_majority_gives_up_and_does_not_know_what_becomes_of_its_proposals() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.away.insert(peer(1));
    cluster.propose(1, 7);
    cluster.tick(3 * ELECTION_TICKS);
    assert!(!cluster.quorum(1).is_leader());
    assert_eq!(cluster.outcome(7), Some(Outcome::Unknown));
    let elected = |cluster: &Cluster| [2, 3].into_iter().find(|node| cluster.quorum(*node).is_leader());
    let leader = elected(&cluster).expect("the others have one");
    let term = cluster.quorum(leader).term();
    // Who comes back has asked and asked, and disturbs nobody: it was never told that it would win.
    cluster.tick(10 * ELECTION_TICKS);
    cluster.away.clear();
    cluster.tick(2 * ELECTION_TICKS);
    assert_eq!((elected(&cluster), cluster.quorum(1).term()), (Some(leader), term));
    cluster.propose(leader, 8);
    cluster.tick(3);
    assert_eq!(cluster.applied(1), [topic(1000), topic(8)]);
}

#[test]
fn a_leader_whose_disk_does_not_answer_makes_way() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.hung.insert(peer(1));
    cluster.propose(1, 7);
    cluster.tick(5 * ELECTION_TICKS);
    assert!(!cluster.quorum(1).is_leader());
    assert!(cluster.quorum(2).is_leader() || cluster.quorum(3).is_leader());
    assert_eq!(cluster.applied(2), [topic(1000), topic(7)], "the others had it");
}

#[test]
fn leadership_is_handed_over() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.step(1, Event::Transfer(peer(3)));
    assert!(cluster.quorum(3).is_leader());
    assert_eq!(cluster.quorum(1).leader(), Some(peer(3)));
}

#[test]
fn messages_of_another_cluster_or_for_another_directory_are_refused() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    let raft = raft::eraftpb::Message {
        from: peer(3).raw(),
        to: peer(1).raw(),
        term: 99,
        ..raft::eraftpb::Message::default()
    };
    let of = |cluster, to: PeerId, kind: MessageType, commit, index| {
        let mut raft = raft::eraftpb::Message { to: to.raw(), commit, index, ..raft.clone() };
        raft.set_msg_type(kind);
        Event::Received(Message::of(cluster, raft).expect("it is sent"))
    };
    let other = Uuid::from_u128(0xC2);
    cluster.seen.clear();
    cluster.step(1, of(other, peer(1), MessageType::MsgHeartbeat, 0, 0));
    cluster.step(1, of(CLUSTER, PeerId::new(NodeId(1), 1), MessageType::MsgHeartbeat, 0, 0));
    let refused: Vec<Refusal> = cluster
        .seen
        .iter()
        .filter_map(|(_, effect)| match effect {
            Effect::Refused { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(refused, [Refusal::OtherCluster(other), Refusal::OtherPeer(PeerId::new(NodeId(1), 1))]);
    assert!(cluster.quorum(1).is_leader());
    // An answer about entries that were never sent.
    let term = cluster.quorum(1).term();
    let mut lie = raft.clone();
    (lie.term, lie.index) = (term, 1000);
    lie.set_msg_type(MessageType::MsgAppendResponse);
    cluster.step(1, Event::Received(Message::of(CLUSTER, lie).expect("it is sent")));
    assert!(matches!(
        cluster.seen.last(),
        Some((_, Effect::Refused { reason: Refusal::Diverged { index: 1000 }, .. }))
    ));
    // The leader knows this node to be further than it is.
    cluster.step(1, of(CLUSTER, peer(1), MessageType::MsgHeartbeat, 1000, 0));
    let stopped = Effect::Stop(Stop::LogLost { acknowledged: 1000, last: 2 });
    assert_eq!(format!("{:?}", cluster.seen.last().expect("it stops").1), format!("{stopped:?}"));
    cluster.propose(1, 5);
    assert!(matches!(cluster.outcome(5), Some(Outcome::Refused(_))), "it goes on no more");
}

#[test]
fn entries_that_contradict_what_is_committed_are_refused() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.propose(1, 7);
    cluster.tick(3);
    let entry = Entry { term: 50, index: 3, ..Entry::default() };
    let mut raft = raft::eraftpb::Message {
        from: peer(1).raw(),
        to: peer(2).raw(),
        term: 50,
        index: 2,
        log_term: 2,
        entries: vec![entry].into(),
        ..raft::eraftpb::Message::default()
    };
    raft.set_msg_type(MessageType::MsgAppend);
    cluster.step(2, Event::Received(Message::of(CLUSTER, raft).expect("it is sent")));
    assert!(matches!(
        cluster.seen.last(),
        Some((_, Effect::Refused { reason: Refusal::Diverged { index: 3 }, .. }))
    ));
}

/// Found by fuzzing: raft took it for what it has, and what it says of commits with it.
#[test]
fn entries_behind_one_of_no_term_are_refused() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    let mut raft = raft::eraftpb::Message {
        from: peer(1).raw(),
        to: peer(2).raw(),
        term: 50,
        index: 1 << 40,
        commit: 1 << 40,
        ..raft::eraftpb::Message::default()
    };
    raft.set_msg_type(MessageType::MsgAppend);
    cluster.step(2, Event::Received(Message::of(CLUSTER, raft).expect("it is sent")));
    let refused = Refusal::Diverged { index: 1 << 40 };
    assert!(matches!(cluster.seen.last(), Some((_, Effect::Refused { reason, .. })) if *reason == refused));
}

/// A node that never belonged to the quorum.
fn join(cluster: &mut Cluster, leader: i32, node: i32) {
    cluster.start(peer(node), Vec::new());
    cluster.change(leader, 100 + node as u64, MemberChange::AddObserver(peer(node)));
    cluster.tick(4);
}

#[test]
fn a_node_joins_by_a_snapshot_follows_and_gets_a_vote() {
    let mut cluster = Cluster::of(&[1]);
    cluster.propose(1, 7);
    cluster.start(peer(2), Vec::new());
    cluster.tick(5 * ELECTION_TICKS);
    assert_eq!(cluster.quorum(2).term(), 0, "it keeps still until it is told of a quorum");
    cluster.change(1, 1, MemberChange::AddVoter(peer(2)));
    let refused = ProposalRejected::Members(ChangeRejected::NoObserver(peer(2)));
    assert_eq!(cluster.outcome(1), Some(Outcome::Refused(refused)));
    join(&mut cluster, 1, 2);
    // The image of these tests' snapshots is always the same.
    assert_eq!(cluster.applied(2), [topic(1000)]);
    assert_eq!(cluster.quorum(2).members(), cluster.quorum(1).members());
    assert!(cluster.quorum(1).is_leader(), "an observer decides nothing");
    cluster.change(1, 2, MemberChange::AddVoter(peer(2)));
    cluster.tick(4);
    assert_eq!(cluster.quorum(2).members(), &Members::voters([peer(1), peer(2)]));
    cluster.hung.insert(peer(2));
    cluster.propose(1, 8);
    assert_eq!(cluster.outcome(8), None, "now it takes both");
}

#[test]
fn a_member_that_is_behind_gets_no_vote() {
    let mut cluster = Cluster::of(&[1]);
    cluster.start(peer(2), Vec::new());
    cluster.away.insert(peer(2));
    cluster.change(1, 1, MemberChange::AddObserver(peer(2)));
    cluster.change(1, 2, MemberChange::AddVoter(peer(2)));
    let behind = ChangeRejected::Behind { peer: peer(2), matched: 0, committed: 3 };
    assert_eq!(cluster.outcome(2), Some(Outcome::Refused(ProposalRejected::Members(behind))));
}

#[test]
fn members_change_one_at_a_time() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.tick(3);
    cluster.away.extend([peer(2), peer(3)]);
    cluster.change(1, 1, MemberChange::Remove(peer(3)));
    cluster.change(1, 2, MemberChange::Remove(peer(2)));
    let pending = Outcome::Refused(ProposalRejected::Members(ChangeRejected::Pending));
    assert_eq!((cluster.outcome(1), cluster.outcome(2)), (None, Some(pending)));
    cluster.away.clear();
    cluster.tick(4);
    assert!(matches!(cluster.outcome(1), Some(Outcome::Committed { .. })));
    cluster.change(1, 3, MemberChange::Remove(peer(1)));
    let leader = Outcome::Refused(ProposalRejected::Members(ChangeRejected::Leader));
    assert_eq!(cluster.outcome(3), Some(leader));
}

#[test]
fn a_leader_that_was_removed_steps_down() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.tick(3);
    // Node 3 has the change, and nobody else; then it leads.
    cluster.hung.insert(peer(1));
    cluster.away.insert(peer(2));
    cluster.change(1, 1, MemberChange::Remove(peer(3)));
    cluster.away = BTreeSet::from([peer(1)]);
    cluster.elect_after_a_while(3);
    cluster.tick(2);
    assert!(!cluster.quorum(3).is_leader());
    assert_eq!(cluster.quorum(3).members(), &Members::voters([peer(1), peer(2)]));
}

impl Cluster {
    /// The others do not hear of the leader any more, and do not ask for votes themselves.
    fn elect_after_a_while(&mut self, node: i32) {
        for _ in 0..5 * ELECTION_TICKS {
            self.step(node, Event::Tick);
        }
        for _ in 0..ELECTION_TICKS - 1 {
            self.step(2, Event::Tick);
        }
        for _ in 0..3 * ELECTION_TICKS {
            self.step(node, Event::Tick);
        }
    }
}

#[test]
fn a_long_log_is_replaced_by_its_image_and_followers_are_caught_up_from_it() {
    let mut cluster = Cluster::of(&[1, 2, 3]);
    cluster.elect(1);
    cluster.away.insert(peer(3));
    (0..20).for_each(|number| cluster.propose(1, number));
    assert_eq!(cluster.quorum(1).entry_count(), 21);
    cluster.step(1, Event::Compact { records: vec![topic(1000)] });
    assert_eq!(cluster.quorum(1).entry_count(), 2, "some stay for those who are a little behind");
    let found = scan(&cluster.nodes[&peer(1)].1.bytes, peer(1)).recovered;
    assert_eq!((found.base.index, found.entries.len()), (FOUNDING_INDEX + 21, 0));
    assert_eq!(found.hard_state.commit, FOUNDING_INDEX + 21);
    cluster.away.clear();
    cluster.seen.clear();
    cluster.tick(8);
    let restored = cluster.seen.iter().any(|(me, effect)| {
        *me == peer(3) && matches!(effect, Effect::Restore { index, .. } if *index == FOUNDING_INDEX + 21)
    });
    assert!(restored, "{:?}", cluster.seen);
    cluster.propose(1, 50);
    cluster.tick(3);
    assert_eq!(cluster.quorum(3).applied().0, FOUNDING_INDEX + 22);
}

#[test]
fn a_restart_goes_on_where_the_log_ends() {
    let mut cluster = Cluster::of(&[1]);
    cluster.propose(1, 7);
    cluster.propose(1, 8);
    let term = cluster.quorum(1).term();
    let bytes = cluster.nodes[&peer(1)].1.bytes.clone();
    cluster.seen.clear();
    cluster.start(peer(1), bytes);
    assert_eq!(cluster.applied(1), [topic(1000), topic(7), topic(8)]);
    assert_eq!(cluster.quorum(1).term(), term + 1);
}

#[test]
fn a_log_before_the_quorum_becomes_a_quorum_of_one() {
    let mut bytes = encode_entry(EntrySequence(1), &[topic(1)]).expect("small");
    bytes.extend(encode_entry(EntrySequence(2), &[topic(2)]).expect("small"));
    let mut cluster = Cluster::of(&[]);
    cluster.start(peer(1), bytes.clone());
    assert!(cluster.quorum(1).is_leader());
    cluster.propose(1, 3);
    assert_eq!(cluster.outcome(3), Some(Outcome::Committed { index: 4 }), "behind its own first entry");
    let upgraded = cluster.nodes[&peer(1)].1.bytes.clone();
    assert!(upgraded.starts_with(&bytes), "in place");
    cluster.seen.clear();
    cluster.start(peer(1), upgraded);
    assert_eq!(cluster.applied(1), [topic(1), topic(2), topic(3)]);
}

#[test]
fn proposals_have_bounds() {
    let mut cluster = Cluster::of(&[1]);
    let large = Record::TopicConfigSet {
        topic: TopicId(Uuid::from_u128(1)),
        key: "k".repeat(QUORUM_RECORDS_SIZE_MAX),
        value: None,
    };
    cluster.step(1, Event::Propose { ticket: Ticket(1), records: vec![large] });
    assert!(matches!(cluster.outcome(1), Some(Outcome::Refused(ProposalRejected::TooLarge { .. }))));
    cluster.hung.insert(peer(1));
    (2..2 + QUORUM_PROPOSALS_MAX as u64).for_each(|number| cluster.propose(1, number));
    assert_eq!(cluster.outcome(1 + QUORUM_PROPOSALS_MAX as u64), None);
    cluster.propose(1, 9999);
    assert_eq!(cluster.outcome(9999), Some(Outcome::Refused(ProposalRejected::Busy)));
}

#[test]
fn the_same_seed_waits_the_same() {
    let timeouts = |seed| {
        let (_, recovered) = Disk::of(Disk::founded(&Members::voters([peer(1), peer(2)])), peer(1));
        let mut effects = Vec::new();
        let mut quorum = Quorum::start(CLUSTER, peer(1), settings(seed), recovered, &mut effects);
        let mut asked = Vec::new();
        for tick in 0..400 {
            effects.clear();
            quorum.step(Event::Tick, &mut effects);
            if effects.iter().any(|effect| matches!(effect, Effect::Send(_))) {
                asked.push(tick);
            }
        }
        asked
    };
    assert_eq!(timeouts(1), timeouts(1));
    assert_ne!(timeouts(1), timeouts(2));
    let gaps: BTreeSet<i32> = timeouts(1).windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() > 3 && gaps.iter().all(|gap| (10..20).contains(gap)), "{gaps:?}");
}
