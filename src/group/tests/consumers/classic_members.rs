use super::*;
use crate::codec::consumer_protocol::{self, NamedPartitions};
use crate::group::consumer::Migration;
use kafka_protocol::messages::LeaveGroupResponse;

/// A consumer of the classic protocol.
#[derive(Clone, Debug)]
struct Old {
    id: String,
    generation: i32,
    instance: Option<String>,
    owned: BTreeSet<i32>,
}

/// A subscription to the topic "read", with the partitions that the member has.
fn subscription(owned: &BTreeSet<i32>) -> Bytes {
    let mut bytes = b"\0\x01\0\0\0\x01\0\x04read\xff\xff\xff\xff".to_vec();
    let owned =
        NamedPartitions::from_iter(Some(("read".to_owned(), owned.clone())).filter(|_| !owned.is_empty()));
    let assignment = consumer_protocol::write_assignment(1, &owned);
    bytes.extend_from_slice(&assignment[2..assignment.len() - 4]);
    Bytes::from(bytes)
}

impl Hall {
    fn send_old_join(&mut self, old: &Old) -> Ticket {
        let mut request = join_request(&old.id, &["range"]);
        request.group_instance_id = old.instance.as_deref().map(text);
        request.protocols[0].metadata = subscription(&old.owned);
        self.room.send_join(NEWEST, request)
    }

    fn rejoin(&mut self, old: &mut Old) -> ErrorCode {
        let ticket = self.send_old_join(old);
        let joined = self.room.joined(ticket);
        if joined.error_code == 0 {
            assert_eq!((joined.protocol_name.as_deref(), &*joined.leader), (Some("range"), ""));
            (old.id, old.generation) = (joined.member_id.to_string(), joined.generation_id);
        }
        error(joined.error_code)
    }

    fn sync(&mut self, old: &mut Old) -> ErrorCode {
        let ticket = self.room.send_sync(sync_request(&old.id, old.generation));
        let synced = self.room.synced(ticket);
        if synced.error_code == 0 {
            let assigned = consumer_protocol::assignment(&synced.assignment).unwrap();
            old.owned = assigned.get("read").cloned().unwrap_or_default();
        }
        error(synced.error_code)
    }

    /// What a consumer does all the time.
    fn live(&mut self, old: &mut Old) {
        match self.room.heartbeat(&old.id, old.generation) {
            ErrorCode::None => {}
            ErrorCode::RebalanceInProgress => {
                assert_eq!(self.rejoin(old), ErrorCode::None);
                assert_eq!(self.sync(old), ErrorCode::None);
            }
            error => panic!("{old:?}: {error}"),
        }
    }

    fn live_all(&mut self, olds: &mut [Old], clients: &mut [&mut Client]) {
        for _ in 0..12 {
            olds.iter_mut().for_each(|old| self.live(old));
            clients.iter_mut().for_each(|client| self.beat(client));
            let read = self.topics.named("read").unwrap().id;
            let new = clients.iter().flat_map(|client| client.owned.get(&read).cloned().unwrap_or_default());
            let all: Vec<i32> = olds.iter().flat_map(|old| old.owned.clone()).chain(new).collect();
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "one is with two: {all:?}");
        }
        assert_eq!(self.state(), "Stable");
    }

    fn leave_old(&mut self, old: &Old) -> LeaveGroupResponse {
        let ticket = self.room.ticket();
        let member = MemberIdentity::default().with_member_id(text(&old.id));
        let request = LeaveGroupRequest::default().with_group_id(group_id()).with_members(vec![member]);
        self.room.decide(|coordinator, now, effects| {
            coordinator.consumer_leave_group(request, ticket, now, effects);
        });
        match self.room.answers.remove(&ticket) {
            Some(Answer::Leave(response)) => response,
            other => panic!("{other:?}"),
        }
    }
}

