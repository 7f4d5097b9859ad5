use super::*;
use crate::codec::wire::STRING_SIZE_MAX;
use crate::types::limits::{GROUP_ID_SIZE_MAX, GROUP_INSTANCE_ID_SIZE_MAX, GROUP_MEMBER_NAME_SIZE_MAX};

#[test]
fn first_member_waits_for_others_then_leads() {
    let mut room = Room::new();
    let (first, waiting) = room.start_join(&["range"]);
    room.pass_ms(2_999);
    assert!(room.is_waiting(waiting));
    room.pass_ms(1);
    let joined = room.joined(waiting);
    assert_eq!(joined.generation_id, 1);
    assert_eq!(joined.leader, joined.member_id);
    assert_eq!(&*joined.member_id, first);
    assert_eq!(joined.protocol_name.as_deref(), Some("range"));
    assert_eq!(joined.protocol_type.as_deref(), Some("consumer"));
    assert!(first.starts_with("client-"));
    let [member] = &joined.members[..] else { panic!("{:?}", joined.members) };
    assert_eq!(member.metadata, SUBSCRIPTION);
}

#[test]
fn members_that_start_together_share_a_rebalance() {
    let mut room = Room::new();
    let first = room.start_join(&["range"]);
    room.pass(2);
    let second = room.start_join(&["range"]);
    room.pass(1);
    assert!(room.is_waiting(first.1), "another one came: it is waited once more");
    room.pass(3);
    let (first, second) = (room.joined(first.1), room.joined(second.1));
    assert_eq!((first.generation_id, second.generation_id), (1, 1));
    assert_eq!((first.members.len(), second.members.len()), (2, 0), "the leader alone is told");
    assert_eq!(second.leader, first.member_id);
}

#[test]
fn first_rebalance_ends_with_the_rebalance_time_out_at_last() {
    let mut room = Room::new();
    let request = |member: &str| join_request(member, &["range"]).with_rebalance_timeout_ms(5_000);
    let first = room.send_join(OLD, request(""));
    for _ in 0..2 {
        room.pass_ms(2_500);
        room.send_join(OLD, request(""));
    }
    room.pass_ms(1_000);
    assert_eq!(room.joined(first).generation_id, 1);
}

#[test]
fn new_member_starts_a_rebalance_that_all_others_join() {
    let (mut room, members) = Room::stable(1);
    let second = room.start_join(&["range"]);
    assert_eq!(room.state(), "PreparingRebalance");
    assert_eq!(room.heartbeat(&members[0], 1), ErrorCode::RebalanceInProgress);
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    room.settle(&[(members[0].clone(), first), second]);
    assert_eq!(room.generation(), 2);
}

#[test]
fn members_that_do_not_join_in_time_are_left_out() {
    let (mut room, members) = Room::stable(3);
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    assert!(room.is_waiting(first), "the leader asks for a rebalance");
    for _ in 0..12 {
        room.pass(5);
        room.heartbeat(&members[1], 1);
        room.heartbeat(&members[2], 1);
    }
    let joined = room.joined(first);
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
    assert_eq!(room.heartbeat(&members[1], 1), ErrorCode::UnknownMemberId);
}

#[test]
fn another_leads_if_the_leader_does_not_join() {
    let (mut room, members) = Room::stable(2);
    let (third, waiting) = room.start_join(&["range"]);
    let second = room.send_join(NEWEST, join_request(&members[1], &["range"]));
    for _ in 0..12 {
        room.pass(5);
        room.heartbeat(&members[0], 1);
    }
    let (second, third_joined) = (room.joined(second), room.joined(waiting));
    assert_eq!(second.leader, third_joined.leader);
    assert!([members[1].as_str(), third.as_str()].contains(&&*second.leader));
}

#[test]
fn follower_with_nothing_new_is_answered_at_once() {
    let (mut room, members) = Room::stable(2);
    let joining = room.send_join(NEWEST, join_request(&members[1], &["range"]));
    let joined = room.joined(joining);
    assert_eq!((joined.generation_id, joined.error_code), (1, 0));
    assert_eq!(room.state(), "Stable");
    let asking = room.send_sync(sync_request(&members[1], 1));
    assert_eq!(room.synced(asking).assignment, members[1].as_bytes());
}

