use super::*;
use proptest::prelude::*;

#[test]
fn members_keep_their_generation_over_a_restart() {
    let (mut room, members) = Room::stable(3);
    room.commit(&members[1], 1, "read", 5);
    room.restart();
    assert_eq!((room.state(), room.generation()), ("Stable", 1));
    room.pass(9);
    for member in &members {
        assert_eq!(room.heartbeat(member, 1), ErrorCode::None, "sessions began anew");
    }
    let asking = room.send_sync(sync_request(&members[2], 1));
    assert_eq!(room.synced(asking).assignment, members[2].as_bytes());
    assert_eq!(room.commit(&members[1], 1, "read", 6), ErrorCode::None);
    room.pass(1);
    assert_eq!(room.state(), "Stable");
    room.pass(10);
    assert_eq!(room.state(), "Empty");
}

#[test]
fn rebalance_under_way_is_begun_again_after_a_restart() {
    let (mut room, members) = Room::stable(2);
    let (third, _) = room.start_join(&["range"]);
    room.restart();
    assert_eq!((room.state(), room.generation()), ("Stable", 1), "of the third nothing was kept");
    let third = room.send_join(NEWEST, join_request(&third, &["range"]));
    assert_eq!(error(room.joined(third).error_code), ErrorCode::UnknownMemberId);
    let third = room.start_join(&["range"]);
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    let second = room.send_join(NEWEST, join_request(&members[1], &["range"]));
    room.settle(&[(members[0].clone(), first), (members[1].clone(), second), third]);
    assert_eq!(room.generation(), 2);
}

#[test]
fn record_of_a_group_keeps_the_offsets_it_has() {
    let (mut room, members) = Room::stable(1);
    room.commit(&members[0], 1, "read", 5);
    let joining = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    room.settle(&[(members[0].clone(), joining)]);
    room.restart();
    assert_eq!((room.offset("read"), room.generation()), (Some(5), 2));
}

#[test]
fn tombstone_of_a_group_leaves_offsets_that_have_none() {
    let mut room = Room::new();
    room.commit("", -1, "read", 5);
    room.coordinator.apply(&GroupRecord::Group { group: GROUP.to_owned(), value: None });
    assert_eq!((room.state(), room.offset("read")), ("Empty", Some(5)));
}

/// What clients, administrators and the disk may do.
#[derive(Clone, Debug)]
enum Step {
    Join { client: usize, is_changed: bool },
    Sync { client: usize },
    Heartbeat { client: usize },
    Leave { client: usize },
    Commit { client: usize, topic: usize },
    CommitAlone { topic: usize },
    Forget { client: usize },
    Pass { ms: u64 },
    Delete,
    DeleteTopic { topic: usize },
    Expire,
    EndWrite { fails: bool },
    Restart,
}

fn any_step() -> impl Strategy<Value = Step> {
    let client = || 0..4usize;
    let topic = || 0..3usize;
    prop_oneof![
        6 => (client(), prop::bool::weighted(0.2)).prop_map(|(client, is_changed)| Step::Join { client, is_changed }),
        6 => client().prop_map(|client| Step::Sync { client }),
        2 => client().prop_map(|client| Step::Heartbeat { client }),
        1 => client().prop_map(|client| Step::Leave { client }),
        3 => (client(), topic()).prop_map(|(client, topic)| Step::Commit { client, topic }),
        2 => topic().prop_map(|topic| Step::CommitAlone { topic }),
        1 => client().prop_map(|client| Step::Forget { client }),
        4 => prop_oneof![Just(1u64), Just(3_000), Just(9_000), Just(61_000), Just(4_000_000)].prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Delete),
        1 => topic().prop_map(|topic| Step::DeleteTopic { topic }),
        1 => Just(Step::Expire),
        8 => prop::bool::weighted(0.1).prop_map(|fails| Step::EndWrite { fails }),
        1 => Just(Step::Restart),
    ]
}

/// What a client knows. The last two are static members.
#[derive(Clone, Debug, Default)]
struct Client {
    member_id: String,
    generation: i32,
    waiting: Option<Ticket>,
}

struct Play {
    room: Room,
    /// That a group is empty may not be kept: after a restart its last members are waited for once more.
    has_failed: bool,
    clients: Vec<Client>,
}

const TOPICS: [&str; 3] = ["read", "old", "new"];

impl Play {
    fn new() -> Play {
        let mut room = Room::new();
        room.holds_writes = true;
        Play { room, has_failed: false, clients: vec![Client::default(); 4] }
    }

    /// Clients take what has come for them.
    fn listen(&mut self) {
        for client in &mut self.clients {
            let Some(ticket) = client.waiting else { continue };
            match self.room.answers.remove(&ticket) {
                Some(Answer::Join(joined)) if joined.error_code == 0 => {
                    client.member_id = joined.member_id.to_string();
                    client.generation = joined.generation_id;
                }
                Some(Answer::Join(joined)) => client.member_id = joined.member_id.to_string(),
                Some(_) => {}
                None => continue,
            }
            client.waiting = None;
        }
    }