/// A stable classic group whose leader has shared the six partitions of "read" among so many members.
fn classic(settings: ConsumerSettings, instances: &[Option<&str>]) -> (Hall, Vec<Old>) {
    let mut hall = Hall::with(settings, &[("read", 6)]);
    let mut olds: Vec<Old> = instances
        .iter()
        .map(|instance| Old {
            id: String::new(),
            generation: 0,
            instance: instance.map(str::to_owned),
            owned: BTreeSet::new(),
        })
        .collect();
    for old in olds.iter_mut().filter(|old| old.instance.is_none()) {
        let ticket = hall.send_old_join(old);
        let given = hall.room.joined(ticket);
        assert_eq!(error(given.error_code), ErrorCode::MemberIdRequired);
        old.id = given.member_id.to_string();
    }
    let tickets: Vec<Ticket> = olds.iter().map(|old| hall.send_old_join(old)).collect();
    hall.room.pass(6);
    let joined: Vec<JoinGroupResponse> = tickets.into_iter().map(|ticket| hall.room.joined(ticket)).collect();
    let leader = joined[0].leader.clone();
    let mut assignments = Vec::new();
    for (at, (old, joined)) in olds.iter_mut().zip(&joined).enumerate() {
        (old.id, old.generation) = (joined.member_id.to_string(), joined.generation_id);
        old.owned = (0..6).filter(|index| *index as usize % instances.len() == at).collect();
        let named = NamedPartitions::from([("read".to_owned(), old.owned.clone())]);
        let assignment = Bytes::from(consumer_protocol::write_assignment(1, &named));
        assignments.push(
            SyncGroupRequestAssignment::default().with_member_id(text(&old.id)).with_assignment(assignment),
        );
    }
    let lead =
        hall.room.send_sync(sync_request(&leader, joined[0].generation_id).with_assignments(assignments));
    assert_eq!(hall.room.synced(lead).error_code, 0);
    assert_eq!(hall.room.state(), "Stable");
    (hall, olds)
}

#[test]
fn classic_group_becomes_one_of_the_newer_protocol_while_it_is_used() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[None, None]);
    hall.room.commit(&olds[0].id.clone(), 1, "read", 7);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    assert_eq!((new.epoch, new.count()), (2, 0));
    assert_eq!(hall.room.offset("read"), Some(7), "what was committed stays");
    hall.live_all(&mut olds, &mut [&mut new]);
    assert_eq!((olds[0].owned.len(), olds[1].owned.len(), new.count()), (2, 2, 2));
    assert_eq!(olds[0].generation, new.epoch);
    assert_eq!(hall.room.commit(&olds[0].id.clone(), olds[0].generation, "read", 8), ErrorCode::None);
    assert_eq!(hall.room.commit(&olds[0].id.clone(), 1, "read", 8), ErrorCode::IllegalGeneration);
    let described = hall.room.coordinator.consumer_describe(GROUP, 1);
    let kinds: Vec<i8> = described.members.iter().map(|member| member.member_type).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == 0).count(), 2);
    // The others follow, one after the other.
    let mut second = Client::new("second", &["read"]);
    let gone = olds.remove(0);
    assert_eq!(hall.leave_old(&gone).members[0].error_code, 0);
    hall.beat(&mut second);
    hall.live_all(&mut olds, &mut [&mut new, &mut second]);
    assert_eq!(hall.leave_old(&olds[0]).members[0].error_code, 0);
    hall.live_all(&mut [], &mut [&mut new, &mut second]);
    assert_eq!((new.count(), second.count()), (3, 3));
}

#[test]
fn group_is_a_classic_one_again_when_its_last_new_member_goes() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[None, None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    hall.live_all(&mut olds, &mut [&mut new]);
    let generation = hall.group().epoch;
    assert_eq!(hall.leave(&mut new, -1), ErrorCode::None);
    assert_eq!((hall.room.state(), hall.room.generation()), ("PreparingRebalance", generation));
    assert_eq!(hall.room.heartbeat(&olds[0].id.clone(), generation), ErrorCode::RebalanceInProgress);
    let tickets: Vec<Ticket> = olds.iter().map(|old| hall.send_old_join(old)).collect();
    let joined: Vec<JoinGroupResponse> = tickets.into_iter().map(|ticket| hall.room.joined(ticket)).collect();
    assert!(joined.iter().all(|joined| joined.generation_id == generation + 1), "{joined:?}");
    hall.restart();
    assert_eq!(hall.room.coordinator.groups()[GROUP].members.len(), 2);
    assert!(hall.room.coordinator.groups()[GROUP].consumer.is_none());
}