#[test]
fn changed_member_starts_a_rebalance() {
    let (mut room, members) = Room::stable(2);
    let joining = room.send_join(NEWEST, join_request(&members[1], &["range", "sticky"]));
    assert!(room.is_waiting(joining));
    assert_eq!(room.state(), "PreparingRebalance");
}

#[test]
fn lost_answer_to_a_join_is_given_again() {
    let mut room = Room::new();
    let (member, joining) = room.start_join(&["range"]);
    room.pass(3);
    let first = room.joined(joining);
    let again = room.send_join(NEWEST, join_request(&member, &["range"]));
    assert_eq!(room.joined(again), first);
}

#[test]
fn repeated_join_takes_the_place_of_the_first() {
    let mut room = Room::new();
    let (member, first) = room.start_join(&["range"]);
    let second = room.send_join(NEWEST, join_request(&member, &["range"]));
    assert_eq!(error(room.joined(first).error_code), ErrorCode::RebalanceInProgress);
    room.pass(3);
    assert_eq!(room.joined(second).generation_id, 1);
}

#[test]
fn old_clients_are_members_at_once() {
    let mut room = Room::new();
    let joining = room.send_join(OLD, join_request("", &["range"]));
    assert!(room.is_waiting(joining));
    room.pass(3);
    assert_eq!(room.joined(joining).error_code, 0);
}

#[test]
fn first_version_has_one_time_out_for_all() {
    let mut room = Room::new();
    let request = join_request("", &["range"]).with_rebalance_timeout_ms(-1);
    room.send_join(0, request);
    let member = room.coordinator.groups()[GROUP].members.values().next().unwrap();
    assert_eq!(member.rebalance_timeout_ms, SESSION_MS);
}

#[test]
fn id_that_nobody_comes_back_with_is_forgotten() {
    let mut room = Room::new();
    let asked = room.send_join(NEWEST, join_request("", &["range"]));
    let id = room.joined(asked).member_id.to_string();
    room.pass(10);
    assert_eq!(room.coordinator.next_deadline(), None);
    let late = room.send_join(NEWEST, join_request(&id, &["range"]));
    assert_eq!(error(room.joined(late).error_code), ErrorCode::UnknownMemberId);
    assert_eq!(room.state(), "none", "and so is its group");
}

#[test]
fn rebalance_waits_for_ids_that_were_given_out() {
    let (mut room, members) = Room::stable(1);
    let second = room.start_join(&["range"]);
    let asked = room.send_join(NEWEST, join_request("", &["range"]));
    let third = room.joined(asked).member_id.to_string();
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    assert!(room.is_waiting(first), "one is still to come");
    let third_joining = room.send_join(NEWEST, join_request(&third, &["range"]));
    room.settle(&[(members[0].clone(), first), second, (third, third_joining)]);
}

#[test]
fn rebalance_goes_on_without_an_id_that_is_not_used() {
    let (mut room, members) = Room::stable(1);
    let second = room.start_join(&["range"]);
    let asked = room.send_join(NEWEST, join_request("", &["range"]));
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    assert!(room.is_waiting(first));
    room.joined(asked);
    room.pass(10);
    room.settle(&[(members[0].clone(), first), second]);
}

#[test]
fn protocols_must_have_one_in_common() {
    let (mut room, _) = Room::stable(1);
    for (protocol_type, protocols) in
        [("consumer", &["sticky"][..]), ("connect", &["range"]), ("consumer", &[])]
    {
        let request = join_request("", protocols).with_protocol_type(text(protocol_type));
        let joining = room.send_join(NEWEST, request);
        assert_eq!(error(room.joined(joining).error_code), ErrorCode::InconsistentGroupProtocol);
    }
    assert_eq!(room.state(), "Stable");
    let mut room = Room::new();
    for request in [join_request("", &[]), join_request("", &["range"]).with_protocol_type(text(""))] {
        let joining = room.send_join(NEWEST, request);
        assert_eq!(error(room.joined(joining).error_code), ErrorCode::InconsistentGroupProtocol);
        assert_eq!(room.state(), "none", "nothing is left of it");
    }
}

