use super::*;

/// A stable group of two static members; the first one leads.
fn stable() -> (Room, Vec<String>) {
    let mut room = Room::new();
    let first = room.send_join(NEWEST, static_request("one", ""));
    let second = room.send_join(NEWEST, static_request("two", ""));
    room.pass(6);
    let ids: Vec<String> = room.coordinator.groups()[GROUP].members.keys().cloned().collect();
    room.settle(&[(ids[0].clone(), first), (ids[1].clone(), second)]);
    (room, ids)
}

fn leader(room: &Room) -> String {
    room.coordinator.groups()[GROUP].leader.clone().unwrap()
}

#[test]
fn static_member_is_not_asked_to_come_back_with_its_id() {
    let (room, ids) = stable();
    assert!(ids[0].starts_with("one-") && ids[1].starts_with("two-"), "{ids:?}");
    assert_eq!(room.generation(), 1);
}

#[test]
fn static_member_takes_its_place_again_without_a_rebalance() {
    let (mut room, ids) = stable();
    let joining = room.send_join(NEWEST, static_request("two", ""));
    let joined = room.joined(joining);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    assert_eq!(&*joined.leader, ids[0]);
    assert!(!joined.skip_assignment && joined.members.is_empty());
    assert_ne!(&*joined.member_id, ids[1]);
    assert_eq!(room.state(), "Stable");
    let syncing = room.send_sync(sync_request(&joined.member_id, 1));
    assert_eq!(room.synced(syncing).assignment, ids[1].as_bytes(), "what the old one had");
    let [.., GroupRecord::Group { value: Some(value), .. }] = &room.log[..] else { panic!() };
    assert!(value.members.iter().any(|member| member.member_id == *joined.member_id), "its id is kept");
}

#[test]
fn static_leader_that_comes_back_is_told_to_assign_nothing() {
    let (mut room, ids) = stable();
    assert_eq!(leader(&room), ids[0]);
    let joining = room.send_join(NEWEST, static_request("one", ""));
    let joined = room.joined(joining);
    assert_eq!(joined.leader, joined.member_id);
    assert!(joined.skip_assignment);
    assert_eq!(joined.members.len(), 2);
    // Before there was a way to say so, it was told the id that it had: it does not take itself for the leader.
    let joining = room.send_join(8, static_request("one", ""));
    let again = room.joined(joining);
    assert_eq!(again.leader, joined.member_id);
    assert_ne!(again.leader, again.member_id);
    assert_eq!(leader(&room), *again.member_id);
}

#[test]
fn the_one_whose_place_was_taken_is_fenced() {
    let (mut room, ids) = stable();
    let joining = room.send_join(NEWEST, static_request("two", ""));
    room.joined(joining);
    let old = HeartbeatRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(&ids[1]))
        .with_generation_id(1)
        .with_group_instance_id(Some(text("two")));
    let heartbeat = room.decide(|coordinator, now, effects| coordinator.heartbeat(&old, now, effects));
    assert_eq!(heartbeat, ErrorCode::FencedInstanceId);
    assert_eq!(room.leave(&[(&ids[1], Some("two"))]), [ErrorCode::FencedInstanceId]);
    let commit = commit_request(&ids[1], 1, "read", 5, "").with_group_instance_id(Some(text("two")));
    let committing = room.send_commit(8, commit);
    let refused = room.committed(committing).topics[0].partitions[0].error_code;
    assert_eq!(error(refused), ErrorCode::FencedInstanceId);
    let joining = room.send_join(NEWEST, static_request("two", &ids[1]));
    assert_eq!(error(room.joined(joining).error_code), ErrorCode::FencedInstanceId);
    let syncing = room.send_sync(sync_request(&ids[1], 1).with_group_instance_id(Some(text("two"))));
    assert_eq!(error(room.synced(syncing).error_code), ErrorCode::FencedInstanceId);
}