#[test]
fn last_new_member_that_is_silent_makes_it_a_classic_group_too() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    hall.live_all(&mut olds, &mut [&mut new]);
    for _ in 0..10 {
        hall.room.pass(5);
        if hall.room.coordinator.is_consumer_group(GROUP) {
            hall.live(&mut olds[0]);
        }
    }
    assert!(!hall.room.coordinator.is_consumer_group(GROUP));
}

#[test]
fn static_member_may_change_its_protocol_both_ways() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[Some("i"), Some("j")]);
    let mut new = Client::named("new", "i", &["read"]);
    hall.beat(&mut new);
    let gone = olds.remove(0);
    hall.live_all(&mut olds, &mut [&mut new]);
    assert_eq!(new.count(), 3);
    assert_eq!(hall.room.heartbeat(&gone.id, 1), ErrorCode::UnknownMemberId);
    // And back: it was the last one that used the newer protocol.
    let mut back =
        Old { id: String::new(), generation: 0, instance: Some("i".to_owned()), owned: BTreeSet::new() };
    assert_eq!(hall.rejoin(&mut back), ErrorCode::None);
    assert_eq!((hall.room.state(), hall.room.generation()), ("Stable", back.generation));
    assert_eq!(hall.sync(&mut back), ErrorCode::None);
    assert_eq!(back.owned.len(), 3);
    hall.restart();
    assert_eq!((hall.room.state(), hall.room.coordinator.groups()[GROUP].members.len()), ("Stable", 2));
}

#[test]
fn group_keeps_its_protocol_where_the_operator_says_so() {
    let settings = ConsumerSettings { migration: Migration::Disabled, ..consumer_settings() };
    let (mut hall, olds) = classic(settings, &[None]);
    let response = hall.ask(Client::new("new", &["read"]).request());
    assert_eq!(error(response.error_code), ErrorCode::GroupIdNotFound);
    assert_eq!(response.error_message.as_deref(), Some("Group g is not a consumer group."));
    assert_eq!(hall.room.heartbeat(&olds[0].id, 1), ErrorCode::None);
    let settings = ConsumerSettings { migration: Migration::Upgrade, ..consumer_settings() };
    let (mut hall, mut olds) = classic(settings, &[None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    hall.leave(&mut new, -1);
    hall.live_all(&mut olds, &mut []);
    assert_eq!(olds[0].owned.len(), 6);
}

#[test]
fn group_of_something_else_than_consumers_stays_what_it_is() {
    let mut hall = Hall::new(&[("read", 6)]);
    let request = join_request("", &["x"]).with_protocol_type(text("connect"));
    let ticket = hall.room.send_join(OLD, request);
    hall.room.pass(6);
    assert_eq!(hall.room.joined(ticket).error_code, 0);
    assert_eq!(hall.error(Client::new("new", &["read"]).request()), ErrorCode::GroupIdNotFound);
}

#[test]
fn empty_groups_may_be_of_either_protocol() {
    let (mut hall, mut clients) = settled(1, 6);
    hall.leave(&mut clients[0], -1);
    let mut old =
        Old { id: String::new(), generation: 0, instance: Some("i".to_owned()), owned: BTreeSet::new() };
    let ticket = hall.send_old_join(&old);
    hall.room.pass(6);
    let joined = hall.room.joined(ticket);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1), "it begins anew");
    old.id = joined.member_id.to_string();
    assert!(!hall.room.coordinator.is_consumer_group(GROUP));
    assert_eq!(hall.room.leave(&[(&old.id, None)]), [ErrorCode::None]);
    hall.beat(&mut clients[0]);
    assert_eq!((clients[0].epoch, clients[0].count()), (1, 6));
    hall.restart();
    hall.beat(&mut clients[0]);
    assert_eq!(clients[0].count(), 6);
}

#[test]
fn group_that_cannot_be_kept_in_its_new_form_is_what_it_was() {
    let (mut hall, olds) = classic(consumer_settings(), &[None, None]);
    hall.room.holds_writes = true;
    let ticket = hall.send(1, Client::new("new", &["read"]).request());
    hall.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(hall.answered(ticket).error_code), ErrorCode::NotCoordinator);
    hall.room.holds_writes = false;
    assert_eq!(hall.room.state(), "PreparingRebalance");
    assert_eq!(hall.room.heartbeat(&olds[0].id, 1), ErrorCode::RebalanceInProgress);
    hall.restart();
    assert_eq!(hall.room.state(), "Stable");
}