#[test]
fn most_liked_of_the_common_protocols_is_chosen() {
    let mut room = Room::new();
    let likes: [&[&str]; 3] = [&["a", "b", "c"], &["c", "b"], &["d", "c", "b"]];
    let started: Vec<_> = likes.iter().map(|protocols| room.start_join(protocols)).collect();
    room.pass(10);
    for (_, ticket) in started {
        assert_eq!(room.joined(ticket).protocol_name.as_deref(), Some("c"), "two like it best");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut room = Room::new();
    let refused = |room: &mut Room, request| {
        let joining = room.send_join(NEWEST, request);
        error(room.joined(joining).error_code)
    };
    let request = || join_request("", &["range"]);
    let no_group = request().with_group_id(GroupId(text("")));
    assert_eq!(refused(&mut room, no_group), ErrorCode::InvalidGroupId);
    for timeout in [-1, 5_999, 1_800_001] {
        let request = request().with_session_timeout_ms(timeout);
        assert_eq!(refused(&mut room, request), ErrorCode::InvalidSessionTimeout);
    }
    let unknown = join_request("nobody", &["range"]);
    assert_eq!(refused(&mut room, unknown), ErrorCode::UnknownMemberId);
    let names: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(refused(&mut room, join_request("", &names)), ErrorCode::InvalidRequest);
    assert_eq!(room.state(), "none");
}

#[test]
fn full_group_takes_no_more() {
    let (mut room, members) = Room::stable(2);
    room.settings.size_max = 2;
    room.restart();
    let refused = room.send_join(NEWEST, join_request("", &["range"]));
    assert_eq!(error(room.joined(refused).error_code), ErrorCode::GroupMaxSizeReached);
    assert_eq!(room.state(), "Stable", "the others are not disturbed");
    assert_eq!(room.heartbeat(&members[0], 1), ErrorCode::None);
}

#[test]
fn group_that_became_too_large_loses_the_last_to_join() {
    let (mut room, members) = Room::stable(3);
    room.settings.size_max = 2;
    room.restart();
    assert_eq!(room.state(), "PreparingRebalance");
    let first = room.send_join(NEWEST, join_request(&members[0], &["range"]));
    let second = room.send_join(NEWEST, join_request(&members[1], &["range"]));
    let third = room.send_join(NEWEST, join_request(&members[2], &["range"]));
    assert_eq!(error(room.joined(third).error_code), ErrorCode::GroupMaxSizeReached);
    room.settle(&[(members[0].clone(), first), (members[1].clone(), second)]);
}

#[test]
fn groups_of_one_three_and_twenty_settle_after_every_change() {
    /// One comes, and the others join again.
    fn share(room: &mut Room, members: Vec<String>) -> Vec<String> {
        let before = room.generation();
        let mut started = vec![room.start_join(&["range"])];
        for member in members {
            let joining = room.send_join(NEWEST, join_request(&member, &["range"]));
            started.push((member, joining));
        }
        room.pass(3); // Without others, the first of an empty group waits for more.
        room.settle(&started);
        assert!(room.generation() > before);
        started.into_iter().map(|(member, _)| member).collect()
    }
    for count in [1, 3, 20] {
        let (mut room, mut members) = Room::stable(count);
        for _ in 0..3 {
            room.leave(&[(&members.remove(0), None)]);
            members = share(&mut room, members);
            let silent = members.pop().expect("there is one");
            let generation = room.generation();
            for _ in 0..4 {
                room.pass(3);
                for member in &members {
                    room.heartbeat(member, generation);
                }
            }
            assert_eq!(room.heartbeat(&silent, generation), ErrorCode::UnknownMemberId);
            members = share(&mut room, members);
            assert_eq!(members.len(), count);
        }
    }
}

/// Joins as a client of that name, which is given an id.
fn join_as(room: &mut Room, client_id: &str, version: i16, request: JoinGroupRequest) -> Ticket {
    let ticket = room.ticket();
    let (client_id, client_host) = (client_id.to_owned(), "/127.0.0.1".to_owned());
    let caller = Caller { client_id, client_host, version };
    let fresh = "6fd2b9a4-7a2f-4c56-9d4c-0a8f5f1f9d11";
    room.decide(|coordinator, now, effects| coordinator.join(&caller, &request, fresh, ticket, now, effects));
    ticket
}

#[test]
fn ids_of_members_fit_their_record_whatever_the_client_is_called() {
    let mut room = Room::new();
    for client_id in ["c".repeat(STRING_SIZE_MAX), "ä".repeat(STRING_SIZE_MAX / 2)] {
        let waiting = join_as(&mut room, &client_id, OLD, join_request("", &["range"]));
        room.pass(6);
        let joined = room.joined(waiting);
        assert!(joined.member_id.len() <= GROUP_MEMBER_NAME_SIZE_MAX + 40, "{}", joined.member_id.len());
        room.settle_one(&joined);
        room.replayed(); // Each record was written and read.
        room.leave(&[(&joined.member_id, None)]);
    }
    let large = join_as(&mut room, &"c".repeat(STRING_SIZE_MAX + 1), OLD, join_request("", &["range"]));
    assert_eq!(error(room.joined(large).error_code), ErrorCode::InvalidRequest);
}

#[test]
fn ids_that_clients_may_not_have_are_refused() {
    let mut room = Room::new();
    let instance_id = "i".repeat(GROUP_INSTANCE_ID_SIZE_MAX + 1);
    let waiting = room.send_join(NEWEST, static_request(&instance_id, ""));
    assert_eq!(error(room.joined(waiting).error_code), ErrorCode::InvalidRequest);
    for group in ["", &"g".repeat(GROUP_ID_SIZE_MAX + 1)] {
        let request = join_request("", &["range"]).with_group_id(GroupId(text(group)));
        let waiting = room.send_join(NEWEST, request);
        assert_eq!(error(room.joined(waiting).error_code), ErrorCode::InvalidGroupId);
    }
    let request = commit_request("", -1, "read", 5, "");
    let request = request.with_group_id(GroupId(text(&"g".repeat(GROUP_ID_SIZE_MAX + 1))));
    let committing = room.send_commit(8, request);
    let refused = room.committed(committing).topics[0].partitions[0].error_code;
    assert_eq!(error(refused), ErrorCode::InvalidGroupId);
    let protocol_type = text(&"p".repeat(STRING_SIZE_MAX + 1));
    let request = join_request("", &["range"]).with_protocol_type(protocol_type);
    let waiting = room.send_join(NEWEST, request);
    assert_eq!(error(room.joined(waiting).error_code), ErrorCode::InvalidRequest);
    let longest = "i".repeat(GROUP_INSTANCE_ID_SIZE_MAX);
    let waiting = room.send_join(NEWEST, static_request(&longest, ""));
    room.pass(6);
    assert!(room.joined(waiting).member_id.starts_with(&format!("{longest}-")));
}

#[test]
fn generation_that_does_not_fit_the_log_is_refused_as_in_kafka() {
    let mut room = Room::new();
    let (id, waiting) = room.start_join(&["range"]);
    room.pass(6);
    room.joined(waiting);
    room.holds_writes = true;
    let syncing = room.send_sync(sync_request(&id, 1));
    room.end_write(Err(ErrorCode::MessageTooLarge));
    assert_eq!(error(room.synced(syncing).error_code), ErrorCode::UnknownServerError);
    assert_eq!(room.state(), "PreparingRebalance");
}

#[test]
fn groups_of_a_coordinator_take_no_more_than_they_may() {
    let mut room = Room::new();
    room.commit("", -1, "read", 1);
    let large = || {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
        let protocol = protocol.with_metadata(Bytes::from(vec![0; (1 << 20) - 1000]));
        join_request("", &[]).with_protocols(vec![protocol]).with_group_id(GroupId(text("large")))
    };
    let mut members = 0;
    let refused = loop {
        let waiting = room.send_join(OLD, large());
        if !room.is_waiting(waiting) {
            break room.joined(waiting);
        }
        members += 1;
    };
    assert_eq!(error(refused.error_code), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(members, 128);
    // Others come in as long as they say little, and what is there goes on.
    room.pass(6);
    assert_eq!(room.commit("", -1, "read", 2), ErrorCode::None);
    let known = room.coordinator.groups()["large"].members.keys().next().cloned().expect("is there");
    let joining = room.send_join(OLD, large().with_member_id(text(&known)));
    assert!(room.is_waiting(joining) || room.joined(joining).error_code == 0);
    // As much metadata as there may be: some of it finds room, not all.
    let metadata = "m".repeat(10);
    let refused = (0..100_000).find_map(|number| {
        let committing = room.send_commit(8, commit_request("", -1, &format!("{number}"), 5, &metadata));
        let code = error(room.committed(committing).topics[0].partitions[0].error_code);
        (code != ErrorCode::None).then_some(code)
    });
    assert_eq!(refused, Some(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(room.commit("", -1, "read", 3), ErrorCode::None, "it is there already");
}