#[test]
fn one_that_waits_is_fenced_by_the_next() {
    let mut room = Room::new();
    let first = room.send_join(NEWEST, static_request("one", ""));
    let second = room.send_join(NEWEST, static_request("one", ""));
    assert_eq!(error(room.joined(first).error_code), ErrorCode::FencedInstanceId);
    room.pass(3);
    assert_eq!(room.joined(second).generation_id, 1);
}

#[test]
fn new_id_that_cannot_be_kept_is_taken_back() {
    let (mut room, ids) = stable();
    room.holds_writes = true;
    let joining = room.send_join(NEWEST, static_request("two", ""));
    assert!(room.is_waiting(joining));
    room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(room.joined(joining).error_code), ErrorCode::NotCoordinator);
    assert_eq!(room.heartbeat(&ids[1], 1), ErrorCode::None, "all is as before");
    assert_eq!(room.heartbeat(&ids[0], 1), ErrorCode::None);
    room.pass(10);
    assert_eq!(room.coordinator.groups()[GROUP].members.len(), 0);
}

#[test]
fn static_member_with_another_protocol_starts_a_rebalance() {
    let mut room = Room::new();
    let request = |protocols: &[&str]| join_request("", protocols).with_group_instance_id(Some(text("one")));
    let first = room.send_join(NEWEST, request(&["range", "sticky"]));
    room.pass(3);
    let joined = room.joined(first);
    let syncing = room.send_sync(sync_request(&joined.member_id, 1));
    room.synced(syncing);
    let again = room.send_join(NEWEST, request(&["sticky", "range"]));
    let joined = room.joined(again);
    assert_eq!((joined.generation_id, joined.protocol_name.as_deref()), (2, Some("sticky")));
}

#[test]
fn static_member_that_comes_back_while_others_are_assigned_starts_over() {
    let (mut room, ids) = stable();
    let first = room.send_join(NEWEST, static_request("one", &ids[0]));
    let second = room.send_join(NEWEST, static_request("two", &ids[1]));
    room.joined(first);
    room.joined(second);
    assert_eq!(room.state(), "CompletingRebalance");
    let syncing = room.send_sync(sync_request(&ids[1], 2).with_group_instance_id(Some(text("two"))));
    let back = room.send_join(NEWEST, static_request("two", ""));
    assert_eq!(error(room.synced(syncing).error_code), ErrorCode::FencedInstanceId);
    assert!(room.is_waiting(back));
    let first = room.send_join(NEWEST, static_request("one", &ids[0]));
    assert_eq!((room.joined(first).generation_id, room.joined(back).generation_id), (3, 3));
}

#[test]
fn static_member_keeps_its_place_while_it_is_away() {
    let (mut room, ids) = stable();
    let first = room.send_join(NEWEST, static_request("one", &ids[0]));
    // It restarts during the rebalance, and has its session's time.
    for _ in 0..12 {
        room.pass(5);
        room.heartbeat(&ids[1], 1);
    }
    let joined = room.joined(first);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 2), "it is assigned to");
}

#[test]
fn administrators_remove_static_members_by_their_instance_ids() {
    let (mut room, _) = stable();
    assert_eq!(
        room.leave(&[("", Some("two")), ("", Some("three"))]),
        [ErrorCode::None, ErrorCode::UnknownMemberId]
    );
    assert_eq!(room.state(), "PreparingRebalance");
    let back = room.send_join(NEWEST, static_request("two", ""));
    assert!(room.is_waiting(back), "as a new member");
}

#[test]
fn static_members_are_known_after_a_restart() {
    let (mut room, ids) = stable();
    room.restart();
    assert_eq!(room.heartbeat(&ids[0], 1), ErrorCode::None);
    let joining = room.send_join(NEWEST, static_request("two", ""));
    assert_eq!(room.joined(joining).generation_id, 1);
    assert_eq!(room.state(), "Stable");
}