#[test]
fn requests_of_the_wrong_protocol_are_refused() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    hall.live_all(&mut olds, &mut [&mut new]);
    assert_eq!(hall.room.heartbeat("new", new.epoch), ErrorCode::UnknownMemberId);
    let mut as_old = Old { id: "new".to_owned(), generation: new.epoch, ..olds[0].clone() };
    assert_eq!(hall.sync(&mut as_old), ErrorCode::UnknownMemberId);
    assert_eq!(error(hall.leave_old(&as_old).members[0].error_code), ErrorCode::UnknownMemberId);
    let generation = olds[0].generation;
    olds[0].generation += 1;
    let ahead = olds[0].clone();
    assert_eq!(hall.sync(&mut ahead.clone()), ErrorCode::IllegalGeneration);
    assert_eq!(hall.room.heartbeat(&ahead.id, ahead.generation), ErrorCode::IllegalGeneration);
    olds[0].generation = generation;
    let other = hall.room.send_join(NEWEST, join_request("", &["other"]));
    assert_eq!(error(hall.room.joined(other).error_code), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn member_that_does_not_join_again_is_taken_out() {
    let (mut hall, olds) = classic(consumer_settings(), &[None, None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    // They hear of it, and do nothing.
    for _ in 0..8 {
        for old in &olds {
            if hall.group().members.contains_key(&*old.id) {
                hall.room.heartbeat(&old.id, old.generation);
            }
        }
        hall.beat(&mut new);
        hall.room.pass(9);
    }
    assert_eq!(hall.group().members.len(), 1);
    hall.settle(&mut [&mut new]);
    assert_eq!(new.count(), 6);
}

#[test]
fn member_that_does_not_ask_for_its_assignment_is_taken_out() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    assert_eq!(hall.room.heartbeat(&olds[0].id, 1), ErrorCode::RebalanceInProgress);
    assert_eq!(hall.rejoin(&mut olds[0]), ErrorCode::None);
    for _ in 0..8 {
        if hall.group().members.contains_key(&*olds[0].id) {
            hall.room.heartbeat(&olds[0].id, olds[0].generation);
        }
        hall.beat(&mut new);
        hall.room.pass(9);
    }
    assert_eq!(hall.group().members.len(), 1);
}

/// In the middle of a rebalance of the cooperative kind members read on.
#[test]
fn what_members_still_read_stays_theirs_when_the_group_is_upgraded_in_a_rebalance() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[None, None]);
    let mut third = Old { id: String::new(), owned: BTreeSet::new(), ..olds[0].clone() };
    let ticket = hall.send_old_join(&third);
    third.id = hall.room.joined(ticket).member_id.to_string();
    let mut tickets = vec![hall.send_old_join(&third)];
    tickets.extend(olds.iter().map(|old| hall.send_old_join(old)));
    let joined: Vec<JoinGroupResponse> = tickets.into_iter().map(|ticket| hall.room.joined(ticket)).collect();
    assert_eq!(hall.room.state(), "CompletingRebalance");
    // It begins anew before anybody was assigned anything.
    let ticket = hall.send_old_join(&Old { id: String::new(), ..third.clone() });
    let fourth = hall.room.joined(ticket).member_id.to_string();
    hall.send_old_join(&Old { id: fourth.clone(), ..third.clone() });
    assert_eq!(hall.room.state(), "PreparingRebalance");
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    assert_eq!(new.count(), 0, "all partitions are still read by others");
    for old in &olds {
        let assigned = &hall.group().members[&*old.id].current.assigned;
        assert!(assigned.values().next().is_some_and(|assigned| assigned.iter().eq(&old.owned)));
    }
    for old in olds.iter_mut().chain([&mut third]) {
        old.generation = joined[0].generation_id;
    }
    assert_eq!(hall.leave_old(&Old { id: fourth, ..third.clone() }).members[0].error_code, 0);
    olds.push(third);
    hall.live_all(&mut olds, &mut [&mut new]);
    assert_eq!(olds.iter().map(|old| old.owned.len()).chain([new.count()]).max(), Some(2));
}

