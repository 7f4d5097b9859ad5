use super::*;

#[test]
fn silent_member_is_taken_for_gone() {
    let (mut room, members) = Room::stable(2);
    room.pass(9);
    assert_eq!(room.heartbeat(&members[0], 1), ErrorCode::None);
    room.pass_ms(1_000);
    assert_eq!(room.state(), "PreparingRebalance");
    assert_eq!(room.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
    assert_eq!(room.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
}

#[test]
fn group_without_members_is_empty_and_says_so_in_the_log() {
    let (mut room, _) = Room::stable(2);
    room.pass(100);
    assert_eq!(room.state(), "Empty");
    assert_eq!(room.generation(), 2);
    assert_eq!(room.coordinator.next_deadline(), None);
    let Some(GroupRecord::Group { value: Some(value), .. }) = room.log.last() else {
        panic!("{:?}", room.log.last())
    };
    assert_eq!((value.generation, value.members.len()), (2, 0));
    assert_eq!(value.protocol_type, "consumer");
    assert_eq!((&value.leader, &value.protocol), (&None, &None));
}

#[test]
fn heartbeats_keep_a_member_and_nothing_more_is_remembered_for_them() {
    let (mut room, members) = Room::stable(1);
    for _ in 0..100 {
        room.pass(3);
        assert_eq!(room.heartbeat(&members[0], 1), ErrorCode::None);
    }
    assert_eq!(room.state(), "Stable");
}

/// A static member that was away joins a stable group again, asks for what it has, and only then sends heartbeats.
#[test]
fn who_joins_or_asks_for_its_assignment_lives() {
    let (mut room, members) = Room::stable(2);
    let pass = |room: &mut Room| {
        for _ in 0..2 {
            room.pass(3);
            assert_eq!(room.heartbeat(&members[0], 1), ErrorCode::None);
        }
    };
    pass(&mut room);
    let joining = room.send_join(NEWEST, join_request(&members[1], &["range"]));
    assert_eq!(room.joined(joining).generation_id, 1);
    pass(&mut room);
    let syncing = room.send_sync(sync_request(&members[1], 1));
    assert_eq!(room.synced(syncing).error_code, 0);
    pass(&mut room);
    assert_eq!(room.heartbeat(&members[1], 1), ErrorCode::None);
}

#[test]
fn member_that_waits_for_the_others_needs_no_heartbeats() {
    let (mut room, members) = Room::stable(2);
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    for _ in 0..11 {
        room.pass(5);
        room.heartbeat(&members[1], 1);
    }
    assert!(room.is_waiting(first));
    let second = room.send_join(NEWEST, join_request(&members[1], &["range"]));
    room.settle(&[(members[0].clone(), first), (members[1].clone(), second)]);
    room.pass(10);
    assert_eq!(room.state(), "Empty", "and then it does");
}

#[test]
fn new_member_that_waits_is_given_five_minutes() {
    let (mut room, members) = Room::stable(1);
    // The others may take an hour, and the first one lives.
    let slow = join_request(&members[0], &["range"]).with_rebalance_timeout_ms(3_600_000);
    let joining = room.send_join(NEWEST, slow);
    room.settle(&[(members[0].clone(), joining)]);
    let (second, waiting) = room.start_join(&["range"]);
    for _ in 0..59 {
        room.pass(5);
        room.heartbeat(&members[0], 2);
    }
    assert!(room.is_waiting(waiting));
    room.pass(5);
    assert_eq!(error(room.joined(waiting).error_code), ErrorCode::UnknownMemberId);
    assert!(!room.coordinator.groups()[GROUP].members.contains_key(&second));
}

#[test]
fn member_that_leaves_is_not_waited_for() {
    let (mut room, members) = Room::stable(3);
    assert_eq!(room.leave(&[(&members[1], None)]), [ErrorCode::None]);
    assert_eq!(room.state(), "PreparingRebalance");
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    assert_eq!(room.leave(&[(&members[2], None)]), [ErrorCode::None]);
    room.settle(&[(members[0].clone(), first)]);
    assert_eq!(room.leave(&[(&members[0], None)]), [ErrorCode::None]);
    assert_eq!(room.state(), "Empty");
}

#[test]
fn who_leaves_while_it_joins_is_told_so() {
    let mut room = Room::new();
    let (member, joining) = room.start_join(&["range"]);
    assert_eq!(room.leave(&[(&member, None)]), [ErrorCode::None]);
    assert_eq!(error(room.joined(joining).error_code), ErrorCode::UnknownMemberId);
    room.pass(3);
    assert_eq!(room.state(), "Empty");
}

#[test]
fn id_that_was_given_out_can_be_given_back() {
    let mut room = Room::new();
    let asked = room.send_join(NEWEST, join_request("", &["range"]));
    let id = room.joined(asked).member_id.to_string();
    assert_eq!(room.leave(&[(&id, None)]), [ErrorCode::None]);
    assert_eq!(room.leave(&[(&id, None)]), [ErrorCode::UnknownMemberId]);
    assert_eq!((room.coordinator.next_deadline(), room.state()), (None, "none"));
}

#[test]
fn several_may_leave_at_once() {
    let (mut room, members) = Room::stable(3);
    let left = room.leave(&[(&members[0], None), ("nobody", None), (&members[1], None), ("", None)]);
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(left, [ErrorCode::None, unknown, ErrorCode::None, unknown]);
    assert_eq!(room.coordinator.groups()[GROUP].members.len(), 1);
}

#[test]
fn heartbeats_are_of_this_generation_and_of_members() {
    let (mut room, members) = Room::stable(1);
    assert_eq!(room.heartbeat(&members[0], 2), ErrorCode::IllegalGeneration);
    assert_eq!(room.heartbeat("nobody", 1), ErrorCode::UnknownMemberId);
    let elsewhere = HeartbeatRequest::default().with_group_id(GroupId(text("other")));
    let error = room.decide(|coordinator, now, effects| coordinator.heartbeat(&elsewhere, now, effects));
    assert_eq!(error, ErrorCode::UnknownMemberId);
    let nameless = HeartbeatRequest::default();
    let error = room.decide(|coordinator, now, effects| coordinator.heartbeat(&nameless, now, effects));
    assert_eq!(error, ErrorCode::InvalidGroupId);
}

#[test]
fn followers_wait_for_what_the_leader_hands_out() {
    let mut room = Room::new();
    let started = [room.start_join(&["range"]), room.start_join(&["range"])];
    room.pass(6);
    room.settle(&started);
}

#[test]
fn assignments_leave_once_they_are_kept() {
    let mut room = Room::new();
    let (member, joining) = room.start_join(&["range"]);
    room.pass(3);
    room.joined(joining);
    room.holds_writes = true;
    let syncing = room.send_sync(sync_request(&member, 1));
    assert!(room.is_waiting(syncing));
    assert_eq!(room.state(), "CompletingRebalance");
    let again = room.send_sync(sync_request(&member, 1));
    assert_eq!(error(room.synced(syncing).error_code), ErrorCode::RebalanceInProgress);
    assert_eq!(room.writes.len(), 1, "the same generation is written once");
    room.end_write(Ok(()));
    assert_eq!(room.synced(again).error_code, 0);
    assert_eq!(room.state(), "Stable");
}

#[test]
fn assignments_that_cannot_be_kept_are_not_handed_out() {
    let mut room = Room::new();
    let (member, joining) = room.start_join(&["range"]);
    room.pass(3);
    room.joined(joining);
    room.holds_writes = true;
    let syncing = room.send_sync(sync_request(&member, 1));
    room.end_write(Err(ErrorCode::KafkaStorageError));
    assert_eq!(error(room.synced(syncing).error_code), ErrorCode::NotCoordinator);
    assert_eq!(room.state(), "PreparingRebalance");
    assert!(room.log.is_empty());
    let joining = room.send_join(NEWEST, join_request(&member, &["range"]));
    assert_eq!(room.joined(joining).generation_id, 2);
}

#[test]
fn assignments_of_a_rebalance_that_is_over_change_nothing() {
    let mut room = Room::new();
    let (first, joining) = room.start_join(&["range"]);
    room.pass(3);
    room.joined(joining);
    room.holds_writes = true;
    let syncing = room.send_sync(sync_request(&first, 1));
    let (_, second) = room.start_join(&["range"]);
    assert_eq!(error(room.synced(syncing).error_code), ErrorCode::RebalanceInProgress);
    room.end_write(Ok(()));
    assert_eq!(room.state(), "PreparingRebalance");
    assert!(room.is_waiting(second));
}

#[test]
fn who_does_not_ask_for_its_assignment_in_time_is_gone() {
    let (mut room, members) = Room::stable(2);
    let second = room.send_join(NEWEST, join_request(&members[1], &["sticky", "range"]));
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    room.joined(first);
    room.joined(second);
    let leading = room.send_sync(sync_request(&members[0], 2));
    assert_eq!(room.synced(leading).error_code, 0);
    for _ in 0..12 {
        room.pass(5);
        room.heartbeat(&members[0], 2);
        room.heartbeat(&members[1], 2);
    }
    assert_eq!(room.state(), "PreparingRebalance");
    assert_eq!(room.heartbeat(&members[1], 2), ErrorCode::UnknownMemberId);
}

#[test]
fn syncs_are_checked() {
    let (mut room, members) = Room::stable(1);
    let refused = |room: &mut Room, request| {
        let syncing = room.send_sync(request);
        error(room.synced(syncing).error_code)
    };
    let request = || sync_request(&members[0], 1);
    assert_eq!(refused(&mut room, request().with_generation_id(0)), ErrorCode::IllegalGeneration);
    assert_eq!(refused(&mut room, sync_request("nobody", 1)), ErrorCode::UnknownMemberId);
    let other = request().with_protocol_name(Some(text("sticky")));
    assert_eq!(refused(&mut room, other), ErrorCode::InconsistentGroupProtocol);
    let other = request().with_protocol_type(Some(text("connect")));
    assert_eq!(refused(&mut room, other), ErrorCode::InconsistentGroupProtocol);
    let unknown = request().with_group_instance_id(Some(text("i")));
    assert_eq!(refused(&mut room, unknown), ErrorCode::UnknownMemberId);
    assert_eq!(refused(&mut room, request().with_group_id(GroupId(text("")))), ErrorCode::InvalidGroupId);
    assert_eq!(refused(&mut room, request().with_group_id(GroupId(text("x")))), ErrorCode::UnknownMemberId);
    let old = request().with_protocol_name(None).with_protocol_type(None);
    assert_eq!(refused(&mut room, old), ErrorCode::None);
    room.start_join(&["range"]);
    assert_eq!(refused(&mut room, request()), ErrorCode::RebalanceInProgress);
}

#[test]
fn all_that_wait_look_elsewhere_when_the_coordinator_moves() {
    let (mut room, members) = Room::stable(2);
    let (_, third) = room.start_join(&["range"]);
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    room.decide(|coordinator, now, effects| coordinator.resign(now, effects));
    for waiting in [first, third] {
        assert_eq!(error(room.joined(waiting).error_code), ErrorCode::NotCoordinator);
    }
    // A rebalance that goes on without those that were sent away would end with nobody.
    assert_eq!(room.coordinator.next_deadline(), None);
    room.now.mono = room.now.mono.after(Duration::from_secs(3600));
    room.decide(|coordinator, now, effects| coordinator.expire(now, effects));
    room.expire_offsets();
    let [.., GroupRecord::Group { value: Some(value), .. }] = &room.log[..] else { panic!() };
    assert_eq!((value.generation, value.members.len()), (1, 2));
}