#[test]
fn static_member_comes_back_to_a_group_that_is_full() {
    let (mut room, ids) = stable();
    room.settings.size_max = 2;
    room.restart();
    let joining = room.send_join(NEWEST, static_request("two", ""));
    assert_eq!(room.joined(joining).error_code, 0);
    let refused = room.send_join(NEWEST, static_request("three", ""));
    assert_eq!(error(room.joined(refused).error_code), ErrorCode::GroupMaxSizeReached);
    assert_eq!(room.heartbeat(&ids[0], 1), ErrorCode::None);
}

#[test]
fn session_of_a_static_member_begins_with_the_answer_however_long_its_id_is_being_kept() {
    let (mut room, ids) = stable();
    room.holds_writes = true;
    let joining = room.send_join(NEWEST, static_request("two", ""));
    for _ in 0..4 {
        room.pass(5);
        room.heartbeat(&ids[0], 1);
    }
    room.end_write(Ok(()));
    assert_eq!(room.joined(joining).generation_id, 1);
    room.pass(10);
    assert_eq!(room.coordinator.groups()[GROUP].members.len(), 0);
}

#[test]
fn static_members_that_are_all_away_do_not_keep_the_coordinator_busy() {
    let (mut room, ids) = stable();
    let request = |id: &str| static_request("two", id).with_rebalance_timeout_ms(0);
    // The second one says that it takes no time to join; the first one leaves for good.
    let first = room.send_join(NEWEST, static_request("one", &ids[0]).with_rebalance_timeout_ms(0));
    let second = room.send_join(NEWEST, request(&ids[1]));
    room.settle(&[(ids[0].clone(), first), (ids[1].clone(), second)]);
    room.leave(&[(&ids[0], Some("one"))]);
    assert_eq!(room.state(), "PreparingRebalance");
    let now = room.now.mono;
    room.decide(|coordinator, now, effects| coordinator.expire(now, effects));
    assert!(room.coordinator.next_deadline() >= Some(now.after(Duration::from_secs(1))));
    assert_eq!(room.coordinator.groups()[GROUP].members.len(), 1, "it keeps its place");
}

#[test]
fn session_goes_on_where_a_new_id_cannot_be_kept_and_a_rebalance_has_begun() {
    let (mut room, ids) = stable();
    room.holds_writes = true;
    let joining = room.send_join(NEWEST, static_request("two", ""));
    let third = room.send_join(OLD, join_request("", &["range"]));
    for _ in 0..2 {
        room.pass(9); // Its session is over meanwhile, but it waits.
        room.heartbeat(&ids[0], 1);
    }
    assert_eq!(room.state(), "PreparingRebalance");
    room.end_write(Err(ErrorCode::NotEnoughReplicas));
    assert_ne!(room.joined(joining).error_code, 0);
    assert!(room.is_waiting(third));
    room.holds_writes = false;
    room.pass(11);
    let members = &room.coordinator.groups()[GROUP].members;
    assert!(members.values().all(|member| member.instance_id.as_deref() != Some("two")), "{members:?}");
}

#[test]
fn record_that_names_members_twice_is_no_harm() {
    let (room, ids) = stable();
    let [.., GroupRecord::Group { value: Some(value), .. }] = &room.log[..] else { panic!() };
    let mut value = value.clone();
    let copy = |at: usize, member: &str, instance: &str| {
        let mut copy = value.members[at].clone();
        (copy.member_id, copy.instance_id) = (member.to_owned(), Some(instance.to_owned()));
        copy
    };
    let repeated = [copy(0, &ids[0], "other"), copy(1, "other", "two")];
    value.members.extend(repeated);
    let mut room = Room::new();
    room.log = vec![GroupRecord::Group { group: GROUP.to_owned(), value: Some(value) }];
    room.restart();
    assert!(room.coordinator.groups()[GROUP].members.keys().eq(&ids));
    let joining = room.send_join(NEWEST, static_request("two", ""));
    assert_eq!(room.joined(joining).error_code, 0);
}