#[test]
fn group_that_is_a_classic_one_again_before_it_has_settled_rebalances() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[Some("i"), Some("j")]);
    let mut new = Client::named("new", "i", &["read"]);
    hall.beat(&mut new);
    olds.remove(0);
    hall.live_all(&mut olds, &mut [&mut new]);
    // A third one is to have what the other two still read.
    let mut third =
        Old { id: String::new(), generation: 0, instance: Some("k".to_owned()), owned: BTreeSet::new() };
    assert_eq!(hall.rejoin(&mut third), ErrorCode::None);
    let mut back = Old { id: String::new(), instance: Some("i".to_owned()), ..third.clone() };
    assert_eq!(hall.rejoin(&mut back), ErrorCode::None);
    assert_eq!(hall.room.state(), "PreparingRebalance");
    assert_eq!(hall.sync(&mut third), ErrorCode::RebalanceInProgress);
    hall.restart();
    let group = &hall.room.coordinator.groups()[GROUP];
    let assigned = group.members.values().map(|member| consumer_protocol::assignment(&member.assignment));
    let all: Vec<i32> =
        assigned.flat_map(|assigned| assigned.unwrap().remove("read").unwrap_or_default()).collect();
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "one is with two: {all:?}");
}

#[test]
fn group_that_cannot_be_kept_as_a_classic_one_stays_what_it_is() {
    let (mut hall, mut olds) = classic(consumer_settings(), &[Some("i"), Some("j")]);
    let mut new = Client::named("new", "i", &["read"]);
    hall.beat(&mut new);
    olds.remove(0);
    hall.live_all(&mut olds, &mut [&mut new]);
    let before = (hall.group().members.clone(), hall.group().targets.clone(), hall.group().epoch);
    hall.room.holds_writes = true;
    // Its last member of the newer protocol goes, or changes its protocol.
    let leave = Client { epoch: -1, ..new.clone() };
    let left = hall.send(1, leave.request().with_topic_partitions(None));
    let beat = hall.send(1, new.request());
    assert!(hall.room.is_waiting(left) && hall.room.is_waiting(beat), "the group is on its way");
    hall.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(hall.answered(left).error_code), ErrorCode::NotCoordinator);
    assert_eq!(error(hall.answered(beat).error_code), ErrorCode::None);
    let back =
        Old { id: String::new(), generation: 0, instance: Some("i".to_owned()), owned: BTreeSet::new() };
    let joined = hall.send_old_join(&back);
    hall.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(hall.room.joined(joined).error_code), ErrorCode::NotCoordinator);
    assert_eq!(before, (hall.group().members.clone(), hall.group().targets.clone(), hall.group().epoch));
    hall.room.holds_writes = false;
    hall.live_all(&mut olds, &mut [&mut new]);
    hall.restart();
    assert_eq!(before, (hall.group().members.clone(), hall.group().targets.clone(), hall.group().epoch));
}

#[test]
fn empty_group_that_cannot_be_taken_away_stays_what_it_is() {
    let (mut hall, mut clients) = settled(1, 6);
    hall.leave(&mut clients[0], -1);
    let epoch = hall.group().epoch;
    let old =
        Old { id: String::new(), generation: 0, instance: Some("i".to_owned()), owned: BTreeSet::new() };
    hall.room.holds_writes = true;
    let joined = hall.send_old_join(&old);
    hall.room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(hall.room.joined(joined).error_code), ErrorCode::NotCoordinator);
    assert_eq!((hall.group().epoch, hall.room.writes.len()), (epoch, 0));
    let joined = hall.send_old_join(&old);
    hall.room.end_write(Ok(()));
    hall.room.holds_writes = false;
    hall.room.pass(6);
    assert_eq!(hall.room.joined(joined).error_code, 0);
    hall.restart();
    assert!(!hall.room.coordinator.is_consumer_group(GROUP));
}

#[test]
fn member_that_goes_on_with_the_newer_protocol_does_not_have_to_join() {
    let (mut hall, olds) = classic(consumer_settings(), &[None]);
    let mut new = Client::new("new", &["read"]);
    hall.beat(&mut new);
    assert_eq!(hall.room.heartbeat(&olds[0].id, 1), ErrorCode::RebalanceInProgress);
    let mut same = Client::new(&olds[0].id, &["read"]);
    for _ in 0..10 {
        hall.settle(&mut [&mut new, &mut same]);
        hall.room.pass(20);
    }
    assert_eq!((hall.group().members.len(), same.count()), (2, 3));
}