    fn take(&mut self, step: &Step) {
        let instance_id = |client: usize| (client >= 2).then(|| text(&client.to_string()));
        match *step {
            Step::Join { client, is_changed } => {
                let protocols: &[&str] = if is_changed { &["sticky", "range"] } else { &["range", "sticky"] };
                let request = join_request(&self.clients[client].member_id, protocols);
                let request = request.with_group_instance_id(instance_id(client));
                let ticket = self.room.send_join(NEWEST, request);
                self.clients[client].waiting = Some(ticket);
            }
            Step::Sync { client } => {
                let Client { member_id, generation, .. } = self.clients[client].clone();
                let request = sync_request(&member_id, generation).with_protocol_name(None);
                let ticket = self.room.send_sync(request.with_group_instance_id(instance_id(client)));
                self.clients[client].waiting = Some(ticket);
            }
            Step::Heartbeat { client } => {
                let Client { member_id, generation, .. } = self.clients[client].clone();
                self.room.heartbeat(&member_id, generation);
            }
            Step::Leave { client } => {
                let member_id = std::mem::take(&mut self.clients[client].member_id);
                self.room.leave(&[(&member_id, None)]);
            }
            Step::Commit { client, topic } => {
                let Client { member_id, generation, .. } = self.clients[client].clone();
                let offset = self.room.next_ticket as i64;
                self.room.send_commit(9, commit_request(&member_id, generation, TOPICS[topic], offset, ""));
            }
            Step::CommitAlone { topic } => {
                let offset = self.room.next_ticket as i64;
                self.room.send_commit(9, commit_request("", -1, TOPICS[topic], offset, ""));
            }
            Step::Forget { client } => self.clients[client] = Client::default(),
            Step::Pass { ms } => self.room.pass_ms(ms),
            Step::Delete => drop(self.room.delete_group()),
            Step::DeleteTopic { topic } => self.room.decide(|coordinator, now, effects| {
                coordinator.forget_topics(GROUP, |name| name == TOPICS[topic], now, effects);
            }),
            Step::Expire => self.room.expire_offsets(),
            Step::EndWrite { fails } => {
                if !self.room.writes.is_empty() {
                    self.has_failed |= fails;
                    self.room.end_write(if fails { Err(ErrorCode::KafkaStorageError) } else { Ok(()) });
                }
            }
            Step::Restart => self.room.restart(),
        }
        self.listen();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// What is in memory is what a replay of the log finds: the offsets always, the members where the last
    /// record of the group speaks of them.
    #[test]
    fn replay_finds_what_is_in_memory(steps in prop::collection::vec(any_step(), 0..120)) {
        let mut play = Play::new();
        for step in &steps {
            play.take(step);
        }
        play.room.holds_writes = false;
        play.room.carry_out(Vec::new());
        let replayed = play.room.replayed();
        let mut live: Vec<_> = play.room.coordinator.groups().values().collect();
        // Of one that has only given out ids, or has its first members just now, nothing is kept yet.
        let is_kept = |group: &&crate::group::classic::Group| replayed.groups().contains_key(&group.id);
        live.retain(|group| is_kept(group) || group.offsets.count() > 0);
        prop_assert_eq!(live.len(), replayed.groups().len());
        for group in live {
            let found = &replayed.groups()[&group.id];
            prop_assert_eq!(&group.offsets, &found.offsets);
            if group.state.name() == "Stable" {
                prop_assert_eq!(group.generation, found.generation);
                prop_assert_eq!(&group.leader, &found.leader);
                prop_assert_eq!(&group.protocol, &found.protocol);
                let known = |group: &crate::group::classic::Group| -> Vec<_> {
                    let members = group.members.values();
                    members.map(|member| (member.id.clone(), member.assignment.clone())).collect()
                };
                prop_assert_eq!(known(group), known(found));
            }
            if group.state.name() == "Empty" && !play.has_failed {
                prop_assert_eq!(found.state.name(), "Empty");
            }
        }
    }

    /// Nobody waits for ever: when all writes have ended and all time-outs have passed, all requests are
    /// answered and no member is left.
    #[test]
    fn everybody_is_answered_in_the_end(steps in prop::collection::vec(any_step(), 0..80)) {
        let mut play = Play::new();
        let is_restart = |step: &&Step| !matches!(step, Step::Restart);
        for step in steps.iter().filter(is_restart) {
            play.take(step);
        }
        play.room.holds_writes = false;
        play.room.carry_out(Vec::new());
        play.room.pass(10_000);
        play.listen();
        let waiting: Vec<_> = play.clients.iter().filter(|client| client.waiting.is_some()).collect();
        prop_assert!(waiting.is_empty(), "{waiting:?}");
        prop_assert_eq!(play.room.coordinator.next_deadline(), None);
        for group in play.room.coordinator.groups().values() {
            prop_assert!(group.members.is_empty());
            prop_assert_eq!(group.state.name(), "Empty");
        }
    }
}
